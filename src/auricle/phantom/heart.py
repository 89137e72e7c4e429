"""The heart as implicit surfaces: fields of every structure, calibration of the volumes, labels.

Each chamber is a union of ellipsoids and tubes cut by its valves and by its neighbors. One offset in mm per chamber is
bisected on a 3 mm grid around the heart until the composite has the drawn volume; the same offsets then hold on any grid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.phantom.landmarks import (
    AORTIC_AXIS,
    LV_LENGTH_MM,
    PULMONARY_AXIS,
    Landmarks,
    Vessels,
    appendage,
)
from auricle.phantom.patient import Patient
from auricle.phantom.shapes import (
    FAR,
    Box,
    Field,
    Grid,
    ellipsoid,
    highest,
    lowest,
    moved,
    offset_for,
    plane,
    smax,
    smin,
    tube,
    unit,
)

HEART_BOX_LOW = (-89.0, -107.0, -101.0)
HEART_BOX_HIGH = (121.0, 91.0, 103.0)
"""World box (x, y, z in mm) that holds the chambers; only the great vessels leave it."""
ORDER = ("LAA", "RA", "RV", "PA", "LA", "MYO", "AO", "LV")
"""Where two structures overlap, the later one wins."""

RV_RADII = (42.1, 42.7, 39.9)
"""Half axes of the right ventricle's body along the left one's axis, toward the septum and up, mm at scale one."""
RA_RADII_MM = (21.8, 24.6, 28.8)
"""Half axes of the right atrium's front part at 90 mL."""
RA_BACK_OFFSET, RA_BACK_RADII_MM = (11.2, 11.3, -0.1), (18.7, 16.4, 22.8)
"""Center, from that of the front part, and half axes of the part beside the left atrium."""
LA_RADII_MM = np.array([27.4, 18.8, 25.1])
"""Half axes of the left atrium's front part at 75 mL."""
SHAPING = ("trabeculae", "lobes")

Fields = dict[str, Field]
IMMOVABLE = np.float32(-FAR)


