"""How fast the deconvnet is: `python benchmarks/deconvnet.py [--quick]` prints the tables of RESULTS.md.

--quick takes about a minute of one core, and its times are rough.

One process, the same weights and images for all that are compared. Results are compared before they are timed, those
of the gallery's one timed run after it. The forward pass is part of every time but that of the column "record kept".
Captum computes some of the neurons, one at a time. Times are medians. Operations are those of convolutions and matrix
products, counted by torch's FlopCounterMode (a multiplication and an addition are two), none on padding. "of peak" is
their rate relative to a 1024 x 1024 float32 matrix product (on a GPU, 8192 x 8192), timed in the same turns.
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
from dualtl_lib.visualize.deconvnet import Deconvnet
from dualtl_lib.visualize.gallery import Gallery, gallery

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
    """Operations of a convolution of these shapes without those on padding, which FlopCounterMode's formula counts."""
    many, inside = (x, out_shape) if transposed else (out_shape, x)

    def taps(axis: int) -> int:
        seen = np.arange(many[axis])[:, None] * stride[axis - 2] - padding[axis - 2] + np.arange(weight[axis])
        return int(((seen >= 0) & (seen < inside[axis])).sum())

    return 2 * x[0] * weight[0] * weight[1] * taps(2) * taps(3)


def convolved_back(gradient, x, weight, _bias, *geometry, **__) -> int:
    """The same for the gradients of the input and of the weight, where they are computed."""
    *geometry, computed = geometry
    return sum(computed[:2]) * convolved(x, weight, None, *geometry, out_shape=gradient)


def operations(call) -> int:
    formulas = {torch.ops.aten.convolution: convolved, torch.ops.aten.convolution_backward: convolved_back}
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
            conv = trunk.conv(layer.name)
            up = nn.ConvTranspose2d(
                layer.maps, conv.in_channels, layer.kernel, layer.stride, layer.padding, groups=layer.groups, bias=False
            )
            up.weight.data = conv.weight.detach()
            self.up[layer.name] = up

    @torch.no_grad()
    def forward(self, images: torch.Tensor, stop: str) -> torch.Tensor:
        x, kept = self.trunk.transform(images).to(self.up[stop].weight.dtype), []
        for layer in self.trunk.layers:
            x = F.relu(self.trunk.conv(layer.name)(x))
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
    """ReLU that rectifies in the backward pass too."""

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
        net.add_module(layer.name, trunk.conv(layer.name))
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
    net, x = modules(trunk), trunk.transform(image).to(trunk.conv("conv1").weight.dtype)
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
    hooked, x = modules(trunk, DeconvReLU), trunk.transform(image).to(trunk.conv("conv1").weight.dtype)
    batch = whole_batch(hooked, x, end(trunk, layer), neurons[:many].to(image.device))
    same(ours.paste(range(many)), trunk.transform.to_rgb(batch))
    theirs = captum(trunk, image, layer)
    for k, pasted in zip(some, ours.paste(some), strict=True):
        if ours.activations[k] > 0:
            same(pasted, trunk.transform.to_rgb(theirs(neurons[k].tolist()))[0])


def compare_whole(trunk: Trunk, images: torch.Tensor, layer: str) -> None:
    """(2): all neurons of a layer, for each image, against the straightforward deconvnet."""
    plain = Straightforward(trunk).to(images.device)
    same(Deconvnet(trunk, bias=False).reconstruct(images, layer), plain(images, layer))


def compare_gallery(trunk: Trunk, found: Gallery, images: torch.Tensor, layer: str, device, few: int) -> list[tuple]:
    """(3): some of a gallery's patches against Captum's; they are returned, as (image, (map from 0, row, column))."""
    net, exact, some = Deconvnet(trunk, **CAPTUM), doubled(trunk), []
    for at in torch.linspace(0, found.images.numel() - 1, few).long().tolist():
        m, k = divmod(at, found.images.shape[1])
        image, place = images[found.images[m, k]].unsqueeze(0), (found.rows[m, k].view(1), found.columns[m, k].view(1))
        neuron = (int(found.maps[m]) - 1, *map(int, place))
        some.append((image, neuron))
        if found.activations[m, k] > 0:
            ours, doubles = (
                d.project_each(d.forward(image, layer), found.maps[m].view(1), *place)
                for d in (net, Deconvnet(exact, **CAPTUM))
            )
            same(found.patches[m, k], ours.patches[0].cpu())
            theirs = captum(exact, image.to(device), layer)(neuron)
            same(doubles.paste()[0], exact.transform.to_rgb(theirs)[0])
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
        # In float32 too, except where normalization's gradient leaves rounding (RESULTS.md, "How near to Captum").
        for compared in [exact, trunk] if trunk.order == "pool-norm" else [exact]:
            compare_each(compared, image, layer, some, many)

        crops = partial(ours.reconstruct_each, image, layer)
        *times, most = seconds(device, 1 if quick else 10, lambda: [single(neuron) for neuron in alone],
                               lambda: whole_batch(hooked, x, stop, batch), crops,
                               lambda: paper.reconstruct_each(image, layer), peak)  # fmt: skip
        counts = len(some), len(batch), len(neurons), len(neurons)
        theirs, batched, mine, papers = (t / n for t, n in zip(times, counts, strict=True))
        work = operations(crops) / len(neurons)
        full = operations(lambda: whole_batch(hooked, x, stop, batch)) / many
        row(layer, f"{1e3 * theirs:.1f}", f"{1e3 * batched:.1f}", f"{1e3 * mine:.3f}", f"{theirs / mine:.0f}",
            f"{batched / mine:.0f}", f"{full / 1e6:.0f}", f"{work / 1e6:.1f}", f"{work / mine * most / square:.0%}",
            f"{1e3 * papers:.3f}")  # fmt: skip


