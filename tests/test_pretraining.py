"""The embedded trunk: procedural scenes, what learns from them, and the file that is shipped."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from dualtl_lib.models import caffenet
from dualtl_lib.synthetic import pretraining, procedural


def task(name):
    return [t.name for t in procedural.TASKS].index(name)


def test_scene_is_the_same_for_a_seed_and_another_for_another():
    first, again, other = (procedural.scene(99, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first[0].dtype == np.uint8 and first[0].shape == (3, 99, 99) and first[1].shape == (6, 99, 99)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_labels_name_answers_and_every_shape_and_texture_occurs():
    labels = np.stack([procedural.scene(99, np.random.default_rng((3, i)))[1] for i in range(150)])
    for index, (name, answers) in enumerate(procedural.TASKS):
        found = set(np.unique(labels[:, index])) - {procedural.IGNORED}
        assert found <= set(range(len(answers))), name
        assert len(found) > 0.9 * len(answers), name


@pytest.mark.parametrize("texture", procedural.ORIENTED, ids=lambda f: f.__name__)
def test_orientation_is_that_of_the_gradient(texture):
    """The structure tensor of a texture must point where its label says: across the stripes, to one bin."""
    kind, errors = procedural.TEXTURES.index(texture), []
    for seed in range(12):
        cover = procedural.surface(160, False, np.random.default_rng(seed), kind)
        gy, gx = np.gradient(cover.pixels[0].astype(float))
        angle = 0.5 * np.arctan2(2 * (gx * gy).sum(), (gx**2 - gy**2).sum())  # of the gradient, mod 180 degrees
        found = angle / np.pi * procedural.ORIENTATIONS
        apart = (found - cover.orientation) % procedural.ORIENTATIONS
        errors.append(min(apart, procedural.ORIENTATIONS - apart))
    assert np.median(errors) < 1, errors


@pytest.mark.parametrize("bin", range(len(procedural.PERIODS) - 1))
def test_period_is_where_the_spectrum_peaks(bin):
    """A grating's strongest frequency must lie in its label's bin."""
    kind, seen = procedural.TEXTURES.index(procedural.grating), 0
    for seed in range(40):
        cover = procedural.surface(256, False, np.random.default_rng(seed), kind)
        if cover.period != bin:
            continue
        grey = cover.pixels[0] - cover.pixels[0].mean()
        power = np.abs(np.fft.fft2(grey * np.outer(np.hanning(256), np.hanning(256))))
        y, x = np.unravel_index(power.argmax(), power.shape)
        period = 1 / np.hypot(np.fft.fftfreq(256)[y], np.fft.fftfreq(256)[x])
        assert 0.85 * procedural.PERIODS[bin] < period < 1.15 * procedural.PERIODS[bin + 1]
        seen += 1
    assert seen


def test_hue_is_that_of_the_pixels():
    for seed in range(60):
        cover = procedural.surface(32, True, np.random.default_rng(seed))
        red, green, blue = cover.pixels.reshape(3, -1).mean(1)
        if procedural.HUES[cover.hue] == "grey":
            assert red == pytest.approx(green, abs=0.01) and green == pytest.approx(blue, abs=0.01)
        else:
            sector = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * np.pi) * 6
            apart = (sector - cover.hue) % 6
            assert min(apart, 6 - apart) < 0.75, procedural.HUES[cover.hue]


@pytest.mark.parametrize("name", procedural.SHAPES)
def test_shape_is_drawn_within_its_hull(name):
    for seed in range(5):
        mask, hull, radius = procedural.silhouette(name, 128, np.random.default_rng(seed))
        assert mask.min() >= 0 and mask.max() == 1 and radius >= 11
        near = cv2.dilate(hull.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # a soft rim reaches one pixel over
        assert near[mask > 0.5].all() and (mask > 0.5).sum() > 0.1 * hull.sum()


def test_labels_are_taken_where_conv5_looks():
    """The input pixels that move conv5's first and second position are centred on FIRST and FIRST + STEP."""
    trunk = caffenet.Trunk()
    with torch.no_grad():
        for layer in trunk.layers:
            trunk.get_submodule(layer.name).weight.fill_(1e-3)  # all positive: every pixel seen counts
    x = torch.rand(1, 3, 419, 419, requires_grad=True)
    h = x
    for layer in trunk.layers:  # averages in place of maxima, so that windows count as a whole
        h = trunk.get_submodule(layer.name)(h)
        h = F.avg_pool2d(h, 3, 2) if layer.pool and layer.name != "conv5" else h
    for position in (10, 11):
        (seen,) = torch.autograd.grad(h[0, :, position, position].sum(), x, retain_graph=True)
        rows = seen[0, 0].abs().sum(1).nonzero()
        assert (rows.min() + rows.max()).item() / 2 == pretraining.FIRST + position * pretraining.STEP


