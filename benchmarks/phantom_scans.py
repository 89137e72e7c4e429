"""Do scans of a virtual patient agree with each other and with what the patient's attributes say?

    OMP_NUM_THREADS=1 python -m benchmarks.phantom_scans [--grids 12] [--noise 20] [--seed 0] [--processes 2] [--out docs/results]

The same patients on grids from 1 to 3 mm; then noise and tissue of fine scans without metal and pathology.
"""

import os
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID, KEYS
from auricle.phantom import render
from auricle.phantom.patient import Patient
from benchmarks import phantom_measure as measure
from benchmarks.phantom_page import arguments, publish, table
from benchmarks.phantom_population import grow, of_all

SPACINGS_MM = (1.0, 1.5, 2.0, 3.0)
EXTENT_MM = (180.0, 180.0, 192.0)
"""Holds every chamber, and is a whole number of voxels of each spacing."""
FINE = ((192, 192, 48), (0.8, 0.8, 1.6), (0.0, 0.0, 15.0))
"""Size, spacing in mm and center of the fine scans: all eight structures are in them."""
CENTRAL = 128
"""Pixels along a side of the square in which the noise spectrum is taken."""
ERODED_MM = 2.5
"""Distance from a structure's surface at which its HU are read."""
VOLUME_GOAL = 0.02

Label = NDArray[np.uint8]


def patient(seed: int, index: int, healthy: bool) -> Patient:
    """Patient `index` after its redraws, with whatever was drawn or without metal and pathology."""
    grown = grow(seed, index, metal=False, pathology=False) if healthy else grow(seed, index)
    assert grown is not None
    return grown.anatomy.patient


def nearest(label: Label, spacing: float, fine: Label, fine_spacing: float) -> Label:
    """`label` on the grid of `fine`, which covers the same box."""
    at = [np.floor((np.arange(n) + 0.5) * fine_spacing / spacing).astype(int) for n in fine.shape]
    return label[np.ix_(*at)]


def dice(a: Label, b: Label, key: str) -> float:
    one, two = a == ID[key], b == ID[key]
    return float(2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two)))


def on_grids(seed: int, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float, NDArray[np.float64]]:
    """One patient: volumes (spacing, structure), Dice of each coarser grid with the finest, the share of voxel centers
    common to the finest and the coarsest grid that carry the same label, and drawn volumes (NaN for the great vessels)."""
    p = patient(seed, index, healthy=False)
    labels: list[Label] = []
    for s in SPACINGS_MM:
        nx, ny, nz = (round(e / s) for e in EXTENT_MM)
        label = render(p, (nx, ny, nz), (s, s, s)).label
        assert label is not None
        labels.append(label)
    volumes = [list(measure.volumes(label, s**3 / 1000).values()) for label, s in zip(labels, SPACINGS_MM, strict=True)]
    agreement = [[dice(labels[0], nearest(label, s, labels[0], SPACINGS_MM[0]), k) for k in ID]
                 for label, s in zip(labels[1:], SPACINGS_MM[1:], strict=True)]  # fmt: skip
    shared = labels[0][1::3, 1::3, 1::3], labels[-1]  # centers of 3 mm voxels are centers of 1 mm voxels
    heart = (shared[0] > 0) | (shared[1] > 0)
    same = float(np.mean((shared[0] == shared[1])[heart]))
    return np.array(volumes), np.array(agreement), same, np.array([p.volumes_ml.get(k, np.nan) for k in ID])


