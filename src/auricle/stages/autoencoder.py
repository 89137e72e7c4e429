"""Stage 2: train the joint autoencoder of images and label maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auricle.core import progress
from auricle.core.config import from_json
from auricle.core.files import write_json
from auricle.core.runs import Run, finished
from auricle.core.seeds import seed_torch
from auricle.data.augment import AugmentConfig
from auricle.data.labelcode import decode_label, pack
from auricle.data.preprocess import to_hu
from auricle.losses.autoencoding import AutoencoderLossConfig, autoencoder_loss
from auricle.metrics import anatomy, fidelity, overlap
from auricle.models.autoencoder import Autoencoder, AutoencoderConfig, kl_divergence
from auricle.stages import restoration
from auricle.stages.pairs import Pairs, Triple, check_focus, check_grid, cohort_pairs
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
        check_focus(self.focus)
        if self.patch is not None and any(n < 1 or n % self.network.downsampling for n in self.patch):
            raise ValueError(f"--patch must be multiples of {self.network.downsampling} for this network, not {self.patch}")


def run(config: AutoencoderStage, out: Path) -> Path:
    """Train into `out`: the model, the texture it takes from its training cases, and its round trip of held-out cases. Returns `out`."""
    this = Run(out, "autoencoder", config, {"cohort": finished(config.cohort, "cohort")})
    if this.done:
        progress.report(f"{out}: autoencoder is trained")
        return out
    train, held_out = cohort_pairs(config.cohort, "train"), cohort_pairs(config.cohort, "validation")
    check_grid(train.grid.size, config.network.downsampling, config.patch)
    config.hardware.fabric()
    this.begin()
    seed_torch(config.seed)
    network = Autoencoder(config.network)
    plan = Plan(len(train), _loss(config, train), lambda net: _validate(net, held_out), "label_dice", "max")
    facts = fit(this, network, plan, config.fit, config.hardware, config.seed, "autoencoder")
    save_model(this, network, {"network": config.network, "grid": train.grid, "training": facts})
    restoration.learn(train, out / restoration.FILE)
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
    """Round trip of `pairs` through the mean of the posterior.

    Label Dice per structure, impossible boundary voxels and specks; of the image RMSE in HU, everywhere and inside the structures, PSNR in dB
    and SSIM.
    """
    voxel_ml = float(np.prod(pairs.grid.spacing)) / 1000.0
    rows = [_score(round_trip(network, *pairs.plain(i)), voxel_ml) for i in progress.track(range(len(pairs)), "round trip", len(pairs))]
    means = ("impossible_boundary_share", "speck_share", "image_psnr_db", "image_ssim")
    return {
        "cases": len(rows), "label_dice": overlap.average([r["dice"] for r in rows]),
        "image_rmse_hu": _rms([r["square"] for r in rows]), "image_rmse_heart_hu": _rms([r["heart"] for r in rows if r["heart"] is not None]),
        **{k: float(np.mean([r[k] for r in rows])) for k in means},
    }  # fmt: skip


def _rms(squares: Sequence[Any]) -> float | None:
    return float(np.sqrt(np.mean(squares))) if squares else None


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


def _score(r: "RoundTrip", voxel_ml: float) -> dict[str, Any]:
    """The numbers of one round trip, so that its volumes can go."""
    after = r.image_hu + r.error_hu
    return {
        "dice": overlap.dice(r.decoded, r.label), "impossible_boundary_share": anatomy.impossible_boundary_share(r.decoded, r.label),
        "speck_share": anatomy.speck_share(r.decoded, voxel_ml), "square": float(np.mean(r.error_hu**2)),
        "heart": float(np.mean(r.error_hu[r.label > 0] ** 2)) if r.label.any() else None,
        # Equal images have no finite PSNR; a thousandth of a HU is as good as equal.
        "image_psnr_db": min(fidelity.psnr(after, r.image_hu), 126.0), "image_ssim": fidelity.ssim(after, r.image_hu),
    }  # fmt: skip


@dataclass(frozen=True)
class RoundTrip:
    """One pair and what became of it, all [x, y, z]."""

    decoded: NDArray[np.uint8]
    label: NDArray[np.uint8]
    image_hu: NDArray[np.float32]
    error_hu: NDArray[np.float32]


@torch.no_grad()
def round_trip(network: nn.Module, image: Tensor, label: Tensor) -> RoundTrip:
    """One pair, network units (1, 1, X, Y, Z) and label (1, X, Y, Z), through the mean of the posterior."""
    device = next(network.parameters()).device
    image = image.to(device, memory_format=torch.channels_last_3d)
    decoded_image, decoded_label, _, _ = network(image, pack(label.to(device)))
    before, after = (to_hu(t[0, 0].float().cpu().numpy()) for t in (image, decoded_image))
    return RoundTrip(decode_label(decoded_label)[0].cpu().numpy(), label[0].numpy(), before, after - before)


def _validate(network: nn.Module, pairs: Pairs) -> dict[str, float]:
    dice, squares = [], []
    for i in range(len(pairs)):
        r = round_trip(network, *pairs.plain(i))
        dice.append(overlap.dice(r.decoded, r.label))
        squares.append(float(np.mean(r.error_hu**2)))
    mean = overlap.average(dice)
    return {"label_dice": mean["mean"] or 0.0, "label_dice_LAA": mean["LAA"] or 0.0, "image_rmse_hu": float(np.sqrt(np.mean(squares)))}
