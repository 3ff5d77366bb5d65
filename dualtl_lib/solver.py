"""Caffe's stochastic gradient descent, as the paper's solver settings mean it.

Caffe keeps the learning rate inside the momentum buffer, so a drop of the rate leaves the speed as it is; PyTorch's
SGD keeps it outside. BVLC's prototxt trains biases at twice the rate and without decay.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BIAS_RATE, BIAS_DECAY = 2.0, 0.0  # lr_mult and decay_mult of every bias in BVLC's train_val.prototxt


class CaffeSGD(torch.optim.Optimizer):
    """v <- momentum v + rate (g + decay w);  w <- w - v  (Caffe's SGDSolver).

    named: (name, parameter) pairs. Those whose name ends in "bias" have twice the rate and no decay. Those that do
    not require a gradient are left out altogether. `rate` is set by the caller before each step: `solver.rate = …`.
    measure: keep the largest |g + decay w| seen of each parameter in `largest`, by name.
    """

    def __init__(
        self, named: Iterable[tuple[str, Tensor]], momentum: float, weight_decay: float, measure: bool = False
    ):
        named = [(name, p) for name, p in named if p.requires_grad]
        biases = [(name, p) for name, p in named if name.endswith("bias")]
        weights = [(name, p) for name, p in named if not name.endswith("bias")]
        groups = [
            dict(params=weights, lr_mult=1.0, decay_mult=1.0),
            dict(params=biases, lr_mult=BIAS_RATE, decay_mult=BIAS_DECAY),
        ]
        defaults = dict(lr=0.0, momentum=momentum, weight_decay=weight_decay)
        super().__init__([g for g in groups if g["params"]], defaults)
        self.measure, self.largest = measure, {}
        for p in self.parameters():
            self.state[p]["momentum"] = torch.zeros_like(p)

    def parameters(self) -> list[Tensor]:
        """All that it moves."""
        return [p for group in self.param_groups for p in group["params"]]

    def named(self) -> Iterator[tuple[str, Tensor, Tensor, float]]:
        """Name, parameter, momentum buffer and rate factor of all that it moves: it remembers no more than that."""
        for group in self.param_groups:
            for name, p in zip(group["param_names"], group["params"], strict=True):
                yield name, p, self.state[p]["momentum"], group["lr_mult"]

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
            for name, p in zip(group["param_names"], group["params"], strict=True):
                if p.grad is None:
                    continue
                if self.measure:
                    size = torch.add(p.grad, p, alpha=decay).abs().max().item()
                    self.largest[name] = max(size, self.largest.get(name, 0.0))
                v = self.state[p]["momentum"].mul_(group["momentum"]).add_(p.grad, alpha=rate)
                if decay:
                    v.add_(p, alpha=rate * decay)
                p.sub_(v)
