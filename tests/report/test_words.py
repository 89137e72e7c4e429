"""Sentences are made from figures, and are as plain for a loss as for a gain."""

import pytest

from auricle.report import words
from auricle.study.results import CONTROL
from auricle.study.statistics import Difference


def test_one_case_allows_no_interval() -> None:
    assert "allows no confidence interval" in words.compared("ours", Difference(0.1, None, None, 1))


@pytest.mark.parametrize(("difference", "said", "unsaid"), [
    (Difference(-0.021, -0.04, -0.01, 20), "2.1 Dice points below the baseline (95% confidence interval −4.0 to −1.0)", "zero"),
    (Difference(-0.021, -0.04, 0.01, 20), "do not tell the two apart", "worse"),
    (Difference(0.021, 0.01, 0.04, 20), "2.1 Dice points above", "worse"),
    (Difference(-0.0002, -0.0003, -0.0001, 20), "equal to within 0.1 Dice points", "worse"),
])  # fmt: skip
def test_sentences_are_as_plain_for_a_loss_as_for_a_gain(difference: Difference, said: str, unsaid: str) -> None:
    text = words.compared("ours", difference)
    assert said in text
    assert unsaid not in text


def test_an_arm_may_be_compared_with_the_control() -> None:
    text = words.compared("ours-plus", Difference(0.003, -0.001, 0.007, 20), CONTROL)
    assert text.startswith("Ours-plus is 0.3 Dice points above the varied baseline trained twice (95% confidence interval −0.1 to +0.7).")


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [words.number(v, 1) for v in (-0.04, 0.04, -0.06)] == ["0.0", "0.0", "−0.1"]


def test_arms_that_look_equal_share_the_headline() -> None:
    arms = {"baseline": {"dice": {"mean": 0.8001}, "cases": 5}, "ours": {"dice": {"mean": 0.8004}, "cases": 5}}
    assert words.headline(arms) == "Baseline and Ours share the highest mean Dice, 0.800 on 5 test cases."


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text
