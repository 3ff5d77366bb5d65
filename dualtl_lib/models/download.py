"""Downloading one file: with a bar, resumed after a cut, checked, and there whole or not at all."""

import errno
import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

CHUNK = 1 << 18  # bytes
ELSEWHERE = "name another folder with the environment variable DUALTL_CACHE"
ATTEMPTS = 5  # connections in a row that bring nothing new before giving up
PAUSE = 1  # seconds before the next connection, for each that has just brought nothing
TIMEOUT = 30  # seconds without a byte


def checksum_of(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, checksum: str) -> None:
    """Compare a file with "sha1:…" or "sha256:…"; a shorter digest compares its first digits, as PyTorch's hub does.

    Raises ValueError saying both.
    """
    if wrong := _other_checksum(path, checksum):
        raise ValueError(f"{path}: {wrong}; remove it and fetch it again")


def _other_checksum(path: Path, checksum: str) -> str:
    """What was expected and found, where they differ."""
    algorithm, expected = checksum.split(":")
    found = checksum_of(path, algorithm)
    return "" if found.startswith(expected) else f"expected {algorithm} {expected}, found {found}"


def _receive(url: str, part: Path, size: int | None, bar: tqdm) -> bool:
    """One connection: append what is missing to `part`. True when the server has sent everything."""
    have = part.stat().st_size
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond what we have, so the checksum decides
            return True
        raise
    except (ValueError, http.client.InvalidURL) as error:
        raise ValueError(f"expected an address such as https://host/file, found {url!r} ({error})") from error
    with response, open(part, "r+b") as file:
        start = have if response.status == 206 else 0  # 200: the server does not resume, so start again
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else size
        if size and total != size:  # before anything that is here is overwritten
            raise ConnectionError(
                f"expected a file of {size:,} bytes, the server offers {total:,}; it may be a sign-in page"
            )
        file.truncate(start)
        file.seek(start)
        bar.reset(total)
        bar.update(start)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        return total is None or file.tell() >= total


def fetch(url: str, target: Path, checksum: str, size: int | None = None) -> Path:
    """Download url to target, unless a file with that checksum is already there; returns target.

    What arrives is kept in `.<name>.part` beside the target until it is whole, so that the next call goes on where
    this one was cut. A wrong checksum removes it. Raises ConnectionError when the server cannot be reached, keeps
    hanging up or offers a file of another size, ValueError for a wrong checksum or what is no URL, OSError for a disk
    that is full or cannot be written, and while another process fetches the same file.
    """
    target = Path(target)
    if target.exists():
        verify(target, checksum)
        return target
    part = target.with_name(f".{target.name}.part")
    with _into(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    missing = (size or 0) - (part.stat().st_size if part.exists() else 0)
    if (free := shutil.disk_usage(target.parent).free) < missing:
        raise OSError(
            f"{target.parent}: {missing:,} bytes are needed, {free:,} are free; make room there, or {ELSEWHERE}"
        )
    with _into(target.parent):
        part.touch()
    with open(part, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"{part}: another process is fetching this file; wait for it") from error
        try:
            _complete(url, part, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink()
                kept = f"nothing was kept of {target.name}"
                raise OSError(f"{target.parent}: the disk is full; {kept}: make room there, or {ELSEWHERE}") from error
            raise
        if wrong := _other_checksum(part, checksum):
            part.unlink()
            raise ValueError(f"{url}: {wrong}; nothing was kept: take it from another place, --url names one")
        os.replace(part, target)
    return target


@contextmanager
def _into(folder: Path):
    """What cannot be written there is told of with the way out."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write there ({error.strerror}): {ELSEWHERE}", str(folder)) from error


def _complete(url: str, part: Path, size: int | None) -> None:
    """Connect until `part` is complete, or until several connections in a row have brought nothing new."""
    failures, reason = 0, "the connection was cut"
    with tqdm(total=size, unit="B", unit_scale=True, desc=part.name[1:-5]) as bar:
        while failures < ATTEMPTS:
            time.sleep(PAUSE * failures)
            before = part.stat().st_size
            try:
                if _receive(url, part, size, bar):
                    return
            except urllib.error.HTTPError as error:
                raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}") from error
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = str(error)
            failures = 0 if part.stat().st_size > before else failures + 1
    raise ConnectionError(
        f"{url}: {reason}; {part.stat().st_size:,} bytes are kept in {part}, and fetching again goes on from there"
    )
