"""Painting the skin of a face: head, cheeks, forehead, nose and folds.

Each function paints one thing; `portrait.paint` calls them from far to near.
"""

import numpy as np

from dualtl_lib.synthetic.anatomy import LEFT, RIGHT
from dualtl_lib.synthetic.drawing import Canvas, curve, ellipse, loop, shift
from dualtl_lib.synthetic.geometry import Features


class Sitter:
    """The face being painted: its features, its colours and the canvas.

    Args:
        features: Where everything is.
        canvas: What is painted on.
        seed: Of what is drawn at random, such as the lie of the hair.
        lit_from_left: Whether the light comes from the viewer's left.
        light: Strength of the directed light, 0 to 1.
    """

    def __init__(self, features: Features, canvas: Canvas, *, seed: int, lit_from_left: bool, light: float):
        self.f, self.canvas, self.light = features, canvas, light
        self.person = features.person
        self.skin = np.array(self.person.skin)
        self.dark = self.skin * (0.62, 0.52, 0.47)  # skin in shadow is redder
        self.line = self.skin * (0.38, 0.29, 0.25)
        self.bright = self.skin + (255 - self.skin) * 0.45
        self.rng = np.random.default_rng([seed, 1])
        self.side_of_shadow = 1 if lit_from_left else -1


def body(sitter: Sitter):
    """Neck, shoulders and clothes."""
    p, canvas = sitter.person, sitter.canvas
    wide = 0.56 if p.male else 0.46
    cloth = np.array(p.cloth)
    canvas.fill(np.array([(-wide, 0.9), (wide, 0.9), (wide * 1.1, 2.3), (-wide * 1.1, 2.3)]), sitter.skin * 0.86)
    shoulders = [(0.5, 1.95), (1.3, 2.15), (2.1, 2.6), (2.3, 4.5)]
    outline = loop([(-x, y) for x, y in reversed(shoulders)] + [(0, 2.1 + 0.4 * p.neckline)] + shoulders)
    canvas.fill(outline, cloth)
    for side in canvas.mirrored(LEFT, RIGHT):
        collar = np.array([(side * 0.55, 1.85), (side * 0.1, 2.3 + 0.4 * p.neckline), (side * 0.75, 2.35)])
        canvas.fill(collar, cloth * 0.75 + 40, 0.9, 0.01)
    neck = [(-0.62, 1.0), (0.62, 1.0), (0.5, 1.5), (0, sitter.f.chin + 0.22), (-0.5, 1.5)]
    canvas.fill(loop(neck), sitter.dark * 0.8, 0.7, 0.08)


def head(sitter: Sitter):
    """Ears and the skin of the face, its edge in soft shadow."""
    p, canvas = sitter.person, sitter.canvas
    for side in canvas.mirrored(LEFT, RIGHT):
        if p.style not in ("long", "bangs"):
            x = side * p.cheek_width
            canvas.fill(ellipse(x, 0.12, 0.15 * p.ears, 0.3 * p.ears), sitter.skin * 0.92)
            canvas.fill(ellipse(x + side * 0.03, 0.12, 0.07 * p.ears, 0.18 * p.ears), sitter.dark, 0.6, 0.03)
    contour = loop(sitter.f.contour)
    canvas.fill(contour, sitter.skin)
    canvas.stroke(np.concatenate([contour, contour[:1]]), sitter.dark, 0.14, 0.55, 0.09)
    if p.freckles:
        spots = np.random.default_rng(int(1e6 * p.temple)).uniform((-0.7, 0.2), (0.7, 0.6), (26, 2))
        canvas.stroke([np.array([s, s + 0.012]) for s in spots], sitter.dark, 0.022, 0.6)


