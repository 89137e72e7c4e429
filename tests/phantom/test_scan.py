"""Scans of virtual patients: determinism, grids, orientation, volumes, Hounsfield units."""

import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.phantom import Patient, check, draw_patient, render, virtual_patient
from auricle.phantom import scan as scan_module
from auricle.phantom.anatomy import build_anatomy
from auricle.phantom.scan import anatomy_faults, patient_seed

WHOLE = (72, 70, 72)
COARSE = (2.5, 2.5, 2.5)


def label_of(case: Case) -> NDArray[np.uint8]:
    assert case.label is not None
    return case.label


def quiet(seed: int, **forced: object) -> Patient:
    """A patient without noise, motion, metal, calcium or reconstruction circle."""
    drawn = draw_patient(seed, metal=False, **forced)  # type: ignore[arg-type]
    still = {"noise_sd_hu": 0.0, "motion_mm": 0.0, "step_mm": 0.0, "calcified": (), "valve_calcium": False}
    return dataclasses.replace(drawn, scanner=dataclasses.replace(drawn.scanner, reconstruction_mm=None, **still))  # type: ignore[arg-type]


def center_mm(case: Case, key: str) -> NDArray[np.float64]:
    """Centroid in RAS+ mm."""
    return case.affine[:3, :3] @ np.argwhere(label_of(case) == ID[key]).mean(0) + case.affine[:3, 3]


@pytest.fixture(scope="module")
def scan() -> Case:
    return virtual_patient(2, 1, WHOLE, COARSE)


def test_same_arguments_same_scan(scan: Case) -> None:
    again = virtual_patient(2, 1, WHOLE, COARSE, workers=2)
    np.testing.assert_array_equal(scan.image, again.image)
    np.testing.assert_array_equal(scan.label, again.label)
    assert scan.attributes == again.attributes
    assert scan.id == again.id


def test_slabs_leave_no_trace(scan: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "SLAB_VOXELS", 60_000)
    again = virtual_patient(2, 1, WHOLE, COARSE)
    np.testing.assert_array_equal(scan.label, again.label)
    assert np.abs(scan.image.astype(int) - again.image).max() <= 1


def test_case_is_well_formed(scan: Case) -> None:
    assert scan.image.dtype == np.int16
    assert scan.image.shape == label_of(scan).shape == WHOLE
    assert label_of(scan).dtype == np.uint8
    assert set(np.unique(label_of(scan))) == set(range(9))
    assert scan.spacing == COARSE
    assert json.loads(json.dumps(scan.attributes)) == scan.attributes
    assert {"sex", "phase", "contrast", "metal", "laa_morphology", "noise_sd_hu", "nps_peak_per_mm"} <= set(scan.attributes)


def test_orientation_is_ras(scan: Case) -> None:
    assert (np.diag(scan.affine) > 0).all()
    assert np.count_nonzero(scan.affine[:3, :3]) == 3
    c = {k: center_mm(scan, k) for k in ID}
    assert c["LV"][0] < c["RV"][0] < c["RA"][0]
    assert c["LA"][1] < c["LV"][1] < c["RV"][1]
    assert c["LV"][2] < c["LA"][2]


def test_same_patient_on_two_grids() -> None:
    patient = quiet(21)
    fine = render(patient, (113, 113, 113), (1.5, 1.5, 1.5))
    coarse = render(patient, (57, 57, 57), (3.0, 3.0, 3.0))
    a, b = label_of(fine)[::2, ::2, ::2], label_of(coarse)
    np.testing.assert_allclose(fine.affine[:3, 3], coarse.affine[:3, 3], atol=1e-3)
    for key, value in ID.items():
        both, either = (a == value) & (b == value), np.sum(a == value) + np.sum(b == value)
        assert 2 * np.sum(both) / either > 0.98, key
    for key in ("LV", "RV", "LA", "RA", "MYO"):
        big, small = (np.sum(label_of(c) == ID[key]) * c.voxel_ml for c in (fine, coarse))
        assert abs(big - small) < 0.03 * big, key


