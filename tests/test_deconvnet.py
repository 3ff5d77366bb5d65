"""The deconvnet: choosing neurons, records, batches, patches, and what it refuses."""

import numpy as np
import pytest
import torch
from projections import LAYERS, random_trunk, real_trunk, relative, some_images

from dualtl_lib.models.caffenet import CAFFENET, TORCHVISION_ALEXNET, Layer, Preprocessing, Trunk
from dualtl_lib.visualize.deconvnet import VARIANTS, Deconvnet
from dualtl_lib.visualize.neurons import choose, strongest


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return real_trunk()


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


def test_zeiler_starts_with_the_activation(trunk):
    image = some_images(1)
    maps = Deconvnet(trunk).feature_maps(image, "conv3")[0]
    m, r, c = (int(i) for i in np.unravel_index(int(maps.flatten().argmax()), maps.shape))
    from_value = Deconvnet(trunk, variant="zeiler").reconstruct(image, "conv3", neuron=(m + 1, r, c))
    from_one = Deconvnet(trunk, variant="zeiler", start="one").reconstruct(image, "conv3", neuron=(m + 1, r, c))
    assert relative(from_value, from_one * maps[m, r, c]) < 1e-5


# --- records and batches


def test_a_record_holds_all_that_a_projection_needs(trunk):
    net, images = Deconvnet(trunk), some_images(2)
    for layer in LAYERS:
        record = net.forward(images, layer)
        assert len(record) == 2 and torch.equal(record.activations(), net.feature_maps(images, layer))
        for choice in ({}, dict(maps=[7, 3], top=2), dict(top_of_layer=5), dict(neuron=(7, 3, 3))):
            expected = net.reconstruct(images, layer, **choice)
            assert expected.shape == (2, 3, 227, 227) and torch.equal(net.project(record, **choice), expected)
            assert torch.equal(net.project(record[1], **choice), expected[1:])


def test_weights_are_read_at_every_call():
    trunk, image = random_trunk(), some_images(1)
    net = Deconvnet(trunk)
    before = net.reconstruct(image, "conv2")
    trunk.conv1.weight.mul_(2)
    after = net.reconstruct(image, "conv2")
    assert not torch.equal(before, after) and torch.equal(after, Deconvnet(trunk).reconstruct(image, "conv2"))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_an_image_does_not_depend_on_its_batch(trunk, variant):
    images, net = some_images(3), Deconvnet(trunk, variant=variant)
    for layer in ("conv2", "conv5"):
        pictures, patches = net.reconstruct(images, layer), net.reconstruct_each(images, layer, maps=[3, 7], top=2)
        for i in (2, 0, 1):
            assert torch.equal(net.reconstruct(images[i : i + 1], layer)[0], pictures[i])
            alone = net.reconstruct_each(images[i : i + 1], layer, maps=[3, 7], top=2)
            assert torch.equal(alone.patches, patches.patches[patches.images == i])


def results(net, image, layer):
    return net.feature_maps(image, layer), net.reconstruct(image, layer), net.reconstruct_each(image, layer).patches


@pytest.mark.parametrize("layer", ["conv1", "conv3"])
def test_autocast_changes_nothing(trunk, layer):
    net, image = Deconvnet(trunk), some_images(1)
    before = results(net, image, layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(before, results(net, image, layer), strict=True))


def test_nothing_is_kept_for_a_gradient_and_weights_of_inference_mode_are_as_good():
    image, expected = some_images(1), results(Deconvnet(random_trunk()), some_images(1), "conv2")
    with torch.inference_mode():
        inferring = random_trunk()
    for trunk in (random_trunk().requires_grad_(True), inferring):
        for found, same in zip(results(Deconvnet(trunk), image, "conv2"), expected, strict=True):
            assert torch.equal(found, same) and not found.requires_grad


def test_nan_stays_nan(trunk):
    broken = Trunk(trunk.layers, order=trunk.order, transform=trunk.transform)
    broken.load_state_dict(trunk.state_dict())
    torch.nn.init.constant_(broken.conv2.bias[:1], torch.nan)
    assert Deconvnet(broken).feature_maps(some_images(1), "conv2")[0, 0].isnan().all()


