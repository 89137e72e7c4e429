"""Grids, implicit surfaces and smooth random fields from which the virtual patients are made.

The phantom's own world is LPS+ mm (x to the patient's Left, y to Posterior, z to Superior) and its arrays are indexed
``[z, y, x]``, so that a slab of axial slices is contiguous; `auricle.phantom.scan` turns the result to RAS+ ``[x, y, z]``.
A surface is a float32 field: below zero inside, about the distance in mm near the surface, `FAR` far outside.
Every field is a function of the world point alone, so it does not depend on the grid or the slab it is evaluated on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

Field = NDArray[np.float32]
Vector = NDArray[np.float64]
Box = tuple[slice, slice, slice]

FAR = 40.0
"""Value of a field far outside its surface, mm."""
REACH_MM = 16.0
"""Fields are true distances at least this far outside their surface."""
WARP_MARGIN_MM = 8.0
"""Bound on the coordinate warp: three standard deviations and more."""
FIELD_SD = 0.30
"""Standard deviation of a cubic B-spline field in three dimensions with unit normal coefficients."""


@dataclass(frozen=True)
class Grid:
    """Voxel centers of an axis-aligned volume, and their warped coordinates."""

    z: Field
    y: Field
    x: Field
    spacing: tuple[float, float, float]
    """Voxel size in mm along z, y, x."""
    X: Field
    Y: Field
    Z: Field
    """Warped world coordinates of every voxel."""

    @staticmethod
    def centered(shape: tuple[int, int, int], spacing: tuple[float, float, float], center: ArrayLike) -> "Grid":
        """An unwarped grid; all arguments in the order z, y, x."""
        mid = np.asarray(center, float)
        z, y, x = ((mid[i] + (np.arange(n) - (n - 1) / 2) * spacing[i]).astype(np.float32) for i, n in enumerate(shape))
        return Grid._plain(z, y, x, spacing)

    @staticmethod
    def _plain(z: Field, y: Field, x: Field, spacing: tuple[float, float, float]) -> "Grid":
        shape = len(z), len(y), len(x)
        axes = x[None, None, :], y[None, :, None], z[:, None, None]
        return Grid(z, y, x, spacing, *(np.broadcast_to(v, shape) for v in axes))

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    @property
    def voxel(self) -> float:
        """Mean voxel size, mm: the width of a painted edge."""
        return float(np.mean(self.spacing))

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0

    def slab(self, start: int, stop: int) -> "Grid":
        """The slices start..stop-1 of an unwarped grid."""
        return Grid._plain(self.z[start:stop], self.y, self.x, self.spacing)

    def warped(self, shift: Field) -> "Grid":
        """Move the coordinates by `shift`, shape (3, z, y, x), components along x, y, z, in mm."""
        x, y, z = self.x[None, None, :], self.y[None, :, None], self.z[:, None, None]
        return Grid(self.z, self.y, self.x, self.spacing, x + shift[0], y + shift[1], z + shift[2])

    def crop(self, box: Box) -> "Grid":
        """The part of a warped grid inside `box`."""
        x, y, z = (np.ascontiguousarray(v[box]) for v in (self.X, self.Y, self.Z))
        return Grid(self.z[box[0]], self.y[box[1]], self.x[box[2]], self.spacing, x, y, z)

    def box(self, low: ArrayLike, high: ArrayLike) -> Box:
        """Voxels whose centers lie in the world box low..high (x, y, z in mm)."""
        a, b = np.asarray(low, float), np.asarray(high, float)
        z, y, x = (slice(*np.searchsorted(v, (a[i], b[i])).tolist()) for v, i in ((self.z, 2), (self.y, 1), (self.x, 0)))
        return z, y, x

    def far(self) -> Field:
        return np.full(self.shape, FAR, np.float32)


def unit(v: ArrayLike) -> Vector:
    """`v` scaled to length one."""
    w = np.asarray(v, float)
    return np.asarray(w / np.linalg.norm(w))


def moved(point: Vector, x: float, y: float, z: float) -> Vector:
    """`point` moved by (x, y, z) mm."""
    return np.asarray(point + np.array([x, y, z]))


def plane(grid: Grid, point: ArrayLike, normal: ArrayLike) -> Field:
    """Distance to a plane, positive on the side its normal points to."""
    (px, py, pz), (nx, ny, nz) = np.asarray(point, float).tolist(), np.asarray(normal, float).tolist()
    offset = px * nx + py * ny + pz * nz
    return np.asarray(grid.X * nx + grid.Y * ny + (grid.Z * nz - offset))


def ellipsoid(grid: Grid, center: ArrayLike, axes: ArrayLike, radii: ArrayLike) -> Field:
    """An ellipsoid with unit axes (rows) and radii in mm.

    First-order distance k0 (k0 - 1) / k1 with k0 = |p / r| and k1 = |p / r^2|: its sign is exact.
    """
    c, a, r = np.asarray(center, float), np.asarray(axes, float), np.asarray(radii, float)
    extent = np.sqrt(((a * r[:, None]) ** 2).sum(0)) + REACH_MM + WARP_MARGIN_MM
    box = grid.box(c - extent, c + extent)
    result = grid.far()
    if result[box].size == 0:
        return result
    dx, dy, dz = grid.X[box] - float(c[0]), grid.Y[box] - float(c[1]), grid.Z[box] - float(c[2])
    k0, k1 = np.zeros_like(dx), np.zeros_like(dx)
    for (ax, ay, az), radius in zip((a / r[:, None]).tolist(), r.tolist(), strict=True):
        p = ax * dx + ay * dy
        p += az * dz
        p *= p
        k0 += p
        p *= 1 / radius**2
        k1 += p
    np.sqrt(k0, out=k0)
    np.sqrt(k1, out=k1)
    result[box] = np.minimum(FAR, k0 * (k0 - 1) / (k1 + 1e-6))
    return result


def tube(grid: Grid, points: ArrayLike, radii: ArrayLike, out: Field | None = None, reach: float = REACH_MM) -> Field:
    """A chain of round cones through `points` (n, 3) with `radii` in mm, joined to `out`."""
    result = grid.far() if out is None else out
    pts = np.asarray(points, float)
    rad = np.broadcast_to(np.asarray(radii, float), (len(pts),)).tolist()
    for p, q, r0, r1 in zip(pts[:-1], pts[1:], rad[:-1], rad[1:], strict=True):
        margin = max(r0, r1) + reach + WARP_MARGIN_MM
        box = grid.box(np.minimum(p, q) - margin, np.maximum(p, q) + margin)
        if result[box].size == 0:
            continue
        dx, dy, dz = grid.X[box] - float(p[0]), grid.Y[box] - float(p[1]), grid.Z[box] - float(p[2])
        ex, ey, ez = (q - p).tolist()
        along = (dx * ex + dy * ey + dz * ez) / (ex * ex + ey * ey + ez * ez + 1e-9)
        np.clip(along, 0, 1, out=along)
        dx -= along * ex
        dy -= along * ey
        dz -= along * ez
        result[box] = np.minimum(result[box], np.sqrt(dx * dx + dy * dy + dz * dz) - (r0 + along * (r1 - r0)))
    return result


def spline(knots: ArrayLike, count: int) -> Vector:
    """A smooth center line with radii through `knots` (k, 4) = x, y, z, radius; returns (count, 4)."""
    k = np.asarray(knots, float)
    run = np.r_[0, np.cumsum(np.linalg.norm(np.diff(k[:, :3], axis=0), axis=1))]
    at = np.linspace(0, run[-1], count)
    return np.asarray(np.c_[CubicSpline(run, k[:, :3])(at), PchipInterpolator(run, k[:, 3])(at)])


def smin(a: Field, b: Field, width: float) -> Field:
    """Smooth minimum (union): min(a, b) - max(width - |a - b|, 0)^2 / (4 width)."""
    h = a - b
    np.abs(h, out=h)
    np.subtract(width, h, out=h)
    np.maximum(h, 0, out=h)
    h *= h
    h *= 0.25 / width
    low: Field = np.minimum(a, b)
    return low - h


def smax(a: Field, b: Field, width: float) -> Field:
    """Smooth maximum (intersection)."""
    return -smin(-a, -b, width)


def highest(*fields: Field) -> Field:
    """Pointwise maximum of several fields: intersection."""
    out: Field = np.maximum(fields[0], fields[1])
    for f in fields[2:]:
        np.maximum(out, f, out=out)
    return out


def lowest(*fields: Field) -> Field:
    """Pointwise minimum of several fields: union."""
    out: Field = np.minimum(fields[0], fields[1])
    for f in fields[2:]:
        np.minimum(out, f, out=out)
    return out


def offset_for(
    field: Callable[..., Field], parts: tuple[Field, ...], target_ml: float, low: float, high: float, voxel_ml: float
) -> float:
    """The offset at which `field(offset, *parts)` encloses `target_ml`; the volume must grow with the offset."""
    inside = field(high, *parts) < 0
    parts = tuple(part[inside] for part in parts)  # only these voxels can ever be inside
    for _ in range(11):
        middle = 0.5 * (low + high)
        volume = np.count_nonzero(field(middle, *parts) < 0) * voxel_ml
        low, high = (middle, high) if volume < target_ml else (low, middle)
    return 0.5 * (low + high)


class RandomField:
    """Smooth random functions of the world point: cubic B-splines with normal coefficients, standard deviation one."""

    def __init__(self, rng: np.random.Generator, knot_mm: float, components: int = 1, extent_mm: float = 200.0) -> None:
        self.knot_mm, self.low = knot_mm, -extent_mm
        self.knots = int(np.ceil(2 * extent_mm / knot_mm)) + 4
        shape = (self.knots,) * 3 + (components,)
        self.coefficients = rng.standard_normal(shape).astype(np.float32) / np.float32(FIELD_SD)

    def _taps(self, at: NDArray[np.floating[Any]]) -> tuple[NDArray[np.intp], Field]:
        """Index of the four coefficients that matter at each coordinate, and their weights, both (n, 4)."""
        u = (at - self.low) / self.knot_mm
        first = np.floor(u).astype(int)
        t = u - first
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
        return np.clip(first[:, None] + np.arange(4), 0, self.knots - 1), weights.astype(np.float32)

    def _basis(self, at: Field) -> Field:
        index, weights = self._taps(at)
        basis = np.zeros((len(at), self.knots), np.float32)
        for k in range(4):
            np.add.at(basis, (np.arange(len(at)), index[:, k]), weights[:, k])
        return basis

    def __call__(self, grid: Grid) -> Field:
        """Values on the unwarped grid, shape (components, z, y, x)."""
        bx, by, bz = (self._basis(v) for v in (grid.x, grid.y, grid.z))
        c = np.moveaxis(self.coefficients, -1, 0)
        return np.asarray(np.matmul(by, np.tensordot(bz, np.matmul(c, bx.T), (1, 1)).swapaxes(0, 1)))

    def at(self, points: Vector) -> Vector:
        """Values at points (n, 3) = x, y, z of the unwarped world, shape (n, components)."""
        (ix, wx), (iy, wy), (iz, wz) = (self._taps(points[:, i]) for i in range(3))
        near = self.coefficients[iz[:, :, None, None], iy[:, None, :, None], ix[:, None, None, :]]
        weights = wz[:, :, None, None] * wy[:, None, :, None] * wx[:, None, None, :]
        return np.asarray((near * weights[..., None]).sum((1, 2, 3)), float)
