"""The number format that the network computes in: float32 is the reference, bfloat16 is taken where it is faster.

In bfloat16 convolutions and products take numbers of 8 significant bits and add up in float32; weights, momentum
buffers and loss stay float32 (mixed precision, as in torch.autocast). benchmarks/precision.py measures what it changes.
"""

import contextlib
import functools
import time
from collections.abc import Iterator

import torch

PRECISIONS = ("float32", "bfloat16", "auto")


@functools.cache
def bfloat16_pays(device: str) -> bool:
    """Measure, in about 0.3 s, whether bfloat16 products are at least 1.5 times as fast as float32.

    They are with AMX and AVX-512's bfloat16; a CPU without such arithmetic emulates it, up to 200 times slower.

    Args:
        device: "cpu" or "cuda".
    """
    side = 512 if device == "cpu" else 4096  # on a GPU a small product takes no longer than starting it
    seconds = {torch.float32: [], torch.bfloat16: []}
    factors = {dtype: torch.ones(side, side, dtype=dtype, device=device) for dtype in seconds}
    for a in factors.values():
        (a @ a)[0, 0].item()  # loads a GPU's library
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:  # in turn, so that other work on the machine slows both
        for dtype, a in factors.items():
            begin = time.perf_counter()
            (a @ a)[0, 0].item()  # waits for the device
            seconds[dtype].append(time.perf_counter() - begin)
    return min(seconds[torch.float32]) >= 1.5 * min(seconds[torch.bfloat16])


def accelerator() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve(precision: str, device: torch.device | None = None) -> str:
    """Return "float32" or "bfloat16": what "auto" means on a device, any other precision as it is.

    Args:
        precision: One of PRECISIONS.
        device: Where the network computes. Default: the `accelerator`.

    Raises:
        ValueError: If the precision is none of them.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"expected precision as one of {', '.join(PRECISIONS)}, found {precision!r}; choose one")
    if precision != "auto":
        return precision
    return "bfloat16" if bfloat16_pays(str(device or accelerator())) else "float32"


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision within the context, forward pass and backward pass.

    In float32 convolutions and products on a GPU do not use TF32, whose numbers have 11 significant bits and which
    PyTorch's convolutions take there by default. The context restores these settings at its end.

    Args:
        precision: "float32" or "bfloat16".
        device: Where the network computes.
    """
    conv = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue] (torch adds it at import)
    exact = (conv, torch.backends.cuda.matmul) if precision == "float32" and device.type == "cuda" else ()
    before = [setting.fp32_precision for setting in exact]
    try:
        for setting in exact:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        for setting, value in zip(exact, before, strict=True):
            setting.fp32_precision = value
