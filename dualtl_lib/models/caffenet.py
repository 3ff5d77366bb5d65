"""The network: the convolutional trunk (Fig. 3), the attribute heads (Fig. 9), the expression heads (Figs. 14, 18).

Shapes: N images, C maps, H rows, W columns, K classes, A attributes.
"""

import copy
from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualtl_lib.models.normalization import LocalResponseNorm

SIZE = 227  # pixels, the side of the input (Table 1)


class Layer(NamedTuple):
    """One convolutional layer with what follows it up to the next (Table 1; BVLC's train_val.prototxt).

    The convolution is always followed by a ReLU. `pool` adds max pooling, by default as in Table 1: windows of 3
    overlap by 1, and the last one may hang over the edge (`pool_ceil`, Caffe's rounding). `norm` adds local response
    normalization.
    """

    name: str
    maps: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pool: bool = False
    norm: bool = False
    pool_kernel: int = 3
    pool_stride: int = 2
    pool_padding: int = 0
    pool_ceil: bool = True


CAFFENET = (
    Layer("conv1", 96, 11, stride=4, pool=True, norm=True),
    Layer("conv2", 256, 5, padding=2, groups=2, pool=True, norm=True),
    Layer("conv3", 384, 3, padding=1),
    Layer("conv4", 384, 3, padding=1, groups=2),
    Layer("conv5", 256, 3, padding=1, groups=2, pool=True),
)
TORCHVISION_ALEXNET = (
    Layer("conv1", 64, 11, stride=4, padding=2, pool=True),
    Layer("conv2", 192, 5, padding=2, pool=True),
    Layer("conv3", 384, 3, padding=1),
    Layer("conv4", 256, 3, padding=1),
    Layer("conv5", 256, 3, padding=1, pool=True),
)


class Preprocessing(NamedTuple):
    """Colours and scale that a set of weights expects; travels with them, as torchvision's weights carry theirs."""

    colour: str = "BGR"
    scale: float = 1.0  # of a pixel value 0..255
    mean: tuple[float, float, float] = (104.0, 117.0, 123.0)  # in `colour`'s order, after scaling
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, images: Tensor) -> Tensor:
        """Transform images to the trunk's input.

        Args:
            images: uint8 RGB, shape (N, 3, H, W).

        Returns:
            float32 of the same shape.

        Raises:
            ValueError: For another type or shape.
        """
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(_expected("N, 3, H, W", images))
        x = (images.flip(1) if self.colour == "BGR" else images).float()
        if self.scale != 1:
            x.mul_(self.scale)
        x.sub_(torch.tensor(self.mean, device=x.device).view(3, 1, 1))
        return x if set(self.std) == {1.0} else x.div_(torch.tensor(self.std, device=x.device).view(3, 1, 1))

    def to_rgb(self, projection: Tensor) -> Tensor:
        """Put the colours of a projection onto the trunk's input, shape (N, 3, H, W), back into RGB order."""
        return projection.flip(1) if self.colour == "BGR" else projection


def _expected(shape: str, found: object) -> str:
    given = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else f"{type(found).__name__}, no tensor"
    return f"images: expected uint8 RGB [{shape}], found {given}; data.crop.resize makes them of any picture"


class StageRecord(NamedTuple):
    """One stage of a forward pass, as the deconvnet needs it."""

    size: tuple[int, int]  # (H, W) of the maps that enter the stage
    conv: Tensor  # (N, C, H, W) after ReLU, eq. (4)
    pooled: Tensor  # (N, C, U, V) where neurons live, eq. (6); conv itself where nothing is pooled
    switches: Tensor | None  # int64 (N, C, U, V), eq. (7): row * W + column of each winner

    def winners(self) -> Tensor:
        """Switches of the first image, (C, U, V), of a stage that pools."""
        assert self.switches is not None
        return self.switches[0]


