"""Files of weights for the tests: a small network, and Caffe's and ONNX's wire format.

The formats are written by hand so that the readers are not tested against themselves.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import CAFFENET, Layer, Trunk

SMALL = (  # small enough to be read thousands of times
    Layer("conv1", 4, 3, norm=True, pool=True),
    Layer("conv2", 6, 3, groups=2, padding=1),
)


def refused(path: Path, content: bytes, match: str) -> None:
    """The file with this content is refused by one error that names it."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        weights.load_trunk(path)
    assert path.name in str(error.value)


def numbers(trunk: Trunk) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in trunk.state_dict().items()}


def lively(seed: int = 0, order: str = "pool-norm") -> Trunk:
    """Random weights large enough that normalization matters."""
    trunk = weights.load_trunk("random", order=order, seed=seed)
    for layer in CAFFENET:
        trunk.get_submodule(layer.name).weight.data.mul_(4)
    return trunk


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


def caffemodel(state, layers, steps=(), old=False, name="net", double=False, geometry=None, rename=str) -> bytes:
    """A NetParameter with these weights.

    steps: layer types that follow conv1. geometry: fields of a layer's ConvolutionParameter. rename: of layers.
    """
    out = field(1, name.encode())
    for layer in layers:
        blobs = [state[f"{layer.name}.weight"], state[f"{layer.name}.bias"]]
        fields = geometry(layer) if geometry else [(3, layer.padding), (5, layer.groups), (6, layer.stride)]
        parameters = b"".join(field(n, v) for n, v in fields)
        for kind, title in [("Convolution", rename(layer.name)), *((s, s) for s in steps if layer is layers[0])]:
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


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The bits of these numbers in bfloat16."""
    return torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view("<u2")


def half(array: np.ndarray) -> np.ndarray:
    """The bits of these numbers in float16."""
    return array.astype("<f2").view("<u2")


def in_int32(bits: np.ndarray) -> bytes:
    return field(5, b"".join(varint(int(n)) for n in bits.ravel()))


ENCODINGS = {  # of a TensorProto's numbers: its data type and its field
    "float": (1, lambda a: field(4, a.astype("<f4").tobytes())),
    "float raw": (1, lambda a: field(9, a.astype("<f4").tobytes())),
    "double": (11, lambda a: field(10, a.astype("<f8").tobytes())),
    "double raw": (11, lambda a: field(9, a.astype("<f8").tobytes())),
    "half": (10, lambda a: in_int32(half(a))),
    "half raw": (10, lambda a: field(9, half(a).tobytes())),
    "bfloat16": (16, lambda a: in_int32(bfloat16(a))),
    "bfloat16 raw": (16, lambda a: field(9, bfloat16(a).tobytes())),
}


def tensor(array: np.ndarray, name: bytes = b"", encoding: str = "float raw") -> bytes:
    """A TensorProto."""
    kind, encode = ENCODINGS[encoding]
    dims = b"".join(field(1, s) for s in array.shape)
    return dims + field(2, kind) + (field(8, name) if name else b"") + encode(array)


def attribute(name: str, *values: int, list_field: int = 8) -> bytes:
    return field(5, field(1, name.encode()) + b"".join(field(list_field, v) for v in values))


def node(kind: str, inputs=(), outputs=(), attributes: bytes = b"") -> bytes:
    names = b"".join(field(1, n) for n in inputs) + b"".join(field(2, n) for n in outputs)
    return field(1, names + field(4, kind.encode()) + attributes)


def initializer(array: np.ndarray, name: bytes) -> bytes:
    return field(5, tensor(array, name))


def convolution_attributes(layer) -> bytes:
    moves = attribute("strides", *[layer.stride] * 2) + attribute("pads", *[layer.padding] * 4)
    return attribute("group", layer.groups, list_field=3) + moves


def onnx_model(state, layers, order="pool-norm", store=initializer, attributes=convolution_attributes, kind="Conv"):
    """A ModelProto with these convolutions, each followed by what follows it.

    store: the parts of the graph that hold an array under a name. attributes: of a layer's convolution. kind: its type.
    """
    graph = b""
    for layer in layers:
        names = {key: f"{layer.name}_{key[0]}_0".encode() for key in ("weight", "bias")}
        graph += b"".join(store(state[f"{layer.name}.{key}"], name) for key, name in names.items())
        graph += node(kind, [b"x", *names.values()], [b"x"], attributes(layer))
        kinds = ["MaxPool"] * layer.pool + ["LRN"] * layer.norm
        graph += b"".join(map(node, kinds if order == "pool-norm" else kinds[::-1]))
    return field(7, graph)
