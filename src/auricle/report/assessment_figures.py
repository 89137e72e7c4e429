"""Figures of an assessment as PNG bytes, and the measures that they are drawn from."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.report import figures, slices, words
from auricle.report.figures import ARM_COLORS, INK, Spacing, Theme
from auricle.report.reading import Labels, Pair, RunFolder

SHOWN = 3
"""Cases, and generated pairs, that are shown as pictures."""
LINES: dict[str, tuple[str, int, str]] = {
    "training": ("training cases", 2, "-"), "test": ("test cases (held out)", 0, "--"), "generated": ("generated pairs", 1, "-"),
}  # fmt: skip
"""Set to its name, its index into `ARM_COLORS` and its dashes."""
_WORDS: dict[str, Any] = {"color": "white", "fontsize": 10, "va": "center", "parse_math": False}
FAINT = 2e-4
"""Histograms are shown where any set has more than this share of its voxels in a bin."""


@dataclass(frozen=True)
class Curves:
    """Curves of one tissue over one axis; a set that does not show the tissue has none."""

    x: list[float]
    sets: dict[str, list[float]]


@dataclass(frozen=True)
class Near:
    """A generated pair, the training case nearest to it, and how near that is: a higher score is nearer."""

    pair: str
    case: str
    score: float


@dataclass(frozen=True)
class Measures:
    """The content of ``measures.json``."""

    volumes_ml: dict[str, dict[str, list[float]]]
    """Set (training, generated) to structure to volumes."""
    requested_ml: dict[str, list[tuple[float, float]]]
    """Structure to (requested, obtained) volumes."""
    nps: dict[str, Curves]
    """Tissue to noise power in HU^2 mm^2 over frequencies in 1/mm."""
    hu: dict[str, Curves]
    """Tissue to shares of voxels over the middles of HU bins."""
    nearest: list[Near]
    """Nearest first; empty without an audit."""

    @classmethod
    def parse(cls, found: Any) -> "Measures":
        """Raises KeyError, TypeError, ValueError or AttributeError where `found` is not what `auricle assess` writes."""
        requested = found["requested_volumes_ml"]
        near = [Near(str(n["id"]), str(n["case"]), _numbers([n["score"]])[0]) for n in found["nearest"]]
        return cls(
            {name: {k: _numbers(found["volumes_ml"][name][k]) for k in KEYS} for name in ("training", "generated")},
            {k: [(a, b) for a, b in map(_numbers, requested[k])] for k in KEYS},
            {tissue: _curves(c, _numbers(c["frequency_per_mm"])) for tissue, c in found["nps"].items()},
            {tissue: _curves(c, _middles(_numbers(c["edges"]))) for tissue, c in found["hu"].items()},
            sorted(near, key=lambda n: -n.score),
        )  # fmt: skip


def _numbers(values: Any) -> list[float]:
    numbers = [float(v) for v in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("numbers must be finite")
    return numbers


def _middles(edges: list[float]) -> list[float]:
    return [(a + b) / 2 for a, b in itertools.pairwise(edges)]


def _curves(found: Mapping[str, Any], x: list[float]) -> Curves:
    sets = {name: _numbers(found[name]) for name in LINES if name in found}
    if any(len(y) != len(x) for y in sets.values()):
        raise ValueError("a curve must have one value for each place on its axis")
    return Curves(x, sets)


def draw(run: RunFolder, measures: Measures, r: Mapping[str, float | None], threshold: float | None) -> dict[str, bytes]:
    """Name to PNG of every figure for which `run` and `measures` hold something.

    Args:
        run: folder of the run, whose cases and generated pairs are shown.
        measures: what is plotted.
        r: correlation of requested and obtained volume by structure.
        threshold: score above which a pair is a copy.

    Raises:
        InputError: an image or a label map cannot be read.
    """
    found: dict[str, bytes] = {}
    if any(measures.requested_ml.values()):
        found["requested"] = requested(measures.requested_ml, r)
    if any(c.sets for c in measures.nps.values()):
        found["texture"] = texture(measures.nps)
    if any(c.sets for c in measures.hu.values()):
        found["histograms"] = histograms(measures.hu)
    if any(values for volumes in measures.volumes_ml.values() for values in volumes.values()):
        sets = measures.volumes_ml
        found["volumes"] = figures.volumes(sets["training"], sets["generated"], ("training", "generated"), "light")
    made = [p["id"] for p in (run.generated or {}).get("pairs", [])]
    table = run.generated or run.cohort
    if table is None:
        return found
    spacing: Spacing = (float(table["spacing"][0]), float(table["spacing"][1]), float(table["spacing"][2]))
    near = [n for n in measures.nearest if n.pair in made and n.case in run.case_ids("train")][:SHOWN]
    if near:
        found["closest"] = closest([(run.generated_pair(n.pair), run.case(n.case), n.score) for n in near], threshold, spacing)
    groups = [
        ("Training cases", [run.case(c) for c in run.case_ids("train")[:SHOWN]]),
        ("Generated pairs", [run.generated_pair(p) for p in made[:SHOWN]]),
    ]
    if any(cases for _, cases in groups):
        found["pairs"] = figures.pairs(groups, spacing)
    return found


def requested(
    points: Mapping[str, Sequence[tuple[float, float]]], r: Mapping[str, float | None], theme: Theme = "light"
) -> bytes:  # fmt: skip
    """Obtained over requested volume in mL, one small diagram a structure; a pair on the dashed line came out as asked for."""
    with mpl.rc_context(figures.style(theme)):
        figure = Figure(figsize=(12, 6.7), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.06))
        axes = figure.subplots(2, 4)
        for axis, s in zip(axes.flat, STRUCTURES, strict=True):
            found = points[s.key]
            r_text = f"r = {words.number(r.get(s.key), 2)}, {words.plural(len(found), 'pair')}" if found else "not requested"
            axis.set_title(f"{s.name} ({s.key})\n{r_text}", fontsize=10.5)
            axis.set_box_aspect(1)
            if found:
                _identity(axis, found, tuple(c / 255 for c in s.color), theme)
            else:
                axis.set_axis_off()
        figure.supxlabel("requested volume in mL", fontsize=11)
        figure.supylabel("obtained volume in mL", fontsize=11)
        return figures.png(figure)


def _identity(axis: Axes, points: Sequence[tuple[float, float]], color: Any, theme: Theme) -> None:
    asked, got = zip(*points, strict=True)
    low, high = min(*asked, *got), max(*asked, *got)
    margin = 0.06 * (high - low) or 1.0
    limits = (max(low - margin, 0.0), high + margin)
    _, ink, grid = INK[theme]
    axis.plot(limits, limits, color=ink, lw=1.0, ls="--", zorder=2)
    axis.scatter(asked, got, s=26, color=color, alpha=0.8, edgecolors=ink, linewidths=0.4, zorder=3)
    axis.set_xlim(limits)
    axis.set_ylim(limits)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(4))
    axis.grid(color=grid, lw=0.7)


def texture(curves: Mapping[str, Curves], theme: Theme = "light") -> bytes:
    """Noise power spectrum of each tissue: training, held-out and generated; the area under a curve grows with the noise."""
    return _panels(curves, ("spatial frequency in 1/mm", "noise power in HU² mm²"), 1.0, None, theme)


def histograms(curves: Mapping[str, Curves], theme: Theme = "light") -> bytes:
    """HU of each tissue: training, held-out and generated, in percent of the voxels for each bin."""
    width = next(c.x[1] - c.x[0] for c in curves.values() if len(c.x) > 1)
    return _panels(curves, ("HU", f"% of voxels per {width:g} HU"), 100.0, FAINT, theme)


def _panels(curves: Mapping[str, Curves], labels: tuple[str, str], scale: float, faint: float | None, theme: Theme) -> bytes:
    """One diagram a tissue with a line for each set; values times `scale`, the axis cut where all are below `faint`."""
    with mpl.rc_context(figures.style(theme)):
        figure = Figure(figsize=(4.0 * len(curves), 3.9), layout=ConstrainedLayoutEngine(wspace=0.05))
        axes = list(figure.subplots(1, len(curves), squeeze=False).flat)
        handles: dict[str, Any] = {}
        for axis, (tissue, c) in zip(axes, curves.items(), strict=True):
            axis.set_title(tissue if c.sets else f"{tissue}: not found", fontsize=11)
            for name, values in c.sets.items():
                label, color, dashes = LINES[name]
                (handles[label],) = axis.plot(c.x, scale * np.array(values), color=ARM_COLORS[theme][color], lw=1.8, ls=dashes)
            seen = [x for x, *y in zip(c.x, *c.sets.values(), strict=True) if faint is not None and max(y, default=0.0) > faint]
            if seen:
                axis.set_xlim(min(seen), max(seen) + 1e-9 * (min(seen) == max(seen)))
            elif c.x:
                axis.set_xlim(c.x[0], c.x[-1])
            axis.set_ylim(bottom=0)
            axis.set_xlabel(labels[0])
            axis.grid(color=INK[theme][2], lw=0.7)
        axes[0].set_ylabel(labels[1])
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(LINES), frameon=False)
        return figures.png(figure)


def closest(rows: Sequence[tuple[Pair, Pair, float]], threshold: float | None, spacing: Spacing) -> bytes:
    """Generated pairs beside their nearest training cases, (pair, case, score) a row: an axial slice of each, without and with labels.

    The training case is cut where its structures have the areas most like those in the slice of the generated pair, for it may lie
    higher or lower.
    """
    x, y, _ = rows[0][0].label.shape
    side, head, foot = 3.0, 0.34, 0.38
    tall = side * (y * spacing[1]) / (x * spacing[0])
    height = len(rows) * (tall + head) + foot
    figure = Figure(figsize=(4 * side, height), facecolor="black")
    limit = "" if threshold is None else f"; copies are above {words.number(threshold)}"
    for i, (pair, case, score) in enumerate(rows):
        bottom = 1 - (i + 1) * (tall + head) / height
        level = slices.informative_slice(pair.label, "axial")
        other = matching_slice(case.label, pair.label[..., level])
        titles = (f"generated: {_plain(pair.id)}", f"nearest: {_plain(case.id)} (score {words.number(score)}{limit})")
        for half, (shown, index) in enumerate(((pair, level), (case, other))):
            left = 0.507 * half
            figure.text(left + 0.004, bottom + (tall + head / 2) / height, titles[half], **_WORDS)
            for column in (0, 1):
                axis = figure.add_axes((left + 0.248 * column, bottom, 0.245, tall / height))
                axis.set_axis_off()
                figures.show_ct(axis, shown.image, "axial", index, spacing)
                if column:
                    picture = slices.colored(slices.cut(shown.label, "axial", index), 0.55)
                    axis.imshow(picture, interpolation="nearest", aspect=slices.aspect(spacing, "axial"))
    patches = [Patch(color=f"#{bytes(s.color).hex()}", label=s.name) for s in STRUCTURES]
    figure.legend(handles=patches, loc="lower center", ncols=len(patches), frameon=False, labelcolor="white", fontsize=9, borderaxespad=0.4)
    return figures.png(figure)


def matching_slice(label: Labels, like: NDArray[np.uint8]) -> int:
    """The axial slice of `label` (X, Y, Z) whose structures have the areas most like those in the slice `like` (X, Y), wherever they lie in it."""
    areas = np.stack([(label == s.id).sum(axis=(0, 1)) for s in STRUCTURES])
    wanted = np.array([(like == s.id).sum() for s in STRUCTURES])
    return int(np.abs(areas - wanted[:, None]).sum(axis=0).argmin())


def _plain(name: str, most: int = 28) -> str:
    """A name in letters that the figures' font has, its middle left out where it is long."""
    name = "".join(c if c.isascii() and c.isprintable() else "?" for c in name)
    return name if len(name) <= most else f"{name[: most // 2 - 1]}...{name[-(most // 2 - 2) :]}"
