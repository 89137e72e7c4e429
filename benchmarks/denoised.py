"""What a fold's diffusion model makes of hearts that it has never seen: the upper bound's other cases, noised and denoised again.

    python -m benchmarks.denoised runs/study/folds/n04-s0 [--variation 0.4 0.6 0.8 0.9]
    PYTHONPATH=. auricle study --out runs/study --arms benchmarks.denoised:at_40,benchmarks.denoised:at_60 ..

The decoded upper bound says what the autoencoder takes from other cases; this says what the diffusion model takes: under little noise the other
patient's heart stays what it is, under all noise nothing is left of it, as in the pairs of `ours`. What is decoded is warped to the case's own
volumes and location, repaired and restored as pairs are; nothing is rejected. The other cases and the fold's generator must be there, as a study
with the arms decoded-upper-bound and ours leaves them.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auricle.core import progress
from auricle.core.files import read_json, write_array, write_json
from auricle.core.runs import Run, finished
from auricle.data import conditions
from auricle.data.labelcode import pack
from auricle.stages import gate, generate, restoration
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.pairs import cohort_pairs
from auricle.stages.sampling import decode
from auricle.study.arms import Shared


@dataclass(frozen=True)
class DenoiseStage:
    """Which cases, under how much noise, through which generator."""

    cohort: Path
    """Folder of a prepared cohort, whose training split is taken."""
    autoencoder: Path
    """Folder of the fold's autoencoder."""
    diffusion: Path
    """Folder of the fold's diffusion model."""
    variation: float
    """Share of noise, as `GenerateStage.variation`."""
    seed: int = 0
    """Seed of the noise."""


def run(config: DenoiseStage, out: Path) -> Path:
    """Write images and label maps on the model grid into `out`, as a cohort folder. Returns `out`."""
    stages = ("cohort", "autoencoder", "diffusion")
    this = Run(out, "cohort", config, {s: finished(getattr(config, s), s) for s in stages})
    if this.done:
        progress.report(f"{out}: is there")
        return out
    asked = GenerateStage(config.autoencoder, config.diffusion, variation=config.variation, gate=False, seed=config.seed)
    maker, pairs = generate.load(asked), cohort_pairs(config.cohort, "train")
    table: dict[str, Any] = read_json(config.cohort / "cases.json")
    records = {c["id"]: c for c in table["cases"]}
    this.begin()
    cases = []
    for i in progress.track(range(len(pairs)), f"variation {config.variation:g}", len(pairs)):
        item, spacing = pairs.items[i], pairs.grid.spacing
        image, label = pairs.plain(i)
        own = conditions.measured(item.attributes, label[0].numpy(), spacing, pairs.hu(i)[0])
        with torch.no_grad():
            mean, _ = maker.decoder.encode(image, pack(label))
        latent = maker.sample([i], [own], maker.model.whiten(mean))[0]
        decoded = decode(maker.decoder, latent, spacing, None, own)
        mended = gate.judge(decoded.label, spacing).label
        hu = restoration.restore(decoded.image, mended, spacing, maker.grains, config.seed, i)
        write_array(out / "images" / f"{item.id}.npy", np.rint(hu).astype(np.int16))
        write_array(out / "labels" / f"{item.id}.npy", mended.astype(np.uint8))
        cases.append({**records[item.id], "affine": np.asarray(item.affine).tolist()})
    write_json(out / "cases.json", {**table, "margin": [0, 0, 0], "cases": cases})
    this.finish(cases=len(cases))
    return out


def _arm(shared: Shared, variation: float) -> FinetuneStage:
    return replace(shared.finetune, generated=shared.decoded.parent / folder_name(variation), pretrained=None)


def at_40(shared: Shared) -> FinetuneStage:
    """Other cases from 40% noise."""
    return _arm(shared, 0.4)


def at_60(shared: Shared) -> FinetuneStage:
    """Other cases from 60% noise."""
    return _arm(shared, 0.6)


def at_80(shared: Shared) -> FinetuneStage:
    """Other cases from 80% noise."""
    return _arm(shared, 0.8)


def at_90(shared: Shared) -> FinetuneStage:
    """Other cases from 90% noise."""
    return _arm(shared, 0.9)


def folder_name(variation: float) -> str:
    """Of the cases denoised from that share of noise, within the fold."""
    return f"denoised-{variation:g}"


def main() -> None:
    """Write one folder for each variation into the fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fold", type=Path)
    parser.add_argument("--variation", type=float, nargs="+", default=[0.4, 0.6, 0.8, 0.9])
    options = parser.parse_args()
    others = sorted(options.fold.glob("extra-*"))
    for variation in options.variation:
        run(DenoiseStage(others[-1], options.fold / "autoencoder", options.fold / "diffusion", variation), options.fold / folder_name(variation))


if __name__ == "__main__":
    main()
