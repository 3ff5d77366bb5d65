"""Who a synthetic person is: proportions, colours, hair, and the attributes of Table 2."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dualtl_lib import paper

LEFT, RIGHT = -1, 1  # sides as the viewer sees them

SKIN = np.array(
    [[250, 222, 202], [240, 203, 176], [224, 180, 148], [198, 148, 114], [160, 112, 82], [116, 78, 58]], np.float32
)
HAIR = {
    "black": (34, 29, 30),
    "brown": (92, 62, 42),
    "blond": (212, 176, 112),
    "gray": (168, 166, 164),
    "red": (146, 74, 40),
}
STYLES = ("short", "side", "bangs", "long", "curly", "bun", "bald", "hat")
IRIS = ((92, 62, 40), (60, 42, 30), (84, 120, 150), (92, 118, 80), (120, 130, 136))

# Attributes that belong to a person; the others change from picture to picture.
LASTING = ("Big_Lips", "Big_Nose", "Oval_Face", "High_Cheekbones", "Pointy_Nose", "Bushy_Eyebrows")
RATES = dict(
    zip(paper.ATTRIBUTES, (0.35, 0.25, 0.35, 0.3, 0.4, 0.45, 0.5, 0.2, 0.3, 0.2, 0.5, 0.25), strict=True)
)  # how often each holds


@dataclass(frozen=True)
class Identity:
    """What does not change about a person. Lengths are in face units, or factors about 1."""

    male: bool
    age: float  # 0 young to 1 old: folds and lines
    skin: tuple
    hair: str
    style: str
    hair_colour: tuple
    iris: tuple
    cheek_width: float
    jaw: float  # width of the jaw
    chin_width: float
    length: float  # of the lower face
    temple: float
    forehead: float  # height of the hairline
    eye_gap: float  # from the middle to an eye's middle
    eye_width: float
    eye_open: float
    eye_slant: float
    brow_height: float
    brow_tilt: float
    brow_thick: float
    brow_dark: float
    brow_length: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    mouth_curve: float  # resting lip corners, up is positive
    lips: float
    lip_red: float
    ears: float
    part: float  # where the hair parts
    makeup: float
    glasses: bool
    beard: float
    moustache: float
    freckles: float
    cloth: tuple
    neckline: float
    traits: dict  # attribute -> strength 0..1, for those in LASTING and as a habit for the others

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Identity":
        """A person at random."""

        def about(mean, spread):
            return mean + spread * min(max(rng.normal(), -2.0), 2.0)

        male = bool(rng.random() < 0.5)
        age = float(rng.beta(1.3, 2.2))
        tone = rng.uniform(0, len(SKIN) - 1.01)
        low = int(tone)
        skin = SKIN[low] + (tone - low) * (SKIN[low + 1] - SKIN[low]) + rng.normal(0, 5, 3)
        hair = str(rng.choice(list(HAIR), p=(0.34, 0.3, 0.18, 0.1, 0.08)))
        chances = (0.4, 0.25, 0.04, 0.04, 0.1, 0.0, 0.11, 0.06) if male else (0.1, 0.12, 0.2, 0.3, 0.12, 0.1, 0.0, 0.06)
        bearded = male and rng.random() < 0.22
        return cls(
            male=male,
            age=age,
            skin=tuple(map(float, skin)),
            hair=hair,
            style=str(rng.choice(STYLES, p=chances)),
            hair_colour=tuple(float(c) for c in np.array(HAIR[hair]) * rng.uniform(0.8, 1.2) + rng.normal(0, 4, 3)),
            iris=tuple(float(c) for c in np.array(IRIS[rng.integers(len(IRIS))]) * rng.uniform(0.8, 1.15)),
            cheek_width=about(0.99, 0.03),
            jaw=about(0.80 if male else 0.76, 0.03),
            chin_width=about(0.40 if male else 0.33, 0.05),
            length=about(1.0, 0.05),
            temple=about(0.93, 0.03),
            forehead=about(-0.98, 0.07),
            eye_gap=about(0.435, 0.02),
            eye_width=about(0.215, 0.015),
            eye_open=about(1.0, 0.06),
            eye_slant=about(0.02, 0.012),
            brow_height=about(0.0, 0.03),
            brow_tilt=about(0.0, 0.01),
            brow_thick=about(1.0 if male else 0.8, 0.1),
            brow_dark=about(0.75, 0.12),
            brow_length=about(1.0, 0.07),
            nose_width=about(1.0, 0.05),
            nose_length=about(0.97, 0.04),
            mouth_width=about(1.0, 0.09),
            mouth_height=about(0.0, 0.04),
            mouth_curve=about(0.0, 0.006),
            lips=about(0.85 if male else 0.95, 0.07),
            lip_red=about(0.35 if male else 0.55, 0.15),
            ears=about(1.0, 0.12),
            part=float(rng.choice((LEFT, RIGHT)) * rng.uniform(0.2, 0.5)),
            makeup=0.0 if male else float(rng.uniform(0, 1) * (rng.random() < 0.6)),
            glasses=bool(rng.random() < 0.1),
            beard=float(rng.uniform(0.35, 0.9)) if bearded else 0.0,
            moustache=float(rng.uniform(0.4, 0.9)) if bearded or (male and rng.random() < 0.08) else 0.0,
            freckles=float(rng.random() < 0.12),
            cloth=tuple(map(float, rng.uniform(20, 235, 3))),
            neckline=float(rng.uniform(0, 1)),
            traits=draw_attributes(rng),
        )


def draw_attributes(rng: np.random.Generator) -> dict[str, float]:
    """Strengths of the 12 attributes of Table 2: 0.65 to 1 where one holds, 0 to 0.25 where it does not."""
    return {
        name: float(rng.uniform(0.65, 1.0) if rng.random() < rate else rng.uniform(0.0, 0.25))
        for name, rate in RATES.items()
    }


@lru_cache(maxsize=4096)  # a person has several pictures, and drawing one takes a twentieth of a picture's time
def person(seed: int, layout: int, who: int) -> Identity:
    """Person number `who` of a data set."""
    return Identity.draw(np.random.default_rng([seed, layout, who]))
