"""Where the valves, chambers and vessels of one patient lie (LPS mm, see `auricle.phantom.shapes`).

Offsets between landmarks and the courses of the vessels are assumptions, set by eye against published anatomy and
scaled with the left ventricle; radii are drawn in `auricle.phantom.patient`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.phantom.patient import Patient
from auricle.phantom.scanner import stream
from auricle.phantom.shapes import Vector, moved, spline, unit

AORTIC_AXIS = unit([-5, -2.5, 9])
"""Direction of flow through the aortic valve."""
PULMONARY_AXIS = unit([2.5, 9, 13])
"""Direction of flow through the pulmonary valve."""
AORTIC_OFFSET = (-11.7, 15.3, 12.1)
"""From the ventricle's base to the aortic valve, mm along its axis, toward the septum and up."""
MITRAL_OFFSET = (-1.9, -8.1, -6.0)
"""From the ventricle's base to the mitral valve, in the same axes."""
RV_OFFSET = (20.4, 30.9, 4.0)
"""From the ventricle's base to the center of the right ventricle's body, in the same axes."""
TRICUSPID_OFFSET = (3.9, 7.2, -4.3)
"""The tricuspid valve's distance from half way between right atrium and septum, in the same axes."""
PULMONARY_OFFSET = (8.9, -25.3, 19.0)
"""From the aortic to the pulmonary valve, mm."""
LA_OFFSET = (-21.1, 8.1, 19.6)
"""From the mitral valve to the center of the left atrium, mm."""
RA_OFFSET = (-34.9, -1.3, -12.0)
"""From the aortic valve to the center of the right atrium, mm."""
TYPICAL_ML = {"LA": 64.0, "RA": 80.0}
"""Volumes at which the offsets of the atria hold; larger atria lie farther from their valves."""
FORK_OFFSET = (2.0, 35.0, 37.0)
"""From the pulmonary valve to the bifurcation of the pulmonary artery, mm."""
LV_LENGTH_MM = 85.0
"""From base to apex of a left ventricle of scale one at end-diastole."""
LV_CM3 = 125.0
"""End-diastolic volume of a left ventricle of scale one, mL."""


@dataclass(frozen=True)
class Landmarks:
    """Points of the heart and the unit axes of the left ventricle."""

    axis: Vector
    """Base to apex."""
    septal: Vector
    """Across the ventricle toward the septum."""
    up: Vector
    scale: float
    """Linear scale of the left ventricle at end-diastole, (EDV / 125 mL)^(1/3)."""
    base: Vector
    length: float
    """Base to apex in this phase, mm."""
    aortic: Vector
    mitral: Vector
    pulmonary: Vector
    tricuspid: Vector
    tricuspid_axis: Vector
    la: Vector
    ra: Vector
    rv: Vector
    spine: Vector

    @property
    def overall(self) -> float:
        """Scale of the parts around the ventricle: half of the ventricle's deviation from one."""
        return 0.5 * (self.scale + 1)

    @property
    def ventricle_radius(self) -> float:
        return 24.7 * self.scale


@dataclass(frozen=True)
class Vessels:
    """Center lines with radii, each (n, 4) = x, y, z, radius."""

    aorta: Vector
    trunk: Vector
    right_pa: Vector
    upper_pa: Vector
    """The right artery's branch to the upper lobe."""
    left_pa: Vector
    veins: Mapping[str, Vector]
    """Pulmonary veins: LS, LI, RS, RI and, in some, RM."""
    svc: Vector
    ivc: Vector
    bifurcation: Vector


def _axes(p: Patient) -> tuple[Vector, Vector, Vector]:
    az, el, roll = np.deg2rad([p.azimuth_deg, p.elevation_deg, p.roll_deg])
    axis = np.array([np.cos(el) * np.sin(az), -np.cos(el) * np.cos(az), -np.sin(el)])
    r0 = np.array([-np.cos(az), -np.sin(az), 0.0])
    u0 = np.cross(r0, axis)
    u0 *= np.sign(u0[2])
    return axis, np.cos(roll) * r0 - np.sin(roll) * u0, np.cos(roll) * u0 + np.sin(roll) * r0


