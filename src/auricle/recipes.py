"""Recipes: functions that return the configuration of every stage, and the order in which the stages run.

    demo    two CPU cores, about 20 minutes, from nothing to the report
    laptop  meant for an evening on a CPU; not yet timed
    study   the demo's grid with cases enough for folds of a few labeled ones, and longer trainings
    paper   256 x 256 x 160 voxels and every number that Hu et al. 2025 state
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from auricle.core.errors import InputError
from auricle.data import augment
from auricle.data.augment import AugmentConfig
from auricle.data.cohort import Data, VirtualData, open_cohort, split_patients
from auricle.losses.autoencoding import AutoencoderLossConfig
from auricle.models.autoencoder import AutoencoderConfig
from auricle.models.denoiser import DenoiserConfig
from auricle.models.masking import MaskConfig
from auricle.models.segmenter import SegmenterConfig
from auricle.stages import autoencoder, cohort, diffusion, evaluate, finetune, generate, pretrain, refiner
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.pretrain import PretrainStage
from auricle.stages.refiner import RefinerStage
from auricle.study.arms import ARMS, FEW_ARMS, Shared, first_on_cases, first_on_pairs
from auricle.study.plan import Recipe, Step, first_fit
from auricle.training.loop import FitConfig, Hardware

RecipeName = Literal["demo", "laptop", "paper", "study"]
_ELSEWHERE = Path()
"""Stands for a folder that `steps` fills in."""


def recipe(name: RecipeName) -> Recipe:
    """The recipe of that name."""
    return {"demo": demo, "laptop": laptop, "paper": paper, "study": study}[name]()


def with_data(chosen: Recipe, data: Data | None, seed: int) -> Recipe:
    """The recipe on the user's own cohort, or on virtual patients of that seed."""
    own = chosen.cohort.data
    assert isinstance(own, VirtualData)
    return replace(chosen, cohort=replace(chosen.cohort, seed=seed, data=data or replace(own, seed=seed)))


def with_patients(chosen: Recipe, patients: int) -> Recipe:
    """The recipe with so many virtual patients, of whom as many as before validate and test; raises `InputError` where hardly any would train."""
    data, shares = chosen.cohort.data, chosen.cohort.shares
    if not isinstance(data, VirtualData):
        raise InputError("--patients is for virtual patients: leave it out with --data")
    validate, test = (round(data.patients * share / sum(shares)) for share in shares[1:])
    if patients < validate + test + 2:
        raise InputError(f"--patients {patients}: {validate} of them validate and {test} test, and at least 2 must train")
    return replace(chosen, cohort=replace(
        chosen.cohort, data=replace(data, patients=patients), shares=(float(patients - validate - test), float(validate), float(test))))  # fmt: skip


def steps(chosen: Recipe, root: Path, data: Data | None, seed: int, hardware: Hardware) -> list[Step]:
    """The stages of a whole run under `root`, in order, the arms included.

    As many pairs are generated as fine-tuning mixes in: `ratio` for each labeled case that trains or is held out for early stopping. Few
    cases of one's own are varied, for the generator (`for_few_cases`) and for the segmenters of all arms (`with_variety`), `ours-plus` with
    its control joins the arms, and early stopping looks at the validation cases, so that all training cases train.
    """
    names = ("cohort", "autoencoder", "refiner", "diffusion", "generate", "pretrain", "varied", "first-varied", "first-real")
    folder = {name: root / name for name in names}
    common: dict[str, Any] = {"seed": seed, "hardware": hardware}
    prepared = with_data(chosen, data, seed).cohort
    splits = split_patients(open_cohort(prepared.data).patients, prepared.shares, seed)
    labeled = splits.count("train")
    few = data is not None and labeled < chosen.few
    if few:
        labeled += splits.count("validation")
        chosen = for_few_cases(chosen)
        varied = augment.with_variety(chosen.finetune.augment)
        chosen = replace(chosen, finetune=replace(chosen.finetune, augment=varied, hold_out="validation"))
    generated = replace(
        chosen.generate, count=max(1, round(chosen.finetune.ratio * labeled)), seed=seed, cohort=folder["cohort"],
        autoencoder=folder["autoencoder"], diffusion=folder["diffusion"], refiner=folder["refiner"] if chosen.refiner else None,
    )  # fmt: skip
    refining = [] if chosen.refiner is None else [Step("refiner", refiner.run, replace(
        chosen.refiner, cohort=folder["cohort"], autoencoder=folder["autoencoder"], **common), folder["refiner"])]  # fmt: skip
    train = [
        Step("cohort", cohort.run, prepared, folder["cohort"]),
        Step("autoencoder", autoencoder.run, replace(chosen.autoencoder, cohort=folder["cohort"], **common), folder["autoencoder"]),
        *refining,
        Step("diffusion", diffusion.run, replace(
            chosen.diffusion, cohort=folder["cohort"], autoencoder=folder["autoencoder"], **common), folder["diffusion"]),
        Step("generate", generate.run, generated, folder["generate"]),
        Step("pretrain", pretrain.run, replace(chosen.pretrain, generated=folder["generate"], cohort=None, **common), folder["pretrain"]),
    ]  # fmt: skip
    stage = replace(chosen.finetune, cohort=folder["cohort"], **common)
    shared = Shared(stage, folder["generate"], folder["pretrain"], first_varied=folder["first-varied"], first_real=folder["first-real"])
    if few:
        train.append(Step("vary", generate.run, replace(generated, variation=chosen.variation), folder["varied"]))
        fit = first_fit(chosen, labeled)
        train.append(Step("first varied", finetune.run, first_on_pairs(stage, folder["varied"], stage.ratio, fit), folder["first-varied"]))
        train.append(Step("first real", finetune.run, first_on_cases(stage, fit), folder["first-real"]))
    for name, arm in (FEW_ARMS if few else ARMS).items():
        model = root / "finetune" / name
        train.append(Step(f"finetune {name}", finetune.run, arm(shared), model))
        train.append(Step(f"evaluate {name}", evaluate.run, EvaluateStage(folder["cohort"], model), root / "evaluate" / name))
    return train


