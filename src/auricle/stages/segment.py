"""Segment one scan: any grid and orientation in, the label map on that same grid out.

`stages/inference.py` says how the heart is found and looked at; here it is judged whether it is one, and the files are written. `stages/batch.py`
does this for many scans.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from auricle import __version__
from auricle.core import progress
from auricle.core.anatomy import HEART, STRUCTURES
from auricle.core.case import Case
from auricle.core.config import digest, to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json, scratch_folder, write_json
from auricle.data import dicom_seg, meshes, volume_files
from auricle.data.archive import unpacked
from auricle.data.dicom import SourceImages, source_images
from auricle.data.dicom_files import is_dicom, series_of
from auricle.data.geometry import check_axis_code
from auricle.data.nifti import write_nifti
from auricle.data.outputs import (
    VolumeRow,
    check_output,
    volumes,
    write_color_table,
    write_overlays,
    write_preview,
    write_structures,
    write_volumes_csv,
)
from auricle.data.preprocess import ModelGrid, labels_to_source, orient
from auricle.data.reading import read_scan
from auricle.phantom import check
from auricle.stages import finetune, inference
from auricle.stages.finetune import DEFAULT_MODEL, Trained
from auricle.stages.hearts import LEAST_PARTS, clean, judge
from auricle.stages.inference import Prediction

DESCRIPTION, SUMMARY = "segmentation.json", "summary.json"
"""What says that a folder holds the result of one scan, and of many."""
OUTPUTS = ("volumes.csv", "volumes.json", "preview.png", "labels.nii.gz", "labels.ctbl", "structures", "segmentation.dcm", "meshes", "heart.glb",
           "overlays")  # fmt: skip
"""What a segmentation may leave beside its description."""
LabelFormat = Literal["nifti", "nifti-structures", "dicom-seg", "stl", "glb", "overlays"]
DISK_BYTES = 5
"""Bytes that the outputs of a scan take for each of its voxels, at most; usually far less, since label maps compress well."""


@dataclass(frozen=True)
class Options:
    """How scans are read, segmented and written."""

    formats: Annotated[tuple[LabelFormat, ...], tyro.conf.arg(name="format")] = ("nifti",)
    """nifti (one label map), nifti-structures (a mask each), dicom-seg (of a DICOM series, also from a .zip), stl, glb (meshes), overlays (PNGs of
    axial slices). Several may follow, so name the scans before."""
    fast: bool = False
    """Search the heart with coarse voxels and look closely at it alone: faster where the scan is wide; vessels far from the heart lose most."""
    mirror: bool = False
    """Average over mirror images too: four times the time, for a model that was trained on them."""
    keep_patient: bool = False
    """Copy name, id and all else of the patient and study into the DICOM segmentation; a pseudonym otherwise."""
    series: str | None = None
    """Series instance UID or number, where a folder holds several."""
    assume_orientation: str | None = None
    """Axis code such as RAS for a file that states no orientation."""
    volume_index: int | None = None
    """Which volume of a 4D file."""
    not_hu: bool = False
    """Accept values that do not look like HU."""

    def __post_init__(self) -> None:
        check_axis_code(self.assume_orientation)
        if not self.formats:
            raise ValueError("--format needs at least one format")
        if self.keep_patient and "dicom-seg" not in self.formats:
            raise ValueError("--keep-patient is about DICOM segmentations: give --format dicom-seg too")


@dataclass(frozen=True)
class SegmentStage:
    """Which scan is segmented, and by what."""

    scan: Path
    """NIfTI file, folder of a DICOM series, or one file of it."""
    model: Path
    """Folder of a fine-tuned segmenter, as `resolve_model` finds it."""
    options: Options = field(default_factory=Options)
    """How it is read, segmented and written."""
    overwrite: bool = False
    """Replace the output of an earlier run."""


@dataclass(frozen=True)
class Segmentation:
    """What was found in one scan."""

    case: Case
    """The scan with its label map, on its own grid."""
    heart_found: bool
    confidence: float
    """Mean probability of the labels given to myocardium and chambers, 0..1."""
    notices: tuple[str, ...]
    confidences: Mapping[str, float] = field(default_factory=dict)
    """The same of each structure that was found, by key."""
    findings: tuple[str, ...] = ()
    """What is unusual about the anatomy of the label map at the model's spacing, in words (`auricle.phantom.check`)."""

    def rows(self) -> list[VolumeRow]:
        """Volume, mean HU, contact with the scan's edge and confidence of every structure."""
        assert self.case.label is not None
        return volumes(self.case.label, self.case.affine, self.case.image, self.confidences)


