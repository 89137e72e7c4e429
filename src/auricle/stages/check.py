"""Check scans and label maps before anything is trained on them.

The folder holds ``check.json`` and ``check.csv``, written last, and under ``cases`` what is known about each sound case and two slices of it.
A case is checked again when one of its files, or what was asked, has changed.
"""

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from auricle import __version__
from auricle.core import config as configs
from auricle.core import processes, progress
from auricle.core.anatomy import KEYS
from auricle.core.errors import Busy, InputError
from auricle.core.files import read_json, write_json, write_text
from auricle.core.runs import Run, held_elsewhere
from auricle.data.cohort import parse_label_map
from auricle.data.dicom_files import is_dicom
from auricle.data.folder import PairPath, find_pairs
from auricle.data.geometry import check_axis_code
from auricle.data.reading import scan_name
from auricle.stages.check_case import Job, Record, examine
from auricle.stages.check_cohort import across, tables
from auricle.stages.check_needs import needs

VERSION = 1
"""Of the fields of check.json; grows when one changes its meaning or goes."""
CASES = "cases"
SHEETS = "contact-sheet-*.png"


@dataclass(frozen=True)
class CheckConfig:
    """What is checked, and how."""

    data: tyro.conf.Positional[Path]
    """Folder of a cohort or .csv of its paths, one scan, or the folder of a DICOM series."""
    label_map: str | None = None
    """As in `auricle run`."""
    assume_orientation: str | None = None
    """As in `auricle run`."""
    not_hu: bool = False
    """As in `auricle run`."""
    quick: bool = False
    """Read headers alone: shape, place in space and file size."""
    workers: int = 0
    """Processes that read; 0 takes one a core. Fewer need less memory."""
    overwrite: bool = False
    """Replace the check of other data or settings in --out, and read every case again."""

    def __post_init__(self) -> None:
        if self.label_map is not None:
            parse_label_map(self.label_map)
        check_axis_code(self.assume_orientation)
        if self.workers < 0:
            raise ValueError(f"--workers must not be negative, is {self.workers}")


def run(config: CheckConfig, out: Path | None = None, steps: Sequence[tuple[str, Any]] | None = None) -> dict[str, Any]:
    """Check `config.data`; returns what check.json holds, and writes it and check.csv to `out` unless that is None.

    `steps` are the stages of a recipe on this cohort, as `stages.plan` takes them, to say what it needs; None leaves that out.

    Raises:
        InputError: there is nothing to check, or `out` cannot be used. What is wrong with a case is in the result.
    """
    pairs, single = _pairs(config)
    this = None if out is None else _begin(config, out)
    try:
        records = [*progress.track(_records(config, pairs, single, out), "check", len(pairs))]
        found = [] if single else [f.json() for f in (*tables(config.data, pairs, mapped=config.label_map is not None), *across(records))]
        result = _result(config, records, found) | {"needs": None if steps is None else needs(steps, records)}
        if out is not None:
            write_text(out / "check.csv", table_of(result))
            write_json(out / "check.json", result)
    finally:
        if this is not None:
            this.release()
    return result


def verdict(record: Record, found: Sequence[dict[str, Any]] = ()) -> str:
    """``refused``, ``notice`` or ``clean``, from the case's own findings and those of the cohort that name it."""
    of_cohort = [f for f in found if record["id"] in f["cases"]]
    levels = {f["severity"] for f in [*record["findings"], *of_cohort]}
    return "refused" if "refused" in levels else "notice" if levels else "clean"


def table_of(result: dict[str, Any]) -> str:
    """One row a case, as CSV."""
    text = io.StringIO()
    rows = [_row(r) for r in result["cases"]]
    table = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _pairs(config: CheckConfig) -> tuple[list[PairPath], bool]:
    """The cases, and whether it is one scan by itself."""
    data = config.data
    if not data.exists():
        raise InputError(f"{data}: no such file or folder")
    if data.is_file() and data.suffix.lower() != ".csv":
        return [PairPath(scan_name(data), data, None)], True
    try:
        return find_pairs(data, label_map=None if config.label_map is None else parse_label_map(config.label_map)), False
    except InputError as error:
        if "no scans found" in str(error) and _holds_dicom(data):
            return [PairPath(scan_name(data), data, None)], True
        raise


