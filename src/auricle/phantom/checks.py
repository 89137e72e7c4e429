"""Is a label map a possible heart? Each check says in words what is wrong.

The checks hold for maps of any spacing, from any source, as long as the array is ``[x, y, z]`` in RAS+: they judge virtual
patients and generated label maps alike. Structures cut by the field of view are held to the checks that still apply.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import BACKGROUND, ID, KEYS, LABEL_COUNT, STRUCTURES

Spacing = tuple[float, float, float]
Points = Mapping[str, NDArray[np.float64]]

REQUIRED_MM2: dict[tuple[str, str], float] = {
    ("LA", "LV"): 80, ("LV", "AO"): 80, ("RA", "RV"): 80, ("RV", "PA"): 60, ("LA", "LAA"): 30,
    ("LV", "MYO"): 1600, ("RV", "MYO"): 800,
}  # fmt: skip
"""Least area of contact: valves, the appendage's mouth, and the muscle around its chambers."""

WALL_BETWEEN: dict[tuple[str, str], float] = {
    ("LV", "RV"): 40, ("LV", "RA"): 20, ("LV", "PA"): 0, ("LV", "LAA"): 0, ("RV", "LAA"): 0, ("RA", "LAA"): 0,
    ("LA", "RV"): 50, ("RA", "PA"): 80, ("AO", "LAA"): 80, ("LAA", "MYO"): 200, ("PA", "LAA"): 200, ("RA", "MYO"): 300,
    ("LA", "PA"): 400, ("RV", "AO"): 300, ("RA", "AO"): 500, ("AO", "PA"): 900, ("LA", "AO"): 500, ("LA", "RA"): 800,
}  # fmt: skip
"""Pairs that a wall keeps apart, with the contact in mm^2 that label maps show where the wall is thinner than a voxel:
real ones let the great arteries and the atria touch over several square centimeters."""
CONTACT_MM2 = 32.0
"""Contact allowed in addition, at 2 mm voxels and below; it grows with the voxel."""

STRAY_SHARE = 0.02
"""Voxels outside the largest piece of a structure, as a share of it."""
TARGET_SHARE = 0.06
"""Allowed deviation from a target volume (plus 1 mL)."""


def contact_areas(label: NDArray[np.uint8], spacing: Spacing) -> NDArray[np.float64]:
    """Area in mm^2 of the voxel faces between each two labels, shape (labels, labels), symmetric, diagonal zero."""
    areas = np.zeros((LABEL_COUNT, LABEL_COUNT))
    for axis in range(3):
        a, b = np.moveaxis(label, axis, 0)[:-1], np.moveaxis(label, axis, 0)[1:]
        differ = a != b
        pairs = a[differ].astype(np.intp) * LABEL_COUNT + b[differ]
        count = np.bincount(pairs, minlength=LABEL_COUNT**2).reshape(LABEL_COUNT, LABEL_COUNT)
        areas += (count + count.T) * (np.prod(spacing) / spacing[axis])
    return areas


def contact_center(label: NDArray[np.uint8], spacing: Spacing, a: str, b: str) -> NDArray[np.float64] | None:
    """Center of the faces between two structures, mm from the array's first voxel; None if they do not touch."""
    points = []
    for axis in range(3):
        p, q = np.moveaxis(label, axis, 0)[:-1], np.moveaxis(label, axis, 0)[1:]
        faces = np.argwhere(((p == ID[a]) & (q == ID[b])) | ((p == ID[b]) & (q == ID[a]))).astype(float)
        faces[:, 0] += 0.5
        order = [1, 2]
        order.insert(axis, 0)
        points.append(faces[:, order])
    every = np.concatenate(points)
    return np.asarray(every.mean(0) * spacing) if len(every) else None


def cut_structures(label: NDArray[np.uint8]) -> set[str]:
    """Structures that reach the border of the array: the field of view may cut them."""
    faces = np.concatenate([np.moveaxis(label, k, 0)[[0, -1]].ravel() for k in range(3)])
    return {k for k in KEYS if (faces == ID[k]).any()}


def _presence(volumes: Mapping[str, float]) -> list[str]:
    return [f"{k} is missing" for k in KEYS if volumes[k] == 0]


