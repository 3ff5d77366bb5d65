"""Spellings of the same weights: each is read, or the error names the spelling that is not."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from wire_formats import (
    ENCODINGS,
    SMALL,
    attribute,
    caffemodel,
    field,
    initializer,
    node,
    numbers,
    onnx_model,
    refused,
    tensor,
    varint,
)

from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import ExpressionNet, Trunk


def assert_holds(path, expected: dict, content: bytes | None = None) -> None:
    """The file gives these numbers, to the bit."""
    if content is not None:
        path.write_bytes(content)
    for key, value in numbers(weights.load_trunk(path)).items():
        np.testing.assert_array_equal(value, expected[key])


# --- names of tensors

PREFIXES = ("module.", "model.", "_orig_mod.", "trunk.", "backbone.", "_orig_mod.module.")
NAMES = [
    *((f"{prefix}conv1", f"{prefix}conv2") for prefix in PREFIXES),
    *(("features.0", "features.3"), ("features.module.0", "features.module.3")),
    *(("module.features.0", "module.features.3"), ("0", "10"), ("stem.0.conv", "body.0.0")),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_names_that_wrappers_make(tmp_path, small, names, ending):
    path, new = tmp_path / f"wrapped.{ending}", dict(zip(("conv1", "conv2"), names, strict=True))
    state = {f"{new[k.split('.')[0]]}.{k.split('.')[1]}": torch.from_numpy(v) for k, v in small.items()}
    state["head.fc.weight"] = torch.zeros(2, 6)
    torch.save(state, path) if ending == "pth" else save_file(state, path)
    assert_holds(path, small)


def test_a_whole_model_gives_its_trunk(tmp_path, small):
    model = ExpressionNet(Trunk(SMALL), "ab")
    torch.save(torch.nn.DataParallel(model).state_dict(), tmp_path / "model.pth")
    assert_holds(tmp_path / "model.pth", numbers(model.trunk))


@pytest.mark.parametrize("outer", ["model", "model_state_dict", "state_dict", "net.trunk"])
def test_a_checkpoint_with_one_network_in_it(tmp_path, small, outer):
    path, state = tmp_path / "checkpoint.pth", {f"module.{k}": torch.from_numpy(v) for k, v in small.items()}
    nested = state
    for key in reversed(outer.split(".")):
        nested = {key: nested}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(4, 3, 3, 3)}}, "param_groups": []}
    torch.save({"epoch": 3, "optimizer": optimizer, "mean": torch.zeros(3)} | nested, path)
    assert_holds(path, small)
    torch.save({"epoch": 3, "ema": state} | nested, path)
    refused(path, path.read_bytes(), rf"found ema.module.conv1, {outer}.module.conv1; save one network alone")
    torch.save({"epoch": 3, "optimizer": optimizer}, path)
    refused(path, path.read_bytes(), r"named \*.weight .*found optimizer.state.0.momentum_buffer")


@pytest.mark.parametrize("name", ["weight_orig", "weight_v", "parametrizations.weight.original0", "weight_packed"])
def test_an_unknown_name_is_named(tmp_path, small, name):
    path = tmp_path / "pruned.safetensors"
    state = {k.replace("1.weight", f"1.{name}"): torch.from_numpy(v) for k, v in small.items()}
    save_file(state, path)
    refused(path, path.read_bytes(), re.escape(f"conv1.{name} [4, 3, 3, 3]"))


# --- Caffe


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("rename", [str.upper, lambda n: f"{n}/11x11_s4", lambda n: f"{n}_finetuned"])
def test_renamed_caffe_layers(tmp_path, small, old, rename):
    content = caffemodel(small, SMALL, ("Pooling", "LRN"), old=old, rename=rename)
    assert_holds(tmp_path / "renamed.caffemodel", small, content)


def test_a_caffemodel_with_layers_in_both_forms(tmp_path, small):
    content = caffemodel(small, SMALL[:1], old=True) + caffemodel(small, SMALL[1:], old=False)
    assert_holds(tmp_path / "both.caffemodel", small, content)


def test_caffes_numbers_for_each_direction(tmp_path, small):
    """kernel_h and kernel_w, pad_h, stride_w and so on; a dilated convolution is another network's."""
    path = tmp_path / "net.caffemodel"

    def each(layer, stride=1, dilation=1):
        pads = [(9, layer.padding), (10, layer.padding), (11, layer.kernel), (12, layer.kernel)]
        return [*pads, (5, layer.groups), (13, layer.stride), (14, layer.stride * stride), (18, dilation)]

    assert_holds(path, small, caffemodel(small, SMALL, geometry=each))
    refused(path, caffemodel(small, SMALL, geometry=lambda l: each(l, stride=2)), r"found .*stride=\(1, 2\)")
    refused(path, caffemodel(small, SMALL, geometry=lambda l: each(l, dilation=2)), r"found .*dilation=\(2,\)")


def test_caffe_forms_that_are_not_read(tmp_path):
    path, convolution = tmp_path / "net.caffemodel", field(1, b"conv1") + field(2, b"Convolution")
    refused(path, field(2, field(1, field(1, b"conv1") + field(2, b"conv"))), "V0")
    half_blob = field(7, field(12, b"\0\0") + field(7, field(1, b"\1")))
    refused(path, field(100, convolution + half_blob), "conv1.weight: .*raw_data")


