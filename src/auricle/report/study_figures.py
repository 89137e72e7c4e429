"""Figures of a study as PNG bytes: gain by structure, Dice over labeled cases, Dice over the ratio."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from auricle.core.anatomy import KEYS
from auricle.report import words
from auricle.report.figures import ARM_COLORS, INK, Theme, png, style
from auricle.study.results import BASELINE, NO_COMPETITORS, Contender, Results, Scores, gains

TITLES = {
    "gains": "Gain in Dice beside the baseline by structure", "labelled": "Mean Dice over the number of labeled cases",
    "ratio": "Mean Dice over generated pairs for each labeled case",
}  # fmt: skip
CAPTIONS = {
    "gains": "Dots are gains in Dice points, bars their 95% intervals over seeds and cases; a bar that crosses zero shows no settled difference. "
    "Of several ratios of an arm, the one of the highest Dice is shown.",
    "labelled": "Dots are means over the seeds that an arm was run on and test cases, bars the SD over seeds. Of several ratios of an arm, "
    "the one of the highest Dice is shown.",
    "ratio": "Dots are means over the seeds that an arm was run on and test cases, bars the SD over seeds; at 0 no generated pair is mixed in.",
}
_THEME: Theme = "light"
COLUMNS = 3
"""Panels beside each other, where they are not below each other."""


def draw(found: Results) -> dict[str, bytes]:
    """The figures for which there are results, by name."""
    with mpl.rc_context(style(_THEME)):
        figures = {"gains": _gains(found), "labelled": _over_labelled(found), "ratio": _over_ratio(found)}
        return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _color(place: int) -> str:
    return ARM_COLORS[_THEME][place % len(ARM_COLORS[_THEME])]


def _mark(place: int) -> str:
    """Markers tell arms of one color apart."""
    return "osD^"[place // len(ARM_COLORS[_THEME]) % 4]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of that many panels, in rows of `COLUMNS`."""
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    figure = Figure(figsize=(4.8 * columns, 3.5 * rows + 0.3), layout=ConstrainedLayoutEngine())
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count:columns]:
        axis.set_ylabel("mean Dice")
    return figure, axes[:count]


def _arms(found: Results) -> list[str]:
    """Names of all arms, in the order in which they are known."""
    names = {c.arm: None for arms in found.values() for c in arms}
    return sorted(names, key=lambda n: (n in NO_COMPETITORS, list(words.NAMES).index(n) if n in words.NAMES else len(words.NAMES), n))


def _best_ratio(arms: dict[Contender, Scores]) -> dict[str, Contender]:
    """Of every arm the ratio of the highest Dice: figures over something else show one dot an arm."""
    chosen: dict[str, Contender] = {}
    for contender in sorted(arms):
        before = chosen.get(contender.arm)
        if before is None or (arms[contender].mean("dice") or 0.0) > (arms[before].mean("dice") or 0.0):
            chosen[contender.arm] = contender
    return chosen


def _gains(found: Results) -> Figure | None:
    panels = [(setting, gains(found, setting)) for setting in sorted(found)]
    panels = [(s, g) for s, g in panels if g]
    if not panels:
        return None
    arms = [a for a in _arms(found) if a != BASELINE]
    figure = Figure(figsize=(10.0, 2.9 * len(panels) + 0.4), layout=ConstrainedLayoutEngine())
    for axis, (setting, gain) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        chosen = _best_ratio({c: found[setting][c] for c in gain})
        for place, arm in enumerate(a for a in arms if a in chosen):
            own = gain[chosen[arm]]
            offset = 0.8 * ((place + 0.5) / len(chosen) - 0.5)
            for x, difference in enumerate((own.overall, *(own.structures[k] for k in KEYS))):
                if difference is not None:
                    low, high, value = difference.low, difference.high, difference.value
                    # Where all cases gain alike, rounding can put the mean a last digit outside of its interval.
                    error = None if low is None or high is None else [[100 * max(value - low, 0.0)], [100 * max(high - value, 0.0)]]
                    axis.errorbar(x + offset, 100 * difference.value, error, fmt=_mark(1 + arms.index(arm)), ms=5, lw=1.8,
                                  color=_color(1 + arms.index(arm)), label=words.arm_name(arm) if x == 0 else None)  # fmt: skip
        axis.axhline(0, color=INK[_THEME][1], lw=1)
        axis.axvline(0.5, color=INK[_THEME][2], lw=1)
        axis.set_xticks(range(1 + len(KEYS)), ["mean", *KEYS])
        axis.set_ylabel("gain, Dice points")
        _finish(axis, words.setting(setting))
    return _with_legend(figure)


def _over_labelled(found: Results) -> Figure | None:
    budgets = [budget for _, budget in sorted({(s.order, s.budget) for s in found})]
    if len({s.labelled for s in found}) < 2:
        return None
    (figure, axes), arms = _panels(len(budgets)), _arms(found)
    for axis, budget in zip(axes, budgets, strict=True):
        for place, arm in enumerate(arms):
            points: list[tuple[float, Scores]] = []
            for setting in sorted(s for s in found if s.budget == budget):
                chosen = _best_ratio(found[setting]).get(arm)
                if chosen is not None:
                    points.append((setting.labelled, found[setting][chosen]))
            _line(axis, points, place, words.arm_name(arm))
        axis.set_xlabel("labeled cases")
        axis.set_xscale("log", base=2)
        counts = sorted({s.labelled for s in found})
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.minorticks_off()
        _finish(axis, words.budget(budget))
    return _with_legend(figure)


def _over_ratio(found: Results) -> Figure | None:
    panels = [s for s in sorted(found) if len({(c.arm, c.ratio) for c in found[s]}) > len({c.arm for c in found[s]})]
    if not panels:
        return None
    (figure, axes), arms = _panels(len(panels)), _arms(found)
    for axis, setting in zip(axes, panels, strict=True):
        for place, arm in enumerate(arms):
            points = sorted((c.ratio, s) for c, s in found[setting].items() if c.arm == arm)
            if len(points) > 1:
                _line(axis, points, place, words.arm_name(arm))
            elif points:
                axis.axhline(points[0][1].mean("dice") or 0.0, color=_color(place), lw=1.4, ls="--", label=words.arm_name(arm))
        ratios = sorted({c.ratio for c in found[setting]})
        axis.set_xticks(ratios, [f"{r:g}" for r in ratios])
        _finish(axis, words.setting(setting))
    figure.supxlabel("generated (or other real) pairs for each labeled case", fontsize=10)
    return _with_legend(figure)


def _line(axis: Axes, points: list[tuple[float, Scores]], place: int, label: str) -> None:
    if points:
        x, scores = zip(*points, strict=True)
        spread = [s.seed_sd("dice") or 0.0 for s in scores]
        # Dots of several arms at one place stay apart.
        axis.errorbar(np.array(x, float) * 1.012 ** (place - 1), [s.mean("dice") for s in scores], spread, fmt=f"{_mark(place)}-", ms=5, lw=1.8,
                      color=_color(place), label=label)  # fmt: skip


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=11)
    axis.grid(axis="y", color=INK[_THEME][2], lw=0.7)


def _with_legend(figure: Figure) -> Figure:
    """One legend above all panels, where it covers nothing."""
    named: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        named |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in named}
    figure.legend(handles=list(named.values()), labels=list(named), loc="outside upper center", ncols=5, fontsize=8.5, frameon=False)
    return figure
