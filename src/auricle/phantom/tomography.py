"""Artifacts that arise in projections: beam hardening of dense tissue, metal streaks, and where the noise is strong.

Every artifact is the filtered back-projection of the *difference* that it makes to the measured line integrals, computed
in coarse pixels and added to the image, which itself is never projected and reconstructed.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, sparse

from auricle.phantom.physics import Resampled, Triple, over_chunks, shrink
from auricle.phantom.shapes import Field, Grid

WATER_PER_MM = 0.0195
"""Attenuation of water at about 70 keV."""
BODY_MM = 150.0
"""Water outside the field of view that every ray crosses, an assumption."""
COARSE_MM = 2.5
"""Pixels in which beam hardening and the noise map are computed; more where the view is wider than `COARSE_PIXELS` of them."""
COARSE_PIXELS = 96
SLICE_MM = 4.0
SHARP_PIXELS = 128
"""Metal streaks are computed with at most this many pixels along a side, in slices of at least `SHARP_MM`."""
SHARP_MM = 1.5
DENSE_HU = 450.0
"""What contrast agent and bone exceed this by hardens the beam more than a scanner's water correction expects: undiluted
agent in the superior vena cava, and cortical bone. An assumption; below it, HU are those that a scan shows anyway."""
HARDENING = (0.10, 0.70)
"""Share of the dense tissue's line integral that is lost per unit of water's and of its own line integral, an assumption."""
PULSATION = 0.18
"""Relative standard deviation of a dense tissue's line integral over one turn of the tube, as undiluted agent pulsates and
mixes: an assumption."""
TURNS_PER_MM = 0.02
"""How fast the pulsation's phase changes along z."""
MODULATION = 0.55
"""Exponent of the noise variance over the line integral: one without modulation of the tube current, an assumption."""
QUANTA = 6e4
"""Quanta per detector element and view without an object, an assumption."""
LEAST_QUANTA = 3.0
"""Electronic noise: a ray never counts fewer."""
CHUNK = 16
"""Slices that one thread works on at a time."""


class Projector:
    """Parallel-beam projection of an n x n slice with unit pixels, and its filtered back-projection."""

    def __init__(self, n: int) -> None:
        self.angles, self.bins = int(1.1 * n), int(np.ceil(1.4142 * n)) + 3
        c = np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)
        y, x = (v.reshape(-1, 1) for v in np.meshgrid(c, c, indexing="ij"))
        angle = (np.arange(self.angles) * np.pi / self.angles).astype(np.float32)
        s = x * np.cos(angle) + y * np.sin(angle) + np.float32((self.bins - 1) / 2)
        first = np.floor(s).astype(np.int32)
        s -= first
        first += np.arange(self.angles, dtype=np.int32) * self.bins
        ends = np.arange(n * n + 1, dtype=np.int32) * (2 * self.angles)
        weights, bins = np.stack([1 - s, s], -1).ravel(), np.stack([first, first + 1], -1).ravel()
        self.adjoint = sparse.csr_matrix((weights, bins, ends), shape=(n * n, self.angles * self.bins))
        self.forward = self.adjoint.T
        size = fft.next_fast_len(2 * self.bins, real=True)
        f = np.fft.rfftfreq(size)
        self._ramp = np.where(f <= 0.45, f * (1 + np.cos(np.pi * f / 0.45)), 0).astype(np.float32)[None, :, None]
        self._size = size

    def reconstruct(self, sinogram: Field) -> Field:
        """Pixel values (n * n, slices) from line integrals (angles * bins, slices), with a Hann-windowed ramp filter."""
        spectrum = fft.rfft(sinogram.reshape(self.angles, self.bins, -1), self._size, axis=1)
        spectrum *= self._ramp
        filtered = fft.irfft(spectrum, self._size, axis=1)[:, : self.bins]
        out: Field = self.adjoint @ filtered.reshape(sinogram.shape).astype(np.float32) * np.float32(np.pi / (2 * self.angles))
        return out


