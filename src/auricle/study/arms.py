"""The arms of the comparison: one function each, from what the arms of a fold share to a fine-tuning stage.

A new arm is a new function here and an entry in `ARMS`, or a function of your own, named as MODULE:FUNCTION (docs/how-to/run-a-study.md).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from auricle.core.seeds import derive
from auricle.data import augment
from auricle.stages.finetune import FinetuneStage
from auricle.training.loop import FitConfig

_NOWHERE = Path()
"""What a single run does not have."""


@dataclass(frozen=True)
class Shared:
    """What every arm has at hand; a single run has no more than `ARMS` or `FEW_ARMS` take."""

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
    """Folder of the U-Net pre-trained on those; no arm below takes it (benchmarks/ingredients.py)."""
    first_varied: Path = _NOWHERE
    """Folder of the segmenter trained on those alone (`first_on_pairs`)."""
    first_real: Path = _NOWHERE
    """Folder of the segmenter trained as long on the labeled cases (`first_on_cases`)."""


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
    """The baseline with shapes, sizes and timings varied in its augmentation: what `ours-plus` owes to that alone."""
    stage = baseline(shared)
    return replace(stage, augment=augment.with_variety(stage.augment))


def longer_baseline(shared: Shared) -> FinetuneStage:
    """The varied baseline from where a first training on the labeled cases ended: what `ours-plus` owes to training twice."""
    return replace(varied_baseline(shared), initial=shared.first_real)


def ours_plus(shared: Shared) -> FinetuneStage:
    """Trained on pairs that start from noised views, then on labeled cases alone, shapes, sizes and timings varied (docs/results/study.md)."""
    return replace(varied_baseline(shared), initial=shared.first_varied)


def first_on_pairs(stage: FinetuneStage, pairs: Path, ratio: float, fit: FitConfig) -> FinetuneStage:
    """The first training of `ours-plus`: `ratio` pairs for each labeled case and no such case."""
    return replace(first_on_cases(stage, fit), generated=pairs, ratio=ratio, real_weight=0)


def first_on_cases(stage: FinetuneStage, fit: FitConfig) -> FinetuneStage:
    """The same training on the labeled cases; of a seed of its own, or the second training would begin with the very same views."""
    return replace(stage, augment=augment.with_variety(stage.augment), fit=fit, seed=derive(stage.seed, "first training"))


ARMS: dict[str, Arm] = {"baseline": baseline, "medical-diffusion": medical_diffusion, "ours": ours}
"""Name of each arm of a single run, as in tables and folders."""
FEW_ARMS: dict[str, Arm] = {**ARMS, "longer-baseline": longer_baseline, "ours-plus": ours_plus}
"""Arms of a single run on few cases of the user's own."""
STUDY_ARMS: dict[str, Arm] = {
    **FEW_ARMS, "real-upper-bound": real_upper_bound, "decoded-upper-bound": decoded_upper_bound, "generated-only": generated_only,
    "real-pretraining": real_pretraining, "both-pretraining": both_pretraining, "varied-baseline": varied_baseline,
}  # fmt: skip
"""Arms of a study."""
DEFAULT_ARMS = (*FEW_ARMS, "real-upper-bound")
"""Arms of a study that names none."""


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
    if not callable(arm):
        raise ValueError(f"--arms {name}: is no function")
    return arm