def test_a_double_trunk_gives_double():
    trunk, image = random_trunk(), some_images(1)
    single = Deconvnet(trunk).reconstruct(image, "conv2")
    double = Deconvnet(trunk.double()).reconstruct(image, "conv2")
    assert double.dtype == torch.float64 and relative(double, single) < 1e-5


# --- each on its own


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("lrn", ["identity", "gradient"])
def test_each_on_its_own_sums_and_sits_right(trunk, variant, lrn):
    """One map's neuron is that of the whole picture."""
    net, image = Deconvnet(trunk, variant=variant, lrn=lrn), some_images(1, 3)
    for layer in LAYERS:
        each_is_its_part_of_the_whole_picture(net, image, layer, [2, 40, 90])


def each_is_its_part_of_the_whole_picture(net, image, layer, maps):
    patches = net.reconstruct_each(image, layer, maps=maps)
    assert patches.maps.tolist() == list(maps)
    assert torch.equal(patches.activations, net.feature_maps(image, layer)[0, [m - 1 for m in maps]].amax((1, 2)))
    for m, pasted in zip(maps, patches.paste(), strict=True):
        assert relative(pasted, net.reconstruct(image, layer, maps=[m], top=1)[0]) < 1e-5, (layer, m)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_another_geometry(variant):
    net, image = Deconvnet(random_trunk(layers=TORCHVISION_ALEXNET), variant=variant), some_images(1)
    for layer in LAYERS:
        maps = net.feature_maps(image, layer)[0]
        assert maps.shape == net.trunk.shapes()[layer]
        most_activated = (maps.amax((1, 2)).argsort(descending=True, stable=True)[:3] + 1).tolist()
        assert all(net.reconstruct(image, layer, maps=[m], top=1).any() for m in most_activated)
        each_is_its_part_of_the_whole_picture(net, image, layer, most_activated)


def test_another_image_size_and_other_names():
    layers = (
        Layer("first", 6, 3, padding=1),
        Layer("second", 8, 3, padding=1, pool=True, pool_kernel=2, pool_ceil=False),
    )
    net = Deconvnet(random_trunk(layers=layers, image_size=32))
    image = some_images(1)[:, :, :32, :32]
    assert net.shapes["second"] == (8, 16, 16) and net.reconstruct(image, "second").shape == (1, 3, 32, 32)
    each_is_its_part_of_the_whole_picture(net, image, "second", [1, 4])
    with pytest.raises(ValueError, match=r"images.*32, 32.*227"):
        net.reconstruct(some_images(1), "second")


def test_neurons_of_one_s_own_choice():
    net, image = Deconvnet(random_trunk()), some_images(1)
    record = net.forward(image, "conv2")
    found = net.project_each(record, [256, 1, 7], np.array([12, 0, 3]), torch.tensor([0, 12, 4]))
    assert found.maps.tolist() == [256, 1, 7] and found.rows.tolist() == [12, 0, 3]
    for picture, neuron in zip(found.paste(), [(256, 12, 0), (1, 0, 12), (7, 3, 4)], strict=True):
        assert relative(picture, net.project(record, neuron=neuron)[0]) < 1e-5
    assert torch.equal(found.paste([2, 0]), found.paste()[[2, 0]])
    assert net.project_each(record, [], [], []).paste().shape == found.paste([]).shape == (0, 3, 227, 227)


def test_numbers_may_be_anything_with_an_index():
    net, images = Deconvnet(random_trunk(layers=CAFFENET[:1])), some_images(2)
    for array in (np.array([96, 7], np.uint8), torch.tensor([96, 7]), (m for m in (96, 7))):
        each = net.reconstruct_each(images, "conv1", maps=array, top=np.int8(2))
        assert each.maps.dtype == torch.int64 and each.maps.tolist() == [96, 96, 7, 7] * 2


# --- what is refused


