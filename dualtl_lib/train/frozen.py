"""Feature cache: outputs of the frozen layers, computed once per data set."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dualtl_lib import files
from dualtl_lib.data.dataset import Faces
from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet
from dualtl_lib.models.precision import autocast

Model = AttributeNet | ExpressionNet
CHUNK = 25  # images at a time; fixed, so that the bits do not depend on who computes them
DEFAULT_BYTES = 4 << 30
VERSION = b"1"  # of how features are computed: a file of another version may have other bits
ON_DISK = {torch.float32: "f4", torch.bfloat16: "i2"}  # NumPy has no bfloat16: its bits are kept as integers


class FrozenFeatures:
    """Outputs of a model's frozen layers for every image of a data set.

    `features[indices]` are those of some images, shape (N, C, H, W). Without frozen layers they are the preprocessed
    images. Features that fit within `cache_bytes` are computed once; others each time they are needed.

    They are kept in memory, for a model on a GPU in the GPU's. With `cache_dir` and on a CPU they are kept in a
    memory-mapped file of that folder, which is named by its content (pixels, weights, precision) and used again by
    every training and test on the same images. A part of a data set (`Faces.subset`) uses the file of all its images,
    so that the folds and protocols of a data set compute it once. Nothing deletes these files.

    Args:
        model: Its `frozen()` layers are computed.
        faces: N images.
        cache_bytes: Limit of the features' size, in memory or in one file. Default: 4 GiB, or two thirds of a GPU's
            free memory.
        cache_dir: Folder of the file. Default: no file.
        precision: "float32" or "bfloat16", for computing and keeping. In bfloat16 nothing is lost, since the next layer
            would round its input to it.
    """

    def __init__(
        self,
        model: Model,
        faces: Faces,
        *,
        cache_bytes: int | None = None,
        cache_dir: Path | None = None,
        precision: str = "float32",
    ):
        self.trunk, self.faces, self.frozen, self.precision = model.trunk, faces, model.frozen(), precision
        self.device = next(model.parameters()).device
        self.dtype: torch.dtype = getattr(torch, precision)
        self.rows = torch.arange(len(faces))  # of `maps`
        self.maps: Tensor | None = None  # shape (N, H, W, C): channels_last, as the trunk computes
        channels, *height_width = self.trunk.shapes()[self.frozen[-1] if self.frozen else "input"]
        self.shape = (*height_width, channels)  # of one image's maps
        on_gpu = self.device.type == "cuda"
        if cache_bytes is None:
            cache_bytes = torch.cuda.mem_get_info(self.device)[0] * 2 // 3 if on_gpu else DEFAULT_BYTES
        if self.frozen and self.size(len(faces)) <= cache_bytes:
            if cache_dir and not on_gpu:
                self._use_file(Path(cache_dir), cache_bytes)
            if self.maps is None:
                self.maps = torch.empty(len(faces), *self.shape, dtype=self.dtype, device=self.device)
                self._fill(self.maps, faces.images)

    @property
    def start(self) -> str | None:
        """First layer that is not frozen; None where all are."""
        return next((layer.name for layer in self.trunk.layers if layer.name not in self.frozen), None)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, indices) -> Tensor:
        if self.maps is not None:
            rows = self.rows[torch.as_tensor(indices)].to(self.maps.device)
            # index_select copies whole images, where indexing by [rows] copies number by number.
            return self.maps.index_select(0, rows).permute(0, 3, 1, 2)
        return self.compute(self.faces.batch(indices))

    @torch.no_grad()
    def compute(self, images: Tensor) -> Tensor:
        """Features of uint8 images of shape (N, 3, H, W), without the cache."""
        x = self.trunk.transform(images.to(self.device))
        with autocast(self.precision, self.device):
            return self.trunk(x, stop=self.frozen[-1]) if self.frozen else x

    def size(self, n_images: int) -> int:
        """Bytes that the features of so many images take."""
        return n_images * math.prod(self.shape) * self.dtype.itemsize

    def _fill(self, out: Tensor, images) -> None:
        for begin in tqdm(range(0, len(out), CHUNK), desc=f"frozen {', '.join(self.frozen)}", leave=False):
            part = slice(begin, begin + CHUNK)
            out[part] = self.compute(torch.from_numpy(np.array(images[part]))).permute(0, 2, 3, 1)

    def _use_file(self, folder: Path, cache_bytes: int) -> None:
        """Open the file of these features; make it first where it is not there. Without one, `maps` stays None.

        Several processes may make it at once: each replaces it by an equal file.
        """
        images, rows = self.faces.images, self.rows
        if self.size(len(images.pixels)) <= cache_bytes:
            images, rows = images.pixels, torch.from_numpy(images.rows)
        path, kind, shape = (
            folder / f"features-{self._key(images)}.bin",
            ON_DISK[self.dtype],
            (len(images), *self.shape),
        )
        try:
            if not path.is_file() or path.stat().st_size != self.size(len(images)):
                with files.atomic_write(path) as part:
                    out = np.memmap(part, kind, "w+", shape=shape)
                    files.reserve(part)
                    self._fill(torch.from_numpy(out).view(self.dtype), images)
                    out.flush()
            self.maps = torch.from_numpy(np.memmap(path, kind, "c", shape=shape)).view(self.dtype)
            self.rows = rows
        except OSError as error:
            warnings.warn(
                f"{folder}: the frozen features cannot be kept there ({error.strerror or error}), and are kept in "
                "memory; make room, or name another folder (a run's is under DUALTL_OUTPUT)",
                stacklevel=1,  # here, so that it is shown once
            )

    def _key(self, images) -> str:
        """Fingerprint of all that the features depend on."""
        layers = [layer for layer in self.trunk.layers if layer.name in self.frozen]
        about = repr((layers, self.trunk.order, self.trunk.transform, self.precision)).encode()
        convolutions = (self.trunk.get_submodule(layer.name) for layer in layers)
        weights = (p.detach().numpy().tobytes() for conv in convolutions for p in conv.parameters())
        return files.fingerprint(VERSION, about, *weights, fingerprint_of(images).encode())


def fingerprint_of(images) -> str:
    """Fingerprint of every pixel of images, shape (N, 3, H, W)."""
    return files.fingerprint(*(np.array(images[i : i + 256]).tobytes() for i in range(0, len(images), 256)))
