"""Lengths and diameters of virtual patients, measured on their label maps rather than taken from what was drawn."""

from itertools import product
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import pdist

from auricle.core.anatomy import ID
from auricle.phantom.anatomy import CALIBRATION_MM, Anatomy
from auricle.phantom.measures import contact_center, facing, wall_distances
from auricle.phantom.shapes import unit

Label = NDArray[np.uint8]
Points = NDArray[np.float64]
BODY = ("LV", "RV", "LA", "RA", "MYO")
STEPS = [s for s in product(range(-2, 3), repeat=3) if s > (0, 0, 0) and gcd(*s) == 1]
"""Moves between voxels: with these 49 and their opposites, a path is at most 3% longer than a straight line."""
PLANE_MM, CUT_MM = 0.5, (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Sampling of the planes across a vessel, and where they cut it, relative to the place of measurement."""


def volumes(label: Label, voxel_ml: float) -> dict[str, float]:
    """Volume of each structure, mL."""
    counts = np.bincount(label.ravel(), minlength=len(ID) + 1)
    return {k: float(counts[i]) * voxel_ml for k, i in ID.items()}


def ras(anatomy: Anatomy) -> Label:
    """The calibration grid's labels ``[x, y, z]`` RAS+, as the checks take them."""
    return np.ascontiguousarray(anatomy.coarse_label.transpose(2, 1, 0)[::-1, ::-1])


def wall_mm(anatomy: Anatomy) -> float:
    """Median distance from the muscle's outer surface to the cavity of the left ventricle."""
    return float(np.median(wall_distances(ras(anatomy), (CALIBRATION_MM,) * 3)))


def axis_deg(anatomy: Anatomy) -> float:
    """Angle below the horizontal, in the frontal plane, of the line from the mitral valve to the apex."""
    label, spacing = ras(anatomy), (CALIBRATION_MM,) * 3
    valve = contact_center(label, spacing, "LA", "LV")
    assert valve is not None
    away = np.argwhere(label == ID["MYO"]) * CALIBRATION_MM - valve
    apex = away[np.argmax((away**2).sum(1))]
    return float(np.degrees(np.arctan2(-apex[2], -apex[0])))


def box_around(anatomy: Anatomy, key: str, margin_mm: float) -> tuple[Points, Points]:
    """Extent in mm of a structure with a margin, and its middle relative to the heart's center, both RAS."""
    label = ras(anatomy)
    where = np.argwhere(label == ID[key])
    center = np.argwhere(np.isin(label, [ID[k] for k in BODY])).mean(0)
    low, high = where.min(0), where.max(0)
    return (high - low + 1) * CALIBRATION_MM + 2 * margin_mm, (0.5 * (low + high) - center) * CALIBRATION_MM


def laa_length_mm(label: Label, spacing_mm: float) -> float:
    """Longest way inside the appendage from its contact with the left atrium, on isotropic voxels.

    Shortest paths over the voxels (Dijkstra), from every voxel that touches the atrium; half a voxel is added at each end.
    """
    inside = label == ID["LAA"]
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(inside.sum())
    start, stop, length = [], [], []
    for step in STEPS:
        here = tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(step, inside.shape, strict=True))
        there = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(step, inside.shape, strict=True))
        both = inside[here] & inside[there]
        start.append(number[here][both])
        stop.append(number[there][both])
        length.append(np.full(len(start[-1]), np.linalg.norm(step)))
    shape = (int(inside.sum()),) * 2
    graph = sparse.csr_matrix((np.concatenate(length), (np.concatenate(start), np.concatenate(stop))), shape=shape)
    mouth = number[inside & ndimage.binary_dilation(label == ID["LA"])]
    way = dijkstra(graph, directed=False, indices=mouth, min_only=True)
    return float((way[np.isfinite(way)].max() + 1) * spacing_mm)


def laa_mouth_mm(label: Label, spacing_mm: float) -> float:
    """Longest diameter of the contact between the appendage and the left atrium."""
    return float(pdist(facing(label, (spacing_mm,) * 3, "LA", "LAA")[1]).max())


