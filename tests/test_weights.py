"""Weights: our network equals OpenCV's reading of the same Caffe files; sources, saved models, downloads."""

import dataclasses
import errno
import fcntl
import hashlib
import os
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torchvision.models import AlexNet_Weights, ResNet18_Weights, alexnet

from dualtl_lib import cli as command
from dualtl_lib import config, files
from dualtl_lib.models import caffenet, download, store, weights
from dualtl_lib.models.caffenet import CAFFENET, AttributeNet, ExpressionNet, Trunk

# --- Caffe's and ONNX's wire format, written by hand so that the readers are not tested against themselves


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array: np.ndarray, old: bool, double: bool = False) -> bytes:
    """A BlobProto: num, channels, height and width, or a shape."""
    sides = (1,) * (4 - array.ndim) + array.shape
    shape = b"".join(field(i, s) for i, s in enumerate(sides, 1))
    if not old:
        shape = field(7, field(1, b"".join(varint(s) for s in array.shape)))
    return shape + (field(8, array.astype("<f8").tobytes()) if double else field(5, array.astype("<f4").tobytes()))


V1 = {"Convolution": 4, "LRN": 15, "Pooling": 17, "ReLU": 18}


def caffemodel(state: dict, layers, steps=(), old: bool = False, name: str = "net", double: bool = False, moves=None):
    """A NetParameter with these weights, as bytes; steps are the types that follow conv1, moves the fields that say
    how a layer's convolution moves."""
    out = field(1, name.encode())
    for layer in layers:
        blobs = [state[f"{layer.name}.weight"], state[f"{layer.name}.bias"]]
        said = [(3, layer.padding), (5, layer.groups), (6, layer.stride)] if moves is None else moves(layer)
        parameters = b"".join(field(n, v) for n, v in said)
        for kind, title in [("Convolution", layer.name), *((s, f"{s}1") for s in steps if layer is layers[0])]:
            convolution = kind == "Convolution"
            if old:
                body = field(4, title.encode()) + field(5, V1[kind])
                body += b"".join(field(6, blob(b, True, double)) for b in blobs if convolution)
                body += field(10, parameters) if convolution else b""
            else:
                body = field(1, title.encode()) + field(2, kind.encode())
                body += b"".join(field(7, blob(b, False, double)) for b in blobs if convolution)
                body += field(106, parameters) if convolution else b""
            out += field(2 if old else 100, body)
    return out


def onnx_model(state: dict, layers, order: str) -> bytes:
    """A ModelProto with these convolutions, each followed by what follows it."""
    graph = b""
    for layer in layers:
        names = [f"{layer.name}_w_0".encode(), f"{layer.name}_b_0".encode()]
        said = {"group": [layer.groups], "strides": [layer.stride] * 2, "pads": [layer.padding] * 4}
        attributes = b"".join(
            field(5, field(1, k.encode()) + (field(3, v[0]) if k == "group" else b"".join(field(8, i) for i in v)))
            for k, v in said.items()
        )
        graph += field(1, field(1, b"x") + b"".join(field(1, n) for n in names) + field(4, b"Conv") + attributes)
        kinds = [b"MaxPool"] * layer.pool + [b"LRN"] * layer.norm
        for kind in kinds if order == "pool-norm" else kinds[::-1]:
            graph += field(1, field(4, kind))
        for title, key in zip(names, ("weight", "bias"), strict=True):
            array = state[f"{layer.name}.{key}"].astype("<f4")
            dims = b"".join(field(1, s) for s in array.shape)
            graph += field(5, dims + field(2, 1) + field(8, title) + field(9, array.tobytes()))
    return field(7, graph)


def numbers(trunk: Trunk) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in trunk.state_dict().items()}


