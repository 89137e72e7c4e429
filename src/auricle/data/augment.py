"""Augmentation of pairs: random parameters are drawn first (`draw`), then applied to image and label map together (`apply`)."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from auricle.core.anatomy import LABEL_COUNT
from auricle.data import intensity
from auricle.data.intensity import IntensityConfig, IntensityDraw

Triple = tuple[int, int, int]
EVEN_HU = (35.0, 160.0)
"""Blood without contrast agent, and of a venous phase at its brightest."""
WARP_PERIOD_MM = 36.0
"""Distance of the control points of a warp: about the width of a chamber."""
GROWTH_SD_MM = 7.0
"""SD of the Gaussian over which the move of a border fades: between half the thickness of the left ventricle's wall and half a chamber's radius."""
GROWTH_MOST_MM = 2.0
"""Largest SD of a move: more would fold walls that are squeezed from both sides by two SD."""
_SPLINE_SD = (151 / 315) ** 1.5
"""SD of a uniform cubic B-spline in 3D with independent coefficients of SD 1: along each axis, the integral of its squares is 151/315."""


@dataclass(frozen=True)
class AugmentConfig:
    """What is drawn, and how often. The defaults change nothing."""

    flip_probability: float = 0.0
    """Probability of mirroring left-right, and likewise front-back. A mirrored heart is situs inversus: segmenters may want 0."""
    center_crop_probability: float = 0.0
    """Probability of a crop at a random location in plane, resized back in x and y."""
    location_crop_probability: float = 0.0
    """Probability of moving the field of view by up to `shift_mm` along each axis."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Edge of the in-plane crop as a share of the field of view, smallest and largest."""
    shift_mm: float = 15.0
    """Largest move of the field of view along an axis. Patches lie where they are drawn: with a patch it has no effect."""
    far_probability: float = 0.0
    """Probability of looking elsewhere instead: the field of view is moved by up to `far_mm`, so that the heart is cut or out of sight."""
    far_mm: float = 80.0
    """Largest move of such a far view along an axis."""
    boost_probability: float = 0.0
    """Probability of the contrast boost."""
    boost_hu: float = 50.0
    """HU added by the contrast boost to what is brighter than muscle."""
    timing: float = 0.0
    """SD of the logarithm of two factors on the enhancement, one of the left and one of the right heart: another timing of the contrast agent."""
    even_probability: float = 0.0
    """Probability of blood of one brightness on both sides instead: a venous scan, or one without contrast agent."""
    rotation_degrees: float = 0.0
    """SD of the rotation about each axis."""
    scale: float = 0.0
    """SD of the logarithm of the size."""
    stretch: float = 0.0
    """SD of the logarithm of the size along each axis by itself, on top of `scale`."""
    warp_mm: float = 0.0
    """SD along each axis of a smooth random displacement, which changes shapes; control points lie `WARP_PERIOD_MM` apart."""
    growth_mm: float = 0.0
    """SD of how far each structure's border moves outward or inward, every structure by itself: other sizes, other walls. Less in a wall, whose two
    borders are near each other."""
    intensity: IntensityConfig = field(default_factory=IntensityConfig)
    """What is done to the image's values alone."""
    cut_probability: float = 0.0
    """Probability that one side of the field of view is cut off (set to air and background)."""

    def __post_init__(self) -> None:
        for name in ("flip", "center_crop", "location_crop", "far", "boost", "even", "cut"):
            if not 0.0 <= getattr(self, f"{name}_probability") <= 1.0:
                raise ValueError(f"--augment.{name.replace('_', '-')}-probability must lie in 0..1")
        if not 0.0 <= self.warp_mm <= WARP_PERIOD_MM / 6:
            raise ValueError(f"--augment.warp-mm must lie in 0..{WARP_PERIOD_MM / 6:g}: more folds the image over itself")
        if not 0.0 <= self.growth_mm <= GROWTH_MOST_MM:
            raise ValueError(f"--augment.growth-mm must lie in 0..{GROWTH_MOST_MM:g}: more folds walls over themselves")
        if not 0.0 < self.crop_scale[0] <= self.crop_scale[1] <= 1.0:
            raise ValueError("--augment.crop-scale must be two ascending numbers in 0..1")


