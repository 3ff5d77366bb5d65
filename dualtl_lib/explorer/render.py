"""From numbers to pictures: uint8 RGB arrays, shape (H, W, 3), and PNG files of them."""

import io
import zlib

import numpy as np
import torch
from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor

from dualtl_lib.explorer.session import COVER, PLACES, Session, State
from dualtl_lib.models.caffenet import SIZE, Trunk
from dualtl_lib.report.figures import picture, to_display_range
from dualtl_lib.visualize import geometry

OUTLINES = 10  # the most receptive fields drawn
THUMB = 80  # pixels, the side of a picture on the strip and on the contact sheet
SHEET_COLUMNS = 12
YELLOW = (255, 213, 0)


def face(session: Session, state: State, scale: int = 2) -> np.ndarray:
    """Draw the face with the receptive fields of the most activated chosen neurons outlined."""
    shown = Image.fromarray(picture(session.image(state)[0])).resize((SIZE * scale, SIZE * scale))
    draw = ImageDraw.Draw(shown)
    for neuron in session.neurons(state)[:OUTLINES]:
        x, y, right, bottom = receptive_field(session.trunk(state.model), state.layer, *neuron)
        draw.rectangle((x * scale, y * scale, right * scale - 1, bottom * scale - 1), outline=YELLOW, width=2)
    return np.asarray(shown)


def receptive_field(trunk: Trunk, layer: str, row: int, column: int) -> tuple[int, int, int, int]:
    """Return a neuron's receptive field within the picture, (left, top, right, bottom) in pixels.

    Args:
        trunk: The network.
        layer: The neuron's layer; where it pools, the neuron is one after pooling.
        row: Its row in the map, from 1.
        column: Its column, from 1.
    """
    layers = trunk.layers[: trunk.index(layer) + 1]
    window = geometry.Window(np.array([row - 1]), np.array([column - 1]), 1, 1)
    if layers[-1].pool:
        window = window.below_pool(layers[-1])
    field = geometry.receptive_field(layers, window)
    left, top = int(field.lefts[0]), int(field.tops[0])
    return max(left, 0), max(top, 0), min(left + field.width, SIZE), min(top + field.height, SIZE)


def projection(session: Session, state: State, model: str | None = None) -> np.ndarray:
    """Draw the projection by the state's model or another one, as in the figures."""
    return eight_bit(to_display_range(session.projection(state, model)))


def feature_map(session: Session, state: State) -> np.ndarray:
    """Draw the feature map as a heat map, one pixel a neuron; of every map, the largest activation at each place."""
    maps = session.maps(state)
    return heat((maps.amax(0) if state.map is None else maps[state.map - 1]).numpy())


def contact_sheet(session: Session, state: State) -> np.ndarray:
    """Draw all maps of the layer, the projection of each one's most activated neuron, THUMB pixels a map."""
    activations = session.maps(state)
    numbers, places, width = (
        torch.arange(1, len(activations) + 1),
        activations.flatten(1).argmax(1),
        activations.shape[2],
    )
    patches = session.net(state).project_each(session.record(state), numbers, places // width, places % width).patches
    tiles = [_tile(patch) for patch in patches]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % SHEET_COLUMNS)
    rows = np.array(tiles).reshape(-1, SHEET_COLUMNS, THUMB, THUMB, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, SHEET_COLUMNS * THUMB, 3)


def _tile(patch: Tensor) -> np.ndarray:
    """A projection, shape (3, H, W), as a picture of the contact sheet."""
    shown = Image.fromarray(eight_bit(to_display_range(patch)))
    return np.asarray(shown.resize((THUMB, THUMB), Image.Resampling.BILINEAR))


def strip(session: Session) -> np.ndarray:
    """Draw the faces to choose from side by side."""
    small = [Image.fromarray(picture(session.faces[i])).resize((THUMB, THUMB)) for i in session.on_strip()]
    return np.concatenate([np.asarray(s) for s in small], axis=1)


def overlay(image: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """Lay drops of probability over a dimmed grey face as heat.

    Args:
        image: The face, uint8, shape (227, 227, 3).
        drops: A drop for each of PLACES, shape (K, K); it is drawn at the centre of its box and interpolated between.
    """
    grey = image.mean(2, keepdims=True).astype(np.float32) * 0.5
    shares = np.array([np.interp(np.arange(SIZE) + 0.5, PLACES + COVER / 2, one) for one in np.eye(len(PLACES))])
    warm = heat(shares.T @ np.maximum(drops, 0) @ shares)
    return np.clip(grey + 0.8 * warm, 0, 255).astype(np.uint8)


def heat(values: np.ndarray) -> np.ndarray:
    """Draw values, shape (H, W), from 0 (black) over red and yellow to the largest (white)."""
    share = np.clip(values / max(float(values.max()), 1e-12), 0, 1)
    return eight_bit(np.clip(3 * share[..., None] - np.arange(3), 0, 1))


def enlarged(small: np.ndarray, side: int = SIZE) -> np.ndarray:
    """Enlarge a small square picture with hard edges."""
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST))


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Turn 0..1 into uint8."""
    return (values * 255 + 0.5).astype(np.uint8)


def png(pixels: np.ndarray, about: PngImagePlugin.PngInfo | None = None) -> bytes:
    """Write a PNG file; only runs of equal bytes are compressed, since speed matters more here."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=about)
    return file.getvalue()
