"""Panels and curves as the paper lays them out, and where figures and tables are written.

The same colour stands for the same thing in every figure: see COLOURS.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dualtl_lib import files, paper
from dualtl_lib.config import Run
from dualtl_lib.evaluate.metrics import Accuracy
from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.report.labels import label
from dualtl_lib.report.tables import Row
from dualtl_lib.visualize.deconvnet import VARIANTS, Deconvnet
from dualtl_lib.visualize.gallery import gallery as most_activated

COLOURS = {
    "paper": "#8c8c8c",
    "measured": "#1f6fb4",
    "random": "#1f6fb4",  # the paper's protocol
    "subject": "#d1603d",
    "majority": "#c9b458",
}
PAGE = 7.2  # inches, the width of a page's text
LINE = 95  # letters of a figure's title that fit into it
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
}
PRINTED = 130  # dots per inch of the files


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures in a `with` block; every function here applies it itself."""
    with plt.rc_context(STYLE):
        yield


def save(fig: Figure, run: Run, name: str) -> Path:
    """Write <name>.png where the run's pictures go, with the run and its data in the file's metadata."""
    path = run.pictures / f"{name}.png"
    metadata = {"Title": name, "Description": f"Run {run.name}, measured on {run.title}", "Software": "dualtl"}
    with files.atomic_write(path) as part:
        fig.savefig(part, format="png", dpi=PRINTED, metadata=metadata)
    return path


def save_table(frame: pd.DataFrame, run: Run, name: str) -> Path:
    """Write <name>.csv into the run's figures folder."""
    path = run.figures / f"{name}.csv"
    with files.atomic_write(path) as part:
        frame.to_csv(part, index=False)
    return path


def picture(image: Tensor) -> np.ndarray:
    """Turn an image, shape (3, H, W), into an array for imshow, (H, W, 3)."""
    return image.permute(1, 2, 0).cpu().numpy()


def to_display_range(projection: Tensor, peak: float | None = None) -> np.ndarray:
    """Turn a projection into a picture: black where it is 0.

    Negative values are cut at 0, as MATLAB's conversion to uint8 cuts them.

    Args:
        projection: float32, shape (3, H, W).
        peak: The value that is shown in full brightness. Default: `display_peak` of this projection.

    Returns:
        float32 in 0..1, shape (H, W, 3).
    """
    return picture((projection.clamp_min(0) / (peak or display_peak(projection))).clamp(max=1))


def display_peak(projection: Tensor) -> float:
    """Return the 99.8th percentile of a projection's positive values, so that one hot pixel darkens nothing; or 1."""
    positive = projection[projection > 0]
    return float(torch.quantile(positive.flatten(), 0.998)) if positive.numel() else 1.0


