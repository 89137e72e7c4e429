"""The whole method on eight tiny patients: every stage, run again, broken off, damaged, and the report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auricle import recipes
from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import finished
from auricle.data.augment import AugmentConfig
from auricle.data.cohort import FolderData, VirtualData
from auricle.data.nifti import read_nifti, write_nifti
from auricle.models.autoencoder import AutoencoderConfig
from auricle.models.denoiser import DenoiserConfig
from auricle.models.segmenter import SegmenterConfig
from auricle.phantom import virtual_patient
from auricle.report.page import write_report
from auricle.stages import assess, autoencoder, cohort, diffusion, evaluate, finetune, generate, pretrain
from auricle.stages.cohort import CohortConfig
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.pairs import cohort_pairs, generated_pairs
from auricle.stages.weights import read_model
from auricle.training import checkpoint
from auricle.training.loop import FitConfig, Hardware


@pytest.fixture(scope="module")
def whole(tiny: recipes.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("whole")
    for step in recipes.steps(tiny, root, None, 3, Hardware(accelerator="cpu")):
        step.run(step.config, step.out)
    return root


def test_every_stage_finishes_and_none_leaves_scratch_behind(tiny: recipes.Recipe, whole: Path) -> None:
    for step in recipes.steps(tiny, whole, None, 3, Hardware(accelerator="cpu")):
        assert finished(step.out, step.name.split()[0])
    leftovers = [p for p in whole.rglob("*") if p.name.startswith(".") or p.name in ("lock", "last.safetensors", "best.safetensors")]
    assert leftovers == []


def test_running_again_changes_nothing(tiny: recipes.Recipe, whole: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in whole.rglob("*") if p.is_file()}
    for step in recipes.steps(tiny, whole, None, 3, Hardware(accelerator="cpu")):
        step.run(step.config, step.out)
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in whole.rglob("*") if p.is_file()}


def test_few_cases_of_ones_own(tiny: recipes.Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are trained on twice, too. Here two scans each of six patients, and one scan of three patients has no label."""
    data, lines = tmp_path / "data", ["id,patient"]
    for i in range(12):
        case = virtual_patient(3, i, (32, 32, 32), (5.0, 5.0, 5.0))
        assert case.label is not None
        name, patient = f"scan{i}", f"patient{i // 2}"
        write_nifti(data / "images" / f"{name}.nii.gz", case.image, case.affine, dtype=np.int16)
        write_nifti(data / "labels" / f"{name}.nii.gz", case.label * (i not in (1, 5, 7)), case.affine, dtype=np.uint8)
        lines.append(f"{name},{patient}")
    (data / "patients.csv").write_text("\n".join(lines) + "\n")
    root = tmp_path / "run"
    for step in recipes.steps(tiny, root, FolderData(data), 3, Hardware(accelerator="cpu")):
        step.run(step.config, step.out)
    text = write_report(root, 1.5).read_text(encoding="utf-8")
    assert "Ours-plus" in text
    assert "weights of the segmenter in first-varied" in text
    assert "the varied baseline trained twice" in text
    assert [read_json(root / name / "done.json")["labeled"] > 0 for name in ("first-varied", "first-real")] == [False, True]
    assert read_json(root / "varied" / "pairs.json")["variation"] == tiny.variation
    # No patient is in two splits, and scans in which nothing is labeled are trained on and counted.
    assert capsys.readouterr().err.count("nothing is labeled; the case is taken for a scan without a heart") == 3
    cases = read_json(root / "cohort" / "cases.json")["cases"]
    splits = {c["patient"]: {d["split"] for d in cases if d["patient"] == c["patient"]} for c in cases}
    assert len(splits) == 6
    assert all(len(s) == 1 for s in splits.values())
    assert {c["split"] for c in cases if not c["structures"]} == {"train", "test"}
    rows = [row.split(",") for row in (root / "evaluate" / "baseline" / "cases.csv").read_text().splitlines()[1:]]
    absent = read_json(root / "evaluate" / "baseline" / "summary.json")["absent"]
    assert absent == {k: sum(row[1:3] == [k, ""] for row in rows) for k in KEYS}
    # The run lies elsewhere when it is assessed, and cases without a label are no part of that.
    made = replace(
        tiny.generate, autoencoder=root / "autoencoder", diffusion=root / "diffusion", cohort=root / "cohort", count=1, gate=True, restore=True,
        warp=True,
    )  # fmt: skip
    shutil.rmtree(root / "generate")
    generate.run(made, root / "generate")
    found = assess.run(root.rename(tmp_path / "moved"))
    for split, key in (("train", "training_cases"), ("test", "test_cases")):
        assert found[key] == sum(c["split"] == split and bool(c["structures"]) for c in cases)
    assert found["audit_recall_planted"] == 1.0
    assert found["audit_recall_planted_generated"] is not None


