"""The assessment of a generator as a page to read: every number of ``assessment.json`` beside its goal, and figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.core.files import atomic_path, read_json, write_text
from auricle.metrics.texture import TISSUES
from auricle.report import assessment_figures, tables, words
from auricle.report import assessment_goals as goals
from auricle.report.assessment_figures import Measures
from auricle.report.assessment_goals import MEASURES
from auricle.report.page import VIRTUAL
from auricle.report.reading import RunFolder
from auricle.report.slices import WINDOW_HU

Flat = Mapping[str, Any]
NUMBERS = (*MEASURES, *(f"{k}_real" for k in goals.OBEYED))
"""Keys that hold a number or None."""


FIGURES: dict[str, tuple[str, str, str]] = {
    "volumes": ("Volumes of the eight structures, training cases beside generated pairs", "Every dot is a case; the box holds the middle half.",
                "no volume was measured"),
    "requested": ("Obtained over requested volume of the eight structures", "A pair on the dashed line came out as asked for.",
                  "no volumes were requested"),
    "texture": ("Noise power spectrum by tissue", "The lines should coincide; the area below them grows with the noise.", "no tissue was found"),
    "histograms": ("HU by tissue", "The lines should coincide, up to what the held-out cases differ.", "no tissue was found"),
    "closest": ("The generated pairs that come closest to a training case, beside that case",
                "Axial slices of generated pairs (left), each beside its nearest training case (right); the CT without and with its labels, "
                "gray levels as below.", "the run was not audited, or its cohort is not there"),
    "pairs": ("Training cases beside generated pairs",
              "The first of each, not picked for their looks: axial, coronal and sagittal. R: the patient's right, A: anterior, S: superior. "
              f"Colors are those of the volumes above; gray levels run from {words.number(WINDOW_HU[0], 0)} to {words.number(WINDOW_HU[1], 0)} HU.",
              "neither cohort nor generated pairs are there"),
}  # fmt: skip
"""Name to alternative text, caption, and why it may be left out."""


def write_assessment(root: Path) -> Path:
    """Write ``assessment.md`` and its figures into ``root/assessment`` from what `auricle assess` measured. Returns the page's path.

    Figures for which nothing was measured are left out, and the page says so. Nothing is written where anything cannot be read.

    Raises:
        InputError: ``assessment.json`` or ``assessment/measures.json`` is missing or damaged, or a file of the run is.
    """
    root = Path(root)
    flat = _flat(root)
    measures = _measures(root)
    if not measures.nearest:
        # Without an audit no copy is found, which says nothing about copies.
        flat = {**flat, "copy_share": None}
    run = RunFolder(root)
    drawn = assessment_figures.draw(run, measures, {k: flat.get(f"volume_r_{k}") for k in KEYS}, flat.get("copy_threshold"))
    text = _page(run, flat, measures, set(drawn))
    folder = root / "assessment"
    for name in FIGURES:
        if name in drawn:
            with atomic_path(folder / f"{name}.png") as temporary:
                temporary.write_bytes(drawn[name])
        else:
            # One of an earlier assessment would pass for this one's.
            (folder / f"{name}.png").unlink(missing_ok=True)
    page = folder / "assessment.md"
    write_text(page, text)
    return page


def escape(text: Any) -> str:
    """`text` on one line, so that Markdown shows its characters as they are, in a table's cell too."""
    line = "".join(c for c in " ".join(str(text).split()) if c.isprintable())
    line = "".join(f"\\{c}" if c in "\\`*_[]|~$" else c for c in line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _read(root: Path, name: str) -> Any:
    path, again = root / name, f"run `auricle assess {root}` again"
    try:
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {again}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): {again}") from None


def _flat(root: Path) -> Flat:
    found = _read(root, "assessment.json")
    bad = ["everything"] if not isinstance(found, dict) else [k for k in NUMBERS if not _is_number(found.get(k))]
    if bad:
        raise InputError(f"{root / 'assessment.json'} does not hold what it should ({', '.join(bad[:3])}): run `auricle assess {root}` again")
    return dict(found)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"))


