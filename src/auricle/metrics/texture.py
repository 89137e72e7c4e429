"""Noise texture of a CT volume: SD and noise power spectrum (NPS) in three tissues, and noise that copies a texture.

Inside a mask the trend is taken away, the autocovariance of the rest is averaged over all pairs of voxels that both lie in the
mask, and its Fourier transform is the NPS (Wiener-Khinchin theorem; in-plane NPS in HU^2 mm^2 as in AAPM TG-233). Masks may have
any shape, and what lies outside them has no influence. Volumes are [x, y, z], spacings in mm along x, y, z.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, special, stats

from auricle.core.anatomy import BACKGROUND, ID

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Volume = NDArray[np.float64]
Triple = tuple[float, float, float]

TISSUES = ("blood", "myocardium", "fat")
CLASSES = (*TISSUES, "lung", "bone", "other")
"""Classes of voxels that a `Grain` tells apart; lung, bone and other lie outside the structures."""
POOLS = ("LV", "LA", "RV", "RA", "AO", "PA")
"""Structures filled with blood. The appendage is left out: its trabeculae are texture of their own."""
FAT_HU, LUNG_HU, BONE_HU = (-140.0, -60.0), -500.0, 250.0
AIR_HU = -980.0
"""Below this lies air around the patient or padding, whose residual says nothing about the lung's."""
BLOOD_DEPTH_MM, TISSUE_DEPTH_MM = 4.0, 2.0
"""Voxels this close to the border of blood, or of myocardium and fat, are left out, one voxel at least."""
LEAST_VOXELS = 200
"""A smaller mask has no texture: the SD's own error would exceed 5%."""
TREND = (5.0, 2.5)
"""SD of the Gaussian that takes the trend: mm, and the least number of voxels. CT noise has little power below its cut,
1 / (2 pi 5 mm) = 0.03 per mm; the mixing of contrast, motion and beam hardening have little above it."""
PEAK_FROM = 1.5
"""The NPS's peak is sought from this multiple of the trend's cut, 0.05 per mm, since what structure leaves lies lower."""
PLATEAU = 0.98
"""Share of the NPS's maximum that counts as much: spectra that reach the Nyquist frequency are flat there, and a thousandth would move their peak."""
LOCAL, COARSE = (4.0, 2.0), (2.0, 1.0)
"""SD of the Gaussian under which a local SD is taken, and of the one that suppresses noise to show structure; mm and voxels as above."""
LOUD = (1.4, 1.6)
"""A voxel holds more than noise where its local SD exceeds the quiet level by this factor, as it is or seen coarsely. Noise
alone hardly ever does: its local SD spreads by about a tenth."""
LEAST_KEPT = 0.9
"""Voxels where removing the trend leaves less of white noise's variance than this are isolated and not measured."""
REACH = (16.0, 4.0)
"""In-plane lags of the covariance: mm, and the least number of voxels. Resolves NPS peaks down to 0.08 per mm, the lowest published."""
FREQUENCIES = 51
"""Frequencies of a reported NPS, from zero to the Nyquist frequency in plane."""
LAGS = 3
"""Lags of a grain's covariance, in voxels to each side."""
SMOOTH_VOXELS = 1.5
"""SD of the Gaussian before HU decide about a class, so that noise does not, and between the classes of an SD map."""
CLIP_SD = 4.0
"""Residuals are clipped here, so that a few edges that a reconstruction missed do not outweigh the noise."""


@dataclass(frozen=True)
class Texture:
    """Noise texture of one tissue."""

    sd_hu: float
    """Square root of the NPS's integral over the in-plane frequency band, the trend excluded."""
    frequency_per_mm: tuple[float, ...]
    power: tuple[float, ...]
    """In-plane NPS in HU^2 mm^2 at these frequencies, averaged over all directions."""


@dataclass(frozen=True)
class Grain:
    """Texture of a volume, small enough to keep as JSON; `Grain(**dataclasses.asdict(grain))` is the same grain."""

    sd_hu: dict[str, float]
    """Robust SD (1.4826 times the median absolute deviation) in each of `CLASSES`."""
    covariance: list[list[list[float]]]
    """Autocovariance at lags -3..3 voxels along x, y, z in blood and myocardium, 1 at lag zero."""


def _sigma(scale: tuple[float, float], spacing: Triple) -> Triple:
    """A scale of (mm, least number of voxels) in voxels along each axis."""
    x, y, z = (max(scale[0] / s, scale[1]) for s in spacing)
    return x, y, z


