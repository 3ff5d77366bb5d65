"""A student's first weights in closed form: each layer by ridge regression on the teacher's, from conv1 upwards.

conv1 takes the teacher's filters, and the negatives of those with the largest grey part. Every later layer is the
linear map from the student's own input of that layer to the teacher's maps before the ReLU, without an intercept: what
an intercept would say is carried by the weights, so biases stay at zero. Each half of a grouped layer takes the
teacher's maps that it explains better. Where a layer has maps to spare (CARRIED) they get random filters, which keep
what the layer before has and the teacher's layer drops: on CK+48, random filters keep more than the teacher's own.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualtl_lib.models.caffenet import CAFFENET, TORCHVISION_ALEXNET, Trunk
from dualtl_lib.synthetic import scenes

# RMS that a layer's maps get before the ReLU, on scenes.batch; so large that faces give activations as BVLC's do.
SPREAD = {"conv1": 90.0, "conv2": 90.0, "conv3": 50.0, "conv4": 34.0, "conv5": 43.0}
CARRIED = {"conv3": 192, "conv4": 192, "conv5": 128}  # maps with random filters, the last of each group
RIDGE = 0.1  # of the mean squared input
QUIETEST = 0.3  # of the median RMS: a map quieter than that is not amplified to its layer's SPREAD
POSITIONS = 400  # of a picture that conv2's regression takes; the deeper layers take all of theirs
PICTURES = 48  # in a batch


def teacher_view(images: Tensor) -> Tensor:
    """The pixels of square images (N, 3, S, S) that the teacher needs so that its units and the student's coincide.

    The teacher pads its first layer by two pixels and the student does not. Without the first two and the last row and
    column, unit (i, j) of both sees the same pixels at every layer, for S = 131, 163, 195 or 227.
    """
    size = images.shape[-1]
    return images[:, :, 2 : size - 1, 2 : size - 1]


def convolution(trunk: Trunk, name: str) -> nn.Conv2d:
    """The convolution of a layer."""
    found = trunk.get_submodule(name)
    if not isinstance(found, nn.Conv2d):
        raise TypeError(f"{name}: expected a convolution, found a {type(found).__name__}")
    return found


def prepared(trunk: Trunk, images: Tensor) -> Tensor:
    """RGB images from 0 to 255 (N, 3, S, S), of any size, as the trunk expects them."""
    transform = trunk.transform
    x = (images.flip(1) if transform.colour == "BGR" else images) * transform.scale
    x = (x - torch.tensor(transform.mean).view(3, 1, 1)) / torch.tensor(transform.std).view(3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def before_relu(trunk: Trunk, images: Tensor) -> dict[str, Tensor]:
    """Every layer's maps before the ReLU: name -> (N, C, H, W). Their gradients flow."""
    found: list[Tensor] = []
    hooks = [
        trunk.conv(name).register_forward_hook(lambda *arguments: found.append(arguments[2])) for name in trunk.names
    ]
    try:
        trunk(prepared(trunk, images))
    finally:
        for hook in hooks:
            hook.remove()
    return dict(zip(trunk.names, found, strict=True))


@torch.no_grad()
def initialize(trunk: Trunk, teacher: Trunk, *, size: int, batches: int, seed: int) -> dict[str, float]:
    """Give a CaffeNet its first weights.

    Args:
        trunk: The student, changed in place.
        teacher: torchvision's AlexNet.
        size: Side of the pictures in pixels.
        batches: Batches of PICTURES pictures that each layer's regression sees.
        seed: Of the pictures and of the random filters.

    Returns:
        For each layer from conv2 on, the share of the teacher's variance before the ReLU that the regression leaves.
    """
    if trunk.layers != CAFFENET or teacher.layers != TORCHVISION_ALEXNET:
        raise ValueError("expected the paper's CaffeNet as student and torchvision's AlexNet as teacher")
    _first_layer(trunk, teacher)
    _rescale(trunk, "conv1", size, seed)
    left = {}
    for index, layer in enumerate(trunk.layers[1:], start=1):
        sums = _Sums.gathered(_pairs(trunk, teacher, index, size, batches, seed))
        filters, unexplained = sums.regression()
        per_group = layer.maps // layer.groups
        random = np.random.default_rng((seed, index))
        rows, carried = [], CARRIED.get(layer.name, 0) // layer.groups
        for weights, chosen in zip(filters, _shared_out(unexplained, per_group - carried), strict=True):
            extra = torch.from_numpy(random.standard_normal((carried, weights.shape[1]))).float()
            rows += [weights[chosen], extra]
        conv = convolution(trunk, layer.name)
        conv.weight.copy_(torch.cat(rows).view_as(conv.weight))
        nn.init.zeros_(conv.get_parameter("bias"))
        _rescale(trunk, layer.name, size, seed)
        left[layer.name] = float(unexplained.min(0).values.mean())
    return left


