"""Panels, curves and tables as the paper lays them out, and where they are written.

The same colour stands for the same thing in every figure: see COLOURS.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dualtl_lib import config, files, paper
from dualtl_lib.evaluate.evaluation import Accuracy
from dualtl_lib.report import tables
from dualtl_lib.visualize.deconvnet import Deconvnet
from dualtl_lib.visualize.gallery import gallery as strongest_patches

COLOURS = {
    "paper": "#8c8c8c",
    "measured": "#1f6fb4",
    "random": "#1f6fb4",  # images at random, the paper's protocol
    "people": "#d1603d",  # people kept apart
    "chance": "#c9b458",  # always saying the majority
    "loss": "#444444",
}
PAGE = 7.2  # inches, the width of a page's text
LINE = 95  # letters of a figure's title that fit into it

plt.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "figure.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.dpi": 130,
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
    }
)


def save(fig: plt.Figure, run: config.Run, name: str) -> Path:
    """Write <name>.png where the run's pictures go, with the run and its data in the file's metadata."""
    path = run.pictures / f"{name}.png"
    metadata = {
        "Title": name,
        "Description": f"Run {run.name}, measured on {run.title}",
        "Software": "dualtl",
    }
    with files.atomic_write(path) as part:
        fig.savefig(part, format="png", metadata=metadata)
    return path


def save_table(frame: pd.DataFrame, run: config.Run, name: str) -> Path:
    """Write <name>.csv into the run's figures folder."""
    path = run.figures / f"{name}.csv"
    with files.atomic_write(path) as part:
        frame.to_csv(part, index=False)
    return path


def picture(image: Tensor) -> np.ndarray:
    """uint8 [3, H, W] -> uint8 [H, W, 3] for imshow."""
    return image.permute(1, 2, 0).cpu().numpy()


def to_display_range(projection: Tensor, peak: float | None = None) -> np.ndarray:
    """A projection float32 [3, H, W] as light on black, [H, W, 3] in 0..1: black where no neuron speaks.

    What is negative is cut at 0, as MATLAB's conversion to uint8 cuts it. peak: what shows as full brightness,
    by default the 99.8th percentile of this projection, so that one hot pixel does not darken the rest.
    """
    light = projection.clamp_min(0)
    peak = peak or brightest(projection)
    return (light / peak).clamp(max=1).permute(1, 2, 0).cpu().numpy()


def brightest(projection: Tensor) -> float:
    """The 99.8th percentile of what is positive in a projection, or of 1 where nothing is."""
    positive = projection[projection > 0]
    return float(torch.quantile(positive.flatten(), 0.998)) if positive.numel() else 1.0


