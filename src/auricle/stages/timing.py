"""The timing of the contrast agent: a generated pair that does not show the one it was asked for gets the brightness of a training case that does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auricle.core.seeds import numpy_generator
from auricle.data.intensity import MUSCLE_HU, retime
from auricle.metrics.obedience import TimingRanges, chamber_hu, timing_ranges

LEAST = 5
"""Training cases of a timing from which on their range of HU is taken to be that timing's."""
FACTORS = (-0.5, 3.0)
"""Least and most that enhancement is multiplied by: more would multiply noise."""


@dataclass(frozen=True)
class Timings:
    """What ventricles of training cases look like at each timing."""

    ranges: TimingRanges
    cases: dict[str, list[tuple[float, float]]]
    """HU in the left and in the right ventricle of every case."""


def learn(timings: Sequence[str | None], hu: Sequence[tuple[float, float] | None]) -> Timings:
    """The timings that at least `LEAST` training cases show, one entry of `timings` and `hu` (left, right ventricle) for each case."""
    cases: dict[str, list[tuple[float, float]]] = {}
    for timing, values in zip(timings, hu, strict=True):
        if timing is not None and values is not None:
            cases.setdefault(timing, []).append(values)
    cases = {k: v for k, v in cases.items() if len(v) >= LEAST}
    rows = [(k, v) for k, found in cases.items() for v in found]
    return Timings(timing_ranges([k for k, _ in rows], [v for _, v in rows]), cases)


def obey(
    image: NDArray[np.float32], label: NDArray[np.uint8], spacing: tuple[float, float, float], timing: str | None, known: Timings, seed: int,
    index: int,
) -> NDArray[np.float32]:  # fmt: skip
    """`image` (HU), its ventricles brought to those of a training case of `timing` (drawn from `seed` and `index`) if they lie outside its range.

    As it is where they do not, where ventricles are too small to look at, and for a timing that few training cases show.
    """
    hu = chamber_hu(image, label)
    if timing is None or hu is None or known.ranges.obeyed(timing, hu) is not False:
        return image
    cases = known.cases[timing]
    wanted = cases[int(numpy_generator(seed, "timing", index).integers(len(cases)))]
    left, right = (float(np.clip((w - MUSCLE_HU) / max(h - MUSCLE_HU, 10.0), *FACTORS)) for w, h in zip(wanted, hu, strict=True))
    return np.asarray(retime(torch.from_numpy(image), torch.from_numpy(label), left, right, spacing).numpy(), np.float32)