class Trunk(nn.Module):
    """A chain of convolutional layers, by default those of a CaffeNet (Fig. 3, Table 1).

    Args:
        layers: The layer table; each padding is less than its kernel.
        order: "pool-norm" pools and then normalizes (Caffe's reference CaffeNet), "norm-pool" the other way round
            (BVLC's AlexNet).
        transform: Colours and scale that the weights expect of images.
        name: The source of the weights, for titles and provenance.
        image_size: Rows and columns of an image, in pixels.

    Raises:
        ValueError: For an unknown order, or a padding that is not less than its kernel.
    """

    def __init__(
        self,
        layers: Iterable[Layer] = CAFFENET,
        *,
        order: str = "pool-norm",
        transform: Preprocessing | None = None,
        name: str = "random",
        image_size: int = SIZE,
    ):
        super().__init__()
        if order not in ("pool-norm", "norm-pool"):
            raise ValueError(f"order: expected 'pool-norm' (CaffeNet) or 'norm-pool' (AlexNet), found {order!r}")
        self.layers, self.order, self.name, self.image_size = tuple(layers), order, name, image_size
        self.transform = transform or Preprocessing()
        self.norm = LocalResponseNorm()
        maps = 3
        for layer in self.layers:
            if layer.padding >= layer.kernel:
                raise ValueError(f"{layer.name}: padding={layer.padding} is not less than kernel={layer.kernel}")
            conv = nn.Conv2d(maps, layer.maps, layer.kernel, layer.stride, layer.padding, groups=layer.groups)
            nn.init.normal_(conv.weight, std=0.01)  # BVLC's fillers
            conv.bias = nn.Parameter(torch.zeros(layer.maps))
            self.add_module(layer.name, conv)
            maps = layer.maps

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, from the first on."""
        return tuple(layer.name for layer in self.layers)

    @property
    def last_layer(self) -> str:
        """Name of the last layer."""
        return self.names[-1]

    def index(self, name: str) -> int:
        """Place of a layer in the table, from 0. Raises ValueError naming the layers that exist."""
        if name not in self.names:
            raise ValueError(f"no layer {name!r}; this trunk has {', '.join(self.names)}")
        return self.names.index(name)

    def layer(self, name: str) -> Layer:
        """The table's line of a layer. Raises ValueError naming the layers that exist."""
        return self.layers[self.index(name)]

    def conv(self, name: str) -> nn.Conv2d:
        """The convolution of a layer. Raises ValueError naming the layers that exist."""
        conv = self.get_submodule(self.layer(name).name)
        assert isinstance(conv, nn.Conv2d)
        return conv

    def check(self, images: Tensor) -> Tensor:
        """The images themselves. Raises ValueError unless they are uint8 (N, 3, image_size, image_size)."""
        side = self.image_size
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.shape[1:] != (3, side, side):
            raise ValueError(_expected(f"N, 3, {side}, {side}", images))
        return images

    def forward(
        self,
        x: Tensor,
        start: str | None = None,
        stop: str | None = None,
        *,
        record: list[StageRecord] | None = None,
    ) -> Tensor:
        """Compute the layers from `start` to `stop`.

        Args:
            x: What enters the first of them: transformed images, shape (N, 3, H, W), or feature maps.
            start: First layer to compute. Default: the first of all.
            stop: Last layer to compute. Default: the last of all.
            record: A list to which each stage is appended, with the switches of its pooling.

        Returns:
            Feature maps after the last of them, pooled and normalized; (N, 256, 6, 6) for a whole CaffeNet.

        Raises:
            ValueError: For layers that do not exist or come in the other order.
        """
        first, last = self.index(start or self.names[0]), self.index(stop or self.last_layer)
        if first > last:
            raise ValueError(f"start: expected {stop} or a layer before it ({', '.join(self.names)}), found {start}")
        if torch.is_autocast_enabled(x.device.type):  # the first layer would do it; done here, half the bytes are moved
            x = x.to(torch.get_autocast_dtype(x.device.type))
        # Convolutions in bfloat16 and pooling, forward and backward, then take half the time on a CPU.
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers[first : last + 1]:
            x = self._stage(layer, x, record)
        return x

    def _stage(self, layer: Layer, x: Tensor, record: list[StageRecord] | None) -> Tensor:
        """Convolution and ReLU, then pooling and normalization where the layer has them."""
        size = (x.shape[2], x.shape[3])
        conv = x = F.relu(self.conv(layer.name)(x))
        switches = None
        if layer.norm and self.order == "norm-pool":
            x = self.norm(x)
        if layer.pool:
            geometry = layer.pool_kernel, layer.pool_stride, layer.pool_padding
            if record is None:
                x = F.max_pool2d(x, *geometry, ceil_mode=layer.pool_ceil)
            else:
                x, switches = F.max_pool2d(x, *geometry, ceil_mode=layer.pool_ceil, return_indices=True)
        if record is not None:
            record.append(StageRecord(size, conv, x, switches))
        if layer.norm and self.order == "pool-norm":
            x = self.norm(x)
        return x

    @torch.no_grad()
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(C, H, W) of the input and of each layer's maps, after pooling where it has it, by running an image."""
        image, record = next(self.parameters()).new_zeros(1, 3, self.image_size, self.image_size), []
        x = image
        for layer in self.layers:  # not by `forward`, whose autocast knows no meta device
            x = self._stage(layer, x, record)
        maps = {"input": image} | {layer.name: stage.pooled for layer, stage in zip(self.layers, record, strict=True)}
        return {name: (m.shape[1], m.shape[2], m.shape[3]) for name, m in maps.items()}


