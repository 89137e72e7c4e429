"""Stage 5: pre-train the segmentation U-Net by masked image modeling."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import write_array, write_json
from auricle.core.runs import Run, finished
from auricle.core.seeds import epoch_order, seed_torch, torch_generator
from auricle.data.augment import AugmentConfig
from auricle.data.preprocess import CLIP_HU, to_hu
from auricle.models.masking import MaskConfig, apply_mask, draw_mask
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.stages.pairs import Pairs, Triple, check_grid, cohort_pairs, generated_pairs
from auricle.stages.weights import save_model
from auricle.training.loop import FitConfig, Hardware, Plan, fit

EXAMPLES = 3
"""Held-out images that are kept as pictures."""


@dataclass(frozen=True)
class PretrainStage:
    """How the U-Net is pre-trained; the images come from generated pairs, from a cohort's training split, or from both."""

    generated: Path | None = None
    """Folder of generated pairs, as in the paper."""
    cohort: Path | None = None
    """Folder of a prepared cohort."""
    network: SegmenterConfig = field(default_factory=SegmenterConfig)
    """Shape of the network; fine-tuning takes the same."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Which share of an image is hidden."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the images before they are masked."""
    patch: Triple | None = None
    """Voxels of the training patches; None trains on whole images."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=None, epochs=300, patience=50))
    """Length and speed of the training; the paper stops after 50 epochs without improvement."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if self.generated is None and self.cohort is None:
            raise ValueError("give --generated, --cohort or both: pre-training needs images")
        check_patch(self.patch, self.network)


def run(config: PretrainStage, out: Path) -> Path:
    """Pre-train into `out`. Returns `out`."""
    inputs = {name: finished(folder, stage) for name, folder, stage in
              (("generated", config.generated, "generate"), ("cohort", config.cohort, "cohort")) if folder is not None}  # fmt: skip
    this = Run(out, "pretrain", config, inputs)
    if this.done:
        progress.report(f"{out}: U-Net is pre-trained")
        return out
    train, held_out = hold_out(_images(config), config.seed)
    check_grid(train.grid.size, config.network.multiple, config.patch)
    config.hardware.fabric()
    this.begin()
    seed_torch(config.seed)
    network = Segmenter(config.network, outputs=1)

    def loss(net: nn.Module, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        image, _ = train.batch(indices, config.augment, generator, config.patch)
        return {"loss": reconstruction_error(net, image, config.mask, generator)}

    def validate(net: nn.Module) -> dict[str, float]:
        # Always hidden in part: with few images held out, chance could leave each of them whole.
        generator, mask = torch_generator(config.seed, "validation masks"), replace(config.mask, probability=1.0)
        errors = [float(reconstruction_error(net, held_out.plain(i)[0], mask, generator)) for i in range(len(held_out))]
        return {"loss": sum(errors) / len(errors)}

    facts = fit(this, network, Plan(len(train), loss, validate, "loss", "min"), config.fit, config.hardware, config.seed, "pretrain")
    save_model(this, network, {"network": config.network, "grid": train.grid, "training": facts})
    write_json(out / "reconstruction.json", reconstruct(network, held_out, config, out / "examples.npy"))
    this.finish(**facts)
    return out


@torch.no_grad()
def reconstruct(network: nn.Module, pairs: Pairs, config: PretrainStage, target: Path) -> dict[str, Any]:
    """How well hidden blocks of the held-out images come back; the first images are written to `target` (image, 3, X, Y, Z).

    Returns ``images``, and ``hidden_rmse_hu`` and ``seen_rmse_hu``: the error inside and outside the blocks, over all images. The file holds
    int16 HU of each image, of what the network saw, and of what it made of it.
    """
    mask = replace(config.mask, probability=1.0)
    errors: dict[str, list[float]] = {"hidden": [], "seen": []}
    examples = []
    for i in range(len(pairs)):
        image, _ = pairs.plain(i)
        x, y, z = image.shape[2:]
        hidden = draw_mask(mask, (x, y, z), torch_generator(config.seed, "example mask", i))[None, None]
        device = next(network.parameters()).device
        made = network(apply_mask(image, hidden).to(device, memory_format=torch.channels_last_3d)).float().cpu()
        square = (made - image).square()
        for name, where in (("hidden", hidden), ("seen", ~hidden)):
            if where.any():  # blocks may hide a small image whole
                errors[name].append(float(square[where].mean()))
        if i < EXAMPLES:
            shown = torch.cat([image, apply_mask(image, hidden), made], dim=1)[0].numpy()
            examples.append(np.rint(to_hu(shown)).clip(-1024, 3071).astype(np.int16))
    write_array(target, np.stack(examples))
    return {"images": len(pairs), **{f"{k}_rmse_hu": CLIP_HU * float(np.sqrt(np.mean(v))) for k, v in errors.items() if v}}


def reconstruction_error(network: nn.Module, image: Tensor, mask: MaskConfig, generator: torch.Generator) -> Tensor:
    """Mean squared difference between the image (N, 1, X, Y, Z) and what the network makes of it with blocks zeroed."""
    x, y, z = image.shape[2:]
    hidden = torch.stack([draw_mask(mask, (x, y, z), generator) for _ in range(len(image))])[:, None]
    device = next(network.parameters()).device
    image = image.to(device, memory_format=torch.channels_last_3d)
    return F.mse_loss(network(apply_mask(image, hidden.to(device))), image)


def check_patch(patch: Triple | None, network: SegmenterConfig) -> None:
    """Raise `ValueError` for patches that the network cannot halve as often as it wants to."""
    if patch is not None and any(n < 1 or n % network.multiple for n in patch):
        raise ValueError(f"--patch must be multiples of {network.multiple} for this network, not {patch}")


def hold_out(pairs: Pairs, seed: int) -> tuple[Pairs, Pairs]:
    """Training part and the paper's 10% (at least one patient) held out for early stopping; whole patients at a time."""
    patients = sorted({item.patient for item in pairs.items})
    if len(patients) < 2:
        raise InputError("one patient cannot both train and be held out for early stopping: at least 2 are needed")
    order = epoch_order(len(patients), seed, 0)
    chosen = {patients[i] for i in order[: max(1, round(0.1 * len(patients)))]}
    places = range(len(pairs))
    return (pairs.take([i for i in places if pairs.items[i].patient not in chosen]),
            pairs.take([i for i in places if pairs.items[i].patient in chosen]))  # fmt: skip


def _images(config: PretrainStage) -> Pairs:
    generated = generated_pairs(config.generated) if config.generated is not None else None
    real = cohort_pairs(config.cohort, "train") if config.cohort is not None else None
    both = [p for p in (generated, real) if p is not None]
    return both[0] if len(both) == 1 else both[0] + both[1]
