"""Segment many scans with one model: one scan in memory at a time, a folder each, one table over all.

A scan whose result is there already, by its content, the weights and the options, is skipped, so that the same command resumes.
"""

import contextlib
import csv
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import Run
from auricle.data import volume_files
from auricle.data.dicom_files import is_dicom, series_of
from auricle.data.layouts import LABEL_MARK, case_name
from auricle.data.outputs import COLUMNS, check_output, write_table
from auricle.data.tables import read_table
from auricle.data.volume_files import scan_ending, stem
from auricle.stages import finetune, segment
from auricle.stages.finetune import Trained
from auricle.stages.segment import DESCRIPTION, SUMMARY, Options, SegmentStage

WORK = ".unfinished"
"""Folder of what only a command at work needs."""
DESCRIBED = ("heart_found", "confidence", "partial", "notices", "model", "version")
"""What the summary takes from each result's description."""


@dataclass(frozen=True)
class Scan:
    """One scan of many."""

    path: Path
    name: str
    """Folder of its result."""
    series: str | None = None


@dataclass(frozen=True)
class BatchStage:
    """Which scans are segmented, and by what."""

    scans: tuple[Scan, ...]
    model: Path
    """Folder of a fine-tuned segmenter, as `segment.resolve_model` finds it."""
    options: Options = field(default_factory=Options)
    """How scans are read, segmented and written."""
    overwrite: bool = False
    """Replace results of other scans, weights or options under the same names."""


@dataclass(frozen=True)
class Entry:
    """What became of one scan."""

    scan: Scan
    status: Literal["done", "skipped", "failed"]
    reason: str | None = None
    """Why it failed, in one line."""
    heart_found: bool | None = None
    """None where it failed."""


def run(config: BatchStage, out: Path) -> list[Entry]:
    """Write ``out/NAME`` for every scan, as `segment.run` does, then ``volumes.csv`` and ``summary.json`` over all.

    A scan that cannot be segmented is reported, and the rest goes on. Raises `InputError` where nothing can be done: no such model, no
    place to write, or another process at work in `out`.
    """
    check_output(out, overwrite=True, inside=True)
    if (out / DESCRIPTION).exists():
        raise InputError(f"{out}: holds the result of one scan; choose another --out for many")
    if (out / "volumes.csv").exists() and not (out / SUMMARY).exists():
        raise InputError(f"{out}: holds a volumes.csv that no command of auricle wrote, so it is not replaced; choose another --out")
    if (out / SUMMARY).exists() and not _is_summary(out / SUMMARY):
        raise InputError(f"{out}: holds a {SUMMARY} that no command of auricle wrote, so it is not replaced; choose another --out")
    segment.check_packages(config.options.formats)
    model = segment.load(config.model, config.options)
    this = Run(out / WORK, "segment", {}, {})
    this.begin()
    entries: list[Entry] = []
    try:
        _sweep(out / WORK)
        start = time.monotonic()
        for number, scan in enumerate(config.scans, 1):
            worked = sum(e.status == "done" for e in entries)
            progress.report(f"[{number}/{len(config.scans)}] {scan.path}{_left(start, worked, len(config.scans) - number + 1)}")
            entries.append(_one(model, config, scan, out))
            facts = {k: getattr(entries[-1], k) for k in ("status", "heart_found", "reason")}
            progress.event("scan", name=scan.name, number=number, total=len(config.scans), **facts)
    finally:
        if any(e.status != "failed" for e in entries) or (out / SUMMARY).exists():
            _summarize(entries, config, out)
        _sweep(out / WORK)
        (out / WORK / "config.json").unlink(missing_ok=True)
        # The lock goes last: a folder removed before could hold another process's.
        this.release()
        for folder in (out / WORK, out):
            with contextlib.suppress(OSError):  # what is not empty stays
                folder.rmdir()
    return entries


def _is_summary(path: Path) -> bool:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"model", "scans"} <= content.keys()


def find_scans(inputs: Sequence[Path], listing: Path | None, series: str | None, out: Path) -> tuple[tuple[Scan, ...], bool]:
    """The scans that the inputs mean, and whether they are many, so that each gets a folder of its own.

    Args:
        inputs: files, DICOM folders, or folders of scans: every volume file and every folder with a DICOM series in them.
        listing: text file with a path a line, or CSV with the columns scan and perhaps name and series; relative paths start at its folder.
        series: as `Options.series`, of every scan for which the list names none; with it, a folder is taken for one study.
        out: folder that results go to, which is not searched.

    Raises:
        InputError: no scans, or a list that cannot be read.
    """
    listed = [] if listing is None else [replace(s, series=s.series or series) for s in _listed(listing)]
    found = [Scan(p, "", series) for path in inputs for p in _expanded(path, series, out)] + listed
    found = list({(_place(s.path), s.series, s.name): s for s in found}.values())
    if not found:
        raise InputError(f"{listing}: lists no scans" if listing else "no scan given: name files or folders, or give --list")
    many = listing is not None or len(found) > 1 or found[0].path not in inputs
    return tuple(named(found)), many


