"""The ways in which public and private data sets of scans with label maps lie on disk."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from auricle.core.anatomy import HEART, KEYS
from auricle.core.errors import InputError
from auricle.data.dicom_files import is_dicom
from auricle.data.label_names import MM_WHS, named_labels, read_facts, structure
from auricle.data.reading import scan_name
from auricle.data.tables import Row, check_id, read_table
from auricle.data.volume_files import ending, files_of, scan_ending

LABEL_MARK = re.compile(r"[._-](label|labels|seg|segmentation|mask)$", re.IGNORECASE)
IMAGE_MARK = re.compile(r"[._-](img|image)$", re.IGNORECASE)
_CHANNEL = "_0000"
_MM_WHS = re.compile(r"(ct|mr)_(train|test)_\d{4}_(image|label)", re.IGNORECASE)


def case_name(name: str) -> str:
    """A file's name without its ending, less what data sets append to those of scans (nnU-Net's channel, image) and of label maps."""
    return IMAGE_MARK.sub("", LABEL_MARK.sub("", name)).removesuffix(_CHANNEL)


@dataclass(frozen=True)
class PairPath:
    """One scan and its label map on disk."""

    id: str
    image: Path
    """Volume file, .zip or DICOM folder."""
    label: Path | None
    """Volume file, or a folder of masks named by structure; None for a scan without a label map."""
    patient: str | None = None
    """Patient id where a table gives it: one patient may have several scans."""
    label_map: Mapping[int, int] | None = None
    """From the label file's values to structure ids; None if they are structure ids already."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What a table says about patient and scan: sex, contrast, phase, metal."""

    @property
    def files(self) -> list[Path]:
        """Every file of the pair; one DICOM file stands for its series."""
        found = [f for p in (self.image, self.label) if p for f in files_of(p)]
        if ending(self.image) is None and self.image.is_file() and _may_be_dicom(self.image):
            found += [p for p in files_of(self.image.parent) if p not in found and _may_be_dicom(p)]
        return found


def _may_be_dicom(path: Path) -> bool:
    """Whether a file is DICOM or cannot be read, which whoever reads its series will say."""
    try:
        return is_dicom(path)
    except (InputError, OSError):
        return True


@dataclass(frozen=True)
class Layout:
    """A way in which a folder holds scans and label maps."""

    name: str
    """What it is called in messages."""
    looks_like: str
    fits: Callable[[Path], bool]
    pairs: Callable[[Path, Mapping[int, int] | None], list[PairPath]]
    """Pairs of a folder, given the label map of the command line."""


