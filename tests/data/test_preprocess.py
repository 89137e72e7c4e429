"""Geometry: what goes to the model's grid comes back to where it was, whatever the scan's axes."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from auricle.core.case import Case
from auricle.data import resample
from auricle.data.preprocess import (
    ModelGrid,
    heart_center,
    label_to_grid,
    labels_to_source,
    orient,
    right_angled,
    to_grid,
    to_hu,
    to_network,
    upright,
    window,
)

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def blobs(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A label map of random balls."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    grid = np.indices(shape)
    for k in range(1, 9):
        center = rng.uniform(0.2, 0.8, 3) * shape
        label[sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) < (0.18 * min(shape)) ** 2] = k
    return label


def axes(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.zeros((4, 4))
    for index, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, index] = sign * spacing[index]
    affine[:3, 3], affine[3, 3] = (13.0, -7.5, 40.25), 1
    return affine


def rotation(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return x @ z


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Least Dice coefficient over the labels that `b` holds."""
    return min(2 * np.sum((a == k) & (b == k)) / (np.sum(a == k) + np.sum(b == k)) for k in np.unique(b))


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_returns_exactly(order: Any, signs: Any) -> None:
    label = blobs((13, 15, 11))
    for spacing in ((1.0, 1.0, 1.0), (0.7, 0.9, 2.3)):
        affine = axes(order, signs, spacing)
        case = Case("a", np.arange(label.size, dtype=np.int32).reshape(label.shape), affine, label)
        turned = orient(case)
        assert turned.label is not None
        assert (np.diag(turned.affine)[:3] > 0).all()
        assert np.count_nonzero(turned.affine[:3, :3]) == 3
        index = np.array(np.unravel_index(137, label.shape))
        there = np.rint(np.linalg.solve(turned.affine, affine @ [*index, 1]))[:3].astype(int)
        assert turned.image[tuple(there)] == 137
        assert np.array_equal(labels_to_source(turned.label, turned.affine, label.shape, affine), label)
        same = to_grid(turned.image, turned.affine, affine, label.shape, outside=-1)
        assert np.allclose(same, case.image, atol=1e-2)


@pytest.mark.parametrize("degrees", [7.0, 30.0, 44.0])
def test_oblique_round_trip(degrees: float) -> None:
    label = blobs((48, 44, 40))
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) * (1.0, 1.1, 1.3)
    image = np.where(label > 0, 300, -100).astype(np.int16)
    center = heart_center(np.minimum(label, 1), affine)
    assert center is not None
    crop = window(Case("a", image, affine, label), center, ModelGrid((90, 90, 90), (0.8, 0.8, 0.8)))
    assert crop.label is not None
    assert dice(labels_to_source(crop.label, crop.affine, label.shape, affine), label) > 0.93
    scores = np.stack([(crop.label == k).astype(np.float32) for k in range(9)])
    again = labels_to_source(scores, crop.affine, label.shape, affine)
    assert dice(again, labels_to_source(crop.label, crop.affine, label.shape, affine)) > 0.999


