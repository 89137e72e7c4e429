"""What a run folder holds, read stage by stage; a stage that has not run yet reads as None or empty."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import read_metrics
from auricle.data.labels import read_label
from auricle.data.nifti import read_nifti
from auricle.study.arms import FEW_ARMS

Image = NDArray[Any]
Labels = NDArray[np.uint8]

SINGLE_STAGES = ("cohort", "autoencoder", "refiner", "diffusion", "generate", "pretrain", "varied", "first-varied", "first-real")
ARM_STAGES = ("finetune", "evaluate")


@dataclass(frozen=True)
class Pair:
    """An image and its label map on the model grid, both [x, y, z]."""

    id: str
    image: Image
    """HU."""
    label: Labels


class RunFolder:
    """A folder that `auricle run` wrote, whole or in part; raises `InputError` where it holds no stage at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not self.stages():
            raise InputError(f"{root} holds no stage of a run: give the folder that `auricle run --out` wrote")
        self.run: dict[str, Any] = self._json("run.json") or {}
        self.cohort: dict[str, Any] | None = self._json("cohort/cases.json")
        self.assessment: dict[str, Any] | None = self._json("autoencoder/assessment.json")
        self.generated: dict[str, Any] | None = self._json("generate/pairs.json")
        self.arms: dict[str, dict[str, Any]] = {}
        for arm in self.arm_names("evaluate"):
            summary = self._json(f"evaluate/{arm}/summary.json")
            if summary is not None:
                self.arms[arm] = summary

    def stages(self) -> list[str]:
        """Stages that have begun, in the order they run: ``cohort``, .., ``finetune/ARM``, ``evaluate/ARM``."""
        names = [*SINGLE_STAGES, *(f"{stage}/{arm}" for stage in ARM_STAGES for arm in self.arm_names(stage))]
        return [n for n in names if (self.root / n).is_dir()]

    def arm_names(self, stage: str) -> list[str]:
        """Arms with a folder in `stage`, the known ones first."""
        folder = self.root / stage
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []
        return [a for a in FEW_ARMS if a in found] + [a for a in found if a not in FEW_ARMS]

    def config(self, stage: str) -> dict[str, Any]:
        """config.json of a stage; empty where there is none."""
        return self._json(f"{stage}/config.json") or {}

    def done(self, stage: str) -> dict[str, Any]:
        """done.json of a stage; empty where it has not finished."""
        return self._json(f"{stage}/done.json") or {}

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """Records of a stage's training; empty where it has none."""
        return read_metrics(self.root / stage)

    def case_ids(self, split: str) -> list[str]:
        """Ids of a split's cases, in the cohort's order."""
        return [c["id"] for c in (self.cohort or {}).get("cases", []) if c["split"] == split]

    def case(self, name: str) -> Pair:
        """A case of the cohort, without the margin; raises `InputError` where its arrays cannot be read."""
        return Pair(name, self._crop("images", name), self._crop("labels", name))

    def case_label(self, name: str) -> Labels:
        """A cohort case's label map, without the margin."""
        return self._crop("labels", name)

    def generated_pair(self, name: str) -> Pair:
        """A generated pair."""
        image, _, _ = read_nifti(self.root / "generate" / "images" / f"{name}.nii.gz")
        label, _, _ = read_label(self.root / "generate" / "labels" / f"{name}.nii.gz")
        return Pair(name, image, label)

    def reconstructions(self) -> tuple[dict[str, Any], NDArray[np.int16]] | None:
        """How well pre-training restores hidden blocks, and examples (image, 3, X, Y, Z) in HU: whole, as seen, as restored. None without them."""
        facts, path = self._json("pretrain/reconstruction.json"), self.root / "pretrain" / "examples.npy"
        if facts is None or not path.exists():
            return None
        try:
            examples: NDArray[np.int16] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): remove {path.parent} and run the same command again") from None
        return facts, examples

    def prediction(self, arm: str, name: str) -> Labels | None:
        """An arm's prediction of a test case; None where it was not kept."""
        path = self.root / "evaluate" / arm / "predictions" / f"{name}.nii.gz"
        return read_label(path)[0] if path.exists() else None

    def dice_by_case(self, arm: str) -> dict[str, NDArray[np.float64]]:
        """Case to its Dice of every structure in the order of `KEYS`, NaN where there is none; from ``cases.csv``."""
        path = self.root / "evaluate" / arm / "cases.csv"
        table: dict[str, NDArray[np.float64]] = {}
        if not path.exists():
            return table
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                try:
                    place, value = KEYS.index(row["structure"]), float(row["dice"] or math.nan)
                    table.setdefault(row["case"], np.full(len(KEYS), math.nan))[place] = value
                except (KeyError, TypeError, ValueError):
                    raise InputError(f"{path} is damaged: remove that folder and run `auricle evaluate` again") from None
        return table

    def _crop(self, kind: str, name: str) -> NDArray[Any]:
        assert self.cohort is not None
        path = self.root / "cohort" / kind / f"{name}.npy"
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): remove {self.root / 'cohort'} and run the same command again") from None
        box = tuple(slice(m, m + n) for m, n in zip(self.cohort["margin"], self.cohort["size"], strict=True))
        return np.asarray(array[box])

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.root / name
        if not path.exists():
            return None
        try:
            value = read_json(path)
        except ValueError as error:
            raise InputError(f"{error}; remove the folder of its stage and run the same command again") from None
        if not isinstance(value, dict):
            raise InputError(f"{path} does not hold what its stage writes: remove the folder of that stage and run the same command again")
        return value
