"""Our autoencoder and denoiser beside MONAI's: seconds, peak memory and growth on a CPU, and reconstruction at equal training time.

    python -m benchmarks.generator [--sizes 64 128] [--jobs ..] [--equal-reconstruction COHORT] [--out docs/results]

Every measurement runs in a process of its own, in float32 with as many threads as torch takes (`OMP_NUM_THREADS`): one warm-up, then the
median of three. Ours runs in channels_last_3d, the others in both layouts, of which the faster counts. `--jobs` without names and
`--equal-reconstruction` give that comparison alone; `--quick` says whether everything works. MONAI's denoisers need `pip install einops`.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.core import progress
from auricle.core.anatomy import KEYS
from auricle.core.memory import free_bytes
from benchmarks.phantom_page import arguments, publish, table

# torch is imported where it is needed: a process starts with the peak memory of the one that started it, so that one stays small.
if TYPE_CHECKING:
    from torch import Tensor

AUTOENCODERS, DENOISERS = ("ours", "monai", "maisi", "maisi-wide"), ("ours", "monai", "maisi")
JOBS = {
    "autoencoder-step": ("autoencoder, training step", AUTOENCODERS),
    "encode": ("encode a pair", AUTOENCODERS),
    "decode": ("decode a pair", AUTOENCODERS),
    "denoiser-step": ("denoiser, training step", DENOISERS),
    "denoiser-evaluation": ("denoiser, one evaluation", DENOISERS),
    "sample": ("sample a pair", (*DENOISERS, "monai-ddpm")),
}
"""What is measured, and of whom."""
CONTENDERS = {"ours": "auricle", "monai": "MONAI", "maisi": "MAISI", "maisi-wide": "MAISI, published widths", "monai-ddpm": "MONAI, DDPM"}
SAMPLING = {"ours": ", 20 steps", "monai": ", 30 steps", "maisi": ", 30 steps", "monai-ddpm": ", 1000 steps, **extrapolated from 10**"}
LAYOUTS = ("channels_last_3d", "contiguous")
PATCH, BATCH = 32, 4
"""Edge of the patches and patches a step, in training for equal time."""
TRAININGS = ("ours", "monai")

Result = dict[str, Any]


def child(text: str) -> None:
    """Do one measurement or training and print its result, or why there is none, as a line of JSON."""
    asked = json.loads(text)
    try:
        from benchmarks import generator_peers as peers

        # Allocations fail rather than drive the machine into swap.
        resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * free_bytes()),) * 2)
        training = asked.pop("training", None)
        work = peers.Work(**asked)
        result = peers.measure(work) if training is None else train(work, **training)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].replace("|", "/")
        memory = isinstance(error, MemoryError) or any(word in str(error) for word in ("memory", "alloc"))
        reason = "does not import" if isinstance(error, ImportError) else "failed"
        result = {"failed": "out of memory" if memory else f"{reason}: {first[:100]}"}
    print("\n" + json.dumps(result), flush=True)


def measure(asked: Result, limit: float | None = None) -> Result:
    """The result of a process of its own; ``failed`` says why there is none. `wall` is its time, imports included."""
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.generator", "--one", json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "slower than the other layout"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        return {"failed": "out of memory (killed)" if done.returncode in (-9, 137) else f"ended with code {done.returncode}"}
    return {**json.loads(last), "layout": asked["layout"], "wall": time.monotonic() - start}


def fastest(asked: Result) -> Result:
    """The faster of both memory layouts; the second is stopped once it has taken longer than the first."""
    if asked["contender"] == "ours":
        return measure({**asked, "layout": LAYOUTS[0]})
    first = measure({**asked, "layout": LAYOUTS[0]})
    second = measure({**asked, "layout": LAYOUTS[1]}, None if "failed" in first else 1.05 * first["wall"] + 5)
    return min((first, second), key=lambda r: r.get("seconds", math.inf))


def results(o: argparse.Namespace) -> Iterator[tuple[str, int, str, Result]]:
    """Job, size, contender and result of every measurement."""
    runs = [(job, size, who) for job in o.jobs for size in o.sizes for who in JOBS[job][1] if who not in o.without]
    for job, size, who in progress.track(runs, "measurements", len(runs)):
        asked = {"job": job, "contender": who, "size": size, "batch": o.batch, "repeats": o.repeats, "checkpoint": o.checkpoint, "seed": o.seed}
        yield job, size, who, fastest(asked)


def ratio(value: Result, reference: Result | None, key: str) -> str:
    """How many times the reference's; a dash where one of the two is missing or too small to tell."""
    if reference is None or "failed" in value or "failed" in reference or min(value[key], reference[key]) <= 0:
        return "-"
    return f"{value[key] / reference[key]:.2f}"


