"""Texture: noise of known SD and spectrum is found in masks of any shape, and is copied by a grain."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.metrics.texture import (
    CLASSES,
    TISSUES,
    Grain,
    Texture,
    _autocovariance,
    grain,
    peak_per_mm,
    sd_map,
    synthesize,
    texture,
    textures,
    tissue_masks,
)  # fmt: skip

Volume = NDArray[np.float64]
Mask = NDArray[np.bool_]
SHAPE, SPACING = (48, 48, 40), (2.0, 2.0, 2.5)
SD = 20.0


def radius_mm(center: tuple[float, float, float], spacing: tuple[float, float, float] = SPACING) -> Volume:
    axes = np.meshgrid(*((np.arange(n) - c) * s for n, c, s in zip(SHAPE, center, spacing, strict=True)), indexing="ij")
    return np.sqrt(sum(a**2 for a in axes))


def white(seed: int = 0) -> Volume:
    return SD * np.random.default_rng(seed).standard_normal(SHAPE)


def ramp_noise(peak: float, seed: int = 0, spacing: tuple[float, float, float] = SPACING) -> Volume:
    """Noise whose in-plane NPS, f exp(-(f / peak)^2 / 2), is largest at the peak; white along z."""
    f = np.hypot(np.fft.fftfreq(SHAPE[0], spacing[0])[:, None], np.fft.fftfreq(SHAPE[1], spacing[1])[None])
    amplitude = np.sqrt(f * np.exp(-0.5 * (f / peak) ** 2))
    noise = np.fft.ifft2(np.fft.fft2(white(seed), axes=(0, 1)) * amplitude[..., None], axes=(0, 1)).real
    return noise * SD / noise.std()


def measured(image: NDArray[Any], mask: Mask, spacing: tuple[float, float, float] = SPACING) -> Texture:
    found = texture(image, mask, spacing)
    assert found is not None
    return found


BALL = radius_mm((24, 24, 20)) < 38


def test_white_noise_has_its_sd_and_a_flat_spectrum() -> None:
    found = measured(white(), BALL)
    assert found.sd_hu == pytest.approx(SD, rel=0.03)
    above = np.array(found.power)[np.array(found.frequency_per_mm) > 0.08]
    assert above.mean() == pytest.approx(SD**2 * SPACING[0] * SPACING[1], rel=0.05)
    assert above.std() < 0.1 * above.mean()


def test_white_noise_keeps_its_sd_in_a_thin_shell() -> None:
    # Without the correction the trend would take 2% of the SD here.
    shell = (radius_mm((24, 24, 20)) < 38) & (radius_mm((24, 24, 20)) > 34)
    sds = [measured(white(seed), shell).sd_hu for seed in range(4)]
    assert np.mean(sds) == pytest.approx(SD, rel=0.01)


@pytest.mark.parametrize("spacing", [SPACING, (1.5, 2.0, 1.0)])
def test_the_spectrum_integrates_to_the_variance(spacing: tuple[float, float, float]) -> None:
    noise = ndimage.gaussian_filter(white(), [2.0 / s for s in spacing[:2]] + [0])  # nothing beyond the Nyquist frequency
    found = measured(SD * noise / noise.std(), BALL, spacing)
    f, power = np.array(found.frequency_per_mm), np.array(found.power)
    assert np.trapezoid(2 * np.pi * f * power, f) == pytest.approx(found.sd_hu**2, rel=0.03)


@pytest.mark.parametrize("peak", [0.08, 0.13, 0.18])
@pytest.mark.parametrize("spacing", [SPACING, (1.6, 2.0, 1.0)])
def test_a_known_peak_is_found(peak: float, spacing: tuple[float, float, float]) -> None:
    found = measured(ramp_noise(peak, spacing=spacing), BALL, spacing)
    assert peak_per_mm(found.frequency_per_mm, found.power, spacing) == pytest.approx(peak, rel=0.1)
    assert found.sd_hu == pytest.approx(SD, rel=0.03)


def test_power_is_the_square_of_the_noise() -> None:
    one, three = measured(ramp_noise(0.13), BALL), measured(3 * ramp_noise(0.13), BALL)
    assert three.sd_hu == pytest.approx(3 * one.sd_hu)
    assert np.allclose(three.power, 9 * np.array(one.power))
    silent = measured(np.full(SHAPE, 40.0), BALL)
    assert silent.sd_hu == 0.0
    assert peak_per_mm(silent.frequency_per_mm, silent.power, SPACING) is None


@pytest.mark.parametrize("bump", [0, 25, 50])
def test_a_thousandth_does_not_move_the_peak_of_a_plateau(bump: int) -> None:
    """From 0.1 per mm on the power is the same, but for the place of the maximum."""
    frequency = np.linspace(0, 0.25, 76)
    power = np.minimum(frequency / 0.1, 1.0)
    power[25 + bump] *= 1.001
    assert peak_per_mm(frequency, power, SPACING) == pytest.approx((0.098 + 0.25) / 2, abs=0.004)


def test_trends_are_no_texture() -> None:
    x, y, z = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    plain = measured(ramp_noise(0.13), BALL).sd_hu
    assert measured(ramp_noise(0.13) + 300, BALL).sd_hu == pytest.approx(plain, rel=1e-9)
    assert measured(ramp_noise(0.13) + 0.6 * x - 0.4 * y + 0.5 * z, BALL).sd_hu == pytest.approx(plain, rel=0.02)


def test_chambers_may_differ_in_contrast() -> None:
    one, other = radius_mm((13, 24, 20)) < 20, radius_mm((35, 24, 20)) < 20
    plain, stained = white(), white() + 400 * one
    assert measured(stained, one | other).sd_hu == pytest.approx(measured(plain, one | other).sd_hu, rel=0.005)


def test_place_and_surroundings_do_not_matter() -> None:
    mask = radius_mm((18, 18, 14)) < 24
    image = ramp_noise(0.13)
    here = measured(image, mask)
    assert measured(np.roll(image, (7, 9, 8), (0, 1, 2)), np.roll(mask, (7, 9, 8), (0, 1, 2))) == here
    assert measured(np.where(mask, image, 1e4), mask) == here
    assert measured(np.where(mask, image, np.nan), mask) == here


def test_small_masks_have_no_texture() -> None:
    crumbs = np.random.default_rng(0).random(SHAPE) < 0.002
    few = np.zeros(SHAPE, bool)
    few[:5, :5, :7] = True
    assert texture(white(), few, SPACING) is None
    assert texture(white(), crumbs, SPACING) is None
    nothing = np.zeros(SHAPE, np.uint8)
    assert textures(white(), nothing, SPACING) == dict.fromkeys(TISSUES)
    assert grain(white(), white(), nothing, SPACING) is None


def test_the_autocovariance_is_that_of_all_pairs_in_the_mask() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((5, 6, 4)) < 0.7
    rest = np.where(mask, rng.standard_normal(mask.shape), 0)
    found = _autocovariance(rest, mask, (2, 3, 1))
    voxels = np.argwhere(mask)
    for lag in ((0, 0, 0), (2, 3, 1), (-2, 1, 0), (1, -3, -1)):
        products = [rest[tuple(a)] * rest[tuple(b)] for a in voxels for b in voxels if tuple(b - a) == lag]
        assert found[2 + lag[0], 3 + lag[1], 1 + lag[2]] == pytest.approx(np.mean(products))


def scene() -> tuple[Volume, NDArray[np.uint8]]:
    """A ventricle with an 8 mm wall, an aorta beside it and an appendage, in fat, with lung at the side and a rib; free of noise."""
    label, image = np.zeros(SHAPE, np.uint8), np.full(SHAPE, -100.0)
    ventricle, aorta, appendage = radius_mm((20, 22, 20)), radius_mm((37, 36, 26)), radius_mm((38, 10, 10))
    for inside, key, hu in (
        (ventricle < 30, "MYO", 100.0), (ventricle < 22, "LV", 350.0), (aorta < 16, "AO", 380.0), (appendage < 14, "LAA", 300.0)
    ):  # fmt: skip
        label[inside], image[inside] = ID[key], hu
    image[(np.arange(SHAPE[1]) < 5)[None, :, None] & (label == 0)] = -850
    image[:2][label[:2] == 0] = 600
    return image, label


def test_masks_lie_well_inside_their_tissue() -> None:
    image, label = scene()
    noisy = image + white()
    masks = tissue_masks(noisy, label, SPACING)
    allowed = {
        "blood": np.isin(label, [ID["LV"], ID["AO"]]),
        "myocardium": label == ID["MYO"],
        "fat": (label == 0) & (image == -100),
    }
    for tissue, mask in masks.items():
        inside = ndimage.binary_erosion(allowed[tissue], border_value=1)
        assert mask.sum() >= 1000
        assert not (mask & ~inside).any()
    assert ndimage.distance_transform_edt(label == ID["LV"], SPACING)[masks["blood"] & (label == ID["LV"])].min() > 4
    found = textures(noisy, label, SPACING)
    assert [found[t].sd_hu for t in TISSUES] == pytest.approx([SD] * 3, rel=0.03)


def test_noise_does_not_choose_fat() -> None:
    image, label = scene()
    clean = ndimage.binary_erosion((label == 0) & (image == -100), border_value=1)
    noisy = tissue_masks(image + 2.5 * white(), label, SPACING)["fat"]
    assert noisy.sum() > 0.6 * clean.sum()
    assert image[noisy].std() == 0
    assert (image + 2.5 * white())[noisy].std() == pytest.approx(2.5 * SD, rel=0.03)


@pytest.mark.parametrize("fault", ["metal", "calcium", "muscle", "mixing"])
def test_what_is_no_noise_is_left_out(fault: str) -> None:
    image, label = scene()
    plain = textures(image + ramp_noise(0.13), label, SPACING)["blood"]
    center = {"metal": (20, 22, 20), "calcium": (16, 22, 18), "muscle": (25, 22, 20), "mixing": (20, 22, 20)}[fault]
    size, hu = {"metal": (6.0, 3000.0), "calcium": (2.5, 700.0), "muscle": (4.0, 100.0), "mixing": (22.0, 0.0)}[fault]
    image[radius_mm(center) < size] = hu
    if fault == "mixing":
        swirl = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(SHAPE), 2)
        image[label == ID["LV"]] = 300 + 80 * (swirl / swirl.std())[label == ID["LV"]]
    found = textures(image + ramp_noise(0.13), label, SPACING)["blood"]
    assert plain is not None
    assert found is not None
    assert found.sd_hu == pytest.approx(plain.sd_hu, rel=0.05)


@pytest.mark.parametrize("peak", [0.1, 0.15])
def test_a_grain_copies_its_residual(peak: float) -> None:
    image, label = scene()
    residual = ramp_noise(peak)
    found = grain(residual, image + residual, label, SPACING)
    assert found is not None
    local, old = sd_map(found, image, label), measured(residual, BALL)
    copies = [measured(synthesize(SHAPE, found, np.random.default_rng(seed)) * local, BALL) for seed in range(3)]
    assert [copy.sd_hu for copy in copies] == pytest.approx([old.sd_hu] * 3, rel=0.05)
    power = np.mean([copy.power for copy in copies], 0)
    assert np.abs(power - old.power).max() < 0.2 * max(old.power)
    assert old.frequency_per_mm[power.argmax()] == pytest.approx(old.frequency_per_mm[int(np.argmax(old.power))], rel=0.15)


def test_a_grain_knows_its_classes_and_is_json() -> None:
    image, label = scene()
    strength = np.select([label > 0, image < -500, image > 250], [1.0, 4.0, 3.0], 2.0)
    found = grain(white() * strength, image, label, SPACING)
    assert found is not None
    wanted = {"blood": 1, "myocardium": 1, "fat": 2, "lung": 4, "bone": 3}
    assert set(found.sd_hu) == set(CLASSES)
    assert {k: found.sd_hu[k] / SD for k in wanted} == pytest.approx(wanted, rel=0.1)
    assert Grain(**json.loads(json.dumps(asdict(found), allow_nan=False))) == found
    sd = sd_map(found, image, label)
    assert sd[20, 22, 20] == pytest.approx(found.sd_hu["blood"], rel=1e-3)
    assert sd.dtype == np.float32
    assert np.abs(np.diff(sd, axis=1)).max() < 0.4 * (max(found.sd_hu.values()) - min(found.sd_hu.values()))


def test_padding_is_not_quiet_lung_and_edges_do_not_drown_noise() -> None:
    image, label = scene()
    residual = white()
    image[:, :2], residual[:, :2] = -1024.0, 0.0
    edges = np.random.default_rng(3).random(SHAPE) < 0.0002
    residual[edges | np.roll(edges, 1, 0)] = 2000.0
    found = grain(residual, image, label, SPACING)
    assert found is not None
    assert found.sd_hu["lung"] == pytest.approx(SD, rel=0.15)
    assert found.sd_hu["blood"] == pytest.approx(SD, rel=0.1)
    copy = synthesize(SHAPE, found, np.random.default_rng(0))
    assert abs(np.corrcoef(copy[1:].ravel(), copy[:-1].ravel())[0, 1]) < 0.1


def test_a_missing_class_takes_the_hearts_sd() -> None:
    image, label = scene()
    image[label == 0] = -100.0
    found = grain(white(), image, label, SPACING)
    assert found is not None
    assert found.sd_hu["bone"] == found.sd_hu["lung"] == pytest.approx(SD, rel=0.05)
    assert grain(np.zeros(SHAPE), image, label, SPACING) is None


def test_an_even_grain_has_an_even_map() -> None:
    image, label = scene()
    even = Grain(dict.fromkeys(CLASSES, 12.5), [[[1.0]]])
    assert np.allclose(sd_map(even, image, label), 12.5, rtol=1e-6)


def test_synthesis_has_unit_sd_the_covariance_asked_for_and_follows_its_generator() -> None:
    taps = np.array([0.25, 0.5, 0.25])
    line = np.convolve(taps, taps)
    line = np.pad(line / line.max(), 1)
    wanted = Grain(dict.fromkeys(CLASSES, 1.0), (line[:, None, None] * line[:, None] * np.eye(7)[3]).tolist())
    noise = synthesize((40, 41, 48), wanted, np.random.default_rng(7))
    assert (noise.shape, noise.dtype) == ((40, 41, 48), np.float32)
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert np.mean(noise[1:] * noise[:-1]) == pytest.approx(line[4], abs=0.03)
    assert np.mean(noise[:, 2:] * noise[:, :-2]) == pytest.approx(line[5], abs=0.03)
    assert np.mean(noise[..., 1:] * noise[..., :-1]) == pytest.approx(0, abs=0.03)
    # The padding keeps opposite faces apart.
    assert abs(np.mean(noise[0] * noise[-1])) < 0.1
    assert np.array_equal(noise, synthesize((40, 41, 48), wanted, np.random.default_rng(7)))
    assert not np.array_equal(noise, synthesize((40, 41, 48), wanted, np.random.default_rng(8)))
