"""Broken, foreign and hostile files of weights: one clear error, or what the file says; never a crash or a hang."""

import io
import json
import math
import os
import pickle
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from test_weights import blob, caffemodel, field, lively, numbers, onnx_model

from dualtl_lib.models import store, weights
from dualtl_lib.models.caffenet import CAFFENET, ExpressionNet, Layer, Preprocessing, Trunk

SMALL = (  # small enough to be read thousands of times
    Layer("conv1", 4, 3, norm=True, pool=True),
    Layer("conv2", 6, 3, groups=2, padding=1),
)


@pytest.fixture
def small(monkeypatch) -> dict[str, np.ndarray]:
    """Weights of a small network, which stands in CaffeNet's place."""
    monkeypatch.setattr(weights, "CAFFENET", SMALL)
    trunk, generator = Trunk(SMALL), torch.Generator().manual_seed(0)
    for p in trunk.parameters():
        torch.nn.init.normal_(p, generator=generator)
    return numbers(trunk)


def refused(path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        weights.load_trunk(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("old", [True, False])
def test_broken_caffemodels(tmp_path, small, old):
    path, good = tmp_path / "broken.caffemodel", caffemodel(small, SMALL, old=old)
    path.write_bytes(good)
    assert weights.load_trunk(path).layers == SMALL
    refused(path, b"", "found 0 bytes")
    refused(path, good[: len(good) // 2], "cut off")
    refused(path, np.random.default_rng(0).bytes(1000), r"expected")
    refused(path, caffemodel(small, SMALL[:1], old=old), r"expected conv2.weight \[6, 2, 3, 3\].*found conv1.weight")
    wrong = small | {"conv2.weight": np.zeros((6, 2, 5, 5), np.float32)}
    refused(path, caffemodel(wrong, SMALL, old=old), r"shape \[6, 2, 3, 3\], found \[6, 2, 5, 5\]")
    for value in (np.nan, np.inf):
        bad = small | {"conv1.bias": np.array([0, value, 0, 0], np.float32)}
        refused(path, caffemodel(bad, SMALL, old=old), "finite numbers in conv1.bias, found 1")
    moved = (SMALL[0]._replace(stride=2), SMALL[1])
    refused(path, caffemodel(small, moved, old=old), "padding, groups and dilation 1, 0, 1 and 1, found 2, 0, 1 and 1")
    refused(path, good + good[len(field(1, b"net")) :], "one layer 'conv1', found two")


def test_a_blob_whose_shape_and_numbers_differ(tmp_path, small):
    content = caffemodel(small, SMALL)
    honest = blob(small["conv1.bias"], old=False)
    assert content.count(honest) == 1
    lying = honest.replace(field(1, b"\x04"), field(1, b"\x05"))
    refused(tmp_path / "lying.caffemodel", content.replace(honest, lying), r"expected \[5\] numbers, found 4")


@pytest.mark.parametrize("net", ["det1", "det2", "det3"])
def test_another_network(data_root, net):
    with pytest.raises(ValueError, match=rf"{net}.*conv1.weight of shape \[96, 3, 11, 11\].*another network"):
        weights.load_trunk(data_root / "caffemodel" / f"{net}.caffemodel")


def test_strides_for_each_direction_and_dilation_are_read(tmp_path, small):
    """Caffe's other way to say them; a dilated convolution is another network's."""
    path = tmp_path / "net.caffemodel"

    def each(layer, stride=1, dilation=1):
        pads = [(9, layer.padding), (10, layer.padding)]
        return [*pads, (5, layer.groups), (13, layer.stride), (14, layer.stride * stride), (18, dilation)]

    path.write_bytes(caffemodel(small, SMALL, moves=each))
    assert weights.load_trunk(path).layers == SMALL
    refused(path, caffemodel(small, SMALL, moves=lambda l: each(l, stride=2)), r"found 1 x 2, 0, 1 and 1")
    refused(
        path, caffemodel(small, SMALL, moves=lambda l: each(l, dilation=2)), r"dilation 1, 0, 1 and 1, found .* and 2"
    )


def test_broken_onnx(tmp_path, small):
    path, good = tmp_path / "broken.onnx", onnx_model(small, SMALL, "pool-norm")
    path.write_bytes(good)
    assert weights.load_trunk(path).order == "pool-norm"
    refused(path, good[:-10], "cut off")
    refused(path, good.replace(b"conv1_b_0", b"elsewhere", 1), "'elsewhere' of convolution 1 is not in the file")
    refused(path, good.replace(field(2, 1) + field(8, b"conv2_w_0"), field(2, 3) + field(8, b"conv2_w_0")), "quantized")


class Harm:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_with_code_is_not_run(tmp_path, writer):
    path, trace = tmp_path / "alexnet.pth", tmp_path / "ran"
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": Harm(trace)}))
    else:
        torch.save({"conv1.weight": Harm(trace)}, path)
    expected = r"alexnet.pth: expected a PyTorch file of tensors only.*nothing in it was run"
    with pytest.raises(ValueError, match=expected) as told:
        weights.load_trunk(path)
    assert not trace.exists() and "weights_only" not in str(told.value)  # torch's own text says how to run it
    _ = pickle.loads(path.read_bytes()) if writer == "pickle" else torch.load(path, weights_only=False)
    assert trace.exists()  # the trap does work


@pytest.mark.parametrize("key", ["model", "model_state_dict", "state_dict"])
def test_a_checkpoint_with_one_network_in_it(tmp_path, small, key):
    path = tmp_path / "checkpoint.pth"
    state = {k: torch.from_numpy(v) for k, v in small.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": []}
    torch.save({"epoch": 3, key: state, "optimizer": optimizer, "mean": torch.zeros(3)}, path)
    assert torch.equal(weights.load_trunk(path).conv2.weight, state["conv2.weight"])
    torch.save({"epoch": 3, key: state, "ema": state}, path)
    refused(path, path.read_bytes(), rf"found 2 inside and the keys epoch, {key}, ema; save the network's alone")
    torch.save({"epoch": 3, "optimizer": optimizer}, path)
    refused(path, path.read_bytes(), "found 0 inside and the keys epoch, optimizer; save the network's alone")


@pytest.mark.filterwarnings("ignore")  # torch's, of tensors that it will no longer have
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda t: t.to_sparse(), r"torch.float32 \(torch.sparse_coo\)"),
        (lambda t: t.to("meta"), r"torch.float32 \(meta\)"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "torch.qint8"),
        (lambda t: t.to(torch.int8), "torch.int8"),
        (lambda t: t.to(torch.complex64), "torch.complex64"),
    ],
)
def test_numbers_that_are_not_plainly_there(tmp_path, small, make, found):
    path, state = tmp_path / "odd.pth", {k: torch.from_numpy(v) for k, v in small.items()}
    torch.save(state | {"conv2.weight": make(state["conv2.weight"])}, path)
    refused(path, path.read_bytes(), rf"expected floating-point numbers in conv2.weight, found {found}")


def test_a_number_where_a_tensor_should_be(tmp_path, small):
    path, state = tmp_path / "odd.pth", {k: torch.from_numpy(v) for k, v in small.items()}
    torch.save(state | {"conv1.weight": torch.tensor(1.0)}, path)
    refused(path, path.read_bytes(), r"conv1.weight of shape \[4, 3, 3, 3\], found \[\]")


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps({"a": 1})])
def test_broken_pth(tmp_path, content):
    refused(tmp_path / "broken.pth", content, "expected a")


