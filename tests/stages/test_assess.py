"""What is measured of a generator: the right thing over the right thing, and nothing where there is nothing to measure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.core.anatomy import ID, KEYS
from auricle.metrics import fidelity
from auricle.metrics.texture import TISSUES, Texture
from auricle.models.features import FEATURES, RandomEncoder
from auricle.stages.assess import Surveyed, distances, diversity, gated, requested, survey, textures, volumes
from auricle.stages.pairs import Grid, Item, Pairs


def surveyed(asked: list[dict[str, Any]], hu: list[tuple[float, float] | None], metal: list[float]) -> Surveyed:
    count = len(hu)
    volumes = [dict.fromkeys(KEYS, 10.0) for _ in range(count)]
    return Surveyed(volumes, [], {}, np.empty((count, 0), np.float32), hu, metal, asked, [0.0] * count)


def asked_of(pairs: Surveyed) -> dict[str, Any]:
    return {"pairs": [{"requested": a} for a in pairs.attributes]}


def test_a_pair_without_ventricles_obeys_no_timing() -> None:
    real = surveyed([{"contrast": "chase", "metal": m} for m in (True, False)], [(350.0, 80.0), (360.0, 90.0)], [500.0, 0.0])
    made = surveyed([{"contrast": "chase"}] * 3 + [{"contrast": "early"}], [(355.0, 85.0), (80.0, 355.0), None, (80.0, 355.0)], [0.0] * 4)
    found = requested(asked_of(made), made, real, real)
    # One of three; of early scans no training case says how they look.
    assert found["contrast_obeyed_share"] == 1 / 3
    assert found["contrast_obeyed_share_real"] == 1.0


def test_a_timing_that_no_table_gives_is_read_off_the_image() -> None:
    label = np.zeros((24, 24, 24), np.uint8)
    label[4:12, 8:16, 8:16], label[12:20, 8:16, 8:16] = ID["LV"], ID["RV"]
    image = np.where(label == ID["LV"], 400, np.where(label == ID["RV"], 150, 0)).astype(np.int16)

    class One(Pairs):
        def hu(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
            return image, label

    told = [{}, {"contrast": "early"}]
    found = survey(One([Item("a", "a", Path(), Path(), np.eye(4), t) for t in told], Grid((24, 24, 24), (2.5, 2.5, 2.5))), "test", RandomEncoder())
    assert [a["contrast"] for a in found.attributes] == ["chase", "early"]


def test_metal_that_no_training_case_tells_apart_is_not_measured() -> None:
    for kinds, known in (((True, False), True), ((False, False), False), ((True, True), False)):
        real = surveyed([{"metal": m} for m in kinds], [None, None], [500.0 * kinds[0], 0.0])
        made = surveyed([{"metal": True}, {"metal": False}], [None, None], [900.0, 0.0])
        found = requested(asked_of(made), made, real, real)
        assert found["metal_obeyed_share"] == (1.0 if known else None)


def test_volumes_locations_and_timings_are_told_as_decoded_too() -> None:
    volumes = [dict.fromkeys(KEYS, v) for v in (8.0, 10.0, 12.0, 15.0)]
    new = Surveyed(volumes, [], {}, np.empty((4, 0), np.float32), [None] * 4, [0.0] * 4, [], [0.0, 1.0, 2.0, 3.0])
    pairs = [
        {"requested": {"volumes_ml": v, "location_mm": 2.0 * i}, "retimed": i == 0, "decoded_volumes_ml": dict.fromkeys(KEYS, -v["LV"]),
         "decoded_location_mm": -3.0 * i} for i, v in enumerate(volumes)
    ]  # fmt: skip
    real = surveyed([], [], [])
    found = requested({"pairs": pairs}, new, real, real)
    assert (found["location_r"], found["location_r_decoded"]) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert found["volume_r"] == found["volume_r_LAA"] == 1.0
    assert found["volume_r_decoded"] == found["volume_r_decoded_LAA"] == -1.0
    assert found["contrast_retimed_share"] == 0.25
    # Pairs of an earlier version have neither.
    earlier = requested({"pairs": [{"requested": p["requested"]} for p in pairs]}, new, real, real)
    assert earlier["volume_r"] == 1.0
    assert earlier["volume_r_decoded"] is earlier["location_r_decoded"] is earlier["contrast_retimed_share"] is None


def described(count: int, factor: float, seed: int = 0, shift: float = 0.0) -> Surveyed:
    """A set whose volumes, noise and HU are `factor` times those of another, and whose features lie `shift` further."""
    rng = np.random.default_rng(seed)
    frequency = np.linspace(0.0, 0.2, 21)
    power = np.where(frequency < 0.1 * factor, frequency, 0.1 * factor - frequency).clip(0.0) + 1e-3
    found = Texture(5.0 * factor, tuple(frequency), tuple(power))
    volumes = [dict.fromkeys(KEYS, factor * v) for v in np.linspace(50.0, 150.0, count)]
    histogram = {t: np.bincount([int(100 * factor)], minlength=len(fidelity.HU_EDGES) - 1) for t in TISSUES}
    features = (rng.normal(size=(count, FEATURES)) + shift).astype(np.float32)
    return Surveyed(volumes, [dict.fromkeys(TISSUES, found)] * count, histogram, features, [], [], [], [])


def test_volumes_and_textures_are_generated_over_training() -> None:
    real, new, unseen = described(5, 1.0), described(7, 1.2), described(3, 0.5)
    found = volumes(real, new)
    assert found["volume_mean_ratio_LAA"] == pytest.approx(1.2)
    assert found["volume_sd_ratio_LAA"] == pytest.approx(1.2 * np.std(np.linspace(50, 150, 7), ddof=1) / np.std(np.linspace(50, 150, 5), ddof=1))
    table = {"spacing": (2.5, 2.5, 2.5), "pairs": [{"decoded_sd_hu": {"fat": 15.0}}, {"decoded_sd_hu": {}}]}
    found = textures(real, unseen, new, table)
    assert found["texture_sd_ratio_fat"] == pytest.approx(1.2)
    assert found["texture_sd_ratio_real_fat"] == pytest.approx(0.5)
    assert (found["texture_sd_ratio_decoded_fat"], found["texture_sd_ratio_decoded_blood"]) == (pytest.approx(3.0), None)
    assert found["texture_peak_ratio_fat"] == pytest.approx(1.2, rel=0.1)
    assert found["hu_distance_fat"] == pytest.approx(20 * np.diff(fidelity.HU_EDGES)[0])
    assert found["hu_distance_real_fat"] == pytest.approx(50 * np.diff(fidelity.HU_EDGES)[0])


def test_distances_are_those_of_generated_pairs_and_floors_those_of_test_cases() -> None:
    near, far = described(30, 1.0, 1), described(30, 1.0, 2, 3.0)
    real = described(40, 1.0, 0)
    found = distances(real, near, far, 0)
    for name in ("kernel_distance", "frechet_distance"):
        assert found[name] > 5 * abs(found[f"{name}_floor"])
    assert found["kernel_distance_low"] < found["kernel_distance"] < found["kernel_distance_high"]
    assert distances(real, far, near, 0)["kernel_distance"] == pytest.approx(found["kernel_distance_floor"])
    assert distances(real, described(1, 1.0), far, 0) == {}


def test_shares_of_candidates_and_specks_of_kept_pairs() -> None:
    gate = {"candidates": 8, "passed_before_repair": 4, "passed_anatomy": 6, "passed": 5}
    pairs = [{"speck_share_before": 0.2}, {"speck_share_before": 0.4}]
    found = gated({"gate": gate, "pairs": pairs, "complete_share": 1.0, "speck_share": 0.1})
    assert [found[k] for k in ("gate_pass_share", "gate_pass_share_repaired", "gate_kept_share")] == [0.5, 0.75, 0.625]
    assert (found["speck_share"], found["speck_share_before_repair"]) == (0.1, pytest.approx(0.3))


def test_pairs_that_are_alike_are_less_diverse_than_patients() -> None:
    class Many(Pairs):
        def __init__(self, images: list[NDArray[Any]]) -> None:
            super().__init__([Item(str(i), str(i), Path(), Path(), np.eye(4)) for i in range(len(images))], Grid((32, 32, 32), (2.5, 2.5, 2.5)))
            self.images = images

        def hu(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
            return self.images[index], np.zeros((32, 32, 32), np.uint8)

    rng = np.random.default_rng(0)
    images = [rng.normal(0.0, 300.0, (32, 32, 32)).astype(np.float32) for _ in range(4)]
    found = diversity(Many(images), Many([images[0]] * 4), 0)
    assert found["ms_ssim_generated"] == pytest.approx(1.0)
    assert found["ms_ssim_real"] < 0.5