def _measures(root: Path) -> Measures:
    found = _read(root, "assessment/measures.json")
    try:
        return Measures.parse(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        path = root / "assessment" / "measures.json"
        raise InputError(f"{path} does not hold what it should ({error!r}): run `auricle assess {root}` again") from None


def _page(run: RunFolder, flat: Flat, measures: Measures, drawn: set[str]) -> str:
    parts = [
        "# Assessment of the generator", *_introduction(run, flat), *_goals(flat),
        "## Round trip", "What the autoencoder loses can never be generated: test cases through it and back.",
        _judged(flat, goals.LABELS | goals.IMAGES),
        "## Gate", *_gate(run, flat),
        "## Volumes", *_volumes(flat, measures), _figure("volumes", drawn),
        "## Requested against obtained", *_requested(flat), _figure("requested", drawn),
        "## Texture and HU", *_texture(flat), _figure("texture", drawn), _figure("histograms", drawn),
        "## Distribution and diversity", *_distribution(flat),
        "## Memorization", *_memorization(flat, measures), _figure("closest", drawn),
        "## Pairs", _figure("pairs", drawn),
        "## Where these numbers come from", _table(("what", "value"), [(name, escape(value)) for name, value in tables.provenance_rows(run)]),
        "The same numbers for machines are in `assessment.json` in the run's folder; figures are drawn from the run's `assessment/measures.json`.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def _figure(name: str, drawn: set[str]) -> str:
    alt, caption, lacking = FIGURES[name]
    return f"![{alt}]({name}.png)\n\n*{caption}*" if name in drawn else f"*No figure `{name}.png`: {lacking}.*"


def _text(flat: Flat, key: str) -> str:
    return MEASURES[key].text(flat.get(key))


def _cell(flat: Flat, key: str) -> str:
    """A number and whether it reaches its goal, for tables of several."""
    verdict = MEASURES[key].verdict(flat.get(key))
    return _text(flat, key) if verdict in ("", words.NONE) else f"{_text(flat, key)}, {verdict}"


def _judged(flat: Flat, keys: Iterable[str]) -> str:
    rows = [(m.name, _text(flat, k), m.goal, m.verdict(flat.get(k)), m.meaning) for k in keys if (m := MEASURES[k])]
    return _table(("measure", "value", "goal", "result", "meaning"), rows)


def _introduction(run: RunFolder, flat: Flat) -> list[str]:
    known = {k: words.NONE if flat.get(k) is None else escape(flat[k]) for k in ("pairs", "training_cases", "test_cases", "sampler", "steps", "seed")}
    virtual = any((c.get("attributes") or {}).get("source") == VIRTUAL for c in (run.cohort or {}).get("cases", []))
    warning = "Generated pairs are synthetic and belong to no patient; nothing here is for clinical use."
    if virtual:
        warning += " Patients of this run are virtual, too: computed by a phantom, never scanned. The numbers say nothing about real patients."
    return [
        f"{known['pairs']} generated pairs (sampler {known['sampler']}, {known['steps']} steps, seed {known['seed']}) against "
        f"{known['training_cases']} training cases. {known['test_cases']} test cases, which no network has learned from, show what real cases reach.",
        warning,
    ]  # fmt: skip


def _goals(flat: Flat) -> list[str]:
    """How many goals are reached, and every one that is not."""
    aimed = {k: m for k, m in MEASURES.items() if m.goal}
    missed = [k for k, m in aimed.items() if (v := flat.get(k)) is not None and not m.reached(v)]
    unknown = [k for k in aimed if flat.get(k) is None]
    parts = ["## Goals", f"**{len(aimed) - len(missed) - len(unknown)} of {words.plural(len(aimed), 'goal')} reached.**"]
    if missed:
        parts.append("Not reached:\n\n" + "\n".join(f"- {aimed[k].name}: {_text(flat, k)}; goal: {aimed[k].goal}" for k in missed))
    if unknown:
        parts.append("Not measured:\n\n" + "\n".join(f"- {aimed[k].name}; goal: {aimed[k].goal}" for k in unknown))
    return parts


def _gate(run: RunFolder, flat: Flat) -> list[str]:
    parts = ["What share of candidates is anatomically sound, and why the others are not.", _judged(flat, goals.GATE)]
    gate = (run.generated or {}).get("gate")
    if gate is None:
        return [*parts, "*No reasons: the run holds no `generate/pairs.json` with a gate.*"]
    try:
        candidates, before, after = int(gate["candidates"]), dict(gate["reasons_before_repair"]), dict(gate["reasons"])
        counts = {fault: (int(before.get(fault, 0)), int(after.get(fault, 0))) for fault in before | after}
    except (KeyError, TypeError, ValueError):
        path = run.root / "generate" / "pairs.json"
        raise InputError(f"{path} does not hold what it should (gate): remove {path.parent} and run the same command again") from None
    ranked = sorted(counts.items(), key=lambda item: (-item[1][0], -item[1][1]))
    rows = [(escape(fault), str(a), str(b)) for fault, (a, b) in ranked]
    pairs = (run.generated or {}).get("pairs", [])
    filled = sum(bool(p.get("faults")) for p in pairs)
    if filled:
        parts.append(f"{filled} of the {words.plural(len(pairs), 'kept pair')} did not pass and fill up the number asked for.")
    if not rows:
        return [*parts, "No candidate shows a fault."]
    lead = f"Faults by frequency, of {words.plural(candidates, 'candidate')} (one may show several):"
    return [*parts, lead, _table(("fault", "before repair", "after repair"), rows)]


def _volumes(flat: Flat, measures: Measures) -> list[str]:
    spreads = tables.volume_rows(measures.volumes_ml["training"], measures.volumes_ml["generated"])
    rows = [(*spread[:3], *(_cell(flat, f"volume_{what}_ratio_{k}") for what in ("mean", "sd"))) for spread, k in zip(spreads, KEYS, strict=True)]
    mean, sd = (MEASURES[f"volume_{what}_ratio_{KEYS[0]}"].goal for what in ("mean", "sd"))
    header = ("structure", "training", "generated", f"ratio of means (goal: {mean})", f"ratio of SDs (goal: {sd})")
    return ["Mean ± SD in mL within the model grid: are generated hearts of the right size, and as varied?", _table(header, rows)]


def _requested(flat: Flat) -> list[str]:
    correlations = []
    for k, m in goals.CORRELATIONS.items():
        correlations.append((m.name, _text(flat, k.replace("_r", "_r_decoded")), _text(flat, k), m.goal, m.verdict(flat.get(k))))
    obeyed = [(m.name, _text(flat, k), m.goal, m.verdict(flat.get(k)), MEASURES[k].text(flat.get(f"{k}_real")), m.meaning)
              for k, m in goals.OBEYED.items()]  # fmt: skip
    return [
        "Correlation r of what was asked for with what came out (1: obeyed to the last), before pairs are warped to what was asked for and after:",
        _table(("measure", "r, decoded", "r", "goal", "result"), correlations),
        "Contrast and metal, read off the image by rules learned from training cases; test cases show how good these rules are:",
        _table(("measure", "generated", "goal", "result", "test cases", "meaning"), obeyed),
    ]


def _texture(flat: Flat) -> list[str]:
    sd, peak = (MEASURES[f"texture_{what}_ratio_{TISSUES[0]}"].goal for what in ("sd", "peak"))
    header = ("tissue", "SD ratio, decoded", f"SD ratio, restored (goal: {sd})", "SD ratio, test cases", f"peak ratio (goal: {peak})")
    keys = ("sd_ratio_decoded", "sd_ratio", "sd_ratio_real", "peak_ratio")
    noise = [(t, *(_cell(flat, f"texture_{key}_{t}") for key in keys)) for t in TISSUES]
    hu = [(t, *(_text(flat, f"hu_distance{of}_{t}") for of in ("", "_real"))) for t in TISSUES]
    return [
        "Noise over that of the training cases: its SD before (decoded) and after restoration, and the frequency of its power's peak.",
        _table(header, noise),
        "By how many HU, on average, a tissue's voxels would have to change to be distributed as in training cases:",
        _table(("tissue", "generated (HU)", "test cases (HU)"), hu),
    ]


def _distribution(flat: Flat) -> list[str]:
    rows = []
    for key, floor, low in (("kernel_distance", "_floor", "_low"), ("frechet_distance", "_floor", None)):
        interval = words.NONE if low is None else f"{_text(flat, key + low)} to {_text(flat, key + '_high')}"
        rows.append((MEASURES[key].name, _text(flat, key), interval, _text(flat, key + floor), MEASURES[key].meaning))
    like = MEASURES["ms_ssim_generated"]
    rows.append((like.name, _text(flat, "ms_ssim_generated"), words.NONE, _text(flat, "ms_ssim_real"), like.meaning))
    return [
        "How far generated images lie from those of training cases; the floor is that of test cases, so no generator needs to come closer. "
        "For MS-SSIM it is that between training cases.",
        _table(("measure", "generated", "95 % interval", "real", "meaning"), rows),
    ]


def _memorization(flat: Flat, measures: Measures) -> list[str]:
    parts = ["Is any pair a copy of a training case? And would the audit notice?", _judged(flat, goals.MEMORY)]
    if not measures.nearest:
        return [*parts, "*The pairs were generated without an audit, so no share of copies is known.*"]
    rows = [(escape(n.pair), escape(n.case), words.number(n.score)) for n in measures.nearest[: 2 * assessment_figures.SHOWN]]
    return [*parts, "Pairs nearest to a training case (a higher score is nearer):", _table(("pair", "nearest training case", "score"), rows)]
