"""python -m dualtl_lib train, on a run of few faces and few iterations."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from dualtl_lib import config, files
from dualtl_lib.cli import main
from dualtl_lib.experiment import pipeline
from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.train.checkpoint import read_metadata

SHORT = dict(max_iter=2, batch=4)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a config of its own, "tiny", beside a copy of the library."""
    synthetic_faces.write_celeba(tmp_path / "celeba", people=20, images=60, seed=1, workers=1)
    synthetic_faces.write_ckplus(tmp_path / "ckplus", subjects=5, seed=1, workers=1)
    folders = {step: str(tmp_path / step) for step in ("celeba", "ckplus")}
    recipe = {step: SHORT | {"head_warmup": SHORT} for step in ("celeba", "ckplus")} | {"heads": SHORT}
    settings = dict(title="t", weights="embedded", budget="quick", seed=0, recipe=recipe, **folders)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text(json.dumps(settings))
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "PROJECT", tmp_path)
    monkeypatch.setattr(files, "OUTPUT", tmp_path)
    return tmp_path


def trained_for(run, model):
    """How many iterations the kept state of a model has, after checking that the model is there."""
    pipeline.model(run, model)
    return int(read_metadata(run.path / "training" / f"{model}.safetensors")["iteration"])


@pytest.mark.filterwarnings("ignore")  # so few faces
def test_it_trains_each_model_of_a_run_from_the_one_before(home, capsys):
    run = config.open_run("tiny")
    assert main(["train", "tiny", "ckplus_fig14"]) == 1
    assert "no trained model 'celeba' yet" in capsys.readouterr().err
    for model in ("celeba", "ckplus_fig14", "ckplus_fig18"):
        assert main(["train", "tiny", model]) == 0
        assert capsys.readouterr().out == f"{run.checkpoint(model)}\n"
        assert trained_for(run, model) == 2


def test_a_setting_given_makes_a_run_of_its_own_name(home, capsys):
    assert main(["train", "tiny", "celeba", "--set", "celeba.max_iter=3", "--set", "cache_gb=0"]) == 0
    run = config.open_run("tiny", recipe={"celeba": {"max_iter": 3}}, cache_gb=0)
    assert run.name == "tiny,cache_gb=0,celeba.max_iter=3" and trained_for(run, "celeba") == 3
    assert not (run.path / "cache").exists() and not config.open_run("tiny").path.exists()
    assert main(["train", "tiny", "celeba", "--set", "celeba.max_iter=many"]) == 1
    assert "recipe.celeba.max_iter: " in capsys.readouterr().err


@pytest.fixture
def here(home):
    """The environment of a process that finds a copy of the library, and so its config, in `home`."""
    shutil.copytree(config.__file__.removesuffix("/config.py"), home / "dualtl_lib")
    return {**os.environ, "PYTHONPATH": str(home), "DUALTL_OUTPUT": str(home)}


@pytest.mark.skipif(importlib.util.find_spec("lightning_fabric") is None, reason="needs lightning-fabric")
def test_two_processes_train_the_model_that_one_does(home, here):
    """The README's line, on CPUs."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dualtl_lib"]
    command = [sys.executable, *command, "train", "tiny", "celeba"]
    here |= {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=home, env=here, capture_output=True, text=True, timeout=240)
    run = config.open_run("tiny")
    assert (done.returncode, done.stdout) == (0, f"{run.checkpoint('celeba')}\n"), done.stderr[-3000:]
    together = load_file(run.checkpoint("celeba"))
    shutil.rmtree(run.path)
    assert main(["train", "tiny", "celeba"]) == 0
    for name, alone in load_file(run.checkpoint("celeba")).items():
        torch.testing.assert_close(together[name], alone, rtol=1e-5, atol=1e-5)


def test_ended_by_sigterm_it_leaves_no_part_of_a_file(home, here):
    """As SLURM and Snakemake end a job; here while the frozen layers are computed."""
    command = [sys.executable, "-m", "dualtl_lib", "train", "tiny", "celeba", "--set", "celeba.max_iter=10000"]
    with subprocess.Popen(command, cwd=home, env=here, stderr=subprocess.PIPE, text=True) as job:
        while job.poll() is None and not list(home.glob("runs/*/cache/.features-*")):
            time.sleep(1e-3)
        job.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=60)[1]
    assert (job.returncode, list(home.glob("runs/*/*/.*"))) == (143, []), said
