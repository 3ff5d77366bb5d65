"""Jobs of a sweep: how they are named, what one writes, how they are pooled."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from dualtl_lib import config, files, paper
from dualtl_lib.cli import main
from dualtl_lib.evaluate import baselines
from dualtl_lib.experiment import folds, pipeline, pooled, sweep
from dualtl_lib.experiment.sweep import Job
from dualtl_lib.models import precision, store
from dualtl_lib.synthetic import faces as synthetic_faces

LISTS = dict(protocol=["random", "subject"], classes=["all", "peaks"], start=["single", "dual"], seed=[0, 4], folds=3)
SHORT = {"max_iter": 2, "batch": 4, "stepsize": 2}


@pytest.fixture
def run_with(output, monkeypatch):
    """What opens the default run with a sweep and other settings, in an empty folder."""
    monkeypatch.setenv("DUALTL_CACHE", str(output / "cache"))
    return lambda sweep=LISTS, **changes: config.open_run("embedded", sweep=sweep, **changes)


def one_of_each(**changes):
    return dict(protocol=["subject"], classes=["all"], start=["single", "dual"], seed=[0], folds=3) | changes


def test_a_sweep_is_every_combination_once(run_with):
    jobs = sweep.jobs(run_with())
    assert len(jobs) == len(set(jobs)) == 2 * 2 * 2 * (1 + 3)
    assert [sweep.parse(str(job)) for job in jobs] == jobs
    assert sweep.jobs(config.open_run("embedded")) == []


@pytest.mark.parametrize(
    "name",
    ["subject-all-dual", "subject-all-dual-seed0-fold1-", "x-all-dual-seed0-fold1", "subject-all-dual-seed0-fold0"],
)
def test_a_wrong_job_says_how_jobs_are_written(name):
    with pytest.raises(ValueError, match=r"job: .*subject-all-dual-seed0-fold1.*found"):
        sweep.parse(name)


WRONG = [
    ({"start": ["tripled"]}, "start.0: .*'tripled'"),
    ({"start": "dual"}, "start: .*'dual'"),
    ({"fold": 3}, "unknown key fold; allowed: protocol"),
    ({"folds": "3"}, "folds: .*from 2 on, found '3'"),
    ({"folds": 1}, "folds: .*from 2 on, found 1"),
    ({"seed": 0}, "seed: .*0"),
    ({"seed": ["a"]}, "seed.0: .*'a'"),
]


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_a_wrong_sweep_is_refused(run_with, change, expected):
    with pytest.raises(ValueError, match=f"embedded.yaml: sweep.*{expected}"):
        run_with(LISTS | change)


@pytest.fixture
def small(run_with, output):
    """A run of few faces, and trainings of two iterations."""
    synthetic_faces.write_ckplus(output / "faces", subjects=5, seed=1, workers=1)
    recipe = {"ckplus": SHORT | {"head_warmup": None}, "heads": SHORT}
    run = run_with(LISTS | {"folds": 2}, ckplus=str(output / "faces"), recipe=recipe)
    store.save_model(pipeline.initial_model(run, "celeba", pipeline.trunk(run), ("a",)), run.checkpoint("celeba"))
    return run


def again(run, **changes):
    """The same faces and folder with other settings, as after an edit of the config."""
    other = config.open_run(run.spec, **changes)
    return other.model_copy(update={"spec": run.spec})


def test_a_job_writes_its_predictions_of_the_test_images(small):
    job = Job("subject", "peaks", "dual", 0, 2)
    fold = json.loads(folds.run_fold(small, job).read_text())
    data, split = folds.parts(small, job)
    assert "neutral" not in data.classes and set(fold["people"]).isdisjoint(data.people[split.train])
    assert fold["test"] == split.test.tolist() and fold["labels"] == data.targets[split.test].tolist()
    assert set(fold["predicted"]) == {"fig14", "fig18", "svm"}
    assert fold["covered"].keys() == paper.TABLE6.keys()
    assert fold["covered"]["none"] == fold["predicted"]["fig14"]
    svm = baselines.linear_svm(data.subset(split.train), data.subset(split.test))
    assert fold["predicted"]["svm"] == svm.tolist()
    assert [p.name for p in sweep.path(small, job).parent.iterdir()] == [f"{job}.json"]


def test_a_job_goes_on_in_the_precision_that_it_was_begun_in(small, monkeypatch):
    """ "auto" may mean something else to the process that goes on than to the one that began."""
    job, small = Job("random", "all", "single", 0, 1), again(small, precision="auto")
    data, split = folds.parts(small, job)
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: False)
    train, test = data.subset(split.train), data.subset(split.test)
    folds._trained(small, job, "fig14", pipeline.trunk(small), train, test)
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: True)
    asked, fit = [], pipeline.fit

    def noted(*arguments, **options):
        asked.append(options["config"].precision)
        return fit(*arguments, **options)

    monkeypatch.setattr(pipeline, "fit", noted)
    assert json.loads(folds.run_fold(small, job).read_text())["precision"] == "float32"
    assert asked == ["float32", "float32"]  # Fig. 18's too, which nobody had begun


def written(run, job, right, people, first=0, recipes="quick"):
    """Write a made-up result of a job, of images from `first` on."""
    labels = np.arange(len(right)) % 3
    predicted = np.where(right, labels, labels + 1).tolist()
    stop = {"stopped_at": 1000 * job.fold, "remaining_update": 1e-4 * job.fold}
    content = {
        "settings": folds.deciding_settings(run),
        "recipes": recipes,
        "precision": "float32",
        "early_stop": {"fig14": stop, "fig18": {}},
        "test": list(range(first, first + len(right))),
        "people": people,
        "labels": labels.tolist(),
        "predicted": {"fig14": predicted, "fig18": predicted},
        "covered": {region: predicted for region in paper.TABLE6} if job.start == "dual" else {},
    }
    with files.atomic_write(sweep.path(run, job)) as part:
        part.write_text(json.dumps(content))


def test_folds_are_pooled_and_compared_in_pairs(run_with):
    run = run_with(one_of_each(folds=2))
    people = ["a"] * 5 + ["b"] * 5
    for fold in (1, 2):
        written(run, Job("subject", "all", "single", 0, fold), np.arange(10) < 2, [p + str(fold) for p in people])
        with pytest.raises(
            FileNotFoundError, match=rf"lacks {5 - 2 * fold} of 4 folds.*dualtl_lib fold embedded,sweep=.* subject-all"
        ):
            pooled.collect_folds(run)
        written(run, Job("subject", "all", "dual", 0, fold), np.arange(10) < 9, [p + str(fold) for p in people])
    found = pooled.collect_folds(run)
    table = pooled.table5(found).set_index(["model", "start"])
    dual, single = table.loc["fig14", "dual"], table.loc["fig14", "single"]
    assert (dual.accuracy, dual.n) == (0.9, 20) and (single.accuracy, single.n) == (0.2, 20)
    assert single["dual vs. this start, p"] == pytest.approx(2 * 0.5**14)  # 14 differ, all one way
    assert single["dual vs. this start, by subject, p"] == pytest.approx(0.125)  # four people, all one way: 2 / 2^4
    six = pooled.table6(found)
    assert len(pooled.results(found)) == len(table)
    assert six.region.tolist() == list(paper.TABLE6) and six["subject, all"].str.startswith("90.0 % (n=20").all()


def test_what_is_done_is_pooled_and_compared_where_both_starts_were_asked(run_with):
    run = run_with(one_of_each(start=["random", "single", "dual"]))
    jobs = [Job("subject", "all", start, 0, f) for f, start in ((3, "random"), (1, "single"), (1, "dual"), (2, "dual"))]
    for job in jobs:
        first = 10 * (job.fold - 1)
        right = np.arange(first, first + 10) < (12 if job.start == "dual" else 3)
        written(run, job, right, [f"{i} of {job.fold}" for i in range(10)], first)
    assert folds.done(run) == jobs
    table = pooled.table5(pooled.collect_folds(run, folds.done(run))).set_index(["model", "start"]).loc["fig18"]
    assert table.n.to_dict() == {"dual": 20, "random": 10, "single": 10}
    assert table.accuracy.to_dict() == {"dual": 0.6, "random": 0.0, "single": 0.3}
    assert table.loc["single", "dual vs. this start, p"] == pytest.approx(2 * 0.5**7)  # of fold 1 alone
    assert np.isnan(table.loc["random", "dual vs. this start, p"])  # no image in common


def test_every_seed_is_pooled_by_itself(run_with):
    run = run_with(one_of_each(protocol=["random"], start=["dual"], seed=[0, 7]))
    for seed in (0, 7):
        written(run, Job("random", "all", "dual", seed, 1), np.arange(10) < 9 - seed, ["a"] * 10)
    found = pooled.collect_folds(run)
    table = pooled.table5(found)
    assert table[table.model == "fig14"][["seed", "accuracy", "n"]].values.tolist() == [[0, 0.9, 10], [7, 0.2, 10]]
    assert list(pooled.table6(found).columns[2:]) == ["random, all, seed 0", "random, all, seed 7"]


def test_folds_of_different_settings_are_not_pooled(run_with):
    run = run_with(one_of_each(protocol=["random"]))
    for job, recipes in zip(sweep.jobs(run), ("quick", "paper"), strict=True):
        written(run, job, np.arange(10) < 9, ["a"] * 10, recipes=recipes)
    with pytest.raises(ValueError, match=r"single-seed0-fold1.json and .*other settings, .*quick.*paper"):
        pooled.collect_folds(run)


def test_a_fold_of_another_split_is_not_pooled_but_done_again(small):
    job = Job("subject", "peaks", "single", 0, 1)
    before = json.loads(folds.run_fold(small, job).read_text())
    three = again(small, sweep={"folds": 3})
    with pytest.raises(ValueError, match=r"fold1.json: expected a fold of .*'folds': 3.*found .*'folds': 2"):
        pooled.collect_folds(three, [job])
    after = json.loads(folds.run_fold(three, job).read_text())
    assert len(after["test"]) < len(before["test"]) and len(pooled.collect_folds(three, [job])) == 2 * len(
        after["test"]
    )


def test_a_fold_older_than_a_setting_was_made_with_its_default(small):
    job = Job("subject", "peaks", "single", 0, 1)
    path = folds.run_fold(small, job)
    content = json.loads(path.read_text())
    assert content["settings"].pop("peak_frames") == 5
    path.write_text(json.dumps(content))
    assert len(pooled.collect_folds(small, [job])) == 2 * len(content["test"])
    with pytest.raises(ValueError, match="'peak_frames': 4"):
        pooled.collect_folds(again(small, peak_frames=4), [job])


def test_a_fold_of_another_recipe_is_not_pooled_but_done_again(small):
    job = Job("random", "peaks", "single", 0, 1)
    folds.run_fold(small, job)
    other = again(small, recipe={"heads": {"batch": 5}})
    with pytest.raises(ValueError, match=r"fold1.json: expected a fold of .*'recipe'.*found"):
        pooled.collect_folds(other, [job])
    folds.run_fold(other, job)
    assert len(pooled.collect_folds(other, [job])) == 2 * len(json.loads(sweep.path(other, job).read_text())["test"])


def test_only_a_job_of_the_sweep_is_done(small):
    for name in ("subject-peaks-dual-seed0-fold3", "random-all-random-seed0-fold1"):
        with pytest.raises(ValueError, match=rf"no job {name}; its sweep has random-all-single-seed0-fold1"):
            folds.run_fold(small, sweep.parse(name))


def test_a_state_of_another_training_does_not_stop_a_fold(small, capsys):
    job = Job("random", "peaks", "single", 0, 1)
    data = pipeline.ckplus(small)
    other = pipeline.initial_model(small, "ckplus_fig14", pipeline.trunk(small), data.classes)
    pipeline.fit(other, data, pipeline.recipe(small, "ckplus"), folds._checkpoint(small, job, "fig14"), seed=3)
    assert folds.run_fold(small, job).exists() and "training anew" in capsys.readouterr().out


def test_the_command_line_prints_what_is_done(run_with, capsys):
    run = run_with(one_of_each(start=["dual"]))
    assert main(["folds", run.spec]) == 0
    assert capsys.readouterr() == ("", f"0 of 3 jobs of run {run.name} are done\n")
    written(run, Job("subject", "all", "dual", 0, 2), np.arange(10) < 9, ["a"] * 10)
    assert main(["folds", run.spec]) == 0
    printed, said = capsys.readouterr()
    table, covered, stops = (pd.read_csv(io.StringIO(part)) for part in printed.split("\n\n"))
    assert stops.to_numpy().tolist() == [["fig14", 2000, 200, 1, 0.02]]
    assert covered.region.tolist() == list(paper.TABLE6)
    assert said.startswith("1 of 3 jobs") and table.accuracy.tolist() == [0.9, 0.9] and table.n.tolist() == [10, 10]
    assert main(["fold", run.spec, "subject-all-dual-seed0-fold2"]) == 0  # it has been done, and is not done again
    assert "fig14,0.9,10" in capsys.readouterr().out


def test_early_stops_are_counted_with_the_largest_bound(run_with):
    run = run_with(one_of_each())
    for job in sweep.jobs(run):
        written(run, job, np.arange(10) < 9, ["a"] * 10, first=10 * job.fold)
    path = sweep.path(run, Job("subject", "all", "dual", 0, 3))
    path.write_text(path.read_text().replace("0.0003", "0.0007"))  # 1e-4 * 3
    stops = pooled.early_stops(run, sweep.jobs(run))
    assert stops["stopped_at"].tolist() == [1000, 2000, 3000] and stops.trainings.tolist() == [2, 2, 2]
    assert stops["remaining update bound, %"].tolist() == [0.01, 0.02, 0.07]
    first = run.path / "training" / "celeba.safetensors"
    first.parent.mkdir()
    save_file({}, first, {"history": json.dumps(STOPPED)})
    stops = pooled.early_stops(run, sweep.jobs(run))
    assert stops.to_numpy().tolist()[-1] == ["fig9", 150, 200, 1, 0.04] and len(stops) == 4


STOPPED = {"stopped_at": 150, "remaining_update": 0.0004}


def test_the_command_line_says_what_is_wrong(capsys):
    assert main(["fold", "embedded", "nonsense"]) == 1
    assert "error: job: " in capsys.readouterr().err
    assert main(["fold", "embedded", "subject-all-dual-seed0-fold1"]) == 1
    assert "its sweep has none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["summary", "embedded", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_distillation_has_options_of_its_own(monkeypatch):
    given = []
    monkeypatch.setattr("dualtl_lib.synthetic.distill.main", given.append)
    assert main(["distill", "--seed=1", "--out", "x"]) == 0
    assert given == [["--seed=1", "--out", "x"]]
