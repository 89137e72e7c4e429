"""The joint autoencoder: image and label map in, one latent, image and label map out of one decoder.

The image and the packed label map each pass one convolution, are summed (or concatenated) and encoded together:
``z = E0(Ei(image) + Em(label))`` (Hu et al. 2025, section 3.2). The label head is either the paper's regression of the three
packed channels or, by default, nine logits a voxel, which cannot decode a boundary to a third structure.

No layer has a statistic over space. What is decoded at a voxel therefore depends on the latent within `Autoencoder.halo` alone: a network
trained on patches does the same on whole volumes, and a volume decoded in tiles is the one decoded at once.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from auricle.core.anatomy import LABEL_COUNT
from auricle.models.blocks import ChannelNorm, Conv3d, ResidualBlock, Upsample, voxel_shuffle

PACKED_CHANNELS = 3


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the joint autoencoder."""

    channels: tuple[int, ...] = (32, 64)
    """Channels at 1/2, 1/4, .. of the resolution; the latent lies at the last of them."""
    blocks: int = 2
    """Residual blocks at each resolution of the encoder and of the decoder."""
    latent_channels: int = 4
    """Channels of the latent."""
    label_head: Literal["categorical", "packed"] = "categorical"
    """Nine logits a voxel, or the paper's three packed channels."""
    fusion: Literal["sum", "concat"] = "sum"
    """How the encoded image and label map are joined."""
    checkpoint: bool = False
    """Keep only the input of each block while training and compute it again in the backward pass: a third more time, far less memory."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1 or self.blocks < 1 or self.latent_channels < 1:
            raise ValueError("--network.channels, --network.blocks and --network.latent-channels must be positive")

    @property
    def downsampling(self) -> int:
        """Voxels of the image along the edge of one voxel of the latent."""
        return 1 << len(self.channels)


class Autoencoder(nn.Module):
    """KL-regularized autoencoder of pairs (Kingma and Welling 2014; Rombach et al. 2022)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.image_stem = Conv3d(1, c[0], 4, stride=2, padding=1)
        self.label_stem = Conv3d(PACKED_CHANNELS, c[0], 4, stride=2, padding=1)
        encoder: list[nn.Module] = []
        width = c[0] if config.fusion == "sum" else 2 * c[0]
        for level, channels in enumerate(c):
            if level:
                encoder.append(Conv3d(width, channels, 2, stride=2))
                width = channels
            for _ in range(config.blocks):
                encoder.append(ResidualBlock(width, channels, norm=ChannelNorm))
                width = channels
        self.encoder = nn.Sequential(*encoder, ChannelNorm(width), nn.SiLU(), Conv3d(width, 2 * config.latent_channels, 1))
        decoder: list[nn.Module] = [Conv3d(config.latent_channels, c[-1], 3, padding=1)]
        for level in reversed(range(len(c))):
            decoder += [ResidualBlock(c[level], c[level], norm=ChannelNorm) for _ in range(config.blocks)]
            if level:
                decoder.append(Upsample(c[level], c[level - 1]))
        self.decoder = nn.Sequential(*decoder, ChannelNorm(c[0]), nn.SiLU())
        self.outputs = 1 + (LABEL_COUNT if config.label_head == "categorical" else PACKED_CHANNELS)
        self.head = Conv3d(c[0], 8 * self.outputs, 3, padding=1)

    @property
    def halo(self) -> int:
        """Voxels of the latent around a tile on which its decoded voxels depend: one a 3x3x3 convolution at that convolution's resolution."""
        reach, size = 1.0, 1.0
        for level in reversed(range(len(self.config.channels))):
            reach += 2 * self.config.blocks * size
            if level:
                size /= 2
                reach += size
        return math.ceil(reach + size)

    def encode(self, image: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent, each (N, latent_channels, X/d, Y/d, Z/d).

        `image` is (N, 1, X, Y, Z) in network units (-1..1), `packed` is (N, 3, X, Y, Z) in 0..1; X, Y, Z are multiples of d.
        """
        image, packed = self.image_stem(image), self.label_stem(packed)
        joined = image + packed if self.config.fusion == "sum" else torch.cat([image, packed], dim=1)
        mean, log_variance = self._through(self.encoder, joined).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-20.0, 10.0))

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, 1, X, Y, Z) in network units and label output (N, 9 or 3, X, Y, Z)."""
        out = voxel_shuffle(self.head(self._through(self.decoder, latent)), 2)
        return out[:, :1], out[:, 1:]

    def decode_tiled(self, latent: Tensor, tile: int) -> tuple[Tensor, Tensor]:
        """As `decode`, in cubes of `tile` latent voxels with their `halo`: the same result in the memory of one tile and the outputs."""
        if tile < 1:
            raise ValueError(f"--tile must be at least 1, not {tile}")
        d, grid = self.config.downsampling, latent.shape[2:]
        image = latent.new_empty(len(latent), 1, *(n * d for n in grid))
        label = latent.new_empty(len(latent), self.outputs - 1, *image.shape[2:])
        for corner in itertools.product(*(range(0, n, tile) for n in grid)):
            inner = [(a, min(a + tile, n)) for a, n in zip(corner, grid, strict=True)]
            outer = [(max(a - self.halo, 0), min(b + self.halo, n)) for (a, b), n in zip(inner, grid, strict=True)]
            x, y, z = (slice(a, b) for a, b in outer)
            parts = self.decode(latent[..., x, y, z].contiguous(memory_format=torch.channels_last_3d))
            x, y, z = (slice((a - o) * d, (b - o) * d) for (a, b), (o, _) in zip(inner, outer, strict=True))
            kept = [part[..., x, y, z] for part in parts]
            x, y, z = (slice(a * d, b * d) for a, b in inner)
            image[..., x, y, z], label[..., x, y, z] = kept
        return image, label

    def forward(self, image: Tensor, packed: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruct a pair: image, label output, latent mean and SD; `noise` (latent shape) draws from the posterior."""
        mean, std = self.encode(image, packed)
        latent = mean if noise is None else mean + std * noise
        return (*self.decode(latent), mean, std)

    def _through(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.config.checkpoint and x.requires_grad else layer(x)
        return x


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL divergence from the standard normal, averaged over latent elements (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + std.square() - 1.0 - 2.0 * std.clamp_min(1e-8).log()).mean()
