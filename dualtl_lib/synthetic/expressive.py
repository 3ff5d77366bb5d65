"""Painting what expressions move most: eyes, brows and the mouth."""

import numpy as np

from dualtl_lib.synthetic.anatomy import LEFT, RIGHT
from dualtl_lib.synthetic.drawing import curve, ellipse, loop, shift
from dualtl_lib.synthetic.skin import Sitter


def eye(sitter: Sitter, side: int):
    """One eye with its socket, lids and lashes."""
    f, p, canvas = sitter.f, sitter.person, sitter.canvas
    eye = f.eyes[side]
    x, y = eye["centre"]
    canvas.fill(ellipse(x, -0.06, 0.3, 0.19), sitter.dark, 0.3, 0.06)  # the socket
    if p.makeup > 0.05:
        canvas.fill(ellipse(x, -0.11, 0.24, 0.09), np.array(p.cloth) * 0.4 + 30, 0.55 * p.makeup, 0.035)
    _around_eye(sitter, side)

    def ball():
        canvas.fill(ellipse(x, 0, 0.3, 0.25), (236, 232, 228))
        canvas.fill(ellipse(x, y, 0.094, 0.094), np.array(p.iris) * 0.55)
        canvas.fill(ellipse(x, y, 0.08, 0.08), p.iris)
        canvas.fill(ellipse(x, y, 0.04, 0.04), (12, 10, 12))
        canvas.stroke(eye["upper"] + (0, 0.02), (60, 50, 52), 0.07, 0.5, 0.02)  # the lid's shadow
        canvas.fill(ellipse(x - 0.03, y - 0.03, 0.02, 0.02), (255, 255, 255))

    canvas.clip(eye["outline"], ball)
    canvas.stroke(eye["lower"], sitter.line, 0.022, 0.65)
    lash = sitter.line * 0.35
    canvas.stroke(eye["upper"], lash, 0.036 + 0.03 * p.makeup + (0.0 if p.male else 0.012), 0.95)
    if not p.male:
        tip = eye["upper"][-1]
        canvas.stroke(np.array([tip - (side * 0.03, 0.01), shift(tip, side * 0.06, -0.05)]), lash, 0.025, 0.8)
    crease = eye["upper"] * (1, 1.0) + (0, -0.05 + 0.018 * f.unit(5, side))
    canvas.stroke(crease[2:-1], sitter.line, 0.02, 0.55 * (1 - 0.4 * f.has("Narrow_Eyes")), 0.008)


def _around_eye(sitter: Sitter, side: int):
    """Bags, crow's feet and the lines of tightened lids."""
    f, canvas = sitter.f, sitter.canvas
    eye, x = f.eyes[side], f.eyes[side]["centre"][0]
    bags = f.has("Bags_Under_Eyes")
    cheek = max(f.unit(6, side), 0.4 * f.smile(side))
    if bags > 0.02:
        low = eye["bottom"] + 0.09
        pouch = curve([(x - 0.2, low - 0.03), (x - 0.08, low + 0.06), (x + 0.08, low + 0.06), (x + 0.2, low - 0.03)], 4)
        canvas.stroke(pouch, sitter.dark * (0.72, 0.66, 0.86), 0.1, 0.9 * bags, 0.028)
        canvas.stroke(shift(pouch, 0, 0.035), sitter.line, 0.026, 0.75 * bags, 0.01)
    if cheek > 0.08:
        low = eye["bottom"] + 0.07
        pouch = curve([(x - 0.19, low - 0.01), (x, low + 0.035), (x + 0.2, low - 0.02)], 4)
        canvas.stroke(pouch, sitter.line, 0.026, 0.6 * cheek, 0.012)
        out = x + side * 0.27
        feet = [np.array([(out, 0.0 + k), (out + side * 0.13, -0.05 + 2.2 * k)]) for k in (-0.02, 0.015, 0.05)]
        canvas.stroke(feet, sitter.line, 0.022, 0.65 * max(cheek * f.unit(6, side), 0.3 * sitter.person.age), 0.01)
    tight = f.unit(7, side)
    if tight > 0.1:
        canvas.stroke(eye["lower"] * (1, 1) + (0, 0.04), sitter.line, 0.024, 0.6 * tight, 0.012)


