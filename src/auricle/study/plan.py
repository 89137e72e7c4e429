"""What a study runs: from a recipe and the arms to compare, the stages of every fold in an order in which each finds its inputs.

    STUDY/cohort                                  prepared once
    STUDY/folds/n08-s2/cohort                     8 labeled training cases drawn by seed 2, and the test cases
    STUDY/folds/n08-s2/autoencoder, diffusion, .. one generator, which serves all arms of the fold
    STUDY/folds/n08-s2/generate-24, pretrain-24   its 24 pairs, and a pre-training on them
    STUDY/folds/n08-s2/first-real, first-varied-24  segmenters that others start from
    STUDY/folds/n08-s2/arms/ours-r3-1500          a fine-tuned segmenter: arm, ratio and budget
    STUDY/folds/n08-s2/scores/ours-r3-1500        its scores on the test cases
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from auricle.core.config import digest, to_json
from auricle.core.errors import InputError
from auricle.data.cohort import open_cohort, split_patients
from auricle.stages import autoencoder, cohort, diffusion, evaluate, finetune, fold, generate, pretrain, refiner, round_trip
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.fold import FoldStage
from auricle.stages.generate import GenerateStage
from auricle.stages.pretrain import PretrainStage
from auricle.stages.refiner import RefinerStage
from auricle.stages.round_trip import RoundTripStage
from auricle.study.arms import DEFAULT_ARMS, Shared, find_arm, first_on_cases, first_on_pairs
from auricle.training.loop import FitConfig, Hardware

EARLY = "early"
"""The paper's budget: a constant rate, at most 300 epochs, and an end after ten epochs without improvement."""


COUNTED = ("extra", "decoded", "generate", "pretrain", "pretrain-both", "varied", "pretrain-varied", "first-varied")
"""Folders of a fold that hold or have seen as many pairs as the largest ratio asks for."""


@dataclass(frozen=True)
class Recipe:
    """The configuration of every stage; folders are filled in by what runs it."""

    cohort: CohortConfig
    autoencoder: AutoencoderStage
    refiner: RefinerStage | None
    """None restores the noise of soft tissue alone."""
    diffusion: DiffusionStage
    generate: GenerateStage
    pretrain: PretrainStage
    finetune: FinetuneStage
    variation: float = 0.8
    """`GenerateStage.variation` of the pairs of `ours-plus`."""
    few: int = 30
    """With fewer labeled training cases than this of the user's own, shapes, sizes and contrast are varied while generator and segmenters train."""


@dataclass(frozen=True)
class Step:
    """One stage of a run."""

    name: str
    run: Callable[[Any, Path], Path]
    config: Any
    out: Path

    def needs(self) -> set[Path]:
        """Folders that the configuration names."""
        return {v for f in fields(self.config) if isinstance(v := getattr(self.config, f.name), Path)}


