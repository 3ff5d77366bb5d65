"""What every test shares: where real material is, and a folder for what runs write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualtl_lib import config, files
from dualtl_lib.experiment import pipeline
from dualtl_lib.models.caffenet import CAFFENET, Trunk

torch.set_num_threads(1)  # two tests run at a time


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real weights and faces; tests that need it skip where it is absent."""
    root = Path(os.environ.get("DUALTL_DATA", files.PROJECT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"needs real weights and faces: no folder {root.name!r} at DUALTL_DATA")
    return root


class Checkout:
    """A copy of the library, the configs and the notebooks, where what they make is written too.

    data: the folder of the synthetic faces, which the copy shares.
    """

    def __init__(self, folder: Path, data: Path):
        self.folder = folder
        for part in ("dualtl_lib", "config", "notebooks"):
            shutil.copytree(files.PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "runs").mkdir()
        (folder / "runs" / "data").symlink_to(data)

    def run(self, *module: str) -> subprocess.CompletedProcess:
        """python -m module and its arguments, with this library."""
        return subprocess.run(
            [sys.executable, "-m", *module],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "DUALTL_OUTPUT": str(self.folder)},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def new_checkout(tmp_path_factory):
    """What makes a `Checkout`, beside the faces that `make test` has made for the notebooks, or that are made now."""
    run = config.open_run("embedded")
    pipeline.ckplus(run)
    pipeline.celeba(run)
    return lambda: Checkout(tmp_path_factory.mktemp("checkout"), files.OUTPUT / "runs" / "data")


@pytest.fixture(scope="module")
def shallow() -> Trunk:
    """conv1 and conv2 with random weights, larger than BVLC's fillers so that neurons are active."""
    torch.manual_seed(0)
    trunk = Trunk(CAFFENET[:2])
    for layer in trunk.layers:
        torch.nn.init.normal_(trunk.get_submodule(layer.name).weight, std=0.05)
    return trunk


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """An empty folder in which runs/ and figures/ are written in place of the checkout's."""
    monkeypatch.setattr(config, "OUTPUT", tmp_path)
    return tmp_path
