"""The latent denoiser: a 3D U-Net that is told the noise level and, as far as known, what the pair is to be."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from auricle.models.blocks import HEADS, Attention, Conv3d, ResidualBlock, group_norm, time_embedding, voxel_shuffle


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the latent denoiser."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels at the latent's resolution, at half of it, .."""
    blocks: int = 2
    """Residual blocks at each resolution, down and up."""
    checkpoint: bool = False
    """Keep only the input of each block while training and compute it again in the backward pass: a third more time, far less memory."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 4 or self.blocks < 1:
            raise ValueError("--network.channels must be at least 4 each, --network.blocks at least 1")
        if self.channels[-1] % HEADS:
            raise ValueError(f"the last of --network.channels must be a multiple of {HEADS}, the heads of its attention, not {self.channels[-1]}")

    @property
    def multiple(self) -> int:
        """Edges of the latent grid must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))


class Grow(nn.Module):
    """Twice the resolution: channels are moved into space, so that the convolution runs on the coarse grid."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv3d(inputs, 8 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, X, Y, Z) to (N, outputs, 2X, 2Y, 2Z)."""
        return voxel_shuffle(self.conv(x), 2).contiguous(memory_format=torch.channels_last_3d)


class Denoiser(nn.Module):
    """U-Net from a noisy latent, its noise level and conditions to a latent of the same shape (Ronneberger et al. 2015; Ho et al. 2020).

    The stem also sees where each voxel lies in the field of view, since a heart has its place in it, and those numbers of the condition that
    are about places (`placed`: their indices).
    """

    def __init__(self, config: DenoiserConfig, latent_channels: int, condition_width: int = 0, placed: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.config, self.condition_width, self.placed = config, condition_width, list(placed)
        self.width = width = 4 * config.channels[0]
        c = config.channels
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        if condition_width:
            self.condition = nn.Sequential(nn.Linear(condition_width, width), nn.SiLU(), nn.Linear(width, width))
        self.stem = Conv3d(latent_channels + 3 + len(placed), c[0], 3, padding=1)
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
            self.grow.append(Grow(c[level], c[level - 1]) if level else nn.Identity())
        self.norm, self.out = group_norm(c[0]), Conv3d(c[0], latent_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (N, C, X, Y, Z) to the same shape.

        `time` is (N,) in 0..1; `condition` is (N, condition_width), all zero (or None) where nothing is known. Raises `ValueError` for a grid
        that cannot be halved.
        """
        if any(length % self.config.multiple for length in x.shape[2:]):
            raise ValueError(f"latent grid {tuple(x.shape[2:])} must be divisible by {self.config.multiple}: choose a model grid that is")
        embedding = self.time(time_embedding(time, self.width))
        known = x.new_zeros(len(x), self.condition_width) if condition is None else condition
        if self.condition_width:
            embedding = embedding + self.condition(known)
        embedding = F.silu(embedding)
        placed = known[:, self.placed, None, None, None].expand(-1, -1, *x.shape[2:])
        h, skips = self.stem(torch.cat([x, _places(x), placed], dim=1).contiguous(memory_format=torch.channels_last_3d)), []
        for shrink, blocks in zip(self.shrink, self.down, strict=True):
            h = self._through(blocks, shrink(h), embedding)
            skips.append(h)
        h = self._through(self.middle, h, embedding)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            h = grow(self._through(blocks, torch.cat([h, skips.pop()], dim=1), embedding))
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out

    def _through(self, layers: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        for layer in layers:  # type: ignore[attr-defined]
            inputs = (h,) if isinstance(layer, Attention) else (h, embedding)
            h = checkpoint(layer, *inputs, use_reentrant=False) if self.config.checkpoint and h.requires_grad else layer(*inputs)
        return h


def _places(x: Tensor) -> Tensor:
    """Position of each voxel along the three axes, -1..1, (N, 3, X, Y, Z)."""
    axes = [torch.linspace(-1.0, 1.0, n, device=x.device, dtype=x.dtype) for n in x.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].expand(len(x), -1, -1, -1, -1)
