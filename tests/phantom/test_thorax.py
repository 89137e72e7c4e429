"""The body around the heart: vessel trees, partial volume, tissues, and independence of the grid."""

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.phantom import draw_patient
from auricle.phantom.anatomy import Anatomy, build_anatomy, shape_noise, warp
from auricle.phantom.body import draw_body, folded, paint_sheet
from auricle.phantom.branching import TWIGS, draw, grow
from auricle.phantom.heart import build_heart
from auricle.phantom.lungs import unwarped
from auricle.phantom.shapes import Field, Grid
from auricle.phantom.thorax import Thorax, envelope

SEEDS = (3, 11, 12)


@lru_cache(maxsize=4)
def anatomy(seed: int) -> Anatomy:
    return build_anatomy(dataclasses.replace(draw_patient(seed, metal=False), gas_in_esophagus=False))


def background(a: Anatomy, grid: Grid) -> Field:
    """The body without the heart's chambers."""
    g = warp(a.random, grid)
    noise = shape_noise(a.random, g)
    heart = build_heart(a.patient, a.marks, a.vessels, g, noise, a.offsets)
    hull = envelope(heart, a.patient.epicardial_fat_mm) if heart.inner["EPI"].size else np.zeros((0, 0, 0), np.float32)
    return Thorax(a, g, heart).paint_all(hull)


def around(a: Anatomy, shape: tuple[int, int, int], voxel: float, shift: tuple[float, float, float] = (0, 0, 0)) -> Grid:
    return Grid.centered(shape, (voxel,) * 3, a.center[::-1] + shift)


def test_slabs_paint_the_same_body() -> None:
    a = anatomy(3)
    grid = around(a, (24, 60, 76), 4.0)
    whole = background(a, grid)
    parts = np.concatenate([background(a, grid.slab(i, i + 5)) for i in range(0, 24, 5)])
    assert np.abs(whole - parts).max() < 0.5


def test_a_smaller_view_shows_the_same_body() -> None:
    a = anatomy(11)
    wide, narrow = around(a, (12, 60, 60), 4.0), around(a, (12, 30, 20), 4.0)
    assert np.abs(background(a, wide)[:, 15:45, 20:40] - background(a, narrow)).max() < 0.5


def test_body_is_drawn_from_the_seed_alone() -> None:
    patient = draw_patient(5)
    one, again, other = draw_body(patient), draw_body(dataclasses.replace(patient, phase=0.5)), draw_body(draw_patient(6))
    np.testing.assert_array_equal(one.ribs_mm, again.ribs_mm)
    assert one.age == again.age
    assert one.age != other.age


def test_lung_is_air_and_air_is_empty() -> None:
    for seed in SEEDS:
        a = anatomy(seed)
        image = background(a, around(a, (3, 100, 120), 4.0, (0, 0, 10)))
        assert image[:, :3].max() == -1000, "in front of the chest"
        lung = image[(image < -700) & (image > -960)]
        assert abs(np.median(lung) - a.patient.hu["lung"]) < 30
        assert 0.05 < lung.size / image.size < 0.4
        assert image.max() > 350, "bone"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_lung_between_left_atrium_and_spine(seed: int) -> None:
    a = anatomy(seed)
    la, spine = a.marks.la, a.marks.spine
    image = background(a, Grid.centered((1, 100, 5), (1.0,) * 3, (float(la[2]), float(spine[1]) - 50, float(spine[0]) + 4)))
    behind = image[0, 100 + int(la[1] + 8 - spine[1]) : 80]
    assert behind.min() > -250


def test_liver_lies_right_below_the_dome() -> None:
    a = anatomy(3)
    image = background(a, around(a, (5, 30, 30), 3.0, (a.patient.dome_mm - 45 - float(a.center[2]), 10, -70)))
    assert abs(np.median(image) - a.patient.hu["liver"]) < 12


def test_unwarping_inverts_the_warp() -> None:
    a = anatomy(3)
    points = np.random.default_rng(0).uniform(-60, 60, (12, 3))
    for want, at in zip(points, unwarped(a, points), strict=True):
        g = warp(a.random, Grid.centered((1, 1, 1), (1.0,) * 3, at[::-1]))
        np.testing.assert_allclose([g.X.item(), g.Y.item(), g.Z.item()], want, atol=0.02)


def tree(count: int = 120) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(4)
    roots, tips = np.zeros((1, 3)), rng.uniform(-50, 50, (count, 3))
    return roots, tips, grow(rng, roots, tips, 5.0, 0.5)


def test_tree_reaches_every_tip_from_the_root() -> None:
    roots, tips, pieces = tree()
    known = np.concatenate([roots, pieces[:, 3:6]])
    for start in pieces[:, :3]:
        assert np.abs(known - start).max(1).min() < 1e-9
    for tip in tips:
        assert np.abs(pieces[:, 3:6] - tip).max(1).min() < 1e-9


def test_tree_tapers_from_root_to_tips() -> None:
    roots, tips, pieces = tree()
    assert (pieces[:, 6] >= pieces[:, 7] - 1e-9).all()
    assert pieces[:, 6].max() <= 5.0 + 1e-9
    assert pieces[np.abs(pieces[:, :3] - roots[0]).max(1) < 1e-9, 6].max() > 2.5
    assert np.count_nonzero(pieces[:, 7] < 0.4) >= TWIGS * len(tips)


@pytest.mark.parametrize("radius", [0.5, 0.9, 3.0])
@pytest.mark.parametrize("voxel", [0.5, 1.0, 1.8])
def test_a_vessel_keeps_its_cross_section_in_any_voxel(radius: float, voxel: float) -> None:
    n = int(24 / voxel)
    grid = Grid.centered((n, n, n), (voxel,) * 3, (0.3, 0.1, 0.2))
    piece = np.array([[-40, -12, 2, 40, 9, -4, radius, radius, 1.0]])
    share = draw(piece, grid, np.zeros(grid.shape, np.float32))
    length = np.linalg.norm(piece[0, 3:6] - piece[0, :3]) * (n * voxel) / 80
    assert share.sum() * voxel**3 / length == pytest.approx(np.pi * radius**2, rel=0.12)


def test_invisible_vessels_are_left_out() -> None:
    grid = Grid.centered((8, 8, 8), (2.5,) * 3, (0, 0, 0))
    piece = np.array([[-9, 0, 0, 9, 0, 0, 0.3, 0.3, 1.0]])
    assert draw(piece, grid, np.zeros(grid.shape, np.float32)).max() == 0


@pytest.mark.parametrize("half", [0.1, 0.4, 2.0])
def test_a_sheet_keeps_its_thickness(half: float) -> None:
    x = np.arange(-20, 20, 0.1, dtype=np.float32)  # ten positions of the voxels at once
    image = np.zeros_like(x)
    paint_sheet(image, x, half, 100.0, 1.0)
    assert 0.1 * image.sum() / 100 == pytest.approx(2 * half, rel=0.03)


def test_folding_keeps_the_middle_and_stays_inside() -> None:
    grid = Grid.centered((3, 3, 401), (1.0,) * 3, (0, 0, 0))
    x = folded(grid, 70.0).x
    np.testing.assert_allclose(x[131:270], grid.x[131:270], atol=1e-4)
    assert np.abs(x).max() <= 70.001
    assert np.abs(np.diff(x)).max() < 1.001
