"""Hand a segmenter or pairs of images and label maps to others, as one folder or zip file that is there whole or not at all."""

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

from auricle.core import progress
from auricle.core.checksums import SUMS, file_hash, hash_of, parse_checksums, read_checksums, write_checksums
from auricle.core.errors import InputError
from auricle.core.files import atomic_folder, atomic_path, scratch_folder
from auricle.data.nnunet import dataset_folder, dataset_name
from auricle.data.outputs import check_output
from auricle.stages import export_models, export_pairs
from auricle.stages.segment import resolve_model

ModelFormat = Literal["bundle", "monai", "onnx"]
PairFormat = Literal["nifti", "nnunet", "dicom"]
Format = Literal["bundle", "monai", "onnx", "nifti", "nnunet", "dicom"]


@dataclass(frozen=True)
class ExportStage:
    """What is exported, and how."""

    source: tyro.conf.Positional[Path | None] = None
    """A fine-tuned segmenter or a whole run (of its arms `ours-plus`, else `ours`, else `baseline`); a folder of generated pairs or a prepared
    cohort. Without it, the segmenter that ships with auricle."""
    format: Format | None = None
    """For a segmenter: bundle (for `auricle segment`, the default), monai (MONAI bundle) or onnx. For pairs: nifti (the default), nnunet (raw data
    set) or dicom (CT series, of synthetic pairs alone)."""
    half: bool = False
    """Store the weights of a bundle in half precision."""
    dataset_id: int = 900
    """Number of the nnU-Net data set."""
    name: str = "Auricle"
    """Name of the nnU-Net data set."""
    overwrite: bool = False
    """Replace an earlier export."""


def run(config: ExportStage, out: Path) -> Path:
    """Write the export and return where it lies: `out`, or for nnU-Net the data set's folder in it, or `out` as a zip file.

    Raises `InputError` for a source, a format or a target that cannot be used, before anything is written.
    """
    kind = config.format or _usual(config.source)
    if kind in get_args(PairFormat) and config.source is None:
        raise InputError(f"--format {kind} needs the folder of generated pairs, or of a prepared cohort")
    if config.half and kind not in ("bundle", "monai"):
        raise InputError(f"--half is for the weights of a bundle, not for --format {kind}")
    if kind != "nnunet" and (config.dataset_id, config.name) != (ExportStage.dataset_id, ExportStage.name):
        raise InputError(f"--dataset-id and --name are an nnU-Net data set's, not for --format {kind}")
    target = dataset_folder(out, config.dataset_id, config.name) if kind == "nnunet" and out.suffix != ".zip" else out
    _check_target(target, config.overwrite)
    write, size = _pairs(config, kind) if kind in get_args(PairFormat) else _model(config, kind)
    check_output(target, size=size * (2 if out.suffix == ".zip" else 1), overwrite=config.overwrite)
    inside = dataset_name(config.dataset_id, config.name) if kind == "nnunet" else out.stem
    with _delivering(target, inside, config.overwrite) as folder:
        write(folder)
    progress.report(f"{target}: exported as {kind}")
    return target


def _usual(source: Path | None) -> Format:
    """The format that is taken where none is asked for."""
    if source is not None and any((source / name).exists() for name in ("pairs.json", "cases.json")):
        return "nifti"
    return "bundle"


def _model(config: ExportStage, kind: Format) -> tuple[Callable[[Path], None], int]:
    """The writer of a segmenter, and the bytes it needs at most."""
    if config.source is not None and not config.source.is_dir():
        what = "is a file; unpack it and name its folder" if config.source.exists() else "no such folder"
        raise InputError(f"{config.source}: {what}")
    if config.source is not None and _usual(config.source) == "nifti":
        raise InputError(f"--format {kind} is for segmenters; {config.source} holds pairs: take {', '.join(get_args(PairFormat))}")
    try:
        model = resolve_model(config.source)
    except InputError:
        kinds = "a fine-tuned segmenter, nor generated pairs (pairs.json) or a prepared cohort (cases.json)"
        raise InputError(f"{config.source}: holds neither {kinds}") from None
    size = 3 * (model / "model.safetensors").stat().st_size + 2**20 if (model / "model.safetensors").exists() else 0
    if kind == "onnx":
        return lambda folder: export_models.write_onnx_folder(model, folder), size
    write = export_models.write_monai if kind == "monai" else export_models.write_bundle
    return lambda folder: write(model, folder, config.half), size


