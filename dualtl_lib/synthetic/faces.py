"""Synthetic faces on disk, in CelebA's and CK+'s own layouts, with masks of the parts beside them.

`write_celeba` and `write_ckplus` make the two data sets, `face` one picture. Each picture is drawn from a seed of its
own, so the files do not depend on the number of workers. Every file says "synthetic faces" in its metadata.
"""

import csv
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from dualtl_lib import paper
from dualtl_lib.synthetic import portrait
from dualtl_lib.synthetic.anatomy import LASTING, Identity, draw_attributes
from dualtl_lib.synthetic.drawing import View
from dualtl_lib.synthetic.expressions import ACTION_UNITS, EXPRESSIONS
from dualtl_lib.synthetic.portrait import PARTS, Scene
from dualtl_lib.synthetic.writing import (
    in_parallel,
    save_grey,
    save_index,
    save_photo,
    write_boxes,
    write_folder,
    write_rows,
)

__all__ = [
    "ACTION_UNITS",
    "CELEBA_ATTRIBUTES",
    "EXPRESSIONS",
    "PARTS",
    "Identity",
    "Scene",
    "View",
    "box",
    "face",
    "parts",
    "write_celeba",
    "write_ckplus",
]

CELEBA_SIZE = (218, 178)  # height, width
CKPLUS_SIZE = (490, 640)
CELEBA_ATTRIBUTES = tuple(  # all 40, in its order
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young""".split()  # noqa: SIM905
)
# Labelled sequences of each emotion in CK+ (Lucey et al. 2010, Table 3), for its 123 people.
CKPLUS_COUNTS = dict(anger=45, contempt=18, disgust=59, fear=25, happy=69, sadness=28, surprise=83)
CKPLUS_SUBJECTS = 123

# Attributes that CK+'s people show: those that last. Tired or narrowed eyes could be read as an expression, and the
# movements (smiling, an open mouth) are action units there.
SITTING = (*LASTING, "Rosy_Cheeks")


def face(
    identity: Identity,
    action_units: dict,
    attributes: dict | None = None,
    view: View | None = None,
    scene: Scene | None = None,
    size: tuple[int, int] = (227, 227),
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One synthetic face.

    action_units: {number: intensity 0..1, or (left, right) as the viewer sees them}; attributes: {name of Table 2:
    strength 0..1 or bool}, by default the person's own; size: (height, width). Returns the picture, uint8 RGB
    [H, W, 3], and {part: bool [H, W]}. Raises ValueError for an unknown action unit or attribute.
    """
    height, width = size
    view = view or View(width / 2, 0.44 * height, 0.26 * height)
    attributes = identity.traits if attributes is None else attributes
    pixels, index = portrait.paint(identity, action_units, attributes, view, scene or Scene(), size)
    return pixels, _masks(index)


def parts(root: str | os.PathLike, file: str, box: tuple | None = None, side: int = 227) -> dict[str, np.ndarray]:
    """The parts of the face in a picture that write_celeba or write_ckplus wrote: {part: bool [H, W]}.

    file: the picture's path relative to root. With a box (x, y, side) in pixels, the masks of that square, resized to
    [side, side]. Left and right are the viewer's; "face" is all of it. Raises FileNotFoundError if there are no masks.
    """
    path = (Path(root) / "parts" / file).with_suffix(".png")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no part masks: only folders that faces.synthetic has written have them")
    with Image.open(path) as picture:
        if box is not None:
            x, y, length = box
            area = (x, y, x + length, y + length)
            picture = picture.transform((side, side), Image.Transform.EXTENT, area, Image.Resampling.NEAREST)
        return _masks(np.asarray(picture))


def box(root: str | os.PathLike, file: str) -> tuple[float, float, float]:
    """The known square (x, y, side) of a picture's face in pixels, as a frontal-face detector would frame it.

    Raises KeyError if the folder's boxes.csv does not have the file.
    """
    with open(Path(root) / "boxes.csv", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["file"] == str(file):
                return float(row["x"]), float(row["y"]), float(row["side"])
    raise KeyError(f"{Path(root) / 'boxes.csv'}: no row for {file}")


def _masks(index: np.ndarray) -> dict[str, np.ndarray]:
    masks = {name: index == value for value, name in enumerate(PARTS, 1)}
    masks["face"] = index > 0
    return masks


@lru_cache(maxsize=4096)  # a person has several pictures, and drawing one takes a twentieth of a picture's time
def _person(seed: int, layout: int, who: int) -> Identity:
    return Identity.draw(np.random.default_rng([seed, layout, who]))


# CelebA


def write_celeba(
    root: str | os.PathLike, people: int = 600, images: int = 3000, seed: int = 0, workers: int | None = None
) -> Path:
    """Write synthetic faces in CelebA's layout: img_align_celeba/000001.jpg and on, 178x218, and its label files.

    list_attr_celeba.txt has all 40 attributes: the 12 of Table 2 are drawn on their own, the others say what the
    picture shows where the generator knows it and are -1 elsewhere. The partitions take about 80, 10 and 10 % of the
    people. Beside them: parts/, boxes.csv, README.txt. Does nothing if root already has the same. Raises
    FileExistsError if root holds anything that this function did not write, ValueError if images < people.
    """
    if images < people or people < 3:
        raise ValueError(f"write_celeba needs at least 3 people and an image of each: people={people}, images={images}")
    settings = dict(layout="CelebA", people=people, images=images, seed=seed)

    def write(folder: Path):
        owner = np.concatenate([np.arange(people), np.random.default_rng([seed, 1]).integers(people, size=images)])
        owner = np.sort(owner[:images])
        order = np.random.default_rng([seed, 2]).permutation(images)  # CelebA does not sort its people either
        owner = owner[order]
        for place in ("img_align_celeba", "parts/img_align_celeba"):
            (folder / place).mkdir(parents=True)
        jobs = [(folder, seed, number, int(who)) for number, who in enumerate(owner, 1)]
        rows = in_parallel(_write_celeba_picture, jobs, workers, "synthetic faces, CelebA's layout")
        names = [f"{number:06d}.jpg" for number in range(1, images + 1)]
        with open(folder / "list_attr_celeba.txt", "w") as lines:
            lines.write(f"{images}\n{' '.join(CELEBA_ATTRIBUTES)} \n")
            for name, (labels, _) in zip(names, rows, strict=True):
                lines.write(f"{name} {' '.join(f'{1 if label else -1:2d}' for label in labels)}\n")
        share = np.random.default_rng([seed, 3]).permutation(people) / people
        partition = np.where(share < 0.8, 0, np.where(share < 0.9, 1, 2))
        write_rows(folder / "list_eval_partition.txt", zip(names, partition[owner], strict=True))
        write_rows(folder / "identity_CelebA.txt", zip(names, owner + 1, strict=True))
        write_boxes(folder, [(f"img_align_celeba/{n}", b) for n, (_, b) in zip(names, rows, strict=True)])

    return write_folder(root, settings, write)


def _write_celeba_picture(folder: Path, seed: int, number: int, who: int):
    """Draw and write one picture; returns its 40 labels and its box."""
    person, attributes, view, pixels, index = celeba_picture(seed, number, who)
    name = f"img_align_celeba/{number:06d}"
    save_photo(folder / f"{name}.jpg", pixels)
    save_index(folder / f"parts/{name}.png", index)
    return celeba_labels(person, attributes), face_box(view)


def celeba_picture(seed: int, number: int, who: int):
    """One picture: the person, the attributes shown, the view, the pixels uint8 [H, W, 3], the parts uint8 [H, W]."""
    person = _person(seed, 4, who)
    rng = np.random.default_rng([seed, 5, number])
    attributes = draw_attributes(rng) | {name: person.traits[name] for name in LASTING}
    # Movements that none of the 12 attributes is about, so that no label gives away another.
    units = {unit: float(rng.uniform(0, 0.5)) for unit in (1, 2, 4, 17) if rng.random() < 0.15}
    view = View(
        x=89 + rng.normal(0, 1.5),
        y=111 + rng.normal(0, 1.5),
        scale=44 * rng.uniform(0.94, 1.08),
        roll=rng.normal(0, 2),
        yaw=rng.normal(0, 7),
        pitch=rng.normal(0, 4),
    )
    pixels, index = portrait.paint(person, units, attributes, view, Scene.draw(rng), CELEBA_SIZE)
    grain = (np.frombuffer(rng.bytes(index.size), np.uint8) % 9).astype(np.int8).reshape(index.shape) - 4
    pixels = cv2.add(pixels, cv2.merge([grain] * 3), dtype=cv2.CV_8U)  # stops at 0 and 255
    return person, attributes, view, pixels, index


def celeba_labels(person: Identity, attributes: dict) -> list[bool]:
    """CelebA's 40 attributes of a picture, in its order."""
    style, bald = person.style, person.style == "bald"
    known = {name: strength > 0.5 for name, strength in attributes.items()}
    known |= {
        "Bald": bald,
        "Bangs": style == "bangs",
        "Black_Hair": person.hair == "black" and not bald and style != "hat",
        "Blond_Hair": person.hair == "blond" and not bald and style != "hat",
        "Brown_Hair": person.hair == "brown" and not bald and style != "hat",
        "Gray_Hair": person.hair == "gray" and not bald and style != "hat",
        "Eyeglasses": person.glasses,
        "Heavy_Makeup": person.makeup > 0.6,
        "Male": person.male,
        "Mustache": person.moustache > 0,
        "No_Beard": person.beard == 0 and person.moustache == 0,
        "Pale_Skin": sum(person.skin) > 660,
        "Straight_Hair": style in ("long", "bangs"),
        "Wavy_Hair": style == "curly",
        "Wearing_Hat": style == "hat",
        "Wearing_Lipstick": person.makeup > 0.3,
        "Young": person.age < 0.6,
    }
    return [bool(known.get(name, False)) for name in CELEBA_ATTRIBUTES]


# CK+


def write_ckplus(
    root: str | os.PathLike, subjects: int = CKPLUS_SUBJECTS, seed: int = 0, workers: int | None = None
) -> Path:
    """Write synthetic sequences in CK+'s layout, from neutral to peak, 640x490 grey.

    cohn-kanade-images/S005/001/S005_001_00000001.png and on; the last frame's emotion code (see paper.EXPRESSIONS) in
    Emotion/S005/001/. With 123 subjects the 327 sequences have CK+'s own counts, with others in proportion; a subject
    has 1 to 6 of them, all different. Beside them: parts/, boxes.csv, README.txt. Does nothing if root already has the
    same. Raises FileExistsError if root holds anything that this function did not write, ValueError if subjects < 2.
    """
    if not 2 <= subjects <= 900:
        raise ValueError(f"write_ckplus needs 2 to 900 subjects, for names of the form S005: subjects={subjects}")
    settings = dict(layout="CK+", subjects=subjects, seed=seed)

    def write(folder: Path):
        jobs = []
        for who, emotions in enumerate(ckplus_plan(subjects, seed)):
            for number, emotion in enumerate(emotions, 1):
                jobs.append((folder, seed, who, number, emotion))
        rows = in_parallel(_write_ckplus_sequence, jobs, workers, "synthetic faces, CK+'s layout")
        write_boxes(folder, [row for sequence in rows for row in sequence])

    return write_folder(root, settings, write)


def ckplus_plan(subjects: int, seed: int) -> list[list[str]]:
    """Which emotions each subject shows, in order: 1 to 6, all different, in CK+'s proportions."""
    rng = np.random.default_rng([seed, 6])
    counts = {e: min(subjects, max(1, round(n * subjects / CKPLUS_SUBJECTS))) for e, n in CKPLUS_COUNTS.items()}
    room = np.ones(subjects, int)
    while room.sum() < sum(counts.values()):
        room[rng.choice(np.flatnonzero(room < 6))] += 1
    plan = [[] for _ in range(subjects)]
    for emotion, count in sorted(counts.items(), key=lambda item: -item[1]):
        # Those with most room first: this always finds a way where there is one (Gale, Ryser).
        for who in np.lexsort([rng.random(subjects), -room])[:count]:
            plan[who].append(emotion)
            room[who] -= 1
    return [list(rng.permutation(emotions)) for emotions in plan]


class Frame(NamedTuple):
    """One frame of a sequence, still to be drawn."""

    units: dict[int, tuple[float, float]]
    view: View
    box: tuple[float, float, float]  # x, y, side of the face's square in pixels


class Sequence(NamedTuple):
    """One recording: who moves, what lasts, and its frames from neutral to peak."""

    person: Identity
    attributes: dict[str, float]
    scene: Scene
    frames: list[Frame]


def ckplus_sequence(seed: int, who: int, number: int, emotion: str) -> Sequence:
    """A subject's sequence, not drawn yet."""
    person = _person(seed, 7, who)
    rng = np.random.default_rng([seed, 8, who, number])
    attributes = {name: person.traits[name] for name in SITTING}
    peak = EXPRESSIONS[emotion].draw(rng, *STRENGTH)
    frames = int(rng.integers(7, 10))
    strengths = np.concatenate([[0.0], np.linspace(0.4, 0.75, frames - 6) if frames > 7 else [0.5],
                                np.linspace(0.84, 1.0, 5)])  # fmt: skip
    pose = {key: float(rng.uniform(*limits)) for key, limits in POSE.items()}
    sway = {key: rng.normal(0, spread) for key, spread in SWAY.items()}
    scene = Scene.draw(rng)
    drawn = []
    for strength in strengths.tolist():
        view = View(**{key: value + strength * sway.get(key, 0.0) for key, value in pose.items()})
        units = {unit: (left * strength, right * strength) for unit, (left, right) in peak.items()}
        x, y, side = face_box(view)
        right, down, larger = np.clip(rng.normal(0, FRAMING), -2 * np.array(FRAMING), 2 * np.array(FRAMING)) * side
        box = (x + right - larger / 2, y + down - larger / 2, side + larger)
        drawn.append(Frame(units, view, tuple(round(float(v), 1) for v in box)))
    return Sequence(person, attributes, scene, drawn)


def _write_ckplus_sequence(folder: Path, seed: int, who: int, number: int, emotion: str):
    """Draw and write one sequence with its label; returns [(file, box)] of its frames."""
    name = f"S{who + 5:03d}/{number:03d}"
    for place in ("cohn-kanade-images", "parts/cohn-kanade-images", "Emotion"):
        (folder / place / name).mkdir(parents=True)
    sequence = ckplus_sequence(seed, who, number, emotion)
    written = []
    for number, frame in enumerate(sequence.frames, 1):
        pixels, index = draw_frame(sequence, frame)
        file = f"{name}/{name.replace('/', '_')}_{number:08d}"
        save_grey(folder / f"cohn-kanade-images/{file}.png", pixels)
        save_index(folder / f"parts/cohn-kanade-images/{file}.png", index)
        written.append((f"cohn-kanade-images/{file}.png", frame.box))
    label = folder / f"Emotion/{file}_emotion.txt"
    label.write_text(f"   {paper.EXPRESSIONS.index(emotion):.7e}\n")
    return written


def draw_frame(sequence: Sequence, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """A grey frame and its index of parts, uint8 [H, W] each, drawn at DRAWN of CKPLUS_SIZE and enlarged."""
    height, width = (round(DRAWN * side) for side in CKPLUS_SIZE)
    view = frame.view
    small = replace(view, x=DRAWN * view.x, y=DRAWN * view.y, scale=DRAWN * view.scale)
    person, attributes, scene = sequence.person, sequence.attributes, sequence.scene
    pixels, index = portrait.paint(person, frame.units, attributes, small, scene, (height, width), grey=True)
    whole = CKPLUS_SIZE[::-1]
    return cv2.resize(pixels[..., 0], whole), cv2.resize(index, whole, interpolation=cv2.INTER_NEAREST)


DRAWN = 0.6  # a third of the time; a face is then about 180 pixels wide, and the network sees 227 of it
POSE = dict(x=(270, 370), y=(185, 235), scale=(104, 132), roll=(-12, 12), yaw=(-16, 16), pitch=(-8, 8))
SWAY = dict(x=5, y=4, roll=1.5, yaw=2, pitch=1.5)  # how far a sequence moves, standard deviations
# How differently a detector frames one face from frame to frame: right, down, larger, as shares of the square.
FRAMING = (0.025, 0.025, 0.035)
STRENGTH = (0.8, 1.0)  # intensities of action units at the peak


def face_box(view: View) -> tuple[float, float, float]:
    """The square (x, y, side) that OpenCV's frontal-face detector puts around such a face, on average."""
    x, y = view.project(np.array([[0.0, 0.245]]))[0]
    side = 2.53 * view.scale
    return round(x - side / 2, 1), round(y - side / 2, 1), round(side, 1)
