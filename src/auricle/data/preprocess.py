"""From a scan's own grid to the model's grid and back; the one place where HU are scaled."""

import math
from dataclasses import dataclass, replace
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import HEART, ID, LABEL_COUNT
from auricle.core.case import Case
from auricle.data.resample import Channel, reach, sample, slabs, vote, whole

nib: Any = nibabel
"""nibabel has no type annotations."""

AIR_HU = -1024
"""HU of what lies outside the field of view."""
CLIP_HU = 1000.0
"""Half the HU range that a network sees."""

@dataclass(frozen=True)
class ModelGrid:
    """The grid a network works on."""

    size: tuple[int, int, int]
    """Voxels along x, y, z."""
    spacing: tuple[float, float, float]
    """Voxel size in mm along x, y, z."""

    def affine(self, center: NDArray[np.float64]) -> NDArray[np.float64]:
        """Affine (4, 4) of the axis-aligned RAS+ grid whose middle lies at `center` (RAS mm)."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = np.asarray(center, float) - (np.array(self.size) - 1) / 2 * np.array(self.spacing)
        return affine


def to_network(hu: NDArray[Any]) -> NDArray[np.float32]:
    """HU to network range: clipped to -1000..1000 HU, divided by 1000."""
    scaled: NDArray[np.float32] = np.clip(hu, -CLIP_HU, CLIP_HU).astype(np.float32) / np.float32(CLIP_HU)
    return scaled


def to_hu(x: NDArray[Any]) -> NDArray[np.float32]:
    """Network range -1..1 to HU: the inverse of `to_network` on -1000..1000 HU."""
    hu: NDArray[np.float32] = np.asarray(x, np.float32) * np.float32(CLIP_HU)
    return hu


def orient(case: Case) -> Case:
    """The case with its axes permuted and flipped to the closest RAS+ order; no voxel changes its value or place."""
    axes = nib.orientations.io_orientation(case.affine)
    affine = case.affine @ nib.orientations.inv_ornt_aff(axes, case.image.shape)

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(nib.orientations.apply_orientation(array, axes))

    return replace(case, image=turn(case.image), affine=affine, label=None if case.label is None else turn(case.label))


def window(case: Case, center: NDArray[np.float64], grid: ModelGrid) -> Case:
    """Resample the case to the model grid around `center` (RAS mm), axis-aligned in RAS+.

    Outside the source the image (float32) is -1024 HU and the label background.
    """
    affine = grid.affine(center)
    image = to_grid(case.image, case.affine, affine, grid.size, outside=AIR_HU)
    label = None if case.label is None else label_to_grid(case.label, case.affine, affine, grid.size)
    return replace(case, image=image, affine=affine, label=label)


def heart_extent(label: NDArray[np.uint8]) -> list[tuple[int, int]] | None:
    """First and last voxel of myocardium and chambers along each axis of a label map [x, y, z]; None where it has none of them.

    The great vessels and the appendage are left out: how much of them is in view varies from scan to scan.
    """
    wanted = np.zeros(256, bool)
    wanted[[ID[key] for key in HEART]] = True
    found = wanted[label]
    extent = []
    for axis in range(3):
        hit = np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            return None
        extent.append((int(hit[0]), int(hit[-1])))
    return extent


def heart_center(label: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Center (RAS mm) of the box of `heart_extent`; None where there is none."""
    extent = heart_extent(label)
    if extent is None:
        return None
    center: NDArray[np.float64] = (affine @ np.array([*((low + high) / 2 for low, high in extent), 1.0]))[:3]
    return center


def to_grid(
    image: NDArray[Any],
    affine: NDArray[np.float64],
    grid_affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    *,
    outside: float = AIR_HU,
) -> NDArray[np.float32]:
    """Resample a volume linearly to another grid.

    Where the target is coarser, the source is first smoothed along each of its axes by a Gaussian of
    sd = sqrt(r^2 - 1) / 2.355 source voxels, r = target / source spacing: this matches the point spread of a
    Gaussian voxel as wide (FWHM) as the target's spacing (Cardoso et al. 2015, scale factor PSF matching).

    Args:
        image: [x, y, z].
        affine: voxel index of `image` to RAS mm.
        grid_affine: voxel index of the result to RAS mm.
        shape: shape of the result.
        outside: value beyond the source, that is beyond the outer faces of its outermost voxels.

    Returns:
        float32 array of `shape`.
    """
    out = np.full(shape, outside, np.float32)
    step = np.linalg.inv(affine) @ grid_affine
    for box in slabs(step, reach(step, image.shape, shape)):
        out[box] = sample(image.__getitem__, step, box, outside, image.shape)
    return out


def label_to_grid(
    label: NDArray[np.uint8], affine: NDArray[np.float64], grid_affine: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Resample a label map: each label's mask linearly (smoothed as in `to_grid`), then the largest wins."""
    boxes = ndimage.find_objects(label, max_label=LABEL_COUNT - 1)
    channels = [Channel(label, k, box) for k, box in enumerate([whole(label.shape), *boxes])]
    return vote(channels, label.shape, np.linalg.inv(affine) @ grid_affine, shape)


def labels_to_source(
    prediction: NDArray[Any],
    affine: NDArray[np.float64],
    source_shape: tuple[int, int, int],
    source_affine: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Bring a prediction back to the scan's own grid.

    Args:
        prediction: label map [x, y, z] (integers), or probabilities [label, x, y, z] that add up to 1.
        affine: voxel index of the prediction to RAS mm.
        source_shape: shape of the scan.
        source_affine: voxel index of the scan to RAS mm.

    Returns:
        Label map of `source_shape`: masks or probabilities interpolated linearly, then the largest wins; background
        outside the prediction. Works slab by slab: beside the result it needs memory for the prediction alone.
    """
    if prediction.ndim == 3:
        return label_to_grid(prediction.astype(np.uint8, copy=False), affine, source_affine, source_shape)
    assert prediction.ndim == 4
    shape = prediction.shape[1:]
    channels = [Channel(prediction, 0, whole(shape))]
    for k in range(1, len(prediction)):
        # The largest of n numbers that add up to 1 is at least 1/n, so elsewhere this label cannot win.
        found = ndimage.find_objects((prediction[k] >= 0.5 / len(prediction)).astype(np.uint8))
        channels.append(Channel(prediction, k, found[0] if found else None))
    return vote(channels, shape, np.linalg.inv(affine) @ source_affine, source_shape)


def right_angled(affine: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """The grid with axes at right angles that covers a sheared one: same first axis, same voxel volume.

    Returns:
        Its affine and shape. For a CT with tilted gantry the slices stay parallel to the scanned ones.
    """
    q, r = np.linalg.qr(affine[:3, :3])
    axes = q * np.diag(r)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    spread = np.linalg.solve(axes, affine[:3, :3] @ corners)
    low, high = spread.min(axis=1), spread.max(axis=1)
    grid = np.eye(4)
    grid[:3, :3] = axes
    grid[:3, 3] = affine[:3, 3] + axes @ low
    x, y, z = (math.ceil(v - 1e-3) + 1 for v in high - low)
    return grid, (x, y, z)


def upright(image: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A sheared image (HU) and its affine on the right-angled grid that covers it; int16 stays int16."""
    grid, shape = right_angled(affine, image.shape)
    out = to_grid(image, affine, grid, shape, outside=AIR_HU)
    return (np.rint(out).astype(np.int16) if image.dtype == np.int16 else out), grid
