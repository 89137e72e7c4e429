"""Augmentation: drawn apart from applied, image and label together, nothing changed by default."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from auricle.core.anatomy import ID, KEYS
from auricle.data import augment
from auricle.data.augment import AugmentConfig, anchors, apply, draw, move_to_patch, paper_generator, plain, segmenter
from auricle.data.intensity import IntensityConfig

SIZE, SPACING = (16, 20, 24), (2.0, 2.0, 3.0)


def blocks(shape: tuple[int, int, int] = (24, 28, 32)) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth image of position, and a label of four quarters."""
    x, y, z = (torch.linspace(0, 400, n) for n in shape)
    image = (x[:, None, None] + 0.5 * y[None, :, None] + 0.25 * z[None, None, :]).round().to(torch.int16)
    label = ((torch.arange(shape[0])[:, None, None] > shape[0] // 2) * 2 + (torch.arange(shape[2]) > shape[2] // 2)).to(torch.uint8)
    return image, label.expand(shape).contiguous()


def drawn(config: AugmentConfig, seed: int = 0):  # type: ignore[no-untyped-def]
    return draw(config, (32.0, 40.0, 72.0), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 28, 32), (16, 20, 24), (17, 21, 25)])
def test_the_default_is_the_plain_view(shape: tuple[int, int, int]) -> None:
    image, label = blocks(shape)
    moved, picked = apply(drawn(AugmentConfig()), image, label, SIZE, SPACING)
    same_image, same_label = plain(image, label, SIZE)
    assert torch.allclose(moved, same_image, atol=0.05)
    assert picked is not None
    assert torch.equal(picked, same_label)


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(segmenter(), 1) == drawn(segmenter(), 1) != drawn(segmenter(), 2)
    image, label = blocks()
    a, b = (apply(drawn(segmenter(), 3), image, label, SIZE, SPACING) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])  # type: ignore[arg-type]


