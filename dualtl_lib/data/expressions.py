"""What all sets of expressions share: labelled pictures, their classes, and their faces from the image cache."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
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
        root: The folder that was read.
        pictures: The labelled pictures.
        notices: What was noticed about them; it is warned of here.
        neutral: Whether the class neutral is used.
        contempt: Whether the class contempt is used.
        crop: "face", the detected face; "centre", the centre square; "auto", the face's box where root has a boxes.csv
            (columns file, x, y, side, in pixels of the stored pictures), the whole of a small square picture, which is
            a face already cut out, and the detected face of any other.
        transform: Applied to an image by `faces[i]`.
        cache_dir: Folder of the image cache. Default: `files.cache_dir()`.
        load: Gives the faces of pictures that are not files. Default: they are files under root.

    Raises:
        ValueError: If no picture is left, or a parameter is out of range.
    """

    def __init__(
        self,
        root: Path,
        pictures: Sequence[Picture],
        notices: Notices,
        *,
        neutral: bool = True,
        contempt: bool = True,
        crop: str = "auto",
        transform: Callable[[Tensor], Tensor] | None = None,
        cache_dir: str | Path | None = None,
        load: Callable[[list[Picture]], cache.Loaded] | None = None,
    ):
        if crop not in MODES:
            raise ValueError(f"crop is one of {', '.join(MODES)}, not {crop!r}")
        for name, used in (("neutral", neutral), ("contempt", contempt)):
            unused = [] if used else [picture.file for picture in pictures if picture.label == name]
            notices.add(f"pictures of {name}, which is not used, left out", *unused, quiet=True)
            pictures = [picture for picture in pictures if used or picture.label != name]
        if not pictures:
            raise ValueError(f"{root}: no labelled picture is left ({notices}); put that right and run again")
        names = [picture.file for picture in pictures]
        if load is not None:
            loaded = load(list(pictures))
        else:
            boxes = read_boxes(root / "boxes.csv", names, notices) if crop == "auto" else None
            loaded = cache.load_files(root, names, notices, mode=crop, boxes=boxes, cache_dir=cache_dir)
        files, labels, people, sequences, _ = zip(*(pictures[i] for i in loaded.kept), strict=True)
        notice_identical(files, labels, loaded.digests, notices)
        notices.warn(root)
        classes = ordered(labels)
        targets = torch.tensor([classes.index(label) for label in labels])
        columns = (
            loaded.images,
            targets,
            classes,
            np.array(people),
            np.array(sequences),
            list(files),
            notices.counts(),
        )
        super().__init__(*columns, digests=loaded.digests, transform=transform)


def class_name(text: str) -> str:
    """A class's name in one spelling: composed Unicode, no blanks around it, no capital letters."""
    return nfc(" ".join(nfc(text).split()).casefold())


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names: the paper's expressions in its order, then others by name."""
    known = [name for name in paper.EXPRESSIONS if name in set(labels)]
    return (*known, *sorted(set(labels) - set(known)))


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
    expected = f"{path}: expected a line 1 of file,x,y,side and rows like it"
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", encoding_errors="replace")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{expected}, found something else ({error}); make it anew or remove it") from error
    if not {"file", "x", "y", "side"} <= set(table):
        raise ValueError(f"{expected}, found columns {some(list(table))}; make it anew or remove it")
    numbers = table[["x", "y", "side", "side"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    rows = dict(zip(table["file"].astype(str).map(nfc), numbers.tolist(), strict=True))
    return known_boxes(rows, path.name, names, notices)


def known_boxes(rows: dict, path: str, names: Sequence[str], notices: Notices) -> list[Box | None]:
    """Each picture's box (x, y, width, height), None where its row is missing or has a NaN."""
    boxes = [tuple(rows[nfc(name)]) if nfc(name) in rows else None for name in names]
    boxes = [None if box is None or np.isnan(box).any() else box for box in boxes]
    missing = [name for name, box in zip(names, boxes, strict=True) if box is None]
    notices.add(f"{path} has no box, so the face is detected", *missing)
    return boxes
