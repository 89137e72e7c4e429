"""The results of a study as a page to read: the paper's table with what a reviewer asks for, in Markdown, LaTeX and HTML, and figures."""

import html
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from auricle.core.errors import InputError
from auricle.core.files import atomic_path, read_json, write_json, write_text
from auricle.data.conditions import CONTRASTS
from auricle.report import study_figures, words
from auricle.study import results
from auricle.study.results import BASELINE, BOUND, CONTROL, NO_COMPETITORS, Contender, Gain, Results, Scores, Setting
from auricle.study.statistics import Difference, mean_score

ORDER = ("AO", "LAA", "LA", "LV", "MYO", "PA", "RA", "RV")
"""Structures as the paper's table has them."""
SIGNIFICANT, LEAST_SEEDS = 0.05, 5
"""A gain is starred below this p, on at least so many seeds: fewer show too little of how trainings differ."""
Form = Literal["markdown", "latex", "html"]
LATEX = {
    **{character: f"\\{character}" for character in "&%_#${}"}, "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": "$|$", "−": "$-$", "±": "$\\pm$", "*": "$^{*}$",
}  # fmt: skip
"""Characters that LaTeX reads otherwise."""


@dataclass(frozen=True)
class Sheet:
    """A table: the same cells for every form. The first column is text, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    """Row and column of the cells that stand out."""


def write_study(table: Path, out: Path, studies: Sequence[Path] = ()) -> Path:
    """Write ``study.md``, ``study.tex``, ``study.html``, ``study.json`` and figures into `out` from a study's tidy table.

    `studies` are folders whose cohort says which contrast timing a test case has; a table by timing is made where one is known. Returns the path
    of the Markdown page; raises `InputError` where `table` is not such a table or holds no row.
    """
    found = results.read(table)
    if not found:
        raise InputError(f"{table} holds no result yet")
    timings = {case: timing for study in studies for case, timing in _timings(study / "cohort" / "cases.json").items()}
    sheets = [sheet for setting in sorted(found) for sheet in setting_sheets(found, setting, timings)]
    headroom = headroom_sheet(found)
    sheets = [headroom, *sheets] if headroom.rows else sheets
    figures = study_figures.draw(found)
    for name in study_figures.TITLES:
        if name not in figures:
            (out / f"study-{name}.png").unlink(missing_ok=True)  # of a larger table
            continue
        with atomic_path(out / f"study-{name}.png") as temporary:
            temporary.write_bytes(figures[name])
    pictures = [f"![{study_figures.TITLES[name]}](study-{name}.png)\n\n{study_figures.CAPTIONS[name]}" for name in figures]
    blocks = ["# Study", NOTES, *pictures, *(f"## {s.title}\n\n{markdown(s)}" for s in sheets)]
    write_text(out / "study.md", "\n\n".join(blocks) + "\n")
    write_text(out / "study.tex", "\n\n".join(latex(s) for s in sheets) + "\n")
    write_text(out / "study.html", _document([*(f"<h2>{html.escape(s.title)}</h2>\n{as_html(s)}" for s in sheets)], list(figures)))
    write_json(out / "study.json", results.summary(found))
    return out / "study.md"


NOTES = """Dice of the test cases, mean over seeds and cases; after ± the SD over seeds of the mean. Gains are in Dice points (hundredths) beside
the baseline of the same setting, on the same seeds and cases, with a 95% interval for new seeds and new patients; \\* marks p < 0.05
of Wilcoxon's signed ranks over patients, for single structures corrected by Holm's method over the eight of an arm and not over arms,
where at least five seeds were run and the interval leaves out zero too. Intervals of one seed speak of cases alone. A structure that
was missed has Dice 0 and, in gains of HD95, the largest distance that any arm shows. P(better) is the probability that the arm has
the higher Dice in the same case and seed. The headroom is the gain of the real upper bound (as many other labeled cases in the place
of generated pairs), the largest where there are several; where it is below half a point no share of it is told."""


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #8884}
td:first-child,th:first-child{text-align:left}img{max-width:100%}"""


def setting_sheets(found: Results, setting: Setting, timings: Mapping[str, str]) -> list[Sheet]:
    """Dice, gains and other measures of one setting, and Dice by the contrast `timings` of the cases where they are known."""
    arms = dict(sorted(found[setting].items(), key=lambda item: _rank(item[0])))
    name = words.setting(setting)
    sheets = [_dice_sheet(f"Dice: {name}", arms)]
    dice = results.gains(found, setting)
    if dice:
        sheets.append(_gain_sheet(f"Gain in Dice points: {name}", dice, arms))
    controlled = results.gains(found, setting, beside=CONTROL)
    if controlled:
        sheets.append(_gain_sheet(f"Gain in Dice points beside {words.arm_name(CONTROL)}: {name}", controlled, arms, headroom=False))
    sheets.append(_other_sheet(f"Other measures: {name}", arms, {m: results.gains(found, setting, m) for m in ("hd95_mm", "nsd")}))
    by_timing = _timing_sheet(f"Dice by contrast timing: {name}", arms, timings)
    return [*sheets, by_timing] if len(by_timing.header) > 2 else sheets


