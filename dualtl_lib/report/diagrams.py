"""The paper's drawings (Figs. 1, 2, 3, 9, 14 and 18) and its Table 1, made from the networks themselves.

Every number in a drawing is read from the network that it shows: shapes from running an image, kernels from the
convolutions, what trains from the parameters. Lengths are in inches. The same colour stands for the same thing
everywhere.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Polygon, Rectangle
from torch import nn

from dualtl_lib import paper
from dualtl_lib.models.caffenet import SIZE, AttributeNet, ExpressionNet, Trunk

INPUT = "#dcdcdc"  # the image
GIVEN = "#a9c6e3"  # a convolutional layer of BVLC's model, as it comes
FROZEN = "#5b8fc7"  # a transferred layer that keeps its values; hatched too
TRAINED = "#f4a95c"  # a layer that trains
POOLING = "#98cfa9"
HEAD = "#c7a6dd"  # fully connected layers; they are new and train
PLAIN = "#ffffff"  # what has no weights and keeps the size: ReLU, normalization
SWITCHES = "#b8352c"  # where each pooling window's maximum was
INK = "#333333"

MEANING = {
    INPUT: "input",
    GIVEN: "convolution, as in BVLC's model",
    FROZEN: "convolution, transferred and frozen",
    TRAINED: "convolution, transferred and trained further",
    POOLING: "max pooling",
    HEAD: "fully connected, new and trained",
    PLAIN: "no weights",
}
Model = Trunk | AttributeNet | ExpressionNet


class Step(NamedTuple):
    """One thing that a trunk does to an image, and the (C, H, W) that comes out."""

    name: str  # "conv1", "relu1", "pool1", "norm1", …; "input" for the image
    kind: str  # the same without the number
    shape: tuple[int, int, int]
    module: nn.Module | None


@torch.no_grad()
def steps(trunk: Trunk) -> list[Step]:
    """What the trunk does, in the order in which it does it, found by running an image of zeros."""
    found = [Step("input", "input", (3, SIZE, SIZE), None)]

    def note(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        kind = "conv" if isinstance(module, nn.Conv2d) else kinds[module]
        number = sum(step.kind == "conv" for step in found) + (kind == "conv")
        found.append(Step(f"{kind}{number}", kind, tuple(output.shape[1:]), module))

    kinds = {trunk.relu: "relu", trunk.pool: "pool", trunk.norm: "norm"}
    hooks = [module.register_forward_hook(note) for module in trunk.children()]
    try:
        trunk(trunk.conv1.weight.new_zeros(1, 3, SIZE, SIZE))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def colour(model: Model, step: Step) -> str:
    """The colour of a step of a network: for a convolution, whether it trains."""
    if step.kind == "conv":
        if isinstance(model, Trunk):
            return GIVEN
        return TRAINED if any(p.requires_grad for p in step.module.parameters()) else FROZEN
    return {"input": INPUT, "pool": POOLING}.get(step.kind, PLAIN)


# --- Table 1


def table1(trunk: Trunk) -> pd.DataFrame:
    """Table 1 from the network: shapes by running it, kernels from its modules, the paper's values beside them.

    Kernels are written as in the table, rows*columns*depth*maps; a pooling has no depth. The column `difference`
    says where the printed value is another or leaves something out.
    """
    shown = [step for step in steps(trunk) if step.kind in ("input", "conv", "pool")]
    rows = []
    for step, printed in zip(shown, paper.TABLE1, strict=True):
        c, h, w = step.shape
        row = {"layer": step.name, "output": f"{h}*{w}*{c}", "kernel": f"{h}*{w}*{c}", "parameters": 0}
        if step.kind == "conv":
            conv = step.module
            row["kernel"] = "*".join(map(str, (*conv.kernel_size, conv.weight.shape[1], c)))
            row |= {"stride": conv.stride[0], "pad": conv.padding[0], "groups": conv.groups}
            row["parameters"] = sum(p.numel() for p in conv.parameters())
        elif step.kind == "pool":
            row["kernel"] = f"{step.module.kernel_size}*{step.module.kernel_size}*{c}"
            row |= {"stride": step.module.stride, "pad": step.module.padding}
        row |= {f"paper's {key}": getattr(printed, key) for key in ("kernel", "stride", "pad")}
        row["difference"] = "; ".join(_differences(row, step))
        rows.append(row)
    columns = ["layer", "output", "kernel", "stride", "pad", "groups", "parameters"]
    columns += ["paper's kernel", "paper's stride", "paper's pad", "difference"]
    frame = pd.DataFrame(rows, dtype=object)[columns]
    return frame.where(frame.notna(), "")  # an input has no stride, a pooling no groups


def _differences(row: dict, step: Step) -> list[str]:
    """Where a row of Table 1 says something else than the network."""
    found = []
    ours, printed = row["kernel"].split("*"), row["paper's kernel"].split("*")
    if step.kind == "conv" and len(printed) == 3:  # the table leaves the depth out
        depth = ours.pop(2)
        whole = int(depth) * row["groups"]
        grouped = f" ({whole} in {row['groups']} groups)" if int(depth) < whole else ""
        found.append(f"depth {depth} left out{grouped}")
    if ours != printed:
        found.append(f"kernel printed {'*'.join(printed)}")
    for key in ("stride", "pad"):
        value = row[f"paper's {key}"]
        if row.get(key) != value:
            found.append(f"{key} printed {value}")
    return found


def sizes(models: Mapping[str, AttributeNet | ExpressionNet]) -> pd.DataFrame:
    """What each model keeps and trains: its frozen layers, heads, and numbers of parameters."""
    rows = []
    for name, model in models.items():
        counts = {True: 0, False: 0}
        for p in model.parameters():
            counts[p.requires_grad] += p.numel()
        rows.append(
            {
                "model": name,
                "frozen": ", ".join(model.frozen()),
                "features": model.features,
                "heads": _heads(model),
                "parameters trained": counts[True],
                "parameters frozen": counts[False],
            }
        )
    return pd.DataFrame(rows)


def drawn(fig: plt.Figure) -> dict[str, str]:
    """What a drawing shows, in words and read from its shapes: {"conv1": "convolution, transferred and frozen", …}."""
    shapes = [patch for patch in fig.axes[0].patches if patch.get_gid()]
    return {patch.get_gid(): MEANING[to_hex(patch.get_facecolor())] for patch in shapes}


# --- Drawing: a canvas in inches, boxes, arrows, labels


def _canvas(width: float, height: float, title: str) -> tuple[plt.Figure, Axes]:
    # Not layout="none": after a save with a tight box, matplotlib takes that for the default, which may be another.
    fig = plt.figure(figsize=(width, height), layout=PlaceHolderLayoutEngine(True, True))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    ax.text(0.15, height - 0.12, title, va="top", size=10, weight="bold", color=INK)
    return fig, ax


def _widen(fig: plt.Figure, ax: Axes, width: float) -> None:
    fig.set_size_inches(width, fig.get_figheight())
    ax.set_xlim(0, width)


def _text(ax: Axes, x: float, y: float, text: str, **style) -> None:
    ax.text(
        x, y, text, **{"ha": "center", "va": "center_baseline", "size": 8, "color": INK, "linespacing": 1.15} | style
    )


def _paint(fill: str) -> dict:
    """How a thing of this colour is filled; what is frozen can be told without colours too."""
    hatched = {"hatch": "////", "hatchcolor": "#dfe9f4"} if fill == FROZEN else {}
    return {"facecolor": fill, "edgecolor": INK, "lw": 0.7} | hatched


def _box(ax: Axes, x: float, y: float, w: float, h: float, fill: str, text: str = "", gid: str = "", **style) -> None:
    """A rectangle with its lower left corner at (x, y) and text in its middle, readable on a hatch."""
    ax.add_patch(Rectangle((x, y), w, h, gid=gid, **_paint(fill)))
    plate = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5}} if fill == FROZEN else {}
    if text:
        _text(ax, x + w / 2, y + h / 2, text, **plate | style)


def _arrow(ax: Axes, start: tuple, end: tuple, **style) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 0.9, "color": INK, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, **look | style))


def _legend(ax: Axes, fills: Sequence[str], y: float, extra: Sequence = (), columns: int | None = None) -> None:
    """What the colours mean, in MEANING's order, only those that were used."""
    handles = [Patch(label=MEANING[f], **_paint(f)) for f in MEANING if f in fills] + list(extra)
    width, height = ax.get_xlim()[1], ax.get_ylim()[1]
    ax.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.1 / width, y / height),
        ncols=columns or len(handles),
        frameon=False,
        fontsize=8,
        handlelength=1.6,
        handleheight=1.0,
        columnspacing=1.2,
    )


