"""Arms for the ablation of `ours-plus`: `ours` with one ingredient each, and `ours-plus` without one.

    auricle study --out runs/study --arms baseline,ours,benchmarks.ingredients:weighted,benchmarks.ingredients:real_last ..
"""

from dataclasses import replace

from auricle.stages.finetune import FinetuneStage
from auricle.study.arms import Shared, generated_only, ours, ours_plus

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


def together(shared: Shared) -> FinetuneStage:
    """All three."""
    return replace(continued(shared), real_weight=HALF, real_from=0.6)


def together_from_scratch(shared: Shared) -> FinetuneStage:
    """All three, without pre-training."""
    stage = generated_only(shared)
    return replace(stage, augment=replace(stage.augment, continue_edges=True), real_weight=HALF, real_from=0.6)


def plus_without_pairs(shared: Shared) -> FinetuneStage:
    """`ours-plus` with its pre-training, but no generated pair in fine-tuning."""
    return replace(ours_plus(shared), generated=None, real_weight=1, real_from=1.0)


def plus_from_scratch(shared: Shared) -> FinetuneStage:
    """`ours-plus` without pre-training."""
    return replace(ours_plus(shared), pretrained=None)


def plus_mixed(shared: Shared) -> FinetuneStage:
    """`ours-plus` with every pair as often as a labeled case, to the end, as `ours` has it."""
    return replace(ours_plus(shared), real_weight=1, real_from=1.0)


def plus_sure(shared: Shared) -> FinetuneStage:
    """`ours-plus` without the voxels of its pairs of whose label the decoder is less than 80% sure."""
    return replace(ours_plus(shared), least_confidence=0.8)


def plus_plain(shared: Shared) -> FinetuneStage:
    """`ours-plus` without shapes and timings in the augmentation of fine-tuning: its pairs alone bring these."""
    return replace(ours_plus(shared), augment=replace(shared.finetune.augment, continue_edges=True))
