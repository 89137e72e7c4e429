"""Stage 7: how well a segmenter does on the test split, case by case and structure by structure."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core import progress
from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.core.files import write_json, write_text
from auricle.core.runs import Run, finished
from auricle.data.nifti import write_nifti
from auricle.metrics import overlap
from auricle.metrics.anatomy import volumes_ml
from auricle.metrics.surface import surface_scores
from auricle.stages import finetune
from auricle.stages.pairs import cohort_pairs

COLUMNS = ("case", "structure", "dice", "hd95_mm", "nsd", "volume_error_ml", "missed", "patient")


@dataclass(frozen=True)
class EvaluateStage:
    """What is evaluated."""

    cohort: Path
    """Folder of a prepared cohort: its test split is used."""
    model: Path
    """Folder of a fine-tuned segmenter."""
    tolerance_mm: float = 2.0
    """Tolerance of the normalized surface Dice."""

    def __post_init__(self) -> None:
        if not self.tolerance_mm > 0:
            raise ValueError(f"--tolerance-mm must be positive, is {self.tolerance_mm}")


def run(config: EvaluateStage, out: Path) -> Path:
    """Write ``cases.csv`` (one row a case and structure), ``summary.json`` and ``predictions/ID.nii.gz`` into `out`. Returns `out`."""
    inputs = {"cohort": finished(config.cohort, "cohort"), "model": finished(config.model, "finetune")}
    this = Run(out, "evaluate", config, inputs)
    if this.done:
        progress.report(f"{out}: segmenter is evaluated")
        return out
    model = finetune.load(config.model)
    pairs = cohort_pairs(config.cohort, "test")
    if pairs.grid != model.grid:
        raise InputError(f"{config.model} works on {model.grid}, {config.cohort} is on {pairs.grid}")
    this.begin()
    rows: list[dict[str, Any]] = []
    for i in progress.track(range(len(pairs)), f"evaluate {out.name}", len(pairs)):
        image, label = pairs.plain(i)
        prediction = finetune.predict(model.network, image, model.window).numpy()
        item = pairs.items[i]
        write_nifti(out / "predictions" / f"{item.id}.nii.gz", prediction, item.affine, dtype=np.uint8)
        scores = score(item.id, prediction, label[0].numpy(), pairs.grid.spacing, config.tolerance_mm)
        rows += [{**row, "patient": item.patient} for row in scores]
    write_rows(out / "cases.csv", rows)
    write_json(out / "summary.json", summarize(rows))
    this.finish(cases=len(pairs))
    return out


def score(
    case: str, prediction: Any, reference: Any, spacing: tuple[float, float, float], tolerance_mm: float
) -> list[dict[str, Any]]:  # fmt: skip
    """One row a structure with the columns of ``cases.csv`` but the patient; None is a value that does not exist."""
    dice = overlap.dice(prediction, reference)
    surfaces = surface_scores(prediction, reference, spacing, tolerance_mm)
    voxel_ml = float(np.prod(spacing)) / 1000.0
    predicted, true = volumes_ml(prediction, voxel_ml), volumes_ml(reference, voxel_ml)
    return [
        {"case": case, "structure": k, "dice": dice[k], "hd95_mm": surfaces[k].hd95_mm, "nsd": surfaces[k].nsd,
         "volume_error_ml": None if dice[k] is None else predicted[k] - true[k], "missed": int(surfaces[k].missed)}
        for k in KEYS
    ]  # fmt: skip


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over cases per structure and their mean; misses are counted, and have Dice and NSD 0 but no HD95.

    Structures that neither map has have no values; `absent` counts the cases.
    """
    summary: dict[str, Any] = {"cases": len({r["case"] for r in rows})}
    for metric in ("dice", "hd95_mm", "nsd"):
        by_case = [{k: next(r[metric] for r in rows if r["case"] == c and r["structure"] == k) for k in KEYS} for c in {r["case"]: 0 for r in rows}]
        summary[metric] = overlap.average(by_case)
    summary["missed"] = {k: sum(r["missed"] for r in rows if r["structure"] == k) for k in KEYS}
    summary["absent"] = {k: sum(r["dice"] is None for r in rows if r["structure"] == k) for k in KEYS}
    return summary


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table; a value that does not exist is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if row[k] is None else round(row[k], 6) if isinstance(row[k], float) else row[k] for k in COLUMNS})
    write_text(path, text.getvalue())

