"""DICOM CT series: classic (one slice per file) and enhanced (multi-frame)."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.core.memory import check_free
from auricle.data.decoding import decode_apart
from auricle.data.dicom_files import Slice, decode, scan_folder
from auricle.data.geometry import LPS_TO_RAS, MAX_AXIS, MAX_VOXELS, in_mm, is_sheared
from auricle.data.preprocess import AIR_HU
from auricle.data.voxels import SCAN_BYTES


@dataclass(frozen=True)
class Series:
    """One series of CT images found in a folder."""

    uid: str
    number: str
    description: str
    modality: str
    images: int
    matrix: str
    """Rows x columns; several where they differ."""

    def __str__(self) -> str:
        what = f"{self.images} images {self.matrix} {self.modality} '{self.description}'"
        return f"number {self.number or '-'}: {what} ({self.uid or 'no UID'})"


def read_dicom(folder: Path, series: str | None = None) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """Read one CT series.

    Args:
        folder: folder with the series' files, in any order and possibly among others.
        series: series instance UID or series number; needed where the folder holds several.

    Returns:
        HU [x, y, z] (int16 where slope and intercept are whole numbers, else float32; below -1024 outside the field
        of view), affine from voxel index to RAS+ mm (sheared for a tilted gantry), notices.

    Raises:
        InputError: not one complete, evenly spaced CT series that can be decoded.
    """
    folder = Path(folder)
    slices, notices = scan_folder(folder)
    slices, more = _choose(slices, series, folder)
    notices += more
    _check_alike(slices, folder)
    slices = _sorted(slices, folder)
    affine = _affine(slices, folder)
    image, more = _pixels(slices)
    notices += more
    if is_sheared(affine):
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        tilt = math.degrees(math.asin(min(1.0, float(np.abs(axes[:, 2] @ axes[:, :2]).max()))))
        notices.append(f"{folder}: gantry tilt of {tilt:.1f} degrees (the slices do not lie upright on each other)")
    return image, affine, notices


def _summaries(slices: list[Slice]) -> list[Series]:
    found = []
    for uid in dict.fromkeys(s.series for s in slices):
        own = [s for s in slices if s.series == uid]
        sizes = ", ".join(f"{r}x{c}" for r, c in dict.fromkeys(s.shape for s in own))
        found.append(Series(uid, own[0].number, own[0].description, own[0].modality, len(own), sizes))
    return sorted(found, key=lambda s: (-s.images, s.uid))


def _choose(slices: list[Slice], series: str | None, folder: Path) -> tuple[list[Slice], list[str]]:
    """The slices of the one series wanted, without localizers."""
    notices = []
    kept = [s for s in slices if not s.localizer and s.position]
    if not kept:
        raise InputError(f"{folder}: holds only localizers or images without a position, no slices")
    if len(kept) < len(slices):
        notices.append(f"{folder}: {len(slices) - len(kept)} localizers or images without a position were left out")
    found = _summaries(kept)
    scans = [s for s in found if s.modality == "CT"]
    if series is None and len(scans) == 1 and len(found) > 1:
        others = ", ".join(sorted({s.modality or "unknown" for s in found} - {"CT"}))
        notices.append(f"{folder}: {len(found) - 1} series of another modality ({others}) left out")
        found = scans
    listing = "; ".join(str(s) for s in found)
    if series is None and len(found) > 1:
        way_out = "choose one with --series UID or NUMBER (auricle segment), name one of its files, or give it a folder of its own"
        raise InputError(f"{folder}: holds {len(found)} series; {way_out}: {listing}")
    wanted = found if series is None else [s for s in found if s.uid == series] or [s for s in found if s.number == series]
    if len(wanted) != 1:
        raise InputError(f"--series {series}: {'several' if wanted else 'none'} in {folder} match; it holds {listing}")
    if wanted[0].modality != "CT":
        raise InputError(f"{folder}: the modality is {wanted[0].modality or 'not given'}; CT images are needed")
    chosen = [s for s in kept if s.series == wanted[0].uid]
    alike = (s for s in slices if s.series and s.series == wanted[0].uid and s.shape == chosen[0].shape)
    lost = next((s for s in alike if not s.localizer and not s.position), None)
    if lost is not None:
        raise InputError(f"{lost.path}: has no position, which other images of its series have; copy it again or remove it")
    return chosen, notices


def _check_alike(slices: list[Slice], folder: Path) -> None:
    """Refuse series whose images do not form one volume of HU."""
    first = slices[0]
    sizes = sorted({s.shape for s in slices})
    if len(sizes) > 1:
        each = ", ".join(f"{r}x{c} ({sum(s.shape == (r, c) for s in slices)} images)" for r, c in sizes)
        raise InputError(f"{folder}: the series mixes matrix sizes {each}; keep one kind in the folder")
    (rows, columns), = sizes
    if max(rows, columns) > MAX_AXIS or rows * columns * len(slices) > MAX_VOXELS:
        claim = f"{rows} x {columns} x {len(slices)}"
        raise InputError(f"{folder}: the headers claim {claim} voxels, more than are read (2^30); they are damaged, or keep the heart's slices alone")
    unscaled = next((s for s in slices if math.isnan(s.intercept)), None)
    if unscaled is not None and not all(math.isnan(s.intercept) for s in slices):
        raise InputError(f"{unscaled.path}: has no RescaleIntercept, which other images of its series have; copy it again or remove it")
    for s in slices:
        if s.frames != 1:
            raise InputError(f"{s.path}: holds {s.frames} frames and does not say where each of them lies; store the slices one by one")
        if s.samples != 1:
            raise InputError(f"{s.path}: is a color image; CT values are needed")
        if not math.isfinite(s.slope) or s.slope == 0:
            raise InputError(f"{s.path}: RescaleSlope is {s.slope:g}: the voxel values are lost")
        if math.isinf(s.intercept) or s.unit not in ("HU", "US"):
            raise InputError(f"{s.path}: the values are scaled to '{s.unit}' with intercept {s.intercept}; HU are needed")
        if len(s.position) != 3 or len(s.orientation) != 6 or len(s.spacing) != 2 or min(s.spacing) <= 0:
            raise InputError(f"{s.path}: position, orientation or pixel spacing is missing or impossible")
        if not np.isfinite([*s.position, *s.orientation, *s.spacing]).all():
            raise InputError(f"{s.path}: position, orientation or pixel spacing is not a number")
        if not np.allclose(s.orientation, first.orientation, atol=1e-3) or not np.allclose(s.spacing, first.spacing, rtol=1e-3):
            raise InputError(f"{folder}: {s.path.name} and {first.path.name} differ in orientation or pixel spacing")
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=2e-3):
        raise InputError(f"{first.path}: ImageOrientationPatient {first.orientation} is no pair of orthogonal unit vectors")
    if len(slices) < 2:
        raise InputError(f"{folder}: holds a single slice; a volume is needed")


def _sorted(slices: list[Slice], folder: Path) -> list[Slice]:
    """Slices by position along the slice normal; refuses gaps, duplicates and uneven spacing."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    slices = sorted(slices, key=lambda s: float(normal @ s.position))
    at = np.array([normal @ s.position for s in slices])
    gaps = np.diff(at)
    same = np.flatnonzero(gaps < 0.01)
    if same.size:
        where = _places(at[same])
        raise InputError(f"{folder}: several slices at the same position {where} mm; two phases or copies in one series?")
    gap = float(np.median(gaps))
    wide = np.flatnonzero(gaps > 1.5 * gap)
    if wide.size:
        where = _places([(at[i], at[i + 1]) for i in wide])
        raise InputError(f"{folder}: slices are missing between {where} mm (spacing {gap:.4g} mm); copy the whole series")
    # A tenth of the spacing allows for positions that were rounded to 0.1 mm in thin-slice series.
    points = np.array([s.position for s in slices])
    even = points[0] + np.linspace(0, 1, len(at))[:, None] * (points[-1] - points[0])
    off = np.flatnonzero(np.linalg.norm(points - even, axis=1) > max(0.1 * gap, 0.05))
    if off.size:
        raise InputError(f"{folder}: slices are not evenly spaced (spacing {gap:.4g} mm): those at {_places(at[off])} mm are off")
    return slices


