"""The gate on a virtual patient whose walls were taken away: what is mended, and what is left to be rejected."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from auricle.core.anatomy import ID, KEYS
from auricle.phantom import BARE_MM2, bare_ventricle, check, contact_limits, virtual_patient
from auricle.stages import gate

SPACING = (2.5, 2.5, 2.5)
Spoil = Callable[[np.ndarray, float], np.ndarray]


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    label = virtual_patient(3, 0, (72, 68, 72), SPACING, phase=0.15).label
    assert label is not None
    assert check(label, SPACING) == []
    return label


def breached(label: np.ndarray, radius_mm: float) -> np.ndarray:
    """The muscle between LV and RV is blood of the RV within a ball around its thinnest place."""
    away = [ndimage.distance_transform_edt(label != ID[k], SPACING) for k in ("LV", "RV")]
    thickness = np.where(label == ID["MYO"], away[0] + away[1], np.inf)
    place = np.unravel_index(int(thickness.argmin()), label.shape)
    at = np.stack(np.meshgrid(*[np.arange(n) for n in label.shape], indexing="ij"), axis=-1)
    ball = np.linalg.norm((at - np.array(place)) * SPACING, axis=-1) < radius_mm
    return np.where(ball & (label == ID["MYO"]), ID["RV"], label).astype(np.uint8)


def test_a_sound_map_passes_as_it_is(sound: np.ndarray) -> None:
    verdict = gate.judge(sound, SPACING)
    assert verdict.passed
    assert np.array_equal(verdict.label, sound)


def test_a_structure_that_is_labeled_nowhere_is_not_missed(sound: np.ndarray) -> None:
    bare = np.where(sound == ID["LAA"], 0, sound).astype(np.uint8)
    assert gate.judge(bare, SPACING).faults == ["LAA is missing"]
    assert gate.judge(bare, SPACING, structures=[k for k in KEYS if k != "LAA"]).passed


def without_apex(label: np.ndarray, radius_mm: float) -> np.ndarray:
    """The blood of the LV reaches through the muscle to what lies outside, in a ball around the apex."""
    muscle, base = np.argwhere(label == ID["MYO"]), np.argwhere(label == ID["LA"]).mean(0)
    apex = muscle[np.linalg.norm(muscle - base, axis=1).argmax()]
    at = np.stack(np.meshgrid(*[np.arange(n) for n in label.shape], indexing="ij"), axis=-1)
    ball = np.linalg.norm((at - apex) * SPACING, axis=-1) < radius_mm
    return np.where(ball & (label == ID["MYO"]), ID["LV"], label).astype(np.uint8)


@pytest.mark.parametrize(("spoil", "radius_mm", "fault", "given"), [
    (breached, 8.0, "LV and RV must not touch", {"RV"}), (without_apex, 9.0, "MYO has a gap", {"LV"}),
])  # fmt: skip
def test_muscle_thinner_than_a_voxel_is_put_back(spoil: Spoil, radius_mm: float, fault: str, given: set[str], sound: np.ndarray) -> None:
    thin = spoil(sound, radius_mm)
    verdict = gate.judge(thin, SPACING)
    assert any(fault in f for f in verdict.faults_before)
    assert verdict.passed
    changed = verdict.label != thin
    assert set(np.unique(thin[changed])) == {ID[k] for k in given}
    assert set(np.unique(verdict.label[changed])) == {ID["MYO"]}
    assert changed.sum() * np.prod(SPACING) / 1000 < 3.0
    assert not gate.judge(thin, SPACING, mend=False).passed


@pytest.mark.parametrize(("spoil", "radius_mm", "fault"), [(breached, 40.0, "LV and RV must not touch"), (without_apex, 30.0, "MYO has a gap")])
def test_a_wide_breach_is_rejected(spoil: Spoil, radius_mm: float, fault: str, sound: np.ndarray) -> None:
    assert any(fault in f for f in gate.judge(spoil(sound, radius_mm), SPACING).faults)


def test_bare_muscle_is_found_where_it_was_taken_away(sound: np.ndarray) -> None:
    assert bare_ventricle(sound, SPACING)[1] <= BARE_MM2
    bare = without_apex(sound, 9.0)
    voxels, area = bare_ventricle(bare, SPACING)
    assert area > BARE_MM2
    assert (bare[tuple(voxels.T)] == ID["LV"]).all()
    assert len(voxels) <= area / SPACING[0] ** 2 <= 3 * len(voxels)
    covered = bare.copy()
    covered[tuple(voxels.T)] = ID["MYO"]
    assert bare_ventricle(covered, SPACING)[1] == 0.0
    for axes in ((1, 0, 2), (2, 1, 0)):
        turned = bare_ventricle(np.ascontiguousarray(bare.transpose(axes)), SPACING)
        assert turned[1] == area
        assert {tuple(v) for v in turned[0]} == {tuple(v[list(axes)]) for v in voxels}


def test_a_branch_cut_off_from_its_vessel_loses_its_label(sound: np.ndarray) -> None:
    cut = sound.copy()
    cut[2:8, 2:8, 30:36] = ID["PA"]  # 3.4 mL in the lung
    verdict = gate.judge(cut, SPACING)
    assert any("PA is in 2 pieces" in f for f in verdict.faults_before)
    assert verdict.passed
    assert np.array_equal(verdict.label, sound)


def test_limits_hold_for_the_pairs_that_the_checks_name(sound: np.ndarray) -> None:
    limits = contact_limits(SPACING)
    assert limits[("LV", "RV")] == pytest.approx(40 + 32 * 1.25)
    assert all(a in ID and b in ID for a, b in limits)