def test_a_flip_mirrors_both_and_is_its_own_inverse() -> None:
    image, label = blocks(SIZE)
    flip = replace(drawn(AugmentConfig()), matrix=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    moved, picked = apply(flip, image, label, SIZE, SPACING)
    assert torch.allclose(moved, image.flip(0).float(), atol=0.05)
    assert picked is not None
    assert torch.equal(picked, label.flip(0))
    back, label_back = apply(flip, moved, picked, SIZE, SPACING)
    assert torch.allclose(back, image.float(), atol=0.1)
    assert torch.equal(label_back, label)  # type: ignore[arg-type]


def test_image_and_label_move_together() -> None:
    """An image painted with its own labels still agrees with them after any move."""
    _, label = blocks((32, 36, 40))
    image = label.to(torch.int16) * 300
    config = replace(segmenter(), intensity=IntensityConfig(), far_probability=0.0, cut_probability=0.0, warp_mm=2.0)
    for seed in range(10):
        moved, picked = apply(drawn(config, seed), image, label, SIZE, SPACING)
        # Between two quarters the image is a mixture; elsewhere it must be its label's.
        pure = (moved > -100) & ((moved / 300 - (moved / 300).round()).abs() < 0.02)
        assert pure.sum() > 0.3 * pure.numel()
        assert ((moved / 300).round() == picked)[pure].float().mean() > 0.99


def test_a_warp_moves_by_its_sd_and_folds_nothing() -> None:
    axes = [torch.arange(-60.0, 61.0, 5.0, dtype=torch.float64) for _ in range(3)]
    fields = torch.stack([augment._warp(4.0, seed, axes) for seed in range(1000, 1030)])
    assert fields.square().mean().sqrt() == pytest.approx(4.0, rel=0.1)
    assert fields.mean().abs() < 0.5
    # The map x + u(x) keeps its orientation everywhere, at the largest strength that is allowed too.
    strongest = fields * (augment.WARP_PERIOD_MM / 6 / 4.0)
    for field in strongest:
        gradient = torch.stack([torch.gradient(field[..., k], spacing=5.0, dim=[0, 1, 2])[a] for k in range(3) for a in range(3)], -1)
        jacobian = gradient.reshape(*gradient.shape[:3], 3, 3) + torch.eye(3, dtype=torch.float64)
        assert torch.linalg.det(jacobian).min() > 0


def test_a_warp_leaves_everything_else_as_it_was_drawn() -> None:
    still, warped = drawn(segmenter(), 5), drawn(replace(segmenter(), warp_mm=3.0), 5)
    assert warped.warp is not None
    assert replace(warped, warp=None) == still
    image, label = blocks()
    config = replace(AugmentConfig(), warp_mm=3.0)
    (a, la), (b, lb) = (apply(drawn(config, seed), image, label, SIZE, SPACING) for seed in (1, 2))
    assert not torch.equal(a, b)
    assert la is not None
    assert lb is not None
    assert not torch.equal(la, lb)


def ball(edge: int = 64, spacing: float = 2.5) -> tuple[torch.Tensor, torch.Tensor]:
    """A left ventricle of 25 mm radius in a wall of 10 mm: an image in HU that follows its label map."""
    axis = (torch.arange(edge) - (edge - 1) / 2) * spacing
    radius = (axis[:, None, None].square() + axis[None, :, None].square() + axis[None, None, :].square()).sqrt()
    label = torch.where(radius < 25, ID["LV"], torch.where(radius < 35, ID["MYO"], 0)).to(torch.uint8)
    return torch.tensor([0, 100, 0, 300], dtype=torch.int16)[label.long()], label


def grown(**moves: float) -> augment.Draw:
    return replace(drawn(AugmentConfig()), growth_mm=tuple(float(moves.get(key, 0.0)) for key in ("", *KEYS)))


@pytest.mark.parametrize(
    ("moves", "inner", "outer"),
    # In a wall of 10 mm the moves of its two borders meet: the inner one stays, the outer one goes some of the way.
    [({}, 25, 35), ({"LV": 3}, 27.5, 35), ({"LV": -3}, 22.2, 35), ({"LV": 3, "MYO": 3}, 27.3, 38), ({"MYO": 3}, 24.7, 37.2)],
)
def test_each_structure_grows_by_itself(moves: dict[str, float], inner: float, outer: float) -> None:
    image, label = ball()
    moved, picked = apply(grown(**moves), image, label, (48, 48, 48), (2.5, 2.5, 2.5))
    assert picked is not None
    for values, found in ((("LV",), inner), (("LV", "MYO"), outer)):
        voxels = int(torch.isin(picked, torch.tensor([ID[v] for v in values], dtype=torch.uint8)).sum())
        assert (voxels * 2.5**3 * 3 / 4 / math.pi) ** (1 / 3) == pytest.approx(found, abs=0.5)
    # The image goes with its label.
    painted = torch.tensor([0.0, 100.0, 0.0, 300.0])[picked.long()]
    assert ((moved - painted).abs() < 60).float().mean() > 0.97


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 2.5, 2.5), (2.0, 2.0, 3.0), (1.0, 2.0, 5.0)])
def test_a_flat_border_moves_along_its_own_axis_by_what_was_drawn(spacing: tuple[float, float, float]) -> None:
    for axis in range(3):
        shape = [7, 12, 11]
        shape[axis] = round(100 / spacing[axis])
        where = torch.arange(shape[axis]) * spacing[axis] < 50
        label = (where.reshape([-1 if a == axis else 1 for a in range(3)]).expand(shape) * ID["AO"]).to(torch.uint8).contiguous()
        size = (shape[0], shape[1], shape[2])
        for move in (2.5, -2.5):
            _, picked = apply(grown(AO=move), label.to(torch.int16), label, size, spacing)
            assert picked is not None
            moved = (int((picked > 0).sum()) - int((label > 0).sum())) / (label.numel() / shape[axis]) * spacing[axis]
            # To the nearest voxel.
            assert moved == pytest.approx(move, abs=0.55 * spacing[axis] + 0.4)