def paper_generator() -> AugmentConfig:
    """What the paper draws while training the generator (section 4: crops, flips at 0.2, +50 HU at 0.05)."""
    return AugmentConfig(flip_probability=0.2, center_crop_probability=0.2, location_crop_probability=0.2, boost_probability=0.05)


def segmenter() -> AugmentConfig:
    """Geometry and intensity wide enough that a network trained on one cohort meets the scans of another."""
    return AugmentConfig(
        location_crop_probability=0.8, shift_mm=20.0, rotation_degrees=8.0, scale=0.10, stretch=0.05, cut_probability=0.15, far_probability=0.1,
        intensity=IntensityConfig(gain=0.35, gamma=0.2, offset_hu=15.0, noise_hu=30.0, blur_probability=0.2, coarse_probability=0.25),
    )  # fmt: skip


def few_cases() -> AugmentConfig:
    """Shapes, sizes and contrast varied for a generator of a few cases, which would learn them by heart; what a scanner does is left alone."""
    return AugmentConfig(
        location_crop_probability=1.0, shift_mm=6.0, rotation_degrees=6.0, scale=0.10, stretch=0.06, warp_mm=3.0, growth_mm=2.0, timing=0.3,
        intensity=IntensityConfig(gain=0.15, gamma=0.1),
    )  # fmt: skip


def with_variety(config: AugmentConfig) -> AugmentConfig:
    """A segmenter's augmentation with shapes, sizes and timings varied too: few labeled cases show few of them (docs/results/study.md).

    A tenth of the views has blood of one brightness, which `few_cases` leaves out: a generator of three cases did worse with it.
    """
    wide = few_cases()
    return replace(config, warp_mm=wide.warp_mm, growth_mm=wide.growth_mm, timing=wide.timing, even_probability=0.1)


