"""The lungs: parenchyma, arteries, veins and bronchi that branch from the hila, fissures.

Vessels are trees of `auricle.phantom.branching` from the ends of the pulmonary arteries and veins; densities and slopes
are assumptions.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from auricle.phantom.anatomy import Anatomy, warp
from auricle.phantom.body import Body, paint_sheet
from auricle.phantom.branching import Pieces, draw, grow
from auricle.phantom.shapes import Field, Grid, Vector

TIPS = 680
"""Ends of each of the four trees, before their twigs."""
HEIGHT_MM = (-125.0, 150.0)
WALL_HU = 25.0
FISSURE_HU = -560.0
BRONCHUS_MM = 1.4
"""Arteries thinner than this run without a visible bronchus."""

LOWER = {-1: np.array([[0, 0, 0], [2, 12, -18], [4, 24, -42], [2, 34, -70.0]]), 1: np.array([[0, 0, 0], [-1, 3, -14], [1, 8, -32], [6, 12, -52.0]])}
"""Course of the arteries to the lower lobes, mm from where they leave the great ones."""
LOWER_RADII = (5.6, 5.2, 4.2, 2.6)

Points = tuple[tuple[float, ...], ...]


def unwarped(a: Anatomy, points: Vector) -> Vector:
    """Where points (n, 3) of the warped world lie in the unwarped one: x such that x + shift(x) is the point."""
    n = len(points)
    found, cube = np.array(points, float), Grid.centered((n, n, n), (1.0, 1.0, 1.0), (0, 0, 0))
    for _ in range(3):
        x, y, z = found.T.astype(np.float32)
        g = warp(a.random, replace(cube, x=x, y=y, z=z))
        i = np.arange(n)
        found += points - np.stack([v[i, i, i] for v in (g.X, g.Y, g.Z)], 1)
    return found


def dome_top(a: Anatomy) -> float:
    """Height of the right dome of the diaphragm: always above the heart's lowest point."""
    return max(a.patient.dome_mm, a.floor_mm + 16) + 5


def hashable(points: Vector) -> Points:
    return tuple(map(tuple, points.tolist()))


def _tips(rng: np.random.Generator, side: int, space: tuple[float, ...]) -> Vector:
    """Points spread over one lung; `space` is its half width and depth, center, front of the spine and dome."""
    width, depth, middle, spine, dome = space
    x, y, z = rng.uniform((0, -1, HEIGHT_MM[0]), (1, 1, HEIGHT_MM[1]), (12 * TIPS, 3)).T * np.array([[width], [depth], [1.0]])
    narrow = 1 - 0.35 * np.clip((z - 60) / 160, 0, 1) ** 2
    inside = (x / (width * narrow - 4)) ** 4 + 1.1 * (x * y / (width * depth)) ** 2 + (y / (depth * narrow - 4)) ** 4 < 1
    inside &= np.hypot((x - (14 if side > 0 else 0)) / 34, (y + middle) / 60) > 1
    inside &= np.hypot(x, y + middle - spine) > 24
    inside &= z > dome - 8 - 70 * np.minimum((y / depth) ** 2 + (x / width - 0.5) ** 2, 1) ** 1.5
    return np.asarray(np.stack([side * x, y + middle, z], 1)[inside][:TIPS])


@lru_cache(maxsize=8)
def _tree(seed: int, side: int, roots: Points, space: tuple[float, ...], root_mm: float) -> Pieces:
    rng = np.random.default_rng([seed, side + 1])
    return grow(rng, np.array(roots), _tips(rng, side, space), root_mm)


def _trees(a: Anatomy, body: Body) -> tuple[Pieces, Pieces]:
    """Vessels with their HU above the parenchyma, and the bronchi beside the larger arteries with HU one."""
    p, v = a.patient, a.vessels
    spine = float(a.marks.spine[1])
    space = (*a.thorax_mm, spine + 24 - a.thorax_mm[1], spine - body.spine_forward_mm, dome_top(a))
    vessels, bronchi = [], []
    for side, artery in ((-1, v.right_pa), (1, v.left_pa)):
        veins = [vein for vein in v.veins.values() if side * (vein[-1, 0] - a.marks.la[0]) > 0]
        lower = LOWER[side] + artery[-4 if side < 0 else -1, :3]
        ends = unwarped(a, np.concatenate([artery[-3:, :3], lower, *(vein[-2:, :3] for vein in veins)]))
        own = 3 + len(lower)
        arteries = _tree(body.seed, side, hashable(ends[:own]), space, float(artery[-1, 3]) + 1.0)
        trunk = np.c_[ends[3 : own - 1], ends[4:own], LOWER_RADII[:-1], LOWER_RADII[1:], np.zeros(len(lower) - 1)]
        arteries = np.concatenate([trunk, arteries])
        arteries[:, 8] = p.hu["PA"] - p.hu["lung"]
        drained = _tree(body.seed + 1, side, hashable(ends[own:]), space, 5.0).copy()
        drained[:, 8] = p.hu["LA"] - p.hu["lung"]
        vessels += [arteries, drained]
        bronchi.append(_beside(arteries, side))
    return np.concatenate(vessels), np.concatenate(bronchi)


def _beside(arteries: Pieces, side: int) -> Pieces:
    """Bronchi behind and medial of the arteries, as wide as them."""
    pieces = arteries[arteries[:, 7] > BRONCHUS_MM].copy()
    shift = np.array([-0.55 * side, 0.7, 0.45])
    for at, radius in ((slice(0, 3), 6), (slice(3, 6), 7)):
        pieces[:, at] += (1.8 * pieces[:, radius, None] + 0.8) * shift
    pieces[:, 6:8] *= 0.7
    pieces[:, 8] = 1
    return pieces


def _fissures(g: Grid, body: Body, smooth: Field, hu: Field) -> None:
    """The oblique fissures and, to the right, the horizontal one: sheets half a mm thick."""
    right = g.X < 0
    oblique = 0.76 * (g.Y - 22) - 0.65 * g.Z + 5 * smooth + np.where(right, np.float32(body.fissure_mm[0]), np.float32(body.fissure_mm[1]))
    paint_sheet(hu, oblique, 0.3, FISSURE_HU, g.voxel)
    flat = np.where(right & (oblique < 0), g.Z - 22 + 0.12 * (g.Y + 0.5 * g.X) + 5 * smooth, np.float32(99))
    paint_sheet(hu, flat, 0.3, FISSURE_HU, g.voxel)


def lung_hu(a: Anatomy, body: Body, g: Grid, smooth: Field, grain: Field) -> Field:
    """Both lungs on the grid, wherever the chest is."""
    p = a.patient
    lying = 0.35 * (g.Y - float(a.marks.spine[1] + 24 - a.thorax_mm[1]))
    hu = p.hu["lung"] + 9 * smooth + 20 * grain + lying
    _fissures(g, body, smooth, hu)
    vessels, bronchi = _trees(a, body)
    walls = bronchi.copy()
    walls[:, 6:8] += 0.3 + 0.13 * walls[:, 6:8]
    walls[:, 8] = WALL_HU - p.hu["lung"]
    hu += draw(np.concatenate([vessels, walls]), g, np.zeros(g.shape, np.float32))
    air = draw(bronchi, g, np.zeros(g.shape, np.float32))
    hu += air * (-985 - hu)
    return hu
