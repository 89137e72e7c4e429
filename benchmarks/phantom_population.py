"""Are virtual patients what they are said to be? Passed checks, sizes by sex against target and literature, prevalences.

    OMP_NUM_THREADS=1 python -m benchmarks.phantom_population [--patients 500] [--seed 0] [--processes 2] [--out docs/results]

Sizes are of patients without pathology, half of each sex, each in three phases of the heart: end-diastole, mid-diastole and end-systole.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from auricle.core import progress
from auricle.core.processes import each
from auricle.phantom.anatomy import CALIBRATION_MM, Anatomy, build_anatomy
from auricle.phantom.patient import (
    APPENDAGES,
    CONTRASTS,
    MUSCLE_G_PER_ML,
    PATHOLOGIES,
    PHASES,
    POPULATION,
    SEXES,
    VEINS,
    Patient,
    draw_patient,
)
from auricle.phantom.scan import TRIES, anatomy_faults, patient_seed, render
from auricle.phantom.scanner import KERNELS, METAL_SHARE
from benchmarks import phantom_measure as measure
from benchmarks.phantom_page import arguments, publish, table

R = TypeVar("R")
MeanSd = tuple[float, float]
MID_DIASTOLE = 0.15
FINE_MM = 1.0
"""Voxels on which the appendage is measured."""
PUBLISHED: dict[str, dict[str, str]] = {
    "LV EDV, mL": {"M": "113 ± 26 (CT), 160 ± 29 (MR)", "F": "98 ± 21 (CT), 135 ± 26 (MR)"},
    "LV ESV, mL": {"M": "42 ± 15 (CT)", "F": "34 ± 12 (CT)"},
    "RV EDV, mL": {"M": "190 ± 33 (MR)", "F": "148 ± 35 (MR)"},
    "RV ESV, mL": {"M": "78 ± 20 (MR)", "F": "56 ± 18 (MR)"},
    "LA maximum, mL": {"M": "103 ± 30 (MR)", "F": "89 ± 21 (MR)"},
    "LV mass, g": {"M": "145 ± 29 (CT)", "F": "108 ± 20 (CT)"},
    "LV wall, mid-diastole, mm": {"M": "7.9 ± 1.2", "F": "6.5 ± 1.1"},
    "LV axis below horizontal, degrees": {"M": "38 ± 8", "F": "38 ± 8"},
    "ascending aorta, mm": {"M": "34.1 ± 3.9", "F": "31.9 ± 3.5"},
    "descending aorta, mm": {"M": "25.8", "F": "23.1"},
    "pulmonary trunk, mm": {"M": "27.0 ± 2.8", "F": "25.9 ± 3.0"},
    "LAA length, mm": {"M": "43.7 ± 10.9", "F": "43.7 ± 10.9"},
    "LAA mouth, longest, mm": {"M": "24.8 ± 3.8", "F": "22.7 ± 4.1"},
}
"""Mean and SD of adults without heart disease in the literature, where known."""
MEAN_GOAL, SD_GOAL = 0.05, 0.15
"""Largest relative deviation from the target of a volume's mean and standard deviation."""


@dataclass(frozen=True)
class Grown:
    """A patient that passed the checks, and what was wrong with the draws before."""

    anatomy: Anatomy
    faults: list[str]
    """The first fault of each draw that failed."""


def grow(seed: int, index: int, **wanted: Any) -> Grown | None:
    """Patient `index` as `auricle.phantom.virtual_patient` would draw and redraw it; None if all draws fail."""
    faults: list[str] = []
    for attempt in range(TRIES):
        anatomy = build_anatomy(draw_patient(patient_seed(seed, index, attempt), **wanted))
        found = anatomy_faults(anatomy)
        if not found:
            return Grown(anatomy, faults)
        faults.append(found[0])
    return None


def of_all(function: Callable[[int], R], count: int, name: str, processes: int) -> list[R]:
    """`function` of 0 .. count - 1 over several processes, with a progress bar."""
    return list(progress.track(each(function, range(count), processes), name, count))


