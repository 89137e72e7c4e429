"""A whole study on tiny patients: folds without leakage, work shared and broken off, one table to the last digit, and its page."""

import csv
import importlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle import cli, recipes
from auricle.cli import commands
from auricle.core import runs
from auricle.core.anatomy import KEYS
from auricle.core.errors import Busy, InputError
from auricle.core.files import read_json
from auricle.data.cohort import VirtualData
from auricle.report.study_page import write_study
from auricle.stages import autoencoder, fold, round_trip
from auricle.stages.finetune import FinetuneStage
from auricle.stages.fold import FoldStage
from auricle.stages.pairs import cohort_pairs
from auricle.stages.round_trip import RoundTripStage
from auricle.study.arms import STUDY_ARMS, Arm, Shared
from auricle.study.plan import Cell, StudyConfig, StudyPlan, plan_study
from auricle.study.results import COLUMNS, collect
from auricle.study.run import run_steps
from auricle.training.loop import Hardware

CONFIG = StudyConfig(arms=("baseline", "ours", "real-upper-bound"), labelled=(2, 3), ratio=(0.0, 1.0), budget=("4", "early"), seeds=1)
CPU = Hardware(accelerator="cpu")


def plan(tiny: recipes.Recipe, root: Path, config: StudyConfig = CONFIG) -> StudyPlan:
    cohort = replace(tiny.cohort, data=VirtualData(patients=10, seed=3), shares=(6.0, 1.0, 3.0))
    finetune = replace(tiny.finetune, fit=replace(tiny.finetune.fit, epochs=2))
    return plan_study(replace(tiny, cohort=cohort, finetune=finetune), config, root, CPU)


