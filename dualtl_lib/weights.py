"""Where a trained trunk comes from, reading other people's files safely, and keeping trained models.

`load` gives a trunk by name or from a file; SOURCES is the table of what is known, in the manner of torchvision's
weights enums. Foreign files are parsed, never executed. A file that does not hold the network stops with one error.
"""

import contextlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import nn

from . import caffenet, download, protofiles, runs
from .caffenet import CAFFENET, TORCHVISION_ALEXNET, AttributeNet, ExpressionNet, Preprocessing, Trunk
from .protofiles import Contents

EMBEDDED = Path(__file__).parent / "data" / "embedded.safetensors"
ORDER = "pool-norm"  # where neither the caller nor the file says: the paper's network (READING's first point)
FEATURES = {"features.0": "conv1", "features.3": "conv2", "features.6": "conv3", "features.8": "conv4"}
FEATURES["features.10"] = "conv5"  # torchvision's names

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
    layers: tuple[caffenet.Layer, ...] = CAFFENET
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


def data_root() -> Path:
    """The folder with data sets and weights: DUALTL_DATA, or `../shared/data` beside the repository.

    Raises FileNotFoundError saying what to set where it is missing.
    """
    root = Path(os.environ.get("DUALTL_DATA") or runs.HOME / "../shared/data").expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"no data folder at {root}; name yours with DUALTL_DATA=<folder>, or `make … DATA=<folder>`"
        )
    return root.resolve()


def expand(path: str | Path) -> Path:
    """A path in which `$DATA/` stands for the data root and `~` for the home folder."""
    text = str(path)
    return data_root() / text[6:] if text.startswith("$DATA/") else Path(text).expanduser()


def cache() -> Path:
    """The folder for downloaded weights: DUALTL_CACHE, or ~/.cache/dualtl."""
    return Path(os.environ.get("DUALTL_CACHE") or "~/.cache/dualtl").expanduser()


def load(name: str | Path, order: str | None = None, seed: int = 0) -> Trunk:
    """A trunk by its name in SOURCES, or from a .caffemodel, .onnx, .safetensors or .pth file.

    order: "pool-norm" or "norm-pool"; None takes the source's, then what the file says, then "pool-norm".
    seed: of the initial values of "random". Raises ValueError for an unknown name and for a file that does not hold
    the network, FileNotFoundError for one that is missing, saying how to get it.
    """
    name = str(name)
    if name == "random":
        return _random(order or ORDER, seed)
    source = SOURCES.get(name)
    path = _located(name, source) if source else expand(name)
    contents = read(path)
    return _trunk(contents, path, order or (source and source.order), name if source else path.name)


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
    folders = [cache(), Path(torch.hub.get_dir()) / "checkpoints"]
    with contextlib.suppress(FileNotFoundError):
        folders[1:1] = [data_root(), data_root() / "caffemodel", data_root() / "weights"]
    return [folder / source.file for folder in folders]


def _located(name: str, source: Source) -> Path:
    """The source's file, its checksum compared."""
    if source.file is None:
        return EMBEDDED
    for path in places(source):
        if path.exists():
            download.verify(path, source.checksum)
            return path
    raise FileNotFoundError(
        f"{name}: {source.file} is not here; `python -m dualtl_lib weights fetch {name}` downloads it, "
        f"or put it into {cache()}"
    )


def where(name: str) -> str:
    """In a word, whether a source can be loaded now."""
    source = SOURCES[name]
    if name == "embedded":
        return "here" if EMBEDDED.exists() else "missing"
    if source.file is None or any(path.exists() for path in places(source)):
        return "here"
    return "to be fetched"


def fetch(name: str, url: str | None = None) -> Path:
    """Download a source's file into the cache; url names another place to take it from. Returns its path."""
    source = SOURCES.get(name)
    if source is None or source.url is None:
        known = ", ".join(n for n, s in SOURCES.items() if s.url)
        raise ValueError(f"{name!r} is nothing to fetch; there are {known}")
    return download.fetch(url or source.url, cache() / source.file, source.checksum, source.size)


