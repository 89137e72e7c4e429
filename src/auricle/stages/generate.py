"""Stage 4: generate pairs of image and label map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import Run, finished
from auricle.core.seeds import torch_generator
from auricle.data.labelcode import decode_label
from auricle.data.nifti import read_label, write_nifti
from auricle.data.preprocess import ModelGrid, to_hu
from auricle.diffusion.noise import cosine_sigmas, flow_sigmas, karras_sigmas
from auricle.diffusion.parameterization import Kind, denoiser, parameterization
from auricle.diffusion.samplers import SamplerName, sample
from auricle.metrics import anatomy
from auricle.models.autoencoder import Autoencoder
from auricle.stages import autoencoder as autoencoder_stage
from auricle.stages import diffusion as diffusion_stage
from auricle.stages.diffusion import LatentModel


@dataclass(frozen=True)
class GenerateStage:
    """What is generated, and how."""

    autoencoder: Path
    """Folder of a trained autoencoder."""
    diffusion: Path
    """Folder of a trained diffusion model."""
    count: int = 64
    """Pairs to generate. Pair k of a seed is the same whatever the count and the batch size."""
    sampler: SamplerName = "dpmpp"
    """How the noise is removed; ddpm is the paper's, with its 1000 steps."""
    steps: int = 20
    """Steps of the sampler; heun evaluates the network twice a step."""
    shift: float = 5.0
    """For a rectified flow: above 1, more of the steps lie at high noise, where the anatomy is decided. 1 spaces them evenly."""
    batch_size: int = 4
    """Pairs sampled at a time."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if min(self.count, self.steps, self.batch_size) < 1:
            raise ValueError("--count, --steps and --batch-size must be at least 1")
        if self.shift <= 0:
            raise ValueError(f"--shift must be positive, is {self.shift}")


def run(config: GenerateStage, out: Path) -> Path:
    """Write ``images/ID.nii.gz``, ``labels/ID.nii.gz`` and ``pairs.json`` into `out`; pairs that are there are kept. Returns `out`."""
    inputs = {"autoencoder": finished(config.autoencoder, "autoencoder"), "diffusion": finished(config.diffusion, "diffusion")}
    this = Run(out, "generate", config, inputs)
    if this.done:
        progress.report(f"{out}: pairs are generated")
        return out
    decoder, model = autoencoder_stage.load(config.autoencoder), diffusion_stage.load(config.diffusion)
    facts: dict[str, Any] = read_json(config.diffusion / "model.json")
    if facts["autoencoder_sha256"] != read_json(config.autoencoder / "model.json")["sha256"]:
        raise InputError(f"{config.diffusion} was trained on the latents of another autoencoder than {config.autoencoder}")
    grid = ModelGrid(tuple(facts["grid"]["size"]), tuple(facts["grid"]["spacing"]))
    this.begin()
    names = [f"generated-{config.seed}-{i:04d}" for i in range(config.count)]
    missing = [i for i, name in enumerate(names) if not (out / "labels" / f"{name}.nii.gz").exists()]
    with progress.bar("generate", config.count, config.count - len(missing)) as update:
        for start in range(0, len(missing), config.batch_size):
            chunk = missing[start : start + config.batch_size]
            latents = sample_latents(model, config, chunk)
            for index, latent in zip(chunk, latents, strict=True):
                _write_pair(out, names[index], *decode(decoder, latent), grid)
            update(config.count - len(missing) + start + len(chunk), {})
    pairs = [_describe(out, name, grid) for name in names]
    write_json(out / "pairs.json", {
        "synthetic": True, "size": grid.size, "spacing": grid.spacing, "seed": config.seed, "sampler": config.sampler,
        "steps": len(sigmas_for(model.parameterization, config.sampler, config.steps)) - 1, "model_sha256": facts["sha256"],
        "complete_share": sum(p["complete"] for p in pairs) / len(pairs),
        "speck_share": float(np.mean([p["speck_share"] for p in pairs])), "pairs": pairs,
    })  # fmt: skip
    this.finish()
    return out


def sigmas_for(kind: Kind, sampler: SamplerName, steps: int, shift: float = 1.0) -> Tensor:
    """Noise levels, descending to zero, at which a model of that parameterization is evaluated.

    A DDPM is evaluated at its own discrete levels: all 1000 of them when `sampler` is ``ddpm``, else `steps` evenly spaced ones.
    """
    if kind == "ddpm":
        levels = cosine_sigmas().flip(0)
        if steps > len(levels):
            raise InputError(f"--steps {steps}: a DDPM has {len(levels)} noise levels")
        count = len(levels) if sampler == "ddpm" else steps
        chosen = levels[torch.linspace(0, len(levels) - 1, count).round().long()]
        return torch.cat([chosen, torch.zeros(1, dtype=chosen.dtype)])
    count = 1000 if sampler == "ddpm" else steps
    return flow_sigmas(count, shift=shift) if kind == "flow" else karras_sigmas(count)


@torch.no_grad()
def sample_latents(model: LatentModel, config: GenerateStage, indices: list[int]) -> Tensor:
    """Latents of the autoencoder, (len(indices), C, X, Y, Z); each index has noise of its own, whatever the batch."""
    sigmas = sigmas_for(model.parameterization, config.sampler, config.steps, config.shift)
    generators = [torch_generator(config.seed, "generate", i) for i in indices]
    noise = torch.stack([torch.randn(model.latent_shape, generator=g) for g in generators])
    noise = noise.to(next(model.network.parameters()).device, memory_format=torch.channels_last_3d)
    exact = denoiser(model.network, parameterization(model.parameterization))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        # A network that predicts noise errs in x0 by sigma times as much, and a DDPM starts at sigma 20000: whitened latents stay in range.
        return exact(x, sigma).clamp(-6.0, 6.0) if model.parameterization == "ddpm" else exact(x, sigma)

    x = sample(config.sampler, denoise, noise * sigmas[0].float(), sigmas, generators)
    return model.unwhiten(x)


@torch.no_grad()
def decode(network: Autoencoder, latent: Tensor) -> tuple[Any, Any]:
    """Image (X, Y, Z) in HU, int16, and label map (X, Y, Z) of one latent (C, ..)."""
    if not latent.isfinite().all():
        raise InputError("sampling gave numbers that are not finite: take more --steps or another --sampler")
    image, label = network.decode(latent[None].contiguous(memory_format=torch.channels_last_3d))
    hu = np.clip(np.rint(to_hu(image[0, 0].float().cpu().numpy())), -1024, 3071).astype(np.int16)
    return hu, decode_label(label)[0].cpu().numpy()


def _write_pair(out: Path, name: str, image: Any, label: Any, grid: ModelGrid) -> None:
    """The label map last: its presence says that the pair is whole."""
    affine = grid.affine(np.zeros(3))
    write_nifti(out / "images" / f"{name}.nii.gz", image, affine, dtype=np.int16)
    write_nifti(out / "labels" / f"{name}.nii.gz", label, affine, dtype=np.uint8)


def _describe(out: Path, name: str, grid: ModelGrid) -> dict[str, Any]:
    label = read_label(out / "labels" / f"{name}.nii.gz")[0]
    voxel_ml = float(np.prod(grid.spacing)) / 1000.0
    return {
        "id": name, "complete": anatomy.is_complete(label, voxel_ml), "speck_share": anatomy.speck_share(label, voxel_ml),
        "volumes_ml": {k: round(v, 3) for k, v in anatomy.volumes_ml(label, voxel_ml).items()},
    }  # fmt: skip
