"""Hearts: coronary arteries, pulmonary veins, pathology, muscle strands and valves."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.core.anatomy import ID
from auricle.core.errors import InputError
from auricle.phantom import draw_patient, render
from auricle.phantom.anatomy import CALIBRATION_MM, Anatomy, build_anatomy, cavity_field, warp
from auricle.phantom.coronaries import RADII_MM
from auricle.phantom.heart import HEART_BOX_HIGH, HEART_BOX_LOW
from auricle.phantom.patient import EFFECTS, PATHOLOGIES, VEINS, Patient
from auricle.phantom.scan import patient_seed
from auricle.phantom.shapes import Grid, RandomField

SIZE, SPACING = (56, 56, 56), (3.0, 3.0, 3.0)


def volume(anatomy: Anatomy, key: str) -> float:
    return float(np.sum(anatomy.coarse_label == ID[key]) * CALIBRATION_MM**3 / 1000)


def still(patient: Patient) -> Patient:
    scanner = dataclasses.replace(
        patient.scanner, noise_sd_hu=0.0, motion_mm=0.0, step_mm=0.0, calcified=(), valve_calcium=False, metal=()
    )
    return dataclasses.replace(patient, scanner=scanner)


def labels_at(anatomy: Anatomy, line: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Labels of a fine scan at points of the warped world: the voxel whose warped coordinates are nearest."""
    low = (line[:, :3].min(0) - 12, line[:, :3].max(0) + 12)
    middle, n = (low[0] + low[1]) / 2, np.ceil((low[1] - low[0]) / 2).astype(int)
    grid = warp(anatomy.random, Grid.centered((n[2], n[1], n[0]), (2.0, 2.0, 2.0), middle[::-1]))
    x, y, z = middle - anatomy.center
    case = render(anatomy.patient, (n[0], n[1], n[2]), (2.0, 2.0, 2.0), (-x, -y, z))
    assert case.label is not None
    label = case.label[::-1, ::-1].transpose(2, 1, 0)
    at = [np.argmin((grid.X - x) ** 2 + (grid.Y - y) ** 2 + (grid.Z - z) ** 2) for x, y, z in line[:, :3]]
    return np.asarray(label.ravel()[at])


def test_random_field_is_the_same_at_points_and_on_a_grid() -> None:
    field = RandomField(np.random.default_rng(3), 9.0, 2, 60.0)
    grid = Grid.centered((4, 5, 6), (3.0, 2.0, 2.5), (1.0, -2.0, 5.0))
    points = np.stack(np.meshgrid(grid.z, grid.y, grid.x, indexing="ij")[::-1], -1).reshape(-1, 3).astype(float)
    np.testing.assert_allclose(field.at(points).T.reshape(2, 4, 5, 6), field(grid), atol=1e-5)


def test_coronaries_run_on_the_heart() -> None:
    anatomy = build_anatomy(still(draw_patient(41, pathology=False, metal=False)))
    assert set(anatomy.coronaries) == set(RADII_MM)
    for name, line in anatomy.coronaries.items():
        steps = np.linalg.norm(np.diff(line[:, :3], axis=0), axis=1)
        assert steps.max() < 12, name
        assert (labels_at(anatomy, line[4:]) == 0).mean() > 0.85, name  # in the fat, not in a chamber
    apex = anatomy.marks.base + anatomy.marks.length * anatomy.marks.axis
    assert np.linalg.norm(anatomy.coronaries["LAD"][-1, :3] - apex) < 30
    assert anatomy.coronaries["LCX"][-1, 1] > anatomy.coronaries["LCX"][0, 1] + 10  # around to the back
    assert anatomy.coronaries["RCA"][:, 0].min() < anatomy.marks.aortic[0] - 15  # down the right side


@pytest.mark.parametrize("pathology", [(), ("dilated ventricle",), ("hypertrophy", "atrial fibrillation")])
def test_no_heart_reaches_into_the_chest_wall(pathology: tuple[str, ...]) -> None:
    for index in range(5):
        anatomy = build_anatomy(draw_patient(patient_seed(31, index), pathology=pathology))
        middle = 0.5 * (np.array(HEART_BOX_LOW) + np.array(HEART_BOX_HIGH))[::-1]
        nz, ny, nx = anatomy.coarse_label.shape
        grid = warp(anatomy.random, Grid.centered((nz, ny, nx), (CALIBRATION_MM,) * 3, middle))
        chambers = np.isin(anatomy.coarse_label, [ID[k] for k in ("LV", "RV", "RA", "LA", "MYO")])
        assert cavity_field(grid, anatomy.marks, anatomy.thorax_mm)[chambers].max() < -2


