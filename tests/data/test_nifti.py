"""NIfTI: what is written is read back; every damaged or ambiguous file is refused by name."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auricle.core.errors import InputError
from auricle.data.geometry import is_sheared
from auricle.data.labels import read_label, to_ids
from auricle.data.nifti import read_nifti, saving, write_nifti

AFFINE = np.array([[0.0, -1.5, 0.0, 30.0], [2.0, 0.0, 0.0, -20.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])


def volume(dtype: Any = np.int16, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 100, shape).astype(dtype)


def saved(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = AFFINE, **header: Any) -> Path:
    """A file written by nibabel, with header fields altered afterwards."""
    image = nib.Nifti1Image(volume() if array is None else array, affine)
    image.header.set_xyzt_units("mm")
    plain = bytearray(image.to_bytes())
    stored = nib.Nifti1Header(bytes(plain[:348]), check=False)
    for name, value in header.items():
        stored[name] = value
    plain[:348] = stored.binaryblock
    path.write_bytes(gzip.compress(bytes(plain)) if path.name.endswith(".gz") else bytes(plain))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_round_trip(tmp_path: Path, name: str, dtype: Any) -> None:
    array = volume(dtype)
    write_nifti(tmp_path / name, array, AFFINE, dtype=dtype)
    back, affine, notices = read_nifti(tmp_path / name)
    assert np.array_equal(back, array)
    assert back.dtype == dtype
    assert np.array_equal(affine, AFFINE)
    assert notices == []
    assert np.array_equal(nib.load(tmp_path / name).get_fdata(), array)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    flip=st.booleans(),
)
def test_any_rotation_round_trips(tmp_path: Path, shape: Any, angles: Any, spacing: Any, flip: bool) -> None:
    """sform and qform agree for every rotation and handedness, so that no notice is raised."""
    affine = np.eye(4)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = [i for i in range(3) if i != axis]
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        affine[:3, :3] = affine[:3, :3] @ turn
    affine[:3, :3] *= spacing
    affine[:, 2] *= -1 if flip else 1
    write_nifti(tmp_path / "r.nii", volume(shape=shape), affine, dtype=np.int16)
    _, back, notices = read_nifti(tmp_path / "r.nii")
    assert np.allclose(back, affine, atol=1e-5)
    assert notices == []


def test_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_nifti(tmp_path / name / f"{name}.nii.gz", volume(), AFFINE, dtype=np.uint8)
    assert (tmp_path / "a" / "a.nii.gz").read_bytes() == (tmp_path / "b" / "b.nii.gz").read_bytes()
    # Neither time (bytes 4 to 7) nor name (flags in byte 3) in the gzip header.
    assert (tmp_path / "a" / "a.nii.gz").read_bytes()[3:8] == bytes(5)


def test_values_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_nifti(tmp_path / "a.nii.gz", np.full((3, 3, 3), 300), AFFINE, dtype=np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_system_refusal_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be written"):
        write_nifti(tmp_path / "file" / "a.nii.gz", volume(), AFFINE, dtype=np.int16)

    def fill_the_disk() -> None:
        with saving(tmp_path / "b") as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        fill_the_disk()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_big_endian_and_nifti2(tmp_path: Path) -> None:
    array = volume(">i2")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.Nifti1Image(array, AFFINE, header).to_filename(tmp_path / "big.nii")
    nib.Nifti2Image(array.astype("<i2"), AFFINE).to_filename(tmp_path / "two.nii.gz")
    for name in ("big.nii", "two.nii.gz"):
        back, affine, _ = read_nifti(tmp_path / name)
        assert np.array_equal(back, array)
        assert back.dtype.isnative
        assert np.array_equal(affine, AFFINE)


def test_scaling(tmp_path: Path) -> None:
    whole, _, _ = read_nifti(saved(tmp_path / "a.nii", scl_slope=1, scl_inter=-1024))
    assert whole.dtype == np.int16
    assert np.array_equal(whole, volume().astype(int) - 1024)
    part, _, _ = read_nifti(saved(tmp_path / "b.nii", scl_slope=0.5, scl_inter=3))
    assert part.dtype == np.float32
    assert np.allclose(part, volume() * 0.5 + 3)
    wide, _, _ = read_nifti(saved(tmp_path / "c.nii", scl_slope=1000, scl_inter=0))
    assert np.array_equal(wide, volume().astype(int) * 1000)
    none, _, _ = read_nifti(saved(tmp_path / "d.nii", scl_slope=0, scl_inter=5))
    assert np.array_equal(none, volume())


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii.gz")
    good = path.read_bytes()
    path.write_bytes(good + b"garbage")
    with pytest.raises(InputError, match="damaged"):
        read_nifti(path)
    path.write_bytes(good + bytes(20))  # padding with zeros, as tape and some transfers leave it, is harmless
    assert np.array_equal(read_nifti(path)[0], volume())
    plain = saved(tmp_path / "b.nii")
    plain.write_bytes(plain.read_bytes() + b"\0")
    with pytest.raises(InputError, match="more voxels than its header"):
        read_nifti(plain)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=4))
def test_a_damaged_header_is_read_or_refused(tmp_path: Path, changes: dict[int, int]) -> None:
    """Whatever the header says, there is a finite volume with a usable affine, or an `InputError`."""
    path = tmp_path / "a.nii"
    data = bytearray(path.read_bytes() if path.exists() else saved(path).read_bytes())
    for at, value in changes.items():
        data[at] = value
    (tmp_path / "b.nii").write_bytes(bytes(data))
    try:
        array, affine, _ = read_nifti(tmp_path / "b.nii")
    except InputError:
        return
    assert np.isfinite(array).all()
    assert np.isfinite(np.linalg.inv(affine)).all()


def test_empty_missing_and_misnamed(tmp_path: Path) -> None:
    (tmp_path / "e.nii.gz").touch()
    plain = saved(tmp_path / "p.nii").rename(tmp_path / "p.nii.gz")
    zipped = saved(tmp_path / "z.nii.gz").rename(tmp_path / "z.nii")
    (tmp_path / "t.nii").write_bytes(b"hello world" * 100)
    for path, message in (
        (tmp_path / "e.nii.gz", "0 bytes"),
        (plain, "not gzip-compressed"),
        (zipped, "is gzip-compressed"),
        (tmp_path / "t.nii", "not a NIfTI file"),
        (tmp_path / "none.nii", "no such file"),
        (tmp_path / "x.mha", "no such file"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(InputError, match=message):
            read_nifti(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dim", [[3, 30000, 30000, 30000], [3, 4000, 500, 500], [4, 5, 6, 7, 30000]])
def test_absurd_size_is_refused_before_allocating(tmp_path: Path, name: str, dim: list[int], monkeypatch: Any) -> None:
    path = saved(tmp_path / name, dim=dim + [1] * (8 - len(dim)))
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(InputError, match="claims"):
        read_nifti(path, volume_index=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, -5, 6, 7, 1, 1, 1, 1]}, "impossible dimensions"),
        ({"dim": [3, 0, 6, 7, 1, 1, 1, 1]}, "impossible dimensions"),
        ({"dim": [9, 5, 6, 7, 1, 1, 1, 1]}, "impossible dimensions"),
        ({"pixdim": [1, 0, 2, 2, 0, 0, 0, 0]}, "not positive"),
        ({"pixdim": [1, -1, 2, 2, 0, 0, 0, 0]}, "not positive"),
        ({"pixdim": [1, np.nan, 2, 2, 0, 0, 0, 0]}, "not positive"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "not numbers"),
        ({"srow_x": [0, 0, 0, 0]}, "singular"),
        ({"srow_x": [0, 0, 2.5, 0]}, "singular"),
        ({"sform_code": 0, "qform_code": 0}, "--assume-orientation"),
        ({"xyzt_units": 7}, "unit"),
        ({"xyzt_units": 1}, "no CT voxel"),
        ({"datatype": 128}, "color"),
        ({"datatype": 32}, "not a real number"),
        ({"vox_offset": np.nan}, "offset"),
        ({"vox_offset": 1e9}, "offset"),
        ({"scl_slope": 2, "scl_inter": np.inf}, "scl_inter"),
        ({"scl_slope": 3e38}, "beyond all numbers"),
        ({"magic": b"ni1\0"}, "single-file"),
    ],
)
def test_header_faults(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_nifti(saved(tmp_path / "a.nii.gz", **fields))


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "pil"])
def test_assumed_orientation(tmp_path: Path, code: str) -> None:
    path = saved(tmp_path / "a.nii.gz", sform_code=0, qform_code=0)
    _, affine, notices = read_nifti(path, assume_orientation=code)
    assert "".join(nib.aff2axcodes(affine)) == code.upper()
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), np.linalg.norm(AFFINE[:3, :3], axis=0))
    assert np.allclose(affine @ [2, 2.5, 3, 1], [0, 0, 0, 1])
    assert "no orientation" in notices[0]


@pytest.mark.parametrize("code", ["RA", "RLS", "XYZ", "RASS"])
def test_wrong_orientation_code(tmp_path: Path, code: str) -> None:
    with pytest.raises(InputError, match="--assume-orientation"):
        read_nifti(saved(tmp_path / "a.nii.gz", sform_code=0, qform_code=0), assume_orientation=code)


def test_qform_alone_and_disagreeing(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(), None)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 0)
    image.to_filename(tmp_path / "q.nii")
    assert np.allclose(read_nifti(tmp_path / "q.nii")[1], AFFINE, atol=1e-5)
    other = AFFINE.copy()
    other[0, 3] += 4
    image.set_sform(other, 2)
    image.to_filename(tmp_path / "both.nii")
    _, affine, notices = read_nifti(tmp_path / "both.nii")
    assert np.allclose(affine, other)
    assert any("sform and qform differ by up to 4" in n and "sform is used" in n for n in notices)
    # A qfac of 0 means 1.
    assert read_nifti(saved(tmp_path / "zero.nii", pixdim=[0, 2, 1.5, 2.5, 0, 0, 0, 0], qform_code=1))[2] == []


def test_pixdim_against_sform(tmp_path: Path) -> None:
    _, affine, notices = read_nifti(saved(tmp_path / "a.nii", pixdim=[1, 4, 1.5, 2.5, 0, 0, 0, 0]))
    assert np.allclose(affine, AFFINE)
    assert any("pixdim" in n for n in notices)


def test_shear_is_flagged_and_written_as_sform(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 2] = 0.5
    assert is_sheared(sheared)
    assert not is_sheared(AFFINE)
    write_nifti(tmp_path / "a.nii.gz", volume(), sheared, dtype=np.int16)
    _, affine, notices = read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(affine, sheared)
    assert any("sheared" in n for n in notices)


def test_other_dimensions(tmp_path: Path) -> None:
    flat = saved(tmp_path / "flat.nii", volume(shape=(5, 6)))
    thin = saved(tmp_path / "thin.nii", volume(shape=(5, 6, 1)))
    for path in (flat, thin):
        with pytest.raises(InputError, match="2D"):
            read_nifti(path)
    four = volume(shape=(5, 6, 7, 3))
    path = saved(tmp_path / "four.nii.gz", four)
    with pytest.raises(InputError, match=r"--volume-index 0\.\.2"):
        read_nifti(path)
    for index in range(3):
        assert np.array_equal(read_nifti(path, volume_index=index)[0], four[..., index])
    with pytest.raises(InputError, match="--volume-index 3"):
        read_nifti(path, volume_index=3)
    assert read_nifti(saved(tmp_path / "one.nii", volume(shape=(5, 6, 7, 1))))[0].shape == (5, 6, 7)
    with pytest.raises(InputError, match="5 dimensions"):
        read_nifti(saved(tmp_path / "five.nii", volume(shape=(5, 6, 7, 1, 3))), volume_index=0)


def test_labels(tmp_path: Path) -> None:
    array = (volume() % 9).astype(np.float32)
    label, _, _ = read_label(saved(tmp_path / "a.nii.gz", array))
    assert label.dtype == np.uint8
    assert np.array_equal(label, array)
    mapped = to_ids(np.array([0, 205, 420, 7]), "x", {205: 1, 420: 2, 7: 0})
    assert mapped.tolist() == [0, 1, 2, 0]


def test_label_faults(tmp_path: Path) -> None:
    array = (volume() % 9).astype(np.float64)
    array[0, 0, 0] = 1.0001
    with pytest.raises(InputError, match=r"whole numbers.* 1\.0001"):
        read_label(saved(tmp_path / "a.nii.gz", array))
    with pytest.raises(InputError, match=r"205, 420.*--label-map"):
        to_ids(np.array([0, 205, 420]), "x")
    with pytest.raises(InputError, match=r"9.*-1|-1.*9"):
        to_ids(np.array([-1, 0, 9]), "x")
    with pytest.raises(InputError, match="which 3 have no structure"):
        to_ids(np.array([0, 1, 3]), "x", {1: 1})
    with pytest.raises(InputError, match="--label-map: 12"):
        to_ids(np.array([0, 1]), "x", {1: 12})
    with pytest.raises(InputError, match=r"\(100 values\)"):
        to_ids(np.arange(100), "x")
