"""Memorization audit: which training case a generated pair is nearest to, and whether it is a copy of it.

A generator sees its training cases moved, turned, resized, perhaps mirrored or cropped, brighter or noisier, and a copy may be any such view.
Two cases are therefore compared in one pose: the centroids of their structures are laid on each other, then the coarse label maps. In that
pose labels are compared by Dice and images by a correlation that a change of contrast leaves alone. Only what both fields of view hold counts.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import STRUCTURES
from auricle.core.errors import InputError

Floats = NDArray[Any]

STEP_MM = 5.0
"""Edge of a coarse voxel. Noise and the blur of a decoder average out in it, and a comparison takes milliseconds."""
RIM = 2
"""Coarse voxels around the heart whose image is compared too."""
CANDIDATES = 12
"""References compared in full: those of the nearest landmarks and volumes."""
LANDMARK_MM, LOG_VOLUME = 3.0, 0.1
"""Differences of centroids and of log volumes that weigh the same when candidates are chosen."""
CUT_WEIGHT = 0.05
"""Weight of a structure that the field of view cuts: its centroid and volume depend on where, so it serves where there is little else."""
LEAST_ML = 0.5
"""A structure smaller than this is not compared."""
RIDGE_MM2 = 1.0
"""Pull of the first pose toward no turn, mirroring or growth, so that one or two landmarks give a pose too."""
ROUNDS, COARSER = 2, 3
"""Refinements of the pose, and of how many points one serves them."""
COMMON_VIEW = 0.5
"""Least share of a heart and its rim that the other field of view must hold."""
FLAT_HU = 1.0
"""An image whose SD falls below this once the structures' contrast is taken out shows nothing to compare."""
GUMBEL_99, EULER = -math.log(-math.log(0.99)), 0.5772156649
ONE_SIDED_95 = 1.645

_SIZE = len(STRUCTURES)
_SHARES = slice(0, _SIZE)


@dataclass(frozen=True)
class Descriptor:
    """What is kept of one case; S = 8 structures in the order of the table, places in mm from the corner of the field of view."""

    landmarks: Floats
    """Centroids of the structures, (S, 3); 0 for one that is absent."""
    weights: Floats
    """Trust in each landmark and volume, (S,): 1 for a whole structure, `CUT_WEIGHT` for a cut one, 0 for one that is absent."""
    log_volumes: Floats
    """Natural logarithm of the volumes in mL, (S,); 0 for a structure that is absent."""
    maps: Floats
    """Share of every structure (0..1) and mean HU in each coarse voxel, (X, Y, Z, S + 1)."""
    origin: Floats
    """Center of the first coarse voxel, (3,)."""


@dataclass(frozen=True)
class Match:
    """The reference that is most like a case."""

    index: int
    """Its place among the references; -1 where there was nothing to compare."""
    score: float
    """Mean of the two similarities, 0..1; 1 for a case and itself."""
    label_similarity: float
    """Mean Dice of the structures, 0..1."""
    image_similarity: float
    """Correlation of the images beyond the structures' contrast, 0..1 (a negative one counts as 0)."""


@dataclass(frozen=True)
class _Template:
    """The points of one case at which others are compared with it."""

    points: Floats
    """Centers of the coarse voxels of the heart and its rim, from `middle`, mm, (N, 3)."""
    values: Floats
    """The maps there, (N, S + 1)."""
    slopes: Floats
    """Change of the shares at every third point with an affine motion, 9 entries of a matrix (times `reach`) and a shift, (M, S, 12)."""
    middle: Floats
    """Mean of the points, (3,)."""
    reach: float
    """Root mean square distance of the points from the middle along an axis, mm: makes the columns of `slopes` comparable."""


def describe(image: NDArray[Any], label: NDArray[np.uint8], spacing: Sequence[float]) -> Descriptor:
    """Describe one pair: `image` (X, Y, Z) in HU and `label` (X, Y, Z) with the ids of `core/anatomy.py`, at `spacing` mm."""
    assert image.shape == label.shape
    assert label.ndim == len(spacing) == 3
    averages = [_averages(n, s) for n, s in zip(label.shape, spacing, strict=True)]
    maps = np.empty((*(len(a) for a in averages), _SIZE + 1), np.float32)
    for i, s in enumerate(STRUCTURES):
        maps[..., i] = _coarse((label == s.id).astype(np.float32), averages)
    maps[..., _SIZE] = _coarse(image.astype(np.float32), averages)
    shape = np.array(maps.shape[:3])
    origin = (np.array(label.shape) * spacing - (shape - 1) * STEP_MM) / 2
    mass = maps[..., _SHARES].sum((0, 1, 2), dtype=np.float64)
    volumes = mass * STEP_MM**3 / 1000
    there = volumes >= LEAST_ML
    axes = np.meshgrid(*(o + STEP_MM * np.arange(n) for o, n in zip(origin, shape, strict=True)), indexing="ij")
    moments = np.stack([np.tensordot(maps[..., _SHARES], axis, ((0, 1, 2), (0, 1, 2))) for axis in axes], axis=-1)
    faces = np.concatenate([np.take(label, [0, -1], axis=axis).ravel() for axis in range(3)])
    cut = np.isin([s.id for s in STRUCTURES], faces)
    return Descriptor(
        landmarks=np.where(there[:, None], moments / np.maximum(mass, 1e-9)[:, None], 0.0),
        weights=np.where(there, np.where(cut, CUT_WEIGHT, 1.0), 0.0),
        log_volumes=np.log(np.where(there, volumes, 1.0)), maps=maps, origin=origin,
    )  # fmt: skip


