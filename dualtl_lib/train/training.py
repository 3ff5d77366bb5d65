"""Training as Tables 3 and 4 set it: recipes, losses, and a loop that resumes to the bit.

Everything drawn at iteration t (the batch, the dropout) follows from (seed, t) alone, so a checkpoint needs no state of
a random number generator, and a training that was killed and resumed ends with the same bits as one that was not, on
as many threads and with the frozen layers' maps kept in the same place (prefix.CHUNK).
"""

import copy
import dataclasses
import functools
import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dualtl_lib import paper
from dualtl_lib.evaluate import evaluation
from dualtl_lib.models.precision import resolve
from dualtl_lib.train.checkpoint import Checkpoint, OtherTraining, metadata
from dualtl_lib.train.frozen import FrozenFeatures, logits
from dualtl_lib.train.optimizer import CaffeSGD, Moved

__all__ = ["CELEBA", "CKPLUS", "LOSSES", "CaffeSGD", "Diverged", "OtherTraining", "Recipe", "fit", "hinge", "moved"]


class Diverged(ArithmeticError):
    """The loss or the weights are no longer finite numbers."""


@dataclass(frozen=True)
class Recipe:
    """Caffe's solver settings under Caffe's names (Tables 3 and 4), and the loss.

    The learning rate at iteration t is base_lr * gamma^floor(t / stepsize) (policy "step").
    loss: "hinge" (section 4.2.1) or "cross-entropy".
    heads_first: how to train the fully connected layers alone before all else; None: they learn with the rest.
    """

    base_lr: float
    batch: int
    gamma: float
    stepsize: int
    max_iter: int
    momentum: float
    weight_decay: float
    loss: str = "hinge"
    heads_first: "Recipe | None" = None

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}")
        if min(self.batch, self.stepsize, self.max_iter) < 1:
            raise ValueError(f"batch, stepsize and max_iter are at least 1: {self}")

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        return self.base_lr * self.gamma ** (iteration // self.stepsize)

    def changed(self, changes: dict) -> "Recipe":
        """With these settings changed, as YAML gives them. Raises ValueError naming what there is to change.

        heads_first: None, or a dict of what to change in this recipe's; in this recipe itself where it has none.
        """
        kinds, found = {f.name: f.type for f in dataclasses.fields(self)}, {}
        for name, value in changes.items():
            try:
                if name == "heads_first" and value is not None:
                    value = (self.heads_first or self).changed(value)
                elif kinds[name] is float and type(value) in (int, str):
                    value = float(value)  # 1e-3 is a word to YAML
                elif name != "heads_first" and type(value) is not kinds[name]:
                    raise TypeError
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                known = ", ".join(f"{n} ({getattr(kind, '__name__', kind)})" for n, kind in kinds.items())
                raise ValueError(f"a recipe has {known}; found {name}: {value!r}") from error
            found[name] = value
        return dataclasses.replace(self, **found)

    def quick(self) -> "Recipe":
        """What two CPU cores do in about a minute: 200 iterations of 12 images, the rate dropped once, after half of
        them, and higher than the paper's, which is made for far more: five times for Table 4, three times for Table 3,
        whose twelve losses add up in the trunk. For Table 4 the fully connected layers go first, alone, with 300
        iterations at the paper's batch and rate: so short a training has no time to mend what gradients through random
        ones do to the trunk. Momentum, decay, gamma and the loss are as they were.
        """
        short = dataclasses.replace(self, batch=12, max_iter=200, stepsize=100)
        if self.max_iter == paper.TABLE3["max_iter"]:
            return dataclasses.replace(short, base_lr=3 * self.base_lr)
        heads = dataclasses.replace(self, max_iter=300, stepsize=300)
        return dataclasses.replace(short, base_lr=5 * self.base_lr, heads_first=heads)

    def quick_heads(self) -> "Recipe":
        """The same for Fig. 18, which trains its two fully connected layers alone and costs a fiftieth: the paper's
        batch and rate, and 600 iterations with one drop of the rate after 400.
        """
        return dataclasses.replace(self, max_iter=600, stepsize=400)


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """Caffe's HingeLoss, L1: one against all, summed over the outputs and averaged over the batch.

    logits [N, K] with targets [N], or [N, A, K] with targets [N, A]: A loss layers whose losses are summed, as a
    Caffe net with A heads does. Targets are indices 0..K-1.
    """
    sign = 1 - 2 * F.one_hot(targets, logits.shape[-1]).to(logits.dtype)  # -1 for the right output, 1 for others
    return (1 + sign * logits).clamp(min=0).sum() / len(logits)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Caffe's SoftmaxWithLoss averaged over the batch; over several heads their sum. Shapes as for `hinge`."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum") / len(logits)


LOSSES = {"hinge": hinge, "cross-entropy": cross_entropy}
CELEBA = Recipe(**paper.TABLE3)  # step two
CKPLUS = Recipe(**paper.TABLE4)  # step three
DEAD = 1e-3  # of a tensor's root mean square: a movement too small to matter
FEW = 0.5  # of a batch: from two thirds on, forward and back with all costs less than forward again with the active


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(images)


def batch_indices(iteration: int, batch: int, images: int, seed: int) -> np.ndarray:
    """Which images an iteration trains on: the next `batch` of an endless list that is shuffled anew every epoch."""
    position = np.arange(iteration * batch, (iteration + 1) * batch)
    chosen = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(position // images):
        here = position // images == epoch
        chosen[here] = _order(seed, int(epoch), images)[position[here] % images]
    return chosen


def fit(
    model: nn.Module,
    train,
    recipe: Recipe,
    seed: int = 0,
    validation=None,
    checkpoint: Path | None = None,
    *,
    validate_every: int | None = None,
    save_every: float = 30.0,
    cache: int | None = None,
    cache_folder: Path | None = None,
    skip_dead_tail: bool = False,
    precision: str = "float32",
    fabric=None,
    progress: bool = True,
) -> dict[str, list]:
    """Train the parameters of a model that require a gradient; frozen layers are computed once (prefix.FrozenFeatures).

    train, validation: faces.Faces. Accuracy on the latter is taken every `validate_every` iterations (default: a
        tenth of the whole) and at the end.
    checkpoint: a file to keep the state in, written every `save_every` seconds and at the end. If it exists, training
        goes on from there, and a finished one returns at once with the model's weights loaded. One of another
        recipe, data set, seed or initial model is refused with OtherTraining, a ValueError.
    cache: the most bytes that the frozen layers' outputs may take, those of train and of validation each;
        cache_folder: on disk there instead of in memory, where the limit is of all files (FrozenFeatures's limit
        and folder).
    skip_dead_tail: stop before a drop of the rate after which no weight can move by a thousandth of its tensor's
        root mean square any more (`furthest`). After 4,000 of Table 3's iterations 0.01 % of the sum of rates is left.
    precision: "float32", "bfloat16", or "auto": what the checkpoint was begun in, or the faster on this machine
        (precision.py), which the first of several processes finds for all.
    fabric: a launched lightning Fabric. Each of its processes then takes an equal share of every batch, and the
        weights come out as from one process, to rounding.
    progress: whether a bar shows it.

    Returns the history, without `heads_first`'s iterations: "loss" and "rate" of each iteration, and the share of its
    images that were "active", whose loss had a gradient; "validation" accuracies and the number of iterations done
    before each, "validated"; where the tail was skipped, "skipped_from" that iteration and by how much of its root mean
    square a weight may have moved still, "skipped_movement". Raises Diverged, naming the iteration, when the loss is
    not finite, and OSError when the checkpoint cannot be written; the last good checkpoint stays.
    """
    team = Team(fabric)
    places = np.arange(recipe.batch)[team.share(recipe.batch)]
    kept = team.first(lambda: metadata(checkpoint)) if checkpoint else None  # read once, so that all go the same way
    precision = team.first(lambda: _chosen(precision, _device(model), kept))
    solver = CaffeSGD(model.named_parameters(), recipe.momentum, recipe.weight_decay, measure=skip_dead_tail)
    history = {"loss": [], "rate": [], "active": [], "validated": [], "validation": []}
    keeper = None
    if checkpoint:
        how = {"precision": precision, "skip_dead_tail": skip_dead_tail}
        keeper = Checkpoint(checkpoint, model, solver, recipe, train, seed, how, writes=team.rank == 0)
    begin = 0 if kept is None else keeper.resume(kept, history)
    model.eval()
    if begin == recipe.max_iter or "skipped_from" in history:
        return history
    if recipe.heads_first and (keeper is None or keeper.saved is None):
        _fit_heads(model, train, recipe.heads_first, seed, cache, cache_folder, precision, fabric, progress)
    validate_every = validate_every or max(1, recipe.max_iter // 10)
    maps = FrozenFeatures(model, train, cache, cache_folder, precision)
    validation_maps = None if validation is None else FrozenFeatures(model, validation, cache, cache_folder, precision)
    targets, loss_of = torch.as_tensor(train.targets), LOSSES[recipe.loss]
    quiet = team.rank > 0 or not progress
    bar = tqdm(range(begin, recipe.max_iter), "training", initial=begin, total=recipe.max_iter, disable=quiet)
    for t in bar:
        batch = batch_indices(t, recipe.batch, len(train), seed)
        ask = functools.partial(_answers, model, maps, batch, (seed, t))
        few = (history["active"] or [1.0])[-1] < FEW  # in the batch before, and so probably in this one
        solver.zero_grad()
        value, active = team.mean(_learn(ask, places, targets[batch[places]], loss_of, few)).tolist()
        if not math.isfinite(value):
            raise Diverged(f"the loss of iteration {t} is {value}{_kept(keeper)}; try a lower base_lr")
        if keeper and keeper.age() > save_every:
            keeper.save(t, history)  # these weights have just shown a finite loss
        for m in solver.moved:
            m.weights.grad = team.mean(m.weights.grad)
        solver.rate = recipe.rate(t)
        solver.step()
        history["loss"].append(value)
        history["rate"].append(solver.rate)
        history["active"].append(active)
        movement = _left(solver, recipe, t + 1) if skip_dead_tail else math.inf
        ends = t + 1 == recipe.max_iter or movement <= DEAD
        if validation is not None and ((t + 1) % validate_every == 0 or ends):
            history["validated"].append(t + 1)
            predicted = evaluation.predict(model, validation, features=validation_maps)
            history["validation"].append(evaluation.accuracy(predicted, validation.targets).value)
        if t % 10 == 0 or ends:
            accuracy = ", ".join(f"{a:.3f}" for a in history["validation"][-1:])
            bar.set_postfix(loss=f"{value:.3f}", accuracy=accuracy, refresh=False)
        if movement <= DEAD:
            history |= {"skipped_from": [t + 1], "skipped_movement": [movement]}
            break
    if not all(p.isfinite().all() for p in model.parameters()):
        raise Diverged(f"a weight is not finite after iteration {t}{_kept(keeper)}; try a lower base_lr")
    if keeper:
        keeper.save(t + 1, history, finished=True)
    return history


def _answers(
    model: nn.Module, maps: FrozenFeatures, batch: np.ndarray, seed: tuple[int, int], places: np.ndarray
) -> Tensor:
    """Logits of the images at these places of a batch, with the dropout that `seed` draws for all of it."""
    with _drawn_dropout(model, seed, len(batch), places):
        return logits(model, maps, batch[places])


def _learn(ask, places: np.ndarray, targets: Tensor, loss_of, few: bool) -> Tensor:
    """Add the gradient of the loss at these places of a batch to the weights'. The loss, and the share of images that
    are active: whose loss has a gradient. Under a hinge loss it is none where every output has its margin.

    few: keep nothing for going back, and ask again for the active images alone. The same gradient, and where few are
        active, for little more than going forward costs.
    """
    with torch.set_grad_enabled(not few):
        answers = ask(places)
    seen = answers.detach().requires_grad_()
    loss = loss_of(seen, targets.to(seen.device))
    loss.backward()
    back, active = seen.grad, seen.grad.flatten(1).any(1)
    share = active.float().mean()
    if few:
        active[0] |= ~active.any()  # so that every weight has a gradient, be it 0
        answers, back = ask(places[active.cpu().numpy()]), back[active]
    answers.backward(back)
    return torch.stack((loss.detach(), share))


def _fit_heads(model, train, recipe: Recipe, seed, cache, cache_folder, precision, fabric, progress) -> None:
    """Train the fully connected layers on a trunk that stands still."""
    learning = [p for p in model.trunk.parameters() if p.requires_grad]
    try:
        for p in learning:
            p.requires_grad_(False)
        fit(
            model, train, recipe, seed,
            cache=cache, cache_folder=cache_folder, precision=precision, fabric=fabric, progress=progress,
        )  # fmt: skip
    except Diverged as e:
        raise Diverged(f"{e} in the recipe's heads_first: the fully connected layers were being trained alone") from e
    finally:
        for p in learning:
            p.requires_grad_(True)


class Team:
    """The processes that train together under a lightning Fabric; None is a team of one."""

    def __init__(self, fabric=None):
        self.fabric = fabric
        self.rank, self.size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)

    def share(self, batch: int) -> slice:
        """This process's part of a batch. Raises ValueError where the parts would not be equal."""
        if batch % self.size:
            possible = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise ValueError(
                f"a batch of {batch} cannot be shared equally by {self.size} processes; start one of {possible}"
            )
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the processes."""
        return x if self.size == 1 else self.fabric.all_reduce(x, reduce_op="mean")

    def first(self, ask):
        """What the first process is told when it asks, for all."""
        told = ask() if self.rank == 0 else None
        return told if self.size == 1 else self.fabric.broadcast(told)


def furthest(solver: CaffeSGD, recipe: Recipe, iteration: int) -> dict[str, float]:
    """How far any weight can still move from this iteration on, over its tensor's root mean square, by parameter.

    The speed that is left dies out as m / (1 - m) |v|, and gradients that push a weight by G at a step, on average and
    without regard to sign, as they did on the last plateau (decay included), move it by no more than G / (1 - m) times
    the sum of the rates to come, a geometric series over the plateaus. The bound holds as long as they do not grow.
    """
    to_come, momentum = sum(recipe.rate(t) for t in range(iteration, recipe.max_iter)), recipe.momentum

    def bound(m: Moved) -> float:
        way = (momentum * m.speed.abs()).add_(m.pushed, alpha=m.lr_mult * to_come / recipe.stepsize) / (1 - momentum)
        return (way.max() / m.weights.square().mean().sqrt()).item()

    return {m.name: bound(m) for m in solver.moved}


def _left(solver: CaffeSGD, recipe: Recipe, done: int) -> float:
    """Where the rate drops after `done` iterations, `furthest` of all parameters; elsewhere infinite."""
    if done % recipe.stepsize or done == recipe.max_iter:
        return math.inf
    movement = max(furthest(solver, recipe, done).values())
    for m in solver.moved:
        m.pushed.zero_()  # the next plateau's gradients are measured anew
    return movement


def _chosen(precision: str, device: torch.device, kept: dict | None) -> str:
    """The precision to train in. "auto" is measured once for a training: another process might find otherwise."""
    if precision == "auto" and kept:
        precision = kept.get("precision", precision)
    return resolve(precision, device)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _kept(keeper: "Checkpoint | None") -> str:
    if keeper is None or keeper.saved is None:
        return ""
    return f"; the checkpoint of iteration {keeper.saved} stays in {keeper.path}"


class _Drawn(nn.Module):
    """Dropout whose mask for a whole batch is drawn by its own generator, for the images at some places of it."""

    def __init__(self, p: float, seed: tuple[int, int], batch: int, places: np.ndarray):
        super().__init__()
        self.p, self.batch, self.places = p, batch, places
        number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        self.generator = torch.Generator().manual_seed(number)

    def forward(self, x: Tensor) -> Tensor:
        keep = torch.rand(self.batch, *x.shape[1:], generator=self.generator)[self.places] >= self.p
        return x * (keep / (1 - self.p)).to(x)


@contextmanager
def _drawn_dropout(model: nn.Module, seed: tuple[int, int], batch: int, places: np.ndarray):
    """The model's dropout at work, drawn from `seed` alone; outside it, the model is in evaluation mode."""
    plain = model.dropout
    model.dropout = _Drawn(plain.p, seed, batch, places)
    try:
        yield
    finally:
        model.dropout = plain


def moved(model: nn.Module, train, recipe: Recipe, iterations: int = 3) -> dict[str, bool]:
    """Which layers a few iterations on a copy of the model change, by name: frozen ones must not move."""
    trained = copy.deepcopy(model)
    fit(
        trained,
        train,
        dataclasses.replace(recipe, batch=min(recipe.batch, len(train)), max_iter=iterations, heads_first=None),
        cache=0,
        progress=False,
    )
    before, after = dict(model.named_parameters()), dict(trained.named_parameters())
    changed = {}
    for name in before:
        layer = name.removeprefix("trunk.").split(".")[0].split("_")[0]
        changed[layer] = changed.get(layer, False) or not torch.equal(before[name], after[name])
    return changed
