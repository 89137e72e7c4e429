"""The gate: which generated pairs are kept, and why the others are not."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core import progress
from auricle.core.anatomy import BACKGROUND, ID, KEYS
from auricle.metrics import memorization
from auricle.metrics.memorization import Descriptor, Match
from auricle.metrics.repair import BROAD_MM2, part, prune, repair
from auricle.phantom import BARE_MM2, bare_ventricle, check, contact_limits
from auricle.stages.pairs import Pairs, cohort_pairs

Labels = NDArray[np.uint8]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one candidate."""

    label: Labels
    """The label map, repaired where that was asked for."""
    faults_before: list[str]
    """What `phantom.check` finds wrong with the map before repair."""
    faults: list[str]
    """What it finds wrong with `label`; a copy of a training case is a fault, too."""
    match: Match | None = None
    """The nearest training case; None without an audit."""
    copy: bool = False

    @property
    def passed(self) -> bool:
        """Whether the pair is good."""
        return not self.faults


@dataclass(frozen=True)
class Audit:
    """The training cases, and how near to one of them an unseen case may come."""

    ids: list[str]
    training: list[Descriptor]
    threshold: float
    """Score above which a pair is a copy."""

    def match(self, image: NDArray[Any], label: Labels, spacing: Spacing) -> Match:
        """The nearest training case of a pair (HU, label map)."""
        return memorization.nearest(memorization.describe(image, label, spacing), self.training)


def audit(cohort: Path) -> Audit:
    """Describe the training cases of a prepared cohort; the threshold is calibrated on its validation split."""
    train, held_out = cohort_pairs(cohort, "train"), cohort_pairs(cohort, "validation")
    training = describe(train, "audit: training cases")
    unseen = describe(held_out, "audit: held-out cases")
    matches = [memorization.nearest(d, training) for d in progress.track(unseen, "audit: calibration", len(unseen))]
    return Audit([i.id for i in train.items], training, memorization.calibrate(matches))


def describe(pairs: Pairs, name: str) -> list[Descriptor]:
    """Descriptors of all pairs, on the model grid."""
    return [memorization.describe(*pairs.hu(i), pairs.grid.spacing) for i in progress.track(range(len(pairs)), name, len(pairs))]


def judge(label: Labels, spacing: Spacing, mend: bool = True, structures: Sequence[str] = KEYS) -> Verdict:
    """Repair (`mend`) and check the anatomy of one label map that is to show these `structures`.

    A repair that leaves more faults than it found is taken back.
    """
    before = check(label, spacing, structures=structures)
    verdict, voxel_ml = Verdict(label, before, before), float(np.prod(spacing)) / 1000.0
    if not mend:
        return verdict
    verdict = _better(verdict, repair(label, voxel_ml), spacing, structures)
    for remedy in (_part, _cover, _prune):
        if verdict.faults:
            verdict = _better(verdict, repair(remedy(verdict.label, spacing), voxel_ml), spacing, structures)
    return verdict


def _better(verdict: Verdict, mended: Labels, spacing: Spacing, structures: Sequence[str]) -> Verdict:
    if np.array_equal(mended, verdict.label):
        return verdict
    faults = check(mended, spacing, structures=structures)
    return verdict if len(faults) > len(verdict.faults) else replace(verdict, label=mended, faults=faults)


def _part(label: Labels, spacing: Spacing) -> Labels:
    """Walls between structures put back; the septum alone has a label."""
    wall = {("LV", "RV"): ID["MYO"]}
    return part(label, spacing, {(ID[a], ID[b]): (most, wall.get((a, b), BACKGROUND)) for (a, b), most in contact_limits(spacing).items()})


def _prune(label: Labels, spacing: Spacing) -> Labels:
    """No branches that are cut off from aorta or pulmonary artery."""
    return prune(label, (ID["AO"], ID["PA"]))


def _cover(label: Labels, spacing: Spacing) -> Labels:
    """Muscle put back where a wall thinner than a voxel, as at the apex, was lost: the bare voxels of the left ventricle become muscle."""
    voxels, area = bare_ventricle(label, spacing)
    if not BARE_MM2 < area <= BARE_MM2 + BROAD_MM2:
        return label
    covered = label.copy()
    covered[tuple(voxels.T)] = ID["MYO"]
    return covered


def audited(verdict: Verdict, image: NDArray[Any], spacing: Spacing, audit: Audit) -> Verdict:
    """The verdict with the nearest training case of the pair (`image` in HU): a copy of it is one fault more."""
    match = audit.match(image, verdict.label, spacing)
    if not memorization.is_copy(match, audit.threshold):
        return replace(verdict, match=match)
    return replace(verdict, match=match, copy=True, faults=[*verdict.faults, f"it is a copy of training case {audit.ids[match.index]}"])


def reasons(faults: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many candidates show each kind of fault, most frequent first; numbers in a fault are written as ``#``."""
    counts = Counter(kind for found in faults for kind in {kind_of(f) for f in found})
    return dict(counts.most_common())


def kind_of(fault: str) -> str:
    """A fault without its numbers and limits."""
    kind = re.sub(r"(training case) \S+", r"\1 #", fault)
    kind = re.sub(r"\d+(\.\d+)?", "#", kind.split(":")[0])
    return re.sub(r", (outside|at most|at least).*", "", kind)
