"""A fold of a study: a cohort folder that holds some of another one's training cases, and its test cases.

The folder looks like one that ``auricle cohort`` wrote, so that every stage works on it, and on nothing beyond it: what a fold leaves out, no
network trained on it can have seen. Files are hard links where the disk allows it.
"""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import atomic_path, read_json, write_json
from auricle.core.runs import Run, finished
from auricle.core.seeds import numpy_generator

HELD_OUT_SHARE = 0.1
"""Part of the labeled patients that early stopping looks at, the paper's."""


@dataclass(frozen=True)
class FoldStage:
    """Which training patients a fold takes: `count` of them from place `first` of an order drawn by `seed`.

    Folds of one seed are nested: more patients are the same ones and others.
    """

    cohort: Path
    """Folder of a prepared cohort."""
    count: int
    """Patients taken."""
    first: int = 0
    """Patients of the order that are left out before them."""
    hold_out: bool = True
    """Keep a tenth of them (at least one) as the validation split, where early stopping looks; otherwise all of them train."""
    seed: int = 0
    """Seed of the order."""

    def __post_init__(self) -> None:
        if self.count < (2 if self.hold_out else 1) or self.first < 0:
            raise ValueError(f"--count must be at least 2 (one patient trains, one is held out), not {self.count}")


def run(config: FoldStage, out: Path) -> Path:
    """Write the fold into `out`; raises `InputError` where the cohort has too few training patients. Returns `out`."""
    this = Run(out, "cohort", config, {"cohort": finished(config.cohort, "cohort")})
    if this.done:
        progress.report(f"{out}: fold is ready")
        return out
    table: dict[str, Any] = read_json(config.cohort / "cases.json")
    taken = choose(table["cases"], config)
    this.begin()
    cases = [{**c, "split": taken.get(c["patient"], c["split"])} for c in table["cases"] if c["split"] == "test" or c["patient"] in taken]
    for case in cases:
        for kind in ("images", "labels"):
            _link(config.cohort / kind / f"{case['id']}.npy", out / kind / f"{case['id']}.npy")
    write_json(out / "cases.json", {**table, "cases": cases})
    this.finish(cases=len(cases))
    return out


def choose(cases: list[dict[str, Any]], config: FoldStage) -> dict[str, str]:
    """Split of every patient that the fold takes from the training split; raises `InputError` where there are too few."""
    patients = sorted({c["patient"] for c in cases if _trains(c)})
    if config.first + config.count > len(patients):
        raise InputError(
            f"{config.cohort}: the study needs {config.first + config.count} training patients, the cohort has {len(patients)}: "
            "lower --labelled or --ratio, or take more patients (of virtual ones, --patients)"
        )
    chosen = _order(patients, config.seed)[config.first : config.first + config.count]
    held = max(1, round(HELD_OUT_SHARE * len(chosen))) if config.hold_out else 0
    return {p: "validation" if i < held else "train" for i, p in enumerate(chosen)}


def patients_for(cases: list[dict[str, Any]], scans: int, first: int, seed: int) -> int:
    """How many patients from place `first` of the order have at least so many scans; more than there are where too few do."""
    counts = Counter(c["patient"] for c in cases if _trains(c))
    found = 0
    for taken, patient in enumerate(_order(sorted(counts), seed)[first:], 1):
        found += counts[patient]
        if found >= scans:
            return taken
    return len(counts) - first + scans - found


def _trains(case: dict[str, Any]) -> bool:
    """Whether a case of the training split shows a labeled structure; before it is prepared nobody knows."""
    return case["split"] == "train" and bool(case.get("structures", True))


def _order(patients: list[str], seed: int) -> list[str]:
    return [patients[i] for i in numpy_generator(seed, "fold").permutation(len(patients))]


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    with atomic_path(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
