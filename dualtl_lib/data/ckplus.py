"""CK+ as its owners distribute it (section 4.3.1).

References:
    P. Lucey, J. F. Cohn, T. Kanade, J. Saragih, Z. Ambadar and I. Matthews (2010), the extended Cohn-Kanade dataset
    (CK+), CVPR workshops.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from dualtl_lib import files, paper
from dualtl_lib.data import layouts
from dualtl_lib.data.expressions import Expressions, Picture, check_peak_frames, unwanted_classes
from dualtl_lib.data.folders import PERSON, SEQUENCE, FaceFolder
from dualtl_lib.data.notices import Notices, some
from dualtl_lib.data.paths import nfc, picture_files, visible_folders

FRAMES = ("cohn-kanade-images", "extended-cohn-kanade-images")  # the folder of sequences
LABELS = ("Emotion", "Emotion_labels")  # the folder of emotion codes
UNLABELLED = "sequences without a label, left out"
INCOMPLETE = "sequences without a folder of labels, which others have: unpack Emotion_labels completely; left out"
CODE = re.compile(r"[+]?\d+(\.\d*)?([eE][+-]?\d{1,2})?", re.ASCII)  # an emotion code: 3.0000000e+00


class CKPlus(Expressions):
    """CK+ in its official layout.

    Of each labelled sequence the first frame is neutral and the last ones show its emotion; frames are told by their
    number. Sequences without a label are left out, as the paper does; so are frames and labels that cannot be used or
    that contradict each other, with one warning for each reason and a count in `report`.

    Args:
        root: The folder that holds cohn-kanade-images/S005/001/… and Emotion/S005/001/…, also within
            extended-cohn-kanade-images/ and Emotion_labels/ as the archives unpack.
        peak_frames: How many last frames of a sequence show its emotion.
        neutral: Whether the class neutral is used.
        contempt: Whether the class contempt is used. Its sequences' neutral frames go with it.
        crop: As for FaceFolder.
        transform: Applied to an image by `faces[i]`.
        cache_dir: Folder of the image cache. Default: `files.cache_dir()`.

    Raises:
        FileNotFoundError: If the folder, its frames or its labels are missing.
        ValueError: If a parameter is out of range, or no labelled picture is left.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        peak_frames: int = 3,
        neutral: bool = True,
        contempt: bool = True,
        crop: str = "auto",
        transform: Callable[[Tensor], Tensor] | None = None,
        cache_dir: str | Path | None = None,
    ):
        root, notices = files.expand(root, Path()), Notices()
        check_peak_frames(peak_frames)
        frames, labels = subfolder(root, FRAMES), subfolder(root, LABELS)
        if frames is None or labels is None:
            entries = some(sorted(p.name for p in root.iterdir())) if root.is_dir() else "no such folder"
            raise FileNotFoundError(
                f"{root}: expected CK+'s frames in {FRAMES[0]}/ and its labels in {LABELS[0]}/, found "
                f"{entries or 'an empty folder'}; unpack both archives there"
            )
        sequences = [sequence for subject in visible_folders(frames) for sequence in visible_folders(subject)]
        if not sequences:
            raise FileNotFoundError(
                f"{frames}: expected a folder a person and in it one a sequence; unpack CK+'s there"
            )
        label_folders = [folder for subject in visible_folders(labels) for folder in visible_folders(subject)]
        texts = {nfc(f"{folder.parent.name}/{folder.name}"): _texts(folder) for folder in label_folders}
        unwanted = unwanted_classes(neutral=neutral, contempt=contempt)
        pictures = []
        for sequence in sequences:
            name = nfc(f"{sequence.parent.name}/{sequence.name}")
            label, peak = _emotion(texts.get(name, []), sequence, notices)
            if label in unwanted - {"neutral"}:
                notices.add(f"sequences of {label}, which is not used, left out", name, quiet=True)
            elif label is not None:
                numbered = _numbered(sequence, notices)
                for path, emotion in _chosen(numbered, label, peak, peak_frames, name, notices):
                    file = path.relative_to(root).as_posix()
                    pictures.append(Picture(file, emotion, nfc(sequence.parent.name), name))
        pictures = [picture for picture in pictures if picture.label not in unwanted]
        _check_labels(labels, texts, sequences, notices)
        super().__init__(root, pictures, notices, crop=crop, transform=transform, cache_dir=cache_dir)


def open_expressions(root: str | Path, *, person: str = PERSON, **settings) -> Expressions:
    """Open a folder of expressions in the layout that it has.

    Args:
        root: CK+ in its official layout, KDEF, JAFFE, RAF-DB, FER2013's CSV file, or a folder for each class.
        person: As for FaceFolder; the other layouts name the person themselves.
        settings: As for CKPlus and FaceFolder. Other layouts have no sequences, so `peak_frames` is not used there.

    Raises:
        FileNotFoundError, ValueError: As the data set of this layout.
    """
    root = files.expand(root, Path())
    if subfolder(root, FRAMES) is not None:
        return CKPlus(root, **settings)
    if (reader := layouts.recognized(root)) is not None:
        settings.pop("peak_frames", None)
        return reader(root, **settings)
    return FaceFolder(root, person=person, **settings)


