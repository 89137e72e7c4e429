"""HU of tissues in virtual patients beside those in real scans, found by one rule in both.

    OMP_NUM_THREADS=1 python -m benchmarks.phantom_hu NAME=SCAN [NAME=SCAN ..] [--patients 6] [--seed 0] [--out docs/results]

A SCAN is a NIfTI file or a DICOM folder. The virtual patients get the scan's size and spacing, and the contrast agent whose blood is nearest.
Prints the means of each tissue; with --out also draws the histograms, phantom-hu.png.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.case import Case
from auricle.data.preprocess import orient
from auricle.data.reading import read_scan
from auricle.phantom import virtual_patient
from auricle.phantom.patient import CONTRASTS, draw_patient
from auricle.phantom.scan import patient_seed
from benchmarks.phantom_page import arguments, publish, table
from benchmarks.phantom_pictures import histograms
from benchmarks.phantom_population import of_all

Values = NDArray[np.float32]
Mask = NDArray[np.bool_]

RANGES = {"lung": (-950, -650, 3.0), "fat": (-150, -50, 1.5), "muscle": (10, 85, 2.0)}
"""HU of the smoothed image, and how many mm inside such a region a voxel must lie."""
SMOOTHING_MM = 1.2
WIDE_MM = 300
"""Scans wider than this hold the whole body, and what lies beside it is not taken for tissue."""
BONE_HU, BONE_MM = 200, 1.0
BLOOD_ABOVE_HU = 85
"""Blood is brighter than muscle at rest; a scan without a peak above this has no contrast agent."""
NOTABLE = 0.25
"""Height of a peak relative to the highest one from which it counts."""
VESSEL_SD_HU = 70
"""Bright regions outside the heart more even than this are vessels, not bone."""
FINEST_MM = 1.4
"""Finer scans are averaged over blocks in the plane."""
GOAL_HU = 25
DRAWN = 200
"""Patients whose blood is looked at when a scan's contrast agent is matched."""
CITED = """LIDC-IDRI: S. G. Armato et al., Medical Physics 38 (2011) 915; The Cancer Imaging Archive,
doi 10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0. CPTAC-PDA: National Cancer Institute Clinical Proteomic Tumor Analysis Consortium,
The Cancer Imaging Archive, doi 10.7937/K9/TCIA.2018.SC20FO18, CC BY 3.0."""


