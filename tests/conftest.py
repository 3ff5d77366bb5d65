"""What every test shares: where real material is, and a folder for what runs write."""

import os
from pathlib import Path

import pytest
import torch

from dualtl_lib import materials, runs
from dualtl_lib.caffenet import CAFFENET, Trunk

torch.set_num_threads(1)  # two tests run at a time


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real weights and faces; tests that need it skip where it is absent."""
    root = Path(os.environ.get("DUALTL_DATA", runs.HOME.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"needs real weights and faces: no folder {root.name!r} at DUALTL_DATA")
    return root


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the synthetic faces that `make test` has made for the notebooks, or makes now."""
    run = runs.open_run("embedded")
    materials.ckplus(run)
    materials.celeba(run)
    return runs.OUTPUT / "runs" / "data"


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
    monkeypatch.setattr(runs, "OUTPUT", tmp_path)
    return tmp_path