def test_pretraining_shows_what_it_restores(whole: Path) -> None:
    facts = read_json(whole / "pretrain" / "reconstruction.json")
    examples = np.load(whole / "pretrain" / "examples.npy")
    held = facts["images"]
    assert held >= 1
    assert examples.shape == (min(held, 3), 3, 32, 32, 32)
    assert min(facts["hidden_rmse_hu"], facts["seen_rmse_hu"]) > 0
    image, seen, _ = examples[0]
    hidden = seen != image
    assert 0.02 < hidden.mean() < 0.98
    # What is hidden is zero, what is not is the image.
    assert not seen[hidden].any()


def test_a_seed_gives_the_same_weights_and_pairs_twice(tiny: recipes.Recipe, whole: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    for step in recipes.steps(tiny, again, None, 3, Hardware(accelerator="cpu"))[:5]:
        step.run(step.config, step.out)
    for stage in ("autoencoder", "diffusion", "pretrain"):
        assert read_json(again / stage / "model.json")["sha256"] == read_json(whole / stage / "model.json")["sha256"]
    for path in sorted((again / "generate" / "labels").iterdir()):
        assert path.read_bytes() == (whole / "generate" / "labels" / path.name).read_bytes()


def test_more_pairs_or_other_batches_keep_the_first_pairs(tiny: recipes.Recipe, whole: Path, tmp_path: Path) -> None:
    config = replace(
        tiny.generate, autoencoder=whole / "autoencoder", diffusion=whole / "diffusion", cohort=whole / "cohort", seed=3, count=3, batch_size=1
    )  # fmt: skip
    generate.run(config, tmp_path / "few")
    for path in sorted((tmp_path / "few" / "images").iterdir()):
        few, many = read_nifti(path)[0], read_nifti(whole / "generate" / "images" / path.name)[0]
        assert np.abs(few.astype(int) - many.astype(int)).max() <= 1


def test_the_encoder_is_transferred_exactly_and_the_decoder_is_not(tiny: recipes.Recipe, whole: Path) -> None:
    from auricle.models.segmenter import Segmenter

    network = Segmenter(tiny.finetune.network, outputs=9)
    decoder = checkpoint.weights_hash(network.decoder.state_dict())
    finetune.transfer_encoder(network, whole / "pretrain")
    tensors, _ = checkpoint.load(whole / "pretrain" / "model.safetensors")
    encoder = checkpoint.subset("network.encoder", tensors)
    assert checkpoint.weights_hash(network.encoder.state_dict()) == checkpoint.weights_hash(encoder)
    assert checkpoint.weights_hash(network.decoder.state_dict()) == decoder
    with pytest.raises(InputError, match=r"another network \(channels"):
        finetune.transfer_encoder(Segmenter(SegmenterConfig(channels=(8, 16)), outputs=9), whole / "pretrain")


def test_a_whole_segmenter_can_be_the_start(tiny: recipes.Recipe, whole: Path, tmp_path: Path) -> None:
    """A step that changes next to nothing leaves its weights, decoder included; shape and identity are taken over from it."""
    start = whole / "finetune" / "ours"
    fit = replace(tiny.finetune.fit, steps=1, epochs=None, learning_rate=1e-9, weight_decay=0.0, optimizer="adamw", ema_decay=None)
    other = SegmenterConfig(channels=(4, 6, 8))
    stage = replace(tiny.finetune, cohort=whole / "cohort", initial=start, network=other, fit=fit, hardware=Hardware(accelerator="cpu"))
    out = finetune.run(stage, tmp_path / "model")
    (_, before, _), (facts, after, _) = (read_model(folder, "finetune") for folder in (start, out))
    assert facts["network"] == read_json(start / "model.json")["network"]
    assert before.keys() == after.keys()
    assert max(float((before[k] - after[k]).abs().max()) for k in before) < 1e-6
    assert finetune.identity(out) != finetune.identity(start)
    assert read_json(out / "config.json")["inputs"]["initial"] == finetune.identity(start)
    with pytest.raises(InputError, match="holds no fine-tuned segmenter"):
        finetune.run(replace(stage, initial=tmp_path / "none"), tmp_path / "other")
    with pytest.raises(ValueError, match="give one of them"):
        replace(stage, pretrained=whole / "pretrain")


def test_the_segmenter_that_ships_can_be_the_start(tiny: recipes.Recipe, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = replace(tiny.finetune.fit, steps=1, epochs=None)
    shipped = Path(finetune.SHIPPED)
    finetune.run(replace(tiny.finetune, cohort=whole / "cohort", initial=shipped, fit=fit, hardware=Hardware(accelerator="cpu")), tmp_path / "model")
    assert read_json(tmp_path / "model" / "model.json")["network"]["channels"] == [16, 32, 64, 128]
    assert "was trained at 2 x 2 x 2 mm" in capsys.readouterr().err


def test_arms_train_on_what_they_should(whole: Path) -> None:
    facts = {arm: read_json(whole / "finetune" / arm / "model.json")["training"] for arm in ("baseline", "medical-diffusion", "ours")}
    labeled = len(cohort_pairs(whole / "cohort", "train"))
    assert [facts[a]["generated"] for a in facts] == [0, 0, 3 * labeled]
    assert {facts[a]["labeled"] for a in facts} == {labeled - 1}
    assert {facts[a]["steps"] for a in facts} == {4}
    shown = cohort_pairs(whole / "cohort", "train").structures()
    assert {"LV", "MYO"} <= set(shown)
    assert tuple(read_json(whole / "finetune" / "baseline" / "model.json")["structures"]) == shown
    assert finetune.load(whole / "finetune" / "baseline").structures == shown


def test_an_altered_model_is_refused(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(whole / "finetune" / "ours", copy)
    tensors, _ = checkpoint.load(copy / "model.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-6
    checkpoint.save(copy / "model.safetensors", tensors, {})
    with pytest.raises(InputError, match="its hash differs"):
        finetune.load(copy)


def test_upstream_changes_are_noticed(tiny: recipes.Recipe, whole: Path, tmp_path: Path) -> None:
    """A stage that was made from another cohort is not silently mixed with this one."""
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    marker = read_json(copy / "cohort" / "done.json")
    (copy / "cohort" / "done.json").write_text(json.dumps({**marker, "fingerprint": "0" * 64}))
    step = next(s for s in recipes.steps(tiny, copy, None, 3, Hardware(accelerator="cpu")) if s.name == "autoencoder")
    with pytest.raises(InputError, match="holds another run"):
        autoencoder.run(replace(step.config, cohort=copy / "cohort"), step.out)


def test_cached_latents_are_whitened_to_unit_variance(whole: Path) -> None:
    latents, _ = checkpoint.load(whole / "diffusion" / "latents.safetensors")
    mean, scale = diffusion.whitening(latents["train_mean"], latents["train_std"])
    noise = torch.randn(latents["train_std"].shape, generator=torch.Generator().manual_seed(0))
    drawn = latents["train_mean"] + latents["train_std"] * noise
    white = (drawn - mean) / scale
    assert white.mean(dim=(0, 2, 3, 4)).abs().max() < 0.05
    assert (white.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.05


def test_report_and_summary(whole: Path) -> None:
    page = write_report(whole, 1.5)
    summary = read_json(whole / "summary.json")
    assert page.name == "report.html"
    assert page.stat().st_size > 50_000
    assert set(summary["arms"]) == {"baseline", "medical-diffusion", "ours"}
    assert set(summary["arms"]["ours"]["dice"]) == {"mean", *KEYS}
    assert set(summary["autoencoder"]["label_dice"]) == {"mean", *KEYS}
    assert 0 <= summary["generate"]["complete_share"] <= 1
    assert summary["peak_gib"] == 1.5
    assert summary["seconds"]["autoencoder"] > 0


@pytest.mark.parametrize("head", ["packed", "categorical"])
def test_both_label_heads_train(tiny: recipes.Recipe, tiny_cohort: Path, tmp_path: Path, head: str) -> None:
    config = replace(
        tiny.autoencoder, cohort=tiny_cohort, hardware=Hardware(accelerator="cpu"),
        network=AutoencoderConfig(channels=(8, 16), blocks=1, label_head=head),  # type: ignore[arg-type]
        fit=FitConfig(steps=30, batch_size=4, optimizer="muon", learning_rate=3e-3, validate_every=15),
    )  # fmt: skip
    autoencoder.run(config, tmp_path / head)
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / head / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assessment = read_json(tmp_path / head / "assessment.json")
    assert 0 <= assessment["label_dice"]["mean"] <= 1
    assert assessment["image_rmse_hu"] > 0


def test_a_run_killed_after_its_last_step_still_finishes(tiny: recipes.Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test split is assessed after training: a kill there must not lose the training."""
    step = next(s for s in recipes.steps(tiny, whole, None, 3, Hardware(accelerator="cpu")) if s.name == "autoencoder")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(autoencoder, "assess", killed)
        with pytest.raises(KeyboardInterrupt):
            autoencoder.run(step.config, tmp_path / "ae")
    autoencoder.run(step.config, tmp_path / "ae")
    assert read_json(tmp_path / "ae" / "model.json")["sha256"] == read_json(whole / "autoencoder" / "model.json")["sha256"]


def test_parts_that_do_not_belong_together_are_refused(tiny: recipes.Recipe, whole: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    step = next(s for s in recipes.steps(tiny, whole, None, 3, Hardware(accelerator="cpu")) if s.name == "autoencoder")
    other = autoencoder.run(replace(step.config, seed=9), tmp_path / "ae")
    with pytest.raises(InputError, match="another autoencoder"):
        generate.run(replace(tiny.generate, autoencoder=other, diffusion=whole / "diffusion"), tmp_path / "g")
    wider = CohortConfig(VirtualData(patients=4), size=(48, 48, 48), spacing=(4.0, 4.0, 4.0), margin=(0, 0, 0), workers=1)
    cohort.run(wider, tmp_path / "wide")
    with pytest.raises(InputError, match="works on"):
        evaluate.run(EvaluateStage(tmp_path / "wide", whole / "finetune" / "ours"), tmp_path / "e")
    with pytest.raises(InputError, match="cannot be mixed"):
        pretrain.run(replace(tiny.pretrain, generated=whole / "generate", cohort=tmp_path / "wide"), tmp_path / "p")
    asked = replace(tiny.generate, autoencoder=whole / "autoencoder", diffusion=whole / "diffusion", cohort=tiny_cohort, gate=True)
    with pytest.raises(InputError, match="copies of its cases would go unseen"):
        generate.run(asked, tmp_path / "g")
    assert not (tmp_path / "g").exists()
    assert not (tmp_path / "e").exists()


def test_networks_that_do_not_suit_the_grid_are_refused_before_anything_is_written(tiny: recipes.Recipe, whole: Path, tmp_path: Path) -> None:
    """So that the same --out takes the corrected flags."""
    deep = SegmenterConfig(channels=(4, 4, 4, 4, 4, 4, 4))
    prepared = whole / "cohort"
    wrong: dict[str, tuple[Any, Any]] = {
        "coarse": (finetune, replace(tiny.finetune, cohort=prepared, network=deep)),
        "wide": (finetune, replace(tiny.finetune, cohort=prepared, patch=(40, 40, 40))),
        "whole": (pretrain, replace(tiny.pretrain, generated=None, cohort=prepared, network=deep)),
        "latent": (diffusion, replace(tiny.diffusion, cohort=prepared, autoencoder=whole / "autoencoder", network=DenoiserConfig(channels=(8,) * 6))),
        "shallow": (autoencoder, replace(tiny.autoencoder, cohort=prepared, patch=None, network=AutoencoderConfig(channels=(4,) * 7, blocks=1))),
        "patch": (autoencoder, replace(tiny.autoencoder, cohort=prepared, patch=(64, 64, 64))),
    }
    for name, (stage, config) in wrong.items():
        with pytest.raises(InputError, match=r"multiple of|does not fit"):
            stage.run(config, tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("patch", [None, (16, 16, 16)])
def test_pairs_without_surroundings_are_continued(whole: Path, patch: tuple[int, int, int] | None) -> None:
    """Turned views meet no walls of air at the edges of generated pairs, patches of them neither, and none looks elsewhere."""
    turned = AugmentConfig(location_crop_probability=1.0, shift_mm=20.0, rotation_degrees=40.0, far_probability=0.5, far_mm=300.0)
    air = {}
    for name, pairs in (("generated", generated_pairs(whole / "generate")), ("cohort", cohort_pairs(whole / "cohort", "train"))):
        views = [pairs.batch([0], turned, torch.Generator().manual_seed(i), patch=patch)[0] for i in range(12)]
        air[name] = [bool((v == v.min()).float().mean() > 0.5) for v in views]
    assert not any(air["generated"])
    assert patch is not None or any(air["cohort"])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_ddpm_of_the_paper_trains_and_samples(tiny: recipes.Recipe, whole: Path, tmp_path: Path, sampler: str) -> None:
    """The reference model end to end: 1000 ancestral steps, or a few of DDIM, give whole and finite pairs."""
    stage = replace(
        tiny.diffusion, cohort=whole / "cohort", autoencoder=whole / "autoencoder", parameterization="ddpm",
        hardware=Hardware(accelerator="cpu"),
    )  # fmt: skip
    diffusion.run(stage, tmp_path / "d")
    config = replace(tiny.generate, autoencoder=whole / "autoencoder", diffusion=tmp_path / "d", count=1, sampler=sampler, steps=5)  # type: ignore[arg-type]
    out = generate.run(config, tmp_path / "g")
    assert read_json(out / "pairs.json")["steps"] == (1000 if sampler == "ddpm" else 5)
    image, _ = generated_pairs(out)[0]
    assert image.float().std() > 0
    # The reference visits all its levels, whatever is asked; before anything is written, too many for another are refused.
    if sampler == "ddim":
        with pytest.raises(InputError, match="1000 noise levels"):
            generate.run(replace(config, steps=2000), tmp_path / "too-many")
        assert not (tmp_path / "too-many").exists()
    nearby = generate.run(replace(config, steps=3, variation=0.1, count=1), tmp_path / "near")
    assert 3 <= read_json(nearby / "pairs.json")["steps"] < 1000
