"""Distances between distributions: known values, unbiasedness, invariances, and what they must be able to see."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from auricle.metrics.distribution import Scale, frechet_distance, interval, kernel_distance

Features = NDArray[np.float64]


def normal(seed: int, n: int, width: int = 6, shift: float = 0.0, spread: float = 1.0) -> Features:
    return shift + spread * np.random.default_rng(seed).normal(size=(n, width))


def unit(width: int = 6) -> Scale:
    """The scale of standard normal features, known rather than estimated."""
    return Scale(np.zeros(width), np.ones(width))


def by_hand(a: Features, b: Features) -> float:
    """The estimate written out, pair by pair."""

    def mean(pairs: list[tuple[Features, Features]]) -> float:
        return float(np.mean([(x @ y / len(x) + 1) ** 3 for x, y in pairs]))

    within = [mean(list(itertools.permutations(s, 2))) for s in (a, b)]
    return sum(within) - 2 * mean(list(itertools.product(a, b)))


def test_kernel_distance_is_the_formula_pair_by_pair() -> None:
    a, b = normal(0, 7, shift=0.3), normal(1, 9)
    assert kernel_distance(a, b, unit()) == pytest.approx(by_hand(a, b), rel=1e-10)
    scale = Scale.of(b)
    assert kernel_distance(a, b) == pytest.approx(by_hand(scale.apply(a), scale.apply(b)), rel=1e-10)
    assert Scale.of(b).apply(b).std(axis=0, ddof=1) == pytest.approx(np.ones(6))


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    values = [kernel_distance(normal(2 * i, 8), normal(2 * i + 1, 12), unit()) for i in range(400)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0
    # Counting cases against themselves would add about 7/8 + 7/12: this repeats often enough to see a tenth of that.
    assert error < 0.05


def test_both_distances_grow_with_the_shift_and_the_spread() -> None:
    b = normal(0, 800)
    for distance in (kernel_distance, frechet_distance):
        shifted = [distance(normal(1, 800, shift=s), b) for s in (0.0, 0.25, 0.5, 1.0)]
        assert shifted == sorted(shifted)
        assert abs(shifted[0]) < 0.15 * shifted[1]
        narrowed = [distance(normal(1, 800, spread=s), b) for s in (1.0, 0.6, 0.2)]
        assert narrowed == sorted(narrowed)


def test_distances_depend_on_neither_order_nor_units() -> None:
    a, b = normal(0, 30, shift=0.2), normal(1, 40)
    rng = np.random.default_rng(5)
    cases, features = (rng.permutation(a), rng.permutation(b)), rng.permutation(6)
    units, origin = rng.uniform(0.01, 100.0, 6), rng.normal(size=6)
    for distance in (kernel_distance, frechet_distance):
        value = distance(a, b)
        assert distance(*cases) == pytest.approx(value, rel=1e-9)
        assert distance(a[:, features], b[:, features]) == pytest.approx(value, rel=1e-9)
        assert distance(a * units + origin, b * units + origin) == pytest.approx(value, rel=1e-9)
        assert distance(a, b, unit()) == pytest.approx(distance(b, a, unit()), rel=1e-9)


def test_features_that_are_constant_in_the_reference_are_left_out() -> None:
    a, b = normal(0, 20), normal(1, 20)
    more_a, more_b = np.column_stack([a, normal(2, 20, 1)]), np.column_stack([b, np.full(20, 0.1)])
    more_b[3, -1] += 1e-9
    assert kernel_distance(more_a, more_b) == kernel_distance(a, b)
    assert frechet_distance(more_a, more_b) == frechet_distance(a, b)


def test_interval_surrounds_the_distance_and_narrows_with_more_cases() -> None:
    widths = []
    for n in (20, 200):
        a, b = normal(0, n, shift=1.0), normal(1, n)
        low, high = interval(a, b, np.random.default_rng(0))
        assert 0 < low < kernel_distance(a, b) < high
        assert (low, high) == interval(a, b, np.random.default_rng(0))
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
    low, high = interval(normal(0, 2), normal(1, 2), np.random.default_rng(0))
    assert np.isfinite([low, high]).all()


def test_resampled_cases_are_not_compared_with_themselves() -> None:
    """Otherwise every draw would lie above the distance by about 1/n of the kernel's diagonal, here 8, for each of the two sets."""
    excess = []
    for i in range(30):
        a, b = normal(2 * i, 10), normal(2 * i + 1, 10)
        excess.append(np.mean(interval(a, b, np.random.default_rng(i), scale=unit())) - kernel_distance(a, b, unit()))
    assert abs(np.mean(excess)) < 0.3


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_frechet_distance_of_known_normal_distributions(mean: float) -> None:
    a = np.array([1.0, 2.0]) * normal(0, 40000, 2) + mean
    b = np.array([2.0, 0.5]) * normal(1, 40000, 2)
    # Of independent components it is the sum of squared differences of the means and of the SDs.
    expected = 2 * mean**2 + (1 - 2) ** 2 + (2 - 0.5) ** 2
    assert frechet_distance(a, b, unit(2)) == pytest.approx(expected, rel=0.03)


def test_frechet_distance_agrees_with_the_matrix_root() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(80, 4)) @ rng.normal(size=(4, 4)) + 0.5
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b, unit(4)) == pytest.approx(expected, rel=1e-6)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert frechet_distance(a @ turn, b @ turn, unit(4)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_defined_for_few_cases_and_many_features() -> None:
    a, b = normal(0, 40, 100, shift=0.1), normal(1, 60, 100)
    assert frechet_distance(a, b) == frechet_distance(a, b, components=10)
    assert frechet_distance(a, b, components=4) < frechet_distance(a, b)
    assert np.isfinite(frechet_distance(a[:2], b[:2]))
    # A shift along a direction in which the reference does not vary is seen all the same.
    flat = b @ np.diag([1e-3] + [1.0] * 99)
    moved = normal(2, 60, 100) @ np.diag([1e-3] + [1.0] * 99) + np.eye(100)[0] * 20
    assert frechet_distance(moved, flat, unit(100)) > 400
