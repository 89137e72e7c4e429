"""What the scanner adds: point spread and correlated noise; and the coarse grids on which slow fields are computed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from auricle.phantom.shapes import Field

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

NATIVE_VOXEL_MM3 = 0.5 * 0.5 * 0.75
"""Voxel in which the drawn noise is meant."""
COARSENING = 0.2
"""Exponent of the noise over the voxel volume: white noise averages with 0.5, CT noise is correlated over several native
voxels and resampling seldom averages fully. 24 HU become 13 HU at 1.5 mm and 10 HU at 2.5 mm."""
RESAMPLING_SD = 0.25
"""Standard deviation in voxels of the blur that resampling to the written grid leaves, an assumption."""
FWHM = 2.3548
"""Full width at half maximum of a Gaussian of standard deviation one."""
HU_RANGE = (-1024, 3071)
"""What a scanner writes inside its reconstruction circle."""
CHUNK = 8
"""Slices that one thread works on at a time: fixed, so that the number of threads changes nothing."""


def over_chunks(work: Callable[[int, int], None], count: int, step: int, workers: int) -> None:
    """Call `work(start, stop)` for all chunks of `step` among `count`, in up to `workers` threads."""
    chunks = [(start, min(start + step, count)) for start in range(0, count, step)]
    if workers > 1 and len(chunks) > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, *zip(*chunks, strict=True)))
    else:
        for start, stop in chunks:
            work(start, stop)


@lru_cache(maxsize=16)
def _area(n: int, m: int) -> Field:
    """Averages of n cells over m cells of the same extent: (m, n), rows sum to one."""
    fine, coarse = np.arange(n + 1) / n, np.arange(m + 1) / m
    low, high = np.maximum(coarse[:-1, None], fine[None, :-1]), np.minimum(coarse[1:, None], fine[None, 1:])
    return np.asarray((high - low).clip(0) * m, np.float32)


def hats(at: NDArray[np.floating], knots: int) -> Field:
    """Weights (len(at), knots) of linear interpolation at `at` in units of the knots' distance; zero outside them."""
    return np.asarray((1 - np.abs(at[:, None] - np.arange(knots))).clip(0), np.float32)


@lru_cache(maxsize=16)
def _linear(n: int, m: int) -> Field:
    """Linear interpolation from m cells to n cells of the same extent: (n, m)."""
    return hats(((np.arange(n) + 0.5) * m / n - 0.5).clip(0, m - 1), m)


def shrink(volume: Field, shape: Size, workers: int = 1) -> Field:
    """Averages of `volume` [z, y, x] over `shape` cells of the same extent."""
    z, y, x = (_area(n, m) for n, m in zip(volume.shape, shape, strict=True))
    plane = np.empty((len(volume), *shape[1:]), np.float32)

    def work(start: int, stop: int) -> None:
        plane[start:stop] = y @ (volume[start:stop] @ x.T)

    over_chunks(work, len(volume), CHUNK, workers)
    return (z @ plane.reshape(len(volume), -1)).reshape(shape)


@dataclass(frozen=True)
class Resampled:
    """A smooth volume on a coarse grid, to be read slice by slice on a fine grid of the same extent."""

    coarse: Field
    shape: Size
    """Fine shape [z, y, x]."""

    def part(self, start: int, stop: int) -> Field:
        """The fine slices start..stop-1, interpolated linearly."""
        z, y, x = (_linear(n, m) for n, m in zip(self.shape, self.coarse.shape, strict=True))
        few = (z[start:stop] @ self.coarse.reshape(len(self.coarse), -1)).reshape(stop - start, *self.coarse.shape[1:])
        return np.asarray(y @ (few @ x.T))


def noise_sd(native_sd: float, spacing: Triple) -> float:
    """Noise in HU at `spacing` for `native_sd` in a native voxel: native_sd (native / voxel volume)^0.2, at most native_sd."""
    return float(native_sd * min(1.0, float(NATIVE_VOXEL_MM3 / np.prod(spacing)) ** COARSENING))


def _taps(sd: float) -> Field:
    """Half of a Gaussian's weights, the middle first; all of them sum to one."""
    w = np.exp(-0.5 * (np.arange(int(np.ceil(2.6 * sd)) + 1) / sd) ** 2)
    return np.asarray(w / (w[0] + 2 * w[1:].sum()), np.float32)


