"""Trees of vessels that fill an organ, and their painting.

A tree grows like a minimum spanning tree whose branches also keep the way to the root short (Cuntz et al. 2010), and its
radii follow Murray's law: the parent's radius to the power gamma is the sum over its children. The trees lie in unwarped
coordinates, where a short thin branch has a tight box.
"""

import numpy as np
from numpy.typing import NDArray

from auricle.phantom.shapes import Field, Grid, Vector

DETOUR = 0.5
"""Weight of the way to the root against the length of a new branch."""
TIP_MM = 0.6
"""Radius of the last branches."""
TWIGS, TWIG_MM = 3, 10.0
"""Twigs for each tip, and their length."""
PIECE_MM = 11.0
"""Longer branches are split and bent a little."""
LEAST_VOXELS = 0.26
"""Branches with a smaller radius, in voxels, are left out: they would raise a voxel by a fifth of their HU at most."""

Pieces = NDArray[np.float64]
"""Round cones, (n, 9): start, end, two radii and HU."""


def grow(rng: np.random.Generator, roots: Vector, tips: Vector, root_mm: float, tip_mm: float = TIP_MM) -> Pieces:
    """The tree from any of `roots` (k, 3) to all of `tips` (n, 3); HU is left zero."""
    k, n = len(roots), len(tips)
    nodes = np.concatenate([roots, np.empty((n, 3))])
    parent, way = np.full(k + n, -1), np.zeros(k + n)
    distance = np.linalg.norm(tips[:, None] - roots, axis=2)
    nearest, cost = distance.argmin(1), distance.min(1)
    waiting = tips.T.copy()
    for i in range(k, k + n):
        j = int(cost.argmin())
        nodes[i], parent[i] = tips[j], nearest[j]
        way[i] = cost[j] + (1 - DETOUR) * way[nearest[j]]
        cost[j], waiting[:, j] = np.inf, 1e9
        away = waiting - tips[j][:, None]
        fresh = np.sqrt(np.einsum("ij,ij->j", away, away))
        fresh += DETOUR * way[i]
        better = fresh < cost
        np.copyto(cost, fresh, where=better)
        nearest[better] = i
    leaves = np.ones(k + n).tolist()
    for i, j in zip(range(k + n - 1, k - 1, -1), parent[:k - 1:-1].tolist(), strict=True):
        leaves[j] += leaves[i]
    gamma = np.log(max(leaves[:k])) / np.log(root_mm / tip_mm)
    radius = tip_mm * np.array(leaves) ** (1 / gamma)
    first = np.minimum(radius[parent[k:]], 1.25 * radius[k:])
    return np.concatenate([_bent(rng, nodes[parent[k:]], nodes[k:], first, radius[k:]), _twigs(rng, tips, tip_mm)])


def _twigs(rng: np.random.Generator, tips: Vector, tip_mm: float) -> Pieces:
    start = np.repeat(tips, TWIGS, axis=0)
    end = start + rng.normal(0, TWIG_MM / 3**0.5, start.shape)
    return np.asarray(np.c_[start, end, np.tile([0.8 * tip_mm, 0.5 * tip_mm, 0], (len(start), 1))])


def _bent(rng: np.random.Generator, start: Vector, end: Vector, first: Vector, last: Vector) -> Pieces:
    """Split long branches at a point beside their middle."""
    length = np.linalg.norm(end - start, axis=1)
    middle = 0.5 * (start + end) + rng.normal(0, 0.07, start.shape) * length[:, None]
    mean = 0.5 * (first + last)
    long = length > PIECE_MM
    rows = [(start, np.where(long[:, None], middle, end), first, np.where(long, mean, last)), (middle[long], end[long], mean[long], last[long])]
    return np.concatenate([np.c_[p, q, r0, r1, np.zeros(len(p))] for p, q, r0, r1 in rows])


def visible(pieces: Pieces, g: Grid) -> Pieces:
    """Those that touch the grid and are not too thin for it."""
    low, high = (np.array([v[i] for v in (g.x, g.y, g.z)], float) for i in (0, -1))
    margin = pieces[:, 6:8].max(1, keepdims=True) + g.voxel
    near = (np.maximum(pieces[:, :3], pieces[:, 3:6]) + margin > low).all(1)
    near &= (np.minimum(pieces[:, :3], pieces[:, 3:6]) - margin < high).all(1)
    return np.asarray(pieces[near & (pieces[:, 6:8].mean(1) > LEAST_VOXELS * g.voxel)])


def _filled(radius: Vector, voxel: float) -> Vector:
    """What a painted tube's alpha is multiplied by, so that its cross-section integrates to pi r^2 at any voxel size."""
    r = np.asarray(radius, float)
    return np.asarray(np.where(r >= 0.5 * voxel, r * r / (r * r + voxel**2 / 12), 3 * voxel * r * r / (r + 0.5 * voxel) ** 3))


def draw(pieces: Pieces, g: Grid, out: Field) -> Field:
    """Raise `out` to share * HU where tubes are; HU counts from what surrounds them."""
    voxel = g.voxel
    pieces = visible(pieces, g)
    share = _filled(0.5 * (pieces[:, 6] + pieces[:, 7]), voxel)
    margin = pieces[:, 6:8].max(1, keepdims=True) + 0.5 * voxel
    low, high = np.minimum(pieces[:, :3], pieces[:, 3:6]) - margin, np.maximum(pieces[:, :3], pieces[:, 3:6]) + margin
    first = [np.searchsorted(v, low[:, i]) for i, v in enumerate((g.x, g.y, g.z))]
    last = [np.searchsorted(v, high[:, i]) for i, v in enumerate((g.x, g.y, g.z))]
    step = pieces[:, 3:6] - pieces[:, :3]
    squared = (step**2).sum(1) + 1e-6
    for i, (px, py, pz, *_, r0, r1, hu) in enumerate(pieces.tolist()):
        box = tuple(slice(int(first[k][i]), int(last[k][i])) for k in (2, 1, 0))
        target = out[box]
        if target.size == 0:
            continue
        dz, dy, dx = g.z[box[0]][:, None, None] - pz, g.y[box[1]][:, None] - py, g.x[box[2]] - px
        ex, ey, ez = step[i].tolist()
        q = 1 / float(squared[i])
        along = (dz * (ez * q) + dy * (ey * q)) + dx * (ex * q)
        np.clip(along, 0, 1, out=along)
        away = (dz * dz + dy * dy) + dx * dx - along * (2 * ((dz * ez + dy * ey) + dx * ex) - along * float(squared[i]))
        np.maximum(away, 0, out=away)
        np.sqrt(away, out=away)
        away -= r0 + along * (r1 - r0)
        away *= -1 / voxel
        away += 0.5
        np.clip(away, 0, 1, out=away)
        away *= float(share[i]) * hu
        np.maximum(target, away, out=target)
    return out
