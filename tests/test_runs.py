"""Runs: config files, folders that no two runs share, files that appear whole or not at all."""

import errno
import json
import os
import runpy
import subprocess

import pytest

from dualtl_lib import config, files
from dualtl_lib.report import summary


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HOME", tmp_path)
    monkeypatch.setattr(config, "OUTPUT", tmp_path / "out")
    (tmp_path / "config").mkdir()
    return tmp_path


def write(home, **changes):
    settings = dict(title="t", weights="w", celeba="c", ckplus="k", budget="quick", seed=0) | changes
    text = "\n".join(f"{k}: {json.dumps(v)}" for k, v in settings.items())
    (home / "config" / "mine.yaml").write_text(text)


@pytest.mark.parametrize("path", sorted((files.PROJECT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_opens(path):
    assert config.open_run(path.stem).name == path.stem


def test_a_changed_run_has_its_own_folders(home):
    write(home)
    same, other = config.open_run("mine", seed=0), config.open_run("mine", seed=3, budget=None)
    assert same == config.open_run("mine")
    assert other.seed == 3 and other.name == "mine,seed=3"
    assert not {same.path, same.figures} & {other.path, other.figures}


def test_a_run_with_another_recipe_has_its_own_folders_and_says_how_to_open_it(home):
    write(home, recipe={"ckplus": {"max_iter": 500, "batch": 50}})
    before = config.open_run("mine")
    same = config.open_run("mine", **config.parse_overrides(["ckplus.batch=50"]))
    other = config.open_run("mine", **config.parse_overrides(["ckplus.base_lr=1e-3", "ckplus.batch=20", "seed=3"]))
    assert same == before and other.name == "mine,ckplus.base_lr=1e-3,ckplus.batch=20,seed=3"
    assert other.recipe == {"ckplus": {"max_iter": 500, "batch": 20, "base_lr": "1e-3"}} and other.config == "mine"
    again = config.open_run(other.config, **config.parse_overrides(other.options().replace(" --set ", " ").split()))
    assert again == other and other.made_by().endswith("(seed, recipe changed)")
    off = config.open_run("mine", **config.parse_overrides(["ckplus.heads_first=", "ckplus.x=/"]))
    assert off.name == "mine,ckplus.heads_first=None,ckplus.x=_"
    long = config.open_run("mine", **config.parse_overrides([f"ckplus.setting{i}={i}" for i in range(99)]))
    assert len(long.name) < 30 and long.config == "mine"


@pytest.mark.parametrize("word", ["seed", "ckplus.base_lr", "seed=[", "=3=:"])
def test_what_sets_nothing_is_refused(home, word):
    write(home)
    with pytest.raises(ValueError, match=r"ckplus.base_lr=0.001, found|expected one of title"):
        config.open_run("mine", **config.parse_overrides([word]))


def test_the_caches_size_is_in_gib(home):
    write(home)
    assert config.open_run("mine").cache is None
    for size in (2, 0.5, 0):
        write(home, cache_gb=size)
        assert config.open_run("mine").cache == size * 2**30


def test_pictures_of_people_stay_out_of_the_committed_folder(home):
    for real in ({}, {"celeba": "synthetic"}, {"ckplus": "synthetic"}):
        write(home, **real)
        assert config.open_run("mine").pictures == home / "out" / "runs" / "mine" / "figures"
    write(home, celeba="synthetic", ckplus="synthetic")
    assert config.open_run("mine").pictures == home / "out" / "figures" / "mine"
    assert config.open_run("mine", ckplus="~/photographs").people


def test_provenance_needs_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert files.provenance()["commit"] == "not a git checkout"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(budget="huge"), "budget is one of quick, paper"),
        (dict(precision="half"), "precision is one of float32, bfloat16, auto"),
        (dict(cache_gb="much"), "cache_gb: expected int | float | None, found 'much'"),
        (dict(recipe=3), "recipe: expected dict, found 3"),
        (dict(skip_dead_tail=1), "skip_dead_tail: expected bool, found 1"),
        (dict(seed="one"), "seed: expected int, found 'one'"),
        (dict(sead=1), "sead: expected one of"),
    ],
)
def test_a_wrong_config_names_file_and_key(home, changes, expected):
    write(home, **changes)
    with pytest.raises(ValueError, match=expected):
        config.open_run("mine")


