"""nnU-Net's side of `benchmarks.segmentation`, run by the Python of its own environment: nothing of auricle is imported here.

    python segmentation_nnunet.py '{"job": "train", "folder": "..", "seconds": 600}'

Prints one line of JSON. nnU-Net is used as it comes: its planner, its preprocessing, its trainer's network, loss, optimizer and augmentation, its
predictor with mirroring. Only the loop is ours, since a budget in seconds is no option of its trainer: the rate falls by its polynomial over time.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

CONFIGURATION, DATASET = "3d_fullres", 1
NAME = "Dataset001_Heart"


def trainer(folder: Path) -> Any:
    """The trainer on the planned and preprocessed data set, all cases training."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    base = folder / "preprocessed" / NAME
    plans = json.loads((base / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plans["continue_training"] = False
    description = json.loads((base / "dataset.json").read_text(encoding="utf-8"))
    return nnUNetTrainer(plans, CONFIGURATION, "all", description, torch.device("cpu"))


def prepare(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Fingerprint, plan and preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([DATASET], num_processes=2, check_dataset_integrity=True)
    plans = plan_experiments([DATASET], gpu_memory_target_in_gb=asked.get("gib"))
    preprocess([DATASET], plans or "nnUNetPlans", configurations=(CONFIGURATION,), num_processes=(2,))
    found = json.loads((folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text(encoding="utf-8"))["configurations"][CONFIGURATION]
    return {"patch": found["patch_size"], "batch": found["batch_size"], "spacing": found["spacing"],
            "features": found["architecture"]["arch_kwargs"]["features_per_stage"]}  # fmt: skip


def train(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Train for so many seconds; the first batch is made before the clock starts."""
    import torch

    torch.manual_seed(asked["seed"])
    work = trainer(folder)
    work.on_train_start()
    work.network.train()
    start, steps = time.perf_counter(), 0
    while (share := (time.perf_counter() - start) / asked["seconds"]) < 1:
        for group in work.optimizer.param_groups:
            group["lr"] = work.initial_lr * (1 - share) ** 0.9
        work.train_step(next(work.dataloader_train))
        steps += 1
    seconds = time.perf_counter() - start
    work.save_checkpoint(str(Path(work.output_folder) / "checkpoint_final.pth"))
    return {"steps": steps, "seconds": seconds, "parameters": sum(p.numel() for p in work.network.parameters()), "folder": work.output_folder_base}


def predictor(model: str, mirror: bool) -> Any:
    """nnU-Net's predictor of a trained model."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    made = nnUNetPredictor(use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    made.initialize_from_trained_model_folder(model, ("all",), "checkpoint_final.pth")
    return made


def predict(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Label maps of every scan in ``asked["scans"]``; seconds of each, without reading and writing files."""
    import numpy as np
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    made, reader = predictor(asked["model"], asked["mirror"]), SimpleITKIO()
    out = Path(asked["out"])
    out.mkdir(parents=True, exist_ok=True)
    seconds = []
    for scan in asked["scans"]:
        image, properties = reader.read_images([scan])
        start = time.perf_counter()
        label = made.predict_single_npy_array(image, properties, None, None, False)
        seconds.append(time.perf_counter() - start)
        np.save(out / f"{Path(scan).name.removesuffix('.nii.gz')}.npy", np.asarray(label).transpose(2, 1, 0).astype(np.uint8))
    return {"seconds": seconds}


def network(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """One training step, or one forward pass, of the planned network on random values; its peak memory above the one before."""
    import torch

    work = trainer(folder)
    work.initialize()
    size = tuple(asked["size"])
    before = peak_gib()
    image = torch.rand(asked["batch"], 1, *size) * 2 - 1
    if asked["job"] == "forward":
        work.network.eval()
        work.set_deep_supervision_enabled(False)
        with torch.no_grad():
            seconds = timed(lambda: work.network(image))
    else:
        label = torch.randint(0, 9, (asked["batch"], 1, *size)).float()
        scales = [1, *(2**k for k in range(1, len(work._get_deep_supervision_scales())))]
        targets = [label[:, :, ::s, ::s, ::s] for s in scales]
        work.network.train()
        seconds = timed(lambda: work.train_step({"data": image, "target": targets}))
    return {"seconds": seconds, "gib": peak_gib() - before, "parameters": sum(p.numel() for p in work.network.parameters())}


def timed(call: Any) -> float:
    """Seconds of the second call."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Do what is asked and print the result as the last line."""
    asked = json.loads(sys.argv[1])
    folder = Path(asked["folder"]).resolve()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Two cores: batches are made in the training process, where they do not fight with it. The planner wants a thread at least.
    os.environ.update({"nnUNet_n_proc_DA": "2" if asked["job"] == "prepare" else "0", "nnUNet_compile": "f"})
    jobs = {"prepare": prepare, "train": train, "predict": predict, "forward": network, "step": network}
    result = jobs[asked["job"]](folder, asked)
    print("\n" + json.dumps({**result, "peak_gib": peak_gib()}), flush=True)


if __name__ == "__main__":
    main()
