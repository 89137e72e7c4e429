"""Everything that is drawn about one virtual patient, before any voxel is painted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.core.errors import InputError
from auricle.phantom.scanner import Scanner, draw_scanner, pick, stream, wanted_of

SEXES = ("M", "F")
CONTRASTS: dict[str, float] = {"chase": 0.38, "mixed": 0.26, "early": 0.13, "venous": 0.15, "none": 0.08}
"""Timing of the contrast agent and its share: saline chase (right heart washed out), mixed (both sides bright), early
(right side brighter than the left), venous (all chambers alike, close to the muscle), none."""
APPENDAGES: dict[str, float] = {"chickenwing": 0.35, "windsock": 0.33, "cactus": 0.18, "cauliflower": 0.14}
PHASES: dict[float, float] = {0.0: 0.25, 0.15: 0.5, 0.9: 0.15, 1.0: 0.1}
"""Heart phase and its share: 0 is end-diastole, 0.15 mid-diastole, 0.9 late and 1 end-systole."""

PATHOLOGIES: dict[str, float] = {
    "dilated ventricle": 0.05, "hypertrophy": 0.06, "atrial fibrillation": 0.08, "aortic dilation": 0.05,
    "pericardial effusion": 0.04, "appendage filling defect": 0.03,
}  # fmt: skip
"""Pathology and its prevalence in the cohort, an assumption that `draw_patient` lets you change."""
EFFECTS: dict[str, dict[str, tuple[float, float]]] = {
    "dilated ventricle": {"LV": (1.45, 1.9), "mass": (1.1, 1.4), "EF": (0.35, 0.65), "RV": (1.0, 1.2), "LA": (1.0, 1.3)},
    "hypertrophy": {"mass": (1.3, 1.65), "LV": (0.85, 1.0), "LA": (1.0, 1.3)},
    "atrial fibrillation": {"LA": (1.35, 1.8), "RA": (1.2, 1.6), "LAA": (1.2, 1.7)},
    "aortic dilation": {"ascending": (1.25, 1.5), "sinus": (1.1, 1.35)},
}
"""By what each pathology multiplies volumes, mass, ejection fraction and radii: ranges are assumptions."""
VEINS: dict[str, float] = {"four": 0.68, "left common trunk": 0.16, "right middle vein": 0.16}
"""Drainage of the pulmonary veins into the left atrium and its share."""


@dataclass(frozen=True)
class Patient:
    """One virtual patient: body, contrast agent and scanner. Lengths in mm, volumes in mL, angles in degrees, HU."""

    seed: int
    sex: str
    phase: float
    contrast: str
    pathology: tuple[str, ...]
    laa_morphology: str
    veins: str
    """Variant of the pulmonary veins, one of `VEINS`."""
    lv_edv_ml: float
    """Left ventricle at end-diastole: sets the scale of the heart."""
    volumes_ml: Mapping[str, float]
    """Target volumes of LV, RV, LA, RA, MYO and LAA in this phase."""
    azimuth_deg: float
    elevation_deg: float
    roll_deg: float
    """Direction of the left ventricle's long axis."""
    aorta_mm: Mapping[str, float]
    """Radii along the aorta: annulus, sinus, junction, ascending, arch, descending."""
    pulmonary_mm: float
    """Radius of the pulmonary trunk."""
    thorax_mm: tuple[float, float]
    """Half width and half depth of the thoracic cavity, before it is widened to hold the heart."""
    fat_mm: float
    """Fat under the skin."""
    epicardial_fat_mm: float
    dome_mm: float
    """Height of the diaphragm's right dome."""
    jitter: Mapping[str, tuple[float, float, float]]
    """Unit normal deviations of single landmarks."""
    hu: Mapping[str, float]
    """Mean HU of each tissue."""
    blood_mixing: float
    """Relative standard deviation of the contrast agent in the right heart."""
    effusion_mm: float
    """Thickness of the fluid in the pericardium where it is thickest; zero in most."""
    scanner: Scanner
    gas_in_esophagus: bool


JITTERED = ("base", "la", "pv", "ra", "spine", "descending", "ascending", "bifurcation")


def _normal(rng: np.random.Generator, mean: float, sd: float) -> float:
    return float(mean + sd * np.clip(rng.standard_normal(), -2, 2))


POPULATION: dict[str, dict[str, tuple[float, float]]] = {
    "M": {"LV": (140, 30), "EF": (0.63, 0.06), "RV": (175, 33), "RV EF": (0.57, 0.06), "LA": (103, 30), "RA": (115, 28),
          "mass": (145, 29), "LAA": (9.5, 3.4)},
    "F": {"LV": (112, 24), "EF": (0.65, 0.06), "RV": (138, 30), "RV EF": (0.59, 0.06), "LA": (89, 21), "RA": (90, 22),
          "mass": (108, 20), "LAA": (8.5, 3.0)},
}  # fmt: skip
"""Mean and SD without pathology: end-diastolic ventricles and atria at their largest in mL, ejection fractions, LV mass in g.

LV between published CT and MR values, RV near MR, LA and mass as published; RA and LAA are assumptions."""
MOST = {"LV": 280.0, "RV": 290.0, "LA": 200.0, "RA": 210.0, "mass": 250.0, "LAA": 22.0}
"""The largest of each that is drawn, pathology included."""
BODY_SHARE = 0.55
"""Correlation of each volume with the size of the body, an assumption."""
MASS_SHARE = 0.5
"""Correlation of the ventricle's mass with its volume, an assumption: gives the published spread of the wall's thickness."""
MUSCLE_G_PER_ML = 1.05


