"""Scan a virtual patient: any field of view and spacing, the same patient in all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from auricle.core.anatomy import ID, KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.phantom.acquisition import acquire
from auricle.phantom.anatomy import CALIBRATION_MM, Anatomy, build_anatomy, shape_noise, warp
from auricle.phantom.checks import check
from auricle.phantom.heart import build_heart, clean
from auricle.phantom.metal import metal_field
from auricle.phantom.motion import Mobility, stepped
from auricle.phantom.painting import paint_patient
from auricle.phantom.patient import Patient, draw_patient
from auricle.phantom.physics import Size, Triple, noise_sd, over_chunks
from auricle.phantom.scanner import scanner_attributes
from auricle.phantom.shapes import Field, Grid

SLAB_VOXELS = 600_000
"""Voxels that are worked on at a time: bounds the memory of the fields."""
TRIES = 8
"""A virtual patient whose heart fails its checks is drawn at most this often."""


def anatomy_faults(anatomy: Anatomy) -> list[str]:
    """What `check` finds wrong with a patient on the calibration grid, which does not depend on the scan."""
    label = np.ascontiguousarray(anatomy.coarse_label.transpose(2, 1, 0)[::-1, ::-1])
    found = check(label, (CALIBRATION_MM,) * 3, targets=anatomy.patient.volumes_ml)
    faces = np.concatenate([np.moveaxis(label, k, 0)[[0, -1]].ravel() for k in range(3)])
    # Here no field of view excuses a chamber that is cut.
    return found + [f"{k} is larger than the phantom's heart may be" for k in KEYS if k not in ("AO", "PA") and (faces == ID[k]).any()]


def patient_seed(seed: int, index: int, attempt: int = 0) -> int:
    """Seed of patient `index` of cohort `seed`, below 2^53 so that JSON readers keep it exactly."""
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and index {index} must not be negative")
    high, low = np.random.SeedSequence([seed, index, attempt]).generate_state(2, np.uint32).tolist()
    return int(high << 21 | low >> 11)


def _paint_slabs(anatomy: Anatomy, grid: Grid, mobility: Mobility | None, workers: int) -> tuple[Field, Any, Field | None]:
    """The sharp, noise-free image, the labels and any metal on an unwarped grid, all ``[z, y, x]``."""
    s = anatomy.patient.scanner
    image, label = np.empty(grid.shape, np.float32), np.empty(grid.shape, np.uint8)
    metal = np.empty(grid.shape, np.float32) if s.metal else None

    def work(start: int, stop: int) -> None:
        slab = grid.slab(start, stop)
        slab = stepped(anatomy, mobility, slab) if mobility is not None and s.step_mm > 0 else warp(anatomy.random, slab)
        shaping = shape_noise(anatomy.random, slab)
        heart = build_heart(anatomy.patient, anatomy.marks, anatomy.vessels, slab, shaping, anatomy.offsets)
        label[start:stop] = heart.labels()
        image[start:stop] = paint_patient(anatomy, slab, heart)
        if metal is not None:
            metal[start:stop] = metal_field(anatomy, slab)

    over_chunks(work, grid.shape[0], max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2])), workers)
    clean(label)
    return image, label, metal


def _attributes(anatomy: Anatomy, spacing: Triple, offset: Triple) -> dict[str, Any]:
    p = anatomy.patient
    return {
        "source": "virtual patient", "seed": p.seed, "sex": p.sex, "phase": p.phase, "contrast": p.contrast,
        "pathology": list(p.pathology), "laa_morphology": p.laa_morphology, "veins": p.veins,
        "volumes_ml": {k: round(v, 2) for k, v in p.volumes_ml.items()},
        "hu": {k: round(p.hu[k], 1) for k in KEYS}, "noise_sd_hu": round(noise_sd(p.scanner.noise_sd_hu, spacing), 2),
        **scanner_attributes(p.scanner), "scan_center_mm": [float(v) for v in offset],
        "heart_center_mm": [round(float(v), 2) for v in anatomy.center * [-1, -1, 1]],
    }  # fmt: skip


def _scan(anatomy: Anatomy, size: Size, spacing: Triple, offset: Triple, workers: int, noise: bool, name: str) -> Case:
    if min(size) < 1 or min(spacing) <= 0:
        raise InputError(f"size {size} and spacing {spacing} must be positive")
    x, y, z = offset
    center = anatomy.center + np.array([-x, -y, z])
    grid = Grid.centered((size[2], size[1], size[0]), (spacing[2], spacing[1], spacing[0]), center[::-1])
    scanner = anatomy.patient.scanner
    mobility = Mobility(anatomy) if scanner.motion_mm > 0 or scanner.step_mm > 0 else None
    image, label, metal = _paint_slabs(anatomy, grid, mobility, workers)
    hu = acquire(anatomy, grid, image, label, metal, mobility, workers=workers, noise=noise)
    affine = np.diag([*spacing, 1.0]).astype(np.float64)
    affine[:3, 3] = -float(grid.x[-1]), -float(grid.y[-1]), float(grid.z[0])
    to_ras = (slice(None, None, -1), slice(None, None, -1), slice(None))
    return Case(
        id=name, affine=affine, attributes=_attributes(anatomy, spacing, offset),
        image=np.ascontiguousarray(hu.transpose(2, 1, 0)[to_ras]),
        label=np.ascontiguousarray(label.transpose(2, 1, 0)[to_ras]),
    )  # fmt: skip


def render(
    patient: Patient,
    size: Size,
    spacing: Triple,
    center_offset: Triple = (0.0, 0.0, 0.0),
    *,
    workers: int = 1,
    noise: bool = True,
) -> Case:
    """Scan `patient` with `size` voxels (x, y, z) of `spacing` mm, centered `center_offset` mm (RAS) from the heart's center.

    Returns int16 HU, labels with the project's ids, and a diagonal RAS+ affine whose origin is the patient's own, so scans
    of one patient on different grids lie on each other. Only the noise depends on the grid, and artifacts of what lies
    outside the view are missing. `noise=False` leaves out the noise and nothing else. Raises `InputError` for
    a size or spacing that is not positive.
    """
    return _scan(build_anatomy(patient), size, spacing, center_offset, workers, noise, f"patient-{patient.seed}")


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
    pathology: bool | Sequence[str] | None = None,
    prevalence: Mapping[str, float] | None = None,
    workers: int = 1,
) -> Case:
    """Patient `index` of cohort `seed`: the same person whatever the grid, the cohort's length or the workers.

    A patient whose heart fails `auricle.phantom.checks.check` is redrawn with a sub-seed; the attribute `attempt` counts.
    Arguments after `center_offset` are those of `draw_patient`. Raises `InputError` if `TRIES` patients in a row fail.
    """
    for attempt in range(TRIES):
        drawn = draw_patient(
            patient_seed(seed, index, attempt),
            sex=sex,
            contrast=contrast,
            phase=phase,
            metal=metal,
            pathology=pathology,
            prevalence=prevalence,
        )
        anatomy = build_anatomy(drawn)
        faults = anatomy_faults(anatomy)
        if not faults:
            case = _scan(anatomy, size, spacing, center_offset, workers, True, f"virtual-{seed}-{index:04d}")
            return Case(case.id, case.image, case.affine, case.label, {**case.attributes, "attempt": attempt})
    raise InputError(
        f"patient {index} of cohort {seed}: {TRIES} draws failed the checks, the last: {faults[0]}; choose another seed"
    )
