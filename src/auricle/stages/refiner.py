"""Train the refiner: a denoiser at the image's resolution that gives decoded images back edges, small vessels and noise.

An autoencoder with a small latent cannot hold these, and a decoder that is trained for the least error leaves them out. What is missing can be
drawn, though: the refiner learns the distribution of the residual - training image less decoded image - given the decoded image, the label map,
how noisy the scan is and whether it shows metal. A second model behind the first is the cascade of Ho et al. 2022, here on residuals and on patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core import progress
from auricle.core.config import from_json
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_array
from auricle.core.runs import Run, finished
from auricle.core.seeds import seed_torch, torch_generator
from auricle.data import conditions
from auricle.data.labelcode import pack
from auricle.data.preprocess import CLIP_HU, to_hu, to_network
from auricle.diffusion.noise import flow_sigmas
from auricle.diffusion.parameterization import Flow, denoiser, denoising_loss
from auricle.diffusion.samplers import dpmpp
from auricle.models.autoencoder import Autoencoder
from auricle.models.refiner import KNOWN_WIDTH, Refiner, RefinerConfig, context
from auricle.stages import autoencoder as autoencoder_stage
from auricle.stages.pairs import Pairs, Triple, cohort_pairs
from auricle.stages.weights import for_inference, load_state, read_model, save_model
from auricle.training.loop import FitConfig, Hardware, Plan, fit

KNEE_HU = 60.0
"""Residuals are learned as ``asinh(residual / KNEE_HU)``: as they are up to about that size, compressed at edges of hundreds of HU."""
NOISE_HU = 15.0
"""Unit of a scan's noise, a usual one."""
STEPS = 8
"""Evaluations of the network for one image."""
LOW = (0.05,)
"""The last noise level: straight from 0.14 to zero, a third of a quiet scan's noise would be lost."""
PEAKS = 0.9999
"""Quantile of a scan's peaks over its decoded image that a refined one may reach."""
SCHEME = Flow(location=0.0, scale=1.4, high=0.0)
"""A residual is mostly noise, decided voxel by voxel: half of the training lies below a noise level of one."""


@dataclass(frozen=True)
class RefinerStage:
    """How the refiner is trained."""

    cohort: Path
    """Folder of a prepared cohort."""
    autoencoder: Path
    """Folder of the autoencoder whose decoded images are refined."""
    network: RefinerConfig = field(default_factory=RefinerConfig)
    """Shape of the network."""
    patch: Triple = (40, 40, 32)
    """Voxels of the training patches, multiples of four; a grid that is smaller is taken whole."""
    unsaid: float = 0.2
    """Share of the training in which the refiner is not told whether there is metal, so that a user need not say it either."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=1000, batch_size=4, ema_decay=0.99, validate_every=250))
    """Length and speed of the training."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if any(n < 1 or n % self.network.multiple for n in self.patch):
            raise ValueError(f"--patch must be multiples of {self.network.multiple}, not {self.patch}")
        if not 0 <= self.unsaid <= 1:
            raise ValueError(f"--unsaid must lie in 0..1, is {self.unsaid}")


