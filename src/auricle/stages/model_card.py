"""The model card of an exported segmenter, from what its run recorded. No path of the machine and no name of a case goes into it."""

import re
from pathlib import Path
from typing import Any

from auricle import __version__
from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.core.files import read_json
from auricle.core.runs import fingerprint_of
from auricle.data.preprocess import AIR_HU, CLIP_HU
from auricle.stages.finetune import Trained

TITLE = "# Heart segmenter made with auricle"
"""First line of a card; a bundle that is exported again keeps its card."""


def model_card(source: Path, model: Trained, facts: dict[str, Any], use: str) -> str:
    """The card (Markdown) of the fine-tuned segmenter in `source`; `use` says how the files beside it are used."""
    own = source / "README.md"
    before = own.read_text(encoding="utf-8") if own.exists() else ""
    if before.startswith(TITLE):
        kept = re.sub(r"(?<=SHA-256 of the weights: `)\w+", str(facts["sha256"]), before).split("\n## ", 2)
        # Only how it is used differs between formats, and the weights, rounded or not.
        return f"{kept[0]}\n## Use\n\n{use}\n\n## {kept[2]}" if len(kept) == 3 else "\n## ".join(kept)
    parts = [
        f"{TITLE}\n\nFor research only. Not a medical device; do not decide about a patient with it.",
        f"## Use\n\n{use}", _labels(), _input(model), _network(model, facts), _training(source, facts), _figures(source), _limits(),
    ]  # fmt: skip
    if before:
        parts.append("## The card it came with\n\n" + before.replace("\n#", "\n##").removeprefix("# ").strip())
    return "\n\n".join(p for p in parts if p) + "\n"


def _labels() -> str:
    rows = [f"| {s.id} | {s.key} | {s.name} | {s.snomed} |" for s in STRUCTURES]
    return "\n".join(["## Labels", "", "| value | key | structure | SNOMED CT |", "| --- | --- | --- | --- |", *rows, "", "0 is background."])


def _input(model: Trained) -> str:
    spacing, window, size = (" x ".join(f"{v:g}" for v in values) for values in (model.grid.spacing, model.window, model.grid.size))
    return f"""## Input

CT in HU, any orientation, voxel size and field of view. `auricle segment` and the MONAI bundle do all of this. In a wide scan, the first searches
the heart before, and looks at its surroundings alone.

1. The scan is resampled linearly to axis-aligned RAS+ voxels of {spacing} mm. Where these are larger than the scan's, it is first smoothed
   by a Gaussian of sqrt(r^2 - 1) / 2.355 scan voxels, r being the ratio of the two. Outside the scan it is {AIR_HU} HU.
2. HU are clipped to -{CLIP_HU:.0f}..{CLIP_HU:.0f} and divided by {CLIP_HU:.0f}.
3. The network sees {window} voxels at a time; windows overlap by half and are blended by a Gaussian.
4. A second pass looks at {size} voxels around the heart that was found, and replaces the first one there.
5. Small pieces far from the heart are removed, probabilities are interpolated on the scan's own grid, and the largest wins."""


def _network(model: Trained, facts: dict[str, Any]) -> str:
    count = sum(p.numel() for p in model.network.parameters()) / 1e6
    channels = ", ".join(map(str, model.network.config.channels))
    return f"""## Network

3D U-Net with a strided stem, residual blocks of {channels} channels and GroupNorm; {count:.1f} M parameters. Edges of its input are multiples
of {model.network.config.multiple}. SHA-256 of the weights: `{facts["sha256"]}`."""


def _training(source: Path, facts: dict[str, Any]) -> str:
    training = facts.get("training") or {}
    config = _read(source / "config.json").get("config", {})
    run = _read(source.resolve().parent.parent / "run.json") if (source / "config.json").exists() else {}
    rows = [
        ("trained by", f"auricle {run['version']}" if "version" in run else None), ("exported by", f"auricle {__version__}"),
        ("recipe", run.get("recipe")), ("seed", config.get("seed", run.get("seed"))),
    ]  # fmt: skip
    # The path is that of the training: the run may have been moved since, and another may lie there now.
    own = _read(source / "config.json").get("inputs", {}).get("cohort")
    folders = [source.resolve().parent.parent / "cohort", *([Path(config["cohort"])] if config.get("cohort") else [])]
    cohort = next((f for f in folders if own is not None and fingerprint_of(f) == own), None)
    if cohort is not None:
        rows.append(("cohort", _cohort(cohort)))
    rows += [("labeled training items", training.get("labeled")), ("generated training items", training.get("generated"))]
    if config:
        rows.append(("pre-trained encoder", "yes" if config.get("pretrained") else "no"))
        if config.get("initial"):
            rows.append(("started from", "another segmenter, whose training data it has seen too"))
        rows.append(("mirror images", "yes" if facts.get("mirrored") else "no"))
    rows += [("optimizer steps", training.get("steps")), ("best step", training.get("best_step"))]
    if training.get("dice") is not None:
        rows.append(("mean Dice where early stopping looked", f"{training['dice']:.3f}"))
    shown = [f"| {name} | {value} |" for name, value in rows if value is not None]
    return "\n".join(["## Trained on", "", "| | |", "| --- | --- |", *shown])


def _cohort(folder: Path) -> str:
    cases = _read(folder / "cases.json")["cases"]
    kind = _read(folder / "config.json").get("config", {}).get("data", {}).get("kind")
    what = {"virtual": "virtual patients, no scan of a real person", "folder": "scans with label maps of its makers"}.get(str(kind), "cases")
    splits = [f"{sum(c['split'] == s for c in cases)} {s}" for s in ("train", "validation", "test")]
    return f"{len(cases)} {what} ({', '.join(splits)})"


def _figures(source: Path) -> str:
    summary = _read(source.resolve().parent.parent / "evaluate" / source.name / "summary.json") if (source / "config.json").exists() else {}
    if not summary:
        return ""
    names = ["mean", *KEYS]
    shown = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "nsd": "NSD"}
    rows = [
        f"| {title} | " + " | ".join("-" if summary[key].get(n) is None else f"{summary[key][n]:.3g}" for n in names) + " |"
        for key, title in shown.items() if key in summary
    ]  # fmt: skip
    head = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    return "\n".join([f"## Figures\n\nOn the {summary['cases']} cases of the test split of that cohort:\n", *head, *rows])


def _limits() -> str:
    return """## Limits and license

Its confidence is not calibrated, and nothing is known about scans unlike those it was trained on. Where it was trained on virtual patients alone,
congenital disease, postoperative anatomy and most devices were never seen. Look at every result.

auricle is licensed under the Apache License 2.0. The weights belong to whoever trained them: ask them before passing the model on."""


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    return value if isinstance(value, dict) else {}
