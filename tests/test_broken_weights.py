"""Broken, foreign and hostile files of weights: one clear error, or what the file says; never a crash or a hang."""

import io
import json
import math
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from wire_formats import SMALL, blob, caffemodel, field, lively, numbers, onnx_model, refused

from dualtl_lib.models import store, weights
from dualtl_lib.models.caffenet import CAFFENET, ExpressionNet, Preprocessing, Trunk


@pytest.mark.parametrize("old", [True, False])
def test_broken_caffemodels(tmp_path, small, old):
    path, good = tmp_path / "broken.caffemodel", caffemodel(small, SMALL, old=old)
    path.write_bytes(good)
    assert weights.load_trunk(path).layers == SMALL
    refused(path, b"", "found 0 bytes")
    refused(path, good[: len(good) // 2], "cut off")
    refused(path, np.random.default_rng(0).bytes(1000), r"expected")
    refused(path, caffemodel(small, SMALL[:1], old=old), r"conv2's shape \[6, 2, 3, 3\], found conv1.weight")
    wrong = small | {"conv2.weight": np.zeros((6, 2, 5, 5), np.float32)}
    refused(path, caffemodel(wrong, SMALL, old=old), r"conv2.weight .*\[6, 2, 3, 3\], found \[6, 2, 5, 5\]")
    for value in (np.nan, np.inf):
        bad = small | {"conv1.bias": np.array([0, value, 0, 0], np.float32)}
        refused(path, caffemodel(bad, SMALL, old=old), "conv1.bias, found 1")
    moved = (SMALL[0]._replace(stride=2), SMALL[1])
    refused(path, caffemodel(small, moved, old=old), r"conv1 .*stride=\(1,\).*found .*stride=\(2,\)")
    refused(path, good + good[len(field(1, b"net")) :], "'conv1', found two")


def test_a_blob_whose_shape_and_numbers_differ(tmp_path, small):
    content = caffemodel(small, SMALL)
    honest = blob(small["conv1.bias"], old=False)
    assert content.count(honest) == 1
    lying = honest.replace(field(1, b"\x04"), field(1, b"\x05"))
    refused(tmp_path / "lying.caffemodel", content.replace(honest, lying), r"conv1.bias: expected \[5\] .*found 4")


@pytest.mark.parametrize("net", ["det1", "det2", "det3"])
def test_another_network(data_root, net):
    with pytest.raises(ValueError, match=rf"{net}.*\[96, 3, 11, 11\], found conv1.weight .*weights list"):
        weights.load_trunk(data_root / "caffemodel" / f"{net}.caffemodel")


def test_broken_onnx(tmp_path, small):
    path, good = tmp_path / "broken.onnx", onnx_model(small, SMALL)
    path.write_bytes(good)
    assert weights.load_trunk(path).order == "pool-norm"
    refused(path, good[:-10], "cut off")
    refused(path, good.replace(b"conv1_b_0", b"elsewhere", 1), "'conv1_b_0' of convolution 1.*none of that name")


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
    with pytest.raises(ValueError, match=r"alexnet.pth: .*(posix.system|something).*; nothing in it was run") as error:
        weights.load_trunk(path)
    assert not trace.exists() and "weights_only" not in str(error.value)  # torch's own text says how to run it
    _ = pickle.loads(path.read_bytes()) if writer == "pickle" else torch.load(path, weights_only=False)
    assert trace.exists()  # the trap does work


WHOLE = (torch.int8, torch.uint8, torch.bool)


@pytest.mark.filterwarnings("ignore")  # torch's, of tensors that it will no longer have
@pytest.mark.parametrize(
    ("endings", "make", "found"),
    [
        ("pth", lambda t: t.to_sparse(), r"torch.float32 \(torch.sparse_coo\)"),
        ("pth", lambda t: t.to("meta"), r"torch.float32 \(meta\)"),
        ("pth", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "torch.qint8"),
        ("pth", lambda t: t.to(torch.complex64), "torch.complex64"),
        *(("pth safetensors", lambda t, dtype=dtype: t.to(dtype), str(dtype)) for dtype in WHOLE),
        ("pth safetensors", lambda t: t[0, 0, 0, 0].clone(), r"\[\]"),
    ],
)
def test_tensors_of_another_kind(tmp_path, small, endings, make, found):
    state = {k: torch.from_numpy(v) for k, v in small.items()}
    state |= {"conv2.weight": make(state["conv2.weight"])}
    for ending in endings.split():
        path = tmp_path / f"odd.{ending}"
        torch.save(state, path) if ending == "pth" else save_file(state, path)
        refused(path, path.read_bytes(), rf"conv2.weight.*found {found}")


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
LAYERS = [
    *([LAYER | wrong] for wrong in ({"groups": 0}, {"maps": "4"}, {"padding": -1}, {"padding": 99}, {"pool": 1})),
    *([LAYER | wrong] for wrong in ({"name": 1}, {"paddi~g": 1}, {"groups": 3}, {"name": "conv1.x"})),
    *([LAYER] * 2, []),
]
TRANSFORMS = [{"mean": [1, 2]}, {"mean": 1}, {"std": [1, 1, 0]}, {"scale": math.nan}, {"scale": 10**400}, {"colour": 1}]


@pytest.mark.parametrize(
    "metadata",
    [
        {"layers": "12"},
        {"transform": "imagenet"},
        {"dualtl": "[1]"},
        {"dualtl": "[" * 100_000},
        {"order": "rgb"},
        {"dualtl": json.dumps({"source": 1, "order": [1]})},
        *({"dualtl": json.dumps({"layers": layers})} for layers in LAYERS),
        *({"dualtl": json.dumps({"transform": transform})} for transform in TRANSFORMS),
    ],
)
def test_metadata_of_another_kind(tmp_path, small, metadata):
    path = tmp_path / "foreign.safetensors"
    save_file({k: torch.from_numpy(v) for k, v in small.items()}, path, metadata=metadata)
    refused(path, path.read_bytes(), "expected .*, found|order")


def test_a_trained_model_of_whole_numbers(tmp_path):
    path = store.save_model(ExpressionNet(Trunk(SMALL), "ab"), tmp_path / "m.safetensors", dtype=torch.int8)
    with pytest.raises(ValueError, match=r"m.safetensors: expected floating-point numbers in .*found torch.int8"):
        store.load_model(path)


def test_trunks_and_models_are_distinguished(tmp_path):
    trunk = lively()
    model = store.save_model(ExpressionNet(trunk, "ab"), tmp_path / "model.safetensors")
    kept = store.save_model(trunk, tmp_path / "trunk.safetensors")
    with pytest.raises(ValueError, match=r"found a trained ExpressionNet; store.load_model"):
        weights.load_trunk(model)
    with pytest.raises(ValueError, match=r"found Trunk; weights.load_trunk"):
        store.load_model(kept)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="found a file without that mark"):
        store.load_model(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="give it another name"):
        store.save_model(trunk, kept, order="mine")


def test_a_full_disk_leaves_the_old_model(tmp_path):
    resource = pytest.importorskip("resource")
    path, limits = store.save_model(lively(), tmp_path / "m.safetensors"), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # larger files cannot be written
        with pytest.raises(OSError, match=r"m\.safetensors cannot be written"):
            store.save_model(lively(1), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, int]:
    """One flipped bit, changed byte, cut end, removed or inserted stretch, and where it is."""
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 20))
    flipped = bytes([content[at] ^ 1 << int(rng.integers(8))])
    changes = ((1, flipped), (1, rng.bytes(1)), (len(content), b""), (length, b""), (0, rng.bytes(length)))
    removed, inserted = changes[rng.integers(5)]
    return content[:at] + inserted + content[at + removed :], at


