"""Training as Tables 3 and 4 set it: recipes, losses, and a loop that resumes to the bit.

Everything drawn at iteration t (the batch, the dropout) follows from (seed, t) alone, so a checkpoint needs no state of
a random number generator, and a training that was killed and resumed ends with the same bits as one that was not.
"""

import copy
import dataclasses
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dualtl_lib import paper, runs
from dualtl_lib.prefix import LIMIT, Prefix, content
from dualtl_lib.solver import CaffeSGD


class Diverged(RuntimeError):
    """The loss or the weights are no longer finite numbers."""


class OtherTraining(ValueError):
    """A checkpoint that belongs to another recipe, data set, seed or initial model."""


@dataclass(frozen=True)
class Recipe:
    """Caffe's solver settings under Caffe's names (Tables 3 and 4), and the loss.

    The learning rate at iteration t is base_lr * gamma^floor(t / stepsize) (policy "step").
    loss: "hinge" (section 4.2.1) or "cross-entropy".
    """

    base_lr: float
    batch: int
    gamma: float
    stepsize: int
    max_iter: int
    momentum: float
    weight_decay: float
    loss: str = "hinge"

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}")
        if min(self.batch, self.stepsize, self.max_iter) < 1:
            raise ValueError(f"batch, stepsize and max_iter are at least 1: {self}")

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        return self.base_lr * self.gamma ** (iteration // self.stepsize)

    def quick(self) -> "Recipe":
        """What two CPU cores do in about a minute. Departs from the paper in the batch (50 instead of 100) and the
        iterations (100), with the drops of the rate moved in proportion; the rest is as it was.
        """
        return dataclasses.replace(self, batch=50, max_iter=100, stepsize=40)


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


def batch_indices(iteration: int, batch: int, images: int, seed: int) -> np.ndarray:
    """Which images an iteration trains on: the next `batch` of an endless list that is shuffled anew every epoch."""
    position = np.arange(iteration * batch, (iteration + 1) * batch)
    chosen = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(position // images):
        order = np.random.default_rng((seed, int(epoch))).permutation(images)
        here = position // images == epoch
        chosen[here] = order[position[here] % images]
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
    cache: int = LIMIT,
    cache_folder: Path | None = None,
) -> dict[str, list]:
    """Train the parameters of a model that require a gradient; frozen layers are computed once (prefix.Prefix).

    train, validation: faces.Faces. Accuracy on the latter is taken every `validate_every` iterations (default: a
        tenth of the whole).
    checkpoint: a file to keep the state in, written every `save_every` seconds and at the end. If it exists, training
        goes on from there, and a finished one returns at once with the model's weights loaded. One of another
        recipe, data set, seed or initial model is refused with OtherTraining, a ValueError.
    cache: the most bytes that the frozen layers' outputs may take; cache_folder: on disk there instead of in memory.

    Returns the history: "loss" and "rate" of each iteration; "validation" accuracies and the number of iterations
    done before each, "validated". Raises Diverged, naming the iteration, when the loss is not finite, and OSError
    when the checkpoint cannot be written; the last good checkpoint stays.
    """
    solver = CaffeSGD(model.named_parameters(), recipe.momentum, recipe.weight_decay)
    history = {"loss": [], "rate": [], "validated": [], "validation": []}
    keeper = Checkpoint(checkpoint, model, solver, recipe, train, seed) if checkpoint else None
    begin = keeper.resume(history) if keeper else 0
    if begin == recipe.max_iter:
        return history
    validate_every = validate_every or max(1, recipe.max_iter // 10)
    maps = Prefix(model, train, cache, cache_folder)
    validation_maps = Prefix(model, validation, cache, cache_folder) if validation is not None else None
    targets = torch.as_tensor(train.targets)
    loss_of = LOSSES[recipe.loss]
    model.train()
    progress = tqdm(range(begin, recipe.max_iter), desc="training", initial=begin, total=recipe.max_iter)
    for t in progress:
        chosen = batch_indices(t, recipe.batch, len(train), seed)
        loss = loss_of(_logits(model, maps, chosen, dropout_seed=(seed, t)), targets[chosen])
        value = loss.item()
        if not math.isfinite(value):
            kept = f"; the checkpoint of iteration {keeper.saved} stays in {checkpoint}" if keeper else ""
            raise Diverged(
                f"the loss of iteration {t} is {value}{kept}. A lower base_lr than {recipe.base_lr} may help"
            )
        if keeper and keeper.age() > save_every:
            keeper.save(t, history)  # these weights have just shown a finite loss
        solver.zero_grad()
        loss.backward()
        solver.rate = recipe.rate(t)
        solver.step()
        history["loss"].append(value)
        history["rate"].append(solver.rate)
        if validation is not None and ((t + 1) % validate_every == 0 or t + 1 == recipe.max_iter):
            history["validated"].append(t + 1)
            history["validation"].append(_accuracy(model, validation_maps, torch.as_tensor(validation.targets)))
            model.train()
        if t % 10 == 0:
            progress.set_postfix(loss=f"{value:.3f}", accuracy=history["validation"][-1:])
    model.eval()
    if not all(p.isfinite().all() for p in model.parameters()):
        raise Diverged(f"weights are not finite after iteration {recipe.max_iter - 1}")
    if keeper:
        keeper.save(recipe.max_iter, history)
    return history


def _logits(model: nn.Module, maps: Prefix, chosen, dropout_seed: tuple[int, int] | None = None) -> Tensor:
    """From the prefix on. dropout_seed: what the dropout of this iteration is drawn from."""
    x = maps[chosen]
    if dropout_seed is None:
        return model.classify(x if maps.start is None else model.trunk(x, start=maps.start))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(dropout_seed).generate_state(1, np.uint64)[0] >> 1))
        return model.classify(x if maps.start is None else model.trunk(x, start=maps.start))


