"""Where cases come from: virtual patients, or scans with label maps in a folder or listed in a table."""

import itertools
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.core.config import digest
from auricle.core.errors import InputError
from auricle.core.seeds import numpy_generator
from auricle.data.dicom_files import patient_mark
from auricle.data.fingerprint import content_hash
from auricle.data.folder import PairPath, find_pairs, read_pair
from auricle.data.geometry import check_axis_code
from auricle.data.label_names import dropped_labels
from auricle.data.preprocess import ModelGrid, heart_center, orient, window
from auricle.phantom import CONTRASTS, virtual_patient

Split = Literal["train", "validation", "test"]
LEAST_PATIENTS = 4
"""Two to train (one of them is held out for early stopping), one to validate, one to test."""


@dataclass(frozen=True)
class VirtualData:
    """A cohort of virtual patients."""

    kind: Literal["virtual"] = "virtual"
    patients: int = 60
    """How many patients are drawn."""
    seed: int = 0
    """Patient k of a seed is the same whatever the count and the grid."""
    contrast: Literal["as scanned", "even"] = "as scanned"
    """How often each timing of the contrast agent is met: as in coronary CT angiography, or every timing (none included) equally often."""

    def __post_init__(self) -> None:
        if self.patients < LEAST_PATIENTS:
            raise ValueError(f"--data.patients must be at least {LEAST_PATIENTS} (two to train, one each to validate and test), not {self.patients}")


@dataclass(frozen=True)
class FolderData:
    """Scans with label maps on disk."""

    path: Path
    """A folder in a layout of nnU-Net, the Medical Segmentation Decathlon, MM-WHS, TotalSegmentator or image and label pairs, or a .csv of paths."""
    kind: Literal["folder"] = "folder"
    label_map: str | None = None
    """What the label files' values mean, e.g. ``1=LV,2=RV``, where a data set names none."""
    assume_orientation: str | None = None
    """Axis code such as RAS for files that state no orientation."""
    not_hu: bool = False
    """Accept images whose values do not look like HU."""

    def __post_init__(self) -> None:
        if self.label_map is not None:
            parse_label_map(self.label_map)
        check_axis_code(self.assume_orientation)


Data = VirtualData | FolderData


class Cohort(Protocol):
    """A list of labeled cases, each brought to the model grid on request."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    """Patient of each case: no patient is ever in two splits."""
    notices: tuple[str, ...]
    """What the user should know about the cohort as a whole."""

    def fingerprint(self) -> str:
        """Changes whenever a case of the cohort does."""

    def source(self, index: int) -> str:
        """Changes whenever what case `index` is read from does."""

    def check_patients(self, splits: Sequence[Split]) -> None:
        """Raise `InputError` where cases of two splits seem to be one patient."""

    def load(self, index: int, grid: ModelGrid) -> tuple[Case, list[str]]:
        """Case `index` on `grid` around the heart, and notices for the user."""


def parse_label_map(text: str) -> dict[int, int]:
    """``1=LV,2=RV`` as values to structure ids; raises `ValueError` for anything else."""
    result: dict[int, int] = {}
    for part in text.split(","):
        value, _, key = (p.strip() for p in part.partition("="))
        if not value.isdigit() or (key != "0" and key.upper() not in ID):
            raise ValueError(f"--label-map: {part!r} is not VALUE=STRUCTURE with a structure of {', '.join(ID)}, or 0 to drop the value")
        if int(value) == 0 and key != "0":
            raise ValueError(f"--label-map: {part!r} gives the value 0 a structure, and 0 is always background")
        if int(value) in result:
            raise ValueError(f"--label-map: the value {int(value)} is given twice")
        result[int(value)] = 0 if key == "0" else ID[key.upper()]
    return result


def open_cohort(data: Data) -> Cohort:
    """The cohort that `data` describes; raises `InputError` where there is none."""
    return VirtualCohort(data) if isinstance(data, VirtualData) else FolderCohort(data)


class VirtualCohort:
    """Virtual patients, drawn by seed."""

    def __init__(self, data: VirtualData) -> None:
        self._data = data
        self.ids = tuple(f"virtual-{data.seed}-{i:04d}" for i in range(data.patients))
        self.patients = self.ids
        self.notices: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Seed, count and contrast say it all."""
        return digest([self._data.seed, len(self.ids), *([self._data.contrast] if self._data.contrast != "as scanned" else [])])

    def source(self, index: int) -> str:
        """Seed, index and contrast."""
        return digest([self._data.seed, index, self._data.contrast])

    def check_patients(self, splits: Sequence[Split]) -> None:
        """No two of them are one."""

    def load(self, index: int, grid: ModelGrid) -> tuple[Case, list[str]]:
        """Scan patient `index` on the grid."""
        contrast = list(CONTRASTS)[index % len(CONTRASTS)] if self._data.contrast == "even" else None
        return replace(virtual_patient(self._data.seed, index, grid.size, grid.spacing, contrast=contrast), id=self.ids[index]), []


