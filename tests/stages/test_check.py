"""`auricle check`: every fault is found where it is planted and nowhere else; what was checked is not read again."""

import csv
import fcntl
import gzip
import io
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle import recipes
from auricle.core.anatomy import ID, KEYS, STRUCTURES
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.cohort import FolderData
from auricle.data.folder import PairPath, find_pairs, read_pair
from auricle.data.nifti import read_nifti, write_nifti
from auricle.data.preprocess import label_to_grid, right_angled, to_grid
from auricle.phantom import virtual_patient
from auricle.report import check_page
from auricle.stages import check, check_case, phantom
from auricle.stages.check import CheckConfig
from auricle.stages.check_case import Job, examine
from auricle.stages.check_cohort import across, tables
from auricle.stages.phantom_config import PhantomConfig
from auricle.training.loop import Hardware


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five virtual patients."""
    out = tmp_path_factory.mktemp("check") / "cohort"
    phantom.run(PhantomConfig(patients=5, seed=11, size=(72, 72, 72), spacing=(2.5, 2.5, 2.5), workers=1), out)
    return out


@pytest.fixture(scope="module")
def checked(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A check of them; tests that change it copy it."""
    out = tmp_path_factory.mktemp("check") / "out"
    check.run(CheckConfig(clean, workers=1), out)
    return out


@pytest.fixture
def cohort(clean: Path, tmp_path: Path) -> Path:
    """A copy to plant faults in."""
    return Path(shutil.copytree(clean, tmp_path / "cohort"))


def run(data: Path, out: Path | None = None, **options: Any) -> dict[str, Any]:
    return check.run(CheckConfig(data, workers=1, **options), out)


