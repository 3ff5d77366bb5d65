"""Which trainings a run's sweep is made of: every fold from every start, one job each.

`sweep` in config/<run>.yaml lists protocols, class sets, starts, seeds and folds. Jobs know nothing of each other, so
the Snakefile runs them in any order, beside each other, here or on a cluster; folds.py does one, and pools them.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

from dualtl_lib import config

CHOICES = {
    "protocol": ("random", "people"),  # images at random, as the paper; people kept apart
    "classes": ("all", "peaks"),  # peaks: without neutral
    "start": ("random", "single", "dual"),  # random weights; the run's trunk; the trunk after the attributes
}


class Job(NamedTuple):
    """One training of each model: a protocol and class set, a start, the seed of split and training, a fold from 1."""

    protocol: str
    classes: str
    start: str
    seed: int
    fold: int

    def __str__(self) -> str:
        return f"{self.protocol}-{self.classes}-{self.start}-seed{self.seed}-fold{self.fold}"


def parse(name: str) -> Job:
    """The job that is written so. Raises ValueError saying how jobs are written."""
    parts = name.replace("seed", "").replace("fold", "").split("-")
    try:
        job = Job(*parts[:3], *map(int, parts[3:]))
    except (TypeError, ValueError):
        job = None
    if job is None or str(job) != name or any(getattr(job, key) not in allowed for key, allowed in CHOICES.items()):
        raise ValueError(f"a job is written as people-all-dual-seed0-fold1, with {CHOICES}; found {name!r}")
    return job


def jobs(run: config.Run) -> list[Job]:
    """All jobs of a run's sweep, none where its config has no sweep. Images at random make one split a seed.

    Raises ValueError for a sweep that lacks a list or has an unknown choice.
    """
    if not run.sweep:
        return []
    expected = {**CHOICES, "seed": "a list of whole numbers", "folds": "a whole number from 2 on"}
    lists = [run.sweep.get(key) for key in (*CHOICES, "seed")]
    right = run.sweep.keys() == expected.keys() and all(isinstance(found, list) for found in lists)
    right = right and type(run.sweep["folds"]) is int and run.sweep["folds"] >= 2
    right = right and all(type(seed) is int for seed in run.sweep["seed"])
    if not right or any(v not in known for k, known in CHOICES.items() for v in run.sweep[k]):
        raise ValueError(f"config of run {run.name!r}: sweep needs {expected}; found {run.sweep}")
    listed = itertools.product(*(run.sweep[key] for key in ("protocol", "classes", "start", "seed")))
    folds = {"random": 1, "people": run.sweep["folds"]}
    return [Job(*chosen, fold) for chosen in listed for fold in range(1, folds[chosen[0]] + 1)]


def path(run: config.Run, job: Job) -> Path:
    """Where a job's result is kept."""
    return run.path / "folds" / f"{job}.json"
