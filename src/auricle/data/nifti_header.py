"""The NIfTI header: shape, voxel type and place in space, with every check that the format leaves to the reader."""

from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.geometry import MM_PER_UNIT, Shape, apart, assumed_affine, check_affine, in_mm, lengths, shear_notice

nib: Any = nibabel
"""nibabel has no type annotations."""

_UNITS = {0: "mm", 1: "meters", 2: "mm", 3: "microns"}
_NUMERIC = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}
_COLOR = {128, 2304}


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


def sizes_of(header: Any, path: Path) -> list[int]:
    """Length of each axis."""
    dim = [int(v) for v in header["dim"]]
    if not 1 <= dim[0] <= 7 or any(v < 1 for v in dim[1 : dim[0] + 1]):
        raise InputError(f"{path}: the header states impossible dimensions {dim[: 1 + min(max(dim[0], 3), 7)]}")
    return dim[1 : dim[0] + 1]


def voxel_type(header: Any, path: Path) -> np.dtype[Any]:
    """Type of the stored voxels, in the file's byte order."""
    code = int(header["datatype"])
    if code in _COLOR:
        raise InputError(f"{path}: is a color (RGB) image; CT values are needed")
    if code not in _NUMERIC:
        raise InputError(f"{path}: has the voxel type {code}, which is not a real number")
    return cast("np.dtype[Any]", header.get_data_dtype())


def header_affine(
    header: Any, shape: Shape, path: Path, assume: str | None
) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel index to RAS+ mm, from the sform, else the qform, else `assume` (an axis code); and notices."""
    pixdim = np.asarray(header["pixdim"][1:4], float)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise InputError(f"{path}: the voxel size in the header is not positive: {pixdim.tolist()} (pixdim)")
    has_s, has_q = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    notices: list[str] = []
    if has_s or has_q:
        affine = _sform(header) if has_s else _qform(header, path)
    else:
        affine, notices = assumed_affine(assume, pixdim.tolist(), shape, path, "neither sform nor qform")
    check_affine(affine, path)
    if has_s and has_q:
        notices += _compared(affine, header, shape, path)
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS:
        raise InputError(f"{path}: unknown unit of length (code {code})")
    affine, more = in_mm(affine, _UNITS[code], path)
    notices += more
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if has_s and np.abs(pixdim * MM_PER_UNIT[_UNITS[code]] / spacing - 1).max() > 0.01:
        notices.append(f"{path}: pixdim says {lengths(pixdim)}, the sform {lengths(spacing)} mm per voxel; the sform is used")
    return affine, notices + shear_notice(affine, path)


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


def _compared(affine: NDArray[np.float64], header: Any, shape: Shape, path: Path) -> list[str]:
    """A notice if the qform places the grid's corners elsewhere than the sform, by a tenth of a voxel or more."""
    try:
        gap = apart(affine, _qform(header, path), shape)
    except InputError:
        return [f"{path}: the qform is not a rotation; the sform is used"]
    if gap <= 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min():
        return []
    return [f"{path}: sform and qform differ by up to {gap:.3g} (header units); the sform is used, not the qform"]
