"""The deconvnet against the equations written out, against Captum, and against itself."""

import copy
import dataclasses
import itertools
import pickle
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from captum.attr import NeuronDeconvolution, NeuronGradient, NeuronGuidedBackprop
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import CAFFENET, TORCHVISION_ALEXNET, Preprocessing, Trunk
from dualtl_lib.models.normalization import LocalResponseNorm
from dualtl_lib.report import diagrams
from dualtl_lib.visualize import deconvnet, gallery
from dualtl_lib.visualize.deconvnet import REMEMBERED, VARIANTS, Deconvnet, choose, stages_of, strongest
from dualtl_lib.visualize.projection import (
    Convolution,
    Pool,
    Projector,
    Stage,
    Window,
    forward,
    gradient_parts,
    last_winner,
    normalize_back,
    paste,
)

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def random_trunk(seed: int = 0, **kwargs) -> Trunk:
    """A trunk whose layers all speak, with biases of both signs."""
    trunk, generator = Trunk(**kwargs), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trunk.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.05 if p.ndim == 4 else 0.3))
    return trunk.requires_grad_(False)


def some_images(n: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, uint8 [n, 3, 227, 227]."""
    coarse = torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=227, mode="bicubic")
    return (smooth * 60 + 128).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    """Real weights where they are, else the embedded trunk."""
    with suppress(OSError, ValueError):
        return weights.load_trunk("$DATA/weights/bvlc_alexnet_conv.safetensors").requires_grad_(False)
    return weights.load_trunk("embedded").requires_grad_(False)


def relative(a, b) -> float:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


# --- equations 4-13, written out -------------------------------------------------------------------------------------


def literal_forward(x, stage):
    """Eqs. (4)-(7) for one stage: x [I, H, W] -> conv, pooled, winners [C, U, V, 2] (None without pooling)."""
    w, b, s, p = stage.weight.numpy(), stage.bias.numpy(), stage.stride, stage.padding
    outs, ins, k, _ = w.shape
    padded = np.pad(x, ((0, 0), (p, p), (p, p)))
    m, n = ((size + 2 * p - k) // s + 1 for size in x.shape[1:])
    conv = np.zeros((outs, m, n))
    for o in range(outs):
        first = o // (outs // stage.groups) * ins
        for j in range(m):
            for i in range(n):
                total = b[o]
                for c in range(ins):
                    total += (w[o, c] * padded[first + c, j * s : j * s + k, i * s : i * s + k]).sum()
                conv[o, j, i] = max(total, 0)
    if stage.pool is None:
        return conv, conv, None
    r, t, q, ceil = stage.pool
    sizes = []
    for size in (m, n):
        steps = (size + 2 * q - r) / t
        u = int(np.ceil(steps) if ceil else np.floor(steps)) + 1
        sizes.append(u - 1 if ceil and (u - 1) * t >= size + q else u)  # a window must begin on the map
    pooled, winners = np.zeros((outs, *sizes)), np.zeros((outs, *sizes, 2), dtype=int)
    for o in range(outs):
        for j in range(sizes[0]):
            for i in range(sizes[1]):
                best = -np.inf
                for row in range(max(j * t - q, 0), min(j * t - q + r, m)):
                    for column in range(max(i * t - q, 0), min(i * t - q + r, n)):
                        if conv[o, row, column] > best:  # of equals the first
                            best, winners[o, j, i] = conv[o, row, column], (row, column)
                pooled[o, j, i] = best
    return conv, pooled, winners


def literal_backward(y, chosen, conv, winners, stage, size):
    """Eqs. (8)-(13) for one stage: y [C, U, V] -> what entered it, [I, H, W]. Only chosen neurons are assigned."""
    w, b, s, p = stage.weight.numpy(), stage.bias.numpy(), stage.stride, stage.padding
    outs, ins, k, _ = w.shape
    u = np.zeros(conv.shape)
    for o, j, i in np.ndindex(y.shape):  # eq. (8)
        if chosen[o, j, i]:
            u[(o, j, i) if winners is None else (o, *winners[o, j, i])] = y[o, j, i]
    for o, j, i in np.ndindex(u.shape):  # eq. (9)
        u[o, j, i] = u[o, j, i] - b[o] if u[o, j, i] > 0 else 0
    # Eq. (10): N there, "stride 0" in Table 1, is the convolution's stride (READING).
    extension = np.zeros((outs, size[0] + 2 * p - k + 1, size[1] + 2 * p - k + 1))
    for o, j, i in np.ndindex(u.shape):
        extension[o, j * s, i * s] = u[o, j, i]
    # Eq. (11): so much that the valid convolution below gives the padded maps of eq. (4) again.
    pad = np.pad(extension, ((0, 0), (k - 1, k - 1), (k - 1, k - 1)))
    x = np.zeros((ins * stage.groups, size[0] + 2 * p, size[1] + 2 * p))
    for o in range(outs):  # eqs. (12), (13): the kernel turned by 180 degrees, w_NN first
        first = o // (outs // stage.groups) * ins
        for c, j, i in np.ndindex(ins, *x.shape[1:]):
            x[first + c, j, i] += (pad[o, j : j + k, i : i + k] * w[o, c, ::-1, ::-1]).sum()
    return x[:, p : p + size[0], p : p + size[1]]


@st.composite
def networks(draw):
    """One to three stages of small random geometry, an image for them, and neurons of the last stage.

    All numbers are multiples of 1/4, so that sums are exact, ties are frequent and 0 is 0.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dyadic = lambda *shape: torch.from_numpy(rng.integers(-3, 4, shape) / 4.0)  # noqa: E731
    shape = [draw(st.integers(1, 3)), draw(st.integers(6, 13)), draw(st.integers(6, 13))]
    x, stages = dyadic(1, *shape), []
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if shape[0] % g == 0]))
        kernel = draw(st.integers(1, min(4, *shape[1:])))
        stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, kernel - 1))
        outs = groups * draw(st.integers(1, 3))
        weight, bias = dyadic(outs, shape[0] // groups, kernel, kernel), dyadic(outs)
        shape = [outs, *((size + 2 * padding - kernel) // stride + 1 for size in shape[1:])]
        pool = None
        if draw(st.booleans()):
            window = draw(st.integers(1, min(4, *shape[1:])))
            pool = Pool(window, draw(st.integers(1, 3)), draw(st.integers(0, window // 2)), draw(st.booleans()))
        stages.append(Stage(weight, bias, stride, padding, groups, pool))
        shape = list(forward(stages, x)[-1].pooled.shape[1:])
    chosen = torch.from_numpy(rng.random(shape) < draw(st.sampled_from([0.1, 0.5, 1.0])))
    return stages, x, chosen


@settings(max_examples=200, deadline=None, derandomize=True)
@given(networks(), st.sampled_from([torch.float32, torch.float64]))
def test_the_paper_s_variant_is_equations_4_to_13(network, dtype):
    stages, x, chosen = network
    ours = [dataclasses.replace(s, weight=s.weight.to(dtype), bias=s.bias.to(dtype)) for s in stages]
    records = forward(ours, x.to(dtype))
    chosen = None if chosen.all() else chosen
    found = Projector(ours, VARIANTS["paper"]).whole(records, records[-1].pooled, chosen)[0].numpy()
    below, kept = x[0].numpy(), []
    for stage, record in zip(stages, records, strict=True):
        conv, pooled, winners = literal_forward(below, stage)
        np.testing.assert_array_equal(record.pooled[0].numpy(), pooled)
        kept.append((conv, winners, below.shape[1:]))
        below = pooled
    some = np.ones(below.shape, dtype=bool) if chosen is None else chosen.numpy()
    y = below * some
    for stage, (conv, winners, size) in zip(reversed(stages), reversed(kept), strict=True):
        y = literal_backward(y, some, conv, winners, stage, size)
        some = np.ones(y.shape, dtype=bool)
    np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_conv2d_s_at_every_size(dtype, groups):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    weight, bias = draw(24, 16 // groups, 3, 3), draw(24)
    for stride, bias_or_none in itertools.product((1, 2), (bias, None)):
        convolution = Convolution(weight, bias_or_none, stride, groups)
        for size, padding, whole in ((13, 1, True), (9, 1, True), (13, 2, True), (13, 1, True), (5, 2, False)):
            x = draw(1, 16, size, size).contiguous(memory_format=torch.channels_last)
            expected = nn.functional.conv2d(x, weight, bias_or_none, stride, padding, 1, groups)
            found = convolution(x, padding, whole)
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert relative(found, expected) < 1e-6


def test_a_used_deconvnet_can_be_copied_and_pickled(trunk):
    net, image = Deconvnet(trunk), some_images(1)
    before = net.reconstruct(image, "conv3")
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again.reconstruct(image, "conv3"), before)


def test_onednn_can_be_switched_off(trunk):
    image, used = some_images(1), Deconvnet(trunk)
    before = used.reconstruct(image, "conv3")
    packed = [stage.convolution._packed is not None for stage in used._stages]
    assert packed == [torch.backends.mkldnn.is_available()] * 3 + [False] * 2
    with torch.backends.mkldnn.flags(enabled=False):
        net = Deconvnet(trunk)
        assert relative(net.reconstruct(image, "conv3"), before) < 1e-5
        assert all(stage.convolution._packed is None for stage in net._stages)


@pytest.mark.parametrize("layer", ["conv1", "conv3"])
def test_autocast_changes_nothing(trunk, layer):
    net, image = Deconvnet(trunk), some_images(1)

    def found():
        net.forget()
        return net.feature_maps(image, layer), net.reconstruct(image, layer), net.reconstruct_each(image, layer).patches

    before = found()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(before, found(), strict=True))


def test_what_is_not_a_number_stays_so(trunk):
    broken = Trunk(trunk.layers, trunk.order, trunk.transform)
    broken.load_state_dict(trunk.state_dict())
    torch.nn.init.constant_(broken.conv2.bias[:1], torch.nan)
    assert Deconvnet(broken).feature_maps(some_images(1), "conv2")[0, 0].isnan().all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(networks(), st.sampled_from(sorted(VARIANTS)))
def test_one_neuron_s_receptive_field_is_its_part_of_the_whole_picture(network, variant):
    stages, x, _ = network
    records, projector = forward(stages, x), Projector(stages, VARIANTS[variant])
    pooled = records[-1].pooled
    corners = torch.cartesian_prod(*(torch.tensor([0, size - 1]) for size in pooled.shape[1:]))
    m, r, c = corners.T
    at = records[-1].switches[m, r, c] if stages[-1].pool else r * pooled.shape[3] + c
    width = records[-1].conv.shape[3]
    parts, seen = projector.each(records, pooled[0, m, r, c], m, at // width, at % width)
    for k, (i, j, l) in enumerate(corners.tolist()):
        chosen = torch.zeros_like(pooled[0], dtype=torch.bool)
        chosen[i, j, l] = True
        one = Window(seen.tops[k : k + 1], seen.lefts[k : k + 1], seen.height, seen.width)
        part = paste(parts[k : k + 1], one, x.shape[2:])
        np.testing.assert_allclose(part, projector.whole(records, pooled, chosen), rtol=1e-9, atol=1e-12)
        assert part.square().sum() == parts[k].square().sum()  # beyond the edge there is nothing


@pytest.mark.parametrize("columns", [8, 64])
def test_the_last_window_wins_as_a_loop_has_it(columns):  # of 64, four rows are 256 places: the same last byte
    generator = torch.Generator().manual_seed(0)
    for pool in (Pool(3, 2), Pool(4, 1), Pool(2, 2), Pool(3, 1, 1)):
        x = torch.randint(0, 3, (1, 2, 9, columns), generator=generator).float()
        _, winners = nn.functional.max_pool2d(x, *pool[:3], ceil_mode=pool.ceil, return_indices=True)
        last, flat = last_winner(winners[0], pool, columns), winners[0].flatten(1)
        for c, v in np.ndindex(*flat.shape):
            assert bool(last[c].flatten()[v]) == (flat[c, v] not in flat[c, v + 1 :])


class OnCard(TorchFunctionMode):
    """Moves to a GPU that is not there, and makes tensors on it, by PyTorch's fake tensors; the rest stays real."""

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self.fake = fake

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.Tensor.to and not str(kwargs.get("device")).startswith("cuda"):
            return func(*args, **kwargs)
        with self.fake:
            return func(*args, **kwargs)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_a_projection_on_a_gpu_meets_no_tensor_on_the_cpu(order, variant):
    """Fake tensors know their device and refuse to mix; they need no GPU, and compute nothing."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.device("cuda"):
        trunk, image, values = Trunk(order=order), torch.zeros(1, 3, 227, 227), torch.zeros(3)
    stages, places = stages_of(trunk), torch.tensor([0, 3, 5])
    with OnCard(fake), torch.no_grad():
        for depth, lrn in itertools.product(range(1, 6), (False, True)):
            projector = Projector(stages, VARIANTS[variant]._replace(lrn=lrn), trunk.transform.to_rgb)
            records = forward(stages[:depth], image)
            maps = torch.tensor([0, 7, 90])
            patches, _ = projector.each(records, values, maps, places, places)
            whole = projector.whole(records, records[-1].pooled)
            assert patches.device.type == whole.device.type == "cuda"


# --- Captum ----------------------------------------------------------------------------------------------------------


def as_modules(trunk: Trunk) -> nn.Sequential:
    """The trunk as torch's own modules, one nn.ReLU each; `neurons` names the module whose output a layer's are."""
    steps = []
    for layer in trunk.layers:
        steps += [(layer.name, trunk.get_submodule(layer.name)), (f"relu_{layer.name}", nn.ReLU())]
        pool = [(f"pool_{layer.name}", nn.MaxPool2d(3, 2, ceil_mode=True))] * layer.pool
        norm = [(f"norm_{layer.name}", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0))] * layer.norm
        steps += pool + norm if trunk.order == "pool-norm" else norm + pool
    net = nn.Sequential()
    for name, module in steps:
        net.add_module(name, module)
    return net


CAPTUM = {"zeiler": NeuronDeconvolution, "guided": NeuronGuidedBackprop, "gradient": NeuronGradient}


def captum_gives(method, net, trunk, image, layer, neuron):
    module = net.get_submodule(f"{'pool' if trunk.layer(layer).pool else 'relu'}_{layer}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = trunk.transform(image).to(net[0].weight.dtype).requires_grad_()
        return trunk.transform.to_rgb(method(net, module).attribute(x, neuron)).detach()


def some_seen(net, modules, image, layer, most=12):
    """Active neurons (map from 1, row, column) spread over a layer, with Captum's projection where it is not zero."""
    active = net.feature_maps(image, layer)[0].nonzero()
    for m, r, c in active[torch.linspace(0, len(active) - 1, most).long()].tolist():
        expected = captum_gives(CAPTUM[net.variant], modules, net.trunk, image, layer, (m, r, c))
        if expected.any():
            yield (m + 1, r, c), expected


def is_captum_s(net, modules, image, layer):
    found = list(itertools.islice(some_seen(net, modules, image, layer), 3))
    assert len(found) == 3, f"too few neurons of {layer} are seen to compare"
    for neuron, expected in found:
        assert relative(net.reconstruct(image, layer, neuron=neuron), expected) < 1e-5, (layer, neuron)


@pytest.mark.parametrize("variant", sorted(CAPTUM))
@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_zeiler_guided_and_gradient_are_captum_s(trunk, variant, order):
    # In double: where normalization before pooling saturates, float32 leaves mostly rounding of its gradient.
    ours = Trunk(trunk.layers, order, trunk.transform)
    ours.load_state_dict(trunk.state_dict())
    net = Deconvnet(ours, variant, lrn="gradient", start="one")
    assert net.shapes == ours.shapes()  # found in float32, before the weights are made double
    ours.double().requires_grad_(False)
    modules, image = as_modules(ours), some_images(1, 5)
    for layer in LAYERS:
        is_captum_s(net, modules, image, layer)


@pytest.mark.parametrize("variant", sorted(CAPTUM))
def test_float32_is_captum_s_where_normalization_comes_last(variant):
    ours, image = random_trunk(), some_images(1, 5)
    net, modules = Deconvnet(ours, variant, lrn="gradient", start="one"), as_modules(ours)
    for layer in LAYERS:
        is_captum_s(net, modules, image, layer)


@pytest.mark.parametrize("name", ["random", "real"])
def test_float32_rounds_where_normalization_comes_first_and_its_gradient_vanishes(name, request):
    if name == "real":
        request.getfixturevalue("data_root")
        ours = weights.load_trunk("$DATA/weights/bvlc_alexnet_conv.safetensors", order="norm-pool").requires_grad_(
            False
        )
    else:
        ours = random_trunk(order="norm-pool")
        ours.conv1.weight.mul_(4)  # so that x s^-3/4 comes near to its largest value, at x = 316
    image, exact = some_images(1, 5), copy.deepcopy(ours).double()
    net, net_exact = (Deconvnet(t, "gradient", lrn="gradient") for t in (ours, exact))
    found = net.reconstruct_each(image, "conv1")
    expected = net_exact.project(image, "conv1", found.maps, found.rows, found.columns)
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
    net, modules = Deconvnet(ours, "gradient", lrn="gradient"), as_modules(ours)
    x = maps = ours.transform(image).double().requires_grad_()
    for name, module in modules.named_children():
        maps, layer = module(maps), name.split("_")[-1]
        if layer not in LAYERS or name != f"{'pool' if ours.layer(layer).pool else 'relu'}_{layer}":
            continue
        for choice in CHOICES:
            rows = maps[0, [m - 1 for m in choice["maps"]] if "maps" in choice else slice(None)].flatten(1)
            rows = rows.flatten().unsqueeze(0) if "top_of_layer" in choice else rows
            n = choice.get("top") or choice.get("top_of_layer") or rows.shape[1]
            largest = rows.sort(dim=1, descending=True, stable=True).values[:, :n].sum()
            (expected,) = torch.autograd.grad(largest, x, retain_graph=True)
            found = net.reconstruct(image, layer, **choice)
            assert found.dtype == torch.float64
            assert relative(found, ours.transform.to_rgb(expected)) < 1e-9, (layer, choice)


def test_zeiler_starts_with_the_activation(trunk):
    image = some_images(1)
    maps = Deconvnet(trunk).feature_maps(image, "conv3")[0]
    m, r, c = (int(i) for i in np.unravel_index(int(maps.flatten().argmax()), maps.shape))
    from_value = Deconvnet(trunk, "zeiler").reconstruct(image, "conv3", neuron=(m + 1, r, c))
    from_one = Deconvnet(trunk, "zeiler", start="one").reconstruct(image, "conv3", neuron=(m + 1, r, c))
    assert relative(from_value, from_one * maps[m, r, c]) < 1e-5


def test_normalization_s_gradient_is_autograd_s():
    generator = torch.Generator().manual_seed(1)
    x = (30 * torch.randn(1, 9, 4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    g = torch.randn(3, 9, 4, 5, generator=generator, dtype=torch.float64)
    found = normalize_back(gradient_parts(LocalResponseNorm(), x.detach()), g)
    norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    for one, expected in zip(found, g, strict=True):
        (gradient,) = torch.autograd.grad(norm(x), x, expected.unsqueeze(0))
        assert relative(one, gradient[0]) < 1e-9


# --- choosing, batches, patches --------------------------------------------------------------------------------------


def test_choosing_neurons():
    maps = torch.tensor([[[1.0, 5.0], [5.0, 0.0]], [[7.0, 2.0], [7.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]])
    at = lambda chosen: chosen.nonzero().tolist()  # noqa: E731
    assert choose(maps).all()
    assert at(choose(maps, [2])) == [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]
    assert at(choose(maps, top=1)) == [[0, 0, 1], [1, 0, 0], [2, 0, 0]]  # the first of equals
    assert at(choose(maps, [2, 1], top=2)) == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert at(choose(maps, top_of_layer=4)) == [[0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert at(choose(maps, [1, 3], top_of_layer=4)) == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert at(choose(maps, neuron=(2, 1, 0))) == [[1, 1, 0]]
    assert strongest(torch.zeros(2, 50), 3).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, torch.uint8, torch.int32, torch.int64])
def test_whole_numbers_may_be_numpy_s_or_torch_s(kind):
    like = lambda x: torch.tensor(x, dtype=kind) if isinstance(kind, torch.dtype) else np.array(x, kind)  # noqa: E731
    net, images = Deconvnet(random_trunk()), some_images(2)
    for choice in (dict(maps=[96, 7], top=2), dict(maps=[96, 7], top_of_layer=3), dict(neuron=[96, 7, 3])):
        expected = net.reconstruct(images, "conv1", **choice)
        whole = {name: like(numbers) for name, numbers in choice.items()}
        in_lists = {name: [like(n) for n in numbers] for name, numbers in choice.items() if isinstance(numbers, list)}
        assert torch.equal(net.reconstruct(images, "conv1", **whole), expected)
        assert torch.equal(net.reconstruct(images, "conv1", **whole | in_lists), expected)
    each = net.reconstruct_each(images, "conv1", like([96, 7]), like(2))
    assert each.maps.dtype == torch.int64 and each.maps.tolist() == [96, 96, 7, 7] * 2
    assert torch.equal(net.reconstruct_each(images, "conv1", (m for m in (96, 7)), 2).patches, each.patches)
    found = gallery.gallery(net, images, "conv1", like([96, 7]), like(1), progress=False)
    assert found.maps.dtype == torch.int64 and found.maps.tolist() == [96, 7]
    assert torch.equal(found.activations[:, 0], net.feature_maps(images, "conv1")[:, [95, 6]].amax((0, 2, 3)))


@pytest.mark.parametrize(
    "change, says",
    [
        *((dict(top=top), "whole number from 1 to 729, not ") for top in (True, 1.0, "1", np.array([1]))),
        *((dict(maps=[m]), "map of conv1 is a whole number from 1 to 96, not ") for m in (True, 1.0, [1])),
        (dict(maps=torch.tensor([True])), "from 1 to 96, not True"),
        (dict(maps=np.array([1.0])), "from 1 to 96, not 1.0"),
        *((dict(maps=maps), "maps 1 to 96, and None means all of them, not ") for maps in (3, np.array(3), iter(()))),
        (dict(maps=[7, 7], top_of_layer=730), "from 1 to 729, not 730"),
        *((dict(neuron=n), r"neuron is \(map, row, column\), not ") for n in (5, (), (1, 2), (1, 2, 3, 4))),
        (dict(maps=[0]), "from 1 to 96, not 0"),
        (dict(maps=[97]), "from 1 to 96, not 97"),
        (dict(maps=[]), "maps 1 to 96"),
        (dict(top=0), "from 1 to 729, not 0"),
        (dict(top=730), "from 1 to 729, not 730"),
        (dict(top_of_layer=0), "from 1 to 69984"),
        (dict(neuron=(1, 27, 0)), "row of conv1 is a whole number from 0 to 26, not 27"),
        (dict(neuron=(97, 0, 0)), "from 1 to 96"),
        (dict(top=1, top_of_layer=1), "not by several"),
        (dict(layer="conv6"), "no layer 'conv6'; this trunk has conv1, conv2, conv3, conv4, conv5"),
        (dict(images=torch.zeros(1, 3, 224, 224, dtype=torch.uint8)), "227.*found torch.uint8 .1, 3, 224, 224."),
        (dict(images=torch.zeros(1, 3, 227, 227)), "expected uint8 RGB images.*found torch.float32"),
        (dict(images=torch.zeros(0, 3, 227, 227, dtype=torch.uint8)), "at least one image"),
    ],
)
def test_what_cannot_be_says_what_can(change, says):
    asked = dict(images=some_images(1), layer="conv1") | change
    with pytest.raises(ValueError, match=says):
        Deconvnet(Trunk()).reconstruct(**asked)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(maps=[0]), "map of conv1 is a whole number from 1 to 96, not 0"),
        *((dict(top=top), f"top .* is a whole number from 1 to 729, not {top}") for top in (0, 730, None)),
        (dict(layer="conv6"), "no layer 'conv6'"),
    ],
)
def test_each_that_cannot_be_says_what_can(change, says):
    asked = dict(images=some_images(1), layer="conv1") | change
    with pytest.raises(ValueError, match=says):
        Deconvnet(Trunk()).reconstruct_each(**asked)


@pytest.mark.parametrize(
    "change, says",
    [
        *((dict(count=n), f"count .* is a whole number from 1 to 2, not {n!r}") for n in (0, 3, True, 1.0, "1", None)),
        (dict(maps=[97]), "map of conv1 is a whole number from 1 to 96, not 97"),
        (dict(maps=[1.0]), "from 1 to 96, not 1.0"),
        (dict(layer="conv6"), "no layer 'conv6'"),
        (dict(images=some_images(2).float()), "expected uint8 RGB images"),
        (dict(images=some_images(2)[:0]), "at least one image"),
    ],
)
def test_a_gallery_that_cannot_be_says_what_can(change, says):
    asked = dict(images=some_images(2), layer="conv1", count=2, progress=False) | change
    with pytest.raises(ValueError, match=says):
        gallery.gallery(Deconvnet(Trunk()), **asked)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(maps=[1, 0]), "a map of conv1 is a whole number from 1 to 96, not 0"),
        (dict(maps=[97, 1]), "from 1 to 96, not 97"),
        (dict(rows=[0, -1]), "a row of conv1 is a whole number from 0 to 26, not -1"),
        (dict(columns=[27, 0]), "a column of conv1 is a whole number from 0 to 26, not 27"),
        (dict(rows=[0]), r"are int64 \[K\], as many of each, found torch.int64 \[2\], torch.int64 \[1\]"),
        (dict(maps=1, rows=0, columns=0), r"are int64 \[K\].*, found torch.int64 \[\]"),
        (dict(rows=[0.0, 1.0]), r"are int64 \[K\].*, found torch.int64 \[2\], torch.float32"),
        (dict(columns=[True, False]), r"are int64 \[K\].*torch.bool"),
        *((dict(maps=maps), r"columns are int64 \[K\]") for maps in (None, ["a"], [[1], [1, 2]], [2**63])),
        (dict(maps=[], rows=[], columns=[]), r"are int64 \[K\].*, found torch.float32 \[0\]"),
        (dict(layer="conv6"), "no layer 'conv6'; this trunk has conv1, conv2"),
        (dict(image=some_images(2)), r"one image \[1, 3, 227, 227\], found 2"),
        (dict(image=some_images(2)[:0]), "at least one image"),
        (dict(image=some_images(1).float()), "expected uint8 RGB images.*found torch.float32"),
        (dict(image=some_images(1).numpy()), "found ndarray, which is no tensor"),
    ],
)
def test_neurons_that_cannot_be_projected_say_what_can(change, says):
    asked = dict(image=some_images(1), layer="conv1", maps=[1, 2], rows=[0, 0], columns=[0, 0]) | change
    with pytest.raises(ValueError, match=says):
        Deconvnet(Trunk()).project(**asked)


def test_neurons_of_one_s_own_choice():
    net, image = Deconvnet(random_trunk()), some_images(1)
    found = net.project(image, "conv2", [256, 1, 7], [12, 0, 3], [0, 12, 4], index=9)
    assert found.images.tolist() == [9, 9, 9] and found.maps.tolist() == [256, 1, 7]
    for picture, neuron in zip(found.paste(), [(256, 12, 0), (1, 0, 12), (7, 3, 4)], strict=True):
        assert relative(picture, net.reconstruct(image, "conv2", neuron=neuron)[0]) < 1e-5
    assert torch.equal(found.paste([2, 0]), found.paste()[[2, 0]])
    none = torch.zeros(0, dtype=torch.int64)
    assert net.project(image, "conv2", none, none, none).paste().shape == found.paste([]).shape == (0, 3, 227, 227)


def test_unknown_settings_say_what_is_allowed():
    wrong = dict(variant="zeiller"), dict(variant=["paper"]), dict(lrn="off"), dict(start="two"), dict(start="")
    for setting in (*wrong, dict(bias="no")):
        with pytest.raises(ValueError, match="is one of"):
            Deconvnet(Trunk(), **setting)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_an_image_does_not_depend_on_its_batch(trunk, variant):
    images = some_images(3)
    for layer in ("conv2", "conv5"):
        together, each = Deconvnet(trunk, variant), Deconvnet(trunk, variant)
        pictures, patches = together.reconstruct(images, layer), together.reconstruct_each(images, layer, [3, 7], 2)
        for i in (2, 0, 1):
            assert torch.equal(each.reconstruct(images[i : i + 1], layer)[0], pictures[i])
            alone = each.reconstruct_each(images[i : i + 1], layer, [3, 7], 2)
            assert torch.equal(alone.patches, patches.patches[patches.images == i])


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("lrn", ["identity", "gradient"])
def test_each_on_its_own_sums_and_sits_right(trunk, variant, lrn):
    """Maps of one layer do not interfere at the first step; one map's neuron is that of the whole picture."""
    net, image = Deconvnet(trunk, variant, lrn), some_images(1, 3)
    for layer in LAYERS:
        each_is_its_part_of_the_whole_picture(net, image, layer, [2, 40, 90])


def each_is_its_part_of_the_whole_picture(net, image, layer, maps):
    patches = net.reconstruct_each(image, layer, maps)
    records = net._records(image, layer)
    pooled = records[-1].pooled
    values = pooled if net.start == "activation" else torch.ones_like(pooled)
    assert patches.maps.tolist() == list(maps)
    assert torch.equal(patches.activations, pooled[0, [m - 1 for m in maps]].amax((1, 2)))
    for m, pasted in zip(maps, patches.paste(), strict=True):
        whole = net._projector.whole(records, values, choose(pooled[0], [m], top=1))[0]
        assert relative(pasted, whole) < 1e-5, (layer, m)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_another_geometry(variant):
    net, image = Deconvnet(random_trunk(layers=TORCHVISION_ALEXNET), variant), some_images(1)
    for layer in LAYERS:
        maps = net.feature_maps(image, layer)[0]
        assert maps.shape == net.trunk.shapes()[layer]
        loudest = (maps.amax((1, 2)).argsort(descending=True, stable=True)[:3] + 1).numpy()
        assert all(net.reconstruct(image, layer, maps=[m], top=1).any() for m in loudest)  # there is something to see
        each_is_its_part_of_the_whole_picture(net, image, layer, loudest)


def test_a_double_trunk_gives_double():
    trunk, image = random_trunk(), some_images(2)
    single = gallery.gallery(Deconvnet(trunk), image, "conv3", maps=[5, 9], count=2, progress=False)
    trunk.double()
    assert Deconvnet(trunk).reconstruct(image, "conv2").dtype == torch.float64
    found = gallery.gallery(Deconvnet(trunk), image, "conv3", maps=[5, 9], count=2, progress=False)
    assert found.patches.dtype == found.activations.dtype == torch.float64
    assert relative(found.patches, single.patches) < 1e-5 and torch.equal(found.pictures, single.pictures)
    assert diagrams.steps(trunk)[-1].shape == (256, 6, 6)


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_feature_maps_that_are_not_remembered_are_the_same_to_the_bit(order):
    trunk, images = random_trunk(order=order), some_images(2)
    net = Deconvnet(trunk)
    for layer in LAYERS:
        quick = net.feature_maps(images, layer, remember=False)
        assert not net._seen and torch.equal(quick, net.feature_maps(images, layer))
        net.forget()


def test_new_weights_are_noticed():
    trunk, image = random_trunk(), some_images(1)
    net = Deconvnet(trunk)
    before = net.reconstruct(image, "conv1")
    trunk.conv1.weight.mul_(2)
    after = net.reconstruct(image, "conv1")
    assert not torch.equal(before, after) and torch.equal(after, Deconvnet(trunk).reconstruct(image, "conv1"))


def norm_with(name: str, value: float) -> LocalResponseNorm:
    norm = LocalResponseNorm()
    setattr(norm, name, value)
    return norm


@pytest.mark.parametrize(
    "name, value",
    [
        ("transform", Preprocessing("RGB")),
        ("order", "norm-pool"),
        ("layers", (CAFFENET[0]._replace(pool=False), *CAFFENET[1:])),
        ("norm", norm_with("size", 3)),
        ("norm", norm_with("alpha", 1e-3)),
        ("norm", norm_with("beta", 0.5)),
    ],
)
def test_what_else_changes_in_a_trunk_is_noticed(name, value):
    trunk, image = random_trunk(), some_images(1)
    net = Deconvnet(trunk, "gradient", lrn="gradient")
    before = net.reconstruct(image, "conv2")
    setattr(trunk, name, value)
    after = net.reconstruct(image, "conv2")
    assert not torch.equal(before, after) and net.shapes == trunk.shapes()
    assert torch.equal(after, Deconvnet(trunk, "gradient", lrn="gradient").reconstruct(image, "conv2"))


def test_weights_made_under_inference_mode_are_as_good():
    with torch.inference_mode():
        trunk = random_trunk()
    image = some_images(1)
    for choice in ({}, dict(top=1), dict(neuron=(7, 3, 3))):
        expected = Deconvnet(random_trunk()).reconstruct(image, "conv2", **choice)
        assert torch.equal(Deconvnet(trunk).reconstruct(image, "conv2", **choice), expected)


def test_the_images_asked_for_last_are_remembered(monkeypatch):
    computed, forward = [], deconvnet.forward
    monkeypatch.setattr(deconvnet, "forward", lambda *args: computed.append(1) or forward(*args))
    net, images = Deconvnet(random_trunk()), some_images(REMEMBERED + 1).split(1)
    for image in (*images[:-1], images[0], images[-1]):  # the first once more, so that the second is the oldest
        net.reconstruct(image, "conv1", maps=[1], top=1)
    assert len(computed) == REMEMBERED + 1
    for image, forwards in ((images[0], 0), (images[2], 0), (images[1], 1)):
        computed.clear()
        net.reconstruct(image, "conv1", maps=[1], top=1)
        assert len(computed) == forwards


def test_gallery_finds_the_strongest_of_a_whole_data_set(trunk):
    images, net = some_images(7), Deconvnet(trunk)
    found = gallery.gallery(net, images, "conv3", maps=[5, 9], count=3, progress=False)
    strength = net.feature_maps(images, "conv3").flatten(2).amax(2)[:, [4, 8]]
    expected = strength.T.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.activations, expected.values[:, :3])
    assert torch.equal(found.images, expected.indices[:, :3])
    assert found.patches.shape[:3] == (2, 3, 3) and found.pictures.shape == found.patches.shape
    for m in range(2):
        for k in range(3):
            i = int(found.images[m, k])
            alone = net.reconstruct_each(images[i : i + 1], "conv3", [[5, 9][m]])
            assert relative(found.patches[m, k], alone.patches[0]) < 1e-6
            top, left, side = int(alone.tops[0]), int(alone.lefts[0]), alone.patches.shape[-1]
            padded = nn.functional.pad(images[i], (side,) * 4)
            expected = padded[:, top + side : top + 2 * side, left + side : left + 2 * side]
            assert torch.equal(found.pictures[m, k], expected)


def test_a_gallery_reads_one_image_at_a_time():
    images = some_images(4)

    class OnDisk:
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            assert len(range(len(images))[index]) == 1
            return images[index].numpy()

    asked = dict(layer="conv1", maps=[5, 9], count=2, progress=False)
    read, held = (gallery.gallery(Deconvnet(random_trunk()), these, **asked) for these in (OnDisk(), images))
    assert all(torch.equal(a, b) for a, b in zip(vars(read).values(), vars(held).values(), strict=True))


def test_of_equals_a_gallery_takes_the_first_images_and_sorts_no_later_one(monkeypatch):
    sorts, strongest = [], gallery.strongest
    monkeypatch.setattr(gallery, "strongest", lambda *args: sorts.append(1) or strongest(*args))
    images, count = some_images(1).expand(19, -1, -1, -1), 17  # of so many, a sort that is not stable loses the order
    found = gallery.gallery(Deconvnet(random_trunk()), images, "conv1", maps=[5, 9], count=count, progress=False)
    assert found.images.tolist() == [list(range(count))] * 2 and len(sorts) == count
