"""What bfloat16 changes: the same trainings in float32 and in bfloat16, tested on the same images.

python benchmarks/precision.py [--run embedded_folds] [--start single]

Every fold of people of a run's sweep from one start, in both precisions; accuracies with their 95 % intervals, and the
exact McNemar test that the two are equally good. Results in the precision of the run's config are its own, in
runs/<run>/, those in the other are kept in runs/<run>,precision=…/; both are gone on from.
"""

import argparse
import json
import os

import numpy as np

from dualtl_lib import config
from dualtl_lib.evaluate import evaluation
from dualtl_lib.experiment import folds, sweep


def answers(run: config.Run, jobs: list[sweep.Job]) -> tuple[dict[str, np.ndarray], float]:
    """Whether each test image was answered right, by model, over all jobs; and the seconds they took."""
    found = [json.loads(folds.run_fold(run, job).read_text()) for job in jobs]
    right = {
        model: np.concatenate([np.equal(fold["predicted"][model], fold["truth"]) for fold in found])
        for model in found[0]["predicted"]
    }
    return right, sum(fold["seconds"] for fold in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="embedded_folds", help="one with a sweep")
    parser.add_argument("--start", default="single", help="random, single or dual (which needs notebook 03's model)")
    args = parser.parse_args()
    found, seconds = {}, {}
    for precision in ("float32", "bfloat16"):
        run = config.open_run(args.run, precision=precision)
        jobs = [job for job in sweep.jobs(run) if job.start == args.start and job.protocol == "people"]
        found[precision], seconds[precision] = answers(run, jobs)
    print(f"{run.title}, start {args.start}, {len(jobs)} folds of people, {os.cpu_count()} cores")
    print(", ".join(f"{name}: {taken:.0f} s" for name, taken in seconds.items()) + "\n")
    print("| model | float32 | bfloat16 | McNemar |\n|---|---|---|---|")
    for model, exact in found["float32"].items():
        fast = found["bfloat16"][model]
        both = [evaluation.wilson(int(right.sum()), len(right)) for right in (exact, fast)]
        print(f"| {model} | {both[0]} | {both[1]} | {evaluation.compare(exact, fast)} |")


if __name__ == "__main__":
    main()
