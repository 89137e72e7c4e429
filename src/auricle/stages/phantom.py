"""Virtual patients as files: image and label map of each, one table of everything that is known about them.

A patient is finished when both its files are there and its row is in ``patients.csv`` or, until the command ends, in a file of its own
under ``.unfinished``.
"""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core import config as configs
from auricle.core import processes, progress
from auricle.core.anatomy import BACKGROUND, STRUCTURES
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json, write_text
from auricle.core.memory import free_bytes
from auricle.core.runs import Run
from auricle.data.nifti import write_nifti
from auricle.data.outputs import check_output, volumes, write_color_table
from auricle.phantom import virtual_patient
from auricle.stages.phantom_config import PhantomConfig, spelled

Row = dict[str, str]

WORK = ".unfinished"
"""Folder of what only a command at work needs."""
DISK_BYTES = 1.6
"""Bytes a voxel takes in both files; measured: 1.48 at most, 1.3 on the default grid."""
MEMORY_BYTES = 80
"""Bytes a voxel takes while its patient is made; measured: 61 at most, beyond a process's `PROCESS_GIB`."""
PROCESS_GIB = 0.5


def run(config: PhantomConfig, out: Path) -> int:
    """Write the patients that `out` does not hold yet; returns how many were missing.

    Raises:
        InputError: `out` holds other things or patients with other settings, or memory or disk cannot hold what is asked for.
    """
    settings = config.settings()
    _check_folder(out, settings)
    workers, threads = _workers(config)
    missing = _missing(config, out)
    if not missing and not (out / WORK).exists():
        _write_tables(config, out)
        return 0
    check_output(out / "patients.csv", size=int(DISK_BYTES * math.prod(config.size) * len(missing)), overwrite=True)
    if not (out / "dataset.json").exists():
        # First of all, so that a folder always says what it was begun with.
        write_json(out / "dataset.json", _facts(config, 0))
    this = Run(out / WORK, "phantom", settings, {})
    this.begin()
    try:
        _sweep(out)
        missing = _missing(config, out)
        jobs = [(config, out, index, threads) for index in missing]
        with progress.bar("patients", config.patients, config.patients - len(missing)) as update:
            for done, _ in enumerate(processes.each(_make, jobs, workers), 1):
                update(config.patients - len(missing) + done, {})
        _write_tables(config, out)
        for path in (out / WORK).iterdir():
            if path.name != "lock":
                path.unlink()
    finally:
        _sweep(out)
        # The lock goes last: without it another process may write here.
        this.release()
        with contextlib.suppress(OSError):  # what is not empty stays
            (out / WORK).rmdir()
    return len(missing)


def flatten(attributes: Mapping[str, Any]) -> Row:
    """Attributes as the cells of one row: lists are joined by ``;``, and of a table ``hu`` each key is a column ``KEY_hu``."""
    row: Row = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            # The drawn volumes stand beside the measured ones.
            table = "target_ml" if name == "volumes_ml" else name
            for key, inner in value.items():
                add(f"{key}_{table}", inner)
            return
        name = name.replace(" ", "_")
        assert name not in row, f"two attributes would be the column {name}"
        row[name] = ";".join(map(_text, value)) if isinstance(value, list | tuple) else _text(value)

    for name, value in attributes.items():
        add(name, value)
    return row


def _make(job: tuple[PhantomConfig, Path, int, int]) -> None:
    """Make and write one patient; the image first, since a label map alone is no case."""
    config, out, index, threads = job
    case = virtual_patient(
        config.seed, index, config.size, config.spacing, config.offset(index), workers=threads, **config.forced()
    )  # fmt: skip
    assert case.id == config.name(index)
    assert case.label is not None
    for path, array, dtype in zip(config.files(out, case.id), (case.image, case.label), (np.int16, np.uint8), strict=True):
        write_nifti(path, array, case.affine, dtype=dtype)
    write_json(out / WORK / f"{case.id}.json", _row(case))


def _row(case: Case) -> Row:
    """What is known about a patient, and what its label map holds."""
    assert case.label is not None
    measured = volumes(case.label, case.affine, case.image)
    # An empty cell would be read as unknown.
    known = {**case.attributes, "metal": case.attributes["metal"] or "none"}
    return flatten({
        "id": case.id, "patient": case.id, **known, **{f"{v.structure}_ml": v.volume_ml for v in measured},
        "cut_by_border": [v.structure for v in measured if v.touches_border],
    })  # fmt: skip