def _places(values: Any) -> str:
    shown = [f"{v[0]:.2f} and {v[1]:.2f}" if np.ndim(v) else f"{v:.2f}" for v in list(values)[:8]]
    return ", ".join(shown) + (f", .. ({len(values)} in all)" if len(values) > 8 else "")


def _affine(slices: list[Slice], folder: Path) -> NDArray[np.float64]:
    """Voxel index [column, row, slice] to RAS+ mm; DICOM PS3.3 C.7.6.2.1.1, turned from LPS."""
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = (np.array(last.position) - np.array(first.position)) / (len(slices) - 1)
    affine[:3, 3] = first.position
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(axes)) < 0.5:
        raise InputError(f"{folder}: the slices run almost within their own plane; the positions are damaged")
    return in_mm(LPS_TO_RAS @ affine, "mm", folder)[0]


def _pixels(slices: list[Slice]) -> tuple[NDArray[Any], list[str]]:
    """HU of every slice; what lies outside the field of view is set to a value below -1024."""
    whole = all(s.slope.is_integer() and (math.isnan(s.intercept) or s.intercept.is_integer()) for s in slices)
    rows, columns = slices[0].shape
    check_free(slices[0].path.parent, rows * columns * len(slices) * SCAN_BYTES)
    out = np.empty((columns, rows, len(slices)), np.int16 if whole else np.float32, order="F")
    notices: dict[str, int] = {}
    for n, (s, frames, padding) in enumerate(_decoded(slices)):
        if frames.shape[1:] != s.shape or s.frame >= len(frames):
            raise InputError(f"{s.path}: the pixels do not have the size that the header states")
        raw = frames[s.frame]
        hu = raw * s.slope + (0.0 if math.isnan(s.intercept) else s.intercept)
        outside = _padded(raw, padding, s, notices) | (hu < AIR_HU)
        hu[outside] = AIR_HU - 1
        _count(notices, "voxels beyond 32767 HU clipped", int((hu > 32767).sum()))
        out[:, :, n] = np.minimum(hu, 32767).T
    if any(math.isnan(s.intercept) for s in slices):
        notices["slices without RescaleIntercept: values taken as HU"] = len(slices)
    return out, [f"{slices[0].path.parent}: {count} {what}" for what, count in notices.items()]


