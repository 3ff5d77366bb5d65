"""Pretrained weights: the registry of sources, in the manner of torchvision's weights enums, and `load_trunk`.

A source carries its order of pooling and normalization, its preprocessing, licence and checksum. Foreign files are
parsed, never executed. A file that does not hold the network stops with one error.
"""

import contextlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from dualtl_lib import files
from dualtl_lib.models import download, readers
from dualtl_lib.models.caffenet import CAFFENET, TORCHVISION_ALEXNET, Layer, Preprocessing, Trunk
from dualtl_lib.models.contents import Contents, Geometry, mismatch

EMBEDDED = Path(__file__).parent / "embedded.safetensors"
ORDER = "pool-norm"  # where neither the caller nor the file has one: the paper's network (docs/deviations.md)
ANOTHER = "name a file of CaffeNet or AlexNet: `python -m dualtl_lib weights list`"

# torchvision's AlexNet_Weights.IMAGENET1K_V1 has these, and a test compares them: importing torchvision takes longer
# than everything else here together.
TORCHVISION_TRANSFORM = Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ARCHITECTURES = {
    "caffenet": (CAFFENET, Preprocessing()),
    "torchvision-alexnet": (TORCHVISION_ALEXNET, TORCHVISION_TRANSFORM),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One set of trained weights: what it is, what it expects of its images, and where it comes from.

    Attributes:
        title: What it was trained on.
        order: "pool-norm" or "norm-pool".
        licence: Of the weights.
        architecture: A key of ARCHITECTURES: its layer table and its preprocessing.
        url: Its address; None where nothing is downloaded.
        checksum: "sha1:…" or "sha256:…", as its publisher gives it.
        size: In bytes, where its publisher gives it.
    """

    title: str
    order: str
    licence: str
    architecture: str = "caffenet"
    url: str | None = None
    checksum: str = ""
    size: int | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer table."""
        return ARCHITECTURES[self.architecture][0]

    @property
    def transform(self) -> Preprocessing:
        """The preprocessing that the weights were trained with."""
        return ARCHITECTURES[self.architecture][1]

    @property
    def file(self) -> str | None:
        """Its name in the cache or under the data root; None where nothing is downloaded."""
        return self.url and PurePosixPath(self.url).name


_TABLE = Path(__file__).with_name("sources.toml")
SOURCES = {name: Source(**entry) for name, entry in tomllib.loads(_TABLE.read_text("utf-8")).items()}


def load_trunk(name: str | Path | Enum, *, order: str | None = None, seed: int = 0) -> Trunk:
    """Load a trunk by its name in SOURCES, from a file, or by torchvision's enum.

    Args:
        name: A name in SOURCES, torchvision's `AlexNet_Weights`, or a .caffemodel, .onnx, .safetensors or .pth file; a
            relative path is of the repository, as in a config.
        order: "pool-norm" or "norm-pool". Default: the source's, then the file's, then "pool-norm".
        seed: Of the initial values of "random".

    Raises:
        FileNotFoundError: If the file is missing; the message has the command that downloads it.
        ValueError: If the name is unknown, or the file does not hold the network.
    """
    if name == "random":
        return _random(order or ORDER, seed)
    name, path, source = _find(name)
    return _trunk(readers.read(path), path, order or (source and source.order), name)


def _find(name: str | Path | Enum, base: Path | None = None) -> tuple[str, Path, Source | None]:
    """The name, the file, and the source where it is one of SOURCES."""
    url = getattr(name, "url", None)  # of torchvision's enum
    name = next((n for n, s in SOURCES.items() if url and s.url == url), str(name))
    if source := SOURCES.get(name):
        return name, _source_file(name, source), source
    if Path(name).suffix.lower() not in readers.READERS:
        known = f"{', '.join(SOURCES)}, or a file: {', '.join(readers.READERS)}"
        raise ValueError(f"no weights {name!r}; expected one of {known}")
    path = files.expand(name, base)
    return path.name, path, None


def _random(order: str, seed: int) -> Trunk:
    """BVLC's initial values: its AlexNet starts the biases of conv2, conv4 and conv5 at 0.1, the others at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = Trunk(order=order, name=f"random, seed {seed}")
    for layer in ("conv2", "conv4", "conv5"):
        nn.init.constant_(trunk.get_parameter(f"{layer}.bias"), 0.1)
    return trunk


def _places(file: str) -> Iterator[Path]:
    """Where a source's file may lie: the cache, the data root, PyTorch's own download folder."""
    with contextlib.suppress(OSError):  # no home folder
        yield files.cache_dir() / file
    with contextlib.suppress(OSError):  # no data root
        yield from (files.data_root() / folder / file for folder in ("", "caffemodel", "weights"))
    yield Path(torch.hub.get_dir()) / "checkpoints" / file


def _source_file(name: str, source: Source) -> Path:
    """The source's file, its checksum compared."""
    if source.file is None:
        return EMBEDDED
    for path in _places(source.file):
        if path.is_file():
            download.verify(path, source.checksum)
            return path
    raise FileNotFoundError(
        f"{name}: {source.file} is missing; `python -m dualtl_lib weights fetch {name}` downloads it, "
        f"or put it into {files.cache_dir()}"
    )


def where(name: str) -> str:
    """Return whether a source can be loaded now: "here", "missing" or "to be fetched".

    Args:
        name: In SOURCES.
    """
    file = SOURCES[name].file
    if name == "embedded":
        return "here" if EMBEDDED.exists() else "missing"
    return "here" if file is None or any(path.is_file() for path in _places(file)) else "to be fetched"


def fetch(name: str, url: str | None = None) -> Path:
    """Download a source's file into the cache, with its checksum compared.

    Args:
        name: In SOURCES.
        url: Another address of the same file.

    Returns:
        The file in the cache.

    Raises:
        ConnectionError: If the server cannot be reached, hangs up or offers a file of another size.
        OSError: If the cache folder is unknown, full or cannot be written.
        ValueError: If the source has nothing to download, and as in `download.fetch`.
    """
    source = SOURCES.get(name)
    if source is None or not (source.url and source.file):
        known = ", ".join(n for n, s in SOURCES.items() if s.url)
        raise ValueError(f"{name!r} has nothing to download; expected one of {known}")
    target = files.cache_dir() / source.file
    return download.fetch(url or source.url, target, checksum=source.checksum, size=source.size)


def describe(name: str | Path) -> dict[str, str]:
    """Describe a source's file or another, as `weights check` prints it.

    Args:
        name: A name in SOURCES or a file; a relative path is of the working directory.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: As load_trunk, and for "random", which has no file.
    """
    if name == "random":
        raise ValueError("'random' has no file: its values are drawn when it is loaded")
    name, path, source = _find(name, Path.cwd())
    contents = readers.read(path)
    trunk = _trunk(contents, path, source and source.order, name)
    origin = f"from {contents.order_from}" if contents.order else "by default; load_trunk(…, order=…) chooses another"
    mean, std = trunk.transform.mean, trunk.transform.std
    deviations = (f"{l.name} {trunk.get_parameter(f'{l.name}.weight').std():.4f}" for l in trunk.layers)
    return {
        "file": str(path),
        "sha256": download.checksum_of(path, "sha256"),
        "maps": "-".join(str(layer.maps) for layer in trunk.layers),
        "order": f"{trunk.order}, {'from `weights list`' if source else origin}",
        "images": f"{trunk.transform.colour}, times {trunk.transform.scale:.4g}, minus {mean}, over {std}",
        "values": f"{', '.join(deviations)} (standard deviations of the weights)",
    }


# --- from the contents of a file to a trunk


def _trunk(contents: Contents, path: Path, order: str | None, name: str) -> Trunk:
    """The trunk that a file holds. Raises ValueError naming the first thing that does not fit."""
    layers, transform = readers.architecture(contents.metadata, path)
    torchvision = (64, 3, 11, 11) in {tuple(t.shape) for t in contents.tensors.values()}
    usual = ARCHITECTURES["torchvision-alexnet" if torchvision else "caffenet"]
    layers, transform, state = layers or usual[0], transform or usual[1], {}
    for layer, shape, stem in _matched(layers, contents.tensors, path):
        expected = Geometry((layer.stride,), (layer.padding,), layer.groups)
        if (given := contents.geometry.get(stem, expected)) != expected:
            raise mismatch(path, f"{layer.name} with {expected}", given, ANOTHER)
        state[f"{layer.name}.weight"] = _checked(contents.tensors, f"{stem}.weight", shape, path)
        state[f"{layer.name}.bias"] = _checked(contents.tensors, f"{stem}.bias", shape[:1], path)
    try:
        with torch.device("meta"):  # no initial values, so no random numbers are drawn
            trunk = Trunk(layers, order=order or contents.order or ORDER, transform=transform, name=name)
        trunk.load_state_dict(state, assign=True)
    except (ValueError, KeyError, RuntimeError) as error:
        raise mismatch(path, "a network that can be built", error, "make the file again") from error
    return trunk


def _matched(
    layers: tuple[Layer, ...], tensors: Mapping[str, Any], path: Path
) -> Iterator[tuple[Layer, tuple[int, ...], str]]:
    """Each layer with its weights' shape and its name in the file.

    Names other than the layers' own, such as "module.features.0", are matched by the shapes of their weights, which
    are all different in both architectures.
    """
    own_names = all(f"{layer.name}.weight" in tensors for layer in layers)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items() if len(tensor.shape) == 4}
    maps = 3
    for layer in layers:
        shape = (layer.maps, maps // layer.groups, layer.kernel, layer.kernel)
        stems = [k.removesuffix(".weight") for k, s in shapes.items() if s == shape and k.endswith(".weight")]
        if own_names:
            stems = [layer.name]
        if len(stems) > 1:
            advice = "save one network alone, with torch.save(model.state_dict(), …)"
            raise mismatch(path, f"one weight of {layer.name}'s shape", ", ".join(sorted(stems)[:8]), advice)
        if not stems:
            found = ", ".join(f"{k} {list(s)}" for k, s in sorted(shapes.items())[:8]) or "no convolution"
            advice = f"{ANOTHER}; pruned, normalized and quantized weights are not read"
            raise mismatch(path, f"a tensor named *.weight of {layer.name}'s shape {list(shape)}", found, advice)
        yield layer, shape, stems[0]
        maps = layer.maps


def _checked(tensors: Mapping[str, Any], key: str, shape: tuple[int, ...], path: Path) -> torch.Tensor:
    """A float32 tensor, if it is there, of that shape, of floating-point numbers and finite."""
    if key not in tensors:
        raise mismatch(path, f"{key} {list(shape)}", "no tensor of that name", ANOTHER)
    if tuple(tensors[key].shape) != shape:
        raise mismatch(path, f"{key} of shape {list(shape)}", list(tensors[key].shape), ANOTHER)
    tensor = readers.as_float32(tensors[key], key, path)
    if bad := int((~tensor.isfinite()).sum()):
        raise mismatch(path, f"finite numbers in {key}", f"{bad} NaN or infinite", "fetch it again")
    return tensor
