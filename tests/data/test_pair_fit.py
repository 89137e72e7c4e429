"""Warping to volumes and location: met closely, and label and image stay one pair."""

import pytest
import torch
from torch import Tensor

from auricle.core.anatomy import ID
from auricle.data.conditions import measured
from auricle.data.labelcode import decode_label, pack
from auricle.data.pair_fit import MOST_STRETCH, fit_pair

SPACING = (2.5, 2.0, 1.6)
VOXEL_ML = 0.008
SIZE = (40, 48, 60)
"""Axes differ: a mistaken order of them would show."""


def _pair() -> tuple[Tensor, Tensor]:
    """A ventricle in its wall, and an appendage apart from them: an image of the true borders (HU) and logits that follow them."""
    at = torch.stack(torch.meshgrid(*[(torch.arange(float(n)) - n / 2) * s for n, s in zip(SIZE, SPACING, strict=True)], indexing="ij"))
    radius, other = at.norm(dim=0), (at - torch.tensor([0.0, 34.0, 0.0])[:, None, None, None]).norm(dim=0)
    logits = torch.full((9, *SIZE), -20.0)
    logits[0], logits[ID["LV"]], logits[ID["MYO"]] = 0.0, (24.0 - radius) + 3 * (16.0 - radius), 24.0 - radius
    logits[ID["LAA"]] = 8.0 - other
    image = 100 * torch.sigmoid(24.0 - radius) + 200 * torch.sigmoid(16.0 - radius) + 300 * torch.sigmoid(8.0 - other)
    return image, logits


def _volume(channels: Tensor, key: str) -> float:
    return float((decode_label(channels[None])[0] == ID[key]).sum()) * VOXEL_ML


def _overlap(image: Tensor, channels: Tensor) -> float:
    """Dice of what is bright and what is labeled as blood."""
    bright, named = image > 150.0, torch.isin(decode_label(channels[None])[0], torch.tensor([ID["LV"], ID["LAA"]]))
    return 2 * float((bright & named).sum()) / float(bright.sum() + named.sum())


@pytest.mark.parametrize("factor", [0.6, 0.85, 1.2, 1.8])
def test_volumes_are_met(factor: float) -> None:
    image, logits = _pair()
    wanted = {k: factor * _volume(logits, k) for k in ("LV", "MYO", "LAA")}
    _, fitted = fit_pair(image, logits, SPACING, wanted)
    for key, ml in wanted.items():
        assert _volume(fitted, key) == pytest.approx(ml, rel=0.04), key


@pytest.mark.parametrize("factor", [0.6, 1.8])
def test_the_image_moves_with_its_label(factor: float) -> None:
    """Blood stays where the label says blood: bright voxels and labeled ones part no more than they did before."""
    image, logits = _pair()
    other = logits[:, 12:28, 12:36, 15:45].clone()
    moved, fitted = fit_pair(image, logits, SPACING, {"LAA": factor * _volume(logits, "LAA")})
    assert _overlap(moved, fitted) > _overlap(image, logits) - 0.01
    assert _overlap(image, fitted) < _overlap(moved, fitted) - 0.01
    # What lies far from it stays: the move fades.
    assert (fitted[:, 12:28, 12:28, 15:45].argmax(0) == other[:, :, :16].argmax(0)).float().mean() > 0.995


def test_a_wall_moves_along_with_the_chamber_inside() -> None:
    """The displacement is smooth: a growing chamber pushes its wall outward more than it eats it."""
    image, logits = _pair()
    wall = _volume(logits, "MYO")
    _, fitted = fit_pair(image, logits, SPACING, {"LV": 1.3 * _volume(logits, "LV")})
    assert _volume(fitted, "LV") == pytest.approx(1.3 * _volume(logits, "LV"), rel=0.02)
    assert _volume(fitted, "MYO") == pytest.approx(wall, rel=0.05)


def test_nothing_asked_changes_nothing() -> None:
    image, logits = _pair()
    for wanted in ({}, {"LV": _volume(logits, "LV")}, {"RA": 80.0}):  # there is no right atrium to let grow
        same, channels = fit_pair(image, logits, SPACING, wanted)
        assert same is image
        assert channels is logits


def test_packed_channels_are_fitted_too() -> None:
    image, logits = _pair()
    packed = pack(decode_label(logits[None]))[0]
    wanted = 1.3 * _volume(packed, "LV")
    _, fitted = fit_pair(image, packed, SPACING, {"LV": wanted})
    assert _volume(fitted, "LV") == pytest.approx(wanted, rel=0.04)


def test_one_structure_everywhere_has_no_border_to_move() -> None:
    image, logits = _pair()
    logits[ID["LV"]] = 100.0
    same, channels = fit_pair(image, logits, SPACING, {"LV": 120.0})
    assert same is image
    assert channels is logits


def _location(channels: Tensor) -> float:
    found = measured({}, decode_label(channels[None])[0].numpy(), SPACING).location_mm
    assert found is not None
    return found


@pytest.mark.parametrize("away", [-11.0, -3.0, 4.0, 12.0])
def test_the_location_is_met_and_the_heart_stays_as_it_is(away: float) -> None:
    image, logits = _pair()
    wanted = _location(logits) + away
    moved, fitted = fit_pair(image, logits, SPACING, {}, wanted)
    assert _location(fitted) == pytest.approx(wanted, abs=SPACING[2] / 2)
    for key in ("LV", "MYO"):
        assert _volume(fitted, key) == pytest.approx(_volume(logits, key), rel=0.02)
    assert _overlap(moved, fitted) > _overlap(image, logits) - 0.01
    assert _overlap(image, fitted) < _overlap(moved, fitted) - 0.01
    # The ends of the view stay where they are.
    assert torch.allclose(moved[..., 0], image[..., 0], atol=1e-4)
    assert torch.allclose(moved[..., -1], image[..., -1], atol=1e-4)


def test_a_crumb_does_not_decide_where_the_heart_lies() -> None:
    image, logits = _pair()
    wanted = _location(logits) + 6.0
    crumbed = logits.clone()
    crumbed[ID["RV"], 3:5, 3:5, 55:57] = 50.0
    _, fitted = fit_pair(image, crumbed, SPACING, {}, wanted)
    label = decode_label(fitted[None])[0]
    label[label == ID["RV"]] = 0
    found = measured({}, label.numpy(), SPACING).location_mm
    assert found == pytest.approx(wanted, abs=SPACING[2] / 2)


def test_volumes_and_location_are_met_together() -> None:
    image, logits = _pair()
    wanted, ml = _location(logits) + 6.0, 1.2 * _volume(logits, "LV")
    _, fitted = fit_pair(image, logits, SPACING, {"LV": ml}, wanted)
    assert _location(fitted) == pytest.approx(wanted, abs=SPACING[2])
    assert _volume(fitted, "LV") == pytest.approx(ml, rel=0.04)


def test_a_heart_is_moved_no_farther_than_its_surroundings_can_be_stretched() -> None:
    image, logits = _pair()
    lowest = 15  # of the wall, 15 slices above the bottom of the view
    _, fitted = fit_pair(image, logits, SPACING, {}, 60.0)
    moved = (_location(fitted) - _location(logits)) / SPACING[2]
    assert moved == pytest.approx(lowest * (1 - 1 / MOST_STRETCH), abs=1.0)
    # Cut off below, it stays.
    cut_image, cut = image[..., 20:], logits[..., 20:]
    same, channels = fit_pair(cut_image, cut, SPACING, {}, 60.0)
    assert same is cut_image
    assert channels is cut
