"""Random draws of a training: which images a batch has, and which units dropout drops.

Both follow from the seed and the iteration alone, so a checkpoint needs no state of a random number generator.
"""

from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


def batch_indices(iteration: int, batch: int, n_images: int, seed: int) -> np.ndarray:
    """Indices of the images that an iteration trains on, int64, shape (batch,).

    They are the next `batch` of an endless list that is shuffled anew every epoch.
    """
    position = np.arange(iteration * batch, (iteration + 1) * batch)
    chosen = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(position // n_images):
        here, order = position // n_images == epoch, np.random.default_rng((seed, epoch)).permutation(n_images)
        chosen[here] = order[position[here] % n_images]
    return chosen


@contextmanager
def seeded_dropout(layer: nn.Dropout, seed: tuple[int, int], batch: int, rows: np.ndarray):
    """Let a dropout layer in evaluation mode drop units, drawn from `seed` alone.

    Args:
        layer: The dropout layer.
        seed: Seed of the training, and iteration.
        batch: Images in the whole batch, for which the units are drawn.
        rows: Rows of the batch that the forward pass takes, shape (N,).
    """
    number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    generator, p = torch.Generator().manual_seed(number), layer.p

    def drop(_module, _inputs, x: Tensor) -> Tensor:
        keep = torch.rand(batch, *x.shape[1:], generator=generator)[rows] >= p
        return x * (keep / (1 - p)).to(x)

    hook = layer.register_forward_hook(drop)
    try:
        yield
    finally:
        hook.remove()