def for_few_cases(chosen: Recipe) -> Recipe:
    """The recipe for a generator of few cases: shapes, sizes and contrast varied in its training, and views enough that it does not learn them by
    heart (docs/results/study.md).
    """
    varied = augment.few_cases()
    return replace(
        chosen, autoencoder=replace(chosen.autoencoder, augment=varied),
        diffusion=replace(chosen.diffusion, augment=varied, least_latents=max(480, chosen.diffusion.least_latents)),
    )  # fmt: skip


def any_scan() -> tuple[CohortConfig, FinetuneStage]:
    """The segmenter that ships with the package: 96^3 voxels of 2 mm, 300 virtual patients of every contrast timing, any scanner.

    Wide surroundings are kept, so that views far from the heart show a chest and an abdomen. An hour and a half on two cores
    (docs/results/default-segmenter.md).
    """
    prepared = CohortConfig(
        data=VirtualData(patients=300, seed=2026, contrast="even"), size=(96, 96, 96), spacing=(2.0, 2.0, 2.0), margin=(32, 32, 36),
        shares=(0.88, 0.04, 0.08), seed=2026,
    )  # fmt: skip
    return prepared, FinetuneStage(
        _ELSEWHERE, network=SegmenterConfig(channels=(16, 32, 64, 128), supervision=2), augment=augment.any_scanner(), hold_out="validation",
        fit=FitConfig(steps=3000, batch_size=2, optimizer="muon", learning_rate=3e-3, schedule="one-cycle", ema_decay=0.995, validate_every=500),
        seed=2026,
    )  # fmt: skip


def demo() -> Recipe:
    """64^3 voxels of 2.5 mm, 60 virtual patients, small networks: about 20 minutes on two cores (docs/results/demo.md)."""
    network = SegmenterConfig(channels=(16, 32, 64, 128))
    return Recipe(
        cohort=CohortConfig(data=VirtualData(patients=60), margin=(16, 16, 16)),
        autoencoder=AutoencoderStage(
            _ELSEWHERE, network=AutoencoderConfig(channels=(32, 64), blocks=1, latent_channels=4), patch=(32, 32, 32),
            fit=FitConfig(steps=1300, batch_size=4, optimizer="muon", learning_rate=3e-3, weight_decay=1e-4, schedule="one-cycle",
                          validate_every=325),
        ),
        refiner=None,
        diffusion=DiffusionStage(
            _ELSEWHERE, _ELSEWHERE, network=DenoiserConfig(channels=(24, 48, 96), blocks=1), views=8,
            augment=AugmentConfig(location_crop_probability=1.0, shift_mm=5.0, rotation_degrees=4.0, scale=0.06),
            fit=FitConfig(steps=840, batch_size=8, optimizer="muon", learning_rate=2e-3, schedule="one-cycle", ema_decay=0.99,
                          validate_every=210),
        ),
        generate=GenerateStage(_ELSEWHERE, _ELSEWHERE, sampler="dpmpp", steps=20, batch_size=6, tries=2),
        pretrain=PretrainStage(
            _ELSEWHERE, network=network,
            fit=FitConfig(steps=100, batch_size=2, optimizer="muon", learning_rate=2e-3, schedule="one-cycle", validate_every=50,
                          patience=50),
        ),
        finetune=FinetuneStage(
            _ELSEWHERE, network=network,
            fit=FitConfig(steps=240, batch_size=2, optimizer="muon", learning_rate=3e-3, schedule="one-cycle", validate_every=60,
                          patience=10),
        ),
    )  # fmt: skip


