"""What the structures are called in data sets: names in a dataset.json, names of mask files, the values of MM-WHS."""

import re
from pathlib import Path
from typing import Any

from auricle.core.anatomy import ID, STRUCTURES
from auricle.core.errors import InputError
from auricle.core.files import read_json

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "MYO": ("myocardium", "lv myocardium", "left ventricular myocardium", "left ventricle myocardium", "heart myocardium", "lvm"),
    "LA": ("left atrium", "left atrial cavity", "left atrium blood cavity", "heart atrium left", "atrium left"),
    "LV": ("left ventricle", "left ventricular cavity", "left ventricle blood cavity", "heart ventricle left", "ventricle left"),
    "RA": ("right atrium", "right atrial cavity", "right atrium blood cavity", "heart atrium right", "atrium right"),
    "RV": ("right ventricular cavity", "right ventricle blood cavity", "heart ventricle right", "ventricle right"),
    "AO": ("aorta", "ascending aorta", "descending aorta", "thoracic aorta", "aortic arch"),
    "PA": ("pulmonary artery", "main pulmonary artery", "pulmonary trunk", "pulmonary arteries"),
    "LAA": ("left atrial appendage", "atrial appendage left", "left atrium appendage", "left auricle"),
}  # fmt: skip
_NAMES = {n: ID[s.key] for s in STRUCTURES for n in (s.key.lower(), s.name, *_SYNONYMS[s.key])}

MM_WHS = {500: ID["LV"], 600: ID["RV"], 420: ID["LA"], 421: ID["LA"], 550: ID["RA"], 205: ID["MYO"], 820: ID["AO"], 850: ID["PA"]}
"""Values of the Multi-Modality Whole Heart Segmentation challenge; 421 stands for 420 in some voxels of its public data."""


def structure(name: str) -> int:
    """The id of the structure that a name means, 0 where it means none."""
    return _NAMES.get(" ".join(re.findall(r"[a-z0-9]+", name.lower())), 0)


def read_facts(path: Path) -> dict[str, Any]:
    """The content of a dataset.json."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise InputError(f"{path}: has no table 'labels'")
    return content


def dropped_labels(path: Path) -> list[str]:
    """Names in a dataset.json that mean no structure, so that their voxels become background; sorted."""
    names = (str(v if str(k).isdigit() and isinstance(v, str) else k) for k, v in read_facts(path)["labels"].items())
    return sorted(n for n in names if structure(n) == 0 and n.lower() != "background")


def named_labels(facts: dict[str, Any], path: Path) -> dict[int, int] | None:
    """Label values of a dataset.json to structure ids, by name; labels that are no structure become background."""
    names: dict[int, str] = {}
    for key, value in facts["labels"].items():
        # nnU-Net 2 writes name: value; nnU-Net 1 and the Medical Segmentation Decathlon value: name.
        name, number = (value, key) if str(key).isdigit() and isinstance(value, str) else (key, value)
        if not str(number).isdigit():
            raise InputError(f"{path}: label '{name}' is {number}, not one whole number; regions are not supported")
        names[int(number)] = str(name)
    found = {v: structure(name) for v, name in names.items() if v}
    if found and not any(found.values()):
        listed = ", ".join(f"{v} {names[v]}" for v in sorted(found))
        raise InputError(f"{path}: none of the labels ({listed}) is a structure by name; give --label-map VALUE=STRUCTURE,..")
    return found or None
