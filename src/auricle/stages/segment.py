"""Segment one scan: any grid and orientation in, the label map on that same grid out.

The scan is resampled to the model's spacing and the window of the model slides over it. Where the heart lies is then known, and a second pass
looks at it the way training did, centered; its probabilities replace the first ones inside its window.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core import progress
from auricle.core.anatomy import ID, LABEL_COUNT, STRUCTURES
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.files import write_json
from auricle.data.nifti import write_nifti
from auricle.data.outputs import check_output, volumes, write_color_table, write_preview, write_volumes_csv
from auricle.data.preprocess import AIR_HU, ModelGrid, heart_center, labels_to_source, to_grid, to_network
from auricle.data.reading import read_scan
from auricle.stages import finetune
from auricle.stages.finetune import Trained

HEART = ("MYO", "LA", "LV", "RA", "RV")
LEAST_HEART_ML = 60.0
"""Less myocardium and chambers than this is not taken for a heart, not even for one that the field of view cuts."""
LEAST_PARTS, PART_ML = 4, 5.0
"""A heart shows at least four of its five parts with 5 mL each: below the diaphragm, muscle and ventricles are seen where there are none, but
hardly ever an atrium (`python -m benchmarks.no_heart`)."""
DEFAULT_MODEL = Path(__file__).parents[1] / "weights" / "any-scan"
"""The segmenter that ships with the package (`python -m benchmarks.default_segmenter`)."""
LEAST_CONFIDENCE = 0.6
"""Mean probability of the labels given to a heart; below it nothing is claimed."""


@dataclass(frozen=True)
class SegmentStage:
    """Which scan is segmented, and by what."""

    scan: Path
    """NIfTI file, folder of a DICOM series, or one file of it."""
    model: Path
    """Folder of a fine-tuned segmenter, as `resolve_model` finds it."""
    mirror: bool = False
    """Average over mirror images too: four times the time, for a model that was trained on them."""
    series: str | None = None
    """Series instance UID or number, where a folder holds several."""
    assume_orientation: str | None = None
    """Axis code such as RAS for a NIfTI file that states no orientation."""
    volume_index: int | None = None
    """Which volume of a 4D file."""
    not_hu: bool = False
    """Accept values that do not look like HU."""
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


def run(config: SegmentStage, out: Path) -> Segmentation:
    """Write ``labels.nii.gz``, ``labels.ctbl``, ``volumes.csv``, ``preview.png`` and ``segmentation.json`` into `out`.

    Raises `InputError` for a scan or a model that cannot be used, before anything is written.
    """
    check_output(out, overwrite=config.overwrite)
    model = finetune.load(config.model)
    if config.mirror and not model.mirrored:
        raise InputError(f"--mirror: {config.model} was not trained on mirror images, so it cannot know them")
    case, notices = read_scan(
        config.scan, series=config.series, assume_orientation=config.assume_orientation,
        volume_index=config.volume_index, not_hu=config.not_hu,
    )  # fmt: skip
    check_output(out, size=int(case.image.size * 2), overwrite=config.overwrite)
    for text in notices:
        progress.notice(text)
    result = segment(model, case, tuple(notices), mirror=config.mirror)
    if not result.heart_found:
        progress.notice(f"{config.scan}: no heart was found; the label map is empty")
    _write(result, config, out)
    return result


def segment(model: Trained, case: Case, notices: tuple[str, ...] = (), *, mirror: bool = False) -> Segmentation:
    """Segment a case in memory; the label map of the result lies on the case's own grid."""
    grid = ModelGrid(model.grid.size, model.grid.spacing)
    volume, affine = model_volume(case.image, case.affine, grid)
    probabilities = look_twice(lambda part: _slide(model, part, mirror), volume, grid)
    label, found, confidence = to_scan(probabilities, affine, _triple(case.image.shape), case.affine, grid)
    return Segmentation(Case(case.id, case.image, case.affine, label, case.attributes), found, confidence, notices)


