"""Guidance: two denoisers made into one."""

from torch import Tensor

from auricle.diffusion.parameterization import Denoise


def guided(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """Classifier-free guidance: ``D_u + w (D_c - D_u)`` (Ho and Salimans 2022, equation 6, written for denoised latents).

    Args:
        conditional: denoiser that is told the conditions.
        unconditional: denoiser that is not.
        weight: w; 0 ignores the conditions, 1 takes the conditional denoiser as it is (and evaluates no other), more exaggerates them.

    Returns:
        Denoiser of (N, ..) latents at noise levels (N,), the same level for all of a batch.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if weight == 1.0:
            return conditional(x, sigma)
        free = unconditional(x, sigma)
        return free if weight == 0.0 else free + weight * (conditional(x, sigma) - free)

    return denoise
