"""Data set folders: every layout is found, and image and label must belong together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle.core.errors import InputError
from auricle.data.folder import PairPath, find_pairs, read_pair
from auricle.data.nifti import write_nifti

SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def label() -> np.ndarray:
    return (np.arange(np.prod(SHAPE)) % 9).reshape(SHAPE).astype(np.uint8)


def pair(folder: Path, name: str, where: str, *, labels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> None:
    """Write NAME's image and label where the pattern (with {kind} and {name}) says."""
    for kind, array in (("image", image(sum(map(ord, name)))), ("label", label() if labels is None else labels)):
        path = folder / where.split("|")[kind == "label"].format(name=name)
        write_nifti(path, array, AFFINE if kind == "image" else affine, dtype=array.dtype)


def test_a_segmentation_of_3d_slicer_keeps_its_name(tmp_path: Path) -> None:
    for name in ("images/x.nii.gz", "images/y_seg.nii.gz", "labels/x.seg.nrrd", "labels/y_seg.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = {p.id: p.label.name for p in find_pairs(tmp_path) if p.label is not None}
    assert found == {"x": "x.seg.nrrd", "y_seg": "y_seg.nrrd"}


NNUNET = "imagesTr/{name}_0000.nii.gz|labelsTr/{name}.nii.gz"


def nnunet(folder: Path, labels: dict[str, Any], values: np.ndarray | None = None) -> Path:
    pair(folder, "p1", NNUNET, labels=values)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}))
    return folder


@pytest.mark.parametrize(
    "where",
    [
        "images/{name}.nii.gz|labels/{name}.nii.gz",
        "{name}.nii.gz|{name}_label.nii.gz",
        "{name}.nii|{name}-label.nii.gz",
        "{name}.nii.gz|{name}.seg.nii.gz",
    ],
)
def test_layouts(tmp_path: Path, where: str) -> None:
    for name in ("b", "a"):
        pair(tmp_path, name, where)
    found = find_pairs(tmp_path)
    assert [p.id for p in found] == ["a", "b"]
    case, notices = read_pair(found[0])
    assert np.array_equal(case.image, image(ord("a")))
    assert case.label is not None
    assert np.array_equal(case.label, label())
    assert notices == []


def test_nnunet_names_become_structures(tmp_path: Path) -> None:
    names = {"background": 0, "Left_Ventricle": 1, "myocardium": 2, "LAA": 3, "SVC": 4, "heart_atrium_left": 5, "Aorta": 6}
    found = find_pairs(nnunet(tmp_path, names, label() % 7))
    assert [p.id for p in found] == ["p1"]
    case, notices = read_pair(found[0])
    assert case.label is not None
    assert np.array_equal(case.label, np.array([0, 3, 1, 8, 0, 2, 6])[label() % 7])
    assert any("no voxels of RA, RV, PA" in n for n in notices)


def test_nnunet_1_names(tmp_path: Path) -> None:
    found = find_pairs(nnunet(tmp_path, {"0": "background", "1": "PA", "2": "RV"}, label() % 3))
    case, _ = read_pair(found[0])
    assert case.label is not None
    assert np.array_equal(case.label, np.array([0, 7, 5])[label() % 3])


def test_unknown_names_are_refused_unless_mapped(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, {"background": 0, "tumor": 1}, label() % 2)
    with pytest.raises(InputError, match=r"1 tumor.*--label-map"):
        find_pairs(folder)
    case, _ = read_pair(find_pairs(folder, label_map={1: 4})[0])
    assert case.label is not None
    assert np.array_equal(case.label, 4 * (label() % 2))


