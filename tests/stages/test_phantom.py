"""Virtual patients as files: the same bytes however they are made, resumable, and readable as a cohort."""

import csv
import fcntl
import json
import re
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle import cli
from auricle.core.anatomy import ID, KEYS
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.cohort import FolderData, open_cohort
from auricle.data.folder import find_pairs, read_pair
from auricle.data.nifti import read_nifti
from auricle.data.preprocess import ModelGrid
from auricle.stages import phantom
from auricle.stages.phantom import flatten
from auricle.stages.phantom_config import PhantomConfig

TINY = PhantomConfig(patients=4, seed=5, size=(32, 32, 32), spacing=(5.0, 5.0, 5.0), workers=1)
HOW_TO = (Path(__file__).parents[2] / "docs/how-to/make-virtual-patients.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def _painted_once() -> Iterator[None]:
    """In this process each patient is computed once; the other processes of a test compute it again."""
    real, kept = phantom.virtual_patient, dict[str, Case]()

    def remembered(*arguments: Any, **named: Any) -> Case:
        key = repr((arguments, named))
        if key not in kept:
            kept[key] = real(*arguments, **named)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "virtual_patient", remembered)
        yield


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiny patients; tests that change the folder copy it."""
    out = tmp_path_factory.mktemp("phantom") / "four"
    phantom.run(TINY, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "patients.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_nothing_but_the_patients_is_left(four: Path) -> None:
    ids = [f"virtual-5-{i:04d}.nii.gz" for i in range(4)]
    assert sorted(contents(four)) == sorted(
        [*(f"images/{n}" for n in ids), *(f"labels/{n}" for n in ids), "dataset.json", "labels.ctbl", "patients.csv"]
    )


def test_bytes_do_not_depend_on_processes_count_or_sittings(four: Path, tmp_path: Path) -> None:
    """Two patients by two processes, then all four; then from the other end."""
    assert phantom.run(replace(TINY, patients=2, workers=2), tmp_path / "a") == 2
    assert phantom.run(TINY, tmp_path / "a") == 2
    assert phantom.run(replace(TINY, patients=1, first=3), tmp_path / "b") == 1
    assert phantom.run(TINY, tmp_path / "b") == 3
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(four)


def test_a_finished_folder_is_left_as_it_is(four: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in four.rglob("*")}
    assert phantom.run(TINY, four) == 0
    assert phantom.run(replace(TINY, patients=2), four) == 0
    assert {p: p.stat().st_mtime_ns for p in four.rglob("*")} == before


def test_a_killed_command_goes_on(four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while patient 2 was written: its image is there, its label map half, the table not at all."""
    made: list[int] = []
    real, remembered = phantom.write_nifti, phantom.virtual_patient

    def dies(path: Path, *rest: Any, **named: Any) -> None:
        if path.parent.name == "labels" and "0002" in path.name:
            path.with_name(f".1234.{path.name}").write_bytes(b"half")
            raise SystemExit
        real(path, *rest, **named)

    monkeypatch.setattr(phantom, "write_nifti", dies)
    # A killed process tidies nothing up.
    monkeypatch.setattr(phantom, "_sweep", lambda out: None)
    with pytest.raises(SystemExit):
        phantom.run(TINY, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "labels/.1234.virtual-5-0002.nii.gz").exists()
    assert [p.id for p in find_pairs(tmp_path) if p.label] == ["virtual-5-0000", "virtual-5-0001"]

    def counted(seed: int, index: int, *rest: Any, **named: Any) -> Case:
        made.append(index)
        return remembered(seed, index, *rest, **named)

    monkeypatch.setattr(phantom, "virtual_patient", counted)
    assert phantom.run(TINY, tmp_path) == 2
    assert made == [2, 3]
    assert contents(tmp_path) == contents(four)


