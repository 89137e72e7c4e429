"""Tables of a cohort: which files belong together, which patient they show, and what is known about the scan."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.core.errors import InputError
from auricle.data.conditions import CONTRASTS

_SEX = {"f": "F", "female": "F", "w": "F", "m": "M", "male": "M"}
_YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "none": False}
_METAL = re.compile(r"(?!no |non|not |without |free )[a-z -]*(lead|valve|wire|stent|clip|coil|device)s?")
ATTRIBUTES = ("sex", "contrast", "phase", "metal")
"""Columns that become attributes of a case."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    place: str
    """File and line, for messages."""
    cells: dict[str, str]
    """Column, in lower case, to cell; empty cells are left out."""

    def attributes(self) -> dict[str, Any]:
        """Sex, contrast, phase and metal as conditions know them; raises `InputError` for any other value. An empty cell is unknown."""
        return {name: _value(name, self.cells[name], self.place) for name in ATTRIBUTES if name in self.cells}


def read_table(path: Path, *needed: str) -> list[Row]:
    """The lines of a CSV file with a header (UTF-8, commas or semicolons) that has the columns `needed`.

    Raises:
        InputError: it cannot be read, lacks a column, or a line has more cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as CSV UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    first = text.partition("\n")[0]
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",", strict=True)
        numbered = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise InputError(f"{path}: is not a table of comma-separated values ({error})") from None
    # Spreadsheets write empty columns behind the last one.
    numbered = [(number, _without_empty_end(cells)) for number, cells in numbered]
    header = [c.strip().lower() for c in numbered[0][1]] if numbered else []
    lacking = [c for c in needed if c not in header]
    if lacking or len(set(header)) < len(header):
        raise InputError(f"{path}: needs the columns {' and '.join(needed)}, each once; it has {', '.join(header) or 'none'}")
    rows = []
    for number, cells in numbered[1:]:
        if len(cells) > len(header):
            raise InputError(f"{path}, line {number}: has {len(cells)} cells, the header {len(header)}; put quotes around text with commas")
        found = {c: v.strip() for c, v in zip(header, cells, strict=False) if v.strip()}
        if found:
            rows.append(Row(f"{path}, line {number}", found))
    return rows


def _without_empty_end(cells: list[str]) -> list[str]:
    return cells[: max((i for i, c in enumerate(cells, 1) if c.strip()), default=0)]


def check_id(name: str, place: str) -> str:
    """`name`, if it can be a file's name."""
    if not re.fullmatch(r"[^\x00-\x1f/\\:*?\"<>|]{1,120}", name) or name.startswith("."):
        raise InputError(f"{place}: the id {name!r:.130} cannot be a file's name; use letters, digits, - and _")
    return name


def _value(column: str, text: str, place: str) -> Any:
    low = text.lower()
    if column == "sex" and low in _SEX:
        return _SEX[low]
    if column == "contrast" and low in CONTRASTS:
        return low
    if column == "metal" and low in _YES_NO:
        return _YES_NO[low]
    if column == "metal" and all(_METAL.fullmatch(part.strip()) for part in low.split(";")):
        return [part.strip() for part in low.split(";")]
    if column == "phase":
        try:
            if 0.0 <= (phase := float(text)) <= 1.0:
                return phase
        except ValueError:
            pass
    known = {"sex": "F or M", "contrast": ", ".join(CONTRASTS), "phase": "a number from 0 (end-diastole) to 1 (end-systole)",
             "metal": "yes, no, or names of what is there, as in lead;valve"}  # fmt: skip
    raise InputError(f"{place}: {column} is {text!r:.60}; it must be {known[column]}, or empty where it is not known")
