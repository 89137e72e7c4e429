"""Guidance on Gaussians, where both denoisers and their combination are known exactly."""

import pytest
import torch

from auricle.diffusion.guidance import guided
from auricle.diffusion.noise import flow_sigmas
from auricle.diffusion.samplers import dpmpp, euler, heun, sample

CALLS: list[str] = []


def gaussian(mean: float, sd: float, name: str = ""):  # type: ignore[no-untyped-def]
    """The exact denoiser of data from N(mean, sd^2): E[x0 | x] = mean + sd^2 / (sd^2 + sigma^2) (x - mean)."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        CALLS.append(name)
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return mean + sd**2 / (sd**2 + s**2) * (x - mean)

    return denoise


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp])
def test_samplers_solve_a_gaussian_exactly_in_the_limit(sampler) -> None:  # type: ignore[no-untyped-def]
    """From x = s z at noise s the exact end point is mean + sd (x - mean) / sqrt(sd^2 + s^2)."""
    sigmas = flow_sigmas(400, shift=5.0)
    x = sigmas[0] * torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = 1.5 + 0.5 * (x - 1.5) / (0.25 + sigmas[0] ** 2).sqrt()
    assert torch.allclose(sampler(gaussian(1.5, 0.5), x, sigmas), exact, atol=0.02)


def test_weight_one_is_the_conditional_alone() -> None:
    CALLS.clear()
    x, sigma = torch.randn(3, 2), torch.full((3,), 0.7)
    got = guided(gaussian(2.0, 0.3, "c"), gaussian(0.0, 1.0, "u"), 1.0)(x, sigma)
    assert torch.equal(got, gaussian(2.0, 0.3)(x, sigma))
    assert "u" not in CALLS


def test_weight_zero_is_the_unconditional() -> None:
    x, sigma = torch.randn(3, 2), torch.full((3,), 0.7)
    assert torch.equal(guided(gaussian(2.0, 0.3), gaussian(0.0, 1.0), 0.0)(x, sigma), gaussian(0.0, 1.0)(x, sigma))


@pytest.mark.parametrize("weight", [0.5, 2.0, 3.0])
def test_the_combination_is_linear_and_samples_move_past_the_condition(weight: float) -> None:
    x, sigma = torch.randn(3, 2), torch.full((3,), 0.7)
    c, u = gaussian(2.0, 1.0), gaussian(0.0, 1.0)
    expected = u(x, sigma) + weight * (c(x, sigma) - u(x, sigma))
    assert torch.allclose(guided(c, u, weight)(x, sigma), expected)
    # Both are Gaussians of one SD: the guided denoiser is that of the mean weight * 2.
    sigmas = flow_sigmas(200, shift=5.0)
    noise = sigmas[0] * torch.randn(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert heun(guided(c, u, weight), noise, sigmas).mean() == pytest.approx(2.0 * weight, abs=0.1)


def test_ddim_follows_song_et_al() -> None:
    """One step in the variance-preserving variables of the paper (equation 12, eta = 0), written out apart from the sampler."""
    sigmas = torch.tensor([3.0, 1.2, 0.4, 0.0], dtype=torch.float64)
    denoise = gaussian(0.7, 0.6)
    x = 3.0 * torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    alpha = 1 / (1 + sigmas**2)
    vp = x * alpha[0].sqrt()
    for i in range(3):
        x0 = denoise(vp / alpha[i].sqrt(), sigmas[i].expand(5))
        epsilon = (vp - alpha[i].sqrt() * x0) / (1 - alpha[i]).sqrt()
        vp = alpha[i + 1].sqrt() * x0 + (1 - alpha[i + 1]).sqrt() * epsilon
    assert torch.allclose(sample("ddim", denoise, x, sigmas, []), vp, atol=1e-12)
