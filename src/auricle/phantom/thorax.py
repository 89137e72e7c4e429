"""The body around the heart, painted in HU from back to front.

Tissue values follow published ranges; the shapes of the lungs, the mediastinum and the abdomen are assumptions.
"""

from functools import cached_property

import numpy as np

from auricle.phantom.abdomen import diaphragm, paint_abdomen
from auricle.phantom.anatomy import Anatomy, cavity_field
from auricle.phantom.body import Shade, draw_body, folded, paint
from auricle.phantom.chest_wall import paint_chest_wall
from auricle.phantom.heart import Heart
from auricle.phantom.lungs import lung_hu
from auricle.phantom.shapes import Field, Grid, Vector, highest, lowest, moved, smin, spline, tube
from auricle.phantom.vertebrae import BODY_MM, paint_spine, spine_center, tent

AIR_HU = -1000.0
GRAIN_MM = 70.0
"""Half extent of the field of fine texture, which is mirrored beyond."""
WIDE_MM = np.array([3.0, 0, 0])
"""The esophagus is flat: two tubes side by side."""

NODES = ((2, 2, -16, 4), (-7, 3, -22, 3), (-14, -14, 14, 3.5), (-12, -8, 32, 3), (24, -2, 4, 3), (16, -24, 26, 2.5), (-6, -38, 20, 2.5))
"""Lymph nodes: from the fork of the trachea, mm, and radius."""


