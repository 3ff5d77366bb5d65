"""Recipes, losses, and what is drawn: dualtl_lib/train/recipe.py, losses.py, sampling.py."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from training_kit import SHORT

from dualtl_lib import paper
from dualtl_lib.train.losses import LOSSES, hinge
from dualtl_lib.train.recipe import BUDGETS, CELEBA, CKPLUS
from dualtl_lib.train.sampling import batch_indices, seeded_dropout


def test_recipes_are_the_papers_tables():
    for recipe, table in ((CELEBA, paper.TABLE3), (CKPLUS, paper.TABLE4)):
        assert dataclasses.asdict(recipe) == {**table, "loss": "hinge", "head_warmup": None}
        assert [recipe.lr(t) for t in (0, 999, 1000, 2000)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    assert BUDGETS["paper"] == {"celeba": CELEBA, "ckplus": CKPLUS, "heads": CKPLUS}


def test_the_quick_budget_drops_the_learning_rate_and_keeps_the_rest():
    assert BUDGETS["quick"].keys() == BUDGETS["paper"].keys()
    for step, quick in BUDGETS["quick"].items():
        full = BUDGETS["paper"][step]
        assert quick.max_iter <= 600 and quick.lr(quick.max_iter - 1) == pytest.approx(quick.base_lr * full.gamma)
        kept = ("momentum", "weight_decay", "loss", "gamma")
        assert all(getattr(quick, name) == getattr(full, name) for name in kept)
    heads = BUDGETS["quick"]["heads"]
    assert (heads.base_lr, heads.batch) == (CKPLUS.base_lr, CKPLUS.batch)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"loss.*hinge.*squared"):
        dataclasses.replace(SHORT, loss="squared")
    with pytest.raises(ValueError, match="batch"):
        dataclasses.replace(SHORT, batch=0)


def test_overrides_change_a_recipe_and_its_warmup():
    assert SHORT.changed({"base_lr": 0.5}) == dataclasses.replace(SHORT, base_lr=0.5)
    warmed = SHORT.changed({"head_warmup": {"max_iter": 7}})  # of this recipe itself, where there is none
    assert warmed.head_warmup == dataclasses.replace(SHORT, max_iter=7)
    again = warmed.changed({"head_warmup": {"batch": 5}, "batch": 3})
    assert (again.batch, again.head_warmup) == (3, dataclasses.replace(SHORT, max_iter=7, batch=5))
    assert warmed.changed({"head_warmup": None}) == SHORT


def test_hinge_is_caffes():
    draw = np.random.default_rng(0)
    logits, targets = draw.normal(size=(6, 5)), draw.integers(0, 5, 6)
    expected = 0.0
    for scores, label in zip(logits, targets, strict=True):  # HingeLossLayer, L1
        for k, score in enumerate(scores):
            expected += max(0.0, 1 + (-score if k == label else score))
    assert hinge(torch.from_numpy(logits), torch.from_numpy(targets)).item() == pytest.approx(expected / 6)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_the_loss_of_many_heads_is_the_sum_of_theirs(loss):
    draw = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(7, 12, 2, generator=draw), torch.randint(0, 2, (7, 12), generator=draw)
    heads = sum(loss(logits[:, a], targets[:, a]) for a in range(12))
    torch.testing.assert_close(loss(logits, targets), heads)


def test_every_image_comes_once_an_epoch():
    drawn = np.concatenate([batch_indices(t, 4, 10, seed=3) for t in range(10)])
    for epoch in drawn.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(drawn[:10], drawn[10:20])
    assert not np.array_equal(drawn[:10], batch_indices(0, 10, 10, seed=4))
    assert len(batch_indices(1, 25, 10, seed=0)) == 25  # a batch larger than the data set


def test_dropout_drops_half_differs_by_iteration_and_takes_rows_of_a_whole_batch():
    layer, x, masks = nn.Dropout().eval(), torch.ones(4, 1000), []
    for t in (0, 0, 1):
        with seeded_dropout(layer, (0, t), 4, np.arange(4)):
            masks.append(layer(x))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert set(masks[0].unique().tolist()) == {0.0, 2.0} and masks[0].mean() == pytest.approx(1, abs=0.1)
    with seeded_dropout(layer, (0, 0), 4, np.array([3, 1])):
        assert torch.equal(layer(x[:2]), masks[0][[3, 1]])
    assert torch.equal(layer(x), x)
