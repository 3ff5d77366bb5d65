"""Pictures made by formula: textures, shapes and scenes of them, with what each pixel shows known exactly.

The embedded trunk (pretraining.py) learns from these alone. There are no faces in them and nobody's images. A scene is
a textured ground with a few textured shapes on it, raised or sunken in a light from above, then blurred, tinted and
made noisy. Learning from formulas: Kataoka et al., Pre-training without natural images, ACCV 2020.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

TAU = 2 * math.pi
HUES = ("red", "orange", "green", "cyan", "blue", "violet", "grey")
RELIEF = ("flat", "raised", "sunken")
ORIENTATIONS = 8  # bins of 180 degrees
PERIODS = (3.5, 6, 10, 17, 30)  # pixels: where the bins of a texture's period end; the bins are between them
IGNORED = -1  # a label that does not apply: the orientation of dots, the hue of a picture without colour


# --- Textures: (u, v, generator) -> [H, W] in 0..1. u and v are coordinates in periods, turned by the orientation.


def _noise(like: np.ndarray, cells: float, rng: Generator) -> np.ndarray:
    """Smooth noise in 0..1, about `cells` bumps from side to side."""
    n = max(2, round(cells))
    coarse = rng.random((n, n), dtype=np.float32)
    return np.clip(cv2.resize(coarse, like.shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def _periods(u: np.ndarray) -> float:
    return float(u.max() - u.min()) / 1.3


def _wave(u):
    return 0.5 + 0.5 * np.sin(TAU * u)


def plain(u, v, rng):
    return np.full_like(u, rng.random())


def ramp(u, v, rng):
    return (u - u.min()) / (np.ptp(u) + 1e-6)


def grating(u, v, rng):
    return _wave(u)


def stripes(u, v, rng):
    return np.clip(3 * np.sin(TAU * u) + 0.5, 0, 1)


def lines(u, v, rng):
    return np.clip(1 - 5 * np.abs(u % 1 - 0.5), 0, 1)


def waves(u, v, rng):
    return _wave(u + rng.uniform(0.2, 0.5) * np.sin(TAU * v / 3))


def zigzag(u, v, rng):
    return _wave(u + np.abs(v / 2 % 1 - 0.5) * 2)


def wood(u, v, rng):
    return _wave(u + 3 * _noise(u, 4, rng))


def bricks(u, v, rng):
    row = v % 1
    column = (u / 2 + 0.5 * (np.floor(v) % 2)) % 1
    return np.clip(8 * np.minimum(np.minimum(row, 1 - row), 2 * np.minimum(column, 1 - column)), 0, 1)


def checks(u, v, rng):
    return np.clip(3 * np.sin(TAU * u / 2) * np.sin(TAU * v / 2) + 0.5, 0, 1)


def plaid(u, v, rng):
    return (_wave(u) + _wave(v)) / 2


def net(u, v, rng):
    return np.clip(6 * np.minimum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)), 0, 1)


def dots(u, v, rng):
    return np.clip(4 * (rng.uniform(0.25, 0.4) - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) + 0.5, 0, 1)


def rings(u, v, rng):
    return _wave(np.hypot(u - rng.uniform(u.min(), u.max()), v - rng.uniform(v.min(), v.max())))


def clouds(u, v, rng):
    n = _periods(u) / 2
    return (_noise(u, n, rng) + 0.5 * _noise(u, 2 * n, rng) + 0.25 * _noise(u, 4 * n, rng)) / 1.75


def spots(u, v, rng):
    return np.clip(6 * (_noise(u, _periods(u), rng) - 0.5) + 0.5, 0, 1)


def hair(u, v, rng):
    """Noise drawn out along the texture's direction."""
    return cv2.remap(
        rng.random((256, 256), dtype=np.float32),
        (4 * u).astype(np.float32),
        (v / 2).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def cells(u, v, rng):
    """Voronoi cells, each with its own grey."""
    seeds = np.full(u.shape, 255, np.uint8)
    n = int(np.clip(_periods(u) ** 2 / 3, 4, u.size // 8))
    seeds[rng.integers(u.shape[0], size=n), rng.integers(u.shape[1], size=n)] = 0
    labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)[1]
    return rng.random(labels.max() + 1, dtype=np.float32)[labels]


ORIENTED = (ramp, grating, stripes, lines, waves, zigzag, wood, hair)  # those with one direction
TEXTURES = (plain, *ORIENTED, bricks, checks, plaid, net, dots, rings, clouds, spots, cells)


# --- Shapes: (generator) -> contours [[K, 2], …] within the unit disc, filled by the even-odd rule. y points down.


def _polar(radius, n: int = 72) -> np.ndarray:
    """The closed curve radius(angle), the angle counted from the top."""
    a = np.arange(n) * TAU / n
    r = np.broadcast_to(radius(a), n)
    return np.stack([r * np.sin(a), -r * np.cos(a)], 1)


def _polygon(n):
    return lambda rng: [_polar(lambda a: 1.0, n)]


def _star(n):
    return lambda rng: [_polar(lambda a: np.where(np.arange(2 * n) % 2, rng.uniform(0.35, 0.55), 1.0), 2 * n)]


def _stroke(points, width: float) -> np.ndarray:
    """The outline of a curve [K, 2] drawn with a pen."""
    points = np.asarray(points, float)
    along = np.gradient(points, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / (np.hypot(*along.T)[:, None] + 1e-9) * width / 2
    return np.concatenate([points + normal, (points - normal)[::-1]])


def _bend(turn: float):
    """An arc of any curvature whose hollow side points `turn` quarter turns from the top."""

    def arc(rng):
        depth, x = rng.uniform(0.25, 0.8), np.linspace(-0.9, 0.9, 24)
        c, s = math.cos(turn * TAU / 4), math.sin(turn * TAU / 4)
        curve = np.stack([x, depth * (0.5 - (x / 0.9) ** 2)], 1) @ np.array([[c, s], [-s, c]])
        return [_stroke(curve, rng.uniform(0.12, 0.35))]

    return arc


def _lens(low: float, high: float):
    """Two arcs that meet in two corners, `low` to `high` as tall as wide; half of them outlined."""

    def lens(rng):
        tall, x = rng.uniform(low, high), np.linspace(-0.95, 0.95, 24)
        arc = tall * (1 - (x / 0.95) ** 2)
        outline = np.concatenate([np.stack([x, -arc], 1), np.stack([x, arc], 1)[::-1]])
        return [outline, outline * rng.uniform(0.6, 0.8)] if rng.random() < 0.5 else [outline]

    return lens


def _path(*points):
    """A thick broken line."""
    return lambda rng: [_stroke(_refined(points), rng.uniform(0.15, 0.35))]


def _refined(points, n: int = 8) -> np.ndarray:
    points = np.asarray(points, float)
    t = np.linspace(0, len(points) - 1, n * (len(points) - 1) + 1)
    return np.stack([np.interp(t, np.arange(len(points)), points[:, k]) for k in range(2)], 1)


def _arranged(*centres):
    """Equal small discs or squares at these places."""

    def arrangement(rng):
        part = rng.uniform(0.2, 0.3) * _polar(lambda a: 1.0, 24 if rng.random() < 0.5 else 4)
        return [part + np.array(c) for c in centres]

    return arrangement


def ellipse(rng):
    return [_polar(lambda a: 1.0) * (1, rng.uniform(0.4, 0.7))]


def bar(rng):
    return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (0.95, rng.uniform(0.1, 0.3))]


def ring(rng):
    return [_polar(lambda a: 1.0), _polar(lambda a: rng.uniform(0.5, 0.8))]


def frame(rng):
    square = np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    return [square, square * rng.uniform(0.5, 0.8)]


def plus(rng):
    w = rng.uniform(0.2, 0.4)
    quarter = np.array([(-w, -1), (w, -1), (w, -w)])
    turned = [quarter @ np.array([[c, k], [-k, c]]) for c, k in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate(turned)]


def flower(rng):
    n = rng.integers(3, 8)
    return [_polar(lambda a: 0.7 + 0.3 * np.cos(n * a))]


def gear(rng):
    n = rng.integers(7, 12)
    return [_polar(lambda a: 0.88 + 0.12 * np.sign(np.cos(n * a)), 144), _polar(lambda a: 0.35)]


def heart(rng):
    a = np.arange(60) * TAU / 60
    y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    curve = np.stack([16 * np.sin(a) ** 3, -y], 1)
    return [curve / 17]


def drop(rng):
    return [_polar(lambda a: 0.5 + 0.5 * np.exp(-4 * np.minimum(a, TAU - a)))]


def half(rng):
    a = np.linspace(0, TAU / 2, 30)
    return [np.stack([np.cos(a), np.sin(a) - 0.4], 1)]


def crescent(rng):
    a, inner = np.linspace(-1, 1, 30) * TAU * 0.35, rng.uniform(0.2, 0.5)
    outside = np.stack([np.cos(a), np.sin(a)], 1)
    return [np.concatenate([outside, (outside * (inner, 1) + (math.cos(a[0]) * (1 - inner), 0))[::-1]])]


def arrow(rng):
    w = rng.uniform(0.12, 0.25)
    return [np.array([(-w, 1), (-w, -0.1), (-0.7, -0.1), (0, -1), (0.7, -0.1), (w, -0.1), (w, 1)])]


def spiral(rng):
    t = np.linspace(0.15, 1, 60)
    a = 2 * TAU * t
    return [_stroke(np.stack([0.9 * t * np.cos(a), 0.9 * t * np.sin(a)], 1), 0.16)]


def snake(rng):
    x = np.linspace(-0.9, 0.9, 40)
    return [_stroke(np.stack([x, 0.4 * np.sin(TAU * x / 0.9)], 1), rng.uniform(0.15, 0.3))]


def blob(rng):
    c, phase = rng.normal(0, 0.12, 4), rng.uniform(0, TAU, 4)
    return [_polar(lambda a: 0.75 + sum(c[k] * np.cos((k + 2) * a + phase[k]) for k in range(4)))]


def fractal(rng):
    """A closed curve whose sides were broken three times by the same random rule (Koch)."""
    points, out = _polar(lambda a: 0.75, rng.integers(3, 6)), rng.uniform(0.2, 0.4)
    for _ in range(3):
        side = np.roll(points, -1, 0) - points
        bump = points + side / 2 + np.stack([side[:, 1], -side[:, 0]], 1) * out
        points = np.stack([points, points + side / 3, bump, points + side * 2 / 3], 1).reshape(-1, 2)
    return [points]


_EIGHT = [(0.75 * math.sin(a), 0.75 * math.cos(a)) for a in np.arange(8) * TAU / 8]
SHAPES = {
    "disc": _polygon(40),
    "triangle": _polygon(3),
    "diamond": _polygon(4),
    "pentagon": _polygon(5),
    "hexagon": _polygon(6),
    "star of 4": _star(4),
    "star of 5": _star(5),
    "star of 7": _star(7),
    "arc open up": _bend(0),
    "arc open right": _bend(1),
    "arc open down": _bend(2),
    "arc open left": _bend(3),
    "narrow lens": _lens(0.12, 0.3),
    "wide lens": _lens(0.45, 0.8),
    "L": _path((-0.6, -0.9), (-0.6, 0.8), (0.6, 0.8)),
    "V": _path((-0.7, -0.8), (0, 0.8), (0.7, -0.8)),
    "Z": _path((-0.7, -0.8), (0.7, -0.8), (-0.7, 0.8), (0.7, 0.8)),
    "U": _path((-0.7, -0.8), (-0.7, 0.5), (-0.4, 0.8), (0.4, 0.8), (0.7, 0.5), (0.7, -0.8)),
    "W": _path((-0.9, -0.7), (-0.45, 0.7), (0, -0.5), (0.45, 0.7), (0.9, -0.7)),
    "row of 2": _arranged((-0.6, 0), (0.6, 0)),
    "column of 2": _arranged((0, -0.6), (0, 0.6)),
    "row of 3": _arranged((-0.7, 0), (0, 0), (0.7, 0)),
    "column of 3": _arranged((0, -0.7), (0, 0), (0, 0.7)),
    "square of 4": _arranged((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)),
    "circle of 8": _arranged(*_EIGHT),
} | {f.__name__: f for f in (
    ellipse, bar, ring, frame, plus, flower, gear, heart, drop, half, crescent, arrow, spiral, snake, blob, fractal
)}  # fmt: skip

# Drawn with a pen, by _stroke: an outline that may cross itself.
PENNED = {"spiral", "snake", "L", "V", "Z", "U", "W", *(name for name in SHAPES if name.startswith("arc"))}


# --- Scenes


class Task(NamedTuple):
    """Something to tell at every position of a scene, and the names of its answers."""

    name: str
    answers: tuple[str, ...]


TASKS = (
    Task("shape", ("ground", *SHAPES)),
    Task("texture", tuple(f.__name__ for f in TEXTURES)),
    Task("orientation", tuple(f"{180 * k / ORIENTATIONS:.0f} degrees" for k in range(ORIENTATIONS))),
    Task("period", tuple(f"{a:g} to {b:g} pixels" for a, b in itertools.pairwise(PERIODS))),
    Task("hue", HUES),
    Task("relief", RELIEF),
)


class Surface(NamedTuple):
    """A texture in its colours: pixels float32 [3, S, S] in 0..255, RGB, and the labels that go with it."""

    pixels: np.ndarray
    texture: int
    orientation: int
    period: int
    hue: int


def surface(size: int, colourful: bool, rng: Generator, texture: int | None = None) -> Surface:
    """A square of `size` pixels covered by a random texture, or by the one asked for."""
    kind = int(rng.integers(len(TEXTURES))) if texture is None else texture
    draw = TEXTURES[kind]
    turn, bin = rng.random(), int(rng.integers(len(PERIODS) - 1))
    period = math.exp(rng.uniform(math.log(PERIODS[bin]), math.log(PERIODS[bin + 1])))
    x = np.arange(size, dtype=np.float32)[None] / period + np.float32(rng.random())
    y = np.arange(size, dtype=np.float32)[:, None] / period + np.float32(rng.random())
    c, s = np.float32(math.cos(turn * TAU / 2)), np.float32(math.sin(turn * TAU / 2))
    field = draw(c * x + s * y, c * y - s * x, rng).astype(np.float32)
    dark, bright, hue = _colours(colourful, rng)
    return Surface(
        pixels=dark + (bright - dark) * field,
        texture=kind,
        orientation=round(turn * ORIENTATIONS) % ORIENTATIONS if draw in ORIENTED else IGNORED,
        period=IGNORED if draw in (plain, ramp) else bin,
        hue=hue if colourful else IGNORED,
    )


def _colours(colourful: bool, rng: Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Two colours of one hue and different brightness, RGB [3, 1, 1] 0..255, in either order, and the hue's index."""
    low = rng.uniform(0, 0.7)
    values = (low, low + rng.uniform(0.12, 1 - low))
    if rng.random() < 0.5:
        values = values[::-1]
    grey = not colourful or rng.random() < 0.2
    hue = len(HUES) - 1 if grey else int(rng.integers(len(HUES) - 1))
    angle = (hue + rng.uniform(-0.35, 0.35)) * TAU / (len(HUES) - 1)
    tint = np.array([math.cos(angle - k * TAU / 3) for k in range(3)]) * (0 if grey else rng.uniform(0.25, 0.6))
    first, second = (np.clip(255 * v * (1 + tint), 0, 255).astype(np.float32)[:, None, None] for v in values)
    return first, second, hue


def silhouette(name: str, size: int, rng: Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A shape somewhere in a square of `size` pixels.

    Returns its soft mask float32 [S, S] in 0..1, its convex hull bool [S, S] and its radius in pixels.
    """
    radius = math.exp(rng.uniform(math.log(11), math.log(0.45 * size)))
    turn = rng.uniform(-0.4, 0.4)
    c, s = math.cos(turn), math.sin(turn)
    affine = np.array([[c, s], [-s, c]]) * (rng.uniform(0.75, 1.2, (2, 1)) * radius)
    centre = rng.uniform(0.15, 0.85, 2) * size
    # 4 fractional bits: corners lie between pixels.
    contours = [np.round((contour @ affine + centre) * 16).astype(np.int32) for contour in SHAPES[name](rng)]
    mask, hull = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    if name in PENNED:
        for contour in contours:
            half = len(contour) // 2
            for k in range(half - 1):
                quad = contour[[k, k + 1, -k - 2, -k - 1]]
                cv2.fillConvexPoly(mask, cv2.convexHull(quad), 255, cv2.LINE_AA, 4)
    else:
        cv2.fillPoly(mask, contours, 255, cv2.LINE_AA, 4)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(contours)), 1, cv2.LINE_8, 4)
    return mask.astype(np.float32) / 255, hull.astype(bool), radius


def scene(size: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scene: uint8 RGB [3, S, S], and its labels int8 [tasks, S, S], TASKS' answers by index, -1 where none applies.

    A shape counts as seen within its convex hull, everything else only where it is visible.
    """
    colourful = rng.random() < 0.6
    ground = surface(size, colourful, rng)
    picture = ground.pixels.copy()
    labels = np.empty((len(TASKS), size, size), np.int8)
    labels[:] = np.array([0, *ground[1:], 0], np.int8)[:, None, None]
    side = rng.uniform(-1, 1)
    light = np.array([side, 1.0]) / math.hypot(side, 1)  # from above, so that raised and sunken can be told apart
    names, kinds = list(SHAPES), rng.integers(len(SHAPES), size=rng.integers(1, 7))
    shapes = [(int(kind), *silhouette(names[kind], size, rng)) for kind in kinds]
    for kind, mask, hull, radius in sorted(shapes, key=lambda shape: -shape[-1]):  # small ones in front
        cover, relief = surface(size, colourful, rng), int(rng.integers(len(RELIEF)))
        pixels = cover.pixels
        if relief:
            pixels = pixels * _shading(mask, radius, light * (1 if relief == 1 else -1), rng)
        picture += (pixels - picture) * (mask * np.float32(rng.uniform(0.6, 1)))
        labels[0][hull] = kind + 1
        labels[1:, mask > 0.5] = np.array([*cover[1:], relief], np.int8)[:, None]
    return _photographed(picture, colourful, rng), labels


def _shading(mask: np.ndarray, radius: float, light: np.ndarray, rng: Generator) -> np.ndarray:
    """What a rounded rim in this light multiplies the pixels by, float32 [S, S]."""
    height = cv2.GaussianBlur(mask, (0, 0), max(1.0, radius * rng.uniform(0.08, 0.3)))
    slope = light[0] * cv2.Sobel(height, cv2.CV_32F, 1, 0) + light[1] * cv2.Sobel(height, cv2.CV_32F, 0, 1)
    slope /= np.abs(slope).max() + 1e-6
    return (1 + rng.uniform(0.3, 0.8) * slope).astype(np.float32)


def _photographed(picture: np.ndarray, colourful: bool, rng: Generator) -> np.ndarray:
    """Uneven light, blur, contrast, noise: what a label must not depend on. float32 [3, S, S] -> uint8."""
    size = picture.shape[-1]
    picture = picture * (np.float32(rng.uniform(0.6, 1)) + 0.5 * _noise(picture[0], 3, rng))
    if rng.random() < 0.6:
        sigma = rng.uniform(0.4, 1.6)
        picture = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in picture])
    contrast, middle = np.float32(rng.uniform(0.5, 1.2)), np.float32(rng.uniform(90, 150))
    picture = (picture - picture.mean()) * contrast + middle
    grain = rng.standard_normal((3 if colourful else 1, size, size), dtype=np.float32)
    return np.clip(picture + grain * np.float32(rng.uniform(0, 8)), 0, 255).astype(np.uint8)
