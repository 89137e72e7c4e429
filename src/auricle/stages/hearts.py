"""What counts as a heart in a predicted label map."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import HEART, ID, LABEL_COUNT, STRUCTURES

LEAST_HEART_ML = 60.0
"""Less myocardium and chambers than this is not taken for a heart, not even for one that the field of view cuts."""
LEAST_PARTS, PART_ML = 4, 5.0
"""A heart shows at least four of its five parts with 5 mL each: below the diaphragm, muscle and ventricles are seen where there are none, but
hardly ever an atrium (`python -m benchmarks.no_heart`). A segmenter that has learned fewer parts has to see them all."""
NEAR_MM = 30.0
"""What lies farther than this from the heart is no part of it."""
LEAST_CONFIDENCE = 0.6
"""Mean probability of the labels given to a heart; below it nothing is claimed."""


def clean(label: NDArray[np.uint8], spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Keep the largest piece of every structure, near the largest heart; of the aorta and pulmonary artery all pieces of 1 mL or more."""
    heart = np.isin(label, [ID[k] for k in HEART])
    pieces, count = ndimage.label(ndimage.binary_dilation(heart, iterations=1))
    if count == 0:
        return np.zeros_like(label)
    main = pieces == 1 + int(np.argmax(np.bincount(pieces[heart], minlength=count + 1)[1:]))
    near = _near(main, spacing)
    voxel_ml = float(np.prod(spacing)) / 1000.0
    result = np.zeros_like(label)
    for s in STRUCTURES:
        parts, count = ndimage.label((label == s.id) & (main if s.key in HEART else label == s.id))
        if count == 0:
            continue
        touching = np.zeros(count + 1, bool)
        touching[np.unique(parts[near])] = True
        sizes = np.bincount(parts.ravel())[1:] * touching[1:]
        keep = (sizes == sizes.max()) & (sizes > 0)
        if s.key in ("AO", "PA"):
            keep |= sizes * voxel_ml >= 1.0
        result[np.concatenate([[False], keep])[parts]] = s.id
    return result


def _near(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """What lies within `NEAR_MM` of the mask."""
    near = np.zeros_like(mask)
    margin = [int(NEAR_MM / s) + 2 for s in spacing]
    box = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(ndimage.find_objects(mask.astype(np.uint8))[0], margin, strict=True))
    near[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= NEAR_MM
    return near


def least_parts(structures: Iterable[str]) -> int:
    """How many parts a heart shows to a segmenter that has learned these structures."""
    return min(LEAST_PARTS, sum(k in HEART for k in structures))


def judge(
    label: NDArray[np.uint8], probabilities: NDArray[np.float32], spacing: tuple[float, float, float], parts: int = LEAST_PARTS
) -> tuple[bool, float]:  # fmt: skip
    """Whether this is a heart (volume, at least so many `parts`, confidence), and the confidence."""
    heart = np.isin(label, [ID[k] for k in HEART])
    if not heart.any():
        return False, 0.0
    voxel_ml = float(np.prod(spacing)) / 1000.0
    counts = np.bincount(label.ravel(), minlength=LABEL_COUNT) * voxel_ml
    confidence = float(probabilities.max(0)[heart].mean())
    shown = sum(counts[ID[k]] >= PART_ML for k in HEART)
    return bool(heart.sum() * voxel_ml >= LEAST_HEART_ML and shown >= parts and confidence >= LEAST_CONFIDENCE), confidence
