"""Segmenting many scans: each as if it were alone, what is done is not done again, what fails does not stop the rest; and every format."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auricle import cli
from auricle.core.anatomy import ID, KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.core.runs import Run
from auricle.data import outputs, volume_files
from auricle.data.nifti import read_nifti, write_nifti
from auricle.data.reading import read_scan
from auricle.metrics import overlap
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.phantom import virtual_patient
from auricle.stages import batch, segment
from auricle.stages.pairs import Grid
from auricle.stages.weights import save_model

DICOM = bytes(128) + b"DICM"
"""How a DICOM file begins."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained segmenter: it finds no heart, quickly."""
    return untrained(tmp_path_factory.mktemp("model") / "ours")


def untrained(folder: Path, seed: int = 0) -> Path:
    """A segmenter with random weights in a finished run folder."""
    run = Run(folder, "finetune", {}, {})
    run.begin()
    torch.manual_seed(seed)
    config = SegmenterConfig(channels=(4, 8))
    save_model(run, Segmenter(config, outputs=9), {"network": config, "grid": Grid((16, 16, 16), (8.0, 8.0, 8.0)), "patch": None, "mirrored": False})
    run.finish()
    return folder


@pytest.fixture(scope="module")
def patient() -> Case:
    """A virtual patient whose scan fits into the window of the segmenter that ships."""
    return virtual_patient(4711, 100, (60, 60, 56), (3.0, 3.0, 3.0), contrast="chase", pathology=False)


def write_scans(folder: Path, names: tuple[str, ...]) -> Path:
    """Small volumes of noise, each its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = np.random.default_rng(list(name.encode())).normal(-100, 300, (12, 12, 12)).astype(np.int16)
        (folder / name).parent.mkdir(exist_ok=True)
        write_nifti(folder / name, noise, np.diag([4.0, 4.0, 4.0, 1.0]), dtype=np.int16)
    return folder


def write_dicom(folder: Path, case: Case, uid: str = "1.2.3.4") -> Path:
    """The scan as a DICOM series: columns run to the left, rows to the back, as scanners write them."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True)
    x, y, z = case.image.shape
    flipped = case.image[::-1, ::-1]
    first = case.affine @ [x - 1, y - 1, 0, 1]
    for n in range(z):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = f"{uid}.{n + 1}", pydicom.uid.ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{uid}.8", uid, f"{uid}.9"
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = y, x, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.ImagePositionPatient = [-first[0], -first[1], first[2] + n * case.spacing[2]]
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [case.spacing[1], case.spacing[0]]
        ds.RescaleSlope, ds.RescaleIntercept, ds.PatientName = 1, 0, "Doe^Jane"
        ds.PixelData = np.ascontiguousarray(flipped[:, :, n].T).tobytes()
        ds.save_as(folder / f"{z - n:03d}.dcm")
    return folder


def run(*arguments: Any) -> None:
    cli.main(["segment", *map(str, arguments), "--quiet"])


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_a_folder_of_scans_gives_a_folder_each_and_one_table(model: Path, tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "scans", ("a.nii.gz", "deep/b.nii", "c.nii.gz"))
    run(scans, "-o", tmp_path / "out", "--model", model)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b", "c", "summary.json", "volumes.csv"]
    run(scans / "a.nii.gz", "-o", tmp_path / "alone", "--model", model)
    for path in (tmp_path / "alone").iterdir():
        if path.name != "segmentation.json":
            assert path.read_bytes() == (tmp_path / "out" / "a" / path.name).read_bytes(), path.name
    with (tmp_path / "out" / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["scan"], r["structure"]) for r in rows] == [(n, k) for n in "acb" for k in KEYS]
    found = summary(tmp_path / "out")
    assert (found["done"], found["skipped"], found["failed"]) == (3, 0, 0)
    assert all(s["heart_found"] is False for s in found["scans"])


