"""The deconvnet: which neurons of a trunk to show, and their projections onto the image (section 3.2, eqs. 4-13).

Maps count from 1, as in the paper; rows and columns of a map from 0. A neuron lives after pooling where a layer pools
(conv1, conv2, conv5; before normalization where that comes last) and after ReLU where it does not (conv3, conv4).

Shapes: N images, K neurons, C maps of H rows and W columns, S x S pixels of a receptive field.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib.models.caffenet import StageRecord, Trunk
from dualtl_lib.visualize import neurons
from dualtl_lib.visualize.backward import Backward, Rules

VARIANTS = {
    "paper": Rules(rectify=True, mask=False, assign=True, bias=True, lrn=False),
    "zeiler": Rules(rectify=True, mask=False, assign=False, bias=False, lrn=False),
    "guided": Rules(rectify=True, mask=True, assign=False, bias=False, lrn=False),
    "gradient": Rules(rectify=False, mask=True, assign=False, bias=False, lrn=False),
}
STARTS = {"paper": "activation", "zeiler": "activation", "guided": "one", "gradient": "one"}


@dataclass(frozen=True)
class Record:
    """The forward pass of N images up to a layer, with switches: all that a projection needs besides the weights.

    Attributes:
        layer: Name of the last layer.
        stages: For each image its stages, each with N = 1.
    """

    layer: str
    stages: tuple[list[StageRecord], ...]

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: int) -> "Record":
        """The record of one image."""
        return Record(self.layer, (self.stages[index],))

    def activations(self) -> Tensor:
        """Where the layer's neurons live, shape (N, C, H, W)."""
        return torch.cat([stages[-1].pooled for stages in self.stages]).contiguous()


@dataclass(frozen=True)
class Patches:
    """Projections of K neurons, each on its own, over their receptive fields; 0 beyond the edge of the image.

    Attributes:
        patches: RGB, shape (K, 3, S, S).
        tops: First row of each in the image, int64 (K,); may be negative, as `lefts`.
        lefts: First column.
        images: Which image of the record, int64 (K,).
        maps: Which map, from 1; int64 (K,).
        rows: Row of the neuron, int64 (K,).
        columns: Column of the neuron, int64 (K,).
        activations: Values of the neurons, shape (K,).
        image_size: Rows and columns of an image.
    """

    patches: Tensor
    tops: Tensor
    lefts: Tensor
    images: Tensor
    maps: Tensor
    rows: Tensor
    columns: Tensor
    activations: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.patches)

    def paste(self, indices: Sequence[int] | None = None) -> Tensor:
        """Put patches into images of their own.

        Args:
            indices: Which of the K. Default: all.

        Returns:
            Projections, 0 around the patch, shape (len(indices), 3, image_size, image_size).
        """
        indices, side = range(len(self)) if indices is None else indices, self.patches.shape[-1]
        pictures = self.patches.new_empty(len(indices), 3, self.image_size, self.image_size)
        for picture, i in zip(pictures, indices, strict=True):
            top, left = int(self.tops[i]), int(self.lefts[i])
            # A negative pad cuts off what lies beyond the edge.
            around = left, self.image_size - side - left, top, self.image_size - side - top
            picture.copy_(F.pad(self.patches[i], around))
        return pictures


