"""The way forward with switches and the way back (eqs. 4-13), stage by stage, for pictures or for parts of them.

Shapes: M projections made at once from one image, C maps, h rows and w columns of a window onto the maps. All that
are made at once have windows of one size, each at its own place. The whole picture is one window, the largest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib.models.normalization import neighbourhood

# Pixels of receptive fields computed at once: so many that what lies between stays in the cache (on a GPU, in memory).
AT_ONCE = {"cpu": 800_000, "cuda": 8_000_000}


class Pool(NamedTuple):
    """Geometry of a max pooling."""

    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = True


class Convolution:
    """F.conv2d of one weight [O, I / groups, k, k], which is packed once for whole pictures.

    F.conv2d packs a weight as oneDNN wants it at every call: for one picture a tenth (conv2) to a fifth (conv5) of its
    time. The operators that keep it packed are TorchInductor's. Elsewhere than in float32 on a CPU, it is F.conv2d.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, stride: int = 1, groups: int = 1):
        self.weight, self.bias, self.stride, self.groups = weight, bias, stride, groups
        self._packed_for, self._packed = None, None

    def __call__(self, x: Tensor, padding: int, whole: bool) -> Tensor:
        """x [M, I, h, w], maps last in memory -> [M, O, h', w']. whole: this size of x will come again and again."""
        onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        if not (whole and onednn and x.device.type == "cpu" and x.dtype == torch.float32):
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        geometry = (padding, padding), (self.stride, self.stride), (1, 1), self.groups
        if self._packed_for != (x.shape, padding):
            self._packed = torch._C._nn.mkldnn_reorder_conv2d_weight(self.weight.to_mkldnn(), *geometry, x.shape)
            self._packed_for = x.shape, padding
        # Without its ReLU, which makes 0 of NaN.
        return torch.ops.mkldnn._convolution_pointwise(x, self._packed, self.bias, *geometry, "none", [], "")

    def __getstate__(self):
        return vars(self) | {"_packed_for": None, "_packed": None}  # oneDNN's tensors cannot be copied or pickled


