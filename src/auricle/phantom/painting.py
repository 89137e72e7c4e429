"""The heart in HU: walls, veins, chambers with mixing contrast agent, muscle strands, valves, coronary arteries, pericardium."""

import numpy as np
from numpy.typing import NDArray

from auricle.phantom.anatomy import Anatomy, inflows, swirled
from auricle.phantom.body import paint
from auricle.phantom.calcium import paint_calcium
from auricle.phantom.heart import Heart
from auricle.phantom.landmarks import AORTIC_AXIS, PULMONARY_AXIS, appendage
from auricle.phantom.shapes import FAR, Field, Grid, Vector, ellipsoid, highest, lowest, plane, spline, tube
from auricle.phantom.thorax import Thorax, envelope

LUMEN_AIR_HU = -985.0
EFFUSION_HU = 12.0
PERICARDIUM_HU = 20.0
PERICARDIUM_MM = 1.0
LEAFLET_MM = 1.2
"""Thickness of a valve's leaflet, an assumption."""
THROMBUS_HU = 62.0
STRANDS = {"LV": (4.0, 0.9), "RV": (6.5, 0.55), "RA": (3.5, 0.7), "LAA": (2.5, 0.9)}
"""Muscle strands inside each chamber: depth in mm and the level of a unit normal field above which they stand; assumptions.
The right ventricle is the coarsest, the left atrium smooth."""


def blend(image: Field, share: Field, hu: float | Field) -> None:
    """Mix `hu` into `image` in place where its `share` of the voxel is above zero."""
    at = share > 0
    old = image[at]
    image[at] = old + share[at] * ((hu[at] if isinstance(hu, np.ndarray) else hu) - old)