def run(config: SegmentStage, out: Path) -> bool:
    """Write ``volumes.csv``, ``volumes.json``, ``preview.png``, ``segmentation.json`` and what the formats ask for into `out`.

    What lies there already, of the same scan, weights, options and version, is kept. Returns whether a heart was found. Raises `InputError` for a
    scan or a model that cannot be used, before anything is written.
    """
    if not config.scan.exists():
        raise InputError(f"{config.scan}: no such file or folder")
    wanted = fingerprint(volume_files.content_digest(config.scan, out), config.model, config.options)
    if made_from(out) == wanted:
        progress.report(f"{out}: is segmented")
        return bool(read_json(out / DESCRIPTION)["heart_found"])
    check_output(out, overwrite=config.overwrite, inside=True)
    if (out / SUMMARY).exists():
        raise InputError(f"{out}: holds the results of many scans; choose another --out for one")
    check_replaceable(out)
    check_packages(config.options.formats)
    model = load(config.model, config.options)
    # Within a folder that is there: it may be a disk of its own, where files cannot be moved to from beside it.
    with scratch_folder(out / "segmentation" if out.is_dir() else out) as scratch:
        return segment_file(model, config, out, scratch, {"fingerprint": wanted}).heart_found


def made_from(folder: Path) -> str | None:
    """The `fingerprint` of the result in a folder; None where there is none, or not all of it."""
    return _described(folder).get("fingerprint") if (folder / "volumes.csv").exists() else None


def _described(folder: Path) -> dict[str, Any]:
    """The description of the result in a folder; empty where there is none that a segmentation wrote."""
    try:
        described = read_json(folder / DESCRIPTION)
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def check_replaceable(out: Path) -> None:
    """Raise `InputError` where `out` is a file, or holds something of an output's name that no segmentation wrote."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give the name of a folder")
    own = [name for name in OUTPUTS if (out / name).exists()]
    if own and not {"heart_found", "replacing"} & _described(out).keys():
        raise InputError(f"{out}: holds {own[0]}, which no segmentation wrote, so it is not replaced; choose another --out")


def load(folder: Path, options: Options) -> Trained:
    """The segmenter; raises `InputError` where it cannot do what is asked for."""
    model = finetune.load(folder)
    if options.mirror and not model.mirrored:
        raise InputError(f"--mirror: {folder} was not trained on mirror images, so it cannot know them")
    return model


def segment_file(model: Trained, config: SegmentStage, out: Path, scratch: Path, facts: Mapping[str, str]) -> Segmentation:
    """Read, segment and write one scan; `scratch` is the folder that becomes `out`, `facts` go to ``segmentation.json``."""
    o = config.options
    with _source(config.scan, o.series) if "dicom-seg" in o.formats else nullcontext() as source:
        if source is not None:
            dicom_seg.check_source(source, _algorithm(config.model), o.keep_patient)
        case, notices = read_scan(
            config.scan, series=o.series, assume_orientation=o.assume_orientation, volume_index=o.volume_index, not_hu=o.not_hu
        )
        check_output(out, size=int(case.image.size * DISK_BYTES), overwrite=config.overwrite, inside=True)
        for text in notices:
            progress.notice(text)
        result = segment(model, case, tuple(notices), mirror=o.mirror, fast=o.fast)
        rows = result.rows()
        for text in _remarks(result, rows):
            progress.notice(f"{config.scan}: {text}")
            result = replace(result, notices=(*result.notices, f"{config.scan}: {text}"))
        _write(result, rows, config, source, out, scratch, facts)
    return result


def segment(model: Trained, case: Case, notices: tuple[str, ...] = (), *, mirror: bool = False, fast: bool = False) -> Segmentation:
    """Segment a case in memory; the label map of the result lies on the case's own grid."""
    seen = inference.predict(model, case, mirror=mirror, fast=fast)
    shape = finetune.triple(case.image.shape)
    if seen is None:
        return Segmentation(replace(case, label=np.zeros(shape, np.uint8)), False, 0.0, notices)
    confidences = {s.key: float(seen.probabilities[s.id][seen.label == s.id].mean()) for s in STRUCTURES if (seen.label == s.id).any()}
    seen = inference.continued(seen, shape, case.affine)
    coarse = _in_view(seen, case)
    label, found, confidence = _returned(seen, shape, case.affine, model.grid.spacing, model.parts)
    if not found:
        return Segmentation(replace(case, label=label), False, confidence, notices)
    assert coarse.label is not None
    faults = tuple(check(coarse.label, coarse.spacing, structures=model.structures))
    return Segmentation(replace(case, label=label), True, confidence, notices, confidences, faults)