def as_drawn(seed: int, index: int) -> tuple[dict[str, Any], list[str]]:
    """What was drawn about one patient of a cohort, and the faults of the draws before it."""
    grown = grow(seed, index)
    if grown is None:
        return {}, ["no draw passed"]
    p: Patient = grown.anatomy.patient
    s = p.scanner
    kinds: dict[str, Any] = {"sex": (p.sex,), "phase": (p.phase,), "contrast": (p.contrast,), "LAA shape": (p.laa_morphology,),
                             "pulmonary veins": (p.veins,), "kernel": (s.kernel,), "pathology": p.pathology,
                             "metal": ("any", *s.metal) if s.metal else ()}  # fmt: skip
    return kinds, grown.faults


def sizes(seed: int, index: int) -> dict[str, tuple[float | None, float]]:
    """Drawn (where it is) and measured sizes of one patient without pathology, of sex ``SEXES[index % 2]``."""
    wanted = {"sex": SEXES[index % 2], "pathology": False, "metal": False}
    phases = [grow(seed, index, phase=phase, **wanted) for phase in (0.0, MID_DIASTOLE, 1.0)]
    found: dict[str, tuple[float | None, float]] = {}
    if any(grown is None for grown in phases):
        return found
    full, middle, empty = (grown.anatomy for grown in phases if grown is not None)

    def volume(name: str, anatomy: Anatomy, key: str, factor: float = 1.0) -> None:
        got = measure.volumes(anatomy.coarse_label, CALIBRATION_MM**3 / 1000)[key]
        found[name] = (anatomy.patient.volumes_ml[key] * factor, got * factor)

    for name, anatomy, key in (("LV EDV, mL", full, "LV"), ("LV ESV, mL", empty, "LV"), ("RV EDV, mL", full, "RV"),
                               ("RV ESV, mL", empty, "RV"), ("LA maximum, mL", empty, "LA"), ("RA maximum, mL", empty, "RA"),
                               ("LAA maximum, mL", empty, "LAA")):  # fmt: skip
        volume(name, anatomy, key)
    volume("LV mass, g", full, "MYO", MUSCLE_G_PER_ML)
    found["LV wall, mid-diastole, mm"] = None, measure.wall_mm(middle)
    found["LV axis below horizontal, degrees"] = None, measure.axis_deg(middle)
    found |= {f"{name}, mm": value for name, value in measure.great_vessels_mm(middle).items()}
    extent, offset = measure.box_around(middle, "LAA", 8.0)
    nx, ny, nz = np.ceil(extent / FINE_MM).astype(int).tolist()
    x, y, z = offset.tolist()
    label = render(middle.patient, (nx, ny, nz), (FINE_MM,) * 3, (x, y, z)).label
    assert label is not None
    found["LAA length, mm"] = None, measure.laa_length_mm(label, FINE_MM)
    found["LAA mouth, longest, mm"] = None, measure.laa_mouth_mm(label, FINE_MM)
    return found


def targets(sex: str) -> dict[str, MeanSd]:
    """Mean and standard deviation asked for; end-systolic volumes follow from the ejection fraction, drawn independently."""
    p = POPULATION[sex]

    def emptied(volume: str, fraction: str) -> MeanSd:
        (mean, sd), (ef, ef_sd) = p[volume], p[fraction]
        left = 1 - ef
        return mean * left, float(np.sqrt((mean**2 + sd**2) * (left**2 + ef_sd**2) - (mean * left) ** 2))

    return {"LV EDV, mL": p["LV"], "LV ESV, mL": emptied("LV", "EF"), "RV EDV, mL": p["RV"], "RV ESV, mL": emptied("RV", "RV EF"),
            "LA maximum, mL": p["LA"], "RA maximum, mL": p["RA"], "LV mass, g": p["mass"], "LAA maximum, mL": p["LAA"]}  # fmt: skip


def size_rows(patients: list[dict[str, tuple[float | None, float]]]) -> tuple[list[list[str]], list[str]]:
    """Rows of the table of sizes, and the volumes that miss the goal."""
    rows, missed = [], []

    def shown(values: list[float]) -> str:
        return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"

    for name in next(p for p in patients if p):
        for sex in SEXES:
            pairs = [p[name] for i, p in enumerate(patients) if p and SEXES[i % 2] == sex]
            drawn, got = [d for d, _ in pairs if d is not None], [g for _, g in pairs]
            target = targets(sex).get(name)
            verdict = ""
            if target is not None:
                off = float(np.mean(got)) / target[0] - 1, float(np.std(got, ddof=1)) / target[1] - 1
                verdict = f"{off[0]:+.1%}, {off[1]:+.0%}"
                if abs(off[0]) > MEAN_GOAL or abs(off[1]) > SD_GOAL:
                    missed.append(f"{name} of {sex} ({verdict})")
                    verdict += " **missed**"
            goal = f"{target[0]:.1f} ± {target[1]:.1f}" if target else ""
            rows.append([name, sex, shown(drawn) if drawn else "", shown(got), goal, verdict, PUBLISHED.get(name, {}).get(sex, "")])
    return rows, missed


