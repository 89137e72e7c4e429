"""Sheets of slices, shaded surfaces and histograms on a dark ground, as small PNG files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from auricle.core.anatomy import ID, STRUCTURES
from auricle.core.case import Case
from auricle.core.files import atomic_path
from auricle.data.outputs import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU

Picture = NDArray[np.float32]
"""RGB 0..1, ``[row, column, 3]``, first row on top."""
GROUND = "#0b0d10"
INK, FAINT = "#e8eaed", "#8a9099"
DPI = 100
LETTER_PX = 6.5
"""Mean width of a caption's letter."""
LARGEST_BYTES = 600_000
COLORS = np.array([(0, 0, 0), *(s.color for s in STRUCTURES)], np.float32) / 255
PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Array axes across, up and through the picture of a RAS+ scan; across runs from high to low, so that right is on the left."""


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet."""

    picture: Picture
    caption: str = ""


def cut(case: Case, plane: str, at: int, *, overlay: float = 0.0, pixel_mm: float = 1.0) -> Picture:
    """One slice in the preview's window, with the labels laid over it at opacity `overlay`, on square pixels."""
    across, up, through = PLANES[plane]
    image, label = np.take(case.image, at, through).astype(np.float32), None
    image = image.T if across < up else image
    zoom = case.spacing[up] / pixel_mm, case.spacing[across] / pixel_mm
    low = WINDOW_LEVEL_HU - WINDOW_WIDTH_HU / 2
    gray = ((ndimage.zoom(image, zoom, order=1) - low) / WINDOW_WIDTH_HU).clip(0, 1)
    out: Picture = np.repeat(gray[..., None], 3, 2).astype(np.float32)
    if overlay and case.label is not None:
        label = np.take(case.label, at, through).T
        label = ndimage.zoom(label, zoom, order=0)
        inner = ndimage.grey_erosion(label, 3) == ndimage.grey_dilation(label, 3)
        alpha = np.where(label > 0, np.where(inner, overlay, min(1.0, 2.2 * overlay)), 0)[..., None]
        out = (1 - alpha) * out + alpha * COLORS[label]
    return out[::-1, ::-1]


