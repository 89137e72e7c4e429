"""Conditions: what is written is read, what is unknown stays unknown, and what fills the gaps looks like the training cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.anatomy import ID, KEYS
from auricle.core.errors import InputError
from auricle.data import conditions
from auricle.data.conditions import CONTRASTS, FLAGS, VALUES, WIDTH, Conditions, Scales
from auricle.phantom import CONTRASTS as DRAWN
from auricle.phantom import draw_patient

SCALES = Scales(tuple(np.log(100.0) for _ in KEYS), tuple(0.3 for _ in KEYS))
VOLUMES = st.dictionaries(st.sampled_from(KEYS), st.floats(1.0, 400.0), max_size=8)


def test_timings_are_those_of_virtual_patients() -> None:
    assert set(CONTRASTS) == set(DRAWN)


def test_a_timing_is_read_off_the_blood_as_virtual_patients_have_it() -> None:
    """By the rule and by the draw alike in nine of ten, and always where the two cannot be mixed up."""
    alike = []
    for index in range(150):
        patient = draw_patient(1000 + index)
        read = conditions.timing_of(patient.hu["LV"], patient.hu["RV"])
        alike.append(read == patient.contrast)
        assert alike[-1] or {read, patient.contrast} == {"chase", "mixed"}
    assert np.mean(alike) > 0.9


@pytest.mark.parametrize(
    ("left", "right", "timing"),
    [(40, 42, "none"), (120, 115, "venous"), (200, 200, "mixed"), (150, 205, "mixed"), (230, 500, "early"), (420, 120, "chase"), (420, 330, "mixed")],
)
def test_timings_by_their_blood(left: float, right: float, timing: str) -> None:
    assert conditions.timing_of(left, right) == timing


def test_a_donor_fulfills_what_can_be_fulfilled_before_it_is_near() -> None:
    rows = [Conditions(contrast="none", volume=("LV=130",)), Conditions(contrast="chase", volume=("LV=300",))]
    training = torch.stack([conditions.encode(c, SCALES) for c in rows])
    generator = torch.Generator().manual_seed(0)
    asked = Conditions(contrast="none", volume=("LV=300",))
    assert {conditions.donor(asked, training, SCALES, i, generator) for i in range(10)} == {0}
    assert {conditions.donor(Conditions(contrast="early", volume=("LV=300",)), training, SCALES, i, generator) for i in range(10)} == {1}
    assert {conditions.donor(Conditions(), training, SCALES, i, generator) for i in range(10)} == {0, 1}


def test_a_timing_that_no_table_gives_is_measured() -> None:
    label = np.zeros((10, 10, 12), np.uint8)
    label[2:5], label[6:9] = ID["LV"], ID["RV"]
    image = np.where(label == ID["LV"], 210.0, np.where(label == ID["RV"], 520.0, -90.0))
    spacing = (2.0, 2.0, 2.5)
    assert conditions.measured({}, label, spacing).contrast is None
    assert conditions.measured({}, label, spacing, image).contrast == "early"
    assert conditions.measured({"contrast": "chase"}, label, spacing, image).contrast == "chase"
    assert conditions.measured({}, label * 0, spacing, image).contrast is None


@given(
    st.sampled_from(["F", "M", None]), st.sampled_from([*CONTRASTS, None]), st.one_of(st.none(), st.floats(0, 1)),
    st.sampled_from([True, False, None]), st.one_of(st.none(), st.floats(-60, 60)), VOLUMES,
)  # fmt: skip
def test_decoding_inverts_encoding(sex, contrast, phase, metal, location, volumes) -> None:  # type: ignore[no-untyped-def]
    case = Conditions(sex, contrast, phase, metal, location, tuple(f"{k}={v!r}" for k, v in volumes.items()))
    vector = conditions.encode(case, SCALES)
    assert vector.shape == (WIDTH,)
    back = conditions.decode(vector, SCALES)
    assert (back.sex, back.contrast, back.metal) == (sex, contrast, metal)
    assert (back.phase, back.location_mm) == (pytest.approx(phase, abs=1e-6), pytest.approx(location, abs=1e-4))
    assert back.volumes_ml() == pytest.approx(volumes, rel=2e-3)


def test_nothing_known_is_all_zero() -> None:
    assert not conditions.encode(Conditions(), SCALES).any()


@pytest.mark.parametrize("text", ["LAA", "LAA=", "LAA=x", "XX=3", "LAA=-1", "LAA=nan", "LAA=1e9", "=3"])
def test_volumes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--volume"):
        Conditions(volume=(text,))


def test_a_volume_is_asked_for_once() -> None:
    with pytest.raises(ValueError, match="LAA is given twice"):
        Conditions(volume=("LAA=12", "laa=20"))


@pytest.mark.parametrize("values", [{"phase": 1.5}, {"phase": float("nan")}, {"location_mm": 1e3}, {"location_mm": float("nan")}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="--"):
        Conditions(**values)  # type: ignore[arg-type]


def test_a_case_fulfills_its_own_conditions() -> None:
    label = np.zeros((10, 10, 12), np.uint8)
    label[2:8, 2:8, 6:10] = ID["LV"]
    label[0, 0, 0] = ID["LAA"]
    met = conditions.measured({"sex": "F", "contrast": "venous", "phase": 0.15, "metal": []}, label, (2.0, 2.0, 2.5))
    assert (met.sex, met.contrast, met.phase, met.metal) == ("F", "venous", 0.15, False)
    assert met.volumes_ml() == pytest.approx({"LV": 6 * 6 * 4 * 0.01, "LAA": 0.01}, rel=1e-3)
    # The chamber's middle is slice 7.5, that of the view 5.5: the view looks 2 slices lower.
    assert met.location_mm == pytest.approx(-5.0)


def test_attributes_that_are_unknown_or_foreign_stay_open() -> None:
    met = conditions.measured({"sex": "other", "contrast": "delayed", "phase": 7}, np.zeros((4, 4, 4), np.uint8), (1, 1, 1))
    assert met == Conditions()


def test_forgetting_loses_values_with_their_flags_and_keeps_the_rest() -> None:
    known = torch.cat([torch.full((4000, VALUES), 2.0), torch.ones(4000, FLAGS)], dim=1)
    lost = conditions.forget(known, torch.Generator().manual_seed(0))
    flags = lost[:, VALUES:]
    assert set(lost.unique().tolist()) == {0.0, 1.0, 2.0}
    # Value and flag go together: sex is the first of both, the last volume the last of both.
    assert torch.equal(lost[:, 0] / 2, flags[:, 0])
    assert torch.equal(lost[:, VALUES - 1] / 2, flags[:, -1])
    assert float(flags.all(1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((~flags.bool()).all(1).float().mean()) == pytest.approx(0.1, abs=0.02)
    unknown = conditions.forget(torch.zeros(5, WIDTH), torch.Generator().manual_seed(0))
    assert not unknown.any()


def _training(count: int = 300) -> tuple[list[Conditions], torch.Tensor, Scales]:
    rng = np.random.default_rng(0)
    cases = []
    for i in range(count):
        size = np.exp(0.25 * rng.standard_normal())
        volume = tuple(f"{k}={(20 + 10 * j) * size * np.exp(0.15 * rng.standard_normal()):.5g}" for j, k in enumerate(KEYS))
        cases.append(Conditions("F" if i % 3 else "M", CONTRASTS[i % 5], float(rng.random()), i % 7 == 0, 0.0, volume))
    scales = conditions.volume_scales(cases)
    return cases, torch.stack([conditions.encode(c, scales) for c in cases]), scales


def _complete(asked: Conditions, training: torch.Tensor, scales: Scales, count: int = 300) -> list[Conditions]:
    return [conditions.complete(asked, training, scales, i, torch.Generator().manual_seed(i)) for i in range(count)]


def test_filled_gaps_have_the_training_cases_mean_and_spread() -> None:
    cases, training, scales = _training()
    drawn = _complete(Conditions(), training, scales)
    for key in KEYS:
        a, b = (np.log([c.volumes_ml()[key] for c in group]) for group in (drawn, cases))
        assert a.mean() == pytest.approx(b.mean(), abs=0.05)
        assert a.std() == pytest.approx(b.std(), rel=0.12)
    assert np.mean([c.sex == "F" for c in drawn]) == pytest.approx(2 / 3, abs=0.02)
    assert len({c.volume for c in drawn}) == len(drawn)


def test_locations_are_drawn_as_far_apart_as_views_lie() -> None:
    cases, training, scales = _training()
    still, moved = (
        [conditions.complete(Conditions(), training, scales, i, torch.Generator().manual_seed(i), location_sd_mm=sd).location_mm for i in range(300)]
        for sd in (0.0, 6.0)
    )
    assert np.std(moved) == pytest.approx(np.hypot(np.std(still), 6.0), rel=0.1)  # type: ignore[arg-type]
    assert np.mean(moved) == pytest.approx(np.mean(still), abs=1.0)  # type: ignore[arg-type]
    asked = conditions.complete(Conditions(location_mm=3.0), training, scales, 0, torch.Generator(), location_sd_mm=6.0)
    assert asked.location_mm == 3.0
    views = torch.stack([torch.stack([conditions.encode(replace(c, location_mm=at + shift), scales) for at, c in enumerate(cases[:3])])
                         for shift in (0.0, -6.0, 6.0, 0.0)])  # fmt: skip
    # About the case as it is, which generated ones start from.
    assert conditions.location_sd(views) == pytest.approx(np.sqrt(18.0), rel=1e-3)
    assert conditions.location_sd(views[:2]) == pytest.approx(np.sqrt(18.0), rel=1e-3)
    views[0, :, conditions.PLACED[1]] = 0.0
    assert conditions.location_sd(views) == 0.0


def test_structures_that_no_case_shows_are_known() -> None:
    _, training, _ = _training()
    assert conditions.labeled(training) == KEYS
    training[:, conditions.WIDTH - len(KEYS) + KEYS.index("LAA")] = 0.0
    assert conditions.labeled(training) == tuple(k for k in KEYS if k != "LAA")


def test_every_patient_can_be_looked_at_from_elsewhere() -> None:
    """A location asked for picks no donor; far from the donor's own, its volumes inside the field of view are not known."""
    cases, training, scales = _training()
    far = _complete(Conditions(location_mm=40.0, volume=("LAA=9",)), training, scales, 60)
    assert {c.volume for c in far} == {("LAA=9",)}
    near = _complete(Conditions(location_mm=cases[0].location_mm), training, scales, 60)
    assert all(len(c.volumes_ml()) >= 7 for c in near)
    assert len({c.sex for c in near}) == 2
    assert len({c.volume for c in near}) > 30


