"""The image cache: faces are cut out once and kept in one memory-mapped file."""

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dualtl_lib import files
from dualtl_lib.data import crop
from dualtl_lib.data.notices import Notices, some

CHUNK = 32  # pictures a thread takes at a time
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
        digests: A hash of each one's pixels; "" for a picture of one colour.
    """

    images: Images
    kept: np.ndarray
    digests: list[str]


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
        crop.ReadFailure, MemoryError: If a file could not be read just now; nothing is kept then.
        OSError: If the cache cannot be written or read.
    """
    paths, boxes = [root / name for name in names], boxes or [None] * len(names)
    parts = [Path(crop.__file__).read_bytes(), mode.encode()]
    for name, digest, box in zip(names, file_digests(paths), boxes, strict=True):
        parts.append(f"\n{name}\0{digest}\0{box}".encode("utf-8", "surrogateescape"))

    def cut(i: int) -> crop.Cut:
        return crop.cut(paths[i], mode=mode, box=boxes[i])

    return load(files.fingerprint(*parts), names, cut, notices, cache_dir=cache_dir)


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
        except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError):  # numpy's and json's
            _make(path, len(names), cut)
            pixels, about = _open(path, len(names))
    except crop.ReadFailure:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot keep decoded faces in {folder} ({error.strerror or error}): name another folder with "
            "cache_dir=… or the environment variable DUALTL_CACHE",
        ) from error
    unreadable = {int(i): reason for i, reason in about["unreadable"].items()}
    if len(unreadable) == len(names):
        reasons = some(list(unreadable.values()))
        raise ValueError(f"{names[0]}, …: none of {len(names)} pictures could be read ({reasons}); get them anew")
    notices.add("pictures left out", *(f"{names[i]}: {reason}" for i, reason in unreadable.items()))
    for reason, indices in about["notes"].items():
        notices.add(reason, *(names[i] for i in indices))
    kept = np.array([i for i in range(len(names)) if i not in unreadable], np.int64)
    return Loaded(Images(pixels, kept), kept, [about["digests"][i] for i in kept])


def _open(path: Path, n: int) -> tuple[np.memmap, dict[str, Any]]:
    """The pixels of n pictures, and what stands behind them in the file: digests, notes, unreadable pictures."""
    pixels = np.load(path, mmap_mode="r")
    if pixels.shape != (n, 3, crop.SIZE, crop.SIZE) or pixels.dtype != np.uint8:
        raise ValueError(f"{path}: expected {n} faces, found {pixels.dtype} {pixels.shape}")
    with open(path, "rb") as file:
        file.seek(pixels.offset + pixels.nbytes)
        about = json.load(file)
    if about["n"] != n:
        raise ValueError(f"{path}: expected notes of {n} faces, found {about['n']}")
    return pixels, about


def _make(path: Path, n: int, cut: Callable[[int], crop.Cut]) -> None:
    """Cut all faces into a .npy file, and write what was noted behind its pixels, as JSON."""
    digests, unreadable, notes = [""] * n, {}, {}
    with files.atomic_write(path) as part:
        pixels = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.dtype(np.uint8), shape=(n, 3, crop.SIZE, crop.SIZE)
        )
        files.reserve(part)

        def work(chunk: range) -> int:
            for i in chunk:
                try:
                    pixels[i], note, doubts = cut(i)
                except ValueError as error:
                    unreadable[i] = str(error)
                    continue
                reasons = [f"{note}: centre square taken"] * bool(note) + list(doubts)
                if np.ptp(pixels[i], axis=(1, 2)).max() < FLAT:
                    reasons.append("pictures of one colour, which show nothing")
                else:
                    digests[i] = hashlib.blake2b(pixels[i].tobytes(), digest_size=16).hexdigest()
                for reason in reasons:
                    notes.setdefault(reason, []).append(i)
            return len(chunk)

        _in_parallel(work, n, "cutting out faces")
        pixels.flush()
        notes = {reason: sorted(indices) for reason, indices in sorted(notes.items())}
        unreadable = dict(sorted(unreadable.items()))
        with open(part, "ab") as file:
            file.write(json.dumps(dict(n=n, digests=digests, unreadable=unreadable, notes=notes)).encode())


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file's bytes; "missing" for a file that is not there, of which decoding makes a notice.

    Raises:
        crop.ReadFailure: If the system could not read a file.
    """
    digests = [""] * len(paths)

    def work(chunk: range) -> int:
        for i in chunk:
            try:
                about = os.stat(paths[i])
                version = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
                digests[i] = _file_digest(str(paths[i].absolute()), version)
            except FileNotFoundError:
                digests[i] = "missing"
            except OSError as error:
                raise crop.read_failure(paths[i], error) from error
        return len(chunk)

    _in_parallel(work, len(paths), "looking for changes")
    return digests


@functools.cache  # the parts of a set are opened one after another, and each time its files are the same
def _file_digest(path: str, version: tuple[int, ...]) -> str:
    """The SHA-256 of a file's bytes, read again in this process only when its size, times or inode change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_parallel(work: Callable[[range], int], n: int, title: str) -> None:
    """Call work(range) for all of range(n), in threads: reading, decoding and detection run outside Python's lock."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(threads)
    chunks = [range(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]
    with warnings.catch_warnings(), tqdm(total=n, desc=title, unit="face", delay=1) as bar:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is allowed, a bomb is an error
        warnings.filterwarnings("ignore", module="PIL")  # oddities in metadata
        try:
            for done in as_completed([pool.submit(work, chunk) for chunk in chunks]):
                bar.update(done.result())
        finally:  # also on Ctrl-C: drop what has not begun, wait for what has
            pool.shutdown(cancel_futures=True)
