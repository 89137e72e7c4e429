"""Networks and single measurements of `benchmarks.generator`.

MONAI's networks get the same job as ours: a pair in (image and three packed label channels), a pair out (image and nine logits), the same
loss, the same latent shape, as many residual blocks a resolution, attention in the middle of the denoiser alone, and widths of which each is
twice the last, chosen so that the number of parameters comes nearest to ours.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core.anatomy import LABEL_COUNT
from auricle.core.memory import peak_gib
from auricle.core.seeds import torch_generator
from auricle.data.labelcode import decode_label, pack
from auricle.diffusion.noise import flow_sigmas
from auricle.diffusion.parameterization import denoiser, denoising_loss, parameterization
from auricle.diffusion.samplers import sample
from auricle.losses.autoencoding import AutoencoderLossConfig, autoencoder_loss
from auricle.models.autoencoder import PACKED_CHANNELS, Autoencoder, AutoencoderConfig, kl_divergence
from auricle.models.denoiser import Denoiser, DenoiserConfig

LATENT_CHANNELS = 4
LEVELS = (32, 64)
"""Channels of our autoencoder at 1/2 and 1/4 of the resolution."""
DENOISER_CHANNELS = (32, 64, 128)
BLOCKS = 2
"""Residual blocks at each resolution, in every network; MONAI's denoisers have one more on the way up."""
MAISI_WIDTHS = (64, 128, 256)
"""Widths of the published MAISI autoencoder (Guo et al. 2024)."""
GROUPS = 4
"""Groups of the peers' normalization: widths can then be any multiple of four."""
SAMPLING_STEPS, FLOW_STEPS, DDPM_STEPS, DDPM_TIMED = 20, 30, 1000, 10
SHIFT = 5.0
"""As in `stages.sampling`."""
LAYOUTS = {"channels_last_3d": torch.channels_last_3d, "contiguous": torch.contiguous_format}
RATE, DECAY, CLIP_NORM = 1.5e-3, 1e-4, 1.0
"""Of AdamW, whatever the network."""

Step = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """One measurement, as the parent process writes it in JSON."""

    job: str
    contender: str
    layout: str
    size: int = 64
    batch: int = 2
    repeats: int = 3
    checkpoint: bool = False
    seed: int = 0


def our_autoencoder(checkpoint: bool = False) -> Autoencoder:
    """The autoencoder that is measured."""
    config = AutoencoderConfig(channels=LEVELS, blocks=BLOCKS, latent_channels=LATENT_CHANNELS)
    return Autoencoder(replace(config, checkpoint=True) if checkpoint else config)


def our_denoiser() -> Denoiser:
    """The denoiser that is measured."""
    return Denoiser(DenoiserConfig(channels=DENOISER_CHANNELS, blocks=BLOCKS), LATENT_CHANNELS)


class Joint(nn.Module):
    """MONAI's autoencoder in the place of ours: the same arguments, the same results."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def encode(self, image: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and SD of the latent."""
        mean, std = self.network.encode(torch.cat([image, packed], dim=1))
        return mean, std

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Image and label logits."""
        out = self.network.decode(latent)
        return out[:, :1], out[:, 1:]

    def forward(self, image: Tensor, packed: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, label logits, latent mean and SD."""
        mean, std = self.encode(image, packed)
        return (*self.decode(mean if noise is None else mean + std * noise), mean, std)


def _peer_autoencoder(maisi: bool, widths: tuple[int, ...], checkpoint: bool) -> nn.Module:
    common: dict[str, Any] = {
        "num_res_blocks": (BLOCKS,) * len(widths), "attention_levels": (False,) * len(widths), "latent_channels": LATENT_CHANNELS,
        "norm_num_groups": GROUPS, "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
    }  # fmt: skip
    if not maisi:
        return AutoencoderKL(3, 1 + PACKED_CHANNELS, 1 + LABEL_COUNT, channels=widths, use_checkpoint=checkpoint, **common)
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    # One piece: splitting a volume saves memory only where it is much larger than those measured here.
    own: dict[str, Any] = {"num_channels": widths, "use_checkpointing": checkpoint, "num_splits": 1, "save_mem": False}
    return AutoencoderKlMaisi(3, 1 + PACKED_CHANNELS, 1 + LABEL_COUNT, **own, **common)


