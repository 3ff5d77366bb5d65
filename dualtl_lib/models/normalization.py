"""Local response normalization, as Caffe's LRN layer computes it. Shapes: N images, C maps, H rows, W columns."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AT_ONCE = (
    400_000  # numbers normalized at once on a CPU, so that intermediate results stay in the cache: 1.5 times as fast
)


class LocalResponseNorm(nn.Module):
    """x / (1 + alpha / size * sum of x^2 over `size` neighbouring maps)^beta, as Caffe's LRN layer.

    Equal to nn.LocalResponseNorm to rounding. Sums of shifted slices, a gradient written out, and a few images at a
    time make it five times as fast on a CPU.
    """

    size, alpha, beta = 5, 1e-4, 0.75
    scale = alpha / size

    def forward(self, x: Tensor) -> Tensor:
        """Normalize feature maps, shape (N, C, H, W)."""
        return _Normalize.apply(x, self.scale)

    def gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Gradient with respect to x, all of shape (N, C, H, W), from the one with respect to the output."""
        return _gradient(x, _root(x, self.scale), gradient, self.scale)


def _neighbours(x: Tensor) -> Tensor:
    """The sum over each map and the two on either side of it."""
    maps = x.shape[1]
    if x.dtype == torch.bfloat16:  # a product takes a third of the time, and adds up in float32
        band = torch.ones(maps, maps, dtype=x.dtype, device=x.device).tril_(2).triu_(-2)
        return F.linear(x.permute(0, 2, 3, 1), band).permute(0, 3, 1, 2)
    padded = F.pad(x, (0, 0, 0, 0, 2, 2))
    pairs = padded[:, :-1] + padded[:, 1:]
    return pairs[:, :maps] + pairs[:, 2 : maps + 2] + padded[:, 4:]


def _root(x: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """(1 + scale * sum of squares)^-1/2."""
    return torch.rsqrt(_neighbours(x.square()).mul_(scale).add_(1), out=out)


def _power(root: Tensor) -> Tensor:
    """(…)^-3/4 of (…)^-1/2: LocalResponseNorm.beta."""
    return root * root.sqrt()


def _gradient(x: Tensor, root: Tensor, gradient: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Gradient g s^-b - 2 b c x sum(g x s^-b / s), where s = 1 + c sum x^2, root = s^-1/2, sums over neighbours."""
    direct = _power(root).mul_(gradient)
    across = _neighbours(root.square().mul_(direct).mul_(x))
    return torch.addcmul(direct, x, across, value=-2 * LocalResponseNorm.beta * scale, out=out)


class _Normalize(torch.autograd.Function):
    """y = x s^-b with s = 1 + c sum x^2."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        root, y = torch.empty_like(x), torch.empty_like(x)
        for x_part, root_part, y_part in _few_at_a_time(x, root, y):
            _root(x_part, scale, out=root_part)
            torch.mul(_power(root_part), x_part, out=y_part)
        ctx.save_for_backward(x, root)
        ctx.scale = scale
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        x, root = ctx.saved_tensors
        result = torch.empty_like(x)
        for x_part, root_part, gradient, out in _few_at_a_time(x, root, *gradients, result):
            _gradient(x_part, root_part, gradient, ctx.scale, out=out)
        return result, None


def _few_at_a_time(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same images of several tensors (N, …), as many at a time as AT_ONCE allows."""
    n_images, *shape = tensors[0].shape
    n_at_once = max(1, AT_ONCE // math.prod(shape)) if tensors[0].device.type == "cpu" else n_images
    return zip(*(t.split(n_at_once) for t in tensors), strict=True)
