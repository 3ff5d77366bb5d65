"""The training loop: equal to the bit whether it ran at once or was killed and resumed.

That holds on the same machine and number of threads, with the feature cache kept in the same place.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dualtl_lib.data.dataset import Faces
from dualtl_lib.models.precision import autocast, resolve
from dualtl_lib.train.checkpoint import Checkpoint, origin, read_metadata
from dualtl_lib.train.distributed import World
from dualtl_lib.train.early_stop import NEGLIGIBLE, UpdateBound
from dualtl_lib.train.frozen import FrozenFeatures, Model
from dualtl_lib.train.inference import logits, predict
from dualtl_lib.train.losses import LOSSES
from dualtl_lib.train.optimizer import CaffeSGD, caffe_groups
from dualtl_lib.train.recipe import Recipe
from dualtl_lib.train.sampling import batch_indices, seeded_dropout

History = dict[str, Any]
FEW = 0.5  # share of active images; with two thirds, a backward pass with all of them takes no longer


class Diverged(ArithmeticError):
    """The loss or the weights are no longer finite numbers."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of a training beside its recipe.

    Attributes:
        validate_every: Iterations between two validations. Default: a tenth of the recipe's.
        save_every: Seconds between two checkpoints.
        cache_bytes: Limit of the frozen features of the training images and of the validation images, each.
        cache_dir: Folder of the feature cache. Default: memory.
        stop_early: Stop before a drop of the learning rate after which no weight can change by a thousandth of its
            parameter's root mean square (early_stop.py).
        precision: "float32", "bfloat16", or "auto": the checkpoint's, or the faster on this machine.
    """

    validate_every: int | None = None
    save_every: float = 30.0
    cache_bytes: int | None = None
    cache_dir: Path | None = None
    stop_early: bool = False
    precision: str = "float32"


def train_step(
    model: Model,
    features: FrozenFeatures,
    indices: np.ndarray,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    seed: tuple[int, int] = (0, 0),
    rows: np.ndarray | None = None,
    few_active: bool = False,
) -> Tensor:
    """Forward and backward pass of one batch; gradients are added to those of the parameters.

    The caller steps the optimizer, so that it can refuse a loss that is not finite.

    Args:
        model: The model to train, in evaluation mode: dropout is drawn from `seed`.
        features: Frozen features of the training images.
        indices: Images of the batch, shape (N,).
        targets: Their targets, shape (N,) or (N, A).
        loss: Function of logits and targets.
        seed: Seed of the dropout.
        rows: Rows of the batch that this process takes. Default: all.
        few_active: Go backward with the active images alone, after a forward pass of their own. An image is active if
            its loss has a gradient; under a hinge loss an image with its full margin is not. The gradient is the same
            to rounding; where a tenth of the images is active, a step takes half the time.

    Returns:
        The loss and the share of active images, shape (2,).
    """
    rows = np.arange(len(indices)) if rows is None else rows

    def forward(rows: np.ndarray) -> Tensor:
        with seeded_dropout(model.dropout, seed, len(indices), rows):
            return logits(model, features, indices[rows])

    with autocast(features.precision, features.device):  # a backward pass inside it, as TF32 is switched back after it
        with torch.set_grad_enabled(not few_active):
            outputs = forward(rows)
        leaf = outputs.detach().requires_grad_()
        value = loss(leaf, targets[rows].to(leaf.device))
        (gradient,) = torch.autograd.grad(value, leaf)
        active = gradient.flatten(1).any(1)
        result = torch.stack((value.detach(), active.float().mean()))
        if not few_active:
            outputs.backward(gradient)
            return result
    active[0] |= ~active.any()  # so that every weight has a gradient, be it 0
    with autocast(features.precision, features.device):
        forward(rows[active.cpu().numpy()]).backward(gradient[active])
    return result


@dataclass
class Trainer:
    """One training of a model; `fit` describes the arguments."""

    model: Model
    data: Faces
    recipe: Recipe
    validation: Faces | None = None
    seed: int = 0
    checkpoint: Path | None = None
    config: TrainerConfig = TrainerConfig()
    fabric: Any = None
    progress: bool = True

    def __post_init__(self):
        self.world = World(self.fabric)
        self.rows = np.arange(self.recipe.batch)[self.world.shard(self.recipe.batch)]
        # Read once and broadcast, so that all processes begin at the same iteration.
        saved = self.world.broadcast(lambda: self.checkpoint and read_metadata(self.checkpoint))
        precision, device = self.config.precision, next(self.model.parameters()).device
        if precision == "auto" and saved:
            precision = saved.get("precision", precision)
        precision = self.world.broadcast(lambda: resolve(precision, device))
        self.config = dataclasses.replace(self.config, precision=precision)
        self.optimizer = CaffeSGD(caffe_groups(self.model.named_parameters(), self.recipe))
        self.bound = UpdateBound(self.optimizer, self.recipe) if self.config.stop_early else None
        self.history: History = {"loss": [], "lr": [], "active": [], "validated": [], "validation": []}
        self.begin, self.resumed, self.file = 0, bool(saved), None
        if self.checkpoint:
            settings = {"seed": self.seed, "precision": precision, "stop_early": self.config.stop_early}
            identity, writes = origin(self.model, self.data, self.recipe, settings), self.world.rank == 0
            self.file = Checkpoint(self.checkpoint, self.model, self.optimizer, identity, writes=writes)
            if saved is not None:
                self.begin, self.history = self.file.load(saved)

    def fit(self) -> History:
        """Train from the beginning or from the checkpoint to the end; a finished training returns at once."""
        self.model.eval()
        if self.begin == self.recipe.max_iter or "stopped_at" in self.history:
            return self.history
        if self.recipe.head_warmup and not self.resumed:
            self._warm_up_heads(self.recipe.head_warmup)
        self.features = self._frozen_features(self.data)
        self.validation_features = None if self.validation is None else self._frozen_features(self.validation)
        quiet, whole = self.world.rank > 0 or not self.progress, self.recipe.max_iter
        with tqdm(desc="training", initial=self.begin, total=whole, disable=quiet) as bar:
            for iteration in range(self.begin, whole):
                self._iterate(iteration)
                ends = self._ends(iteration + 1)
                self._validate(iteration + 1, ends=ends)
                bar.update()
                if iteration % 10 == 0:
                    bar.set_postfix(
                        {k: f"{self.history[k][-1]:.3f}" for k in ("loss", "validation") if self.history[k]}
                    )
                if ends:
                    break
        done = len(self.history["loss"])
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise self._diverged(f"after iteration {done - 1} a weight is not finite")
        if self.file:
            self.file.save(done, self.history, finished=True)
        return self.history

    def _warm_up_heads(self, recipe: Recipe) -> None:
        """Head warm-up: train the fully connected layers with the whole trunk frozen."""
        trained = [p for p in self.model.trunk.parameters() if p.requires_grad]
        try:
            for p in trained:
                p.requires_grad_(False)
            dataclasses.replace(self, recipe=recipe, validation=None, checkpoint=None).fit()
        except Diverged as e:
            raise Diverged(f"head_warmup: {e}") from e
        finally:
            for p in trained:
                p.requires_grad_(True)

    def _frozen_features(self, faces: Faces) -> FrozenFeatures:
        c = self.config
        how = {"cache_bytes": c.cache_bytes, "cache_dir": c.cache_dir, "precision": c.precision}
        return FrozenFeatures(self.model, faces, **how)

    def _iterate(self, iteration: int) -> None:
        """One iteration; its checkpoint is of weights that have just shown a finite loss."""
        indices = batch_indices(iteration, self.recipe.batch, len(self.data), self.seed)
        self.optimizer.zero_grad()
        few = (self.history["active"] or [1.0])[-1] < FEW  # in the batch before, and so probably in this one
        step = {"seed": (self.seed, iteration), "rows": self.rows, "few_active": few}
        loss_function, targets = LOSSES[self.recipe.loss], self.data.targets[indices]
        result = train_step(self.model, self.features, indices, targets, loss_function, **step)
        loss, active = self.world.mean(result).tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss of iteration {iteration} is {loss}")
        if self.file and self.file.age() > self.config.save_every:
            self.file.save(iteration, self.history)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr(iteration)
            for p in group["params"]:
                p.grad = self.world.mean(p.grad)
        if self.bound:
            self.bound.accumulate()
        self.optimizer.step()
        for key, value in {"loss": loss, "lr": self.recipe.lr(iteration), "active": active}.items():
            self.history[key].append(value)

    def _ends(self, done: int) -> bool:
        """Whether the training ends after `done` iterations; the history keeps an early stop of the schedule."""
        remaining = self.bound.at_drop(done) if self.bound else math.inf
        if remaining <= NEGLIGIBLE:
            self.history |= {"stopped_at": done, "remaining_update": remaining}
        return done == self.recipe.max_iter or remaining <= NEGLIGIBLE

    def _validate(self, done: int, *, ends: bool) -> None:
        every = self.config.validate_every or max(1, self.recipe.max_iter // 10)
        if self.validation and (ends or done % every == 0):
            correct = predict(self.model, self.validation, features=self.validation_features) == self.validation.targets
            self.history["validated"].append(done)
            self.history["validation"].append(int(correct.sum()) / correct.numel())

    def _diverged(self, fact: str) -> Diverged:
        saved = self.file and self.file.saved
        kept = "" if saved is None else f"; the checkpoint of iteration {saved} stays in {self.checkpoint}"
        return Diverged(f"{fact}{kept}; try a lower base_lr")


def fit(
    model: Model,
    data: Faces,
    recipe: Recipe,
    *,
    validation: Faces | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    config: TrainerConfig = TrainerConfig(),
    fabric: Any = None,
    progress: bool = True,
) -> History:
    """Train the parameters of a model that require a gradient.

    Args:
        model: AttributeNet or ExpressionNet, changed in place. Its frozen layers are computed once.
        data: Training images.
        recipe: Solver settings.
        validation: Images on which accuracy is measured during the training and at its end. It changes no weight.
        seed: Of the order of the images and of the dropout.
        checkpoint: File that keeps the state. If it exists, the training continues from it.
        config: Other settings.
        fabric: A launched lightning Fabric. Each of its processes takes an equal share of every batch; the weights
            equal those of one process to rounding.
        progress: Show a progress bar.

    Returns:
        The history, without that of the head warm-up. By iteration: "loss", "lr", and the share "active" of its images
        whose loss had a gradient. "validation" accuracies and the iterations done before each, "validated". After an
        early stop of the schedule, the iterations done, "stopped_at", and the bound on the "remaining_update" of every
        weight, relative to its parameter's root mean square.

    Raises:
        Diverged: If the loss or a weight is not finite. The last checkpoint stays.
        OtherTraining: If the checkpoint belongs to another training.
        OSError: If the checkpoint cannot be written. The last one stays.
        ValueError: If the processes cannot share a batch equally.
    """
    return Trainer(model, data, recipe, validation, seed, checkpoint, config, fabric, progress).fit()


def changed_layers(model: Model, data: Faces, recipe: Recipe, *, iterations: int = 3) -> dict[str, bool]:
    """Train a copy of a model for a few iterations and compare its layers: frozen ones must not change.

    Returns:
        By layer, whether a weight or bias changed.
    """
    trained = copy.deepcopy(model)
    short = recipe.changed({"batch": min(recipe.batch, len(data)), "max_iter": iterations, "head_warmup": None})
    fit(trained, data, short, config=TrainerConfig(cache_bytes=0), progress=False)
    after, changed = dict(trained.named_parameters()), {}
    for name, before in model.named_parameters():
        layer = name.removeprefix("trunk.").split(".")[0].split("_")[0]
        changed[layer] = changed.get(layer, False) or not torch.equal(before, after[name])
    return changed