def look_twice(
    slide: Callable[[NDArray[np.float32]], NDArray[np.float32]], volume: NDArray[np.float32], grid: ModelGrid, outside: float = AIR_HU
) -> NDArray[np.float32]:
    """Probabilities (9, X, Y, Z) of what `model_volume` made, by a first pass over all of it and a second one over the heart alone.

    `slide` gives the probabilities of any volume that is at least one window large; `outside` is the value of air in its units. The second pass
    sees the heart centered on the model grid; its outer eighth fades into the first pass.
    """
    probabilities = slide(volume)
    center = heart_center(clean(probabilities.argmax(0).astype(np.uint8), grid), np.eye(4))
    if center is None:
        return probabilities
    offset = np.rint(center - (np.array(grid.size) - 1) / 2).astype(int)
    here, there = [], []
    for o, n, total in zip(offset, grid.size, volume.shape, strict=True):
        here.append(slice(max(o, 0), min(o + n, total)))
        there.append(slice(max(-o, 0), max(-o, 0) + here[-1].stop - here[-1].start))
    window = np.full(grid.size, outside, np.float32)
    window[tuple(there)] = volume[tuple(here)]
    second = slide(window)
    ramps = [np.clip((np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / (n / 8), 0, 1).astype(np.float32) for n in grid.size]
    weight = ramps[0][:, None, None] * ramps[1][None, :, None] * ramps[2][None, None, :]
    first, w = probabilities[(slice(None), *here)], weight[tuple(there)]
    first += w * (second[(slice(None), *there)] - first)
    return probabilities


def to_scan(
    probabilities: NDArray[np.float32], affine: NDArray[np.float64], shape: tuple[int, int, int], scan_affine: NDArray[np.float64], grid: ModelGrid
) -> tuple[NDArray[np.uint8], bool, float]:
    """From probabilities at the model's spacing to the cleaned label map of the scan.

    Returns:
        Label map of `shape`, empty where no heart was found; whether one was; the confidence in it.
    """
    label = clean(probabilities.argmax(0).astype(np.uint8), grid)
    found, confidence = _judge(label, probabilities, grid)
    if not found:
        return np.zeros(shape, np.uint8), False, confidence
    # What cleaning removed must not come back when probabilities are interpolated.
    probabilities[1:][:, (label == 0) & (probabilities.argmax(0) > 0)] = 0.0
    return labels_to_source(probabilities, affine, shape, scan_affine), True, confidence


def clean(label: NDArray[np.uint8], grid: ModelGrid) -> NDArray[np.uint8]:
    """Keep the largest piece of every structure, near the largest heart; of the aorta and pulmonary artery all pieces of 1 mL or more."""
    heart = np.isin(label, [ID[k] for k in HEART])
    pieces, count = ndimage.label(ndimage.binary_dilation(heart, iterations=1))
    if count == 0:
        return np.zeros_like(label)
    main = pieces == 1 + int(np.argmax(np.bincount(pieces[heart], minlength=count + 1)[1:]))
    reach = max(1, round(30.0 / min(grid.spacing)))
    near = ndimage.binary_dilation(main, iterations=reach)
    voxel_ml = float(np.prod(grid.spacing)) / 1000.0
    result = np.zeros_like(label)
    for s in STRUCTURES:
        parts, count = ndimage.label((label == s.id) & (main if s.key in HEART else label == s.id))
        if count == 0:
            continue
        touching = np.zeros(count + 1, bool)
        touching[np.unique(parts[near])] = True
        sizes = np.bincount(parts.ravel())[1:] * touching[1:]
        keep = (sizes == sizes.max()) & (sizes > 0)
        if s.key in ("AO", "PA"):
            keep |= sizes * voxel_ml >= 1.0
        result[np.concatenate([[False], keep])[parts]] = s.id
    return result


def resolve_model(folder: Path | None) -> Path:
    """The segmenter in `folder`: a fine-tuned model or a bundle itself, or the arm `ours` of a whole run; without a folder the one that ships.

    Raises `InputError` where there is none.
    """
    if folder is None:
        return DEFAULT_MODEL
    if folder.suffix == ".zip" and folder.is_file():
        raise InputError(f"--model {folder}: unpack it first and name the folder that is in it")
    for candidate in (folder, folder / "models", folder / "finetune" / "ours", folder / "finetune" / "baseline"):
        if (candidate / "model.json").exists():
            return candidate
    raise InputError(f"--model {folder}: no fine-tuned segmenter in it; `auricle run` makes one, and without --model the one that ships is taken")


def model_volume(
    image: NDArray[Any], scan_affine: NDArray[np.float64], grid: ModelGrid
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:  # fmt: skip
    """The whole scan (HU) at the model's spacing, axis-aligned RAS+, at least one window large; with its affine."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in image.shape])).reshape(3, -1)
    world = scan_affine[:3, :3] @ corners + scan_affine[:3, 3:]
    low, high = world.min(1), world.max(1)
    # Less than a thousandth of a voxel is rounding, which must not move the grid by half a voxel.
    shape = np.maximum(np.ceil((high - low) / np.array(grid.spacing) - 1e-3).astype(int), grid.size)
    covering = ModelGrid(_triple(shape), grid.spacing)
    affine = covering.affine((low + high) / 2)
    return to_grid(image, scan_affine, affine, covering.size, outside=AIR_HU), affine


def _slide(model: Trained, volume: NDArray[np.float32], mirror: bool) -> NDArray[np.float32]:
    """Probabilities (9, X, Y, Z) of the whole volume."""
    views = int(np.prod([max(1, -(-2 * (n - w) // w) + 1) for n, w in zip(volume.shape, model.window, strict=True)]))
    done = [0]
    with progress.bar("segment", views + 1) as update:

        def seen() -> None:
            done[0] += 1
            update(min(done[0], views), {})

        image = torch.from_numpy(to_network(volume))[None, None]
        result: NDArray[np.float32] = finetune.probabilities(model.network, image, model.window, mirror, seen)[0].numpy()
        update(views + 1, {})
    return result


def _judge(label: NDArray[np.uint8], probabilities: NDArray[np.float32], grid: ModelGrid) -> tuple[bool, float]:
    """Whether this is a heart (volume, parts, confidence), and the confidence."""
    heart = np.isin(label, [ID[k] for k in HEART])
    if not heart.any():
        return False, 0.0
    voxel_ml = float(np.prod(grid.spacing)) / 1000.0
    counts = np.bincount(label.ravel(), minlength=LABEL_COUNT) * voxel_ml
    confidence = float(probabilities.max(0)[heart].mean())
    parts = sum(counts[ID[k]] >= PART_ML for k in HEART)
    return bool(heart.sum() * voxel_ml >= LEAST_HEART_ML and parts >= LEAST_PARTS and confidence >= LEAST_CONFIDENCE), confidence


def _write(result: Segmentation, config: SegmentStage, out: Path) -> None:
    """Write everything beside `out` first: it appears whole or not at all."""
    case = result.case
    assert case.label is not None
    folder = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        folder.mkdir(parents=True)
        write_nifti(folder / "labels.nii.gz", case.label, case.affine, dtype=np.uint8)
        write_color_table(folder / "labels.ctbl")
        rows = volumes(case.label, case.affine, case.image)
        write_volumes_csv(folder / "volumes.csv", rows)
        write_preview(folder / "preview.png", case, case.label)
        write_json(folder / "segmentation.json", {
            "heart_found": result.heart_found, "confidence": round(result.confidence, 4), "notices": list(result.notices),
            "model": finetune.identity(config.model),
        })  # fmt: skip
        if out.is_dir():
            for path in sorted(folder.iterdir()):
                os.replace(path, out / path.name)
        else:
            os.replace(folder, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _triple(shape: Any) -> tuple[int, int, int]:
    x, y, z = (int(n) for n in shape)
    return x, y, z