def test_broken_safetensors(tmp_path, small):
    path = tmp_path / "broken.safetensors"
    refused(path, b"", "safetensors")
    refused(path, b"\xff" * 100, "safetensors")
    save_file({k: torch.from_numpy(v) for k, v in small.items()}, path)
    assert weights.load_trunk(path).layers == SMALL
    refused(path, path.read_bytes()[:-8], "safetensors")


LAYER = SMALL[0]._asdict()


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"layers": "12"}, "found others under 'layers' or 'transform'"),
        ({"transform": "imagenet"}, "found others under 'layers' or 'transform'"),
        ({"dualtl": "[1]"}, r"expected names and values as metadata, found \[1\]"),
        ({"dualtl": "[" * 100_000}, "metadata cannot be read"),
        ({"order": "rgb"}, "order: .*'rgb'"),
        ({"dualtl": json.dumps({"source": 1, "order": [1]})}, r"order: .*\[1\]"),
        *(
            ({"dualtl": json.dumps({"layers": [LAYER | wrong]})}, "cannot be|unexpected keyword|padding=")
            for wrong in (
                {"groups": 0},
                {"maps": "4"},
                {"padding": -1},
                {"padding": 99},
                {"pool": 1},
                {"name": 1},
                {"paddi~g": 1},
            )
        ),
        *(
            ({"dualtl": json.dumps({"transform": wrong})}, "cannot be|under 'layers' or 'transform'")
            for wrong in ({"colour": "RBG"}, {"mean": [1, 2]}, {"std": [1, 1, 0]}, {"scale": math.nan}, {"mean": 1})
        ),
        ({"dualtl": json.dumps({"transform": {"scale": 10**400}})}, "under 'layers' or 'transform'"),
        ({"dualtl": json.dumps({"layers": [LAYER | {"groups": 3, "maps": 4}]})}, "conv1.weight of shape|divisible"),
        ({"dualtl": json.dumps({"layers": [LAYER, LAYER]})}, "no layers, or two of one name"),
        ({"dualtl": json.dumps({"layers": []})}, "no layers, or two of one name"),
        ({"dualtl": json.dumps({"layers": [LAYER | {"name": "conv1.x"}]})}, "conv1.x.weight"),
    ],
)
def test_metadata_of_another_kind(tmp_path, small, said, match):
    path = tmp_path / "foreign.safetensors"
    save_file({k: torch.from_numpy(v) for k, v in small.items()}, path, metadata=said)
    refused(path, path.read_bytes(), match)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_safetensors_of_whole_numbers(tmp_path, small, dtype):
    path = tmp_path / "quantized.safetensors"
    save_file({k: torch.from_numpy(v).to(dtype) for k, v in small.items()}, path)
    refused(path, path.read_bytes(), f"expected floating-point numbers in conv1.weight, found {dtype}")


