"""The deconvnet's variants against Captum and against autograd."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from captum.attr import NeuronDeconvolution, NeuronGradient, NeuronGuidedBackprop
from projections import LAYERS, random_trunk, real_trunk, relative, some_images
from torch import nn

from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.visualize.deconvnet import Deconvnet

CAPTUM = {"zeiler": NeuronDeconvolution, "guided": NeuronGuidedBackprop, "gradient": NeuronGradient}


def as_modules(trunk: Trunk) -> nn.Sequential:
    """The trunk as torch's own modules, one nn.ReLU each."""
    steps = []
    for layer in trunk.layers:
        steps += [(layer.name, trunk.conv(layer.name)), (f"relu_{layer.name}", nn.ReLU())]
        pool = [(f"pool_{layer.name}", nn.MaxPool2d(3, 2, ceil_mode=True))] * layer.pool
        norm = [(f"norm_{layer.name}", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0))] * layer.norm
        steps += pool + norm if trunk.order == "pool-norm" else norm + pool
    net = nn.Sequential()
    for name, module in steps:
        net.add_module(name, module)
    return net


def end(trunk, layer):
    """The module of `as_modules` whose output a layer's neurons are."""
    return f"{'pool' if trunk.layer(layer).pool else 'relu'}_{layer}"


def captum_gives(method, net, trunk, image, layer, neuron):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = trunk.transform(image).to(net[0].weight.dtype).requires_grad_()
        return trunk.transform.to_rgb(method(net, net.get_submodule(end(trunk, layer))).attribute(x, neuron)).detach()


def some_seen(net, modules, image, layer, most=12):
    """Active neurons (map from 1, row, column) spread over a layer, with Captum's projection where it is not zero."""
    active = net.feature_maps(image, layer)[0].nonzero()
    for m, r, c in active[torch.linspace(0, len(active) - 1, most).long()].tolist():
        expected = captum_gives(CAPTUM[net.variant], modules, net.trunk, image, layer, (m, r, c))
        if expected.any():
            yield (m + 1, r, c), expected


def is_captum_s(net, image):
    modules = as_modules(net.trunk)
    for layer in LAYERS:
        found = list(itertools.islice(some_seen(net, modules, image, layer), 3))
        assert len(found) == 3, f"too few neurons of {layer} are seen to compare"
        record = net.forward(image, layer)
        each = net.project_each(record, *zip(*(neuron for neuron, _ in found), strict=True)).paste()
        for alone, (neuron, expected) in zip(each, found, strict=True):
            assert relative(net.project(record, neuron=neuron), expected) < 1e-5, (layer, neuron)
            assert relative(alone, expected[0]) < 1e-5, (layer, neuron)


@pytest.mark.parametrize("variant", sorted(CAPTUM))
@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_zeiler_guided_and_gradient_are_captum_s(variant, order):
    # In double: where normalization before pooling saturates, float32 leaves mostly rounding of its gradient.
    trunk = real_trunk()
    ours = Trunk(trunk.layers, order=order, transform=trunk.transform).requires_grad_(False)
    ours.load_state_dict(trunk.state_dict())
    is_captum_s(Deconvnet(ours.double(), variant=variant, lrn="gradient", start="one"), some_images(1, 5))


@pytest.mark.parametrize("variant", sorted(CAPTUM))
def test_float32_is_captum_s_where_normalization_comes_last(variant):
    is_captum_s(Deconvnet(random_trunk(), variant=variant, lrn="gradient", start="one"), some_images(1, 5))


@pytest.mark.parametrize("name", ["random", "real"])
def test_float32_rounds_where_normalization_comes_first_and_its_gradient_vanishes(name, request):
    if name == "real":
        request.getfixturevalue("data_root")
        ours = weights.load_trunk("$DATA/weights/bvlc_alexnet_conv.safetensors", order="norm-pool")
        ours.requires_grad_(False)
    else:
        ours = random_trunk(order="norm-pool")
        ours.conv1.weight.mul_(4)  # so that x s^-3/4 comes near to its largest value, at x = 316
    image, exact = some_images(1, 5), copy.deepcopy(ours).double()
    net, net_exact = (Deconvnet(t, variant="gradient", lrn="gradient") for t in (ours, exact))
    found = net.reconstruct_each(image, "conv1")
    expected = net_exact.project_each(net_exact.forward(image, "conv1"), found.maps, found.rows, found.columns)
    off = [relative(a, b) for a, b in zip(found.patches, expected.patches, strict=True)]
    worst = int(np.argmax(off))
    assert np.median(off) < 1e-5 < off[worst] < 2e-2 and found.activations[worst] > 138.7
    m, r, c = (int(t[worst]) for t in (found.maps, found.rows, found.columns))
    theirs, theirs_exact = (
        captum_gives(NeuronGradient, as_modules(t), t, image, "conv1", (m - 1, r, c)) for t in (ours, exact)
    )
    print(f"{name}: ours {off[worst]:.1e}, Captum's {relative(theirs, theirs_exact):.1e} from double")
    assert relative(expected.paste([worst]), theirs_exact) < 1e-5 < relative(found.paste([worst]), theirs) < 2e-2


SOME = dict(maps=[2, 40, 90])
CHOICES = [{}, SOME, dict(top=5), SOME | dict(top=5), dict(top_of_layer=15), SOME | dict(top_of_layer=15)]


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_several_neurons_together_are_autograd_s(order):
    ours, image = random_trunk(order=order).double(), some_images(1, 5)
    net, modules = Deconvnet(ours, variant="gradient", lrn="gradient"), as_modules(ours)
    x = maps = ours.transform(image).double().requires_grad_()
    for name, module in modules.named_children():
        maps, layer = module(maps), name.split("_")[-1]
        if name != end(ours, layer):
            continue
        record = net.forward(image, layer)
        for choice in CHOICES:
            rows = maps[0, [m - 1 for m in choice["maps"]] if "maps" in choice else slice(None)].flatten(1)
            rows = rows.flatten().unsqueeze(0) if "top_of_layer" in choice else rows
            n = choice.get("top") or choice.get("top_of_layer") or rows.shape[1]
            largest = rows.sort(dim=1, descending=True, stable=True).values[:, :n].sum()
            (expected,) = torch.autograd.grad(largest, x, retain_graph=True)
            found = net.project(record, **choice)
            assert found.dtype == torch.float64
            assert relative(found, ours.transform.to_rgb(expected)) < 1e-9, (layer, choice)
