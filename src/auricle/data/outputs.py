"""What a segmentation leaves beside the label map: color table, volumes, pictures."""

import csv
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core import progress
from auricle.core.anatomy import BACKGROUND, LABEL_COUNT, STRUCTURES
from auricle.core.arrays import count_values
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.nifti import saving, write_nifti
from auricle.data.preprocess import AIR_HU, heart_center, orient

WINDOW_LEVEL_HU = 100.0
WINDOW_WIDTH_HU = 900.0
"""Display window of the preview: shows contrast-filled chambers, muscle and lung apart."""

COLUMNS = ("structure", "volume_ml", "mean_hu", "touches_border", "partial", "confidence")
"""Columns of ``volumes.csv``."""
AROUND_MM = 30.0
"""What pictures show beside the labels."""
OVERLAYS = 24
"""Most slices that get an overlay."""
PADDING = 3
"""Voxels on each side of a block of -1024 HU that is taken for what was not reconstructed; noise in air makes no such block."""

NEAR_MM = 2.0
"""A label as near to such a block borders on it: the voxels of the segmenter that ships are as large."""

_COLORS = np.array([(0, 0, 0), *(s.color for s in STRUCTURES)]) / 255.0


@dataclass(frozen=True)
class VolumeRow:
    """Measurements of one structure."""

    structure: str
    """Structure key."""
    volume_ml: float
    mean_hu: float
    """NaN where the structure is absent."""
    touches_border: bool
    """The structure reaches the edge of the scan, so its volume is a part of the true one."""
    partial: bool = False
    """The structure reaches the edge of the scan, or of the circle inside the slices that was reconstructed."""
    confidence: float | None = None
    """Mean probability of the structure's voxels, 0..1; None where it is absent or nothing is known."""

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        mean = None if math.isnan(self.mean_hu) else round(self.mean_hu, 1)
        sure = None if self.confidence is None else round(self.confidence, 4)
        return {"structure": self.structure, "volume_ml": round(self.volume_ml, 2), "mean_hu": mean, "touches_border": self.touches_border,
                "partial": self.partial, "confidence": sure}  # fmt: skip

    def cells(self) -> list[str]:
        """The row as text, in the order of `COLUMNS`: empty where there is no value."""
        words = {None: "", True: "yes", False: "no"}
        return [words[v] if v is None or isinstance(v, bool) else _figure(k, v) for k, v in self.to_json().items()]


