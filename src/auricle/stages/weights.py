"""Finished models in a run folder: ``model.safetensors`` with a ``model.json`` that says what it is and proves it unaltered."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from auricle.core.anatomy import STRUCTURES
from auricle.core.checksums import SUMS, verify_checksums
from auricle.core.config import differences, to_json
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


def pack_model(folder: Path, stage: str, out: Path, *, half: bool = True) -> Path:
    """Take the model out of a finished run, with `half` in half precision: ``model.safetensors`` and ``model.json`` in `out`. Returns `out`."""
    facts, state, extra = read_model(folder, stage)
    tensors = checkpoint.prefixed("network", state) | checkpoint.prefixed("extra", extra)
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    checkpoint.save(out / "model.safetensors", tensors, {})
    write_json(out / "model.json", {**facts, "sha256": checkpoint.weights_hash(tensors)})
    return out


def label_table() -> list[dict[str, Any]]:
    """What the channels and label values of a segmenter mean, as JSON: id, key, name, RGB color and SNOMED CT code."""
    background = {"id": 0, "key": "background", "name": "background", "color": [0, 0, 0], "snomed": None}
    return [background, *({"id": s.id, "key": s.key, "name": s.name, "color": list(s.color), "snomed": s.snomed} for s in STRUCTURES)]


def read_model(folder: Path, stage: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Facts, weights and extra tensors of the model that `stage` made; raises `InputError` where they were altered.

    `folder` is a finished run, or what was taken out of one: ``model.safetensors`` and ``model.json`` alone, or a bundle of `auricle export`
    with its hashes and label table.
    """
    alone = (folder / "model.json").exists() and not (folder / "config.json").exists()
    if not alone:
        finished(folder, stage)
    elif (folder / SUMS).exists():
        verify_checksums(folder)
    try:
        facts: dict[str, Any] = read_json(folder / "model.json")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no model: {error}") from None
    if not isinstance(facts, dict):
        raise InputError(f"{folder}/model.json does not describe a model: copy the folder again")
    if alone and facts.get("stage") != stage:
        raise InputError(f"{folder} holds a model of `auricle {facts.get('stage')}`, not of `auricle {stage}`")
    if alone and (folder / "labels.json").exists():
        _check_labels(folder / "labels.json")
    tensors, _ = checkpoint.load(folder / "model.safetensors")
    if checkpoint.weights_hash(tensors) != facts.get("sha256"):
        raise InputError(f"{folder}/model.safetensors is not the file that model.json describes: its hash differs")
    return facts, checkpoint.subset("network", tensors), checkpoint.subset("extra", tensors)


def _check_labels(path: Path) -> None:
    """Refuse a model whose labels mean something else than ours, and say what."""
    try:
        theirs, ours = ({str(row["id"]): row["key"] for row in table} for table in (read_json(path), label_table()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is no label table of auricle ({error})") from None
    changes = differences(theirs, ours)
    if changes:
        raise InputError(f"{path}: the model was made with another label table than this auricle has ({'; '.join(changes)})")


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