def found(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [*result["findings"], *(f for c in result["cases"] for f in c["findings"])]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the cases that are examined from now on."""
    names: list[str] = []

    def counted(job: Job) -> dict[str, Any]:
        names.append(job.pair.id)
        return examine(job)

    monkeypatch.setattr(check, "examine", counted)
    return names


# A clean cohort.


def test_a_clean_cohort_is_clean(clean: Path) -> None:
    result = run(clean)
    assert found(result) == []
    assert {c["verdict"] for c in result["cases"]} == {"clean"}
    with (clean / "patients.csv").open(encoding="utf-8") as file:
        for row, case in zip(csv.DictReader(file), result["cases"], strict=True):
            assert case["id"] == row["id"] == case["patient"]
            for key in KEYS:
                assert case["structures"][key]["ml"] == pytest.approx(float(row[f"{key}_ml"]), abs=0.01)
            assert {k for k, v in case["structures"].items() if v["sides"]} == set(filter(None, row["cut_by_border"].split(";")))


def test_files_are_strict_json_and_a_row_a_case(checked: Path) -> None:
    result = json.loads((checked / "check.json").read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert (result["version"], list(result)) == (1, ["version", "auricle", "settings", "summary", "findings", "cases", "needs"])
    assert list(result["summary"]) == [
        "cases", "labeled", "patients", "refused", "notice", "clean", "refusals", "notices", "empty_labels", "structures", "axes", "bytes",
        "fingerprint",
    ]  # fmt: skip
    assert set(result["cases"][0]) == {
        "id", "patient", "verdict", "image", "label", "bytes", "shape", "spacing_mm", "axes", "oblique_degrees", "hu", "structures", "missing",
        "content_sha256", "label_sha256", "patient_sha256", "checksum", "picture", "findings",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((checked / "check.csv").read_text(encoding="utf-8"))))
    assert [r["id"] for r in rows] == [c["id"] for c in result["cases"]]
    assert float(rows[0]["LV_ml"]) == result["cases"][0]["structures"]["LV"]["ml"]


def test_the_fingerprint_is_along_the_patients_axes() -> None:
    def record(axes: str | None, shape: list[int], spacing: list[float], ml: float | None) -> dict[str, Any]:
        structures = None if ml is None else {"LV": {"ml": ml, "mean_hu": None if ml > 100 else 10 * ml}}
        return {"axes": axes, "shape": shape, "spacing_mm": spacing, "structures": structures}

    cases = [
        record("LPS", [10, 20, 30], [1.0, 2.0, 3.0], 50.0), record("SAR", [60, 40, 20], [2.0, 2.0, 1.0], 150.0),
        record("IRP", [90, 30, 60], [1.0, 1.0, 2.0], None), record(None, [], [], None),
    ]  # fmt: skip
    found = check.fingerprint(cases)
    assert found["shape"] == {"least": [10, 20, 30], "median": [20, 40, 60], "most": [30, 60, 90]}
    assert found["spacing_mm"] == {"least": [1.0, 2.0, 1.0], "median": [1.0, 2.0, 2.0], "most": [1.0, 2.0, 3.0]}
    assert found["extent_mm"] == {"least": [10, 40, 90], "median": [20, 80, 90], "most": [30, 120, 120]}
    assert found["structures"]["LV"] == {"ml": {"least": 50, "median": 100, "most": 150}, "mean_hu": dict.fromkeys(("least", "median", "most"), 500)}
    assert found["structures"]["PA"] == {"ml": None, "mean_hu": None}
    assert check.fingerprint([])["shape"] is None


def test_label_maps_that_all_show_nothing_are_refused(clean: Path, tmp_path: Path) -> None:
    pairs = find_pairs(clean)
    for pair in pairs[:4]:
        assert pair.label is not None
        shutil.copy(pair.image, tmp_path / f"{pair.id}.nii.gz")
        values, affine, _ = read_nifti(pair.label)
        write_nifti(tmp_path / f"{pair.id}_label.nii.gz", values * 0, affine, dtype=np.uint8)
    found = check.run(CheckConfig(tmp_path))["findings"]
    assert [f["text"] for f in found if f["severity"] == "refused"] == ["none of the 4 label maps shows a structure; is --label-map right?"]


def test_workers_change_nothing(clean: Path, checked: Path, tmp_path: Path) -> None:
    result = check.run(CheckConfig(clean, workers=2), tmp_path / "two")
    before = json.loads((checked / "check.json").read_text(encoding="utf-8"))
    assert result["cases"] == before["cases"]
    assert result["summary"] == before["summary"]


def test_needs_of_a_recipe(clean: Path) -> None:
    steps = recipes.steps(recipes.demo(), Path("runs/x"), FolderData(clean), 0, Hardware())
    chosen = [(s.name, s.config) for s in steps if s.name in ("cohort", "finetune baseline")]
    needs = check.run(CheckConfig(clean, workers=1, quick=True), None, chosen)["needs"]
    # Five pairs of 96^3 voxels with their margin, three bytes a voxel.
    assert needs["prepared_gib"] == round(5 * 96**3 * 3 / 2**30, 2)
    assert 0.2 < needs["prepare_gib_per_worker"] < 5
    assert needs["train_gib"] > needs["prepared_gib"]
    assert needs["train_stage"] == "finetune baseline"


# Faults of one case.

Change = Callable[[Any, Any, Any], tuple[Any, Any, Any]]
"""Image, label map and the label map's affine, changed."""
AFFINE = np.diag([2.5, 2.5, 2.5, 1.0])


def one(folder: Path, clean: Path, change: Change, affine: Any = AFFINE, **options: Any) -> dict[str, Any]:
    """The check of one patient with a planted fault."""
    case, _ = read_pair(find_pairs(clean)[0])
    image, label, other = change(case.image.copy(), case.label.copy(), affine.copy())  # type: ignore[union-attr]
    write_nifti(folder / "a.nii.gz", image, affine, dtype=image.dtype)
    write_nifti(folder / "a_label.nii.gz", label, other, dtype=label.dtype)
    pair = PairPath("a", folder / "a.nii.gz", folder / "a_label.nii.gz")
    return examine(Job(pair, False, options.pop("quick", False), None, options.pop("not_hu", False), 0, None))


def told(record: dict[str, Any], severity: str) -> list[tuple[str, str]]:
    return [(f["code"], f["text"]) for f in record["findings"] if f["severity"] == severity]


def without(key: str) -> Change:
    return lambda image, label, affine: (image, np.where(label == ID[key], 0, label).astype(np.uint8), affine)


def scaled(factor: float) -> Any:
    return np.diag([2.5 * factor] * 3 + [1.0])


def moved(row: int, column: int, by: float) -> Any:
    affine = AFFINE.copy()
    affine[row, column] += by
    return affine


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (lambda i, l, a: (i, l[:-1], a), "grid", "shape 71 x 72 x 72 and 72 x 72 x 72"),
        (lambda i, l, a: (i, l, scaled(1.1)), "grid", "spacing 2.75 x 2.75 x 2.75 and 2.5 x 2.5 x 2.5 mm"),
        (lambda i, l, a: (i, l, moved(0, 3, 5.0)), "grid", "origin, 5 mm apart"),
        (lambda i, l, a: (i, l, np.diag([-2.5, 2.5, 2.5, 1.0])), "grid", "axes LAS and RAS"),
        (lambda i, l, a: (i, l[:-1], moved(1, 3, 7.0)), "grid", "shape 71 x 72 x 72 and 72 x 72 x 72; origin, 7 mm apart"),
        (lambda i, l, a: (i, l + 20, a), "label", "have no structure"),
        (lambda i, l, a: (i, l.astype(np.float32) * 1.01, a), "label", "labels are whole numbers"),
        (lambda i, l, a: (np.where(i > 3000, np.nan, i.astype(np.float32)) * np.where(l == 3, np.nan, 1), l, a), "file", "not finite numbers"),
        (lambda i, l, a: (np.where(l == 3, np.inf, i.astype(np.float32)), l, a), "file", "not finite numbers"),
        (lambda i, l, a: (i + 1024, l, a), "file", "are not HU"),
    ],
)
def test_refusals(clean: Path, tmp_path: Path, change: Change, code: str, text: str) -> None:
    record = one(tmp_path, clean, change)
    assert [c for c, t in told(record, "refused") if text in t] == [code]
    assert len(told(record, "refused")) == 1


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (without("LAA"), "structures", "no voxels of LAA"),
        (lambda i, l, a: (i, l * 0, a), "label", "nothing is labeled"),
        (lambda i, l, a: (np.where(i < -1000, -3024, i).astype(np.int16), l, a), "reading", "lie outside the field of view"),
        (lambda i, l, a: (np.maximum(i, -400), l, a), "intensity", "no air: the least value is -400 HU"),
        (lambda i, l, a: (np.where(abs(i) < 250, -700, i).astype(np.int16), l, a), "intensity", "are these HU?"),
        (lambda i, l, a: (i[:, ::-1], l, a), "intensity", "do scan and label map belong together?"),
        (lambda i, l, a: (i[:, :, 36:], l[:, :, 36:], a), "view", "the heart is cut by the scan's border (inferior)"),
        (lambda i, l, a: (i[:, :, 36:], l[:, :, 36:], a), "view", "the scan covers 180 x 180 x 90 mm"),
        (lambda i, l, a: (i, np.where(l == ID["MYO"], ID["LV"], l).astype(np.uint8), a), "structures", "no voxels of MYO"),
        (lambda i, l, a: (i, np.array([0, 1, 5, 3, 4, 2, 6, 7, 8], np.uint8)[l], a), "anatomy", "LA is not posterior of LV"),
        (lambda i, l, a: (i[::-1], l[::-1], a), "anatomy", "RV is not left of RA"),
    ],
)
def test_notices(clean: Path, tmp_path: Path, change: Change, code: str, text: str) -> None:
    record = one(tmp_path, clean, change)
    assert told(record, "refused") == []
    assert {c for c, t in told(record, "notice") if text in t} == {code}


