"""Exponential moving average of weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """Average of a network's parameters with a warm-up, so that short runs are not dominated by the initial weights."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Average in the weights after optimizer step `step` (from 1): decay min(d, (1 + step) / (10 + step))."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for k, v in network.state_dict().items():
            if v.is_floating_point():
                self.shadow[k].lerp_(v, 1 - decay)
            else:
                self.shadow[k].copy_(v)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the average by stored tensors."""
        for k, v in self.shadow.items():
            v.copy_(tensors[k])
