"""The training loop: dualtl_lib/train/trainer.py."""

import dataclasses
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from training_kit import EVERY, SHORT, TINY, equal, expression_net, fit, noise, state, stop_at

from dualtl_lib.models import caffenet, precision
from dualtl_lib.train import frozen, inference, trainer
from dualtl_lib.train.checkpoint import OtherTraining
from dualtl_lib.train.early_stop import UpdateBound
from dualtl_lib.train.frozen import FrozenFeatures
from dualtl_lib.train.losses import hinge
from dualtl_lib.train.optimizer import CaffeSGD, caffe_groups
from dualtl_lib.train.trainer import Diverged, changed_layers, train_step


@pytest.mark.parametrize("loss", ["hinge", "cross-entropy"])
def test_training_learns(loss):
    faces = noise(24)
    recipe = dataclasses.replace(SHORT, base_lr=3e-3, batch=8, max_iter=60, stepsize=40, loss=loss)
    history = fit(expression_net(), faces, recipe, validation=faces, validate_every=20)
    assert np.mean(history["loss"][-10:]) < 0.6 * np.mean(history["loss"][:3])
    assert history["validated"] == [20, 40, 60] and history["validation"][-1] > 0.6
    assert history["lr"] == [recipe.lr(t) for t in range(60)]


