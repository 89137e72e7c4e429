"""Where a grid lies in space: what every volume format has to be checked for."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError

Shape = tuple[int, int, int]

MAX_AXIS = 4096
MAX_VOXELS = 2**30
LEAST_VOLUME = 0.5
"""Volume that unit vectors along the grid's axes span: 1 at right angles; a gantry tilt of 30 degrees leaves 0.87."""
SHEAR_TOLERANCE = 1e-3
"""Cosine between two axes from which a grid counts as sheared: 0.5 mm over a field of view of 500 mm."""

MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "meters": 1000.0, "microns": 0.001}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def volume_shape(sizes: Sequence[int], path: Path) -> tuple[Shape, int]:
    """Shape of one volume and the number of volumes; `sizes` are the axes, the three of space first."""
    x, y, z = (*sizes, 1, 1, 1)[:3]
    if min(sizes, default=0) < 1:
        raise InputError(f"{path}: the header states impossible dimensions {list(sizes)}")
    if min(x, y, z) < 2:
        raise InputError(f"{path}: is a 2D image ({x} x {y} x {z}); a volume is needed")
    rest = math.prod(sizes[3:])
    if max(x, y, z) > MAX_AXIS or x * y * z > MAX_VOXELS or rest > MAX_AXIS:
        claim = " x ".join(str(v) for v in sizes)
        raise InputError(f"{path}: the header claims {claim} voxels, more than are read (2^30); it is damaged, or crop the scan first")
    if any(v > 1 for v in sizes[4:]):
        raise InputError(f"{path}: has {len(sizes)} dimensions {list(sizes)}; a 3D volume is needed")
    return (x, y, z), rest


def choose_volume(path: Path, count: int, index: int | None) -> tuple[int, list[str]]:
    """Which of `count` volumes to read, and a notice if there are several."""
    if index is None and count > 1:
        way_out = f"choose one with --volume-index 0..{count - 1} (auricle segment), or store it as a file of its own"
        raise InputError(f"{path}: holds {count} volumes (4D); {way_out}")
    if index is not None and not 0 <= index < count:
        raise InputError(f"--volume-index {index}: {path} holds volumes 0..{count - 1}")
    return (index or 0), ([f"{path}: volume {index} of {count} used"] if count > 1 else [])


def check_affine(affine: NDArray[np.float64], path: Path) -> None:
    """Refuse an affine that is not finite or not invertible."""
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the orientation (affine) holds values that are not numbers")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < LEAST_VOLUME:
        raise InputError(f"{path}: the orientation (affine) is singular or close to it: axes of the grid point almost the same way")


def in_mm(affine: NDArray[np.float64], unit: str, path: Path) -> tuple[NDArray[np.float64], list[str]]:
    """The affine in mm, from `unit` (of `MM_PER_UNIT`), refused where its voxels are no CT's; and notices."""
    notices = []
    if unit != "mm":
        notices.append(f"{path}: coordinates in {unit} converted to mm")
        affine = np.diag([MM_PER_UNIT[unit]] * 3 + [1.0]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < 0.01 or spacing.max() > 50:
        raise InputError(f"{path}: a voxel of {lengths(spacing)} mm is no CT voxel; check the unit in the header")
    return affine, notices


def shear_notice(affine: NDArray[np.float64], path: Path) -> list[str]:
    """A notice where the grid's axes are not at right angles."""
    return [f"{path}: the axes of the grid are not at right angles (sheared)"] if is_sheared(affine) else []


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """Whether the grid's axes are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


def apart(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance between where two affines place a grid's corners."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    return float(np.linalg.norm((a - b)[:3, :3] @ corners + (a - b)[:3, 3:], axis=0).max())


def on_grid(shape: tuple[int, ...], affine: NDArray[np.float64], other_shape: tuple[int, ...], other: NDArray[np.float64]) -> bool:
    """Whether a label map lies on its scan's grid: the same shape, and no voxel further off than a tenth of the smallest voxel edge."""
    return tuple(shape) == tuple(other_shape) and apart(affine, other, shape) <= 0.1 * float(np.linalg.norm(affine[:3, :3], axis=0).min())


def check_axis_code(code: str | None) -> None:
    """Raise `InputError` for what is no axis code such as ``RAS``; None is none."""
    letters = "RAS" if code is None else code.upper()
    if len(letters) != 3 or any(c not in _AXES for c in letters) or len({_AXES[c][0] for c in letters}) != 3:
        raise InputError(f"--assume-orientation {code}: give one letter each of R/L, A/P and S/I, e.g. RAS or LPS")


def assumed_affine(
    code: str | None, spacing: Sequence[float], shape: Shape, path: Path, lacks: str
) -> tuple[NDArray[np.float64], list[str]]:
    """Affine of an axis-aligned grid whose index grows toward the named sides, centered on the origin; and a notice.

    Args:
        code: axis code such as ``"RAS"``, or None, which is refused.
        spacing: voxel size along each axis of the grid.
        shape: shape of the grid.
        path: for the message.
        lacks: what the file does not hold.
    """
    if code is None:
        raise InputError(f"{path}: states no orientation ({lacks}); give --assume-orientation, e.g. RAS")
    check_axis_code(code)
    letters = code.upper()
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, letter in enumerate(letters):
        row, sign = _AXES[letter]
        affine[row, axis] = sign * spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, [f"{path}: states no orientation; taken as {letters} as you asked"]


def lengths(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Three lengths as text."""
    return " x ".join(f"{v:.4g}" for v in values)
