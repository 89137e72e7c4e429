"""DICOM series: geometry and HU are right, and a series that is no volume is refused with its positions."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle.core import memory
from auricle.core.errors import InputError
from auricle.data import decoding, dicom, dicom_files
from auricle.data.dicom import read_dicom
from auricle.data.reading import read_scan

pydicom = pytest.importorskip("pydicom")

REAL = Path(__file__).parents[2].parent / "shared" / "data"
RAW = np.random.default_rng(2).integers(0, 3000, (6, 4, 5)).astype(np.uint16)
"""Slices, rows, columns."""


def dataset(n: int, **fields: Any) -> Any:
    """Slice `n` of a small CT series: 2 mm apart, pixels 0.5 (rows) x 0.75 (columns) mm."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{n + 1}"
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"1.2.3.{n + 1}", "CT"
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.SeriesDescription = "1.2.3", 4, "heart"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 4, 5, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10, -20, 30 + 2 * n], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [0.5, 0.75], 1, -1024
    ds.PixelData = RAW[n % len(RAW)].tobytes()
    for name, value in fields.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def series(folder: Path, count: int = 6, change: Callable[[int], dict[str, Any]] = lambda n: {}) -> Path:
    """A series in files whose names run against the slice order."""
    folder.mkdir(exist_ok=True)
    for n in range(count):
        dataset(n, **change(n)).save_as(folder / f"{'fedcba'[n]}.dcm")
    return folder


def test_geometry_and_values(tmp_path: Path) -> None:
    image, affine, notices = read_dicom(series(tmp_path))
    assert image.dtype == np.int16
    assert np.array_equal(image, RAW.transpose(2, 1, 0).astype(int) - 1024)
    # Column 3, row 2, slice 1 lies at LPS (-10 + 3 * 0.75, -20 + 2 * 0.5, 32).
    assert np.allclose(affine @ [3, 2, 1, 1], [7.75, 19, 32, 1])
    assert notices == []


@pytest.mark.parametrize("orientation", [[0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [0.8, 0.6, 0, -0.6, 0.8, 0]])
def test_other_planes(tmp_path: Path, orientation: list[float]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])

    def change(n: int) -> dict[str, Any]:
        return {"ImageOrientationPatient": orientation, "ImagePositionPatient": (5 - 3.0 * n * normal).tolist()}

    series(tmp_path, change=change)
    image, affine, _ = read_dicom(tmp_path)
    assert np.array_equal(image, RAW[::-1].transpose(2, 1, 0).astype(int) - 1024)
    lps = 5 - 15 * normal + 2 * 0.75 * np.array(orientation[:3]) + 3 * 0.5 * np.array(orientation[3:]) + 3 * normal
    assert np.allclose((affine @ [2, 3, 1, 1])[:3], lps * [-1, -1, 1])


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    image, _, _ = read_dicom(series(tmp_path, change=lambda n: {"RescaleSlope": n + 1, "RescaleIntercept": -1000 + n}))
    for n in range(6):
        assert np.array_equal(image[:, :, n], RAW[n].T.astype(int) * (n + 1) - 1000 + n)
    image, _, _ = read_dicom(series(tmp_path, change=lambda n: {"RescaleSlope": 0.5}))
    assert image.dtype == np.float32
    assert np.allclose(image[:, :, 0], RAW[0].T * 0.5 - 1024)