def _place(path: Path) -> tuple[Path, str]:
    """What makes a scan one of its own: its path, or of one DICOM file its folder and series, whose other files stand for the same scan."""
    with contextlib.suppress(InputError):  # what cannot be read fails by itself, and the others go on
        if path.is_file() and scan_ending(path) is None and is_dicom(path):
            return path.absolute().parent, "" if path.name == "DICOMDIR" else series_of(path)
    return path.absolute(), ""


def named(scans: list[Scan], way_out: str = "name them in a --list with the columns scan and name") -> list[Scan]:
    """Give every scan a name of its own: its file's or folder's, with as many folders above as set it apart from the others."""
    parts = [_parts(s.path.parent if s.path.name == "DICOMDIR" else s.path) if not s.name else [s.name] for s in scans]
    lengths = [1] * len(scans)
    while True:
        names = ["_".join(p[-n:]) for p, n in zip(parts, lengths, strict=True)]
        names = [f"{n}_scan" if n in ("volumes.csv", SUMMARY, WORK) else n for n in names]
        counts = Counter(names)
        alike = [i for i, name in enumerate(names) if counts[name] > 1]
        longer = [i for i in alike if lengths[i] < len(parts[i])]
        if not alike:
            return [replace(s, name=name) for s, name in zip(scans, names, strict=True)]
        if not longer:
            first, second = (scans[i].path for i in [j for j in alike if names[j] == names[alike[0]]][:2])
            raise InputError(f"{first} and {second} would both go to a folder named {names[alike[0]]}; {way_out}")
        for i in longer:
            lengths[i] += 1


def _one(model: Trained, config: BatchStage, scan: Scan, out: Path) -> Entry:
    """Segment one scan, unless its result is there."""
    folder = out / scan.name
    options = replace(config.options, series=scan.series)
    try:
        if not scan.path.exists():
            raise InputError(f"{scan.path}: no such file or folder")
        wanted = segment.fingerprint(volume_files.content_digest(scan.path, out), config.model, options)
        if segment.made_from(folder) == wanted:
            progress.report(f"{folder}: is segmented")
            return Entry(scan, "skipped", heart_found=bool(read_json(folder / DESCRIPTION)["heart_found"]))
        if folder.exists() and not config.overwrite:
            raise InputError(f"{folder}: holds the result of another scan, model, version or options; give --overwrite or another --out")
        segment.check_replaceable(folder)
        stage = SegmentStage(scan.path, config.model, options, config.overwrite)
        found = segment.segment_file(model, stage, folder, out / WORK / scan.name, {"fingerprint": wanted}).heart_found
        return Entry(scan, "done", heart_found=found)
    except Exception as error:
        # Whatever one scan brings up, the others go on.
        reason = "out of memory" if isinstance(error, MemoryError) else " ".join(str(error).split()) or repr(error)
        progress.notice(f"failed: {reason if scan.path.name in reason else f'{scan.path}: {reason}'}")
        return Entry(scan, "failed", reason)


def _is_whole(description: Path) -> bool:
    """Whether a result's description is one, of a version that this one can summarize, and its table is there."""
    try:
        found = read_json(description)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and set(DESCRIBED) <= found.keys() and (description.parent / "volumes.csv").exists()


def _summarize(entries: list[Entry], config: BatchStage, out: Path) -> None:
    """Tables over all scans of this command and those that earlier ones left, from the files of each."""
    rows: list[list[str]] = []
    scans: list[dict[str, Any]] = []
    # What a failed scan left before is there still, and counts.
    names = {e.scan.name for e in entries if e.status != "failed"}
    counted = {segment.made_from(out / e.scan.name) for e in entries if e.status != "failed"}
    kept = []
    for path in sorted(out.glob(f"*/{DESCRIPTION}")):
        # The same scan under another name, as one of few is called otherwise than one of many, counts once; a result that is not whole never.
        mark, whole = segment.made_from(path.parent), _is_whole(path)
        if path.parent.name not in names and whole and (mark is None or mark not in counted):
            kept.append({"name": path.parent.name, "scan": None, "status": "kept"})
            counted.add(mark)
    for item in [{"name": e.scan.name, "scan": str(e.scan.path), "status": e.status, "reason": e.reason} for e in entries] + kept:
        if item["status"] == "failed":
            scans.append(item)
            continue
        folder = out / str(item["name"])
        described = read_json(folder / DESCRIPTION)
        item = {k: v for k, v in item.items() if k != "reason"}
        scans.append({**item, **{k: described[k] for k in DESCRIBED}})
        facts = ["yes" if described["heart_found"] else "no", f"{described['model']:.12}", described["version"]]
        with (folder / "volumes.csv").open(newline="", encoding="utf-8") as file:
            rows += [[folder.name, *(row[c] for c in COLUMNS), *facts] for row in csv.DictReader(file)]
    counts = {status: sum(e.status == status for e in entries) for status in ("done", "skipped", "failed")}
    if len({(s["model"], s["version"]) for s in scans if "model" in s}) > 1:
        progress.notice(f"{out}: holds results of several models or versions; the columns model and version of volumes.csv tell them apart")
    write_table(out / "volumes.csv", ["scan", *COLUMNS, "heart_found", "model", "version"], rows)
    write_json(out / SUMMARY, {"model": finetune.identity(config.model), **counts, "left": len(config.scans) - len(entries), "scans": scans})


