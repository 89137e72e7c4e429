"""Our baseline beside nnU-Net v2 and MONAI's DynUNet: the same training cases, the same time, the same machine.

    python -m venv NNUNET && NNUNET/bin/pip install 'torch>=2.10,<2.14' nnunetv2
    python -m benchmarks.segmentation runs/study/cohort --nnunet NNUNET/bin/python [--minutes 10] [--out docs/results]

COHORT is prepared by `auricle study` or `auricle cohort`. Each contender trains for so many minutes of wall time on the same labeled cases, with
everything else as its makers have it; DynUNet, which comes without a trainer, gets ours. Then each segments the cohort's test cases and scans
of 256 x 256 x 160 voxels of 0.75 mm, from a file in memory to a label map on the scan's grid. Every job runs in a process of its own.
`--quick` says whether everything works.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core import progress
from auricle.core.anatomy import KEYS
from auricle.core.files import read_json, write_json
from benchmarks.phantom_page import arguments, publish, table

NAMES = {"ours": "auricle, baseline", "dynunet": "MONAI DynUNet, our trainer", "nnunet": "nnU-Net v2", "nnunet-fast": "nnU-Net v2, no mirroring"}
TRAINED = ("ours", "dynunet", "nnunet")
FINE_SIZE, FINE_MM, FINE_SEED = (256, 256, 160), 0.75, 4711
DYNUNET_CHANNELS = (32, 64, 128, 256, 320)
Result = dict[str, Any]


def recipe_stage(cohort: Path, steps: int, seed: int) -> Any:
    """Fine-tuning as the study's baseline has it, with so many steps."""
    from auricle import recipes

    stage = recipes.study().finetune
    fit = replace(stage.fit, steps=steps, validate_every=max(1, steps // 10))
    return replace(stage, cohort=cohort, hold_out="validation", fit=fit, seed=seed)


def dynunet() -> Any:
    """MONAI's network in the shape that nnU-Net plans for patches of this size."""
    from monai.networks.nets import DynUNet

    class Saved(DynUNet):  # type: ignore[misc]
        """Its blocks are registered twice, which safetensors refuses to write."""

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("skip_layers.")}

        def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict(state, strict=False, assign=assign)

    depth = len(DYNUNET_CHANNELS)
    return Saved(3, 1, 9, [3] * depth, [1] + [2] * (depth - 1), [2] * (depth - 1), filters=list(DYNUNET_CHANNELS), res_block=False)


def our_network() -> Any:
    """Our segmenter as the study's baseline has it."""
    from auricle import recipes
    from auricle.models.segmenter import Segmenter

    return Segmenter(recipes.study().finetune.network, outputs=9)


def train(asked: Result) -> Result:
    """Train on the fold for so many seconds: the pace of a few steps says how many fit."""
    import torch

    from auricle.core.runs import Run
    from auricle.losses.segmentation import dice_cross_entropy
    from auricle.stages import finetune
    from auricle.stages.weights import save_model
    from auricle.training.loop import Plan, fit

    fold, out = Path(asked["fold"]), Path(asked["out"])

    def once(steps: int, folder: Path) -> None:
        stage = recipe_stage(fold, steps, asked["seed"])
        if asked["contender"] == "ours":
            finetune.run(stage, folder)
            return
        pairs, held = finetune.labeled_pairs(stage)
        torch.manual_seed(stage.seed)
        network, run = dynunet(), Run(folder, "finetune", stage, {})
        run.begin()

        def loss(net: Any, indices: list[int], generator: torch.Generator) -> dict[str, torch.Tensor]:
            image, label = pairs.batch(indices, stage.augment, generator)
            return {"loss": dice_cross_entropy(net(image), label)}

        # Its usual optimizer: Muon was chosen for our networks.
        plan = Plan(len(pairs), loss, lambda net: finetune.validate(net, held, None), "dice", "max")
        facts = fit(run, network, plan, replace(stage.fit, optimizer="adamw", learning_rate=1e-3), stage.hardware, stage.seed, "dynunet")
        save_model(run, network, {"grid": pairs.grid, "training": facts})
        run.finish()

    def took(steps: int, folder: Path) -> float:
        start = time.perf_counter()
        once(steps, folder)
        return time.perf_counter() - start

    once(1, out / "warm")
    # What a run takes beside its steps, ten validations included, cancels out.
    pace = (took(30, out / "pace") - took(10, out / "short")) / 20
    steps = max(2, math.floor(asked["seconds"] / pace))
    start = time.perf_counter()
    once(steps, out / "model")
    network = our_network() if asked["contender"] == "ours" else dynunet()
    return {"steps": steps, "seconds": time.perf_counter() - start, "parameters": sum(p.numel() for p in network.parameters())}


def predict(asked: Result) -> Result:
    """Label maps of the scans, on their own grids; seconds of each, without reading and writing files."""
    import torch

    from auricle.data.reading import read_scan
    from auricle.stages import finetune, segment
    from auricle.stages.finetune import Trained
    from auricle.stages.pairs import Grid
    from auricle.stages.weights import for_inference, read_model

    folder = Path(asked["model"]) / "model"
    if asked["contender"] == "ours":
        trained = finetune.load(folder)
    else:
        facts, state, _ = read_model(folder, "finetune")
        network = dynunet()
        network.load_state_dict(state)
        grid = Grid(tuple(facts["grid"]["size"]), tuple(facts["grid"]["spacing"]))
        trained = Trained(for_inference(network), grid, grid.size, False)
    seconds, out = [], Path(asked["out"])
    out.mkdir(parents=True, exist_ok=True)
    for scan in asked["scans"]:
        case, _ = read_scan(Path(scan))
        start = time.perf_counter()
        label = segment.segment(trained, case).case.label
        seconds.append(time.perf_counter() - start)
        np.save(out / f"{Path(scan).name.removesuffix('.nii.gz')}.npy", label)
    return {"seconds": seconds, "threads": torch.get_num_threads()}


def network(asked: Result) -> Result:
    """One training step, or one forward pass, on random values; its peak memory above the one before."""
    import torch

    from auricle.core.memory import peak_gib
    from auricle.losses.segmentation import dice_cross_entropy
    from benchmarks.segmentation_nnunet import timed

    net = our_network() if asked["contender"] == "ours" else dynunet()
    net.to(memory_format=torch.channels_last_3d)
    parameters = sum(p.numel() for p in net.parameters())
    before = peak_gib()
    image = (torch.rand(asked["batch"], 1, *asked["size"]) * 2 - 1).contiguous(memory_format=torch.channels_last_3d)
    if asked["job"] == "forward":
        with torch.no_grad():
            return {"seconds": timed(lambda: net.eval()(image)), "gib": peak_gib() - before, "parameters": parameters}
    label = torch.randint(0, 9, (asked["batch"], *asked["size"])).to(torch.uint8)
    optimizer = torch.optim.AdamW(net.parameters())

    def step() -> None:
        dice_cross_entropy(net(image), label).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"seconds": timed(step), "gib": peak_gib() - before, "parameters": parameters}


