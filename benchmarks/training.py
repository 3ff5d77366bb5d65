"""How fast training is: images a second of each step, against the plain loop, and the share of the matrix rate.

python benchmarks/training.py [--images 200] [--iterations 6] [--order pool-norm] [--precision auto] [--schedule 500]

(a) step two, conv1 frozen; (b) step three, conv1 and conv2 frozen, at its beginning, where every image has a gradient,
and later, where a tenth of them lack the hinge loss's margin; (c) Fig. 18's heads, conv5 taken away and the four layers
before it frozen; (d) inference. The plain loop is what one writes first: nn modules, requires_grad_(False), float32, a
DataLoader, torch.optim.SGD. Both see the same batches, turn by turn in one process, and the best turn counts. "Share"
is of the matrix rate measured in the same run: operations of the convolutions and products that cannot be avoided, over
seconds. "torch's products alone" runs these convolutions and products by themselves, in the same turns: how much of the
matrix rate they reach, with maps last in memory as ours are, and with maps first. Random weights and pictures: neither
changes the time, as the number of images with a gradient is given. Then how many bytes an iteration of (c) moves at
least; what normalizing and pooling the maps of conv1 and conv2 take, beside conv1's convolution; Table 4 through
training.fit on as many images as the paper has, --schedule of its iterations, where that number is what random labels
make it; and how the frozen layers' maps grow with the data.
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
from dualtl_lib.evaluate import evaluation
from dualtl_lib.models import caffenet
from dualtl_lib.models.precision import bfloat16_pays, resolve
from dualtl_lib.train import training
from dualtl_lib.train.frozen import FrozenFeatures
from dualtl_lib.train.optimizer import CaffeSGD

BATCH = 100
STEPS = {  # what is trained, what is frozen, how many images of a batch have a gradient
    "(a) step two, conv1 frozen": (caffenet.AttributeNet, ("conv1",), BATCH),
    "(b) step three, conv1-2 frozen": (caffenet.ExpressionNet, ("conv1", "conv2"), BATCH),
    "(b) a tenth lack their margin": (caffenet.ExpressionNet, ("conv1", "conv2"), BATCH // 10),
    "(c) Fig. 18's heads": (partial(caffenet.ExpressionNet, conv5=False), ("conv1", "conv2", "conv3", "conv4"), BATCH),
}


class Noise(torch.utils.data.Dataset):
    """Pictures of noise with random targets, as faces.Faces has them."""

    def __init__(self, images: int, heads: int | None):
        draw = np.random.default_rng(0)
        self.images = draw.integers(0, 256, (images, 3, caffenet.SIZE, caffenet.SIZE), dtype=np.uint8)
        self.targets = torch.from_numpy(draw.integers(0, 2, (images, heads) if heads else images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return torch.from_numpy(self.images[i]), self.targets[i]


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


def batches(data: Noise) -> Iterator[np.ndarray]:
    """Which images each step trains on, without end."""
    return (training.batch_indices(t, BATCH, len(data), seed=0) for t in itertools.count())


def loss_of(answers: torch.Tensor, targets: torch.Tensor, active: int) -> torch.Tensor:
    """The hinge loss as if all images but the first `active` had their margin."""
    return training.hinge(answers[:active], targets[:active])


def plain_steps(model: nn.Module, data: Noise, active: int = BATCH):
    """One training step of the plain loop at each `next`, with the images it took."""
    net = Plain(model).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    solver = torch.optim.SGD(trained, 1e-6, momentum=0.9, weight_decay=5e-4)
    for images, targets in torch.utils.data.DataLoader(data, batch_sampler=batches(data)):
        loss = loss_of(net(images), targets, active)
        solver.zero_grad()
        loss.backward()
        solver.step()
        yield len(images)


def our_steps(model: nn.Module, data: Noise, precision: str, active: int = BATCH, maps: FrozenFeatures | None = None):
    """The same by the parts that training.fit is made of, the frozen layers' maps being there already."""
    maps = maps or FrozenFeatures(model, data, precision=precision)
    solver = CaffeSGD(model.named_parameters(), 0.9, 5e-4)
    solver.rate = 1e-6
    for t, batch in enumerate(batches(data)):
        solver.zero_grad()
        ask = partial(training._answers, model, maps, batch, (0, t))
        few = active < training.FEW * BATCH
        training._learn(ask, np.arange(BATCH), data.targets[batch], partial(loss_of, active=active), few)
        solver.step()
        yield BATCH


def rates(turns: dict, rounds: int) -> dict[str, float]:
    """Images a second of each, its best turn of `rounds`, after one that does not count."""
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


def memory_rate(budget: float = 1.0) -> float:
    """Bytes a second that copying 128 MB reads and writes: the best one within `budget` seconds."""
    a, best, begin = torch.ones(1 << 25), 0.0, time.perf_counter()
    b = torch.empty_like(a)
    while time.perf_counter() - begin < budget:
        start = time.perf_counter()
        b.copy_(a)
        best = max(best, 2 * a.nbytes / (time.perf_counter() - start))
    return best


