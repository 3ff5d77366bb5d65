"""What the frozen first layers make of a data set: the same at every iteration, so computed once."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualtl_lib import runs

CHUNK = 50  # images at a time; fixed, so that the cached bits do not depend on who asks
LIMIT = 4 << 30  # bytes


def pixels(faces, indices) -> Tensor:
    """The images at these indices, uint8 [n, 3, 227, 227]."""
    return torch.from_numpy(np.ascontiguousarray(faces.images[np.asarray(indices)]))


class Prefix:
    """Feature maps of the frozen layers for every image of a data set; `prefix[indices]` gives [n, C, H, W].

    model: its `frozen()` layers are what is computed. None frozen: `prefix[indices]` gives the transformed images.
    limit: bytes. A cache that would be larger is not made; the maps are then computed each time they are asked for.
    folder: where the cache is kept, as a file named after its content (the images, and the weights and order of the
        layers) and shared by all that ask for the same; older caches there make room when the limit would be passed.
        None keeps it in memory.
    """

    def __init__(self, model: nn.Module, faces, limit: int = LIMIT, folder: Path | None = None):
        self.trunk, self.faces, self.frozen = model.trunk, faces, model.frozen()
        shape = model.trunk.shapes()[self.frozen[-1]] if self.frozen else ()
        self.shape = (len(faces), *shape)
        self.bytes = int(np.prod(self.shape)) * 4
        self.cached = None
        if self.frozen and self.bytes <= limit:
            self.cached = self._file(Path(folder), limit) if folder else self._fill(np.empty(self.shape, "f4"))

    @property
    def start(self) -> str | None:
        """The layer that training starts from, or None where every layer is frozen."""
        rest = [layer.name for layer in self.trunk.layers if layer.name not in self.frozen]
        return rest[0] if rest else None

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, indices) -> Tensor:
        if self.cached is not None:
            return torch.from_numpy(self.cached[np.asarray(indices)])
        return self.compute(indices)

    @torch.no_grad()
    def compute(self, indices) -> Tensor:
        """The maps of these images without the cache."""
        x = self.trunk.transform(pixels(self.faces, indices).to(self.trunk.conv1.weight.device))
        return self.trunk(x, stop=self.frozen[-1]) if self.frozen else x

    def _fill(self, out: np.ndarray) -> np.ndarray:
        progress = tqdm(range(0, len(self), CHUNK), desc=f"frozen {', '.join(self.frozen)}", leave=False)
        for begin in progress:
            part = range(begin, min(begin + CHUNK, len(self)))
            out[begin : part.stop] = self.compute(part).cpu().numpy()
        return out

    def key(self) -> str:
        """A fingerprint of all that the maps depend on: the images, the frozen weights, the trunk's order."""
        weights = [
            p.detach().cpu().numpy().tobytes()
            for name in self.frozen
            for p in self.trunk.get_submodule(name).parameters()
        ]
        about = repr((self.trunk.layers, self.trunk.order, self.trunk.transform, self.frozen)).encode()
        return runs.fingerprint(about, *weights, content(self.faces).encode())

    def _file(self, folder: Path, limit: int) -> np.ndarray:
        path = folder / f"prefix-{self.key()}.npy"
        if path.exists():
            os.utime(path)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            others = sorted(folder.glob("prefix-*.npy"), key=lambda p: p.stat().st_mtime)
            while others and self.bytes + sum(p.stat().st_size for p in others) > limit:
                others.pop(0).unlink(missing_ok=True)  # another process may have been faster
            with runs.replacing(path) as part:
                self._fill(np.lib.format.open_memmap(part, "w+", "f4", self.shape)).flush()
        return np.load(path, mmap_mode="r")


def content(faces) -> str:
    """A fingerprint of a data set: every pixel, and the targets."""
    blocks = (faces.images[np.arange(i, min(i + 256, len(faces)))].tobytes() for i in range(0, len(faces), 256))
    return runs.fingerprint(np.ascontiguousarray(faces.targets).tobytes(), *blocks)
