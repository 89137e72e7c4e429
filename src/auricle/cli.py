"""The command line: one command a stage, `run` for all of them, `segment` for a scan."""

import contextlib
import functools
import io
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from auricle import __version__, recipes
from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.machine import describe_machine, peak_gib
from auricle.data.cohort import FolderData
from auricle.recipes import RecipeName
from auricle.report.assessment import write_assessment
from auricle.report.page import write_report
from auricle.report.study_page import write_study
from auricle.stages import (
    assess,
    autoencoder,
    cohort,
    diffusion,
    evaluate,
    finetune,
    generate,
    phantom,
    plan,
    pretrain,
    refiner,
    segment,
)
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.phantom_config import PhantomConfig
from auricle.stages.pretrain import PretrainStage
from auricle.stages.refiner import RefinerStage
from auricle.stages.segment import SegmentStage
from auricle.study.plan import StudyConfig, plan_study
from auricle.study.results import collect
from auricle.study.run import run_steps
from auricle.training.cost import measure_rate
from auricle.training.loop import Hardware

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


@dataclass(frozen=True)
class Show:
    """What is shown while a command runs."""

    quiet: bool = False
    """Show notices and errors alone."""
    json: bool = False
    """Write one JSON event a line to standard output instead of progress bars."""


Shown = Annotated[Show, tyro.conf.arg(name="")]


def _stage(run: Callable[[Any, Path], Any], config: type[Any], text: str) -> Callable[..., None]:
    def command(config: Any, out: Path, show: Show) -> None:
        _configure(show)
        run(config, out)

    command.__doc__ = text
    command.__annotations__ = {"config": Annotated[config, tyro.conf.arg(name="")], "out": Out, "show": Shown, "return": None}
    return command


@dataclass(frozen=True)
class RunOptions:
    """Options of `auricle run`."""

    out: Out
    """Folder of the whole run; run the same command again to resume or to skip what is finished."""
    recipe: RecipeName = "demo"
    """demo (two cores, under 20 minutes), laptop (meant for an evening), study (for `auricle study`), paper (256 x 256 x 160, meant for a GPU)."""
    data: Path | None = None
    """Your own cohort: an nnU-Net raw data set, or a folder of image and label pairs. Virtual patients otherwise."""
    label_map: str | None = None
    """What the label files' values mean, e.g. ``1=LV,2=RV``, where your cohort names none."""
    assume_orientation: str | None = None
    """Axis code such as RAS for files of your cohort that state no orientation."""
    not_hu: bool = False
    """Accept images of your cohort whose values do not look like HU."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = 0
    """Processes that prepare cases; 0 takes one a core. Fewer need less memory."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""


