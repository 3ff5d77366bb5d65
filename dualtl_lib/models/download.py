"""Downloading one file with pooch: with a progress bar, checked, and there whole or not at all."""

import hashlib
from pathlib import Path

from dualtl_lib import files

TIMEOUT = 30  # seconds without a byte


def checksum_of(path: Path, algorithm: str) -> str:
    """Compute the hexadecimal digest of a file.

    Args:
        path: The file.
        algorithm: Such as "sha256".
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, checksum: str, *, name: str = "", advice: str = "remove it and fetch it again") -> None:
    """Compare a file with its checksum.

    Args:
        path: The file.
        checksum: "sha1:…" or "sha256:…"; of a shorter digest the first digits count, as in PyTorch's hub.
        name: Of the file in the error. Default: its path.
        advice: What the error tells the reader to do.

    Raises:
        ValueError: If they differ.
    """
    algorithm, expected = checksum.split(":")
    found = checksum_of(path, algorithm)
    if not found.startswith(expected):
        raise ValueError(f"{name or path}: expected {algorithm} {expected}, found {found}; {advice}")


def fetch(url: str, target: Path, *, checksum: str, size: int | None = None) -> Path:
    """Download a file, unless it is already there.

    Args:
        url: Its address.
        target: Where to keep it.
        checksum: As in `verify`.
        size: In bytes, where it is known.

    Returns:
        The target.

    Raises:
        ConnectionError: If the server cannot be reached, hangs up or offers a file of another size.
        ValueError: For a wrong checksum, and for an address that is none.
        OSError: If the disk is full or cannot be written.
    """
    if target.exists():
        verify(target, checksum)
        return target
    try:
        with files.atomic_write(target) as part:
            _receive(url, part, size)
            verify(part, checksum, name=url, advice="nothing was kept: name another address with --url")
    except ConnectionError:
        raise
    except OSError as error:
        problem = f"cannot write {target.name} ({error.strerror}); make room, or name another folder in DUALTL_CACHE"
        raise OSError(error.errno, problem, str(target.parent)) from error
    return target


def _receive(url: str, part: Path, size: int | None) -> None:
    import pooch  # these two take a fifth of a second
    from requests.exceptions import RequestException

    try:
        pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)(url, part, None)
    except (RequestException, ValueError) as error:
        if isinstance(error, RequestException) and isinstance(error, ValueError):  # requests' errors for an address
            raise ValueError(f"expected an address such as https://host/file, found {url!r} ({error})") from error
        raise ConnectionError(f"{url}: {error}; nothing was kept: try again, or name another address") from error
    if size not in (None, found := part.stat().st_size):
        raise ConnectionError(f"{url}: expected {size:,} bytes, found {found:,}, perhaps a sign-in page; try again")
