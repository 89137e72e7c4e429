"""Pairs of image and label map, read from the folders that other stages wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from auricle.core.anatomy import ID, KEYS, LABEL_COUNT
from auricle.core.arrays import count_values
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import finished
from auricle.data import augment
from auricle.data.augment import AugmentConfig
from auricle.data.nifti import read_nifti
from auricle.data.preprocess import ModelGrid, to_network

MEMORY_BYTES = 4 * 2**30
"""Pairs are kept in memory up to this size and read again and again beyond it."""

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """The model grid a folder was made for."""

    size: Triple
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Item:
    """Where one pair lies."""

    id: str
    patient: str
    image: Path
    label: Path
    affine: Any
    """Voxel index of the model grid to RAS mm, (4, 4)."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What is known about the patient and the scan."""


class Pairs:
    """A sequence of (image HU, label map) tensors, both (X, Y, Z); images may be wider than the model grid."""

    def __init__(self, items: Sequence[Item], grid: Grid) -> None:
        self.items, self.grid = list(items), grid
        # By file, not by place: a case that is visited more often than others stands in the list more than once.
        self._cache: dict[Path, tuple[Tensor, Tensor]] = {}
        self._room = MEMORY_BYTES
        self._anchors: dict[Path, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.items[index]
        if item.image in self._cache:
            return self._cache[item.image]
        image, label = _read(item.image), _read(item.label)
        pair = torch.from_numpy(image.astype(np.int16, copy=False)), torch.from_numpy(label.astype(np.uint8, copy=False))
        self._room -= image.nbytes + label.nbytes
        if self._room > 0:
            self._cache[item.image] = pair
        return pair

    def __add__(self, other: "Pairs") -> "Pairs":
        if self.grid != other.grid:
            raise InputError(f"pairs on {self.grid} and on {other.grid} cannot be mixed")
        return Pairs(self.items + other.items, self.grid)

    def _anchors_of(self, index: int, label: Tensor) -> list[Tensor]:
        path = self.items[index].image
        if path not in self._anchors:
            self._anchors[path] = augment.anchors(label)
        return self._anchors[path]

    def take(self, indices: Sequence[int]) -> "Pairs":
        """The pairs at `indices`."""
        return Pairs([self.items[i] for i in indices], self.grid)

    def structures(self) -> tuple[str, ...]:
        """Keys of the structures that any label map shows."""
        counts = np.zeros(LABEL_COUNT, np.int64)
        for path in dict.fromkeys(i.label for i in self.items):
            counts += count_values(_read(path).astype(np.uint8, copy=False), LABEL_COUNT)
        return tuple(k for k in KEYS if counts[ID[k]])

    def plain(self, index: int) -> tuple[Tensor, Tensor]:
        """Pair `index` on the model grid: network units (1, 1, X, Y, Z) and label (1, X, Y, Z)."""
        image, label = augment.plain(*self[index], self.grid.size)
        assert label is not None
        return network_units(image)[None, None], label[None].clone()

    def hu(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Pair `index` on the model grid: HU, float32, and label map, uint8, both (X, Y, Z)."""
        image, label = augment.plain(*self[index], self.grid.size)
        assert label is not None
        return image.numpy(), np.ascontiguousarray(label.numpy())

    def batch(
        self, indices: Sequence[int], config: AugmentConfig, generator: torch.Generator, patch: Triple | None = None, focus: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Augmented pairs: network units (N, 1, ..) and labels (N, ..) of the model grid's size, or of `patch` voxels.

        A share `focus` of the patches is centered on a voxel of a structure chosen at random, the others anywhere. Pairs without a margin are
        continued beyond their edges and not looked at from afar.
        """
        size = patch or self.grid.size
        extent = tuple(n * s for n, s in zip(self.grid.size, self.grid.spacing, strict=True))
        images, labels = [], []
        for index in indices:
            image, label = self[index]
            # A generated pair knows no surroundings: a view that reaches beyond its edges would show walls of air, which no scan has.
            bare = tuple(label.shape) == self.grid.size
            params = augment.draw(replace(config, far_probability=0.0) if bare else config, (extent[0], extent[1], extent[2]), generator)
            params = replace(params, continue_edges=bare)
            if patch is not None:
                points = self._anchors_of(index, label) if focus else []
                params = augment.move_to_patch(
                    params, tuple(label.shape), points, self.grid.size, patch, self.grid.spacing, focus, generator
                )
            moved, picked = augment.apply(params, image, label, size, self.grid.spacing)
            assert picked is not None
            images.append(network_units(moved))
            labels.append(picked)
        return torch.stack(images)[:, None].contiguous(memory_format=torch.channels_last_3d), torch.stack(labels)


def check_grid(size: Triple, multiple: int, patch: Triple | None, *, padded: bool = False) -> None:
    """Raise `InputError` for a model grid that a network cannot halve as often as it wants to, or that is smaller than a patch.

    `padded`: whole grids pass in windows of `patch` voxels where there is one, so that they need not be multiples.
    """
    if patch is not None and any(p > n for p, n in zip(patch, size, strict=True)):
        raise InputError(f"--patch {patch} does not fit into the model grid of {size} voxels: make it smaller")
    if any(n % multiple for n in size) and not (padded and patch is not None):
        way_out = "choose fewer --network.channels" + (", or train on a --patch" if padded else "")
        raise InputError(f"the model grid of {size} voxels is no multiple of {multiple}, as this network needs: {way_out}")


def check_focus(focus: float) -> None:
    """Raise `ValueError` for a share of focused patches outside 0..1."""
    if not 0.0 <= focus <= 1.0:
        raise ValueError(f"--focus is a share, 0..1, not {focus}")


def network_units(hu: Tensor) -> Tensor:
    """HU tensor to network units, by the one scaling of `data.preprocess`."""
    return torch.from_numpy(to_network(hu.numpy()))


def cohort_pairs(folder: Path, *splits: Literal["train", "validation", "test"]) -> Pairs:
    """The pairs of a prepared cohort that belong to `splits`."""
    finished(folder, "cohort")
    table: dict[str, Any] = read_json(folder / "cases.json")
    items = []
    for case in table["cases"]:
        if case["split"] in splits:
            image, label = (folder / kind / f"{case['id']}.npy" for kind in ("images", "labels"))
            affine = np.array(case["affine"])
            affine[:3, 3] = (affine @ [*table["margin"], 1.0])[:3]
            items.append(Item(case["id"], case["patient"], image, label, affine, case["attributes"]))
    return Pairs(items, _grid(table))


def generated_pairs(folder: Path) -> Pairs:
    """The pairs that `auricle generate` wrote to `folder`."""
    finished(folder, "generate")
    table: dict[str, Any] = read_json(folder / "pairs.json")
    grid = _grid(table)
    affine = ModelGrid(grid.size, grid.spacing).affine(np.zeros(3))
    ids = [p["id"] for p in table["pairs"]]
    return Pairs([Item(i, i, folder / "images" / f"{i}.nii.gz", folder / "labels" / f"{i}.nii.gz", affine) for i in ids], grid)


def _grid(table: dict[str, Any]) -> Grid:
    (x, y, z), (sx, sy, sz) = table["size"], table["spacing"]
    return Grid((x, y, z), (sx, sy, sz))


def _read(path: Path) -> np.ndarray[Any, Any]:
    if path.suffix == ".npy":
        try:
            array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): remove the folder {path.parent.parent} and run its stage again") from None
        return array
    return np.asarray(read_nifti(path)[0])
