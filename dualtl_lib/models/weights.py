"""Where a trained trunk comes from, reading other people's files safely, and keeping trained models.

`load` gives a trunk by name or from a file; SOURCES is the table of what is known, in the manner of torchvision's
weights enums. Foreign files are parsed, never executed. A file that does not hold the network stops with one error.
"""

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import safetensors
import torch
from torch import nn

from dualtl_lib import files
from dualtl_lib.models import download, protofiles
from dualtl_lib.models.caffenet import (
    CAFFENET,
    TORCHVISION_ALEXNET,
    Layer,
    Preprocessing,
    Trunk,
)
from dualtl_lib.models.protofiles import Contents

EMBEDDED = Path(__file__).parent / "embedded.safetensors"
ORDER = "pool-norm"  # where neither the caller nor the file says: the paper's network (READING's first point)
FEATURES = {"features.0": "conv1", "features.3": "conv2", "features.6": "conv3", "features.8": "conv4"}
FEATURES["features.10"] = "conv5"  # torchvision's names
ANOTHER = (
    "another network's file, or one cut off? Name one of CaffeNet's or AlexNet's: `python -m dualtl_lib weights list`"
)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of fewer bits: quantized, and of another scale

CAFFE_TRANSFORM = Preprocessing()
# What torchvision's AlexNet_Weights.IMAGENET1K_V1 says, and a test holds it to that: importing torchvision takes longer
# than everything else here together.
TORCHVISION_TRANSFORM = Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TORCHVISION_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


@dataclass(frozen=True)
class Source:
    """One set of trained weights: what it is, what it expects of its images, and where it comes from.

    order: "pool-norm" or "norm-pool". file: its name in the cache or under the data root. size: bytes.
    checksum: "sha1:…" or "sha256:…", as its publisher gives it. url: None where nothing needs fetching.
    """

    title: str
    order: str
    licence: str
    layers: tuple[Layer, ...] = CAFFENET
    transform: Preprocessing = CAFFE_TRANSFORM
    file: str | None = None
    url: str | None = None
    checksum: str | None = None
    size: int | None = None


BVLC, ZOO = "http://dl.caffe.berkeleyvision.org/", "https://github.com/onnx/models/raw/main/validated/vision/"
SOURCES = {
    "embedded": Source("trained by this project on procedural pictures, without faces", "pool-norm", "MIT"),
    "random": Source("not trained; BVLC's initial values, by seed", "pool-norm", "MIT"),
    "bvlc-caffenet": Source(
        "Caffe's reference CaffeNet on ImageNet, the paper's network",
        "pool-norm",
        "unrestricted",
        file="bvlc_reference_caffenet.caffemodel",
        url=BVLC + "bvlc_reference_caffenet.caffemodel",
        checksum="sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
    ),
    "bvlc-alexnet": Source(
        "BVLC's AlexNet on ImageNet",
        "norm-pool",
        "unrestricted",
        file="bvlc_alexnet.caffemodel",
        url=BVLC + "bvlc_alexnet.caffemodel",
        checksum="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
    ),
    "onnx-caffenet": Source(
        "the same CaffeNet from the ONNX model zoo",
        "pool-norm",
        "BSD-3-Clause",
        file="caffenet-9.onnx",
        url=ZOO + "classification/caffenet/model/caffenet-9.onnx",
        checksum="sha256:802138332cf3e423c82a9a80c76e4f9227dd4effb3aba55413601fa4345cfd36",
        size=243_863_553,
    ),
    "onnx-alexnet": Source(
        "the same AlexNet from the ONNX model zoo",
        "norm-pool",
        "BSD-3-Clause",
        file="bvlcalexnet-9.onnx",
        url=ZOO + "classification/alexnet/model/bvlcalexnet-9.onnx",
        checksum="sha256:ef3c82dad5c512f969dbf701fe35c0b3feb1585687d541f765eb68730c0a8af7",
        size=243_863_542,
    ),
    "torchvision-alexnet": Source(
        "torchvision's AlexNet on ImageNet, 64-192-384-256-256 maps, no normalization",
        "pool-norm",
        "BSD-3-Clause",
        layers=TORCHVISION_ALEXNET,
        transform=TORCHVISION_TRANSFORM,
        file=Path(TORCHVISION_URL).name,
        url=TORCHVISION_URL,
        checksum="sha256:" + Path(TORCHVISION_URL).stem.rsplit("-", 1)[1],
    ),
}


