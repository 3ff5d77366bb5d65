"""Caffe's stochastic gradient descent as a PyTorch optimizer.

Caffe keeps the learning rate inside the momentum buffer, so a drop of the learning rate leaves the next update almost
as large as the last. PyTorch's SGD keeps it outside. BVLC's prototxt trains biases at twice the learning rate and
without weight decay.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dualtl_lib.train.recipe import Recipe

BIAS_LR_MULT = 2.0  # lr_mult of every bias in BVLC's train_val.prototxt; its decay_mult is 0


class CaffeSGD(torch.optim.Optimizer):
    """Caffe's SGDSolver: v <- momentum v + lr lr_mult (g + weight_decay w), then w <- w - v.

    Args:
        params: Parameters or parameter groups; `caffe_groups` makes BVLC's.
        lr: Learning rate.
        momentum: Factor of the momentum buffer v at each step.
        weight_decay: Factor of the weights w that is added to their gradient g.
        lr_mult: Factor of the learning rate, for groups that learn at another.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, *, momentum=0.0, weight_decay=0.0, lr_mult=1.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, lr_mult=lr_mult))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; parameters without a gradient stay as they are.

        Args:
            closure: Computes the loss and its gradients again, as for every PyTorch optimizer.

        Returns:
            The closure's loss.
        """
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            lr, decay = group["lr"] * group["lr_mult"], group["weight_decay"]
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                state = self.state[weights]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weights)
                update = state["momentum_buffer"].mul_(group["momentum"]).add_(weights.grad, alpha=lr)
                if decay:
                    update.add_(weights, alpha=lr * decay)
                weights.sub_(update)
        return loss


def caffe_groups(named: Iterable[tuple[str, Tensor]], recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups with a recipe's settings: biases learn at twice the learning rate and without weight decay.

    Args:
        named: Names and parameters. Those that do not require a gradient are left out.
        recipe: Its learning rate is that of the first iteration.
    """
    trained = [(name.endswith("bias"), p) for name, p in named if p.requires_grad]
    factors = {False: (1.0, recipe.weight_decay), True: (BIAS_LR_MULT, 0.0)}
    groups = [
        {"params": [p for bias, p in trained if bias == biases], "lr_mult": lr_mult, "weight_decay": weight_decay}
        for biases, (lr_mult, weight_decay) in factors.items()
    ]
    return [{**g, "lr": recipe.base_lr, "momentum": recipe.momentum} for g in groups if g["params"]]
