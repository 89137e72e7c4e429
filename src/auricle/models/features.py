"""Features of a pair of image and label map for distances between distributions: a pyramid of fixed random 3D convolutions.

It needs no training and no download. Randomly initialized networks serve as embeddings where no pre-trained one knows the data (Naeem et al.
2020, "Reliable Fidelity and Diversity Metrics for Generative Models"). The weights follow from `SEED` alone; another seed or
another table below gives features that are not comparable with these.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core.anatomy import STRUCTURES
from auricle.models.blocks import Conv3d

SEED = 20200229
CHANNELS = (8, 8, 8, 8)
"""Channels of one pyramid at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
SOFT_WINDOW = (-0.2, 0.6)
"""Network units, -200..600 HU: fat, myocardium and blood with contrast medium."""
LEAK = 0.2
"""Slope of the nonlinearity below zero."""

_PER_PYRAMID = sum(2 * width + 8 * (width // 4) for width in CHANNELS)
IMAGE = slice(0, _PER_PYRAMID)
"""Features that depend on the image alone."""
LABEL = slice(_PER_PYRAMID, 2 * _PER_PYRAMID)
"""Features that depend on the label map alone."""
PAIR = slice(2 * _PER_PYRAMID, 3 * _PER_PYRAMID)
"""Features of a pyramid that sees both: they tell a label map that does not fit its image."""
PARTS: dict[str, slice] = {"image": IMAGE, "label": LABEL, "pair": PAIR}
"""Columns of the features by what they depend on; a distance of ``features[:, PARTS["image"]]`` is one of images."""
FEATURES = 3 * _PER_PYRAMID


class RandomEncoder(nn.Module):
    """Three pyramids of strided random convolutions, over the image, the label map and both; 384 features in all.

    At each level every channel gives its mean and SD over the volume, and every fourth channel its means over 2 x 2 x 2 parts of it, so that
    placement counts. Any grid will do, but features of two grids are not comparable: kernels count voxels, not mm.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        inputs = {"image": 2, "label": len(STRUCTURES), "pair": 2 + len(STRUCTURES)}
        self.pyramids = nn.ModuleDict({part: _pyramid(inputs[part], generator) for part in PARTS})
        self.requires_grad_(False)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Encode pairs.

        Args:
            image: (N, 1, X, Y, Z) in network units, -1..1; values beyond are clipped.
            label: (N, X, Y, Z) ids 0..8.

        Returns:
            (N, 384) float32, columns as in `PARTS`. Each pair is encoded alone, so that a row does not depend on its batch.
        """
        return torch.cat([self._encode(image[i : i + 1], label[i : i + 1]) for i in range(len(image))])

    def _encode(self, image: Tensor, label: Tensor) -> Tensor:
        low, high = SOFT_WINDOW
        soft = ((image - low) * (2 / (high - low)) - 1).clamp(-1, 1)
        windows = torch.cat([soft, image.clamp(-1, 1)], dim=1)
        ids = torch.tensor([s.id for s in STRUCTURES], device=label.device)
        masks = (label[:, None] == ids[None, :, None, None, None]).to(windows)
        inputs = {"image": windows, "label": masks, "pair": torch.cat([windows, masks], dim=1)}
        return torch.cat([part for name in PARTS for part in self._levels(name, inputs[name])], dim=1)

    def _levels(self, name: str, h: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        pyramid = self.pyramids[name]
        assert isinstance(pyramid, nn.ModuleList)
        for convolution in pyramid:
            h = F.leaky_relu(convolution(h), LEAK)
            std, mean = torch.std_mean(h, dim=(2, 3, 4), correction=0)
            coarse = F.adaptive_avg_pool3d(h[:, : h.shape[1] // 4], 2).flatten(1)
            found += [mean, std, coarse]
        return found


def _pyramid(inputs: int, generator: torch.Generator) -> nn.ModuleList:
    return nn.ModuleList(_convolution(a, b, generator) for a, b in itertools.pairwise((inputs, *CHANNELS)))


def _convolution(inputs: int, outputs: int, generator: torch.Generator) -> Conv3d:
    """A 3 x 3 x 3 convolution of stride 2 with uniform random kernels of He's variance (He et al. 2015, with a leak).

    Every second kernel has its mean over space removed, so that it answers to edges and texture rather than to intensity.
    """
    # Made without storage first: the module's own initialization would draw from the global generator.
    convolution = Conv3d(inputs, outputs, 3, stride=2, padding=1, padding_mode="replicate", device="meta").to_empty(device="cpu")
    gain = math.sqrt(2 / (1 + LEAK**2) / (27 * inputs))
    weight = gain * math.sqrt(3) * (2 * torch.rand((outputs, inputs, 3, 3, 3), generator=generator) - 1)
    weight[1::2] -= weight[1::2].mean(dim=(2, 3, 4), keepdim=True)
    bias = 0.1 * (2 * torch.rand(outputs, generator=generator) - 1)
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)
    return convolution
