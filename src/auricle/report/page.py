"""The page: figures and numbers of a run in one HTML file that needs nothing else."""

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from auricle.core.anatomy import STRUCTURES
from auricle.core.files import write_json, write_text
from auricle.report import figures, tables, words
from auricle.report.figures import Line, Panel, Theme
from auricle.report.reading import RunFolder
from auricle.report.slices import WINDOW_HU
from auricle.report.summary import differences, generated_volumes, summarize, training_volumes
from auricle.study.results import BASELINE, CONTROL
from auricle.study.statistics import Difference, mean_dice

SHOWN_CASES = 3
VIRTUAL = "virtual patient"


@dataclass(frozen=True)
class Picture:
    """A figure as the template shows it; `dark` is None where one picture serves both color schemes."""

    light: str
    dark: str | None
    alt: str


def write_report(root: Path, peak_gib: float | None = None) -> Path:
    """Write ``report.html`` and ``summary.json`` into the run folder `root`; a partial run gives a shorter page.

    Args:
        root: folder that `auricle run` wrote.
        peak_gib: the most memory the run held at once, where that was measured.

    Returns:
        Path of the page.

    Raises:
        InputError: `root` holds no stage of a run, or a file in it is damaged.
    """
    run = RunFolder(Path(root))
    summary = summarize(run, peak_gib)
    html = _environment().get_template("report.html.jinja").render(**_content(run, summary))
    write_json(run.root / "summary.json", summary)
    page = run.root / "report.html"
    write_text(page, html)
    return page


