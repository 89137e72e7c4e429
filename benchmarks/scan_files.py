"""Small scans in every format that auricle reads, with any field of their headers altered: material for tests and for `benchmarks.fuzz_readers`."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
META_TYPES = {"i2": "MET_SHORT", "u2": "MET_USHORT", "u1": "MET_UCHAR", "i4": "MET_INT", "f4": "MET_FLOAT", "f8": "MET_DOUBLE"}
NRRD_TYPES = {"i2": "short", "u2": "ushort", "u1": "uchar", "i4": "int", "f4": "float", "f8": "double"}


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """A sound file [x, y, z] with its affine to RAS+ mm, in the format of its ending."""
    if ".nii" in path.name:
        return nifti(path, array, affine)
    if path.suffix in (".nrrd", ".nhdr"):
        return nrrd(path, array, affine)
    return metaimage(path, array, affine, packed=path.suffix == ".mha")


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None, **header: Any) -> Path:
    """A file written by nibabel, with header fields altered afterwards."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    plain = bytearray(image.to_bytes())
    stored = nib.Nifti1Header(bytes(plain[:348]), check=False)
    for name, value in header.items():
        stored[name] = value
    plain[:348] = stored.binaryblock
    path.write_bytes(gzip.compress(bytes(plain), mtime=0) if path.name.endswith(".gz") else bytes(plain))
    return path


def nrrd(path: Path, array: np.ndarray, affine: np.ndarray, fields: Mapping[str, str | None] | None = None, data: bytes | None = None) -> Path:
    """A NRRD file; `fields` replace those of the header or (None) remove them, `data` replaces the bytes of the voxels."""
    place = LPS @ affine
    header: dict[str, str | None] = {
        "type": NRRD_TYPES[array.dtype.str[1:]], "dimension": str(array.ndim), "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape)), "space directions": " ".join(_vector(place[:3, k]) for k in range(3)),
        "kinds": " ".join(["domain"] * array.ndim), "endian": "little", "encoding": "gzip", "space origin": _vector(place[:3, 3]),
        **(fields or {}),
    }  # fmt: skip
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes(order="F")
    voxels = data if data is not None else gzip.compress(raw, mtime=0) if header["encoding"] == "gzip" else raw
    if path.suffix == ".nhdr":
        header = {**header, "data file": header.get("data file", path.stem + ".raw.gz")}
        path.with_name(str(header["data file"])).write_bytes(voxels)
        voxels = b""
    text = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in header.items() if v is not None) + "\n"
    path.write_bytes(text.encode() + voxels)
    return path


def metaimage(path: Path, array: np.ndarray, affine: np.ndarray, *, packed: bool = False, data: bytes | None = None, **fields: str | None) -> Path:
    """A MetaImage file; `fields` replace those of the header or (None) remove them, `data` replaces the bytes of the voxels."""
    place = LPS @ affine
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes(order="F")
    voxels = data if data is not None else zlib.compress(raw) if packed else raw
    size = {"CompressedDataSize": str(len(voxels))} if packed else {}
    beside = path.stem + (".zraw" if packed else ".raw")
    header: dict[str, str | None] = {
        "ObjectType": "Image", "NDims": str(array.ndim), "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed), **size, "TransformMatrix": _text((place[:3, :3] / spacing).T.ravel()), "Offset": _text(place[:3, 3]),
        "CenterOfRotation": "0 0 0", "ElementSpacing": _text(spacing), "DimSize": " ".join(map(str, array.shape)),
        "ElementType": META_TYPES[array.dtype.str[1:]], **fields, "ElementDataFile": fields.get("ElementDataFile", "LOCAL"),
    }  # fmt: skip
    if path.suffix == ".mhd":
        header["ElementDataFile"] = fields.get("ElementDataFile", beside)
        path.with_name(beside).write_bytes(voxels)
        voxels = b""
    header["ElementDataFile"] = header.pop("ElementDataFile")  # always last
    path.write_bytes("".join(f"{k} = {v}\n" for k, v in header.items() if v is not None).encode() + voxels)
    return path


def dicom(folder: Path, array: np.ndarray, syntax: str | None = None, **fields: Any) -> Path:
    """A CT series of uint16 slices array[:, :, n], 2 mm apart, pixels 0.5 (rows) x 0.75 (columns) mm; `syntax` is a transfer syntax UID."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for n in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{n + 1}"
        ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"1.2.3.{n + 1}", "CT"
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.ImageType = "1.2.3", 4, ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.Columns, ds.Rows = array.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10, -20, 30 + 2 * n], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [0.5, 0.75], 1, -1024
        ds.PixelData = np.ascontiguousarray(array[:, :, n].T).astype("<u2").tobytes()
        for name, value in fields.items():
            setattr(ds, name, value)
        if syntax not in (None, JPEG_LOSSLESS):
            ds.compress(syntax)
        ds.save_as(folder / f"{n:03d}.dcm")
        if syntax == JPEG_LOSSLESS:
            _jpeg_lossless(folder / f"{n:03d}.dcm")
    return folder


def _jpeg_lossless(path: Path) -> None:
    """Compress a file as most scanners do, which pydicom cannot."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def _text(values: Any) -> str:
    return " ".join(repr(float(v)) for v in values)


def _vector(values: Any) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"