def test_a_failed_scan_is_one_line_and_the_rest_goes_on(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = write_scans(tmp_path / "scans", ("a.nii.gz", "b.nii.gz", "c.nii.gz"))
    (scans / "b.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes()[:-900])
    with pytest.raises(SystemExit) as stop:
        run(scans, "-o", tmp_path / "out", "--model", model)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum("b.nii.gz" in line and "failed" in line for line in lines) == 1
    assert "1 of 3 scans failed (b)" in lines[-1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "c", "summary.json", "volumes.csv"]
    assert [s["status"] for s in summary(tmp_path / "out")["scans"]] == ["done", "failed", "done"]
    write_scans(scans, ("d.nii.gz",))
    with pytest.raises(SystemExit):
        run(scans, "-o", tmp_path / "out", "--model", model, "--json")
    events = [e for e in map(json.loads, capsys.readouterr().out.splitlines()) if e["event"] == "scan"]
    found = {e["name"]: (e["status"], e["heart_found"]) for e in events}
    assert found == {"a": ("skipped", False), "b": ("failed", None), "c": ("skipped", False), "d": ("done", False)}


def test_what_a_failed_scan_left_before_still_counts(model: Path, tmp_path: Path) -> None:
    """Another format is another result, so both scans are refused; the table goes on saying what lies in the folder."""
    scans, out = write_scans(tmp_path / "scans", ("a.nii.gz", "b.nii.gz")), tmp_path / "out"
    run(scans, "-o", out, "--model", model)
    before = (out / "volumes.csv").read_bytes()
    with pytest.raises(SystemExit):
        run(scans, "-o", out, "--model", model, "--format", "nifti", "nifti-structures")
    assert (out / "volumes.csv").read_bytes() == before
    assert [(s["name"], s["status"]) for s in summary(out)["scans"]] == [("a", "failed"), ("b", "failed"), ("a", "kept"), ("b", "kept")]


def test_what_cannot_be_read_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, or a folder, that another user owns among many scans."""
    scans = write_scans(tmp_path / "in", ("a.nii.gz", "p1/b.nii.gz"))
    for name in ("p2", "p3"):
        (scans / name).mkdir()
        (scans / name / "0001.dcm").write_bytes(b"locked")
    real_open, real_iterdir = batch.is_dicom, Path.iterdir

    def locked_file(path: Path) -> bool:
        if path.parent.name == "p2":
            raise InputError(f"{path}: cannot be read (Permission denied)")
        return real_open(path)

    def locked_folder(path: Path) -> Any:
        if path.name == "p3":
            raise PermissionError(13, "Permission denied", str(path))
        return real_iterdir(path)

    monkeypatch.setattr(batch, "is_dicom", locked_file)
    monkeypatch.setattr(Path, "iterdir", locked_folder)
    found, many = batch.find_scans([scans], None, None, tmp_path / "out")
    assert many
    assert [s.name for s in found] == ["a", "b", "p2", "p3"]


def test_results_of_several_models_can_be_told_apart(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans, out = write_scans(tmp_path / "in", ("a.nii.gz", "b.nii.gz")), tmp_path / "out"
    for name, weights in (("a", model), ("b", untrained(tmp_path / "other", seed=1))):
        (tmp_path / f"{name}.txt").write_text(f"{scans / name}.nii.gz\n")
        run("--list", tmp_path / f"{name}.txt", "-o", out, "--model", weights)
    with (out / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(r["scan"], r["model"]) for r in rows}) == len({r["model"] for r in rows}) == 2
    assert {r["heart_found"] for r in rows} <= {"yes", "no"}
    assert "several models or versions" in capsys.readouterr().err


def test_the_same_command_resumes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after the first scan, with the rest of the second lying about: the first is kept, and the end is as if nothing had happened."""
    scans = write_scans(tmp_path / "scans", ("a.nii.gz", "b.nii.gz"))
    real, seen = segment.segment_file, []

    def breaking(trained: Any, stage: Any, *rest: Any) -> Any:
        seen.append(stage.scan.name)
        if len(seen) == 2:
            rest[1].mkdir(parents=True)
            raise KeyboardInterrupt
        return real(trained, stage, *rest)

    monkeypatch.setattr(segment, "segment_file", breaking)
    with pytest.raises(SystemExit) as stop:
        run(scans, "-o", tmp_path / "out", "--model", model)
    assert stop.value.code == 130
    assert summary(tmp_path / "out")["left"] == 1
    monkeypatch.setattr(segment, "segment_file", lambda *a: (seen.append(a[1].scan.name), real(*a))[1])
    before = (tmp_path / "out" / "a" / "volumes.csv").stat().st_mtime_ns
    run(scans, "-o", tmp_path / "out", "--model", model)
    assert seen == ["a.nii.gz", "b.nii.gz", "b.nii.gz"]
    assert (tmp_path / "out" / "a" / "volumes.csv").stat().st_mtime_ns == before
    assert [s["status"] for s in summary(tmp_path / "out")["scans"]] == ["skipped", "done"]
    assert not (tmp_path / "out" / batch.WORK).exists()


@pytest.mark.parametrize("change", ["scan", "options"])
def test_results_of_something_else_are_kept_unless_asked(model: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    scans = write_scans(tmp_path / "scans", ("a.nii.gz", "b.nii.gz"))
    arguments = [scans, "-o", tmp_path / "out", "--model", model]
    run(*arguments)
    if change == "scan":
        write_nifti(scans / "a.nii.gz", np.full((9, 9, 9), -500, np.int16) + np.arange(9, dtype=np.int16) * 50, np.eye(4), dtype=np.int16)
    else:
        arguments += ["--format", "nifti-structures"]
    label = (tmp_path / "out" / "a" / "labels.nii.gz").read_bytes()
    with pytest.raises(SystemExit):
        run(*arguments)
    assert "holds the result of another scan, model, version or options" in capsys.readouterr().err
    assert (tmp_path / "out" / "a" / "labels.nii.gz").read_bytes() == label
    run(*arguments, "--overwrite")
    if change == "scan":
        assert read_nifti(tmp_path / "out" / "a" / "labels.nii.gz")[0].shape == (9, 9, 9)
        assert [s["status"] for s in summary(tmp_path / "out")["scans"]] == ["done", "skipped"]
    else:
        # A label map of other options must not stay beside the new description.
        assert not (tmp_path / "out" / "a" / "labels.nii.gz").exists()
        assert sorted(p.name for p in (tmp_path / "out" / "a" / "structures").iterdir()) == sorted(f"{k}.nii.gz" for k in KEYS)


def test_one_result_and_many_do_not_share_a_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = write_scans(tmp_path / "scans", ("a.nii.gz", "b.nii.gz"))
    for first, second, out in ((scans, scans / "a.nii.gz", tmp_path / "many"), (scans / "a.nii.gz", scans, tmp_path / "one")):
        run(first, "-o", out, "--model", model)
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        with pytest.raises(SystemExit):
            run(second, "-o", out, "--model", model, "--overwrite")
        assert "choose another --out" in capsys.readouterr().err
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_the_digest_follows_all_that_a_scan_is_read_from(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.mhd", "a.raw", "series/1", "series/2", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DICOM + name.encode())
    (tmp_path / "a.mhd").write_text("ElementDataFile = a.raw\n")
    scans, out = [tmp_path / n for n in ("a.nii.gz", "a.mhd", "series", "series/1")], tmp_path / "series" / "out"
    out.mkdir()
    before = [volume_files.content_digest(p, out) for p in scans]
    # Neither results nor what no scan is read from count.
    for changed, wanted in (
        ("a.raw", [1]), ("series/2", [2, 3]), ("other", []), ("a.nii.gz", [0]), ("series/out/seg.dcm", []), ("series/.DS_Store", []),
    ):  # fmt: skip
        (tmp_path / changed).write_bytes((b"" if "DS_Store" in changed else DICOM) + b"new" + changed.encode())
        after = [volume_files.content_digest(p, out) for p in scans]
        assert [i for i in range(4) if after[i] != before[i]] == wanted
        before = after


def test_one_file_stands_for_its_series_in_the_digest(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for name, uid in (("a1", "1.2.3"), ("a2", "1.2.3"), ("b1", "1.2.8")):
        dataset = pydicom.Dataset()
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uid, f"1.2.{ord(name[0])}{name[1]}"
        dataset.SOPClassUID, dataset.file_meta = pydicom.uid.CTImageStorage, pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        pydicom.dcmwrite(tmp_path / name, dataset, enforce_file_format=True)
    first, second, other = (volume_files.content_digest(tmp_path / n, tmp_path / "out") for n in ("a1", "a2", "b1"))
    assert first == second != other


def test_lists_and_names(tmp_path: Path) -> None:
    """Paths start at the list's folder; the same file name in two folders gives two names; the output is no input."""
    write_scans(tmp_path / "x", ("p1/ct.nii.gz", "p2/ct.nii.gz"))
    (tmp_path / "list.txt").write_text("# two scans\nx/p1/ct.nii.gz\n\nx/p2/ct.nii.gz\n")
    found, many = batch.find_scans([], tmp_path / "list.txt", None, tmp_path / "out")
    assert many
    assert [s.name for s in found] == ["p1_ct", "p2_ct"]
    (tmp_path / "list.csv").write_text("scan,name,series\nx/p1/ct.nii.gz,first,7\nx/p2/ct.nii.gz,,\n")
    found, _ = batch.find_scans([], tmp_path / "list.csv", None, tmp_path / "out")
    assert [(s.name, s.series) for s in found] == [("first", "7"), ("ct", None)]
    found, _ = batch.find_scans([], tmp_path / "list.csv", "3", tmp_path / "out")
    assert [(s.name, s.series) for s in found] == [("first", "7"), ("ct", "3")]
    inside, _ = batch.find_scans([tmp_path / "x"], None, None, tmp_path / "x" / "p2")
    assert [s.path.parent.name for s in inside] == ["p1"]
    twice, many = batch.find_scans([tmp_path / "x" / "p1" / "ct.nii.gz"] * 2, None, None, tmp_path / "out")
    assert (len(twice), many) == (1, False)
    for text, message in (("name\na\n", "needs the columns scan"), ("scan,name\nx,../y\n", "cannot be the name"), ("scan\n", "lists no scans")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            batch.find_scans([], tmp_path / "bad.csv", None, tmp_path / "out")
    with pytest.raises(InputError, match="no scan given"):
        batch.find_scans([], None, None, tmp_path / "out")


def test_label_maps_beside_their_scans_are_no_scans(tmp_path: Path) -> None:
    names = ("a.nii.gz", "a_label.nii.gz", "b_img.nii.gz", "b_seg.nii.gz", "c_0000.nii.gz", "c_seg.nii.gz", "left_label.nii.gz")
    nnunet = ("d/imagesTr/c_0000.nii.gz", "d/labelsTr/c.nii.gz", "e/labelsTr/c.nii.gz", "f/images/x.nii.gz", "f/labels/x.nii.gz",
              "g/ct.nii.gz", "g/segmentations/aorta.nii.gz")  # fmt: skip
    for name in (*names, *nnunet):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found, _ = batch.find_scans([tmp_path], None, None, tmp_path / "out")
    # Without its scan beside it, the name is no reason to leave a file out.
    assert [str(s.path.relative_to(tmp_path)) for s in found] == [
        "a.nii.gz", "b_img.nii.gz", "c_0000.nii.gz", "d/imagesTr/c_0000.nii.gz", "e/labelsTr/c.nii.gz", "f/images/x.nii.gz", "g/ct.nii.gz",
        "left_label.nii.gz",
    ]  # fmt: skip
    given, _ = batch.find_scans([tmp_path / "a_label.nii.gz"], None, None, tmp_path / "out")
    assert len(given) == 1


def test_folders_of_dicom_series_are_scans(tmp_path: Path, patient: Case) -> None:
    small = Case("s", patient.image[:8, :8, :3], patient.affine)
    for name, uid in (("one", "1.2.1"), ("two", "1.2.2")):
        write_dicom(tmp_path / "study" / name / "ct", small, uid)
    found, many = batch.find_scans([tmp_path / "study"], None, None, tmp_path / "out")
    assert many
    assert [s.name for s in found] == ["one_ct", "two_ct"]
    for given, series in (("one", None), ("one/ct", None), ("study", "1.2.2")):
        path = tmp_path / "study" if given == "study" else tmp_path / "study" / given
        found, many = batch.find_scans([path], None, series, tmp_path / "out")
        assert ([s.path for s in found], many) == ([path], False)


def test_a_series_among_many_other_files_is_a_scan(tmp_path: Path, patient: Case) -> None:
    """A disk that a Mac wrote to holds a ._ file beside every slice, and viewers leave previews."""
    small = Case("s", patient.image[:8, :8, :3], patient.affine)
    write_dicom(tmp_path / "p1", small)
    for n in range(30):
        (tmp_path / "p1" / f"._{n}").write_bytes(b"x")
        (tmp_path / "p1" / f"0_{n}.jpg").write_bytes(b"x")
    write_scans(tmp_path, ("p2.nii.gz", "P3.NII.GZ"))
    found, many = batch.find_scans([tmp_path], None, None, tmp_path / "out")
    assert (sorted(s.name for s in found), many) == (["P3", "p1", "p2"], True)


def test_files_of_one_series_are_one_scan(tmp_path: Path, patient: Case) -> None:
    """As a shell gives them for study/*.dcm."""
    small = Case("s", patient.image[:8, :8, :3], patient.affine)
    for name, uid in (("one", "1.2.1"), ("two", "1.2.2")):
        write_dicom(tmp_path / name, small, uid)
    files = sorted(tmp_path.glob("*/*.dcm"))
    found, many = batch.find_scans(files, None, None, tmp_path / "out")
    assert (len(files), len(found), many) == (6, 2, True)
    assert batch.find_scans(files[:3], None, None, tmp_path / "out")[1] is False
    # One that is damaged fails by itself later, and ends nothing here.
    files[3].write_bytes(bytes(128) + b"DICM" + bytes(range(200)))
    assert len(batch.find_scans(files, None, None, tmp_path / "out")[0]) == 3


def test_patients_without_the_uid_of_a_series_stay_apart(tmp_path: Path, patient: Case) -> None:
    """And a series that is a link, or lies beside an earlier result, is found as it is."""
    pydicom = pytest.importorskip("pydicom")
    small = Case("s", patient.image[:8, :8, :3], patient.affine)
    for name in ("p1", "p2"):
        for path in write_dicom(tmp_path / "in" / name, small, f"1.2.{name[1]}").iterdir():
            header = pydicom.dcmread(path)
            del header.SeriesInstanceUID
            header.save_as(path)
    assert [s.name for s in batch.find_scans([tmp_path / "in"], None, None, tmp_path / "out")[0]] == ["p1", "p2"]
    result = tmp_path / "in" / "first" / "p1"
    result.mkdir(parents=True)
    (result / "segmentation.json").write_text("{}")
    shutil.copy(next((tmp_path / "in" / "p1").iterdir()), result / "segmentation.dcm")
    assert [s.name for s in batch.find_scans([tmp_path / "in"], None, None, tmp_path / "out")[0]] == ["p1", "p2"]
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "series").symlink_to(tmp_path / "in" / "p1")
    (found,), _ = batch.find_scans([tmp_path / "study"], None, None, tmp_path / "out")
    assert read_scan(found.path)[0].image.shape == small.image.shape


def test_results_are_no_scans_and_one_scan_counts_once(model: Path, tmp_path: Path) -> None:
    """Results that lie among the scans; and a pilot's, which the scan's other name among many would double."""
    scans = write_scans(tmp_path / "scans", ("p1/ct.nii.gz", "p2/ct.nii.gz"))
    run(scans / "p1", "-o", scans / "first", "--model", model)
    run(scans, "-o", tmp_path / "link" / ".." / "scans" / "first", "--model", model)
    found = summary(scans / "first")
    assert [s["name"] for s in found["scans"]] == ["p1_ct", "p2_ct"]
    run(scans, "-o", scans / "second", "--model", model)
    assert summary(scans / "second")["failed"] == 0


def test_a_dicom_series_and_the_same_scan_as_nifti_get_the_same_labels(
    patient: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every format says the same of it."""
    monkeypatch.setattr(outputs, "OVERLAYS", 2)
    highdicom, trimesh = pytest.importorskip("highdicom"), pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    write_nifti(tmp_path / "scan.nii.gz", patient.image, patient.affine, dtype=np.int16)
    series = write_dicom(tmp_path / "series", patient)
    formats = ["--format", "nifti", "nifti-structures", "dicom-seg", "stl", "glb", "overlays"]
    run(tmp_path / "scan.nii.gz", "-o", tmp_path / "a")
    run(series, "-o", tmp_path / "b", *formats)
    (one, affine, _), (two, there, _) = (read_nifti(tmp_path / n / "labels.nii.gz") for n in "ab")
    assert np.array_equal(one, two[::-1, ::-1])
    assert np.allclose(there @ [*(np.array(one.shape[:2]) - 1), 0, 1], affine @ [0, 0, 0, 1])
    assert patient.label is not None
    assert (overlap.average([overlap.dice(one.astype(np.uint8), patient.label)])["mean"] or 0) > 0.8
    for key in KEYS:
        mask, _, _ = read_nifti(tmp_path / "b" / "structures" / f"{key}.nii.gz")
        assert np.array_equal(mask, two == ID[key])
        volume = trimesh.load(tmp_path / "b" / "meshes" / f"{key}.stl").volume / 1000
        assert volume == pytest.approx((one == ID[key]).sum() * patient.voxel_ml, rel=0.1)
    seg = highdicom.seg.segread(tmp_path / "b" / "segmentation.dcm")
    planes = seg.get_volume(combine_segments=True, rescale_fractional=False).match_geometry(
        highdicom.volume.Volume(two.transpose(2, 1, 0), lps(there), "PATIENT"))  # fmt: skip
    assert np.array_equal(planes.array, two.transpose(2, 1, 0))
    assert "Doe" not in str(seg.PatientName)
    described = json.loads((tmp_path / "b" / "segmentation.json").read_text())
    assert set(described["structures"]) == set(KEYS)
    assert all(0.5 < v <= 1 for v in described["structures"].values())
    assert len(list((tmp_path / "b" / "overlays").iterdir())) == 2
    assert (tmp_path / "b" / "heart.glb").stat().st_size > 10_000
    run(shutil.make_archive(str(tmp_path / "zipped"), "zip", series), "-o", tmp_path / "c", "--format", "dicom-seg")
    zipped = highdicom.seg.segread(tmp_path / "c" / "segmentation.dcm")
    assert np.array_equal(zipped.pixel_array, seg.pixel_array)
    assert zipped.ReferencedSeriesSequence == seg.ReferencedSeriesSequence


def lps(affine: Any) -> Any:
    """RAS affine [column, row, slice] as highdicom's LPS affine [slice, row, column]."""
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return turned[:, [2, 1, 0, 3]]


@pytest.mark.parametrize(("fields", "options", "message"), [
    ({"FrameOfReferenceUID": None}, (), "lacks FrameOfReferenceUID"), ({"PatientSex": "FEMALE"}, ("--keep-patient",), "cannot refer to it"),
])  # fmt: skip
def test_a_series_to_which_nothing_can_refer_is_refused_before_it_is_segmented(
    fields: dict[str, Any], options: tuple[str, ...], message: str,
    model: Path, tmp_path: Path, patient: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    folder = write_dicom(tmp_path / "ct", Case("s", patient.image[:8, :8, :3], patient.affine), "1.2.1")
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        for name, value in fields.items():
            setattr(header, name, value) if value is not None else delattr(header, name)
        header.save_as(path)
    monkeypatch.setattr(segment, "segment", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(SystemExit):
        run(folder, "-o", tmp_path / "out", "--model", model, "--format", "nifti", "dicom-seg", *options)
    told = capsys.readouterr().err
    assert message in told
    assert "take --format nifti" in told
    assert str(folder) in told
    assert not (tmp_path / "out").exists()


def test_a_dicom_segmentation_of_a_nifti_file_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = write_scans(tmp_path, ("a.nii.gz",))
    with pytest.raises(SystemExit):
        run(scans / "a.nii.gz", "-o", tmp_path / "out", "--model", model, "--format", "dicom-seg")
    error = capsys.readouterr().err
    assert "must refer to the images of a DICOM series" in error
    shutil.make_archive(str(tmp_path / "zipped"), "zip", scans)
    with pytest.raises(SystemExit):
        run(tmp_path / "zipped.zip", "-o", tmp_path / "out", "--model", model, "--format", "dicom-seg")
    assert f"{tmp_path / 'zipped.zip'}: " in capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_something_else_are_left_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither --overwrite nor many scans replace what no segmentation wrote."""
    scans = write_scans(tmp_path / "in", ("a.nii.gz", "b.nii.gz"))
    mine = tmp_path / "mine"
    (mine / "structures").mkdir(parents=True)
    (mine / "structures" / "own.txt").write_text("keep")
    (mine / "volumes.csv").write_text("keep")
    for arguments in ([str(scans / "a.nii.gz"), "--overwrite"], [str(scans)], [str(scans), "--overwrite"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["segment", *arguments, "-o", str(mine), "--model", str(model), "--quiet"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "choose another --out" in error
    assert (mine / "structures" / "own.txt").read_text() == (mine / "volumes.csv").read_text() == "keep"
    assert sorted(p.name for p in mine.iterdir()) == ["structures", "volumes.csv"]


def test_a_folder_that_is_given_is_written_within(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a disk of its own in a place that cannot be written, such as a volume in a container."""
    scans, out = write_scans(tmp_path / "in", ("a.nii.gz",)), tmp_path / "mounted" / "out"
    out.mkdir(parents=True)
    real = os.replace

    def across_disks(a: Any, b: Any) -> None:
        if (out in Path(a).parents) != (out in Path(b).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(a, b)

    monkeypatch.setattr(os, "replace", across_disks)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == out)
    for _ in range(2):
        run(scans / "a.nii.gz", "-o", out, "--model", model, "--overwrite")
        assert (out / "labels.nii.gz").exists()
        assert [p.name for p in out.parent.iterdir()] == ["out"]
        assert not list(out.glob(".*"))


def test_a_replacement_that_is_killed_can_be_repeated(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, out = write_scans(tmp_path / "in", ("a.nii.gz",)), tmp_path / "out"
    arguments = (scans / "a.nii.gz", "-o", out, "--model", model, "--format", "nifti", "nifti-structures")
    run(*arguments)
    before = {p.relative_to(out): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    whole = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    # The same again is there already; what another option made is replaced.
    run(*arguments, "--overwrite")
    assert {p.relative_to(out): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    run(*arguments, "--not-hu", "--overwrite")
    real, moved = os.replace, list[Any]()

    def killed(a: Any, b: Any) -> None:
        if Path(b).parent == out and Path(b).name != "segmentation.json":
            moved.append(b)
            if len(moved) == 2:
                raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        run(*arguments, "--overwrite")
    assert json.loads((out / "segmentation.json").read_text()) == {"replacing": True}
    monkeypatch.setattr(os, "replace", real)
    run(*arguments, "--overwrite")
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == whole


def test_a_second_process_is_refused_before_it_computes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans, out = write_scans(tmp_path / "in", ("a.nii.gz",)), tmp_path / "out"
    (tmp_path / f".{os.getppid()}.out").mkdir()
    with pytest.raises(SystemExit) as stop:
        run(scans / "a.nii.gz", "-o", out, "--model", model)
    assert stop.value.code == 2
    assert f"is being written by process {os.getppid()}" in capsys.readouterr().err
    assert not out.exists()


def test_what_another_process_wrote_meanwhile_is_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, out = write_scans(tmp_path / "in", ("a.nii.gz",)), tmp_path / "out"
    real = segment.segment

    def slow(*args: Any, **kwargs: Any) -> segment.Segmentation:
        out.mkdir()
        (out / "theirs.txt").write_text("keep")
        return real(*args, **kwargs)

    monkeypatch.setattr(segment, "segment", slow)
    with pytest.raises(InputError, match="another process wrote it"):
        segment.run(segment.SegmentStage(scans / "a.nii.gz", model), out)
    assert [p.name for p in out.iterdir()] == ["theirs.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
