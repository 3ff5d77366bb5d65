"""The network against the paper's numbers, against PyTorch's own functions and against loops written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dualtl_lib import paper
from dualtl_lib.models import caffenet, normalization
from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet, Layer, Preprocessing, Trunk
from dualtl_lib.models.normalization import LocalResponseNorm


def noise(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(n=2, seed=0):
    shape = (n, 3, caffenet.SIZE, caffenet.SIZE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def trunk():
    """A trunk whose features are lively: larger weights than the fillers', and biases that are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = Trunk()
        for layer in trunk.layers:
            conv = trunk.get_submodule(layer.name)
            nn.init.kaiming_normal_(conv.weight)
            nn.init.normal_(conv.bias, std=0.1)
    return trunk.eval()


# --- Table 1 and section 4.1.1


def test_shapes_are_those_of_section_4_1_1(trunk):
    assert trunk.shapes() == {
        "input": (3, 227, 227),
        "conv1": (96, 27, 27),
        "conv2": (256, 13, 13),
        "conv3": (384, 13, 13),
        "conv4": (384, 13, 13),
        "conv5": (256, 6, 6),
    }


def test_kernels_are_those_of_section_4_1_1(trunk):
    shapes = [tuple(trunk.get_submodule(layer.name).weight.shape) for layer in trunk.layers]
    assert shapes[:2] == [(96, 3, 11, 11), (256, 48, 5, 5)]
    assert shapes[2:] == [(384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3)]


def test_two_groups_do_not_see_each_other(trunk):
    x = noise(1, 96, 27, 27)
    changed = x.clone()
    changed[:, :48] += 1
    same = (trunk.conv2(x) == trunk.conv2(changed)).flatten(2).all(-1)[0]
    assert same[128:].all() and not same[:128].any()


# --- Preprocessing


def test_caffe_expects_bgr_without_the_mean():
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 227, 227)
    found = Preprocessing()(image)
    assert found.dtype == torch.float32 and found.shape == image.shape
    assert found[0, :, 5, 7].tolist() == [30 - 104, 20 - 117, 10 - 123]