@pytest.mark.parametrize("factors", [(1, -2, 3, 4), (0, -2, 0, 0), (0, 0, 0, 0)], ids=["all", "one", "none"])
def test_going_backward_with_active_images_alone_gives_the_same_gradient(factors, monkeypatch):
    net, forward, batch_sizes = expression_net().eval(), trainer.logits, []
    features = FrozenFeatures(net, noise())
    indices, factors = np.array([7, 2, 5, 9]), torch.tensor(factors, dtype=torch.float32)

    def counted(net, features, indices):
        batch_sizes.append(len(indices))
        return forward(net, features, indices)

    def loss_of(logits, factors):
        return (logits.square().sum(1) * factors).mean()

    monkeypatch.setattr(trainer, "logits", counted)
    results, gradients = [], []
    for few in (False, True):
        net.zero_grad()
        results.append(train_step(net, features, indices, factors, loss_of, few_active=few))
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters() if p.requires_grad})
    active = int((factors != 0).sum())
    torch.testing.assert_close(results[0], results[1])
    assert results[0][1] == active / 4 and batch_sizes == [4, 4, max(active, 1)]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_a_training_ends_the_same_whether_it_goes_backward_with_all_images_or_the_active_alone(monkeypatch):
    recipe, ends, histories = dataclasses.replace(SHORT, base_lr=3e-3, max_iter=140, stepsize=140), [], []
    for few in (0.0, trainer.FEW):
        monkeypatch.setattr(trainer, "FEW", few)
        ends.append(expression_net(2))
        histories.append(fit(ends[-1], noise(8, classes=2), recipe))
    assert 10 < (np.array(histories[1]["active"]) < trainer.FEW).sum() < 130
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-4, abs=1e-4)
    for a, b in zip(*(end.parameters() for end in ends), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_many_heads_train():
    faces = noise(16, classes=2, attributes=3)
    torch.manual_seed(0)
    net = caffenet.AttributeNet(caffenet.Trunk(TINY), "abc").freeze("conv1")
    history = fit(net, faces, validation=faces)
    assert history["loss"][0] == pytest.approx(6, rel=0.1)  # 3 heads of 2 outputs, each about 1 away
    assert history["loss"][-1] < history["loss"][0]


def test_frozen_layers_do_not_move():
    net = expression_net()
    before = state(net)
    fit(net)
    for name, p in net.named_parameters():
        frozen = name.startswith(("trunk.conv1", "trunk.conv2"))
        assert torch.equal(p, before[name]) == frozen, name
        assert (p.grad is None) == frozen, name


def test_changed_layers_are_those_that_train():
    net = expression_net()
    before = state(net)
    changed = changed_layers(net, noise(), SHORT)
    assert changed == {f"conv{i}": i > 2 for i in range(1, 6)} | {"fc1": True, "fc2": True}
    assert equal(before, state(net))


def test_head_warmup_is_a_training_with_all_layers_frozen_and_then_one_with_the_rest():
    heads = dataclasses.replace(SHORT, max_iter=10, batch=5, base_lr=2e-3)
    recipe = dataclasses.replace(SHORT, max_iter=3, head_warmup=heads)
    at_once, in_turn = expression_net(), expression_net(frozen=EVERY)
    fit(at_once, recipe=recipe)
    fit(in_turn, recipe=heads)
    untouched = expression_net().trunk.state_dict()
    assert equal(in_turn.trunk.state_dict(), untouched)
    in_turn.requires_grad_(True).freeze("conv1", "conv2")
    fit(in_turn, recipe=dataclasses.replace(recipe, head_warmup=None))
    assert equal(state(at_once), state(in_turn)) and at_once.frozen() == ("conv1", "conv2")
    assert not torch.equal(at_once.trunk.conv3.weight, untouched["conv3.weight"])


def test_same_seed_same_bits_other_seed_others():
    ends = []
    for seed in (0, 0, 1):
        net = expression_net()
        torch.manual_seed(random.randrange(1000))  # the global generator has no part in it
        fit(net, seed=seed)
        ends.append(state(net))
    assert equal(ends[0], ends[1]) and not equal(ends[0], ends[2])


def test_heads_that_diverge_in_the_warmup_say_so():
    recipe = dataclasses.replace(SHORT, head_warmup=dataclasses.replace(SHORT, base_lr=1e30))
    with pytest.raises(Diverged, match=r"head_warmup: .*iteration \d+ .*base_lr"):
        fit(expression_net(), recipe=recipe)


def test_a_step_keeps_to_the_models_device(monkeypatch):
    """Tensors of the meta device compute nothing and refuse to meet those of the CPU, as a GPU's do."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # autocast does not know this device
    for module in (frozen, inference, trainer):
        monkeypatch.setattr(module, "autocast", lambda *_: nullcontext())
    faces, net = noise(10), expression_net().to("meta").eval()
    features = FrozenFeatures(net, faces)
    optimizer = CaffeSGD(caffe_groups(net.named_parameters(), SHORT))
    assert features[np.array([3, 1])].is_meta and features.maps.is_meta
    assert train_step(net, features, np.array([3, 1]), faces.targets[[3, 1]], hinge).is_meta
    UpdateBound(optimizer, SHORT).accumulate()
    optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("few", [0.0, 1.1], ids=["all", "active alone"])
def test_training_on_a_gpu_comes_near_that_on_the_cpu(monkeypatch, few):
    monkeypatch.setattr(trainer, "FEW", few)
    here, there = (fit(expression_net().to(device), validation=noise(), stop_early=True) for device in ("cpu", "cuda"))
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-3, abs=1e-3)


# --- precision


def test_auto_is_what_the_checkpoint_was_begun_in(tmp_path, monkeypatch):
    path, whole, resumed = tmp_path / "state.safetensors", expression_net(), expression_net()
    fit(whole, precision="bfloat16")
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: True)
    stop_at(path, 5, precision="auto")
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: False)
    with pytest.raises(OtherTraining, match=r"precision float32.*bfloat16"):
        fit(expression_net(), checkpoint=path, precision="float32")
    fit(resumed, checkpoint=path, precision="auto")
    assert equal(state(whole), state(resumed))


def test_bfloat16_comes_near_float32():
    recipe = dataclasses.replace(SHORT, max_iter=4)
    exact, rounded = (fit(expression_net(), recipe=recipe, precision=p)["loss"] for p in ("float32", "bfloat16"))
    assert exact != rounded and rounded == pytest.approx(exact, rel=0.02)
