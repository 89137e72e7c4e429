"""One optimizer step of every stage of the paper recipe, at 256 x 256 x 160 voxels, and the memory it takes.

    python -m benchmarks.paper_step [--out FOLDER]

Each stage runs in a process of its own on a cohort of four virtual patients, through the same code as `auricle run --recipe paper`; one step
and one validation replace the hundreds of epochs. `generate` samples and decodes one pair in two steps of DDIM in place of 1000 of DDPM, which take
as much memory and hours of a CPU; the pre-training images come from the cohort. Prints one row a stage: seconds, and the largest resident
memory in GiB.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from auricle import recipes
from auricle.core import progress
from auricle.core.machine import describe_machine
from auricle.core.memory import peak_gib
from auricle.data.cohort import VirtualData
from auricle.stages import autoencoder, cohort, diffusion, finetune, generate, pretrain
from auricle.training.loop import FitConfig

STAGES = ("cohort", "autoencoder", "diffusion", "generate", "pretrain", "finetune")


def one_step(fit: FitConfig) -> FitConfig:
    """The same training, over after one step."""
    return replace(fit, steps=1, epochs=None, validate_every=1)


def run_stage(stage: str, root: Path) -> None:
    """Run one stage into ``root/stage``."""
    paper = recipes.paper()
    prepared = root / "cohort"
    if stage == "cohort":
        # Shares that leave two patients to train and one each to validate and to test.
        cohort.run(replace(paper.cohort, data=VirtualData(patients=4), shares=(2.0, 1.0, 1.0)), prepared)
    elif stage == "autoencoder":
        autoencoder.run(replace(paper.autoencoder, cohort=prepared, fit=one_step(paper.autoencoder.fit)), root / stage)
    elif stage == "diffusion":
        config = replace(paper.diffusion, cohort=prepared, autoencoder=root / "autoencoder", views=2, fit=one_step(paper.diffusion.fit))
        diffusion.run(config, root / stage)
    elif stage == "generate":
        config = replace(paper.generate, autoencoder=root / "autoencoder", diffusion=root / "diffusion", count=1, sampler="ddim", steps=2, gate=False)
        generate.run(config, root / stage)
    elif stage == "pretrain":
        pretrain.run(replace(paper.pretrain, generated=None, cohort=prepared, fit=one_step(paper.pretrain.fit)), root / stage)
    else:
        config = replace(paper.finetune, cohort=prepared, pretrained=root / "pretrain", fit=one_step(paper.finetune.fit))
        finetune.run(config, root / stage)


def main() -> None:
    """Run every stage in a process of its own, or the one named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the runs; a temporary one otherwise")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        progress.configure("quiet")
        start = time.monotonic()
        run_stage(options.stage, options.out)
        print(f"| {options.stage} | {time.monotonic() - start:.0f} | {peak_gib():.1f} |", flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{describe_machine()}\n\n| stage | seconds | peak memory, GiB |\n| --- | --- | --- |", flush=True)
        for stage in STAGES:
            command = [sys.executable, "-m", "benchmarks.paper_step", "--stage", stage, "--out", str(options.out or temporary)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
