"""Measuring label maps: what is said is true of them, one or many, and agreement is that of the metrics."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle import cli
from auricle.core.anatomy import ID, KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.nifti import write_nifti
from auricle.metrics.surface import area_mm2
from auricle.phantom import virtual_patient
from auricle.stages import evaluate, measure
from auricle.stages.measure import MeasureStage

AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


@pytest.fixture(scope="module")
def patient() -> Case:
    """A whole virtual heart, coarse."""
    return virtual_patient(5, 2, (60, 56, 52), (3.0, 3.0, 3.0), pathology=False)


def write(path: Path, label: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Path:
    write_nifti(path, label, affine, dtype=label.dtype)
    return path


def boxes() -> NDArray[np.uint8]:
    """LV inside, AO up to the edge."""
    label = np.zeros((40, 30, 24), np.uint8)
    label[10:20, 10:20, 5:15], label[18:22, 14:18, 15:] = ID["LV"], ID["AO"]
    return label


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="") as file:
        return {(r["scan"], r["structure"]): r for r in csv.DictReader(file)}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.1, 1.6)])
def test_the_area_of_a_ball_and_of_one_cut_in_half(spacing: tuple[float, float, float]) -> None:
    at = np.indices((70, 50, 40)) * np.array(spacing).reshape(3, 1, 1, 1)
    center = np.array([35, 25, 20]) * spacing
    ball = np.linalg.norm(at - center.reshape(3, 1, 1, 1), axis=0) < 14
    assert area_mm2(ball, spacing) == pytest.approx(4 * np.pi * 14**2, rel=0.03)
    assert area_mm2(ball[:, :, 20:], spacing) == pytest.approx(2 * np.pi * 14**2, rel=0.06)
    assert area_mm2(ball & False, spacing) == 0


@pytest.mark.parametrize(
    ("outer", "wall", "spacing", "ratio"),
    [(30, 30, (0.7, 0.7, 5.0), 1.05), (30, 8, (2.0, 2.0, 2.0), 0.94), (30, 8, (2.5, 2.5, 2.5), 0.85)],
)
def test_the_area_of_thick_slices_and_thin_walls_is_off_as_documented(
    outer: float, wall: float, spacing: tuple[float, float, float], ratio: float
) -> None:
    shape = [int(2 * outer / s) + 14 for s in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    distance = np.sqrt(sum(x**2 for x in np.meshgrid(*axes, indexing="ij")))
    inner = outer - wall
    true = 4 * np.pi * (outer**2 + inner**2)
    assert area_mm2((distance <= outer) & (distance > inner if inner else True), spacing) / true == pytest.approx(ratio, abs=0.02)


def test_volumes_borders_hu_and_plausibility(tmp_path: Path) -> None:
    label = boxes()
    image = np.where(label == ID["LV"], 350, -100).astype(np.int16)
    write(tmp_path / "ct.nii.gz", image)
    out = tmp_path / "out"
    cli.main(["measure", str(write(tmp_path / "seg.nii.gz", label)), "--image", str(tmp_path / "ct.nii.gz"), "-o", str(out), "--quiet"])
    rows = rows_of(out / "measures.csv")
    lv, ao = rows["seg", "LV"], rows["seg", "AO"]
    assert (lv["volume_ml"], lv["mean_hu"], lv["partial"], lv["plausible"]) == ("10.00", "350.0", "no", "no")
    # What the edge cuts may be small.
    assert (ao["volume_ml"], ao["touches_border"], ao["partial"], ao["plausible"]) == ("1.44", "yes", "yes", "yes")
    assert (rows["seg", "LAA"]["volume_ml"], rows["seg", "LAA"]["mean_hu"], rows["seg", "LAA"]["plausible"]) == ("0.00", "", "")
    (found,) = json.loads((out / "measures.json").read_text())
    assert any("LV has 10.0 mL" in text for text in found["findings"])
    assert [s["structure"] for s in found["structures"]] == list(KEYS)


def test_padding_inside_the_grid_cuts_a_structure_too(tmp_path: Path) -> None:
    label = boxes()
    image = np.full(label.shape, 40, np.int16)
    image[:10] = -1024
    image[30, 10, 10] = -1024
    label[31, 8:14, 8:14] = ID["LA"]
    write(tmp_path / "ct.nii.gz", image)
    (found,) = measure.run(MeasureStage((write(tmp_path / "seg.nii.gz", label),), image=tmp_path / "ct.nii.gz"), None)
    rows = {r["structure"]: r for r in found.rows}
    assert rows["LV"]["partial"]
    assert not rows["LV"]["touches_border"]
    assert not rows["LA"]["partial"]


def test_a_possible_heart_has_no_findings_and_a_broken_one_has(patient: Case, tmp_path: Path) -> None:
    assert patient.label is not None
    swapped = patient.label[::-1].copy()
    for name, label in (("good", patient.label), ("mirrored", swapped)):
        write(tmp_path / f"{name}.nii.gz", label, patient.affine)
    found = {r.name: r.findings for r in measure.run(MeasureStage((tmp_path,)), None)}
    assert found["good"] == []
    assert found["mirrored"]


def test_agreement_is_that_of_the_metrics_whatever_the_axes(patient: Case, tmp_path: Path) -> None:
    assert patient.label is not None
    moved = np.roll(patient.label, 2, axis=0)
    moved[moved == ID["LAA"]] = 0
    flip = patient.affine @ np.array([[-1, 0, 0, patient.label.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    config = MeasureStage((write(tmp_path / "a.nii.gz", moved[::-1], flip),), reference=write(tmp_path / "b.nii.gz", patient.label[::-1], flip))
    (found,) = measure.run(config, None)
    for row, score in zip(found.rows, evaluate.score("", moved, patient.label, (3.0, 3.0, 3.0), 2.0), strict=True):
        assert {k: row[k] for k in measure.AGREEMENT} == {k: score[k] for k in measure.AGREEMENT}
    assert found.rows[KEYS.index("LAA")]["missed"]


def test_many_label_maps_find_their_partners_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and results of `segment`; one that is damaged does not stop the rest."""
    for name in ("p1", "p2"):
        write(tmp_path / "results" / name / "labels.nii.gz", boxes())
        write(tmp_path / "truth" / f"{name}.nii.gz", boxes())
    arguments = ["measure", str(tmp_path / "results"), "--reference", str(tmp_path / "truth"), "--quiet"]
    cli.main([*arguments, "-o", str(tmp_path / "out")])
    rows = rows_of(tmp_path / "out" / "measures.csv")
    assert {scan for scan, _ in rows} == {"p1", "p2"}
    assert rows["p2", "LV"]["dice"] == "1.0000"
    assert capsys.readouterr().out == ""
    (tmp_path / "results" / "p1" / "labels.nii.gz").write_bytes(b"")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "-o", str(tmp_path / "again")])
    assert stop.value.code == 2
    assert "1 of 2 label maps could not be measured: p1" in capsys.readouterr().err.splitlines()[-1]
    assert {scan for scan, _ in rows_of(tmp_path / "again" / "measures.csv")} == {"p2"}


