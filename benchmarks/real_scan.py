"""How a segmenter does on a real scan that has an organ label map (heart as a whole, aorta, left atrial appendage).

    python -m benchmarks.real_scan ct.nii.gz organs.nii.gz --heart 1 --aorta 2 --laa 4 [--model RUN]

Compares the union of myocardium and the four chambers with the heart, and AO and LAA with theirs; prints Dice and volumes.
"""

import argparse
from pathlib import Path

import numpy as np

from auricle.core import progress
from auricle.core.anatomy import ID
from auricle.data.nifti import read_nifti
from auricle.data.reading import read_scan
from auricle.stages import finetune, segment

HEART = [ID[k] for k in segment.HEART]


def main() -> None:
    """Segment and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("organs", type=Path)
    parser.add_argument("--model", type=Path, help="a run or a fine-tuned segmenter; the one that ships otherwise")
    for organ in ("heart", "aorta", "laa"):
        parser.add_argument(f"--{organ}", type=int, required=True, help=f"value of the {organ} in the organ label map")
    options = parser.parse_args()
    progress.configure("quiet")
    model = finetune.load(segment.resolve_model(options.model))
    case, _ = read_scan(options.scan)
    organs = np.asarray(read_nifti(options.organs)[0])
    result = segment.segment(model, case)
    label = result.case.label
    assert label is not None
    print(f"heart found: {result.heart_found}, confidence {result.confidence:.3f}\n")
    print("| organ | Dice | predicted, mL | reference, mL |\n| --- | --- | --- | --- |")
    for name, predicted, value in (("heart", np.isin(label, HEART), options.heart), ("aorta", label == ID["AO"], options.aorta),
                                   ("LAA", label == ID["LAA"], options.laa)):  # fmt: skip
        reference = organs == value
        dice = 2 * (predicted & reference).sum() / max(1, predicted.sum() + reference.sum())
        print(f"| {name} | {dice:.3f} | {predicted.sum() * case.voxel_ml:.1f} | {reference.sum() * case.voxel_ml:.1f} |")


if __name__ == "__main__":
    main()
