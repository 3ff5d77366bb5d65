"""Making the embedded trunk: `python -m dualtl_lib.synthetic.pretraining`.

A CaffeNet learns to tell, at every position of a procedural scene, what is drawn there (procedural.TASKS). Four things
make that affordable on two CPU cores, and none of them is left in the file that comes out:

- conv1 begins as the centres of k-means over whitened patches (Coates, Lee and Ng, AISTATS 2011; for CaffeNet
  Krähenbühl et al., ICLR 2016), which are edges, bars and blobs of colour already;
- each position of conv5 has labels of its own, so a picture of 131 pixels teaches 49 times;
- training begins on small pictures and ends on larger ones (STAGES);
- batch normalization follows each convolution and is folded into its weights at the end.

What the paper's recipe meets later are weights in BVLC's units, so each normalized output is multiplied by the spread
that BVLC's layer has on photographs (SPREAD); local response normalization depends on it.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dualtl_lib import files
from dualtl_lib.models import caffenet
from dualtl_lib.synthetic import procedural

FILE = Path(__file__).parent / "data" / "embedded.safetensors"
SPREAD = {"conv1": 74.0, "conv2": 68.0, "conv3": 52.0, "conv4": 28.0, "conv5": 28.0}  # RMS before the ReLU, on faces
FIRST, STEP = 17, 16  # pixels: where conv5's first position looks, and how far it is to the next


class Stage(NamedTuple):
    """A stretch of training on pictures of one size."""

    size: int
    steps: int


STAGES = (Stage(99, 1500), Stage(131, 960), Stage(163, 100))
BATCH, FRESH = 32, 12  # scenes in a batch; new ones drawn for it. The others were drawn lately, and cropped otherwise
MARGIN = 16  # pixels by which a drawn scene is larger than what is cut from it
RECENT = 960  # scenes kept to cut from
LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 1.5e-3, 100, 0.05  # AdamW's; the rate then falls as a cosine
CONV1_RATE = 0.2  # of the learning rate: conv1 is nearly right from the start


class Scenes(Dataset):
    """Scene i of `size` pixels, always the same for a seed: (uint8 RGB [3, S, S], int8 labels [tasks, S, S])."""

    def __init__(self, size: int, seed: int, stop: int):
        self.size, self.seed, self.stop = size, seed, stop

    def __len__(self) -> int:
        return self.stop

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, labels = procedural.scene(self.size, np.random.default_rng((self.seed, self.size, index)))
        return torch.from_numpy(picture), torch.from_numpy(labels)


class ScaledNorm(nn.BatchNorm2d):
    """Batch normalization times a constant."""

    def __init__(self, maps: int, scale: float):
        super().__init__(maps)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return super().forward(x) * self.scale


class Pretext(nn.Module):
    """A trunk with batch normalization after each convolution, and the answers to procedural.TASKS at each position."""

    def __init__(self, trunk: caffenet.Trunk):
        super().__init__()
        self.trunk = trunk
        self.norms = nn.ModuleDict({layer.name: ScaledNorm(layer.maps, SPREAD[layer.name]) for layer in trunk.layers})
        for layer in trunk.layers:
            conv = trunk.get_submodule(layer.name)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.bias.requires_grad_(False)  # the normalization has one
            if layer.name != "conv1":
                nn.init.constant_(self.norms[layer.name].bias, -0.5)  # BVLC's maps are silent three times out of four
        self.answers = nn.Conv2d(trunk.layers[-1].maps, sum(len(task.answers) for task in procedural.TASKS), 1)
        nn.init.normal_(self.answers.weight, std=1e-3)

    def features(self, x: Tensor) -> Tensor:
        """Transformed pictures [N, 3, S, S] -> conv5's maps before pooling [N, 256, S', S']."""
        x = x.contiguous(memory_format=torch.channels_last)  # as Trunk.forward has it
        for layer in self.trunk.layers:
            x = F.relu(self.norms[layer.name](self.trunk.get_submodule(layer.name)(x)))
            if layer.pool and layer is not self.trunk.layers[-1]:
                x = self.trunk.pool(x)
            if layer.norm:
                x = self.trunk.norm(x)
        return x

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB [N, 3, S, S] -> for each task its logits [N, answers, S', S']."""
        logits = self.answers(self.features(transform(images, self.trunk.transform)))
        return logits.split([len(task.answers) for task in procedural.TASKS], dim=1)


def transform(images: Tensor, preprocessing: caffenet.Preprocessing) -> Tensor:
    """caffenet.Preprocessing in Caffe's colours, for pictures of any size."""
    return images.flip(1).float() - torch.tensor(preprocessing.mean).view(3, 1, 1)


