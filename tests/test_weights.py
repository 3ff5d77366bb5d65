"""Weights: our network equals OpenCV's reading of the same Caffe files; sources, saved models, downloads."""

import dataclasses
import hashlib
import re
import sys

import cv2
import numpy as np
import pytest
import torch
from torchvision.models import AlexNet_Weights, ResNet18_Weights, alexnet
from wire_formats import caffemodel, lively, numbers, onnx_model

from dualtl_lib import cli as command
from dualtl_lib import files
from dualtl_lib.models import caffenet, download, store, weights
from dualtl_lib.models.caffenet import CAFFENET, AttributeNet, ExpressionNet, Trunk


def prototxt(order: str) -> str:
    """The network for OpenCV, every step with an output of its own."""
    text, bottom = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 227 input_dim: 227\n', "data"

    def add(name: str, kind: str, parameters: str = "") -> None:
        nonlocal text, bottom
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {parameters} }}\n'
        bottom = name

    for layer in CAFFENET:
        n = layer.name[-1]
        add(
            layer.name,
            "Convolution",
            f"convolution_param {{ num_output: {layer.maps} kernel_size: {layer.kernel} stride: {layer.stride} "
            f"pad: {layer.padding} group: {layer.groups} }}",
        )
        add(f"relu{n}", "ReLU")
        steps = [("pool", "Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")] * layer.pool
        steps += [("norm", "LRN", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")] * layer.norm
        for name, kind, parameters in steps if order == "pool-norm" else steps[::-1]:
            add(name + n, kind, parameters)
    return text


def ours(trunk: Trunk, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Every step's output under the names of `prototxt`."""
    found = {}
    for layer in trunk.layers:
        n = layer.name[-1]
        found[layer.name] = x = trunk.get_submodule(layer.name)(x)
        found[f"relu{n}"] = x = x.relu()
        steps = [("pool", torch.nn.MaxPool2d(3, 2, ceil_mode=True))] * layer.pool + [("norm", trunk.norm)] * layer.norm
        for name, step in steps if trunk.order == "pool-norm" else steps[::-1]:
            found[name + n] = x = step(x)
    return found


@torch.no_grad()
def assert_equals_opencv(path, order: str) -> None:
    trunk = weights.load_trunk(path, order=order)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 227, 227), dtype=np.uint8)
    x = trunk.transform(torch.from_numpy(pixels))
    mine = ours(trunk, x.contiguous(memory_format=torch.channels_last))  # as the trunk has it, to the bit
    text, model = (np.frombuffer(b, np.uint8) for b in (prototxt(order).encode(), path.read_bytes()))
    net = cv2.dnn.readNetFromCaffe(text, model)
    net.enableFusion(False)
    net.setInput(x.numpy())
    for name, theirs in zip(mine, net.forward(list(mine)), strict=True):
        worst = np.abs(mine[name].numpy() - theirs).max() / np.abs(theirs).max()
        assert worst < 1e-4, (name, worst)
    assert torch.equal(mine[list(mine)[-1]], trunk(x))


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
@pytest.mark.parametrize("old", [True, False])
def test_a_made_up_caffemodel_equals_opencv_at_every_step(tmp_path, order, old):
    path = tmp_path / "made_up.caffemodel"
    path.write_bytes(caffemodel(numbers(lively()), CAFFENET, old=old))
    assert_equals_opencv(path, order)


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_bvlc_weights_equal_opencv_at_every_step(data_root, order):
    assert_equals_opencv(data_root / "caffemodel" / "bvlc_alexnet_conv.caffemodel", order)


def test_bvlc_caffemodel_and_safetensors_hold_the_same(data_root, monkeypatch):
    monkeypatch.setenv("DUALTL_DATA", str(data_root))
    caffe = weights.load_trunk("$DATA/caffemodel/bvlc_alexnet_conv.caffemodel")
    other = weights.load_trunk("$DATA/weights/bvlc_alexnet_conv.safetensors")
    assert caffe.order == other.order == "norm-pool"
    for a, b in zip(caffe.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_torchvisions_alexnet_equals_torchvision(data_root):
    trunk = weights.load_trunk(data_root / "weights" / "torchvision_alexnet_features.safetensors")
    assert trunk.layers == caffenet.TORCHVISION_ALEXNET
    assert trunk.transform.colour == "RGB"
    with torch.device("meta"):
        features = alexnet().features.eval()
    features.load_state_dict(_sequential(trunk), assign=True)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))  # its own size; pooling rounds nothing
    torch.testing.assert_close(trunk(x), features(x), rtol=1e-4, atol=1e-5)