class _Transferred(nn.Module):
    """A copy of a trunk, up to the layer before `without`, with fully connected heads."""

    hidden = 128  # section 4.2.1

    def __init__(self, trunk: Trunk, without: str | None, freeze: int):
        super().__init__()
        self.trunk = copy.deepcopy(trunk)
        kept = list(trunk.layers[: trunk.index(without) if without and without in trunk.names else None])
        for layer in trunk.layers[len(kept) :]:
            delattr(self.trunk, layer.name)
        # Fig. 18 takes conv5 away and leaves the pooling that ends the trunk.
        pooling = {field: getattr(trunk.layers[-1], field) for field in Layer._fields if field.startswith("pool")}
        kept[-1] = kept[-1]._replace(**pooling)
        self.trunk.layers = tuple(kept)
        c, h, w = self.trunk.shapes()[kept[-1].name]
        self.features = c * h * w
        self.freeze(*self.trunk.names[:freeze])

    def freeze(self, *names: str) -> Self:
        """Take these trunk layers out of the training: they keep their values and get no gradient.

        Raises:
            ValueError: If a layer does not exist.
        """
        for name in names:
            self.trunk.conv(name).requires_grad_(False)
        return self

    def frozen(self) -> tuple[str, ...]:
        """Names of the layers that do not train, from the first on to the first that does."""
        trains = [any(p.requires_grad for p in self.trunk.conv(name).parameters()) for name in self.trunk.names]
        return self.trunk.names[: (*trains, True).index(True)]

    def classify(self, features: Tensor) -> Tensor:
        """Feature maps of the last layer -> logits."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of uint8 RGB images, shape (N, 3, 227, 227)."""
        return self.classify(self.trunk(self.trunk.transform(self.trunk.check(images))))


class AttributeNet(_Transferred):
    """One trunk and one pair of fully connected layers per attribute, 128 and 2 units (Fig. 9).

    The heads are alike, so all of them are computed as one product and one batched product.

    Args:
        trunk: Where to start; the model trains a copy.
        attributes: Names of the attributes.
        dropout: Share of the hidden units that a training step leaves out.
        freeze: Number of layers, from the first on, that do not train.
    """

    def __init__(self, trunk: Trunk, attributes: Iterable[str], *, dropout: float = 0.5, freeze: int = 0):
        super().__init__(trunk, None, freeze)
        self.classes = tuple(attributes)
        self.dropout = nn.Dropout(dropout)
        heads = len(self.classes)
        self.fc1 = nn.Linear(self.features, heads * self.hidden)
        self.fc2_weight = nn.Parameter(torch.empty(heads, 2, self.hidden))
        self.fc2_bias = nn.Parameter(torch.zeros(heads, 2))
        nn.init.normal_(self.fc1.weight, std=0.005)  # BVLC's fillers for fc6 and fc8
        nn.init.constant_(self.fc1.bias, 0.1)
        nn.init.normal_(self.fc2_weight, std=0.01)

    def classify(self, features: Tensor) -> Tensor:
        """Feature maps of the last layer (N, C, H, W) -> logits (N, A, 2); index 1 means present."""
        hidden = F.relu(self.fc1(features.flatten(1))).unflatten(1, (-1, self.hidden))
        return torch.einsum("nah,aoh->nao", self.dropout(hidden), self.fc2_weight) + self.fc2_bias


class ExpressionNet(_Transferred):
    """One trunk and two fully connected layers, 128 units and one per expression (Fig. 14).

    Args:
        trunk: Where to start; the model trains a copy.
        classes: Names of the expressions.
        conv5: Whether to keep the layer of that name; Fig. 18 leaves it out and keeps its pooling.
        dropout: Share of the hidden units that a training step leaves out.
        freeze: Number of layers, from the first on, that do not train.
    """

    def __init__(
        self, trunk: Trunk, classes: Iterable[str], *, conv5: bool = True, dropout: float = 0.5, freeze: int = 0
    ):
        super().__init__(trunk, None if conv5 else "conv5", freeze)
        self.classes, self.conv5 = tuple(classes), conv5
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(self.features, self.hidden)
        self.fc2 = nn.Linear(self.hidden, len(self.classes))
        nn.init.normal_(self.fc1.weight, std=0.005)
        nn.init.constant_(self.fc1.bias, 0.1)
        nn.init.normal_(self.fc2.weight, std=0.01)
        nn.init.zeros_(self.fc2.bias)

    def classify(self, features: Tensor) -> Tensor:
        """Feature maps of the last layer (N, C, H, W) -> logits (N, K)."""
        return self.fc2(self.dropout(F.relu(self.fc1(features.flatten(1)))))
