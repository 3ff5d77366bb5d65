"""How fast the deconvnet is: `python benchmarks/deconvnet.py [--quick]` prints the tables of RESULTS.md.

--quick takes about a minute of one core, and its times are rough.

One process, one run, the same weights and images for all that are compared; results are compared before anything is
timed, and those of the gallery's one timed run after it. Where an image is new, the way forward is part of the time.
Captum, a neuron at a time, is asked for some of the neurons. Times are medians. Operations are those of convolutions
and matrix products, counted by torch's FlopCounterMode (a multiplication and an addition are two), none on padding. "of
peak" is their rate over that of a 1024 x 1024 float32 matrix product (on a GPU, 8192 x 8192), taken in the same turns.
"""

# ruff: noqa: B023  (what is timed is called at once, while the loop's variables are what they are)

import argparse
import copy
import statistics
import time
import warnings
from functools import partial

import numpy as np
import torch
from captum.attr import NeuronDeconvolution
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.visualize.deconvnet import Deconvnet, stages_of
from dualtl_lib.visualize.gallery import Gallery, gallery
from dualtl_lib.visualize.projection import Convolution, Window, forward, last_winner, phases, shuffled, unpool

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
CAPTUM = dict(variant="zeiler", lrn="gradient", start="one")  # what its NeuronDeconvolution computes


def seconds(device, repeats: int, *calls) -> list[float]:
    """Median time of each call, taken in turns so that all of them see the same machine; the first does not count."""
    times = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in times]


def convolved(x, weight, _bias, stride, padding, _dilation, transposed, *_, out_shape, **__) -> int:
    """Operations of a convolution of these shapes without those on padding, which FlopCounterMode's own formula has."""
    many, inside = (x, out_shape) if transposed else (out_shape, x)

    def taps(axis: int) -> int:
        seen = np.arange(many[axis])[:, None] * stride[axis - 2] - padding[axis - 2] + np.arange(weight[axis])
        return int(((seen >= 0) & (seen < inside[axis])).sum())

    return 2 * x[0] * weight[0] * weight[1] * taps(2) * taps(3)


def convolved_back(gradient, x, weight, _bias, *geometry, **__) -> int:
    """The same by what entered and by the weight, where they are asked for."""
    *geometry, asked = geometry
    return sum(asked[:2]) * convolved(x, weight, None, *geometry, out_shape=gradient)


def packed(x, weight, bias, padding, stride, dilation, *_, out_shape, **__) -> int:
    """The same for `Convolution` on a CPU."""
    return convolved(x, weight, bias, stride, padding, dilation, False, out_shape=out_shape)


def operations(call) -> int:
    formulas = {torch.ops.aten.convolution: convolved, torch.ops.aten.convolution_backward: convolved_back}
    if torch.backends.mkldnn.is_available():
        formulas[torch.ops.mkldnn._convolution_pointwise] = packed
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        call()
    return counter.get_total_flops()


def product(device) -> tuple:
    """A float32 matrix product as a call, and its operations."""
    side = 1024 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device)
    return partial(torch.mm, a, a), 2 * side**3


def pictures(n: int) -> torch.Tensor:
    """Smooth random colour pictures, uint8 [n, 3, 227, 227]; the same every time."""
    generator, made = torch.Generator().manual_seed(0), []
    for some in torch.arange(n).split(50):  # so that memory holds the floats of a few
        coarse = {cells: torch.randn(len(some), 3, cells, cells, generator=generator) for cells in (4, 16, 64)}
        fine = (F.interpolate(x, size=227, mode="bicubic") * 200 / cells**0.5 for cells, x in coarse.items())
        made.append((128 + sum(fine)).clamp(0, 255).to(torch.uint8))
    return torch.cat(made)


