"""A small run folder, written as the stages write theirs, with numbers that can be checked by hand."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from auricle.core.anatomy import KEYS
from auricle.report import figures
from auricle.report.page import write_report

SIZE, MARGIN, SPACING = 16, 2, (2.5, 2.0, 4.0)
SCRIPT = "<script>alert(1)</script>"
ARMS = {"baseline": 0.80, "medical-diffusion": 0.78, "ours": 0.83}
TESTS = ("test-0", "test-1", "test-2")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def label_map(thickness: int) -> np.ndarray:
    """Structure k fills the slab of x = k, `thickness` voxels of y and four of z."""
    label = np.zeros((SIZE,) * 3, np.uint8)
    for k in range(1, 9):
        label[k, 2 : 2 + thickness, 6:10] = k
    return label


def image_of(label: np.ndarray) -> np.ndarray:
    return (label.astype(np.int16) * 60 - 100).astype(np.int16)


def nifti(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), path)


def write_cohort(root: Path, source: str = "virtual patient", ids: tuple[str, ...] = TESTS) -> None:
    cases = []
    named = [("train-0", "train", 4), ("train-1", "train", 6), ("val-0", "validation", 4), *((i, "test", 5) for i in ids)]
    for name, split, thickness in named:
        label = label_map(thickness)
        # The margin holds structures too: volumes that count it are wrong.
        wide = np.pad(label, MARGIN, constant_values=8)
        for kind, array in (("images", image_of(wide)), ("labels", wide)):
            (root / "cohort" / kind).mkdir(parents=True, exist_ok=True)
            np.save(root / "cohort" / kind / f"{name}.npy", array)
        cases.append({"id": name, "patient": name, "split": split, "affine": np.eye(4).tolist(),
                      "attributes": {"source": source}, "structures": list(KEYS)})  # fmt: skip
    write(root / "cohort/cases.json", {"size": [SIZE] * 3, "spacing": SPACING, "margin": [MARGIN] * 3, "cases": cases})
    write_stage(root, "cohort", 10.0)


def write_stage(root: Path, stage: str, seconds: float, **done: Any) -> None:
    name, _, arm = stage.partition("/")
    config = {"seed": 0, "generated": "x" if arm == "ours" else None}
    write(root / stage / "config.json", {"stage": name, "config": config, "inputs": {}})
    write(root / stage / "done.json", {"fingerprint": "f", "seconds": seconds, **done})


def write_generated(root: Path) -> None:
    pairs = []
    for i, thickness in enumerate((5, 10)):
        name = f"generated-0-{i:04d}"
        label = label_map(thickness)
        nifti(root / f"generate/images/{name}.nii.gz", image_of(label))
        nifti(root / f"generate/labels/{name}.nii.gz", label)
        volume = thickness * 4 * 0.02
        pairs.append({"id": name, "complete": True, "speck_share": 0.0, "volumes_ml": dict.fromkeys(KEYS, volume)})
    write(root / "generate/pairs.json", {"size": [SIZE] * 3, "spacing": SPACING, "seed": 0, "sampler": "heun", "steps": 20,
                                         "complete_share": 0.75, "speck_share": 0.002, "pairs": pairs})  # fmt: skip
    write_stage(root, "generate", 4.0)


def write_arm(root: Path, arm: str, level: float, ids: tuple[str, ...] = TESTS) -> None:
    """Case c has Dice level + 0.02 c in every structure but LAA, where it is 0.2 lower; the baseline misses one LAA."""
    rows = []
    for c, name in enumerate(ids):
        nifti(root / f"evaluate/{arm}/predictions/{name}.nii.gz", label_map(6))
        for key in KEYS:
            dice = level + 0.02 * c - (0.2 if key == "LAA" else 0.0)
            rows.append({"case": name, "structure": key, "dice": round(dice, 6), "hd95_mm": 3.0, "nsd": 0.9,
                         "volume_error_ml": 0.0, "missed": 0})  # fmt: skip
    with (root / f"evaluate/{arm}/cases.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    dice = {k: float(np.mean([r["dice"] for r in rows if r["structure"] == k])) for k in KEYS}
    same = {"mean": 3.0, **dict.fromkeys(KEYS, 3.0)}
    write(root / f"evaluate/{arm}/summary.json", {
        "cases": len(ids), "dice": {"mean": float(np.mean(list(dice.values()))), **dice}, "hd95_mm": {**same, "LAA": None},
        "nsd": same, "missed": {**dict.fromkeys(KEYS, 0), "LAA": int(arm == "baseline")},
    })  # fmt: skip
    write_stage(root, f"evaluate/{arm}", 1.0)
    write_stage(root, f"finetune/{arm}", 20.0, labeled=2, generated=6 if arm == "ours" else 0)
    log(root, f"finetune/{arm}", train_loss=1.0, validation_dice=0.5, validation_dice_LAA=0.3)


def log(root: Path, stage: str, **values: float) -> None:
    lines = [json.dumps({"step": s, **{k: v + 0.01 * s for k, v in values.items()}}) for s in range(1, 5)]
    (root / stage).mkdir(parents=True, exist_ok=True)
    (root / stage / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_autoencoder(root: Path) -> None:
    write(root / "autoencoder/assessment.json", {
        "cases": 3, "label_dice": {"mean": 0.95, **dict.fromkeys(KEYS, 0.95), "LAA": 0.88}, "impossible_boundary_share": 0.01,
        "speck_share": 0.001, "image_rmse_hu": 42.5,
    })  # fmt: skip
    write_stage(root, "autoencoder", 30.5)
    log(root, "autoencoder", train_loss=1.0, validation_label_dice=0.4)


@pytest.fixture
def fake() -> ModuleType:
    """The functions above, to change a run folder with."""
    return sys.modules[__name__]


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together but not rendered, which takes most of a report's time; `written` renders them."""
    monkeypatch.setattr(figures, "png", lambda figure: repr(figure.get_size_inches()).encode())


@pytest.fixture
def partial(tmp_path: Path, coarse: None) -> Path:
    """A run that got as far as the autoencoder."""
    return write_partial(tmp_path)


@pytest.fixture
def whole(tmp_path: Path, coarse: None) -> Path:
    """A run with every stage."""
    return write_whole(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every stage and its report, not to be changed."""
    root = write_whole(tmp_path_factory.mktemp("run"))
    write_report(root, 3.25)
    return root


def write_partial(root: Path) -> Path:
    write_cohort(root)
    write_autoencoder(root)
    return root


def write_whole(partial: Path) -> Path:
    write_partial(partial)
    write_generated(partial)
    for stage in ("diffusion", "pretrain"):
        write_stage(partial, stage, 5.0)
        log(partial, stage, train_loss=1.0, validation_loss=1.1)
    write(partial / "pretrain/reconstruction.json", {"images": 4, "hidden_rmse_hu": 123.0, "seen_rmse_hu": 17.0})
    np.save(partial / "pretrain/examples.npy", np.zeros((2, 3, SIZE, SIZE, SIZE), np.int16))
    for arm, level in ARMS.items():
        write_arm(partial, arm, level)
    write(partial / "run.json", {"recipe": "demo", "seed": 7, "version": "0.1.0", "command": ["auricle", "run", "demo"],
                                 "started": "2030-01-01T00:00:00", "machine": {"cpu": "a processor", "cores": 2}})  # fmt: skip
    return partial
