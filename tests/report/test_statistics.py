"""Laws of the paired bootstrap, and the sentences made from it."""

import numpy as np
import pytest

from auricle.core.anatomy import KEYS
from auricle.report import words
from auricle.report.statistics import Difference, mean_dice, paired_difference


def scores(seed: int, cases: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"c{i}": rng.uniform(0.5, 0.9, len(KEYS)) for i in range(cases)}


def test_constant_difference_gives_an_interval_without_width() -> None:
    base = scores(0)
    found = paired_difference({c: v + 0.03 for c, v in base.items()}, base)
    assert found is not None
    assert found.cases == 12
    assert [found.value, found.low, found.high] == pytest.approx([0.03] * 3, abs=1e-12)


def test_shifting_both_arms_changes_nothing_and_swapping_them_mirrors() -> None:
    a, b = scores(0), scores(1)
    one = paired_difference(a, b)
    moved = paired_difference({c: v + 0.05 for c, v in a.items()}, {c: v + 0.05 for c, v in b.items()})
    swapped = paired_difference(b, a)
    assert one is not None
    assert moved is not None
    assert swapped is not None
    assert [moved.value, moved.low, moved.high] == pytest.approx([one.value, one.low, one.high])
    assert [-swapped.value, -swapped.high, -swapped.low] == pytest.approx([one.value, one.low, one.high])
    assert one.low < one.value < one.high


def test_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits, trials = 0, 150
    for _ in range(trials):
        base = {f"c{i}": np.full(8, 0.7) for i in range(30)}
        arm = {c: v + 0.02 + rng.normal(0, 0.05) for c, v in base.items()}
        found = paired_difference(arm, base, draws=400)
        assert found
        hits += found.low <= 0.02 <= found.high
    assert 0.87 <= hits / trials <= 0.995


def test_pairing_uses_the_cases_that_both_arms_have() -> None:
    base = scores(0)
    arm = {c: v + 0.01 for c, v in base.items() if c != "c3"} | {"other": np.zeros(8)}
    found = paired_difference(arm, base)
    assert found is not None
    assert (found.cases, found.value) == (11, pytest.approx(0.01))
    assert paired_difference({"x": np.ones(8)}, base) is None


def test_missing_values_do_not_count() -> None:
    table = np.array([[0.5, np.nan], [0.7, 0.2]])
    assert mean_dice(table)[0] == pytest.approx((0.6 + 0.2) / 2)
    assert mean_dice(table, np.array([[2, 0]]))[0] == pytest.approx(0.5)
    nothing = {"a": np.full(8, np.nan), "b": np.full(8, np.nan)}
    assert paired_difference(nothing, nothing) is None


def test_one_case_has_no_interval() -> None:
    found = paired_difference({"a": np.full(8, 0.9)}, {"a": np.full(8, 0.8)})
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert "allows no confidence interval" in words.compared("ours", found)


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


def test_arms_that_look_equal_share_the_headline() -> None:
    arms = {"baseline": {"dice": {"mean": 0.8001}, "cases": 5}, "ours": {"dice": {"mean": 0.8004}, "cases": 5}}
    assert words.headline(arms) == "Baseline and Ours share the highest mean Dice, 0.800 on 5 test cases."


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text
