"""Guidance: two denoisers made into one."""

from torch import Tensor

from auricle.diffusion.parameterization import Denoise


def guided(conditional: Denoise, unconditional: Denoise, weight: float, sigma_range: tuple[float, float] = (0.0, float("inf"))) -> Denoise:
    """Classifier-free guidance: ``D_u + w (D_c - D_u)`` (Ho and Salimans 2022, equation 6, written for denoised latents).

    Args:
        conditional: denoiser that is told the conditions.
        unconditional: denoiser that is not.
        weight: w; 0 ignores the conditions, 1 takes the conditional denoiser as it is (and evaluates no other), more exaggerates them.
        sigma_range: noise levels within which the conditions are exaggerated; outside, w is 1 (Kynkäänniemi et al. 2024).

    Returns:
        Denoiser of (N, ..) latents at noise levels (N,), the same level for all of a batch.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma[0])
        if weight == 1.0 or not sigma_range[0] <= level <= sigma_range[1]:
            return conditional(x, sigma)
        free = unconditional(x, sigma)
        return free if weight == 0.0 else free + weight * (conditional(x, sigma) - free)

    return denoise
