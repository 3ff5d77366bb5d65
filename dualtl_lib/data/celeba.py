"""CelebA as its owners hand it out: faces with attributes (section 4.2.1, Table 2).

Z. Liu, P. Luo, X. Wang and X. Tang, deep learning face attributes in the wild, ICCV 2015.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dualtl_lib import paper
from dualtl_lib.data.dataset import Faces, Findings, keep, picture_files, read, some, tell_of_links

SPLITS = ("train", "valid", "test")  # the partition file's 0, 1 and 2
FULL = 202_599  # images of the complete set
OFFICIAL_ENDS = (162_770, 182_637, FULL)  # the last image of each part of the complete set
SHARES = (0.8, 0.9, 1.0)  # where the parts of an incomplete set without a partition file end
NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)
LISTS = ("list_attr_celeba", "identity_CelebA", "list_eval_partition", "list_bbox_celeba")
FOLDERS = ("img_align_celeba", "img_align_celeba_png", "img_celeba")  # the last holds the pictures in the wild


class Rows(NamedTuple):
    """A list file: the names of its columns (none in some), and each picture's fields as they stand there."""

    columns: tuple[str, ...]
    fields: dict[str, list[str]]


class CelebA(Faces):
    """CelebA, complete or in part, at any size, in its official layout or Kaggle's.

    root: the folder with img_align_celeba/ (or img_celeba/, in the wild) and list_attr_celeba.txt or .csv, both
        also where the archives unpack to (Img/, Anno/, Eval/).
    split: "train", "valid", "test" or "all". By list_eval_partition.txt or .csv where it is; without it by the
        official ranges if all 202599 images are there, and otherwise 80, 10 and 10 % drawn by `seed`, with the
        people of identity_CelebA.txt kept apart if that file is there.
    attributes: names of attributes, which become the columns of `targets` in that order.
    cache: folder of the decoded faces (default: DUALTL_CACHE, or ~/.cache/dualtl).

    The crop is the centre square; in the wild it is the box of list_bbox_celeba.txt, or else the detected one.
    Rows and pictures that cannot be used are left out, with one warning for each reason and a count in `report`.
    Raises FileNotFoundError for a missing folder or list and ValueError for an unknown attribute, for a list that is
    not in either form, or when no face is left.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        attributes: Sequence[str] = paper.ATTRIBUTES,
        seed: int = 0,
        cache: str | Path | None = None,
    ):
        root = Path(root).expanduser()
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split is one of {', '.join(SPLITS)} or 'all', not {split!r}")
        folder = _image_folder(root)
        path = _list_file(root, "list_attr_celeba")
        if path is None:
            raise FileNotFoundError(
                f"{root}: expected list_attr_celeba.txt or .csv there, in Anno/ or in Eval/, found neither; "
                "it comes with CelebA and names each image's 40 attributes"
            )
        findings = Findings()
        tell_of_links(root, [folder, *(_list_file(root, name) for name in LISTS)], findings)
        labels = read_attributes(path, attributes, findings)
        pictures = _pictures(root, folder, labels, findings)
        if not pictures:
            raise ValueError(
                f"{folder}: expected pictures (.jpg, .png, …), found none ({findings}); unpack CelebA's there"
            )
        findings.extend("pictures the list does not name", sorted(set(pictures) - set(labels)))
        findings.extend("rows without a picture", sorted(set(labels) - set(pictures)))
        names = sorted(set(labels) & set(pictures))
        people = _people(root, names, findings)
        if split != "all":
            part = _parts(root, names, people, seed, findings)
            names = [name for name in names if part.get(name) == split]
        if not names:
            raise ValueError(f"{root}: no picture with labels is in split {split!r} ({findings}); put that right")

        wild = folder.name == "img_celeba"
        files = [pictures[name] for name in names]
        boxes = _boxes(root, names, findings) if wild else None
        images, unreadable, noted = read(root, files, "face" if wild else "centre", boxes, cache)
        kept = keep(root, files, unreadable, noted, findings)
        files, names = [files[i] for i in kept], [names[i] for i in kept]
        targets = torch.tensor([labels[name] for name in names], dtype=torch.int64)
        who = [people.get(name, name) for name in names]
        layout = "detected" if wild else "celeba"
        super().__init__(images, targets, attributes, who, names, files, findings.counts(), layout)


def _image_folder(root: Path) -> Path:
    """The folder of pictures, also where archives unpack to, and one level deeper as Kaggle has it."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected CelebA's, with {FOLDERS[0]}/ in it")
    for name in FOLDERS:
        for folder in (root / name / name, root / name, root / "Img" / name):
            if folder.is_dir():
                return folder
    found = some(sorted(p.name for p in root.iterdir())) or "nothing"
    raise FileNotFoundError(
        f"{root}: expected a folder {' or '.join(FOLDERS)} there or in Img/, found {found}; unpack CelebA there"
    )


