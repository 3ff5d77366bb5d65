"""Caffe's and ONNX's model files, read as data: their convolutions, and their order of pooling and normalization.

Both formats are protocol buffers. The protobuf library parses them by descriptors that name only the fields used
here, so neither Caffe nor ONNX is needed. Nothing in a file is executed, and every failure is one ValueError.
Field numbers are those of BVLC's caffe.proto and of onnx.proto.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from dualtl_lib.models.contents import Contents, Geometry, mismatch, unreadable

# Names are bytes, which need not be valid text, and blobs are bytes until they are needed.
CAFFE = {
    "NetParameter": "bytes name=1; V1LayerParameter[] layers=2; LayerParameter[] layer=100",  # layers: before 2015
    "V1LayerParameter": "bytes v0=1; bytes name=4; int32 type=5; bytes[] blobs=6; ConvolutionParameter conv=10",
    "LayerParameter": "bytes name=1; bytes type=2; bytes[] blobs=7; ConvolutionParameter conv=106",
    # Either pad and stride, or a number for each direction.
    "ConvolutionParameter": "uint32[] pad=3; uint32 group=5; uint32[] stride=6; uint32 pad_h=9; uint32 pad_w=10; "
    "uint32 stride_h=13; uint32 stride_w=14; uint32[] dilation=18",
    # raw_data: NVIDIA's Caffe
    "BlobProto": "int32 num=1; int32 channels=2; int32 height=3; int32 width=4; float[] data=5; BlobShape shape=7; "
    "double[] double_data=8; bytes raw_data=12",
    "BlobShape": "int64[] dim=1",
}
ONNX = {
    "ModelProto": "GraphProto graph=7",
    "GraphProto": "NodeProto[] node=1; TensorProto[] initializer=5",
    "NodeProto": "bytes[] input=1; bytes[] output=2; bytes op_type=4; AttributeProto[] attribute=5",
    "AttributeProto": "bytes name=1; int64 i=3; bytes s=4; TensorProto t=5; float[] floats=7; int64[] ints=8",
    "TensorProto": "int64[] dims=1; int32 data_type=2; bytes segment=3; float[] float_data=4; int32[] int32_data=5; "
    "bytes name=8; bytes raw_data=9; double[] double_data=10; bytes[] external_data=13; int32 data_location=14",
}
V1_TYPES = {4: "Convolution", 15: "LRN", 17: "Pooling"}  # V1LayerParameter.LayerType
BFLOAT16 = 16
ONNX_FLOAT = {1: "<f4", 10: "<f2", 11: "<f8", BFLOAT16: "<u2"}  # TensorProto.DataType; NumPy has no bfloat16


def _classes(package: str, table: Mapping[str, str]) -> dict[str, Any]:
    """Message classes for a table of messages as above."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"dualtl/{package}", package=f"dualtl.{package}")
    for name, fields in table.items():
        described = file.message_type.add(name=name)
        for field in fields.split("; "):
            kind, _, field = field.partition(" ")
            field, _, number = field.partition("=")
            label = kinds.LABEL_REPEATED if kind.endswith("[]") else kinds.LABEL_OPTIONAL
            kind = kind.removesuffix("[]")
            one = described.field.add(name=field, number=int(number), label=label)
            if kind in table:
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".dualtl.{package}.{kind}"
            else:
                one.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    full = {name: pool.FindMessageTypeByName(f"dualtl.{package}.{name}") for name in table}
    return {name: message_factory.GetMessageClass(kind) for name, kind in full.items()}


_CAFFE, _ONNX = _classes("caffe", CAFFE), _classes("onnx", ONNX)


def _parse(kind: Any, content: bytes, where: object, expected: str) -> Any:
    try:
        return kind.FromString(content)
    except message.DecodeError as error:
        raise unreadable(where, expected, content, f"{len(content)} bytes that do not parse as one") from error


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _shaped(values: Sequence[float] | np.ndarray, shape: list[int], where: str) -> np.ndarray:
    """These numbers as a float32 array of that shape."""
    if any(side < 0 for side in shape) or math.prod(shape) != len(values):
        raise mismatch(where, f"{shape} numbers", len(values), "the file is damaged: fetch it again")
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which weights.py refuses
        return np.asarray(values).astype(np.float32).reshape(shape)