def test_torchvision_expects_rgb_scaled_and_standardized():
    transform = Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image = pictures(1)
    mean, std = torch.tensor(transform.mean), torch.tensor(transform.std)
    expected = (image[0, :, 3, 4].double() / 255 - mean) / std
    torch.testing.assert_close(transform(image)[0, :, 3, 4].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("colour", ["BGR", "RGB"])
def test_a_projection_is_shown_in_the_colours_of_the_image(colour):
    image = pictures(1)
    transform = Preprocessing(colour, mean=(0.0, 0.0, 0.0))
    assert torch.equal(transform.to_rgb(transform(image)), image.float())


@pytest.mark.parametrize(
    "images, found",
    [
        (torch.zeros(1, 3, 227, 227), "float32"),
        (torch.zeros(3, 227, 227, dtype=torch.uint8), r"\[3, 227, 227\]"),
        (pictures(1).numpy(), "ndarray"),
        ([pictures(1)], "list"),
    ],
)
def test_other_images_are_refused(images, found):
    for call in (Preprocessing(), Trunk().check):
        with pytest.raises(ValueError, match=f"images: .*{found}"):
            call(images)


def test_images_of_another_size_are_refused():
    for model in (Trunk().check, ExpressionNet(Trunk(), "ab")):
        with pytest.raises(ValueError, match=r"images: .*227, 227.*227, 226"):
            model(pictures(1)[..., :226])
    assert Trunk(image_size=226).check(pictures(1)[..., :226, :226]).shape[2] == 226


# --- Local response normalization


def lrn_by_hand(x):
    """The definition, neuron by neuron."""
    out = torch.empty_like(x)
    maps = x.shape[1]
    for n in range(len(x)):
        for c in range(maps):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    near = [float(x[n, k, i, j]) for k in range(max(0, c - 2), min(maps, c + 3))]
                    out[n, c, i, j] = x[n, c, i, j] / (1 + 1e-4 / 5 * sum(v * v for v in near)) ** 0.75
    return out


@pytest.mark.parametrize("maps", [1, 2, 4, 7])
def test_normalization_by_hand(maps):
    x = noise(2, maps, 3, 2, scale=200).double()
    torch.testing.assert_close(LocalResponseNorm()(x), lrn_by_hand(x))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_normalization_and_its_gradient_are_pytorchs(order):
    x, weight = noise(2, 96, 27, 27, scale=200), noise(2, 96, 27, 27, seed=1)
    found = []
    for norm in (LocalResponseNorm(), nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)):
        entered = x.contiguous(memory_format=order).requires_grad_()
        left = norm(entered)
        found.append((left, *torch.autograd.grad(left, entered, weight)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_gradient_of_normalization_by_differences():
    for scale, eps in ((200, 1e-3), (5000, 1e-6)):
        x = noise(1, 6, 2, 2, scale=scale).double().requires_grad_()
        assert torch.autograd.gradcheck(LocalResponseNorm(), x, eps=eps)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_normalization_in_bfloat16_is_that_of_float32_to_its_rounding(order):
    x, weight = noise(2, 96, 5, 5, scale=200).bfloat16().contiguous(memory_format=order), noise(2, 96, 5, 5, seed=1)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        entered = x.detach().to(dtype).requires_grad_()
        left = LocalResponseNorm()(entered)
        found.append((left, *torch.autograd.grad(left, entered, weight.to(dtype))))
        assert {t.dtype for t in found[-1]} == {dtype}
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).abs().max() < 0.02 * exact.abs().max()  # some roundings of 0.4 %


@pytest.mark.parametrize("at_once", [1, 2 * 7 * 9])  # one image at a time; two, and one that is left over
def test_normalization_of_a_few_images_at_a_time_is_that_of_all(at_once, monkeypatch):
    x, weight = noise(5, 7, 3, 3, scale=200).requires_grad_(), noise(5, 7, 3, 3, seed=1)
    whole = LocalResponseNorm()(x)
    (back,) = torch.autograd.grad(whole, x, weight)
    monkeypatch.setattr(normalization, "AT_ONCE", at_once)
    parts = LocalResponseNorm()(x)
    assert torch.equal(parts, whole) and torch.equal(torch.autograd.grad(parts, x, weight)[0], back)


# --- The trunk


def by_functions(trunk, x):
    """The trunk in PyTorch's own functions; one list of maps per layer."""
    found = {}
    for layer in trunk.layers:
        conv = trunk.get_submodule(layer.name)
        x = F.relu(F.conv2d(x, conv.weight, conv.bias, layer.stride, layer.padding, groups=layer.groups))
        pooling = nn.MaxPool2d(layer.pool_kernel, layer.pool_stride, layer.pool_padding, ceil_mode=layer.pool_ceil)
        pool = [pooling] * layer.pool
        norm = [lambda y: F.local_response_norm(y, 5, 1e-4, 0.75, 1.0)] * layer.norm
        for step in (*pool, *norm) if trunk.order == "pool-norm" else (*norm, *pool):
            x = step(x)
        found[layer.name] = x
    return found


# Like VGG's first layers, and ZFNet's pooling.
VGG = Layer("conv1_1", 8, 3, padding=1), Layer("conv1_2", 8, 3, padding=1, pool=True, pool_kernel=2, pool_ceil=False)
PADDED = (Layer("conv1", 8, 7, stride=2, padding=1, pool=True, norm=True, pool_padding=1, pool_ceil=False),)


@pytest.mark.parametrize("layers", [caffenet.CAFFENET, caffenet.TORCHVISION_ALEXNET, VGG, PADDED])
@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
@torch.no_grad()
def test_trunk_is_what_its_table_says(trunk, layers, order):
    other, record = Trunk(layers, order=order), []
    if layers is trunk.layers:
        other.load_state_dict(trunk.state_dict())
    x = other.transform(pictures())
    plain, recorded = other(x), other(x, record=record)
    assert torch.equal(plain, recorded) and len(record) == len(layers)
    for (name, expected), layer in zip(by_functions(other, x).items(), layers, strict=True):
        torch.testing.assert_close(other(x, stop=name), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert other.shapes()[name] == expected.shape[1:] and other.layer(name) == layer


@torch.no_grad()
def test_a_record_tells_where_each_pooled_value_was(trunk):
    record = []
    trunk(trunk.transform(pictures()), record=record)
    assert [stage.size for stage in record] == [(227, 227), (27, 27), (13, 13), (13, 13), (13, 13)]
    for layer, stage in zip(trunk.layers, record, strict=True):
        assert (stage.switches is None) == (not layer.pool) and (stage.conv >= 0).all()
        if layer.pool:  # before normalization, where the order is "pool-norm"
            assert torch.equal(stage.conv.flatten(2).gather(2, stage.switches.flatten(2)), stage.pooled.flatten(2))


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_gradients_of_the_trunk_are_those_of_pytorchs_functions(order):
    trunk = Trunk(order=order).double()
    x, weights = trunk.transform(pictures(1)).double(), list(trunk.parameters())
    found, expected = (
        torch.autograd.grad(maps.square().mean(), weights)
        for maps in (trunk(x), list(by_functions(trunk, x).values())[-1])
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * float(theirs.abs().max()))


@torch.no_grad()
def test_a_trunk_can_be_run_in_parts(trunk):
    x = trunk.transform(pictures(1))
    half = trunk(x, stop="conv2")
    assert torch.equal(trunk(half, start="conv3"), trunk(x))
    record = []
    trunk(half, start="conv3", stop="conv4", record=record)
    assert len(record) == 2 and torch.equal(record[1].pooled, trunk(x, stop="conv4"))


def test_layers_in_the_other_order_are_refused(trunk):
    for start, stop in (("conv4", "conv2"), ("conv3", "conv2")):
        with pytest.raises(ValueError, match=f"start: .*{stop}.* found {start}"):
            trunk(noise(1, 256, 13, 13), start=start, stop=stop)


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_no_images_have_no_maps(order):
    trunk = Trunk(order=order)
    x = trunk.transform(pictures(1)[:0]).requires_grad_()
    maps = trunk(x)
    assert maps.shape == (0, 256, 6, 6)
    (back,) = torch.autograd.grad(maps.sum(), x)
    assert back.shape == (0, 3, 227, 227)
    assert ExpressionNet(trunk, paper.EXPRESSIONS)(pictures(1)[:0]).shape == (0, 8)


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_and_their_gradients_stay_last_in_memory(order, dtype):
    # Otherwise they are put into another order and back at every layer, which nothing but the time would show.
    x = noise(2, 3, 227, 227)
    for layer in caffenet.CAFFENET:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            x = Trunk(order=order)(x, start=layer.name, stop=layer.name)
        assert x.is_contiguous(memory_format=torch.channels_last) and x.dtype == dtype
        before = x.detach().requires_grad_()
        if layer.norm:
            (back,) = torch.autograd.grad(LocalResponseNorm()(before).sum(), before)
            assert back.is_contiguous(memory_format=torch.channels_last)


def test_a_new_trunk_has_bvlcs_fillers():
    new = Trunk()
    for layer in new.layers:
        conv = new.get_submodule(layer.name)
        assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        assert not conv.bias.any()


def test_unknown_order_and_layer_are_refused(trunk):
    with pytest.raises(ValueError, match=r"order: .*'pool-norm'.*'norm-pool'.*'norm'$"):
        Trunk(order="norm")
    for call in (trunk.layer, lambda name: trunk(torch.zeros(1, 3, 227, 227), stop=name)):
        with pytest.raises(ValueError, match=r"'conv6'.*conv1, conv2, conv3, conv4, conv5"):
            call("conv6")


# --- Fig. 9


@torch.no_grad()
def test_heads_are_twelve_separate_pairs_of_layers(trunk):
    model = AttributeNet(trunk, paper.ATTRIBUTES).eval()
    nn.init.normal_(model.fc2_bias)
    features = noise(3, 256, 6, 6).relu()
    logits = model.classify(features)
    assert logits.shape == (3, 12, 2)
    for k in range(12):
        first, second = nn.Linear(9216, 128), nn.Linear(128, 2)
        rows = slice(128 * k, 128 * (k + 1))
        first.load_state_dict({"weight": model.fc1.weight[rows], "bias": model.fc1.bias[rows]})
        second.load_state_dict({"weight": model.fc2_weight[k], "bias": model.fc2_bias[k]})
        alone = second(F.relu(first(features.flatten(1))))
        torch.testing.assert_close(logits[:, k], alone, rtol=1e-4, atol=1e-5)


def test_an_attribute_trains_only_its_own_head(trunk):
    model = AttributeNet(trunk, paper.ATTRIBUTES)
    model.classify(noise(2, 256, 6, 6).relu())[:, 3].sum().backward()
    for gradient in (model.fc1.weight.grad.unflatten(0, (12, 128)), model.fc2_weight.grad, model.fc2_bias.grad):
        moved = gradient.flatten(1).any(1)
        assert moved.tolist() == [k == 3 for k in range(12)]


# --- Figs. 14 and 18


@torch.no_grad()
def test_model_of_fig_14_is_the_trunk_and_two_layers(trunk):
    model = ExpressionNet(trunk, paper.EXPRESSIONS).eval()
    images = pictures()
    hidden = F.relu(model.fc1(trunk(trunk.transform(images)).flatten(1)))
    assert (model.fc1.in_features, model.fc1.out_features, model.fc2.out_features) == (9216, 128, 8)
    torch.testing.assert_close(model(images), model.fc2(hidden))


@torch.no_grad()
def test_model_of_fig_18_drops_conv5_and_keeps_the_pooling(trunk):
    model = ExpressionNet(trunk, paper.EXPRESSIONS, conv5=False).eval()
    assert not hasattr(model.trunk, "conv5") and [layer.name for layer in model.trunk.layers][-1] == "conv4"
    assert model.features == model.fc1.in_features == 384 * 6 * 6
    x = trunk.transform(pictures())
    assert torch.equal(model.trunk(x), F.max_pool2d(trunk(x, stop="conv4"), 3, 2, ceil_mode=True))
    assert trunk.layer("conv5").pool and not trunk.layer("conv4").pool  # the first trunk is as it was


# --- Transfer and freezing


def test_a_model_trains_a_copy_of_the_trunk(trunk):
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    model = ExpressionNet(trunk, paper.EXPRESSIONS)
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_frozen_layers_get_no_gradient(trunk):
    model = ExpressionNet(trunk, paper.EXPRESSIONS).freeze("conv1", "conv2")
    model(pictures(1)).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"trunk.conv1.weight", "trunk.conv1.bias", "trunk.conv2.weight", "trunk.conv2.bias"}


def test_frozen_layers_are_counted_from_the_first_on(trunk):
    for count in (0, 2, 5):
        for model in (ExpressionNet(trunk, classes="ab", freeze=count), AttributeNet(trunk, "ab", freeze=count)):
            assert model.frozen() == trunk.names[:count]
    model = ExpressionNet(trunk, paper.EXPRESSIONS)
    assert model.frozen() == ()
    assert model.freeze("conv2").frozen() == ()  # conv1 still trains, so conv2's output changes
    assert model.freeze("conv1").frozen() == ("conv1", "conv2")
    assert model.freeze("conv4").frozen() == ("conv1", "conv2")


def test_freezing_survives_the_second_transfer(trunk):
    first = AttributeNet(trunk, paper.ATTRIBUTES).freeze("conv1")
    assert ExpressionNet(first.trunk, paper.EXPRESSIONS).frozen() == ("conv1",)


def test_a_layer_that_is_not_there_cannot_be_frozen(trunk):
    model = ExpressionNet(trunk, paper.EXPRESSIONS, conv5=False)
    with pytest.raises(ValueError, match=r"'conv5'.*conv1, conv2, conv3, conv4$"):
        model.freeze("conv5")


def test_padding_is_less_than_the_kernel():
    Trunk((Layer("conv1", 4, 3, padding=2),))
    for padding in (3, 4):
        with pytest.raises(ValueError, match=f"conv1: padding={padding}.*kernel=3"):
            Trunk((Layer("conv1", 4, 3, padding=padding),))
