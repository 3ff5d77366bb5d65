"""Caffe's stochastic gradient descent, as the paper's solver settings mean it.

Caffe keeps the learning rate inside the momentum buffer, so a drop of the rate leaves the speed as it is; PyTorch's
SGD keeps it outside. BVLC's prototxt trains biases at twice the rate and without decay.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

BIAS_RATE, BIAS_DECAY = 2.0, 0.0  # lr_mult and decay_mult of every bias in BVLC's train_val.prototxt


class CaffeSGD(torch.optim.Optimizer):
    """v <- momentum v + rate (g + decay w);  w <- w - v  (Caffe's SGDSolver).

    named: (name, parameter) pairs. Those whose name ends in "bias" have twice the rate and no decay. Those that do
    not require a gradient are left out altogether. `rate` is set by the caller before each step: `solver.rate = …`.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]], momentum: float, weight_decay: float):
        named = [(name, p) for name, p in named if p.requires_grad]
        biases = [(name, p) for name, p in named if name.endswith("bias")]
        weights = [(name, p) for name, p in named if not name.endswith("bias")]
        groups = [
            dict(params=weights, lr_mult=1.0, decay_mult=1.0),
            dict(params=biases, lr_mult=BIAS_RATE, decay_mult=BIAS_DECAY),
        ]
        defaults = dict(lr=0.0, momentum=momentum, weight_decay=weight_decay)
        super().__init__([g for g in groups if g["params"]], defaults)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum"] = torch.zeros_like(p)

    @property
    def rate(self) -> float:
        """The learning rate before the parameters' own factors."""
        return self.param_groups[0]["lr"]

    @rate.setter
    def rate(self, value: float):
        for group in self.param_groups:
            group["lr"] = value

    @torch.no_grad()
    def step(self):
        """Take one step with the gradients that the parameters hold. Those without one are left as they are."""
        for group in self.param_groups:
            rate = group["lr"] * group["lr_mult"]
            decay = group["weight_decay"] * group["decay_mult"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                v = self.state[p]["momentum"].mul_(group["momentum"]).add_(p.grad, alpha=rate)
                if decay:
                    v.add_(p, alpha=rate * decay)
                p.sub_(v)

    def momenta(self) -> dict[str, Tensor]:
        """Each parameter's momentum buffer by the parameter's name: all that the solver remembers."""
        return {
            name: self.state[p]["momentum"]
            for group in self.param_groups
            for name, p in zip(group["param_names"], group["params"], strict=True)
        }
