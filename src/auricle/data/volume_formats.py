"""NRRD and MetaImage files, held to the same checks as NIfTI.

Both are a text header with voxels behind it or in a file beside it. The header of a NRRD file is parsed by pynrrd; voxels are read here, because
the usual readers fill a truncated volume with zeros and do not look at checksums. MetaImage headers are lines of ``Key = Value``, read here too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.geometry import (
    LPS_TO_RAS,
    Shape,
    assumed_affine,
    check_affine,
    choose_volume,
    in_mm,
    shear_notice,
    volume_shape,
)
from auricle.data.voxels import Encoding, check_claim, read_voxels, reading, scaled, skip_bytes, unpacking

Volume = tuple[NDArray[Any], NDArray[np.float64], list[str]]

MAX_HEADER = 2**20
_NRRD_TYPES = {
    "i1": "signed char, int8, int8_t", "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t", "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t", "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t", "f4": "float", "f8": "double",
}  # fmt: skip
_NRRD_ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_NRRD_SPACES = {"ras": (1, 1), "right-anterior-superior": (1, 1), "las": (-1, 1), "left-anterior-superior": (-1, 1),
                "lps": (-1, -1), "left-posterior-superior": (-1, -1)}  # fmt: skip
"""Sign that brings the first two axes of a space to R and A."""
_VOLUME_KINDS = {"list", "time", "none", "???", "domain", "space"}
"""Kinds of an axis along which volumes are stacked; all others are components of one voxel."""
_META_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
               "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}  # fmt: skip
_UNITS = {"mm": "mm", "millimeter": "mm", "millimeters": "mm", "": "mm", "cm": "cm", "centimeter": "cm", "m": "meters", "meter": "meters",
          "meters": "meters", "um": "microns", "µm": "microns", "micron": "microns", "microns": "microns", "micrometer": "microns"}  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """What a header says."""

    shape: Shape
    count: int
    """Number of volumes."""
    interleaved: bool
    """The voxels of the volumes alternate."""
    dtype: np.dtype[Any]
    affine: NDArray[np.float64] | None
    """Voxel index to RAS+, in the header's unit; None where the header states no orientation."""
    spacing: Sequence[float]
    """Voxel size, for a file without orientation."""
    lacks: str
    """What is missing of the orientation."""
    unit: str
    encoding: Encoding
    data: Path
    offset: int
    """Bytes of `data` before the voxels or their compressed form."""
    skip: int = 0
    """Decompressed bytes before the voxels; -1: as many as there are too many."""


def read_nrrd(path: Path, *, assume_orientation: str | None = None, volume_index: int | None = None) -> Volume:
    """Read one 3D volume from a .nrrd file, or a .nhdr file with its voxels in one file beside it.

    Args, returns and raises as `read_nifti`; needs pynrrd.
    """
    with reading(path):
        return _read(_nrrd_layout(*_nrrd_header(path), path), path, assume_orientation, volume_index)


def read_metaimage(path: Path, *, assume_orientation: str | None = None, volume_index: int | None = None) -> Volume:
    """Read one 3D volume from a .mha file, or a .mhd file with its voxels in one file beside it.

    Args, returns and raises as `read_nifti`.
    """
    with reading(path):
        return _read(_meta_layout(*_meta_header(path), path), path, assume_orientation, volume_index)


def _read(layout: _Layout, path: Path, assume: str | None, volume_index: int | None) -> Volume:
    index, notices = choose_volume(path, layout.count, volume_index)
    affine = layout.affine
    if affine is None:
        if len(layout.spacing) != 3 or not all(math.isfinite(v) and v > 0 for v in layout.spacing):
            raise InputError(f"{path}: states neither orientation nor a positive voxel size")
        affine, more = assumed_affine(assume, layout.spacing, layout.shape, path, layout.lacks)
        notices += more
    check_affine(affine, path)
    affine, more = in_mm(affine, layout.unit, path)
    notices += more + shear_notice(affine, path)
    with layout.data.open("rb") as file:
        there = layout.data.stat().st_size - layout.offset
        volume = math.prod(layout.shape) * layout.count * layout.dtype.itemsize
        check_claim(path, layout.shape, layout.count, volume + max(0, layout.skip), there, layout.encoding)
        skip = there - volume if layout.skip < 0 else layout.skip
        file.seek(layout.offset)
        stream = unpacking(file, layout.encoding)
        skip_bytes(stream, skip, path)
        raw = read_voxels(stream, path, layout.shape, layout.dtype, count=layout.count, index=index, interleaved=layout.interleaved)
    return scaled(raw, 1.0, 0.0, path), affine, notices


