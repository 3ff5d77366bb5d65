"""The paper's drawings, Figs. 1, 2, 3, 9, 14 and 18, made from the networks themselves.

Every number in a drawing is read from the network that it shows. Lengths are in inches.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dualtl_lib.models.caffenet import SIZE, AttributeNet, ExpressionNet, Trunk
from dualtl_lib.report import drawing as draw
from dualtl_lib.report.architecture import Model, Step, heads, steps, trunk_of


def colour(model: Model, step: Step) -> str:
    """The colour of a step of a network: for a convolution, whether it trains."""
    if step.kind == "conv":
        return draw.GIVEN if isinstance(model, Trunk) else draw.TRAINED if step.trained else draw.FROZEN
    return {"input": draw.INPUT, "pool": draw.POOLING}.get(step.kind, draw.PLAIN)


# --- Fig. 3, and the models of Figs. 9, 14 and 18


def structure(trunk: Trunk) -> Figure:
    """Draw Fig. 3: the convolutional layers, with the sizes and kernels of this network."""
    fig, ax = draw.canvas(9.8, 4.0, "Fig. 3   Structure of the convolutional layers")
    rows = ("maps", "size", "kernel", "stride", "padding", "groups", "then", "parameters")
    _blocks(ax, trunk, 2.75, 1.5, 0.86, rows)
    draw.legend(ax, (draw.INPUT, draw.GIVEN, draw.POOLING), 0.22)
    note = "A box's side and depth grow with the square roots of its maps' size and number."
    draw.write(ax, 9.65, 0.22, note, ha="right", style="italic")
    return fig


def attribute_model(model: AttributeNet) -> Figure:
    """Draw Fig. 9: one trunk and a pair of fully connected layers for each attribute."""
    heads, outputs, hidden = model.fc2_weight.shape
    height = 0.235 * heads + 0.75
    fig, ax = draw.canvas(10, height + 0.35, f"Fig. 9   One trunk and {heads} heads for {heads} attributes of a face")
    last = _blocks(ax, model, height / 2 + 0.75, 0.8, 0.66, ("maps", "size", "kernel", "weights"))
    start, left = (last.x + last.side + last.depth, last.y + (last.side + last.depth) / 2), 7.55
    draw.write(ax, left + 0.25, height, "fc1", weight="bold")
    draw.write(ax, left + 0.68 + 0.065 * outputs, height, "fc2", weight="bold")
    for k, name in enumerate(model.classes):
        y = height - 0.12 - (k + 0.5) * (height - 0.7) / heads
        ax.plot((start[0], left), (start[1], y), color=draw.INK, lw=0.5)
        draw.box(ax, left, y - 0.08, 0.5, 0.16, draw.HEAD, f"{hidden}", gid=f"fc1:{name}")
        draw.arrow(ax, (left + 0.5, y), (left + 0.68, y), mutation_scale=6)
        for j in range(outputs):
            draw.box(ax, left + 0.68 + 0.13 * j, y - 0.065, 0.13, 0.13, draw.HEAD, gid=f"fc2:{name}:{j}")
        draw.write(ax, left + 0.76 + 0.13 * outputs, y, name, ha="left")
    draw.legend(ax, _fills(model), 0.2)
    return fig


def expression_model(model: ExpressionNet) -> Figure:
    """Draw Fig. 14, or Fig. 18 for a model without conv5: the trunk and two fully connected layers."""
    title = "Fig. 14   The model for expressions" if model.conv5 else "Fig. 18   The model without conv5"
    fig, ax = draw.canvas(10, 3.3, title)
    middle, pitch = 1.95, 0.2
    last = _blocks(ax, model, middle, 0.9, 0.72, ("maps", "size", "kernel", "weights"))
    hidden, classes = model.fc1.out_features, model.fc2.out_features
    start = last.x + last.side + last.depth
    left = start + 0.36
    fig.set_size_inches(left + 1.75, fig.get_figheight())
    ax.set_xlim(0, left + 1.75)
    for end in (-0.8, 0.8):
        ax.plot((start, left), (middle, middle + end), color=draw.INK, lw=0.5)
        ax.plot((left + 0.16, left + 0.62), (middle + end, middle + end), color=draw.INK, lw=0.5)
    draw.box(ax, left, middle - 0.8, 0.16, 1.6, draw.HEAD, gid="fc1")
    for k, name in enumerate(model.classes):
        y = middle + pitch * (classes / 2 - k - 0.5)
        draw.box(ax, left + 0.62, y - pitch / 2, 0.16, pitch, draw.HEAD, gid=f"fc2:{name}")
        draw.write(ax, left + 0.86, y, name, ha="left")
    for x, name, units in ((left + 0.08, "fc1", hidden), (left + 0.7, "fc2", classes)):
        draw.write(ax, x, middle - 0.92, name, weight="bold")
        draw.write(ax, x, middle - 1.09, f"{units}")
    draw.legend(ax, _fills(model), 0.2)
    return fig


def _blocks(ax: Axes, model: Model, middle: float, largest: float, pitch: float, rows: Sequence[str]) -> draw.Block:
    """Draw a trunk as a row of blocks, and under each the facts that `rows` names; returns the last block.

    middle: the height of the blocks' middle; largest: the image's side; pitch: the least width of a column.
    """
    heights = {row: middle - largest / 2 - 0.12 - 0.17 * (k + 0.5) for k, row in enumerate(("", *rows))}
    for row, y in heights.items():
        draw.write(ax, 0.15, y, row, ha="left", style="italic")
    x, rows_before, blocks = 0.85, 0, []
    for step, then in _shown(model):
        c, h, _ = step.shape
        side = largest * (h / SIZE) ** 0.5
        width = max(pitch, side + draw.DEPTH * c**0.5 + 0.16)
        fill = colour(model, step)
        blocks.append(draw.block(ax, (x + width / 2, middle), c, side, fill, step.name))
        if step.kernel:
            draw.window(ax, blocks[-2], blocks[-1], step.kernel[0] / rows_before)
        facts = {"": step.name, **_facts(step, fill, then)}
        for row, y in heights.items():
            draw.write(ax, x + width / 2, y, facts.get(row, ""), weight="normal" if row else "bold")
        rows_before, x = h, x + width
    return blocks[-1]


def _shown(model: Model) -> list[tuple[Step, str]]:
    """The steps that are drawn as blocks (image, convolutions, poolings), each with what follows it in words."""
    shown: list[tuple[Step, list[str]]] = []
    for step in steps(model):
        if step.kind in ("relu", "norm"):
            shown[-1][1].append({"relu": "ReLU", "norm": "LRN"}[step.kind])
        else:
            shown.append((step, []))
    return [(step, ", ".join(then)) for step, then in shown]


def _facts(step: Step, fill: str, then: str) -> dict[str, str]:
    """The facts under a block."""
    c, h, w = step.shape
    facts = {"maps": f"{c}", "size": f"{h}×{w}", "then": then, "kernel": "×".join(map(str, step.kernel))}
    facts["weights"] = {draw.FROZEN: "frozen", draw.TRAINED: "trained"}.get(fill, "")
    return facts | {key: f"{value:,}" for key, value in step.settings.items()}


def _fills(model: Model) -> set[str]:
    """The colours that a drawing of this model uses."""
    return {draw.HEAD} | {colour(model, step) for step, _ in _shown(model)}


# --- Fig. 1


def dual_transfer(trunk: Trunk, first: AttributeNet, second: ExpressionNet, trimmed: ExpressionNet) -> Figure:
    """Draw Fig. 1: from BVLC's model to the classifier of expressions, and what each step keeps."""
    fig, ax = draw.canvas(10, 5.3, "Fig. 1   Dual transfer learning, chosen by feature visualization")
    transferred = (first, second, trimmed)
    models = (trunk, *transferred)
    columns = (
        ("BVLC's model", "trained on ImageNet"),
        ("First transfer model", f"trained on CelebA, {len(first.classes)} attributes"),
        ("Second transfer model", f"trained on CK+, {len(second.classes)} expressions"),
        ("The same, trimmed", f"trained on CK+, {len(trimmed.classes)} expressions"),
    )
    decisions = [
        *(f"Feature visualization:\n{_decision(*pair)}" for pair in zip(models, transferred, strict=False)),
        "Table 5",
    ]
    decisions[2] += "\nTables 5 and 6"
    parts = ("image", *(layer.name for layer in trunk.layers), "heads")
    heights = {part: 4.1 - 0.42 * i for i, part in enumerate(parts)}
    wide, row, gap, used = 1.62, 0.34, 1.04, {draw.INPUT, draw.GIVEN, draw.HEAD}
    for k, (model, (title, data)) in enumerate(zip(models, columns, strict=True)):
        x, y = 0.2 + k * (wide + gap), heights["heads"]
        draw.write(ax, x + wide / 2, heights["image"] + 0.7, title, weight="bold", size=9)
        draw.write(ax, x + wide / 2, heights["image"] + 0.52, data)
        fills = _column(ax, x, (wide, row), heights, model, title)
        used |= set(fills.values())
        for name in fills if k else ():
            kept = (
                {"color": draw.FROZEN, "lw": 2.4, "mutation_scale": 12}
                if fills[name] == draw.FROZEN
                else {"color": draw.GREY}
            )
            middle = heights[name] + row / 2
            draw.arrow(ax, (x - gap + 0.03, middle), (x - 0.02, middle), **kept)
        draw.box(ax, x, 0.72, wide, 0.5, draw.PLAIN, decisions[k])
        draw.arrow(ax, (x + wide / 2, y - 0.2), (x + wide / 2, 1.22))
        if k + 1 < len(columns):
            bend = "angle,angleA=0,angleB=90,rad=0"
            draw.arrow(ax, (x + wide, 0.97), (x + wide + gap / 2, y + 0.42), connectionstyle=bend)
    lines = [
        Line2D([], [], color=draw.FROZEN, lw=2.4, label="weights transferred and kept"),
        Line2D([], [], color=draw.GREY, lw=0.9, label="weights transferred as a start"),
    ]
    draw.legend(ax, used, 0.3, lines, columns=3)
    return fig