def _mix(fill: str, other: str, share: float) -> tuple[float, ...]:
    return tuple((1 - share) * a + share * b for a, b in zip(to_rgb(fill), to_rgb(other), strict=True))


# --- Boxes in perspective (Figs. 3, 9, 14, 18)

DEPTH = 0.0175  # inches of depth per square root of a map; the side goes with the square root of its rows too


class Block(NamedTuple):
    """Where a block of feature maps was drawn: the lower left corner of its front, its side and depth."""

    x: float
    y: float
    side: float
    depth: float


def _block(ax: Axes, middle: tuple[float, float], shape: tuple, side: float, fill: str, gid: str) -> Block:
    """Feature maps as a box: the square in front is one map, the depth stands for their number."""
    depth = DEPTH * shape[0] ** 0.5
    x, y = middle[0] - (side + depth) / 2, middle[1] - (side + depth) / 2
    top = [(x, y + side), (x + depth, y + side + depth), (x + side + depth, y + side + depth), (x + side, y + side)]
    right = [(x + side, y), (x + side + depth, y + depth), (x + side + depth, y + side + depth), (x + side, y + side)]
    for face, shade in ((top, _mix(fill, "white", 0.35)), (right, _mix(fill, "black", 0.18))):
        ax.add_patch(Polygon(face, facecolor=shade, edgecolor=INK, lw=0.7))
    ax.add_patch(Rectangle((x, y), side, side, gid=gid, **_paint(fill)))
    return Block(x, y, side, depth)