def _timings(cases: Path) -> dict[str, str]:
    """The contrast timing of each case of a prepared cohort that knows it; none where there is no such file, `InputError` for a damaged one."""
    if not cases.is_file():
        return {}
    try:
        return {c["id"]: t for c in read_json(cases)["cases"] if (t := c["attributes"].get("contrast")) in CONTRASTS}
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{cases} does not describe a prepared cohort: prepare it again, or report the study.csv alone, elsewhere") from None


def _timing_sheet(title: str, arms: dict[Contender, Scores], timings: Mapping[str, str]) -> Sheet:
    """Mean Dice of each arm over the cases of each timing; the number of cases stands in the header."""
    counts = Counter(timings[case] for case in set().union(*(scores.cases for scores in arms.values())) if case in timings)
    shown = [t for t in CONTRASTS if counts[t]]

    def mean(scores: Scores, timing: str) -> str:
        places = [i for i, case in enumerate(scores.cases) if timings.get(case) == timing]
        value = float(mean_score(scores.tables["dice"][:, places])[0]) if places else math.nan
        return words.number(value if math.isfinite(value) else None)

    names = _names(arms)
    rows = [[names[contender], *(mean(scores, t) for t in shown)] for contender, scores in arms.items()]
    return Sheet(title, ["Arm", *(f"{t} ({counts[t]})" for t in shown)], rows)


def headroom_sheet(found: Results) -> Sheet:
    """What there is to gain in every setting that has a real upper bound."""
    rows = []
    for setting in sorted(found):
        for contender, gain in results.gains(found, setting).items():
            if contender.arm == BOUND and contender.ratio and gain.overall is not None:
                base, bound = found[setting][Contender(BASELINE, 0.0)], found[setting][contender]
                base, bound = base.on(bound.seeds), bound.on(base.seeds)
                rows.append([str(setting.labelled), words.budget(setting.budget), f"{contender.ratio:g}", words.number(base.mean("dice")),
                             words.number(bound.mean("dice")), interval(gain.overall), _points(gain.structures.get("LAA"))])  # fmt: skip
    header = ["Labeled cases", "Budget", "Other cases for each", "Baseline", "Real upper bound", "Headroom, Dice points", "LAA"]
    return Sheet("Headroom", header, rows)


def _names(arms: Mapping[Contender, Scores]) -> dict[Contender, str]:
    """The arms as shown; those that have not been run on all seeds of the others say so."""
    seeds = set().union(*(s.seeds for s in arms.values()))
    return {c: words.contender(c) + ("" if set(s.seeds) == seeds else f", {len(s.seeds)} of {len(seeds)} seeds") for c, s in arms.items()}


def _dice_sheet(title: str, arms: dict[Contender, Scores]) -> Sheet:
    """Means of each arm; the best ones are bold among the arms that have been run on every seed."""
    rows: list[list[str]] = []
    names = _names(arms)
    columns: list[list[float]] = []
    for contender, scores in arms.items():
        means = scores.by_structure("dice")
        sd = scores.seed_sd("dice")
        rows.append([names[contender], words.number(scores.mean("dice")) + (f" ± {words.number(sd)}" if sd is not None else ""),
                     *(words.number(means[k]) for k in ORDER)])  # fmt: skip
        # What is equal to the digits shown is equal.
        columns.append([-1.0 if value is None else round(value, 3) for value in (scores.mean("dice"), *(means[k] for k in ORDER))])
    competing = [i for i, c in enumerate(arms) if c.arm not in NO_COMPETITORS and names[c] == words.contender(c)]
    best = [max(columns[i][j] for i in competing) for j in range(len(ORDER) + 1)] if len(competing) > 1 else []
    bold = frozenset((i, j + 1) for j, most in enumerate(best) for i in competing if columns[i][j] == most >= 0)
    return Sheet(title, ["Arm", "Mean", *ORDER], rows, bold)


def _gain_sheet(title: str, gains: dict[Contender, Gain], arms: dict[Contender, Scores], headroom: bool = True) -> Sheet:
    rows, names = [], _names(arms)
    for contender in arms:
        if contender in gains:
            gain = gains[contender]
            share = words.NONE if gain.share_of_headroom is None else words.percent(gain.share_of_headroom, 0)
            better = gain.overall.superiority if gain.overall else None
            parts = (_points(gain.structures[k]) for k in ORDER)
            rows.append([names[contender], interval(gain.overall), *([share] if headroom else []), words.number(better, 2), *parts])
    return Sheet(title, ["Arm", "Mean (95% interval)", *(["Share of headroom"] if headroom else []), "P(better)", *ORDER], rows)


