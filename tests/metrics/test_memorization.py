"""The audit on hearts of ellipsoids in waves of tissue: functions of the point, so that a view of one is exact."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from auricle.core.anatomy import ID, STRUCTURES
from auricle.core.errors import InputError
from auricle.metrics.memorization import CANDIDATES, CUT_WEIGHT, Descriptor, Match, calibrate, describe, is_copy, nearest

Labels = NDArray[np.uint8]
Image = NDArray[np.float64]
SIZE, SPACING = (40, 40, 36), (3.5, 3.5, 4.0)
# Center, half axes (mm) and HU, painted in this order.
HEART = {
    "AO": ((5, 0, 55), (13, 13, 40), 350), "PA": ((25, 22, 45), (12, 12, 28), 300), "LAA": ((38, 5, 22), (9, 8, 9), 340),
    "LA": ((12, -28, 18), (25, 20, 20), 340), "RA": ((-32, -2, 5), (20, 20, 24), 260), "RV": ((-5, 28, -14), (28, 17, 24), 260),
    "MYO": ((20, 2, -18), (28, 26, 32), 100), "LV": ((20, 2, -16), (18, 17, 24), 350),
}  # fmt: skip


@dataclass(frozen=True)
class Patient:
    centers: Image
    axes: Image
    waves: Image
    phases: Image
    chest: Image


@dataclass(frozen=True)
class View:
    """From places in the view to those of the patient: p -> matrix p + shift."""

    matrix: Image
    shift_mm: Image


STRAIGHT = View(np.eye(3), np.zeros(3))


def patient(seed: int) -> Patient:
    rng = np.random.default_rng([seed, 1])
    centers = np.array([c for c, _, _ in HEART.values()], float) + rng.normal(0, 4, (len(HEART), 3))
    axes = np.array([a for _, a, _ in HEART.values()], float) * np.exp(rng.normal(0, 0.1, (len(HEART), 3)))
    chest = np.array([70, 55, 75]) * np.exp(rng.normal(0, 0.08, 3))
    return Patient(centers, axes, rng.normal(0, 0.07, (6, 3)), rng.uniform(0, 6.3, 6), chest)


def scan(who: Patient, view: View = STRAIGHT, size: Sequence[int] = SIZE, spacing: Sequence[float] = SPACING) -> tuple[Image, Labels]:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ view.matrix.T + view.shift_mm
    # Lungs outside of the mediastinum, fat and muscle in waves within.
    image = np.where(((places / who.chest) ** 2).sum(-1) < 1, 0.0, -800.0)
    for wave, phase in zip(who.waves, who.phases, strict=True):
        image += 50 * np.sin(places @ wave + phase)
    label = np.zeros(tuple(size), np.uint8)
    for (key, (_, _, hu)), center, half in zip(HEART.items(), who.centers, who.axes, strict=True):
        inside = (((places - center) / half) ** 2).sum(-1) < 1
        label[inside], image[inside] = ID[key], hu + image[inside] / 4
    return image, label


def described(who: Patient, view: View = STRAIGHT) -> Descriptor:
    return describe(*scan(who, view), SPACING)


def random_view(rng: np.random.Generator) -> View:
    turn = Rotation.from_euler("xyz", rng.normal(0, 4, 3), degrees=True).as_matrix()
    return View(turn * np.exp(rng.normal(0, 0.06)), rng.uniform(-8, 8, 3))


def planted(who: Patient, rng: np.random.Generator) -> Descriptor:
    """A copy as a generator would make it: another view, smoothed image and label map, other contrast, fresh noise."""
    image, label = scan(who, random_view(rng))
    image = ndimage.gaussian_filter(image, 1.0) + rng.choice([0.0, 50.0]) + rng.choice([0.0, 50.0]) * (label > 1)
    soft = [ndimage.gaussian_filter((label == i).astype(float), 0.7) for i in range(len(STRUCTURES) + 1)]
    return describe(image + rng.normal(0, 20, image.shape), np.argmax(soft, axis=0).astype(np.uint8), SPACING)


@pytest.fixture(scope="module")
def training() -> list[Descriptor]:
    return [described(patient(seed)) for seed in range(CANDIDATES + 6)]


def against(case: Descriptor, reference: Descriptor) -> Match:
    return nearest(case, [reference])


def test_a_case_matches_itself_with_the_highest_score_there_is(training: list[Descriptor]) -> None:
    for index in (0, 7):
        match = nearest(training[index], training)
        assert match.index == index
        assert match.score == pytest.approx(1.0, abs=1e-5)
        other = nearest(training[index], training, exclude=index)
        assert other.index != index
        assert other.score < 0.8


TURN = Rotation.from_euler("xyz", [5, -7, 6], degrees=True).as_matrix()


@pytest.mark.parametrize(
    "view",
    [
        View(np.eye(3), np.array([8.0, -8.0, 8.0])), View(TURN, np.zeros(3)), View(1.25 * np.eye(3), np.zeros(3)),
        View(0.9 * TURN, np.array([-8.0, 5.0, -8.0])), View(np.diag([-1.0, 1.0, 1.0]), np.array([4.0, 0.0, 0.0])),
        View(np.diag([0.85, 0.85, 1.0]), np.array([6.0, -6.0, 0.0])),
    ],
    ids=["moved", "turned", "resized", "all three", "mirrored", "cropped in plane"],
)  # fmt: skip
def test_views_of_one_patient_are_alike_and_more_so_than_any_other(view: View, training: list[Descriptor]) -> None:
    case = described(patient(3), view)
    same = nearest(case, training)
    assert same.index == 3
    assert same.label_similarity > 0.86
    assert same.image_similarity > 0.9
    # Another patient stays apart although the same motions may be used to lay it on.
    assert nearest(case, training, exclude=3).score < 0.75


def test_contrast_noise_and_grid_do_not_hide_a_copy(training: list[Descriptor]) -> None:
    image, label = scan(patient(3))
    plain = against(describe(image, label, SPACING), training[3])
    contrast = np.array([0, 40, 50, 60, -70, -80, 30, 20, 50])[label]
    for changed in (image + 50, 1.4 * image - 20, image + contrast):
        match = against(describe(changed, label, SPACING), training[3])
        assert match.image_similarity == pytest.approx(plain.image_similarity, abs=1e-3)
        assert match.label_similarity == plain.label_similarity
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    assert against(describe(image + noise, label, SPACING), training[3]).image_similarity > 0.97
    fine = describe(*scan(patient(3), size=(70, 64, 72), spacing=(2.0, 2.2, 2.0)), (2.0, 2.2, 2.0))
    assert against(fine, training[3]).score > 0.95


def test_the_image_counts_for_itself(training: list[Descriptor]) -> None:
    """The same label map under another patient's tissue."""
    image, label = scan(patient(3))
    other = replace(patient(3), waves=patient(4).waves, phases=patient(4).phases, chest=np.array([500.0, 500, 500]))
    match = against(describe(scan(other)[0], label, SPACING), training[3])
    assert match.label_similarity == pytest.approx(1.0, abs=1e-5)
    assert match.image_similarity < 0.4
    assert match.score == pytest.approx((match.label_similarity + match.image_similarity) / 2)
    flat = against(describe(np.zeros_like(image), label, SPACING), training[3])
    assert flat.image_similarity == 0.0


