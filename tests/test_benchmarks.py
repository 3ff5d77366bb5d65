"""The benchmarks that can be run small: each ends well and prints its table. Nothing is timed."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig

import pytest
import torch

from dualtl_lib import files
from dualtl_lib.models import caffenet, weights
from dualtl_lib.train import training
from dualtl_lib.visualize.deconvnet import Deconvnet
from dualtl_lib.visualize.gallery import gallery

SMALL = {
    "faces": (("--images", "6"), 2),
    "paper_scale": (("--faces", "100", "--expressions", "100", "--iterations", "1"), 3),
}


@pytest.mark.parametrize("script", SMALL)
def test_it_prints_a_row_for_each_where_the_project_is_not_installed(script):
    """-S leaves out this environment's .pth files, one of which is the installation."""
    arguments, rows = SMALL[script]
    command = [sys.executable, "-S", "-m", f"benchmarks.{script}", *arguments]
    here = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(command, cwd=files.PROJECT, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|") and re.search(r"\d", line)]
    assert len(table) == rows, done.stdout


def module(script):
    """A benchmark as a module: its file is not in the package."""
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{script.removesuffix('.py')}", files.PROJECT / "benchmarks" / script
    )
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def is_fig18s(model):
    four = ("conv1", "conv2", "conv3", "conv4")
    return model.features == 384 * 6 * 6 and model.frozen() == four


def test_fig_18s_heads_are_measured_on_fig_18s_network(monkeypatch):
    measured, models = module("training.py"), []
    kind, frozen, _ = measured.STEPS["(c) Fig. 18's heads"]
    model = measured.build(kind, frozen, "pool-norm")
    assert is_fig18s(model) and len(measured.Plain(model).model.trunk.layers) == 4
    monkeypatch.setattr(training, "fit", lambda model, *_, **__: models.append(model) or {"loss": [0.0]})
    monkeypatch.setattr(sys, "argv", ["paper_scale.py", "--faces", "3", "--expressions", "3"])
    module("paper_scale.py").main()
    assert [is_fig18s(model) for model in models] == [False, False, True]


def test_the_plain_loop_and_ours_see_the_same_batches(monkeypatch):
    measured, plain, ours = module("training.py"), [], []
    monkeypatch.setattr(measured, "BATCH", 4)

    class Watched(measured.Noise):
        def __getitem__(self, i):
            plain.append(int(i))
            return super().__getitem__(i)

    def watched(*arguments, answers=training._answers):
        ours.extend(arguments[2].tolist())
        return answers(*arguments)

    monkeypatch.setattr(training, "_answers", watched)
    data = Watched(10, None)
    models = [measured.build(caffenet.ExpressionNet, ("conv1",), "pool-norm") for _ in range(2)]
    turns = measured.plain_steps(models[0], data, 4), measured.our_steps(models[1], data, "float32", 4)
    for _ in range(3):
        assert [next(steps) for steps in turns] == [4, 4]
    assert plain == ours and sorted(plain[:8]) != list(range(8))


WHO = """
import os, sys
sys.path.insert(0, {folder!r})
import training
def grown(n, order, precision): return f"{{n}} {{os.getpid()}}"
training.grown = grown
if __name__ == "__main__":
    training.growth([2, 1], "pool-norm", "float32")
"""


def test_each_size_of_data_is_measured_in_a_process_of_its_own(tmp_path):
    """Its peak memory is then not that of another."""
    (tmp_path / "who.py").write_text(WHO.format(folder=str(files.PROJECT / "benchmarks")))
    done = subprocess.run([sys.executable, tmp_path / "who.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (first, one), (second, other) = (line.split() for line in done.stdout.splitlines()[-2:])
    assert (first, second) == ("2", "1") and one != other


def test_what_the_deconvnet_s_benchmark_compares_is_the_same(monkeypatch):
    measured, compared = module("deconvnet.py"), []
    monkeypatch.setattr(measured, "same", lambda *both, same=measured.same: compared.append(both[1]) or same(*both))
    trunk, images = weights.load_trunk("embedded", order="norm-pool").requires_grad_(False), measured.pictures(2)
    exact = measured.doubled(trunk)
    for layer in ("conv1", "conv2"):
        measured.compare_each(exact, images[:1], layer, [8, 38], 4)
        measured.compare_whole(exact, images, layer)
    net = Deconvnet(trunk, **measured.CAPTUM)
    found = gallery(net, images, "conv2", maps=[1, 101, 201], count=2, progress=False)
    assert len(measured.compare_gallery(trunk, found, images, "conv2", torch.device("cpu"), few=3)) == 3
    assert len(compared) >= 8 and all(expected.any() for expected in compared)


def test_the_same_is_told_from_another():
    same, nothing, something = module("deconvnet.py").same, torch.zeros(3), torch.ones(3)
    assert same(nothing, nothing) == same(something, something) == 0
    for found, expected in ((something, nothing), (nothing, something), (something * torch.nan, something)):
        with pytest.raises(AssertionError, match="differ"):
            same(found, expected)
