"""The stage that trains the refiner: what it is told of a scan's noise, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from auricle.models.refiner import Refiner, RefinerConfig
from auricle.stages.refiner import RefinerStage, Trained, grain, metal_flags, peaks


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


def test_metal_is_told_as_yes_no_or_unknown() -> None:
    assert metal_flags([True, False, None]).tolist() == [[1.0], [-1.0], [0.0]]


def test_peaks_are_those_over_the_decoded_surroundings() -> None:
    decoded = np.zeros((24, 24, 24), np.int16)
    decoded[10, 10, 10] = 500
    image = np.zeros((24, 24, 24), np.float32)
    image[11, 11, 11], image[3, 3, 3:6] = 800.0, 2000.0
    over, brightest = peaks(image, decoded)
    assert over == pytest.approx(1000.0)  # 2000 HU count as 1000
    assert brightest == 1000.0
    image[3] = 0.0
    assert peaks(image, decoded)[0] == pytest.approx(0.0, abs=1.0)  # a single voxel of 13824 lies beyond the quantile
    assert peaks(image, decoded)[1] == 800.0


def trained(flags: list[bool | None], seed: int = 0) -> Trained:
    """An untrained network that adds wild residuals, told of scans with peaks of 600 HU (metal) and 100 HU, at most 1000 and 300 HU bright."""
    torch.manual_seed(seed)
    network = Refiner(RefinerConfig(channels=(8, 12))).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    limits = torch.tensor([[600.0, 1000.0] if f else [100.0, 300.0] for f in flags])
    return Trained(network, torch.zeros(len(flags), 2), metal_flags(flags), limits)


def test_nothing_stands_out_more_than_in_training_scans() -> None:
    decoded, label = np.zeros((16, 16, 16), np.float32), np.zeros((16, 16, 16), np.uint8)
    decoded[8:] = 250.0
    decoded[12:] = 400.0
    wild = trained([True, False])
    without, with_metal, unknown = (wild.refine(decoded, label, 0.5, m, 0, 0) for m in (False, True, None))
    assert without[:7].max() == pytest.approx(100.0, abs=0.1)
    assert without[9:11].max() == pytest.approx(300.0, abs=0.1)
    assert without[13:].max() == pytest.approx(400.0, abs=0.1)  # what was decoded so bright may stay so
    assert with_metal[:7].max() == pytest.approx(600.0, abs=0.1)
    assert unknown[:7].max() == pytest.approx(600.0, abs=0.1)
    assert without.min() < -100.0


def test_metal_that_no_training_scan_tells_of_is_not_told() -> None:
    decoded, label = np.zeros((16, 16, 16), np.float32), np.zeros((16, 16, 16), np.uint8)
    silent, telling = trained([None, None]), trained([None, True])
    images = [[t.refine(decoded, label, 0.5, m, 0, 0) for m in (True, None)] for t in (silent, telling)]
    assert np.array_equal(*images[0])
    assert not np.array_equal(*images[1])


def test_a_share_untold_beyond_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--unsaid must lie in 0\.\.1, is 2"):
        RefinerStage(Path("c"), Path("a"), unsaid=2.0)
