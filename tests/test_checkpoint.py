"""Checkpoints: whole or absent, never another training's, resumed to the bit: dualtl_lib/train/checkpoint.py."""

import dataclasses
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_kit import SHORT, STOPPING, equal, expression_net, fit, in_process, noise, state, stop_at

from dualtl_lib.train import trainer
from dualtl_lib.train.checkpoint import OtherTraining, read_metadata
from dualtl_lib.train.trainer import Diverged


def never(*_, **__):
    pytest.fail("trained again")


def test_finished_training_is_loaded_not_repeated(tmp_path, monkeypatch):
    net, path = expression_net(), tmp_path / "sub" / "state.safetensors"
    history = fit(net, validation=noise(), checkpoint=path)
    monkeypatch.setattr(trainer, "FrozenFeatures", never)
    again = expression_net()
    assert fit(again, validation=noise(), checkpoint=path) == history
    assert equal(state(net), state(again))
    assert load_file(path).keys() == state(net).keys()


def test_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    fit(expression_net(), checkpoint=path)
    before = path.read_bytes()
    others = {
        "recipe": dict(recipe=dataclasses.replace(SHORT, gamma=0.2)),
        "seed": dict(seed=1),
        "data": dict(faces=noise(seed=1)),
        "stop_early": dict(stop_early=True),
        "precision": dict(precision="bfloat16"),
    }
    for name, other in others.items():
        with pytest.raises(OtherTraining, match=f"{path.name}.* with {name} "):
            fit(expression_net(), checkpoint=path, **other)
    for net in (expression_net(seed=1), expression_net(frozen=("conv1",))):
        with pytest.raises(OtherTraining, match="model"):
            fit(net, checkpoint=path)
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match=path.name):
        fit(expression_net(), checkpoint=path)


def test_diverged_training_names_the_iteration_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Diverged, match=r"iteration \d+ .*checkpoint of iteration \d.*base_lr") as e:
        fit(expression_net(), recipe=dataclasses.replace(SHORT, base_lr=1e12), checkpoint=path, save_every=0)
    kept = int(read_metadata(path)["iteration"])
    assert all(t.isfinite().all() for t in load_file(path).values())
    assert f"iteration {kept} stays" in str(e.value) and len(list(tmp_path.iterdir())) == 1


def test_unwritable_folder_stops_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(trainer, "FrozenFeatures", never)
    with pytest.raises(OSError, match="file"):
        fit(expression_net(), checkpoint=tmp_path / "file" / "state.safetensors")


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    path, limits = tmp_path / "state.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    stop_at(path, 3)
    before = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # larger files cannot be written
        with pytest.raises(OSError, match=rf"{path.name}.* iteration 3 stays"):
            fit(expression_net(), checkpoint=path, save_every=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("recipe", "iteration"), [(SHORT, 1), (SHORT, 7), (SHORT, 8), (SHORT, 19), (STOPPING, 5), (STOPPING, 7)]
)
def test_stopped_and_resumed_gives_the_same_bits_and_history(tmp_path, recipe, iteration):
    net, again, stops = expression_net(), expression_net(), recipe is STOPPING
    how, path = dict(recipe=recipe, validation=noise(), stop_early=stops), tmp_path / "state.safetensors"
    history = fit(net, **how)
    stop_at(path, iteration, recipe, stop_early=stops)
    resumed = fit(again, checkpoint=path, **how)
    assert ("stopped_at" in history) == stops
    assert resumed == history and equal(state(net), state(again))


@pytest.mark.parametrize("iteration", [0, 5])
def test_heads_are_not_warmed_up_again(tmp_path, monkeypatch, iteration):
    recipe = dataclasses.replace(SHORT, head_warmup=dataclasses.replace(SHORT, max_iter=4))
    whole, resumed, path = expression_net(), expression_net(), tmp_path / "a.safetensors"
    fit(whole, recipe=recipe)
    stop_at(path, iteration, recipe)
    monkeypatch.setattr(trainer.Trainer, "_warm_up_heads", never)
    fit(resumed, recipe=recipe, checkpoint=path)
    assert equal(state(whole), state(resumed))


def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path):
    counts = json.loads(in_process(__file__, tmp_path).splitlines()[-1])
    assert counts["kills"] >= 30 and counts["resumed"] >= 10 and counts["finished"] >= 2


def train_in_child(path):
    """Start a training in a forked process; its id. The parent must not have used several threads itself."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars
        fit(expression_net(), checkpoint=path, save_every=0)
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
    fit(expression_net(), checkpoint=whole)  # here, so that the children need not load PyTorch's parts each anew
    begin = time.monotonic()
    assert os.waitpid(train_in_child(folder / "timed.safetensors"), 0)[1] == 0
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


if __name__ == "__main__":
    kill_often(Path(sys.argv[1]))
