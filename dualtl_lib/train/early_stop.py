"""Early stop of the schedule: end before a drop of the learning rate after which no weight can change noticeably.

After 4,000 of Table 3's iterations, 0.01 % of the sum of learning rates remains.
"""

import math

import torch

from dualtl_lib.train.optimizer import CaffeSGD
from dualtl_lib.train.recipe import Recipe

NEGLIGIBLE = 1e-3  # remaining update, relative to the root mean square of a parameter's weights


class UpdateBound:
    """Bound on the remaining update of every weight, from the gradients since the last drop of the learning rate.

    The momentum buffer v fades out as m / (1 - m) |v|. A weight whose |gradient| was G on average on the last plateau,
    decay included, changes by at most G / (1 - m) times the sum of the learning rates to come. The bound holds as long
    as the gradients do not grow.

    The sums of |gradient| are kept in the optimizer's state, so that its `state_dict` has them.
    """

    def __init__(self, optimizer: CaffeSGD, recipe: Recipe):
        self.optimizer, self.recipe = optimizer, recipe
        self.parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def accumulate(self) -> None:
        """Add the |gradient| of every weight to its sum; call it before the optimizer's step."""
        for p, group in self.parameters:
            gradient, state = torch.add(p.grad, p, alpha=group["weight_decay"]).abs_(), self.optimizer.state[p]
            state["gradient_sum"] = gradient + state.get("gradient_sum", 0)

    @torch.no_grad()
    def by_parameter(self, iteration: int) -> list[float]:
        """Remaining update bound from an iteration on: the largest of each parameter's weights, over their RMS."""
        remaining_lr, bounds = sum(self.recipe.lr(t) for t in range(iteration, self.recipe.max_iter)), []
        for p, group in self.parameters:
            state, momentum = self.optimizer.state[p], group["momentum"]
            updates = momentum * state["momentum_buffer"].abs()
            updates.add_(state["gradient_sum"], alpha=group["lr_mult"] * remaining_lr / self.recipe.stepsize)
            bounds.append(((updates / (1 - momentum)).max() / p.square().mean().sqrt()).item())
        return bounds

    def at_drop(self, done: int) -> float:
        """Largest remaining update bound where the learning rate drops after `done` iterations; elsewhere infinite.

        The sums of |gradient| begin anew.
        """
        if done % self.recipe.stepsize or done == self.recipe.max_iter:
            return math.inf
        bound = max(self.by_parameter(done))
        for p, _ in self.parameters:
            self.optimizer.state[p].pop("gradient_sum")
        return bound