def _holds_dicom(folder: Path) -> bool:
    """Whether a file of a folder, or of its folders, is DICOM."""
    return any(is_dicom(p) for p in folder.rglob("*") if p.is_file() and p.name != "DICOMDIR" and not p.name.startswith("."))


def _begin(config: CheckConfig, out: Path) -> Run:
    """Lock `out` for this check; with `overwrite`, whatever an earlier one left there is removed first."""
    described = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("workers", "overwrite")}
    this = Run(out, "check", {**described, "data": str(config.data.resolve())}, {})
    if out.exists():
        if not out.is_dir():
            raise InputError(f"{out} is not a folder")
        before = _before(out)
        if before is None and any(p.name != ".DS_Store" for p in out.iterdir()):
            raise InputError(f"{out} holds other things than a check: choose a new or empty --out")
        changes = [] if before is None else configs.differences(before["config"], this.description["config"])
        if changes and not config.overwrite:
            raise InputError(f"{out} holds a check of other data or settings ({'; '.join(changes[:4])}): choose another --out or give --overwrite")
        if before is not None and config.overwrite:
            if held_elsewhere(out):
                raise Busy(f"{out} is in use by process {(out / 'lock').read_text(encoding='utf-8').strip()}")
            _clear(out)
    this.begin()
    # What is renewed must not be taken for the result of this check if it is broken off.
    for path in (out / "check.json", out / "check.csv", *out.glob(SHEETS)):
        path.unlink(missing_ok=True)
    return this


def _before(out: Path) -> dict[str, Any] | None:
    """The description of the check that `out` holds, if it holds one."""
    try:
        before = read_json(out / "config.json")
    except (OSError, ValueError):
        return None
    known = isinstance(before, dict) and before.get("stage") == "check" and isinstance(before.get("config"), dict)
    return before if known else None


def _clear(out: Path) -> None:
    for path in (out / "config.json", out / "check.json", out / "check.csv", *out.glob(SHEETS)):
        path.unlink(missing_ok=True)
    shutil.rmtree(out / CASES, ignore_errors=True)


def _records(config: CheckConfig, pairs: Sequence[PairPath], single: bool, out: Path | None) -> Iterator[Record]:
    """The record of every case in order, from `out` where its files are those that were checked; one case at a time in each worker."""
    keys = [None if out is None else _key(config, p, single) for p in pairs]
    kept = {k: r for k in keys if out is not None and k is not None and (r := _kept(out, k)) is not None}
    jobs = [
        Job(p, single, config.quick, config.assume_orientation, config.not_hu, sum(_stamp(f)[1] for f in p.files),
            None if out is None else out / CASES / f"{k}.npz")
        for p, k in zip(pairs, keys, strict=True) if k not in kept
    ]  # fmt: skip
    fresh = processes.each(examine, jobs, config.workers)
    for pair, key in zip(pairs, keys, strict=True):
        record = kept.get(key) if key is not None else None
        if record is None:
            record = next(fresh)
            # What was refused is read again: the reason may lie outside of the file.
            if out is not None and verdict(record) != "refused":
                write_json(out / CASES / f"{key}.json", record)
        picture = out is not None and (out / CASES / f"{key}.npz").exists()
        record = {**record, "patient": pair.patient, "picture": f"{CASES}/{key}.npz" if picture else None}
        # No verdict yet: comparing the cases may refuse more of them.
        progress.event("case", id=record["id"], findings=record["findings"])
        yield record
    if out is not None:
        _sweep(out / CASES, {str(k) for k in keys})


def _kept(out: Path, key: str) -> Record | None:
    try:
        return dict(read_json(out / CASES / f"{key}.json"))
    except (OSError, ValueError):
        return None


def _sweep(folder: Path, keys: set[str]) -> None:
    """Remove what was known about files that have changed since."""
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.stem not in keys:
            path.unlink(missing_ok=True)


def _key(config: CheckConfig, pair: PairPath, single: bool) -> str:
    """Changes whenever a file of the case, or what was asked, does."""
    label_map = sorted(pair.label_map.items()) if pair.label_map else None
    asked = [VERSION, __version__, pair.id, label_map, config.assume_orientation, config.not_hu, config.quick, single]
    return configs.digest([asked, [_stamp(f) for f in pair.files]])


