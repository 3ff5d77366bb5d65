"""Jobs of a sweep: how they are named, what one writes, what is made of many."""

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from dualtl_lib import config, paper
from dualtl_lib.cli import main
from dualtl_lib.evaluate import evaluation
from dualtl_lib.experiment import folds, pipeline, sweep
from dualtl_lib.experiment.sweep import Job
from dualtl_lib.models import precision, store
from dualtl_lib.report import tables
from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.train import training

LISTS = dict(protocol=["random", "people"], classes=["all", "peaks"], start=["single", "dual"], seed=[0, 4], folds=3)


def run_with(tmp_path, monkeypatch, **changes):
    monkeypatch.setattr(config, "OUTPUT", tmp_path)
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    return dataclasses.replace(config.open_run("embedded"), **changes)


def test_a_sweep_is_every_combination_once(tmp_path, monkeypatch):
    run = run_with(tmp_path, monkeypatch, sweep=LISTS)
    jobs = sweep.jobs(run)
    assert len(jobs) == len(set(jobs)) == 2 * 2 * 2 * (1 + 3)
    assert [sweep.parse(str(job)) for job in jobs] == jobs
    assert sweep.jobs(run_with(tmp_path, monkeypatch)) == []


@pytest.mark.parametrize("name", ["people-all-dual", "people-all-dual-seed0-fold1-", "x-all-dual-seed0-fold1", ""])
def test_a_wrong_job_says_how_jobs_are_written(name):
    with pytest.raises(ValueError, match=r"written as people-all-dual-seed0-fold1.*found"):
        sweep.parse(name)


