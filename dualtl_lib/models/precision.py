"""The number format that the network computes in: float32 is the reference, bfloat16 is taken where it pays.

In bfloat16 convolutions and products take numbers of 8 significant bits and add up in float32; weights, momentum and
loss stay float32 (mixed precision, as torch.autocast does it). What it changes is measured by benchmarks/precision.py.
"""

import functools
import time

import torch

PRECISIONS = ("float32", "bfloat16", "auto")


@functools.cache
def bfloat16_pays(device: str) -> bool:
    """Whether bfloat16 products are at least 1.5 times as fast as float32 on this device: measured, in some 0.3 s.

    True with AMX and with AVX-512's bfloat16; a CPU without such arithmetic emulates it and may be 200 times slower.
    """
    side = 512 if device == "cpu" else 4096  # on a GPU a small product takes no longer than starting it
    taken = {torch.float32: [], torch.bfloat16: []}
    factors = {dtype: torch.ones(side, side, dtype=dtype, device=device) for dtype in taken}
    for a in factors.values():
        (a @ a)[0, 0].item()  # loads a GPU's library
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:  # turn by turn, so that a busy moment of the machine strikes both
        for dtype, a in factors.items():
            begin = time.perf_counter()
            (a @ a)[0, 0].item()  # waits for the device
            taken[dtype].append(time.perf_counter() - begin)
    return min(taken[torch.float32]) >= 1.5 * min(taken[torch.bfloat16])


def accelerator() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve(precision: str, device: torch.device | None = None) -> str:
    """ "float32" or "bfloat16": what "auto" means on this device, by default the `accelerator`; any other as it is.

    Raises ValueError for others.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "auto":
        return precision
    return "bfloat16" if bfloat16_pays(str(device or accelerator())) else "float32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network computes in this precision ("float32" or "bfloat16").

    Asked for float32 on a GPU, it turns TF32 off, whose 11 significant bits PyTorch's convolutions take there by
    default: for good, since the way back runs after the context.
    """
    if precision == "float32" and device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