def bytes_moved(model: nn.Module, precision: str) -> float:
    """Bytes that an iteration cannot do without reading or writing: weights and speeds (read and written) and gradients
    (written and read) of what is trained, in float32, and the frozen layers' maps of a batch."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    maps = np.prod(model.trunk.shapes()[model.frozen()[-1]])
    return 6 * 4 * trained + BATCH * maps * getattr(torch, precision).itemsize


def alone_steps(model: nn.Module, active: int, dtype: torch.dtype, order=torch.channels_last):
    """Nothing but torch's own convolutions and products, those that `operations` counts, on a batch at each `next`.

    order: of maps in memory.
    """
    shapes, calls, back = list(model.trunk.shapes().values()), [], torch.ops.aten.convolution_backward
    skipped = model.frozen() if active else ()
    for layer, entering in zip(model.trunk.layers, shapes, strict=False):
        if layer.name in skipped:
            continue
        weight = model.trunk.get_submodule(layer.name).weight.detach().to(dtype)
        how = [layer.stride] * 2, [layer.padding] * 2, [1, 1]
        x = torch.ones(BATCH, *entering, dtype=dtype).contiguous(memory_format=order)
        y = F.conv2d(x, weight, None, *how, layer.groups)
        calls.append(partial(F.conv2d, x, weight, None, *how, layer.groups))
        if active:
            wanted = [len(calls) > 1, True, False]  # what enters the first of them needs no gradient
            some = y[:active], x[:active], weight
            calls.append(partial(back, *some, None, *how, False, [0, 0], layer.groups, wanted))
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


def both_orders(model: nn.Module, active: int, precision: str) -> dict:
    """`alone_steps` with maps last in memory, as ours are, and with maps first, as PyTorch has them by default."""
    orders = {"last": torch.channels_last, "first": torch.contiguous_format}
    return {name: alone_steps(model, active, getattr(torch, precision), order) for name, order in orders.items()}


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


def inference(data: Noise, order: str, precision: str, rounds: int) -> dict[str, float]:
    model = build(caffenet.ExpressionNet, (), order).eval()
    plain = Plain(model).eval()

    @torch.no_grad()
    def by_plain():
        while True:
            for images, _ in torch.utils.data.DataLoader(torch.utils.data.Subset(data, range(BATCH)), BATCH):
                plain(images).argmax(1)
                yield BATCH

    def by_us():
        first = FirstOf(data, BATCH)
        while True:
            evaluation.predict(model, first, precision=precision)
            yield BATCH

    return rates({"plain": by_plain(), "ours": by_us(), **both_orders(model, 0, precision)}, rounds)


def forth(op: Callable, x: torch.Tensor) -> Iterator[int]:
    """A layer forward, as training runs it, at each `next`."""
    while True:
        op(x)
        yield len(x)


def back(op: Callable, x: torch.Tensor) -> Iterator[int]:
    """Its way back to what entered."""
    y = op(x)
    g = torch.ones_like(y)
    while True:
        torch.autograd.grad(y, x, g, retain_graph=True)
        yield len(x)


def between(rounds: int) -> None:
    """Milliseconds of normalizing and pooling a batch of maps as large as conv1 and conv2 make them, which is where
    AlexNet's order has both: PyTorch's own with maps first, and the trunk's. Forward keeps what the way back needs.
    """
    trunk = caffenet.Trunk()
    kinds = {  # layers of PyTorch's and ours, the type, and what lies last in memory
        "PyTorch's, float32": (nn.LocalResponseNorm(5, 1e-4, 0.75), torch.float32, torch.contiguous_format),
        "ours, float32": (trunk.norm, torch.float32, torch.channels_last),
        "ours, bfloat16": (trunk.norm, torch.bfloat16, torch.channels_last),
    }
    print("\n| a batch, ms | " + " | ".join(f"{kind}: forward | back" for kind in kinds) + " |")
    print("|---|" + "---:|" * 2 * len(kinds))
    for maps, side, name in ((96, 55, "conv1"), (256, 27, "conv2")):
        for what in ("normalizing", "pooling"):
            turns = {}
            for kind, (norm, dtype, order) in kinds.items():
                x = torch.rand(BATCH, maps, side, side).to(dtype).contiguous(memory_format=order).requires_grad_()
                op = norm if what == "normalizing" else trunk.pool
                turns |= {(kind, "forward"): forth(op, x), (kind, "back"): back(op, x)}
            found = rates(turns, rounds).values()
            print(f"| {what} {name} | " + " | ".join(f"{1000 * BATCH / rate:.0f}" for rate in found) + " |", flush=True)
    x = torch.rand(BATCH, 3, caffenet.SIZE, caffenet.SIZE)
    with torch.no_grad():
        taken = BATCH / rates({"conv1": forth(trunk.conv1, x)}, rounds)["conv1"]
    print(f"\nconv1's convolution itself, in float32 with maps first: {1000 * taken:.0f} ms")


class FirstOf:
    """The first images of a data set."""

    def __init__(self, data: Noise, n: int):
        self.images, self.targets = data.images[:n], data.targets[:n]

    def __len__(self) -> int:
        return len(self.images)


def schedule(iterations: int, order: str, precision: str) -> None:
    """Table 4 by training.fit on 1400 images: seconds of the frozen layers, and of the iterations."""
    model = build(caffenet.ExpressionNet, ("conv1", "conv2"), order)
    data = Noise(paper.CKPLUS_SPLIT["train"], None)
    short = dataclasses.replace(training.CKPLUS, max_iter=iterations)
    begin = time.perf_counter()
    FrozenFeatures(model, data, precision=precision)
    frozen = time.perf_counter() - begin
    begin = time.perf_counter()
    training.fit(model, data, short, precision=precision)
    each = (time.perf_counter() - begin - frozen) / iterations
    whole = (frozen + training.CKPLUS.max_iter * each) / 60
    print(
        f"\nTable 4, {len(data)} images: {iterations} iterations at {1000 * each:.0f} ms, "
        f"frozen layers {frozen:.0f} s; extrapolated to {training.CKPLUS.max_iter}: {whole:.0f} minutes"
    )


def growth(sizes: list[int], order: str, precision: str) -> None:
    """Time and memory of step three as the data set grows: the frozen layers' maps, and a step with them.

    Each size in a process of its own, whose memory is then that of this size alone.
    """
    print("\n| images | frozen layers, s | s per 1000 | their maps, MB | training, images/s | peak memory, GB |")
    print("|---:|---:|---:|---:|---:|---:|")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(partial(grown, order=order, precision=precision), sizes):
            print(row, flush=True)


def grown(n: int, order: str, precision: str) -> str:
    """The row of `growth` for a data set of n images."""
    model, data = build(caffenet.ExpressionNet, ("conv1", "conv2"), order), Noise(n, None)
    begin = time.perf_counter()
    maps = FrozenFeatures(model, data, precision=precision)
    taken = time.perf_counter() - begin
    rate = rates({"ours": our_steps(model, data, precision, maps=maps)}, rounds=3)["ours"]
    size = f"{maps.bytes / 1e6:.0f} | {rate:.0f} | {peak_memory():.1f}"
    return f"| {n} | {taken:.1f} | {1000 * taken / n:.2f} | {size} |"


def peak_memory() -> float:
    """The most that this process has held so far, in GB; the pictures are part of it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def floor_of_heads(order: str, precision: str, rate: float) -> None:
    """What an iteration of (c), so short that it matters there, takes for its bytes and for its operations."""
    kind, frozen, active = STEPS["(c) Fig. 18's heads"]
    model = build(kind, frozen, order)
    data, copied, work = bytes_moved(model, precision), memory_rate(), BATCH * operations(model, active)
    print(
        f"\n(c) moves at least {data / 1e6:.0f} MB an iteration, {1e3 * data / copied:.1f} ms at a copy's "
        f"{copied / 1e9:.0f} GB/s; its operations take {1e3 * work / rate:.1f} ms at the matrix rate"
    )


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
        data = Noise(args.images, len(paper.ATTRIBUTES) if kind is caffenet.AttributeNet else None)
        turns = {"plain": plain_steps(other, data, active), "ours": our_steps(model, data, precision, active)}
        turns |= both_orders(model, active, precision)
        row(name, rates(turns, args.iterations), operations(model, active))
    found = inference(Noise(args.images, None), args.order, precision, args.iterations)
    row("(d) inference", found, operations(build(caffenet.ExpressionNet, (), args.order), active=0))
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, order {args.order}")
    measured = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in peak.items())
    print(
        f"matrix rate, GFLOP/s: {measured}; ours and torch's products alone in {precision}, the plain loop in float32\n"
    )
    print("| step | plain, images/s | of the float32 rate | ours, images/s | times | MFLOP an image "
          f"| of the {precision} rate | torch's products alone, images/s | their share | ours of theirs "
          "| theirs with maps first |")  # fmt: skip
    print("|---|" + "---:|" * 10)
    for name, plain, ours, last, first, work in rows:
        loop = f"{plain:.1f} | {plain * work / peak['float32']:.0%}"
        share = f"{work / 1e6:.0f} | {ours * work / peak[precision]:.0%}"
        alone = f"{last:.0f} | {last * work / peak[precision]:.0%} | {ours / last:.0%} | {first:.0f}"
        print(f"| {name} | {loop} | {ours:.1f} | {ours / plain:.2f} | {share} | {alone} |")
    floor_of_heads(args.order, precision, peak[precision])
    between(args.iterations)
    schedule(args.schedule, args.order, precision)
    growth(args.grow, args.order, precision)


if __name__ == "__main__":
    main()