def _peer_denoiser(maisi: bool, widths: tuple[int, ...]) -> nn.Module:
    common: dict[str, Any] = {
        "num_res_blocks": BLOCKS, "attention_levels": (False,) * len(widths), "norm_num_groups": GROUPS,
        "num_head_channels": widths[-1] // 4, "include_fc": True,
    }  # fmt: skip
    if not maisi:
        return DiffusionModelUNet(3, LATENT_CHANNELS, LATENT_CHANNELS, channels=widths, **common)
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

    return DiffusionModelUNetMaisi(3, LATENT_CHANNELS, LATENT_CHANNELS, num_channels=widths, **common)


def parameters(*networks: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for network in networks for p in network.parameters())


def _count(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return parameters(build())


def matched(build: Callable[[tuple[int, ...]], nn.Module], target: int) -> tuple[int, ...]:
    """Widths near w, 2w, 4w whose network has the number of parameters nearest to `target`; nothing is allocated."""
    best: tuple[int, tuple[int, ...]] | None = None
    for w in itertools.count(GROUPS):
        widths = tuple(GROUPS * max(1, round(w * f / GROUPS)) for f in (1, 2, 4))
        count = _count(lambda widths=widths: build(widths))  # type: ignore[misc]
        if best is None or abs(count - target) < abs(best[0] - target):
            best = count, widths
        if count > target:
            break
    assert best is not None
    return best[1]


def autoencoder(contender: str, checkpoint: bool = False) -> tuple[nn.Module, str]:
    """The contender's autoencoder and its name with widths."""
    if contender == "ours":
        return our_autoencoder(checkpoint), f"Autoencoder {_text(LEVELS)}"
    maisi, target = contender.startswith("maisi"), _count(our_autoencoder)
    widths = MAISI_WIDTHS if contender == "maisi-wide" else matched(lambda w: _peer_autoencoder(maisi, w, False), target)
    network = _peer_autoencoder(maisi, widths, checkpoint)
    return Joint(network), f"{type(network).__name__} {_text(widths)}"


def denoising(contender: str) -> tuple[nn.Module, str]:
    """The contender's denoiser and its name with widths."""
    if contender == "ours":
        return our_denoiser(), f"Denoiser {_text(DENOISER_CHANNELS)}"
    widths = matched(lambda w: _peer_denoiser(contender == "maisi", w), _count(our_denoiser))
    network = _peer_denoiser(contender == "maisi", widths)
    return network, f"{type(network).__name__} {_text(widths)}"


def _text(widths: tuple[int, ...]) -> str:
    return "-".join(map(str, widths))


def _pair(work: Work) -> tuple[Tensor, Tensor, Tensor]:
    """Image, packed label and label map of random values, in the layout that is measured."""
    count, generator = (work.batch if "step" in work.job else 1), torch_generator(work.seed, "pair")
    grid = (count, work.size, work.size, work.size)
    label = torch.randint(0, LABEL_COUNT, grid, generator=generator)
    image = torch.rand((count, 1, *grid[1:]), generator=generator) * 2 - 1
    layout = LAYOUTS[work.layout]
    return image.contiguous(memory_format=layout), pack(label).contiguous(memory_format=layout), label


def _latent(work: Work) -> Tensor:
    edge = work.size // 2 ** len(LEVELS)
    shape = (work.batch if "step" in work.job else 1, LATENT_CHANNELS, edge, edge, edge)
    return torch.randn(shape, generator=torch_generator(work.seed, "latent")).contiguous(memory_format=LAYOUTS[work.layout])


def autoencoder_step(network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, packed: Tensor, label: Tensor, noise: Tensor) -> None:
    """One optimizer step on a batch, with our loss whatever the network."""
    decoded_image, decoded_label, mean, std = network(image, packed, noise)
    outputs = decoded_image, decoded_label
    autoencoder_loss(AutoencoderLossConfig(), image, label, packed, outputs, kl_divergence(mean, std))["loss"].backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.99))