def load_trunk(name: str | Path | Enum, order: str | None = None, seed: int = 0) -> Trunk:
    """A trunk by its name in SOURCES, from a .caffemodel, .onnx, .safetensors or .pth file, or by torchvision's enum.

    A relative path is the repository's, as in a config. order: "pool-norm" or "norm-pool"; None takes the source's,
    then what the file says, then "pool-norm". seed: of the initial values of "random". Raises ValueError for an
    unknown name and for a file that does not hold the network, FileNotFoundError for one that is missing, saying how
    to get it.
    """
    if name == "random":
        return _random(order or ORDER, seed)
    name, path, source = _found(name)
    return _trunk(_read(path), path, order or (source and source.order), name)


def _found(wanted: str | Path | Enum, base: Path | None = None) -> tuple[str, Path, Source | None]:
    """What `load` and `describe` are asked for: its name, its file, and its source, where it is one of SOURCES."""
    url = getattr(wanted, "url", None)  # of torchvision's enum
    name = next((n for n, s in SOURCES.items() if url and s.url == url), str(wanted))
    if source := SOURCES.get(name):
        return name, _located(name, source), source
    if Path(name).suffix.lower() not in READERS:
        raise ValueError(f"no weights {name!r}; known names are {', '.join(SOURCES)}, known files {', '.join(READERS)}")
    path = files.expand(name, base)
    return path.name, path, None


def _random(order: str, seed: int) -> Trunk:
    """BVLC's initial values: its AlexNet starts the biases of conv2, conv4 and conv5 at 0.1, the others at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = Trunk(order=order, name=f"random, seed {seed}")
    for layer in ("conv2", "conv4", "conv5"):
        nn.init.constant_(trunk.get_submodule(layer).bias, 0.1)
    return trunk


def places(source: Source) -> list[Path]:
    """Where a source's file may lie: the cache, the data root, PyTorch's own download folder."""
    folders = [files.cache_dir(), Path(torch.hub.get_dir()) / "checkpoints"]
    with contextlib.suppress(FileNotFoundError):
        folders[1:1] = [files.data_root(), files.data_root() / "caffemodel", files.data_root() / "weights"]
    return [folder / source.file for folder in folders]


def _located(name: str, source: Source) -> Path:
    """The source's file, its checksum compared."""
    if source.file is None:
        return EMBEDDED
    for path in places(source):
        if path.is_file():
            download.verify(path, source.checksum)
            return path
    raise FileNotFoundError(
        f"{name}: {source.file} is not here; `python -m dualtl_lib weights fetch {name}` downloads it, "
        f"or put it into {files.cache_dir()}"
    )


def where(name: str) -> str:
    """In a word, whether a source can be loaded now."""
    source = SOURCES[name]
    if name == "embedded":
        return "here" if EMBEDDED.exists() else "missing"
    if source.file is None or any(path.is_file() for path in places(source)):
        return "here"
    return "to be fetched"


def fetch(name: str, url: str | None = None) -> Path:
    """Download a source's file into the cache; url names another place to take it from. Returns its path."""
    source = SOURCES.get(name)
    if source is None or source.url is None:
        known = ", ".join(n for n, s in SOURCES.items() if s.url)
        raise ValueError(f"{name!r} is nothing to fetch; there are {known}")
    return download.fetch(url or source.url, files.cache_dir() / source.file, source.checksum, source.size)


def _read(path: Path) -> Contents:
    """What a file of weights holds, by its ending."""
    _check_file(path)
    return READERS[path.suffix.lower()](path)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, found a folder; name the file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name one that is there, or a name of `weights list`")


def read_metadata(path: Path) -> dict:
    """What a safetensors file says of itself; for this project's own, everything given to save_model."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            found = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file: {error}; fetch or make it again") from error
    try:
        own = json.loads(found.pop("dualtl", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata cannot be read: {error}; fetch or make it again") from error
    if not isinstance(own, dict):
        raise ValueError(f"{path}: expected names and values as metadata, found {own!r:.40}; fetch or make it again")
    return found | own


def _tensors(path: Path, prefixes: str | tuple[str, ...] = "") -> dict[str, torch.Tensor]:
    """A safetensors file's tensors whose names begin so; copies, so that the file may go."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {k: file.get_tensor(k).clone() for k in file.keys() if k.startswith(prefixes)}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: expected floating-point numbers: {error}") from error


