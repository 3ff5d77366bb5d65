"""The Snakefile's plan, by dry runs: each notebook once, each fold of a sweep, the line that sends it to SLURM."""

import os
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
        assert f"-p run embedded,seed=3 notebooks/{notebook}.ipynb" in said
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [("precision=bfloat16", "run=embedded,precision="), ("run=a b", "no run 'a b'"), ("seed=-1", "seed: .*found -1")],
)
def test_what_is_no_run_is_refused_before_anything_runs(given, expected):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--config", given]
    done = subprocess.run(command, cwd=files.PROJECT, capture_output=True, text=True)
    assert done.returncode and re.search(expected, done.stdout + done.stderr)


def test_settings_with_blanks_reach_every_command_as_one_word():
    said = plan("--cores", "2", "--config", "run=embedded_folds,title=my faces", "--printshellcmds")
    for command in ("papermill .* -p run", "train", "fold"):
        assert re.search(f"{command} 'embedded_folds,title=my faces' ", said), command
    assert not re.search(r"output: \S+ ", said)


@pytest.mark.parametrize(
    ("given", "exported", "expected"),
    [("DATA=/a b", None, "/a b"), ("DATA=/new", "/old", "/new"), ("DATA=", "/old", "/old"), ("DATA=~/x", None, "~/x")],
)
def test_make_takes_data_from_its_command_line_first(given, exported, expected):
    environment = {k: v for k, v in os.environ.items() if k != "DUALTL_DATA"}
    environment |= {"DUALTL_DATA": exported} if exported else {}
    command = ["make", "--no-print-directory", "--eval", 'show:; @echo "$$DUALTL_DATA"', "show", given]
    done = subprocess.run(command, cwd=files.PROJECT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr  # files.data_root expands it


def test_a_fold_is_trained_again_only_for_what_decides_its_result():
    said = plan("--cores", "2", "--config", "run=embedded_folds")
    inputs = re.findall(r"rule (celeba|fold):\n    input: (.*)\n    output: (.*)", said)
    assert len(inputs) == 16
    for _, needed, made in inputs:
        needed = set(needed.split(", "))
        library = {name.split("/")[1] for name in needed if name.startswith("dualtl_lib/")}
        modules = {"paper.py", "config.py", "files.py"}
        assert library == {"models", "data", "synthetic", "train", "evaluate", "experiment"} | modules
        assert {"config/embedded_folds.yaml", "dualtl_lib/models/embedded.safetensors"} <= needed
        assert not any(name.endswith(".ipynb") for name in needed)
        assert ("runs/embedded_folds/celeba.safetensors" in needed) == ("-dual-" in made)


def test_a_fold_on_the_printed_schedule_may_take_longer():
    said = plan("--cores", "2", "--config", "run=ckplus48_paper")
    for rule, minutes in (("fold", 240), ("celeba", 1440), ("notebook_alone", 1440)):
        assert f"runtime={minutes}" in re.search(r"resources: (.*)", said[said.index(f"rule {rule}:") :])[1]
