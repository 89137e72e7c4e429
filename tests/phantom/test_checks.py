"""The anatomical checks pass on sound hearts and catch every kind of damage.

Set AURICLE_REAL_LABELS to a folder of real label maps (.nii.gz, the project's ids, LAA not annotated) to judge those as well.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.core.anatomy import ID, KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.labels import read_label
from auricle.phantom import check, draw_patient, virtual_patient
from auricle.phantom.anatomy import CALIBRATION_MM, build_anatomy
from auricle.phantom.measures import contact_areas, facing, survey, wall_distances
from auricle.phantom.scan import patient_seed


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutations = _beside("mutations")
Label = NDArray[np.uint8]
SPACING = (2.5, 2.5, 2.5)
COARSE = (CALIBRATION_MM,) * 3
NO_LAA = tuple(k for k in KEYS if k != "LAA")
MUTATIONS = mutations.all_mutations(KEYS)
PATIENTS = {"at end-diastole": (0, 0.0, False), "with a dilated ventricle": (1, 0.15, ("dilated ventricle",))}


def coarse(index: int, phase: float, pathology: bool | tuple[str, ...]) -> Label:
    anatomy = build_anatomy(draw_patient(patient_seed(3, index), phase=phase, pathology=pathology))
    return np.ascontiguousarray(anatomy.coarse_label.transpose(2, 1, 0)[::-1, ::-1])


@pytest.fixture(scope="module")
def case() -> Case:
    return virtual_patient(3, 0, (72, 68, 72), SPACING, phase=0.15)


@pytest.fixture
def sound(case: Case) -> Label:
    assert case.label is not None
    return case.label.copy()


@pytest.fixture(scope="module")
def patients() -> dict[str, Label]:
    return {name: coarse(*how) for name, how in PATIENTS.items()}


def test_sound_heart_has_no_faults(case: Case, sound: Label, patients: dict[str, Label]) -> None:
    assert check(sound, SPACING) == []
    assert check(sound, SPACING, targets=case.attributes["volumes_ml"]) == []
    assert [check(label, COARSE) for label in patients.values()] == [[], []]


@pytest.mark.parametrize("name", MUTATIONS)
def test_damage_is_caught(patients: dict[str, Label], name: str) -> None:
    for label in patients.values():
        assert check(np.ascontiguousarray(MUTATIONS[name](label, COARSE)), COARSE) != []


def test_reasons_name_structures_and_numbers(sound: Label) -> None:
    faults = check(mutations.become("LAA", None)(sound, SPACING), SPACING)
    assert "LAA is missing" in faults
    assert any("LV and RV must not touch" in f for f in check(mutations.open_septum(sound, SPACING), SPACING))
    (hole,) = check(mutations.hole("LA", None, 8.0)(sound, SPACING), SPACING)
    assert hole.startswith("LA has holes of 2.")


def test_what_is_not_annotated_is_not_asked(sound: Label) -> None:
    without = mutations.become("LAA", None)(sound, SPACING)
    assert check(without, SPACING, structures=NO_LAA) == []
    assert check(sound, SPACING, structures=NO_LAA) == ["LAA is not among the structures that are annotated"]
    vessels = np.where(np.isin(sound, (ID["AO"], ID["LAA"])), sound, 0).astype(np.uint8)
    assert check(vessels, SPACING, structures=("AO", "LAA")) == []


def test_unlabeled_leaflets_are_no_fault(sound: Label) -> None:
    for a, b in (("LA", "LV"), ("LV", "AO"), ("RA", "RV"), ("RV", "PA")):  # one voxel of each valve's inflow side
        near = np.zeros(sound.shape, bool)
        for axis in range(3):
            for step in (-1, 1):
                near |= np.roll(sound == ID[b], step, axis)
        sound[(sound == ID[a]) & near] = 0
    assert contact_areas(sound, SPACING)[ID["LA"], ID["LV"]] == 0
    assert check(sound, SPACING) == []


def test_wrong_target_is_reported(case: Case, sound: Label) -> None:
    wrong = {"LV": 1.3 * case.attributes["volumes_ml"]["LV"]}
    assert [f for f in check(sound, SPACING, targets=wrong) if f.startswith("LV has")]


def test_wrong_spacing_is_caught(sound: Label) -> None:
    assert check(sound, (1.5, 1.5, 1.5))
    assert check(sound, (4.0, 4.0, 4.0))


def test_one_stray_voxel_is_tolerated(sound: Label) -> None:
    sound[1, 1, 1] = ID["RA"]
    assert check(sound, SPACING) == []


def test_great_vessels_may_be_cut(sound: Label) -> None:
    top = int(np.argwhere(np.isin(sound, (ID["LA"], ID["RA"], ID["LAA"])))[:, 2].max()) + 2
    assert (sound[:, :, top:] == ID["AO"]).any()
    assert check(np.ascontiguousarray(sound[:, :, :top]), SPACING) == []


def test_measures_of_a_shell() -> None:
    """A ball of blood in a shell of muscle, and a block that faces another across a gap."""
    x, y, z = np.ogrid[-20:21, -20:21, -20:21]
    radius = np.sqrt(x * x + y * y + z * z)
    label = np.where(radius <= 10, ID["LV"], np.where(radius <= 16, ID["MYO"], 0)).astype(np.uint8)
    seen = survey(label, (2.0, 2.0, 2.0))
    assert seen["LV"].center == pytest.approx([40, 40, 40])
    assert seen["LV"].ml == pytest.approx(8e-3 * np.count_nonzero(label == ID["LV"]))
    assert np.median(wall_distances(label, (2.0, 2.0, 2.0))) == pytest.approx(12, abs=1)
    blocks = np.zeros((10, 6, 6), np.uint8)
    blocks[:4], blocks[6:] = ID["LA"], ID["LV"]
    assert facing(blocks, (1.0, 2.0, 3.0), "LA", "LV", 2.0)[0] == 36 * 6
    assert facing(blocks, (1.0, 2.0, 3.0), "LA", "LV", 2.0)[1].mean(0) == pytest.approx([4.5, 5.0, 7.5])
    assert facing(blocks, (1.0, 2.0, 3.0), "LA", "LV", 1.9)[0] == 0


def real_maps() -> list[Path]:
    folder = os.environ.get("AURICLE_REAL_LABELS")
    return sorted(Path(folder).glob("*.nii.gz")) if folder else []


@pytest.mark.skipif(not real_maps(), reason="AURICLE_REAL_LABELS names no folder of real label maps")
def test_real_maps_pass_and_damaged_ones_do_not() -> None:
    for number, path in enumerate(real_maps()):
        values, affine, _ = read_label(path)
        flips = tuple(slice(None, None, int(np.sign(affine[k, k]))) for k in range(3))
        x, y, z = np.abs(np.diag(affine)[:3]).tolist()
        label = np.ascontiguousarray(values[flips])
        assert (path.name, check(label, (x, y, z), structures=NO_LAA)) == (path.name, [])
        if number == 0:
            damage = mutations.all_mutations(NO_LAA)
            missed = [n for n, f in damage.items() if not check(np.ascontiguousarray(f(label, (x, y, z))), (x, y, z), structures=NO_LAA)]
            assert missed == []


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.full((4, 4, 4), 9), np.full((4, 4, 4), -1), np.full((4, 4, 4), 0.5), np.full((4, 4, 4), np.nan)],
    ids=["two dimensions", "unknown id", "negative", "fraction", "not a number"],
)  # fmt: skip
def test_what_is_no_label_map_is_refused_in_words(array: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="label map"):
        check(array, (2.0, 2.0, 2.0))


def test_whole_numbers_of_any_type_are_judged_alike() -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:8, 3:8, 3:8] = ID["LV"]
    assert check(label.astype(np.float64), (3.0, 3.0, 3.0)) == check(label.astype(np.int64), (3.0, 3.0, 3.0)) == check(label, (3.0, 3.0, 3.0)) != []
    assert not any("MYO" in f for f in check(label, (3.0, 3.0, 3.0), structures=("LV", "LA", "AO")))
