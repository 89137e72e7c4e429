"""From a scan to probabilities on the model's grid, in memory that does not grow with the field of view.

A wide scan is first looked at in windows that hardly overlap, of which the label map alone is kept; where the heart lies is then known, and
probabilities are made around it only. A second look sees the heart the way training did, centered.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core import progress
from auricle.core.anatomy import BACKGROUND, LABEL_COUNT, STRUCTURES
from auricle.core.case import Case
from auricle.data.preprocess import AIR_HU, ModelGrid, heart_center, to_grid, to_network
from auricle.data.resample import within
from auricle.stages import finetune
from auricle.stages.finetune import Trained, triple
from auricle.stages.hearts import clean

MARGIN_MM = 16.0
"""Around what the first look found, so that nothing near it is missed."""
NEAR = 1.75
"""Edge of what a heart and its vessels take, in model grids. A scan is searched first where this saves views."""
COARSE = 2.0
"""Voxel size of the first look of the fast mode, in the model's voxels."""
LOOKS, STILL_MM = 3, 10.0
"""The fast mode looks at the heart until its center moves by less than this, so often at most: a coarse first look misses by up to 45 mm."""

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Prediction:
    """What the network says about a part of a scan, on the model's grid."""

    probabilities: NDArray[np.float32]
    """(9, X, Y, Z)."""
    affine: NDArray[np.float64]
    """Voxel index to RAS mm."""
    label: NDArray[np.uint8]
    """The most probable labels, cleaned, (X, Y, Z)."""


def predict(model: Trained, case: Case, *, mirror: bool = False, fast: bool = False) -> Prediction | None:
    """Probabilities and labels around the heart; None where not a voxel of myocardium or chambers is seen.

    `fast` looks at the whole scan with coarse voxels and at the model's spacing at the heart alone, without overlapping views; where one view
    holds the scan, it takes one look.
    """
    spacing = model.grid.spacing
    region = _covering(case.image.shape, case.affine, spacing, model.grid.size)
    rough: Rough | None = None
    views = _views(region.size, model.window, 2)
    if fast and views > 1:
        rough = _first_look(model, case, _covering(case.image.shape, case.affine, _times(spacing, COARSE), model.grid.size))
        rough = rough if rough.label.any() else _first_look(model, case, region)
    elif not fast and views > _views(region.size, model.window, 1) + _views(triple(NEAR * np.array(model.grid.size)), model.window, 2):
        rough = _first_look(model, case, region)
    if rough is not None:
        if not rough.label.any():
            return None
        region = _around(region, rough, model.grid.size)
    if rough is not None and fast:
        probabilities = rough.probabilities(region)
    else:
        probabilities = _slide(model, to_grid(case.image, case.affine, region.affine, region.size, outside=AIR_HU), mirror)
    label = clean(winners(probabilities), spacing)
    before = np.full(3, np.inf)
    for _ in range(0 if fast and views == 1 else LOOKS if fast else 1):
        center = heart_center(label, region.affine)
        if center is None:
            return None
        if np.linalg.norm(center - before) < STILL_MM:
            break
        _look_again(model, case, center, probabilities, region, mirror)
        label, before = clean(winners(probabilities), spacing), center
    return Prediction(probabilities, region.affine, label) if label.any() else None


def continued(seen: Prediction, shape: Triple, affine: NDArray[np.float64]) -> Prediction:
    """What was seen, going on for two voxels beyond the faces of the scan (`shape`, `affine`), in place of the air that the network saw there.

    Voxels of the model do not end where the scan does: interpolated with that air, the scan's last slices would lose their labels, and nobody
    would know that the field of view cuts a structure. Changes the probabilities in place.
    """
    inside = within(np.linalg.inv(affine) @ seen.affine, shape, seen.label.shape)
    # A scan thinner than a voxel of the model may hold none of their centers.
    if inside.all() or not inside.any():
        return seen
    ring = ndimage.binary_dilation(inside, iterations=2) & ~inside
    box = ndimage.find_objects(ndimage.binary_dilation(ring, iterations=2).astype(np.uint8))[0]
    nearest = ndimage.distance_transform_edt(~inside[box], return_distances=False, return_indices=True)
    part, source = ring[box], tuple(axis[ring[box]] for axis in nearest)
    for channel in seen.probabilities:
        view = channel[box]
        view[part] = view[source]
    label = seen.label.copy()
    label[box][part] = label[box][source]
    return replace(seen, label=label)


@dataclass(frozen=True)
class Region:
    """A part of space on the model's grid."""

    affine: NDArray[np.float64]
    size: Triple

    def part(self, start: Any, size: Triple) -> "Region":
        """`size` voxels from the index `start` on, which may lie outside."""
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ np.append(np.asarray(start, float), 1.0))[:3]
        return Region(affine, size)


