"""Several processes train as one: dualtl_lib/train/distributed.py."""

import importlib.util
import socket
import sys
from pathlib import Path

import pytest
import torch
from training_kit import SHORT, expression_net, fit, in_process, noise, state, stop_at

from dualtl_lib import cli
from dualtl_lib.experiment import pipeline
from dualtl_lib.models import precision
from dualtl_lib.train.checkpoint import read_metadata
from dualtl_lib.train.distributed import World

needs_fabric = pytest.mark.skipif(importlib.util.find_spec("lightning_fabric") is None, reason="needs lightning-fabric")


def in_two(*arguments, by="torchrun") -> str:
    """Run this file in two processes, started by torchrun or `fabric run`."""
    if by == "torchrun":
        starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return in_process(__file__, *arguments, by=starter)
    with socket.create_server(("", 0)) as free:
        port = str(free.getsockname()[1])
    options = ["--devices", "2", "--strategy", "ddp", "--accelerator", "cpu", "--main-port", port]
    return in_process(__file__, *arguments, by=["-m", "lightning_fabric.cli", *options])


def near(history, expected, net=None, expected_net=None):
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for name, weights in state(expected_net).items() if net else ():
        torch.testing.assert_close(net.state_dict()[name], weights, rtol=1e-5, atol=1e-5)


@needs_fabric
@pytest.mark.parametrize("by", ["torchrun", "fabric run"])
def test_two_processes_train_as_one(tmp_path, by):
    """Started as the README starts `python -m dualtl_lib train`. "auto" is what rank 0 measures."""
    path, alone, together = tmp_path / "two.safetensors", expression_net(), expression_net()
    history = fit(alone)
    in_two("together", path, by=by)
    near(fit(together, checkpoint=path), history, together, alone)  # what two wrote, one reads


@needs_fabric
def test_two_processes_begin_anew_together_where_the_checkpoint_is_of_another_training(tmp_path):
    path = tmp_path / "two.safetensors"
    fit(expression_net(), seed=1, checkpoint=path)
    assert in_two("anew", path).count("training anew") == 1
    near(fit(expression_net(), checkpoint=path), fit(expression_net()))


@needs_fabric
def test_two_processes_resume_from_one_and_one_from_two(tmp_path):
    path, alone, last = tmp_path / "two.safetensors", expression_net(), expression_net()
    history = fit(alone, validation=noise())
    for iteration in (7, 13):
        in_two("resume", path) if path.exists() else stop_at(path, iteration)
        assert read_metadata(path)["iteration"] == str(iteration)
    near(fit(last, checkpoint=path, validation=noise()), history, last, alone)


def test_a_batch_is_shared_equally_or_refused():
    class Three:
        global_rank, world_size = 2, 3

    assert World(Three).shard(12) == slice(8, 12)
    with pytest.raises(ValueError, match=r"batch.* 3 .*1, 2, 4"):
        World(Three).shard(4)


def train_together(path):
    fabric = cli.launched_fabric()
    assert fabric.world_size == 2
    precision.bfloat16_pays = lambda device: fabric.global_rank > 0
    fit(expression_net(), checkpoint=path, fabric=fabric, precision="auto")


def train_anew_together(path):
    pipeline.fit(expression_net(), noise(), SHORT, path, fabric=cli.launched_fabric())


def resume_together(path):
    stop_at(path, 13, fabric=cli.launched_fabric())


if __name__ == "__main__":
    tasks = {"together": train_together, "anew": train_anew_together, "resume": resume_together}
    tasks[sys.argv[1]](Path(sys.argv[2]))
