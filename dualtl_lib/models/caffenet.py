"""The network: the convolutional trunk (Fig. 3), the attribute heads (Fig. 9), the expression heads (Figs. 14, 18).

Shapes: N images, C maps, H rows, W columns. Images are square crops of 227 pixels, as in Table 1.
"""

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualtl_lib.models.normalization import LocalResponseNorm

SIZE = 227  # pixels, the side of the input (Table 1)
POOL_KERNEL, POOL_STRIDE = 3, 2  # max pooling; windows overlap (Table 1)


class Layer(NamedTuple):
    """One convolutional layer with what follows it up to the next (Table 1; BVLC's train_val.prototxt)."""

    name: str
    maps: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pool: bool = False
    norm: bool = False


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
    """What a set of weights expects of its images; travels with them, as torchvision's weights carry theirs."""

    colour: str = "BGR"
    scale: float = 1.0  # of a pixel value 0..255
    mean: tuple[float, float, float] = (104.0, 117.0, 123.0)  # in `colour`'s order, after scaling
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def check(self, images: Tensor) -> None:
        """Raises ValueError for anything but a tensor of images, uint8 [N, 3, 227, 227]."""
        given = isinstance(images, Tensor)
        if not given or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
            found = f"{images.dtype} {list(images.shape)}" if given else f"{type(images).__name__}, which is no tensor"
            raise ValueError(
                f"expected uint8 RGB images [N, 3, {SIZE}, {SIZE}], found {found}; "
                "faces.crop.resize makes them from a picture of any size"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, 3, 227, 227] -> float32 [N, 3, 227, 227] as the trunk expects it.

        Raises ValueError for another type or shape.
        """
        self.check(images)
        x = (images.flip(1) if self.colour == "BGR" else images).float()
        if self.scale != 1:
            x.mul_(self.scale)
        x.sub_(torch.tensor(self.mean, device=x.device).view(3, 1, 1))
        return x if set(self.std) == {1.0} else x.div_(torch.tensor(self.std, device=x.device).view(3, 1, 1))

    def to_rgb(self, projection: Tensor) -> Tensor:
        """A projection onto the trunk's input [N, 3, H, W], its colours put back into RGB order."""
        return projection.flip(1) if self.colour == "BGR" else projection


class Trunk(nn.Module):
    """The convolutional layers of a CaffeNet (Fig. 3, Table 1).

    layers: the layer table; CAFFENET is the paper's. Each padding is less than its kernel, else ValueError.
    order: "pool-norm" pools and then normalizes (Caffe's reference CaffeNet), "norm-pool" the other way
        round (BVLC's AlexNet). Where it matters is READING's first point.
    transform: what the weights expect of their images.
    name: where the weights come from, for titles and provenance.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...] = CAFFENET,
        order: str = "pool-norm",
        transform: Preprocessing | None = None,
        name: str = "random",
    ):
        super().__init__()
        if order not in ("pool-norm", "norm-pool"):
            raise ValueError(f"order is 'pool-norm' (CaffeNet) or 'norm-pool' (AlexNet), not {order!r}")
        self.layers, self.order, self.name = tuple(layers), order, name
        self.transform = transform or Preprocessing()
        maps = 3
        for layer in self.layers:
            if layer.padding >= layer.kernel:
                raise ValueError(f"{layer} cannot be: some neurons would see nothing but padding; make it less")
            conv = nn.Conv2d(maps, layer.maps, layer.kernel, layer.stride, layer.padding, groups=layer.groups)
            nn.init.normal_(conv.weight, std=0.01)  # BVLC's fillers
            nn.init.zeros_(conv.bias)
            self.add_module(layer.name, conv)
            maps = layer.maps
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(POOL_KERNEL, POOL_STRIDE, ceil_mode=True)  # Caffe rounds up
        self.norm = LocalResponseNorm()

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises ValueError naming those that exist."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"no layer {name!r}; this trunk has {', '.join(l.name for l in self.layers)}")

    def stage(self, name: str, x: Tensor) -> Tensor:
        """One layer and what follows it: convolution, ReLU, then pooling and normalization where it has them."""
        layer = self.layer(name)
        x = self.relu(self.get_submodule(name)(x))
        steps = [self.pool] * layer.pool + [self.norm] * layer.norm
        for step in steps if self.order == "pool-norm" else reversed(steps):
            x = step(x)
        return x

    def forward(self, x: Tensor, start: str | None = None, stop: str | None = None) -> Tensor:
        """Transformed images [N, 3, 227, 227] -> feature maps after the last layer, [N, 256, 6, 6] for CaffeNet.

        start: the first layer to compute; x is then what enters it. stop: the last one. Raises ValueError for layers
        that do not exist or come in the other order.
        """
        names = [layer.name for layer in self.layers]
        first = names.index(self.layer(start).name) if start else 0
        last = names.index(self.layer(stop).name) if stop else len(names) - 1
        if first > last:
            raise ValueError(f"start is {stop} or a layer before it ({', '.join(names)}), not {start}")
        if torch.is_autocast_enabled(x.device.type):  # the first layer would do it; done here, half the bytes are moved
            x = x.to(torch.get_autocast_dtype(x.device.type))
        # Maps last in memory: convolutions in bfloat16 and pooling, back too, then take half the time on a CPU.
        x = x.contiguous(memory_format=torch.channels_last)
        for name in names[first : last + 1]:
            x = self.stage(name, x)
        return x

    @torch.no_grad()
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(C, H, W) of the input and of each layer's maps after what follows it, found by running an image."""
        x = self.conv1.weight.new_zeros(1, 3, SIZE, SIZE)
        found = {"input": tuple(x.shape[1:])}
        for layer in self.layers:
            x = self.stage(layer.name, x)
            found[layer.name] = tuple(x.shape[1:])
        return found


