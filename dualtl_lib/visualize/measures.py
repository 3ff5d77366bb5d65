"""Measures of projections: how sharp they are and which parts of the face they show.

Section 5 names this gap: "it is indispensable to propose a quantitative model to evaluate the reconstructive image
objectively". Two numbers per projection, each compared with its value by chance.

Shapes: N images of H rows and W columns.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib.data import regions
from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.visualize.deconvnet import Deconvnet

EDGES, EDGES_STRONGEST = "edges, all neurons", "edges, strongest"
ENERGY_STRONGEST = "mouth and eyes, strongest"


def brightness(images: Tensor) -> Tensor:
    """Mean over the three colours of images (N, 3, H, W) of any type; float32 (N, H, W)."""
    return images.float().mean(1)


def edges(pictures: Tensor) -> Tensor:
    """Sobel gradient magnitude of pictures (N, H, W), of the same shape. The border repeats, so it makes no edge."""
    ramp = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=pictures.device)
    kernels = torch.stack([ramp, ramp.T]).unsqueeze(1)
    padded = F.pad(pictures.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).square().sum(1).sqrt()


def edge_correlation(projections: Tensor, images: Tensor) -> np.ndarray:
    """Correlate the edges of each projection with those of its image.

    Edges are averaged over squares of 5 pixels first, since a deconvnet places them to within a stride of conv1.

    Args:
        projections: Shape (N, 3, H, W).
        images: Of the same shape.

    Returns:
        Correlations (N,), from -1 to 1. 1: the projection draws the contours of the image ("the effect of edge
        detection", section 4.1.2); 0: no relation, as by chance.
    """
    pair = projections, images.to(projections.device)
    a, b = (F.avg_pool2d(edges(brightness(x)), 5).flatten(1) for x in pair)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / norms.clamp_min(torch.finfo(norms.dtype).tiny)).cpu().numpy()


def region_energy(projections: Tensor, region: str = "mouth and eyes", layout: str = "detected") -> np.ndarray:
    """Energy (sum of squares) in a region of the face, relative to an even spread over the image.

    Args:
        projections: Shape (N, 3, H, W).
        region: A region of Table 6.
        layout: Where faces lie in the images: a layout of `data.regions`.

    Returns:
        Ratios (N,), 0 and up. 1: no preference for the region; 3: three times its share of the area.
    """
    energy = projections.square().sum(1)
    inside = regions.region_mask(region, energy.shape[-1], layout).to(energy.device)
    share = (energy * inside).sum((1, 2)) / energy.sum((1, 2)).clamp_min(torch.finfo(energy.dtype).tiny)
    return (share / inside.float().mean()).cpu().numpy()


def layer_measures(net: Deconvnet, images: Tensor, layer: str) -> dict[str, np.ndarray]:
    """Measure a layer's projections of all neurons and of the strongest neuron of each map.

    Args:
        net: The deconvnet.
        images: uint8 RGB, shape (N, 3, 227, 227).
        layer: Name of a convolutional layer.

    Returns:
        Each measure (N,) by its name.
    """
    record = net.forward(images, layer)
    everything, strongest = net.project(record), net.project(record, top=1)
    return {
        EDGES: edge_correlation(everything, images),
        EDGES_STRONGEST: edge_correlation(strongest, images),
        ENERGY_STRONGEST: region_energy(strongest),
    }


def interval(values: np.ndarray) -> str:
    """Mean and 95 % interval (Student's t) of values (N,), as text; of a single one without an interval."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{values.mean():.2f} ± {half:.2f}"


def measure_layers(nets: Mapping[str, Deconvnet], images: Tensor) -> pd.DataFrame:
    """Tabulate the mean measures of every layer of each network, and edges with their interval."""
    rows = []
    for name, net in nets.items():
        for layer in net.trunk.names:
            measured = layer_measures(net, images, layer)
            means = {key: float(values.mean()) for key, values in measured.items()}
            row = {"weights": name, "layer": layer, **means, "n": len(images)}
            rows.append(row | {f"{EDGES}, 95 %": interval(measured[EDGES])})
    return pd.DataFrame(rows)


def compare_models(now: Deconvnet, before: Deconvnet, images: Tensor, layers: Sequence[str]) -> pd.DataFrame:
    """Tabulate measures before and after a training, and p of Wilcoxon's signed-rank test over the same images."""
    rows = []
    for layer in layers:
        pair = layer_measures(before, images, layer), layer_measures(now, images, layer)
        rows.append({"layer": layer, "n": len(images)} | _compared(*pair, (EDGES, ENERGY_STRONGEST)))
    return pd.DataFrame(rows)


def compare_layers(net: Deconvnet, images: Tensor) -> pd.DataFrame:
    """Tabulate edges of each layer ("now") and of the layer before it ("before"), and p of the same test."""
    names = net.trunk.names
    measured = [layer_measures(net, images, name) for name in names]
    rows = []
    for name, pair in zip(names[1:], pairwise(measured), strict=True):
        rows.append({"layer": name, "n": len(images)} | _compared(*pair, (EDGES, EDGES_STRONGEST)))
    return pd.DataFrame(rows)


def _compared(before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict:
    """Means of each measure (N,) before and now, and p of Wilcoxon's signed-rank test: 1 where nothing differs."""
    row = {}
    for key in keys:
        equal = np.array_equal(now[key], before[key])
        p = 1.0 if equal else float(stats.wilcoxon(now[key], before[key]).pvalue)  # pyright: ignore
        row |= {f"{key}, before": before[key].mean(), f"{key}, now": now[key].mean(), f"{key}, p": p}
    return row


def describe_layer(table: pd.DataFrame, weights: str, layer: str) -> str:
    """One line of `measure_layers` in words, for the closing table."""
    row = table[(table.weights == weights) & (table.layer == layer)].iloc[0]
    return f"edges {row[f'{EDGES}, 95 %']} (n={row.n}), eyes and mouth {row[ENERGY_STRONGEST]:.1f} x even"


def describe_models(table: pd.DataFrame, layer: str) -> str:
    """One line of `compare_models` in words, for the closing table."""
    row = table[table.layer == layer].iloc[0]
    parts = []
    for name, key in {"edges": EDGES, "eyes and mouth": ENERGY_STRONGEST}.items():
        before, now, p = (row[f"{key}, {column}"] for column in ("before", "now", "p"))
        verdict = "no difference shown" if p >= 0.05 else "more" if now > before else "less"
        parts.append(f"{name} {before:.2f} → {now:.2f}, {verdict} (p={p:.2g})")
    return "; ".join(parts)


def describe_layers(table: pd.DataFrame, key: str) -> str:
    """One measure of `compare_layers` in words: "0.90 → 0.75 → 0.72: falls at 1 of 2 steps, rises at 0 (p < 0.05)"."""
    values = [table[f"{key}, before"].iloc[0], *table[f"{key}, now"]]
    shown = np.sign(np.diff(values)) * (table[f"{key}, p"] < 0.05)
    counts = f"falls at {(shown < 0).sum()} of {len(table)} steps, rises at {(shown > 0).sum()} (p < 0.05)"
    return " → ".join(f"{v:.2f}" for v in values) + f": {counts}"


def evenly_spaced(faces, n: int) -> np.ndarray:
    """Indices of n faces evenly over a data set, so that every class and many people are among them."""
    return np.unique(np.linspace(0, len(faces) - 1, n).round().astype(int))


def variant_ablation(trunk: Trunk, images: Tensor) -> pd.DataFrame:
    """Change one choice of the paper's variant at a time and compare the projections of all neurons.

    Args:
        trunk: The network.
        images: uint8 RGB, shape (N, 3, 227, 227).

    Returns:
        By layer the relative difference |other - paper| / |paper|, averaged over the images.
    """
    others = {
        "bias not subtracted (eq. 9)": Deconvnet(trunk, bias=False),
        "normalization by its gradient": Deconvnet(trunk, lrn="gradient"),
        "shared winners added (eq. 8)": Deconvnet(trunk, variant="zeiler", start="activation", bias=True),
    }
    rows = []
    for layer in trunk.names:
        paper = Deconvnet(trunk).reconstruct(images, layer).flatten(1)
        row: dict[str, str | float] = {"layer": layer}
        for name, net in others.items():
            other = net.reconstruct(images, layer).flatten(1)
            row[name] = float(((other - paper).norm(dim=1) / paper.norm(dim=1)).mean())
        rows.append(row)
    return pd.DataFrame(rows)
