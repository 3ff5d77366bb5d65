"""One fold of a sweep: train the models of Figs. 14 and 18, and keep their predictions of its test images."""

import json
import time
from pathlib import Path

from dualtl_lib import files
from dualtl_lib.config import Run, Settings
from dualtl_lib.data import splits
from dualtl_lib.data.dataset import Faces
from dualtl_lib.evaluate import baselines
from dualtl_lib.experiment import pipeline, steps, sweep
from dualtl_lib.models import caffenet, precision
from dualtl_lib.train.checkpoint import read_metadata

DECIDING = ("weights", "celeba", "ckplus", "person", "peak_frames", "contempt", "crop", "conv1", "recipe")


def run_fold(run: Run, job: sweep.Job) -> Path:
    """Train both models of a job and write what they, and a linear SVM, predict for its test images; once.

    Returns:
        The JSON file. Its "early_stop" has the iteration and the remaining update bound of a training that ended early.

    Raises:
        ValueError: If the job is not one of the run's sweep.
    """
    if job not in (listed := sweep.jobs(run)):
        raise ValueError(f"run {run.name!r} has no job {job}; its sweep has {', '.join(map(str, listed)) or 'none'}")
    result, began = sweep.path(run, job), time.monotonic()
    begun = read_metadata(_checkpoint(run, job, "fig14")) or {}  # "auto" is resolved once for a job
    run = run.model_copy(update={"precision": begun.get("precision", precision.resolve(run.precision))})
    if result.exists() and settings_of(json.loads(result.read_text()), run) == deciding_settings(run):
        return result
    data, split = parts(run, job)
    train, test = data.subset(split.train), data.subset(split.test)
    fig14, predicted14, stop14 = _trained(run, job, "fig14", start_of(run, job.start), train, test)
    _, predicted18, stop18 = _trained(run, job, "fig18", fig14.trunk, train, test)
    predicted, covered = {"fig14": predicted14, "fig18": predicted18}, {}
    if job.start == "dual":
        covered = pipeline.covered_predictions(run, fig14, test)
        predicted["svm"] = baselines.linear_svm(train, test, seed=job.seed)  # the same for every start
    content = {
        "job": job._asdict(),
        "settings": deciding_settings(run),
        "recipes": {step: str(pipeline.recipe(run, step)) for step in ("ckplus", "heads")},
        "precision": run.precision,
        "early_stop": {"fig14": stop14, "fig18": stop18},
        "seconds": round(time.monotonic() - began, 1),
        "test": split.test.tolist(),
        "people": test.people.tolist(),
        "labels": test.targets.tolist(),
        "predicted": {figure: classes.tolist() for figure, classes in predicted.items()},
        "covered": {region: classes.tolist() for region, classes in covered.items()},
    }
    with files.atomic_write(result) as part:
        part.write_text(json.dumps(content))
    for checkpoint in result.parent.glob(f"{job}-*.safetensors"):  # no longer needed
        checkpoint.unlink()
    return result


def parts(run: Run, job: sweep.Job) -> tuple[Faces, splits.Split]:
    """Return a job's faces and how they are split.

    Raises:
        ValueError: If the job leaves neutral out and these faces have none, or nobody knows who is on them.
    """
    data: Faces = pipeline.ckplus(run)
    if job.classes == "peaks":
        if "neutral" not in data.classes:
            raise ValueError(
                f"sweep.classes: peaks leaves neutral out, but {run.ckplus} has none; write classes: [all]"
            )
        data = data.without("neutral")
    if job.protocol == "random" or run.sweep is None:
        return data, splits.random_split(data, seed=job.seed)[0]
    pipeline.check_people(data)
    return data, splits.subject_independent(data, folds=run.sweep.folds, seed=job.seed)[job.fold - 1]


def start_of(run: Run, start: str) -> caffenet.Trunk:
    """Return the trunk that a start begins the second transfer from."""
    if start == "dual":
        return pipeline.model(run, "celeba").trunk
    trunk = pipeline.trunk(run)
    return trunk if start == "single" else pipeline.untrained(trunk)


def deciding_settings(run: Run) -> dict:
    """Return the settings of a run that decide a fold's faces, split, start and recipe."""
    return {"folds": run.sweep and run.sweep.folds, **_plain(run)}


def settings_of(fold: dict, run: Run) -> dict:
    """Return the settings that a fold was made with; those that are younger than it had their defaults."""
    defaults = {key: field.default for key, field in Settings.model_fields.items() if key in DECIDING}
    return {"folds": None} | defaults | {"recipe": {}} | fold["settings"]


def _plain(run: Run) -> dict:
    plain = {key: getattr(run, key) for key in DECIDING}
    return plain | {"recipe": run.recipe.model_dump(exclude_unset=True)}


def _checkpoint(run: Run, job: sweep.Job, figure: str) -> Path:
    """Where the training of a job's model is kept until the job is done."""
    return sweep.path(run, job).parent / f"{job}-{figure}.safetensors"


def _trained(run: Run, job: sweep.Job, figure: str, trunk: caffenet.Trunk, train: Faces, test: Faces):
    """A trained model, its predictions of the test images, and where its schedule stopped early."""
    model = steps.initial_model(figure, trunk, train.classes, seed=job.seed)
    recipe, checkpoint = pipeline.recipe(run, steps.STEPS[figure].recipe), _checkpoint(run, job, figure)
    cached = figure == "fig14"  # Fig. 18's trunk is this job's alone
    settings = pipeline.settings(run, cached=cached)
    history = pipeline.fit(model, train, recipe, checkpoint, seed=job.seed, config=settings)
    return model, pipeline.predict(run, model, test, cached=cached), pipeline.early_stop(history)


def done(run: Run) -> list[sweep.Job]:
    """Return the jobs of the run's sweep that have been done."""
    return [job for job in sweep.jobs(run) if sweep.path(run, job).exists()]
