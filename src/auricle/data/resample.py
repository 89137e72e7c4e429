"""Resampling through affines, part by part: the memory it needs does not grow with the scan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SLAB_VOXELS = 2**22
"""Voxels resampled at once: bounds the memory of a resampling whatever its output's size."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Channel:
    """One label's scores, made part by part."""

    values: NDArray[Any]
    """Label map [x, y, z] or probabilities [label, x, y, z]."""
    id: int
    box: Box | None
    """Where the label can win at all; None: nowhere."""

    def part(self, box: Box) -> NDArray[np.float32]:
        if self.values.ndim == 3:
            mask: NDArray[np.float32] = (self.values[box] == self.id).astype(np.float32)
            return mask
        return np.asarray(self.values[self.id][box], np.float32)


def vote(
    channels: list[Channel], source: tuple[int, ...], step: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """For every target voxel the channel with the largest value; `step` maps target index to source index.

    The first channel is the background: it also fills what lies outside the source.
    """
    out = np.zeros(shape, np.uint8)
    for slab in slabs(step, reach(step, source, shape)):
        best = sample(channels[0].part, step, slab, 1.0, source)
        winner = out[slab]
        for channel in channels[1:]:
            target = None if channel.box is None else _cut(reach(step, source, shape, channel.box), slab)
            if target is None:
                continue
            score = sample(channel.part, step, target, 0.0, source)
            here = tuple(slice(t.start - s.start, t.stop - s.start) for t, s in zip(target, slab, strict=True))
            wins = score > best[here]
            best[here][wins] = score[wins]
            winner[here][wins] = channel.id
    return out


def sample(
    read: Callable[[Box], NDArray[Any]],
    step: NDArray[np.float64],
    target: Box,
    outside: float,
    extent: tuple[int, ...],
) -> NDArray[np.float32]:
    """Linearly interpolated values at the target voxels `target` of a source of shape `extent`; `step` maps target index to source index."""
    shape = tuple(s.stop - s.start for s in target)
    matrix, shift = step[:3, :3], step[:3, 3] + step[:3, :3] @ [s.start for s in target]
    ratio = np.linalg.norm(matrix, axis=1)
    sd = np.where(ratio > 1.01, np.sqrt(np.maximum(ratio**2 - 1, 0)) / 2.355, 0.0)
    margin = np.ceil(4 * sd).astype(int) + 2
    need = _covering(matrix, shift, shape, margin, extent)
    if need is None:
        return np.full(shape, outside, np.float32)
    part = read(need)
    if sd.any():
        part = ndimage.gaussian_filter(part.astype(np.float32), sd, mode="nearest", truncate=4.0)
    start = np.array([s.start for s in need])
    values: NDArray[np.float32] = ndimage.affine_transform(
        part, matrix, shift - start, output_shape=shape, output=np.float32, order=1, mode="nearest"
    )
    values[~within(np.column_stack([matrix, shift]), extent, shape)] = outside
    return values


def within(step: NDArray[np.float64], extent: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which voxels of a grid of `shape` have their center within the outermost voxel faces of a volume of `extent`; `step` maps index to index."""
    inside = np.ones((1, 1, 1), bool)
    for j, n in enumerate(extent):
        at = np.full((1, 1, 1), step[j, 3])
        for i, m in enumerate(shape):
            if abs(step[j, i]) * m > 1e-9:
                at = at + step[j, i] * np.arange(m).reshape([-1 if a == i else 1 for a in range(3)])
        inside = inside & (at >= -0.5 - 1e-6) & (at <= n - 0.5 + 1e-6)
    return np.broadcast_to(inside, shape)


def _covering(
    matrix: NDArray[Any], shift: NDArray[Any], shape: tuple[int, ...], margin: NDArray[Any], extent: tuple[int, ...]
) -> Box | None:
    """Smallest box of indices, `margin` wider, holding the image of a grid under an affine; None if out of `extent`."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    at = matrix @ corners + shift[:, None]
    low = np.maximum(np.floor(at.min(axis=1)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(at.max(axis=1)).astype(int) + margin + 1, extent)
    if (low >= high).any():
        return None
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def reach(step: NDArray[np.float64], source: tuple[int, ...], shape: tuple[int, ...], box: Box | None = None) -> Box | None:
    """Target voxels that the source's voxels in `box` can influence."""
    box = box or whole(source)
    back: NDArray[Any] = np.linalg.inv(step)
    blur: NDArray[Any] = np.linalg.norm(step[:3, :3], axis=1)  # smoothing carries a label up to twice as far
    width = np.ceil(np.abs(back[:3, :3]) @ (1 + 2 * blur)).astype(int) + 1
    start = back[:3, :3] @ [s.start for s in box] + back[:3, 3]
    return _covering(back[:3, :3], start, tuple(s.stop - s.start for s in box), width, shape)


def slabs(step: NDArray[np.float64], box: Box | None) -> Iterator[Box]:
    """Cut a box into slabs across x of about `SLAB_VOXELS` voxels, fewer where each covers many source voxels."""
    if box is None:
        return
    x, y, z = box
    per_voxel = max(1.0, abs(float(np.linalg.det(step[:3, :3]))) / 4)
    thick = max(1, int(SLAB_VOXELS / per_voxel / ((y.stop - y.start) * (z.stop - z.start))))
    for start in range(x.start, x.stop, thick):
        yield slice(start, min(start + thick, x.stop)), y, z


def _cut(a: Box | None, b: Box) -> Box | None:
    if a is None:
        return None
    x, y, z = (slice(max(s.start, t.start), min(s.stop, t.stop)) for s, t in zip(a, b, strict=True))
    return None if x.start >= x.stop or y.start >= y.stop or z.start >= z.stop else (x, y, z)


def whole(shape: tuple[int, ...]) -> Box:
    """The box of a whole volume."""
    x, y, z = (slice(0, n) for n in shape)
    return x, y, z