def _other_sheet(title: str, arms: dict[Contender, Scores], gains: dict[str, dict[Contender, Gain]]) -> Sheet:
    rows, names = [], _names(arms)
    for contender, scores in arms.items():
        near = gains["hd95_mm"].get(contender)
        rows.append([
            names[contender], words.number(scores.mean("hd95_mm"), 2), interval(near.overall if near else None, 1.0, 2),
            words.number(scores.mean("nsd")), interval(gains["nsd"][contender].overall, 100.0) if contender in gains["nsd"] else words.NONE,
            words.number(scores.mean("volume_error_ml"), 1), f"{scores.missed.sum()} of {scores.missed.size - scores.absent}",
        ])  # fmt: skip
    header = ["Arm", "HD95, mm", "Gain (lower is better)", "NSD at 2 mm", "Gain, points", "Error of the volume, mL", "Missed structures"]
    return Sheet(title, header, rows)


def _rank(contender: Contender) -> tuple[int, int, str, float]:
    names = list(words.NAMES)
    known = contender.arm in names
    return (contender.arm in NO_COMPETITORS, names.index(contender.arm) if known else len(names), contender.arm, contender.ratio)


def interval(difference: Difference | None, scale: float = 100.0, digits: int = 1) -> str:
    """A gain with its interval and, where it is significant, a star."""
    if difference is None:
        return words.NONE
    text = _signed(scale * difference.value, digits)
    if difference.low is not None and difference.high is not None:
        text += f" ({_signed(scale * difference.low, digits)} to {_signed(scale * difference.high, digits)})"
    return text + _star(difference)


def _points(difference: Difference | None) -> str:
    return words.NONE if difference is None else _signed(100 * difference.value, 1) + _star(difference)


def _star(difference: Difference) -> str:
    # The test sees cases alone; where trainings differ by chance the interval crosses zero, and nothing is claimed.
    proven = difference.p is not None and difference.p < SIGNIFICANT and difference.settled
    return "*" if proven and difference.seeds >= LEAST_SEEDS else ""


def _signed(value: float, digits: int) -> str:
    text = words.number(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def markdown(sheet: Sheet) -> str:
    """The table in Markdown."""
    def cell(i: int, j: int, text: str) -> str:
        text = re.sub(r"[\\`*_|<>\[\]]", r"\\\g<0>", text)
        return f"**{text}**" if (i, j) in sheet.bold else text

    return "\n".join(_lines(sheet, cell, lambda cells: "| " + " | ".join(cells) + " |", "|" + " --- |" * len(sheet.header)))


def latex(sheet: Sheet) -> str:
    """The table in LaTeX, for the package booktabs."""
    def escaped(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in text)

    def cell(i: int, j: int, text: str) -> str:
        return f"\\textbf{{{escaped(text)}}}" if (i, j) in sheet.bold else escaped(text)

    rows = _lines(sheet, cell, lambda cells: "  " + " & ".join(cells) + " \\\\", "  \\midrule")
    columns = "l" + "r" * (len(sheet.header) - 1)
    return "\n".join([
        "\\begin{table}", f"  \\caption{{{escaped(sheet.title)}}}", f"  \\begin{{tabular}}{{{columns}}}", "  \\toprule", *rows, "  \\bottomrule",
        "  \\end{tabular}", "\\end{table}",
    ])  # fmt: skip


def as_html(sheet: Sheet) -> str:
    """The table in HTML."""
    def row(i: int, cells: Sequence[str], tag: str) -> str:
        marked = [f"<b>{html.escape(c)}</b>" if (i, j) in sheet.bold else html.escape(c) for j, c in enumerate(cells)]
        return "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in marked) + "</tr>"

    body = "\n".join(row(i, cells, "td") for i, cells in enumerate(sheet.rows))
    return f"<table>\n<thead>{row(-1, sheet.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _lines(sheet: Sheet, cell: Callable[[int, int, str], str], join: Callable[[list[str]], str], rule: str) -> list[str]:
    head = join([cell(-1, j, text) for j, text in enumerate(sheet.header)])
    return [head, rule, *(join([cell(i, j, text) for j, text in enumerate(row)]) for i, row in enumerate(sheet.rows))]


def _document(blocks: Sequence[str], figures: Sequence[str]) -> str:
    pictures = "\n".join(
        f'<figure><img src="study-{n}.png" alt="{html.escape(study_figures.TITLES[n])}"><figcaption>{html.escape(study_figures.CAPTIONS[n])}'
        "</figcaption></figure>" for n in figures
    )  # fmt: skip
    notes = html.escape(NOTES.replace("\\*", "*"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>auricle study</title><style>{STYLE}</style></head>\n'
        f"<body>\n<h1>Study</h1>\n<p>{notes}</p>\n{pictures}\n" + "\n".join(blocks) + "\n</body></html>\n"
    )
