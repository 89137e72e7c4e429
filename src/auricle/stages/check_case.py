"""What is wrong with one case, or notable about it: its files, its place in space, its HU, its label map and the anatomy in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import KEYS, LABEL_COUNT, STRUCTURES
from auricle.core.arrays import count_values, slabs
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.files import atomic_path
from auricle.data.dicom_files import patient_mark
from auricle.data.fingerprint import content_hash, label_hash
from auricle.data.folder import PairPath, read_pair
from auricle.data.geometry import Shape, is_sheared, lengths, on_grid
from auricle.data.labels import read_label
from auricle.data.layouts import mask_files
from auricle.data.nifti import gzip_trailer, read_grid
from auricle.data.overview import around_labels, axis_code, oblique_degrees, overview, sides_reached
from auricle.data.preprocess import AIR_HU, label_to_grid, right_angled
from auricle.data.reading import read_scan
from auricle.data.volume_files import ending
from auricle.phantom import check as anatomy_faults
from auricle.stages.gate import kind_of

Code = Literal[
    "file", "grid", "label", "reading", "orientation", "spacing", "view", "intensity", "structures", "volume", "anatomy",
    "duplicate", "patient", "outlier", "data-set",
]  # fmt: skip
"""What a finding is about."""
Record = dict[str, Any]
"""What is known about a case, as JSON."""
Grid = tuple[Shape, NDArray[np.float64]]
"""Shape and affine."""

THICK_MM, FINE_MM, OBLIQUE_DEGREES, LEAST_VIEW_MM = 3.0, 0.2, 5.0, 100.0
"""Slices from which anatomy gets lost, voxels below what CT resolves, turns and extents of the view that are worth a notice."""
SOFT_HU = (-200.0, 200.0)
"""Fat, muscle and blood without contrast agent: in every CT of a chest or an abdomen."""
LEAST_SOFT = 0.05
"""Share of a CT's field of view that soft tissue takes at least."""
TISSUE_HU = (-30.0, 1200.0)
"""Mean HU of a structure of the heart, from blood in fat's partial volume to undiluted contrast agent."""
CHAMBERS = ("MYO", "LA", "LV", "RA", "RV", "LAA")
"""What a scan of the heart shows wholly; the great vessels leave every field of view."""
SIDE_NAMES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    code: Code
    text: str
    """One line for people."""
    refused: bool = False
    """The case cannot be used; a notice otherwise."""

    def json(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {"code": self.code, "severity": "refused" if self.refused else "notice", "text": self.text}


@dataclass(frozen=True)
class Job:
    """One case to check."""

    pair: PairPath
    single: bool
    """A scan by itself, which may be DICOM."""
    quick: bool
    """Headers alone, where the files are NIfTI."""
    assume_orientation: str | None
    not_hu: bool
    size: int
    """Bytes of its files."""
    picture: Path | None
    """Where two slices of an overview go (.npz); None for nowhere."""


def examine(job: Job) -> Record:
    """Check one case; whatever is wrong with its files is a finding, never an error."""
    pair, found = job.pair, list[Finding]()
    record: Record = {
        "id": pair.id, "image": str(pair.image), "label": None if pair.label is None else str(pair.label), "bytes": job.size,
        "shape": None, "spacing_mm": None, "axes": None, "oblique_degrees": None, "hu": None, "structures": None, "missing": None,
        "content_sha256": None, "label_sha256": None, "patient_sha256": None, "checksum": None,
    }  # fmt: skip
    try:
        _examine(job, record, found)
    except (InputError, OSError, MemoryError) as error:
        text = f"{pair.image}: out of memory; give fewer --workers" if isinstance(error, MemoryError) else _told(pair.image, error)
        found.append(Finding("file", text, True))
    return record | {"findings": [f.json() for f in found]}


def _examine(job: Job, record: Record, found: list[Finding]) -> None:
    pair = job.pair
    header = _headers(job, found) if all(map(is_nifti, [pair.image, *label_files(pair)])) else None
    if job.quick and header is not None:
        if header:
            record["checksum"] = gzip_trailer(pair.image)
            _place(*header[0], record, found)
        return
    case = _read(job, found)
    if case is not None:
        _content(case, job, record, found)


def is_nifti(path: Path) -> bool:
    """Whether a header can be read by itself."""
    return ending(path) in (".nii", ".nii.gz")


def label_files(pair: PairPath) -> list[Path]:
    """The files of a label map: one, or a mask for each structure."""
    if pair.label is None or not pair.label.is_dir():
        return [] if pair.label is None else [pair.label]
    return [path for paths in mask_files(pair.label).values() for path in paths]


def _headers(job: Job, found: list[Finding]) -> list[Grid]:
    """The image's grid from its header, none if that is damaged; everything in which the label map's header differs is found."""
    grids: dict[Path, Grid] = {}
    for path in (job.pair.image, *label_files(job.pair)):
        try:
            shape, affine, notices = read_grid(path, assume_orientation=job.assume_orientation)
        except (InputError, OSError) as error:
            found.append(Finding("file", _told(path, error), True))
            continue
        grids[path] = (shape, affine)
        if job.quick:
            found += [Finding("reading", text) for text in notices]
    image = grids.pop(job.pair.image, None)
    if image is None:
        return []
    for path, grid in grids.items():
        found += [Finding("grid", text, True) for text in _apart(path, job.pair.image, grid, image)]
    return [image]


def _apart(path: Path, scan: Path, label: Grid, image: Grid) -> list[str]:
    """Everything in which the label map's grid differs from its scan's, in one line; none where the readers take it for the same."""
    (other_shape, other), (shape, affine) = label, image
    if on_grid(shape, affine, other_shape, other):
        return []
    if is_sheared(affine):
        # `auricle segment` writes the label map of a tilted scan on the right-angled grid.
        upright, size = right_angled(affine, shape)
        if on_grid(size, upright, other_shape, other):
            return []
    what = []
    if shape != other_shape:
        what.append(f"shape {lengths(other_shape)} and {lengths(shape)}")
    sizes, other_sizes = (np.linalg.norm(a[:3, :3], axis=0) for a in (affine, other))
    if not np.allclose(sizes, other_sizes, rtol=1e-3):
        what.append(f"spacing {lengths(other_sizes)} and {lengths(sizes)} mm")
    turn = np.abs(affine[:3, :3] / sizes - other[:3, :3] / other_sizes).max()
    if turn > 1e-3:
        what.append(f"axes {axis_code(other)} and {axis_code(affine)}" if axis_code(other) != axis_code(affine) else "direction of the axes")
    gap = float(np.linalg.norm(affine[:3, 3] - other[:3, 3]))
    if gap > 0.1 * sizes.min():
        what.append(f"origin, {gap:.3g} mm apart")
    return [f"{path}: differs from its scan {scan} in {'; '.join(what) or 'the place of its far corner'}"]


def _read(job: Job, found: list[Finding]) -> Case | None:
    """The case, or what can be read of it: where the pair is refused, image and label map are read each by itself to find all faults."""
    pair = job.pair
    settings: dict[str, Any] = {"assume_orientation": job.assume_orientation, "not_hu": job.not_hu}
    if not any(f.refused for f in found):
        try:
            case, notices = read_scan(pair.image, **settings) if job.single else read_pair(pair, **settings)
            # What the check counts itself needs no second notice.
            found += [Finding("reading", n) for n in notices if not re.search("no voxels of|label map is empty", n)]
            return case
        except (InputError, OSError) as error:
            if job.single or pair.label is None:
                found.append(Finding("file", _told(pair.image, error), True))
                return None
            first = _told(pair.image, error)
    else:
        first = None
    problems: list[Finding] = []
    alone: Case | None = None
    try:
        alone, notices = read_pair(replace(pair, label=None), **settings)
        found += [Finding("reading", n) for n in notices]
    except (InputError, OSError) as error:
        problems.append(Finding("file", _told(pair.image, error), True))
    if pair.label is not None and ending(pair.label):
        try:
            read_label(pair.label, label_map=pair.label_map, assume_orientation=job.assume_orientation)
        except (InputError, OSError) as error:
            problems.append(Finding("label", _told(pair.label, error), True))
    if first is not None:
        problems.append(Finding("label", first, True))
    seen = {f.text for f in found}
    for problem in problems:
        if problem.text not in seen:
            seen.add(problem.text)
            found.append(problem)
    return alone


def _content(case: Case, job: Job, record: Record, found: list[Finding]) -> None:
    """Everything that takes the voxels."""
    _place(case.image.shape, case.affine, record, found)
    record["content_sha256"] = content_hash(case)
    record["patient_sha256"] = patient_mark(job.pair.image)
    small = overview(case)
    record["hu"] = _intensities(case, small, found)
    if case.label is not None:
        record["label_sha256"] = label_hash(case)
        _structures(case, small, record, found)
    if job.picture is not None:
        _draw(small, job.picture)


def _place(shape: Sequence[int], affine: NDArray[np.float64], record: Record, found: list[Finding]) -> None:
    """Grid, orientation and field of view."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    turned, view = oblique_degrees(affine), spacing * np.array(shape)
    record |= {
        "shape": [int(n) for n in shape], "spacing_mm": [round(float(s), 5) for s in spacing], "axes": axis_code(affine),
        "oblique_degrees": round(turned, 2),
    }  # fmt: skip
    if turned > OBLIQUE_DEGREES:
        found.append(Finding("orientation", f"the grid is turned by {turned:.0f} degrees against the body's axes"))
    if spacing.max() > THICK_MM:
        found.append(Finding("spacing", f"voxels of {lengths(spacing)} mm: thin walls and the appendage get lost in slices above {THICK_MM:g} mm"))
    if spacing.min() < FINE_MM:
        found.append(Finding("spacing", f"voxels of {lengths(spacing)} mm are finer than CT resolves: check the header"))
    if view.min() < LEAST_VIEW_MM:
        covered = " x ".join(f"{v:.0f}" for v in view)
        found.append(Finding("view", f"the scan covers {covered} mm: a whole heart needs about {LEAST_VIEW_MM:g} mm each way"))


def _intensities(case: Case, small: Case, found: list[Finding]) -> dict[str, float]:
    """Range and make-up of the HU; those of tissue from the overview."""
    ends = [(slab.min(), slab.max()) for slab in slabs(case.image)]
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    inside = small.image[small.image > AIR_HU]
    soft = inside[(inside > SOFT_HU[0]) & (inside < SOFT_HU[1])]
    share = soft.size / max(1, inside.size)
    outside = 1.0 - inside.size / small.image.size
    if low > -500:
        found.append(Finding("intensity", f"no air: the least value is {low:g} HU"))
    if share < LEAST_SOFT:
        found.append(Finding("intensity", f"soft tissue ({SOFT_HU[0]:g} to {SOFT_HU[1]:g} HU) takes {share:.1%} of the view: are these HU?"))
    if outside > 0.6:
        found.append(Finding("view", f"{outside:.0%} of the voxels lie outside the field of view"))
    return {
        "low": round(low, 3), "high": round(high, 3), "soft_tissue": round(float(np.median(soft)), 1) if soft.size else 0.0,
        "soft_tissue_share": round(share, 4), "outside_view_share": round(outside, 4),
    }  # fmt: skip


def _structures(case: Case, small: Case, record: Record, found: list[Finding]) -> None:
    """Which structures there are, their volumes and HU, and whether that is a heart."""
    assert case.label is not None
    assert small.label is not None
    counts, sides = count_values(case.label, LABEL_COUNT), sides_reached(case)
    sums = np.bincount(small.label.ravel(), small.image.ravel(), LABEL_COUNT)
    sampled = np.bincount(small.label.ravel(), minlength=LABEL_COUNT)
    table: dict[str, dict[str, Any]] = {}
    for s in STRUCTURES:
        if counts[s.id]:
            mean = round(float(sums[s.id] / sampled[s.id]), 1) if sampled[s.id] else None
            table[s.key] = {"ml": round(float(counts[s.id] * case.voxel_ml), 2), "mean_hu": mean, "sides": sides.get(s.key, "")}
    record |= {"structures": table, "missing": [k for k in KEYS if k not in table]}
    if not table:
        found.append(Finding("label", f"{record['label']}: nothing is labeled: if the scan shows a heart, remove the case or label it"))
        return
    if record["missing"]:
        found.append(Finding("structures", f"no voxels of {', '.join(record['missing'])}"))
    found += _plausible(table)
    faults = _faults(small)
    if oblique_degrees(small.affine) > OBLIQUE_DEGREES:
        # Left, front and above are told along the body's axes, and what the field of view cuts by the scan's grid.
        kinds = {kind_of(f) for f in faults}
        faults = [f for f in _faults(_along_axes(small)) if kind_of(f) in kinds]
    # Volumes are judged above, at the scan's own resolution.
    found += [Finding("anatomy", f) for f in faults if not re.match(r"\w+ has [\d.]+ mL, outside", f)]


def _faults(small: Case) -> list[str]:
    """What `phantom.check` finds wrong with the structures that an overview shows: a few voxels of a scan may lie between its own."""
    assert small.label is not None
    seen = np.bincount(small.label.ravel(), minlength=LABEL_COUNT)
    return anatomy_faults(around_labels(small), small.spacing, structures=tuple(s.key for s in STRUCTURES if seen[s.id]))


def _along_axes(case: Case) -> Case:
    """The label map on a grid along the body's axes, in whose directions the checks of anatomy are told, with voxels of the smallest edge."""
    assert case.label is not None
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in case.label.shape], indexing="ij")).reshape(3, -1)
    at = case.affine[:3, :3] @ corners + case.affine[:3, 3:]
    edge, low = min(case.spacing), at.min(axis=1)
    affine = np.diag([edge, edge, edge, 1.0])
    affine[:3, 3] = low
    x, y, z = (int(n) for n in np.ceil((at.max(axis=1) - low) / edge) + 1)
    label = label_to_grid(case.label, case.affine, affine, (x, y, z))
    return replace(case, image=np.zeros(label.shape, np.int16), label=label, affine=affine)


