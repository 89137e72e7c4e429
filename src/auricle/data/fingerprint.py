"""The same scan or label map under any name, file format or axis order has the same fingerprint."""

import hashlib
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from auricle.core.case import Case

nib: Any = nibabel
"""nibabel has no type annotations."""


def content_hash(case: Case) -> str:
    """SHA-256 of the image's shape and voxels (whole HU, in RAS+ order): the same scan under any name or axis order."""
    return _hash(case.image, case.affine, "<i2")


def label_hash(case: Case) -> str:
    """The same of the label map, which must be there."""
    assert case.label is not None
    return _hash(case.label, case.affine, "|u1")


def _hash(array: NDArray[Any], affine: NDArray[np.float64], kind: str) -> str:
    """Slices from inferior to superior, in each the rows from posterior to anterior: the order of most files, so little is moved."""
    turned = nib.orientations.apply_orientation(array, nib.orientations.io_orientation(affine)).transpose(2, 1, 0)
    digest = hashlib.sha256(repr(turned.shape[::-1]).encode())
    for part in turned:
        whole = part if np.issubdtype(part.dtype, np.integer) else np.rint(part)
        digest.update(np.ascontiguousarray(whole, dtype=kind).data)
    return digest.hexdigest()
