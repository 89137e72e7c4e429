"""Synthetic CT as DICOM: the same voxels in the same place whoever reads it, valid, and nobody's."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from auricle.core.case import Case
from auricle.data.dicom import read_dicom
from auricle.data.dicom_write import SyntheticSeries, derived_uid, write_synthetic_ct
from auricle.data.preprocess import ModelGrid, orient

pydicom = pytest.importorskip("pydicom")

GRID = ModelGrid((7, 5, 4), (1.25, 0.7, 2.1))
SERIES = SyntheticSeries("seed 3", "generated-3-0001", "F")


def example() -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Every voxel has a value of its own, from below air to the largest of the format."""
    image = np.linspace(-1024, 32767, np.prod(GRID.size)).reshape(GRID.size).astype(np.int16)
    return image, GRID.affine(np.array([12.3, -45.6, 7.89]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_synthetic_ct(tmp_path / "ct", *example(), SERIES)
    return tmp_path / "ct"


def headers(folder: Path) -> list[Any]:
    return [pydicom.dcmread(p) for p in sorted(folder.iterdir())]


def test_our_reader_gets_back_every_voxel_where_it_was(folder: Path) -> None:
    image, affine = example()
    read, place, notices = read_dicom(folder)
    back = orient(Case("back", read, place))
    assert notices == []
    assert np.array_equal(back.image, image)
    assert np.allclose(back.affine, affine, atol=1e-9)


def test_simpleitk_gets_back_every_voxel_where_it_was(folder: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image, affine = example()
    read = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert np.array_equal(sitk.GetArrayFromImage(read).transpose(2, 1, 0)[::-1, ::-1], image)
    for index in ((0, 0, 0), (6, 4, 3), (2, 3, 1)):
        x, y, z = read.TransformIndexToPhysicalPoint((6 - index[0], 4 - index[1], index[2]))
        assert np.allclose([-x, -y, z], (affine @ [*index, 1])[:3], atol=1e-6)


def test_highdicom_gets_back_every_voxel_where_it_was(folder: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    image, affine = example()
    volume = highdicom.get_volume_from_series(headers(folder)).to_patient_orientation("RAS")
    assert np.array_equal(volume.array, image)
    # Its affine leads to LPS, whatever the order of the axes.
    assert np.allclose(np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine, affine, atol=1e-6)


def test_rows_run_to_the_left_and_posterior_and_slices_upward(folder: Path) -> None:
    read = headers(folder)
    assert [h.InstanceNumber for h in read] == [1, 2, 3, 4]
    assert all(list(h.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0] for h in read)
    assert np.all(np.diff([h.ImagePositionPatient[2] for h in read]) > 0)
    assert list(read[0].PixelSpacing) == [0.7, 1.25]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("sex", ["F", None])
def test_the_validator_finds_no_error(tmp_path: Path, sex: str | None) -> None:
    write_synthetic_ct(tmp_path / "ct", *example(), SyntheticSeries("seed 3", "generated-3-0001", sex))
    for path in (tmp_path / "ct").iterdir():
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "CTImage" in said.stdout + said.stderr
        assert "Error" not in said.stdout + said.stderr


def test_uids_follow_from_seed_and_case_and_are_never_used_twice(folder: Path, tmp_path: Path) -> None:
    def uids(path: Path) -> list[str]:
        return [str(e.value) for h in headers(path) for e in [*h, *h.file_meta] if e.VR == "UI" and str(e.value).startswith("2.25.")]

    write_synthetic_ct(tmp_path / "again", *example(), SERIES)
    assert [p.read_bytes() for p in sorted((tmp_path / "again").iterdir())] == [p.read_bytes() for p in sorted(folder.iterdir())]
    own = set(uids(folder))
    # Study, series, frame of reference and four images.
    assert len(own) == 7
    assert all(pydicom.uid.UID(u).is_valid and len(u) <= 64 for u in own)
    for n, other in enumerate((SyntheticSeries("seed 4", SERIES.case), SyntheticSeries(SERIES.origin, "generated-3-0002"))):
        write_synthetic_ct(tmp_path / str(n), *example(), other)
        assert own.isdisjoint(uids(tmp_path / str(n)))
    assert derived_uid("a", "bc") != derived_uid("ab", "c")


def test_every_image_says_that_it_is_synthetic_and_names_nobody(folder: Path) -> None:
    for header in headers(folder):
        assert header.ImageType[:3] == ["DERIVED", "SECONDARY", "AXIAL"]
        assert header.ContentQualification == "RESEARCH"
        assert header.BurnedInAnnotation == "NO"
        assert header.PatientIdentityRemoved == "YES"
        # One number names nobody in both places, whatever else is exported beside it.
        assert str(header.PatientName).removeprefix("Synthetic^") == header.PatientID.removeprefix("SYNTHETIC-")
        for keyword in ("SeriesDescription", "ImageComments", "StudyDescription", "PatientComments", "PatientID"):
            assert "synthetic" in str(header[keyword].value).lower()
        assert "no patient" in header.DerivationDescription
        # No date, time, place or person but the name above, and nothing private.
        assert not [e for e in header.iterall() if e.tag.is_private]
        assert [e.keyword for e in header.iterall() if e.VR in ("DA", "DT", "TM", "AS") and e.value] == []
        assert [e.keyword for e in header.iterall() if e.VR == "PN" and e.value] == ["PatientName"]
        assert not [k for k in ("InstitutionName", "StationName", "OperatorsName", "DeviceSerialNumber") if k in header]
