"""What DICOM files say about their image planes, and their decoded pixels."""

import hashlib
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.archive import unpacked

MAX_FILES = 20_000
_ENDINGS = (".dcm", ".ima")
_DIRECTORY = "1.2.840.10008.1.3.10"
"""Media storage directory: a DICOMDIR, whatever its name."""
_DEFLATED, MAX_DEFLATED = b"1.2.840.10008.1.2.1.99", 2**21
"""pydicom inflates a deflated file as a whole, up to 1032 times its size: larger ones than 2 MiB, a slice many times over, are refused."""
_TAGS = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Rows", "Columns",
    "SamplesPerPixel", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_CODEC = {"1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",
          "1.2.840.10008.1.2.4.8": "pyjpegls"}  # fmt: skip
"""Start of a transfer syntax UID to the packages that decode it: JPEG 2000, HTJ2K, JPEG-LS; all other JPEG kinds below."""
_OTHER_CODEC = "python-gdcm"


@dataclass(frozen=True)
class Slice:
    """One image plane of one file."""

    path: Path
    frame: int
    series: str
    number: str
    description: str
    modality: str
    localizer: bool
    shape: tuple[int, int]
    samples: int
    position: tuple[float, ...]
    """LPS mm of the first pixel's center; empty where the file does not say."""
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    unit: str
    frames: int
    """Frames of a file that does not say where each of them lies; 1 for all others."""
    apart: bool
    """Compressed so that only a decoder that damaged files crash or hang can read it."""


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM mark after its 128-byte preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def series_of(path: Path) -> str:
    """Series instance UID of one DICOM file (may be empty in anonymized files)."""
    with reading_file(path) as pydicom:
        return str(_load(pydicom, path, stop_before_pixels=True, specific_tags=_TAGS).get("SeriesInstanceUID") or "")


def scan_folder(folder: Path) -> tuple[list[Slice], list[str]]:
    """Every image plane under a folder, and a notice on what was passed over."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    slices: list[Slice] = []
    others = 0
    strays: list[Path] = []
    for count, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        if count >= MAX_FILES:
            raise InputError(f"{folder}: holds more than {MAX_FILES} files; give the folder of one study")
        if path.name == "DICOMDIR" or path.name.startswith("._") or not is_dicom(path):
            others += 1
            if path.name != "DICOMDIR" and not path.name.startswith("._"):
                strays.append(path)
            continue
        found = _headers(path)
        others += not found
        slices += found
    # Passed over, a damaged file would be a slice less, which nothing shows at the end of a series.
    kinds = {(s.path.parent, _kind(s.path)) for s in slices}
    for path in strays:
        if path.suffix.lower() in _ENDINGS or (path.parent, _kind(path)) in kinds:
            bare = "lacks the DICOM file header (Part 10): write it anew, for instance with dcmconv"
            none = f"has the name of a DICOM file but is none ({path.stat().st_size} bytes); copy it again or remove it"
            raise InputError(f"{path}: {bare if _is_bare(path) else none}")
    if not slices and any(map(_is_bare, strays)):
        raise InputError(f"{folder}: the files lack the DICOM file header (Part 10): write them anew, for instance with dcmconv")
    if not slices:
        raise InputError(f"{folder}: holds no DICOM images")
    return slices, [f"{folder}: {others} files are not DICOM images and were passed over"] if others else []


def _kind(path: Path) -> str:
    """A file's name with its numbers left out: those of a series are of one kind, as IM000123 and IM000124 are, or UIDs."""
    return re.sub(r"\d+", "0", path.name)


def _is_bare(path: Path) -> bool:
    """Whether a file begins as a DICOM data set does, with an element of group 0008."""
    with path.open("rb") as file:
        start = file.read(4)
    return len(start) == 4 and start[:2] == b"\x08\x00" and start[3] == 0


def patient_mark(path: Path) -> str | None:
    """Hash of the PatientID, with its issuer, of a DICOM file or of the first one in a folder or .zip; None where there is none."""
    if path.is_file() and path.suffix.lower() == ".zip":
        with unpacked(path) as folder:
            return patient_mark(folder)
    path = path.parent if path.name == "DICOMDIR" else path
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    first = next((p for p in files if p.name != "DICOMDIR" and not p.name.startswith("._") and is_dicom(p)), None)
    if first is None:
        return None
    with reading_file(first) as pydicom:
        header = _load(pydicom, first, stop_before_pixels=True, specific_tags=["PatientID", "IssuerOfPatientID"])
        name, issuer = (str(header.get(k) or "").strip() for k in ("PatientID", "IssuerOfPatientID"))
    return hashlib.sha256(f"{issuer}\0{name}".encode()).hexdigest() if name else None