def _column(ax: Axes, x: float, size: tuple, heights: Mapping, model: Model, title: str) -> dict[str, str]:
    """Draw one model of Fig. 1 in boxes of this size at the heights of its parts; returns the colours by layer."""
    (wide, row), top, bottom = size, heights["image"], heights["heads"]
    frame = {"facecolor": "#f7f7f7", "edgecolor": "#bbbbbb", "lw": 0.7, "zorder": 0}
    ax.add_patch(Rectangle((x - 0.1, bottom - 0.2), wide + 0.2, top - bottom + 0.62, **frame))
    draw.box(ax, x, top, wide, row, draw.INPUT, f"{SIZE}×{SIZE} image")
    fills = {step.name: colour(model, step) for step in steps(model) if step.kind == "conv"}
    for name, y in list(heights.items())[1:-1]:
        if name in fills:
            draw.box(ax, x, y, wide, row, fills[name], name, gid=f"{title}: {name}")
        else:
            ax.add_patch(Rectangle((x, y), wide, row, facecolor="none", edgecolor=draw.GREY, ls="--", lw=0.7))
            draw.write(ax, x + wide / 2, y + row / 2, f"{name} left out", color="#777777")
    new = not isinstance(model, Trunk)
    text = heads(model)
    draw.box(ax, x, bottom, wide, row, draw.HEAD if new else draw.PLAIN, text, gid=f"{title}: heads" if new else "")
    return fills


