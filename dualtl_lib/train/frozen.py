"""What the frozen first layers make of a data set: the same at every iteration, so computed once."""

import fcntl
import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualtl_lib import files
from dualtl_lib.models.caffenet import SIZE
from dualtl_lib.models.precision import autocast

# Images at a time; fixed, so that a cache's bits do not depend on who asks. In bfloat16 fewer at once, as a set's last
# ones are, may come out with other low bits, if the layers are small (not CaffeNet's, where it was tried). A part of a
# set then has others in memory than in a folder, where it is kept with the whole set.
CHUNK = 25
LIMIT = 4 << 30  # bytes
MADE = b"maps last, bfloat16 normalized by a product"  # a cache made another way has other bits and is not used
KEPT_AS = {"float32": "f4", "bfloat16": "i2"}  # NumPy has no bfloat16: its bits are kept as integers


def pixels(faces, indices) -> Tensor:
    """The images at these indices, uint8 [n, 3, 227, 227]."""
    return torch.from_numpy(np.ascontiguousarray(faces.images[np.asarray(indices)]))


class FrozenFeatures:
    """Feature maps of the frozen layers for every image of a data set; `prefix[indices]` gives [n, C, H, W].

    model: its `frozen()` layers are what is computed. None frozen: `prefix[indices]` gives the transformed images.
    limit: bytes; None: 4 GiB, or on a GPU two thirds of what is free there. A cache that would be larger is not made;
        the maps are then computed each time they are asked for.
    folder: where the cache is kept, as a file named after its content (the images, and the weights and order of the
        layers) and shared by all that ask for the same. Faces that are a part of a larger set (`Faces.subset`) share
        one file for all of it where that fits, so folds and protocols compute it once; and what fewer frozen layers
        have left there is gone on from. The limit is of all files there: when it would be passed, those used the
        longest ago make room, but not what other processes are just writing. A damaged file is made anew. Where none
        can be written, a warning says so, and the maps are computed each time they are asked for. None: in memory.
    precision: "float32", or "bfloat16": maps are computed and kept in it, in half the bytes. The next layer, which
        computes in it too, would round them to it anyway, so nothing is lost.

    Of a model on a GPU the maps are kept there, whatever the folder; where they do not fit, the pixels are if they do,
    so that the card is not fed by the CPU.
    """

    def __init__(
        self, model: nn.Module, faces, limit: int | None = None, folder: Path | None = None, precision: str = "float32"
    ):
        self.trunk, self.faces, self.frozen = model.trunk, faces, model.frozen()
        self.precision, self.dtype = precision, getattr(torch, precision)
        self.maps = model.trunk.shapes()[self.frozen[-1]] if self.frozen else ()
        self.kept = self.pixels = None
        self.rows = torch.arange(len(faces))
        on_card = self.device.type == "cuda"
        if limit is None:
            limit = torch.cuda.mem_get_info(self.device)[0] * 2 // 3 if on_card else LIMIT
        if self.frozen and self.bytes <= limit:
            if folder and not on_card:
                self._keep(Path(folder), limit)
            else:
                out = torch.empty(len(faces), *self.shape(self.frozen[-1]), dtype=self.dtype, device=self.device)
                self.kept = self._fill(out, faces.images)
        elif on_card and len(faces) * 3 * SIZE**2 <= limit:
            self.pixels = self._resident(faces.images)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trunk.conv1.weight.device

    @property
    def bytes(self) -> int:
        """What the maps of these faces take."""
        return len(self) * int(np.prod(self.maps)) * self.dtype.itemsize

    def shape(self, layer: str) -> tuple[int, int, int]:
        """How one image's maps of a layer are kept, [H, W, C]: in the order in memory that the trunk works in."""
        maps, height, width = self.trunk.shapes()[layer]
        return height, width, maps

    @property
    def start(self) -> str | None:
        """The layer that training starts from, or None where every layer is frozen."""
        rest = [layer.name for layer in self.trunk.layers if layer.name not in self.frozen]
        return rest[0] if rest else None

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, indices) -> Tensor:
        if self.kept is not None:
            rows = self.rows[torch.as_tensor(indices)].to(self.kept.device)
            # Not [rows], which goes number by number where this moves whole images.
            return self.kept.index_select(0, rows).to(self.device).permute(0, 3, 1, 2)
        if self.pixels is not None:
            return self.compute(self.pixels[torch.as_tensor(indices, device=self.device)])
        return self.compute(pixels(self.faces, indices))

    @torch.no_grad()
    def compute(self, images: Tensor) -> Tensor:
        """The maps of uint8 images [n, 3, 227, 227] without the cache."""
        return self._on(self.trunk.transform(images.to(self.device)), self.frozen)

    def _on(self, x: Tensor, layers: tuple[str, ...]) -> Tensor:
        with autocast(self.precision, x.device):
            for name in layers:
                x = self.trunk(x, start=name, stop=name)
        return x

    @torch.no_grad()
    def _fill(self, out: Tensor, images, known: Tensor | None = None, done: int = 0) -> Tensor:
        """Compute all maps into `out` [N, H, W, C], from images or from what the first `done` layers made of them."""
        for begin in tqdm(range(0, len(out), CHUNK), desc=f"frozen {', '.join(self.frozen)}", leave=False):
            part = slice(begin, begin + CHUNK)
            if known is None:
                maps = self.compute(torch.from_numpy(np.array(images[part])))
            else:
                maps = self._on(known[part].permute(0, 3, 1, 2), self.frozen[done:])
            out[part] = maps.permute(0, 2, 3, 1)
        return out

    def _resident(self, images) -> Tensor:
        """All the pixels, on the card."""
        out = torch.empty(len(images), 3, SIZE, SIZE, dtype=torch.uint8, device=self.device)
        for begin in tqdm(range(0, len(out), CHUNK), desc="pixels to the GPU", leave=False):
            out[begin : begin + CHUNK] = torch.from_numpy(np.array(images[begin : begin + CHUNK]))
        return out

    def key(self, layers: tuple[str, ...], images: str) -> str:
        """A fingerprint of all that the maps of these layers depend on: weights, order, precision, the images' own."""
        weights = [
            p.detach().cpu().numpy().tobytes() for name in layers for p in self.trunk.get_submodule(name).parameters()
        ]
        about = [self.trunk.layer(name) for name in layers], self.trunk.order, self.trunk.transform, self.precision
        return files.fingerprint(MADE, repr(about).encode(), *weights, images.encode())

    def _keep(self, folder: Path, limit: int):
        """Share a file of the folder, or warn that there is none."""
        try:
            self._share(folder, limit)
        except OSError as error:
            warnings.warn(
                f"{folder}: the frozen layers' maps cannot be kept there ({error.strerror or error}), and are computed "
                "at each use, which takes longer; make room there and let it be written to, or name another folder "
                "(that of a run is under DUALTL_OUTPUT)",
                stacklevel=1,  # here, so that the next training's is the same warning, and shown once
            )

    def _share(self, folder: Path, limit: int):
        """Find the maps in a file of the folder, or put them there.

        Another process may delete any file at any moment to make room; what is open by then stays readable.
        """
        images = self.faces.images
        if hasattr(images, "rows") and self.bytes * len(images.pixels) <= limit * len(images):
            self.rows, images = torch.from_numpy(images.rows), images.pixels
        fingerprint = content(images)

        def path(done: int) -> Path:
            return folder / f"prefix-{self.key(self.frozen[:done], fingerprint)}.npy"

        def shape(done: int) -> tuple[int, ...]:
            return len(images), *self.shape(self.frozen[done - 1])

        every = len(self.frozen)
        found = ((done, self._open(path(done), shape(done))) for done in range(every, 0, -1))
        done, known = next(((done, maps) for done, maps in found if maps is not None), (0, None))
        if done == every:
            with suppress(OSError):  # deleted since, or another user's
                os.utime(path(every))
            self.kept = known
            return
        with files.atomic_write(path(every)) as part, open(part, "r+b") as held:
            with suppress(OSError):  # some file systems have no locks: there, what a killed process left stays
                fcntl.flock(held, fcntl.LOCK_EX)
            file = np.lib.format.open_memmap(part, "w+", KEPT_AS[self.precision], shape(every))
            make_room(folder, limit)  # for this part too, which has its full size by now
            files.reserve(part)
            self._fill(torch.from_numpy(file).view(self.dtype), images, known, done)
            file.flush()
            self.kept = self._open(part, shape(every))  # while no other process would delete it

    def _open(self, path: Path, shape: tuple[int, ...]) -> Tensor | None:
        """The maps in a file, read as they are asked for; None where there is none, or a damaged one, which goes."""
        try:
            maps = np.load(path, mmap_mode="c")
            if (maps.shape, maps.dtype) == (shape, np.dtype(KEPT_AS[self.precision])):
                return torch.from_numpy(maps).view(self.dtype)
        except OSError:  # not there, or not readable
            return None
        except Exception:  # whatever NumPy makes of a header that is none
            pass
        path.unlink(missing_ok=True)
        return None