def run(config: RefinerStage, out: Path) -> Path:
    """Decode every training and validation case, then train into `out`. Returns `out`."""
    inputs = {"cohort": finished(config.cohort, "cohort"), "autoencoder": finished(config.autoencoder, "autoencoder")}
    this = Run(out, "refiner", config, inputs)
    if this.done:
        progress.report(f"{out}: refiner is trained")
        return out
    train, held_out = cohort_pairs(config.cohort, "train"), cohort_pairs(config.cohort, "validation")
    config.hardware.fabric()
    this.begin()
    decoded = {name: _decoded(out / "decoded", config, pairs, name) for name, pairs in (("train", train), ("validation", held_out))}
    grains = {name: torch.stack([grain(*pairs.hu(i), files[i]) for i in range(len(pairs))])
              for pairs, (name, files) in zip((train, held_out), decoded.items(), strict=True)}  # fmt: skip
    metal = {name: metal_flags([conditions.metal_of(item.attributes) for item in pairs.items])
             for name, pairs in (("train", train), ("validation", held_out))}  # fmt: skip
    seed_torch(config.seed)
    network = Refiner(config.network)
    sets = {"train": train, "validation": held_out}

    def terms(net: nn.Module, split: str, indices: list[int], generator: torch.Generator) -> Tensor:
        device = next(net.parameters()).device
        boxes = [_box(train.grid.size, config.patch, generator) for _ in indices]
        parts = [_patch(sets[split], decoded[split], i, b) for i, b in zip(indices, boxes, strict=True)]
        image, before, label = (torch.stack(p).to(device) for p in zip(*parts, strict=True))
        said = torch.rand(len(indices), 1, generator=generator) >= config.unsaid
        told, known = context(before, label), torch.cat([grains[split][indices], metal[split][indices] * said], dim=1).to(device)
        residual = ((image - before) * (CLIP_HU / KNEE_HU)).asinh()
        noise = torch.randn(residual.shape, generator=generator).to(device)
        sigma = SCHEME.draw_sigma(len(indices), generator).to(device)
        return denoising_loss(lambda x, time: net(x, time, told, known), SCHEME, residual, sigma, noise)

    def validate(net: nn.Module) -> dict[str, float]:
        generator = torch_generator(config.seed, "validation noise")
        values = [float(terms(net, "validation", [i], generator)) for _ in range(4) for i in range(len(held_out))]
        return {"loss": sum(values) / len(values)}

    plan = Plan(len(train), lambda net, i, g: {"loss": terms(net, "train", i, g)}, validate, "loss", "min")
    facts = fit(this, network, plan, config.fit, config.hardware, config.seed, "refiner")
    save_model(this, network, {
        "network": config.network, "known": KNOWN_WIDTH, "grid": train.grid,
        "autoencoder_sha256": read_json(config.autoencoder / "model.json")["sha256"],
        "training": facts,
    }, {
        "grains": grains["train"], "metal": metal["train"],
        "peaks_hu": torch.tensor([peaks(train.hu(i)[0], files) for i, files in enumerate(decoded["train"])]),
    })  # fmt: skip
    this.finish(**facts)
    return out


@dataclass(frozen=True)
class Trained:
    """A trained refiner with the noise of its training scans."""

    network: Refiner
    grains: Tensor
    """(training cases, 2), what `grain` gives."""
    metal: Tensor
    """(training cases, 1), what `metal_flags` gives."""
    peaks_hu: Tensor
    """(training cases, 2), what `peaks` gives."""

    @torch.no_grad()
    def refine(
        self, image: NDArray[Any], label: NDArray[np.uint8], loudness: float, metal: bool | None, seed: int, index: int
    ) -> NDArray[np.float32]:  # fmt: skip
        """A decoded `image` (HU) with a residual that is drawn from `seed` and `index`; clipped to the HU range that networks see.

        It is as noisy as the training scan at rank `loudness`, from 0 for the quietest to 1 for the loudest, and shows `metal` or none, or either
        where that is None. Nothing in it stands out more than in training scans with metal, or without where there is to be none.
        """
        device = next(self.network.parameters()).device
        before = torch.from_numpy(to_network(np.asarray(image, np.float32)))[None, None].to(device)
        told = context(before, torch.from_numpy(label)[None].to(device))
        order = self.grains[:, 0].argsort()
        known = torch.cat([self.grains[order[[round(loudness * (len(order) - 1))]]], metal_flags([metal]) * self.metal.any()], dim=1).to(device)
        sigmas = flow_sigmas(STEPS, low=LOW)
        noise = torch.randn(before.shape, generator=torch_generator(seed, "refine", index)).to(device)
        denoise = denoiser(lambda x, time: self.network(x, time, told, known), SCHEME)
        residual = dpmpp(denoise, noise * sigmas[0].float(), sigmas).sinh() * (KNEE_HU / CLIP_HU)
        refined = torch.minimum(before + residual, self._limit(before, metal)).clamp(-1, 1)
        return np.asarray(to_hu(refined[0, 0].float().cpu().numpy()), np.float32)

    def _limit(self, before: Tensor, metal: bool | None) -> Tensor:
        """What no voxel may exceed, in network units: the brightest of the 27 decoded ones around it, and on top what training scans show."""
        alike = self.metal[:, 0] == (-1.0 if metal is False else 1.0)
        over, brightest = (self.peaks_hu[alike] if alike.any() else self.peaks_hu).median(0).values / CLIP_HU
        near = F.max_pool3d(before, 3, stride=1, padding=1)
        # A residual of hundreds of HU is learned in a compressed unit: drawn a little too large, it would be metal.
        return torch.maximum(near, (near + over).clamp(max=float(brightest)))


