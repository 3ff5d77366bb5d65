"""Logits and predictions of a model."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dualtl_lib.data.dataset import Faces
from dualtl_lib.models.precision import autocast, resolve
from dualtl_lib.train.frozen import FrozenFeatures, Model

BATCH = 25


def logits(model: Model, features: FrozenFeatures, indices) -> Tensor:
    """Logits of the images at these indices, computed from the frozen features on.

    Returns:
        float32, shape (N, K) or (N, A, K).
    """
    x = features[indices]
    with autocast(features.precision, x.device):
        return model.classify(x if features.start is None else model.trunk(x, start=features.start)).float()


@torch.no_grad()
def predict(
    model: Model,
    faces: Faces,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    features: FrozenFeatures | None = None,
    precision: str = "float32",
) -> Tensor:
    """Predict the class of each image, or of each image and attribute.

    Args:
        model: AttributeNet or ExpressionNet.
        faces: N images.
        transform: Function of a batch of images, uint8, shape (N, 3, H, W), to images of that shape; to cover regions.
        features: Frozen features of these faces; the rest is computed in their precision.
        precision: "float32", "bfloat16", or "auto" for the faster on this machine.

    Returns:
        Class indices, int64 on the CPU, shape (N,) or (N, A).

    Raises:
        ValueError: If `features` belong to another number of images, or come with a `transform`.
    """
    if features is not None and (transform is not None or len(features) != len(faces)):
        raise ValueError(f"features: expected those of {len(faces)} images without transform, found {len(features)}")
    model.eval()
    device = next(model.parameters()).device
    predictions, precision = [], resolve(precision, device)
    with autocast(precision, device):  # around all, so that it casts the weights once
        for begin in tqdm(range(0, len(faces), BATCH), desc="predicting", leave=False):
            chosen = np.arange(begin, min(begin + BATCH, len(faces)))
            if features is not None:
                scores = logits(model, features, chosen)
            else:
                images = faces.batch(chosen).to(device)
                scores = model(images if transform is None else transform(images))
            predictions.append(scores.argmax(-1).cpu())
    return torch.cat(predictions)
