"""Painting one synthetic face, from the background to the glasses, and the masks of its parts."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from dualtl_lib.synthetic import expressive, hair, skin
from dualtl_lib.synthetic.anatomy import LEFT, RIGHT, Identity
from dualtl_lib.synthetic.drawing import Canvas, View, curve, ellipse, loop
from dualtl_lib.synthetic.geometry import Features
from dualtl_lib.synthetic.skin import Sitter

# The value of a part in the index picture is its place here, from 1. Left and right are the viewer's.
PARTS = (
    "face",  # what no other part covers
    "forehead",
    "left_cheek",
    "right_cheek",
    "chin",
    "nose",
    "mouth",
    "left_brow",
    "right_brow",
    "left_eye",
    "right_eye",
)
SIDES = {LEFT: "left", RIGHT: "right"}


@dataclass(frozen=True)
class Scene:
    """Light and surroundings. Angles in degrees; `light` is the strength of the directed part, 0 to 1."""

    light_from: float = -30.0  # sideways, negative from the left
    light_height: float = 35.0
    light: float = 0.5
    exposure: float = 1.0
    contrast: float = 1.0
    backdrop: int = 0  # seed of the background
    dapple: float = 0.0  # strength of the soft shadows that things outside the picture cast

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Scene":
        """A scene at random."""
        return cls(
            light_from=float(rng.uniform(-70, 70)),
            light_height=float(rng.uniform(0, 60)),
            light=float(rng.uniform(0.2, 0.75)),
            exposure=float(rng.uniform(0.78, 1.2)),
            contrast=float(rng.uniform(0.8, 1.15)),
            backdrop=int(rng.integers(2**31)),
            dapple=float(rng.uniform(0.0, 0.3)),
        )


def paint(
    person: Identity, units: dict, attributes: dict, view: View, scene: Scene, size: tuple[int, int], grey: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a face that shows these action units and attributes.

    Args:
        person: Who it is.
        units: {action unit: intensity 0 to 1, or (left, right)}.
        attributes: {name of Table 2: strength 0 to 1, or bool}.
        view: Where the face is in the picture.
        scene: Light and background.
        size: Height and width in pixels.
        grey: Paint one channel instead of three.

    Returns:
        The picture, uint8, shape (H, W, 3), or (H, W, 1) if grey, and the index of the part that each pixel shows,
        uint8, shape (H, W): 0 outside the face, else see PARTS.

    Raises:
        ValueError: If an action unit or an attribute is not known.
    """
    features = Features(person, units, attributes)
    canvas = Canvas(*size, view, grey)
    canvas.pixels[:] = backdrop(scene.backdrop, size, grey)
    sitter = Sitter(features, canvas, seed=scene.backdrop, lit_from_left=scene.light_from < 0, light=scene.light)
    hair.hair_behind(sitter)
    for step in (skin.body, skin.head, skin.cheeks, skin.forehead):
        step(sitter)
    for side in canvas.mirrored(LEFT, RIGHT):
        expressive.eye(sitter, side)
    for step in (skin.nose, skin.folds, expressive.mouth, hair.beard):
        step(sitter)
    for side in canvas.mirrored(LEFT, RIGHT):
        expressive.brow(sitter, side)
    hair.hair(sitter)
    hair.glasses(sitter)
    return canvas.finish(light(scene, person, view, size), scene.contrast), part_index(features, view, size)


@lru_cache(maxsize=1)  # the frames of a sequence share it
def backdrop(seed: int, size: tuple[int, int], grey: bool) -> np.ndarray:
    """What is behind the person, float32 [C, H, W]: a soft gradient, with shapes on it in some pictures."""
    height, width = size
    rng = np.random.default_rng(seed)
    canvas = Canvas(height, width, View(width / 2, 0.47 * height, 0.22 * height), grey)
    base = rng.uniform(40, 230, 3)
    coarse = base + rng.normal(0, rng.choice((6, 18, 40)), (rng.integers(2, 6), rng.integers(2, 6), 3))
    coarse = np.clip(coarse, 0, 255).astype(np.float32)
    planes = canvas.ink(coarse.reshape(-1, 3)).reshape(*coarse.shape[:2], -1)
    for channel, pixels in enumerate(canvas.pixels):
        cv2.resize(planes[..., channel], (width, height), dst=pixels)
    kind = rng.integers(4)
    for _ in range(int(rng.integers(2, 6)) if kind else 0):
        x, y = rng.uniform(-2, 2), rng.uniform(-2.2, 2.2)
        tone, length = np.clip(base + rng.normal(0, 45, 3), 0, 255), rng.uniform(0.2, 0.9)
        if kind == 1:
            canvas.fill(ellipse(x, y, length, length), tone, 0.6, 0.1)
        elif kind == 2:
            turn = rng.uniform(-0.6, 0.6)
            canvas.stroke(np.array([(x - turn, -3.0), (x + turn, 3.0)]), tone, length * 0.3, 0.7)
        else:
            corner = np.array([(x, y), (x + length, y), (x + length, y + 2 * length), (x, y + 2 * length)])
            canvas.fill(corner, tone, 0.8, 0.02)
    canvas.paint()
    return canvas.pixels


