"""NIfTI files: read with every check that the format leaves to the reader, written atomically and reproducibly."""

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from numpy.typing import DTypeLike, NDArray

from auricle.core.anatomy import LABEL_COUNT
from auricle.core.errors import InputError
from auricle.core.files import atomic_path
from auricle.data.nifti_header import choose_volume, header_affine, is_sheared, parse_header, volume_shape, voxel_type

nib: Any = nibabel
"""nibabel has no type annotations."""

MAX_DEFLATE_RATIO = 1032
"""No deflate stream expands further than this (zlib technical notes), so a small file cannot hold a large volume."""
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
        Array [x, y, z] with the header's intensity scaling applied (integers stay integers where scaling allows),
        the affine from voxel index to RAS+ mm, and notices for the log.

    Raises:
        InputError: the file is damaged, or its header does not describe one finite 3D volume in space.
    """
    path = Path(path)
    # A damaged header may hold signaling NaNs, which warn when they are converted.
    with _open(path) as stream, np.errstate(all="ignore"):
        try:
            header = parse_header(stream, path)
            shape, count = volume_shape(header, path)
            dtype = voxel_type(header, path)
            skip, notices = choose_volume(path, count, volume_index)
            affine, more = header_affine(header, shape, path, assume_orientation)
            raw = _voxels(stream, header, path, shape, count, dtype, skip)
            return _scaled(raw, header, path), affine, notices + more
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: the compressed data are damaged or cut off ({error}); copy the file again") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_label(
    path: Path,
    *,
    label_map: Mapping[int, int] | None = None,
    assume_orientation: str | None = None,
    volume_index: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[str]]:
    """Read a label map of the ids 0..8; `label_map` translates the file's values (0 is always background).

    Returns:
        Label map [x, y, z], its affine (voxel index to RAS+ mm) and notices.

    Raises:
        InputError: as `read_nifti`, and for values that are not ids, which the message lists.
    """
    values, affine, notices = read_nifti(path, assume_orientation=assume_orientation, volume_index=volume_index)
    return to_ids(values, str(path), label_map), affine, notices


def to_ids(values: NDArray[Any], name: str, label_map: Mapping[int, int] | None = None) -> NDArray[np.uint8]:
    """Check that `values` are label ids (after `label_map`) and return them as uint8; `name` is for the message."""
    way_out = "give --label-map VALUE=STRUCTURE,.. (0 drops a value)"
    if not np.issubdtype(values.dtype, np.integer):
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            odd = np.unique(values[whole != values])
            raise InputError(f"{name}: labels are whole numbers, this file holds {_few(odd.tolist())}; was it interpolated?")
        values = whole.astype(np.int64) if np.abs(whole).max(initial=0) < 2**31 else whole
    present = np.unique(values).tolist()
    table = {0: 0, **(label_map or {v: v for v in range(LABEL_COUNT)})}
    wrong = [v for v in present if v not in table]
    if wrong:
        raise InputError(f"{name}: holds the label values {_few(present)}, of which {_few(wrong)} have no structure; {way_out}")
    beyond = sorted({v for v in table.values() if not 0 <= v < LABEL_COUNT})
    if beyond:
        raise InputError(f"--label-map: {_few(beyond)} are not structure ids 0..{LABEL_COUNT - 1}")
    out = np.zeros(values.shape, np.uint8)
    for value in present:
        if table[value]:
            out[values == value] = table[value]
    return out


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
        if temporary.name.endswith(".gz"):
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


def _open(path: Path) -> IO[bytes]:
    """Open for reading decompressed bytes, once name, size and first bytes agree."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a NIfTI file")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: not a NIfTI file name; it should end in .nii or .nii.gz")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        if zipped != path.name.endswith(".gz"):
            what, other = ("gzip-compressed", ".nii.gz") if zipped else ("not gzip-compressed", ".nii")
            raise InputError(f"{path}: is {what}, against its name; if it is a NIfTI file, rename it to end in {other}")
        return cast("IO[bytes]", gzip.open(path, "rb")) if zipped else path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _voxels(
    stream: IO[bytes], header: Any, path: Path, shape: tuple[int, int, int], count: int, dtype: np.dtype[Any], skip: int
) -> NDArray[Any]:
    """The raw voxels of volume `skip`; reads to the end so that the checksum is verified."""
    offset, volume = float(header["vox_offset"]), math.prod(shape) * dtype.itemsize
    start = int(header["sizeof_hdr"])
    if not start <= offset <= MAX_OFFSET:
        raise InputError(f"{path}: the header places the voxels at an impossible offset ({offset})")
    ratio = MAX_DEFLATE_RATIO if path.name.endswith(".gz") else 1
    if offset + volume * count > path.stat().st_size * ratio:
        claim = " x ".join(str(v) for v in shape) + (f" x {count}" if count > 1 else "")
        raise InputError(f"{path}: the header claims {claim} voxels, more than the file can hold; it is cut off or damaged")
    _discard(stream, int(offset) - start + skip * volume, path)
    raw, done = np.empty(volume, np.uint8), 0
    while done < volume:
        part = stream.read(min(2**22, volume - done))
        if not part:
            raise InputError(f"{path}: is cut off: {done} of {volume} bytes of voxels are there")
        raw[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    _discard(stream, (count - 1 - skip) * volume, path)
    if stream.read(1):
        raise InputError(f"{path}: holds more voxels than its header says; the header is damaged")
    return raw.view(dtype).reshape(shape, order="F")


def _discard(stream: IO[bytes], count: int, path: Path) -> None:
    while count > 0:
        part = stream.read(min(2**22, count))
        if not part:
            raise InputError(f"{path}: is cut off before its voxels end")
        count -= len(part)


def _scaled(raw: NDArray[Any], header: Any, path: Path) -> NDArray[Any]:
    """Apply slope and intercept; integers stay integers where both are whole numbers."""
    slope, shift = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, shift = 1.0, 0.0
    if not math.isfinite(shift):
        raise InputError(f"{path}: the intensity scaling in the header is not a number (scl_inter)")
    if not np.issubdtype(raw.dtype, np.integer):
        bad = raw.size - int(np.count_nonzero(np.isfinite(raw)))
        if bad:
            raise InputError(f"{path}: {bad} of {raw.size} voxels are not finite numbers (NaN or Inf)")
    native = np.ascontiguousarray(raw, dtype=raw.dtype.newbyteorder("="))
    if slope == 1 and shift == 0:
        return native
    if np.issubdtype(raw.dtype, np.integer) and slope.is_integer() and shift.is_integer():
        ends = [int(v) * int(slope) + int(shift) for v in (native.min(), native.max())]
        for kind in (np.int16, np.int32, np.int64):
            if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
                return (native.astype(np.int64) * int(slope) + int(shift)).astype(kind)
    out = np.empty(native.shape, np.float32)
    for x in range(len(native)):
        out[x] = native[x] * np.float64(slope) + shift
        if not np.isfinite(out[x]).all():
            raise InputError(f"{path}: the intensity scaling in the header ({slope:g}, {shift:g}) goes beyond all numbers")
    return out


def _few(values: Sequence[Any]) -> str:
    """At most eight values, as text."""
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:8])
    return shown + (f", .. ({len(values)} values)" if len(values) > 8 else "")