def stated_shares() -> dict[str, Mapping[Any, float]]:
    """What the phantom says how often it draws."""
    return {"sex": dict.fromkeys(SEXES, 1 / len(SEXES)), "phase": PHASES, "contrast": CONTRASTS, "LAA shape": APPENDAGES,
            "pulmonary veins": VEINS, "kernel": {k: v.share for k, v in KERNELS.items()}, "pathology": PATHOLOGIES,
            "metal": {"any": METAL_SHARE}}  # fmt: skip


def prevalence_rows(patients: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Stated and obtained share of every kind, and their difference in standard errors."""
    n = len(patients)
    for name, shares in stated_shares().items():
        count = Counter(k for p in patients for k in p[name])
        for kind in [*shares, *sorted(k for k in count if k not in shares)]:
            share = shares.get(kind)
            got = count[kind] / n
            error = "" if share is None else f"{(got - share) / np.sqrt(share * (1 - share) / n):+.1f}"
            yield [name, str(kind), "" if share is None else f"{share:.1%}", f"{got:.1%}", error]


def page(cohort: list[tuple[dict[str, Any], list[str]]], measured: list[dict[str, tuple[float | None, float]]]) -> str:
    """The tables as text."""
    n = len(cohort)
    first = sum(not faults for _, faults in cohort)
    obtained = [kinds for kinds, _ in cohort if kinds]
    kinds_of_fault = Counter(_kind(fault) for _, faults in cohort for fault in faults)
    rows, missed = size_rows(measured)
    lost = sum(not m for m in measured)
    verdict = "Every volume meets the goal." if not missed else f"Missed: {'; '.join(missed)}."
    faults = table(["first fault of a draw", "draws"], [[k, str(c)] for k, c in kinds_of_fault.most_common()]) if kinds_of_fault else ""
    size_table = table(["size", "sex", "drawn", "measured", "target", "mean, SD off target", "published"], rows)
    return f"""## Checks

{first} of {n} patients ({first / n:.1%}) pass all checks at the first draw, {len(obtained)} ({len(obtained) / n:.1%}) after at most {TRIES} draws.

{faults}

## Sizes by sex

{len(measured) - lost} patients without pathology, half of each sex, mean ± SD. Volumes are counted on the
{CALIBRATION_MM:.0f} mm labels on which surfaces are calibrated (other grids: see phantom-scans). Wall: median distance from the outer
surface of the muscle to the cavity, on the same labels. Vessels: circle of the area of cuts across the center line, mid-diastole; drawn is
twice the drawn radius. Appendage: longest way inside it from the atrium, and longest diameter of its contact with the atrium, on
{FINE_MM:.0f} mm labels in mid-diastole.

{size_table}

Goal: the mean within {MEAN_GOAL:.0%} and the SD within {SD_GOAL:.0%} of the target, by sex. {verdict}

## Prevalences

The {len(obtained)} patients that passed, as drawn. The last column is the difference in standard errors of a share among so many.

{table(["drawn", "kind", "stated", "obtained", "standard errors"], prevalence_rows(obtained))}"""


def _kind(fault: str) -> str:
    """A fault without its figures."""
    words = fault.split(":")[0].split()
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in words)


def main() -> None:
    """Draw, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    o = parser.parse_args()
    cohort = of_all(partial(as_drawn, o.seed), o.patients, "cohort", o.processes)
    measured = of_all(partial(sizes, o.seed), o.patients, "sizes", o.processes)
    publish(
        page(cohort, measured), out=o.out, name="phantom-population", title="The population of virtual patients",
        command=f"python -m benchmarks.phantom_population --patients {o.patients} --seed {o.seed}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
