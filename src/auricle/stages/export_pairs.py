"""Pairs of image and label map as others can use them: NIfTI files, an nnU-Net raw data set or DICOM series."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle import __version__
from auricle.core import progress
from auricle.core.anatomy import ID, KEYS, LABEL_COUNT
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.data import dicom_seg, nnunet
from auricle.data.dicom import source_images
from auricle.data.dicom_write import SyntheticSeries, write_synthetic_ct
from auricle.data.nifti import saving, write_nifti
from auricle.stages.pairs import Pairs, cohort_pairs, generated_pairs

CONDITIONS = ("sex", "contrast", "phase", "metal", "location_mm")
"""Conditions that go out, beside volumes. Everything else that is known about a generated pair stays, above all the names of training cases."""
VIRTUAL = "virtual patient"
"""``source`` in the attributes of a virtual patient (`phantom`)."""


@dataclass(frozen=True)
class Source:
    """What is exported."""

    pairs: Pairs
    synthetic: bool
    rows: list[dict[str, Any]]
    """What is known about each pair: JSON values, none of them about a patient where the pairs are synthetic."""
    provenance: dict[str, Any]
    version: str
    """Of the auricle that made them."""

    @property
    def bytes(self) -> int:
        """At most so much is written: images of 16 bits and label maps of 8."""
        return 3 * int(np.prod(self.pairs.grid.size)) * len(self.pairs)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]]:
        """Row, image (int16 HU), label map (uint8) and affine of every pair, with a progress bar."""
        for i in progress.track(range(len(self.pairs)), "export", len(self.pairs)):
            # One at a time: `Pairs` keeps what it has read.
            image, label = self.pairs.take([i]).hu(0)
            yield self.rows[i], image.astype(np.int16), label, self.pairs.items[i].affine


def open_source(folder: Path) -> Source:
    """The pairs that `auricle generate` made (in `folder`, or in the run there), or those of a prepared cohort; raises `InputError` else."""
    if (folder / "cases.json").exists():
        return _cohort(folder)
    for candidate in (folder, folder / "generate"):
        if (candidate / "pairs.json").exists():
            return _generated(candidate)
    raise InputError(f"{folder}: holds neither generated pairs (pairs.json of `auricle generate`) nor a prepared cohort (cases.json)")


def _generated(folder: Path) -> Source:
    everything = generated_pairs(folder)
    table: dict[str, Any] = read_json(folder / "pairs.json")
    if not all({"requested", "faults", "copy", "complete"} <= p.keys() for p in table["pairs"]):
        raise InputError(f"{folder}: was written by an older auricle, which did not record what was asked for; generate again")
    kept = [i for i, p in enumerate(table["pairs"]) if not p["copy"]]
    if len(kept) < len(everything):
        progress.notice(f"{folder}: {len(everything) - len(kept)} of {len(everything)} pairs are left out as copies of training cases")
    if not kept:
        raise InputError(f"{folder}: every pair is a copy of a training case; train the generator longer or on more cases")
    audited = all(table["pairs"][i].get("audited", table["pairs"][i].get("nearest") is not None) for i in kept)
    if not audited:
        progress.notice(f"{folder}: was generated without a cohort or gate, so that nobody has looked for copies of training cases")
    asked = _conditions(table.get("asked", {}))
    rows = [_described(table["pairs"][i], asked) for i in kept]
    stages = read_json(folder / "config.json")["inputs"]
    models = {"diffusion": table.get("model_sha256"), "autoencoder": table.get("autoencoder_sha256"), "refiner": table.get("refiner_sha256")}
    version = _version(folder)
    return Source(everything.take(kept), True, rows, {
        "synthetic": True, **_made_by(version, "generate"), "research_only": True, "audited_for_copies": audited,
        "seed": table["seed"], "sampler": table["sampler"], "steps": table["steps"], "variation": table.get("variation", 1.0),
        "model_sha256": {k: v for k, v in models.items() if v},
        "stage_fingerprints": stages, "asked": asked, "pairs": rows,
    }, version)  # fmt: skip


def _version(folder: Path) -> str:
    """The version of auricle that finished the stage in `folder`."""
    return str(read_json(folder / "done.json").get("auricle", "of an unknown version"))


def _made_by(version: str, command: str) -> dict[str, str]:
    return {"made_by": f"auricle {version}, `auricle {command}`", "exported_by": f"auricle {__version__}"}


def _described(pair: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    requested = _conditions(pair["requested"])
    for key, step in (("phase", 0.1), ("location_mm", 5.0)):
        if requested.get(key) is not None and key not in asked:
            # Nobody asked for it: it is a training case's, whose exact value could name that case.
            requested[key] = round(step * round(requested[key] / step), 1)
    return {
        "id": pair["id"], "synthetic": True, "requested": requested, "complete": pair["complete"],
        "faults": [text for text in pair["faults"] if "training case" not in text],
    }  # fmt: skip


def _conditions(asked: dict[str, Any]) -> dict[str, Any]:
    volumes = {k: v for k, v in asked.get("volumes_ml", {}).items() if k in KEYS}
    return {k: asked[k] for k in CONDITIONS if k in asked} | ({"volumes_ml": volumes} if volumes else {})


def _cohort(folder: Path) -> Source:
    """A cohort or a fold of one. Its cases are synthetic where they are virtual patients; anything else may come from a person."""
    cases = {c["id"]: c for c in read_json(folder / "cases.json")["cases"]}
    pairs = cohort_pairs(folder, "train", "validation", "test")
    rows = [
        {"id": item.id, "synthetic": item.attributes.get("source") == VIRTUAL, "patient": item.patient, "split": cases[item.id]["split"],
         "attributes": dict(item.attributes)}
        for item in pairs.items
    ]  # fmt: skip
    synthetic = all(row["synthetic"] for row in rows)
    made = "virtual patients" if synthetic else "scans with label maps, resampled to the model grid"
    version = _version(folder)
    return Source(pairs, synthetic, rows, {"synthetic": synthetic, **_made_by(version, "cohort"), "what": made, "pairs": rows}, version)


def write_nifti_pairs(source: Source, folder: Path) -> None:
    """Write ``images/ID.nii.gz``, ``labels/ID.nii.gz``, ``attributes.csv`` and ``provenance.json``."""
    rows = []
    for row, image, label, affine in source:
        write_nifti(folder / "images" / f"{row['id']}.nii.gz", image, affine, dtype=np.int16)
        write_nifti(folder / "labels" / f"{row['id']}.nii.gz", label, affine, dtype=np.uint8)
        rows.append(_flat(row, label, affine))
    _write_patients(rows, folder)
    _write_facts(source, rows, folder)


def _write_patients(rows: list[dict[str, Any]], folder: Path) -> None:
    """Who is whose scan, as `auricle` reads it: no patient is ever in two splits."""
    patients = [{"id": r["id"], "patient": r["patient"]} for r in rows if "patient" in r]
    if any(r["patient"] != r["id"] for r in patients):
        _write_csv(folder / "patients.csv", patients)


def write_nnunet(source: Source, folder: Path, name: str) -> None:
    """Write an nnU-Net raw data set with ``provenance.json``; cases of a cohort's test split go to ``imagesTs`` and ``labelsTs``."""
    rows, count = [], 0
    for row, image, label, affine in source:
        kind = "Ts" if row.get("split") == "test" else "Tr"
        count += kind == "Tr"
        write_nifti(folder / f"images{kind}" / f"{row['id']}_0000.nii.gz", image, affine, dtype=np.int16)
        write_nifti(folder / f"labels{kind}" / f"{row['id']}.nii.gz", label, affine, dtype=np.uint8)
        rows.append(_flat(row, label, affine))
    what = "SYNTHETIC cardiac CT. Research only." if source.synthetic else "Cardiac CT on the model grid of auricle."
    write_json(folder / "dataset.json", nnunet.dataset_json(name, count, what))
    _write_patients([r for r in rows if r.get("split") != "test"], folder)
    _write_facts(source, rows, folder)