def _pairs(config: ExportStage, kind: Format) -> tuple[Callable[[Path], None], int]:
    """The writer of pairs, and the bytes it needs at most."""
    assert config.source is not None
    source = export_pairs.open_source(config.source)
    if kind == "dicom" and not source.synthetic:
        raise InputError(f"--format dicom writes series that say they are synthetic; {config.source} holds real scans: take nifti or nnunet")
    if kind == "nnunet":
        return lambda folder: export_pairs.write_nnunet(source, folder, config.name), source.bytes
    write = export_pairs.write_dicom if kind == "dicom" else export_pairs.write_nifti_pairs
    return lambda folder: write(source, folder), source.bytes


def _check_target(target: Path, overwrite: bool) -> None:
    """As `check_output`; and what is overwritten must be an earlier export, whole, with nothing of the user's in it."""
    check_output(target, overwrite=overwrite)
    if not target.exists():
        return
    kept = "so it is not overwritten; choose another name"
    try:
        found = _hashes_of_zip(target) if target.suffix == ".zip" and target.is_file() else _hashes_of_folder(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be read ({error}), {kept}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):  # damaged, locked, or of another compression
        found = None
    if found is None:
        raise InputError(f"{target}: is no earlier export (there is no {SUMS} in it), {kept}")
    listed, hashes = found
    for name, value in hashes.items():
        if listed.get(name) != value:
            raise InputError(f"{target}: holds {name}, which no export wrote or which was altered since, {kept}")


def _hashes_of_folder(folder: Path) -> tuple[dict[str, str], dict[str, str]] | None:
    """What an export's list says of its files, and what they are; None where there is no such list. Finder's .DS_Store is nobody's."""
    if not (folder / SUMS).is_file():
        return None
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / SUMS and p.name != ".DS_Store")
    return read_checksums(folder), {p.relative_to(folder).as_posix(): file_hash(p) for p in files}


def _hashes_of_zip(archive: Path) -> tuple[dict[str, str], dict[str, str]] | None:
    """The same of a zip, in which everything lies in one folder."""
    with zipfile.ZipFile(archive) as packed:
        names = [n for n in packed.namelist() if not n.endswith("/")]
        inside = [n.removesuffix(SUMS) for n in names if n.count("/") == 1 and n.endswith(f"/{SUMS}")]
        if len(inside) != 1:
            return None
        listed = parse_checksums(packed.read(inside[0] + SUMS).decode("utf-8", "replace"), f"{archive}: {inside[0]}{SUMS}")
        hashes = {}
        for name in names:
            with packed.open(name) as handle:
                hashes[name.removeprefix(inside[0])] = hash_of(handle)
        del hashes[SUMS]
    return listed, hashes


@contextmanager
def _delivering(target: Path, inside: str, overwrite: bool) -> Iterator[Path]:
    """Yield a folder that becomes `target` with its hashes, or the folder `inside` in the zip file `target`."""
    try:
        if target.suffix != ".zip":
            with atomic_folder(target, overwrite=overwrite) as folder:
                yield folder
                _finish(folder)
            return
        with scratch_folder(target.with_suffix("")) as scratch:
            (folder := scratch / "content").mkdir()
            yield folder
            _finish(folder)
            # Packed within the folder that the next process clears up, should this one be killed.
            with atomic_path(scratch / target.name) as temporary:
                _zip(folder, inside, temporary)
            os.replace(scratch / target.name, target)
    except FileExistsError:
        raise InputError(f"{target}: another process made it just now") from None
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from None


def _finish(folder: Path) -> None:
    """Hashes of all files; and all of them readable by others, which safetensors' are not."""
    write_checksums(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


def _zip(folder: Path, inside: str, target: Path) -> None:
    """Pack `folder` as `inside`; the same files give the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(f"{inside}/{path.relative_to(folder).as_posix()}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed)