def test_a_trained_model_of_whole_numbers(tmp_path):
    path = store.save_model(ExpressionNet(Trunk(SMALL), "ab"), tmp_path / "m.safetensors", dtype=torch.int8)
    with pytest.raises(ValueError, match=r"m.safetensors: expected floating-point numbers in .*found torch.int8"):
        store.load_model(path)


def test_trunks_and_models_are_told_apart(tmp_path):
    trunk = lively()
    model = store.save_model(ExpressionNet(trunk, "ab"), tmp_path / "model.safetensors")
    kept = store.save_model(trunk, tmp_path / "trunk.safetensors")
    with pytest.raises(ValueError, match=r"found a trained ExpressionNet; store.load_model"):
        weights.load_trunk(model)
    with pytest.raises(ValueError, match=r"found Trunk; weights.load_trunk reads"):
        store.load_model(kept)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="found a file without that mark"):
        store.load_model(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="give it another name"):
        store.save_model(trunk, kept, order="mine")


def test_names_and_places(tmp_path):
    with pytest.raises(
        ValueError, match=r"no weights 'caffenet'; known names are embedded, .* known files .caffemodel"
    ):
        weights.load_trunk("caffenet")
    with pytest.raises(FileNotFoundError, match=r"none.caffemodel: no such file"):
        weights.load_trunk(tmp_path / "none.caffemodel")
    (tmp_path / "dir.caffemodel").mkdir()
    with pytest.raises(ValueError, match=r"dir.caffemodel: expected a file, found a folder"):
        weights.load_trunk(tmp_path / "dir.caffemodel")
    with pytest.raises(ValueError, match=r"no weights 'AlexNet_Weights.IMAGENET1K_V2'; known names"):
        weights.load_trunk("AlexNet_Weights.IMAGENET1K_V2")