@pytest.mark.parametrize(
    ("affine", "code", "text"),
    [
        (np.diag([2.5, 2.5, 4.0, 1.0]), "spacing", "voxels of 2.5 x 2.5 x 4 mm"),
        (scaled(0.06), "spacing", "finer than CT resolves"),
        (scaled(1.6), "volume", "mL, outside"),
        (scaled(0.5), "volume", "LV has"),
        (np.array([[2.35, -0.855, 0, 0], [0.855, 2.35, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]]), "orientation", "turned by 20 degrees"),
    ],
)
def test_notices_on_the_grid(clean: Path, tmp_path: Path, affine: Any, code: str, text: str) -> None:
    record = one(tmp_path, clean, lambda *case: case, affine)
    assert told(record, "refused") == []
    assert code in [c for c, t in told(record, "notice") if text in t]


def test_several_problems_of_one_case_are_all_listed(clean: Path, tmp_path: Path) -> None:
    """Values that are not HU, labels that mean nothing, and two grids."""
    record = one(tmp_path, clean, lambda i, l, a: (i + 1024, (l + 20)[:-1], a))
    assert [code for code, _ in told(record, "refused")] == ["grid", "file", "label"]
    both = one(tmp_path / "b", clean, lambda i, l, a: (i + 1024, l + 20, a))
    assert [code for code, _ in told(both, "refused")] == ["file", "label"]
    assert told(one(tmp_path / "c", clean, lambda i, l, a: (i + 1024, l, a), not_hu=True), "refused") == []