def _window(ax: Axes, before: Block, after: Block, kernel: int, rows: int) -> None:
    """A kernel's window on the maps before, and lines from it to the neuron after."""
    side = before.side * kernel / rows
    x, y = before.x + before.side - 1.3 * side, before.y + 0.62 * before.side - side / 2
    to = (after.x + 0.28 * after.side, after.y + 0.5 * after.side)
    ax.add_patch(Rectangle((x, y), side, side, facecolor="white", edgecolor=INK, lw=0.7, alpha=0.85, zorder=3))
    for corner in ((x + side, y), (x + side, y + side)):
        ax.plot(*zip(corner, to, strict=True), color=INK, lw=0.5, zorder=3)
    ax.plot(*to, "s", ms=2.2, color=INK, zorder=3)


def _columns(trunk: Trunk) -> list[tuple[Step, str]]:
    """The steps that are drawn as boxes (image, convolutions, poolings), each with what follows it in words."""
    shown: list[tuple[Step, list[str]]] = []
    for step in steps(trunk):
        if step.kind in ("relu", "norm"):
            shown[-1][1].append({"relu": "ReLU", "norm": "LRN"}[step.kind])
        else:
            shown.append((step, []))
    return [(step, ", ".join(then)) for step, then in shown]


def _facts(model: Model, step: Step, then: str) -> dict[str, str]:
    """What is written under a box."""
    c, h, w = step.shape
    facts = {"maps": f"{c}", "size": f"{h}×{w}", "then": then}
    if step.kind == "conv":
        conv = step.module
        facts["kernel"] = f"{conv.kernel_size[0]}×{conv.kernel_size[1]}×{conv.weight.shape[1]}"
        facts |= {"stride": f"{conv.stride[0]}", "padding": f"{conv.padding[0]}", "groups": f"{conv.groups}"}
        facts["weights"] = {FROZEN: "frozen", TRAINED: "trained"}.get(colour(model, step), "")
        facts["parameters"] = f"{sum(p.numel() for p in conv.parameters()):,}"
    elif step.kind == "pool":
        facts["kernel"] = f"{step.module.kernel_size}×{step.module.kernel_size}"
        facts |= {"stride": f"{step.module.stride}", "padding": f"{step.module.padding}"}
    return facts


def _trunk(ax: Axes, model: Model, middle: float, largest: float, pitch: float, rows: Sequence[str]) -> list[Block]:
    """The trunk of a network as a row of boxes, and under each what `rows` names. Returns the boxes.

    middle: the height of the boxes' middle; largest: the image's side; pitch: the least width of a column.
    """
    trunk = model if isinstance(model, Trunk) else model.trunk
    x, foot, blocks, before = 0.85, middle - largest / 2 - 0.12, [], None
    for k, row in enumerate(("", *rows)):
        _text(ax, 0.15, foot - 0.17 * (k + 0.5), row, ha="left", style="italic")
    for step, then in _columns(trunk):
        c, h, _ = step.shape
        side = largest * (h / SIZE) ** 0.5
        width = max(pitch, side + DEPTH * c**0.5 + 0.16)
        block = _block(ax, (x + width / 2, middle), step.shape, side, colour(model, step), step.name)
        if before:
            kernel = step.module.kernel_size
            _window(ax, blocks[-1], block, kernel if isinstance(kernel, int) else kernel[0], before.shape[1])
        facts = {"": step.name} | _facts(model, step, then)
        for k, row in enumerate(("", *rows)):
            _text(ax, x + width / 2, foot - 0.17 * (k + 0.5), facts.get(row, ""), weight="normal" if row else "bold")
        blocks.append(block)
        before, x = step, x + width
    return blocks


