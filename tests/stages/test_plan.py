"""Estimates of whole recipes: as measured where that was done, monotone, and with advice that works."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auricle import cli, recipes
from auricle.cli import commands
from auricle.core.errors import InputError
from auricle.core.memory import free_bytes
from auricle.data.cohort import VirtualData
from auricle.models.autoencoder import AutoencoderConfig
from auricle.models.denoiser import DenoiserConfig
from auricle.models.refiner import RefinerConfig
from auricle.models.segmenter import SegmenterConfig
from auricle.stages import pairs as stored
from auricle.stages import passes
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.needs import length
from auricle.stages.plan import Estimate, duration, parse_size, plan, rows, shortage, table
from auricle.stages.pretrain import PretrainStage
from auricle.stages.refiner import RefinerStage
from auricle.study.plan import Step
from auricle.training.loop import FitConfig, Hardware

HERE = Path("nowhere")
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "paper-step.md"
UNET = SegmenterConfig(channels=(8, 16))
FIT = FitConfig(steps=40, batch_size=4, validate_every=10)
COHORT = CohortConfig(VirtualData(patients=12), size=(32, 32, 32), margin=(4, 4, 4), shares=(4, 1, 1))
TINY: list[tuple[str, Any]] = [
    ("cohort", COHORT),
    ("autoencoder", AutoencoderStage(HERE, AutoencoderConfig(channels=(8, 16), blocks=1), fit=FIT)),
    ("refiner", RefinerStage(HERE, HERE, RefinerConfig((8, 16)), fit=FIT)),
    ("diffusion", DiffusionStage(HERE, HERE, network=DenoiserConfig(channels=(8, 16), blocks=1), fit=FIT)),
    ("generate", GenerateStage(HERE, HERE, refiner=HERE, count=10, steps=5)),
    ("pretrain", PretrainStage(HERE, network=UNET, fit=FIT)),
    ("finetune", FinetuneStage(HERE, network=UNET, fit=FIT)),
    ("evaluate", EvaluateStage(HERE, HERE)),
]
BASE, RATE = 400 * 2**20, 1e10


def estimate(stage: str, memory: int | None = None, **changes: Any) -> Estimate:
    """The estimate of one stage of the tiny recipe; changes are keyed by the stage whose configuration they replace, or by fields of `stage`."""
    names = [name for name, _ in TINY]
    own = {k: v for k, v in changes.items() if k not in names}
    steps = [(n, replace(c, **(changes.get(n, {}) | (own if n == stage else {})))) for n, c in TINY]
    return plan(steps[: names.index(stage) + 1], memory, RATE, BASE)[-1]


def documented() -> dict[str, float]:
    """Peak memory in GiB of each stage, as measured at the size of the paper."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in RESULTS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return {row[0]: float(row[2]) for row in cells[2:]}


def test_peaks_at_the_size_of_the_paper_are_those_that_were_measured() -> None:
    paper, folders = recipes.paper(), {"cohort": HERE}
    one = FitConfig(steps=1, batch_size=1)
    few = [
        ("cohort", replace(paper.cohort, data=VirtualData(patients=4), shares=(2.0, 1.0, 1.0))),
        ("autoencoder", replace(paper.autoencoder, fit=one)),
        ("diffusion", replace(paper.diffusion, views=2, fit=replace(one, batch_size=paper.diffusion.fit.batch_size, ema_decay=0.99))),
        ("generate", replace(paper.generate, count=1, sampler="ddim", steps=2)),
        ("pretrain", replace(paper.pretrain, generated=None, **folders, fit=one)),
        ("finetune", replace(paper.finetune, fit=one)),
    ]
    measured = documented()
    compared = [e for e in plan(few, None, None, BASE) if e.stage in measured]
    assert {"autoencoder", "diffusion", "pretrain", "finetune"} <= {e.stage for e in compared}
    for e in compared:
        assert e.needs_gib == pytest.approx(measured[e.stage], rel=0.25), e


@pytest.mark.parametrize("data", [None, VirtualData(patients=12)])
def test_every_stage_of_a_whole_run_is_estimated_in_order(data: VirtualData | None) -> None:
    demo = recipes.demo()
    chosen = replace(demo, cohort=COHORT, pretrain=replace(demo.pretrain, network=UNET), finetune=replace(demo.finetune, network=UNET))
    steps = [(s.name, s.config) for s in recipes.steps(chosen, HERE, data, 0, Hardware())]
    found = {e.stage: e for e in plan(steps, 2**40, RATE, BASE)}
    assert list(found) == [name for name, _ in steps][1:]
    assert all(e.fits and e.seconds and e.steps and not e.advice for e in found.values())
    # Networks of the arms are the same, so what generated pairs add to memory is the pairs.
    assert found["finetune ours"].needs_gib > found["finetune baseline"].needs_gib


