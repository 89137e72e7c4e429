"""Muon: momentum whose matrix is orthogonalized before it is applied (Jordan et al. 2024).

`torch.optim.Muon` takes matrices alone; here a convolution's kernel (out, in, x, y, z) counts as the matrix (out, in*x*y*z). How it compares
with AdamW on the demo's autoencoder: `python -m benchmarks.optimizers`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """For weights of two axes or more; biases, norms, first and last layers are better left to AdamW."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every weight: Nesterov momentum, orthogonalized, scaled to the size of AdamW's steps (Liu et al. 2025, equation 4)."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp(state["momentum"], group["momentum"]).reshape(len(weight), -1)
                update = orthogonalize(direction).reshape(weight.shape)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * group["lr"] * max(direction.shape) ** 0.5)


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """A matrix with the singular vectors of `matrix` and singular values near one, by the quintic Newton-Schulz iteration of Muon.

    Each iteration multiplies x by q = a + b g + c g^2, g = x x^T. All q are polynomials of the first g and commute, so they are gathered on
    the small square side and applied once, which costs a fifth for the long kernels of 3D convolutions.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x: Tensor = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    total = identity
    for _ in range(iterations):
        step = a * identity + b * gram + c * gram @ gram
        total = step @ total
        gram = step @ gram @ step
    x = total @ x
    return x if wide else x.T


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights for Muon, and the rest for AdamW: all biases and norms, stems (few inputs) and heads (named ``head`` or ``out``).

    The heads of coarser levels (`decoder.coarse_heads`) are Muon's like any other inner layer.
    """
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        outer = any(part in ("head", "out") or part.endswith("stem") for part in name.split("."))
        (rest if parameter.ndim < 2 or outer else inner).append(parameter)
    return inner, rest
