"""Calcium in the coronary arteries and on the aortic valve; sizes, places and HU are assumptions within published ranges."""

import numpy as np

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.landmarks import AORTIC_AXIS
from auricle.phantom.scanner import stream
from auricle.phantom.shapes import Field, Grid, Vector, unit

HU = (300.0, 1500.0)


def _deposit(grid: Grid, image: Field, center: Vector, axis: Vector, radius: float, length: float, hu: float) -> None:
    """A spindle of calcium, in place; one smaller than a voxel keeps its mass: it is painted wider and weaker."""
    wide, long = max(radius, 0.55 * grid.voxel), max(length, 0.55 * grid.voxel)
    box = grid.box(center - long - wide - 9, center + long + wide + 9)
    if image[box].size == 0:
        return
    dx, dy, dz = (c[box] - float(v) for c, v in zip((grid.X, grid.Y, grid.Z), center, strict=True))
    along = dx * float(axis[0]) + dy * float(axis[1]) + dz * float(axis[2])
    across2 = np.maximum(dx * dx + dy * dy + dz * dz - along * along, 0)
    field = (np.sqrt(across2 / wide**2 + (along / long) ** 2) - 1) * wide
    share = (0.5 - field / grid.voxel).clip(0, 1) * np.float32((radius / wide) ** 2 * length / long)
    image[box] += share * (np.float32(hu) - image[box])


def paint_calcium(a: Anatomy, grid: Grid, image: Field) -> None:
    """Paint the patient's calcium over `image` (HU) on a warped grid, in place.

    Each calcified artery has two to six plaques in the wall of its proximal two thirds, each one to four deposits; a
    calcified aortic valve has deposits along its three cusps.
    """
    s = a.patient.scanner
    rng = stream(a.patient.seed, "calcium")
    for artery, own in zip(("LAD", "LCX", "RCA"), rng.spawn(3), strict=True):
        if artery in s.calcified:
            _plaques(grid, image, a.coronaries[artery], own)
    if s.valve_calcium and "aortic" not in s.replaced:
        _cusps(a, grid, image, rng)


def _plaques(grid: Grid, image: Field, course: Vector, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(2, 7))):
        at = int(rng.integers(1, max(2, 2 * len(course) // 3)))
        axis = unit(course[at + 1, :3] - course[at - 1, :3])
        for _ in range(int(rng.integers(1, 5))):
            side = rng.standard_normal(3)
            side = unit(side - (side @ axis) * axis)
            center = course[at, :3] + 0.8 * course[at, 3] * side + rng.normal(0, 2.0) * axis
            radius = float(np.clip(rng.lognormal(-0.4, 0.4), 0.3, 1.8))
            _deposit(grid, image, center, axis, radius, radius * rng.uniform(1, 3.5), float(rng.uniform(*HU)))


def _cusps(a: Anatomy, grid: Grid, image: Field, rng: np.random.Generator) -> None:
    r = a.patient.aorta_mm["annulus"]
    e1 = unit(np.cross(AORTIC_AXIS, [0, 1.0, 0]))
    e2 = np.cross(AORTIC_AXIS, e1)
    for _ in range(int(rng.integers(4, 13))):
        q = 2 * np.pi * (int(rng.integers(3)) + rng.normal(0, 0.12)) / 3
        out, along = np.cos(q) * e1 + np.sin(q) * e2, -np.sin(q) * e1 + np.cos(q) * e2
        center = a.marks.aortic + rng.uniform(0.35, 0.95) * r * out + rng.uniform(1, 7) * AORTIC_AXIS
        radius = float(np.clip(rng.lognormal(0.0, 0.4), 0.4, 2.5))
        _deposit(grid, image, center, along, radius, radius * rng.uniform(1, 2.5), float(rng.uniform(*HU)))