@pytest.mark.parametrize("spacing", [1.0, 2.0, 2.5])
def test_growth_hardly_ever_folds_a_wall(spacing: float) -> None:
    """At the largest SD, in a septum of 10 mm between two ventricles, whose three moves are drawn as in training."""
    x = torch.arange(round(100 / spacing)) * spacing
    slab = torch.where(x < 45, ID["LV"], torch.where(x < 55, ID["MYO"], ID["RV"])).to(torch.uint8)
    label = slab[:, None, None].expand(-1, 8, 8).contiguous()
    size, scale = (len(x), 8, 8), (spacing, spacing, spacing)
    still = augment._sampling_grid(drawn(AugmentConfig()), size, size, scale)
    folded = []
    for seed in range(100):
        moves = drawn(AugmentConfig(growth_mm=augment.GROWTH_MOST_MM), seed).growth_mm
        assert moves is not None
        field = (still + augment.border_moves(moves, label, still, scale))[0, ..., 2]
        folded.append(bool((field.diff(dim=0) <= 0).any()))
    assert sum(folded) <= 2


def test_growth_leaves_everything_else_as_it_was_drawn() -> None:
    still, other = drawn(segmenter(), 5), drawn(replace(segmenter(), growth_mm=1.5), 5)
    assert other.growth_mm is not None
    assert other.growth_mm[0] == 0
    assert replace(other, growth_mm=None) == still
    sizes = torch.tensor([drawn(AugmentConfig(growth_mm=1.5), s).growth_mm for s in range(300)])[:, 1:]
    assert float(sizes.std()) == pytest.approx(1.5, rel=0.1)
    # Borders that nothing labels stay where they are.
    image, _ = blocks()
    assert torch.equal(apply(other, image, None, SIZE, SPACING)[0], apply(still, image, None, SIZE, SPACING)[0])


def test_too_much_growth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"growth-mm must lie in 0\.\.2"):
        AugmentConfig(growth_mm=3.0)


def test_probabilities_of_the_paper_are_kept() -> None:
    draws = [drawn(paper_generator(), s) for s in range(1500)]
    boosted = sum(d.boost_hu == 50.0 for d in draws) / len(draws)
    mirrored = sum(d.matrix[0][0] < 0 for d in draws) / len(draws)
    cropped = sum(abs(d.matrix[0][0]) < 1.0 for d in draws) / len(draws)
    assert boosted == pytest.approx(0.05, abs=0.02)
    assert mirrored == pytest.approx(0.2, abs=0.035)
    assert cropped == pytest.approx(0.2, abs=0.035)
    # The in-plane crop is resized back in x and y alone.
    assert all(d.matrix[2][2] == pytest.approx(1.0) for d in draws)


def test_the_boost_adds_its_hu_to_contrasted_blood_alone() -> None:
    image, label = torch.full(SIZE, 300, dtype=torch.int16), torch.zeros(SIZE, dtype=torch.uint8)
    image[:, :, :12] = -800
    moved, _ = apply(replace(drawn(AugmentConfig()), boost_hu=50.0), image, label, SIZE, SPACING)
    assert float(moved[0, 0, -1]) == pytest.approx(350, abs=0.1)
    assert float(moved[0, 0, 0]) == pytest.approx(-800, abs=0.1)


def test_outside_of_the_source_lie_air_and_background() -> None:
    image, label = torch.full(SIZE, 300, dtype=torch.int16), torch.ones(SIZE, dtype=torch.uint8)
    moved, picked = apply(replace(drawn(AugmentConfig()), shift_mm=(500.0, 0.0, 0.0)), image, label, SIZE, SPACING)
    assert picked is not None
    assert (moved == -1024).all()
    assert not picked.any()
    cut, cut_label = apply(replace(drawn(AugmentConfig()), cut=(2, True, 0.25)), image, label, SIZE, SPACING)
    assert cut_label is not None
    assert (cut[..., -6:] == -1024).all()
    assert not cut_label[..., -6:].any()
    assert cut_label[..., :-6].all()


def test_a_pair_without_surroundings_may_be_continued() -> None:
    image, label = torch.full(SIZE, 300, dtype=torch.int16), torch.ones(SIZE, dtype=torch.uint8)
    far = replace(drawn(AugmentConfig()), shift_mm=(500.0, 0.0, 0.0), continue_edges=True)
    moved, picked = apply(far, image, label, SIZE, SPACING)
    assert torch.allclose(moved, torch.full(SIZE, 300.0), atol=0.05)
    assert picked is not None
    assert picked.all()


