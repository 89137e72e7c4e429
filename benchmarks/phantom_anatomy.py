"""Virtual hearts beside real ones: where the parts lie, what touches what, how large and how thick they are.

    python -m benchmarks.phantom_anatomy FOLDER [--patients 100] [--out docs/results/phantom-anatomy.md]

FOLDER holds label maps (.nii.gz, the project's ids, axes along the body's; LAA optional) of real hearts at end-diastole. Virtual
patients are healthy, at end-diastole, on the 3 mm grid on which they are calibrated. Prints the page, and writes it where `--out` says.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auricle import __version__
from auricle.core.anatomy import ID
from auricle.core.files import write_text
from auricle.core.machine import describe_machine
from auricle.data.labels import read_label
from auricle.phantom.anatomy import CALIBRATION_MM, build_anatomy
from auricle.phantom.checks import check
from auricle.phantom.measures import VALVES, Label, Spacing, facing, farthest, wall_distances
from auricle.phantom.patient import draw_patient
from auricle.phantom.scan import patient_seed

COHORT_SEED = 5
"""Not a seed that the recipes train on."""
MODEL_MEAN = "heart_00"
"""The mean of a statistical shape model, left out where a folder has it: it is no sample."""
PARTS = ("LV", "RV", "LA", "RA", "MYO")
GAP_MM = 9.0
"""Structures touch that face each other across at most so much background along an axis: unlabeled valves and atrial walls."""
PAIRS = (*VALVES.values(), ("LV", "MYO"), ("RV", "MYO"), ("LA", "MYO"), ("RA", "MYO"), ("AO", "MYO"), ("LA", "RA"), ("LA", "AO"),
         ("RA", "AO"), ("RV", "AO"))  # fmt: skip
"""Contacts that are compared; others of the great arteries are not, where the real maps hold only their beginnings."""
RATIOS = (("RV", "LV"), ("LA", "LV"), ("RA", "LA"), ("MYO", "LV"))

Row = tuple[str, NDArray[np.float64], NDArray[np.float64]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """What is measured on one heart."""

    points: Array
    """Centroids of `PARTS` and centers of `VALVES`, (9, 3) mm, RAS, about their mean."""
    volumes: dict[str, float]
    """mL."""
    contacts: Array
    """Areas of `PAIRS`, mm^2."""
    shape: dict[str, float]
    """Lengths (mm) and ratios of the left ventricle."""
    faults: tuple[str, ...] = ()
    """What the checks of the anatomy say of the map as it is, of those structures that it annotates."""

    @property
    def size(self) -> float:
        """Cube root of the volume of chambers and muscle, mm."""
        return float((1000 * sum(self.volumes.values())) ** (1 / 3))


def septum_radius(label: Label, spacing: Spacing, mitral: Array, apex: Array) -> float:
    """Radius in mm of the circle through the septum's right side in the short-axis plane, by least squares (Kasa 1976).

    Taken where the muscle faces the right ventricle, between a quarter and three quarters of the way from the mitral valve to the apex.
    """
    axis = apex / np.linalg.norm(apex)
    points = facing(label, spacing, "RV", "MYO", 3.0)[1] - mitral
    share = points @ axis / np.linalg.norm(apex)
    middle = points[(share > 0.25) & (share < 0.75)]
    u = np.cross(axis, [0.0, 0.0, 1.0])
    u /= np.linalg.norm(u)
    flat = middle @ np.stack([u, np.cross(axis, u)], 1)
    a, b, c = np.linalg.lstsq(np.column_stack([2 * flat, np.ones(len(flat))]), (flat**2).sum(1), rcond=None)[0]
    return float(np.sqrt(c + a * a + b * b))


def measure(label: Label, spacing: Spacing) -> Features:
    """Measure one heart."""
    voxel_ml = float(np.prod(spacing)) / 1000
    voxels = {k: np.argwhere(label == ID[k]) * np.asarray(spacing) for k in PARTS}
    valves = {name: facing(label, spacing, *pair, GAP_MM)[1].mean(0) for name, pair in VALVES.items()}
    points = np.array([*(v.mean(0) for v in voxels.values()), *valves.values()])
    length = farthest(voxels["LV"], valves["mitral"])
    radius = septum_radius(label, spacing, valves["mitral"], length)
    volumes = {k: len(v) * voxel_ml for k, v in voxels.items()}
    long = float(np.linalg.norm(length))
    walls = wall_distances(label, spacing)
    shape = {
        "LV wall, median, mm": float(np.median(walls)), "LV wall, 5th percentile, mm": float(np.percentile(walls, 5)),
        "LV wall, 95th percentile, mm": float(np.percentile(walls, 95)), "LV length, mitral valve to apex, mm": long,
        "LV sphericity, volume over that of a ball as long": 6000 * volumes["LV"] / (np.pi * long**3), "septum's radius, mm": radius,
        "long axis below horizontal, frontal, degrees": float(np.degrees(np.arctan2(-length[2], -length[0]))),
    }  # fmt: skip
    return Features(points - points.mean(0), volumes, np.array([facing(label, spacing, *pair, GAP_MM)[0] for pair in PAIRS]), shape)


def real(path: Path) -> Features:
    """Measure a real label map, sampled to the virtual patients' voxels so that both are measured with the same coarseness."""
    values, affine, _ = read_label(path)
    label, spacing = to_ras(values, affine)
    at = [np.arange(0, n - 1, CALIBRATION_MM / s).round().astype(int) for n, s in zip(label.shape, spacing, strict=True)]
    faults = check(label, spacing, structures=[k for k, i in ID.items() if (label == i).any()])
    return replace(measure(np.ascontiguousarray(label[np.ix_(*at)]), (CALIBRATION_MM,) * 3), faults=tuple(faults))