def test_what_was_removed_is_made_again(four: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(four, tmp_path / "c"))
    (out / "labels/virtual-5-0001.nii.gz").unlink()
    (out / "labels.ctbl").unlink()
    assert phantom.run(TINY, out) == 1
    assert contents(out) == contents(four)


def test_folders_of_two_machines_become_one(four: Path, tmp_path: Path) -> None:
    """As the how-to says: copy the files, append the rows, give the whole command."""
    one, two = tmp_path / "one", tmp_path / "two"
    phantom.run(replace(TINY, patients=2), one)
    phantom.run(replace(TINY, patients=2, first=2), two)
    for folder in ("images", "labels"):
        shutil.copytree(one / folder, two / folder, dirs_exist_ok=True)
    with (two / "patients.csv").open("a", encoding="utf-8") as file:
        file.writelines((one / "patients.csv").read_text(encoding="utf-8").splitlines(keepends=True)[1:])
    assert phantom.run(TINY, two) == 0
    assert contents(two) == contents(four)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 6}, "--seed was 5, is now 6"),
        ({"size": (32, 32, 40)}, "--size was 32 32 32, is now 32 32 40"),
        ({"spacing": (5.0, 5.0, 4.5)}, "--spacing was 5 5 5, is now 5 5 4.5"),
        ({"metal": ("none",)}, "--metal was not given, is now none"),
        ({"metal": ("pacemaker-lead",)}, "--metal was not given, is now pacemaker-lead"),
        ({"prevalence": ("hypertrophy=0.5",)}, "--prevalence was not given, is now hypertrophy=0.5"),
        ({"layout": "nnunet"}, "--layout was pairs, is now nnunet"),
        ({"scan_shift": 4.0, "sex": "F"}, "--scan-shift was 0.0, is now 4.0; --sex was not given, is now F"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(four: Path, change: dict[str, Any], told: str) -> None:
    before = contents(four)
    with pytest.raises(InputError, match=re.escape(told)):
        phantom.run(replace(TINY, **change), four)
    assert contents(four) == before


def test_folders_in_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other things"):
        phantom.run(TINY, tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"LV": 1}}))
    with pytest.raises(InputError, match="holds other things"):
        phantom.run(TINY, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        phantom.run(TINY, tmp_path / "notes.txt")
    assert sorted(contents(tmp_path)) == ["dataset.json", "notes.txt"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 patients of 3 MiB do not fit on 250 MiB."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("Usage", "free")(250 * 2**20))
    with pytest.raises(InputError, match="needs about 320 MiB, 250 MiB are free"):
        phantom.run(PhantomConfig(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--size 9000 9000 9000 needs about .* GiB of memory"):
        phantom.run(replace(TINY, size=(9000, 9000, 9000)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_written_by_one_command_at_a_time(four: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(four, tmp_path / "c"))
    (out / phantom.WORK).mkdir()
    with (out / phantom.WORK / "lock").open("w", encoding="utf-8") as lock:
        print(77, file=lock, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="in use by process 77"):
            phantom.run(TINY, out)
    assert phantom.run(TINY, out) == 0
    assert contents(out) == contents(four)


def test_measured_volumes_are_those_of_the_label_maps(four: Path) -> None:
    for row in table(four):
        label, affine, _ = read_nifti(four / "labels" / f"{row['id']}.nii.gz")
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        for key in KEYS:
            assert float(row[f"{key}_ml"]) == pytest.approx(np.count_nonzero(label == ID[key]) * voxel_ml, rel=1e-5)
        assert float(row["LV_ml"]) == pytest.approx(float(row["LV_target_ml"]), rel=0.1)


def test_no_metal_is_known_when_the_table_is_read(four: Path) -> None:
    written = {row["id"]: row["metal"] for row in table(four)}
    assert "none" in written.values()
    assert {p.id: p.attributes["metal"] for p in find_pairs(four)} == {k: False if v == "none" else v.split(";") for k, v in written.items()}


def test_cells() -> None:
    attributes = {"sex": "F", "metal": ["a", "b"], "none": [], "hu": {"LV": 400.0, "left lung": {"fat": -1.23456789}}, "volumes_ml": {"LV": 5},
                  "gas": True, "where": None, "plaques": [{"hu": 1}, [2, 3]]}  # fmt: skip
    assert flatten(attributes) == {
        "sex": "F", "metal": "a;b", "none": "", "LV_hu": "400", "fat_left_lung_hu": "-1.23457", "LV_target_ml": "5",
        "gas": "yes", "where": "", "plaques": '{"hu": 1};[2, 3]',
    }  # fmt: skip


def test_forced_choices_and_the_scan_location_reach_the_table(tmp_path: Path) -> None:
    config = replace(TINY, patients=2, sex="F", contrast="venous", phase=0.4, metal=("sternal-wires",), pathology=("none",), scan_shift=6.0)
    phantom.run(replace(config, center_offset=(0.0, 5.0, 100.0)), tmp_path)
    for row in table(tmp_path):
        assert (row["sex"], row["contrast"], row["phase"], row["metal"], row["pathology"]) == ("F", "venous", "0.4", "sternal wires", "")
    centers = np.array([[float(v) for v in row["scan_center_mm"].split(";")] for row in table(tmp_path)])
    assert not np.allclose(centers[0], centers[1])
    assert np.abs(centers - [0, 5, 100]).max() < 30
    assert all("AO" in row["cut_by_border"].split(";") for row in table(tmp_path))


def test_the_folder_is_a_cohort(four: Path) -> None:
    cohort = open_cohort(FolderData(four))
    assert cohort.patients == cohort.ids == tuple(f"virtual-5-{i:04d}" for i in range(4))
    case, _ = cohort.load(0, ModelGrid((16, 16, 16), (5.0, 5.0, 5.0)))
    assert case.label is not None
    assert set(np.unique(case.label)) >= {ID[k] for k in ("LV", "RV", "LA", "RA", "MYO")}


def test_nnunet_layout(four: Path, tmp_path: Path) -> None:
    """What nnU-Net asks of a raw data set: four keys, consecutive labels, as many pairs as it says and nothing else in their folders."""
    phantom.run(replace(TINY, layout="nnunet"), tmp_path)
    facts = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert (facts["channel_names"], facts["numTraining"], facts["file_ending"]) == ({"0": "CT"}, 4, ".nii.gz")
    assert sorted(facts["labels"].values()) == list(range(9))
    assert sorted(p.name for p in (tmp_path / "imagesTr").iterdir()) == [f"virtual-5-{i:04d}_0000.nii.gz" for i in range(4)]
    for mine, other in zip(find_pairs(tmp_path), find_pairs(four), strict=True):
        (case, _), (same, _) = read_pair(mine), read_pair(other)
        assert (case.id, case.attributes) == (same.id, same.attributes)
        assert case.attributes["patient"] == same.id
        assert case.attributes["sex"] in ("F", "M")
        assert np.array_equal(case.image, same.image)
        assert case.label is not None
        assert np.array_equal(case.label, same.label)


def test_the_command_ends_with_the_folder(four: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--seed", "5", "--size", "32", "32", "32", "--spacing", "5", "5", "5", "-n", "4"]
    cli.main(["phantom", "-o", str(four), "--quiet", *flags])
    assert capsys.readouterr().out == f"{four}\n"
    cli.main(["phantom", "-o", str(four), "--json", *flags])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["out"], last["made"]) == ("finished", str(four), 0)


def test_python_of_the_how_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smaller grid."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL)
    code, changed = re.subn(r"\(128, 128, 128\), \(1\.5, 1\.5, 1\.5\)", "(32, 32, 32), (5.0, 5.0, 5.0)", code)
    assert changed == 1
    exec(compile(code, "make-virtual-patients.md", "exec"), {})
    assert (tmp_path / "patient.nii.gz").exists()
