"""Zeiler and Fergus's gallery: for every map of a layer, the strongest patches of a data set and their projections."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from dualtl_lib.visualize.deconvnet import Deconvnet
from dualtl_lib.visualize.neurons import strongest, whole_number


@dataclass(frozen=True)
class Gallery:
    """The strongest patches of K maps, strongest first, at most one of each image.

    Attributes:
        maps: Which maps, from 1; int64 (K,).
        images: Which image each patch is of, int64 (K, count).
        rows: Row of the neuron, int64 (K, count).
        columns: Column of the neuron, int64 (K, count).
        activations: Values of the neurons, (K, count).
        patches: Their projections, (K, count, 3, S, S), 0 beyond the edge of the image.
        pictures: The pixels that the neurons see, uint8, of the same shape.
    """

    maps: Tensor
    images: Tensor
    rows: Tensor
    columns: Tensor
    activations: Tensor
    patches: Tensor
    pictures: Tensor


def gallery(
    net: Deconvnet,
    images: Sequence | np.ndarray | Tensor,
    layer: str,
    *,
    maps: Iterable[int] | None = None,
    count: int = 9,
    progress: bool = True,
) -> Gallery:
    """Find and project the strongest patches of each map over all images.

    Images are read one by one, and only `count` numbers a map are kept, so memory does not grow with N. Of equally
    strong neurons the first image is taken.

    Args:
        net: The deconvnet.
        images: uint8 RGB, shape (N, 3, 227, 227): a tensor, array or memory map.
        layer: Name of a convolutional layer.
        maps: Feature maps, counted from 1. Default: all.
        count: Number of patches of each map, at most N.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If there are too few images, the layer does not exist or a number is out of range.
    """
    numbers = torch.tensor(net.checked_maps(layer, maps))
    count = whole_number("count (at most the number of images)", count, 1, len(images))
    net.trunk.check(_image(images, 0))
    activations, which, places = _strongest(net, images, layer, numbers - 1, count, progress)
    width = net.shapes[layer][2]
    rows, columns = places // width, places % width
    patches = pictures = torch.empty(0)
    for i in tqdm(which.unique().tolist(), desc=f"projecting {layer}", disable=not progress):
        m, k = (which == i).nonzero(as_tuple=True)
        image = _image(images, i)
        found = net.project_each(net.forward(image, layer), numbers[m], rows[m, k], columns[m, k])
        side = found.patches.shape[-1]
        if not len(patches):
            patches = torch.zeros(*which.shape, 3, side, side, dtype=found.patches.dtype)
            pictures = torch.zeros(patches.shape, dtype=torch.uint8)
        patches[m, k] = found.patches.cpu()
        padded = F.pad(image[0], (side,) * 4)
        for a, b, top, left in zip(m, k, found.tops + side, found.lefts + side, strict=True):
            pictures[a, b] = padded[:, top : top + side, left : left + side]
    return Gallery(numbers, which, rows, columns, activations, patches, pictures)


def _image(images, i: int) -> Tensor:
    """One image, uint8 (1, 3, 227, 227)."""
    return images[i : i + 1] if isinstance(images, Tensor) else torch.from_numpy(np.array(images[i : i + 1]))


def _strongest(net: Deconvnet, images, layer: str, maps: Tensor, count: int, progress: bool) -> tuple[Tensor, ...]:
    """Activation, image and place (row-major) of the strongest neurons: (K, count) each."""
    best = torch.full((len(maps), count), -torch.inf)
    which, places = (torch.zeros(best.shape, dtype=torch.int64) for _ in range(2))
    for i in tqdm(range(len(images)), desc=f"searching {layer}", disable=not progress):
        values = net.feature_maps(_image(images, i), layer)[0].flatten(1).cpu()[maps]
        at = values.argmax(1, keepdim=True)
        value = values.gather(1, at)
        if not (value > best[:, -1:]).any():
            continue
        joined = torch.cat([best, value], 1)
        order = strongest(joined, count)  # an equal later one comes after
        best = joined.gather(1, order)
        which = torch.cat([which, torch.full_like(at, i)], 1).gather(1, order)
        places = torch.cat([places, at], 1).gather(1, order)
    return best, which, places
