"""Small faults of a generated label map that have one obvious remedy."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import BACKGROUND, STRUCTURES

Labels = NDArray[np.uint8]
STRAY_ML = 1.0
"""A piece of a structure below this volume, beside its largest piece, is stray; so is background that one structure encloses."""
BROAD_MM2 = 400.0
"""Contact in excess of what is allowed, up to which the wall between is taken to be lost for its thinness: 2 x 2 cm."""
LOOSE_SHARE = 0.15
"""A piece of a vessel below this share of it, within the field of view and apart from the rest, is a branch whose stem was lost."""
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


def prune(label: Labels, vessels: Sequence[int]) -> Labels:
    """Take the label off branches that are cut off from their vessel.

    These are pieces (26-neighborhood) of less than `LOOSE_SHARE` of the structure, beside its largest piece, that do not reach the array's border,
    beyond which they could be joined.

    Args:
        label: label map [x, y, z].
        vessels: label values to look at.

    Returns:
        A repaired map of the same shape, background where such pieces were; `label` is left as it is.
    """
    mended = label.copy()
    for value in vessels:
        pieces, count = ndimage.label(label == value, np.ones((3, 3, 3)))
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        outside = np.unique(pieces[np.pad(np.zeros([n - 2 for n in label.shape], bool), 1, constant_values=True)])
        loose = [i for i in range(1, count + 1) if sizes[i - 1] < LOOSE_SHARE * sizes.sum() and i != sizes.argmax() + 1 and i not in outside]
        mended[np.isin(pieces, loose)] = BACKGROUND
    return mended


def part(label: Labels, spacing: tuple[float, float, float], most_mm2: Mapping[tuple[int, int], tuple[float, int]]) -> Labels:
    """Put back walls that are thinner than a voxel: pairs of structures that touch over too large an area are parted by one voxel.

    The rim of the contact goes first and only as much of it as must, on the side of the larger structure. A contact that is too large by more
    than `BROAD_MM2` stays: it is for the gate to judge.

    Args:
        label: label map [x, y, z].
        spacing: voxel size in mm.
        most_mm2: for a pair of label values, the contact it may have and the label value of the wall between.

    Returns:
        A repaired map of the same shape; `label` is left as it is.
    """
    mended = label.copy()
    for (a, b), (most, wall) in most_mm2.items():
        own, other = (a, b) if (mended == a).sum() >= (mended == b).sum() else (b, a)
        area = _contact(mended, spacing, own, other)
        excess = area.sum() - most
        if not 0 < excess <= BROAD_MM2:
            continue
        where = np.argwhere(area > 0)
        share = area[tuple(where.T)]
        at = where * np.asarray(spacing)
        order = np.argsort(-np.linalg.norm(at - np.average(at, axis=0, weights=share), axis=1), kind="stable")
        taken = order[: int(np.searchsorted(share[order].cumsum(), excess)) + 1]
        mended[tuple(where[taken].T)] = wall
    return mended


def _contact(label: Labels, spacing: tuple[float, float, float], own: int, other: int) -> NDArray[np.float64]:
    """Area in mm^2 of the faces that each voxel of `own` shares with `other`."""
    area = np.zeros(label.shape)
    for axis, here, there in _neighbors():
        face = float(np.prod(spacing)) / spacing[axis]
        area[here] += face * ((label[here] == own) & (label[there] == other))
    return area


def _neighbors() -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """Axis, and views of an array and of itself one voxel further along it, for all six directions."""
    for axis in range(3):
        low, high = ([slice(None)] * 3 for _ in range(2))
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        yield axis, tuple(low), tuple(high)
        yield axis, tuple(high), tuple(low)


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
