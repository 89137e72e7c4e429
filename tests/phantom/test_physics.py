"""Noise spectrum, metal artifacts and motion."""

import dataclasses

import numpy as np
import pytest

from auricle.phantom import draw_patient, render
from auricle.phantom.metal import Projector, add_metal
from auricle.phantom.physics import correlated_noise, noise_sd


@pytest.mark.parametrize("peak", [0.12, 0.24, 0.30])
def test_noise_spectrum_peaks_where_asked(peak: float) -> None:
    noise = correlated_noise((24, 160, 160), (1.0, 0.7, 0.7), np.random.default_rng(1), peak)
    assert noise.std() == pytest.approx(1, abs=1e-3)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(160, 0.7), np.fft.fftfreq(160, 0.7)))
    bins = np.arange(0.02, 0.7, 0.04)
    which = np.digitize(f, bins)
    radial = [power[which == k].mean() for k in range(1, len(bins))]
    assert abs(0.5 * (bins[:-1] + bins[1:])[int(np.argmax(radial))] - peak) <= 0.045


def test_coarser_voxels_are_smoother() -> None:
    sds = [noise_sd(24, (s, s, s)) for s in (0.4, 0.8, 1.5, 2.5)]
    assert sds[0] == 24
    assert sds == sorted(sds, reverse=True)
    assert sds[-1] > 5


def test_projector_inverts_itself() -> None:
    n = 64
    y, x = np.meshgrid(*(np.arange(n) - 31.5,) * 2, indexing="ij")
    disk = (np.hypot(x, y) < 20).astype(np.float32)
    projector = Projector(n)
    back = projector.reconstruct(projector.forward @ disk.reshape(-1, 1)).reshape(n, n)
    assert back[np.hypot(x, y) < 15].mean() == pytest.approx(1, abs=0.05)
    assert abs(back[np.hypot(x, y) > 27].mean()) < 0.05


def test_metal_streaks_only_in_its_slices() -> None:
    image = np.zeros((6, 48, 40), np.float32)
    occupancy = np.zeros_like(image)
    occupancy[2, 20:23, 15:18] = 1
    slices = add_metal(image, occupancy, (2.0, 2.0, 2.0), np.random.default_rng(0))
    assert slices.tolist() == [2]
    assert image[2, 20:23, 15:18].min() > 1000
    assert image[2].min() < -50
    assert not image[[0, 1, 3, 4, 5]].any()


def test_metal_in_a_patient_is_bright_and_listed() -> None:
    patient = draw_patient(31, metal=["prosthetic valve"])
    case = render(patient, (60, 60, 50), (2.5, 2.5, 2.5))
    plain = render(dataclasses.replace(patient, metal=()), (60, 60, 50), (2.5, 2.5, 2.5))
    assert case.attributes["metal"] == ["prosthetic valve"]
    np.testing.assert_array_equal(case.label, plain.label)
    assert case.image.max() > plain.image.max() + 500


def test_motion_blurs_the_heart_only() -> None:
    still = dataclasses.replace(draw_patient(32, metal=False), noise_sd_hu=0.0, motion_mm=0.0)
    moving = dataclasses.replace(still, motion_mm=4.0)
    a, b = (render(p, (80, 80, 64), (2.5, 2.5, 2.5)).image.astype(int) for p in (still, moving))
    change = np.abs(a - b)
    assert change[30:50, 30:50, 22:42].mean() > 2
    assert change[0].max() <= 1
