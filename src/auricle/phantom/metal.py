"""Metal in the heart and the chest, and the streaks it throws.

The artifact is the filtered back-projection of the *difference* that metal makes to the measured line integrals: its
attenuation, beam hardening and the quantum noise of starved rays. Only slices with metal are touched.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.landmarks import AORTIC_AXIS
from auricle.phantom.physics import WATER_PER_MM
from auricle.phantom.shapes import Field, Grid, Vector, moved, spline, tube, unit

METAL_PER_MM = 0.30
"""Attenuation that metal adds at low energy."""
BODY_MM = 150.0
"""Water outside the field of view that every ray crosses, an assumption."""
QUANTA = 6e4
FINEST = 128
"""Slices are projected with at most this many pixels along a side; streaks are smooth enough."""


def _lead(a: Anatomy, grid: Grid, out: Field) -> None:
    m, v = a.marks, a.vessels
    way = [v.svc[-1, :3], v.svc[2, :3], moved(m.ra, -4, -2, 20), moved(m.ra, -2, -4, -4), moved(m.tricuspid, 0, 0, -4),
           m.rv + 10 * m.axis - 10 * m.up, m.rv + 0.45 * m.length * m.axis - 8 * m.up]  # fmt: skip
    line = spline(np.c_[np.array(way), np.full(len(way), 1.1)], 26)
    tube(grid, line[:, :3], line[:, 3], out=out, reach=4)
    tube(grid, [line[-1, :3], line[-1, :3] + 6 * m.axis], 1.6, out=out, reach=4)


def _valve(a: Anatomy, grid: Grid, out: Field) -> None:
    c, r = a.marks.aortic, a.patient.aorta_mm["annulus"]
    e1 = unit(np.cross(AORTIC_AXIS, [0, 1, 0]))
    e2 = np.cross(AORTIC_AXIS, e1)

    def rim(q: float) -> Vector:
        return np.asarray(c + r * (np.cos(q) * e1 + np.sin(q) * e2))

    tube(grid, [rim(q) for q in np.linspace(0, 2 * np.pi, 17)], 1.3, out=out, reach=4)
    for k in (0, 5, 11):
        post = rim(k * np.pi / 8)
        tube(grid, [post, post + 13 * AORTIC_AXIS], 0.8, out=out, reach=4)


def _wires(a: Anatomy, grid: Grid, out: Field) -> None:
    front = float(a.marks.spine[1]) + 24 - 2 * a.thorax_mm[1]
    q = np.linspace(0, 2 * np.pi, 13)
    for z in range(-55, 58, 28):
        x, y = 0.5 * a.marks.spine[0] + 20 * np.cos(q), front - 5 + 0.04 * z + 8 * np.sin(q)
        tube(grid, np.c_[x, y, z + 2 * np.sin(2 * q)], 0.6, out=out, reach=4)


def metal_field(a: Anatomy, grid: Grid) -> Field:
    """Surface of all of the patient's metal."""
    out = grid.far()
    makers = {"pacemaker lead": _lead, "prosthetic valve": _valve, "sternal wires": _wires}
    for kind in a.patient.metal:
        makers[kind](a, grid, out)
    return out