def lively(seed: int = 0, order: str = "pool-norm") -> Trunk:
    """Random weights large enough that normalization matters."""
    trunk = weights.load_trunk("random", order=order, seed=seed)
    for layer in CAFFENET:
        trunk.get_submodule(layer.name).weight.data.mul_(4)
    return trunk


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
        found[f"relu{n}"] = x = trunk.relu(x)
        steps = [("pool", trunk.pool)] * layer.pool + [("norm", trunk.norm)] * layer.norm
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
    features.load_state_dict({k.removeprefix("features."): v for k, v in _features(trunk).items()}, assign=True)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))  # its own size; pooling rounds nothing
    torch.testing.assert_close(trunk(x), features(x), rtol=1e-4, atol=1e-5)


def _features(trunk: Trunk) -> dict:
    number = {layer: name for name, layer in weights.FEATURES.items()}
    return {f"{number[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in trunk.state_dict().items()}


def test_torchvisions_transform_is_its_enums():
    picture = torch.randint(0, 256, (1, 3, 227, 227), dtype=torch.uint8)
    enum = AlexNet_Weights.IMAGENET1K_V1
    theirs = enum.transforms(crop_size=227, resize_size=227)(picture)
    torch.testing.assert_close(weights.TORCHVISION_TRANSFORM(picture), theirs, rtol=1e-5, atol=1e-5)
    assert weights.SOURCES["torchvision-alexnet"].url == enum.url


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("old", [True, False])
def test_order_is_told_by_layers_then_name_then_default(tmp_path, old, double):
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
    state, path = _features(Trunk(caffenet.TORCHVISION_ALEXNET)), tmp_path / "alexnet.pth"
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


def test_data_root_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"DUALTL_DATA=.*make … DATA="):
        files.expand("$DATA/celeba")
    monkeypatch.setenv("DUALTL_DATA", str(tmp_path))
    assert files.expand("$DATA/celeba") == tmp_path.resolve() / "celeba"