def _taps(sigma: float) -> Volume:
    at = np.arange(-int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma)) + 1)
    weights = np.exp(-0.5 * (at / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _filtered(values: NDArray[Any], sigma: Triple, power: int = 1) -> Volume:
    """`values` under a Gaussian of `sigma` voxels, its weights raised to `power`; zero beyond the borders."""
    out = values.astype(np.float64)
    for axis, s in enumerate(sigma):
        out = ndimage.correlate1d(out, _taps(s) ** power, axis, mode="constant")
    return out


def _average(values: NDArray[Any], mask: Mask, sigma: Triple) -> Volume:
    """Normalized convolution (Knutsson and Westin 1993): Gaussian average of `values`, zero outside `mask`, over the mask alone."""
    return np.asarray(np.where(mask, _filtered(values, sigma) / np.where(mask, _filtered(mask, sigma), 1.0), 0.0))


def _box(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty, and `margin` voxels around it where there is room."""
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in ndimage.find_objects(mask.astype(np.uint8))[0])


def _centered(values: NDArray[Any], mask: Mask) -> Volume:
    """`values` less the median of their connected piece of `mask` (of the whole mask, for small pieces); zero outside it."""
    pieces, count = ndimage.label(mask)
    median = np.full(count + 1, np.median(values[mask]))
    large = np.flatnonzero(np.bincount(pieces.ravel())[1:] >= LEAST_VOXELS) + 1
    median[large] = ndimage.median(values, pieces, large)
    return np.where(mask, values - median[pieces], 0.0)


def _detrended(values: NDArray[Any], mask: Mask, spacing: Triple) -> tuple[Volume, Mask]:
    """`values` less their trend in `mask`, zero elsewhere, and the voxels that can be measured: none under `LEAST_VOXELS`.

    The trend is the Gaussian average over the mask, once differences between its pieces are gone (chambers differ in contrast).
    It takes along some of the noise. Of white noise's variance a voxel keeps 1 - 2 w(0) / W + sum(w^2) / W^2, with W the sum
    of the weights w in the mask; dividing by its root undoes that. Correlated noise loses what lies below the trend's cut.
    """
    rest, measured = np.zeros(mask.shape), np.zeros(mask.shape, bool)
    if mask.sum() < LEAST_VOXELS:
        return rest, measured
    box, sigma = _box(mask), _sigma(TREND, spacing)
    inside = mask[box]
    centered = _centered(values[box], inside)
    weight = np.where(inside, _filtered(inside, sigma), 1.0)
    own = float(np.prod([_taps(s).max() for s in sigma]))
    left = 1 - 2 * own / weight + _filtered(inside, sigma, 2) / weight**2
    kept = inside & (left > LEAST_KEPT)
    if kept.sum() >= LEAST_VOXELS:
        measured[box] = kept
        rest[box] = np.where(kept, (centered - _average(centered, inside, sigma)) / np.sqrt(np.where(kept, left, 1.0)), 0.0)
    return rest, measured


def _autocovariance(rest: Volume, mask: Mask, reach: tuple[int, int, int]) -> Volume:
    """Mean product of all pairs in `mask` at lags -reach..reach along each axis; `rest` is zero outside the mask."""
    padded = [fft.next_fast_len(n + r, real=True) for n, r in zip(rest.shape, reach, strict=True)]
    lags = np.ix_(*(np.arange(-r, r + 1) for r in reach))
    sums, pairs = (fft.irfftn(np.abs(fft.rfftn(v, padded)) ** 2, padded)[lags] for v in (rest, mask.astype(np.float64)))
    return np.asarray(np.where(pairs > 0.5, sums / np.maximum(pairs, 1.0), 0.0))


def _radial_nps(covariance: Volume, spacing: Triple, reach_mm: float, frequency: Volume) -> Volume:
    """In-plane NPS averaged over all directions, from the covariance at in-plane lags under a Hann taper.

    Over a circle the mean of exp(-2 pi i f lag) is J0(2 pi f |lag|), so the average needs no bins. The taper is 1 at lag
    zero: over the whole band |fx| < 1 / 2dx, |fy| < 1 / 2dy the NPS integrates to the covariance there, the variance.
    """
    x, y = ((np.arange(n) - n // 2) * s for n, s in zip(covariance.shape, spacing[:2], strict=True))
    lag = np.hypot(x[:, None], y[None]).ravel()
    taper = 0.5 + 0.5 * np.cos(np.pi * np.minimum(lag / reach_mm, 1))
    power = special.j0(2 * np.pi * frequency[:, None] * lag) @ (covariance.ravel() * taper)
    return np.asarray(np.maximum(power, 0.0) * spacing[0] * spacing[1])


def texture(image: NDArray[Any], mask: Mask, spacing: Triple) -> Texture | None:
    """Texture of `image` (X, Y, Z) in HU inside `mask` (X, Y, Z), at voxels of `spacing` mm; None under 200 voxels.

    Patterns slower than about 0.03 per mm count as trend, see `TREND`.
    """
    rest, measured = _detrended(image, mask, spacing)
    if not measured.any():
        return None
    box = _box(measured)
    reach_mm = max(REACH[0], REACH[1] * max(spacing[:2]))
    reach = [int(reach_mm / s) for s in spacing[:2]]
    covariance = _autocovariance(rest[box], measured[box], (reach[0], reach[1], 0))[..., 0]
    frequency = np.linspace(0, 0.5 / max(spacing[:2]), FREQUENCIES)
    power = _radial_nps(covariance, spacing, reach_mm, frequency)
    variance = float(covariance[reach[0], reach[1]])
    return Texture(
        sd_hu=float(np.sqrt(max(variance, 0.0))),
        frequency_per_mm=tuple(frequency.tolist()),
        power=tuple(power.tolist()),
    )


def peak_per_mm(frequency_per_mm: ArrayLike, power: ArrayLike, spacing: Triple) -> float | None:
    """Frequency of an NPS's maximum, between the trend's (`PEAK_FROM`) and the Nyquist frequency; None without noise.

    It is the middle of the frequencies around the maximum where the NPS is as good as that (`PLATEAU`).
    """
    f, values = np.asarray(frequency_per_mm), np.asarray(power)
    noise = f >= PEAK_FROM / (2 * np.pi * max(TREND[0], TREND[1] * max(spacing[:2])))
    f, values = f[noise], values[noise]
    top = int(values.argmax())
    if values[top] <= 0:
        return None
    below = np.flatnonzero(values < PLATEAU * values[top])
    first, last = max((i + 1 for i in below if i < top), default=0), min((i - 1 for i in below if i > top), default=len(f) - 1)
    return float((f[first] + f[last]) / 2)


def textures(image: NDArray[Any], label: Labels, spacing: Triple) -> dict[str, Texture | None]:
    """Texture of `image` (X, Y, Z) in HU in each of `TISSUES`, found by `tissue_masks`."""
    return {tissue: texture(image, mask, spacing) for tissue, mask in tissue_masks(image, label, spacing).items()}


def tissue_masks(image: NDArray[Any], label: Labels, spacing: Triple) -> dict[str, Mask]:
    """Voxels (X, Y, Z) well inside blood, myocardium and fat that hold that tissue and noise alone.

    Each structure is eroded on its own; fat is unlabeled and at -140..-60 HU once smoothed. Of these, voxels whose local SD
    stands out (`LOUD`) are dropped: papillary muscles, unmixed contrast, valves, calcium, metal, vessels. The quiet level that
    they are held against is the tissue's: for blood that of the quietest structure, for a jet of contrast may fill a whole atrium.
    """
    fat = _class_map(image, label) == CLASSES.index("fat")
    within = {"blood": [label == ID[key] for key in POOLS], "myocardium": [label == ID["MYO"]], "fat": [fat]}
    masks = {}
    for tissue, parts in within.items():
        depth = BLOOD_DEPTH_MM if tissue == "blood" else TISSUE_DEPTH_MM
        quiet = _quiet(image, [_eroded(part, depth, spacing) for part in parts], spacing)
        # Opening takes crumbs between papillary muscles, and would take half of a thin myocardium.
        masks[tissue] = ndimage.binary_opening(quiet) if tissue == "blood" else quiet
    return masks


def _eroded(mask: Mask, depth_mm: float, spacing: Triple) -> Mask:
    """Voxels of `mask` farther than `depth_mm`, and than the next voxel along any axis, from those in view outside it."""
    out = np.zeros_like(mask)
    if mask.any():
        box = _box(mask, 1)
        inside = mask[box]
        out[box] = inside if inside.all() else ndimage.distance_transform_edt(inside, sampling=spacing) > max(depth_mm, *spacing)
    return out


def _quiet(image: NDArray[Any], parts: list[Mask], spacing: Triple) -> Mask:
    """Voxels of `parts` where no local SD, fine or coarse, exceeds its first quartile in the quietest part by the factors `LOUD`."""
    found = []
    for part in parts:
        rest, measured = _detrended(image, part, spacing)
        if measured.any():
            box = _box(measured)
            fine, inside = rest[box], measured[box]
            coarse = _average(fine, inside, _sigma(COARSE, spacing))
            found.append((box, inside, [np.sqrt(_average(v**2, inside, _sigma(LOCAL, spacing))) for v in (fine, coarse)]))
    quiet = np.zeros(image.shape, bool)
    levels = [min((np.quantile(sd[k][inside], 0.25) for _, inside, sd in found), default=0.0) for k in range(len(LOUD))]
    for box, inside, sd in found:
        quiet[box] |= inside & np.all([s <= f * level for s, f, level in zip(sd, LOUD, levels, strict=True)], 0)
    return quiet


def _class_map(image: NDArray[Any], label: Labels) -> NDArray[np.uint8]:
    """Index into `CLASSES` of every voxel; outside the structures the smoothed image decides."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), SMOOTH_VOXELS)
    fat = (smooth > FAT_HU[0]) & (smooth < FAT_HU[1])
    number = np.select([fat, smooth < LUNG_HU, smooth > BONE_HU], [2, 3, 4], 5)
    number[label != BACKGROUND] = 0
    number[label == ID["MYO"]] = 1
    return number.astype(np.uint8)


def grain(residual: NDArray[Any], image: NDArray[Any], label: Labels, spacing: Triple) -> Grain | None:
    """Texture of `residual` (the image itself, whose trend is taken away, or its difference to another, HU) in the classes of `image` and `label`.

    The trend is taken away first, see `TREND`. A class that is too small to measure takes the SD of blood and myocardium.
    None where these two are too small or have no residual.
    """
    masks = tissue_masks(image, label, spacing)
    classes = _class_map(image, label)
    # Padding and air around the patient would pass for quiet lung.
    masks["lung"] = ndimage.binary_erosion((classes == CLASSES.index("lung")) & (image > AIR_HU))
    masks["bone"] = classes == CLASSES.index("bone")
    masks["other"] = ndimage.binary_erosion(classes == CLASSES.index("other"))
    rests = {name: _detrended(residual, mask, spacing) for name, mask in masks.items()}
    sd_hu = {
        name: float(stats.median_abs_deviation(rest[measured], scale="normal"))
        for name, (rest, measured) in rests.items()
        if measured.any()
    }
    soft = [name for name in ("blood", "myocardium") if sd_hu.get(name, 0.0) > 0]
    if not soft:
        return None
    unit = np.sum([np.clip(rests[name][0] / sd_hu[name], -CLIP_SD, CLIP_SD) for name in soft], 0)
    mask = np.any([rests[name][1] for name in soft], 0)
    box = _box(mask)
    covariance = _autocovariance(unit[box], mask[box], (LAGS, LAGS, LAGS))
    covariance /= covariance[LAGS, LAGS, LAGS]
    fallback = float(np.mean([sd_hu[name] for name in soft]))
    return Grain({name: sd_hu.get(name, fallback) for name in CLASSES}, covariance.tolist())


def synthesize(shape: tuple[int, int, int], grain: Grain, generator: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise (X, Y, Z) of unit SD with the covariance of `grain`, from its spectrum on a grid that is padded by its lags.

    The spectrum of a covariance that was estimated and cut off may be negative in places: set to zero, and the SD scaled back to one.
    """
    covariance = np.asarray(grain.covariance)
    padded = [fft.next_fast_len(n + 2 * LAGS, real=True) for n in shape]
    centered = np.zeros(padded)
    centered[np.ix_(*(np.arange(n) - n // 2 for n in covariance.shape))] = covariance
    power = np.maximum(fft.rfftn(centered).real, 0.0)
    power /= fft.irfftn(power, padded)[0, 0, 0]
    noise = fft.irfftn(fft.rfftn(generator.standard_normal(padded)) * np.sqrt(power), padded)
    return np.asarray(noise[tuple(slice(n) for n in shape)], np.float32)


def sd_map(grain: Grain, image_hu: NDArray[Any], label: Labels) -> NDArray[np.float32]:
    """SD of the grain in HU at every voxel (X, Y, Z): that of the voxel's class, smoothed so that no step shows between classes."""
    sd = np.array([grain.sd_hu[name] for name in CLASSES], np.float32)[_class_map(image_hu, label)]
    return np.asarray(ndimage.gaussian_filter(sd, SMOOTH_VOXELS))