def nearest(case: Descriptor, references: Sequence[Descriptor], exclude: int | None = None) -> Match:
    """The reference with the highest score against `case`, the one at `exclude` aside (for a case that is a reference itself).

    Scores 0 with index -1 where nothing can be compared: no references, or no structure in common.
    """
    best = Match(-1, 0.0, 0.0, 0.0)
    if not references or not case.weights.any():
        return best
    distance, matrices, shifts = _first_poses(case, references)
    if exclude is not None:
        distance[exclude] = np.inf
    template = _template(case)
    for index in np.argsort(distance, kind="stable")[:CANDIDATES]:
        if np.isfinite(distance[index]):
            matrix = matrices[index]
            shift = shifts[index] + matrix @ template.middle
            labels, images = _similarities(template, references[index], *_refine(template, references[index], matrix, shift))
            if best.index < 0 or (labels + images) / 2 > best.score:
                best = Match(int(index), (labels + images) / 2, labels, images)
    return best


def calibrate(matches_of_held_out: Sequence[Match]) -> float:
    """The score above which a case is called a copy, from real cases that the generator has never seen, each matched with its training cases.

    A Gumbel distribution, that of the best of many scores, is fitted to theirs by its moments; the threshold is the upper 95% confidence limit
    of the score that 1% of unseen cases exceed (mean + K s; by the delta method its variance is s^2 / n * (1 + g K + (k - 1) / 4 K^2), with
    g = 1.1396 the skewness and k = 5.4 the kurtosis of a Gumbel distribution). It is at most halfway from the highest held-out score to 1,
    that of an identical pair, which counts where the cases are few, and never below the highest. Raises InputError where no held-out case
    could be compared.
    """
    scores = np.array([m.score for m in matches_of_held_out if m.index >= 0])
    if not len(scores):
        raise InputError("the memorization audit has no labeled held-out case to calibrate on: give validation a share in --shares")
    highest = float(scores.max())
    halfway = (highest + 1) / 2
    if len(scores) == 1:
        return halfway
    sd = float(scores.std(ddof=1))
    k = math.sqrt(6) / math.pi * (GUMBEL_99 - EULER)
    error = math.sqrt((1 + 1.1396 * k + 1.1 * k * k) / len(scores))
    return max(highest, min(float(scores.mean()) + sd * (k + ONE_SIDED_95 * error), halfway))


def is_copy(match: Match, threshold: float) -> bool:
    """Whether the case of that match is a copy of the reference, by the threshold of `calibrate`."""
    return match.score > threshold


def _averages(count: int, spacing: float) -> Floats:
    """Weights (coarse, count) that average voxels along one axis into coarse ones, which lie centered in the field of view."""
    coarse = max(int(count * spacing / STEP_MM + 1e-6), 1)
    low = (count * spacing - coarse * STEP_MM) / 2 + STEP_MM * np.arange(coarse)[:, None]
    edges = spacing * np.arange(count + 1)
    overlap = np.minimum(low + STEP_MM, edges[1:]) - np.maximum(low, edges[:-1])
    weights = np.maximum(overlap, 0.0)
    averages: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return averages


def _coarse(values: Floats, averages: list[Floats]) -> Floats:
    for weights in averages:
        values = np.tensordot(values, weights, axes=(0, 1))
    return values


def _first_poses(case: Descriptor, references: Sequence[Descriptor]) -> tuple[Floats, Floats, Floats]:
    """Distance (K,) of the references and the poses y = matrix x + shift, (K, 3, 3) and (K, 3), that lay the case's landmarks on theirs.

    Least squares over rotation, scale, shift and mirroring (Umeyama 1991, without his sign: a generator that trains on flipped views
    may mirror its copies). Infinitely far is a reference without a structure in common.
    """
    weights = np.minimum(np.stack([r.weights for r in references]), case.weights)
    theirs, volumes = np.stack([r.landmarks for r in references]), np.stack([r.log_volumes for r in references])
    total = weights.sum(1)
    weights = weights / np.maximum(total, 1e-9)[:, None]
    center, their_center = weights @ case.landmarks, np.einsum("ks,ksi->ki", weights, theirs)
    a, b = case.landmarks - center[:, None], theirs - their_center[:, None]
    u, d, vt = np.linalg.svd(np.einsum("ks,ksi,ksj->kij", weights, b, a) + RIDGE_MM2 * np.eye(3))
    scale = d.sum(1) / (np.einsum("ks,ksi,ksi->k", weights, a, a) + 3 * RIDGE_MM2)
    matrices = scale[:, None, None] * (u @ vt)
    apart = ((b - np.einsum("kij,ksj->ksi", matrices, a)) ** 2).sum(-1)
    growth = volumes - case.log_volumes - 3 * np.log(scale)[:, None]
    distance = (weights * (apart / LANDMARK_MM**2 + growth**2 / LOG_VOLUME**2)).sum(1)
    return np.where(total > 0, distance, np.inf), matrices, their_center - np.einsum("kij,kj->ki", matrices, center)


