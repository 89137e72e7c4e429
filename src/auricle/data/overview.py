"""A small RAS+ overview of a case: every n-th voxel, about two millimeters apart, for checks and pictures that need no more."""

from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import LABEL_COUNT, STRUCTURES
from auricle.core.arrays import count_values
from auricle.core.case import Case
from auricle.data.preprocess import orient

nib: Any = nibabel
"""nibabel has no type annotations."""

STEP_MM = 2.0
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def axis_code(affine: NDArray[np.float64]) -> str:
    """The sides toward which the array's axes run, such as ``LPS``."""
    return "".join(nib.orientations.aff2axcodes(affine))


def oblique_degrees(affine: NDArray[np.float64]) -> float:
    """Largest angle between an axis of the grid and the nearest axis of the body."""
    axes = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(axes.max(axis=0), -1.0, 1.0))).max())


def overview(case: Case, step_mm: float = STEP_MM) -> Case:
    """The case on a grid of about `step_mm`, axes turned to RAS+.

    The label map's outermost layers are those of the scan, so that what reaches the border reaches it here, too.
    """
    steps = [max(1, round(step_mm / s)) for s in case.spacing]
    starts = [(n - 1) % k // 2 for n, k in zip(case.image.shape, steps, strict=True)]
    take = tuple(slice(o, None, k) for o, k in zip(starts, steps, strict=True))
    affine = case.affine @ np.diag([*steps, 1.0])
    affine[:3, 3] = (case.affine @ [*starts, 1.0])[:3]
    label = None
    if case.label is not None:
        label = case.label[take].copy()
        for axis in range(3):
            rest = tuple(t for a, t in enumerate(take) if a != axis)
            inner, outer = np.moveaxis(label, axis, 0), np.moveaxis(case.label, axis, 0)
            for end in (0, -1):
                inner[end] = outer[end][rest]
    return orient(Case(case.id, case.image[take], affine, label))


def around_labels(case: Case, margin: int = 2) -> NDArray[np.uint8]:
    """The part of the label map that holds all labels and `margin` voxels around them; all of it where there are none."""
    assert case.label is not None
    box = []
    for axis in range(3):
        hit = np.flatnonzero(case.label.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(0, hit[0] - margin), hit[-1] + margin + 1) if hit.size else slice(None))
    return case.label[tuple(box)]


def sides_reached(case: Case) -> dict[str, str]:
    """The sides of the scan (``R``, ``L``, ``A``, ``P``, ``S``, ``I``) that each structure reaches, by key; absent where it reaches none."""
    assert case.label is not None
    found: dict[str, str] = {}
    for axis, side in enumerate(axis_code(case.affine)):
        layers = np.moveaxis(case.label, axis, 0)
        for layer, letter in ((layers[0], OPPOSITE[side]), (layers[-1], side)):
            counts = count_values(layer, LABEL_COUNT)
            for s in STRUCTURES:
                if counts[s.id]:
                    found[s.key] = found.get(s.key, "") + letter
    return found
