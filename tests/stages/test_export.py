"""Pairs that go out: the same voxels in every format, nothing about any patient, and whole or not at all."""

import csv
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle import __version__
from auricle.core.anatomy import ID, KEYS
from auricle.core.checksums import verify_checksums
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import Run
from auricle.data import outputs
from auricle.data.dicom import read_dicom, source_images
from auricle.data.folder import find_pairs, read_pair
from auricle.data.labels import read_label
from auricle.data.nifti import read_nifti, write_nifti
from auricle.data.preprocess import ModelGrid
from auricle.stages import export, export_pairs, fold
from auricle.stages.export import ExportStage
from auricle.stages.fold import FoldStage
from auricle.stages.pairs import cohort_pairs

GRID = ModelGrid((9, 8, 7), (5.0, 4.0, 3.5))
PATIENT = "DOE^JANE_1944-05-06"
"""What a training case of a careless hospital may be called."""
IDS = ("generated-3-0000", "generated-3-0002")


def pair(index: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    generator = np.random.default_rng(index)
    return generator.integers(-1000, 1001, GRID.size).astype(np.int16), generator.integers(0, 9, GRID.size).astype(np.uint8)


def record(name: str, **changes: Any) -> dict[str, Any]:
    """What `auricle generate` records of a pair that was made from a patient's conditions."""
    return {
        "id": name, "requested": {"sex": "F", "phase": 0.8731, "volumes_ml": {"LAA": 12.0}}, "faults_before": [], "faults": [], "copy": False,
        "nearest": {"case": PATIENT, "score": 0.4}, "complete": True, "volumes_ml": {}, "kept": True, **changes,
    }  # fmt: skip


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A finished generation of three pairs, of which the second is a copy of a training case."""
    folder = tmp_path / "generated"
    run = Run(folder, "generate", {"cohort": f"/home/{PATIENT}/cohort", "seed": 3}, {"cohort": "f" * 64, "diffusion": "d" * 64})
    run.begin()
    names = [f"generated-3-{i:04d}" for i in range(3)]
    for i, name in enumerate(names):
        image, label = pair(i)
        write_nifti(folder / "images" / f"{name}.nii.gz", image, GRID.affine(np.zeros(3)), dtype=np.int16)
        write_nifti(folder / "labels" / f"{name}.nii.gz", label, GRID.affine(np.zeros(3)), dtype=np.uint8)
    copied = {"copy": True, "faults": [f"it is a copy of training case {PATIENT}"]}
    write_json(folder / "pairs.json", {
        "synthetic": True, "size": GRID.size, "spacing": GRID.spacing, "seed": 3, "sampler": "dpmpp", "steps": 20, "model_sha256": "a" * 64,
        "asked": {"sex": "F"}, "pairs": [record(names[0]), record(names[1], **copied), record(names[2], faults=["LA is in 2 pieces"])],
    })  # fmt: skip
    run.finish()
    return folder


def send(source: Path, out: Path, **changes: Any) -> Path:
    return export.run(ExportStage(source, **changes), out)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def everything(folder: Path) -> bytes:
    """The bytes and names of all files, those of compressed ones unpacked."""
    import gzip

    found = [gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    return b"\n".join([*found, *(str(p.relative_to(folder)).encode() for p in folder.rglob("*"))])


def test_nifti_pairs_are_the_generated_ones(generated: Path, tmp_path: Path) -> None:
    out = send(generated, tmp_path / "out")
    assert names(out) == ["SHA256SUMS", "attributes.csv", "images", "labels", "provenance.json"]
    assert names(out / "images") == names(out / "labels") == [f"{i}.nii.gz" for i in IDS]
    for index, name in zip((0, 2), IDS, strict=True):
        image, label = pair(index)
        read, affine, _ = read_nifti(out / "images" / f"{name}.nii.gz")
        assert np.array_equal(read, image)
        assert np.allclose(affine, GRID.affine(np.zeros(3)))
        assert np.array_equal(read_label(out / "labels" / f"{name}.nii.gz")[0], label)
    verify_checksums(out)


def test_the_table_holds_what_was_asked_for_and_what_came_out(generated: Path, tmp_path: Path) -> None:
    out = send(generated, tmp_path / "out")
    with (out / "attributes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["id"] for r in rows] == list(IDS)
    assert {r["synthetic"] for r in rows} == {"True"}
    assert (rows[0]["requested_sex"], rows[0]["requested_LAA_ml"], rows[0]["faults"], rows[1]["faults"]) == ("F", "12.0", "0", "1")
    for key in KEYS:
        assert float(rows[0][f"{key}_ml"]) == pytest.approx(np.count_nonzero(pair(0)[1] == ID[key]) * 0.07, abs=1e-3)
    facts = read_json(out / "provenance.json")
    assert facts["synthetic"] is True
    assert (facts["seed"], facts["model_sha256"], facts["asked"]) == (3, {"diffusion": "a" * 64}, {"sex": "F"})
    assert facts["audited_for_copies"] is True
    assert [p["requested"]["phase"] for p in facts["pairs"]] == [0.9, 0.9]  # of a training case, so not to the last digit


@pytest.mark.parametrize("kind", ["nifti", "nnunet", "dicom"])
def test_no_name_of_a_patient_and_no_copy_of_a_scan_goes_out(generated: Path, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault 37: the nearest training case, the folder of the cohort and the copies all stay here."""
    if kind == "dicom":
        pytest.importorskip("pydicom")
    found = everything(send(generated, tmp_path / "out", format=kind))
    for part in ("DOE", "JANE", "1944", "/home"):
        assert part.encode() not in found
    assert b"generated-3-0001" not in found
    assert pair(1)[0].tobytes(order="F") not in found
    assert pair(0)[0].tobytes(order="F") in found or kind == "dicom"
    assert "1 of 3 pairs are left out as copies of training cases" in " ".join(capsys.readouterr().err.split())


def test_pairs_that_nobody_audited_say_so(generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = read_json(generated / "pairs.json")
    write_json(generated / "pairs.json", table | {"pairs": [p | {"nearest": None, "copy": False} for p in table["pairs"]]})
    out = send(generated, tmp_path / "out")
    assert "nobody has looked for copies" in " ".join(capsys.readouterr().err.split())
    assert read_json(out / "provenance.json")["audited_for_copies"] is False


def test_copies_alone_are_refused(generated: Path, tmp_path: Path) -> None:
    table = read_json(generated / "pairs.json")
    write_json(generated / "pairs.json", table | {"pairs": [p | {"copy": True} for p in table["pairs"]]})
    with pytest.raises(InputError, match="every pair is a copy"):
        send(generated, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_nnunet_data_set_has_its_layout_and_is_read_back_by_our_own_reader(generated: Path, tmp_path: Path) -> None:
    """`nnUNetv2_plan_and_preprocess --verify_dataset_integrity` asks for what is checked here."""
    out = send(generated, tmp_path / "raw", format="nnunet", dataset_id=7, name="Made")
    assert out == tmp_path / "raw" / "Dataset007_Made"
    assert names(out) == ["SHA256SUMS", "attributes.csv", "dataset.json", "imagesTr", "labelsTr", "provenance.json"]
    facts = read_json(out / "dataset.json")
    assert (facts["channel_names"], facts["numTraining"], facts["file_ending"]) == ({"0": "CT"}, 2, ".nii.gz")
    assert list(facts["labels"].values()) == list(range(9))
    assert names(out / "imagesTr") == [f"{i}_0000.nii.gz" for i in IDS]
    assert names(out / "labelsTr") == [f"{i}.nii.gz" for i in IDS]
    assert read_json(out / "provenance.json")["synthetic"] is True
    found = find_pairs(out)
    assert [p.id for p in found] == list(IDS)
    for index, item in zip((0, 2), found, strict=True):
        case, _ = read_pair(item)
        image, label = pair(index)
        assert np.array_equal(case.image, image)
        assert case.label is not None
        assert np.array_equal(case.label, label)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset_id": 0}, "--dataset-id must lie in 1..999"),
        ({"name": "a b"}, "--name 'a b'"),
        ({"dataset_id": 5}, "holds Dataset005_Other already"),
    ],
)
def test_numbers_and_names_that_nnunet_does_not_take_are_refused(generated: Path, tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    (tmp_path / "raw" / "Dataset005_Other").mkdir(parents=True)
    with pytest.raises(InputError, match=named):
        send(generated, tmp_path / "raw", format="nnunet", **changes)
    assert names(tmp_path / "raw") == ["Dataset005_Other"]


def test_dicom_series_hold_the_generated_voxels(generated: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    out = send(generated, tmp_path / "out", format="dicom")
    assert names(out / "images") == list(IDS)
    seen = set()
    for index, name in zip((0, 2), IDS, strict=True):
        read, affine, _ = read_dicom(out / "images" / name)
        assert np.array_equal(read[::-1, ::-1], pair(index)[0])
        assert np.allclose(np.abs(np.diag(affine)[:3]), GRID.spacing)
        header = pydicom.dcmread(out / "images" / name / "0001.dcm")
        assert header.PatientSex == "F"
        seen |= {header.StudyInstanceUID, header.SeriesInstanceUID, header.PatientID}
    assert len(seen) == 6
    again = send(generated, tmp_path / "again", format="dicom")
    # Segmentations hold the time at which they were made.
    assert everything(out / "images") == everything(again / "images")


def test_other_images_of_the_same_name_get_other_uids(generated: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    uids = []
    for number in (0, 5):
        write_nifti(generated / "images" / f"{IDS[0]}.nii.gz", pair(number)[0], GRID.affine(np.zeros(3)), dtype=np.int16)
        out = send(generated, tmp_path / str(number), format="dicom")
        uids.append(pydicom.dcmread(out / "images" / IDS[0] / "0001.dcm").SOPInstanceUID)
    assert uids[0] != uids[1]


def test_a_cohort_goes_out_without_its_margin_and_its_test_cases_apart(tiny_cohort: Path, tmp_path: Path) -> None:
    out = send(tiny_cohort, tmp_path / "raw", format="nnunet")
    pairs = cohort_pairs(tiny_cohort, "test")
    assert names(out / "labelsTs") == sorted(f"{i.id}.nii.gz" for i in pairs.items)
    assert read_json(out / "dataset.json")["numTraining"] == len(names(out / "imagesTr")) == 8 - len(pairs)
    image, affine, _ = read_nifti(out / "imagesTs" / f"{pairs.items[0].id}_0000.nii.gz")
    assert np.array_equal(image, pairs.hu(0)[0])
    assert np.allclose(affine, pairs.items[0].affine)
    assert read_json(out / "provenance.json")["synthetic"] is True


def test_a_fold_of_a_study_goes_out_like_a_cohort(tiny_cohort: Path, tmp_path: Path) -> None:
    fold.run(FoldStage(tiny_cohort, count=3), tmp_path / "fold")
    out = send(tmp_path / "fold", tmp_path / "out")
    assert len(names(out / "images")) == 3 + len(cohort_pairs(tiny_cohort, "test"))
    assert read_json(out / "provenance.json")["synthetic"] is True


def test_the_label_maps_of_dicom_series_are_segmentations_of_them(generated: Path, tmp_path: Path) -> None:
    highdicom, pydicom = pytest.importorskip("highdicom"), pytest.importorskip("pydicom")
    out = send(generated, tmp_path / "out", format="dicom")
    for index, name in zip((0, 2), IDS, strict=True):
        segmentation = highdicom.seg.segread(out / "labels" / f"{name}.dcm")
        source = source_images(out / "images" / name)
        headers = [pydicom.dcmread(s.path, stop_before_pixels=True) for s in source.slices]
        assert (segmentation.StudyInstanceUID, segmentation.PatientID) == (headers[0].StudyInstanceUID, headers[0].PatientID)
        assert segmentation.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
        read = segmentation.get_pixels_by_source_instance([h.SOPInstanceUID for h in headers], combine_segments=True, skip_overlap_checks=True,
                                                          ignore_spatial_locations=True, assert_missing_frames_are_empty=True)  # fmt: skip
        assert np.array_equal(read.transpose(2, 1, 0)[::-1, ::-1], pair(index)[1])
        (origin,) = {str(d.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName) for d in segmentation.SegmentSequence}
        assert origin == "auricle generate"
        if shutil.which("dciodvfy"):
            said = subprocess.run(["dciodvfy", out / "labels" / f"{name}.dcm"], capture_output=True, text=True, check=False).stderr
            assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_no_network_is_named_for_label_maps_of_virtual_patients(tiny_cohort: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    out = send(tiny_cohort, tmp_path / "out", format="dicom")
    path = next(iter(sorted((out / "labels").iterdir())))
    for described in highdicom.seg.segread(path).SegmentSequence:
        (algorithm,) = described.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "auricle phantom"
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Geometric phantom"
        assert "AlgorithmParameters" not in algorithm
    if shutil.which("dciodvfy"):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_real_cases_are_not_called_synthetic_and_never_go_out_as_synthetic_dicom(tiny_cohort: Path, tmp_path: Path) -> None:
    """The same cohort, had it come from a folder of scans, with two scans of one patient."""
    real = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, real)
    table = read_json(real / "cases.json")
    for case in table["cases"]:
        case["attributes"] = {"content_sha256": "0" * 64}
    first, second = [c for c in table["cases"] if c["split"] == "train"][:2]
    first["patient"] = second["patient"] = "somebody"
    write_json(real / "cases.json", table)
    out = send(real, tmp_path / "raw", format="nnunet")
    facts = read_json(out / "provenance.json")
    assert facts["synthetic"] is False
    assert not any(p["synthetic"] for p in facts["pairs"])
    assert "SYNTHETIC" not in (out / "dataset.json").read_text()
    assert sorted(p.id for p in find_pairs(out) if p.patient == "somebody") == sorted([first["id"], second["id"]])
    with pytest.raises(InputError, match="holds real scans: take nifti or nnunet"):
        send(real, tmp_path / "dicom", format="dicom")
    assert not (tmp_path / "dicom").exists()


def test_a_zip_file_holds_the_same_folder(generated: Path, tmp_path: Path) -> None:
    folder = send(generated, tmp_path / "out")
    packed = send(generated, tmp_path / "out.zip")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert everything(tmp_path / "unpacked" / "out") == everything(folder)
    before = packed.read_bytes()
    send(generated, packed, overwrite=True)
    assert packed.read_bytes() == before
    assert names(tmp_path) == ["generated", "out", "out.zip", "unpacked"]


def test_a_zip_file_is_packed_where_the_next_export_clears_up(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves in the middle of packing."""
    left = []

    def killed(folder: Path, inside: str, target: Path) -> None:
        target.write_bytes(b"half")
        left.extend(p for p in tmp_path.iterdir() if p.name != "generated")

    with monkeypatch.context() as patched:
        patched.setattr(export, "_zip", killed)
        send(generated, tmp_path / "out.zip")
    assert len(left) == 1
    (tmp_path / "out.zip").unlink()
    # Of a process that is no more.
    shutil.copytree(tmp_path / "generated", tmp_path / left[0].name.replace(str(os.getpid()), "4194399"))
    send(generated, tmp_path / "out.zip")
    assert names(tmp_path) == ["generated", "out.zip"]


def test_what_exists_is_kept_unless_it_is_an_earlier_export(generated: Path, tmp_path: Path) -> None:
    out = send(generated, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        send(generated, out)
    (out / "images" / f"{IDS[0]}.nii.gz").unlink()
    send(generated, out, overwrite=True)
    verify_checksums(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt, which no export wrote"):
        send(generated, out, overwrite=True)
    (tmp_path / "home").mkdir()
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("notes.txt", "mine")
    (tmp_path / "text.zip").write_text("mine")
    for name in ("home", "mine.zip", "text.zip"):
        with pytest.raises(InputError, match="is no earlier export"):
            send(generated, tmp_path / name, overwrite=True)
    assert names(tmp_path) == ["generated", "home", "mine.zip", "out", "text.zip"]


@pytest.mark.parametrize("changed", [f"labels/{IDS[1]}.nii.gz", "notes.txt"])
@pytest.mark.parametrize("target", ["out", "out.zip"])
def test_what_was_altered_or_added_since_is_not_overwritten(generated: Path, tmp_path: Path, target: str, changed: str) -> None:
    out = send(generated, tmp_path / target)
    if out.is_dir():
        (out / ".DS_Store").write_text("Finder's")
        send(generated, out, overwrite=True)
        (out / changed).write_bytes(b"corrected by hand")
    else:
        with zipfile.ZipFile(out) as archive:
            content = {n: archive.read(n) for n in archive.namelist()} | {f"out/{changed}": b"corrected by hand"}
        with zipfile.ZipFile(out, "w") as archive:
            for name, value in content.items():
                archive.writestr(name, value)
    before = {p: p.read_bytes() for p in [out, *out.rglob("*")] if p.is_file()}
    with pytest.raises(InputError, match=f"holds {changed}, which no export wrote or which was altered since"):
        send(generated, out, overwrite=True)
    assert {p: p.read_bytes() for p in [out, *out.rglob("*")] if p.is_file()} == before


def test_a_release_of_another_project_is_no_earlier_export(generated: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        for name, value in (("tool/SHA256SUMS", f"{'0' * 64}  tool.bin\n"), ("tool/tool.bin", "mine")):
            archive.writestr(name, value)
    with pytest.raises(InputError, match=r"holds tool\.bin, which no export wrote"):
        send(generated, tmp_path / "release.zip", overwrite=True)


def test_the_version_that_made_the_pairs_is_named_beside_that_which_exports_them(generated: Path, tmp_path: Path) -> None:
    done = read_json(generated / "done.json")
    write_json(generated / "done.json", {**done, "auricle": "0.0.7"})
    facts = read_json(send(generated, tmp_path / "out") / "provenance.json")
    assert (facts["made_by"], facts["exported_by"]) == ("auricle 0.0.7, `auricle generate`", f"auricle {__version__}")


def test_the_name_of_a_data_set_is_for_nnunet_alone(generated: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not for --format nifti"):
        send(generated, tmp_path / "out", dataset_id=5)


def test_what_the_working_folder_holds_is_nobodys_business(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "Dataset900_Other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for target in ("raw", "raw.zip"):
        assert send(generated, tmp_path / target, format="nnunet").exists()


def test_a_full_disk_is_refused_before_anything_is_written(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: usage._replace(free=100))
    monkeypatch.setattr(export_pairs, "write_nifti_pairs", lambda *_: pytest.fail("began to write"))
    with pytest.raises(InputError, match=r"needs about .* MiB, 0 MiB are free"):
        send(generated, tmp_path / "out")
    assert names(tmp_path) == ["generated"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_cannot_be_written_is_refused(generated: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="is not a writable folder"):
        send(generated, tmp_path / "locked" / "out")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("target", ["out", "out.zip"])
def test_a_broken_export_leaves_the_earlier_one(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, target: str
) -> None:
    out = send(generated, tmp_path / target)
    before = everything(out) if out.is_dir() else out.read_bytes()
    real, calls = export_pairs.write_nifti, iter(range(100))

    def failing(*arguments: Any, **named: Any) -> None:
        if next(calls) == 2:
            raise error
        real(*arguments, **named)

    monkeypatch.setattr(export_pairs, "write_nifti", failing)
    with pytest.raises((InputError, KeyboardInterrupt), match="No space left" if isinstance(error, OSError) else None):
        send(generated, out, overwrite=True)
    assert (everything(out) if out.is_dir() else out.read_bytes()) == before
    assert names(tmp_path) == ["generated", target]


@pytest.mark.parametrize(
    ("source", "changes", "named"),
    [
        ("generated", {"format": "onnx"}, "--format onnx is for segmenters"),
        ("generated", {"half": True}, "--half is for the weights of a bundle"),
        ("empty", {"format": "nifti"}, "holds neither generated pairs"),
        ("empty", {}, "holds neither a fine-tuned segmenter"),
        ("nowhere", {}, "no such folder"),
        (None, {"format": "dicom"}, "needs the folder of generated pairs"),
    ],
)
def test_sources_that_do_not_fit_the_format_are_refused(
    generated: Path, tmp_path: Path, source: str | None, changes: dict[str, Any], named: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=named):
        export.run(ExportStage(None if source is None else tmp_path / source, **changes), tmp_path / "out")
    assert names(tmp_path) == ["empty", "generated"]


def test_an_unfinished_generation_is_refused(generated: Path, tmp_path: Path) -> None:
    (generated / "done.json").unlink()
    with pytest.raises(InputError, match="holds no finished generate"):
        send(generated, tmp_path / "out")


def test_the_folder_of_an_older_version_is_refused(generated: Path, tmp_path: Path) -> None:
    table = read_json(generated / "pairs.json")
    write_json(generated / "pairs.json", table | {"pairs": [{"id": p["id"]} for p in table["pairs"]]})
    with pytest.raises(InputError, match="generate again"):
        send(generated, tmp_path / "out")


def test_provenance_is_plain_json(generated: Path, tmp_path: Path) -> None:
    text = (send(generated, tmp_path / "out") / "provenance.json").read_text()
    assert json.loads(text)["pairs"][1]["faults"] == ["LA is in 2 pieces"]