def test_the_check_and_the_readers_agree_on_what_is_one_grid(clean: Path, tmp_path: Path) -> None:
    """A tenth of a voxel is the limit of both."""
    for number, (factor, fits) in enumerate(((1.0005, True), (1.0015, False))):
        folder = tmp_path / str(number)
        refused = told(one(folder, clean, lambda i, l, a, factor=factor: (i, l, scaled(factor))), "refused")  # type: ignore[misc]
        assert (refused == []) == fits
        try:
            read_pair(find_pairs(folder)[0])
        except InputError:
            assert not fits
        else:
            assert fits


def test_damaged_files_are_told_both(clean: Path, cohort: Path) -> None:
    pair = find_pairs(cohort)[0]
    assert pair.label is not None
    for path in (pair.image, pair.label):
        path.write_bytes(path.read_bytes()[:-2000] if path == pair.image else b"")
    result = run(cohort)
    texts = [f["text"] for f in result["cases"][0]["findings"]]
    assert len(texts) == 2
    assert "empty (0 bytes)" in texts[0] + texts[1]
    assert "cut off" in texts[0] + texts[1]
    assert [c["verdict"] for c in result["cases"]] == ["refused", *["clean"] * 4]
    assert result["summary"]["refusals"] == 2


def test_a_wrong_checksum_is_refused(cohort: Path) -> None:
    path = find_pairs(cohort)[2].image
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    (problem,) = found(run(cohort))
    assert "the compressed data are damaged or cut off" in problem["text"]


# Faults of a cohort.


def test_a_scan_under_two_names_and_two_patients(cohort: Path) -> None:
    first, second, *_ = find_pairs(cohort)
    case, _ = read_pair(first)
    # Another file, another axis order: the same scan.
    write_nifti(second.image, case.image[::-1], case.affine @ [[-1, 0, 0, 71], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float32)
    problems = [f for f in found(run(cohort)) if f["severity"] == "refused"]
    assert {f["code"] for f in problems} >= {"duplicate", "patient"}
    assert all(f["cases"] == [first.id, second.id] for f in problems if f["code"] in ("duplicate", "patient"))


def test_a_label_map_that_is_used_twice(cohort: Path) -> None:
    first, second, *_ = find_pairs(cohort)
    assert second.label is not None
    write_nifti(second.label, read_pair(first)[0].label, read_pair(second)[0].affine, dtype=np.uint8)  # type: ignore[arg-type]
    assert "have the same label map although the scans differ" in " ".join(f["text"] for f in found(run(cohort)) if f["code"] == "duplicate")


def test_mixed_orientations(cohort: Path) -> None:
    pair = find_pairs(cohort)[3]
    case, _ = read_pair(pair)
    assert case.label is not None
    affine = case.affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:2, 3] += case.affine[:2, :2] @ [71, 71]
    for path, array in ((pair.image, case.image), (pair.label, case.label)):
        assert path is not None
        write_nifti(path, array[::-1, ::-1], affine, dtype=array.dtype)
    result = run(cohort)
    assert [(f["code"], "RAS 4, LPS 1" in f["text"]) for f in found(result)] == [("orientation", True)]
    assert result["summary"]["axes"] == {"RAS": 4, "LPS": 1}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_whole_heart_on_a_turned_grid_shows_no_fault(tmp_path: Path, axis: int) -> None:
    """What lies left, in front or above is told in the body's directions, not the grid's."""
    case = virtual_patient(11, 0, (72, 72, 100), (2.5, 2.5, 2.5))
    assert case.label is not None
    turn = np.eye(4)
    a, b = ((1, 2), (0, 2), (0, 1))[axis]
    turn[a, a] = turn[b, b] = np.cos(np.radians(35))
    turn[a, b], turn[b, a] = -np.sin(np.radians(35)), np.sin(np.radians(35))
    size, spacing = (110, 110, 110), 2.5
    affine = turn @ np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (case.affine @ [*((np.array(case.label.shape) - 1) / 2), 1])[:3] - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    image = to_grid(case.image, case.affine, affine, size)
    label = label_to_grid(case.label, case.affine, affine, size)
    for name, array, dtype in (("a.nii.gz", np.rint(image), np.int16), ("a_label.nii.gz", label, np.uint8)):
        write_nifti(tmp_path / name, array.astype(dtype), affine, dtype=dtype)
    assert [f["text"] for f in found(run(tmp_path)) if f["code"] == "anatomy"] == []


