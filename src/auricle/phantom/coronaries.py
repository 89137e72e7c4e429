"""Courses of the coronary arteries on the surface of one patient's heart.

The grooves between the ventricles are found on the coarse label map; every course is then drawn onto the surface of the chambers and
smoothed. Branching is right-dominant in everyone and calibers follow usual adult values; both are assumptions.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.phantom.landmarks import Landmarks
from auricle.phantom.shapes import Field, Grid, Vector, moved, spline, unit

CLEARANCE_MM = 0.8
"""Fat between an artery's wall and the chamber under it."""
POINTS = 28

RADII_MM: Mapping[str, tuple[float, float]] = {
    "LAD": (2.2, 1.1), "LCX": (2.1, 1.1), "RCA": (2.0, 1.3), "diagonal": (1.2, 0.8), "marginal": (1.3, 0.8), "PDA": (1.2, 0.8),
}  # fmt: skip
"""Radius of the lumen at the beginning and the end of each artery; LAD and LCX begin with the left main stem."""

Courses = dict[str, list[Vector]]


class Surface:
    """The chambers' surface and labels on the calibration grid, read at any point of the warped world.

    `shift` gives the warp's displacement (n, 3) at unwarped points (n, 3).
    """

    def __init__(self, grid: Grid, field: Field, label: NDArray[np.uint8], shift: Callable[[Vector], Vector]) -> None:
        self.shift = shift
        self.origin = np.array([grid.x[0], grid.y[0], grid.z[0]], float)
        self.step = grid.spacing[0]
        self.label = label
        self.field = ndimage.gaussian_filter(field, 0.7)
        self.slope = np.stack(np.gradient(self.field, self.step)[::-1])

    def _index(self, points: Vector) -> Vector:
        return np.asarray(((points - self.shift(points) - self.origin) / self.step).T[::-1])

    def labels(self, points: Vector) -> NDArray[np.uint8]:
        """Labels (n) at points (n, 3), 0 outside the grid."""
        return np.asarray(ndimage.map_coordinates(self.label, self._index(points), order=0, mode="constant"))

    def onto(self, points: Vector, height_mm: Vector) -> Vector:
        """Points moved along the surface's normal to `height_mm` (n) above it."""
        for _ in range(5):
            at = self._index(points)
            value = ndimage.map_coordinates(self.field, at, order=1, mode="nearest")
            slope = np.stack([ndimage.map_coordinates(s, at, order=1, mode="nearest") for s in self.slope], 1)
            length = np.maximum(np.linalg.norm(slope, axis=1), 0.3)
            step = np.clip((height_mm - value) / length, -6, 6)
            points = points + step[:, None] * slope / length[:, None]
        return points


def _rays(m: Landmarks, along: float, degrees: Vector, radius_mm: Vector) -> Vector:
    """Points (angles, radii, 3) around the ventricle's axis; the angle runs from the septum upward."""
    q = np.deg2rad(degrees)[:, None, None]
    d = np.cos(q) * m.septal + np.sin(q) * m.up
    return np.asarray(m.base + along * m.length * m.axis + d * np.asarray(radius_mm)[None, :, None])


def _grooves(surface: Surface, m: Landmarks, along: Sequence[float], side: int, reach_mm: float) -> list[Vector]:
    """Where the right ventricle ends on the muscle, above (side 1) or below (side -1) the septum, at shares of the axis."""
    degrees, radius = side * np.arange(0, 141, 6.0), np.arange(8, reach_mm, 2)
    rays = np.stack([_rays(m, t, degrees, radius) for t in along])
    label = surface.labels(rays.reshape(-1, 3)).reshape(rays.shape[:3])
    muscle = label == ID["MYO"]
    last = np.where(muscle.any(2), len(radius) - 1 - np.argmax(muscle[:, :, ::-1], axis=2), 0)
    right = ((label == ID["RV"]) & (np.arange(len(radius)) <= last[..., None] + 3)).any(2)
    points = []
    for k in range(len(along)):
        covered = np.flatnonzero(right[k])
        end = min(int(covered.max()) + 1, len(degrees) - 1) if len(covered) else 10
        points.append(rays[k, end, min(int(last[k, end]) + 2, len(radius) - 1)])
    return points


def _waypoints(surface: Surface, m: Landmarks, sinus_mm: float) -> Courses:
    """Anatomical way points of every artery."""
    reach = 34 * m.scale + 26
    root = moved(m.aortic, -5, -2.5, 10.0)
    stem = [moved(root, 0.85 * sinus_mm, 0.15 * sinus_mm, 1), moved(root, sinus_mm + 8, -3, 0)]
    anterior = _grooves(surface, m, (0.08, 0.22, 0.38, 0.55, 0.72, 0.88), 1, reach)
    inferior = _grooves(surface, m, (0.12, 0.3, 0.48, 0.65), -1, reach)

    def lateral(degrees: Sequence[float], along: Sequence[float]) -> list[Vector]:
        return [_rays(m, t, np.array([q]), np.array([reach - 22]))[0, 0] for q, t in zip(degrees, along, strict=True)]

    around = lateral((95, 120, 145, 170, 195, 215), (-0.03,) * 6)
    e1 = unit(np.cross(m.tricuspid_axis, [0, 0, 1.0]))
    e2 = np.cross(m.tricuspid_axis, e1)
    e2, e1 = e2 * np.sign(e2[2]), e1 * (1 if e1 @ [-1, -1, 0] > 0 else -1)
    ring = [m.tricuspid - 1 * m.tricuspid_axis + 25 * m.scale * (np.cos(q) * e2 + np.sin(q) * e1)
            for q in np.deg2rad([15, 45, 75, 105, 135, 165, 190])]  # fmt: skip
    return {
        "LAD": [*stem, *anterior], "LCX": [*stem, *around],
        "RCA": [moved(root, -0.55 * sinus_mm, -0.8 * sinus_mm, 1), moved(root, -0.9 * sinus_mm - 3, -sinus_mm - 2, -2), *ring],
        "diagonal": [anterior[1], *lateral((105, 112, 116), (0.36, 0.52, 0.66))],
        "marginal": [around[2], *lateral((150, 154, 158), (0.18, 0.36, 0.54))],
        "PDA": [ring[-1], *inferior],
    }  # fmt: skip


def find_coronaries(surface: Surface, m: Landmarks, sinus_mm: float) -> Mapping[str, Vector]:
    """Center lines (n, 4) = x, y, z, radius in mm, in the warped world that landmarks and tubes live in."""
    result = {}
    for name, points in _waypoints(surface, m, sinus_mm).items():
        line = spline(np.c_[np.array(points), np.linspace(*RADII_MM[name], len(points))], POINTS)
        at, height = line[:, :3], line[:, 3] + CLEARANCE_MM
        free = slice(2 if name in ("LAD", "LCX", "RCA") else 0, None)  # the ostium stays in the aorta's wall
        for _ in range(2):
            at[free] = surface.onto(at[free], height[free])
            at[free] = ndimage.gaussian_filter1d(at, 1.2, axis=0, mode="nearest")[free]
        result[name] = np.c_[at, line[:, 3]]
    return result
