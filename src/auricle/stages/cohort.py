"""Stage 1: bring a cohort to the model grid, once, and split it by patient.

The run folder holds ``images/ID.npy`` (int16 HU) and ``labels/ID.npy`` (uint8) on the model grid plus a margin that augmentation can
move into, and ``cases.json`` with each case's split, attributes and affine.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core import processes, progress
from auricle.core.anatomy import STRUCTURES
from auricle.core.config import digest, to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_array, write_json
from auricle.core.runs import Run
from auricle.data.cohort import Cohort, Data, Split, VirtualData, open_cohort, split_patients
from auricle.data.folder import check_duplicates
from auricle.data.preprocess import ModelGrid

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class CohortConfig:
    """Which cases, on which grid."""

    data: Data = field(default_factory=VirtualData)
    """Virtual patients, or a folder of scans."""
    size: Triple = (64, 64, 64)
    """Voxels of the model grid along x, y, z."""
    spacing: tuple[float, float, float] = (2.5, 2.5, 2.5)
    """Voxel size of the model grid in mm."""
    margin: Triple = (8, 8, 8)
    """Voxels kept beyond the model grid on every side, so that moving the field of view meets real surroundings."""
    shares: tuple[float, float, float] = (168.0, 43.0, 51.0)
    """Parts of the cohort that train, validate and test."""
    seed: int = 0
    """Seed of the split."""
    workers: int = 0
    """Processes that prepare cases; 0 takes one a core."""

    def __post_init__(self) -> None:
        if min(self.size) < 16 or any(n % 16 for n in self.size):
            raise ValueError(f"--size must be multiples of 16, not {self.size}")
        if min(self.spacing) <= 0 or min(self.margin) < 0 or min(self.shares) <= 0 or self.workers < 0:
            raise ValueError("--spacing and --shares must be positive, --margin and --workers not negative")

    @property
    def wide(self) -> ModelGrid:
        """The model grid with its margin."""
        x, y, z = (n + 2 * m for n, m in zip(self.size, self.margin, strict=True))
        return ModelGrid((x, y, z), self.spacing)


def run(config: CohortConfig, out: Path) -> Path:
    """Prepare the cohort into `out`; cases that are already there are kept, unless their files or what is asked have changed. Returns `out`."""
    cohort = open_cohort(config.data)
    # How many processes prepare it changes nothing, and a cohort that ran out of memory goes on with fewer.
    this = Run(out, "cohort", replace(config, workers=0), {"cohort": cohort.fingerprint()})
    if this.done:
        progress.report(f"{out}: cohort is ready")
        return out
    splits = split_patients(cohort.patients, config.shares, config.seed)
    cohort.check_patients(splits)
    for text in cohort.notices:
        progress.notice(text)
    before = _prepared(out)
    if this.begin(renew=True):
        progress.notice(f"{out}: files of the cohort have changed since it was prepared: what changed is prepared again")
    _discard(out, before - set(cohort.ids))
    try:
        cases = _prepare_cases(config, out, cohort, splits)
    except InputError:
        # The way out is another flag or a mended file: cases that neither concerns are kept.
        this.abandon()
        _discard(out, set())
        raise
    write_json(out / "cases.json", {"size": config.size, "spacing": config.spacing, "margin": config.margin, "cases": cases})
    this.finish(cases=len(cases))
    return out


def _prepared(out: Path) -> set[str]:
    """Names of the cases that lie in `out`, whole."""
    return {p.stem for p in (out / "records").glob("*.json") if not p.name.startswith(".")}


def _discard(out: Path, ids: set[str]) -> None:
    """Remove what was prepared, and folders that are empty then; nothing else that lies in `out`."""
    for folder, ending in (("images", "npy"), ("labels", "npy"), ("records", "json")):
        for name in ids:
            (out / folder / f"{name}.{ending}").unlink(missing_ok=True)
    for path in (out / "images", out / "labels", out / "records", out):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _prepare_cases(config: CohortConfig, out: Path, cohort: Cohort, splits: list[Split]) -> list[dict[str, Any]]:
    """Prepare every case; returns their records in order."""
    records: dict[int, dict[str, Any]] = {}
    jobs = [(config, out, i) for i in range(len(cohort.ids))]
    for index, record, notices in progress.track(processes.each(_prepare, jobs, config.workers), "cohort", len(jobs)):
        records[index] = record
        for text in notices:
            progress.notice(text)
    cases = [{"id": cohort.ids[i], "patient": cohort.patients[i], "split": splits[i], **records[i]} for i in range(len(cohort.ids))]
    check_duplicates({c["id"]: c["attributes"]["content_sha256"] for c in cases if "content_sha256" in c["attributes"]})
    for split, way_out in (("train", "is --label-map right?"), ("validation", "label them or remove them, or take another --seed")):
        own = [c for c in cases if c["split"] == split]
        if not any(c["structures"] for c in own):
            raise InputError(f"{out}: no label map of the {len(own)} cases of the {split} split shows a structure; {way_out}")
    return cases


def _prepare(job: tuple[CohortConfig, Path, int]) -> tuple[int, dict[str, Any], list[str]]:
    """Bring one case to the grid and store it; returns its index, its record for cases.json and notices."""
    config, out, index = job
    cohort = open_cohort(config.data)
    record_path = out / "records" / f"{cohort.ids[index]}.json"
    source = digest([cohort.source(index), to_json(config.data), config.wide.size, config.spacing])
    if record_path.exists() and (kept := read_json(record_path)).get("source") == source:
        return index, kept["case"], []
    record_path.unlink(missing_ok=True)
    case, notices = cohort.load(index, config.wide)
    assert case.label is not None
    image = np.clip(np.rint(case.image), -1024, 3071).astype(np.int16)
    for folder, array in (("images", image), ("labels", case.label)):
        write_array(out / folder / f"{case.id}.npy", array)
    present = [s.key for s in STRUCTURES if (case.label == s.id).any()]
    record = {"affine": case.affine.tolist(), "attributes": dict(case.attributes), "structures": present}
    # Written last: its presence says that the case is whole.
    write_json(record_path, {"source": source, "case": record})
    return index, record, notices

