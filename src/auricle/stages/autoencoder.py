"""Stage 2: train the joint autoencoder of images and label maps."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auricle.core import progress
from auricle.core.config import from_json
from auricle.core.files import write_json
from auricle.core.runs import Run, finished
from auricle.data.augment import AugmentConfig
from auricle.data.labelcode import decode_label, pack
from auricle.data.preprocess import CLIP_HU
from auricle.losses.autoencoding import AutoencoderLossConfig, autoencoder_loss
from auricle.metrics import anatomy, overlap
from auricle.models.autoencoder import Autoencoder, AutoencoderConfig, kl_divergence
from auricle.stages.pairs import Pairs, Triple, cohort_pairs
from auricle.stages.weights import for_inference, load_state, read_model, save_model
from auricle.training.loop import FitConfig, Hardware, Plan, fit


@dataclass(frozen=True)
class AutoencoderStage:
    """How the joint autoencoder is trained."""

    cohort: Path
    """Folder of a prepared cohort."""
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Shape of the network."""
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    """Weights of the loss."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the training pairs."""
    patch: Triple | None = None
    """Voxels of the training patches; None trains on whole pairs. The network is convolutional, so patches train it for any size."""
    focus: float = 0.5
    """Share of the patches that are centered on a structure drawn at random."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Length and speed of the training."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if self.patch is not None and any(n % self.network.downsampling for n in self.patch):
            raise ValueError(f"--patch must be multiples of {self.network.downsampling} for this network, not {self.patch}")


def run(config: AutoencoderStage, out: Path) -> Path:
    """Train into `out`: the model, and ``assessment.json`` with its round trip on held-out cases. Returns `out`."""
    this = Run(out, "autoencoder", config, {"cohort": finished(config.cohort, "cohort")})
    if this.done:
        progress.report(f"{out}: autoencoder is trained")
        return out
    train, held_out = cohort_pairs(config.cohort, "train"), cohort_pairs(config.cohort, "validation")
    config.hardware.fabric()
    this.begin()
    torch.manual_seed(config.seed)
    network = Autoencoder(config.network)
    plan = Plan(len(train), _loss(config, train), lambda net: _validate(net, held_out), "label_dice", "max")
    facts = fit(this, network, plan, config.fit, config.hardware, config.seed, "autoencoder")
    save_model(this, network, {"network": config.network, "grid": train.grid, "training": facts})
    write_json(out / "assessment.json", assess(network, cohort_pairs(config.cohort, "test")))
    this.finish(**facts)
    return out


def load(folder: Path) -> Autoencoder:
    """The trained autoencoder of a finished run."""
    facts, state, _ = read_model(folder, "autoencoder")
    network = Autoencoder(from_json(AutoencoderConfig, facts["network"]))
    load_state(network, state, folder)
    return for_inference(network)


def assess(network: nn.Module, pairs: Pairs) -> dict[str, Any]:
    """Round trip of `pairs`: label Dice per structure, impossible boundary voxels, specks, and the image's RMSE in HU."""
    rows = [_round_trip(network, *pairs.plain(i)) for i in progress.track(range(len(pairs)), "round trip", len(pairs))]
    voxel_ml = float(np.prod(pairs.grid.spacing)) / 1000.0
    return {
        "cases": len(rows),
        "label_dice": overlap.average([overlap.dice(decoded, label) for decoded, label, _ in rows]),
        "impossible_boundary_share": float(np.mean([anatomy.impossible_boundary_share(d, lab) for d, lab, _ in rows])),
        "speck_share": float(np.mean([anatomy.speck_share(d, voxel_ml) for d, _, _ in rows])),
        "image_rmse_hu": float(np.sqrt(np.mean([error for _, _, error in rows]))) * CLIP_HU,
    }


def _loss(config: AutoencoderStage, train: Pairs) -> Any:
    def loss(network: nn.Module, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        device = next(network.parameters()).device
        image, label = (t.to(device) for t in train.batch(indices, config.augment, generator, config.patch, config.focus))
        packed = pack(label)
        shape = (len(indices), config.network.latent_channels, *(n // config.network.downsampling for n in image.shape[2:]))
        noise = torch.randn(shape, generator=generator).to(device)
        decoded_image, decoded_label, mean, std = network(image, packed, noise)
        return autoencoder_loss(config.loss, image, label, packed, (decoded_image, decoded_label), kl_divergence(mean, std))

    return loss


@torch.no_grad()
def _round_trip(network: nn.Module, image: Tensor, label: Tensor) -> tuple[Any, Any, float]:
    device = next(network.parameters()).device
    image = image.to(device, memory_format=torch.channels_last_3d)
    decoded_image, decoded_label, _, _ = network(image, pack(label.to(device)))
    error = (decoded_image - image).square().mean()
    return decode_label(decoded_label)[0].cpu().numpy(), label[0].numpy(), float(error)


def _validate(network: nn.Module, pairs: Pairs) -> dict[str, float]:
    rows = [_round_trip(network, *pairs.plain(i)) for i in range(len(pairs))]
    dice = overlap.average([overlap.dice(decoded, label) for decoded, label, _ in rows])
    return {"label_dice": dice["mean"] or 0.0, "label_dice_LAA": dice["LAA"] or 0.0,
            "image_rmse_hu": float(np.sqrt(np.mean([e for _, _, e in rows]))) * CLIP_HU}  # fmt: skip
