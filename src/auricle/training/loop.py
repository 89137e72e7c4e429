"""The fit loop of every stage: deterministic by step, resumable, with early stopping and the best weights kept.

Each step draws from generators seeded by (seed, step), so a run that is killed and started again takes the same steps as one that was
never broken; on a CPU its weights are bit-identical. lightning-fabric owns device and precision.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.runs import Run
from auricle.core.seeds import derive, epoch_order, torch_generator
from auricle.training import checkpoint
from auricle.training.ema import EMA
from auricle.training.muon import Muon, split_parameters
from auricle.training.stopping import Stopping

Loss = Callable[[nn.Module, list[int], torch.Generator], dict[str, Tensor]]
"""``loss(network, indices, generator)``: the terms of one step on those training items; ``loss`` among them is minimized."""
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast a network is trained."""

    steps: int | None = 1000
    """Optimizer steps at most; None leaves the limit to `epochs`."""
    epochs: int | None = None
    """Passes over the training items at most; None leaves the limit to `steps`."""
    batch_size: int = 2
    """Items a step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW as in the paper, or Muon for the inner weights and AdamW for the rest, which learns in fewer steps."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "one-cycle"] = "constant"
    """The paper's constant rate, or a short warm-up and a cosine decay to 1% over the whole run."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    validate_every: int | None = None
    """Steps between validations; None validates once an epoch."""
    patience: int | None = None
    """Validations without improvement before training stops early; None never stops early."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights; None keeps the weights as they are."""
    clip_norm: float = 1.0
    """Largest norm of the gradients that AdamW sees; Muon's steps have a size of their own."""
    checkpoint_every: int = 100
    """Steps between the states that a broken run resumes from."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("give --fit.steps or --fit.epochs: without either, training never ends")
        for name in ("steps", "epochs", "batch_size", "validate_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--fit.{name.replace('_', '-')} must be at least 1, not {value}")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--fit.{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"--fit.weight-decay must not be negative, is {self.weight_decay}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"--fit.ema-decay must lie in 0..1, below 1, not {self.ema_decay}")


@dataclass(frozen=True)
class Hardware:
    """Where training runs."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes an NVIDIA or AMD GPU where there is one. Apple's (mps) is taken where it is named: nothing here is tested on it."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic; bf16-mixed on recent GPUs. CPUs are fastest in 32-true."""

    def fabric(self) -> Fabric:
        """A Fabric of one device for this hardware; raises `InputError` where there is none."""
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if self.accelerator == "auto" else self.accelerator
        try:
            return Fabric(accelerator=kind, devices=1, precision=self.precision)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"--hardware.accelerator {self.accelerator}: {error}") from None


@dataclass(frozen=True)
class Plan:
    """What `fit` is to optimize: how many items, which loss, and how weights are judged."""

    items: int
    """Training items; an epoch visits each once."""
    loss: Loss
    validate: Validate
    monitor: str
    mode: Literal["min", "max"]
    first_items: int | None = None
    """Items, from the first, that the last part of training is restricted to."""
    first_from: float = 1.0
    """Share of the steps after which that part begins."""

    def indices(self, batch_size: int, seed: int, step: int, total: int) -> list[int]:
        """The items of the batch of `step` out of `total`."""
        late = self.first_items is not None and step >= self.first_from * total
        return batch_indices(self.first_items if late and self.first_items else self.items, batch_size, seed, step)


def fit(run: Run, network: nn.Module, plan: Plan, config: FitConfig, hardware: Hardware, seed: int, name: str) -> dict[str, Any]:
    """Train `network` in place and leave it with its best weights.

    Resumes from ``last.safetensors`` in the run folder. Returns ``steps``, ``best_step``, ``best`` and ``stopped_early``.
    """
    fabric = hardware.fabric()
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    module, *optimizers = fabric.setup(network, *_optimizers(network, config))
    ema = EMA(network, config.ema_decay) if config.ema_decay else None
    stopping = Stopping(plan.mode, config.patience)
    epoch_steps = max(1, math.ceil(plan.items / config.batch_size))
    total = min(config.steps or 2**62, (config.epochs or 2**62) * epoch_steps)
    every = config.validate_every or epoch_steps
    step, averages = _resume(run, network, optimizers, ema, stopping)
    with progress.bar(name, total, step) as update:
        while step < total and not stopping.exhausted:
            module.train()
            _set_rate(optimizers, config, step, total)
            torch.manual_seed(derive(seed, "torch", step))
            indices = plan.indices(config.batch_size, seed, step, total)
            terms = plan.loss(module, indices, torch_generator(seed, "step", step))
            fabric.backward(terms["loss"])
            fabric.clip_gradients(module, optimizers[0], max_norm=config.clip_norm, error_if_nonfinite=False)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            if ema:
                ema.update(network, step)
            averages = _average(averages, {k: float(v.detach()) for k, v in terms.items()})
            if not math.isfinite(averages["loss"]):
                way_out = f"lower --fit.learning-rate (now {config.learning_rate}), in another --out"
                raise InputError(f"{name}: the loss is not finite at step {step}: {way_out}")
            update(step, {"loss": averages["loss"], **({f"best_{plan.monitor}": stopping.best} if stopping.best is not None else {})})
            if step % every == 0 or step == total:
                _validate(run, network, module, plan, ema, stopping, step, averages)
            if step % every == 0 or step == total or step % config.checkpoint_every == 0:
                _save(run, network, optimizers, ema, stopping, step, averages)
    best, _ = checkpoint.load(run.folder / "best.safetensors")
    network.load_state_dict(best)
    network.eval()
    return {"steps": step, "best_step": stopping.best_step, plan.monitor: stopping.best, "stopped_early": step < total}


def batch_indices(items: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The items of the batch of `step`: every epoch visits each item once, in an order of its own."""
    places = [divmod(position, items) for position in range(step * batch_size, (step + 1) * batch_size)]
    return [epoch_order(items, seed, epoch)[place] for epoch, place in places]


