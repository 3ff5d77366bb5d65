"""Recipes: the solver settings of Tables 3 and 4, and shorter ones for two CPU cores."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dualtl_lib import paper
from dualtl_lib.train.losses import LOSSES


@dataclass(frozen=True)
class Recipe:
    """Caffe's solver settings under Caffe's names, and the loss.

    Attributes:
        base_lr: Learning rate at the start.
        batch: Images per iteration.
        gamma: Factor of the learning rate at each drop.
        stepsize: Iterations between two drops.
        max_iter: Iterations in all.
        momentum: Share of the last update that each update repeats.
        weight_decay: Factor of the weights that is added to their gradient.
        loss: A key of `LOSSES`: "hinge" (section 4.2.1) or "cross-entropy".
        head_warmup: Recipe for training the fully connected layers alone, before all else. Default: no warm-up.

    Raises:
        ValueError: If the loss is unknown, or there is no image or no iteration.
    """

    base_lr: float
    batch: int
    gamma: float
    stepsize: int
    max_iter: int
    momentum: float
    weight_decay: float
    loss: str = "hinge"
    head_warmup: "Recipe | None" = None

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss: expected {' or '.join(LOSSES)}, found {self.loss!r}")
        if min(self.batch, self.stepsize, self.max_iter) < 1:
            raise ValueError(f"batch, stepsize and max_iter: expected at least 1, found {self}")

    def lr(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0 (Caffe's policy "step")."""
        return self.base_lr * self.gamma ** (iteration // self.stepsize)

    def changed(self, overrides: Mapping[str, Any]) -> "Recipe":
        """This recipe with other values of some settings.

        Args:
            overrides: Values by name. A mapping for `head_warmup` changes the settings of this recipe's warm-up, or
                of this recipe itself where it has none.
        """
        values = dict(overrides)
        if isinstance(warmup := values.get("head_warmup"), Mapping):
            values["head_warmup"] = (self.head_warmup or self).changed(warmup)
        return replace(self, **values)


CELEBA = Recipe(**dict[str, Any](paper.TABLE3))  # first transfer
CKPLUS = Recipe(**dict[str, Any](paper.TABLE4))  # second transfer

# The quick budget takes two CPU cores about a minute a model. First the fully connected layers are warmed up alone, at
# the paper's batch and learning rate: on frozen features an image costs a hundredth. Then all trainable layers train
# with batches of 12. Random heads would send gradients into the trunk that so short a training cannot mend. Fig. 18
# trains its two fully connected layers alone ("heads").
_quick_celeba, _quick_ckplus = (replace(recipe, batch=12, max_iter=200, stepsize=100) for recipe in (CELEBA, CKPLUS))
BUDGETS = {  # by budget and step
    "paper": {"celeba": CELEBA, "ckplus": CKPLUS, "heads": CKPLUS},
    "quick": {
        "celeba": replace(
            _quick_celeba, base_lr=3 * CELEBA.base_lr, head_warmup=replace(CELEBA, max_iter=300, stepsize=200)
        ),
        "ckplus": replace(_quick_ckplus, head_warmup=replace(CKPLUS, max_iter=1500, stepsize=1000)),
        "heads": replace(CKPLUS, max_iter=600, stepsize=400),
    },
}