@settings(deadline=None, max_examples=30)
@given(
    spacing=st.tuples(*[st.floats(0.5, 2.5)] * 3),
    degrees=st.floats(-60, 60),
    gradient=st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_a_linear_field_is_resampled_exactly(spacing: Any, degrees: float, gradient: Any) -> None:
    """Linear interpolation and symmetric smoothing keep a linear function of the patient's coordinates."""
    source = np.eye(4)
    source[:3, :3] = rotation(degrees) * spacing
    source[:3, 3] = (3, -4, 5)
    mm = np.einsum("ij,jxyz->ixyz", source[:3, :3], np.indices((30, 30, 30)).astype(float)) + source[:3, 3].reshape(3, 1, 1, 1)
    field = np.einsum("i,ixyz->xyz", np.array(gradient), mm)
    grid = ModelGrid((5, 5, 5), (1.0, 1.0, 1.0))
    middle = (source @ [14.5, 14.5, 14.5, 1])[:3]
    out = to_grid(field, source, grid.affine(middle), grid.size)
    at = np.indices(grid.size) + 0.0
    wanted = np.einsum("i,ixyz->xyz", np.array(gradient), at + (middle - 2).reshape(3, 1, 1, 1))
    assert np.allclose(out, wanted, atol=1e-3)


def test_outside_begins_at_the_outer_voxel_face() -> None:
    image = np.full((4, 4, 4), 50, np.int16)
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = -1.2
    out = to_grid(image, np.eye(4), fine, (14, 14, 14), outside=-1024)
    at = -1.2 + 0.5 * np.arange(14)
    inside = (at >= -0.5) & (at <= 3.5)
    wanted = inside[:, None, None] & inside[:, None] & inside
    assert np.array_equal(out == 50, wanted)
    assert set(np.unique(out)) == {-1024, 50}
    far = np.eye(4)
    far[0, 3] = 500
    assert (to_grid(image, np.eye(4), far, (3, 3, 3)) == -1024).all()
    assert (label_to_grid(np.ones((4, 4, 4), np.uint8), np.eye(4), far, (3, 3, 3)) == 0).all()


def test_downsampling_does_not_alias() -> None:
    """A pattern finer than the target's spacing averages out; without smoothing it would stay at full contrast."""
    pattern = np.where(np.indices((64, 64, 64)).sum(axis=0) % 2, 100, -100).astype(np.int16)
    coarse = np.diag([4.0, 4.0, 4.0, 1.0])
    coarse[:3, 3] = 8.0
    assert np.abs(to_grid(pattern, np.eye(4), coarse, (12, 12, 12))).max() < 1


def test_smoothing_follows_the_axis_that_is_finer() -> None:
    """Along an axis whose spacing stays, a step keeps its width."""
    step = np.zeros((40, 40, 40), np.int16)
    step[20:] = 1000
    coarse = np.diag([1.0, 4.0, 4.0, 1.0])
    out = to_grid(step, np.eye(4), coarse, (40, 10, 10))
    assert np.array_equal(out[:, 5, 5], step[:, 0, 0])


def test_label_volume_survives_resampling() -> None:
    label = blobs((60, 60, 60))
    for spacing in (0.6, 1.0, 1.7):
        grid = ModelGrid((round(60 / spacing),) * 3, (spacing,) * 3)
        out = label_to_grid(label, np.eye(4), grid.affine(np.full(3, 29.5)), grid.size)
        got = np.bincount(out.ravel(), minlength=9)[1:] * spacing**3
        assert np.allclose(got, np.bincount(label.ravel(), minlength=9)[1:], rtol=0.06, atol=8)


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    label, rng = blobs((40, 30, 30)), np.random.default_rng(1)
    image = rng.normal(size=label.shape).astype(np.float32)
    scores = rng.dirichlet(np.ones(9), size=label.shape).transpose(3, 0, 1, 2).astype(np.float32)
    target = np.eye(4)
    target[:3, :3] = rotation(20) * (1.4, 0.6, 0.9)
    target[:3, 3] = 3

    def all_three() -> list[np.ndarray]:
        return [
            to_grid(image, np.eye(4), target, (30, 33, 31)),
            label_to_grid(label, np.eye(4), target, (30, 33, 31)),
            labels_to_source(scores, np.eye(4), (30, 33, 31), target),
        ]

    whole = all_three()
    monkeypatch.setattr(resample, "SLAB_VOXELS", 900)
    for a, b in zip(whole, all_three(), strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_winner_is_the_largest_interpolated_probability() -> None:
    rng = np.random.default_rng(5)
    scores = rng.dirichlet(np.full(9, 0.3), size=(9, 9, 9)).transpose(3, 0, 1, 2).astype(np.float32)
    fine = np.diag([0.4, 0.4, 0.4, 1.0])
    out = labels_to_source(scores, np.eye(4), (20, 20, 20), fine)
    each = np.stack([to_grid(s, np.eye(4), fine, (20, 20, 20)) for s in scores])
    assert np.array_equal(out, each.argmax(axis=0))


@pytest.mark.parametrize("spacing", [0.3, 0.45, 1.9])
def test_small_structures_keep_their_whole_extent(spacing: float) -> None:
    """The same as a vote over whole volumes, although each label is looked for near its own voxels only."""
    label = np.zeros((16, 16, 16), np.uint8)
    label[5:8, 5:8, 5:8], label[8:10, 5:8, 6:8], label[13:, 13:, 13:] = 2, 5, 7
    masks = np.stack([ndimage.gaussian_filter((label == k).astype(np.float32), 0.8, mode="nearest") for k in range(9)])
    target = np.eye(4)
    target[:3, :3] = rotation(10) * spacing
    target[:3, 3] = 2.2
    size = (int(12 / spacing),) * 3

    def vote(scores: np.ndarray) -> np.ndarray:
        backgrounds = [1.0] + 8 * [0.0]
        each = [to_grid(s, np.eye(4), target, size, outside=b) for s, b in zip(scores, backgrounds, strict=True)]
        return np.stack(each).argmax(axis=0)

    sharp = np.stack([(label == k).astype(np.float32) for k in range(9)])
    assert np.array_equal(label_to_grid(label, np.eye(4), target, size), vote(sharp))
    assert np.array_equal(labels_to_source(masks, np.eye(4), size, target), vote(masks))
    assert {0, 2} <= set(np.unique(vote(sharp)).tolist())


def test_heart_center() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    affine = axes((1, 0, 2), (1, -1, 1), (1.0, 2.0, 3.0))
    assert heart_center(label, affine) is None
    label[0, 0, 0] = 6
    assert heart_center(label, affine) is None
    label[4:9, 5, 6] = 3
    label[8, 5:12, 6:9] = 1
    center = heart_center(label, affine)
    assert center is not None
    assert np.allclose(center, (affine @ [6, 8, 7, 1])[:3])


def test_model_grid_is_centered() -> None:
    grid = ModelGrid((4, 5, 6), (1.0, 2.0, 3.0))
    assert np.allclose(grid.affine(np.array([10, 20, 30])) @ [1.5, 2, 2.5, 1], [10, 20, 30, 1])


def test_hu_scaling() -> None:
    hu = np.arange(-1000, 1001, dtype=np.int16)
    assert np.allclose(to_hu(to_network(hu)), hu, atol=1e-3)
    ends = to_network(np.array([-3000, -1000, 0, 1000, 3000]))
    assert ends.tolist() == [-1, -1, 0, 1, 1]
    assert ends.dtype == np.float32


@pytest.mark.parametrize("tilt", [-20.0, 12.0])
def test_right_angled_grid_covers_a_tilted_one(tilt: float) -> None:
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    affine[1, 2] = 2.0 * np.tan(np.deg2rad(tilt))
    shape = (20, 24, 15)
    grid, size = right_angled(affine, shape)
    cosines = grid[:3, :3].T @ grid[:3, :3]
    assert np.allclose(cosines, np.diag(np.diag(cosines)))
    assert np.isclose(np.linalg.det(grid[:3, :3]), np.linalg.det(affine[:3, :3]))
    assert np.allclose(grid[:3, :2], affine[:3, :2])
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in shape]))).T
    at = np.linalg.solve(grid, affine @ np.vstack([corners, np.ones(8)]))[:3]
    assert (at > -0.01).all()
    assert (at < np.array(size)[:, None] - 0.99).all()
    image = np.zeros(shape, np.int16)
    image[8:12, 10:14, 6:9] = 700
    turned, where = upright(image, affine)
    assert turned.dtype == np.int16
    bright = np.argwhere(turned > 350).mean(axis=0)
    assert np.allclose((where @ [*bright, 1])[:3], (affine @ [9.5, 11.5, 7, 1])[:3], atol=0.5)