def brow(sitter: Sitter, side: int):
    """One brow and its hairs."""
    f, p, canvas = sitter.f, sitter.person, sitter.canvas
    brow = f.brows[side]
    tone = np.array(p.hair_colour) * 0.7 if p.hair != "gray" else np.array((110, 106, 104))
    tone = tone * 0.75 + sitter.line * 0.25
    bushy = f.has("Bushy_Eyebrows")
    canvas.fill(brow["outline"], tone, min(1.0, p.brow_dark + 0.2 * bushy) * 0.96, 0.012)
    n = len(brow["outline"]) // 2
    lower, upper = brow["outline"][: n - 1 : -1], brow["outline"][:n]
    ends = upper[3:]
    hairs = [np.array([a, b - (0, 0.01 + 0.015 * bushy)]) for a, b in zip(lower[:-3], ends, strict=True)]
    canvas.stroke(hairs, tone * 0.6, 0.016 + 0.01 * bushy, 0.45 + 0.4 * bushy)


def mouth(sitter: Sitter):
    """Lips, and what an open mouth shows."""
    f, p, canvas = sitter.f, sitter.person, sitter.canvas
    upper, lower = curve(f.upper_lip), curve(f.lower_lip)
    top, low = curve(f.inner_top), curve(f.inner_low)
    red = min(0.95, p.lip_red + 0.3 * p.makeup + 0.15 * f.has("Big_Lips"))
    lip = sitter.skin * (1 - red) + (sitter.skin * (0.86, 0.42, 0.42) + (10, 0, 4)) * red
    whole = np.concatenate([upper, lower[::-1]])
    canvas.fill(whole * 1.0 + (0, 0.03), sitter.dark, 0.35, 0.03)
    canvas.fill(np.concatenate([low, lower[::-1]]), lip, 0.97, 0.008)
    canvas.fill(np.concatenate([upper, top[::-1]]), lip * 0.82, 0.97, 0.008)
    gloss = ellipse(0, 0.5 * (f.lip_bottom + low[:, 1].max()), 0.13, 0.022)
    canvas.fill(gloss, sitter.bright, 0.35, 0.02)
    if f.opening > 0.012:
        canvas.clip(np.concatenate([top, low[::-1]]), lambda: _inside_mouth(sitter))
        canvas.stroke(top, sitter.line * 0.5, 0.022, 0.8)
        canvas.stroke(low, sitter.line * 0.7, 0.018, 0.5)
    else:
        canvas.stroke(0.5 * (top + low), sitter.line * 0.45, 0.034, 0.95, 0.006)
    if f.unit(19) > 0.1:
        _tongue(sitter, top[:, 1].min())
    for side in canvas.mirrored(LEFT, RIGHT):
        x, y = f.corner[side]
        canvas.fill(ellipse(x, y, 0.03, 0.024), sitter.line * 0.6, 0.7, 0.012)


def _inside_mouth(sitter: Sitter):
    """Dark, with the upper teeth where the lip is drawn up, and the tongue where the jaw is low."""
    f, canvas = sitter.f, sitter.canvas
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


def _tongue(sitter: Sitter, top: float):
    """A tongue that hangs from below the upper lip, at the height `top`, over the lower lip."""
    f, canvas, shown = sitter.f, sitter.canvas, sitter.f.unit(19)
    tip, wide = f.lip_bottom + 0.06, 0.46 * abs(f.corner[LEFT][0])
    right = [(wide, top + 0.05), (0.9 * wide, tip - 0.08)]
    outline = loop([*right, (0, tip), *[(-x, y) for x, y in reversed(right)]])
    canvas.fill(shift(outline, 0, 0.025), sitter.dark * 0.6, 0.6 * shown, 0.015)
    canvas.fill(outline, (205, 112, 112), min(1.0, 1.5 * shown), 0.008)
    canvas.stroke(np.array([(0, tip - 0.14), (0, tip - 0.04)]), (140, 60, 64), 0.025, 0.7, 0.01)
