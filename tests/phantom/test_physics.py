"""Noise, metal, beam hardening, motion, calcium and the reconstruction circle of a virtual scan."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.phantom import Patient, draw_patient, render
from auricle.phantom.anatomy import build_anatomy, warp
from auricle.phantom.metal import metal_field
from auricle.phantom.physics import Resampled, correlated_noise, noise_sd, point_spread, shrink, spread_sd
from auricle.phantom.scanner import METALS, SLICES_MM, draw_scanner
from auricle.phantom.shapes import Grid
from auricle.phantom.tomography import Projector, hardened

SMALL = (64, 64, 64)
COARSE = (2.5, 2.5, 2.5)


def scanned(patient: Patient, **scanner: object) -> Patient:
    """The same person in a scan with other properties."""
    return dataclasses.replace(patient, scanner=dataclasses.replace(patient.scanner, **scanner))  # type: ignore[arg-type]


def plain(seed: int, **forced: object) -> Patient:
    """A patient at rest without metal, calcium or circle."""
    drawn = draw_patient(seed, metal=False, **forced)  # type: ignore[arg-type]
    return scanned(drawn, motion_mm=0.0, step_mm=0.0, reconstruction_mm=None, calcified=(), valve_calcium=False)


def label_of(case: Case) -> NDArray[np.uint8]:
    assert case.label is not None
    return case.label


def peak_of(noise: NDArray[np.floating], spacing: float) -> tuple[float, float]:
    """Frequency at which the radial mean of the in-plane power spectrum of [slices, y, x] peaks, and the bins' width."""
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    f = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, spacing) for n in noise.shape[1:]), indexing="ij"))
    width = 0.025
    which = (f / width).astype(int)
    radial = np.bincount(which.ravel(), power.ravel()) / np.bincount(which.ravel())
    return (float(np.argmax(radial)) + 0.5) * width, width


@pytest.mark.parametrize("peak", [0.08, 0.16, 0.25])
def test_noise_spectrum_peaks_where_asked(peak: float) -> None:
    noise = correlated_noise((24, 160, 150), (1.0, 0.7, 0.7), np.random.default_rng(1), peak, 1.0)
    assert noise.std() == pytest.approx(1, abs=0.03)
    at, width = peak_of(noise, 0.7)
    assert abs(at - peak) <= width


def test_noise_is_correlated_over_the_slice_thickness() -> None:
    for thickness, spacing in ((0.6, 1.5), (3.0, 0.75)):
        noise = correlated_noise((64, 40, 41), (spacing, 0.7, 0.7), np.random.default_rng(2), 0.25, thickness)
        measured = (noise[1:] * noise[:-1]).mean() / noise.var()
        assert measured == pytest.approx(np.exp(-((spacing * 2.3548 / (2 * thickness)) ** 2)), abs=0.05)


def test_coarser_voxels_are_smoother() -> None:
    sds = [noise_sd(24, (s, s, s)) for s in (0.4, 0.8, 1.5, 2.5)]
    assert sds[0] == 24
    assert sds == sorted(sds, reverse=True)
    assert sds[-1] > 5


@pytest.mark.parametrize(("size", "spacing"), [(SMALL, COARSE), ((128, 120, 16), (1.0, 1.0, 1.5))])
def test_noise_in_the_aorta_is_the_stated_one(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    patient = scanned(plain(26), noise_sd_hu=30.0, nps_peak_per_mm=0.15)
    loud, still = (render(patient, size, spacing, (0, 0, 30.0), noise=n) for n in (True, False))
    np.testing.assert_array_equal(loud.label, still.label)
    noise = loud.image.astype(float) - still.image
    assert noise[label_of(loud) == ID["AO"]].std() == pytest.approx(loud.attributes["noise_sd_hu"], rel=0.05)
    inside = still.image > -600
    assert 0.5 < noise[inside].std() / loud.attributes["noise_sd_hu"] < 2
    if spacing[0] == 1.0:
        tissue = np.where(inside, noise, 0)[16:112, 16:104].transpose(2, 1, 0)
        at, width = peak_of(tissue, 1.0)
        assert abs(at - 0.15) <= width


def test_workers_change_nothing() -> None:
    patient = scanned(
        draw_patient(33, metal=["sternal wires", "pacemaker lead"]), motion_mm=2.0, step_mm=3.0, reconstruction_mm=150.0
    )
    one, three = (render(patient, (70, 66, 40), (2.2, 2.2, 3.0), workers=w) for w in (1, 3))
    np.testing.assert_array_equal(one.image, three.image)
    np.testing.assert_array_equal(one.label, three.label)


def test_coarse_grids_keep_means_and_straight_lines() -> None:
    volume = np.random.default_rng(0).random((12, 30, 20)).astype(np.float32)
    assert shrink(volume, (3, 7, 20)).mean() == pytest.approx(volume.mean(), rel=1e-5)
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (12, 30, 20))
    back = Resampled(shrink(np.ascontiguousarray(ramp), (3, 10, 5)), ramp.shape)
    np.testing.assert_allclose(back.part(4, 9)[:, :, 2:-2], ramp[4:9, :, 2:-2], atol=1e-4)


