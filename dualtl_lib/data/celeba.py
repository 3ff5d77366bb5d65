"""CelebA as its owners distribute it: faces with attributes (section 4.2.1, Table 2).

References:
    Z. Liu, P. Luo, X. Wang and X. Tang (2015), deep learning face attributes in the wild, ICCV.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dualtl_lib import files, paper
from dualtl_lib.data import cache
from dualtl_lib.data.crop import Box
from dualtl_lib.data.dataset import Faces, joined, notice_identical
from dualtl_lib.data.expressions import known_boxes
from dualtl_lib.data.notices import Notices, some
from dualtl_lib.data.paths import nfc, picture_files

SPLITS = ("train", "valid", "test")  # the partition file's 0, 1 and 2
FULL = 202_599  # images of the complete set
OFFICIAL_ENDS = (162_770, 182_637, FULL)  # the last image of each part of the complete set
SHARES = (0.8, 0.9, 1.0)  # where the parts of an incomplete set without a partition file end
FOLDERS = ("img_align_celeba", "img_align_celeba_png", "img_celeba")  # the last holds the pictures in the wild
LABELS = "list_attr_celeba"


class CelebA(Faces):
    """CelebA, complete or in part, at any size, in its official layout or Kaggle's.

    The crop is the centre square. Of pictures in the wild it is the box of list_bbox_celeba.txt, or else the detected
    face. Rows and pictures that cannot be used are left out, with one warning for each reason and a count in `report`.

    Args:
        root: The folder with img_align_celeba/ (or img_celeba/, in the wild) and list_attr_celeba.txt or .csv, both
            also where the archives unpack to (Img/, Anno/, Eval/) or one folder deeper.
        split: "train", "valid", "test" or "all". By list_eval_partition.txt or .csv where it is; without it by the
            official ranges if all 202599 images are there, and otherwise 80, 10 and 10 % drawn by `seed`. What is
            drawn keeps the people of identity_CelebA.txt and identical files on one side.
        attributes: Names of attributes, which become the columns of `targets` in that order.
        seed: Draws the parts of an incomplete set.
        transform: Applied to an image by `faces[i]`.
        cache_dir: Folder of the image cache. Default: `files.cache_dir()`.

    Raises:
        FileNotFoundError: If the folder, its pictures' folder or the list of attributes is missing.
        ValueError: If an attribute is unknown, a list is in neither form, or no face is left.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        attributes: Sequence[str] = paper.ATTRIBUTES,
        seed: int = 0,
        transform: Callable[[Tensor], Tensor] | None = None,
        cache_dir: str | Path | None = None,
    ):
        root, notices = files.expand(root, Path()), Notices()
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split is one of {', '.join(SPLITS)} or 'all', not {split!r}")
        folder = _image_folder(root)
        path = _list_file(root, LABELS, notices)
        if path is None:
            where = f"{LABELS}.txt or .csv there, in Anno/ or in Eval/"
            raise FileNotFoundError(f"{root}: expected {where}, found neither; it comes with CelebA's pictures")
        labels = read_attributes(path, attributes, notices=notices)
        pictures = _pictures(root, folder, notices)
        names = sorted(pictures.keys() & set(labels.index))
        notices.add("pictures the list does not name", *sorted(pictures.keys() - set(names)))
        notices.add("rows without a picture", *sorted(set(labels.index) - set(names)))
        people = _people(root, names, notices)
        if split != "all":
            part = _parts(root, {name: pictures[name] for name in names}, people, seed, notices)
            names = [name for name in names if part.get(name) == split]
        if not names:
            raise ValueError(f"{root}: no picture with labels is in split {split!r} ({notices}); put that right")
        wild = folder.name == FOLDERS[2]
        mode, boxes = ("face", _boxes(root, names, notices)) if wild else ("centre", None)
        paths = [pictures[name] for name in names]
        loaded = cache.load_files(root, paths, notices, mode=mode, boxes=boxes, cache_dir=cache_dir)
        names, paths = [names[i] for i in loaded.kept], [paths[i] for i in loaded.kept]
        targets = labels.loc[names].to_numpy()
        notice_identical(paths, targets, loaded.digests, notices)
        notices.warn(root)
        who, layout = np.array([people[name] for name in names]), "detected" if wild else "celeba"
        columns = (loaded.images, torch.tensor(targets), tuple(attributes), who, np.array(names), paths)
        super().__init__(*columns, notices.counts(), layout, digests=loaded.digests, transform=transform)