def same(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference; stops the benchmark where two do not compute the same."""
    difference = float((found - expected).norm() / expected.norm().clamp_min(1e-30))  # 0 where both see nothing
    assert difference < 1e-4, f"results differ by {difference:.1e}"
    return difference


def doubled(trunk: Trunk) -> Trunk:
    """A copy in double precision: in single, rounding decides which of nearly equal neurons wins."""
    return copy.deepcopy(trunk).double()


class Straightforward(nn.Module):
    """The deconvnet as one writes it first: MaxPool2d with indices, MaxUnpool2d, ReLU, ConvTranspose2d."""

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk = trunk
        self.pool, self.unpool = nn.MaxPool2d(3, 2, ceil_mode=True, return_indices=True), nn.MaxUnpool2d(3, 2)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        self.up = nn.ModuleDict()
        for layer in trunk.layers:
            conv = trunk.get_submodule(layer.name)
            up = nn.ConvTranspose2d(
                layer.maps, conv.in_channels, layer.kernel, layer.stride, layer.padding, groups=layer.groups, bias=False
            )
            up.weight.data = conv.weight.detach()
            self.up[layer.name] = up

    @torch.no_grad()
    def forward(self, images: torch.Tensor, stop: str) -> torch.Tensor:
        x, kept = self.trunk.transform(images).to(self.trunk.conv1.weight.dtype), []
        for layer in self.trunk.layers:
            x = F.relu(self.trunk.get_submodule(layer.name)(x))
            steps, indices, size = ["pool"] * layer.pool + ["norm"] * layer.norm, None, x.shape
            for step in steps if self.trunk.order == "pool-norm" else reversed(steps):
                if step == "pool":
                    x, indices = self.pool(x)
                    pooled = x
                else:
                    x = self.norm(x)
            kept.append((layer.name, indices, size))
            if layer.name == stop:
                x = pooled if layer.pool else x
                break
        for name, indices, size in reversed(kept):
            if indices is not None:
                x = self.unpool(x, indices, output_size=size)
            x = self.up[name](F.relu(x))
        return self.trunk.transform.to_rgb(x)


class _DeconvReLU(torch.autograd.Function):
    """ReLU that rectifies again on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.relu()


class DeconvReLU(nn.Module):
    def forward(self, x):
        return _DeconvReLU.apply(x)


def modules(trunk: Trunk, relu=nn.ReLU) -> nn.Sequential:
    """The trunk as torch's own modules, which Captum needs."""
    net = nn.Sequential()
    for layer in trunk.layers:
        net.add_module(layer.name, trunk.get_submodule(layer.name))
        net.add_module(f"relu_{layer.name}", relu())
        pool = [(f"pool_{layer.name}", nn.MaxPool2d(3, 2, ceil_mode=True))] * layer.pool
        norm = [(f"norm_{layer.name}", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0))] * layer.norm
        for name, module in pool + norm if trunk.order == "pool-norm" else norm + pool:
            net.add_module(name, module)
    return net


def whole_batch(net: nn.Sequential, x: torch.Tensor, stop: str, neurons: torch.Tensor) -> torch.Tensor:
    """One backward pass for neurons [M, 3] (map from 0, row, column) of one image, each with a copy of the picture."""
    x = x.expand(len(neurons), -1, -1, -1).detach().clone().requires_grad_()
    y = x.view_as(x)  # FlopCounterMode follows modules, and cannot follow one that is given a leaf
    for name, module in net.named_children():
        y = module(y)
        if name == stop:
            break
    some = torch.arange(len(neurons), device=x.device)
    return torch.autograd.grad(y[some, neurons[:, 0], neurons[:, 1], neurons[:, 2]].sum(), x)[0]


def end(trunk: Trunk, layer: str) -> str:
    """The module of `modules` where a layer's neurons are."""
    return f"{'pool' if trunk.layer(layer).pool else 'relu'}_{layer}"


def captum(trunk: Trunk, image: torch.Tensor, layer: str):
    """Captum's projection of one neuron (map from 0, row, column) of an image, as a function of the neuron."""
    net, x = modules(trunk), trunk.transform(image).to(trunk.conv1.weight.dtype)
    method = NeuronDeconvolution(net, net.get_submodule(end(trunk, layer)))

    def attribute(neuron):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return method.attribute(x.detach().clone().requires_grad_(), tuple(neuron))

    return attribute


