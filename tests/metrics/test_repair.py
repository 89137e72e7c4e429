"""Repair of label maps: idempotent, local, and never a judge of large faults."""

import numpy as np
import pytest
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.metrics.repair import repair

VOXEL_ML = 0.01


def heart() -> np.ndarray:
    """An atrium beside a ventricle in its muscle."""
    label = np.zeros((30, 30, 30), np.uint8)
    label[4:16, 4:20, 4:20] = ID["MYO"]
    label[6:14, 6:18, 6:18] = ID["LV"]
    label[16:26, 6:18, 6:18] = ID["LA"]
    return label


def test_a_sound_map_stays_as_it_is() -> None:
    label = heart()
    assert np.array_equal(repair(label, VOXEL_ML), label)


@pytest.mark.parametrize("place", [(10, 10, 10), (20, 10, 10), (28, 28, 28)])
def test_specks_take_the_label_around_them(place: tuple[int, int, int]) -> None:
    label = heart()
    label[23:25, 22:25, 22:25] = ID["PA"]  # the largest piece, kept
    wrong = label.copy()
    wrong[place] = ID["PA"]
    assert np.array_equal(repair(wrong, VOXEL_ML), label)


def test_enclosed_gaps_are_filled_and_open_ones_are_not() -> None:
    label = heart()
    hollow = label.copy()
    hollow[9:11, 9:11, 9:11] = 0
    assert np.array_equal(repair(hollow, VOXEL_ML), label)
    wall = label.copy()
    wall[16, 8:12, 8:12] = 0  # closed, but between the atrium and the muscle
    assert np.array_equal(repair(wall, VOXEL_ML), wall)
    open_gap = label.copy()
    open_gap[18, 8, 6:30] = 0  # a channel out of the atrium
    assert np.array_equal(repair(open_gap, VOXEL_ML), open_gap)


def test_large_pieces_are_left_to_the_gate() -> None:
    label = heart()
    label[20:26, 22:28, 22:28] = ID["MYO"]  # 216 voxels, 2.16 mL
    assert np.array_equal(repair(label, VOXEL_ML), label)
    assert not np.array_equal(repair(label, VOXEL_ML, stray_ml=3.0), label)


def test_repairing_twice_is_repairing_once_and_labels_never_appear() -> None:
    rng = np.random.default_rng(0)
    label = heart()
    noisy = np.where(rng.random(label.shape) < 0.03, rng.integers(0, 9, label.shape), label).astype(np.uint8)
    once = repair(noisy, VOXEL_ML)
    assert np.array_equal(repair(once, VOXEL_ML), once)
    assert set(np.unique(once)) <= set(np.unique(noisy))
    assert (once == label).mean() > 0.995 > (noisy == label).mean()
    for value in np.unique(label)[1:]:
        assert ndimage.label(once == value, np.ones((3, 3, 3)))[1] == 1


def test_the_input_is_left_alone() -> None:
    label = heart()
    label[0, 0, 0] = ID["LAA"]
    label[2, 2, 0] = ID["LAA"]
    before = label.copy()
    repair(label, VOXEL_ML)
    assert np.array_equal(label, before)
    assert not repair(np.zeros((5, 5, 5), np.uint8), VOXEL_ML).any()