def _covering(shape: tuple[int, ...], affine: NDArray[np.float64], spacing: tuple[float, float, float], least: Triple) -> Region:
    """The whole scan at the model's spacing, axis-aligned RAS+, at least one window large."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape])).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    low, high = world.min(1), world.max(1)
    # Less than a thousandth of a voxel is rounding, which must not move the grid by half a voxel.
    size = triple(np.maximum(np.ceil((high - low) / np.array(spacing) - 1e-3).astype(int), least))
    return Region(ModelGrid(size, spacing).affine((low + high) / 2), size)


@dataclass(frozen=True)
class Rough:
    """What the first look at a whole scan keeps: two bytes a voxel."""

    region: Region
    label: NDArray[np.uint8]
    """Cleaned, (X, Y, Z)."""
    sure: NDArray[np.uint8]
    """Probability of the most probable label, times 255."""

    def probabilities(self, region: Region) -> NDArray[np.float32]:
        """(9, X, Y, Z) on another grid, from the nearest voxel: the label's own, and the rest given to the background."""
        step = np.linalg.inv(self.region.affine) @ region.affine
        nearest = [np.rint(step[k, k] * np.arange(n) + step[k, 3]).astype(int).clip(0, m - 1)
                   for k, (n, m) in enumerate(zip(region.size, self.region.size, strict=True))]  # fmt: skip
        label, sure = self.label[np.ix_(*nearest)], self.sure[np.ix_(*nearest)]
        result = np.zeros((LABEL_COUNT, *region.size), np.float32)
        for s in STRUCTURES:
            np.multiply(label == s.id, sure / np.float32(255), out=result[s.id])
        result[BACKGROUND] = 1 - result[1:].sum(0)
        return result


