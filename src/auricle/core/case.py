"""One patient's image and label map on one voxel grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """A CT volume, optionally with its label map.

    Arrays are indexed ``[x, y, z]``; `affine` maps voxel indices to patient coordinates in RAS+ mm, as in NIfTI.
    """

    id: str
    image: NDArray[Any]
    """Volume in Hounsfield units, shape (X, Y, Z), int16 or float32."""
    affine: NDArray[np.float64]
    """Voxel index to RAS+ mm, shape (4, 4)."""
    label: NDArray[np.uint8] | None = None
    """Label map with the ids of `auricle.core.anatomy`, the image's shape; None where there is none."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What is known about the patient and the scan (sex, contrast, ..), JSON values only."""

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise ValueError(f"case {self.id}: an image has three axes, this one has {self.image.ndim}")
        if self.affine.shape != (4, 4):
            raise ValueError(f"case {self.id}: an affine is 4x4, this one is {self.affine.shape}")
        if self.label is not None and self.label.shape != self.image.shape:
            raise ValueError(f"case {self.id}: image {self.image.shape} and label {self.label.shape} differ in shape")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0
