"""Intervals of an accuracy, paired tests of two models, and the adjustment of several tests."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Accuracy(NamedTuple):
    """Share of correct predictions with its 95 % interval.

    Attributes:
        value: The share, 0..1.
        correct: Number of correct predictions.
        n: Number of predictions.
        low: Lower end of the interval, 0..1.
        high: Upper end of the interval, 0..1.
    """

    value: float
    correct: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % (n={self.n}, {100 * self.low:.1f}–{100 * self.high:.1f})"


def wilson(correct: int, n: int) -> Accuracy:
    """Accuracy of `correct` predictions of `n`, with Wilson's interval."""
    interval = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return Accuracy(correct / n, correct, n, float(interval.low), float(interval.high))


def subject_bootstrap(correct, people) -> Accuracy:
    """Accuracy with an interval for people never seen (subject-level bootstrap).

    Images of one person are not independent, so whole people are resampled (percentile bootstrap, always with the same
    random numbers). Where Wilson's interval is wider, as it is when all predictions are correct, it counts.

    Args:
        correct: Whether each prediction is correct, shape (N,).
        people: Who is on each image, N names.
    """
    correct = np.asarray(correct, bool)
    counts, correct_counts = _by_subject(people, correct)
    pooled = wilson(int(correct.sum()), correct.size)
    if len(counts) < 2:
        return pooled
    interval = stats.bootstrap(
        (correct_counts, counts), lambda c, n, axis: c.sum(axis) / n.sum(axis), paired=True, method="percentile", rng=0
    ).confidence_interval
    return pooled._replace(low=min(pooled.low, float(interval.low)), high=max(pooled.high, float(interval.high)))


class Comparison(NamedTuple):
    """Two models on the same images.

    Attributes:
        only_a: Images that only the first predicts correctly.
        only_b: Images that only the second predicts correctly.
        p: Probability of at least so uneven a split if they were equally good (exact McNemar test, two-sided).
    """

    only_a: int
    only_b: int
    p: float

    def __str__(self) -> str:
        better = "first" if self.only_a > self.only_b else "second"
        verdict = f"the {better} is better" if self.p < 0.05 else "no difference shown"
        return f"{verdict} (p={self.p:.3g}; {self.only_a} right only in the first, {self.only_b} only in the second)"


def mcnemar(a_correct, b_correct) -> Comparison:
    """Exact McNemar test of two models.

    Args:
        a_correct: Whether the first model's prediction of each image is correct, shape (N,).
        b_correct: The same of the second model.

    Raises:
        ValueError: If the shapes differ.
    """
    a, b = np.asarray(a_correct, bool), np.asarray(b_correct, bool)
    if a.shape != b.shape:
        raise ValueError(f"a paired test needs predictions of the same images, found {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return Comparison(
        only_a, only_b, float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    )


def wilcoxon_by_subject(a_correct, b_correct, people) -> float:
    """Wilcoxon's signed-rank test over each person's shares of correct predictions.

    Args:
        a_correct: Whether the first model's prediction of each image is correct, shape (N,).
        b_correct: The same of the second model.
        people: Who is on each image, N names.

    Returns:
        The p-value; 1 if nobody's shares differ.
    """
    counts, difference = _by_subject(people, np.asarray(a_correct, float) - np.asarray(b_correct, float))
    shares = difference / counts
    if not shares.any():
        return 1.0
    return float(stats.wilcoxon(shares).pvalue)  # pyright: ignore[reportAttributeAccessIssue] (scipy's stub)


def holm(p) -> np.ndarray:
    """Holm's adjustment of the p-values of tests made together, shape (K,)."""
    p = np.asarray(p, float)
    order = p.argsort()
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted[order.argsort()]


def _by_subject(people, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of images and sum of values of each person."""
    _, subject = np.unique(np.asarray(people), return_inverse=True)
    return np.bincount(subject), np.bincount(subject, values)
