"""DICOM segmentations: the same voxels on the source's slices, the right codes, and nobody's name unless asked."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.core.anatomy import STRUCTURES
from auricle.core.errors import InputError
from auricle.data.dicom import read_dicom, source_images
from auricle.data.dicom_seg import Algorithm, check_installed, check_source, write_dicom_seg
from auricle.data.reading import read_scan

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "dicom_chest"
ALGORITHM = Algorithm("auricle any-scan", "1.2.3", "ab" * 32)
SHAPE = (24, 20, 10)
"""Columns, rows, slices."""
PRIVATE = {
    "PatientName": "Doe^Jane", "PatientID": "MRN-4711", "PatientBirthDate": "19500102", "PatientSex": "F", "PatientAge": "075Y",
    "OtherPatientIDs": "OTHER-1", "PatientAddress": "Elm Street", "AccessionNumber": "ACC-99", "StudyID": "STUDY-8", "StudyDate": "20200304",
    "StudyTime": "101112", "StudyDescription": "Jane's heart", "ReferringPhysicianName": "House^Gregory", "InstitutionName": "General Hospital",
    "SeriesDescription": "for Jane", "PatientComments": "afraid of needles", "OperatorsName": "Smith^Op", "StationName": "STATION7",
    "DeviceSerialNumber": "SN-31337", "EthnicGroup": "groupxyz", "Occupation": "astronaut", "AdditionalPatientHistory": "historyxyz",
}  # fmt: skip


def write_series(folder: Path, change: Callable[[int], dict[str, Any]] = lambda n: {}, **fields: Any) -> Path:
    """A CT series of 10 slices, 2 mm apart, whose file names run against the slice order."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    columns, rows, count = SHAPE
    for n in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{n + 1}"
        ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"1.2.3.4.{n + 1}", "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.9"
        ds.SeriesNumber, ds.InstanceNumber, ds.ImageType = 4, n + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PositionReferenceIndicator, ds.Manufacturer = "", "ACME"
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10, -20, 30 + 2 * n], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [0.5, 0.75], 2, 1, -1024
        ds.PixelData = np.full((rows, columns), 1000 + n, np.uint16).tobytes()
        for name, value in {**fields, **change(n)}.items():
            if value is None:
                delattr(ds, name)
            else:
                setattr(ds, name, value)
        ds.save_as(folder / f"{'jihgfedcba'[n]}.dcm")
    return folder


def heart(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint8]:
    """Six structures in boxes, none of them symmetric; the pulmonary artery and the appendage are absent."""
    label = np.zeros(shape, np.uint8)
    for k in range(6):
        label[2 + 3 * k : 4 + 3 * k, 3 + k : 9 + 2 * k, 1 + k // 2 : 5 + k // 2] = k + 1
    return label


def on_source(path: Path, source: Any) -> NDArray[np.uint8]:
    """The label map [column, row, slice] that highdicom reads for the source's images, slice by slice."""
    segmentation = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(s.path, stop_before_pixels=True).SOPInstanceUID for s in source.slices]
    planes = segmentation.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True,
                                                        assert_missing_frames_are_empty=True)  # fmt: skip
    return np.asarray(planes, np.uint8).transpose(2, 1, 0)