@dataclass(frozen=True, eq=False)
class Stage:
    """A convolution and what follows it up to the next.

    weight: [O, I / groups, k, k]; bias: [O]; norm: a LocalResponseNorm.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pool: Pool | None = None
    norm: object = None
    norm_first: bool = False

    @cached_property
    def convolution(self) -> Convolution:
        return Convolution(self.weight, self.bias, self.stride, self.groups)


class Record(NamedTuple):
    """What the way back needs to know of one image at one stage; the leading axis of size 1 is the image."""

    size: tuple[int, int]  # of the maps that enter the stage
    conv: Tensor  # [1, C, H, W] after ReLU, eq. (4)
    pooled: Tensor  # [1, C, U, V] where neurons live, eq. (6); conv itself where nothing is pooled
    switches: Tensor | None  # int64 [C, U, V], eq. (7), each row * W + column of the winner
    pool: Pool | None
    kept: dict  # what follows from these and was asked for, of winners the last

    def last(self) -> Tensor:
        """Whether no later window shares this one's winner: bool [C, U, V]."""
        if "last" not in self.kept:
            self.kept["last"] = last_winner(self.switches, self.pool, self.conv.shape[3])
        return self.kept["last"]

    def winners(self, width: int, maps: slice) -> Tensor:
        """Where the winners of these maps are in a window that is `width` wide and begins where the map does.

        int64 [C, U, V], counted as such a window lies in memory, maps last: (row * width + column) * C + map.
        """
        asked = width, maps.start, maps.stop
        if self.kept.get("asked") != asked:
            places, own = self.switches[maps], self.conv.shape[3]
            if width != own:
                places = places + torch.div(places, own, rounding_mode="floor") * (width - own)
            numbers = torch.arange(len(places), device=places.device).view(-1, 1, 1)
            self.kept.update(asked=asked, winners=torch.add(numbers, places, alpha=len(places)))
        return self.kept["winners"]

    def gradient_parts(self, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
        """`gradient_parts` of this stage's normalization."""
        if "parts" not in self.kept:
            self.kept["parts"] = gradient_parts(stage.norm, self.conv if stage.norm_first else self.pooled)
        return self.kept["parts"]


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


class Window(NamedTuple):
    """M rectangles of one size: `height` rows from each of `tops`, `width` columns from each of `lefts` (int64 [M]).

    They may hang over the edge of the map. tops and lefts are NumPy's: sizes are decided on the CPU, where it takes
    less time than torch for a few numbers.
    """

    tops: np.ndarray
    lefts: np.ndarray
    height: int
    width: int

    def spread(self, kernel: int, stride: int, padding: int) -> "Window":
        """What sliding windows at these places see, edges of the map not minded."""
        return Window(
            self.tops * stride - padding,
            self.lefts * stride - padding,
            (self.height - 1) * stride + kernel,
            (self.width - 1) * stride + kernel,
        )

    def narrow(self, top: int, bottom: int, left: int, right: int) -> "Window":
        """Without this many rows and columns at each side."""
        height, width = self.height - top - bottom, self.width - left - right
        return Window(self.tops + top, self.lefts + left, height, width)

    def beyond(self, height: int, width: int) -> tuple[int, int, int, int]:
        """How many rows and columns at each side (as `narrow` takes them) are off the map in all M."""
        return (
            max(0, -int(self.tops.max())),
            max(0, int(self.tops.min()) + self.height - height),
            max(0, -int(self.lefts.max())),
            max(0, int(self.lefts.min()) + self.width - width),
        )

    def cut(self, maps: Tensor) -> Tensor:
        """Maps [C, H, W] -> [M, C, h, w] in channels-last order; beyond an edge, its nearest value.

        Of one window that is the whole map, the maps themselves.
        """
        whole = maps.shape[1:] == (self.height, self.width)
        if whole and len(self.tops) == 1 and not self.tops[0] and not self.lefts[0]:
            return maps.unsqueeze(0)
        height, width = maps.shape[1:]
        rows, columns = self._indices()
        at = rows.clip(0, height - 1)[:, :, None] * width + columns.clip(0, width - 1)[:, None]
        # Whole positions, all maps of each, are gathered in half the time that indexing by row and column takes.
        found = maps.permute(1, 2, 0).flatten(0, 1).index_select(0, torch.from_numpy(at.ravel()).to(maps.device))
        return found.unflatten(0, at.shape).permute(0, 3, 1, 2)

    def drop_beyond(self, x: Tensor, height: int, width: int) -> Tensor:
        """x [M, C, h, w] with zeros where it hangs over the edge of a map, written into x."""
        rows, columns = self._indices()
        rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        if rows.all() and columns.all():
            return x
        return x.mul_(torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).to(x))

    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows [M, h] and columns [M, w]."""
        return self.tops[:, None] + np.arange(self.height), self.lefts[:, None] + np.arange(self.width)


def forward(stages: list[Stage], x: Tensor, switches: bool = True) -> list[Record]:
    """One transformed image [1, 3, H, W] through the stages, with the switches kept unless not wanted."""
    records = []
    for stage in stages:
        size = tuple(x.shape[2:])
        x = x.contiguous(memory_format=torch.channels_last)
        conv = stage.convolution(x, stage.padding, whole=True).relu_()
        # Normalized by its factor, not by calling it: one image needs no parts, and nothing is kept for going back.
        x = conv * stage.norm.factor(conv) if stage.norm and stage.norm_first else conv
        winners = None
        if stage.pool:
            x = x.contiguous(memory_format=torch.channels_last)
            x = F.max_pool2d(x, *stage.pool[:3], ceil_mode=stage.pool.ceil, return_indices=switches)
            if switches:
                x, winners = x[0], x[1][0]
        records.append(Record(size, conv, x, winners, stage.pool, {}))
        if stage.norm and not stage.norm_first and stage is not stages[-1]:
            x = x * stage.norm.factor(x)
    return records


def last_winner(switches: Tensor, pool: Pool, columns: int) -> Tensor:
    """Whether no later window, in row-major order, has the same winner; bool like switches [C, U, V].

    columns: of the map that was pooled; switches are row * columns + column.
    """
    height, width = switches.shape[1:]
    last = torch.ones_like(switches, dtype=torch.bool)
    reach = -(-pool.kernel // pool.stride) - 1  # windows further apart than this do not overlap
    apart = reach * pool.stride + pool.kernel - 1  # rows, or columns, at most, between winners that are compared
    if apart * (columns + 1) < 256:  # their last bytes tell them apart, and compare in a quarter of the time
        switches = switches.to(torch.uint8)
    for down in range(min(reach, height - 1) + 1):
        for right in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            if (down, right) <= (0, 0):
                continue
            here = slice(0, height - down), slice(max(-right, 0), width - max(right, 0))
            there = slice(down, height), slice(max(right, 0), width - max(-right, 0))
            # Not &=, which would copy the slice onto itself once more.
            last[:, *here].logical_and_(switches[:, *here] != switches[:, *there])
    return last


def unpool(y: Tensor, places: Tensor, window: Window) -> Tensor:
    """Pooled values y [M, C, u, v] at their winners (eq. 8), others 0: [M, C, h, w] over `window`.

    places: int64 [M, C, u, v], as Record.winners(window.width, …) has them; changed here where a window does not begin
    with the map. Values that share a winner add; give 0 for those that should not count.
    """
    count, maps = y.shape[:2]
    shift = window.tops * window.width + window.lefts
    if shift.any():
        places -= torch.from_numpy(shift * maps).view(-1, 1, 1, 1).to(y.device)
    out = y.new_zeros(count, window.height * window.width * maps)
    # As one row of numbers, in the order they lie in memory: half the time of scattering along positions.
    out.scatter_add_(1, *(t.permute(0, 2, 3, 1).flatten(1) for t in (places, y)))
    return out.view(count, window.height, window.width, maps).permute(0, 3, 1, 2)


def gradient_parts(norm, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient of local response normalization, y = x s^-b, at x [1, C, H, W] is made of, each of that shape.

    factor = s^-b, slope = x s^(-b - 1) and pull = 2 b alpha / size x; then dL/dx = factor g - pull sum(slope g), where
    the sum is over neighbouring maps.
    """
    factor = norm.factor(x)
    return factor, x * factor * factor.pow(1 / norm.beta), x * (2 * norm.beta * norm.alpha / norm.size)


