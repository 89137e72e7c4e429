"""What a generated pair can be asked for, and the numbers in which a network is told.

Anything may be missing, in training (a cohort that does not record it) and in sampling (a user who does not ask for it): each
condition is a value and a flag that says whether it is known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auricle.core.anatomy import ID, KEYS, LABEL_COUNT
from auricle.core.errors import InputError
from auricle.data.preprocess import heart_center

Contrast = Literal["chase", "mixed", "early", "venous", "none"]
CONTRASTS: tuple[Contrast, ...] = ("chase", "mixed", "early", "venous", "none")
LOCATION_MM = 4.0
"""Unit in which a network sees the location: about the SD of the views that it is trained on."""
MOST_MM = 100.0
"""Farthest location: beyond it the heart is out of sight."""
APART_MM = 10.0
"""A field of view that lies farther from a case's cuts other parts off: the case's volumes inside it are no longer known."""
VOLUME_SPREAD = 0.35
"""How far drawn volumes may lie from a case's, in SDs of the cohort's logarithms: of its smoothed bootstrap."""
LEAST_ML, MOST_ML = 0.1, 2000.0
"""Measured volumes beyond these count as these: the network sees logarithms, and no structure of a heart is larger."""

GROUPS: tuple[str, ...] = ("sex", "location", "metal", "contrast", "phase", *KEYS)
"""Conditions that are known or not, one flag each; the volumes by structure."""
WIDTHS: tuple[int, ...] = (1, 1, 1, len(CONTRASTS), 1, *[1] * len(KEYS))
VALUES, FLAGS = sum(WIDTHS), len(GROUPS)
WIDTH = VALUES + FLAGS
"""Length of a condition's vector: values, zero where unknown, then flags."""
_group_of_value = torch.repeat_interleave(torch.arange(FLAGS), torch.tensor(WIDTHS))
_FIRST_VOLUME = VALUES - len(KEYS)
PLACED: tuple[int, int] = (int((_group_of_value == GROUPS.index("location")).nonzero()), VALUES + GROUPS.index("location"))
"""Where a vector holds the location and its flag."""


@dataclass(frozen=True)
class Conditions:
    """What is asked for; None leaves it open."""

    sex: Literal["F", "M"] | None = None
    """Sex of the patient."""
    contrast: Contrast | None = None
    """Timing of the contrast agent: chase (right heart washed out), mixed (both sides bright), early (right side brighter), venous, none."""
    phase: float | None = None
    """Phase of the heart, 0 (end-diastole) to 1 (end-systole)."""
    metal: bool | None = None
    """Metal in or near the heart: leads, valves, wires, stents."""
    location_mm: float | None = None
    """Height of the middle of the field of view over that of the heart, in mm; negative looks lower."""
    volume: tuple[str, ...] = ()
    """Volumes in mL inside the field of view, e.g. ``LAA=12 LV=140``."""

    def __post_init__(self) -> None:
        if self.phase is not None and not 0.0 <= self.phase <= 1.0:
            raise ValueError(f"--phase must lie between 0 (end-diastole) and 1 (end-systole), not {self.phase}")
        if self.location_mm is not None and not abs(self.location_mm) <= MOST_MM:
            raise ValueError(f"--location-mm must lie within {MOST_MM:g} mm of the heart, not {self.location_mm}")
        self.volumes_ml()

    def volumes_ml(self) -> dict[str, float]:
        """The volumes asked for; raises `ValueError` for anything but ``STRUCTURE=ML``."""
        found: dict[str, float] = {}
        for text in self.volume:
            key, _, number = text.partition("=")
            if key.upper() in found:
                raise ValueError(f"--volume: {key.upper()} is given twice")
            try:
                found[key.upper()] = float(number)
            except ValueError:
                found[key.upper()] = math.nan
            if key.upper() not in ID or not 0.0 < found[key.upper()] <= MOST_ML:
                raise ValueError(f"--volume: {text!r} is not STRUCTURE=ML with a structure of {', '.join(KEYS)} and a volume in mL, as in LAA=12")
        return found

    def describe(self) -> dict[str, Any]:
        """What is asked for, as flat JSON values."""
        plain = {k: getattr(self, k) for k in ("sex", "contrast", "phase", "metal", "location_mm")}
        return {k: v for k, v in plain.items() if v is not None} | ({"volumes_ml": self.volumes_ml()} if self.volume else {})