class Projector:
    """Parallel-beam projection of an n x n slice with unit pixels, and its filtered back-projection."""

    def __init__(self, n: int) -> None:
        self.n, self.angles, self.bins = n, int(1.1 * n), int(np.ceil(1.4142 * n)) + 3
        c = np.arange(n) - (n - 1) / 2
        y, x = (v.ravel() for v in np.meshgrid(c, c, indexing="ij"))
        pixel = np.arange(n * n, dtype=np.int32)
        rows, weights = [], []
        for i, angle in enumerate(np.arange(self.angles) * np.pi / self.angles):
            s = x * np.cos(angle) + y * np.sin(angle) + (self.bins - 1) / 2
            first = np.floor(s).astype(np.int32)
            rows += [i * self.bins + first, i * self.bins + first + 1]
            weights += [(1 - (s - first)).astype(np.float32), (s - first).astype(np.float32)]
        columns = np.tile(pixel, 2 * self.angles)
        shape = (self.angles * self.bins, n * n)
        self.forward = sparse.csr_matrix((np.concatenate(weights), (np.concatenate(rows), columns)), shape=shape)
        self.adjoint = self.forward.T.tocsr()

    def reconstruct(self, sinogram: Field) -> Field:
        """Pixel values (n * n, slices) from line integrals (angles * bins, slices), with a Hann-windowed ramp filter."""
        size = fft.next_fast_len(2 * self.bins, real=True)
        f = np.fft.rfftfreq(size)
        ramp = np.where(f <= 0.45, f * (1 + np.cos(np.pi * f / 0.45)), 0).astype(np.float32)
        spectrum = fft.rfft(sinogram.reshape(self.angles, self.bins, -1), size, axis=1)
        filtered = fft.irfft(spectrum * ramp[None, :, None], size, axis=1)[:, : self.bins]
        out: Field = self.adjoint @ filtered.reshape(sinogram.shape).astype(np.float32) * np.float32(np.pi / (2 * self.angles))
        return out


@lru_cache(maxsize=1)
def _projector(n: int) -> Projector:
    return Projector(n)


def _line_integrals(body: Field, metal: Field, pixel: float, rng: np.random.Generator) -> Field:
    """What metal adds to the measured line integrals, given those of the body and the path length in metal, mm."""
    added = METAL_PER_MM * metal
    hardened = -0.32 * added**2 / (1 + 0.5 * added)
    quanta = QUANTA * np.exp(-np.minimum(body + added + hardened, 11))
    noise = rng.standard_normal(body.shape, dtype=np.float32) / np.sqrt(np.maximum(quanta, 4))
    return np.asarray((added + hardened + np.where(metal > 0.05 * pixel, noise, 0)) / pixel)


def add_metal(image: Field, occupancy: Field, spacing: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.intp]:
    """Add metal and its artifacts to `image` [z, y, x] in place; `occupancy` is the share of metal in each voxel.

    Returns the slices touched.
    """
    slices = np.flatnonzero(occupancy.max((1, 2)) > 0.02)
    if len(slices) == 0:
        return slices
    side = max(n * s for n, s in zip(image.shape[1:], spacing[1:], strict=True))
    n = min(FINEST, int(np.ceil(side / min(spacing[1:]))))
    pixel = side / n
    zoom = [s / pixel for s in spacing[1:]]
    size = [max(1, round(m * z)) for m, z in zip(image.shape[1:], zoom, strict=True)]
    pad = [(0, 0), *((0, n - m) for m in size)]

    def project(volume: Field, fill: float) -> Field:
        blurred = ndimage.gaussian_filter(volume, [0, *(max(0.0, 0.35 * (1 / z - 1)) for z in zoom)])
        small = ndimage.zoom(blurred, [1, *(m / k for m, k in zip(size, volume.shape[1:], strict=True))], order=1)
        square = np.pad(small, pad, constant_values=fill).reshape(len(slices), -1).T
        return np.asarray(_projector(n).forward @ np.ascontiguousarray(square) * np.float32(pixel))

    mu: Field = (image[slices] / 1000 + 1).clip(0) * np.float32(WATER_PER_MM)
    body = project(mu, 0.0) + BODY_MM * WATER_PER_MM
    extra = _line_integrals(body, project(occupancy[slices], 0.0), pixel, rng).astype(np.float32)
    streaks = _projector(n).reconstruct(extra).T.reshape(len(slices), n, n)[:, : size[0], : size[1]]
    full = [1, *(k / m for k, m in zip(image.shape[1:], size, strict=True))]
    image[slices] += ndimage.zoom(streaks, full, order=1) * np.float32(1000 / WATER_PER_MM)
    return slices
