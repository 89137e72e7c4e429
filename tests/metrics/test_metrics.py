"""Measures against hand-made cases and MONAI as an oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray

from auricle.core.anatomy import ID, KEYS, LABEL_COUNT
from auricle.losses.segmentation import deep_supervision, dice_cross_entropy, soft_dice_loss
from auricle.metrics import anatomy, overlap
from auricle.metrics.surface import surface_scores
from auricle.stages.evaluate import score, summarize

Labels = NDArray[np.uint8]


def random_maps(seed: int) -> tuple[Labels, Labels]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, LABEL_COUNT, (8, 9, 10)).astype(np.uint8)
    b = np.where(rng.random(a.shape) < 0.6, a, rng.integers(0, LABEL_COUNT, a.shape)).astype(np.uint8)
    return a, b


def one_hot(label: Labels) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(label).long(), LABEL_COUNT).movedim(-1, 0)[None]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_dice_agrees_with_monai_and_is_symmetric(seed: int) -> None:
    a, b = random_maps(seed)
    expected = compute_dice(one_hot(a), one_hot(b), include_background=False)[0]
    mine = overlap.dice(a, b)
    for key in KEYS:
        assert mine[key] == pytest.approx(float(expected[ID[key] - 1]), abs=1e-6)
    assert mine == overlap.dice(b, a)
    assert set(overlap.dice(a, a).values()) == {1.0}


def test_absent_structures_have_no_value_and_misses_have_zero() -> None:
    empty, lv = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    lv[2:4, 2:4, 2:4] = ID["LV"]
    assert overlap.dice(lv, lv)["RV"] is None
    assert overlap.dice(empty, lv)["LV"] == 0.0
    assert overlap.dice(lv, empty)["LV"] == 0.0
    scores = surface_scores(empty, lv, (1.0, 1.0, 1.0))["LV"]
    assert (scores.hd95_mm, scores.nsd, scores.missed) == (None, 0.0, True)
    invented = surface_scores(lv, empty, (1.0, 1.0, 1.0))["LV"]
    assert (invented.nsd, invented.missed) == (0.0, False)
    absent = surface_scores(lv, lv, (1.0, 1.0, 1.0))["RV"]
    assert (absent.hd95_mm, absent.nsd, absent.missed) == (None, None, False)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.5, 3.0)])
def test_hd95_of_a_shifted_box_is_the_shift_and_agrees_with_monai(spacing: tuple[float, float, float]) -> None:
    a, b = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    a[5:12, 5:12, 5:12] = ID["LA"]
    b[8:15, 5:12, 5:12] = ID["LA"]
    mine = surface_scores(a, b, spacing)["LA"].hd95_mm
    expected = compute_hausdorff_distance(one_hot(a)[:, [0, 2]], one_hot(b)[:, [0, 2]], percentile=95, spacing=spacing)[0, 0]
    assert mine == pytest.approx(3 * spacing[0])
    assert mine == pytest.approx(float(expected), abs=1e-4)


def test_nsd_counts_the_surface_within_the_tolerance() -> None:
    a, b = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    a[5:12, 5:12, 5:12] = ID["LA"]
    b[6:13, 5:12, 5:12] = ID["LA"]
    assert surface_scores(a, b, (1.0, 1.0, 1.0), 1.0)["LA"].nsd == 1.0
    assert surface_scores(a, b, (1.0, 1.0, 1.0), 0.5)["LA"].nsd < 1.0  # type: ignore[operator]
    assert surface_scores(a, a, (1.0, 1.0, 1.0), 0.1)["LA"].nsd == 1.0


def test_specks_are_small_second_pieces() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:10, 2:10, 2:10] = ID["LV"]
    assert anatomy.speck_share(label, 0.008) == 0
    label[15, 15, 15] = ID["LV"]
    assert anatomy.speck_share(label, 0.008) == pytest.approx(1 / 513)
    # A second piece of 0.1 mL or more is no speck.
    assert anatomy.speck_share(label, 0.2) == 0


def test_impossible_boundary_voxels() -> None:
    reference = np.zeros((12, 12, 12), np.uint8)
    reference[:6] = ID["LV"]
    assert anatomy.impossible_boundary_share(reference, reference) == 0
    swapped = reference.copy()
    swapped[5] = 0
    # The other side of the boundary is possible, a third structure is not.
    assert anatomy.impossible_boundary_share(swapped, reference) == 0
    dots = reference.copy()
    dots[5, 3, 3] = ID["PA"]
    assert anatomy.impossible_boundary_share(dots, reference) == pytest.approx(1 / (2 * 144))


def test_completeness_asks_for_all_eight() -> None:
    label = np.repeat(np.arange(LABEL_COUNT, dtype=np.uint8), 100).reshape(9, 10, 10)
    assert anatomy.is_complete(label, 0.01)
    assert not anatomy.is_complete(label, 0.004)
    assert anatomy.is_complete(np.where(label == 8, 0, label).astype(np.uint8), 0.01, KEYS[:7])
    label[label == ID["LAA"]] = 0
    assert not anatomy.is_complete(label, 0.01)
    assert anatomy.volumes_ml(label, 0.01)["LV"] == pytest.approx(1.0)


def test_soft_dice_of_a_certain_prediction_is_the_dice() -> None:
    a, b = random_maps(4)
    logits = one_hot(a).float() * 200.0
    hard = overlap.dice(a, b)
    expected = 1 - np.mean([v for v in hard.values() if v is not None])
    assert float(soft_dice_loss(logits, torch.from_numpy(b)[None], epsilon=1e-6)) == pytest.approx(expected, abs=1e-4)
    perfect = one_hot(b).float() * 200.0
    assert float(dice_cross_entropy(perfect, torch.from_numpy(b)[None])) < 1e-3


def test_deep_supervision_is_the_plain_loss_for_one_output_and_weighs_finer_levels_more() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, LABEL_COUNT, (1, 8, 12, 16), generator=generator).to(torch.uint8)
    logits = torch.randn(1, LABEL_COUNT, 8, 12, 16, generator=generator)
    plain = dice_cross_entropy(logits, label)
    assert float(deep_supervision([logits], label)) == pytest.approx(float(plain))
    coarse = logits[:, :, ::4, ::4, ::4]
    low = dice_cross_entropy(coarse, label[:, 2::4, 2::4, 2::4])
    assert float(deep_supervision([logits, coarse], label)) == pytest.approx(float((plain + 0.5 * low) / 1.5), rel=1e-5)


def test_summary_counts_misses_and_keeps_them_out_of_hd95() -> None:
    _, b = random_maps(1)
    lost = b.copy()
    lost[lost == ID["LAA"]] = 0
    rows = score("one", b, b, (1.0, 1.0, 1.0), 2.0) + score("two", lost, b, (1.0, 1.0, 1.0), 2.0)
    summary = summarize(rows)
    assert summary["cases"] == 2
    assert summary["dice"]["LAA"] == 0.5
    assert summary["missed"]["LAA"] == 1
    assert summary["hd95_mm"]["LAA"] == 0.0
    assert summary["dice"]["mean"] == pytest.approx((7 + 0.5) / 8)