def _read_safetensors(path: Path) -> Contents:
    said = read_metadata(path)
    if "kind" in said and said["kind"] != "Trunk":
        raise ValueError(f"{path}: expected a trunk, found a trained {said['kind']}; store.load_model reads it")
    order = said.get("order")
    if order is None and "LRN before pooling" in str(said.get("source")):
        order = "norm-pool"
    tensors = _tensors(path, ("conv", "features."))
    return Contents(tensors, order, "its metadata" if order else "", metadata=said)


def _is_state(found) -> bool:
    return isinstance(found, dict) and all(isinstance(v, torch.Tensor) for v in found.values())


def _read_pickle(path: Path) -> Contents:
    """A PyTorch state dict, or a checkpoint with one in it. Only tensors are unpickled: code is refused, not run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: torch.load trips over a damaged file where it happens to
        # Not its text, which advises to unpickle whatever is there.
        raise ValueError(
            f"{path}: expected a PyTorch file of tensors only, found something else or a damaged file "
            f"({type(error).__name__}); nothing in it was run: whoever made it saves its tensors alone, by "
            "torch.save(model.state_dict(), …)"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected a state dict of tensors, found a {type(state).__name__}")
    if not _is_state(state):
        inner = [v for v in state.values() if _is_state(v) and v]
        if len(inner) != 1:
            raise ValueError(
                f"{path}: expected a state dict of tensors, or one inside, found {len(inner)} inside and the keys "
                f"{', '.join(map(str, state))[:200]}; save the network's alone with torch.save(model.state_dict(), …)"
            )
        (state,) = inner
    return Contents({str(k): v for k, v in state.items()})


READERS: dict[str, Callable[[Path], Contents]] = {
    ".caffemodel": protofiles.read_caffemodel,
    ".onnx": protofiles.read_onnx,
    ".safetensors": _read_safetensors,
    ".pth": _read_pickle,
    ".pt": _read_pickle,
}


def _architecture(said: dict, tensors: dict, path: Path) -> tuple[tuple[Layer, ...], Preprocessing]:
    """The layer table and preprocessing: from the metadata where they are there, or else told by conv1's maps.

    Raises ValueError for metadata that say something else there.
    """
    first = tensors.get("conv1.weight")
    torchvision = first is not None and tuple(first.shape[:1]) == (TORCHVISION_ALEXNET[0].maps,)
    layers, transform = (TORCHVISION_ALEXNET, TORCHVISION_TRANSFORM) if torchvision else (CAFFENET, CAFFE_TRANSFORM)
    try:
        if "layers" in said:
            layers = tuple(_layer(**layer) for layer in said["layers"])
            if not 0 < len(layers) == len({layer.name for layer in layers}):
                raise ValueError("no layers, or two of one name")
        if "transform" in said:
            transform = _preprocessing(**said["transform"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: expected metadata as save_model writes them, found others under 'layers' or 'transform' "
            f"({error}); leave them out, or make the file again"
        ) from error
    return layers, transform


def _layer(**said) -> Layer:
    layer = Layer(**said)
    kinds = Layer.__annotations__.values()
    if (
        any(type(value) is not kind for value, kind in zip(layer, kinds, strict=True))
        or min(layer.maps, layer.kernel, layer.stride, layer.groups, layer.padding + 1) < 1
    ):
        raise ValueError(f"{layer} cannot be")
    return layer


def _preprocessing(**said) -> Preprocessing:
    transform = Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in said.items()})
    numbers = (transform.scale, *transform.mean, *transform.std)
    if (
        transform.colour not in ("RGB", "BGR")
        or not len(transform.mean) == len(transform.std) == 3
        or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        or 0 in transform.std
    ):
        raise ValueError(f"{transform} cannot be")
    return transform


def _trunk(contents: Contents, path: Path, order: str | None, name: str) -> Trunk:
    """The trunk that a file holds. Raises ValueError naming the first thing that does not fit."""
    tensors = {_renamed(key): value for key, value in contents.tensors.items()}
    layers, transform = _architecture(contents.metadata, tensors, path)
    state, maps = {}, 3
    for layer in layers:
        side = (layer.kernel, layer.kernel)
        state |= _checked(tensors, f"{layer.name}.weight", (layer.maps, maps // layer.groups, *side), path)
        state |= _checked(tensors, f"{layer.name}.bias", (layer.maps,), path)
        _check_geometry(layer, contents.geometry.get(layer.name), path)
        maps = layer.maps
    try:
        with torch.device("meta"):  # no initial values, so no random numbers are drawn
            trunk = Trunk(layers, order or contents.order or ORDER, transform, name)
        trunk.load_state_dict(state, assign=True)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return trunk


def _renamed(key: str) -> str:
    """torchvision's features.N as convN; any other name as it is."""
    module, _, parameter = key.rpartition(".")
    return f"{FEATURES.get(module, module)}.{parameter}"


