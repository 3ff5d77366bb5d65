"""What the frozen first layers make of a data set: the same at every iteration, so computed once."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualtl_lib import runs
from dualtl_lib.precision import autocast

CHUNK = 50  # images at a time; fixed, so that the cached bits do not depend on who asks
LIMIT = 4 << 30  # bytes
KEPT_AS = {"float32": "f4", "bfloat16": "i2"}  # NumPy has no bfloat16: its bits are kept as integers


def pixels(faces, indices) -> Tensor:
    """The images at these indices, uint8 [n, 3, 227, 227]."""
    return torch.from_numpy(np.ascontiguousarray(faces.images[np.asarray(indices)]))


class Prefix:
    """Feature maps of the frozen layers for every image of a data set; `prefix[indices]` gives [n, C, H, W].

    model: its `frozen()` layers are what is computed. None frozen: `prefix[indices]` gives the transformed images.
    limit: bytes. A cache that would be larger is not made; the maps are then computed each time they are asked for.
    folder: where the cache is kept, as a file named after its content (the images, and the weights and order of the
        layers) and shared by all that ask for the same. Faces that are a part of a larger set (`Faces.subset`) share
        one file for all of it where that fits, so folds and protocols compute it once; and what fewer frozen layers
        have left there is gone on from. Older caches make room when the limit would be passed. None: in memory.
    precision: "float32", or "bfloat16": maps are computed and kept in it, in half the bytes. The next layer, which
        computes in it too, would round them to it anyway, so nothing is lost.
    """

    def __init__(
        self, model: nn.Module, faces, limit: int = LIMIT, folder: Path | None = None, precision: str = "float32"
    ):
        self.trunk, self.faces, self.frozen = model.trunk, faces, model.frozen()
        self.precision, self.dtype, self.kept_as = precision, getattr(torch, precision), KEPT_AS[precision]
        self.maps = model.trunk.shapes()[self.frozen[-1]] if self.frozen else ()
        self.cached, self.rows = None, np.arange(len(faces))
        if not self.frozen or self.bytes > limit:
            return
        if folder is None:
            self.cached = self._fill(np.empty((len(faces), *self.maps), self.kept_as), faces.images)
            return
        images = faces.images
        if hasattr(images, "rows") and self.bytes * len(images.pixels) <= limit * len(images):
            self.rows, images = images.rows, images.pixels
        self.cached = self._file(images, Path(folder), limit)

    @property
    def bytes(self) -> int:
        """What the maps of these faces take."""
        return len(self) * int(np.prod(self.maps)) * self.dtype.itemsize

    @property
    def start(self) -> str | None:
        """The layer that training starts from, or None where every layer is frozen."""
        rest = [layer.name for layer in self.trunk.layers if layer.name not in self.frozen]
        return rest[0] if rest else None

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, indices) -> Tensor:
        if self.cached is not None:
            return self._maps(self.cached[self.rows[np.asarray(indices)]])
        return self.compute(pixels(self.faces, indices))

    def _maps(self, kept: np.ndarray) -> Tensor:
        """Maps as they are kept, without copying them."""
        return torch.from_numpy(kept).view(self.dtype)

    @torch.no_grad()
    def compute(self, images: Tensor) -> Tensor:
        """The maps of uint8 images [n, 3, 227, 227] without the cache."""
        x = self.trunk.transform(images.to(self.trunk.conv1.weight.device))
        return self._on(x, self.frozen) if self.frozen else x

    def _on(self, x: Tensor, layers: tuple[str, ...]) -> Tensor:
        with autocast(self.precision, x.device):
            for name in layers:  # contiguous, so that the bits are the same whichever layer the cache goes on from
                x = self.trunk(x, start=name, stop=name).contiguous()
        return x

    @torch.no_grad()
    def _fill(self, out: np.ndarray, images, known: np.ndarray | None = None, done: int = 0) -> np.ndarray:
        """Compute all maps into `out`, from the images or from the maps `known` of the first `done` frozen layers."""
        for begin in tqdm(range(0, len(out), CHUNK), desc=f"frozen {', '.join(self.frozen)}", leave=False):
            part = slice(begin, begin + CHUNK)
            if known is None:
                x = self.compute(torch.from_numpy(np.array(images[part])))
            else:
                here = self._maps(known[part].copy()).to(self.trunk.conv1.weight.device)
                x = self._on(here, self.frozen[done:])
            self._maps(out[part]).copy_(x)
        return out

    def key(self, layers: tuple[str, ...], images: str) -> str:
        """A fingerprint of all that the maps of these layers depend on: weights, order, precision, the images' own."""
        weights = [
            p.detach().cpu().numpy().tobytes() for name in layers for p in self.trunk.get_submodule(name).parameters()
        ]
        about = [self.trunk.layer(name) for name in layers], self.trunk.order, self.trunk.transform, self.precision
        return runs.fingerprint(repr(about).encode(), *weights, images.encode())

    def _file(self, images, folder: Path, limit: int) -> np.ndarray:
        fingerprint = content(images)

        def of(layers: tuple[str, ...]) -> Path:
            return folder / f"prefix-{self.key(layers, fingerprint)}.npy"

        path, shape = of(self.frozen), (len(images), *self.maps)
        if path.exists():
            os.utime(path)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            fewer = ((n, of(self.frozen[:n])) for n in range(len(self.frozen) - 1, 0, -1))
            done, base = next(((n, file) for n, file in fewer if file.exists()), (0, None))
            known = np.load(base, mmap_mode="r") if base else None  # stays readable if its file makes room
            others = sorted(folder.glob("prefix-*.npy"), key=lambda p: p.stat().st_mtime)
            needed = int(np.prod(shape)) * self.dtype.itemsize
            while others and needed + sum(p.stat().st_size for p in others) > limit:
                others.pop(0).unlink(missing_ok=True)  # another process may have been faster
            with runs.replacing(path) as part:
                self._fill(np.lib.format.open_memmap(part, "w+", self.kept_as, shape), images, known, done).flush()
        return np.load(path, mmap_mode="r")


def logits(model: nn.Module, maps: Prefix, indices) -> Tensor:
    """A model's float32 logits for the images at these indices, from the frozen layers' maps on."""
    x = maps[indices].to(maps.trunk.conv1.weight.device)
    with autocast(maps.precision, x.device):
        return model.classify(x if maps.start is None else model.trunk(x, start=maps.start)).float()


def content(images) -> str:
    """A fingerprint of every pixel of images [N, 3, 227, 227]."""
    blocks = (np.array(images[i : i + 256]).tobytes() for i in range(0, len(images), 256))
    return runs.fingerprint(*blocks)
