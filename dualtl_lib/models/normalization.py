"""Local response normalization, as Caffe's LRN layer computes it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AT_ONCE = 400_000  # numbers that are normalized at once on a CPU: so many that what lies between stays in the cache


class LocalResponseNorm(nn.Module):
    """x / (1 + alpha / size * sum of x^2 over `size` neighbouring maps)^beta, as Caffe's LRN layer.

    Equal to nn.LocalResponseNorm to rounding. Sums of shifted slices, a gradient written out, and a few images at a
    time make it several times as fast on a CPU.
    """

    size, alpha, beta = 5, 1e-4, 0.75

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return _Normalize.apply(x, self.alpha / self.size)

    def factor(self, x: Tensor) -> Tensor:
        """What each neuron of x [N, C, H, W] is multiplied by, (…)^-beta, in (0, 1]."""
        return _power(_root(x, self.alpha / self.size))


def neighbourhood(x: Tensor) -> Tensor:
    """Which maps of x [N, C, H, W] are at most two apart (LocalResponseNorm.size): 1 or 0, [C, C], as x is."""
    half = LocalResponseNorm.size // 2
    return torch.ones(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device).tril_(half).triu_(-half)


def _neighbours(x: Tensor) -> Tensor:
    """The sum over each map and the two on either side of it."""
    if x.dtype == torch.bfloat16:  # a product adds up in a third of the time, and in float32
        return F.linear(x.permute(0, 2, 3, 1), neighbourhood(x)).permute(0, 3, 1, 2)
    maps = x.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, 2, 2))
    pairs = padded[:, :-1] + padded[:, 1:]
    return pairs[:, :maps] + pairs[:, 2 : maps + 2] + padded[:, 4:]


def _root(x: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """(1 + scale * sum of squares)^-1/2."""
    return torch.rsqrt(_neighbours(x.square()).mul_(scale).add_(1), out=out)


def _power(root: Tensor) -> Tensor:
    """(…)^-3/4 of (…)^-1/2: LocalResponseNorm.beta."""
    return root * root.sqrt()


class _Normalize(torch.autograd.Function):
    """y = x s^-b with s = 1 + c sum x^2, so dL/dx = g s^-b - 2 b c x sum(g x s^-b / s), the sums over neighbours."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        root, y = torch.empty_like(x), torch.empty_like(x)
        for part, its_root, its_y in _few_at_a_time(x, root, y):
            _root(part, scale, out=its_root)
            torch.mul(_power(its_root), part, out=its_y)
        ctx.save_for_backward(x, root)
        ctx.scale = scale
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x, root = ctx.saved_tensors
        back = torch.empty_like(x)
        for part, its_root, its_gradient, its_back in _few_at_a_time(x, root, gradient, back):
            straight = _power(its_root).mul_(its_gradient)
            across = _neighbours(its_root.square().mul_(straight).mul_(part))
            torch.addcmul(straight, part, across, value=-2 * LocalResponseNorm.beta * ctx.scale, out=its_back)
        return back, None


def _few_at_a_time(*tensors: Tensor):
    """The same images of several tensors [N, ...], as many at a time as AT_ONCE allows."""
    images, *shape = tensors[0].shape
    many = max(1, AT_ONCE // math.prod(shape)) if tensors[0].device.type == "cpu" else images
    return zip(*(t.split(many) for t in tensors), strict=True)
