"""Training speed: images per second of each step, against the plain loop, and the share of the matrix rate.

python benchmarks/training.py [--images 200] [--iterations 6] [--order pool-norm] [--precision auto] [--schedule 500]

(a) Step two, conv1 frozen. (b) Step three, conv1 and conv2 frozen, at its beginning, where every image has a gradient,
and later, where a tenth of them lack the hinge loss's margin. (c) Fig. 18's heads, conv5 taken away and the four layers
before it frozen. (d) Inference.

The plain loop is what one writes first: nn modules, requires_grad_(False), float32, a DataLoader, torch.optim.SGD. Both
loops take the same batches, in turn in one process, and the best turn counts. "Share" is of the matrix rate measured in
the same run: the floating-point operations of the convolutions and products that cannot be avoided, per second. "torch
alone" runs these convolutions and products by themselves, in channels_last and in the default memory format.

Weights and pictures are random. Neither changes the time, as the number of images with a gradient is given. Then Table
4 through trainer.fit on as many images as the paper has, for --schedule of its iterations; random labels decide how
many images have a gradient there. Last, how the frozen features grow with the data.
"""

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dualtl_lib import paper
from dualtl_lib.data.dataset import Faces
from dualtl_lib.models import caffenet
from dualtl_lib.models.precision import bfloat16_pays, resolve
from dualtl_lib.train import trainer
from dualtl_lib.train.frozen import FrozenFeatures
from dualtl_lib.train.inference import predict
from dualtl_lib.train.losses import hinge
from dualtl_lib.train.optimizer import CaffeSGD, caffe_groups
from dualtl_lib.train.recipe import CKPLUS
from dualtl_lib.train.sampling import batch_indices
from dualtl_lib.train.trainer import TrainerConfig

BATCH = 100
STEPS = {  # what is trained, what is frozen, how many images of a batch have a gradient
    "(a) step two, conv1 frozen": (caffenet.AttributeNet, ("conv1",), BATCH),
    "(b) step three, conv1-2 frozen": (caffenet.ExpressionNet, ("conv1", "conv2"), BATCH),
    "(b) a tenth lack their margin": (caffenet.ExpressionNet, ("conv1", "conv2"), BATCH // 10),
    "(c) Fig. 18's heads": (partial(caffenet.ExpressionNet, conv5=False), ("conv1", "conv2", "conv3", "conv4"), BATCH),
}


def noise(images: int, heads: int | None = None) -> Faces:
    """Pictures of noise with random targets."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (images, 3, caffenet.SIZE, caffenet.SIZE), dtype=np.uint8)
    targets = torch.from_numpy(draw.integers(0, 2, (images, heads) if heads else images))
    names = [str(i) for i in range(images)]
    return Faces(pixels, targets, paper.ATTRIBUTES if heads else paper.EXPRESSIONS, names, names, names)


class Plain(nn.Module):
    """The same network out of PyTorch's own modules, run from the first layer to the last at every step."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.transform, self.model = model.trunk.transform, model
        steps = []
        for layer in model.trunk.layers:
            pool = [nn.MaxPool2d(3, 2, ceil_mode=True)] * layer.pool
            norm = [nn.LocalResponseNorm(5, 1e-4, 0.75)] * layer.norm
            after = pool + norm if model.trunk.order == "pool-norm" else norm + pool
            steps += [model.trunk.get_submodule(layer.name), nn.ReLU(), *after]
        self.layers = nn.Sequential(*steps)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.classify(self.layers(self.transform(images)))


def build(kind: Callable, frozen: tuple[str, ...], order: str) -> nn.Module:
    torch.manual_seed(0)
    trunk = caffenet.Trunk(order=order)
    return kind(trunk, paper.ATTRIBUTES if kind is caffenet.AttributeNet else paper.EXPRESSIONS).freeze(*frozen)


def batches(data: Faces) -> Iterator[np.ndarray]:
    """Images of each step, without end."""
    return (batch_indices(t, BATCH, len(data), seed=0) for t in itertools.count())


def loss_of(logits: torch.Tensor, targets: torch.Tensor, active: int) -> torch.Tensor:
    """The hinge loss as if all images but the first `active` had their margin."""
    return hinge(logits[:active], targets[:active])


def plain_steps(model: nn.Module, data: Faces, active: int = BATCH) -> Iterator[int]:
    """One training step of the plain loop at each `next`: how many images it took."""
    net = Plain(model).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 1e-6, momentum=0.9, weight_decay=5e-4
    )
    for images, targets in torch.utils.data.DataLoader(data, batch_sampler=batches(data)):
        loss = loss_of(net(images), targets, active)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(images)


