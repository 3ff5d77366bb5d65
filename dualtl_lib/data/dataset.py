"""What every set of faces is: images in a memory-mapped cache, labels, people and sequences beside them."""

import copy
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from dualtl_lib.data import crop
from dualtl_lib.files import atomic_write, fingerprint, reserve

CHUNK = 32  # pictures a thread takes at a time
LEADS_OUT = "links that lead nowhere or out of the folder, or no files, left out: copy the files there"


class Images:
    """uint8 [N, 3, 227, 227] on disk, of which chosen rows are seen. Indexing copies; nothing else is read.

    Pickles as the file's name, so that a DataLoader's workers map the file instead of receiving it.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, pixels: np.ndarray, rows: np.ndarray):
        self.pixels, self.rows = pixels, np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), *self.pixels.shape[1:])

    def __getitem__(self, index) -> np.ndarray:
        """An image [3, 227, 227] for an int; images [n, 3, 227, 227] for a slice, a list, an array or a mask."""
        return np.array(self.pixels[self.rows[index]])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __reduce__(self):
        if isinstance(self.pixels, np.memmap):
            return _reopen, (self.pixels.filename, self.rows)
        return Images, (self.pixels, self.rows)


def _reopen(path: str, rows: np.ndarray) -> Images:
    return Images(np.load(path, mmap_mode="r"), rows)


class Faces(torch.utils.data.Dataset):
    """Faces with their labels, in torchvision's manner; CelebA and CKPlus fill it from folders.

    images: uint8 RGB, indexed as an array [N, 3, 227, 227].
    targets: int64 [N] class indices, or [N, A] attributes, 0 absent and 1 present.
    classes: names of the classes, or of the attributes.
    people, sequences: str [N], who is shown and in which recording.
    files: the pictures' paths under the folder they were read from.
    report: how many pictures, rows or sequences were left out, and how many faces were not found, by reason.
    layout: how the faces lie in their squares, a key of occlusion.LAYOUTS.
    """

    def __init__(
        self,
        images: np.ndarray | Images,
        targets: Tensor,
        classes: Sequence[str],
        people: Sequence[str],
        sequences: Sequence[str],
        files: Sequence[str],
        report: dict[str, int] | None = None,
        layout: str = "detected",
    ):
        self.images = images if isinstance(images, Images) else Images(images, np.arange(len(images)))
        self.targets = torch.as_tensor(targets, dtype=torch.int64)
        self.classes = tuple(classes)
        self.people, self.sequences = np.asarray(people, str), np.asarray(sequences, str)
        self.files, self.report, self.layout = list(files), dict(report or {}), layout
        lengths = {len(x) for x in (self.images, self.targets, self.people, self.sequences, self.files)}
        if len(lengths) != 1:
            raise ValueError(f"images, targets, people, sequences and files differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """uint8 image [3, 227, 227] and its target, a number or [A]."""
        return torch.from_numpy(self.images[int(i)]), self.targets[int(i)]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}: {len(self)} faces of {len(set(self.people))} people"]
        lines += [f"    {what}: {count}" for what, count in self.report.items()]
        return "\n".join(lines)

    def batch(self, indices) -> Tensor:
        """The images at these indices, uint8 [n, 3, 227, 227]."""
        return torch.from_numpy(self.images[np.asarray(indices)])

    def of_class(self, name: str) -> np.ndarray:
        """Indices of the images of a class. Raises ValueError naming the classes where there is none of that name."""
        if name not in self.classes:
            raise ValueError(f"no class {name!r}; these faces have {', '.join(self.classes)}")
        return np.flatnonzero(self.targets.numpy() == self.classes.index(name))

    def subset(self, indices) -> "Faces":
        """The faces at these indices (or where this mask is true), in that order, sharing the pixels."""
        chosen = np.arange(len(self))[np.asarray(indices)]
        view = copy.copy(self)
        view.images = Images(self.images.pixels, self.images.rows[chosen])
        view.targets = self.targets[torch.from_numpy(chosen)]
        view.people, view.sequences = self.people[chosen], self.sequences[chosen]
        view.files = [self.files[i] for i in chosen]
        return view

    def without(self, name: str) -> "Faces":
        """The faces of the other classes, which keep their order. Raises ValueError where there is no such class."""
        self.of_class(name)
        gone = self.classes.index(name)
        view = self.subset(self.targets.numpy() != gone)
        view.targets = view.targets - (view.targets > gone).long()
        view.classes = self.classes[:gone] + self.classes[gone + 1 :]
        return view


class Findings:
    """What was found wrong, by reason: warned of once each, with a count and the first names."""

    def __init__(self):
        self.names: dict[str, list[str]] = {}
        self.expected: set[str] = set()

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def silent(self, reason: str, name: str) -> None:
        """Counted and not warned of: what a sound data set has too."""
        self.expected.add(reason)
        self.add(reason, name)

    def extend(self, reason: str, names: Sequence[str]) -> None:
        for name in names:
            self.add(reason, name)

    def counts(self) -> dict[str, int]:
        return {reason: len(names) for reason, names in self.names.items()}

    def _said(self, reason: str) -> str:
        names = self.names[reason]
        return f"{reason}: {len(names)} ({some(names)})"

    def __str__(self) -> str:
        """Every reason, how many, and which, for an error's text; or that there is none."""
        return "; ".join(map(self._said, self.names)) or "no other findings"

    def warn(self, where: str | Path, stacklevel: int = 3) -> None:
        """One warning per reason: the file or folder, the reason, how many, which, and what to do."""
        for reason in [r for r in self.names if r not in self.expected]:
            what_to_do = "put it right and run again, or go on as it is"
            warnings.warn(f"{where}: {self._said(reason)}; {what_to_do}", stacklevel=stacklevel)


