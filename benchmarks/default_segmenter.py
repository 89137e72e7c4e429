"""Train, pack and judge the segmenter that ships with the package.

    python -m benchmarks.default_segmenter train runs/any-scan       resumable: run it again to go on
    python -m benchmarks.default_segmenter pack runs/any-scan        writes src/auricle/weights/any-scan
    python -m benchmarks.default_segmenter judge [--patients 20]     prints how the packed one does on virtual patients it never saw
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from auricle import recipes
from auricle.core import progress
from auricle.core.anatomy import KEYS
from auricle.metrics import overlap
from auricle.phantom import virtual_patient
from auricle.stages import cohort, finetune, segment
from auricle.stages.weights import pack_model
from benchmarks.phantom_page import table

SIZE, SPACING, SHIFT_MM = (192, 192, 160), (1.25, 1.25, 1.25), 10.0
"""The scans that it is judged on: finer than its own grid and wider than its window; SD of their offset from the heart."""
COHORT_SEED = 4711
"""Not a seed that anything is trained on."""


def train(folder: Path) -> None:
    """Prepare the cohort and train on it."""
    prepared, stage = recipes.any_scan()
    cohort.run(prepared, folder / "cohort")
    finetune.run(replace(stage, cohort=folder / "cohort"), folder / "finetune")


def judge(model: Path, patients: int) -> str:
    """Dice of scans of virtual patients on the scan's own grid, by contrast timing."""
    trained = finetune.load(model)
    rows, timings = [], []
    for i in progress.track(range(patients), "judge", patients):
        shift = np.random.default_rng([COHORT_SEED, i]).normal(0, SHIFT_MM, 3)
        case = virtual_patient(COHORT_SEED, i, SIZE, SPACING, (float(shift[0]), float(shift[1]), float(shift[2])))
        assert case.label is not None
        label = segment.segment(trained, case).case.label
        rows.append(overlap.dice(label, case.label))
        timings.append(str(case.attributes["contrast"]))
    lines = []
    for name in ("all", *dict.fromkeys(timings)):
        chosen = [r for r, t in zip(rows, timings, strict=True) if name in ("all", t)]
        mean = overlap.average(chosen)
        lines.append([name, str(len(chosen)), *(f"{mean[k] or 0:.3f}" for k in ("mean", *KEYS))])
    return table(["contrast", "patients", "mean", *KEYS], lines)


def main() -> None:
    """Train, pack or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "pack", "judge"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--patients", type=int, default=20)
    o = parser.parse_args()
    progress.configure("bars")
    if o.what != "judge" and o.folder is None:
        parser.error(f"{o.what} needs the run's folder")
    if o.what == "train":
        train(o.folder)
    elif o.what == "pack":
        progress.report(f"{pack_model(o.folder / 'finetune', 'finetune', segment.DEFAULT_MODEL)} written")
    else:
        print(judge(o.folder / "finetune" if o.folder else segment.DEFAULT_MODEL, o.patients))


if __name__ == "__main__":
    main()
