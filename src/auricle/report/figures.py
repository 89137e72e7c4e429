"""Figures of the report as PNG bytes, drawn through matplotlib's objects alone: no display, no global state left behind."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from auricle.core.anatomy import STRUCTURES
from auricle.report import slices
from auricle.report.reading import Image, Labels, Pair
from auricle.report.slices import PLANES, Plane

Theme = Literal["light", "dark"]
Spacing = tuple[float, float, float]
Volumes = Mapping[str, Sequence[float]]
"""Structure key to its volume in mL in every case."""

INK: dict[Theme, tuple[str, str, str]] = {"light": ("#ffffff", "#1f2937", "#d1d5db"), "dark": ("#171b22", "#e5e7eb", "#3b4252")}
"""Background, text and grid lines."""
ARM_COLORS: dict[Theme, tuple[str, ...]] = {
    "light": ("#6b7280", "#c2570c", "#1d4ed8", "#15803d", "#a21caf", "#0891b2", "#be123c", "#713f12"),
    "dark": ("#a8b0bd", "#fb923c", "#7aa8ff", "#4ade80", "#e879f9", "#22d3ee", "#fb7185", "#d6a76c"),
}
DPI = 110


@dataclass(frozen=True)
class Line:
    """One curve."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    color: int = 2
    """Index into `ARM_COLORS`."""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One small diagram of training curves."""

    title: str
    lines: list[Line] = field(default_factory=list)
    share: bool = False
    """Whether values lie in 0..1 (Dice), where the axis is left linear."""


def png(figure: Figure) -> bytes:
    """A figure's PNG, the same bytes for the same picture."""
    buffer = io.BytesIO()
    kwargs: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), **kwargs)
    return buffer.getvalue()


def pairs(groups: Sequence[tuple[str, Sequence[Pair]]], spacing: Spacing) -> bytes:
    """Pairs of several groups side by side, three planes each: two rows a case, the CT and the CT under its labels."""
    groups = [(title, cases) for title, cases in groups if cases]
    depth = max(len(cases) for _, cases in groups)
    figure = Figure(figsize=(6.0 * len(groups), 4.0 * depth + 0.45), facecolor="black")
    top = 1 - 0.45 / (4.0 * depth + 0.45)
    for g, (title, cases) in enumerate(groups):
        left, right = (g + 0.01) / len(groups), (g + 0.99) / len(groups)
        axes = figure.subplots(2 * depth, 3, squeeze=False, gridspec_kw={
            "left": left, "right": right, "bottom": 0.0, "top": top, "wspace": 0.02, "hspace": 0.02,
        })  # fmt: skip
        figure.text((left + right) / 2, (1 + top) / 2, title, color="white", ha="center", va="center", fontsize=14)
        for axis in axes.flat:
            axis.set_axis_off()
        for row, pair in enumerate(cases):
            for column, plane in enumerate(PLANES):
                index = slices.informative_slice(pair.label, plane)
                show_ct(axes[2 * row, column], pair.image, plane, index, spacing)
                show_ct(axes[2 * row + 1, column], pair.image, plane, index, spacing)
                picture = slices.colored(slices.cut(pair.label, plane, index), 0.55)
                axes[2 * row + 1, column].imshow(picture, interpolation="nearest", aspect=slices.aspect(spacing, plane))
    return png(figure)


