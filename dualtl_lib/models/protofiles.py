"""Caffe's and ONNX's model files, read as data: their convolutions, and what they say of layer order.

Both formats are protocol buffers. The protobuf library parses them by descriptors that name only the fields used
here, so neither Caffe nor ONNX is needed. Nothing in a file is executed, and every failure is one ValueError.
Field numbers are those of BVLC's caffe.proto and of onnx.proto.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

LIMIT = 2**31 - 1  # bytes: no protocol buffer is larger

# message: {field: (number, type)}; "[]" marks a repeated field, a capital letter a message.
# Names are bytes, which need not be valid text, and blobs are bytes until somebody asks for them.
CAFFE = {
    "NetParameter": {
        "name": (1, "bytes"),
        "layers": (2, "V1LayerParameter[]"),  # files before 2015
        "layer": (100, "LayerParameter[]"),
    },
    "V1LayerParameter": {
        "name": (4, "bytes"),
        "type": (5, "int32"),
        "blobs": (6, "bytes[]"),
        "convolution_param": (10, "ConvolutionParameter"),
    },
    "LayerParameter": {
        "name": (1, "bytes"),
        "type": (2, "bytes"),
        "blobs": (7, "bytes[]"),
        "convolution_param": (106, "ConvolutionParameter"),
    },
    "ConvolutionParameter": {
        "pad": (3, "uint32[]"),
        "group": (5, "uint32"),
        "stride": (6, "uint32[]"),
        "pad_h": (9, "uint32"),  # these four in place of pad and stride
        "pad_w": (10, "uint32"),
        "stride_h": (13, "uint32"),
        "stride_w": (14, "uint32"),
        "dilation": (18, "uint32[]"),
    },
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "float[]"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "double[]"),
    },
    "BlobShape": {"dim": (1, "int64[]")},
}
ONNX = {
    "ModelProto": {"graph": (7, "GraphProto")},
    "GraphProto": {"node": (1, "NodeProto[]"), "initializer": (5, "TensorProto[]")},
    "NodeProto": {
        "input": (1, "bytes[]"),
        "op_type": (4, "bytes"),
        "attribute": (5, "AttributeProto[]"),
    },
    "AttributeProto": {"name": (1, "bytes"), "i": (3, "int64"), "ints": (8, "int64[]")},
    "TensorProto": {
        "dims": (1, "int64[]"),
        "data_type": (2, "int32"),
        "float_data": (4, "float[]"),
        "name": (8, "bytes"),
        "raw_data": (9, "bytes"),
        "double_data": (10, "double[]"),
        "data_location": (14, "int32"),
    },
}
V1_TYPES = {4: "Convolution", 15: "LRN", 17: "Pooling"}  # V1LayerParameter.LayerType
ONNX_FLOAT = {1: "<f4", 10: "<f2", 11: "<f8"}  # TensorProto.DataType


class Geometry(NamedTuple):
    """How a convolution moves over its maps, where a file says it."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...] = ()


class Contents(NamedTuple):
    """What a file of weights holds.

    tensors: "conv1.weight" [maps, maps before / groups, rows, columns], "conv1.bias" [maps], and so on.
    order: "pool-norm" or "norm-pool", or None where nothing in the file tells; told_by says what told it.
    geometry: of each convolution, where the file has it.
    """

    tensors: dict
    order: str | None = None
    told_by: str = ""
    geometry: dict[str, Geometry] = {}  # noqa: RUF012
    metadata: dict = {}  # noqa: RUF012


def _classes(package: str, table: dict) -> dict[str, type]:
    """Message classes for a table of messages as above."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"dualtl/{package}", package=f"dualtl.{package}")
    for name, fields in table.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.endswith("[]") else kinds.LABEL_OPTIONAL
            kind = kind.removesuffix("[]")
            one = described.field.add(name=field, number=number, label=label)
            if kind in table:
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".dualtl.{package}.{kind}"
            else:
                one.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"dualtl.{package}.{name}")) for name in table
    }


_CAFFE, _ONNX = _classes("caffe", CAFFE), _classes("onnx", ONNX)


def _parse(kind: type, content: bytes, where: str, format: str):
    try:
        return kind.FromString(content)
    except message.DecodeError as error:
        raise ValueError(
            f"{where}: expected {format}, found bytes that do not parse as one ({len(content)} of them); "
            "the file is cut off or something else: fetch it again"
        ) from error


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if not 0 < size <= LIMIT:
        raise ValueError(f"{path}: expected a model file, found {size} bytes; fetch it again")
    return path.read_bytes()


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _shaped(values, shape: list[int], where: str) -> np.ndarray:
    """These numbers as a float32 array of that shape."""
    if any(side < 0 for side in shape) or math.prod(shape) != len(values):
        raise ValueError(f"{where}: expected {shape} numbers, found {len(values)}; the file is damaged")
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which weights.py refuses
        return np.array(values, dtype=np.float32).reshape(shape)


def _order(steps: list[str], norm: str, pool: str) -> str | None:
    """The order of the first normalization and the first pooling among a network's layer types."""
    if norm not in steps or pool not in steps:
        return None
    return "norm-pool" if steps.index(norm) < steps.index(pool) else "pool-norm"


