"""How many steps a sampler needs: the same starting noise and conditions through each, judged against training cases.

    python -m benchmarks.samplers runs/laptop [--pairs 24] [--out docs/results]

One row a sampler: network evaluations, kernel and Frechet distance to the training cases and their ratio to the 200-step reference, RMS distance of
the whitened latents from the reference's, and the share of label maps that pass the anatomical checks as decoded. Nothing is restored or rejected.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from auricle.core import progress
from auricle.data.conditions import Conditions
from auricle.diffusion.samplers import SamplerName
from auricle.metrics import distribution
from auricle.models.features import RandomEncoder
from auricle.phantom import check
from auricle.stages import generate
from auricle.stages.generate import GenerateStage, Maker
from auricle.stages.pairs import cohort_pairs, network_units
from auricle.stages.sampling import decode
from benchmarks.phantom_page import arguments, publish, table

REFERENCE: tuple[SamplerName, int] = ("dpmpp", 200)
SAMPLERS: tuple[tuple[SamplerName, int], ...] = (REFERENCE, ("dpmpp", 20), ("dpmpp", 10), ("heun", 10), ("euler", 20))
COLUMNS = ["sampler", "steps", "network evaluations", "kernel distance", "Frechet distance", "Frechet over reference", "latent RMS from reference",
           "pass the checks"]  # fmt: skip


def encode(encoder: RandomEncoder, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Features of one pair in HU, clipped as networks see it."""
    clipped = torch.from_numpy(np.clip(image, -1000.0, 1000.0).astype(np.float32))
    with torch.no_grad():
        return np.asarray(encoder(network_units(clipped)[None, None], torch.from_numpy(label)[None])[0].numpy())


def sampled(maker: Maker, pairs: int) -> torch.Tensor:
    """Latents of the first `pairs` candidates."""
    config, parts = maker.config, []
    for start in progress.track(range(0, pairs, config.batch_size), f"{config.sampler} {config.steps}", -(-pairs // config.batch_size)):
        indices = list(range(start, min(start + config.batch_size, pairs)))
        asked: list[Conditions] = [maker.requested(i) for i in indices]
        parts.append(maker.sample(indices, asked))
    return torch.cat(parts)


def main() -> None:
    """Sample, decode and judge with each sampler."""
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pairs", type=int, default=24)
    options = parser.parse_args()
    base = GenerateStage(options.run / "autoencoder", options.run / "diffusion", restore=False, gate=False, batch_size=8)
    maker, encoder = generate.load(base), RandomEncoder()
    train = cohort_pairs(options.run / "cohort", "train")
    real = np.stack([encode(encoder, *train.hu(i)) for i in progress.track(range(len(train)), "training cases", len(train))])
    scale, rows, latents, frechet = distribution.Scale.of(real), [], {}, {}
    for name, steps in SAMPLERS:
        key = (name, steps)
        latents[key] = sampled(replace(maker, config=replace(base, sampler=name, steps=steps)), options.pairs)
        made = [(d.image, d.label) for d in (decode(maker.decoder, latent, maker.grid.spacing) for latent in latents[key])]
        features = np.stack([encode(encoder, image, label) for image, label in made])
        kernel = distribution.kernel_distance(features, real, scale)
        frechet[key] = distribution.frechet_distance(features, real, scale)
        apart = ((latents[key] - latents[REFERENCE]).cpu() / maker.model.scale.cpu()).square().mean().sqrt()
        passing = np.mean([not check(label, maker.grid.spacing) for _, label in made])
        evaluations = 2 * steps - 1 if name == "heun" else steps
        rows.append([name, str(steps), str(evaluations), f"{kernel:.3f}", f"{frechet[key]:.1f}", f"{frechet[key] / frechet[REFERENCE]:.3f}",
                     f"{apart:.3f}", f"{100 * passing:.0f}%"])  # fmt: skip
        progress.report(" | ".join(rows[-1]))
    command = f"python -m benchmarks.samplers {options.run} --pairs {options.pairs}"
    note = "Judged as decoded: nothing is restored, refined or rejected, so distances are larger than [those of finished pairs](generator.md)."
    publish(f"{note}\n\n{table(COLUMNS, rows)}", out=options.out, name="generator-samplers", title="Steps of a sampler", command=command)


if __name__ == "__main__":
    main()
