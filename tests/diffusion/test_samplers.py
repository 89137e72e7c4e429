"""Samplers against the exact solution for Gaussian data, their order of convergence, and each other."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from auricle.diffusion.noise import cosine_sigmas, flow_sigmas, karras_sigmas
from auricle.diffusion.parameterization import DDPM, EDM, HIGH, Flow, denoiser, denoising_loss, parameterization
from auricle.diffusion.samplers import ddpm, dpmpp, euler, heun, sample
from auricle.stages import refiner
from auricle.stages.sampling import LOW

MEAN, SD = 0.7, 0.5


def exact_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(MEAN, SD^2)."""
    variance = sigma.reshape(-1, *[1] * (x.ndim - 1)).square()
    return (SD**2 * x + variance * MEAN) / (SD**2 + variance)


def exact_solution(x: Tensor, start: float) -> Tensor:
    """The probability-flow ODE of Gaussian data keeps (x - mean) / sqrt(SD^2 + sigma^2) constant."""
    return MEAN + (x - MEAN) * SD / math.sqrt(SD**2 + start**2)


def start() -> Tensor:
    return 80.0 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp, 2)])
def test_order_of_convergence(sampler, order: int) -> None:  # type: ignore[no-untyped-def]
    x = start()
    errors = [float((sampler(exact_denoiser, x, karras_sigmas(n)) - exact_solution(x, 80.0)).abs().max()) for n in (80, 160)]
    assert errors[1] < 0.05
    measured = math.log2(errors[0] / errors[1])
    assert order - 0.35 < measured < order + 0.8


def two_places(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(-1.5, 0.3^2) or N(1.5, 0.3^2)."""
    variance = 0.3**2 + sigma.reshape(-1, *[1] * (x.ndim - 1)).square()
    right = torch.sigmoid(2 * 1.5 * x / variance)
    return right * (1.5 + 0.3**2 / variance * (x - 1.5)) + (1 - right) * (-1.5 + 0.3**2 / variance * (x + 1.5))


@pytest.mark.parametrize("levels", [lambda n: flow_sigmas(n, shift=5.0, low=LOW), karras_sigmas])
def test_few_steps_of_second_order_stand_the_first_ones_from_high_noise(levels: Callable[[int], Tensor]) -> None:
    """Which lead from 80 or 1000 to a few; Heun's steps end nearer to the solution than as many of Euler's."""
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = euler(two_places, noise * levels(2000)[0], levels(2000))

    def error(sampler: Callable[..., Tensor], steps: int) -> float:
        return float((sampler(two_places, noise * levels(steps)[0], levels(steps)) - end).square().mean().sqrt())

    assert error(heun, 5) < error(euler, 5)
    assert error(heun, 10) < 0.5 * error(euler, 10)


def test_ddpm_reaches_the_data_distribution() -> None:
    sigmas = torch.cat([cosine_sigmas().flip(0), torch.zeros(1, dtype=torch.float64)])
    generators = [torch.Generator().manual_seed(i) for i in range(400)]
    x = float(sigmas[0]) * torch.stack([torch.randn(20, generator=g, dtype=torch.float64) for g in generators])
    out = ddpm(exact_denoiser, x, sigmas, generators)
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(out.std()) == pytest.approx(SD, abs=0.03)


def test_ddpm_step_is_the_posterior_of_ho_et_al() -> None:
    """One step against equations 6 and 7 of Ho et al. 2020, written in their own variables."""
    levels = cosine_sigmas()
    t = 600
    a, a_before = 1 / (1 + levels[t] ** 2), 1 / (1 + levels[t - 1] ** 2)
    beta = 1 - a / a_before
    x0, x_vp = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[1.3]], dtype=torch.float64)
    mean = a_before.sqrt() * beta / (1 - a) * x0 + (a / a_before).sqrt() * (1 - a_before) / (1 - a) * x_vp
    sd = (beta * (1 - a_before) / (1 - a)).sqrt()
    # The sampler works on x = x_vp / sqrt(alpha_bar).
    outs = []
    for seed in range(3000):
        generator = [torch.Generator().manual_seed(seed)]
        outs.append(ddpm(lambda x, s: x0, x_vp / a.sqrt(), torch.stack([levels[t], levels[t - 1]]), generator) * a_before.sqrt())
    draws = torch.cat(outs)
    assert float(draws.mean()) == pytest.approx(float(mean), abs=5 * float(sd) / math.sqrt(3000))
    assert float(draws.std()) == pytest.approx(float(sd), rel=0.06)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp", "ddim", "ddpm"])
def test_samples_do_not_depend_on_the_batch(name: str) -> None:
    x = start()[:4]
    sigmas = flow_sigmas(8)

    def run(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in rows]
        return sample(name, exact_denoiser, x[rows], sigmas, generators)  # type: ignore[arg-type]

    assert torch.equal(run([0, 1, 2, 3])[2:], run([2, 3]))


@pytest.mark.parametrize("scheme", [Flow(), EDM(), DDPM()])
def test_scalings_recover_the_data_from_a_perfect_network(scheme) -> None:  # type: ignore[no-untyped-def]
    """A network that gives exactly (x0 - c_skip x) / c_out makes the denoiser exact and the loss zero."""
    generator = torch.Generator().manual_seed(0)
    sigma = scheme.draw_sigma(16, generator)
    x0, noise = torch.randn(16, 3, 2, 2, 2, generator=generator), torch.randn(16, 3, 2, 2, 2, generator=generator)
    s = sigma[:, None, None, None, None]
    x = x0 + s * noise
    skip, out, scale, time = (v[:, None, None, None, None] for v in scheme.scalings(sigma))
    assert ((time > 0) & (time <= 1)).all()

    def perfect(scaled: Tensor, t: Tensor) -> Tensor:
        assert torch.allclose(scaled, scale * x, atol=1e-5)
        return (x0 - skip * x) / out

    assert torch.allclose(denoiser(perfect, scheme)(x, sigma), x0, atol=1e-3)
    assert float(denoising_loss(perfect, scheme, x0, sigma, noise)) < 1e-6


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_loss_is_the_networks_own_target(kind: str) -> None:
    """For a flow the loss is the squared error of the velocity, for a DDPM that of the noise: with a zero network, their second moment."""
    scheme = parameterization(kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(8, 4, 4, 4, 4, generator=generator), torch.randn(8, 4, 4, 4, 4, generator=generator)
    loss = denoising_loss(lambda x, t: torch.zeros_like(x), scheme, x0, scheme.draw_sigma(8, generator), noise)
    target = noise - x0 if kind == "flow" else noise
    assert float(loss) == pytest.approx(float(target.square().mean()), rel=1e-4)


def test_weights_of_places_move_the_loss_to_them() -> None:
    """With a zero network the loss is the target's square, weighted: a place of weight zero counts for nothing."""
    scheme, generator = parameterization("flow"), torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(8, 4, 4, 4, 4, generator=generator) for _ in range(2))
    sigma = scheme.draw_sigma(8, generator)
    places = torch.zeros(4, 4, 4)
    places[:2] = 2.0
    loss, even = (float(denoising_loss(lambda x, t: torch.zeros_like(x), scheme, x0, sigma, noise, p)) for p in (places, torch.ones(4, 4, 4)))
    assert loss == pytest.approx(float((noise - x0)[:, :, :2].square().mean()), rel=1e-4)
    assert even == pytest.approx(float((noise - x0).square().mean()), rel=1e-4)


