"""Recipes, losses, Caffe's solver, the frozen prefix, checkpoints: dualtl_lib/training.py, solver.py, frozen.py."""

import dataclasses
import errno
import fcntl
import importlib.util
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from dualtl_lib import cli, files, paper
from dualtl_lib.data.dataset import Faces
from dualtl_lib.evaluate import evaluation
from dualtl_lib.experiment import pipeline
from dualtl_lib.models import caffenet, precision
from dualtl_lib.models.caffenet import Layer
from dualtl_lib.train import frozen, training
from dualtl_lib.train.checkpoint import metadata
from dualtl_lib.train.optimizer import CaffeSGD

TINY = (
    Layer("conv1", 4, 11, stride=4, pool=True, norm=True),
    Layer("conv2", 8, 5, padding=2, groups=2, pool=True, norm=True),
    Layer("conv3", 8, 3, padding=1),
    Layer("conv4", 8, 3, padding=1, groups=2),
    Layer("conv5", 8, 3, padding=1, groups=2, pool=True),
)
SHORT = training.Recipe(
    base_lr=1e-3, batch=4, gamma=0.1, stepsize=8, max_iter=20, momentum=0.9, weight_decay=5e-4, loss="hinge"
)
TAILED = dataclasses.replace(SHORT, stepsize=5, max_iter=60, momentum=0.5)  # soon dead


class Patterns:
    """Noise pictures, each class of its own brightness; as much of faces.Faces as training asks for."""

    def __init__(self, images=12, classes=3, seed=0, attributes=None):
        draw = np.random.default_rng(seed)
        shape = (images,) if attributes is None else (images, attributes)
        self.targets = torch.from_numpy(draw.integers(0, classes, shape))
        self.images = draw.integers(0, 100, (images, 3, 227, 227), dtype=np.uint8)
        self.images += (self.targets.numpy().reshape(images, -1)[:, 0, None, None, None] * 60).astype(np.uint8)
        self.classes = tuple(f"class {i}" for i in range(classes))

    def __len__(self):
        return len(self.targets)


def expression_net(classes=3, seed=0, frozen=("conv1", "conv2"), **kwargs):
    torch.manual_seed(seed)
    net = caffenet.ExpressionNet(caffenet.Trunk(TINY), [f"class {i}" for i in range(classes)], **kwargs)
    for p in net.trunk.parameters():
        nn.init.normal_(p, std=0.1)
    return net.freeze(*frozen)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- recipes, losses, batches


def test_recipes_are_the_papers_tables():
    for recipe, table in ((training.CELEBA, paper.TABLE3), (training.CKPLUS, paper.TABLE4)):
        assert dataclasses.asdict(recipe) == {**table, "loss": "hinge", "heads_first": None}
        assert [recipe.rate(t) for t in (0, 999, 1000, 2000)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])


def test_quick_drops_the_rate_as_often_as_it_learns():
    for recipe in (training.CELEBA, training.CKPLUS):
        quick = recipe.quick()
        assert quick.max_iter < 400
        assert quick.rate(quick.max_iter - 1) < quick.base_lr
        heads = recipe.quick_heads()
        assert (heads.base_lr, heads.batch) == (recipe.base_lr, recipe.batch)
        assert heads.rate(heads.max_iter - 1) == pytest.approx(recipe.base_lr * recipe.gamma)
        assert quick.rate(quick.max_iter - 1) < quick.base_lr
        assert (quick.momentum, quick.weight_decay, quick.loss, quick.gamma) == (
            recipe.momentum,
            recipe.weight_decay,
            recipe.loss,
            recipe.gamma,
        )


def test_a_recipe_with_impossible_settings_is_refused():
    with pytest.raises(ValueError, match="hinge, cross-entropy"):
        dataclasses.replace(SHORT, loss="squared")
    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(SHORT, batch=0)


def test_hinge_is_caffes():
    draw = np.random.default_rng(0)
    logits, targets = draw.normal(size=(6, 5)), draw.integers(0, 5, 6)
    expected = 0.0
    for scores, label in zip(logits, targets, strict=True):  # HingeLossLayer, L1
        for k, score in enumerate(scores):
            expected += max(0.0, 1 + (-score if k == label else score))
    found = training.hinge(torch.from_numpy(logits), torch.from_numpy(targets))
    assert found.item() == pytest.approx(expected / 6)


@pytest.mark.parametrize("loss", training.LOSSES.values())
def test_the_loss_of_many_heads_is_the_sum_of_theirs(loss):
    draw = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(7, 12, 2, generator=draw), torch.randint(0, 2, (7, 12), generator=draw)
    heads = sum(loss(logits[:, a], targets[:, a]) for a in range(12))
    torch.testing.assert_close(loss(logits, targets), heads)


def test_every_image_comes_once_an_epoch():
    drawn = np.concatenate([training.batch_indices(t, 4, 10, seed=3) for t in range(10)])
    for epoch in drawn.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(drawn[:10], drawn[10:20])
    assert not np.array_equal(drawn[:10], training.batch_indices(0, 10, 10, seed=4))
    assert len(training.batch_indices(1, 25, 10, seed=0)) == 25  # a batch larger than the data set