def _contacts(areas: NDArray[np.float64]) -> list[str]:
    found = []
    for (a, b), least in REQUIRED_MM2.items():
        area = areas[ID[a], ID[b]]
        if area < least:
            found.append(f"{a} and {b} must touch: {area:.0f} mm2 of contact, at least {least:.0f} expected")
    surface = areas[ID["LV"]].sum()
    if areas[ID["LV"], ID["MYO"]] < 0.70 * surface:
        found.append(f"MYO covers only {areas[ID['LV'], ID['MYO']] / max(surface, 1):.0%} of the LV's surface")
    if areas[ID["LV"], BACKGROUND] > 0.06 * surface:
        found.append(f"LV borders on nothing over {areas[ID['LV'], BACKGROUND] / surface:.0%} of its surface")
    return found


def _walls(areas: NDArray[np.float64], spacing: Spacing) -> list[str]:
    slack = CONTACT_MM2 * max(1.0, float(np.mean(spacing)) / 2)
    found = []
    for (a, b), thin in WALL_BETWEEN.items():
        area = areas[ID[a], ID[b]]
        if area > slack + thin:
            found.append(f"{a} and {b} must not touch: {area:.0f} mm2 of contact, at most {slack + thin:.0f} allowed")
    return found


def _pieces(label: NDArray[np.uint8], cut: set[str]) -> list[str]:
    found = []
    for k, box in zip(sorted(KEYS, key=ID.__getitem__), ndimage.find_objects(label, LABEL_COUNT - 1), strict=True):
        if box is None or (k in ("AO", "PA") and k in cut):
            continue
        pieces, count = ndimage.label(label[box] == ID[k], np.ones((3, 3, 3)))
        if count > 1:
            sizes = np.bincount(pieces.ravel())[1:]
            stray = 1 - sizes.max() / sizes.sum()
            if stray > STRAY_SHARE:
                found.append(f"{k} is in {count} pieces, {stray:.0%} of it outside the largest")
    return found


def _volumes(volumes: Mapping[str, float], cut: set[str], targets: Mapping[str, float] | None) -> list[str]:
    found = []
    for s in STRUCTURES:
        low, high = s.volume_range_ml
        v = volumes[s.key]
        if v > high or (v < low and s.key not in cut):
            found.append(f"{s.key} has {v:.1f} mL, outside {low:.0f} to {high:.0f}")
    for k, target in (targets or {}).items():
        if k not in cut and abs(volumes[k] - target) > TARGET_SHARE * target + 1:
            found.append(f"{k} has {volumes[k]:.1f} mL, {target:.1f} were asked for")
    return found


def _sides(c: Points, low: Points, high: Points, cut: set[str]) -> list[str]:
    """Order of the structures in the body; x grows to the Right, y to Anterior, z to Superior."""
    right, anterior, superior = 0, 1, 2
    rules = [
        ("LV is not left of RV", c["LV"][right] < c["RV"][right]),
        ("RV is not left of RA", c["RV"][right] < c["RA"][right]),
        ("RA is not right of LA", c["RA"][right] > c["LA"][right]),
        ("LA is not right of LV", c["LA"][right] > c["LV"][right]),
        *((f"LA is not posterior of {k}", c["LA"][anterior] < c[k][anterior]) for k in ("LV", "RV", "RA", "MYO", "LAA")),
        *((f"RV is not anterior of {k}", c["RV"][anterior] > c[k][anterior]) for k in ("LV", "LA", "RA", "MYO")),
        *((f"{k} is not superior of LV", c[k][superior] > c["LV"][superior]) for k in ("LA", "PA", "LAA")),
        ("PA is not superior of RV", c["PA"][superior] > c["RV"][superior]),
        ("LAA is not left of the middle of LA", c["LAA"][right] < c["LA"][right]),
    ]
    if "PA" not in cut:
        both = high["PA"][right] - c["PA"][right] > 15 and c["PA"][right] - low["PA"][right] > 15
        rules.append(("PA does not reach to both sides", both))
    if "AO" not in cut:
        rules.append(("AO does not reach behind LA", low["AO"][anterior] < c["LA"][anterior]))
    return [reason for reason, holds in rules if not holds]


