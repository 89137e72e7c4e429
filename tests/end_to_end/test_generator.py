"""Generation as a user meets it: what is asked for, the gate, filling up, resuming, restoration, tiles and the assessment."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auricle import cli, recipes
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.data import conditions
from auricle.data.conditions import Conditions
from auricle.data.folder import find_pairs
from auricle.data.labels import read_label
from auricle.data.nifti import read_nifti
from auricle.models.autoencoder import AutoencoderConfig
from auricle.models.denoiser import DenoiserConfig
from auricle.models.refiner import RefinerConfig
from auricle.models.segmenter import SegmenterConfig
from auricle.stages import assess, autoencoder, diffusion, export, finetune, gate, generate, refiner, restoration
from auricle.stages.export import ExportStage
from auricle.stages.generate import GenerateStage
from auricle.stages.pairs import cohort_pairs, generated_pairs
from auricle.stages.refiner import RefinerStage
from auricle.stages.sampling import decode
from auricle.training.loop import FitConfig, Hardware


@pytest.fixture(scope="module")
def run(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a generator that has hardly been trained: nothing it makes is a heart."""
    root = tmp_path_factory.mktemp("generator")
    shutil.copytree(tiny_cohort, root / "cohort")
    demo, fit, cpu = recipes.demo(), FitConfig(steps=4, batch_size=2, validate_every=2), Hardware(accelerator="cpu")
    network = AutoencoderConfig(channels=(8, 16), blocks=1)
    autoencoder.run(
        replace(demo.autoencoder, cohort=root / "cohort", network=network, patch=(16, 16, 16), fit=fit, hardware=cpu), root / "autoencoder"
    )
    folders = {"cohort": root / "cohort", "autoencoder": root / "autoencoder"}
    refiner.run(RefinerStage(**folders, network=RefinerConfig((8, 12)), patch=(16, 16, 16), fit=fit, hardware=cpu), root / "refiner")
    diffusion.run(replace(
        demo.diffusion, cohort=root / "cohort", autoencoder=root / "autoencoder", network=DenoiserConfig(channels=(8, 16), blocks=1), views=2,
        fit=replace(fit, ema_decay=0.9), hardware=cpu,
    ), root / "diffusion")  # fmt: skip
    return root


def stage(run: Path, **changes: object) -> GenerateStage:
    base = GenerateStage(run / "autoencoder", run / "diffusion", run / "cohort", count=2, steps=3, batch_size=3, tries=3, seed=3)
    return replace(base, **changes)  # type: ignore[arg-type]


def judged_by(monkeypatch: pytest.MonkeyPatch, passing: set[int]) -> None:
    """Let candidates pass by their order instead of their anatomy."""
    real, calls = gate.judge, iter(range(10_000))

    def judge(*arguments: object, **named: object) -> gate.Verdict:
        verdict = real(*arguments, **named)  # type: ignore[arg-type]
        return replace(verdict, faults=[] if next(calls) in passing else ["it was made up"])

    monkeypatch.setattr(gate, "judge", judge)


def test_candidates_are_judged_until_enough_are_good(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, {1, 4, 5})
    table = read_json(generate.run(stage(run), tmp_path / "g") / "pairs.json")
    assert [p["id"] for p in table["pairs"]] == ["generated-3-0001", "generated-3-0004"]
    assert table["gate"]["candidates"] == 5
    assert table["gate"]["passed"] == 2
    assert table["gate"]["reasons"] == {"it was made up": 3}
    # What was rejected, and what was made but not needed, leaves no image behind.
    assert sorted(p.name for p in (tmp_path / "g" / "images").iterdir()) == ["generated-3-0001.nii.gz", "generated-3-0004.nii.gz"]


def test_the_batch_size_does_not_change_which_pairs_are_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for size in (1, 4):
        judged_by(monkeypatch, {0, 3})
        table = read_json(generate.run(stage(run, batch_size=size), tmp_path / str(size)) / "pairs.json")
        kept.append(([p["id"] for p in table["pairs"]], table["gate"]["candidates"]))
        monkeypatch.undo()
    assert kept[0] == kept[1]