def compare_each(trunk: Trunk, image: torch.Tensor, layer: str, some: list[int], many: int) -> None:
    """(1): the strongest neurons of some maps (from 0) against Captum's, those of the first many against one batch."""
    ours = Deconvnet(trunk, **CAPTUM).reconstruct_each(image, layer)
    neurons = torch.stack([ours.maps - 1, ours.rows, ours.columns], 1)
    hooked, x = modules(trunk, DeconvReLU), trunk.transform(image).to(trunk.conv1.weight.dtype)
    batch = whole_batch(hooked, x, end(trunk, layer), neurons[:many].to(image.device))
    same(ours.paste(range(many)), trunk.transform.to_rgb(batch))
    theirs = captum(trunk, image, layer)
    for k, pasted in zip(some, ours.paste(some), strict=True):
        if ours.activations[k] > 0:
            same(pasted, trunk.transform.to_rgb(theirs(neurons[k].tolist()))[0])


def compare_whole(trunk: Trunk, images: torch.Tensor, layer: str) -> None:
    """(2): all neurons of a layer, for each image, against the straightforward way."""
    plain = Straightforward(trunk).to(images.device)
    same(Deconvnet(trunk, "paper", bias=False).reconstruct(images, layer), plain(images, layer))


def compare_gallery(trunk: Trunk, found: Gallery, images: torch.Tensor, layer: str, device, few: int) -> list[tuple]:
    """(3): some of a gallery's patches against Captum's; they are returned, as (image, (map from 0, row, column))."""
    net, exact, some = Deconvnet(trunk, **CAPTUM), doubled(trunk), []
    for at in torch.linspace(0, found.images.numel() - 1, few).long().tolist():
        m, k = divmod(at, found.images.shape[1])
        image, place = images[found.images[m, k]].unsqueeze(0), (found.rows[m, k].view(1), found.columns[m, k].view(1))
        neuron = (int(found.maps[m]) - 1, *map(int, place))
        some.append((image, neuron))
        if found.activations[m, k] > 0:
            asked = image, layer, found.maps[m].view(1), *place
            same(found.patches[m, k], net.project(*asked).patches[0].cpu())
            theirs = captum(exact, image.to(device), layer)(neuron)
            same(Deconvnet(exact, **CAPTUM).project(*asked).paste()[0], exact.transform.to_rgb(theirs)[0])
    return some


def row(name: str, *cells) -> None:
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


def header(*names: str) -> None:
    print()
    row(*names)
    print("|" + "---|" * len(names), flush=True)


def each_neuron(trunk: Trunk, device, quick: bool) -> None:
    """(1) The strongest neuron of every map, each on its own."""
    image = pictures(1).to(device)
    ours, paper, exact = Deconvnet(trunk, **CAPTUM), Deconvnet(trunk), doubled(trunk)
    hooked, x, (peak, square) = modules(trunk, DeconvReLU), trunk.transform(image), product(device)
    many = 8 if quick else 32
    header("layer", "Captum, ms a neuron", f"batch of {many}, ms", "crops, ms", "Captum / crops", "batch / crops",
           "MFLOP whole", "MFLOP crops", "of peak", "paper's variant, ms")  # fmt: skip
    for layer in LAYERS:
        stop, single = end(trunk, layer), captum(trunk, image, layer)
        patches = ours.reconstruct_each(image, layer)
        neurons = torch.stack([patches.maps - 1, patches.rows, patches.columns], 1)
        some = torch.linspace(0, len(neurons) - 1, 4 if quick else 12).long().tolist()
        batch, alone = neurons[:many].to(device), neurons[some].tolist()
        # As it is timed too, but where normalization's gradient leaves rounding (RESULTS.md, "How near to Captum").
        for compared in [exact, trunk] if trunk.order == "pool-norm" else [exact]:
            compare_each(compared, image, layer, some, many)

        def new(net, layer=layer):
            net.forget()
            net.reconstruct_each(image, layer)

        *times, most = seconds(device, 1 if quick else 10, lambda: [single(neuron) for neuron in alone],
                               lambda: whole_batch(hooked, x, stop, batch), lambda: new(ours), lambda: new(paper),
                               peak)  # fmt: skip
        counts = len(some), len(batch), len(neurons), len(neurons)
        theirs, batched, mine, papers = (t / n for t, n in zip(times, counts, strict=True))
        work = operations(lambda: new(ours)) / len(neurons)
        full = operations(lambda: whole_batch(hooked, x, stop, batch)) / many
        row(layer, f"{1e3 * theirs:.1f}", f"{1e3 * batched:.1f}", f"{1e3 * mine:.3f}", f"{theirs / mine:.0f}",
            f"{batched / mine:.0f}", f"{full / 1e6:.0f}", f"{work / 1e6:.1f}", f"{work / mine * most / square:.0%}",
            f"{1e3 * papers:.3f}")  # fmt: skip


