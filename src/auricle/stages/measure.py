"""Measure label maps that exist: volumes, surfaces, mean HU, plausibility, and agreement with a reference."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from auricle.core import progress
from auricle.core.anatomy import STRUCTURES
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.files import write_json
from auricle.data import volume_files
from auricle.data.cohort import parse_label_map
from auricle.data.geometry import apart, check_axis_code, is_sheared, on_grid
from auricle.data.labels import read_label
from auricle.data.layouts import LABEL_MARK, case_name
from auricle.data.outputs import VolumeRow, check_output, volumes, write_table
from auricle.data.preprocess import label_to_grid, orient, right_angled
from auricle.data.reading import read_scan, straightened
from auricle.data.volume_files import stem
from auricle.metrics.surface import area_mm2
from auricle.phantom import check
from auricle.stages import evaluate
from auricle.stages.batch import Scan, fitting, named

COLUMNS = ("structure", "volume_ml", "surface_cm2", "mean_hu", "touches_border", "partial", "plausible")
AGREEMENT = ("dice", "hd95_mm", "nsd", "volume_error_ml", "missed")
"""Columns that a reference adds."""
_DIGITS = {"volume_ml": 2, "surface_cm2": 1, "mean_hu": 1, "dice": 4, "hd95_mm": 2, "nsd": 4, "volume_error_ml": 2}

Row = dict[str, Any]


@dataclass(frozen=True)
class MeasureStage:
    """Which label maps are measured, and against what."""

    labels: tyro.conf.Positional[tuple[Path, ...]]
    """Label maps, folders of them, or folders that `auricle segment` wrote."""
    image: Path | None = None
    """The scan of one label map, or a folder in which each has a scan of its name: for mean HU."""
    reference: Path | None = None
    """A label map to compare one with, or a folder in which each has one of its name: Dice, HD95, NSD and volume error."""
    label_map: str | None = None
    """What the label maps' values mean, e.g. ``1=LV,2=RV``; auricle's ids otherwise."""
    reference_map: str | None = None
    """The same of the references."""
    tolerance_mm: float = 2.0
    """Tolerance of the normalized surface Dice."""
    assume_orientation: str | None = None
    """Axis code such as RAS for files that state no orientation."""
    not_hu: bool = False
    """Accept scans whose values do not look like HU."""

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("no label map given: name files or folders")
        for text in (self.label_map, self.reference_map):
            if text is not None:
                parse_label_map(text)
        if self.reference_map is not None and self.reference is None:
            raise ValueError("--reference-map describes a reference: give --reference too")
        check_axis_code(self.assume_orientation)
        if not self.tolerance_mm >= 0:
            raise ValueError(f"--tolerance-mm must not be negative, is {self.tolerance_mm}")


@dataclass(frozen=True)
class Measured:
    """What was found in one label map."""

    name: str
    path: Path
    rows: list[Row]
    """One a structure, with `COLUMNS` and perhaps `AGREEMENT`; None is a value that does not exist."""
    findings: list[str]
    """What is wrong with the anatomy, in words."""
    notices: list[str]
    error: str | None = None
    """Why nothing could be measured, in one line."""


def run(config: MeasureStage, out: Path | None, *, overwrite: bool = False) -> list[Measured]:
    """Measure every label map; write ``measures.csv``, ``means.csv`` and ``measures.json`` into `out` where it is given.

    A label map that cannot be read is reported, and the rest goes on. Raises `InputError` where nothing can be done.
    """
    if out is not None:
        check_output(out, overwrite=overwrite, inside=True)
        if out.exists() and not out.is_dir():
            raise InputError(f"{out}: is a file; give the name of a folder")
    found = find_labels(config.labels)
    results: list[Measured] = []
    try:
        for scan in progress.track(found, "measure", len(found)):
            try:
                results.append(measure(config, scan, alone=len(found) == 1))
            except (InputError, OSError, MemoryError) as error:
                if len(found) == 1:
                    raise
                reason = " ".join(str(error).split()) or "out of memory"
                progress.notice(f"failed: {reason}")
                results.append(Measured(scan.name, scan.path, [], [], [], reason))
                continue
            for text in (*results[-1].notices, *(f"{scan.name}: {finding}" for finding in results[-1].findings)):
                progress.notice(text)
    finally:
        # Interrupted, what was measured is kept.
        if out is not None and results:
            _write(results, out)
    return results


def measure(config: MeasureStage, scan: Scan, *, alone: bool) -> Measured:
    """Measure one label map. Raises `InputError` for what cannot be read, or does not lie on the label map's grid."""
    label, affine, notices = read_label(
        scan.path, label_map=None if config.label_map is None else parse_label_map(config.label_map), assume_orientation=config.assume_orientation
    )
    image: NDArray[Any] | None = None
    if config.image is not None:
        path = _partner("--image", config.image, scan, alone)
        case, more = read_scan(path, not_hu=config.not_hu, assume_orientation=config.assume_orientation, straighten=False)
        if not on_grid(case.image.shape, case.affine, label.shape, affine):
            # `auricle segment` brings a tilted scan to right angles, and its label map with it.
            case, more = straightened(case, path, more)
        _same_grid(scan.path, label, affine, path, case.image.shape, case.affine)
        image, notices = case.image, notices + more
    measured = volumes(label, affine, image)
    turned = orient(_right_angled(Case(scan.name, label, affine, label)))
    assert turned.label is not None
    areas = {s.key: area_mm2(turned.label == s.id, turned.spacing) / 100 for s in STRUCTURES}
    rows = [_row(v, areas[v.structure], image is not None) for v in measured]
    if config.reference is not None:
        path = _partner("--reference", config.reference, scan, alone)
        values = None if config.reference_map is None else parse_label_map(config.reference_map)
        reference, there, more = read_label(path, label_map=values, assume_orientation=config.assume_orientation)
        _same_grid(scan.path, label, affine, path, reference.shape, there)
        other = orient(_right_angled(Case(scan.name, reference, affine, reference)))
        assert other.label is not None
        scores = evaluate.score(scan.name, turned.label, other.label, turned.spacing, config.tolerance_mm)
        rows = [{**row, **{k: score[k] for k in AGREEMENT}, "missed": bool(score["missed"])} for row, score in zip(rows, scores, strict=True)]
        notices = notices + more
    findings = check(turned.label, turned.spacing) if label.any() else ["the label map is empty"]
    return Measured(scan.name, scan.path, rows, findings, notices)


