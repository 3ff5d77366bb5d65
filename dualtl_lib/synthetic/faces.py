"""Synthetic faces on disk, in CelebA's and CK+'s own layouts, with masks of the parts beside them.

`write_celeba` and `write_ckplus` make the two data sets, `face` one picture. Each picture is drawn from a seed of its
own, so the files do not depend on the number of workers. Every file says "synthetic faces" in its metadata.
"""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dualtl_lib.synthetic import portrait
from dualtl_lib.synthetic.anatomy import LASTING, Identity, draw_attributes, person
from dualtl_lib.synthetic.drawing import View
from dualtl_lib.synthetic.expressions import ACTION_UNITS, EXPRESSIONS
from dualtl_lib.synthetic.portrait import PARTS, Scene, face_box
from dualtl_lib.synthetic.sequences import CKPLUS_COUNTS, CKPLUS_SUBJECTS, ckplus_plan, write_ckplus
from dualtl_lib.synthetic.writing import (
    in_parallel,
    save_index,
    save_photo,
    write_boxes,
    write_folder,
    write_rows,
)

__all__ = [
    "ACTION_UNITS",
    "CELEBA_ATTRIBUTES",
    "CKPLUS_COUNTS",
    "CKPLUS_SUBJECTS",
    "EXPRESSIONS",
    "PARTS",
    "Identity",
    "Scene",
    "View",
    "box",
    "ckplus_plan",
    "face",
    "parts",
    "write_celeba",
    "write_ckplus",
]

CELEBA_SIZE = (218, 178)  # height, width
CELEBA_ATTRIBUTES = tuple(  # all 40, in its order
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young""".split()  # noqa: SIM905
)


def face(
    identity: Identity,
    action_units: dict,
    attributes: dict | None = None,
    view: View | None = None,
    scene: Scene | None = None,
    size: tuple[int, int] = (227, 227),
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw one synthetic face.

    Args:
        identity: Who it is.
        action_units: {number: intensity 0 to 1, or (left, right) as the viewer sees them}.
        attributes: {name of Table 2: strength 0 to 1, or bool}. Default: the person's own.
        view: Where the face is in the picture. Default: frontal, in the middle.
        scene: Light and background.
        size: Height and width in pixels.

    Returns:
        The picture, uint8 RGB, shape (H, W, 3), and a mask of each part, {part: bool, shape (H, W)}.

    Raises:
        ValueError: If an action unit or an attribute is not known.
    """
    height, width = size
    view = view or View(width / 2, 0.44 * height, 0.26 * height)
    attributes = identity.traits if attributes is None else attributes
    pixels, index = portrait.paint(identity, action_units, attributes, view, scene or Scene(), size)
    return pixels, _masks(index)


def parts(root: str | os.PathLike, file: str, box: tuple | None = None, side: int = 227) -> dict[str, np.ndarray]:
    """Read the masks of the parts of a face that `write_celeba` or `write_ckplus` wrote.

    Args:
        root: The data set's folder.
        file: The picture's path relative to root.
        box: A square (x, y, side) in pixels to cut out. Default: the whole picture.
        side: Pixels, the side of the masks of a square.

    Returns:
        {part: bool, shape (H, W)}. Left and right are the viewer's; "face" is all of it.

    Raises:
        FileNotFoundError: If the picture has no masks.
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
    """The known square of a picture's face, as a frontal-face detector would frame it.

    Args:
        root: The data set's folder.
        file: The picture's path relative to root.

    Returns:
        x, y and side in pixels.

    Raises:
        KeyError: If the folder's boxes.csv does not have the file.
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


def write_celeba(
    root: str | os.PathLike, people: int = 600, images: int = 3000, seed: int = 0, workers: int | None = None
) -> Path:
    """Write synthetic faces in CelebA's layout: img_align_celeba/000001.jpg and on, 178x218, and its label files.

    list_attr_celeba.txt has all 40 attributes: the 12 of Table 2 are drawn on their own, the others say what the
    picture shows where the generator knows it and are -1 elsewhere. The partitions take about 80, 10 and 10 % of the
    people. Beside them: parts/, boxes.csv, README.txt. Nothing is written if root already has the same.

    Args:
        root: The folder to write.
        people: How many people.
        images: How many pictures of them, at least one each.
        seed: The same seed gives the same files.
        workers: Processes that draw. Default: one a core.

    Returns:
        The folder.

    Raises:
        FileExistsError: If root holds anything that this function did not write.
        ValueError: If there are fewer pictures than people, or fewer than 3 people.
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
    someone, attributes, view, pixels, index = celeba_picture(seed, number, who)
    name = f"img_align_celeba/{number:06d}"
    save_photo(folder / f"{name}.jpg", pixels)
    save_index(folder / f"parts/{name}.png", index)
    return celeba_labels(someone, attributes), face_box(view)


def celeba_picture(seed: int, number: int, who: int):
    """Draw one picture in CelebA's layout.

    Args:
        seed: Of the data set.
        number: The picture, from 1.
        who: The person, from 0.

    Returns:
        The person, the attributes shown, the view, the pixels, uint8 RGB, shape (218, 178, 3), and the index of the
        parts, uint8, shape (218, 178).
    """
    someone = person(seed, 4, who)
    rng = np.random.default_rng([seed, 5, number])
    attributes = draw_attributes(rng) | {name: someone.traits[name] for name in LASTING}
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
    pixels, index = portrait.paint(someone, units, attributes, view, Scene.draw(rng), CELEBA_SIZE)
    grain = (np.frombuffer(rng.bytes(index.size), np.uint8) % 9).astype(np.int8).reshape(index.shape) - 4
    pixels = cv2.add(pixels, cv2.merge([grain] * 3), dtype=cv2.CV_8U)  # stops at 0 and 255
    return someone, attributes, view, pixels, index


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
