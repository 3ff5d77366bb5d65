"""Windows onto feature maps: which positions of one layer belong to which of the layer below.

Shapes: M windows of one size, each at its own place; C maps, h rows and w columns of a window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualtl_lib.models.caffenet import Layer


class Window(NamedTuple):
    """M rectangles of one size: `height` rows from each of `tops`, `width` columns from each of `lefts` (int64, (M,)).

    They may hang over the edge of the map. tops and lefts are NumPy's: sizes are decided on the CPU.
    """

    tops: np.ndarray
    lefts: np.ndarray
    height: int
    width: int

    def spread(self, kernel: int, stride: int, padding: int) -> "Window":
        """The positions below that sliding windows at these positions see, beyond the edge of the map too."""
        return Window(
            self.tops * stride - padding,
            self.lefts * stride - padding,
            (self.height - 1) * stride + kernel,
            (self.width - 1) * stride + kernel,
        )

    def below_pool(self, layer: Layer) -> "Window":
        """The positions before a layer's pooling that these positions after it see."""
        return self.spread(layer.pool_kernel, layer.pool_stride, layer.pool_padding)

    def below_conv(self, layer: Layer) -> "Window":
        """The positions before a layer's convolution that these positions after it see."""
        return self.spread(layer.kernel, layer.stride, layer.padding)

    def beyond(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows (top, bottom) and columns (left, right) that are off a map of this size in all M windows."""
        return (
            max(0, -int(self.tops.max())),
            max(0, int(self.tops.min()) + self.height - height),
            max(0, -int(self.lefts.max())),
            max(0, int(self.lefts.min()) + self.width - width),
        )

    def narrow(self, top: int, bottom: int, left: int, right: int) -> "Window":
        """Without this many rows and columns at each side."""
        height, width = self.height - top - bottom, self.width - left - right
        return Window(self.tops + top, self.lefts + left, height, width)

    def cut(self, maps: Tensor) -> Tensor:
        """Maps (C, H, W) -> (M, C, h, w) in channels_last format; beyond an edge, its nearest value.

        One window that is the whole map gives the maps themselves.
        """
        height, width = maps.shape[1:]
        rows, columns = self._indices()
        if rows.shape == (1, height) and columns.shape == (1, width) and rows[0, 0] == columns[0, 0] == 0:
            return maps.unsqueeze(0)
        places = rows.clip(0, height - 1)[:, :, None] * width + columns.clip(0, width - 1)[:, None]
        # All maps of a position at once: half the time of indexing by row and column.
        flat = maps.permute(1, 2, 0).flatten(0, 1)
        found = flat.index_select(0, torch.from_numpy(places.ravel()).to(maps.device))
        return found.unflatten(0, places.shape).permute(0, 3, 1, 2)

    def clip(self, x: Tensor, height: int, width: int) -> tuple[Tensor, "Window"]:
        """Values x (M, C, h, w) over these windows, 0 off a map of this size, and the windows that touch the map."""
        top, bottom, left, right = self.beyond(height, width)
        kept = self.narrow(top, bottom, left, right)
        x = x[:, :, top : top + kept.height, left : left + kept.width]
        rows, columns = kept._indices()
        rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        if not (rows.all() and columns.all()):
            x = x * torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).to(x)
        return x, kept

    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (M, h) and columns (M, w)."""
        return self.tops[:, None] + np.arange(self.height), self.lefts[:, None] + np.arange(self.width)


def whole_map(height: int, width: int) -> Window:
    """The one window that is a map of this size."""
    return Window(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), height, width)


def receptive_field(layers: Sequence[Layer], positions: Window) -> Window:
    """The pixels that positions of the last layer's convolution see, beyond the edge of the image too.

    Args:
        layers: The layer table from the first layer on.
        positions: Windows onto the convolution of its last layer, before pooling.
    """
    window = positions.below_conv(layers[-1])
    for layer in reversed(layers[:-1]):
        if layer.pool:
            window = window.below_pool(layer)
        window = window.below_conv(layer)
    return window
