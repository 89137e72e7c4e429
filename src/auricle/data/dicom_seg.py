"""DICOM Segmentation (SEG) objects that refer to the CT series they were made from.

RTSTRUCT is not written: contours in the slices lose what a voxel mask keeps, no permissively licensed library for it is well kept, and viewers
of DICOM read SEG.
"""

import copy
import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import STRUCTURES, Structure
from auricle.core.errors import InputError
from auricle.data.dicom import SourceImages
from auricle.data.dicom_files import reading_file
from auricle.data.dicom_write import derived_uid
from auricle.data.geometry import apart
from auricle.data.nifti import saving
from auricle.data.preprocess import label_to_grid

INSTALL = "pip install 'auricle[dicom]'"
_MEANING = {"MYO": "Left Ventricle Myocardium", "LAA": "Left auricular appendage"}
"""Names that DICOM's context groups give the codes, where they are not the structure's own."""
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
                 "ReferringPhysicianName", "PositionReferenceIndicator")  # fmt: skip
"""Type 2 attributes of the patient, study and frame of reference modules."""
_LINKING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
            "Modality", "Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness",
            "SpacingBetweenSlices", "NumberOfFrames", "ImageType", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
            "DimensionIndexSequence", "DimensionOrganizationSequence", "BitsAllocated", "BitsStored", "HighBit",
            "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "LossyImageCompression", "LossyImageCompressionRatio",
            "LossyImageCompressionMethod")  # fmt: skip
"""All that is taken over from the source images without `keep_patient`: identity of the images and their place in space."""


@dataclass(frozen=True)
class Algorithm:
    """What made a label map."""

    name: str
    version: str
    weights: str | None
    """SHA-256 of the network's weights; None where no network made it, but geometry, as of a virtual patient."""


def write_dicom_seg(
    path: Path,
    label: NDArray[np.uint8],
    affine: NDArray[np.float64],
    source: SourceImages,
    algorithm: Algorithm,
    *,
    keep_patient: bool = False,
) -> None:
    """Write a binary segmentation with one segment a structure, in the source's slice order, atomically.

    Segment numbers are the label ids; a structure without voxels has a segment without frames. Codes are SNOMED CT's, which say left and right
    themselves, so no laterality modifier is given. The same label map of the same series, with the same patient module, gets the same UIDs.

    Args:
        path: file to write.
        label: label map [x, y, z].
        affine: voxel index of `label` to RAS mm. Where this is not the source's grid (tilted gantry), the labels are brought back to it.
        source: the series, as `source_images` returns it.
        algorithm: what made the label map.
        keep_patient: copy patient and study modules. Otherwise name and id are a pseudonym from the study's UID and all else is left empty.

    Raises:
        InputError: highdicom is not installed, the label map is empty, or the source lacks what a reference needs.
    """
    if not label.any():
        raise InputError(f"{path}: the label map is empty; a DICOM segmentation needs at least one structure")
    shape = source.shape
    if label.shape != shape or apart(affine, source.affine, shape) > 0.01:
        label = label_to_grid(label, affine, source.affine, shape)
    headers, order = _headers(source)
    thickness = float(np.linalg.norm(source.affine[:3, 2]))
    with _highdicom():
        headers = [_identified(h, keep_patient, thickness) for h in headers]
    for header in headers[1:]:
        # Scanners round each slice's by itself; highdicom wants them alike to the last digit, and the volume has one orientation.
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
    frames = np.ascontiguousarray(label.transpose(2, 1, 0)[order])
    # What is written follows from these alone, so a copy of the file is known as one.
    made = hashlib.sha256(frames.tobytes()).hexdigest()
    origin = (headers[0].SeriesInstanceUID, algorithm.weights or algorithm.name, algorithm.version, str(keep_patient), made)
    uids = [derived_uid(*origin, part) for part in ("series", "instance")]
    with _highdicom() as highdicom:
        result = _segmentation(highdicom, headers, frames, algorithm, uids)
        with saving(path) as temporary:
            result.save_as(temporary)


def check_source(source: SourceImages, algorithm: Algorithm, keep_patient: bool = False) -> None:
    """Raise `InputError`, naming the file, for images to which no segmentation can refer: what would fail at the end fails here."""
    headers, _ = _headers(source)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if len({str(h.get(name)) for h in headers}) > 1:
            where = source.slices[0].path.parent
            raise InputError(f"{where}: its slices differ in {name}, so no DICOM segmentation can refer to them; take --format nifti")
    columns, rows, slices = source.shape
    voxel = np.zeros((slices if len(headers) == 1 else 1, rows, columns), np.uint8)
    voxel[0, 0, 0] = 1
    with _highdicom(source.slices[0].path) as highdicom:
        header = _identified(headers[0], keep_patient, float(np.linalg.norm(source.affine[:3, 2])))
        _segmentation(highdicom, [header], voxel, algorithm, ["1.2.3", "1.2.4"])


