"""Cohorts: real ones from disk brought to the model grid, virtual ones by seed, patients split whole."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.anatomy import ID
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import fingerprint_of
from auricle.data.cohort import FolderCohort, FolderData, VirtualCohort, VirtualData, parse_label_map, split_patients
from auricle.data.nifti import read_nifti, write_nifti
from auricle.data.preprocess import ModelGrid
from auricle.phantom import virtual_patient
from auricle.stages import cohort
from auricle.stages.cohort import CohortConfig
from auricle.stages.pairs import cohort_pairs

GRID = ModelGrid((32, 32, 32), (5.0, 5.0, 5.0))
SHAPE = {"size": GRID.size, "spacing": GRID.spacing, "margin": (0, 0, 0), "workers": 1}


def write_nnunet(folder: Path, cases: list[Case], names: dict[str, int]) -> None:
    """An nnU-Net raw data set whose label values are `names`'."""
    for case in cases:
        assert case.label is not None
        label = np.zeros_like(case.label)
        for key, value in names.items():
            label[case.label == ID[key]] = value
        write_nifti(folder / "imagesTr" / f"{case.id}_0000.nii.gz", case.image, case.affine, dtype=np.int16)
        write_nifti(folder / "labelsTr" / f"{case.id}.nii.gz", label, case.affine, dtype=np.uint8)
    labels = {"background": 0, **names}
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"})
    )


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [replace(virtual_patient(7, i, (48, 48, 44), (4.0, 4.0, 4.5)), id=f"case{i}") for i in range(5)]


def test_an_nnunet_data_set_with_its_own_values_and_partial_labels(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2, "LA": 3, "AO": 4})
    data = FolderData(tmp_path / "raw")
    loaded, _ = FolderCohort(data).load(0, GRID)
    truth = cases[0].label
    assert loaded.label is not None
    assert truth is not None
    assert set(np.unique(loaded.label)) == {0, ID["LV"], ID["MYO"], ID["LA"], ID["AO"]}
    for key in ("LV", "LA"):
        wanted = (truth == ID[key]).sum() * cases[0].voxel_ml
        assert (loaded.label == ID[key]).sum() * loaded.voxel_ml == pytest.approx(wanted, rel=0.12)
    out = cohort.run(CohortConfig(data, **SHAPE), tmp_path / "cohort")
    table = read_json(out / "cases.json")["cases"]
    assert [c["split"] for c in table].count("train") == 3
    assert table[0]["structures"] == ["MYO", "LA", "LV", "AO"]
    image, label = cohort_pairs(out, "train").plain(0)
    assert image.shape == (1, 1, 32, 32, 32)
    assert label.shape == (1, 32, 32, 32)


