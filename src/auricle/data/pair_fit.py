"""Volumes and location on request: a pair is warped, image and label map together, so that each structure comes near a given volume and the heart
near a given height."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from auricle.core.anatomy import HEART, ID, LABEL_COUNT
from auricle.data.augment import border_moves
from auricle.data.labelcode import decode_label
from auricle.data.preprocess import heart_extent

ROUNDS = 16
"""Moves of the borders, each measured on the map that the one before left."""
MOST_MM = 3.0
"""Farthest that a structure moves its border in a round: the displacement does not fold."""
NEAR = 0.02
"""Relative error of a volume that is left alone."""
MOST_STRETCH = 2.0
"""How many times as long, or as short, what lies below and above the heart may become when the heart is moved."""
_FACE_TO_MOVE = 0.45
"""Faces of voxels have 1.5 times the area of a smooth border (on average over its directions), and a move comes out at about nine tenths. Aiming a
third farther takes fewer rounds."""


def fit_pair(
    image: Tensor, channels: Tensor, spacing: tuple[float, float, float], volumes_ml: Mapping[str, float], location_mm: float | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A decoded pair, warped so that its structures come near `volumes_ml` and its heart near `location_mm`.

    Where a network is unsure small structures come out too small. Their borders are moved by a smooth displacement (`augment.border_moves`), in image
    and label map alike, so that the label stays true to the image. A structure without a single voxel stays absent. Nothing bounds the way to a
    volume that is far off but the number of rounds. The heart is moved up or down as it is, and what lies between it and the ends of the view is
    stretched or squeezed, by `MOST_STRETCH` at most: a heart that is cut off stays where it is.

    Args:
        image: (X, Y, Z), in any unit; on the CPU, as `channels` are.
        channels: what the label head gives, (C, X, Y, Z): nine logits or packed channels.
        spacing: voxel size in mm.
        volumes_ml: structure key to volume in mL; the borders of others move only as their neighbors' do.
        location_mm: how far the view's middle is to lie above the heart's (`data.conditions`); None leaves the heart where it is.

    Returns:
        Image and channels, warped; as they are where nothing has to move.
    """
    still = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *image.shape], align_corners=True)
    at, warped = still, channels

    def follow(step: Tensor) -> None:
        # All moves are composed, so that image and channels are interpolated once.
        nonlocal at, warped
        at = _sample(at[0].movedim(-1, 0), step).movedim(0, -1)[None]
        warped = _sample(channels, at)

    def to_volumes() -> None:
        for _ in range(ROUNDS if volumes_ml else 0):
            label = decode_label(warped[None])[0]
            moves = _moves(label, volumes_ml, spacing)
            if not any(moves):
                break
            follow(still + border_moves(moves, label, still, spacing))

    to_volumes()
    heights = None if location_mm is None else _heights(decode_label(warped[None])[0], location_mm, spacing[2])
    if heights is not None:
        moved = still.clone()
        moved[..., 0] = heights
        follow(moved)
        to_volumes()  # of vessels that were stretched or squeezed along with the surroundings
    return (image, channels) if at is still else (_sample(image[None], at)[0], warped)


def _heights(label: Tensor, location_mm: float, spacing_mm: float) -> Tensor | None:
    """Where along z (-1..1) each slice is taken from, (Z,), so that the heart in `label` (X, Y, Z) comes to lie at `location_mm`.

    None where it lies there to half a voxel, or there is none.
    """
    found = label.numpy()
    # What the gate takes away later, crumbs far from the heart, must not decide where it lies.
    pieces, _ = ndimage.label(np.isin(found, [ID[k] for k in HEART]), np.ones((3, 3, 3)))
    extent = heart_extent(np.where(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1, found, 0)) if pieces.any() else None
    if extent is None:
        return None
    (low, high), last = extent[2], label.shape[2] - 1
    move = (last - low - high) / 2 - location_mm / spacing_mm
    above, below = last - high, low
    # The side that the heart moves to is squeezed, the other one stretched.
    most, least = (min(a * (1 - 1 / MOST_STRETCH), b * (MOST_STRETCH - 1)) for a, b in ((above, below), (below, above)))
    move = min(max(move, -least), most)
    if abs(move) < 0.5:
        return None
    known, source = [low + move, high + move], [low, high]
    if below:
        known, source = [0, *known], [0, *source]
    if above:
        known, source = [*known, last], [*source, last]
    return torch.from_numpy(np.interp(np.arange(last + 1), known, source) * 2 / last - 1).float()


def _moves(label: Tensor, volumes_ml: Mapping[str, float], spacing: tuple[float, float, float]) -> tuple[float, ...]:
    """How far the border of every label should move outward, nine numbers in mm: the volume that lacks over the area of the border.

    `label` is (X, Y, Z).
    """
    volume = torch.bincount(label.flatten().long(), minlength=LABEL_COUNT) * math.prod(spacing)
    area = torch.zeros(LABEL_COUNT)
    for axis in range(3):
        a, b = label.narrow(axis, 1, label.shape[axis] - 1), label.narrow(axis, 0, label.shape[axis] - 1)
        differs = a != b
        faces = sum(torch.bincount(side[differs].long(), minlength=LABEL_COUNT) for side in (a, b))
        area = area + faces * (math.prod(spacing) / spacing[axis])
    moves = [0.0] * LABEL_COUNT
    for key, ml in volumes_ml.items():
        k = ID[key]
        lacks = 1000.0 * ml - float(volume[k])
        if area[k] > 0 and abs(lacks) > NEAR * 1000.0 * ml:
            moves[k] = min(max(lacks / (_FACE_TO_MOVE * float(area[k])), -MOST_MM), MOST_MM)
    return tuple(moves)


def _sample(volume: Tensor, grid: Tensor) -> Tensor:
    """`volume` (C, X, Y, Z) at the positions `grid` (1, X, Y, Z, 3); what lies at its edges goes on beyond them."""
    return F.grid_sample(volume[None].float(), grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