def our_steps(
    model: nn.Module, data: Faces, precision: str, active: int = BATCH, features: FrozenFeatures | None = None
) -> Iterator[int]:
    """The same by train_step, with the frozen features computed before."""
    features = features or FrozenFeatures(model.eval(), data, precision=precision)
    recipe = dataclasses.replace(CKPLUS, base_lr=1e-6)
    optimizer = CaffeSGD(caffe_groups(model.named_parameters(), recipe))
    loss, few = partial(loss_of, active=active), active < trainer.FEW * BATCH
    for t, batch in enumerate(batches(data)):
        optimizer.zero_grad()
        trainer.train_step(model, features, batch, data.targets[batch], loss, seed=(0, t), few_active=few)
        optimizer.step()
        yield BATCH


def rates(turns: dict, rounds: int) -> dict[str, float]:
    """Images per second of each, its best turn of `rounds`, after one that does not count."""
    best = dict.fromkeys(turns, 0.0)
    for turn in range(rounds + 1):
        for name, steps in turns.items():
            begin = time.perf_counter()
            images = next(steps)
            if turn:
                best[name] = max(best[name], images / (time.perf_counter() - begin))
    return best


def matrix_rate(dtype: torch.dtype, n: int = 2048, budget: float = 2.0) -> float:
    """Floating-point operations a second of a square matrix product: the best one within `budget` seconds."""
    a, best, begin = torch.ones(n, n, dtype=dtype), 0.0, time.perf_counter()
    while time.perf_counter() - begin < budget:
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def alone_steps(
    model: nn.Module, active: int, dtype: torch.dtype, memory_format: torch.memory_format = torch.channels_last
) -> Iterator[int]:
    """Nothing but torch's own convolutions and products, those that `operations` counts, on a batch at each `next`."""
    shapes, calls = list(model.trunk.shapes().values()), []
    frozen = model.frozen() if active else ()
    for layer, entering in zip(model.trunk.layers, shapes, strict=False):
        if layer.name in frozen:
            continue
        weight = model.trunk.get_submodule(layer.name).weight.detach().to(dtype)
        how = layer.stride, layer.padding, 1, layer.groups
        x = torch.ones(BATCH, *entering, dtype=dtype).contiguous(memory_format=memory_format)
        y = F.conv2d(x, weight, None, *how)
        calls.append(partial(F.conv2d, x, weight, None, *how))
        if active:
            if len(calls) > 1:  # what enters the first of them needs no gradient
                calls.append(partial(torch.nn.grad.conv2d_input, x[:active].shape, weight, y[:active], *how))
            calls.append(partial(torch.nn.grad.conv2d_weight, x[:active], weight.shape, y[:active], *how))
    for name, p in model.named_parameters():
        if name.startswith("fc") and p.ndim > 1:
            weight = p.detach().flatten(0, -2).to(dtype)
            x, y = (torch.ones(BATCH, n, dtype=dtype) for n in reversed(weight.shape))
            calls.append(partial(torch.mm, x, weight.t()))
            if active:
                calls.append(partial(torch.mm, y[:active].t(), x[:active]))
                calls += [partial(torch.mm, y[:active], weight)] * (len(calls) > 2)
    while True:
        with torch.no_grad():
            for call in calls:
                call()
        yield BATCH


def both_formats(model: nn.Module, active: int, precision: str) -> dict[str, Iterator[int]]:
    """`alone_steps` in channels_last, as the trunk computes, and in PyTorch's default memory format."""
    formats = {"channels_last": torch.channels_last, "default": torch.contiguous_format}
    return {name: alone_steps(model, active, getattr(torch, precision), format) for name, format in formats.items()}


def operations(model: nn.Module, active: int) -> float:
    """Floating-point operations for one image of a batch that cannot be avoided: those of the layers that are not
    frozen, forward, and for the `active` ones, if any, twice more (by the weights and by what enters, which the first
    of them does without)."""
    shapes, total, back = model.trunk.shapes(), 0.0, active / BATCH
    skipped = model.frozen() if active else ()
    for layer in model.trunk.layers:
        conv = model.trunk.get_submodule(layer.name)
        if layer.name in skipped:
            continue
        before = list(shapes)[list(shapes).index(layer.name) - 1]
        side = (shapes[before][1] + 2 * layer.padding - layer.kernel) // layer.stride + 1
        total += 2 * conv.weight.numel() * side**2 * (1 + back * (2 if total else 1))
    head = 2 * sum(p.numel() for name, p in model.named_parameters() if name.startswith("fc") and p.ndim > 1)
    return total + head * (1 + back * (2 if total else 1))


def inference(data: Faces, order: str, precision: str, rounds: int) -> dict[str, float]:
    """Images per second of the plain loop, `predict` and torch alone."""
    model = build(caffenet.ExpressionNet, (), order).eval()
    plain, batch = Plain(model).eval(), data.subset(range(BATCH))

    @torch.no_grad()
    def by_plain():
        while True:
            for images, _ in torch.utils.data.DataLoader(batch, BATCH):
                plain(images).argmax(1)
                yield BATCH

    def by_us():
        while True:
            predict(model, batch, precision=precision)
            yield BATCH

    return rates({"plain": by_plain(), "ours": by_us(), **both_formats(model, 0, precision)}, rounds)