def _filtered(padded: Field, taps: Field, axis: int) -> Field:
    """`padded` (len(taps) - 1 more on both ends of `axis`) under a symmetric filter."""
    r, n = len(taps) - 1, padded.shape[axis] - 2 * (len(taps) - 1)

    def shifted(by: int) -> Field:
        return padded[(slice(None),) * axis + (slice(r + by, r + by + n),)]

    out: Field = shifted(0) * taps[0]
    for j in range(1, r + 1):
        pair = shifted(-j) + shifted(j)
        pair *= taps[j]
        out += pair
    return out


def correlated_noise(
    shape: Size, spacing: Triple, rng: np.random.Generator, peak_per_mm: float, slice_mm: float, workers: int = 1
) -> Field:
    """Noise of unit standard deviation whose in-plane power spectrum f exp(-(f / peak)^2 / 2) peaks at `peak_per_mm`.

    Axes are z, y, x; along z white noise is averaged under a Gaussian of `slice_mm` full width. Every slice is synthesized
    from its spectrum, whose noise is drawn directly.
    """
    ny, nx = (fft.next_fast_len(n, real=True) for n in shape[1:])
    f = np.hypot(fft.fftfreq(ny, spacing[1])[:, None], fft.rfftfreq(nx, spacing[2])[None])
    amplitude = np.sqrt(f * np.exp(-0.5 * (f / peak_per_mm) ** 2))
    once = np.zeros(f.shape[1], bool)
    once[[0, *([-1] if nx % 2 == 0 else [])]] = True  # columns without a mirror image: the inverse takes their real part
    power = amplitude**2 * np.where(once, 1, 2)
    amplitude = (amplitude * np.where(once, 2**0.5, 1) * (ny * nx / np.sqrt(2 * power.sum() + 1e-30))).astype(np.float32)
    taps = _taps(max(slice_mm / FWHM / spacing[0], 1e-3))
    taps /= np.sqrt(taps[0] ** 2 + 2 * (taps[1:] ** 2).sum())
    halo = 2 * (len(taps) - 1)
    raw = np.empty((shape[0] + halo, *shape[1:]), np.float32)
    streams = rng.spawn(-(-len(raw) // CHUNK))

    def synthesize(start: int, stop: int) -> None:
        normal = streams[start // CHUNK].standard_normal((stop - start, *f.shape, 2), dtype=np.float32)
        spectrum = normal.view(np.complex64)[..., 0] * amplitude
        raw[start:stop] = fft.irfft2(spectrum, (ny, nx), overwrite_x=True)[:, : shape[1], : shape[2]]

    over_chunks(synthesize, len(raw), CHUNK, workers)
    if halo == 0:
        return raw
    noise = np.empty(shape, np.float32)

    def average(start: int, stop: int) -> None:
        noise[start:stop] = _filtered(raw[start : stop + halo], taps, 0)

    over_chunks(average, shape[0], CHUNK, workers)
    return noise


def point_spread(image: Field, start: int, stop: int, sd: Triple) -> Field:
    """The slices start..stop-1 of `image`, blurred by a Gaussian of `sd` voxels along z, y, x."""
    tz, ty, tx = (_taps(s) for s in sd)
    rz, ry, rx = len(tz) - 1, len(ty) - 1, len(tx) - 1
    inside = start >= rz and stop + rz <= len(image)
    block = image[start - rz : stop + rz] if inside else image[np.arange(start - rz, stop + rz).clip(0, len(image) - 1)]
    block = np.pad(_filtered(block, tz, 0), [(0, 0), (ry, ry), (rx, rx)], mode="edge")
    return _filtered(_filtered(block, ty, 1), tx, 2)


def spread_sd(width_mm: float, slice_mm: float, spacing: Triple) -> Triple:
    """Standard deviations in voxels (z, y, x) of a point spread of full widths `width_mm` in plane and `slice_mm` along z.

    The voxel's own width is left out: painting averages over it.
    """
    z, y, x = (float(np.hypot(w / FWHM / s, RESAMPLING_SD)) for w, s in zip((slice_mm, width_mm, width_mm), spacing, strict=True))
    return z, y, x


def to_hu(image: Field) -> NDArray[np.int16]:
    """Round and clip to the scanner's number range."""
    np.rint(image, out=image)
    np.clip(image, *HU_RANGE, out=image)
    return image.astype(np.int16)
