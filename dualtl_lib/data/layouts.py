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
from dualtl_lib.data.expressions import Expressions, Picture, unwanted_classes
from dualtl_lib.data.notices import Notices
from dualtl_lib.data.paths import nfc

CODES = dict(
    AF="fear", AN="anger", DI="disgust", FE="fear", HA="happy", NE="neutral", SA="sadness", SU="surprise"
)  # fmt: skip
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
        settings: neutral, contempt, crop, transform and cache_dir, as for FaceFolder.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If no picture is left.
    """
    return _by_name(root, kdef_name, views, **settings)


def jaffe(root: str | Path, **settings) -> Expressions:
    """JAFFE as it is distributed, in one folder.

    Args:
        root: The folder; pictures may lie at any depth.
        settings: neutral, contempt, crop, transform and cache_dir, as for FaceFolder.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If no picture is left.
    """
    return _by_name(root, jaffe_name, ("S",), **settings)


def _by_name(root, read: Callable, views: Sequence[str], *, neutral=True, contempt=True, **settings) -> Expressions:
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
    unwanted = unwanted_classes(neutral=neutral, contempt=contempt)
    return Expressions(root, [p for p in pictures if p.label not in unwanted], notices, **settings)


def rafdb(root: str | Path, *, split: str = "all", neutral=True, contempt=True, **settings) -> Expressions:
    """RAF-DB's basic expressions, by its list_patition_label.txt; who is shown is not known.

    Args:
        root: The folder with the list and the pictures, there or in EmoLabel/ and Image/aligned/ (or Image/original/),
            also within basic/.
        split: "train", "test" or "all", by the pictures' names.
        neutral: Whether the class neutral is used.
        contempt: Not a class of RAF-DB; as for FaceFolder.
        settings: crop, transform and cache_dir, as for FaceFolder.

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
    paths = {nfc(p.stem.removesuffix("_aligned")): p for p in reversed(_pictures_below(root))}
    unwanted = unwanted_classes(neutral=neutral, contempt=contempt)
    for line in nfc(path.read_bytes().decode("utf-8-sig", "replace")).splitlines():
        if not line.strip():
            continue
        name, _, code = line.strip().rpartition(" ")
        stem = Path(name.strip()).stem
        if Path(name.strip()).name != name.strip() or not re.fullmatch(r"[1-7](\.0*)?", code, re.ASCII):
            notices.add(f"{path.name}: rows without a picture's name and a label from 1 to 7, left out", line.strip())
        elif stem not in paths:
            notices.add("rows without a picture", name)
        elif split in ("all", stem.partition("_")[0]) and (label := RAF_DB[int(code[0]) - 1]) not in unwanted:
            file = paths[stem].relative_to(root).as_posix()
            pictures.append(Picture(file, label, file, file))
    return Expressions(root, pictures, notices, **settings)


def fer2013(path: str | Path, *, split: str = "all", neutral=True, contempt=True, **settings) -> Expressions:
    """FER2013's CSV file (columns emotion, pixels and Usage); who is shown is not known.

    Args:
        path: The CSV file, or a folder with one of them.
        split: "train", "valid", "test" (Usage Training, PublicTest, PrivateTest) or "all".
        neutral: Whether the class neutral is used.
        contempt: Not a class of FER2013; as for FaceFolder.
        settings: transform and cache_dir, as for FaceFolder. The pictures are cut out already: `crop` is not used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `split` is unknown, a column is missing, or no picture is left.
    """
    path, notices = files.expand(path, Path()), Notices()
    path = _fer2013_file(path) or path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected FER2013's .csv file, with columns emotion, pixels and Usage")
    table = _fer2013_rows(path, split, notices)
    table = table[~table["label"].isin(unwanted_classes(neutral=neutral, contempt=contempt))]
    if table.empty:
        raise ValueError(f"{path}: no labelled picture is left ({notices}); name another split or get the file anew")
    names, texts = [f"{path.name}#{row}" for row in table.index], table["pixels"].tolist()

    def cut(i: int) -> crop.Cut:
        values = np.array(str(texts[i]).split(), float)
        if values.size != FER2013_SIDE**2 or values.min() < 0 or values.max() > 255:
            raise ValueError(f"expected {FER2013_SIDE**2} values from 0 to 255, found {values.size} or others")
        picture = Image.fromarray(values.astype(np.uint8).reshape(FER2013_SIDE, FER2013_SIDE))
        return crop.Cut(crop.resize(picture.convert("RGB")))

    key = files.fingerprint(
        Path(crop.__file__).read_bytes(), cache.file_digests([path])[0].encode(), *map(str.encode, names)
    )
    loaded = cache.load(key, names, cut, notices, cache_dir=settings.pop("cache_dir", None))
    pictures = [Picture(name, label, name, name) for name, label in zip(names, table["label"], strict=True)]
    return Expressions(path, pictures, notices, loaded=loaded, **settings)


def _fer2013_rows(path: Path, split: str, notices: Notices) -> pd.DataFrame:
    """The rows of a split: the columns label and pixels, by the row's number in the file, from 0."""
    if split not in (*FER2013_USAGE, "all"):
        raise ValueError(f"split is one of {', '.join(FER2013_USAGE)} or 'all', not {split!r}")
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig").rename(columns=lambda name: name.strip())
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected columns separated by commas ({error}); get the file anew") from error
    wanted = ["emotion", "pixels"] + ["Usage"] * (split != "all")
    if missing := [column for column in wanted if column not in table]:
        raise ValueError(f"{path}: expected columns {', '.join(wanted)}, found none named {', '.join(missing)}")
    if split != "all":
        table = table[table["Usage"].str.strip() == FER2013_USAGE[split]]
    labels = pd.to_numeric(table["emotion"], errors="coerce").map(dict(enumerate(FER2013)))
    notices.add(f"{path.name}: rows without a label from 0 to 6, left out", *table.index[labels.isna()])
    return table.assign(label=labels)[labels.notna()]


def recognized(root: Path) -> Callable[..., Expressions] | None:
    """The reader for a folder or file in one of these layouts; None for any other, such as a folder for each class."""
    if _fer2013_file(root):
        return fer2013
    if not root.is_dir():
        return None
    if _rafdb_list(root):
        return rafdb
    stems = [path.stem for path in _pictures_below(root)]
    folders = {path.name.casefold() for path in root.iterdir() if path.is_dir()}
    for reader, name in ((kdef, kdef_name), (jaffe, jaffe_name)):
        if sum(name(stem) is not None for stem in stems) > len(stems) / 2 and not folders & set(paper.EXPRESSIONS):
            return reader
    return None


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
