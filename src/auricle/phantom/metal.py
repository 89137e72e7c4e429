"""Metal in the heart and the chest: where it is and how strongly it attenuates.

Sizes follow common devices; attenuations relative to a cobalt-chromium alloy and the devices' places are assumptions.
Parts thinner than a voxel keep their mass: they are painted wider and weaker.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.landmarks import AORTIC_AXIS
from auricle.phantom.shapes import Field, Grid, Vector, moved, spline, tube, unit

METAL_PER_MM = 0.30
"""Attenuation that metal adds at relative attenuation one."""
COIL, LEAD, WIRE = 2.0, 0.9, 0.9
STENT_MM, STENT_RADIUS_MM, STENT_WALL_MM, STENT_MESH = 18.0, 1.5, 0.15, 0.35


def _wire(grid: Grid, out: Field, points: Vector, radius: float, attenuation: float) -> None:
    """A wire of `radius` mm through `points` (n, 3), in place."""
    wide = max(radius, 0.6 * grid.voxel)
    share = (0.5 - tube(grid, points, wide, reach=4) / grid.voxel).clip(0, 1)
    np.maximum(out, share * np.float32(attenuation * (radius / wide) ** 2), out=out)


def _lead_course(a: Anatomy) -> Vector:
    m, v = a.marks, a.vessels
    way = [v.svc[-1, :3], v.svc[2, :3], moved(m.ra, -4, -2, 20), moved(m.ra, -2, -4, -4), moved(m.tricuspid, 0, 0, -4),
           m.rv + 10 * m.axis - 10 * m.up, m.rv + 0.45 * m.length * m.axis - 8 * m.up]  # fmt: skip
    return spline(np.c_[np.array(way), np.ones(len(way))], 40)[:, :3]


def _lead(a: Anatomy, grid: Grid, out: Field) -> None:
    """A conductor with two electrodes at its end."""
    line = _lead_course(a)
    _wire(grid, out, line, 0.6, LEAD)
    _wire(grid, out, np.array([line[-1], line[-1] + 2.5 * a.marks.axis]), 1.1, 1.2)
    _wire(grid, out, line[-5:-3], 1.1, 1.2)


def _shock_lead(a: Anatomy, grid: Grid, out: Field) -> None:
    """A thicker conductor with shock coils in the right ventricle and the superior vena cava."""
    _lead(a, grid, out)
    line = _lead_course(a)
    run = np.r_[0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
    for low, high in ((run[-1] - 68, run[-1] - 10), (20.0, 75.0)):
        at = np.linspace(low, high, 14)
        coil = np.column_stack([np.interp(at, run, line[:, k]) for k in range(3)])
        _wire(grid, out, coil, 1.4, COIL)


def _frame(axis: Vector) -> tuple[Vector, Vector]:
    e1 = unit(np.cross(axis, [0, 1.0, 0.2]))
    return e1, np.cross(axis, e1)


def _valve_place(a: Anatomy) -> tuple[Vector, Vector, float, bool]:
    """Center, direction of flow, radius and whether it is open, of the valve that is replaced."""
    systole = a.patient.phase > 0.5
    if "mitral" in a.patient.scanner.replaced:
        return a.marks.mitral + 2 * a.marks.axis, a.marks.axis, 13.0 * a.marks.overall, not systole
    return a.marks.aortic, AORTIC_AXIS, a.patient.aorta_mm["annulus"], systole


def _rim(center: Vector, axis: Vector, radius: float, count: int = 33) -> Vector:
    e1, e2 = _frame(axis)
    q = np.linspace(0, 2 * np.pi, count)[:, None]
    return np.asarray(center + radius * (np.cos(q) * e1 + np.sin(q) * e2))


def _mechanical_valve(a: Anatomy, grid: Grid, out: Field) -> None:
    """A ring with two half discs that tilt about hinges near its middle."""
    center, axis, radius, is_open = _valve_place(a)
    for height in (-2.0, 2.0):
        _wire(grid, out, _rim(center + height * axis, axis, radius - 0.6), 1.1, 1.0)
    e1, e2 = _frame(axis)
    tilt = np.deg2rad(80 if is_open else 28)
    box = grid.box(center - radius - 9, center + radius + 9)
    if out[box].size == 0:
        return
    p = np.stack([grid.X[box] - float(center[0]), grid.Y[box] - float(center[1]), grid.Z[box] - float(center[2])], -1)
    thick = max(0.9, grid.voxel)
    for side in (-1, 1):
        across = np.cos(tilt) * e2 * side + np.sin(tilt) * axis
        normal = np.cross(e1, across)
        q = p - (1.5 * side * e2).astype(np.float32)
        u, v, w = (q @ d.astype(np.float32) for d in (across, e1, normal))
        field = np.maximum(np.maximum(np.hypot(u, v) - (radius - 2), -u), np.abs(w) - thick / 2)
        leaflet = (0.5 - field / grid.voxel).clip(0, 1) * np.float32(0.4 * 0.9 / thick)
        out[box] = np.maximum(out[box], leaflet)


def _bioprosthesis(a: Anatomy, grid: Grid, out: Field) -> None:
    """A thin frame whose crown rises to three posts."""
    center, r = a.marks.aortic, a.patient.aorta_mm["annulus"] - 0.5
    e1, e2 = _frame(AORTIC_AXIS)
    q = np.linspace(0, 2 * np.pi, 61)[:, None]
    height = 13 * np.abs(np.cos(1.5 * q)) ** 3
    crown = center + r * (np.cos(q) * e1 + np.sin(q) * e2) + height * AORTIC_AXIS
    _wire(grid, out, np.asarray(crown), 0.35, 1.0)
    _wire(grid, out, _rim(center - 1.5 * AORTIC_AXIS, AORTIC_AXIS, r), 0.45, 1.0)


def _wires(a: Anatomy, grid: Grid, out: Field) -> None:
    """Loops around the sternum, their ends twisted together in front of it."""
    front = float(a.marks.spine[1]) + 24 - 2 * a.thorax_mm[1]
    q = np.linspace(0, 2 * np.pi, 17)
    for k, z in enumerate(range(-60, 64, 24)):
        x, y = 0.5 * a.marks.spine[0] + 3 * np.sin(7.0 * k), front - 5 + 0.04 * z
        tilt = 3 * np.sin(2.3 * k + 1)
        _wire(grid, out, np.c_[x + 19 * np.cos(q), y + 9 * np.sin(q), z + tilt * np.cos(q)], 0.45, WIRE)
        t = np.linspace(0, 1, 9)
        knot = np.c_[x + 2 + 7 * t, y - 9.5 + 0.5 * np.cos(12 * t), z + 0.5 * np.sin(12 * t) + 2 * t]
        _wire(grid, out, knot, 0.65, WIRE)


def _stent(a: Anatomy, grid: Grid, out: Field) -> None:
    """A mesh of two families of helices on a cylinder along the artery."""
    course = a.coronaries[a.patient.scanner.stented][:, :3]
    run = np.r_[0, np.cumsum(np.linalg.norm(np.diff(course, axis=0), axis=1))]
    at = 16 + np.linspace(0, STENT_MM, 7)
    line = np.column_stack([np.interp(at, run, course[:, k]) for k in range(3)])
    margin = STENT_RADIUS_MM + 10
    box = grid.box(line.min(0) - margin, line.max(0) + margin)
    if out[box].size == 0:
        return
    p = np.stack([grid.X[box], grid.Y[box], grid.Z[box]], -1)
    away, turn, height = (np.full(p.shape[:3], v, np.float32) for v in (40.0, 0.0, 0.0))
    for k, (start, end) in enumerate(pairwise(line)):
        axis = unit(end - start)
        e1, e2 = _frame(axis)
        q = p - start.astype(np.float32)
        along, u, v = (q @ d.astype(np.float32) for d in (axis, e1, e2))
        step = float(np.linalg.norm(end - start))
        d = np.hypot(u, v) + np.where((along < 0) | (along > step), 40, 0)
        nearer = d < away
        away[nearer], turn[nearer], height[nearer] = d[nearer], np.arctan2(v, u)[nearer], along[nearer] + k * step
    wave = np.maximum(np.cos(3 * turn + 2 * height), np.cos(3 * turn - 2 * height))
    mesh = np.where(wave > 0.8, np.float32(1 / 0.37), 0)  # which covers 37%
    wall = max(STENT_WALL_MM, 0.6 * grid.voxel)
    shell = (0.5 - (np.abs(away - STENT_RADIUS_MM) - wall / 2) / grid.voxel).clip(0, 1)
    # The soft edges of the painted wall hold half a voxel more on each side.
    out[box] = np.maximum(out[box], shell * mesh * np.float32(STENT_MESH * STENT_WALL_MM / (wall + 0.25 * grid.voxel)))


_MAKERS: Mapping[str, Callable[[Anatomy, Grid, Field], None]] = {
    "pacemaker lead": _lead, "defibrillator lead": _shock_lead, "mechanical valve": _mechanical_valve,
    "bioprosthetic valve": _bioprosthesis, "sternal wires": _wires, "coronary stent": _stent,
}  # fmt: skip


def metal_field(a: Anatomy, grid: Grid) -> Field:
    """Relative attenuation of the patient's metal in each voxel of a warped grid: its share of the voxel, denser metals more."""
    out = np.zeros(grid.shape, np.float32)
    for kind in a.patient.scanner.metal:
        _MAKERS[kind](a, grid, out)
    return out