def _nrrd_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and its length in bytes."""
    try:
        import nrrd
    except ImportError:
        raise InputError("reading NRRD needs pynrrd; install it with: pip install pynrrd") from None
    with _opened(path, b"NRRD", "a NRRD file") as file:
        text = file.read(MAX_HEADER)
        lines, size = [], 0
        for line in text.splitlines(keepends=True):
            size += len(line)
            lines.append(line)
            if not line.strip():
                break
        else:
            if size == MAX_HEADER:
                raise InputError(f"{path}: the header does not end")
    try:
        return dict(nrrd.read_header(lines)), size
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise InputError(f"{path}: the NRRD header is damaged ({reason})") from None


def _nrrd_layout(header: dict[str, Any], size: int, path: Path) -> _Layout:
    def find(*names: str) -> Any:
        return next((header[n] for n in names if n in header), None)

    lacking = [n for n in ("type", "dimension", "sizes", "encoding") if n not in header]
    if lacking:
        raise InputError(f"{path}: the NRRD header lacks {', '.join(lacking)}")
    sizes = [int(v) for v in header["sizes"]]
    if header["dimension"] != len(sizes):
        raise InputError(f"{path}: the header states {header['dimension']} dimensions and {len(sizes)} sizes")
    directions = find("space directions")
    space, stacked = _nrrd_axes(header, sizes, directions, path)
    shape, count = volume_shape([*(sizes[a] for a in space), *(sizes[a] for a in stacked)], path)
    dtype = next((np.dtype(code) for code, names in _NRRD_TYPES.items() if header["type"] in names.split(", ")), None)
    if dtype is None:
        raise InputError(f"{path}: has the voxel type '{header['type']}', which is not a real number")
    if dtype.itemsize > 1 and header.get("endian") not in ("little", "big"):
        raise InputError(f"{path}: the header does not say whether the voxels are little or big endian")
    encoding = _NRRD_ENCODINGS.get(str(header["encoding"]).lower())
    if encoding is None:
        raise InputError(f"{path}: the encoding {header['encoding']} is not supported; store it as raw or gzip")
    data, lines, skip = find("data file", "datafile"), int(find("line skip", "lineskip") or 0), int(find("byte skip", "byteskip") or 0)
    if lines or skip < -1 or (skip < 0 and encoding != "raw"):
        raise InputError(f"{path}: line skip and this byte skip are not supported; store it as one .nrrd file")
    affine, lacks = _nrrd_affine(header, directions, space, path)
    units = {str(u) for u in (find("space units") or [u for u in find("units") or [] if u] or ["mm"])}
    if directions is not None and affine is None:
        spacing = [float(v) for v in np.linalg.norm(np.asarray(directions, float)[space], axis=1)]
    else:
        spacings = find("spacings")
        spacing = [] if spacings is None or len(spacings) != len(sizes) else [float(spacings[a]) for a in space]
    return _Layout(
        shape=shape, count=count, interleaved=bool(stacked) and stacked[0] < space[0],
        dtype=dtype.newbyteorder("<" if header.get("endian") != "big" else ">"), affine=affine, spacing=spacing, lacks=lacks,
        unit=_unit(units, path), encoding=encoding, data=path if data is None else _beside(path, str(data)),
        offset=size if data is None else 0, skip=skip,
    )  # fmt: skip


def _nrrd_axes(header: Mapping[str, Any], sizes: list[int], directions: Any, path: Path) -> tuple[list[int], list[int]]:
    """Which axes run through space, and which one over volumes."""
    count, kinds = len(sizes), [str(k) for k in header.get("kinds") or []]
    if (kinds and len(kinds) != count) or (directions is not None and len(directions) != count):
        raise InputError(f"{path}: the header describes another number of axes than its {count} sizes")
    if directions is not None:
        space = [a for a in range(count) if not np.isnan(np.asarray(directions[a], float)).all()]
    else:
        space = [a for a in range(count) if not kinds or kinds[a] in ("domain", "space")]
        space = list(range(3)) if not kinds and count > 3 else space
    rest = [a for a in range(count) if a not in space]
    parts = [kinds[a] for a in rest if kinds and kinds[a] not in _VOLUME_KINDS and sizes[a] > 1]
    if parts:
        raise InputError(f"{path}: holds several values a voxel ({parts[0]}: a color or vector image); CT values are needed")
    if len(space) < 3:
        raise InputError(f"{path}: is a 2D image ({' x '.join(map(str, sizes))}); a volume is needed")
    if len(space) > 3 or len(rest) > 1 or space != list(range(space[0], space[0] + 3)):
        raise InputError(f"{path}: has {count} dimensions {sizes}; a 3D volume is needed")
    return space, rest


def _nrrd_affine(header: Mapping[str, Any], directions: Any, space: list[int], path: Path) -> tuple[NDArray[np.float64] | None, str]:
    """Voxel index to RAS+ in the header's unit, or None and what is missing for it."""
    name = str(header.get("space") or "").lower()
    if directions is None or name not in _NRRD_SPACES:
        return None, "no space directions" if directions is None else f"space '{header.get('space') or ''}' is none of RAS, LAS and LPS"
    origin = header.get("space origin")
    vectors = np.asarray(directions, float)[space]
    if vectors.shape != (3, 3) or origin is None or np.shape(origin) != (3,):
        raise InputError(f"{path}: space directions or space origin are missing or not of three dimensions")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = vectors.T, origin
    return np.diag([*_NRRD_SPACES[name], 1.0, 1.0]) @ affine, ""


