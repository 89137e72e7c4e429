"""Does a generated pair show what was asked for? Contrast timing and metal are read off the image, by rules learned from training cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID

Image = NDArray[np.floating] | NDArray[np.integer]
Labels = NDArray[np.uint8]
SLACK = 0.10
"""Part of a timing's range by which it is widened at both ends, and `SLACK_HU` on top: few cases do not show its whole width."""
SLACK_HU = 20.0
TOP_HAT_HU = 350.0
"""Metal and thick calcium stand out by this from the opening of the image; contrast medium in a vein is wider than the opening."""
TOP_HAT_VOXELS = 3
BRIGHT_HU = 900.0
"""Cortical bone and calcium that fills no whole voxel stay below this."""
LEAST_TOLD = 0.75
"""Mean of sensitivity and specificity, of which chance gives a half, below which a rule tells nothing."""


def chamber_hu(image: Image, label: Labels) -> tuple[float, float] | None:
    """Median HU in the left and in the right ventricle, one voxel inside their border; None where either is too small."""
    medians = []
    for key in ("LV", "RV"):
        core = ndimage.binary_erosion(label == ID[key])
        if core.sum() < 20:
            return None
        medians.append(float(np.median(image[core])))
    return medians[0], medians[1]


@dataclass(frozen=True)
class TimingRanges:
    """For each contrast timing the range of (left, right) HU in which training cases show it."""

    low: dict[str, tuple[float, float]]
    high: dict[str, tuple[float, float]]

    def obeyed(self, timing: str, hu: tuple[float, float]) -> bool | None:
        """Whether a pair asked for `timing` shows ventricles within its range; None for a timing that no training case has."""
        if timing not in self.low:
            return None
        return all(a <= v <= b for a, v, b in zip(self.low[timing], hu, self.high[timing], strict=True))


def timing_ranges(timings: Sequence[str], hu: Sequence[tuple[float, float]]) -> TimingRanges:
    """Smallest to largest HU of each timing among training cases, widened by `SLACK` of that range and `SLACK_HU`."""
    low, high = {}, {}
    for timing in sorted(set(timings)):
        values = np.array([h for t, h in zip(timings, hu, strict=True) if t == timing])
        margin = SLACK * np.ptp(values, axis=0) + SLACK_HU
        a, b = values.min(0) - margin, values.max(0) + margin
        low[timing], high[timing] = (float(a[0]), float(a[1])), (float(b[0]), float(b[1]))
    return TimingRanges(low, high)


def metal_score(image: Image) -> float:
    """Sum in HU of the white top-hat (Serra 1982) above `TOP_HAT_HU`, over voxels brighter than `BRIGHT_HU`: thin bright things, not wide ones.

    Only the piece (26-neighborhood) of the largest sum counts: devices hang together, and single bright voxels, of bone or drawn at random, do
    not. `image` is [x, y, z] in HU, clipped to 1000 here, as networks see it. The score grows with the metal and is 0 without any.
    """
    clipped = np.minimum(np.asarray(image, np.float32), 1000.0)
    hat = clipped - ndimage.grey_opening(clipped, size=(TOP_HAT_VOXELS,) * 3)
    found = (hat > TOP_HAT_HU) & (clipped > BRIGHT_HU)
    pieces, count = ndimage.label(found, np.ones((3, 3, 3)))
    return float(np.max(ndimage.sum(hat - TOP_HAT_HU, pieces, range(1, count + 1)), initial=0.0))


def metal_threshold(scores: Sequence[float], metal: Sequence[bool]) -> float | None:
    """The score above which a case counts as one with metal: the best mean of sensitivity and specificity (Youden 1950) on training cases,
    the middle one of those that do equally well.

    None where the cases do not include both kinds, or look alike: the best mean is below `LEAST_TOLD`.
    """
    values, truth = np.asarray(scores, float), np.asarray(metal, bool)
    if truth.all() or not truth.any():
        return None
    edges = np.unique(values)
    cuts = (edges[:-1] + edges[1:]) / 2
    if not len(cuts):
        return None
    youden = np.array([(values[truth] > c).mean() + (values[~truth] <= c).mean() for c in cuts])
    if youden.max() / 2 < LEAST_TOLD:
        return None
    best = np.flatnonzero(np.isclose(youden, youden.max()))
    return float(cuts[best[len(best) // 2]])
