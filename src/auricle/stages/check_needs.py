"""Disk and memory that preparing a cohort and training a recipe on it take."""

import math
from collections.abc import Sequence
from typing import Any

from auricle.stages.check_case import Record
from auricle.stages.cohort import CohortConfig
from auricle.stages.needs import PAIR_BYTES
from auricle.stages.plan import plan
from auricle.training.cost import resident_bytes

PREPARE_BYTES = 8
"""A voxel of the scan while its case is brought to the model grid, int16 HU and uint8 labels (measured: 6.7)."""


def needs(steps: Sequence[tuple[str, Any]], records: Sequence[Record]) -> dict[str, Any]:
    """What the recipe's cohort and its hungriest stage take, in GiB.

    Args:
        steps: name and configuration of each stage, the cohort first.
        records: the cases that were checked.

    Raises `InputError` or `ValueError` for a cohort that cannot be opened or split.
    """
    cohort = steps[0][1]
    assert isinstance(cohort, CohortConfig)
    labeled = sum(r["label"] is not None for r in records)
    largest = max((math.prod(r["shape"]) for r in records if r["shape"] is not None), default=0)
    hungriest = max(plan(steps, None, None), key=lambda e: e.needs_gib)
    return {
        "prepared_gib": _gib(labeled * PAIR_BYTES * math.prod(cohort.wide.size)),
        "prepare_gib_per_worker": _gib(resident_bytes() + PREPARE_BYTES * largest),
        "train_gib": round(hungriest.needs_gib, 2), "train_stage": hungriest.stage,
    }  # fmt: skip


def _gib(size: float) -> float:
    return round(size / 2**30, 2)