def _first_layer(trunk: Trunk, teacher: Trunk) -> None:
    """The teacher's filters in the student's colours and units: the greyest 48, then the rest and 32 negatives."""
    ours, theirs = trunk.transform, teacher.transform
    if (ours.colour, ours.scale, theirs.colour) != ("BGR", 1.0, "RGB"):
        raise ValueError(f"expected a student for BGR from 0 to 255 and a teacher for RGB, found {ours} and {theirs}")
    filters = (convolution(teacher, "conv1").weight / torch.tensor(theirs.std).view(3, 1, 1)).flip(1)
    order = filters.sum(1).square().sum((1, 2)).argsort(descending=True)
    conv = convolution(trunk, "conv1")
    conv.weight.copy_(torch.cat([filters[order], -filters[order[: conv.out_channels - len(order)]]]))
    nn.init.zeros_(conv.get_parameter("bias"))


def _rescale(trunk: Trunk, name: str, size: int, seed: int) -> None:
    """Scale each map's weights to its layer's SPREAD on a batch of pictures."""
    images = scenes.batch(PICTURES, size, np.random.default_rng((seed, 1000)))
    rms = before_relu(trunk, images)[name].square().mean((0, 2, 3)).sqrt()
    gain = SPREAD[name] / rms.clamp_min(QUIETEST * rms.median())
    convolution(trunk, name).weight.mul_(gain.view(-1, 1, 1, 1))


def _pairs(
    trunk: Trunk, teacher: Trunk, index: int, size: int, batches: int, seed: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """What layer `index` sees, for each group (P, inputs), and the teacher's maps before the ReLU there (P, maps)."""
    layer, below = trunk.layers[index], trunk.layers[index - 1].name
    for number in range(batches):
        rng = np.random.default_rng((seed, index, number))
        images = scenes.batch(PICTURES, size, rng)
        inputs = trunk(prepared(trunk, images), stop=below)
        goal = before_relu(teacher, teacher_view(images))[layer.name].flatten(2)
        places = torch.from_numpy(rng.permutation(goal.shape[-1])[:POSITIONS])
        windows = [
            F.unfold(part.contiguous(), layer.kernel, padding=layer.padding)[..., places].transpose(1, 2).flatten(0, 1)
            for part in inputs.chunk(layer.groups, 1)
        ]
        yield windows, goal[..., places].transpose(1, 2).flatten(0, 1)


class _Sums:
    """The sums of products that a layer's regressions need: of inputs, of inputs and goals, of goals."""

    def __init__(self, inputs: list[Tensor], crossed: list[Tensor], squares: Tensor, total: Tensor, n: int):
        self.inputs, self.crossed, self.squares, self.total, self.n = inputs, crossed, squares, total, n

    @classmethod
    def gathered(cls, pairs: Iterator[tuple[list[Tensor], Tensor]]) -> "_Sums":
        """Add up all batches."""
        sums = None
        for windows, goals in pairs:
            found = cls(
                [w.T @ w for w in windows],
                [w.T @ goals for w in windows],
                goals.square().sum(0),
                goals.sum(0),
                len(goals),
            )
            sums = found if sums is None else sums.plus(found)
        if sums is None:
            raise ValueError("expected at least one batch of pictures, found none")
        return sums

    def plus(self, other: "_Sums") -> "_Sums":
        """The sums over both."""
        inputs = [a.add_(b) for a, b in zip(self.inputs, other.inputs, strict=True)]
        crossed = [a.add_(b) for a, b in zip(self.crossed, other.crossed, strict=True)]
        return _Sums(inputs, crossed, self.squares + other.squares, self.total + other.total, self.n + other.n)

    def regression(self) -> tuple[list[Tensor], Tensor]:
        """For each group its filters (maps, inputs), and what they leave of each map's variance (groups, maps)."""
        filters, left = [], []
        variance = self.squares - self.total.square() / self.n
        for products, crossed in zip(self.inputs, self.crossed, strict=True):
            ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products))
            solved = torch.linalg.solve(products + ridge, crossed)
            error = self.squares - 2 * (solved * crossed).sum(0) + (solved * (products @ solved)).sum(0)
            filters.append(solved.T)
            left.append(error / variance)
        return filters, torch.stack(left)


def _shared_out(unexplained: Tensor, places: int) -> list[Tensor]:
    """Which of the teacher's maps each group takes, `places` each: those that it explains better than the other.

    A map goes to one group first; places that are left take further maps, the best explained of the other group's.

    Args:
        unexplained: Share of each map's variance that each group leaves, shape (groups, maps).
        places: How many maps each group has room for.
    """
    if len(unexplained) == 1:
        return [unexplained[0].argsort()[:places].sort().values]
    first, second = unexplained
    order = (second - first).argsort(descending=True)  # first the maps that are the first group's by far
    maps = len(order)
    cut = int(((second - first) > 0).sum())
    cut = min(max(cut, maps - places), places) if maps <= 2 * places else maps // 2
    shares = []
    for own, others, left in ((order[:cut], order[cut:], first), (order[cut:], order[:cut], second)):
        if len(own) > places:
            own = own[left[own].argsort()[:places]]
        spare = others[left[others].argsort()[: places - len(own)]]
        shares.append(torch.cat([own, spare]))
    return shares
