"""Where everything is on one face that shows one movement: outlines in face units."""

from collections.abc import Sequence

import numpy as np

from dualtl_lib import paper
from dualtl_lib.synthetic.anatomy import LEFT, RIGHT, Identity
from dualtl_lib.synthetic.drawing import curve
from dualtl_lib.synthetic.expressions import ACTION_UNITS


class Features:
    """Where everything is on one face that shows one movement: outlines in face units.

    Args:
        person: Who it is.
        units: {action unit: intensity 0 to 1, or (left, right)}.
        attributes: {name of Table 2: strength 0 to 1, or bool}.

    Raises:
        ValueError: If an action unit or an attribute is not known.
    """

    def __init__(self, person: Identity, units: dict, attributes: dict):
        self.person = person
        self._units = {u: tuple(v) if isinstance(v, Sequence) else (v, v) for u, v in units.items()}
        unknown = (set(self._units) - set(ACTION_UNITS)) | (set(attributes) - set(paper.ATTRIBUTES))
        if unknown:
            raise ValueError(f"no such action unit or attribute: {', '.join(sorted(map(str, unknown)))}")
        self._attributes = {k: float(v) for k, v in attributes.items()}
        self._mouth()
        self._nose()
        self.brows = {side: self._brow(side) for side in (LEFT, RIGHT)}
        self.eyes = {side: self._eye(side) for side in (LEFT, RIGHT)}
        self.contour = self._contour()

    def unit(self, number: int, side: int = 0) -> float:
        """Intensity of an action unit on a side, or the mean of both."""
        left, right = self._units.get(number, (0.0, 0.0))
        return (left + right) / 2 if not side else left if side == LEFT else right

    def has(self, attribute: str) -> float:
        """Strength of an attribute, 0 to 1."""
        return self._attributes.get(attribute, 0.0)

    def smile(self, side: int = 0) -> float:
        """How far the lip corners are pulled up: AU12, or the attribute."""
        return max(self.unit(12, side), 0.9 * self.has("Smiling"))

    def _contour(self) -> np.ndarray:
        """The face's edge from ear to ear below, and over the skull: [K, 2] before smoothing."""
        p, oval = self.person, self.has("Oval_Face")
        bone = 0.045 * self.has("High_Cheekbones") + 0.02 * self.unit(6)
        jaw = p.jaw * (1.09 - 0.19 * oval)
        corner = 1.06 - 0.10 * oval  # where the jaw turns: lower on a square face
        chin = p.chin_width * (1.25 - 0.4 * oval)
        end = self.chin
        right = [
            (p.temple * 0.62, -1.38),
            (p.temple * 0.9, -1.0),
            (p.temple, -0.55),
            (p.cheek_width, -0.1),
            (p.cheek_width + bone, 0.28),
            (0.5 * (p.cheek_width + jaw) + 0.06 - 0.05 * bone, 0.7),
            (jaw, corner * (1 + 0.25 * (end - 1.5))),
            (0.5 * (jaw + chin) + 0.02 - 0.03 * oval, end - 0.2),
            (chin * 0.8, end - 0.035),
        ]
        left = [(-x, y) for x, y in reversed(right)]
        return np.array([(0.0, -1.5), *right, (0.0, end), *left])

    def _eye(self, side: int) -> dict:
        """Almond, iris and lid lines of one eye."""
        p, narrow = self.person, self.has("Narrow_Eyes")
        au5, au7, au6 = (self.unit(n, side) for n in (5, 7, 6))
        squint = max(0.8 * au7, self.unit(9, side))
        cheek = max(au6, 0.35 * self.smile(side))
        top = 0.118 * p.eye_open * (1 - 0.5 * narrow) + 0.078 * au5 - 0.055 * squint * (1 - 0.6 * au5) - 0.03 * cheek
        bottom = 0.075 * p.eye_open * (1 - 0.45 * narrow) - 0.055 * squint - 0.05 * cheek + 0.012 * au5
        frown = self.unit(4, side) * (1 - self.unit(1, side))  # presses on the lid's inner half
        sorrow = self.unit(1, side) * (1 - self.unit(2, side)) * (1 - au5)  # lets its outer half hang
        top, bottom = max(top, 0.022), max(bottom, 0.004)
        w, x, slant = p.eye_width, p.eye_gap, p.eye_slant
        inner, outer = x - w, x + w
        lid = [(inner, 0.03), (x - 0.55 * w, -0.72 * top + 0.045 * frown - 0.02 * sorrow), (x, -top + 0.01 * sorrow),
               (x + 0.55 * w, -0.8 * top + 0.04 * sorrow), (outer, -slant + 0.03 * sorrow)]  # fmt: skip
        low = [
            (outer, -slant + 0.03 * sorrow),
            (x + 0.5 * w, 0.78 * bottom),
            (x, bottom + 0.01),
            (x - 0.5 * w, 0.8 * bottom + 0.02),
        ]
        flip = np.array([side, 1.0])
        upper, lower = curve(lid) * flip, curve([*low, (inner, 0.03)]) * flip
        return dict(
            upper=upper,
            lower=lower,
            outline=np.concatenate([upper, lower[1:-1]]),
            centre=np.array([side * x, -0.012]),
            top=top,
            bottom=bottom,
        )

    def _brow(self, side: int) -> dict:
        """Upper and lower edge of one brow, inner end first."""
        p = self.person
        au1, au2, au4, au5 = (self.unit(n, side) for n in (1, 2, 4, 5))
        nose = self.unit(9, side)
        arch = self.has("Arched_Eyebrows")
        thick = 0.07 * p.brow_thick * (1 + 1.2 * self.has("Bushy_Eyebrows"))
        base = -0.31 - p.brow_height - 0.015 * au5 - 0.02 * self.has("Bushy_Eyebrows")
        x = np.array([0.17, 0.32, 0.5, 0.66, 0.80])
        x = 0.17 + (x - 0.17) * p.brow_length
        y = base + np.array([0.02, -0.01, -0.035, -0.03, 0.02])
        y += p.brow_tilt * np.array([-1.0, -0.5, 0, 0.5, 1.0])
        y += arch * np.array([0.03, -0.035, -0.085, -0.06, 0.05])
        inner, outer = np.array([1, 0.75, 0.4, 0.12, 0.0]), np.array([0.0, 0.3, 0.75, 1, 0.85])
        y -= au1 * 0.16 * inner + au2 * (0.17 - 0.07 * au4) * outer  # drawn together, raised brows are straight
        y += 0.05 * au1 * (1 - au2) * outer
        lower = au4 * (1 - 0.9 * au1)
        y += lower * (0.15 * inner + 0.04) + nose * (0.06 + 0.015 * inner)
        x = x - 0.05 * max(au4, 0.5 * nose) * inner
        half = thick * np.array([0.42, 0.55, 0.5, 0.36, 0.06])
        flip = np.array([side, 1.0])
        upper = curve(np.stack([x, y - half], 1), 4) * flip
        under = curve(np.stack([x, y + half], 1), 4) * flip
        return dict(outline=np.concatenate([upper, under[::-1]]), line=np.stack([x * side, y], 1), thick=thick)

    def _nose(self):
        """Tip, base and half width of the nose."""
        p = self.person
        big, pointy = self.has("Big_Nose"), self.has("Pointy_Nose")
        wrinkle = max(self.unit(9), 0.25 * self.unit(10))
        self.nose_wing = (0.215 * p.nose_width) * (1 + 0.75 * big) * (1 - 0.4 * pointy)
        self.nose_wing += 0.025 * wrinkle + 0.02 * self.smile()
        self.nose_base = 0.66 * p.nose_length + 0.08 * big - 0.05 * wrinkle
        self.nose_tip = self.nose_base - 0.06 + 0.13 * pointy
        self.wrinkle = wrinkle

    def _mouth(self):
        """Lip edges, the opening, and the chin below."""
        p, u, smile = self.person, self.unit, self.smile()
        raised, round_ = max(u(10), 0.7 * u(9)), max(u(27), 0.7 * u(26) * (1 - smile) * (1 - u(20)))
        drop = 0.3 * u(26) * (1 - 0.5 * max(smile, u(20))) + 0.42 * u(27)
        part = u(25) * (0.05 + 0.1 * u(12) + 0.11 * u(20) + 0.08 * raised + 0.07 * u(19)) + 0.1 * self.has(
            "Mouth_Slightly_Open"
        )
        self.opening = opening = max(part + drop - 0.04 * u(24), 0.0)
        self.chin = 1.52 * p.length + 0.62 * drop + 0.02 * self.has("Oval_Face") - 0.03 * u(17)
        rest = 0.97 + p.mouth_height + 0.04 * (p.length - 1) - 0.03 * raised
        self.mouth_centre = rest + 0.03 * smile - 0.05 * u(17) * (1 - 0.6 * max(u(23), u(24)))
        self.corner = {}
        for side in (LEFT, RIGHT):
            pull, one = self.smile(side), u(14, side)
            out = 0.36 * p.mouth_width * (1 - 0.36 * round_ - 0.10 * u(24) - 0.06 * u(23))
            out += 0.14 * pull + 0.13 * u(20, side) + 0.09 * one - 0.02 * u(15, side)
            up = p.mouth_curve + 0.17 * pull + 0.21 * one - 0.12 * u(15, side) - 0.04 * u(20, side) - 0.035 * raised
            up -= 0.02 * max(u(23), u(24))
            self.corner[side] = np.array([side * out, rest - up + (0.38 - 0.3 * smile) * opening])
        self._lips(raised, round_)

    def _lips(self, raised: float, round_: float):
        """The lips' edges about the opening. raised: the upper lip, 0 to 1; round_: an opening like an O, 0 to 1."""
        p, u, opening, middle = self.person, self.unit, self.opening, self.mouth_centre
        smile, stretch, parted = self.smile(), u(20), min(1.0, self.opening / 0.05)
        full = p.lips * (1 + 1.25 * self.has("Big_Lips")) * (1 - 0.2 * smile) * (1 - 0.25 * u(27))
        full *= 1 - 0.55 * max(u(23), u(24), 0.6 * stretch, u(14))
        top, low = 0.085 * full * (1 - 0.25 * raised), 0.115 * full * (1 + 0.15 * u(17))
        above, below = middle - 0.12 * opening - (0.02 + 0.03 * parted) * raised, middle + 0.88 * opening
        above = min(above, below)
        square = max(raised, stretch)  # how far the middle's height reaches to the sides
        bends = {side: 0.62 + 0.26 * u(14, side) for side in (LEFT, RIGHT)}
        upper = {side: min(0.97, bend + 0.28 * square + 0.18 * round_) for side, bend in bends.items()}
        lower = {side: min(0.97, bend + 0.08 * smile + (0.3 * stretch + 0.2 * round_) * parted)
                 if parted else upper[side] for side, bend in bends.items()}  # fmt: skip

        def at(share: float, y: float, bend: dict, shift: float = 0.0) -> tuple[float, float]:
            """A point on the line from the middle at y (share 0) to a corner (-1 or 1)."""
            side = LEFT if share < 0 else RIGHT
            x, end = self.corner[side]
            return abs(share) * x, end + (y - end) * (1 - (1 - bend[side]) * (share / 0.6) ** 2) + shift

        ends = tuple(map(tuple, (self.corner[LEFT], self.corner[RIGHT])))
        self.inner_top = [ends[0], at(-0.6, above, upper), (0.0, above), at(0.6, above, upper), ends[1]]
        self.inner_low = [ends[0], at(-0.6, below, lower), (0.0, below), at(0.6, below, lower), ends[1]]
        lift = 0.5 * top + 0.03 * raised
        bow = [at(share, above, upper, -1.12 * top) for share in (-0.2, 0.2)]
        sides = [at(share, above, upper, -0.2 * top - lift) for share in (-0.55, 0.55)]
        self.upper_lip = [ends[0], sides[0], bow[0], (0.0, above - 0.88 * top), bow[1], sides[1], ends[1]]
        edges = [
            at(share, below, lower, low * (0.6 if abs(share) > 0.5 else 1.0)) for share in (-0.6, -0.25, 0.25, 0.6)
        ]
        self.lower_lip = [ends[0], *edges, ends[1]]
        self.lip_bottom = below + low