def to_ras(label: Label, affine: Array) -> tuple[Label, Spacing]:
    """Turn and flip a map whose axes run along the body's until they are RAS+."""
    order = [int(np.argmax(np.abs(affine[axis, :3]))) for axis in range(3)]
    steps = [float(affine[axis, order[axis]]) for axis in range(3)]
    turned = label.transpose(order)[tuple(slice(None, None, 1 if step > 0 else -1) for step in steps)]
    x, y, z = (abs(step) for step in steps)
    return np.ascontiguousarray(turned), (x, y, z)


def virtual(index: int) -> Features:
    """Measure a healthy virtual patient at end-diastole."""
    anatomy = build_anatomy(draw_patient(patient_seed(COHORT_SEED, index), phase=0.0, pathology=False))
    label = np.ascontiguousarray(anatomy.coarse_label.transpose(2, 1, 0)[::-1, ::-1])
    return measure(label, (CALIBRATION_MM,) * 3)


def rotated(points: Array, onto: Array) -> Array:
    """The points (n, 3), turned about the origin to lie on others by least squares (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(points.T @ onto)
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return np.asarray(points @ turn)


def mean_shape(shapes: Array) -> Array:
    """The mean of point sets (cases, n, 3), each turned onto the mean; keeps the mean's attitude in the body."""
    mean: Array = shapes.mean(0)
    for _ in range(3):
        mean = np.asarray(np.mean([rotated(s, mean) for s in shapes], 0))
    return mean