def _decision(model: Model, following: AttributeNet | ExpressionNet) -> str:
    """What the visualization of one model decides about the next, read from both."""
    kept = {layer.name for layer in following.trunk.layers}
    removed = [layer.name for layer in trunk_of(model).layers if layer.name not in kept]
    return f"leave {', '.join(removed)} out" if removed else f"keep {', '.join(following.frozen())}"


# --- Fig. 2

_OPERATIONS = {  # by kind of step: the words in the forward pass and in the projection
    "input": ("image", "projection\nin pixels"),
    "conv": ("{}\n(4)", "transposed\n{}\n(10)–(13)"),
    "relu": ("ReLU\nf in (4)", "rectify,\nminus bias\n(9)"),
    "pool": ("{}\n(6)", "unpool\n(8)"),
    "norm": ("{}\n(LRN)", "passed\nthrough"),
}


def visualization(trunk: Trunk, layer: str = "conv2") -> Figure:
    """Draw Fig. 2: forward to a layer with the switches recorded, and back to the pixels (eqs. 4-13)."""
    path = _path(trunk, layer)
    wide, gap, high, up, down = 0.84, 0.2, 0.62, 2.4, 0.85
    fig, ax = draw.canvas(len(path) * (wide + gap) + 1.6, 3.6, f"Fig. 2   Feature visualization, here of {layer}")
    between = (up + down + high) / 2
    draw.write(ax, 0.15, up + high + 0.2, "forward (section 3.2.1)", ha="left", style="italic")
    draw.write(ax, 0.15, down - 0.2, "backward (section 3.2.2)", ha="left", style="italic")
    for k, step in enumerate(path):
        x, right, fill = 0.15 + k * (wide + gap), 0.15 + (k + 1) * (wide + gap), colour(trunk, step)
        forward, backward = (words.format(step.name) for words in _OPERATIONS[step.kind])
        draw.box(ax, x, up, wide, high, fill, f"{forward}\n{_size(step)}", gid=step.name)
        draw.box(ax, x, down, wide, high, fill, backward, gid=f"back:{step.name}")
        draw.arrow(ax, (x + wide, up + high / 2), (right, up + high / 2))
        draw.arrow(ax, (right, down + high / 2), (x + wide, down + high / 2))
        if step.kind == "pool":
            draw.arrow(ax, (x + wide / 2, up), (x + wide / 2, down + high), color=draw.SWITCHES, ls="--", lw=1.2)
            draw.write(ax, x + wide / 2 + 0.06, between, "switches\n(7)", ha="left", color=draw.SWITCHES)
    x = 0.15 + len(path) * (wide + gap)
    draw.box(ax, x, up, 1.3, high, draw.PLAIN, f"feature maps of\n{layer}: {_size(path[-1])}")
    draw.box(ax, x, down, 1.3, high, draw.PLAIN, "top n neurons\nof each map,\nall others 0")
    draw.arrow(ax, (x + 0.65, up), (x + 0.65, down + high))
    draw.write(ax, x + 0.72, between, "choose", ha="left")
    line = Line2D([], [], color=draw.SWITCHES, ls="--", lw=1.2, label="where each window's maximum was")
    draw.legend(ax, {colour(trunk, step) for step in path}, 0.28, [line])
    return fig


def _size(step: Step) -> str:
    return "×".join(map(str, step.shape))


def _path(trunk: Trunk, layer: str) -> list[Step]:
    """The steps from the image to where a neuron of the layer lives: after its pooling, or its ReLU if it has none."""
    number = trunk.layers.index(trunk.layer(layer)) + 1
    path = [step for step in steps(trunk) if step.kind == "input" or int(step.name.lstrip(step.kind)) <= number]
    return path[:-1] if path[-1].kind == "norm" else path
