"""Samplers: pure functions of a denoiser, the noise levels to visit and the starting noise.

Each takes ``denoise(x, sigma)`` with `x` of shape (N, ..) and `sigma` of shape (N,), descending `sigmas` that end in zero, and
`x` = sigmas[0] * standard normal noise. Nothing random happens inside except in `ddpm`, which draws from the generators passed in, one a sample:
results do not depend on how samples are batched.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from auricle.diffusion.parameterization import Denoise

SamplerName = Literal["euler", "heun", "dpmpp", "ddim", "ddpm"]


def _level(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x).expand(len(x))


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """First order steps of dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, equation 3). One evaluation a step.

    The same as DDIM with eta = 0 (Song et al. 2021, equation 12): in these variables, x = x_vp / sqrt(alpha_bar), it reads x' = x0 + sigma' * noise.
    """
    for now, then in itertools.pairwise(sigmas):
        slope = (x - denoise(x, _level(now, x))) / now.to(x)
        x = x + (then - now).to(x) * slope
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Second order steps (Karras et al. 2022, algorithm 1, without churn). Two evaluations a step, one in the last.

    In the time of a rectified flow, t = sigma / (1 + sigma), where the state is x (1 - t): in sigma itself, whose first steps go from 1000 or from
    80 to a few, a change of D(x, sigma) would count as often as sigma goes into the step.
    """
    for now, then in itertools.pairwise(sigmas):
        time, next_time = (now / (1 + now)), (then / (1 + then))
        state, step = (1 - time).to(x) * x, (next_time - time).to(x)
        slope = (state - denoise(x, _level(now, x))) / time.to(x)
        proposal = state + step * slope
        if then > 0:
            second = (proposal - denoise((1 + then).to(x) * proposal, _level(then, x))) / next_time.to(x)
            proposal = state + step * (slope + second) / 2
        x = (1 + then).to(x) * proposal
    return x


def dpmpp(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from the previous evaluation. One evaluation a step.

    With lambda = -ln sigma and h the step in it: x' = (sigma'/sigma) x + (1 - e^-h) * D, D extrapolated from the two last x0.
    """
    previous: tuple[Tensor, Tensor] | None = None
    for now, then in itertools.pairwise(sigmas):
        x0 = denoise(x, _level(now, x))
        estimate = x0
        if previous is not None and then > 0:
            ratio = ((previous[1].log() - now.log()) / (now.log() - then.log())).to(x)
            estimate = x0 + (x0 - previous[0]) / (2 * ratio)
        x = (then / now).to(x) * x + (1 - then / now).to(x) * estimate
        previous = (x0, now)
    return x


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, equations 6 and 7): each step draws from the posterior q(x' | x, x0).

    For x = x0 + sigma * noise that posterior has mean x0 + (sigma'/sigma)^2 (x - x0) and variance sigma'^2 (1 - (sigma'/sigma)^2).
    """
    for now, then in itertools.pairwise(sigmas):
        x0 = denoise(x, _level(now, x))
        ratio = (then / now).square()
        fresh = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)
        x = x0 + ratio.to(x) * (x - x0) + (then * (1 - ratio).sqrt()).to(x) * fresh
    return x


def sample(
    name: SamplerName, denoise: Denoise, x: Tensor, sigmas: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:  # fmt: skip
    """Run the sampler of that name; `generators`, one for each of the N samples, serve `ddpm` alone."""
    if name == "ddpm":
        return ddpm(denoise, x, sigmas, generators)
    table = {"euler": euler, "ddim": euler, "heun": heun, "dpmpp": dpmpp}
    return table[name](denoise, x, sigmas)
