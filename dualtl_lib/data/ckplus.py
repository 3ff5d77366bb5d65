"""CK+ as its owners distribute it (section 4.3.1).

References:
    P. Lucey, J. F. Cohn, T. Kanade, J. Saragih, Z. Ambadar and I. Matthews (2010), the extended Cohn-Kanade dataset
    (CK+), CVPR workshops.
"""

import os
import re
from pathlib import Path

import numpy as np

from dualtl_lib import files, paper
from dualtl_lib.data import layouts
from dualtl_lib.data.expressions import Expressions, Picture, check_peak_frames
from dualtl_lib.data.folders import PERSON, SEQUENCE, FaceFolder, People
from dualtl_lib.data.notices import Notices, some
from dualtl_lib.data.paths import nfc, picture_files, visible_folders

FRAMES = ("cohn-kanade-images", "extended-cohn-kanade-images")  # the folder of sequences
LABELS = ("Emotion", "Emotion_labels")  # the folder of emotion codes
UNLABELLED = "sequences without a label, left out"
INCOMPLETE = "sequences without a folder of labels, which others have, left out"
UNPACK = "the archive Emotion_labels looks incompletely unpacked: unpack it again"
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
        contempt: Whether the sequences of contempt are used.
        settings: neutral, crop, transform and cache_dir, as for `Expressions`.

    Raises:
        FileNotFoundError: If the folder, its frames or its labels are missing.
        ValueError: If a parameter is out of range, or no labelled picture is left.
    """

    def __init__(self, root: str | Path, *, peak_frames: int = 3, contempt: bool = True, **settings):
        root, notices = files.expand(root, Path()), Notices()
        check_peak_frames(peak_frames)
        frames, labels = subfolder(root, FRAMES), subfolder(root, LABELS)
        if frames is None or labels is None:
            entries = some(sorted(p.name for p in root.iterdir())) if root.is_dir() else "no such folder"
            raise FileNotFoundError(
                f"{root}: expected CK+'s {FRAMES[0]}/ and {LABELS[0]}/, found {entries or 'nothing'}; unpack both there"
            )
        sequences, texts = _by_sequence(frames), {name: _texts(f) for name, f in _by_sequence(labels).items()}
        _check_labels(labels, texts, list(sequences), notices)
        pictures = []
        for name, sequence in sequences.items():
            label, peak = _emotion(name, texts.get(name, []), notices)
            if label == "contempt" and not contempt:
                notices.add("sequences of contempt, which is not used, left out", name, quiet=True)
            elif label is not None:
                numbered = _numbered(name, sequence, notices)
                for path, emotion in _chosen(numbered, label, peak, peak_frames, name, notices):
                    pictures.append(Picture(path.relative_to(root).as_posix(), emotion, name.split("/")[0], name))
        super().__init__(root, pictures, notices, **settings)


def open_expressions(root: str | Path, *, person: str = PERSON, **settings) -> Expressions:
    """Open a folder of expressions in the layout that it has.

    Args:
        root: CK+ in its official layout, KDEF, JAFFE, RAF-DB, FER2013's CSV file, or a folder for each class.
        person: As for FaceFolder. KDEF and JAFFE name the person themselves; in RAF-DB and FER2013, where nobody is
            known, ".+" states that each picture shows another person.
        settings: As for CKPlus and FaceFolder. Other layouts have no sequences, so `peak_frames` is not used there.

    Raises:
        FileNotFoundError, ValueError: As the data set of this layout.
    """
    root = files.expand(root, Path())
    if subfolder(root, FRAMES) is not None:
        return CKPlus(root, **settings)
    if (reader := layouts.recognized(root)) is not None:
        settings.pop("peak_frames", None)
        faces = reader(root, **settings)
        if np.array_equal(faces.people, faces.files) and People(person, []).each_another:
            faces.people = np.array([f"person of {file}" for file in faces.files])
        return faces
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


def _by_sequence(folder: Path) -> dict[str, Path]:
    """The folders of a folder's folders, by names such as S005/001."""
    folders = [sequence for subject in visible_folders(folder) for sequence in visible_folders(subject)]
    if not folders:
        raise FileNotFoundError(f"{folder}: expected a folder a person and in it one a sequence; unpack CK+'s there")
    return {nfc(f"{sequence.parent.name}/{sequence.name}"): sequence for sequence in folders}