def check_output(path: Path, *, size: int = 0, overwrite: bool = False, inside: bool = False) -> None:
    """Refuse (`InputError`) before computing if `path` exists (unless `overwrite`) or `size` bytes cannot be written.

    With `inside`, a folder that exists is written into, and not replaced by another one from beside it.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name or give --overwrite")
    parent = path.absolute() if inside and path.is_dir() else path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written: {parent} is not a writable folder")
    free = shutil.disk_usage(parent).free
    if free < size:
        raise InputError(f"{path}: needs about {size / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free on its disk")


def write_color_table(path: Path) -> None:
    """Write names and colors of the label ids as a 3D Slicer color table (.ctbl)."""
    lines = ["# Color table of the heart structures: id name red green blue opacity", f"{BACKGROUND} background 0 0 0 0"]
    lines += [f"{s.id} {s.name.replace(' ', '_')} {s.color[0]} {s.color[1]} {s.color[2]} 255" for s in STRUCTURES]
    with saving(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def volumes(
    label: NDArray[np.uint8],
    affine: NDArray[np.float64],
    image: NDArray[Any] | None,
    confidences: Mapping[str, float] | None = None,
) -> list[VolumeRow]:
    """Volume (mL), mean HU and contact with the scan's edge of every structure, absent ones included.

    Args:
        label: label map [x, y, z].
        affine: voxel index to RAS mm.
        image: HU on the same grid; without it there is no mean.
        confidences: mean probability of each structure, by key.
    """
    assert image is None or label.shape == image.shape
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    counts, sums = np.zeros(LABEL_COUNT), np.zeros(LABEL_COUNT)
    for x, part in enumerate(label):
        flat = part.ravel()
        counts += np.bincount(flat, minlength=LABEL_COUNT)
        if image is not None:
            sums += np.bincount(flat, weights=image[x].ravel(), minlength=LABEL_COUNT)
    faces = [label[0], label[-1], label[:, 0], label[:, -1], label[:, :, 0], label[:, :, -1]]
    edge = set(np.unique(np.concatenate([f.ravel() for f in faces])).tolist())
    cut = edge | (set() if image is None else _at_padding(label, affine, image))
    means = np.divide(sums, counts, out=np.full(LABEL_COUNT, math.nan), where=counts > 0) if image is not None else np.full(LABEL_COUNT, math.nan)
    return [
        VolumeRow(s.key, float(counts[s.id] * voxel_ml), float(means[s.id]), s.id in edge, s.id in cut, (confidences or {}).get(s.key))
        for s in STRUCTURES
    ]


def _at_padding(label: NDArray[np.uint8], affine: NDArray[np.float64], image: NDArray[Any]) -> set[int]:
    """Labels that border on what was not reconstructed: blocks of the padding value."""
    found, spacing = set(), np.linalg.norm(affine[:3, :3], axis=0)
    near = np.ceil(NEAR_MM / spacing - 1e-6).astype(int)
    for s, box in zip(STRUCTURES, ndimage.find_objects(label, LABEL_COUNT - 1), strict=True):
        if box is None:
            continue
        around = tuple(slice(max(0, b.start - n), b.stop + n) for b, n in zip(box, (near + PADDING).tolist(), strict=True))
        outside = image[around] <= AIR_HU
        if outside.any():
            block = np.ones((PADDING,) * 3)
            solid = ndimage.binary_dilation(ndimage.binary_erosion(outside, block, border_value=1), block)
            if (ndimage.binary_dilation(solid, np.ones(2 * near + 1)) & (label[around] == s.id)).any():
                found.add(s.id)
    return found


def write_volumes_csv(path: Path, rows: list[VolumeRow]) -> None:
    """Write the rows as CSV with `COLUMNS`; yes or no for flags, empty for values that do not exist."""
    write_table(path, COLUMNS, [row.cells() for row in rows])


def write_table(path: Path, columns: Sequence[str], rows: list[list[str]]) -> None:
    """Write a CSV file."""
    with saving(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([columns, *rows])


def _figure(column: str, value: Any) -> str:
    digits = {"volume_ml": 2, "mean_hu": 1, "confidence": 3}.get(column)
    return str(value) if digits is None else f"{value:.{digits}f}"


def write_structures(folder: Path, label: NDArray[np.uint8], affine: NDArray[np.float64]) -> None:
    """Write the mask of each structure as ``KEY.nii.gz`` (0 and 1); that of an absent one is empty."""
    for s in STRUCTURES:
        write_nifti(folder / f"{s.key}.nii.gz", (label == s.id).astype(np.uint8), affine, dtype=np.uint8)


def write_overlays(folder: Path, case: Case, label: NDArray[np.uint8]) -> None:
    """Write PNGs of axial slices through the labels, at most `OVERLAYS` evenly chosen: the patient's right on the left, anterior up.

    ``axial-NNN.png`` is the slice that many above the lowest of the scan. All show the same part of it: the labels and what is around them.
    """
    turned = orient(Case(case.id, case.image, case.affine, label))
    assert turned.label is not None
    there = np.flatnonzero(turned.label.any(axis=(0, 1)))
    if len(there) > OVERLAYS:
        there = there[np.linspace(0, len(there) - 1, OVERLAYS).round().astype(int)]
    ranges, present = _positions(turned), _present(turned.label)
    x, y, _ = _seen(turned, ranges)
    tall = 6.0 * (y[1] - y[0]) / (x[1] - x[0])
    for at in progress.track(there.tolist(), "overlays", len(there)):
        figure = Figure(figsize=(6.0, max(1.0, tall) + 0.5), dpi=120, facecolor="black")
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0.0, 0.5 / (max(1.0, tall) + 0.5), 1.0, max(1.0, tall) / (max(1.0, tall) + 0.5)))
        _draw(ax, turned, (0, 1, 2), at, (ranges[0], ranges[1]), (x, y), ("R", "L"))
        _legend(figure, present, "lower center")
        with saving(folder / f"axial-{at:03d}.png") as temporary:
            figure.savefig(temporary, format="png", facecolor="black", metadata={"Software": None})


def write_preview(path: Path, case: Case, label: NDArray[np.uint8]) -> None:
    """Write a PNG of the axial, coronal and sagittal slices through the heart, with the label map over the scan.

    The patient's right is on the left of the axial and coronal pictures and anterior on the left of the sagittal one; anterior (axial) and
    superior are up. They show the labels and what is around them; without a heart, the whole of the slices through the middle of the scan.
    """
    turned = orient(Case(case.id, case.image, case.affine, label))
    assert turned.label is not None
    at, ranges = _cut_at(turned), _positions(turned)
    seen = _seen(turned, ranges)
    widths = [high - low for low, high in seen]
    across, up = [widths[0], widths[0], widths[1]], [widths[1], widths[2], widths[2]]
    scale = 12.0 / sum(across)
    figure = Figure(figsize=(12.4, max(2.0, scale * max(up)) + 0.9), dpi=110, facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=across)
    views = (("axial", 0, 1, 2, ("R", "L")), ("coronal", 0, 2, 1, ("R", "L")), ("sagittal", 1, 2, 0, ("A", "P")))
    for ax, (name, h, v, normal, sides) in zip(axes, views, strict=True):
        _draw(ax, turned, (h, v, normal), at[normal], (ranges[h], ranges[v]), (seen[h], seen[v]), sides)
        ax.set_title(name, color="white", fontsize=11)
    _legend(figure, _present(turned.label), "outside lower center")
    with saving(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor="black", metadata={"Software": None})


def _positions(case: Case) -> list[NDArray[np.float64]]:
    """Distances of the voxels from the scan's center along each axis, in mm."""
    return [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(case.image.shape, case.spacing, strict=True)]


