"""Scan a virtual patient: any field of view and spacing, the same patient in all of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from auricle.core.anatomy import KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.phantom.anatomy import CALIBRATION_MM, Anatomy, build_anatomy, shape_noise, warp
from auricle.phantom.checks import check
from auricle.phantom.heart import build_heart, clean
from auricle.phantom.metal import add_metal, metal_field
from auricle.phantom.painting import paint_patient
from auricle.phantom.patient import Patient, draw_patient, stream
from auricle.phantom.physics import beat, correlated_noise, noise_map, noise_sd, point_spread, to_hu
from auricle.phantom.shapes import Field, Grid

SLAB_VOXELS = 600_000
"""Voxels that are worked on at a time: bounds the memory of the fields."""
HEART_RADIUS_MM = 55.0
"""Within this distance of its center the heart moves fully."""
TRIES = 8
"""A virtual patient whose heart fails its checks is redrawn at most this often."""

Triple = tuple[float, float, float]
Size = tuple[int, int, int]


def anatomy_faults(anatomy: Anatomy) -> list[str]:
    """What `check` finds wrong with a patient on the calibration grid, which does not depend on the scan."""
    label = np.ascontiguousarray(anatomy.coarse_label.transpose(2, 1, 0)[::-1, ::-1])
    return check(label, (CALIBRATION_MM,) * 3, targets=anatomy.patient.volumes_ml)


def patient_seed(seed: int, index: int, attempt: int = 0) -> int:
    """Seed of patient `index` of cohort `seed`, below 2^53 so that JSON readers keep it exactly."""
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and index {index} must not be negative")
    high, low = np.random.SeedSequence([seed, index, attempt]).generate_state(2, np.uint32).tolist()
    return int(high << 21 | low >> 11)


def _paint_slabs(anatomy: Anatomy, grid: Grid, workers: int) -> tuple[Field, Any]:
    """The sharp, noise-free image and the labels on an unwarped grid, both ``[z, y, x]``."""
    image, label = np.empty(grid.shape, np.float32), np.empty(grid.shape, np.uint8)
    step = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))

    def work(start: int) -> None:
        stop = min(start + step, grid.shape[0])
        slab = warp(anatomy.random, grid.slab(start, stop))
        shaping = shape_noise(anatomy.random, slab)
        heart = build_heart(anatomy.patient, anatomy.marks, anatomy.vessels, slab, shaping, anatomy.offsets)
        label[start:stop] = heart.labels()
        image[start:stop] = paint_patient(anatomy, slab, heart, shaping["lobes"])

    starts = range(0, grid.shape[0], step)
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, starts))
    else:
        for start in starts:
            work(start)
    clean(label, grid.voxel_ml)
    return image, label


def _acquire(anatomy: Anatomy, grid: Grid, image: Field) -> Any:
    """Blur, metal and noise; returns int16 HU ``[z, y, x]``."""
    p = anatomy.patient
    if p.motion_mm > 0:
        center = anatomy.center
        box = grid.box(center - 2 * HEART_RADIUS_MM, center + 2 * HEART_RADIUS_MM)
        z, y, x = (v[b] - float(c) for v, b, c in zip((grid.z, grid.y, grid.x), box, center[::-1], strict=True))
        away = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2) - HEART_RADIUS_MM
        beat(image, grid, box, away, anatomy.marks.axis, p.motion_mm)
    image = point_spread(image, grid.spacing)
    if p.metal:
        occupancy: Field = np.clip(0.5 - metal_field(anatomy, warp(anatomy.random, grid)) / grid.voxel, 0, 1)
        add_metal(image, occupancy, grid.spacing, stream(p.seed, "metal"))
    noise = correlated_noise(grid.shape, grid.spacing, stream(p.seed, "noise"), p.nps_peak_per_mm)
    noise *= noise_map(image, grid.spacing)
    noise *= np.float32(noise_sd(p.noise_sd_hu, grid.spacing) / noise.std())
    return to_hu(image + noise)


def _attributes(anatomy: Anatomy, spacing: Triple, offset: Triple) -> dict[str, Any]:
    p = anatomy.patient
    return {
        "source": "virtual patient", "seed": p.seed, "sex": p.sex, "phase": p.phase, "contrast": p.contrast,
        "metal": list(p.metal), "laa_morphology": p.laa_morphology,
        "volumes_ml": {k: round(v, 2) for k, v in p.volumes_ml.items()},
        "hu": {k: round(p.hu[k], 1) for k in KEYS}, "noise_sd_hu": round(noise_sd(p.noise_sd_hu, spacing), 2),
        "native_noise_sd_hu": round(p.noise_sd_hu, 2), "nps_peak_per_mm": p.nps_peak_per_mm,
        "motion_mm": round(p.motion_mm, 2), "scan_center_mm": [float(v) for v in offset],
        "heart_center_mm": [round(float(v), 2) for v in anatomy.center * [-1, -1, 1]],
    }  # fmt: skip


def _scan(anatomy: Anatomy, size: Size, spacing: Triple, offset: Triple, workers: int, name: str) -> Case:
    if min(size) < 1 or min(spacing) <= 0:
        raise InputError(f"size {size} and spacing {spacing} must be positive")
    x, y, z = offset
    center = anatomy.center + np.array([-x, -y, z])
    grid = Grid.centered((size[2], size[1], size[0]), (spacing[2], spacing[1], spacing[0]), center[::-1])
    image, label = _paint_slabs(anatomy, grid, workers)
    hu = _acquire(anatomy, grid, image)
    affine = np.diag([*spacing, 1.0]).astype(np.float64)
    affine[:3, 3] = -float(grid.x[-1]), -float(grid.y[-1]), float(grid.z[0])
    to_ras = (slice(None, None, -1), slice(None, None, -1), slice(None))
    return Case(
        id=name, affine=affine, attributes=_attributes(anatomy, spacing, offset),
        image=np.ascontiguousarray(hu.transpose(2, 1, 0)[to_ras]),
        label=np.ascontiguousarray(label.transpose(2, 1, 0)[to_ras]),
    )  # fmt: skip


def render(
    patient: Patient, size: Size, spacing: Triple, center_offset: Triple = (0.0, 0.0, 0.0), *, workers: int = 1
) -> Case:
    """Scan `patient` with `size` voxels (x, y, z) of `spacing` mm, centered `center_offset` mm (RAS) from the heart's center.

    Returns int16 HU, labels with the project's ids, and a diagonal RAS+ affine whose origin is the patient's own, so scans
    of one patient on different grids lie on each other. Only the noise depends on the grid. Raises `InputError` for
    a size or spacing that is not positive.
    """
    return _scan(build_anatomy(patient), size, spacing, center_offset, workers, f"patient-{patient.seed}")


def virtual_patient(
    seed: int,
    index: int,
    size: Size,
    spacing: Triple,
    center_offset: Triple = (0.0, 0.0, 0.0),
    *,
    sex: str | None = None,
    contrast: str | None = None,
    phase: float | None = None,
    metal: bool | Sequence[str] | None = None,
    workers: int = 1,
) -> Case:
    """Patient `index` of cohort `seed`: the same person whatever the grid, the cohort's length or the workers.

    A patient whose heart fails `auricle.phantom.checks.check` is redrawn with a sub-seed; the attribute `attempt` counts.
    Arguments after `center_offset` are those of `draw_patient`. Raises `InputError` if `TRIES` patients in a row fail.
    """
    for attempt in range(TRIES):
        drawn = draw_patient(patient_seed(seed, index, attempt), sex=sex, contrast=contrast, phase=phase, metal=metal)
        anatomy = build_anatomy(drawn)
        faults = anatomy_faults(anatomy)
        if not faults:
            case = _scan(anatomy, size, spacing, center_offset, workers, f"virtual-{seed}-{index:04d}")
            return Case(case.id, case.image, case.affine, case.label, {**case.attributes, "attempt": attempt})
    raise InputError(f"patient {index} of cohort {seed}: {TRIES} draws failed the checks, the last: {faults[0]}; choose another seed")
