"""One fold of a sweep, and all of them pooled: what stands behind Table 5 where one split says too little.

A fold trains the models of Figs. 14 and 18 and writes what they say of its test images, as numbers, into
runs/<run>/folds/.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from dualtl_lib import config, files, paper
from dualtl_lib.data import splits
from dualtl_lib.data.ckplus import CKPlus
from dualtl_lib.evaluate import evaluation
from dualtl_lib.experiment import pipeline, sweep
from dualtl_lib.models import caffenet, precision
from dualtl_lib.report import tables
from dualtl_lib.train.checkpoint import metadata


def parts(run: config.Run, job: sweep.Job) -> tuple[CKPlus, splits.Split]:
    """A job's faces and how they are split."""
    data = pipeline.ckplus(run)
    if job.classes == "peaks":
        if "neutral" not in data.classes:
            raise ValueError(
                "classes: peaks leaves neutral out, which these faces have not: write classes: [all] in sweep"
            )
        data = data.without("neutral")
    if job.protocol == "random":
        return data, splits.random_split(data, job.seed)[0]
    pipeline.check_people(data)
    return data, splits.subject_independent(data, folds=run.sweep["folds"], seed=job.seed)[job.fold - 1]


def start_of(run: config.Run, start: str) -> caffenet.Trunk:
    """The trunk that a start begins the second transfer from."""
    if start == "dual":
        return pipeline.model(run, "celeba").trunk
    trunk = pipeline.trunk(run)
    return trunk if start == "single" else pipeline.untrained(trunk)


def run_fold(run: config.Run, job: sweep.Job) -> Path:
    """Train both models of a job and write what they, and a linear SVM, say of its test images; once.

    Where the run leaves out a tail of the schedule, "skipped" says from where and with what bound. Raises ValueError
    for a job that is not of the run's sweep.
    """
    if job not in (listed := sweep.jobs(run)):
        raise ValueError(f"run {run.name!r} has no job {job}; its sweep has {', '.join(map(str, listed)) or 'none'}")
    result, began = sweep.path(run, job), time.monotonic()
    begun = metadata(_state(run, job, 14)) or {}  # "auto" is decided once for a job, if another process began it
    run = dataclasses.replace(run, precision=begun.get("precision", precision.resolve(run.precision)))
    if result.exists() and _was_made_of(json.loads(result.read_text()), run) == made_of(run):
        return result
    data, split = parts(run, job)
    train, test = data.subset(split.train), data.subset(split.test)
    fig14, predicted14, skipped14 = _trained(run, job, start_of(run, job.start), train, test, 14)
    _, predicted18, skipped18 = _trained(run, job, fig14.trunk, train, test, 18)
    predicted, covered = {tables.FIG14: predicted14, tables.FIG18: predicted18}, {}
    if job.start == "dual":
        covered = pipeline.covered_predictions(run, fig14, test)
        predicted[tables.SVM] = evaluation.linear_svm(train, test, seed=job.seed)  # the same whatever the start
    content = {
        "job": job._asdict(),
        "made of": made_of(run),
        "recipes": {step: str(pipeline.recipe(run, step)) for step in ("ckplus", "heads")},
        "precision": run.precision,
        "skipped": {tables.FIG14: skipped14, tables.FIG18: skipped18},
        "seconds": round(time.monotonic() - began, 1),
        "test": split.test.tolist(),
        "people": test.people.tolist(),
        "truth": test.targets.tolist(),
        "predicted": {name: found.tolist() for name, found in predicted.items()},
        "covered": {region: found.tolist() for region, found in covered.items()},
    }
    with files.atomic_write(result) as part:
        part.write_text(json.dumps(content))
    for state in result.parent.glob(f"{job}-*.safetensors"):  # no longer needed to go on from
        state.unlink()
    return result


def made_of(run: config.Run) -> dict:
    """What of a run's settings decides a fold's faces, split, start and recipe."""
    settings = ("weights", "celeba", "ckplus", "person", "peak_frames", "contempt", "crop", "recipe")
    return {"folds": run.sweep["folds"], **{key: getattr(run, key) for key in settings}}


