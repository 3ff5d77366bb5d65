"""What faces do: action units of the Facial Action Coding System, and the expressions put together from them.

The units are numbered as by Ekman and Friesen (1978). Expressions follow what the CK+ database codes (Lucey et al.
2010, Table 1), in a form that a person reads easily: disgust always wrinkles the nose and often shows the tongue, and
contempt is one-sided.
"""

from dataclasses import dataclass, field

import numpy as np

ACTION_UNITS = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    14: "dimpler",
    15: "lip corner depressor",
    17: "chin raiser",
    19: "tongue show",
    20: "lip stretcher",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    27: "mouth stretch",
}


@dataclass(frozen=True)
class Expression:
    """The action units of an expression.

    Args:
        always: Units that every person moves.
        either: Groups of units, of which a person moves one.
        sometimes: Further units and the chance of each.
        one_sided: Units that move on one side only.
    """

    always: tuple[int, ...] = ()
    either: tuple[tuple[int, ...], ...] = ((),)
    sometimes: dict[int, float] = field(default_factory=dict)
    one_sided: tuple[int, ...] = ()

    def draw(self, rng: np.random.Generator, low: float = 0.6, high: float = 1.0) -> dict:
        """Draw one person's way of showing it.

        Args:
            rng: Source of the random numbers.
            low: Least intensity of the stronger side.
            high: Largest intensity.

        Returns:
            {action unit: (left, right) intensity}.
        """
        units = list(self.always) + list(self.either[rng.integers(len(self.either))])
        units += [unit for unit, chance in self.sometimes.items() if rng.random() < chance]
        side = rng.integers(2)
        drawn = {}
        for unit in units:
            strength = rng.uniform(low, high)
            weaker = 0.0 if unit in self.one_sided else strength * rng.uniform(0.9, 1.0)
            drawn[unit] = (strength, weaker) if side else (weaker, strength)
        return drawn


EXPRESSIONS = {
    "neutral": Expression(),
    "anger": Expression((4,), ((5, 23), (7, 24), (5, 7, 23), (7, 23, 24), (5, 24)), {17: 0.3}),
    "contempt": Expression((14,), ((2,), (7,), (2, 7)), one_sided=(2, 14)),
    "disgust": Expression((9,), ((10, 25), (10, 19, 25), (10, 19, 25)), {7: 0.5}),
    "fear": Expression((1, 2, 4, 5, 20), ((25,), (25, 26), (25,))),
    "happy": Expression((6, 12), ((25,), (25,), (25, 26), ())),
    "sadness": Expression((1, 4, 15), ((17,), ())),
    "surprise": Expression((1, 2, 5), ((25, 27), (25, 27), (25, 26))),
}
