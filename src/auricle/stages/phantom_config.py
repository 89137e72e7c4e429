"""What can be asked of `auricle phantom`."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from auricle import __version__
from auricle.core.seeds import numpy_generator
from auricle.phantom.patient import CONTRASTS, PATHOLOGIES
from auricle.phantom.scanner import METALS

Triple = tuple[float, float, float]

SPACING_MM = (0.1, 10.0)
FURTHEST_MM = 500.0
MOST_PATIENTS = 1_000_000


@dataclass(frozen=True)
class PhantomConfig:
    """Which virtual patients, on which grid."""

    patients: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 100
    """How many patients. A larger number later extends the folder."""
    seed: int = 0
    """Seed of the cohort: patient k of a seed is the same person whatever the grid and the number of patients."""
    first: int = 0
    """Index of the first patient, so that several machines can share a cohort."""
    size: tuple[int, int, int] = (128, 128, 128)
    """Voxels along x (left to right), y (back to front) and z (bottom to top)."""
    spacing: Triple = (1.5, 1.5, 1.5)
    """Voxel size in mm. The default field of view, 192 mm, holds the whole heart with the roots of the great vessels."""
    center_offset: Triple = (0.0, 0.0, 0.0)
    """Middle of the scan relative to that of the heart, in mm toward right, front and head."""
    scan_shift: float = 0.0
    """Standard deviation in mm of a random shift of each scan, along each axis, on top of --center-offset."""
    sex: Literal["M", "F"] | None = None
    """Sex of all patients; drawn if not given, as all that follows."""
    contrast: str | None = None
    """Timing of the contrast agent: chase, mixed, early, venous or none."""
    phase: float | None = None
    """Heart phase from 0 (end-diastole) to 1 (end-systole)."""
    metal: tuple[str, ...] = ()
    """none, any, or kinds such as pacemaker-lead or sternal-wires."""
    pathology: tuple[str, ...] = ()
    """none, any, or kinds such as hypertrophy or atrial-fibrillation."""
    prevalence: tuple[str, ...] = ()
    """Share of the patients with a pathology, e.g. hypertrophy=0.3."""
    layout: Literal["pairs", "nnunet"] = "pairs"
    """pairs: images/ID.nii.gz and labels/ID.nii.gz. nnunet: imagesTr/ID_0000.nii.gz and labelsTr/ID.nii.gz."""
    workers: int = 0
    """Processes; 0 takes one a core, fewer where the memory holds fewer."""

    def __post_init__(self) -> None:
        if not 1 <= self.patients <= MOST_PATIENTS:
            raise ValueError(f"--patients must be 1 to {MOST_PATIENTS}, not {self.patients}")
        for name in ("seed", "first", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, not {getattr(self, name)}")
        if min(self.size) < 16:
            raise ValueError(f"--size must be at least 16 voxels along each axis, not {spelled(self.size)}")
        low, high = SPACING_MM
        if not all(low <= s <= high for s in self.spacing):
            raise ValueError(f"--spacing must be {low:g} to {high:g} mm along each axis, not {spelled(self.spacing)}")
        if not all(abs(v) <= FURTHEST_MM for v in self.center_offset):
            raise ValueError(f"--center-offset must be within {FURTHEST_MM:g} mm along each axis, not {spelled(self.center_offset)}")
        if not 0 <= self.scan_shift <= FURTHEST_MM:
            raise ValueError(f"--scan-shift must be 0 to {FURTHEST_MM:g} mm, not {self.scan_shift:g}")
        if self.phase is not None and not 0 <= self.phase <= 1:
            raise ValueError(f"--phase must be 0 (end-diastole) to 1 (end-systole), not {self.phase:g}")
        if self.contrast is not None and self.contrast not in CONTRASTS:
            raise ValueError(f"--contrast {self.contrast!r} is not known; choose from {', '.join(CONTRASTS)}")
        self.forced()

    def forced(self) -> dict[str, Any]:
        """What is forced on every patient, as arguments of `virtual_patient`."""
        return {
            "sex": self.sex, "contrast": self.contrast, "phase": self.phase, "metal": _kinds("--metal", self.metal, METALS),
            "pathology": _kinds("--pathology", self.pathology, PATHOLOGIES), "prevalence": _shares(self.prevalence),
        }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What all patients of a folder have in common, as JSON values; `forced` in its one spelling."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("patients", "first", "workers")}
        found: dict[str, Any] = json.loads(json.dumps({"version": __version__, **own, **self.forced()}))
        return found

    def name(self, index: int) -> str:
        """Id of patient `index`."""
        return f"virtual-{self.seed}-{index:04d}"

    def offset(self, index: int) -> Triple:
        """Middle of patient `index`'s scan, RAS mm from that of the heart."""
        shift = self.scan_shift * numpy_generator(self.seed, "scan shift", index).standard_normal(3)
        x, y, z = (round(float(c + s), 2) for c, s in zip(self.center_offset, shift, strict=True))
        return x, y, z

    def files(self, out: Path, name: str) -> tuple[Path, Path]:
        """Image and label map of a patient."""
        if self.layout == "nnunet":
            return out / "imagesTr" / f"{name}_0000.nii.gz", out / "labelsTr" / f"{name}.nii.gz"
        return out / "images" / f"{name}.nii.gz", out / "labels" / f"{name}.nii.gz"


def _kinds(flag: str, words: tuple[str, ...], known: Iterable[str]) -> bool | tuple[str, ...] | None:
    """None as drawn, True some, False none, or the named kinds in the order of `known`; spaces may be written as hyphens."""
    if not words:
        return None
    if words in (("any",), ("none",)):
        return words == ("any",)
    names = {_typed(k): k for k in known}
    if {"any", "none"} & set(words):
        raise ValueError(f"{flag} takes any and none alone, not {' '.join(words)}")
    unknown = [w for w in words if _typed(w) not in names]
    if unknown:
        raise ValueError(f"{flag} {unknown[0]!r} is not known; give none, any, or some of {', '.join(names)}")
    return tuple(k for n, k in names.items() if n in map(_typed, words))


def _shares(words: tuple[str, ...]) -> dict[str, float]:
    names, found = {_typed(k): k for k in PATHOLOGIES}, {}
    for word in words:
        kind, _, share = word.rpartition("=")
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        if _typed(kind) not in names or not 0 <= number <= 1:
            raise ValueError(f"--prevalence {word!r} is not KIND=SHARE with a share of 0 to 1 and a kind of {', '.join(names)}")
        found[names[_typed(kind)]] = number
    return {k: found[k] for k in PATHOLOGIES if k in found}


def _typed(name: str) -> str:
    """A name as it is typed without quotes."""
    return name.lower().replace("_", "-").replace(" ", "-")


def spelled(value: Any) -> str:
    """A setting as it is typed."""
    if value is None or value == {}:
        return "not given"
    if isinstance(value, bool):
        return "any" if value else "none"
    if isinstance(value, Mapping):
        return " ".join(f"{_typed(k)}={v:g}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_typed(v) if isinstance(v, str) else f"{v:g}" for v in value)
    return str(value)
