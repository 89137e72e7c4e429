"""Skin, fat, breasts, muscles, shoulder blades, ribs with their cartilages, breastbone and the scanner's table.

The wall is laid out over the distance from the pleura and the angle around the chest: 0 degrees at the breastbone, 90 at
the side, 180 at the spine. Thicknesses are assumptions, set by eye against published anatomy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.body import RIBS, Body, paint, paint_sheet, rounded
from auricle.phantom.shapes import Field, Grid, highest

RIB_LAYER_MM = 9.0
SKIN_MM = 1.8
TABLE_HU = -250.0
DEGREES = (0, 12, 20, 35, 50, 65, 80, 95, 110, 125, 140, 152, 160, 170, 180)
Row = tuple[float, ...]
Rows = tuple[Row, Row]
LOW, HIGH = -70.0, 70.0
"""Heights of the two rows of each table, mm."""
INNER_MM: Rows = ((0.5, 2, 3, 4, 5, 6, 7, 7, 6, 6, 8, 13, 19, 21, 13), (0, 2, 4, 6, 6, 5, 8, 10, 9, 9, 10, 13, 17, 20, 13))
"""Rectus or pectoralis minor, serratus, erector spinae."""
GAP_MM: Rows = ((0.5, 1, 1.5, 2, 2, 2, 2, 2, 2, 2, 2, 1.5, 1, 1, 1), (0.5, 1, 2, 2, 3, 8, 12, 8, 6, 6, 5, 3, 1.5, 1, 1))
"""Fat between the two layers; in the armpit and at the shoulder blade wider."""
OUTER_MM: Rows = ((-2, 0, 2, 4, 3, -1, -1, 4, 9, 11, 10, 8, 5, 4, 1), (-2, 3, 9, 12, 11, 3, -3, 6, 14, 16, 15, 11, 7, 5, 2))
"""Oblique or pectoralis major, latissimus, trapezius; negative where there is none."""
WHOLE_MM: Rows = tuple(  # type: ignore[assignment]
    tuple(i + g + max(o, 0) for i, g, o in zip(*rows, strict=True)) for rows in zip(INNER_MM, GAP_MM, OUTER_MM, strict=True)
)
"""All layers together, from which the skin's distance is smoothed."""
FAT_SHARE: Rows = ((0.6, 0.8, 0.9, 1, 1, 1, 1, 1, 1, 1, 0.95, 0.85, 0.75, 0.6, 0.45),
             (0.6, 0.75, 0.8, 0.9, 1, 1, 1, 0.95, 0.95, 0.9, 0.85, 0.8, 0.7, 0.55, 0.42))
RIB_FALL = (1.22, 1.35, 1.5, 1.58, 1.52, 1.36, 1.14, 0.90, 0.68, 0.44, 0.24, 0.13, 0.08, 0.03, 0.0)
"""How far a rib lies below its vertebra, as a share of the fall at the side; the cartilages rise again to the breastbone."""
STEPS = 1440


def _tabulated(values: Row, blur_degrees: float = 3.0) -> Field:
    row = np.interp(np.linspace(0, 180, STEPS + 1), DEGREES, values)
    return np.asarray(gaussian_filter1d(row, blur_degrees * STEPS / 180, mode="mirror"), np.float32)


@dataclass
class Ring:
    """Voxels of the chest wall, each array of one dimension."""

    X: Field
    Y: Field
    Z: Field
    depth: Field
    """Distance from the pleura, mm."""
    angle: NDArray[np.intp]
    """Steps of 1/8 degree."""
    degrees: Field
    high: Field
    """0 at `LOW` .. 1 at `HIGH`."""
    smooth: Field
    grain: Field
    hu: Field

    def read(self, rows: Rows, blur_degrees: float = 3.0) -> Field:
        low, high = (_tabulated(r, blur_degrees)[self.angle] for r in rows)
        return np.asarray(low + self.high * (high - low))


def _ring(a: Anatomy, g: Grid, wall: Field, part: NDArray[np.bool_], smooth: Field, grain: Field, hu: Field) -> Ring:
    (width, depth), middle = a.thorax_mm, float(a.marks.spine[1] + 24 - a.thorax_mm[1])
    X, Y, Z, d = g.X[part], g.Y[part], g.Z[part], wall[part]
    u, v = X / width, (Y - middle) / depth
    side = u * u / (u * u + v * v + 1e-6)
    angle = np.degrees(np.arctan2(np.abs(u), -v))
    t = np.clip((Z - LOW) / (HIGH - LOW), 0, 1)
    d = np.asarray(d * (1 + (width / depth - 1) * side), np.float32)
    return Ring(X, Y, Z, d, (angle * (STEPS / 180)).astype(np.intp), angle, t * t * (3 - 2 * t),
                smooth[part], grain[part], hu[part])  # fmt: skip


