"""Segmenting one scan: on its own grid whatever its orientation, whole or not at all, nothing invented."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from auricle import cli
from auricle.core.anatomy import ID, KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.runs import Run
from auricle.data.nifti import read_nifti, write_nifti
from auricle.data.outputs import volumes
from auricle.data.preprocess import ModelGrid, labels_to_source, to_network
from auricle.metrics import overlap
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.phantom import virtual_patient
from auricle.stages import finetune, hearts, inference, segment
from auricle.stages.finetune import Trained
from auricle.stages.pairs import Grid
from auricle.stages.weights import pack_model, read_model, save_model
from auricle.training import checkpoint

GRID = ModelGrid((32, 32, 32), (5.0, 5.0, 5.0))


class Template(torch.nn.Module):
    """A segmenter whose answer is known: it labels by brightness, so that geometry alone is under test."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(40.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = torch.tensor([-1.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
        return -self.scale * (x - levels[None, :, None, None, None]).square() * 100


def trained(window: tuple[int, int, int] = GRID.size, mirrored: bool = False) -> Trained:
    return Trained(Template(), Grid(GRID.size, GRID.spacing), window, mirrored)  # type: ignore[arg-type]


def painted_case(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[Case, NDArray[np.uint8]]:
    """A virtual patient painted in the template's brightnesses; a man, whose chambers are larger against 5 mm voxels."""
    patient = virtual_patient(0, 1, size, spacing, sex="M", pathology=False)
    assert patient.label is not None
    levels = np.array([-1000, 100, 200, 300, 400, 500, 600, 700, 800], np.int16)
    return replace(patient, image=levels[patient.label]), patient.label


def dice(a: NDArray[np.uint8], b: NDArray[np.uint8], key: str) -> float:
    x, y = a == ID[key], b == ID[key]
    return float(2 * (x & y).sum() / (x.sum() + y.sum()))


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_the_label_map_lies_on_the_scans_own_grid(turn: tuple[int, int, int], flips: tuple[int, int, int]) -> None:
    case, truth = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    ornt = np.array([[a, f] for a, f in zip(turn, flips, strict=True)])
    affine = case.affine @ nib.orientations.inv_ornt_aff(ornt, case.image.shape)
    turned = Case("t", nib.orientations.apply_orientation(case.image, ornt), affine)
    wanted = nib.orientations.apply_orientation(truth, ornt)
    result = segment.segment(trained(), turned)
    assert result.heart_found
    assert result.case.label is not None
    assert result.case.label.shape == wanted.shape
    assert np.array_equal(result.case.affine, affine)
    for key in ("LV", "RV", "RA"):
        # 5 mm voxels seen on a 2.5 mm grid.
        assert dice(result.case.label, wanted, key) > 0.8
    upright = segment.segment(trained(), case).case.label  # type: ignore[arg-type]
    assert upright is not None
    assert np.mean(nib.orientations.apply_orientation(upright, ornt) == result.case.label) > 0.999


def test_unusual_anatomy_is_found() -> None:
    """By the rules that judge generated pairs, in the scan's own orientation or another."""
    case, truth = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    bare = replace(case, image=np.where(truth == ID["LAA"], np.int16(-1000), case.image))
    turned = replace(bare, image=bare.image[::-1], affine=bare.affine @ np.array([[-1, 0, 0, 63], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert "LAA is missing" not in segment.segment(trained(), case).findings
    for scan in (bare, turned):
        result = segment.segment(trained(), scan)
        assert "LAA is missing" in result.findings
        assert any("its anatomy is unusual" in text for text in segment._remarks(result, result.rows()))


def test_anatomy_is_judged_within_the_scan() -> None:
    """What the scan's edge cuts reaches the edge of what is judged, however far the model's window reaches beyond it."""
    case, truth = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    low = int(np.flatnonzero((truth == ID["AO"]).any((0, 1)))[0])
    start = max(low + 12, 8)
    affine = case.affine.copy()
    affine[:3, 3] = (case.affine @ [0, 0, start, 1])[:3]
    cut = Case("cut", case.image[:, :, start:], affine)
    seen = inference.predict(trained(), cut)
    assert seen is not None
    inside = segment._in_view(seen, cut)
    assert np.allclose(np.array(inside.image.shape) * 5.0, np.array(cut.image.shape) * cut.spacing, atol=7.5)
    assert inside.label is not None
    assert (inside.label > 0).sum() == (seen.label > 0).sum()
    assert (inside.label[:, :, 0] > 0).any()


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize("slices", [280, 281, 282, 283, 285, 287])
def test_a_structure_through_every_slice_is_cut_at_both_ends(slices: int, tilt: float) -> None:
    """A network that is right wherever there is a scan, and sees air beyond it; 0.5 mm slices end anywhere between voxels of 2 mm."""
    shape, affine = (40, 40, slices), np.diag([2.0, 2.0, 0.5, 1.0])
    c, s = np.cos(tilt), np.sin(tilt)
    affine[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ affine[:3, :3]
    region = inference._covering(shape, affine, (2.0, 2.0, 2.0), (96, 96, 96))
    step = np.linalg.inv(affine) @ region.affine
    place = np.einsum("ij,j...->i...", step[:3, :3], np.indices(region.size)) + step[:3, 3][:, None, None, None]
    vessel = (np.hypot(place[0] - 20, place[1] - 20) < 8) & (place[2] >= -0.5) & (place[2] <= slices - 0.5)
    probabilities = np.zeros((9, *region.size), np.float32)
    probabilities[ID["AO"]], probabilities[0] = vessel, ~vessel
    seen = inference.continued(inference.Prediction(probabilities, region.affine, (vessel * ID["AO"]).astype(np.uint8)), shape, affine)
    label = labels_to_source(seen.probabilities, seen.affine, shape, affine)
    area = (label == ID["AO"]).sum((0, 1))
    assert area.min() > 0.8 * np.median(area)
    row = next(r for r in volumes(label, affine, None) if r.structure == "AO")
    assert row.touches_border
    assert row.partial
    assert row.volume_ml == pytest.approx(np.pi * 16.0**2 * slices / 2 / 1000, rel=0.05)


def test_windows_smaller_than_the_grid_give_the_same_labels() -> None:
    """The template answers voxel by voxel: where a window lies cannot matter to it."""
    case, _ = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    whole, windows = (segment.segment(trained(size), case).case.label for size in (GRID.size, (16, 16, 24)))
    assert whole is not None
    assert np.array_equal(whole, windows)  # type: ignore[arg-type]


def padded(case: Case, width: int) -> Case:
    """The same scan with so many voxels of air around it."""
    affine = case.affine.copy()
    affine[:3, 3] = (case.affine @ [-width, -width, -width, 1])[:3]
    return Case(case.id, np.pad(case.image, width, constant_values=-1000), affine)


@pytest.mark.parametrize("fast", [False, True])
def test_a_wide_field_of_view_is_searched_and_changes_little(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the heart's surroundings get probabilities, and their labels are those of the narrow scan."""
    case, _ = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    model, looks, regions = trained((16, 16, 16)), [], []
    first, again = inference._first_look, inference._look_again
    monkeypatch.setattr(inference, "_first_look", lambda *a: (looks.append(a[2].size), first(*a))[1])
    monkeypatch.setattr(inference, "_look_again", lambda *a: (regions.append(a[4].size), again(*a))[1])
    narrow = segment.segment(model, case).case.label
    assert looks == []
    result = segment.segment(model, padded(case, 30), fast=fast)
    assert len(looks) == 1
    assert result.heart_found
    assert np.prod(regions[-1]) < 0.4 * np.prod(looks[0]) * (8 if fast else 1)
    wide = result.case.label
    assert wide is not None
    assert narrow is not None
    assert not wide[:25].any()
    inner = wide[30:-30, 30:-30, 30:-30]
    for key in ("LV", "RV", "RA", "LA"):
        assert dice(inner, narrow, key) > (0.95 if fast else 0.999)


def test_a_network_that_runs_elsewhere_gets_the_same_labels() -> None:
    """The two looks and the way back, by hand, for a network that is only a function of volumes."""
    case, _ = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    model = trained((16, 16, 16))

    def slide(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        return finetune.probabilities(model.network, torch.from_numpy(to_network(volume))[None, None], model.window)[0].numpy()

    volume, affine = inference.model_volume(case.image, case.affine, GRID)
    label, found, confidence = segment.to_scan(inference.look_twice(slide, volume, GRID), affine, (64, 60, 56), case.affine, GRID)
    wanted = segment.segment(model, case)
    assert found
    assert confidence == pytest.approx(wanted.confidence, abs=1e-4)
    assert wanted.case.label is not None
    assert np.mean(label == wanted.case.label) > 0.9999


def test_averaging_for_the_first_look_keeps_the_place() -> None:
    image = np.zeros((41, 30, 20), np.int16)
    image[12:20, 10:16, 9:12] = 600
    affine = np.array([[0, -0.8, 0, 4], [0.5, 0, 0, -7], [0, 0, 3.0, 2], [0, 0, 0, 1.0]])
    small = inference._averaged(Case("a", image, affine), 2.0)
    assert small.image.shape == (10, 15, 20)
    places = [(c.affine @ [*np.average(np.indices(c.image.shape).reshape(3, -1), axis=1, weights=c.image.ravel()), 1])[:3]
              for c in (Case("a", image, affine), small)]  # fmt: skip
    assert np.allclose(*places)


def test_probabilities_add_up_whatever_the_windows() -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=9).eval()
    image = torch.randn(1, 1, 24, 20, 28)
    for window, mirror in (((16, 16, 16), False), (None, True), ((16, 16, 16), True)):
        found = finetune.probabilities(network, image, window, mirror)
        assert found.shape == (1, 9, 24, 20, 28)
        assert torch.allclose(found.sum(1), torch.ones(1, 24, 20, 28), atol=1e-5)


def test_mirroring_gives_a_mirrored_scan_the_mirrored_answer() -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=9).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    there = finetune.probabilities(network, image, None, mirror=True)
    back = finetune.probabilities(network, image.flip(2), None, mirror=True).flip(2)
    assert torch.allclose(there, back, atol=1e-5)
    assert not torch.allclose(there, finetune.probabilities(network, image, None), atol=1e-3)


def test_an_oblique_scan_gives_the_same_heart() -> None:
    case, truth = painted_case((72, 72, 72), (2.5, 2.5, 2.5))
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    result = segment.segment(trained(), replace(case, affine=turn @ case.affine))
    assert result.case.label is not None
    assert dice(result.case.label, truth, "LV") > 0.8


def test_no_heart_is_invented_in_air_or_noise() -> None:
    noise = np.random.default_rng(0).normal(-300, 100, (40, 40, 40)).astype(np.int16)
    for image in (np.full((40, 40, 40), -1000, np.int16), noise):
        result = segment.segment(trained(), Case("n", image, np.diag([4.0, 4.0, 4.0, 1.0])))  # type: ignore[arg-type]
        assert not result.heart_found
        assert result.case.label is not None
        assert not result.case.label.any()


@pytest.mark.parametrize(("parts", "sure", "found"), [(5, 0.9, True), (4, 0.9, True), (3, 0.9, False), (5, 0.5, False), (0, 0.9, False)])
def test_a_heart_needs_most_of_its_parts_and_some_confidence(parts: int, sure: float, found: bool) -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    for i, key in enumerate(hearts.HEART[:parts]):
        label[:, :, 4 * i : 4 * i + 2] = ID[key]
    probabilities = np.full((9, 20, 20, 20), (1 - sure) / 8, np.float32)
    np.put_along_axis(probabilities, label[None].astype(np.int64), np.float32(sure), axis=0)
    verdict, confidence = hearts.judge(label, probabilities, GRID.spacing)
    assert verdict is found
    assert confidence == (pytest.approx(sure, abs=1e-5) if parts else 0.0)


@pytest.mark.parametrize(("learned", "needed"), [(("LV", "MYO", "RV", "AO"), 3), (hearts.HEART, 4), (("AO", "PA"), 0)])
def test_of_the_parts_that_were_never_learned_none_is_asked_for(learned: tuple[str, ...], needed: int) -> None:
    assert replace(trained(), structures=learned).parts == hearts.least_parts(learned) == needed


def test_a_segmenter_of_few_structures_finds_its_heart() -> None:
    """Nor are the others missed in what is unusual about its anatomy."""
    case, truth = painted_case((64, 60, 56), (2.5, 2.5, 3.0))
    learned = ("MYO", "LV", "RV")
    few = replace(case, image=np.where(np.isin(truth, [ID[k] for k in learned]), case.image, np.int16(-1000)))
    assert not segment.segment(trained(), few).heart_found
    result = segment.segment(replace(trained(), structures=learned), few)
    assert result.heart_found
    assert not any("missing" in text for text in result.findings)


@pytest.mark.parametrize("fast", [False, True])
def test_a_scan_thinner_than_a_voxel_of_the_model(fast: bool) -> None:
    """Two slices of 0.6 mm between the centers of voxels of 5 mm: nothing is seen, and nothing fails."""
    for fill in (-1000, 300):
        thin = Case("thin", np.full((40, 40, 2), fill, np.int16), np.diag([2.0, 2.0, 0.6, 1.0]))
        result = segment.segment(trained(), thin, fast=fast)
        assert not result.heart_found
        assert result.case.label is not None
        assert result.case.label.shape == thin.image.shape


def test_near_the_heart_is_the_same_distance_along_every_axis() -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[10:20, 10:20, 10:20] = ID["LV"]
    label[35:38, 14, 14] = ID["LAA"]
    label[14, 14, 26:36] = ID["LAA"]
    assert (hearts.clean(label, (1.0, 1.0, 6.0)) == ID["LAA"]).sum() == 3
    assert (hearts.clean(label, (1.0, 1.0, 3.0)) == ID["LAA"])[14, 14].sum() == 10


def test_cleaning_drops_what_is_far_or_small() -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[10:20, 10:20, 10:20] = ID["LV"]
    label[20:22, 10:20, 10:20] = ID["MYO"]
    label[12, 12, 21:23] = ID["LAA"]
    label[38, 38, 38] = ID["LV"]
    label[35:38, 35:38, 35:38] = ID["LAA"]
    label[15, 15, 20:30] = ID["AO"]
    cleaned = hearts.clean(label, GRID.spacing)
    assert (cleaned == ID["LV"]).sum() == 1000
    assert (cleaned == ID["MYO"]).sum() == 200
    # The larger piece of the appendage is 100 mm away from the heart.
    assert (cleaned == ID["LAA"]).sum() == 2
    assert cleaned[36, 36, 36] == 0
    assert (cleaned == ID["AO"]).sum() == 10


def test_the_segmenter_that_ships_segments_a_patient_it_never_saw() -> None:
    """Without contrast agent as well as with it; on a grid that is not its own. In the abdomen below it finds no heart."""
    model = segment.resolve_model(None)
    assert (model / "model.safetensors").stat().st_size <= 8 * 2**20
    assert (model / "README.md").exists()
    shipped = finetune.load(model)
    for contrast, least in (("chase", 0.88), ("none", 0.8)):
        case = virtual_patient(4711, 100, (72, 72, 64), (2.5, 2.5, 2.5), contrast=contrast, pathology=False)
        result = segment.segment(shipped, case)
        assert result.heart_found
        assert result.case.label is not None
        assert case.label is not None
        mean = overlap.average([overlap.dice(result.case.label, case.label)])
        assert mean["mean"] is not None
        assert mean["mean"] > least
        assert mean["LAA"] is not None
    below = virtual_patient(4711, 100, (96, 96, 24), (3.0, 3.0, 3.0), (0.0, 0.0, -115.0), pathology=False)
    assert below.label is not None
    assert not np.isin(below.label, [ID[k] for k in hearts.HEART]).any()
    result = segment.segment(shipped, below)
    assert not result.heart_found
    assert result.case.label is not None
    assert not result.case.label.any()


def test_a_heart_that_the_field_of_view_cuts_is_segmented_and_said_to_be_partial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its volumes are those in view, flagged; one of which too little is left is not claimed, and that is said."""
    case = virtual_patient(4711, 100, (60, 60, 56), (3.0, 3.0, 3.0), contrast="chase", pathology=False)
    assert case.label is not None
    heart = np.flatnonzero(np.isin(case.label, [ID[k] for k in hearts.HEART]).any((0, 1)))
    for name, share, found in (("half", 0.4, True), ("tip", 0.95, False)):
        start = round(heart[0] + share * (heart[-1] - heart[0]))
        affine = case.affine.copy()
        affine[:3, 3] = (case.affine @ [0, 0, start, 1])[:3]
        write_nifti(tmp_path / f"{name}.nii.gz", case.image[:, :, start:], affine, dtype=np.int16)
        cli.main(["segment", str(tmp_path / f"{name}.nii.gz"), "-o", str(tmp_path / name), "--quiet"])
        described = json.loads((tmp_path / name / "segmentation.json").read_text())
        said = capsys.readouterr().err
        assert described["heart_found"] is found
        assert ("cuts the heart" if found else "no heart was found") in said
        # To be cut is no fault of the anatomy.
        assert described["findings"] == []
        assert "its anatomy is unusual" not in said
        if found:
            label = read_nifti(tmp_path / name / "labels.nii.gz")[0].astype(np.uint8)
            rows = {r["structure"]: r for r in json.loads((tmp_path / name / "volumes.json").read_text())}
            for key in ("LV", "RV", "MYO"):
                assert rows[key]["partial"]
                assert key in described["partial"]
                true = float((case.label[:, :, start:] == ID[key]).sum() * case.voxel_ml)
                assert rows[key]["volume_ml"] == pytest.approx(true, rel=0.35)
            assert overlap.average([overlap.dice(label, case.label[:, :, start:])])["mean"] > 0.75  # type: ignore[operator]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained segmenter in a finished run folder."""
    folder = tmp_path_factory.mktemp("model") / "ours"
    run = Run(folder, "finetune", {}, {})
    run.begin()
    torch.manual_seed(0)
    config = SegmenterConfig(channels=(4, 8))
    described = {"network": config, "grid": Grid(GRID.size, GRID.spacing), "patch": None, "mirrored": False}
    save_model(run, Segmenter(config, outputs=9), described)
    run.finish()
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    case, _ = painted_case((40, 40, 40), (4.0, 4.0, 4.0))
    write_nifti(tmp_path / "scan.nii.gz", case.image, case.affine, dtype=np.int16)
    return tmp_path / "scan.nii.gz"


def test_command_writes_all_outputs(model: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    cli.main(["segment", str(scan), "-o", str(out), "--model", str(model), "--quiet"])
    written = ["labels.ctbl", "labels.nii.gz", "preview.png", "segmentation.json", "volumes.csv", "volumes.json"]
    assert sorted(p.name for p in out.iterdir()) == written
    label, affine, _ = read_nifti(out / "labels.nii.gz")
    image, image_affine, _ = read_nifti(scan)
    assert label.shape == image.shape
    assert np.allclose(affine, image_affine)
    with (out / "volumes.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [r["structure"] for r in rows] == list(KEYS)
    assert set(rows[0]) == {"structure", "volume_ml", "mean_hu", "touches_border", "partial", "confidence"}
    assert capsys.readouterr().out.strip() == str(out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--model", "nowhere"], "--model nowhere: no fine-tuned segmenter"),
        (["--bogus"], "Unrecognized options: --bogus"),
        (["--series"], "--series"),
    ],
)
def test_bad_flags_give_one_line_and_status_2(
    model: Path, scan: Path, tmp_path: Path, change: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", str(scan), "-o", str(out), "--model", str(model), *change])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert named in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text"])
def test_unreadable_scans_give_one_line_and_write_nothing(
    model: Path, scan: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "missing":
        scan.unlink()
    else:
        scan.write_bytes({"empty": b"", "truncated": scan.read_bytes()[:-500], "text": b"not a scan"}[damage])
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", str(scan), "-o", str(tmp_path / "out"), "--model", str(model), "--quiet"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "scan.nii.gz" in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name != "scan.nii.gz"] == []


def test_output_that_exists_is_kept_unless_asked(model: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    arguments = ["segment", str(scan), "-o", str(out), "--model", str(model), "--quiet"]
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert "exists already" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    cli.main([*arguments, "--overwrite"])
    assert (out / "mine.txt").read_text() == "keep"
    assert (out / "labels.nii.gz").exists()


def test_mirroring_is_refused_for_a_model_that_never_saw_mirror_images(
    model: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", str(scan), "-o", str(tmp_path / "out"), "--model", str(model), "--mirror", "--quiet"])
    assert stop.value.code == 2
    assert "was not trained on mirror images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_packed_model_is_the_same_in_half_the_size(model: Path, tmp_path: Path) -> None:
    packed = pack_model(model, "finetune", tmp_path / "packed")
    assert sorted(p.name for p in packed.iterdir()) == ["model.json", "model.safetensors"]
    before, after = (finetune.load(folder).network for folder in (model, packed))
    for (name, a), b in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6), name
    assert (packed / "model.safetensors").stat().st_size < 0.6 * (model / "model.safetensors").stat().st_size


@pytest.mark.parametrize("damage", ["weights", "stage"])
def test_a_packed_model_that_was_altered_is_refused(model: Path, tmp_path: Path, damage: str) -> None:
    packed = pack_model(model, "finetune", tmp_path / "packed")
    if damage == "weights":
        tensors, facts = checkpoint.load(packed / "model.safetensors")
        checkpoint.save(packed / "model.safetensors", {k: v + 1 for k, v in tensors.items()}, facts)
    with pytest.raises(InputError, match="hash differs" if damage == "weights" else "not of `auricle autoencoder`"):
        read_model(packed, "finetune" if damage == "weights" else "autoencoder")


def test_model_without_a_command_says_what_to_do(tmp_path: Path, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["segment", str(scan), "-o", str(tmp_path / "o"), "--model", str(tmp_path)])
    assert "auricle run" in capsys.readouterr().err