def find_landmarks(p: Patient) -> Landmarks:
    """Place the landmarks of a patient; the valve plane descends toward the apex in systole."""
    axis, septal, up = _axes(p)
    s = (p.lv_edv_ml / LV_CM3) ** (1 / 3)
    h = 0.5 * (s + 1)
    j = {name: np.array(v) for name, v in p.jitter.items()}
    base = np.array([12.0, 2.0, 0.0]) + j["base"] * [2, 2, 0]
    apex = base + LV_LENGTH_MM * s * axis
    base = base + 12 * s * p.phase * axis
    length = float((apex - base) @ axis)
    frame = np.stack([axis, septal, up])
    aortic = base + s * np.array(AORTIC_OFFSET) @ frame
    mitral = base + s * np.array(MITRAL_OFFSET) @ frame
    rv = base + np.array([RV_OFFSET[0] * length / LV_LENGTH_MM, s * RV_OFFSET[1], s * RV_OFFSET[2]]) @ frame
    q_la, q_ra = ((p.volumes_ml[k] / TYPICAL_ML[k]) ** (1 / 3) for k in ("LA", "RA"))
    ra = aortic + h * (0.6 + 0.4 * q_ra) * np.array(RA_OFFSET) + 2.5 * j["ra"]
    septum = base + np.array([0.15 * length, 32 * s, -8 * s]) @ frame
    tricuspid = 0.5 * (ra + septum) + s * np.array(TRICUSPID_OFFSET) @ frame
    return Landmarks(
        axis=axis, septal=septal, up=up, scale=s, base=base, length=length, aortic=aortic, mitral=mitral,
        pulmonary=aortic + s * np.array(PULMONARY_OFFSET) + 2 * j["pv"], tricuspid=tricuspid, tricuspid_axis=unit(rv - ra),
        la=mitral + h * (0.4 + 0.6 * q_la) * np.array(LA_OFFSET) + j["la"] * [2.5, 2, 2.5], ra=ra, rv=rv,
        spine=np.array([0, 78.0, 0]) + j["spine"] * [2, 3, 0],
    )  # fmt: skip


def _aorta(p: Patient, m: Landmarks) -> Vector:
    (x, y, z), r = m.aortic, p.aorta_mm
    jx, jy, jz = 2 * np.array(p.jitter["ascending"])
    dx = m.spine[0] + 27 + 3 * p.jitter["descending"][0]
    dy = m.spine[1] - 20 + 2 * p.jitter["descending"][1]
    return spline([
        [x, y, z, r["annulus"]], [x - 5, y - 2.5, z + 9, r["sinus"]], [x - 10, y - 4, z + 21, r["junction"]],
        [x - 19 + jx, y - 6 + jy, z + 45 + jz, r["ascending"]], [x - 14, y + 2, z + 72, 0.95 * r["ascending"]],
        [x + 4, y + 26, z + 88, r["arch"]], [0.5 * (x + dx) + 8, dy - 14, z + 82, r["arch"]],
        [dx + 3, dy, z + 55, r["descending"]], [dx + 1, dy + 1, z, r["descending"]],
        [dx - 4, dy - 1, z - 70, 0.96 * r["descending"]], [dx - 12, dy - 8, z - 140, 0.9 * r["descending"]],
    ], 34)  # fmt: skip


def _around(origin: Vector, rows: Sequence[Sequence[float]], scale: float = 1.0) -> Vector:
    """Knots given relative to `origin`, radii times `scale`."""
    k = np.array(rows, float)
    k[:, :3] += origin
    k[:, 3] *= scale
    return k


VEINS: Mapping[str, list[list[float]]] = {
    "LS": [[18, 3, 13, 9], [34, 8, 23, 7.5], [50, 6, 36, 5.5], [62, 0, 54, 3.5]],
    "LI": [[16, 9, -6, 8], [34, 17, -9, 6.5], [49, 30, -16, 5], [59, 40, -36, 3.2]],
    "RS": [[-18, -1, 12, 9.5], [-36, -2, 19, 8], [-52, -6, 27, 5.5], [-63, -13, 41, 3.5]],
    "RI": [[-16, 8, -6, 8.5], [-34, 17, -12, 7.2], [-49, 29, -20, 5], [-59, 40, -40, 3.2]],
}
"""Courses of the four pulmonary veins from the atrium's center, mm."""
COMMON_TRUNK: list[list[float]] = [[15, 6, 3, 11.5], [30, 11, 6, 9.5]]
"""Where both left veins begin when they share a trunk."""
MIDDLE_VEIN: list[list[float]] = [[-17, 3, 3, 6], [-36, 6, 3, 5], [-53, 2, 1, 3.8], [-64, -5, -6, 2.6]]


def _veins(p: Patient, m: Landmarks) -> dict[str, Vector]:
    courses: dict[str, list[list[float]]] = dict(VEINS)
    if p.veins == "left common trunk":
        courses |= {k: [*COMMON_TRUNK, *VEINS[k][2:]] for k in ("LS", "LI")}
    if p.veins == "right middle vein":
        courses["RM"] = MIDDLE_VEIN
    # A larger atrium has its veins farther apart and wider.
    k = 0.4 + 0.6 * (p.volumes_ml["LA"] / TYPICAL_ML["LA"]) ** (1 / 3)
    near = np.array([k, k, k, 0.3 + 0.7 * k])
    return {name: spline(np.array(v) * near + [*m.la, 0], 7) for name, v in courses.items()}