def _blob(content: bytes, where: str) -> np.ndarray:
    """A BlobProto's numbers, by its new `shape` or its old num, channels, height and width."""
    blob = _parse(_CAFFE["BlobProto"], content, where, "a Caffe blob")
    old = [blob.num, blob.channels, blob.height, blob.width]
    shape = list(blob.shape.dim) if blob.HasField("shape") else old
    return _shaped(blob.double_data or blob.data, shape, where)


def read_caffemodel(path: Path) -> Contents:
    """The convolutions of a Caffe NetParameter, in its old form (`layers`) or its new one (`layer`).

    Which of BVLC's two networks it is cannot be seen from the weights, whose shapes are the same. The order of
    normalization and pooling among the file's layers tells; where they are left out, the net's name does, if it
    contains "AlexNet" or "CaffeNet". Raises ValueError for what is no such file, FileNotFoundError for none.
    """
    net = _parse(_CAFFE["NetParameter"], _content(path), str(path), "a Caffe model")
    layers = list(net.layer) or list(net.layers)
    types = [V1_TYPES.get(l.type, "") if isinstance(l.type, int) else _text(l.type) for l in layers]
    tensors, geometry = {}, {}
    for layer, kind in zip(layers, types, strict=True):
        name = _text(layer.name)
        if kind != "Convolution" or not layer.blobs:
            continue
        if f"{name}.weight" in tensors:
            raise ValueError(f"{path}: expected one layer {name!r}, found two; the file is damaged")
        for key, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            array = _blob(blob, f"{path}: {name}.{key}")
            tensors[f"{name}.{key}"] = array.reshape(-1) if key == "bias" else array
        if layer.HasField("convolution_param"):
            geometry[name] = _geometry(layer.convolution_param)
    order, told_by = _order(types, "LRN", "Pooling"), "its layers"
    if order is None:
        name = _text(net.name).lower()
        order = "norm-pool" if "alexnet" in name else "pool-norm" if "caffenet" in name else None
        told_by = f"its name {_text(net.name)!r}" if order else ""
    return Contents(tensors, order, told_by, geometry)


def _geometry(said) -> Geometry:
    """What a ConvolutionParameter says, by one number for both directions or by one for each."""
    stride = tuple(said.stride) or tuple(getattr(said, n) for n in ("stride_h", "stride_w") if said.HasField(n))
    padding = tuple(said.pad) or tuple(getattr(said, n) for n in ("pad_h", "pad_w") if said.HasField(n))
    return Geometry(stride, padding, said.group or 1, tuple(said.dilation))


def _tensor(tensor, where: str) -> np.ndarray:
    """A TensorProto's numbers."""
    if tensor.data_location:
        raise ValueError(f"{where}: its numbers are in another file; save the model as one file")
    if tensor.data_type not in ONNX_FLOAT:
        raise ValueError(
            f"{where}: expected floating-point numbers, found ONNX data type {tensor.data_type}; "
            "a quantized model cannot be used, its float32 original can"
        )
    values = tensor.float_data or tensor.double_data
    if tensor.raw_data:
        kind = np.dtype(ONNX_FLOAT[tensor.data_type])
        if len(tensor.raw_data) % kind.itemsize:
            raise ValueError(f"{where}: expected whole numbers of {kind.itemsize} bytes; the file is damaged")
        values = np.frombuffer(tensor.raw_data, kind)
    return _shaped(values, list(tensor.dims), where)


def read_onnx(path: Path) -> Contents:
    """The convolutions of an ONNX model, named conv1, conv2, … in the order of its graph.

    Raises ValueError for what is no such file, FileNotFoundError for none.
    """
    graph = _parse(_ONNX["ModelProto"], _content(path), str(path), "an ONNX model").graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    tensors, geometry = {}, {}
    for number, node in enumerate((n for n in graph.node if n.op_type == b"Conv"), 1):
        for key, name in zip(("weight", "bias"), node.input[1:], strict=False):
            if name not in stored:
                raise ValueError(f"{path}: {_text(name)!r} of convolution {number} is not in the file")
            tensors[f"conv{number}.{key}"] = _tensor(stored[name], f"{path}: {_text(name)}")
        said = {a.name: a for a in node.attribute}
        geometry[f"conv{number}"] = Geometry(
            tuple(said[b"strides"].ints) if b"strides" in said else (),
            tuple(said[b"pads"].ints) if b"pads" in said else (),
            said[b"group"].i if b"group" in said else 1,
            tuple(said[b"dilations"].ints) if b"dilations" in said else (),
        )
    order = _order([_text(n.op_type) for n in graph.node], "LRN", "MaxPool")
    return Contents(tensors, order, "its layers" if order else "", geometry)