def test_planted_copies_are_found_and_unseen_patients_are_not_accused(training: list[Descriptor]) -> None:
    rng = np.random.default_rng(5)
    held_out = [nearest(described(patient(100 + i)), training) for i in range(10)]
    threshold = calibrate(held_out)
    sources = rng.permutation(len(training))[:8]
    copies = [nearest(planted(patient(int(s)), rng), training) for s in sources]
    assert [m.index for m in copies] == list(sources)
    assert all(is_copy(m, threshold) for m in copies)
    unseen = [nearest(planted(patient(200 + i), rng), training) for i in range(8)]
    assert not any(is_copy(m, threshold) for m in unseen)
    assert min(m.score for m in copies) > max(m.score for m in unseen) + 0.1


def test_the_order_of_references_and_of_axes_does_not_matter(training: list[Descriptor]) -> None:
    case = planted(patient(2), np.random.default_rng(1))
    match = nearest(case, training)
    order = np.random.default_rng(2).permutation(len(training))
    moved = nearest(case, [training[i] for i in order])
    assert replace(moved, index=int(order[moved.index])) == match
    pair, view = scan(patient(2)), scan(patient(2), random_view(np.random.default_rng(3)))
    axes, spacing = (2, 0, 1), (SPACING[2], SPACING[0], SPACING[1])
    turned = [describe(image.transpose(axes), label.transpose(axes), spacing) for image, label in (pair, view)]
    straight = [describe(image, label, SPACING) for image, label in (pair, view)]
    assert against(*turned).score == pytest.approx(against(*straight).score, abs=5e-3)


