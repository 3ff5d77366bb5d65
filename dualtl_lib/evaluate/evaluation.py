"""How good a model is: predictions, accuracy with its interval, confusion, paired comparison, a linear baseline."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dualtl_lib.models.precision import autocast, resolve
from dualtl_lib.train.frozen import FrozenFeatures, logits, pixels

BATCH = 25


class Accuracy(NamedTuple):
    """A share of right answers with its 95 % interval. All but `correct` and `n` are in 0..1."""

    value: float
    correct: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % (n={self.n}, {100 * self.low:.1f}–{100 * self.high:.1f})"


@torch.no_grad()
def predict(
    model: nn.Module,
    faces,
    transform: Callable[[Tensor], Tensor] | None = None,
    features: FrozenFeatures | None = None,
    precision: str = "float32",
) -> Tensor:
    """The class of each image, int64 [N], or of each image and attribute, int64 [N, A].

    transform: uint8 images [n, 3, 227, 227] -> the same, applied to each batch, as occlusion does.
    features: what the frozen layers make of these faces, if it is known already; not together with `transform`. The
        rest is then computed in their precision.
    precision: "float32", "bfloat16", or "auto": the faster on this machine.
    """
    if features is not None and (transform is not None or len(features) != len(faces)):
        raise ValueError(
            f"features are those of {len(features)} untransformed images: of the same {len(faces)} faces, "
            "without a transform"
        )
    model.eval()
    device = next(model.parameters()).device
    found, precision = [], resolve(precision, device)
    with autocast(precision, device):  # around all, so that it casts the weights once
        for begin in tqdm(range(0, len(faces), BATCH), desc="predicting", leave=False):
            chosen = np.arange(begin, min(begin + BATCH, len(faces)))
            if features is not None:
                answers = logits(model, features, chosen)
            else:
                images = pixels(faces, chosen).to(device)
                answers = model(images if transform is None else transform(images))
            found.append(answers.argmax(-1).cpu())
    return torch.cat(found)


def accuracy(predicted, target, people=None) -> Accuracy:
    """The share of predictions that equal the target; arrays or tensors of one shape, every element counted.

    people: who is on each image [N]; the interval is then `over_people`'s, else Wilson's.
    """
    predicted, target = np.asarray(predicted), np.asarray(target)
    if predicted.shape != target.shape or predicted.size == 0:
        raise ValueError(f"predictions {predicted.shape} and targets {target.shape} must be alike and not empty")
    right = predicted == target
    return wilson(int(right.sum()), right.size) if people is None else over_people(right, people)


def wilson(correct: int, n: int) -> Accuracy:
    """`correct` right answers of `n`, with their interval."""
    interval = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return Accuracy(correct / n, correct, n, float(interval.low), float(interval.high))


def over_people(right, people) -> Accuracy:
    """The share of right answers [N] to images of these people [N], with an interval for people never seen.

    Images of one person are not independent, so people are drawn again and again (percentile bootstrap, always from the
    same random numbers). Where Wilson's interval reaches further, as it does when all answers are right, it counts.
    """
    right = np.asarray(right, bool)
    _, who = np.unique(np.asarray(people), return_inverse=True)
    counts, correct = np.bincount(who), np.bincount(who, right)
    found = wilson(int(right.sum()), right.size)
    if len(counts) < 2:
        return found
    drawn = stats.bootstrap(
        (correct, counts), lambda c, n, axis: c.sum(axis) / n.sum(axis), paired=True, method="percentile", rng=0
    ).confidence_interval
    return found._replace(low=min(found.low, float(drawn.low)), high=max(found.high, float(drawn.high)))


def confusion(predicted, target, classes) -> np.ndarray:
    """How often each class (row) was called each class (column): int64 [K, K]; target indices 0..K-1."""
    return confusion_matrix(np.asarray(target), np.asarray(predicted), labels=np.arange(len(classes)))


class Comparison(NamedTuple):
    """Two models on the same images: how many only the first, only the second got right, and how likely at least so
    uneven a split would be if they were equally good (exact McNemar test, two-sided)."""

    only_a: int
    only_b: int
    p: float

    def __str__(self) -> str:
        better = "first" if self.only_a > self.only_b else "second"
        verdict = f"the {better} is better" if self.p < 0.05 else "no difference shown"
        return f"{verdict} (p={self.p:.3g}; {self.only_a} right only in the first, {self.only_b} only in the second)"


def compare(a_correct, b_correct) -> Comparison:
    """Exact McNemar test on two boolean arrays of which answers were right, image by image."""
    a, b = np.asarray(a_correct, bool), np.asarray(b_correct, bool)
    if a.shape != b.shape:
        raise ValueError(f"the two models answered {a.shape} and {b.shape} images; a paired test needs the same")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Comparison(only_a, only_b, float(p))


def compare_people(a_correct, b_correct, people) -> float:
    """p of Wilcoxon's signed-rank test over each person's shares of right answers; 1 where nobody's differ."""
    difference = np.asarray(a_correct, float) - np.asarray(b_correct, float)
    _, who = np.unique(np.asarray(people), return_inverse=True)
    difference = np.bincount(who, difference) / np.bincount(who)
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def holm(p) -> np.ndarray:
    """Holm's adjustment of p-values [K] of K tests made together."""
    p = np.asarray(p, float)
    order = p.argsort()
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted[order.argsort()]


def grey(faces, size: int) -> np.ndarray:
    """Each image as a row of size x size grey values in 0..1, float32 [N, size^2]."""
    rows = []
    for begin in range(0, len(faces), BATCH):
        images = pixels(faces, np.arange(begin, min(begin + BATCH, len(faces)))).float().mean(1, keepdim=True)
        rows.append(F.interpolate(images, (size, size), mode="area").flatten(1) / 255)
    return torch.cat(rows).numpy()


def linear_svm(train, test, size: int = 48, components: int = 150, seed: int = 0) -> Tensor:
    """What raw pixels give: the principal components of size x size grey images and a linear SVM. int64 [N of test].

    A floor for any network: where it scores high, the split is easy. Targets must be one class per image.
    """
    rows = grey(train, size)
    components = min(components, *rows.shape)
    classifier = make_pipeline(PCA(components, random_state=seed), LinearSVC(random_state=seed))
    classifier.fit(rows, np.asarray(train.targets))
    return torch.from_numpy(classifier.predict(grey(test, size)).astype(np.int64))
