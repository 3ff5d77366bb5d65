"""Caffe's stochastic gradient descent, as the paper's solver settings mean it.

Caffe keeps the learning rate inside the momentum buffer, so a drop of the rate leaves the speed as it is; PyTorch's
SGD keeps it outside. BVLC's prototxt trains biases at twice the rate and without decay.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

BIAS_RATE, BIAS_DECAY = 2.0, 0.0  # lr_mult and decay_mult of every bias in BVLC's train_val.prototxt


@dataclass
class Moved:
    """One parameter that the solver moves; the factors are of rate and decay.

    speed: Caffe's momentum buffer. pushed: the sum of |g + decay w| over the steps taken, where it is measured.
    """

    name: str
    weights: Tensor
    speed: Tensor
    lr_mult: float
    decay_mult: float
    pushed: Tensor | None


class CaffeSGD:
    """v <- momentum v + rate (g + decay w);  w <- w - v  (Caffe's SGDSolver).

    named: (name, parameter) pairs. Those whose name ends in "bias" have twice the rate and no decay. Those that do
    not require a gradient are left out altogether.
    rate: set by the caller before each step.
    measure: add up |g + decay w| of each weight in `Moved.pushed`.
    """

    def __init__(
        self, named: Iterable[tuple[str, Tensor]], momentum: float, weight_decay: float, measure: bool = False
    ):
        self.momentum, self.weight_decay, self.rate = momentum, weight_decay, 0.0
        self.moved = []
        for name, p in named:
            if p.requires_grad:
                factors = (BIAS_RATE, BIAS_DECAY) if name.endswith("bias") else (1.0, 1.0)
                pushed = torch.zeros_like(p) if measure else None
                self.moved.append(Moved(name, p, torch.zeros_like(p), *factors, pushed))

    def zero_grad(self):
        """Forget the gradients of the last step."""
        for m in self.moved:
            m.weights.grad = None

    @torch.no_grad()
    def step(self):
        """Take one step with the gradients that the parameters hold. Those without one are left as they are."""
        for m in self.moved:
            if m.weights.grad is None:
                continue
            rate, decay = self.rate * m.lr_mult, self.weight_decay * m.decay_mult
            if m.pushed is not None:
                m.pushed.add_(torch.add(m.weights.grad, m.weights, alpha=decay).abs_())
            m.speed.mul_(self.momentum).add_(m.weights.grad, alpha=rate)
            if decay:
                m.speed.add_(m.weights, alpha=rate * decay)
            m.weights.sub_(m.speed)