def _valves(label: NDArray[np.uint8], spacing: Spacing, cut: set[str]) -> list[str]:
    names = {"mitral": ("LA", "LV"), "aortic": ("LV", "AO"), "tricuspid": ("RA", "RV"), "pulmonary": ("RV", "PA")}
    at = {k: contact_center(label, spacing, *pair) for k, pair in names.items()}
    if any(v is None for v in at.values()):
        return []  # the missing contact is reported already
    mitral, aortic, tricuspid, pulmonary = (np.asarray(at[k]) for k in names)
    found = []
    for name, holds in {
        "pulmonary valve is not anterior of the aortic valve": pulmonary[1] > aortic[1],
        "pulmonary valve is not left of the aortic valve": pulmonary[0] < aortic[0],
        "pulmonary valve is not superior of the aortic valve": pulmonary[2] > aortic[2],
        "mitral valve is not posterior of the aortic valve": mitral[1] < aortic[1],
        "mitral valve is not inferior of the aortic valve": mitral[2] < aortic[2],
        "tricuspid valve is not right of the mitral valve": tricuspid[0] > mitral[0],
    }.items():
        if not holds:
            found.append(name)
    return found + _axis(label, spacing, mitral, "MYO" in cut)


def _axis(label: NDArray[np.uint8], spacing: Spacing, mitral: NDArray[np.float64], is_cut: bool) -> list[str]:
    """The ventricle's apex as the muscle's farthest point from the mitral valve."""
    muscle = np.argwhere(label == ID["MYO"]) * np.asarray(spacing)
    apex = muscle[np.argmax(((muscle - mitral) ** 2).sum(1))] - mitral
    length, angle = float(np.linalg.norm(apex)), float(np.degrees(np.arctan2(-apex[2], -apex[0])))
    found = []
    if not (apex[0] < 0 < apex[1] and apex[2] < 0):
        found.append("apex does not point to the left, forward and down from the mitral valve")
    elif not 8 < angle < 68:
        found.append(f"long axis is {angle:.0f} degrees below horizontal in the frontal plane, outside 8 to 68")
    if length > 125 or (length < 58 and not is_cut):
        found.append(f"ventricle is {length:.0f} mm long from mitral valve to apex, outside 58 to 125")
    return found


def _wall_thickness(label: NDArray[np.uint8], spacing: Spacing) -> list[str]:
    """Median distance from the muscle's outer surface to the cavity."""
    box = ndimage.find_objects(np.isin(label, (ID["MYO"], ID["LV"])).astype(np.uint8))[0]
    part = label[tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)]
    muscle, cavity = part == ID["MYO"], part == ID["LV"]
    outer = muscle & ndimage.binary_dilation(~(muscle | cavity))
    if not outer.any():
        return []
    distance = ndimage.distance_transform_edt(~cavity, sampling=spacing)
    thickness = float(np.median(distance[outer]))
    return [] if 4 < thickness < 18 else [f"wall of the LV is {thickness:.1f} mm thick, outside 4 to 18"]


def check(label: NDArray[np.uint8], spacing: Spacing, *, targets: Mapping[str, float] | None = None) -> list[str]:
    """What is wrong with a label map ``[x, y, z]`` in RAS+ with the project's ids; an empty list means nothing.

    `spacing` is the voxel size in mm, `targets` are volumes in mL that the map was made for. Aorta and pulmonary artery
    may be cut by the field of view; of other structures that reach the border the least volume is not asked.
    """
    assert label.ndim == 3
    voxel_ml = float(np.prod(spacing)) / 1000
    counts = np.bincount(label.ravel(), minlength=LABEL_COUNT)
    volumes = {k: float(counts[ID[k]]) * voxel_ml for k in KEYS}
    cut = cut_structures(label)
    areas = contact_areas(label, spacing)
    found = _presence(volumes) + _contacts(areas) + _walls(areas, spacing) + _pieces(label, cut)
    found += _volumes(volumes, cut, targets)
    if not all(volumes.values()):
        return found
    where = [np.argwhere(label == ID[k]) * np.asarray(spacing) for k in KEYS]
    centers, low, high = ({k: f(w) for k, w in zip(KEYS, where, strict=True)} for f in (_mean, _low, _high))
    return found + _sides(centers, low, high, cut) + _valves(label, spacing, cut) + _wall_thickness(label, spacing)


def _mean(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points.mean(0))


def _low(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points.min(0))


def _high(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points.max(0))
