"""From a picture file to the network's square: decode safely, find the face, cut it out, resize.

This module's source is part of the image cache's key (cache.py): a changed crop is never mixed with an old one.
"""

import errno
import math
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from cv2.data import haarcascades
from PIL import ExifTags, Image, ImageOps

SIZE = 227  # pixels, the side of the network's input (Table 1)
SMALLEST = 16  # pixels; nobody reads an expression from fewer
LARGEST_CROP = 256  # pixels; a square picture up to this side is taken for a face already cut out
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")
MODES = ("auto", "face", "centre")
DETECTION_SIDE = 320  # pixels, the longer side of what the detector sees: a few ms a picture
BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras whose pictures are kept as 16 bits
FEWER_BITS = "16-bit pictures whose values take fewer bits, scaled by the range that holds them"

Box = tuple[float, float, float, float]  # x, y, width, height in pixels
_thread = threading.local()  # a cascade must not be shared between threads


class Cut(NamedTuple):
    """A face as the network takes it.

    Attributes:
        pixels: uint8 RGB, shape (3, 227, 227).
        note: Why the centre square was taken in place of a face, or "".
        doubts: What is doubtful about the picture's content.
    """

    pixels: np.ndarray
    note: str = ""
    doubts: tuple[str, ...] = ()


class Decoded(NamedTuple):
    """A picture in memory.

    Attributes:
        picture: 8-bit RGB, upright.
        orientation: The camera's orientation (EXIF, 1 to 8) that was applied.
        scale: Its size divided by the stored one.
        doubts: What is doubtful about its content.
    """

    picture: Image.Image
    orientation: int
    scale: float
    doubts: tuple[str, ...]


class ReadFailure(OSError):
    """The system could not read a file: too many are open, no permission, a failing disk. Its content is not judged."""


def read_failure(path: Path, error: OSError) -> ReadFailure:
    """The error to raise for a system error on a file."""
    what = f"the system could not read this file ({error.strerror}): put that right and run again; nothing was kept"
    return ReadFailure(error.errno, what, str(path))


def decode(path: Path) -> Decoded:
    """Read a picture file as upright 8-bit RGB.

    Grey is replicated, CMYK converted, alpha dropped. 16 bits are scaled by the smallest of the usual bit depths that
    holds the picture's values. Of an animation the first frame is read; a JPEG more than twice as large as needed is
    decoded at a fraction of its size.

    Raises:
        ValueError: If the file is no usable picture.
        ReadFailure: If the system could not read the file.
    """
    with _opened(path) as picture:
        if min(picture.size) < SMALLEST:
            raise ValueError(f"{picture.width}x{picture.height} pixels are too few for a face")
        # Before getexif, which may load the picture and so empty its tiles.
        deep = re.search(r"(RGB\w?|LA|I);16|ppm.*\b65535\b", str(picture.tile)) or picture.mode.startswith("I")
        longest, orientation = max(picture.size), picture.getexif().get(ExifTags.Base.Orientation, 1)
        picture.draft(None, (4 * SIZE, 4 * SIZE))
        upright, doubts = ImageOps.exif_transpose(picture), ()
        if upright.mode == "F":
            raise ValueError("floating point pixels, whose range is unknown")
        if deep:  # of colours Pillow keeps the upper 8 bits only, which may be all black
            values = np.asarray(upright) if upright.mode.startswith("I") else _deep_colour(path)
            upright, doubts = _from_16_bit(values.astype(np.int64))
        return Decoded(upright.convert("RGB"), orientation, max(upright.size) / longest, doubts)


@contextmanager
def _opened(path: Path):
    """A picture, not decoded yet; errors become those that `decode` promises."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels to be a photograph ({error})") from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error, zlib.error
        # The system's errors have a number and the decoders' none, but where a damaged header points beyond any disk.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise read_failure(path, error) from error
        what = "the file is empty" if path.stat().st_size == 0 else f"not a whole picture ({error})"
        raise ValueError(what.replace(str(path), path.name)) from error


def _deep_colour(path: Path) -> np.ndarray:
    """Colours of 16 bits, upright, shape (H, W, 3)."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise ValueError("not a whole picture")
    return values[..., ::-1]


