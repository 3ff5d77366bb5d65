"""What the tests of training share: a small network, faces of noise, a short recipe, and trainings that are stopped."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dualtl_lib.data.dataset import Faces
from dualtl_lib.models import caffenet
from dualtl_lib.models.caffenet import Layer
from dualtl_lib.train import trainer
from dualtl_lib.train.recipe import Recipe
from dualtl_lib.train.trainer import TrainerConfig

TINY = (
    Layer("conv1", 4, 11, stride=4, pool=True, norm=True),
    Layer("conv2", 8, 5, padding=2, groups=2, pool=True, norm=True),
    Layer("conv3", 8, 3, padding=1),
    Layer("conv4", 8, 3, padding=1, groups=2),
    Layer("conv5", 8, 3, padding=1, groups=2, pool=True),
)
EVERY = tuple(layer.name for layer in TINY)
SHORT = Recipe(base_lr=1e-3, batch=4, gamma=0.1, stepsize=8, max_iter=20, momentum=0.9, weight_decay=5e-4)
STOPPING = dataclasses.replace(SHORT, stepsize=5, max_iter=60, momentum=0.5)  # with an early stop of the schedule


def noise(images=12, classes=3, seed=0, attributes=None) -> Faces:
    """Pictures of noise, each class of its own brightness."""
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, classes, (images,) if attributes is None else (images, attributes))
    pixels = draw.integers(0, 100, (images, 3, 227, 227), dtype=np.uint8)
    pixels += (targets.reshape(images, -1)[:, 0, None, None, None] * 60).astype(np.uint8)
    names = [str(i) for i in range(images)]
    return Faces(pixels, torch.from_numpy(targets), [f"class {i}" for i in range(classes)], names, names, names)


def expression_net(classes=3, seed=0, frozen=("conv1", "conv2")):
    torch.manual_seed(seed)
    net = caffenet.ExpressionNet(caffenet.Trunk(TINY), [f"class {i}" for i in range(classes)])
    for p in net.trunk.parameters():
        nn.init.normal_(p, std=0.1)
    return net.freeze(*frozen)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fit(net, faces=None, recipe=SHORT, *, validation=None, seed=0, checkpoint=None, fabric=None, **config):
    """trainer.fit on noise, without a progress bar, its config given by name."""
    how = dict(validation=validation, seed=seed, checkpoint=checkpoint, fabric=fabric)
    faces = noise() if faces is None else faces
    return trainer.fit(net, faces, recipe, config=TrainerConfig(**config), progress=False, **how)


def stop_at(path, iteration, recipe=SHORT, **how):
    """Leave the checkpoint of a training that was stopped when it had saved this iteration."""

    class Stopped(Exception):
        pass

    class Stops(trainer.Checkpoint):
        def save(self, t, *args, **kwargs):
            super().save(t, *args, **kwargs)
            if t == iteration:
                raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(trainer, "Checkpoint", Stops)
        fit(expression_net(), recipe=recipe, checkpoint=path, save_every=0, validation=noise(), **how)


def in_process(script, *arguments, by=()) -> str:
    """Run a script with these arguments, started `by` another module; what it printed."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    here = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}  # on CPUs, whatever the machine has
    command = [sys.executable, *by, script, *map(str, arguments)]
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