def run_all(options: Annotated[RunOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Run every stage of a recipe, the three arms included, and write the report."""
    _configure(show)
    options.hardware.fabric()
    own = (options.label_map, options.assume_orientation, options.not_hu)
    if options.data is None and own != (None, None, False):
        raise InputError("--label-map, --assume-orientation and --not-hu describe your own cohort: give --data too")
    data = None if options.data is None else FolderData(options.data, "folder", *own)
    chosen = recipes.recipe(options.recipe)
    chosen = replace(chosen, cohort=replace(chosen.cohort, workers=options.workers))
    plan = recipes.steps(chosen, options.out, data, options.seed, options.hardware)
    for number, step in enumerate(plan, 1):
        progress.event("stage", name=step.name, number=number, total=len(plan))
        progress.report(f"[{number}/{len(plan)}] {step.name}")
        step.run(step.config, step.out)
        _remember(options)
    page = write_report(options.out, float(read_json(options.out / "run.json")["peak_gib"]))
    progress.event("finished", report=str(page))
    if not show.json:
        print(page)


def report(run: tyro.conf.Positional[Path], show: Shown) -> None:
    """Write report.html and summary.json of a run, finished or not."""
    _configure(show)
    if not (run / "cohort").is_dir():
        raise InputError(f"{run} is not the folder of a run: it holds no cohort")
    facts = read_json(run / "run.json") if (run / "run.json").exists() else {}
    page = write_report(run, facts.get("peak_gib"))
    progress.event("finished", report=str(page))
    if not show.json:
        print(page)


@dataclass(frozen=True)
class StudyOptions:
    """Options of `auricle study`. Lists are separated by commas or spaces."""

    out: Out
    """Folder of the study; the same command again resumes, and started several times at once its processes share the work."""
    recipe: RecipeName = "study"
    """study (64^3 voxels, two cores), or another recipe, whose cohort must hold enough training cases."""
    arms: tuple[str, ...] = ("baseline", "medical-diffusion", "ours", "real-upper-bound")
    """Arms to compare: those named, and MODULE:FUNCTION for one of your own."""
    labelled: tuple[str, ...] = ("8",)
    """Numbers of labeled training cases."""
    ratio: tuple[str, ...] = ("3",)
    """Generated pairs for each labeled case."""
    budget: tuple[str, ...] = ()
    """Lengths of fine-tuning: optimizer steps, or early for the paper's early stopping; the recipe's steps where none is given."""
    seeds: int = 5
    """Folds of each size: other labeled cases, another generator, another initialization."""
    data: Path | None = None
    """Your own cohort, as in `auricle run`; virtual patients otherwise."""
    label_map: str | None = None
    """As in `auricle run`."""
    seed: int = 0
    """Seed of the cohort and its test split."""
    workers: int = 0
    """Processes that prepare cases; 0 takes one a core."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""

    def config(self) -> StudyConfig:
        """What is studied; raises `ValueError` for a list that cannot be read."""
        return StudyConfig(
            tuple(_listed(self.arms)), tuple(_numbers("--labelled", self.labelled, int)), tuple(_numbers("--ratio", self.ratio, float)),
            tuple(_listed(self.budget)), self.seeds, self.seed,
        )  # fmt: skip


def _listed(words: Sequence[str]) -> list[str]:
    return [part for word in words for part in word.split(",") if part]


def _numbers(flag: str, words: Sequence[str], kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(word) for word in _listed(words)]
    except ValueError:
        raise ValueError(f"{flag} takes numbers separated by commas, not {' '.join(words)}") from None


def study_arms(options: Annotated[StudyOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Compare arms over folds, seeds and budgets, and write study.csv, tables and figures."""
    _configure(show)
    config = options.config()
    options.hardware.fabric()
    if options.data is None and options.label_map is not None:
        raise InputError("--label-map describes your own cohort: give --data too")
    data = None if options.data is None else FolderData(options.data, "folder", options.label_map)
    chosen = recipes.with_data(recipes.recipe(options.recipe), data, options.seed)
    chosen = replace(chosen, cohort=replace(chosen.cohort, workers=options.workers))
    plan = plan_study(chosen, config, options.out, options.hardware)
    run_steps(plan.steps)
    page = write_study(collect(plan.cells, options.recipe, options.out / "study.csv"), options.out)
    progress.event("finished", page=str(page))
    if not show.json:
        print(page)


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `auricle segment`."""

    scan: tyro.conf.Positional[Path]
    """NIfTI file, folder of a DICOM series, or one file of it."""
    out: Out
    """Folder for labels.nii.gz, labels.ctbl, volumes.csv, preview.png and segmentation.json."""
    model: Path | None = None
    """Folder of a fine-tuned segmenter, or of a whole run (its arm `ours` is taken); the one that ships with auricle otherwise."""
    mirror: bool = False
    """Average over mirror images too, for a model that was trained on them: four times the time."""
    series: str | None = None
    """Series instance UID or number, where a folder holds several."""
    assume_orientation: str | None = None
    """Axis code such as RAS for a NIfTI file that states no orientation."""
    volume_index: int | None = None
    """Which volume of a 4D file."""
    not_hu: bool = False
    """Accept values that do not look like HU."""
    overwrite: bool = False
    """Replace the output of an earlier run."""


def segment_scan(options: Annotated[SegmentOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Segment the heart in one CT scan; the label map lies on the scan's own grid."""
    _configure(show)
    stage = SegmentStage(
        options.scan, segment.resolve_model(options.model), options.mirror, options.series, options.assume_orientation, options.volume_index,
        options.not_hu, options.overwrite,
    )  # fmt: skip
    result = segment.run(stage, options.out)
    progress.event("finished", out=str(options.out), heart_found=result.heart_found)
    if not show.json:
        print(options.out)


def write_phantoms(config: Annotated[PhantomConfig, tyro.conf.arg(name="")], out: Out, show: Shown) -> None:
    """Write virtual patients as NIfTI files with a table of their attributes; a larger number extends the folder."""
    _configure(show)
    made = phantom.run(config, out)
    progress.report(f"{out}: {config.patients} patients, {made} of them new")
    progress.event("finished", out=str(out), made=made)
    if not show.json:
        print(out)


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
    if run is None and config.autoencoder == generate.DEFAULT_RUN / "autoencoder" and config.cohort is None:
        run = generate.DEFAULT_RUN
    if run is not None:
        cohort_folder = run / "cohort" if (run / "cohort" / "done.json").exists() else None
        if config.refiner is None and (run / "refiner" / "done.json").exists():
            config = replace(config, refiner=run / "refiner")
        config = replace(config, autoencoder=run / "autoencoder", diffusion=run / "diffusion", cohort=cohort_folder)
    generate.run(config, out)
    progress.event("finished", out=str(out))
    if not show.json:
        print(out)


def assess_run(run: tyro.conf.Positional[Path], show: Shown, seed: int = 0) -> None:
    """Measure how good the generator of a run is: assessment.json, a table and figures."""
    _configure(show)
    assess.run(run, seed)
    page = write_assessment(run)
    progress.event("finished", assessment=str(run / "assessment.json"), page=str(page))
    if not show.json:
        print(page)


@dataclass(frozen=True)
class PlanOptions:
    """Options of `auricle plan`."""

    recipe: RecipeName = "demo"
    """demo, laptop, study or paper."""
    memory: str | None = None
    """Memory that it has to fit into, e.g. 16GiB; exit status 2 where it does not."""
    data: Path | None = None
    """Your own cohort, whose size then counts."""
    label_map: str | None = None
    """As in `auricle run`."""
    seed: int = 0
    """Seed of the split."""


def plan_recipe(options: Annotated[PlanOptions, tyro.conf.arg(name="")], show: Shown) -> None:
    """Estimate memory and time of every stage of a recipe on this machine, before anything runs."""
    _configure(show)
    memory = None if options.memory is None else plan.parse_size(options.memory)
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


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_all,
    "study": study_arms,
    "segment": segment_scan,
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 2 the input cannot be used, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"auricle {__version__}")
        return
    # What our dependencies deprecate is not the user's business.
    warnings.filterwarnings("ignore", module=r"(monai|lightning_fabric|torch)\b")
    try:
        _parse(arguments)()
    except (InputError, ValueError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("auricle: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate", str(error)):
            raise
        _fail("out of memory: take a smaller recipe, batch, patch or model grid")
    except OSError as error:
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}")


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to run; exits with one line where they are wrong."""
    chosen: list[Callable[[], None]] = []

    def deferred(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def keep(*values: Any, **named: Any) -> None:
            chosen.append(functools.partial(command, *values, **named))

        return keep

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            tyro.extras.subcommand_cli_from_dict(
                {name: deferred(command) for name, command in COMMANDS.items()}, prog="auricle", args=arguments, description=__doc__
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            _fail(_one_line(errors.getvalue()))
        raise
    return chosen[0]


def _one_line(boxed: str) -> str:
    """The parser's framed message without its frame."""
    lines = [re.sub(r"[╭╮╰╯│─]", " ", line).strip() for line in boxed.splitlines()]
    text = " ".join(line for line in lines[1:] if line)
    return re.sub(r"\s+", " ", text).replace("For full helptext, run", "- see").replace(":  ", ": ").strip()


def _fail(message: str) -> NoReturn:
    progress.event("error", message=message)
    print(f"auricle: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _configure(show: Show) -> None:
    progress.configure("json" if show.json else "quiet" if show.quiet else "bars")


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


if __name__ == "__main__":
    main()