def structure(trunk: Trunk) -> plt.Figure:
    """Fig. 3: the convolutional layers, sizes and kernels read from the network."""
    fig, ax = _canvas(9.8, 4.0, "Fig. 3   Structure of the convolutional layers")
    rows = ("maps", "size", "kernel", "stride", "padding", "groups", "then", "parameters")
    _trunk(ax, trunk, 2.75, 1.5, 0.86, rows)
    _legend(ax, (INPUT, GIVEN, POOLING), 0.22)
    note = "A box's side and depth grow with the square roots of its maps' size and number."
    _text(ax, 9.65, 0.22, note, ha="right", style="italic")
    return fig


def attribute_model(model: AttributeNet) -> plt.Figure:
    """Fig. 9: one trunk and a pair of fully connected layers for each attribute."""
    heads, outputs, hidden = model.fc2_weight.shape
    height = 0.235 * heads + 0.75
    fig, ax = _canvas(10, height + 0.35, f"Fig. 9   One trunk and {heads} heads for {heads} attributes of a face")
    blocks = _trunk(ax, model, height / 2 + 0.75, 0.8, 0.66, ("maps", "size", "kernel", "weights"))
    last = blocks[-1]
    start, left = (last.x + last.side + last.depth, last.y + (last.side + last.depth) / 2), 7.55
    pitch = (height - 0.7) / heads
    _text(ax, left + 0.25, height, "fc1", weight="bold")
    _text(ax, left + 0.68 + 0.065 * outputs, height, "fc2", weight="bold")
    for k, name in enumerate(model.classes):
        y = height - 0.12 - (k + 0.5) * pitch
        ax.plot((start[0], left), (start[1], y), color=INK, lw=0.5)
        _box(ax, left, y - 0.08, 0.5, 0.16, HEAD, f"{hidden}", gid=f"fc1:{name}")
        _arrow(ax, (left + 0.5, y), (left + 0.68, y), mutation_scale=6)
        for j in range(outputs):
            _box(ax, left + 0.68 + 0.13 * j, y - 0.065, 0.13, 0.13, HEAD, gid=f"fc2:{name}:{j}")
        _text(ax, left + 0.76 + 0.13 * outputs, y, name, ha="left")
    _legend(ax, _fills(model), 0.2)
    return fig


def expression_model(model: ExpressionNet) -> plt.Figure:
    """Fig. 14, or Fig. 18 for a model without conv5: the trunk and two fully connected layers."""
    title = "Fig. 14   The model for expressions" if model.conv5 else "Fig. 18   The model without conv5"
    fig, ax = _canvas(10, 3.3, title)
    middle = 1.95
    blocks = _trunk(ax, model, middle, 0.9, 0.72, ("maps", "size", "kernel", "weights"))
    last = blocks[-1]
    hidden, classes, pitch = model.fc1.out_features, model.fc2.out_features, 0.2
    start = (last.x + last.side + last.depth, middle)
    left = start[0] + 0.36
    _widen(fig, ax, left + 1.75)
    for end in (-0.8, 0.8):
        ax.plot((start[0], left), (start[1], middle + end), color=INK, lw=0.5)
        ax.plot((left + 0.16, left + 0.62), (middle + end, middle + end), color=INK, lw=0.5)
    _box(ax, left, middle - 0.8, 0.16, 1.6, HEAD, gid="fc1")
    for k, name in enumerate(model.classes):
        y = middle + pitch * (classes / 2 - k - 0.5)
        _box(ax, left + 0.62, y - pitch / 2, 0.16, pitch, HEAD, gid=f"fc2:{name}")
        _text(ax, left + 0.86, y, name, ha="left")
    _text(ax, left + 0.08, middle - 0.92, "fc1", weight="bold")
    _text(ax, left + 0.08, middle - 1.09, f"{hidden}")
    _text(ax, left + 0.7, middle - 0.92, "fc2", weight="bold")
    _text(ax, left + 0.7, middle - 1.09, f"{classes}")
    _legend(ax, _fills(model), 0.2)
    return fig


