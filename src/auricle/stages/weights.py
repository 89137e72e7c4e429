"""Finished models in a run folder: ``model.safetensors`` with a ``model.json`` that says what it is and proves it unaltered."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from auricle.core.config import to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import Run, finished
from auricle.training import checkpoint

N = TypeVar("N", bound=nn.Module)


def save_model(run: Run, network: nn.Module, facts: dict[str, Any], extra: dict[str, Tensor] | None = None) -> None:
    """Write the weights and `facts` (network configuration, grid, ..); `extra` tensors travel along, under ``extra.``."""
    tensors = checkpoint.prefixed("network", network.state_dict()) | checkpoint.prefixed("extra", extra or {})
    checkpoint.save(run.folder / "model.safetensors", tensors, {})
    write_json(run.folder / "model.json", {"stage": run.description["stage"], **to_json(facts), "sha256": checkpoint.weights_hash(tensors)})


def pack_model(folder: Path, stage: str, out: Path) -> Path:
    """Take the model out of a finished run, in half precision: ``model.safetensors`` and ``model.json`` in `out`. Returns `out`."""
    facts, state, extra = read_model(folder, stage)
    tensors = checkpoint.prefixed("network", state) | checkpoint.prefixed("extra", extra)
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    checkpoint.save(out / "model.safetensors", half, {})
    write_json(out / "model.json", {**facts, "sha256": checkpoint.weights_hash(half)})
    return out


def read_model(folder: Path, stage: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Facts, weights and extra tensors of the model that `stage` made; raises `InputError` where they were altered.

    `folder` is a finished run, or what was taken out of one: ``model.safetensors`` and ``model.json`` alone.
    """
    alone = (folder / "model.json").exists() and not (folder / "config.json").exists()
    if not alone:
        finished(folder, stage)
    try:
        facts: dict[str, Any] = read_json(folder / "model.json")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no model: {error}") from None
    if alone and facts.get("stage") != stage:
        raise InputError(f"{folder} holds a model of `auricle {facts.get('stage')}`, not of `auricle {stage}`")
    tensors, _ = checkpoint.load(folder / "model.safetensors")
    if checkpoint.weights_hash(tensors) != facts.get("sha256"):
        raise InputError(f"{folder}/model.safetensors is not the file that model.json describes: its hash differs")
    return facts, checkpoint.subset("network", tensors), checkpoint.subset("extra", tensors)


def for_inference(network: N) -> N:
    """The network on the GPU where there is one, frozen, in the memory layout that is fastest there."""
    network.eval().requires_grad_(False)
    network.to("cuda" if torch.cuda.is_available() else "cpu").to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def load_state(network: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Load weights; raises `InputError` where they belong to a network of another shape."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{folder}: weights do not fit the network ({str(error).splitlines()[-1].strip()})") from None