def _template(case: Descriptor) -> _Template:
    shares = case.maps[..., _SHARES]
    near = ndimage.binary_dilation(shares.sum(-1) > 0.5, iterations=RIM) | (shares.sum(-1) > 0)
    places = case.origin + STEP_MM * np.argwhere(near)
    middle = places.mean(0)
    points = places - middle
    reach = max(float(np.sqrt((points**2).mean())), STEP_MM)
    padded = np.pad(shares, ((1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
    slopes = np.stack([g[1:-1, 1:-1, 1:-1][near][::COARSER] for g in np.gradient(padded, STEP_MM, axis=(0, 1, 2))], axis=-1)
    turned = slopes[..., :, None] * (points[::COARSER, None, None, :] / reach)
    slopes = np.concatenate([turned.reshape(*slopes.shape[:2], 9), slopes], axis=-1).astype(np.float32)
    return _Template(points, case.maps[near], slopes, middle, reach)


def _sample(case: Descriptor, places: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The maps at `places` (N, 3), linear in between, (N, S + 1); and which places lie in the field of view, (N,)."""
    last = np.array(case.maps.shape[:3]) - 1
    places = (places - case.origin) / STEP_MM
    inside: NDArray[np.bool_] = np.all((places >= -0.5) & (places <= last + 0.5), axis=1)
    places = places.clip(0, last)
    low = places.astype(np.int64)
    part = (places - low).astype(np.float32)
    row = np.array([(last[1] + 1) * (last[2] + 1), last[2] + 1, 1])
    index, weight = [low * row, np.minimum(low + 1, last) * row], [1 - part, part]
    flat = case.maps.reshape(-1, _SIZE + 1)
    values = np.zeros((len(places), _SIZE + 1), np.float32)
    for i, j, k in itertools.product((0, 1), repeat=3):
        corner = flat[index[i][:, 0] + index[j][:, 1] + index[k][:, 2]]
        values += (weight[i][:, 0] * weight[j][:, 1] * weight[k][:, 2])[:, None] * corner
    return values, inside


def _refine(template: _Template, reference: Descriptor, matrix: Floats, shift: Floats) -> tuple[Floats, Floats]:
    """Lay the label maps on each other by an affine motion: Gauss-Newton, inverse compositional (Baker and Matthews 2004).

    Affine, since views cropped in plane and resized have another size along z; it helps unseen cases hardly more than a similarity.
    """
    points, values = template.points[::COARSER], template.values[::COARSER, _SHARES]
    for _ in range(ROUNDS):
        theirs, inside = _sample(reference, points @ matrix.T + shift)
        slopes = template.slopes[inside].reshape(-1, 12)
        error = (theirs[inside, _SHARES] - values[inside]).ravel()
        normal = (slopes.T @ slopes).astype(np.float64)
        damping = 1e-3 * np.trace(normal) / 12 + 1e-9
        step = np.linalg.solve(normal + damping * np.eye(12), (slopes.T @ error).astype(np.float64))
        # Bounded, so that the motion has an inverse whatever the maps hold.
        grow = np.eye(3) + (step[:9].reshape(3, 3) / template.reach).clip(-0.2, 0.2)
        matrix = matrix @ np.linalg.inv(grow)
        shift = shift - matrix @ step[9:].clip(-10.0, 10.0)
    return matrix, shift


def _similarities(template: _Template, reference: Descriptor, matrix: Floats, shift: Floats) -> tuple[float, float]:
    """Of labels and of images in that pose.

    Labels: mean over the structures of Dice for shares, 2 sum min(a, b) / sum (a + b). Images: partial correlation given the
    case's structures, whose mean HU thus do not count, of HU in the heart and its rim.
    """
    theirs, inside = _sample(reference, template.points @ matrix.T + shift)
    if inside.mean() < COMMON_VIEW:
        return 0.0, 0.0
    a, b = template.values[inside].astype(np.float64), theirs[inside].astype(np.float64)
    total = (a + b)[:, _SHARES].sum(0)
    dice = 2 * np.minimum(a, b)[:, _SHARES].sum(0) / np.maximum(total, 1e-9)
    compared = total * STEP_MM**3 / 1000 >= LEAST_ML
    known = np.column_stack([a[:, _SHARES], np.ones(len(a))])
    images = np.column_stack([a[:, _SIZE], b[:, _SIZE]])
    images = images - known @ np.linalg.solve(known.T @ known + 1e-6 * np.eye(_SIZE + 1), known.T @ images)
    sd = images.std(0)
    correlation = (images[:, 0] * images[:, 1]).mean() / (sd[0] * sd[1]) if min(sd) > FLAT_HU else 0.0
    return float(dice[compared].mean()) if compared.any() else 0.0, min(max(float(correlation), 0.0), 1.0)
