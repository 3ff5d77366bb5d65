"""What the diagrams are drawn with: a canvas in inches, boxes, arrows, text, and the colours and their meaning.

The same colour stands for the same thing in every diagram. Frozen layers are hatched too.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import FancyArrowPatch, Patch, Polygon, Rectangle

INPUT = "#dcdcdc"
GIVEN = "#a9c6e3"
FROZEN = "#5b8fc7"
TRAINED = "#f4a95c"
POOLING = "#98cfa9"
HEAD = "#c7a6dd"
PLAIN = "#ffffff"
SWITCHES = "#b8352c"  # where each pooling window's maximum was
INK = "#333333"
GREY = "#999999"

MEANING = {
    INPUT: "input",
    GIVEN: "convolution, as in BVLC's model",
    FROZEN: "convolution, transferred and frozen",
    TRAINED: "convolution, transferred and trained further",
    POOLING: "max pooling",
    HEAD: "fully connected, new and trained",
    PLAIN: "no weights",
}
DEPTH = 0.0175  # inches of a block's depth per square root of its number of maps


def canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Make an empty page, in inches, with a title."""
    # Not layout="none": after a save with a tight box, matplotlib takes that for the default, which may be another.
    fig = plt.figure(figsize=(width, height), layout=PlaceHolderLayoutEngine(True, True))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    ax.text(0.15, height - 0.12, title, va="top", size=10, weight="bold", color=INK)
    return fig, ax


def meanings(fig: Figure) -> dict[str, str]:
    """The meaning of each named shape of a diagram: {"conv1": "convolution, transferred and frozen", …}."""
    shapes = [patch for patch in fig.axes[0].patches if patch.get_gid()]
    return {str(patch.get_gid()): MEANING[to_hex(patch.get_facecolor())] for patch in shapes}


def write(ax: Axes, x: float, y: float, text: str, **look) -> None:
    """Write text around (x, y)."""
    usual = {"ha": "center", "va": "center_baseline", "size": 8, "color": INK, "linespacing": 1.15}
    ax.text(x, y, text, **usual | look)


def _paint(fill: str) -> dict:
    """The look of a shape of this colour."""
    hatched = {"hatch": "////", "hatchcolor": "#dfe9f4"} if fill == FROZEN else {}
    return {"facecolor": fill, "edgecolor": INK, "lw": 0.7} | hatched


def box(ax: Axes, x: float, y: float, w: float, h: float, fill: str, text: str = "", gid: str = "", **look) -> None:
    """Draw a rectangle with its lower left corner at (x, y), and text in its middle, readable on a hatch."""
    ax.add_patch(Rectangle((x, y), w, h, gid=gid, **_paint(fill)))
    plate = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5}} if fill == FROZEN else {}
    if text:
        write(ax, x + w / 2, y + h / 2, text, **plate | look)


def arrow(ax: Axes, start: tuple, end: tuple, **look) -> None:
    """Draw an arrow between two points."""
    usual = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 0.9, "color": INK, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, **usual | look))


def legend(ax: Axes, fills: Iterable[str], y: float, extra: Sequence = (), columns: int | None = None) -> None:
    """Explain the colours that were used, in MEANING's order, and then the `extra` handles."""
    handles = [Patch(label=MEANING[fill], **_paint(fill)) for fill in MEANING if fill in fills] + list(extra)
    look = {"frameon": False, "fontsize": 8, "handlelength": 1.6, "handleheight": 1.0, "columnspacing": 1.2}
    place = {"loc": "center left", "bbox_to_anchor": (0.1 / ax.get_xlim()[1], y / ax.get_ylim()[1])}
    ax.legend(handles=handles, ncols=columns or len(handles), **place, **look)


class Block(NamedTuple):
    """The place of a block of feature maps: the lower left corner of its front, its side and depth."""

    x: float
    y: float
    side: float
    depth: float


def block(ax: Axes, middle: tuple[float, float], maps: int, side: float, fill: str, gid: str) -> Block:
    """Draw feature maps in perspective: the square in front is one map, the depth stands for their number."""
    depth = DEPTH * maps**0.5
    x, y = middle[0] - (side + depth) / 2, middle[1] - (side + depth) / 2
    back = x + side + depth, y + side + depth
    top = [(x, y + side), (x + depth, back[1]), back, (x + side, y + side)]
    right = [(x + side, y), (back[0], y + depth), back, (x + side, y + side)]
    for face, shade in ((top, _mix(fill, "white", 0.35)), (right, _mix(fill, "black", 0.18))):
        ax.add_patch(Polygon(face, facecolor=shade, edgecolor=INK, lw=0.7))
    ax.add_patch(Rectangle((x, y), side, side, gid=gid, **_paint(fill)))
    return Block(x, y, side, depth)


def window(ax: Axes, before: Block, after: Block, share: float) -> None:
    """Draw a kernel's window on a block, as a share of its side, and lines to the neuron in the block after it."""
    side = before.side * share
    x, y = before.x + before.side - 1.3 * side, before.y + 0.62 * before.side - side / 2
    to = (after.x + 0.28 * after.side, after.y + 0.5 * after.side)
    ax.add_patch(Rectangle((x, y), side, side, facecolor="white", edgecolor=INK, lw=0.7, alpha=0.85, zorder=3))
    for corner in ((x + side, y), (x + side, y + side)):
        ax.plot(*zip(corner, to, strict=True), color=INK, lw=0.5, zorder=3)
    ax.plot(*to, "s", ms=2.2, color=INK, zorder=3)


def _mix(fill: str, other: str, share: float) -> tuple[float, ...]:
    return tuple((1 - share) * a + share * b for a, b in zip(to_rgb(fill), to_rgb(other), strict=True))
