"""Repair of label maps: idempotent, local, and never a judge of large faults."""

import numpy as np
import pytest
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.metrics.repair import BROAD_MM2, part, prune, repair

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


def test_cut_off_branches_are_pruned_but_not_those_that_may_be_joined_outside() -> None:
    label = heart()
    label[18:28, 20:26, 4:26] = ID["PA"]
    branches = {"small, within": (slice(2, 4), slice(24, 28), slice(4, 28)), "at the border": (slice(0, 3), slice(24, 28), slice(4, 28))}
    for name, place in branches.items():
        cut = label.copy()
        cut[place] = ID["PA"]
        assert np.array_equal(prune(cut, [ID["PA"]]), label if name == "small, within" else cut), name
        assert np.array_equal(prune(cut, [ID["AO"]]), cut)
    large = label.copy()
    large[2:6, 22:28, 4:28] = ID["PA"]
    assert np.array_equal(prune(large, [ID["PA"]]), large)


def faces(label: np.ndarray, a: int, b: int) -> int:
    """Common faces of two labels, counted one axis at a time."""
    return sum(
        int(((x == a) & (y == b) | (x == b) & (y == a)).sum())
        for axis in range(3)
        for x, y in [(np.moveaxis(label, axis, 0)[:-1], np.moveaxis(label, axis, 0)[1:])]
    )


def neighbors(across: int) -> np.ndarray:
    """A large ventricle against a smaller one, over a square of `across` voxels."""
    label = np.zeros((30, 30, 30), np.uint8)
    label[2:15, 4:29, 4:29] = ID["LV"]
    label[15:20, 6 : 6 + across, 6 : 6 + across] = ID["RV"]
    return label


def test_a_lost_wall_is_put_back_as_far_as_it_must() -> None:
    label = neighbors(10)
    mended = part(label, (1.0, 1.0, 1.0), {(ID["RV"], ID["LV"]): (40.0, ID["MYO"])})
    assert faces(label, ID["LV"], ID["RV"]) == 100
    assert faces(mended, ID["LV"], ID["RV"]) == 40
    wall = np.argwhere(mended == ID["MYO"])
    assert len(wall) == 60
    assert np.array_equal(mended == ID["RV"], label == ID["RV"])  # the larger one gives way
    # What still touches lies in the middle.
    left = np.argwhere((label == ID["LV"])[14] & (label == ID["RV"])[15] & (mended == ID["LV"])[14])
    middle = np.array([10.5, 10.5])
    assert np.linalg.norm(left - middle, axis=1).max() <= np.linalg.norm(wall[:, 1:] - middle, axis=1).min() + 1e-9


def test_area_counts_in_mm2_of_each_face() -> None:
    limits = {(ID["LV"], ID["RV"]): (40.0, 0)}
    assert faces(part(neighbors(10), (3.0, 0.5, 0.5), limits), ID["LV"], ID["RV"]) == 100  # 25 mm2: allowed
    assert faces(part(neighbors(10), (3.0, 1.0, 0.5), limits), ID["LV"], ID["RV"]) == 80


def test_small_and_broad_contacts_stay() -> None:
    limits = {(ID["LV"], ID["RV"]): (40.0, 0)}
    for across in (6, int(np.ceil((BROAD_MM2 + 40) ** 0.5))):
        label = neighbors(across)
        assert np.array_equal(part(label, (1.0, 1.0, 1.0), limits), label)
    assert not np.array_equal(part(neighbors(20), (1.0, 1.0, 1.0), limits), neighbors(20))