def normalize_back(parts: tuple[Tensor, Tensor, Tensor], gradient: Tensor, window: Window | None = None) -> Tensor:
    """The gradient of local response normalization, of these `gradient_parts`, times gradient [M, C, h, w] over a
    window of them. Without a window, over all of them."""
    factor, slope, pull = (window.cut(maps[0]) for maps in parts) if window else parts
    # Maps come last in memory, so a product adds up neighbours in less time than sums of shifted slices take.
    across = (slope.mul(gradient).permute(0, 2, 3, 1) @ neighbourhood(slope)).permute(0, 3, 1, 2)
    return factor.mul(gradient).addcmul_(pull, across, value=-1)


def rectify(u: Tensor, active: Tensor | None, rules: Rules, bias: Tensor) -> Tensor:
    """Eq. (9) and its relatives, in place; u [M, C, h, w], active: bool, the same, on the way forward; bias [C]."""
    if rules.mask:
        u *= active
    if rules.rectify:
        u.relu_()
    if rules.bias:  # a sign is 1 where something is left; in floating point much cheaper than where()
        u.addcmul_(u.sign().relu_(), bias.view(-1, 1, 1), value=-1)
    return u


def phases(weight: Tensor, stride: int, groups: int) -> Tensor:
    """A weight [O, I, k, k] as that of a convolution of stride 1 that goes back.

    Pixel (s y + a, s x + b) of what entered depends on positions y, y-1, ... only, so each of the s x s phases (a, b)
    is a stride-1 convolution of a kernel l = ceil(k / s) wide, and `shuffled` puts them together. On a CPU three times
    as fast as a transposed convolution of that stride for conv1. Returns [groups * I * s * s, O / groups, l, l], turned
    by 180 degrees.
    """
    o, i, k, _ = weight.shape
    small = -(-k // stride)
    split = F.pad(weight, (0, small * stride - k) * 2).view(groups, o // groups, i, small, stride, small, stride)
    turned = split.flip(3, 5).permute(0, 2, 4, 6, 1, 3, 5)
    return turned.reshape(-1, o // groups, small, small).contiguous(memory_format=torch.channels_last)


def shuffled(x: Tensor, s: int) -> Tensor:
    """F.pixel_shuffle, [M, I * s * s, h, w] -> [M, I, h * s, w * s], faster out of channels-last order.

    The s pixels of a row that lie together are moved as one number of as many bytes, where there is one.
    """
    if s == 1:
        return x
    count, _, height, width = x.shape
    as_one = {8: torch.float64, 16: torch.complex128}.get(s * x.element_size(), x.dtype)
    numbers = x.permute(0, 2, 3, 1).flatten().view(as_one)
    numbers = numbers.view(count, height, width, -1, s, s if as_one == x.dtype else 1)
    return numbers.permute(0, 3, 1, 4, 2, 5).flatten().view(x.dtype).view(count, -1, height * s, width * s)


def transposed(h: Tensor, back: Convolution, stage: Stage, window: Window, record: Record):
    """Eqs. (10)-(13): h [M, O, h, w] over a window of convolution maps -> what entered, and the window it covers.

    back: of the weight's `phases`. Returns ([M, I, h', w'], window); beyond the maps, in the padding, nothing is kept.
    """
    s = stage.stride
    full = window.spread(stage.weight.shape[2], s, stage.padding)
    spare = min(full.beyond(*record.size)) if s == 1 else 0  # computed for nothing otherwise
    whole = len(h) == 1 and h.shape[2:] == record.conv.shape[2:]
    x = back(h.contiguous(memory_format=torch.channels_last), back.weight.shape[2] - 1 - spare, whole)
    return clip(shuffled(x, s), full.narrow(spare, spare, spare, spare), record.size)


def clip(x: Tensor, window: Window, size: tuple[int, int]) -> tuple[Tensor, Window]:
    """What of x [M, C, h, w] over a window is on a map of this size: 0 where it is not, and without what never is."""
    beyond = top, _, left, _ = window.beyond(*size)
    kept = window.narrow(*beyond)
    x = x[:, :, top : top + kept.height, left : left + kept.width]
    return x if len(x) == 1 else kept.drop_beyond(x, *size), kept


def field(stages: list[Stage], rows: np.ndarray, columns: np.ndarray) -> Window:
    """What these positions [M] of the last stage's convolution see of the image, edges not minded."""
    window = Window(rows, columns, 1, 1)
    for i, stage in reversed(list(enumerate(stages))):
        window = window.spread(stage.weight.shape[2], stage.stride, stage.padding)
        if i and (pool := stages[i - 1].pool):
            window = window.spread(*pool[:3])
    return window


class Projector:
    """The way back through stages under one set of rules, for one image's records at a time.

    to_rgb: what puts the colours of what enters the first stage, [M, 3, h, w], into the order of the result.
    """

    def __init__(self, stages: list[Stage], rules: Rules, to_rgb: Callable[[Tensor], Tensor] = lambda x: x):
        first = replace(stages[0], weight=to_rgb(stages[0].weight))  # so that nothing is left to reorder at the end
        self.stages, self.rules = [first, *stages[1:]], rules
        self.back = {}  # Convolutions of the maps in use, by (stage, first map, one after the last)

    def whole(self, records: list[Record], values: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Neurons of the last of `records`, together: [1, 3, H, W].

        values: what each neuron starts with [1, C, U, V], the same for those that share a winner; chosen: bool
        [C, U, V], None for all.
        """
        at = len(records) - 1
        record, maps = records[at], slice(0, values.shape[1])
        origin = np.zeros(1, dtype=np.int64)
        window = Window(origin, origin, *record.conv.shape[2:])
        if record.pool:
            places, values = record.winners(window.width, maps), values[0]
            # All in the order they lie in memory.
            places, values = (t.permute(1, 2, 0).flatten() if chosen is None else t[chosen] for t in (places, values))
            u = values.new_zeros(record.conv.numel())
            # Whichever of those that share a winner is the last, it writes the same.
            (u.index_copy_ if self.rules.assign else u.index_add_)(0, places, values)
            u = u.view(1, window.height, window.width, -1).permute(0, 3, 1, 2)
        else:
            u = values.clone() if chosen is None else values * chosen
        x, window = self._convolved(records, at, u, window, maps)
        return paste(x, window, records[0].size)

    def each(self, records: list[Record], values: Tensor, maps: Tensor, rows: Tensor, columns: Tensor):
        """Neurons of these maps (from 0), each on its own, that won at these positions of the last convolution.

        values: [K]; maps, rows, columns: int64 [K], on the CPU. Returns ([K, 3, S, S], window): the receptive fields,
        0 beyond the picture's edge.
        """
        stages = self.stages[: len(records)]
        seen = field(stages, rows.numpy(), columns.numpy())
        patches = values.new_empty(len(maps), stages[0].weight.shape[1] * stages[0].groups, seen.height, seen.width)
        group = maps // (len(stages[-1].weight) // stages[-1].groups)
        order = (group * records[-1].conv[0, 0].numel() + rows * records[-1].conv.shape[3] + columns).argsort()
        many = max(1, AT_ONCE.get(values.device.type, AT_ONCE["cuda"]) // (seen.height * seen.width))
        for some in (part for g in group.unique() for part in order[group[order] == g].split(many)):
            window = Window(rows[some].numpy(), columns[some].numpy(), 1, 1)
            x, window = self._start(records, values[some], maps[some], window)
            top, left = int(window.tops[0] - seen.tops[some[0]]), int(window.lefts[0] - seen.lefts[some[0]])
            bottom, right = seen.height - top - window.height, seen.width - left - window.width
            patches[some] = F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x
        return patches, seen

    def _start(self, records, values: Tensor, maps: Tensor, window: Window):
        """From neurons [M] of one group, each with its window of one convolution position, to the image."""
        at = len(records) - 1
        stage, record = self.stages[at], records[at]
        if stage.norm and stage.norm_first and self.rules.lrn:  # neighbouring maps take part
            u = values.new_zeros(len(maps), len(stage.weight), 1, 1)
            u[torch.arange(len(maps)), maps] = values.view(-1, 1, 1)
            return self._convolved(records, at, u, window, slice(0, u.shape[1]))
        outs = len(stage.weight) // stage.groups
        group = int(maps[0]) // outs  # asked of the CPU: a GPU would have to be waited for
        maps = maps.to(values.device)
        rows, columns = (torch.from_numpy(t).to(maps.device) for t in (window.tops, window.lefts))
        active = record.conv[0, maps, rows, columns] > 0
        h = rectify(values.clone().view(1, -1, 1, 1), active.view(1, -1, 1, 1), self.rules, stage.bias[maps])
        x = h.view(-1, 1, 1, 1) * stage.weight[maps]
        x, window = clip(x, window.spread(stage.weight.shape[2], stage.stride, stage.padding), record.size)
        below = slice(group * x.shape[1], (group + 1) * x.shape[1])
        return self._down(records, at - 1, x, window, below)

    def _down(self, records, at: int, y: Tensor, window: Window, maps: slice):
        """From the maps that leave stage `at` to the image; y [M, maps, h, w] are all that is not 0."""
        if at < 0:  # a group of the first stage reaches some colours only
            colours = self.stages[0].weight.shape[1] * self.stages[0].groups
            return y if y.shape[1] == colours else F.pad(y, (0, 0, 0, 0, maps.start, colours - maps.stop)), window
        stage, record, rules = self.stages[at], records[at], self.rules
        if stage.norm and rules.lrn:  # neighbouring maps take part: fill up to all of them
            y = F.pad(y, (0, 0, 0, 0, maps.start, len(stage.weight) - maps.stop))
            maps = slice(0, len(stage.weight))
            if not stage.norm_first:
                y = normalize_back(record.gradient_parts(stage), y, window)
        if stage.pool:
            if rules.assign:
                y *= window.cut(record.last()[maps])
            pooled, window = window, window.spread(*stage.pool[:3])
            window = window.narrow(*window.beyond(*record.conv.shape[2:]))
            y = unpool(y, pooled.cut(record.winners(window.width, maps)), window)
        return self._convolved(records, at, y, window, maps)

    def _convolved(self, records, at: int, u: Tensor, window: Window, maps: slice):
        """From the maps of a convolution to the image: rectify, subtract the bias, convolve back, go on below."""
        stage, record = self.stages[at], records[at]
        if stage.norm and stage.norm_first and self.rules.lrn:
            u = normalize_back(record.gradient_parts(stage), u, window)
        active = window.cut(record.conv[0, maps]) > 0 if self.rules.mask else None
        h = rectify(u, active, self.rules, stage.bias[maps])
        back, below = self._back(at, maps)
        x, window = transposed(h, back, stage, window, record)
        return self._down(records, at - 1, x, window, below)

    def _back(self, at: int, maps: slice) -> tuple[Convolution, slice]:
        """The convolution that goes back from these maps only, and the maps below that they reach."""
        stage = self.stages[at]
        outs, ins = len(stage.weight) // stage.groups, stage.weight.shape[1]
        first, stop = maps.start // outs, -(-maps.stop // outs)
        groups = stop - first
        if (at, maps.start, maps.stop) not in self.back:
            weight = stage.weight[maps]
            if groups > 1 and len(weight) != groups * outs:  # some of one group and some of another: fill both
                weight = F.pad(weight, (0, 0, 0, 0, 0, 0, maps.start - first * outs, stop * outs - maps.stop))
            back = Convolution(phases(weight, stage.stride, groups), groups=groups)
            self.back[at, maps.start, maps.stop] = back
        return self.back[at, maps.start, maps.stop], slice(first * ins, stop * ins)


def paste(x: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """One window's x [1, C, h, w] in a picture of this size, 0 around it; x itself where it fills it."""
    top, left = int(window.tops[0]), int(window.lefts[0])
    if x.shape[2:] == size and not top and not left:
        return x
    # A negative pad cuts off what lies beyond the edge.
    return F.pad(x, (left, size[1] - left - x.shape[3], top, size[0] - top - x.shape[2]))