class HeartPainter:
    """Paints one patient's heart over the background of one warped grid."""

    def __init__(self, anatomy: Anatomy, grid: Grid, heart: Heart, thorax: Thorax) -> None:
        self.a, self.g, self.heart, self.thorax = anatomy, grid, heart, thorax
        self.p, self.m, self.hu = anatomy.patient, anatomy.marks, anatomy.patient.hu
        self.image, self.voxel = thorax.image, grid.voxel
        self.inner = self.image[heart.box]
        self.mixing = anatomy.random["mixing"](grid)[0]
        self.seen = bool(self.inner.size)
        self.local = grid.crop(heart.box) if self.seen else grid

    def paint_all(self, fat: Field, sac: Field) -> None:
        """Everything of the heart; `fat` is the surface of the epicardial fat and `sac` that of the pericardium, in the heart's box."""
        if self.seen:
            self._pericardium(fat, sac)
        self._walls()
        self._veins()
        if self.seen:
            self._right_heart()
        paint(self.image, self.heart.pulmonary, self._mixed("PA", 0.3, self.mixing), self.voxel)
        if self.seen:
            self._left_atrium()
        paint(self.image, self.heart.aorta, self.hu["AO"], self.voxel)
        if self.seen:
            self._inside(self.heart.inner["LV"], self.hu["LV"] + 4 * self.mixing[self.heart.box])
            self._strands()
            self._papillary_muscles()
            self._valves()
            self._coronaries()

    def _inside(self, field: Field, hu: float | Field) -> None:
        paint(self.inner, field, hu, self.voxel)

    def _sheet(self, distance: Field, within: Field, hu: float, thickness: float = LEAFLET_MM) -> None:
        """A sheet of `thickness` mm around `distance` zero, where `within` is below zero; thin ones fade, they do not thicken."""
        v = self.voxel
        share = np.clip(0.5 + (0.5 * thickness - distance) / v, 0, 1) + np.clip(0.5 + (0.5 * thickness + distance) / v, 0, 1) - 1
        blend(self.inner, share * np.clip(0.5 - within / v, 0, 1), hu)

    def _tube(self, line: Vector, hu: float) -> None:
        """A vessel along `line` (n, 4); one thinner than a voxel fills only its part of it."""
        field = tube(self.local, line[:, :3], line[:, 3], reach=3)
        filled = min(1.0, float(np.pi * (line[:, 3].mean() / self.voxel) ** 2))
        blend(self.inner, np.clip(0.5 - field / self.voxel, 0, filled), hu)

    def _pericardium(self, fat: Field, sac: Field) -> None:
        wall = self.thorax.wall[self.heart.box] + 1
        if self.p.effusion_mm > 0:
            paint(self.inner, np.maximum(sac, wall), EFFUSION_HU + 4 * self.thorax.texture[0][self.heart.box], self.voxel)
            paint(self.inner, np.maximum(fat, wall), self.hu["epicardial fat"] + 12 * self.thorax.texture[0][self.heart.box], self.voxel)
        self._sheet(sac, wall, PERICARDIUM_HU, PERICARDIUM_MM)

    def _walls(self) -> None:
        """Thin walls around the chambers and the great vessels; atrial and right ventricular thickness are assumptions."""
        f = self.heart.inner
        if self.seen:
            walls = lowest(f["RV"] - 3, f["LA"] - 1.8, f["RA"] - 2, f["LAA"] - 1, f["EPI"])
            self._inside(walls, self.hu["wall"])
        paint(self.image, lowest(self.heart.aorta - 1.6, self.heart.pulmonary - 1.2), self.hu["wall"], self.voxel)

    def _veins(self) -> None:
        g, v = self.g, self.a.vessels
        pulmonary = g.far()
        for vein in v.veins.values():
            tube(g, vein[:, :3], vein[:, 3], out=pulmonary)
        paint(self.image, pulmonary, self.hu["LA"], self.voxel)
        streaks = self.hu["SVC"] * (1 + 0.12 * self.mixing * (self.p.blood_mixing > 0))
        paint(self.image, tube(g, v.svc[:, :3], v.svc[:, 3]), streaks, self.voxel)
        paint(self.image, tube(g, v.ivc[:, :3], v.ivc[:, 3]), self.hu["IVC"], self.voxel)
        paint(self.image, self.thorax.airways, LUMEN_AIR_HU, self.voxel)

    def _right_heart(self) -> None:
        f, hu, mean = self.heart.inner, self.hu, self.a.mixing_mean
        mixing = swirled(self.mixing[self.heart.box], self.a.random["swirl"](self.local)[0])
        self._inside(tube(self.local, *self._coronary_sinus()), 0.5 * (hu["RA"] + hu["MYO"]))
        below, above = inflows(self.local.Z - np.float32(self.m.ra[2]))
        inflow = 0.45 * (hu["IVC"] - hu["RA"]) * (below - mean["from IVC"]) + 0.35 * (hu["SVC"] - hu["RA"]) * (above - mean["from SVC"])
        self._inside(f["RA"], self._mixed("RA", 1.0, mixing) + inflow)
        self._inside(f["RV"], self._mixed("RV", 0.8, mixing))

    def _mixed(self, key: str, strength: float, mixing: Field) -> Field:
        """HU of a chamber in which the contrast agent is not yet evenly mixed."""
        share = strength * self.p.blood_mixing * (mixing - np.float32(self.a.mixing_mean[key]))
        return np.asarray(self.hu[key] * (1 + share), np.float32)

    def _coronary_sinus(self) -> tuple[Vector, Vector]:
        """The vein in the groove below the left atrium, from beside the circumflex artery to the right atrium."""
        groove = self.a.coronaries["LCX"][14:, :3] + [0, 2, 1]
        end = 0.55 * self.m.ra + 0.45 * self.m.tricuspid + [6, 10, -6]
        line = spline(np.c_[np.vstack([groove[::4], end]), np.linspace(2.2, 5, len(groove[::4]) + 1)], 12)
        return line[:, :3], line[:, 3]

    def _left_atrium(self) -> None:
        f, hu = self.heart.inner, self.hu
        self._inside(f["LAA"], hu["LAA"])
        if "appendage filling defect" in self.p.pathology:
            chains = [points for points, _ in appendage(self.p, self.m)]
            mouth, ends = chains[0][1], np.array([points[-1] for points in chains[1:]])
            reach = 0.45 * float(np.linalg.norm(ends - mouth, axis=1).max())
            deep = -ellipsoid(self.local, mouth, np.eye(3), [reach] * 3)  # all that is farther from the mouth
            self._inside(highest(deep, f["LAA"]), THROMBUS_HU)
        self._inside(f["LA"], hu["LA"] + 6 * self.mixing[self.heart.box])
        muscle = np.maximum(f["EPI"], np.where(f["LA"] < 0, np.float32(1), np.float32(-FAR)))
        self._inside(muscle, hu["MYO"] + 5 * self.thorax.texture[1][self.heart.box])

    def _strands(self) -> None:
        """Trabeculae and pectinate muscles: dark strands along the cavities' walls; the label there stays the cavity's."""
        f, m = self.heart.inner, self.m
        field = self.a.random["strands"](self.local)[0]
        toward_apex = np.clip(plane(self.local, m.base, m.axis) / (0.35 * m.length), 0, 1)
        in_front = np.clip((float(m.ra[1]) + 8 - self.local.Y) / 12, 0, 1)
        for key, (depth, level) in STRANDS.items():
            reach = depth * {"LV": toward_apex, "RV": 0.4 + 0.6 * toward_apex, "RA": in_front}.get(key, np.float32(1))
            strand = highest(f[key], -f[key] - reach, 2.2 * (level - field))
            self._inside(strand, self.hu["MYO"])

    def _papillary_muscles(self) -> None:
        """Two muscles in the left cavity with their cords, and the right ventricle's moderator band; labels stay the cavity's."""
        m, b = self.m, 25 * self.m.scale * (1 - 0.3 * self.p.phase)
        for septal, up in ((-0.55, 0.62), (0.1, -0.78)):
            direction = b * (septal * m.septal + up * m.up)
            foot = m.base + 0.72 * m.length * m.axis + 0.86 * direction
            head = m.base + 0.40 * m.length * m.axis + 0.55 * direction
            self._inside(tube(self.local, [foot, head], [4.4 * m.scale, 2.6 * m.scale]), self.hu["MYO"])
            for toward in (-0.35, 0.35):
                leaflet = m.mitral + 6 * m.axis + toward * b * m.up
                self._tube(np.c_[np.stack([head, leaflet]), [0.6, 0.4]], self.hu["MYO"])
        septum = m.base + 0.62 * m.length * m.axis + (0.8 * b + 8) * m.septal
        band = np.stack([septum, septum + 9 * m.septal - 4 * m.up, septum + 20 * m.septal - 12 * m.up + 4 * m.axis])
        share = highest(tube(self.local, band, [2.4, 2.0, 2.6]), self.heart.inner["RV"])
        self._inside(share, self.hu["MYO"])

    def _polar(self, center: Vector, axis: Vector) -> tuple[Field, Field]:
        """Height above a valve's plane and distance from its axis, mm."""
        height = plane(self.local, center, axis)
        dx, dy, dz = (c - float(v) for c, v in zip((self.local.X, self.local.Y, self.local.Z), center, strict=True))
        return height, np.sqrt(np.maximum(dx * dx + dy * dy + dz * dz - height * height, 0))

    def _valves(self) -> None:
        """Thin leaflets: those between atria and ventricles open in diastole, those of the great arteries in systole."""
        m, p = self.m, self.p
        systole, muscle = p.phase > 0.5, self.hu["MYO"]
        if "mitral" not in p.scanner.replaced:
            self._inlet(m.mitral + 2 * m.axis, m.axis, 13 * m.scale, systole, muscle)
        self._inlet(m.tricuspid, m.tricuspid_axis, 16 * m.scale, systole, muscle)
        if "aortic" not in p.scanner.replaced:
            self._outlet(m.aortic, AORTIC_AXIS, p.aorta_mm["annulus"], systole, muscle)
        self._outlet(m.pulmonary, PULMONARY_AXIS, p.pulmonary_mm, systole, muscle)

    def _near(self, center: Vector) -> bool:
        return bool(self.local.z[0] - 30 < center[2] < self.local.z[-1] + 30)

    def _inlet(self, center: Vector, axis: Vector, radius: float, closed: bool, hu: float) -> None:
        """A mitral or tricuspid valve: tented when closed, a narrowing skirt toward the ventricle when open."""
        if not self._near(center):
            return
        height, across = self._polar(center, axis)
        if closed:
            self._sheet(height - 5 * (1 - across / radius), across - radius, hu)
        else:
            self._sheet(across - radius + 0.3 * height, np.abs(height - 8) - 8, hu)

    def _outlet(self, center: Vector, axis: Vector, radius: float, open_: bool, hu: float) -> None:
        """An aortic or pulmonary valve: three cusps that meet in a star when closed, a tube when open."""
        if not self._near(center):
            return
        height, across = self._polar(center, axis)
        if open_:
            self._sheet(across - radius + 1.5, np.abs(height - 6) - 5, hu)
            return
        e1 = np.cross(axis, [0, 1.0, 0])
        e1, e2 = e1 / np.linalg.norm(e1), np.cross(axis, e1 / np.linalg.norm(e1))
        x, y = plane(self.local, center, e1), plane(self.local, center, e2)
        seam = 0.5 + 0.5 * np.cos(3 * np.arctan2(y, x))  # one where two cusps meet
        share = np.minimum(across / radius, 1)
        self._sheet(height - 1 - 7 * seam**2 * share - 4 * (1 - share), across - radius - 1, hu)

    def _coronaries(self) -> None:
        for line in self.a.coronaries.values():
            wall = line + np.array([0, 0, 0, 0.5])
            self._tube(wall, self.hu["wall"])
            self._tube(line, self.hu["AO"])
        paint_calcium(self.a, self.local, self.inner)


def _sac(anatomy: Anatomy, grid: Grid, fat: Field) -> Field:
    """The pericardium's surface: around the fat, and with an effusion farther behind and below the heart, where fluid gathers."""
    if anatomy.patient.effusion_mm <= 0:
        return fat
    _, y, z = anatomy.center
    low = np.clip(0.55 + (grid.Y - float(y)) / 110 - (grid.Z - float(z)) / 130, 0.15, 1)
    return np.asarray(fat - np.float32(anatomy.patient.effusion_mm) * low, np.float32)


def paint_patient(anatomy: Anatomy, grid: Grid, heart: Heart) -> NDArray[np.float32]:
    """The noise-free image of a patient on a warped grid, HU."""
    thorax = Thorax(anatomy, grid, heart)
    fat = sac = np.zeros((0, 0, 0), np.float32)
    if heart.inner["EPI"].size:
        fat = envelope(heart, anatomy.patient.epicardial_fat_mm)
        sac = _sac(anatomy, grid.crop(heart.box), fat)
    thorax.paint_all(sac)
    HeartPainter(anatomy, grid, heart, thorax).paint_all(fat, sac)
    return thorax.image
