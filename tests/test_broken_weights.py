"""Broken, foreign and hostile files of weights: one clear error, or what the file says; never a crash or a hang."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_weights import blob, caffemodel, field, lively, numbers, onnx_model

from dualtl_lib import weights
from dualtl_lib.caffenet import CAFFENET, ExpressionNet, Layer, Trunk

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
        weights.load(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("old", [True, False])
def test_broken_caffemodels(tmp_path, small, old):
    path, good = tmp_path / "broken.caffemodel", caffemodel(small, SMALL, old=old)
    path.write_bytes(good)
    assert weights.load(path).layers == SMALL
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
    refused(path, caffemodel(small, moved, old=old), r"conv1 with stride, padding and groups \(1, 0, 1\), found \(2,\)")
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
        weights.load(data_root / "caffemodel" / f"{net}.caffemodel")


def test_broken_onnx(tmp_path, small):
    path, good = tmp_path / "broken.onnx", onnx_model(small, SMALL, "pool-norm")
    path.write_bytes(good)
    assert weights.load(path).order == "pool-norm"
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
    with pytest.raises(
        ValueError, match=r"alexnet.pth: expected a PyTorch file of tensors only.*nothing in it was run"
    ):
        weights.load(path)
    assert not trace.exists()
    _ = pickle.loads(path.read_bytes()) if writer == "pickle" else torch.load(path, weights_only=False)
    assert trace.exists()  # the trap does work


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps({"a": 1})])
def test_broken_pth(tmp_path, content):
    refused(tmp_path / "broken.pth", content, "expected a")


def test_broken_safetensors(tmp_path, small):
    path = tmp_path / "broken.safetensors"
    refused(path, b"", "safetensors")
    refused(path, b"\xff" * 100, "safetensors")
    save_file({k: torch.from_numpy(v) for k, v in small.items()}, path)
    assert weights.load(path).layers == SMALL
    refused(path, path.read_bytes()[:-8], "safetensors")


def test_trunks_and_models_are_told_apart(tmp_path):
    trunk = lively()
    model = weights.save_model(ExpressionNet(trunk, "ab"), tmp_path / "model.safetensors")
    kept = weights.save_model(trunk, tmp_path / "trunk.safetensors")
    with pytest.raises(ValueError, match=r"found a trained ExpressionNet; weights.load_model"):
        weights.load(model)
    with pytest.raises(ValueError, match=r"found Trunk; weights.load reads"):
        weights.load_model(kept)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="found a file without that mark"):
        weights.load_model(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="give it another name"):
        weights.save_model(trunk, kept, order="mine")


def test_names_and_places(tmp_path):
    with pytest.raises(
        ValueError, match=r"no weights 'caffenet'; known names are embedded, .* known files .caffemodel"
    ):
        weights.load("caffenet")
    with pytest.raises(FileNotFoundError, match=r"none.caffemodel: no such file"):
        weights.load(tmp_path / "none.caffemodel")


def test_a_full_disk_leaves_the_old_model(tmp_path, monkeypatch):
    path = weights.save_model(lively(), tmp_path / "m.safetensors")
    before = path.read_bytes()

    def full(state, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        weights.save_model(lively(1), path)
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


@pytest.mark.parametrize("old", [True, False])
def test_two_thousand_mutated_caffemodels(tmp_path, small, old):
    """An error, or a network; where no stored number was touched, the network with the very numbers."""
    rng, path = np.random.default_rng(old), tmp_path / "mutated.caffemodel"
    good = caffemodel(small, SMALL, ("ReLU", "LRN", "Pooling"), old=old)
    spans = [(good.index(v.tobytes()), v.nbytes) for v in small.values()]
    refusals = 0
    for _ in range(2000):
        content, at = mutate(good, rng)
        path.write_bytes(content)
        try:
            state = numbers(weights.load(path))
        except ValueError as error:
            assert path.name in str(error)
            refusals += 1
            continue
        assert all(np.isfinite(v).all() for v in state.values())
        inside = any(start <= at < start + length for start, length in spans)
        if len(content) == len(good) and not inside:
            for key, value in state.items():
                np.testing.assert_array_equal(value, small[key])
    assert 400 < refusals < 2000


def test_real_shapes_survive_a_few_mutations(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "mutated.caffemodel"
    good = caffemodel(numbers(lively()), CAFFENET)
    for cut in rng.integers(1, len(good), 10):
        refused(path, good[:cut], "expected")
