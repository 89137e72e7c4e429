"""Everything that is drawn about one virtual patient, before any voxel is painted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auricle.core.errors import InputError

SEXES = ("M", "F")
CONTRASTS: dict[str, float] = {"chase": 0.38, "mixed": 0.26, "early": 0.13, "venous": 0.15, "none": 0.08}
"""Timing of the contrast agent and its share: saline chase (right heart washed out), mixed (both sides bright), early
(right side brighter than the left), venous (all chambers alike, close to the muscle), none."""
METALS = ("pacemaker lead", "prosthetic valve", "sternal wires")
APPENDAGES: dict[str, float] = {"chickenwing": 0.35, "windsock": 0.33, "cactus": 0.18, "cauliflower": 0.14}
PHASES: dict[float, float] = {0.0: 0.25, 0.15: 0.5, 0.9: 0.15, 1.0: 0.1}
"""Heart phase and its share: 0 is end-diastole, 0.15 mid-diastole, 1 end-systole."""

STREAMS = ("anatomy", "appendage", "fields", "contrast", "image", "noise", "metal")
"""Independent sources of randomness of one patient: forcing a choice in one leaves the others as they were."""


def stream(seed: int, name: str) -> np.random.Generator:
    """The random generator `name` (one of `STREAMS`) of patient `seed`."""
    return np.random.default_rng([seed, STREAMS.index(name)])


@dataclass(frozen=True)
class Patient:
    """One virtual patient: body, contrast agent and scanner. Lengths in mm, volumes in mL, angles in degrees, HU."""

    seed: int
    sex: str
    phase: float
    contrast: str
    metal: tuple[str, ...]
    laa_morphology: str
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
    noise_sd_hu: float
    """Standard deviation of the noise in a native voxel of 0.5 x 0.5 x 0.75 mm."""
    nps_peak_per_mm: float
    """In-plane frequency at which the noise power spectrum peaks: high for filtered back-projection, low for iterative."""
    motion_mm: float
    """Displacement of the heart during the acquisition."""
    calcified: str | None
    """The calcified coronary artery."""
    gas_in_esophagus: bool


JITTERED = ("base", "la", "pv", "ra", "spine", "descending", "ascending", "bifurcation", "ribs", "discs")


def _normal(rng: np.random.Generator, mean: float, sd: float) -> float:
    return float(mean + sd * np.clip(rng.standard_normal(), -2, 2))


def _pick(rng: np.random.Generator, shares: Mapping[Any, float]) -> Any:
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]


def _volumes(rng: np.random.Generator, man: bool, phase: float) -> tuple[float, dict[str, float]]:
    """End-diastolic LV volume and the targets in this phase.

    LV, RV and LA by sex, and LV mass, follow published CT and MR reference values; the RA's mean is an assumption.
    """
    body = 0.5 * float(rng.standard_normal())  # one shared factor correlates the chambers with the body's size

    def volume(mean: float, sd: float) -> float:
        spread = sd / mean * (0.7 * body + 0.7 * float(np.clip(rng.standard_normal(), -2, 2)))
        return mean * float(np.exp(np.clip(spread, -0.6, 0.6)))

    edv = volume(140, 30) if man else volume(112, 24)
    ef = float(np.clip(_normal(rng, 0.63, 0.06), 0.35, 0.78))
    rv_edv = volume(175, 33) if man else volume(138, 30)
    rv_ef = float(np.clip(_normal(rng, 0.57, 0.06), 0.35, 0.70))
    la = volume(98, 26) if man else volume(86, 22)
    ra = volume(115, 28) if man else volume(90, 22)
    mass_g = volume(145, 29) if man else volume(108, 20)
    laa = float(np.clip(np.exp(rng.normal(np.log(7.0), 0.38)), 2.5, 18))
    return edv, {
        "LV": edv * (1 - phase * ef), "RV": rv_edv * (1 - phase * rv_ef), "LA": la * (0.62 + 0.38 * phase),
        "RA": ra * (0.65 + 0.35 * phase), "MYO": mass_g / 1.05, "LAA": laa * (0.75 + 0.25 * phase),
    }  # fmt: skip


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
    dense = n(250, 120) if contrast in ("mixed", "early") else n(40, 40, agent)
    washed = contrast == "venous"
    hu |= {
        "SVC": right + (0 if contrast == "none" else max(dense, -60.0)),
        "IVC": right - n(8, 6) if washed else n(50, 6) + (0 if contrast == "none" else abs(n(30, 25))),
        "muscle": n(55, 6), "fat": n(-102, 8), "epicardial fat": n(-88, 8), "lung": n(-850, 28),
        "liver": n(58, 8) + (n(45, 8) if washed else n(18, 8, agent)), "wall": n(60, 8) + n(20, 8, agent),
    }  # fmt: skip
    return hu, {"none": 0.0, "chase": 0.16, "mixed": 0.12, "early": 0.20, "venous": 0.02}[contrast]


def _metal(rng: np.random.Generator, wanted: bool | Sequence[str] | None) -> tuple[str, ...]:
    present = rng.random() < 0.15
    some = tuple(m for m, u in zip(METALS, rng.random(len(METALS)), strict=True) if u < 0.45)
    drawn = some or (METALS[int(rng.integers(len(METALS)))],)
    if wanted is None or isinstance(wanted, bool):
        return drawn if (present if wanted is None else wanted) else ()
    unknown = [m for m in wanted if m not in METALS]
    if unknown:
        raise InputError(f"metal {unknown[0]!r} is not known; choose from {', '.join(METALS)}")
    return tuple(m for m in METALS if m in wanted)


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
) -> Patient:
    """Draw patient `seed` (>= 0); arguments that are given replace what would have been drawn and nothing else.

    `sex` is "M" or "F", `contrast` one of `CONTRASTS`, `phase` 0 (end-diastole) .. 1 (end-systole), `metal` True (some),
    False (none) or kinds of `METALS`. Raises `InputError` for values outside these.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; use 0 or more")
    if phase is not None and not 0 <= phase <= 1:
        raise InputError(f"phase {phase} is outside 0 (end-diastole) .. 1 (end-systole)")
    rng = stream(seed, "anatomy")
    drawn_sex, drawn_phase = SEXES[int(rng.random() < 0.5)], float(_pick(rng, PHASES))
    sex = _one_of("sex", sex, SEXES) if sex is not None else drawn_sex
    phase = float(phase) if phase is not None else drawn_phase
    man = sex == "M"
    edv, volumes = _volumes(rng, man, phase)
    k = 1.0 if man else 0.935
    aorta = {"annulus": _normal(rng, 12.2, 0.9) * k, "sinus": _normal(rng, 17.0, 1.5) * k,
             "junction": _normal(rng, 14.3, 1.2) * k, "ascending": _normal(rng, 16.0, 1.6) * k,
             "arch": _normal(rng, 13.5, 1.1) * k, "descending": _normal(rng, 12.4, 1.1) * (1 if man else 0.9)}  # fmt: skip
    timing = stream(seed, "contrast")
    drawn_contrast = str(_pick(timing, CONTRASTS))
    contrast = _one_of("contrast", contrast, tuple(CONTRASTS)) if contrast is not None else drawn_contrast
    hu, mixing = _tissues(timing, contrast)
    scanner = stream(seed, "image")
    calcified = scanner.random() < 0.35
    artery = ("LAD", "LCX", "RCA")[int(scanner.integers(3))]
    moving = scanner.random() < 0.4
    return Patient(
        seed=seed, sex=sex, phase=phase, contrast=contrast, metal=_metal(stream(seed, "metal"), metal),
        laa_morphology=str(_pick(rng, APPENDAGES)), lv_edv_ml=edv, volumes_ml=volumes,
        azimuth_deg=_normal(rng, 48, 7), elevation_deg=_normal(rng, 31, 7), roll_deg=_normal(rng, 12, 6),
        aorta_mm=aorta, pulmonary_mm=_normal(rng, 13.2, 1.3) * (1 if man else 0.96),
        thorax_mm=(_normal(rng, 130 if man else 118, 7), _normal(rng, 92 if man else 85, 5)),
        fat_mm=abs(_normal(rng, 16, 8)) + 4, epicardial_fat_mm=abs(_normal(rng, 4, 2)) + 1, dome_mm=_normal(rng, -48, 9),
        jitter={name: tuple(rng.standard_normal(3).clip(-2.5, 2.5).tolist()) for name in JITTERED},
        hu=hu, blood_mixing=mixing,
        noise_sd_hu=float(np.clip(scanner.lognormal(np.log(24), 0.35), 10, 60)),
        nps_peak_per_mm=float(_pick(scanner, {0.12: 0.2, 0.18: 0.3, 0.24: 0.35, 0.30: 0.15})),
        motion_mm=float(abs(scanner.normal(0, 1.5))) * moving,
        calcified=artery if calcified else None, gas_in_esophagus=bool(scanner.random() < 0.38),
    )  # fmt: skip