def test_what_was_generated_goes_out_without_the_names_of_training_cases(run: Path, tmp_path: Path) -> None:
    made = generate.run(stage(run), tmp_path / "g")
    assert all(p["nearest"]["case"].startswith("virtual-") for p in read_json(made / "pairs.json")["pairs"])
    out = export.run(ExportStage(made, "nnunet"), tmp_path / "raw")
    found = find_pairs(out)
    assert [p.id for p in found] == [p["id"] for p in read_json(made / "pairs.json")["pairs"]]
    for item in found:
        assert np.array_equal(read_nifti(item.image)[0], read_nifti(made / "images" / f"{item.id}.nii.gz")[0])
    facts = (out / "provenance.json").read_text()
    assert read_json(run / "autoencoder" / "model.json")["sha256"] in facts
    assert "virtual-" not in facts + (out / "attributes.csv").read_text()
    assert str(tmp_path) not in facts


def test_where_too_few_are_good_the_least_faulty_fill_up(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, again = generate.describe, set()

    def seen(candidate: generate.Candidate, maker: generate.Maker) -> dict[str, Any]:
        if maker.restore_all:
            again.add(candidate.name)
        return real(candidate, maker)

    monkeypatch.setattr(generate, "describe", seen)
    table = read_json(generate.run(stage(run), tmp_path / "g") / "pairs.json")
    assert "only 0 of 6 candidates pass the gate; the 2 least faulty fill up" in " ".join(capsys.readouterr().err.split())
    candidates = [read_json(p) for p in sorted((tmp_path / "g" / "candidates").iterdir())]
    faults = sorted(len(c["faults"]) for c in candidates)
    assert len(candidates) == 6
    assert sorted(len(p["faults"]) for p in table["pairs"]) == faults[:2]
    assert len(generated_pairs(tmp_path / "g")) == 2
    # What is written is restored, which its candidate was not: it is described as it is written.
    assert again == {p["id"] for p in table["pairs"]}


def test_a_broken_generation_goes_on_to_the_same_pairs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = generate.run(stage(run), tmp_path / "whole"), tmp_path / "broken"
    made = generate.Maker.make

    def stop(self: generate.Maker, indices: list[int]) -> list[generate.Candidate]:
        if indices[0] >= 3:
            raise KeyboardInterrupt
        return made(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(generate.Maker, "make", stop)
        with pytest.raises(KeyboardInterrupt):
            generate.run(stage(run), out)
    assert len(list((out / "candidates").iterdir())) == 3
    generate.run(stage(run), out)
    assert read_json(out / "pairs.json") == read_json(whole / "pairs.json")
    for path in (whole / "images").iterdir():
        assert np.array_equal(read_nifti(path)[0], read_nifti(out / "images" / path.name)[0])


def test_what_is_asked_for_reaches_the_record_and_the_network(run: Path, tmp_path: Path) -> None:
    asked = Conditions(sex="F", contrast="none", volume=("LAA=12",))
    plain, told, free = (
        generate.run(stage(run, gate=False, restore=False, conditions=c, complete=full), tmp_path / name)
        for name, c, full in (("plain", Conditions(), True), ("told", asked, True), ("free", asked, False))
    )
    requested = [p["requested"] for p in read_json(told / "pairs.json")["pairs"]]
    assert all(r["sex"] == "F" and r["contrast"] == "none" and r["volumes_ml"]["LAA"] == 12.0 for r in requested)
    assert all(len(r["volumes_ml"]) >= 7 for r in requested)
    assert read_json(free / "pairs.json")["pairs"][0]["requested"] == {"sex": "F", "contrast": "none", "volumes_ml": {"LAA": 12.0}}
    first = [read_nifti(next(iter(sorted((f / "images").iterdir()))))[0] for f in (plain, told, free)]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


def test_tiles_and_guidance(run: Path, tmp_path: Path) -> None:
    images = {}
    for name, changes in {"whole": {}, "tiles": {"tile": 3}, "guided": {"guidance": 200.0}}.items():
        out = generate.run(stage(run, gate=False, restore=False, warp=False, count=1, **changes), tmp_path / name)
        images[name] = read_nifti(out / "images" / "generated-3-0000.nii.gz")[0].astype(int)
    assert np.abs(images["whole"] - images["tiles"]).max() <= 1
    assert np.abs(images["whole"] - images["guided"]).max() > 1


def test_variation_says_how_far_a_pair_is_from_the_view_it_starts_from(run: Path, tmp_path: Path) -> None:
    """Next to no noise gives the view's decoding back, more of it departs further, and the view's own conditions are asked for."""
    seen = diffusion.views(run / "diffusion")
    distance, requested = [], []
    for share in (0.02, 0.5, 0.9):
        config = stage(run, gate=False, restore=False, warp=False, count=1, variation=share)
        maker = generate.load(config)
        start = maker.start(0)
        view = decode(maker.decoder, seen.mean[start], maker.grid.spacing).image
        table = read_json(generate.run(config, tmp_path / str(share)) / "pairs.json")
        assert table["variation"] == share
        made = read_nifti(tmp_path / str(share) / "images" / "generated-3-0000.nii.gz")[0]
        distance.append(float(np.sqrt(np.mean((made - view) ** 2))))
        requested.append(table["pairs"][0]["requested"])
        of_view = conditions.decode(seen.conditions[start], maker.model.scales)
        assert requested[-1]["sex"] == of_view.describe()["sex"]
    assert distance[0] < 0.2 * distance[1] < 0.2 * distance[2]
    near = conditions.decode(seen.conditions[start], maker.model.scales).volumes_ml()
    assert requested[0]["volumes_ml"]["LV"] == pytest.approx(near["LV"], rel=0.05)


def test_a_gate_without_a_cohort_says_that_copies_go_unseen(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, cohort, said in (("with", run / "cohort", False), ("without", None, True)):
        generate.run(stage(run, cohort=cohort, count=1, tries=1, restore=False), tmp_path / name)
        assert ("copies of training cases are not looked for" in " ".join(capsys.readouterr().err.split())) == said


def test_a_share_of_the_pairs_that_is_none_is_refused(run: Path, tmp_path: Path) -> None:
    pairs = generate.run(stage(run, gate=False, count=1), tmp_path / "pairs")
    fit = FitConfig(steps=2, batch_size=2, validate_every=2)
    alone = replace(recipes.demo().finetune, cohort=run / "cohort", generated=pairs, ratio=0.01, real_weight=0, fit=fit,
                    network=SegmenterConfig(channels=(8, 16, 24)), hardware=Hardware(accelerator="cpu"))  # fmt: skip
    with pytest.raises(InputError, match="asks for no generated pair"):
        finetune.run(alone, tmp_path / "none")


def test_image_and_label_map_are_warped_together(run: Path, tmp_path: Path) -> None:
    plain, fitted = (generate.run(stage(run, gate=False, restore=False, count=1, warp=warp), tmp_path / str(warp)) for warp in (False, True))
    name = "generated-3-0000.nii.gz"
    for folder in ("images", "labels"):
        assert not np.array_equal(*(read_nifti(f / folder / name)[0] for f in (plain, fitted)))
    before, after = (read_json(f / "pairs.json")["pairs"][0] for f in (plain, fitted))
    asked = before["requested"]["volumes_ml"]
    assert after["requested"] == before["requested"]
    assert after["decoded_volumes_ml"] == before["decoded_volumes_ml"] == before["volumes_ml"]
    assert after["decoded_location_mm"] == before["decoded_location_mm"]
    there = [k for k in asked if before["volumes_ml"][k] > 0]
    assert there
    far, near = (sum(abs(np.log(r["volumes_ml"][k] / asked[k])) for k in there if r["volumes_ml"][k]) for r in (before, after))
    assert near < 0.9 * far  # an untrained network draws crumbs, far from any heart


def test_what_a_pair_was_asked_to_show_reaches_timing_and_refiner(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def obey(image: Any, label: Any, spacing: Any, asked: Any, known: Any, seed: int, index: int) -> Any:
        seen.append(asked)
        return image if index else image + 100.0

    def refine(self: refiner.Trained, image: Any, label: Any, loudness: float, metal: bool | None, seed: int, index: int) -> Any:
        seen.append((metal, float(image.mean())))
        return image

    monkeypatch.setattr(generate.timing, "obey", obey)
    monkeypatch.setattr(refiner.Trained, "refine", refine)
    asked = Conditions(contrast="none", metal=True)
    maker = generate.load(stage(run, gate=False, refiner=run / "refiner", conditions=asked))
    made = maker.make([0, 1])
    assert seen[0] == seen[2] == "none"
    assert seen[1][0] is seen[3][0] is True
    assert [c.retimed for c in made] == [True, False]
    assert generate.describe(made[0], maker)["retimed"]


def test_pairs_lie_as_far_apart_as_the_views_of_training(run: Path) -> None:
    maker = generate.load(stage(run))
    assert maker.model.location_sd_mm > 0.5
    still = replace(maker, model=replace(maker.model, location_sd_mm=0.0))
    moved, own = ([m.requested(i).location_mm for i in range(40)] for m in (maker, still))
    assert np.std(np.subtract(moved, own)) == pytest.approx(maker.model.location_sd_mm, rel=0.3)


def test_a_start_fulfills_what_is_asked_for(run: Path) -> None:
    seen = diffusion.views(run / "diffusion")
    scales = generate.load(stage(run)).model.scales
    shown = [conditions.decode(row, scales).contrast for row in seen.conditions]
    assert len(set(shown)) > 1
    for contrast in set(shown):
        maker = generate.load(stage(run, variation=0.5, conditions=Conditions(contrast=contrast)))
        assert {shown[maker.start(i)] for i in range(12)} == {contrast}
    maker = generate.load(stage(run, variation=0.5))
    assert len({maker.start(i) for i in range(12)}) > 3


def test_variation_needs_the_training_views(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "diffusion"
    shutil.copytree(run / "diffusion", bare, ignore=shutil.ignore_patterns("latents.safetensors"))
    with pytest.raises(InputError, match="--variation needs the training views"):
        generate.run(stage(run, diffusion=bare, variation=0.5), tmp_path / "g")
    with pytest.raises(ValueError, match="--variation must lie above 0 and at most at 1, is 0"):
        stage(run, variation=0.0)


def test_restoration_adds_the_training_residuals_noise_and_nothing_else(run: Path, tmp_path: Path) -> None:
    off, on = (generate.run(stage(run, gate=False, restore=r), tmp_path / str(r)) for r in (False, True))
    for a, b in zip(sorted((off / "labels").iterdir()), sorted((on / "labels").iterdir()), strict=True):
        assert np.array_equal(read_label(a)[0], read_label(b)[0])
    for a, b in zip(sorted((off / "images").iterdir()), sorted((on / "images").iterdir()), strict=True):
        difference = read_nifti(b)[0].astype(float) - read_nifti(a)[0]
        assert difference.std() > 1.0
        assert abs(difference.mean()) < 0.25 * difference.std()
    assert restoration.load(run / "autoencoder")
    (tmp_path / "ae").mkdir()
    with pytest.raises(InputError, match="--no-restore"):
        restoration.load(tmp_path / "ae")


def test_a_planted_copy_is_named_and_an_honest_case_is_not(run: Path) -> None:
    audited = gate.audit(run / "cohort")
    train, test = cohort_pairs(run / "cohort", "train"), cohort_pairs(run / "cohort", "test")
    image, label = train.hu(1)
    found = gate.audited(gate.judge(label, train.grid.spacing), image, train.grid.spacing, audited)
    assert found.copy
    assert not found.passed
    assert found.faults[-1] == f"it is a copy of training case {train.items[1].id}"
    image, label = test.hu(0)
    other = gate.audited(gate.judge(label, test.grid.spacing), image, test.grid.spacing, audited)
    assert other.match is not None
    assert found.match is not None
    assert other.match.score < found.match.score
    assert gate.reasons([["PA is in 3 pieces, 12% of it outside the largest"], ["PA is in 2 pieces, 7% of it outside the largest", "x 1"]]) == {
        "PA is in # pieces, #% of it outside the largest": 2, "x #": 1,
    }  # fmt: skip


def test_assess_writes_one_flat_object_and_its_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    shutil.copytree(run, root)
    generate.run(stage(root, count=4, tries=1), root / "generate")
    cli.main(["assess", str(root), "--quiet"])
    assert capsys.readouterr().out.strip() == str(root / "assessment" / "assessment.md")
    flat = read_json(root / "assessment.json")
    assert all(v is None or isinstance(v, int | float | str) for v in flat.values())
    wanted = {"label_dice_mean", "label_dice_LAA", "impossible_boundary_share", "speck_share", "image_rmse_hu", "noise_sd_hu", "gate_pass_share",
              "texture_sd_ratio_blood", "texture_sd_ratio_myocardium", "texture_sd_ratio_fat", "copy_share", "volume_r",
              "audit_recall_planted_generated", "nearest_donor_share"}  # fmt: skip
    assert wanted <= set(flat)
    # Nothing was asked for, so the training cases give their conditions in turn.
    train, pairs = cohort_pairs(root / "cohort", "train"), read_json(root / "generate" / "pairs.json")["pairs"]
    assert [p["donor"] for p in pairs] == [train.items[k % len(train)].id for k in range(4)]
    near = [p["nearest"]["case"] == p["donor"] for p in pairs if p["nearest"]]
    assert near
    assert flat["nearest_donor_share"] == pytest.approx(sum(near) / len(near), abs=1e-6)
    assert flat["nearest_donor_chance"] == pytest.approx(1 / len(train), abs=1e-6)
    assert flat["pairs"] == 4
    assert flat["gate_pass_share"] == 0.0
    again = assess.run(root)
    assert again == flat


def test_assess_refuses_what_is_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished generate"):
        assess.run(run)
    root = tmp_path / "old"
    shutil.copytree(run, root)
    generate.run(stage(root, gate=False, count=1), root / "generate")
    table = read_json(root / "generate" / "pairs.json")
    write_json(root / "generate" / "pairs.json", {k: v for k, v in table.items() if k != "gate"})
    with pytest.raises(InputError, match="generate again"):
        assess.run(root)


def test_a_model_of_an_earlier_version_is_refused(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "diffusion"
    shutil.copytree(run / "diffusion", old)
    facts = read_json(old / "model.json")
    facts.pop("location_sd_mm")
    write_json(old / "model.json", facts)
    with pytest.raises(InputError, match="train it again"):
        diffusion.load(old)


def test_samples_do_not_depend_on_the_batch(run: Path) -> None:
    maker = generate.load(stage(run))
    asked = [Conditions(sex="F"), Conditions(volume=("LV=80",)), Conditions()]
    together = maker.sample([0, 1, 2], asked)
    alone = torch.cat([maker.sample([i], [asked[i]]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-3)


def test_the_refiner_draws_a_residual_of_its_own_for_every_pair(run: Path) -> None:
    trained = refiner.load(run / "refiner", run / "autoencoder")
    image, label = cohort_pairs(run / "cohort", "train").hu(0)
    drawn = [trained.refine(image, label, 0.5, None, 0, i) for i in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert drawn[0].shape == image.shape
    assert np.abs(drawn[0]).max() <= 1000.0


def test_a_refiner_is_used_where_there_is_one_and_restoration_is_on(run: Path, tmp_path: Path) -> None:
    kinds = {"refined": {"refiner": run / "refiner"}, "off": {"refiner": run / "refiner", "restore": False}, "plain": {"restore": False}}
    images = {}
    for name, changes in kinds.items():
        folder = generate.run(stage(run, gate=False, **changes), tmp_path / name)
        images[name] = read_nifti(folder / "images" / "generated-3-0000.nii.gz")[0]
    assert np.array_equal(images["off"], images["plain"])
    assert not np.array_equal(images["refined"], images["plain"])


def test_a_refiner_of_an_earlier_version_is_refused(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "refiner"
    shutil.copytree(run / "refiner", old)
    facts = read_json(old / "model.json")
    facts.pop("known")
    write_json(old / "model.json", facts)
    with pytest.raises(InputError, match="train it again"):
        refiner.load(old, run / "autoencoder")


def test_a_killed_refiner_resumes_to_the_same_weights(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = FitConfig(steps=4, batch_size=2, validate_every=2, checkpoint_every=1, ema_decay=0.9)
    config = RefinerStage(
        run / "cohort", run / "autoencoder", network=RefinerConfig((8, 12)), patch=(16, 16, 16), fit=fit, hardware=Hardware(accelerator="cpu")
    )
    whole = read_json(refiner.run(config, tmp_path / "whole") / "model.json")["sha256"]
    real, calls = refiner.denoising_loss, iter(range(100))

    def killed(*arguments: object) -> torch.Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(refiner, "denoising_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        refiner.run(config, tmp_path / "broken")
    monkeypatch.undo()
    assert read_json(refiner.run(config, tmp_path / "broken") / "model.json")["sha256"] == whole


def test_a_refiner_of_another_autoencoder_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "autoencoder", tmp_path / "other")
    facts = read_json(tmp_path / "other" / "model.json")
    write_json(tmp_path / "other" / "model.json", facts | {"sha256": "0" * 64})
    with pytest.raises(InputError, match="trained on images of another autoencoder"):
        refiner.load(run / "refiner", tmp_path / "other")


@pytest.mark.parametrize("given", [True, False])
def test_a_run_lends_its_refiner_unless_another_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    taken: list[GenerateStage] = []
    monkeypatch.setattr(generate, "run", lambda config, out: taken.append(config))
    named = ["--refiner", str(tmp_path / "other")] if given else []
    cli.main(["generate", "-n", "1", "--run", str(run), "--out", str(tmp_path / "g"), "--quiet", *named])
    assert taken[0].refiner == (tmp_path / "other" if given else run / "refiner")
