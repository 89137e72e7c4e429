"""Bad inputs, by number: what a user may hand over by mistake is refused in one line or read rightly, whatever the format.

The numbers are those of the list of faults that this program has to stand. `ELSEWHERE` names the tests of those that other files hold.
"""

import ast
import gzip
import itertools
import stat
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from auricle.core import memory
from auricle.core.errors import InputError
from auricle.data import archive
from auricle.data.cohort import FolderCohort, FolderData
from auricle.data.fingerprint import content_hash
from auricle.data.folder import PairPath, check_duplicates, find_pairs, read_pair
from auricle.data.labels import read_label
from auricle.data.preprocess import orient
from auricle.data.reading import read_scan

pytest.importorskip("nrrd")

TESTS = Path(__file__).parents[1]
AFFINE = np.array([[0.0, -1.5, 0.0, 30.0], [2.0, 0.0, 0.0, -20.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])
CHECKED = ("a.nii.gz", "a.nrrd", "a.mha")
"""Formats with a checksum."""
ALL = (*CHECKED, "a.nii", "a.mhd")
ELSEWHERE = {
    11: ("data/test_preprocess.py", "test_every_orientation_returns_exactly"),
    19: ("end_to_end/test_method.py", "test_few_cases_of_ones_own"),
    21: ("data/test_dicom.py", "test_uneven_slices"),
    22: ("data/test_dicom.py", "test_gantry_tilt_is_resampled"),
    23: ("data/test_dicom.py", "test_several_series"),
    24: ("data/test_dicom.py", "test_refused_headers"),
    25: ("data/test_dicom.py", "test_missing_codec_is_named"),
    26: ("data/test_dicom.py", "test_enhanced_multi_frame"),
    28: ("training/test_loop.py", "test_what_is_not_safetensors_is_refused"),
    29: ("core/test_runs.py", "test_a_finished_run_is_done_for_its_own_configuration_alone"),
    30: ("training/test_loop.py", "test_a_killed_run_resumes_to_the_same_weights"),
    31: ("stages/test_export.py", "test_a_full_disk_is_refused_before_anything_is_written"),
    32: ("core/test_runs.py", "test_a_live_owner_keeps_the_lock_and_a_dead_one_does_not"),
    33: ("data/test_cohort.py", "test_row_33_an_edited_file_is_prepared_again_and_the_others_are_kept"),
    35: ("stages/test_plan.py", "test_row_35_a_run_says_beforehand_what_will_not_fit"),
    36: ("end_to_end/test_segment.py", "test_the_segmenter_that_ships_segments_a_patient_it_never_saw"),
    37: ("stages/test_export.py", "test_no_name_of_a_patient_and_no_copy_of_a_scan_goes_out"),
}


def volume(dtype: Any = np.int16, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    """Plausible HU."""
    return np.random.default_rng(3).integers(-1000, 1000, shape).astype(dtype)


def label(shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 9).reshape(shape).astype(np.uint8)


def refused(path: Path, match: str, **options: Any) -> None:
    """`read_scan` refuses in one line that names the file."""
    with pytest.raises(InputError, match=match) as caught:
        read_scan(path, **options)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("row", sorted(ELSEWHERE))
def test_rows_that_other_files_hold(row: int) -> None:
    file, name = ELSEWHERE[row]
    found = [n for n in ast.parse((TESTS / file).read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert len(found) == 1
    assert any(isinstance(n, ast.Assert) or (isinstance(n, ast.Attribute) and n.attr == "raises") for n in ast.walk(found[0]))
    assert not [d for d in found[0].decorator_list if "skip" in ast.dump(d) or "xfail" in ast.dump(d)]


@pytest.mark.parametrize("name", ALL)
def test_row_1_truncated_files(tmp_path: Path, files: Any, name: str) -> None:
    path = files.write(tmp_path / name, volume(), AFFINE)
    data = path.with_suffix(".raw") if name == "a.mhd" else path
    whole = data.read_bytes()
    for keep in (len(whole) - 1, len(whole) - 9, len(whole) // 2, 200, 40, 3):
        data.write_bytes(whole[:keep])
        refused(path, "damaged|cut off|claims|lacks|unknown first bytes")


@pytest.mark.parametrize("name", CHECKED)
def test_row_2_wrong_checksums(tmp_path: Path, files: Any, name: str) -> None:
    """No changed bit of a compressed stream changes a voxel unnoticed."""
    path = files.write(tmp_path / name, volume(), AFFINE)
    whole = path.read_bytes()
    start = whole.index(b"\x1f\x8b" if name != "a.mha" else b"\x78\x9c")
    for at in [*range(start + 10, len(whole), 7), *range(len(whole) - 8, len(whole))]:
        broken = bytearray(whole)
        broken[at] ^= 0x10
        path.write_bytes(bytes(broken))
        with suppress(InputError):  # where only a bit changed that fills up the last byte, it is read
            assert np.array_equal(read_scan(path)[0].image, volume())
    broken = bytearray(whole)
    broken[-6 if name != "a.mha" else -2] ^= 0x10
    path.write_bytes(bytes(broken))
    refused(path, "compressed data are damaged")


@pytest.mark.parametrize("name", ALL)
def test_row_3_empty_or_misnamed_files(tmp_path: Path, files: Any, name: str) -> None:
    (tmp_path / name).touch()
    refused(tmp_path / name, "0 bytes")
    plain = files.nifti(tmp_path / "p.nii", volume(), AFFINE).read_bytes()
    if not name.endswith(".nii"):
        (tmp_path / name).write_bytes(plain)
        refused(tmp_path / name, "not gzip-compressed.*rename" if name.endswith(".gz") else "is not a (NRRD|MetaImage) file")
    (tmp_path / "z.nii").write_bytes(gzip.compress(plain))
    refused(tmp_path / "z.nii", "is gzip-compressed.*rename")


def claiming(files: Any, path: Path, sizes: str) -> Path:
    """A file whose header states other sizes."""
    if ".nii" in path.name:
        return Path(files.nifti(path, volume(), AFFINE, dim=[3, *(int(v) for v in sizes.split()), 1, 1, 1, 1]))
    if path.suffix == ".nrrd":
        return Path(files.nrrd(path, volume(), AFFINE, {"sizes": sizes}))
    return Path(files.metaimage(path, volume(), AFFINE, packed=path.suffix == ".mha", DimSize=sizes))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sizes", ["30000 30000 30000", "4000 500 500"])
def test_row_4_absurd_sizes_are_refused_before_allocating(tmp_path: Path, files: Any, name: str, sizes: str, monkeypatch: Any) -> None:
    path = claiming(files, tmp_path / name, sizes)
    monkeypatch.setattr(np, "empty", None)
    refused(path, "claims")


@pytest.mark.parametrize("name", ALL)
def test_row_35_a_scan_that_memory_cannot_hold_is_refused_before_allocating(
    tmp_path: Path, files: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    shape = (64, 64, 64)
    path = files.write(tmp_path / name, volume(shape=shape), AFFINE)
    monkeypatch.setattr(memory, "free_bytes", lambda: 8 * 64**3)
    assert read_scan(path)[0].image.shape == shape
    monkeypatch.setattr(memory, "free_bytes", lambda: 8 * 64**3 - 1)
    monkeypatch.setattr(np, "empty", None)
    refused(path, "needs about 0.0 GiB of memory, 0.0 are free; .* crop")


@pytest.mark.parametrize("name", ALL)
def test_row_5_negative_dimension_and_no_voxel_size(tmp_path: Path, files: Any, name: str) -> None:
    refused(claiming(files, tmp_path / name, "-5 6 7"), "impossible dimensions")
    if ".nii" in name:
        path = files.nifti(tmp_path / name, volume(), AFFINE, pixdim=[1, 0, 2, 2, 0, 0, 0, 0])
    elif name == "a.nrrd":
        path = files.nrrd(tmp_path / name, volume(), AFFINE, {"space directions": "(1,0,0) (0,0,0) (0,0,1)"})
    else:
        path = files.metaimage(tmp_path / name, volume(), AFFINE, ElementSpacing="1 0 2")
    refused(path, "not positive|singular")


def placed(files: Any, path: Path, affine: np.ndarray) -> Path:
    """A file with any affine, a broken one included."""
    if ".nii" in path.name:
        rows = {f"srow_{a}": affine[i] for i, a in enumerate("xyz")}
        return Path(files.nifti(path, volume(), AFFINE, **rows))
    lps = affine * [[-1], [-1], [1], [1]]
    if path.suffix == ".nrrd":
        vectors = ["(" + ",".join(map(str, lps[:3, k])) + ")" for k in range(4)]
        return Path(files.nrrd(path, volume(), AFFINE, {"space directions": " ".join(vectors[:3]), "space origin": vectors[3]}))
    turn = " ".join(str(v) for v in lps[:3, :3].T.ravel())
    return Path(files.metaimage(path, volume(), AFFINE, ElementSpacing="1 1 1", TransformMatrix=turn, Offset=" ".join(map(str, lps[:3, 3]))))


@pytest.mark.parametrize("name", ALL)
def test_row_6_an_affine_that_is_not_finite_or_singular(tmp_path: Path, files: Any, name: str) -> None:
    for row, column, value in ((0, 1, np.nan), (1, 3, np.inf), (2, 2, 0.0)):
        affine = AFFINE.copy()
        affine[row, column] = value
        refused(placed(files, tmp_path / name, affine), "not numbers|singular")


def unoriented(files: Any, path: Path) -> Path:
    """A file that says how large its voxels are and no more."""
    if ".nii" in path.name:
        return Path(files.nifti(path, volume(), AFFINE, sform_code=0, qform_code=0))
    if path.suffix == ".nrrd":
        gone = dict.fromkeys(("space", "space directions", "space origin"))
        return Path(files.nrrd(path, volume(), AFFINE, {**gone, "spacings": "2 1.5 2.5"}))
    return Path(files.metaimage(path, volume(), AFFINE, packed=path.suffix == ".mha", TransformMatrix=None))


@pytest.mark.parametrize("name", ALL)
def test_row_7_no_orientation(tmp_path: Path, files: Any, name: str) -> None:
    path = unoriented(files, tmp_path / name)
    refused(path, "states no orientation.*--assume-orientation")
    for code in ("RAS", "LPS", "SAR"):
        case, notices = read_scan(path, assume_orientation=code)
        assert "".join(nib.aff2axcodes(case.affine)) == code
        assert np.allclose(case.spacing, (2.0, 1.5, 2.5))
        assert "as you asked" in notices[0]
    with pytest.raises(InputError, match="--assume-orientation XYZ"):
        read_scan(path, assume_orientation="XYZ")


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", ""])
def test_row_7_a_space_of_nrrd_that_is_not_the_patients(tmp_path: Path, files: Any, space: str) -> None:
    path = files.nrrd(tmp_path / "a.nrrd", volume(), AFFINE, {"space": space or None})
    refused(path, "states no orientation.*--assume-orientation")
    assert np.allclose(read_scan(path, assume_orientation="RAS")[0].spacing, (2.0, 1.5, 2.5))


def test_row_8_sform_and_qform_differ(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(), None)
    other = AFFINE.copy()
    other[0, 3] += 4
    image.set_qform(AFFINE, 1)
    image.set_sform(other, 2)
    image.to_filename(tmp_path / "a.nii.gz")
    case, notices = read_scan(tmp_path / "a.nii.gz")
    assert np.allclose(case.affine, other)
    assert any("sform and qform differ" in n and "sform is used" in n for n in notices)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("unit", "code", "factor"), [("m", 1, 0.001), ("um", 3, 1000.0)])
def test_row_9_other_units_of_length(tmp_path: Path, files: Any, name: str, unit: str, code: int, factor: float) -> None:
    scaled = np.diag([factor] * 3 + [1.0]) @ AFFINE
    if ".nii" in name:
        path = files.nifti(tmp_path / name, volume(), scaled, xyzt_units=code)
    elif name == "a.nrrd":
        path = files.nrrd(tmp_path / name, volume(), scaled, {"space units": f'"{unit}" "{unit}" "{unit}"'})
    else:
        path = files.metaimage(tmp_path / name, volume(), scaled, DistanceUnits=unit)
    case, notices = read_scan(path)
    assert np.allclose(case.affine, AFFINE, rtol=1e-5)
    assert any("converted to mm" in n for n in notices)


@pytest.mark.parametrize("name", ALL)
def test_row_10_sheared_grids_are_resampled(tmp_path: Path, files: Any, name: str) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.5
    case, notices = read_scan(placed(files, tmp_path / name, affine))
    assert np.allclose(case.affine[:3, :3], np.diag([1, 1, 2]))
    assert any("right-angled" in n for n in notices)


@pytest.mark.parametrize("name", ALL)
def test_row_11_every_orientation_is_the_same_scan(tmp_path: Path, files: Any, name: str) -> None:
    truth = read_scan(files.write(tmp_path / f"truth_{name}", volume(), AFFINE))[0]
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        axes = np.array(list(zip(order, signs, strict=True)))
        turned = nib.orientations.apply_orientation(volume(), axes)
        affine = AFFINE @ nib.orientations.inv_ornt_aff(axes, volume().shape)
        case, notices = read_scan(files.write(tmp_path / name, turned, affine))
        assert notices == []
        assert np.allclose(case.affine, affine)
        assert np.array_equal(orient(case).image, orient(truth).image)
        assert np.allclose(orient(case).affine, orient(truth).affine)


@pytest.mark.parametrize("name", ALL)
def test_row_12_other_dimensions(tmp_path: Path, files: Any, name: str) -> None:
    flat, four = volume(shape=(5, 6, 1)), volume(shape=(5, 6, 7, 3))
    refused(files.write(tmp_path / f"flat_{name}", flat, AFFINE), "2D image")
    path = tmp_path / name
    if ".nii" in name:
        color = files.nifti(tmp_path / f"c{name}", volume(), AFFINE, datatype=128)
        files.nifti(path, four, AFFINE)
    elif name == "a.nrrd":
        directions = [f"({','.join(map(str, (files.LPS @ AFFINE)[:3, k]))})" for k in range(3)]
        fields = {"space directions": " ".join([*directions, "none"])}
        color = files.nrrd(tmp_path / f"c{name}", four, AFFINE, {**fields, "kinds": "domain domain domain RGB-color"})
        files.nrrd(path, four, AFFINE, {**fields, "kinds": "domain domain domain list"})
    else:
        color = files.metaimage(tmp_path / f"c{name}", volume(), AFFINE, ElementNumberOfChannels="3")
        turn = np.eye(4)
        turn[:3, :3] = (AFFINE[:3, :3] / (2.0, 1.5, 2.5)).T @ files.LPS[:3, :3]
        place = {"TransformMatrix": " ".join(map(str, turn.ravel())), "Offset": "0 0 0 0", "ElementSpacing": "2 1.5 2.5 1"}
        files.metaimage(path, four, AFFINE, **place)
    refused(color, "color")
    refused(path, r"--volume-index 0\.\.2")
    for index in range(3):
        case, notices = read_scan(path, volume_index=index)
        assert np.array_equal(case.image, four[..., index])
        assert f"volume {index} of 3 used" in notices[0]
    with pytest.raises(InputError, match="--volume-index 3"):
        read_scan(path, volume_index=3)


@pytest.mark.parametrize("name", ALL)
def test_row_13_voxels_that_are_not_finite_are_counted(tmp_path: Path, files: Any, name: str) -> None:
    array = volume(np.float32)
    array[0, 0, :2], array[1, 1, 1] = np.nan, np.inf
    refused(files.write(tmp_path / name, array, AFFINE), "3 of 210 voxels are not finite")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("high", [255, 4095])
def test_row_14_values_that_are_not_hu(tmp_path: Path, files: Any, name: str, high: int) -> None:
    array = np.linspace(0, high, 210).round().astype(np.int16).reshape(5, 6, 7)
    path = files.write(tmp_path / name, array, AFFINE)
    refused(path, rf"values 0\.\.{high} are not HU.*--not-hu")
    case, notices = read_scan(path, not_hu=True)
    assert np.array_equal(case.image, array)
    assert "as you asked" in notices[0]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pad", [-2048, -3024])
def test_row_15_padding_is_outside_the_field_of_view(tmp_path: Path, files: Any, name: str, pad: int) -> None:
    array = volume()
    array[0] = pad
    case, notices = read_scan(files.write(tmp_path / name, array, AFFINE))
    assert (case.image[0] == -1024).all()
    assert np.array_equal(case.image[1:], array[1:])
    assert "42 voxels below -1024 HU lie outside the field of view" in notices[0]


@pytest.mark.parametrize("name", ALL)
def test_row_16_values_beyond_int16_are_clipped(tmp_path: Path, files: Any, name: str) -> None:
    array = volume(np.float32)
    array[2, 3, 4] = 1e6
    case, notices = read_scan(files.write(tmp_path / name, array, AFFINE))
    assert case.image.dtype == np.int16
    assert case.image[2, 3, 4] == 32767
    assert any("1 voxels above 32767 HU clipped" in n for n in notices)


@pytest.mark.parametrize(("image", "mask"), list(itertools.product(ALL, repeat=2)))
def test_row_17_a_label_map_off_its_scans_grid(tmp_path: Path, files: Any, image: str, mask: str) -> None:
    """Any two formats may be a pair, and only on one grid."""
    scan = files.write(tmp_path / f"image_{image}", volume(), AFFINE)
    case, _ = read_pair(PairPath("a", scan, files.write(tmp_path / f"label_{mask}", label(), AFFINE)))
    assert np.array_equal(case.label, label())
    longer, moved = AFFINE.copy(), AFFINE.copy()
    longer[2, 2], moved[0, 3] = 2.7, 32.0
    for affine, values, message in (
        (AFFINE, label((5, 6, 8)), "5 x 6 x 8 voxels, its scan"), (longer, label(), "differs in spacing"), (moved, label(), "differs in position"),
    ):  # fmt: skip
        pair = PairPath("a", scan, files.write(tmp_path / f"label_{mask}", values, affine))
        with pytest.raises(InputError, match=rf"label_{mask}: .*{message}"):
            read_pair(pair)


@pytest.mark.parametrize("name", ALL)
def test_row_18_label_values_that_are_no_structures(tmp_path: Path, files: Any, name: str) -> None:
    path = files.write(tmp_path / name, np.array([0, 1, 2, 15, 2, 0] * 4, np.int16).reshape(2, 3, 4), AFFINE)
    with pytest.raises(InputError, match=r"values 0, 1, 2, 15, of which 15 have no structure; give --label-map"):
        read_label(path)
    values, _, _ = read_label(path, label_map={1: 3, 2: 0, 15: 8})
    assert sorted(np.unique(values)) == [0, 3, 8]
    path = files.write(tmp_path / name, np.array([0, 1, 1.0001, 5] * 6, np.float64).reshape(2, 3, 4), AFFINE)
    with pytest.raises(InputError, match=r"whole numbers, this file holds 1\.0001"):
        read_label(path)


@pytest.mark.parametrize("name", ALL)
def test_row_19_empty_label_or_missing_structure(tmp_path: Path, files: Any, name: str) -> None:
    scan = files.write(tmp_path / f"image_{name}", volume(), AFFINE)
    for values, message in ((label() * 0, "label map is empty"), (np.minimum(label(), 6), "no voxels of PA, LAA")):
        _, notices = read_pair(PairPath("a", scan, files.write(tmp_path / f"label_{name}", values, AFFINE)))
        assert any(message in n for n in notices)


def test_row_20_one_scan_under_two_names(tmp_path: Path, files: Any) -> None:
    """In another format and axis order too."""
    hashes = {}
    axes = np.array([[2, 1], [0, -1], [1, 1]])
    for name in ALL:
        turned = nib.orientations.apply_orientation(volume(), axes) if name == "a.mha" else volume()
        affine = AFFINE @ nib.orientations.inv_ornt_aff(axes, volume().shape) if name == "a.mha" else AFFINE
        hashes[name] = content_hash(read_scan(files.write(tmp_path / name, turned, affine))[0])
    assert len(set(hashes.values())) == 1
    with pytest.raises(InputError, match="are the same scan"):
        check_duplicates(hashes)
    other = content_hash(read_scan(files.write(tmp_path / "b.mha", volume() + np.int16(1), AFFINE))[0])
    check_duplicates({"a.mha": hashes["a.mha"], "b.mha": other})


def zipped(path: Path, entries: dict[str, bytes], **changes: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in changes.items():
                setattr(info, key, value)
            target.writestr(info, content)
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked in this test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_row_27_an_archive_is_read_and_leaves_nothing(tmp_path: Path, files: Any, temporary: Path) -> None:
    pytest.importorskip("pydicom")
    for name in ("scan.nii.gz", "scan.mha", "scan.nrrd"):
        content = files.write(tmp_path / name, volume(), AFFINE).read_bytes()
        path = zipped(tmp_path / "case7.zip", {"deep/in/" + name: content, "read me.txt": b"hello", "__MACOSX/._" + name: b"x"})
        case, notices = read_scan(path)
        assert (case.id, notices) == ("case7", [])
        assert np.array_equal(case.image, volume())
    raw = np.random.default_rng(2).integers(0, 3000, (5, 4, 6)).astype(np.uint16)
    folder = files.dicom(tmp_path / "series", raw)
    case, _ = read_scan(zipped(tmp_path / "dicom.zip", {f"a/b/{p.name}": p.read_bytes() for p in folder.iterdir()}))
    assert np.array_equal(case.image, raw.astype(int) - 1024)
    broken = files.nifti(tmp_path / "b.nii.gz", volume(), AFFINE, dim=[3, -5, 6, 7, 1, 1, 1, 1])
    refused(zipped(tmp_path / "broken.zip", {"b.nii.gz": broken.read_bytes()}), r"broken\.zip/b\.nii\.gz: .*impossible dimensions")
    refused(zipped(tmp_path / "two.zip", {"b.nii.gz": b"", "c.mha": b""}), r"holds 2 volumes \(b\.nii\.gz, c\.mha\)")
    refused(zipped(tmp_path / "none.zip", {"a.txt": b"hello"}), "holds no DICOM images")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["../a.nii", "/etc/a.nii", "a/../../a.nii", "a\\..\\b.nii", "C:/a.nii", "a\nb.nii"])
def test_row_27_names_that_lead_elsewhere(tmp_path: Path, temporary: Path, name: str) -> None:
    refused(zipped(tmp_path / "a.zip", {name: b"x"}), "leads elsewhere")
    assert list(temporary.iterdir()) == []
    assert not (tmp_path.parent / "a.nii").exists()


def test_row_27_links_bombs_and_other_traps(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipped(tmp_path / "link.zip", {"a.nii": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3)
    refused(link, "link or a device")
    refused(zipped(tmp_path / "many.zip", {f"{n}.dcm": b"" for n in range(20_001)}), "holds 20001 files")
    twice = zipped(tmp_path / "twice.zip", {"a.nii": b"1", "A.nii": b"2"})
    refused(twice, "twice")
    secret = zipped(tmp_path / "secret.zip", {"a.nii": b"1"})
    data = bytearray(secret.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    secret.write_bytes(bytes(data))
    refused(secret, "encrypted")
    monkeypatch.setattr(archive, "FREE_BYTES", 10_000)
    refused(zipped(tmp_path / "bomb.zip", {"a.nii": bytes(1_000_000)}), "times its size")
    monkeypatch.setattr(archive, "MAX_BYTES", 100_000)
    refused(zipped(tmp_path / "large.zip", {"a.nii": np.random.default_rng(0).bytes(200_000)}), "unpacks to")
    assert list(temporary.iterdir()) == []


def test_row_27_an_archive_that_lies_or_is_damaged(tmp_path: Path, files: Any, temporary: Path) -> None:
    content = files.nifti(tmp_path / "a.nii", volume(shape=(20, 20, 20)), AFFINE).read_bytes()
    good = zipped(tmp_path / "a.zip", {"a.nii": content}).read_bytes()
    for size in (len(content) + 7, len(content) - 7):
        data = bytearray(good)
        struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, size)
        (tmp_path / "a.zip").write_bytes(bytes(data))
        refused(tmp_path / "a.zip", "damaged")
    for at in range(60, len(good) - 120, 997):
        data = bytearray(good)
        data[at] ^= 0x10
        (tmp_path / "a.zip").write_bytes(bytes(data))
        refused(tmp_path / "a.zip", "damaged")
    renamed = bytearray(good)  # a name that is not UTF-8 although a flag says so
    at = renamed.index(b"PK\x01\x02")
    renamed[at + 9] |= 0x08
    renamed[at + 46] = 0xB7
    for data in (good[: len(good) // 2], b"", b"hello", good[:-3], bytes(renamed)):
        (tmp_path / "a.zip").write_bytes(data)
        refused(tmp_path / "a.zip", "not a zip archive")
    assert list(temporary.iterdir()) == []


def test_row_28_a_pickle_in_place_of_a_scan_is_not_loaded(tmp_path: Path) -> None:
    import pickle

    for name in (*ALL, "a.zip", "a.dcm"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": print}))
        with pytest.raises(InputError):
            read_scan(tmp_path / name)


def test_pairs_of_several_formats_and_a_dicom_folder(tmp_path: Path, files: Any) -> None:
    pytest.importorskip("pydicom")
    raw = np.random.default_rng(2).integers(0, 3000, (5, 4, 6)).astype(np.uint16)
    affine = read_scan(files.dicom(tmp_path / "images" / "p1", raw))[0].affine
    files.write(tmp_path / "images" / "p2.mha", volume(), AFFINE)
    (tmp_path / "labels").mkdir()
    files.write(tmp_path / "labels" / "p1.nrrd", label((5, 4, 6)), affine)
    files.write(tmp_path / "labels" / "p2.nii.gz", label(), AFFINE)
    one, two = find_pairs(tmp_path)
    assert np.array_equal(read_pair(one)[0].label, label((5, 4, 6)))
    assert np.array_equal(read_pair(one)[0].image, raw.astype(int) - 1024)
    assert np.array_equal(read_pair(two)[0].label, label())
    assert len(one.files) == 7


def test_row_33_an_edited_file_of_voxels_makes_another_cohort(tmp_path: Path, files: Any) -> None:
    """Those that lie beside their header too."""
    rows = []
    for n in range(4):
        scan, mask = files.write(tmp_path / f"{n}.mhd", volume() + n, AFFINE), files.write(tmp_path / f"m{n}.nhdr", label(), AFFINE)
        rows.append(f"{scan.name},{mask.name}")
    (tmp_path / "c.csv").write_text("\n".join(["image,label", *rows]))
    data = FolderData(tmp_path / "c.csv")

    def stamps() -> tuple[str, list[str]]:
        found = FolderCohort(data)
        return found.fingerprint(), [found.source(i) for i in range(4)]

    before = stamps()
    assert stamps() == before
    for index, name in ((2, "2.raw"), (1, "m1.raw.gz")):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"x")
        after = stamps()
        assert after[0] != before[0]
        assert [i for i in range(4) if after[1][i] != before[1][i]] == [index]
        before = after
