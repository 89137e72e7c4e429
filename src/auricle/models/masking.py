"""Zero masking for masked image modeling: random blocks of the image are replaced by zeros (Hu et al. 2025, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskConfig:
    """Which share of the image is hidden."""

    blocks: int = 25
    """Blocks zeroed in one image."""
    probability: float = 0.8
    """Probability that an image is masked at all."""
    block_size: tuple[int, int] = (8, 16)
    """Smallest and largest edge of a block in voxels, drawn for each axis."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or not 0 <= self.probability <= 1 or not 1 <= self.block_size[0] <= self.block_size[1]:
            raise ValueError("--mask.blocks must be >= 1, --mask.probability in 0..1, --mask.block-size two ascending numbers")


def draw_mask(config: MaskConfig, size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """A boolean mask of shape `size`, True where the image is to be hidden."""
    mask = torch.zeros(size, dtype=torch.bool)
    if torch.rand((), generator=generator) >= config.probability:
        return mask
    low, high = config.block_size
    for _ in range(config.blocks):
        edges = [min(int(torch.randint(low, high + 1, (), generator=generator)), n) for n in size]
        corner = [int(torch.randint(0, n - e + 1, (), generator=generator)) for n, e in zip(size, edges, strict=True)]
        mask[tuple(slice(a, a + e) for a, e in zip(corner, edges, strict=True))] = True
    return mask


def apply_mask(image: Tensor, mask: Tensor) -> Tensor:
    """The image (N, 1, X, Y, Z) with zeros where `mask` (N, 1, X, Y, Z) is True."""
    return image.masked_fill(mask, 0.0)
