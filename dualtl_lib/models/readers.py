"""Reading files of weights by their format into plain `Contents`. Foreign files are parsed, never executed."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import safetensors
import torch
from torch import Tensor

from dualtl_lib.models.caffenet import Layer, Preprocessing
from dualtl_lib.models.contents import Contents, mismatch, unreadable
from dualtl_lib.models.protofiles import read_caffemodel, read_onnx

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of fewer bits: quantized, and of another scale
STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
SAVE = "torch.save(model.state_dict(), …)"
NESTING = 5  # levels of dictionaries in a checkpoint


def read(path: Path) -> Contents:
    """Read a file of weights by its ending.

    Args:
        path: A .caffemodel, .onnx, .safetensors, .pth or .pt file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, or not what its ending promises.
    """
    check_file(path)
    return READERS[path.suffix.lower()](path)


def check_file(path: Path) -> None:
    """Raise FileNotFoundError for a missing file, ValueError for a folder or an empty file."""
    if path.is_dir():
        raise mismatch(path, "a file", "a folder", "name the file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name one that exists, or a name of `weights list`")
    if not path.stat().st_size:
        raise mismatch(path, "a model file", "0 bytes", "fetch it again")


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a safetensors file; of this project's own files, everything given to save_model.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no safetensors file, or its metadata are no JSON object.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    try:
        own = json.loads(metadata.pop("dualtl", "{}"))
    except (ValueError, RecursionError) as error:
        raise mismatch(path, "metadata in JSON", error, "fetch or make it again") from error
    if not isinstance(own, dict):
        raise mismatch(path, "names and values as metadata", f"{own!r:.40}", "fetch or make it again")
    return metadata | own


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        with open(path, "rb") as file:
            raise unreadable(path, "a safetensors file", file.read(64), str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no safetensors file, or has a number format that PyTorch does not have.
    """
    with _open(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _read_safetensors(path: Path) -> Contents:
    metadata = read_metadata(path)
    if (kind := metadata.get("kind", "Trunk")) != "Trunk":
        raise mismatch(path, "a trunk", f"a trained {kind}", "store.load_model reads it")
    order = metadata.get("order")
    if order is None and "LRN before pooling" in str(metadata.get("source")):
        order = "norm-pool"
    return Contents(read_tensors(path), order, "its metadata" if order else "", metadata=metadata)


def _read_pickle(path: Path) -> Contents:
    """A PyTorch state dict, or a checkpoint with one in it. Only tensors are unpickled: code is refused, not run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: torch.load fails on a damaged file wherever it happens to
        raise _not_only_tensors(path, error) from error
    if not isinstance(state, dict):
        raise mismatch(path, "a state dict of tensors", type(state).__name__, f"make one with {SAVE}")
    return Contents(dict(_flat(state)))


def _not_only_tensors(path: Path, error: Exception) -> ValueError:
    """The error for a file that torch.load refuses; not with torch's text, which advises to unpickle everything."""
    content, classes = path.read_bytes(), re.findall(r"GLOBAL ([\w.]+)", str(error))
    if b"/code/__torch__" in content:
        classes = ["a TorchScript archive"]
    found = ", ".join(classes)[:200] or f"something else or a damaged file ({type(error).__name__})"
    advice = f"nothing in it was run: fetch it again, or let its maker save the tensors alone, with {SAVE}"
    # Without the mark of a zip archive, which is what torch.save writes.
    return unreadable(path, "a PyTorch file of tensors only", content[:64].removeprefix(b"PK"), found, advice=advice)


def _flat(state: dict, prefix: str = "", nesting: int = NESTING) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a dictionary and in those inside it, by their names joined with dots."""
    for key, value in state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and nesting:
            yield from _flat(value, f"{prefix}{key}.", nesting - 1)


def as_float32(tensor: Any, key: str, path: Path) -> Tensor:
    """Copy a tensor or array as float32.

    Args:
        tensor: The numbers, which must be there one by one: not quantized, sparse, or left out ("meta").
        key: Its name, for the error.
        path: Its file, for the error.

    Raises:
        ValueError: If it is not a dense tensor of floating-point numbers.
    """
    tensor = torch.as_tensor(tensor)
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.is_meta:
        kind = "meta" if tensor.is_meta else tensor.layout
        advice = "save the network as float32, dense and on the CPU"
        raise mismatch(path, f"floating-point numbers in {key}", f"{tensor.dtype} ({kind})", advice)
    # A copy, so that the file may change or go.
    return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def architecture(metadata: Mapping[str, Any], path: Path) -> tuple[tuple[Layer, ...] | None, Preprocessing | None]:
    """Read the layer table and the preprocessing in the metadata that save_model writes.

    Args:
        metadata: As `read_metadata` returns them.
        path: Their file, for the error.

    Returns:
        Each of the two, or None where the metadata do not have it.

    Raises:
        ValueError: If they are of another kind, or no network can have them.
    """
    layers, transform = None, None
    try:
        if "layers" in metadata:
            layers = _parsed(tuple[Layer, ...], metadata["layers"])
            if not 0 < len(layers) == len({layer.name for layer in layers}):
                raise ValueError("no layers, or two of one name")
            if any(min(l.maps, l.kernel, l.stride, l.groups, l.padding + 1) < 1 for l in layers):
                raise ValueError("a layer's maps, kernel, stride or groups below 1, or a negative padding")
        if "transform" in metadata:
            transform = _parsed(Preprocessing, metadata["transform"])
            if transform.colour not in ("RGB", "BGR") or 0 in transform.std:
                raise ValueError("a colour other than RGB and BGR, or a standard deviation of 0")
    except ValueError as error:
        expected, found = "metadata as save_model writes them", f"others under 'layers' or 'transform' ({error})"
        raise mismatch(path, expected, found, "leave them out, or make the file again") from error
    return layers, transform


def _parsed(kind: Any, value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(kind, config=STRICT).validate_json(json.dumps(value))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


READERS: dict[str, Callable[[Path], Contents]] = {
    ".caffemodel": read_caffemodel,
    ".onnx": read_onnx,
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pth", ".pt"), _read_pickle),
}
