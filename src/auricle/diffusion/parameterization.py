"""How a network becomes a denoiser: scaling of its input and output, and the noise levels and weights of its training.

Every parameterization is the same four functions of sigma (Karras et al. 2022, equation 7)::

    denoise(x, sigma) = c_skip * x + c_out * network(c_in * x, c_noise)

so samplers need a denoiser alone and never know which one is used. Latents are whitened: the data's SD is 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from auricle.diffusion.noise import cosine_sigmas

Network = Callable[[Tensor, Tensor], Tensor]
Denoise = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["flow", "edm", "ddpm"]


class Parameterization(Protocol):
    """Scalings, training noise levels and loss weights; all take and return tensors of shape (N,)."""

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise (in 0..1)."""

    def draw_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels to train on."""

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error of the denoised latent."""


HIGH = (10.0, 100.0)
"""Noise levels at which a latent shows no structure, but still where a heart lies."""


@dataclass(frozen=True)
class Flow:
    """Rectified flow (Liu et al. 2023): ``x_t = (1 - t) x0 + t noise``, the network gives ``noise - x0``; logit-normal times (Esser et al. 2024).

    Neighboring voxels of a latent say much the same, so anatomy is decided where the noise is several times the signal: a location of 1.1
    (a shift of three, Esser et al. 2024, section 5.3.2) puts a sixth of its draws above sigma 9, where a location of 0 puts a hundredth.
    What a whole heart shares, where it lies and how large it is, is decided higher still: a share `high` is drawn evenly in log sigma from `HIGH`.
    """

    location: float = 1.1
    scale: float = 1.2
    high: float = 0.2

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """With t = sigma / (1 + sigma): x_t = (1 - t) x and x0 = x_t - t v."""
        t = sigma / (1 + sigma)
        return 1 - t, -t, 1 - t, t

    def draw_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """sigma = t / (1 - t) with logit t normal: sigma is log-normal; log-uniform for the share `high`."""
        usual = self.location + self.scale * torch.randn(count, generator=generator)
        chance, place = torch.rand(2, count, generator=generator)
        low, most = (math.log(v) for v in HIGH)
        return torch.where(chance < self.high, low + (most - low) * place, usual).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / t^2: the squared error of the velocity."""
        return ((1 + sigma) / sigma).square()


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, table 1, for data of SD 1."""

    location: float = -0.4
    scale: float = 1.2

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_noise is squeezed into 0..1 by a logistic function of ln(sigma)."""
        power = sigma.square() + 1
        return 1 / power, sigma / power.sqrt(), 1 / power.sqrt(), torch.sigmoid(sigma.log())

    def draw_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Log-normal."""
        return (self.location + self.scale * torch.randn(count, generator=generator)).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / c_out^2."""
        return (sigma.square() + 1) / sigma.square()


@dataclass(frozen=True)
class DDPM:
    """Ho et al. 2020: the network gives the noise, at one of `count` discrete steps of the cosine schedule."""

    count: int = 1000

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x0 = x - sigma * noise; the network sees the variance-preserving x / sqrt(1 + sigma^2)."""
        levels = cosine_sigmas(self.count).to(sigma)
        step = torch.searchsorted(levels, sigma.contiguous()).clamp(max=self.count - 1)
        lower = (step - 1).clamp(min=0)
        step = torch.where((sigma - levels[lower]).abs() < (levels[step] - sigma).abs(), lower, step)
        return torch.ones_like(sigma), -sigma, (1 + sigma.square()).rsqrt(), (step.to(sigma) + 1) / self.count

    def draw_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform over the discrete steps."""
        levels = cosine_sigmas(self.count).float()
        return levels[torch.randint(0, self.count, (count,), generator=generator)]

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / sigma^2: the squared error of the noise, the simple loss of Ho et al. 2020, equation 14."""
        return sigma.square().reciprocal()


def parameterization(kind: Kind) -> Parameterization:
    """The parameterization of that name with its default constants."""
    table: dict[Kind, Parameterization] = {"flow": Flow(), "edm": EDM(), "ddpm": DDPM()}
    return table[kind]


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (N,) to (N, 1, 1, ..) so that it multiplies `like`."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def denoiser(network: Network, scheme: Parameterization) -> Denoise:
    """The function ``denoise(x, sigma)`` of a network; `x` is (N, C, X, Y, Z), `sigma` is (N,)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        skip, out, scale, time = scheme.scalings(sigma)
        return expand(skip, x) * x + expand(out, x) * network(expand(scale, x) * x, time.to(x))

    return denoise


def denoising_loss(
    network: Network, scheme: Parameterization, x0: Tensor, sigma: Tensor, noise: Tensor, places: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Weighted squared error of the denoised latents, averaged; `sigma` is (N,), the others (N, C, X, Y, Z).

    `places` (X, Y, Z) are weights of mean one. They depend on the place alone, so the network that makes the loss least is the same.
    """
    error = denoiser(network, scheme)(x0 + expand(sigma, x0) * noise, sigma) - x0
    squares = expand(scheme.weight(sigma), x0) * error.square()
    return (squares if places is None else squares * places).mean()
