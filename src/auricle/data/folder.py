"""Folders of scans with label maps: nnU-Net raw data sets and plain pairs of files."""

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core.anatomy import ID, STRUCTURES
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.data.nifti import read_label, read_nifti
from auricle.data.nifti_header import apart, is_sheared
from auricle.data.preprocess import label_to_grid, orient, upright
from auricle.data.reading import clean_hu

_ENDINGS = (".nii.gz", ".nii")
_LABEL_MARK = re.compile(r"[._-](label|labels|seg|segmentation|mask)$", re.IGNORECASE)
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "MYO": ("myocardium", "lv myocardium", "left ventricular myocardium", "left ventricle myocardium", "heart myocardium", "lvm"),
    "LA": ("left atrium", "left atrial cavity", "left atrium blood cavity", "heart atrium left", "atrium left"),
    "LV": ("left ventricle", "left ventricular cavity", "left ventricle blood cavity", "heart ventricle left", "ventricle left"),
    "RA": ("right atrium", "right atrial cavity", "right atrium blood cavity", "heart atrium right", "atrium right"),
    "RV": ("right ventricular cavity", "right ventricle blood cavity", "heart ventricle right", "ventricle right"),
    "AO": ("aorta", "ascending aorta", "descending aorta", "thoracic aorta", "aortic arch"),
    "PA": ("pulmonary artery", "main pulmonary artery", "pulmonary trunk", "pulmonary arteries"),
    "LAA": ("left atrial appendage", "atrial appendage left", "left atrium appendage", "left auricle"),
}  # fmt: skip
_NAMES = {n: ID[s.key] for s in STRUCTURES for n in (s.key.lower(), s.name, *_SYNONYMS[s.key])}


@dataclass(frozen=True)
class PairPath:
    """One patient's files."""

    id: str
    image: Path
    label: Path | None
    """None for a scan without a label map."""
    patient: str | None = None
    """Patient id where the folder has a patients.csv (columns id, patient): one patient may have several scans."""
    label_map: Mapping[int, int] | None = None
    """From the label file's values to structure ids; None if they are structure ids already."""


def find_pairs(path: Path, *, label_map: Mapping[int, int] | None = None) -> list[PairPath]:
    """List the scans, and label maps where there are any, of a data set folder.

    Three layouts are known: nnU-Net raw (``dataset.json``, ``imagesTr/NAME_0000.nii.gz``, ``labelsTr/NAME.nii.gz``),
    ``images/`` and ``labels/`` with the same file names, and pairs side by side (``NAME.nii.gz`` with
    ``NAME_label.nii.gz``, ``NAME-label.nii.gz`` or ``NAME.seg.nii.gz``). Label names in a ``dataset.json`` are matched with
    structures in all of them.

    Args:
        path: the folder.
        label_map: from the label files' values to structure ids; overrides the names in ``dataset.json``.

    Returns:
        Pairs sorted by id.

    Raises:
        InputError: no scans, a label map without its scan, or label names that mean no structure.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    named = (path / "dataset.json").is_file()
    if named:
        label_map = label_map or _named(path / "dataset.json")
    if named and (path / "imagesTr").is_dir():
        images = _volumes(path / "imagesTr", channel=True)
        labels = _volumes(path / "labelsTr")
    elif (path / "images").is_dir():
        images, labels = _volumes(path / "images"), _volumes(path / "labels")
    else:
        images, labels = _side_by_side(path)
    if not images:
        known = "dataset.json with imagesTr/, images/ with labels/, or NAME.nii.gz with NAME_label.nii.gz"
        raise InputError(f"{path}: no scans found; expected {known}")
    alone = sorted(set(labels) - set(images))
    if alone:
        raise InputError(f"{path}: {len(alone)} label maps have no scan: {', '.join(alone[:8])}")
    patients = _patients(path / "patients.csv")
    unknown = sorted(set(patients) - set(images))
    if unknown:
        raise InputError(f"{path / 'patients.csv'}: no scan is named {', '.join(unknown[:8])}; ids are file names without their endings")
    return [PairPath(n, images[n], labels.get(n), patients.get(n), label_map) for n in sorted(images)]


def read_pair(pair: PairPath, *, assume_orientation: str | None = None, not_hu: bool = False) -> tuple[Case, list[str]]:
    """Read one pair as a case on the scan's own grid (a sheared one is resampled to right angles), with notices.

    Raises:
        InputError: a file cannot be read, or image and label do not lie on the same grid.
    """
    image, affine, notices = read_nifti(pair.image, assume_orientation=assume_orientation)
    image, more = clean_hu(image, str(pair.image), not_hu=not_hu)
    notices += more
    case = Case(pair.id, image, affine, attributes={} if pair.patient is None else {"patient": pair.patient})
    if pair.label is not None:
        label, other, more = read_label(pair.label, label_map=pair.label_map, assume_orientation=assume_orientation)
        notices += more
        _check_grid(pair, case, label.shape, other)
        case = replace(case, label=label)
        notices += _absent(pair, case)
    if is_sheared(affine):
        image, affine = upright(case.image, case.affine)
        x, y, z = image.shape
        label_up = None if case.label is None else label_to_grid(case.label, case.affine, affine, (x, y, z))
        case = replace(case, image=image, affine=affine, label=label_up)
        notices.append(f"{pair.image}: resampled to a right-angled grid of {x} x {y} x {z} voxels")
    return case, notices


def content_hash(case: Case) -> str:
    """SHA-256 of the image's shape and voxels (whole HU, in RAS+ order): the same scan under any name or axis order."""
    image = np.rint(orient(replace(case, label=None)).image).astype("<i2")
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def check_duplicates(hashes: Mapping[str, str]) -> None:
    """Refuse (`InputError`) cases with the same content; `hashes` maps case id to `content_hash`."""
    first: dict[str, str] = {}
    for name, digest in hashes.items():
        if digest in first:
            raise InputError(f"{first[digest]} and {name} are the same scan; remove one of them")
        first[digest] = name