def survives(path, good: bytes, small: dict, mutations: int, exactly: bool) -> int:
    """How many mutations are refused; the others give a network, and where no stored number was touched, its numbers.

    exactly: whether they do that in this format, which does not let its header name other bytes of the file.
    """
    rng, refusals = np.random.default_rng(3), 0
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
            for value, expected in zip(state.values(), small.values(), strict=True):  # names may be mutated too
                np.testing.assert_array_equal(value, expected)
    return refusals


def kept(small: dict, kind: str) -> bytes:
    """The small network as a file of that kind."""
    state, file = {k: torch.from_numpy(v) for k, v in small.items()}, io.BytesIO()
    if kind.endswith("caffemodel"):
        return caffemodel(small, SMALL, ("ReLU", "LRN", "Pooling"), old=kind.startswith("old"))
    if kind == "onnx":
        return onnx_model(small, SMALL)
    if kind == "foreign safetensors":
        return save(state)
    if kind == "safetensors":
        own = {"kind": "Trunk", "layers": [l._asdict() for l in SMALL], "order": "pool-norm"}
        return save(state, {"dualtl": json.dumps(own | {"transform": Preprocessing()._asdict()})})
    torch.save(state, file, _use_new_zipfile_serialization=kind == "pth")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")  # torch's, of pickles
@pytest.mark.parametrize(
    ("kind", "mutations"),
    [
        *((kind, 1000) for kind in ("caffemodel", "old caffemodel")),
        *((kind, 300) for kind in ("onnx", "safetensors", "foreign safetensors", "pth", "old pth")),
    ],
)
def test_mutated_files(tmp_path, small, kind, mutations):
    path, exactly = tmp_path / f"mutated.{kind.split()[-1]}", kind.endswith(("safetensors", "caffemodel"))
    assert mutations / 5 < survives(path, kept(small, kind), small, mutations=mutations, exactly=exactly) < mutations


def test_real_shapes_survive_a_few_mutations(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "mutated.caffemodel"
    good = caffemodel(numbers(lively()), CAFFENET)
    for cut in rng.integers(1, len(good), 10):
        refused(path, good[:cut], "expected")
