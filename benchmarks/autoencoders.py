"""What each choice in the joint autoencoder is worth: one row a variant, everything else as in the laptop recipe, equal steps and seed.

    python -m benchmarks.autoencoders runs/laptop/cohort [--steps 600] [--out docs/results]

Prints the round trip of the test patients: label Dice, impossible boundary voxels, image RMSE in HU, and time relative to the first row.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from auricle import recipes
from auricle.core.files import read_json
from auricle.models.autoencoder import AutoencoderConfig
from auricle.stages import autoencoder
from benchmarks.phantom_page import arguments, publish, table

BASE = recipes.laptop().autoencoder.network
VARIANTS: dict[str, AutoencoderConfig] = {
    "categorical head, sum": BASE,
    "packed head (the paper's), sum": replace(BASE, label_head="packed"),
    "categorical head, concatenation": replace(BASE, fusion="concat"),
}
COLUMNS = ["variant", "label Dice, mean", "LAA", "impossible boundary voxels", "specks", "image RMSE, HU", "relative time"]


def main() -> None:
    """Train every variant, one after the other."""
    parser = arguments(__doc__)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="how many of the variants, in the order of the table")
    options = parser.parse_args()
    stage, rows, reference = recipes.laptop().autoencoder, [], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, network) in enumerate(list(VARIANTS.items())[: options.variants]):
            fit = replace(stage.fit, steps=options.steps, validate_every=options.steps)
            out = Path(temporary) / str(number)
            start = time.monotonic()
            autoencoder.run(replace(stage, cohort=options.cohort, network=network, fit=fit), out)
            seconds = time.monotonic() - start
            reference = reference or seconds
            found = read_json(out / "assessment.json")
            dice = found["label_dice"]
            rows.append([
                name, f"{dice['mean']:.3f}", f"{dice['LAA']:.3f}", f"{100 * found['impossible_boundary_share']:.4f}%",
                f"{100 * found['speck_share']:.4f}%", f"{found['image_rmse_hu']:.0f}", f"{seconds / reference:.2f}",
            ])  # fmt: skip
    command = f"python -m benchmarks.autoencoders {options.cohort} --steps {options.steps} --variants {options.variants}"
    publish(table(COLUMNS, rows), out=options.out, name="generator-autoencoders", title="Choices in the joint autoencoder", command=command)


if __name__ == "__main__":
    main()