@dataclass(frozen=True)
class Scales:
    """Mean and SD of the logarithm of each structure's volume (mL) in the training cases, in the order of `KEYS`."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]


def timing_of(left_hu: float, right_hu: float) -> Contrast:
    """The timing that blood of so many HU in the left and in the right ventricle is named by.

    As virtual patients have it: alike and hardly brighter than muscle, alike and faint, brighter on the right, washed out there, or bright on
    both sides. The last two go over into each other.
    """
    if max(left_hu, right_hu) < 65.0:
        return "none"
    if right_hu > 1.4 * left_hu:
        return "early"
    if max(left_hu, right_hu) < 180.0 and right_hu > 0.75 * left_hu:
        return "venous"
    return "mixed" if right_hu > min(240.0, 0.75 * left_hu) else "chase"


def metal_of(attributes: Mapping[str, Any]) -> bool | None:
    """Whether a case's attributes say that it shows metal: a list of what there is, or yes and no; None where they do not say."""
    metal = attributes.get("metal")
    return bool(metal) if isinstance(metal, list | bool) else None


def measured(
    attributes: Mapping[str, Any], label: NDArray[np.uint8], spacing: tuple[float, float, float], image: NDArray[Any] | None = None
) -> Conditions:  # fmt: skip
    """The conditions that a case fulfills: volumes and location from its label map [x, y, z], the rest from its attributes.

    An attribute that is missing, or is not one of the values known here, stays open, but for the contrast timing where there is an `image`
    [x, y, z] in HU to see it in (`timing_of`). So does the volume of a structure that is not there.
    """
    sex, contrast, phase = (attributes.get(k) for k in ("sex", "contrast", "phase"))
    if contrast not in CONTRASTS and image is not None:
        left, right = (image[label == ID[k]] for k in ("LV", "RV"))
        contrast = timing_of(float(np.median(left)), float(np.median(right))) if left.size and right.size else None
    counts = np.bincount(label.ravel(), minlength=LABEL_COUNT) * float(np.prod(spacing)) / 1000.0
    affine = np.diag([*spacing, 1.0])
    heart = heart_center(label, affine)
    middle = (label.shape[2] - 1) / 2 * spacing[2]
    return Conditions(
        sex=sex if sex in ("F", "M") else None, contrast=contrast if contrast in CONTRASTS else None,
        phase=float(phase) if isinstance(phase, int | float) and 0.0 <= phase <= 1.0 else None,
        metal=metal_of(attributes),
        location_mm=None if heart is None else float(np.clip(middle - heart[2], -MOST_MM, MOST_MM)),
        volume=tuple(f"{k}={min(counts[ID[k]], MOST_ML):.4g}" for k in KEYS if counts[ID[k]] > 0),
    )  # fmt: skip


def volume_scales(cases: Sequence[Conditions]) -> Scales:
    """Mean and SD of the log volumes of `cases`; a structure that none or all alike have gets mean 0 or SD 1."""
    mean, sd = [], []
    for key in KEYS:
        logs = [math.log(max(v[key], LEAST_ML)) for c in cases if key in (v := c.volumes_ml())]
        mean.append(float(np.mean(logs)) if logs else 0.0)
        spread = float(np.std(logs)) if logs else 0.0
        sd.append(spread if spread > 1e-3 else 1.0)
    return Scales(tuple(mean), tuple(sd))


