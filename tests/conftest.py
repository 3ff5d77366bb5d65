"""What every test shares: where real material is, and a folder for what runs write."""

import os
from pathlib import Path

import pytest
import torch

from dualtl_lib import runs

torch.set_num_threads(1)  # two tests run at a time


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real weights and faces; tests that need it skip where it is absent."""
    root = Path(os.environ.get("DUALTL_DATA", runs.HOME.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"needs real weights and faces: no folder {root.name!r} at DUALTL_DATA")
    return root


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """An empty folder in which runs/ and figures/ are written in place of the checkout's."""
    monkeypatch.setattr(runs, "OUTPUT", tmp_path)
    return tmp_path