def job(asked: Result, nnunet: str, log: Path) -> Result:
    """The result of a process of its own; ``failed`` says why there is none."""
    theirs = asked["contender"].startswith("nnunet")
    script = [sys.executable, "-m", "benchmarks.segmentation", "--one"]
    if theirs:
        script = [nnunet, str(Path(__file__).with_name("segmentation_nnunet.py"))]
    done = subprocess.run([*script, json.dumps(asked)], capture_output=True, text=True, check=False)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        reason = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
        return {"failed": "out of memory" if done.returncode in (-9, 137) or "memory" in reason else reason[:100].replace("|", "/")}
    found: Result = json.loads(last)
    return found


def export(cohort: Path, fold: Path, folder: Path, tests: int, fine: int) -> dict[str, list[str]]:
    """Training cases as an nnU-Net data set, with the margin that our augmentation sees too; test scans and their references as files."""
    from auricle.data.nifti import write_nifti
    from auricle.phantom import virtual_patient
    from auricle.stages.pairs import cohort_pairs

    raw = folder / "raw" / "Dataset001_Heart"
    cases = {c["id"]: c for c in read_json(fold / "cases.json")["cases"]}
    names = [n for n, c in cases.items() if c["split"] in ("train", "validation")]
    for name in names:
        affine = np.array(cases[name]["affine"])
        write_nifti(raw / "imagesTr" / f"{name}_0000.nii.gz", np.load(fold / "images" / f"{name}.npy"), affine, dtype=np.int16)
        write_nifti(raw / "labelsTr" / f"{name}.nii.gz", np.load(fold / "labels" / f"{name}.npy"), affine, dtype=np.uint8)
    labels = {"background": 0, **{s: i + 1 for i, s in enumerate(KEYS)}}
    write_json(raw / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(names), "file_ending": ".nii.gz"})
    scans: dict[str, list[str]] = {"test": [], "fine": []}
    pairs = cohort_pairs(cohort, "test")
    for i in range(min(tests, len(pairs))):
        image, label = pairs.hu(i)
        scans["test"].append(_scan(folder, pairs.items[i].id, image, label, pairs.items[i].affine, write_nifti))
    for i in range(fine):
        case = virtual_patient(FINE_SEED, i, FINE_SIZE, (FINE_MM,) * 3)
        scans["fine"].append(_scan(folder, case.id, case.image, case.label, case.affine, write_nifti))
    return scans