def _order(steps: list[str], norm: str, pool: str) -> str | None:
    """The order of the first normalization and the first pooling among a network's layer types."""
    if norm not in steps or pool not in steps:
        return None
    return "norm-pool" if steps.index(norm) < steps.index(pool) else "pool-norm"


def _blob(content: bytes, where: str) -> np.ndarray:
    """A BlobProto's numbers, by its new `shape` or its old num, channels, height and width."""
    blob = _parse(_CAFFE["BlobProto"], content, where, "a Caffe blob")
    if blob.raw_data:
        raise mismatch(where, "numbers in `data`", "NVIDIA Caffe's `raw_data`, which is not read", "store float32")
    old = [blob.num, blob.channels, blob.height, blob.width]
    return _shaped(blob.double_data or blob.data, list(blob.shape.dim) if blob.HasField("shape") else old, where)


def read_caffemodel(path: Path) -> Contents:
    """Read the convolutions of a Caffe NetParameter, in its old form (`layers`) or its new one (`layer`).

    Which of BVLC's two networks it is cannot be seen from the weights, whose shapes are the same. The order of
    normalization and pooling among the file's layers shows it; where they are left out, the net's name does, if it
    contains "AlexNet" or "CaffeNet".

    Args:
        path: The file.

    Raises:
        ValueError: If it is no such file, or has a form that is not read.
    """
    net = _parse(_CAFFE["NetParameter"], path.read_bytes(), path, "a Caffe model")
    if any(layer.v0 for layer in net.layers):
        found = "Caffe's form before 2014 (V0), which is not read"
        raise mismatch(path, "`layer` or `layers`", found, "convert it with Caffe's upgrade_net_proto_binary")
    layers = [*net.layer, *net.layers]
    types = [V1_TYPES.get(l.type, "") if isinstance(l.type, int) else _text(l.type) for l in layers]
    tensors, geometry = {}, {}
    for layer, kind in zip(layers, types, strict=True):
        name = _text(layer.name)
        if kind != "Convolution" or not layer.blobs:
            continue
        if f"{name}.weight" in tensors:
            raise mismatch(path, f"one layer {name!r}", "two", "fetch it again")
        for key, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            array = _blob(blob, f"{path}: {name}.{key}")
            tensors[f"{name}.{key}"] = array.reshape(-1) if key == "bias" else array
        if layer.HasField("conv"):
            geometry[name] = _caffe_geometry(layer.conv)
    order, order_from = _order(types, "LRN", "Pooling"), "its layers"
    if order is None:
        name = _text(net.name).lower()
        order = "norm-pool" if "alexnet" in name else "pool-norm" if "caffenet" in name else None
        order_from = f"its name {_text(net.name)!r}" if order else ""
    return Contents(tensors, order, order_from, geometry)


def _caffe_geometry(conv: Any) -> Geometry:
    stride = conv.stride or [getattr(conv, n) for n in ("stride_h", "stride_w") if conv.HasField(n)]
    padding = conv.pad or [getattr(conv, n) for n in ("pad_h", "pad_w") if conv.HasField(n)]
    return Geometry.of(stride, padding, conv.group, conv.dilation)


def _tensor(tensor: Any, where: str) -> np.ndarray:
    """A TensorProto's numbers, in the field that its type uses or as raw bytes."""
    if tensor.data_location or tensor.external_data or tensor.segment:
        found = "external data or a segment, which is not read"
        raise mismatch(where, "its numbers in the file", found, "save the model as one file")
    if tensor.data_type not in ONNX_FLOAT:
        advice = "a quantized model cannot be used, its float32 original can"
        raise mismatch(where, "floating-point numbers", f"ONNX data type {tensor.data_type}", advice)
    kind = np.dtype(ONNX_FLOAT[tensor.data_type])
    if tensor.raw_data:
        if len(tensor.raw_data) % kind.itemsize:
            raise mismatch(where, f"{kind.itemsize} bytes a number", f"{len(tensor.raw_data)} bytes", "fetch it again")
        values = np.frombuffer(tensor.raw_data, kind)
    elif kind.itemsize == 2:  # the bits of each, in an int32
        values = np.array(tensor.int32_data, np.int64).astype("<u2").view(kind)
    else:
        values = np.array(tensor.float_data or tensor.double_data, kind)
    if tensor.data_type == BFLOAT16:  # float32's upper half
        values = (values.astype("<u4") << 16).view("<f4")
    return _shaped(values, list(tensor.dims), where)