def _without_gradient_and_autocast(method):
    """Results are of the trunk's type, under autocast too."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return call


class Deconvnet:
    """Projects neurons of a trunk back onto the image.

    It keeps nothing of the images, and reads the trunk's weights at every call. To project several times from the same
    images, keep the record that `forward` returns. Each image is computed by itself, so its result does not depend
    on the others.

    With lrn="gradient", "guided" and "gradient" are Captum's NeuronGuidedBackprop and NeuronGradient, and "zeiler" with
    start="one" too is its NeuronDeconvolution: to 1e-5 in double, and in float32 where pooling comes first. Where
    normalization does, its gradient vanishes at its largest value, 138.7, and of the strongest neurons float32 leaves
    the rounding: at conv1 of BVLC's AlexNet up to 6e-3 apart, ours 1.3e-3 and Captum's 7e-3 from double.

    Args:
        trunk: The network.
        variant: "paper" (eqs. 8-13), "zeiler" (Zeiler and Fergus 2014: windows that share a winner add, no bias),
            "guided" (Springenberg et al. 2015) or "gradient".
        lrn: "identity" passes normalization by; "gradient" takes its true gradient.
        bias: Whether to subtract the bias (eq. 9). Default: the variant's own choice.
        start: "activation" starts a neuron with its value, as eq. (8) does, "one" with 1, as a gradient does. Default:
            the variant's own choice, "activation" for "paper" and "zeiler".

    Attributes:
        shapes: (maps, rows, columns) of each layer's neurons.

    Raises:
        ValueError: For a choice that does not exist.

    References:
        Lin et al. (2019), section 3.2; Zeiler and Fergus (2014), section 2.1.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        variant: str = "paper",
        lrn: str = "identity",
        bias: bool | None = None,
        start: str | None = None,
    ):
        _check_choice("variant", variant, tuple(VARIANTS))
        _check_choice("lrn", lrn, ("identity", "gradient"))
        _check_choice("bias", bias, (None, True, False))
        _check_choice("start", start, (None, "activation", "one"))
        rules = VARIANTS[variant]._replace(lrn=lrn == "gradient")
        self.rules = rules if bias is None else rules._replace(bias=bias)
        self.trunk, self.variant, self.start = trunk, variant, start or STARTS[variant]
        self.shapes = trunk.shapes()

    @property
    def weight(self) -> Tensor:
        """The first layer's: results have its type and are on its device."""
        return self.trunk.conv(self.trunk.names[0]).weight

    @_without_gradient_and_autocast
    def forward(self, images: Tensor, layer: str) -> Record:
        """Compute the layers up to one, for projections to follow.

        Args:
            images: uint8 RGB, shape (N, 3, 227, 227), N at least 1.
            layer: Name of a convolutional layer, e.g. "conv3".

        Raises:
            ValueError: If there is no such layer, or for other images.
        """
        self.trunk.index(layer)
        if not len(self.trunk.check(images)):
            raise ValueError("images: expected at least one, found none")
        stages = []
        for image in images.split(1):
            stages.append([])
            x = self.trunk.transform(image.to(self.weight.device)).to(self.weight.dtype)
            self.trunk(x, stop=layer, record=stages[-1])
        return Record(layer, tuple(stages))

    def feature_maps(self, images: Tensor, layer: str) -> Tensor:
        """Compute the activations of a layer's neurons, shape (N, C, H, W); arguments as for `forward`."""
        return self.forward(images, layer).activations()

    @_without_gradient_and_autocast
    def project(
        self,
        record: Record,
        *,
        maps: Iterable[int] | None = None,
        top: int | None = None,
        top_of_layer: int | None = None,
        neuron: Sequence[int] | None = None,
    ) -> Tensor:
        """Project neurons of the record's layer back to pixel space, together (eqs. 8-13).

        Of equally strong neurons the first in map, row, column order is taken.

        Args:
            record: Of one or more images, by `forward`.
            maps: Feature maps to project, counted from 1 as in the paper. Default: all.
            top: Project only the `top` strongest neurons of each map. Default: all neurons.
            top_of_layer: Project only the strongest neurons of all these maps.
            neuron: Project one neuron: map from 1, row and column from 0.

        Returns:
            Projections, RGB in the units of the network's input, shape (N, 3, 227, 227), of the trunk's type.

        Raises:
            ValueError: If a number is out of range, or neurons are chosen in two ways.
        """
        choice = self._checked_choice(record.layer, maps, top, top_of_layer, neuron)
        return torch.cat([self._together(stages, *choice) for stages in record.stages])

    @_without_gradient_and_autocast
    def project_each(self, record: Record, maps: Tensor, rows: Tensor, columns: Tensor) -> Patches:
        """Project neurons of the record's layer, each on its own.

        Args:
            record: Of one image, by `forward`.
            maps: Their maps, from 1; int64 (K,) as the next two, a tensor or a sequence.
            rows: Their rows, from 0.
            columns: Their columns, from 0.

        Raises:
            ValueError: If the record is not of one image, or a number is out of range.
        """
        if len(record) != 1:
            raise ValueError(f"record: expected one of one image, found {len(record)} images; take record[i]")
        maps, rows, columns = neurons.checked_neurons(record.layer, self.shapes[record.layer], maps, rows, columns)
        last, backward = record.stages[0][-1], Backward(self.trunk, record.stages[0], self.rules)
        activations = last.pooled[0, maps - 1, rows, columns]
        at_row, at_column = rows, columns
        if last.switches is not None:
            winners, width = last.switches[0, maps - 1, rows, columns].cpu(), last.conv.shape[3]
            at_row, at_column = winners // width, winners % width
        patches, window = backward.each(self._started(activations), maps - 1, at_row, at_column)
        places = torch.from_numpy(window.tops), torch.from_numpy(window.lefts)
        first = torch.zeros_like(maps)
        return Patches(patches, *places, first, maps, rows, columns, activations, self.trunk.image_size)

    def reconstruct(
        self,
        images: Tensor,
        layer: str,
        *,
        maps: Iterable[int] | None = None,
        top: int | None = None,
        top_of_layer: int | None = None,
        neuron: Sequence[int] | None = None,
    ) -> Tensor:
        """Project neurons of a layer back to pixel space: `forward`, then `project`, with their arguments."""
        self._checked_choice(layer, maps, top, top_of_layer, neuron)
        record = self.forward(images, layer)
        return self.project(record, maps=maps, top=top, top_of_layer=top_of_layer, neuron=neuron)

    def reconstruct_each(
        self, images: Tensor, layer: str, *, maps: Iterable[int] | None = None, top: int = 1
    ) -> Patches:
        """Project the strongest neurons of every map, each on its own.

        Args:
            images: uint8 RGB, shape (N, 3, 227, 227), N at least 1.
            layer: Name of a convolutional layer.
            maps: Feature maps, counted from 1. Default: all.
            top: How many neurons of each map.

        Returns:
            Patches image by image, in each map by map, in each strongest first.

        Raises:
            ValueError: If the layer does not exist or a number is out of range.
        """
        numbers = torch.tensor(self.checked_maps(layer, maps))
        _, height, width = self.shapes[layer]
        top = neurons.whole_number(f"top (neurons of a map of {layer})", top, 1, height * width)
        parts = []
        for i, image in enumerate(self.trunk.check(images).split(1)):
            record = self.forward(image, layer)
            places = neurons.strongest(record.activations()[0, numbers - 1].flatten(1), top).flatten().cpu()
            part = self.project_each(record, numbers.repeat_interleave(top), places // width, places % width)
            parts.append(replace(part, images=torch.full_like(part.images, i)))
        if len(parts) == 1:
            return parts[0]
        joined = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Patches)}
        joined = {name: torch.cat(v) for name, v in joined.items() if name != "image_size"}
        return Patches(**joined, image_size=self.trunk.image_size)

    def checked_maps(self, layer: str, maps: Iterable[int] | None = None) -> list[int]:
        """These maps of a layer as int, by default all. Raises ValueError naming the range."""
        return neurons.checked_maps(layer, self.trunk.layer(layer).maps, maps)

    def _together(self, stages: list[StageRecord], *choice) -> Tensor:
        """The projection of one image."""
        pooled = stages[-1].pooled
        chosen = None if choice == (None,) * 4 else neurons.choose(pooled[0], *choice)
        return Backward(self.trunk, stages, self.rules).together(self._started(pooled), chosen)

    def _started(self, activations: Tensor) -> Tensor:
        return activations if self.start == "activation" else torch.ones_like(activations)

    def _checked_choice(self, layer: str, *choice) -> tuple:
        return neurons.checked_choice(layer, self.trunk.layer(layer) and self.shapes[layer], *choice)


def _check_choice(name: str, value, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, found {value!r}")
