"""Painting with soft edges: a canvas whose outlines are given in the face's own units.

One unit is half the width of a face. The origin lies between the eyes, x points to the right of the picture and y
down. `View` turns these units into pixels, so that the same drawing serves every size and pose.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

_SHIFT = 4  # OpenCV's fixed-point coordinates: 4 fractional bits
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
        object.__setattr__(self, "lean", np.array([np.sin(yaw), np.sin(pitch)]) @ turn)

    def project(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Face units [K, 2] to pixels [K, 2]. A point turns with the head as it lies on an ellipsoid, plus `lift`."""
        squares = points * points
        depth = np.sqrt(np.maximum(0.0, 1.0 - squares @ (0.66, 0.26))) - 0.9 + lift
        return points @ self.matrix + depth[:, None] * self.lean + (self.x, self.y)

    def unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] to face units, on the flat face that does not turn."""
        return (pixels - (self.x, self.y)) @ np.linalg.inv(self.matrix)


def _bases(samples: int) -> np.ndarray:
    """Catmull-Rom weights [samples, 4] of a segment's four control points."""
    t = np.linspace(0, 1, samples, endpoint=False)[:, None] ** np.arange(4)
    return t @ (0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]))


_BASES = {n: _bases(n) for n in (3, 4, 5, 6, 8)}


def curve(points, samples: int = 5) -> np.ndarray:
    """A smooth curve [M, 2] through these points [K, 2] (Catmull-Rom)."""
    p = np.asarray(points, float)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    windows = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], 1)
    return np.concatenate([(_BASES[samples] @ windows).reshape(-1, 2), p[-2:-1]])


def loop(points, samples: int = 5) -> np.ndarray:
    """A smooth closed outline [M, 2] through these points [K, 2] (Catmull-Rom)."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]])
    windows = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], 1)
    return (_BASES[samples] @ windows).reshape(-1, 2)


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], 1)


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """The outline [20, 2] of an ellipse."""
    return _CIRCLE * (rx, ry) + (x, y)


class Canvas:
    """A picture being painted. `pixels` is uint8 [H, W, channels], with 3 channels (RGB) or 1 (grey)."""

    def __init__(self, height: int, width: int, view: View, grey: bool = False):
        self.view, self.grey = view, grey
        self.pixels = np.zeros((height, width, 1 if grey else 3), np.uint8)

    def ink(self, colour) -> np.ndarray:
        """A colour (RGB, 0 to 255) in the canvas's own channels."""
        colour = np.clip(np.asarray(colour, np.float32), 0, 255)
        return (colour @ _LUMA)[None] if self.grey else colour

    def fill(self, outline, colour, opacity: float = 1.0, soft: float = 0.0, lift: float = 0.0):
        """Fill an outline [K, 2] with a colour; `soft` is the standard deviation of its blurred edge, in units."""
        pixels = self.view.project(outline, lift)
        if opacity >= 1 and not soft:
            fixed = np.rint(pixels * (1 << _SHIFT)).astype(np.int32)
            cv2.fillPoly(self.pixels, [fixed], self.ink(colour).tolist(), cv2.LINE_AA, _SHIFT)
        else:
            self._blend([pixels], colour, opacity, soft * self.view.scale, 0)

    def stroke(self, line, colour, width: float, opacity: float = 1.0, soft: float = 0.0, lift: float = 0.0):
        """Draw a line [K, 2], or several in a list, of this width in units."""
        lines = line if isinstance(line, list) else [line]
        width = width * self.view.scale
        opacity = opacity * min(1.0, width)  # a line thinner than a pixel is a fainter one
        lines = [self.view.project(each, lift) for each in lines]
        self._blend(lines, colour, opacity, soft * self.view.scale, max(1, round(width)))

    def clip(self, outline, paint, lift: float = 0.0):
        """Call `paint()` and keep what it paints inside the outline [K, 2] only."""
        found = self._mask([self.view.project(outline, lift)], 0.0, 0)
        if found:
            mask, rows, columns = found
            whole, view = self.pixels, self.view
            below = whole[rows, columns]
            self.pixels = below.copy()
            self.view = replace(view, x=view.x - columns.start, y=view.y - rows.start)
            paint()
            below[:] = below + (self.pixels - below.astype(np.float32)) * mask + 0.5
            self.pixels, self.view = whole, view

    def _mask(self, shapes: list[np.ndarray], soft: float, width: int):
        """Coverage float32 [h, w, 1] in 0..1 of filled or (width > 0) stroked shapes, with its rows and columns."""
        height, across = self.pixels.shape[:2]
        reach = 2.5 * soft + width / 2 + 2
        low = np.min([s.min(0) for s in shapes], 0) - reach
        high = np.max([s.max(0) for s in shapes], 0) + reach
        x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
        x1, y1 = min(across, int(high[0]) + 1), min(height, int(high[1]) + 1)
        if x1 <= x0 or y1 <= y0:
            return None
        step = max(1.0, soft / 1.6)  # what is blurred much need not be drawn finely
        size = max(1, round((x1 - x0) / step)), max(1, round((y1 - y0) / step))
        mask = np.zeros((size[1], size[0]), np.uint8)
        zoom = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)]) * (1 << _SHIFT)
        fixed = [np.rint((s - (x0, y0)) * zoom).astype(np.int32) for s in shapes]
        if width:
            cv2.polylines(mask, fixed, False, 255, max(1, round(width / step)), cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
        if soft:
            mask = cv2.GaussianBlur(mask, (0, 0), soft / step)
        if step > 1:
            mask = cv2.resize(mask, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        return mask[..., None] * np.float32(1 / 255), slice(y0, y1), slice(x0, x1)

    def _blend(self, shapes, colour, opacity: float, soft: float, width: int):
        found = self._mask(shapes, soft, width) if opacity > 0.01 else None
        if found:
            mask, rows, columns = found
            region = self.pixels[rows, columns]
            change = self.ink(colour) - region
            change *= mask
            change *= np.float32(opacity)
            change += region
            change += 0.5
            region[:] = change

    def multiply(self, field: np.ndarray):
        """Multiply the picture by a smooth field float32 [h, w], given at a lower resolution."""
        height, width, channels = self.pixels.shape
        field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
        if channels == 3:
            field = cv2.merge([field] * 3)
        lit = cv2.multiply(self.pixels.reshape(field.shape), field, dtype=cv2.CV_8U)
        self.pixels = lit.reshape(height, width, channels)
