"""Small faults of a generated label map that have one obvious remedy."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import STRUCTURES

Labels = NDArray[np.uint8]
STRAY_ML = 1.0
"""A piece of a structure below this volume, beside its largest piece, is stray; so is background that one structure encloses."""
ROUNDS = 8
"""What is mended may enclose or join something new; a few rounds settle it."""


def repair(label: Labels, voxel_ml: float, stray_ml: float = STRAY_ML) -> Labels:
    """Give stray voxels the label of the nearest voxel that is not stray.

    Stray are pieces (26-neighborhood) of a structure below `stray_ml` that are not its largest piece, and pieces (6-neighborhood) of the
    background below `stray_ml` that a single structure encloses: a gap between two structures may be the wall between them. What is larger
    stays: it is for the gate to judge. Structures that are absent stay absent.

    Args:
        label: label map [x, y, z].
        voxel_ml: volume of a voxel in mL.
        stray_ml: volume below which a piece is stray.

    Returns:
        A repaired map of the same shape; `label` is left as it is.
    """
    mended = label.copy()
    for _ in range(ROUNDS):
        stray = _stray(mended, stray_ml / voxel_ml)
        if not stray.any():
            break
        nearest = ndimage.distance_transform_edt(stray, return_distances=False, return_indices=True)
        mended = mended[tuple(nearest)]
    return mended


def _stray(label: Labels, most: float) -> NDArray[np.bool_]:
    """Voxels of stray pieces, which have fewer than `most` voxels."""
    stray = np.zeros(label.shape, bool)
    for s in STRUCTURES:
        pieces, count = ndimage.label(label == s.id, np.ones((3, 3, 3)))
        if count == 0:
            continue
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            small = sizes < most
            small[[0, int(sizes.argmax())]] = False
            stray |= small[pieces]
        holes, count = ndimage.label(np.pad(label != s.id, 1, constant_values=True))
        if count > 1:
            small = np.bincount(holes.ravel()) < most
            small[:2] = False  # the structure itself, and what holds the first corner: the outside
            stray |= small[holes][1:-1, 1:-1, 1:-1] & (label == 0)
    return stray
