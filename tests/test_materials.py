"""What a run is made of: the face that notebooks show, and who is on the images."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dualtl_lib import config
from dualtl_lib.data import splits
from dualtl_lib.data.ckplus import CKPlus
from dualtl_lib.experiment import folds, pipeline, sweep
from dualtl_lib.train import training


class Named:
    """Faces of two classes, one picture each."""

    def __init__(self, *classes):
        self.classes = classes

    def of_class(self, name):
        if name not in self.classes:
            raise ValueError(f"no class {name!r}")
        return np.array([self.classes.index(name)])

    def batch(self, indices):
        return list(indices)


def test_the_face_shown_is_of_the_expression_or_where_there_is_none_of_the_last_class():
    assert pipeline.example(Named("neutral", "happy"), "neutral") == [0]
    assert pipeline.example(Named("awake", "bored"), "bored") == [1]
    assert pipeline.example(Named("awake", "bored"), "surprise") == [1]
    with pytest.raises(ValueError, match="no class 'suprise'"):
        pipeline.example(Named("awake", "bored"), "suprise")


def own_faces(folder, classes, monkeypatch):
    """Twelve pictures of three people in each class, named anna-0.png, …"""
    monkeypatch.setenv("DUALTL_CACHE", str(folder / "cache"))
    for k, name in enumerate(classes):
        (folder / "own" / name).mkdir(parents=True)
        for i in range(12):
            picture = np.full((40, 40), 20 * k + i, np.uint8)
            Image.fromarray(picture).save(folder / "own" / name / f"{('anna', 'bob', 'eve')[i % 3]}-{i}.png")
    return folder / "own"


@pytest.mark.filterwarnings("ignore")
def test_people_are_kept_apart_only_where_they_are_known(tmp_path, monkeypatch):
    root = own_faces(tmp_path, ("awake", "bored"), monkeypatch)
    with pytest.raises(ValueError, match=r"none of 24 pictures \(awake/anna-0.png, .*person: '…'.*'\^\[a-z\]\+'"):
        pipeline.protocols(None, CKPlus(root))
    for pattern, count in (("^[a-z]+", 3), (".+", 12)):
        data = CKPlus(root, person=pattern)
        pipeline.check_people(data)
        assert len(set(data.people)) == count


@pytest.mark.filterwarnings("ignore")
def test_fewer_people_than_folds_are_kept_apart_in_fewer(tmp_path, monkeypatch):
    data = CKPlus(own_faces(tmp_path, ("awake", "bored"), monkeypatch), person="^[a-z]+")
    split = pipeline.protocols(config.open_run("embedded"), data)["people"]
    assert len(set(data.people[split.test])) == 1 and not splits.overlap(data, split)["people on both sides"]


@pytest.mark.filterwarnings("ignore")
def test_frames_and_contempt_are_a_runs_to_choose(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    for name in ("contempt", "happy"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for k in range(8):
            picture = Image.fromarray(np.full((40, 40), k, np.uint8))
            picture.save(tmp_path / "own" / name / f"S00{len(name)}_001_{k:08}.png")
    run = config.open_run("embedded", ckplus=str(tmp_path / "own"))
    assert len(pipeline.ckplus(run)) == 2 * 5
    run = config.open_run("embedded", ckplus=str(tmp_path / "own"), peak_frames=7, contempt=False)
    assert len(found := pipeline.ckplus(run)) == 7 and found.classes == ("happy",)


@pytest.mark.filterwarnings("ignore")
def test_one_class_cannot_be_told_apart(tmp_path, monkeypatch):
    data = CKPlus(own_faces(tmp_path, ("awake",), monkeypatch), person="^[a-z]+")
    with pytest.raises(ValueError, match="two classes or more to tell apart, found awake"):
        pipeline.protocols(None, data)


@pytest.mark.filterwarnings("ignore")
def test_faces_without_neutral_have_no_peaks(tmp_path, monkeypatch):
    data = CKPlus(own_faces(tmp_path, ("awake", "bored"), monkeypatch), person="^[a-z]+")
    monkeypatch.setattr(pipeline, "ckplus", lambda run: data)
    with pytest.raises(ValueError, match=r"peaks leaves neutral out.*write classes: \[all\] in sweep"):
        folds.parts(None, sweep.Job("people", "peaks", "single", 0, 1))


def run_of(budget="quick", **recipe):
    return config.open_run("embedded", budget=budget, recipe=recipe)


def test_a_runs_own_recipe_changes_what_the_budget_gives():
    changed = pipeline.recipe(run_of(ckplus=dict(base_lr="1e-3", momentum=0, batch=20)), "ckplus")
    quick = training.CKPLUS.quick()
    assert changed == dataclasses.replace(quick, base_lr=0.001, momentum=0.0, batch=20)
    assert type(changed.base_lr) is type(changed.momentum) is float and pipeline.recipe(run_of(), "ckplus") == quick
    assert pipeline.recipe(run_of(ckplus=dict(batch=20)), "heads") == training.CKPLUS.quick_heads()
    assert pipeline.recipe(run_of("paper", celeba=dict(max_iter=9)), "celeba").max_iter == 9
    assert pipeline.recipe(run_of(ckplus=dict(heads_first=None)), "ckplus").heads_first is None
    heads = pipeline.recipe(run_of(ckplus=dict(heads_first=dict(max_iter=7))), "ckplus").heads_first
    assert heads == dataclasses.replace(quick.heads_first, max_iter=7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(clebea={}), "by step, celeba, ckplus, heads, found .*clebea"),
        (dict(ckplus=3), "by step, celeba, ckplus, heads, found .*3"),
        (dict(ckplus=dict(lr=1)), r"base_lr \(float\), batch \(int\), .* found lr: 1"),
        (dict(ckplus=dict(base_lr="fast")), "found base_lr: 'fast'"),
        (dict(ckplus=dict(base_lr=None)), "found base_lr: None"),
        (dict(ckplus=dict(momentum=True)), "found momentum: True"),
        (dict(ckplus=dict(max_iter=1.5)), "found max_iter: 1.5"),
        (dict(ckplus=dict(heads_first=3)), "found heads_first: 3"),
        (dict(ckplus=dict(loss="squared")), "hinge, cross-entropy"),
        (dict(celeba=dict(batch="x")), "found batch: .x"),  # of another step than is asked for
    ],
)
def test_a_wrong_recipe_says_what_is_allowed(changes, said):
    with pytest.raises(ValueError, match=said):
        pipeline.recipe(run_of(**changes), "ckplus")
