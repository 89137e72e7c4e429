"""The numbers of a run for machines; the page shows the same ones."""

from typing import Any

import numpy as np

from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.report.reading import RunFolder
from auricle.study.results import BASELINE
from auricle.study.statistics import Difference, paired_difference

ARM_FIELDS = ("dice", "hd95_mm", "nsd", "missed", "cases")
AUTOENCODER_FIELDS = ("label_dice", "image_rmse_hu", "impossible_boundary_share", "speck_share")


def summarize(run: RunFolder, peak_gib: float | None = None) -> dict[str, Any]:
    """The content of summary.json; what a partial run lacks is left out.

    Keys: ``autoencoder`` (round trip of the test cases), ``generate`` (shares in 0..1, ``volume_ratio``: mean generated over mean
    training volume), ``arms`` (scores of each arm), ``seconds`` (of each finished stage, and ``total``), ``peak_gib``.
    """
    summary: dict[str, Any] = {}
    if run.assessment is not None:
        summary["autoencoder"] = {k: run.assessment[k] for k in AUTOENCODER_FIELDS if k in run.assessment}
    if run.generated is not None:
        summary["generate"] = {k: run.generated[k] for k in ("complete_share", "speck_share") if k in run.generated}
        if run.case_ids("train"):
            summary["generate"]["volume_ratio"] = volume_ratio(training_volumes(run), generated_volumes(run))
    if run.arms:
        summary["arms"] = {arm: {k: scores[k] for k in ARM_FIELDS if k in scores} for arm, scores in run.arms.items()}
    seconds = stage_seconds(run)
    if seconds:
        summary["seconds"] = {**seconds, "total": round(sum(seconds.values()), 1)}
    if peak_gib is not None:
        summary["peak_gib"] = round(float(peak_gib), 3)
    return summary


def stage_seconds(run: RunFolder) -> dict[str, float]:
    """Seconds of every finished stage, in the order they run."""
    done = {stage: run.done(stage) for stage in run.stages()}
    return {stage: float(facts["seconds"]) for stage, facts in done.items() if "seconds" in facts}


def training_volumes(run: RunFolder) -> dict[str, list[float]]:
    """Volume in mL of every structure in every training case that shows one, within the model grid."""
    if run.cohort is None:
        return {k: [] for k in KEYS}
    voxel_ml = float(np.prod(run.cohort["spacing"])) / 1000.0
    counts = [np.bincount(run.case_label(c).ravel(), minlength=len(STRUCTURES) + 1) for c in run.case_ids("train")]
    return {s.key: [float(n[s.id] * voxel_ml) for n in counts if n[1:].any()] for s in STRUCTURES}


def generated_volumes(run: RunFolder) -> dict[str, list[float]]:
    """Volume in mL of every structure in every generated pair."""
    pairs = (run.generated or {}).get("pairs", [])
    return {k: [float(p["volumes_ml"][k]) for p in pairs] for k in KEYS}


def volume_ratio(training: dict[str, list[float]], generated: dict[str, list[float]]) -> dict[str, float | None]:
    """Mean generated volume over mean training volume; None for a structure that no training case shows."""
    ratio: dict[str, float | None] = {}
    for key in KEYS:
        mean = float(np.mean(training[key])) if training[key] else 0.0
        ratio[key] = float(np.mean(generated[key])) / mean if mean > 0 and generated[key] else None
    return ratio


def differences(run: RunFolder, beside: str = BASELINE) -> dict[str, Difference]:
    """Each arm's difference to the arm `beside` in mean Dice, that of the baseline left out; empty where there is no such arm."""
    if beside not in run.arms:
        return {}
    base = run.dice_by_case(beside)
    patients = {c["id"]: c["patient"] for c in (run.cohort or {}).get("cases", []) if "patient" in c}
    found = {arm: paired_difference(run.dice_by_case(arm), base, patients) for arm in run.arms if arm not in (BASELINE, beside)}
    return {arm: difference for arm, difference in found.items() if difference is not None}
