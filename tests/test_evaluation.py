"""Predictions, intervals, paired comparison and the linear baseline: dualtl_lib/evaluate."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score
from torch import nn

from dualtl_lib.data import splits
from dualtl_lib.data.ckplus import CKPlus
from dualtl_lib.evaluate import evaluation
from dualtl_lib.models import caffenet
from dualtl_lib.models.caffenet import Layer
from dualtl_lib.train.frozen import FrozenFeatures

TINY = (
    Layer("conv1", 4, 11, stride=4, pool=True, norm=True),
    Layer("conv2", 4, 5, padding=2, pool=True, norm=True),
    Layer("conv3", 4, 3, padding=1),
    Layer("conv4", 4, 3, padding=1),
    Layer("conv5", 4, 3, padding=1, pool=True),
)


class Stripes:
    """Grey pictures; the class is the direction of their stripes."""

    def __init__(self, images=30, seed=0):
        draw = np.random.default_rng(seed)
        self.targets = torch.from_numpy(draw.integers(0, 2, images))
        wave = 90 * np.sin(np.arange(227) / 9)
        across = np.broadcast_to(wave, (227, 227))
        grey = np.stack([across if k else across.T for k in self.targets]) + draw.normal(120, 15, (images, 227, 227))
        self.images = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, None], 3, axis=1)
        self.classes = ("down", "across")

    def __len__(self):
        return len(self.targets)


def net(kind=caffenet.ExpressionNet, classes="ab"):
    torch.manual_seed(0)
    model = kind(caffenet.Trunk(TINY), classes)
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    return model.freeze("conv1", "conv2")


def test_wilson_interval_is_the_published_one():
    found = evaluation.accuracy(np.arange(200) < 198, np.ones(200, bool))
    assert (found.correct, found.n, found.value) == (198, 200, 0.99)
    assert str(found) == "99.0 % (n=200, 96.4–99.7)"
    assert str(evaluation.accuracy(np.arange(200) < 196, np.ones(200, bool))) == "98.0 % (n=200, 95.0–99.2)"


def test_wilson_interval_by_its_formula():
    for correct, n in ((0, 7), (3, 7), (7, 7), (61, 300)):
        found = evaluation.accuracy(np.arange(n) < correct, np.ones(n, bool))
        z, p = 1.959963984540054, correct / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_accuracy_wants_a_prediction_for_each_target():
    with pytest.raises(ValueError, match="alike and not empty"):
        evaluation.accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="alike and not empty"):
        evaluation.accuracy([], [])


def test_confusion_has_true_classes_in_rows():
    found = evaluation.confusion(torch.tensor([1, 1, 2, 0]), torch.tensor([0, 1, 2, 0]), "abcd")
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_comparison_is_the_exact_mcnemar_test():
    a = np.array([1] * 9 + [0] * 1 + [1] * 50 + [0] * 5, bool)
    b = np.array([0] * 9 + [1] * 1 + [1] * 50 + [0] * 5, bool)
    found = evaluation.compare(a, b)
    assert (found.only_a, found.only_b) == (9, 1)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert str(found).startswith("the first is better (p=0.0215")
    same = evaluation.compare(a, a)
    assert same.p == 1 and str(same).startswith("no difference shown")
    with pytest.raises(ValueError, match="the same"):
        evaluation.compare(a, b[1:])


def test_an_interval_over_people_is_wider_where_their_images_are_alike():
    people = np.repeat(np.arange(40), 10)
    alike, mixed = people < 30, np.tile(np.arange(10) < 7.5, 40)  # whole people right, or the same share of each
    over, wilson = evaluation.over_people(alike, people), evaluation.wilson(300, 400)
    assert (over.value, over.correct, over.n) == (0.75, 300, 400)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 40)  # 40 independent answers, not 400
    assert over.low == pytest.approx(0.75 - half, abs=0.02) and over.high == pytest.approx(0.75 + half, abs=0.02)
    assert over.low < wilson.low and over.high > wilson.high
    assert evaluation.over_people(mixed, people) == evaluation.wilson(320, 400)
    assert evaluation.over_people(np.ones(9), np.arange(9)) == evaluation.wilson(9, 9)
    assert evaluation.over_people([1, 0], ["a", "a"]) == evaluation.wilson(1, 2)
    assert evaluation.accuracy(alike, np.ones(400, bool), people) == over == evaluation.over_people(alike, people)


def test_people_are_compared_by_their_shares():
    people = ["a", "a", "b", "c", "c", "d", "e", "f"]
    a, b = [1, 1, 1, 1, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0]
    shares = np.array([0.5, 1, 0.5, 1, 1, 1])
    assert evaluation.compare_people(a, b, people) == stats.wilcoxon(shares).pvalue
    assert evaluation.compare_people(a, a, people) == 1


def test_holm_is_the_step_down_of_bonferroni():
    assert evaluation.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evaluation.holm([0.6, 0.9]).tolist() == [1, 1]


def test_predictions_are_the_strongest_outputs():
    model, faces = net(), Stripes(60)  # more than one batch
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(faces.images)).argmax(1)
    found = evaluation.predict(model, faces)
    assert found.dtype == torch.int64 and torch.equal(found, expected)
    assert torch.equal(evaluation.predict(model, faces, features=FrozenFeatures(model, faces)), expected)
    assert evaluation.predict(net(caffenet.AttributeNet, "abc"), faces).shape == (60, 3)


def test_predictions_of_changed_images():
    model, faces = net(), Stripes(8)
    turned = Stripes(8)
    turned.images = turned.images.swapaxes(2, 3).copy()
    assert torch.equal(
        evaluation.predict(model, faces, lambda images: images.transpose(2, 3)), evaluation.predict(model, turned)
    )
    with pytest.raises(ValueError, match="without a transform"):
        evaluation.predict(model, faces, lambda images: images, features=FrozenFeatures(model, faces))
    with pytest.raises(ValueError, match="of the same 8 faces"):
        evaluation.predict(model, faces, features=FrozenFeatures(model, Stripes(7)))


def test_linear_svm_tells_stripes_apart_and_nothing_in_noise():
    test = Stripes(40, seed=1)
    found = evaluation.linear_svm(Stripes(30), test)
    assert found.dtype == torch.int64 and torch.equal(found, test.targets)
    shuffled = Stripes(30)
    shuffled.targets = shuffled.targets[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert accuracy_score(test.targets, evaluation.linear_svm(shuffled, test)) < 0.9


def test_linear_svm_on_ckplus_is_high_only_with_the_same_people(data_root):
    data = CKPlus(data_root / "ckplus48")
    data = data.subset(np.flatnonzero(data.targets != 0))  # 7 classes: the neutral crops come from another tool
    found = {}
    for name in ("random_split", "subject_independent"):
        split = getattr(splits, name)(data, seed=0)[0]
        train, test = data.subset(np.r_[split.train, split.validation]), data.subset(split.test)
        found[name] = evaluation.accuracy(evaluation.linear_svm(train, test), test.targets).value
    assert found["random_split"] > 0.97 and 0.65 < found["subject_independent"] < 0.95