def number(value: float) -> str:
    """Three figures or so."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 5 else f"{value:.2f}"


def verdict(real_values: Array, virtual_values: Array) -> str:
    """Whether the virtual mean lies in the real range, widened on either side by half its width."""
    low, high = real_values.min(), real_values.max()
    room = 0.5 * (high - low)
    return "within" if low - room <= virtual_values.mean() <= high + room else "**outside**"


def table(rows: Sequence[Row]) -> str:
    """One row a quantity: real minimum, mean, maximum; virtual percentiles; difference of means in real SD; verdict."""
    lines = ["| | real min / mean / max | virtual 5 / 50 / 95% | virtual - real mean | z | virtual mean |", "| --- | --- | --- | --- | --- | --- |"]
    for name, r, v in rows:
        spread, off = r.std(ddof=1), v.mean() - r.mean()
        low, middle, high = np.percentile(v, [5, 50, 95])
        ranges = [" / ".join(map(number, values)) for values in ((r.min(), r.mean(), r.max()), (low, middle, high))]
        cells = (name, *ranges, f"{off:+.2g}" if abs(off) < 10 else f"{off:+.0f}", f"{off / spread:+.1f}" if spread else "-", verdict(r, v))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def place_table(real_points: Array, virtual_points: Array) -> str:
    """One row a point: virtual minus real mean along each axis in mm, both SDs, z of each axis, verdicts."""
    lines = ["| | virtual - real, mm R / A / S | SD real | SD virtual | z | virtual mean |", "| --- | --- | --- | --- | --- | --- |"]
    for i, name in enumerate((*PARTS, *(f"{v} valve" for v in VALVES))):
        r, v = real_points[:, i], virtual_points[:, i]
        off, spread = v.mean(0) - r.mean(0), r.std(0, ddof=1)
        words = [f"{axis} {'in' if verdict(r[:, k], v[:, k]) == 'within' else '**out**'}" for k, axis in enumerate("RAS")]
        triples = (off, spread, v.std(0, ddof=1), off / spread)
        shown = [" / ".join(f"{x:+.1f}" if j in (0, 3) else f"{x:.1f}" for x in t) for j, t in enumerate(triples)]
        lines.append(f"| {name} | " + " | ".join(shown) + " | " + ", ".join(words) + " |")
    return "\n".join(lines)


def column(cases: Sequence[Features], value: Callable[[Features], float]) -> Array:
    """One value of every case."""
    return np.array([value(f) for f in cases])


def sections(reals: Sequence[Features], virtuals: Sequence[Features]) -> dict[str, str]:
    """The tables by title."""
    size = float(np.mean([f.size for f in reals]))
    raw_real, raw_virtual = (np.array([f.points * size / f.size for f in cases]) for cases in (reals, virtuals))
    mean = mean_shape(raw_real)
    turned = [np.array([rotated(p, mean) for p in raw]) for raw in (raw_real, raw_virtual)]

    def rows(name: str, value: Callable[[Features], float]) -> Row:
        return name, column(reals, value), column(virtuals, value)

    return {
        "Places after rotation": place_table(*turned),
        "Places in body axes": place_table(raw_real, raw_virtual),
        "Contacts, mm2 at the real hearts' mean size": table(
            [rows(f"{a}, {b}", lambda f, i=i: float(f.contacts[i] * (size / f.size) ** 2)) for i, (a, b) in enumerate(PAIRS)]  # type: ignore[misc]
        ),
        "Volumes, mL, and ratios": table(
            [rows(k, lambda f, k=k: f.volumes[k]) for k in PARTS]  # type: ignore[misc]
            + [rows(f"{a} / {b}", lambda f, a=a, b=b: f.volumes[a] / f.volumes[b]) for a, b in RATIOS]  # type: ignore[misc]
        ),
        "The left ventricle": table([rows(k, lambda f, k=k: f.shape[k]) for k in reals[0].shape]),  # type: ignore[misc]
    }


def page(reals: Sequence[Features], virtuals: Sequence[Features], patients: int) -> str:
    """The Markdown text."""
    machine = describe_machine()
    failed = "".join(f"; one fails: {f.faults[0]}" for f in reals if f.faults)
    found = sections(reals, virtuals)
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in found.items())
    outside, rows = body.count("**"), sum(text.count("\n") - 1 for text in found.values())
    return f"""# Virtual hearts beside real ones

`python -m benchmarks.phantom_anatomy FOLDER --patients {patients}`, {date.today()}, {machine["cpu"]}, {machine["cores"]} cores, Python
{machine["python"]}, auricle {__version__}. This page is written by the command.

{len(reals)} real label maps and {len(virtuals)} virtual patients (seed {COHORT_SEED}, no pathology, end-diastole), all on voxels of
{CALIBRATION_MM:.0f} mm.
The real maps of this page are samples of a statistical shape model of the four-chamber heart, built from CT of 19 healthy adults
(Rodero et al., PLOS Computational Biology 17(4):e1008851, 2021; CC BY 4.0). So they vary less than people do: their spread is a lower bound,
z-scores (difference of the means in real standard deviations) look large, and the virtual patients are meant to spread more. Their body axes
are only approximate, the aorta and the pulmonary artery are cut short, and valves are thin gaps.

{sum(not f.faults for f in reals)} of the {len(reals)} real maps pass the
[checks of the anatomy](../reference/virtual-patients.md#the-checks-of-the-anatomy) that apply to the structures they annotate{failed}.

Places are about the mean of the nine points, scaled to the real hearts' mean size (cube root of the volume of chambers and muscle); for the
first table each heart is also turned onto the real mean by least squares. Contacts are areas over which two structures face each other along
the voxel axes across at most {GAP_MM:.0f} mm of background, scaled with the square of size.

Rule: the virtual **mean** is within if it lies in the real range (minimum to maximum) widened on either side by half its width; in the tables
of places it is asked along each axis. {outside // 2} verdicts on {rows} rows are "outside". The real maps were looked at while the geometry was made,
so this page describes agreement and is no independent test.

{body}
"""


def main() -> None:
    """Measure both, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    paths = [p for p in sorted(options.folder.glob("*.nii.gz")) if not p.name.startswith(MODEL_MEAN)]
    if len(paths) < 2:
        raise SystemExit(f"{options.folder}: at least two label maps (.nii.gz) are needed, {len(paths)} found")
    with ProcessPoolExecutor(2) as pool:
        reals, virtuals = list(pool.map(real, paths)), list(pool.map(virtual, range(options.patients)))
    text = page(reals, virtuals, options.patients)
    print(text)
    if options.out:
        write_text(options.out, text)


if __name__ == "__main__":
    main()
