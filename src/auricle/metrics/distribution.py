"""How far two sets of cases lie apart, from their features: kernel (KID) and Frechet (FID) distance.

Arrays of features are (cases, features). Both distances are taken on features standardized by a reference (`Scale`), so that none dominates
for its units. A distance says little by itself: read it beside the same distance of held-out real cases,
of as many as were generated for the Frechet distance, whose bias depends on the number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
MOST_COMPONENTS = 32
"""Principal components of the Frechet distance at most."""


@dataclass(frozen=True)
class Scale:
    """Center and spread of a reference's features, to standardize other sets by."""

    center: NDArray[np.float64]
    """(F,)"""
    sd: NDArray[np.float64]
    """(F,), infinite for a feature that is constant in the reference: it is left out."""

    @classmethod
    def of(cls, reference: Features) -> "Scale":
        """Mean and SD of `reference` (n, F), n at least 2."""
        assert len(reference) > 1
        values = np.asarray(reference, np.float64)
        center, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
        # Features are computed in single precision: a spread that small is rounding.
        constant = sd <= 1e-6 * np.abs(values).max(axis=0)
        return cls(center, np.where(constant, np.inf, sd))

    def apply(self, features: Features) -> NDArray[np.float64]:
        """Standardized features (n, F'), without those that are constant in the reference."""
        kept = np.isfinite(self.sd)
        assert kept.any()
        result: NDArray[np.float64] = (np.asarray(features, np.float64)[:, kept] - self.center[kept]) / self.sd[kept]
        return result


def kernel_distance(a: Features, b: Features, scale: Scale | None = None) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3) with the kernel of KID.

    The kernel is k(x, y) = (x.y / F + 1)^3 (Binkowski et al. 2018, section 4).

    Args:
        a: (n, F), n at least 2; n and m may differ.
        b: (m, F), m at least 2: the reference.
        scale: fixed standardization; that of `b` if None.

    Returns:
        Zero for equal distributions, up to sampling error to either side (so it may be negative), and without upper bound. With a fixed
        `scale` that comes from neither set, the estimate is unbiased for every n and m, and symmetric. With that of `b` it is neither: `b` fits
        its own scale better than new cases do, which adds a bias upward that vanishes with growing m and lies below the sampling error.
    """
    gram = _gram(a, b, scale)
    one = np.ones((1, 1))
    return float(_discrepancy(gram, one.repeat(len(a), 1), one.repeat(len(b), 1))[0])


def interval(
    a: Features, b: Features, generator: np.random.Generator, draws: int = 200, scale: Scale | None = None
) -> tuple[float, float]:  # fmt: skip
    """95% percentile interval of `kernel_distance` (Efron & Tibshirani 1993), resampling the cases of both sets.

    A case drawn twice is never compared with itself: such pairs would push every draw upward. The standardization stays that of the sets as
    they are. The interval tells two distances apart; near zero it is no test of equality, since there the statistic degenerates
    (Gretton et al. 2012).
    """
    gram = _gram(a, b, scale)
    weights = [generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64) for n in (len(a), len(b))]
    # A draw of one case over and over has no pairs.
    usable = np.logical_and(*(np.count_nonzero(w, axis=1) > 1 for w in weights))
    assert usable.any()
    values = _discrepancy(gram, weights[0][usable], weights[1][usable])
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def frechet_distance(a: Features, b: Features, scale: Scale | None = None, components: int | None = None) -> float:
    """Squared Frechet distance of the two normal distributions fitted to the sets, on their leading principal components.

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017).

    Args:
        a: (n, F), n at least 2.
        b: (m, F), m at least 2: the reference.
        scale: fixed standardization; that of `b` if None.
        components: principal components of both sets together, each set weighing the same; min(n, m) / 4 up to 32 if None, so that
            the covariances have full rank.

    Returns:
        At least 0, without upper bound, in squared SD of the reference. Biased upward, the more the fewer cases, and it grows with
        `components`: compare only values of the same n, m and `components`. It sees means and covariances alone. Symmetric for a fixed `scale`.
    """
    scale = scale or Scale.of(b)
    a, b = scale.apply(a), scale.apply(b)
    least = min(len(a), len(b))
    assert least > 1
    count = components or max(1, min(least // 4, MOST_COMPONENTS))
    center = (a.mean(axis=0) + b.mean(axis=0)) / 2
    both = np.concatenate([(a - center) / np.sqrt(len(a)), (b - center) / np.sqrt(len(b))])
    axes = np.linalg.svd(both, full_matrices=False)[2][:count].T
    a, b = (a - center) @ axes, (b - center) @ axes
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)).astype(np.float64) for x in (a, b))
    shift = a.mean(axis=0) - b.mean(axis=0)
    return max(0.0, float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * _trace_of_root(cov_a, cov_b)))


def _gram(a: Features, b: Features, scale: Scale | None) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Kernel within `a`, within `b` and between the two."""
    assert min(len(a), len(b)) > 1
    scale = scale or Scale.of(b)
    x, y = scale.apply(a), scale.apply(b)
    width = x.shape[1]
    return (x @ x.T / width + 1) ** 3, (y @ y.T / width + 1) ** 3, (x @ y.T / width + 1) ** 3


def _discrepancy(
    gram: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    weights_a: NDArray[np.float64], weights_b: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """The estimate with every case of `a` and `b` counted `weights` (draws, cases) times; pairs of a case with itself are left out."""
    within_a, within_b, between = gram
    cross = np.einsum("di,di->d", weights_a @ between, weights_b) / (weights_a.sum(axis=1) * weights_b.sum(axis=1))
    result: NDArray[np.float64] = _within(within_a, weights_a) + _within(within_b, weights_b) - 2 * cross
    return result


def _within(gram: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    own = weights**2
    total = np.einsum("di,di->d", weights @ gram, weights) - own @ np.diag(gram)
    result: NDArray[np.float64] = total / (weights.sum(axis=1) ** 2 - own.sum(axis=1))
    return result


def _trace_of_root(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """tr (a b)^(1/2) of two covariances, through the symmetric a^(1/2) b a^(1/2), whose eigenvalues are those of a b."""
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum())