def fold(model: Pretext) -> caffenet.Trunk:
    """The trunk with its normalizations multiplied into weights and biases: the same function in evaluation mode."""
    trunk = caffenet.Trunk(model.trunk.layers, model.trunk.order, model.trunk.transform, name="embedded")
    with torch.no_grad():
        for layer in trunk.layers:
            conv, norm = model.trunk.get_submodule(layer.name), model.norms[layer.name]
            gain = norm.scale * norm.weight * (norm.running_var + norm.eps).rsqrt()
            folded = trunk.get_submodule(layer.name)
            folded.weight.copy_(conv.weight * gain.view(-1, 1, 1, 1))
            folded.bias.copy_((conv.bias - norm.running_mean) * gain + norm.scale * norm.bias)
    return trunk


def loss_and_accuracy(logits: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, list[float]]:
    """The sum of the tasks' cross-entropies, and the share of positions answered rightly for each task.

    labels: int8 [N, tasks, S', S'], -1 where a task does not apply.
    """
    loss, accuracies = torch.zeros(()), []
    for answers, target in zip(logits, labels.long().unbind(1), strict=True):
        loss = loss + F.cross_entropy(answers, target, ignore_index=procedural.IGNORED)
        applies = target != procedural.IGNORED
        accuracies.append((answers.argmax(1) == target)[applies].float().mean().item())
    return loss, accuracies


