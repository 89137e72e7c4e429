"""MetaImage files. Their header is lines of ``Key = Value``, read here: SimpleITK's parser is large, and says less about what a header lacks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.geometry import LPS_TO_RAS, volume_shape
from auricle.data.volume_formats import MAX_HEADER, Stored, Volume, beside, opened, read, unit_of
from auricle.data.voxels import reading

_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
          "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}  # fmt: skip


def read_metaimage(path: Path, *, assume_orientation: str | None = None, volume_index: int | None = None) -> Volume:
    """Read one 3D volume from a .mha file, or a .mhd file with its voxels in one file beside it.

    Args, returns and raises as `read_nifti`.
    """
    with reading(path):
        return read(_stored(*_header(path), path), path, assume_orientation, volume_index)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Keys and values up to ``ElementDataFile``, and the header's length in bytes."""
    found: dict[str, str] = {}
    size = 0
    with opened(path, b"", "a MetaImage file") as file:
        while "ElementDataFile" not in found and size < MAX_HEADER:
            line = file.readline(2**12)
            size += len(line)
            key, equals, value = line.decode("latin-1").partition("=")
            key = key.strip()
            if not equals or (not line.endswith(b"\n") and key != "ElementDataFile") or key in found:
                what = "ends early" if not line else f"states {key} twice" if key in found else "has a line that is not KEY = VALUE"
                raise InputError(f"{path}: is not a MetaImage file or its header is damaged (it {what})")
            found[key] = value.strip()
    return found, size


def _stored(header: dict[str, str], size: int, path: Path) -> Stored:
    def numbers(kind: type[Any], *names: str) -> list[Any]:
        text = next((header[n] for n in names if n in header), "")
        try:
            return [kind(v) for v in text.split()]
        except ValueError:
            raise InputError(f"{path}: the header's {names[0]} is not a number: {text[:60]}") from None

    def true(name: str, *, otherwise: bool = False) -> bool:
        text = header.get(name, str(otherwise)).lower()
        if text not in ("true", "false"):
            raise InputError(f"{path}: the header's {name} is neither True nor False: {text[:60]}")
        return text == "true"

    lacking = [n for n in ("NDims", "DimSize", "ElementType", "ElementDataFile") if not header.get(n)]
    if lacking:
        raise InputError(f"{path}: the MetaImage header lacks {', '.join(lacking)}")
    axes, sizes = numbers(int, "NDims"), numbers(int, "DimSize")
    if axes != [len(sizes)]:
        raise InputError(f"{path}: the header states {header['NDims']} dimensions and {len(sizes)} sizes")
    if numbers(int, "ElementNumberOfChannels") not in ([], [1]):
        raise InputError(f"{path}: holds several values a voxel (a color or vector image); CT values are needed")
    shape, count = volume_shape(sizes, path)
    code = _TYPES.get(header["ElementType"].removeprefix("MET_"))
    if code is None:
        raise InputError(f"{path}: has the voxel type {header['ElementType']}, which is not a real number")
    if not true("BinaryData", otherwise=True):
        raise InputError(f"{path}: holds its voxels as text, which is not supported; store it as binary")
    if numbers(float, "ElementToIntensityFunctionSlope") not in ([], [1]) or numbers(float, "ElementToIntensityFunctionOffset") not in ([], [0]):
        raise InputError(f"{path}: scales its intensities (ElementToIntensityFunction), which is not supported; store HU")
    name, packed = header["ElementDataFile"], true("CompressedData")
    data, offset = (path, size) if name.upper() == "LOCAL" else (beside(path, name), 0)
    skip = _skipped(numbers, data, offset, packed, path)
    big = true("BinaryDataByteOrderMSB") or true("ElementByteOrderMSB")
    affine, spacing = _affine(numbers, len(sizes), path)
    return Stored(
        shape=shape, count=count, interleaved=False, dtype=np.dtype(code).newbyteorder(">" if big else "<"), affine=affine, spacing=spacing,
        lacks="no TransformMatrix", unit=unit_of({header.get("DistanceUnits", "mm")}, path), encoding="zlib" if packed else "raw",
        data=data, offset=offset, skip=skip,
    )  # fmt: skip


def _skipped(numbers: Any, data: Path, offset: int, packed: bool, path: Path) -> int:
    """Bytes before the voxels of a raw file, -1 for as many as are too many; checks the stated size of compressed ones."""
    skip, stated = (numbers(int, "HeaderSize") or [0])[0], numbers(int, "CompressedDataSize")
    if skip < -1 or (skip and (packed or data == path)):
        raise InputError(f"{path}: the header states an impossible HeaderSize ({skip})")
    there = data.stat().st_size - offset
    if packed and stated and stated[0] != there:
        raise InputError(f"{path}: is cut off or damaged: {there} bytes of compressed voxels are there, the header says {stated[0]}")
    return int(skip)


def _affine(numbers: Any, count: int, path: Path) -> tuple[NDArray[np.float64] | None, list[float]]:
    """Voxel index to RAS+ in the header's unit (None without a matrix) and the voxel size; the header is in LPS, a row for each axis."""
    spacing = numbers(float, "ElementSpacing", "ElementSize")
    if len(spacing) != count or not all(math.isfinite(v) and v > 0 for v in spacing[:3]):
        raise InputError(f"{path}: the voxel size in the header is missing or not positive: {spacing} (ElementSpacing)")
    turn = numbers(float, "TransformMatrix", "Rotation", "Orientation")
    if not turn:
        return None, spacing[:3]
    origin = numbers(float, "Offset", "Position", "Origin")
    if len(turn) != count**2 or len(origin) != count:
        raise InputError(f"{path}: TransformMatrix or Offset are missing or not of {count} dimensions")
    rows = np.array(turn).reshape(count, count)
    if count > 3 and (rows[3:, :3].any() or rows[:3, 3:].any()):
        raise InputError(f"{path}: the TransformMatrix mixes space with other axes")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rows[:3, :3].T * spacing[:3], origin[:3]
    return LPS_TO_RAS @ affine, spacing[:3]
