"""Is a label map a possible heart? Each check says in words what is wrong.

The checks hold for maps of any spacing, from any source, as long as the array is ``[x, y, z]`` in RAS+: they judge virtual
patients, generated and real label maps alike. Structures cut by the field of view are held to the checks that still apply.
Limits are assumptions, set wide enough for the pathology that virtual patients show and for real maps of healthy adults.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import BACKGROUND, ID, KEYS, STRUCTURES
from auricle.phantom.measures import (
    COARSE_MM,
    VALVE_GAP_MM,
    VALVES,
    Label,
    Points,
    Spacing,
    as_label,
    bare_wall,
    contact_areas,
    distance_between,
    facing,
    joined_outside,
    survey,
    wall_distances,
)
from auricle.phantom.order import Hearts, Joints, disorder

VALVE_MM2: dict[str, float] = {"mitral": 80, "aortic": 80, "tricuspid": 80, "pulmonary": 60}
"""Least area of a valve, across an unlabeled gap where the map leaves the leaflets out (see `VALVE_GAP_MM`)."""
REQUIRED_MM2: dict[tuple[str, str], float] = {("LA", "LAA"): 20, ("LV", "MYO"): 1600, ("RV", "MYO"): 800}
"""Least area of common faces: the appendage's mouth, which no leaflet closes, and the muscle around its chambers."""

WALL_BETWEEN: dict[tuple[str, str], float] = {
    ("LV", "RV"): 40, ("LV", "RA"): 20, ("LV", "PA"): 0, ("LV", "LAA"): 0, ("RV", "LAA"): 0, ("RA", "LAA"): 0,
    ("LA", "RV"): 50, ("RA", "PA"): 80, ("AO", "LAA"): 80, ("LAA", "MYO"): 200, ("PA", "LAA"): 200, ("RA", "MYO"): 300,
    ("LA", "PA"): 650, ("RV", "AO"): 300, ("RA", "AO"): 500, ("AO", "PA"): 1300, ("LA", "AO"): 700, ("LA", "RA"): 800,
}  # fmt: skip
"""Pairs that a wall keeps apart, with the contact in mm^2 that label maps show where the wall is thinner than a voxel:
real ones let the great arteries and the atria touch over several square centimeters."""
CONTACT_MM2 = 32.0
"""Contact allowed in addition, at 2 mm voxels and below; it grows with the voxel."""
NEIGHBORS_MM: dict[tuple[str, str], float] = {
    ("LA", "RA"): 20, ("LA", "AO"): 20, ("RA", "AO"): 18, ("AO", "PA"): 14, ("RV", "AO"): 16, ("LAA", "MYO"): 24, ("LAA", "PA"): 45,
}  # fmt: skip
"""Greatest distance between the nearest voxels of structures that lie against each other or nearly so."""

STRAY_SHARE = 0.02
"""Voxels outside the largest piece of a structure, as a share of it."""
SPECK_SHARE = 0.005
"""The same of all structures together, as a share of the heart: real and virtual maps stay below a tenth of this."""
BREAK_MM = 10.0
"""Pieces nearer to each other than this, away from the border, are a broken structure and not one that leaves the field of view."""
HOLE_SHARE, HOLE_ML = 0.005, 0.2
"""What a structure may enclose: this share of its volume plus this many mL. Papillary muscles reach the wall and are not enclosed."""
BARE_SHARE = 0.1
"""The left ventricle's surface that may border on nothing, leaflets not counted: up to 7% around them in maps that leave them out."""
BARE_MM2, RIM_MM = 150.0, 10.0
"""Surface of the left ventricle that may lie bare farther than this from its valves: a gap in the muscle of 14 mm across."""
TARGET_SHARE = 0.06
"""Allowed deviation from a target volume (plus 1 mL)."""
RATIOS: dict[tuple[str, str], tuple[float, float]] = {
    ("RV", "LV"): (0.2, 5), ("RA", "LA"): (0.2, 5), ("MYO", "LV"): (0.25, 12), ("LAA", "LA"): (0.01, 0.5),
}  # fmt: skip
"""Volume of one structure over another's: room for a dilated or hypertrophic ventricle at either end of the cycle."""


