"""Pictures of virtual patients for the documentation, and a blinded sheet of virtual and real slices.

    OMP_NUM_THREADS=1 python -m benchmarks.phantom_gallery --out docs/results [--seed 0]
    OMP_NUM_THREADS=1 python -m benchmarks.phantom_gallery --blind FOLDER --real SCAN [SCAN ..]

The first writes phantom-gallery.png, phantom-variants.png, phantom-labels.png and phantom-appendages.png, without anybody's data.
The second writes twenty slices in random order and, apart, the key: the sheet is for eyes alone and stays out of the repository.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from auricle.core import progress
from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.core.files import write_json
from auricle.data.preprocess import heart_center
from auricle.data.reading import read_scan
from auricle.phantom import draw_patient, render, virtual_patient
from auricle.phantom.anatomy import build_anatomy
from auricle.phantom.patient import APPENDAGES, CONTRASTS, PATHOLOGIES
from auricle.phantom.scanner import METALS
from benchmarks import phantom_measure as measure
from benchmarks.phantom_hu import SMOOTHING_MM, between_lungs, find, nearest_contrast, prepare, tissues
from benchmarks.phantom_pictures import PLANES, Cell, cut, shaded, sheet, square
from benchmarks.phantom_population import grow, of_all

GALLERY, OVERLAID, SHAPES, BLIND = 12, 5, 7, 10
"""Patients in the gallery and under labels, appendages of each shape, and slices of each kind on the blinded sheet."""
SCAN = ((176, 144, 144), 1.25)
VARIANT = ((128, 128, 104), 1.5)
STREAK_HU = 200
"""Metal is shown near the middle where many voxels differ by more."""
ASCENDING_MM = 45.0
"""Height of the ascending aorta above the heart's center."""
BLIND_MM = 140.0
Triple = tuple[float, float, float]


def words(case: Case) -> str:
    """Sex, contrast agent, pathology and metal of a virtual patient."""
    a = case.attributes
    first = f"{'man' if a['sex'] == 'M' else 'woman'}, {a['contrast']}" + (", systole" if a["phase"] > 0.5 else "")
    return ", ".join([first, *a["pathology"], *a["metal"]])


def middle(case: Case) -> list[int]:
    """Voxel index of the heart's center."""
    assert case.label is not None
    center = heart_center(case.label, case.affine)
    assert center is not None
    return [round(float(v)) for v in np.linalg.solve(case.affine, [*center, 1.0])[:3]]


def triptych(seed: int, overlay: float, index: int) -> tuple[str, list[Cell]]:
    """Axial, coronal and sagittal slice of one patient through the heart's center."""
    size, spacing = SCAN
    case = virtual_patient(seed, index, size, (spacing,) * 3)
    at = middle(case)
    cells = [Cell(cut(case, plane, at[axes[2]], overlay=overlay, pixel_mm=spacing)) for plane, axes in PLANES.items()]
    return words(case), [Cell(cells[0].picture, words(case)), *cells[1:]]


def gallery(seed: int, out: Path, processes: int) -> None:
    """Twelve patients, two in a row."""
    found = of_all(partial(triptych, seed, 0.0), GALLERY, "gallery", processes)
    rows = [[*found[i][1], *found[i + 1][1]] for i in range(0, GALLERY, 2)]
    sheet(out / "phantom-gallery.png", "Virtual patients", rows)


def overlays(seed: int, out: Path, processes: int) -> None:
    """Labels over slices, one patient a column."""
    found = of_all(partial(triptych, seed, 0.32), OVERLAID, "labels", processes)
    rows = [[cells[k] for _, cells in found] for k in range(len(PLANES))]
    sheet(out / "phantom-labels.png", "Labels of virtual patients", rows, legend=True, scale=1.2)


