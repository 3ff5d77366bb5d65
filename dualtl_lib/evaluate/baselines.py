"""A linear baseline: how much raw pixels tell."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib.data.dataset import Faces

BATCH = 25


def linear_svm(train: Faces, test: Faces, *, size: int = 48, components: int = 150, seed: int = 0) -> Tensor:
    """Predict classes by a linear SVM on principal components of small grey images.

    It is a floor for any network: where it scores high, the split is easy.

    Args:
        train: Images with one class each.
        test: Images to predict.
        size: Rows and columns of the grey images.
        components: Number of principal components, at most.
        seed: Of the components and of the SVM.

    Returns:
        Class indices of the test images, int64, shape (N,).
    """
    pixels = _grey(train, size)
    components = min(components, *pixels.shape)
    classifier = make_pipeline(PCA(components, random_state=seed), LinearSVC(random_state=seed))
    classifier.fit(pixels, np.asarray(train.targets))
    return torch.from_numpy(classifier.predict(_grey(test, size)).astype(np.int64))


def _grey(faces: Faces, size: int) -> np.ndarray:
    """Grey values 0..1, float32, shape (N, size^2)."""
    rows = []
    for begin in range(0, len(faces), BATCH):
        images = faces.batch(np.arange(begin, min(begin + BATCH, len(faces)))).float().mean(1, keepdim=True)
        rows.append(F.interpolate(images, (size, size), mode="area").flatten(1) / 255)
    return torch.cat(rows).numpy()
