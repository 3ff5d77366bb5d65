"""Painting with soft edges: a canvas whose outlines are given in the face's own units.

One unit is half the width of a face. The origin lies between the eyes, x points to the right of the picture and y
down. `View` turns these units into pixels, so that the same drawing serves every size and pose.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

_SHIFT = 4  # OpenCV's fixed-point coordinates: 4 fractional bits
_EGG = np.array([0.66, 0.26])  # 1 / the squared half axes of a head, across and down
_LUMA = np.float32([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class View:
    """Where the face is in the picture: x, y of the point between the eyes and scale (pixels per unit), in pixels;
    roll, yaw and pitch in degrees."""

    x: float
    y: float
    scale: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def __post_init__(self):
        roll, yaw, pitch = np.deg2rad([self.roll, self.yaw, self.pitch])
        turn = self.scale * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        object.__setattr__(self, "matrix", np.diag([np.cos(yaw), np.cos(pitch)]) @ turn)
        object.__setattr__(self, "origin", np.array([self.x, self.y], float))
        object.__setattr__(self, "lean", np.array([np.sin(yaw), np.sin(pitch)]) @ turn)

    def project(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
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


class Canvas:
    """A picture being painted: `pixels` is float32 [C, H, W] in 0..255, with 3 channels (RGB) or 1 (grey)."""

    def __init__(self, height: int, width: int, view: View, grey: bool = False):
        self.view, self.grey = view, grey
        self.pixels = np.zeros((1 if grey else 3, height, width), np.float32)

    def ink(self, colour) -> np.ndarray:
        """A colour (RGB, 0 to 255) in the canvas's own channels, float32 [C, 1, 1]."""
        colour = np.asarray(colour, np.float32)
        return (colour @ _LUMA if self.grey else colour).reshape(-1, 1, 1)

    def fill(self, outline, colour, opacity: float = 1.0, soft: float = 0.0, lift: float = 0.0):
        """Fill an outline [K, 2] with a colour; `soft` is the standard deviation of its blurred edge, in units."""
        if opacity > 0.01:
            self._blend(self.view.project(outline, lift)[None], colour, opacity, soft * self.view.scale, 0)

    def stroke(self, line, colour, width: float, opacity: float = 1.0, soft: float = 0.0, lift: float = 0.0):
        """Draw a line [K, 2], or several of as many points [L, K, 2], of this width in units."""
        width = width * self.view.scale
        opacity = opacity * min(1.0, width)  # a line thinner than a pixel is a fainter one
        if opacity > 0.01:
            lines = self.view.project(np.asarray(line, float), lift)
            self._blend(
                lines if lines.ndim == 3 else lines[None], colour, opacity, soft * self.view.scale, max(1, round(width))
            )

    def clip(self, outline, paint, lift: float = 0.0):
        """Call `paint()` and keep what it paints inside the outline [K, 2] only."""
        found = self._mask(self.view.project(outline, lift)[None], 1.0, 0.0, 0)
        if found:
            mask, rows, columns = found
            whole, view = self.pixels, self.view
            below = whole[:, rows, columns]
            self.pixels = below.copy()
            self.view = replace(view, x=view.x - columns.start, y=view.y - rows.start)
            paint()
            below += (self.pixels - below) * mask
            self.pixels, self.view = whole, view

    def _mask(self, shapes: np.ndarray, opacity: float, soft: float, width: int):
        """Coverage float32 [h, w] by filled or (width > 0) stroked shapes [L, K, 2], 0 to opacity, and where."""
        height, across = self.pixels.shape[1:]
        reach = int(2.5 * soft + width / 2 + 2)
        x, y, w, h = cv2.boundingRect(shapes.reshape(-1, 2).astype(np.float32))
        x0, y0 = max(0, x - reach), max(0, y - reach)
        x1, y1 = min(across, x + w + reach), min(height, y + h + reach)
        if x1 <= x0 or y1 <= y0:
            return None
        step = soft / 1.6 if soft > 2.4 else 1.0  # what is blurred much need not be drawn finely
        size = max(1, round((x1 - x0) / step)), max(1, round((y1 - y0) / step))
        mask = np.zeros((size[1], size[0]), np.uint8)
        zoom = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)]) * (1 << _SHIFT)
        fixed = list(((shapes - np.array([x0, y0])) * zoom + 0.5).astype(np.int32))
        if width:
            cv2.polylines(mask, fixed, False, 255, max(1, round(width / step)), cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
        if soft > 0.3:
            mask = cv2.GaussianBlur(mask, (0, 0), soft / step)
        if step > 1:
            mask = cv2.resize(mask, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        return np.multiply(mask, np.float32(opacity / 255)), slice(y0, y1), slice(x0, x1)

    def _blend(self, shapes, colour, opacity: float, soft: float, width: int):
        found = self._mask(shapes, min(1.0, opacity), soft, width)
        if found:
            mask, rows, columns = found
            region = self.pixels[:, rows, columns]
            change = self.ink(colour) - region
            change *= mask
            region += change

    def finish(self, light: np.ndarray, contrast: float) -> np.ndarray:
        """The picture, uint8 [H, W, C], lit by a smooth field [h, w] of lower resolution, with a contrast about 118."""
        channels, height, width = self.pixels.shape
        light = cv2.resize(light * np.float32(contrast), (width, height), interpolation=cv2.INTER_LINEAR)
        self.pixels *= light
        self.pixels += np.float32(118 * (1 - contrast) + 0.5)
        np.clip(self.pixels, 0, 255, out=self.pixels)
        return cv2.merge(list(self.pixels.astype(np.uint8))).reshape(height, width, channels)
