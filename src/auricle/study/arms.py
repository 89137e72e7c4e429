"""The arms of the comparison: one function each, from what the arms of a fold share to a fine-tuning stage.

A new arm is a new function here and an entry in `ARMS`, or a function of your own, named as MODULE:FUNCTION (docs/how-to/run-a-study.md).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from auricle.core.errors import InputError
from auricle.stages.finetune import FinetuneStage


@dataclass(frozen=True)
class Shared:
    """What every arm has at hand."""

    finetune: FinetuneStage
    """Network, augmentation, budget, ratio and cohort, the same in all arms."""
    generated: Path
    """Folder of generated pairs."""
    pretrained: Path
    """Folder of the U-Net pre-trained on generated images."""
    extra: Path | None = None
    """Folder of other real cases, as many as there are generated pairs: in a study alone, and for its upper bound alone."""


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
    if shared.extra is None:
        raise InputError("the arm real-upper-bound needs more labeled cases than a single run has: see `auricle study`")
    return replace(shared.finetune, generated=shared.extra, pretrained=None)


ARMS: dict[str, Arm] = {"baseline": baseline, "medical-diffusion": medical_diffusion, "ours": ours}
"""Name of each arm of a single run, as in tables and folders."""
STUDY_ARMS: dict[str, Arm] = {**ARMS, "real-upper-bound": real_upper_bound}
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
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--arms {name}: {error}") from None
    return arm
