"""Losses of label maps."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_dice_loss(logits: Tensor, label: Tensor, *, epsilon: float = 1.0) -> Tensor:
    """One minus the soft Dice, averaged over the foreground labels (Milletari et al. 2016), pooled over the batch.

    `logits` is (N, K, X, Y, Z), `label` is (N, X, Y, Z) with values below K. `epsilon` (voxels) keeps a label that is absent
    from the batch from dominating.
    """
    probability = logits.softmax(1).flatten(2)
    flat, classes = label.long().flatten(1), logits.shape[1]
    counts = torch.bincount(flat.flatten(), minlength=classes)
    # The sum of one label's probability over its own voxels, without ever building a one-hot volume.
    own = probability.gather(1, flat[:, None])[:, 0]
    overlap = torch.zeros(classes, device=logits.device, dtype=own.dtype).index_add_(0, flat.flatten(), own.flatten())
    size = counts.to(own.dtype) + probability.sum((0, 2))
    return 1.0 - ((2.0 * overlap + epsilon) / (size + epsilon))[1:].mean()


def dice_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss; shapes as `soft_dice_loss`."""
    return F.cross_entropy(logits, label.long()) + soft_dice_loss(logits, label)


def deep_supervision(outputs: list[Tensor], label: Tensor) -> Tensor:
    """Weighted mean of `dice_cross_entropy` over the outputs (finest first), each level with half the weight of the one before.

    Each output is (N, K, ..) at 1/1, 1/4, 1/8, .. of the resolution of `label` (N, X, Y, Z), which is read at the voxels' centers.
    """
    total, weights = label.new_zeros((), dtype=torch.float32), 0.0
    for level, logits in enumerate(outputs):
        step = label.shape[1] // logits.shape[2]
        total = total + 0.5**level * dice_cross_entropy(logits, label[:, step // 2 :: step, step // 2 :: step, step // 2 :: step])
        weights += 0.5**level
    return total / weights


def packed_regression(output: Tensor, packed: Tensor) -> Tensor:
    """Mean squared error of the three packed label channels, as the paper regresses them; both (N, 3, X, Y, Z)."""
    return F.mse_loss(output, packed)
