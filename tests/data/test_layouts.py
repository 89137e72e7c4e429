"""Data sets as they are handed out: each layout is known by its files, and what could be two of them is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle.core.anatomy import ID
from auricle.core.errors import InputError
from auricle.data import layouts
from auricle.data.cohort import FolderCohort, FolderData
from auricle.data.conditions import measured
from auricle.data.folder import PairPath, find_pairs, read_pair
from auricle.data.nifti import write_nifti
from auricle.data.preprocess import ModelGrid

SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def label() -> np.ndarray:
    return (np.arange(np.prod(SHAPE)) % 9).reshape(SHAPE).astype(np.uint8)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    write_nifti(path, array, affine, dtype=array.dtype)


def decathlon(
    folder: Path, names: dict[str, str], values: np.ndarray, modality: str = "CT", cases: tuple[str, str] = ("la_003", "la_004")
) -> Path:
    """A folder of the Medical Segmentation Decathlon with two cases."""
    training = []
    for name in cases:
        save(folder / "imagesTr" / f"{name}.nii.gz", image(sum(map(ord, name))))
        save(folder / "labelsTr" / f"{name}.nii.gz", values)
        (folder / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"what macOS leaves")
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    facts = {"modality": {"0": modality}, "labels": names, "numTraining": 2, "training": training, "test": []}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("cases", [("la_003", "la_004"), ("la_0003", "la_0004")])
def test_decathlon(tmp_path: Path, cases: tuple[str, str]) -> None:
    pairs = find_pairs(decathlon(tmp_path, {"0": "background", "1": "left atrium", "2": "myocardium"}, label() % 3, cases=cases))
    assert [p.id for p in pairs] == list(cases)
    case, _ = read_pair(pairs[0])
    assert np.array_equal(case.label, np.array([0, ID["LA"], ID["MYO"]])[label() % 3])


def test_decathlon_of_mr_or_with_lost_or_foreign_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images are MRI; CT is needed"):
        find_pairs(decathlon(tmp_path, {"1": "left atrium"}, label() % 2, "MRI"))
    folder = decathlon(tmp_path, {"1": "left atrium"}, label() % 2)
    (folder / "labelsTr" / "la_004.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lists \./labelsTr/la_004\.nii\.gz, which is not there"):
        find_pairs(folder)
    facts = json.loads((folder / "dataset.json").read_text())
    facts["training"][0]["image"] = "../la_003.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="not a volume file of this folder"):
        find_pairs(folder)


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = decathlon(tmp_path, {"1": "left atrium"}, label() % 2, cases=("a", "b"))
    for kind in ("images", "labels"):
        (folder / f"{kind}Tr" / "sub").mkdir()
        (folder / f"{kind}Tr" / "b.nii.gz").rename(folder / f"{kind}Tr" / "sub" / "A.nii.gz")
    (folder / "dataset.json").write_text((folder / "dataset.json").read_text().replace("Tr/b.", "Tr/sub/A."))
    with pytest.raises(InputError, match=r"imagesTr/sub/A\.nii\.gz and .*imagesTr/a\.nii\.gz would both be the case a;"):
        find_pairs(folder)


def test_a_volume_of_four_dimensions_says_what_to_do(tmp_path: Path) -> None:
    import nibabel as nib

    folder = decathlon(tmp_path, {"1": "left atrium"}, label() % 2)
    nib.Nifti1Image(np.stack([image(), image()], axis=3), AFFINE).to_filename(folder / "imagesTr" / "la_003.nii.gz")
    with pytest.raises(InputError, match=r"holds 2 volumes .*store it as a file of its own"):
        read_pair(find_pairs(folder)[0])


def test_nnunet_1_lists_names_without_the_channel(tmp_path: Path) -> None:
    folder = decathlon(tmp_path, {"0": "background", "1": "left atrium"}, label() % 2)
    for path in list((folder / "imagesTr").glob("la*")):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    pairs = find_pairs(folder)
    assert [(p.id, p.image.name) for p in pairs] == [("la_003", "la_003_0000.nii.gz"), ("la_004", "la_004_0000.nii.gz")]


@pytest.mark.parametrize("where", ["", "ct_train"])
def test_mm_whs(tmp_path: Path, where: str) -> None:
    """Its values are known, and so is that 421 is meant to be 420."""
    values = np.array([0, 500, 600, 420, 550, 205, 820, 850, 421], np.int16)[label()]
    for number in (1001, 1002):
        save(tmp_path / where / f"ct_train_{number}_image.nii.gz", image(number))
        save(tmp_path / where / f"ct_train_{number}_label.nii.gz", values)
    if where:
        save(tmp_path / "mr_train" / "mr_train_1001_image.nii.gz", image(1))
    pairs = find_pairs(tmp_path)
    assert [p.id for p in pairs] == ["ct_train_1001", "ct_train_1002"]
    case, _ = read_pair(pairs[0])
    order = [0, *(ID[k] for k in ("LV", "RV", "LA", "RA", "MYO", "AO", "PA", "LA"))]
    assert np.array_equal(case.label, np.array(order)[label()])
    mapped, _ = read_pair(find_pairs(tmp_path, label_map=dict.fromkeys((500, 600, 420, 421, 550, 205, 850), 0) | {820: ID["AO"]})[0])
    assert set(np.unique(mapped.label)) == {0, ID["AO"]}


def test_mm_whs_of_mr_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "mr_train_1001_image.nii.gz", image())
    save(tmp_path / "mr_train_1001_label.nii.gz", label())
    with pytest.raises(InputError, match="MR images"):
        find_pairs(tmp_path)


def total_segmentator(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for name in ("s0001", "s0002"):
        save(folder / name / "ct.nii.gz", image(int(name[1:])))
        for structure, mask in masks.items():
            save(folder / name / "segmentations" / f"{structure}.nii.gz", mask.astype(np.uint8))
    return folder


def test_total_segmentator_1(tmp_path: Path) -> None:
    parts = ("myocardium", "atrium_left", "ventricle_left", "atrium_right", "ventricle_right")
    names = (*(f"heart_{part}" for part in parts), "aorta", "pulmonary_artery")
    folder = total_segmentator(tmp_path, {**{n: label() == i for i, n in enumerate(names, 1)}, "liver": label() == 8})
    (folder / "meta.csv").write_text("image_id;age;gender;institute\ns0001;61;m;A\ns0002;55;f;A\n")
    pairs = find_pairs(folder)
    assert [p.attributes for p in pairs] == [{"sex": "M"}, {"sex": "F"}]
    case, notices = read_pair(pairs[0])
    assert np.array_equal(case.label, np.where(label() == 8, 0, label()))
    assert any("no voxels of LAA" in n for n in notices)
    with pytest.raises(InputError, match="--label-map"):
        find_pairs(folder, label_map={1: 3})


def test_total_segmentator_2_masks_overlap(tmp_path: Path) -> None:
    """The appendage wins over the atrium, the myocardium over the ventricle; the heart as a whole is no structure."""
    a, b = label() % 2 == 0, label() < 4
    masks = {"heart": a | b, "atrial_appendage_left": a & b, "heart_atrium_left": a, "heart_myocardium": ~a & b, "heart_ventricle_left": ~a}
    case, notices = read_pair(find_pairs(total_segmentator(tmp_path, masks))[0])
    wanted = np.where(a, np.where(b, ID["LAA"], ID["LA"]), np.where(b, ID["MYO"], ID["LV"]))
    assert np.array_equal(case.label, wanted)
    assert any(f"{int(b.sum())} voxels lie in two masks; the first of LAA, MYO" in n for n in notices)


def test_total_segmentator_faults(tmp_path: Path) -> None:
    whole = total_segmentator(tmp_path / "whole", {"heart": label() > 3, "aorta": label() == 1})
    with pytest.raises(InputError, match="no mask of myocardium or a chamber"):
        find_pairs(whole)
    twos = total_segmentator(tmp_path / "twos", {"heart_myocardium": label()})
    with pytest.raises(InputError, match="is not a mask: it holds the values 0, 1"):
        read_pair(find_pairs(twos)[0])
    moved = total_segmentator(tmp_path / "moved", {"heart_myocardium": label() > 3})
    save(moved / "s0001" / "segmentations" / "heart_myocardium.nii.gz", (label() > 3).astype(np.uint8), np.diag([-1.0, 1.5, 2.5, 1.0]))
    with pytest.raises(InputError, match=r"heart_myocardium\.nii\.gz: differs in spacing"):
        read_pair(find_pairs(moved)[0])


def test_links_to_nowhere_and_masks_without_a_scan_are_refused(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        for name in ("a", "b"):
            save(tmp_path / "cohort" / folder / f"{name}.nii.gz", label())
    (tmp_path / "cohort" / "images" / "c.nii.gz").symlink_to(tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"c\.nii\.gz: is a link to a file that is not there"):
        find_pairs(tmp_path / "cohort")
    for name in ("s1", "s2"):
        save(tmp_path / "total" / name / "segmentations" / "heart_myocardium.nii.gz", label() // 8)
    save(tmp_path / "total" / "s1" / "ct.nii.gz", image())
    with pytest.raises(InputError, match=r"s2: holds segmentations, but no ct\.nii\.gz"):
        find_pairs(tmp_path / "total")


def test_image_cas(tmp_path: Path) -> None:
    for name in ("1", "2"):
        save(tmp_path / f"{name}.img.nii.gz", image(int(name)))
        save(tmp_path / f"{name}.label.nii.gz", label())
    pairs = find_pairs(tmp_path)
    assert [(p.id, p.image.name) for p in pairs] == [("1", "1.img.nii.gz"), ("2", "2.img.nii.gz")]
    assert np.array_equal(read_pair(pairs[0])[0].label, label())
    save(tmp_path / "1.label.nii.gz", (label() > 7).astype(np.uint8))
    with pytest.raises(InputError, match="coronary arteries of ImageCAS"):
        read_pair(find_pairs(tmp_path)[0])
    assert read_pair(find_pairs(tmp_path, label_map={1: 1})[0])[0].label is not None


def test_two_layouts_or_none(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.nii.gz", image())
    save(tmp_path / "labels" / "a.nii.gz", label())
    assert len(find_pairs(tmp_path)) == 1
    save(tmp_path / "b.nii.gz", image(1))
    save(tmp_path / "b_label.nii.gz", label())
    with pytest.raises(InputError, match=r"could be read in 2 ways: two folders .*; side by side .*\.csv"):
        find_pairs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no scans found; expected one of: dataset\.json .*ct\.nii\.gz .*\.csv"):
        find_pairs(tmp_path / "empty")


def table(folder: Path, text: str) -> Path:
    (folder / "cohort.csv").write_text(text, encoding="utf-8")
    return folder / "cohort.csv"


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """Five scans and label maps in folders of no known layout."""
    for n in range(5):
        save(tmp_path / "data" / f"patient {n}" / "scan.nii.gz", image(n))
        save(tmp_path / "masks" / f"m{n}.nii.gz", label())
    return tmp_path


def lines(count: int = 5) -> str:
    header = "\ufeffid,image,label,patient,sex,contrast,phase,metal,comment\n"
    paths = [f"c{n},data/patient {n}/scan.nii.gz,masks/m{n}.nii.gz,P{n // 2}" for n in range(count)]
    return header + "".join(f'{p},{"fM"[n % 2]},Mixed,0.25,{"yes" if n else ""},"a, b"\n' for n, p in enumerate(paths))


def test_a_table_of_paths(loose: Path) -> None:
    """Paths from the table's folder, patients for the split, attributes that become conditions."""
    data = FolderData(table(loose, lines()))
    cohort = FolderCohort(data)
    assert cohort.ids == ("c0", "c1", "c2", "c3", "c4")
    assert cohort.patients == ("P0", "P0", "P1", "P1", "P2")
    case, _ = cohort.load(1, ModelGrid((16, 16, 16), (2.0, 2.0, 2.0)))
    assert case.label is not None
    asked = measured(case.attributes, case.label, case.spacing)
    assert (asked.sex, asked.contrast, asked.phase, asked.metal) == ("M", "mixed", 0.25, True)
    assert "metal" not in cohort.load(0, ModelGrid((16, 16, 16), (2.0, 2.0, 2.0)))[0].attributes
    before = cohort.fingerprint()
    assert FolderCohort(data).fingerprint() == before
    table(loose, lines().replace("0.25", "0.75"))
    assert FolderCohort(data).fingerprint() != before


