"""From a picture file to the network's square: decode safely, find the face, cut it out, resize.

This module's source is part of the cache's key (dataset.py): a changed crop is never mixed with an old one.
"""

import errno
import math
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

SIZE = 227  # pixels, the side of the network's input (Table 1)
SMALLEST = 16  # pixels; nobody reads an expression from fewer
LARGEST_CROP = 256  # pixels; a square picture up to this side is taken for a face already cut out
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")
DETECTION_SIDE = 320  # pixels, the longer side of what the detector sees: a few ms a picture

_thread = threading.local()  # a cascade must not be shared between threads


class Cut(NamedTuple):
    """A face as the network takes it, and what has to be said about it ("" where nothing)."""

    pixels: np.ndarray  # uint8 [3, 227, 227], RGB
    note: str


class ReadFailure(OSError):
    """The system could not read a file: too many are open, no permission, a failing disk. Its content is not judged."""


def read_failure(path: Path, error: OSError) -> ReadFailure:
    """What to raise for a system error on a file."""
    what = f"the system could not read this file ({error.strerror}): put that right and run again; nothing was kept"
    return ReadFailure(error.errno, what, str(path))


def decode(path: Path) -> Image.Image:
    """A picture file as 8-bit RGB: grey is replicated, CMYK converted, 16 bits scaled to 8, alpha dropped.

    Of an animation the first frame; a JPEG more than twice as large as needed is decoded at a fraction of its size;
    the camera's orientation is applied. Raises ValueError saying what is wrong with the file, and ReadFailure or
    MemoryError, naming it, for what is not the file's fault.
    """
    with _opened(path) as picture:
        if min(picture.size) < SMALLEST:
            raise ValueError(f"{picture.width}x{picture.height} pixels are too few for a face")
        picture.draft(None, (4 * SIZE, 4 * SIZE))
        return _eight_bit(ImageOps.exif_transpose(picture))


@contextmanager
def _opened(path: Path):
    """A picture, not decoded yet; errors become those that `decode` promises."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels to be a photograph ({error})") from error
    except FileNotFoundError as error:
        raise ValueError("the file is missing") from error
    except ValueError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: too little memory to decode it; free some and run again") from error
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error, zlib.error
        # The system's errors have a number and the decoders' none, but where a damaged header points beyond any disk.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise read_failure(path, error) from error
        what = "the file is empty" if path.is_file() and path.stat().st_size == 0 else f"not a whole picture ({error})"
        raise ValueError(what.replace(str(path), path.name)) from error


def _eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":  # 0..65535; PIL's own conversion would clip at 255
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()}, expected 0..65535")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("floating point pixels, whose range is unknown")
    return picture.convert("RGB")


def centre_square(picture: Image.Image) -> tuple[int, int, int]:
    """The largest square in the middle as (x, y, side), in pixels."""
    side = min(picture.size)
    return (picture.width - side) // 2, (picture.height - side) // 2, side


def face_boxes(picture: Image.Image) -> list[tuple[int, int, int]]:
    """The boxes (x, y, side) of OpenCV's frontal-face cascade, in pixels. Smaller ones than 30 % of the picture
    are not looked for: in these data sets they are eyes and shadows."""
    if not hasattr(_thread, "cascade"):
        _thread.cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    scale = min(1.0, DETECTION_SIDE / max(picture.size))
    small = picture.convert("L")
    if scale < 1:
        sides = (max(1, round(side * scale)) for side in picture.size)
        small = small.resize(tuple(sides), Image.Resampling.BOX)
    grey = cv2.equalizeHist(np.asarray(small))
    least = max(24, round(0.3 * min(small.size)))
    found = _thread.cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
    return [squared(*(float(v) / scale for v in box), picture.size) for box in found]


def face_box(picture: Image.Image) -> tuple[int, int, int] | None:
    """The face's box (x, y, side) in pixels, or None where the detector finds none or several."""
    found = face_boxes(picture)
    return found[0] if len(found) == 1 else None


def squared(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> tuple[int, int, int]:
    """A box made square about its middle (x, y, side) and moved into a picture of this size (width, height)."""
    side = max(1, min(round(max(width, height)), *size))
    left = min(max(round(x + (width - side) / 2), 0), size[0] - side)
    top = min(max(round(y + (height - side) / 2), 0), size[1] - side)
    return left, top, side


def resize(picture: Image.Image, box: tuple[int, int, int] | None = None) -> np.ndarray:
    """A square of an RGB picture (default: its centre square) resized to uint8 [3, 227, 227].

    Bilinear, and averaging where it shrinks.
    """
    x, y, side = box or centre_square(picture)
    square = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    return np.asarray(square).transpose(2, 0, 1)


def cut(path: Path, mode: str = "auto", known: tuple[float, float, float, float] | None = None) -> Cut:
    """The face in a picture file.

    mode: "centre", the centre square; "face", the detected box; "auto", the detected box unless the picture is a
        small square, which is a face already cut out and taken whole.
    known: the face's box (x, y, width, height) in pixels of the whole picture, in place of detecting it.
    Raises ValueError where the file is no usable picture, ReadFailure or MemoryError where that cannot be told.
    """
    picture = decode(path)
    if known is not None:
        with _opened(path) as whole:
            scale = max(picture.size) / max(whole.size)
        if not (all(map(math.isfinite, known)) and min(known[2:]) >= 1):
            return Cut(resize(picture), "the list's face box is impossible")
        x, y, width, height = (scale * v for v in known)
        if not (0 <= x + width / 2 < picture.width and 0 <= y + height / 2 < picture.height):
            return Cut(resize(picture), "the list's face box lies outside the picture")
        return Cut(resize(picture, squared(x, y, width, height, picture.size)), "")
    whole = picture.width == picture.height <= LARGEST_CROP
    if mode == "centre" or (mode == "auto" and whole):
        return Cut(resize(picture), "")
    found = face_boxes(picture)
    if len(found) == 1:
        return Cut(resize(picture, found[0]), "")
    return Cut(resize(picture), "several faces found" if found else "no face found")