def _from_16_bit(values: np.ndarray) -> tuple[Image.Image, tuple[str, ...]]:
    """Values scaled to 8 bits by the smallest bit depth that holds them, and a doubt where that is below 16."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"grey values from {values.min()} to {values.max()}, expected 0..65535")
    bits = next(bits for bits in BIT_DEPTHS if values.max() < 2**bits)
    scaled = (values * 255 + 2 ** (bits - 1) - 1) // (2**bits - 1)
    return Image.fromarray(scaled.astype(np.uint8)), (FEWER_BITS,) if bits < 16 else ()


def upright_box(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A box of the stored picture in the upright one.

    Args:
        box: x, y, width, height in stored pixels.
        orientation: The EXIF orientation, 1 to 8.
        size: Width and height of the upright picture.
    """
    x, y, width, height = box
    if orientation in (5, 6, 7, 8):
        x, y, width, height = y, x, height, width
    left = size[0] - x - width if orientation in (2, 3, 6, 7) else x
    top = size[1] - y - height if orientation in (3, 4, 7, 8) else y
    return left, top, width, height


def centre_square(picture: Image.Image) -> tuple[int, int, int]:
    """The largest square in the middle as (x, y, side), in pixels."""
    side = min(picture.size)
    return (picture.width - side) // 2, (picture.height - side) // 2, side


def face_boxes(picture: Image.Image) -> list[tuple[int, int, int]]:
    """The boxes (x, y, side) of OpenCV's frontal-face cascade, in pixels.

    Boxes below 30 % of the picture are not searched for: in these data sets they are eyes and shadows.
    """
    if not hasattr(_thread, "cascade"):
        _thread.cascade = cv2.CascadeClassifier(haarcascades + "haarcascade_frontalface_default.xml")
    scale = min(1.0, DETECTION_SIDE / max(picture.size))
    small = picture.convert("L")
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        small = small.resize((width, height), Image.Resampling.BOX)
    grey = cv2.equalizeHist(np.asarray(small))
    least = max(24, round(0.3 * min(small.size)))
    detections = _thread.cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
    boxes = [[float(v) / scale for v in box] for box in detections]
    return [squared(x, y, width, height, picture.size) for x, y, width, height in boxes]


def face_box(picture: Image.Image) -> tuple[int, int, int] | None:
    """The face's box (x, y, side) in pixels, or None where the detector finds none or several."""
    boxes = face_boxes(picture)
    return boxes[0] if len(boxes) == 1 else None


def squared(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> tuple[int, int, int]:
    """A box made square about its middle (x, y, side) and moved into a picture of this size (width, height)."""
    side = max(1, min(round(max(width, height)), *size))
    left = min(max(round(x + (width - side) / 2), 0), size[0] - side)
    top = min(max(round(y + (height - side) / 2), 0), size[1] - side)
    return left, top, side


def resize(picture: Image.Image, box: tuple[int, int, int] | None = None) -> np.ndarray:
    """Resize a square of an RGB picture to the network's input: bilinear, and averaging where it shrinks.

    Args:
        picture: An RGB picture.
        box: x, y and side in pixels. Default: the centre square.

    Returns:
        uint8, shape (3, 227, 227).
    """
    x, y, side = box or centre_square(picture)
    square = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    return np.asarray(square).transpose(2, 0, 1)


def cut(path: Path, *, mode: str = "auto", box: Box | None = None) -> Cut:
    """Cut the face out of a picture file.

    Args:
        path: The picture file.
        mode: "centre", the centre square; "face", the detected face; "auto", the detected face unless the picture is
            a small square, which is a face already cut out and taken whole.
        box: The face's box (x, y, width, height) in pixels of the picture as it is stored, before the camera's
            orientation is applied. It takes the place of the detector.

    Raises:
        ValueError: If the file is no usable picture.
        ReadFailure: If the system could not read the file.
    """
    picture, orientation, scale, doubts = decode(path)
    square, note = None, ""
    if box is not None:
        square, note = _listed_square(box, picture.size, orientation, scale)
    elif mode == "face" or (mode == "auto" and not picture.width == picture.height <= LARGEST_CROP):
        boxes = face_boxes(picture)
        note = {0: "no face found", 1: ""}.get(len(boxes), "several faces found")
        square = None if note else boxes[0]
    return Cut(resize(picture, square), note, doubts)


def _listed_square(box: Box, size: tuple[int, int], orientation: int, scale: float):
    """The square of a listed box in a decoded picture of this size, None and why where it cannot be."""
    if not (all(map(math.isfinite, box)) and min(box[2:]) >= 1):
        return None, "the list's face box is impossible"
    scaled: Box = (scale * box[0], scale * box[1], scale * box[2], scale * box[3])
    x, y, width, height = upright_box(scaled, orientation, size)
    if not (0 <= x + width / 2 < size[0] and 0 <= y + height / 2 < size[1]):
        return None, "the list's face box lies outside the picture"
    return squared(x, y, width, height, size), ""
