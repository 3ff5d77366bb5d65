"""Painting with soft edges: a canvas whose outlines are given in the face's own units.

One unit is half the width of a face. The origin lies between the eyes, x points to the right of the picture and y
down. `View` turns these units into pixels, so that the same drawing serves every size and pose.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

CLIP = (0, 0, 0)  # the colour of a clip, which does not show
SIGMA = 1.6  # pixels of a mask, the widest blur
_SHIFT = 4  # OpenCV's fixed-point coordinates: 4 fractional bits
_EGG = np.array([0.66, 0.26])  # 1 / the squared half axes of a head, across and down
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class View:
    """Where the face is in the picture.

    Args:
        x: Pixels to the point between the eyes.
        y: Pixels down to it.
        scale: Pixels per unit.
        roll: Degrees.
        yaw: Degrees.
        pitch: Degrees.
    """

    x: float
    y: float
    scale: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    matrix: np.ndarray = field(init=False, repr=False, compare=False)
    origin: np.ndarray = field(init=False, repr=False, compare=False)
    lean: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        roll, yaw, pitch = np.deg2rad([self.roll, self.yaw, self.pitch])
        turn = self.scale * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        object.__setattr__(self, "matrix", np.diag([np.cos(yaw), np.cos(pitch)]) @ turn)
        object.__setattr__(self, "origin", np.array([self.x, self.y], float))
        object.__setattr__(self, "lean", np.array([np.sin(yaw), np.sin(pitch)]) @ turn)

    def project(self, points: np.ndarray, lift: float | np.ndarray = 0.0) -> np.ndarray:
        """Face units [..., 2] to pixels. A point turns with the head as it lies on an ellipsoid, plus `lift`."""
        depth = np.sqrt(np.maximum(1.0 - (points * points) @ _EGG, 0.0)) + (lift - 0.9)
        return points @ self.matrix + depth[..., None] * self.lean + self.origin

    def unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] to face units, on the flat face that does not turn."""
        return (pixels - (self.x, self.y)) @ np.linalg.inv(self.matrix)


@lru_cache
def _spline(count: int, samples: int, closed: bool) -> np.ndarray:
    """Weights [M, count] that give the points of a Catmull-Rom spline from its control points."""
    control = np.eye(count)
    if closed:
        control = np.concatenate([control[-1:], control, control[:2]])
    else:  # the ends go straight on
        control = np.concatenate([2 * control[:1] - control[1:2], control, 2 * control[-1:] - control[-2:-1]])
    powers = np.linspace(0, 1, samples, endpoint=False)[:, None] ** np.arange(4)
    bases = powers @ (0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]))
    segments = [bases @ control[k : k + 4] for k in range(len(control) - 3)]
    return np.concatenate(segments if closed else [*segments, control[-2:-1]])


def curve(points, samples: int = 5) -> np.ndarray:
    """A smooth curve [M, 2] through these points [K, 2] (Catmull-Rom)."""
    return _spline(len(points), samples, False) @ np.asarray(points, float)


def loop(points, samples: int = 5) -> np.ndarray:
    """A smooth closed outline [M, 2] through these points [K, 2] (Catmull-Rom)."""
    return _spline(len(points), samples, True) @ np.asarray(points, float)


def shift(points, x: float, y: float) -> np.ndarray:
    """Points [..., 2] moved by x and y."""
    return np.asarray(points, float) + np.array([x, y])


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], 1)


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """The outline [20, 2] of an ellipse."""
    return _CIRCLE * (rx, ry) + (x, y)