def _was_made_of(found: dict, run: config.Run) -> dict:
    """What a fold says it was made of; settings that are younger than it had their defaults."""
    now = made_of(run)
    return {key: config.OPTIONAL.get(key) for key in now} | found["made of"] if "made of" in found else now


def _state(run: config.Run, job: sweep.Job, figure: int) -> Path:
    """Where the training of a job's model is kept until the job is done."""
    return sweep.path(run, job).parent / f"{job}-fig{figure}.safetensors"


def _trained(run: config.Run, job: sweep.Job, trunk, train, test, figure: int):
    """The model of a figure trained from this trunk, its predictions [N of test], and what tail was skipped."""
    model = pipeline.expression_net(trunk, train, run, conv5=figure == 14, seed=job.seed)
    recipe = pipeline.recipe(run, "ckplus" if figure == 14 else "heads")
    with pipeline.accelerated(model):
        history = pipeline.fit(
            model,
            train,
            recipe,
            seed=job.seed,
            checkpoint=_state(run, job, figure),
            cache=run.cache,
            cache_folder=run.path / "cache",
            skip_dead_tail=run.skip_dead_tail,
            precision=run.precision,
        )
    skipped = {key: history[key] for key in ("skipped_from", "skipped_movement") if key in history}
    return model, pipeline.predict(run, model, test), skipped


def done(run: config.Run) -> list[sweep.Job]:
    """The jobs of the run's sweep that have been done."""
    return [job for job in sweep.jobs(run) if sweep.path(run, job).exists()]


def collect_folds(run: config.Run, jobs: list[sweep.Job] | None = None) -> pd.DataFrame | None:
    """What these jobs of the run have said, by default all: one row per job, model, covered region and test image.

    Columns: those of sweep.Job, model, region ("none" where nothing is covered), image, person, right. None where
    there are no jobs; raises FileNotFoundError where one has not been done, and ValueError where one has been done of
    other faces, folds or weights than the run now has, or with another recipe or precision than the others.
    """
    jobs = sweep.jobs(run) if jobs is None else jobs
    if not jobs:
        return None
    frames = []
    for job, found in _read(run, jobs).items():
        truth = np.array(found["truth"])
        said = {(model, "none"): p for model, p in found["predicted"].items()}
        said |= {(tables.FIG14, region): p for region, p in found["covered"].items() if region != "none"}
        for (model, region), predicted in said.items():
            rows = {"image": found["test"], "person": found["people"], "right": np.array(predicted) == truth}
            frames.append(pd.DataFrame({**job._asdict(), "model": model, "region": region, **rows}))
    return pd.concat(frames, ignore_index=True)


def _read(run: config.Run, jobs: list[sweep.Job]) -> dict[sweep.Job, dict]:
    """What the jobs have written. Raises as `answers` does."""
    missing = [job for job in jobs if not sweep.path(run, job).exists()]
    if missing:
        raise FileNotFoundError(
            f"run {run.name!r} lacks {len(missing)} of {len(jobs)} folds, {missing[0]} first: "
            f"`python -m dualtl_lib fold {run.config}{run.options()} {missing[0]}`, or all of them with {run.made_by()}"
        )
    contents = {job: json.loads(sweep.path(run, job).read_text()) for job in jobs}
    settings, now = {}, made_of(run)
    for job, found in contents.items():
        settings.setdefault(str([_was_made_of(found, run), found["recipes"], found["precision"]]), job)
        if _was_made_of(found, run) != now:
            raise ValueError(
                f"{sweep.path(run, job)}: expected a fold of {now}, as the run now says, found {found['made of']}; "
                "remove it and do it again"
            )
    if len(settings) > 1:
        first, other = list(settings.values())[:2]
        raise ValueError(
            f"{sweep.path(run, first)} and {sweep.path(run, other)} are of other settings, {' and '.join(settings)}; "
            "remove those that are out of date and do them again"
        )
    return contents


