"""The projection from neurons back to pixels (eqs. 8-13), stage by stage, for one image's record.

Shapes: M projections made at once, C maps (O of a convolution's output, I of its input), h rows and w columns of a
window onto the maps. All that are made at once have windows of one size; the whole image is one window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib.models.caffenet import Layer, StageRecord, Trunk
from dualtl_lib.visualize.geometry import Window, receptive_field, whole_map

# Pixels of receptive fields computed at once, so that intermediate results stay in the cache (on a GPU, in memory).
PIXELS_AT_ONCE = {"cpu": 800_000, "cuda": 8_000_000}


class Rules(NamedTuple):
    """The choices in which the variants of the deconvnet differ.

    Attributes:
        rectify: Drop negative values in the backward pass.
        mask: Drop what was inactive in the forward pass.
        assign: Of pooling windows that share a winner the last in row-major order counts (eq. 8); otherwise they add.
        bias: Subtract the map's bias where a rectified value is left (eq. 9).
        lrn: Take the true gradient of local response normalization; otherwise it is passed by.
    """

    rectify: bool
    mask: bool
    assign: bool
    bias: bool
    lrn: bool


class Backward:
    """The backward pass from the last recorded stage of one image.

    Args:
        trunk: The network whose forward pass was recorded.
        record: Its stages for one image (N = 1), from the first on.
        rules: The variant.
    """

    def __init__(self, trunk: Trunk, record: Sequence[StageRecord], rules: Rules):
        self.trunk, self.record, self.rules = trunk, record, rules
        self.layers = trunk.layers[: len(record)]
        self.end = len(record) - 1
        self.counts = {}  # by stage: which pooling windows are the last that share their winner
        if rules.assign:
            stages = enumerate(zip(self.layers[:-1], record, strict=False))
            self.counts = {i: last_winner(layer, stage) for i, (layer, stage) in stages if layer.pool}

    def together(self, values: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Project neurons of the last stage together.

        Args:
            values: Where each neuron starts, shape (1, C, U, V); those that share a winner start alike.
            chosen: Which neurons, bool (C, U, V). Default: all.

        Returns:
            The projection, shape (1, 3, H, W).
        """
        stage, layer = self.record[self.end], self.layers[self.end]
        window = whole_map(*stage.pooled.shape[2:])
        u = values.clone() if chosen is None else values * chosen
        if layer.pool:  # those that share a winner start alike, so that any of them may be assigned
            u, window = self._unpool(self.end, u, window, slice(0, layer.maps), "amax" if self.rules.assign else "sum")
        x, window = self._convolution(self.end, u, window, slice(0, layer.maps))
        return place(x, window, self.record[0].size)

    def each(self, values: Tensor, maps: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Window]:
        """Project neurons of the last stage, each on its own, over their receptive fields only.

        Args:
            values: Where each neuron starts, shape (K,).
            maps: Its map, from 0; int64 (K,), on the CPU as the next two.
            rows: Row of its winner in the convolution's map; where nothing is pooled, its own.
            columns: Column of its winner.

        Returns:
            Projections (K, 3, S, S), 0 beyond the image, and their places in the image.
        """
        layer = self.layers[self.end]
        fields = receptive_field(self.layers, Window(rows.numpy(), columns.numpy(), 1, 1))
        patches = values.new_zeros(len(maps), 3, fields.height, fields.width)
        n_pixels = PIXELS_AT_ONCE.get(values.device.type, PIXELS_AT_ONCE["cuda"])
        n_at_once = max(1, n_pixels // (fields.height * fields.width))
        per_group = layer.maps // layer.groups
        # Neighbours together: those at an edge share the part that is off the map, which is not computed (1.4 times).
        order = (rows * self.record[self.end].conv.shape[3] + columns).argsort(stable=True)
        groups = maps[order] // per_group
        for group in groups.unique().tolist():  # the groups of a convolution see different maps
            first = group * per_group
            for some in order[groups == group].split(n_at_once):
                window = Window(rows[some].numpy(), columns[some].numpy(), 1, 1)
                u = values.new_zeros(len(some), per_group, 1, 1)
                u[torch.arange(len(some)), maps[some] - first] = values[some].view(-1, 1, 1)
                x, window = self._convolution(self.end, u, window, slice(first, first + per_group))
                top, left = int(window.tops[0] - fields.tops[some[0]]), int(window.lefts[0] - fields.lefts[some[0]])
                patches[some, :, top : top + window.height, left : left + window.width] = x
        return patches, fields

    def _below(self, at: int, y: Tensor, window: Window, maps: slice) -> tuple[Tensor, Window]:
        """From the maps that leave stage `at` to the image; y (M, C, h, w) are `maps`, the others are 0."""
        if at < 0:
            return self.trunk.transform.to_rgb(_widened(y, maps, 3)[0]), window
        layer, stage = self.layers[at], self.record[at]
        if self.trunk.order == "pool-norm":
            y, maps = self._normalization(at, stage.pooled, y, window, maps)
        if layer.pool:
            if self.rules.assign:
                y = y * window.cut(self.counts[at][maps])
            y, window = self._unpool(at, y, window, maps, "sum")
        return self._convolution(at, y, window, maps)

    def _convolution(self, at: int, u: Tensor, window: Window, maps: slice) -> tuple[Tensor, Window]:
        """From the maps of a convolution to the image: rectify, subtract the bias, convolve, go on below."""
        layer, stage, conv = self.layers[at], self.record[at], self.trunk.conv(self.layers[at].name)
        if self.trunk.order == "norm-pool":
            u, maps = self._normalization(at, stage.conv, u, window, maps)
        per_group = layer.maps // layer.groups if layer.groups > 1 else 1
        u, maps = _widened(u, maps, per_group)
        active = window.cut(stage.conv[0, maps]) > 0 if self.rules.mask else None
        assert conv.bias is not None
        h = rectify(u, active, conv.bias[maps], self.rules)
        group, groups = (maps.start // per_group, u.shape[1] // per_group) if layer.groups > 1 else (0, 1)
        below = slice(group * conv.weight.shape[1], (group + groups) * conv.weight.shape[1])
        fields = window.below_conv(layer)
        crop = min(fields.beyond(*stage.size))
        x = conv_transpose(h, conv.weight[maps], stride=layer.stride, padding=crop, groups=groups)
        x, window = fields.narrow(crop, crop, crop, crop).clip(x, *stage.size)
        return self._below(at - 1, x, window, below)

    def _normalization(self, at: int, forward: Tensor, y: Tensor, window: Window, maps: slice) -> tuple[Tensor, slice]:
        """Gradient of a stage's normalization of `forward` (1, C, H, W), or y itself; neighbouring maps take part."""
        if not (self.layers[at].norm and self.rules.lrn):
            return y, maps
        y, maps = _widened(y, maps, self.layers[at].maps)
        return self.trunk.norm.gradient(window.cut(forward[0]), y), maps

    def _unpool(self, at: int, y: Tensor, window: Window, maps: slice, reduce: str) -> tuple[Tensor, Window]:
        """Pooled values y (M, C, u, v) at their winners (eq. 8), others 0; `reduce` joins those that share a winner."""
        below = window.below_pool(self.layers[at])
        below = below.narrow(*below.beyond(*self.record[at].conv.shape[2:]))
        switches, width = self.record[at].winners()[maps], self.record[at].conv.shape[3]
        # Places in memory, in channels_last format: half the time of scattering along positions.
        count, n_maps = y.shape[:2]
        places = switches + switches.div(width, rounding_mode="floor") * (below.width - width)
        places = places * n_maps + torch.arange(n_maps, device=y.device).view(-1, 1, 1)
        shift = torch.from_numpy((below.tops * below.width + below.lefts) * n_maps).to(y.device)
        places = window.cut(places) - shift.view(-1, 1, 1, 1)
        u = y.new_zeros(count, below.height * below.width * n_maps)
        places, y = (t.permute(0, 2, 3, 1).flatten(1) for t in (places, y))
        u.scatter_reduce_(1, places, y, reduce)
        return u.view(count, below.height, below.width, n_maps).permute(0, 3, 1, 2), below


def rectify(u: Tensor, active: Tensor | None, bias: Tensor, rules: Rules) -> Tensor:
    """Eq. (9) and its relatives, in place.

    Args:
        u: Values at a convolution's output, shape (M, C, h, w).
        active: Whether the neurons were active in the forward pass, of the same shape; needed with `rules.mask`.
        bias: The convolution's, shape (C,).
        rules: The variant.
    """
    if rules.mask and active is not None:
        u.mul_(active)
    if rules.rectify:
        u.relu_()
    if rules.bias:  # a sign is 1 where something is left; in floating point much cheaper than where()
        u.addcmul_(u.sign().relu_(), bias.view(-1, 1, 1), value=-1)
    return u


def last_winner(layer: Layer, stage: StageRecord) -> Tensor:
    """Whether no later pooling window, in row-major order, has the same winner; bool (C, U, V)."""
    switches = stage.winners()
    height, width = switches.shape[1:]
    last = torch.ones_like(switches, dtype=torch.bool)
    reach = -(-layer.pool_kernel // layer.pool_stride) - 1  # windows further apart than this do not overlap
    apart = reach * layer.pool_stride + layer.pool_kernel - 1  # rows or columns, at most, between compared winners
    if (
        apart * (stage.conv.shape[3] + 1) < 256
    ):  # their last bytes tell them apart, and compare in a quarter of the time
        switches = switches.to(torch.uint8)
    for down in range(min(reach, height - 1) + 1):
        for right in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            if (down, right) <= (0, 0):
                continue
            here = slice(0, height - down), slice(max(-right, 0), width - max(right, 0))
            later = slice(down, height), slice(max(right, 0), width - max(-right, 0))
            last[:, *here] &= switches[:, *here] != switches[:, *later]
    return last


def conv_transpose(h: Tensor, weight: Tensor, *, stride: int, padding: int, groups: int) -> Tensor:
    """Eqs. (10)-(13): F.conv_transpose2d of h (M, O, h, w) and weight (O, I / groups, k, k).

    With a stride, by polyphase kernels: output (s y + a, s x + b) depends on inputs y, y - 1, … only, so each of the
    s x s phases (a, b) is a convolution of stride 1 with a kernel ceil(k / s) wide. At conv1 on a CPU five to twelve
    times as fast as F.conv_transpose2d.
    """
    h = h.contiguous(memory_format=torch.channels_last)
    if stride == 1:
        return F.conv_transpose2d(h, weight, None, 1, padding, 0, groups)
    outs, ins, k, _ = weight.shape
    small = -(-k // stride)
    split = F.pad(weight, (0, small * stride - k) * 2)
    split = split.view(groups, outs // groups, ins, small, stride, small, stride)
    kernels = split.flip(3, 5).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, outs // groups, small, small)
    x = F.conv2d(h, kernels, padding=small - 1, groups=groups).permute(0, 2, 3, 1)
    # F.pixel_shuffle, which takes twice as long in channels_last format.
    x = x.unflatten(3, (-1, stride, stride)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    height, width = ((size - 1) * stride + k - 2 * padding for size in h.shape[2:])
    return x[:, :, padding : padding + height, padding : padding + width]


def _widened(y: Tensor, maps: slice, unit: int) -> tuple[Tensor, slice]:
    """Maps `maps`, y (M, C, h, w), with zeros for others, so that they begin and end at multiples of `unit`."""
    first, stop = maps.start // unit * unit, -(-maps.stop // unit) * unit
    if (first, stop) == (maps.start, maps.stop):
        return y, maps
    return F.pad(y, (0, 0, 0, 0, maps.start - first, stop - maps.stop)), slice(first, stop)


def place(x: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """One window's x (1, C, h, w) in an image of this size, 0 around it."""
    top, left = int(window.tops[0]), int(window.lefts[0])
    # A negative pad cuts off what lies beyond the edge.
    return F.pad(x, (left, size[1] - left - x.shape[3], top, size[0] - top - x.shape[2]))