class FolderCohort:
    """Pairs on disk, resampled to the model grid around the labeled heart."""

    def __init__(self, data: FolderData) -> None:
        self._data = data
        found = find_pairs(data.path, label_map=None if data.label_map is None else parse_label_map(data.label_map))
        self._pairs: list[PairPath] = [p for p in found if p.label is not None]
        if len(self._pairs) < LEAST_PATIENTS:
            raise InputError(f"{data.path}: {len(self._pairs)} cases with a label map; at least {LEAST_PATIENTS} are needed")
        left_out = len(found) - len(self._pairs)
        self.notices: tuple[str, ...] = (f"{data.path}: {left_out} scans without a label map are left out",) if left_out else ()
        table = data.path / "dataset.json"
        if data.label_map is None and table.is_file() and (dropped := dropped_labels(table)):
            listed = ", ".join(dropped[:8]) + (f", .. ({len(dropped)} in all)" if len(dropped) > 8 else "")
            self.notices += (f"{table}: no structure is named {listed}; their voxels become background. If one is, give --label-map",)
        self.ids = tuple(p.id for p in self._pairs)
        self.patients = tuple(p.patient or p.id for p in self._pairs)

    def fingerprint(self) -> str:
        """Places, sizes and modification times of the files: an edited one is read again."""
        path = self._data.path
        files = [f for p in self._pairs for f in p.files]
        files += [path] if path.is_file() else [f for name in ("dataset.json", "patients.csv", "meta.csv") if (f := path / name).exists()]
        return digest([list(self.ids), [self._stamp(f) for f in files]])

    def source(self, index: int) -> str:
        """Places, sizes and modification times of the pair's files, and what is known about it."""
        pair = self._pairs[index]
        values = None if pair.label_map is None else sorted(pair.label_map.items())
        return digest([[self._stamp(f) for f in pair.files], pair.patient, dict(pair.attributes), values])

    def _stamp(self, path: Path) -> list[Any]:
        """Place below the data set, size and modification time of a file."""
        facts = path.stat()
        root = self._data.path if self._data.path.is_dir() else self._data.path.parent
        return [os.path.relpath(path, root), facts.st_size, facts.st_mtime_ns]

    def check_patients(self, splits: Sequence[Split]) -> None:
        """Raise `InputError` where the PatientID says that cases of two splits are one patient, and no table says who they are.

        An ID that all cases with one share stands for nobody: anonymization left it there.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for i, pair in enumerate(self._pairs):
            if (mark := patient_mark(pair.image)) is not None:
                groups[mark].append(i)
        for group in groups.values() if len(groups) > 1 else []:
            for a, b in itertools.combinations(group, 2):
                if splits[a] != splits[b] and None in (self._pairs[a].patient, self._pairs[b].patient):
                    told = f"{self.ids[a]} ({splits[a]}) and {self.ids[b]} ({splits[b]}) have the same PatientID"
                    raise InputError(f"{told}: say in patients.csv, or in the column patient of the table, whose they are")

    def load(self, index: int, grid: ModelGrid) -> tuple[Case, list[str]]:
        """Read pair `index`; raises `InputError` for a pair that cannot be used."""
        pair = self._pairs[index]
        case, notices = read_pair(pair, assume_orientation=self._data.assume_orientation, not_hu=self._data.not_hu)
        case = orient(case)
        case = replace(case, attributes={**case.attributes, "content_sha256": content_hash(case)})
        assert case.label is not None
        center = heart_center(case.label, case.affine)
        if center is None:
            # Only vessels or the appendage are labeled: their middle is the best guess.
            center = heart_center(np.where(case.label > 0, ID["LV"], 0).astype(np.uint8), case.affine)
        if center is None:
            notices = [*notices, f"{pair.label}: nothing is labeled; the case is taken for a scan without a heart, and its middle is kept"]
            center = (case.affine @ np.array([*((n - 1) / 2 for n in case.label.shape), 1.0]))[:3]
        return window(case, center, grid), notices


def split_patients(patients: tuple[str, ...], shares: tuple[float, float, float], seed: int) -> list[Split]:
    """Assign each case to train, validation or test, whole patients at a time, at least two to train and one to each other.

    `shares` are the parts of the three splits and need not sum to one. Raises `InputError` for fewer than four patients.
    """
    unique = sorted(set(patients))
    if len(unique) < LEAST_PATIENTS:
        raise InputError(f"{len(unique)} patients cannot be split into train, validation and test: {LEAST_PATIENTS} are needed")
    order = [unique[i] for i in numpy_generator(seed, "split").permutation(len(unique))]
    share = np.array(shares) / sum(shares)
    validation = min(max(1, round(share[1] * len(order))), len(order) - 3)
    test = min(max(1, round(share[2] * len(order))), len(order) - validation - 2)
    place: dict[str, Split] = dict.fromkeys(order, "train")
    place.update(dict.fromkeys(order[:test], "test"))
    place.update(dict.fromkeys(order[test : test + validation], "validation"))
    return [place[p] for p in patients]
