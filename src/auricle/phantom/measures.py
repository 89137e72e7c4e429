"""Volumes, places, areas and lengths measured on a label map ``[x, y, z]`` in RAS+, whatever made it.

Places are in mm from the center of the array's first voxel; x grows to the Right, y to Anterior, z to Superior.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from auricle.core.anatomy import BACKGROUND, ID, KEYS, LABEL_COUNT
from auricle.core.errors import InputError

Label = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Spacing = tuple[float, float, float]

VALVES: dict[str, tuple[str, str]] = {
    "mitral": ("LA", "LV"), "aortic": ("LV", "AO"), "tricuspid": ("RA", "RV"), "pulmonary": ("RV", "PA"),
}  # fmt: skip
"""The two structures that each valve joins."""
VALVE_GAP_MM = 6.0
"""Structures that face each other along an axis across at most so much background count as joined by a valve: label maps that
leave the leaflets out show planes of 2 to 4 mm, and one oblique to the axes is up to 1.7 times as long along them."""
COARSE_MM = 4.5
"""Distances between structures are taken between voxels about this far apart."""
WALL_SAMPLES = 3000


@dataclass(frozen=True)
class Seen:
    """One structure of a map."""

    box: tuple[slice, ...]
    mask: Mask
    """Inside `box`."""
    ml: float
    center: Points
    low: Points
    high: Points
    cut: bool
    """It reaches the border of the array: the field of view may cut it."""

    def points(self, spacing: Spacing, coarse_mm: float = 0.0) -> Points:
        """Places of its voxels, or of those of a grid of about `coarse_mm` if it meets any, (n, 3)."""
        steps = [max(1, round(coarse_mm / s)) for s in spacing]
        found = np.argwhere(self.mask[tuple(slice(None, None, n) for n in steps)]) * steps
        found = found if len(found) else np.argwhere(self.mask)
        return np.asarray((found + [s.start for s in self.box]) * np.asarray(spacing))


def as_label(values: NDArray[Any]) -> Label:
    """A label map as uint8; raises `InputError` unless it has three dimensions and whole numbers from 0 to the last id."""
    if values.ndim != 3:
        raise InputError(f"a label map has three dimensions, this array has {values.ndim}")
    whole = values.dtype.kind in "bui" or bool((values == np.rint(values)).all())
    if values.size == 0 or not whole or values.min() < 0 or values.max() >= LABEL_COUNT:
        raise InputError(f"a label map holds whole numbers from 0 to {LABEL_COUNT - 1}; translate other label values first")
    return values.astype(np.uint8, copy=False)


def survey(label: Label, spacing: Spacing) -> dict[str, Seen]:
    """The structures that a map holds, by key."""
    seen = {}
    voxel_ml = float(np.prod(spacing)) / 1000
    boxes = ndimage.find_objects(label, LABEL_COUNT - 1)
    for key in KEYS:
        box = boxes[ID[key] - 1]
        if box is None:
            continue
        mask = label[box] == ID[key]
        count = int(np.count_nonzero(mask))
        start, stop = np.array([s.start for s in box]), np.array([s.stop for s in box])
        sums = [mask.sum(axis=tuple({0, 1, 2} - {k})) @ np.arange(mask.shape[k]) for k in range(3)]
        center = (start + np.array(sums) / count) * np.asarray(spacing)
        cut = bool((start == 0).any() or (stop == label.shape).any())
        seen[key] = Seen(box, mask, count * voxel_ml, center, start * np.asarray(spacing), (stop - 1) * np.asarray(spacing), cut)
    return seen


def _faces(label: Label, axis: int) -> tuple[Label, Label]:
    """The voxels on either side of every face across an axis, which is moved to the front."""
    along = np.moveaxis(label, axis, 0)
    return along[:-1], along[1:]


def contact_areas(label: Label, spacing: Spacing) -> Points:
    """Area in mm^2 of the voxel faces between each two labels, shape (labels, labels), symmetric, diagonal zero."""
    areas = np.zeros((LABEL_COUNT, LABEL_COUNT))
    for axis in range(3):
        a, b = _faces(label, axis)
        differ = a != b
        pairs = a[differ] * np.uint8(LABEL_COUNT) + b[differ]
        count = np.bincount(pairs, minlength=LABEL_COUNT**2).reshape(LABEL_COUNT, LABEL_COUNT)
        areas += (count + count.T) * (np.prod(spacing) / spacing[axis])
    return areas


def _pairs(part: Label, spacing: Spacing, a: int, b: int, gap_mm: float) -> Iterator[tuple[float, Points]]:
    """Area of one face and the middles of the pairs, in voxels, along each axis and for each distance."""
    for axis in range(3):
        along = np.moveaxis(part, axis, 0)
        p, q, empty = along == a, along == b, along == BACKGROUND
        clear = np.ones(along.shape, bool)  # only background between i and i + k
        for k in range(1, min(int(gap_mm / spacing[axis] + 1e-6) + 2, len(along))):
            clear = clear[:-1] & empty[k - 1 : -1] if k > 1 else clear[:-1]
            middle = np.argwhere(clear & ((p[:-k] & q[k:]) | (q[:-k] & p[k:]))).astype(float)
            middle[:, 0] += k / 2
            yield float(np.prod(spacing)) / spacing[axis], np.insert(middle[:, 1:], axis, middle[:, 0], axis=1)


def facing(
    label: Label, spacing: Spacing, a: str, b: str, gap_mm: float = 0.0, seen: Mapping[str, Seen] | None = None
) -> tuple[float, Points]:
    """Area in mm^2 over which two structures face each other along the axes, and the middles between their voxels, (n, 3).

    Only background may lie between them, at most `gap_mm`; with zero, this is the area of their common faces. `seen` is the map's
    survey, if there is one.
    """
    seen = survey(label, spacing) if seen is None else seen
    if a not in seen or b not in seen:
        return 0.0, np.empty((0, 3))
    one, two = seen[a].box, seen[b].box
    margins = [int(gap_mm / s) + 1 for s in spacing]
    low = [max(0, p.start - m, q.start - m) for p, q, m in zip(one, two, margins, strict=True)]
    high = [max(0, min(p.stop, q.stop) + m) for p, q, m in zip(one, two, margins, strict=True)]
    part = label[tuple(slice(i, j) for i, j in zip(low, high, strict=True))]
    found = list(_pairs(part, spacing, ID[a], ID[b], gap_mm))
    if not found:
        return 0.0, np.empty((0, 3))
    area = sum(face * len(points) for face, points in found)
    return area, (np.concatenate([points for _, points in found]) + low) * np.asarray(spacing)


def contact_center(label: Label, spacing: Spacing, a: str, b: str, gap_mm: float = 0.0) -> Points | None:
    """Center of the faces between two structures; None if they do not touch."""
    points = facing(label, spacing, a, b, gap_mm)[1]
    return np.asarray(points.mean(0)) if len(points) else None


def bare_wall(label: Label, spacing: Spacing, ventricle: Seen, rims: Points, far_mm: float) -> tuple[NDArray[np.intp], float]:
    """The left ventricle's surface that neither muscle nor a valve covers, farther than `far_mm` from every valve: voxels, (n, 3), and area in mm^2.

    `rims` are places on the ventricle's two valves, (n, 3).
    """
    allowed = np.zeros(LABEL_COUNT, bool)
    allowed[[ID[k] for k in ("LV", "MYO", "LA", "AO")]] = True
    low = [max(0, s.start - 1) for s in ventricle.box]
    part = label[tuple(slice(i, s.stop + 1) for i, s in zip(low, ventricle.box, strict=True))]
    tree, area, voxels = cKDTree(rims - np.asarray(low) * np.asarray(spacing)), 0.0, []
    for axis in range(3):
        p, q = _faces(part, axis)
        bare = np.argwhere(((p == ID["LV"]) & ~allowed[q]) | ((q == ID["LV"]) & ~allowed[p]))
        if not len(bare):
            continue
        step = np.arange(3) == axis
        before = np.insert(bare[:, 1:], axis, bare[:, 0], axis=1)
        before = before[tree.query((before + 0.5 * step) * np.asarray(spacing))[0] > far_mm]
        area += len(before) * float(np.prod(spacing)) / spacing[axis]
        behind = part[tuple(before.T)] != ID["LV"]
        voxels.append(before + behind[:, None] * step + low)
    return np.unique(np.concatenate(voxels), axis=0) if voxels else np.zeros((0, 3), np.intp), area


def distance_between(a: Points, b: Points) -> float:
    """Least distance in mm between two sets of places."""
    few, many = sorted((a, b), key=len)
    return float(cKDTree(many, balanced_tree=False, compact_nodes=False).query(few)[0].min())


def joined_outside(piece: Points, others: Points, end: Points, break_mm: float) -> bool:
    """Whether a piece of a structure may belong to its other pieces beyond the array's border, which lies between 0 and `end`.

    It must reach the border; where it comes within `break_mm` of the others, it must do so that near to the border.
    """
    if min(piece.min(), (end - piece).min()) > 0:
        return False
    apart, nearest = cKDTree(others).query(piece)
    place = others[nearest[apart.argmin()]]
    return bool(apart.min() > break_mm or min(place.min(), (end - place).min()) < break_mm)


def _beside(mask: Mask, other: Mask) -> Mask:
    """The voxels of a mask that share a face with a voxel of another."""
    near = np.zeros_like(mask)
    for axis in range(3):
        m, o, n = (np.moveaxis(v, axis, 0) for v in (mask, other, near))
        n[:-1] |= m[:-1] & o[1:]
        n[1:] |= m[1:] & o[:-1]
    return near


def wall_distances(label: Label, spacing: Spacing, seen: Mapping[str, Seen] | None = None) -> Points:
    """Distance in mm from voxels of the muscle's outer surface, evenly chosen, to the left ventricle's cavity; may be empty."""
    seen = survey(label, spacing) if seen is None else seen
    both = list(zip(seen["MYO"].box, seen["LV"].box, strict=True))
    part = label[tuple(slice(max(0, min(p.start, q.start) - 1), max(p.stop, q.stop) + 1) for p, q in both)]
    muscle, cavity = part == ID["MYO"], part == ID["LV"]
    outer = np.argwhere(_beside(muscle, ~(muscle | cavity)))
    inner = np.argwhere(_beside(cavity, ~cavity))
    if not len(outer) or not len(inner):
        return np.empty(0)
    outer = outer[:: 1 + len(outer) // WALL_SAMPLES]
    return np.asarray(cKDTree(inner * np.asarray(spacing)).query(outer * np.asarray(spacing))[0])


def farthest(points: Points, origin: Points) -> Points:
    """From `origin` to the place that is farthest from it."""
    away = points - origin
    return np.asarray(away[np.argmax((away**2).sum(1))])
