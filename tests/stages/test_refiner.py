"""The stage that trains the refiner: what it is told of a scan's noise, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from auricle.stages.refiner import RefinerStage, grain


def scan(sd: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, sd, (16, 16, 16)).astype(np.float32)


def test_grain_is_the_logarithm_of_the_noise() -> None:
    label, flat = np.ones((16, 16, 16), np.uint8), np.zeros((16, 16, 16), np.int16)
    quiet, loud = (grain(scan(sd), label, flat) for sd in (15.0, 30.0))
    # Neighbors differ by the square root of two as much where noise is white.
    assert quiet.numpy() == pytest.approx([0.0, np.log(2) / 2], abs=0.05)
    assert (loud - quiet).numpy() == pytest.approx([np.log(2)] * 2, abs=0.05)


def test_grain_of_edges_is_that_of_the_noise() -> None:
    label, flat = np.ones((16, 16, 16), np.uint8), np.zeros((16, 16, 16), np.int16)
    image = scan(15.0)
    image[:, 8] += 500.0
    assert grain(image, label, flat).numpy() == pytest.approx(grain(scan(15.0), label, flat).numpy(), abs=0.15)


def test_grain_of_nothing_is_usual() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    assert grain(scan(3.0)[:4, :4, :4], empty, np.zeros((4, 4, 4), np.int16)).tolist() == [0.0, 0.0]


def test_patches_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="--patch must be multiples of 4"):
        RefinerStage(Path("c"), Path("a"), patch=(40, 40, 30))