def test_row_33_an_edited_file_is_prepared_again_and_the_others_are_kept(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    out = cohort.run(config, tmp_path / "cohort")
    assert cohort.run(config, out) == out
    before, fingerprint = np.load(out / "images" / "case0.npy"), fingerprint_of(out)
    kept = (out / "images" / "case1.npy").stat().st_mtime_ns
    first = cases[0]
    write_nifti(tmp_path / "raw" / "imagesTr" / "case0_0000.nii.gz", first.image + np.int16(5), first.affine, dtype=np.int16)
    cohort.run(config, out)
    inside = before > -1024
    assert (np.load(out / "images" / "case0.npy")[inside] == before[inside] + 5).mean() > 0.99
    assert (out / "images" / "case1.npy").stat().st_mtime_ns == kept
    # What was trained on the cohort as it was is not taken for trained on this one.
    assert fingerprint_of(out) != fingerprint


def test_files_that_change_places_are_read_again(tmp_path: Path, cases: list[Case]) -> None:
    """Equal names, sizes and times in other folders are other files."""
    for k, case in enumerate(cases):
        write_nifti(tmp_path / f"p{k}" / "ct.nii", case.image, case.affine, dtype=np.int16)
        write_nifti(tmp_path / f"p{k}" / "seg.nii", case.label, case.affine, dtype=np.uint8)  # type: ignore[arg-type]
        for name in ("ct.nii", "seg.nii"):
            os.utime(tmp_path / f"p{k}" / name, (10**9, 10**9))

    def stamps(order: list[int]) -> tuple[str, list[str]]:
        rows = [f"{k},p{k}/ct.nii,p{j}/seg.nii" for k, j in enumerate(order)]
        (tmp_path / "c.csv").write_text("\n".join(["id,image,label", *rows]))
        os.utime(tmp_path / "c.csv", (10**9, 10**9))
        found = FolderCohort(FolderData(tmp_path / "c.csv"))
        return found.fingerprint(), [found.source(i) for i in range(len(order))]

    before, after = stamps([0, 1, 2, 3, *range(4, len(cases))]), stamps([1, 0, 2, 3, *range(4, len(cases))])
    assert after[0] != before[0]
    assert [a == b for a, b in zip(after[1], before[1], strict=True)][:4] == [False, False, True, True]


def test_labels_whose_names_mean_no_structure_are_told(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    table = tmp_path / "raw" / "dataset.json"
    facts = json.loads(table.read_text())
    facts["labels"]["RV cavity"] = 3
    table.write_text(json.dumps(facts))
    assert "RV cavity" in " ".join(FolderCohort(FolderData(tmp_path / "raw")).notices)
    assert not FolderCohort(FolderData(tmp_path / "raw", label_map="1=LV,2=MYO")).notices


def test_a_case_that_is_gone_leaves_the_cohort(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", [*cases, replace(cases[0], id="extra", image=cases[0].image + np.int16(7))], {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    out = cohort.run(config, tmp_path / "cohort")
    for path in (tmp_path / "raw").glob("*/extra*"):
        path.unlink()
    cohort.run(config, out)
    assert not list(out.glob("*/extra.*"))
    assert [c["id"] for c in read_json(out / "cases.json")["cases"]] == [c.id for c in cases]


def test_a_damaged_file_does_not_cost_the_cases_that_are_prepared(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    out = cohort.run(config, tmp_path / "cohort")
    path = tmp_path / "raw" / "imagesTr" / "case0_0000.nii.gz"
    whole, fingerprint = path.read_bytes(), fingerprint_of(out)
    kept = (out / "images" / "case1.npy").stat().st_mtime_ns
    path.write_bytes(whole[:-100])
    for _ in range(2):
        with pytest.raises(InputError, match="cut off"):
            cohort.run(config, out)
        assert fingerprint_of(out) is None
    path.write_bytes(whole)
    cohort.run(config, out)
    assert (out / "images" / "case1.npy").stat().st_mtime_ns == kept
    assert fingerprint_of(out) not in (None, fingerprint)


def test_nor_in_the_first_sitting_and_another_flag_prepares_all_again(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config, out = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE), tmp_path / "cohort"
    path = tmp_path / "raw" / "imagesTr" / f"{cases[-1].id}_0000.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="cut off"):
        cohort.run(config, out)
    first = out / "images" / f"{cases[0].id}.npy"
    kept = first.stat().st_mtime_ns
    path.write_bytes(whole)
    cohort.run(config, out)
    assert first.stat().st_mtime_ns == kept
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="cut off"):
        cohort.run(config, out)
    path.write_bytes(whole)
    coarse = replace(config, spacing=(9.0, 9.0, 9.0))
    cohort.run(coarse, out)
    assert np.array_equal(np.load(first), np.load(cohort.run(coarse, tmp_path / "other") / "images" / first.name))


def test_a_broken_preparation_resumes(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    out = cohort.run(config, tmp_path / "cohort")
    whole = read_json(out / "cases.json")
    kept = (out / "images" / "case1.npy").stat().st_mtime_ns
    for name in ("done.json", "cases.json", "records/case0.json", "images/case0.npy"):
        (out / name).unlink()
    cohort.run(config, out)
    assert read_json(out / "cases.json") == whole
    assert (out / "images" / "case1.npy").stat().st_mtime_ns == kept


def test_the_same_scan_twice_is_refused(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", [*cases, replace(cases[0], id="copy")], {"LV": 1, "MYO": 2})
    with pytest.raises(InputError, match="same scan"):
        cohort.run(CohortConfig(FolderData(tmp_path / "raw"), **SHAPE), tmp_path / "cohort")


def test_row_20_one_patient_id_in_two_splits_is_refused(tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two phases of one patient, as two folders of DICOM files; before anything is prepared."""
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    splits = split_patients(FolderCohort(config.data).patients, config.shares, config.seed)
    a, b = cases[splits.index("train")].id, cases[splits.index("test")].id
    ids = {c.id: c.id for c in cases}

    def mark(path: Path) -> str | None:
        return ids[path.name.removesuffix("_0000.nii.gz")] or None

    monkeypatch.setattr("auricle.data.cohort.patient_mark", mark)
    FolderCohort(config.data).check_patients(splits)
    ids |= {a: "P", b: "P"}
    with pytest.raises(InputError, match=r"\((train|test)\) and .* have the same PatientID: say in patients\.csv, or in the column"):
        cohort.run(config, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()
    # What anonymization wrote everywhere is nobody; and a table knows better.
    ids |= dict.fromkeys(ids, "ANON") | {cases[4].id: ""}
    FolderCohort(config.data).check_patients(splits)
    ids |= {c.id: c.id for c in cases} | {a: "P", b: "P"}
    (tmp_path / "raw" / "patients.csv").write_text(f"id,patient\n{a},one\n{b},two\n")
    FolderCohort(config.data).check_patients(splits)


def test_more_processes_change_no_cohort(tmp_path: Path, cases: list[Case]) -> None:
    """Out of memory, a cohort goes on with fewer."""
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    out = cohort.run(config, tmp_path / "cohort")
    before = (out / "done.json").stat().st_mtime_ns
    cohort.run(replace(config, workers=2), out)
    assert (out / "done.json").stat().st_mtime_ns == before
    for name in ("done.json", "cases.json", "records/case0.json"):
        (out / name).unlink()
    cohort.run(replace(config, workers=2), out)
    assert (out / "done.json").exists()


@pytest.mark.parametrize(("split", "way_out"), [("train", "is --label-map right"), ("validation", "label them or remove them")])
def test_a_split_in_which_nothing_is_labeled_is_refused(tmp_path: Path, cases: list[Case], split: str, way_out: str) -> None:
    """Early stopping would keep the first weights it sees, and the audit of copies would have nothing to go by."""
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    splits = split_patients(tuple(sorted(c.id for c in cases)), config.shares, config.seed)
    for name, own in zip(sorted(c.id for c in cases), splits, strict=True):
        if own == split:
            path = tmp_path / "raw" / "labelsTr" / f"{name}.nii.gz"
            values, affine, _ = read_nifti(path)
            write_nifti(path, values * 0, affine, dtype=np.uint8)
    with pytest.raises(InputError, match=rf"no label map of the \d+ cases of the {split} split shows a structure; {way_out}"):
        cohort.run(config, tmp_path / "cohort")
    assert not (tmp_path / "cohort" / "cases.json").exists()
    # Once the label maps are there, what was prepared is no hindrance.
    write_nnunet(tmp_path / "raw", cases, {"LV": 1, "MYO": 2})
    assert len(read_json(cohort.run(config, tmp_path / "cohort") / "cases.json")["cases"]) == 5


def test_too_few_cases_are_refused(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases[:3], {"LV": 1})
    with pytest.raises(InputError, match="3 cases with a label map; at least 4"):
        FolderCohort(FolderData(tmp_path / "raw"))
    with pytest.raises(ValueError, match=r"--data\.patients"):
        VirtualData(patients=3)


def test_label_maps_are_parsed() -> None:
    assert parse_label_map("500=LV, 600=rv,7=0") == {500: ID["LV"], 600: ID["RV"], 7: 0}
    for bad in ("LV", "1=XX", "a=LV", "", "1=LV,1=RV", "0=LV"):
        with pytest.raises(ValueError, match="--label-map"):
            parse_label_map(bad)


def test_a_virtual_patient_is_the_same_whatever_the_count() -> None:
    few, many = VirtualCohort(VirtualData(patients=4, seed=2)), VirtualCohort(VirtualData(patients=9, seed=2))
    a, b = few.load(1, GRID)[0], many.load(1, GRID)[0]
    assert a.id == b.id
    assert np.array_equal(a.image, b.image)
    assert few.fingerprint() != many.fingerprint()


@given(count=st.integers(4, 60), scans=st.integers(1, 3), seed=st.integers(0, 5), shares=st.tuples(*[st.floats(0.1, 100.0)] * 3))
def test_every_patient_lies_in_one_split(count: int, scans: int, seed: int, shares: tuple[float, float, float]) -> None:
    patients = tuple(f"p{i}" for i in range(count) for _ in range(scans))
    splits = split_patients(patients, shares, seed)
    places = {p: {s for q, s in zip(patients, splits, strict=True) if q == p} for p in patients}
    assert all(len(v) == 1 for v in places.values())
    assert set(splits) == {"train", "validation", "test"}
    assert sum(v == {"train"} for v in places.values()) >= 2
    assert splits == split_patients(patients, shares, seed)


def test_a_refused_cohort_can_be_run_again_with_the_flag_it_asks_for(tmp_path: Path, cases: list[Case]) -> None:
    bright = [replace(c, image=(c.image.astype(int) + 1024).clip(0, 4095).astype(np.int16)) for c in cases]
    write_nnunet(tmp_path / "raw", bright, {"LV": 1, "MYO": 2})
    config = CohortConfig(FolderData(tmp_path / "raw"), **SHAPE)
    with pytest.raises(InputError, match="--not-hu"):
        cohort.run(config, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()
    again = replace(config, data=FolderData(tmp_path / "raw", not_hu=True))
    assert (cohort.run(again, tmp_path / "cohort") / "cases.json").exists()


def test_patients_that_name_no_scan_are_refused(tmp_path: Path, cases: list[Case]) -> None:
    write_nnunet(tmp_path / "raw", cases, {"LV": 1})
    (tmp_path / "raw" / "patients.csv").write_text("id,patient\ncase0,A\ncase9,A\n")
    with pytest.raises(InputError, match="no scan is named case9"):
        FolderCohort(FolderData(tmp_path / "raw"))
    (tmp_path / "raw" / "patients.csv").write_text("id,patient\ncase0,A \ncase1, A\n")
    assert FolderCohort(FolderData(tmp_path / "raw")).patients[:3] == ("A", "A", "case2")