def test_offset_moves_the_view_not_the_patient() -> None:
    patient = quiet(22)
    middle, moved = (render(patient, (50, 50, 50), (3.0, 3.0, 3.0), o) for o in ((0, 0, 0), (9.0, -6.0, 3.0)))
    np.testing.assert_allclose(moved.affine[:3, 3] - middle.affine[:3, 3], (9, -6, 3), atol=1e-3)
    np.testing.assert_array_equal(label_of(middle)[8:48, 4:44, 6:46], label_of(moved)[5:45, 6:46, 5:45])


def test_volumes_are_those_drawn(scan: Case) -> None:
    for key, target in scan.attributes["volumes_ml"].items():
        volume = np.sum(label_of(scan) == ID[key]) * scan.voxel_ml
        assert abs(volume - target) <= 0.06 * target + 0.3, key


def test_most_draws_pass_and_all_retries_do() -> None:
    first = [anatomy_faults(build_anatomy(draw_patient(patient_seed(8, i)))) for i in range(12)]
    assert sum(not f for f in first) >= 11, first
    for i in range(12):
        case = virtual_patient(8, i, (62, 62, 62), (3.0, 3.0, 3.0)) if first[i] or i < 3 else None
        if case is not None:
            assert check(label_of(case), case.spacing) == []


def test_failing_patients_give_up_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "anatomy_faults", lambda anatomy: ["LV is missing"])
    monkeypatch.setattr(scan_module, "TRIES", 2)
    with pytest.raises(InputError, match="LV is missing"):
        virtual_patient(1, 0, (8, 8, 8), COARSE)


@pytest.mark.parametrize("contrast", ["chase", "mixed", "early", "venous"])
def test_chambers_have_the_intended_hu(contrast: str) -> None:
    patient = quiet(23, contrast=contrast)
    case = render(patient, (100, 100, 96), (1.6, 1.6, 1.6))
    for key in ("LV", "LA", "AO", "MYO"):
        inside = ndimage.binary_erosion(label_of(case) == ID[key], iterations=2)
        assert abs(np.median(case.image[inside]) - patient.hu[key]) < 15, key
    for key in ("RV", "PA"):
        inside = ndimage.binary_erosion(label_of(case) == ID[key], iterations=2)
        assert abs(np.median(case.image[inside]) - patient.hu[key]) < 15 + 0.05 * patient.hu[key], key


def test_without_contrast_nothing_is_enhanced() -> None:
    case = render(quiet(24, contrast="none"), WHOLE, COARSE)
    medians = [np.median(case.image[label_of(case) == ID[k]]) for k in ID]
    assert all(25 < m < 70 for m in medians)
    blood = ndimage.binary_erosion(np.isin(label_of(case), (ID["LV"], ID["LA"], ID["AO"])), iterations=2)
    assert np.ptp(case.image[blood]) < 60


def test_wide_view_shows_a_body_in_air() -> None:
    case = render(quiet(25), (76, 100, 52), (4.5, 4.5, 4.5))
    image = case.image
    outside = ndimage.label(image < -900)[0]
    corner = outside == outside[0, -1, 26]  # in front of the chest
    air = np.abs(image[corner & ndimage.binary_erosion(corner)] + 1000)
    assert np.median(air) <= 1
    assert air.max() <= 15, "streaks of bone"
    assert 0.1 < corner.mean() < 0.7
    lung = (image > -960) & (image < -700) & ~corner
    assert 0.05 < lung.mean() < 0.4
    assert (label_of(case)[corner] == 0).all()
    assert image[:, :, 0].max() > 300, "spine and ribs in the lowest slice"


def test_wrong_grid_is_refused() -> None:
    with pytest.raises(InputError):
        render(draw_patient(1), (0, 4, 4), COARSE)
    with pytest.raises(InputError):
        render(draw_patient(1), (4, 4, 4), (1.0, -1.0, 1.0))


def test_view_beside_the_heart_has_no_chambers() -> None:
    case = render(quiet(27), (20, 20, 20), (3.0, 3.0, 3.0), (0.0, 0.0, -220.0))
    assert not np.isin(label_of(case), (1, 2, 3, 4, 5, 8)).any()