def _volumes(rng: np.random.Generator, sex: str, phase: float, sick: np.random.Generator, pathology: Sequence[str]) -> tuple[float, dict[str, float]]:
    """End-diastolic LV volume and the targets in this phase: log-normal, correlated through the size of the body."""
    keys = ("LV", "RV", "LA", "RA", "mass", "LAA")
    z = BODY_SHARE * rng.standard_normal() + (1 - BODY_SHARE**2) ** 0.5 * rng.standard_normal(len(keys))
    z[4] = MASS_SHARE * z[0] + (1 - MASS_SHARE**2) ** 0.5 * rng.standard_normal()
    full = {}
    for key, deviation in zip(keys, z.clip(-2.4, 2.4).tolist(), strict=True):
        mean, sd = POPULATION[sex][key]
        sigma2 = float(np.log1p((sd / mean) ** 2))
        full[key] = mean * float(np.exp(deviation * sigma2**0.5 - sigma2 / 2))
    ef, rv_ef = (_normal(rng, *POPULATION[sex][k]) for k in ("EF", "RV EF"))
    for name, factors in EFFECTS.items():
        grown = {k: sick.uniform(low, high) for k, (low, high) in factors.items()}  # drawn whether present or not
        if name in pathology:
            full = {k: v * grown.get(k, 1.0) for k, v in full.items()}
            ef *= grown.get("EF", 1.0)
    full = {k: min(v, MOST.get(k, v)) for k, v in full.items()}
    return full["LV"], {
        "LV": full["LV"] * (1 - phase * ef), "RV": full["RV"] * (1 - phase * rv_ef), "LA": full["LA"] * (0.62 + 0.38 * phase),
        "RA": full["RA"] * (0.72 + 0.28 * phase), "MYO": full["mass"] / MUSCLE_G_PER_ML, "LAA": full["LAA"] * (0.75 + 0.25 * phase),
    }  # fmt: skip


def _pathology(rng: np.random.Generator, wanted: bool | Sequence[str] | None, prevalence: Mapping[str, float]) -> tuple[str, ...]:
    for name, share in prevalence.items():
        _one_of("pathology", name, tuple(PATHOLOGIES))
        if not 0 <= share <= 1:
            raise InputError(f"prevalence {share} of {name} is outside 0 .. 1")
    shares = {**PATHOLOGIES, **prevalence}
    drawn = tuple(k for k, u in zip(PATHOLOGIES, rng.random(len(PATHOLOGIES)), strict=True) if u < shares[k])
    one = list(PATHOLOGIES)[int(rng.integers(len(PATHOLOGIES)))]
    return wanted_of("pathology", wanted, drawn, drawn or (one,), tuple(PATHOLOGIES))


def _blood(rng: np.random.Generator, contrast: str) -> tuple[float, float, float]:
    """Mean HU of the left heart, the right heart and the muscle; the right heart under saline chase is an assumption."""
    left = max(float(rng.normal(420, 70)), 260.0)
    z = rng.standard_normal(4)
    if contrast == "none":
        left = right = float(42 + 4 * z[0])
        return left, right, float(46 + 3 * z[1])
    if contrast == "venous":
        left = float(np.clip(128 + 18 * z[0], 90, 160))
        right = float(np.clip(left + 8 * z[2], 90, 160))
        return left, right, min(float(np.clip(93 + 7 * z[1], 80, 110)), left - 6)
    if contrast == "early":
        left, right = float(np.clip(230 + 40 * z[0], 150, 330)), float(np.clip(520 + 80 * z[2], 360, 700))
    elif contrast == "chase":
        right = float(np.clip(170 + 50 * z[2], 70, 260))
    else:
        right = float(np.clip(310 + 45 * z[2], 220, 420))
    return left, right, float(46 + 3 * z[1] + (52 + 14 * z[3]) * left / 420)