@pytest.mark.parametrize("stage", [name for name, _ in TINY[1:]])
def test_estimates_grow_with_the_grid(stage: str) -> None:
    small, large = estimate(stage), estimate(stage, cohort={"size": (48, 32, 32)})
    assert large.needs_gib > small.needs_gib
    assert large.steps == small.steps
    assert large.seconds is not None
    assert small.seconds is not None
    assert large.seconds > small.seconds


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "pretrain", "finetune"])
def test_estimates_grow_with_the_batch_and_the_length(stage: str) -> None:
    usual, smaller = estimate(stage), estimate(stage, fit=replace(FIT, batch_size=2))
    longer, averaged = estimate(stage, fit=replace(FIT, steps=80)), estimate(stage, fit=replace(FIT, ema_decay=0.9))
    assert smaller.needs_gib < usual.needs_gib < averaged.needs_gib
    assert (usual.seconds or 0) < (longer.seconds or 0) == pytest.approx(2 * (usual.seconds or 0), rel=0.3)


def test_patches_and_more_views_change_memory_the_expected_way() -> None:
    assert estimate("autoencoder", patch=(16, 16, 16)).needs_gib < estimate("autoencoder").needs_gib
    assert estimate("diffusion", views=400).needs_gib > estimate("diffusion").needs_gib
    assert estimate("diffusion", least_latents=40_000).needs_gib > estimate("diffusion").needs_gib


def test_tiles_take_less_memory_than_decoding_at_once() -> None:
    shape = AutoencoderConfig(channels=(16, 32), blocks=1)
    whole, tiled = (passes.decoding(shape, (512, 32, 32), tile) for tile in (None, 16))
    assert tiled.peak_bytes < whole.peak_bytes
    assert tiled.flops > whole.flops  # the halo is computed several times


def test_the_audit_of_copies_keeps_the_training_cases() -> None:
    wide = {"cohort": {"margin": (200, 200, 200)}}
    alone, audited = estimate("generate", **wide), estimate("generate", **wide, generate={"cohort": HERE})
    assert alone.needs_gib == pytest.approx(estimate("generate").needs_gib, rel=1e-6)
    assert audited.needs_gib * 2**30 > BASE + 10 * 432**3 * 3  # eight training and two validation pairs with their margin
    assert (audited.seconds or 0) > (alone.seconds or 0)


def test_time_is_work_over_rate() -> None:
    slow, fast = plan(TINY, None, 1e6, BASE), plan(TINY, None, 2e6, BASE)
    for a, b in zip(slow, fast, strict=True):
        assert a.seconds == pytest.approx(2 * (b.seconds or 0), rel=0.02)
    assert all(e.seconds is None for e in plan(TINY, None, None, BASE))


def test_samplers_are_charged_for_their_evaluations() -> None:
    euler, heun = (estimate("generate", sampler=name) for name in ("euler", "heun"))
    assert (euler.steps, heun.steps) == (5 * 3, 9 * 3)  # ten pairs are three batches of four
    assert estimate("generate", sampler="ddpm").steps == 1000 * 3
    assert estimate("generate", guidance=3.0).steps == 2 * estimate("generate").steps


def test_length_counts_as_the_fit_loop_does() -> None:
    assert length(FitConfig(steps=None, epochs=3, batch_size=2), 5) == (9, 3)
    assert length(FitConfig(steps=7, epochs=3, batch_size=2), 5) == (7, 3)
    assert length(FitConfig(steps=10, validate_every=4), 100) == (10, 3)


def test_generated_pairs_lengthen_the_epochs_by_their_ratio() -> None:
    fit = FitConfig(steps=None, epochs=1, batch_size=1)
    alone, mixed = estimate("finetune", fit=fit).steps, estimate("finetune", fit=fit, generated=HERE, ratio=3.0).steps
    assert (alone, mixed) == (7, 7 + 3 * 8)  # eight patients train, one of them is held out


