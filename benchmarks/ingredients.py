"""Arms for the ablation of `ours-plus`: `ours` with one ingredient each.

    auricle study --out runs/study --arms baseline,ours,benchmarks.ingredients:weighted,benchmarks.ingredients:real_last ..
"""

from dataclasses import replace

from auricle.data import augment
from auricle.stages.finetune import FinetuneStage
from auricle.study.arms import Shared, baseline, generated_only, ours

TIMING = 0.4
HALF = 3
"""Visits of a labeled case that make labeled and generated pairs equally frequent at three generated pairs a case."""


def weighted(shared: Shared) -> FinetuneStage:
    """Labeled cases as often as generated pairs."""
    return replace(ours(shared), real_weight=HALF)


def real_last(shared: Shared) -> FinetuneStage:
    """Labeled cases alone in the last 40% of the steps."""
    return replace(ours(shared), real_from=0.6)


def continued(shared: Shared) -> FinetuneStage:
    """Generated pairs continued beyond their edges."""
    stage = ours(shared)
    return replace(stage, augment=replace(stage.augment, continue_edges=True))


def retimed(shared: Shared) -> FinetuneStage:
    """Another timing of the contrast agent in every view, of labeled and generated pairs."""
    return _with_timing(ours(shared))


def baseline_retimed(shared: Shared) -> FinetuneStage:
    """The baseline with other timings: what that alone gives."""
    return _with_timing(baseline(shared))


def baseline_warped(shared: Shared) -> FinetuneStage:
    """The baseline with shapes warped as for the generator."""
    return _warped(baseline(shared))


def baseline_varied(shared: Shared) -> FinetuneStage:
    """The baseline with both: other timings and shapes."""
    return _with_timing(_warped(baseline(shared)))


def _with_timing(stage: FinetuneStage) -> FinetuneStage:
    return replace(stage, augment=replace(stage.augment, timing=TIMING))


def _warped(stage: FinetuneStage) -> FinetuneStage:
    return replace(stage, augment=replace(stage.augment, warp_mm=augment.few_cases().warp_mm))


def together(shared: Shared) -> FinetuneStage:
    """All three."""
    return replace(continued(shared), real_weight=HALF, real_from=0.6)


def together_from_scratch(shared: Shared) -> FinetuneStage:
    """All three, without pre-training."""
    stage = generated_only(shared)
    return replace(stage, augment=replace(stage.augment, continue_edges=True), real_weight=HALF, real_from=0.6)
