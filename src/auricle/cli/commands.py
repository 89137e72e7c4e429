"""One function a command: it fills a stage's configuration from the options, runs it and says where the result lies."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from auricle import __version__, recipes
from auricle.cli.options import (
    MaybeOut,
    Out,
    PlanOptions,
    RunOptions,
    SegmentOptions,
    Show,
    Shown,
    StudyOptions,
)
from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.machine import describe_machine
from auricle.core.memory import free_bytes, peak_gib
from auricle.data.cohort import FolderData
from auricle.recipes import RecipeName
from auricle.report import check_page
from auricle.report.assessment import write_assessment
from auricle.report.page import write_report
from auricle.report.study_page import write_study
from auricle.stages import (
    assess,
    autoencoder,
    batch,
    check,
    cohort,
    diffusion,
    evaluate,
    export,
    finetune,
    generate,
    measure,
    phantom,
    plan,
    pretrain,
    refiner,
    segment,
)
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.batch import BatchStage
from auricle.stages.check import CheckConfig
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.export import ExportStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.measure import MeasureStage
from auricle.stages.phantom_config import PhantomConfig
from auricle.stages.pretrain import PretrainStage
from auricle.stages.refiner import RefinerStage
from auricle.stages.segment import SegmentStage
from auricle.study.plan import Step, plan_study
from auricle.study.results import collect, join
from auricle.study.run import run_steps
from auricle.training.cost import measure_rate
from auricle.training.loop import Hardware


def _stage(run: Callable[[Any, Path], Any], config: type[Any], text: str) -> Callable[..., None]:
    def command(config: Any, out: Path, show: Show) -> None:
        _configure(show)
        if hasattr(config, "hardware"):
            _take(config.hardware)
        run(config, out)
        _finish(show, out, out=str(out))

    command.__doc__ = text
    command.__annotations__ = {"config": Annotated[config, tyro.conf.arg(name="")], "out": Out, "show": Shown, "return": None}
    return command


def _finish(show: Show, path: Path, **facts: Any) -> None:
    """Say what was made: as the last event, or by its path alone."""
    progress.event("finished", **facts)
    if not show.json:
        print(path)


def run_all(options: Annotated[RunOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Run every stage of a recipe, its arms included, and write the report."""
    _configure(show)
    options.hardware.fabric()
    _take(options.hardware)
    data = _own_data(options)
    chosen = recipes.recipe(options.recipe)
    chosen = replace(chosen, cohort=replace(chosen.cohort, workers=options.workers))
    steps = recipes.steps(chosen, options.out, data, options.seed, options.hardware)
    if options.hardware.accelerator == "cpu" or not torch.cuda.is_available():
        left = {s.name for s in steps if not (s.out / "done.json").exists()}
        if text := plan.shortage([(s.name, s.config) for s in steps], free_bytes(), left):
            progress.notice(text)
    for number, step in enumerate(steps, 1):
        progress.event("stage", name=step.name, number=number, total=len(steps))
        progress.report(f"[{number}/{len(steps)}] {step.name}")
        new = not (step.out / "done.json").exists()
        step.run(step.config, step.out)
        if new or not (options.out / "run.json").exists():
            _remember(options)
    page = write_report(options.out, float(read_json(options.out / "run.json")["peak_gib"]))
    _finish(show, page, report=str(page))


def _remember(options: RunOptions) -> None:
    """Keep what the report says about this run's provenance; the largest memory of all sittings."""
    path = options.out / "run.json"
    before = read_json(path) if path.exists() else {}
    write_json(path, {
        "recipe": options.recipe, "seed": options.seed, "version": __version__,
        "command": shlex.join(["auricle", *sys.argv[1:]]), "machine": describe_machine(),
        "started": before.get("started", datetime.now(UTC).isoformat(timespec="seconds")),
        "peak_gib": round(max(peak_gib(), before.get("peak_gib", 0.0)), 2),
    })  # fmt: skip


def _own_data(options: RunOptions | StudyOptions) -> FolderData | None:
    own = (options.label_map, options.assume_orientation, options.not_hu)
    if options.data is None and own != (None, None, False):
        raise InputError("--label-map, --assume-orientation and --not-hu describe your own cohort: give --data too")
    return None if options.data is None else FolderData(options.data, "folder", *own)


def report(runs: tyro.conf.Positional[tuple[Path, ...]], show: Shown, out: Path | None = None) -> None:
    """Write report.html and summary.json of a run, or the tables and figures of one study or of several parts of one, finished or not.

    Args:
        runs: Folder of a run or of a study; or folders and tables (study.csv) of a study that was run in parts.
        out: Folder to write; the run or the study itself where only one is given.
    """
    _configure(show)
    tables = [p for r in runs if (p := r / "study.csv" if r.is_dir() else r).is_file()]
    if len(runs) > 1 or out is not None or (len(runs) == 1 and runs[0].is_file()):
        missing = [str(r) for r in runs if (r / "study.csv" if r.is_dir() else r) not in tables]
        if missing:
            raise InputError(f"{', '.join(missing)}: holds no study.csv; several folders, and --out, are for studies")
        if out is None:
            raise InputError("give --out, the folder for the report of these tables")
        page = write_study(join(tables, out / "study.csv"), out, [t.parent for t in tables])
    elif len(runs) == 1:
        page = write_study(tables[0], runs[0], runs) if tables else _report_run(runs[0])
    else:
        raise InputError("name the folder of a run or of a study")
    _finish(show, page, report=str(page))