def _fills(model: AttributeNet | ExpressionNet) -> set[str]:
    """The colours that a drawing of this model uses."""
    return {HEAD} | {colour(model, step) for step, _ in _columns(model.trunk)}


# --- Fig. 1


def pipeline(trunk: Trunk, first: AttributeNet, second: ExpressionNet, trimmed: ExpressionNet) -> plt.Figure:
    """Fig. 1: from BVLC's model to the classifier of expressions, what each step keeps read from the models."""
    fig, ax = _canvas(10, 5.3, "Fig. 1   Dual transfer learning, chosen by feature visualization")
    columns = (
        (trunk, "BVLC's model", "trained on ImageNet"),
        (first, "First transfer model", f"trained on CelebA, {len(first.classes)} attributes"),
        (second, "Second transfer model", f"trained on CK+, {len(second.classes)} expressions"),
        (trimmed, "The same, trimmed", f"trained on CK+, {len(trimmed.classes)} expressions"),
    )
    verdicts = [*(_verdict(a[0], b[0]) for a, b in pairwise(columns)), "Table 5"]
    verdicts[2] += "\nTables 5 and 6"
    names = [layer.name for layer in trunk.layers]
    heights = {part: 4.1 - 0.42 * i for i, part in enumerate(("image", *names, "heads"))}
    size = wide, row = 1.62, 0.34
    gap, used = 1.04, {INPUT, GIVEN, HEAD}
    for k, column in enumerate(columns):
        x, y = 0.2 + k * (wide + gap), heights["heads"]
        fills = _column(ax, x, size, heights, *column)
        used |= set(fills.values())
        for name in fills if k else ():
            _transfer(ax, x - gap, x, heights[name] + row / 2, kept=fills[name] == FROZEN)
        _box(ax, x, 0.72, wide, 0.5, PLAIN, verdicts[k])
        _arrow(ax, (x + wide / 2, y - 0.2), (x + wide / 2, 1.22))
        if k + 1 < len(columns):
            bend = "angle,angleA=0,angleB=90,rad=0"
            _arrow(ax, (x + wide, 0.97), (x + wide + gap / 2, y + 0.42), connectionstyle=bend)
    lines = [
        Line2D([], [], color=FROZEN, lw=2.4, label="weights transferred and kept"),
        Line2D([], [], color="#999999", lw=0.9, label="weights transferred as a start"),
    ]
    _legend(ax, used, 0.3, lines, columns=3)
    return fig


def _column(ax: Axes, x: float, size: tuple, heights: dict, model: Model, title: str, data: str) -> dict[str, str]:
    """One model of Fig. 1, in boxes of this size at the heights of its parts; the colours of the layers it has."""
    (wide, row), top, bottom = size, heights["image"], heights["heads"]
    frame = Rectangle((x - 0.1, bottom - 0.2), wide + 0.2, top - bottom + 0.62)
    frame.set(facecolor="#f7f7f7", edgecolor="#bbbbbb", lw=0.7, zorder=0)
    ax.add_patch(frame)
    _text(ax, x + wide / 2, top + 0.7, title, weight="bold", size=9)
    _text(ax, x + wide / 2, top + 0.52, data)
    _box(ax, x, top, wide, row, INPUT, f"{SIZE}×{SIZE} image")
    new = not isinstance(model, Trunk)
    fills = {s.name: colour(model, s) for s in steps(model.trunk if new else model) if s.kind == "conv"}
    for name in list(heights)[1:-1]:
        y = heights[name]
        if name in fills:
            _box(ax, x, y, wide, row, fills[name], name, gid=f"{title}: {name}")
        else:
            ax.add_patch(Rectangle((x, y), wide, row, facecolor="none", edgecolor="#999999", ls="--", lw=0.7))
            _text(ax, x + wide / 2, y + row / 2, f"{name} left out", color="#777777")
    _box(ax, x, bottom, wide, row, HEAD if new else PLAIN, _heads(model), gid=f"{title}: heads" if new else "")
    return fills


