"""What all sets of expressions share: labelled pictures, their classes, and their faces from the image cache."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dualtl_lib import paper
from dualtl_lib.data import cache
from dualtl_lib.data.crop import MODES, Box
from dualtl_lib.data.dataset import Faces, notice_identical
from dualtl_lib.data.notices import Notices, some
from dualtl_lib.data.paths import nfc


class Picture(NamedTuple):
    """A labelled picture before it is read.

    Attributes:
        file: Its path under the data set's folder.
        label: Its class.
        person: Who it shows.
        sequence: The recording it comes from.
        frame: Its number in the sequence, where its name has one.
    """

    file: str
    label: str
    person: str
    sequence: str
    frame: int = 0


class Expressions(Faces):
    """Faces with an expression each: the base of CKPlus, FaceFolder and the other layouts.

    Args:
        root: The folder that was read, for messages.
        pictures: The labelled pictures.
        notices: What was noticed about them; it is warned of here.
        crop: As in `crop.cut`; boxes.csv in root is used with "auto".
        loaded: The pictures' faces. Default: read from root.
        transform: Applied to an image by `faces[i]`.
        cache_dir: Folder of the image cache. Default: `files.cache_dir()`.

    Raises:
        ValueError: If no picture is left, or the parameters are out of range.
    """

    def __init__(
        self,
        root: Path,
        pictures: Sequence[Picture],
        notices: Notices,
        *,
        crop: str = "auto",
        loaded: cache.Loaded | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        cache_dir: str | Path | None = None,
    ):
        if crop not in MODES:
            raise ValueError(f"crop is one of {', '.join(MODES)}, not {crop!r}")
        if not pictures:
            raise ValueError(f"{root}: no labelled picture is left ({notices}); put that right and run again")
        if loaded is None:
            names = [p.file for p in pictures]
            boxes = read_boxes(root / "boxes.csv", names, notices) if crop == "auto" else None
            loaded = cache.load_files(root, names, notices, mode=crop, boxes=boxes, cache_dir=cache_dir)
        kept = [pictures[i] for i in loaded.kept]
        labels = [p.label for p in kept]
        classes = ordered(labels)
        names = [p.file for p in kept]
        notice_identical(names, labels, loaded.digests, notices)
        notices.warn(root)
        super().__init__(
            loaded.images,
            torch.tensor([classes.index(label) for label in labels], dtype=torch.int64),
            classes,
            [p.person for p in kept],
            [p.sequence for p in kept],
            names,
            report=notices.counts(),
            digests=loaded.digests,
            transform=transform,
        )


def class_name(text: str) -> str:
    """A class's name in one spelling: composed Unicode, no blanks around it, no capital letters."""
    return nfc(" ".join(nfc(text).split()).casefold())


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names: the paper's expressions in its order, then others by name."""
    known = [name for name in paper.EXPRESSIONS if name in set(labels)]
    return (*known, *sorted(set(labels) - set(known)))


def unwanted_classes(*, neutral: bool, contempt: bool) -> set[str]:
    """The classes that are not used."""
    return {name for name, used in (("neutral", neutral), ("contempt", contempt)) if not used}


def check_peak_frames(peak_frames: int) -> None:
    """Raise ValueError for a number of peak frames below 1."""
    if peak_frames < 1:
        raise ValueError(f"peak_frames is 1 or more, not {peak_frames}")


def read_boxes(path: Path, names: Sequence[str], notices: Notices) -> list[Box | None] | None:
    """Read boxes.csv: face boxes with the columns file, x, y and side, in pixels of the stored pictures.

    Args:
        path: The list, which may be missing.
        names: The pictures' paths under its folder.
        notices: Where pictures without a box are counted.

    Returns:
        A box (x, y, width, height) or None for each picture; None without a list.

    Raises:
        ValueError: If the list is in another form.
    """
    if not path.is_file():
        return None
    columns, expected = {"file", "x", "y", "side"}, f"{path}: expected a line 1 of file,x,y,side and rows like it"
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as lines:
            reader = csv.DictReader(lines)
            rows, named = {nfc(row.get("file") or ""): row for row in reader}, set(reader.fieldnames or ())
    except csv.Error as error:
        raise ValueError(f"{expected}, found something else ({error}); make it anew or remove it") from error
    if not columns <= named:
        raise ValueError(
            f"{expected}, found columns {some(sorted(map(str, named))) or 'none'}; make it anew or remove it"
        )
    boxes: list[Box | None] = []
    for name in names:
        try:
            x, y, side = (float(rows[nfc(name)][column]) for column in ("x", "y", "side"))
        except (KeyError, TypeError, ValueError):  # no row, a short row, no number
            notices.add("boxes.csv has no box, so the face is detected", name)
            boxes.append(None)
        else:
            boxes.append((x, y, side, side))
    return boxes
