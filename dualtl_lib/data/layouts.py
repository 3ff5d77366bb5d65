"""Readers for layouts that many people have: KDEF, JAFFE, RAF-DB and FER2013.

References:
    KDEF: D. Lundqvist, A. Flykt and A. Öhman (1998), Karolinska Institutet.
    JAFFE: M. Lyons, S. Akamatsu, M. Kamachi and J. Gyoba (1998), FG.
    RAF-DB: S. Li, W. Deng and J. Du (2017), CVPR.
    FER2013: I. Goodfellow et al. (2013), ICONIP.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from dualtl_lib import files, paper
from dualtl_lib.data import cache, crop
from dualtl_lib.data.expressions import Expressions, Picture
from dualtl_lib.data.notices import Notices
from dualtl_lib.data.paths import nfc

CODES = {code[:2].upper(): code for code in ("anger", "disgust", "fear", "happy", "neutral", "sadness", "surprise")}
CODES["AF"] = "fear"  # KDEF's afraid
KDEF_NAME = re.compile(r"([AB])([FM]\d\d)(AF|AN|DI|HA|NE|SA|SU)(FL|HL|S|HR|FR)", re.IGNORECASE)
JAFFE_NAME = re.compile(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)\d\.\d+", re.IGNORECASE)
RAF_DB = ("surprise", "fear", "disgust", "happy", "sadness", "anger", "neutral")  # its labels 1 to 7
RAF_DB_LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # the first is its owners' spelling
FER2013 = ("anger", "disgust", "fear", "happy", "sadness", "surprise", "neutral")  # its labels 0 to 6
FER2013_USAGE = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}
FER2013_SIDE = 48  # pixels


class Name(NamedTuple):
    """What a picture's name states: person, expression, and the view or recording."""

    person: str
    expression: str
    recording: str
    view: str = "S"


def kdef_name(stem: str) -> Name | None:
    """Read a name such as AF01HAS: session A, female 01, happy, straight. None for any other name.

    The two sessions, A and B, show the same people. Views are FL and FR (full left, right), HL and HR, S (straight).
    """
    match = KDEF_NAME.fullmatch(nfc(stem).strip())
    if not match:
        return None
    session, person, code, view = match[0][0].upper(), match[2].upper(), match[3].upper(), match[4].upper()
    return Name(person, CODES[code], f"{session}{person}", view)


def jaffe_name(stem: str) -> Name | None:
    """Read a name such as KA.AN1.39: person KA, anger, picture 39. None for any other name."""
    match = JAFFE_NAME.fullmatch(nfc(stem).strip())
    return Name(match[1].upper(), CODES[match[2].upper()], match[0].upper()) if match else None


def kdef(root: str | Path, *, views: Sequence[str] = ("S",), **settings) -> Expressions:
    """KDEF as it is distributed, a folder for each person.

    Args:
        root: The folder; pictures may lie at any depth.
        views: Which views are used.
        settings: neutral, crop, transform and cache_dir, as for `Expressions`.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If no picture is left.
    """
    return _by_name(root, kdef_name, views, settings)


def jaffe(root: str | Path, **settings) -> Expressions:
    """JAFFE as it is distributed, in one folder.

    Args:
        root: The folder; pictures may lie at any depth.
        settings: neutral, crop, transform and cache_dir, as for `Expressions`.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If no picture is left.
    """
    return _by_name(root, jaffe_name, ("S",), settings)


def _by_name(root: str | Path, read: Callable, views: Sequence[str], settings: dict) -> Expressions:
    """Pictures at any depth whose names state person and expression."""
    root, notices, pictures = _folder(root), Notices(), []
    for path in _pictures_below(root):
        file, name = path.relative_to(root).as_posix(), read(path.stem)
        if name is None:
            notices.add("pictures with other names, left out", file)
        elif name.view not in views:
            notices.add("pictures of other views, left out", file, quiet=True)
        else:
            pictures.append(Picture(file, name.expression, name.person, name.recording))
    return Expressions(root, pictures, notices, **settings)


def rafdb(root: str | Path, *, split: str = "all", **settings) -> Expressions:
    """RAF-DB's basic expressions, by its list_patition_label.txt; who is shown is not known.

    Args:
        root: The folder with the list, there or in EmoLabel/, and with the pictures at any depth, aligned or original.
        split: "train", "test" or "all", by the pictures' names.
        settings: neutral, crop, transform and cache_dir, as for `Expressions`.

    Raises:
        FileNotFoundError: If the folder or the list is missing.
        ValueError: If `split` is unknown or no picture is left.
    """
    root, notices, pictures = _folder(root), Notices(), []
    path = _rafdb_list(root)
    if path is None:
        raise FileNotFoundError(f"{root}: expected {RAF_DB_LISTS[0]} there or in EmoLabel/, found none")
    if split not in ("train", "test", "all"):
        raise ValueError(f"split is 'train', 'test' or 'all', not {split!r}")
    paths = {nfc(p.stem.removesuffix("_aligned")): p for p in reversed(_pictures_below(root))}  # aligned/ comes first
    for line in nfc(path.read_text("utf-8-sig", "replace")).splitlines():
        row = re.fullmatch(r"\s*([^/\\]+)\.\w+\s+([1-7])(\.0*)?\s*", line, re.ASCII)
        if row is None:
            notices.add(f"{path.name}: rows without a picture's name and a label from 1 to 7, left out", repr(line))
        elif row[1] not in paths:
            notices.add("rows without a picture", row[1])
        elif split in ("all", row[1].partition("_")[0]):
            file = paths[row[1]].relative_to(root).as_posix()
            pictures.append(Picture(file, RAF_DB[int(row[2]) - 1], file, file))
    return Expressions(root, pictures, notices, **settings)