def _scan(folder: Path, name: str, image: Any, label: Any, affine: Any, write: Any) -> str:
    path = folder / "scans" / f"{name}.nii.gz"
    write(path, np.rint(image).astype(np.int16), affine, dtype=np.int16)
    (folder / "references").mkdir(exist_ok=True)
    np.save(folder / "references" / f"{name}.npy", label)
    return str(path)


def dice_of(folder: Path, out: Path, scans: list[str]) -> dict[str, float | None]:
    """Mean Dice of each structure and over them."""
    from auricle.metrics import overlap

    names = [Path(s).name.removesuffix(".nii.gz") for s in scans]
    return overlap.average([overlap.dice(np.load(out / f"{n}.npy"), np.load(folder / "references" / f"{n}.npy")) for n in names])


def compare(o: argparse.Namespace, folder: Path) -> str:
    """Train, segment and measure; the page's text."""
    from auricle.stages import fold as folds
    from auricle.stages.fold import FoldStage

    fold = folds.run(FoldStage(o.cohort, o.cases, seed=o.seed), folder / "fold")
    scans = export(o.cohort, fold, folder / "nnunet", o.tests, o.fine)
    where = folder / "nnunet"
    found: dict[str, Result] = {}
    planned = job({"job": "prepare", "contender": "nnunet", "folder": str(where)}, o.nnunet, folder / "logs" / "prepare")
    progress.report(f"nnU-Net planned {planned}")
    for who in o.contenders:
        out = folder / who
        common = {"contender": who, "folder": str(where), "seed": o.seed}
        asked = {**common, "job": "train", "seconds": 60 * o.minutes, "fold": str(fold), "out": str(out)}
        trained = job(asked, o.nnunet, folder / "logs" / f"train-{who}")
        progress.report(f"{NAMES[who]} trained: {trained}")
        found[who] = {"train": trained}
        for variant in (who, "nnunet-fast") if who == "nnunet" else (who,):
            found.setdefault(variant, {"train": trained})
            for kind, paths in scans.items():
                target = folder / "labels" / variant / kind
                model = trained.get("folder", str(out))
                asked = {**common, "job": "predict", "model": model, "scans": paths, "out": str(target), "mirror": variant == "nnunet"}
                result = job(asked, o.nnunet, folder / "logs" / f"predict-{variant}-{kind}")
                if "failed" not in result:
                    result["dice"] = dice_of(where, target, paths)
                found[variant][kind] = result
                progress.report(f"{NAMES[variant]}, {kind}: {result}")
        write_json(folder / "found.json", found)
    speeds = {}
    for name, size, batch in o.sizes:
        for who in o.contenders:
            asked = {"job": name, "contender": who, "folder": str(where), "size": size, "batch": batch, "seed": o.seed}
            speeds[name, who] = job(asked, o.nnunet, folder / "logs" / f"{name}-{who}")
    return text(o, planned, found, speeds)