def test_a_missing_key_and_an_unknown_run(home):
    write(home)
    with pytest.raises(ValueError, match=r"no run 'other'.*which has mine"):
        config.open_run("other")
    (home / "config" / "mine.yaml").write_text("title: t\n")
    with pytest.raises(ValueError, match=r"mine.yaml: \w+: expected \w+, found None"):
        config.open_run("mine")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r'person: "([a-z]+)-\d+"', "found unknown escape character 'd' in line 1"),
        ("title: a\n  weights: b", "found mapping values are not allowed here in line 2"),
        ("", "found nothing"),
        ("- title: a", "found a list"),
        ("seed: 2026-13-45", "found month must be in 1..12"),
        (b"title: Gesichter f\xfcr uns", "found .*invalid"),
    ],
)
def test_what_is_no_config_names_its_file(home, text, found):
    path = home / "config" / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    expected = rf"{path}: expected lines of `key: value`, patterns in single quotes, {found}"
    with pytest.raises(ValueError, match=expected):
        config.open_run("mine")


def test_output_is_the_same_from_every_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALTL_OUTPUT", "out")
    assert runpy.run_path(config.__file__)["OUTPUT"] == files.PROJECT / "out"


@pytest.mark.parametrize(
    ("given", "folder"),
    [("DATA=~/faces", "{home}/faces"), ("DATA=faces", "{here}/faces"), ("DATA=", "{here}/../shared/data")],
)
def test_make_hands_on_an_absolute_data_root(tmp_path, given, folder):
    environment = {k: v for k, v in os.environ.items() if k != "DUALTL_DATA"} | {"HOME": str(tmp_path)}
    command = ["make", "--no-print-directory", "--eval", 'show:; @echo "$$DUALTL_DATA"', "show", given]
    done = subprocess.run(command, cwd=files.PROJECT, env=environment, capture_output=True, text=True)
    expected = os.path.normpath(folder.format(home=tmp_path, here=files.PROJECT))
    assert done.stdout.strip() == expected, done.stderr


def test_a_file_that_has_these_bytes_already_is_left_as_it_is(tmp_path):
    target, stats = tmp_path / "model", []
    for content in (b"one", b"one", b"two"):
        with files.atomic_write(target) as part:
            part.write_bytes(content)
        stats.append((target.stat().st_ino, target.stat().st_mtime_ns))
    assert stats[0] == stats[1] != stats[2] and target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


def test_replacing_leaves_the_old_file_and_no_part_when_it_fails(tmp_path):
    target = tmp_path / "deep" / "a.csv"
    with files.atomic_write(target) as part:
        part.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["a.csv"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_replacing_names_the_file_that_cannot_be_written(tmp_path):
    def full(part):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "a.csv"
    with pytest.raises(OSError, match=r"No space left .*/a.csv'"), files.atomic_write(target) as part:
        full(part)
    with pytest.raises(OSError, match="of its own") as raised, files.atomic_write(target):
        raise OSError("of its own")
    assert str(raised.value) == "of its own"
    with pytest.raises(FileNotFoundError, match=r"other\.csv"), files.atomic_write(target):
        (tmp_path / "other.csv").read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/b\.csv"), files.atomic_write(tmp_path / "file" / "b.csv"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_run_says_what_makes_it(home):
    write(home)
    said = {
        "`make reproduce RUN=mine`": {},
        "`snakemake --cores all --config run=mine budget=paper seed=3`": {"seed": 3, "budget": "paper"},
        "`make reproduce RUN=…` with a config of its own (ckplus changed)": {"ckplus": "/some/faces"},
    }
    for words, changes in said.items():
        run = config.open_run("mine", **changes)
        assert (run.config, run.changes(), run.made_by()) == ("mine", changes, words)


def test_the_closing_table_gathers_notebooks_in_order(home):
    write(home)
    run = config.open_run("mine")
    (home / "notebooks").mkdir()
    for name in ("00_start_here", "02_a", "02_c", "08_b", "09_explorer"):
        (home / "notebooks" / f"{name}.ipynb").touch()
    with pytest.raises(FileNotFoundError, match="make reproduce RUN=mine"):
        summary.table(run)
    run.save_results("08_b", [{"item": "Table 6", "paper": "59.0 %", "measured": "m", "file": "table6.csv"}])
    run.save_results("02_a", [{"item": "Fig. 4", "measured": "sharp", "file": "fig04.png"}])
    table = summary.table(run)
    assert table["figure or table"].tolist() == ["Fig. 4", "Table 6"]
    assert table["paper"].tolist() == ["", "59.0 %"]
    said = summary.text(run)
    assert said.startswith("Run 'mine', measured on t. Written to figures/mine, pictures to runs/mine/figures.")
    assert "Not run yet: 02_c.\n" in said
    assert json.loads((run.figures / "02_a.json").read_text())["provenance"]["versions"]["torch"]
