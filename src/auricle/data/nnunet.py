"""The layout of an nnU-Net raw data set (nnU-Net v2, documentation/dataset_format.md)."""

import re
from pathlib import Path
from typing import Any

from auricle.core.anatomy import STRUCTURES
from auricle.core.errors import InputError


def dataset_name(dataset_id: int, name: str) -> str:
    """``DatasetXXX_Name``; raises `InputError` for a number or name that nnU-Net does not take."""
    if not 1 <= dataset_id <= 999:
        raise InputError(f"--dataset-id must lie in 1..999, is {dataset_id}")
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise InputError(f"--name {name!r}: nnU-Net takes letters, digits and underscores")
    return f"Dataset{dataset_id:03d}_{name}"


def dataset_folder(root: Path, dataset_id: int, name: str) -> Path:
    """``root/DatasetXXX_Name``; raises `InputError` for a number or name that nnU-Net does not take, or a number that `root` has already."""
    folder = root / dataset_name(dataset_id, name)
    others = [p.name for p in root.glob(f"Dataset{dataset_id:03d}_*") if p != folder] if root.is_dir() else []
    if others:
        raise InputError(f"--dataset-id {dataset_id}: {root} holds {others[0]} already, and nnU-Net finds data sets by their number")
    return folder


def dataset_json(name: str, count: int, description: str) -> dict[str, Any]:
    """``dataset.json`` of `count` training cases of one CT channel with all structures."""
    return {
        "name": name, "description": description, "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{s.key: s.id for s in STRUCTURES}}, "numTraining": count, "file_ending": ".nii.gz",
    }  # fmt: skip
