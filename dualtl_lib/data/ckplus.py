"""CK+ as its owners hand it out, and any folder with a folder of faces for each class (section 4.3.1).

P. Lucey, J. F. Cohn, T. Kanade, J. Saragih, Z. Ambadar and I. Matthews, the extended Cohn-Kanade dataset (CK+),
CVPR workshops 2010.
"""

import csv
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dualtl_lib import paper
from dualtl_lib.data.crop import SUFFIXES
from dualtl_lib.data.dataset import LEADS_OUT, Faces, Findings, inside, keep, picture_files, read, some, tell_of_links

FRAMES = ("cohn-kanade-images", "extended-cohn-kanade-images")  # the folder of sequences
LABELS = ("Emotion", "Emotion_labels")  # the folder of emotion codes
UNLABELLED = "sequences without a label, left out"
PERSON = r"S\d+"  # CK+'s names of people
SEQUENCE = re.compile(r"(S\d+)_(\d+)_(\d+)")  # person, sequence, frame: S010_004_00000017
CK48_FRAMES = 3  # "CK+48" has the last three frames of each sequence
NUMBER = re.compile(r"[+]?\d+(\.\d*)?([eE][+-]?\d{1,2})?", re.ASCII)  # an emotion code: 3.0000000e+00


class Picture(NamedTuple):
    """A labelled picture before it is read."""

    file: str
    label: str
    person: str
    sequence: str
    frame: int = 0  # its number in the sequence, where the name has one


class CKPlus(Faces):
    """CK+ in its official layout, or a folder per class such as "CK+48"; which, is seen from the folders.

    root: holds cohn-kanade-images/S005/001/… and Emotion/S005/001/…, also within extended-cohn-kanade-images/ and
        Emotion_labels/ as the archives unpack, or a folder for each class with pictures.
    peak_frames: how many last frames of a sequence show its emotion. In the official layout its first frame is
        neutral. In a folder per class, pictures whose names hold person, sequence and frame (S010_004_00000017) are
        of a sequence, and any other picture is one of its own; those of the class neutral are all taken.
    neutral, contempt: whether these classes are used. In the official layout contempt's sequences go with it.
    person: in a folder per class, the pattern that finds the person in a picture's name: the first of its groups
        that takes part, or without groups the whole of it. Pictures it finds nobody in are each a person of their
        own, with a warning.
    crop: "face", the detected face; "centre", the centre square; "auto", the face's known box where root has a
        boxes.csv (columns file, x, y, side in pixels) with it, the whole of a small square picture, which is a face
        already cut out, and the detected face of any other.
    cache: folder of the decoded faces (default: DUALTL_CACHE, or ~/.cache/dualtl).

    Classes are those of `paper.EXPRESSIONS` that occur, in its order, then others by name. Frames are told by their
    number. Sequences without a label are left out, as the paper does; so are pictures and labels that cannot be
    used, that contradict each other, or that lie elsewhere, with one warning for each reason and a count in `report`.
    Raises FileNotFoundError for a missing or empty folder, ValueError when no face is left.
    """

    def __init__(
        self,
        root: str | Path,
        peak_frames: int = 3,
        neutral: bool = True,
        contempt: bool = True,
        person: str = PERSON,
        crop: str = "auto",
        cache: str | Path | None = None,
    ):
        root = Path(root).expanduser()
        if peak_frames < 1:
            raise ValueError(f"peak_frames is 1 or more, not {peak_frames}")
        if crop not in ("auto", "face", "centre"):
            raise ValueError(f"crop is 'auto', 'face' or 'centre', not {crop!r}")
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root}: no such folder; expected CK+ in its official layout or a folder per class"
            )
        findings = Findings()
        frames = _subfolder(root, FRAMES)
        tell_of_links(root, [frames, _subfolder(root, LABELS), root / "boxes.csv"], findings)
        unwanted = {name for name, used in (("neutral", neutral), ("contempt", contempt)) if not used}
        if frames is not None:
            pictures = _official(root, frames, peak_frames, unwanted, findings)
        else:
            pictures = _folders(root, peak_frames, unwanted, person, findings)
        if not pictures:
            raise ValueError(f"{root}: no labelled picture is left ({findings}); put that right and run again")
        files = [p.file for p in pictures]
        known = _known_boxes(root, files, findings) if crop == "auto" else None
        images, unreadable, noted = read(root, files, crop, known, cache)
        kept = [pictures[i] for i in keep(root, files, unreadable, noted, findings)]
        classes = ordered({p.label for p in kept})
        targets = torch.tensor([classes.index(p.label) for p in kept], dtype=torch.int64)
        columns = ([getattr(p, field) for p in kept] for field in ("person", "sequence", "file"))
        super().__init__(images, targets, classes, *columns, findings.counts())


