"""The gate on a virtual patient whose walls were taken away: what is mended, and what is left to be rejected."""

import numpy as np
import pytest
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.phantom import check, contact_limits, virtual_patient
from auricle.stages import gate

SPACING = (2.5, 2.5, 2.5)


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


def test_a_septum_thinner_than_a_voxel_is_put_back(sound: np.ndarray) -> None:
    thin = breached(sound, 8.0)
    verdict = gate.judge(thin, SPACING)
    assert any("LV and RV must not touch" in f for f in verdict.faults_before)
    assert verdict.passed
    changed = verdict.label != thin
    assert set(np.unique(verdict.label[changed])) == {ID["MYO"]}
    assert changed.sum() * np.prod(SPACING) / 1000 < 3.0
    assert not gate.judge(thin, SPACING, mend=False).passed


def test_a_wide_breach_is_rejected(sound: np.ndarray) -> None:
    verdict = gate.judge(breached(sound, 40.0), SPACING)
    assert any("LV and RV must not touch" in f for f in verdict.faults)


def test_limits_hold_for_the_pairs_that_the_checks_name(sound: np.ndarray) -> None:
    limits = contact_limits(SPACING)
    assert limits[("LV", "RV")] == pytest.approx(40 + 32 * 1.25)
    assert all(a in ID and b in ID for a, b in limits)
