"""Regions of a face that Table 6 covers (section 4.4).

Regions are rectangles (left, top, right, bottom) in fractions of the face's box, the square that OpenCV's
frontal-face detector puts around it. A layout says where that box lies in the network's square. Left and right are
the viewer's.
"""

import torch
from torch import Tensor

Box = tuple[float, float, float, float]

_MOUTH = (0.25, 0.65, 0.75, 0.95)
_EYES = (0.10, 0.20, 0.90, 0.48)
_FOREHEAD = (0.10, 0.00, 0.90, 0.16)
_LEFT_CHEEK, _RIGHT_CHEEK = (0.05, 0.50, 0.25, 0.88), (0.75, 0.50, 0.95, 0.88)

# By the names of Table 6. "Half" of the mouth: what lies left of, or below, the middle of its rectangle.
REGIONS: dict[str, tuple[Box, ...]] = {
    "cheeks and forehead": (_FOREHEAD, _LEFT_CHEEK, _RIGHT_CHEEK),
    "eyes": (_EYES,),
    "left half mouth": ((_MOUTH[0], _MOUTH[1], (_MOUTH[0] + _MOUTH[2]) / 2, _MOUTH[3]),),
    "bottom half mouth": ((_MOUTH[0], (_MOUTH[1] + _MOUTH[3]) / 2, _MOUTH[2], _MOUTH[3]),),
    "mouth": (_MOUTH,),
    "mouth and eyes": (_MOUTH, _EYES),
}

# The face's box in the square (left, top, side). "detected": the crop is that box, as CKPlus cuts it; the pictures
# of "CK+48" are, too (detected again, their boxes' median is 0.01, 0.01, 0.98). "celeba": the centre square of an
# aligned picture (the median of 271 detections in 300 pictures).
LAYOUTS = {"detected": (0.0, 0.0, 1.0), "celeba": (0.19, 0.28, 0.62)}


def region_boxes(region: str, layout: str | tuple[float, float, float] = "detected") -> tuple[Box, ...]:
    """A region's rectangles (left, top, right, bottom) in fractions of the network's square.

    layout: a key of LAYOUTS, such as a data set's `layout`, or the face's box (left, top, side) in such fractions.
    Raises ValueError for an unknown region or layout.
    """
    if region not in REGIONS:
        raise ValueError(f"region is one of {', '.join(REGIONS)}, not {region!r}")
    if isinstance(layout, str) and layout not in LAYOUTS:
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}, or a box (left, top, side), not {layout!r}")
    x, y, side = LAYOUTS[layout] if isinstance(layout, str) else layout
    if not side > 0:
        raise ValueError(f"the face's box has a side above 0, not {side}")
    return tuple((x + side * l, y + side * t, x + side * r, y + side * b) for l, t, r, b in REGIONS[region])


def region_mask(region: str, size: int = 227, layout: str | tuple[float, float, float] = "detected") -> Tensor:
    """Where a region lies: bool [size, size]."""
    inside = torch.zeros(size, size, dtype=torch.bool)
    for box in region_boxes(region, layout):
        left, top, right, bottom = (min(max(round(v * size), 0), size) for v in box)
        inside[top:bottom, left:right] = True
    return inside
