"""All folds of a sweep pooled: what stands behind Tables 5 and 6 where one split says too little."""

import json

import numpy as np
import pandas as pd

from dualtl_lib import files, paper
from dualtl_lib.config import Run
from dualtl_lib.evaluate import metrics, statistics
from dualtl_lib.experiment import folds, pipeline, steps, sweep
from dualtl_lib.train.checkpoint import read_metadata


def collect_folds(run: Run, jobs: list[sweep.Job] | None = None) -> pd.DataFrame:
    """Collect the predictions of these jobs, by default all of the run's sweep.

    Returns:
        A row per job, model, covered region and test image: the columns of sweep.Job, model, region ("none" where
        nothing is covered), image, person, right. None of them where there are no jobs.

    Raises:
        FileNotFoundError: If a job has not been done.
        ValueError: If a job was done with other settings than the run now has, or than another job.
    """
    jobs = sweep.jobs(run) if jobs is None else jobs
    frames = [pd.DataFrame(columns=[*sweep.Job._fields, "model", "region", "image", "person", "right"])]
    for job, fold in read(run, jobs).items():
        predicted = {(model, "none"): classes for model, classes in fold["predicted"].items()}
        predicted |= {("fig14", region): p for region, p in fold["covered"].items() if region != "none"}
        for (model, region), classes in predicted.items():
            right = np.array(classes) == np.array(fold["labels"])
            rows = {"image": fold["test"], "person": fold["people"], "right": right}
            frames.append(pd.DataFrame({**job._asdict(), "model": model, "region": region, **rows}))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def read(run: Run, jobs: list[sweep.Job]) -> dict[sweep.Job, dict]:
    """Read the results of these jobs. Raises as `collect_folds`."""
    missing = [job for job in jobs if not sweep.path(run, job).exists()]
    if missing:
        raise FileNotFoundError(
            f"run {run.name!r} lacks {len(missing)} of {files.count(len(jobs), 'fold', 'folds')}, {missing[0]} first: "
            f"`python -m dualtl_lib fold {run.spec} {missing[0]}`, or all of them with {run.made_by()}"
        )
    contents = {job: json.loads(sweep.path(run, job).read_text()) for job in jobs}
    expected, seen = folds.deciding_settings(run), {}
    for job, fold in contents.items():
        found = folds.settings_of(fold, run)
        seen.setdefault(str([found, fold["recipes"], fold["precision"]]), sweep.path(run, job))
        if found != expected:
            raise ValueError(
                f"{sweep.path(run, job)}: expected a fold of {expected}, found {found}; remove it and do it again"
            )
    if len(seen) > 1:
        raise ValueError(
            f"{' and '.join(map(str, list(seen.values())[:2]))} have other settings, {' and '.join(seen)}; "
            "remove those that are out of date and do them again"
        )
    return contents


def table5(collected: pd.DataFrame) -> pd.DataFrame:
    """Pool Table 5 over these folds: a row per seed, protocol, class set, model and start.

    "dual vs. this start, p" is the exact McNemar test over the images that both starts predicted; "…, by subject, p" is
    Wilcoxon's signed-rank test over subjects, since images of one person are not independent. Both are empty where
    nothing is compared. low, high: subject-level bootstrap for the subject-independent split, else Wilson's interval.
    """
    rows = []
    groups = collected.loc[collected.region == "none"].groupby(["seed", "protocol", "classes", "model"], sort=False)
    for (seed, protocol, classes, model), group in groups:
        right = group.pivot(index=["image", "person"], columns="start", values="right")
        for start in right:
            known = right[start].dropna()
            accuracy = _accuracy(known, known.index.get_level_values("person"), protocol)
            row = {"seed": seed, "protocol": protocol, "classes": classes, "model": model}
            row |= {"start": "" if model == "svm" else start, "accuracy": accuracy.value, "n": accuracy.n}
            row |= {"low": accuracy.low, "high": accuracy.high}
            if "dual" in right and start != "dual" and len(both := right[["dual", start]].dropna()):
                who = both.index.get_level_values("person")
                pair = both["dual"], both[start]
                row["dual vs. this start, p"] = statistics.mcnemar(*pair).p
                row["dual vs. this start, by subject, p"] = statistics.wilcoxon_by_subject(*pair, who)
            rows.append(row)
    return pd.DataFrame(rows)


def _accuracy(right: pd.Series, people, protocol: str) -> metrics.Accuracy:
    """The accuracy on images of these people, with the protocol's interval."""
    if protocol == "subject":
        return statistics.subject_bootstrap(right, people)
    return statistics.wilson(int(right.sum()), len(right))


def table6(collected: pd.DataFrame) -> pd.DataFrame:
    """Pool Table 6 over these folds: the paper's value, and ours under each protocol, class set and seed, by region."""
    covered = collected.loc[(collected.model == "fig14") & (collected.start == "dual")]
    rows = []
    for region, quoted in paper.TABLE6.items():
        row = {"region": region, "paper": f"{100 * quoted:.1f} %"}
        groups = covered.loc[covered.region == region].groupby(["seed", "protocol", "classes"], sort=False)
        for (seed, protocol, classes), group in groups:
            name = f"{protocol}, {classes}" + (f", seed {seed}" if covered.seed.nunique() > 1 else "")
            row[name] = str(_accuracy(group.right, group.person, protocol))
        rows.append(row)
    return pd.DataFrame(rows)


def early_stops(run: Run, jobs: list[sweep.Job]) -> pd.DataFrame:
    """List where the trainings of these jobs, and the first transfer's, stopped the schedule early.

    Returns:
        A row per model and iteration: model, stopped_at, max_iter, trainings, and the largest remaining update bound of
        any weight in percent of its layer's root mean square.
    """
    first = json.loads((read_metadata(run.path / "training" / "celeba.safetensors") or {}).get("history", "{}"))
    stops = [("fig9", pipeline.early_stop(first))]
    stops += [stop for fold in read(run, jobs).values() for stop in fold["early_stop"].items()]
    rows = [{"model": model, **stop} for model, stop in stops if stop]
    grouped = pd.DataFrame(rows, columns=["model", "stopped_at", "remaining_update"]).groupby(["model", "stopped_at"])
    table = grouped["remaining_update"].agg(trainings="count", bound="max").reset_index()
    lengths = {figure: pipeline.recipe(run, step.recipe).max_iter for figure, step in steps.STEPS.items()}
    table.insert(2, "max_iter", table.model.map(lengths))
    return table.assign(**{"remaining update bound, %": (100 * table.pop("bound")).round(3)})


def results(collected: pd.DataFrame) -> list[dict]:
    """Return the rows of `table5` as lines of the closing table."""
    item = "Table 5, {model}, start {start}, {protocol}, {classes} classes, seed {seed}"
    return [
        {
            "item": item.format(**row | {"start": row["start"] or "-"}),
            "paper": "not given",
            "measured": "{:.1f} % (n={n}, {:.1f}–{:.1f})".format(
                *(100 * row[key] for key in ("accuracy", "low", "high")), n=row["n"]
            ),
            "file": "table5_folds.csv",
        }
        for row in table5(collected).to_dict("records")
    ]