def _head(fig: plt.Figure, title: str) -> None:
    """A page-wide figure's title, in as few lines as hold it, as even as its words allow, and room for them."""
    fewest = len(textwrap.wrap(title, LINE)) or 1
    wrapped = (textwrap.wrap(title, width) for width in range(max(1, len(title) // fewest), LINE + 1))
    fig.suptitle("\n".join(next(lines for lines in wrapped if len(lines) <= fewest)))
    fig.set_figheight(fig.get_figheight() + 0.16 * (fewest - 1))


def _grid(count: int, columns: int, title: str, spare: float = 0.2) -> tuple[plt.Figure, list[plt.Axes]]:
    """A page-wide figure of square panels without axes; spare: inches above each row, for its titles."""
    rows = -(-count // columns)
    side = PAGE / columns
    fig, axes = plt.subplots(rows, columns, figsize=(side * columns, (side + spare) * rows + 0.3), squeeze=False)
    _head(fig, title)
    for ax in axes.flat:
        ax.axis("off")
    return fig, list(axes.flat)


def panel_title(panel: paper.Panel, layer_maps: int) -> str:
    """What a panel shows, in words: "(e) top 10 of map 193"."""
    neurons = "all neurons" if panel.top is None else f"top {panel.top}"
    if panel.maps is None:
        which = f"all {layer_maps} maps" if panel.top is None else f"each of {layer_maps} maps"
    else:
        which = f"map {', '.join(map(str, panel.maps))}"
    return f"({panel.letter}) {neurons} of {which}" + (",\nbefore this training" if panel.model == "before" else "")


def projections(
    figure: paper.Figure,
    image: Tensor,
    now: Deconvnet,
    before: Deconvnet | None = None,
    title: str = "",
) -> tuple[plt.Figure, dict[str, Tensor]]:
    """Figs. 4-8, 10-13, 15-17: the input (a) and each lettered panel, every panel on its own scale.

    image: uint8 [1, 3, 227, 227]. Returns the figure and the projections [3, 227, 227] by letter. Raises ValueError
    where `before` is missing and a panel needs it.
    """
    if before is None and any(panel.model == "before" for panel in figure.panels):
        raise ValueError(f"Fig. {figure.number} has panels of the model before this training: give `before` too")
    layer_maps = now.trunk.layer(figure.layer).maps
    fig, axes = _grid(len(figure.panels) + 1, 4, title)
    axes[0].imshow(picture(image[0]))
    axes[0].set_title("(a) input")
    shown = {}
    for ax, panel in zip(axes[1:], figure.panels, strict=False):
        net = now if panel.model == "now" else before
        shown[panel.letter] = net.reconstruct(image, figure.layer, maps=panel.maps, top=panel.top)[0]
        ax.imshow(to_display_range(shown[panel.letter]))
        ax.set_title(panel_title(panel, layer_maps))
        if not shown[panel.letter].any():
            maps = net.feature_maps(image, figure.layer)[0]
            active = maps[[m - 1 for m in panel.maps]].any() if panel.maps else maps.any()
            why = "nothing of it reaches the pixels" if active else "no neuron of it is active"
            ax.text(0.5, 0.5, why, color="white", ha="center", transform=ax.transAxes)
    return fig, shown


def occlusion_pairs(
    covered: Mapping[str, Tensor], net: Deconvnet, layer: str, top: int, title: str
) -> tuple[plt.Figure, dict[str, Tensor]]:
    """Figs. 19 and 20: covered face and projection, pair by pair, all projections on the scale of the first.

    covered: uint8 [1, 3, 227, 227] by region. Returns the figure and the projections [3, 227, 227] by region.
    """
    shown = {region: net.reconstruct(image, layer, top=top)[0] for region, image in covered.items()}
    peak = brightest(next(iter(shown.values())))
    fig, axes = _grid(2 * len(covered), 4, title)
    for i, (region, image) in enumerate(covered.items()):
        axes[2 * i].imshow(picture(image[0]))
        what = "nothing" if region == "none" else region.replace(" and ", ", ")  # the longest would not fit
        axes[2 * i].set_title(f"({'acegik'[i]}) {what} covered")
        axes[2 * i + 1].imshow(to_display_range(shown[region], peak))
        axes[2 * i + 1].set_title(f"({'bdfhjl'[i]}) {layer}, top {top} of each map")
    return fig, shown


def filters(trunk, title: str) -> plt.Figure:
    """conv1's filters as colour pictures, each under its number and on its own scale around grey."""
    weight = trunk.transform.to_rgb(trunk.conv1.weight.detach())
    weight = 0.5 + 0.5 * weight / weight.abs().amax((1, 2, 3), keepdim=True)
    fig, axes = _grid(len(weight), 16, title, spare=0.12)
    for number, (ax, w) in enumerate(zip(axes, weight, strict=False), 1):
        ax.imshow(w.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        ax.set_title(number, fontsize=6, pad=1.5)
    return fig


def faces(images: Tensor, titles: Sequence[str], title: str, columns: int = 8) -> plt.Figure:
    """Faces uint8 [N, 3, H, W], each with its title."""
    fig, axes = _grid(len(images), columns, title)
    for ax, image, text in zip(axes, images, titles, strict=False):
        ax.imshow(picture(image))
        ax.set_title(text, fontsize=7)
    return fig


def attributes(faces, index: int, title: str) -> plt.Figure:
    """Table 2's sample: a face and, beside it, its attributes, those that are present in dark."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.4), width_ratios=(1, 2))
    _head(fig, title)
    left.imshow(picture(torch.as_tensor(faces.images[index])))
    for ax in (left, right):
        ax.axis("off")
    for k, (name, value) in enumerate(zip(faces.classes, faces.targets[index].tolist(), strict=True)):
        right.text(
            0.5 * (k // 6),
            0.9 - 0.16 * (k % 6),
            f"{value}  {name.replace('_', ' ')}",
            color="black" if value else "#9a9a9a",
            fontsize=9,
            transform=right.transAxes,
        )
    return fig


def variants(trunk, image: Tensor, layers: Sequence[str], title: str) -> plt.Figure:
    """The same neurons, the strongest of every map, through the four ways back; image uint8 [1, 3, 227, 227]."""
    names = ("paper", "zeiler", "guided", "gradient")
    fig, axes = _grid(len(names) * len(layers), len(layers), title)
    for row, variant in enumerate(names):
        net = Deconvnet(trunk, variant=variant)
        for column, layer in enumerate(layers):
            ax = axes[row * len(layers) + column]
            ax.imshow(to_display_range(net.reconstruct(image, layer, top=1)[0]))
            ax.set_title(f"{layer}, {variant}")
    return fig


def gallery(net: Deconvnet, images: Tensor, chosen: Mapping[str, int], title: str) -> plt.Figure:
    """For one map of each layer its nine strongest patches of all images, and each projected (Zeiler and Fergus)."""
    from torchvision.utils import make_grid  # here, since it takes six seconds

    fig, axes = plt.subplots(2, len(chosen), figsize=(PAGE, 2 * PAGE / len(chosen) + 0.7), squeeze=False)
    _head(fig, title)
    for (above, below), (layer, number) in zip(axes.T, chosen.items(), strict=True):
        found = strongest_patches(net, images, layer, maps=[number], progress=False)
        above.imshow(picture(make_grid(found.pictures[0], nrow=3, padding=1, pad_value=255)))
        projected = torch.stack([patch / brightest(patch) for patch in found.patches[0]])
        below.imshow(to_display_range(make_grid(projected, nrow=3, padding=1, pad_value=1), peak=1.0))
        above.set_title(f"{layer}, map {number}")
        for ax in (above, below):
            ax.axis("off")
    for ax, text in zip(axes[:, 0], ("patches", "projections"), strict=True):
        ax.text(-0.06, 0.5, text, rotation=90, ha="right", va="center", transform=ax.transAxes)
    return fig


def attribute_accuracies(table: pd.DataFrame, title: str) -> plt.Figure:
    """The frame of tables.attributes, drawn with its intervals beside the majority."""
    rows = [
        (r.attribute.replace("_", " "), None, {"measured": Accuracy(r.accuracy, 0, r.n, r.low, r.high)})
        for r in table.itertuples()
    ]
    chance = dict(zip([r[0] for r in rows], table.majority, strict=True))
    return accuracies(rows, title, chance)


def curves(histories: Mapping[str, dict], title: str) -> plt.Figure:
    """Loss on the training batches, averaged over ten, and accuracy on the validation images, over iterations.

    A name that ends in a protocol takes its colour; Fig. 18's curves are dashed.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.6))
    _head(fig, title)
    for name, history in histories.items():
        colour = next((COLOURS[p] for p, words in tables.PROTOCOLS.items() if words in name), COLOURS["measured"])
        style = {"color": colour, "ls": "--" if "Fig. 18" in name else "-", "lw": 1, "label": name}
        left.plot(pd.Series(history["loss"]).rolling(10, min_periods=1).mean(), **style)
        right.plot(history["validated"], history["validation"], marker="o", ms=3, **style)
    left.set(xlabel="iteration", ylabel="loss, mean of 10 batches", ylim=(0, None))
    right.set(xlabel="iteration", ylabel="accuracy on validation", xlim=left.get_xlim(), ylim=(0, 1))
    right.legend(frameon=False)
    return fig


def accuracies(rows: Sequence[tuple], title: str, chance: Mapping[str, float] | None = None) -> plt.Figure:
    """Accuracies with their 95 % intervals, one line each; paper's values as grey diamonds.

    rows: (name, paper's value or None, {series: Accuracy}); chance: by name, what the majority class gives.
    """
    fig, ax = plt.subplots(figsize=(PAGE, 0.34 * len(rows) + 0.9))
    ax.set_title(title, loc="left")
    names = [row[0] for row in rows]
    series = list(dict.fromkeys(s for row in rows for s in row[2]))
    for k, s in enumerate(series):
        at = [(i, row[2][s]) for i, row in enumerate(rows) if s in row[2]]
        y = np.array([i for i, _ in at]) + 0.22 * (k - (len(series) - 1) / 2)
        x = np.array([a.value for _, a in at])
        reach = np.array([[a.value - a.low, a.high - a.value] for _, a in at]).T
        label = tables.PROTOCOLS.get(s, s)
        ax.errorbar(x, y, xerr=reach, fmt="o", ms=4, lw=1.2, capsize=2, color=COLOURS.get(s), label=label)
    quoted = [(i, row[1]) for i, row in enumerate(rows) if row[1] is not None]
    if quoted:
        ax.plot([v for _, v in quoted], [i for i, _ in quoted], "D", ms=4, color=COLOURS["paper"], label="paper")
    if chance:
        y, x = zip(*[(i, chance[n]) for i, n in enumerate(names) if n in chance], strict=True)
        ax.plot(x, y, "|", ms=11, mew=2, color=COLOURS["chance"], label="always the majority")
    ax.set_yticks(range(len(rows)), names)
    ax.set(xlabel="accuracy, with 95 % interval", xlim=(0, 1.02))
    ax.grid(axis="x", lw=0.4)
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str], title: str) -> plt.Figure:
    """Confusion matrices of counts, rows the truth, shaded by the share of each row."""
    fig, axes = plt.subplots(1, len(matrices), figsize=(PAGE, PAGE / len(matrices) + 0.5), squeeze=False)
    _head(fig, title)
    for ax, (name, counts) in zip(axes.flat, matrices.items(), strict=True):
        ax.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(counts):
            if n:
                ax.text(j, i, n, ha="center", va="center", color="white" if n > counts[i].sum() / 2 else "black")
        ax.set(title=name, xlabel="predicted", ylabel="true")
        ax.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
        ax.set_yticks(range(len(classes)), classes)
    return fig
