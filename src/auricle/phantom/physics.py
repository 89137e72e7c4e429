"""What the scanner adds: blur of a beating heart, point spread, correlated noise."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from auricle.phantom.shapes import Box, Field, Grid, Vector

WATER_PER_MM = 0.0195
"""Attenuation of water at about 70 keV."""
NATIVE_VOXEL_MM3 = 0.5 * 0.5 * 0.75
"""Voxel in which the drawn noise is meant."""
COARSENING = 0.2
"""Exponent of the noise over the voxel volume: white noise averages with 0.5, CT noise is correlated over several native
voxels and resampling seldom averages fully. 24 HU become 13 HU at 1.5 mm and 10 HU at 2.5 mm."""
SLICE_MM = 1.0
"""Full width of the correlation along z."""
HU_RANGE = (-1024, 3071)


def noise_sd(native_sd: float, spacing: tuple[float, float, float]) -> float:
    """Noise in HU at `spacing` for `native_sd` in a native voxel: native_sd (native / voxel volume)^0.2, at most native_sd."""
    return float(native_sd * min(1.0, float(NATIVE_VOXEL_MM3 / np.prod(spacing)) ** COARSENING))


def correlated_noise(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], rng: np.random.Generator, peak_per_mm: float
) -> Field:
    """Noise of unit standard deviation; its in-plane power spectrum f exp(-(f / peak)^2 / 2) has its maximum at `peak_per_mm`.

    Axes are z, y, x; along z the correlation is Gaussian with `SLICE_MM` full width.
    """
    size = [fft.next_fast_len(n, real=True) for n in shape]
    spectrum = fft.rfftn(rng.standard_normal(size, dtype=np.float32))
    fz, fy, fx = fft.fftfreq(size[0], spacing[0]), fft.fftfreq(size[1], spacing[1]), fft.rfftfreq(size[2], spacing[2])
    f = np.hypot(fy[:, None], fx[None])
    power = (f + 0.01) * np.exp(-0.5 * (f / peak_per_mm) ** 2)
    along = np.exp(-2 * (np.pi * fz * SLICE_MM / 2.355) ** 2)
    spectrum *= np.sqrt(power).astype(np.float32)
    spectrum *= along.astype(np.float32)[:, None, None]
    noise = fft.irfftn(spectrum, size)[tuple(slice(n) for n in shape)]
    return np.asarray(noise / noise.std())


def noise_map(image: Field, spacing: tuple[float, float, float]) -> Field:
    """Relative noise: square root of the transmitted quanta's reciprocal along the two in-plane directions, mean one."""
    step = max(1, round(8 / spacing[1]))
    mu = (image[:, ::step, ::step] / 1000 + 1).clip(0, 2) * WATER_PER_MM
    lateral = mu.sum(2, keepdims=True) * spacing[2] * step
    frontal = mu.sum(1, keepdims=True) * spacing[1] * step
    coarse = sum(0.5 * np.exp(0.275 * (p - p.mean())) for p in (lateral, frontal)).clip(0.4, 2.5)
    zoom = [n / m for n, m in zip(image.shape, coarse.shape, strict=True)]
    out: Field = ndimage.zoom(coarse / coarse.mean(), zoom, order=1, output=np.float32)
    return out


def beat(image: Field, grid: Grid, box: Box, surface: Field, axis: Vector, amplitude_mm: float) -> None:
    """Blur the heart as it moves along its long axis: the mean of three shifted copies, in place inside `box`.

    `surface` is the distance from the heart in `box`; the motion fades over 8 mm outside it.
    """
    if amplitude_mm <= 0 or surface.size == 0:
        return
    weight = np.exp(-surface.clip(0, 60) / 8)
    shift = [amplitude_mm * float(a) / s for a, s in zip(axis[::-1], grid.spacing, strict=True)]
    index = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in surface.shape), indexing="ij")
    still = image[box]
    total = still.copy()
    for k in (-0.5, 0.5):
        at = [i + weight * (k * s) for i, s in zip(index, shift, strict=True)]
        total += ndimage.map_coordinates(still, at, order=1, mode="nearest")
    image[box] = total / 3


def point_spread(image: Field, spacing: tuple[float, float, float]) -> Field:
    """Blur by the scanner's point spread, which matters in fine voxels."""
    out: Field = ndimage.gaussian_filter(image, [0.2 + 0.55 * min(0.9 / s, 1.0) for s in spacing], truncate=3)
    return out


def to_hu(image: Field) -> NDArray[np.int16]:
    """Round and clip to the scanner's number range."""
    return np.clip(np.rint(image), *HU_RANGE).astype(np.int16)