def test_a_structure_of_few_voxels_is_not_called_missing(cohort: Path) -> None:
    """On a fine grid these lie between the voxels that the checks of anatomy look at."""
    pair = find_pairs(cohort)[0]
    case, _ = read_pair(pair)
    assert case.label is not None
    fine = np.where(case.label == ID["AO"], 0, case.label).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    fine[101, 101, 101] = ID["AO"]
    affine = case.affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1.0])
    for path, array in ((pair.image, case.image.repeat(3, 0).repeat(3, 1).repeat(3, 2)), (pair.label, fine)):
        assert path is not None
        write_nifti(path, array, affine, dtype=array.dtype)
    assert not any("AO is missing" in f["text"] for f in found(run(cohort)))


def record(number: int, **changes: Any) -> dict[str, Any]:
    """A made-up case, a little unlike any other."""
    rng = np.random.default_rng(number)
    structures = {k: {"ml": float(100 * np.exp(rng.normal(0, 0.2))), "mean_hu": 300.0, "sides": ""} for k in KEYS}
    return {
        "id": f"c{number:02d}", "patient": None, "spacing_mm": [0.4, 0.4, 0.5], "axes": "LPS", "hu": {"soft_tissue": 30 + float(rng.normal(0, 5))},
        "structures": structures, "content_sha256": str(number), "label_sha256": str(number), "patient_sha256": None, "checksum": None, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"spacing_mm": [0.4, 0.4, 2.0]}, "c30: the largest voxel edge has 2 mm"),
        ({"spacing_mm": [1.2, 1.2, 0.5]}, "c30: the voxel has 0.72 mm3"),
        ({"hu": {"soft_tissue": -150.0}}, "c30: soft tissue has -150 HU"),
        ({"structures": {"LA": {"ml": 900.0, "mean_hu": 0.0, "sides": ""}}}, "c30: LA has 900 mL"),
        ({"structures": {"LA": {"ml": 3.0, "mean_hu": 0.0, "sides": ""}}}, "c30: LA has 3 mL"),
    ],
)
def test_outliers(changes: dict[str, Any], text: str) -> None:
    usual = [record(i) for i in range(30)]
    assert across(usual) == []
    seen = across([*usual, record(30, **changes)])
    assert [f.cases for f in seen if f.finding.text.startswith(text)] == [("c30",)]
    # A few cases have no usual one.
    assert across([*usual[:4], record(30, **changes)]) == []


def test_one_patient_id_is_told_unless_a_table_or_all_cases_have_it() -> None:
    two, three = ("a", "b", None), ("a", "a", None)
    shared = [record(i, patient_sha256=mark) for i, mark in enumerate(("p", "p", "q"))]
    assert [(f.finding.code, f.cases) for f in across(shared)] == [("patient", ("c00", "c01"))]
    assert across([record(i, patient_sha256=mark) for i, mark in enumerate(two)]) == []
    assert across([record(i, patient_sha256=mark) for i, mark in enumerate(three)]) == []
    assert across([{**r, "patient": f"p{i}"} for i, r in enumerate(shared)]) == []


def test_what_the_border_cuts_is_no_outlier() -> None:
    cut = {"LA": {"ml": 3.0, "mean_hu": 0.0, "sides": "I"}}
    assert across([*(record(i) for i in range(30)), record(30, structures=cut)]) == []


def nnunet(folder: Path, *, mapped: bool = False, **facts: Any) -> list[tuple[str, bool]]:
    """What is said of a data set with two cases and that dataset.json."""
    whole = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "LV": 1}, "numTraining": 2, "file_ending": ".nii.gz", **facts}
    (folder / "imagesTr").mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in whole.items() if v is not None}), encoding="utf-8")
    pairs = [PairPath(n, folder / f"imagesTr/{n}_0000.nii.gz", folder / f"labelsTr/{n}.nii.gz") for n in ("a", "b")]
    return [(f.finding.text, f.finding.refused) for f in tables(folder, pairs, mapped=mapped) if "patients with a label map" not in f.finding.text]


