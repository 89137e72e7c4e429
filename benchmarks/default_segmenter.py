"""Train, pack and judge the segmenter that ships with the package.

    python -m benchmarks.default_segmenter train runs/any-scan       resumable: run it again to go on
    python -m benchmarks.default_segmenter pack runs/any-scan        writes src/auricle/weights/any-scan
    python -m benchmarks.default_segmenter judge [--patients 20]     prints how the packed one does on virtual patients it never saw
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from auricle import recipes
from auricle.core import progress
from auricle.core.anatomy import KEYS
from auricle.phantom import virtual_patient
from auricle.stages import cohort, evaluate, finetune, segment
from auricle.stages.weights import pack_model
from benchmarks.phantom_page import arguments, publish, table

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
    """Scores of scans of virtual patients on the scan's own grid, over all and by contrast timing."""
    trained = finetune.load(model)
    rows: list[dict[str, Any]] = []
    for i in progress.track(range(patients), "judge", patients):
        shift = np.random.default_rng([COHORT_SEED, i]).normal(0, SHIFT_MM, 3)
        case = virtual_patient(COHORT_SEED, i, SIZE, SPACING, (float(shift[0]), float(shift[1]), float(shift[2])))
        result = segment.segment(trained, case)
        assert case.label is not None
        timing = str(case.attributes["contrast"])
        rows += [{**r, "contrast": timing, "found": result.heart_found} for r in evaluate.score(case.id, result.case.label, case.label, SPACING, 2.0)]
    lines = []
    for name in ("all", *dict.fromkeys(r["contrast"] for r in rows)):
        own = [r for r in rows if name in ("all", r["contrast"])]
        found = evaluate.summarize(own)
        cases = len({r["case"] for r in own})
        near = found["hd95_mm"]["mean"]
        lines.append([name, str(cases), f"{sum(r['found'] for r in own) // len(KEYS)}", *(_text(found["dice"][k]) for k in ("mean", *KEYS)),
                      "-" if near is None else f"{near:.1f}", str(sum(found["missed"].values()))])  # fmt: skip
    return table(["contrast", "scans", "hearts found", "mean Dice", *KEYS, "HD95, mm", "missed structures"], lines)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Train, pack or judge."""
    parser = arguments(__doc__)
    parser.add_argument("what", choices=("train", "pack", "judge"))
    parser.add_argument("folder", type=Path, nargs="?", help="the run; judge takes the packed segmenter without it")
    parser.add_argument("--patients", type=int, default=20)
    o = parser.parse_args()
    if o.what != "judge" and o.folder is None:
        parser.error(f"{o.what} needs the run's folder")
    if o.what == "train":
        train(o.folder)
    elif o.what == "pack":
        progress.report(f"{pack_model(o.folder / 'finetune', 'finetune', finetune.DEFAULT_MODEL)} written")
    else:
        text = judge(o.folder / "finetune" if o.folder else finetune.DEFAULT_MODEL, o.patients)
        x, y, z = SIZE
        scans = f"Unseen virtual patients, {x} x {y} x {z} voxels of {SPACING[0]} mm, the view off the heart by {SHIFT_MM:g} mm (SD) an axis."
        text = f"{scans}\n\n{text}"
        command = f"python -m benchmarks.default_segmenter judge --patients {o.patients}"
        publish(text, out=o.out, name="default-segmenter", title="The segmenter that ships", command=command)


if __name__ == "__main__":
    main()