@dataclass(frozen=True)
class StudyConfig:
    """Which arms are compared, on how many labeled cases, how often."""

    arms: tuple[str, ...] = DEFAULT_ARMS
    """Names of `auricle.study.arms`, or MODULE:FUNCTION for one of your own."""
    labelled: tuple[int, ...] = (8,)
    """Labeled training cases of a fold; one of them (a tenth, at least one) is held out for early stopping."""
    ratio: tuple[float, ...] = (3.0,)
    """Generated pairs for each labeled case, in the arms that mix them in."""
    budget: tuple[str, ...] = ()
    """Length of fine-tuning: optimizer steps, or early for the paper's early stopping; the recipe's steps where none is given."""
    seeds: int = 5
    """Folds of each size: another draw of labeled cases, another generator, another initialization."""
    first_seed: int = 0
    """Number of the first of these folds: a study may be run in parts, whose tables `auricle report` joins."""
    seed: int = 0
    """Seed of the cohort and its test split."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {self.seeds}")
        if self.first_seed < 0:
            raise ValueError(f"--first-seed must not be negative, not {self.first_seed}")
        if not self.arms or not self.labelled or not self.ratio:
            raise ValueError("--arms, --labelled and --ratio need at least one value each")
        if min(self.labelled) < 2:
            raise ValueError("--labelled must be at least 2: one case trains, one is held out for early stopping")
        if not all(math.isfinite(r) and r >= 0 for r in self.ratio):
            raise ValueError("--ratio must be finite and not negative")
        for word in self.budget:
            if word != EARLY and not (word.isdecimal() and int(word) > 0):
                raise ValueError(f"--budget {word!r} is neither a number of steps nor {EARLY}")
        for name in self.arms:
            find_arm(name)


@dataclass(frozen=True)
class Cell:
    """One trained segmenter of the study: where its scores stand in the results."""

    arm: str
    labelled: int
    ratio: float
    """0 where no generated pair is mixed in."""
    budget: str
    seed: int
    scores: Path
    """Folder of its evaluation."""


@dataclass(frozen=True)
class StudyPlan:
    """Everything that is to be run, in order, and the cells of the results."""

    steps: list[Step]
    cells: list[Cell]


def plan_study(recipe: Recipe, config: StudyConfig, root: Path, hardware: Hardware) -> StudyPlan:
    """Stages and cells of the study under `root`; what no arm asks for is left out, and what two arms ask for runs once."""
    whole = Step("cohort", cohort.run, recipe.cohort, root / "cohort")
    patients = open_cohort(recipe.cohort.data).patients
    splits = split_patients(patients, recipe.cohort.shares, recipe.cohort.seed)
    cases = [{"patient": p, "split": s} for p, s in zip(patients, splits, strict=True)]
    steps, cells = [whole], []
    for labelled in dict.fromkeys(config.labelled):
        for seed in range(config.first_seed, config.first_seed + config.seeds):
            fold_steps, fold_cells = _plan_fold(recipe, config, root, cases, labelled, seed, hardware)
            steps += fold_steps
            cells += fold_cells
    return StudyPlan(steps, cells)


def _plan_fold(
    recipe: Recipe, config: StudyConfig, root: Path, cases: list[dict[str, Any]], labelled: int, seed: int, hardware: Hardware
) -> tuple[list[Step], list[Cell]]:  # fmt: skip
    whole, folder = root / "cohort", root / "folds" / f"n{labelled:02d}-s{seed}"
    common: dict[str, Any] = {"seed": 1000 * config.seed + seed, "hardware": hardware}
    # A patient may have several scans, each of which asks for its share of pairs.
    own = fold.choose(cases, FoldStage(whole, labelled, seed=common["seed"]))
    scans = sum(c["patient"] in own for c in cases)
    count = round(max(config.ratio) * scans)
    stage = replace(recipe.finetune, cohort=folder / "cohort", hold_out="validation", **common)
    others = fold.patients_for(cases, count, labelled, common["seed"])
    resources = _resources(recipe, folder, whole, labelled, count, others, common, stage, max(config.ratio))
    at = _folders(folder, count)
    shared = Shared(
        stage, generated=at["generate"], pretrained=at["pretrain"], extra=at["extra"], decoded=at["decoded"], pretrained_real=at["pretrain-real"],
        pretrained_both=at["pretrain-both"], varied=at["varied"], pretrained_varied=at["pretrain-varied"], first_varied=at["first-varied"],
        first_real=at["first-real"],
    )  # fmt: skip
    trained: dict[str, Path] = {}
    arms: list[Step] = []
    cells: dict[Cell, None] = {}
    for name, ratio, budget in itertools.product(config.arms, config.ratio, config.budget or (_default_budget(recipe),)):
        try:
            asked = find_arm(name)(replace(shared, finetune=replace(_with_budget(stage, budget), ratio=ratio)))
        except ValueError as error:
            raise InputError(f"--arms {name} with --ratio {ratio:g}: {error}") from None
        except Exception as error:
            # An arm of the user's own: whatever it raises is theirs to read, in one line.
            raise InputError(f"--arms {name}: {type(error).__name__}: {error}") from None
        if not isinstance(asked, FinetuneStage):
            raise InputError(f"--arms {name}: returns {type(asked).__name__}, not a FinetuneStage")
        mixed = asked.ratio if asked.generated is not None else 0.0
        asked = replace(asked, ratio=mixed, generated=asked.generated if mixed else None)
        sees = {asked.generated, asked.pretrained, asked.initial} & {at[k] for k in COUNTED}
        if sees and count < 2:
            raise InputError(f"--ratio {max(config.ratio):g}: {name} learns from {count} pairs with {labelled} labeled cases, at least 2 are needed")
        # Another largest ratio makes other pairs: what saw them is another training.
        of = f"-of{count}" if sees and count != round(mixed * scans) else ""
        label = f"{name.replace(':', '.')}{f'-r{mixed:g}' if mixed else ''}{of}-{budget}"
        key = digest(to_json(asked))
        if key not in trained:
            trained[key] = folder / "scores" / label
            model = folder / "arms" / label
            arms.append(Step(f"finetune {folder.name} {label}", finetune.run, asked, model))
            arms.append(Step(f"evaluate {folder.name} {label}", evaluate.run, EvaluateStage(folder / "cohort", model), trained[key]))
        cells[Cell(name, labelled, mixed, budget, seed, trained[key])] = None
    needed = _needed(resources, arms)
    if at["pretrain-real"] in needed and list(own.values()).count("train") < 2:
        raise InputError(f"--labelled {labelled}: pre-training on labeled images holds out one of those that train, so at least 3 are needed")
    for step in resources:
        if step.out in needed and isinstance(step.config, FoldStage):
            # Too few training cases are said before anything runs.
            fold.choose(cases, step.config)
    return [s for s in resources if s.out in needed] + arms, list(cells)


def _default_budget(recipe: Recipe) -> str:
    return str(recipe.finetune.fit.steps) if recipe.finetune.fit.steps else EARLY


def _with_budget(stage: FinetuneStage, budget: str) -> FinetuneStage:
    """The stage with that length of training. With steps, every arm takes as many and keeps the last weights: one held-out case chooses poorly."""
    if budget == EARLY:
        fit = replace(stage.fit, steps=None, epochs=300, patience=10, validate_every=None, schedule="constant", optimizer="adamw", learning_rate=1e-3)
        return replace(stage, fit=replace(fit, ema_decay=None))
    return replace(stage, fit=_with_steps(stage.fit, int(budget)))


def _with_steps(fit: FitConfig, steps: int) -> FitConfig:
    return replace(fit, steps=steps, epochs=None, patience=None, validate_every=steps)


def first_fit(recipe: Recipe, labelled: int) -> FitConfig:
    """The first training of a segmenter that is trained twice: the steps of pre-training, or of its epochs on the labeled cases."""
    asked = recipe.pretrain.fit
    return _with_steps(recipe.finetune.fit, asked.steps or (asked.epochs or 1) * math.ceil(labelled / asked.batch_size))


def _folders(folder: Path, count: int) -> dict[str, Path]:
    """Where the stages of a fold lie; what holds or sees `count` pairs says so in its name."""
    fixed = {name: folder / name for name in ("cohort", "autoencoder", "refiner", "diffusion", "pretrain-real", "first-real")}
    return fixed | {name: folder / f"{name}-{count}" for name in COUNTED}


def _resources(
    recipe: Recipe, folder: Path, whole: Path, labelled: int, count: int, others: int, common: dict[str, Any], stage: FinetuneStage, ratio: float
) -> list[Step]:  # fmt: skip
    """The stages that arms of a fold can ask for, in order; `count` pairs are generated, `ratio` for each labeled case, and `others` are the
    patients who have as many scans.
    """
    at = _folders(folder, count)
    learning = replace(recipe.pretrain, generated=None, cohort=at["cohort"], **common)
    first = first_fit(recipe, labelled)
    steps = [
        Step(f"fold {folder.name}", fold.run, FoldStage(whole, labelled, seed=common["seed"]), at["cohort"]),
        Step(f"pretrain {folder.name} real", pretrain.run, learning, at["pretrain-real"]),
        Step(f"first {folder.name} real", finetune.run, first_on_cases(stage, first), at["first-real"]),
    ]
    if count == 0:
        return steps
    made = replace(recipe.generate, count=count, seed=common["seed"], autoencoder=at["autoencoder"], diffusion=at["diffusion"],
                   cohort=at["cohort"], refiner=at["refiner"] if recipe.refiner else None)  # fmt: skip
    own = {"cohort": at["cohort"], **common}
    refining = [] if recipe.refiner is None else [
        Step(f"refiner {folder.name}", refiner.run, replace(recipe.refiner, autoencoder=at["autoencoder"], **own), at["refiner"])]  # fmt: skip
    return [
        *steps,
        Step(f"extra {folder.name}", fold.run, FoldStage(whole, others, first=labelled, hold_out=False, seed=common["seed"]), at["extra"]),
        Step(f"autoencoder {folder.name}", autoencoder.run, replace(recipe.autoencoder, **own), at["autoencoder"]),
        *refining,
        Step(f"diffusion {folder.name}", diffusion.run, replace(recipe.diffusion, autoencoder=at["autoencoder"], **own), at["diffusion"]),
        Step(f"generate {folder.name}", generate.run, made, at["generate"]),
        Step(f"vary {folder.name}", generate.run, replace(made, variation=recipe.variation), at["varied"]),
        Step(f"decoded {folder.name}", round_trip.run, RoundTripStage(at["extra"], at["autoencoder"]), at["decoded"]),
        Step(f"pretrain {folder.name}", pretrain.run, replace(learning, generated=at["generate"], cohort=None), at["pretrain"]),
        Step(f"pretrain {folder.name} both", pretrain.run, replace(learning, generated=at["generate"]), at["pretrain-both"]),
        Step(f"pretrain {folder.name} varied", pretrain.run, replace(learning, generated=at["varied"], cohort=None), at["pretrain-varied"]),
        Step(f"first {folder.name} varied", finetune.run, first_on_pairs(stage, at["varied"], ratio, first), at["first-varied"]),
    ]


def _needed(possible: Iterable[Step], wanted: list[Step]) -> set[Path]:
    """Folders of the `possible` steps that the wanted ones need, directly or not."""
    makers = {step.out: step for step in possible}
    found: set[Path] = set()
    open_ = list(wanted)
    while open_:
        for folder in open_.pop().needs() & makers.keys() - found:
            found.add(folder)
            open_.append(makers[folder])
    return found
