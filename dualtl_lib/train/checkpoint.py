"""Checkpoints: the state of a training in one file, replaced as a whole and never taken for another training's."""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.torch import load_file, save_file
from torch import nn, optim

from dualtl_lib import files
from dualtl_lib.data.dataset import Faces
from dualtl_lib.train.frozen import Model, fingerprint_of
from dualtl_lib.train.recipe import Recipe


class OtherTraining(ValueError):
    """A checkpoint belongs to another recipe, data set, seed, precision or initial model."""


class Checkpoint:
    """The checkpoint file of one training.

    Tensors are named as in the model's state dict, or `optimizer.<number of the parameter>.<key>`.

    Args:
        path: A safetensors file, made with its folder.
        model: The model in training.
        optimizer: Its optimizer.
        origin: What identifies the training, by name; see `origin`.
        writes: Whether this process writes the file. Of several processes rank 0 does.

    Raises:
        OSError: If the folder cannot be written to.
    """

    def __init__(
        self, path: Path, model: nn.Module, optimizer: optim.Optimizer, origin: dict[str, str], *, writes: bool = True
    ):
        self.path, self.model, self.optimizer, self.origin, self.writes = Path(path), model, optimizer, origin, writes
        self.saved: int | None = None  # iteration of the file's state
        self.time = time.monotonic()
        if writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.path.parent.glob(f".{self.path.stem}.*{self.path.suffix}"):
                stale.unlink()  # unfinished file of a killed process
            tempfile.TemporaryFile(dir=self.path.parent).close()  # fails now rather than in an hour

    def age(self) -> float:
        """Seconds since the file was written last."""
        return time.monotonic() - self.time

    def save(self, iteration: int, history: Mapping[str, Any], *, finished: bool = False) -> None:
        """Write the state before an iteration; that of a finished training has no momentum buffers.

        Raises:
            OSError: If the file cannot be written. The last one stays.
        """
        if not self.writes:
            return
        tensors = {name: t.cpu().contiguous() for name, t in self.model.state_dict().items()}
        state = {} if finished else self.optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{i}.{key}": t.cpu() for i, of in state.items() for key, t in of.items()}
        metadata = {**self.origin, "iteration": str(iteration), "history": json.dumps(history)}
        try:
            with files.atomic_write(self.path) as part:
                save_file(tensors, part, metadata)
                with open(part, "r+b") as f:
                    os.fsync(f.fileno())  # on the disk before it takes the old one's place
        except (OSError, safetensors.SafetensorError) as e:
            kept = "there is none yet" if self.saved is None else f"that of iteration {self.saved} stays"
            raise OSError(f"{self.path}: the checkpoint cannot be written ({e}); {kept}") from e
        self.saved, self.time = iteration, time.monotonic()

    def load(self, metadata: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Load the file, whose `metadata` is given, into model and optimizer.

        Returns:
            The iteration to continue with, and the history.

        Raises:
            OtherTraining: If the file belongs to another training.
        """
        for name, expected in self.origin.items():
            if metadata.get(name) != expected:
                raise OtherTraining(
                    f"{self.path}: expected a checkpoint with {name} {expected}, found {metadata.get(name)}; "
                    "delete the file to start anew, or name another"
                )
        tensors, content = load_file(self.path), self.optimizer.state_dict()
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            _, number, key = name.split(".")
            content["state"].setdefault(int(number), {})[key] = tensors.pop(name)
        self.model.load_state_dict(tensors)
        self.optimizer.load_state_dict(content)
        self.saved = int(metadata["iteration"])
        return self.saved, json.loads(metadata["history"])


def read_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of a checkpoint: iteration, history, precision and what else identifies its training.

    Returns:
        None if there is no file.

    Raises:
        ValueError: If the file is no checkpoint.
    """
    if not Path(path).exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as f:
            return f.metadata() or {}
    except safetensors.SafetensorError as e:
        raise ValueError(f"{path}: expected a checkpoint of a training, found another file ({e}); delete it") from e


def origin(model: Model, data: Faces, recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, str]:
    """What identifies a training: its settings, and fingerprints of its data and of the model at its start."""
    trunk, weights = model.trunk, dict(model.named_parameters())
    structure = trunk.layers, trunk.order, trunk.transform, model.classes, model.dropout.p
    trained = [name for name, p in weights.items() if p.requires_grad]
    tensors = (p.detach().cpu().numpy().tobytes() for p in weights.values())
    return {
        **{name: str(value) for name, value in settings.items()},
        "recipe": json.dumps(dataclasses.asdict(recipe)),
        "data": files.fingerprint(np.asarray(data.targets).tobytes(), fingerprint_of(data.images).encode()),
        "model": files.fingerprint(repr((structure, trained)).encode(), *tensors),
    }