def in_scan(seed: int, index: int) -> tuple[tuple[float, float], tuple[float, float], dict[str, tuple[float, float]]]:
    """One healthy patient: drawn and measured NPS peak, stated and measured noise, stated and measured HU of each structure."""
    p = patient(seed, index, healthy=True)
    size, spacing, offset = FINE
    clean, noisy = render(p, size, spacing, offset, noise=False), render(p, size, spacing, offset)
    assert noisy.label is not None
    noise = noisy.image.astype(np.float32) - clean.image
    side = slice((size[0] - CENTRAL) // 2, (size[0] + CENTRAL) // 2)
    peak = measure.peak_per_mm(noise[side, side], spacing[0])
    found: dict[str, tuple[float, float]] = {}
    sd = np.nan
    for k in KEYS:
        inside = noisy.label == ID[k]
        core = ndimage.distance_transform_edt(inside, sampling=spacing) > ERODED_MM
        if core.sum() < 100:
            continue
        found[k] = noisy.attributes["hu"][k], float(np.median(noisy.image[core]))
        if k == "AO":
            sd = float(noise[core].std())
    return (noisy.attributes["nps_peak_per_mm"], peak), (noisy.attributes["noise_sd_hu"], sd), found


def grid_tables(seed: int, count: int, processes: int) -> str:
    """Volumes and overlap across grids."""
    found = of_all(partial(on_grids, seed), count, "grids", processes)
    volumes, agreement = np.array([f[0] for f in found]), np.array([f[1] for f in found])
    mean = volumes.mean(1, keepdims=True)
    off = np.abs(volumes / mean - 1)
    drawn = np.array([f[3] for f in found])
    with_target = np.abs(volumes[:, 0] / drawn - 1).max(0)
    rows = []
    for j, k in enumerate(ID):
        worst = off[:, :, j].max()
        asked = "" if np.isnan(with_target[j]) else f"{with_target[j]:.1%}"
        overlap = [f"{agreement[:, i, j].mean():.3f}" for i in range(len(SPACINGS_MM) - 1)]
        rows.append([k, f"{off[:, :, j].max(1).mean():.2%}", f"{worst:.2%}" + (" **missed**" if worst > VOLUME_GOAL else ""), asked, *overlap])
    same = [f[2] for f in found]
    extent = " x ".join(f"{e:.0f}" for e in EXTENT_MM)
    header = ["structure", "mean deviation", "largest deviation", "1 mm off the drawn, at most", *(f"Dice, {s:g} mm" for s in SPACINGS_MM[1:])]
    return f"""## One patient on many grids

{count} patients as drawn in a box of {extent} mm, in voxels of {", ".join(f"{s:g}" for s in SPACINGS_MM)} mm. Deviation: the
farthest that a volume on one of the grids lies from its mean over the grids, mean and largest of all patients (goal {VOLUME_GOAL:.0%}). Dice: labels
resampled (nearest) to 1 mm against those made at 1 mm.

{table(header, rows)}

Where 3 mm and 1 mm voxels have the same center, {np.mean(same):.2%} of those in the heart carry the same label (least {min(same):.2%})."""


def scan_tables(seed: int, count: int, processes: int) -> str:
    """Noise and HU against the attributes."""
    found = of_all(partial(in_scan, seed), count, "scans", processes)
    peaks, noise = np.array([f[0] for f in found]), np.array([f[1] for f in found])
    edges = [0.0, 0.11, 0.2, 1.0]
    rows = []
    for low, high in pairwise(edges):
        these = peaks[(peaks[:, 0] >= low) & (peaks[:, 0] < high)]
        if len(these):
            rows.append([f"{these[:, 0].min():.3f} to {these[:, 0].max():.3f}", str(len(these)), f"{these[:, 0].mean():.3f}",
                         f"{these[:, 1].mean():.3f}", f"{np.abs(these[:, 1] - these[:, 0]).max():.3f}"])  # fmt: skip
    ratio = noise[:, 1] / noise[:, 0]
    tissue = []
    for k in KEYS:
        pairs = np.array([f[2][k] for f in found if k in f[2]])
        off = pairs[:, 1] - pairs[:, 0]
        stated, got = pairs.mean(0)
        tissue.append([k, str(len(pairs)), f"{stated:.0f}", f"{got:.0f}", f"{off.mean():+.1f}", f"{np.abs(off).max():.0f}"])
    size, spacing, _ = FINE
    return f"""## Noise

{count} patients without metal and pathology, {" x ".join(map(str, size))} voxels of {" x ".join(f"{s:g}" for s in spacing)} mm; the noise is
the difference between the scan and the same without noise. Peak of its in-plane power spectrum, per mm:

{table(["drawn", "patients", "mean drawn", "mean measured", "largest difference"], rows)}

Noise in the aorta, {ERODED_MM:g} mm off its wall: {np.nanmean(noise[:, 1]):.1f} HU, stated {noise[:, 0].mean():.1f} HU; measured / stated
{np.nanmean(ratio):.2f}, from {np.nanmin(ratio):.2f} to {np.nanmax(ratio):.2f}.

## Tissue

The same scans: median HU of each structure {ERODED_MM:g} mm off its surface against the attribute `hu`,
the HU of its blood or muscle. Not the mean: muscle strands and papillary muscles inside the cavities belong to their labels.

{table(["structure", "patients", "stated", "measured", "mean difference", "largest"], tissue)}

The label LV holds the papillary muscles, and contrast agent mixes unevenly in RA, RV and PA."""


def main() -> None:
    """Scan, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--grids", type=int, default=12, help="patients scanned on many grids")
    parser.add_argument("--noise", type=int, default=20, help="patients scanned with and without noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    o = parser.parse_args()
    text = f"{grid_tables(o.seed, o.grids, o.processes)}\n\n{scan_tables(o.seed, o.noise, o.processes)}"
    publish(
        text, out=o.out, name="phantom-scans", title="Scans of virtual patients",
        command=f"python -m benchmarks.phantom_scans --grids {o.grids} --noise {o.noise} --seed {o.seed}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