@torch.no_grad()
def _accuracy(model: nn.Module, maps: Prefix, targets: Tensor, batch: int = 100) -> float:
    model.eval()
    right = [
        (_logits(model, maps, np.arange(i, min(i + batch, len(maps)))).argmax(-1) == targets[i : i + batch]).float()
        for i in range(0, len(maps), batch)
    ]
    return torch.cat(right).mean().item()


class Checkpoint:
    """The state of a training in one safetensors file, replaced as a whole or not at all.

    Weights are kept under their names in the model, momentum buffers under "momentum." and the name; the metadata
    holds the iteration, the history, and fingerprints of what was trained on what from where.
    """

    def __init__(self, path: Path, model: nn.Module, solver: CaffeSGD, recipe: Recipe, train, seed: int):
        self.path, self.model, self.solver = Path(path), model, solver
        self.recipe = recipe
        self.origin = {
            "recipe": json.dumps(dataclasses.asdict(recipe)),
            "seed": str(seed),
            "data": content(train),
            "model": fingerprint(model),
        }
        self.saved, self.time = None, time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.path.parent.glob(f".{self.path.stem}.*{self.path.suffix}"):
                stale.unlink()  # what a killed process was writing
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as e:
            raise OSError(f"no checkpoint can be written to {self.path.parent} ({e}); name another folder") from e

    def age(self) -> float:
        """Seconds since the last one was written."""
        return time.monotonic() - self.time

    def save(self, iteration: int, history: dict):
        """Write the state before this iteration."""
        tensors = {k: v.contiguous() for k, v in self.model.state_dict().items()}
        if iteration < self.recipe.max_iter:
            tensors |= {f"momentum.{k}": v.contiguous() for k, v in self.solver.momenta().items()}
        metadata = {**self.origin, "iteration": str(iteration), "history": json.dumps(history)}
        try:
            with runs.replacing(self.path) as part:
                save_file(tensors, part, metadata)
                with open(part) as f:
                    os.fsync(f.fileno())  # on the disk before it takes the old one's place
        except (OSError, safetensors.SafetensorError) as e:
            kept = "there is none yet" if self.saved is None else f"that of iteration {self.saved} stays"
            raise OSError(f"the checkpoint {self.path} cannot be written ({e}); {kept}") from e
        self.saved, self.time = iteration, time.monotonic()

    def resume(self, history: dict) -> int:
        """Load the file, if there is one, into model, solver and history; the iteration to go on from."""
        if not self.path.exists():
            return 0
        with safetensors.safe_open(self.path, "pt") as f:
            metadata = f.metadata() or {}
        for what, mine in self.origin.items():
            if metadata.get(what) != mine:
                raise OtherTraining(
                    f"{self.path} is of another training: its {what} is {metadata.get(what)}, this one's is {mine}. "
                    "Delete the file to start anew, or name another"
                )
        tensors = load_file(self.path)
        momenta = {k: tensors.pop(k) for k in list(tensors) if k.startswith("momentum.")}
        self.model.load_state_dict(tensors)
        for name, buffer in self.solver.momenta().items():
            if momenta:
                buffer.copy_(momenta[f"momentum.{name}"])
        history.update(json.loads(metadata["history"]))
        self.saved = int(metadata["iteration"])
        return self.saved


def fingerprint(model: nn.Module) -> str:
    """Of a model's weights, which of them train, and how the trunk treats its images."""
    about = [
        repr((model.trunk.layers, model.trunk.order, model.trunk.transform, model.classes, model.dropout.p)),
        *(f"{name} {p.requires_grad}" for name, p in model.named_parameters()),
    ]
    return runs.fingerprint(
        *(a.encode() for a in about), *(p.detach().cpu().numpy().tobytes() for p in model.parameters())
    )


def moved(model: nn.Module, train, recipe: Recipe, iterations: int = 3) -> dict[str, bool]:
    """Which layers a few iterations on a copy of the model change, by name: frozen ones must not move."""
    trained = copy.deepcopy(model)
    fit(trained, train, dataclasses.replace(recipe, batch=min(recipe.batch, len(train)), max_iter=iterations))
    before, after = dict(model.named_parameters()), dict(trained.named_parameters())
    changed = {}
    for name in before:
        layer = name.removeprefix("trunk.").split(".")[0].split("_")[0]
        changed[layer] = changed.get(layer, False) or not torch.equal(before[name], after[name])
    return changed
