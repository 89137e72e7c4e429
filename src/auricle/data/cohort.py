"""Where cases come from: virtual patients, an nnU-Net raw data set, or a folder of image and label pairs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from auricle.core.case import Case
from auricle.core.config import digest
from auricle.core.errors import InputError
from auricle.core.seeds import numpy_generator
from auricle.data.folder import PairPath, find_pairs, read_pair
from auricle.data.preprocess import ModelGrid, heart_center, orient, window
from auricle.phantom import virtual_patient

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class VirtualData:
    """A cohort of virtual patients."""

    kind: Literal["virtual"] = "virtual"
    patients: int = 60
    """How many patients are drawn."""
    seed: int = 0
    """Patient k of a seed is the same whatever the count and the grid."""

    def __post_init__(self) -> None:
        if self.patients < 3:
            raise ValueError(f"--data.patients must be at least 3 (one each to train, validate and test), not {self.patients}")


@dataclass(frozen=True)
class FolderData:
    """Scans with label maps on disk."""

    path: Path
    """An nnU-Net raw data set, or a folder of image and label pairs."""
    kind: Literal["folder"] = "folder"


Data = VirtualData | FolderData


class Cohort(Protocol):
    """A list of labelled cases, each brought to the model grid on request."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    """Patient of each case: no patient is ever in two splits."""

    def fingerprint(self) -> str:
        """Changes whenever a case of the cohort does."""

    def load(self, index: int, grid: ModelGrid) -> tuple[Case, list[str]]:
        """Case `index` on `grid` around the heart, and notices for the user."""


def open_cohort(data: Data) -> Cohort:
    """The cohort that `data` describes; raises `InputError` where there is none."""
    return VirtualCohort(data) if isinstance(data, VirtualData) else FolderCohort(data)


class VirtualCohort:
    """Virtual patients, drawn by seed."""

    def __init__(self, data: VirtualData) -> None:
        self._seed = data.seed
        self.ids = tuple(f"virtual-{data.seed}-{i:04d}" for i in range(data.patients))
        self.patients = self.ids

    def fingerprint(self) -> str:
        """Seed and count say it all."""
        return digest([self._seed, len(self.ids)])

    def load(self, index: int, grid: ModelGrid) -> tuple[Case, list[str]]:
        """Scan patient `index` on the grid."""
        return replace(virtual_patient(self._seed, index, grid.size, grid.spacing), id=self.ids[index]), []


class FolderCohort:
    """Pairs on disk, resampled to the model grid around the labelled heart."""

    def __init__(self, data: FolderData) -> None:
        found = find_pairs(data.path)
        self._pairs: list[PairPath] = [p for p in found if p.label is not None]
        if len(self._pairs) < 3:
            raise InputError(f"{data.path}: {len(self._pairs)} cases with a label map; at least 3 are needed to train, validate and test")
        self.ids = tuple(p.id for p in self._pairs)
        self.patients = tuple(p.patient or p.id for p in self._pairs)

    def fingerprint(self) -> str:
        """Names, sizes and modification times: an edited file is read again."""
        files = [f for p in self._pairs for f in (p.image, p.label) if f is not None]
        return digest([[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files])

    def load(self, index: int, grid: ModelGrid) -> tuple[Case, list[str]]:
        """Read pair `index`; raises `InputError` for a pair that cannot be used."""
        pair = self._pairs[index]
        case, notices = read_pair(pair)
        case = orient(case)
        assert case.label is not None
        center = heart_center(case.label, case.affine)
        if center is None:
            raise InputError(f"{pair.label}: no chamber and no myocardium is labelled, so the heart cannot be found")
        return window(case, center, grid), notices


def split_patients(patients: tuple[str, ...], shares: tuple[float, float, float], seed: int) -> list[Split]:
    """Assign each case to train, validation or test, whole patients at a time and at least one patient to each.

    `shares` are the parts of the three splits and need not sum to one. Raises `InputError` for fewer than three patients.
    """
    unique = sorted(set(patients))
    if len(unique) < 3:
        raise InputError(f"{len(unique)} patients cannot be split into train, validation and test")
    order = [unique[i] for i in numpy_generator(seed, "split").permutation(len(unique))]
    share = np.array(shares) / sum(shares)
    validation = max(1, round(share[1] * len(order)))
    test = min(max(1, round(share[2] * len(order))), len(order) - validation - 1)
    place: dict[str, Split] = dict.fromkeys(order, "train")
    place.update(dict.fromkeys(order[:test], "test"))
    place.update(dict.fromkeys(order[test : test + validation], "validation"))
    return [place[p] for p in patients]
