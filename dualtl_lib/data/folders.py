"""A folder of pictures for each class, such as "CK+48" or one's own photographs."""

import re
import string
from collections.abc import Sequence
from pathlib import Path

from dualtl_lib import files
from dualtl_lib.data.crop import SUFFIXES
from dualtl_lib.data.expressions import Expressions, Picture, check_peak_frames, class_name
from dualtl_lib.data.layouts import JAFFE_NAME, KDEF_NAME
from dualtl_lib.data.notices import Notices, some
from dualtl_lib.data.paths import nfc, picture_files, visible_folders

PERSON = r"S\d+"  # CK+'s names of people
SEQUENCE = re.compile(r"(S\d+)_(\d+)_(\d+)")  # person, sequence, frame: S010_004_00000017
CK48_FRAMES = 3  # "CK+48" has the last three frames of each sequence
ANY_NAME = string.ascii_letters + string.digits + string.punctuation + " é"  # of which no part is a person's name
EXPRESSION = re.compile("neutral|ang(er|ry)|contempt|disgust|fear|afraid|happ(y|i)|joy|sad|surpris", re.IGNORECASE)
LAY_OUT = (
    "lay pictures out in a folder for each expression, with the person in their names (happy/ann-1.png, "
    "sad/ann-1.png); dualtl_lib.data.layouts reads KDEF, JAFFE, RAF-DB and FER2013 as they are"
)

PATTERN = "person=…, in a run's config a line person: …, is the pattern that finds one"
LONG = "names such as S1_2_3 are taken for person, sequence and frame; peak_frames=… uses more of them"


class FaceFolder(Expressions):
    """Faces in a folder for each class, the folder's name in small letters being the label.

    Classes are those of `paper.EXPRESSIONS` that occur, in its order, then others by name. Folders whose names differ
    in blanks, letter case or Unicode form are one class. Pictures that cannot be used are left out, with one warning
    for each reason and a count in `report`.

    Args:
        root: The folder of the classes' folders.
        person: The pattern that finds the person in a picture's name without ending: its first group that takes part,
            or without groups all it matches. A pattern that takes any name, such as ".+", makes each picture another
            person. Pictures without a match are each a person of their own, with a warning.
        peak_frames: How many last frames of a sequence are used. Pictures whose names hold person, sequence and frame
            (S010_004_00000017) are of a sequence; any other picture is one of its own. The class neutral is used whole.
        settings: neutral, contempt, crop, transform and cache_dir, as for `Expressions`.

    Raises:
        FileNotFoundError: If the folder is missing or has no pictures in folders.
        ValueError: If a parameter is out of range, or no picture is left.
    """

    def __init__(self, root: str | Path, *, person: str = PERSON, peak_frames: int = 3, **settings):
        root, notices = files.expand(root, Path()), Notices()
        check_peak_frames(peak_frames)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; expected a folder of pictures for each class in it")
        paths = _by_class(root, notices)
        if not any(paths.values()):
            raise FileNotFoundError(_nothing(root, notices))
        people = People(person, [path.stem for label in paths for path in paths[label]])
        pictures = []
        for label in paths:
            named = [people.picture(path.relative_to(root).as_posix(), label, notices) for path in paths[label]]
            pictures += _last(named, None if label == "neutral" else peak_frames, notices)
        _doubt_classes(pictures, notices)
        super().__init__(root, pictures, notices, **settings)


def _by_class(root: Path, notices: Notices) -> dict[str, list[Path]]:
    """The pictures of each class. Folders whose names differ in blanks, letter case or Unicode form are one class."""
    outside = [path.name for path in picture_files(root, notices)]
    notices.add("pictures outside the classes' folders, left out", *outside)
    paths, folders = {}, {}
    for folder in visible_folders(root):
        label = class_name(folder.name)
        folders.setdefault(label, []).append(repr(folder.name))
        pictures = picture_files(folder, notices)
        others = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        others = sorted(f"{folder.name}/{p.name}" for p in others if p.suffix.lower() not in SUFFIXES)
        notices.add("files that are no pictures, left out", *others)
        deeper = (f"{folder.name}/{p.name}" for p in visible_folders(folder))
        notices.add("folders inside a class's folder, whose pictures are not read", *deeper)
        if not pictures:
            notices.add("classes without pictures, left out", folder.name)
        paths.setdefault(label, []).extend(pictures)
    for names in folders.values():
        if len(names) > 1:
            notices.add("class folders that differ in blanks, letter case or Unicode form, read as one", *names)
    return paths