def schedule(iterations: int, order: str, precision: str) -> None:
    """Table 4 by trainer.fit on 1400 images: seconds of the frozen layers, and of the iterations."""
    model = build(caffenet.ExpressionNet, ("conv1", "conv2"), order)
    data = noise(paper.CKPLUS_SPLIT["train"])
    short = dataclasses.replace(CKPLUS, max_iter=iterations)
    begin = time.perf_counter()
    FrozenFeatures(model, data, precision=precision)
    frozen = time.perf_counter() - begin
    begin = time.perf_counter()
    trainer.fit(model, data, short, config=TrainerConfig(precision=precision))
    each = (time.perf_counter() - begin - frozen) / iterations
    whole = (frozen + CKPLUS.max_iter * each) / 60
    print(
        f"\nTable 4, {len(data)} images: {iterations} iterations at {1000 * each:.0f} ms, "
        f"frozen layers {frozen:.0f} s; extrapolated to {CKPLUS.max_iter}: {whole:.0f} minutes"
    )


def growth(sizes: list[int], order: str, precision: str) -> None:
    """Time and memory of step three as the data set grows: the frozen features, and a step with them.

    Each size has a process of its own, whose memory is that of this size alone.
    """
    print("\n| images | frozen layers, s | s per 1000 | features, MB | training, images/s | peak memory, GB |")
    print("|---:|---:|---:|---:|---:|---:|")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(partial(grown, order=order, precision=precision), sizes):
            print(row, flush=True)


def grown(n: int, order: str, precision: str) -> str:
    """The row of `growth` for a data set of n images."""
    model, data = build(caffenet.ExpressionNet, ("conv1", "conv2"), order).eval(), noise(n)
    begin = time.perf_counter()
    features = FrozenFeatures(model, data, precision=precision)
    taken = time.perf_counter() - begin
    rate = rates({"ours": our_steps(model, data, precision, features=features)}, rounds=3)["ours"]
    size = f"{features.size(n) / 1e6:.0f} | {rate:.0f} | {peak_memory():.1f}"
    return f"| {n} | {taken:.1f} | {1000 * taken / n:.2f} | {size} |"


def peak_memory() -> float:
    """The most that this process has held so far, in GB; the pictures are part of it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=6, help="turns of each that count")
    parser.add_argument("--order", choices=("pool-norm", "norm-pool"), default="pool-norm")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "auto"), default="auto")
    parser.add_argument("--schedule", type=int, default=500, help="iterations of Table 4 that are measured")
    parser.add_argument("--grow", type=int, nargs="*", default=[1000, 2000, 4000, 8000], help="sizes of data")
    args = parser.parse_args()
    if args.images < BATCH:
        parser.error(f"--images is at least a batch, {BATCH}")
    precision = resolve(args.precision, torch.device("cpu"))
    emulated = not bfloat16_pays("cpu")  # a product of 2048 would take a minute
    peak = dict.fromkeys(("float32", "bfloat16"), 0.0)
    rows = []

    def row(name: str, found: dict[str, float], work: int):
        rows.append((name, *found.values(), work))
        for kind in peak:  # the machine's best rate of many moments, since others may use it too
            n = 128 if emulated and kind == "bfloat16" else 2048
            peak[kind] = max(peak[kind], matrix_rate(getattr(torch, kind), n))

    for name, (kind, frozen, active) in STEPS.items():
        model, other = build(kind, frozen, args.order), build(kind, frozen, args.order)
        data = noise(args.images, len(paper.ATTRIBUTES) if kind is caffenet.AttributeNet else None)
        turns = {"plain": plain_steps(other, data, active), "ours": our_steps(model, data, precision, active)}
        turns |= both_formats(model, active, precision)
        row(name, rates(turns, args.iterations), operations(model, active))
    found = inference(noise(args.images), args.order, precision, args.iterations)
    row("(d) inference", found, operations(build(caffenet.ExpressionNet, (), args.order), active=0))
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, order {args.order}")
    measured = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in peak.items())
    print(f"matrix rate, GFLOP/s: {measured}; ours and torch alone in {precision}, the plain loop in float32\n")
    print("| step | plain, images/s | of the float32 rate | ours, images/s | times | MFLOP an image "
          f"| of the {precision} rate | torch alone, images/s | its share | ours of its "
          "| torch alone, default memory format |")  # fmt: skip
    print("|---|" + "---:|" * 10)
    for name, plain, ours, last, first, work in rows:
        loop = f"{plain:.1f} | {plain * work / peak['float32']:.0%}"
        share = f"{work / 1e6:.0f} | {ours * work / peak[precision]:.0%}"
        alone = f"{last:.0f} | {last * work / peak[precision]:.0%} | {ours / last:.0%} | {first:.0f}"
        print(f"| {name} | {loop} | {ours:.1f} | {ours / plain:.2f} | {share} | {alone} |")
    schedule(args.schedule, args.order, precision)
    growth(args.grow, args.order, precision)


if __name__ == "__main__":
    main()