def _image_folder(root: Path) -> Path:
    """The folder of pictures, also where archives unpack to, and one level deeper as Kaggle has it."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected CelebA's, with {FOLDERS[0]}/ in it")
    for name in FOLDERS:
        for folder in (root / name / name, root / name, root / "Img" / name):
            if folder.is_dir():
                return folder
    entries = some(sorted(p.name for p in root.iterdir())) or "nothing"
    raise FileNotFoundError(
        f"{root}: expected a folder {' or '.join(FOLDERS)} there or in Img/, found {entries}; unpack CelebA there"
    )


def _pictures(root: Path, folder: Path, notices: Notices) -> dict[str, str]:
    """Each picture's path under root by its name without ending, which must be one picture's alone.

    Pictures whose names differ in their ending only are left out: it is not known which of them the row is about.
    """
    paths = picture_files(folder, notices)
    times = Counter(nfc(p.stem) for p in paths)
    twice = [p.name for p in paths if times[nfc(p.stem)] > 1]
    notices.add("pictures whose names differ in their ending only, left out", *twice)
    pictures = {nfc(p.stem): p.relative_to(root).as_posix() for p in paths if times[nfc(p.stem)] == 1}
    if not pictures:
        raise ValueError(f"{folder}: expected pictures (.jpg, .png, …), found none ({notices}); unpack CelebA's there")
    return pictures


def _list_file(root: Path, name: str, notices: Notices) -> Path | None:
    """A list in its usual places, or else one folder deeper, where that is one file."""
    places = [root / place / f"{name}{suffix}" for suffix in (".txt", ".csv") for place in ("", "Anno", "Eval")]
    deeper = {path for place in places for path in place.parent.glob(f"*/{place.name}")} - set(places)
    usual, deeper = ([path for path in paths if path.is_file()] for paths in (places, sorted(deeper)))
    if usual or len(deeper) != 1:
        return next(iter(usual), None)
    notices.add("lists in a folder where they are not expected, read all the same", deeper[0].relative_to(root))
    return deeper[0]


def read_list(path: Path, *, header: bool, notices: Notices) -> pd.DataFrame:
    """Read a list in CelebA's form (a count, names of columns, rows split at blanks) or Kaggle's (.csv).

    Args:
        path: The list.
        header: Whether the .txt form begins with a count and the columns' names.
        notices: Where rows that cannot be used are counted.

    Returns:
        A row of strings for each picture, by its name without ending. Different rows of one picture are left out.

    Raises:
        ValueError: If a .csv is not separated by commas.
    """
    is_csv, name = path.suffix == ".csv", path.name
    lines = nfc(path.read_bytes().decode("utf-8-sig", "replace")).splitlines()
    rows = [[f.strip(' \t"') for f in line.split(",")] if is_csv else line.split() for line in lines]
    if is_csv and rows and len(rows[0]) == 1:
        raise ValueError(f"{path}: expected names separated by commas in line 1, found {lines[0][:80]!r}")
    promised = "".join(rows.pop(0)) if header and not is_csv and rows else None
    columns = rows.pop(0) if (header or is_csv) and rows else []
    rows = [row for row in rows if any(row)]
    if promised not in (None, str(len(rows))):
        notices.add(f"{name}: line 1 promises {promised!r} rows, found {len(rows)}: cut off or edited", name)
    if is_csv and len(columns) > 2 and re.fullmatch(r"(Unnamed: ?\d+)?", columns[0]):
        notices.add(f"{name}: a first column without a name, taken for pandas' row numbers", columns[1])
        columns, rows = columns[1:], [row[1:] for row in rows]
    usual, _ = (Counter(map(len, rows)).most_common(1) or [(1, 0)])[0]
    if is_csv or (columns and re.fullmatch("image(_?id)?", columns[0])):
        columns = columns[1:]
    width = len(columns) + 1 if columns else usual
    ragged = [" ".join(row[:1]) for row in rows if len(row) != width]
    notices.add(f"{name}: rows without exactly {width - 1} values, left out", *ragged)
    named: dict[str, list[tuple[str, ...]]] = {}
    for first, *values in dict.fromkeys(tuple(row) for row in rows if len(row) == width):
        file = re.sub(rf"^(?:{'|'.join(FOLDERS)})/", "", first)
        if "/" in file or "\\" in file:
            notices.add(f"{name}: rows with a path where a picture's name is expected, left out", first)
        else:
            named.setdefault(Path(file).stem, []).append(tuple(values))
    twice = sorted(stem for stem, fields in named.items() if len(set(fields)) > 1)
    notices.add(f"{name}: pictures with two different rows, left out", *twice)
    single = {stem: fields[0] for stem, fields in named.items() if len(set(fields)) == 1}
    values, labels = list(single.values()), pd.Index(columns or list(map(str, range(width - 1))))
    return pd.DataFrame(values, index=pd.Index(list(single), dtype=object), columns=labels, dtype=object)


def read_attributes(path: str | Path, attributes: Sequence[str], *, notices: Notices | None = None) -> pd.DataFrame:
    """Read list_attr_celeba.txt or .csv.

    A row counts only if it is whole and all its values are labels. Labels are -1 and 1, or 0 and 1, also as 1.0.

    Args:
        path: The list.
        attributes: Names of attributes.
        notices: Where rows that cannot be used are counted. Default: they are warned of here.

    Returns:
        0 or 1 for each picture (by its name without ending) and attribute.

    Raises:
        ValueError: If the list lacks an attribute, has no usable row, or is in neither form.
    """
    path, counted = Path(path), Notices() if notices is None else notices
    table, attributes = read_list(path, header=True, notices=counted), [nfc(a) for a in attributes]
    if not len(table.columns) or not attributes:
        what = "a list with names of attributes" if attributes else "names of one or more attributes to read"
        raise ValueError(f"{path}: expected {what}, found none ({counted}); get the list anew or name some of it")
    columns = list(table.columns)
    if unknown := [a for a in attributes if columns.count(a) != 1]:
        raise ValueError(
            f"{path}: expected one column for each attribute, found none or several for {', '.join(unknown)}; "
            f"the list has {len(columns)} columns, {some(columns, 40)} ({counted}); name some of these"
        )
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    absent = -1 if (values == -1).sum() >= (values == 0).sum() else 0
    usable = np.asarray(np.isin(values, [absent, 1]).all(axis=1))
    if absent == 0 and (values[usable] == 0).any():
        counted.add(f"{path.name}: labels 0 and 1 in place of -1 and 1, read as absent and present", path.name)
    if not table.loc[usable].isin(["-1", "0", "1"]).to_numpy().all():
        counted.add(f"{path.name}: labels such as 1.0 in place of 1, read as 1", path.name)
    counted.add(f"{path.name}: rows with a value other than {absent} and 1, left out", *table.index[~usable])
    if notices is None:
        counted.warn(path.parent)
    if not usable.any():
        raise ValueError(f"{path}: no usable row among {len(table)} ({counted}); get the list anew")
    chosen = [columns.index(attribute) for attribute in attributes]
    return pd.DataFrame((values[usable][:, chosen] == 1).astype(np.int64), table.index[usable], attributes)


def _people(root: Path, names: Sequence[str], notices: Notices) -> dict[str, str]:
    """Who each picture shows, by identity_CelebA.txt; without that file, or a row in it, somebody of its own."""
    rows = _rows(root, "identity_CelebA", 1, notices)
    if rows is None:
        return {name: name for name in names}
    notices.add("identity_CelebA: no person is named for pictures", *(name for name in names if name not in rows))
    return {name: rows[name][0] if name in rows else name for name in names}


def _parts(root: Path, pictures: dict[str, str], people: dict[str, str], seed: int, notices: Notices) -> dict[str, str]:
    """The split each picture belongs to; pictures that a partition file does not place are in none."""
    rows = _rows(root, "list_eval_partition", 1, notices)
    if rows is not None:
        codes = dict(zip(("0", "1", "2"), SPLITS, strict=True))
        placed = {name: codes.get(rows.get(name, [""])[0].removesuffix(".0"), "") for name in pictures}
        lost = [name for name, split in placed.items() if not split]
        notices.add("list_eval_partition: expected 0, 1 or 2 for each picture, found something else or no row", *lost)
        return placed
    if len(pictures) == FULL:
        return {name: SPLITS[np.searchsorted(OFFICIAL_ENDS, i)] for i, name in enumerate(pictures, 1)}
    digests = cache.file_digests([root / path for path in pictures.values()])
    groups = joined([people[name] for name in pictures], digests)
    _, group = np.unique(groups, return_inverse=True)
    place = (np.random.default_rng(seed).permutation(group.max() + 1)[group] + 0.5) / (group.max() + 1)
    return {name: SPLITS[np.searchsorted(SHARES, p)] for name, p in zip(pictures, place, strict=True)}


def _boxes(root: Path, names: Sequence[str], notices: Notices) -> list[Box | None] | None:
    """The known face boxes (x, y, width, height) of pictures in the wild."""
    rows = _rows(root, "list_bbox_celeba", 4, notices, header=True)
    if rows is None:
        return None
    numbers = pd.DataFrame(list(rows.values()), columns=range(4)).apply(pd.to_numeric, errors="coerce")
    boxes = dict(zip(rows, numbers.to_numpy(float).tolist(), strict=True))
    return known_boxes(boxes, "list_bbox_celeba", names, notices)


def _rows(root: Path, name: str, width: int, notices: Notices, *, header: bool = False) -> dict | None:
    """The rows of a list with this many values each, by their pictures' names; None where there is no such list."""
    path = _list_file(root, name, notices)
    if path is None:
        return None
    table = read_list(path, header=header, notices=notices)
    return dict(zip(table.index, table.to_numpy().tolist(), strict=True)) if table.shape[1] == width else {}