class Thorax:
    """Paints one patient's body on one warped grid."""

    def __init__(self, anatomy: Anatomy, grid: Grid, heart: Heart) -> None:
        self.a, self.g, self.heart = anatomy, grid, heart
        self.p, self.m = anatomy.patient, anatomy.marks
        self.body = draw_body(self.p)
        self.hu = self.p.hu
        self.voxel = grid.voxel
        self.texture = anatomy.random["texture"](grid)
        self.grain = anatomy.random["grain"](folded(grid, GRAIN_MM))[0]
        self.wall = cavity_field(grid, self.m, anatomy.thorax_mm)
        self.front = float(self.m.spine[1]) + 24 - 2 * anatomy.thorax_mm[1]
        """Inner chest wall behind the sternum."""
        self.image = np.full(grid.shape, AIR_HU, np.float32)

    def over(self, field: Field, hu: float | Shade) -> None:
        paint(self.image, field, hu, self.voxel)

    def paint_all(self, envelope: Field) -> Field:
        """The whole background; `envelope` is the pericardium's surface in the heart's box."""
        a, g, body, smooth, grain, image = self.a, self.g, self.body, self.texture[0], self.grain, self.image
        paint_chest_wall(a, body, g, self.wall, smooth, grain, image)
        inside = self.wall + 0.6
        if (inside < self.voxel).any():
            full = g.far()
            full[self.heart.box] = envelope
            self.over(inside, self.hu["epicardial fat"] + 5 * smooth)
            below = diaphragm(a, g)
            if (below < self.voxel).any():
                paint_abdomen(a, body, g, below, self.wall, smooth, grain, image)
            lung = highest(inside, -self._mediastinum(full, below), -below)
            if (lung < self.voxel).any():
                self.over(lung, lung_hu(a, body, g, smooth, grain))
        paint_spine(a, body, g, smooth, grain, image)
        self._tubes()
        paint(image[self.heart.box], np.maximum(envelope, self.wall[self.heart.box] + 1),
              self.hu["epicardial fat"] + 8 * smooth[self.heart.box], self.voxel)  # fmt: skip
        return image

    def _behind(self) -> float:
        """How far back the left atrium reaches."""
        q = (self.p.volumes_ml["LA"] / 75) ** (1 / 3)
        return float(self.m.la[1] + max(19 * q, 5 + 15 * q) + self.a.offsets["LA"])

    def _esophagus(self) -> Vector:
        """Behind the trachea and the left atrium, then forward and left in front of the aorta; (n, 3)."""
        x, la = float(self.m.spine[0]), self.m.la
        fork = self.a.vessels.bifurcation
        at = self._behind() + 7.5
        knots = [[x + 3, fork[1] + 40, 160, 1], [x + 4, fork[1] + 38, fork[2] + 15, 1], [x + 8, at + 2, la[2] + 18, 1], [x + 9, at, la[2] - 4, 1],
                 [x + 12, at - 1, la[2] - 30, 1], [x + 18, at - 6, la[2] - 65, 1], [x + 26, at - 14, la[2] - 100, 1]]  # fmt: skip
        return spline(knots, 14)[:, :3]

    def _mediastinum(self, envelope: Field, below: Field) -> Field:
        """Everything between the lungs: the heart with its fat pads, the great vessels, the band to the spine."""
        g, m, aorta = self.g, self.m, self.a.vessels.aorta
        x = g.X - float(m.spine[0])
        y = spine_center(self.a, self.body, g.Z)
        core = 34 * np.hypot((g.X + 2) / 34, (g.Y - 14) / 46) - 34 + 1.2 * np.clip(20 - g.Z, 0, 60)
        ahead = g.Y - self.front
        wedge = np.abs(g.X - 3) - 2.5 - 0.42 * np.clip(ahead - 4, 0, 50) + 0.6 * np.clip(-30 - g.Z, 0, 60)
        wedge = np.maximum(0.92 * wedge, ahead - 55)
        middle = smin(smin(smin(envelope, below, 14), core, 12), wedge, 12)
        spine = smin(np.hypot(0.86 * x, g.Y - y) - BODY_MM - 3, np.maximum(tent(x, g.Y - y), y + 2 - g.Y), 8)
        course = self._esophagus()
        behind = tube(g, course, 9.5)
        tube(g, aorta[:, :3], aorta[:, 3] + 2, out=behind)
        tube(g, self._azygos(), 5.5, out=behind)
        behind = lowest(behind, self.heart.pulmonary - 2.5, self.airways - 4)
        for cava in (self.a.vessels.svc, self.a.vessels.ivc):
            tube(g, cava[:, :3], cava[:, 3] + 2.5, out=behind)
        # A band of fat from the esophagus to the spine.
        start = self._behind() - 6
        along = np.clip((g.Y - start) / (y - start), 0, 1)
        band = np.hypot(x - 7 * (1 - along), g.Y - start - along * (y - start)) - 13
        return smin(middle, smin(smin(behind, spine, 12), band, 14), 16)

    def _azygos(self) -> Vector:
        x, z = float(self.m.spine[0]) - 7, np.linspace(-150, 60, 8)
        front = spine_center(self.a, self.body, z.astype(np.float32)) - BODY_MM - 3.5
        arch = [[x - 6, front[-1] - 8, 72], [x - 16, front[-1] - 26, 76]]
        return np.concatenate([np.stack([np.full(8, x), front, z], 1), arch])

    def _tubes(self) -> None:
        """Airways, esophagus, azygos vein, internal mammary vessels."""
        hu, g = self.hu, self.g
        self.over(self.airways - 1.4, 30.0)
        course = self._esophagus()
        esophagus = tube(g, course + WIDE_MM, 4.6, out=tube(g, course - WIDE_MM, 4.6, reach=4), reach=4)
        self.over(esophagus, 46 + 4 * self.grain)
        lumen = tube(g, course, 2.2 if self.p.gas_in_esophagus else 1.5, reach=4)
        self.over(lumen, -700.0 if self.p.gas_in_esophagus else 25.0)
        self.over(tube(g, self._azygos(), 3.6, reach=4), 0.75 * hu["IVC"] + 0.25 * hu["MYO"])
        c = moved(self.a.vessels.bifurcation, -2, 24, 8)
        nodes = g.far()
        for (x, y, z, radius), shift in zip(NODES, 2 * self.body.nodes_mm, strict=True):
            at = moved(c, x, y, z) + shift
            tube(g, [moved(at, -2, -1, -1), moved(at, 2, 1, 1)], radius, out=nodes, reach=2)
        self.over(nodes, hu["muscle"] - 10)
        height = np.linspace(-110, 130, 9)
        for side in (-1, 1):
            for away, radius, blood in ((20.0, 1.3, hu["AO"]), (24.0, 1.1, hu["MYO"])):
                course = np.stack([np.full(9, side * away), np.full(9, self.front - 0.4), height], 1)
                self.over(tube(g, course, radius, reach=2), blood)

    @cached_property
    def airways(self) -> Field:
        """Trachea and main bronchi: surface of the air."""
        v = self.a.vessels
        fork = v.bifurcation
        c = np.array([-2, fork[1] + 24, fork[2] + 8])
        out = tube(self.g, [moved(c, 0, -4, 120), moved(c, 0, -4, 80), c], 8.5)
        for artery, side in ((v.right_pa, -1), (v.left_pa, 1)):
            hilum = [moved(artery[i, :3], -side * 5, 8, -3) for i in (-3, -1)]
            tube(self.g, [c, moved(c, side * 22, 5, -15), *hilum], [7, 6.2, 4.8, 3.4], out=out)
        return out


def envelope(heart: Heart, epicardial_fat_mm: float) -> Field:
    """Surface of the pericardium in the heart's box: a smooth hull of the chambers and their fat."""
    f = heart.inner
    hull = smin(smin(f["EPI"], f["RV"], 14), smin(f["LA"], f["RA"], 14), 18)
    return hull - (epicardial_fat_mm + 1.5)
