"""What lies under the diaphragm: liver with its vessels, stomach, spleen and fat. Shapes are assumptions."""

from functools import lru_cache

import numpy as np

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.body import Body, paint
from auricle.phantom.branching import Pieces, draw, grow
from auricle.phantom.lungs import Points, dome_top, hashable, unwarped
from auricle.phantom.shapes import Field, Grid, ellipsoid, highest, smax

LIVER_TIPS = 110
GAS_HU = -960.0


def diaphragm(a: Anatomy, g: Grid) -> Field:
    """Distance above the diaphragm: a higher dome over the liver, one over the stomach, the heart's rest between them."""
    top, low = dome_top(a), a.floor_mm
    if float(g.z[0]) > max(top, low) + 45:
        return g.far()
    r = ((g.X + 62) / 92) ** 2 + ((g.Y - 6) / 92) ** 2
    right = np.asarray(top - r * (12 + 48 * r * r), np.float32)
    r = ((g.X - 66) / 88) ** 2 + ((g.Y - 8) / 90) ** 2
    left = np.asarray(top - 13 - r * (14 + 50 * r * r), np.float32)
    r = ((g.X - 12) / 85) ** 2 + ((g.Y + 8) / 75) ** 2
    center = np.asarray(low + 5 - r * (12 + 30 * r), np.float32)
    x, y = a.vessels.ivc[2, :2].tolist()
    r = ((g.X - x) / 40) ** 2 + ((g.Y - y) / 40) ** 2
    around_vein = np.asarray(min(float(a.marks.ra[2]) - 40, top) - 40 * r, np.float32)
    height = smax(smax(smax(right, left, 22), center, 18), around_vein, 18)
    return np.asarray(0.85 * (g.Z - height))


@lru_cache(maxsize=8)
def _liver_trees(seed: int, roots: Points, width: float, dome: float) -> Pieces:
    rng = np.random.default_rng([seed, 7])
    trees = []
    for root, root_mm in zip(roots, (4.5, 5.5), strict=True):
        p = rng.uniform((-width + 14, -75, dome - 110), (35, 70, dome - 8), (6 * LIVER_TIPS, 3))
        r = ((p[:, 0] + 62) / 88) ** 2 + ((p[:, 1] - 6) / 88) ** 2
        inside = (p[:, 2] < dome - 8 - r * (12 + 48 * r * r)) & (p[:, 0] < 30 - 0.8 * np.maximum(p[:, 1], -20))
        trees.append(grow(rng, np.array([root]), p[inside][:LIVER_TIPS], root_mm, 0.8))
    pieces = np.concatenate(trees)
    pieces[:, 8] = 1
    return pieces


def _vessels_hu(contrast: str) -> float:
    """The liver's veins against its tissue: not yet opacified in an arterial phase."""
    return {"venous": 45.0, "none": -14.0}.get(contrast, -10.0)


def paint_abdomen(a: Anatomy, body: Body, g: Grid, below: Field, wall: Field, smooth: Field, grain: Field, image: Field) -> None:
    """Paint everything below the diaphragm (`below` < 0) inside the chest wall into `image`, in place."""
    p, voxel = a.patient, g.voxel
    inside = highest(wall + 1.5, below)
    paint(image, inside, p.hu["muscle"], voxel)
    paint(image, inside + 1.3, p.hu["fat"] + 6 * smooth, voxel)
    spine = np.hypot(0.8 * g.X, g.Y - float(a.marks.spine[1]) + 6) - 38
    edge = 40 - 0.75 * np.maximum(g.Y + 25, 0) + 0.35 * (g.Z - dome_top(a)) + 5 * smooth
    liver = smax(smax(inside + 3, g.X - edge, 10), -spine, 10)
    if (liver < voxel).any():
        roots = np.array([a.vessels.ivc[3, :3], [-28.0, -2.0, dome_top(a) - 78]])
        tree = _liver_trees(body.seed, hashable(unwarped(a, roots)), a.thorax_mm[0], dome_top(a))
        vessels = draw(tree, g, np.zeros(g.shape, np.float32))
        paint(image, liver, p.hu["liver"] + 3 * grain + 2 * smooth + _vessels_hu(p.contrast) * vessels, voxel)
    _left_side(a, body, g, inside, smooth, grain, image)


def _left_side(a: Anatomy, body: Body, g: Grid, inside: Field, smooth: Field, grain: Field, image: Field) -> None:
    p, voxel = a.patient, g.voxel
    center = np.array([66.0, 2.0, dome_top(a) - 20 - body.stomach_mm[2]])
    stomach = highest(ellipsoid(g, center, np.eye(3), body.stomach_mm) + 1.2 * smooth, inside + 3)
    paint(image, stomach, p.hu["muscle"] + 15, voxel)
    paint(image, stomach + 3.5, body.stomach_hu + 8 * smooth, voxel)
    level = g.Y - float(center[1]) + body.stomach_mm[1] - body.stomach_gas_mm
    paint(image, highest(stomach + 3.5, level), GAS_HU, voxel)
    spleen = ellipsoid(g, [a.thorax_mm[0] - 36, 46, dome_top(a) - 68], np.eye(3), [28, 40, 44]) + 1.2 * smooth
    bright = {"none": -8.0, "venous": 5.0}.get(p.contrast, 45.0)
    paint(image, highest(spleen, inside + 3, 6 - stomach), p.hu["liver"] + bright + 14 * smooth * (bright > 40), voxel)
    x, y, z = body.colon_mm
    colon = highest(ellipsoid(g, [92 + x, -38 + y, dome_top(a) - 62 + z], np.eye(3), [24, 27, 22]) + 2 * smooth, inside + 3, 5 - stomach)
    paint(image, colon, p.hu["muscle"] - 10, voxel)
    stool = np.clip(-130 + 220 * grain, -700, 60)
    stool[y - 42 > g.Y] = GAS_HU
    paint(image, colon + 1.8, stool, voxel)