def _around(whole: Region, rough: Rough, least: Triple) -> Region:
    """What the first look found, with a margin, inside the scan, at least one window large; on the grid of `whole`."""
    box = ndimage.find_objects((rough.label > 0).astype(np.uint8))[0]
    ends = np.array([[s.start - 0.5 for s in box], [s.stop - 0.5 for s in box]])
    step = np.linalg.inv(whole.affine) @ rough.region.affine
    low, high = ends * np.diag(step)[:3] + step[:3, 3] + 0.5
    margin = np.ceil(MARGIN_MM / np.diag(whole.affine)[:3])
    low = np.maximum(np.floor(low - margin), 0).astype(int)
    high = np.minimum(np.ceil(high + margin), whole.size).astype(int)
    size = np.maximum(high - low, least)
    return whole.part(np.clip((low + high - size) // 2, 0, np.array(whole.size) - size), triple(size))


def _times(spacing: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    x, y, z = spacing
    return x * factor, y * factor, z * factor


def _views(size: Triple, window: Triple, overlaps: int) -> int:
    """Views that cover a volume, each voxel seen `overlaps` times along an axis."""
    return math.prod(max(1, math.ceil(overlaps * (n - w) / w) + 1) for n, w in zip(size, window, strict=True))


def _averaged(case: Case, spacing: float) -> Case:
    """The case with as many voxels averaged along each axis as make `spacing` mm or less: saves the first look the filtering of a fine scan."""
    a, b, c = (max(1, int(spacing / s + 1e-6)) for s in case.spacing)
    x, y, z = (n // k for n, k in zip(case.image.shape, (a, b, c), strict=True))
    if max(a, b, c) == 1 or min(x, y, z) < 2:
        return case
    image = np.empty((x, y, z), np.float32)
    for i in range(x):
        image[i] = case.image[i * a : (i + 1) * a, : y * b, : z * c].reshape(a, y, b, z, c).mean((0, 2, 4), dtype=np.float32)
    affine = case.affine.copy()
    affine[:3, :3] *= (a, b, c)
    affine[:3, 3] = (case.affine @ [(a - 1) / 2, (b - 1) / 2, (c - 1) / 2, 1.0])[:3]
    return Case(case.id, image, affine)


def _first_look(model: Trained, case: Case, whole: Region) -> Rough:
    """The whole scan from views side by side."""
    case = _averaged(case, float(np.diag(whole.affine)[:3].min()))
    label, sure = np.zeros(whole.size, np.uint8), np.zeros(whole.size, np.uint8)
    starts = []
    for n, w in zip(whole.size, model.window, strict=True):
        starts.append(np.rint(np.linspace(0, n - w, math.ceil(n / w))).astype(int).tolist() if n > w else [0])
    places = list(itertools.product(*starts))
    for start in progress.track(places, "find the heart", len(places)):
        seen = _look(model, case, whole.part(start, model.window), False)
        box = tuple(slice(a, a + n) for a, n in zip(start, model.window, strict=True))
        label[box], sure[box] = winners(seen), np.rint(seen.max(0) * 255)
    x, y, z = np.diag(whole.affine)[:3].tolist()
    return Rough(whole, clean(label, (x, y, z)), sure)


def _start(whole: Region, center: NDArray[np.float64], size: Triple) -> NDArray[np.int64]:
    """Index where a part of that size begins whose middle is `center` (RAS mm)."""
    middle = (np.linalg.inv(whole.affine) @ np.append(center, 1.0))[:3]
    start: NDArray[np.int64] = np.rint(middle - (np.array(size) - 1) / 2).astype(np.int64)
    return start


def _look(model: Trained, case: Case, view: Region, mirror: bool) -> NDArray[np.float32]:
    """Probabilities (9, X, Y, Z) of a part of the scan, resampled for it."""
    image = to_grid(case.image, case.affine, view.affine, view.size, outside=AIR_HU)
    found = finetune.probabilities(model.network, torch.from_numpy(to_network(image))[None, None], model.window, mirror)
    return np.asarray(found[0].numpy())


def _slide(model: Trained, volume: NDArray[np.float32], mirror: bool) -> NDArray[np.float32]:
    """Probabilities (9, X, Y, Z) of the whole volume."""
    views = _views(triple(volume.shape), model.window, 2)
    done = [0]
    with progress.bar("segment", views + 1) as update:

        def seen() -> None:
            done[0] += 1
            update(min(done[0], views), {})

        image = torch.from_numpy(to_network(volume))[None, None]
        result: NDArray[np.float32] = finetune.probabilities(model.network, image, model.window, mirror, seen)[0].numpy()
        update(views + 1, {})
    return result


def _look_again(
    model: Trained, case: Case, center: NDArray[np.float64], probabilities: NDArray[np.float32], whole: Region, mirror: bool
) -> None:
    """Replace the probabilities on the model grid centered on the heart, in place."""
    offset = _start(whole, center, model.grid.size)
    _blend(probabilities, _look(model, case, whole.part(offset, model.grid.size), mirror), offset)


def _blend(probabilities: NDArray[np.float32], second: NDArray[np.float32], offset: NDArray[np.int64]) -> None:
    """Put what a second look saw, from the index `offset` on, into what the first one did, in place; its outer eighth fades."""
    size = second.shape[1:]
    ramps = [np.clip((np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / (n / 8), 0, 1).astype(np.float32) for n in size]
    weight = ramps[0][:, None, None] * ramps[1][None, :, None] * ramps[2][None, None, :]
    here, there = _overlap(offset, size, probabilities.shape[1:])
    first, w = probabilities[(slice(None), *here)], weight[there]
    first += w * (second[(slice(None), *there)] - first)


def _overlap(offset: NDArray[np.int64], size: tuple[int, ...], total: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a window from `offset` on lies inside a volume, as indices of the volume and of the window."""
    here = tuple(slice(max(o, 0), min(o + n, t)) for o, n, t in zip(offset.tolist(), size, total, strict=True))
    return here, tuple(slice(h.start - o, h.stop - o) for h, o in zip(here, offset.tolist(), strict=True))


def model_volume(
    image: NDArray[Any], scan_affine: NDArray[np.float64], grid: ModelGrid
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:  # fmt: skip
    """The whole scan (HU) at the model's spacing, axis-aligned RAS+, at least one window large; with its affine."""
    region = _covering(image.shape, scan_affine, grid.spacing, grid.size)
    return to_grid(image, scan_affine, region.affine, region.size, outside=AIR_HU), region.affine


def look_twice(
    slide: Callable[[NDArray[np.float32]], NDArray[np.float32]], volume: NDArray[np.float32], grid: ModelGrid, outside: float = AIR_HU
) -> NDArray[np.float32]:
    """Probabilities (9, X, Y, Z) of what `model_volume` made, by a first pass over all of it and a second one over the heart alone.

    For whoever runs the network elsewhere: `slide` gives the probabilities of any volume that is at least one window large; `outside` is the
    value of air in its units.
    """
    probabilities = slide(volume)
    center = heart_center(clean(winners(probabilities), grid.spacing), np.eye(4))
    if center is None:
        return probabilities
    offset = _start(Region(np.eye(4), triple(volume.shape)), center, grid.size)
    here, there = _overlap(offset, grid.size, volume.shape)
    window = np.full(grid.size, outside, np.float32)
    window[there] = volume[here]
    _blend(probabilities, slide(window), offset)
    return probabilities


def winners(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The most probable label of every voxel, (X, Y, Z); made slice by slice, since NumPy's indices take eight bytes each."""
    label = np.empty(probabilities.shape[1:], np.uint8)
    for x in range(len(label)):
        label[x] = probabilities[:, x].argmax(0)
    return label
