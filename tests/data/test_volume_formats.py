"""NRRD and MetaImage: the same voxels in the same place as other readers find, and refusals where those keep quiet."""

import bz2
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auricle.core.anatomy import ID
from auricle.core.errors import InputError
from auricle.data.labels import read_label
from auricle.data.volume_files import read_volume

pytest.importorskip("nrrd")

AFFINE = np.array([[0.0, -1.5, 0.0, 30.0], [2.0, 0.0, 0.0, -20.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (5, 6, 7)


def volume(dtype: Any = np.int16, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_voxels_and_place(tmp_path: Path, files: Any, name: str, dtype: Any) -> None:
    back, affine, notices = read_volume(files.write(tmp_path / name, volume(dtype), AFFINE))
    assert back.dtype == dtype
    assert np.array_equal(back, volume(dtype))
    assert np.allclose(affine, AFFINE)
    assert notices == []


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    ending=st.sampled_from(["nrrd", "nhdr", "mha", "mhd"]),
    packed=st.booleans(),
)
def test_simpleitk_agrees(tmp_path: Path, angles: Any, spacing: Any, ending: str, packed: bool) -> None:
    """What SimpleITK writes, on any rotated grid, is read at the place where SimpleITK has it."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(volume().transpose(2, 1, 0))
    turn = sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()
    image.SetDirection(turn)
    image.SetSpacing(spacing)
    image.SetOrigin((3.0, -4.0, 5.5))
    sitk.WriteImage(image, str(tmp_path / f"s.{ending}"), useCompression=packed)
    back, affine, _ = read_volume(tmp_path / f"s.{ending}")
    assert np.array_equal(back, volume())
    for index in ((0, 0, 0), (4, 5, 6), (1, 3, 2)):
        lps = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose((affine @ [*index, 1])[:3], np.array(lps) * [-1, -1, 1], atol=1e-4)


def test_pynrrd_agrees(tmp_path: Path) -> None:
    import nrrd

    for space, sign in (("RAS", (1, 1)), ("left-anterior-superior", (-1, 1)), ("LPS", (-1, -1))):
        header = {"space": space, "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
        nrrd.write(str(tmp_path / "a.nrrd"), volume(), header)
        back, affine, _ = read_volume(tmp_path / "a.nrrd")
        assert np.array_equal(back, volume())
        assert np.allclose(affine, np.diag([*sign, 1, 1]) @ AFFINE)


def test_other_encodings_and_byte_orders(tmp_path: Path, files: Any) -> None:
    big = volume().astype(">i2").tobytes(order="F")
    for fields, data in (
        ({"encoding": "raw", "endian": "big"}, big),
        ({"encoding": "bzip2", "endian": "big"}, bz2.compress(big)),
        ({"encoding": "raw", "endian": "big", "byte skip": "3"}, b"abc" + big),
        ({"encoding": "raw", "endian": "big", "byte skip": "-1"}, b"abcdef" + big),
        ({"endian": "big", "byte skip": "2"}, gzip.compress(b"ab" + big)),
    ):
        assert np.array_equal(read_volume(files.nrrd(tmp_path / "a.nrrd", volume(), AFFINE, fields, data))[0], volume())
    path = files.metaimage(tmp_path / "a.mha", volume(), AFFINE, data=big, BinaryDataByteOrderMSB="True")
    assert np.array_equal(read_volume(path)[0], volume())
    path = files.metaimage(tmp_path / "h.mhd", volume(), AFFINE, data=b"head" + volume().tobytes(order="F"), HeaderSize="-1")
    assert np.array_equal(read_volume(path)[0], volume())


@pytest.mark.parametrize("first", [True, False])
def test_several_volumes(tmp_path: Path, files: Any, first: bool) -> None:
    """A list axis before or after those of space, as in sequences of Slicer."""
    four = volume(shape=(*SHAPE, 3))
    directions = [f"({','.join(map(str, (files.LPS @ AFFINE)[:3, k]))})" for k in range(3)]
    order, kinds = (["none", *directions], "list domain domain domain") if first else ([*directions, "none"], "domain domain domain list")
    stored = np.moveaxis(four, 3, 0) if first else four
    path = files.nrrd(tmp_path / "a.nrrd", stored, AFFINE, {"space directions": " ".join(order), "kinds": kinds})
    for index in range(3):
        back, affine, notices = read_volume(path, volume_index=index)
        assert np.array_equal(back, four[..., index])
        assert np.allclose(affine, AFFINE)
        assert "of 3 used" in notices[0]


NRRD_FAULTS: list[tuple[dict[str, str | None], str]] = [
    ({"type": "block"}, "not a real number"),
    ({"encoding": "ascii"}, "store it as raw or gzip"),
    ({"endian": None}, "little or big endian"),
    ({"sizes": None}, "lacks sizes"),
    ({"sizes": "5 6"}, "3 dimensions and 2 sizes"),
    ({"sizes": "5 6 x"}, "header is damaged"),
    ({"space origin": None}, "space origin are missing"),
    ({"space origin": "(0,0)"}, "not of three dimensions"),
    ({"space directions": "(1,0,0) (0,1,0)"}, "another number of axes"),
    ({"space units": '"furlong" "mm" "mm"'}, "unknown unit"),
    ({"byte skip": "-5"}, "byte skip"),
    ({"line skip": "2"}, "line skip"),
    ({"data file": "../a.raw"}, "another folder"),
    ({"data file": "none.raw"}, "missing: none.raw"),
    ({"data file": "LIST"}, "several files"),
    ({"data file": "list.raw"}, "missing: list.raw"),
    ({"space units": None, "sizes": "5 6 8"}, "cut off"),
    ({"sizes": "5 6 6"}, "more voxels than its header says"),
]
META_FAULTS: list[tuple[dict[str, str | None], str]] = [
    ({"ElementType": "MET_STRING"}, "not a real number"),
    ({"BinaryData": "False"}, "as text"),
    ({"BinaryDataByteOrderMSB": "Yrue"}, "neither True nor False"),
    ({"DimSize": None}, "lacks DimSize"),
    ({"DimSize": "5 6"}, "3 dimensions and 2 sizes"),
    ({"DimSize": "5 six 7"}, "not a number"),
    ({"TransformMatrix": "1 0 0 1"}, "not of 3 dimensions"),
    ({"Offset": None}, "Offset are missing"),
    ({"ElementSpacing": None}, "voxel size"),
    ({"DistanceUnits": "ft"}, "unknown unit"),
    ({"HeaderSize": "12"}, "HeaderSize"),
    ({"ElementDataFile": "../a.raw"}, "another folder"),
    ({"ElementDataFile": "none.raw"}, "missing: none.raw"),
    ({"ElementDataFile": "a%03d.raw 0 1"}, "several files"),
    ({"ElementToIntensityFunctionSlope": "2"}, "scales its intensities"),
    ({"DimSize": "5 6 8"}, "more than the file can hold"),
    ({"DimSize": "5 6 6"}, "more voxels than its header says"),
]


@pytest.mark.parametrize(("fields", "message"), NRRD_FAULTS)
def test_nrrd_header_faults(tmp_path: Path, files: Any, fields: dict[str, str | None], message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.nrrd: .*{message}"):
        read_volume(files.nrrd(tmp_path / "a.nrrd", volume(), AFFINE, fields))


@pytest.mark.parametrize(("fields", "message"), META_FAULTS)
def test_meta_header_faults(tmp_path: Path, files: Any, fields: dict[str, str | None], message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.mha: .*{message}"):
        read_volume(files.metaimage(tmp_path / "a.mha", volume(), AFFINE, **fields))


def test_a_stream_that_is_longer_or_shorter_than_stated(tmp_path: Path, files: Any) -> None:
    raw = volume().tobytes(order="F")
    for data in (zlib.compress(raw)[:-3], zlib.compress(raw) + b"x", zlib.compress(raw[:-2]), zlib.compress(raw + b"xx")):
        path = files.metaimage(tmp_path / "a.mha", volume(), AFFINE, packed=True, data=data)
        with pytest.raises(InputError, match=r"cut off|damaged"):
            read_volume(path)
    whole = files.metaimage(tmp_path / "a.mha", volume(), AFFINE, packed=True)
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(InputError, match="the header says"):
        read_volume(whole)


def test_what_is_no_such_file(tmp_path: Path) -> None:
    for name in ("a.nrrd", "a.mha"):
        (tmp_path / name).write_bytes(b"hello world\n" * 20)
        with pytest.raises(InputError, match=r"is not a (NRRD|MetaImage) file"):
            read_volume(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="0 bytes"):
            read_volume(tmp_path / name)
        (tmp_path / f"f.{name}").mkdir()
        with pytest.raises(InputError, match="is a folder"):
            read_volume(tmp_path / f"f.{name}")
    (tmp_path / "a.img").touch()
    with pytest.raises(InputError, match=r"should end in \.nii"):
        read_volume(tmp_path / "a.img")


def test_a_missing_pynrrd_is_named(tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    files.write(tmp_path / "a.nrrd", volume(), AFFINE)
    monkeypatch.setitem(sys.modules, "nrrd", None)
    with pytest.raises(InputError, match="pip install pynrrd"):
        read_volume(tmp_path / "a.nrrd")


def test_segments_of_3d_slicer_are_known_by_their_names(tmp_path: Path) -> None:
    import nrrd

    header: dict[str, Any] = {
        "space": "left-posterior-superior", "space directions": np.eye(3), "space origin": np.zeros(3),
        "Segment0_LabelValue": "1", "Segment0_Name": "left ventricle", "Segment1_LabelValue": "2", "Segment1_Name": "my tumor",
    }  # fmt: skip
    values = (np.arange(8).reshape(2, 2, 2) % 3).astype(np.uint8)
    nrrd.write(str(tmp_path / "a.seg.nrrd"), values, header)
    label, _, notices = read_label(tmp_path / "a.seg.nrrd")
    assert np.array_equal(label, np.where(values == 1, ID["LV"], 0))
    assert any("become background: my tumor" in n for n in notices)
    assert np.array_equal(read_label(tmp_path / "a.seg.nrrd", label_map={1: ID["RV"], 2: ID["RA"]})[0], np.choose(values, [0, ID["RV"], ID["RA"]]))
    header["Segment0_Name"] = "Segment_1"
    nrrd.write(str(tmp_path / "b.seg.nrrd"), values, header)
    with pytest.raises(InputError, match="none of its segments"):
        read_label(tmp_path / "b.seg.nrrd")
    nrrd.write(str(tmp_path / "c.seg.nrrd"), values, {k: v for k, v in header.items() if "LabelValue" not in k})
    with pytest.raises(InputError, match="names but no label values"):
        read_label(tmp_path / "c.seg.nrrd")