def read(path: Path) -> Contents:
    """What a file of weights holds, by its ending. Raises ValueError or FileNotFoundError."""
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"no weights {str(path)!r}; known names are {', '.join(SOURCES)}, known files {', '.join(READERS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return reader(path)


def metadata(path: Path) -> dict:
    """What a safetensors file says of itself; for this project's own, everything given to save_model."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            found = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file: {error}; fetch or make it again") from error
    try:
        return {k: v for k, v in found.items() if k != "dualtl"} | json.loads(found.get("dualtl", "{}"))
    except ValueError as error:
        raise ValueError(f"{path}: its metadata cannot be read: {error}") from error


def _read_safetensors(path: Path) -> Contents:
    said = metadata(path)
    if "kind" in said and said["kind"] != "Trunk":
        raise ValueError(f"{path}: expected a trunk, found a trained {said['kind']}; weights.load_model reads it")
    with safetensors.safe_open(path, "pt") as file:
        wanted = [k for k in file.keys() if k.startswith(("conv", "features."))]  # noqa: SIM118
        tensors = {k: file.get_tensor(k).clone() for k in wanted}  # a copy, so that the file may go
    order, source = said.get("order"), said.get("source", "")
    if order is None and "LRN before pooling" in source:
        order = "norm-pool"
    return Contents(tensors, order, "its metadata" if order else "", metadata=said)


def _read_pickle(path: Path) -> Contents:
    """A PyTorch state dict. Only tensors are unpickled: code in the file is refused, not run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: expected a PyTorch file of tensors only, found something else; nothing in it was run ({reason})"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected a state dict of tensors, found a {type(state).__name__}")
    return Contents({str(k): v for k, v in state.items()})


READERS: dict[str, Callable[[Path], Contents]] = {
    ".caffemodel": protofiles.read_caffemodel,
    ".onnx": protofiles.read_onnx,
    ".safetensors": _read_safetensors,
    ".pth": _read_pickle,
    ".pt": _read_pickle,
}


def _architecture(said: dict, tensors: dict) -> tuple[tuple[caffenet.Layer, ...], Preprocessing]:
    """The layer table and preprocessing: from the metadata where they are there, or else told by conv1's maps."""
    first = tensors.get("conv1.weight")
    torchvision = first is not None and len(first) == TORCHVISION_ALEXNET[0].maps
    layers, transform = (TORCHVISION_ALEXNET, TORCHVISION_TRANSFORM) if torchvision else (CAFFENET, CAFFE_TRANSFORM)
    if "layers" in said:
        layers = tuple(caffenet.Layer(**layer) for layer in said["layers"])
    if "transform" in said:
        transform = Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in said["transform"].items()})
    return layers, transform


