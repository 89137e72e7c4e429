"""Arms for the ablation of `ours-plus` (docs/results/study.md).

    PYTHONPATH=. auricle study --out runs/study --arms baseline,ours-plus,benchmarks.ingredients:plus_plain,benchmarks.ingredients:mixed ..
"""

from dataclasses import replace

from auricle.stages.finetune import FinetuneStage
from auricle.study.arms import Shared, ours_plus, varied_baseline


def plus_plain(shared: Shared) -> FinetuneStage:
    """`ours-plus` without variety in the augmentation of its second training: its pairs alone bring it."""
    return replace(ours_plus(shared), augment=shared.finetune.augment)


def masked(shared: Shared) -> FinetuneStage:
    """Masked image modeling on the pairs of `ours-plus` in the place of its first training."""
    return replace(varied_baseline(shared), pretrained=shared.pretrained_varied)


def mixed(shared: Shared) -> FinetuneStage:
    """`ours` with the pairs and the augmentation of `ours-plus`; labeled cases about as often as pairs, and alone in the last 40% of the steps."""
    stage = masked(shared)
    return replace(stage, generated=shared.varied, real_weight=max(1, round(stage.ratio)), real_from=0.6)
