"""The deconvnet: which neurons of a trunk to show, and their projections onto the image (section 3.2, eqs. 4-13).

Maps count from 1, as in the paper; rows and columns of a map from 0. A neuron lives after pooling where a layer pools
(conv1, conv2, conv5; before normalization where that comes last) and after ReLU where it does not (conv3, conv4).
"""

import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib.models.caffenet import POOL_KERNEL, POOL_STRIDE, SIZE, Trunk
from dualtl_lib.visualize.projection import Pool, Projector, Record, Rules, Stage, forward, paste

VARIANTS = {
    "paper": Rules(rectify=True, mask=False, assign=True, bias=True, lrn=False),
    "zeiler": Rules(rectify=True, mask=False, assign=False, bias=False, lrn=False),
    "guided": Rules(rectify=True, mask=True, assign=False, bias=False, lrn=False),
    "gradient": Rules(rectify=False, mask=True, assign=False, bias=False, lrn=False),
}
STARTS = {"paper": "activation", "zeiler": "activation", "guided": "one", "gradient": "one"}
REMEMBERED = 16  # images whose way forward is kept, about 5 MB each, with lrn="gradient" up to 11


@dataclass
class Patches:
    """Projections of K neurons, each on its own; zero beyond the picture's edge.

    patches: [K, 3, S, S], RGB. tops, lefts: int64 [K], where each sits in the picture; may be negative.
    images, maps, rows, columns: int64 [K], which neuron (maps from 1); activations: [K]. Both are of the trunk's type,
    float32 by default.
    """

    patches: Tensor
    tops: Tensor
    lefts: Tensor
    images: Tensor
    maps: Tensor
    rows: Tensor
    columns: Tensor
    activations: Tensor

    def __len__(self) -> int:
        return len(self.patches)

    def paste(self, indices: Sequence[int] | None = None) -> Tensor:
        """The patches at `indices` (all by default) in pictures of their own, [K, 3, 227, 227]."""
        indices = range(len(self)) if indices is None else indices
        pictures = self.patches.new_empty(len(indices), 3, SIZE, SIZE)
        for picture, i in zip(pictures, indices, strict=True):
            picture.copy_(self._pasted(i))
        return pictures

    def _pasted(self, i: int) -> Tensor:
        side, top, left = self.patches.shape[-1], int(self.tops[i]), int(self.lefts[i])
        # A negative pad cuts off what lies beyond the edge.
        return F.pad(self.patches[i], (left, SIZE - side - left, top, SIZE - side - top))


