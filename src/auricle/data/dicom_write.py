"""Synthetic CT as a DICOM series that says in every image that no patient was scanned."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle import __version__
from auricle.core.errors import InputError
from auricle.data.outputs import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_NAMESPACE = uuid.UUID("5f0c5a3e-6f0e-5d0b-9f5a-7d6c1d0a2b41")
"""Any fixed UUID will do; another one gives other UIDs."""


@dataclass(frozen=True)
class SyntheticSeries:
    """What is said about one synthetic scan. Each is a study, a series and a patient of its own."""

    origin: str
    """What made it, seed and model included: UIDs follow from this and `case`."""
    case: str
    """Name of the pair, e.g. ``generated-0-0001``."""
    sex: str | None = None
    """F or M where that was asked for."""


def derived_uid(*parts: str) -> str:
    """A UID of the root 2.25 (DICOM PS3.5 B.2) that follows from `parts` alone: the same export gives the same UIDs, another seed others."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"


def write_synthetic_ct(folder: Path, image: NDArray[np.int16], affine: NDArray[np.float64], series: SyntheticSeries) -> None:
    """Write one CT series, a file an axial slice, from inferior to superior; rows run to the patient's left and posterior, as scanners write them.

    Args:
        folder: where ``0001.dcm``, ``0002.dcm``, .. go.
        image: HU [x, y, z].
        affine: voxel index to RAS+ mm; axis-aligned with positive voxel sizes.
        series: what is said about it.

    Raises:
        InputError: pydicom is missing.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError("--format dicom needs pydicom; install it with: pip install pydicom") from None
    assert image.dtype == np.int16
    spacing = np.diag(affine)[:3]
    assert np.array_equal(affine[:3, :3], np.diag(spacing)), "the grid must be axis-aligned"
    assert (spacing > 0).all(), "the axes must run to the right, anterior and superior"
    # From RAS+ to LPS: both axes in the plane run backward, which moves the first voxel to the other corner.
    flipped = image[::-1, ::-1]
    first = (affine @ [image.shape[0] - 1, image.shape[1] - 1, 0, 1])[:3] * [-1, -1, 1]
    folder.mkdir(parents=True)
    for k in range(image.shape[2]):
        slice_ = _slice(pydicom, series, k, first + np.array([0, 0, k * spacing[2]]), spacing)
        slice_.Rows, slice_.Columns = flipped.shape[1], flipped.shape[0]
        slice_.PixelData = np.ascontiguousarray(flipped[:, :, k].T).astype("<i2").tobytes()
        pydicom.dcmwrite(folder / f"{k + 1:04d}.dcm", slice_, enforce_file_format=True)


def _slice(pydicom: Any, series: SyntheticSeries, k: int, position: NDArray[np.float64], spacing: NDArray[np.float64]) -> Any:
    """Header of slice `k`: the modules of the CT Image IOD (DICOM PS3.3 A.3)."""
    header = pydicom.Dataset()
    _say_whose(header, series)
    _say_what(header)
    header.SOPClassUID = CT_IMAGE_STORAGE
    header.SOPInstanceUID = derived_uid(series.origin, series.case, "image", str(k))
    header.InstanceNumber = k + 1

    def numbers(values: Any) -> list[str]:
        return [pydicom.valuerep.format_number_as_ds(float(v) + 0.0) for v in values]

    header.ImagePositionPatient = numbers(position)
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.PixelSpacing = numbers([spacing[1], spacing[0]])
    header.SliceThickness = header.SpacingBetweenSlices = numbers([spacing[2]])[0]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "HU"
    header.WindowCenter, header.WindowWidth = numbers([WINDOW_LEVEL_HU])[0], numbers([WINDOW_WIDTH_HU])[0]
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    return header


def _say_whose(header: Any, series: SyntheticSeries) -> None:
    """Patient, study and frame of reference: nobody's, and without a date."""
    number = derived_uid(series.origin, series.case)[-12:]
    header.PatientName, header.PatientID = f"Synthetic^{number}", f"SYNTHETIC-{number}"
    header.PatientBirthDate, header.PatientSex = "", series.sex or ""
    header.PatientIdentityRemoved, header.DeidentificationMethod = "YES", "Synthetic: there is no patient"
    header.PatientComments = "Synthetic: there is no patient. Research only."
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = (
        derived_uid(series.origin, series.case, kind) for kind in ("study", "series", "frame")
    )
    header.StudyDate = header.StudyTime = header.AccessionNumber = header.ReferringPhysicianName = header.PositionReferenceIndicator = ""
    header.StudyID, header.SeriesNumber, header.AcquisitionNumber = "1", 1, None
    header.StudyDescription = "Synthetic cardiac CT"
    header.SeriesDescription = f"SYNTHETIC {series.case}"[:64]


def _say_what(header: Any) -> None:
    """That the image is synthetic, in every place where a reader may look."""
    # Its pixels come from no acquisition, so it is neither original nor primary.
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"]
    # The newer flag for this, Synthetic Data (0008,001C), is left out: validators with an older dictionary (dicom3tools of 2022) call it an error.
    header.ContentQualification = "RESEARCH"
    header.DerivationDescription = "Made by a computer model; no patient was scanned"
    header.ImageComments = "SYNTHETIC - research only, not for clinical use"
    header.BurnedInAnnotation, header.RecognizableVisualFeatures, header.LossyImageCompression = "NO", "NO", "00"
    header.Modality, header.BodyPartExamined, header.PatientPosition, header.KVP = "CT", "HEART", "HFS", None
    header.Manufacturer, header.ManufacturerModelName, header.SoftwareVersions = "auricle", "auricle", __version__
