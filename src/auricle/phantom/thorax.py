"""The body around the heart, painted in HU from back to front.

Tissue values follow published ranges; the shapes of the chest wall, the lungs and the abdomen are assumptions.
Painting with alpha = clip(1/2 - field / voxel, 0, 1) gives partial volume at every edge.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.phantom.anatomy import Anatomy, cavity_field
from auricle.phantom.heart import Heart
from auricle.phantom.shapes import Field, Grid, ellipsoid, highest, lowest, moved, smin, tube

Shade = NDArray[np.floating[Any]]
"""HU of a tissue at every voxel."""

AIR_HU = -1000.0
MUSCLE_MM = 13.0
"""Muscle of the chest wall, outside 9 mm of ribs."""
RIB_MM = 9.0
RIB_PITCH_MM = 27.0
DISC_PITCH_MM = 25.0


def paint(image: Field, field: Field, hu: float | Shade, voxel: float) -> None:
    """Composite tissue of `hu` over `image` where `field` is inside, in place; the edge is one `voxel` wide."""
    near = field < 0.5 * voxel
    alpha = np.minimum(0.5 - field[near] / voxel, 1)
    old = image[near]
    image[near] = old + alpha * ((hu[near] if isinstance(hu, np.ndarray) else hu) - old)


class Thorax:
    """Paints one patient's body on one warped grid."""

    def __init__(self, anatomy: Anatomy, grid: Grid, heart: Heart) -> None:
        self.a, self.g, self.heart = anatomy, grid, heart
        self.p, self.m = anatomy.patient, anatomy.marks
        self.hu = self.p.hu
        self.voxel = grid.voxel
        self.texture = anatomy.random["texture"](grid)
        self.wall = cavity_field(grid, self.m, anatomy.thorax_mm)
        self.front = float(self.m.spine[1]) + 24 - 2 * anatomy.thorax_mm[1]
        """Inner chest wall behind the sternum."""
        self.image = np.full(grid.shape, AIR_HU, np.float32)

    def over(self, field: Field, hu: float | Shade) -> None:
        paint(self.image, field, hu, self.voxel)

    def paint_all(self, lobes: Field, envelope: Field) -> Field:
        """The whole background; `envelope` is the pericardium's surface in the heart's box."""
        self._wall(lobes)
        self._ribs()
        self._sternum(lobes)
        full = self.g.far()
        full[self.heart.box] = envelope
        self._interior(full)
        self._spine()
        self._airways()
        paint(self.image[self.heart.box], np.maximum(envelope, self.wall[self.heart.box] + 1),
              self.hu["epicardial fat"] + 8 * self.texture[0][self.heart.box], self.voxel)  # fmt: skip
        return self.image

    def _wall(self, lobes: Field) -> None:
        g, fat = self.g, self.p.fat_mm
        skin = self.wall - (MUSCLE_MM + RIB_MM + fat)
        self.over(skin - 1.5, self.hu["muscle"] - 40)
        adipose = self.hu["fat"] + 12 * self.texture[0]
        if self.p.sex == "F":
            breasts = g.far()
            for side in (-1, 1):
                ellipsoid(g, [78 * side, self.front - 24, -20], np.eye(3), [58, 34 + 0.5 * fat, 55], out=breasts)
            self.over(breasts - 1.5, self.hu["muscle"] - 40)
            self.over(breasts, adipose)
        self.over(skin, adipose)
        if self.p.sex == "F":
            gland: Shade = adipose + 90 * np.clip(self.texture[1], 0, 1)
            self.over(highest(breasts + 14, skin - 30), gland)
        layers = self.wall - (MUSCLE_MM + RIB_MM) + lobes
        self.over(layers, self.hu["muscle"])
        gap = np.abs(self.wall - (RIB_MM + 6.5) + 1.5 * lobes) - 0.9  # a plane of fat between the muscles
        self.over(np.asarray(gap, np.float32), self.hu["fat"])

    def _ribs(self) -> None:
        g = self.g
        run = g.Z + 0.5 * (float(self.m.spine[1]) - g.Y) + 8 * self.p.jitter["ribs"][0]
        across = np.mod(run, RIB_PITCH_MM) - RIB_PITCH_MM / 2
        rib = np.hypot(0.9 * across, 1.25 * (self.wall - 5)) - 5.6
        cartilage = np.broadcast_to(self.front + 0.38 * self.a.thorax_mm[1] > g.Y, rib.shape)
        bone: Field = np.where(rib > -2, np.float32(720), np.float32(260))
        self.over(rib, np.where(cartilage, np.float32(105), bone))

    def _sternum(self, lobes: Field) -> None:
        g = self.g
        x = np.maximum(np.abs(g.X - float(0.5 * self.m.spine[0])) - 13 + 0.8 * lobes, 0)
        y = np.maximum(np.abs(g.Y - (self.front - 5) - 0.04 * g.Z) - 1.5, 0)
        bone = np.maximum(np.hypot(x, y) - 4, -(g.Z + 75))
        self.over(bone, np.where(bone > -1.6, np.float32(430), 170 + 40 * self.texture[1]))

    def _diaphragm(self) -> Field:
        """Domes over the liver (right, higher) and the stomach (left); everything well below them is abdomen."""
        g, top = self.g, self.p.dome_mm
        right = ellipsoid(g, [-62, 10, top - 105], np.eye(3), [92, 92, 105])
        left = ellipsoid(g, [62, 12, top - 122], np.eye(3), [88, 88, 105])
        # Between the domes the heart rests on it.
        low = self.a.floor_mm
        center = ellipsoid(g, [12, -8, low - 54], np.eye(3), [85, 75, 60])
        domes = smin(smin(right, left, 25), center, 20)
        return lowest(domes, g.Z - (min(top, low) - 92))

    def _mediastinum(self, envelope: Field) -> Field:
        g, m, aorta = self.g, self.m, self.a.vessels.aorta
        x = g.X - float(m.spine[0])
        core = 34 * np.hypot((g.X + 2) / 34, (g.Y - 14) / 46) - 34 + 1.2 * np.clip(20 - g.Z, 0, 60)
        spine = np.hypot(0.79 * x, g.Y - float(m.spine[1] + 4)) - 27
        strip = np.hypot(2.45 * (g.X - 3), g.Y - (self.front + 10)) - 20
        middle = smin(smin(smin(envelope, core, 12), spine, 10), strip, 10)
        return lowest(middle, tube(g, aorta[:, :3], aorta[:, 3] + 3))

    def _lung_hu(self) -> Field:
        """Parenchyma, denser toward the back, with vessels where two random fields are both near zero."""
        a, g = self.a, self.g
        lying = 0.35 * (g.Y - float(self.m.spine[1] + 24 - a.thorax_mm[1]))
        hu = self.hu["lung"] + 18 * self.texture[0] + lying
        coarse, fine = (a.random[k](g) for k in ("lung a", "lung b"))
        tree = np.exp(-(coarse[0] ** 2 + coarse[1] ** 2) / 0.035) + 0.6 * np.exp(-(fine[0] ** 2 + fine[1] ** 2) / 0.05)
        return np.asarray(hu + np.minimum(tree, 1) * (480 if self.p.contrast == "none" else 620))

    def _interior(self, envelope: Field) -> None:
        """Fat of the mediastinum, liver and stomach, lungs."""
        g, inside = self.g, self.wall + 1
        self.over(inside, self.hu["epicardial fat"] + 8 * self.texture[0])
        below = self._diaphragm()
        abdomen = highest(inside, below + 2)
        self.over(abdomen, self._organs())
        lung = highest(inside, -self._mediastinum(envelope), -below)
        if (lung < self.voxel).any():
            self.over(lung, self._lung_hu())
        gas = ellipsoid(g, [58, -22, self.p.dome_mm - 42], np.eye(3), [30, 26, 18])
        self.over(np.maximum(gas, below + 8), AIR_HU + 40)

    def _organs(self) -> Field:
        """Liver to the right, stomach and spleen to the left, kept apart by fat."""
        g = self.g
        liver = (g.X - 25 + 0.35 * (g.Z - self.p.dome_mm) + 6 * self.texture[0]) < 0
        hu: Field = np.where(liver, self.hu["liver"] + 4 * self.texture[1], 35 + 6 * self.texture[1])
        spleen = ellipsoid(g, [88, 62, self.p.dome_mm - 66], np.eye(3), [30, 42, 45])
        paint(hu, spleen, self.hu["liver"] + 8, self.voxel)
        return hu

    def _spine(self) -> None:
        g, m = self.g, self.m
        x, y = g.X - float(m.spine[0]), g.Y - float(m.spine[1])
        self.over(np.hypot(0.79 * x, y - 4) - 24, self.hu["muscle"])
        body = np.hypot(0.79 * x, y + 2) - 15.5
        level = np.mod(g.Z + 10 * self.p.jitter["discs"][0], DISC_PITCH_MM)
        bone = np.where(body > -2.2, np.float32(480), 210 + 45 * self.texture[1])
        self.over(body, np.where(level < 4, np.float32(90), bone))
        canal = np.hypot(x, y - 20) - 8
        arch = np.maximum(canal - 5, -canal)
        process = highest(np.abs(x) - 4, np.abs(y - 40) - 14, np.abs(level - 12) - 8)
        transverse = highest(np.abs(x) - 30, np.abs(y - 24) - 5, np.abs(level - 12) - 6)
        self.over(lowest(arch, process, transverse), 420.0)
        self.over(canal, 30.0)

    def airways(self) -> Field:
        """Trachea and main bronchi: surface of the air."""
        fork = self.a.vessels.bifurcation
        c = np.array([-2, fork[1] + 24, fork[2] + 8])
        out = tube(self.g, [moved(c, 0, -4, 120), moved(c, 0, -4, 80), c], 8.5)
        right = [c, moved(c, -22, 4, -14), moved(c, -48, 6, -32), moved(c, -60, 10, -60)]
        left = [c, moved(c, 24, 6, -18), moved(c, 46, 14, -34), moved(c, 56, 20, -60)]
        tube(self.g, right, [7, 6.5, 5, 3], out=out)
        return tube(self.g, left, [6.5, 6, 4.5, 3], out=out)

    def _airways(self) -> None:
        x, y, _ = self.m.spine
        self.over(self.airways() - 1.8, 30.0)
        course = [[x + 6, y - 30, 140], [x + 9, y - 29, 40], [x + 11, y - 30, -20], [x + 16, y - 38, -90]]
        esophagus = tube(self.g, course, 7)
        self.over(esophagus, 42.0)
        self.over(esophagus + 5.4, -600.0 if self.p.gas_in_esophagus else 30.0)


def envelope(heart: Heart, epicardial_fat_mm: float) -> Field:
    """Surface of the pericardium in the heart's box: a smooth hull of the chambers and their fat."""
    f = heart.inner
    hull = smin(smin(f["EPI"], f["RV"], 14), smin(f["LA"], f["RA"], 14), 18)
    return hull - (epicardial_fat_mm + 1.5)
