"""Passes in memory order see every value once, whatever the layout."""

import numpy as np
import pytest

from auricle.core import arrays

VALUES = np.random.default_rng(0).integers(0, 300, (13, 7, 11)).astype(np.uint16)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_slabs_make_up_the_array(order: str, flip: int, axes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "SLAB_BYTES", 300)
    array = np.array(VALUES, order=order).transpose(axes)[:, ::flip]
    seen = list(arrays.slabs(array))
    assert len(seen) > 1
    assert np.array_equal(np.sort(np.concatenate([s.ravel() for s in seen])), np.sort(array.ravel()))
    assert all(np.shares_memory(s, array) for s in seen)


def test_memory_order_runs_from_the_largest_stride() -> None:
    ordered = arrays.in_memory_order(np.asfortranarray(VALUES))
    assert ordered.shape == (11, 7, 13)
    assert ordered.flags.c_contiguous


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_counted(kind: type, share: float, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them are zero, and however the last slab's bytes fall."""
    monkeypatch.setattr(arrays, "SLAB_BYTES", 300)
    rng = np.random.default_rng(1)
    array = np.array(np.where(rng.random(VALUES.shape) < share, VALUES % 9, 0).astype(kind), order=order)  # type: ignore[call-overload]
    assert np.array_equal(arrays.count_values(array, 12), np.bincount(array.ravel(), minlength=12))
    assert np.array_equal(arrays.count_values(array), np.bincount(array.ravel()))