@pytest.mark.parametrize("folder", ["notebooks", "."])
def test_a_configs_paths_are_the_same_from_every_folder(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(config, "HOME", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand("faces/mine") == tmp_path / "faces" / "mine"
    assert files.expand("~/mine") == Path("/home/me/mine")
    for given, found in {"faces": tmp_path / "faces", "~/faces": Path("/home/me/faces")}.items():
        monkeypatch.setenv("DUALTL_DATA", given)
        monkeypatch.setenv("DUALTL_CACHE", given)
        assert files.cache_dir() == found
        if found.exists():
            assert files.data_root() == found.resolve()
    with pytest.raises(FileNotFoundError, match=r"no data folder at /home/me/faces"):
        files.data_root()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/mine.pth: no such file"):
        weights.load_trunk("mine.pth")


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


# --- the command line and downloads


class Server(BaseHTTPRequestHandler):
    """Serves `content`; `mode` says how badly."""

    content, mode, requests = b"", "whole", ()

    def do_GET(self):
        cls = type(self)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if cls.mode != "no resuming" else 0
        cls.requests += (start,)
        if cls.mode == "missing":
            self.send_error(404)
            return
        if start >= len(cls.content):
            self.send_error(416)
            return
        body = b"<html>sign in" if cls.mode == "portal" else cls.content[start:]
        self.send_response(206 if start and cls.mode != "portal" else 200)
        self.send_header("Content-Length", "many" if cls.mode == "misnumbers" else str(len(body)))
        self.end_headers()
        if cls.mode == "hangs up":
            return
        if cls.mode == "slow":
            for i in range(0, len(body), len(body) // 4):
                self.wfile.write(body[i : i + len(body) // 4])
                self.wfile.flush()
                self.server.pause.wait(0.05)
        elif cls.mode in ("cut", "no resuming") and len(cls.requests) == 1:
            self.wfile.write(body[: len(body) // 3])
        elif cls.mode == "stalls" and len(cls.requests) == 1:
            self.wfile.write(body[: len(body) // 3])
            self.wfile.flush()
            self.server.pause.wait(2)
        else:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A source 'made-up' behind a server on this machine, and an empty cache; gives the server's class."""

    class Mine(Server):
        content = np.random.default_rng(0).bytes(1_000_000)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    server.pause = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    source = weights.Source(
        "made up",
        "pool-norm",
        "none",
        file="made_up.caffemodel",
        url=f"http://127.0.0.1:{server.server_port}/made_up.caffemodel",
        checksum="sha1:" + hashlib.sha1(Mine.content).hexdigest(),
        size=len(Mine.content),
    )
    monkeypatch.setitem(weights.SOURCES, "made-up", source)
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setattr(download, "PAUSE", 0.001)
    yield Mine
    server.pause.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def part(tmp_path, served):
    """What an earlier fetch has left: the first 1,000 bytes."""
    path = tmp_path / "cache" / ".made_up.caffemodel.part"
    path.parent.mkdir()
    path.write_bytes(served.content[:1000])
    return path


def left(tmp_path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("mode", ["whole", "slow", "misnumbers", "cut", "no resuming", "stalls"])
def test_fetch_ends_with_the_whole_file(served, tmp_path, mode):
    served.mode = mode
    path = weights.fetch("made-up")
    assert path.read_bytes() == served.content
    assert left(tmp_path) == ["made_up.caffemodel"]
    assert len(served.requests) == (1 if mode in ("whole", "slow", "misnumbers") else 2)
    assert (max(served.requests) > 0) == (mode in ("cut", "stalls"))  # resumed, where the server can
    weights.fetch("made-up")
    assert len(served.requests) == (1 if mode in ("whole", "slow", "misnumbers") else 2)  # nothing fetched again


def test_fetch_goes_on_in_a_later_call(served, part, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    served.mode = "hangs up"
    with pytest.raises(ConnectionError, match=r"1,000 bytes are kept .* goes on from there"):
        weights.fetch("made-up")
    assert left(tmp_path) == [part.name]
    served.mode = "whole"
    assert weights.fetch("made-up").read_bytes() == served.content
    assert served.requests[-1] == 1000


def test_fetch_refuses_a_wrong_checksum_and_keeps_nothing(served, tmp_path):
    served.content = served.content[:-1] + b"?"
    with pytest.raises(
        ValueError, match=r"/made_up.caffemodel: expected sha1 \w+, found \w+; nothing was kept: .*--url"
    ):
        weights.fetch("made-up")
    assert left(tmp_path) == []


def test_fetch_into_a_folder_that_cannot_be_written_names_the_way_out(served, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(OSError, match=r"cannot write there .*DUALTL_CACHE"):
        weights.fetch("made-up")
    assert not served.requests


@pytest.mark.parametrize(
    "url", ["dl.caffe.org/m.caffemodel", "http://127.0.0.1:9/é", "http://127.0.0.1:x/m", "http://[::1/m", "http://a b/"]
)
def test_fetch_keeps_what_it_has_when_the_url_is_none(served, part, url):
    with pytest.raises(ValueError, match=r"expected an address such as https://host/file, found '") as error:
        weights.fetch("made-up", url)
    assert url in str(error.value)
    assert part.read_bytes() == served.content[:1000]


def test_fetch_keeps_what_it_has_from_a_sign_in_page(served, part):
    served.mode = "portal"
    with pytest.raises(
        ConnectionError, match=r"expected a file of 1,000,000 bytes, the server offers 13;.*1,000 bytes"
    ):
        weights.fetch("made-up")
    assert part.read_bytes() == served.content[:1000]
    served.mode = "whole"
    assert weights.fetch("made-up").read_bytes() == served.content
    assert served.requests[-1] == 1000


def test_fetch_pauses_longer_and_longer(served, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "PAUSE", 1)
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(ConnectionError, match="refused"):
            weights.fetch("made-up", url)
    assert pauses == [0, 1, 2, 3, 4]


def test_fetch_needs_room_for_what_is_missing(served, part, monkeypatch):
    def usage(path):
        return SimpleNamespace(free=free)

    monkeypatch.setattr(download.shutil, "disk_usage", usage)
    free = len(served.content) - 1001
    with pytest.raises(OSError, match=r"cache: 999,000 bytes are needed, 998,999 are free"):
        weights.fetch("made-up")
    assert part.read_bytes() == served.content[:1000] and not served.requests
    free += 1
    assert weights.fetch("made-up").read_bytes() == served.content


def test_a_disk_that_fills_up_keeps_nothing(served, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(OSError, match=r"cache: the disk is full; nothing was kept of made_up.caffemodel"):
        weights.fetch("made-up")
    assert left(tmp_path) == []


def test_two_processes_do_not_fetch_the_same_file(served, part):
    with open(part) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"part: another process is fetching this file; wait for it"):
            weights.fetch("made-up")
    assert part.read_bytes() == served.content[:1000] and not served.requests
    assert weights.fetch("made-up").read_bytes() == served.content


def test_fetch_of_what_is_not_there(served, tmp_path):
    served.mode = "missing"
    with pytest.raises(ConnectionError, match="404"):
        weights.fetch("made-up")
    with pytest.raises(ValueError, match="nothing to fetch; there are bvlc-caffenet"):
        weights.fetch("embedded")


def test_a_source_that_is_not_here_says_how_to_get_it(served):
    with pytest.raises(FileNotFoundError, match="weights fetch made-up"):
        weights.load_trunk("made-up")


def test_a_file_altered_after_its_download_is_refused(served):
    path = weights.fetch("made-up")
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="expected sha1"):
        weights.load_trunk("made-up")


def test_the_command_line(served, tmp_path, capsys):
    assert command.main(["weights", "fetch", "made-up"]) == 0
    assert command.main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in weights.SOURCES)
    path = tmp_path / "AlexNet.caffemodel"
    path.write_bytes(caffemodel(numbers(lively()), CAFFENET, ("LRN", "Pooling")))
    assert command.main(["weights", "check", str(path)]) == 0
    assert "norm-pool, as its layers told" in capsys.readouterr().out
    assert command.main(["weights", "check", str(tmp_path / "none.caffemodel")]) == 1
    assert "none.caffemodel: no such file" in capsys.readouterr().err


def test_check_takes_a_sources_name(served, capsys):
    served.content = caffemodel(numbers(lively()), CAFFENET, ("LRN", "Pooling"))
    source = dataclasses.replace(
        weights.SOURCES["made-up"],
        checksum="sha1:" + hashlib.sha1(served.content).hexdigest(),
        size=len(served.content),
    )
    weights.SOURCES["made-up"] = source  # which the fixture takes away again
    assert command.main(["weights", "check", "made-up"]) == 1
    assert "weights fetch made-up" in capsys.readouterr().err
    weights.fetch("made-up")
    assert command.main(["weights", "check", "made-up"]) == 0
    printed = capsys.readouterr().out
    assert "made_up.caffemodel" in printed and "pool-norm, as `weights list` has it" in printed
    assert command.main(["weights", "check", "embedded"]) == 0
    assert command.main(["weights", "check", "random"]) == 1
    assert "'random' is no file" in capsys.readouterr().err


def test_torchvisions_enum_is_a_name(tmp_path, monkeypatch):
    enum, path = AlexNet_Weights.IMAGENET1K_V1, tmp_path / "alexnet-owt-7be5be79.pth"
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("DUALTL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="weights fetch torchvision-alexnet"):
        weights.load_trunk(enum)
    torch.save(_features(Trunk(caffenet.TORCHVISION_ALEXNET)), path)
    monkeypatch.setattr(download, "verify", lambda path, checksum: None)
    trunk = weights.load_trunk(enum)
    assert (trunk.name, trunk.transform) == ("torchvision-alexnet", weights.TORCHVISION_TRANSFORM)
    with pytest.raises(ValueError, match=r"no weights 'ResNet18_Weights.IMAGENET1K_V1'; known names are embedded"):
        weights.load_trunk(ResNet18_Weights.IMAGENET1K_V1)


def test_the_hand_written_wire_format_is_protobufs():
    assert field(1, 300) == b"\x08\xac\x02"  # the encoding guide's example
    assert struct.unpack("<f", field(5, np.float32(1).tobytes())[2:]) == (1.0,)
