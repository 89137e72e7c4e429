"""Overlap of two label maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import KEYS, LABEL_COUNT, STRUCTURES

Labels = NDArray[np.uint8]


def dice(prediction: Labels, reference: Labels) -> dict[str, float | None]:
    """Dice coefficient of every structure, 2|A and B| / (|A| + |B|) (Dice 1945), in 0..1.

    A structure absent from both maps has no value (None); one that is absent from either alone has 0: a miss or an invention counts.
    """
    joint = np.bincount(
        prediction.ravel().astype(np.int64) * LABEL_COUNT + reference.ravel(), minlength=LABEL_COUNT**2
    ).reshape(LABEL_COUNT, LABEL_COUNT)  # fmt: skip
    values: dict[str, float | None] = {}
    for s in STRUCTURES:
        total = joint[s.id].sum() + joint[:, s.id].sum()
        values[s.key] = float(2 * joint[s.id, s.id] / total) if total else None
    return values


def mean_over_structures(values: Mapping[str, float | None]) -> float | None:
    """Mean over the structures that have a value; None where none has."""
    known = [v for v in values.values() if v is not None]
    return float(np.mean(known)) if known else None


def average(cases: list[Any]) -> dict[str, float | None]:
    """Mean of each structure over cases (dictionaries as `dice` returns them), and ``mean``: the mean over the structures' means."""
    result: dict[str, float | None] = {}
    for key in KEYS:
        known = [c[key] for c in cases if c[key] is not None]
        result[key] = float(np.mean(known)) if known else None
    return {"mean": mean_over_structures(result), **result}