def _report_run(run: Path) -> Path:
    if (run / "folds").is_dir():
        raise InputError(f"{run}: is a study of which no training has been evaluated yet")
    if not (run / "cohort").is_dir():
        raise InputError(f"{run} is not the folder of a run: it holds no cohort")
    facts = read_json(run / "run.json") if (run / "run.json").exists() else {}
    return write_report(run, facts.get("peak_gib"))


def study_arms(options: Annotated[StudyOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Compare arms over folds, seeds and budgets, and write study.csv, tables and figures."""
    _configure(show)
    config = options.config()
    options.hardware.fabric()
    _take(options.hardware)
    data = _own_data(options)
    chosen = recipes.with_data(recipes.recipe(options.recipe), data, options.seed)
    if options.patients is not None:
        chosen = recipes.with_patients(chosen, options.patients)
    chosen = replace(chosen, cohort=replace(chosen.cohort, workers=options.workers))
    plan = plan_study(chosen, config, options.out, options.hardware)
    table = options.out / "study.csv"
    scores = {cell.scores for cell in plan.cells}

    def keep(step: Step) -> None:
        """Bring the table up to date, so that one that is broken off leaves what it has; `auricle report` makes the page of it."""
        if step.out in scores:
            collect(plan.cells, options.recipe, table)

    run_steps(plan.steps, after=keep)
    collect(plan.cells, options.recipe, table)
    page = write_study(table, options.out, [options.out])
    _finish(show, page, page=str(page))


def segment_scans(options: Annotated[SegmentOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Segment the heart in CT scans; each label map lies on its scan's own grid."""
    _configure(show)
    scans, many = batch.find_scans(options.scans, options.listing, options.options.series, options.out)
    model = segment.resolve_model(options.model)
    if not many:
        found = segment.run(SegmentStage(scans[0].path, model, options.options, options.overwrite), options.out)
        _finish(show, options.out, out=str(options.out), heart_found=found)
    else:
        entries = batch.run(BatchStage(scans, model, options.options, options.overwrite), options.out)
        failed = [e.scan.name for e in entries if e.status == "failed"]
        if failed:
            why = "see above" if len(failed) == len(entries) else f"{options.out / 'summary.json'} says why"
            raise InputError(f"{len(failed)} of {len(entries)} scans failed ({_few(failed)}): {why}")
        skipped = sum(e.status == "skipped" for e in entries)
        _finish(show, options.out, out=str(options.out), scans=len(entries), skipped=skipped)


def export_for_others(config: Annotated[ExportStage, tyro.conf.arg(name="")], out: Out, show: Shown) -> None:
    """Hand a segmenter or generated pairs to others: a bundle, MONAI, ONNX; NIfTI, nnU-Net, DICOM.

    Args:
        out: Folder to write, or a zip file where the name ends in .zip. For nnunet, the folder that holds the data sets.
    """
    _configure(show)
    out = export.run(config, out)
    _finish(show, out, out=str(out))


def measure_labels(config: Annotated[MeasureStage, tyro.conf.arg(name="")], show: Shown, out: MaybeOut = None, overwrite: bool = False) -> None:
    """Measure label maps: volumes, surfaces, plausibility, and agreement with a reference.

    Args:
        out: Folder for measures.csv, means.csv and measures.json; without it, the table goes to standard output alone.
        overwrite: Replace the output of an earlier run.
    """
    _configure(show)
    results = measure.run(config, out, overwrite=overwrite)
    for r in results:
        progress.event("measured", name=r.name, structures=r.rows, findings=r.findings, error=r.error)
    if not show.json and not (show.quiet and out):
        print(measure.table(results))
    failed = [r.name for r in results if r.error is not None]
    if failed:
        raise InputError(f"{len(failed)} of {len(results)} label maps could not be measured: {_few(failed)}")
    progress.event("finished", out=None if out is None else str(out), label_maps=len(results))


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", .." if len(names) > 8 else "")


def write_phantoms(config: Annotated[PhantomConfig, tyro.conf.arg(name="")], out: Out, show: Shown) -> None:
    """Write virtual patients as NIfTI files with a table of their attributes; a larger number extends the folder."""
    _configure(show)
    made = phantom.run(config, out)
    progress.report(f"{out}: {config.patients} patients, {made} of them new")
    _finish(show, out, out=str(out), made=made)


NO_MODELS: dict[str, Any] = {f.name: f.default for f in fields(GenerateStage) if f.name in ("autoencoder", "diffusion", "cohort")}
"""What `generate` is given where none of its models is named."""


def generate_pairs(
    config: Annotated[GenerateStage, tyro.conf.arg(name="")], show: Shown, out: Out = Path("runs/generated"), run: Path | None = None
) -> None:  # fmt: skip
    """Generate pairs of image and label map, as asked for.

    Args:
        out: Folder to write; the same command again goes on with it.
        run: Folder of a whole run, in place of --autoencoder, --diffusion and --cohort, and of --refiner unless that is given; runs/demo where
            none of these is given.
    """
    _configure(show)
    if run is None and replace(config, **NO_MODELS) == config:
        run = generate.DEFAULT_RUN
    elif run is not None and replace(config, **NO_MODELS) != config:
        raise InputError("--run stands for --autoencoder, --diffusion and --cohort: give it alone, or these without it")
    if run is not None:
        cohort_folder = run / "cohort" if (run / "cohort" / "done.json").exists() else None
        if config.refiner is None and (run / "refiner" / "done.json").exists():
            config = replace(config, refiner=run / "refiner")
        config = replace(config, autoencoder=run / "autoencoder", diffusion=run / "diffusion", cohort=cohort_folder)
    generate.run(config, out)
    _finish(show, out, out=str(out))


def assess_run(run: tyro.conf.Positional[Path], show: Shown, seed: int = 0) -> None:
    """Measure how good the generator of a run is: assessment.json, a table and figures."""
    _configure(show)
    assess.run(run, seed)
    page = write_assessment(run)
    _finish(show, page, assessment=str(run / "assessment.json"), page=str(page))


def check_data(
    config: Annotated[CheckConfig, tyro.conf.arg(name="")], show: Shown, out: MaybeOut = None, recipe: RecipeName = "demo"
) -> None:  # fmt: skip
    """Check a cohort or one scan before anything is trained on it; exit status 2 where something is refused.

    Args:
        out: Folder for check.json, check.csv and contact sheets; the same command again reads only what has changed. Only the table where not given.
        recipe: Recipe whose need of disk and memory on this cohort is told.
    """
    _configure(show)
    try:
        data = FolderData(config.data, "folder", config.label_map, config.assume_orientation, config.not_hu)
        steps = recipes.steps(recipes.recipe(recipe), Path("runs") / recipe, data, 0, Hardware())
    except InputError:
        # One scan, or too few labeled cases to train on, has no needs; the check itself says what is wrong.
        steps = []
    result = check.run(config, out, [(s.name, s.config) for s in steps] or None)
    sheets = [] if out is None else check_page.write_sheets(result, out)
    if not show.json:
        check_page.show(result)
        for path in [] if out is None else [out / "check.json", out / "check.csv", *sheets]:
            print(path)
    progress.event("finished", **result["summary"], out=None if out is None else str(out))
    if result["summary"]["refusals"]:
        sys.exit(2)


def plan_recipe(options: Annotated[PlanOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Estimate memory and time of every stage of a recipe on this machine, before anything runs."""
    _configure(show)
    memory = None if options.memory is None else plan.parse_size(options.memory)
    if options.data is None and options.label_map is not None:
        raise InputError("--label-map describes your own cohort: give --data too")
    data = None if options.data is None else FolderData(options.data, "folder", options.label_map)
    steps = recipes.steps(recipes.recipe(options.recipe), Path("runs") / options.recipe, data, options.seed, Hardware())
    estimates = plan.plan([(s.name, s.config) for s in steps], memory, measure_rate())
    for row in plan.rows(estimates):
        progress.event("estimate", **row)
    if not show.json:
        print(plan.table(estimates))
    lacking = [e.stage for e in estimates if e.fits is False]
    if lacking:
        raise InputError(f"{', '.join(lacking)} would not fit into {options.memory}: see the flags above")
    progress.event("finished", stages=len(estimates))


def _take(hardware: Hardware) -> None:
    """Let the choice of the CPU hold for encoding, generation and evaluation, which take a GPU where they see one."""
    if hardware.accelerator == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _configure(show: Show) -> None:
    progress.configure("json" if show.json else "quiet" if show.quiet else "bars")


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_all,
    "study": study_arms,
    "check": check_data,
    "segment": segment_scans,
    "measure": measure_labels,
    "export": export_for_others,
    "report": report,
    "phantom": write_phantoms,
    "cohort": _stage(cohort.run, CohortConfig, "Bring a cohort to the model grid and split it by patient."),
    "autoencoder": _stage(autoencoder.run, AutoencoderStage, "Train the joint autoencoder of images and label maps."),
    "refiner": _stage(refiner.run, RefinerStage, "Train the refiner, which gives decoded images back edges, small vessels and noise."),
    "diffusion": _stage(diffusion.run, DiffusionStage, "Train the diffusion model on the autoencoder's latents."),
    "generate": generate_pairs,
    "assess": assess_run,
    "plan": plan_recipe,
    "pretrain": _stage(pretrain.run, PretrainStage, "Pre-train the segmentation U-Net by masked image modeling."),
    "finetune": _stage(finetune.run, FinetuneStage, "Fine-tune the segmenter."),
    "evaluate": _stage(evaluate.run, EvaluateStage, "Evaluate a segmenter on the test split."),
}