def load(folder: Path, autoencoder: Path) -> Trained:
    """The trained refiner of a finished run; raises `InputError` where it belongs to another autoencoder."""
    facts, state, extra = read_model(folder, "refiner")
    if facts["autoencoder_sha256"] != read_json(autoencoder / "model.json")["sha256"]:
        raise InputError(f"{folder} was trained on images of another autoencoder than {autoencoder}")
    if facts.get("known") != KNOWN_WIDTH:
        raise InputError(f"{folder} was trained by an earlier version: train it again")
    network = Refiner(from_json(RefinerConfig, facts["network"]))
    load_state(network, state, folder)
    return Trained(for_inference(network), extra["grains"], extra["metal"], extra["peaks_hu"])


def metal_flags(metal: Sequence[bool | None]) -> Tensor:
    """What the network is told of metal, (N, 1): 1, -1, or 0 where nobody knows."""
    return torch.tensor([[0.0 if m is None else 1.0 if m else -1.0] for m in metal])


def grain(image: NDArray[Any], label: NDArray[np.uint8], decoded: NDArray[Any]) -> Tensor:
    """How noisy a scan is, (2,): logarithms of the noise inside the structures and of the noise between neighbors, in `NOISE_HU`.

    Robust SDs (1.48 times the median size) of the residual and of the image's difference to the next voxel: loud or quiet, sharp or soft.
    """
    inside = label > 0
    if not inside.any():
        return torch.zeros(2)
    image = np.clip(np.asarray(image, np.float32), -CLIP_HU, CLIP_HU)
    sizes = np.abs(image - decoded)[inside], np.abs(np.diff(image, axis=0))[inside[1:] & inside[:-1]]
    return torch.tensor([float(np.log(1.4826 * max(np.median(s), 0.1) / NOISE_HU)) if s.size else 0.0 for s in sizes])


def peaks(image: NDArray[Any], decoded: NDArray[Any]) -> tuple[float, float]:
    """How far a scan (HU) rises over the brightest of the 27 decoded voxels around, at its `PEAKS` quantile, and its brightest voxel; in HU."""
    clipped = np.clip(np.asarray(image, np.float32), -CLIP_HU, CLIP_HU)
    over = clipped - ndimage.maximum_filter(np.asarray(decoded, np.float32), 3)
    return float(np.quantile(over, PEAKS)), float(clipped.max())


def _decoded(folder: Path, config: RefinerStage, pairs: Pairs, name: str) -> list[NDArray[np.int16]]:
    """Every case of `pairs` decoded from a draw of its latent, in HU; written once and mapped into memory."""
    encoder: Autoencoder | None = None
    paths = [folder / f"{item.id}.npy" for item in pairs.items]
    for i, path in progress.track(list(enumerate(paths)), f"decode {name}", len(paths)):
        if not path.exists():
            encoder = encoder or autoencoder_stage.load(config.autoencoder)
            write_array(path, _through(encoder, *pairs.plain(i), torch_generator(config.seed, f"posterior:{name}", i)))
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]


@torch.no_grad()
def _through(encoder: Autoencoder, image: Tensor, label: Tensor, generator: torch.Generator) -> NDArray[np.int16]:
    device = next(encoder.parameters()).device
    mean, std = encoder.encode(image.to(device, memory_format=torch.channels_last_3d), pack(label.to(device)))
    latent = mean + std * torch.randn(mean.shape, generator=generator).to(device)
    decoded = encoder.decode(latent.contiguous(memory_format=torch.channels_last_3d))[0]
    return np.rint(to_hu(decoded[0, 0].clamp(-1, 1).float().cpu().numpy())).astype(np.int16)


def _box(size: Triple, patch: Triple, generator: torch.Generator) -> tuple[slice, ...]:
    """A patch anywhere in the grid, its corner on a block of two voxels as at use."""
    lengths = [min(n, p) for n, p in zip(size, patch, strict=True)]
    starts = [2 * int(torch.randint((n - k) // 2 + 1, (1,), generator=generator)) for n, k in zip(size, lengths, strict=True)]
    return tuple(slice(a, a + k) for a, k in zip(starts, lengths, strict=True))


def _patch(pairs: Pairs, decoded: list[NDArray[np.int16]], index: int, box: tuple[slice, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Image and decoded image (1, x, y, z) in network units and label map (x, y, z) of a box."""
    image, label = pairs.hu(index)
    parts = (torch.from_numpy(to_network(np.asarray(a[box], np.float32)))[None] for a in (image, decoded[index]))
    return (*parts, torch.from_numpy(label[box]))  # type: ignore[return-value]
