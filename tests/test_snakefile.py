"""The Snakefile's plan, by dry runs: each notebook once, each fold of a sweep, the line that sends it to SLURM."""

import re
import subprocess
import sys

import pytest

from dualtl_lib import runs, sweep

NOTEBOOKS = sorted(p.stem for p in (runs.HOME / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def plan(*arguments: str) -> str:
    """What snakemake says it would do if nothing had been done yet."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", *arguments]
    done = subprocess.run(command, cwd=runs.HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def line_of_readme(start: str) -> list[str]:
    """The words of a command that the README shows, its continued lines joined."""
    text = (runs.HOME / "README.md").read_text().replace("\\\n", " ")
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
    jobs = sweep.jobs(runs.open_run("ckplus48"))
    assert len(jobs) == 66 and all(f"output: runs/ckplus48/folds/{job}.json" in said for job in jobs)
    fold = said[said.index("rule fold:") :]
    resources = re.search(r"resources: (.*)", fold)[1]
    assert "mem_mb=4000" in resources and "runtime=60" in resources and "slurm_partition=cpu" in resources


def test_a_fold_on_the_printed_schedule_may_take_longer():
    said = plan("--cores", "2", "--config", "run=ckplus48_paper")
    assert "runtime=240" in re.search(r"resources: (.*)", said[said.index("rule fold:") :])[1]