def _plausible(table: dict[str, dict[str, Any]]) -> list[Finding]:
    """Volumes, mean HU and contact with the border."""
    found = []
    for s in STRUCTURES:
        row = table.get(s.key)
        if row is None:
            continue
        low, high = s.volume_range_ml
        if row["ml"] > high or (row["ml"] < low and not row["sides"]):
            found.append(Finding("volume", f"{s.key} has {row['ml']:.{1 if row['ml'] >= 10 else 2}f} mL, outside {low:g} to {high:g}"))
        if row["mean_hu"] is not None and not TISSUE_HU[0] < row["mean_hu"] < TISSUE_HU[1]:
            found.append(Finding("intensity", f"{s.key} has {row['mean_hu']:.0f} HU on average: do scan and label map belong together?"))
    cut = {k: table[k]["sides"] for k in CHAMBERS if k in table and table[k]["sides"]}
    if cut:
        sides = ", ".join(SIDE_NAMES[c] for c in SIDE_NAMES if any(c in v for v in cut.values()))
        found.append(Finding("view", f"the heart is cut by the scan's border ({sides}): {', '.join(cut)}"))
    return found


def _draw(small: Case, path: Path) -> None:
    """Save the axial and the coronal slice through the middle of what is labeled, or of the scan."""
    label = np.zeros(small.image.shape, np.uint8) if small.label is None else small.label
    middle = []
    for axis in range(3):
        hit = np.flatnonzero(label.any(axis=tuple({0, 1, 2} - {axis})))
        middle.append(int(hit[0] + hit[-1]) // 2 if hit.size else label.shape[axis] // 2)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle, spacing=np.array(small.spacing), axial=small.image[:, :, middle[2]].astype(np.int16), axial_label=label[:, :, middle[2]],
            coronal=small.image[:, middle[1]].astype(np.int16), coronal_label=label[:, middle[1]],
        )  # fmt: skip


def _told(path: Path, error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
