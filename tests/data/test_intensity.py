"""Changes of intensity: drawn apart from applied, nothing by default, and each one does what it says."""

from dataclasses import replace

import pytest
import torch

from auricle.core.anatomy import ID
from auricle.data.augment import any_scanner
from auricle.data.intensity import IntensityConfig, IntensityDraw, Streaks, apply, draw, factors_for, gaussian, retime

SPACING = (2.0, 2.0, 3.0)
ALL = any_scanner().intensity


def drawn(config: IntensityConfig, seed: int = 0) -> IntensityDraw:
    return draw(config, torch.Generator().manual_seed(seed))


def scan(seed: int = 0) -> torch.Tensor:
    """Lung, fat, muscle and blood in a smooth pattern, in HU."""
    field = gaussian(torch.randn(24, 28, 20, generator=torch.Generator().manual_seed(seed)), (2.0, 2.0, 2.0))
    return 2500 * field / field.std() / 4 - 50


def test_the_default_changes_nothing() -> None:
    image = scan()
    assert torch.equal(apply(drawn(IntensityConfig()), image, SPACING), image)


def test_the_same_seed_does_the_same_and_another_does_not() -> None:
    a, b, c = (apply(drawn(ALL, seed), scan(), SPACING) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_setting_leaves_the_other_draws_alone() -> None:
    for seed in range(20):
        some, none = drawn(ALL, seed), drawn(replace(ALL, streak_probability=0.0, motion_probability=0.0), seed)
        assert replace(some, streaks=None, motion_mm=(0.0, 0.0, 0.0)) == none


@pytest.mark.parametrize("params", [IntensityDraw(gain=1.4), IntensityDraw(gamma=0.7), IntensityDraw(contrast=1.2)])
def test_tone_leaves_muscle_and_order_as_they_are(params: IntensityDraw) -> None:
    hu = torch.linspace(-1000, 1500, 5001).view(1, 1, -1)
    after = apply(params, hu, SPACING)
    assert float(apply(params, torch.full((1, 1, 1), 60.0), SPACING)) == pytest.approx(60.0, abs=1e-3)
    assert (after.diff() >= -1e-3).all()
    # Lung and fat belong to the patient, not to the contrast agent.
    assert torch.equal(after[hu < 0], hu[hu < 0]) == (params.contrast == 1.0)


def test_another_timing_scales_each_side_of_the_heart_and_leaves_muscle_and_lung() -> None:
    label = torch.zeros(40, 20, 20, dtype=torch.uint8)
    label[4:14], label[26:36] = ID["LV"], ID["RV"]
    image = torch.full(label.shape, 360.0)
    image[:, :2], image[:, 2:4] = 60.0, -800.0
    after = retime(image, label, 1.5, 0.5, (3.0, 3.0, 3.0))
    assert torch.equal(after[:, :4], image[:, :4])
    assert float(after[9, 12, 12]) == pytest.approx(60 + 300 * 1.5, abs=9)
    assert float(after[31, 12, 12]) == pytest.approx(60 + 300 * 0.5, abs=9)
    # From one side to the other without an edge.
    assert float(after[:, 12, 12].diff().abs().max()) < 120
    assert torch.allclose(retime(image, label, 1.0, 1.0, SPACING), image, atol=0.01)


def test_blood_of_both_sides_can_be_brought_to_one_brightness_and_bone_far_away_stays() -> None:
    label = torch.zeros(60, 20, 20, dtype=torch.uint8)
    label[4:14], label[16:26] = ID["LV"], ID["RA"]
    image = torch.full(label.shape, 90.0)
    image[4:14], image[16:26], image[55:] = 400.0, 160.0, 700.0
    for blood in (40.0, 120.0):
        after = retime(image, label, *factors_for(blood, image, label), (3.0, 3.0, 3.0))
        assert float(after[9, 10, 10]) == pytest.approx(blood, abs=9)
        assert float(after[21, 10, 10]) == pytest.approx(blood, abs=9)
        assert torch.allclose(after[57:], image[57:], atol=5.0)
    assert factors_for(40.0, image, torch.zeros_like(label)) == (1.0, 1.0)


def test_metal_and_calcium_stay_brighter_than_blood_whatever_its_timing() -> None:
    label = torch.zeros(30, 20, 20, dtype=torch.uint8)
    label[4:14], label[16:26] = ID["LV"], ID["RV"]
    for blood in (400.0, 130.0, 75.0):
        image = torch.where(label > 0, blood, 90.0)
        image[20, 10, 10], image[22, 10, 10] = 2500.0, 900.0
        for target in (35.0, 160.0):
            after = retime(image, label, *factors_for(target, image, label), (3.0, 3.0, 3.0))
            assert after[20, 10, 10] > after[22, 10, 10] > after[21, 10, 10] + 200
            assert float(after[20, 10, 10]) > 1800


def test_smoothing_keeps_the_mean_and_lowers_the_spread() -> None:
    image = scan()
    for params in (IntensityDraw(blur_mm=3.0), IntensityDraw(coarse=(2.0, 1.0, 2.0))):
        after = apply(params, image, SPACING)
        assert float(after.mean()) == pytest.approx(float(image.mean()), abs=12)
        assert after.std() < 0.97 * image.std()
        assert after.shape == image.shape
    flat = torch.full((9, 10, 11), -300.0)
    assert torch.allclose(gaussian(flat, (0.7, 2.0, 1.1)), flat, atol=1e-2)


@pytest.mark.parametrize("correlated", [False, True])
def test_noise_has_its_standard_deviation(correlated: bool) -> None:
    noise = apply(IntensityDraw(noise_hu=40.0, noise_correlated=correlated, noise_seed=3), torch.zeros(40, 40, 40), SPACING)
    assert float(noise.std()) == pytest.approx(40, rel=0.03)
    neighbors = float((noise[1:] * noise[:-1]).mean()) / 1600
    assert neighbors > 0.4 if correlated else abs(neighbors) < 0.05


def test_shading_is_smooth_and_of_mean_zero_where_it_is_even() -> None:
    field = apply(IntensityDraw(shade_hu=(0.0, 0.0, 0.0, 30.0, 0.0, 0.0, 0.0)), torch.zeros(41, 5, 5), SPACING)
    assert abs(float(field.mean())) < 2
    assert float(field[0, 0, 0]) == pytest.approx(20, abs=0.5)
    assert float(field.diff(dim=0).abs().max()) < 4


def test_streaks_stay_in_their_slices_and_end_in_metal() -> None:
    streaks = Streaks((0.5, 0.5, 0.5), radius_mm=3.0, angles=(0.3, 1.2), amplitudes_hu=(200.0, -150.0), height_mm=3.0)
    after = apply(IntensityDraw(streaks=streaks), torch.zeros(33, 33, 33), SPACING)
    assert float(after[16, 16, 16]) == 2500
    assert float(after[..., 0].abs().max()) < 1
    assert float(after[16:, 16:, 16].abs().median()) > float(after[16:, 16:, 24].abs().median())


def test_motion_doubles_a_contour() -> None:
    image = torch.zeros(20, 20, 20)
    image[10, 10, 10] = 100.0
    after = apply(IntensityDraw(motion_mm=(4.0, 0.0, -6.0)), image, SPACING)
    assert sorted(after[after > 0].tolist()) == [50.0, 50.0]
    assert float(after[12, 10, 8]) == 50.0


def test_each_kind_is_met_as_often_as_asked() -> None:
    draws = [drawn(ALL, seed) for seed in range(1500)]
    found = {
        "streak": sum(d.streaks is not None for d in draws), "shade": sum(bool(d.shade_hu) for d in draws),
        "motion": sum(any(d.motion_mm) for d in draws), "blur": sum(d.blur_mm > 0 for d in draws),
    }  # fmt: skip
    for name, count in found.items():
        assert count / len(draws) == pytest.approx(getattr(ALL, f"{name}_probability"), abs=0.04)
    # A set of axes may be empty: one coarse draw of eight changes nothing.
    assert sum(max(d.coarse) > 1 for d in draws) / len(draws) == pytest.approx(ALL.coarse_probability * 7 / 8, abs=0.04)


@pytest.mark.parametrize("values", [{"streak_probability": 1.2}, {"blur_mm": (3.0, 1.0)}, {"gain": -0.1}, {"coarse_factor": (0.0, 2.0)}])
def test_impossible_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"--augment\.intensity"):
        IntensityConfig(**values)  # type: ignore[arg-type]
