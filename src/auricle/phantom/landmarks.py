"""Where the valves, chambers and vessels of one patient lie (LPS mm, see `auricle.phantom.shapes`).

Offsets between landmarks and the courses of the vessels are assumptions, set by eye against published anatomy and
scaled with the left ventricle; radii are drawn in `auricle.phantom.patient`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.phantom.patient import Patient, stream
from auricle.phantom.shapes import Vector, moved, spline, unit

AORTIC_AXIS = unit([-5, -2.5, 9])
"""Direction of flow through the aortic valve."""
PULMONARY_AXIS = unit([2.5, 9, 13])
"""Direction of flow through the pulmonary valve."""
LA_OFFSET = (-19.0, 7.0, 23.0)
"""From the mitral valve to the center of the left atrium, mm."""
RA_OFFSET = (-42.0, -7.0, -12.0)
"""From the aortic valve to the center of the right atrium, mm."""
FORK_OFFSET = (2.0, 35.0, 37.0)
"""From the pulmonary valve to the bifurcation of the pulmonary artery, mm."""
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
        return 25.5 * self.scale


@dataclass(frozen=True)
class Vessels:
    """Center lines with radii, each (n, 4) = x, y, z, radius."""

    aorta: Vector
    trunk: Vector
    right_pa: Vector
    left_pa: Vector
    veins: Mapping[str, Vector]
    """Pulmonary veins: LS, LI, RS, RI."""
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
    apex = base + 80 * s * axis
    base = base + 12 * s * p.phase * axis
    length = float((apex - base) @ axis)
    aortic = base - 5 * axis + 8 * s * septal + 15 * s * up
    mitral = base - 7 * s * septal - 6 * s * up
    rv = base + 0.30 * length * axis + 23 * s * septal - 5 * s * up
    ra = aortic + h * np.array(RA_OFFSET) + 3 * j["ra"]
    return Landmarks(
        axis=axis, septal=septal, up=up, scale=s, base=base, length=length, aortic=aortic, mitral=mitral,
        pulmonary=aortic + h * np.array([12, -22, 17]) + 2 * j["pv"],
        tricuspid=0.5 * (ra + base + 0.15 * length * axis + 32 * s * septal - 8 * s * up), tricuspid_axis=unit(rv - ra),
        la=mitral + h * np.array(LA_OFFSET) + j["la"] * [3, 2, 3], ra=ra, rv=rv,
        spine=np.array([0, 88.0, 0]) + j["spine"] * [2, 3, 0],
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


def find_vessels(p: Patient, m: Landmarks) -> Vessels:
    """Lay the center lines of the great vessels."""
    pv, r, c = m.pulmonary, p.pulmonary_mm, m.la
    fork = moved(pv, *FORK_OFFSET) + 2 * np.array(p.jitter["bifurcation"])
    middle = 0.5 * (pv + fork) + [2, 1, 6]
    trunk = [[*pv, 0.95 * r], [*moved(pv, 2.5, 9, 13), 1.05 * r], [*middle, r], [*fork, r]]
    right: list[list[float]] = [
        [0, 0, 0, 0.85], [-22, 9, -4, 0.80], [-48, 13, -8, 0.76], [-72, 18, -14, 0.55], [-88, 22, -30, 0.38],
    ]  # fmt: skip
    left: list[list[float]] = [[0, 0, 0, 0.85], [14, 13, 5, 0.82], [28, 30, 3, 0.70], [36, 40, -16, 0.55], [40, 44, -42, 0.38]]
    veins: dict[str, list[list[float]]] = {
        "LS": [[18, 3, 13, 9], [34, 8, 23, 7.5], [58, 6, 38, 5.5], [72, 0, 56, 3.5]],
        "LI": [[16, 9, -6, 8], [34, 17, -9, 6.5], [56, 32, -16, 5], [68, 44, -36, 3.2]],
        "RS": [[-18, -1, 12, 9.5], [-36, -2, 19, 8], [-60, -6, 28, 5.5], [-74, -14, 42, 3.5]],
        "RI": [[-16, 8, -6, 8.5], [-34, 17, -12, 7.2], [-56, 30, -20, 5], [-68, 42, -40, 3.2]],
    }
    svc: list[list[float]] = [[2, 2, 10, 10], [3, 2, 38, 9.5], [4, -2, 80, 9], [8, -8, 120, 9]]
    ivc: list[list[float]] = [[4, 8, -12, 12], [8, 17, -36, 12], [10, 30, -80, 12], [12, 36, -130, 11]]
    return Vessels(
        aorta=_aorta(p, m), trunk=spline(trunk, 8), right_pa=spline(_around(fork, right, r), 10),
        left_pa=spline(_around(fork, left, r), 10), veins={k: spline(_around(c, v), 7) for k, v in veins.items()},
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
        a = mouth + 14 * k * out
        b = a + 13 * k * unit(moved(out, 0.05, -0.2, -0.35))
        tip = b + 12 * k * unit(moved(out, -0.1, -0.1, -0.55))
        chains.append((np.array([mouth, a, b, tip]), [9, 8, 7, 4.5]))
        chains.append((np.array([b, b + rng.normal(0, 1, 3) + [5, 2, -7]]), [5, 3.5]))
    elif p.laa_morphology == "cactus":
        stem = mouth + 18 * k * out
        chains.append((np.array([mouth, stem]), [9, 8]))
        across = unit(np.cross(np.cross(out, [0, 0, 1.0]), out))
        for side, share in ((1, 0.65), (-1, 0.75), (1, 1.0), (-1, 1.0)):
            foot = mouth + (stem - mouth) * share
            reach = across * side * (10 + 2 * rng.random()) + out * (3 if share < 1 else 7) + rng.normal(0, 1.5, 3)
            chains.append((np.array([foot, foot + reach]), [6.2, 5.0]))
    else:
        stem = mouth + 9 * k * out
        chains.append((np.array([mouth, stem]), [9.5, 9.5]))
        for _ in range(9):
            v = unit(rng.standard_normal(3))
            v = v if v @ out > -0.1 else -v
            chains.append((np.array([stem, stem + v * (9 + 4 * rng.random())]), [5.5, 3.6]))
    return chains