def _mask(lines, size, shape, opacity: float, soft: float, width: float) -> np.ndarray:
    """Coverage 0 to opacity, float32 [h, w] of this shape (w, h): filled or (width > 0) stroked lines [L, K, 2].

    They are drawn on a mask of this size (width, height), in whose pixels soft and width are.
    """
    mask = np.zeros((size[1], size[0]), np.uint8)
    if width:
        cv2.polylines(mask, list(lines), False, 255, max(1, round(width)), cv2.LINE_AA, _SHIFT)
    else:
        cv2.fillPoly(mask, list(lines), 255, cv2.LINE_AA, _SHIFT)
    if soft > 0.3:
        kernel = _bell(round(soft, 1))
        mask = cv2.sepFilter2D(mask, cv2.CV_32F, kernel, kernel * np.float32(opacity / 255))
    else:
        mask = np.multiply(mask, np.float32(opacity / 255))
    return mask if shape == tuple(size) else cv2.resize(mask, shape, interpolation=cv2.INTER_LINEAR)


@lru_cache
def _bell(sigma: float) -> np.ndarray:
    """A Gaussian as a filter, float32 [K, 1]."""
    return cv2.getGaussianKernel(2 * round(2.5 * sigma) + 1, sigma, cv2.CV_32F)


class Shape(NamedTuple):
    """Something to paint: outlines or lines, each [K, 2] or [L, K, 2], in face units; the rest in pixels."""

    points: list[np.ndarray]
    colour: tuple  # RGB
    opacity: float
    soft: float  # standard deviation of the blurred edge
    width: float  # 0: filled
    lift: float
    within: int  # the number of the shape that clips it, or -1


