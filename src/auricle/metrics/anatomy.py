"""Plausibility of label maps that no reference exists for, and of round trips through the autoencoder."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import KEYS, STRUCTURES

Labels = NDArray[np.uint8]
SPECK_ML = 0.1
"""A component (voxels that share faces) smaller than this that is not the largest of its structure is a speck."""


def volumes_ml(label: Labels, voxel_ml: float) -> dict[str, float]:
    """Volume of every structure in mL."""
    counts = np.bincount(label.ravel(), minlength=len(STRUCTURES) + 1)
    return {s.key: float(counts[s.id] * voxel_ml) for s in STRUCTURES}


def is_complete(label: Labels, voxel_ml: float, structures: Sequence[str] = KEYS, least_ml: float = 0.5) -> bool:
    """Whether all these structures are there, each with at least `least_ml`."""
    volumes = volumes_ml(label, voxel_ml)
    return all(volumes[k] >= least_ml for k in structures)


def speck_share(label: Labels, voxel_ml: float) -> float:
    """Share of the foreground's voxels that lie in specks (components under 0.1 mL that are not the largest of their structure)."""
    specks = 0
    for s in STRUCTURES:
        pieces, count = ndimage.label(label == s.id)
        if count > 1:
            sizes = np.sort(np.bincount(pieces.ravel())[1:])[:-1]
            specks += int(sizes[sizes * voxel_ml < SPECK_ML].sum())
    return specks / max(1, int((label > 0).sum()))


def impossible_boundary_share(decoded: Labels, reference: Labels) -> float:
    """Share of the reference's boundary voxels whose decoded label does not occur in their 26-neighborhood of the reference.

    Boundary voxels are those whose own 26-neighborhood holds more than one label, foreground at least on one side.
    """
    cube = np.ones((3, 3, 3), bool)
    boundary = ndimage.maximum_filter(reference, footprint=cube) != ndimage.minimum_filter(reference, footprint=cube)
    impossible = 0
    for value in np.unique(decoded[boundary]):
        near = ndimage.binary_dilation(reference == value, cube)
        impossible += int((boundary & (decoded == value) & ~near).sum())
    return impossible / max(1, int(boundary.sum()))
