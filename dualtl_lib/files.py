"""Everything that touches the disk in general: paths, whole files, fingerprints, provenance."""

import errno
import filecmp
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OUTPUT = PROJECT / os.environ.get("DUALTL_OUTPUT", "")  # where runs/ and figures/ are written; tests write elsewhere


def data_root() -> Path:
    """The folder with data sets and weights: DUALTL_DATA, or `../shared/data` beside the repository.

    Raises FileNotFoundError saying what to set where it is missing.
    """
    root = (PROJECT / Path(os.environ.get("DUALTL_DATA") or "../shared/data").expanduser()).resolve()
    if not root.is_dir():
        raise FileNotFoundError(
            f"no data folder at {root}; name yours with DUALTL_DATA=<folder>, or `make … DATA=<folder>`"
        )
    return root


def expand(path: str | Path, base: Path | None = None) -> Path:
    """A path in which `$DATA/` stands for the data root and `~` for the home folder, made absolute.

    base: where a relative one begins. By default the repository: a notebook, which runs in notebooks/, and a command
    find the same files by a config.
    """
    text = str(path)
    return data_root() / text[6:] if text.startswith("$DATA/") else (base or PROJECT) / Path(text).expanduser()


def cache_dir() -> Path:
    """The folder for downloaded weights: DUALTL_CACHE, or ~/.cache/dualtl."""
    return PROJECT / Path(os.environ.get("DUALTL_CACHE") or "~/.cache/dualtl").expanduser()


@contextmanager
def atomic_write(path: Path):
    """A file beside `path` to write to, renamed to it when all went well and removed when not.

    A `path` that has these bytes already is left as it is, so that Snakemake makes nothing anew that depends on it.
    Raises OSError naming `path` where it cannot be written.
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
            raise  # it says itself what it is about
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if part:
            Path(part).unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Take a file's space on the disk now: a memory map that outgrows its disk ends the process without a word."""
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def fingerprint(*parts: bytes) -> str:
    """The first 16 hex digits of the SHA-256 of these bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def provenance() -> dict:
    """Commit, versions, machine and time, for a run's metadata."""
    describe = ["git", "describe", "--always", "--dirty"]
    git = shutil.which("git") and subprocess.run(describe, cwd=PROJECT, capture_output=True, text=True)
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "opencv-python-headless")
    return {
        "commit": (git and git.stdout.strip()) or "not a git checkout",
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