def test_missing_structures_and_a_cut_heart_are_compared_by_the_rest(training: list[Descriptor]) -> None:
    image, label = scan(patient(3))
    lost = describe(image, np.where(label == ID["LAA"], 0, label).astype(np.uint8), SPACING)
    assert lost.weights[ID["LAA"] - 1] == 0
    match = nearest(lost, training)
    assert match.index == 3
    assert match.label_similarity == pytest.approx(7 / 8, abs=0.02)
    half = describe(image[:, :, :22], label[:, :, :22], SPACING)
    assert half.weights[ID["LA"] - 1] == CUT_WEIGHT < 0.5
    assert half.weights[ID["LV"] - 1] == 1.0
    assert nearest(half, training).index == 3
    assert nearest(half, training).score > 0.9
    for key in ("LAA", "LV"):
        alone = describe(image, np.where(label == ID[key], label, 0).astype(np.uint8), SPACING)
        assert 0 <= nearest(alone, training).score < 0.8
        assert 0 <= nearest(training[3], [alone]).score < 0.8
        assert against(alone, alone).score == pytest.approx(1.0, abs=1e-5)


def test_an_empty_label_map_matches_nothing(training: list[Descriptor]) -> None:
    image, label = scan(patient(3))
    empty = describe(image, np.zeros_like(label), SPACING)
    nothing = Match(-1, 0.0, 0.0, 0.0)
    assert nearest(empty, training) == nothing
    assert nearest(empty, [empty]) == nothing
    assert nearest(training[0], [empty, empty]) == nothing
    assert nearest(training[0], []) == nothing
    assert nearest(training[0], [training[0]], exclude=0) == nothing
    assert nearest(training[1], [empty, training[1]]).index == 1
    whole = describe(image, np.full_like(label, ID["LV"]), SPACING)
    assert 0 <= nearest(whole, training).score < 0.8
    tiny = describe(image[:1, :2, :3], label[:1, :2, :3], SPACING)
    assert nearest(tiny, training).score < 0.8


def matches(scores: Sequence[float] | NDArray[np.float64]) -> list[Match]:
    return [Match(0, float(s), float(s), float(s)) for s in scores]


def test_the_threshold_covers_one_percent_of_unseen_cases_with_confidence() -> None:
    rng = np.random.default_rng(0)
    truth = 0.5 - 0.02 * np.log(-np.log(0.99))
    thresholds = np.array([calibrate(matches(rng.gumbel(0.5, 0.02, 26))) for _ in range(400)])
    assert 0.9 < np.mean(thresholds >= truth) < 1.0
    # More cases, more certainty, less margin.
    few = np.array([0.50, 0.51, 0.52, 0.52, 0.53, 0.55])
    assert calibrate(matches(np.tile(few, 20))) < calibrate(matches(np.tile(few, 4))) < calibrate(matches(few))


@pytest.mark.parametrize("scores", [[0.6], [0.6, 0.61], [0.6, 0.6, 0.6], [0.1, 0.9], [0.2, 0.5, 0.6, 0.65, 0.99], [0.5] * 30 + [0.9]])
def test_the_threshold_lies_between_the_highest_held_out_score_and_halfway_to_identity(scores: list[float]) -> None:
    threshold = calibrate(matches(scores))
    assert max(scores) <= threshold <= (1 + max(scores)) / 2
    assert not any(is_copy(m, threshold) for m in matches(scores))
    assert is_copy(Match(0, 1.0, 1.0, 1.0), threshold)
    # A case without labels says nothing about unseen hearts.
    assert calibrate([*matches(scores), Match(-1, 0.0, 0.0, 0.0)]) == threshold


def test_calibration_needs_a_held_out_case() -> None:
    for nobody in ([], [Match(-1, 0.0, 0.0, 0.0)]):
        with pytest.raises(InputError, match="--shares"):
            calibrate(nobody)