def test_cut_keeps_labels_with_their_pixels():
    images = torch.arange(131, dtype=torch.uint8).expand(4, 3, 131, 131).contiguous()
    labels = torch.arange(131).clamp(max=127).to(torch.int8).expand(4, 6, 131, 131).contiguous()
    squares, answers = pretraining.cut(images, labels, 99, np.random.default_rng(0))
    assert squares.shape == (4, 3, 99, 99) and answers.shape == (4, 6, 5, 5)
    model = pretraining.Pretext(caffenet.Trunk())
    assert model.features(torch.zeros(1, 3, 99, 99)).shape[2:] == answers.shape[2:]
    columns = squares[:, 0, 0, pretraining.FIRST :: pretraining.STEP][:, :5].float()
    want = answers[:, 0, 0].float()
    # Light may have changed, linearly: equal steps of 16 columns, and untouched squares equal to the pixel.
    assert torch.equal(want.diff(), torch.full((4, 4), 16.0)) and (columns.diff() > 0).all()
    assert any(torch.equal(c, w) for c, w in zip(columns, want, strict=True))


@pytest.fixture(scope="module")
def trained():
    """A pretext model whose normalizations are anything but the identity."""
    torch.manual_seed(0)
    model = pretraining.Pretext(caffenet.Trunk()).eval()
    for norm in model.norms.values():
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.uniform_(norm.bias, -1, 1)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return model


@torch.no_grad()
def test_folded_trunk_computes_the_same(trained):
    x = torch.randn(2, 3, 131, 131) * 50
    folded, trunk = pretraining.fold(trained), caffenet.Trunk().eval()
    h = x
    for layer in folded.layers[:-1]:
        h = folded(h, start=layer.name, stop=layer.name)
    found, expected = folded.conv5(h).relu(), trained.features(x)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    trunk.load_state_dict(folded.state_dict())  # the same keys


def test_whitened_patches_give_more_than_noise():
    """k-means on patches finds smoother filters than chance, and no two alike."""
    filters = pretraining.edges_and_blobs(0, maps=24, kernel=11, scenes=40, iterations=8)
    assert filters.shape == (24, 3, 11, 11)
    assert smoothness(filters).median() > 0.4
    alike = filters.flatten(1) @ filters.flatten(1).T - torch.eye(24)
    assert alike.abs().max() < 0.99


def smoothness(filters):
    """The correlation of neighbouring weights of each filter: 0 for noise, near 1 for what is smooth."""
    grey = filters - filters.mean((2, 3), keepdim=True)
    across = (grey[..., 1:] * grey[..., :-1]).sum((1, 2, 3)) + (grey[..., 1:, :] * grey[..., :-1, :]).sum((1, 2, 3))
    return across / (2 * grey.square().sum((1, 2, 3)))


def test_learning_rate_rises_and_falls():
    rates = [pretraining.learning_rate(step, 1000) for step in range(1000)]
    top = int(np.argmax(rates))
    assert top in (pretraining.WARM_UP - 1, pretraining.WARM_UP) and rates[-1] < 1e-5 and rates[0] < rates[top] / 50
    assert sorted(rates[top:], reverse=True) == rates[top:]


def noise(seed: int, maps: int, kernel: int) -> torch.Tensor:
    """In place of conv1's first values, which take a while: noise of the same seed."""
    return torch.randn(maps, 3, kernel, kernel, generator=torch.Generator().manual_seed(seed))