def _in_view(seen: Prediction, case: Case) -> Case:
    """What was seen as a case on the model's grid, without the layers beyond the scan: what its edge cuts reaches the edge there, too."""
    corners = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in case.image.shape])).reshape(3, -1)
    step = np.linalg.inv(seen.affine) @ case.affine
    index = step[:3, :3] @ corners + step[:3, 3:]
    low = np.clip(np.ceil(index.min(1) - 0.5), 0, None).astype(int)
    high = np.minimum(np.floor(index.max(1) + 0.5).astype(int) + 1, seen.label.shape)
    part = tuple(slice(a, max(a + 1, b)) for a, b in zip(low, high, strict=True))
    affine = seen.affine.copy()
    affine[:3, 3] = (seen.affine @ np.append(low, 1.0))[:3]
    return orient(Case(case.id, seen.label[part], affine, seen.label[part]))


def to_scan(
    probabilities: NDArray[np.float32], affine: NDArray[np.float64], shape: tuple[int, int, int], scan_affine: NDArray[np.float64], grid: ModelGrid,
    parts: int = LEAST_PARTS,
) -> tuple[NDArray[np.uint8], bool, float]:  # fmt: skip
    """From probabilities at the model's spacing to the cleaned label map of the scan, for whoever runs the network elsewhere.

    A heart shows at least so many `parts` of the five.

    Returns:
        Label map of `shape`, empty where no heart was found; whether one was; the confidence in it.
    """
    seen = Prediction(probabilities, affine, clean(inference.winners(probabilities), grid.spacing))
    seen = inference.continued(seen, shape, scan_affine)
    return _returned(seen, shape, scan_affine, grid.spacing, parts)


def _returned(
    seen: Prediction, shape: tuple[int, int, int], affine: NDArray[np.float64], spacing: tuple[float, float, float], parts: int
) -> tuple[NDArray[np.uint8], bool, float]:
    """What was seen on the scan's grid, if it is a heart, and the confidence in it; probabilities are changed in place."""
    found, confidence = judge(seen.label, seen.probabilities, spacing, parts)
    if not found:
        return np.zeros(shape, np.uint8), False, confidence
    # What cleaning removed must not come back when probabilities are interpolated; the structure around a speck may fill its place.
    seen.probabilities[1:][:, (seen.label == 0) & (inference.winners(seen.probabilities) > 0)] = 0.0
    return labels_to_source(seen.probabilities, seen.affine, shape, affine), True, confidence


def resolve_model(folder: Path | None) -> Path:
    """The segmenter in `folder`: a fine-tuned model or a bundle itself, or that of a whole run; without a folder the one that ships.

    Of a run's arms it is `ours-plus`, which is there for few cases alone, else `ours`, else the baseline: what scores on test cases say decides
    nothing here.

    Raises `InputError` where there is none.
    """
    if folder is None:
        return DEFAULT_MODEL
    if folder.suffix.lower() == ".zip" and folder.is_file():
        raise InputError(f"--model {folder}: unpack it first and name the folder that is in it")
    for candidate in (folder, folder / "models", *(folder / "finetune" / arm for arm in ("ours-plus", "ours", "baseline"))):
        if (candidate / "model.json").exists():
            return candidate
    raise InputError(f"--model {folder}: no fine-tuned segmenter in it; `auricle run` makes one, and without --model the one that ships is taken")


def check_packages(formats: tuple[LabelFormat, ...]) -> None:
    """Raise `InputError` before anything is computed where a format needs a package that is not installed."""
    if "dicom-seg" in formats:
        dicom_seg.check_installed()
    if {"stl", "glb"} & set(formats):
        meshes.check_installed()


def fingerprint(scan: str, model: Path, options: Options) -> str:
    """What a result follows from: the scan's content, the weights, the options and the version."""
    return digest({"scan": scan, "model": finetune.identity(model), "options": to_json(options), "version": __version__})


def _algorithm(model: Path) -> dicom_seg.Algorithm:
    return dicom_seg.Algorithm(f"auricle {model.resolve().name}", __version__, finetune.identity(model))