def some(names: Sequence[str], n: int = 3) -> str:
    """The first names, and that there are more."""
    return ", ".join(map(str, names[:n])) + (", …" if len(names) > n else "")


def inside(path: Path, root: Path) -> bool:
    """Whether this is a file, and lies under root, also where a link leads to it."""
    real = os.path.realpath(path)
    return os.path.isfile(real) and Path(real).is_relative_to(os.path.realpath(root))


def tell_of_links(root: Path, paths: Sequence[Path | None], findings: Findings) -> None:
    """Which of a layout's own folders and lists a link takes from outside root. They may lie there, but it is said."""
    for path in filter(None, paths):
        real = Path(os.path.realpath(path))
        if real.exists() and not real.is_relative_to(os.path.realpath(root)):
            what = "folders and lists that lie elsewhere, where a link leads, read all the same"
            findings.add(what, f"{path.relative_to(root)} in {real}")


def picture_files(folder: Path, root: Path, findings: Findings) -> list[Path]:
    """The picture files in a folder that lie under root, by name.

    Hidden ones, which some systems leave behind, are not counted. Links out of root and what is no file, such as a
    device that could be read without end, are left out with a warning.
    """
    at_home = Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        hidden, is_folder = entry.name.startswith("."), entry.is_dir(follow_symlinks=False)
        if hidden or is_folder or path.suffix.lower() not in crop.SUFFIXES:
            continue
        if (at_home and entry.is_file(follow_symlinks=False)) or inside(path, root):
            found.append(path)
        else:
            findings.add(LEADS_OUT, f"{folder.name}/{entry.name}")
    return found


