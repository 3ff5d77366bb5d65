"""What the paper judges by eye, as numbers: how sharp a projection is and which parts of the face it shows.

Section 5 names this gap: "it is indispensable to propose a quantitative model to evaluate the reconstructive image
objectively". Two numbers per projection, each compared with what chance would give.
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
from dualtl_lib.visualize.deconvnet import Deconvnet

EDGES, ALONE, PARTS = "edges, all neurons", "edges, strongest", "mouth and eyes, strongest"


def brightness(images: Tensor) -> Tensor:
    """[N, 3, H, W] of any type -> float32 [N, H, W], the mean over the three colours."""
    return images.float().mean(1)


def edges(pictures: Tensor) -> Tensor:
    """Sobel gradient magnitude of pictures [N, H, W] -> [N, H, W]. The border repeats, so it makes no edge."""
    ramp = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=pictures.device)
    kernels = torch.stack([ramp, ramp.T]).unsqueeze(1)
    padded = F.pad(pictures.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).square().sum(1).sqrt()


def edge_agreement(projections: Tensor, images: Tensor) -> np.ndarray:
    """Correlation between the edges of each projection and of its image, both [N, 3, H, W] -> [N], -1..1.

    Edges are averaged over squares of 5 pixels first, since a deconvnet places them to within a stride of conv1. 1: the
    projection draws the contours of the picture ("the effect of edge detection", section 4.1.2); 0: it has
    nothing to do with them.
    """
    pair = projections, images.to(projections.device)
    a, b = (F.avg_pool2d(edges(brightness(x)), 5).flatten(1) for x in pair)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / norms.clamp_min(torch.finfo(norms.dtype).tiny)).cpu().numpy()


def concentration(projections: Tensor, region: str = "mouth and eyes", layout: str = "detected") -> np.ndarray:
    """Energy in a region of the face over what an even spread would put there; [N, 3, H, W] -> [N], 0 and up.

    1: no preference for the region; 3: three times its share of the area. Regions are those of Table 6.
    """
    energy = projections.square().sum(1)
    inside = regions.region_mask(region, energy.shape[-1], layout).to(energy.device)
    share = (energy * inside).sum((1, 2)) / energy.sum((1, 2)).clamp_min(torch.finfo(energy.dtype).tiny)
    return (share / inside.float().mean()).cpu().numpy()


def of_layer(net: Deconvnet, images: Tensor, layer: str) -> dict[str, np.ndarray]:
    """The measures of a layer for uint8 images [N, 3, 227, 227]: of all neurons (panel b of the figures) and of the
    strongest of every map (their last panel), each [N]."""
    everything, strongest = net.reconstruct(images, layer), net.reconstruct(images, layer, top=1)
    return {
        EDGES: edge_agreement(everything, images),
        ALONE: edge_agreement(strongest, images),
        PARTS: concentration(strongest),
    }


def interval(values: np.ndarray) -> str:
    """Mean and 95 % interval (Student's t) of values [N], as text; of a single one without an interval."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{values.mean():.2f} ± {half:.2f}"


def by_layer(nets: Mapping[str, Deconvnet], images: Tensor) -> pd.DataFrame:
    """Mean measures of every layer of each network, and edges with their interval."""
    rows = []
    for name, net in nets.items():
        for layer in net.trunk.layers:
            found = of_layer(net, images, layer.name)
            means = {key: float(values.mean()) for key, values in found.items()}
            row = {"weights": name, "layer": layer.name, **means, "n": len(images)}
            rows.append(row | {f"{EDGES}, 95 %": interval(found[EDGES])})
    return pd.DataFrame(rows)


def change(now: Deconvnet, before: Deconvnet, images: Tensor, layers: Sequence[str]) -> pd.DataFrame:
    """Measures after and before a training, and p of Wilcoxon's signed-rank test over the same images."""
    rows = []
    for layer in layers:
        compared = _compared(of_layer(before, images, layer), of_layer(now, images, layer), (EDGES, PARTS))
        rows.append({"layer": layer, "n": len(images)} | compared)
    return pd.DataFrame(rows)


def depth(net: Deconvnet, images: Tensor) -> pd.DataFrame:
    """Edges of each layer ("now") and of the layer before it ("before"), and p of the same test over the images."""
    names = [layer.name for layer in net.trunk.layers]
    found = [of_layer(net, images, name) for name in names]
    rows = []
    for name, (before, now) in zip(names[1:], pairwise(found), strict=True):
        rows.append({"layer": name, "n": len(images)} | _compared(before, now, (EDGES, ALONE)))
    return pd.DataFrame(rows)


def _compared(before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict:
    """Means of each measure [N] before and now, and p of Wilcoxon's signed-rank test: 1 where nothing differs."""
    row = {}
    for key in keys:
        p = 1.0 if np.array_equal(now[key], before[key]) else float(stats.wilcoxon(now[key], before[key]).pvalue)
        row |= {f"{key}, before": before[key].mean(), f"{key}, now": now[key].mean(), f"{key}, p": p}
    return row


def row(table: pd.DataFrame, weights: str, layer: str) -> str:
    """One line of by_layer in words, for the closing table."""
    found = table[(table.weights == weights) & (table.layer == layer)].iloc[0]
    return f"edges {found[f'{EDGES}, 95 %']} (n={found.n}), eyes and mouth {found[PARTS]:.1f} x even"


def change_row(table: pd.DataFrame, layer: str) -> str:
    """One line of change in words, for the closing table."""
    found = table[table.layer == layer].iloc[0]
    parts = []
    for name, key in {"edges": EDGES, "eyes and mouth": PARTS}.items():
        before, now, p = (found[f"{key}, {what}"] for what in ("before", "now", "p"))
        verdict = "no difference shown" if p >= 0.05 else "more" if now > before else "less"
        parts.append(f"{name} {before:.2f} → {now:.2f}, {verdict} (p={p:.2g})")
    return "; ".join(parts)


def depth_row(table: pd.DataFrame, key: str) -> str:
    """One measure of `depth` in words: "0.90 → 0.75 → 0.72: falls at 1 of 2 steps, rises at 0 (p < 0.05)"."""
    values = [table[f"{key}, before"].iloc[0], *table[f"{key}, now"]]
    shown = np.sign(np.diff(values)) * (table[f"{key}, p"] < 0.05)
    counts = f"falls at {(shown < 0).sum()} of {len(table)} steps, rises at {(shown > 0).sum()} (p < 0.05)"
    return " → ".join(f"{v:.2f}" for v in values) + f": {counts}"


def spread(faces, n: int) -> np.ndarray:
    """Indices of n faces evenly over a data set, so that every class and many people are among them."""
    return np.unique(np.linspace(0, len(faces) - 1, n).round().astype(int))


def departures(trunk, images: Tensor) -> pd.DataFrame:
    """How far the picture of all neurons moves when one choice of the paper's variant is made otherwise.

    Relative difference of the projections, |other - paper| / |paper|, averaged over the images.
    """
    others = {
        "bias not subtracted (eq. 9)": Deconvnet(trunk, bias=False),
        "normalization by its gradient": Deconvnet(trunk, lrn="gradient"),
        "shared winners added (eq. 8)": Deconvnet(trunk, variant="zeiler", start="activation", bias=True),
    }
    rows = []
    for layer in trunk.layers:
        ours = Deconvnet(trunk).reconstruct(images, layer.name).flatten(1)
        row = {"layer": layer.name}
        for name, net in others.items():
            theirs = net.reconstruct(images, layer.name).flatten(1)
            row[name] = float(((theirs - ours).norm(dim=1) / ours.norm(dim=1)).mean())
        rows.append(row)
    return pd.DataFrame(rows)