def paper_images(root: str | Path, *, seed: int = 0, images: int = paper.CKPLUS_IMAGES, **settings) -> Expressions:
    """As many images of CK+ as the paper has, 1875 (section 4.3.1).

    First frames as neutral and the last five frames as emotions give 1962 from 327 sequences, the nearest number from
    above, of which `images` are drawn. Of fewer images, and of any other layout, whose pictures somebody has chosen
    already, all are taken.

    Args:
        root: As for `open_expressions`.
        seed: Draws the images.
        images: How many are drawn.
        settings: As for `open_expressions`; `peak_frames` is 5 by default.

    Raises:
        FileNotFoundError, ValueError: As `open_expressions`, and for `images` below 1.
    """
    if images < 1:
        raise ValueError(f"images is 1 or more, not {images}")
    faces = open_expressions(root, **{"peak_frames": 5, **settings})
    if not isinstance(faces, CKPlus) or len(faces) <= images:
        return faces
    return faces.subset(np.sort(np.random.default_rng(seed).permutation(len(faces))[:images]))


def subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of one of these names, in another of them if an archive was unpacked into a folder of its own."""
    candidates = (root / name / deeper for name in names for deeper in (*names, ""))
    return next((path for path in candidates if path.is_dir()), None)


def _check_labels(labels: Path, texts: dict[str, list[Path]], sequences: list[Path], notices: Notices) -> None:
    """Whether labels and sequences belong together: which have no partner.

    Where a person, or an empty folder of labels, is there for some sequences and not for others, the labels' archive
    was not unpacked completely. An archiver may leave out empty folders, which then say nothing.
    """
    unlabelled = notices.names.pop(UNLABELLED, [])
    if len(unlabelled) == len(sequences):
        raise ValueError(
            f"{labels}: expected emotion files such as {unlabelled[-1]}/*.txt, found none for any of {len(sequences)} "
            "sequences; unpack CK+'s Emotion_labels there"
        )
    known = {nfc(f"{s.parent.name}/{s.name}") for s in sequences}
    strays = [name for name, paths in texts.items() if paths and name not in known]
    notices.add("labels without a sequence of frames", *strays)
    people, empty_are_kept = {name.partition("/")[0] for name in texts}, not all(texts.values())
    missing = [
        name for name in unlabelled if name not in texts and (empty_are_kept or name.partition("/")[0] not in people)
    ]
    notices.add(INCOMPLETE, *missing)
    notices.add(UNLABELLED, *(name for name in unlabelled if name not in missing), quiet=True)


def _chosen(
    numbered: dict[int, Path], label: str, peak: int | None, peak_frames: int, name: str, notices: Notices
) -> list[tuple[Path, str]]:
    """Of a sequence's frames by their numbers: frame 1 as neutral and the last ones as the label.

    Frames that are missing at an end would shift what the others show, so that end is then left out.
    """
    if peak is not None and numbered and peak != max(numbered):
        notices.add(
            "sequences that do not end with the frame that is labelled, left out: get the missing frames",
            f"{name}: {max(numbered)}, not {peak}",
        )
        return []
    if numbered and 1 not in numbered:
        notices.add("sequences without frame 1, so none of theirs is neutral: get the missing frames", name)
    if len(numbered) < peak_frames + 1:
        notices.add(f"sequences of fewer than {peak_frames + 1} frames", name)
    neutral = [(numbered.pop(1), "neutral")] if 1 in numbered and len(numbered) > 1 else []
    return neutral + [(path, label) for path in list(numbered.values())[-peak_frames:]]


def _numbered(sequence: Path, notices: Notices) -> dict[int, Path]:
    """A sequence's frames by their numbers, in order; others are left out."""
    numbered = {}
    for path in picture_files(sequence, notices):
        match, name = re.search(r"(\d+)$", path.stem), f"{sequence.parent.name}/{sequence.name}/{path.name}"
        if _of_another(path, sequence):
            notices.add("frames of another sequence by their name, left out", name)
        elif match and int(match[1]) not in numbered:
            numbered[int(match[1])] = path
        else:
            notices.add("frames without a number of their own, left out", name)
    return dict(sorted(numbered.items()))


def _of_another(path: Path, sequence: Path) -> bool:
    """Whether a file's name is of another sequence than the folders it lies in, S005/001."""
    parts, name = SEQUENCE.search(path.stem), f"{sequence.parent.name}/{sequence.name}"
    return bool(parts and re.fullmatch(r"S\d+/\d+", name) and f"{parts[1]}/{parts[2]}" != name)


def _texts(folder: Path) -> list[Path]:
    """The text files of a folder."""
    entries = sorted(folder.iterdir())
    return [p for p in entries if p.suffix.lower() == ".txt" and not p.name.startswith(".") and os.path.isfile(p)]


def _emotion(paths: list[Path], sequence: Path, notices: Notices) -> tuple[str | None, int | None]:
    """The expression that a sequence's label files state and the number of the frame they label, None if unknown."""
    name = nfc(f"{sequence.parent.name}/{sequence.name}")
    if not paths:
        notices.add(UNLABELLED, name, quiet=True)
        return None, None
    if another := [f"{name}/{p.name}" for p in paths if _of_another(p, sequence)]:
        notices.add("emotion files of another sequence by their name, left out", *another)
        return None, None
    codes = {read_emotion(path) for path in paths}
    if len(codes) == 1 and (code := codes.pop()) is not None:
        parts = SEQUENCE.search(paths[0].stem)
        return paper.EXPRESSIONS[code], int(parts[3]) if parts else None
    text = paths[0].read_bytes()[:20]
    notices.add("emotion files without one code from 0 to 7, left out", f"{name}/{paths[0].name}: found {text!r}")
    return None, None


def read_emotion(path: str | Path) -> int | None:
    """The emotion code 0 to 7 that a file such as S005_001_00000011_emotion.txt holds; None where it holds none."""
    with open(path, "rb") as file:
        text = file.read(1000).decode("utf-8-sig", "replace").strip()
    if not CODE.fullmatch(text):
        return None
    value = float(text)
    return int(value) if value in range(len(paper.EXPRESSIONS)) else None