def decode(path: Path) -> tuple[NDArray[Any], tuple[int, int] | None]:
    """A file's frames [frame, row, column], and the stored values from .. to that mark padding, if the file has them."""
    with reading_file(path) as pydicom:
        header = _load(pydicom, path)
        syntax = header.file_meta.get("TransferSyntaxUID")
        missing = missing_codec(syntax)
        if missing:
            name = getattr(syntax, "name", syntax)
            raise InputError(f"{path}: is compressed with {name}; to read it: pip install {missing}")
        header.pixel_array_options(decoding_plugin=_plugin(syntax) or "")
        frames = np.asarray(header.pixel_array)
        value, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
        frames = frames if frames.ndim == 3 else frames[None]
        if value in (None, ""):
            return frames, None
        # The value may be written in the other signedness than the pixels; both are 16 bits wide.
        ends = [int(np.array(int(v) & 0xFFFF, np.uint16).astype(frames.dtype)) for v in (value, limit) if v not in (None, "")]
        return frames, (min(ends), max(ends))


def _plugin(syntax: Any) -> str | None:
    """What of pydicom's decoders takes a transfer syntax: "" for pydicom's own choice, None for one that is not to be trusted with this process.

    OpenJPEG and pydicom's own RLE stand damaged files; CharLS (JPEG-LS) may never end and GDCM crash (`python -m benchmarks.fuzz_readers`).
    """
    if syntax is None or not syntax.is_encapsulated or syntax == "1.2.840.10008.1.2.5":
        return ""
    from pydicom.pixels.decoders.base import get_decoder

    return "pylibjpeg" if "pylibjpeg" in get_decoder(syntax).available_plugins else None


@contextmanager
def reading_file(path: Path) -> Iterator[Any]:
    """Yield pydicom, imported when first needed; whatever a damaged file makes it raise becomes an `InputError`.

    pydicom's warnings about harmless deviations from the standard are not the user's business.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError("reading DICOM needs pydicom; install it with: pip install pydicom pylibjpeg pylibjpeg-openjpeg") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield pydicom
        except InputError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise InputError(f"{path}: is damaged or not valid DICOM ({reason})") from None


def _load(pydicom: Any, path: Path, **options: Any) -> Any:
    """`pydicom.dcmread`, but for a deflated file that could hold anything."""
    with path.open("rb") as file:
        if _DEFLATED in file.read(2048) and path.stat().st_size > MAX_DEFLATED:
            raise InputError(f"{path}: is deflated and larger than {MAX_DEFLATED / 2**20:.0f} MiB; store it uncompressed")
    return pydicom.dcmread(path, **options)


def _headers(path: Path) -> list[Slice]:
    """The image planes of one file; none if it is no image."""
    with reading_file(path) as pydicom:
        header = _load(pydicom, path, stop_before_pixels=True, specific_tags=_TAGS)
        if header.get("Rows"):
            return _planes(header, path)
        kind, stated = header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")
        if stated != _DIRECTORY and (kind is None or kind != stated or "Image Storage" in kind.name):
            raise InputError(f"{path}: is cut off inside its header; copy it again or remove it")
        return []


def _planes(header: Any, path: Path) -> list[Slice]:
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    if not frames:
        return [_plane(header, path, 0, [header])]
    shared = [group for item in header.get("SharedFunctionalGroupsSequence") or [] for group in _groups(item)]
    return [_plane(header, path, n, [header, *_groups(frame), *shared]) for n, frame in enumerate(frames)]


def _groups(item: Any) -> list[Any]:
    """The functional groups of a frame: where an enhanced image keeps its geometry and scaling."""
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")
    return [group[0] for name in names if (group := item.get(name))]


def _plane(header: Any, path: Path, frame: int, places: list[Any]) -> Slice:
    def find(name: str) -> Any:
        return next((v for p in places if (v := p.get(name)) not in (None, "")), None)

    def numbers(name: str) -> tuple[float, ...]:
        values = find(name)
        return () if values is None else tuple(float(v) for v in values)

    slope, shift = find("RescaleSlope"), find("RescaleIntercept")
    return Slice(
        path=path,
        frame=frame,
        series=str(header.get("SeriesInstanceUID") or ""),
        number=str(header.get("SeriesNumber") or ""),
        description=str(header.get("SeriesDescription") or ""),
        modality=str(header.get("Modality") or ""),
        localizer="LOCALIZER" in [str(v).upper() for v in (header.get("ImageType") or [])],
        shape=(int(header.Rows), int(header.Columns)),
        samples=int(header.get("SamplesPerPixel") or 1),
        position=numbers("ImagePositionPatient"),
        orientation=numbers("ImageOrientationPatient"),
        spacing=numbers("PixelSpacing"),
        slope=1.0 if slope is None else float(slope),
        intercept=math.nan if shift is None else float(shift),
        unit=str(find("RescaleType") or "HU"),
        frames=1 if len(places) > 1 else int(header.get("NumberOfFrames") or 1),
        apart=_plugin(header.file_meta.get("TransferSyntaxUID")) is None,
    )


def missing_codec(syntax: Any) -> str | None:
    """The package to install for a transfer syntax that nothing installed can decode; None if it can be read."""
    from pydicom.pixels.decoders.base import get_decoder

    if syntax is None or not syntax.is_compressed or syntax == "1.2.840.10008.1.2.1.99":
        return None
    if get_decoder(syntax).is_available:
        return None
    return next((v for k, v in _CODEC.items() if syntax.startswith(k)), _OTHER_CODEC)
