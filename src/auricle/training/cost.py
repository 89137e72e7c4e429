"""What a network costs before it runs: memory and arithmetic of a training step, from shapes alone.

Network and forward pass are played through on PyTorch's "meta" device, whose tensors have shapes but no memory. Every tensor is followed from
birth to release, so activation checkpointing, skip connections and the temporaries of a loss count as they do in a real run.
"""

import os
import resource
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from auricle.training.loop import FitConfig
from auricle.training.muon import orthogonalize, split_parameters

HEAP_BYTES = 32 * 2**20
"""glibc maps larger blocks one by one and returns them at once; smaller ones come from a heap, which keeps gaps (mallopt(3))."""
HEAP_LOSS = 0.15
"""Gaps in that heap, as a share of the most that it held: 0.11 and 0.14 GiB of 0.72 and 0.79 GiB in training steps of two networks."""
KERNEL_BYTES = 40 * 2**20
"""What the first convolution adds: compiled kernels, reordered weights, stacks of threads (30 to 40 MiB measured)."""


@dataclass(frozen=True)
class Cost:
    """What one pass through a network takes, in bytes and floating-point operations; a multiplication and an addition count as two."""

    parameters: int
    parameter_bytes: int
    """Of the weights, buffers included."""
    saved_bytes: int
    """Kept by the forward pass for the backward pass, the inputs included and the weights not."""
    largest_bytes: int
    """Most that a forward pass without gradients holds at once, inputs and outputs included and weights not."""
    training_bytes: int
    """Most that forward and backward pass hold at once, the gradients of the weights included and the weights not."""
    heap_bytes: int
    """Most that small blocks (`HEAP_BYTES`) hold at once in whichever of the two was asked for."""
    flops_forward: int
    flops_backward: int
    """Recomputed activations of checkpointed blocks included."""

    @property
    def peak_bytes(self) -> int:
        """Memory beside the weights: what is held at once, and the gaps between small blocks."""
        return max(self.training_bytes, self.largest_bytes) + round(HEAP_LOSS * self.heap_bytes)

    @property
    def flops(self) -> int:
        """Operations of the whole step."""
        return self.flops_forward + self.flops_backward


def measure(build: Callable[[], nn.Module], forward: Callable[[nn.Module], Any], *, train: bool = True) -> Cost:
    """Cost of ``forward(build())`` and, with `train`, of the backward pass from the tensor that it returns (usually the loss).

    `forward` makes its own inputs (``torch.empty``), since only what is made inside is counted. Both are called within
    ``torch.device("meta")``: they must not look at values. Nothing of the size of an activation is ever allocated.
    """
    with torch.device("meta"):
        network = build().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        inference = _Live(network)
        with FlopCounterMode(display=False) as counter, inference, torch.no_grad():
            forward(network)
        flops_forward = counter.get_total_flops()
        training, saved, flops_backward = _Live(network), 0, 0
        if train:
            saved, flops_backward = _train(network, forward, training)
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        parameter_bytes=sum(t.numel() * t.element_size() for t in network.state_dict().values()),
        saved_bytes=saved, largest_bytes=inference.peak, training_bytes=training.peak,
        heap_bytes=(training if train else inference).heap_peak, flops_forward=flops_forward, flops_backward=flops_backward,
    )  # fmt: skip


def _train(network: nn.Module, forward: Callable[[nn.Module], Any], live: "_Live") -> tuple[int, int]:
    """Bytes saved by the forward pass and operations of the backward pass; `live` follows both."""
    kept: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(id(tensor.untyped_storage()))
        return tensor

    with FlopCounterMode(display=False) as counter, live:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out: Tensor = forward(network)
        # Weights are saved too, but are not among the blocks of `live`.
        saved = sum(live.blocks[key] for key in kept if key in live.blocks)
        flops_forward = counter.get_total_flops()
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
    return saved, counter.get_total_flops() - flops_forward


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of every tensor made while it is active, on any device, until it is released; the network's own is left out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # PyTorch keeps one Python object for a storage as long as any tensor uses it, so its identity stands for the block.
        self.weights = {id(t.untyped_storage()) for t in (*network.parameters(), *network.buffers())}
        self.blocks: dict[int, int] = {}
        self.now = self.peak = self.heap = self.heap_peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.bincount.default and args[0].device.type == "meta":
            # Its length depends on values; labels stay below the length that is asked for.
            least = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
            out = torch.empty(least, dtype=torch.int64, device="meta")
        else:
            out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self.weights or id(storage) in self.blocks:
            return
        self.blocks[id(storage)] = storage.nbytes()
        weakref.finalize(storage, self._remove, id(storage))
        self._change(storage.nbytes(), storage.nbytes())
        self.peak, self.heap_peak = max(self.peak, self.now), max(self.heap_peak, self.heap)

    def _remove(self, key: int) -> None:
        size = self.blocks.pop(key)
        self._change(-size, size)

    def _change(self, by: int, size: int) -> None:
        self.now += by
        self.heap += by if size < HEAP_BYTES else 0


def optimizer_cost(build: Callable[[], nn.Module], fit: FitConfig) -> tuple[int, int]:
    """Bytes that optimizer and moving average keep beside weights and gradients, and operations of one update.

    AdamW keeps two values a weight, Muon one; only Muon multiplies matrices, and an update by AdamW counts as nothing.
    """
    with torch.device("meta"):
        network = build()
        matrices, rest = split_parameters(network) if fit.optimizer == "muon" else ([], list(network.parameters()))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for weight in matrices:
                orthogonalize(weight.reshape(len(weight), -1))
    state = 2 * _bytes(rest) + _bytes(matrices) + (_bytes([*rest, *matrices]) if fit.ema_decay else 0)
    return state, counter.get_total_flops()


def _bytes(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def resident_bytes() -> int:
    """Memory of this process now: the interpreter and the libraries, as long as no data are loaded."""
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as handle:
            return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_rate(seconds: float = 1.0) -> float:
    """Floating-point operations a second of 3D convolutions on the GPU where there is one, else on the CPU with PyTorch's threads.

    3 x 3 x 3 kernels, 32 channels, 64^3 voxels, in the memory layout that training uses; measured for about `seconds`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = nn.Conv3d(32, 32, 3, padding=1, device=device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.zeros(1, 32, 64, 64, 64, device=device).to(memory_format=torch.channels_last_3d)
    flops = 2 * 27 * 32 * 32 * 64**3
    with torch.no_grad():
        layer(x)
        _wait(device)
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds or not count:
            layer(x)
            _wait(device)
            count += 1
    return count * flops / max(passed, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