def reconstructions(examples: NDArray[np.int16], spacing: Spacing) -> bytes:
    """Images (rows) in their middle axial slice: whole, with hidden blocks, and as the network restores them; `examples` (n, 3, X, Y, Z) in HU."""
    height = 3.0 * len(examples) + 0.4
    figure = Figure(figsize=(9.0, height), facecolor="black")
    axes = figure.subplots(len(examples), 3, squeeze=False, gridspec_kw={
        "left": 0.005, "right": 0.995, "bottom": 0.0, "top": 1 - 0.4 / height, "wspace": 0.02, "hspace": 0.02,
    })  # fmt: skip
    for row, example in zip(axes, examples, strict=True):
        for axis, image in zip(row, example, strict=True):
            axis.set_axis_off()
            show_ct(axis, image, "axial", image.shape[2] // 2, spacing)
    for axis, title in zip(axes[0], ("Image", "Seen by the network", "Restored"), strict=True):
        axis.set_title(title, color="white", fontsize=13, pad=6)
    return png(figure)


def segmentation(image: Image, reference: Labels, predictions: Mapping[str, Labels], spacing: Spacing) -> bytes:
    """A test case in three planes (rows): the reference filled, then each prediction's outlines over the faint reference."""
    columns = ["Reference", *predictions]
    width, height = 3.0 * len(columns), 9.4
    figure = Figure(figsize=(width, height), facecolor="black")
    axes = figure.subplots(3, len(columns), squeeze=False, gridspec_kw={
        "left": 0.005, "right": 0.995, "bottom": 0.0, "top": 1 - 0.4 / height, "wspace": 0.02, "hspace": 0.02,
    })  # fmt: skip
    for row, plane in enumerate(PLANES):
        index = slices.informative_slice(reference, plane)
        truth = slices.cut(reference, plane, index)
        for column, name in enumerate(columns):
            axis: Axes = axes[row, column]
            axis.set_axis_off()
            show_ct(axis, image, plane, index, spacing)
            picture = slices.colored(truth, 0.25 if column else 0.6)
            axis.imshow(picture, interpolation="nearest", aspect=slices.aspect(spacing, plane))
            if column:
                _outline(axis, slices.cut(predictions[name], plane, index))
            if row == 0:
                axis.set_title(name, color="white", fontsize=13, pad=6, parse_math=False)
    return png(figure)


def volumes(training: Volumes, generated: Volumes, names: tuple[str, str], theme: Theme) -> bytes:
    """Volumes of every structure, one small diagram each: every case a dot, quartiles a box, training beside generated."""
    _, ink, grid = INK[theme]
    with mpl.rc_context(style(theme)):
        figure = Figure(figsize=(12, 5.8), layout=ConstrainedLayoutEngine(hspace=0.08, wspace=0.04))
        axes = figure.subplots(2, 4)
        scatter = np.random.default_rng(0)
        for axis, s in zip(axes.flat, STRUCTURES, strict=True):
            color = tuple(c / 255 for c in s.color)
            for place, values in enumerate((training[s.key], generated[s.key])):
                if not values:
                    continue
                spread = place + 1 + scatter.uniform(-0.16, 0.16, len(values))
                axis.scatter(spread, values, s=24, color=color, alpha=0.75, edgecolors="none", zorder=2)
                lines: dict[str, Any] = {f"{part}props": {"color": ink} for part in ("box", "whisker", "cap")}
                lines |= {"medianprops": {"color": ink, "lw": 2}, "showfliers": False, "manage_ticks": False, "zorder": 3}
                axis.boxplot([values], positions=[place + 1], widths=0.55, **lines)
            axis.set_title(f"{s.name} ({s.key})", fontsize=11)
            axis.set_xticks([1, 2], names)
            axis.set_xlim(0.5, 2.5)
            axis.set_ylim(bottom=0)
            axis.grid(axis="y", color=grid, lw=0.7)
        for axis in axes[:, 0]:
            axis.set_ylabel("volume in mL")
        return png(figure)


def curves(panels: Sequence[Panel], theme: Theme) -> bytes:
    """Training curves, one small diagram a panel; losses that span more than a factor of 20 get a logarithmic axis."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with mpl.rc_context(style(theme)):
        figure = Figure(figsize=(4.0 * columns, 3.0 * rows), layout=ConstrainedLayoutEngine(hspace=0.08, wspace=0.04))
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes, panels, strict=False):
            _curve_panel(axis, panel, theme)
        return png(figure)


def _curve_panel(axis: Axes, panel: Panel, theme: Theme) -> None:
    for line in panel.lines:
        color = ARM_COLORS[theme][line.color % len(ARM_COLORS[theme])]
        # A curve of a single record would be invisible without its mark.
        mark = "o" if len(line.steps) < 3 else None
        dashes = "--" if line.dashed else "-"
        axis.plot(line.steps, line.values, color=color, lw=1.8, ls=dashes, marker=mark, ms=4, label=line.label)
    values = [v for line in panel.lines for v in line.values]
    if not panel.share and values and min(values) > 0 and max(values) / min(values) > 20:
        axis.set_yscale("log")
    axis.set_title(panel.title, fontsize=11)
    axis.set_xlabel("training step")
    axis.grid(color=INK[theme][2], lw=0.7)
    axis.legend(fontsize=8.5, frameon=False)


def show_ct(axis: Axes, image: Image, plane: Plane, index: int, spacing: Spacing) -> None:
    """Draw one slice of an image (HU, [x, y, z]) in the soft-tissue window, with the letters of the sides."""
    low, high = slices.WINDOW_HU
    picture = slices.cut(image, plane, index)
    axis.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", aspect=slices.aspect(spacing, plane))
    side, top = slices.SIDES[plane]
    letters: dict[str, Any] = {"color": "#f5d90a", "fontsize": 9, "transform": axis.transAxes, "ha": "center", "va": "center"}
    axis.text(0.04, 0.5, side, **letters)
    axis.text(0.5, 0.955, top, **letters)


def _outline(axis: Axes, labels: NDArray[np.uint8]) -> None:
    rows, columns = labels.shape
    for s in STRUCTURES:
        # The border of zeros closes outlines that leave the picture.
        mask = np.pad(labels == s.id, 1).astype(float)
        if mask.any():
            color = tuple(c / 255 for c in s.color)
            axis.contour(np.arange(-1, columns + 1), np.arange(-1, rows + 1), mask, levels=[0.5], colors=[color], linewidths=1.6)
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)


def style(theme: Theme) -> Any:
    """Settings for `rc_context`, whose keys matplotlib types as literals."""
    paper, ink, grid = INK[theme]
    return {
        "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper, "text.color": ink, "axes.labelcolor": ink,
        "axes.edgecolor": grid, "xtick.color": ink, "ytick.color": ink, "axes.titlecolor": ink, "axes.spines.top": False,
        "axes.spines.right": False, "font.size": 10, "axes.axisbelow": True, "text.parse_math": False,
    }  # fmt: skip