def prepare(case: Case) -> Case:
    """Axes along RAS+, and blocks in the plane averaged where voxels are finer than `FINEST_MM`."""
    case = orient(case)
    step = [max(1, round(FINEST_MM / s)) if s < FINEST_MM / 1.5 else 1 for s in case.spacing[:2]]
    nx, ny = (n // k for n, k in zip(case.image.shape, step, strict=False))
    blocks = case.image[: nx * step[0], : ny * step[1]].reshape(nx, step[0], ny, step[1], -1).astype(np.float32)
    affine = case.affine @ np.diag([*step, 1.0, 1.0])
    return Case(case.id, blocks.mean((1, 3)), affine)


def deep(mask: Mask, spacing: tuple[float, float, float], depth: float) -> Mask:
    """The part of a mask more than `depth` mm from its surface."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing) > depth)


def enclosed(smooth: Values, spacing: tuple[float, float, float]) -> Mask:
    """Voxels with the body on their left and right, so not the couch; all where the scan is too narrow to hold the body."""
    if smooth.shape[0] * spacing[0] < WIDE_MM:
        return np.ones(smooth.shape, bool)
    pieces, _ = ndimage.label(deep(smooth > -200, spacing, 3.0))
    body = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.asarray(np.logical_or.accumulate(body, 0) & np.logical_or.accumulate(body[::-1], 0)[::-1])


def find(smooth: Values, spacing: tuple[float, float, float], tissue: str) -> Mask:
    """Lung, fat or muscle."""
    low, high, depth = RANGES[tissue]
    return deep((smooth > low) & (smooth < high), spacing, depth) & enclosed(smooth, spacing)


def between_lungs(lung: Mask) -> tuple[slice, slice, slice]:
    """Where the heart lies: the middle half across and the middle 60% of the height of the lungs' box, but for its back 35%."""
    x, y, _ = (np.flatnonzero(lung.any(tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3))
    width, depth, height = x[1] - x[0], y[1] - y[0], lung.shape[2]
    return (slice(x[0] + width // 4, x[1] - width // 4), slice(y[0] + round(0.35 * depth), y[1]), slice(height // 5, height - height // 5))


def blood_hu(smooth: Values, place: tuple[slice, slice, slice]) -> float:
    """The brightest notable peak of the heart's histogram above muscle, HU; the highest of soft tissue where there is none."""
    edges = np.arange(-20, 701, 5)
    count = ndimage.gaussian_filter1d(np.histogram(smooth[place], edges)[0].astype(float), 2)
    middle = 0.5 * (edges[1:] + edges[:-1])
    peak = np.r_[False, (count[1:-1] > count[:-2]) & (count[1:-1] >= count[2:]), False]
    bright = peak & (middle > BLOOD_ABOVE_HU)
    if not bright.any():
        return float(middle[np.argmax(np.where(peak, count, -1))])
    return float(middle[np.flatnonzero(bright & (count > NOTABLE * count[bright].max()))[-1]])


def tissues(case: Case) -> dict[str, Values]:
    """HU of the voxels of each tissue, by the same rule whatever made the scan."""
    image, spacing = case.image.astype(np.float32), case.spacing
    smooth = ndimage.gaussian_filter(image, [SMOOTHING_MM / s for s in spacing])
    found = {k: find(smooth, spacing, k) for k in RANGES}
    place = between_lungs(found["lung"])
    blood = blood_hu(smooth, place)
    heart = np.zeros(image.shape, bool)
    heart[place] = True
    found["blood"] = heart & deep(np.abs(smooth - blood) < max(25.0, 0.12 * blood), spacing, 1.5)
    bright, count = ndimage.label(deep(smooth > BONE_HU, spacing, BONE_MM))
    ids = np.arange(1, count + 1)
    even = np.r_[True, ndimage.standard_deviation(smooth, bright, ids) < VESSEL_SD_HU]
    even[np.unique(bright[heart])] = True
    found["bone"] = ~even[bright]
    return {k: image[mask] for k, mask in found.items()}


def nearest_contrast(blood: float, seed: int, count: int) -> tuple[list[tuple[int, str]], str]:
    """The `count` of `DRAWN` patients whose brighter ventricle is nearest to `blood`, each with its contrast; and where that lies."""
    drawn = []
    for i in range(DRAWN):
        p = draw_patient(patient_seed(seed, i), metal=False, pathology=False)
        drawn.append((max(p.hu["LV"], p.hu["RV"]), i, p.contrast))
    near = sorted(drawn, key=lambda d: abs(d[0] - blood))[:count]
    kinds = sorted({c for _, _, c in near}, key=list(CONTRASTS).index)
    share = np.mean([hu < blood for hu, _, c in drawn if c in kinds])
    return [(i, c) for _, i, c in near], f"{', '.join(kinds)}; brighter than {share:.0%} of the virtual patients with such timing"


def virtual(wanted: list[tuple[int, str]], seed: int, real: Case, k: int) -> dict[str, Values]:
    """Tissues of one virtual patient scanned like `real`."""
    index, contrast = wanted[k]
    nx, ny, nz = real.image.shape
    return tissues(virtual_patient(seed, index, (nx, ny, nz), real.spacing, contrast=contrast, metal=False, pathology=False))


def means(found: Mapping[str, Values]) -> dict[str, float]:
    """Mean HU of each tissue with at least 50 voxels."""
    return {k: float(v.mean()) for k, v in found.items() if len(v) >= 50}


def section(name: str, real: Case, found: dict[str, Values], others: list[dict[str, Values]], matched: str) -> str:
    """Table of one scan."""
    rows, ours = [], [means(o) for o in others]
    for k, value in means(found).items():
        each = [o[k] for o in ours if k in o]
        if not each:
            rows.append([k, f"{len(found[k])}", f"{value:.0f}", "absent", "", ""])
            continue
        off = float(np.mean(each)) - value
        missed = " **missed**" if abs(off) > GOAL_HU else ""
        rows.append([k, f"{len(found[k])}", f"{value:.0f}", f"{np.mean(each):.0f}", f"{min(each):.0f} to {max(each):.0f}", f"{off:+.0f}{missed}"])
    header = ["tissue", "real voxels", "real, HU", "virtual, HU", "lowest to highest", "difference"]
    grid = " x ".join(map(str, real.image.shape)), " x ".join(f"{s:.2f}" for s in real.spacing)
    return f"""## {name}

{grid[0]} voxels of {grid[1]} mm. Nearest contrast timing: {matched}.

{table(header, rows)}"""


def main() -> None:
    """Read, scan, compare."""
    parser = arguments(__doc__)
    parser.add_argument("scans", nargs="+", metavar="NAME=SCAN")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    o = parser.parse_args()
    sections, curves = [], []
    for argument in o.scans:
        name, _, path = argument.rpartition("=")
        name = name or Path(path).name
        real = prepare(read_scan(Path(path))[0])
        found = tissues(real)
        wanted, matched = nearest_contrast(float(np.median(found["blood"])), o.seed, o.patients)
        others = of_all(partial(virtual, wanted, o.seed, real), len(wanted), name, o.processes)
        sections.append(section(name, real, found, others, matched))
        curves.append((name, found, others))
    picture = ""
    if o.out:
        histograms(o.out / "phantom-hu.png", curves)
        picture = "![Histograms of each tissue](phantom-hu.png)\n\nReal scans filled, each virtual patient a line.\n\n"
    rule = ";\n".join(f"{k} {low} to {high} HU, {depth:g} mm deep" for k, (low, high, depth) in RANGES.items())
    text = f"""{picture}Each scan beside {o.patients} virtual patients without metal and pathology of the same size and spacing, centered on the
heart. One rule finds the tissues in both, on the image smoothed by {SMOOTHING_MM:g} mm:
{rule}.
Blood: within 12% or
25 HU of the brightest notable peak above {BLOOD_ABOVE_HU} HU between the lungs, 1.5 mm deep. Bone: above {BONE_HU} HU, {BONE_MM:g} mm deep, in
pieces that do not reach into the heart and vary by {VESSEL_SD_HU} HU or more, which leaves vessels out. The ranges bound the
means of lung, fat and muscle, so compare the shapes of the histograms too; blood is matched by choosing patients, and says only that such
patients are drawn. Goal: means within {GOAL_HU} HU.

{chr(10).join(s + chr(10) for s in sections)}
## Data

{CITED}"""
    publish(
        text, out=o.out, name="phantom-hu", title="HU of virtual and real tissue",
        command=f"python -m benchmarks.phantom_hu {' '.join(repr(c[0]) + '=SCAN' for c in curves)} --patients {o.patients} --seed {o.seed}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