def _seen(case: Case, ranges: list[NDArray[np.float64]]) -> list[tuple[float, float]]:
    """What pictures show of each axis in mm: the labels and `AROUND_MM` on either side, or all of the scan where it has none."""
    assert case.label is not None
    result = []
    for axis, (at, step) in enumerate(zip(ranges, case.spacing, strict=True)):
        there = np.flatnonzero(case.label.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (at[there[0]] - AROUND_MM, at[there[-1]] + AROUND_MM) if there.size else (at[0], at[-1])
        result.append((float(max(low, at[0] - step / 2)), float(min(high, at[-1] + step / 2))))
    return result


def _present(label: NDArray[np.uint8]) -> list[int]:
    return [int(v) for v in np.flatnonzero(count_values(label))]


def _legend(figure: Figure, there: list[int], place: Literal["lower center", "outside lower center"]) -> None:
    handles = [Patch(color=_COLORS[s.id], label=f"{s.key} {s.name}" if "outside" in place else s.key) for s in STRUCTURES if s.id in there]
    if handles:
        columns = 4 if "outside" in place else 8
        figure.legend(
            handles=handles, loc=place, ncols=columns, labelcolor="white", facecolor="black", fontsize=9, handlelength=1.2, columnspacing=1.2
        )


def _cut_at(case: Case) -> list[int]:
    """Voxel index of the heart's center, or of the scan's middle."""
    assert case.label is not None
    center = heart_center(case.label, case.affine)
    if center is None:
        return [n // 2 for n in case.image.shape]
    index = np.linalg.solve(case.affine, [*center, 1.0])[:3]
    return [int(np.clip(round(float(i)), 0, n - 1)) for i, n in zip(index, case.image.shape, strict=True)]


def _draw(
    ax: Any, case: Case, order: tuple[int, int, int], at: int, ranges: tuple[NDArray[np.float64], NDArray[np.float64]],
    seen: tuple[tuple[float, float], tuple[float, float]], sides: tuple[str, str],
) -> None:  # fmt: skip
    """One slice: `order` gives the array axes across, up and through the picture; across runs from high to low index.

    `ranges` are the voxels' positions across and up in mm, `seen` what is shown of them, `sides` the letters at the left and right edges.
    """
    assert case.label is not None
    h, v, normal = order
    image, label = (np.take(a, at, axis=normal) for a in (case.image, case.label))
    image, label = (a.T if h < v else a for a in (image, label))
    across, up = ranges
    dx, dy = (across[1] - across[0]) / 2, (up[1] - up[0]) / 2
    extent = (across[0] - dx, across[-1] + dx, up[0] - dy, up[-1] + dy)
    low, high = WINDOW_LEVEL_HU - WINDOW_WIDTH_HU / 2, WINDOW_LEVEL_HU + WINDOW_WIDTH_HU / 2
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear")
    shades = np.zeros((*label.shape, 4))
    shades[..., :3], shades[..., 3] = _COLORS[label], 0.3 * (label > 0)
    ax.imshow(shades, origin="lower", extent=extent, interpolation="nearest")
    for s in STRUCTURES:
        mask = label == s.id
        if mask.any() and not mask.all():
            ax.contour(across, up, mask.astype(float), levels=[0.5], colors=[_COLORS[s.id]], linewidths=1.2)
    (left, right), (bottom, top) = (seen[0][1], seen[0][0]), seen[1]
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    ax.set_axis_off()
    for text, x, side in ((sides[0], 0.02, "left"), (sides[1], 0.98, "right")):
        ax.text(x, 0.5, text, color="white", ha=side, va="center", transform=ax.transAxes, fontsize=11)
    bar, inset = (50.0 if left - right >= 100.0 else 10.0), 0.04 * (top - bottom)
    start = left - 0.04 * (left - right)
    ax.plot([start, start - bar], [bottom + inset] * 2, color="white", linewidth=2.0, solid_capstyle="butt")
    ax.text(start - bar / 2, bottom + 1.4 * inset, f"{bar:g} mm", color="white", ha="center", va="bottom", fontsize=8)
