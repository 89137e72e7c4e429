"""Blocks shared by the three networks: pre-activation residual blocks, sampling by voxel shuffle, time embedding.

GroupNorm in denoiser and segmenter: it costs the same in either memory layout and does not depend on the batch. The autoencoder normalizes
every voxel by itself (`ChannelNorm`), so that what it decodes depends on a bounded surrounding alone and volumes can be decoded in tiles.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with up to 8 groups of at least 4 channels."""
    groups = next(g for g in (8, 6, 4, 3, 2, 1) if channels % g == 0 and (channels // g >= 4 or g == 1))
    return nn.GroupNorm(groups, channels)


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of each voxel (Ba et al. 2016): no statistic over space, so patches and volumes agree."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, X, Y, Z) to the same shape."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class Conv3d(nn.Conv3d):
    """nn.Conv3d that always reaches oneDNN on a CPU.

    PyTorch sends a single small volume (N = 1 and N*C*X*Y <= 20480) to a fallback about ten times slower; a batch of two goes the fast way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv3d."""
        if x.device.type == "cpu" and x.shape[0] == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480:
            return super().forward(x.expand(2, *x.shape[1:]).contiguous(memory_format=torch.channels_last_3d))[:1]
        return super().forward(x)


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with a norm (GroupNorm unless told otherwise) and SiLU; an optional embedding scales and shifts the second norm."""

    def __init__(self, inputs: int, outputs: int, embedding: int = 0, norm: Callable[[int], nn.Module] = group_norm) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = Conv3d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(outputs)
        self.conv2 = Conv3d(outputs, outputs, 3, padding=1)
        self.skip = Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.modulate = nn.Linear(embedding, 2 * outputs) if embedding else None
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias) if self.conv2.bias is not None else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map (N, inputs, X, Y, Z) to (N, outputs, X, Y, Z); `embedding` is (N, embedding)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h)
        if self.modulate is not None:
            assert embedding is not None
            scale, shift = self.modulate(embedding)[:, :, None, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv2(F.silu(h))
        return out


HEADS = 4
"""Of the attention."""


class Attention(nn.Module):
    """Self-attention over all voxels, for grids of a few thousand at most."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = Conv3d(channels, 3 * channels, 1)
        self.out = Conv3d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, X, Y, Z) to the same shape."""
        n, c, *grid = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, HEADS, c // HEADS, -1).transpose(3, 4).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, *grid)
        out: Tensor = x + self.out(h)
        return out


def voxel_shuffle(x: Tensor, factor: int) -> Tensor:
    """Move channels into space: (N, C*f^3, X, Y, Z) to (N, C, X*f, Y*f, Z*f), the 3D form of Shi et al. 2016."""
    n, c, *grid = x.shape
    f = factor
    x = x.reshape(n, c // f**3, f, f, f, *grid).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, c // f**3, *(f * g for g in grid))


def voxel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Move space into channels: the inverse of `voxel_shuffle`."""
    n, c, *grid = x.shape
    f = factor
    x = x.reshape(n, c, grid[0] // f, f, grid[1] // f, f, grid[2] // f, f).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(n, c * f**3, *(g // f for g in grid))


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbor, then a 3x3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv3d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, X, Y, Z) to (N, outputs, 2X, 2Y, 2Z)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features (N, width) of a time (N,), frequencies from 1 to 1000 (Vaswani et al. 2017)."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2, device=t.device))
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)