def _denoiser_step(network: nn.Module, optimizer: torch.optim.Optimizer, work: Work, x0: Tensor) -> None:
    """One optimizer step of a rectified flow: ours by our loss, MONAI's by its scheduler's `add_noise`."""
    generator, noise = torch_generator(work.seed, "noise"), torch.randn_like(x0)
    if work.contender == "ours":
        scheme = parameterization("flow")
        loss = denoising_loss(network, scheme, x0, scheme.draw_sigma(len(x0), generator), noise)
    else:
        t = torch.rand(len(x0), generator=generator) * DDPM_STEPS
        noisy = RFlowScheduler().add_noise(x0, noise, t)
        loss = F.mse_loss(network(x=noisy, timesteps=t), x0 - noise)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _sampling(work: Work, network: nn.Module, noise: Tensor) -> Callable[[], Tensor]:
    """What draws a latent from `noise`; of a DDPM the first steps alone."""

    def ours() -> Tensor:
        sigmas = flow_sigmas(SAMPLING_STEPS, shift=SHIFT)
        return sample("dpmpp", denoiser(network, parameterization("flow")), noise * sigmas[0].float(), sigmas, [])

    def flow() -> Tensor:
        scheduler = RFlowScheduler()
        scheduler.set_timesteps(FLOW_STEPS)
        x, times = noise, [*scheduler.timesteps.tolist(), 0]
        for now, then in itertools.pairwise(times):
            x = scheduler.step(network(x=x, timesteps=torch.tensor([float(now)])), now, x, then)[0]
        return x

    def ddpm() -> Tensor:
        scheduler, x = DDPMScheduler(DDPM_STEPS, clip_sample=False), noise
        for t in scheduler.timesteps[:DDPM_TIMED].tolist():
            x = scheduler.step(network(x=x, timesteps=torch.tensor([t])), t, x)[0]
        return x

    return ours if work.contender == "ours" else ddpm if work.contender == "monai-ddpm" else flow


def _sample_parts(work: Work, coder: nn.Module, network: nn.Module) -> list[tuple[Step, float]]:
    """Parts of a sample and how often each is done: a DDPM is extrapolated from a few of its steps."""
    noise = _latent(work)
    draw = _sampling(work, network, noise)

    def decode(latent: Tensor) -> Tensor:
        image, label = coder.decode(latent)  # type: ignore[operator]
        assert image.shape[-1] == work.size
        return decode_label(label)

    if work.contender == "monai-ddpm":
        return [(draw, DDPM_STEPS / DDPM_TIMED), (lambda: decode(noise), 1.0)]
    return [(lambda: decode(draw()), 1.0)]


def _parts(work: Work, networks: list[nn.Module]) -> list[tuple[Step, float]]:
    """What is timed, and how often it counts."""
    network, job = networks[-1], work.job
    if job == "sample":
        return _sample_parts(work, networks[0], network)
    if job == "denoiser-evaluation":
        x, time_ = _latent(work), torch.tensor([0.5])
        return [(lambda: network(x, time_), 1.0)]
    optimizer, latent = adamw(network), _latent(work)
    if job == "denoiser-step":
        return [(lambda: _denoiser_step(network, optimizer, work, latent), 1.0)]
    if job == "decode":
        return [(lambda: network.decode(latent), 1.0)]  # type: ignore[operator]
    image, packed, label = _pair(work)
    if job == "encode":
        return [(lambda: network.encode(image, packed), 1.0)]  # type: ignore[operator]
    return [(lambda: autoencoder_step(network, optimizer, image, packed, label, latent), 1.0)]


def measure(work: Work) -> dict[str, Any]:
    """Seconds (median after one warm-up), peak memory above that of imports, networks and inputs (MiB), parameters and names."""
    torch.manual_seed(work.seed)
    named = [] if work.job.startswith("denoiser") else [autoencoder(work.contender, work.checkpoint)]
    named += [denoising(work.contender)] if work.job.startswith(("denoiser", "sample")) else []
    networks = [network.to(memory_format=LAYOUTS[work.layout]) for network, _ in named]  # type: ignore[call-overload]
    with torch.set_grad_enabled("step" in work.job):
        for network in networks:
            network.train("step" in work.job)
        parts = _parts(work, networks)
        before = peak_gib()
        seconds = sum(times * _median(part, work.repeats) for part, times in parts)
    return {"seconds": seconds, "mib": 1024 * (peak_gib() - before), "parameters": parameters(*networks),
            "name": " + ".join(name for _, name in named), "threads": torch.get_num_threads()}  # fmt: skip


def _median(step: Step, repeats: int) -> float:
    step()
    return statistics.median(_seconds(step) for _ in range(repeats))


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