@pytest.mark.parametrize(
    "change, names",
    [
        *((dict(top=top), "top .*conv1.* 1 to 729") for top in (1.0, "1", 0, 730)),
        *((dict(maps=[m]), "map of conv1.* 1 to 96") for m in (1.0, "1", [1], 0, 97)),
        *((dict(maps=maps), "maps.*1 to 96 of conv1") for maps in (3, [], iter(()))),
        (dict(top_of_layer=0), "top_of_layer.* 1 to 69984"),
        (dict(maps=[7, 7], top_of_layer=730), "top_of_layer.* 1 to 729"),
        *((dict(neuron=n), r"neuron.*\(map, row, column\)") for n in (5, (), (1, 2), (1, 2, 3, 4))),
        (dict(neuron=(1, 27, 0)), "row of conv1.* 0 to 26"),
        (dict(neuron=(97, 0, 0)), "map of conv1.* 1 to 96"),
        (dict(top=1, top_of_layer=1), "top_of_layer"),
        (dict(neuron=(1, 0, 0), maps=[1]), "neuron"),
        (dict(layer="conv6"), "'conv6'.*conv1, conv2, conv3, conv4, conv5"),
        (dict(images=torch.zeros(1, 3, 224, 224, dtype=torch.uint8)), "images.*227.*224"),
        (dict(images=torch.zeros(1, 3, 227, 227)), "images.*float32"),
        (dict(images=np.zeros((1, 3, 227, 227), np.uint8)), "images.*ndarray"),
        (dict(images=torch.zeros(0, 3, 227, 227, dtype=torch.uint8)), "images.*at least one"),
    ],
)
def test_other_choices_of_neurons_are_refused(change, names):
    with pytest.raises(ValueError, match=names):
        Deconvnet(Trunk()).reconstruct(**dict(images=some_images(1), layer="conv1") | change)


@pytest.mark.parametrize(
    "change, names",
    [(dict(maps=[0]), "map of conv1.* 1 to 96"), (dict(layer="conv6"), "'conv6'"), (dict(images=None), "images")]
    + [(dict(top=top), "top .* 1 to 729") for top in (0, 730, None)],
)
def test_each_refuses_the_same(change, names):
    with pytest.raises(ValueError, match=names):
        Deconvnet(Trunk()).reconstruct_each(**dict(images=some_images(1), layer="conv1") | change)


@pytest.mark.parametrize(
    "change, names",
    [
        *((dict(maps=maps), "map of conv1.* 1 to 96") for maps in ([1, 0], [97, 1], ["a", 1], [[1], 1], [2**63, 1])),
        *((dict(rows=rows), "row of conv1.* 0 to 26") for rows in ([0, -1], [0.0, 1.0])),
        (dict(columns=[27, 0]), "column of conv1.* 0 to 26"),
        (dict(rows=[0]), "maps, rows, columns"),
        (dict(images=some_images(2)), "record.*2 images"),
    ],
)
def test_neurons_that_do_not_exist_are_refused(change, names):
    arguments = dict(images=some_images(1), maps=[1, 2], rows=[0, 0], columns=[0, 0]) | change
    net = Deconvnet(Trunk())
    record = net.forward(arguments.pop("images"), "conv1")
    with pytest.raises(ValueError, match=names):
        net.project_each(record, **arguments)


@pytest.mark.parametrize("setting", [dict(variant="zeiller"), dict(lrn="off"), dict(start=""), dict(bias="no")])
def test_unknown_settings_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        Deconvnet(Trunk(), **setting)


def test_colours_are_those_of_the_image():
    bgr = random_trunk(layers=CAFFENET[:1])
    rgb = random_trunk(layers=CAFFENET[:1], transform=Preprocessing("RGB", mean=(123.0, 117.0, 104.0)))
    rgb.conv1.weight.copy_(bgr.conv1.weight.flip(1))
    pair = (Deconvnet(t).reconstruct(some_images(1), "conv1") for t in (bgr, rgb))
    assert relative(*pair) < 1e-5