def _areas(heart: Hearts, areas: NDArray[np.float64], joints: Joints) -> list[str]:
    """Contacts that must be. Where both structures are cut, theirs may lie outside the field of view."""
    found = []
    least = {VALVES[v]: (joints[v][0], limit) for v, limit in VALVE_MM2.items() if v in joints}
    least |= {(a, b): (areas[ID[a], ID[b]], limit) for (a, b), limit in REQUIRED_MM2.items() if a in heart and b in heart}
    for (a, b), (area, limit) in least.items():
        if area < limit and not (heart[a].cut and heart[b].cut):
            found.append(f"{a} and {b} must touch: {area:.0f} mm2 of contact, at least {limit:.0f} expected")
    if not {"LV", "MYO", "LA", "AO"} <= heart.keys():
        return found
    surface = max(areas[ID["LV"]].sum(), 1.0)
    leaflets = sum(joints[v][0] - areas[ID[VALVES[v][0]], ID[VALVES[v][1]]] for v in ("mitral", "aortic"))
    covered, bare = areas[ID["LV"], ID["MYO"]] / surface, (areas[ID["LV"], BACKGROUND] - leaflets) / surface
    if covered < 0.70:
        found.append(f"MYO covers only {covered:.0%} of the LV's surface, at least 70% expected")
    if bare > BARE_SHARE:
        found.append(f"LV borders on nothing over {bare:.0%} of its surface, valves not counted; at most {BARE_SHARE:.0%} allowed")
    return found


def bare_ventricle(label: Label, spacing: Spacing) -> tuple[NDArray[np.intp], float]:
    """Where muscle is missing on a map's left ventricle, far from its valves: the ventricle's voxels there, (n, 3), and the area in mm^2."""
    heart = survey(label, spacing)
    return _bare_ventricle(label, spacing, heart, _joints(label, spacing, heart))


def _bare_ventricle(label: Label, spacing: Spacing, heart: Hearts, joints: Joints) -> tuple[NDArray[np.intp], float]:
    rims = [joints[v][1] for v in ("mitral", "aortic") if v in joints]
    if "MYO" not in heart or len(rims) < 2 or not sum(map(len, rims)):
        return np.zeros((0, 3), np.intp), 0.0
    return bare_wall(label, spacing, heart["LV"], np.concatenate(rims), RIM_MM)


def _joints(label: Label, spacing: Spacing, heart: Hearts) -> Joints:
    return {v: facing(label, spacing, a, b, VALVE_GAP_MM, heart) for v, (a, b) in VALVES.items() if a in heart and b in heart}


def _bare(label: Label, spacing: Spacing, heart: Hearts, joints: Joints) -> list[str]:
    _, area = _bare_ventricle(label, spacing, heart, joints)
    return [f"MYO has a gap: {area:.0f} mm2 of the LV lie bare, at most {BARE_MM2:.0f} allowed"] if area > BARE_MM2 else []


def contact_limits(spacing: Spacing) -> dict[tuple[str, str], float]:
    """Greatest area in mm^2 of common faces of the pairs that a wall keeps apart, in maps with voxels of that size."""
    slack = CONTACT_MM2 * max(1.0, float(np.mean(spacing)) / 2)
    return {pair: slack + thin for pair, thin in WALL_BETWEEN.items()}


def _walls(areas: NDArray[np.float64], spacing: Spacing) -> list[str]:
    found = []
    for (a, b), most in contact_limits(spacing).items():
        area = areas[ID[a], ID[b]]
        if area > most:
            found.append(f"{a} and {b} must not touch: {area:.0f} mm2 of contact, at most {most:.0f} allowed")
    return found


def _distances(heart: Hearts, areas: NDArray[np.float64], spacing: Spacing) -> list[str]:
    found = []
    for (a, b), limit in NEIGHBORS_MM.items():
        if not {a, b} <= heart.keys() or areas[ID[a], ID[b]] > 0 or (heart[a].cut and heart[b].cut):
            continue
        apart = distance_between(heart[a].points(spacing, COARSE_MM), heart[b].points(spacing, COARSE_MM))
        if apart > limit:
            found.append(f"{a} and {b} lie {apart:.0f} mm apart, at most {limit:.0f} expected")
    return found


