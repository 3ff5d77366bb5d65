"""The way forward with switches and the way back (eqs. 4-13), stage by stage, for pictures or for parts of them.

Shapes: M projections made at once from one image, C maps, h rows and w columns of a rectangle of the maps. All that
are made at once share the rectangle, so switches are cut out once. The whole picture is the largest rectangle.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Pool(NamedTuple):
    """Geometry of a max pooling."""

    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = True


class Stage(NamedTuple):
    """A convolution and what follows it up to the next.

    weight: [O, I / groups, k, k]; bias: [O]; back: the weight as `transposed` wants it; norm: a LocalResponseNorm.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pool: Pool | None = None
    norm: object = None
    norm_first: bool = False


class Record(NamedTuple):
    """What the way back needs to know of one image at one stage; the leading axis of size 1 is the image."""

    size: tuple[int, int]  # of the maps that enter the stage
    conv: Tensor  # [1, C, H, W] after ReLU, eq. (4)
    pooled: Tensor  # [1, C, U, V] where neurons live, eq. (6); conv itself where nothing is pooled
    switches: Tensor | None  # int64 [C, U, V], eq. (7), each row * W + column of the winner
    last: Tensor | None  # bool [C, U, V]: no later window shares this one's winner


class Rules(NamedTuple):
    """How a variant goes back.

    rectify: drop negative values on the way back. mask: drop what was inactive on the way forward. assign: of
    windows that share a winner the last in row-major order counts (eq. 8); otherwise they add. bias: subtract the
    map's bias where a rectified value is left (eq. 9). lrn: take the normalization's true gradient.
    """

    rectify: bool
    mask: bool
    assign: bool
    bias: bool
    lrn: bool


class Box(NamedTuple):
    """Rows top..bottom-1 and columns left..right-1 of a map."""

    top: int
    bottom: int
    left: int
    right: int

    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    def columns(self) -> slice:
        return slice(self.left, self.right)

    def spread(self, kernel: int, stride: int, padding: int) -> "Box":
        """What windows at these places see, edges of the map not minded."""
        low, high = -padding, kernel - padding - stride
        return Box(
            self.top * stride + low, self.bottom * stride + high, self.left * stride + low, self.right * stride + high
        )

    def clip(self, height: int, width: int) -> "Box":
        return Box(max(self.top, 0), min(self.bottom, height), max(self.left, 0), min(self.right, width))


def forward(stages: list[Stage], x: Tensor) -> list[Record]:
    """One transformed image [1, 3, H, W] through the stages, with the switches kept."""
    records = []
    for stage in stages:
        size = tuple(x.shape[2:])
        x = x.contiguous(memory_format=torch.channels_last)
        conv = F.conv2d(x, stage.weight, stage.bias, stage.stride, stage.padding, 1, stage.groups).relu_()
        x = stage.norm(conv) if stage.norm and stage.norm_first else conv
        switches = last = None
        if stage.pool:
            kernel, stride, padding, ceil = stage.pool
            x, winners = F.max_pool2d(
                x.contiguous(memory_format=torch.channels_last), kernel, stride, padding, ceil_mode=ceil,
                return_indices=True,
            )  # fmt: skip
            switches = winners[0].contiguous()
            last = last_winner(switches, stage.pool)
        records.append(Record(size, conv, x, switches, last))
        if stage.norm and not stage.norm_first:
            x = stage.norm(x)
    return records


