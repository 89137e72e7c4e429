"""The timing of the contrast agent: a generated pair that does not show the one it was asked for gets the brightness of a training case that does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auricle.core.seeds import numpy_generator
from auricle.data.intensity import factor_for, retime
from auricle.metrics.obedience import TimingRanges, chamber_hu, timing_ranges

LEAST = 5
"""Training cases of a timing from which on their range of HU is taken to be that timing's."""
MOST = 3.0
"""Most that enhancement is multiplied by: more would multiply noise."""


@dataclass(frozen=True)
class Timings:
    """What ventricles of training cases look like at each timing."""

    ranges: TimingRanges
    """HU of both ventricles at each timing."""
    cases: dict[str, list[tuple[float, float]]]
    """HU in the left and in the right ventricle of every case of each timing."""


def learn(timings: Sequence[str | None], hu: Sequence[Sequence[float]]) -> Timings:
    """The timings that at least `LEAST` training cases show; one entry of `timings` and `hu` (left and right ventricle, or NaN) for each case."""
    cases: dict[str, list[tuple[float, float]]] = {}
    for timing, (left, right) in zip(timings, hu, strict=True):
        if timing is not None and math.isfinite(left + right):
            cases.setdefault(timing, []).append((left, right))
    cases = {k: v for k, v in cases.items() if len(v) >= LEAST}
    rows = [(k, v) for k, found in cases.items() for v in found]
    return Timings(timing_ranges([k for k, _ in rows], [v for _, v in rows]), cases)


def obey(
    image: NDArray[np.float32], label: NDArray[np.uint8], spacing: tuple[float, float, float], timing: str | None, known: Timings, seed: int,
    index: int,
) -> NDArray[np.float32]:  # fmt: skip
    """`image` (HU), a ventricle outside the range of `timing` brought to that of a training case, drawn from `seed` and `index`.

    As it is where both lie inside or are too small to look at, for a timing that few training cases show, and where it cannot be done: a chamber
    without contrast agent has nothing that could be multiplied. All volumes are [x, y, z].
    """
    if timing not in known.cases or (hu := chamber_hu(image, label)) is None:
        return image
    cases, factors = known.cases[timing], []
    wanted = cases[int(numpy_generator(seed, "timing", index).integers(len(cases)))]
    for h, w, low, high in zip(hu, wanted, known.ranges.low[timing], known.ranges.high[timing], strict=True):
        factors.append(1.0 if low <= h <= high else factor_for(w, h, MOST))
    if factors == [1.0, 1.0]:
        return image
    mended = np.asarray(retime(torch.from_numpy(image), torch.from_numpy(label), factors[0], factors[1], spacing).numpy(), np.float32)
    now = chamber_hu(mended, label)
    return mended if now is not None and known.ranges.obeyed(timing, now) else image
