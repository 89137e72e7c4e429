"""The heart in HU: walls, veins, chambers with mixing contrast agent, papillary muscles, coronary arteries."""

import numpy as np

from auricle.phantom.anatomy import Anatomy
from auricle.phantom.heart import Heart
from auricle.phantom.shapes import FAR, Field, Grid, Vector, lowest, moved, spline, tube, unit
from auricle.phantom.thorax import Thorax, envelope, paint

CALCIUM_HU = 1100.0
LUMEN_AIR_HU = -985.0


class HeartPainter:
    """Paints one patient's heart over the background of one warped grid."""

    def __init__(self, anatomy: Anatomy, grid: Grid, heart: Heart, thorax: Thorax) -> None:
        self.a, self.g, self.heart, self.thorax = anatomy, grid, heart, thorax
        self.p, self.m, self.hu = anatomy.patient, anatomy.marks, anatomy.patient.hu
        self.image, self.voxel = thorax.image, grid.voxel
        self.inner = self.image[heart.box]
        self.mixing = anatomy.random["mixing"](grid)[0]
        self.local = grid.crop(heart.box) if self.inner.size else grid

    def paint_all(self) -> None:
        self._walls()
        self._veins()
        if self.inner.size:
            self._right_heart()
        paint(self.image, self.heart.pulmonary, self.hu["PA"] * (1 + 0.3 * self.p.blood_mixing * self.mixing), self.voxel)
        if self.inner.size:
            self._left_heart()
        paint(self.image, self.heart.aorta, self.hu["AO"], self.voxel)
        if self.inner.size:
            self._inside(self.heart.inner["LV"], self.hu["LV"] + 4 * self.mixing[self.heart.box])
            self._papillary_muscles()
            self._coronaries()

    def _inside(self, field: Field, hu: float | Field) -> None:
        paint(self.inner, field, hu, self.voxel)

    def _walls(self) -> None:
        """Thin walls around the chambers and the great vessels; atrial and right ventricular thickness are assumptions."""
        f = self.heart.inner
        if self.inner.size:
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
        paint(self.image, self.thorax.airways(), LUMEN_AIR_HU, self.voxel)

    def _right_heart(self) -> None:
        f, hu, k = self.heart.inner, self.hu, self.p.blood_mixing
        mixing, height = self.mixing[self.heart.box], self.local.Z - float(self.m.ra[2])
        from_ivc = np.clip((-5 - height) / 30, 0, 1) * (0.45 * (hu["IVC"] - hu["RA"]))
        from_svc = np.clip((height - 10) / 25, 0, 1) * (0.5 * (hu["SVC"] - hu["RA"]))
        self._inside(f["RA"], hu["RA"] * (1 + k * mixing) + from_ivc + from_svc)
        self._inside(f["RV"], hu["RV"] * (1 + 0.8 * k * mixing))

    def _left_heart(self) -> None:
        f, hu = self.heart.inner, self.hu
        self._inside(f["LAA"], hu["LAA"])
        self._inside(f["LA"], hu["LA"] + 6 * self.mixing[self.heart.box])
        muscle = np.maximum(f["EPI"], np.where(f["LA"] < 0, np.float32(1), np.float32(-FAR)))
        self._inside(muscle, hu["MYO"] + 5 * self.thorax.texture[1][self.heart.box])

    def _papillary_muscles(self) -> None:
        """Two muscles in the cavity; the label there stays LV."""
        m, b = self.m, 25 * self.m.scale * (1 - 0.3 * self.p.phase)
        for septal, up in ((-0.55, 0.62), (0.1, -0.78)):
            direction = b * (septal * m.septal + up * m.up)
            foot = m.base + 0.40 * m.length * m.axis + 0.52 * direction
            tip = m.base + 0.66 * m.length * m.axis + 0.80 * direction
            self._inside(tube(self.local, [foot, tip], [2.8 * m.scale, 4.2 * m.scale]), self.hu["MYO"])

    def _courses(self) -> dict[str, list[Vector]]:
        """LAD in the anterior groove between the ventricles, LCX and RCA in the grooves below the atria."""
        m = self.m
        radius = 25 * m.scale * (1 - 0.3 * self.p.phase) + 2.0 * self.p.volumes_ml["MYO"] ** 0.33

        def on_epicardium(angle: float, along: float) -> Vector:
            d = np.cos(np.deg2rad(angle)) * m.septal + np.sin(np.deg2rad(angle)) * m.up
            bulge = np.sqrt(max(1 - ((along - 0.31) / 0.80) ** 2, 0.05))
            return np.asarray(m.base + along * m.length * m.axis + d * (radius * bulge + 2.5))

        root = moved(m.aortic, -5, -2.5, 9.0)
        left = moved(root, 12, -6, 3)
        e1 = unit(np.cross(m.tricuspid_axis, [0, 0, 1.0]))
        e2 = np.cross(m.tricuspid_axis, e1)
        e2 = e2 * np.sign(e2[2])
        e1 = e1 * (1 if e1 @ [-1, -1, 0] > 0 else -1)
        ring = [m.tricuspid - 2 * m.tricuspid_axis + 22 * m.scale * (np.cos(q) * e2 + np.sin(q) * e1)
                for q in np.deg2rad([25, 60, 95, 130, 165])]  # fmt: skip
        return {
            "LAD": [left, *(on_epicardium(62 - 9 * k, 0.02 + 0.2 * k) for k in range(5))],
            "LCX": [left, *(on_epicardium(q, -0.03) for q in (85, 115, 145, 175, 205))],
            "RCA": [moved(root, -12, -9, 3), *ring],
        }

    def _coronaries(self) -> None:
        courses = self._courses()
        field = self.local.far()
        for course in courses.values():
            line = spline(np.c_[np.array(course), np.linspace(1.9, 1.2, len(course))], 16)
            tube(self.local, line[:, :3], line[:, 3], out=field, reach=4)
        f = self.heart.inner
        self._inside(np.maximum(field, 0.5 - lowest(f["LV"], f["AO"] + 1)), self.hu["AO"])
        if self.p.calcified:
            at = courses[self.p.calcified][2]
            self._inside(tube(self.local, [at, moved(at, 2, 1, -3)], 1.3, reach=4), CALCIUM_HU)


def paint_patient(anatomy: Anatomy, grid: Grid, heart: Heart, lobes: Field) -> Field:
    """The noise-free image of a patient on a warped grid, HU."""
    thorax = Thorax(anatomy, grid, heart)
    empty = np.zeros((0, 0, 0), np.float32)
    hull = envelope(heart, anatomy.patient.epicardial_fat_mm) if heart.inner["EPI"].size else empty
    thorax.paint_all(lobes, hull)
    HeartPainter(anatomy, grid, heart, thorax).paint_all()
    return thorax.image