def fer2013(path: str | Path, *, split: str = "all", **settings) -> Expressions:
    """FER2013's CSV file (columns emotion, pixels and Usage); who is shown is not known.

    Args:
        path: The CSV file, or a folder with fer2013.csv.
        split: "train", "valid", "test" (Usage Training, PublicTest, PrivateTest) or "all".
        settings: neutral, transform and cache_dir, as for `Expressions`. The pictures are faces already cut out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `split` is unknown, the file has other columns, or no picture is left.
    """
    path, notices = files.expand(path, Path()), Notices()
    path = _fer2013_file(path) or path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected FER2013's .csv file, with columns emotion, pixels and Usage")
    table = _fer2013_rows(path, split, notices)
    texts, cache_dir = table["pixels"].astype(str).to_dict(), settings.pop("cache_dir", None)

    def face(text: str) -> crop.Cut:
        values = np.array(text.split(), float)
        if values.size != FER2013_SIDE**2 or values.min() < 0 or values.max() > 255:
            raise ValueError(f"expected {FER2013_SIDE**2} values from 0 to 255")
        picture = Image.fromarray(values.astype(np.uint8).reshape(FER2013_SIDE, FER2013_SIDE))
        return crop.Cut(crop.resize(picture.convert("RGB")))

    def load(pictures: Sequence[Picture]) -> cache.Loaded:
        names = [picture.file for picture in pictures]
        rows = [texts[picture.frame] for picture in pictures]
        key = files.fingerprint(cache.VERSION, *(text.encode() for text in rows))
        return cache.load(key, names, lambda i: face(rows[i]), notices, cache_dir=cache_dir)

    names = [(f"{path.name}#{row}", label, row) for row, label in table["label"].items()]
    pictures = [Picture(name, str(label), name, name, int(str(row))) for name, label, row in names]
    return Expressions(path.parent, pictures, notices, load=load, **settings)


def _fer2013_rows(path: Path, split: str, notices: Notices) -> pd.DataFrame:
    """The rows of a split: the columns label and pixels, by the row's number in the file, from 0."""
    if split not in (*FER2013_USAGE, "all"):
        raise ValueError(f"split is one of {', '.join(FER2013_USAGE)} or 'all', not {split!r}")
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected columns separated by commas ({error}); get the file anew") from error
    if missing := {"emotion", "pixels", *(["Usage"] if split != "all" else [])} - set(table):
        raise ValueError(f"{path}: expected columns emotion, pixels and Usage, found none named {', '.join(missing)}")
    labels = table["emotion"].str.strip().map({str(code): name for code, name in enumerate(FER2013)})
    known = labels.notna().to_numpy(bool)
    notices.add(f"{path.name}: rows without a label from 0 to 6, left out", *table.index[~known])
    used = known if split == "all" else known & (table["Usage"] == FER2013_USAGE[split]).to_numpy(bool)
    return table.assign(label=labels).loc[used]


def recognized(root: Path) -> Callable[..., Expressions] | None:
    """The reader for a folder or file in one of these layouts; None for any other, such as a folder for each class."""
    if _fer2013_file(root):
        return fer2013
    if not root.is_dir():
        return None
    if _rafdb_list(root):
        return rafdb
    stems = [path.stem for path in _pictures_below(root)]
    if any(path.name.casefold() in paper.EXPRESSIONS for path in root.iterdir()):
        return None
    named = {reader: sum(map(bool, map(name, stems))) for reader, name in ((kdef, kdef_name), (jaffe, jaffe_name))}
    return next((reader for reader, n in named.items() if n > len(stems) / 2), None)


def _folder(root: str | Path) -> Path:
    root = files.expand(root, Path())
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one with the data set's pictures")
    return root


def _pictures_below(root: Path) -> list[Path]:
    """The picture files at any depth, by name."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in crop.SUFFIXES and os.path.isfile(p))


def _rafdb_list(root: Path) -> Path | None:
    places = (root / place / name for place in ("", "EmoLabel", "basic/EmoLabel") for name in RAF_DB_LISTS)
    return next((path for path in places if path.is_file()), None)


def _fer2013_file(path: Path) -> Path | None:
    """The CSV file that this is, or that is in this folder by its name."""
    if path.suffix.lower() == ".csv":
        return path
    return next((path / name for name in ("fer2013.csv", "icml_face_data.csv") if (path / name).is_file()), None)
