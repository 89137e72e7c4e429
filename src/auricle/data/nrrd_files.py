"""NRRD files. Their header is parsed by pynrrd."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.geometry import volume_shape
from auricle.data.volume_formats import MAX_HEADER, Stored, Volume, beside, opened, read, unit_of
from auricle.data.voxels import Encoding, reading

_TYPES = {
    "i1": "signed char, int8, int8_t", "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t", "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t", "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t", "f4": "float", "f8": "double",
}  # fmt: skip
_ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_SPACES = {"ras": (1, 1), "right-anterior-superior": (1, 1), "las": (-1, 1), "left-anterior-superior": (-1, 1),
           "lps": (-1, -1), "left-posterior-superior": (-1, -1)}  # fmt: skip
"""Sign that brings the first two axes of a space to R and A."""
_VOLUME_KINDS = {"list", "time", "none", "???", "domain", "space"}
"""Kinds of an axis along which volumes are stacked; all others are components of one voxel."""


def read_nrrd(path: Path, *, assume_orientation: str | None = None, volume_index: int | None = None) -> Volume:
    """Read one 3D volume from a .nrrd file, or a .nhdr file with its voxels in one file beside it.

    Args, returns and raises as `read_nifti`; needs pynrrd.
    """
    with reading(path):
        return read(_stored(*_header(path), path), path, assume_orientation, volume_index)


def segment_names(path: Path) -> dict[int, str]:
    """Label values and names of a segmentation that 3D Slicer wrote (``Segment0_LabelValue``, ``Segment0_Name``, ..); empty for other files."""
    with reading(path):
        header, _ = _header(path)
    found = {}
    for key, value in header.items():
        name = header.get(key.replace("_LabelValue", "_Name"))
        if key.startswith("Segment") and key.endswith("_LabelValue") and str(value).isdigit() and name is not None:
            found[int(value)] = str(name)
    if not found and any(key.startswith("Segment") and key.endswith("_Name") for key in header):
        raise InputError(f"{path}: its segments have names but no label values; save it anew with 3D Slicer, or give --label-map VALUE=STRUCTURE,..")
    return found


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and its length in bytes."""
    try:
        import nrrd
    except ImportError:
        raise InputError("reading NRRD needs pynrrd; install it with: pip install pynrrd") from None
    with opened(path, b"NRRD", "a NRRD file") as file:
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


def _stored(header: dict[str, Any], size: int, path: Path) -> Stored:
    def find(*names: str) -> Any:
        return next((header[n] for n in names if n in header), None)

    lacking = [n for n in ("type", "dimension", "sizes", "encoding") if n not in header]
    if lacking:
        raise InputError(f"{path}: the NRRD header lacks {', '.join(lacking)}")
    sizes = [int(v) for v in header["sizes"]]
    if header["dimension"] != len(sizes):
        raise InputError(f"{path}: the header states {header['dimension']} dimensions and {len(sizes)} sizes")
    directions = find("space directions")
    space, stacked = _axes(header, sizes, directions, path)
    shape, count = volume_shape([*(sizes[a] for a in space), *(sizes[a] for a in stacked)], path)
    dtype = next((np.dtype(code) for code, names in _TYPES.items() if header["type"] in names.split(", ")), None)
    if dtype is None:
        raise InputError(f"{path}: has the voxel type '{header['type']}', which is not a real number")
    if dtype.itemsize > 1 and header.get("endian") not in ("little", "big"):
        raise InputError(f"{path}: the header does not say whether the voxels are little or big endian")
    encoding = _ENCODINGS.get(str(header["encoding"]).lower())
    if encoding is None:
        raise InputError(f"{path}: the encoding {header['encoding']} is not supported; store it as raw or gzip")
    data, lines, skip = find("data file", "datafile"), int(find("line skip", "lineskip") or 0), int(find("byte skip", "byteskip") or 0)
    if lines or skip < -1 or (skip < 0 and encoding != "raw"):
        raise InputError(f"{path}: line skip and this byte skip are not supported; store it as one .nrrd file")
    affine, lacks = _affine(header, directions, space, path)
    units = {str(u) for u in (find("space units") or [u for u in find("units") or [] if u] or ["mm"])}
    return Stored(
        shape=shape, count=count, interleaved=bool(stacked) and stacked[0] < space[0],
        dtype=dtype.newbyteorder("<" if header.get("endian") != "big" else ">"), affine=affine,
        spacing=_spacing(header, directions, space), lacks=lacks,
        unit=unit_of(units, path), encoding=encoding, data=path if data is None else beside(path, str(data)),
        offset=size if data is None else 0, skip=skip,
    )  # fmt: skip


def _axes(header: Mapping[str, Any], sizes: list[int], directions: Any, path: Path) -> tuple[list[int], list[int]]:
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


def _spacing(header: Mapping[str, Any], directions: Any, space: list[int]) -> list[float]:
    """Voxel size for a file that does not say how it lies; empty where it states none."""
    if directions is not None:
        return [float(v) for v in np.linalg.norm(np.asarray(directions, float)[space], axis=1)]
    stated = header.get("spacings")
    return [] if stated is None or len(stated) <= max(space) else [float(stated[a]) for a in space]


def _affine(header: Mapping[str, Any], directions: Any, space: list[int], path: Path) -> tuple[NDArray[np.float64] | None, str]:
    """Voxel index to RAS+ in the header's unit, or None and what is missing for it."""
    name = str(header.get("space") or "").lower()
    if directions is None or name not in _SPACES:
        return None, "no space directions" if directions is None else f"space '{header.get('space') or ''}' is none of RAS, LAS and LPS"
    origin = header.get("space origin")
    vectors = np.asarray(directions, float)[space]
    if vectors.shape != (3, 3) or origin is None or np.shape(origin) != (3,):
        raise InputError(f"{path}: space directions or space origin are missing or not of three dimensions")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = vectors.T, origin
    return np.diag([*_SPACES[name], 1.0, 1.0]) @ affine, ""