def _sequential(trunk: Trunk) -> dict:
    """A trunk's state under the names of torchvision's `features`."""
    number = dict(zip((layer.name for layer in trunk.layers), (0, 3, 6, 8, 10), strict=True))
    return {f"{number[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in trunk.state_dict().items()}


def test_torchvisions_transform_is_its_enums():
    picture = torch.randint(0, 256, (1, 3, 227, 227), dtype=torch.uint8)
    enum = AlexNet_Weights.IMAGENET1K_V1
    theirs = enum.transforms(crop_size=227, resize_size=227)(picture)
    torch.testing.assert_close(weights.TORCHVISION_TRANSFORM(picture), theirs, rtol=1e-5, atol=1e-5)
    assert weights.SOURCES["torchvision-alexnet"].url == enum.url


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("old", [True, False])
def test_order_comes_from_layers_then_name_then_default(tmp_path, old, double):
    state, path = numbers(lively()), tmp_path / "a.caffemodel"
    cases = [
        (("ReLU", "LRN", "Pooling"), "CaffeNet", "norm-pool"),
        (("ReLU", "Pooling", "LRN"), "AlexNet", "pool-norm"),
        ((), "AlexNet", "norm-pool"),
        ((), "CaffeNet", "pool-norm"),
        ((), "something", "pool-norm"),
    ]
    for steps, name, expected in cases:
        path.write_bytes(caffemodel(state, CAFFENET, steps, old, name, double))
        trunk = weights.load_trunk(path)
        assert trunk.order == expected, (steps, name)
        for key, value in trunk.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[key])
    assert weights.load_trunk(path, order="norm-pool").order == "norm-pool"


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool"])
def test_onnx_gives_tensors_and_order(tmp_path, order):
    state, path = numbers(lively()), tmp_path / "a.onnx"
    path.write_bytes(onnx_model(state, CAFFENET, order))
    trunk = weights.load_trunk(path)
    assert trunk.order == order
    for key, value in trunk.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key])


def test_pth_with_torchvisions_names(tmp_path):
    state, path = _sequential(Trunk(caffenet.TORCHVISION_ALEXNET)), tmp_path / "alexnet.pth"
    state = {f"features.{k}": v for k, v in state.items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)
    trunk = weights.load_trunk(path)
    assert trunk.layers == caffenet.TORCHVISION_ALEXNET
    assert torch.equal(trunk.conv5.bias, state["features.10.bias"])


def test_random_is_seeded_and_draws_from_no_global_generator():
    before = torch.get_rng_state()
    a, b, c = (weights.load_trunk("random", seed=s) for s in (1, 1, 2))
    assert torch.equal(a.conv3.weight, b.conv3.weight)
    assert not torch.equal(a.conv3.weight, c.conv3.weight)
    assert abs(a.conv3.weight.std().item() - 0.01) < 1e-4
    assert torch.equal(before, torch.get_rng_state())


def test_embedded_is_a_float32_caffenet():
    trunk = weights.load_trunk("embedded")
    assert trunk.layers == CAFFENET
    assert trunk.name == "embedded"
    assert all(p.dtype == torch.float32 and p.requires_grad for p in trunk.parameters())


def test_what_one_types_or_has_saved_is_in_the_folder_one_is_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store.save_model(lively(), "trunk.safetensors")
    store.save_model(ExpressionNet(lively(), "ab"), "model.safetensors")
    assert store.load_model("model.safetensors").classes == ("a", "b")
    assert command.main(["weights", "check", "trunk.safetensors"]) == 0
    assert f"{tmp_path}/trunk.safetensors" in capsys.readouterr().out


# --- trained models


@pytest.mark.parametrize("build", [AttributeNet, ExpressionNet, lambda t, c: ExpressionNet(t, c, conv5=False)])
def test_a_saved_model_comes_back(tmp_path, build):
    model = build(lively(order="norm-pool"), ("a", "b", "c")).freeze("conv1")
    path = store.save_model(model, tmp_path / "m.safetensors", seed=3, history={"loss": [1.5]})
    before = torch.get_rng_state()
    again = store.load_model(path)
    assert torch.equal(before, torch.get_rng_state())
    x = torch.randint(0, 256, (2, 3, 227, 227), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), again(x))
    assert type(again) is type(model)
    assert (again.classes, again.trunk.layers, again.trunk.order) == (model.classes, model.trunk.layers, "norm-pool")
    assert store.read_metadata(path)["history"] == {"loss": [1.5]}
    first = path.read_bytes()
    store.save_model(model, path, seed=3, history={"loss": [1.5]})
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_trunk_kept_in_half_precision(tmp_path):
    trunk = lively(order="norm-pool")
    path = store.save_model(trunk, tmp_path / "t.safetensors", dtype=torch.float16)
    again = weights.load_trunk(path)
    assert again.order == "norm-pool"
    torch.testing.assert_close(again.conv2.weight, trunk.conv2.weight, rtol=1e-3, atol=1e-6)
    assert path.stat().st_size < 5e6