def _named(path: Path) -> dict[int, int] | None:
    """Label values of an nnU-Net data set to structure ids, by name; labels that are no structure become background."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        raise InputError(f"{path}: has no table 'labels'")
    names: dict[int, str] = {}
    for key, value in labels.items():
        # nnU-Net 2 writes name: value, nnU-Net 1 value: name.
        name, number = (value, key) if str(key).isdigit() and isinstance(value, str) else (key, value)
        if not str(number).isdigit():
            raise InputError(f"{path}: label '{name}' is {number}, not one whole number; regions are not supported")
        names[int(number)] = str(name)
    found = {v: _NAMES.get(" ".join(re.findall(r"[a-z0-9]+", name.lower())), 0) for v, name in names.items() if v}
    if found and not any(found.values()):
        listed = ", ".join(f"{v} {names[v]}" for v in sorted(found))
        raise InputError(f"{path}: none of the labels ({listed}) is a structure by name; give --label-map VALUE=STRUCTURE,..")
    return found or None


def _volumes(folder: Path, *, channel: bool = False) -> dict[str, Path]:
    """NIfTI files of a folder by name; with `channel`, names end in _0000 and only one channel may be there."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        ending = next((e for e in _ENDINGS if path.name.endswith(e)), None)
        if ending is None or path.name.startswith("."):
            continue
        name = path.name.removesuffix(ending)
        if channel and re.search(r"_\d{4}$", name):
            if not name.endswith("_0000"):
                raise InputError(f"{path}: a second channel; only CT as the one channel _0000 is supported")
            name = name[:-5]
        if name in found:
            raise InputError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    return found


def _side_by_side(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for name, path in _volumes(folder).items():
        if _LABEL_MARK.search(name):
            key = _LABEL_MARK.sub("", name)
            if key in labels:
                raise InputError(f"{path}: {labels[key].name} is a label map of the same scan; keep one of them")
            labels[key] = path
        else:
            images[name] = path
    return images, labels


def _patients(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"id", "patient"} <= set(rows[0]):
        raise InputError(f"{path}: needs the columns id and patient")
    return {str(row["id"]).strip(): str(row["patient"]).strip() for row in rows}


def _check_grid(pair: PairPath, image: Case, shape: tuple[int, ...], affine: Any) -> None:
    if tuple(shape) != image.image.shape:
        sizes = f"{' x '.join(map(str, shape))} voxels, its scan {pair.image} {' x '.join(map(str, image.image.shape))}"
        raise InputError(f"{pair.label}: has {sizes}; give the label on the scan's grid")
    gap = apart(image.affine, affine, shape)
    if gap > 0.1 * min(image.spacing):
        size = np.linalg.norm(affine[:3, :3], axis=0)
        what = "spacing" if not np.allclose(size, image.spacing, rtol=1e-3) else "position or orientation"
        raise InputError(f"{pair.label}: differs in {what} from its scan {pair.image}: a voxel lies up to {gap:.3g} mm apart")


def _absent(pair: PairPath, case: Case) -> list[str]:
    """Notices on an empty label map or structures without voxels."""
    assert case.label is not None
    there = np.bincount(case.label.ravel(), minlength=len(STRUCTURES) + 1) > 0
    missing = [s.key for s in STRUCTURES if not there[s.id]]
    if len(missing) == len(STRUCTURES):
        return [f"{pair.label}: the label map is empty"]
    return [f"{pair.label}: no voxels of {', '.join(missing)}"] if missing else []