class HeartBuilder:
    """Builds the fields of one patient's heart on one warped grid, in the order in which they depend on each other.

    Without `offsets` they are solved on this grid, which must then be the calibration grid.
    """

    def __init__(self, p: Patient, m: Landmarks, v: Vessels, noise: Fields, offsets: Mapping[str, float] | None) -> None:
        self.p, self.m, self.v, self.noise = p, m, v, noise
        self.calibrating = offsets is None
        self.offsets: dict[str, float] = dict(offsets or {})

    def great_vessels(self, g: Grid) -> tuple[Field, Field]:
        """Aorta and pulmonary arteries, not yet cut at their valves."""
        v = self.v
        aorta = tube(g, v.aorta[:, :3], v.aorta[:, 3])
        right = tube(g, v.upper_pa[:, :3], v.upper_pa[:, 3], out=tube(g, v.right_pa[:, :3], v.right_pa[:, 3]))
        branches = smin(right, tube(g, v.left_pa[:, :3], v.left_pa[:, 3]), 4)
        return aorta, highest(smin(tube(g, v.trunk[:, :3], v.trunk[:, 3]), branches, 4), 2.6 - aorta)

    def chambers(self, g: Grid, aorta: Field, pulmonary: Field) -> Fields:
        """All eight structures and the epicardium (EPI), given the great vessels on the same grid."""
        f: Fields = {}
        self._g = g
        self._left_ventricle(f, aorta)
        self._muscle(f)
        self._valved_pulmonary(f, pulmonary)
        self._left_atrium(f)
        self._right_ventricle(f)
        self._right_atrium(f)
        self._appendage(f)
        return {k: f[k] for k in (*ORDER, "EPI")}

    def _fit(self, key: str, field: Callable[..., Field], parts: tuple[Field, ...], low: float, high: float) -> Field:
        if self.calibrating:
            self.offsets[key] = offset_for(field, parts, self.p.volumes_ml[key], low, high, self._g.voxel_ml)
        return field(self.offsets[key], *parts)

    def _left_ventricle(self, f: Fields, aorta: Field) -> None:
        g, m = self._g, self.m
        a, s, n = m.axis, m.scale, m.length
        t = plane(g, m.base, a)
        along, across = 0.6875 * n, m.ventricle_radius * (1 - 0.22 * self.p.phase)
        cavity = ellipsoid(g, m.base + a * (n - along), [a, m.septal, m.up], [along, 0.96 * across, 1.04 * across])
        above = plane(g, m.aortic, AORTIC_AXIS)
        start = m.base + 0.22 * n * a + 2 * m.septal + 4 * m.up
        outflow = highest(tube(g, [start, m.aortic], [12.5 * s, self.p.aorta_mm["annulus"]]), above)

        def shape(offset: float, cavity: Field, base: Field, outflow: Field, rough: Field) -> Field:
            return smin(smax(cavity - offset, base, 5), outflow, 4) + rough

        rough = 0.6 * self.noise["trabeculae"]
        f["LV"] = self._fit("LV", shape, (cavity, -t, outflow, rough), -9, 9)
        f["smooth LV"] = f["LV"] - rough
        root = (g.Y - float(m.aortic[1]) < 26) & (g.Z - float(m.aortic[2]) < 30)
        f["AO"] = np.where(root, highest(aorta, -above), aorta)
        f["funnel"] = tube(g, [m.la * 0.35 + m.mitral * 0.65, m.mitral + 4 * a], [13 * s, 12.5 * s])
        f |= {"t": t, "cavity": cavity, "outflow": outflow, "above": above}

    def _muscle(self, f: Fields) -> None:
        t, funnel, lv = f["t"], f["funnel"], f["smooth LV"]
        thinning = 4.5 * np.clip(t / self.m.length, 0, 1) ** 6  # the wall thins toward the apex
        septal = np.clip(plane(self._g, self.m.base, self.m.septal) / 20, 0, 1)
        bulge = 2.5 * np.exp(-(((t - 10) / 16) ** 2)) * septal  # and is thickest in the septum's base
        epi0 = smin(f["cavity"] - self.offsets["LV"], f["outflow"] + 5, 6) + thinning - bulge
        cut = -t - 4
        # A thin cap closes the base around both valves, which stay open.
        cap = highest(lv - 3.2, f["above"] + 1, np.where(t < 8, -funnel, IMMOVABLE))
        hole = np.where(t < 3.5, -funnel, IMMOVABLE)
        blood = highest(-f["LV"], -f["AO"], hole)

        def epicardium(offset: float, epi0: Field, cut: Field, cap: Field) -> Field:
            return lowest(smax(epi0 - offset, cut, 4), cap)

        def muscle(offset: float, epi0: Field, cut: Field, cap: Field, blood: Field) -> Field:
            return highest(epicardium(offset, epi0, cut, cap), blood)

        f["MYO"] = self._fit("MYO", muscle, (epi0, cut, cap, blood), 2, 26)
        f["EPI"] = epicardium(self.offsets["MYO"], epi0, cut, cap)

    def _valved_pulmonary(self, f: Fields, pulmonary: Field) -> None:
        g, m = self._g, self.m
        f["above PV"] = plane(g, m.pulmonary, PULMONARY_AXIS)
        f["near PV"] = (g.Y - float(m.pulmonary[1]) < 16) & (g.Z - float(m.pulmonary[2]) < 12)  # type: ignore[assignment]
        trunk = np.where(f["near PV"], highest(pulmonary, -f["above PV"]), pulmonary)
        f["PA"] = highest(trunk, 2.6 - f["AO"], 2.6 - f["EPI"])

    def _left_atrium(self, f: Fields) -> None:
        g, c = self._g, self.m.la
        q = (self.p.volumes_ml["LA"] / 75) ** (1 / 3)
        radii = LA_RADII_MM * q
        body = smin(ellipsoid(g, c, np.eye(3), radii),
                    ellipsoid(g, moved(c, 0, 5, 2), np.eye(3), np.array([31, 15, 20]) * q), 8)  # fmt: skip
        stumps = g.far()
        for vein in self.v.veins.values():
            tube(g, vein[:2, :3], vein[:2, 3], out=stumps)
        valve = f["t"] - 0.5
        beyond = np.where(valve < -4, -f["EPI"], IMMOVABLE)
        limits = highest(valve, 1.8 - f["AO"], beyond, -f["LV"], 2 - f["PA"])
        orifice = highest(f["funnel"], valve, -f["LV"])

        def shape(offset: float, body: Field, funnel: Field, stumps: Field, limits: Field, orifice: Field) -> Field:
            narrow = 0.5 * min(offset, 0)  # what is attached shrinks with the atrium
            return lowest(highest(smin(smin(body - offset, funnel - narrow, 8), stumps - narrow, 5), limits), orifice)

        f["LA"] = self._fit("LA", shape, (body, f["funnel"], stumps, limits, orifice), -18, 12)

    def _right_ventricle(self, f: Fields) -> None:
        g, m = self._g, self.m
        s = m.scale
        q = float(np.clip((self.p.volumes_ml["RV"] / (165 * s**3)) ** (1 / 3), 0.62, 1.15))
        k = 0.45 + 0.55 * min(q, 1)
        radii = [RV_RADII[0] / LV_LENGTH_MM * m.length, RV_RADII[1] * s * (0.4 + 0.6 * q), RV_RADII[2] * s * q]
        body = ellipsoid(g, m.rv, [m.axis, m.septal, m.up], radii)
        inflow = tube(g, [m.tricuspid, m.tricuspid + 20 * m.tricuspid_axis], [16.5 * s * k, 15 * s * k])
        top = m.rv + 10 * s * m.septal + 12 * s * m.up
        bend = 0.5 * (m.pulmonary + top) + [0, -3, 0]
        outflow = tube(g, [top, bend, m.pulmonary + 1.5 * PULMONARY_AXIS],
                       [15 * s * k, 13.5 * s * k, 0.98 * self.p.pulmonary_mm])  # fmt: skip
        tubes = smin(inflow, outflow, 6)
        mouth = tube(g, [0.35 * bend + 0.65 * m.pulmonary, m.pulmonary + 1.5 * PULMONARY_AXIS], 0.95 * self.p.pulmonary_mm)
        beyond = plane(g, m.tricuspid, m.tricuspid_axis)
        dx, dy, dz = (c - float(v) for c, v in zip((g.X, g.Y, g.Z), m.tricuspid, strict=True))
        radius = np.sqrt(np.maximum(dx * dx + dy * dy + dz * dz - beyond * beyond, 0))
        groove = np.maximum(radius - 18 * s, 0) * 0.38  # the atrioventricular groove around the valve
        near, above = f["near PV"], f["above PV"]
        artery = np.where(near & (above < 1), IMMOVABLE, 1.6 - f["PA"])  # type: ignore[operator]
        limits = highest(groove - beyond, np.where(near, above, IMMOVABLE), -f["EPI"], 2.4 - f["AO"],
                         3 - f["smooth LV"], 3 - f["LA"], artery)  # fmt: skip

        def shape(offset: float, body: Field, tubes: Field, mouth: Field, limits: Field, rough: Field) -> Field:
            narrow = 0.6 * min(offset, 0)  # all but the valve's mouth shrinks with the ventricle
            return highest(smin(smin(body - offset, tubes - narrow, 9), mouth, 4) + rough, limits)

        f["RV"] = self._fit("RV", shape, (body, tubes, mouth, limits, 0.7 * self.noise["trabeculae"]), -18, 14)
        f["TV side"] = beyond + groove

    def _right_atrium(self, f: Fields) -> None:
        g, m = self._g, self.m
        c, s = m.ra, m.scale
        q = (self.p.volumes_ml["RA"] / 90) ** (1 / 3)
        body = smin(ellipsoid(g, c, np.eye(3), np.array(RA_RADII_MM) * q),
                    ellipsoid(g, moved(c, *RA_BACK_OFFSET), np.eye(3), np.array(RA_BACK_RADII_MM) * q), 10)  # fmt: skip
        tubes = tube(g, [c * 0.4 + m.tricuspid * 0.6, m.tricuspid + 2 * m.tricuspid_axis], [18 * s, 17 * s])
        tube(g, [moved(c, 6, -10, 14), moved(m.aortic, -25, -16, 12), moved(m.aortic, -14, -25, 18)], [11, 8.5, 5], out=tubes)
        for cava in (self.v.svc, self.v.ivc):
            tube(g, cava[:2, :3], cava[:2, 3], out=tubes)
        height = g.Z - float(c[2])
        limits = highest(f["TV side"], 1.8 - f["AO"], 2.2 - f["LA"], 1.2 - f["EPI"], -f["RV"], 2.2 - f["PA"],
                         np.abs(height) - 34)  # fmt: skip

        def shape(offset: float, body: Field, tubes: Field, limits: Field) -> Field:
            return highest(smin(body - offset, tubes - 0.6 * min(offset, 0), 7), limits)

        f["RA"] = self._fit("RA", shape, (body, tubes, limits), -14, 14)

    def _appendage(self, f: Fields) -> None:
        g, m, veins = self._g, self.m, self.v.veins
        (points, radii), *lobes = appendage(self.p, m)
        neck, body = tube(g, points, radii), g.far()
        for points, radii in lobes:
            body = smin(body, tube(g, points, radii), 2.5)
        body += self.noise["lobes"] * (1.1 if self.p.laa_morphology in ("cauliflower", "cactus") else 0.6)
        left = tube(g, veins["LI"][:, :3], veins["LI"][:, 3], out=tube(g, veins["LS"][:, :3], veins["LS"][:, 3]))
        # The appendage starts inside the atrium's wall, however small the atrium is.
        toward = unit([0.75, -0.6, 0.25])
        q = (self.p.volumes_ml["LA"] / 75) ** (1 / 3)
        reach = 1 / float(np.linalg.norm(toward / (LA_RADII_MM * q))) + self.offsets["LA"]
        mouth = -plane(g, m.la + toward * min(17.8, reach - 4), toward)
        limits = highest(mouth, -f["LA"], 2.2 - f["PA"], 2.2 - f["AO"], 2.2 - f["EPI"], 2.2 - left, 2.2 - f["RV"])

        def shape(offset: float, body: Field, neck: Field, limits: Field) -> Field:
            wide = max(offset, -0.5) + min(offset + 2.5, 0)  # the mouth keeps its width but in the smallest
            return highest(smin(body - offset, neck - wide, 2.5), limits)

        f["LAA"] = self._fit("LAA", shape, (body, neck, limits), -5, 6)