def test_what_no_training_case_knows_is_zero() -> None:
    cases, _, scales = _training()
    silent = torch.stack([conditions.encode(replace(c, metal=None), scales) for c in cases])
    mask = conditions.learned(silent)
    told = conditions.encode(Conditions(metal=True, sex="F"), scales)
    assert torch.equal(told * mask, conditions.encode(Conditions(sex="F"), scales))
    assert not conditions.learned(silent[:0]).any()


def test_a_location_drawn_beyond_any_counts_as_the_farthest() -> None:
    _, training, scales = _training(20)
    drawn = [conditions.complete(Conditions(), training, scales, i, torch.Generator().manual_seed(i), location_sd_mm=300.0) for i in range(40)]
    assert max(abs(c.location_mm) for c in drawn) == conditions.MOST_MM  # type: ignore[arg-type]


def test_the_unit_of_volumes_does_not_widen_them() -> None:
    """Views set the unit: cases that spread less than views do are drawn as they spread, and a case that lacks a structure moves no mean."""
    cases, _, own = _training()
    wide = replace(own, sd=tuple(3.0 * s for s in own.sd))
    cases = [replace(c, volume=tuple(v for v in c.volume if i % 4 or not v.startswith("LAA"))) for i, c in enumerate(cases)]
    drawn = _complete(Conditions(), torch.stack([conditions.encode(c, wide) for c in cases]), wide)
    for key in KEYS:
        a, b = (np.log([c.volumes_ml()[key] for c in group if key in c.volumes_ml()]) for group in (drawn, cases))
        assert a.mean() == pytest.approx(b.mean(), abs=0.05)
        assert a.std() == pytest.approx(b.std(), rel=0.12)