def test_padding(tmp_path: Path) -> None:
    raw = RAW.astype(np.int16) - 1000
    raw[:, 0, 0], raw[:, 1, 1] = -2000, -1500
    fields = {"PixelRepresentation": 1, "RescaleIntercept": 0, "PixelPaddingValue": -2000}
    image, _, notices = read_dicom(series(tmp_path, change=lambda n: {**fields, "PixelData": raw[n].tobytes()}))
    assert (image[0, 0] < -1024).all()
    assert (image[1, 1] < -1024).all()
    case, notices = read_scan(tmp_path)
    assert (case.image[:2, :2][np.eye(2, dtype=bool)] == -1024).all()
    assert any("12 voxels below -1024 HU lie outside the field of view" in n for n in notices)
    fields["PixelPaddingValue"] = 40
    raw[:, 2, 2] = 40
    image, _, notices = read_dicom(series(tmp_path, change=lambda n: {**fields, "PixelData": raw[n].tobytes()}))
    assert (image[2, 2] == 40).all()
    assert any("kept" in n for n in notices)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 2, 4, 8, 10, 12], r"missing between 4\.00 and 8\.00"),
        ([0, 2, 4, 4, 6, 8], r"same position 4\.00"),
        ([0, 2, 4.5, 6, 8, 10], r"not evenly spaced.* 4\.50"),
    ],
)
def test_uneven_slices(tmp_path: Path, positions: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dicom(series(tmp_path, change=lambda n: {"ImagePositionPatient": [0, 0, positions[n]]}))


def test_a_series_that_memory_cannot_hold_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = series(tmp_path)
    monkeypatch.setattr(memory, "free_bytes", lambda: RAW.size * 8 - 1)
    monkeypatch.setattr(dicom, "decode", None)
    with pytest.raises(InputError, match=r"needs about .* GiB of memory, .* are free"):
        read_dicom(folder)


def test_positions_rounded_to_a_tenth_are_accepted(tmp_path: Path) -> None:
    _, affine, _ = read_dicom(series(tmp_path, change=lambda n: {"ImagePositionPatient": [0, 0, round(0.625 * n, 1)]}))
    assert np.isclose(affine[2, 2], 0.625, atol=0.02)


def test_slice_shifted_in_plane(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not evenly spaced"):
        read_dicom(series(tmp_path, change=lambda n: {"ImagePositionPatient": [3 * (n == 2), 0, 2 * n]}))


def test_gantry_tilt_is_resampled(tmp_path: Path) -> None:
    tilt = np.deg2rad(15)
    flat = np.full((4, 5), 1100, np.uint16).tobytes()
    series(tmp_path, change=lambda n: {"ImagePositionPatient": [0, 2 * n * np.tan(tilt), 2 * n], "PixelData": flat})
    case, notices = read_scan(tmp_path, not_hu=True)
    assert np.allclose(case.affine[:3, :3], np.diag([-0.75, -0.5, 2.0]))
    assert "15.0 degrees" in notices[0]
    assert any("right-angled" in n for n in notices)
    assert set(np.unique(case.image)) == {-1024, 76}
    assert case.image.shape[1] > 4 + 4


def test_several_series(tmp_path: Path) -> None:
    series(tmp_path / "study")
    other = {"SeriesInstanceUID": "1.2.9", "SeriesNumber": 7, "SeriesDescription": "lung"}
    series(tmp_path / "study" / "sub", 4, lambda n: other)
    with pytest.raises(InputError, match=r"--series.*: 6 images .*'heart' \(1\.2\.3\).*: 4 images .*'lung' \(1\.2\.9\)"):
        read_dicom(tmp_path / "study")
    for name in ("1.2.9", "7"):
        assert read_dicom(tmp_path / "study", name)[0].shape == (5, 4, 4)
    with pytest.raises(InputError, match="--series 99: none"):
        read_dicom(tmp_path / "study", "99")


def test_what_is_no_ct_beside_a_series_is_left_out(tmp_path: Path) -> None:
    """As a segmentation that was written into the folder of its scan; with --series it is still named for what it is."""
    series(tmp_path / "study")
    series(tmp_path / "study" / "result", 2, lambda n: {"SeriesInstanceUID": "1.2.9", "SeriesNumber": 1003, "Modality": "SEG"})
    _, _, notices = read_dicom(tmp_path / "study")
    assert any("1 series of another modality (SEG) left out" in n for n in notices)
    with pytest.raises(InputError, match="the modality is SEG"):
        read_dicom(tmp_path / "study", "1003")


def test_localizer_and_other_files_are_left_out(tmp_path: Path) -> None:
    series(tmp_path)
    dataset(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.1", Rows=2).save_as(tmp_path / "scout.dcm")
    (tmp_path / "notes.txt").write_text("no image")
    image, _, notices = read_dicom(tmp_path)
    assert image.shape == (5, 4, 6)
    assert any("1 files are not DICOM images" in n for n in notices)
    assert any("1 localizers" in n for n in notices)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Modality": "MR"}, "modality is MR"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"RescaleType": "MGML"}, "MGML"),
        ({"PixelSpacing": None}, "pixel spacing"),
        ({"PixelSpacing": [0, 0.5]}, "pixel spacing"),
        ({"PixelSpacing": [500, 750]}, "750 x 500 x 2 mm is no CT voxel"),
        ({"ImagePositionPatient": None}, "without a position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orthogonal"),
        ({"SamplesPerPixel": 3}, "color"),
        ({"PixelData": bytes(10)}, "damaged or not valid DICOM"),
        ({"Rows": 5000}, "more than are read"),
    ],
)
def test_refused_headers(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dicom(series(tmp_path, change=lambda n: fields))


def test_mixed_sizes_and_orientations(tmp_path: Path) -> None:
    small = {"Rows": 2, "Columns": 2, "PixelData": bytes(8)}
    with pytest.raises(InputError, match=r"2x2 \(1 images\), 4x5 \(5 images\)"):
        read_dicom(series(tmp_path, change=lambda n: small if n == 3 else {}))
    with pytest.raises(InputError, match="differ in orientation"):
        read_dicom(series(tmp_path, change=lambda n: {"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]} if n == 3 else {}))


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Bytes changed or cut anywhere after the preamble: a volume of the right size, or an `InputError`."""
    path = series(tmp_path) / "d.dcm"
    whole, rng = path.read_bytes(), np.random.default_rng(4)
    for _ in range(150):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(128, len(data) - 40, 2)] = rng.integers(0, 256, 2)
        path.write_bytes(data.tobytes()[: rng.choice([len(data), rng.integers(0, len(data))], p=[0.9, 0.1])])
        try:
            image, affine, _ = read_dicom(tmp_path)
        except InputError:
            continue
        assert image.shape == (5, 4, 6)
        assert np.isfinite(np.linalg.inv(affine)).all()


def test_a_slice_that_is_cut_off_is_not_passed_over(tmp_path: Path) -> None:
    """At either end of a series nothing else would show that it is missing."""
    path = series(tmp_path) / "a.dcm"
    whole = path.read_bytes()
    for keep in range(0, len(whole), 13):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"a\.dcm"):
            read_dicom(tmp_path)
    path.unlink()
    (tmp_path / "._a.dcm").write_bytes(b"what macOS leaves")
    assert read_dicom(tmp_path)[0].shape == (5, 4, 5)


@pytest.mark.parametrize("name", ["IM{:06d}", "1.2.840.99.{}"])
@pytest.mark.parametrize("content", [b"", b"\0" * 400])
def test_a_damaged_slice_without_an_ending_is_not_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    """Archives name files so; the first or the last slice, missing, shows nowhere else."""
    for n in range(6):
        dataset(n).save_as(tmp_path / name.format(100 + n))
    (tmp_path / "VERSION").write_bytes(content)
    assert read_dicom(tmp_path)[0].shape == (5, 4, 6)
    (tmp_path / name.format(105)).write_bytes(content)
    with pytest.raises(InputError, match=rf"105: has the name of a DICOM file but is none \({len(content)} bytes\)"):
        read_dicom(tmp_path)


@pytest.mark.parametrize(("fields", "message"), [
    ({"ImagePositionPatient": None}, "has no position, which other images"), ({"RescaleIntercept": None}, "has no RescaleIntercept, which other"),
    ({"NumberOfFrames": 2, "PixelData": bytes(80)}, "holds 2 frames and does not say where"),
])  # fmt: skip
def test_a_slice_that_says_less_than_the_others_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.dcm: {message}"):
        read_dicom(series(tmp_path, change=lambda n: fields if n == 5 else {}))


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_files_without_a_header_are_called_so(tmp_path: Path, ending: str) -> None:
    for n in range(3):
        (tmp_path / f"{n}{ending}").write_bytes(bytes.fromhex("080005004353") + bytes(300))
    with pytest.raises(InputError, match=r"lacks? the DICOM file header"):
        read_dicom(tmp_path)


def test_a_directory_file_stands_for_its_folder(tmp_path: Path) -> None:
    series(tmp_path / "case7")
    (tmp_path / "case7" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    case, _ = read_scan(tmp_path / "case7" / "DICOMDIR")
    assert (case.id, case.image.shape) == ("case7", (5, 4, 6))


def test_patients_are_told_apart_by_their_id_and_its_issuer(tmp_path: Path) -> None:
    def mark(name: str, **fields: Any) -> str | None:
        return dicom_files.patient_mark(series(tmp_path / name, 2, lambda n: fields))

    found = [mark("a", PatientID="7"), mark("b", PatientID="8"), mark("c", PatientID="7", IssuerOfPatientID="other")]
    assert None not in found
    assert len(set(found)) == 3
    assert mark("d", PatientID="7") == dicom_files.patient_mark(tmp_path / "a" / "f.dcm") == found[0]
    assert mark("e", PatientID="") is None
    (tmp_path / "scan.nii").write_bytes(bytes(400))
    assert dicom_files.patient_mark(tmp_path / "scan.nii") is None


def test_padding_does_not_make_hu_of_values_that_are_none(tmp_path: Path) -> None:
    """Stored values of 0..3000 without an offset, padded below: air would lie at zero."""
    raw = RAW.astype(np.int16)
    raw[:, 0, 0] = -2000
    fields = {"PixelRepresentation": 1, "RescaleIntercept": 0, "PixelPaddingValue": -2000}
    series(tmp_path, change=lambda n: {**fields, "PixelData": raw[n].tobytes()})
    with pytest.raises(InputError, match="are not HU"):
        read_scan(tmp_path)


def test_the_patient_of_a_zip_is_known(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", 2, lambda n: {"PatientID": "7"})
    (folder / "._f.dcm").write_bytes(bytes(128) + b"DICM")
    shutil.make_archive(str(tmp_path / "a"), "zip", folder)
    assert dicom_files.patient_mark(tmp_path / "a.zip") == dicom_files.patient_mark(folder) is not None


def test_a_zip_of_a_series_and_a_volume_is_refused(tmp_path: Path, files: Any) -> None:
    files.write(series(tmp_path / "a", 2) / "old.nii.gz", np.zeros((3, 3, 3), np.int16), np.eye(4))
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a")
    with pytest.raises(InputError, match=r"a\.zip: holds DICOM images and a volume \(old\.nii\.gz\)"):
        read_scan(tmp_path / "a.zip")


def test_no_dicom(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM images"):
        read_dicom(tmp_path)
    with pytest.raises(InputError, match="single slice"):
        read_dicom(series(tmp_path, 1))
    with pytest.raises(InputError, match="no such folder"):
        read_dicom(tmp_path / "none")


def test_missing_codec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.encaps import encapsulate

    series(tmp_path)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        ds.PixelData = encapsulate([bytes(20)])
        ds["PixelData"].VR = "OB"
        ds.save_as(path)
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(pydicom.uid.JPEG2000Lossless)), "is_available", False)
    with pytest.raises(InputError, match=r"JPEG 2000.*pip install pylibjpeg pylibjpeg-openjpeg"):
        read_dicom(tmp_path)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        ("RLELossless", None),
        ("JPEG2000Lossless", "openjpeg"),
        ("JPEGLSLossless", "jpeg_ls"),
        ("JPEGLosslessSV1", "gdcm"),
    ],
)
def test_compressed_series(tmp_path: Path, files: Any, syntax: str, package: str | None) -> None:
    if package is not None:
        pytest.importorskip(package)
    raw = np.random.default_rng(5).integers(0, 3000, (64, 48, 3)).astype(np.uint16)
    image, affine, notices = read_dicom(files.dicom(tmp_path / "packed", raw, getattr(pydicom.uid, syntax)))
    plain = read_dicom(files.dicom(tmp_path / "plain", raw))
    assert np.array_equal(image, raw.astype(int) - 1024)
    assert np.allclose(affine, plain[1])
    assert notices == plain[2] == []


@pytest.mark.parametrize(
    ("syntax", "package"),
    [("JPEGLossless", "gdcm"), ("JPEGLosslessSV1", "gdcm"), ("JPEGLSLossless", "pyjpegls"), ("JPEG2000", "openjpeg"), ("HTJ2K", "openjpeg")],
)
def test_every_codec_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch, syntax: str, package: str) -> None:
    uid = getattr(pydicom.uid, syntax)
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(uid)), "is_available", False)
    assert package in str(dicom_files.missing_codec(uid))


def test_missing_pydicom_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install pydicom"):
        read_dicom(tmp_path)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_files, "MAX_FILES", 3)
    with pytest.raises(InputError, match="more than 3 files"):
        read_dicom(series(tmp_path))


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    """Geometry and scaling sit in functional groups, frames in any order."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedCTImageStorage

    def group(**fields: Any) -> Any:
        item = Dataset()
        for name, value in fields.items():
            setattr(item, name, value)
        return Sequence([item])

    order = [3, 0, 5, 1, 4, 2]
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    ds = dataset(0, **dict.fromkeys(moved))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames, ds.PixelData = 6, RAW[order].tobytes()
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.5, 0.75])
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for n in order:
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[-10, -20, 30 + 2 * n])
        frame.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=-1024 + n, RescaleType="HU")
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    (tmp_path / "enhanced").mkdir()
    ds.save_as(tmp_path / "enhanced" / "all.dcm")
    series(tmp_path / "classic", change=lambda n: {"RescaleIntercept": -1024 + n})
    image, affine, _ = read_dicom(tmp_path / "enhanced")
    classic, where, _ = read_dicom(tmp_path / "classic")
    assert np.array_equal(image, classic)
    assert np.allclose(affine, where)


def test_one_file_stands_for_its_series(tmp_path: Path) -> None:
    series(tmp_path / "case7")
    dataset(0, SeriesInstanceUID="1.2.8").save_as(tmp_path / "case7" / "other.dcm")
    case, _ = read_scan(tmp_path / "case7" / "a.dcm")
    assert case.id == "case7"
    assert case.image.shape == (5, 4, 6)


@pytest.mark.parametrize(
    ("name", "count", "spacing"),
    [("dicom_chest", 54, (0.8828125, 0.8828125, 3.0)), ("dicom_abdomen", 20, (0.9765625, 0.9765625, 2.0))],
)
def test_real_series(name: str, count: int, spacing: tuple[float, ...]) -> None:
    """Uncompressed and JPEG 2000; air, fat, blood and bone lie in their ranges of HU."""
    if not (REAL / name).is_dir():
        pytest.skip(f"real data not present: {name}")
    case, _ = read_scan(REAL / name)
    assert case.image.shape == (512, 512, count)
    assert np.allclose(case.spacing, spacing)
    assert case.image.dtype == np.int16
    assert case.image.min() == -1024
    assert 700 < case.image.max() < 3072
    assert ((case.image > -20) & (case.image < 150)).mean() > 0.1


def test_a_decoder_that_crashes_or_never_ends_is_survived(tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process is killed, at once or after a time, and what it was to decode is refused by name."""
    pytest.importorskip("jpeg_ls")
    raw = np.random.default_rng(5).integers(0, 3000, (64, 48, 3)).astype(np.uint16)
    folder = files.dicom(tmp_path / "packed", raw, pydicom.uid.JPEGLSLossless)
    cut = """print('{"dtype": "<u2", "shape": [1, 48, 64], "padding": null}')"""
    for code in ("import os; os.abort()", "import time; time.sleep(60)", cut):
        monkeypatch.setattr(decoding, "SECONDS", 1.0 if "sleep" in code else 30.0)
        monkeypatch.setattr(decoding, "SERVE", code)
        with pytest.raises(InputError, match=r"000\.dcm: its compressed pixels are damaged"):
            read_dicom(folder)