def last_winner(switches: Tensor, pool: Pool, chosen: Tensor | None = None) -> Tensor:
    """Whether no later chosen window, in row-major order, has the same winner; bool like switches [C, U, V]."""
    height, width = switches.shape[1:]
    last = torch.ones_like(switches, dtype=torch.bool)
    reach = -(-pool.kernel // pool.stride) - 1  # windows further apart than this do not overlap
    for down in range(min(reach, height - 1) + 1):
        for right in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            if (down, right) <= (0, 0):
                continue
            here = slice(0, height - down), slice(max(-right, 0), width - max(right, 0))
            there = slice(down, height), slice(max(right, 0), width - max(-right, 0))
            same = switches[:, *here] == switches[:, *there]
            if chosen is not None:
                same &= chosen[:, *there]
            last[:, *here] &= ~same
    return last


def unpool(y: Tensor, switches: Tensor, box: Box, width: int) -> Tensor:
    """Pooled values [M, C, u, v] at their winners (eq. 8), others 0: [M, C, h, w] over a box of maps `width` wide.

    Values that share a winner add; give 0 for those that should not count.
    """
    h, w = box.bottom - box.top, box.right - box.left
    rows = torch.div(switches, width, rounding_mode="floor")
    places = (rows - box.top) * w + (switches - rows * width - box.left)
    out = y.new_zeros(*y.shape[:2], h * w)
    out.scatter_add_(2, places.flatten(1).expand(len(y), -1, -1), y.flatten(2))
    return out.unflatten(2, (h, w))


def normalize_back(norm, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of local response normalization at x [1, C, h, w], times gradient [M, C, h, w]."""
    factor = norm.factor(x)
    half, maps = norm.size // 2, x.shape[1]
    shared = F.pad(gradient * (x * factor * factor.pow(1 / norm.beta)), (0, 0, 0, 0, half, half))
    across = sum(shared[:, shift : shift + maps] for shift in range(norm.size))
    return factor * gradient - (2 * norm.beta * norm.alpha / norm.size) * x * across


def rectify(u: Tensor, conv: Tensor, rules: Rules, bias: Tensor) -> Tensor:
    """Eq. (9) and its relatives; u [M, C, h, w], conv [1, C, h, w] the forward values there, bias [C]."""
    if rules.mask:
        u = u * (conv > 0)
    if rules.rectify:
        u = u.relu()
    if rules.bias:
        u = torch.where(u > 0, u - bias.view(-1, 1, 1), u)
    return u


def phases(weight: Tensor, stride: int, groups: int) -> Tensor:
    """A weight [O, I / groups, k, k] as that of an ordinary convolution that undoes the strided one.

    Pixel (s y + a, s x + b) of what entered depends on positions y, y-1, ... only, so each of the s x s phases (a, b)
    is a stride-1 convolution of a kernel ceil(k / s) wide, and `pixel_shuffle` puts them together. On a CPU three
    times as fast as conv_transpose2d for conv1.
    """
    o, i, k, _ = weight.shape
    small = -(-k // stride)
    padded = F.pad(weight, (0, small * stride - k) * 2)
    split = padded.view(groups, o // groups, i, small, stride, small, stride)
    turned = split.permute(0, 2, 4, 6, 1, 3, 5).flip(-1, -2)
    return turned.reshape(-1, o // groups, small, small).contiguous(memory_format=torch.channels_last)


def transposed(h: Tensor, back: Tensor, stage: Stage, groups: int, box: Box, size: tuple[int, int]):
    """Eqs. (10)-(13): h [M, O, h, w] over a box of convolution maps -> what entered, and the box it covers.

    back: `phases` of the weight. Returns ([M, I, h', w'], box); beyond `size`, in the padding, nothing is kept.
    """
    k, s = stage.weight.shape[2], stage.stride
    small = back.shape[2]
    full = box.spread(k, s, stage.padding)
    kept = full.clip(*size)
    cut = (kept.top - full.top, full.bottom - kept.bottom, kept.left - full.left, full.right - kept.right)
    spare = min(*cut, small - 1) if s == 1 else 0  # computed for nothing otherwise
    x = F.conv2d(h.contiguous(memory_format=torch.channels_last), back, padding=small - 1 - spare, groups=groups)
    x = F.pixel_shuffle(x, s) if s > 1 else x
    top, left = cut[0] - spare, cut[2] - spare
    return x[:, :, top : top + kept.bottom - kept.top, left : left + kept.right - kept.left], kept


def field(stages: list[Stage]) -> Box:
    """What one position of the last stage's convolution at (0, 0) sees of the image, edges not minded."""
    box = Box(0, 1, 0, 1)
    for i, stage in reversed(list(enumerate(stages))):
        box = box.spread(stage.weight.shape[2], stage.stride, stage.padding)
        if i and (pool := stages[i - 1].pool):
            box = box.spread(*pool[:3])
    return box


class Projector:
    """The way back through stages under one set of rules, for one image's records at a time."""

    def __init__(self, stages: list[Stage], rules: Rules):
        self.stages, self.rules = stages, rules
        self.cut = {}  # weights as `phases` of the maps in use, by (stage, first map, last map)

    def whole(self, records: list[Record], values: Tensor, chosen: Tensor) -> Tensor:
        """Neurons of the last of `records`, together: [1, 3, H, W].

        values: what each neuron starts with [1, C, U, V]; chosen: bool [C, U, V]. Only chosen ones are assigned.
        """
        at = len(records) - 1
        stage, record = self.stages[at], records[at]
        y = values * chosen
        if stage.pool and self.rules.assign:
            y = y * last_winner(record.switches, stage.pool, chosen)
        maps = slice(0, y.shape[1])
        x, box = self._down(records, at, y, Box(0, y.shape[2], 0, y.shape[3]), maps, normalized=False)
        height, width = records[0].size  # pixels that no window sees are left out so far
        return F.pad(x, (box.left, width - box.right, box.top, height - box.bottom))

    def one_each(self, records: list[Record], values: Tensor, maps: Tensor, row: int, column: int):
        """Neurons [M] of these maps (from 0), each on its own, that all won at one position of the last convolution.

        The maps must be of one group. values: [M]. Returns ([M, 3, h, w], box): the clipped receptive field.
        """
        at = len(records) - 1
        stage, record = self.stages[at], records[at]
        box = Box(row, row + 1, column, column + 1)
        if stage.norm and stage.norm_first and self.rules.lrn:  # neighbouring maps take part
            u = values.new_zeros(len(maps), len(stage.weight), 1, 1)
            u[torch.arange(len(maps), device=maps.device), maps] = values.view(-1, 1, 1)
            u = normalize_back(stage.norm, record.conv[:, :, box.rows(), box.columns()], u)
            return self._convolved(records, at, u, box, slice(0, u.shape[1]))
        forward_values = record.conv[0, maps, row, column].view(-1, 1, 1, 1)
        h = rectify(values.view(-1, 1, 1, 1), forward_values, self.rules, values.new_zeros(1))
        if self.rules.bias:
            h = torch.where(h > 0, h - stage.bias[maps].view(-1, 1, 1, 1), h)
        x = h * stage.weight[maps]
        full = box.spread(stage.weight.shape[2], stage.stride, stage.padding)
        kept = full.clip(*record.size)
        x = x[:, :, kept.top - full.top : kept.bottom - full.top, kept.left - full.left : kept.right - full.left]
        first = int(maps[0]) // (len(stage.weight) // stage.groups) * x.shape[1]
        return self._down(records, at - 1, x, kept, slice(first, first + x.shape[1]))

    def _down(self, records, at: int, y: Tensor, box: Box, maps: slice, normalized: bool = True):
        """From the maps after stage `at` to the image; y [M, maps, h, w] are all that is not 0."""
        if at < 0:  # a group of the first stage reaches some colours only
            colours = self.stages[0].weight.shape[1] * self.stages[0].groups
            return F.pad(y, (0, 0, 0, 0, maps.start, colours - maps.stop)), box
        stage, record, rules = self.stages[at], records[at], self.rules
        if stage.norm and rules.lrn:  # neighbouring maps take part: fill up to all of them
            y = F.pad(y, (0, 0, 0, 0, maps.start, len(stage.weight) - maps.stop))
            maps = slice(0, len(stage.weight))
            if normalized and not stage.norm_first:
                y = normalize_back(stage.norm, record.pooled[:, :, box.rows(), box.columns()], y)
        if stage.pool:
            if rules.assign and normalized:  # where neurons were chosen, `whole` has done it
                y = y * record.last[maps, box.rows(), box.columns()]
            inner = box.spread(*stage.pool[:3]).clip(*record.conv.shape[2:])
            y = unpool(y, record.switches[maps, box.rows(), box.columns()], inner, record.conv.shape[3])
            box = inner
        if stage.norm and stage.norm_first and rules.lrn:
            y = normalize_back(stage.norm, record.conv[:, :, box.rows(), box.columns()], y)
        return self._convolved(records, at, y, box, maps)

    def _convolved(self, records, at: int, u: Tensor, box: Box, maps: slice):
        """Rectify, subtract the bias, convolve back, and on to the stages below."""
        stage, record = self.stages[at], records[at]
        forward_values = record.conv[:, maps, box.rows(), box.columns()]
        h = rectify(u, forward_values, self.rules, stage.bias[maps])
        back, groups, below = self._weights(at, maps)
        x, box = transposed(h, back, stage, groups, box, record.size)
        return self._down(records, at - 1, x, box, below)

    def _weights(self, at: int, maps: slice) -> tuple[Tensor, int, slice]:
        """Weights of these maps only, their number of groups, and the maps below that they reach."""
        stage = self.stages[at]
        outs, ins = len(stage.weight) // stage.groups, stage.weight.shape[1]
        first, stop = maps.start // outs, -(-maps.stop // outs)
        groups = stop - first
        if (at, maps.start, maps.stop) not in self.cut:
            weight = stage.weight[maps]
            if groups > 1 and len(weight) != groups * outs:  # some of one group and some of another: fill both
                weight = F.pad(weight, (0, 0, 0, 0, 0, 0, maps.start - first * outs, stop * outs - maps.stop))
            self.cut[at, maps.start, maps.stop] = phases(weight, stage.stride, groups)
        return self.cut[at, maps.start, maps.stop], groups, slice(first * ins, stop * ins)