def test_point_spread_has_the_stated_width() -> None:
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1
    out = point_spread(point, 0, 41, spread_sd(1.2, 2.0, (0.5, 0.4, 0.4)))
    assert out.sum() == pytest.approx(1, abs=1e-5)
    along, across = out.sum((1, 2)), out.sum((0, 1))
    at = np.arange(41) - 20
    for profile, width, spacing in ((along, 2.0, 0.5), (across, 1.2, 0.4)):
        sd = np.hypot(width / 2.3548, 0.25 * spacing)
        assert np.sqrt((profile * at**2).sum()) * spacing == pytest.approx(sd, rel=0.05)
    np.testing.assert_array_equal(out[18:23], point_spread(point, 18, 23, spread_sd(1.2, 2.0, (0.5, 0.4, 0.4))))


def test_projector_inverts_itself() -> None:
    n = 64
    y, x = np.meshgrid(*(np.arange(n) - 31.5,) * 2, indexing="ij")
    disk = (np.hypot(x, y) < 20).astype(np.float32)
    projector = Projector(n)
    back = projector.reconstruct(projector.forward @ disk.reshape(-1, 1)).reshape(n, n)
    assert back[np.hypot(x, y) < 15].mean() == pytest.approx(1, abs=0.05)
    assert abs(back[np.hypot(x, y) > 27].mean()) < 0.05


def test_beam_hardening_darkens_between_dense_things() -> None:
    n = 64
    y, x = np.meshgrid(*(np.arange(n) - 31.5,) * 2, indexing="ij")
    body = (np.hypot(x, y) < 30).astype(np.float32) * 0.06
    rods = ((np.hypot(x - 12, y) < 4) | (np.hypot(x + 12, y) < 4)).astype(np.float32) * 0.06
    projector = Projector(n)
    water, dense = (projector.forward @ v.reshape(-1, 1) for v in (body, rods))
    extra = hardened(water, dense)
    assert abs(extra.sum()) < 1e-3 * np.abs(extra).sum()
    change = projector.reconstruct(extra).reshape(n, n)
    between, above = change[28:36, 27:37].mean(), change[14:20, 27:37].mean()
    assert between < -0.0005
    assert between < above
    assert not hardened(water, np.zeros_like(dense)).any()


def test_undiluted_agent_streaks_and_leaves_the_means() -> None:
    patient = plain(4, contrast="early")
    size, spacing = (80, 80, 48), (2.0, 2.0, 2.5)
    means, spread = [], []
    for svc in (400.0, 1200.0):
        case = render(dataclasses.replace(patient, hu={**patient.hu, "SVC": svc}), size, spacing, (0, 0, 20.0), noise=False)
        cores = [ndimage.binary_erosion(label_of(case) == ID[k]) for k in ("LV", "LA", "AO", "MYO")]
        means.append([case.image[c].mean() for c in cores])
        spread.append(case.image[cores[2]].std())
    np.testing.assert_allclose(means[0], means[1], atol=10)
    assert spread[1] > spread[0] + 1, "streaks cross the aorta"


@pytest.fixture(scope="module")
def with_metal() -> Callable[..., Case]:
    """Scans of one patient with the given metal, each made once."""

    @lru_cache
    def make(*metal: str) -> Case:
        patient = scanned(plain(31, contrast="chase"), metal=metal)
        return render(patient, (64, 80, 40), (2.2, 2.2, 2.5), (0.0, 12.0, 12.0), noise=False)

    return make


@pytest.mark.parametrize("kind", METALS)
def test_metal_is_bright_and_streaks_and_leaves_labels(kind: str, with_metal: Callable[..., Case]) -> None:
    a, b = with_metal(kind), with_metal()
    assert a.attributes["metal"] == [kind]
    np.testing.assert_array_equal(a.label, b.label)
    change = a.image.astype(int) - b.image
    assert change.max() > (120 if kind == "coronary stent" else 600)
    assert change.min() < (-4 if kind == "coronary stent" else -25)
    assert np.median(np.abs(change)) <= 4


def test_shock_coils_streak_more_than_a_thin_lead(with_metal: Callable[..., Case]) -> None:
    thin, thick, none = (with_metal(*m).image.astype(int) for m in (("pacemaker lead",), ("defibrillator lead",), ()))
    assert np.abs(thick - none).clip(0, 400).mean() > 1.7 * np.abs(thin - none).clip(0, 400).mean()


