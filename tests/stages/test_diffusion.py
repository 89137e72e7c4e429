"""What the diffusion stage does beside its network: the weights of places in the loss."""

import pytest
import torch

from auricle.core.anatomy import ID, LABEL_COUNT
from auricle.stages.diffusion import MOST_WEIGHT, DiffusionStage, place_weights


def _shares() -> torch.Tensor:
    """A ventricle in a fifth of the places and an appendage in one of them."""
    shares = torch.zeros(LABEL_COUNT, 10, 10, 10)
    shares[ID["LV"], 1:3], shares[ID["LAA"], 7, 5, 5] = 1.0, 0.5
    shares[0] = 1 - shares[1:].sum(0)
    return shares


def test_a_small_structure_weighs_as_much_as_a_large_one() -> None:
    weight = place_weights(_shares(), 0.5)
    assert float(weight.mean()) == pytest.approx(1.0)
    extra = weight - weight.min()
    # Both lie far from each other and from the blurred rim of the other.
    large, small = extra[:4].sum(), extra[6:9, 4:7, 4:7].sum()
    assert float(small) == pytest.approx(float(large), rel=0.2)
    assert weight[7, 5, 5] > 5 * weight[2, 5, 5] > 5 * weight[5, 0, 0]


def test_no_place_weighs_more_than_the_most() -> None:
    shares = torch.zeros(LABEL_COUNT, 16, 16, 16)
    shares[ID["LAA"], 7, 5, 5] = 1.0
    weight = place_weights(shares, 0.9)
    assert float(weight.max()) == pytest.approx(MOST_WEIGHT, rel=1e-4)
    assert float(weight.mean()) == pytest.approx(1.0, rel=0.01)


def test_without_focus_or_structures_all_places_weigh_alike() -> None:
    assert torch.equal(place_weights(_shares(), 0.0), torch.ones(10, 10, 10))
    empty = torch.zeros(LABEL_COUNT, 4, 4, 4)
    empty[0] = 1.0
    assert torch.equal(place_weights(empty, 0.5), torch.ones(4, 4, 4))


def test_a_focus_beyond_its_range_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for focus in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"--focus must lie in 0\.\.1, below 1, is"):
            DiffusionStage(tmp_path, tmp_path, focus=focus)
