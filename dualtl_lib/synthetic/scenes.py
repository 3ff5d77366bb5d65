"""The pictures that the embedded trunk is distilled on: distorted crops of the photographs in scikit-image's wheel.

No picture shows a person. Left out for that reason: `astronaut`, `camera`, `coins` (portraits in relief), `phantom` (a
section of a head) and `lfw_subset` (faces).
"""

import functools
import math
from pathlib import Path

import cv2
import numpy as np
import skimage
import torch
from torch import Tensor

# Name of the file in skimage/data, and how often it is drawn relative to the others: rich photographs more often.
PHOTOGRAPHS = {
    "brick.png": 1,
    "cell.png": 0.3,
    "chelsea.png": 5,
    "clock_motion.png": 0.4,
    "coffee.png": 5,
    "color.png": 0.4,
    "grass.png": 1,
    "gravel.png": 1,
    "horse.png": 1,
    "hubble_deep_field.jpg": 1,
    "ihc.png": 1.5,
    "logo.png": 2,
    "microaneurysms.png": 0.3,
    "moon.png": 0.7,
    "motorcycle_left.png": 5,
    "motorcycle_right.png": 5,
    "page.png": 0.5,
    "retina.jpg": 1,
    "rocket.jpg": 4,
    "text.png": 0.6,
}
SHOW_PEOPLE = ("astronaut.png", "camera.png", "coins.png", "phantom.png", "lfw_subset.npy")
CROP = 0.12, 0.95  # side of a crop over the shorter side of its photograph
PASTED = 1 / 3  # of the pictures carry a rectangle of another one


@functools.cache
def photographs() -> tuple[np.ndarray, ...]:
    """The photographs of PHOTOGRAPHS in its order, uint8 RGB, shape (H, W, 3) each."""
    folder, found = Path(str(skimage.__file__)).parent / "data", []
    for name in PHOTOGRAPHS:
        picture = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        if picture is None:
            raise FileNotFoundError(f"{folder / name}: scikit-image's wheel has this picture; install it again")
        found.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return tuple(found)


def batch(n: int, size: int, rng: np.random.Generator) -> Tensor:
    """Random pictures.

    Args:
        n: How many.
        size: Their side in pixels.
        rng: Decides everything: the same generator state gives the same pictures.

    Returns:
        RGB, float32 from 0 to 255, shape (N, 3, size, size).
    """
    pictures = np.stack([_recoloured(_crop(size, rng), rng) for _ in range(n)])
    for i in range(int(n * PASTED)):
        height, width = rng.integers(size // 5, int(size / 1.3), 2)
        top, left, other = rng.integers(size - height), rng.integers(size - width), rng.integers(n)
        window = slice(top, top + height), slice(left, left + width)
        pictures[i][window] = pictures[other][window]
    return torch.from_numpy(np.clip(pictures, 0, 255).transpose(0, 3, 1, 2).copy())


def _crop(size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph: scaled, rotated, sheared, flipped; float32 RGB, shape (size, size, 3)."""
    shares = np.array(list(PHOTOGRAPHS.values()))
    photograph = photographs()[rng.choice(len(shares), p=shares / shares.sum())]
    height, width = photograph.shape[:2]
    side = min(height, width) * math.exp(rng.uniform(math.log(CROP[0]), math.log(CROP[1])))
    scale = size / side
    angle = rng.normal(0, 0.25) if rng.random() < 0.7 else rng.uniform(-math.pi, math.pi)
    centre = rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2)
    across, flip, shear = scale * math.exp(rng.normal(0, 0.15)), rng.choice((-1, 1)), rng.normal(0, 0.15)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[flip * across * cosine, scale * (sine + shear)], [-flip * across * sine, scale * cosine]])
    move = size / 2 - turn @ np.array(centre)
    smoothing = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    matrix = np.c_[turn, move].astype(np.float32)
    warped = cv2.warpAffine(photograph, matrix, (size, size), flags=smoothing, borderMode=cv2.BORDER_REFLECT_101)
    return warped.astype(np.float32)


def _recoloured(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other colours, contrast, brightness and sharpness; may leave 0..255."""
    if rng.random() < 0.4:
        picture = picture[..., rng.permutation(3)]
    if rng.random() < 0.35:
        picture = np.repeat(picture.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.2:
        picture = 255 - picture
    tint = rng.normal(0, 25, 3 if rng.random() < 0.5 else 1)
    picture = ((picture - 128) * math.exp(rng.normal(0, 0.3)) + 128 + tint).astype(np.float32)
    if rng.random() < 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.0))
    return picture
