"""Contrast timing on request: mended where it is not shown, left alone where it is."""

import numpy as np
import pytest

from auricle.core.anatomy import ID
from auricle.metrics.obedience import chamber_hu
from auricle.stages import timing

SPACING = (2.5, 2.5, 2.5)
CASES = {"chase": [(400.0 + 10 * i, 120.0 - 3 * i) for i in range(6)], "none": [(40.0 + i, 42.0) for i in range(6)], "early": [(120.0, 400.0)] * 4}
ROWS = [(k, h) for k, v in CASES.items() for h in v] + [(None, (1.0, 2.0)), ("chase", (float("nan"),) * 2)]
KNOWN = timing.learn([k for k, _ in ROWS], [h for _, h in ROWS])


def pair(left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Two ventricles in muscle, and bone far from both."""
    label = np.zeros((40, 24, 48), np.uint8)
    label[3:15, 5:17, 5:17], label[25:37, 5:17, 5:17] = ID["LV"], ID["RV"]
    hu = np.where(label == ID["LV"], left, np.where(label == ID["RV"], right, 50.0)).astype(np.float32)
    hu[:, :, 44:] = 400.0
    return hu + np.random.default_rng(0).normal(0, 5, hu.shape).astype(np.float32), label


@pytest.mark.parametrize(("asked", "left", "right"), [("chase", 300.0, 300.0), ("chase", 200.0, 420.0), ("none", 300.0, 200.0)])
def test_a_pair_gets_the_timing_it_was_asked_for(asked: str, left: float, right: float) -> None:
    image, label = pair(left, right)
    shown = [timing.obey(image, label, SPACING, asked, KNOWN, 0, i) for i in range(6)]
    for image in shown:
        assert KNOWN.ranges.obeyed(asked, chamber_hu(image, label))  # type: ignore[arg-type]
        assert np.median(image[18:22, :, :24]) == pytest.approx(50.0, abs=5.0)
        assert np.median(image[:, :, 44:]) == pytest.approx(400.0, rel=0.1)
    assert len({round(float(np.median(i[label == ID["LV"]]))) for i in shown}) > 1
    again = timing.obey(pair(left, right)[0], label, SPACING, asked, KNOWN, 0, 2)
    assert np.array_equal(again, shown[2])


def test_what_obeys_or_cannot_be_judged_is_left_alone() -> None:
    image, label = pair(420.0, 110.0)
    for asked in ("chase", "early", None):  # early: four cases are too few to know its range from
        assert timing.obey(image, label, SPACING, asked, KNOWN, 0, 0) is image
    assert timing.obey(image, np.zeros_like(label), SPACING, "none", KNOWN, 0, 0) is image
    plain, label = pair(40.0, 400.0)  # no contrast agent on the left: nothing there can be multiplied
    assert timing.obey(plain, label, SPACING, "chase", KNOWN, 0, 0) is plain
    nothing = timing.learn([], [])
    assert timing.obey(image, label, SPACING, "none", nothing, 0, 0) is image


def test_a_side_within_its_range_keeps_its_brightness() -> None:
    image, label = pair(420.0, 300.0)
    shown = chamber_hu(timing.obey(image, label, SPACING, "chase", KNOWN, 0, 0), label)
    assert shown is not None
    assert shown[0] == pytest.approx(420.0, rel=0.03)
    assert shown[1] < 150.0