@lru_cache(maxsize=4)
def _projector(n: int) -> Projector:
    return Projector(n)


@dataclass(frozen=True)
class Slices:
    """Square pixels of one size, padded to a square, into which a volume [z, y, x] is shrunk."""

    shape: tuple[int, int, int]
    """Coarse shape before padding."""
    pixel_mm: float

    @staticmethod
    def of(shape: tuple[int, int, int], spacing: Triple, pixel_mm: float, slice_mm: float, most: int) -> "Slices":
        length = [n * s for n, s in zip(shape, spacing, strict=True)]
        pixel = max(pixel_mm, max(length[1:]) / most, min(spacing[1:]))
        z = max(1, round(length[0] / max(slice_mm, spacing[0])))
        return Slices((z, max(1, round(length[1] / pixel)), max(1, round(length[2] / pixel))), pixel)

    @property
    def side(self) -> int:
        return max(self.shape[1:])

    def square(self, coarse: Field) -> Field:
        """(pixels of the square, slices) of a coarse volume."""
        pad = [(0, 0), *((0, self.side - m) for m in self.shape[1:])]
        return np.ascontiguousarray(np.pad(coarse, pad).reshape(len(coarse), -1).T)

    def volume(self, square: Field) -> Field:
        """The inverse of `square`."""
        whole = square.T.reshape(-1, self.side, self.side)
        return np.ascontiguousarray(whole[:, : self.shape[1], : self.shape[2]])


def hardened(water: Field, dense: Field) -> Field:
    """What beam hardening adds to the line integrals (rays, slices) of water-equivalent and of dense tissue.

    Two materials after water correction, to second order (Joseph and Spital 1978): -dense (k1 water + k2 dense). Of both
    factors the mean over the dense rays of the slice is subtracted: that part only rescales the dense tissue's HU,
    which are drawn as they are seen in an image.
    """
    weight = dense.sum(0) + np.float32(1e-6)
    k1, k2 = HARDENING
    factor = k1 * water + k2 * dense
    factor -= (factor * dense).sum(0) / weight
    return np.asarray(-dense * factor, np.float32)


def pulsation(angles: int, heights: Field, rng: np.random.Generator) -> Field:
    """Relative changes (angles, slices) of dense tissue while the tube turns, at world `heights` in mm.

    Waves whose ends do not meet after half a turn, so that the first and the last view disagree.
    """
    waves = np.array([1.3, 2.7, 4.6, 7.3])
    phase = rng.random(len(waves)) + np.outer(heights, TURNS_PER_MM * waves)
    turn = np.arange(angles) / angles
    change = np.sin(2 * np.pi * (0.5 * waves * turn[:, None, None] + phase)).sum(-1)
    return np.asarray(PULSATION * (2 / len(waves)) ** 0.5 * (change - change.mean(0)), np.float32)


