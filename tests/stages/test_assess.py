"""Obedience: what a pair does not show is not obeyed, and what no training case tells apart is not measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.core.anatomy import ID, KEYS
from auricle.models.features import RandomEncoder
from auricle.stages.assess import Surveyed, requested, survey
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