# --- ONNX


def rounded(state: dict, dtype: torch.dtype) -> dict:
    return {k: torch.from_numpy(v).to(dtype).float().numpy() for k, v in state.items()}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_onnx_numbers_in_every_floating_point_field(tmp_path, small, encoding):
    dtype = {"h": torch.float16, "b": torch.bfloat16}.get(encoding[0], torch.float32)
    content = onnx_model(small, SMALL, store=lambda a, name: field(5, tensor(a, name, encoding)))
    assert_holds(tmp_path / "net.onnx", rounded(small, dtype), content)


def constant(array, name: bytes) -> bytes:
    return node("Constant", [], [name], field(5, field(1, b"value") + field(5, tensor(array))))


def value_floats(array, name: bytes) -> bytes:
    if array.ndim > 1:
        return constant(array, name)
    return node("Constant", [], [name], field(5, field(1, b"value_floats") + field(7, array.tobytes())))


def through(kind: str, *attributes: bytes, store=initializer):
    """A store that puts nodes of this kind, one for each of `attributes`, between an array and its convolution."""

    def stored(array, name: bytes) -> bytes:
        names = [*(b"%s.%d" % (name, n) for n in range(len(attributes))), name]
        links = zip(names[:-1], names[1:], attributes, strict=True)
        return store(array, names[0]) + b"".join(node(kind, [a], [b], given) for a, b, given in links)

    return stored


def to(kind: int) -> bytes:
    return attribute("to", kind, list_field=3)


@pytest.mark.parametrize(
    ("store", "dtype"),
    [
        (constant, torch.float32),
        (value_floats, torch.float32),
        (through("Identity", b"", b""), torch.float32),
        (through("Identity", b"", store=constant), torch.float32),
        (through("Cast", to(1)), torch.float32),
        (through("Cast", to(10), to(1)), torch.float16),
    ],
)
def test_onnx_weights_by_way_of_nodes(tmp_path, small, store, dtype):
    assert_holds(tmp_path / "net.onnx", rounded(small, dtype), onnx_model(small, SMALL, store=store))


def auto_pad(layer, kind=b"SAME_UPPER", stride=1) -> bytes:
    kind = kind if layer.padding else b"VALID"
    return (
        attribute("group", layer.groups, list_field=3)
        + field(5, field(1, b"auto_pad") + field(4, kind))
        + attribute("strides", stride, stride)
    )


def test_onnx_automatic_padding(tmp_path, small):
    path = tmp_path / "net.onnx"
    for kind in (b"SAME_UPPER", b"SAME_LOWER"):
        assert_holds(path, small, onnx_model(small, SMALL, attributes=lambda l, kind=kind: auto_pad(l, kind)))
    refused(path, onnx_model(small, SMALL, attributes=lambda l: auto_pad(l, stride=2)), "SAME_UPPER.*explicit pads")


def test_onnx_runtimes_convolution_with_its_activation(tmp_path, small):
    content = onnx_model(small, SMALL, kind="FusedConv")
    assert_holds(tmp_path / "net.onnx", small, content)


def external(array, name: bytes) -> bytes:
    return field(5, tensor(array, name) + field(13, field(1, b"location") + field(2, b"w.bin")) + field(14, 1))


def of_type(kind: int):
    return lambda array, name: field(
        5,
        b"".join(field(1, s) for s in array.shape) + field(2, kind) + field(8, name) + field(5, varint(1) * array.size),
    )


@pytest.mark.parametrize(
    ("store", "match"),
    [
        (external, "'conv1_w_0' of convolution 1.*external data"),
        (of_type(3), "ONNX data type 3.*quantized"),
        (of_type(17), "ONNX data type 17"),
        (through("Transpose", b""), "the output of a Transpose node"),
        (through("Cast", to(16)), "the output of a Cast node"),
        (lambda array, name: node("Identity", [name], [name]), "the output of a Identity node"),
        (lambda array, name: field(15, field(1, tensor(array, name))), "none of that name.*sparse"),
        (lambda array, name: b"", "none of that name"),
    ],
)
def test_onnx_forms_that_are_not_read(tmp_path, small, store, match):
    refused(tmp_path / "net.onnx", onnx_model(small, SMALL, store=store), match)


def test_an_onnx_graph_without_convolutions_lists_its_nodes(tmp_path):
    refused(tmp_path / "net.onnx", field(7, node("QLinearConv") + node("Relu")), "found QLinearConv, Relu")


# --- files of another kind


@pytest.mark.parametrize("ending", ["caffemodel", "onnx", "safetensors", "pth"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b'name: "CaffeNet"\nlayer {', "text description"),
    ],
)
def test_what_often_lies_in_a_models_place_is_named(tmp_path, ending, content, match):
    refused(tmp_path / f"net.{ending}", content, match)


def test_pytorch_files_with_more_than_tensors_are_named(tmp_path, small):
    path = tmp_path / "net.pth"
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    refused(path, path.read_bytes(), "found torch.nn.modules.conv.Conv2d.*nothing in it was run")
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), path)
    refused(path, path.read_bytes(), "found a TorchScript archive")