def in_space(path: Path, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The label map on a grid, from the places that SimpleITK reads alone."""
    sitk = pytest.importorskip("SimpleITK")
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    ds, out = pydicom.dcmread(path), np.zeros(shape, np.uint8)
    for frame, item in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        lps = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        column, row, k = np.rint(np.linalg.solve(affine, [*(lps * [-1, -1, 1]), 1.0])[:3]).astype(int)
        assert (column, row) == (0, 0)
        out[:, :, k][frame.T > 0] = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return out


def test_two_readers_find_the_same_voxels_on_the_same_slices(tmp_path: Path) -> None:
    folder, label = write_series(tmp_path / "ct"), heart()
    source, (image, affine, _) = source_images(folder), read_dicom(folder)
    assert image.shape == source.shape
    write_dicom_seg(tmp_path / "seg.dcm", label, affine, source, ALGORITHM)
    assert np.array_equal(on_source(tmp_path / "seg.dcm", source), label)
    assert np.array_equal(in_space(tmp_path / "seg.dcm", affine, SHAPE), label)


def test_codes_names_and_origin(tmp_path: Path) -> None:
    source = source_images(write_series(tmp_path / "ct"))
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [(s.SegmentNumber, s.SegmentLabel) for s in ds.SegmentSequence] == [(s.id, s.key) for s in STRUCTURES]
    for item, s in zip(ds.SegmentSequence, STRUCTURES, strict=True):
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (s.snomed, "SCT")
        assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert ALGORITHM.weights in str(item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.ReferencedSeriesSequence[0].SeriesInstanceUID) == ("1.2.3", "1.2.9", "1.2.3.4")
    assert len(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[2]


@pytest.mark.parametrize("keep", [False, True])
def test_the_patient_is_named_only_when_asked(tmp_path: Path, keep: bool) -> None:
    source = source_images(write_series(tmp_path / "ct", **PRIVATE))
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM, keep_patient=keep)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    if keep:
        assert (ds.PatientName, ds.PatientID, ds.AccessionNumber, ds.StudyDate) == ("Doe^Jane", "MRN-4711", "ACC-99", "20200304")
        return
    data = (tmp_path / "seg.dcm").read_bytes().lower()
    words = [word for value in PRIVATE.values() for word in value.lower().split("^") if len(word) > 2]
    assert [word for word in words if word.encode() in data] == []
    assert ds.PatientSex == ""
    assert str(ds.PatientID).startswith("auricle-")


def test_the_same_labels_get_the_same_uids(tmp_path: Path) -> None:
    source = source_images(write_series(tmp_path / "ct"))
    other = heart()
    other[2, 3, 1] = 5
    uids = []
    for n, (label, keep) in enumerate(((heart(), False), (heart(), False), (other, False), (heart(), True))):
        write_dicom_seg(tmp_path / f"{n}.dcm", label, source.affine, source, ALGORITHM, keep_patient=keep)
        uids.append(str(pydicom.dcmread(tmp_path / f"{n}.dcm").SOPInstanceUID))
    assert uids[0] == uids[1]
    # An archive takes one UID for one object: other labels, or another patient module, are another.
    assert len(set(uids)) == 3


def test_a_tilted_series_gets_its_labels_on_its_own_slices(tmp_path: Path) -> None:
    """The volume was resampled to right angles; the segmentation refers to the slices as they were scanned."""
    tilt = np.tan(np.deg2rad(20))
    source = source_images(write_series(tmp_path / "ct", lambda n: {"ImagePositionPatient": [-10, -20 + 2 * n * tilt, 30 + 2 * n]}))
    case, notices = read_scan(tmp_path / "ct", not_hu=True)
    assert any("tilt" in text for text in notices)
    assert case.image.shape != source.shape
    label, affine = np.zeros(case.image.shape, np.uint8), case.affine
    label[5:19, 8:18, 2:8] = 3
    write_dicom_seg(tmp_path / "seg.dcm", label, affine, source, ALGORITHM)
    found = on_source(tmp_path / "seg.dcm", source)
    assert found.shape == source.shape
    there, here = (np.argwhere(a == 3).mean(0) for a in (label, found))
    assert np.allclose((affine @ [*there, 1])[:3], (source.affine @ [*here, 1])[:3], atol=0.5)
    assert np.count_nonzero(found) == pytest.approx(np.count_nonzero(label), rel=0.1)


def test_an_enhanced_series_keeps_its_order_of_frames(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedCTImageStorage

    def group(**fields: Any) -> Any:
        item = Dataset()
        for name, value in fields.items():
            setattr(item, name, value)
        return Sequence([item])

    ds = pydicom.dcmread(write_series(tmp_path / "one") / "a.dcm")
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, name)
    order = [3, 0, 5, 1, 4, 2, 9, 7, 8, 6]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames, ds.PixelData = len(order), np.full((len(order), SHAPE[1], SHAPE[0]), 1000, np.uint16).tobytes()
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.5, 0.75], SliceThickness=2)
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    frames = []
    for n in order:
        frames.append(Dataset())
        frames[-1].PlanePositionSequence = group(ImagePositionPatient=[-10, -20, 30 + 2 * n])
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    (tmp_path / "ct").mkdir()
    ds.save_as(tmp_path / "ct" / "all.dcm")
    source = source_images(tmp_path / "ct")
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM)
    assert np.array_equal(in_space(tmp_path / "seg.dcm", source.affine, SHAPE), heart())
    for frame in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        assert frame.PlanePositionSequence[0].ImagePositionPatient[2] == 30 + 2 * order[number - 1]


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        ({}, np.zeros(SHAPE, np.uint8), "label map is empty"),
        ({"FrameOfReferenceUID": None}, heart(), "lacks FrameOfReferenceUID"),
        ({"StudyInstanceUID": None, "SOPInstanceUID": None}, heart(), "lacks SOPInstanceUID, StudyInstanceUID"),
    ],
)
def test_what_cannot_be_referred_to_is_refused(tmp_path: Path, fields: dict[str, Any], labels: NDArray[np.uint8], message: str) -> None:
    source = source_images(write_series(tmp_path / "ct", **fields))
    with pytest.raises(InputError, match=message) as refused:
        write_dicom_seg(tmp_path / "seg.dcm", labels, source.affine, source, ALGORITHM)
    assert "\n" not in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["ct"]


@pytest.mark.parametrize("charset", ["", "ISO_IR 6", "ISO_IR 100", ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"]])
@pytest.mark.parametrize("keep", [False, True])
def test_any_character_set_of_the_source_will_do(tmp_path: Path, charset: str | list[str], keep: bool) -> None:
    names = {"ISO_IR 100": "Müller^Jörg", "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎", "ISO 2022 IR 149": "Hong^Gildong=洪^吉洞"}
    name = names.get(charset if isinstance(charset, str) else charset[1], "Doe^Jane")
    source = source_images(write_series(tmp_path / "ct", SpecificCharacterSet=charset, PatientName=name))
    check_source(source, ALGORITHM, keep)
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM, keep_patient=keep)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (str(ds.PatientName) == name) is keep
    assert np.array_equal(on_source(tmp_path / "seg.dcm", source), heart())


def test_slices_of_several_studies_are_refused_beforehand(tmp_path: Path) -> None:
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        source = source_images(write_series(tmp_path / name, lambda n, name=name: {name: f"1.2.{n % 2}"}))  # type: ignore[misc]
        with pytest.raises(InputError, match=f"differ in {name}.*--format nifti"):
            check_source(source, ALGORITHM)


def test_orientations_that_differ_in_the_last_digit_are_one(tmp_path: Path) -> None:
    source = source_images(write_series(tmp_path / "ct", lambda n: {"ImageOrientationPatient": [1, 1e-6 * n, 0, 0, 1, 0]}))
    check_source(source, ALGORITHM)
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM)
    assert np.array_equal(on_source(tmp_path / "seg.dcm", source), heart())


@pytest.mark.parametrize("keep", [False, True])
def test_lossy_compression_of_the_source_is_told(tmp_path: Path, keep: bool) -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 8, "LossyImageCompressionMethod": "ISO_10918_1"}
    source = source_images(write_series(tmp_path / "ct", **lossy))
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM, keep_patient=keep)
    assert pydicom.dcmread(tmp_path / "seg.dcm").LossyImageCompression == "01"


def test_enhanced_images_of_one_frame_each_are_refused_beforehand(tmp_path: Path) -> None:
    """They can be read; a segmentation can refer to one such file only."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def frame(n: int) -> dict[str, Any]:
        place, item = Dataset(), Dataset()
        place.ImagePositionPatient = [-10, -20, 30 + 2 * n]
        item.PlanePositionSequence = Sequence([place])
        return {"PerFrameFunctionalGroupsSequence": Sequence([item]), "NumberOfFrames": 1}

    source = source_images(write_series(tmp_path / "ct", frame))
    with pytest.raises(InputError, match=r"10 enhanced .multi-frame. files.*--format nifti"):
        check_source(source, ALGORITHM)


def test_a_models_name_may_be_long_and_odd(tmp_path: Path) -> None:
    source = source_images(write_series(tmp_path / "ct"))
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, replace(ALGORITHM, name="auricle back\\slash " + 80 * "x"))
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert ds.ManufacturerModelName.startswith("auricle back-slash xxx")
    assert len(ds.SeriesDescription) <= 64


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'auricle\[dicom\]'"):
        check_installed()


@pytest.mark.parametrize("keep", [False, True])
def test_a_validator_finds_no_error(tmp_path: Path, keep: bool) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    source = source_images(write_series(tmp_path / "ct", **PRIVATE))
    write_dicom_seg(tmp_path / "seg.dcm", heart(), source.affine, source, ALGORITHM, keep_patient=keep)
    said = subprocess.run(["dciodvfy", tmp_path / "seg.dcm"], capture_output=True, text=True, check=False).stderr
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_a_real_series_comes_back(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("real data not present: dicom_chest")
    source = source_images(REAL)
    label = np.zeros(source.shape, np.uint8)
    label[200:260, 180:220, 10:14], label[260:270, 180:220, 12:20] = 3, 1
    write_dicom_seg(tmp_path / "seg.dcm", label, source.affine, source, ALGORITHM)
    assert np.array_equal(on_source(tmp_path / "seg.dcm", source), label)
    assert np.array_equal(in_space(tmp_path / "seg.dcm", source.affine, source.shape), label)