def _tissues(rng: np.random.Generator, contrast: str) -> tuple[dict[str, float], float]:
    """Mean HU of every tissue and the mixing of the contrast agent in the right heart."""
    left, right, muscle = _blood(rng, contrast)
    agent = {"none": 0.0, "venous": 0.25}.get(contrast, 1.0)

    def n(mean: float, sd: float, share: float = 1.0) -> float:
        return share * float(rng.normal(mean, sd))

    hu = {
        "LV": left, "LA": left + n(8, 12, agent), "AO": left + n(-5, 10, agent), "LAA": left - abs(n(15, 20, agent)),
        "RV": right, "RA": right + n(0, 25, agent), "PA": right + n(0.25 * (left - right), 20, agent), "MYO": muscle,
    }  # fmt: skip
    z = n(0, 1)
    # Undiluted agent on its way to the heart: 640 to 930 HU in most, up to 1300.
    undiluted = float(np.clip(785 + 110 * z + 150 * max(z - 1, 0), max(550, right + 60), 1300))
    washed, (opened, inflow) = contrast == "venous", rng.standard_normal(2)
    hu |= {
        "SVC": undiluted if contrast in ("mixed", "early") else right + agent * max(40 + 40 * z, -60),
        "IVC": right - 8 - 6 * opened if washed else 50 + 6 * opened + (0 if contrast == "none" else abs(30 + 25 * inflow)),
        "muscle": n(55, 6), "fat": n(-102, 8), "epicardial fat": n(-88, 8), "lung": n(-850, 28),
        "liver": n(58, 8) + (n(45, 8) if washed else n(18, 8, agent)), "wall": n(60, 8) + n(20, 8, agent),
    }  # fmt: skip
    return hu, {"none": 0.0, "chase": 0.20, "mixed": 0.20, "early": 0.28, "venous": 0.02}[contrast]


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InputError(f"{name} {value!r} is not known; choose from {', '.join(choices)}")
    return value


def draw_patient(
    seed: int,
    *,
    sex: str | None = None,
    contrast: str | None = None,
    phase: float | None = None,
    metal: bool | Sequence[str] | None = None,
    pathology: bool | Sequence[str] | None = None,
    prevalence: Mapping[str, float] | None = None,
) -> Patient:
    """Draw patient `seed` (>= 0); arguments that are given replace what would have been drawn and nothing else.

    `sex` is "M" or "F", `contrast` one of `CONTRASTS`, `phase` 0 (end-diastole) .. 1 (end-systole), `metal` True (some),
    False (none) or kinds of `METALS`, `pathology` the same with `PATHOLOGIES`, whose prevalences `prevalence` overrides by
    name. Raises `InputError` for values outside these.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; use 0 or more")
    if phase is not None and not 0 <= phase <= 1:
        raise InputError(f"phase {phase} is outside 0 (end-diastole) .. 1 (end-systole)")
    rng = stream(seed, "anatomy")
    drawn_sex, drawn_phase = SEXES[int(rng.random() < 0.5)], float(pick(rng, PHASES))
    sex = _one_of("sex", sex, SEXES) if sex is not None else drawn_sex
    phase = float(phase) if phase is not None else drawn_phase
    man = sex == "M"
    sick = stream(seed, "pathology")
    pathologies = _pathology(sick, pathology, prevalence or {})
    edv, volumes = _volumes(rng, sex, phase, sick, pathologies)
    k = 1.0 if man else 0.935
    aorta = {"annulus": _normal(rng, 12.2, 0.9) * k, "sinus": _normal(rng, 17.8, 1.5) * k,
             "junction": _normal(rng, 15.0, 1.2) * k, "ascending": _normal(rng, 17.1, 2.1) * k,
             "arch": _normal(rng, 13.5, 1.1) * k, "descending": _normal(rng, 12.9, 1.1) * (1 if man else 0.9)}  # fmt: skip
    for key, (low, high) in EFFECTS["aortic dilation"].items():
        factor = sick.uniform(low, high)
        aorta[key] *= factor if "aortic dilation" in pathologies else 1.0
    timing = stream(seed, "contrast")
    drawn_contrast = str(pick(timing, CONTRASTS))
    contrast = _one_of("contrast", contrast, tuple(CONTRASTS)) if contrast is not None else drawn_contrast
    hu, mixing = _tissues(timing, contrast)
    return Patient(
        seed=seed, sex=sex, phase=phase, contrast=contrast, pathology=pathologies,
        laa_morphology=str(pick(rng, APPENDAGES)), veins=str(pick(sick, VEINS)), lv_edv_ml=edv, volumes_ml=volumes,
        azimuth_deg=_normal(rng, 48, 7), elevation_deg=_normal(rng, 31, 7), roll_deg=_normal(rng, 12, 6),
        aorta_mm=aorta, pulmonary_mm=_normal(rng, 13.6, 1.5) * (1 if man else 0.96),
        thorax_mm=(_normal(rng, 130 if man else 118, 7), _normal(rng, 88 if man else 81, 5)),
        fat_mm=abs(_normal(rng, 16, 8)) + 4, epicardial_fat_mm=abs(_normal(rng, 3, 2)) + 0.5, dome_mm=_normal(rng, -48, 9),
        jitter={name: tuple(rng.standard_normal(3).clip(-2.5, 2.5).tolist()) for name in JITTERED},
        hu=hu, blood_mixing=mixing, effusion_mm=float(sick.uniform(6, 18)) * ("pericardial effusion" in pathologies),
        scanner=draw_scanner(seed, metal=metal), gas_in_esophagus=bool(stream(seed, "body").random() < 0.38),
    )  # fmt: skip