def _check_folder(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds something else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is not a folder")
    if all(_is_temporary(p) or p.name == ".DS_Store" for p in out.iterdir()):
        return
    try:
        facts = read_json(out / "dataset.json") if (out / "dataset.json").exists() else {}
    except ValueError as error:
        raise InputError(str(error)) from None
    before = facts.get("auricle") if isinstance(facts, dict) else None
    if not isinstance(before, dict):
        raise InputError(f"{out} holds other things than virtual patients: choose a new or empty --out")
    changed = [k for k in settings if before.get(k) != settings[k]]
    if changed:
        told = "; ".join(f"--{k.replace('_', '-')} was {spelled(before.get(k))}, is now {spelled(settings[k])}" for k in changed)
        told = told.replace("--version", "the version of auricle")
        raise InputError(f"{out} holds patients with other settings ({told}): give the same ones or choose another --out")


def _workers(config: PhantomConfig) -> tuple[int, int]:
    """Processes, as many as asked for or as the memory holds, and threads of each."""
    cores, memory = processes.cores(), free_bytes() / 2**30
    need = PROCESS_GIB + MEMORY_BYTES * math.prod(config.size) / 2**30
    if need > memory:
        raise InputError(f"--size {spelled(config.size)} needs about {need:.1f} GiB of memory, {memory:.1f} are free: give a smaller --size")
    workers = min(config.workers or max(1, min(cores, int(memory / need))), config.patients)
    return workers, max(1, cores // workers)


def _missing(config: PhantomConfig, out: Path) -> list[int]:
    rows = _rows(config, out)
    return [i for i in range(config.first, config.first + config.patients) if config.name(i) not in rows]


def _rows(config: PhantomConfig, out: Path) -> dict[str, Row]:
    """Rows of the finished patients, by id, in the order of their indices."""
    table = out / "patients.csv"
    reader = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig") if table.exists() else "id\n"))
    if "id" not in (reader.fieldnames or ()):
        raise InputError(f"{table} has no column id: mend it, or remove it and its patients are made again")
    rows: list[Any] = list(reader)
    rows += [read_json(p) for p in sorted((out / WORK).glob("virtual-*.json"))]
    found = {r["id"]: r for r in rows if re.fullmatch(rf"virtual-{config.seed}-\d{{4,}}", r.get("id", ""))}
    order = sorted(found, key=lambda name: int(name.rsplit("-", 1)[1]))
    return {n: found[n] for n in order if all(f.is_file() for f in config.files(out, n))}


def _write_tables(config: PhantomConfig, out: Path) -> None:
    """Write patients.csv, dataset.json and the color table where they are not up to date."""
    rows = list(_rows(config, out).values())
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    for name, content in (("patients.csv", text.getvalue()), ("dataset.json", json.dumps(_facts(config, len(rows)), indent=2) + "\n")):
        path = out / name
        # A cohort that is read from this folder is prepared again when a file of it is newer.
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            write_text(path, content)
    if not (out / "labels.ctbl").exists():
        write_color_table(out / "labels.ctbl")


def _facts(config: PhantomConfig, count: int) -> dict[str, Any]:
    """dataset.json: the labels' names, what nnU-Net asks for, and the settings."""
    labels = {"background": BACKGROUND, **{s.name: s.id for s in STRUCTURES}}
    asked = {"channel_names": {"0": "CT"}, "numTraining": count, "file_ending": ".nii.gz"} if config.layout == "nnunet" else {}
    return {"labels": labels, **asked, "auricle": config.settings()}


def _is_temporary(path: Path) -> bool:
    """Whether `atomic_path` made it."""
    return re.fullmatch(r"\.\d+\..+", path.name) is not None


def _sweep(out: Path) -> None:
    """Remove what killed processes left half written."""
    for folder in (out, *(out / n for n in ("images", "labels", "imagesTr", "labelsTr", WORK))):
        for path in folder.iterdir() if folder.is_dir() else []:
            if _is_temporary(path):
                path.unlink(missing_ok=True)


def _text(value: Any) -> str:
    """A cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(configs.to_json(value))
    return "" if value is None else str(value)
