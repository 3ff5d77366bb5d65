"""What a run is made of: the face that notebooks show, who is on the images, its recipes, its results."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dualtl_lib import config
from dualtl_lib.data import splits
from dualtl_lib.data.folders import FaceFolder
from dualtl_lib.experiment import folds, notebooks, pipeline, steps, sweep
from dualtl_lib.models import precision, store
from dualtl_lib.report import summary


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
    with pytest.raises(ValueError, match="suprise"):
        pipeline.example(Named("awake", "bored"), "suprise")


@pytest.fixture
def own_faces(tmp_path, monkeypatch):
    """What writes twelve pictures of three people in each class, named anna-0.png, …"""
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))

    def write(*classes):
        for k, name in enumerate(classes):
            (tmp_path / "own" / name).mkdir(parents=True)
            for i in range(12):
                picture = np.random.default_rng([k, i]).integers(256, size=(40, 40), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / "own" / name / f"{('anna', 'bob', 'eve')[i % 3]}-{i}.png")
        return tmp_path / "own"

    return write


@pytest.mark.filterwarnings("ignore")
def test_a_subject_independent_split_needs_names_of_people(own_faces):
    root = own_faces("awake", "bored")
    with pytest.raises(ValueError, match=r"24 pictures \(awake/anna-0.png, .*person: '…'.*'\^\[a-z\]\+'"):
        pipeline.protocols(FaceFolder(root), seed=0)
    pipeline.check_people(FaceFolder(root, person="^[a-z]+"))


@pytest.mark.filterwarnings("ignore")
def test_fewer_people_than_folds_make_fewer_folds(own_faces):
    data = FaceFolder(own_faces("awake", "bored"), person="^[a-z]+")
    split = pipeline.protocols(data, seed=0)["subject"]
    assert len(set(data.people[split.test])) == 1 and not splits.overlap(data, split)["people on both sides"]


@pytest.mark.filterwarnings("ignore")
def test_one_class_cannot_be_learned(own_faces):
    with pytest.raises(ValueError, match="two classes or more, found awake"):
        pipeline.protocols(FaceFolder(own_faces("awake"), person="^[a-z]+"), seed=0)


@pytest.mark.filterwarnings("ignore")
def test_faces_without_neutral_have_no_peaks(own_faces):
    run = config.open_run("embedded", ckplus=str(own_faces("awake", "bored")), person="^[a-z]+")
    with pytest.raises(ValueError, match=r"sweep.classes: peaks.*write classes: \[all\]"):
        folds.parts(run, sweep.Job("subject", "peaks", "single", 0, 1))


@pytest.mark.filterwarnings("ignore")
def test_frames_and_contempt_are_a_runs_to_choose(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    for name in ("contempt", "happy"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for k in range(8):
            picture = np.random.default_rng(len(name) + k).integers(256, size=(40, 40), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "own" / name / f"S00{len(name)}_001_{k:08}.png")
    run = config.open_run("embedded", ckplus=str(tmp_path / "own"))
    assert len(pipeline.ckplus(run)) == 2 * 5
    run = config.open_run("embedded", ckplus=str(tmp_path / "own"), peak_frames=7, contempt=False)
    faces = pipeline.ckplus(run)
    assert len(faces) == 7 and faces.classes == ("happy",)


def run_of(budget="quick", **recipe):
    return config.open_run("embedded", budget=budget, recipe=recipe)


def test_a_runs_own_recipe_changes_what_the_budget_gives():
    quick = pipeline.recipe(run_of(), "ckplus")
    changed = pipeline.recipe(run_of(ckplus=dict(base_lr="1e-3", momentum=0, batch=20)), "ckplus")
    assert changed == dataclasses.replace(quick, base_lr=0.001, momentum=0.0, batch=20)
    assert pipeline.recipe(run_of(ckplus=dict(batch=20)), "heads") == pipeline.recipe(run_of(), "heads")
    assert pipeline.recipe(run_of("paper", celeba=dict(max_iter=9)), "celeba").max_iter == 9
    short = pipeline.recipe(run_of(ckplus=dict(head_warmup=dict(max_iter=7))), "ckplus")
    none = pipeline.recipe(run_of(ckplus=dict(head_warmup=None)), "ckplus")
    warmups = [r.head_warmup for r in (quick, short, none)]
    assert warmups == [warmups[0], dataclasses.replace(warmups[0], max_iter=7), None]


def test_models_start_from_each_other_as_the_paper_says():
    assert list(steps.MODELS) == [
        *("celeba", "ckplus_fig14", "ckplus_fig18", "ckplus_fig14_subject", "ckplus_fig18_subject")
    ]
    assert {figure: step.start for figure, step in steps.STEPS.items()} == {
        "fig9": None,
        "fig14": "fig9",
        "fig18": "fig14",
    }
    trunk = pipeline.trunk(run_of())
    frozen = {"celeba": "conv1", "ckplus_fig14": "conv1 conv2", "ckplus_fig18": "conv1 conv2 conv3 conv4"}
    for key, layers in frozen.items():
        net = pipeline.initial_model(run_of(), key, trunk, ("a", "b"))
        assert " ".join(net.frozen()) == layers and ("conv5" in dict(net.trunk.named_children())) == (
            key != "ckplus_fig18"
        )
    assert not pipeline.initial_model(config.open_run("embedded", conv1="trained"), "celeba", trunk, ("a",)).frozen()


def test_a_missing_model_names_its_notebook_and_the_run(output):
    with pytest.raises(FileNotFoundError, match=r"ckplus_fig14.*05_second_transfer.*RUN=embedded,seed=3"):
        pipeline.model(config.open_run("embedded", seed=3), "ckplus_fig14")


@pytest.mark.filterwarnings("ignore")
def test_the_precision_of_a_training_is_written_not_what_auto_means_now(output, own_faces, monkeypatch):
    faces = FaceFolder(own_faces("awake", "bored"), person="^[a-z]+")
    run = config.open_run("embedded", precision="auto", recipe={"heads": dict(max_iter=2, batch=4)})
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: False)
    net = pipeline.initial_model(run, "ckplus_fig18", pipeline.trunk(run), faces.classes)
    pipeline.train(run, "ckplus_fig18", copy.deepcopy(net), faces, None)
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: True)
    path = notebooks.save_results(run, "05_second_transfer", [{"item": "Table 4"}])
    assert json.loads(path.read_text())["precision"] == "float32"
    pipeline.train(run, "ckplus_fig18", copy.deepcopy(net), faces, None)
    assert store.read_metadata(run.checkpoint("ckplus_fig18"))["precision"] == "float32"
    path = notebooks.save_results(run, "02_bvlc_features", [])
    assert json.loads(path.read_text())["precision"] is None


def test_inventory_says_what_is_missing(write_config, monkeypatch):
    monkeypatch.setenv("DUALTL_DATA", "/nowhere")
    write_config(weights="embedded", celeba="synthetic", ckplus="$DATA/x")
    (row,) = pipeline.inventory().to_dict("records")
    assert row["celeba"] == "made when needed" and row["ckplus"] == "not here: $DATA/x"


def test_the_closing_table_gathers_notebooks_in_order(write_config, tmp_path):
    run = config.open_run("mine")
    (tmp_path / "notebooks").mkdir()
    for name in ("00_start_here", "02_bvlc_features", "03_first_transfer", "08_occlusion", "09_explorer"):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    with pytest.raises(FileNotFoundError, match="make reproduce RUN=mine"):
        summary.table(run)
    rows = [{"item": "Table 6, none, subject", "paper": "59.0 %", "measured": "m", "file": "table6.csv"}]
    notebooks.save_results(run, "08_occlusion", rows)
    notebooks.save_results(run, "02_bvlc_features", [{"item": "Fig. 4", "measured": "sharp", "file": "fig04.png"}])
    other = notebooks.open_notebook("02_bvlc_features", run="mine", variant="zeiler")
    assert notebooks.save_results(other, "02_bvlc_features", []).parent.name == "mine,variant=zeiler"
    table = summary.table(run)
    assert table["figure or table"].str.partition(",")[0].tolist() == ["Fig. 4", "Table 6"]
    assert table["paper"].tolist() == ["", "59.0 %"]
    text = summary.text(run)
    assert text.startswith("Run 'mine', measured on t. Written to figures/mine, pictures to runs/mine/figures.")
    assert "Not run yet: 03_first_transfer.\n" in text


def test_the_start_of_a_fold_is_random_the_trunk_or_the_first_transfers(output):
    run = run_of()
    trunk = pipeline.trunk(run)
    assert torch.equal(folds.start_of(run, "single").conv1.weight, trunk.conv1.weight)
    assert not torch.equal(folds.start_of(run, "random").conv1.weight, trunk.conv1.weight)
    with pytest.raises(FileNotFoundError, match="celeba"):
        folds.start_of(run, "dual")