def part_index(features: Features, view: View, size: tuple[int, int]) -> np.ndarray:
    """Which part each pixel shows, uint8 [H, W]: 0 outside the face, else 1 + its place in PARTS."""
    index = np.zeros(size, np.uint8)
    contour = loop(features.contour, 4)
    brow = features.brows[LEFT]["outline"][:, 1].min(), features.brows[RIGHT]["outline"][:, 1].min()
    top = person_top(features.person)
    mouth = np.concatenate([curve(features.upper_lip), curve(features.lower_lip)[::-1]])
    outlines = {
        "face": np.maximum(contour, (-9, top)),
        "forehead": loop([(-0.74, min(brow) - 0.04), (-0.6, top + 0.1), (0, top + 0.04), (0.6, top + 0.1),
                          (0.74, min(brow) - 0.04), (0, min(brow) - 0.02)]),
        "chin": ellipse(0, 0.5 * (features.lip_bottom + features.chin) + 0.03, 0.3,
                        max(0.05, 0.5 * (features.chin - features.lip_bottom) - 0.04)),
        "nose": _nose_outline(features),
        "mouth": mouth,
    }  # fmt: skip
    for side, name in SIDES.items():
        outlines[f"{name}_cheek"] = ellipse(side * 0.6, 0.47, 0.27, 0.24)
        outlines[f"{name}_brow"] = features.brows[side]["outline"]
        outlines[f"{name}_eye"] = (features.eyes[side]["outline"] - features.eyes[side]["centre"]) * (1.15, 1.35) + (
            features.eyes[side]["centre"]
        )
    ends = np.cumsum([len(outlines[name]) for name in PARTS])
    points = np.rint(view.project(np.concatenate([outlines[name] for name in PARTS]))).astype(np.int32)
    for value, outline in enumerate(np.split(points, ends[:-1]), 1):
        cv2.fillPoly(index, [outline], value)
    return index


def person_top(person: Identity) -> float:
    """Where the forehead ends above: at the hair, the hat, or the fringe."""
    return {"bangs": -0.52, "hat": -0.72, "bald": -1.2}.get(person.style, person.forehead)


def _nose_outline(f: Features) -> np.ndarray:
    w, base = f.nose_wing, f.nose_base
    right = [(0.09, -0.12), (0.11, 0.2), (w * 0.9, base - 0.2), (w * 1.08, base - 0.08), (w * 0.8, base + 0.02)]
    return loop([*right, (0, base + 0.05), *[(-x, y) for x, y in reversed(right)]])


def light(scene: Scene, person: Identity, view: View, size: tuple[int, int]) -> np.ndarray:
    """Directed light on an egg-shaped head, times the exposure, of low resolution: float32 [h, w]."""
    height, width = size
    step = max(4, width // 48)
    rows, columns = np.mgrid[step / 2 : height : step, step / 2 : width : step]
    points = view.unproject(np.stack([columns, rows], -1))
    nx, ny = points[..., 0] / 1.15, (points[..., 1] - 0.05) / 1.75
    r2 = nx * nx + ny * ny
    nz = np.sqrt(np.maximum(0.0, 1 - r2))
    across, up = np.deg2rad([scene.light_from, scene.light_height])
    lx, ly, lz = np.sin(across) * np.cos(up), -np.sin(up), np.cos(across) * np.cos(up)
    edge = np.minimum(1.0, 1.0 / np.sqrt(np.maximum(r2, 1e-6)))
    lambert = np.maximum(0.0, nx * edge * lx + ny * edge * ly + nz * lz)
    field = (1 - scene.light) + scene.light * 1.35 * lambert
    far = np.clip(r2 - 1.0, 0, 1)  # the backdrop is lit evenly
    exposure = (
        scene.exposure * (165 / (np.array(person.skin) @ (0.3, 0.59, 0.11))) ** 0.7
    )  # set for the face, as cameras do
    field = exposure * (field * (1 - far) + far * 0.9) * _dapple(scene, field.shape)
    return field.astype(np.float32)


def _dapple(scene: Scene, shape: tuple[int, int]) -> np.ndarray:
    """Soft shadows and bright spots, factors about 1 of this shape."""
    coarse = np.random.default_rng([scene.backdrop, 2]).normal(size=(4, 5))
    smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.exp(scene.dapple * np.clip(smooth, -1.5, 0.8))


def face_box(view: View) -> tuple[float, float, float]:
    """The square (x, y, side) that OpenCV's frontal-face detector puts around such a face, on average."""
    x, y = view.project(np.array([[0.0, 0.245]]))[0]
    side = 2.53 * view.scale
    return round(x - side / 2, 1), round(y - side / 2, 1), round(side, 1)