def _transfer(ax: Axes, left: float, right: float, y: float, kept: bool) -> None:
    """An arrow from a layer to the same layer of the next model."""
    style = {"color": FROZEN, "lw": 2.4, "mutation_scale": 12} if kept else {"color": "#999999"}
    _arrow(ax, (left + 0.03, y), (right - 0.02, y), **style)


def _heads(model: Model) -> str:
    """A model's fully connected layers in words."""
    if isinstance(model, Trunk):
        return "classes of ImageNet"
    if isinstance(model, AttributeNet):
        heads, outputs, hidden = model.fc2_weight.shape
        return f"{heads} × ({hidden} → {outputs})"
    return f"{model.fc1.out_features} → {model.fc2.out_features}"


def _verdict(model: Model, following: AttributeNet | ExpressionNet) -> str:
    """What the visualization of one model decides about the next, read from both."""
    trunk = model if isinstance(model, Trunk) else model.trunk
    kept = {layer.name for layer in following.trunk.layers}
    gone = [layer.name for layer in trunk.layers if layer.name not in kept]
    decision = f"leave {', '.join(gone)} out" if gone else f"keep {', '.join(following.frozen())}"
    return f"Feature visualization:\n{decision}"


# --- Fig. 2


def visualization(trunk: Trunk, layer: str = "conv2") -> plt.Figure:
    """Fig. 2: forward to a layer with the switches recorded, and back to the pixels (equations 4-13)."""
    path = _path(trunk, layer)
    wide, gap, high, up, down = 0.84, 0.2, 0.62, 2.4, 0.85
    fig, ax = _canvas(len(path) * (wide + gap) + 1.6, 3.6, f"Fig. 2   Feature visualization, here of {layer}")
    _text(ax, 0.15, up + high + 0.2, "forward (section 3.2.1)", ha="left", style="italic")
    _text(ax, 0.15, down - 0.2, "backward (section 3.2.2)", ha="left", style="italic")
    for k, step in enumerate(path):
        x = 0.15 + k * (wide + gap)
        c, h, w = step.shape
        fill = colour(trunk, step)
        _box(ax, x, up, wide, high, fill, f"{_FORWARD[step.kind].format(step.name)}\n{c}×{h}×{w}", gid=step.name)
        _box(ax, x, down, wide, high, fill, _BACKWARD[step.kind].format(step.name), gid=f"back:{step.name}")
        _arrow(ax, (x + wide, up + high / 2), (x + wide + gap, up + high / 2))
        _arrow(ax, (x + wide + gap, down + high / 2), (x + wide, down + high / 2))
        if step.kind == "pool":
            _arrow(ax, (x + wide / 2, up), (x + wide / 2, down + high), color=SWITCHES, ls="--", lw=1.2)
            _text(ax, x + wide / 2 + 0.06, (up + down + high) / 2, "switches\n(7)", ha="left", color=SWITCHES)
    x = 0.15 + len(path) * (wide + gap)
    c, h, w = path[-1].shape
    _box(ax, x, up, 1.3, high, PLAIN, f"feature maps of\n{layer}: {c}×{h}×{w}")
    _box(ax, x, down, 1.3, high, PLAIN, "top n neurons\nof each map,\nall others 0")
    _arrow(ax, (x + 0.65, up), (x + 0.65, down + high))
    _text(ax, x + 0.72, (up + down + high) / 2, "choose", ha="left")
    line = Line2D([], [], color=SWITCHES, ls="--", lw=1.2, label="where each window's maximum was")
    _legend(ax, {colour(trunk, step) for step in path}, 0.28, [line])
    return fig


_FORWARD = {
    "input": "image",
    "conv": "{}\n(4)",
    "relu": "ReLU\nf in (4)",
    "pool": "{}\n(6)",
    "norm": "{}\n(LRN)",
}
_BACKWARD = {
    "input": "projection\nin pixels",
    "conv": "transposed\n{}\n(10)–(13)",
    "relu": "rectify,\nminus bias\n(9)",
    "pool": "unpool\n(8)",
    "norm": "passed\nthrough",
}


def _path(trunk: Trunk, layer: str) -> list[Step]:
    """The steps from the image to where a neuron of the layer lives: after its pooling, or its ReLU if it has none."""
    number = [l.name for l in trunk.layers].index(trunk.layer(layer).name) + 1
    path, convolutions = [], 0
    for step in steps(trunk):
        convolutions += step.kind == "conv"
        if convolutions <= number:
            path.append(step)
    return path[:-1] if path[-1].kind == "norm" else path
