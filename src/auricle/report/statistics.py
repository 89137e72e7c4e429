"""How far apart two arms are on the same test cases, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
"""Dice, (cases, structures), NaN where a case has no value."""


@dataclass(frozen=True)
class Difference:
    """Mean Dice of an arm minus that of the baseline, on a scale of 0..1."""

    value: float
    low: float | None
    """Lower end of the 95% confidence interval; None for fewer than two cases."""
    high: float | None
    cases: int

    @property
    def settled(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(
    arm: Mapping[str, Table], baseline: Mapping[str, Table], draws: int = 2000, seed: int = 0
) -> Difference | None:  # fmt: skip
    """Difference in mean Dice with a paired percentile bootstrap over cases (Efron & Tibshirani 1993).

    Args:
        arm: case to its Dice of every structure, NaN where there is none.
        baseline: the same for the baseline; cases that one of the two lacks are left out.
        draws: bootstrap samples; each draws whole cases, the same ones for both arms.
        seed: of the bootstrap.

    Returns:
        None where the arms share no case with a value. The mean is over structures of the mean over cases, as in the arms'
        summaries.
    """
    shared = sorted(set(arm) & set(baseline))
    if not shared:
        return None
    ours, theirs = (np.stack([table[c] for c in shared]) for table in (arm, baseline))
    value = float((mean_dice(ours) - mean_dice(theirs))[0])
    if not np.isfinite(value):
        return None
    if len(shared) < 2:
        return Difference(value, None, None, len(shared))
    picks = np.random.default_rng(seed).integers(len(shared), size=(draws, len(shared)))
    weights = np.stack([np.bincount(p, minlength=len(shared)) for p in picks])
    spread = mean_dice(ours, weights) - mean_dice(theirs, weights)
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return Difference(value, float(low), float(high), len(shared))


def mean_dice(table: Table, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Mean over structures of the mean over cases, each case counted `weights` (samples, cases) times; (samples,)."""
    if weights is None:
        weights = np.ones((1, len(table)), np.int64)
    known = np.isfinite(table)
    count = weights @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ np.where(known, table, 0.0)) / count
        result: NDArray[np.float64] = np.where(count > 0, means, 0.0).sum(axis=1) / (count > 0).sum(axis=1)
    return result
