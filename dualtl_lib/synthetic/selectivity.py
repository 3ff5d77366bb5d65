"""The scale of each map of conv3 to conv5, set so that selective maps lead in a layer's projections.

From conv3 on, a map may be scaled by any positive number if the next layer's weights for it are divided by that number:
the network computes the same. Eq. (9) is not invariant to it: a projection adds up all maps, each with its activation.
In BVLC's network selective maps, silent almost everywhere, have the largest activations. Here a map's scale follows its
selectivity on the training pictures; maps with random filters, which are active almost everywhere, get one scale. Each
layer is scaled as a whole to the activations that BVLC's has on faces.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.synthetic import scenes
from dualtl_lib.synthetic.least_squares import CARRIED, PICTURES, before_relu, convolution

POWER = {"conv3": 5.0, "conv4": 3.5, "conv5": 0.0}  # of the selectivity, for the maps that learned from the teacher
RANDOM = {"conv3": 5.5, "conv4": 0.5, "conv5": 3.0}  # scale of the maps with random filters, over the others' median
LEVEL = {"conv3": 24.0, "conv4": 16.5, "conv5": 3.6}  # RMS of the rectified maps on the training pictures
LARGEST = 20.0  # a map's scale over the layer's median
SILENT = 1e-3  # of the layer's mean activation, added to each activation: a map that is never active has a selectivity


@torch.no_grad()
def apply(trunk: Trunk, *, size: int, seed: int) -> None:
    """Rescale conv3 to conv5 in place, once: applied twice, it compounds. The trunk's output changes in scale alone.

    Args:
        trunk: A trunk that distill has trained.
        size: Side of the pictures in pixels.
        seed: Of the pictures.
    """
    for name, power in POWER.items():
        images = scenes.batch(PICTURES, size, np.random.default_rng((seed, 4000)))
        maps = before_relu(trunk, images)[name].relu()
        gains = selectivity(maps).pow(power)
        gains = (gains / gains.median()).clamp(max=LARGEST)
        carried = _carried(trunk, name)
        rms = maps.square().mean((0, 2, 3)).sqrt().clamp_min(1e-6)
        typical = (gains * rms)[~carried].median()
        gains = torch.where(carried, RANDOM[name] * typical / rms, gains)
        level = (maps * gains.view(-1, 1, 1)).square().mean().sqrt()
        rescale(trunk, {name: gains * (LEVEL[name] / level)})


def selectivity(maps: Tensor) -> Tensor:
    """Fourth root of the mean fourth power over the RMS, of rectified maps (N, C, H, W): 1 if constant; shape (C,)."""
    values = maps + SILENT * maps.mean()
    return values.pow(4).mean((0, 2, 3)).pow(0.25) / values.square().mean((0, 2, 3)).sqrt()


def _carried(trunk: Trunk, name: str) -> Tensor:
    """Which maps have random filters: bool, shape (C,)."""
    layer = trunk.layer(name)
    found = torch.zeros(layer.groups, layer.maps // layer.groups, dtype=torch.bool)
    if CARRIED[name]:
        found[:, -(CARRIED[name] // layer.groups) :] = True
    return found.flatten()


@torch.no_grad()
def rescale(trunk: Trunk, gains: Mapping[str, Tensor]) -> None:
    """Multiply maps by positive numbers and divide the next layer's weights by them, in place.

    Args:
        trunk: The trunk; layers with normalization after them cannot be rescaled.
        gains: For each layer its numbers, shape (C,).

    Raises:
        ValueError: If a layer is normalized, or a number is not positive.
    """
    names = [layer.name for layer in trunk.layers]
    for name, gain in gains.items():
        if trunk.layer(name).norm or not (gain > 0).all():
            raise ValueError(f"{name}: expected a layer without normalization and positive gains")
        conv = convolution(trunk, name)
        conv.weight.mul_(gain.view(-1, 1, 1, 1))
        conv.get_parameter("bias").mul_(gain)
        following = names[names.index(name) + 1 :]
        if following:
            after = convolution(trunk, following[0])
            for rows, its in zip(after.weight.chunk(after.groups), gain.chunk(after.groups), strict=True):
                rows.div_(its.view(1, -1, 1, 1))