def _stamp(path: Path) -> list[Any]:
    try:
        state = os.stat(path)
    except OSError:
        return [str(path.absolute()), 0, 0]
    return [str(path.absolute()), state.st_size, state.st_mtime_ns]


def _result(config: CheckConfig, records: Sequence[Record], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What check.json holds."""
    cases = [{**r, "verdict": verdict(r, found)} for r in records]
    counts = Counter(c["verdict"] for c in cases)
    shown = [c for c in cases if c["structures"] is not None]
    structures = {
        key: {
            "present": sum(key in c["structures"] for c in shown), "missing": sum(key in (c["missing"] or ()) for c in shown),
            "cut": sum(bool(c["structures"].get(key, {}).get("sides")) for c in shown),
        }
        for key in KEYS
    }  # fmt: skip
    severities = Counter(f["severity"] for f in [*found, *(f for c in cases for f in c["findings"])])
    return {
        "version": VERSION, "auricle": __version__, "settings": configs.to_json(config),
        "summary": {
            "cases": len(cases), "labeled": sum(c["label"] is not None for c in cases), "patients": len({c["patient"] or c["id"] for c in cases}),
            "refused": counts["refused"], "notice": counts["notice"], "clean": counts["clean"], "refusals": severities["refused"],
            "notices": severities["notice"], "empty_labels": sum(not c["structures"] for c in shown), "structures": structures,
            "axes": dict(Counter(c["axes"] for c in cases if c["axes"] is not None)), "bytes": sum(c["bytes"] for c in cases),
            "fingerprint": fingerprint([c for c in cases if c["verdict"] != "refused"]),
        },
        "findings": list(found), "cases": cases,
    }  # fmt: skip


def fingerprint(cases: Sequence[Record]) -> dict[str, Any]:
    """Least, median and most over `cases` of what a model grid is chosen by; None where no case shows it.

    ``shape``, ``spacing_mm`` and ``extent_mm`` are along x (left to right), y and z of the patient, whatever the order of a file's axes;
    ``structures`` holds ``ml`` and ``mean_hu`` of each structure over the cases that show it.
    """
    grids = []
    for case in cases:
        if case["axes"] is not None:
            order = np.argsort([next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair) for letter in case["axes"]])
            grids.append([np.array(case[name], float)[order] for name in ("shape", "spacing_mm")])
    shape, spacing = (np.array([g[k] for g in grids]) for k in range(2))
    found = [[(c["structures"] or {}).get(key, {}) for c in cases] for key in KEYS]
    return {
        "shape": _spread(shape), "spacing_mm": _spread(spacing), "extent_mm": _spread(shape * spacing),
        "structures": {
            key: {name: _spread(np.array([f[name] for f in own if f.get(name) is not None], float)) for name in ("ml", "mean_hu")}
            for key, own in zip(KEYS, found, strict=True)
        },
    }  # fmt: skip


def _spread(values: NDArray[np.float64]) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {name: np.round(f(values, axis=0), 3).tolist() for name, f in (("least", np.min), ("median", np.median), ("most", np.max))}


def _row(case: Record) -> dict[str, Any]:
    """A case's row of check.csv."""
    row: dict[str, Any] = {"id": case["id"], "patient": case["patient"] or "", "verdict": case["verdict"]}
    row |= {k: sum(f["severity"] == s for f in case["findings"]) for k, s in (("refusals", "refused"), ("notices", "notice"))}
    for name in ("shape", "spacing_mm"):
        row |= {f"{name}_{axis}": v for axis, v in zip("xyz", case[name] or ("", "", ""), strict=True)}
    row |= {"axes": case["axes"] or "", "oblique_degrees": "" if case["oblique_degrees"] is None else case["oblique_degrees"]}
    hu = case["hu"] or {}
    row |= {f"hu_{k}": hu.get(k, "") for k in ("low", "high", "soft_tissue", "soft_tissue_share", "outside_view_share")}
    for key in KEYS:
        found = (case["structures"] or {}).get(key, {})
        mean = found.get("mean_hu")
        row |= {f"{key}_ml": found.get("ml", ""), f"{key}_hu": "" if mean is None else mean, f"{key}_sides": found.get("sides", "")}
    row |= {"content_sha256": case["content_sha256"] or "", "image": case["image"], "label": case["label"] or ""}
    return row | {"findings": " | ".join(f["text"] for f in case["findings"])}