def _known_boxes(root: Path, files: list[str], findings: Findings) -> list[tuple[float, ...] | None] | None:
    """The face boxes (x, y, width, height) that boxes.csv gives for these files, None where it gives none."""
    path = root / "boxes.csv"
    if not path.is_file():
        return None
    columns, expected = {"file", "x", "y", "side"}, f"{path}: expected a line 1 of file,x,y,side and rows like it"
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as lines:
            reader = csv.DictReader(lines)
            rows, named = {row.get("file"): row for row in reader}, set(reader.fieldnames or ())
    except csv.Error as error:
        raise ValueError(f"{expected}, found what is none ({error}); make it anew or remove it") from error
    if not columns <= named:
        found = some(sorted(map(str, named))) or "none"
        raise ValueError(f"{expected}, found columns {found}; make it anew or remove it")
    boxes = []
    for file in files:
        try:
            x, y, side = (float(rows[file][name]) for name in ("x", "y", "side"))
        except (KeyError, TypeError, ValueError):  # no row, a short row, no number
            findings.add("boxes.csv has no box, so the face is detected", file)
            boxes.append(None)
        else:
            boxes.append((x, y, side, side))
    return boxes


def ordered(labels: set[str]) -> tuple[str, ...]:
    """Class names: the paper's expressions in its order, then others by name."""
    known = [name for name in paper.EXPRESSIONS if name in labels]
    return (*known, *sorted(labels - set(known)))


def paper_images(root: str | Path, seed: int = 0, images: int = paper.CKPLUS_IMAGES, **settings) -> CKPlus:
    """CK+ with as many images as the paper has, 1875: first frames as neutral and the last five frames as emotions
    give 1962 from 327 sequences, the nearest number from above, of which `images` are drawn by `seed`.

    Of fewer images, and of a folder per class, whose pictures somebody has chosen already, all are taken.
    settings: as CKPlus, whose peak_frames are 5 here.
    """
    data = CKPlus(root, **{"peak_frames": 5, **settings})
    official = _subfolder(Path(root).expanduser(), FRAMES) is not None
    if not official or len(data) <= images:
        return data
    return data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:images]))