def test_a_share_of_a_flows_training_lies_at_high_noise() -> None:
    sigma = [Flow(high=share).draw_sigma(20000, torch.Generator().manual_seed(0)).log() for share in (0.0, 0.2, 1.0)]
    usual, mixed, high = ((s > math.log(30.0)).float().mean() for s in sigma)
    assert float(mixed) == pytest.approx(0.8 * float(usual) + 0.2 * float(high), abs=0.01)
    assert float(sigma[2].min()) >= math.log(HIGH[0]) - 1e-5
    assert float(sigma[2].max()) <= math.log(HIGH[1]) + 1e-5
    assert float(high) == pytest.approx(math.log(HIGH[1] / 30.0) / math.log(HIGH[1] / HIGH[0]), abs=0.01)


def test_noise_levels_descend_to_zero() -> None:
    for sigmas in (karras_sigmas(10), flow_sigmas(10), flow_sigmas(10, shift=3.0)):
        assert len(sigmas) == 11
        assert sigmas[-1] == 0
        assert (sigmas[1:] < sigmas[:-1]).all()
    assert (cosine_sigmas().diff() > 0).all()


def test_noise_levels_start_where_they_are_told_to() -> None:
    for sigmas in (karras_sigmas(10, 1.5), flow_sigmas(10, 1.5), flow_sigmas(10, 1.5, shift=3.0)):
        assert len(sigmas) == 11
        assert float(sigmas[0]) == pytest.approx(1.5)
    for sigmas in (karras_sigmas(10, 0.001), flow_sigmas(10, 0.001)):
        assert (sigmas[1:] < sigmas[:-1]).all()
    assert torch.equal(flow_sigmas(10, 1e9), flow_sigmas(10))
    assert torch.equal(karras_sigmas(10, 1e9), karras_sigmas(10))
    for steps in (1, 2, 8, 20, 200):
        for most in (float("inf"), 4.0, 0.001):
            levels = flow_sigmas(steps, most, 5.0, low=(0.1, 0.03))
            assert len(levels) == steps + 1
            assert levels[-1] == 0
            assert (levels.diff() < 0).all()
    assert torch.equal(flow_sigmas(200, shift=5.0, low=(0.1, 0.03)), flow_sigmas(200, shift=5.0))


def kept(sd: float, sigmas: Tensor) -> float:
    """SD of samples of Gaussian data over that of the data."""
    x = (sigmas[0] ** 2 + sd**2).sqrt().reshape(1, 1)
    return float(dpmpp(lambda x, sigma: x * sd**2 / (sd**2 + sigma**2), x, sigmas)) / sd


@pytest.mark.parametrize("sd", [1.0, 0.5, 0.25, 0.1])
def test_few_steps_keep_fine_detail(sd: float) -> None:
    """What varies little beside the noise of the last steps varies as much in samples as in the data, within a tenth."""
    for most in (float("inf"), 4.0):
        assert kept(sd, flow_sigmas(20, most, 5.0, low=LOW)) == pytest.approx(1, abs=0.1)


def test_steps_that_end_at_much_noise_lose_it() -> None:
    """A third of what varies by a quarter of the latents' SD; and of a residual, a third of 8 HU (0.13 in the refiner's unit)."""
    assert kept(0.25, flow_sigmas(20, shift=5.0)) == pytest.approx(2 / 3, abs=0.02)
    assert kept(0.13, flow_sigmas(refiner.STEPS)) == pytest.approx(2 / 3, abs=0.02)
    assert kept(0.13, flow_sigmas(refiner.STEPS, low=refiner.LOW)) == pytest.approx(0.9, abs=0.02)