def cheeks(sitter: Sitter):
    """Cheeks, cheekbones and the chin."""
    f, canvas = sitter.f, sitter.canvas
    bones, rosy = f.has("High_Cheekbones"), f.has("Rosy_Cheeks")
    for side in canvas.mirrored(LEFT, RIGHT):
        raised = max(f.unit(6, side), 0.55 * f.smile(side))
        y = 0.46 - 0.07 * raised
        canvas.fill(ellipse(side * 0.58, y, 0.25, 0.19), sitter.bright, 0.2 + 0.35 * raised, 0.1)
        if rosy > 0.02:
            canvas.fill(ellipse(side * 0.6, y + 0.03, 0.24, 0.2), sitter.skin * (1.03, 0.52, 0.55), 0.85 * rosy, 0.1)
        if bones > 0.02:  # a lit ridge and a hollow below it
            ridge = curve([(side * 0.36, 0.40), (side * 0.66, 0.30), (side * 0.92, 0.10)], 4)
            canvas.stroke(ridge, sitter.bright, 0.11, 0.75 * bones, 0.05)
            hollow = curve([(side * 0.50, 0.92), (side * 0.70, 0.70), (side * 0.93, 0.42)], 4)
            canvas.stroke(hollow, sitter.dark * 0.85, 0.17, 0.75 * bones, 0.07)
        if raised > 0.1:  # the cheek's lower edge
            apple = curve([(side * 0.36, y + 0.14), (side * 0.56, y + 0.22), (side * 0.78, y + 0.1)], 4)
            canvas.stroke(apple, sitter.dark, 0.06, 0.5 * raised, 0.035)
    tight = f.unit(17)
    if tight > 0.05:  # the raised chin's dimples, and the hollow above it
        canvas.fill(ellipse(0, f.chin - 0.24, 0.2, 0.1), sitter.dark, 0.45 * tight, 0.06)
        spots = [(-0.12, -0.22), (0.1, -0.26), (-0.02, -0.17), (0.05, -0.14), (-0.07, -0.29), (0.15, -0.2)]
        spots = shift(spots, 0, f.chin)
        canvas.stroke([np.array([s, shift(s, 0.02, 0.015)]) for s in spots], sitter.line, 0.03, 0.5 * tight, 0.012)
    canvas.fill(ellipse(0, f.chin - 0.2, 0.17, 0.1), sitter.bright, 0.3, 0.06)
    under = curve([(-0.16, f.lip_bottom + 0.09), (0, f.lip_bottom + 0.065), (0.16, f.lip_bottom + 0.09)], 4)
    canvas.stroke(under, sitter.dark, 0.07, 0.55, 0.035)


def forehead(sitter: Sitter):
    """Shine, and the lines that raised or drawn brows make."""
    f, canvas, age = sitter.f, sitter.canvas, sitter.person.age
    canvas.fill(ellipse(0, -0.68, 0.42, 0.17), sitter.bright, 0.3, 0.12)
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
        canvas.stroke(lines, sitter.line, 0.024, 0.55 * across, 0.012)
    frown = max(lower, 0.3 * f.unit(9))
    if frown > 0.08:
        top = -0.56 + 0.06 * lower
        lines = [curve([(s * 0.1, top), (s * 0.065, -0.34), (s * 0.085, -0.18)], 3) for s in (LEFT, RIGHT)]
        canvas.stroke(lines, sitter.line, 0.032, 0.75 * frown, 0.014)
        canvas.fill(ellipse(0, -0.28, 0.16, 0.15), sitter.dark, 0.45 * frown, 0.07)


