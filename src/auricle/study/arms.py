"""The arms of the comparison: one function each, from what the arms share to a fine-tuning stage.

A new arm is a new function here and an entry in `ARMS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from auricle.stages.finetune import FinetuneStage


@dataclass(frozen=True)
class Shared:
    """What every arm has at hand."""

    finetune: FinetuneStage
    """Network, augmentation, budget and cohort, the same in all arms."""
    generated: Path
    """Folder of generated pairs."""
    pretrained: Path
    """Folder of the U-Net pre-trained on generated images."""


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


ARMS: dict[str, Arm] = {"baseline": baseline, "medical-diffusion": medical_diffusion, "ours": ours}
"""Name of each arm, as in tables and folders."""