def comparison(found: list[tuple[str, int, str, Result]]) -> str:
    """The table of seconds and memory, each beside ours."""
    ours = {(job, size): r for job, size, who, r in found if who == "ours"}
    rows = []
    for job, size, who, r in found:
        names = [f"{JOBS[job][0]}", f"{size}^3", CONTENDERS[who] + (SAMPLING[who] if job == "sample" else "")]
        if "failed" in r:
            rows.append([*names, "-", "-", "-", r["failed"], "-", "-", "-"])
            continue
        reference = ours.get((job, size))
        rows.append([*names, r["name"], f"{r['parameters'] / 1e6:.2f}", r["layout"], f"{r['seconds']:.3g}", ratio(r, reference, "seconds"),
                     f"{r['mib']:.0f}", ratio(r, reference, "mib")])  # fmt: skip
    header = ["job", "voxels", "whose", "networks and widths", "parameters, M", "layout", "seconds", "seconds / ours", "peak memory, MiB",
              "memory / ours"]  # fmt: skip
    return table(header, rows)


def growth(found: list[tuple[str, int, str, Result]], small: int, large: int) -> str:
    """The table of what the largest size takes over the smallest."""
    at = {(job, size, who): r for job, size, who, r in found}
    rows = []
    for (job, size, who), r in at.items():
        if size == small:
            big = at[job, large, who]
            rows.append([JOBS[job][0], CONTENDERS[who], ratio(big, r, "seconds"), ratio(big, r, "mib")])
    return table(["job", "whose", f"seconds, {large}^3 / {small}^3", "memory"], rows)


def speed(o: argparse.Namespace) -> str:
    """Text and tables of time, memory and growth."""
    found = list(results(o))
    threads = next((r["threads"] for *_, r in found if "failed" not in r), "?")
    checkpointing = " with activation checkpointing" if o.checkpoint else ""
    text = f"""Float32, {threads} threads, training steps on {o.batch} pairs{checkpointing}, everything else on one; {o.repeats} repeats.
All latents have four channels at a quarter of the resolution along each axis. The memory is what the peak rises above that of libraries,
networks and inputs. Weights are random: time is compared, not quality. 20 steps of DPM-Solver++ and 30 of rectified flow are the projects' own
choices; one evaluation leaves them out. PyTorch convolves one small volume in a slow way, which our layers go around and MONAI's do not: it
counts wherever one pair is processed, and not in training steps on two or more. Published widths (maisi-wide), where they are shown, have far more
parameters than ours.

{comparison(found)}"""
    if len(o.sizes) > 1:
        small, large = min(o.sizes), max(o.sizes)
        text += f"\n\nGrowth; linear in voxels is {(large / small) ** 3:.1f}.\n\n{growth(found, small, large)}"
    return text


def train(work: Any, cohort: str, minutes: float, cases: int) -> Result:
    """Train an autoencoder for `minutes` of wall time on patches, reading included, and assess its round trip of test cases."""
    import torch

    from auricle.stages.autoencoder import assess
    from auricle.stages.pairs import cohort_pairs
    from benchmarks import generator_peers as peers

    torch.manual_seed(work.seed)
    network, name = peers.autoencoder(work.contender, work.checkpoint)
    network.to(memory_format=peers.LAYOUTS[work.layout])  # type: ignore[call-overload]
    optimizer, batches = peers.adamw(network), patches(cohort, work.seed, peers.LAYOUTS[work.layout])
    next(batches)
    start, steps = time.perf_counter(), 0
    while (share := (time.perf_counter() - start) / (60 * minutes)) < 1:
        # One cycle in time rather than in steps, so that both end at the low rate.
        for group in optimizer.param_groups:
            group["lr"] = peers.RATE * min(1.0, share / 0.05 + 0.01) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        peers.autoencoder_step(network, optimizer, *next(batches))
        steps += 1
    test = cohort_pairs(Path(cohort), "test")
    found = assess(network.eval(), test.take(range(min(cases, len(test)))))
    return {**found, "steps": steps, "parameters": peers.parameters(network), "name": name, "threads": torch.get_num_threads()}


