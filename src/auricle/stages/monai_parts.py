"""What a MONAI bundle of ours names by ``_target_``: reading, resampling, the network, the two looks, and the way back to the scan.

These are callables as `monai.transforms.Compose` and MONAI's evaluators take them, made of the functions that `auricle segment` uses.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from torch import Tensor, nn

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.data.layouts import LABEL_MARK
from auricle.data.preprocess import ModelGrid, to_network
from auricle.data.reading import read_scan
from auricle.data.volume_files import scan_ending, stem
from auricle.stages import finetune
from auricle.stages.batch import Scan, holds_dicom, named
from auricle.stages.finetune import probabilities
from auricle.stages.hearts import LEAST_PARTS
from auricle.stages.inference import look_twice, model_volume
from auricle.stages.segment import to_scan

Item = Mapping[Hashable, Any]


def network(folder: str) -> nn.Module:
    """The segmenter in `folder`, safetensors and JSON that are checked to be unaltered: network units (N, 1, X, Y, Z) to logits (N, 9, X, Y, Z)."""
    return finetune.load(Path(folder)).network


def scans(folder: str) -> list[dict[str, str]]:
    """Every volume file, .zip and folder (a DICOM series) in `folder`, as items with the key ``image``; raises `InputError` where there is none."""
    root = Path(folder)
    # What an earlier run wrote beside the scans is none.
    files = [p for p in sorted(root.iterdir()) if not p.name.startswith(".") and not LABEL_MARK.search(stem(p))] if root.is_dir() else []
    wanted = [p for p in files if (holds_dicom(p) if p.is_dir() else scan_ending(p) is not None)]
    if not wanted:
        raise InputError(f"--dataset_dir {folder}: is not a folder with volume files or folders of DICOM series")
    # MONAI names a result by the file's name up to its last dot, where folders of UIDs differ: each gets a name of its own.
    return [{"image": str(s.path), "name": s.name} for s in named([Scan(p, "") for p in wanted])]


class ReadScan:
    """Path of a scan to its HU (1, X, Y, Z) on its own grid, with every check of `auricle segment`."""

    def __init__(self, key: str = "image") -> None:
        self.key = key

    def __call__(self, data: Item) -> dict[Hashable, Any]:
        """The item with its path replaced."""
        path = str(data[self.key])
        case, notices = read_scan(Path(path))
        for text in notices:
            progress.notice(text)
        image = torch.from_numpy(case.image.astype(np.float32))[None]
        return {**data, self.key: MetaTensor(image, affine=torch.from_numpy(case.affine), meta={"filename_or_obj": path})}


class ToModelGrid:
    """HU (1, X, Y, Z) with an affine to RAS mm, as `ReadScan` or MONAI's readers give it, to network units at the model's spacing."""

    def __init__(self, size: Sequence[int], spacing: Sequence[float], key: str = "image") -> None:
        self.grid, self.key = _grid(size, spacing), key

    def __call__(self, data: Item) -> dict[Hashable, Any]:
        """The item with its image replaced, which remembers the scan's own grid."""
        scan = data[self.key]
        affine = _array(scan.affine).astype(np.float64)
        volume, placed = model_volume(_array(scan[0]), affine, self.grid)
        meta = {"filename_or_obj": scan.meta.get("filename_or_obj", ""), "scan_affine": affine, "scan_shape": np.array(scan.shape[1:])}
        image = torch.from_numpy(to_network(volume))[None]
        return {**data, self.key: MetaTensor(image, affine=torch.from_numpy(placed), meta=meta)}


class LookTwice:
    """An inferer: probabilities from windows that slide over the volume, and from a second look at the heart."""

    def __init__(self, size: Sequence[int], spacing: Sequence[float], window: Sequence[int]) -> None:
        x, y, z = window
        self.grid, self.window = _grid(size, spacing), (x, y, z)

    def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> Tensor:
        """Map (N, 1, X, Y, Z) in network units to probabilities (N, 9, X, Y, Z) on the CPU."""

        def slide(volume: NDArray[np.float32]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = probabilities(network, torch.from_numpy(volume)[None, None], self.window)[0].numpy()
            return found

        volumes = _array(inputs)[:, 0]
        return torch.stack([torch.from_numpy(look_twice(slide, volume, self.grid, outside=-1.0)) for volume in volumes])


class ToScan:
    """Probabilities (9, X, Y, Z) to the cleaned label map (1, X, Y, Z), uint8, on the grid of the scan that ``image`` was made of."""

    def __init__(
        self, size: Sequence[int], spacing: Sequence[float], key: str = "pred", image: str = "image", parts: int = LEAST_PARTS
    ) -> None:  # fmt: skip
        self.grid, self.key, self.image, self.parts = _grid(size, spacing), key, image, parts

    def __call__(self, data: Item) -> dict[Hashable, Any]:
        """The item with its prediction replaced; empty, with a notice, where no heart was found."""
        image = data[self.image]
        affine = _array(image.meta["scan_affine"]).astype(np.float64)
        x, y, z = (int(n) for n in image.meta["scan_shape"])
        # A copy: `to_scan` clears what was cleaned away.
        scores = _array(data[self.key]).astype(np.float32)
        label, found, _ = to_scan(scores, _array(image.affine).astype(np.float64), (x, y, z), affine, self.grid, self.parts)
        name = f"{data['name']}.nii.gz" if "name" in data else image.meta.get("filename_or_obj", "")
        if not found:
            progress.notice(f"{name}: no heart was found; the label map is empty")
        return {**data, self.key: MetaTensor(torch.from_numpy(label)[None], affine=torch.from_numpy(affine), meta={"filename_or_obj": name})}


def _array(value: Any) -> NDArray[Any]:
    """A tensor (MONAI's collating makes them of metadata too) or array as an array."""
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)


def _grid(size: Sequence[int], spacing: Sequence[float]) -> ModelGrid:
    (x, y, z), (a, b, c) = size, spacing
    return ModelGrid((x, y, z), (a, b, c))
