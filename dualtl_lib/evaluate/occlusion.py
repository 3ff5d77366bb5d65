"""Covering regions of a face with a box of one grey value (section 4.4, Table 6)."""

import torch
from torch import Tensor

from dualtl_lib.data.regions import Box, region_mask


def cover(images: Tensor, region: str, value: int = 0, layout: str | tuple[float, float, float] = "detected") -> Tensor:
    """Cover a region by one grey value.

    Args:
        images: Square pictures, uint8, shape (N, C, H, W) or (C, H, W).
        region: A key of `regions.REGIONS`.
        value: Grey value 0..255; 0 is black, as in the paper.
        layout: How the faces lie in their squares; see `regions.region_mask`.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: If the images, the region, the value or the layout is none of these.
    """
    _check(images, value)
    inside = region_mask(region, images.shape[-1], layout).to(images.device)
    return images.masked_fill(inside, value)


def cover_box(images: Tensor, box: Box, value: int = 0) -> Tensor:
    """Cover a rectangle by one grey value.

    Args:
        images: Square pictures, uint8, shape (N, C, H, W) or (C, H, W).
        box: (left, top, right, bottom) in fractions 0..1 of the square.
        value: Grey value 0..255.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: If the images, the box or the value is none of these.
    """
    _check(images, value)
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"box: expected (left, top, right, bottom) in fractions 0..1 of the square, found {tuple(box)}"
        )
    size = images.shape[-1]
    covered = images.clone()
    covered[..., round(top * size) : round(bottom * size), round(left * size) : round(right * size)] = value
    return covered


def _check(images: Tensor, value: int) -> None:
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images: expected square uint8 [N, C, H, W], found {images.dtype} {list(images.shape)}")
    if not 0 <= value <= 255:
        raise ValueError(f"value: expected a grey value 0..255, found {value}")