def _head(fig: Figure, title: str) -> None:
    """Set a page-wide figure's title in as few and as even lines as its words allow, and make room for them."""
    fewest = len(textwrap.wrap(title, LINE)) or 1
    wrapped = (textwrap.wrap(title, width) for width in range(max(1, len(title) // fewest), LINE + 1))
    fig.suptitle("\n".join(next(lines for lines in wrapped if len(lines) <= fewest)))
    fig.set_figheight(fig.get_figheight() + 0.16 * (fewest - 1))


def _grid(count: int, columns: int, title: str, spare: float = 0.2) -> tuple[Figure, list[Axes]]:
    """Make a page-wide figure of square panels without axes; spare: inches above each row, for its titles."""
    rows = -(-count // columns)
    side = PAGE / columns
    fig, axes = plt.subplots(rows, columns, figsize=(side * columns, (side + spare) * rows + 0.3), squeeze=False)
    _head(fig, title)
    for ax in axes.flat:
        ax.axis("off")
    return fig, list(axes.flat)


def _show(ax: Axes, pixels: np.ndarray, title: str, **look) -> None:
    ax.imshow(pixels, interpolation=look.pop("interpolation", None))
    ax.set_title(title, **look)


def _fix_ticks(ax: Axes) -> None:
    """Give tick labels the style's size: matplotlib makes them when it draws, after the style's `with` block."""
    ax.tick_params(labelsize=STYLE["font.size"])


def panel_title(panel: paper.Panel, layer_maps: int) -> str:
    """Describe a panel: "(e) top 10 of map 193"."""
    neurons = "all neurons" if panel.top is None else f"top {panel.top}"
    if panel.maps is None:
        which = f"all {layer_maps} maps" if panel.top is None else f"each of {layer_maps} maps"
    else:
        which = f"map {', '.join(map(str, panel.maps))}"
    return f"({panel.letter}) {neurons} of {which}" + (",\nbefore this training" if panel.model == "before" else "")


@style()
def projections(
    figure: paper.Figure, image: Tensor, now: Deconvnet, before: Deconvnet | None = None, title: str = ""
) -> tuple[Figure, dict[str, Tensor]]:
    """Draw Figs. 4-8, 10-13 and 15-17: the input (a) and each lettered panel, every panel on its own scale.

    Args:
        figure: The figure's layer and panels.
        image: uint8 RGB, shape (1, 3, 227, 227).
        now: The model that the figure is about.
        before: The model that some panels compare it with.
        title: The figure's title.

    Returns:
        The figure, and the projections, shape (3, 227, 227), by letter.

    Raises:
        ValueError: If `before` is missing and a panel needs it.
    """
    nets = {"now": now, "before": before}
    layer_maps = now.trunk.layer(figure.layer).maps
    fig, axes = _grid(len(figure.panels) + 1, 4, title)
    _show(axes[0], picture(image[0]), "(a) input")
    shown = {}
    for ax, panel in zip(axes[1:], figure.panels, strict=False):
        if (net := nets[panel.model]) is None:
            raise ValueError(f"before: Fig. {figure.number}({panel.letter}) needs the model of before this training")
        shown[panel.letter] = net.reconstruct(image, figure.layer, maps=panel.maps, top=panel.top)[0]
        _show(ax, to_display_range(shown[panel.letter]), panel_title(panel, layer_maps))
        if not shown[panel.letter].any():
            maps = net.feature_maps(image, figure.layer)[0]
            active = maps[[m - 1 for m in panel.maps]].any() if panel.maps else maps.any()
            why = "projection is 0" if active else "no active neuron"
            ax.text(0.5, 0.5, why, color="white", ha="center", transform=ax.transAxes)
    return fig, shown


@style()
def occlusion_pairs(
    covered: Mapping[str, Tensor], net: Deconvnet, layer: str, top: int, title: str
) -> tuple[Figure, dict[str, Tensor]]:
    """Draw Figs. 19 and 20: covered face and projection, pair by pair, all projections on the scale of the first.

    Args:
        covered: uint8 RGB, shape (1, 3, 227, 227), by region.
        net: The deconvnet.
        layer: The layer whose neurons are projected.
        top: Only this many most activated neurons of each map.
        title: The figure's title.

    Returns:
        The figure, and the projections, shape (3, 227, 227), by region.
    """
    shown = {region: net.reconstruct(image, layer, top=top)[0] for region, image in covered.items()}
    peak = display_peak(next(iter(shown.values())))
    fig, axes = _grid(2 * len(covered), 4, title)
    letters = iter("abcdefghijkl")
    for left, right, (region, image) in zip(axes[::2], axes[1::2], covered.items(), strict=True):
        name = label(region).replace(" and ", ", ")  # the longest would not fit
        _show(left, picture(image[0]), f"({next(letters)}) {name} covered")
        _show(right, to_display_range(shown[region], peak), f"({next(letters)}) {layer}, top {top} of each map")
    return fig, shown


@style()
def filters(trunk: Trunk, title: str) -> Figure:
    """Draw conv1's filters as colour pictures, each under its number and on its own scale around grey."""
    weight = trunk.transform.to_rgb(trunk.conv("conv1").weight.detach())
    weight = 0.5 + 0.5 * weight / weight.abs().amax((1, 2, 3), keepdim=True)
    fig, axes = _grid(len(weight), 16, title, spare=0.12)
    for number, (ax, filter_) in enumerate(zip(axes, weight, strict=False), 1):
        _show(ax, picture(filter_), str(number), interpolation="nearest", fontsize=6, pad=1.5)
    return fig


@style()
def faces(images: Tensor, titles: Sequence[str], title: str, columns: int = 8) -> Figure:
    """Draw faces, uint8 RGB of shape (N, 3, H, W), each with its title."""
    fig, axes = _grid(len(images), columns, title)
    for ax, image, text in zip(axes, images, titles, strict=False):
        _show(ax, picture(image), text, fontsize=7)
    return fig


@style()
def attributes(faces, index: int, title: str) -> Figure:
    """Draw Table 2's sample: one face of a data set and, beside it, its attributes, dark where they are present."""
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.4), width_ratios=(1, 2))
    _head(fig, title)
    axes[0].imshow(picture(torch.as_tensor(faces.images[index])))
    for ax in axes:
        ax.axis("off")
    for k, (name, value) in enumerate(zip(faces.classes, faces.targets[index].tolist(), strict=True)):
        look = {"color": "black" if value else "#9a9a9a", "fontsize": 9, "transform": axes[1].transAxes}
        axes[1].text(0.5 * (k // 6), 0.9 - 0.16 * (k % 6), f"{value}  {name.replace('_', ' ')}", **look)
    return fig


@style()
def variants(trunk: Trunk, image: Tensor, layers: Sequence[str], title: str) -> Figure:
    """Project the most activated neuron of every map by each variant of the deconvnet.

    Args:
        trunk: The network.
        image: uint8 RGB, shape (1, 3, 227, 227).
        layers: Names of layers, a column each.
        title: The figure's title.
    """
    fig, axes = _grid(len(VARIANTS) * len(layers), len(layers), title)
    panels = iter(axes)
    for variant in VARIANTS:
        net = Deconvnet(trunk, variant=variant)
        for layer in layers:
            _show(next(panels), to_display_range(net.reconstruct(image, layer, top=1)[0]), f"{layer}, {variant}")
    return fig


@style()
def gallery(net: Deconvnet, images: Tensor, chosen: Mapping[str, int], title: str) -> Figure:
    """Draw for one map of each layer its nine most activated patches of all images, and their projections.

    Args:
        net: The deconvnet.
        images: uint8 RGB, shape (N, 3, 227, 227).
        chosen: Map numbers, from 1, by layer.
        title: The figure's title.

    References:
        Zeiler and Fergus (2014), Fig. 2.
    """
    from torchvision.utils import make_grid  # here, since it takes six seconds

    fig, axes = plt.subplots(2, len(chosen), figsize=(PAGE, 2 * PAGE / len(chosen) + 0.7), squeeze=False)
    _head(fig, title)
    for (above, below), (layer, number) in zip(axes.T, chosen.items(), strict=True):
        found = most_activated(net, images, layer, maps=[number], progress=False)
        _show(above, picture(make_grid(found.pictures[0], nrow=3, padding=1, pad_value=255)), f"{layer}, map {number}")
        projected = torch.stack([patch / display_peak(patch) for patch in found.patches[0]])
        _show(below, to_display_range(make_grid(projected, nrow=3, padding=1, pad_value=1), peak=1.0), "")
        for ax in (above, below):
            ax.axis("off")
    for ax, text in zip(axes[:, 0], ("patches", "projections"), strict=True):
        ax.text(-0.06, 0.5, text, rotation=90, ha="right", va="center", transform=ax.transAxes)
    return fig


def attribute_accuracies(table: pd.DataFrame, title: str) -> Figure:
    """Draw the frame of tables.attributes: accuracies with their intervals, and those of the majority class."""
    rows, majority = [], {}
    for r in table.to_dict("records"):
        key = r["attribute"].replace("_", " ")
        accuracy = Accuracy(r["accuracy"], round(r["accuracy"] * r["n"]), r["n"], r["low"], r["high"])
        rows.append(Row(key, None, {"measured": accuracy}))
        majority[key] = r["majority"]
    return accuracies(rows, title, majority)


@style()
def curves(histories: Mapping[str, Mapping], title: str) -> Figure:
    """Draw training loss, averaged over ten batches, and validation accuracy over iterations.

    Args:
        histories: Of train.fit, by model, or by model and protocol as "fig14, subject". A protocol has its colour;
            Fig. 18's curves are dashed.
        title: The figure's title.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.6))
    _head(fig, title)
    for key, history in histories.items():
        colour = COLOURS.get(key.split(", ")[-1], COLOURS["measured"])
        look = {"color": colour, "ls": "--" if key.startswith("fig18") else "-", "lw": 1}
        left.plot(pd.Series(history["loss"]).rolling(10, min_periods=1).mean(), **look)
        name = label(key).removeprefix("Our model in ")
        right.plot(history["validated"], history["validation"], marker="o", ms=3, label=name, **look)
    left.set(xlabel="iteration", ylabel="training loss, mean of 10 batches", ylim=(0, None))
    right.set(xlabel="iteration", ylabel="validation accuracy", xlim=left.get_xlim(), ylim=(0, 1))
    right.legend(frameon=False)
    for ax in (left, right):
        _fix_ticks(ax)
    return fig


@style()
def accuracies(rows: Sequence[Row], title: str, majority: Mapping[str, float] | None = None) -> Figure:
    """Draw accuracies with their 95 % intervals, one line each, and the paper's values as grey diamonds.

    Args:
        rows: Models or regions; the accuracies of each protocol are a series.
        title: The figure's title.
        majority: Accuracy of the majority class, by the rows' keys.
    """
    fig, ax = plt.subplots(figsize=(PAGE, 0.34 * len(rows) + 0.9))
    ax.set_title(title, loc="left")
    series = list(dict.fromkeys(name for row in rows for name in row.measured))
    for k, name in enumerate(series):
        at = [(i, row.measured[name]) for i, row in enumerate(rows) if name in row.measured]
        y = np.array([i for i, _ in at]) + 0.22 * (k - (len(series) - 1) / 2)
        x = np.array([a.value for _, a in at])
        reach = np.array([[a.value - a.low, a.high - a.value] for _, a in at]).T
        ax.errorbar(x, y, xerr=reach, fmt="o", ms=4, lw=1.2, capsize=2, color=COLOURS.get(name), label=label(name))
    quoted = [(row.paper, i) for i, row in enumerate(rows) if row.paper is not None]
    if quoted:
        ax.plot(*zip(*quoted, strict=True), "D", ms=4, color=COLOURS["paper"], label="paper")
    if majority:
        at = [(majority[row.key], i) for i, row in enumerate(rows) if row.key in majority]
        ax.plot(*zip(*at, strict=True), "|", ms=11, mew=2, color=COLOURS["majority"], label="majority class")
    ax.set_yticks(range(len(rows)), [label(row.key) for row in rows])
    ax.set(xlabel="accuracy, with 95 % interval", xlim=(0, 1.02))
    ax.grid(axis="x", lw=0.4)
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _fix_ticks(ax)
    return fig


@style()
def confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str], title: str) -> Figure:
    """Draw confusion matrices, shaded by the share of each row.

    Args:
        matrices: Counts, shape (K, K), a row per label and a column per prediction, by protocol.
        classes: Names of the K classes.
        title: The figure's title.
    """
    fig, axes = plt.subplots(1, len(matrices), figsize=(PAGE, PAGE / len(matrices) + 0.5), squeeze=False)
    _head(fig, title)
    for ax, (name, counts) in zip(axes.flat, matrices.items(), strict=True):
        ax.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(counts):
            if n:
                ax.text(j, i, str(n), ha="center", va="center", color="white" if n > counts[i].sum() / 2 else "black")
        ax.set(title=label(name), xlabel="prediction", ylabel="label")
        ax.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
        ax.set_yticks(range(len(classes)), classes)
        _fix_ticks(ax)
    return fig
