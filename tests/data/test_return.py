"""The way of a label map to the model's grid and back: on the scan's own grid, in its place, whatever the scan's axes."""

import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from auricle import recipes
from auricle.core.case import Case
from auricle.data.preprocess import ModelGrid, label_to_grid, labels_to_source, orient, to_grid, window
from auricle.metrics import overlap
from auricle.phantom import virtual_patient
from auricle.phantom.anatomy import build_anatomy, shape_noise, warp
from auricle.phantom.heart import build_heart
from auricle.phantom.patient import draw_patient
from auricle.phantom.shapes import Grid
from auricle.stages import finetune

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
RADIUS_MM = 9.0
SIZE = 144


def turned(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation about x, y and z."""
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, other = (a for a in range(3) if a != axis)
        step = np.eye(3)
        step[[one, one, other, other], [one, other, one, other]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        out = step @ out
    return out


def placed(order: Any, signs: Any, spacing: Any, degrees: Any, shear: float) -> NDArray[np.float64]:
    """An affine: axes permuted and flipped, rotated, and sheared as by a tilted gantry."""
    axes = np.zeros((3, 3))
    for index, row in enumerate(order):
        axes[row, index] = signs[index] * spacing[index]
    axes[:, 2] += shear * spacing[2] * axes[:, 1] / np.linalg.norm(axes[:, 1])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned(degrees) @ axes, (17.0, -9.0, 33.0)
    return affine


def ball(shape: Any, affine: NDArray[np.float64], center: NDArray[np.float64]) -> NDArray[np.bool_]:
    at = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape).astype(float)) + affine[:3, 3].reshape(3, 1, 1, 1)
    near: NDArray[np.bool_] = np.linalg.norm(at - center.reshape(3, 1, 1, 1), axis=0) < RADIUS_MM
    return near


@settings(deadline=None, max_examples=100)
@given(
    orientation=st.sampled_from(ORIENTATIONS), spacing=st.tuples(*[st.floats(0.6, 2.5)] * 3), degrees=st.tuples(*[st.floats(-15, 15)] * 3),
    shear=st.floats(-0.3, 0.3), dtype=st.sampled_from((np.int16, np.int32, np.uint16, np.float32, np.float64)),
    extra=st.tuples(*[st.integers(0, 7)] * 3), off=st.tuples(*[st.floats(-1, 1)] * 3), soft=st.booleans(),
)  # fmt: skip
def test_labels_return_to_their_place_on_the_input_grid(
    orientation: Any, spacing: Any, degrees: Any, shear: float, dtype: Any, extra: Any, off: Any, soft: bool
) -> None:
    """A model that labels what is bright, on a grid of its own: the label's center moves by less than half a voxel."""
    affine = placed(*orientation, spacing, degrees, shear)
    shape = tuple(int(np.ceil((2 * RADIUS_MM + 6) * (1 + abs(shear)) / s)) + e for s, e in zip(spacing, extra, strict=True))
    center = (affine @ [*((np.array(shape) - 1) / 2 + off), 1])[:3]
    truth = ball(shape, affine, center)
    image = np.where(truth, 400, 100).astype(dtype)
    grid = ModelGrid((24, 24, 24), (1.5, 1.5, 1.5))
    there = grid.affine(center + 0.4)
    seen = (to_grid(image, affine, there, grid.size, outside=100) - 100) / 300
    prediction = np.stack([1 - seen, seen]) if soft else (seen > 0.5).astype(np.uint8)
    found = labels_to_source(prediction, there, (shape[0], shape[1], shape[2]), affine)
    assert found.shape == shape
    apart = np.argwhere(found > 0).mean(0) - np.argwhere(truth).mean(0)
    assert np.abs(apart).max() < 0.5


@settings(deadline=None, max_examples=60)
@given(
    orientation=st.sampled_from(ORIENTATIONS), spacing=st.tuples(*[st.floats(0.3, 4.0)] * 3), degrees=st.tuples(*[st.floats(-45, 45)] * 3),
    shear=st.floats(-0.4, 0.4), seed=st.integers(0, 999), size=st.tuples(*[st.integers(2, 9)] * 3),
)  # fmt: skip
def test_on_an_equal_grid_there_and_back_changes_nothing(orientation: Any, spacing: Any, degrees: Any, shear: float, seed: int, size: Any) -> None:
    affine = placed(*orientation, spacing, degrees, shear)
    label = np.random.default_rng(seed).integers(0, 9, size).astype(np.uint8)
    assert np.array_equal(label_to_grid(label, affine, affine, size), label)
    assert np.array_equal(labels_to_source(label, affine, size, affine), label)
    scores = (np.arange(9).reshape(9, 1, 1, 1) == label).astype(np.float32)
    assert np.array_equal(labels_to_source(scores, affine, size, affine), label)
    upright = orient(Case("a", label, affine, label))
    assert upright.label is not None
    assert np.array_equal(labels_to_source(upright.label, upright.affine, size, affine), label)


def test_a_heart_keeps_its_shape_through_the_grid_of_the_segmenter_that_ships() -> None:
    """Probabilities of a perfect model with 2 mm voxels, not aligned with those of a scan of 0.75 mm: every structure, the appendage too."""
    anatomy = build_anatomy(draw_patient(12, pathology=False))
    fine = Grid.centered((SIZE, SIZE, SIZE), (0.75,) * 3, anatomy.center[::-1])
    bent = warp(anatomy.random, fine)
    heart = build_heart(anatomy.patient, anatomy.marks, anatomy.vessels, bent, shape_noise(anatomy.random, bent), anatomy.offsets)
    label, affine = np.ascontiguousarray(heart.labels().transpose(2, 1, 0)), np.diag([0.75, 0.75, 0.75, 1.0])
    spacing = finetune.load(finetune.DEFAULT_MODEL).grid.spacing
    n = int(SIZE * 0.75 / spacing[0]) + 8
    there = ModelGrid((n, n, n), spacing).affine(np.full(3, SIZE * 0.375 + 0.37))
    masks = [to_grid((label == k).astype(np.float32), affine, there, (n, n, n), outside=float(k == 0)) for k in range(9)]
    scores = overlap.dice(labels_to_source(np.stack(masks), there, (SIZE, SIZE, SIZE), affine), label)
    assert {k: v for k, v in scores.items() if v is None or v < 0.97} == {}


def test_a_label_map_comes_back_from_the_papers_grid() -> None:
    """Hard labels of a scan of 0.75 mm, its voxels not aligned with the grid. At 2 mm thin structures lose up to a tenth."""
    case = virtual_patient(8, 1, (192, 192, 176), (0.75, 0.75, 0.75))
    assert case.label is not None
    center = (case.affine @ np.array([*((n - 1) / 2 for n in case.label.shape), 1.0]))[:3] + 0.37
    for spacing, least in ((recipes.paper().cohort.spacing, 0.97), ((2.0, 2.0, 2.0), 0.9)):
        x, y, z = (int(np.ceil((0.75 * n + 4) / s)) for n, s in zip(case.label.shape, spacing, strict=True))
        there = window(case, center, ModelGrid((x, y, z), spacing))
        assert there.label is not None
        scores = overlap.dice(labels_to_source(there.label, there.affine, case.label.shape, case.affine), case.label)
        assert {k: v for k, v in scores.items() if v is None or v < least} == {}