def table5(found: pd.DataFrame) -> pd.DataFrame:
    """Table 5 over these folds: a row per seed, protocol, class set, model and start.

    dual against it: exact McNemar test over the images that both starts have been asked, all of them where every job
    is done. by person: evaluation.compare_people, since images of one person are not independent. Empty where nothing
    is compared. low, high: over people (evaluation.over_people) where they are kept apart, else Wilson's.
    """
    rows = []
    whole = found[found.region == "none"]
    for (seed, protocol, classes, model), group in whole.groupby(["seed", "protocol", "classes", "model"], sort=False):
        right = group.pivot(index=["image", "person"], columns="start", values="right")
        for start in right:
            said = right[start].dropna()
            accuracy = _share(said, said.index.get_level_values("person"), protocol)
            row = {
                "seed": seed,
                "protocol": tables.PROTOCOLS[protocol],
                "classes": "all" if classes == "all" else "peaks",
                "model": model,
                "start": "" if model == tables.SVM else start,
                "accuracy": accuracy.value,
                "n": accuracy.n,
                "low": accuracy.low,
                "high": accuracy.high,
            }
            if "dual" in right and start != "dual" and len(both := right[["dual", start]].dropna()):
                row["dual against it, p"] = evaluation.compare(both["dual"], both[start]).p
                people = both.index.get_level_values("person")
                row["by person, p"] = evaluation.compare_people(both["dual"], both[start], people)
            rows.append(row)
    return pd.DataFrame(rows)


def _share(right: pd.Series, people, protocol: str) -> evaluation.Accuracy:
    """The share of right answers to images of these people, with the protocol's interval."""
    return (
        evaluation.over_people(right, people)
        if protocol == "people"
        else evaluation.wilson(int(right.sum()), len(right))
    )


def table6(found: pd.DataFrame) -> pd.DataFrame:
    """Table 6 over all folds: a row per region; the paper's value, and under each protocol, class set and seed ours."""
    covered = found[(found.model == tables.FIG14) & (found.start == "dual")]
    rows = []
    for region, quoted in paper.TABLE6.items():
        row = {"region": region, "paper": tables.percent(quoted)}
        for (seed, protocol, classes), group in covered[covered.region == region].groupby(
            ["seed", "protocol", "classes"], sort=False
        ):
            name = tables.PROTOCOLS[protocol] + ("" if classes == "all" else ", without neutral")
            name += f", seed {seed}" if covered.seed.nunique() > 1 else ""
            row[name] = str(_share(group.right, group.person, protocol))
        rows.append(row)
    return pd.DataFrame(rows)


def left_out(run: config.Run, jobs: list[sweep.Job]) -> pd.DataFrame:
    """What these jobs' trainings, and the first transfer's where its state is kept, left out of the schedule as dead: a
    row per model and the iteration it begins at.

    of: how many the schedule has; trainings: how many left it out; movement, %: the most that any weight could still
    have moved, of its layer's root mean square (training.furthest).
    """
    steps = {tables.FIG9: "celeba", tables.FIG14: "ckplus", tables.FIG18: "heads"}
    of = {model: pipeline.recipe(run, step).max_iter for model, step in steps.items()}
    first = metadata(run.path / "training" / "celeba.safetensors") or {}
    tails = [(tables.FIG9, json.loads(first.get("history", "{}")))]
    tails += [pair for found in _read(run, jobs).values() for pair in found["skipped"].items()]
    rows = [
        {"model": model, "from": tail["skipped_from"][0], "of": of[model], "bound": tail["skipped_movement"][0]}
        for model, tail in tails
        if "skipped_from" in tail
    ]
    grouped = pd.DataFrame(rows, columns=["model", "from", "of", "bound"]).groupby(["model", "from", "of"])["bound"]
    table = grouped.agg(trainings="count", bound="max").reset_index()
    return table.assign(**{"movement, %": (100 * table.pop("bound")).round(3)})


def results(found: pd.DataFrame | None) -> list[dict]:
    """The rows of `table5` as lines of the closing table; none where the run has no sweep."""
    if found is None:
        return []
    return [
        {
            "item": f"Table 5, {r.model}, start {r.start or '-'}, {r.protocol}, {r.classes} classes, seed {r.seed}",
            "paper": "not given",
            "measured": f"{100 * r.accuracy:.1f} % (n={r.n}, {100 * r.low:.1f}–{100 * r.high:.1f})",
            "file": "table5_folds.csv",
        }
        for r in table5(found).itertuples()
    ]
