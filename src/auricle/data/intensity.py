"""What another scanner, protocol or patient does to voxel values: drawn first (`draw`), then applied to an image alone (`apply`).

The kinds are those of nnU-Net's default augmentation (Isensee et al. 2021: noise, blur, brightness, contrast, low resolution, gamma), said in HU
and mm, and those a CT adds: enhancement apart from tissue, correlated noise, cupping, metal streaks and motion.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from auricle.core.anatomy import ID

Spacing = tuple[float, float, float]

MUSCLE_HU, BLOOD_HU = 60.0, 700.0
"""What is brighter than muscle counts as enhanced; gamma bends the scale from there to dense contrast agent."""
METAL_HU = 2500.0
SIDE_MM = 10.0
"""SD of the Gaussian that carries the sides of the heart beyond their labels."""
_LEFT, _RIGHT = (torch.tensor([ID[k] for k in keys], dtype=torch.uint8) for keys in (("LV", "LA", "LAA", "AO"), ("RV", "RA", "PA")))


@dataclass(frozen=True)
class IntensityConfig:
    """What is drawn, and how often. The defaults change nothing."""

    gain: float = 0.0
    """SD of the logarithm of the factor on HU above muscle (the enhancement)."""
    gamma: float = 0.0
    """SD of the logarithm of the exponent that bends the scale between muscle and dense contrast agent."""
    contrast: float = 0.0
    """SD of the logarithm of the factor on the distance from muscle, below and above it."""
    offset_hu: float = 0.0
    """SD of a constant added to every voxel."""
    noise_hu: float = 0.0
    """Largest SD of added noise; half of the draws are white, half correlated over neighboring voxels as a soft kernel's noise is."""
    blur_probability: float = 0.0
    """Probability of smoothing by a Gaussian (a softer kernel)."""
    blur_mm: tuple[float, float] = (1.0, 3.0)
    """Smallest and largest SD of that Gaussian."""
    coarse_probability: float = 0.0
    """Probability of coarser voxels: the image is averaged along a random set of axes and interpolated back (thicker slices)."""
    coarse_factor: tuple[float, float] = (1.3, 2.5)
    """Smallest and largest factor on the voxels' edges."""
    shade_probability: float = 0.0
    """Probability of a smooth field over the view (cupping, beam hardening)."""
    shade_hu: float = 40.0
    """SD of the amplitude of that field."""
    streak_probability: float = 0.0
    """Probability of a piece of metal (or undiluted contrast agent) with streaks in the slices around it."""
    streak_hu: float = 300.0
    """Largest amplitude of the streaks."""
    motion_probability: float = 0.0
    """Probability of double contours: the image is averaged with itself, moved by up to `motion_mm`."""
    motion_mm: float = 4.0
    """Largest such move along an axis."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            flag = f"--augment.intensity.{f.name.replace('_', '-')}"
            if f.name.endswith("_probability") and not 0.0 <= value <= 1.0:
                raise ValueError(f"{flag} must lie in 0..1, is {value}")
            if isinstance(value, tuple) and not 0.0 < value[0] <= value[1]:
                raise ValueError(f"{flag} must be two ascending positive numbers")
            if isinstance(value, float) and value < 0:
                raise ValueError(f"{flag} must not be negative, is {value}")


@dataclass(frozen=True)
class Streaks:
    """A piece of metal and the streaks it casts."""

    place: tuple[float, float, float]
    """Its center, as shares of the view."""
    radius_mm: float
    angles: tuple[float, ...]
    """Directions of the streaks in the slice, radians."""
    amplitudes_hu: tuple[float, ...]
    height_mm: float
    """SD of their extent along z."""


@dataclass(frozen=True)
class IntensityDraw:
    """Parameters of one change of intensity."""

    gain: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    offset_hu: float = 0.0
    noise_hu: float = 0.0
    noise_correlated: bool = False
    noise_seed: int = 0
    blur_mm: float = 0.0
    coarse: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shade_hu: tuple[float, ...] = ()
    """Coefficients of x, y, z, x^2, y^2, z^2 and xy over the view from -1 to 1."""
    streaks: Streaks | None = None
    motion_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


def draw(config: IntensityConfig, generator: torch.Generator) -> IntensityDraw:
    """Draw the parameters. The same numbers are drawn whatever the settings, so that one setting changes one thing."""
    u = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    n = torch.randn(4, generator=generator, dtype=torch.float64).clamp(-2.5, 2.5).tolist()
    shade = torch.randn(7, generator=generator, dtype=torch.float64).clamp(-2.5, 2.5).tolist()
    r = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    angles, strengths = torch.rand(2, 8, generator=generator, dtype=torch.float64).tolist()
    seed = int(torch.randint(0, 2**62, (), generator=generator))

    def between(bounds: tuple[float, float], share: float) -> float:
        return bounds[0] * math.pow(bounds[1] / bounds[0], share)

    coarse = tuple(between(config.coarse_factor, r[0]) if v < 0.5 else 1.0 for v in r[1:4])
    streaks = Streaks(
        place=(r[4], r[5], r[6]), radius_mm=1.0 + 5.0 * u[8] ** 2, angles=tuple(math.pi * a for a in angles),
        amplitudes_hu=tuple(config.streak_hu * u[9] * (2 * s - 1) for s in strengths), height_mm=2.0 + 6.0 * u[10],
    )  # fmt: skip
    return IntensityDraw(
        gain=math.exp(config.gain * n[0]), gamma=math.exp(config.gamma * n[1]), contrast=math.exp(config.contrast * n[2]),
        offset_hu=config.offset_hu * n[3], noise_hu=config.noise_hu * u[0] ** 2, noise_correlated=u[1] < 0.5, noise_seed=seed,
        blur_mm=between(config.blur_mm, u[2]) if u[3] < config.blur_probability else 0.0,
        coarse=(coarse[0], coarse[1], coarse[2]) if u[4] < config.coarse_probability else (1.0, 1.0, 1.0),
        shade_hu=tuple(config.shade_hu * v / 2 for v in shade) if u[5] < config.shade_probability else (),
        streaks=streaks if u[6] < config.streak_probability else None,
        motion_mm=(config.motion_mm * (2 * r[7] - 1), config.motion_mm * (2 * r[8] - 1), config.motion_mm * (2 * u[11] - 1))
        if u[7] < config.motion_probability else (0.0, 0.0, 0.0),
    )  # fmt: skip


def apply(params: IntensityDraw, image: Tensor, spacing: Spacing) -> Tensor:
    """The image (X, Y, Z) in HU at `spacing` mm, changed: first the patient, then the scan, the kernel and the noise last."""
    if any(params.motion_mm):
        image = (image + _shift(image, params.motion_mm, spacing)) / 2
    image = _tone(params, image)
    if params.shade_hu:
        image = image + _shade(params.shade_hu, image.shape)
    if params.streaks is not None:
        image = _streaks(params.streaks, image, spacing)
    if params.blur_mm:
        image = gaussian(image, (params.blur_mm / spacing[0], params.blur_mm / spacing[1], params.blur_mm / spacing[2]))
    if max(params.coarse) > 1.0:
        image = _coarse(image, params.coarse)
    if params.noise_hu > 0.5:
        image = image + params.noise_hu * _noise(params, image.shape)
    return image


def retime(image: Tensor, label: Tensor, left: float, right: float, spacing: Spacing) -> Tensor:
    """The image (X, Y, Z) in HU as with another timing of the contrast agent: the enhancement times `left` in the left heart, `right` in the right.

    `label` (X, Y, Z) says where the two lie. Vessels without a label follow the side that is nearer; far from both, where bone is as bright as
    blood, nothing changes. What is brighter than blood (metal, calcium) keeps its distance from it.
    """
    sd = (SIDE_MM / spacing[0], SIDE_MM / spacing[1], SIDE_MM / spacing[2])
    sides = [torch.isin(label, side) for side in (_LEFT, _RIGHT)]
    brightest = max([float(image[side].median()) for side in sides if side.any()], default=BLOOD_HU)
    top = MUSCLE_HU + 1.3 * max(brightest - MUSCLE_HU, 0.0) + 50.0
    masks = [side.float() for side in sides]
    # Inside a chamber its own side counts most, however near the other one is.
    near_left, near_right = (gaussian(mask, sd) + 3 * mask for mask in masks)
    factor = (near_left * left + near_right * right + 0.03) / (near_left + near_right + 0.03)
    return torch.where(image > MUSCLE_HU, MUSCLE_HU + (image.clamp(max=top) - MUSCLE_HU) * factor + (image - top).clamp(min=0.0), image)


def factors_for(blood_hu: float, image: Tensor, label: Tensor) -> tuple[float, float]:
    """Factors of `retime` that bring blood of the left and of the right heart to `blood_hu`: a venous scan, or one without contrast agent.

    Below `MUSCLE_HU` they are negative. A side that is not enhanced, or not in view, keeps what it has, and one that hardly is comes less far: its
    noise would be multiplied too.
    """
    factors = []
    for side in (_LEFT, _RIGHT):
        blood = image[torch.isin(label, side)]
        factors.append(factor_for(blood_hu, float(blood.median()) if len(blood) else MUSCLE_HU, 2.0))
    return factors[0], factors[1]


def factor_for(wanted_hu: float, hu: float, most: float) -> float:
    """Factor of `retime`, from -0.5 to `most`, that brings blood of `hu` to `wanted_hu`; 1 where there is hardly any enhancement to multiply."""
    excess = hu - MUSCLE_HU
    return min(max((wanted_hu - MUSCLE_HU) / excess, -0.5), most) if excess > 10.0 else 1.0


def gaussian(image: Tensor, sd: tuple[float, float, float]) -> Tensor:
    """The image (X, Y, Z) smoothed by a Gaussian of `sd` voxels along each axis; the borders are continued."""
    out = image[None, None]
    for axis, width in enumerate(sd):
        reach = max(1, math.ceil(2.5 * width))
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(width, 1e-3)) ** 2)
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis], pad[4 - 2 * axis], pad[5 - 2 * axis] = 2 * reach + 1, reach, reach
        out = F.conv3d(F.pad(out, pad, mode="replicate"), (weights / weights.sum()).view(shape))
    return out[0, 0]


def _tone(params: IntensityDraw, image: Tensor) -> Tensor:
    """Enhancement, gamma and contrast, all of which leave muscle as it is; then the offset."""
    if params.gain != 1.0:
        image = torch.where(image > MUSCLE_HU, MUSCLE_HU + (image - MUSCLE_HU) * params.gain, image)
    if params.gamma != 1.0:
        span = BLOOD_HU - MUSCLE_HU
        bent = MUSCLE_HU + span * ((image - MUSCLE_HU).clamp(min=0.0) / span) ** params.gamma
        image = torch.where((image > MUSCLE_HU) & (image < BLOOD_HU), bent, image)
    if params.contrast != 1.0:
        image = MUSCLE_HU + (image - MUSCLE_HU) * params.contrast
    return image + params.offset_hu if params.offset_hu else image


def _axes(shape: torch.Size) -> list[Tensor]:
    """Positions along x, y, z from -1 to 1, each shaped to be broadcast over the volume."""
    return [torch.linspace(-1, 1, n).view([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(shape)]


def _shade(coefficients: tuple[float, ...], shape: torch.Size) -> Tensor:
    x, y, z = _axes(shape)
    a = coefficients
    return a[0] * x + a[1] * y + a[2] * z + a[3] * (x**2 - 1 / 3) + a[4] * (y**2 - 1 / 3) + a[5] * (z**2 - 1 / 3) + a[6] * x * y


def _streaks(streaks: Streaks, image: Tensor, spacing: Spacing) -> Tensor:
    """Lines through the metal in the slices around it, weaker with distance, and the metal itself."""
    x, y, z = ((torch.arange(n) - share * (n - 1)) * s for n, share, s in zip(image.shape, streaks.place, spacing, strict=True))
    x, y = x[:, None], y[None, :]
    distance = (x**2 + y**2).sqrt()
    plane = torch.zeros(distance.shape)
    for angle, amplitude in zip(streaks.angles, streaks.amplitudes_hu, strict=True):
        across = math.cos(angle) * x + math.sin(angle) * y
        plane += amplitude * torch.exp(-0.5 * (across / (1.0 + 0.05 * distance)) ** 2)
    plane *= torch.exp(-distance / 60.0)
    image = image + plane[:, :, None] * torch.exp(-0.5 * (z / streaks.height_mm) ** 2)
    metal = (distance[:, :, None] ** 2 + z**2) <= streaks.radius_mm**2
    return torch.where(metal, torch.full_like(image, METAL_HU), image)


def _coarse(image: Tensor, factors: tuple[float, float, float]) -> Tensor:
    """Averaged to fewer voxels along each axis and interpolated back."""
    x, y, z = (max(2, round(n / f)) for n, f in zip(image.shape, factors, strict=True))
    small = F.interpolate(image[None, None], size=(x, y, z), mode="area")
    return F.interpolate(small, size=list(image.shape), mode="trilinear", align_corners=False)[0, 0]


def _shift(image: Tensor, move_mm: tuple[float, float, float], spacing: Spacing) -> Tensor:
    """The image moved by whole voxels, its borders continued."""
    for axis, (move, step) in enumerate(zip(move_mm, spacing, strict=True)):
        index = (torch.arange(image.shape[axis]) - round(move / step)).clamp(0, image.shape[axis] - 1)
        image = image.index_select(axis, index)
    return image


def _noise(params: IntensityDraw, shape: torch.Size) -> Tensor:
    """Noise of SD 1."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(params.noise_seed))
    if not params.noise_correlated:
        return noise
    smooth = gaussian(noise, (0.7, 0.7, 0.7))
    return smooth / smooth.std().clamp(min=1e-6)