def square(picture: Picture, side: int) -> Picture:
    """The middle of a picture, padded with black to `side` pixels."""
    out = np.zeros((side, side, 3), np.float32)
    size = [min(side, n) for n in picture.shape[:2]]
    (r, c), (i, j) = [((n - s) // 2 for n, s in zip(shape, size, strict=False)) for shape in (picture.shape, out.shape)]
    out[i : i + size[0], j : j + size[1]] = picture[r : r + size[0], c : c + size[1]]
    return out


def shaded(label: NDArray[np.uint8], keys: Sequence[str], turn_deg: float, tilt_deg: float) -> Picture:
    """Structures of a label map ``[x, y, z]`` on isotropic voxels as surfaces, lit from the eye.

    The eye looks from the front, moved `turn_deg` to the patient's left and `tilt_deg` up.
    """
    turn, tilt = np.deg2rad([turn_deg, tilt_deg])
    # Rows of the rotation: across (to the left), up and away from the eye, in RAS+.
    away = np.array([np.cos(tilt) * np.sin(turn), -np.cos(tilt) * np.cos(turn), -np.sin(tilt)])
    across = np.array([-np.cos(turn), -np.sin(turn), 0.0])
    up = np.cross(across, away)
    axes = np.stack([up * np.sign(up[2]), across, away], 1)
    n = int(np.ceil(np.linalg.norm(label.shape)))
    shift = (np.array(label.shape) - 1) / 2 - axes @ np.full(3, (n - 1) / 2)
    soft = [ndimage.gaussian_filter((label == ID[k]).astype(np.float32), 0.9) for k in keys]
    solid = [ndimage.affine_transform(s, axes, shift, (n, n, n), order=1) for s in soft]
    total = np.sum(solid, 0)
    hit = total > 0.45
    first = hit.argmax(2)
    i, j = np.indices(first.shape)
    normal = np.stack([g[i, j, first] for g in np.gradient(ndimage.gaussian_filter(total, 0.8))])
    length = np.sqrt((normal**2).sum(0)) + 1e-6
    light = (0.25 * -normal[0] + 0.2 * -normal[1] + 0.95 * normal[2]) / length
    which = np.argmax([s[i, j, first] for s in solid], 0)
    color = COLORS[[ID[k] for k in keys]][which]
    depth = (first - first[hit.any(2)].min()) / n if hit.any() else first
    out = color * (0.22 + 0.78 * np.clip(light, 0, 1) * (1 - 0.5 * depth))[..., None]
    return np.where(hit.any(2)[..., None], out, 0).astype(np.float32)[::-1]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of at most `LARGEST_BYTES`, with as many colors as that leaves."""
    canvas: Any = figure.canvas
    canvas.draw()
    full = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    with atomic_path(path) as temporary:
        full.save(temporary, "PNG", optimize=True)
        for colors in (256, 128, 64, 48, 32, 24, 16):
            if temporary.stat().st_size <= LARGEST_BYTES:
                break
            # Keeps the few pixels of a rare color, such as the legend's, apart.
            few = full.quantize(colors, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
            few.save(temporary, "PNG", optimize=True)


def _span(row: Sequence[Cell], first: int) -> int:
    """Pictures that a caption may run over: its own and those after it without one."""
    return next((k for k, cell in enumerate(row[first + 1 :], 1) if cell.caption), len(row) - first)


def sheet(path: Path, title: str, rows: Sequence[Sequence[Cell]], names: Sequence[str] = (), *, legend: bool = False, scale: float = 1.0) -> None:
    """Rows of pictures with captions; `names` stand left of the rows, `scale` is the pixels shown for each of a picture."""
    columns = max(len(row) for row in rows)
    widths = [max((row[c].picture.shape[1] for row in rows if c < len(row)), default=1) * scale for c in range(columns)]
    heights = [max(cell.picture.shape[0] for cell in row) * scale for row in rows]
    gap, left, top, bottom = 6.0, 96.0 if names else 12.0, 44.0, 52.0 if legend else 10.0
    rows = [[Cell(cell.picture, fill(cell.caption, int(widths[c] * _span(row, c) / LETTER_PX))) for c, cell in enumerate(row)] for row in rows]
    lines = [18.0 * max(cell.caption.count("\n") + 1 if cell.caption else 0 for cell in row) for row in rows]
    width, height = left + sum(widths) + gap * columns + 6, top + sum(heights) + sum(lines) + gap * len(rows) + bottom
    figure = _figure(width / DPI, height / DPI)
    figure.text(12 / width, 1 - 14 / height, title, color=INK, fontsize=13, va="top", weight="bold")
    y = top
    for r, row in enumerate(rows):
        if names:
            figure.text((left - 10) / width, 1 - (y + lines[r] + heights[r] / 2) / height, names[r], color=INK, fontsize=9, ha="right", va="center")
        x = left
        for c, cell in enumerate(row):
            h, w = cell.picture.shape[0] * scale, cell.picture.shape[1] * scale
            ax = figure.add_axes((x / width, 1 - (y + lines[r] + h) / height, w / width, h / height))
            ax.imshow(cell.picture, interpolation="bilinear", aspect="auto")
            ax.set_axis_off()
            if cell.caption:
                figure.text((x + 1) / width, 1 - (y + lines[r] - 3) / height, cell.caption, color=FAINT, fontsize=8, va="bottom", linespacing=1.25)
            x += widths[c] + gap
        y += heights[r] + lines[r] + gap
    if legend:
        handles = [Patch(color=COLORS[s.id], label=s.name) for s in STRUCTURES]
        figure.legend(handles=handles, loc="lower center", ncols=4 if width < 1250 else 8, labelcolor=INK, frameon=False, fontsize=9)
    save(figure, path)


def histograms(path: Path, scans: Sequence[tuple[str, Mapping[str, NDArray[np.float32]], Sequence[Mapping[str, NDArray[np.float32]]]]]) -> None:
    """One row a scan, one panel a tissue: the real scan filled, each virtual patient a line."""
    tissues = list(scans[0][1])
    figure = _figure(2.7 * len(tissues), 2.5 * len(scans) + 0.3)
    grid = figure.subplots(len(scans), len(tissues), squeeze=False)
    for row, (name, real, others) in zip(grid, scans, strict=True):
        for ax, tissue in zip(row, tissues, strict=True):
            every = np.concatenate([real[tissue], *(o[tissue] for o in others)])
            if len(every):
                low, high = np.percentile(every, [0.5, 99.5])
                edges = np.linspace(low, high, 50)
                if len(real[tissue]):
                    ax.hist(real[tissue], edges, density=True, color="#3f6ea8", alpha=0.85)
                for o in others:
                    if len(o[tissue]) >= 50:
                        ax.hist(o[tissue], edges, density=True, histtype="step", color="#f2b84b", lw=1.0, alpha=0.8)
            ax.set_facecolor(GROUND)
            ax.tick_params(colors=FAINT, labelsize=8)
            ax.set_yticks([])
            for side in ax.spines.values():
                side.set_visible(False)
            ax.set_title(f"{name}: {tissue}, HU", color=INK, fontsize=9)
    figure.tight_layout()
    save(figure, path)
