"""Label maps: a file's values become structure ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import LABEL_COUNT
from auricle.core.arrays import count_values, in_memory_order, slabs
from auricle.core.errors import InputError
from auricle.data.label_names import structure
from auricle.data.nrrd_files import segment_names
from auricle.data.volume_files import ending, read_volume

SMALL = 2**16
"""Values below this are counted, others are sorted."""


def read_label(
    path: Path,
    *,
    label_map: Mapping[int, int] | None = None,
    assume_orientation: str | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[str]]:
    """Read a label map of the ids 0..8 from one volume file; `label_map` translates the file's values (0 is always background).

    Without it, a segmentation of 3D Slicer (NRRD) is read by the names of its segments.

    Returns:
        Label map [x, y, z], its affine (voxel index to RAS+ mm) and notices.

    Raises:
        InputError: as `read_volume`, and for values that are not ids, which the message lists.
    """
    values, affine, notices = read_volume(path, assume_orientation=assume_orientation)
    if label_map is None and ending(path) in (".nrrd", ".nhdr"):
        label_map, more = _segments(path)
        notices = notices + more
    return to_ids(values, str(path), label_map), affine, notices


def _segments(path: Path) -> tuple[dict[int, int] | None, list[str]]:
    """What the segments of 3D Slicer mean by their names, None for other files; and a notice on those that are no structure: background."""
    names = segment_names(path)
    found = {value: structure(name) for value, name in names.items()}
    if found and not any(found.values()):
        listed = ", ".join(f"{v} {names[v]}" for v in sorted(found))
        raise InputError(f"{path}: none of its segments ({listed}) is a structure by name; give --label-map VALUE=STRUCTURE,..")
    dropped = ", ".join(names[v] for v, meaning in sorted(found.items()) if meaning == 0)
    return found or None, [f"{path}: segments that are no structure by name become background: {dropped}"] if dropped else []


def to_ids(values: NDArray[Any], name: str, label_map: Mapping[int, int] | None = None) -> NDArray[np.uint8]:
    """Check that `values` are label ids (after `label_map`) and return them as uint8; `name` is for the message."""
    way_out = "give --label-map VALUE=STRUCTURE,.. (0 drops a value)"
    present = label_values(values, name)
    table = {0: 0, **(label_map or {v: v for v in range(LABEL_COUNT)})}
    wrong = [v for v in present if v not in table]
    if wrong:
        raise InputError(f"{name}: holds the label values {_few(present)}, of which {_few(wrong)} have no structure; {way_out}")
    beyond = sorted({v for v in table.values() if not 0 <= v < LABEL_COUNT})
    if beyond:
        raise InputError(f"--label-map: {_few(beyond)} are not structure ids 0..{LABEL_COUNT - 1}")
    ids = [table[v] for v in present]
    if values.dtype == np.uint8 and ids == present:
        return values
    out = np.empty_like(values, np.uint8)
    if small := _is_small(values):
        places = np.zeros(present[-1] + 1, np.uint8)
        places[present] = ids
    known, other = np.array(present, values.dtype), np.array(ids, np.uint8)
    parts, targets = in_memory_order(values), in_memory_order(out)
    for k in range(len(parts)):
        targets[k] = places[parts[k]] if small else other[np.searchsorted(known, parts[k])]
    return out


def _is_small(values: NDArray[Any]) -> bool:
    """Whether a table with an entry for every value is small, too."""
    return np.issubdtype(values.dtype, np.integer) and values.size > 0 and values.min() >= 0 and values.max() < SMALL


def label_values(values: NDArray[Any], name: str) -> list[int]:
    """The different values, sorted; raises `InputError` where one is not whole. Works part by part: a sort of a whole scan takes gigabytes."""
    if _is_small(values):
        counts = np.zeros(SMALL, np.int64)
        for part in slabs(values):
            counted = count_values(part if part.dtype == np.uint8 else part.astype(np.uint16))
            counts[: len(counted)] += counted
        return [int(v) for v in np.flatnonzero(counts)]
    # Among neighbors most values repeat, so that few are left to sort.
    found = {v for part in in_memory_order(values) for v in _unique(part).tolist()}
    odd = sorted(v for v in found if v != int(v))
    if odd:
        raise InputError(f"{name}: labels are whole numbers, this file holds {_few(odd)}; was it interpolated?")
    return sorted(int(v) for v in found)


def _unique(part: NDArray[Any]) -> NDArray[Any]:
    """`numpy.unique`, by counting where the type has few values."""
    if not np.issubdtype(part.dtype, np.integer) or part.dtype.itemsize > 2 or part.ndim == 0:
        return np.unique(part)
    low = int(part.min())
    return np.flatnonzero(np.bincount(part.astype(np.int64).ravel() - low)) + low


def _few(values: Sequence[Any]) -> str:
    """At most eight values, as text."""
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:8])
    return shown + (f", .. ({len(values)} values)" if len(values) > 8 else "")