def text(o: argparse.Namespace, planned: Result, found: dict[str, Result], speeds: dict[tuple[str, str], Result]) -> str:
    """Tables with what they need to be read."""

    def number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    quality, fine = [], []
    for who, r in found.items():
        trained, test, large = r["train"], r.get("test", {}), r.get("fine", {})
        score = test.get("dice", {})
        quality.append([NAMES[who], number(trained.get("parameters", 0) / 1e6, 2), str(trained.get("steps", trained.get("failed"))),
                        number(trained.get("seconds", 0) / 60, 1), *(number(score.get(k)) for k in ("mean", *KEYS))])  # fmt: skip
        seconds, ours = large.get("seconds"), found["ours"]["fine"].get("seconds")
        fine.append([NAMES[who], number(np.median(seconds), 1) if seconds else large.get("failed", "-"),
                     f"{np.median(seconds) / np.median(ours):.1f}" if seconds and ours else "-", number(large.get("peak_gib"), 2),
                     *(number(large.get("dice", {}).get(k)) for k in ("mean", "LAA"))])  # fmt: skip
    rows = []
    for (name, who), r in speeds.items():
        ours = speeds[name, "ours"]
        whole = [r.get("failed", "-"), "-", "-"]
        if "failed" not in r and "failed" not in ours:
            whole = [f"{r['seconds']:.2f}", f"{r['seconds'] / ours['seconds']:.1f}", f"{r['gib']:.2f}"]
        size, batch = next((s, b) for n, s, b in o.sizes if n == name)
        what = "training step" if name == "step" else "forward pass"
        rows.append([f"{what}, {batch} of {' x '.join(map(str, size))}", NAMES[who], *whole])
    return f"""{o.cases} labeled cases of a cohort of virtual patients; {o.minutes:g} minutes of training each, one seed. Ours and DynUNet hold
a tenth of the cases out to keep the best weights; nnU-Net trains on all of them. Its plan for these cases: {json.dumps(planned)}.
Its rate falls with time, so that its schedule ends with the budget. It sees mirror images in training and, unless the row says otherwise, in
prediction, as by default.

Dice of {len(next(iter(found.values()))["test"].get("seconds", []))} test cases, from file to label map:

{table(["whose", "parameters, M", "steps", "minutes", "mean", *KEYS], quality)}

Scans of {" x ".join(map(str, FINE_SIZE))} voxels of {FINE_MM} mm, to a label map on that grid; the peak is that of the whole process:

{table(["whose", "seconds a scan", "seconds / ours", "peak memory, GiB", "mean Dice", "LAA"], fine)}

The networks alone, on random values, the second of two calls; the memory is what the peak rises above that before:

{table(["job", "whose network", "seconds", "seconds / ours", "memory, GiB"], rows)}"""


def one(asked: Result) -> None:
    """Do one job and print its result as the last line."""
    from auricle.core.memory import peak_gib

    result = {"train": train, "predict": predict, "step": network, "forward": network}[asked["job"]](asked)
    print("\n" + json.dumps({**result, "peak_gib": peak_gib()}), flush=True)


def main() -> None:
    """Compare, or do one job of a comparison."""
    if sys.argv[1:2] == ["--one"]:
        one(json.loads(sys.argv[2]))
        return
    parser = arguments(__doc__)
    parser.add_argument("cohort", type=Path, help="folder of a prepared cohort")
    parser.add_argument("--nnunet", required=True, help="Python of an environment with nnunetv2")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each contender")
    parser.add_argument("--contenders", nargs="+", choices=TRAINED, default=TRAINED, help="who takes part; ours always does")
    parser.add_argument("--cases", type=int, default=16, help="labeled training cases")
    parser.add_argument("--tests", type=int, default=20, help="test cases at most")
    parser.add_argument("--fine", type=int, default=3, help="large scans")
    parser.add_argument("--work", type=Path, help="folder for what is made on the way; a temporary one otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds of training, one scan, small volumes")
    o = parser.parse_args()
    o.contenders = [who for who in TRAINED if who == "ours" or who in o.contenders]
    o.sizes = [("step", (128, 128, 128), 1), ("forward", (256, 256, 160), 1)]
    if o.quick:
        o.minutes, o.tests, o.fine, o.sizes = 0.1, 1, 1, [("step", (64, 64, 64), 1), ("forward", (64, 64, 64), 1)]
    command = f"python -m benchmarks.segmentation {o.cohort} --nnunet NNUNET/bin/python --minutes {o.minutes:g}"
    if len(o.contenders) < len(TRAINED):
        command += f" --contenders {' '.join(o.contenders)}"
    if o.work is not None:
        publish(compare(o, o.work), out=o.out, name="segmentation", title="The segmenter beside nnU-Net and DynUNet", command=command)
        return
    with tempfile.TemporaryDirectory() as scratch:
        publish(compare(o, Path(scratch)), out=o.out, name="segmentation", title="The segmenter beside nnU-Net and DynUNet", command=command)


if __name__ == "__main__":
    main()