def _subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of one of these names, in another of them if an archive was unpacked into a folder of its own."""
    candidates = (root / name / deeper for name in names for deeper in (*names, ""))
    return next((path for path in candidates if path.is_dir()), None)


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _official(root: Path, frames: Path, peaks: int, unwanted: set[str], findings: Findings) -> list[Picture]:
    """Labelled frames of the official layout: of each labelled sequence the first frame and the last `peaks`."""
    labels = _subfolder(root, LABELS)
    if labels is None:
        found = some([p.name for p in _visible(root)])
        raise FileNotFoundError(f"{root}: expected CK+'s labels in Emotion/ beside {frames.name}/, found {found}")
    pictures = []
    sequences = [sequence for subject in _visible(frames) for sequence in _visible(subject)]
    if not sequences:
        raise FileNotFoundError(
            f"{frames}: expected a folder a person and in it one a sequence, found none; unpack CK+'s there"
        )
    for sequence in sequences:
        name = f"{sequence.parent.name}/{sequence.name}"
        label, peak = _emotion(labels, name, findings)
        if label is None:
            continue
        if label in unwanted - {"neutral"}:
            findings.silent(f"sequences of {label}, which is not asked for, left out", name)
            continue
        numbered = _numbered(sequence, frames, findings)
        for path, emotion in _chosen(numbered, label, peak, peaks, name, findings):
            if emotion not in unwanted:
                pictures.append(Picture(path.relative_to(root).as_posix(), emotion, sequence.parent.name, name))
    if sequences and len(findings.names.get(UNLABELLED, ())) == len(sequences):
        raise ValueError(
            f"{root}: expected emotion files in {labels}, found none for any of {len(sequences)} sequences (the last "
            f"looked for: {labels / name}/*.txt); unpack CK+'s Emotion_labels there"
        )
    have = {f"{p.parent.name}/{p.name}" for p in sequences}
    labelled = [f"{s.name}/{q.name}" for s in _visible(labels) for q in _visible(s) if _texts(q)]
    findings.extend("labels without a sequence of frames", [name for name in labelled if name not in have])
    return pictures


def _chosen(numbered: dict, label: str, peak: int | None, peaks: int, name: str, findings: Findings) -> list:
    """Of a sequence's frames by their numbers: frame 1 as neutral and the last `peaks` as the label, [(path, class)].

    Frames that are missing at an end would shift what the others show, so that end is then left out.
    """
    if peak is not None and numbered and peak != max(numbered):
        findings.add(
            "sequences that do not end with the frame that is labelled, left out: get the missing frames",
            f"{name}: {max(numbered)}, not {peak}",
        )
        return []
    if numbered and 1 not in numbered:
        findings.add("sequences without frame 1, so none of theirs is neutral: get the missing frames", name)
    if len(numbered) < peaks + 1:
        findings.add(f"sequences of fewer than {peaks + 1} frames", name)
    neutral = [(numbered.pop(1), "neutral")] if 1 in numbered and len(numbered) > 1 else []
    return neutral + [(path, label) for path in list(numbered.values())[-peaks:]]


def _numbered(folder: Path, frames: Path, findings: Findings) -> dict[int, Path]:
    """A sequence's frames by their numbers, in order; others are left out."""
    name, found = f"{folder.parent.name}/{folder.name}", {}
    for path in picture_files(folder, frames, findings):
        match = re.search(r"(\d+)$", path.stem)
        if _of_another(path.stem, name):
            findings.add("frames of another sequence by their name, left out", f"{name}/{path.name}")
        elif match and int(match[1]) not in found:
            found[int(match[1])] = path
        else:
            findings.add("frames without a number of their own, left out", f"{name}/{path.name}")
    return dict(sorted(found.items()))


def _of_another(stem: str, name: str) -> bool:
    """Whether a file's name is of another sequence than the folders it lies in, S005/001."""
    parts = SEQUENCE.search(stem)
    return bool(parts and re.fullmatch(r"S\d+/\d+", name) and f"{parts[1]}/{parts[2]}" != name)