@pytest.mark.parametrize("labels", [{"background": 0, "whole": [1, 2]}, None, [1]])
def test_damaged_dataset_json(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(InputError, match=r"dataset\.json"):
        find_pairs(nnunet(tmp_path, labels))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        find_pairs(tmp_path)


def test_second_channel_and_orphans(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "LV": 1})
    write_nifti(tmp_path / "labelsTr" / "lost.nii.gz", label(), AFFINE, dtype=np.uint8)
    with pytest.raises(InputError, match="no scan: lost"):
        find_pairs(tmp_path)
    write_nifti(tmp_path / "imagesTr" / "p1_0001.nii.gz", image(), AFFINE, dtype=np.int16)
    with pytest.raises(InputError, match="second channel"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_pairs(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no scans found"):
        find_pairs(tmp_path / "empty")


def test_scan_without_label_and_patients(tmp_path: Path) -> None:
    write_nifti(tmp_path / "images" / "x.nii.gz", image(), AFFINE, dtype=np.int16)
    (tmp_path / "patients.csv").write_text("id,patient\nx,P7\n")
    (found,) = find_pairs(tmp_path)
    assert (found.label, found.patient) == (None, "P7")
    case, _ = read_pair(found)
    assert case.label is None
    assert case.attributes["patient"] == "P7"
    (tmp_path / "patients.csv").write_text("name\nx\n")
    with pytest.raises(InputError, match=r"patients\.csv"):
        find_pairs(tmp_path)


def moved(row: int, column: int, value: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (moved(0, 3, 1.0), "position or orientation"),
        (moved(0, 0, 1.0), "position or orientation"),
        (moved(2, 2, 2.1), "spacing"),
    ],
)
def test_label_on_another_grid(tmp_path: Path, affine: np.ndarray, message: str) -> None:
    pair(tmp_path, "a", "{name}.nii.gz|{name}_label.nii.gz", affine=affine)
    with pytest.raises(InputError, match=message):
        read_pair(find_pairs(tmp_path)[0])


def test_empty_label_and_foreign_values(tmp_path: Path) -> None:
    pair(tmp_path, "a", "{name}.nii.gz|{name}_label.nii.gz", labels=label() * 0)
    _, notices = read_pair(find_pairs(tmp_path)[0])
    assert any("label map is empty" in n for n in notices)
    pair(tmp_path, "a", "{name}.nii.gz|{name}_label.nii.gz", labels=label() * 20)
    with pytest.raises(InputError, match="--label-map"):
        read_pair(find_pairs(tmp_path)[0])


def test_sheared_pair_stays_together(tmp_path: Path) -> None:
    affine = moved(1, 2, 0.7)
    body = np.zeros((20, 20, 12), np.uint8)
    body[5:15, 5:15, 3:9] = 3
    for name, array in (("a.nii", np.where(body, 300, -900)), ("a_seg.nii", body)):
        write_nifti(tmp_path / name, array, affine, dtype=np.int16)
    case, notices = read_pair(find_pairs(tmp_path)[0])
    assert case.label is not None
    assert any("right-angled" in n for n in notices)
    assert np.isclose((case.label == 3).sum(), 600, rtol=0.05)
    assert ((case.label == 3) == (case.image > -300)).mean() > 0.99
    # A label map on the right-angled grid, as `auricle segment` writes it, is as good; one elsewhere is not.
    write_nifti(tmp_path / "a_seg.nii", case.label, case.affine, dtype=np.int16)
    again, _ = read_pair(find_pairs(tmp_path)[0])
    assert np.array_equal(again.label, case.label)  # type: ignore[arg-type]
    write_nifti(tmp_path / "a_seg.nii", case.label[1:], case.affine, dtype=np.int16)
    with pytest.raises(InputError, match=r"a_seg\.nii: "):
        read_pair(find_pairs(tmp_path)[0])


def test_image_faults_reach_the_user(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", np.abs(image()), AFFINE, dtype=np.int16)
    pair_path = PairPath("a", tmp_path / "a.nii", None)
    with pytest.raises(InputError, match="--not-hu"):
        read_pair(pair_path)
    assert read_pair(pair_path, not_hu=True)[0].image.min() >= 0
