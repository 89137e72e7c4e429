"""Any scan a user gives, a volume file or DICOM, as one case in HU on its own grid."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.arrays import in_memory_order, slabs
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.archive import unpacked
from auricle.data.dicom import read_dicom
from auricle.data.dicom_files import is_dicom, series_of
from auricle.data.geometry import is_sheared
from auricle.data.preprocess import AIR_HU, upright
from auricle.data.volume_files import ENDINGS, ending, read_volume, scan_ending, stem

MAX_HU = 32767
Volume = tuple[NDArray[Any], NDArray[np.float64], list[str]]


def read_scan(
    path: Path,
    *,
    series: str | None = None,
    assume_orientation: str | None = None,
    volume_index: int | None = None,
    not_hu: bool = False,
    straighten: bool = True,
) -> tuple[Case, list[str]]:
    """Read one CT scan.

    Args:
        path: NIfTI, NRRD or MetaImage file, folder of a DICOM series, one file of it, or a .zip of any of these.
        series: series instance UID or number, where a folder holds several.
        assume_orientation: axis code such as ``"RAS"`` for a file that states none.
        volume_index: which volume of a 4D file.
        not_hu: accept values that cannot be HU, unchanged.
        straighten: resample a sheared grid to right angles.

    Returns:
        The case on the scan's own grid (a sheared one is resampled to right angles), image int16 where all values
        are whole, else float32, -1024 HU outside the field of view; and notices for the log.

    Raises:
        InputError: the scan cannot be read or is not plausible.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    image, affine, notices = _any(path, series, assume_orientation, volume_index)
    image, more = clean_hu(image, str(path), not_hu=not_hu)
    case = Case(id=scan_name(path), image=image, affine=affine)
    notices += more
    return straightened(case, path, notices) if straighten else (case, notices)


def straightened(case: Case, path: Path, notices: list[str]) -> tuple[Case, list[str]]:
    """A sheared case (without a label map) on the right-angled grid that covers it, with one more notice; others as they are."""
    if not is_sheared(case.affine):
        return case, notices
    image, affine = upright(case.image, case.affine)
    size = " x ".join(str(n) for n in image.shape)
    return Case(case.id, image, affine, attributes=case.attributes), [*notices, f"{path}: resampled to a right-angled grid of {size} voxels"]


def scan_name(path: Path) -> str:
    """What a scan is called: its file's or folder's name without ending; that of the folder for one file of a DICOM series."""
    if path.is_dir():
        return path.resolve().name
    return stem(path) if scan_ending(path) else path.resolve().parent.name


def _any(path: Path, series: str | None, assume: str | None, index: int | None) -> Volume:
    """Image, affine and notices of whatever lies at `path`."""
    if path.is_dir():
        return read_dicom(path, series)
    if scan_ending(path) == ".zip":
        return _zipped(path, series, assume, index)
    if path.name == "DICOMDIR":
        return read_dicom(path.parent, series)
    if ending(path):
        return read_volume(path, assume_orientation=assume, volume_index=index)
    if path.stat().st_size and is_dicom(path):
        return read_dicom(path.parent, series_of(path) if series is None else series)
    known = f"a volume ({', '.join(ENDINGS)}) nor DICOM nor a .zip of these"
    raise InputError(f"{path}: is neither {known}{'' if path.stat().st_size else ' (0 bytes)'}")


def _zipped(path: Path, series: str | None, assume: str | None, index: int | None) -> Volume:
    with unpacked(path) as folder:
        volumes = sorted(p for p in folder.rglob("*") if ending(p) and not p.name.startswith("."))
        if len(volumes) > 1:
            names = ", ".join(str(p.relative_to(folder)) for p in volumes[:8])
            raise InputError(f"{path}: holds {len(volumes)} volumes ({names}); unpack it and choose one")
        if volumes and any(p.is_file() and p not in volumes and is_dicom(p) for p in folder.rglob("*")):
            raise InputError(f"{path}: holds DICOM images and a volume ({volumes[0].relative_to(folder)}); unpack it and choose one")
        try:
            image, affine, notices = _any(volumes[0] if volumes else folder, series, assume, index)
        except InputError as error:
            raise InputError(str(error).replace(str(folder), str(path))) from None
        return image, affine, [n.replace(str(folder), str(path)) for n in notices]


def clean_hu(image: NDArray[Any], name: str, *, not_hu: bool = False) -> tuple[NDArray[Any], list[str]]:
    """Check that values are plausible HU, set padding (below -1024) to -1024 and clip to int16's range.

    Returns:
        int16 where all values are whole, else float32; and notices.

    Raises:
        InputError: values such as 0..255 or 0..4095, unless `not_hu`; the message gives the range.
    """
    low, high, padded = _range(image)
    notices = []
    if low >= 0 or high - low < 300 or (low > -200 and not _shows_fat(image)):
        message = f"{name}: values {low:g}..{high:g} are not HU (air is -1000, water 0, bone above 300)"
        if not not_hu:
            raise InputError(f"{message}; if they are meant, give --not-hu")
        notices.append(f"{message}; taken as they are, as you asked")
    if image.dtype == np.int16:
        # Most scans: nothing to convert, and nothing to copy where nothing is padded.
        clean, clipped = (np.maximum(image, np.int16(AIR_HU)) if padded else image), 0
    else:
        clean, clipped = _converted(image)
    if padded:
        notices.append(f"{name}: {padded} voxels below {AIR_HU} HU lie outside the field of view; set to {AIR_HU}")
    if clipped:
        notices.append(f"{name}: {clipped} voxels above {MAX_HU} HU clipped")
    return clean, notices


def _converted(image: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Values from -1024 to `MAX_HU`, as int16 where all are whole, and the number of those above it."""
    parts = in_memory_order(image)
    clipped = sum(int(np.count_nonzero(part > MAX_HU)) for part in parts)
    whole = np.issubdtype(image.dtype, np.integer) or all(_whole(part) for part in parts)
    out = np.empty_like(image, np.int16 if whole else np.float32)
    for part, target in zip(parts, in_memory_order(out), strict=True):
        inside = np.clip(part, AIR_HU, MAX_HU)
        target[...] = np.rint(inside) if whole and inside.dtype.kind == "f" else inside
    return out, clipped


def _whole(part: NDArray[Any]) -> bool:
    inside = np.clip(part, AIR_HU, MAX_HU).astype(np.float32)
    return np.array_equal(np.rint(inside), inside)


def _shows_fat(image: NDArray[Any]) -> bool:
    """Whether a ten-thousandth of the voxels is darker than water by 50: what is less, interpolation leaves beside edges."""
    return sum(int(np.count_nonzero((part <= -50) & (part >= AIR_HU))) for part in slabs(image)) >= 1e-4 * image.size


def _range(image: NDArray[Any]) -> tuple[float, float, int]:
    """Least and largest value inside the field of view, and the number of voxels outside it."""
    low, high, padded = np.inf, -np.inf, 0
    for part in slabs(image):
        least = part.min()
        if least < AIR_HU:
            inside = part[part >= AIR_HU]
            padded += part.size - inside.size
            if not inside.size:
                continue
            least, part = inside.min(), inside
        low, high = min(low, float(least)), max(high, float(part.max()))
    return (low, high, padded) if low <= high else (float(image.min()), float(image.max()), padded)