def _plainly(method):
    """Nothing is kept for a gradient and nothing cast: what comes out is of the trunk's type, under autocast too."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with torch.no_grad(), torch.autocast(self.trunk.conv1.weight.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return call


class Deconvnet:
    """Projects neurons of a trunk back onto the image.

    variant: "paper" (eqs. 8-13), "zeiler" (Zeiler and Fergus 2014: windows that share a winner add, no bias),
        "guided" (Springenberg et al. 2015) or "gradient".
    lrn: "identity" passes normalization by; "gradient" takes its true gradient.
    bias: whether to subtract the bias (eq. 9); None is the variant's own choice.
    start: "activation" starts a neuron with its value, as eq. (8) does, "one" with 1, as a gradient does; None is the
        variant's own choice, "activation" for "paper" and "zeiler".

    With lrn="gradient", "guided" and "gradient" are Captum's NeuronGuidedBackprop and NeuronGradient, and "zeiler" with
    start="one" too is its NeuronDeconvolution: to 1e-5 in double, and in float32 where pooling comes first. Where
    normalization does, its gradient vanishes at its largest value, 138.7, and of the strongest neurons float32 leaves
    the rounding: at conv1 of BVLC's AlexNet up to 6e-3 apart, ours 1.3e-3 and Captum's 7e-3 from double.

    Images are uint8 RGB [N, 3, 227, 227], results RGB in the trunk's input units, of the trunk's type (float32 by
    default) and on its device. Each image is computed by itself, so its result does not depend on the others; on a GPU
    those of variants that add up shared winners may differ by rounding, from call to call. The way forward of the last
    16 images is kept until a weight, the trunk's transform, layers, order or normalization changes. A weight changed
    through `.data`, or in place where it was made under torch.inference_mode, cannot be noticed: make another
    Deconvnet. Whole numbers may be Python's, NumPy's or torch's.
    """

    def __init__(
        self,
        trunk: Trunk,
        variant: str = "paper",
        lrn: str = "identity",
        bias: bool | None = None,
        start: str | None = None,
    ):
        _one_of("variant", variant, VARIANTS)
        _one_of("lrn", lrn, ("identity", "gradient"))
        _one_of("bias", bias, (None, True, False))
        start = _one_of("start", STARTS[variant] if start is None else start, ("activation", "one"))
        rules = VARIANTS[variant]._replace(lrn=lrn == "gradient")
        self.trunk, self.variant, self.start = trunk, variant, start
        self.rules = rules if bias is None else rules._replace(bias=bias)
        self._seen: OrderedDict[bytes, list[Record]] = OrderedDict()
        self._made_of = self._shapes_of = None

    @_plainly
    def feature_maps(self, images: Tensor, layer: str, remember: bool = True) -> Tensor:
        """Where neurons live: [N, C, H, W], for CaffeNet 27, 13, 13, 13 and 6 wide.

        remember: keep the way forward for a projection to follow; without it the same numbers come faster. Raises
        ValueError naming what is allowed.
        """
        self.trunk.layer(layer)
        self._notice()
        found = [(self._records if remember else self._forward)(x, layer)[-1].pooled for x in self._single(images)]
        return torch.cat(found).contiguous()

    @_plainly
    def reconstruct(
        self,
        images: Tensor,
        layer: str,
        maps: Sequence[int] | None = None,
        top: int | None = None,
        top_of_layer: int | None = None,
        neuron: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """The chosen neurons projected together: [N, 3, 227, 227].

        maps: of these maps (from 1), by default of all. Of them all neurons, or the `top` strongest of each map, or
        the `top_of_layer` strongest of all of them. neuron: one, as (map, row, column). Of equally strong neurons the
        first in map, row, column order is taken. Raises ValueError naming what is allowed.
        """
        maps, top, top_of_layer, neuron = self._asked(layer, maps, top, top_of_layer, neuron)
        some = any(choice is not None for choice in (maps, top, top_of_layer, neuron))
        out = []
        for image in self._single(images):
            records = self._records(image, layer)
            pooled = records[-1].pooled
            chosen = choose(pooled[0], maps, top, top_of_layer, neuron) if some else None
            values = pooled if self.start == "activation" else torch.ones_like(pooled)
            if some and chosen.count_nonzero() == 1:  # it touches only its receptive field
                patch, seen, _ = self._each(records, *chosen.nonzero().cpu().T)
                out.append(paste(patch, seen, records[0].size))
            else:
                out.append(self._projector.whole(records, values, chosen))
        return torch.cat(out)

    @_plainly
    def reconstruct_each(self, images: Tensor, layer: str, maps: Sequence[int] | None = None, top: int = 1) -> Patches:
        """The `top` strongest neurons of every map (or of these maps), each projected on its own.

        A neuron touches only its receptive field, so only that is computed. Patches come image by image, in each
        map by map, in each strongest first. Raises ValueError naming what is allowed.
        """
        numbers, top = torch.tensor(self.numbers(layer, maps)), self._top(layer, top)
        parts = []
        for i, image in enumerate(self._single(images)):
            pooled = self._records(image, layer)[-1].pooled[0]
            places = strongest(pooled[numbers - 1].flatten(1), top).flatten().cpu()
            width = pooled.shape[2]
            neurons = numbers.repeat_interleave(top), places // width, places % width
            parts.append(self._project(image, layer, neurons, i))
        if len(parts) == 1:
            return parts[0]
        return Patches(*(torch.cat([getattr(p, name) for p in parts]) for name in Patches.__dataclass_fields__))

    @_plainly
    def project(
        self, image: Tensor, layer: str, maps: Tensor, rows: Tensor, columns: Tensor, index: int = 0
    ) -> Patches:
        """These K neurons of one image [1, 3, 227, 227], each projected on its own.

        maps (from 1), rows, columns (from 0): int64 [K] each, tensors or what makes them. index: what Patches calls
        the image. Raises ValueError for more than one image and naming what is allowed.
        """
        if len(self._single(image)) > 1:
            raise ValueError(f"project takes one image [1, 3, {SIZE}, {SIZE}], found {len(image)} of them")
        return self._project(image, layer, self._neurons(layer, maps, rows, columns), index)

    def numbers(self, layer: str, maps: Iterable[int] | None = None) -> list[int]:
        """These maps of a layer (from 1), all by default, as Python's own numbers.

        Raises ValueError naming what is allowed.
        """
        count = self.shapes[self.trunk.layer(layer).name][0]
        if maps is None:
            return list(range(1, count + 1))
        found = _listed(maps)
        if not found:
            raise ValueError(f"maps are some of {layer}'s maps 1 to {count}, and None means all of them, not {maps!r}")
        return [whole_number(f"a map of {layer}", m, 1, count) for m in found]

    def forget(self) -> None:
        """Let go of the remembered images; what is asked for next is computed from the image on."""
        self._seen.clear()

    def _project(self, image: Tensor, layer: str, neurons: Sequence[Tensor], index: int) -> Patches:
        """`project` of what exists."""
        records = self._records(image, layer)
        maps, rows, columns = neurons
        patches, seen, activations = self._each(records, maps - 1, rows, columns)
        places = torch.from_numpy(seen.tops), torch.from_numpy(seen.lefts)
        return Patches(patches, *places, torch.full_like(maps, index), maps, rows, columns, activations)

    def _each(self, records: list[Record], maps: Tensor, rows: Tensor, columns: Tensor):
        """Neurons (maps from 0), each on its own: patches [K, 3, S, S], their window, activations [K]."""
        record, width = records[-1], records[-1].conv.shape[3]
        activations = record.pooled[0, maps, rows, columns]
        at = rows * width + columns if record.switches is None else record.switches[maps, rows, columns].cpu()
        values = activations if self.start == "activation" else torch.ones_like(activations)
        patches, seen = self._projector.each(records, values, maps, at // width, at % width)
        return patches, seen, activations

    def _single(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images one by one; raises ValueError, as the trunk's transform does, where they are none."""
        self.trunk.transform.check(images)
        if len(images) == 0:
            raise ValueError("expected at least one image, found none")
        return images.split(1)

    def _records(self, image: Tensor, layer: str) -> list[Record]:
        """One image up to a layer, with switches, remembered."""
        self._notice()
        depth = [l.name for l in self.trunk.layers].index(layer) + 1
        key = image.cpu().numpy().tobytes()
        records = self._seen.pop(key, [])
        if len(records) < depth:
            records = self._forward(image, layer, switches=True)
        self._seen[key] = records
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return records[:depth]

    def _forward(self, image: Tensor, layer: str, switches: bool = False) -> list[Record]:
        """One image up to a layer."""
        depth = [l.name for l in self.trunk.layers].index(layer) + 1
        weight = self._stages[0].weight  # a trunk made double is computed in double
        x = self.trunk.transform(image.to(weight.device)).to(weight.dtype)
        return forward(self._stages[:depth], x, switches)

    def _notice(self) -> None:
        """Start afresh where a weight, the transform, the layers, the order or the normalization has changed."""
        trunk = self.trunk
        convs = (getattr(trunk, layer.name) for layer in trunk.layers)
        weights = tuple((p.data_ptr(), _version(p)) for conv in convs for p in (conv.weight, conv.bias))
        norm = trunk.norm.size, trunk.norm.alpha, trunk.norm.beta
        made_of = weights, trunk.transform, trunk.layers, trunk.order, norm
        if made_of != self._made_of:
            self._seen.clear()
            self._stages, self._made_of = stages_of(trunk), made_of
            self._projector = Projector(self._stages, self.rules, trunk.transform.to_rgb)

    def _asked(self, layer, maps, top, top_of_layer, neuron) -> tuple:
        """A choice in Python's own numbers. Raises ValueError naming what is allowed."""
        count, height, width = self.shapes[self.trunk.layer(layer).name]
        if sum(x is not None for x in (top, top_of_layer, neuron)) > 1 or (neuron is not None and maps is not None):
            raise ValueError("choose by top, by top_of_layer or by neuron (which names its map itself), not by several")
        if maps is not None:
            maps = self.numbers(layer, maps)
        if top is not None:
            top = self._top(layer, top)
        if top_of_layer is not None:
            most = height * width * (count if maps is None else len(set(maps)))
            top_of_layer = whole_number(f"top_of_layer (the neurons of these maps of {layer})", top_of_layer, 1, most)
        if neuron is not None:
            found = _listed(neuron)
            if len(found) != 3:
                raise ValueError(f"neuron is (map, row, column), not {neuron!r}")
            ends = ("map", 1, count), ("row", 0, height - 1), ("column", 0, width - 1)
            neuron = [
                whole_number(f"a {what} of {layer}", n, low, high)
                for n, (what, low, high) in zip(found, ends, strict=True)
            ]
        return maps, top, top_of_layer, neuron

    def _top(self, layer, top) -> int:
        _, height, width = self.shapes[layer]
        return whole_number(f"top (the neurons of a map of {layer})", top, 1, height * width)

    def _neurons(self, layer: str, *numbers) -> list[Tensor]:
        """Maps, rows and columns as int64 [K] on the CPU. Raises ValueError naming what is allowed."""
        shape = self.shapes[self.trunk.layer(layer).name]
        allowed = "maps, rows and columns are int64 [K], as many of each"
        try:
            neurons = [torch.as_tensor(n).cpu() for n in numbers]
        except (TypeError, ValueError, RuntimeError) as error:  # whichever torch has for what is no array of numbers
            raise ValueError(f"{allowed} ({error})") from error
        found = [f"{n.dtype} {list(n.shape)}" for n in neurons]
        if neurons[0].dtype != torch.int64 or neurons[0].ndim != 1 or len(set(found)) > 1:
            raise ValueError(f"{allowed}, found {', '.join(found)}")
        for what, n, first, count in zip(("map", "row", "column"), neurons, (1, 0, 0), shape, strict=True):
            for outside in n[(n < first) | (n >= first + count)][:1].tolist():
                whole_number(f"a {what} of {layer}", outside, first, first + count - 1)
        return neurons

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(maps, rows, columns) of the neurons of each layer."""
        if self._shapes_of != self.trunk.layers:
            self._shapes, self._shapes_of = self.trunk.shapes(), self.trunk.layers
        return self._shapes


def stages_of(trunk: Trunk) -> list[Stage]:
    """A trunk as the stages that the way back runs through; weights are copied where their maps do not lie last."""
    pool = Pool(POOL_KERNEL, POOL_STRIDE)
    found = []
    for layer in trunk.layers:
        conv = trunk.get_submodule(layer.name)
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        found.append(
            Stage(
                weight,
                conv.bias.detach(),
                layer.stride,
                layer.padding,
                layer.groups,
                pool if layer.pool else None,
                trunk.norm if layer.norm else None,
                trunk.order == "norm-pool",
            )
        )
    return found


def strongest(values: Tensor, n: int) -> Tensor:
    """Indices of the n largest of each row of values [R, K] -> [R, n], strongest first, of equals the first."""
    if n == 1:
        return values.argmax(1, keepdim=True)  # the first of equals, by its documentation
    return values.sort(dim=1, descending=True, stable=True).indices[:, :n]


def choose(maps: Tensor, numbers=None, top=None, top_of_layer=None, neuron=None) -> Tensor:
    """Which neurons of maps [C, H, W] are meant, as `Deconvnet.reconstruct` says it: bool [C, H, W]."""
    chosen = torch.zeros_like(maps, dtype=torch.bool)
    if neuron is not None:
        chosen[neuron[0] - 1, neuron[1], neuron[2]] = True
        return chosen
    which = slice(None) if numbers is None else [m - 1 for m in sorted(set(numbers))]
    candidates = maps[which].flatten(1)
    if top is None and top_of_layer is None:
        chosen[which] = True
        return chosen
    rows = candidates if top is not None else candidates.flatten().unsqueeze(0)
    marked = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, strongest(rows, top or top_of_layer), True)
    chosen[which] = marked.view(-1, *maps.shape[1:])
    return chosen


def whole_number(what: str, value, low: int, high: int) -> int:
    """A whole number of Python, NumPy or torch as Python's own. Raises ValueError for any other, naming the ends."""
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise ValueError(f"{what} is a whole number from {low} to {high}, not {number!r}")
    return number


def _one_of(what: str, value, allowed):
    if value not in tuple(allowed):  # a dict would ask for its hash
        raise ValueError(f"{what} is one of {', '.join(map(str, allowed))}, not {value!r}")
    return value


def _plain(value):
    """What an array or a tensor holds, in Python's own numbers; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _listed(values) -> list:
    """What there is in a sequence, an array or a tensor; nothing in what is none of them."""
    values = _plain(values)
    return list(values) if isinstance(values, Iterable) else []


def _version(p: Tensor) -> int | None:
    """How often a tensor has been changed; those made under torch.inference_mode do not count it."""
    return None if p.is_inference() else p._version