@contextmanager
def _source(scan: Path, series: str | None) -> Iterator[SourceImages]:
    """The images that a DICOM segmentation refers to; those of a .zip exist inside the `with` alone.

    Raises `InputError` where the scan is no DICOM series.
    """
    if not scan.exists():
        raise InputError(f"{scan}: no such file or folder")
    if scan.is_dir() or scan.name == "DICOMDIR":
        yield source_images(scan if scan.is_dir() else scan.parent, series)
    elif volume_files.scan_ending(scan) == ".zip":
        with unpacked(scan) as folder:
            if any(volume_files.ending(p) for p in folder.rglob("*")):
                what = "must refer to the images of a DICOM series, and this archive holds a volume file"
                raise InputError(f"{scan}: --format dicom-seg {what}; pack the series alone")
            try:
                yield source_images(folder, series)
            except InputError as error:
                raise InputError(str(error).replace(str(folder), str(scan))) from None
    elif is_dicom(scan):
        yield source_images(scan.parent, series_of(scan) if series is None else series)
    else:
        what = "must refer to the images of a DICOM series, which this file is not"
        raise InputError(f"{scan}: --format dicom-seg {what}; give the DICOM series, or take --format nifti")


def _remarks(result: Segmentation, rows: list[VolumeRow]) -> list[str]:
    """What the user should know about the heart in the scan."""
    if not result.heart_found:
        return ["no heart was found; the label map is empty"]
    cut = [row.structure for row in rows if row.partial and row.structure in HEART]
    remarks = [f"the field of view cuts the heart ({', '.join(cut)}); these volumes are parts of the true ones"] if cut else []
    if result.findings:
        more = f" and {len(result.findings) - 1} more (findings in {DESCRIPTION})" if len(result.findings) > 1 else ""
        remarks.append(f"look at the label map, its anatomy is unusual: {result.findings[0]}{more}")
    return remarks


def _write(
    result: Segmentation, rows: list[VolumeRow], config: SegmentStage, source: SourceImages | None, out: Path, scratch: Path, facts: Mapping[str, str]
) -> None:
    """Write everything into `scratch` first: `out` appears whole or not at all."""
    case = result.case
    assert case.label is not None
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        write_volumes_csv(scratch / "volumes.csv", rows)
        write_json(scratch / "volumes.json", [row.to_json() for row in rows])
        write_preview(scratch / "preview.png", case, case.label)
        _write_formats(result, config, source, scratch)
        write_json(scratch / DESCRIPTION, {
            "heart_found": result.heart_found, "confidence": round(result.confidence, 4),
            "structures": {k: round(v, 4) for k, v in result.confidences.items()}, "partial": [r.structure for r in rows if r.partial],
            "notices": list(result.notices), "findings": list(result.findings), "model": finetune.identity(config.model),
            "options": to_json(config.options),
            "version": __version__, **facts,
        })  # fmt: skip
        if out.is_dir() and not config.overwrite:
            raise InputError(f"{out}: another process wrote it just now; choose another --out")
        if out.is_dir():
            _replace(scratch, out)
        else:
            os.replace(scratch, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(scratch: Path, out: Path) -> None:
    """Put new outputs in the place of old ones, those of other formats included.

    Until all are there the description says that they are being replaced: killed meanwhile, the same command does it again.
    """
    write_json(out / DESCRIPTION, {"replacing": True})
    new = {path.name for path in scratch.iterdir()}
    for name in OUTPUTS:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        elif name not in new:
            (out / name).unlink(missing_ok=True)
    for path in sorted(scratch.iterdir(), key=lambda p: p.name == DESCRIPTION):
        os.replace(path, out / path.name)


def _write_formats(result: Segmentation, config: SegmentStage, source: SourceImages | None, folder: Path) -> None:
    """The label map in each format that was asked for."""
    case, formats = result.case, config.options.formats
    assert case.label is not None
    if "nifti" in formats:
        write_nifti(folder / "labels.nii.gz", case.label, case.affine, dtype=np.uint8)
        write_color_table(folder / "labels.ctbl")
    if "nifti-structures" in formats:
        write_structures(folder / "structures", case.label, case.affine)
    if not result.heart_found:
        return  # the other formats have nothing to show, and a notice says so
    if source is not None:
        dicom_seg.write_dicom_seg(
            folder / "segmentation.dcm", case.label, case.affine, source, _algorithm(config.model), keep_patient=config.options.keep_patient
        )
    if {"stl", "glb"} & set(formats):
        surfaces = meshes.surfaces(case.label, case.affine)
        if "stl" in formats:
            meshes.write_stl(folder / "meshes", surfaces)
        if "glb" in formats:
            meshes.write_glb(folder / "heart.glb", surfaces)
    if "overlays" in formats:
        write_overlays(folder / "overlays", case, case.label)