def encode(case: Conditions, scales: Scales) -> Tensor:
    """The vector (`WIDTH`,) that a network sees."""
    values, known = torch.zeros(VALUES), torch.zeros(FLAGS)

    def put(group: str, *numbers: float) -> None:
        at = GROUPS.index(group)
        values[_group_of_value == at] = torch.tensor(numbers)
        known[at] = 1.0

    if case.sex is not None:
        put("sex", 1.0 if case.sex == "M" else -1.0)
    if case.location_mm is not None:
        put("location", case.location_mm / LOCATION_MM)
    if case.metal is not None:
        put("metal", 1.0 if case.metal else -1.0)
    if case.contrast is not None:
        put("contrast", *(float(c == case.contrast) for c in CONTRASTS))
    if case.phase is not None:
        put("phase", 2.0 * case.phase - 1.0)
    for key, ml in case.volumes_ml().items():
        i = KEYS.index(key)
        put(key, (math.log(max(ml, LEAST_ML)) - scales.mean[i]) / scales.sd[i])
    return torch.cat([values, known])


def decode(vector: Tensor, scales: Scales) -> Conditions:
    """The inverse of `encode`."""
    values, known = vector[:VALUES].double(), vector[VALUES:] > 0.5

    def at(group: str) -> Tensor | None:
        i = GROUPS.index(group)
        return values[_group_of_value == i] if known[i] else None

    sex, location, metal, contrast, phase = (at(g) for g in GROUPS[:5])
    most = math.log(MOST_ML)
    volumes = {k: math.exp(min(float(v) * scales.sd[i] + scales.mean[i], most)) for i, k in enumerate(KEYS) if (v := at(k)) is not None}
    return Conditions(
        sex=None if sex is None else "M" if float(sex) > 0 else "F", contrast=None if contrast is None else CONTRASTS[int(contrast.argmax())],
        phase=None if phase is None else min(max((float(phase) + 1.0) / 2.0, 0.0), 1.0), metal=None if metal is None else bool(float(metal) > 0),
        location_mm=None if location is None else min(max(float(location) * LOCATION_MM, -MOST_MM), MOST_MM),
        volume=tuple(f"{k}={v:.4g}" for k, v in volumes.items()),
    )  # fmt: skip


