"""The NIfTI header: shape, voxel type and place in space, with every check that the format leaves to the reader."""

import math
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError

nib: Any = nibabel
"""nibabel has no type annotations."""

MAX_AXIS = 4096
MAX_VOXELS = 2**30
SHEAR_TOLERANCE = 1e-3
"""Cosine between two axes from which a grid counts as sheared: 0.5 mm over a field of view of 500 mm."""

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAME = {1: "meters", 3: "microns"}
_NUMERIC = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}
_COLOR = {128, 2304}
_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def parse_header(stream: IO[bytes], path: Path) -> Any:
    """The parsed NIfTI-1 or -2 header, either byte order; the stream stands after it."""
    start = stream.read(4)
    for size, kind in ((348, nib.Nifti1Header), (540, nib.Nifti2Header)):
        for order, code in (("little", "<"), ("big", ">")):
            if int.from_bytes(start, cast("Any", order)) == size and len(start) == 4:
                block = start + stream.read(size - 4)
                if len(block) < size:
                    raise InputError(f"{path}: is cut off inside its header")
                header = kind(block, endianness=code, check=False)
                if bytes(header["magic"].tobytes())[:2] != b"n+":
                    raise InputError(f"{path}: is not a single-file NIfTI image (header and voxels in one file)")
                return header
    raise InputError(f"{path}: is not a NIfTI file (unknown first bytes)")


def volume_shape(header: Any, path: Path) -> tuple[tuple[int, int, int], int]:
    """Shape of one volume and the number of volumes."""
    dim = [int(v) for v in header["dim"]]
    if not 1 <= dim[0] <= 7 or any(v < 1 for v in dim[1 : dim[0] + 1]):
        raise InputError(f"{path}: the header states impossible dimensions {dim[: 1 + min(max(dim[0], 3), 7)]}")
    sizes = dim[1 : dim[0] + 1]
    x, y, z = (*sizes, 1, 1, 1)[:3]
    if min(x, y, z) < 2:
        raise InputError(f"{path}: is a 2D image ({x} x {y} x {z}); a volume is needed")
    rest = math.prod(sizes[3:])
    if max(x, y, z) > MAX_AXIS or x * y * z > MAX_VOXELS or rest > MAX_AXIS:
        claim = " x ".join(str(v) for v in sizes)
        raise InputError(f"{path}: the header claims {claim} voxels, more than any CT; the header is damaged")
    if any(v > 1 for v in sizes[4:]):
        raise InputError(f"{path}: has {dim[0]} dimensions {sizes}; a 3D volume is needed")
    return (x, y, z), rest


def voxel_type(header: Any, path: Path) -> np.dtype[Any]:
    """Type of the stored voxels, in the file's byte order."""
    code = int(header["datatype"])
    if code in _COLOR:
        raise InputError(f"{path}: is a color (RGB) image; CT values are needed")
    if code not in _NUMERIC:
        raise InputError(f"{path}: has the voxel type {code}, which is not a real number")
    return cast("np.dtype[Any]", header.get_data_dtype())


def choose_volume(path: Path, count: int, index: int | None) -> tuple[int, list[str]]:
    """Which of `count` volumes to read, and a notice if there are several."""
    if index is None and count > 1:
        raise InputError(f"{path}: holds {count} volumes (4D); choose one with --volume-index 0..{count - 1}")
    if index is not None and not 0 <= index < count:
        raise InputError(f"--volume-index {index}: {path} holds volumes 0..{count - 1}")
    return (index or 0), ([f"{path}: volume {index} of {count} used"] if count > 1 else [])


def header_affine(
    header: Any, shape: tuple[int, int, int], path: Path, assume: str | None
) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel index to RAS+ mm, from the sform, else the qform, else `assume` (an axis code); and notices."""
    pixdim = np.asarray(header["pixdim"][1:4], float)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise InputError(f"{path}: the voxel size in the header is not positive: {pixdim.tolist()} (pixdim)")
    has_s, has_q = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    notices = []
    if has_s or has_q:
        affine = _sform(header) if has_s else _qform(header, path)
    elif assume is None:
        raise InputError(f"{path}: states no orientation (neither sform nor qform); give --assume-orientation, e.g. RAS")
    else:
        affine = _assumed(assume, pixdim, shape)
        notices.append(f"{path}: states no orientation; taken as {assume.upper()} as you asked")
    _check_affine(affine, path)
    if has_s and has_q:
        notices += _compared(affine, header, shape, path)
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise InputError(f"{path}: unknown unit of length (code {unit})")
    if unit in _UNIT_NAME:
        notices.append(f"{path}: coordinates in {_UNIT_NAME[unit]} converted to mm")
        affine = np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < 0.01 or spacing.max() > 50:
        raise InputError(f"{path}: a voxel of {_mm(spacing)} mm is no CT voxel; check the unit in the header")
    if has_s and np.abs(pixdim * _MM_PER_UNIT[unit] / spacing - 1).max() > 0.01:
        notices.append(f"{path}: pixdim says {_mm(pixdim)}, the sform {_mm(spacing)} mm per voxel; the sform is used")
    if is_sheared(affine):
        notices.append(f"{path}: the axes of the grid are not at right angles (sheared)")
    return affine, notices


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """Whether the grid's axes are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


def apart(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance between where two affines place a grid's corners."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    return float(np.linalg.norm((a - b)[:3, :3] @ corners + (a - b)[:3, 3:], axis=0).max())


def _sform(header: Any) -> NDArray[np.float64]:
    rows = [np.asarray(header[name], np.float64) for name in ("srow_x", "srow_y", "srow_z")]
    return np.array([*rows, [0.0, 0.0, 0.0, 1.0]])


def _qform(header: Any, path: Path) -> NDArray[np.float64]:
    header = header.copy()
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1.0  # the standard's reading of 0, which nibabel refuses
    try:
        return np.asarray(header.get_qform(), np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path}: the qform is not a rotation ({error})") from None


def _compared(affine: NDArray[np.float64], header: Any, shape: tuple[int, int, int], path: Path) -> list[str]:
    """A notice if the qform places the grid's corners elsewhere than the sform, by a tenth of a voxel or more."""
    try:
        gap = apart(affine, _qform(header, path), shape)
    except InputError:
        return [f"{path}: the qform is not a rotation; the sform is used"]
    if gap <= 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min():
        return []
    return [f"{path}: sform and qform differ by up to {gap:.3g} (header units); the sform is used, not the qform"]


def _assumed(code: str, pixdim: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Affine of an axis-aligned grid whose index grows toward the named sides, centered on the origin."""
    letters = code.upper()
    if len(letters) != 3 or any(c not in _AXES for c in letters) or len({_AXES[c][0] for c in letters}) != 3:
        raise InputError(f"--assume-orientation {code}: give one letter each of R/L, A/P and S/I, e.g. RAS or LPS")
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, letter in enumerate(letters):
        row, sign = _AXES[letter]
        affine[row, axis] = sign * pixdim[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _check_affine(affine: NDArray[np.float64], path: Path) -> None:
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the orientation (affine) holds values that are not numbers")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise InputError(f"{path}: the orientation (affine) is singular: two axes of the grid point the same way")


def _mm(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