def _checked(tensors: dict, key: str, shape: tuple[int, ...], path: Path) -> dict:
    """{key: float32 tensor}, if it is there, of that shape, of floating-point numbers and finite."""
    if key not in tensors:
        found = ", ".join(sorted(k for k in tensors if k.endswith(".weight"))[:8]) or "no convolution"
        raise ValueError(f"{path}: expected {key} {list(shape)} of the network, found {found}; {ANOTHER}")
    found = tensors[key]
    if tuple(found.shape) != shape:
        raise ValueError(f"{path}: expected {key} of shape {list(shape)}, found {list(found.shape)}; {ANOTHER}")
    tensor = _float32(torch.as_tensor(found), key, path)
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise ValueError(f"{path}: expected finite numbers in {key}, found {bad} NaN or infinite; fetch it again")
    return {key: tensor}


def _float32(tensor: torch.Tensor, key: str, path: Path) -> torch.Tensor:
    """The numbers, which must be there one by one: not quantized, sparse, or left out ("meta")."""
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.is_meta:
        kind = "meta" if tensor.is_meta else tensor.layout
        raise ValueError(
            f"{path}: expected floating-point numbers in {key}, found {tensor.dtype} ({kind}); "
            "save the network as float32, dense and on the CPU"
        )
    return tensor.detach().to(torch.float32).contiguous()


def _check_geometry(layer: Layer, said: protofiles.Geometry | None, path: Path) -> None:
    """A file that says how its convolution moves must say what our layer does."""
    if said is None:
        return
    expected = ({layer.stride}, {layer.padding}, layer.groups, {1})
    found = (set(said.stride) or {1}, set(said.padding) or {0}, said.groups, set(said.dilation) or {1})
    if found != expected:
        raise ValueError(
            f"{path}: expected {layer.name} with stride, padding, groups and dilation {_listed(expected)}, "
            f"found {_listed(found)}; {ANOTHER}"
        )


def _listed(numbers) -> str:
    """Numbers and sets of numbers in words: 4, 0, 1 and 1; one for each direction as 4 x 2."""
    *most, last = (" x ".join(map(str, sorted(n))) if isinstance(n, set) else str(n) for n in numbers)
    return f"{', '.join(most)} and {last}"


def describe(name: str | Path) -> dict[str, str]:
    """What a source's file or another is, as `weights check` prints it. Raises as load does.

    A relative path is one of the folder the command is typed in.
    """
    if name == "random":
        raise ValueError("'random' is no file: its values are drawn when it is loaded")
    name, path, source = _found(name, Path.cwd())
    contents = _read(path)
    trunk = _trunk(contents, path, source and source.order, name)
    if source:
        told = "as `weights list` has it"
    elif contents.order:
        told = f"as {contents.told_by} told"
    else:
        told = "by default: the file does not say, load(…, order=…) does"
    return {
        "file": str(path),
        "sha256": download.checksum_of(path, "sha256"),
        "maps": "-".join(str(layer.maps) for layer in trunk.layers),
        "order": f"{trunk.order}, {told}",
        "images": f"{trunk.transform.colour}, times {trunk.transform.scale:.4g}, minus {trunk.transform.mean}, "
        f"over {trunk.transform.std}",
        "values": ", ".join(f"{l.name} {trunk.get_submodule(l.name).weight.std():.4f}" for l in trunk.layers)
        + " (standard deviations of the weights)",
    }