def write_dicom(source: Source, folder: Path) -> None:
    """Write ``images/ID/`` (a CT series), ``labels/ID.dcm`` (a segmentation of it), ``attributes.csv`` and ``provenance.json`` of synthetic pairs."""
    assert source.synthetic, "every header will say that it is"
    dicom_seg.check_installed()
    models = source.provenance.get("model_sha256")
    name, weights = ("auricle phantom", None) if models is None else ("auricle generate", models.get("diffusion", "unknown"))
    algorithm = dicom_seg.Algorithm(name, source.version, weights)
    rows = []
    for row, image, label, affine in source:
        sex = row.get("requested", row.get("attributes", {})).get("sex")
        # With the content in them, no UID ever stands for two images, whatever else the generator was asked, nor for two headers.
        origin = f"{__version__} {source.provenance.get('seed')} {hashlib.sha256(image.tobytes() + affine.tobytes()).hexdigest()}"
        series = folder / "images" / row["id"]
        write_synthetic_ct(series, image, affine, SyntheticSeries(origin, row["id"], sex))
        if label.any():
            (folder / "labels").mkdir(exist_ok=True)
            target = folder / "labels" / f"{row['id']}.dcm"
            # The patient is nobody, and the segmentation belongs to the same study.
            dicom_seg.write_dicom_seg(target, label, affine, source_images(series), algorithm, keep_patient=True)
        rows.append(_flat(row, label, affine))
    _write_facts(source, rows, folder)


def _flat(row: dict[str, Any], label: NDArray[np.uint8], affine: NDArray[np.float64]) -> dict[str, Any]:
    """One row of ``attributes.csv``: what is known as plain values, and the volume of every structure in mL."""
    flat: dict[str, Any] = {k: row[k] for k in ("id", "synthetic", "patient", "split", "complete") if k in row}
    known = row.get("attributes", {})
    flat |= {k: v for k, v in known.items() if isinstance(v, str | int | float | bool) and k not in (*flat, "content_sha256")}
    flat |= {k: ";".join(map(str, v)) for k, v in known.items() if isinstance(v, list) and k not in flat}
    asked = row.get("requested", {})
    flat |= {f"requested_{k}": v for k, v in asked.items() if k != "volumes_ml"}
    flat |= {f"requested_{k}_ml": v for k, v in asked.get("volumes_ml", {}).items()}
    if "faults" in row:
        flat["faults"] = len(row["faults"])
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    counts = np.bincount(label.ravel(), minlength=LABEL_COUNT)
    return flat | {f"{k}_ml": round(float(counts[ID[k]]) * voxel_ml, 3) for k in KEYS}


def _write_facts(source: Source, rows: list[dict[str, Any]], folder: Path) -> None:
    _write_csv(folder / "attributes.csv", rows)
    write_json(folder / "provenance.json", source.provenance)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A table of all columns that any row has; a cell without a value stays empty."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    with saving(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