def _breasts(r: Ring, body: Body) -> Field:
    """Thickness that a breast adds to the fat: lying, it is flat and falls to the side."""
    angle = r.degrees
    around = np.exp(-(((angle - 52) / np.where(angle < 52, np.float32(19), np.float32(27))) ** 2))
    return np.asarray(body.breast_mm * around * np.exp(-(((r.Z + 12) / np.where(r.Z < -12, np.float32(34), np.float32(55))) ** 2)))


def _soft(r: Ring, a: Anatomy, body: Body, voxel: float) -> tuple[Field, Field]:
    """Skin, fat, glands and muscles; returns where the outer layer of muscle starts and the inner one ends."""
    p = a.patient
    inner = r.read(INNER_MM) * (0.5 + 0.5 * body.muscle)
    inner *= 1 + 0.15 * np.sin((r.Z + body.breath_mm * _tabulated(RIB_FALL)[r.angle]) * (2 * np.pi / body.pitch_mm)) * (inner < 9.5)
    gap = r.read(GAP_MM) * (0.6 + 0.03 * p.fat_mm)
    outer = r.read(OUTER_MM) * body.muscle
    breast = _breasts(r, body)
    plane = inner, gap
    bounds = inner + gap + np.maximum(outer, 0)
    gap = gap * np.clip(1 + 0.5 * r.smooth, 0.3, 2)
    deep = r.depth - RIB_LAYER_MM
    under = r.read(WHOLE_MM, 18.0) * (0.3 + 0.7 * body.muscle)
    surface = deep - np.maximum(under, bounds + 1) - p.fat_mm * r.read(FAT_SHARE) - breast
    paint(r.hu, surface - SKIN_MM, p.hu["muscle"] - 35, voxel)
    fat = p.hu["fat"] + 5 * r.smooth
    paint(r.hu, surface, fat, voxel)
    septa = np.where(surface < -3, np.clip(0.35 - np.abs(r.grain), 0, 1) * np.clip(r.smooth + 0.6, 0, 1), 0)
    gland = np.clip((breast - 5) / 8, 0, 1) * np.clip(0.7 * r.grain + r.smooth + 0.3 - 0.8 * body.age, 0, 1)
    gland *= (p.sex == "F") * (surface < -6) * (deep > bounds + 3)
    r.hu += np.where((surface < 0) & (deep > bounds), 110 * septa + 135 * gland, np.float32(0))
    streak = (35 + 50 * body.age) * np.clip(r.grain + 0.5 * r.smooth - 1.3 + 0.5 * body.age, 0, 1)
    muscle = p.hu["muscle"] + 3 * r.grain - streak
    paint(r.hu, np.maximum(inner + gap - deep + 0.8 * r.smooth, deep - bounds - 0.6 * r.smooth), muscle, voxel)
    paint(r.hu, np.maximum(deep - inner, 1 - r.depth), muscle, voxel)
    return plane


def _ribs(r: Ring, a: Anatomy, body: Body, voxel: float) -> None:
    """Ribs, their cartilages and the muscles between them."""
    pitch = body.pitch_mm
    angle = r.degrees
    run = r.Z - body.level_mm - 6 + body.breath_mm * _tabulated(RIB_FALL)[r.angle] + 0.5 * pitch
    index = np.floor(run / pitch).astype(np.intp)
    across = run - (index.astype(np.float32) + 0.5) * pitch + 1.6 * r.smooth + body.ribs_mm[index % RIBS, (r.X > 0).astype(np.intp)]
    paint_sheet(r.hu, r.depth - 5.3, 0.35 + 0.45 * body.age, a.patient.hu["fat"], voxel)
    x = np.abs(r.X - 0.5 * float(a.marks.spine[0]))
    front: Field = np.clip(1 - (angle - 25) / 20, 0, 1)
    bar = rounded(0.86 * np.abs(across) - 3.6 - 1.2 * front, np.abs(r.depth - 4.8) - 0.5 - 1.1 * front, 2.9)
    bar = np.maximum(bar, np.where(angle < 90, 18 - x - 0.8 * np.minimum(r.Z + 75, 0), 35 - x))
    cartilage = angle < 33 + 0.13 * np.clip(30 - r.Z, 0, 120) + 1.5 * r.smooth
    marrow = 260 - 130 * body.age + 50 * r.grain
    cortex = np.where(bar > -1.3, np.float32(820 - 150 * body.age), marrow)
    calcified = np.clip(r.grain + 3 * body.age - 2.6 + np.where(bar > -1.6, np.float32(0.6), np.float32(0)), 0, 1)
    calcified *= np.where(bar > -2.6, np.float32(500), np.float32(0))
    paint(r.hu, bar, np.where(cartilage, 95 + 4 * r.grain + calcified, cortex), voxel)


