"""The image cache: faces are cut out once and kept in one memory-mapped file."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dualtl_lib import files
from dualtl_lib.data import crop
from dualtl_lib.data.notices import Notices, some

VERSION = Path(crop.__file__).read_bytes()  # a changed crop is never mixed with an old one
FLAT = 8  # of 255: a picture whose values span less shows nothing


class Images:
    """Pixels on disk, uint8 with shape (N, 3, 227, 227), of which chosen rows are seen.

    Indexing copies these rows and reads nothing else. It pickles as the file's name, so that a DataLoader's workers
    map the file instead of receiving it.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, pixels: np.ndarray, rows: np.ndarray):
        self.pixels, self.rows = pixels, np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, 227, 227)."""
        return (len(self.rows), *self.pixels.shape[1:])

    def __getitem__(self, index) -> np.ndarray:
        """An image (3, 227, 227) for an int; images (K, 3, 227, 227) for a slice, a list, an array or a mask."""
        return np.array(self.pixels[self.rows[index]])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __reduce__(self):
        if isinstance(self.pixels, np.memmap):
            return _reopen, (self.pixels.filename, self.rows)
        return Images, (self.pixels, self.rows)


def _reopen(path: str, rows: np.ndarray) -> Images:
    return Images(np.load(path, mmap_mode="r"), rows)


class Loaded(NamedTuple):
    """Faces from the cache.

    Attributes:
        images: Those that could be read.
        kept: Their indices among the pictures that were to be read, int64, shape (N,).
        digests: A hash of each one's pixels, N strings; "" for a picture of one colour.
    """

    images: Images
    kept: np.ndarray
    digests: np.ndarray


def load_files(
    root: Path,
    names: Sequence[str],
    notices: Notices,
    *,
    mode: str,
    boxes: Sequence[crop.Box | None] | None = None,
    cache_dir: str | Path | None = None,
) -> Loaded:
    """Cut faces out of picture files, or take them from the cache.

    Args:
        root: The folder of the pictures.
        names: Paths under root.
        notices: Where pictures that cannot be read, or are doubtful, are counted.
        mode: As in `crop.cut`.
        boxes: A known face box (x, y, width, height) in stored pixels for each file, or None.
        cache_dir: As in `load`.

    Raises:
        ValueError: If none of the pictures can be read.
        crop.ReadFailure: If a file could not be read just now; nothing is kept then.
        OSError: If the cache cannot be written or read.
    """
    paths, boxes = [root / name for name in names], boxes or [None] * len(names)
    parts = [f"\n{name}\0{digest}\0{box}" for name, digest, box in zip(names, file_digests(paths), boxes, strict=True)]
    key = files.fingerprint(VERSION, mode.encode(), "".join(parts).encode("utf-8", "surrogateescape"))
    return load(key, names, lambda i: crop.cut(paths[i], mode=mode, box=boxes[i]), notices, cache_dir=cache_dir)


def load(
    key: str,
    names: Sequence[str],
    cut: Callable[[int], crop.Cut],
    notices: Notices,
    *,
    cache_dir: str | Path | None = None,
) -> Loaded:
    """Faces from the cache's file of this key, which is made where it is missing or damaged.

    The first time, faces are cut in parallel into a new file, which appears whole or not at all. Two processes may make
    it at once: what they make is equal, and the last one's stays.

    Args:
        key: A fingerprint of all that decides the pixels.
        names: The pictures' names, for notices.
        cut: Gives the face of the i-th picture. A ValueError leaves the picture out.
        notices: Where pictures that cannot be read, or are doubtful, are counted.
        cache_dir: Folder of the cache. Default: `files.cache_dir()`.

    Raises:
        ValueError: If none of the pictures can be read.
        OSError: If the cache cannot be written or read.
    """
    folder = files.cache_dir() if cache_dir is None else files.expand(cache_dir, Path())
    path = folder / f"faces-{key}.npy"
    try:
        try:
            pixels, about = _open(path, len(names))
        except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError):  # numpy's and json's, of a damaged file
            _make(path, len(names), cut)
            pixels, about = _open(path, len(names))
    except crop.ReadFailure:
        raise
    except OSError as error:
        what = f"cannot keep decoded faces in {folder} ({error.strerror or error})"
        raise OSError(error.errno, f"{what}: name another with cache_dir=… or DUALTL_CACHE") from error
    for reason, indices in about["notes"].items():
        notices.add(reason, *(names[i] for i in indices))
    unreadable = {int(i): f"{names[int(i)]}: {reason}" for i, reason in about["unreadable"].items()}
    if len(unreadable) == len(names):
        raise ValueError(
            f"none of {len(names)} pictures can be read ({some(list(unreadable.values()))}); get them anew"
        )
    notices.add("pictures left out", *unreadable.values())
    kept = np.array([i for i in range(len(names)) if i not in unreadable], np.int64)
    return Loaded(Images(pixels, kept), kept, np.array(about["digests"])[kept])


def _open(path: Path, n: int) -> tuple[np.memmap, dict[str, Any]]:
    """The pixels of n pictures, and what is written behind them: digests, notes, unreadable pictures."""
    pixels = np.load(path, mmap_mode="r")
    with open(path, "rb") as file:
        file.seek(pixels.offset + pixels.nbytes)
        about = json.load(file)
    if (about["n"], pixels.dtype, *pixels.shape) != (n, np.uint8, n, 3, crop.SIZE, crop.SIZE):
        raise ValueError(f"{path}: expected {n} faces, found {pixels.dtype} {pixels.shape}")
    return pixels, about


def _make(path: Path, n: int, cut: Callable[[int], crop.Cut]) -> None:
    """Cut all faces into a .npy file, and write what was noted behind its pixels, as JSON."""
    digests, unreadable, notes = [""] * n, {}, {}
    with files.atomic_write(path) as part:
        shape = (n, 3, crop.SIZE, crop.SIZE)
        pixels = np.lib.format.open_memmap(part, mode="w+", dtype=np.dtype(np.uint8), shape=shape)
        files.reserve(part)

        def work(i: int) -> None:
            try:
                face, note, doubts = cut(i)
            except ValueError as error:
                unreadable[i] = str(error)
                return
            pixels[i] = face
            if np.ptp(face, axis=(1, 2)).max() < FLAT:
                doubts = (*doubts, "pictures of one colour, which show nothing")
            else:
                digests[i] = hashlib.blake2b(face.tobytes(), digest_size=16).hexdigest()
            for reason in (*doubts, *[f"{note}: centre square taken"] * bool(note)):
                notes.setdefault(reason, []).append(i)

        _in_parallel(work, range(n), "cutting out faces")
        pixels.flush()
        notes = {reason: sorted(indices) for reason, indices in sorted(notes.items())}
        about = dict(n=n, digests=digests, unreadable=dict(sorted(unreadable.items())), notes=notes)
        with open(part, "ab") as file:
            file.write(json.dumps(about).encode())


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file's bytes.

    Raises:
        crop.ReadFailure: If the system could not read a file.
    """
    return _in_parallel(_file_digest, paths, "looking for changes")


def _file_digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise crop.read_failure(path, error) from error


def _in_parallel(work: Callable, items: Sequence, title: str) -> list:
    """What `work` gives for each item, in threads: reading, decoding and detection run outside Python's lock."""
    pool = ThreadPoolExecutor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is allowed, a bomb is an error
        warnings.filterwarnings("ignore", module="PIL")  # oddities in metadata
        try:
            return list(tqdm(pool.map(work, items), total=len(items), desc=title, unit="face", delay=1))
        finally:  # also on Ctrl-C: drop what has not begun, wait for what has
            pool.shutdown(cancel_futures=True)
