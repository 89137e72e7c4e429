"""The refiner: a small denoiser at the image's resolution that gives a decoded image back what the autoencoder took from it.

It takes the eight voxels of a 2 x 2 x 2 block as channels, so that its widest layers run on an eighth of the voxels, and normalizes every block
by itself, so that it is trained on patches and used on whole volumes. Such a norm forgets how loud a block is; the output therefore also sees the
noisy residual itself, times a gain that follows from the noise level and what is known of the scan, and the sum of the residual blocks as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core.anatomy import LABEL_COUNT
from auricle.models.blocks import ChannelNorm, Conv3d, ResidualBlock, time_embedding, voxel_shuffle, voxel_unshuffle

KNOWN_WIDTH = 3
"""Numbers that describe a scan: two of its noise, and whether it shows metal (1, -1, or 0 where nobody knows)."""


@dataclass(frozen=True)
class RefinerConfig:
    """Shape of the refiner."""

    channels: tuple[int, int] = (48, 96)
    """Channels at 1/2 and at 1/4 of the image's resolution."""
    blocks: int = 1
    """Residual blocks at each resolution, down and up."""

    def __post_init__(self) -> None:
        if min(self.channels) < 4 or self.blocks < 1:
            raise ValueError("--network.channels must be at least 4 each, --network.blocks at least 1")

    @property
    def multiple(self) -> int:
        """Grids must be multiples of this."""
        return 4


class Refiner(nn.Module):
    """U-Net from a noisy residual, the decoded image and the label map to a residual of the same shape."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.channels
        self.width = width = 2 * fine
        self.embed = nn.Sequential(nn.Linear(width + KNOWN_WIDTH, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.stem = Conv3d(8 + 8 + LABEL_COUNT, fine, 3, padding=1)

        def blocks(first: int, channels: int) -> nn.ModuleList:
            sizes = [first] + [channels] * (config.blocks - 1)
            return nn.ModuleList(ResidualBlock(n, channels, width, ChannelNorm) for n in sizes)

        self.down, self.middle, self.up = blocks(fine, fine), blocks(coarse, coarse), blocks(2 * fine, fine)
        self.shrink = Conv3d(fine, coarse, 2, stride=2)
        self.grow = Conv3d(coarse, 8 * fine, 1)
        self.gain, self.out = nn.Linear(width, 8), Conv3d(fine, 8, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, time: Tensor, context: Tensor, known: Tensor) -> Tensor:
        """Map the noisy residual (N, 1, X, Y, Z) to the same shape.

        `time` is (N,) in 0..1, `context` is what `context` made, (N, 8 + 9, X/2, Y/2, Z/2), `known` is (N, KNOWN_WIDTH).
        """
        embedding = self.embed(torch.cat([time_embedding(time, self.width), known], dim=1))
        blocks = voxel_unshuffle(x, 2)
        h = self.stem(torch.cat([blocks, context], dim=1).contiguous(memory_format=torch.channels_last_3d))
        for block in self.down:
            h = block(h, embedding)
        skip, h = h, self.shrink(h)
        for block in self.middle:
            h = block(h, embedding)
        h = torch.cat([voxel_shuffle(self.grow(h), 2), skip], dim=1).contiguous(memory_format=torch.channels_last_3d)
        for block in self.up:
            h = block(h, embedding)
        return voxel_shuffle(self.out(F.silu(h)) + self.gain(embedding)[:, :, None, None, None] * blocks, 2)


def context(decoded: Tensor, label: Tensor) -> Tensor:
    """What the refiner is told at every block of voxels: the decoded image (N, 1, X, Y, Z) and the share of each label (N, X, Y, Z)."""
    shares = F.avg_pool3d(F.one_hot(label.long(), LABEL_COUNT).movedim(-1, 1).to(decoded.dtype), 2)
    return torch.cat([voxel_unshuffle(decoded, 2), shares], dim=1)