def _meta_header(path: Path) -> tuple[dict[str, str], int]:
    """Keys and values up to ``ElementDataFile``, and the header's length in bytes."""
    found: dict[str, str] = {}
    size = 0
    with _opened(path, b"", "a MetaImage file") as file:
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


def _meta_layout(header: dict[str, str], size: int, path: Path) -> _Layout:
    def numbers(kind: type[Any], *names: str) -> list[Any]:
        text = next((header[n] for n in names if n in header), "")
        try:
            return [kind(v) for v in text.split()]
        except ValueError:
            raise InputError(f"{path}: the header's {names[0]} is not a number: {text[:60]}") from None

    lacking = [n for n in ("NDims", "DimSize", "ElementType", "ElementDataFile") if not header.get(n)]
    if lacking:
        raise InputError(f"{path}: the MetaImage header lacks {', '.join(lacking)}")
    axes, sizes = numbers(int, "NDims"), numbers(int, "DimSize")
    if axes != [len(sizes)]:
        raise InputError(f"{path}: the header states {header['NDims']} dimensions and {len(sizes)} sizes")
    if numbers(int, "ElementNumberOfChannels") not in ([], [1]):
        raise InputError(f"{path}: holds several values a voxel (a color or vector image); CT values are needed")
    shape, count = volume_shape(sizes, path)
    code = _META_TYPES.get(header["ElementType"].removeprefix("MET_"))
    if code is None:
        raise InputError(f"{path}: has the voxel type {header['ElementType']}, which is not a real number")
    if not _true(header, "BinaryData", default=True):
        raise InputError(f"{path}: holds its voxels as text, which is not supported; store it as binary")
    if numbers(float, "ElementToIntensityFunctionSlope") not in ([], [1]) or numbers(float, "ElementToIntensityFunctionOffset") not in ([], [0]):
        raise InputError(f"{path}: scales its intensities (ElementToIntensityFunction), which is not supported; store HU")
    name, packed = header["ElementDataFile"], _true(header, "CompressedData")
    data, offset = (path, size) if name.upper() == "LOCAL" else (_beside(path, name), 0)
    skip = (numbers(int, "HeaderSize") or [0])[0]
    stated = numbers(int, "CompressedDataSize")
    if skip < -1 or (skip and (packed or data == path)):
        raise InputError(f"{path}: the header states an impossible HeaderSize ({skip})")
    if packed and stated and stated[0] != data.stat().st_size - offset:
        there = f"{data.stat().st_size - offset} bytes of compressed voxels are there, the header says {stated[0]}"
        raise InputError(f"{path}: is cut off or damaged: {there}")
    big = _true(header, "BinaryDataByteOrderMSB") or _true(header, "ElementByteOrderMSB")
    affine, spacing = _meta_affine(numbers, len(sizes), path)
    return _Layout(
        shape=shape, count=count, interleaved=False, dtype=np.dtype(code).newbyteorder(">" if big else "<"), affine=affine, spacing=spacing,
        lacks="no TransformMatrix", unit=_unit({header.get("DistanceUnits", "mm")}, path), encoding="zlib" if packed else "raw",
        data=data, offset=offset, skip=skip,
    )  # fmt: skip


def _meta_affine(numbers: Any, count: int, path: Path) -> tuple[NDArray[np.float64] | None, list[float]]:
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


def _opened(path: Path, start: bytes, what: str) -> IO[bytes]:
    """The file, which begins with `start`."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, not ' + what if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    file = path.open("rb")
    first = file.read(len(start))
    if first != start:
        file.close()
        raise InputError(f"{path}: is not {what} (unknown first bytes)")
    file.seek(0)
    return file


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; one in another folder could be anything, and is refused."""
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path}: spreads its voxels over several files, which is not supported; store it as one file")
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise InputError(f"{path}: its voxels lie in another folder ({name}); put both files into one")
    if not path.with_name(name).is_file():
        raise InputError(f"{path}: its file of voxels is missing: {name}")
    return path.with_name(name)


def _unit(units: set[str], path: Path) -> str:
    found = {_UNITS.get(u.strip().lower()) for u in units}
    if len(found) != 1 or None in found:
        raise InputError(f"{path}: unknown unit of length ({', '.join(sorted(units))})")
    return str(found.pop())


def _true(header: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    return header.get(key, str(default)).strip().lower() in ("true", "1", "t", "yes")