def make_room(folder: Path, limit: int) -> None:
    """Delete the caches of a folder that were used the longest ago until all take no more than `limit` bytes.

    The parts that are being written count, and stay; those that a killed process left are deleted.
    """
    parts = _by_age(folder, ".prefix-*.npy")  # as files.atomic_write names them
    taken = sum(size for _, size, part in parts if size and _held(part))  # held from before it has a size
    files = _by_age(folder, "prefix-*.npy")
    taken += sum(size for _, size, _ in files)
    for _, size, file in files:
        if taken <= limit:
            break
        file.unlink(missing_ok=True)  # another process may have been faster
        taken -= size


def _held(part: Path) -> bool:
    """Whether a process is writing this part. One that none holds any more is deleted."""
    try:
        with open(part, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    except OSError:  # BlockingIOError, or another user's
        return True
    return False


def _by_age(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """When each of these files was last used, its bytes and its path; without those deleted meanwhile."""
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    return sorted(found)


def logits(model: nn.Module, maps: FrozenFeatures, indices) -> Tensor:
    """A model's float32 logits for the images at these indices, from the frozen layers' maps on."""
    x = maps[indices]
    with autocast(maps.precision, x.device):
        return model.classify(x if maps.start is None else model.trunk(x, start=maps.start)).float()


def content(images) -> str:
    """A fingerprint of every pixel of images [N, 3, 227, 227]."""
    blocks = (np.array(images[i : i + 256]).tobytes() for i in range(0, len(images), 256))
    return files.fingerprint(*blocks)