def _pictures(root: Path, folder: Path, labels: dict, findings: Findings) -> dict[str, str]:
    """Each picture's path under root by its name without ending, which must be one picture's alone.

    Of names that several have, pictures and labels are left out: which of them the row is about is not known.
    """
    files = picture_files(folder, folder, findings)
    twice = {name for name, count in Counter(p.stem for p in files).items() if count > 1}
    findings.extend(
        "pictures whose names differ in their ending only, left out", [p.name for p in files if p.stem in twice]
    )
    for name in twice:
        labels.pop(name, None)
    return {p.stem: p.relative_to(root).as_posix() for p in files if p.stem not in twice}


def _list_file(root: Path, name: str) -> Path | None:
    candidates = (root / folder / f"{name}{suffix}" for folder in ("", "Anno", "Eval") for suffix in (".txt", ".csv"))
    return next((path for path in candidates if path.is_file()), None)


def _read_rows(path: Path, header: bool, findings: Findings) -> Rows:
    """A list in CelebA's form (a count, names of columns, rows split at blanks) or Kaggle's (.csv), not yet judged.

    Pictures go by their name without its ending. Two different rows of one picture are both left out.
    header: whether the .txt form begins with a count and the columns' names. Raises ValueError for a .csv that is
    not separated by commas.
    """
    kaggle = path.suffix == ".csv"
    lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    split = [_commas(path, line) if kaggle else line.split() for line in lines]
    if kaggle and split and len(split[0]) == 1:
        raise ValueError(
            f"{path}: expected names of columns separated by commas in line 1, found {lines[0][:80]!r}; save the list "
            "with commas"
        )
    promised = None
    if header and not kaggle and split:
        count = split.pop(0)
        promised = int(count[0]) if len(count) == 1 and NUMBER.fullmatch(count[0]) else None
        if promised is None:
            findings.add(f"{path.name}: expected the number of rows in line 1", f"found {some(count) or 'nothing'}")
    columns = split.pop(0) if (header or kaggle) and split else []
    rows = [fields for fields in split if any(fields)]
    if promised is not None and promised != len(rows):
        findings.add(f"{path.name}: line 1 promises {promised} rows, found {len(rows)}", "cut off or edited")
    fields: dict[str, list[str]] = {}
    twice = set()
    for name, *values in rows:
        if name != Path(name).name or "\\" in name:
            findings.add(f"{path.name}: rows with a path where a picture's name is expected, left out", name)
            continue
        stem = Path(name).stem
        if fields.setdefault(stem, values) != values:
            twice.add(stem)
    findings.extend(f"{path.name}: pictures with two different rows, left out", sorted(twice))
    return Rows(tuple(columns[1:] if kaggle else columns), {k: v for k, v in fields.items() if k not in twice})


def _commas(path: Path, line: str) -> list[str]:
    """The fields of a .csv's line. Read by itself, a line with an open quotation mark does not swallow the next."""
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error as error:
        raise ValueError(f"{path}: expected fields separated by commas, found {line[:80]!r} ({error})") from error