def patches(cohort: str, seed: int, layout: Any) -> Iterator[tuple["Tensor", "Tensor", "Tensor", "Tensor"]]:
    """Image, packed label, label map and noise of the batch of every step, endlessly; the same for every network."""
    import torch

    from auricle.core.seeds import torch_generator
    from auricle.data.augment import AugmentConfig
    from auricle.data.labelcode import pack
    from auricle.stages.pairs import cohort_pairs
    from benchmarks import generator_peers as peers

    pairs, step = cohort_pairs(Path(cohort), "train"), 0
    for i in range(len(pairs)):
        pairs[i]
    edge = PATCH // 2 ** len(peers.LEVELS)
    while True:
        generator = torch_generator(seed, "step", step)
        indices = torch.randint(0, len(pairs), (BATCH,), generator=generator).tolist()
        image, label = pairs.batch(indices, AugmentConfig(), generator, (PATCH,) * 3, focus=0.5)
        noise = torch.randn((BATCH, peers.LATENT_CHANNELS, edge, edge, edge), generator=generator)
        yield image.contiguous(memory_format=layout), pack(label).contiguous(memory_format=layout), label, noise
        step += 1


def reconstruction(o: argparse.Namespace) -> str:
    """Text and table of the round trip after equal training time."""
    rows = []
    for who in progress.track(TRAININGS, "trainings", len(TRAININGS)):
        asked = {"job": "autoencoder-step", "contender": who, "size": PATCH, "batch": BATCH, "repeats": o.repeats, "seed": o.seed,
                 "checkpoint": o.checkpoint}  # fmt: skip
        layout = fastest(asked).get("layout", LAYOUTS[0])
        training = {"cohort": str(o.equal_reconstruction), "minutes": o.minutes, "cases": o.cases}
        r = measure({**asked, "layout": layout, "training": training})
        if "failed" in r:
            rows.append([CONTENDERS[who], r["failed"], *["-"] * (5 + len(KEYS))])
            continue
        dice = [r["label_dice"][k] for k in ("mean", *KEYS)]
        rows.append([CONTENDERS[who], f"{r['name']} ({r['layout']})", f"{r['parameters'] / 1e6:.2f}", str(r["steps"]),
                     f"{r['image_rmse_hu']:.0f}", f"{100 * r['impossible_boundary_share']:.3f}",
                     *("-" if d is None else f"{d:.3f}" for d in dice)])  # fmt: skip
    header = ["whose", "network", "parameters, M", "steps", "image RMSE, HU", "impossible boundary, %", "mean Dice", *KEYS]
    return f"""Round trip of {o.cases} held-out cases (at most) after {o.minutes:g} minutes of training each on the same {BATCH} patches of {PATCH}^3
voxels a step, with the same loss, AdamW and rate over time. One seed.
So short a training says who is faster off the mark, not what they reach in the end.

{table(header, rows)}"""


def main() -> None:
    """Measure, print and, where asked, write the page."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="edges of the volumes in voxels, multiples of 16")
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--without", nargs="*", choices=list(CONTENDERS), default=[], help="contenders to leave out")
    parser.add_argument("--batch", type=int, default=2, help="pairs in a training step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", action="store_true", help="activation checkpointing in every autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--equal-reconstruction", type=Path, metavar="COHORT", help="folder of a prepared cohort")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training for each network")
    parser.add_argument("--cases", type=int, default=4, help="held-out cases")
    parser.add_argument("--quick", action="store_true", help="32^3 voxels, one repeat, a tenth of the minutes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.one:
        child(o.one)
        return
    if any(size % 16 for size in o.sizes):
        parser.error("--sizes must be multiples of 16")
    if o.quick:
        o.sizes, o.repeats, o.minutes, o.cases = [32], 1, o.minutes / 10, 1
    parts: list[Callable[[argparse.Namespace], str]] = [*([speed] if o.jobs else []), *([reconstruction] if o.equal_reconstruction else [])]
    text = "\n\n".join(part(o) for part in parts)
    from auricle.core.machine import describe_machine

    print(f"{describe_machine()}, {date.today()}\n")
    text = f"torch {version('torch')}, monai {version('monai')}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}.\n\n{text}"
    command = " ".join(["python -m benchmarks.generator", *sys.argv[1:]])
    publish(text, out=o.out, name="generator-peers", title="The generator beside MONAI's", command=command)


if __name__ == "__main__":
    main()