# --- solver


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_solver_follows_caffes_rule_over_two_drops(dtype, tolerance):
    recipe = dataclasses.replace(SHORT, base_lr=0.01, stepsize=1000, max_iter=2500, weight_decay=5e-3)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 10, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 3, (64,), generator=draw)
    layer = nn.Linear(10, 3, dtype=torch.float64)
    w, b = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.to(dtype)
    solver = CaffeSGD(layer.named_parameters(), recipe.momentum, recipe.weight_decay)
    speed_w, speed_b = torch.zeros_like(w), torch.zeros_like(b)
    outside_w, outside_b, rate_outside = w.clone(), b.clone(), [torch.zeros_like(w), torch.zeros_like(b)]

    def gradient(weight, bias, part):
        error = (x[part] @ weight.T + bias).softmax(1) - F.one_hot(y[part], 3)
        return error.T @ x[part] / len(part), error.mean(0)

    for t in range(recipe.max_iter):
        part, rate = training.batch_indices(t, 16, 64, seed=0), 0.01 * 0.1 ** (t // 1000)
        solver.rate = recipe.rate(t)
        solver.zero_grad()
        F.cross_entropy(layer(x[part].to(dtype)), y[part]).backward()
        solver.step()
        gw, gb = gradient(w, b, part)
        speed_w = 0.9 * speed_w + rate * (gw + 5e-3 * w)
        speed_b = 0.9 * speed_b + 2 * rate * gb
        w, b = w - speed_w, b - speed_b
        gw, gb = gradient(outside_w, outside_b, part)  # the rate outside the buffer, as torch.optim.SGD has it
        rate_outside = [0.9 * rate_outside[0] + gw + 5e-3 * outside_w, 0.9 * rate_outside[1] + gb]
        outside_w, outside_b = outside_w - rate * rate_outside[0], outside_b - 2 * rate * rate_outside[1]
    difference = max((layer.weight - w).abs().max(), (layer.bias - b).abs().max()).item()
    assert difference < tolerance
    assert (w - outside_w).abs().max() > 3 * tolerance  # so this test would notice the other rule


def test_solver_leaves_out_what_is_frozen():
    net = expression_net()
    moved = {m.name for m in CaffeSGD(net.named_parameters(), 0.9, 5e-4).moved}
    expected = {f"trunk.conv{i}.{p}" for i in (3, 4, 5) for p in ("weight", "bias")}
    assert moved == expected | {f"fc{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}


def test_attribute_heads_have_biases_too():
    net = caffenet.AttributeNet(caffenet.Trunk(TINY), "ab")
    doubled = {m.name for m in CaffeSGD(net.named_parameters(), 0.9, 5e-4).moved if m.lr_mult == 2}
    assert {"fc1.bias", "fc2_bias"} < doubled and not any("weight" in name for name in doubled)


# --- training


@pytest.mark.parametrize("loss", ["hinge", "cross-entropy"])
def test_training_learns(loss):
    faces = Patterns(24)
    recipe = dataclasses.replace(SHORT, base_lr=3e-3, batch=8, max_iter=60, stepsize=40, loss=loss)
    history = training.fit(expression_net(), faces, recipe, validation=faces, validate_every=20)
    assert np.mean(history["loss"][-10:]) < 0.6 * np.mean(history["loss"][:3])
    assert history["validated"] == [20, 40, 60] and history["validation"][-1] > 0.6
    assert history["rate"] == [recipe.rate(t) for t in range(60)]


@pytest.mark.parametrize("factors", [(1, -2, 3, 4), (0, -2, 0, 0), (0, 0, 0, 0)], ids=["all", "one", "none"])
def test_going_back_with_active_images_alone_gives_the_same_gradient(factors):
    net, maps, asked = expression_net(), frozen.FrozenFeatures(expression_net(), Patterns()), []
    batch, places, factors = np.array([7, 2, 5, 9]), np.arange(4), torch.tensor(factors, dtype=torch.float32)

    def ask(places):
        asked.append(len(places))
        return training._answers(net, maps, batch, (0, 0), places)

    def loss_of(answers, factors):
        return (answers.square().sum(1) * factors).mean()

    found, gradients = [], []
    for few in (False, True):
        net.zero_grad()
        found.append(training._learn(ask, places, factors, loss_of, few))
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters() if p.requires_grad})
    active = int((factors != 0).sum())
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1] == active / 4 and asked == [4, 4, max(active, 1)]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_a_training_ends_the_same_whether_it_goes_back_with_all_images_or_the_active_alone(monkeypatch):
    recipe, ends, histories = dataclasses.replace(SHORT, base_lr=3e-3, max_iter=140, stepsize=140), [], []
    for few in (0.0, training.FEW):
        monkeypatch.setattr(training, "FEW", few)
        ends.append(expression_net(2))
        histories.append(training.fit(ends[-1], Patterns(8, classes=2), recipe))
    assert 10 < (np.array(histories[1]["active"]) < training.FEW).sum() < 130
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-4, abs=1e-4)
    for a, b in zip(*(end.parameters() for end in ends), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_twelve_heads_train():
    faces = Patterns(16, classes=2, attributes=3)
    torch.manual_seed(0)
    net = caffenet.AttributeNet(caffenet.Trunk(TINY), "abc").freeze("conv1")
    history = training.fit(net, faces, SHORT, validation=faces)
    assert history["loss"][0] == pytest.approx(6, rel=0.1)  # 3 heads of 2 outputs, each about 1 away
    assert history["loss"][-1] < history["loss"][0]


def test_frozen_is_frozen():
    net = expression_net()
    before = state(net)
    training.fit(net, Patterns(), SHORT)
    for name, p in net.named_parameters():
        frozen = name.startswith(("trunk.conv1", "trunk.conv2"))
        assert torch.equal(p, before[name]) == frozen, name
        assert (p.grad is None) == frozen, name


def test_moved_names_the_layers_that_train():
    net = expression_net()
    before = state(net)
    moved = training.moved(net, Patterns(), SHORT)
    assert moved == {f"conv{i}": i > 2 for i in range(1, 6)} | {"fc1": True, "fc2": True}
    assert equal(before, state(net))


def test_heads_first_is_a_training_with_all_layers_frozen_and_then_one_with_the_rest():
    heads = dataclasses.replace(SHORT, max_iter=10, batch=5, base_lr=2e-3)
    recipe = dataclasses.replace(SHORT, max_iter=3, heads_first=heads)
    at_once, in_turn = expression_net(), expression_net(frozen=[layer.name for layer in TINY])
    training.fit(at_once, Patterns(), recipe)
    training.fit(in_turn, Patterns(), heads)
    untouched = expression_net().trunk.state_dict()
    assert equal(in_turn.trunk.state_dict(), untouched)
    in_turn.requires_grad_(True).freeze("conv1", "conv2")
    training.fit(in_turn, Patterns(), dataclasses.replace(recipe, heads_first=None))
    assert equal(state(at_once), state(in_turn))
    assert at_once.frozen() == ("conv1", "conv2") and not torch.equal(
        at_once.trunk.conv3.weight, untouched["conv3.weight"]
    )


def test_same_seed_same_bits_other_seed_others():
    ends = []
    for seed in (0, 0, 1):
        net = expression_net()
        torch.manual_seed(random.randrange(1000))  # the global generator has no part in it
        training.fit(net, Patterns(), SHORT, seed=seed)
        ends.append(state(net))
    assert equal(ends[0], ends[1]) and not equal(ends[0], ends[2])


def test_dropout_drops_half_and_differs_by_iteration():
    net = expression_net()
    x = torch.ones(4, 1000)
    masks = []
    for t in (0, 0, 1):
        with training._drawn_dropout(net, (0, t), 4, np.arange(4)):
            masks.append(net.dropout(x))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert set(masks[0].unique().tolist()) == {0.0, 2.0} and masks[0].mean() == pytest.approx(1, abs=0.1)
    assert isinstance(net.dropout, nn.Dropout)


# --- what is frozen is computed once


@pytest.mark.parametrize(
    ("frozen", "start"),
    [
        ((), "conv1"),
        (("conv1",), "conv2"),
        (("conv1", "conv2"), "conv3"),
        (("conv1", "conv2", "conv3", "conv4", "conv5"), None),
    ],
)
def test_prefix_is_the_network_cut_in_two(frozen, start):
    net, faces = expression_net(frozen=frozen).eval(), Patterns(7)
    maps = frozen.FrozenFeatures(net, faces)
    assert maps.start == start and (maps.kept is not None) == bool(frozen)
    x = maps[[5, 0]]
    logits = net.classify(x if start is None else net.trunk(x, start=start))
    with torch.no_grad():
        torch.testing.assert_close(logits, net(torch.from_numpy(faces.images[[5, 0]])), rtol=1e-4, atol=1e-5)


def test_prefix_that_does_not_fit_is_computed():
    net, faces = expression_net(), Patterns(7)
    small, large = frozen.FrozenFeatures(net, faces, limit=7 * 8 * 13 * 13 * 4 - 1), frozen.FrozenFeatures(net, faces)
    assert small.kept is None and large.kept.nbytes == 7 * 8 * 13 * 13 * 4
    torch.testing.assert_close(small[[3]], large[[3]])


def test_prefix_file_is_found_again_by_its_content(tmp_path, monkeypatch):
    net, faces = expression_net(), Patterns(7)
    made = frozen.FrozenFeatures(net, faces, folder=tmp_path)
    assert torch.equal(made[[1, 4]], frozen.FrozenFeatures(net, faces)[[1, 4]])
    for other in (
        (net, Patterns(7, seed=1)),
        (expression_net(seed=1), faces),
        (expression_net(frozen=("conv1",)), faces),
    ):
        frozen.FrozenFeatures(*other, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(frozen.FrozenFeatures, "_fill", lambda *_: pytest.fail("computed again"))
    assert torch.equal(frozen.FrozenFeatures(net, faces, folder=tmp_path)[[2]], made[[2]])


def some_of(images, rows):
    """A part of `images` pictures, as Faces.subset makes it."""
    whole = Patterns(images)
    names = [str(i) for i in range(images)]
    return Faces(whole.images, whole.targets, whole.classes, names, names, names).subset(rows)


def test_parts_of_a_set_share_one_prefix_file(tmp_path, monkeypatch):
    net, one, other = expression_net(), some_of(60, [3, 59, 10]), some_of(60, range(5, 50))
    first = frozen.FrozenFeatures(net, one, folder=tmp_path)
    assert first.kept.shape[0] == 60 and len(first) == 3
    torch.testing.assert_close(first[[0, 1, 2]], first.compute(one.batch([0, 1, 2])))
    monkeypatch.setattr(frozen.FrozenFeatures, "_fill", lambda *_: pytest.fail("computed again"))
    second = frozen.FrozenFeatures(net, other, folder=tmp_path)
    assert torch.equal(second[[5]], first[[2]])


def test_parts_of_a_set_too_large_for_the_limit_are_kept_alone(tmp_path):
    net, part = expression_net(), some_of(60, [3, 59, 10])
    made = frozen.FrozenFeatures(net, part, limit=20 * 8 * 13 * 13 * 4, folder=tmp_path)
    assert made.kept.shape[0] == 3
    torch.testing.assert_close(made[[1]], made.compute(part.batch([1])))


def test_more_frozen_layers_go_on_from_fewer_to_the_bit(tmp_path, monkeypatch):
    faces, all_frozen = Patterns(7), expression_net(frozen=("conv1", "conv2", "conv3", "conv4"))
    alone = frozen.FrozenFeatures(all_frozen, faces, folder=tmp_path / "alone")
    frozen.FrozenFeatures(expression_net(), faces, folder=tmp_path / "both")
    monkeypatch.setattr(frozen.FrozenFeatures, "compute", lambda *_: pytest.fail("computed from the images"))
    after = frozen.FrozenFeatures(all_frozen, faces, folder=tmp_path / "both")
    assert torch.equal(after[range(7)], alone[range(7)])


def test_prefix_folder_stays_below_its_limit(tmp_path):
    faces = Patterns(7)
    one = frozen.FrozenFeatures(expression_net(), faces).bytes
    for seed in range(4):
        frozen.FrozenFeatures(expression_net(seed=seed), faces, limit=int(2.5 * one), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_another_process_may_delete_a_prefix_file_at_any_moment(tmp_path, monkeypatch):
    """As a file is opened, or has been; as the folder is looked through; and as a file has been built."""
    faces, load, replacing = Patterns(7), np.load, files.atomic_write
    expected = frozen.FrozenFeatures(expression_net(), faces)[range(7)]
    (tmp_path / "prefix-0.npy").symlink_to("gone")  # is listed, and not there

    def load_and_delete(path, **how):
        found = load(path, **how)
        if not path.name.startswith("."):
            path.unlink()
        return found

    def delete_and_load(path, **how):
        if not path.name.startswith("."):
            path.unlink(missing_ok=True)
        return load(path, **how)

    @contextmanager
    def replace_and_delete(path):
        with replacing(path) as part:
            yield part
        path.unlink()

    for where, name, instead in (
        (np, "load", load_and_delete),
        (np, "load", delete_and_load),
        (files, "atomic_write", replace_and_delete),
    ):
        frozen.FrozenFeatures(expression_net(), faces, folder=tmp_path)
        monkeypatch.setattr(where, name, instead)
        maps = frozen.FrozenFeatures(expression_net(), faces, folder=tmp_path)
        assert torch.equal(maps[range(7)], expected)


def test_what_is_being_written_counts_and_what_a_killed_process_left_is_deleted(tmp_path):
    faces = Patterns(7)
    one = frozen.FrozenFeatures(expression_net(), faces).bytes
    for name in ("written", "left"):
        (tmp_path / f".prefix-0.{name}.npy").write_bytes(bytes(one))
    with open(tmp_path / ".prefix-0.written.npy") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for seed in range(3):
            last = frozen.FrozenFeatures(expression_net(seed=seed), faces, limit=int(2.5 * one), folder=tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert len(kept) == 2 and ".prefix-0.written.npy" in kept and last.kept is not None


def test_a_part_is_held_while_it_is_built(tmp_path, monkeypatch):
    """Others that make room meanwhile count it and leave it."""
    faces, fill, seen = Patterns(7), frozen.FrozenFeatures._fill, []

    def filled(*arguments):
        frozen.make_room(tmp_path, 0)
        seen.extend(path.name[:8] for path in tmp_path.iterdir())
        return fill(*arguments)

    monkeypatch.setattr(frozen.FrozenFeatures, "_fill", filled)
    assert frozen.FrozenFeatures(expression_net(), faces, folder=tmp_path).kept is not None
    assert seen == [".prefix-"] and [path.name[:7] for path in tmp_path.iterdir()] == ["prefix-"]


def of_another_type(path):
    np.save(path, np.load(path).astype("f8"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(b"(" * path.stat().st_size),
        lambda path: path.write_bytes(path.read_bytes().replace(b"(7,", b"(7(")),
        lambda path: np.save(path, np.load(path)[:-1]),
        of_another_type,
    ],
    ids=["half", "nothing", "half a header", "garbage", "a wrong header", "another shape", "another type"],
)
@pytest.mark.parametrize("frozen", [("conv1", "conv2"), ("conv1", "conv2", "conv3")])
def test_a_damaged_prefix_file_is_made_anew(tmp_path, damage, frozen):
    """Whether it is what is asked for, or what fewer frozen layers have left there."""
    faces, net = Patterns(7), expression_net(frozen=frozen)
    expected = frozen.FrozenFeatures(net, faces)[range(7)]
    frozen.FrozenFeatures(expression_net(), faces, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path)
    assert torch.equal(frozen.FrozenFeatures(net, faces, folder=tmp_path)[range(7)], expected)
    (made,) = tmp_path.iterdir()
    assert np.load(made).shape[0] == 7 and (made == path) == (len(frozen) == 2)


def a_file_in_its_place(folder, monkeypatch):
    folder.write_text("in the way")
    return "File exists"


def a_folder_that_cannot_be_written(folder, monkeypatch):
    def refused(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", refused)  # permissions would not stop root
    return "Permission denied"


def a_full_disk(folder, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    return r"\d+ MB are needed and 0 MB are free"


@pytest.mark.filterwarnings("error")  # the one that is expected aside
@pytest.mark.parametrize("cause", [a_file_in_its_place, a_folder_that_cannot_be_written, a_full_disk])
def test_where_no_prefix_file_can_be_written_a_warning_says_so_and_training_goes_on(tmp_path, monkeypatch, cause):
    net, computed, folder = expression_net(), expression_net(), tmp_path / "cache"
    why = cause(folder, monkeypatch)
    with pytest.warns(UserWarning, match=rf"{folder}: the .* cannot be kept there \({why}\).*make room") as warned:
        training.fit(net, Patterns(), SHORT, cache_folder=folder)
    training.fit(computed, Patterns(), SHORT, cache=0)
    assert len(warned) == 1 and equal(state(net), state(computed))
    assert not folder.is_dir() or not list(folder.iterdir())


def test_a_folder_for_the_prefix_of_a_whole_set_does_not_change_a_bit(tmp_path):
    ends = []
    for where in ({}, {"cache_folder": tmp_path}, {"cache": 0}):
        net = expression_net()
        training.fit(net, Patterns(), SHORT, **where)
        ends.append(state(net))
    assert equal(ends[0], ends[1])
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[2][name], rtol=1e-3, atol=1e-5)


EVERY = tuple(layer.name for layer in TINY)


@pytest.mark.parametrize(
    ("frozen", "limit", "resident"),
    [(("conv1",), 1 << 30, "kept"), (EVERY, 1 << 30, "kept"), ((), 1 << 30, "pixels"), (EVERY, 0, None)],
)
def test_a_model_on_a_gpu_meets_no_tensor_on_the_cpu(frozen, limit, resident):
    """PyTorch's fake tensors know their device and refuse to mix; they need no GPU, and compute nothing. Going back
    does need one, so the solver steps with gradients that are made here."""
    faces = Patterns(images=10)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            net = expression_net(frozen=frozen)
        maps = frozen.FrozenFeatures(net, faces, limit=limit)
        answers = frozen.logits(net, maps, np.array([3, 1]))
        predicted = evaluation.predict(net, faces)
        solver = CaffeSGD(net.named_parameters(), 0.9, 5e-4, measure=True)
        dropped = training._answers(net, maps, np.array([3, 1]), (0, 0), np.arange(2))
        loss = training.hinge(dropped, faces.targets[[3, 1]].to(dropped.device))
        for m in solver.moved:
            m.weights.grad = torch.ones_like(m.weights)
        solver.step()
    assert [name for name in ("kept", "pixels") if getattr(maps, name) is not None] == ([resident] if resident else [])
    assert {x.device.type for x in (maps, answers, loss)} == {"cuda"} and predicted.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("few", [0.0, 1.1], ids=["all", "active alone"])
def test_training_on_a_gpu_comes_near_that_on_the_cpu(monkeypatch, few):
    monkeypatch.setattr(training, "FEW", few)
    here, there = (
        training.fit(expression_net().to(device), Patterns(), SHORT, validation=Patterns(), skip_dead_tail=True)
        for device in ("cpu", "cuda")
    )
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-3, abs=1e-3)


# --- the dead tail


def test_dead_tail_is_skipped_within_its_bound():
    whole, short = expression_net(), expression_net()
    full = training.fit(whole, Patterns(), TAILED)
    history = training.fit(short, Patterns(), TAILED, skip_dead_tail=True, validation=Patterns(), validate_every=7)
    (stopped,), (bound,) = history["skipped_from"], history["skipped_movement"]
    assert "skipped_from" not in full and len(full["loss"]) == 60
    assert stopped == len(history["loss"]) == history["validated"][-1] < 60 and bound <= training.DEAD
    assert history["loss"] == full["loss"][:stopped]
    for (name, a), b in zip(whole.named_parameters(), short.parameters(), strict=True):
        moved = ((a - b).abs().max() / b.square().mean().sqrt()).item()
        assert moved <= bound + 1e-6, name


def test_the_bound_is_what_each_weight_was_pushed_times_the_rates_to_come():
    net, draw, way = expression_net(), np.random.default_rng(0), {}
    solver = CaffeSGD(net.named_parameters(), SHORT.momentum, SHORT.weight_decay, measure=True)
    for t in range(SHORT.stepsize):
        solver.rate = SHORT.rate(t)
        for m in solver.moved:
            m.weights.grad = torch.from_numpy(draw.normal(size=m.weights.shape)).float()
            push = m.weights.grad + SHORT.weight_decay * m.decay_mult * m.weights.detach()
            way[m.name] = way.get(m.name, 0) + push.abs().double() / SHORT.stepsize
        solver.step()
    done, speeding = SHORT.stepsize, 1 / (1 - SHORT.momentum)
    to_come = sum(SHORT.rate(t) for t in range(done, SHORT.max_iter))
    found = training.furthest(solver, SHORT, done)
    for m in solver.moved:
        furthest = speeding * (SHORT.momentum * m.speed.abs() + m.lr_mult * to_come * way[m.name]).max()
        usual = m.weights.detach().double().square().mean().sqrt()
        assert found[m.name] == pytest.approx(float(furthest / usual), rel=1e-5)


def test_the_bound_grows_with_what_is_left():
    net = expression_net()
    solver = CaffeSGD(net.named_parameters(), 0.9, 5e-4, measure=True)
    solver.rate = SHORT.rate(0)
    training.hinge(net(torch.from_numpy(Patterns().images)), Patterns().targets).backward()
    solver.step()
    early, late = (training.furthest(solver, SHORT, t) for t in (1, 19))
    assert early.keys() == {m.name for m in solver.moved}
    assert all(early[name] > late[name] > 0 for name in early)


# --- precision


def test_precision_is_chosen_by_measurement(monkeypatch):
    for pays, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "bfloat16_pays", lambda device, pays=pays: pays)
        assert precision.resolve("auto", torch.device("cpu")) == expected
        assert precision.resolve("float32", torch.device("cpu")) == "float32"
    with pytest.raises(ValueError, match="auto"):
        precision.resolve("float16", torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_float32_on_a_gpu_is_not_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for name, device, expected in (("float32", "cpu", True), ("bfloat16", "cuda", True), ("float32", "cuda", False)):
        precision.autocast(name, torch.device(device))
        assert torch.backends.cudnn.allow_tf32 == expected


def test_auto_is_what_the_checkpoint_was_begun_in(tmp_path, monkeypatch):
    path, whole, resumed = tmp_path / "state.safetensors", expression_net(), expression_net()
    training.fit(whole, Patterns(), SHORT, precision="bfloat16")
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: True)
    stop_at(path, 5, precision="auto")
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: False)
    with pytest.raises(training.OtherTraining, match="its precision is bfloat16, this one's is float32"):
        training.fit(expression_net(), Patterns(), SHORT, checkpoint=path, precision="float32")
    training.fit(resumed, Patterns(), SHORT, checkpoint=path, precision="auto")
    assert equal(state(whole), state(resumed))


def test_bfloat16_comes_near_float32():
    recipe, ends = dataclasses.replace(SHORT, max_iter=4), []
    for name in ("float32", "bfloat16"):
        net = expression_net()
        history = training.fit(net, Patterns(), recipe, precision=name)
        ends.append(history["loss"])
    assert ends[0] != ends[1] and ends[1] == pytest.approx(ends[0], rel=0.02)


@pytest.mark.parametrize("frozen", [("conv1",), ("conv1", "conv2")])
def test_keeping_maps_in_bfloat16_changes_no_bit(frozen, tmp_path):
    faces, net = Patterns(), expression_net(frozen=frozen).eval()
    kept = frozen.FrozenFeatures(net, faces, folder=tmp_path, precision="bfloat16")
    every = np.arange(len(faces))
    computed = frozen.FrozenFeatures(net, faces, limit=0, precision="bfloat16")
    assert kept.kept is not None and computed.kept is None
    assert kept[[3, 1]].dtype == torch.bfloat16 and kept.bytes == frozen.FrozenFeatures(net, faces, limit=0).bytes // 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = net(frozen.pixels(faces, every)).float()
    assert torch.equal(frozen.logits(net, kept, every), expected)
    assert torch.equal(frozen.logits(net, computed, every), expected)


def test_predictions_in_bfloat16_are_those_of_autocast():
    faces, net = Patterns(), expression_net().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = net(frozen.pixels(faces, np.arange(len(faces)))).argmax(1)
    assert torch.equal(evaluation.predict(net, faces, precision="bfloat16"), expected)
    kept = frozen.FrozenFeatures(net, faces, precision="bfloat16")
    assert torch.equal(evaluation.predict(net, faces, features=kept), expected)


# --- checkpoints


def test_finished_training_is_loaded_not_repeated(tmp_path, monkeypatch):
    net, path = expression_net(), tmp_path / "sub" / "state.safetensors"
    history = training.fit(net, Patterns(), SHORT, validation=Patterns(), checkpoint=path)
    monkeypatch.setattr(training, "Prefix", lambda *_: pytest.fail("trained again"))
    again = expression_net()
    assert training.fit(again, Patterns(), SHORT, validation=Patterns(), checkpoint=path) == history
    assert equal(state(net), state(again))
    assert not any(k.startswith("momentum") for k in load_file(path))


def test_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    training.fit(expression_net(), Patterns(), SHORT, checkpoint=path)
    before = path.read_bytes()
    others = {
        "recipe": lambda: training.fit(expression_net(), Patterns(), SHORT.quick(), checkpoint=path),
        "seed": lambda: training.fit(expression_net(), Patterns(), SHORT, seed=1, checkpoint=path),
        "data": lambda: training.fit(expression_net(), Patterns(seed=1), SHORT, checkpoint=path),
        "model": lambda: training.fit(expression_net(seed=1), Patterns(), SHORT, checkpoint=path),
        "skip_dead_tail": lambda: training.fit(
            expression_net(), Patterns(), SHORT, skip_dead_tail=True, checkpoint=path
        ),
    }
    for what, attempt in others.items():
        with pytest.raises(training.OtherTraining, match=f"its {what} is"):
            attempt()
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="delete it or name another"):
        training.fit(expression_net(), Patterns(), SHORT, checkpoint=path)


def test_diverged_training_names_the_iteration_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    recipe = dataclasses.replace(SHORT, base_lr=1e12)
    with pytest.raises(training.Diverged, match=r"loss of iteration (\d+) is .*; the checkpoint of iteration \d") as e:
        training.fit(expression_net(), Patterns(), recipe, checkpoint=path, save_every=0)
    with safe_open(path, "pt") as f:
        kept = int(f.metadata()["iteration"])
        assert all(f.get_tensor(k).isfinite().all() for k in f.keys())  # noqa: SIM118
    assert f"iteration {kept} stays" in str(e.value)
    assert len(list(tmp_path.iterdir())) == 1


def test_heads_that_diverge_alone_say_so():
    recipe = dataclasses.replace(SHORT, heads_first=dataclasses.replace(SHORT, base_lr=1e30))
    with pytest.raises(training.Diverged, match=r"iteration \d+ is .*lower base_lr in the recipe's heads_first"):
        training.fit(expression_net(), Patterns(), recipe)


def test_unwritable_folder_stops_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="name another folder"):
        training.fit(expression_net(), Patterns(), SHORT, checkpoint=tmp_path / "file" / "state.safetensors")


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    path, limits = tmp_path / "state.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    stop_at(path, 3)
    before = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # larger files cannot be written
        with pytest.raises(OSError, match=r"cannot be written .*; that of iteration 3 stays"):
            training.fit(expression_net(), Patterns(), SHORT, checkpoint=path, save_every=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def stop_at(path, iteration, recipe=SHORT, **how):
    """Leave the checkpoint of a training that was stopped when it had saved this iteration."""

    class Stopped(Exception):
        pass

    class Stops(training.Checkpoint):
        def save(self, t, *args, **kwargs):
            super().save(t, *args, **kwargs)
            if t == iteration:
                raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training, "Checkpoint", Stops)
        training.fit(expression_net(), Patterns(), recipe, checkpoint=path, save_every=0, validation=Patterns(), **how)


