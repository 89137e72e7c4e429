"""The spine: vertebral bodies, discs, arches, processes, heads of the ribs and the spinal canal. Shapes are assumptions."""

import numpy as np

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.body import Body, paint
from auricle.phantom.shapes import Field, Grid, highest, lowest, smax

BODY_MM = 16.0
DISC_MM = 4.6
CANAL_BEHIND_MM = 21.0


def spine_center(a: Anatomy, body: Body, z: Field) -> Field:
    """Front-to-back position of the vertebral bodies at height z."""
    return np.asarray(float(a.marks.spine[1]) - body.spine_forward_mm - body.kyphosis_mm * ((z - 20) / 100) ** 2)


def tent(x: Field, y: Field) -> Field:
    """The lungs' border beside the spine, along the necks of the ribs; x and y from the vertebral body's center."""
    back = np.maximum(y - 1, 0)
    return np.asarray(0.7 * (np.abs(x) - 19 - 0.5 * back - 0.012 * back * back))


def _bar(g: tuple[Field, Field, Field], start: tuple[float, float], end: tuple[float, float], height: float, radius: float) -> Field:
    """A rounded bar from start to end (|x|, y) at `height` above the middle of its vertebra."""
    x, y, level = g
    ex, ey = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * ex + (y - start[1]) * ey) / (ex * ex + ey * ey), 0, 1)
    dx, dy, dz = x - start[0] - along * ex, y - start[1] - along * ey, 0.8 * (level - height)
    return np.asarray(np.sqrt(dx * dx + dy * dy + dz * dz) - radius)


def paint_spine(a: Anatomy, body: Body, grid: Grid, smooth: Field, grain: Field, image: Field) -> None:
    """Paint the spine into `image` in place, in the box that holds it."""
    x0, y0 = float(a.marks.spine[0]), float(a.marks.spine[1]) - body.spine_forward_mm
    box = grid.box((x0 - 58, y0 - 40, -1e4), (x0 + 58, y0 + 80, 1e4))
    inner = image[box]
    if inner.size == 0:
        return
    g, hu, pitch, voxel = grid.crop(box), a.patient.hu, body.pitch_mm, grid.voxel
    rough, coarse = grain[box], smooth[box]
    x = g.X - x0
    y = g.Y - spine_center(a, body, g.Z)
    level = np.asarray(np.mod(g.Z - body.level_mm + 0.06 * y + 0.5 * pitch, pitch) - 0.5 * pitch, np.float32)
    end = np.abs(level) / (0.5 * pitch)
    side = np.abs(x)
    trunk = np.hypot(0.86 * x, y + 1) - BODY_MM - (0.9 + 0.8 * body.age) * (end**3 - 0.5) - 0.3 * coarse
    trunk = smax(trunk, y - 11.5, 5)
    gap = 0.5 * pitch - 0.5 * DISC_MM - np.abs(level)  # how far inside the end plates
    canal = np.hypot(0.88 * x, y - CANAL_BEHIND_MM) - 8.2

    flat = (y > -2) & (y < 62)
    pedicle = _bar((side, y, 0.7 * (level - 4.5)), (11.5, 8), (12.5, 20), 0, 3.6)
    lamina = np.maximum(_bar((side, y, 0 * level), (13, 20.5), (0.5, 33), 0, 2.7), np.abs(level + 1) - 0.47 * pitch)
    slant = np.mod(level + 0.55 * np.maximum(y - 28, 0) + 6 + 0.5 * pitch, pitch) - 0.5 * pitch
    spinous = highest(side - 2.1 - 0.1 * np.maximum(y - 38, 0), np.abs(y - 42) - 11.5, np.abs(slant) - 8.5)
    transverse = _bar((side, y, level), (13, 21), (35, 31), 4.5, 4.4)
    joints = _bar((side, y, level), (13.5, 21), (13, 25), -8, 4.3)
    head = _bar((side, y, level), (19.5, 6), (38, 29), 8.5, 3.8)
    posterior = np.where(flat, lowest(pedicle, lamina, spinous, transverse, joints, head), np.float32(9))

    paint(inner, highest(tent(x, y) + 1.5, 7 - y, y - 45), hu["muscle"] - 40 * np.clip(rough + coarse - 0.9, 0, 1.5), voxel)
    marrow = 175 - 85 * body.age + (38 - 12 * body.age) * rough + 18 * coarse
    old = 150 * body.age
    paint(inner, trunk, 82.0, voxel)
    bone = np.maximum(trunk, -gap)
    shell = np.where(bone > -1.4, np.float32(620 - old), marrow)
    paint(inner, bone, np.where((gap < 1.0) & (trunk < -1.4), np.float32(430 - 0.5 * old), shell), voxel)
    arch = np.maximum(posterior, -canal)
    paint(inner, arch, np.where(arch > -1.6, np.float32(720 - old), marrow + 90), voxel)
    paint(inner, canal, np.where(canal > -2.2, np.float32(-30), np.float32(14)), voxel)
    paint(inner, np.hypot(0.8 * x, y - CANAL_BEHIND_MM) - 4.3, 38.0, voxel)