def test_what_nnunet_verifies(tmp_path: Path) -> None:
    assert nnunet(tmp_path) == []
    for facts, text, refused in (
        ({"numTraining": 3}, "numTraining is 3, 2 labeled cases are here", True),
        ({"file_ending": ".nrrd"}, "files of 2 cases end differently", False),
        ({"channel_names": {"0": "CT", "1": "MR"}}, "names 2 channels", True),
        ({"labels": {"background": 0, "LV": 2}}, "without a gap", False),
        ({"numTraining": None}, "lacks numTraining", False),
    ):  # fmt: skip
        ((said, level),) = nnunet(tmp_path, **facts)
        assert text in said
        assert level == refused


def test_labels_that_are_dropped_are_named(tmp_path: Path) -> None:
    labels = {"background": 0, "LV": 1, "LV_wall": 2}
    assert nnunet(tmp_path, labels=labels, mapped=True) == []
    ((said, level),) = nnunet(tmp_path, labels=labels)
    assert "no structure is named LV_wall; their voxels become background" in said
    assert not level


def test_label_maps_of_another_ending_than_dataset_json_says(tmp_path: Path) -> None:
    nnunet(tmp_path)
    pair = PairPath("a", tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii")
    found = [f for f in tables(tmp_path, [pair, replace(pair, id="b")], mapped=False) if "file_ending" in f.finding.text]
    assert [f.cases for f in found] == [("a", "b")]


def test_number_of_patients_and_their_table(tmp_path: Path) -> None:
    pairs = [PairPath(f"p{i}", tmp_path / f"p{i}.nii", tmp_path / f"p{i}_label.nii") for i in range(6)]
    assert tables(tmp_path, pairs, mapped=False) == []
    assert ["3 patients with a label map" in f.finding.text for f in tables(tmp_path, pairs[:3], mapped=False)] == [True]
    (some,) = tables(tmp_path, [*pairs, PairPath("q", tmp_path / "q.nii", None)], mapped=False)
    assert (some.cases, some.finding.refused) == (("q",), False)
    (tmp_path / "patients.csv").write_text("id,patient\np0,A\np1,B\np2,C\np3,D\np4,E\n", encoding="utf-8")
    (rest,) = tables(tmp_path, pairs, mapped=False)
    assert (rest.cases, rest.finding.refused) == (("p5",), False)


# The folder of results.


def test_nothing_is_read_twice(clean: Path, checked: Path, read: list[str]) -> None:
    before = (checked / "check.json").read_bytes()
    run(clean, checked)
    assert read == []
    assert (checked / "check.json").read_bytes() == before


def test_an_edited_file_is_read_again_and_nothing_else(cohort: Path, tmp_path: Path, read: list[str]) -> None:
    out = tmp_path / "out"
    run(cohort, out)
    read.clear()
    first, second, third, *_ = find_pairs(cohort)
    assert second.label is not None
    case, _ = read_pair(second)
    assert case.label is not None
    write_nifti(second.label, np.where(case.label == ID["LAA"], 0, case.label), case.affine, dtype=np.uint8)
    os.utime(third.image, ns=(1, 1))
    result = run(cohort, out)
    assert read == [second.id, third.id]
    assert result["cases"][1]["missing"] == ["LAA"]
    # What was known about the files as they were is gone.
    assert len(list((out / "cases").glob("*.json"))) == len(list((out / "cases").glob("*.npz"))) == 5
    for path in (first.image, first.label, cohort / "patients.csv"):
        assert path is not None
        path.unlink()
    assert len(run(cohort, out)["cases"]) == 4
    assert len(list((out / "cases").glob("*.json"))) == 4


def test_a_killed_check_goes_on(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def dies(job: Job) -> dict[str, Any]:
        if len(names) == 3:
            raise KeyboardInterrupt
        names.append(job.pair.id)
        return examine(job)

    monkeypatch.setattr(check, "examine", dies)
    with pytest.raises(KeyboardInterrupt):
        run(clean, tmp_path / "out")
    assert not (tmp_path / "out/check.json").exists()
    names.clear()
    assert len(run(clean, tmp_path / "out")["cases"]) == 5
    assert names == [p.id for p in find_pairs(clean)[3:]]


def test_refused_cases_are_read_again(cohort: Path, tmp_path: Path, read: list[str]) -> None:
    bad = find_pairs(cohort)[1]
    bad.image.write_bytes(b"")
    run(cohort, tmp_path / "out")
    read.clear()
    assert run(cohort, tmp_path / "out")["summary"]["refused"] == 1
    assert read == [bad.id]


def test_other_settings_and_other_folders_are_refused(clean: Path, checked: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(checked, tmp_path / "out"))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for options in ({"not_hu": True}, {"quick": True}, {"label_map": "1=LV"}):
        with pytest.raises(InputError, match="holds a check of other data or settings"):
            run(clean, out, **options)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    result = run(clean, out, quick=True, overwrite=True)
    assert result["settings"]["quick"]
    assert not list((out / "cases").glob("*.npz"))
    with pytest.raises(InputError, match="holds other things than a check"):
        run(clean, clean)
    with pytest.raises(InputError, match="is not a folder"):
        run(clean, out / "check.json")


def test_one_check_at_a_time(clean: Path, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(checked, tmp_path / "out"))
    with (out / "lock").open("w", encoding="utf-8") as lock:
        print(77, file=lock, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with pytest.raises(InputError, match="in use by process 77"):
                run(clean, out, overwrite=overwrite)
    assert run(clean, out, overwrite=True)["summary"]["clean"] == 5


def test_one_volume_at_a_time(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cohort's size, a case is gone before the next is read."""
    alive: list[weakref.ref[Any]] = []
    real = check_case.read_pair

    def watched(*arguments: Any, **named: Any) -> tuple[Case, list[str]]:
        assert [w for w in alive if w() is not None] == []
        case, notices = real(*arguments, **named)
        alive.extend(weakref.ref(a) for a in (case.image, case.label))
        return case, notices

    monkeypatch.setattr(check_case, "read_pair", watched)
    run(clean)
    assert len(alive) == 10


# Headers alone, one scan, and other layouts.


@pytest.mark.parametrize("quick", [False, True])
def test_a_mask_for_each_structure(clean: Path, tmp_path: Path, quick: bool) -> None:
    case, _ = read_pair(find_pairs(clean)[0])
    assert case.label is not None
    write_nifti(tmp_path / "s1/ct.nii.gz", case.image, case.affine, dtype=np.int16)
    for s in STRUCTURES:
        mask = tmp_path / "s1/segmentations" / f"{s.name.replace(' ', '_')}.nii.gz"
        write_nifti(mask, (case.label == s.id).astype(np.uint8), case.affine, dtype=np.uint8)
    result = run(tmp_path, quick=quick)
    assert (result["summary"]["refused"], result["cases"][0]["findings"]) == (0, [])
    assert quick or result["cases"][0]["missing"] == []
    write_nifti(mask, (case.label == s.id)[1:].astype(np.uint8), case.affine, dtype=np.uint8)
    (problem,) = run(tmp_path, quick=quick)["cases"][0]["findings"]
    assert (problem["code"], "shape 71 x 72 x 72 and 72 x 72 x 72" in problem["text"]) == ("grid", True)


def test_a_tilted_scan_may_have_the_label_map_that_segment_wrote(clean: Path, tmp_path: Path) -> None:
    case, _ = read_pair(find_pairs(clean)[0])
    assert case.label is not None
    tilted = case.affine.copy()
    tilted[1, 2] = 0.2 * tilted[2, 2]
    upright, size = right_angled(tilted, case.image.shape)
    write_nifti(tmp_path / "a.nii.gz", case.image, tilted, dtype=np.int16)
    write_nifti(tmp_path / "a_label.nii.gz", label_to_grid(case.label, tilted, upright, size), upright, dtype=np.uint8)
    record = run(tmp_path)["cases"][0]
    assert record["verdict"] != "refused", record["findings"]


def test_quick_says_of_how_many_cases_headers_alone_were_read(clean: Path, tmp_path: Path) -> None:
    pytest.importorskip("nrrd")
    import nrrd

    data = Path(shutil.copytree(clean, tmp_path / "cohort"))
    assert "headers alone were read: " in check_page.summary(run(data, quick=True))[-1]
    first = find_pairs(data)[0]
    case, _ = read_pair(first)
    first.image.unlink()
    directions = (np.diag([-1.0, -1.0, 1.0]) @ case.affine[:3, :3]).T
    origin = np.diag([-1.0, -1.0, 1.0]) @ case.affine[:3, 3]
    header = {"space": "left-posterior-superior", "space directions": directions, "space origin": origin}
    nrrd.write(str(first.image).replace(".nii.gz", ".nrrd"), case.image, header)
    assert "headers alone were read of 4 cases" in check_page.summary(run(data, quick=True))[-1]


def test_a_table_of_paths(clean: Path, tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("image,label\n" + "".join(f"{p.image},{p.label}\n" for p in find_pairs(clean)), encoding="utf-8")
    assert [c["verdict"] for c in run(table, quick=True)["cases"]] == ["clean"] * 5


def test_quick_reads_no_voxels(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_case, "read_pair", lambda *a, **k: pytest.fail("read voxels"))
    result = run(cohort, quick=True)
    assert found(result) == []
    assert all(c["shape"] == [72, 72, 72] and c["hu"] is None for c in result["cases"])


@pytest.mark.parametrize(
    ("change", "code"),
    [(lambda i, l, a: (i, l[:-1], a), "grid"), (lambda i, l, a: (i[:, :, :30], l[:, :, :30], a), "view")],
)
def test_quick_finds_what_headers_tell(clean: Path, tmp_path: Path, change: Change, code: str) -> None:
    assert code in [f["code"] for f in one(tmp_path, clean, change, quick=True)["findings"]]


def test_quick_finds_short_files_and_copies(cohort: Path) -> None:
    first, second, third, *_ = find_pairs(cohort)
    shutil.copy(first.image, second.image)
    # Cut off in the middle: what stands at the end is no size.
    third.image.write_bytes(third.image.read_bytes()[:-5000])
    result = run(cohort, quick=True)
    assert [f["cases"] for f in result["findings"]] == [[first.id, second.id]]
    assert "the size at its end does not fit its header" in result["cases"][2]["findings"][0]["text"]
    third.image.write_bytes(gzip.compress(b"no image"))
    assert run(cohort, quick=True)["cases"][2]["verdict"] == "refused"


def test_one_scan(clean: Path, tmp_path: Path) -> None:
    image = find_pairs(clean)[0].image
    result = run(image, tmp_path / "out")
    assert [(c["id"], c["label"], c["verdict"]) for c in result["cases"]] == [(image.name.removesuffix(".nii.gz"), None, "clean")]
    assert result["cases"][0]["picture"] is not None
    image = Path(shutil.copy(image, tmp_path / "x.nii"))
    assert "gzip-compressed" in found(run(image))[0]["text"]
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path / "none.nii")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no scans found"):
        run(tmp_path / "empty")


def test_flags_reach_the_readers(clean: Path, tmp_path: Path) -> None:
    """A label map of one's own, a file without orientation, values that are not HU."""
    case, _ = read_pair(find_pairs(clean)[0])
    assert case.label is not None
    write_nifti(tmp_path / "a.nii", case.image + 1024, case.affine, dtype=np.int16)
    write_nifti(tmp_path / "a_label.nii", case.label * 10, case.affine, dtype=np.uint8)
    for path in (tmp_path / "a.nii", tmp_path / "a_label.nii"):
        content = bytearray(path.read_bytes())
        content[252:256] = bytes(4)  # neither sform nor qform
        path.write_bytes(bytes(content))
    assert len([f for f in found(run(tmp_path)) if f["severity"] == "refused"]) == 2
    pairs = ",".join(f"{10 * i}={k}" for k, i in ID.items())
    result = run(tmp_path, label_map=pairs, assume_orientation="RAS", not_hu=True)
    assert result["summary"]["refused"] == 0
    assert result["cases"][0]["missing"] == []


@pytest.fixture(autouse=True)
def _no_traces(clean: Path) -> Iterator[None]:
    """A check never changes what it checks."""
    before = {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in clean.rglob("*")}
    yield
    assert {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in clean.rglob("*")} == before


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="--workers"):
        CheckConfig(Path(), workers=-1)
    with pytest.raises(ValueError, match="--label-map"):
        replace(CheckConfig(Path()), label_map="LV")