def keep(root: Path, files: Sequence[str], unreadable: dict, noted: dict, findings: Findings) -> list[int]:
    """Which files are left after reading; all findings are warned of. Raises ValueError if none is."""
    for i, why in unreadable.items():
        findings.add("pictures left out", f"{files[i]}: {why}")
    for i, why in noted.items():
        findings.add(f"{why}: centre square taken", files[i])
    findings.warn(root, stacklevel=4)
    kept = [i for i in range(len(files)) if i not in unreadable]
    if not kept:
        why = some(list(unreadable.values()))
        raise ValueError(f"{root}: none of {len(files)} pictures could be read ({why}); get them anew")
    return kept


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where decoded faces are kept: the argument, or DUALTL_CACHE, or ~/.cache/dualtl."""
    return Path(cache or os.environ.get("DUALTL_CACHE") or Path.home() / ".cache" / "dualtl").expanduser()


def read(
    root: Path,
    files: Sequence[str],
    mode: str,
    boxes: Sequence[tuple[float, float, float, float] | None] | None = None,
    cache: str | Path | None = None,
) -> tuple[Images, dict[int, str], dict[int, str]]:
    """Faces cut out of picture files: images of those that could be read, why the others could not, and notes.

    The first time pictures are decoded, cut and resized in parallel into a file in the cache folder, named by a
    fingerprint of the files' names and bytes, of the settings and of crop.py. It appears whole or not at all, and a
    damaged one is made anew. Two processes may build it at once: what they make is equal, and the last one's stays.

    files: paths under root. mode: see crop.cut. boxes: a known face box (x, y, width, height) for each file.
    Returns images [n], and for the files' indices the reason why a file is left out, and what crop.cut noted.
    Raises OSError where the cache cannot be written or read, crop.ReadFailure or MemoryError for a file that could
    not be read just now, of which nothing is kept.
    """
    paths, boxes = [root / f for f in files], boxes or [None] * len(files)
    path = cache_folder(cache) / f"faces-{_key(files, _digests(paths), mode, boxes)}.npy"
    notes = path.with_suffix(".json")
    try:
        if not _whole(path, notes, len(files)):
            _build(path, notes, paths, mode, boxes)
        pixels, unreadable, noted = _kept(path, notes, len(files))
    except crop.ReadFailure:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot keep decoded faces in {path.parent} ({error.strerror or error}): name another folder with "
            "cache=… or the environment variable DUALTL_CACHE",
        ) from error
    rows = np.array([i for i in range(len(files)) if i not in unreadable], np.int64)
    return Images(pixels, rows), unreadable, noted


def _whole(path: Path, notes: Path, n: int) -> bool:
    """Whether both files of the cache are there and undamaged."""
    try:
        _kept(path, notes, n)
    except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError, AttributeError):  # numpy's and json's
        return False
    return True


def _kept(path: Path, notes: Path, n: int) -> tuple[np.ndarray, dict[int, str], dict[int, str]]:
    """The pixels of n files in the cache, why some of them are unreadable, and what was noted."""
    found = json.loads(notes.read_text())
    unreadable, noted = ({int(i): why for i, why in found[kind].items()} for kind in ("unreadable", "noted"))
    pixels = np.load(path, mmap_mode="r")
    if pixels.shape != (n, 3, crop.SIZE, crop.SIZE) or pixels.dtype != np.uint8:
        raise ValueError(f"{path}: expected {n} faces, found {pixels.dtype} {pixels.shape}")
    return pixels, unreadable, noted


def _key(files: Sequence[str], digests: Sequence[str], mode: str, boxes: Sequence) -> str:
    parts = [Path(crop.__file__).read_bytes(), mode.encode()]
    for file, digest, box in zip(files, digests, boxes, strict=True):
        parts.append(f"\n{file}\0{digest}\0{box}".encode("utf-8", "surrogateescape"))
    return fingerprint(*parts)


def _digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file's bytes; "missing" for a file that is not there, which decoding tells of."""
    found = [""] * len(paths)

    def work(chunk: range) -> int:
        for i in chunk:
            try:
                about = os.stat(paths[i])
                stands = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
                found[i] = _digest(str(paths[i].absolute()), stands)
            except FileNotFoundError:
                found[i] = "missing"
            except OSError as error:
                raise crop.read_failure(paths[i], error) from error
        return len(chunk)

    _in_parallel(work, len(paths), "looking for changes")
    return found


@functools.cache  # the parts of a set are opened one after another, and each time its files are the same
def _digest(path: str, stands: tuple[int, ...]) -> str:
    """The SHA-256 of a file's bytes, read again in this process only when its size, times or inode change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(path: Path, notes: Path, files: Sequence[Path], mode: str, boxes: Sequence) -> None:
    """Decode and cut all files into `path`, and write what was noted to `notes`, which appears first."""
    shape = (len(files), 3, crop.SIZE, crop.SIZE)
    noted: dict[str, dict[int, str]] = {"unreadable": {}, "noted": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part, atomic_write(notes) as sheet:
        out = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        reserve(part)

        def work(chunk: range) -> int:
            for i in chunk:
                try:
                    out[i], note = crop.cut(files[i], mode, boxes[i])
                    if note:
                        noted["noted"][i] = note
                except ValueError as error:
                    noted["unreadable"][i] = str(error)
            return len(chunk)

        _in_parallel(work, len(files), "cutting out faces")
        out.flush()
        sheet.write_text(json.dumps({kind: dict(sorted(found.items())) for kind, found in noted.items()}))


def _in_parallel(work, n: int, title: str) -> None:
    """work(range) on all of range(n), in threads: reading, decoding and the detector run outside Python's lock."""
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
