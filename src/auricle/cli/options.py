"""What each command is asked: dataclasses whose fields are the flags and whose docstrings are the help."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from auricle.recipes import RecipeName
from auricle.stages.segment import Options
from auricle.study.arms import DEFAULT_ARMS
from auricle.study.plan import StudyConfig
from auricle.training.loop import Hardware

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
MaybeOut = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]


@dataclass(frozen=True)
class Show:
    """What is shown while a command runs."""

    quiet: bool = False
    """Show notices and errors alone."""
    json: bool = False
    """Write one JSON event a line to standard output instead of progress bars."""


Shown = Annotated[Show, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class RunOptions:
    """Options of `auricle run`."""

    out: Out
    """Folder of the whole run; run the same command again to resume or to skip what is finished."""
    recipe: RecipeName = "demo"
    """demo (two cores, about 20 minutes), laptop (meant for an evening), study (for `auricle study`), paper (256 x 256 x 160, meant for a GPU)."""
    data: Path | None = None
    """Your own cohort: a folder of scans with label maps in a known layout, or a .csv of paths. Virtual patients otherwise."""
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


@dataclass(frozen=True)
class StudyOptions:
    """Options of `auricle study`. Lists are separated by commas or spaces."""

    out: Out
    """Folder of the study; the same command again resumes, and started several times at once its processes share the work."""
    recipe: RecipeName = "study"
    """study (64^3 voxels, two cores), or another recipe, whose cohort must hold enough training cases."""
    arms: tuple[str, ...] = DEFAULT_ARMS
    """Arms to compare: those named, and MODULE:FUNCTION for one of your own."""
    labelled: tuple[str, ...] = ("8",)
    """Numbers of labeled training patients."""
    ratio: tuple[str, ...] = ("3",)
    """Generated pairs for each labeled case."""
    budget: tuple[str, ...] = ()
    """Lengths of fine-tuning: optimizer steps, or early for the paper's early stopping; the recipe's steps where none is given."""
    seeds: int = 5
    """Folds of each size: other labeled cases, another generator, another initialization."""
    first_seed: int = 0
    """Number of the first of these folds, for a study that is run in parts."""
    data: Path | None = None
    """Your own cohort, as in `auricle run`; virtual patients otherwise."""
    patients: int | None = None
    """Virtual patients, where the largest fold with its ratio needs more than the recipe has; as many are tested on as without."""
    label_map: str | None = None
    """As in `auricle run`."""
    assume_orientation: str | None = None
    """As in `auricle run`."""
    not_hu: bool = False
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
            tuple(_listed(self.budget)), self.seeds, self.first_seed, self.seed,
        )  # fmt: skip


def _listed(words: Sequence[str]) -> list[str]:
    return [part for word in words for part in word.split(",") if part]


def _numbers(flag: str, words: Sequence[str], kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(word) for word in _listed(words)]
    except ValueError:
        raise ValueError(f"{flag} takes numbers separated by commas, not {' '.join(words)}") from None


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `auricle segment`."""

    scans: tyro.conf.Positional[tuple[Path, ...]]
    """NIfTI, NRRD or MetaImage file, folder of a DICOM series, one file of it, a .zip of these, or a folder of many scans; several of these."""
    out: Out
    """Folder for the result of one scan; of many, each gets a folder in it, and volumes.csv and summary.json say what was found in all."""
    listing: Annotated[Path | None, tyro.conf.arg(name="list")] = None
    """Text file with the path of a scan a line, or CSV with the columns scan and perhaps name and series."""
    model: Path | None = None
    """Folder of a fine-tuned segmenter, or of a whole run (of its arms `ours-plus`, else `ours`, else `baseline`); otherwise the one that ships with
    auricle."""
    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    """How scans are read, segmented and written."""
    overwrite: bool = False
    """Replace the output of an earlier run. Of many scans, those that are segmented already, with the same model and options, are skipped anyway."""


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