def find_labels(inputs: tuple[Path, ...]) -> list[Scan]:
    """The label maps that files and folders mean, each with a name of its own.

    Raises:
        InputError: a folder without label maps.
    """
    found: list[Scan] = []
    for path in inputs:
        results = [path] if (path / "labels.nii.gz").is_file() else sorted(p.parent for p in path.glob("*/labels.nii.gz"))
        if results:
            found += [Scan(p / "labels.nii.gz", "") for p in results]
        elif path.is_dir():
            files = [Scan(p, "") for p in sorted(path.iterdir()) if volume_files.ending(p) and not p.name.startswith(".")]
            # Scans that lie beside their label maps are no label maps.
            beside = {case_name(stem(f.path)) for f in files if LABEL_MARK.search(stem(f.path))}
            files = [f for f in files if LABEL_MARK.search(stem(f.path)) or case_name(stem(f.path)) not in beside]
            if not files:
                raise InputError(f"{path}: holds no label maps ({', '.join(volume_files.ENDINGS)})")
            found += files
        else:
            found.append(Scan(path, ""))
    names = named([replace(s, path=_known_by(s.path)) for s in found], "measure them one at a time")
    return [replace(s, name=n.name) for s, n in zip(found, names, strict=True)]


def _known_by(path: Path) -> Path:
    """What a label map is named by: its file, or the folder of a result of `auricle segment`."""
    return path.resolve().parent if path.name == "labels.nii.gz" else path


def table(results: list[Measured]) -> str:
    """The measurements as text with aligned columns; of several label maps their means, too."""
    parts = [_aligned(list(_cells(results)))]
    if sum(r.error is None for r in results) > 1:
        parts.append(_aligned(list(_means(results))))
    return "\n\n".join(parts)


def _aligned(lines: list[list[str]]) -> str:
    head, *body = lines
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in (head, *body))


def _row(v: VolumeRow, surface_cm2: float, with_image: bool) -> Row:
    low, high = next(s.volume_range_ml for s in STRUCTURES if s.key == v.structure)
    plausible = None if v.volume_ml == 0 else v.volume_ml <= high and (v.volume_ml >= low or v.partial)
    mean = round(v.mean_hu, 1) if with_image and v.volume_ml else None
    return {"structure": v.structure, "volume_ml": v.volume_ml, "surface_cm2": surface_cm2, "mean_hu": mean,
            "touches_border": v.touches_border, "partial": v.partial, "plausible": plausible}  # fmt: skip


