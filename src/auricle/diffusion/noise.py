"""Noise levels: which ones a sampler visits, and which ones training draws.

Everywhere a noisy latent is ``x = x0 + sigma * noise`` (Karras et al. 2022), whatever the parameterization of the network.
"""

import math

import torch
from torch import Tensor


def karras_sigmas(steps: int, sigma_max: float = math.inf, sigma_min: float = 0.002, rho: float = 7.0) -> Tensor:
    """`steps` descending noise levels, at most 80, and a final zero, shape (steps + 1,) (Karras et al. 2022, equation 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = min(sigma_min, sigma_max / 2) ** (1 / rho), min(sigma_max, 80.0) ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def flow_sigmas(steps: int, sigma_max: float = math.inf, shift: float = 1.0, low: tuple[float, ...] = ()) -> Tensor:
    """Noise levels of a rectified flow at evenly spaced times, ``sigma = t / (1 - t)``, and a final zero, shape (steps + 1,).

    The first lies at t = 0.999 before the shift, or at `sigma_max` where that is lower. `shift` > 1 spends more steps at high noise (Esser et al.
    2024, equation 23). `low` are levels for the last steps, descending, taken where the even ones end at more than twice as much: from there
    straight to zero a sample becomes the mean of what it may be, without fine detail.
    """
    for count in range(min(len(low), steps // 4), 0, -1):
        even = flow_sigmas(steps - count, sigma_max, shift)[:-1]
        if even[-1] > 2 * low[-count]:
            return torch.cat([even, torch.tensor([*low[-count:], 0.0], dtype=torch.float64)])
    # What t is shifted to becomes sigma = shift * t / (1 - t).
    t_max = min(0.999, sigma_max / (sigma_max + shift)) if math.isfinite(sigma_max) else 0.999
    t = torch.linspace(t_max, 0.0, steps + 1, dtype=torch.float64)
    t = shift * t / (1 + (shift - 1) * t)
    return t / (1 - t)


def cosine_sigmas(count: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """The ascending noise levels of the `count` steps of a cosine-schedule DDPM, shape (count,) (Nichol and Dhariwal 2021, eq. 17)."""
    return sigma_of_alpha_bar(_cosine_alpha_bar(count, offset, max_beta))


def sigma_of_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """``sqrt((1 - a) / a)``: the noise level of a variance-preserving process with cumulative signal power a."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _cosine_alpha_bar(count: int, offset: float, max_beta: float) -> Tensor:
    t = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=max_beta), 0)