def forget(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors (N, `WIDTH`) of which some conditions are unknown at random, so that the network learns to do with any subset.

    Half keep all, a tenth lose all (Ho and Salimans 2022: what guidance needs), the others lose each condition with probability 0.5.
    """
    count = len(vectors)
    kind = torch.rand(count, 1, generator=generator)
    each = torch.rand(count, FLAGS, generator=generator) < 0.5
    keep = torch.where(kind < 0.5, torch.ones_like(each), torch.where(kind < 0.6, torch.zeros_like(each), each)).to(vectors)
    return torch.cat([vectors[:, :VALUES] * keep[:, _group_of_value], vectors[:, VALUES:] * keep], dim=1)


def donor(asked: Conditions, training: Tensor, scales: Scales, index: int, generator: torch.Generator) -> int:
    """Number of the training case (`training`: vectors (N, `WIDTH`)) that fulfills what is asked of sex, contrast and metal and lies near the rest.

    With nothing of phase, location and volumes asked, the cases that suit take turns by `index`.
    """
    vector = encode(asked, scales)
    known = vector[VALUES:] > 0.5
    exact = torch.tensor([g in ("sex", "contrast", "metal") for g in GROUPS]) & known
    distance = (training[:, :VALUES] - vector[:VALUES]).square()
    # What a case does not know of itself lies as far as any other does on average, and is no proof of sex, contrast or metal.
    distance = torch.where(training[:, VALUES:][:, _group_of_value] > 0.5, distance, 1.0)
    differs = (distance * exact[_group_of_value]).sum(1) > 1e-6
    near = (distance * (known & ~exact)[_group_of_value]).sum(1)
    if not differs.all():
        near = torch.where(differs, math.inf, near)
    weight = torch.exp(-0.5 * (near - near.min()) / 0.5**2)
    turn = torch.rand((), generator=generator)
    if float(near[near.isfinite()].max()) > 0:
        return int(torch.searchsorted(weight.cumsum(0), turn * weight.sum()).clamp(max=len(weight) - 1))
    suited = (weight >= weight.max()).nonzero()[:, 0]
    return int(suited[index % len(suited)])


def learned(training: Tensor) -> Tensor:
    """Which entries (`WIDTH`,) of a vector any of the training cases (N, `WIDTH`) knows, as ones: of others a network has seen nothing but zeros."""
    flags = (training[:, VALUES:] > 0.5).any(0).to(training)
    return torch.cat([flags[_group_of_value], flags])


def labeled(vectors: Tensor) -> tuple[str, ...]:
    """Keys of the structures whose volume any of the vectors (N, `WIDTH`) knows."""
    known = (vectors[:, WIDTH - len(KEYS) :] > 0.5).any(0).tolist()
    return tuple(k for k, there in zip(KEYS, known, strict=True) if there)


def location_sd(vectors: Tensor) -> float:
    """SD in mm of the location of a case's views about that of the first one, which is not moved, over vectors (views, N, `WIDTH`)."""
    value, flag = PLACED
    known = vectors[:, (vectors[..., flag] > 0.5).all(0), value]
    return float((known - known[:1]).square().mean().sqrt()) * LOCATION_MM if known.numel() else 0.0


def _volume_moments(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and SD of each structure's volume over the vectors (N, `WIDTH`) that know it, in the unit of their scales."""
    values, known = vectors[:, _FIRST_VOLUME:VALUES], vectors[:, WIDTH - len(KEYS) :]
    count = known.sum(0).clamp(min=1)
    mean = (values * known).sum(0) / count
    return mean, (((values - mean) * known).square().sum(0) / count).sqrt()


def complete(
    asked: Conditions, training: Tensor, scales: Scales, index: int, generator: torch.Generator, spread: float = VOLUME_SPREAD,
    among: Tensor | None = None, location_sd_mm: float = 0.0,
) -> Conditions:  # fmt: skip
    """Fill in what `asked` leaves open, as in the training cases: those of one case (a donor) with other volumes and a location near its own.

    The donor is one that fulfills what is asked of sex, contrast and metal, where there is one, and lies near the phase and volumes asked for.
    With nothing of these asked, the donors take turns by `index`, so that a set of pairs is as varied as the cohort. Volumes then move by a
    smoothed bootstrap that keeps their mean m and SD s (Silverman 1986, section 6.4): ``m + (z - m + h s e) / sqrt(1 + h^2)``, h = `spread`.
    Where the location asked for lies more than `APART_MM` from the donor's, they stay open: other parts are cut off there.

    Args:
        asked: what is asked for; stays as it is.
        training: vectors (N, `WIDTH`) of the training cases.
        scales: those of `training`.
        index: number of the pair.
        generator: source of the draw.
        spread: h.
        among: vectors of the cases whose SD is s; those of `training` unless given.
        location_sd_mm: SD of what the location is moved by: views in training were moved so, and a set of pairs has its hearts where they had.

    Raises:
        InputError: there are no training cases.
    """
    if not len(training):
        raise InputError("this model keeps no conditions of its training cases: ask for all, or take --no-complete")
    # The location belongs to the view, not to the patient: every patient can be looked at from there.
    drawn = training[donor(replace(asked, location_mm=None), training, scales, index, generator)].clone()
    noise = torch.randn(len(KEYS), generator=generator)
    if asked.location_mm is not None and abs(asked.location_mm - float(drawn[PLACED[0]]) * LOCATION_MM) > APART_MM:
        drawn[WIDTH - len(KEYS) :] = 0.0
    drawn[PLACED[0]] += location_sd_mm / LOCATION_MM * float(torch.randn((), generator=generator)) * drawn[PLACED[1]]
    # Views have set the unit (`scales`): of the cases alone the SD is another.
    mean, _ = _volume_moments(training)
    _, sd = _volume_moments(training if among is None else among)
    z = drawn[_FIRST_VOLUME:VALUES]
    drawn[_FIRST_VOLUME:VALUES] = (mean + (z - mean + spread * sd * noise) / math.sqrt(1 + spread**2)) * drawn[WIDTH - len(KEYS) :]
    filled, volumes = decode(drawn, scales), asked.volumes_ml()
    others = tuple(v for v in filled.volume if v.partition("=")[0] not in volumes)
    given = {k: v for k in ("sex", "contrast", "phase", "metal", "location_mm") if (v := getattr(asked, k)) is not None}
    return replace(filled, **given, volume=(*asked.volume, *others))
