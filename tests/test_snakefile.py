"""The Snakefile's plan, by dry runs: each notebook once, each fold of a sweep, the line that sends it to SLURM."""

import json
import re
import subprocess
import sys

import pytest

from dualtl_lib import config, files
from dualtl_lib.experiment import sweep

NOTEBOOKS = sorted(p.stem for p in (files.PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def plan(*arguments: str) -> str:
    """What snakemake says it would do if nothing had been done yet."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", *arguments]
    done = subprocess.run(command, cwd=files.PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def line_of_readme(start: str) -> list[str]:
    """The words of a command that the README shows, its continued lines joined."""
    text = (files.PROJECT / "README.md").read_text().replace("\\\n", " ")
    (line,) = {found for found in re.findall(r"^snakemake .*$", text, re.MULTILINE) if start in found}
    return line.partition("#")[0].split()[1:]


def test_every_notebook_runs_once_and_another_seed_is_a_run_of_its_own():
    said = plan("--cores", "2", "--config", "run=embedded", "seed=3", "--printshellcmds")
    for notebook in NOTEBOOKS:
        assert said.count(f"output: runs/embedded,seed=3/notebooks/{notebook}.ipynb") == 1
        assert f"-p run embedded -p seed 3 notebooks/{notebook}.ipynb" in said
    assert "folds/" not in said  # the default run has no sweep


def test_the_readmes_line_sends_a_sweep_to_slurm_with_resources():
    pytest.importorskip("snakemake_executor_plugin_slurm")
    said = plan(*line_of_readme("slurm"))
    jobs = sweep.jobs(config.open_run("ckplus48"))
    assert len(jobs) == 66 and all(f"output: runs/ckplus48/folds/{job}.json" in said for job in jobs)
    fold = said[said.index("rule fold:") :]
    resources = re.search(r"resources: (.*)", fold)[1]
    assert "mem_mb=4000" in resources and "runtime=60" in resources and "slurm_partition=cpu" in resources


def test_the_readmes_line_needs_no_number_of_cores():
    pytest.importorskip("snakemake_executor_plugin_slurm")
    command = [sys.executable, "-m", "snakemake", *line_of_readme("slurm"), "--", "nothing"]  # a dry run has one core
    done = subprocess.run(command, cwd=files.PROJECT, capture_output=True, text=True)
    assert "No rule to produce nothing" in done.stdout + done.stderr


def test_what_no_notebook_takes_is_refused():
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--config", "precision=bfloat16"]
    done = subprocess.run(command, cwd=files.PROJECT, capture_output=True, text=True)
    assert done.returncode and "precision belongs in a file in config/" in done.stdout + done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_notebook_takes_what_a_run_may_change(notebook):
    cells = json.loads((files.PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    (parameters,) = ("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ()))
    assert all(f"\n{name} = None" in parameters for name in ("seed", "budget"))


def test_a_fold_is_trained_again_only_for_what_decides_its_result():
    said = plan("--cores", "2", "--config", "run=embedded_folds")
    inputs = re.findall(r"rule (celeba|fold):\n    input: (.*)\n    output: (.*)", said)
    assert len(inputs) == 16
    for _, needed, made in inputs:
        needed = set(needed.split(", "))
        assert {"dualtl_lib/train/optimizer.py", "dualtl_lib/data/splits.py", "config/embedded_folds.yaml"} <= needed
        assert "dualtl_lib/models/embedded.safetensors" in needed
        assert not any("explorer" in name or name.endswith(".ipynb") for name in needed)
        assert ("runs/embedded_folds/celeba.safetensors" in needed) == ("-dual-" in made)


def test_a_fold_on_the_printed_schedule_may_take_longer():
    said = plan("--cores", "2", "--config", "run=ckplus48_paper")
    for rule, minutes in (("fold", 240), ("celeba", 1440), ("notebook_alone", 1440)):
        assert f"runtime={minutes}" in re.search(r"resources: (.*)", said[said.index(f"rule {rule}:") :])[1]