def _segmentation(highdicom: Any, headers: list[Any], frames: NDArray[np.uint8], algorithm: Algorithm, uids: list[str]) -> Any:
    """The object, from a label map's `frames` (slice, row, column)."""
    # A description holds 64 characters, and a backslash would part it.
    name = re.sub(r"[\\\x00-\x1f\x7f]", "-", algorithm.name)[:40]
    return highdicom.seg.Segmentation(
        source_images=headers, pixel_array=frames, segmentation_type="BINARY",
        segment_descriptions=[_described(highdicom, s, replace(algorithm, name=name)) for s in STRUCTURES],
        series_instance_uid=uids[0], series_number=int(headers[0].get("SeriesNumber") or 0) + 1000, sop_instance_uid=uids[1], instance_number=1,
        manufacturer="auricle", manufacturer_model_name=name, software_versions=algorithm.version, device_serial_number="0",
        content_label="HEART", content_description="Heart structures in CT", series_description=f"Heart structures, {name}",
    )  # fmt: skip


def _headers(source: SourceImages) -> tuple[list[Any], list[int]]:
    """Headers of the source's files, and the slice that each of their frames is."""
    paths = list(dict.fromkeys(s.path for s in source.slices))
    if len(paths) > 1 and len(paths) < len(source.slices):
        mixed = f"the series mixes {len(paths)} files of one and of several frames"
        raise InputError(f"{paths[0].parent}: {mixed}, to which no DICOM segmentation can refer; take --format nifti")
    headers = []
    for path in paths:
        with reading_file(path) as pydicom:
            headers.append(pydicom.dcmread(path, stop_before_pixels=True))
            missing = [name for name in _NEEDED if not headers[-1].get(name)]
        if missing:
            raise InputError(f"{path}: lacks {', '.join(missing)}, without which no DICOM segmentation can refer to it; take --format nifti")
    if len(paths) > 1 and any("PerFrameFunctionalGroupsSequence" in h for h in headers):
        several = f"the series is stored in {len(paths)} enhanced (multi-frame) files"
        raise InputError(f"{paths[0].parent}: {several}, to which no DICOM segmentation can refer; take --format nifti")
    if len(paths) == len(source.slices):
        return headers, list(range(len(paths)))
    frames = [s.frame for s in source.slices]
    if sorted(frames) != list(range(len(frames))):
        raise InputError(f"{paths[0]}: the volume is a part of its frames; a segmentation can refer to all of them only")
    return headers, np.argsort(frames).tolist()


def _identified(header: Any, keep_patient: bool, thickness_mm: float) -> Any:
    """A copy of a source's header with the patient that the segmentation shall name; attributes that may be empty are there."""
    kept = copy.deepcopy(header)
    if keep_patient:
        kept.decode()  # text as the source's character set has it
    else:
        for element in list(kept):
            if element.keyword not in _LINKING:
                del kept[element.tag]
        pseudonym = hashlib.sha256(str(header.StudyInstanceUID).encode()).hexdigest()[:12]
        kept.PatientID, kept.PatientName = f"auricle-{pseudonym}", f"auricle^{pseudonym}"
        kept.PatientIdentityRemoved, kept.DeidentificationMethod = "YES", "Patient and study attributes left out; UIDs kept"
    kept.SpecificCharacterSet = "ISO_IR 192"
    if kept.get("SliceThickness") is None and "SharedFunctionalGroupsSequence" not in kept:
        kept.SliceThickness = thickness_mm
    for name in _MAY_BE_EMPTY:
        if name not in kept:
            setattr(kept, name, "")
    return kept


def _described(highdicom: Any, s: Structure, algorithm: Algorithm) -> Any:
    """Name, codes, color and origin of one structure."""

    def code(value: str, meaning: str) -> Any:
        return highdicom.sr.CodedConcept(value, "SCT", meaning)

    family = ("123110", "DCM", "Artificial Intelligence") if algorithm.weights else ("phantom", "99AURICLE", "Geometric phantom")
    return highdicom.seg.SegmentDescription(
        segment_number=s.id, segment_label=s.key, algorithm_type="AUTOMATIC",
        segmented_property_category=code("123037004", "Anatomical Structure"),
        segmented_property_type=code(s.snomed, _MEANING.get(s.key, s.name.capitalize())),
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm.name, version=algorithm.version, family=highdicom.sr.CodedConcept(*family),
            parameters={"weights SHA-256": algorithm.weights} if algorithm.weights else None,
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*s.color),
    )  # fmt: skip


def check_installed() -> None:
    """Raise `InputError` naming the package where DICOM segmentations cannot be written."""
    with _highdicom():
        pass


@contextmanager
def _highdicom(series: Path | None = None) -> Iterator[Any]:
    """Yield highdicom, imported when first needed; what it cannot write becomes an `InputError` about a file of the `series`."""
    try:
        import highdicom
        import highdicom.color
        import highdicom.seg
        import highdicom.sr
    except ImportError:
        raise InputError(f"--format dicom-seg needs highdicom; install it with: {INSTALL}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield highdicom
        except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
            # What pydicom and highdicom raise on headers that lack something; a full disk or memory is another matter.
            if isinstance(error, InputError):
                raise
            reason = f"a DICOM segmentation cannot refer to it ({' '.join(str(error).split())}); take --format nifti"
            raise InputError(f"{'the series' if series is None else series}: {reason}") from None
