"""Drawing patients: determinism, ranges, independence of what is forced."""

import json
from collections import Counter

import numpy as np
import pytest

from auricle.core.errors import InputError
from auricle.phantom.patient import APPENDAGES, CONTRASTS, draw_patient
from auricle.phantom.scan import patient_seed


def test_same_seed_same_patient() -> None:
    assert draw_patient(11) == draw_patient(11)
    assert draw_patient(11) != draw_patient(12)


def test_forcing_one_choice_leaves_the_others() -> None:
    free, forced = draw_patient(5), draw_patient(5, contrast="none", metal=True)
    assert forced.contrast == "none"
    assert forced.scanner.metal
    for name in ("volumes_ml", "aorta_mm", "jitter", "laa_morphology", "azimuth_deg"):
        assert getattr(free, name) == getattr(forced, name)


def test_shares_of_the_population() -> None:
    people = [draw_patient(s) for s in range(1500)]
    for field, shares in (("contrast", CONTRASTS), ("laa_morphology", APPENDAGES)):
        counts = Counter(getattr(p, field) for p in people)
        for value, share in shares.items():
            assert abs(counts[value] / len(people) - share) < 0.05
    assert 0.10 < np.mean([bool(p.scanner.metal) for p in people]) < 0.20
    edv = {sex: np.mean([p.lv_edv_ml for p in people if p.sex == sex]) for sex in "MF"}
    assert 130 < edv["M"] < 155
    assert 100 < edv["F"] < 125


def test_contrast_orders_the_chambers() -> None:
    for seed in range(40):
        chase, early, venous = (draw_patient(seed, contrast=c).hu for c in ("chase", "early", "venous"))
        assert chase["LV"] > chase["RV"] > chase["MYO"] - 60
        assert early["RV"] > early["LV"]
        assert 90 <= venous["LV"] <= 160
        assert 80 <= venous["MYO"] <= 110
        assert venous["MYO"] < venous["LV"]


@pytest.mark.parametrize(
    "wrong", [{"sex": "x"}, {"contrast": "late"}, {"phase": 1.5}, {"metal": ["gold"]}], ids=lambda w: next(iter(w))
)
def test_wrong_arguments_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        draw_patient(1, **wrong)  # type: ignore[arg-type]


def test_negative_seed_is_refused() -> None:
    with pytest.raises(InputError):
        draw_patient(-1)
    with pytest.raises(InputError):
        patient_seed(0, -1)


def test_patient_seeds_differ_and_survive_json() -> None:
    seeds = [patient_seed(a, b, c) for a in range(5) for b in range(40) for c in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**53
    assert json.loads(json.dumps(seeds)) == seeds


def test_contrast_leaves_other_tissues_alone() -> None:
    for seed in range(8):
        people = [draw_patient(seed, contrast=c).hu for c in CONTRASTS]
        for tissue in ("muscle", "fat", "epicardial fat", "lung"):
            assert len({hu[tissue] for hu in people}) == 1, tissue


def test_two_prostheses_sit_in_two_valves() -> None:
    for seed in range(20):
        both = draw_patient(seed, metal=["mechanical valve", "bioprosthetic valve"]).scanner
        assert both.replaced == ("aortic", "mitral")
        one = draw_patient(seed, metal=["mechanical valve"]).scanner
        assert one.replaced == (one.valve,)
        assert draw_patient(seed, metal=False).scanner.replaced == ()