def _check_labels(labels: Path, texts: dict[str, list[Path]], sequences: list[str], notices: Notices) -> None:
    """Count the sequences without labels and the labels without a sequence.

    Where a person, or an empty folder of labels, is there for some sequences and not for others, the labels' archive
    was not unpacked completely. An archiver may leave out empty folders, which then say nothing.
    """
    unlabelled = [name for name in sequences if not texts.get(name)]
    if len(unlabelled) == len(sequences):
        raise ValueError(
            f"{labels}: expected emotion files such as {sequences[-1]}/*.txt, found none for any of {len(sequences)} "
            "sequences; unpack CK+'s Emotion_labels there"
        )
    notices.add("labels without a sequence of frames", *(n for n in texts if texts[n] and n not in sequences))
    people, empty_are_kept = {name.split("/")[0] for name in texts}, not all(texts.values())
    for name in unlabelled:
        incomplete = name not in texts and (empty_are_kept or name.split("/")[0] not in people)
        notices.add(INCOMPLETE if incomplete else UNLABELLED, name, advice=UNPACK, quiet=not incomplete)


def _chosen(
    numbered: dict[int, Path], label: str, peak: int | None, peak_frames: int, name: str, notices: Notices
) -> list[tuple[Path, str]]:
    """Of a sequence's frames by their numbers: frame 1 as neutral and the last ones as the label.

    Frames that are missing at an end would shift what the others show, so that end is then left out.
    """
    if peak is not None and numbered and peak != max(numbered):
        reason = "sequences that do not end with the frame that is labelled, left out"
        notices.add(reason, f"{name}: {max(numbered)}, not {peak}", advice="get the missing frames")
        return []
    if numbered and 1 not in numbered:
        notices.add("sequences without frame 1, so none of theirs is neutral", name, advice="get the missing frames")
    if len(numbered) < peak_frames + 1:
        notices.add(f"sequences of fewer than {peak_frames + 1} frames", name)
    neutral = [(numbered.pop(1), "neutral")] if 1 in numbered and len(numbered) > 1 else []
    return neutral + [(path, label) for path in list(numbered.values())[-peak_frames:]]


def _numbered(name: str, sequence: Path, notices: Notices) -> dict[int, Path]:
    """A sequence's frames by their numbers, in order; others are left out."""
    numbered = {}
    for path in picture_files(sequence, notices):
        match = re.search(r"(\d+)$", path.stem)
        if match and int(match[1]) not in numbered and not _of_another(path, name):
            numbered[int(match[1])] = path
        else:
            reason = "frames without a number of their own, or named as another sequence's, left out"
            notices.add(reason, f"{name}/{path.name}")
    return dict(sorted(numbered.items()))


def _of_another(path: Path, name: str) -> bool:
    """Whether a file's name is of another sequence than the folders it lies in, S005/001."""
    parts = SEQUENCE.search(path.stem)
    return bool(parts and re.fullmatch(r"S\d+/\d+", name) and f"{parts[1]}/{parts[2]}" != name)


def _texts(folder: Path) -> list[Path]:
    """The text files of a folder."""
    entries = sorted(folder.iterdir())
    return [p for p in entries if p.suffix.lower() == ".txt" and not p.name.startswith(".") and os.path.isfile(p)]


def _emotion(name: str, paths: list[Path], notices: Notices) -> tuple[str | None, int | None]:
    """The expression that a sequence's label files state and the number of the frame they label, None if unknown."""
    if not paths:
        return None, None
    codes = {None if _of_another(path, name) else read_emotion(path) for path in paths}
    if len(codes) == 1 and (code := codes.pop()) is not None:
        parts = SEQUENCE.search(paths[0].stem)
        return paper.EXPRESSIONS[code], int(parts[3]) if parts else None
    reason = "emotion files without one code from 0 to 7, or named as another sequence's, left out"
    notices.add(reason, f"{name}/{paths[0].name}: {paths[0].read_bytes()[:20]!r}")
    return None, None


def read_emotion(path: str | Path) -> int | None:
    """The emotion code 0 to 7 that a file such as S005_001_00000011_emotion.txt holds; None where it holds none."""
    with open(path, "rb") as file:
        text = file.read(1000).decode("utf-8-sig", "replace").strip()
    if not CODE.fullmatch(text):
        return None
    value = float(text)
    return int(value) if value in range(len(paper.EXPRESSIONS)) else None
