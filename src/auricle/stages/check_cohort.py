"""What is wrong with a cohort as a whole: scans that are there twice, patients under two names, cases unlike all others, and its tables."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core.anatomy import STRUCTURES
from auricle.data.cohort import LEAST_PATIENTS
from auricle.data.folder import PairPath
from auricle.data.label_names import dropped_labels
from auricle.data.layouts import layout_of
from auricle.data.tables import read_table
from auricle.stages.check_case import Code, Finding, Record

OUTLIER = 5.0
"""Robust standard deviations (1.4826 times the median absolute deviation) from the median that make an outlier."""
LEAST_CASES = 8
"""Fewer cases have no outliers."""
NNUNET_KEYS = ("channel_names", "labels", "numTraining", "file_ending")


@dataclass(frozen=True)
class CohortFinding:
    """A finding that concerns several cases, or none in particular."""

    finding: Finding
    cases: tuple[str, ...] = ()
    """Ids of the cases concerned."""

    def json(self) -> dict[str, Any]:
        """The finding as JSON."""
        return self.finding.json() | {"cases": list(self.cases)}


def _notice(code: Code, text: str, cases: Sequence[str] = ()) -> CohortFinding:
    return CohortFinding(Finding(code, text), tuple(cases))


def _refusal(code: Code, text: str, cases: Sequence[str] = ()) -> CohortFinding:
    return CohortFinding(Finding(code, text, True), tuple(cases))


def across(records: Sequence[Record]) -> list[CohortFinding]:
    """Findings from comparing the cases; `records` have the key ``patient``."""
    return [*_unlabeled(records), *_same(records), *_axes(records), *_outliers(records)]


def tables(data: Path, pairs: Sequence[PairPath], *, mapped: bool) -> list[CohortFinding]:
    """Findings about the number of cases, dataset.json and patients.csv; `mapped` says that --label-map stands in for the names of dataset.json."""
    found = []
    labeled = [p for p in pairs if p.label is not None]
    if len(labeled) < len(pairs):
        without = tuple(p.id for p in pairs if p.label is None)
        found.append(_notice("data-set", f"{len(without)} of {len(pairs)} scans have no label map; training leaves them out", without))
    patients = len({p.patient or p.id for p in labeled})
    if patients < LEAST_PATIENTS:
        found.append(_notice("data-set", f"{patients} patients with a label map: training needs {LEAST_PATIENTS}, and far more to learn"))
    if (data / "dataset.json").is_file() and (data / "imagesTr").is_dir():
        found += _described(data / "dataset.json", pairs, strict=layout_of(data).name == "nnU-Net")
    if (data / "dataset.json").is_file() and not mapped and (dropped := dropped_labels(data / "dataset.json")):
        text = f"no structure is named {_listed(dropped)}; their voxels become background. If one is, give --label-map"
        found.append(_notice("data-set", f"{data / 'dataset.json'}: {text}"))
    if (data / "patients.csv").is_file():
        found += _patients(data / "patients.csv", pairs)
    return found


def _unlabeled(records: Sequence[Record]) -> Iterator[CohortFinding]:
    """Label maps, and none that shows anything."""
    known = [r for r in records if r.get("label") is not None and r["structures"] is not None]
    if known and not any(r["structures"] for r in known):
        yield _refusal("label", f"none of the {len(known)} label maps shows a structure; is --label-map right?")


def _same(records: Sequence[Record]) -> Iterator[CohortFinding]:
    """Scans, and label maps, with the same content."""
    by_scan = _groups(records, "content_sha256")
    for group in by_scan:
        names = tuple(r["id"] for r in group)
        text = f"{_listed(names)} are the same scan; remove all but one"
        patients = sorted({str(r["patient"]) for r in group if r["patient"] is not None})
        yield _refusal("duplicate", text, names)
        if len(patients) > 1:
            text = f"patients {_listed(patients)} have the same scan ({_listed(names)}): one patient would be in two splits; correct patients.csv"
            yield _refusal("patient", text, names)
    twice = {r["id"] for group in by_scan for r in group}
    for group in _groups([r for r in records if r["structures"]], "label_sha256"):
        names = tuple(r["id"] for r in group)
        if not set(names) <= twice:
            text = f"{_listed(names)} have the same label map although the scans differ: does it belong to each of them?"
            yield _notice("duplicate", text, names)
    # An ID that all cases with one share stands for nobody: anonymization left it there.
    several = len({r.get("patient_sha256") for r in records} - {None}) > 1
    for group in _groups(records, "patient_sha256") if several else []:
        names = tuple(r["id"] for r in group)
        if any(r["patient"] is None for r in group):
            text = f"{_listed(names)} have the same PatientID: say in patients.csv, or in the column patient of the table, whose they are"
            yield _notice("patient", text, names)
    for group in _groups(records, "checksum"):
        names = tuple(r["id"] for r in group)
        yield _notice("duplicate", f"{_listed(names)} have the same checksum and size: most likely the same scan", names)


def _groups(records: Sequence[Record], key: str) -> list[list[Record]]:
    """Records that share a value that is there, in order of their first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.get(key) is not None:
            groups[json.dumps(record[key])].append(record)
    return [g for g in groups.values() if len(g) > 1]