def test_a_full_disk_leaves_the_old_model(tmp_path):
    path, limits = store.save_model(lively(), tmp_path / "m.safetensors"), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # larger files cannot be written
        with pytest.raises(OSError, match=r"m\.safetensors cannot be written .*: make room"):
            store.save_model(lively(1), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, int]:
    """One flipped bit, changed byte, cut end, removed or inserted stretch, and where it is."""
    kind, at = rng.integers(5), int(rng.integers(len(content)))
    length = int(rng.integers(1, 20))
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :], at
    if kind == 1:
        return content[:at] + rng.bytes(1) + content[at + 1 :], at
    if kind == 2:
        return content[:at], at
    if kind == 3:
        return content[:at] + content[at + length :], at
    return content[:at] + rng.bytes(length) + content[at:], at


def survives(path, good: bytes, small: dict, seed: int, mutations: int, exactly: bool = True) -> int:
    """How many mutations are refused; the others give a network, and where no stored number was touched, its numbers.

    exactly: whether they do that in this format, which does not let its header name other bytes of the file.
    """
    rng, refusals = np.random.default_rng(seed), 0
    spans = [(good.index(v.tobytes()), v.nbytes) for v in small.values()]
    for _ in range(mutations):
        content, at = mutate(good, rng)
        path.write_bytes(content)
        try:
            state = numbers(weights.load_trunk(path))
        except ValueError as error:
            assert path.name in str(error)
            refusals += 1
            continue
        assert all(np.isfinite(v).all() for v in state.values())
        inside = any(start <= at < start + length for start, length in spans)
        if exactly and len(content) == len(good) and not inside:
            for key, value in state.items():
                np.testing.assert_array_equal(value, small[key])
    return refusals


@pytest.mark.parametrize("old", [True, False])
def test_two_thousand_mutated_caffemodels(tmp_path, small, old):
    good = caffemodel(small, SMALL, ("ReLU", "LRN", "Pooling"), old=old)
    assert 400 < survives(tmp_path / "mutated.caffemodel", good, small, old, 2000) < 2000


def kept(small: dict, kind: str) -> bytes:
    """The small network as a file of that kind."""
    state, file = {k: torch.from_numpy(v) for k, v in small.items()}, io.BytesIO()
    if kind == "onnx":
        return onnx_model(small, SMALL, "pool-norm")
    if kind == "foreign safetensors":
        return save(state)
    if kind == "safetensors":
        own = {"kind": "Trunk", "layers": [l._asdict() for l in SMALL], "order": "pool-norm"}
        return save(state, {"dualtl": json.dumps(own | {"transform": Preprocessing()._asdict()})})
    torch.save(state, file, _use_new_zipfile_serialization=kind == "pth")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")  # torch's, of pickles
@pytest.mark.parametrize("kind", ["onnx", "safetensors", "foreign safetensors", "pth", "old pth"])
def test_three_hundred_mutated_files_of_other_kinds(tmp_path, small, kind):
    path = tmp_path / f"mutated.{kind.split()[-1]}"
    refusals = survives(path, kept(small, kind), small, 3, 300, exactly=kind.endswith("safetensors"))
    assert 100 < refusals < 300


def test_real_shapes_survive_a_few_mutations(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "mutated.caffemodel"
    good = caffemodel(numbers(lively()), CAFFENET)
    for cut in rng.integers(1, len(good), 10):
        refused(path, good[:cut], "expected")