def test_a_result_finds_its_scan_whatever_a_folder_may_be_called(tmp_path: Path) -> None:
    """`segment` writes the result of DOE^JOHN to DOE-JOHN."""
    write(tmp_path / "results" / "DOE-JOHN" / "labels.nii.gz", boxes())
    write(tmp_path / "truth" / "DOE^JOHN" / "labels.nii.gz", boxes())
    cli.main(["measure", str(tmp_path / "results"), "--reference", str(tmp_path / "truth"), "--quiet", "-o", str(tmp_path / "out")])
    assert rows_of(tmp_path / "out" / "measures.csv")["DOE-JOHN", "LV"]["dice"] == "1.0000"


def test_two_models_are_measured_against_one_reference(tmp_path: Path) -> None:
    """Results of one name in two folders; names that `segment` made fit for a folder find their scan's."""
    for name in ("Patient-01", "p2"):
        for model in ("a", "b"):
            write(tmp_path / model / name / "labels.nii.gz", boxes())
        write(tmp_path / "truth" / f"{name.replace('-', ' ')}.nii.gz", boxes())
    cli.main(["measure", str(tmp_path / "a"), str(tmp_path / "b"), "--reference", str(tmp_path / "truth"), "-o", str(tmp_path / "out"), "--quiet"])
    rows = rows_of(tmp_path / "out" / "measures.csv")
    assert {scan for scan, _ in rows} == {"a_Patient-01", "b_Patient-01", "a_p2", "b_p2"}
    assert {row["dice"] for row in rows.values() if row["dice"]} == {"1.0000"}


