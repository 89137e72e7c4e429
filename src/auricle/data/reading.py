"""Any scan a user gives, NIfTI or DICOM, as one case in HU on its own grid."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.dicom import read_dicom
from auricle.data.dicom_files import is_dicom, series_of
from auricle.data.nifti import read_nifti
from auricle.data.nifti_header import is_sheared
from auricle.data.preprocess import AIR_HU, upright

MAX_HU = 32767


def read_scan(
    path: Path,
    *,
    series: str | None = None,
    assume_orientation: str | None = None,
    volume_index: int | None = None,
    not_hu: bool = False,
) -> tuple[Case, list[str]]:
    """Read one CT scan.

    Args:
        path: NIfTI file, folder of a DICOM series, or one file of it.
        series: series instance UID or number, where a folder holds several.
        assume_orientation: axis code such as ``"RAS"`` for a NIfTI file that states none.
        volume_index: which volume of a 4D NIfTI file.
        not_hu: accept values that cannot be HU, unchanged.

    Returns:
        The case on the scan's own grid (a sheared one is resampled to right angles), image int16 where all values
        are whole, else float32, -1024 HU outside the field of view; and notices for the log.

    Raises:
        InputError: the scan cannot be read or is not plausible.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        image, affine, notices = read_dicom(path, series)
        name = path.resolve().name
    elif path.name.endswith((".nii", ".nii.gz")):
        image, affine, notices = read_nifti(path, assume_orientation=assume_orientation, volume_index=volume_index)
        name = path.name.removesuffix(".gz").removesuffix(".nii")
    elif path.stat().st_size and is_dicom(path):
        image, affine, notices = read_dicom(path.parent, series_of(path) if series is None else series)
        name = path.resolve().parent.name
    else:
        raise InputError(f"{path}: is neither NIfTI (.nii, .nii.gz) nor DICOM{'' if path.stat().st_size else ' (0 bytes)'}")
    image, more = clean_hu(image, str(path), not_hu=not_hu)
    notices += more
    if is_sheared(affine):
        image, affine = upright(image, affine)
        notices.append(f"{path}: resampled to a right-angled grid of {' x '.join(str(n) for n in image.shape)} voxels")
    return Case(id=name, image=image, affine=affine), notices


def clean_hu(image: NDArray[Any], name: str, *, not_hu: bool = False) -> tuple[NDArray[Any], list[str]]:
    """Check that values are plausible HU, set padding (below -1024) to -1024 and clip to int16's range.

    Returns:
        int16 where all values are whole, else float32; and notices.

    Raises:
        InputError: values such as 0..255 or 0..4095, unless `not_hu`; the message gives the range.
    """
    low, high, padded = _range(image)
    notices = []
    if low >= 0 or high - low < 300:
        message = f"{name}: values {low:g}..{high:g} are not HU (air is -1000, water 0, bone above 300)"
        if not not_hu:
            raise InputError(f"{message}; if they are meant, give --not-hu")
        notices.append(f"{message}; taken as they are, as you asked")
    whole, clipped = True, 0
    out = np.empty(image.shape, np.float32)
    for x, part in enumerate(image):
        clipped += int(np.count_nonzero(part > MAX_HU))
        out[x] = np.clip(part, AIR_HU, MAX_HU)
        whole = whole and np.array_equal(np.rint(out[x]), out[x])
    if padded:
        notices.append(f"{name}: {padded} voxels below {AIR_HU} HU lie outside the field of view; set to {AIR_HU}")
    if clipped:
        notices.append(f"{name}: {clipped} voxels above {MAX_HU} HU clipped")
    return (out.astype(np.int16) if whole else out), notices


def _range(image: NDArray[Any]) -> tuple[float, float, int]:
    """Least and largest value inside the field of view, and the number of voxels outside it."""
    low, high, padded = np.inf, -np.inf, 0
    for part in image:
        inside = part[part >= AIR_HU]
        padded += part.size - inside.size
        if inside.size:
            low, high = min(low, float(inside.min())), max(high, float(inside.max()))
    return (low, high, padded) if low <= high else (float(image.min()), float(image.max()), padded)
