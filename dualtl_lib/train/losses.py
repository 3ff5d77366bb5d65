"""Loss functions, averaged over the batch as Caffe's layers average them."""

from torch import Tensor
from torch.nn import functional as F


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """Caffe's HingeLoss with L1 norm: one class against all others, summed over the outputs.

    Args:
        logits: Shape (N, K), or (N, A, K) for A attributes whose losses are summed.
        targets: Class indices 0..K-1, shape (N,) or (N, A).
    """
    sign = 1 - 2 * F.one_hot(targets, logits.shape[-1]).to(logits.dtype)  # -1 for the labelled class, 1 for others
    return (1 + sign * logits).clamp(min=0).sum() / len(logits)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Caffe's SoftmaxWithLoss; shapes as for `hinge`."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum") / len(logits)


LOSSES = {"hinge": hinge, "cross-entropy": cross_entropy}