class Canvas:
    """A picture being painted: `pixels` is float32 [C, H, W] in 0..255, with 3 channels (RGB) or 1 (grey).

    Shapes are only noted until `finish` paints them in their order: most are so small that placing each by NumPy
    calls of its own would take longer than painting it.
    """

    def __init__(self, height: int, width: int, view: View, grey: bool = False):
        self.view, self.grey = view, grey
        self.pixels = np.zeros((1 if grey else 3, height, width), np.float32)
        self._shapes: list[Shape] = []
        self._within = -1
        self._alike: dict[tuple, int] | None = None  # while `mirrored`: what is noted -> its number

    def fill(self, outline, colour, opacity: float = 1.0, soft: float = 0.0, lift: float = 0.0):
        """Fill an outline [K, 2] with a colour; `soft` is the standard deviation of its blurred edge, in units."""
        self._note(outline, colour, opacity, soft, 0.0, lift)

    def stroke(self, line, colour, width: float, opacity: float = 1.0, soft: float = 0.0, lift: float = 0.0):
        """Draw a line [K, 2], or several of as many points [L, K, 2], of this width in units."""
        width *= self.view.scale
        opacity *= min(1.0, width)  # a line thinner than a pixel is a fainter one
        self._note(np.asarray(line, float), colour, opacity, soft, max(1.0, width), lift)

    def clip(self, outline, paint, lift: float = 0.0):
        """Call `paint()` and keep what it paints inside the outline [K, 2] only."""
        self._within = self._note(outline, CLIP, 1.0, 0.0, 0.0, lift)
        paint()
        self._within = -1

    def mirrored(self, *sides):
        """Each side in turn.

        What is painted on all of them and differs in nothing but its place is painted at once, with the first: half
        the shapes of a face are such pairs.
        """
        self._alike = {}
        yield from sides
        self._alike = None

    def _note(self, points, colour, opacity: float, soft: float, width: float, lift: float) -> int:
        """Note a shape; returns its number."""
        if opacity <= 0.01:
            return -1
        shape = Shape([points], tuple(colour), min(1.0, opacity), soft * self.view.scale, width, lift, self._within)
        if self._alike is not None:
            number = self._alike.setdefault((*shape[1:], points.shape[-2]), len(self._shapes))
            if number < len(self._shapes):
                self._shapes[number].points.append(points)
                return number
        self._shapes.append(shape)
        return len(self._shapes) - 1

    def paint(self):
        """Paint what has been noted."""
        if not self._shapes:
            return
        points, colours, opacity, soft, width, lift, within = zip(*self._shapes, strict=True)
        inks = self.ink(np.array(colours))
        clips: dict = dict.fromkeys(within)
        placed = self._place(points, np.array(soft), np.array(width), np.array(lift), np.array(within))
        for number, (lines, size, (x0, y0, x1, y1), step) in enumerate(placed):
            if x1 <= x0 or y1 <= y0:
                continue
            mask = _mask(lines, size, (x1 - x0, y1 - y0), opacity[number], soft[number] / step, width[number] / step)
            if number in clips:
                clips[number] = mask, x0, y0
                continue
            if within[number] >= 0:
                clip, left, top = clips[within[number]]
                mask *= clip[y0 - top : y1 - top, x0 - left : x1 - left]
            region = self.pixels[:, y0:y1, x0:x1]
            change = inks[number] - region
            change *= mask
            region += change
        self._shapes.clear()

    def _place(self, points, soft: np.ndarray, width: np.ndarray, lift: np.ndarray, within: np.ndarray):
        """Where each shape goes.

        For each: its points int32 [L, K, 2] in 1/16 pixels of a mask, the mask's size (width, height), the box (left,
        top, right, bottom) of the picture that it covers, and how many of the picture's pixels one of the mask's is
        wide: what is blurred much need not be drawn finely.
        """
        parts = [part for shape in points for part in shape]
        sizes = np.array([part.size // 2 for part in parts])
        counts = np.add.reduceat(sizes, np.cumsum([0, *map(len, points[:-1])]))
        ends = np.cumsum(counts)
        starts = ends - counts
        flat = self.view.project(np.concatenate([part.reshape(-1, 2) for part in parts]), np.repeat(lift, counts))
        reach = (2.5 * soft + width / 2 + 2)[:, None]
        low = np.maximum(np.floor(np.minimum.reduceat(flat, starts) - reach), 0)
        high = np.minimum(np.ceil(np.maximum.reduceat(flat, starts) + reach), self.pixels.shape[:0:-1])
        inside = within >= 0
        low[inside] = np.maximum(low, low[within])[inside]
        high[inside] = np.minimum(high, high[within])[inside]
        step = np.maximum(1.0, soft / SIGMA)
        size = np.maximum(1, np.rint((high - low) / step[:, None]))
        zoom = size / np.maximum(high - low, 1) * (1 << _SHIFT)
        fixed = ((flat - np.repeat(low, counts, 0)) * np.repeat(zoom, counts, 0) + 0.5).astype(np.int32)
        boxes = np.concatenate([low, high], 1).astype(int).tolist()
        lines = (
            fixed[start:end].reshape(-1, shape[0].shape[-2], 2)
            for start, end, shape in zip(starts.tolist(), ends.tolist(), points, strict=True)
        )
        return zip(lines, size.astype(int).tolist(), boxes, step.tolist(), strict=True)

    def ink(self, colours) -> np.ndarray:
        """Colours [N, 3] (RGB, 0 to 255) in the canvas's own channels, float32 [N, C, 1, 1]."""
        colours = np.asarray(colours, np.float32)
        return (colours @ _LUMA if self.grey else colours).reshape(len(colours), -1, 1, 1)

    def finish(self, light: np.ndarray, contrast: float) -> np.ndarray:
        """Paint what was noted and light it.

        Args:
            light: A smooth field of factors, shape (h, w), of lower resolution than the picture.
            contrast: A factor about the grey value 118.

        Returns:
            The picture, uint8, shape (H, W, C).
        """
        self.paint()
        channels, height, width = self.pixels.shape
        light = cv2.resize(light * np.float32(contrast), (width, height), interpolation=cv2.INTER_LINEAR)
        self.pixels *= light
        self.pixels += np.float32(118 * (1 - contrast) + 0.5)
        np.clip(self.pixels, 0, 255, out=self.pixels)
        return cv2.merge(list(self.pixels.astype(np.uint8))).reshape(height, width, channels)