def variant(seed: int, kinds: list[tuple[str, str]], k: int) -> list[Cell]:
    """The same patient with one thing changed: the axial slice that shows it best, and the coronal one through the heart's center."""
    kind, value = kinds[k]
    wanted: dict[str, object] = {"contrast": "mixed", "phase": 0.15, "metal": False, "pathology": False}
    if value:
        wanted[kind] = value if kind == "contrast" else [value]
    grown = grow(seed, 0, contrast="mixed", phase=0.15, metal=False, pathology=False)
    assert grown is not None
    size, spacing = VARIANT
    p = draw_patient(grown.anatomy.patient.seed, **wanted)  # type: ignore[arg-type]
    x, y, z = ((grown.anatomy.center - build_anatomy(p).center) * [-1, -1, 1]).tolist()  # all on one grid
    case = render(p, size, (spacing,) * 3, (x, y, z))
    at = [n // 2 for n in size]
    if kind == "metal" and value:
        plain = render(grown.anatomy.patient, size, (spacing,) * 3)
        changed = (np.abs(case.image.astype(np.float32) - plain.image) > STREAK_HU).sum((0, 1))
        at[2] = int(min(np.flatnonzero(changed >= 0.6 * changed.max()), key=lambda k: abs(k - at[2])))
    elif value == "appendage filling defect":
        assert case.label is not None
        at[2] = round(float(np.argwhere(case.label == ID["LAA"])[:, 2].mean()))
    elif value == "aortic dilation":
        at[2] += round(ASCENDING_MM / spacing)
    pictures = [cut(case, plane, at[PLANES[plane][2]], pixel_mm=spacing) for plane in ("axial", "coronal")]
    return [Cell(pictures[0], value or "none"), Cell(pictures[1])]


def variants(seed: int, out: Path, processes: int) -> None:
    """One patient under every contrast timing, with every pathology and every metal."""
    groups = {"contrast": [*CONTRASTS], "pathology": ["", *PATHOLOGIES], "metal": ["", *METALS]}
    kinds = [(kind, value) for kind, values in groups.items() for value in values]
    found = of_all(partial(variant, seed, kinds), len(kinds), "variants", processes)
    rows, names = [], []
    for kind in groups:
        pairs = [cells for cells, (k, _) in zip(found, kinds, strict=True) if k == kind]
        rows += [[pair[j] for pair in pairs] for j in range(2)]
        names += [f"{kind}\naxial", "coronal"]
    sheet(out / "phantom-variants.png", "The same patient with other contrast timing, pathology and metal", rows, names)


def appendage_of(seed: int, index: int) -> tuple[str, Cell]:
    """The surface of one patient's appendage beside its atrium, seen from the left."""
    grown = grow(seed, index, metal=False, pathology=False, phase=0.15)
    assert grown is not None
    p = grown.anatomy.patient
    spacing = 0.7
    extent, offset = measure.box_around(grown.anatomy, "LAA", 9.0)
    nx, ny, nz = np.ceil(extent / spacing).astype(int).tolist()
    x, y, z = offset.tolist()
    label = render(p, (nx, ny, nz), (spacing,) * 3, (x, y, z)).label
    assert label is not None
    return p.laa_morphology, Cell(square(shaded(label, ("LAA", "LA"), 100, 10), 128), f"{p.volumes_ml['LAA']:.1f} mL")


def appendages(seed: int, out: Path, processes: int) -> None:
    """Shapes of the left atrial appendage, one row a shape."""
    found = of_all(partial(appendage_of, seed), round(1.6 * SHAPES / min(APPENDAGES.values())), "appendages", processes)
    rows = [[cell for kind, cell in found if kind == shape][:SHAPES] for shape in APPENDAGES]
    names = [shape for shape, row in zip(APPENDAGES, rows, strict=True) if row]
    sheet(out / "phantom-appendages.png", "Left atrial appendages (green) with the nearby atrium", [r for r in rows if r], names, scale=1.15)


def blind(real: list[Path], out: Path, seed: int) -> None:
    """Virtual and real axial slices of the same spacing, in random order, and the key."""
    rng = np.random.default_rng(seed)
    cells, key = [], []
    scans = [prepare(read_scan(path)[0]) for path in real]
    share = [len(part) for part in np.array_split(np.arange(BLIND), len(scans))]
    for path, scan, count in zip(real, progress.track(scans, "scans", len(scans)), share, strict=True):
        matched, _ = nearest_contrast(float(np.median(tissues(scan)["blood"])), seed, count)
        nx, ny, nz = scan.image.shape
        others = [virtual_patient(seed, i, (nx, ny, nz), scan.spacing, contrast=c) for i, c in matched]
        for case, name in [*((scan, path.name) for _ in range(count)), *((c, c.id) for c in others)]:
            at = int(rng.uniform(0.3, 0.7) * nz)
            cells.append(square(cut(_about_heart(case), "axial", at), round(BLIND_MM)))
            key.append({"source": name, "slice": at, "virtual": name.startswith("virtual")})
    order = rng.permutation(len(cells))
    numbered = [Cell(cells[k], str(n + 1)) for n, k in enumerate(order)]
    sheet(out / "blinded.png", "Which are real?", [numbered[i : i + 5] for i in range(0, len(numbered), 5)], scale=1.5)
    write_json(out / "key.json", {str(n + 1): key[k] for n, k in enumerate(order)})


def _about_heart(case: Case) -> Case:
    """Cut to the square around where the heart lies between the lungs."""
    smooth = ndimage.gaussian_filter(case.image.astype(np.float32), [SMOOTHING_MM / s for s in case.spacing])
    box = between_lungs(find(smooth, case.spacing, "lung"))
    half = [round(0.5 * BLIND_MM / s) for s in case.spacing[:2]]
    mid = [(b.start + b.stop) // 2 for b in box[:2]]
    x, y = (slice(max(0, m - h), m + h) for m, h in zip(mid, half, strict=True))
    return Case(case.id, case.image[x, y], case.affine)


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the four pictures")
    parser.add_argument("--only", choices=("gallery", "variants", "labels", "appendages"), help="draw one of them")
    parser.add_argument("--blind", type=Path, help="folder for the blinded sheet and its key")
    parser.add_argument("--real", type=Path, nargs="+", default=[], metavar="SCAN", help="NIfTI files or DICOM folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    o = parser.parse_args()
    if not o.out and not (o.blind and o.real):
        parser.error("give --out FOLDER, or --blind FOLDER with --real SCAN")
    progress.configure("bars")
    if o.out:
        for name, draw in (("gallery", gallery), ("variants", variants), ("labels", overlays), ("appendages", appendages)):
            if o.only in (None, name):
                draw(o.seed, o.out, o.processes)
    if o.blind:
        blind(o.real, o.blind, o.seed)


if __name__ == "__main__":
    main()