def _sternum(r: Ring, a: Anatomy, body: Body, voxel: float) -> None:
    x = np.abs(r.X - 0.5 * float(a.marks.spine[0]))
    half = np.asarray(12 + 2.5 * np.sin(r.Z / 19) + 12 * np.clip((r.Z - 78) / 25, 0, 1) + 0.3 * np.minimum(r.Z + 55, 0), np.float32)
    bone: Field = rounded(x - half + 1.5, np.asarray(np.abs(r.depth - 6.2 + 0.7 * r.smooth) - 0.5, np.float32), 4.7)
    bone += 0.5 * r.grain
    bone = highest(bone, -(r.Z + 78), np.asarray(1.2 - np.abs(r.Z - 80), np.float32), r.Y - float(a.marks.spine[1]) + 60)
    marrow = 150 - 90 * body.age + 45 * r.grain
    cortex = 430 - 110 * body.age + 90 * r.grain
    paint(r.hu, bone, np.where(bone > -1.1 - 0.4 * r.grain, cortex, marrow), voxel)


def _shoulder_blades(r: Ring, inner: Field, gap: Field, voxel: float) -> None:
    """A thin plate between the layers of muscle, thicker at its outer border; lifted arms carry it outward."""
    degrees = r.degrees
    center = 133 - 0.10 * r.Z
    across = (np.abs(degrees - center) - 0.34 * np.clip(r.Z + 12, 0, 100)) * 2.0
    border = np.clip(1 - np.abs(degrees - (center - 0.31 * np.clip(r.Z + 12, 0, 100))) / 5, 0, 1)
    middle = inner + 0.5 * gap + RIB_LAYER_MM + 0.9 * r.smooth
    plate = np.maximum(np.abs(r.depth - middle) - 1.5 - 3.2 * border, across)
    paint(r.hu, np.maximum(plate, -12 - r.Z), np.where(plate > -1.3, np.float32(700), np.float32(260)), voxel)


def paint_chest_wall(a: Anatomy, body: Body, g: Grid, wall: Field, smooth: Field, grain: Field, image: Field) -> None:
    """Everything outside the pleura, painted into `image` in place; `smooth` and `grain` are random fields on `g`."""
    _table(a, body, g, image)
    part = wall > -3
    if not part.any():
        return
    r = _ring(a, g, wall, part, smooth, grain, image)
    inner, gap = _soft(r, a, body, g.voxel)
    if (r.Z > -14).any():
        _shoulder_blades(r, inner, gap, g.voxel)
    _ribs(r, a, body, g.voxel)
    _sternum(r, a, body, g.voxel)
    image[part] = r.hu


def _table(a: Anatomy, body: Body, g: Grid, image: Field) -> None:
    """The shell of a curved table top under the back, in unwarped coordinates: it is no part of the body."""
    back = float(a.marks.spine[1]) + 24 + RIB_LAYER_MM + 13 + 2 * body.muscle + 0.42 * a.patient.fat_mm + SKIN_MM + body.table_mm + 4
    rows = g.y > back - 70
    if not rows.any():
        return
    y, x = g.y[rows][:, None], g.x[None, :]
    top = back - 36 * (x / 215) ** 2
    bottom = top + 34 * np.clip(1 - (x / 215) ** 2, 0, 1)
    inside = np.maximum(top - y, y - bottom)
    shell: Field = np.asarray(image[:, rows])
    hu = np.broadcast_to(np.where(np.abs(x) < 213, AIR, np.float32(-1000)), inside.shape).astype(np.float32)
    paint(hu, inside, -930.0, g.voxel)
    paint_sheet(hu, np.where(np.abs(x) < 215, inside, np.float32(99)), 1.2, TABLE_HU, g.voxel)
    shell[:] = hu
    image[:, rows] = shell


AIR = np.float32(-1000)
