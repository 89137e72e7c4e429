"""What NRRD and MetaImage have in common: a text header with voxels behind it or in a file beside it, held to the same checks as NIfTI.

The voxels are read here, because the usual readers fill a truncated volume with zeros and do not look at checksums.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.geometry import Shape, assumed_affine, check_affine, choose_volume, in_mm, shear_notice
from auricle.data.voxels import Encoding, check_claim, read_voxels, scaled, skip_bytes, unpacking

Volume = tuple[NDArray[Any], NDArray[np.float64], list[str]]

MAX_HEADER = 2**20
_UNITS = {"mm": "mm", "millimeter": "mm", "millimeters": "mm", "": "mm", "cm": "cm", "centimeter": "cm", "m": "meters", "meter": "meters",
          "meters": "meters", "um": "microns", "µm": "microns", "micron": "microns", "microns": "microns", "micrometer": "microns"}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What a header says of shape, place and whereabouts of the voxels."""

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


def read(stored: Stored, path: Path, assume: str | None, volume_index: int | None) -> Volume:
    """The volume that a header describes; `path` is the header's file."""
    index, notices = choose_volume(path, stored.count, volume_index)
    affine = stored.affine
    if affine is None:
        if len(stored.spacing) != 3 or not all(math.isfinite(v) and v > 0 for v in stored.spacing):
            raise InputError(f"{path}: states neither orientation nor a positive voxel size")
        affine, more = assumed_affine(assume, stored.spacing, stored.shape, path, stored.lacks)
        notices += more
    check_affine(affine, path)
    affine, more = in_mm(affine, stored.unit, path)
    notices += more + shear_notice(affine, path)
    with stored.data.open("rb") as file:
        there = stored.data.stat().st_size - stored.offset
        volume = math.prod(stored.shape) * stored.count * stored.dtype.itemsize
        check_claim(path, stored.shape, stored.count, volume + max(0, stored.skip), there, stored.encoding)
        skip = there - volume if stored.skip < 0 else stored.skip
        file.seek(stored.offset)
        stream = unpacking(file, stored.encoding)
        skip_bytes(stream, skip, path)
        raw = read_voxels(stream, path, stored.shape, stored.dtype, count=stored.count, index=index, interleaved=stored.interleaved)
    return scaled(raw, 1.0, 0.0, path), affine, notices


def opened(path: Path, start: bytes, what: str) -> IO[bytes]:
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


def beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; one in another folder could be anything, and is refused."""
    if re.match(r"list\b(?!\.)", name, re.IGNORECASE) or "%" in name:
        raise InputError(f"{path}: spreads its voxels over several files, which is not supported; store it as one file")
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise InputError(f"{path}: its voxels lie in another folder ({name}); put both files into one")
    if not path.with_name(name).is_file():
        raise InputError(f"{path}: its file of voxels is missing: {name}")
    return path.with_name(name)


def unit_of(units: set[str], path: Path) -> str:
    """The one unit of length that a header names, as `MM_PER_UNIT` calls it."""
    found = {_UNITS.get(u.strip().lower()) for u in units}
    if len(found) != 1 or None in found:
        raise InputError(f"{path}: unknown unit of length ({', '.join(sorted(units))})")
    return str(found.pop())