def _trunk(contents: Contents, path: Path, order: str | None, name: str) -> Trunk:
    """The trunk that a file holds. Raises ValueError naming the first thing that does not fit."""
    tensors = {_renamed(key): value for key, value in contents.tensors.items()}
    layers, transform = _architecture(contents.metadata, tensors)
    state, maps = {}, 3
    for layer in layers:
        side = (layer.kernel, layer.kernel)
        state |= _checked(tensors, f"{layer.name}.weight", (layer.maps, maps // layer.groups, *side), path)
        state |= _checked(tensors, f"{layer.name}.bias", (layer.maps,), path)
        _check_geometry(layer, contents.geometry.get(layer.name), path)
        maps = layer.maps
    with torch.device("meta"):  # no initial values, so no random numbers are drawn
        trunk = Trunk(layers, order or contents.order or ORDER, transform, name)
    trunk.load_state_dict(state, assign=True)
    return trunk


def _renamed(key: str) -> str:
    """torchvision's features.N as convN; any other name as it is."""
    module, _, parameter = key.rpartition(".")
    return f"{FEATURES.get(module, module)}.{parameter}"


def _checked(tensors: dict, key: str, shape: tuple[int, ...], path: Path) -> dict:
    """{key: float32 tensor}, if it is there, of that shape and finite."""
    if key not in tensors:
        found = ", ".join(sorted(k for k in tensors if k.endswith(".weight"))[:8]) or "no convolution"
        raise ValueError(f"{path}: expected {key} {list(shape)} of the network, found {found}; another network's file?")
    found = tensors[key]
    if tuple(found.shape) != shape:
        raise ValueError(
            f"{path}: expected {key} of shape {list(shape)}, found {list(found.shape)}; another network's file?"
        )
    tensor = torch.as_tensor(found).to(torch.float32).contiguous()
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise ValueError(f"{path}: expected finite numbers in {key}, found {bad} NaN or infinite; fetch it again")
    return {key: tensor}


def _check_geometry(layer: caffenet.Layer, said: protofiles.Geometry | None, path: Path) -> None:
    """A file that says how its convolution moves must say what our layer does."""
    if said is None:
        return
    expected = (layer.stride, layer.padding, layer.groups)
    found = (set(said.stride) or {1}, set(said.padding) or {0}, said.groups)
    if found != ({expected[0]}, {expected[1]}, expected[2]):
        raise ValueError(
            f"{path}: expected {layer.name} with stride, padding and groups {expected}, "
            f"found {tuple(said.stride)}, {tuple(said.padding)}, {said.groups}; another network's file?"
        )


def describe(path: str | Path) -> dict[str, str]:
    """What a file of weights is, as `weights check` prints it. Raises as load does."""
    path = expand(path)
    contents = read(path)
    trunk = _trunk(contents, path, None, path.name)
    return {
        "file": str(path),
        "sha256": download.checksum_of(path, "sha256"),
        "maps": "-".join(str(layer.maps) for layer in trunk.layers),
        "order": f"{trunk.order}, as {contents.told_by} told"
        if contents.order
        else f"{trunk.order}, by default: the file does not say, load(…, order=…) does",
        "images": f"{trunk.transform.colour}, times {trunk.transform.scale:.4g}, minus {trunk.transform.mean}, "
        f"over {trunk.transform.std}",
        "values": ", ".join(f"{l.name} {trunk.get_submodule(l.name).weight.std():.4f}" for l in trunk.layers)
        + " (standard deviations of the weights)",
    }


def save_model(
    model: Trunk | AttributeNet | ExpressionNet, path: Path, dtype: torch.dtype | None = None, **meta
) -> Path:
    """Keep a trained model, or a trunk, as safetensors; its architecture and `meta` (JSON values) go with it.

    dtype: of the numbers on disk, such as torch.float16; None leaves them as they are. The file appears whole or
    not at all. The same model and meta give the same bytes.
    """
    trunk = model if isinstance(model, Trunk) else model.trunk
    own = {
        "kind": type(model).__name__,
        "layers": [layer._asdict() for layer in trunk.layers],
        "order": trunk.order,
        "transform": trunk.transform._asdict(),
        "name": trunk.name,
    }
    if model is not trunk:
        own |= {"classes": list(model.classes), "dropout": model.dropout.p}
    if isinstance(model, ExpressionNet):
        own["conv5"] = model.conv5
    if clash := own.keys() & meta.keys():
        raise ValueError(f"{', '.join(sorted(clash))}: save_model writes this itself; give it another name")
    state = {k: v.detach().cpu().to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    with runs.replacing(path) as part:
        save_file(state, part, metadata={"dualtl": json.dumps(own | meta, sort_keys=True)})
    return Path(path)


def load_model(path: str | Path) -> AttributeNet | ExpressionNet:
    """The trained model that save_model kept, ready to evaluate. Raises ValueError for any other file."""
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    said = metadata(path)
    kind = said.get("kind")
    if kind not in ("AttributeNet", "ExpressionNet"):
        raise ValueError(
            f"{path}: expected a model kept by save_model, found {kind or 'a file without that mark'}; "
            "weights.load reads trunks"
        )
    try:
        layers, transform = _architecture(said, {})
        with torch.device("meta"):
            trunk = Trunk(layers, said["order"], transform, said["name"])
            model = (
                AttributeNet(trunk, said["classes"], said["dropout"])
                if kind == "AttributeNet"
                else ExpressionNet(trunk, said["classes"], said["conv5"], said["dropout"])
            )
        with safetensors.safe_open(path, "pt") as file:
            state = {k: file.get_tensor(k).float().clone() for k in file.keys()}  # noqa: SIM118
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a whole {kind}, found one that does not fit together: {error}") from error
    return model.eval()
