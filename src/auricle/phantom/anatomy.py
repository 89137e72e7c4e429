"""Everything that is derived about a patient before a scan's grid is known.

The heart is calibrated on a 3 mm grid around it, which also gives the labels that the checks judge, the heart's center,
and the thorax that holds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import ID
from auricle.phantom.coronaries import Surface, find_coronaries
from auricle.phantom.heart import HEART_BOX_HIGH, HEART_BOX_LOW, SHAPING, Fields, build_heart, clean
from auricle.phantom.landmarks import Landmarks, Vessels, find_landmarks, find_vessels
from auricle.phantom.patient import Patient
from auricle.phantom.scanner import stream
from auricle.phantom.shapes import Field, Grid, RandomField, Vector, lowest

CALIBRATION_MM = 3.0
WARP_SD_MM = 2.2
WARP_LIMIT = 3.5
"""Bound on the warp, in standard deviations."""
FIELDS = {"warp": (45.0, 3, 200.0), "trabeculae": (7.5, 1, 140.0), "lobes": (9.0, 1, 140.0), "texture": (14.0, 2, 200.0),
          "mixing": (16.0, 1, 200.0), "swirl": (8.0, 1, 110.0), "strands": (4.5, 1, 110.0), "grain": (4.5, 1, 70.0)}  # fmt: skip
"""Random fields of a patient: knot distance in mm, components, half extent in mm."""


@dataclass(frozen=True)
class Anatomy:
    """A patient with everything that is derived before a scan's grid is known."""

    patient: Patient
    marks: Landmarks
    vessels: Vessels
    random: Mapping[str, RandomField]
    offsets: Mapping[str, float]
    """Calibrated offset of each chamber's surface, mm."""
    coarse_label: NDArray[np.uint8]
    """Labels on the calibration grid, ``[z, y, x]`` LPS at `CALIBRATION_MM`."""
    thorax_mm: tuple[float, float]
    """Half width and half depth of the thoracic cavity that holds the heart."""
    center: Vector
    """Centroid of the four chambers and the muscle, LPS mm."""
    floor_mm: float
    """Height at which the heart rests on the diaphragm."""
    mixing_mean: Mapping[str, float]
    """Mean of the mixing field in RA, RV and PA, and of the two inflows in the RA: taken off, so that chambers have their drawn HU."""
    coronaries: Mapping[str, Vector]
    """Center lines (n, 4) = x, y, z, radius of the coronary arteries, in the warped world like `vessels`."""


def shape_noise(random: Mapping[str, RandomField], grid: Grid) -> Fields:
    """The fields that roughen the chambers' surfaces."""
    return {name: random[name](grid)[0] for name in SHAPING}


def warp(random: Mapping[str, RandomField], grid: Grid) -> Grid:
    """Bend the world a little, so that no two hearts are the same composition of ellipsoids."""
    shift: Field = random["warp"](grid).clip(-WARP_LIMIT, WARP_LIMIT) * np.float32(WARP_SD_MM)
    return grid.warped(shift)


def cavity_field(grid: Grid, m: Landmarks, thorax_mm: tuple[float, float]) -> Field:
    """The thoracic cavity: a superellipse that narrows upward, about the distance in mm from its wall."""
    width, depth = thorax_mm
    k = 1 - 0.35 * np.clip((grid.z - 60) / 160, 0, 1)[:, None, None] ** 2
    qx = (grid.X / (width * k)) ** 2
    qy = ((grid.Y - float(m.spine[1] + 24 - depth)) / (depth * k)) ** 2
    return np.asarray((np.sqrt(np.sqrt(qx * qx + qy * qy + 1.6 * qx * qy + 1e-6)) - 1) * depth)


def _roomy_thorax(p: Patient, m: Landmarks, grid: Grid, label: NDArray[np.uint8]) -> tuple[float, float]:
    """Widen the drawn thorax until the chambers stay 4 mm clear of the chest wall."""
    width, depth = p.thorax_mm
    heart = np.isin(label, [ID[k] for k in ("LV", "RA", "RV", "MYO")])
    for _ in range(6):
        excess = float(cavity_field(grid, m, (width, depth))[heart].max()) + 4.5
        if excess < 0.5:
            break
        depth, width = depth + 0.5 * excess, width + 0.35 * excess
    return width, depth


def inflows(height_mm: Field) -> tuple[Field, Field]:
    """Shares of blood from the inferior and the superior vena cava at a height above the right atrium's center, 0..1."""
    return np.clip((-5 - height_mm) / 30, 0, 1), np.clip((height_mm - 10) / 25, 0, 1)


def swirled(mixing: Field, swirl: Field) -> Field:
    """Contrast agent that streams through the right heart: broad and fine parts of unit variance together, within 2.2 SD."""
    return np.asarray((0.75 * mixing + 0.66 * swirl).clip(-2.2, 2.2), np.float32)


def _mixing_mean(field: Field, grid: Grid, m: Landmarks, label: NDArray[np.uint8]) -> dict[str, float]:
    where = {k: label == ID[k] for k in ("RA", "RV", "PA")}
    below, above = inflows(grid.Z - np.float32(m.ra[2]))
    values = {k: field[w] for k, w in where.items()} | {"from IVC": below[where["RA"]], "from SVC": above[where["RA"]]}
    return {k: float(v.mean()) if v.size else 0.0 for k, v in values.items()}


def build_anatomy(p: Patient) -> Anatomy:
    """Derive landmarks, calibrated surfaces and the thorax of a patient."""
    m = find_landmarks(p)
    v = find_vessels(p, m)
    rng = stream(p.seed, "fields")
    random = {name: RandomField(rng, knot, n, extent) for name, (knot, n, extent) in FIELDS.items()}
    spacing = (CALIBRATION_MM,) * 3
    low, high = np.array(HEART_BOX_LOW), np.array(HEART_BOX_HIGH)
    nx, ny, nz = ((high - low) / CALIBRATION_MM).astype(int).tolist()
    still = Grid.centered((nz, ny, nx), spacing, (0.5 * (low + high))[::-1])
    grid = warp(random, still)
    heart = build_heart(p, m, v, grid, shape_noise(random, grid))
    label = heart.labels()
    clean(label)
    body = np.isin(label, [ID[k] for k in ("LV", "RV", "LA", "RA", "MYO")])
    where = np.argwhere(body)
    center = np.array([grid.x[0], grid.y[0], grid.z[0]], float) + where.mean(0)[::-1] * CALIBRATION_MM
    floor = float(grid.z[where[:, 0].min()])
    f = heart.inner
    chambers = lowest(f["EPI"], f["RV"] - 3, f["LA"] - 1.8, f["RA"] - 2, f["LAA"] - 1, f["PA"] - 1.2, f["AO"] - 1.6)
    surface = Surface(still, chambers, label, lambda at: random["warp"].at(at).clip(-WARP_LIMIT, WARP_LIMIT) * WARP_SD_MM)
    return Anatomy(
        p, m, v, random, heart.offsets, label, _roomy_thorax(p, m, grid, label), center, floor,
        _mixing_mean(swirled(random["mixing"](still)[0], random["swirl"](still)[0]), grid, m, label),
        find_coronaries(surface, m, p.aorta_mm["sinus"]),
    )  # fmt: skip