def _optimizers(network: nn.Module, config: FitConfig) -> list[torch.optim.Optimizer]:
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, betas=(0.9, 0.99))]
    inner, rest = split_parameters(network)
    return [torch.optim.AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.99)), Muon(inner, lr=rate, weight_decay=decay)]


def _set_rate(optimizers: list[Any], config: FitConfig, step: int, total: int) -> None:
    factor = 1.0
    if config.schedule == "one-cycle":
        warm = max(1, min(total // 20, 500))
        factor = min(1.0, (step + 1) / warm) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor


def _average(old: dict[str, float], new: dict[str, float]) -> dict[str, float]:
    return {k: 0.95 * old.get(k, v) + 0.05 * v for k, v in new.items()}


def _validate(
    run: Run, network: nn.Module, module: nn.Module, plan: Plan, ema: EMA | None,
    stopping: Stopping, step: int, averages: dict[str, float],
) -> None:  # fmt: skip
    """Judge the weights (the averaged ones where there are any); keep them where they are the best so far."""
    raw = {k: v.detach().clone() for k, v in network.state_dict().items()}
    if ema:
        network.load_state_dict(ema.shadow)
    module.eval()
    with torch.no_grad():
        values = plan.validate(module)
    better = stopping.update(values[plan.monitor], step)
    run.log(step=step, **{f"train_{k}": v for k, v in averages.items()}, **{f"validation_{k}": v for k, v in values.items()})
    if better or not (run.folder / "best.safetensors").exists():
        checkpoint.save(run.folder / "best.safetensors", network.state_dict(), {"step": step})
    network.load_state_dict(raw)


def _save(
    run: Run, network: nn.Module, optimizers: list[Any], ema: EMA | None, stopping: Stopping, step: int, averages: dict[str, float]
) -> None:
    tensors = checkpoint.prefixed("network", network.state_dict())
    for i, optimizer in enumerate(optimizers):
        tensors |= checkpoint.prefixed(f"optimizer{i}", checkpoint.optimizer_tensors(optimizer))
    if ema:
        tensors |= checkpoint.prefixed("ema", ema.shadow)
    facts = {"step": step, "best": stopping.best, "best_step": stopping.best_step, "waited": stopping.waited, "averages": averages}
    checkpoint.save(run.folder / "last.safetensors", tensors, facts)
    run.save_time()


def _resume(run: Run, network: nn.Module, optimizers: list[Any], ema: EMA | None, stopping: Stopping) -> tuple[int, dict[str, float]]:
    """Restore everything from the last checkpoint; returns the step to go on from (0 where there is none) and the running averages."""
    path = run.folder / "last.safetensors"
    if not path.exists():
        run.rewind(0)
        (run.folder / "best.safetensors").unlink(missing_ok=True)
        return 0, {}
    tensors, facts = checkpoint.load(path)
    network.load_state_dict(checkpoint.subset("network", tensors))
    for i, optimizer in enumerate(optimizers):
        checkpoint.restore_optimizer(optimizer, checkpoint.subset(f"optimizer{i}", tensors))
    if ema:
        ema.load(checkpoint.subset("ema", tensors))
    stopping.best, stopping.best_step, stopping.waited = facts["best"], facts["best_step"], facts["waited"]
    run.rewind(facts["step"])
    progress.report(f"{run.folder}: resumed at step {facts['step']}")
    return int(facts["step"]), dict(facts["averages"])