@pytest.mark.parametrize("variant", VEINS)
def test_vein_variants_keep_the_atrium(variant: str) -> None:
    base = draw_patient(43, pathology=False)
    anatomy = build_anatomy(dataclasses.replace(base, veins=variant))
    veins = anatomy.vessels.veins
    assert ("RM" in veins) == (variant == "right middle vein")
    together = np.allclose(veins["LS"][0], veins["LI"][0])
    assert together == (variant == "left common trunk")
    assert volume(anatomy, "LA") == pytest.approx(base.volumes_ml["LA"], rel=0.05)


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_a_pathology_changes_what_it_says_and_nothing_else(name: str) -> None:
    well, ill = draw_patient(12, pathology=False, phase=0.15), draw_patient(12, pathology=[name], phase=0.15)
    assert ill.pathology == (name,)
    for field in ("jitter", "hu", "scanner", "laa_morphology", "veins", "azimuth_deg", "thorax_mm"):
        assert getattr(well, field) == getattr(ill, field)
    effects = EFFECTS.get(name, {})
    for key in ("LA", "RA", "RV", "LAA"):
        low, high = effects.get(key, (1.0, 1.0))
        factor = ill.volumes_ml[key] / well.volumes_ml[key]
        assert low - 1e-9 <= factor <= high + 1e-9, key
    assert (ill.effusion_mm > 0) == (name == "pericardial effusion")
    assert (ill.aorta_mm["ascending"] > well.aorta_mm["ascending"]) == (name == "aortic dilation")


def test_prevalence_is_adjustable() -> None:
    everyone = [draw_patient(s, prevalence={"hypertrophy": 1.0, "atrial fibrillation": 0.0}).pathology for s in range(60)]
    assert all("hypertrophy" in p and "atrial fibrillation" not in p for p in everyone)
    drawn = [draw_patient(patient_seed(0, i)).pathology for i in range(1000)]
    shares = [np.mean([name in p for p in drawn]) for name in PATHOLOGIES]
    np.testing.assert_allclose(shares, list(PATHOLOGIES.values()), atol=0.025)
    with pytest.raises(InputError, match="gout"):
        draw_patient(1, prevalence={"gout": 0.1})
    with pytest.raises(InputError, match="outside 0"):
        draw_patient(1, prevalence={"hypertrophy": 1.5})
    with pytest.raises(InputError, match="gout"):
        draw_patient(1, pathology=["gout"])


def test_effusion_and_filling_defect_change_the_image_alone() -> None:
    well = still(draw_patient(12, pathology=False, contrast="chase", phase=0.15))
    ill = still(draw_patient(12, pathology=["pericardial effusion", "appendage filling defect"], contrast="chase", phase=0.15))
    a, b = render(well, SIZE, SPACING), render(ill, SIZE, SPACING)
    assert a.label is not None
    np.testing.assert_array_equal(a.label, b.label)
    appendage = a.label == ID["LAA"]
    assert b.image[appendage].mean() < a.image[appendage].mean() - 40
    fluid = (b.image > -15) & (b.image < 45) & ((a.image < -60) & (a.label == 0))
    assert fluid.sum() * a.voxel_ml > 30


def test_strands_are_muscle_in_the_image_and_cavity_in_the_label() -> None:
    patient = still(draw_patient(12, pathology=False, contrast="chase", phase=0.15))
    case = render(patient, (110, 110, 110), (1.5, 1.5, 1.5))
    assert case.label is not None
    inside = case.image[case.label == ID["LV"]]
    middle = 0.5 * (patient.hu["LV"] + patient.hu["MYO"])
    assert 0.02 < (inside < middle).mean() < 0.25
    smooth = case.image[case.label == ID["LA"]]
    assert (smooth < middle).mean() < (inside < middle).mean()


def test_valves_close_and_open_with_the_heart() -> None:
    """A closed aortic valve is a dark sheet across the root, an open one leaves its middle bright."""
    middles = []
    for phase in (0.15, 1.0):
        patient = still(draw_patient(47, pathology=False, contrast="chase", phase=phase))
        anatomy = build_anatomy(patient)
        valve = anatomy.marks.aortic
        shift = anatomy.random["warp"].at(valve[None])[0] * 2.2
        center = valve - shift - anatomy.center
        case = render(patient, (20, 20, 40), (0.7, 0.7, 0.7), (-center[0], -center[1], center[2] + 5))
        assert case.label is not None
        middles.append(float(case.image[8:12, 8:12, 9:22].min()) / patient.hu["AO"])
    assert middles[0] < 0.6 < 0.68 < middles[1]


def test_a_view_that_cuts_a_vessel_keeps_all_of_it() -> None:
    """Labels are those of a wide view, whatever the field of view leaves of them."""
    anatomy_of = draw_patient(patient_seed(0, 8), pathology=False)
    wide = render(still(anatomy_of), (88, 88, 72), SPACING)
    narrow = render(still(anatomy_of), (40, 40, 40), SPACING)
    assert wide.label is not None
    assert narrow.label is not None
    inside = wide.label[24:64, 24:64, 16:56]
    for key in ("PA", "AO", "LA", "RV"):
        lost = (inside == ID[key]) & (narrow.label != ID[key])
        assert lost.sum() * wide.voxel_ml < 0.1, key


def test_no_dilated_heart_is_cut_by_its_own_box() -> None:
    for index in (3, 204):
        ill = draw_patient(patient_seed(0, index), pathology=["dilated ventricle"])
        label = build_anatomy(ill).coarse_label
        faces = np.concatenate([np.moveaxis(label, k, 0)[[0, -1]].ravel() for k in range(3)])
        assert not set(np.unique(faces)) & {ID[k] for k in ("LV", "MYO", "RV", "LA", "RA", "LAA")}
