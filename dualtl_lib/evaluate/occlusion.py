"""Covering regions of a face with a box of one grey value (section 4.4, Table 6)."""

import torch
from torch import Tensor

from dualtl_lib.data.regions import Box, region_mask


def cover(images: Tensor, region: str, value: int = 0, layout: str | tuple[float, float, float] = "detected") -> Tensor:
    """Images with a region covered by one grey value (0: black, as in the paper).

    uint8 [N, C, H, W] or [C, H, W] of square pictures -> a new tensor of the same shape. Raises ValueError for other
    images, an unknown region and a value outside 0..255.
    """
    _check(images, value)
    inside = region_mask(region, images.shape[-1], layout).to(images.device)
    return images.masked_fill(inside, value)


def cover_box(images: Tensor, box: Box, value: int = 0) -> Tensor:
    """As `cover`, for a rectangle (left, top, right, bottom) in fractions of the square, each 0..1."""
    _check(images, value)
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"a box is (left, top, right, bottom) in fractions 0..1 of the square, not {tuple(box)}")
    size = images.shape[-1]
    covered = images.clone()
    covered[..., round(top * size) : round(bottom * size), round(left * size) : round(right * size)] = value
    return covered


def _check(images: Tensor, value: int) -> None:
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"expected square uint8 images [N, C, H, W], found {images.dtype} {list(images.shape)}")
    if not 0 <= value <= 255:
        raise ValueError(f"value is a grey value 0..255, not {value}")
