"""Trunks and images for the tests of the deconvnet."""

from contextlib import suppress

import numpy as np
import torch
from torch import nn

from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import Trunk

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def random_trunk(seed: int = 0, **kwargs) -> Trunk:
    """A trunk with active neurons in every layer and biases of both signs."""
    trunk, generator = Trunk(**kwargs), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trunk.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.05 if p.ndim == 4 else 0.3))
    return trunk.requires_grad_(False)


def real_trunk() -> Trunk:
    """BVLC's weights where they are, else the embedded trunk."""
    with suppress(OSError, ValueError):
        return weights.load_trunk("$DATA/weights/bvlc_alexnet_conv.safetensors").requires_grad_(False)
    return weights.load_trunk("embedded").requires_grad_(False)


def some_images(n: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, uint8 (n, 3, 227, 227)."""
    coarse = torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=227, mode="bicubic")
    return (smooth * 60 + 128).clamp(0, 255).to(torch.uint8)


def relative(a, b) -> float:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