@pytest.mark.parametrize(("margin", "share"), [(0, 0.275), (16, 0.027)])
def test_views_of_a_pair_without_surroundings_would_show_much_air(margin: int, share: float) -> None:
    """A quarter of each in the grid of the recipe `study`; with a cohort's margin hardly any. Pairs are continued for this."""
    found = []
    for seed in range(300):
        params = draw(segmenter(), (160.0,) * 3, torch.Generator().manual_seed(seed))
        grid = augment._sampling_grid(params, (64 + 2 * margin,) * 3, (64,) * 3, (2.5,) * 3)
        found.append(float((grid.abs() > 1).any(-1).float().mean()))
    assert np.mean(found) == pytest.approx(share, abs=0.005)


def test_a_far_view_of_a_patch_stays_far() -> None:
    label = torch.ones((24, 28, 32), dtype=torch.uint8)
    config = AugmentConfig(far_probability=1.0, far_mm=200.0)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        far = drawn(config, seed)
        assert move_to_patch(far, (24, 28, 32), anchors(label), (16, 16, 16), (8, 8, 8), SPACING, 1.0, generator) == far


def test_a_patch_is_an_exact_crop() -> None:
    generator = torch.Generator().manual_seed(0)
    for wide, patch in (((24, 28, 32), (8, 8, 8)), ((25, 28, 31), (8, 9, 8))):
        image = torch.randint(-500, 500, wide, generator=generator).to(torch.int16)
        label = torch.randint(0, 9, wide, generator=generator).to(torch.uint8)
        for focus in (0.0, 1.0):
            params = move_to_patch(
                drawn(AugmentConfig()), tuple(label.shape), anchors(label), (16, 16, 16), patch, SPACING, focus, generator
            )
            moved, picked = apply(params, image, label, patch, SPACING)
            windows = label.unfold(0, patch[0], 1).unfold(1, patch[1], 1).unfold(2, patch[2], 1)
            assert picked is not None
            found = (windows == picked).flatten(3).all(-1).nonzero()
            corner = tuple(slice(int(c), int(c) + p) for c, p in zip(found[0], patch, strict=True))
            assert torch.allclose(moved, image[corner].float(), atol=0.2)


def test_focused_patches_hold_their_structure() -> None:
    label = torch.zeros(40, 40, 40, dtype=torch.uint8)
    label[20, 21, 22] = 8
    image = torch.zeros(40, 40, 40, dtype=torch.int16)
    generator = torch.Generator().manual_seed(0)
    held = []
    for focus in (1.0, 0.0):
        hits = 0
        for _ in range(40):
            params = move_to_patch(
                drawn(AugmentConfig()), (40, 40, 40), anchors(label), (32, 32, 32), (8, 8, 8), (2.0, 2.0, 2.0), focus, generator
            )
            picked = apply(params, image, label, (8, 8, 8), (2.0, 2.0, 2.0))[1]
            assert picked is not None
            hits += bool((picked == 8).any())
        held.append(hits)
    assert held[0] == 40
    assert held[1] < 12


@pytest.mark.parametrize(("size", "patch"), [((32, 32, 32), (8, 8, 8)), ((32, 32, 32), (31, 20, 32)), ((20, 24, 32), (24, 24, 24))])
def test_focused_patches_stay_within_the_pair(size: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    """A structure at the very edge of what is stored, as the aorta is, does not pull them out into air."""
    label = torch.zeros(40, 40, 40, dtype=torch.uint8)
    label[0, 39, 0] = 6
    image, generator = torch.zeros(40, 40, 40, dtype=torch.int16), torch.Generator().manual_seed(0)
    for _ in range(20):
        params = move_to_patch(drawn(AugmentConfig()), (40, 40, 40), anchors(label), size, patch, (2.0, 2.0, 2.0), 1.0, generator)
        assert apply(params, image, label, patch, (2.0, 2.0, 2.0))[0].min() > -500


@pytest.mark.parametrize("values", [{"flip_probability": 1.5}, {"crop_scale": (0.9, 0.5)}, {"boost_probability": -0.1}])
def test_impossible_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="--augment"):
        AugmentConfig(**values)  # type: ignore[arg-type]


def test_anchors_lie_in_their_structure() -> None:
    label = torch.randint(0, 4, (12, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = anchors(label, most=50)
    assert len(found) == 3
    for value, points in enumerate(found, 1):
        assert points.shape == (50, 3)
        assert (label[tuple(points.T)] == value).all()
