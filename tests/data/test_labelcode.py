"""The packed label code: exact on label maps, and free of third structures on mixtures of two that touch."""

import pytest
import torch

from auricle.core.anatomy import ID, LABEL_COUNT
from auricle.data.labelcode import CODE_BOOK, decode_label, fit_volumes, pack, touching_pairs, unpack


def test_unpack_inverts_pack() -> None:
    label = torch.arange(LABEL_COUNT, dtype=torch.uint8).repeat(30)[: 6 * 6 * 6].reshape(1, 6, 6, 6)
    assert torch.equal(unpack(pack(label)), label)
    assert torch.equal(decode_label(pack(label)), label)


def test_mixtures_of_touching_structures_decode_to_one_of_the_two() -> None:
    for a, b in touching_pairs():
        t = torch.linspace(0, 1, 101)[:, None]
        mixed = (1 - t) * CODE_BOOK[a] + t * CODE_BOOK[b]
        decoded = unpack(mixed.T.reshape(1, 3, 101, 1, 1)).flatten().tolist()
        assert set(decoded) == {a, b}, (a, b)


def test_a_naive_code_book_would_fail() -> None:
    """The property is not vacuous: eight corners of a cube and its center do decode mixtures to third codes."""
    corners = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)] + [[0.5, 0.5, 0.5]])
    bad = 0
    for a, b in touching_pairs():
        middle = (corners[a] + corners[b]) / 2
        nearest = (corners - middle).norm(dim=1).argsort()[:2].tolist()
        bad += set(nearest) != {a, b}
    assert bad > 0


def _logits() -> torch.Tensor:
    """A ball of LV in a slab of MYO, with soft borders."""
    at = torch.stack(torch.meshgrid(*[torch.arange(24.0) - 12] * 3, indexing="ij"))
    radius = at.square().sum(0).sqrt()
    radius = radius + 0.1 * torch.randn(radius.shape, generator=torch.Generator().manual_seed(0))  # no two voxels alike
    logits = torch.full((9, 24, 24, 24), -8.0)
    logits[0] = 0.0
    logits[ID["LV"]] = 4 * (6.0 - radius)
    logits[ID["MYO"]] = 2 * (8.0 - radius)
    return logits


def _volume(logits: torch.Tensor, key: str) -> int:
    return int((logits.argmax(0) == ID[key]).sum())


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_volumes_within_reach_are_met(factor: float) -> None:
    logits = _logits()
    wanted = factor * _volume(logits, "LV") * 0.01
    fitted = fit_volumes(logits, {"LV": wanted}, 0.01, most=4.0)
    assert _volume(fitted, "LV") * 0.01 == pytest.approx(wanted, rel=0.06)


def test_shifts_are_bounded_and_others_are_left_alone() -> None:
    logits = _logits()
    for wanted in (0.001, 1000.0):
        fitted = fit_volumes(logits, {"LV": wanted}, 0.01, most=0.5)
        shift = fitted - logits
        assert shift[ID["LV"]].unique().numel() <= 3
        assert float(shift.abs().max()) == pytest.approx(0.5, abs=1e-5)
        assert not shift[[i for i in range(9) if i != ID["LV"]]].any()
    assert torch.equal(fit_volumes(logits, {}, 0.01), logits)


def test_several_structures_are_fitted_together() -> None:
    logits = _logits()
    wanted = {k: 1.08 * _volume(logits, k) * 0.01 for k in ("LV", "MYO")}
    fitted = fit_volumes(logits, wanted, 0.01, most=4.0)
    assert all(_volume(fitted, k) * 0.01 == pytest.approx(v, rel=0.08) for k, v in wanted.items())
