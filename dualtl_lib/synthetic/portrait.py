"""Painting one synthetic face, from the background to the glasses, and the masks of its parts."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from dualtl_lib.synthetic.anatomy import LEFT, RIGHT, Features, Identity
from dualtl_lib.synthetic.drawing import Canvas, View, curve, ellipse, loop, shift

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
    """A face showing these action units and attributes.

    units: {action unit: intensity 0..1, or (left, right)}; attributes: {name of Table 2: strength 0..1 or bool};
    size: (height, width) in pixels. Returns the picture, uint8 [H, W, 3], or [H, W, 1] if grey, and the index of the
    part that each pixel shows, uint8 [H, W] (0 outside the face, else see PARTS). Raises ValueError for an action
    unit or attribute that is not known.
    """
    features = Features(person, units, attributes)
    canvas = Canvas(*size, view, grey)
    canvas.pixels[:] = backdrop(scene.backdrop, size, grey)
    painter = _Painter(features, canvas, scene)
    painter.hair_behind()
    painter.body()
    painter.head()
    painter.cheeks()
    painter.forehead()
    for side in canvas.mirrored(LEFT, RIGHT):
        painter.eye(side)
    painter.nose()
    painter.folds()
    painter.mouth()
    painter.beard()
    for side in canvas.mirrored(LEFT, RIGHT):
        painter.brow(side)
    painter.hair()
    painter.glasses()
    return painter.lit(), part_index(features, view, size)


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


class _Painter:
    """The steps of painting one face on one canvas, in order from far to near."""

    def __init__(self, features: Features, canvas: Canvas, scene: Scene):
        self.f, self.canvas, self.scene = features, canvas, scene
        self.person = features.person
        self.skin = np.array(self.person.skin)
        self.dark = self.skin * (0.62, 0.52, 0.47)  # skin in shadow is redder
        self.line = self.skin * (0.38, 0.29, 0.25)
        self.bright = self.skin + (255 - self.skin) * 0.45
        self.rng = np.random.default_rng([scene.backdrop, 1])  # for the lie of the hair
        self.side_of_shadow = 1 if scene.light_from < 0 else -1

    # Around the face

    def hair_behind(self):
        p = self.person
        tone = np.array(p.hair_colour) * 0.72
        if p.style in ("long", "bangs"):
            self.canvas.fill(loop([(0, -1.68), (0.8, -1.45), (1.14, -0.7), (1.2, 0.3), (1.22, 1.4), (0.95, 2.1),
                                   (-0.95, 2.1), (-1.22, 1.4), (-1.2, 0.3), (-1.14, -0.7), (-0.8, -1.45)]),
                             tone)  # fmt: skip
        elif p.style == "bun":
            self.canvas.fill(ellipse(0, -1.72, 0.36, 0.33), tone)
        elif p.style == "curly":
            for angle in np.linspace(-0.35, np.pi + 0.35, 13):
                x, y = 1.05 * np.cos(angle), -0.45 - 1.1 * np.sin(angle)
                self.canvas.fill(ellipse(x, y, 0.3, 0.3), tone * self.rng.uniform(0.85, 1.15))

    def body(self):
        """Neck, shoulders and clothes."""
        p, canvas = self.person, self.canvas
        wide = 0.56 if p.male else 0.46
        cloth = np.array(p.cloth)
        canvas.fill(np.array([(-wide, 0.9), (wide, 0.9), (wide * 1.1, 2.3), (-wide * 1.1, 2.3)]), self.skin * 0.86)
        shoulders = [(0.5, 1.95), (1.3, 2.15), (2.1, 2.6), (2.3, 4.5)]
        outline = loop([(-x, y) for x, y in reversed(shoulders)] + [(0, 2.1 + 0.4 * p.neckline)] + shoulders)
        canvas.fill(outline, cloth)
        for side in canvas.mirrored(LEFT, RIGHT):
            collar = np.array([(side * 0.55, 1.85), (side * 0.1, 2.3 + 0.4 * p.neckline), (side * 0.75, 2.35)])
            canvas.fill(collar, cloth * 0.75 + 40, 0.9, 0.01)
        neck = [(-0.62, 1.0), (0.62, 1.0), (0.5, 1.5), (0, self.f.chin + 0.22), (-0.5, 1.5)]
        canvas.fill(loop(neck), self.dark * 0.8, 0.7, 0.08)

    def head(self):
        """Ears and the skin of the face, its edge in soft shadow."""
        p, canvas = self.person, self.canvas
        for side in canvas.mirrored(LEFT, RIGHT):
            if p.style not in ("long", "bangs"):
                x = side * p.cheek_width
                canvas.fill(ellipse(x, 0.12, 0.15 * p.ears, 0.3 * p.ears), self.skin * 0.92)
                canvas.fill(ellipse(x + side * 0.03, 0.12, 0.07 * p.ears, 0.18 * p.ears), self.dark, 0.6, 0.03)
        contour = loop(self.f.contour)
        canvas.fill(contour, self.skin)
        canvas.stroke(np.concatenate([contour, contour[:1]]), self.dark, 0.14, 0.55, 0.09)
        if p.freckles:
            spots = np.random.default_rng(int(1e6 * p.temple)).uniform((-0.7, 0.2), (0.7, 0.6), (26, 2))
            canvas.stroke([np.array([s, s + 0.012]) for s in spots], self.dark, 0.022, 0.6)

    # The skin

    def cheeks(self):
        f, canvas = self.f, self.canvas
        bones, rosy = f.has("High_Cheekbones"), f.has("Rosy_Cheeks")
        for side in canvas.mirrored(LEFT, RIGHT):
            raised = max(f.unit(6, side), 0.55 * f.smile(side))
            y = 0.46 - 0.07 * raised
            canvas.fill(ellipse(side * 0.58, y, 0.25, 0.19), self.bright, 0.2 + 0.35 * raised, 0.1)
            if rosy > 0.02:
                canvas.fill(ellipse(side * 0.6, y + 0.03, 0.24, 0.2), self.skin * (1.03, 0.52, 0.55), 0.85 * rosy, 0.1)
            if bones > 0.02:  # a lit ridge and a hollow below it
                ridge = curve([(side * 0.36, 0.40), (side * 0.66, 0.30), (side * 0.92, 0.10)], 4)
                canvas.stroke(ridge, self.bright, 0.11, 0.75 * bones, 0.05)
                hollow = curve([(side * 0.50, 0.92), (side * 0.70, 0.70), (side * 0.93, 0.42)], 4)
                canvas.stroke(hollow, self.dark * 0.85, 0.17, 0.75 * bones, 0.07)
            if raised > 0.1:  # the cheek's lower edge
                apple = curve([(side * 0.36, y + 0.14), (side * 0.56, y + 0.22), (side * 0.78, y + 0.1)], 4)
                canvas.stroke(apple, self.dark, 0.06, 0.5 * raised, 0.035)
        tight = f.unit(17)
        if tight > 0.05:  # the raised chin's dimples, and the hollow above it
            canvas.fill(ellipse(0, f.chin - 0.24, 0.2, 0.1), self.dark, 0.45 * tight, 0.06)
            spots = [(-0.12, -0.22), (0.1, -0.26), (-0.02, -0.17), (0.05, -0.14), (-0.07, -0.29), (0.15, -0.2)]
            spots = shift(spots, 0, f.chin)
            canvas.stroke([np.array([s, shift(s, 0.02, 0.015)]) for s in spots], self.line, 0.03, 0.5 * tight, 0.012)
        canvas.fill(ellipse(0, f.chin - 0.2, 0.17, 0.1), self.bright, 0.3, 0.06)
        under = curve([(-0.16, f.lip_bottom + 0.09), (0, f.lip_bottom + 0.065), (0.16, f.lip_bottom + 0.09)], 4)
        canvas.stroke(under, self.dark, 0.07, 0.55, 0.035)

    def forehead(self):
        """Shine, and the lines that raised or drawn brows make."""
        f, canvas, age = self.f, self.canvas, self.person.age
        canvas.fill(ellipse(0, -0.68, 0.42, 0.17), self.bright, 0.3, 0.12)
        inner, outer, lower = f.unit(1), min(f.unit(2, LEFT), f.unit(2, RIGHT)), f.unit(4)
        across = max(0.25 * (age > 0.6) * age, 0.9 * min(inner, outer + 0.2), 0.35 * outer)
        short = inner > outer + 0.25  # sadness: lines in the middle only
        reach = 0.26 if short else 0.56
        if across > 0.08:
            lines = []
            for y in (-0.6, -0.7, -0.8):
                bend = -0.035 if not short else 0.04
                lines.append(curve([(-reach, y - bend), (-0.5 * reach, y + bend * 0.5), (0, y - 0.3 * bend),
                                    (0.5 * reach, y + bend * 0.5), (reach, y - bend)], 3))  # fmt: skip
            canvas.stroke(lines, self.line, 0.024, 0.55 * across, 0.012)
        frown = max(lower, 0.3 * f.unit(9))
        if frown > 0.08:
            top = -0.56 + 0.06 * lower
            lines = [curve([(s * 0.1, top), (s * 0.065, -0.34), (s * 0.085, -0.18)], 3) for s in (LEFT, RIGHT)]
            canvas.stroke(lines, self.line, 0.032, 0.75 * frown, 0.014)
            canvas.fill(ellipse(0, -0.28, 0.16, 0.15), self.dark, 0.45 * frown, 0.07)

    def nose(self):
        f, canvas = self.f, self.canvas
        w, base, tip = f.nose_wing, f.nose_base, f.nose_tip
        big, pointy = f.has("Big_Nose"), f.has("Pointy_Nose")
        s = self.side_of_shadow
        bridge = 0.09 + 0.03 * big
        flank = curve(
            [(s * 0.16, -0.2), (s * bridge, 0.05), (s * (bridge + 0.02), base - 0.26), (s * w * 0.75, base - 0.12)], 4
        )
        canvas.stroke(flank, self.dark, 0.075, 0.4 + 0.25 * self.scene.light, 0.035, lift=0.12)
        canvas.stroke(flank * (-1, 1), self.dark, 0.05, 0.22, 0.03, lift=0.12)
        ridge = curve([(0, -0.1), (-s * 0.015, base - 0.3), (-s * 0.02, tip - 0.08)], 4)
        canvas.stroke(ridge, self.bright, 0.07 - 0.025 * pointy, 0.5, 0.025, lift=0.2)
        ball = 0.115 * (1 + 0.8 * big) * (1 - 0.4 * pointy)
        canvas.fill(ellipse(0, tip - 0.05, ball, 0.085), self.bright, 0.5 + 0.3 * pointy, 0.035, lift=0.25)
        below = ellipse(s * 0.05, base + 0.05, w * 0.9, 0.06)
        canvas.fill(below, self.dark, 0.5, 0.035, lift=0.1)
        if pointy > 0.02:  # the tip hangs over its base like a wedge
            wedge = np.array([(-0.1, tip - 0.16), (0.1, tip - 0.16), (0.0, tip + 0.045)])
            canvas.fill(wedge, self.skin * 1.02, 0.8 * pointy, 0.012, lift=0.28)
            under = curve([(-0.11, tip - 0.13), (0.0, tip + 0.05), (0.11, tip - 0.13)], 4)
            canvas.stroke(under, self.line, 0.034, 0.9 * pointy, 0.008, lift=0.28)
        for side in canvas.mirrored(LEFT, RIGHT):
            wing = curve([(side * w * 0.72, base - 0.22), (side * w * 1.04, base - 0.11), (side * w * 0.96, base),
                          (side * w * 0.66, base + 0.005)], 4)  # fmt: skip
            canvas.stroke(wing, self.line, 0.026, 0.5 + 0.3 * f.wrinkle, 0.012, lift=0.12)
            hole = ellipse(side * w * 0.46, base - 0.01, w * 0.25 * (1 - 0.2 * pointy), 0.03 + 0.015 * f.wrinkle)
            canvas.fill(hole, self.line * 0.6, 0.85, 0.012, lift=0.12)
        if f.unit(9) > 0.05:
            lines = []
            for y, reach in ((-0.14, 0.1), (-0.06, 0.14), (0.02, 0.15)):
                lines.append(curve([(-reach, y - 0.045), (0, y + 0.01), (reach, y - 0.045)], 4))
            for side in (LEFT, RIGHT):
                for k in (0.0, 0.07):
                    lines.append(
                        curve([(side * (0.12 + k), k), (side * (0.16 + k), 0.08 + k), (side * (0.2 + k), 0.16 + k)], 4)
                    )
            canvas.stroke(lines, self.line, 0.026, 0.8 * f.unit(9), 0.01, lift=0.12)

    def folds(self):
        """Nasolabial folds, dimples, and the lines beside a lowered mouth."""
        f, canvas, age = self.f, self.canvas, self.person.age
        for side in canvas.mirrored(LEFT, RIGHT):
            x, y = f.corner[side]
            pull = max(f.smile(side), 0.9 * f.unit(9, side), 0.95 * f.unit(10, side), 0.4 * f.unit(20, side))
            depth = max(0.15 + 0.2 * age, 0.85 * pull)
            out = side * (abs(x) + 0.1)
            sneer = max(f.unit(9, side), f.unit(10, side))
            start = (side * (f.nose_wing + 0.05), f.nose_base - 0.12 - 0.08 * sneer)
            bulge = (side * (0.5 * (f.nose_wing + abs(out)) + 0.05 + 0.05 * pull), 0.5 * (f.nose_base + y) - 0.06)
            end = (out, y + 0.02 + 0.06 * (1 - f.smile(side)))
            fold = curve([start, bulge, end], 5)
            canvas.stroke(fold, self.dark, 0.08, 0.6 * depth, 0.035)
            canvas.stroke(fold, self.line, 0.022, 0.75 * depth * depth, 0.01)
            dent = max(f.unit(14, side), 0.35 * f.smile(side))
            if dent > 0.1:
                mark = curve([(x + side * 0.05, y - 0.12), (x + side * 0.1, y - 0.01), (x + side * 0.05, y + 0.1)], 4)
                canvas.stroke(mark, self.line, 0.035, 0.8 * dent, 0.014)
                canvas.fill(ellipse(x + side * 0.03, y, 0.06, 0.07), self.dark, 0.6 * dent, 0.03)
            low = f.unit(15, side)
            if low > 0.1:
                mark = curve([(x + side * 0.03, y - 0.01), (x + side * 0.06, y + 0.1), (x + side * 0.04, y + 0.22)], 4)
                canvas.stroke(mark, self.line, 0.032, 0.65 * low, 0.014)
            stretch = f.unit(20, side)
            if stretch > 0.1:
                mark = curve([(x, y - 0.1), (x + side * 0.04, y + 0.02), (x, y + 0.16)], 3)
                marks = [shift(mark, side * d, 0) for d in (0.09, 0.17)]
                canvas.stroke(marks, self.line, 0.024, 0.5 * stretch, 0.012)

    # Eyes and brows

    def eye(self, side: int):
        f, p, canvas = self.f, self.person, self.canvas
        eye = f.eyes[side]
        x, y = eye["centre"]
        canvas.fill(ellipse(x, -0.06, 0.3, 0.19), self.dark, 0.3, 0.06)  # the socket
        if p.makeup > 0.05:
            canvas.fill(ellipse(x, -0.11, 0.24, 0.09), np.array(p.cloth) * 0.4 + 30, 0.55 * p.makeup, 0.035)
        bags = f.has("Bags_Under_Eyes")
        cheek = max(f.unit(6, side), 0.4 * f.smile(side))
        if bags > 0.02:
            low = eye["bottom"] + 0.09
            pouch = curve(
                [(x - 0.2, low - 0.03), (x - 0.08, low + 0.06), (x + 0.08, low + 0.06), (x + 0.2, low - 0.03)], 4
            )
            canvas.stroke(pouch, self.dark * (0.72, 0.66, 0.86), 0.1, 0.9 * bags, 0.028)
            canvas.stroke(shift(pouch, 0, 0.035), self.line, 0.026, 0.75 * bags, 0.01)
        if cheek > 0.08:
            low = eye["bottom"] + 0.07
            pouch = curve([(x - 0.19, low - 0.01), (x, low + 0.035), (x + 0.2, low - 0.02)], 4)
            canvas.stroke(pouch, self.line, 0.026, 0.6 * cheek, 0.012)
            out = x + side * 0.27
            feet = [np.array([(out, 0.0 + k), (out + side * 0.13, -0.05 + 2.2 * k)]) for k in (-0.02, 0.015, 0.05)]
            canvas.stroke(feet, self.line, 0.022, 0.65 * max(cheek * f.unit(6, side), 0.3 * p.age), 0.01)
        tight = f.unit(7, side)
        if tight > 0.1:
            canvas.stroke(eye["lower"] * (1, 1) + (0, 0.04), self.line, 0.024, 0.6 * tight, 0.012)

        def ball():
            canvas.fill(ellipse(x, 0, 0.3, 0.25), (236, 232, 228))
            canvas.fill(ellipse(x, y, 0.094, 0.094), np.array(p.iris) * 0.55)
            canvas.fill(ellipse(x, y, 0.08, 0.08), p.iris)
            canvas.fill(ellipse(x, y, 0.04, 0.04), (12, 10, 12))
            canvas.stroke(eye["upper"] + (0, 0.02), (60, 50, 52), 0.07, 0.5, 0.02)  # the lid's shadow
            canvas.fill(ellipse(x - 0.03, y - 0.03, 0.02, 0.02), (255, 255, 255))

        canvas.clip(eye["outline"], ball)
        canvas.stroke(eye["lower"], self.line, 0.022, 0.65)
        lash = self.line * 0.35
        canvas.stroke(eye["upper"], lash, 0.036 + 0.03 * p.makeup + (0.0 if p.male else 0.012), 0.95)
        if not p.male:
            tip = eye["upper"][-1]
            canvas.stroke(np.array([tip - (side * 0.03, 0.01), shift(tip, side * 0.06, -0.05)]), lash, 0.025, 0.8)
        crease = eye["upper"] * (1, 1.0) + (0, -0.05 + 0.018 * f.unit(5, side))
        canvas.stroke(crease[2:-1], self.line, 0.02, 0.55 * (1 - 0.4 * f.has("Narrow_Eyes")), 0.008)

    def brow(self, side: int):
        f, p, canvas = self.f, self.person, self.canvas
        brow = f.brows[side]
        tone = np.array(p.hair_colour) * 0.7 if p.hair != "gray" else np.array((110, 106, 104))
        tone = tone * 0.75 + self.line * 0.25
        bushy = f.has("Bushy_Eyebrows")
        canvas.fill(brow["outline"], tone, min(1.0, p.brow_dark + 0.2 * bushy) * 0.96, 0.012)
        n = len(brow["outline"]) // 2
        lower, upper = brow["outline"][: n - 1 : -1], brow["outline"][:n]
        ends = upper[3:]
        hairs = [np.array([a, b - (0, 0.01 + 0.015 * bushy)]) for a, b in zip(lower[:-3], ends, strict=True)]
        canvas.stroke(hairs, tone * 0.6, 0.016 + 0.01 * bushy, 0.45 + 0.4 * bushy)

    # The mouth

    def mouth(self):
        f, p, canvas = self.f, self.person, self.canvas
        upper, lower = curve(f.upper_lip), curve(f.lower_lip)
        top, low = curve(f.inner_top), curve(f.inner_low)
        red = min(0.95, p.lip_red + 0.3 * p.makeup + 0.15 * f.has("Big_Lips"))
        lip = self.skin * (1 - red) + (self.skin * (0.86, 0.42, 0.42) + (10, 0, 4)) * red
        whole = np.concatenate([upper, lower[::-1]])
        canvas.fill(whole * 1.0 + (0, 0.03), self.dark, 0.35, 0.03)
        canvas.fill(np.concatenate([low, lower[::-1]]), lip, 0.97, 0.008)
        canvas.fill(np.concatenate([upper, top[::-1]]), lip * 0.82, 0.97, 0.008)
        inside = np.concatenate([top, low[::-1]])
        gloss = ellipse(0, 0.5 * (f.lip_bottom + low[:, 1].max()), 0.13, 0.022)
        canvas.fill(gloss, self.bright, 0.35, 0.02)
        if f.opening > 0.012:
            canvas.clip(inside, self._inside_mouth)
            canvas.stroke(top, self.line * 0.5, 0.022, 0.8)
            canvas.stroke(low, self.line * 0.7, 0.018, 0.5)
        else:
            canvas.stroke(0.5 * (top + low), self.line * 0.45, 0.034, 0.95, 0.006)
        if f.unit(19) > 0.1:  # out over the lower lip
            tip = f.lip_bottom + 0.06
            wide = 0.46 * abs(f.corner[LEFT][0])
            outline = [(-wide, top[:, 1].min() + 0.05), (wide, top[:, 1].min() + 0.05), (0.9 * wide, tip - 0.08), (0, tip), (-0.9 * wide, tip - 0.08)]
            canvas.fill(shift(loop(outline), 0, 0.025), self.dark * 0.6, 0.6 * f.unit(19), 0.015)
            canvas.fill(loop(outline), (205, 112, 112), min(1.0, 1.5 * f.unit(19)), 0.008)
            canvas.stroke(np.array([(0, tip - 0.14), (0, tip - 0.04)]), (140, 60, 64), 0.025, 0.7, 0.01)
        for side in canvas.mirrored(LEFT, RIGHT):
            x, y = f.corner[side]
            canvas.fill(ellipse(x, y, 0.03, 0.024), self.line * 0.6, 0.7, 0.012)

    def _inside_mouth(self):
        """Dark, with the upper teeth where the lip is drawn up, and the tongue where the jaw is low."""
        f, canvas = self.f, self.canvas
        y = f.mouth_centre
        canvas.fill(ellipse(0, y, 0.8, 0.9), (52, 20, 24))
        if f.opening > 0.15:
            canvas.fill(ellipse(0, y + 0.86 * f.opening, 0.2, 0.32 * f.opening), (172, 82, 84), 0.9, 0.03)
        top, low = curve(f.inner_top), curve(f.inner_low)
        white, stretch = (238, 234, 224), f.unit(20)
        wide = max(f.smile(), stretch, f.unit(10), f.has("Mouth_Slightly_Open"))
        shown = (0.035 + 0.11 * wide) * min(1.0, f.opening / 0.08) * (1 - f.unit(19))
        canvas.fill(np.concatenate([top - (0, 0.06), shift(top, 0, shown)[::-1]]), white, 1.0, 0.006)
        if stretch > 0.3:
            row = np.concatenate([shift(low, 0, 0.05), shift(low, 0, -0.42 * f.opening)[::-1]])
            canvas.fill(row, np.array(white) * 0.9, stretch, 0.006)
            canvas.stroke(0.5 * (top + low), (70, 50, 50), 0.02, 0.8)
        if wide > 0.3:
            gaps = [np.array([(x, y - 0.15), (x, y + 0.02 + shown)]) for x in np.linspace(-0.24, 0.24, 7)]
            canvas.stroke(gaps, (170, 160, 150), 0.012, 0.35)

    def beard(self):
        f, p, canvas = self.f, self.person, self.canvas
        tone = np.array(p.hair_colour) * 0.8
        if p.beard:
            right = [
                (0.93, 0.45),
                (0.78, 0.86),
                (0.5, 0.86 + 0.08),
                (0.42, f.lip_bottom + 0.06),
                (0, f.lip_bottom + 0.05),
            ]
            inner = [*right, *[(-x, y) for x, y in reversed(right[:-1])]]
            edge = [(-0.98, 0.45), (-p.jaw, 1.1), (-p.chin_width, f.chin - 0.03), (0, f.chin + 0.04)]
            outer = edge + [(-x, y) for x, y in reversed(edge[:-1])]
            canvas.fill(np.concatenate([curve(inner, 3), curve(outer, 4)]), tone, p.beard, 0.04)
        if p.moustache:
            y = f.nose_base + 0.09
            (lx, ly), (rx, ry) = f.corner[LEFT], f.corner[RIGHT]
            top = np.array(f.upper_lip)[1:-1]
            hair = [(lx * 1.05, ly + 0.03), (lx * 0.6, y + 0.05), (0, y), (rx * 0.6, y + 0.05), (rx * 1.05, ry + 0.03)]
            canvas.fill(np.concatenate([curve(hair, 4), (top - (0, 0.01))[::-1]]), tone, p.moustache, 0.02)

    # In front of the face

    def hair(self):
        p, canvas = self.person, self.canvas
        tone = np.array(p.hair_colour)
        if p.style == "bald":
            fringe = [[(s * 1.0, -0.1), (s * 1.02, -0.5), (s * 0.93, -0.75), (s * 0.9, -0.4)] for s in (LEFT, RIGHT)]
            for outline in fringe:
                canvas.fill(loop(outline), tone, 0.6, 0.03)
            return
        if p.style == "hat":
            hat = np.array(p.cloth) * 0.8 + 20
            crown = [(-1.08, -0.7), (-1.05, -1.3), (-0.6, -1.78), (0, -1.86), (0.6, -1.78), (1.05, -1.3), (1.08, -0.7)]
            canvas.fill(np.concatenate([curve(crown), curve([(1.08, -0.7), (0, -0.84), (-1.08, -0.7)])]), hat)
            band = np.concatenate(
                [curve([(-1.1, -0.62), (0, -0.8), (1.1, -0.62)]), curve([(1.1, -0.82), (0, -1.0), (-1.1, -0.82)])]
            )
            canvas.fill(band, hat * 0.7)
            canvas.fill(loop([(-0.9, -0.6), (0, -0.78), (0.9, -0.6), (0, -0.66)]), self.dark, 0.6, 0.04)
            return
        high = p.forehead
        hairline = {
            "short": [(0.97, -0.1), (0.88, -0.5), (0.72, high + 0.12), (0.35, high), (0, high + 0.02), (-0.35, high),
                      (-0.72, high + 0.12), (-0.88, -0.5), (-0.97, -0.1)],
            "side": [(0.97, -0.05), (0.88, -0.5), (0.7, high + 0.2 - 0.25 * p.part), (p.part + 0.2, high + 0.06),
                     (p.part, high - 0.22),
                     (p.part - 0.25, high + 0.04), (-0.7, high + 0.2 + 0.25 * p.part), (-0.88, -0.5), (-0.97, -0.05)],
            "bangs": [(1.0, 0.5), (0.93, -0.1), (0.84, -0.46), (0.4, -0.5), (0.0, -0.53), (-0.4, -0.5), (-0.84, -0.46),
                      (-0.93, -0.1), (-1.0, 0.5)],
            "long": [(1.0, 1.1), (0.93, 0.3), (0.86, -0.4), (0.45, high + 0.08), (p.part, high - 0.2),
                     (-0.45, high + 0.08), (-0.86, -0.4), (-0.93, 0.3), (-1.0, 1.1)],
        }.get(p.style, [(0.98, -0.2), (0.88, -0.55), (0.6, high - 0.02), (0.2, high - 0.08), (-0.2, high - 0.08),
                        (-0.6, high - 0.02), (-0.88, -0.55), (-0.98, -0.2)])  # fmt: skip
        rise = {"short": 1.62, "side": 1.68, "bun": 1.6}.get(p.style, 1.7)
        low = {"short": 0.0, "side": 0.05, "bangs": 1.5, "long": 1.7}.get(p.style, -0.1)
        wide = 1.17 if low > 1 else 1.06
        over = [(-wide, low), (-wide, -0.4), (-0.98, -1.05), (-0.6, -rise + 0.14), (0, -rise), (0.6, -rise + 0.14),
                (0.98, -1.05), (wide, -0.4), (wide, low)]  # fmt: skip
        edge = curve(hairline)
        canvas.stroke(shift(edge, 0, 0.03), self.dark, 0.07, 0.5, 0.035)
        canvas.fill(np.concatenate([curve(over), edge]), tone)
        if p.style == "curly":
            for angle in np.linspace(0.25, np.pi - 0.25, 9):
                x, y = 0.86 * np.cos(angle), -0.5 - 0.62 * np.sin(angle)
                canvas.fill(ellipse(x, y, 0.2, 0.18), tone * self.rng.uniform(0.75, 1.2), 0.9, 0.02)
        root = np.array([p.part if p.style in ("side", "long") else 0.0, -rise + 0.1])
        steps = np.linspace(0.06, 0.94, 12) + self.rng.uniform(-0.03, 0.03, 12)
        for shade, chosen in ((0.72, steps[::2]), (1.3, steps[1::2])):
            strands = []
            for step in chosen:
                end = edge[int(step * (len(edge) - 1))] * (1.02, 1.0) + (0, -0.02)
                middle = 0.5 * (root + end) + (np.sign(end[0]) * 0.2, -0.12)
                strands.append(curve([root, middle, end], 5))
            canvas.stroke(strands, tone * shade + (4 if shade > 1 else 0), 0.018, 0.35)

    def glasses(self):
        p, canvas = self.person, self.canvas
        if not p.glasses:
            return
        frame = np.array(p.cloth) * 0.3
        rims = [np.concatenate([r, r[:1]]) for r in (ellipse(s * p.eye_gap, 0.03, 0.32, 0.25) for s in (LEFT, RIGHT))]
        arms = [np.array([(s * (p.eye_gap + 0.32), -0.02), (s * 1.0, -0.08)]) for s in (LEFT, RIGHT)]
        arms.append(np.array([(-0.12, -0.02), (0.12, -0.02)]))
        canvas.stroke(rims, frame, 0.035, 0.95, lift=0.1)
        canvas.stroke(arms, frame, 0.035, 0.95, lift=0.1)

    def _dapple(self, shape: tuple[int, int]) -> np.ndarray:
        """Soft shadows and bright spots, factors about 1 of this shape."""
        coarse = np.random.default_rng([self.scene.backdrop, 2]).normal(size=(4, 5))
        smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
        return np.exp(self.scene.dapple * np.clip(smooth, -1.5, 0.8))

    def lit(self) -> np.ndarray:
        """The finished picture, uint8: directed light on an egg-shaped head, exposure and contrast."""
        scene, canvas = self.scene, self.canvas
        height, width = canvas.pixels.shape[1:]
        step = max(4, width // 48)
        rows, columns = np.mgrid[step / 2 : height : step, step / 2 : width : step]
        points = canvas.view.unproject(np.stack([columns, rows], -1))
        nx, ny = points[..., 0] / 1.15, (points[..., 1] - 0.05) / 1.75
        r2 = nx * nx + ny * ny
        nz = np.sqrt(np.maximum(0.0, 1 - r2))
        across, up = np.deg2rad([scene.light_from, scene.light_height])
        lx, ly, lz = np.sin(across) * np.cos(up), -np.sin(up), np.cos(across) * np.cos(up)
        edge = np.minimum(1.0, 1.0 / np.sqrt(np.maximum(r2, 1e-6)))
        lambert = np.maximum(0.0, nx * edge * lx + ny * edge * ly + nz * lz)
        field = (1 - scene.light) + scene.light * 1.35 * lambert
        far = np.clip(r2 - 1.0, 0, 1)  # the backdrop is lit evenly
        exposure = scene.exposure * (165 / (self.skin @ (0.3, 0.59, 0.11))) ** 0.7  # set for the face, as cameras do
        field = exposure * (field * (1 - far) + far * 0.9) * self._dapple(field.shape)
        return canvas.finish(field.astype(np.float32), scene.contrast)
