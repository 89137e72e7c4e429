"""Measures of images against their formulas, in limits and on planted faults."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from auricle.metrics import fidelity
from auricle.metrics.fidelity import (
    CARDIAC_HU,
    HU_EDGES,
    diversity,
    histogram_distance,
    hu_histogram,
    ms_ssim_between,
    psnr,
    rmse_hu,
    ssim,
)

Image = NDArray[np.float64]


def smooth(seed: int, shape: tuple[int, int, int] = (32, 32, 32), size: float = 3.0) -> Image:
    """A smooth random volume of mean 0 and SD 400 HU."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), size, mode="wrap")
    return 400 * field / field.std()


def statistics(a: Image, b: Image, window: int) -> tuple[Image, Image]:
    """Luminance times contrast-structure, and contrast-structure alone, on 0..1 (Wang et al. 2004, equations 6 to 13)."""
    inside = (slice(window // 2, -(window // 2)),) * 3

    def blur(x: Image) -> Image:
        result: Image = ndimage.gaussian_filter(x, 1.5, radius=window // 2)[inside]
        return result

    mean_a, mean_b = blur(a), blur(b)
    variance = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    structure = (2 * (blur(a * b) - mean_a * mean_b) + 0.03**2) / (variance + 0.03**2)
    return (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2) * structure, structure


def to_unit(x: Image) -> Image:
    return (np.clip(x, -1000, 1000) + 1000) / 2000


def test_rmse_and_psnr_of_a_constant_offset() -> None:
    a = smooth(0).clip(-900, 900)
    assert rmse_hu(a, a + 20) == pytest.approx(20)
    assert psnr(a, a + 20) == pytest.approx(40)
    assert psnr(a, a) == np.inf
    assert rmse_hu(a, a + 20) == pytest.approx(rmse_hu(a + 20, a))
    whole = np.round(a).astype(np.int16)
    assert rmse_hu(whole, whole + 20) == pytest.approx(20)
    # No overflow of int16, and nothing beyond the range counts.
    low, high = np.full((4, 4, 4), -20000, np.int16), np.full((4, 4, 4), 20000, np.int16)
    assert rmse_hu(low, high) == 2000
    assert psnr(low, high) == pytest.approx(0)


def test_psnr_falls_by_six_decibels_when_the_error_doubles() -> None:
    a, noise = smooth(0) / 4, smooth(1) / 40
    assert psnr(a, a + noise) - psnr(a, a + 2 * noise) == pytest.approx(20 * np.log10(2))
    # The same error is more of a narrower range.
    assert psnr(a, a, CARDIAC_HU) == np.inf
    inside = a.clip(-100, 500)
    assert psnr(inside, inside + 10) - psnr(inside, inside + 10, CARDIAC_HU) == pytest.approx(20 * np.log10(2000 / 800))


def test_ssim_agrees_with_its_formula() -> None:
    a = smooth(0)
    b = a + smooth(1, size=1.0) / 4
    assert ssim(a, b) == pytest.approx(statistics(to_unit(a), to_unit(b), 11)[0].mean(), abs=1e-4)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-6)
    small = (slice(0, 8),) * 3
    assert ssim(a[small], b[small]) == pytest.approx(statistics(to_unit(a[small]), to_unit(b[small]), 7)[0].mean(), abs=1e-4)


def test_ssim_is_one_for_equal_images_and_falls_with_noise_and_blur() -> None:
    a = smooth(0, (24, 24, 24))
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)
    noise = smooth(1, a.shape, size=0.5)
    noisy = [ssim(a, a + share * noise) for share in (0.05, 0.2, 0.8)]
    assert 1 > noisy[0] > noisy[1] > noisy[2]
    blurred = [ssim(a, ndimage.gaussian_filter(a, s)) for s in (0.5, 1.0, 2.0)]
    assert 1 > blurred[0] > blurred[1] > blurred[2]
    # Beyond the range nothing counts.
    assert ssim(a, np.where(a > 600, 3000, a), CARDIAC_HU) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("edge", "scales"), [(8, 1), (16, 2), (32, 3), (64, 4)])
def test_ms_ssim_agrees_with_its_formula(edge: int, scales: int) -> None:
    a = smooth(0, (edge, edge, edge))
    b = 0.8 * a + smooth(1, a.shape, size=2.0) / 2 + 100
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    x, y, expected = to_unit(a), to_unit(b), 1.0
    for scale, weight in enumerate(weights / weights.sum(), start=1):
        both, structure = statistics(x, y, 7)
        expected *= max(0.0, float((both if scale == scales else structure).mean())) ** weight
        half = edge >> scale
        x, y = (v.reshape(half, 2, half, 2, half, 2).mean(axis=(1, 3, 5)) for v in (x, y))
    assert expected < 0.95
    assert ms_ssim_between([a, b], [(0, 1)])[0] == pytest.approx(expected, abs=1e-3)