class _Graph:
    """An ONNX graph's constants by name, whichever way they are stored."""

    def __init__(self, graph: Any, path: Path):
        self.path = path
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.made_by = {name: node for node in graph.node for name in node.output}

    def read(self, name: bytes, convolution: str) -> np.ndarray:
        """The numbers of an initializer or a Constant node, directly or through Identity and Cast."""
        where, kind, half = f"{self.path}: {_text(name)!r} of {convolution}", b"", False
        for _ in range(len(self.made_by) + 1):  # a cycle ends
            if name in self.stored:
                array = _tensor(self.stored[name], where)
                return array.astype(np.float16).astype(np.float32) if half else array
            node = self.made_by.get(name)
            kind, attributes = (node.op_type, {a.name: a for a in node.attribute}) if node else (b"", {})
            to = attributes[b"to"].i if kind == b"Cast" and b"to" in attributes else 0
            if kind == b"Constant" and b"value" in attributes:
                self.stored[name] = attributes[b"value"].t
            elif kind == b"Constant" and b"value_floats" in attributes:
                return np.array(attributes[b"value_floats"].floats, np.float32)
            elif node and node.input and (kind == b"Identity" or to in (1, 10, 11)):
                half, name = half or to == 10, node.input[0]
            else:
                break
        found = f"the output of a {_text(kind)} node" if kind else "none of that name in the file"
        expected = "an initializer or a Constant, directly or through Identity or a Cast between floats"
        raise mismatch(where, expected, found, "simplify the model by constant folding; sparse tensors are not read")


def read_onnx(path: Path) -> Contents:
    """Read the convolutions of an ONNX model, named conv1, conv2, … in the order of its graph.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no such file, or has a form that is not read.
    """
    graph = _parse(_ONNX["ModelProto"], path.read_bytes(), path, "an ONNX model").graph
    constants, tensors, geometry = _Graph(graph, path), {}, {}
    nodes = [node for node in graph.node if node.op_type in (b"Conv", b"FusedConv")]  # the latter: ONNX Runtime's
    for number, node in enumerate(nodes, 1):
        name = f"conv{number}"
        for key, source in zip(("weight", "bias"), node.input[1:], strict=False):
            if source:  # "" stands for an input that is left out
                tensors[f"{name}.{key}"] = constants.read(source, f"convolution {number}")
        geometry[name] = _onnx_geometry(node, tensors.get(f"{name}.weight"), f"{path}: {name}")
    types = [_text(node.op_type) for node in graph.node]
    if not nodes:
        found = ", ".join(sorted(set(types))[:12]) or "none"
        raise mismatch(path, "nodes of type Conv", found, "export the float32 model, its functions inlined")
    order = _order(types, "LRN", "MaxPool")
    return Contents(tensors, order, "its layers" if order else "", geometry)


def _onnx_geometry(node: Any, weight: np.ndarray | None, where: str) -> Geometry:
    """Of a Conv node; auto_pad is resolved where it does not depend on the size of the image."""
    attributes = {a.name: a for a in node.attribute}
    lists = (b"strides", b"pads", b"dilations")
    stride, padding, dilation = (tuple(attributes[n].ints) if n in attributes else () for n in lists)
    auto = attributes[b"auto_pad"].s if b"auto_pad" in attributes else b""
    if auto.startswith(b"SAME"):
        sides = () if weight is None else weight.shape[2:]
        if set(stride) - {1} or not all(side % 2 for side in sides):
            found = f"auto_pad {_text(auto)}, strides {stride}"
            raise mismatch(where, "pads in numbers", found, "export explicit pads")
        padding = tuple(side // 2 for side in sides)
    return Geometry.of(stride, padding, attributes[b"group"].i if b"group" in attributes else 1, dilation)
