"""Recipes: every number of the paper, one by one, and the three arms."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from auricle import recipes
from auricle.core.anatomy import ID, KEYS
from auricle.core.errors import InputError
from auricle.data.augment import few_cases, segmenter, with_variety
from auricle.data.cohort import FolderData, VirtualData, split_patients
from auricle.models.masking import MaskConfig
from auricle.models.segmenter import SegmenterConfig
from auricle.stages import pretrain
from auricle.stages.pretrain import PretrainStage
from auricle.study.arms import ARMS, FEW_ARMS
from auricle.training.loop import FitConfig, Hardware

PAPER = recipes.paper()


def test_cohort_of_the_paper() -> None:
    assert isinstance(PAPER.cohort.data, VirtualData)
    assert PAPER.cohort.data.patients == 262
    splits = split_patients(tuple(map(str, range(262))), PAPER.cohort.shares, 0)
    assert [splits.count(s) for s in ("train", "validation", "test")] == [168, 43, 51]  # type: ignore[arg-type]


def test_grid_of_the_paper() -> None:
    assert PAPER.cohort.size == (256, 256, 160)


def test_eight_structures_of_the_paper() -> None:
    assert set(KEYS) == {"LV", "RV", "LA", "RA", "MYO", "AO", "PA", "LAA"}
    assert [ID[k] for k in ("MYO", "LA", "LV", "RA", "RV", "AO", "PA", "LAA")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_fusion_and_label_packing_of_the_paper() -> None:
    assert PAPER.autoencoder.network.fusion == "sum"
    assert PAPER.autoencoder.network.label_head == "packed"


def test_diffusion_of_the_paper_is_a_ddpm() -> None:
    assert PAPER.diffusion.parameterization == "ddpm"
    assert PAPER.generate.sampler == "ddpm"


def test_pairs_of_the_paper_are_taken_as_they_are() -> None:
    """Unconditional, neither restored nor rejected."""
    assert (PAPER.generate.complete, PAPER.generate.restore, PAPER.generate.gate) == (False, False, False)
    assert PAPER.generate.conditions.describe() == {}


@pytest.mark.parametrize("name", ["demo", "laptop"])
def test_other_recipes_restore_and_reject_and_audit_against_their_cohort(name: recipes.RecipeName, tmp_path: Path) -> None:
    steps = {s.name: s for s in recipes.steps(recipes.recipe(name), tmp_path, None, 0, Hardware(accelerator="cpu"))}
    config = steps["generate"].config
    assert (config.complete, config.restore, config.gate) == (True, True, True)
    assert config.cohort == steps["cohort"].out


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_generator_augmentation_of_the_paper(stage: str) -> None:
    augment = getattr(PAPER, stage).augment
    assert augment.flip_probability == 0.2
    assert augment.center_crop_probability == 0.2
    assert augment.location_crop_probability == 0.2
    assert (augment.boost_probability, augment.boost_hu) == (0.05, 50.0)


def test_masking_of_the_paper() -> None:
    assert PAPER.pretrain.mask.blocks == 25
    assert PAPER.pretrain.mask.probability == 0.8
    assert PAPER.pretrain.mask.block_size == (8, 16)


def test_pretraining_of_the_paper() -> None:
    assert PAPER.pretrain.fit.optimizer == "adamw"
    assert PAPER.pretrain.fit.learning_rate == 1e-3
    assert PAPER.pretrain.fit.schedule == "constant"
    assert PAPER.pretrain.fit.patience == 50
    # One validation an epoch: patience counts epochs.
    assert PAPER.pretrain.fit.validate_every is None


def test_finetuning_of_the_paper() -> None:
    fit = PAPER.finetune.fit
    assert fit.optimizer == "adamw"
    assert fit.learning_rate == 1e-3
    assert fit.schedule == "constant"
    assert fit.epochs == 300
    assert fit.steps is None
    assert fit.patience == 10
    assert fit.validate_every is None


def test_three_generated_pairs_for_each_labeled_case() -> None:
    assert PAPER.finetune.ratio == 3.0
    generate = next(s for s in recipes.steps(PAPER, Path("r"), None, 0, Hardware()) if s.name == "generate")
    assert generate.config.count == 3 * 168


def test_pretraining_and_finetuning_share_one_network() -> None:
    for name in get_args(recipes.RecipeName):
        recipe = recipes.recipe(name)  # type: ignore[arg-type]
        assert recipe.pretrain.network == recipe.finetune.network


def test_arms_differ_in_what_they_are_given_alone() -> None:
    steps = {s.name: s for s in recipes.steps(recipes.demo(), Path("r"), None, 5, Hardware())}
    configs = {name: steps[f"finetune {name}"].config for name in ARMS}
    given = {name: (c.pretrained is not None, c.generated is not None) for name, c in configs.items()}
    assert given == {"baseline": (False, False), "medical-diffusion": (True, False), "ours": (True, True)}
    for config in configs.values():
        assert (config.fit, config.network, config.augment, config.seed) == (
            configs["baseline"].fit, configs["baseline"].network, configs["baseline"].augment, 5,
        )  # fmt: skip


@pytest.mark.parametrize("name", get_args(recipes.RecipeName))
@pytest.mark.parametrize("data", [None, VirtualData(patients=12)])
def test_steps_run_in_an_order_that_their_inputs_allow(name: recipes.RecipeName, data: VirtualData | None) -> None:
    made: set[Path] = set()
    for step in recipes.steps(recipes.recipe(name), Path("r"), data, 0, Hardware()):
        needed = [v for f in ("cohort", "autoencoder", "refiner", "diffusion", "generated", "pretrained", "initial", "model")
                  if (v := getattr(step.config, f, None)) is not None]  # fmt: skip
        assert set(needed) <= made
        made.add(step.out)


def test_few_cases_of_ones_own_are_varied() -> None:
    few, many = VirtualData(patients=12), VirtualData(patients=70)
    for name, data, varied in (("demo", few, True), ("laptop", few, True), ("demo", many, False), ("demo", None, False), ("paper", few, False)):
        steps = {s.name: s.config for s in recipes.steps(recipes.recipe(name), Path("r"), data, 0, Hardware())}  # type: ignore[arg-type]
        assert (steps["autoencoder"].augment == few_cases()) == varied
        assert (steps["diffusion"].augment == few_cases()) == varied
        assert (steps["diffusion"].least_latents >= 480) == varied
        # What fine-tuning does to its pairs is the same for all arms, few cases or many.
        plain = recipes.recipe(name).finetune.augment  # type: ignore[arg-type]
        arms = FEW_ARMS if varied else ARMS
        assert [s.removeprefix("finetune ") for s in steps if s.startswith("finetune")] == list(arms)
        for arm in arms:
            assert steps[f"finetune {arm}"].augment == (with_variety(plain) if varied else plain)
        if varied:
            assert steps["vary"].variation < 1
            pairs, cases = steps["first varied"], steps["first real"]
            assert (pairs.generated, pairs.real_weight, cases.generated) == (Path("r/varied"), 0, None)
            # The control is as long as the arm, and both begin from the same weights.
            assert (pairs.fit, pairs.seed, pairs.network) == (cases.fit, cases.seed, cases.network)
            assert (steps["finetune ours-plus"].initial, steps["finetune ours-plus"].generated) == (Path("r/first-varied"), None)
            assert steps["finetune longer-baseline"] == replace(steps["finetune ours-plus"], initial=Path("r/first-real"))
    # A study says what variety gives: its baseline goes without.
    assert recipes.study().finetune.augment == segmenter()


def test_as_many_pairs_are_generated_as_fine_tuning_mixes_in() -> None:
    for name in get_args(recipes.RecipeName):
        steps = {s.name: s.config for s in recipes.steps(recipes.recipe(name), Path("r"), VirtualData(patients=70), 0, Hardware())}  # type: ignore[arg-type]
        labeled = split_patients(tuple(map(str, range(70))), steps["cohort"].shares, 0).count("train")
        assert steps["generate"].count == 3 * labeled


def test_more_virtual_patients_train_and_as_many_are_tested_on() -> None:
    chosen = recipes.with_patients(recipes.study(), 226)
    assert isinstance(chosen.cohort.data, VirtualData)
    splits = split_patients(tuple(f"{i:04d}" for i in range(226)), chosen.cohort.shares, 0)
    assert [splits.count(s) for s in ("train", "validation", "test")] == [192, 4, 30]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="4 of them validate and 30 test, and at least 2 must train"):
        recipes.with_patients(recipes.study(), 35)
    own = replace(recipes.study(), cohort=replace(recipes.study().cohort, data=FolderData(Path("data"))))
    with pytest.raises(InputError, match="leave it out with --data"):
        recipes.with_patients(own, 226)


@pytest.mark.parametrize("least", [0.0, 0.8])
def test_held_out_images_are_always_hidden_in_part(tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    """Pre-training keeps the weights that restore best: of an image that is seen whole, those that copy best."""
    seen: list[float] = []
    real = pretrain.reconstruction_error

    def noted(network: Any, image: Any, mask: MaskConfig, generator: Any) -> Any:
        seen.append(mask.probability)
        return real(network, image, mask, generator)

    monkeypatch.setattr(pretrain, "reconstruction_error", noted)
    pretrain.run(PretrainStage(
        None, cohort=tiny_cohort, network=SegmenterConfig(channels=(4, 8)), mask=MaskConfig(probability=least),
        fit=FitConfig(steps=2, batch_size=1, validate_every=2), hardware=Hardware(accelerator="cpu")), tmp_path / "out")  # fmt: skip
    assert seen == [least, least, 1.0]