def beam(image: Field, grid: Grid, rng: np.random.Generator, workers: int) -> tuple[Resampled, Resampled]:
    """Streaks of dense tissue in a noise-free metal-free `image` [z, y, x] in HU, and the relative standard deviation of the noise.

    The noise in a voxel is that of the rays through it: its variance is the mean of exp(`MODULATION` * line integral).
    Both are given on a coarse grid over the same view.
    """
    slices = Slices.of(grid.shape, grid.spacing, COARSE_MM, SLICE_MM, COARSE_PIXELS)
    small = shrink(image, slices.shape, workers)
    projector, pixel = _projector(slices.side), np.float32(slices.pixel_mm)
    mu = np.float32(WATER_PER_MM / 1000)
    body = slices.square((small + 1000).clip(0, 1000 + DENSE_HU) * mu)
    excess = slices.square((small - DENSE_HU).clip(0) * mu)
    streaks, noise = np.empty_like(body), np.empty_like(body)
    heights = grid.z[0] + (np.arange(body.shape[1]) + 0.5) * (len(grid.z) * grid.spacing[0] / body.shape[1])
    change = pulsation(projector.angles, heights, rng)

    def work(start: int, stop: int) -> None:
        water = projector.forward @ np.ascontiguousarray(body[:, start:stop]) * pixel
        dense = projector.forward @ np.ascontiguousarray(excess[:, start:stop]) * pixel
        extra = hardened(water + np.float32(BODY_MM * WATER_PER_MM), dense)
        extra += dense * np.repeat(change[:, start:stop], projector.bins, 0)
        streaks[:, start:stop] = projector.reconstruct(extra) / (pixel * mu)
        variance = projector.adjoint @ np.exp(np.float32(MODULATION) * (water + dense - 4))
        noise[:, start:stop] = np.sqrt(variance / projector.angles)

    over_chunks(work, body.shape[1], CHUNK, workers)
    return Resampled(slices.volume(streaks), image.shape), Resampled(slices.volume(noise), image.shape)


def metal_line_integrals(body: Field, added: Field, rng: np.random.Generator) -> Field:
    """What metal that adds `added` to the line integrals of the `body` does beyond that: hardening and starved rays.

    A ray of which fewer than `LEAST_QUANTA` are left measures the ceiling ln(`QUANTA` / `LEAST_QUANTA`). The noise is what
    rays have more of than without the metal.
    """
    lost = -0.32 * added**2 / (1 + 0.5 * added)
    total = body + added + lost
    ceiling = np.float32(np.log(QUANTA / LEAST_QUANTA))
    variance = (np.exp(np.minimum(total, ceiling)) - np.exp(np.minimum(body, ceiling))).clip(0) / QUANTA
    noise = rng.standard_normal(body.shape, dtype=np.float32) * np.sqrt(variance)
    starved = np.minimum(ceiling - total, 0)
    return np.asarray(lost + np.where(added > 0.02, noise + starved, 0), np.float32)


def metal_streaks(
    image: Field, metal: Field, metal_per_mm: float, spacing: Triple, rng: np.random.Generator, workers: int
) -> tuple[Resampled, slice]:
    """The streaks in HU that `metal` [z, y, x] (relative attenuation, see `auricle.phantom.metal`) throws in a metal-free image.

    Returns them on a coarse grid over the slices from the lowest to the highest metal, and these slices.
    """
    there = np.flatnonzero(metal.max((1, 2)) > 0.01)
    touched = slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0)
    part = metal[touched]
    slices = Slices.of((max(len(part), 1), *metal.shape[1:]), spacing, SHARP_MM, SHARP_MM, SHARP_PIXELS)
    if len(part) == 0:
        return Resampled(np.zeros(slices.shape, np.float32), (0, *metal.shape[1:])), touched
    projector, pixel = _projector(slices.side), np.float32(slices.pixel_mm)
    mu = np.float32(WATER_PER_MM / 1000)
    body = slices.square((shrink(image[touched], slices.shape, workers) + 1000).clip(0) * mu)
    added = slices.square(shrink(part, slices.shape, workers) * np.float32(metal_per_mm))
    streaks = np.zeros_like(body)
    starts = range(0, body.shape[1], CHUNK)
    streams = dict(zip(starts, rng.spawn(len(starts)), strict=True))

    def work(start: int, stop: int) -> None:
        water = projector.forward @ np.ascontiguousarray(body[:, start:stop]) * pixel
        solid = projector.forward @ np.ascontiguousarray(added[:, start:stop]) * pixel
        extra = metal_line_integrals(water + np.float32(BODY_MM * WATER_PER_MM), solid, streams[start])
        streaks[:, start:stop] = projector.reconstruct(extra) / (pixel * mu)

    over_chunks(work, body.shape[1], CHUNK, workers)
    return Resampled(slices.volume(streaks), (len(part), *metal.shape[1:])), touched
