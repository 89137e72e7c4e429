"""The beating heart in a scan: blur within a slice, and steps between the slabs of two heartbeats.

Both move the chambers and fade outside them, by a weight that is a function of the world point.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.phantom.anatomy import CALIBRATION_MM, Anatomy, warp
from auricle.phantom.heart import HEART_BOX_HIGH, HEART_BOX_LOW
from auricle.phantom.physics import hats, over_chunks
from auricle.phantom.scanner import stream
from auricle.phantom.shapes import Box, Field, Grid, Vector

FULL_MM, FADE_MM = 4.0, 16.0
"""Up to the first distance from the chambers tissue moves fully, beyond the sum of both not at all: an assumption."""
CHUNK = 8
BEATS = 32
"""Heartbeats above and below the heart's center whose directions are drawn."""


class Mobility:
    """How much of the heart's motion the tissue at a point takes part in, 0..1."""

    def __init__(self, anatomy: Anatomy) -> None:
        still = ~np.isin(anatomy.coarse_label, [ID[k] for k in ("LV", "RV", "LA", "RA", "MYO", "LAA")])
        away = ndimage.distance_transform_edt(still, sampling=CALIBRATION_MM)
        share = (1 - (away - FULL_MM) / FADE_MM).clip(0, 1)
        for axis, n in enumerate(share.shape):  # the box that holds the chambers ends somewhere
            edge = np.minimum(np.arange(n), np.arange(n)[::-1]) / 4
            share *= np.expand_dims(edge.clip(0, 1), [k for k in range(3) if k != axis])
        self.share: Field = (share * share * (3 - 2 * share)).astype(np.float32)
        middle = 0.5 * (np.array(HEART_BOX_LOW) + np.array(HEART_BOX_HIGH))[::-1]
        self.low: Vector = middle - (np.array(share.shape) - 1) / 2 * CALIBRATION_MM

    def at(self, z: Field, y: Field, x: Field) -> Field:
        """The share [z, y, x] at all points with these world coordinates."""
        wz, wy, wx = (
            hats((v.astype(np.float64) - low) / CALIBRATION_MM, n)
            for v, low, n in zip((z, y, x), self.low, self.share.shape, strict=True)
        )
        few = (wz @ self.share.reshape(len(self.share), -1)).reshape(len(z), *self.share.shape[1:])
        return np.asarray(wy @ (few @ wx.T))

    def box(self, grid: Grid) -> Box:
        """The part of `grid` in which anything moves."""
        where = np.argwhere(self.share > 0)
        low, high = (self.low + np.array(w) * CALIBRATION_MM for w in (where.min(0) - 1, where.max(0) + 1))
        return grid.box(low[::-1], high[::-1])


def _directions(anatomy: Anatomy) -> Vector:
    """In-plane unit vectors (2 * `BEATS`, 2) along which the heart is displaced, alternating in sign from beat to beat."""
    turn = stream(anatomy.patient.seed, "step").uniform(-0.7, 0.7, 2 * BEATS)
    x, y = anatomy.marks.axis[:2]
    angle = np.arctan2(y, x) + turn
    sign = np.where(np.arange(2 * BEATS) % 2, -1, 1)
    return np.asarray(np.c_[sign * np.cos(angle), sign * np.sin(angle)])


def stepped(anatomy: Anatomy, mobility: Mobility, grid: Grid) -> Grid:
    """An unwarped grid, warped so that the heart steps between the slabs of two heartbeats.

    The slab of a point follows from its height alone. In it the heart lies `step_mm` / 2 off its place, in the axial plane
    so that its volumes stay, about along its long axis and alternating; what moves fully is translated, not bent.
    """
    s = anatomy.patient.scanner
    beats = np.floor((grid.z - float(anatomy.center[2])) / s.step_period_mm + s.step_phase).astype(int) + BEATS
    shifts = _directions(anatomy).astype(np.float32) * np.float32(-0.5 * s.step_mm)
    result = warp(anatomy.random, grid)
    for beat in np.unique(beats):
        where = slice(*np.searchsorted(beats, (beat, beat + 1)).tolist())
        x, y = shifts[min(max(beat, 0), len(shifts) - 1)]
        still = grid.slab(where.start, where.stop)
        moved = warp(anatomy.random, replace(still, x=still.x + x, y=still.y + y))
        share = mobility.at(still.z, still.y, still.x)
        for whole, part in ((result.X, moved.X), (result.Y, moved.Y), (result.Z, moved.Z)):
            whole[where] += share * (part - whole[where])
    return result


def _interpolated(block: Field, by: float, axis: int, pad: int) -> Field:
    """`block` without `pad` samples at both ends of `axis`, read `by` (at most `pad`) samples further on."""
    first = int(np.floor(by))
    n, t = block.shape[axis] - 2 * pad, np.float32(by - first)

    def read(k: int) -> Field:
        return block[(slice(None),) * axis + (slice(pad + k, pad + k + n),)]

    if t == 0:
        return read(first)
    out: Field = read(first) * (1 - t)
    out += read(first + 1) * t
    return out


def beat(image: Field, grid: Grid, anatomy: Anatomy, mobility: Mobility, workers: int) -> None:
    """Blur the heart as it moves along its long axis, in place: the mean of three copies half of `motion_mm` apart.

    Where only a share of the motion reaches, that share of the blur does.
    """
    box = mobility.box(grid)
    inside = image[box]
    if inside.size == 0:
        return
    mm = 0.5 * anatomy.patient.scanner.motion_mm
    shift = [mm * float(a) / s for a, s in zip(anatomy.marks.axis[::-1], grid.spacing, strict=True)]
    pz, py, px = (int(np.ceil(abs(s))) + 1 for s in shift)
    still = np.pad(inside, [(pz, pz), (py, py), (px, px)], mode="edge")
    z, y, x = grid.z[box[0]], grid.y[box[1]], grid.x[box[2]]

    def work(start: int, stop: int) -> None:
        share = mobility.at(z[start:stop], y, x) * np.float32(1 / 3)
        source = still[start : stop + 2 * pz]
        blur = inside[start:stop] * np.float32(-2)
        for sign in (-1, 1):
            part = _interpolated(source, sign * shift[0], 0, pz)
            blur += _interpolated(_interpolated(part, sign * shift[1], 1, py), sign * shift[2], 2, px)
        blur *= share
        inside[start:stop] += blur

    over_chunks(work, len(inside), CHUNK, workers)
