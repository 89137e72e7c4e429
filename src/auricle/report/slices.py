"""Planes of a volume as a radiologist looks at them.

Volumes are [x, y, z] in RAS+. Pictures are [row, column]: axial with anterior up, coronal and sagittal with superior up;
the patient's right is on the left of axial and coronal pictures, anterior on the left of sagittal ones.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import ID, LABEL_COUNT, STRUCTURES

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
NORMAL: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Array axis across which a plane lies."""
SIDES: dict[Plane, tuple[str, str]] = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}
"""What is on the left and at the top of a picture: patient's right, anterior or superior."""
WINDOW_HU = (-200.0, 600.0)
"""Black and white of the pictures: a window for contrast-enhanced cardiac CT."""


def cut(volume: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """Slice `index` of a volume [x, y, z] as a picture [row, column]."""
    picture: NDArray[Any] = np.take(volume, index, axis=NORMAL[plane])
    return picture.T[::-1, ::-1]


def aspect(spacing: tuple[float, float, float], plane: Plane) -> float:
    """Height of a picture's pixel over its width."""
    column, row = (spacing[a] for a in range(3) if a != NORMAL[plane])
    return row / column


def informative_slice(label: NDArray[np.uint8], plane: Plane) -> int:
    """The slice that shows the left atrial appendage if any does, then the most structures, then the largest heart."""
    axis = NORMAL[plane]
    others = tuple(a for a in range(3) if a != axis)
    area = np.stack([(label == s.id).sum(axis=others) for s in STRUCTURES])
    # A few voxels of a structure do not make it visible.
    seen = area >= 4
    rank = seen[ID["LAA"] - 1] * 1e9 + seen.sum(axis=0) * 1e7 + area.sum(axis=0)
    return int(rank.argmax()) if rank.any() else label.shape[axis] // 2


def colored(labels: NDArray[np.uint8], alpha: float) -> NDArray[np.float64]:
    """RGBA picture (0..1) of a label picture in the structures' colors; background is transparent."""
    table = np.zeros((LABEL_COUNT, 4))
    for s in STRUCTURES:
        table[s.id] = [*(c / 255 for c in s.color), alpha]
    picture: NDArray[np.float64] = table[labels]
    return picture