@pytest.mark.parametrize(
    ("recipe", "iteration"), [(SHORT, 1), (SHORT, 7), (SHORT, 8), (SHORT, 19), (TAILED, 5), (TAILED, 7)]
)
def test_stopped_and_resumed_gives_the_same_bits_and_history(tmp_path, recipe, iteration):
    net, again, skips = expression_net(), expression_net(), recipe is TAILED
    how, path = dict(validation=Patterns(), skip_dead_tail=skips), tmp_path / "state.safetensors"
    history = training.fit(net, Patterns(), recipe, **how)
    stop_at(path, iteration, recipe, skip_dead_tail=skips)
    resumed = training.fit(again, Patterns(), recipe, checkpoint=path, **how)
    assert ("skipped_from" in history) == skips
    assert resumed == history and equal(state(net), state(again))


@pytest.mark.parametrize("iteration", [0, 5])
def test_heads_that_went_first_do_not_go_again(tmp_path, monkeypatch, iteration):
    recipe, path = (
        dataclasses.replace(SHORT, heads_first=dataclasses.replace(SHORT, max_iter=4)),
        tmp_path / "a.safetensors",
    )
    whole, resumed = expression_net(), expression_net()
    training.fit(whole, Patterns(), recipe)
    stop_at(path, iteration, recipe)
    monkeypatch.setattr(training, "_fit_heads", lambda *_: pytest.fail("the heads were trained again"))
    training.fit(resumed, Patterns(), recipe, checkpoint=path)
    assert equal(state(whole), state(resumed))


