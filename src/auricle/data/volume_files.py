"""One volume from one file, whatever its format."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.dicom_files import is_dicom, series_of
from auricle.data.meta_files import read_metaimage
from auricle.data.nifti import read_nifti
from auricle.data.nrrd_files import read_nrrd

_READERS = {".nii": read_nifti, ".nii.gz": read_nifti, ".nrrd": read_nrrd, ".nhdr": read_nrrd, ".mha": read_metaimage, ".mhd": read_metaimage}
_VOXELS = re.compile(r"^[ \t]*(?:ElementDataFile[ \t]*=|data ?file:)[ \t]*([^/\\\r\n]+)\r?$", re.MULTILINE)
ENDINGS = tuple(_READERS)
SCAN_ENDINGS = (*ENDINGS, ".zip")
"""Names of files that are scans by themselves."""


def ending(path: Path) -> str | None:
    """The ending of a volume file; None for anything else."""
    return next((e for e in ENDINGS if path.name.lower().endswith(e)), None)


def scan_ending(path: Path) -> str | None:
    """The ending of a file that is a scan by itself, in small letters; None for anything else."""
    return next((e for e in SCAN_ENDINGS if path.name.lower().endswith(e)), None)


def stem(path: Path) -> str:
    """A file's or folder's name without the ending of a scan."""
    return path.name[: -len(scan_ending(path) or "") or None] or path.name


def files_of(path: Path) -> list[Path]:
    """The files of a scan or label map: those of a folder, and with a header (.mhd, .nhdr) its voxels."""
    if path.is_dir():
        return [p for p in sorted(path.rglob("*")) if p.is_file()]
    if ending(path) not in (".mhd", ".nhdr"):
        return [path]
    try:
        with path.open("rb") as file:
            named = _VOXELS.search(file.read(2**16).decode("latin-1"))
    except OSError:  # whoever reads it will say so
        return [path]
    return [path, *([path.with_name(named[1].strip())] if named and path.with_name(named[1].strip()).is_file() else [])]


def content_digest(path: Path, without: Path) -> str:
    """SHA-256 of the bytes that a scan is read from, with the names of files where there are several.

    Of a folder these are its DICOM files but for what lies in the folder `without`, where results go; of a header its voxels too; of one DICOM file
    those of its folder, and which series it stands for.
    """
    folder = path if path.is_dir() else path.parent
    whole = hashlib.sha256()
    if path.is_dir() or path.name == "DICOMDIR" or (scan_ending(path) is None and is_dicom(path)):
        results = without.absolute()
        files = [p for p in files_of(folder) if results not in p.absolute().parents and is_dicom(p)]
        if path.is_file() and path.name != "DICOMDIR":
            whole.update(f"{series_of(path)}\0".encode())
    else:
        files = files_of(path)
    for file in files:
        name = "" if files == [path] else file.relative_to(folder)
        whole.update(os.fsencode(f"{name}\0{file.stat().st_size}\0"))
        with file.open("rb") as handle:
            while part := handle.read(2**20):
                whole.update(part)
    return whole.hexdigest()


def read_volume(
    path: Path, *, assume_orientation: str | None = None, volume_index: int | None = None
) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """Read one 3D volume from a NIfTI, NRRD or MetaImage file.

    Args:
        path: the file, known by its ending.
        assume_orientation: axis code such as ``"RAS"`` for a file that states no orientation.
        volume_index: which volume of a 4D file to take, from 0.

    Returns:
        Array [x, y, z] (integers where the file holds them and scales by whole numbers), the affine from voxel index to RAS+ mm, and notices.

    Raises:
        InputError: the file is damaged, or its header does not describe one finite 3D volume in space.
    """
    path = Path(path)
    kind = ending(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if kind is None:
        raise InputError(f"{path}: not the name of a volume file; it should end in {', '.join(ENDINGS)}")
    return _READERS[kind](path, assume_orientation=assume_orientation, volume_index=volume_index)
