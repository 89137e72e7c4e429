"""Contrast timing and metal, read off images that were made to show them."""

import numpy as np
import pytest

from auricle.core.anatomy import ID
from auricle.metrics import obedience


def image(left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Two ventricles in muscle, with noise."""
    label = np.zeros((30, 20, 20), np.uint8)
    label[3:13, 5:15, 5:15], label[16:26, 5:15, 5:15] = ID["LV"], ID["RV"]
    hu = np.where(label == ID["LV"], left, np.where(label == ID["RV"], right, 60.0))
    return hu + np.random.default_rng(0).normal(0, 15, hu.shape), label


def test_chambers_are_read_to_a_few_hu_whatever_lies_at_their_border() -> None:
    hu, label = image(400.0, 150.0)
    hu[3, :, :] = 3000.0
    found = obedience.chamber_hu(hu, label)
    assert found == (pytest.approx(400, abs=3), pytest.approx(150, abs=3))
    assert obedience.chamber_hu(hu, np.where(label == ID["RV"], 0, label).astype(np.uint8)) is None


def test_ranges_hold_their_own_cases_and_not_those_of_another_timing() -> None:
    hu = [(400.0, 150.0), (450.0, 120.0), (380.0, 180.0), (130.0, 128.0), (110.0, 115.0)]
    timings = ["chase", "chase", "chase", "venous", "venous"]
    ranges = obedience.timing_ranges(timings, hu)
    assert all(ranges.obeyed(t, h) for t, h in zip(timings, hu, strict=True))
    assert not ranges.obeyed("venous", hu[0])
    assert not ranges.obeyed("chase", hu[3])
    assert ranges.obeyed("early", hu[0]) is None


def test_thin_metal_counts_and_a_wide_bright_vein_does_not() -> None:
    hu, _ = image(400.0, 150.0)
    vein = hu.copy()
    vein[20:27, 8:15, :] = 980.0
    wire = hu.copy()
    wire[15, 10, :] = 3000.0
    assert obedience.metal_score(hu) == 0.0
    assert obedience.metal_score(wire) > 10 * max(obedience.metal_score(vein), 1.0)
    short = hu.copy()
    short[15, 10, :4] = 3000.0
    assert 0 < obedience.metal_score(short) < obedience.metal_score(wire)
    # Single voxels are no device, however many.
    single = hu.copy()
    single[::4, ::4, ::4] = 3000.0
    assert 0 < obedience.metal_score(single) < obedience.metal_score(short)


def test_threshold_separates_what_can_be_separated() -> None:
    scores, metal = [0.0, 10.0, 20.0, 500.0, 900.0], [False, False, False, True, True]
    assert 20 < obedience.metal_threshold(scores, metal) < 500
    assert obedience.metal_threshold(scores, [False] * 5) is None
    assert obedience.metal_threshold([1.0] * 5, metal) is None


def test_of_thresholds_that_do_equally_well_the_middle_one_is_taken() -> None:
    metal = [False, False, True, False, True, False, True, True]
    assert obedience.metal_threshold([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], metal) == 3.5  # as good as 1.5 and 5.5


def test_a_rule_little_better_than_chance_is_none() -> None:
    assert obedience.metal_threshold([0.0, 0.0, 5.0, 5.0], [True, True, False, False]) is None
    assert obedience.metal_threshold([0.0, 0.0, 5.0, 0.0], [True, True, True, False]) is None
