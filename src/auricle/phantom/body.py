"""What is drawn about one patient's body beside the heart, and the tools that paint it.

Ranges are assumptions. Painting with alpha = clip(1/2 - field / voxel, 0, 1) gives partial volume at every edge.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.phantom.patient import Patient
from auricle.phantom.scanner import stream
from auricle.phantom.shapes import Field, Grid

Shade = NDArray[np.floating[Any]]
"""HU of a tissue at every voxel."""
RIBS = 32
"""Ribs and vertebrae are counted modulo this."""


@dataclass(frozen=True)
class Body:
    """One patient's body. Lengths in mm."""

    age: float
    """0 young .. 1 old: calcium in the cartilage, loss of marrow, fat between the muscles."""
    muscle: float
    """Thickness of the muscles relative to the typical."""
    breast_mm: float
    pitch_mm: float
    """Distance between two vertebrae, and two ribs."""
    level_mm: float
    """Height of the middle of one vertebra."""
    kyphosis_mm: float
    """How far the spine comes forward 100 mm above and below its apex."""
    spine_forward_mm: float
    """How far the vertebrae stand in front of the landmark that places the back of the lungs."""
    ribs_mm: NDArray[np.float32]
    """Vertical deviation of each rib, (RIBS, 2)."""
    breath_mm: float
    """Slope of the ribs: fall from the spine to the side of the chest."""
    stomach_gas_mm: float
    stomach_hu: float
    stomach_mm: tuple[float, float, float]
    colon_mm: tuple[float, float, float]
    """Shift of the bend of the colon under the left dome."""
    table_mm: float
    """Gap between the back and the table."""
    fissure_mm: tuple[float, float]
    """Shift of the right and the left oblique fissure."""
    nodes_mm: NDArray[np.float64]
    """Deviation of the lymph nodes, unit normal, (7, 3)."""
    seed: int
    """For the trees of vessels."""


def draw_body(p: Patient) -> Body:
    """Draw the body of a patient."""
    rng = stream(p.seed, "body")
    rng.random()  # the gas in the esophagus
    man = p.sex == "M"
    return Body(
        age=float(rng.uniform(0, 1)), muscle=float(rng.uniform(0.8, 1.2)) * (1.0 if man else 0.78),
        breast_mm=float(rng.uniform(6, 20) + 0.6 * p.fat_mm) * (0.12 if man else 1.0),
        pitch_mm=float(rng.uniform(25, 28)) - (0 if man else 1.5), level_mm=float(rng.uniform(0, 28)),
        kyphosis_mm=float(rng.uniform(1, 6)), spine_forward_mm=float(rng.uniform(9, 13)),
        ribs_mm=rng.normal(0, 1.6, (RIBS, 2)).astype(np.float32), breath_mm=float(rng.uniform(50, 68)),
        stomach_gas_mm=float(rng.uniform(2, 24)), stomach_hu=float(rng.choice([15, 35, 60])),
        stomach_mm=(float(rng.uniform(26, 40)), float(rng.uniform(28, 42)), float(rng.uniform(30, 45))),
        colon_mm=(float(rng.normal(0, 6)), float(rng.normal(0, 8)), float(rng.normal(-6, 8))),
        table_mm=float(rng.uniform(2, 8)), fissure_mm=(float(rng.normal(0, 6)), float(rng.normal(0, 6))),
        nodes_mm=rng.standard_normal((7, 3)), seed=int(rng.integers(2**31)),
    )  # fmt: skip


def paint(image: Field, field: Field, hu: float | Shade, voxel: float) -> None:
    """Composite tissue of `hu` over `image` where `field` is inside, in place; the edge is one `voxel` wide."""
    near = field < 0.5 * voxel
    alpha = np.minimum(0.5 - field[near] / voxel, 1)
    old = image[near]
    image[near] = old + alpha * ((hu[near] if isinstance(hu, np.ndarray) else hu) - old)


def paint_sheet(image: Field, distance: Field, half_mm: float | Field, hu: float, voxel: float) -> None:
    """Composite a sheet |distance| < half_mm that may be thinner than a voxel: what it covers of a voxel stays true."""
    share = np.clip((half_mm + 0.5 * voxel - np.abs(distance)) / voxel, 0, 1)
    thin = np.minimum(half_mm, 0.5 * voxel)
    share *= 2 * voxel * thin / (thin + 0.5 * voxel) ** 2
    image += share * (hu - image)


def rounded(first: Field, second: Field, radius: float) -> Field:
    """A bar with rounded edges, given how far a point lies outside two half widths reduced by `radius`."""
    return np.asarray(np.hypot(np.maximum(first, 0), np.maximum(second, 0)) - radius)


def folded(grid: Grid, extent_mm: float) -> Grid:
    """`grid` with unwarped axes mirrored into -extent..extent, to evaluate a small random field everywhere."""

    def fold(axis: Field) -> Field:
        return np.asarray(extent_mm - np.abs(np.mod(axis + extent_mm, 4 * extent_mm) - 2 * extent_mm), np.float32)

    return replace(grid, z=fold(grid.z), y=fold(grid.y), x=fold(grid.x))