def _sweep(work: Path) -> None:
    """Remove what a broken command left."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _left(start: float, done: int, left: int) -> str:
    """How long `left` scans take if none of them is there already."""
    if not done:
        return ""
    seconds = (time.monotonic() - start) / done * left
    return f" ({timedelta(seconds=round(seconds))} left)"


def _expanded(path: Path, series: str | None, out: Path) -> list[Path]:
    """The scans that lie at a path: itself, or those in a folder of scans."""
    if not path.is_dir() or holds_dicom(path):
        return [path]
    found = list(_below(path, out.resolve()))
    folders = [p for p in found if p.is_dir()]
    # A link is followed where it is read itself, not below another folder.
    if len(folders) == len(found) and not any(p.is_symlink() for p in folders) and (series is not None or len({_series(p) for p in folders}) < 2):
        return [path]  # one study, whose series lie in folders below
    return found


def _below(folder: Path, out: Path) -> Iterator[Path]:
    """Volume files and folders with DICOM files under a folder, in order of their names; label maps that lie beside their scans are left out."""
    try:
        everything = sorted(folder.iterdir())
    except OSError:
        yield folder  # it fails by itself, and the others go on
        return
    names = {case_name(stem(p)) for p in everything if not LABEL_MARK.search(stem(p))}
    ours = (folder / DESCRIPTION).exists()
    for path in everything:
        if path.name.startswith(".") or path.resolve() == out or (ours and path.name in segment.OUTPUTS):
            continue
        if _belongs_to_a_scan(path, names):
            continue
        if path.is_dir():
            if holds_dicom(path) and not (path / DESCRIPTION).exists():
                yield path
            else:
                yield from _below(path, out)
        elif scan_ending(path) is not None:
            yield path


def _belongs_to_a_scan(path: Path, names: set[str]) -> bool:
    """Whether a file is named as the label map of a scan beside it, or a folder as one of label maps; `names` are those of the neighbors."""
    if path.is_dir():
        with_images = path.name in ("labels", "labelsTr", "labelsTs") and path.name.replace("labels", "images") in names
        return with_images or (path.name == "segmentations" and "ct" in names)
    return bool(LABEL_MARK.search(stem(path))) and case_name(stem(path)) in names


def holds_dicom(folder: Path) -> bool:
    """Whether it holds a DICOM series, or what cannot be read and may be one: that fails by itself later, and other scans go on."""
    try:
        files = (p for p in sorted(folder.iterdir()) if p.is_file() and p.name != "DICOMDIR" and not p.name.startswith("."))
        return any(is_dicom(p) for p in files if scan_ending(p) is None)
    except (InputError, OSError):
        return True


def _series(folder: Path) -> str:
    try:
        return series_of(next(p for p in sorted(folder.iterdir()) if p.is_file() and p.name != "DICOMDIR" and is_dicom(p))) or str(folder)
    except (InputError, OSError):
        return str(folder)


def _listed(listing: Path) -> list[Scan]:
    """The scans that a file lists."""
    if listing.suffix.lower() != ".csv":
        try:
            lines = [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--list {listing}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
        return [Scan(listing.parent / line, "") for line in lines if line and not line.startswith("#")]
    found = []
    for row in read_table(listing, "scan"):
        name = row.cells.get("name", "")
        if name and (name != Path(name).name or name.startswith(".")):
            raise InputError(f"{row.place}: '{name}' cannot be the name of a folder")
        if "scan" in row.cells:
            found.append(Scan(listing.parent / row.cells["scan"], name, row.cells.get("series")))
    return found


def _parts(path: Path) -> list[str]:
    """A path's folders and its stem, each fit for the name of a folder."""
    path = Path(os.path.abspath(path))
    return [fitting(part) for part in (*path.parts[1:-1], stem(path))]


def fitting(name: str) -> str:
    """A name that any file system takes for a folder."""
    return re.sub(r"[^\w.+-]", "-", name)