def _texts(folder: Path) -> list[Path]:
    """The text files of a folder, if there is one."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in found if p.suffix.lower() == ".txt" and not p.name.startswith(".")]


def _emotion(labels: Path, name: str, findings: Findings) -> tuple[str | None, int | None]:
    """The expression that a sequence's label file states, None where there is none or it cannot be used, and the
    number of the frame it is of, None where its name does not say."""
    files = _texts(labels / name)
    if not files:
        findings.silent(UNLABELLED, name)
        return None, None
    elsewhere = [f"{name}/{p.name}" for p in files if not inside(p, labels)]
    another = [f"{name}/{p.name}" for p in files if _of_another(p.stem, name)]
    findings.extend(LEADS_OUT, elsewhere)
    findings.extend("emotion files of another sequence by their name, left out", another)
    if elsewhere or another:
        return None, None
    codes = {read_emotion(path) for path in files}
    if len(codes) == 1 and None not in codes:
        parts = SEQUENCE.search(files[0].stem)
        return paper.EXPRESSIONS[codes.pop()], int(parts[3]) if parts else None
    with open(files[0], "rb") as file:
        text = file.read(20)
    findings.add("emotion files without one code from 0 to 7, left out", f"{name}/{files[0].name}: found {text!r}")
    return None, None


def read_emotion(path: str | Path) -> int | None:
    """The emotion code 0..7 that a file such as S005_001_00000011_emotion.txt holds; None where it holds none."""
    with open(path, "rb") as file:
        text = file.read(1000).decode("utf-8-sig", "replace").strip()
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return int(value) if value in range(len(paper.EXPRESSIONS)) else None


def _folders(root: Path, peaks: int, unwanted: set[str], person: str, findings: Findings) -> list[Picture]:
    """Pictures of a folder per class, whose name in small letters is the label."""
    pattern = _pattern(person)
    pictures = []
    stray = [p.name for p in picture_files(root, root, findings)]
    findings.extend("pictures outside the classes' folders, left out", stray)
    for folder in _visible(root):
        label = unicodedata.normalize("NFC", folder.name.lower())  # a letter with its accent, in one way only
        files = picture_files(folder, root, findings)
        others = [p for p in folder.iterdir() if p.suffix.lower() not in SUFFIXES and p.is_file()]
        others = [p for p in others if not p.name.startswith(".")]
        findings.extend("files that are no pictures, left out", [f"{folder.name}/{p.name}" for p in sorted(others)])
        deeper = [f"{folder.name}/{p.name}" for p in _visible(folder)]
        findings.extend("folders inside a class's folder, not looked into", deeper)
        if label in unwanted:
            for path in files:
                findings.silent(f"pictures of {label}, which is not asked for, left out", path.name)
            continue
        if not files:
            findings.add("classes without pictures, left out", folder.name)
        pictures += _last(_named(root, files, label, pattern, findings), peaks if label != "neutral" else 0, findings)
    if not pictures:
        raise FileNotFoundError(
            f"{root}: expected cohn-kanade-images/ and Emotion/, or a folder of pictures (.jpg, .png, …) a class, "
            f"found {some([p.name for p in sorted(root.iterdir())]) or 'an empty folder'} ({findings}); "
            "put them there, or name the folder that has them"
        )
    return pictures


def _pattern(person: str) -> re.Pattern:
    try:
        return re.compile(person)
    except re.error as error:
        raise ValueError(f"person is a regular expression such as {PERSON!r}, not {person!r}: {error}") from error


def _named(root: Path, files: list[Path], label: str, pattern: re.Pattern, findings: Findings) -> list[Picture]:
    """Who and which sequence each picture shows, by its name."""
    pictures = []
    for path in files:
        file = path.relative_to(root).as_posix()
        match, parts = pattern.search(path.stem), SEQUENCE.search(path.stem)
        who = _who(match) if match else ""
        if not who:
            findings.add(
                f"no person ({pattern.pattern}) in the name, so each is a person of its own; person=…, in a run's "
                "config a line person: …, is the pattern that finds one",
                file,
            )
        sequence, frame = (f"{parts[1]}/{parts[2]}", int(parts[3])) if parts else (file, 0)
        pictures.append(Picture(file, label, who or file, sequence, frame))
    return pictures


def _who(match: re.Match) -> str:
    """The first group that took part, or the whole match of a pattern without groups."""
    return next((g for g in match.groups() if g is not None), "") if match.re.groups else match[0]


def _last(pictures: list[Picture], peaks: int, findings: Findings) -> list[Picture]:
    """The last `peaks` pictures of each sequence by number; for 0 all of them as they come."""
    kept: dict[str, list[Picture]] = {}
    for picture in pictures:
        kept.setdefault(picture.sequence, []).append(picture)
    if not peaks:
        return [picture for sequence in kept.values() for picture in sequence]
    for sequence in kept.values():
        sequence.sort(key=lambda picture: picture.frame)
        for early in sequence[:-peaks]:
            if len(sequence) <= CK48_FRAMES:
                findings.silent(f"frames before the last {peaks}, left out", early.file)
            else:
                findings.add(
                    f"frames before the last {peaks} of long sequences, left out: names such as S1_2_3 are taken for "
                    "person, sequence and frame; for all of them raise peak_frames=…, in a run's config a line "
                    "peak_frames: …, or name the files otherwise",
                    early.file,
                )
    return [picture for sequence in kept.values() for picture in sequence[-peaks:]]
