"""Stage 3: train the diffusion model on whitened latents of the training pairs, with what is known of each as its conditions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core import progress
from auricle.core.anatomy import LABEL_COUNT
from auricle.core.config import from_json, to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import Run, finished
from auricle.core.seeds import seed_torch, torch_generator
from auricle.data import conditions
from auricle.data.augment import AugmentConfig
from auricle.data.conditions import Conditions, Scales
from auricle.data.labelcode import pack
from auricle.data.preprocess import to_hu
from auricle.diffusion.guidance import guided
from auricle.diffusion.parameterization import Denoise, Kind, denoiser, denoising_loss, parameterization
from auricle.metrics import obedience
from auricle.models.autoencoder import Autoencoder
from auricle.models.denoiser import Denoiser, DenoiserConfig
from auricle.stages import autoencoder as autoencoder_stage
from auricle.stages.pairs import Pairs, cohort_pairs
from auricle.stages.weights import for_inference, load_state, read_model, save_model
from auricle.training import checkpoint
from auricle.training.loop import FitConfig, Hardware, Plan, fit

LATENTS = "latents.safetensors"
MOST_WEIGHT = 20.0
"""Largest weight of a place in the loss."""


@dataclass(frozen=True)
class DiffusionStage:
    """How the diffusion model is trained."""

    cohort: Path
    """Folder of a prepared cohort."""
    autoencoder: Path
    """Folder of a trained autoencoder."""
    parameterization: Kind = "flow"
    """Rectified flow, EDM, or the paper's DDPM."""
    network: DenoiserConfig = field(default_factory=DenoiserConfig)
    """Shape of the network."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the pairs before they are encoded."""
    views: int = 4
    """Augmented views of each training pair that are encoded and cached, the unchanged one included."""
    least_latents: int = 0
    """Encode more views of each pair until there are so many in all: a generator of few cases learns those by heart otherwise."""
    focus: float = 0.5
    """Share of the loss that goes to where training cases have structures, small ones as much as large ones; the rest goes to all places alike."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=2000, batch_size=8, ema_decay=0.999, validate_every=500))
    """Length and speed of the training."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if self.views < 1 or self.least_latents < 0:
            raise ValueError(f"--views must be at least 1 and --least-latents not negative, not {self.views} and {self.least_latents}")
        if not 0 <= self.focus < 1:
            raise ValueError(f"--focus must lie in 0..1, below 1, is {self.focus}")

    def views_of(self, pairs: int) -> int:
        """Views of each of so many training pairs."""
        return max(self.views, -(-self.least_latents // pairs))


def run(config: DiffusionStage, out: Path) -> Path:
    """Encode the training pairs, then train into `out`. Returns `out`."""
    inputs = {"cohort": finished(config.cohort, "cohort"), "autoencoder": finished(config.autoencoder, "autoencoder")}
    this = Run(out, "diffusion", config, inputs)
    if this.done:
        progress.report(f"{out}: diffusion model is trained")
        return out
    train, held_out = cohort_pairs(config.cohort, "train"), cohort_pairs(config.cohort, "validation")
    encoder = autoencoder_stage.load(config.autoencoder)
    latent = tuple(n // encoder.config.downsampling for n in train.grid.size)
    if any(n % config.network.multiple for n in latent):
        way_out = "choose fewer --network.channels"
        raise InputError(f"latents of {latent} voxels are no multiple of {config.network.multiple}, as this network needs: {way_out}")
    config.hardware.fabric()
    this.begin()
    latents, scales = _cached_latents(out / LATENTS, encoder, config, train, held_out)
    mean, scale = whitening(latents["train_mean"], latents["train_std"])
    seed_torch(config.seed)
    network = Denoiser(config.network, latents["train_mean"].shape[1], conditions.WIDTH, conditions.PLACED)
    places = place_weights(latents["train_shares"], config.focus)
    scheme = parameterization(config.parameterization)

    def draw(split: str, indices: list[int], generator: torch.Generator) -> Tensor:
        latent = latents[f"{split}_mean"][indices]
        latent = latent + latents[f"{split}_std"][indices] * torch.randn(latent.shape, generator=generator)
        return ((latent - mean) / scale).contiguous(memory_format=torch.channels_last_3d)

    def terms(net: nn.Module, split: str, indices: list[int], generator: torch.Generator) -> Tensor:
        device = next(net.parameters()).device
        x0 = draw(split, indices, generator)
        noise = torch.randn(x0.shape, generator=generator).to(device, memory_format=torch.channels_last_3d)
        known = conditions.forget(latents[f"{split}_conditions"][indices], generator).to(device)
        sigma = scheme.draw_sigma(len(indices), generator).to(device)
        return denoising_loss(lambda x, time: net(x, time, known), scheme, x0.to(device), sigma, noise, places.to(device))

    def validate(net: nn.Module) -> dict[str, float]:
        # The same noise levels, noise and forgotten conditions every time, so that validations can be compared.
        count = len(latents["validation_mean"])
        generator = torch_generator(config.seed, "validation noise")
        values = [float(terms(net, "validation", [i, i], generator)) for _ in range(4) for i in range(count)]
        return {"loss": sum(values) / len(values)}

    plan = Plan(len(latents["train_mean"]), lambda net, i, g: {"loss": terms(net, "train", i, g)}, validate, "loss", "min")
    facts = fit(this, network, plan, config.fit, config.hardware, config.seed, "diffusion")
    save_model(this, network, {
        "network": config.network, "parameterization": config.parameterization, "grid": train.grid,
        "autoencoder_sha256": read_json(config.autoencoder / "model.json")["sha256"],
        "latent_shape": list(latents["train_mean"].shape[1:]), "condition_scales": to_json(scales),
        "location_sd_mm": conditions.location_sd(latents["train_conditions"].reshape(-1, len(train), conditions.WIDTH)), "training": facts,
    }, {
        "mean": mean, "scale": scale, "conditions": latents["train_conditions"][: len(train)].clone(), "ventricles_hu": _ventricles(train),
    })  # fmt: skip
    this.finish(**facts)
    return out


@dataclass(frozen=True)
class LatentModel:
    """A trained diffusion model with what turns its samples into latents of the autoencoder."""

    network: Denoiser
    parameterization: Kind
    latent_shape: tuple[int, int, int, int]
    mean: Tensor
    scale: Tensor
    scales: Scales
    """Units of the volumes among the conditions."""
    training: Tensor
    """Conditions of the training cases as they are, not augmented, (N, `conditions.WIDTH`)."""
    ventricles_hu: Tensor
    """Median HU in their left and right ventricle, (N, 2), NaN where these are too small to tell."""
    location_sd_mm: float
    """SD of the location between the views of a training case."""

    @property
    def structures(self) -> tuple[str, ...]:
        """Keys of the structures that any training case shows."""
        return conditions.labeled(self.training)

    def unwhiten(self, x: Tensor) -> Tensor:
        """Whitened (N, C, X, Y, Z) to latents of the autoencoder."""
        return x * self.scale.to(x) + self.mean.to(x)

    def whiten(self, latent: Tensor) -> Tensor:
        """The inverse of `unwhiten`."""
        return (latent - self.mean.to(latent)) / self.scale.to(latent)

    def denoise(self, asked: Sequence[Conditions], guidance: float = 1.0) -> Denoise:
        """Denoiser of whitened latents, one condition each; `guidance` as in `diffusion.guidance.guided`."""
        device = next(self.network.parameters()).device
        known = (torch.stack([conditions.encode(c, self.scales) for c in asked]) * conditions.learned(self.training)).to(device)
        scheme = parameterization(self.parameterization)
        exact = guided(
            denoiser(lambda x, time: self.network(x, time, known), scheme), denoiser(lambda x, time: self.network(x, time), scheme), guidance
        )

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            # A network that predicts noise errs in x0 by sigma times as much, and a DDPM starts at sigma 20000: whitened latents stay in range.
            return exact(x, sigma).clamp(-6.0, 6.0) if self.parameterization == "ddpm" else exact(x, sigma)

        return denoise


def load(folder: Path) -> LatentModel:
    """The trained diffusion model of a finished run."""
    facts, state, extra = read_model(folder, "diffusion")
    c, x, y, z = facts["latent_shape"]
    if "location_sd_mm" not in facts:
        raise InputError(f"{folder} was trained by an earlier version: train it again")
    network = Denoiser(from_json(DenoiserConfig, facts["network"]), c, conditions.WIDTH, conditions.PLACED)
    load_state(network, state, folder)
    scales = from_json(Scales, facts["condition_scales"])
    return LatentModel(
        for_inference(network), facts["parameterization"], (c, x, y, z), extra["mean"], extra["scale"], scales, extra["conditions"],
        extra["ventricles_hu"], facts["location_sd_mm"],
    )  # fmt: skip


@dataclass(frozen=True)
class Views:
    """The encoded views of the training pairs."""

    mean: Tensor
    """Posterior means (N, C, X, Y, Z)."""
    conditions: Tensor
    """Conditions (N, `conditions.WIDTH`)."""


def views(folder: Path) -> Views:
    """The views that the diffusion model in `folder` was trained on; raises `InputError` where they are not kept beside it."""
    path = folder / LATENTS
    if not path.exists():
        raise InputError(f"{path}: no such file; --variation needs the training views that a training keeps there")
    latents, _ = checkpoint.load(path)
    return Views(latents["train_mean"], latents["train_conditions"])


def _ventricles(train: Pairs) -> Tensor:
    return torch.tensor([obedience.chamber_hu(*train.hu(i)) or (math.nan, math.nan) for i in range(len(train))])


def whitening(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and SD of each latent channel over (N, C, X, Y, Z) posteriors, both of shape (1, C, 1, 1, 1).

    The variance of a draw from the posterior is the variance of the means plus the mean variance.
    """
    axes = (0, 2, 3, 4)
    variance = mean.var(dim=axes, unbiased=False) + std.square().mean(dim=axes)
    return mean.mean(dim=axes)[None, :, None, None, None], variance.sqrt()[None, :, None, None, None]


def place_weights(shares: Tensor, focus: float) -> Tensor:
    """Weights of the places of a latent, mean one, (X, Y, Z): 1 - `focus` for every place, and the rest as often as structures lie there.

    `shares` (9, X, Y, Z) are the mean shares of the labels at each place among training views. Every structure gets the same weight in all, spread
    over a voxel around it, so that an appendage's few places count as much as a ventricle's many; no place gets more than `MOST_WEIGHT`.
    """
    inside = shares[1:][shares[1:].sum((1, 2, 3)) > 0]
    if not len(inside) or not focus:
        return torch.ones(shares.shape[1:])
    each = inside / inside.mean((1, 2, 3), keepdim=True)
    blurred = F.avg_pool3d(each.mean(0)[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    weight = (1 - focus) + focus * blurred / blurred.mean()
    for _ in range(10):  # what is cut off goes to all other places
        weight = (weight / weight.mean()).clamp(max=MOST_WEIGHT)
    return weight


def _cached_latents(
    path: Path, encoder: Autoencoder, config: DiffusionStage, train: Pairs, held_out: Pairs
) -> tuple[dict[str, Tensor], Scales]:  # fmt: skip
    """Posterior mean and SD of every view with its conditions, the mean shares of the labels at each place, and the units of the conditions.

    Encoded once and kept beside the run.
    """
    if path.exists():
        latents, facts = checkpoint.load(path)
        return latents, from_json(Scales, facts["condition_scales"])
    latents = {}
    met: dict[str, list[Conditions]] = {}
    for split, pairs, views in (("train", train, config.views_of(len(train))), ("validation", held_out, 1)):
        rows = [(i, v) for v in range(views) for i in range(len(pairs))]
        encoded, shares = [], torch.zeros(())
        for i, v in progress.track(rows, f"encode {split}", len(rows)):
            mean, std, case, share = _encode(encoder, pairs, i, v, config)
            encoded.append((mean, std, case))
            shares = shares + share
        latents[f"{split}_mean"], latents[f"{split}_std"] = torch.cat([e[0] for e in encoded]), torch.cat([e[1] for e in encoded])
        met[split] = [e[2] for e in encoded]
        if split == "train":
            latents["train_shares"] = shares / len(rows)
    scales = conditions.volume_scales(met["train"])
    for split, cases in met.items():
        latents[f"{split}_conditions"] = torch.stack([conditions.encode(c, scales) for c in cases])
    checkpoint.save(path, latents, {"condition_scales": to_json(scales)})
    return latents, scales


@torch.no_grad()
def _encode(encoder: Autoencoder, pairs: Pairs, index: int, view: int, config: DiffusionStage) -> tuple[Tensor, Tensor, Conditions, Tensor]:
    """Posterior mean and SD (1, C, ..) of a view, its conditions, and the share of each label at every place of the latent (9, ..)."""
    if view == 0:
        image, label = pairs.plain(index)
    else:
        image, label = pairs.batch([index], config.augment, torch_generator(config.seed, "view", index, view))
    attributes = pairs.items[index].attributes
    if view and (config.augment.timing or config.augment.even_probability or config.augment.boost_probability):
        attributes = {k: v for k, v in attributes.items() if k != "contrast"}  # the view shows another
    met = conditions.measured(attributes, label[0].numpy(), pairs.grid.spacing, to_hu(image[0, 0].numpy()))
    device = next(encoder.parameters()).device
    image = image.to(device, memory_format=torch.channels_last_3d)
    mean, std = encoder.encode(image, pack(label.to(device)))
    shares = torch.cat([F.avg_pool3d((label == k).float(), encoder.config.downsampling) for k in range(LABEL_COUNT)])
    return mean.cpu().contiguous(), std.cpu().contiguous(), met, shares
