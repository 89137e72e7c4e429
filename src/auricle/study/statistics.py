"""How far apart two arms are on the same test cases, and how sure that is.

A study crosses seeds (another draw of labeled cases, another initialization) with test cases. Confidence intervals resample seeds and patients, each
with all its cases (the pigeonhole bootstrap of Owen 2007), so that they hold for new patients and for new trainings. Tests are Wilcoxon's signed
ranks over patients, each averaged over seeds and its cases, with Holm's correction over the structures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

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
        spread = _spread(arm, baseline, owners, draws, seed)
        low, high = (float(v) for v in np.nanpercentile(spread, [2.5, 97.5]))
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


def _spread(arm: Table, baseline: Table, owners: NDArray[np.int_], draws: int, seed: int, at_once: int = 250) -> NDArray[np.float64]:
    """Differences of bootstrap samples, each of which draws seeds and patients (`owners` of the cases), the same ones for both arms."""
    seeds, patients = arm.shape[0], int(owners.max()) + 1
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, at_once):
        number = min(at_once, draws - start)
        by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), number)
        by_case = rng.multinomial(patients, np.full(patients, 1 / patients), number)[:, owners]
        weights = (by_seed[:, :, None] * by_case[:, None, :]).astype(float)
        found.append(mean_score(arm, weights) - mean_score(baseline, weights))
    return np.concatenate(found)


def signed_rank(differences: NDArray[np.float64]) -> float | None:
    """p of Wilcoxon's two-sided signed-rank test (1945), zeros ranked as by Pratt (1959), exact for few; None for fewer than `LEAST_CASES`."""
    known = differences[np.isfinite(differences)]
    if len(known) < LEAST_CASES:
        return None
    # Equal to the last digit is 1: nothing speaks for a difference.
    return 1.0 if not known.any() else float(wilcoxon(known, zero_method="pratt", method="auto").pvalue)


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
    """`compare` for one training each: case to its values of every structure, and perhaps to its patient. Cases that one lacks are left out."""
    shared = sorted(set(arm) & set(baseline))
    if not shared:
        return None
    owners = None if patients is None else [patients.get(c, c) for c in shared]
    return compare(np.stack([arm[c] for c in shared])[None], np.stack([baseline[c] for c in shared])[None], owners, draws)


def mean_dice(table: NDArray[np.float64]) -> float:
    """Mean over structures of the mean over cases of a table (cases, structures)."""
    return float(mean_score(table[None])[0])
