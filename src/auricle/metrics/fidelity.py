"""How close two images are voxel by voxel, how alike the images of a set are, and how their HU are distributed.

Images are in HU, (X, Y, Z). They are clipped to a range of HU first, -1000..1000 unless told otherwise: metal would dominate any mean
of squares. `CARDIAC_HU` looks at soft tissue and contrast medium alone. Values of two ranges are not comparable.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

Image = NDArray[Any]
Range = tuple[float, float]
WIDE_HU: Range = (-1000.0, 1000.0)
CARDIAC_HU: Range = (-200.0, 600.0)
HU_EDGES: NDArray[np.float64] = np.arange(-1000.0, 1001.0, 10.0)
"""Edges of the bins of a HU histogram."""

SSIM_WINDOW = 11
"""Edge of the Gaussian window of `ssim`, in voxels, as in Wang et al. 2004."""
MS_SSIM_WINDOW = 7
"""That of MS-SSIM: smaller, so that three scales fit into 32 voxels."""
WINDOW_SD = 1.5
"""SD of both windows, in voxels."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, finest first (Wang et al. 2003, section 3.2)."""
DIVERSITY_EDGE = 64
"""Volumes whose shortest edge is this or more are halved before their diversity is measured."""


def rmse_hu(a: Image, b: Image, range_hu: Range = WIDE_HU) -> float:
    """Root mean square difference in HU, 0 or more, at most the width of `range_hu`."""
    assert a.shape == b.shape
    return float(np.sqrt(np.mean((_clip(a, range_hu) - _clip(b, range_hu)) ** 2)))


def psnr(a: Image, b: Image, range_hu: Range = WIDE_HU) -> float:
    """Peak signal-to-noise ratio in dB, 20 log10(width of the range / RMSE): 0 or more, infinite for equal images."""
    error = rmse_hu(a, b, range_hu)
    return 20 * math.log10((range_hu[1] - range_hu[0]) / error) if error > 0 else math.inf


def ssim(a: Image, b: Image, range_hu: Range = WIDE_HU) -> float:
    """Mean structural similarity (Wang et al. 2004, equation 13) in three dimensions: -1..1, 1 for equal images.

    The window has 11 voxels an edge, fewer (an odd number) where the shortest edge is shorter; only windows wholly inside count.
    """
    # MONAI takes seconds to import, and only the assessment of a generator asks for this.
    from monai.metrics.regression import compute_ssim_and_cs

    assert a.shape == b.shape
    shortest = min(a.shape)
    window = min(SSIM_WINDOW, shortest - (shortest + 1) % 2)
    similarity, _ = compute_ssim_and_cs(_unit(a, range_hu), _unit(b, range_hu), 3, [window] * 3, [WINDOW_SD] * 3)
    return float(similarity.mean())


def ms_ssim_between(
    volumes: Sequence[Image], pairs: Sequence[tuple[int, int]], range_hu: Range = WIDE_HU
) -> NDArray[np.float64]:  # fmt: skip
    """Multi-scale structural similarity (Wang et al. 2003, equation 7) of pairs of volumes, 0..1, 1 for equal ones.

    Args:
        volumes: HU, all of one shape, edges of at least 7.
        pairs: places in `volumes`.
        range_hu: range the HU are clipped to.

    Returns:
        (pairs,). As many of the five scales are used as fit the shortest edge (three at 32, four at 64), their weights divided by their sum;
        similarities below zero count as zero. Only values of one shape are comparable.
    """
    shape = volumes[0].shape
    assert all(v.shape == shape for v in volumes)
    weights = MS_SSIM_WEIGHTS[: _scales(min(shape))]
    shares = [w / sum(weights) for w in weights]
    from monai.metrics.regression import compute_ms_ssim

    def similarity(a: Image, b: Image) -> float:
        x, y = _unit(a, range_hu), _unit(b, range_hu)
        return float(compute_ms_ssim(x, y, 3, kernel_size=MS_SSIM_WINDOW, kernel_sigma=WINDOW_SD, weights=shares))

    return np.array([similarity(volumes[i], volumes[j]) for i, j in pairs], np.float64)


def diversity(volumes: Sequence[Image], generator: np.random.Generator, pairs: int = 50, range_hu: Range = WIDE_HU) -> float:
    """Mean MS-SSIM between distinct pairs of a set, drawn at random without repetition: 0..1, lower is more diverse.

    Volumes of 64 voxels or more along the shortest edge are averaged over 2 x 2 x 2 voxels until they have less: it is cheaper,
    and noise, which differs in any two scans, counts less as diversity. Compare only sets on one grid, and read it beside that of real cases.

    Args:
        volumes: at least two, HU, all of one shape.
        generator: draws the pairs.
        pairs: number of pairs; all there are if that is fewer.
        range_hu: range the HU are clipped to.
    """
    assert len(volumes) > 1
    first, second = np.triu_indices(len(volumes), k=1)
    chosen = np.sort(generator.choice(len(first), min(pairs, len(first)), replace=False))
    used, places = np.unique(np.stack([first[chosen], second[chosen]]), return_inverse=True)
    small = [_shrink(_clip(volumes[i], range_hu)) for i in used]
    indices = [(int(i), int(j)) for i, j in places.reshape(2, -1).T]
    return float(ms_ssim_between(small, indices, range_hu).mean())


def hu_histogram(image: Image, mask: NDArray[np.bool_], edges: NDArray[np.float64] = HU_EDGES) -> NDArray[np.int64]:
    """Voxels of `image` (HU) inside `mask` per bin between `edges` (bins + 1); what lies beyond counts in the outermost bins.

    Histograms of several cases may be added.
    """
    counts: NDArray[np.int64] = np.histogram(np.clip(image[mask], edges[0], edges[-1]), edges)[0]
    return counts


def histogram_distance(p: NDArray[Any], q: NDArray[Any], edges: NDArray[np.float64] = HU_EDGES) -> float | None:
    """1-Wasserstein distance in HU of two histograms over `edges`: how far the HU of one have to be moved, on average, to give the other.

    Histograms (bins,) need not hold the same number of voxels. None where either is empty.
    """
    if not p.any() or not q.any():
        return None
    centers = (edges[:-1] + edges[1:]) / 2
    return float(wasserstein_distance(centers, centers, p, q))


def _clip(image: Image, range_hu: Range) -> NDArray[np.float64]:
    clipped: NDArray[np.float64] = np.clip(np.asarray(image, np.float64), *range_hu)
    return clipped


def _unit(image: Image, range_hu: Range) -> torch.Tensor:
    """(1, 1, X, Y, Z) on 0..1: the luminance term of SSIM means nothing for values below zero."""
    low, high = range_hu
    return torch.from_numpy(((_clip(image, range_hu) - low) / (high - low)).astype(np.float32))[None, None]


def _scales(shortest: int) -> int:
    """Scales whose window fits: by halving, and by MONAI's own check, which divides by (scales - 1)^2."""
    fits = [
        s for s in range(1, len(MS_SSIM_WEIGHTS) + 1)
        if min(shortest >> (s - 1), shortest // max(1, s - 1) ** 2) >= MS_SSIM_WINDOW
    ]  # fmt: skip
    assert fits, "volumes are smaller than the window"
    return fits[-1]


def _shrink(image: NDArray[np.float64]) -> NDArray[np.float64]:
    while min(image.shape) >= DIVERSITY_EDGE:
        x, y, z = (n // 2 for n in image.shape)
        image = image[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    return image
