"""The 3D U-Net that is pre-trained by masked image modeling and fine-tuned for segmentation.

A strided stem keeps full resolution out of the residual blocks, which dominate a U-Net's cost; the head returns to the full grid by a
voxel shuffle. The encoder is one module, so that transferring it is copying its state and nothing else.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.blocks import Conv3d, ResidualBlock, Upsample, group_norm, voxel_shuffle


@dataclass(frozen=True)
class SegmenterConfig:
    """Shape of the segmentation U-Net."""

    channels: tuple[int, ...] = (24, 48, 96, 128)
    """Channels at 1/2, 1/4, 1/8, .. of the resolution."""
    blocks: int = 1
    """Residual blocks at each resolution, down and up."""
    supervision: int = 0
    """Coarser levels of the decoder with an output of their own, for deep supervision (Lee et al. 2015)."""

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or min(self.channels) < 4 or self.blocks < 1:
            raise ValueError("--network.channels needs two or more levels of at least 4 channels, --network.blocks at least 1")
        if not 0 <= self.supervision <= len(self.channels) - 2:
            raise ValueError(f"--network.supervision must be 0 to {len(self.channels) - 2} with {len(self.channels)} levels, not {self.supervision}")

    @property
    def multiple(self) -> int:
        """The input's edges must be multiples of this."""
        return 1 << len(self.channels)


class Encoder(nn.Module):
    """Image to a pyramid of features."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        c = config.channels
        self.stem = Conv3d(1, c[0], 4, stride=2, padding=1)
        self.shrink = nn.ModuleList(Conv3d(a, b, 2, stride=2) for a, b in itertools.pairwise(c))
        self.blocks = nn.ModuleList(nn.Sequential(*(ResidualBlock(w, w) for _ in range(config.blocks))) for w in c)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 1, X, Y, Z) to one tensor a level, finest first."""
        h = self.blocks[0](self.stem(image))
        features = [h]
        for shrink, blocks in zip(self.shrink, list(self.blocks)[1:], strict=True):
            h = blocks(shrink(h))
            features.append(h)
        return features


class Decoder(nn.Module):
    """Pyramid of features to `outputs` channels on the full grid."""

    def __init__(self, config: SegmenterConfig, outputs: int) -> None:
        super().__init__()
        c = config.channels
        pairs = list(zip(c[:0:-1], c[-2::-1], strict=True))
        self.grow = nn.ModuleList(Upsample(a, b) for a, b in pairs)
        self.blocks = nn.ModuleList(
            nn.Sequential(ResidualBlock(2 * b, b), *(ResidualBlock(b, b) for _ in range(config.blocks - 1))) for _, b in pairs
        )
        self.norm, self.head = group_norm(c[0]), Conv3d(c[0], 8 * outputs, 3, padding=1)
        self.coarse_heads = nn.ModuleList(Conv3d(width, outputs, 1) for width in c[1 : 1 + config.supervision])

    def forward(self, features: list[Tensor], coarse: bool = False) -> list[Tensor]:
        """Map the encoder's pyramid to (N, outputs, X, Y, Z), and with `coarse` to the outputs at 1/4, 1/8, .. of the resolution too."""
        levels = [features[-1]]
        for grow, blocks, skip in zip(self.grow, self.blocks, features[-2::-1], strict=True):
            levels.insert(0, blocks(torch.cat([grow(levels[0]), skip], dim=1)))
        out = [voxel_shuffle(self.head(F.silu(self.norm(levels[0]))), 2)]
        return out + ([head(h) for head, h in zip(self.coarse_heads, levels[1:], strict=False)] if coarse else [])


class Segmenter(nn.Module):
    """Encoder and decoder; `outputs` is 9 for segmentation and 1 for masked image modeling."""

    def __init__(self, config: SegmenterConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, outputs)

    def forward(self, image: Tensor, coarse: bool = False) -> Tensor | list[Tensor]:
        """Map (N, 1, X, Y, Z) in network units to (N, outputs, X, Y, Z); edges must be multiples of `config.multiple`.

        With `coarse`, a list: that output first, then those of the coarser levels that are supervised.
        """
        if any(length % self.config.multiple for length in image.shape[2:]):
            raise ValueError(f"grid {tuple(image.shape[2:])} must be divisible by {self.config.multiple}: change --size")
        out: list[Tensor] = self.decoder(self.encoder(image), coarse)
        return out if coarse else out[0]