def table_pairs(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    """Pairs of a CSV of paths: columns image and label, and optionally id, patient, sex, contrast, phase and metal.

    Relative paths are relative to the CSV; an empty label is a scan without a label map.
    """
    pairs: list[PairPath] = []
    taken: set[str] = set()
    wrong: list[str] = []
    for row in read_table(path, "image", "label"):
        try:
            pairs.append(_listed(row, path, taken, label_map))
            taken.add(pairs[-1].id.casefold())
        except InputError as error:
            wrong.append(str(error))
    if len(wrong) > 1:
        lines = [text.removeprefix(f"{path}, line ").partition(":")[0] for text in wrong[1:9]]
        raise InputError(f"{wrong[0]}; {len(wrong) - 1} more lines are wrong ({', '.join(lines)}{', ..' if len(wrong) > 9 else ''})")
    if wrong:
        raise InputError(wrong[0])
    return pairs


def _listed(row: Row, path: Path, taken: set[str], label_map: Mapping[int, int] | None) -> PairPath:
    """The pair of one line; `taken` are the ids of those before it."""
    if "image" not in row.cells:
        raise InputError(f"{row.place}: names no image")
    image, label = (None if (v := row.cells.get(c)) is None else path.parent / v for c in ("image", "label"))
    assert image is not None
    for file in (image, label):
        if file is not None and not file.exists():
            raise InputError(f"{row.place}: no such file or folder: {file}")
    name = check_id(row.cells.get("id") or scan_name(image), row.place)
    if name.casefold() in taken:
        raise InputError(f"{row.place}: a second case is called {name}; give each a name of its own in the column id")
    return PairPath(name, image, label, row.cells.get("patient"), label_map, row.attributes())


def with_table(pairs: list[PairPath], path: Path) -> list[PairPath]:
    """Pairs with what a patients.csv says about them: columns id and patient, and optionally sex, contrast, phase and metal."""
    if not path.is_file():
        return pairs
    rows: dict[str, Row] = {}
    for row in read_table(path, "id", "patient"):
        if row.cells.get("id") in rows:
            raise InputError(f"{row.place}: a second line for {row.cells['id']}; keep one of them")
        if "id" in row.cells:
            rows[row.cells["id"]] = row
    unknown = sorted(set(rows) - {p.id for p in pairs})
    if unknown:
        raise InputError(f"{path}: no scan is named {', '.join(unknown[:8])}; ids are file names without their endings")
    return [
        replace(p, patient=r.cells.get("patient", p.patient), attributes={**p.attributes, **r.attributes()}) if (r := rows.get(p.id)) else p
        for p in pairs
    ]  # fmt: skip


def _matched(
    path: Path, images: Mapping[str, Path], labels: Mapping[str, Path], label_map: Mapping[int, int] | None
) -> list[PairPath]:
    alone = sorted(set(labels) - set(images))
    if alone:
        raise InputError(f"{path}: {len(alone)} label maps have no scan: {', '.join(alone[:8])}")
    return [PairPath(n, images[n], labels.get(n), label_map=label_map) for n in sorted(images)]


def _facts(path: Path) -> dict[str, Any]:
    """dataset.json, refused for a data set of MR images."""
    facts = read_facts(path / "dataset.json")
    channels = facts.get("channel_names", facts.get("modality"))
    names = [str(v) for v in channels.values()] if isinstance(channels, dict) else []
    if any(n.upper().startswith("MR") for n in names):
        raise InputError(f"{path / 'dataset.json'}: the images are {', '.join(names)}; CT is needed")
    return facts


def _nnunet(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    facts = _facts(path)
    label_map = label_map or named_labels(facts, path / "dataset.json")
    return _matched(path, volumes(path / "imagesTr", channel=True), volumes(path / "labelsTr"), label_map)


def _decathlon(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    facts = _facts(path)
    label_map = label_map or named_labels(facts, path / "dataset.json")
    pairs = []
    for entry in facts["training"]:
        image, label = (_inside(path, entry.get(k) if isinstance(entry, dict) else None) for k in ("image", "label"))
        pairs.append(PairPath(check_id(scan_name(image), str(path / "dataset.json")), image, label, label_map=label_map))
    return sorted(pairs, key=lambda p: p.id)


def _inside(path: Path, name: Any) -> Path:
    """A file that a dataset.json lists."""
    if not isinstance(name, str) or ".." in Path(name).parts or Path(name).is_absolute() or ending(Path(name)) is None:
        raise InputError(f"{path / 'dataset.json'}: 'training' lists {name!r:.80}, which is not a volume file of this folder")
    if not (path / name).is_file():
        raise InputError(f"{path / 'dataset.json'}: lists {name}, which is not there")
    return path / name


def _is_decathlon(path: Path) -> bool:
    """Whether dataset.json lists files that are there under these names; that of nnU-Net 1 lists them without _0000."""
    if not (path / "dataset.json").is_file() or not (path / "imagesTr").is_dir():
        return False
    listed = read_facts(path / "dataset.json").get("training")
    if not isinstance(listed, list) or not listed:
        return False
    # A case may be called heart_0003, too: image and label map have one name there, and other names with a channel.
    pairs = [(e.get("image"), e.get("label")) for e in listed if isinstance(e, dict)]
    there = [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str) and (path / a).is_file()]
    alike = bool(there) and all(Path(a).name == Path(b).name for a, b in there)
    return alike or not any(_channel(p) for p in (path / "imagesTr").iterdir())


def _mm_whs_folder(path: Path) -> Path:
    return path / "ct_train" if (path / "ct_train").is_dir() else path


def _mm_whs(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    path = _mm_whs_folder(path)
    found = volumes(path)
    mr = [p.name for p in found.values() if p.name.lower().startswith("mr_")]
    if mr:
        raise InputError(f"{path}: holds MR images ({mr[0]}); CT is needed: give the folder ct_train")
    images, labels = _marked(found)
    return _matched(path, images, labels, label_map or MM_WHS)


def _total_segmentator(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    if label_map:
        raise InputError(f"--label-map: {path} holds a mask for each structure, known by its name; leave the flag out")
    pairs = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and ((p / "ct.nii.gz").is_file() or (p / "segmentations").is_dir())):
        if not (folder / "ct.nii.gz").is_file():
            raise InputError(f"{folder}: holds segmentations, but no ct.nii.gz")
        masks = mask_files(folder / "segmentations")
        if masks and not any(key in masks for key in HEART):
            way_out = "add heart_myocardium, heart_atrium_left .. of the task heartchambers_highres"
            raise InputError(f"{folder / 'segmentations'}: has no mask of myocardium or a chamber; {way_out}")
        pairs.append(PairPath(folder.name, folder / "ct.nii.gz", folder / "segmentations" if masks else None))
    return _with_sex(pairs, path / "meta.csv")


def _with_sex(pairs: list[PairPath], path: Path) -> list[PairPath]:
    """Pairs with the sex that the data set's meta.csv gives."""
    if not path.is_file():
        return pairs
    rows = {r.cells.get("image_id"): r.cells.get("gender") for r in read_table(path, "image_id", "gender")}
    sex = {"m": "M", "f": "F"}
    return [replace(p, attributes={"sex": sex[g]}) if (g := str(rows.get(p.id)).lower()) in sex else p for p in pairs]


def mask_files(folder: Path) -> dict[str, list[Path]]:
    """Masks of a folder by structure key, for those named after a structure."""
    found: dict[str, list[Path]] = {}
    for name, path in volumes(folder).items():
        if (value := structure(name)) > 0:
            found.setdefault(KEYS[value - 1], []).append(path)
    return found


def _two_folders(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    files, folders = volumes(path / "images"), _scan_folders(path / "images")
    both = sorted(set(files) & set(folders))
    if both:
        raise InputError(f"{files[both[0]]}: a folder has the same name; keep one of them")
    labels = volumes(path / "labels")
    for name in sorted(set(labels) - {*files, *folders}):
        # 3D Slicer names a segmentation NAME.seg.nrrd.
        if (plain := LABEL_MARK.sub("", name)) in {*files, *folders} and plain not in labels:
            labels[plain] = labels.pop(name)
    return _matched(path, {**files, **folders}, labels, _named(path, label_map))


def _side_by_side(path: Path, label_map: Mapping[int, int] | None) -> list[PairPath]:
    images, labels = _marked(volumes(path))
    # A folder is a DICOM series where a label map has its name.
    folders = {n: p for n, p in _scan_folders(path).items() if n in labels and n not in images}
    return _matched(path, {**images, **folders}, labels, _named(path, label_map))


def _named(path: Path, label_map: Mapping[int, int] | None) -> Mapping[int, int] | None:
    """The label map of a dataset.json where there is one and the command line gives none."""
    return label_map or (named_labels(_facts(path), path / "dataset.json") if (path / "dataset.json").is_file() else None)


def volumes(folder: Path, *, channel: bool = False) -> dict[str, Path]:
    """Volume files and zips of a folder by name; with `channel`, names end in _0000 and only one channel may be there."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or scan_ending(path) is None:
            continue
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: is a link to a file that is not there; fetch that file, or remove the link")
        if not path.is_file():
            continue
        name = scan_name(path)
        if not name.isprintable():  # nor are bytes that are no UTF-8
            raise InputError(f"{str(path)!a}: the name holds characters that cannot be printed; rename the file")
        if channel and (number := _channel(path)):
            if number != "_0000":
                raise InputError(f"{path}: a second channel; only CT as the one channel _0000 is supported")
            name = name[:-5]
        if name in found:
            raise InputError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    return found


def _channel(path: Path) -> str:
    """The channel that nnU-Net's names end in; empty for other names."""
    found = re.search(r"_\d{4}$", scan_name(path)) if ending(path) else None
    return found.group() if found else ""


def _scan_folders(folder: Path) -> dict[str, Path]:
    return {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _marked(found: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and label maps of one folder, told apart by the end of their names."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for name, path in found.items():
        group, mark = (labels, LABEL_MARK) if LABEL_MARK.search(name) else (images, IMAGE_MARK)
        key = mark.sub("", name)
        if key in group:
            kind = "a label map of the same scan" if group is labels else "the same scan"
            raise InputError(f"{path}: {group[key].name} is {kind}; keep one of them")
        group[key] = path
    return images, labels


def _is_nnunet(path: Path) -> bool:
    return (path / "dataset.json").is_file() and (path / "imagesTr").is_dir() and not _is_decathlon(path)


def _is_mm_whs(path: Path) -> bool:
    return any(_MM_WHS.match(n) for n in volumes(_mm_whs_folder(path)))


def _is_side_by_side(path: Path) -> bool:
    return not _is_mm_whs(path) and any(LABEL_MARK.search(n) for n in volumes(path))


LAYOUTS = (
    Layout("nnU-Net", "dataset.json with imagesTr/NAME_0000.nii.gz and labelsTr/", _is_nnunet, _nnunet),
    Layout("Medical Segmentation Decathlon", "dataset.json that lists imagesTr/NAME.nii.gz and labelsTr/", _is_decathlon, _decathlon),
    Layout("MM-WHS", "ct_train_1001_image.nii.gz with ct_train_1001_label.nii.gz", _is_mm_whs, _mm_whs),
    Layout("TotalSegmentator", "NAME/ct.nii.gz with NAME/segmentations/",
           lambda p: any((d / "ct.nii.gz").is_file() and (d / "segmentations").is_dir() for d in p.iterdir() if d.is_dir()), _total_segmentator),
    Layout("two folders", "images/ with labels/", lambda p: (p / "images").is_dir(), _two_folders),
    Layout("side by side", "NAME.nii.gz with NAME_label.nii.gz", _is_side_by_side, _side_by_side),
)  # fmt: skip


def layout_of(path: Path) -> Layout:
    """The layout of a folder; raises `InputError` where none fits or several do."""
    found = [layout for layout in LAYOUTS if layout.fits(path)]
    if len(found) > 1:
        each = "; ".join(f"{layout.name} ({layout.looks_like})" for layout in found)
        raise InputError(f"{path}: could be read in {len(found)} ways: {each}; move one of them elsewhere, or give a .csv of paths")
    if found:
        return found[0]
    if volumes(path):
        return LAYOUTS[-1]  # scans without label maps
    known = "; ".join(layout.looks_like for layout in LAYOUTS)
    raise InputError(f"{path}: no scans found; expected one of: {known}; or give a .csv with the columns image and label")