def test_empty_columns_behind_the_last_one_are_left_out(loose: Path) -> None:
    """As spreadsheets write them."""
    plain = find_pairs(table(loose, lines()))
    head, *rest = lines().splitlines()
    assert find_pairs(table(loose, "\n".join([f"{head},,", *(f"{line},, ," for line in rest), ",,,,"]))) == plain
    with pytest.raises(InputError, match="line 2: has 11 cells, the header 9"):
        find_pairs(table(loose, "\n".join([head, f"{rest[0]},,more"])))


def test_one_file_of_a_series_stands_for_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited slice changes the cohort, whichever slice the table names."""
    for n in range(3):
        (tmp_path / f"IM{n}").write_bytes(bytes(128) + b"DICM" + bytes(n))
    pair = PairPath("a", tmp_path / "IM1", None)
    assert {p.name for p in pair.files} == {"IM0", "IM1", "IM2"}
    # A note beside them is no part of it; a slice that cannot be read is, and is told when the series is read.
    (tmp_path / "notes.txt").write_text("no slice")
    real = layouts.is_dicom

    def unreadable(path: Path) -> bool:
        if path.name == "IM2":
            raise InputError(f"{path}: cannot be read")
        return real(path)

    monkeypatch.setattr(layouts, "is_dicom", unreadable)
    assert {p.name for p in pair.files} == {"IM0", "IM1", "IM2"}
    (tmp_path / "scan.nii").write_bytes(bytes(400))
    assert PairPath("a", tmp_path / "scan.nii", None).files == [tmp_path / "scan.nii"]


def test_the_names_of_a_table_default_to_those_of_the_scans(loose: Path) -> None:
    save(loose / "one.nii.gz", image(9))
    (pair,) = find_pairs(table(loose, "image;label\none.nii.gz;\n"))
    assert (pair.id, pair.label) == ("one", None)
    with pytest.raises(InputError, match="line 3: a second case is called scan; give each a name of its own in the column id"):
        find_pairs(table(loose, "image,label\ndata/patient 0/scan.nii.gz,\ndata/patient 1/scan.nii.gz,\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,label\na,b\n", "needs the columns image and label"),
        ("", "needs the columns image and label"),
        ("image,label\nnone.nii.gz,\n,a\nmasks/m0.nii.gz,\nno.nii,\n", r"line 2: no such file or folder: .*; 2 more lines are wrong \(3, 5\)"),
        ("image,label\nnone.nii.gz,\n", r"line 2: no such file or folder: .*none\.nii\.gz"),
        ("image,label\n,masks/m0.nii.gz\n", "line 2: names no image"),
        ("image,label\n", "no scans found"),
        ("image,label,label\n", "each once"),
        ("image,label\nmasks/m0.nii.gz,,x\n", "line 2: has 3 cells"),
        ("image,label,sex\nmasks/m0.nii.gz,,x\n", "line 2: sex is 'x'; it must be F or M"),
        ("image,label,phase\nmasks/m0.nii.gz,,nan\n", "phase is 'nan'; it must be a number from 0"),
        ("image,label,phase\nmasks/m0.nii.gz,,70\n", "phase is '70'"),
        ("image,label,contrast\nmasks/m0.nii.gz,,late\n", "contrast is 'late'; it must be chase, mixed"),
        ("image,label,metal\nmasks/m0.nii.gz,,maybe\n", "metal is 'maybe'; it must be yes, no"),
        ("image,label,metal\nmasks/m0.nii.gz,,no lead\n", "metal is 'no lead'; it must be yes, no"),
        ("image,label,id\nmasks/m0.nii.gz,,../x\n", "cannot be a file's name"),
    ],
)
def test_faults_of_a_table(loose: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_pairs(table(loose, text))


def test_a_table_that_is_no_text(loose: Path) -> None:
    (loose / "cohort.csv").write_bytes(b"image,label\n\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8"):
        find_pairs(loose / "cohort.csv")
    with pytest.raises(InputError, match="no such file"):
        find_pairs(loose / "none.csv")
    with pytest.raises(InputError, match=r"neither a folder nor a \.csv"):
        find_pairs(loose / "masks" / "m0.nii.gz")


def test_patients_csv_gives_attributes_too(tmp_path: Path) -> None:
    save(tmp_path / "images" / "x.nii.gz", image())
    save(tmp_path / "labels" / "x.nii.gz", label())
    (tmp_path / "patients.csv").write_text("id,patient,sex,metal,age\nx,P7,female,pacemaker lead; coronary stent,61\n")
    case, _ = read_pair(find_pairs(tmp_path)[0])
    assert case.attributes == {"patient": "P7", "sex": "F", "metal": ["pacemaker lead", "coronary stent"]}
    (tmp_path / "patients.csv").write_text("id,patient\nx,P7\nx,P8\n")
    with pytest.raises(InputError, match="line 3: a second line for x"):
        find_pairs(tmp_path)


def test_a_value_mapped_to_zero_is_dropped(tmp_path: Path, loose: Path) -> None:
    data: dict[str, Any] = {"path": loose / "cohort.csv", "label_map": "1=MYO,2=LA,3=LV,4=0,5=0,6=0,7=0,8=0"}
    table(loose, lines())
    case, _ = FolderCohort(FolderData(**data)).load(0, ModelGrid((16, 16, 16), (2.0, 2.0, 2.0)))
    assert case.label is not None
    assert set(np.unique(case.label)) <= {0, 1, 2, 3}
