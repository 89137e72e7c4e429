"""Do the structures of a heart lie in their places? Order in the body, course of the vessels, valves and the long axis.

x grows to the Right, y to Anterior, z to Superior. Limits are assumptions, as in `auricle.phantom.checks`.
"""

from collections.abc import Mapping

import numpy as np

from auricle.core.anatomy import STRUCTURES
from auricle.phantom.measures import Points, Seen, Spacing, farthest

Hearts = Mapping[str, Seen]
Joints = Mapping[str, tuple[float, Points]]
"""Area of each valve in mm^2 and its places, where both structures that it joins are in view."""

STUB_ML = 15.0
"""A smaller pulmonary artery is a stub: the labeling ends on the trunk, and rules about its branches do not apply."""
SLIVER = 0.5
"""A cut structure below this share of its least plausible volume has no place in the order of the body."""
PART_ML = 2.0
"""Parts of a vessel (descending aorta, right pulmonary artery) are judged from this volume on."""
FROM_AORTIC_VALVE_MM: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "RA": ((15, 65), (-20, 20), (-34, 5)), "LA": ((-14, 36), (-52, -11), (-15, 28)),
}  # fmt: skip
"""Where the center of an atrium may lie, to Right, Anterior and Superior: 8 mm or more beyond virtual patients of every pathology,
20 mm or more beyond the real maps."""


def _placed(heart: Hearts) -> dict[str, Seen]:
    """The structures of which enough is in view to have a place."""
    least = {s.key: SLIVER * s.volume_range_ml[0] for s in STRUCTURES}
    return {k: s for k, s in heart.items() if not s.cut or s.ml >= least[k]}


ORDER: tuple[tuple[str, str, str], ...] = (
    ("LV", "left of", "RV"), ("RV", "left of", "RA"), ("RA", "right of", "LA"), ("LA", "right of", "LV"), ("LAA", "left of", "LA"),
    *(("LA", "posterior of", k) for k in ("LV", "RV", "RA", "MYO", "LAA")),
    *(("RV", "anterior of", k) for k in ("LV", "LA", "RA", "MYO")),
    *((k, "superior of", "LV") for k in ("LA", "PA", "LAA")), ("PA", "superior of", "RV"), ("AO", "superior of", "MYO"),
)  # fmt: skip
"""Order of the centers in the body."""
TOWARD: dict[str, tuple[int, int]] = {
    "left of": (0, -1), "right of": (0, 1), "posterior of": (1, -1), "anterior of": (1, 1), "superior of": (2, 1),
}  # fmt: skip


def _sides(heart: Hearts) -> list[str]:
    placed = _placed(heart)
    found = []
    for a, side, b in ORDER:
        axis, sign = TOWARD[side]
        if a in placed and b in placed and sign * (placed[a].center[axis] - placed[b].center[axis]) <= 0:
            found.append(f"{a} is not {side} {b}")
    return found


def _vessels(heart: Hearts, spacing: Spacing) -> list[str]:
    """Course of the great arteries around each other and the left atrium."""
    found = []
    voxel_ml = float(np.prod(spacing)) / 1000
    pulmonary = heart.get("PA")
    if pulmonary and pulmonary.ml >= STUB_ML and not pulmonary.cut:
        right, left = (abs(float(end[0] - pulmonary.center[0])) for end in (pulmonary.high, pulmonary.low))
        if min(right, left) < 15:
            found.append(f"PA reaches {right:.0f} mm to the right and {left:.0f} mm to the left of its center, at least 15 expected")
    if not {"AO", "LA"} <= heart.keys():
        return found
    aorta, atrium = heart["AO"].points(spacing), heart["LA"].center
    front, behind = aorta[aorta[:, 1] > atrium[1]], aorta[aorta[:, 1] < atrium[1]]
    if len(front) * voxel_ml < PART_ML:
        return [*found, "AO does not pass in front of LA"]
    ascending = front.mean(0)
    if len(behind) * voxel_ml >= PART_ML and behind[:, 0].mean() >= ascending[0]:
        found.append("AO behind LA is not left of AO in front of it")
    if pulmonary and pulmonary.ml >= STUB_ML:
        points = pulmonary.points(spacing)
        branch = points[points[:, 0] > ascending[0]]
        if len(branch) * voxel_ml >= PART_ML and branch[:, 1].mean() >= ascending[1]:
            found.append("right PA does not pass behind the ascending AO")
    return found


def _valves(heart: Hearts, joints: Joints, spacing: Spacing) -> list[str]:
    at = {name: points.mean(0) for name, (_, points) in joints.items() if len(points)}
    found = []
    for a, side, b in (
        ("pulmonary", "anterior of", "aortic"), ("pulmonary", "left of", "aortic"), ("pulmonary", "superior of", "aortic"),
        ("mitral", "posterior of", "aortic"), ("aortic", "superior of", "mitral"), ("tricuspid", "right of", "mitral"),
    ):  # fmt: skip
        axis, sign = TOWARD[side]
        if a in at and b in at and sign * (at[a][axis] - at[b][axis]) <= 0:
            found.append(f"{a} valve is not {side} {b} valve")
    if "aortic" in at and "LAA" in heart and heart["LAA"].center[0] >= at["aortic"][0]:
        found.append("LAA is not left of aortic valve")
    for key, limits in FROM_AORTIC_VALVE_MM.items():
        if key in heart and "aortic" in at and not heart[key].cut:
            for name, away, (low, high) in zip(("Right", "Anterior", "Superior"), heart[key].center - at["aortic"], limits, strict=True):
                if not low < away < high:
                    found.append(f"{key} is at {away:.0f} mm to {name} from the aortic valve, outside {low} to {high}")
    return found + (_axis(heart["MYO"], spacing, at["mitral"]) if "mitral" in at and "MYO" in heart else [])


def _axis(muscle: Seen, spacing: Spacing, mitral: Points) -> list[str]:
    """The ventricle's apex as the muscle's farthest point from the mitral valve."""
    apex = farthest(muscle.points(spacing), mitral)
    length, angle = float(np.linalg.norm(apex)), float(np.degrees(np.arctan2(-apex[2], -apex[0])))
    found = []
    if not (apex[0] < 0 < apex[1] and apex[2] < 0):
        found.append("apex does not point to the left, forward and down from the mitral valve")
    elif not 5 < angle < 75:
        found.append(f"long axis is {angle:.0f} degrees below horizontal in the frontal plane, outside 5 to 75")
    if length > 140 or (length < 55 and not muscle.cut):
        found.append(f"ventricle is {length:.0f} mm long from mitral valve to apex, outside 55 to 140")
    return found


def disorder(heart: Hearts, joints: Joints, spacing: Spacing) -> list[str]:
    """What lies out of place, in words."""
    return _sides(heart) + _vessels(heart, spacing) + _valves(heart, joints, spacing)
