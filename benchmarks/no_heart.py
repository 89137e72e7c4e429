"""Does a segmenter know when there is no heart? Virtual patients seen whole, cut in half, at the tip, and below the heart.

    python -m benchmarks.no_heart [runs/demo] [--patients 8]

Prints, for each view, how much heart is in it, how often one was found, and the mean confidence.
"""

import argparse
from pathlib import Path

import numpy as np

from auricle.core import progress
from auricle.core.anatomy import ID
from auricle.phantom import virtual_patient
from auricle.stages import finetune, segment

VIEWS = {"whole heart": (64, 0.0), "upper part cut": (40, -40.0), "tip": (30, -75.0), "below the heart": (24, -115.0)}
"""Slices of 3 mm, and how far the middle of the scan lies above the heart's center (mm)."""
COHORT_SEED = 77
"""Not a seed that the recipes train on."""


def main() -> None:
    """Segment every view of every patient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a run or a fine-tuned segmenter; the one that ships otherwise")
    parser.add_argument("--patients", type=int, default=8)
    options = parser.parse_args()
    progress.configure("quiet")
    model = finetune.load(segment.resolve_model(options.model))
    heart = [ID[k] for k in segment.HEART]
    print("| view | heart in view, mL | found | confidence |\n| --- | --- | --- | --- |", flush=True)
    for view, (slices, above) in VIEWS.items():
        cases = [virtual_patient(COHORT_SEED, i, (96, 96, slices), (3.0, 3.0, 3.0), (0.0, 0.0, above)) for i in range(options.patients)]
        results = [segment.segment(model, case) for case in cases]
        volume = np.mean([np.isin(case.label, heart).sum() * case.voxel_ml for case in cases if case.label is not None])
        found = sum(r.heart_found for r in results)
        print(f"| {view} | {volume:.0f} | {found} of {len(cases)} | {np.mean([r.confidence for r in results]):.2f} |", flush=True)


if __name__ == "__main__":
    main()
