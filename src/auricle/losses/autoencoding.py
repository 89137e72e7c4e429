"""Loss of the joint autoencoder."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from auricle.losses.segmentation import dice_cross_entropy, packed_regression


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms; the label term has weight one."""

    image: float = 5.0
    """L1 error of the image in network units (1 = 1000 HU)."""
    kl: float = 1e-4
    """KL divergence of the latent, averaged over its elements."""


def autoencoder_loss(
    config: AutoencoderLossConfig, image: Tensor, label: Tensor, packed: Tensor, outputs: tuple[Tensor, Tensor], kl: Tensor
) -> dict[str, Tensor]:
    """Terms ``image``, ``label``, ``kl`` and their weighted sum ``loss``.

    `image` is (N, 1, X, Y, Z), `label` (N, X, Y, Z), `packed` (N, 3, X, Y, Z); `outputs` are the decoder's image and label head, the
    latter nine logits (cross-entropy + Dice) or three packed channels (squared error).
    """
    decoded_image, decoded_label = outputs
    terms = {"image": F.l1_loss(decoded_image, image), "kl": kl}
    if decoded_label.shape[1] == packed.shape[1]:
        terms["label"] = packed_regression(decoded_label, packed)
    else:
        terms["label"] = dice_cross_entropy(decoded_label, label)
    terms["loss"] = config.image * terms["image"] + terms["label"] + config.kl * terms["kl"]
    return terms