@dataclass(frozen=True)
class Heart:
    """Fields of a heart on a grid: the great vessels everywhere, the rest in the box that holds the chambers."""

    box: Box
    inner: Fields
    """MYO, LA, LV, RA, RV, AO, PA, LAA and EPI inside `box`."""
    aorta: Field
    pulmonary: Field
    offsets: Mapping[str, float]

    def labels(self) -> NDArray[np.uint8]:
        """The label map before cleaning, project ids."""
        label = np.zeros(self.aorta.shape, np.uint8)
        inside = label[self.box]
        outer = {"AO": self.aorta, "PA": self.pulmonary}
        for key in ORDER:
            if key in outer:
                label[outer[key] < 0] = ID[key]
            else:
                inside[self.inner[key] < 0] = ID[key]
        return label


def build_heart(
    p: Patient, m: Landmarks, v: Vessels, grid: Grid, noise: Fields, offsets: Mapping[str, float] | None = None
) -> Heart:
    """The heart's fields on a warped grid; `noise` holds the `SHAPING` fields on it."""
    builder = HeartBuilder(p, m, v, noise, offsets)
    aorta, pulmonary = builder.great_vessels(grid)
    box = grid.box(HEART_BOX_LOW, HEART_BOX_HIGH)
    inner: Fields = {}
    if aorta[box].size:
        builder.noise = {k: n[box] for k, n in noise.items()}
        inner = builder.chambers(grid.crop(box), aorta[box], pulmonary[box])
        aorta[box], pulmonary[box] = inner["AO"], inner["PA"]
    else:
        inner = {k: np.zeros((0, 0, 0), np.float32) for k in (*ORDER, "EPI")}
        box = (slice(0, 0),) * 3
    return Heart(box, inner, aorta, pulmonary, builder.offsets)


def clean(label: NDArray[np.uint8]) -> None:
    """Keep each structure's largest 6-connected piece, and every piece that the field of view may have cut off, in place."""
    for value, box in enumerate(ndimage.find_objects(label, len(ID)), 1):
        if box is None:
            continue
        pieces, count = ndimage.label(label[box] == value)
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            keep = sizes == sizes.max()
            for axis, (part, size) in enumerate(zip(box, label.shape, strict=True)):
                faces = np.moveaxis(pieces, axis, 0)
                for face, at_border in ((faces[0], part.start == 0), (faces[-1], part.stop == size)):
                    if at_border:
                        keep[np.unique(face)] = True
            label[box][(pieces > 0) & ~keep[pieces]] = 0
