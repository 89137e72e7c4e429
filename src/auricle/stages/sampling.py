"""From noise to image and label map: the noise levels of a sampler, latents, and what the autoencoder makes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auricle.core.errors import InputError
from auricle.data.conditions import Conditions, measured
from auricle.data.labelcode import decode_label
from auricle.data.pair_fit import fit_pair
from auricle.data.preprocess import to_hu
from auricle.diffusion.noise import cosine_sigmas, flow_sigmas, karras_sigmas
from auricle.diffusion.parameterization import Kind
from auricle.diffusion.samplers import SamplerName, sample
from auricle.metrics import anatomy
from auricle.models.autoencoder import Autoencoder
from auricle.stages.diffusion import LatentModel

LOW = (0.1, 0.03)
"""Last noise levels of a rectified flow: with 20 steps it would go from 0.26 to zero, and lose a third of what varies by a quarter of the latents' SD
(tests/diffusion/test_samplers.py)."""


@dataclass(frozen=True)
class Decoded:
    """What the autoencoder makes of a latent, warped to volumes and location where that was asked for; arrays are [x, y, z]."""

    image: NDArray[np.float32]
    """HU."""
    label: NDArray[np.uint8]
    """Label map."""
    volumes_ml: dict[str, float]
    """Volumes before the warp."""
    location_mm: float | None
    """Location before the warp."""


def sigmas_for(kind: Kind, sampler: SamplerName, steps: int, shift: float = 1.0, variation: float = 1.0) -> Tensor:
    """Noise levels, descending to zero, at which a model of that parameterization is evaluated; none is above ``variation / (1 - variation)``.

    A DDPM is evaluated at its own discrete levels: all of them when `sampler` is ``ddpm``, else `steps` evenly spaced ones.
    """
    most = variation / (1 - variation) if variation < 1 else math.inf
    if kind == "ddpm":
        every = cosine_sigmas().flip(0)
        every = every[every <= most]
        if not len(every) or (sampler != "ddpm" and steps > len(every)):
            below = f" up to --variation {variation:g}" if variation < 1 else ""
            raise InputError(f"--steps {steps}: a DDPM has {len(every)} noise levels{below}")
        count = len(every) if sampler == "ddpm" else steps
        chosen = every[torch.linspace(0, len(every) - 1, count).round().long()]
        return torch.cat([chosen, torch.zeros(1, dtype=chosen.dtype)])
    count = 1000 if sampler == "ddpm" else steps
    return flow_sigmas(count, most, shift, LOW) if kind == "flow" else karras_sigmas(count, most)


@torch.no_grad()
def sample_latents(
    model: LatentModel, sampler: SamplerName, sigmas: Tensor, asked: Sequence[Conditions], generators: list[torch.Generator],
    guidance: float = 1.0, starts: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Latents of the autoencoder, (len(asked), C, X, Y, Z), each from the noise of a generator of its own, whatever the batch.

    The noise is added to `starts`, whitened and of that shape, where they are given.
    """
    noise = torch.stack([torch.randn(model.latent_shape, generator=g) for g in generators])
    noise = noise.to(next(model.network.parameters()).device, memory_format=torch.channels_last_3d)
    x = noise * sigmas[0].float()
    if starts is not None:
        x = x + starts.to(x)
    return model.unwhiten(sample(sampler, model.denoise(asked, guidance), x, sigmas, generators))


@torch.no_grad()
def decode(
    network: Autoencoder, latent: Tensor, spacing: tuple[float, float, float], tile: int | None = None, asked: Conditions | None = None
) -> Decoded:  # fmt: skip
    """Image and label map of one latent (C, ..), in tiles of `tile` latent voxels where that is given, warped to what is `asked` by `fit_pair`."""
    if not latent.isfinite().all():
        raise InputError("sampling gave numbers that are not finite: take more --steps or another --sampler")
    latent = latent[None].contiguous(memory_format=torch.channels_last_3d)
    image, label = (part[0].float().cpu().contiguous() for part in (network.decode(latent) if tile is None else network.decode_tiled(latent, tile)))
    drawn = decode_label(label[None])[0].numpy()
    volumes, location = anatomy.volumes_ml(drawn, math.prod(spacing) / 1000.0), measured({}, drawn, spacing).location_mm
    values = image[0]
    if asked is not None:
        values, label = fit_pair(values, label, spacing, asked.volumes_ml(), asked.location_mm)
    return Decoded(to_hu(values.numpy()), decode_label(label[None])[0].numpy(), volumes, location)