def test_training_learns_and_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """One step, what a new process would load, two more: equal to three at once."""
    monkeypatch.setattr(pretraining, "BATCH", 4)
    monkeypatch.setattr(pretraining, "FRESH", 2)
    monkeypatch.setattr(pretraining, "RECENT", 8)
    monkeypatch.setattr(pretraining, "edges_and_blobs", noise)
    stages = (pretraining.Stage(67, 2), pretraining.Stage(83, 1))
    whole = pretraining.Pretraining(5, stages)
    before = whole.model.trunk.conv5.weight.clone()
    whole.run(tmp_path / "whole.pt", every=1)

    half = pretraining.Pretraining(5, stages)
    batches = half.batches
    monkeypatch.setattr(half, "batches", lambda workers: (b for b, _ in zip(batches(workers), range(1), strict=False)))
    half.run(tmp_path / "half.pt", every=1)
    assert half.step == 1
    rest = pretraining.Pretraining(5, stages)
    rest.load(tmp_path / "half.pt")
    rest.run(tmp_path / "half.pt", every=1)

    assert not torch.equal(before, whole.model.trunk.conv5.weight)
    assert rest.curve == whole.curve and len(whole.curve) == 3
    for (name, a), b in zip(whole.model.state_dict().items(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(ValueError, match=r"half\.pt: expected seed and stages"):
        pretraining.Pretraining(6, stages).load(tmp_path / "half.pt")


def test_loss_counts_only_what_applies():
    logits = tuple(torch.zeros(1, len(t.answers), 1, 2) for t in procedural.TASKS)
    labels = torch.zeros(1, len(procedural.TASKS), 1, 2, dtype=torch.int8)
    labels[0, task("orientation"), 0, 1] = procedural.IGNORED
    loss, accuracies = pretraining.loss_and_accuracy(logits, labels)
    assert loss.item() == pytest.approx(sum(np.log(len(t.answers)) for t in procedural.TASKS), rel=1e-5)
    assert accuracies == [1.0] * len(procedural.TASKS)


# --- The file


@pytest.fixture(scope="module")
def shipped():
    return {name: value.float() for name, value in load_file(pretraining.FILE).items()}


def test_file_is_small_and_fits_a_caffenet(shipped):
    assert pretraining.FILE.stat().st_size <= 5_000_000
    trunk = caffenet.Trunk()
    assert {n: v.shape for n, v in trunk.state_dict().items()} == {n: v.shape for n, v in shipped.items()}
    assert all(torch.isfinite(v).all() for v in shipped.values())


def test_file_says_how_it_was_made(shipped):
    facts = json.loads(pretraining.FILE.with_suffix(".json").read_text())
    assert facts["command"] == "python -m dualtl_lib.synthetic.pretraining"
    assert facts["seconds"] > 0 and facts["points"][-1][0] == facts["steps done"]
    first, last = facts["points"][0], facts["points"][-1]
    assert last[1] < first[1]  # the loss


def test_conv1_has_edges_of_several_orientations_and_colours(shipped):
    filters = shipped["conv1.weight"]
    noise = torch.randn(filters.shape, generator=torch.Generator().manual_seed(0))
    assert smoothness(filters).median() > smoothness(noise).max()

    grey = filters.mean(1)
    coloured = (filters - grey[:, None]).square().sum((1, 2, 3)) / filters.square().sum((1, 2, 3))
    assert (coloured > 0.7).sum() >= 10 and (coloured < 0.3).sum() >= 30  # noise: 2/3 for all

    gy, gx = torch.gradient(grey, dim=(1, 2))
    across = torch.complex((gx**2 - gy**2).sum((1, 2)), 2 * (gx * gy).sum((1, 2)))
    selective = across.abs() / (gx**2 + gy**2).sum((1, 2))
    edges = (selective > 0.6) & (coloured < 0.5)
    bins = torch.bincount((across.angle()[edges] / (2 * torch.pi) * 6).round().long() % 6, minlength=6)
    assert (bins > 0).sum() >= 5, bins.tolist()