# --- the registry


def test_every_source_states_what_is_needed_to_use_it():
    text = (files.PROJECT / "docs" / "weights.md").read_text("utf-8")
    for name, source in weights.SOURCES.items():
        assert source.order in ("pool-norm", "norm-pool") and source.title and source.licence
        assert source.architecture in weights.ARCHITECTURES
        assert bool(source.url) == bool(source.checksum) == bool(source.file)
        assert not source.checksum or re.fullmatch(
            r"sha(1:[0-9a-f]{40}|256:([0-9a-f]{64}|[0-9a-f]{8}))", source.checksum
        )
        assert f"| `{name}` |" in text and (source.checksum.partition(":")[2] or name) in text


@pytest.fixture
def made_up(tmp_path, monkeypatch) -> weights.Source:
    """A source 'made-up', whose file lies in the cache."""
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path))
    content = caffemodel(numbers(lively()), CAFFENET, ("LRN", "Pooling"))
    (tmp_path / "made_up.caffemodel").write_bytes(content)
    source = weights.Source(
        title="made up",
        order="pool-norm",
        licence="none",
        url="http://127.0.0.1:9/made_up.caffemodel",
        checksum="sha1:" + hashlib.sha1(content).hexdigest(),
    )
    monkeypatch.setitem(weights.SOURCES, "made-up", source)
    return source


def test_the_command_line(made_up, tmp_path, capsys):
    assert command.main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in weights.SOURCES)
    assert command.main(["weights", "check", str(tmp_path / "made_up.caffemodel")]) == 0
    assert "norm-pool, from its layers" in capsys.readouterr().out
    assert command.main(["weights", "check", "made-up"]) == 0
    printed = capsys.readouterr().out
    assert "made_up.caffemodel" in printed and "pool-norm, from `weights list`" in printed
    assert command.main(["weights", "check", "embedded"]) == 0
    for name, message in {
        str(tmp_path / "none.caffemodel"): "none.caffemodel: no such file",
        "random": "'random' has no file",
        "bvlc-caffenet": "weights fetch bvlc-caffenet",
    }.items():
        assert command.main(["weights", "check", name]) == 1
        assert message in capsys.readouterr().err


def test_a_file_altered_after_its_download_is_refused(made_up, tmp_path, monkeypatch):
    assert weights.where("made-up") == "here"
    monkeypatch.setitem(weights.SOURCES, "made-up", dataclasses.replace(made_up, checksum="sha1:" + "0" * 40))
    with pytest.raises(ValueError, match="expected sha1 0000"):
        weights.load_trunk("made-up")


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is POSIX's")
def test_without_a_home_folder_the_cache_is_one_clear_error(monkeypatch, capsys):
    for name in ("HOME", "DUALTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: (_ for _ in ()).throw(KeyError(user)))  # nor in the user list
    assert command.main(["weights", "list"]) == 0
    assert command.main(["weights", "check", "embedded"]) == 0
    assert command.main(["weights", "fetch", "bvlc-alexnet"]) == 1
    assert command.main(["weights", "check", "bvlc-alexnet"]) == 1
    assert capsys.readouterr().err.count("home folder") == 2


def test_torchvisions_enum_is_a_name(tmp_path, monkeypatch):
    enum, path = AlexNet_Weights.IMAGENET1K_V1, tmp_path / "alexnet-owt-7be5be79.pth"
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("DUALTL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="weights fetch torchvision-alexnet"):
        weights.load_trunk(enum)
    torch.save(_sequential(Trunk(caffenet.TORCHVISION_ALEXNET)), path)
    monkeypatch.setattr(download, "verify", lambda path, checksum: None)
    trunk = weights.load_trunk(enum)
    assert (trunk.name, trunk.transform) == ("torchvision-alexnet", weights.TORCHVISION_TRANSFORM)
    with pytest.raises(ValueError, match=r"ResNet18_Weights.IMAGENET1K_V1'"):
        weights.load_trunk(ResNet18_Weights.IMAGENET1K_V1)


def test_names_and_places(tmp_path):
    with pytest.raises(ValueError, match=r"'caffenet'.* embedded, .*\.caffemodel"):
        weights.load_trunk("caffenet")
    with pytest.raises(FileNotFoundError, match=r"none.caffemodel"):
        weights.load_trunk(tmp_path / "none.caffemodel")
    with pytest.raises(FileNotFoundError, match=f"{files.PROJECT}/mine.pth"):
        weights.load_trunk("mine.pth")
    (tmp_path / "dir.caffemodel").mkdir()
    with pytest.raises(ValueError, match=r"dir.caffemodel: expected a file, found a folder"):
        weights.load_trunk(tmp_path / "dir.caffemodel")