@pytest.fixture(scope="module")
def study(tiny: recipes.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study."""
    root = tmp_path_factory.mktemp("study")
    made = plan(tiny, root)
    run_steps(made.steps)
    collect(made.cells, "tiny", root / "study.csv")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_table_holds_every_arm_seed_case_and_structure_once(study: Path) -> None:
    found = rows(study / "study.csv")
    assert tuple(found[0]) == COLUMNS
    keys = [tuple(r[c] for c in COLUMNS[:8]) for r in found]
    assert len(keys) == len(set(keys))
    # Of each fold and budget: the baseline, ours at two ratios and the upper bound at two (without other cases it is a baseline); 3 test cases.
    assert len(found) == 2 * 2 * (1 + 2 + 2) * 3 * len(KEYS)
    assert {r["arm"] for r in found} == set(CONFIG.arms)


def test_equal_trainings_run_once(tiny: recipes.Recipe, tmp_path: Path) -> None:
    made = plan(tiny, tmp_path, replace(CONFIG, labelled=(3,), budget=("4",)))
    assert len({s.out for s in made.steps}) == len(made.steps)
    trained = [s.out.name for s in made.steps if s.name.startswith("finetune")]
    # The upper bound without other cases is the baseline; ours without pairs is pre-trained on three.
    assert trained == ["baseline-4", "ours-of3-4", "ours-r1-4", "real-upper-bound-r1-4"]
    assert {c.scores.name for c in made.cells if c.arm == "real-upper-bound"} == {"baseline-4", "real-upper-bound-r1-4"}


def test_only_what_an_arm_asks_for_is_planned(tiny: recipes.Recipe, tmp_path: Path) -> None:
    made = plan(tiny, tmp_path, replace(CONFIG, arms=("baseline", "real-upper-bound"), labelled=(3,), budget=("4",)))
    assert not [s.name for s in made.steps if s.name.split()[0] in ("autoencoder", "diffusion", "generate", "vary", "pretrain", "first")]


def test_ours_plus_learns_from_pairs_of_its_own_cases_and_then_from_these(tiny: recipes.Recipe, tmp_path: Path) -> None:
    config = replace(CONFIG, arms=("ours-plus", "longer-baseline"), labelled=(3,), ratio=(1.0,), budget=("4",))
    tiny = replace(tiny, pretrain=replace(tiny.pretrain, fit=replace(tiny.pretrain.fit, steps=6)))
    made = plan(tiny, tmp_path, config)
    run_steps(made.steps)
    fold_ = tmp_path / "folds" / "n03-s0"
    assert read_json(fold_ / "varied-3" / "pairs.json")["variation"] == tiny.variation < 1

    def stage(*place: str) -> dict[str, Any]:
        return {**read_json(fold_.joinpath(*place, "config.json"))["config"], **read_json(fold_.joinpath(*place, "model.json"))["training"]}

    on_pairs, on_cases = stage("first-varied-3"), stage("first-real")
    assert (on_pairs["generated"], on_cases["generated"]) == (3, 0)
    # Training on pairs counts no labeled case; both take as many steps.
    assert (on_pairs["labeled"], on_cases["labeled"]) == (0, 2)
    assert on_pairs["steps"] == on_cases["steps"] == 6
    plus, longer = stage("arms", "ours-plus-of3-4"), stage("arms", "longer-baseline-4")
    assert (plus["initial"], longer["initial"]) == (str(fold_ / "first-varied-3"), str(fold_ / "first-real"))
    assert plus["generated"] == longer["generated"] == 0
    # With one seed, a second training on the same cases would begin with the very views of the first.
    assert on_pairs["seed"] == on_cases["seed"] != plus["seed"] == longer["seed"]
    for augmentation in (s["augment"] for s in (on_pairs, on_cases, plus, longer)):
        assert augmentation["warp_mm"] > 0
        assert augmentation["growth_mm"] > 0
        assert augmentation["even_probability"] > 0
    # No pair from noise alone is asked for.
    assert not (fold_ / "generate-3").exists()


def test_the_generator_of_a_fold_sees_no_case_beyond_it(study: Path) -> None:
    for folder in (study / "folds").iterdir():
        own = {c["id"]: c["split"] for c in read_json(folder / "cohort" / "cases.json")["cases"]}
        whole = {c["id"]: c["split"] for c in read_json(study / "cohort" / "cases.json")["cases"]}
        labelled = int(folder.name[1:3])
        assert sorted(own.values()).count("train") + list(own.values()).count("validation") == labelled
        assert all(whole[name] == "train" for name, split in own.items() if split != "test")
        assert {n for n, s in own.items() if s == "test"} == {n for n, s in whole.items() if s == "test"}
        # No file of another case lies in the folder that the generator reads.
        assert {p.stem for p in (folder / "cohort" / "images").iterdir()} == set(own)
        other = {c["id"]: c["split"] for c in read_json(folder / f"extra-{labelled}" / "cases.json")["cases"] if c["split"] != "test"}
        assert not set(other) & {n for n, s in own.items() if s != "test"}
        for stage in ("autoencoder", "diffusion", f"generate-{labelled}"):
            assert read_json(folder / stage / "config.json")["config"]["cohort"] == str(folder / "cohort")


def test_cases_after_the_round_trip_are_those_cases_as_the_autoencoder_gives_them_back(study: Path, tmp_path: Path) -> None:
    folder = study / "folds" / "n03-s0"
    out = round_trip.run(RoundTripStage(folder / "extra-3", folder / "autoencoder"), tmp_path / "out")
    before, after = cohort_pairs(folder / "extra-3", "train"), cohort_pairs(out, "train")
    assert [i.id for i in after.items] == [i.id for i in before.items]
    assert np.allclose(after.items[0].affine, before.items[0].affine)
    passed = autoencoder.round_trip(autoencoder.load(folder / "autoencoder"), *before.plain(1))
    image, label = after.hu(1)
    assert np.abs(image - (passed.image_hu + passed.error_hu)).max() <= 0.5
    assert np.array_equal(label, passed.decoded)


def test_every_arm_of_a_study_plans_what_it_needs(tiny: recipes.Recipe, tmp_path: Path) -> None:
    config = replace(CONFIG, arms=tuple(STUDY_ARMS), labelled=(3,), ratio=(1.0,), budget=("4",))
    made = plan(tiny, tmp_path, config)
    finished = set()
    for step in made.steps:
        assert step.needs() <= finished, step.name
        finished.add(step.out)
    assert {c.arm for c in made.cells} == set(STUDY_ARMS)
    assert len({c.scores for c in made.cells}) == len(STUDY_ARMS)


def test_folds_of_a_seed_are_nested(study: Path, tmp_path: Path) -> None:
    def chosen(count: int, seed: int) -> set[str]:
        out = fold.run(FoldStage(study / "cohort", count, seed=seed), tmp_path / f"{count}-{seed}")
        return {c["id"] for c in read_json(out / "cases.json")["cases"] if c["split"] != "test"}

    assert chosen(2, 0) < chosen(4, 0) < chosen(6, 0)
    assert len({frozenset(chosen(3, seed)) for seed in range(4)}) > 1
    with pytest.raises(InputError, match="lower --labelled or --ratio"):
        fold.run(FoldStage(study / "cohort", 7), tmp_path / "much")


def test_another_largest_ratio_is_another_training_where_pairs_were_seen(tiny: recipes.Recipe, tmp_path: Path) -> None:
    def trained(ratio: tuple[float, ...]) -> dict[str, FinetuneStage]:
        arms = ("baseline", "medical-diffusion", "ours", "ours-plus", "longer-baseline")
        config = replace(CONFIG, arms=arms, labelled=(2,), ratio=ratio, budget=("4",))
        return {s.out.name: s.config for s in plan(tiny, tmp_path, config).steps if s.name.startswith("finetune")}

    before, after = trained((1.0,)), trained((1.0, 2.0))
    assert set(before) & set(after) == {"baseline-4", "longer-baseline-4"}
    for name in ("baseline-4", "longer-baseline-4"):
        assert before[name] == after[name]


def test_the_upper_bound_takes_no_more_patients_than_have_as_many_scans() -> None:
    cases = [{"patient": f"p{i // 2}", "split": "train"} for i in range(20)] + [{"patient": "t", "split": "test"}]
    assert [fold.patients_for(cases, scans, 4, 0) for scans in (1, 2, 3, 12)] == [1, 1, 2, 6]
    # Where they do not suffice, so many are named that the fold is refused.
    assert fold.patients_for(cases, 13, 4, 0) + 4 > 10
    taken = fold.choose(cases, FoldStage(Path(), fold.patients_for(cases, 7, 4, 0), first=4, hold_out=False))
    assert sum(c["patient"] in taken for c in cases) == 8


def test_both_first_trainings_of_a_recipe_of_epochs_take_as_many_steps() -> None:
    config = StudyConfig(arms=("ours-plus", "longer-baseline"), labelled=(8,), ratio=(3.0,), budget=("early",), seeds=1)
    first = [s.config for s in plan_study(recipes.paper(), config, Path("r"), CPU).steps if s.name.startswith("first")]
    assert [c.fit.steps for c in first] == [300 * 8, 300 * 8]
    assert {c.generated for c in first} == {None, Path("r/folds/n08-s0/varied-24")}


@pytest.mark.parametrize(("values", "message"), [
    ({"ratio": (0.0,)}, "medical-diffusion learns from 0 pairs"), ({"arms": ("ours-plus",), "ratio": (0.0,)}, "ours-plus learns from 0 pairs"),
    ({"labelled": (2, 40)}, "needs 40 training patients, the cohort has 6"),
    ({"arms": ("real-upper-bound",), "labelled": (4,), "ratio": (3.0,)}, "needs 16 training patients"),
    ({"arms": ("baseline", "real-pretraining")}, "holds out one of those that train, so at least 3 are needed"),
])  # fmt: skip
def test_what_cannot_work_is_said_before_anything_runs(
    values: dict[str, object], message: str, tiny: recipes.Recipe, tmp_path: Path
) -> None:  # fmt: skip
    config = StudyConfig(**{"arms": ("baseline", "medical-diffusion"), "labelled": (2,), "budget": ("4",), **values})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        plan(tiny, tmp_path, config)


def test_a_finished_folder_is_not_begun_again(study: Path) -> None:
    """As for a process that looked before the owner finished and locks after it."""
    folder = study / "folds" / "n02-s0" / "scores" / "baseline-4"
    description = read_json(folder / "config.json")
    late = runs.Run(folder, "evaluate", description["config"], description["inputs"])
    late.fingerprint = str(runs.fingerprint_of(folder))
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(Busy, match="just now"):
        late.begin()
    assert sorted(p.name for p in folder.iterdir()) == before


def _work(made: StudyPlan) -> None:
    import torch

    torch.set_num_threads(1)
    run_steps(made.steps, wait_seconds=0.05)


def test_processes_share_the_work_and_a_killed_one_changes_nothing(study: Path, tiny: recipes.Recipe, tmp_path: Path) -> None:
    """Three processes at once, one of which is killed on the way; a fourth finishes. No stage is done twice, the table is the same."""
    made = plan(tiny, tmp_path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(made,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    # Killed in the middle of its work, wherever that is.
    deadline = time.monotonic() + 120
    while not any(s.name.startswith("finetune") and (s.out / "config.json").exists() for s in made.steps):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    for worker in workers:
        worker.join(timeout=300)
    assert [w.exitcode for w in workers[1:]] == [0, 0]
    run_steps(made.steps)
    collect(made.cells, "tiny", tmp_path / "study.csv")
    assert (tmp_path / "study.csv").read_bytes() == (study / "study.csv").read_bytes()
    assert not list(tmp_path.rglob("lock"))
    measured = [[r["step"] for r in runs.read_metrics(p.parent)] for p in tmp_path.rglob("metrics.jsonl")]
    assert measured
    assert all(steps == sorted(set(steps)) for steps in measured)


def test_a_finished_study_is_not_touched_again(study: Path, tiny: recipes.Recipe) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.rglob("*") if p.is_file()}
    run_steps(plan(tiny, study).steps)
    assert before == {p: p.stat().st_mtime_ns for p in study.rglob("*") if p.is_file()}


def test_the_table_grows_with_every_training_and_a_refusal_leaves_it(
    study: Path, tiny: recipes.Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (study / "study.csv").read_bytes()
    (study / "study.csv").unlink()
    with pytest.raises(SystemExit):
        cli.main(["report", str(study)])
    assert "no training has been evaluated yet" in capsys.readouterr().err
    assert not (study / "report.html").exists()
    made = plan(tiny, study)
    monkeypatch.setattr(commands, "plan_study", lambda *a: made)
    command = ["study", "--out", str(study), "--recipe", "demo", "--labelled", "2", "--hardware.accelerator", "cpu", "--quiet"]
    for step in [s for s in made.steps if s.name.startswith("evaluate")][-2:]:
        shutil.rmtree(step.out)
    sizes: list[int] = []

    def counted(cells: list[Cell], recipe: str, target: Path) -> Path:
        collect(cells, "tiny", target)
        sizes.append(len(rows(target)))
        return target

    monkeypatch.setattr(commands, "collect", counted)
    cli.main(command)
    assert (study / "study.csv").read_bytes() == before
    assert len(sizes) == 3  # after each of two evaluations, and at the end
    assert sizes[0] < sizes[1] == sizes[2]
    other = replace(made.steps[0], config=replace(made.steps[0].config, size=(16, 16, 16)))
    made = StudyPlan([other, *made.steps[1:]], [])
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "another run" in capsys.readouterr().err
    assert (study / "study.csv").read_bytes() == before


def test_a_study_in_parts_joins_to_the_whole(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = (study / "study.csv").read_text().splitlines(keepends=True)
    first, second = tmp_path / "first", tmp_path / "second.csv"
    first.mkdir()
    # The parts overlap: what both hold counts once.
    (first / "study.csv").write_text(head + "".join(lines[:96]))
    second.write_text(head + "".join(lines[72:]))
    cli.main(["report", str(first), str(second), "--out", str(tmp_path / "whole"), "--quiet"])
    assert (tmp_path / "whole" / "study.csv").read_bytes() == (study / "study.csv").read_bytes()
    assert Path(capsys.readouterr().out.strip()).exists()


@pytest.mark.parametrize("change", ["value", "recipe", "cases", "out", "missing"])
def test_parts_that_do_not_belong_together_are_refused_in_one_line(
    study: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (study / "study.csv").read_text()
    head, *lines = text.splitlines()
    # The scores of one training; of other cases, with another value, under another recipe.
    lines = lines[:24]
    if change == "value":
        lines[5] = lines[5][:-1] + "7"
    elif change in ("recipe", "cases"):
        lines = [line.replace(*(("tiny", "large") if change == "recipe" else ("virtual", "other"))) for line in lines]
    (tmp_path / "other.csv").write_text("\n".join([head, *lines]) + "\n")
    second = "none.csv" if change == "missing" else "other.csv"
    out = [] if change == "out" else ["--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(study), str(tmp_path / second), *out])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    named = {"value": "differ in arm", "recipe": "different recipes", "cases": "different test cases", "out": "--out", "missing": "none.csv"}
    assert named[change] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_folds_of_later_seeds_are_those_of_the_whole_study(tiny: recipes.Recipe, tmp_path: Path) -> None:
    whole = plan(tiny, tmp_path, replace(CONFIG, labelled=(3,), seeds=3))
    later = plan(tiny, tmp_path, replace(CONFIG, labelled=(3,), seeds=2, first_seed=1))
    assert [c for c in whole.cells if c.seed] == later.cells
    assert all(step in whole.steps for step in later.steps)


def test_a_stage_in_other_hands_is_waited_for(study: Path, tiny: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that another process holds is neither touched nor skipped."""
    made = plan(tiny, tmp_path, replace(CONFIG, arms=("baseline",), labelled=(2,), budget=("4",)))
    holder = runs.Run(tmp_path / "cohort", "cohort", made.steps[0].config, {})
    (tmp_path / "cohort").mkdir(parents=True)
    holder._lock()
    # As another process sees it.
    monkeypatch.setattr(runs, "_held", set())
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        holder.release()

    monkeypatch.setattr("auricle.study.run.time.sleep", sleep)
    run_steps(made.steps)
    assert len(waited) == 1
    assert all((s.out / "done.json").exists() for s in made.steps)


def twice_the_labeled(shared: Shared) -> FinetuneStage:
    """An arm of one's own."""
    return replace(shared.finetune, generated=shared.generated, real_weight=2, real_from=0.5)


def pairs_alone(shared: Shared) -> FinetuneStage:
    """Another one, which a ratio of 0 leaves nothing."""
    return replace(shared.finetune, generated=shared.generated, real_weight=0)


def test_every_arm_of_the_ablation_is_planned(tiny: recipes.Recipe, tmp_path: Path) -> None:
    module = importlib.import_module("benchmarks.ingredients")
    own = [n for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__ and not n.startswith("_")]
    arms = tuple(f"{module.__name__}:{n}" for n in own)
    assert len(arms) == 3
    made = plan(tiny, tmp_path, replace(CONFIG, arms=arms, labelled=(3,), ratio=(1.0,), budget=("4",)))
    trained = {s.out.name.split(".")[-1]: s.config for s in made.steps if s.name.startswith("finetune")}
    # Every one is a training of its own, and its inputs are planned.
    assert len(trained) == 3
    outs = {s.out for s in made.steps}
    assert all(s.needs() <= outs for s in made.steps)


def test_an_arm_that_a_ratio_does_not_allow_is_named(tiny: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDY_ARMS, "pairs-alone", pairs_alone)
    with pytest.raises(InputError, match=r"--arms pairs-alone with --ratio 0: .*give --generated"):
        plan(tiny, tmp_path, replace(CONFIG, arms=("pairs-alone",), ratio=(0.0, 1.0)))


def test_an_arm_of_ones_own(tiny: recipes.Recipe, tmp_path: Path) -> None:
    name = f"{__name__}:twice_the_labeled"
    import sys

    sys.modules.setdefault(__name__, sys.modules[twice_the_labeled.__module__])
    config = replace(CONFIG, arms=("baseline", name), labelled=(3,), ratio=(1.0,), budget=("4",))
    made = plan(tiny, tmp_path, config)
    own = next(s for s in made.steps if "twice_the_labeled" in s.name)
    assert (own.config.real_weight, own.config.pretrained) == (2, None)
    assert "pretrain" not in {s.name.split()[0] for s in made.steps}


@pytest.mark.parametrize(("arm", "message"), [
    (lambda shared: None, "returns NoneType, not a FinetuneStage"), (lambda shared: replace(shared.finetune, typo=1), "TypeError: .*typo"),
])  # fmt: skip
def test_a_fault_in_an_arm_of_ones_own_is_one_line(
    tiny: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: Arm, message: str
) -> None:  # fmt: skip
    monkeypatch.setitem(STUDY_ARMS, "own", arm)
    with pytest.raises(InputError, match=f"--arms own: {message}"):
        plan(tiny, tmp_path, replace(CONFIG, arms=("own",)))


def test_a_size_named_twice_is_run_and_listed_once(tiny: recipes.Recipe, tmp_path: Path) -> None:
    once, twice = (plan(tiny, tmp_path, replace(CONFIG, arms=("baseline",), labelled=sizes)) for sizes in ((2,), (2, 2)))
    assert twice == once


@pytest.mark.parametrize(("values", "message"), [
    ({"arms": ("theirs",)}, "choose from baseline"), ({"arms": ("no.such:arm",)}, "ModuleNotFoundError"),
    ({"arms": ("math:arm",)}, "AttributeError"), ({"arms": ("math:pi",)}, "no function"), ({"labelled": (1,)}, "at least 2"),
    ({"budget": ("soon",)}, "'soon'"), ({"seeds": 0}, "--seeds"), ({"ratio": (-1.0,)}, "--ratio"), ({"ratio": ()}, "at least one value"),
    ({"ratio": (math.inf,)}, "--ratio"), ({"ratio": (math.nan,)}, "--ratio"), ({"budget": ("\u00b2",)}, "neither"),
])  # fmt: skip
def test_impossible_studies_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyConfig(**values)  # type: ignore[arg-type]


def test_the_page_of_a_study(study: Path, tmp_path: Path) -> None:
    page = write_study(study / "study.csv", tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "Headroom" in text
    assert "2 labeled cases, 4 steps" in text
    assert "3 labeled cases, early stopping" in text
    for name in ("study.tex", "study.html", "study.json", "study-gains.png", "study-labelled.png"):
        assert (tmp_path / name).stat().st_size > 500
    # The table alone does not know the timings.
    assert "contrast timing" not in text


def test_dice_by_contrast_timing_is_the_mean_over_its_cases(study: Path, tmp_path: Path) -> None:
    for name in ("study.csv", "cohort/cases.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(study / name, tmp_path / name)
    table = read_json(tmp_path / "cohort" / "cases.json")
    tested = [c for c in table["cases"] if c["split"] == "test"]
    for case, timing in zip(tested, ("early", "chase", "early"), strict=True):
        case["attributes"]["contrast"] = timing
    (tmp_path / "cohort" / "cases.json").write_text(json.dumps(table))
    cli.main(["report", str(tmp_path), "--quiet"])
    section = (tmp_path / "study.md").read_text(encoding="utf-8").split("## Dice by contrast timing: 2 labeled cases, 4 steps")[1].split("##")[0]
    assert "| Arm | chase (1) | early (2) |" in section
    of = ("baseline", "2", "4", tested[1]["id"])
    found = [r for r in rows(study / "study.csv") if (r["arm"], r["labelled"], r["budget"], r["case"]) == of]
    mean = np.mean([float(r["dice"]) for r in found if r["dice"]])
    assert f"| Baseline | {mean:.3f} |" in section


@pytest.mark.parametrize("text", ["[]", "{}", '{"cases": [1]}', '{"cases": [{"id": "a", "attributes": null}]}', "{"])
def test_a_damaged_list_of_cases_is_refused_in_one_line(text: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(study / "study.csv", tmp_path)
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "cases.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_of_an_arm_that_finds_nothing(study: Path, tmp_path: Path) -> None:
    """Every structure missed: Dice 0, no HD95, and still a page and a JSON file."""
    found = rows(study / "study.csv")
    with (tmp_path / "study.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({**row, "dice": "0", "hd95_mm": "", "nsd": "0", "missed": "1"} if row["arm"] == "ours" else row)
    cli.main(["report", str(tmp_path), "--quiet"])
    assert "nan" not in (tmp_path / "study.md").read_text(encoding="utf-8")
    records = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert {r["hd95_mm"]["mean"] for r in records if r["arm"] == "ours"} == {None}


@pytest.mark.parametrize("text", [
    "", "a,b\n1,2\n", ",".join(COLUMNS) + "\nr,ours,4,x,9,0,c,LV,0.5,1,1,1,0,p\n", ",".join(COLUMNS) + "\nr,ours,4,1,9,0,c,GUT,0.5,1,1,1,0,p\n",
    ",".join(COLUMNS) + "\nr,ours\n",
])  # fmt: skip
def test_what_is_not_a_studys_table_is_refused_in_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.csv").write_text(text)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