def test_interrupted_measurements_are_kept_and_a_file_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("p1", "p2"):
        write(tmp_path / "in" / f"{name}.nii.gz", boxes())
    config, real = measure.MeasureStage((tmp_path / "in",)), measure.measure
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        measure.run(config, tmp_path / "file", overwrite=True)

    def interrupted(stage: Any, scan: Any, *, alone: bool) -> Any:
        if scan.name == "p2":
            raise KeyboardInterrupt
        return real(stage, scan, alone=alone)

    monkeypatch.setattr(measure, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.run(config, tmp_path / "out")
    assert {scan for scan, _ in rows_of(tmp_path / "out" / "measures.csv")} == {"p1"}


def test_names_of_scans_and_label_maps_may_differ_as_in_data_sets(tmp_path: Path) -> None:
    """nnU-Net's channel, the marks of label maps, and scans and label maps side by side."""
    for name in ("a_0000", "b_0000"):
        write(tmp_path / "results" / name / "labels.nii.gz", boxes())
    image = np.where(boxes() > 0, 300, -900).astype(np.int16)
    for name in ("a", "b"):
        write(tmp_path / "plain" / f"{name}.nii.gz", boxes())
        write(tmp_path / "pairs" / f"{name}_img.nii.gz", image)
        write(tmp_path / "pairs" / f"{name}_label.nii.gz", boxes())
    for reference in ("plain", "pairs"):
        config = MeasureStage((tmp_path / "results",), reference=tmp_path / reference, image=tmp_path / "pairs")
        found = measure.run(config, None)
        assert [r.error for r in found] == [None, None]
        assert found[0].rows[KEYS.index("LV")]["dice"] == 1.0
        assert found[0].rows[KEYS.index("LV")]["mean_hu"] == 300.0
    assert [s.path.name for s in measure.find_labels((tmp_path / "pairs",))] == ["a_label.nii.gz", "b_label.nii.gz"]
    # Neither a label map nor its scan is taken for the other where one has the name of what is measured.
    write(tmp_path / "bare" / "a.nii.gz", image)
    write(tmp_path / "bare" / "a_seg.nii.gz", boxes())
    (found_one,) = measure.run(MeasureStage((tmp_path / "bare",), image=tmp_path / "bare"), None)
    assert found_one.rows[KEYS.index("LV")]["mean_hu"] == 300.0
    (found_one, _) = measure.run(MeasureStage((tmp_path / "results",), reference=tmp_path / "bare"), None)
    assert found_one.rows[KEYS.index("LV")]["dice"] == 1.0


def test_means_over_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Volumes count where a structure is present, agreement also where only the reference has it."""
    for name, label in (("a", boxes()), ("b", np.where(boxes() == ID["LV"], 0, boxes()))):
        write(tmp_path / "results" / f"{name}.nii.gz", label.astype(np.uint8))
        write(tmp_path / "truth" / f"{name}.nii.gz", boxes())
    cli.main(["measure", str(tmp_path / "results"), "--reference", str(tmp_path / "truth"), "-o", str(tmp_path / "out")])
    with (tmp_path / "out" / "means.csv").open() as file:
        means = {row["structure"]: row for row in csv.DictReader(file)}
    one = rows_of(tmp_path / "out" / "measures.csv")["a", "LV"]
    assert means["LV"]["volume_ml_sd"] == ""
    assert (means["LV"]["present"], means["LV"]["volume_ml"], means["LV"]["missed"]) == ("1", one["volume_ml"], "1")
    assert (means["LV"]["dice"], means["LV"]["dice_sd"]) == ("0.5000", f"{0.5**0.5:.4f}")
    assert (means["AO"]["present"], means["AO"]["volume_ml_sd"], means["AO"]["missed"]) == ("2", "0.00", "0")
    assert (means["RV"]["present"], means["RV"]["volume_ml"], means["RV"]["dice"], means["RV"]["volume_error_ml"]) == ("0", "", "", "")
    shown = capsys.readouterr().out
    assert "present" in shown
    assert "volume_ml_sd" in shown


def test_label_maps_of_other_numberings(tmp_path: Path) -> None:
    other = np.where(boxes() == ID["LV"], 40, boxes()).astype(np.uint8)
    path = write(tmp_path / "seg.nii.gz", other)
    with pytest.raises(InputError, match="40"):
        measure.run(MeasureStage((path,)), None)
    (found,) = measure.run(MeasureStage((path,), label_map="40=LV,6=0", reference=path, reference_map="40=LV,6=AO"), None)
    rows = {r["structure"]: r for r in found.rows}
    assert rows["LV"]["dice"] == 1.0
    assert rows["AO"]["missed"]


@pytest.mark.parametrize(
    ("shape", "shift", "message"), [((40, 30, 23), 0.0, "40 x 30 x 24 voxels, .* 40 x 30 x 23"), ((40, 30, 24), 1.5, "lies elsewhere .* 1.5 mm")]
)
def test_other_grids_are_refused(tmp_path: Path, shape: tuple[int, int, int], shift: float, message: str) -> None:
    affine = AFFINE.copy()
    affine[0, 3] = shift
    label, other = write(tmp_path / "seg.nii.gz", boxes()), write(tmp_path / "ref.nii.gz", np.ones(shape, np.uint8), affine)
    with pytest.raises(InputError, match=message) as refused:
        measure.run(MeasureStage((label,), reference=other), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