@torch.no_grad()
def needed(trunk: Trunk, image: torch.Tensor, stop: str) -> tuple[list, list]:
    """What a projection of one image cannot do without, as calls, each by itself and as ours does it: convolutions,
    forward and back; and all else: rectifying, pooling, normalizing, last winners, unpooling, moving pixels."""
    x, convolutions, others = trunk.transform(image), [], []
    stages = stages_of(trunk)[: LAYERS.index(stop) + 1]
    for i, (stage, record) in enumerate(zip(stages, forward(stages, x), strict=True)):
        x = x.contiguous(memory_format=torch.channels_last)
        weight, stride, groups, pool, norm = stage.weight, stage.stride, stage.groups, stage.pool, stage.norm
        conv, edge = record.conv, stage.padding if stride == 1 else 0
        back = Convolution(phases(weight, stride, groups), groups=groups)
        convolutions.append(partial(stage.convolution, x, stage.padding, whole=True))
        convolutions.append(partial(back, conv, back.weight.shape[2] - 1 - edge, whole=True))
        others += [conv.relu_] * 2  # forward and, as large, back
        x = record.pooled.contiguous(memory_format=torch.channels_last)
        if pool:
            others.append(partial(F.max_pool2d, conv, *pool[:3], ceil_mode=True, return_indices=True))
            if i + 1 < len(stages):  # all neurons of the last stage start alike where they share a winner
                others.append(partial(last_winner, record.switches, pool, conv.shape[3]))
            window = Window(*np.zeros((2, 1), int), *conv.shape[2:])
            others.append(partial(unpool, x, record.winners(window.width, slice(None)).unsqueeze(0), window))
        if norm and (stage.norm_first or i + 1 < len(stages)):
            others.append(partial(lambda norm, x: x * norm.factor(x), norm, conv if stage.norm_first else x))
            x = x if stage.norm_first else x * norm.factor(x)
        if stride > 1:
            others.append(partial(shuffled, convolutions[-1](), stride))
    return convolutions, others


def whole_layer(trunk: Trunk, device, quick: bool) -> None:
    """(2) All neurons of a layer, for 1 and many images; what cannot be done without is taken in the same turns.

    "Twice as fast needs": the rate, of peak, at which convolutions would have to run if all other operations took what
    they take alone and nothing else took any time.
    """
    plain, (peak, square) = Straightforward(trunk).to(device), product(device)
    exact = doubled(trunk)
    header("layer", "images", "straightforward, ms", "reconstruct, ms", "ratio", "seen before, ms", "ratio",
           "MFLOP straightforward", "MFLOP reconstruct", "of peak", "convolutions alone, ms",
           "all operations alone, ms", "ratio at most", "twice as fast needs, of peak")  # fmt: skip
    for n in (1, 4 if quick else 64):
        images = pictures(n).to(device)
        for layer in LAYERS:
            net = Deconvnet(trunk, "paper", bias=False)  # windows assign, as MaxUnpool2d has it
            one = images[:1]
            for some in images.split(4):
                compare_whole(exact, some, layer)
            compare_whole(trunk, one, layer)

            def cold(net=net, images=images, layer=layer):
                net.forget()
                net.reconstruct(images, layer)

            convolutions, others = needed(trunk, one, layer)
            taken = seconds(
                device, 2 if n > 1 or quick else 40, lambda: plain(images, layer), cold,
                lambda: [net.reconstruct(images[:1], layer) for _ in range(n)],
                lambda: [call() for _ in range(n) for call in convolutions],
                lambda: [call() for _ in range(n) for call in others],
                peak,
            )  # fmt: skip
            *taken, most = taken
            theirs, ours, again, least, rest = (t / n for t in taken)
            work = operations(cold) / n
            straight = operations(lambda: plain(images, layer)) / n
            row(layer, str(n), f"{1e3 * theirs:.1f}", f"{1e3 * ours:.1f}", f"{theirs / ours:.1f}",
                f"{1e3 * again:.1f}", f"{theirs / again:.1f}", f"{straight / 1e6:.0f}", f"{work / 1e6:.0f}",
                f"{work / ours * most / square:.0%}", f"{1e3 * least:.1f}", f"{1e3 * (least + rest):.1f}",
                f"{theirs / (least + rest):.1f}", f"{work / (theirs / 2 - rest) * most / square:.0%}")  # fmt: skip