def _axes(records: Sequence[Record]) -> Iterator[CohortFinding]:
    orders = Counter(r["axes"] for r in records if r["axes"] is not None)
    if len(orders) > 1:
        shown = ", ".join(f"{code} {count}" for code, count in orders.most_common())
        yield _notice("orientation", f"the axes run differently from case to case ({shown}); all are turned to RAS when they are read")


def _outliers(records: Sequence[Record]) -> Iterator[CohortFinding]:
    """Cases far from the cohort's median; spread as Iglewicz & Hoaglin 1993, with floors so that like cases do not single out slight differences."""
    placed = [r for r in records if r["spacing_mm"] is not None]
    measures: list[tuple[str, str, float, list[tuple[str, float]]]] = [
        ("the largest voxel edge", "mm", 0.1, [(r["id"], max(r["spacing_mm"])) for r in placed]),
        ("the voxel", "mm3", 0.15, [(r["id"], float(np.prod(r["spacing_mm"]))) for r in placed]),
    ]
    for s in STRUCTURES:
        # A structure that the border cuts is smaller for a reason.
        rows = [(r["id"], r["structures"][s.key]) for r in records if r["structures"] and s.key in r["structures"]]
        measures.append((s.key, "mL", 0.25, [(name, row["ml"]) for name, row in rows if row["ml"] > 0 and not row["sides"]]))
    for what, unit, floor, values in measures:
        for name, value, median in _far([(n, float(np.log(v))) for n, v in values], floor):
            text = f"{name}: {what} has {np.exp(value):.3g} {unit}, far from the cohort's median of {np.exp(median):.3g} {unit}"
            yield _notice("outlier", text, (name,))
    tissue = [(r["id"], float(r["hu"]["soft_tissue"])) for r in records if r["hu"] is not None]
    for name, value, median in _far(tissue, 10.0):
        text = f"{name}: soft tissue has {value:.0f} HU, far from the cohort's median of {median:.0f} HU"
        yield _notice("outlier", text, (name,))


def _far(values: Sequence[tuple[str, float]], floor: float) -> list[tuple[str, float, float]]:
    """Name, value and median of the outliers."""
    if len(values) < LEAST_CASES:
        return []
    numbers = np.array([v for _, v in values])
    median = float(np.median(numbers))
    spread = max(1.4826 * float(np.median(np.abs(numbers - median))), floor)
    return [(n, v, median) for n, v in values if abs(v - median) > OUTLIER * spread]


def _described(path: Path, pairs: Sequence[PairPath], strict: bool) -> Iterator[CohortFinding]:
    """Whether dataset.json fits its folder; if `strict`, all that nnU-Net's own verification asks of it."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    missing = [k for k in NNUNET_KEYS if k not in facts]
    if missing and strict:
        yield _notice("data-set", f"{path}: lacks {', '.join(missing)}, which nnU-Net asks for")
    labeled = sum(p.label is not None for p in pairs)
    if "numTraining" in facts and facts["numTraining"] != labeled:
        text = f"{path}: numTraining is {facts['numTraining']}, {labeled} labeled cases are here; copy what is missing or correct the number"
        yield _refusal("data-set", text)
    ending = facts.get("file_ending")
    if isinstance(ending, str):
        other = tuple(p.id for p in pairs if not all(f.name.endswith(ending) for f in (p.image, p.label) if f is not None))
        if other:
            text = f"file_ending is {ending}; files of {len(other)} cases end differently, which nnU-Net does not find"
            yield _notice("data-set", f"{path}: {text}", other)
    channels = facts.get("channel_names")
    if isinstance(channels, dict) and len(channels) != 1:
        yield _refusal("data-set", f"{path}: names {len(channels)} channels; only one, CT, is supported")
    labels = facts.get("labels")
    values = sorted(int(v) for v in labels.values() if str(v).isdigit()) if isinstance(labels, dict) else []
    if values and values != list(range(len(values))):
        yield _notice("data-set", f"{path}: the label values {_listed(values)} are not 0, 1, 2, .. without a gap, which nnU-Net asks for")


def _patients(path: Path, pairs: Sequence[PairPath]) -> Iterator[CohortFinding]:
    """Cases that the table leaves out; a case that it lists twice is refused where the pairs are found."""
    listed = {row.cells.get("id") for row in read_table(path, "id", "patient")}
    rest = tuple(p.id for p in pairs if p.id not in listed)
    if rest:
        yield _notice("patient", f"{path}: {len(rest)} of {len(pairs)} cases are not listed; each counts as a patient of its own", rest)


def _listed(values: Sequence[Any]) -> str:
    """At most eight values, as text."""
    shown = [str(v) for v in values[:8]] + ([f".. ({len(values)} in all)"] if len(values) > 8 else [])
    return ", ".join(shown[:-1]) + (" and " if len(values) <= 8 else ", ") + shown[-1] if len(shown) > 1 else "".join(shown)