def read_attributes(path: str | Path, attributes: Sequence[str], findings: Findings | None = None) -> dict[str, list]:
    """list_attr_celeba.txt or .csv: for each picture (its name without ending) 0 or 1 for each of these attributes.

    A row counts only if it is whole and all its values are -1 or 1; others are left out and counted in `findings`.
    Raises ValueError for an attribute the list does not have, and for a list without a usable row.
    """
    path, own = Path(path), findings is None
    findings = Findings() if own else findings
    columns, rows = _read_rows(path, True, findings)
    if not columns:
        found = "a first line without names" if rows else "an empty list"
        raise ValueError(
            f"{path}: expected the attributes' names and a row for each picture, found {found} "
            f"({findings}); get the list anew"
        )
    unknown = [a for a in attributes if columns.count(a) != 1]
    if unknown:
        raise ValueError(
            f"{path}: expected one column for each attribute, found none or several for {', '.join(unknown)}; "
            f"the list has {len(columns)} columns, {some(columns, 40)} ({findings}); ask for some of these"
        )
    chosen = [columns.index(a) for a in attributes]
    labels = {}
    for name, values in rows.items():
        if len(values) != len(columns):
            findings.add(f"{path.name}: rows without exactly {len(columns)} values, left out", name)
        elif not set(values) <= {"-1", "1"}:
            findings.add(f"{path.name}: rows with a value other than -1 and 1, left out", name)
        else:
            labels[name] = [int(values[i] == "1") for i in chosen]
    if own:
        findings.warn(path.parent)
    if not labels:
        raise ValueError(f"{path}: no usable row among {len(rows)}: {findings}; get the list anew")
    return labels


def _people(root: Path, names: Sequence[str], findings: Findings) -> dict[str, str]:
    """Who each picture shows, by identity_CelebA.txt; without that file, or a row in it, nobody is known."""
    path = _list_file(root, "identity_CelebA")
    if path is None:
        return {}
    rows = _read_rows(path, False, findings).fields
    people = {name: rows[name][0] for name in names if len(rows.get(name, ())) == 1}
    findings.extend(f"{path.name}: no person is named for pictures", [name for name in names if name not in people])
    return people


def _parts(root: Path, names: list[str], people: dict[str, str], seed: int, findings: Findings) -> dict[str, str]:
    """The split each picture belongs to; pictures that a partition file does not place are in none."""
    path = _list_file(root, "list_eval_partition")
    if path is not None:
        codes = {str(code): split for code, split in enumerate(SPLITS)}
        rows = _read_rows(path, False, findings).fields
        placed = {n: codes[rows[n][0]] for n in names if len(rows.get(n, ())) == 1 and rows[n][0] in codes}
        lost = [name for name in names if name not in placed]
        findings.extend(f"{path.name}: expected 0, 1 or 2 for each picture, found something else or no row", lost)
        return placed
    if len(names) == FULL:
        return {name: SPLITS[np.searchsorted(OFFICIAL_ENDS, i)] for i, name in enumerate(names, 1)}
    groups = sorted({people.get(name, name) for name in names})
    rank = dict(zip(groups, np.random.default_rng(seed).permutation(len(groups)).tolist(), strict=True))
    place = {name: (rank[people.get(name, name)] + 0.5) / len(groups) for name in names}
    return {name: SPLITS[np.searchsorted(SHARES, place[name])] for name in names}


def _boxes(root: Path, names: Sequence[str], findings: Findings) -> list[tuple[float, ...] | None] | None:
    """The known face boxes (x, y, width, height) of pictures in the wild; None where the list has none."""
    path = _list_file(root, "list_bbox_celeba")
    if path is None:
        return None
    rows = _read_rows(path, True, findings).fields
    boxes = []
    for name in names:
        values = rows.get(name, [])
        whole = len(values) == 4 and all(map(NUMBER.fullmatch, values))
        boxes.append(tuple(map(float, values)) if whole else None)
        if not whole:
            findings.add(f"{path.name}: no face box, so the face is detected", name)
    return boxes