def slider(trunk: Trunk, device) -> None:
    """One step of a slider: another choice for the image on screen; and a new image."""
    image = pictures(1).to(device)
    choices = {
        "all neurons": {},
        "all of one map": dict(maps=[7]),
        "top 1 of each map": dict(top=1),
        "top 10 of each map": dict(top=10),
        "10 strongest of the layer": dict(top_of_layer=10),
        "one neuron": dict(neuron=(7, 3, 3)),
    }
    header("one slider step, ms", *choices, "new image, all neurons")
    for layer in LAYERS:
        net = Deconvnet(trunk)

        def new(net=net, layer=layer):
            net.forget()
            net.reconstruct(image, layer)

        calls = [lambda c=c: net.reconstruct(image, layer, **c) for c in choices.values()]
        row(layer, *(f"{1e3 * s:.1f}" for s in seconds(device, 5, *calls, new)))


def galleries(trunk: Trunk, device, quick: bool) -> None:
    """(3) The 9 strongest patches of every map over a data set, with their projections.

    What grows with the data set is looking at each image once; projecting what was found does not.
    """
    layer, net = "conv5", Deconvnet(trunk, **CAPTUM)
    images = pictures(30 if quick else 1000)
    few = min(50, len(images))

    def look(n=few):
        for i in range(n):
            net.feature_maps(images[i : i + 1], layer, remember=False)

    start = time.perf_counter()
    found = gallery(net, images, layer, progress=False)
    taken = time.perf_counter() - start
    some = compare_gallery(trunk, found, images, layer, device, 3 if quick else 9)
    peak, square = product(device)
    turns = look, lambda: [captum(trunk, image.to(device), layer)(neuron) for image, neuron in some], peak
    looked, theirs, most = seconds(device, 1 if quick else 3, *turns)
    looked, theirs = looked / few * len(images), theirs / len(some) * found.images.numel()
    work = operations(lambda: look(1))
    header("gallery", "images", "projections", "seconds", "images a minute", "looking, s", "projecting, s",
           "Captum projecting, s", "ratio", "images a minute, only looking", "MFLOP an image", "of peak")  # fmt: skip
    row(layer, str(len(images)), str(found.images.numel()), f"{taken:.1f}", f"{60 * len(images) / taken:.0f}",
        f"{looked:.1f}", f"{taken - looked:.1f}", f"{theirs:.0f}", f"{theirs / (taken - looked):.0f}",
        f"{60 * len(images) / looked:.0f}", f"{work / 1e6:.0f}",
        f"{work * len(images) / looked * most / square:.0%}")  # fmt: skip
    print(f"\nCaptum's time is that of {len(some)} neurons, scaled to all.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer neurons, images and repeats")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", default="embedded")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    trunk = weights.load_trunk(asked.weights).to(device).requires_grad_(False)
    print(f"{asked.weights} weights, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    each_neuron(trunk, device, asked.quick)
    whole_layer(trunk, device, asked.quick)
    slider(trunk, device)
    galleries(trunk, device, asked.quick)


if __name__ == "__main__":
    main()
