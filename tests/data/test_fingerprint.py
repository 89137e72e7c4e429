"""Fingerprints of content: the same for the same scan, different for any other."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from auricle.core.case import Case
from auricle.data.fingerprint import content_hash, label_hash

IMAGE = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
LABEL = (np.arange(IMAGE.size) % 9).reshape(IMAGE.shape).astype(np.uint8)
CASE = Case("a", IMAGE, np.diag([1.0, 1.5, 2.0, 1.0]), LABEL)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_axis_order_type_and_memory_order_do_not_count(axes: tuple[int, int, int]) -> None:
    for flips, order in product(product((1, -1), repeat=3), "CF"):
        turn = np.column_stack([axes, flips])
        affine = CASE.affine @ nib.orientations.inv_ornt_aff(turn, IMAGE.shape)
        image, label = (np.array(nib.orientations.apply_orientation(a, turn), order=order) for a in (IMAGE, LABEL))
        turned = Case("b", image.astype(np.float32), affine, label)
        assert content_hash(turned) == content_hash(CASE)
        assert label_hash(turned) == label_hash(CASE)


def test_any_voxel_and_the_shape_count() -> None:
    changed = IMAGE.copy()
    changed[4, 5, 6] += 1
    assert content_hash(Case("a", changed, CASE.affine)) != content_hash(CASE)
    # The same voxels in a row, in another shape.
    other = Case("a", IMAGE.reshape(5, 6, 7, order="F").reshape((6, 5, 7), order="F"), CASE.affine)
    assert content_hash(other) != content_hash(CASE)