def _nothing(root: Path, notices: Notices) -> str:
    """The message for a folder without pictures in folders, with the folder to name instead where one is deeper."""
    entries = some(sorted(p.name for p in root.iterdir())) or "an empty folder"
    deeper = [folder for folder in visible_folders(root) if any(map(EXPRESSION.search, map(str, folder.iterdir())))]
    advice = f"name {deeper[0]}, which has them" if deeper else "put them there, or name the folder that has them"
    return (
        f"{root}: expected cohn-kanade-images/ and Emotion/, or a folder of pictures (.jpg, .png, …) for each class, "
        f"found {entries} ({notices}); {advice}; {LAY_OUT}"
    )


class People:
    """Who is on a picture, by its name.

    Args:
        person: A regular expression, as for FaceFolder.
        stems: The names of all pictures without ending: a pattern that takes all of each, and of any other name,
            says that each picture shows another person.

    Raises:
        ValueError: If `person` is no regular expression.
    """

    def __init__(self, person: str, stems: Sequence[str]):
        try:
            self.pattern = re.compile(nfc(person))
        except re.error as error:
            raise ValueError(f"person is a regular expression such as {PERSON!r}, not {person!r}: {error}") from error
        self.each_another = all(self.find(stem) == nfc(stem).strip() for stem in (ANY_NAME, *stems))

    def find(self, stem: str) -> str:
        """The first group that takes part, or the whole match of a pattern without groups; "" for nobody."""
        match = self.pattern.search(nfc(stem))
        if not match:
            return ""
        return (next((g for g in match.groups() if g is not None), "") if match.re.groups else match[0]).strip()

    def picture(self, file: str, label: str, notices: Notices) -> Picture:
        """A picture with its person and sequence."""
        stem = Path(file).stem
        parts = SEQUENCE.search(nfc(stem))
        sequence, frame = (f"{parts[1]}/{parts[2]}", int(parts[3])) if parts else (nfc(file), 0)
        who = self.find(stem)
        if self.each_another:  # equal names in two folders are two people
            return Picture(file, label, nfc(Path(file).with_suffix("").as_posix()), sequence, frame)
        if not who:
            reason = f"no person ({self.pattern.pattern}) in the name, so each is a person of its own"
            notices.add(reason, file, advice=PATTERN)
            return Picture(file, label, file, sequence, frame)
        if parts and who != parts[1]:  # S1_1_2 of two people is two sequences
            sequence = f"{who}/{sequence}"
        return Picture(file, label, who, sequence, frame)


def _last(pictures: list[Picture], peak_frames: int | None, notices: Notices) -> list[Picture]:
    """The last frames of each sequence by number; for None all of them as they come."""
    kept: dict[str, list[Picture]] = {}
    for picture in pictures:
        kept.setdefault(picture.sequence, []).append(picture)
    if peak_frames is None:
        return [picture for sequence in kept.values() for picture in sequence]
    for sequence in kept.values():
        sequence.sort(key=lambda picture: picture.frame)
        early, expected = [picture.file for picture in sequence[:-peak_frames]], len(sequence) <= CK48_FRAMES
        reason = f"frames before the last {peak_frames}{'' if expected else ' of long sequences'}, left out"
        notices.add(reason, *early, advice=LONG, quiet=expected)
    return [picture for sequence in kept.values() for picture in sequence[-peak_frames:]]


def _doubt_classes(pictures: list[Picture], notices: Notices) -> None:
    """Whether the folders look like people or processing steps in place of expressions."""
    people: dict[str, set[str]] = {}
    for picture in pictures:
        people.setdefault(picture.label, set()).add(picture.person)
    stems = [Path(picture.file).stem for picture in pictures]
    speaking = [s for s in stems if EXPRESSION.search(s) or KDEF_NAME.fullmatch(s) or JAFFE_NAME.fullmatch(s)]
    everybody = set().union(*people.values())
    a_person_each = all(len(names) == 1 for names in people.values()) and 1 < len(everybody) < len(pictures)
    unnamed = not any(map(EXPRESSION.search, people)) and len(speaking) > len(stems) / 2
    if a_person_each or unnamed:
        notices.add("class folders that look like people or processing steps", *people, advice=LAY_OUT)
