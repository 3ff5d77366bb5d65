"""Painting hair, beards, hats and glasses."""

import numpy as np

from dualtl_lib.synthetic.anatomy import LEFT, RIGHT
from dualtl_lib.synthetic.drawing import curve, ellipse, loop, shift
from dualtl_lib.synthetic.skin import Sitter


def hair_behind(sitter: Sitter):
    """Hair that falls or stands behind the head."""
    p = sitter.person
    tone = np.array(p.hair_colour) * 0.72
    if p.style in ("long", "bangs"):
        sitter.canvas.fill(loop([(0, -1.68), (0.8, -1.45), (1.14, -0.7), (1.2, 0.3), (1.22, 1.4), (0.95, 2.1),
                               (-0.95, 2.1), (-1.22, 1.4), (-1.2, 0.3), (-1.14, -0.7), (-0.8, -1.45)]),
                         tone)  # fmt: skip
    elif p.style == "bun":
        sitter.canvas.fill(ellipse(0, -1.72, 0.36, 0.33), tone)
    elif p.style == "curly":
        for angle in np.linspace(-0.35, np.pi + 0.35, 13):
            x, y = 1.05 * np.cos(angle), -0.45 - 1.1 * np.sin(angle)
            sitter.canvas.fill(ellipse(x, y, 0.3, 0.3), tone * sitter.rng.uniform(0.85, 1.15))


def beard(sitter: Sitter):
    """Beard and moustache."""
    f, p, canvas = sitter.f, sitter.person, sitter.canvas
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


def hair(sitter: Sitter):
    """Hair in front of the head, or the hat."""
    p = sitter.person
    if p.style == "bald":
        _fringe(sitter)
    elif p.style == "hat":
        _hat(sitter)
    else:
        _full_hair(sitter)


def _fringe(sitter: Sitter):
    """What is left on a bald head."""
    p, canvas = sitter.person, sitter.canvas
    tone = np.array(p.hair_colour)
    fringe = [[(s * 1.0, -0.1), (s * 1.02, -0.5), (s * 0.93, -0.75), (s * 0.9, -0.4)] for s in (LEFT, RIGHT)]
    for outline in fringe:
        canvas.fill(loop(outline), tone, 0.6, 0.03)


def _hat(sitter: Sitter):
    p, canvas = sitter.person, sitter.canvas
    hat = np.array(p.cloth) * 0.8 + 20
    crown = [(-1.08, -0.7), (-1.05, -1.3), (-0.6, -1.78), (0, -1.86), (0.6, -1.78), (1.05, -1.3), (1.08, -0.7)]
    canvas.fill(np.concatenate([curve(crown), curve([(1.08, -0.7), (0, -0.84), (-1.08, -0.7)])]), hat)
    band = np.concatenate(
        [curve([(-1.1, -0.62), (0, -0.8), (1.1, -0.62)]), curve([(1.1, -0.82), (0, -1.0), (-1.1, -0.82)])]
    )
    canvas.fill(band, hat * 0.7)
    canvas.fill(loop([(-0.9, -0.6), (0, -0.78), (0.9, -0.6), (0, -0.66)]), sitter.dark, 0.6, 0.04)


def _full_hair(sitter: Sitter):
    p, canvas, tone = sitter.person, sitter.canvas, np.array(sitter.person.hair_colour)
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
    canvas.stroke(shift(edge, 0, 0.03), sitter.dark, 0.07, 0.5, 0.035)
    canvas.fill(np.concatenate([curve(over), edge]), tone)
    if p.style == "curly":
        for angle in np.linspace(0.25, np.pi - 0.25, 9):
            x, y = 0.86 * np.cos(angle), -0.5 - 0.62 * np.sin(angle)
            canvas.fill(ellipse(x, y, 0.2, 0.18), tone * sitter.rng.uniform(0.75, 1.2), 0.9, 0.02)
    _strands(sitter, edge, rise)


def _strands(sitter: Sitter, edge: np.ndarray, rise: float):
    """Lighter and darker hairs from the parting to the hairline `edge`, shape (K, 2)."""
    p, canvas, tone = sitter.person, sitter.canvas, np.array(sitter.person.hair_colour)
    root = np.array([p.part if p.style in ("side", "long") else 0.0, -rise + 0.1])
    steps = np.linspace(0.06, 0.94, 12) + sitter.rng.uniform(-0.03, 0.03, 12)
    for shade, chosen in ((0.72, steps[::2]), (1.3, steps[1::2])):
        strands = []
        for step in chosen:
            end = edge[int(step * (len(edge) - 1))] * (1.02, 1.0) + (0, -0.02)
            middle = 0.5 * (root + end) + (np.sign(end[0]) * 0.2, -0.12)
            strands.append(curve([root, middle, end], 5))
        canvas.stroke(strands, tone * shade + (4 if shade > 1 else 0), 0.018, 0.35)


def glasses(sitter: Sitter):
    """Glasses, where the person wears them."""
    p, canvas = sitter.person, sitter.canvas
    if not p.glasses:
        return
    frame = np.array(p.cloth) * 0.3
    rims = [np.concatenate([r, r[:1]]) for r in (ellipse(s * p.eye_gap, 0.03, 0.32, 0.25) for s in (LEFT, RIGHT))]
    arms = [np.array([(s * (p.eye_gap + 0.32), -0.02), (s * 1.0, -0.08)]) for s in (LEFT, RIGHT)]
    arms.append(np.array([(-0.12, -0.02), (0.12, -0.02)]))
    canvas.stroke(rims, frame, 0.026, 0.95, lift=0.1)
    canvas.stroke(arms, frame, 0.026, 0.95, lift=0.1)