def study() -> Recipe:
    """64^3 voxels of 2.5 mm, 140 virtual patients: 30 to test on, and up to 106 for folds of labeled, generated and other real cases."""
    network = SegmenterConfig(channels=(16, 32, 64, 128), supervision=2)
    base = for_few_cases(demo())
    return replace(
        base,
        cohort=CohortConfig(data=VirtualData(patients=140), margin=(16, 16, 16), shares=(106.0, 4.0, 30.0)),
        generate=replace(base.generate, tries=4),
        pretrain=replace(base.pretrain, network=network, fit=replace(base.pretrain.fit, steps=400, validate_every=100)),
        finetune=replace(base.finetune, network=network, fit=replace(base.finetune.fit, steps=1000, validate_every=100, ema_decay=0.98)),
    )  # fmt: skip


def laptop() -> Recipe:
    """80 x 80 x 64 voxels of 2 x 2 x 2.5 mm, 160 virtual patients: a generator whose pairs can be judged, on two cores."""
    network = SegmenterConfig(channels=(16, 32, 64, 128))
    return Recipe(
        cohort=CohortConfig(data=VirtualData(patients=160), size=(80, 80, 64), spacing=(2.0, 2.0, 2.5), margin=(16, 16, 16)),
        autoencoder=AutoencoderStage(
            _ELSEWHERE, network=AutoencoderConfig(channels=(32, 64), blocks=1, latent_channels=8), patch=(32, 32, 32),
            loss=AutoencoderLossConfig(kl=5e-4),
            fit=FitConfig(steps=6500, batch_size=4, optimizer="muon", learning_rate=3e-3, weight_decay=1e-4, schedule="one-cycle",
                          validate_every=1300),
        ),
        refiner=RefinerStage(
            _ELSEWHERE, _ELSEWHERE,
            fit=FitConfig(steps=1200, batch_size=4, optimizer="muon", learning_rate=2e-3, schedule="one-cycle", ema_decay=0.99,
                          validate_every=400),
        ),
        diffusion=DiffusionStage(
            _ELSEWHERE, _ELSEWHERE, network=DenoiserConfig(channels=(48, 96, 192), blocks=1), views=6,
            augment=AugmentConfig(location_crop_probability=1.0, shift_mm=8.0, rotation_degrees=4.0, scale=0.05),
            fit=FitConfig(steps=2200, batch_size=8, optimizer="muon", learning_rate=2e-3, schedule="one-cycle", ema_decay=0.995,
                          validate_every=550),
        ),
        generate=GenerateStage(_ELSEWHERE, _ELSEWHERE, sampler="dpmpp", steps=20, batch_size=8),
        pretrain=PretrainStage(
            _ELSEWHERE, network=network,
            fit=FitConfig(steps=400, batch_size=2, optimizer="muon", learning_rate=2e-3, schedule="one-cycle", validate_every=100, patience=50),
        ),
        finetune=FinetuneStage(
            _ELSEWHERE, network=network,
            fit=FitConfig(steps=1500, batch_size=2, optimizer="muon", learning_rate=3e-3, schedule="one-cycle", validate_every=150, patience=10),
        ),
    )  # fmt: skip


def paper() -> Recipe:
    """Hu et al. 2025: 262 cases split 168 / 43 / 51, 256 x 256 x 160 voxels, DDPM, three generated pairs a case; meant for a large GPU."""
    network = SegmenterConfig(channels=(32, 64, 128, 256), blocks=2)
    return Recipe(
        cohort=CohortConfig(
            data=VirtualData(patients=262), size=(256, 256, 160), spacing=(0.75, 0.75, 0.9), margin=(16, 16, 16), shares=(168.0, 43.0, 51.0),
        ),
        autoencoder=AutoencoderStage(
            _ELSEWHERE, network=AutoencoderConfig(channels=(32, 64, 128), blocks=2, latent_channels=4, label_head="packed", fusion="sum"),
            augment=augment.paper_generator(), fit=FitConfig(steps=None, epochs=300, batch_size=1, learning_rate=1e-4, weight_decay=1e-4),
        ),
        refiner=None,
        diffusion=DiffusionStage(
            _ELSEWHERE, _ELSEWHERE, parameterization="ddpm", network=DenoiserConfig(channels=(64, 128, 256), blocks=2),
            augment=augment.paper_generator(), views=8, focus=0.0,
            fit=FitConfig(steps=100_000, batch_size=4, learning_rate=1e-4, ema_decay=0.9999, validate_every=2000, checkpoint_every=1000),
        ),
        generate=GenerateStage(_ELSEWHERE, _ELSEWHERE, sampler="ddpm", batch_size=1, complete=False, restore=False, gate=False),
        pretrain=PretrainStage(
            _ELSEWHERE, network=network, mask=MaskConfig(blocks=25, probability=0.8, block_size=(8, 16)),
            fit=FitConfig(steps=None, epochs=300, batch_size=1, learning_rate=1e-3, patience=50),
        ),
        finetune=FinetuneStage(
            _ELSEWHERE, network=network, ratio=3.0,
            fit=FitConfig(steps=None, epochs=300, batch_size=1, learning_rate=1e-3, patience=10),
        ),
        few=0,
    )  # fmt: skip
