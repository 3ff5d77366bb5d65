"""Everything that touches the disk in general: paths, whole files, results, fingerprints, provenance."""

import errno
import filecmp
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
NO_COMMIT = "not a git checkout"


def expand(path: str | Path, base: Path | None = None) -> Path:
    """Make a path that a person wrote absolute; every such path of the package goes through here.

    Args:
        path: `$DATA/` stands for the data root and `~` for the home folder.
        base: Where a relative path begins. Default: the repository, so that a notebook, which runs in notebooks/,
            and a command find the same files by a config.

    Raises:
        FileNotFoundError: If there is no data root, or no home folder.
    """
    text = str(path)
    if text == "$DATA" or text.startswith("$DATA/"):
        return data_root() / text[6:]
    try:
        return (base or PROJECT) / Path(text).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{text}: no home folder for '~'; set HOME, or write the whole path") from error


OUTPUT = expand(os.environ.get("DUALTL_OUTPUT", ""))  # where runs/ and figures/ are written; tests write elsewhere


def data_root() -> Path:
    """Return the folder with data sets and weights: DUALTL_DATA, or `../shared/data` beside the repository.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    root = expand(os.environ.get("DUALTL_DATA") or "../shared/data").resolve()
    if not root.is_dir():
        raise FileNotFoundError(
            f"no data folder at {root}; name yours with DUALTL_DATA=<folder>, or `make … DATA=<folder>`"
        )
    return root


def cache_dir() -> Path:
    """Return the folder for downloaded weights and cut faces: DUALTL_CACHE, or ~/.cache/dualtl.

    Raises:
        FileNotFoundError: If there is no home folder.
    """
    return expand(os.environ.get("DUALTL_CACHE") or "~/.cache/dualtl")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, such as that of a full disk, name this path."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to, renamed to it when all went well and removed when not.

    A `path` that has these bytes already is left as it is, so that Snakemake makes nothing anew that depends on it.

    Raises:
        OSError: If `path` cannot be written; it names `path`.
    """
    path, part = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        os.close(handle)
        yield Path(part)
        os.chmod(part, 0o644)  # mkstemp's 0600 would keep a shared folder's other users out
        if not (path.is_file() and filecmp.cmp(part, path, shallow=False)):
            os.replace(part, path)
    except OSError as error:
        if error.errno is None or (part and error.filename not in (None, part)):
            raise  # it names its own file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if part:
            Path(part).unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Take a file's space on the disk now: a memory map that outgrows its disk ends the process without a word.

    Raises:
        OSError: If there is not enough space.
    """
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def write_results(path: Path, content: dict) -> Path:
    """Write results as JSON with their provenance; a file that has the same results already stays as it is.

    Returns:
        The path.
    """
    content = json.loads(json.dumps(content))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        before.pop("provenance", None)
        if before == content:
            return path
    with atomic_write(path) as part:
        text = json.dumps(content | {"provenance": provenance()}, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8")
    return path


def count(n: int, one: str, many: str) -> str:
    """Write a number with its noun, "1 person" or "2 people".

    Args:
        n: The number.
        one: The noun for exactly one.
        many: The noun for any other number.
    """
    return f"{n} {one if n == 1 else many}"


def fingerprint(*parts: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of these bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def provenance() -> dict:
    """Return commit, versions, machine and time, for a run's results."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "opencv-python-headless")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "machine": f"{platform.machine()}, {count(os.cpu_count() or 1, 'core', 'cores')}",
        "machine kind": machine_kind(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def machine_kind() -> str:
    """Return what decides the low bits of a result: who made the processor, its instruction set, and threads."""
    import torch  # seconds, which a command that computes nothing need not wait for

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        maker = next(line.split(":")[1].strip() for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):
        maker = platform.machine()
    threads = count(torch.get_num_threads(), "thread", "threads")
    return f"{maker} {torch.backends.cpu.get_cpu_capability()}, {threads}"


def _commit() -> str:
    """The commit of this project, not of another repository that it may lie unpacked in."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True)
        return done.stdout.strip()

    if not shutil.which("git"):
        return NO_COMMIT
    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != PROJECT:
        return NO_COMMIT
    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures"
    )  # a run writes figures/ itself
    return git("describe", "--always") + "-dirty" * bool(changed)