def find_vessels(p: Patient, m: Landmarks) -> Vessels:
    """Lay the center lines of the great vessels."""
    pv, r = m.pulmonary, p.pulmonary_mm
    fork = moved(pv, *FORK_OFFSET) + 2 * np.array(p.jitter["bifurcation"])
    middle = 0.5 * (pv + fork) + [2, 1, 6]
    trunk = [[*pv, 0.95 * r], [*moved(pv, 2.5, 9, 13), 1.05 * r], [*middle, r], [*fork, r]]
    # Behind the ascending aorta and the superior vena cava, then down along the hilum.
    right: list[list[float]] = [
        [0, 0, 0, 0.85], [-14, 8, 1, 0.82], [-29, 11, -1, 0.80], [-43, 12, -6, 0.76], [-54, 17, -18, 0.66],
        [-59, 25, -36, 0.52], [-61, 32, -56, 0.36],
    ]  # fmt: skip
    upper: list[list[float]] = [[-40, 12, -5, 0.55], [-50, 7, 6, 0.50], [-57, 0, 20, 0.42], [-61, -6, 36, 0.30]]
    left: list[list[float]] = [[0, 0, 0, 0.85], [14, 13, 5, 0.82], [28, 30, 3, 0.70], [36, 40, -16, 0.55], [40, 44, -42, 0.38]]
    svc: list[list[float]] = [[2, 2, 10, 10], [3, 2, 38, 9.5], [4, -2, 80, 9], [8, -8, 120, 9]]
    ivc: list[list[float]] = [[4, 8, -12, 12], [8, 17, -36, 12], [10, 30, -80, 12], [12, 36, -130, 11]]
    return Vessels(
        aorta=_aorta(p, m), trunk=spline(trunk, 8), right_pa=spline(_around(fork, right, r), 14),
        upper_pa=spline(_around(fork, upper, r), 6),
        left_pa=spline(_around(fork, left, r), 10), veins=_veins(p, m),
        svc=spline(_around(m.ra, svc), 7), ivc=spline(_around(m.ra, ivc), 7), bifurcation=fork,
    )  # fmt: skip


LAA_STRETCH = 1.3
"""Lengths of the appendage's parts at 7 mL, growing with its cube root: brings it to the published 44 +- 11 mm."""
LAA_OSTIUM = (27.0, -3.0, 5.0)
"""From the atrium's center to the appendage's mouth, mm."""

Chain = tuple[Vector, list[float]]


def appendage(p: Patient, m: Landmarks) -> list[Chain]:
    """The left atrial appendage as chains of round cones: points (n, 3) and radii (n)."""
    rng = stream(p.seed, "appendage")
    mouth = moved(m.la, *LAA_OSTIUM)
    out = unit(np.array([0.55, -0.70, 0.25]) + rng.normal(0, 0.12, 3))
    k = LAA_STRETCH * (p.volumes_ml["LAA"] / 7) ** (1 / 3)
    chains: list[Chain] = [(np.array([moved(m.la, 14, -4, 6), mouth, mouth + 6 * out]), [9, 9.5, 9])]
    if p.laa_morphology == "chickenwing":
        bend = mouth + 17 * k * out + rng.normal(0, 1.5, 3)
        down = unit(np.array([0.35, -0.45, -0.95]) + rng.normal(0, 0.15, 3))
        wing = down if rng.random() < 0.6 else unit([-0.2, -0.7, 0.75])
        knee = bend + 13 * k * wing
        tip = knee + 10 * k * unit(moved(wing, 0.2, -0.3, 0))
        chains += [(np.array([mouth, bend]), [9, 7.5]), (np.array([bend, knee, tip]), [7.5, 6.5, 4.5])]
    elif p.laa_morphology == "windsock":
        a = mouth + 12 * k * out
        b = a + 11 * k * unit(moved(out, 0.05, -0.2, -0.35))
        tip = b + 10 * k * unit(moved(out, -0.1, -0.1, -0.55))
        chains.append((np.array([mouth, a, b, tip]), [9, 8, 7, 4.5]))
        chains.append((np.array([b, b + rng.normal(0, 1, 3) + [5, 2, -7]]), [5, 3.5]))
    elif p.laa_morphology == "cactus":
        stem = mouth + 19 * k * out
        chains.append((np.array([mouth, stem]), [9, 8]))
        across = unit(np.cross(np.cross(out, [0, 0, 1.0]), out))
        for side, share in ((1, 0.65), (-1, 0.75), (1, 1.0), (-1, 1.0)):
            foot = mouth + (stem - mouth) * share
            reach = across * side * (10 + 2 * rng.random()) + out * (3 if share < 1 else 7) + rng.normal(0, 1.5, 3)
            chains.append((np.array([foot, foot + reach]), [6.2, 5.0]))
    else:
        stem = mouth + 13 * k * out
        chains.append((np.array([mouth, stem]), [9.5, 9.5]))
        for _ in range(9):
            v = unit(rng.standard_normal(3))
            v = v if v @ out > -0.1 else -v
            chains.append((np.array([stem, stem + v * (11 + 5 * rng.random())]), [5.5, 3.6]))
    return chains
