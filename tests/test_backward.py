"""The projection against equations 4-13 written out in NumPy, and its parts against PyTorch's functions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import random_trunk, relative, some_images
from torch import nn
from torch.nn import functional as F

from dualtl_lib.models.caffenet import Layer, Preprocessing, StageRecord, Trunk
from dualtl_lib.models.normalization import LocalResponseNorm
from dualtl_lib.visualize.backward import Backward, conv_transpose, last_winner, place
from dualtl_lib.visualize.deconvnet import VARIANTS, Deconvnet
from dualtl_lib.visualize.geometry import Window


def literal_forward(x, layer, conv):
    """Eqs. (4)-(7) for one stage: x (I, H, W) -> conv, pooled, winners (C, U, V, 2) (None without pooling)."""
    w, b, s, p = conv.weight.numpy(), conv.bias.numpy(), layer.stride, layer.padding
    outs, ins, k, _ = w.shape
    padded = np.pad(x, ((0, 0), (p, p), (p, p)))
    m, n = ((size + 2 * p - k) // s + 1 for size in x.shape[1:])
    maps = np.zeros((outs, m, n))
    for o, j, i in np.ndindex(outs, m, n):
        first = o // (outs // layer.groups) * ins
        seen = padded[first : first + ins, j * s : j * s + k, i * s : i * s + k]
        maps[o, j, i] = max(b[o] + (w[o] * seen).sum(), 0)
    if not layer.pool:
        return maps, maps, None
    r, t, q = layer.pool_kernel, layer.pool_stride, layer.pool_padding
    sizes = []
    for size in (m, n):
        steps = (size + 2 * q - r) / t
        u = int(np.ceil(steps) if layer.pool_ceil else np.floor(steps)) + 1
        # A window must begin on the map.
        sizes.append(u - 1 if layer.pool_ceil and (u - 1) * t >= size + q else u)
    pooled, winners = np.zeros((outs, *sizes)), np.zeros((outs, *sizes, 2), dtype=int)
    for o, j, i in np.ndindex(pooled.shape):
        best = -np.inf
        for row in range(max(j * t - q, 0), min(j * t - q + r, m)):
            for column in range(max(i * t - q, 0), min(i * t - q + r, n)):
                if maps[o, row, column] > best:  # of equals the first
                    best, winners[o, j, i] = maps[o, row, column], (row, column)
        pooled[o, j, i] = best
    return maps, pooled, winners


def literal_backward(y, chosen, maps, winners, layer, conv, size):
    """Eqs. (8)-(13) for one stage: y (C, U, V) -> what entered it, (I, H, W). Only chosen neurons are assigned."""
    w, b, s, p = conv.weight.numpy(), conv.bias.numpy(), layer.stride, layer.padding
    outs, ins, k, _ = w.shape
    u = np.zeros(maps.shape)
    for o, j, i in np.ndindex(y.shape):  # eq. (8)
        if chosen[o, j, i]:
            u[(o, j, i) if winners is None else (o, *winners[o, j, i])] = y[o, j, i]
    for o, j, i in np.ndindex(u.shape):  # eq. (9)
        u[o, j, i] = u[o, j, i] - b[o] if u[o, j, i] > 0 else 0
    # Eq. (10): N there, "stride 0" in Table 1, is the convolution's stride.
    extension = np.zeros((outs, size[0] + 2 * p - k + 1, size[1] + 2 * p - k + 1))
    for o, j, i in np.ndindex(u.shape):
        extension[o, j * s, i * s] = u[o, j, i]
    # Eq. (11): so much that the valid convolution below gives the padded maps of eq. (4) again.
    pad = np.pad(extension, ((0, 0), (k - 1, k - 1), (k - 1, k - 1)))
    x = np.zeros((ins * layer.groups, size[0] + 2 * p, size[1] + 2 * p))
    for o in range(outs):  # eqs. (12), (13): the kernel turned by 180 degrees, w_NN first
        first = o // (outs // layer.groups) * ins
        for c, j, i in np.ndindex(ins, *x.shape[1:]):
            x[first + c, j, i] += (pad[o, j : j + k, i : i + k] * w[o, c, ::-1, ::-1]).sum()
    return x[:, p : p + size[0], p : p + size[1]]


@st.composite
def networks(draw):
    """One to three stages of small random geometry, an image for them, and neurons of the last stage.

    All numbers are multiples of 1/4, so that sums are exact, ties are frequent and 0 is 0.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dyadic = lambda shape: torch.from_numpy(rng.integers(-3, 4, shape) / 4.0)  # noqa: E731
    shape, layers = [3, draw(st.integers(6, 13)), draw(st.integers(6, 13))], []
    x = dyadic((1, *shape))
    for i in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if shape[0] % g == 0]))
        kernel = draw(st.integers(1, min(4, *shape[1:])))
        stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, kernel - 1))
        layer = Layer(f"conv{i + 1}", groups * draw(st.integers(1, 3)), kernel, stride, padding, groups)
        if draw(st.booleans()):
            smallest = min((size + 2 * padding - kernel) // stride + 1 for size in shape[1:])
            window = draw(st.integers(1, min(4, smallest)))
            steps, around = draw(st.integers(1, 3)), draw(st.integers(0, window // 2))
            pooling = dict(pool_kernel=window, pool_stride=steps, pool_padding=around, pool_ceil=draw(st.booleans()))
            layer = layer._replace(pool=True, **pooling)
        layers.append(layer)
        trunk = Trunk(layers, transform=Preprocessing("RGB")).double().requires_grad_(False)
        shape = list(trunk(x).shape[1:])
    for p in trunk.parameters():
        p.copy_(dyadic(p.shape))
    chosen = torch.from_numpy(rng.random(shape) < draw(st.sampled_from([0.1, 0.5, 1.0])))
    return trunk, x, chosen


def recorded(trunk, x):
    record = []
    trunk(x, record=record)
    return record


@settings(max_examples=200, deadline=None, derandomize=True)
@given(networks(), st.sampled_from([torch.float32, torch.float64]))
@torch.no_grad()
def test_the_paper_s_variant_is_equations_4_to_13(network, dtype):
    trunk, x, chosen = network
    below, kept = x[0].numpy(), []
    record = recorded(trunk, x)
    for layer, stage in zip(trunk.layers, record, strict=True):
        maps, pooled, winners = literal_forward(below, layer, trunk.conv(layer.name))
        np.testing.assert_array_equal(stage.pooled[0].numpy(), pooled)
        kept.append((maps, winners, layer, trunk.conv(layer.name), below.shape[1:]))
        below = pooled
    some = chosen.numpy()
    y = below * some
    for stage in reversed(kept):
        y = literal_backward(y, some, *stage)
        some = np.ones(y.shape, dtype=bool)
    trunk.to(dtype)
    record = recorded(trunk, x.to(dtype))
    backward = Backward(trunk, record, VARIANTS["paper"])
    found = backward.together(record[-1].pooled, None if chosen.all() else chosen)[0].numpy()
    np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(networks(), st.sampled_from(sorted(VARIANTS)))
@torch.no_grad()
def test_one_neuron_s_receptive_field_is_its_part_of_the_whole_picture(network, variant):
    trunk, x, _ = network
    record = recorded(trunk, x)
    backward, last = Backward(trunk, record, VARIANTS[variant]), record[-1]
    corners = torch.cartesian_prod(*(torch.tensor([0, size - 1]) for size in last.pooled.shape[1:]))
    m, r, c = corners.T
    width = last.conv.shape[3]
    at = r * width + c if last.switches is None else last.switches[0, m, r, c]
    parts, seen = backward.each(last.pooled[0, m, r, c], m, at // width, at % width)
    for k, (i, j, l) in enumerate(corners.tolist()):
        chosen = torch.zeros_like(last.pooled[0], dtype=torch.bool)
        chosen[i, j, l] = True
        one = Window(seen.tops[k : k + 1], seen.lefts[k : k + 1], seen.height, seen.width)
        part = place(parts[k : k + 1], one, x.shape[2:])
        np.testing.assert_allclose(part, backward.together(last.pooled, chosen), rtol=1e-9, atol=1e-12)
        assert part.square().sum() == parts[k].square().sum()  # beyond the edge there is nothing


@pytest.mark.parametrize("columns", [8, 64])
def test_the_last_window_wins_as_a_loop_has_it(columns):  # of 64, four rows are 256 places: the same last byte
    generator = torch.Generator().manual_seed(0)
    for kernel, stride, padding in ((3, 2, 0), (4, 1, 0), (2, 2, 0), (3, 1, 1)):
        layer = Layer("conv1", 2, 1, pool_kernel=kernel, pool_stride=stride, pool_padding=padding)
        x = torch.randint(0, 3, (1, 2, 9, columns), generator=generator).float()
        pooled, winners = F.max_pool2d(x, kernel, stride, padding, ceil_mode=True, return_indices=True)
        last = last_winner(layer, StageRecord((9, columns), x, pooled, winners))
        flat = winners[0].flatten(1)
        for c, v in np.ndindex(*flat.shape):
            assert bool(last[c].flatten()[v]) == (flat[c, v] not in flat[c, v + 1 :])


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (11, 4, 0), (5, 2, 2), (2, 3, 0)])
def test_the_transposed_convolution_is_pytorch_s(groups, kernel, stride, padding):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    h, weight = draw(2, 6, 5, 7), draw(6, 4, kernel, kernel)
    expected = F.conv_transpose2d(h, weight, None, stride, padding, groups=groups)
    assert relative(conv_transpose(h, weight, stride=stride, padding=padding, groups=groups), expected) < 1e-12


def test_normalization_s_gradient_is_autograd_s():
    generator = torch.Generator().manual_seed(1)
    x = (30 * torch.randn(3, 9, 4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    g = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)(x), x, g)
    assert relative(LocalResponseNorm().gradient(x.detach(), g), expected) < 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_a_gpu_projects_as_the_cpu_does(order):
    trunk, image = random_trunk(order=order).double(), some_images(1)
    choices = list(itertools.product(sorted(VARIANTS), ("identity", "gradient"), ("conv2", "conv5")))
    each = [Deconvnet(trunk, variant=v, lrn=lrn).reconstruct_each(image, layer) for v, lrn, layer in choices]
    whole = [Deconvnet(trunk, variant=v, lrn=lrn).reconstruct(image, layer, top=2) for v, lrn, layer in choices]
    trunk.cuda()
    for (v, lrn, layer), patches, picture in zip(choices, each, whole, strict=True):
        net = Deconvnet(trunk, variant=v, lrn=lrn)
        assert relative(net.reconstruct_each(image, layer).patches.cpu(), patches.patches) < 1e-9
        assert relative(net.reconstruct(image.cuda(), layer, top=2).cpu(), picture) < 1e-9