def _right_angled(case: Case) -> Case:
    """A sheared label map on the right-angled grid that covers it: distances and areas need one."""
    if not is_sheared(case.affine):
        return case
    assert case.label is not None
    affine, shape = right_angled(case.affine, case.label.shape)
    label = label_to_grid(case.label, case.affine, affine, shape)
    return replace(case, image=label, affine=affine, label=label)


def _partner(flag: str, given: Path, scan: Scan, alone: bool) -> Path:
    """The file that belongs to a label map."""
    own_name = fitting(stem(_known_by(scan.path)))
    if given.is_dir():
        candidates = [p for p in sorted(given.iterdir()) if volume_files.scan_ending(p) and p.absolute() != scan.path.absolute()]
        alike = [p for p in candidates if case_name(fitting(stem(p))) == case_name(own_name)]
        # Names differ by what data sets append to those of scans and of label maps: a file marked as what is looked for comes first.
        alike.sort(key=lambda p: (bool(LABEL_MARK.search(stem(p))) != (flag == "--reference"), stem(p) != own_name))
        files = alike
        own = [given / "labels.nii.gz"] if alone else []
        # A result's folder is named as its scan's, with what no file system takes replaced.
        folders = [p for p in sorted(given.iterdir()) if p.is_dir() and fitting(p.name) == own_name]
        files += [p for folder in folders for p in (folder / "labels.nii.gz", folder)] + own
        files = [p for p in files if p.exists()]
        if files:
            return files[0]
        if not alone:
            raise InputError(f"{flag} {given}: holds nothing named {own_name}, as {scan.path} is")
    elif not alone:
        raise InputError(f"{flag} {given}: is one file for several label maps; give a folder with a file named as each of them")
    return given


def _same_grid(
    path: Path, label: NDArray[Any], affine: NDArray[np.float64], other: Path, shape: tuple[int, ...], there: NDArray[np.float64]
) -> None:
    if label.shape != shape:
        sizes = f"{' x '.join(map(str, label.shape))} voxels, {other} {' x '.join(map(str, shape))}"
        raise InputError(f"{path}: has {sizes}; they must lie on the same grid")
    if not on_grid(label.shape, affine, shape, there):
        gap = apart(affine, there, shape)
        raise InputError(f"{path}: lies elsewhere than {other}, by up to {gap:.3g} mm; they must lie on the same grid")


def _cells(results: list[Measured]) -> Iterator[list[str]]:
    """Header and lines of the table."""
    columns = (*COLUMNS, *(AGREEMENT if any("dice" in row for r in results for row in r.rows) else ()))
    yield ["scan", *columns]
    for result in results:
        for row in result.rows:
            yield [result.name, *(_cell(k, row[k]) for k in columns)]


def _means(results: list[Measured]) -> Iterator[list[str]]:
    """Header and lines of the table over all label maps: mean and sample SD of each structure where it is present."""
    columns = [c for c in _DIGITS if any(row.get(c) is not None for r in results for row in r.rows)]
    missed = any("missed" in row for r in results for row in r.rows)
    yield ["structure", "present", *(f"{c}{part}" for c in columns for part in ("", "_sd")), *(["missed"] if missed else [])]
    for s in STRUCTURES:
        rows = [row for r in results for row in r.rows if row["structure"] == s.key]
        cells = [s.key, str(sum(row["volume_ml"] > 0 for row in rows))]
        for column in columns:
            # An absent structure has no volume; but one that only the reference has counts against the agreement.
            counted = [row for row in rows if row["volume_ml"] > 0 or (column in AGREEMENT and row.get("dice") is not None)]
            values = [v for row in counted if (v := row.get(column)) is not None]
            cells.append(_cell(column, float(np.mean(values)) if values else None))
            cells.append(_cell(column, float(np.std(values, ddof=1)) if len(values) > 1 else None))
        yield cells + ([str(sum(row.get("missed", False) for row in rows))] if missed else [])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{_DIGITS[column]}f}" if column in _DIGITS else str(value)


def _write(results: list[Measured], out: Path) -> None:
    head, *body = _cells(results)
    write_table(out / "measures.csv", head, body)
    head, *body = _means(results)
    write_table(out / "means.csv", head, body)
    write_json(out / "measures.json", [
        {"name": r.name, "labels": str(r.path), "error": r.error, "findings": r.findings, "notices": r.notices,
         "structures": [{k: round(v, _DIGITS[k]) if k in _DIGITS and v is not None else v for k, v in row.items()} for row in r.rows]}
        for r in results
    ])  # fmt: skip
