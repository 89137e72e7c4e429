"""Ways to damage a label map ``[x, y, z]`` in RAS+, each a function of the map and its voxel size in mm."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import ID, KEYS

Label = NDArray[np.uint8]
Spacing = tuple[float, float, float]
Mutation = Callable[[Label, Spacing], Label]

CHAMBERS = ("LV", "RV", "LA", "RA")


def swap(a: str, b: str) -> Mutation:
    """Exchange the names of two structures."""

    def change(label: Label, spacing: Spacing) -> Label:
        out = label.copy()
        out[label == ID[a]], out[label == ID[b]] = ID[b], ID[a]
        return out

    return change


def become(a: str, b: str | None) -> Mutation:
    """Give all of a structure to another, or to nothing."""
    return lambda label, spacing: np.where(label == ID[a], ID[b] if b else 0, label).astype(np.uint8)


def _ball(label: Label, spacing: Spacing, center: NDArray[np.int64], radius_mm: float) -> NDArray[np.bool_]:
    away = [(np.arange(n) - c) * s for n, c, s in zip(label.shape, center, spacing, strict=True)]
    x, y, z = np.ix_(*away)
    return np.asarray(x * x + y * y + z * z <= radius_mm**2)


def hole(a: str, b: str | None, radius_mm: float) -> Mutation:
    """Put a ball of another structure, or of nothing, into one where it is thickest, one voxel clear of its surface."""

    def change(label: Label, spacing: Spacing) -> Label:
        out = label.copy()
        depth = ndimage.distance_transform_edt(label == ID[a], sampling=spacing)
        center = np.array(np.unravel_index(depth.argmax(), depth.shape))
        out[_ball(label, spacing, center, min(radius_mm, depth.max() - 1.1 * max(spacing)))] = ID[b] if b else 0
        return out

    return change


def breach(toward: str | None, radius_mm: float = 12.0) -> Mutation:
    """Take the muscle away around the place where it is thinnest between LV and RV, or at the apex."""

    def change(label: Label, spacing: Spacing) -> Label:
        out = label.copy()
        muscle = np.argwhere(label == ID["MYO"])
        base = np.argwhere(label == ID["LA"]).mean(0)
        if toward:  # among the muscle that the right ventricle covers, midway along the ventricle
            near = ndimage.binary_dilation(label == ID[toward]) & (label == ID["MYO"])
            muscle = np.argwhere(near)
        away = np.linalg.norm((muscle - base) * np.asarray(spacing), axis=1)
        center = muscle[np.argsort(away)[len(away) // 2 if toward else -1]]
        out[_ball(label, spacing, center, radius_mm) & (label == ID["MYO"])] = ID[toward] if toward else 0
        return out

    return change


def close_valve(a: str, b: str) -> Mutation:
    """Muscle over everything of two structures that lies within 8 mm of both."""

    def change(label: Label, spacing: Spacing) -> Label:
        near = [ndimage.distance_transform_edt(label != ID[k], sampling=spacing) < 8 for k in (a, b)]
        return np.where(near[0] & near[1] & np.isin(label, (ID[a], ID[b], 0)), ID["MYO"], label).astype(np.uint8)

    return change


def split(key: str, gap_mm: float = 6.0) -> Mutation:
    """A gap across the middle of a structure's longest axis."""

    def change(label: Label, spacing: Spacing) -> Label:
        out = label.copy()
        where = np.argwhere(label == ID[key]) * np.asarray(spacing)
        _, _, axes = np.linalg.svd(where - where.mean(0), full_matrices=False)
        along = (np.moveaxis(np.indices(label.shape), 0, -1) * np.asarray(spacing) - where.mean(0)) @ axes[0]
        out[(np.abs(along) <= gap_mm / 2) & (label == ID[key])] = 0
        return out

    return change


def shift(key: str, axis: int, mm: float) -> Mutation:
    """Move a structure over everything else; what it leaves is nothing."""

    def change(label: Label, spacing: Spacing) -> Label:
        step = round(mm / spacing[axis])
        padded = np.pad(label == ID[key], [(abs(step),) * 2 if k == axis else (0, 0) for k in range(3)])
        moved = np.roll(padded, step, axis)[tuple(slice(abs(step), -abs(step)) if k == axis else slice(None) for k in range(3))]
        out = become(key, None)(label, spacing)
        out[moved] = ID[key]
        return out

    return change


