"""Predictions, intervals, paired comparison and the linear baseline: dualtl_lib/evaluate."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score
from training_kit import expression_net, noise

from dualtl_lib.data import splits
from dualtl_lib.data.dataset import Faces
from dualtl_lib.data.folders import FaceFolder
from dualtl_lib.evaluate.baselines import linear_svm
from dualtl_lib.evaluate.metrics import accuracy, confusion
from dualtl_lib.evaluate.statistics import holm, mcnemar, subject_bootstrap, wilcoxon_by_subject, wilson
from dualtl_lib.models import caffenet
from dualtl_lib.train.frozen import FrozenFeatures
from dualtl_lib.train.inference import predict


def stripes(images=30, seed=0):
    """Grey pictures; the class is the direction of their stripes."""
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, 2, images)
    wave = np.broadcast_to(90 * np.sin(np.arange(227) / 9), (227, 227))
    grey = np.stack([wave if k else wave.T for k in targets]) + draw.normal(120, 15, (images, 227, 227))
    pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, None], 3, axis=1)
    names = [str(i) for i in range(images)]
    return Faces(pixels, torch.from_numpy(targets), ("down", "across"), names, names, names)


def test_wilson_interval_is_the_published_one():
    found = accuracy(np.arange(200) < 198, np.ones(200, bool))
    assert (found.correct, found.n, found.value) == (198, 200, 0.99)
    assert str(found) == "99.0 % (n=200, 96.4–99.7)"
    assert str(accuracy(np.arange(200) < 196, np.ones(200, bool))) == "98.0 % (n=200, 95.0–99.2)"


def test_wilson_interval_by_its_formula():
    for correct, n in ((0, 7), (3, 7), (7, 7), (61, 300)):
        found = accuracy(np.arange(n) < correct, np.ones(n, bool))
        z, p = 1.959963984540054, correct / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_accuracy_wants_a_prediction_for_each_target():
    with pytest.raises(ValueError, match="predicted"):
        accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="predicted"):
        accuracy([], [])


def test_confusion_has_true_classes_in_rows():
    found = confusion(torch.tensor([1, 1, 2, 0]), torch.tensor([0, 1, 2, 0]), "abcd")
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_comparison_is_the_exact_mcnemar_test():
    a = np.array([1] * 9 + [0] * 1 + [1] * 50 + [0] * 5, bool)
    b = np.array([0] * 9 + [1] * 1 + [1] * 50 + [0] * 5, bool)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (9, 1)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert str(found).startswith("the first is better (p=0.0215")
    same = mcnemar(a, a)
    assert same.p == 1 and str(same).startswith("no difference shown")
    with pytest.raises(ValueError, match="same images"):
        mcnemar(a, b[1:])


def test_an_interval_over_people_is_wider_where_their_images_are_alike():
    people = np.repeat(np.arange(40), 10)
    alike, mixed = people < 30, np.tile(np.arange(10) < 7.5, 40)  # whole people right, or the same share of each
    over, pooled = subject_bootstrap(alike, people), wilson(300, 400)
    assert (over.value, over.correct, over.n) == (0.75, 300, 400)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 40)  # 40 independent answers, not 400
    assert over.low == pytest.approx(0.75 - half, abs=0.02) and over.high == pytest.approx(0.75 + half, abs=0.02)
    assert over.low < pooled.low and over.high > pooled.high
    assert subject_bootstrap(mixed, people) == wilson(320, 400)
    assert subject_bootstrap(np.ones(9), np.arange(9)) == wilson(9, 9)
    assert subject_bootstrap([1, 0], ["a", "a"]) == wilson(1, 2)
    assert accuracy(alike, np.ones(400, bool), people) == over == subject_bootstrap(alike, people)


def test_people_are_compared_by_their_shares():
    people = ["a", "a", "b", "c", "c", "d", "e", "f"]
    a, b = [1, 1, 1, 1, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0]
    shares = np.array([0.5, 1, 0.5, 1, 1, 1])
    assert wilcoxon_by_subject(a, b, people) == stats.wilcoxon(shares).pvalue
    assert wilcoxon_by_subject(a, a, people) == 1


def test_holm_is_the_step_down_of_bonferroni():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]


def test_predictions_are_the_strongest_outputs():
    model, faces = expression_net(2), stripes(60)  # more than one batch
    with torch.no_grad():
        expected = model.eval()(faces.batch(range(60))).argmax(1)
    found = predict(model, faces)
    assert found.dtype == torch.int64 and torch.equal(found, expected)
    assert torch.equal(predict(model, faces, features=FrozenFeatures(model, faces)), expected)
    attributes = caffenet.AttributeNet(model.trunk, "abc")
    assert predict(attributes, faces).shape == (60, 3)


def test_predictions_in_bfloat16_are_those_of_autocast():
    model, faces = expression_net().eval(), noise()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(faces.batch(range(12))).argmax(1)
    assert torch.equal(predict(model, faces, precision="bfloat16"), expected)
    assert torch.equal(predict(model, faces, features=FrozenFeatures(model, faces, precision="bfloat16")), expected)


def test_predictions_of_changed_images():
    model, faces = expression_net(2), stripes(8)
    turned = Faces(faces.images[:].swapaxes(2, 3).copy(), faces.targets, faces.classes, *[faces.files] * 3)
    found = predict(model, faces, transform=lambda images: images.transpose(2, 3))
    assert torch.equal(found, predict(model, turned))
    for how in ({"transform": lambda images: images, "features": FrozenFeatures(model, faces)},
                {"features": FrozenFeatures(model, stripes(7))}):  # fmt: skip
        with pytest.raises(ValueError, match="features"):
            predict(model, faces, **how)


def test_linear_svm_tells_stripes_apart_and_nothing_in_noise():
    test = stripes(40, seed=1)
    found = linear_svm(stripes(30), test)
    assert found.dtype == torch.int64 and torch.equal(found, test.targets)
    shuffled = stripes(30)
    shuffled.targets = shuffled.targets[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert accuracy_score(test.targets, linear_svm(shuffled, test)) < 0.9


def test_linear_svm_on_ckplus_is_high_only_with_the_same_people(data_root):
    data = FaceFolder(data_root / "ckplus48")
    data = data.subset(np.flatnonzero(data.targets != 0))  # 7 classes: the neutral crops come from another tool
    found = {}
    for name in ("random_split", "subject_independent"):
        split = getattr(splits, name)(data, seed=0)[0]
        train, test = data.subset(np.r_[split.train, split.validation]), data.subset(split.test)
        found[name] = accuracy(linear_svm(train, test), test.targets).value
    assert found["random_split"] > 0.97 and 0.65 < found["subject_independent"] < 0.95