def test_metal_keeps_its_mass_on_coarse_grids() -> None:
    anatomy = build_anatomy(scanned(plain(31), metal=("coronary stent", "pacemaker lead")))
    mass = []
    for n, spacing in ((120, 1.2), (58, 2.5)):
        grid = Grid.centered((n,) * 3, (spacing,) * 3, anatomy.center[::-1])
        mass.append(metal_field(anatomy, warp(anatomy.random, grid)).sum() * spacing**3)
    assert mass[0] == pytest.approx(mass[1], rel=0.3)


def test_forced_metal_leaves_all_other_draws_alone() -> None:
    for seed in range(30):
        free, forced, none = (dataclasses.asdict(draw_scanner(seed, metal=m)) for m in (None, list(METALS), False))
        assert forced.pop("metal") == METALS
        assert none.pop("metal") == ()
        free.pop("metal")
        assert free == forced == none


def test_kernels_differ_as_published() -> None:
    scans = [draw_scanner(s) for s in range(400)]
    sharp, smooth = ([s for s in scans if s.kernel == k] for k in ("filtered back-projection", "model-based iterative"))
    assert min(s.nps_peak_per_mm for s in sharp) > max(s.nps_peak_per_mm for s in smooth)
    assert np.mean([s.noise_sd_hu for s in sharp]) > 2.5 * np.mean([s.noise_sd_hu for s in smooth])
    assert {s.slice_mm for s in scans} == set(SLICES_MM)
    assert 0.10 < np.mean([bool(s.metal) for s in scans]) < 0.20


def test_motion_blurs_the_heart_only() -> None:
    still = plain(32)
    a, b = (render(scanned(still, motion_mm=mm), (80, 80, 40), COARSE, noise=False).image.astype(int) for mm in (0.0, 4.0))
    change = np.abs(a - b)
    assert change[30:50, 30:50, 10:30].mean() > 2
    assert change[0].max() <= 40
    assert np.median(change[0]) == 0


def test_steps_move_image_and_label_alike() -> None:
    still = plain(32, contrast="chase")
    stepping = scanned(still, step_mm=8.0, step_period_mm=30.0, step_phase=0.5)
    a, b = (render(p, (72, 72, 60), COARSE, noise=False) for p in (still, stepping))
    for key in ("LV", "RV", "LA", "RA", "MYO"):
        before, after = (np.count_nonzero(label_of(c) == ID[key]) for c in (a, b))
        assert after == pytest.approx(before, rel=0.02), key
        core = ndimage.binary_erosion(label_of(b) == ID[key])
        assert b.image[core].mean() == pytest.approx(a.image[ndimage.binary_erosion(label_of(a) == ID[key])].mean(), abs=6), key
    centers = np.array([ndimage.center_of_mass(label_of(b)[:, :, z] == ID["LV"]) for z in range(20, 34)])
    whole = np.array([ndimage.center_of_mass(label_of(a)[:, :, z] == ID["LV"]) for z in range(20, 34)])
    moved = np.linalg.norm(centers - whole, axis=1) * 2.5
    assert np.all((moved > 3) & (moved < 5)), "half a step to either side"
    jumps = np.linalg.norm(np.diff(centers - whole, axis=0), axis=1) * 2.5
    assert jumps.max() > 5
    assert np.count_nonzero(jumps > 3) <= 2
    np.testing.assert_array_equal(label_of(a)[:4], label_of(b)[:4])


def test_nothing_is_reconstructed_outside_the_circle() -> None:
    cut = scanned(plain(34), reconstruction_mm=130.0, padding_hu=-2048)
    case, whole = render(cut, SMALL, COARSE), render(scanned(cut, reconstruction_mm=None), SMALL, COARSE)
    x, y = np.meshgrid(*(np.arange(64) - 31.5,) * 2, indexing="ij")
    outside = np.hypot(x, y) * 2.5 > 65
    assert (case.image[outside] == -2048).all()
    assert (label_of(case)[outside] == 0).all()
    assert case.image[~outside].min() >= -1024
    np.testing.assert_array_equal(label_of(case)[~outside], label_of(whole)[~outside])


def test_calcium_is_bright_beside_its_arteries() -> None:
    none = plain(35, contrast="none")
    calcified = scanned(none, calcified=("LAD", "LCX", "RCA"), valve_calcium=True)
    a, b = (render(p, (70, 70, 40), (2.0, 2.0, 2.5), (0, 0, 10.0), noise=False) for p in (calcified, none))
    change = a.image.astype(int) - b.image
    assert 60 < change.max() < 1500
    assert change.min() > -20
    assert 5 < np.count_nonzero(change > 40) < 4000
    np.testing.assert_array_equal(a.label, b.label)
