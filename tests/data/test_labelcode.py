"""The packed label code: exact on label maps, and free of third structures on mixtures of two that touch."""

import torch

from auricle.core.anatomy import LABEL_COUNT
from auricle.data.labelcode import CODE_BOOK, decode_label, pack, touching_pairs, unpack


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