def test_pairs_in_memory_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate("evaluate").needs_gib
    monkeypatch.setattr(stored, "MEMORY_BYTES", 0)
    test_split = 2 * 40**3 * 3
    assert whole - estimate("evaluate").needs_gib == pytest.approx(test_split / 2**30)


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "generate", "pretrain", "finetune"])
def test_advice_makes_the_stage_fit(stage: str) -> None:
    def batch(size: int) -> dict[str, Any]:
        return {"count": 200, "batch_size": size} if stage == "generate" else {"fit": replace(FIT, batch_size=size)}

    most = 200 if stage == "generate" else 4
    room = round((estimate(stage, **batch(most)).needs_gib + estimate(stage, **batch(1)).needs_gib) / 2 * 2**30)
    refused = estimate(stage, room, **batch(most))
    assert refused.fits is False
    flag, value = refused.advice.split()
    assert flag == ("--batch-size" if stage == "generate" else "--fit.batch-size")
    followed = estimate(stage, room, **batch(int(value)))
    assert followed.fits is True
    assert followed.advice == ""


def test_where_no_flag_helps_the_grid_is_named() -> None:
    hopeless = plan(TINY, BASE, None, BASE)
    assert all(e.fits is False and "--size" in e.advice for e in hopeless)
    assert "--network.checkpoint" in hopeless[0].advice
    assert "--patch 8 8 8" in hopeless[0].advice
    assert all(e.fits is None and e.advice == "" for e in plan(TINY, None, None, BASE))


@pytest.mark.parametrize(("text", "size"), [
    ("16GiB", 16 * 2**30), ("16 GB", 16 * 10**9), ("1.5gib", 3 * 2**29), ("800MiB", 800 * 2**20), ("2TiB", 2**41), ("17179869184", 2**34),
    (" 3 kB ", 3000), ("9007199254740993", 2**53 + 1),
])  # fmt: skip
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(str(size)) == size
    assert parse_size(f"{size} B") == size


@pytest.mark.parametrize("text", ["", "GiB", "0", "0.0GiB", "-1GiB", "16 apples", "1.5", "1e9", "inf", "nan GiB", "16G iB", "1,5GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--memory.*16GiB"):
        parse_size(text)


def test_the_table_names_every_stage_and_its_advice() -> None:
    estimates = plan(TINY, BASE + 2**20, RATE, BASE)
    lines = table(estimates).splitlines()
    assert [line.split()[0] for line in lines[1 : len(TINY)]] == [e.stage for e in estimates]
    assert lines[len(TINY)].startswith("all")
    assert lines[len(TINY) + 1 :] == [f"{e.stage}: {e.advice}" for e in estimates]
    assert json.loads(json.dumps(rows(estimates)))[0] == {
        "stage": "autoencoder", "needs_gib": estimates[0].needs_gib, "seconds": estimates[0].seconds, "steps": 40, "fits": False,
        "advice": estimates[0].advice,
    }  # fmt: skip


def test_row_35_a_run_says_beforehand_what_will_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, _ in TINY[1:]]
    told = shortage(TINY, 2**20, names, BASE)
    assert told.startswith("0.4 GiB of memory are free, less than autoencoder about 0.")
    assert [name for name in names if f" {name} about " in told] == names
    assert "`auricle plan --memory 0.4GiB`" in told
    assert shortage(TINY, 2**20, names[2:3], BASE).count(" about ") == 1
    assert shortage(TINY, 2**40, names, BASE) == shortage(TINY, 2**20, [], BASE) == ""
    assert 0 < free_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # The command tells, and goes on: an estimate is one.
    monkeypatch.setattr(commands, "free_bytes", lambda: 2**20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    steps = [Step(name, lambda config, out: out, config, tmp_path / name) for name, config in TINY]
    monkeypatch.setattr(recipes, "steps", lambda *arguments: steps)
    monkeypatch.setattr(commands, "write_report", lambda *arguments: tmp_path / "report.html")
    cli.main(["run", "--out", str(tmp_path / "r"), "--hardware.accelerator", "cpu"])
    assert "GiB of memory are free, less than autoencoder about" in capsys.readouterr().err
    # What is to run on the CPU leaves GPUs to others, in all stages.
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_durations_are_written_in_the_unit_that_suits() -> None:
    assert [duration(s) for s in (None, 0.2, 119, 150, 7200, 86400 * 21.4)] == ["", "1 s", "119 s", "2.5 min", "2 h", "21 days"]
    assert all(duration(10.0**k) for k in range(9))
    assert math.isclose(float(duration(3.14159 * 3600).split()[0]), 3.1)
