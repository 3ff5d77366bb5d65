"""Names and files of pictures, compared in one spelling."""

import os
import unicodedata
from pathlib import Path

from dualtl_lib.data.crop import SUFFIXES
from dualtl_lib.data.notices import Notices


def nfc(text: str) -> str:
    """Text in Unicode's composed form: an accented letter has one spelling, whatever system wrote the name."""
    return unicodedata.normalize("NFC", text)


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def picture_files(folder: Path, notices: Notices) -> list[Path]:
    """The picture files in a folder by name, links to files included.

    Hidden files, which some systems leave behind, are not counted.

    Args:
        folder: The folder to list.
        notices: Where entries are counted that have a picture's name and are no file, such as a link to nothing.

    Returns:
        Paths, sorted by name.
    """
    entries = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    files = {p for p in entries if os.path.isfile(p)}  # not a device, which could be read without end
    lost = sorted(f"{folder.name}/{p.name}" for p in entries if p not in files and not p.is_dir())
    notices.add("pictures that are no files (links to nothing, devices), left out", *lost)
    return sorted(files, key=lambda p: (nfc(p.name), p.name))
