"""The distilled trunk: its pictures, its teacher, its training, and the file that is shipped."""

import importlib.util
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dualtl_lib.models import store, weights
from dualtl_lib.models.caffenet import TORCHVISION_ALEXNET, Trunk
from dualtl_lib.synthetic import distill, least_squares, scenes, selectivity, teacher

HOME = Path(__file__).resolve().parent.parent


def random_teacher() -> Trunk:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        trunk = Trunk(TORCHVISION_ALEXNET, transform=weights.SOURCES["torchvision-alexnet"].transform)
    return trunk.requires_grad_(False)


def test_no_picture_of_a_person_is_trained_on():
    assert not set(scenes.PHOTOGRAPHS) & set(scenes.SHOW_PEOPLE)


def test_pictures_depend_on_the_generator_alone():
    first, again, other = (scenes.batch(3, 131, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 3, 131, 131) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 255
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("size", [131, 163, 227])
def test_units_of_teacher_and_student_see_the_same_pixels(size):
    student, taught_by = Trunk().requires_grad_(False), random_teacher()
    images = scenes.batch(1, size, np.random.default_rng(0))
    changed = images.clone()
    changed[0, :, 61, 74] = 255 - changed[0, :, 61, 74]
    touched, shapes = [], []
    for trunk, view in ((student, lambda x: x), (taught_by, least_squares.teacher_view)):
        before, after = (least_squares.before_relu(trunk, view(x)) for x in (images, changed))
        touched.append((before["conv1"] != after["conv1"]).any(1))
        shapes.append([maps.shape[2:] for maps in before.values()])
    assert torch.equal(*touched)
    assert shapes[0] == shapes[1]


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("content", [Harmful(), {"AlexNet_0": print}, {"AlexNet_0": np.float32(1)}])
def test_the_unpickler_makes_arrays_and_nothing_else(content):
    with pytest.raises(ValueError, match="nothing was run"):
        teacher.ArraysOnly(io.BytesIO(pickle.dumps(content, protocol=3))).load()


def test_a_pickle_of_arrays_becomes_the_teacher():
    expected, layers = random_teacher(), {}
    for i, layer in enumerate(expected.layers):
        conv = expected.get_submodule(layer.name)
        kernel = conv.weight.permute(2, 3, 1, 0).contiguous().numpy()
        layers[f"Conv_{i}"] = {"kernel": kernel, "bias": conv.bias.numpy()}
    content = pickle.dumps({"AlexNet_0": layers}, protocol=3).replace(b"numpy._core", b"numpy.core")
    found = teacher.from_pickle(content)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
    with pytest.raises(ValueError, match="five layers"):
        teacher.from_pickle(pickle.dumps({"AlexNet_0": {}}, protocol=3))


def test_another_network_is_no_teacher(tmp_path):
    path = store.save_model(Trunk(), tmp_path / "caffenet.safetensors")
    with pytest.raises(ValueError, match="teacher"):
        teacher.load(path)


def test_each_group_takes_what_it_explains_better():
    unexplained = torch.tensor([[0.1, 0.2, 0.9, 0.8, 0.3], [0.9, 0.8, 0.1, 0.2, 0.6]])
    first, second = least_squares._shared_out(unexplained, 3)
    assert set(first.tolist()) == {0, 1, 4}
    assert set(second.tolist()) == {2, 3, 4}


def test_a_nearly_orthogonal_matrix_comes_out():
    matrix = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(distill.orthogonal(matrix))
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(least_squares, "PICTURES", 4)
    settings = distill.Settings(iterations=2, batch=4, regression_batches=1)
    whole, cut, checkpoint = (tmp_path / name for name in ("whole.safetensors", "cut.safetensors", "checkpoint.pt"))
    distill.distill(whole, settings, teacher=random_teacher())
    distill.distill(cut, settings, teacher=random_teacher(), checkpoint=checkpoint, stop=1)
    first = load_file(cut)
    distill.distill(cut, settings, teacher=random_teacher(), checkpoint=checkpoint)
    expected, found = load_file(whole), load_file(cut)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(first["conv4.weight"], found["conv4.weight"])
    assert json.loads(cut.with_suffix(".json").read_text())["iterations done"] == 2
    with pytest.raises(ValueError, match="seed"):
        distill.distill(cut, distill.Settings(seed=1), teacher=random_teacher(), checkpoint=checkpoint)


def trunk_quality():
    spec = importlib.util.spec_from_file_location("trunk_quality", HOME / "benchmarks" / "trunk_quality.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_trunk_shows_its_features_and_not_its_biases():
    """On the portrait. Contours rise by 0.05 from conv3 to conv4 there; on the synthetic faces they fade throughout."""
    quality = trunk_quality()
    assert distill.FILE.stat().st_size <= 5e6
    table = quality.measure(weights.load_trunk(distill.FILE), quality.portrait())
    edges = table.edges.to_numpy()
    assert quality.verdicts(table, None)["bias share"], table.to_string()
    assert edges[-1] <= quality.MAX_EDGES_LEFT * edges[0] and np.diff(edges).max() < 0.06, table.to_string()


def test_rescaled_maps_change_no_output():
    trunk, images = Trunk().requires_grad_(False), scenes.batch(1, 131, np.random.default_rng(0))
    before = least_squares.before_relu(trunk, images)
    selectivity.rescale(trunk, {name: torch.rand(384) + 0.5 for name in ("conv3", "conv4")})
    after = least_squares.before_relu(trunk, images)
    assert torch.allclose(after["conv5"], before["conv5"], rtol=1e-4, atol=1e-4 * before["conv5"].abs().max())
    assert not torch.allclose(after["conv4"], before["conv4"])
    with pytest.raises(ValueError, match="conv2"):
        selectivity.rescale(trunk, {"conv2": torch.ones(256)})
