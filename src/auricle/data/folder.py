"""Data sets of scans with label maps: list the pairs of a folder or table, and read one."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import ID, LABEL_COUNT, STRUCTURES
from auricle.core.arrays import count_values
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.geometry import apart, on_grid
from auricle.data.labels import label_values, read_label
from auricle.data.layouts import PairPath as PairPath
from auricle.data.layouts import layout_of, mask_files, table_pairs, with_table
from auricle.data.preprocess import label_to_grid
from auricle.data.reading import read_scan, straightened
from auricle.data.volume_files import read_volume

OVERLAP_ORDER = ("LAA", "MYO", "LV", "LA", "RV", "RA", "PA", "AO")
"""Which structure keeps a voxel that two masks claim, the first named: the appendage is often part of the atrium's mask, too."""
_IMAGE_CAS = re.compile(r"\d+\.label\.nii(\.gz)?")


def find_pairs(path: Path, *, label_map: Mapping[int, int] | None = None) -> list[PairPath]:
    """List the scans, and label maps where there are any, of a data set.

    Args:
        path: a folder in one of the `LAYOUTS`, or a .csv of paths (see `table_pairs`). A patients.csv in a folder names patients and attributes.
        label_map: from the label files' values to structure ids; overrides the names in ``dataset.json`` and the values of a known data set.

    Returns:
        Pairs sorted by id.

    Raises:
        InputError: no layout fits or several do, no scans, a label map without its scan, or label names that mean no structure.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        pairs = table_pairs(path, label_map)
    elif not path.is_dir():
        raise InputError(f"{path}: {'is neither a folder nor a .csv of paths' if path.exists() else 'no such folder'}")
    else:
        pairs = with_table(layout_of(path).pairs(path, label_map), path / "patients.csv")
    if not pairs:
        raise InputError(f"{path}: no scans found")
    known: dict[str, PairPath] = {}
    for pair in pairs:
        # Small letters: on many disks A and a are one file.
        if (first := known.setdefault(pair.id.casefold(), pair)) is not pair:
            both = f"{first.image} and {pair.image} would both be the case {pair.id}; rename one of them"
            raise InputError(f"{path}: {both if first.image != pair.image else f'lists {pair.image} twice'}")
    return sorted(pairs, key=lambda p: p.id)


def read_pair(pair: PairPath, *, assume_orientation: str | None = None, not_hu: bool = False) -> tuple[Case, list[str]]:
    """Read one pair as a case on the scan's own grid (a sheared one is resampled to right angles), with notices.

    Raises:
        InputError: a file cannot be read, or image and label do not lie on the same grid.
    """
    case, notices = read_scan(pair.image, assume_orientation=assume_orientation, not_hu=not_hu, straighten=False)
    known = {} if pair.patient is None else {"patient": pair.patient}
    case = replace(case, id=pair.id, attributes={**known, **pair.attributes})
    upright, notices = straightened(case, pair.image, notices)
    if pair.label is None:
        return upright, notices
    try:
        label, more = _label(pair, case, assume_orientation)
        if upright is not case:
            x, y, z = upright.image.shape
            label = label_to_grid(label, case.affine, upright.affine, (x, y, z))
    except InputError as error:
        if upright is case:
            raise
        try:
            # `auricle segment` writes the label map of a tilted scan on the right-angled grid.
            label, more = _label(pair, upright, assume_orientation)
        except InputError:
            raise error from None
    return replace(upright, label=label), notices + more + _absent(pair, label)


def check_duplicates(hashes: Mapping[str, str]) -> None:
    """Refuse (`InputError`) cases with the same content; `hashes` maps case id to `content_hash`."""
    first: dict[str, str] = {}
    for name, digest in hashes.items():
        if digest in first:
            raise InputError(f"{first[digest]} and {name} are the same scan; remove one of them")
        first[digest] = name


def _label(pair: PairPath, case: Case, assume: str | None) -> tuple[NDArray[np.uint8], list[str]]:
    """The label map of a pair, on the grid of its scan, and notices."""
    assert pair.label is not None
    if pair.label.is_dir():
        return _merged(pair.label, case, assume)
    label, affine, notices = read_label(pair.label, label_map=pair.label_map, assume_orientation=assume)
    _check_grid(pair.label, pair.image, case, label.shape, affine)
    if pair.label_map is None and _IMAGE_CAS.fullmatch(pair.label.name) and label.max(initial=0) == 1:
        what = "the label map holds 1 alone, as the coronary arteries of ImageCAS do, which are no structure here"
        raise InputError(f"{pair.label}: {what}; give --label-map 1=MYO if it is the myocardium")
    return label, notices


def _merged(folder: Path, case: Case, assume: str | None) -> tuple[NDArray[np.uint8], list[str]]:
    """One label map of the masks in a folder; where they overlap, the first of `OVERLAP_ORDER` wins."""
    out = np.zeros(case.image.shape, np.uint8, order="F")
    masks, overlapping, notices = mask_files(folder), 0, []
    for key in OVERLAP_ORDER:
        for path in masks.get(key, []):
            values, affine, more = read_volume(path, assume_orientation=assume)
            _check_grid(path, folder.parent, case, values.shape, affine)
            present = label_values(values, str(path))
            if present[0] < 0 or len(present) > 2 or (len(present) == 2 and present[0] != 0):
                raise InputError(f"{path}: is not a mask: it holds the values {', '.join(map(str, present[:8]))}")
            notices += more
            for part, target in zip(values.T, out.T, strict=True):  # x is fastest in most files
                overlapping += int(np.count_nonzero((part > 0) & (target > 0) & (target != ID[key])))
                target[(part > 0) & (target == 0)] = ID[key]
    if overlapping:
        notices.append(f"{folder}: {overlapping} voxels lie in two masks; the first of {', '.join(OVERLAP_ORDER)} keeps them")
    return out, notices


def _check_grid(path: Path, scan: Path, image: Case, shape: tuple[int, ...], affine: Any) -> None:
    """Refuse a label map off its scan's grid."""
    if tuple(shape) != image.image.shape:
        sizes = f"{' x '.join(map(str, shape))} voxels, its scan {scan} {' x '.join(map(str, image.image.shape))}"
        raise InputError(f"{path}: has {sizes}; give the label on the scan's grid")
    if not on_grid(image.image.shape, image.affine, shape, affine):
        gap = apart(image.affine, affine, shape)
        size = np.linalg.norm(affine[:3, :3], axis=0)
        what = "spacing" if not np.allclose(size, image.spacing, rtol=1e-3) else "position or orientation"
        raise InputError(f"{path}: differs in {what} from its scan {scan}: a voxel lies up to {gap:.3g} mm apart")


def _absent(pair: PairPath, label: NDArray[np.uint8]) -> list[str]:
    """Notices on an empty label map or structures without voxels."""
    there = count_values(label, LABEL_COUNT) > 0
    missing = [s.key for s in STRUCTURES if not there[s.id]]
    if len(missing) == len(STRUCTURES):
        return [f"{pair.label}: the label map is empty"]
    return [f"{pair.label}: no voxels of {', '.join(missing)}"] if missing else []
