"""Laws of the bootstrap over seeds and cases, the signed-rank test and Holm's correction."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from auricle.core.anatomy import KEYS
from auricle.study.statistics import compare, holm, mean_dice, mean_score, paired_difference, signed_rank


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
    assert mean_dice(table) == pytest.approx((0.6 + 0.2) / 2)
    assert mean_score(table[None], np.array([[[2.0, 0.0]]]))[0] == pytest.approx(0.5)
    nothing = {"a": np.full(8, np.nan), "b": np.full(8, np.nan)}
    assert paired_difference(nothing, nothing) is None


def test_one_case_has_no_interval() -> None:
    found = paired_difference({"a": np.full(8, 0.9)}, {"a": np.full(8, 0.8)})
    assert found is not None
    assert (found.low, found.high, found.p) == (None, None, None)


def crossed(rng: np.random.Generator, seeds: int, cases: int, gain: float, by_seed: float, by_case: float) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and arm whose gain varies from seed to seed and from case to case."""
    base = 0.7 + rng.normal(0, 0.05, (1, cases, 1)) + rng.normal(0, 0.01, (seeds, cases, 3))
    gains = gain + rng.normal(0, by_seed, (seeds, 1, 1)) + rng.normal(0, by_case, (1, cases, 1))
    return base, base + gains


@pytest.mark.parametrize(("seeds", "by_seed", "by_case"), [(5, 0.03, 0.02), (5, 0.01, 0.03), (3, 0.03, 0.02), (10, 0.03, 0.02)])
def test_interval_covers_the_gain_of_new_seeds_and_new_cases(seeds: int, by_seed: float, by_case: float) -> None:
    """Also with few seeds; where trainings differ more than cases do, resampling cases alone would promise far too much."""
    rng = np.random.default_rng(2)
    hits, narrow, trials = 0, 0, 200
    for _ in range(trials):
        base, arm = crossed(rng, seeds=seeds, cases=20, gain=0.02, by_seed=by_seed, by_case=by_case)
        found = compare(arm, base, draws=200)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.02 <= found.high
        cases_alone = compare(arm.mean(0)[None], base.mean(0)[None], draws=200)
        assert cases_alone is not None
        assert cases_alone.low is not None
        assert cases_alone.high is not None
        narrow += cases_alone.low <= 0.02 <= cases_alone.high
    assert 0.92 <= hits / trials <= 0.99
    assert by_seed < by_case or narrow / trials < 0.75


def test_a_comparison_does_not_depend_on_the_order_of_seeds_and_cases() -> None:
    base, arm = crossed(np.random.default_rng(0), 4, 12, 0.01, 0.01, 0.02)
    turned = compare(arm[::-1, ::-1], base[::-1, ::-1])
    found = compare(arm, base)
    assert found is not None
    assert turned is not None
    assert (turned.value, turned.p, turned.superiority) == (pytest.approx(found.value), pytest.approx(found.p), found.superiority)


def test_superiority_counts_ties_half() -> None:
    base = np.zeros((1, 4, 1))
    arm = np.array([0.1, 0.1, 0.0, -0.1]).reshape(1, 4, 1)
    found = compare(arm, base)
    assert found is not None
    assert found.superiority == pytest.approx(0.625)


def test_signed_rank_is_exact_for_few_cases() -> None:
    """Of the 64 signs of six ranks, four have a sum of at most 1 on the smaller side, and two one of 0: counted by hand."""
    assert signed_rank(np.array([-1.0, 2, 3, 4, 5, 6])) == pytest.approx(4 / 64)
    assert signed_rank(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)


def test_several_scans_of_a_patient_are_not_several_patients() -> None:
    """Each of eight patients scanned five times says no more than scanned once; taken as forty patients, the interval is far too narrow."""
    rng = np.random.default_rng(3)
    base, gain = np.full((1, 8, 3), 0.8), rng.normal(0.01, 0.03, (1, 8, 1))
    once = compare(base + gain, base)
    many = np.repeat(base + gain, 5, axis=1), np.repeat(base, 5, axis=1)
    names = [f"p{i // 5}" for i in range(40)]
    grouped, alone = compare(*many, names), compare(*many)
    assert once is not None
    assert grouped is not None
    assert alone is not None
    assert [grouped.value, grouped.low, grouped.high, grouped.p] == pytest.approx([once.value, once.low, once.high, once.p])
    assert alone.high - alone.low < 0.6 * (grouped.high - grouped.low)
    assert alone.p < grouped.p
    assert compare(*many, ["p"] * 40).low is None
    order = rng.permutation(40)
    turned = compare(many[0][:, order], many[1][:, order], [names[i] for i in order])
    assert turned is not None
    assert (turned.p, turned.low) == (pytest.approx(grouped.p), pytest.approx(grouped.low, abs=3e-3))


def test_signed_rank_is_that_of_scipy_and_needs_enough_cases() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 30)
    assert signed_rank(values) == pytest.approx(wilcoxon(values, zero_method="pratt", method="approx").pvalue, rel=0.1)
    assert signed_rank(np.append(values, np.nan)) == signed_rank(values)
    assert signed_rank(values[:5]) is None
    assert signed_rank(np.zeros(10)) == 1.0


def test_few_that_differ_prove_nothing_among_many_that_do_not() -> None:
    differences = np.zeros(30)
    differences[:5] = 0.01
    assert signed_rank(differences) is None
    differences[5] = 0.01
    assert signed_rank(differences) is not None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