def test_ms_ssim_is_one_for_copies_and_near_zero_for_strangers() -> None:
    """Noise has to be coarse: the fine sort is averaged away at the coarser scales, where all is alike then."""
    volumes = [
        np.repeat(np.repeat(np.repeat(1000 * np.random.default_rng(i).choice([-1, 1], (8, 8, 8)), 4, 0), 4, 1), 4, 2)
        for i in range(3)
    ]
    values = ms_ssim_between([*volumes, volumes[0].copy()], [(0, 3), (0, 1), (1, 2), (2, 1)])
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[1:3].max() < 0.1
    assert values[2] == pytest.approx(values[3], abs=1e-6)


def test_a_set_is_more_diverse_the_more_its_volumes_differ() -> None:
    base, shape = smooth(0, (16, 16, 16)), (16, 16, 16)
    spread = [
        diversity([base + share * smooth(i, shape) for i in range(1, 5)], np.random.default_rng(0)) for share in (0.0, 0.2, 0.6)
    ]
    assert spread[0] == pytest.approx(1, abs=1e-6)
    assert 1 > spread[1] > spread[2] > 0


def test_diversity_draws_distinct_pairs_from_its_generator() -> None:
    volumes = [smooth(i, (16, 16, 16)) for i in range(4)]
    every = ms_ssim_between(volumes, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    assert diversity(volumes, np.random.default_rng(0)) == pytest.approx(every.mean())
    singles = {round(diversity(volumes, np.random.default_rng(i), pairs=1), 5) for i in range(30)}
    assert singles == {round(float(v), 5) for v in every}


def test_diversity_of_large_volumes_is_that_at_half_the_resolution() -> None:
    volumes = [smooth(i, (80, 80, 64)) for i in range(2)]
    halved = [v.clip(-1000, 1000).reshape(40, 2, 40, 2, 32, 2).mean(axis=(1, 3, 5)) for v in volumes]
    assert diversity(volumes, np.random.default_rng(0)) == pytest.approx(ms_ssim_between(halved, [(0, 1)])[0], abs=1e-6)
    # Noise that differs between scans counts for less than it does at full resolution.
    noisy = [np.random.default_rng(i).normal(0, 60, (64, 64, 64)) for i in range(2)]
    assert diversity(noisy, np.random.default_rng(0)) > ms_ssim_between(noisy, [(0, 1)])[0]


def test_histogram_distance_is_the_shift_in_hu() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 40, (20, 20, 20))
    mask = rng.random(image.shape) < 0.5
    here, there = hu_histogram(image, mask), hu_histogram(image + 50, mask)
    assert here.sum() == mask.sum()
    assert len(here) == len(HU_EDGES) - 1
    assert histogram_distance(here, here) == 0
    assert histogram_distance(here, there) == pytest.approx(50)
    assert histogram_distance(there, here) == pytest.approx(50)
    # Neither the number of voxels nor a shift within one bin counts.
    assert histogram_distance(here, 3 * there) == pytest.approx(50)
    # Blur keeps the mean and is seen all the same.
    blurred = hu_histogram(ndimage.gaussian_filter(image, 1), mask)
    assert histogram_distance(here, blurred) > 15  # type: ignore[operator]


def test_histograms_count_what_lies_beyond_their_edges_and_may_be_empty() -> None:
    image = np.array([-3000, -1000, 0, 1000, 3000], np.int16).reshape(5, 1, 1)
    counts = hu_histogram(image, np.ones(image.shape, bool))
    assert (counts.sum(), counts[0], counts[-1]) == (5, 2, 2)
    edges = np.array([-100.0, 0.0, 300.0])
    assert hu_histogram(image, image > -2000, edges).tolist() == [1, 3]
    nothing = hu_histogram(image, np.zeros(image.shape, bool))
    assert histogram_distance(nothing, counts) is None
    assert histogram_distance(counts, nothing) is None


def test_scales_leave_room_for_the_window() -> None:
    for edge in range(7, 200):
        scales = fidelity._scales(edge)
        assert edge >> (scales - 1) >= fidelity.MS_SSIM_WINDOW
    assert [fidelity._scales(edge) for edge in (7, 14, 28, 63, 112)] == [1, 2, 3, 4, 5]
