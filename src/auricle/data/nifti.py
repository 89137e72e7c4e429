"""NIfTI files: read with every check that the format leaves to the reader, written atomically and reproducibly."""

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from numpy.typing import DTypeLike, NDArray

from auricle.core.errors import InputError
from auricle.core.files import atomic_path
from auricle.data.geometry import Shape, choose_volume, is_sheared, volume_shape
from auricle.data.nifti_header import header_affine, parse_header, sizes_of, voxel_type
from auricle.data.voxels import check_claim, read_voxels, reading, scaled, skip_bytes

nib: Any = nibabel
"""nibabel has no type annotations."""

MAX_OFFSET = 2**26


def read_nifti(
    path: Path, *, assume_orientation: str | None = None, volume_index: int | None = None
) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """Read one 3D volume from a .nii or .nii.gz file.

    Args:
        path: a single-file NIfTI-1 or NIfTI-2 image.
        assume_orientation: axis code such as ``"RAS"`` or ``"LPS"`` for a file that states no orientation.
        volume_index: which volume of a 4D file to take, from 0.

    Returns:
        Array [x, y, z], x fastest in memory as in the file, with the header's intensity scaling applied (integers stay integers
        where scaling allows), the affine from voxel index to RAS+ mm, and notices for the log.

    Raises:
        InputError: the file is damaged, or its header does not describe one finite 3D volume in space.
    """
    path = Path(path)
    with reading(path), _open(path) as stream:
        header = parse_header(stream, path)
        shape, count, affine, notices, _ = _described(header, path, assume_orientation, volume_index)
        skip_bytes(stream, int(header["vox_offset"]) - int(header["sizeof_hdr"]), path)
        raw = read_voxels(stream, path, shape, voxel_type(header, path), count=count, index=volume_index or 0)
        return scaled(raw, *_scaling(header, path), path), affine, notices


def read_grid(path: Path, *, assume_orientation: str | None = None) -> tuple[Shape, NDArray[np.float64], list[str]]:
    """Shape, affine and notices as `read_nifti`, from the header and the file's size alone; raises `InputError` as it does for those.

    The size that a gzip trailer states is compared with the header: a notice where they differ, since a file packed in several
    parts states that of the last.
    """
    path = Path(path)
    with reading(path), _open(path) as stream:
        shape, _, affine, notices, size = _described(parse_header(stream, path), path, assume_orientation, None)
    trailer = gzip_trailer(path)
    if trailer is not None and trailer[1] != size % 2**32:
        notices.append(f"{path}: the size at its end does not fit its header; it is cut off, or packed in several parts: read it to the end")
    return shape, affine, notices


def gzip_trailer(path: Path) -> tuple[int, int] | None:
    """Checksum (CRC-32) and size (modulo 2^32) of the content, from the last eight bytes of a .gz file (RFC 1952); None for other files."""
    if not _is_gz(path):
        return None
    with path.open("rb") as file:
        file.seek(-8, 2)
        end = file.read(8)
    return int.from_bytes(end[:4], "little"), int.from_bytes(end[4:], "little")


def write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64], *, dtype: DTypeLike) -> None:
    """Write a 3D array [x, y, z] with its affine (RAS+ mm) as .nii or .nii.gz, atomically.

    The same input gives the same bytes: the gzip header carries neither time nor name. A sheared affine, which a
    qform cannot hold, is written as sform alone.
    """
    assert array.ndim == 3
    data = array.astype(dtype, casting="unsafe", copy=False)
    assert np.issubdtype(data.dtype, np.floating) or np.array_equal(data, array), "values do not fit the file's type"
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    if is_sheared(affine):
        image.header["qform_code"] = 0
    else:
        image.set_qform(affine, 1)
    with saving(Path(path)) as temporary, temporary.open("wb") as file:
        if _is_gz(temporary):
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


@contextmanager
def saving(path: Path) -> Iterator[Path]:
    """`atomic_path`, with what the system refuses (no space, no permission) as an `InputError`."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _is_gz(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> IO[bytes]:
    """Open for reading decompressed bytes, once name, size and first bytes agree."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a NIfTI file")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: not a NIfTI file name; it should end in .nii or .nii.gz")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        if zipped != _is_gz(path):
            what, other = ("gzip-compressed", ".nii.gz") if zipped else ("not gzip-compressed", ".nii")
            raise InputError(f"{path}: is {what}, against its name; if it is a NIfTI file, rename it to end in {other}")
        return cast("IO[bytes]", gzip.open(path, "rb")) if zipped else path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _described(
    header: Any, path: Path, assume_orientation: str | None, volume_index: int | None
) -> tuple[Shape, int, NDArray[np.float64], list[str], int]:
    """Shape and number of volumes, affine, notices, and the bytes of the whole file, none of them more than the file can hold."""
    shape, count = volume_shape(sizes_of(header, path), path)
    dtype = voxel_type(header, path)
    _, notices = choose_volume(path, count, volume_index)
    affine, more = header_affine(header, shape, path, assume_orientation)
    offset = float(header["vox_offset"])
    if not int(header["sizeof_hdr"]) <= offset <= MAX_OFFSET:
        raise InputError(f"{path}: the header places the voxels at an impossible offset ({offset})")
    size = int(offset) + math.prod(shape) * count * dtype.itemsize
    check_claim(path, shape, count, size, path.stat().st_size, "gzip" if _is_gz(path) else "raw")
    return shape, count, affine, notices + more, size


def _scaling(header: Any, path: Path) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 means that there is no scaling."""
    slope, shift = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(shift):
        raise InputError(f"{path}: the intensity scaling in the header is not a number (scl_inter)")
    return slope, shift
