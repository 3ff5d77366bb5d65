"""Zeiler and Fergus's gallery: for every map of a layer, the strongest patches of a data set and their projections."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from dualtl_lib.visualize.deconvnet import Deconvnet, strongest, whole_number


@dataclass
class Gallery:
    """The strongest patches of M maps, strongest first; patches are S pixels wide, 0 beyond the picture's edge.

    maps: int64 [M], from 1. images, rows, columns: int64 [M, count], which image and where the neuron is; activations:
    [M, count]. patches: [M, count, 3, S, S], the projections; both of the trunk's type, float32 by default. pictures:
    uint8, as the patches, what the neuron saw. A map has at most one neuron of each image.
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
    images,
    layer: str,
    maps: Sequence[int] | None = None,
    count: int = 9,
    progress: bool = True,
) -> Gallery:
    """Find and project the `count` strongest patches of each map (of all by default) over all images.

    images: uint8 [N, 3, 227, 227], a tensor, array or memory map; N at least `count`. Read one by one, and only
    `count` numbers a map are kept, so memory does not grow with N. Of equals the first image is taken. Raises
    ValueError where there are too few images or what is asked for does not exist.
    """
    net.feature_maps(_image(images, 0), layer, remember=False)  # says what is allowed
    numbers = torch.tensor(net.numbers(layer, maps))
    count = whole_number("count (of all images, the strongest)", count, 1, len(images))
    best, which, places = _strongest(net, images, layer, numbers - 1, count, progress)
    width = net.shapes[layer][2]
    rows, columns = places // width, places % width
    patches = pictures = None
    for i in tqdm(which.unique().tolist(), desc=f"projecting {layer}", disable=not progress):
        m, k = (which == i).nonzero(as_tuple=True)
        image = _image(images, i)
        found = net.project(image, layer, numbers[m], rows[m, k], columns[m, k], i)
        side = found.patches.shape[-1]
        if patches is None:
            patches = torch.zeros(*which.shape, 3, side, side, dtype=found.patches.dtype)
            pictures = torch.zeros(patches.shape, dtype=torch.uint8)
        patches[m, k] = found.patches.cpu()
        wide = F.pad(image[0], (side,) * 4)
        for a, b, top, left in zip(m, k, found.tops + side, found.lefts + side, strict=True):
            pictures[a, b] = wide[:, top : top + side, left : left + side]
    return Gallery(numbers, which, rows, columns, best, patches, pictures)


def _image(images, i: int) -> Tensor:
    """One image, uint8 [1, 3, 227, 227]."""
    return images[i : i + 1] if isinstance(images, Tensor) else torch.from_numpy(np.array(images[i : i + 1]))


def _strongest(net, images, layer, maps, count, progress) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, image and place (row-major) of the strongest neurons: [M, count] each."""
    best = torch.full((len(maps), count), -torch.inf)
    which, places = (torch.zeros(best.shape, dtype=torch.int64) for _ in range(2))
    for i in tqdm(range(len(images)), desc=f"looking for {layer}'s strongest", disable=not progress):
        values = net.feature_maps(_image(images, i), layer, remember=False)[0].flatten(1).cpu()[maps]
        at = values.argmax(1, keepdim=True)
        better = (value := values.gather(1, at)) > best[:, -1:]
        if not better.any():
            continue
        joined = torch.cat([best, value], 1)
        order = strongest(joined, count)  # an equal later one comes after
        best = joined.gather(1, order)
        which = torch.cat([which, torch.full_like(at, i)], 1).gather(1, order)
        places = torch.cat([places, at], 1).gather(1, order)
    return best, which, places