def cut(images: Tensor, labels: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random square of `size` pixels from each scene, half of them with light and dark of another strength.

    Returns the squares and their labels where conv5 looks: uint8 [N, 3, S, S], int8 [N, tasks, S', S'].
    """
    squares, answers = [], []
    for image, label in zip(images, labels, strict=True):
        top, left = rng.integers(image.shape[-1] - size + 1, size=2)
        square = image[:, top : top + size, left : left + size]
        if rng.random() < 0.5:
            square = ((square.float() - 128) * rng.uniform(0.5, 1.1) + rng.uniform(100, 156)).clamp(0, 255).byte()
        squares.append(square)
        answers.append(label[:, top + FIRST : top + size - FIRST : STEP, left + FIRST : left + size - FIRST : STEP])
    return torch.stack(squares), torch.stack(answers)


def edges_and_blobs(seed: int, maps: int, kernel: int, scenes: int = 500, iterations: int = 20) -> Tensor:
    """conv1's beginning [maps, 3, kernel, kernel], BGR: centres of spherical k-means over whitened patches."""
    rng = np.random.default_rng(seed)
    patches = []
    for index in range(scenes):
        picture, _ = Scenes(99, seed, scenes)[index]
        picture = picture.flip(0).float()
        for top, left in rng.integers(picture.shape[-1] - kernel + 1, size=(80, 2)):
            patches.append(picture[:, top : top + kernel, left : left + kernel].flatten())
    patches = torch.stack(patches)
    patches -= patches.mean(1, keepdim=True)
    patches = patches[patches.std(1) > 8]
    patches /= patches.std(1, keepdim=True)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    whitening = vectors * (values + 0.5 * values.mean()).rsqrt() @ vectors.T
    white = F.normalize(patches @ whitening, dim=1)
    centres = white[torch.from_numpy(rng.choice(len(white), maps, replace=False))]
    for _ in range(iterations):
        similarity, nearest = (white @ centres.T).max(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, white * similarity[:, None])
        lonely = torch.bincount(nearest, minlength=maps) < 20
        sums[lonely] = white[torch.from_numpy(rng.choice(len(white), int(lonely.sum())))]
        centres = F.normalize(sums, dim=1)
    filters = F.normalize(centres @ whitening, dim=1)
    return filters.view(maps, 3, kernel, kernel)


def learning_rate(step: int, steps: int) -> float:
    """Rising for WARM_UP steps, then half a cosine's period down to nothing."""
    return LEARNING_RATE * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Pretraining:
    """The state of a training, which a checkpoint holds and resumes."""

    def __init__(self, seed: int, stages: tuple[Stage, ...] = STAGES):
        self.seed, self.stages, self.step, self.seconds = seed, stages, 0, 0.0
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            self.model = Pretext(caffenet.Trunk())
        conv1 = self.model.trunk.conv1
        with torch.no_grad():
            conv1.weight.copy_(edges_and_blobs(seed, conv1.out_channels, conv1.kernel_size[0]))
        rest = [p for p in self.model.parameters() if p is not conv1.weight and p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [conv1.weight], "factor": CONV1_RATE},
                {"params": [p for p in rest if p.ndim > 1], "factor": 1.0},
                {"params": [p for p in rest if p.ndim == 1], "factor": 1.0, "weight_decay": 0.0},
            ],
            weight_decay=WEIGHT_DECAY,
        )
        self.curve = []  # every EVERY steps: step, loss, and the accuracy of each task

    @property
    def steps(self) -> int:
        """How many there are in all."""
        return sum(stage.steps for stage in self.stages)

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "seed": self.seed}
        state |= {"stages": [list(s) for s in self.stages], "step": self.step, "curve": self.curve}
        with files.atomic_write(path) as part:
            torch.save(state | {"seconds": self.seconds}, part)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ValueError if it is one of another training."""
        state = torch.load(path, weights_only=True)
        found, expected = (state["seed"], state["stages"]), (self.seed, [list(s) for s in self.stages])
        if found != expected:
            raise ValueError(f"{path.name}: expected seed and stages {expected}, found {found}; start without --resume")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve, self.seconds = state["step"], state["curve"], state["seconds"]

    def batches(self, workers: int):
        """Yield (images, labels) for each step that is left."""
        begin = 0
        for size, steps in self.stages:
            if self.step < begin + steps:
                yield from self._stage(size, max(0, self.step - begin), steps, begin, workers)
            begin += steps

    def _stage(self, size: int, first: int, steps: int, begin: int, workers: int):
        drawn = first * FRESH + RECENT  # what had been drawn before step `first`
        scenes = Scenes(size + MARGIN, self.seed, RECENT + steps * FRESH)
        loader = DataLoader(scenes, FRESH, sampler=range(drawn - RECENT, len(scenes)), num_workers=workers)
        images, labels = [], []
        for fresh in loader:
            images, labels = [*images, *fresh[0]][-RECENT:], [*labels, *fresh[1]][-RECENT:]
            if len(images) < RECENT or first == steps:
                continue
            rng = np.random.default_rng((self.seed, begin + first))
            chosen = rng.choice(RECENT, BATCH, replace=False)
            yield cut([images[k] for k in chosen], [labels[k] for k in chosen], size, rng)
            first += 1

    def run(self, checkpoint: Path, every: int = 100, workers: int = 0) -> None:
        """Train to the end, with a checkpoint and a point of the curve every `every` steps."""
        self.model.train()
        sums, began = np.zeros(1 + len(procedural.TASKS)), time.monotonic()
        bar = tqdm(total=self.steps, initial=self.step, desc="pretraining", mininterval=5)
        for images, labels in self.batches(workers):
            for group in self.optimizer.param_groups:
                group["lr"] = group["factor"] * learning_rate(self.step, self.steps)
            loss, accuracies = loss_and_accuracy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            sums += [loss.item(), *accuracies]
            bar.update()
            if self.step % every == 0 or self.step == self.steps:
                since = self.step - (self.curve[-1][0] if self.curve else 0)
                self.curve.append([self.step, *(round(float(x), 4) for x in sums / since)])
                self.seconds, began = self.seconds + time.monotonic() - began, time.monotonic()
                sums[:] = 0
                self.save(checkpoint)
                names = ("loss", *(task.name for task in procedural.TASKS))
                values = zip(names, self.curve[-1][1:], strict=True)
                bar.write(f"step {self.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values))
        bar.close()

    def finished(self, scenes: int = 96) -> caffenet.Trunk:
        """The folded trunk, its normalization measured anew on scenes of the size that the trunk is used at."""
        for norm in self.model.norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
        self.model.train()
        with torch.no_grad():
            for images, _ in DataLoader(Scenes(caffenet.SIZE, self.seed, scenes), 16):
                self.model(images)
        return fold(self.model.eval())


def save(trunk: caffenet.Trunk, path: Path, facts: dict) -> None:
    """Write a trunk in float16, with how it was made in the file's metadata and beside it as JSON."""
    tensors = {name: value.half().contiguous() for name, value in trunk.state_dict().items()}
    with files.atomic_write(path) as part:
        save_file(tensors, part, {"dualtl": json.dumps(facts)})
    with files.atomic_write(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Make the embedded trunk."""
    parser = argparse.ArgumentParser(prog="python -m dualtl_lib.synthetic.pretraining", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=FILE, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=float, default=1.0, help="of the full training's length, 1 is all")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--checkpoint", type=Path, default=files.OUTPUT / "runs" / "pretraining" / "checkpoint.pt")
    parser.add_argument("--snapshot", action="store_true", help="write the file from the last checkpoint as it is")
    chosen = parser.parse_args(arguments)
    stages = tuple(Stage(size, max(1, round(steps * chosen.steps))) for size, steps in STAGES)
    training = Pretraining(chosen.seed, stages)
    if chosen.resume or chosen.snapshot:
        training.load(chosen.checkpoint)
    if not chosen.snapshot:
        training.run(chosen.checkpoint, workers=chosen.workers)
    facts = {
        "command": "python -m dualtl_lib.synthetic.pretraining",
        "seed": chosen.seed,
        "stages": [stage._asdict() for stage in stages],
        "steps done": training.step,
        "seconds": round(training.seconds),
        "curve": ["step", "loss", *(f"{task.name} accuracy" for task in procedural.TASKS)],
        "points": training.curve,
        **files.provenance(),
    }
    save(training.finished(), chosen.out, facts)


if __name__ == "__main__":
    sys.exit(main())