def grow(key: str, mm: float) -> Mutation:
    """Dilate a structure over everything else."""

    def change(label: Label, spacing: Spacing) -> Label:
        out = label.copy()
        out[ndimage.distance_transform_edt(label != ID[key], sampling=spacing) <= mm] = ID[key]
        return out

    return change


def shrink(key: str, mm: float) -> Mutation:
    """Erode a structure; what it leaves is nothing."""

    def change(label: Label, spacing: Spacing) -> Label:
        out = label.copy()
        inside = label == ID[key]
        out[inside & (ndimage.distance_transform_edt(inside, sampling=spacing) <= mm)] = 0
        return out

    return change


def specks(share: float) -> Mutation:
    """Random voxels near the heart get random labels."""

    def change(label: Label, spacing: Spacing) -> Label:
        rng = np.random.default_rng(0)
        out = label.copy()
        chosen = rng.random(label.shape) < share
        out[chosen] = rng.integers(0, len(KEYS) + 1, int(chosen.sum()))
        return out

    return change


def lose_lower_muscle(label: Label, spacing: Spacing) -> Label:
    """No muscle in the lower third of the heart."""
    out = label.copy()
    level = int(np.quantile(np.argwhere(label == ID["MYO"])[:, 2], 0.35))
    out[:, :, :level][label[:, :, :level] == ID["MYO"]] = 0
    return out


def open_septum(label: Label, spacing: Spacing) -> Label:
    """No muscle between the ventricles."""
    near_rv = ndimage.distance_transform_edt(label != ID["RV"], sampling=spacing) < 22
    return np.where((label == ID["MYO"]) & near_rv, ID["LV"], label).astype(np.uint8)


WHOLE: dict[str, Mutation] = {
    "left and right flipped": lambda v, s: v[::-1],
    "front and back flipped": lambda v, s: v[:, ::-1],
    "upside down": lambda v, s: v[:, :, ::-1],
    "turned by 180 degrees about z": lambda v, s: v[::-1, ::-1],
    "turned by 180 degrees about x": lambda v, s: v[:, ::-1, ::-1],
    "turned by 180 degrees about y": lambda v, s: v[::-1, :, ::-1],
    "mirrored through the center": lambda v, s: v[::-1, ::-1, ::-1],
    **{f"axes {axes}": lambda v, s, axes=axes: v.transpose(axes) for axes in ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1))},
    "nothing at all": lambda v, s: np.zeros_like(v),
    "specks, 3%": specks(0.03),
}  # fmt: skip
"""Damage to the map as a whole."""


def all_mutations(keys: tuple[str, ...]) -> dict[str, Mutation]:
    """Every kind of damage that concerns these structures."""
    found = dict(WHOLE)
    found |= {f"{a} and {b} swapped": swap(a, b) for a, b in combinations(keys, 2)}
    found |= {f"{k} deleted": become(k, None) for k in keys}
    found |= {f"{k} split": split(k) for k in keys}
    found |= {f"hole of nothing in {k}": hole(k, None, 8.0) for k in CHAMBERS if k in keys}
    found |= {f"hole of {b} in {a}": hole(a, b, 8.0) for a, b in (("LV", "MYO"), ("LA", "RA"), ("RV", "LV"), ("RA", "AO"), ("LA", "LV"))}
    found |= {f"valve between {a} and {b} closed": close_valve(a, b) for a, b in (("LA", "LV"), ("LV", "AO"), ("RA", "RV"), ("RV", "PA"))}
    found |= {f"{k} moved by {mm} mm along {'xyz'[axis]}": shift(k, axis, mm)
              for k in ("LV", "RV", "MYO", "LA", "RA") if k in keys for axis in range(3) for mm in (-30, 30)}  # fmt: skip
    found |= {f"{k} dilated by 9 mm": grow(k, 9.0) for k in keys}
    found |= {f"{k} eroded by 9 mm": shrink(k, 9.0) for k in keys}
    found |= {f"{a} merged into {b}": become(a, b) for a, b in (("LAA", "LA"), ("MYO", "LV"), ("PA", "AO"), ("LA", "RA")) if a in keys}
    found |= {"gap in the septum": breach("RV"), "gap at the apex": breach(None), "muscle lost below": lose_lower_muscle, "septum open": open_septum}
    return found
