"""From the sharp, noise-free image of a patient to what a scanner would have written."""

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import ID
from auricle.phantom.anatomy import Anatomy
from auricle.phantom.metal import METAL_PER_MM
from auricle.phantom.motion import Mobility, beat
from auricle.phantom.physics import CHUNK, Resampled, correlated_noise, noise_sd, over_chunks, point_spread, spread_sd, to_hu
from auricle.phantom.scanner import Scanner, stream
from auricle.phantom.shapes import Field, Grid
from auricle.phantom.tomography import WATER_PER_MM, beam, metal_streaks

BLOOD = ("LV", "LA", "RV", "RA", "PA", "AO")
LEAST_ML = 2.0
"""Noise is normalized over the aorta, or over all blood, where at least this much of it is in view."""

Labels = NDArray[np.uint8]


def _noise(anatomy: Anatomy, grid: Grid, label: Labels, strength: Resampled, workers: int) -> Field:
    """Noise in HU, as strong in the aorta's voxels as drawn, elsewhere by its relative `strength`."""
    s = anatomy.patient.scanner
    noise = correlated_noise(
        grid.shape, grid.spacing, stream(anatomy.patient.seed, "noise"), s.nps_peak_per_mm, s.slice_mm, workers
    )
    wanted = np.zeros((2, 256), bool)
    wanted[0, ID["AO"]] = True
    wanted[1, [ID[k] for k in BLOOD]] = True
    sums = np.zeros((3, -(-len(label) // CHUNK), 3))  # count, sum and sum of squares: in the aorta, in blood, everywhere

    def work(start: int, stop: int) -> None:
        part = noise[start:stop]
        part *= strength.part(start, stop)
        for k, where in enumerate((*wanted, None)):
            values = part if where is None else part[where[label[start:stop]]]
            sums[k, start // CHUNK] = values.size, values.sum(dtype=np.float64), np.square(values).sum(dtype=np.float64)

    over_chunks(work, len(noise), CHUNK, workers)
    total = sums.sum(1)
    count, first, second = total[next(k for k in range(3) if k == 2 or total[k, 0] * grid.voxel_ml >= LEAST_ML)]
    sd = np.sqrt(max(second / count - (first / count) ** 2, 1e-30)) if count > 1 else 1.0
    noise *= np.float32(noise_sd(s.noise_sd_hu, grid.spacing) / sd)
    return noise


def _outside(s: Scanner, anatomy: Anatomy, grid: Grid) -> NDArray[np.bool_] | None:
    """Pixels [y, x] outside the circle that was reconstructed."""
    if s.reconstruction_mm is None:
        return None
    x, y = anatomy.center[:2]
    return np.asarray(np.hypot(grid.y[:, None] - y, grid.x[None] - x) > s.reconstruction_mm / 2)


def acquire(
    anatomy: Anatomy,
    grid: Grid,
    image: Field,
    label: Labels,
    metal: Field | None,
    mobility: Mobility | None,
    *,
    workers: int,
    noise: bool,
) -> NDArray[np.int16]:
    """Blur, beam hardening, metal, point spread, noise and the reconstruction circle; HU ``[z, y, x]``.

    `image` (HU, overwritten) and `label` (whose voxels outside the circle become background) are those that were painted,
    `metal` the relative attenuation of metal in each voxel. Only the scanner's noise is left out without `noise`.
    """
    s = anatomy.patient.scanner
    if mobility is not None and s.motion_mm > 0:
        beat(image, grid, anatomy, mobility, workers)
    hardening, strength = beam(image, grid, stream(anatomy.patient.seed, "beam"), workers)
    streaks, touched = None, slice(0, 0)
    if metal is not None:
        rng = stream(anatomy.patient.seed, "metal")
        streaks, touched = metal_streaks(image, metal, METAL_PER_MM, grid.spacing, rng, workers)
        metal *= np.float32(1000 * METAL_PER_MM / WATER_PER_MM)
        image += metal
    grain = _noise(anatomy, grid, label, strength, workers) if noise and s.noise_sd_hu > 0 else None
    sd = spread_sd(s.width_mm, s.slice_mm, grid.spacing)
    outside = _outside(s, anatomy, grid)
    hu = np.empty(grid.shape, np.int16)

    def work(start: int, stop: int) -> None:
        part = point_spread(image, start, stop, sd)
        part += hardening.part(start, stop)
        low, high = max(start, touched.start), min(stop, touched.stop)
        if streaks is not None and low < high:
            part[low - start : high - start] += streaks.part(low - touched.start, high - touched.start)
        if grain is not None:
            part += grain[start:stop]
        hu[start:stop] = to_hu(part)
        if outside is not None:
            hu[start:stop][:, outside] = s.padding_hu
            label[start:stop][:, outside] = 0

    over_chunks(work, len(image), CHUNK, workers)
    return hu