def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path):
    found = json.loads(in_process("kill", tmp_path).splitlines()[-1])
    assert found["kills"] >= 30 and found["resumed"] >= 10 and found["finished"] >= 2


def in_process(*arguments, by=()) -> str:
    """Run this file with these arguments, started `by` another module; what it printed."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    here = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}  # on CPUs, whatever the machine has
    command = [sys.executable, *by, __file__, *map(str, arguments)]
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train_in_child(path):
    """Start a training in a forked process; its id. The parent must not have used several threads itself."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress bar
        training.fit(expression_net(), Patterns(), SHORT, checkpoint=path, save_every=0)
        os._exit(0)
    return child


def await_saves(path, saves, child):
    """Wait until a checkpoint has been replaced so often, however slow the machine is, or the child has ended."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    while saves and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = path.stat().st_mtime_ns if path.exists() else 0
        saves, before = saves - (now != before), now
        time.sleep(1e-4)


def kill_often(folder, kills=30, seed=0):
    """Kill trainings with SIGKILL at random moments until there were enough, look at every checkpoint left."""
    torch.set_num_threads(1)
    whole = folder / "whole.safetensors"
    begin = time.monotonic()
    assert os.waitpid(train_in_child(whole), 0)[1] == 0
    usual = time.monotonic() - begin
    draw, count, resumed, finished = random.Random(seed), 0, 0, 0
    while count < kills:
        path, iteration = folder / f"{finished}.safetensors", 0
        while iteration < SHORT.max_iter:  # once there were enough kills, left to end
            resumed += path.exists()
            child = train_in_child(path)
            if count < kills:
                await_saves(path, draw.randrange(5), child)
                time.sleep(usual * draw.uniform(0, 0.1))
            pid, status = os.waitpid(child, os.WNOHANG if count < kills else 0)
            assert pid == 0 or status == 0
            if pid == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                count += 1
            if path.exists():
                with safe_open(path, "pt") as f:  # raises where it is not whole
                    assert all(f.get_tensor(k).isfinite().all() for k in f.keys())  # noqa: SIM118
                    iteration = int(f.metadata()["iteration"])
        finished += 1
        assert equal(load_file(path), load_file(whole))
    print(json.dumps({"kills": count, "resumed": resumed, "finished": finished}))


# --- several processes


HAS_FABRIC = importlib.util.find_spec("lightning_fabric") is not None


def in_two(*arguments, by="torchrun") -> str:
    """Run this file in two processes, started by torchrun or `fabric run`."""
    if by == "torchrun":
        return in_process(*arguments, by=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    with socket.create_server(("", 0)) as free:
        port = str(free.getsockname()[1])
    options = ["--devices", "2", "--strategy", "ddp", "--accelerator", "cpu", "--main-port", port]
    return in_process(*arguments, by=["-m", "lightning_fabric.cli", *options])


@pytest.mark.skipif(not HAS_FABRIC, reason="needs lightning-fabric")
@pytest.mark.parametrize("by", ["torchrun", "fabric run"])
def test_two_processes_train_as_one(tmp_path, by):
    """Started as the README starts `python -m dualtl_lib train`. "auto" is what the first finds."""
    path, alone = tmp_path / "two.safetensors", expression_net()
    history = training.fit(alone, Patterns(), SHORT)
    in_two("together", path, by=by)
    together = expression_net()
    resumed = training.fit(together, Patterns(), SHORT, checkpoint=path)  # what two wrote, one reads
    assert resumed["loss"] == pytest.approx(history["loss"], rel=1e-5)
    for name, a in state(alone).items():
        torch.testing.assert_close(together.state_dict()[name], a, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_FABRIC, reason="needs lightning-fabric")
def test_two_processes_begin_anew_together_where_the_state_is_of_another_training(tmp_path):
    path, alone = tmp_path / "two.safetensors", expression_net()
    training.fit(expression_net(), Patterns(), SHORT, seed=1, checkpoint=path)
    history = training.fit(alone, Patterns(), SHORT)
    assert in_two("anew", path).count("training anew") == 1
    resumed = training.fit(expression_net(), Patterns(), SHORT, checkpoint=path)
    assert resumed["loss"] == pytest.approx(history["loss"], rel=1e-5)


@pytest.mark.skipif(not HAS_FABRIC, reason="needs lightning-fabric")
def test_two_processes_go_on_from_one_and_one_from_two(tmp_path):
    path, alone, last = tmp_path / "two.safetensors", expression_net(), expression_net()
    history = training.fit(alone, Patterns(), SHORT, validation=Patterns())
    for iteration in (7, 13):
        in_two("on", path) if path.exists() else stop_at(path, iteration)
        assert metadata(path)["iteration"] == str(iteration)
    resumed = training.fit(last, Patterns(), SHORT, checkpoint=path, validation=Patterns())
    assert resumed["loss"] == pytest.approx(history["loss"], rel=1e-5)
    for name, a in state(alone).items():
        torch.testing.assert_close(last.state_dict()[name], a, rtol=1e-5, atol=1e-5)


def test_a_batch_is_shared_equally_or_refused():
    class Three:
        global_rank, world_size = 2, 3

    assert training.Team(Three).share(12) == slice(8, 12)
    with pytest.raises(ValueError, match="shared equally by 3 processes; start one of 1, 2, 4"):
        training.Team(Three).share(4)


def train_together(path):
    fabric = cli.team()
    assert fabric.world_size == 2
    precision.bfloat16_pays = lambda device: fabric.global_rank > 0
    training.fit(expression_net(), Patterns(), SHORT, checkpoint=path, fabric=fabric, precision="auto")


def train_anew_together(path):
    pipeline.fit(expression_net(), Patterns(), SHORT, path, fabric=cli.team())


def go_on_together(path):
    stop_at(path, 13, fabric=cli.team())


if __name__ == "__main__":
    tasks = {"kill": kill_often, "together": train_together, "anew": train_anew_together, "on": go_on_together}
    tasks[sys.argv[1]](Path(sys.argv[2]))