def whole_layer(trunk: Trunk, device, quick: bool) -> None:
    """(2) All neurons of a layer, for 1 and many images."""
    plain, (peak, square) = Straightforward(trunk).to(device), product(device)
    exact, net = doubled(trunk), Deconvnet(trunk, bias=False)  # windows assign, as MaxUnpool2d does
    header("layer", "images", "straightforward, ms", "reconstruct, ms", "ratio", "record kept, ms", "ratio",
           "MFLOP straightforward", "MFLOP reconstruct", "of peak")  # fmt: skip
    for n in (1, 4 if quick else 64):
        images = pictures(n).to(device)
        for layer in LAYERS:
            for some in images.split(4):
                compare_whole(exact, some, layer)
            compare_whole(trunk, images[:1], layer)
            record, straight = net.forward(images, layer), partial(plain, images, layer)
            whole = partial(net.reconstruct, images, layer)
            times = seconds(device, 2 if n > 1 or quick else 40, straight, whole, lambda: net.project(record), peak)
            *times, most = times
            theirs, ours, again = (t / n for t in times)
            work = operations(whole) / n
            row(layer, str(n), f"{1e3 * theirs:.1f}", f"{1e3 * ours:.1f}", f"{theirs / ours:.1f}",
                f"{1e3 * again:.1f}", f"{theirs / again:.1f}", f"{operations(straight) / n / 1e6:.0f}",
                f"{work / 1e6:.0f}", f"{work / ours * most / square:.0%}")  # fmt: skip


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
    net = Deconvnet(trunk)
    for layer in LAYERS:
        record = net.forward(image, layer)
        calls = [partial(net.project, record, **choice) for choice in choices.values()]
        row(layer, *(f"{1e3 * s:.1f}" for s in seconds(device, 5, *calls, partial(net.reconstruct, image, layer))))


def galleries(trunk: Trunk, device, quick: bool) -> None:
    """(3) The 9 strongest patches of every map over a data set, with their projections.

    Searching takes time in proportion to the number of images; projecting does not.
    """
    layer, net = "conv5", Deconvnet(trunk, **CAPTUM)
    images = pictures(30 if quick else 1000)
    few = min(50, len(images))

    def search(n=few):
        for i in range(n):
            net.feature_maps(images[i : i + 1], layer)

    start = time.perf_counter()
    found = gallery(net, images, layer, progress=False)
    taken = time.perf_counter() - start
    some = compare_gallery(trunk, found, images, layer, device, 3 if quick else 9)
    peak, square = product(device)
    turns = search, lambda: [captum(trunk, image.to(device), layer)(neuron) for image, neuron in some], peak
    searched, theirs, most = seconds(device, 1 if quick else 3, *turns)
    searched, theirs = searched / few * len(images), theirs / len(some) * found.images.numel()
    work = operations(lambda: search(1))
    header("gallery", "images", "projections", "seconds", "images a minute", "searching, s", "projecting, s",
           "Captum projecting, s", "ratio", "images a minute, only searching", "MFLOP an image", "of peak")  # fmt: skip
    row(layer, str(len(images)), str(found.images.numel()), f"{taken:.1f}", f"{60 * len(images) / taken:.0f}",
        f"{searched:.1f}", f"{taken - searched:.1f}", f"{theirs:.0f}", f"{theirs / (taken - searched):.0f}",
        f"{60 * len(images) / searched:.0f}", f"{work / 1e6:.0f}",
        f"{work * len(images) / searched * most / square:.0%}")  # fmt: skip
    print(f"\nCaptum's time is that of {len(some)} neurons, scaled to all.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer neurons, images and repeats")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", default="embedded")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    trunk = weights.load_trunk(args.weights).to(device).requires_grad_(False)
    print(f"{args.weights} weights, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    each_neuron(trunk, device, args.quick)
    whole_layer(trunk, device, args.quick)
    slider(trunk, device)
    galleries(trunk, device, args.quick)


if __name__ == "__main__":
    main()
