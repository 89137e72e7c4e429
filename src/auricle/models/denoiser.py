"""The latent denoiser: a 3D U-Net with time embedding and attention on its coarsest grid."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.blocks import Attention, Conv3d, ResidualBlock, Upsample, group_norm, time_embedding


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the latent denoiser."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels at the latent's resolution, at half of it, .."""
    blocks: int = 2
    """Residual blocks at each resolution, down and up."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 4 or self.blocks < 1:
            raise ValueError("--network.channels must be at least 4 each, --network.blocks at least 1")


class Denoiser(nn.Module):
    """U-Net from a noisy latent and its noise level to a latent of the same shape (Ronneberger et al. 2015; Ho et al. 2020)."""

    def __init__(self, config: DenoiserConfig, latent_channels: int) -> None:
        super().__init__()
        self.config = config
        self.width = width = 4 * config.channels[0]
        c = config.channels
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.stem = Conv3d(latent_channels, c[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, channels in enumerate(c):
            inputs = c[max(level - 1, 0)]
            self.shrink.append(Conv3d(inputs, channels, 2, stride=2) if level else nn.Identity())
            self.down.append(nn.ModuleList(ResidualBlock(channels, channels, width) for _ in range(config.blocks)))
        self.middle = nn.ModuleList([ResidualBlock(c[-1], c[-1], width), Attention(c[-1]), ResidualBlock(c[-1], c[-1], width)])
        for level in reversed(range(len(c))):
            self.up.append(nn.ModuleList(
                ResidualBlock(2 * c[level] if i == 0 else c[level], c[level], width) for i in range(config.blocks)
            ))  # fmt: skip
            self.grow.append(Upsample(c[level], c[level - 1]) if level else nn.Identity())
        self.norm, self.out = group_norm(c[0]), Conv3d(c[0], latent_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (N, C, X, Y, Z) to the same shape; `time` is (N,) in 0..1. Raises `ValueError` for a grid that cannot be halved."""
        multiple = 2 ** (len(self.config.channels) - 1)
        if any(length % multiple for length in x.shape[2:]):
            raise ValueError(f"latent grid {tuple(x.shape[2:])} must be divisible by {multiple}: choose a model grid that is")
        embedding = F.silu(self.time(time_embedding(time, self.width)))
        h, skips = self.stem(x), []
        for shrink, blocks in zip(self.shrink, self.down, strict=True):
            h = shrink(h)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
            skips.append(h)
        for layer in self.middle:
            h = layer(h) if isinstance(layer, Attention) else layer(h, embedding)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            h = torch.cat([h, skips.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
            h = grow(h)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out
