"""Which trainings a sweep is made of: every fold from every start, one job each.

`sweep` in config/<run>.yaml lists protocols, class sets, starts, seeds and folds. Jobs know nothing of each other, so
the Snakefile runs them in any order, beside each other, here or on a cluster; folds.py does one, and pooled.py all.
"""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from dualtl_lib.config import Run

PATTERN = re.compile(r"(random|subject)-(all|peaks)-(random|single|dual)-seed(\d+)-fold([1-9]\d*)")


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
    """Return the job that has this name.

    Raises:
        ValueError: If it is not the name of a job.
    """
    found = PATTERN.fullmatch(name)
    if not found:
        raise ValueError(
            f"job: expected a name such as subject-all-dual-seed0-fold1, of the form {PATTERN.pattern}; found {name!r}"
        )
    protocol, classes, start, seed, fold = found.groups()
    return Job(protocol, classes, start, int(seed), int(fold))


def jobs(run: Run) -> list[Job]:
    """Return all jobs of a run's sweep, none where its config has no sweep. The random split has one fold a seed."""
    if run.sweep is None:
        return []
    listed = itertools.product(run.sweep.protocol, run.sweep.classes, run.sweep.start, run.sweep.seed)
    folds = {"random": 1, "subject": run.sweep.folds}
    return [Job(*chosen, fold) for chosen in listed for fold in range(1, folds[chosen[0]] + 1)]


def path(run: Run, job: Job) -> Path:
    """Return where a job's result is kept."""
    return run.path / "folds" / f"{job}.json"
