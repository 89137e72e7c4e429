"""The arms of the comparison: one function each, from what the arms of a fold share to a fine-tuning stage.

A new arm is a new function here and an entry in `ARMS`, or a function of your own, named as MODULE:FUNCTION (docs/how-to/run-a-study.md).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from auricle.data import augment
from auricle.stages.finetune import FinetuneStage

_NOWHERE = Path()
"""What a single run does not have."""
EVEN_PROBABILITY = 0.1
"""Of views as of a venous scan or of one without contrast agent, in `ours-plus` alone; a generator of three cases did worse with them."""


@dataclass(frozen=True)
class Shared:
    """What every arm has at hand; what stands below `pretrained` in a study alone."""

    finetune: FinetuneStage
    """Network, augmentation, budget, ratio and cohort, the same in all arms."""
    generated: Path
    """Folder of generated pairs."""
    pretrained: Path
    """Folder of the U-Net pre-trained on generated images."""
    extra: Path = _NOWHERE
    """Folder of other labeled cases, as many as there are generated pairs: what perfect generation would give."""
    decoded: Path = _NOWHERE
    """Folder of those cases after the autoencoder's round trip: what a perfect diffusion model would give with this autoencoder."""
    pretrained_real: Path = _NOWHERE
    """Folder of the U-Net pre-trained on the labeled images alone."""
    pretrained_both: Path = _NOWHERE
    """Folder of the U-Net pre-trained on generated and labeled images."""
    varied: Path = _NOWHERE
    """Folder of generated pairs that start from noised views of the labeled cases."""
    pretrained_varied: Path = _NOWHERE
    """Folder of the U-Net pre-trained on those."""


Arm = Callable[[Shared], FinetuneStage]


def baseline(shared: Shared) -> FinetuneStage:
    """Labelled cases alone, from scratch."""
    return replace(shared.finetune, generated=None, pretrained=None)


def medical_diffusion(shared: Shared) -> FinetuneStage:
    """Pre-trained on generated images, fine-tuned on labeled cases (Khader et al. 2023, as the paper reproduces it)."""
    return replace(shared.finetune, generated=None, pretrained=shared.pretrained)


def ours(shared: Shared) -> FinetuneStage:
    """Pre-trained on generated images, fine-tuned on labeled cases and generated pairs (Hu et al. 2025)."""
    return replace(shared.finetune, generated=shared.generated, pretrained=shared.pretrained)


def real_upper_bound(shared: Shared) -> FinetuneStage:
    """Other labeled cases in the place of generated pairs: what perfect generation would give."""
    return replace(shared.finetune, generated=shared.extra, pretrained=None)


def decoded_upper_bound(shared: Shared) -> FinetuneStage:
    """The upper bound's cases after the autoencoder's round trip: beside it, this says what the autoencoder costs, and beside `ours`, diffusion."""
    return replace(shared.finetune, generated=shared.decoded, pretrained=None)


def generated_only(shared: Shared) -> FinetuneStage:
    """`ours` without pre-training: what the pairs alone give."""
    return replace(shared.finetune, generated=shared.generated, pretrained=None)


def real_pretraining(shared: Shared) -> FinetuneStage:
    """Pre-trained on the labeled images, fine-tuned on labeled cases: pre-training without a generator."""
    return replace(shared.finetune, generated=None, pretrained=shared.pretrained_real)


def both_pretraining(shared: Shared) -> FinetuneStage:
    """Pre-trained on generated and labeled images, fine-tuned on labeled cases."""
    return replace(shared.finetune, generated=None, pretrained=shared.pretrained_both)


def varied_baseline(shared: Shared) -> FinetuneStage:
    """The baseline with shapes and timings varied in its augmentation: what `ours-plus` owes to that alone."""
    return _with_variety(baseline(shared))


def ours_plus(shared: Shared) -> FinetuneStage:
    """`ours` on pairs that start from noised views, with schedule, weights and augmentation of its own (docs/results/study.md).

    Labeled cases are visited about as often as generated pairs, and alone in the last 40% of the steps; pairs are continued beyond their edges;
    shapes and timings are varied.
    """
    stage = _with_variety(replace(shared.finetune, generated=shared.varied, pretrained=shared.pretrained_varied))
    often = max(1, round(stage.ratio))
    return replace(stage, augment=replace(stage.augment, continue_edges=True), real_weight=often, real_from=0.6)


def _with_variety(stage: FinetuneStage) -> FinetuneStage:
    wide = augment.few_cases()
    varied = replace(stage.augment, warp_mm=wide.warp_mm, growth_mm=wide.growth_mm, timing=wide.timing, even_probability=EVEN_PROBABILITY)
    return replace(stage, augment=varied)


ARMS: dict[str, Arm] = {"baseline": baseline, "medical-diffusion": medical_diffusion, "ours": ours}
"""Name of each arm of a single run, as in tables and folders."""
STUDY_ARMS: dict[str, Arm] = {
    **ARMS, "real-upper-bound": real_upper_bound, "decoded-upper-bound": decoded_upper_bound, "generated-only": generated_only,
    "real-pretraining": real_pretraining, "both-pretraining": both_pretraining, "varied-baseline": varied_baseline, "ours-plus": ours_plus,
}  # fmt: skip
"""Arms of a study."""


def find_arm(name: str) -> Arm:
    """The arm of that name, or the function that MODULE:FUNCTION names; raises `ValueError` where there is none."""
    if name in STUDY_ARMS:
        return STUDY_ARMS[name]
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"--arms {name!r} is not known; choose from {', '.join(STUDY_ARMS)}, or give MODULE:FUNCTION")
    try:
        arm: Arm = getattr(importlib.import_module(module), function)
    except Exception as error:
        # A module of the user's own: whatever it raises is theirs to read, in one line.
        raise ValueError(f"--arms {name}: {type(error).__name__}: {error}") from None
    return arm
