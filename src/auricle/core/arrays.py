"""Passes over volumes in the order in which they lie in memory, slab by slab, so that each slab is worked on while in cache."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB_BYTES = 2**20


def in_memory_order(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its axes sorted from the largest stride to the smallest; a view, so a pass over it runs straight through memory."""
    return array.transpose(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


def slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of about `SLAB_BYTES` that make up the array, in memory order."""
    ordered = in_memory_order(array)
    thick = max(1, SLAB_BYTES // max(1, ordered[:1].nbytes))
    for start in range(0, len(ordered), thick):
        yield ordered[start : start + thick]


def count_values(array: NDArray[np.unsignedinteger[Any]], least: int = 0) -> NDArray[np.int64]:
    """How often each value occurs in an array of unsigned integers, at least `least` entries; quick where most of them are zero."""
    total = np.zeros(max(least, 1), np.int64)
    for slab in slabs(array):
        flat = np.ascontiguousarray(slab).reshape(-1)
        whole = flat.size * flat.itemsize // 8 * 8 // flat.itemsize
        words = flat[:whole].view(np.uint64)
        # Eight bytes of background at a time are passed over.
        kept = np.concatenate([words[words != 0].view(flat.dtype), flat[whole:]])
        found = np.bincount(kept, minlength=len(total))
        found[0] += flat.size - kept.size
        total = np.pad(total, (0, len(found) - len(total)))
        total += found
    return total
