"""Accuracy and the confusion matrix."""

import numpy as np
from sklearn.metrics import confusion_matrix

from dualtl_lib.evaluate.statistics import Accuracy, subject_bootstrap, wilson

__all__ = ["Accuracy", "accuracy", "confusion"]


def accuracy(predicted, target, people=None) -> Accuracy:
    """Share of predictions that equal the labels.

    Args:
        predicted: Class indices, shape (N,), or (N, A) with every attribute counted.
        target: Labels of the same shape.
        people: Who is on each image, N names, for a subject-level bootstrap interval. Default: Wilson's interval.

    Raises:
        ValueError: If the shapes differ or are empty.
    """
    predicted, target = np.asarray(predicted), np.asarray(target)
    if predicted.shape != target.shape or predicted.size == 0:
        raise ValueError(
            f"predicted: expected the labels' shape, not empty, found {predicted.shape} and {target.shape}"
        )
    correct = predicted == target
    return wilson(int(correct.sum()), correct.size) if people is None else subject_bootstrap(correct, people)


def confusion(predicted, target, classes) -> np.ndarray:
    """How often each class (row) was predicted as each class (column), int64, shape (K, K).

    Args:
        predicted: Class indices 0..K-1, shape (N,).
        target: Labels, shape (N,).
        classes: Names of the K classes.
    """
    return confusion_matrix(np.asarray(target), np.asarray(predicted), labels=np.arange(len(classes)))