def nose(sitter: Sitter):
    """The nose, and its wrinkles."""
    f, canvas = sitter.f, sitter.canvas
    w, base, tip = f.nose_wing, f.nose_base, f.nose_tip
    big, pointy = f.has("Big_Nose"), f.has("Pointy_Nose")
    s = sitter.side_of_shadow
    bridge = 0.09 + 0.03 * big
    flank = curve(
        [(s * 0.16, -0.2), (s * bridge, 0.05), (s * (bridge + 0.02), base - 0.26), (s * w * 0.75, base - 0.12)], 4
    )
    canvas.stroke(flank, sitter.dark, 0.075, 0.4 + 0.25 * sitter.light, 0.035, lift=0.12)
    canvas.stroke(flank * (-1, 1), sitter.dark, 0.05, 0.22, 0.03, lift=0.12)
    ridge = curve([(0, -0.1), (-s * 0.015, base - 0.3), (-s * 0.02, tip - 0.08)], 4)
    canvas.stroke(ridge, sitter.bright, 0.07 - 0.025 * pointy, 0.5, 0.025, lift=0.2)
    ball = 0.115 * (1 + 0.8 * big) * (1 - 0.4 * pointy)
    canvas.fill(ellipse(0, tip - 0.05, ball, 0.085), sitter.bright, 0.5 + 0.3 * pointy, 0.035, lift=0.25)
    below = ellipse(s * 0.05, base + 0.05, w * 0.9, 0.06)
    canvas.fill(below, sitter.dark, 0.5, 0.035, lift=0.1)
    if pointy > 0.02:  # the tip hangs over its base like a wedge
        wedge = np.array([(-0.1, tip - 0.16), (0.1, tip - 0.16), (0.0, tip + 0.045)])
        canvas.fill(wedge, sitter.skin * 1.02, 0.8 * pointy, 0.012, lift=0.28)
        under = curve([(-0.11, tip - 0.13), (0.0, tip + 0.05), (0.11, tip - 0.13)], 4)
        canvas.stroke(under, sitter.line, 0.034, 0.9 * pointy, 0.008, lift=0.28)
    for side in canvas.mirrored(LEFT, RIGHT):
        wing = curve([(side * w * 0.72, base - 0.22), (side * w * 1.04, base - 0.11), (side * w * 0.96, base),
                      (side * w * 0.66, base + 0.005)], 4)  # fmt: skip
        canvas.stroke(wing, sitter.line, 0.026, 0.5 + 0.3 * f.wrinkle, 0.012, lift=0.12)
        hole = ellipse(side * w * 0.46, base - 0.01, w * 0.25 * (1 - 0.2 * pointy), 0.03 + 0.015 * f.wrinkle)
        canvas.fill(hole, sitter.line * 0.6, 0.85, 0.012, lift=0.12)
    if f.unit(9) > 0.05:
        lines = []
        for y, reach in ((-0.14, 0.1), (-0.06, 0.14), (0.02, 0.15)):
            lines.append(curve([(-reach, y - 0.045), (0, y + 0.01), (reach, y - 0.045)], 4))
        for side in (LEFT, RIGHT):
            for k in (0.0, 0.07):
                lines.append(
                    curve([(side * (0.12 + k), k), (side * (0.16 + k), 0.08 + k), (side * (0.2 + k), 0.16 + k)], 4)
                )
        canvas.stroke(lines, sitter.line, 0.026, 0.8 * f.unit(9), 0.01, lift=0.12)


def folds(sitter: Sitter):
    """Nasolabial folds, dimples, and the lines beside a lowered mouth."""
    f, canvas, age = sitter.f, sitter.canvas, sitter.person.age
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
        canvas.stroke(fold, sitter.dark, 0.08, 0.6 * depth, 0.035)
        canvas.stroke(fold, sitter.line, 0.022, 0.75 * depth * depth, 0.01)
        dent = max(f.unit(14, side), 0.35 * f.smile(side))
        if dent > 0.1:
            mark = curve([(x + side * 0.05, y - 0.12), (x + side * 0.1, y - 0.01), (x + side * 0.05, y + 0.1)], 4)
            canvas.stroke(mark, sitter.line, 0.035, 0.8 * dent, 0.014)
            canvas.fill(ellipse(x + side * 0.03, y, 0.06, 0.07), sitter.dark, 0.6 * dent, 0.03)
        low = f.unit(15, side)
        if low > 0.1:
            mark = curve([(x + side * 0.03, y - 0.01), (x + side * 0.06, y + 0.1), (x + side * 0.04, y + 0.22)], 4)
            canvas.stroke(mark, sitter.line, 0.032, 0.65 * low, 0.014)
        stretch = f.unit(20, side)
        if stretch > 0.1:
            mark = curve([(x, y - 0.1), (x + side * 0.04, y + 0.02), (x, y + 0.16)], 3)
            marks = [shift(mark, side * d, 0) for d in (0.09, 0.17)]
            canvas.stroke(marks, sitter.line, 0.024, 0.5 * stretch, 0.012)
