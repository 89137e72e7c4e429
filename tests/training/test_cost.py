"""Costs from shapes: closed forms, what autograd really saves, and no memory taken however large the network."""

import mmap
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from auricle.losses.segmentation import dice_cross_entropy
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.training.cost import HEAP_BYTES, HEAP_LOSS, Cost, measure, measure_rate, optimizer_cost, resident_bytes
from auricle.training.loop import FitConfig
from auricle.training.muon import Muon, split_parameters

TINY = SegmenterConfig(channels=(8, 16), blocks=1)


def segmenter() -> nn.Module:
    return Segmenter(TINY, outputs=9)


def on_batch(batch: int, size: tuple[int, int, int] = (16, 12, 8)) -> Callable[[nn.Module], Tensor]:
    return lambda network: dice_cross_entropy(network(torch.zeros(batch, 1, *size)), torch.zeros(batch, *size, dtype=torch.uint8))


class Stack(nn.Module):
    """Residual convolutions, with or without activation checkpointing."""

    def __init__(self, depth: int, checkpointed: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.GroupNorm(1, 4), nn.Conv3d(4, 4, 3, padding=1), nn.SiLU()) for _ in range(depth))
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x))
        return x


def stack(depth: int, checkpointed: bool) -> Cost:
    # The input wants a gradient, as it does behind a stem.
    return measure(lambda: Stack(depth, checkpointed), lambda network: network(torch.zeros(1, 4, 8, 8, 8, requires_grad=True)).sum())


def test_the_flops_of_a_convolution_are_the_closed_form() -> None:
    def forward(network: nn.Module) -> Tensor:
        return network(torch.zeros(2, 3, 8, 10, 12)).sum()

    cost = measure(lambda: nn.Conv3d(3, 5, (3, 3, 1), padding=(1, 1, 0)), forward)
    assert cost.flops_forward == 2 * (3 * 3 * 1) * 3 * 5 * 2 * 8 * 10 * 12
    # The input needs no gradient: the weights' alone is as much work again.
    assert cost.flops_backward == cost.flops_forward
    assert cost.parameters == 3 * 5 * 9 + 5
    assert cost.parameter_bytes == 4 * cost.parameters


def test_bytes_of_a_chain_are_the_closed_form() -> None:
    size = 4 * 1000
    cost = measure(lambda: nn.Sequential(*(nn.SiLU() for _ in range(10))), lambda network: network(torch.zeros(1000, requires_grad=True)))
    # SiLU saves its input; without gradients the caller's input lives on beside one layer's input and output.
    assert cost.saved_bytes == 10 * size
    assert cost.largest_bytes == 3 * size
    # At the start of the backward pass there are the input, ten outputs and two gradients.
    assert cost.training_bytes == 13 * size
    assert cost.peak_bytes == 13 * size + round(HEAP_LOSS * cost.heap_bytes)
    assert cost.heap_bytes == cost.training_bytes


def test_blocks_that_the_system_maps_leave_no_gaps() -> None:
    cost = measure(nn.Identity, lambda network: network(torch.zeros(HEAP_BYTES)), train=False)
    assert cost.heap_bytes == 0
    assert cost.peak_bytes == cost.largest_bytes == 4 * HEAP_BYTES


@pytest.mark.parametrize("batch", [2, 3])
def test_saved_bytes_equal_what_autograd_saves_on_a_cpu(batch: int) -> None:
    torch.manual_seed(0)
    network = segmenter().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    saved: dict[int, tuple[int, Tensor]] = {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = on_batch(batch)(network)
    real = sum(size for key, (size, _) in saved.items() if key not in weights)
    assert loss.requires_grad
    # (A batch of one small volume is doubled by `Conv3d` on a CPU, hence two and three.)
    assert measure(segmenter, on_batch(batch)).saved_bytes == real


def test_checkpointing_saves_less_and_computes_again() -> None:
    plain, saving = stack(6, False), stack(6, True)
    assert saving.saved_bytes < plain.saved_bytes / 2
    assert saving.training_bytes < plain.training_bytes
    assert saving.flops_forward == plain.flops_forward
    assert saving.flops_backward == plain.flops_backward + plain.flops_forward
    # The recomputed block is there in full: what it alone would save comes on top of the kept inputs.
    assert saving.training_bytes >= saving.saved_bytes + stack(1, False).saved_bytes - 4 * 4 * 8**3


def test_activations_are_proportional_to_the_batch() -> None:
    one, two = (measure(segmenter, on_batch(n)) for n in (1, 2))
    fixed = 2 * 4 * (9 + 9 + 9)  # what the Dice keeps for each label, whatever the batch
    assert two.saved_bytes == pytest.approx(2 * one.saved_bytes, abs=10 * fixed)
    assert two.largest_bytes == pytest.approx(2 * one.largest_bytes, abs=10 * fixed)
    assert two.flops == 2 * one.flops
    assert two.parameters == one.parameters


def test_without_training_there_is_no_backward_pass() -> None:
    cost = measure(segmenter, on_batch(1), train=False)
    assert cost.saved_bytes == cost.training_bytes == cost.flops_backward == 0
    assert cost.largest_bytes == measure(segmenter, on_batch(1)).largest_bytes


def test_a_view_of_a_weight_is_no_memory() -> None:
    cost = measure(lambda: nn.Linear(64, 1), lambda network: F.linear(torch.zeros(1, 64), network.weight.view(1, 64)), train=False)
    assert cost.largest_bytes == 4 * (64 + 1)


def test_a_measurement_at_the_size_of_the_paper_takes_no_memory_and_little_time() -> None:
    measure(segmenter, on_batch(1))
    before, start = resident_bytes(), time.process_time()
    cost = measure(lambda: Segmenter(SegmenterConfig(channels=(32, 64, 128, 256), blocks=2), outputs=9), on_batch(1, (256, 256, 160)))
    assert cost.saved_bytes > 5 * 2**30
    assert resident_bytes() - before < 64 * 2**20
    assert time.process_time() - start < 10.0


@pytest.mark.parametrize("ema", [None, 0.9])
def test_optimizer_state_is_what_the_optimizers_keep(ema: float | None) -> None:
    network = segmenter()
    total = sum(p.numel() * 4 for p in network.parameters())
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    inner, rest = split_parameters(network)
    optimizers = {"muon": [Muon(inner, 1e-3), torch.optim.AdamW(rest)], "adamw": [torch.optim.AdamW(network.parameters())]}
    for name, used in optimizers.items():
        for optimizer in used:
            optimizer.step()
        kept = sum(v.numel() * 4 for o in used for state in o.state.values() for v in state.values() if isinstance(v, Tensor) and v.ndim)
        state, flops = optimizer_cost(segmenter, FitConfig(optimizer=name, ema_decay=ema))  # type: ignore[arg-type]
        assert state == kept + (total if ema else 0)
        assert (flops > 0) == (name == "muon")


def test_the_machine_is_measured() -> None:
    before = resident_bytes()
    # Pages of its own: what the allocator holds from earlier tests would take no new memory.
    with mmap.mmap(-1, 64 * 2**20) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert 2**20 < before < resident_bytes() - 32 * 2**20
    assert 1e7 < measure_rate(0.01) < 1e16
