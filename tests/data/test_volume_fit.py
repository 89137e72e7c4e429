"""Warping to volumes: met closely, and label and image stay one pair."""

import pytest
import torch
from torch import Tensor

from auricle.core.anatomy import ID
from auricle.data.labelcode import decode_label, pack
from auricle.data.volume_fit import fit_volumes

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


@pytest.mark.parametrize("factor", [0.6, 0.85, 1.2, 1.8])
def test_volumes_are_met(factor: float) -> None:
    image, logits = _pair()
    wanted = {k: factor * _volume(logits, k) for k in ("LV", "MYO", "LAA")}
    _, fitted = fit_volumes(image, logits, wanted, SPACING)
    for key, ml in wanted.items():
        assert _volume(fitted, key) == pytest.approx(ml, rel=0.04), key


@pytest.mark.parametrize("factor", [0.6, 1.8])
def test_the_image_moves_with_its_label(factor: float) -> None:
    """Blood stays where the label says blood: bright voxels and labeled ones part no more than they did before."""
    image, logits = _pair()
    other = logits[:, 12:28, 12:36, 15:45].clone()
    moved, fitted = fit_volumes(image, logits, {"LAA": factor * _volume(logits, "LAA")}, SPACING)

    def overlap(i: Tensor, c: Tensor) -> float:
        bright, named = i > 150.0, torch.isin(decode_label(c[None])[0], torch.tensor([ID["LV"], ID["LAA"]]))
        return 2 * float((bright & named).sum()) / float(bright.sum() + named.sum())

    assert overlap(moved, fitted) > overlap(image, logits) - 0.01
    assert overlap(image, fitted) < overlap(moved, fitted) - 0.01
    # What lies far from it stays: the move fades.
    assert (fitted[:, 12:28, 12:28, 15:45].argmax(0) == other[:, :, :16].argmax(0)).float().mean() > 0.995


def test_a_wall_moves_along_with_the_chamber_inside() -> None:
    """The displacement is smooth: a growing chamber pushes its wall outward more than it eats it."""
    image, logits = _pair()
    wall = _volume(logits, "MYO")
    _, fitted = fit_volumes(image, logits, {"LV": 1.3 * _volume(logits, "LV")}, SPACING)
    assert _volume(fitted, "LV") == pytest.approx(1.3 * _volume(logits, "LV"), rel=0.02)
    assert _volume(fitted, "MYO") == pytest.approx(wall, rel=0.05)


def test_nothing_asked_changes_nothing() -> None:
    image, logits = _pair()
    for wanted in ({}, {"LV": _volume(logits, "LV")}, {"RA": 80.0}):  # there is no right atrium to let grow
        same, channels = fit_volumes(image, logits, wanted, SPACING)
        assert same is image
        assert channels is logits


def test_packed_channels_are_fitted_too() -> None:
    image, logits = _pair()
    packed = pack(decode_label(logits[None]))[0]
    wanted = 1.3 * _volume(packed, "LV")
    _, fitted = fit_volumes(image, packed, {"LV": wanted}, SPACING)
    assert _volume(fitted, "LV") == pytest.approx(wanted, rel=0.04)


def test_one_structure_everywhere_has_no_border_to_move() -> None:
    image, logits = _pair()
    logits[ID["LV"]] = 100.0
    same, channels = fit_volumes(image, logits, {"LV": 120.0}, SPACING)
    assert same is image
    assert channels is logits