def any_scanner() -> AugmentConfig:
    """Randomization for a segmenter that has to work on scans of any kind: far views, gantry, kernel, noise, slices, shading, metal, motion."""
    return AugmentConfig(
        location_crop_probability=1.0, shift_mm=35.0, rotation_degrees=10.0, scale=0.13, stretch=0.07, cut_probability=0.25,
        far_probability=0.2, far_mm=120.0,
        intensity=IntensityConfig(
            gain=0.4, gamma=0.25, contrast=0.1, offset_hu=20.0, noise_hu=60.0, blur_probability=0.3, coarse_probability=0.4,
            coarse_factor=(1.3, 3.0), shade_probability=0.3, streak_probability=0.2, motion_probability=0.15,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """Parameters of one augmentation."""

    matrix: tuple[tuple[float, float, float], ...]
    """Rotation, scale and mirroring: output offset from the center (mm) to source offset (mm)."""
    shift_mm: tuple[float, float, float]
    boost_hu: float
    timing: tuple[float, float]
    """Factors on the enhancement of the left and of the right heart."""
    intensity: IntensityDraw
    cut: tuple[int, bool, float] | None
    """Axis, whether its upper end, and the share of the field of view that is cut off."""
    continue_edges: bool = False
    """What lies at the edge of the pair goes on beyond it; otherwise there is air."""
    warp: tuple[float, int] | None = None
    """SD of a smooth displacement in mm, and its seed."""
    blood_hu: float | None = None
    """HU of blood on both sides, in the place of `timing`."""
    growth_mm: tuple[float, ...] | None = None
    """How far the border of every label moves outward, in mm; the background's place holds 0."""
    far: bool = False
    """The view lies elsewhere, by up to `far_mm`."""


def draw(config: AugmentConfig, extent_mm: tuple[float, float, float], generator: torch.Generator) -> Draw:
    """Draw the parameters for a field of view of `extent_mm`."""
    u = torch.rand(16, generator=generator, dtype=torch.float64).tolist()
    n = torch.randn(10, generator=generator, dtype=torch.float64).clamp(-2.5, 2.5).tolist()
    r = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    size = math.exp(config.scale * n[0])
    factors, shift = [size * math.exp(config.stretch * v) for v in n[5:8]], [0.0, 0.0, 0.0]
    if u[0] < config.center_crop_probability:
        share = config.crop_scale[0] + (config.crop_scale[1] - config.crop_scale[0]) * r[0]
        for axis in (0, 1):
            factors[axis] *= share
            shift[axis] += (2 * r[1 + axis] - 1) * (1 - share) / 2 * extent_mm[axis]
    if u[1] < config.location_crop_probability:
        shift = [s + (2 * v - 1) * config.shift_mm for s, v in zip(shift, r[3:6], strict=True)]
    far = u[10] < config.far_probability
    if far:
        shift = [(2 * v - 1) * config.far_mm for v in r[3:6]]
    for axis in (0, 1):
        if u[2 + axis] < config.flip_probability:
            factors[axis] = -factors[axis]
    matrix = _rotation([math.radians(config.rotation_degrees) * v for v in n[1:4]]) @ torch.diag(torch.tensor(factors, dtype=torch.float64))
    cut = (int(u[4] * 3), u[5] < 0.5, 0.05 + 0.25 * r[6]) if u[6] < config.cut_probability else None
    values = intensity.draw(config.intensity, generator)
    # Drawn last and only where it is asked for: what else is drawn stays the same without it.
    warp = (config.warp_mm, int(torch.randint(2**31, (), generator=generator))) if config.warp_mm else None
    blood = None
    if config.even_probability:
        chance, level = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        blood = EVEN_HU[0] + (EVEN_HU[1] - EVEN_HU[0]) * level if chance < config.even_probability else None
    growth = None
    if config.growth_mm:
        moves = torch.randn(LABEL_COUNT - 1, generator=generator, dtype=torch.float64).clamp(-2, 2) * config.growth_mm
        growth = (0.0, *moves.tolist())
    return Draw(
        matrix=tuple(tuple(row) for row in matrix.tolist()), shift_mm=(shift[0], shift[1], shift[2]),
        boost_hu=config.boost_hu if u[7] < config.boost_probability else 0.0,
        timing=(math.exp(config.timing * n[8]), math.exp(config.timing * n[9])),
        cut=cut, intensity=values, warp=warp, blood_hu=blood, growth_mm=growth, far=far,
    )  # fmt: skip


def apply(
    params: Draw, image: Tensor, label: Tensor | None, size: Triple, spacing: tuple[float, float, float]
) -> tuple[Tensor, Tensor | None]:
    """A view of `size` voxels around the center of a pair, transformed.

    `image` is (X, Y, Z) in HU and `label` (X, Y, Z) or None, both at `spacing` mm and usually larger than `size`. Outside of them lie air
    and background, or with `continue_edges` what lies at the edge.
    """
    grid = _sampling_grid(params, tuple(image.shape), size, spacing)
    if params.growth_mm is not None and label is not None:
        grid = grid + border_moves(params.growth_mm, label, grid, spacing)
    beyond = "border" if params.continue_edges else "zeros"
    moved = F.grid_sample(image[None, None].float() + 1024.0, grid, mode="bilinear", padding_mode=beyond, align_corners=True)[0, 0] - 1024.0
    picked = None
    if label is not None:
        picked = F.grid_sample(label[None, None].float(), grid, mode="nearest", padding_mode=beyond, align_corners=True)[0, 0].to(torch.uint8)
    if params.boost_hu:
        # Fades in between muscle and contrasted blood, so that no step appears.
        moved = moved + params.boost_hu * ((moved - 60.0) / 60.0).clamp(0.0, 1.0)
    if picked is not None:
        timing = params.timing if params.blood_hu is None else intensity.factors_for(params.blood_hu, moved, picked)
        if timing != (1.0, 1.0):
            moved = intensity.retime(moved, picked, *timing, spacing)
    moved = intensity.apply(params.intensity, moved, spacing)
    if params.cut:
        moved, picked = _cut(params.cut, moved, picked)
    return moved, picked


def plain(image: Tensor, label: Tensor | None, size: Triple) -> tuple[Tensor, Tensor | None]:
    """The central `size` voxels of a pair (which is at least as large), unchanged."""
    window = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(image.shape, size, strict=True))
    return image[window].float(), None if label is None else label[window]


def _rotation(angles: list[float]) -> Tensor:
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _sampling_grid(params: Draw, source: tuple[int, ...], size: Triple, spacing: tuple[float, float, float]) -> Tensor:
    """Positions in the source for every output voxel, in the -1..1 coordinates (z, y, x) of grid_sample; shape (1, *size, 3)."""
    step = torch.tensor(spacing, dtype=torch.float64)
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    matrix = torch.tensor(params.matrix, dtype=torch.float64)
    # The map is affine: it is summed from one table an axis, which is cheaper than a product for every voxel.
    tables = [axis[:, None] * matrix[:, i][None] for i, axis in enumerate(axes)]
    points = tables[0][:, None, None] + tables[1][None, :, None] + tables[2][None, None, :] + torch.tensor(params.shift_mm, dtype=torch.float64)
    if params.warp is not None:
        points = points + _warp(*params.warp, axes)
    # A source of even length is centered half a voxel off its window when the lengths differ in parity; `plain` rounds down alike.
    half = torch.tensor([(n - 1) / 2 for n in source], dtype=torch.float64)
    parity = torch.tensor([((n - s) % 2) / 2 for n, s in zip(source, size, strict=True)], dtype=torch.float64)
    normalized = (points / step - parity) / half.clamp(min=0.5)
    return normalized.flip(-1)[None].float()


def _warp(sd_mm: float, seed: int, axes: list[Tensor]) -> Tensor:
    """A smooth random displacement in mm at the points of a grid, whose `axes` are in mm; (X, Y, Z, 3).

    A uniform cubic B-spline (free-form deformation, Rueckert et al. 1999) with independent normal coefficients.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = sd_mm / _SPLINE_SD
    bases = [_spline_basis(axis / WARP_PERIOD_MM) for axis in axes]
    moves = (torch.randn((3, *(b.shape[1] for b in bases)), generator=generator, dtype=torch.float64) * spread).clamp(-2 * spread, 2 * spread)
    # One axis after the other: all at once would build a table of every voxel by every control point.
    along_z = torch.einsum("ck,dijk->cdij", bases[2], moves)
    along_y = torch.einsum("bj,cdij->bcdi", bases[1], along_z)
    return torch.einsum("ai,bcdi->abcd", bases[0], along_y)


def border_moves(moves_mm: tuple[float, ...], label: Tensor, grid: Tensor, spacing: tuple[float, float, float]) -> Tensor:
    """What is added to the source positions `grid` (1, *size, 3), so that the border of each structure of the source `label` moves by its `moves_mm`.

    `label` is (X, Y, Z), `moves_mm` holds nine numbers (the background's is 0), and positions are in the -1..1 coordinates (z, y, x) of grid_sample.

    The displacement follows the gradient of the label smoothed by a Gaussian, which points along the border's normal and fades with the distance
    from it (the idea of anatomy-informed augmentation, Kovacs et al. 2023). It is scaled to the whole move at a flat border that is far from others;
    on a grid of 2.5 mm about nine tenths of that are left.
    """
    field = torch.tensor(moves_mm, dtype=torch.float32)[label.long()]
    # The field is smooth: half the resolution holds it, unless voxels are large.
    step = [2 if n >= 8 and s <= 0.4 * GROWTH_SD_MM else 1 for n, s in zip(field.shape, spacing, strict=True)]
    field = F.avg_pool3d(field[None, None], step, ceil_mode=True, count_include_pad=False)[0, 0]
    coarse = [s * k for s, k in zip(spacing, step, strict=True)]
    field = intensity.gaussian(field, (GROWTH_SD_MM / coarse[0], GROWTH_SD_MM / coarse[1], GROWTH_SD_MM / coarse[2]))
    toward = torch.stack(torch.gradient(field, spacing=coarse)) * (GROWTH_SD_MM * math.sqrt(2 * math.pi))
    # From mm to the -1..1 coordinates (z, y, x) of the source.
    half_mm = torch.tensor([max((n - 1) / 2, 0.5) * s for n, s in zip(label.shape, spacing, strict=True)], dtype=torch.float32)
    moves = (toward / half_mm[:, None, None, None]).flip(0)
    return F.grid_sample(moves[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0].permute(1, 2, 3, 0)[None]


def _spline_basis(at: Tensor) -> Tensor:
    """Values (points, knots) of the cubic B-splines on the whole numbers around the points `at` (in knots)."""
    knots = torch.arange(int(at.min().floor()) - 1, int(at.max().floor()) + 3, dtype=at.dtype)
    far = (at[:, None] - knots[None]).abs()
    near = 2 / 3 - far.square() + far**3 / 2
    return torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)


def _cut(cut: tuple[int, bool, float], image: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
    axis, upper, share = cut
    length = max(1, int(image.shape[axis] * share))
    start = image.shape[axis] - length if upper else 0
    image = image.clone()
    image.narrow(axis, start, length).fill_(-1024.0)
    if label is not None:
        label = label.clone()
        label.narrow(axis, start, length).fill_(0)
    return image, label


def anchors(label: Tensor, most: int = 256) -> list[Tensor]:
    """Up to `most` voxels, evenly chosen, of every structure in a label map (X, Y, Z): one (n, 3) tensor of indices each."""
    found = []
    for value in torch.bincount(label.flatten(), minlength=2)[1:LABEL_COUNT].nonzero()[:, 0] + 1:
        voxels = (label == value).nonzero()
        found.append(voxels[torch.linspace(0, len(voxels) - 1, min(most, len(voxels))).long()].clone())
    return found


def move_to_patch(
    params: Draw, shape: tuple[int, ...], points: list[Tensor], size: Triple, patch: Triple, spacing: tuple[float, float, float],
    focus: float, generator: torch.Generator,
) -> Draw:  # fmt: skip
    """The same draw, moved so that its view of `patch` voxels lies somewhere in the central `size` voxels of a pair of that `shape`.

    With probability `focus` the patch is centered on one of the `points` (see `anchors`) of a structure drawn at random, or as near to it as these
    voxels allow: small structures then get as many patches as large ones. Otherwise it lies anywhere. A far view stays where it is.
    """
    if params.far:
        return params
    focused, place = torch.rand(2, generator=generator).tolist()
    wide = torch.tensor(shape)
    free = torch.tensor([max(n - p, 0) for n, p in zip(size, patch, strict=True)])
    low = (wide - 1) / 2 - free / 2
    if focused < focus and points:
        voxels = points[int(place * len(points))]
        chosen = voxels[int(torch.randint(0, len(voxels), (), generator=generator))]
        # Beyond the pair lies air, which no scan has there.
        center = torch.minimum(torch.maximum(chosen.double(), low.double()), (low + free).double())
    else:
        center = low + torch.rand(3, generator=generator, dtype=torch.float64) * free
    # On whole voxels: without other moves a patch is an exact crop, not an interpolated (smoother) one.
    half = (torch.tensor(patch, dtype=torch.float64) - 1) / 2
    parity = ((wide - torch.tensor(patch)) % 2) / 2
    offset = ((center - half).round() + half - (wide - 1) / 2 + parity) * torch.tensor(spacing, dtype=torch.float64)
    return replace(params, shift_mm=(float(offset[0]), float(offset[1]), float(offset[2])))