def test_a_pair_that_starts_from_one_view_has_volumes_near_its_own() -> None:
    """How near is told by the spread of the cases, which one view alone does not have."""
    cases, training, scales = _training()
    drawn = [conditions.complete(Conditions(), training[:1], scales, i, torch.Generator().manual_seed(i), 0.2, training) for i in range(300)]
    logs = np.log([c.volumes_ml()["LV"] for c in drawn])
    assert logs.mean() == pytest.approx(np.log(cases[0].volumes_ml()["LV"]), abs=0.02)
    assert logs.std() == pytest.approx(0.2 / np.sqrt(1.04) * np.log([c.volumes_ml()["LV"] for c in cases]).std(), rel=0.15)


def test_volumes_beyond_any_heart_count_as_the_largest() -> None:
    """A generator that is hardly trained may fill the grid with one structure; that is measured, not refused."""
    full = conditions.measured({}, np.full((64, 64, 64), ID["LV"], np.uint8), (2.5, 2.5, 2.5))
    assert full.volumes_ml() == {"LV": conditions.MOST_ML}
    scales = conditions.Scales((9.0,) * len(KEYS), (2.0,) * len(KEYS))
    back = conditions.decode(torch.ones(conditions.WIDTH), scales)
    assert set(back.volumes_ml().values()) == {conditions.MOST_ML}


def test_what_is_asked_for_stays_and_draws_the_rest_along() -> None:
    cases, training, scales = _training()
    asked = Conditions(sex="F", contrast="none", volume=("LV=60",))
    drawn = _complete(asked, training, scales)
    assert all(c.sex == "F" and c.contrast == "none" and c.volumes_ml()["LV"] == 60.0 for c in drawn)
    usual = np.mean([c.volumes_ml()["LV"] for c in cases])
    # Volumes hang together: a larger ventricle than usual comes with a larger atrium than a smaller one does.
    large = np.mean([c.volumes_ml()["LA"] for c in _complete(Conditions(volume=(f"LV={1.5 * usual}",)), training, scales)])
    small = np.mean([c.volumes_ml()["LA"] for c in _complete(Conditions(volume=(f"LV={usual / 1.5}",)), training, scales)])
    assert large > 1.2 * small


def test_the_draw_depends_on_index_and_generator_alone() -> None:
    _, training, scales = _training(20)
    state = torch.random.get_rng_state()
    a, b = (conditions.complete(Conditions(), training, scales, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert a == b
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_training_cases_it_says_so() -> None:
    with pytest.raises(InputError, match="--no-complete"):
        conditions.complete(Conditions(), torch.zeros(0, WIDTH), SCALES, 0, torch.Generator())


def test_scales_of_nothing_are_harmless() -> None:
    scales = conditions.volume_scales([Conditions(), Conditions(volume=("LV=100",))])
    assert scales.mean[KEYS.index("LV")] == pytest.approx(np.log(100))
    assert set(scales.sd) == {1.0}
