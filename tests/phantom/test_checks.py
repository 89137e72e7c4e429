"""The anatomical checks pass on sound hearts and catch every kind of damage."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.phantom import check, virtual_patient

Label = NDArray[np.uint8]
SPACING = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def case() -> Case:
    return virtual_patient(3, 0, (72, 68, 72), SPACING, phase=0.15)


@pytest.fixture
def sound(case: Case) -> Label:
    assert case.label is not None
    return case.label.copy()


def swap(a: str, b: str) -> Callable[[Label], Label]:
    def change(label: Label) -> Label:
        out = label.copy()
        out[label == ID[a]], out[label == ID[b]] = ID[b], ID[a]
        return out

    return change


def become(a: str, b: str | None) -> Callable[[Label], Label]:
    def change(label: Label) -> Label:
        return np.where(label == ID[a], ID[b] if b else 0, label).astype(np.uint8)

    return change


def lose_lower_muscle(label: Label) -> Label:
    out = label.copy()
    low = np.argwhere(label == ID["MYO"])[:, 2]
    out[:, :, : int(np.quantile(low, 0.35))][label[:, :, : int(np.quantile(low, 0.35))] == ID["MYO"]] = 0
    return out


def split_atrium(label: Label) -> Label:
    out = label.copy()
    middle = int(np.median(np.argwhere(label == ID["RA"])[:, 2]))
    gap = out[:, :, middle : middle + 2]
    gap[gap == ID["RA"]] = 0
    return out


def open_septum(label: Label) -> Label:
    out = label.copy()
    near_rv = ndimage.binary_dilation(label == ID["RV"], iterations=9)
    out[(label == ID["MYO"]) & near_rv] = ID["LV"]
    return out


MUTATIONS: dict[str, Callable[[Label], Label]] = {
    "left and right flipped": lambda v: v[::-1],
    "front and back flipped": lambda v: v[:, ::-1],
    "upside down": lambda v: v[:, :, ::-1],
    "turned by 180 degrees": lambda v: v[::-1, ::-1],
    "axes permuted": lambda v: v.transpose(2, 1, 0),
    "atria swapped": swap("LA", "RA"),
    "ventricles swapped": swap("LV", "RV"),
    "arteries swapped": swap("AO", "PA"),
    "appendage merged": become("LAA", "LA"),
    "muscle lost below": lose_lower_muscle,
    "atrium in two": split_atrium,
    "septum open": open_septum,
    "nothing at all": lambda v: np.zeros_like(v),
    **{f"{k} deleted": become(k, None) for k in ID},
}


def test_sound_heart_has_no_faults(case: Case, sound: Label) -> None:
    assert check(sound, SPACING) == []
    assert check(sound, SPACING, targets=case.attributes["volumes_ml"]) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_damage_is_caught(sound: Label, name: str) -> None:
    assert check(np.ascontiguousarray(MUTATIONS[name](sound)), SPACING)


def test_reason_names_structure_and_numbers(sound: Label) -> None:
    faults = check(become("LAA", None)(sound), SPACING)
    assert "LAA is missing" in faults
    assert any("RV and LV" in f or "LV and RV" in f for f in check(open_septum(sound), SPACING))


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
