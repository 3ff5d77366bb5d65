"""The state of a training on disk: whole or not there, and never mistaken for another's."""

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dualtl_lib import files
from dualtl_lib.train.frozen import content
from dualtl_lib.train.optimizer import CaffeSGD


class OtherTraining(ValueError):
    """A checkpoint that belongs to another recipe, data set, seed or initial model."""


class Checkpoint:
    """The state of a training in one safetensors file, replaced as a whole or not at all.

    Weights are kept under their names in the model, momentum buffers under "momentum." and the name; the metadata
    holds the iteration, the history, and fingerprints of what was trained on what from where.
    """

    def __init__(self, path: Path, model, solver: CaffeSGD, recipe, train, seed: int, how: dict, writes=True):
        self.path, self.model, self.solver, self.writes = Path(path), model, solver, writes
        self.origin = {
            "recipe": json.dumps(dataclasses.asdict(recipe)),
            "seed": str(seed),
            "data": files.fingerprint(np.ascontiguousarray(train.targets).tobytes(), content(train.images).encode()),
            "model": fingerprint(model),
            **{k: str(v) for k, v in how.items()},
        }
        self.saved, self.time = None, time.monotonic()
        if writes:
            self._prepare()

    def _prepare(self):
        """Find out now rather than in an hour whether the folder can be written to."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.path.parent.glob(f".{self.path.stem}.*{self.path.suffix}"):
                stale.unlink()  # what a killed process was writing
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as e:
            raise OSError(f"no checkpoint can be written to {self.path.parent} ({e}); name another folder") from e

    def age(self) -> float:
        """Seconds since the last one was written."""
        return time.monotonic() - self.time

    def save(self, iteration: int, history: dict, finished: bool = False):
        """Write the state before this iteration. A finished training needs no momentum any more."""
        if not self.writes:
            return
        tensors = {k: v.cpu().contiguous() for k, v in self.model.state_dict().items()}
        if not finished:
            tensors |= {name: t.cpu() for name, t in self._buffers().items()}
        metadata = {
            "kind": "state of a training",
            **self.origin,
            "iteration": str(iteration),
            "history": json.dumps(history),
        }
        try:
            with files.atomic_write(self.path) as part:
                save_file(tensors, part, metadata)
                with open(part) as f:
                    os.fsync(f.fileno())  # on the disk before it takes the old one's place
        except (OSError, safetensors.SafetensorError) as e:
            kept = "there is none yet" if self.saved is None else f"that of iteration {self.saved} stays"
            raise OSError(f"the checkpoint {self.path} cannot be written ({e}); {kept}") from e
        self.saved, self.time = iteration, time.monotonic()

    def _buffers(self) -> dict[str, Tensor]:
        """What the solver remembers, by name in the file."""
        found = {f"momentum.{m.name}": m.speed for m in self.solver.moved}
        return found | {f"pushed.{m.name}": m.pushed for m in self.solver.moved if m.pushed is not None}

    def resume(self, kept: dict[str, str], history: dict) -> int:
        """Load the file, whose `metadata` is kept, into model, solver and history; the iteration to go on from.

        Raises OtherTraining where it belongs to another.
        """
        for what, mine in self.origin.items():
            if kept.get(what) != mine:
                raise OtherTraining(
                    f"{self.path} is of another training: its {what} is {kept.get(what)}, this one's is {mine}. "
                    "Delete the file to start anew, or name another"
                )
        tensors = load_file(self.path)
        remembered = {k: tensors.pop(k) for k in list(tensors) if k.startswith(("momentum.", "pushed."))}
        self.model.load_state_dict(tensors)
        if remembered:
            for name, buffer in self._buffers().items():
                buffer.copy_(remembered[name])
        history.update(json.loads(kept["history"]))
        self.saved = int(kept["iteration"])
        return self.saved


def metadata(path: Path) -> dict[str, str] | None:
    """What a checkpoint says about itself; None where there is no file. Raises ValueError for one of another kind."""
    if not Path(path).exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as f:
            return f.metadata() or {}
    except safetensors.SafetensorError as e:
        raise ValueError(f"{path} is not a checkpoint of a training ({e}); delete it or name another") from e


def fingerprint(model: nn.Module) -> str:
    """Of a model's weights, which of them train, and how the trunk treats its images."""
    about = [
        repr((model.trunk.layers, model.trunk.order, model.trunk.transform, model.classes, model.dropout.p)),
        *(f"{name} {p.requires_grad}" for name, p in model.named_parameters()),
    ]
    return files.fingerprint(
        *(a.encode() for a in about), *(p.detach().cpu().numpy().tobytes() for p in model.parameters())
    )