def _environment() -> Environment:
    loader = PackageLoader("auricle.report", "templates")
    return Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _content(run: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    found, controlled = differences(run), differences(run, CONTROL)
    training, generated = training_volumes(run), generated_volumes(run)
    both = bool(run.case_ids("train")) and run.generated is not None
    return {
        "recipe": run.run.get("recipe"), "source": _source(run), "structures": STRUCTURES, "window": WINDOW_HU,
        "headline": words.headline(run.arms), "sentences": _sentences(found, controlled), "caution": _caution(run, found),
        "tiles": words.tiles(summary),
        "arm_blocks": tables.arm_blocks(run.arms) if run.arms else [],
        "arm_descriptions": _arm_descriptions(run),
        "difference_tables": [(words.BESIDE[a], tables.difference_rows(d)) for a, d in ((BASELINE, found), (CONTROL, controlled)) if d],
        "pairs_figure": _pairs_figure(run), "case_noun": _case_noun(run),
        "volume_figure": _volume_figure(training, generated) if both else None,
        "volume_rows": tables.volume_rows(training, generated) if both else [],
        "curve_figure": _curve_figure(run),
        "reconstruction": run.reconstructions(), "reconstruction_figure": _reconstruction_figure(run),
        "segmentation_figure": _segmentation_figure(run),
        "autoencoder": run.assessment, "autoencoder_rows": tables.autoencoder_rows(run.assessment) if run.assessment else [],
        "provenance": tables.provenance_rows(run), "stage_rows": tables.stage_rows(run),
        "configurations": tables.configurations(run),
        "number": words.number, "percent": words.percent, "plural": words.plural,
    }  # fmt: skip


def _source(run: RunFolder) -> str:
    """``virtual``, ``mixed`` or ``real``; empty where no cohort is there yet."""
    cases = (run.cohort or {}).get("cases", [])
    virtual = sum((c.get("attributes") or {}).get("source") == VIRTUAL for c in cases)
    return "" if not cases else "virtual" if virtual == len(cases) else "mixed" if virtual else "real"


def _case_noun(run: RunFolder) -> str:
    return {"virtual": "virtual patient", "real": "patient"}.get(_source(run), "case")


def _sentences(found: dict[str, Difference], controlled: dict[str, Difference]) -> list[str]:
    """Ours first: that is the question of the run. `controlled`: beside the arm that is trained as `ours-plus` is, without pairs."""
    sentences = [words.compared(arm, found[arm]) for arm in sorted(found, key=lambda a: a != "ours")]
    return sentences + [words.compared(arm, d, CONTROL) for arm, d in controlled.items() if arm == "ours-plus"]


def _caution(run: RunFolder, found: dict[str, Difference]) -> str:
    if found:
        return words.caution(max(d.cases for d in found.values()))
    return words.caution(max(int(s.get("cases", 0)) for s in run.arms.values())) if len(run.arms) > 1 else ""


def _arm_descriptions(run: RunFolder) -> list[tuple[str, str]]:
    rows = [(words.arm_name(a), words.arm_description(run.config(f"finetune/{a}"), run.done(f"finetune/{a}"))) for a in run.arms]
    return [(name, text) for name, text in rows if text]


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _themed(draw: Callable[[Theme], bytes], alt: str) -> Picture:
    return Picture(_uri(draw("light")), _uri(draw("dark")), alt)


def _pairs_figure(run: RunFolder) -> Picture | None:
    if run.cohort is None:
        return None
    shown = (run.case_ids("train") or run.case_ids("test"))[:SHOWN_CASES]
    made = [p["id"] for p in (run.generated or {}).get("pairs", [])][:SHOWN_CASES]
    if not shown:
        return None
    title = f"{_case_noun(run).capitalize()}s"
    groups = [(title, [run.case(c) for c in shown]), ("Generated", [run.generated_pair(p) for p in made])]
    alt = f"CT slices in three planes, without and with colored structures: {title.lower()} {', '.join(shown)}"
    alt += f" beside generated pairs {', '.join(made)}." if made else "."
    return Picture(_uri(figures.pairs(groups, _spacing(run))), None, alt)


def _volume_figure(training: dict[str, list[float]], generated: dict[str, list[float]]) -> Picture:
    alt = "Volumes of the eight structures in training cases and in generated pairs; the table below gives means and spread."
    return _themed(lambda theme: figures.volumes(training, generated, ("training", "generated"), theme), alt)


def _reconstruction_figure(run: RunFolder) -> Picture | None:
    found = run.reconstructions()
    if found is None or run.cohort is None:
        return None
    alt = "Axial slices of held-out images: whole, with hidden blocks, and as the pre-trained network restores them."
    return Picture(_uri(figures.reconstructions(found[1], _spacing(run))), None, alt)


def _segmentation_figure(run: RunFolder) -> tuple[Picture, str] | None:
    """The picture and the case's id: the one whose mean Dice over the arms is in the middle, not picked for its looks."""
    if run.cohort is None or not run.arms:
        return None
    scores = [run.dice_by_case(arm) for arm in run.arms]
    means = {c: sum(mean_dice(s[c][None]) for s in scores) for c in run.case_ids("test") if all(c in s for s in scores)}
    ranked = sorted((c for c in means if math.isfinite(means[c])), key=lambda c: means[c])
    if not ranked:
        return None
    chosen = ranked[len(ranked) // 2]
    predictions = {words.arm_name(a): p for a in run.arms if (p := run.prediction(a, chosen)) is not None}
    if not predictions:
        return None
    case = run.case(chosen)
    alt = f"Test case {chosen} in three planes: the reference labels, then outlines predicted by {', '.join(predictions)}."
    return Picture(_uri(figures.segmentation(case.image, case.label, predictions, _spacing(run))), None, alt), chosen


def _curve_figure(run: RunFolder) -> Picture | None:
    panels = [p for p in (*_stage_panels(run), *_arm_panels(run)) if p.lines]
    if not panels:
        return None
    alt = "Training curves: " + "; ".join(p.title for p in panels) + "."
    return _themed(lambda theme: figures.curves(panels, theme), alt)


def _stage_panels(run: RunFolder) -> list[Panel]:
    dice = _lines(run, "autoencoder", validation_label_dice="validation, mean", validation_label_dice_LAA="validation, LAA")
    panels = [
        Panel("autoencoder: loss", _lines(run, "autoencoder", train_loss="training")),
        Panel("autoencoder: round trip Dice", dice, share=True),
    ]
    for stage in ("refiner", "diffusion", "pretrain"):
        panels.append(Panel(f"{stage}: loss", _lines(run, stage, train_loss="training", validation_loss="validation")))
    return panels


def _arm_panels(run: RunFolder) -> list[Panel]:
    arms = run.arm_names("finetune")
    titles = {"train_loss": "fine-tuning: training loss", "validation_dice": "fine-tuning: validation Dice",
              "validation_dice_LAA": "fine-tuning: validation Dice, LAA"}  # fmt: skip
    panels = []
    for key, title in titles.items():
        lines = [_lines(run, f"finetune/{arm}", i, **{key: words.arm_name(arm)}) for i, arm in enumerate(arms)]
        panels.append(Panel(title, [line for found in lines for line in found], share=key != "train_loss"))
    return panels


def _lines(run: RunFolder, stage: str, color: int = 2, **labels: str) -> list[Line]:
    """The curves of a stage: record key = label; the second one is dashed."""
    lines = []
    records = run.metrics(stage)
    for n, (key, label) in enumerate(labels.items()):
        points = [(int(r["step"]), float(r[key])) for r in records if r.get(key) is not None and math.isfinite(r[key])]
        if points:
            lines.append(Line(label, [s for s, _ in points], [v for _, v in points], color - n, dashed=n > 0))
    return lines


def _spacing(run: RunFolder) -> tuple[float, float, float]:
    assert run.cohort is not None
    x, y, z = run.cohort["spacing"]
    return float(x), float(y), float(z)
