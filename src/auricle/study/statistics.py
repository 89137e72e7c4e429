"""How far apart two arms are on the same test cases, and how sure that is.

A study crosses seeds (another draw of labeled cases, another initialization) with test cases. Confidence intervals hold for new patients and for new
trainings: the bootstrap resamples patients, each with all its cases, and apart from that seeds; both variances are corrected for their number and
added (crossed random effects, as in Owen 2007), and Student's t has the degrees of freedom of Satterthwaite (1946). The few seeds of a study would
make percentiles too narrow. Tests are Wilcoxon's signed ranks over patients, each averaged over seeds and its cases, with Holm's correction over the
structures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Table = NDArray[np.float64]
"""A measure, (seeds, cases, structures); NaN where there is no value."""
LEAST_CASES = 6
"""Fewer pairs than this cannot be significant at 5% in a two-sided signed-rank test."""


@dataclass(frozen=True)
class Difference:
    """A measure's mean in an arm minus that in the baseline, in the measure's unit."""

    value: float
    low: float | None
    """Lower end of the 95% confidence interval; None for fewer than two patients."""
    high: float | None
    cases: int
    seeds: int = 1
    p: float | None = None
    """Two-sided Wilcoxon signed-rank test, corrected where several were made; None for too few patients."""
    superiority: float | None = None
    """Probability that the arm has the higher value in the same case and seed; ties count half."""

    @property
    def settled(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_score(table: Table, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Mean over structures of the mean over seeds and cases, each (seed, case) counted `weights` (samples, seeds, cases) times; (samples,)."""
    if weights is None:
        weights = np.ones((1, *table.shape[:2]))
    flat, weights = table.reshape(-1, table.shape[2]), weights.reshape(len(weights), -1)
    known = np.isfinite(flat)
    count, total = weights @ known.astype(float), weights @ np.where(known, flat, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = np.where(count > 0, total / count, 0.0).sum(axis=1) / (count > 0).sum(axis=1)
    return result


def compare(
    arm: Table, baseline: Table, patients: Sequence[str] | None = None, draws: int = 2000, seed: int = 0
) -> Difference | None:  # fmt: skip
    """The difference of `mean_score` between two arms, seed by seed and case by case.

    Args:
        arm: (seeds, cases, structures); the same seeds and cases in the same order as in `baseline`.
        baseline: likewise.
        patients: of each case; None where every case is a patient of its own.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        None where no case has a value in both.
    """
    assert arm.shape == baseline.shape
    both = np.isfinite(arm) & np.isfinite(baseline)
    arm, baseline = np.where(both, arm, np.nan), np.where(both, baseline, np.nan)
    used = both.any(axis=(0, 2))
    arm, baseline = arm[:, used], baseline[:, used]
    seeds, cases = arm.shape[:2]
    named = [str(i) for i in range(cases)] if patients is None else [patients[int(i)] for i in np.flatnonzero(used)]
    places = {patient: i for i, patient in enumerate(dict.fromkeys(named))}
    owners = np.array([places[p] for p in named], int)
    if cases == 0:
        return None
    value = float((mean_score(arm) - mean_score(baseline))[0])
    low = high = None
    if len(places) > 1:
        reach = _reach(arm, baseline, owners, draws, seed)
        low, high = value - reach, value + reach
    pairs = _mean_known(arm - baseline, axis=2)
    known = pairs[np.isfinite(pairs)]
    superiority = float(np.mean((known > 0) + 0.5 * (known == 0)))
    by_patient = np.stack([_mean_known(pairs[:, owners == i].reshape(-1), axis=0) for i in range(len(places))])
    return Difference(value, low, high, cases, seeds, signed_rank(by_patient), superiority)


def _mean_known(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean of the values that exist, NaN where none does."""
    known = np.isfinite(values)
    count = known.sum(axis)
    result: NDArray[np.float64] = np.where(count > 0, np.where(known, values, 0.0).sum(axis) / np.maximum(count, 1), np.nan)
    return result


def _reach(arm: Table, baseline: Table, owners: NDArray[np.int_], draws: int, seed: int) -> float:
    """Half the width of the 95% interval of the difference; `owners` are the patients of the cases."""
    numbers, variances = np.array([arm.shape[0], owners.max() + 1]), np.zeros(2)
    rng = np.random.default_rng(seed)
    for i, n in enumerate(numbers):
        if n > 1:
            times = rng.multinomial(n, np.full(n, 1 / n), draws).astype(float)
            weights = times[:, :, None] if i == 0 else times[:, owners][:, None, :]
            weights = np.broadcast_to(weights, (draws, *arm.shape[:2]))
            # The same draws for both arms; of n resampled values the variance comes out (n - 1) / n times too small.
            variances[i] = np.nanvar(mean_score(arm, weights) - mean_score(baseline, weights)) * n / (n - 1)
    total = float(variances.sum())
    if total == 0.0:
        return 0.0
    freedom = total**2 / float((variances**2 / np.maximum(numbers - 1, 1)).sum())
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)


def signed_rank(differences: NDArray[np.float64]) -> float | None:
    """p of Wilcoxon's two-sided signed-rank test (1945), zeros ranked as by Pratt (1959), exact for few.

    None for fewer than `LEAST_CASES`, or where fewer than that differ at all; 1 where none does.
    """
    known = differences[np.isfinite(differences)]
    if len(known) < LEAST_CASES or 0 < np.count_nonzero(known) < LEAST_CASES:
        return None
    # Equal to the last digit is 1: nothing speaks for a difference.
    return 1.0 if not known.any() else float(stats.wilcoxon(known, zero_method="pratt", method="auto").pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected by Holm's step-down method (1979), in the order given; None stays None and does not count."""
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        corrected[i] = least
    return corrected


def paired_difference(
    arm: Mapping[str, NDArray[np.float64]], baseline: Mapping[str, NDArray[np.float64]], patients: Mapping[str, str] | None = None,
    draws: int = 2000,
) -> Difference | None:  # fmt: skip
    """`compare` for one training each: case to its Dice of every structure, and perhaps to its patient. Cases that one lacks are left out."""
    shared = sorted(set(arm) & set(baseline))
    if not shared:
        return None
    owners = None if patients is None else [patients.get(c, c) for c in shared]
    dice = np.stack([[side[c] for c in shared] for side in (arm, baseline)])
    dice = credited(dice, dice)
    return compare(dice[:1], dice[1:], owners, draws)


def credited(values: NDArray[np.float64], dice: NDArray[np.float64], right: float = 1.0, wrong: float = 0.0) -> NDArray[np.float64]:
    """`values` (arms, ..) of a measure, where the reference lacks a structure that an arm invents: `wrong` for it and `right` for the others.

    Without this neither would count, since the Dice of the others does not exist.
    """
    invented = np.isnan(dice).any(0) & (dice == 0).any(0)
    result: NDArray[np.float64] = np.where(invented, np.where(np.isnan(dice), right, wrong), values)
    return result


def mean_dice(table: NDArray[np.float64]) -> float:
    """Mean over structures of the mean over cases of a table (cases, structures)."""
    return float(mean_score(table[None])[0])
