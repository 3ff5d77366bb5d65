"""Frozen layers are computed once: dualtl_lib/train/frozen.py."""

import errno
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_kit import EVERY, equal, expression_net, fit, noise, state

from dualtl_lib import files
from dualtl_lib.train.frozen import FrozenFeatures
from dualtl_lib.train.inference import logits

BYTES = 8 * 13 * 13 * 4  # conv2's maps of an image


@pytest.mark.parametrize(
    ("frozen", "start"), [((), "conv1"), (("conv1",), "conv2"), (EVERY[:2], "conv3"), (EVERY, None)]
)
def test_they_are_the_network_cut_in_two(frozen, start):
    net, faces = expression_net(frozen=frozen).eval(), noise(7)
    features = FrozenFeatures(net, faces)
    assert features.start == start and (features.maps is not None) == bool(frozen)
    x = features[[5, 0]]
    cut = net.classify(x if start is None else net.trunk(x, start=start))
    with torch.no_grad():
        torch.testing.assert_close(cut, net(faces.batch([5, 0])), rtol=1e-4, atol=1e-5)


def test_those_that_do_not_fit_are_computed_each_time():
    net, faces = expression_net(), noise(7)
    small, large = FrozenFeatures(net, faces, cache_bytes=7 * BYTES - 1), FrozenFeatures(net, faces)
    assert small.maps is None and large.maps.nbytes == 7 * BYTES == large.size(7)
    torch.testing.assert_close(small[[3]], large[[3]])


def never(*_):
    pytest.fail("computed again")


def test_a_file_is_used_again_by_its_content(tmp_path, monkeypatch):
    net, faces = expression_net(), noise(7)
    made = FrozenFeatures(net, faces, cache_dir=tmp_path)
    assert torch.equal(made[[1, 4]], FrozenFeatures(net, faces)[[1, 4]])
    others = (net, noise(7, seed=1)), (expression_net(seed=1), faces), (expression_net(frozen=("conv1",)), faces)
    for other in others:
        FrozenFeatures(*other, cache_dir=tmp_path)
    FrozenFeatures(net, faces, cache_dir=tmp_path, precision="bfloat16")
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(FrozenFeatures, "_fill", never)
    assert torch.equal(FrozenFeatures(net, faces, cache_dir=tmp_path)[[2]], made[[2]])


def test_parts_of_a_data_set_share_its_file(tmp_path, monkeypatch):
    net, whole = expression_net(), noise(60)
    part, other = whole.subset([3, 59, 10]), whole.subset(range(5, 50))
    first = FrozenFeatures(net, part, cache_dir=tmp_path)
    assert len(first) == 3 and [path.stat().st_size for path in tmp_path.iterdir()] == [60 * BYTES]
    torch.testing.assert_close(first[[0, 1, 2]], first.compute(part.batch([0, 1, 2])))
    monkeypatch.setattr(FrozenFeatures, "_fill", never)
    assert torch.equal(FrozenFeatures(net, other, cache_dir=tmp_path)[[5]], first[[2]])


def test_a_part_has_a_file_of_its_own_where_the_whole_set_does_not_fit(tmp_path):
    part = noise(60).subset([3, 59, 10])
    made = FrozenFeatures(expression_net(), part, cache_bytes=20 * BYTES, cache_dir=tmp_path)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [3 * BYTES]
    torch.testing.assert_close(made[[1]], made.compute(part.batch([1])))


@pytest.mark.parametrize("left", [0, 50, 3 * BYTES])
def test_a_file_that_is_not_whole_is_made_anew(tmp_path, left):
    faces, net = noise(7), expression_net()
    expected = FrozenFeatures(net, faces)[range(7)]
    FrozenFeatures(net, faces, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:left])
    assert torch.equal(FrozenFeatures(net, faces, cache_dir=tmp_path)[range(7)], expected)
    assert [p.stat().st_size for p in tmp_path.iterdir()] == [7 * BYTES]


def test_two_processes_may_make_a_file_at_once(tmp_path, monkeypatch):
    faces, net, fill = noise(7), expression_net(), FrozenFeatures._fill
    expected = FrozenFeatures(net, faces)[range(7)]

    def while_another_does(*arguments):
        monkeypatch.setattr(FrozenFeatures, "_fill", fill)
        other = FrozenFeatures(net, faces, cache_dir=tmp_path)
        assert torch.equal(other[range(7)], expected)
        fill(*arguments)

    monkeypatch.setattr(FrozenFeatures, "_fill", while_another_does)
    assert torch.equal(FrozenFeatures(net, faces, cache_dir=tmp_path)[range(7)], expected)
    assert len(list(tmp_path.iterdir())) == 1


def a_file_in_its_place(folder, monkeypatch):
    folder.write_text("in the way")


def a_folder_that_cannot_be_written(folder, monkeypatch):
    def refused(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", refused)  # permissions would not stop root


def a_full_disk(folder, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))


@pytest.mark.filterwarnings("error")  # the one that is expected aside
@pytest.mark.parametrize("cause", [a_file_in_its_place, a_folder_that_cannot_be_written, a_full_disk])
def test_where_no_file_can_be_written_a_warning_names_the_folder_and_training_continues(tmp_path, monkeypatch, cause):
    net, in_memory, folder = expression_net(), expression_net(), tmp_path / "cache"
    cause(folder, monkeypatch)
    with pytest.warns(UserWarning, match=str(folder)) as warned:
        fit(net, cache_dir=folder)
    fit(in_memory)
    assert len(warned) == 1 and equal(state(net), state(in_memory))
    assert not folder.is_dir() or not list(folder.iterdir())


def test_where_they_are_kept_does_not_change_a_bit(tmp_path):
    ends = []
    for where in ({}, {"cache_dir": tmp_path}, {"cache_bytes": 0}):
        net = expression_net()
        fit(net, **where)
        ends.append(state(net))
    assert equal(ends[0], ends[1])
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[2][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("frozen", [("conv1",), ("conv1", "conv2")])
def test_keeping_maps_in_bfloat16_changes_no_bit(frozen, tmp_path):
    faces, net, every = noise(), expression_net(frozen=frozen).eval(), np.arange(12)
    kept = FrozenFeatures(net, faces, cache_dir=tmp_path, precision="bfloat16")
    computed = FrozenFeatures(net, faces, cache_bytes=0, precision="bfloat16")
    assert kept.maps is not None and computed.maps is None
    assert kept[[3, 1]].dtype == torch.bfloat16 and 2 * kept.size(12) == FrozenFeatures(net, faces).size(12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = net(faces.batch(every)).float()
    assert torch.equal(logits(net, kept, every), expected)
    assert torch.equal(logits(net, computed, every), expected)