def _decoded(slices: list[Slice]) -> Iterator[tuple[Slice, NDArray[Any], tuple[int, int] | None]]:
    """Each slice with the frames and the padding of its file, which is decoded once for slices in a row."""
    groups = [(path, list(group)) for path, group in groupby(slices, key=lambda s: s.path)]
    paths = [path for path, _ in groups]
    with closing(decode_apart(paths) if any(s.apart for s in slices) else (decode(p) for p in paths)) as decoded:
        for (_, group), (frames, padding) in zip(groups, decoded, strict=True):
            for s in group:
                yield s, frames, padding


def _count(notices: dict[str, int], what: str, more: int) -> None:
    if more:
        notices[what] = notices.get(what, 0) + more


def _padded(raw: NDArray[Any], ends: tuple[int, int] | None, s: Slice, notices: dict[str, int]) -> NDArray[np.bool_]:
    """Pixels marked as padding (PixelPaddingValue up to PixelPaddingRangeLimit)."""
    if ends is None:
        return np.zeros(raw.shape, bool)
    mask: NDArray[np.bool_] = (raw >= ends[0]) & (raw <= ends[1])
    if ends[1] * s.slope + (0.0 if math.isnan(s.intercept) else s.intercept) > -900:
        _count(notices, "voxels have the padding value although it is the HU of tissue; kept", int(mask.sum()))
        return np.zeros(raw.shape, bool)
    return mask


@dataclass(frozen=True)
class SourceImages:
    """The images that a volume was read from."""

    slices: list[Slice]
    """In the order of the volume's third axis."""
    affine: NDArray[np.float64]
    """Voxel index [column, row, slice] to RAS+ mm; sheared where the gantry was tilted."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        rows, columns = self.slices[0].shape
        return columns, rows, len(self.slices)


def source_images(folder: Path, series: str | None = None) -> SourceImages:
    """The images of the series that `read_dicom` reads, in its order, and their own grid. Raises `InputError` as it does."""
    folder = Path(folder)
    slices, _ = _choose(scan_folder(folder)[0], series, folder)
    _check_alike(slices, folder)
    slices = _sorted(slices, folder)
    return SourceImages(slices, _affine(slices, folder))