WRONG = [
    {"start": ["tripled"]},
    {"start": "dual"},
    {"fold": 3},
    {"folds": "3"},
    {"folds": 1},
    {"seed": 0},
    {"seed": ["a"]},
]


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_sweep_is_refused(tmp_path, monkeypatch, change):
    run = run_with(tmp_path, monkeypatch, sweep=LISTS | change)
    with pytest.raises(ValueError, match=r"sweep needs .*random.*single.*dual"):
        sweep.jobs(run)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A run of few faces, and trainings of two iterations."""
    synthetic_faces.write_ckplus(tmp_path / "faces", subjects=5, seed=1, workers=1)
    run = run_with(tmp_path, monkeypatch, ckplus=str(tmp_path / "faces"), sweep=LISTS | {"folds": 2})
    short = dataclasses.replace(pipeline.training.CKPLUS, batch=4, max_iter=2)
    monkeypatch.setattr(pipeline, "recipe", lambda run, step: short)
    model = pipeline.attribute_net(pipeline.trunk(run), run)
    store.save_model(model, run.checkpoint("celeba"))

    return run


def test_a_job_writes_what_was_said_of_its_test_images(small):
    job = Job("people", "peaks", "dual", 0, 2)
    found = json.loads(folds.run_fold(small, job).read_text())
    data, split = folds.parts(small, job)
    assert "neutral" not in data.classes and set(found["people"]).isdisjoint(data.people[split.train])
    assert found["test"] == split.test.tolist() and found["truth"] == data.targets[split.test].tolist()
    assert found["predicted"].keys() == {tables.FIG14, tables.FIG18, tables.SVM}
    assert found["covered"].keys() == paper.TABLE6.keys()
    assert found["covered"]["none"] == found["predicted"][tables.FIG14]
    svm = evaluation.linear_svm(data.subset(split.train), data.subset(split.test))
    assert found["predicted"][tables.SVM] == svm.tolist()
    assert [p.name for p in sweep.path(small, job).parent.iterdir()] == [f"{job}.json"]


def test_what_is_written_is_the_precision_that_was_trained_in(small, monkeypatch):
    """ "auto" may mean something else to the process that goes on than to the one that began."""
    job, small = Job("random", "all", "single", 0, 1), dataclasses.replace(small, precision="auto")
    data, split = folds.parts(small, job)
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: False)
    folds._trained(small, job, pipeline.trunk(small), data.subset(split.train), data.subset(split.test), 14)
    net, recipe = pipeline.expression_net(pipeline.trunk(small), data, small), pipeline.recipe(small, "ckplus")
    pipeline.train(small, "ckplus_fig14", net, data, None, recipe)
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: True)
    asked, fit = [], training.fit

    def noted(*arguments, **options):
        asked.append(options["precision"])
        return fit(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", noted)
        assert json.loads(folds.run_fold(small, job).read_text())["precision"] == "float32"
    assert asked == ["float32", "float32"]  # Fig. 18's too, which nobody had begun
    net = pipeline.expression_net(pipeline.trunk(small), data, small)
    pipeline.train(small, "ckplus_fig14", net, data, None, recipe)
    assert store.read_metadata(small.checkpoint("ckplus_fig14"))["precision"] == "float32"


def written(run, job, right, people, first=0, recipes="quick"):
    """A made-up result of a job, of images from `first` on."""
    truth = np.arange(len(right)) % 3
    said = np.where(right, truth, truth + 1).tolist()
    content = dict(test=list(range(first, first + len(right))), people=people, truth=truth.tolist())
    content |= dict(
        predicted={tables.FIG14: said, tables.FIG18: said}, covered={}, recipes=recipes, precision="float32"
    )
    tail = {"skipped_from": [1000 * job.fold], "skipped_movement": [1e-4 * job.fold]}
    content["skipped"] = {tables.FIG14: tail, tables.FIG18: {}}
    if job.start == "dual":
        content["covered"] = {region: said for region in paper.TABLE6}
    path = sweep.path(run, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_folds_are_pooled_and_compared_in_pairs(tmp_path, monkeypatch):
    lists = dict(protocol=["people"], classes=["all"], start=["single", "dual"], seed=[0], folds=2)
    run = run_with(tmp_path, monkeypatch, sweep=lists)
    people = ["a"] * 5 + ["b"] * 5
    for fold in (1, 2):
        written(run, Job("people", "all", "single", 0, fold), np.arange(10) < 2, [p + str(fold) for p in people])
        with pytest.raises(
            FileNotFoundError, match=rf"lacks {5 - 2 * fold} of 4 folds.*dualtl_lib fold embedded people-all"
        ):
            folds.collect_folds(run)
        written(run, Job("people", "all", "dual", 0, fold), np.arange(10) < 9, [p + str(fold) for p in people])
    found = folds.collect_folds(run)
    table = folds.table5(found).set_index(["model", "start"])
    dual, single = table.loc[tables.FIG14, "dual"], table.loc[tables.FIG14, "single"]
    assert (dual.accuracy, dual.n) == (0.9, 20) and (single.accuracy, single.n) == (0.2, 20)
    assert single["dual against it, p"] == pytest.approx(2 * 0.5**14)  # 14 differ, all one way
    assert single["by person, p"] == pytest.approx(0.125)  # four people, all one way: 2 / 2^4
    six = folds.table6(found)
    assert len(folds.results(found)) == len(table) and folds.results(None) == []
    assert six.region.tolist() == list(paper.TABLE6) and six["people kept apart"].str.startswith("90.0 % (n=20").all()


def test_what_is_done_is_pooled_and_compared_where_both_starts_were_asked(tmp_path, monkeypatch):
    lists = dict(protocol=["people"], classes=["all"], start=["random", "single", "dual"], seed=[0], folds=3)
    run = run_with(tmp_path, monkeypatch, sweep=lists)
    jobs = [Job("people", "all", start, 0, f) for f, start in ((3, "random"), (1, "single"), (1, "dual"), (2, "dual"))]
    for job in jobs:
        first = 10 * (job.fold - 1)
        right = np.arange(first, first + 10) < (12 if job.start == "dual" else 3)
        written(run, job, right, [f"{i} of {job.fold}" for i in range(10)], first)
    assert folds.done(run) == jobs
    table = folds.table5(folds.collect_folds(run, folds.done(run))).set_index(["model", "start"]).loc[tables.FIG18]
    assert table.n.to_dict() == {"dual": 20, "random": 10, "single": 10}
    assert table.accuracy.to_dict() == {"dual": 0.6, "random": 0.0, "single": 0.3}
    assert table.loc["single", "dual against it, p"] == pytest.approx(2 * 0.5**7)  # of fold 1 alone
    assert np.isnan(table.loc["random", "dual against it, p"])  # no image in common


def test_every_seed_is_pooled_by_itself(tmp_path, monkeypatch):
    lists = dict(protocol=["random"], classes=["all"], start=["dual"], seed=[0, 7], folds=2)
    run = run_with(tmp_path, monkeypatch, sweep=lists)
    for seed in (0, 7):
        written(run, Job("random", "all", "dual", seed, 1), np.arange(10) < 9 - seed, ["a"] * 10)
    found = folds.collect_folds(run)
    table = folds.table5(found)
    assert table[table.model == tables.FIG14][["seed", "accuracy", "n"]].values.tolist() == [[0, 0.9, 10], [7, 0.2, 10]]
    assert list(folds.table6(found).columns[2:]) == ["images at random, seed 0", "images at random, seed 7"]


def test_folds_of_different_settings_are_not_pooled(tmp_path, monkeypatch):
    lists = dict(protocol=["random"], classes=["all"], start=["single", "dual"], seed=[0], folds=2)
    run = run_with(tmp_path, monkeypatch, sweep=lists)
    for job, recipes in zip(sweep.jobs(run), ("quick", "paper"), strict=True):
        written(run, job, np.arange(10) < 9, ["a"] * 10, recipes=recipes)
    with pytest.raises(ValueError, match=r"single-seed0-fold1.json and .*other settings.*quick.*paper.*do them again"):
        folds.collect_folds(run)


def test_a_fold_of_another_split_is_not_pooled_but_done_again(small):
    job = Job("people", "peaks", "single", 0, 1)
    before = json.loads(folds.run_fold(small, job).read_text())
    three = dataclasses.replace(small, sweep=small.sweep | {"folds": 3})
    with pytest.raises(ValueError, match=r"fold1.json: expected a fold of .*'folds': 3.*found .*'folds': 2"):
        folds.collect_folds(three, [job])
    again = json.loads(folds.run_fold(three, job).read_text())
    assert len(again["test"]) < len(before["test"]) and len(folds.collect_folds(three, [job])) == 2 * len(again["test"])


def test_a_fold_older_than_a_setting_was_made_with_its_default(small):
    job = Job("people", "peaks", "single", 0, 1)
    path = folds.run_fold(small, job)
    content = json.loads(path.read_text())
    assert content["made of"].pop("peak_frames") == 5
    path.write_text(json.dumps(content))
    assert len(folds.collect_folds(small, [job])) == 2 * len(content["test"])
    with pytest.raises(ValueError, match="'peak_frames': 4"):
        folds.collect_folds(dataclasses.replace(small, peak_frames=4), [job])


def test_a_fold_of_another_recipe_is_not_pooled_but_done_again(small):
    job = Job("random", "peaks", "single", 0, 1)
    folds.run_fold(small, job)
    other = dataclasses.replace(small, recipe={"heads": {"batch": 5}})
    with pytest.raises(ValueError, match=r"fold1.json: expected a fold of .*'recipe'.*found"):
        folds.collect_folds(other, [job])
    folds.run_fold(other, job)
    assert len(folds.collect_folds(other, [job])) == 2 * len(json.loads(sweep.path(other, job).read_text())["test"])


def test_only_a_job_of_the_sweep_is_done(small):
    for name in ("people-peaks-dual-seed0-fold3", "people-peaks-dual-seed0-fold0", "random-all-random-seed0-fold1"):
        with pytest.raises(ValueError, match=rf"no job {name}; its sweep has random-all-single-seed0-fold1"):
            folds.run_fold(small, sweep.parse(name))


def test_a_state_of_another_training_does_not_stop_a_fold(small, capsys):
    job = Job("random", "peaks", "single", 0, 1)
    state = sweep.path(small, job).parent / f"{job}-fig14.safetensors"
    data = pipeline.ckplus(small)
    other = pipeline.expression_net(pipeline.trunk(small), data, small, seed=3)
    pipeline.fit(other, data, pipeline.recipe(small, "ckplus"), checkpoint=state, seed=3)
    assert folds.run_fold(small, job).exists() and "training anew" in capsys.readouterr().out


def test_the_command_line_prints_what_is_done(tmp_path, monkeypatch, capsys):
    lists = dict(protocol=["people"], classes=["all"], start=["dual"], seed=[0], folds=3)
    run = run_with(tmp_path, monkeypatch, sweep=lists)
    monkeypatch.setattr(config, "open_run", lambda *_, **__: run)
    assert main(["folds", run.name]) == 0
    assert capsys.readouterr() == ("", "0 of the 3 jobs of run embedded are done\n")
    written(run, Job("people", "all", "dual", 0, 2), np.arange(10) < 9, ["a"] * 10)
    assert main(["folds", run.name]) == 0
    printed, said = capsys.readouterr()
    table, covered, left_out = (pd.read_csv(io.StringIO(part)) for part in printed.split("\n\n"))
    assert left_out.to_numpy().tolist() == [[tables.FIG14, 2000, 200, 1, 0.02]]
    assert covered.region.tolist() == list(paper.TABLE6)
    assert said.startswith("1 of the 3 jobs") and table.accuracy.tolist() == [0.9, 0.9] and table.n.tolist() == [10, 10]
    assert main(["fold", run.name, "people-all-dual-seed0-fold2"]) == 0  # it has been done, and is not done again
    assert f"{tables.FIG14},0.9,10" in capsys.readouterr().out


def test_what_was_left_out_is_counted_with_the_largest_bound(tmp_path, monkeypatch):
    lists = dict(protocol=["people"], classes=["all"], start=["single", "dual"], seed=[0], folds=3)
    run = run_with(tmp_path, monkeypatch, sweep=lists)
    for job in sweep.jobs(run):
        written(run, job, np.arange(10) < 9, ["a"] * 10, first=10 * job.fold)
    path = sweep.path(run, Job("people", "all", "dual", 0, 3))
    path.write_text(path.read_text().replace("[0.0003", "[0.0007"))  # 1e-4 * 3
    found = folds.left_out(run, sweep.jobs(run))
    assert found["from"].tolist() == [1000, 2000, 3000] and found.trainings.tolist() == [2, 2, 2]
    assert found["movement, %"].tolist() == [0.01, 0.02, 0.07]
    history = {"skipped_from": [150], "skipped_movement": [0.0004]}
    (run.path / "training").mkdir()
    save_file({}, run.path / "training" / "celeba.safetensors", {"history": json.dumps(history)})
    found = folds.left_out(run, sweep.jobs(run))
    assert found.to_numpy().tolist()[-1] == [tables.FIG9, 150, 200, 1, 0.04] and len(found) == 4


def test_the_command_line_says_what_is_wrong(capsys):
    assert main(["fold", "embedded", "nonsense"]) == 1
    assert "a job is written as" in capsys.readouterr().err
    assert main(["fold", "embedded", "people-all-dual-seed0-fold1"]) == 1
    assert "its sweep has none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["summary", "embedded", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_pretraining_has_options_of_its_own(monkeypatch):
    given = []
    monkeypatch.setattr("dualtl_lib.synthetic.pretraining.main", given.append)
    assert main(["pretrain", "--resume", "--out", "x"]) == 0
    assert given == [["--resume", "--out", "x"]]