def diameter_mm(anatomy: Anatomy, key: str, line: Points, at: int) -> float:
    """Diameter of the circle that has the area of a vessel's cross section, median of five cuts about point `at` of its center line.

    The cuts are perpendicular to `line` (n, 4), LPS mm with radii, and sampled on the calibration grid.
    """
    label = anatomy.coarse_label
    body = np.argwhere(np.isin(label, [ID[k] for k in BODY])).mean(0)
    first = anatomy.center[::-1] - body * CALIBRATION_MM  # z, y, x of the first voxel
    along = unit(line[min(at + 1, len(line) - 1), :3] - line[max(at - 1, 0), :3])
    across = unit(np.cross(along, [1, 0, 0] if abs(along[0]) < 0.7 else [0, 1, 0]))
    other = np.cross(along, across)
    radius = 1.7 * line[at, 3]
    u = np.arange(-radius, radius + PLANE_MM, PLANE_MM)
    area = []
    for shift in CUT_MM:
        points = line[at, :3] + shift * along + u[:, None, None] * across + u[None, :, None] * other
        where = (points[..., ::-1] - first) / CALIBRATION_MM
        cut = ndimage.map_coordinates((label == ID[key]).astype(np.float32), np.moveaxis(where, -1, 0), order=1) > 0.5
        pieces, _ = ndimage.label(cut & (np.hypot(u[:, None], u[None]) < radius))
        sizes = np.bincount(pieces.ravel())[1:]
        area.append(sizes.max(initial=0) * PLANE_MM**2)
    return float(2 * np.sqrt(np.median(area) / np.pi))


def great_vessels_mm(anatomy: Anatomy) -> dict[str, tuple[float, float]]:
    """Drawn and measured diameter of the ascending and the descending aorta and of the pulmonary trunk."""
    v, p = anatomy.vessels, anatomy.patient
    valve, top = anatomy.marks.aortic[2], int(np.argmax(v.aorta[:, 2]))
    up = int(np.argmin(np.abs(v.aorta[:top, 2] - valve - 45)))
    down = top + int(np.argmin(np.abs(v.aorta[top:, 2] - valve - 20)))
    return {
        "ascending aorta": (2 * p.aorta_mm["ascending"], diameter_mm(anatomy, "AO", v.aorta, up)),
        "descending aorta": (2 * p.aorta_mm["descending"], diameter_mm(anatomy, "AO", v.aorta, down)),
        "pulmonary trunk": (2 * p.pulmonary_mm, diameter_mm(anatomy, "PA", v.trunk, len(v.trunk) // 2)),
    }


def radial_spectrum(noise: NDArray[np.floating], spacing_mm: float) -> tuple[Points, Points]:
    """In-plane noise power of ``[x, y, z]`` noise, averaged over slices and directions: frequency (per mm) and power."""
    n = noise.shape[0]
    window = np.hanning(n)[:, None] * np.hanning(n)[None]
    power = np.mean([np.abs(np.fft.fft2((s - s.mean()) * window)) ** 2 for s in np.moveaxis(noise, 2, 0).astype(float)], 0)
    f = np.fft.fftfreq(n, spacing_mm)
    ring = np.rint(np.hypot(f[:, None], f[None]) * n * spacing_mm).astype(int)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    return np.arange(1, n // 2) / (n * spacing_mm), mean[1 : n // 2]


def peak_per_mm(noise: NDArray[np.floating], spacing_mm: float) -> float:
    """Frequency of the highest noise power: that of c f^a exp(-b f^2), fitted where the power is above a third of its maximum."""
    f, power = radial_spectrum(noise, spacing_mm)
    high = power > power.max() / 3
    _, a, b = np.linalg.lstsq(np.stack([np.ones(high.sum()), np.log(f[high]), -(f[high] ** 2)], 1), np.log(power[high]), rcond=None)[0]
    return float(np.sqrt(a / (2 * b)))