def _pieces(heart: Hearts, spacing: Spacing, end: Points) -> list[str]:
    """Everything outside a structure's largest piece, unless the field of view explains it."""
    found, stray_ml = [], 0.0
    voxel_ml = float(np.prod(spacing)) / 1000
    for k, s in heart.items():
        pieces, count = ndimage.label(s.mask, np.ones((3, 3, 3)))
        if count == 1:
            continue
        sizes = np.bincount(pieces.ravel())[1:] * voxel_ml
        largest = int(sizes.argmax())
        stray = s.ml - float(sizes[largest])
        if s.cut and stray > STRAY_SHARE * s.ml:
            where = s.points(spacing)
            value = pieces[s.mask]
            for i in np.flatnonzero(sizes >= STRAY_SHARE * s.ml):
                if i != largest and joined_outside(where[value == i + 1], where[value != i + 1], end, BREAK_MM):
                    stray -= float(sizes[i])
        stray_ml += stray
        if stray > STRAY_SHARE * s.ml:
            found.append(f"{k} is in {count} pieces, {stray / s.ml:.0%} of it outside the largest")
    share = stray_ml / max(sum(s.ml for s in heart.values()), 1e-9)
    if share > SPECK_SHARE:
        found.append(f"specks make up {share:.1%} of the heart, at most {SPECK_SHARE:.1%} allowed")
    return found


def _holes(heart: Hearts, spacing: Spacing) -> list[str]:
    voxel_ml = float(np.prod(spacing)) / 1000
    found = []
    for k, s in heart.items():
        outside, count = ndimage.label(np.pad(~s.mask, 1, constant_values=True))
        if count > 1:
            enclosed = float(np.bincount(outside.ravel())[2:].sum()) * voxel_ml  # piece 1 holds the first corner
            if enclosed > HOLE_SHARE * s.ml + HOLE_ML:
                found.append(f"{k} has holes of {enclosed:.1f} mL, at most {HOLE_SHARE * s.ml + HOLE_ML:.1f} allowed")
    return found


def _volumes(heart: Hearts, targets: Mapping[str, float]) -> list[str]:
    found = []
    for s in STRUCTURES:
        if s.key not in heart:
            continue
        low, high = s.volume_range_ml
        v = heart[s.key].ml
        if v > high or (v < low and not heart[s.key].cut):
            found.append(f"{s.key} has {v:.{1 if v >= 10 else 2}f} mL, outside {low:.0f} to {high:.0f}")
    for k, target in targets.items():
        if k in heart and not heart[k].cut and abs(heart[k].ml - target) > TARGET_SHARE * target + 1:
            found.append(f"{k} has {heart[k].ml:.1f} mL, {target:.1f} were asked for")
    for (a, b), (low, high) in RATIOS.items():
        if a in heart and b in heart and not heart[a].cut and not heart[b].cut and not low < heart[a].ml / heart[b].ml < high:
            found.append(f"{a} has {heart[a].ml / heart[b].ml:.2f} times the volume of {b}, outside {low} to {high}")
    return found


def _wall_thickness(label: Label, spacing: Spacing, heart: Hearts) -> list[str]:
    """Median distance from the muscle's outer surface to the cavity; a hypertrophic wall in systole passes 20 mm."""
    distances = wall_distances(label, spacing, heart)
    thickness = float(np.median(distances)) if len(distances) else 0.0
    return [] if 3.5 < thickness < 25 else [f"wall of the LV is {thickness:.1f} mm thick, outside 3.5 to 25"]


def check(
    label: Label, spacing: Spacing, *, targets: Mapping[str, float] | None = None, structures: Sequence[str] = KEYS
) -> list[str]:
    """What is wrong with a label map ``[x, y, z]`` in RAS+ with the project's ids; an empty list means nothing.

    `spacing` is the voxel size in mm, `targets` are volumes in mL that the map was made for, `structures` are those that the map
    annotates: no rule about another applies. Contacts that must be hold across unlabeled valves, contacts that must not be are
    common faces. Of structures that reach the border the least volume is not asked, pieces there may be joined outside, and the
    contact of two of them may lie outside. Raises `InputError` for an array that is no such map.
    """
    label = as_label(label)
    heart = survey(label, spacing)
    found = [f"{k} is missing" for k in KEYS if k in structures and k not in heart]
    found += [f"{k} is not among the structures that are annotated" for k in heart if k not in structures]
    areas = contact_areas(label, spacing)
    joints = _joints(label, spacing, heart)
    found += _areas(heart, areas, joints) + _bare(label, spacing, heart, joints) + _walls(areas, spacing) + _distances(heart, areas, spacing)
    found += _pieces(heart, spacing, (np.array(label.shape) - 1) * np.asarray(spacing)) + _holes(heart, spacing) + _volumes(heart, targets or {})
    found += disorder(heart, joints, spacing)
    return found + (_wall_thickness(label, spacing, heart) if {"LV", "MYO"} <= heart.keys() else [])
