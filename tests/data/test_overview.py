"""The overview shows what the case shows."""

import numpy as np
import pytest

from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.data.overview import around_labels, axis_code, oblique_degrees, overview, sides_reached

LPS = np.diag([-0.5, -0.5, 0.7, 1.0])


def cube(shape: tuple[int, int, int], box: tuple[slice, slice, slice], affine: np.ndarray) -> Case:
    label = np.zeros(shape, np.uint8)
    label[box] = ID["LV"]
    return Case("a", np.where(label, 300, -900).astype(np.int16), affine, label)


def test_overview_keeps_the_place_of_every_voxel() -> None:
    case = cube((50, 41, 33), (slice(10, 30), slice(5, 20), slice(8, 20)), LPS)
    small = overview(case)
    assert small.label is not None
    assert case.label is not None
    assert axis_code(small.affine) == "RAS"
    assert np.allclose(small.spacing, (2.0, 2.0, 2.1))
    for index in np.ndindex(small.image.shape):
        i, j, k = np.rint(np.linalg.solve(case.affine, small.affine @ [*index, 1.0])[:3]).astype(int)
        assert small.image[index] == case.image[i, j, k]
    assert small.label.sum() == pytest.approx(case.label.sum() / 48, rel=0.25)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_what_reaches_the_border_by_one_voxel_reaches_it_in_the_overview(axis: int, end: int) -> None:
    shape = (50, 41, 33)
    box = [slice(10, 30), slice(5, 20), slice(8, 20)]
    box[axis] = slice(0, 12) if end == 0 else slice(12, shape[axis])
    case = cube(shape, (box[0], box[1], box[2]), LPS)
    letters = [("R", "L"), ("A", "P"), ("I", "S")]
    assert sides_reached(case) == {"LV": letters[axis][0 if end == 0 else 1]}
    assert sides_reached(overview(case)) == sides_reached(case)
    box[axis] = slice(1, 12) if end == 0 else slice(12, shape[axis] - 1)
    inner = cube(shape, (box[0], box[1], box[2]), LPS)
    assert sides_reached(inner) == sides_reached(overview(inner)) == {}


def test_crop_around_labels_keeps_their_margin_and_no_more() -> None:
    case = cube((20, 20, 20), (slice(0, 5), slice(8, 10), slice(18, 20)), np.eye(4))
    assert around_labels(case).shape == (7, 6, 4)
    assert around_labels(Case("a", case.image, np.eye(4), np.zeros_like(case.label))).shape == (20, 20, 20)


def test_turn_against_the_body() -> None:
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert oblique_degrees(turn @ LPS) == pytest.approx(20)
    assert oblique_degrees(LPS) == 0