class _Transferred(nn.Module):
    """A copy of a trunk with fully connected heads on its last layer, or on an earlier one."""

    hidden = 128  # section 4.2.1

    def __init__(self, trunk: Trunk, last: str):
        super().__init__()
        self.trunk = copy.deepcopy(trunk)
        names = [layer.name for layer in trunk.layers]
        for dropped in trunk.layers[names.index(last) + 1 :]:
            delattr(self.trunk, dropped.name)
        kept = list(trunk.layers[: names.index(last) + 1])
        # Fig. 18 takes conv5 away and leaves the pooling that ends the trunk.
        kept[-1] = kept[-1]._replace(pool=trunk.layers[-1].pool)
        self.trunk.layers = tuple(kept)
        c, h, w = self.trunk.shapes()[last]
        self.features = c * h * w

    def freeze(self, *names: str) -> "_Transferred":
        """Take these trunk layers out of the training: they keep their values and get no gradient."""
        for name in names:
            self.trunk.layer(name)
            self.trunk.get_submodule(name).requires_grad_(False)
        return self

    def frozen(self) -> tuple[str, ...]:
        """The layers, from the first on, that do not train: what is the same at every iteration."""
        prefix = []
        for layer in self.trunk.layers:
            if any(p.requires_grad for p in self.trunk.get_submodule(layer.name).parameters()):
                break
            prefix.append(layer.name)
        return tuple(prefix)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, 3, 227, 227] -> logits."""
        return self.classify(self.trunk(self.trunk.transform(images)))


class AttributeNet(_Transferred):
    """One trunk and one pair of fully connected layers per attribute, 128 and 2 units (Fig. 9).

    The heads are alike, so all of them are computed as one product and one batched product.
    """

    def __init__(self, trunk: Trunk, attributes: Iterable[str], dropout: float = 0.5):
        super().__init__(trunk, trunk.layers[-1].name)
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
        """Feature maps of the last layer [N, C, H, W] -> logits [N, attributes, 2]; index 1 says present."""
        hidden = F.relu(self.fc1(features.flatten(1))).unflatten(1, (-1, self.hidden))
        return torch.einsum("nah,aoh->nao", self.dropout(hidden), self.fc2_weight) + self.fc2_bias


class ExpressionNet(_Transferred):
    """One trunk and two fully connected layers, 128 units and one per expression (Fig. 14).

    conv5=False leaves the fifth convolutional layer out (Fig. 18).
    """

    def __init__(self, trunk: Trunk, classes: Iterable[str], conv5: bool = True, dropout: float = 0.5):
        last = trunk.layers[-1].name if conv5 else "conv4"
        super().__init__(trunk, last)
        self.classes, self.conv5 = tuple(classes), conv5
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(self.features, self.hidden)
        self.fc2 = nn.Linear(self.hidden, len(self.classes))
        nn.init.normal_(self.fc1.weight, std=0.005)
        nn.init.constant_(self.fc1.bias, 0.1)
        nn.init.normal_(self.fc2.weight, std=0.01)
        nn.init.zeros_(self.fc2.bias)

    def classify(self, features: Tensor) -> Tensor:
        """Feature maps of the last layer [N, C, H, W] -> logits [N, classes]."""
        return self.fc2(self.dropout(F.relu(self.fc1(features.flatten(1)))))
