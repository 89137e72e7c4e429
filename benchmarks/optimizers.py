"""AdamW beside Muon on the demo's autoencoder: the same network, patches, steps and seed.

    python -m benchmarks.optimizers runs/demo/cohort [--steps 400]

Prints the round-trip label Dice and image RMSE of the test patients, and seconds a step relative to AdamW.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from auricle import recipes
from auricle.core import progress
from auricle.core.files import read_json
from auricle.stages import autoencoder

OPTIMIZERS: tuple[Literal["adamw", "muon"], ...] = ("adamw", "muon")


def main() -> None:
    """Train both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    progress.configure("quiet")
    stage = recipes.demo().autoencoder
    print("| optimizer | mean Dice | LAA Dice | image RMSE, HU | relative time |\n| --- | --- | --- | --- | --- |", flush=True)
    reference = None
    with tempfile.TemporaryDirectory() as temporary:
        for name in OPTIMIZERS:
            fit = replace(stage.fit, optimizer=name, steps=options.steps, validate_every=options.steps)
            out = Path(temporary) / name
            start = time.monotonic()
            autoencoder.run(replace(stage, cohort=options.cohort, fit=fit), out)
            seconds = time.monotonic() - start
            reference = reference or seconds
            found = read_json(out / "assessment.json")
            dice = found["label_dice"]
            print(f"| {name} | {dice['mean']:.3f} | {dice['LAA']:.3f} | {found['image_rmse_hu']:.0f} | {seconds / reference:.2f} |", flush=True)


if __name__ == "__main__":
    main()
