"""Choosing neurons of a layer, and checking what a caller chooses (section 4.1.2).

Maps count from 1, as in the paper; rows and columns of a map from 0. The shape of a layer is (maps, rows, columns).
"""

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def strongest(values: Tensor, n: int) -> Tensor:
    """Indices of the n largest of each row of values (R, K), strongest first, of equals the first; shape (R, n)."""
    if n == 1:
        return values.argmax(1, keepdim=True)  # the first of equals, by its documentation
    return values.sort(dim=1, descending=True, stable=True).indices[:, :n]


def choose(maps: Tensor, numbers=None, top=None, top_of_layer=None, neuron=None) -> Tensor:
    """Mark the chosen neurons of maps (C, H, W), with the arguments of `Deconvnet.project`; bool (C, H, W)."""
    chosen = torch.zeros_like(maps, dtype=torch.bool)
    if neuron is not None:
        chosen[neuron[0] - 1, neuron[1], neuron[2]] = True
        return chosen
    which = slice(None) if numbers is None else [m - 1 for m in sorted(set(numbers))]
    candidates = maps[which].flatten(1)
    count = top if top is not None else top_of_layer
    if count is None:
        chosen[which] = True
        return chosen
    rows = candidates if top is not None else candidates.flatten().unsqueeze(0)
    marked = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, strongest(rows, count), True)
    chosen[which] = marked.view(-1, *maps.shape[1:])
    return chosen


def whole_number(name: str, value, low: int, high: int) -> int:
    """A whole number as int, by operator.index. Raises ValueError, with the range, for any other."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, found {value!r}")
    return number


def checked_maps(layer: str, count: int, maps: Iterable[int] | None = None) -> list[int]:
    """These of a layer's `count` maps as int, by default all. Raises ValueError naming the range."""
    if maps is None:
        return list(range(1, count + 1))
    numbers = list(maps) if isinstance(maps, Iterable) else []
    if not numbers:
        raise ValueError(f"maps: expected some of 1 to {count} of {layer}, or None for all, found {maps!r}")
    return [whole_number(f"map of {layer}", m, 1, count) for m in numbers]


def checked_choice(layer: str, shape: tuple[int, int, int], maps, top, top_of_layer, neuron) -> tuple:
    """The arguments of `Deconvnet.project` in int. Raises ValueError naming what is allowed."""
    numbers = checked_maps(layer, shape[0], maps)
    _, height, width = shape
    if sum(x is not None for x in (top, top_of_layer, neuron)) > 1 or (neuron is not None and maps is not None):
        raise ValueError("choose neurons by top, by top_of_layer or by neuron (which names its map), not by two")
    if top is not None:
        top = whole_number(f"top (neurons of a map of {layer})", top, 1, height * width)
    if top_of_layer is not None:
        most = height * width * len(set(numbers))
        top_of_layer = whole_number(f"top_of_layer (neurons of these maps of {layer})", top_of_layer, 1, most)
    if neuron is not None:
        if not isinstance(neuron, Sequence) or len(neuron) != 3:
            raise ValueError(f"neuron: expected (map, row, column), found {neuron!r}")
        neuron = tuple(int(n) for n in torch.cat(checked_neurons(layer, shape, *([n] for n in neuron))))
    return None if maps is None else numbers, top, top_of_layer, neuron


def checked_neurons(layer: str, shape: tuple[int, int, int], maps, rows, columns) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, rows and columns as int64 (K,) on the CPU. Raises ValueError naming what is allowed."""
    first = {"map": 1, "row": 0, "column": 0}
    checked = []
    for numbers, (what, low), count in zip((maps, rows, columns), first.items(), shape, strict=True):
        values = numbers.tolist() if isinstance(numbers, Tensor) else list(numbers)
        values = [whole_number(f"{what} of {layer}", n, low, low + count - 1) for n in values]
        checked.append(torch.tensor(values, dtype=torch.int64))
    if len({len(numbers) for numbers in checked}) > 1:
        raise ValueError(f"maps, rows, columns: expected as many of each, found {[len(n) for n in checked]}")
    return tuple(checked)
