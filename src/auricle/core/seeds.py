"""One seed for every random draw, from what it is for: resuming or reordering never changes a draw."""

import hashlib

import numpy as np
import torch


def derive(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for `purpose` (``"batch"``, ``"augment"``, ..) at `indices` (step, rank, case number, ..).

    The same arguments give the same seed on every machine; any other arguments give an unrelated one.
    """
    text = ":".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(seed: int) -> None:
    """Seed PyTorch's own generator, which draws the first weights of a network; a seed of any size will do."""
    torch.manual_seed(seed % 2**63)


def torch_generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *indices))


def numpy_generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A NumPy generator seeded by `derive`."""
    return np.random.default_rng(derive(seed, purpose, *indices))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``range(count)`` that depends on the seed and the epoch alone."""
    return [int(i) for i in numpy_generator(seed, "order", epoch).permutation(count)]
