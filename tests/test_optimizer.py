"""Caffe's rule as a PyTorch optimizer, and the early stop's bound: dualtl_lib/train/{optimizer,early_stop}.py."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_kit import SHORT, STOPPING, TINY, expression_net, fit, noise

from dualtl_lib.models import caffenet
from dualtl_lib.train.early_stop import NEGLIGIBLE, UpdateBound
from dualtl_lib.train.losses import hinge
from dualtl_lib.train.optimizer import CaffeSGD, caffe_groups
from dualtl_lib.train.sampling import batch_indices


def optimizer_of(model, recipe=SHORT):
    return CaffeSGD(caffe_groups(model.named_parameters(), recipe))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_follows_caffes_rule_over_two_drops(dtype, tolerance):
    recipe = dataclasses.replace(SHORT, base_lr=0.01, stepsize=1000, max_iter=2500, weight_decay=5e-3)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(64, 10)), draw.integers(0, 3, 64)
    layer = nn.Linear(10, 3, dtype=torch.float64)
    w, b = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
    layer.to(dtype)
    optimizer = optimizer_of(layer, recipe)
    speed_w, speed_b = np.zeros_like(w), np.zeros_like(b)
    outside_w, outside_b, lr_outside = w.copy(), b.copy(), [np.zeros_like(w), np.zeros_like(b)]

    def gradient(weight, bias, part):
        scores = np.exp(x[part] @ weight.T + bias)
        error = scores / scores.sum(1, keepdims=True) - np.eye(3)[y[part]]
        return error.T @ x[part] / len(part), error.mean(0)

    for t in range(recipe.max_iter):
        part, lr = batch_indices(t, 16, 64, seed=0), 0.01 * 0.1 ** (t // 1000)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr(t)
        optimizer.zero_grad()
        F.cross_entropy(layer(torch.from_numpy(x[part]).to(dtype)), torch.from_numpy(y[part])).backward()
        optimizer.step()
        gw, gb = gradient(w, b, part)
        speed_w = 0.9 * speed_w + lr * (gw + 5e-3 * w)
        speed_b = 0.9 * speed_b + 2 * lr * gb
        w, b = w - speed_w, b - speed_b
        gw, gb = gradient(outside_w, outside_b, part)  # the learning rate outside the buffer, as in torch.optim.SGD
        lr_outside = [0.9 * lr_outside[0] + gw + 5e-3 * outside_w, 0.9 * lr_outside[1] + gb]
        outside_w, outside_b = outside_w - lr * lr_outside[0], outside_b - 2 * lr * lr_outside[1]
    ours = [p.detach().double().numpy() for p in (layer.weight, layer.bias)]
    assert max(np.abs(ours[0] - w).max(), np.abs(ours[1] - b).max()) < tolerance
    assert np.abs(w - outside_w).max() > 3 * tolerance  # so this test would notice the other rule


def test_frozen_layers_are_left_out_and_biases_learn_twice_as_fast_without_decay():
    attributes = caffenet.AttributeNet(caffenet.Trunk(TINY), "ab").freeze("conv1")
    for net, frozen in ((expression_net(), ("conv1", "conv2")), (attributes, ("conv1",))):
        factors = {
            p: (group["lr_mult"], group["weight_decay"]) for group in optimizer_of(net).param_groups
            for p in group["params"]
        }  # fmt: skip
        for name, p in net.named_parameters():
            expected = (2, 0) if name.endswith("bias") else (1, SHORT.weight_decay)
            assert factors.get(p) == (None if name.startswith(tuple(f"trunk.{f}" for f in frozen)) else expected), name


def test_it_keeps_the_protocol_of_pytorchs_optimizers():
    first = nn.Linear(4, 2)
    second, x = copy.deepcopy(first), torch.ones(3, 4)
    one, other = optimizer_of(first), CaffeSGD(second.parameters(), lr=0.1)

    def step(layer, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = layer(x).square().sum()
            loss.backward()
            return loss

        return optimizer.step(closure)

    assert step(first, one) > step(first, one) > 0
    second.load_state_dict(first.state_dict())
    other = optimizer_of(second)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    step(first, one), step(second, other)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    before = second.weight.clone()
    other.zero_grad()
    other.step()  # without gradients nothing moves
    assert torch.equal(second.weight, before)


def test_the_early_stop_changes_no_weight_by_more_than_its_bound():
    whole, short = expression_net(), expression_net()
    full = fit(whole, recipe=STOPPING)
    history = fit(short, recipe=STOPPING, stop_early=True, validation=noise(), validate_every=7)
    stopped, bound = history["stopped_at"], history["remaining_update"]
    assert "stopped_at" not in full and len(full["loss"]) == 60
    assert stopped == len(history["loss"]) == history["validated"][-1] < 60 and bound <= NEGLIGIBLE
    assert history["loss"] == full["loss"][:stopped]
    for (name, a), b in zip(whole.named_parameters(), short.parameters(), strict=True):
        assert ((a - b).abs().max() / b.square().mean().sqrt()).item() <= bound + 1e-6, name


def test_the_bound_is_each_weights_gradient_times_the_learning_rates_to_come():
    net, draw = expression_net(), np.random.default_rng(0)
    optimizer = optimizer_of(net)
    bound, sums = UpdateBound(optimizer, SHORT), {}
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    for _ in range(SHORT.stepsize):
        for p, group in parameters:
            p.grad = torch.from_numpy(draw.normal(size=p.shape)).float()
            push = (p.grad + group["weight_decay"] * p.detach()).abs().double()
            sums[p] = sums.get(p, 0) + push / SHORT.stepsize
        bound.accumulate()
        optimizer.step()
    done, speeding = SHORT.stepsize, 1 / (1 - SHORT.momentum)
    to_come = sum(SHORT.lr(t) for t in range(done, SHORT.max_iter))
    found = bound.by_parameter(done)
    for (p, group), value in zip(parameters, found, strict=True):
        buffer = optimizer.state[p]["momentum_buffer"].abs()
        furthest = speeding * (SHORT.momentum * buffer + group["lr_mult"] * to_come * sums[p]).max()
        assert value == pytest.approx(float(furthest / p.detach().double().square().mean().sqrt()), rel=1e-5)
    assert bound.at_drop(done - 1) == bound.at_drop(SHORT.max_iter) == np.inf
    assert bound.at_drop(done) == max(found)


def test_the_bound_grows_with_what_remains():
    net, faces = expression_net(), noise()
    optimizer = optimizer_of(net)
    bound = UpdateBound(optimizer, SHORT)
    hinge(net(faces.batch(range(12))), faces.targets).backward()
    bound.accumulate()
    optimizer.step()
    early, late = bound.by_parameter(1), bound.by_parameter(19)
    assert all(a > b > 0 for a, b in zip(early, late, strict=True))
