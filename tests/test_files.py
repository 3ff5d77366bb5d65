"""Paths, files that appear whole or not at all, results that are rewritten when they change, provenance."""

import errno
import json
import os
import runpy
import subprocess
import sys

import pytest

from dualtl_lib import files
from dualtl_lib.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_home(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])


@pytest.mark.parametrize("variable", ["DUALTL_CACHE", "DUALTL_OUTPUT", "DUALTL_DATA"])
@pytest.mark.parametrize(("given", "expected"), [("~/x", "{home}/x"), ("x", "{project}/x"), ("/a b/x", "/a b/x")])
def test_every_folder_is_expanded_alike_from_every_folder(home, monkeypatch, variable, given, expected):
    monkeypatch.chdir(home)
    monkeypatch.setenv(variable, given)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: True)
    module = runpy.run_path(files.__file__)
    place = {"DUALTL_CACHE": "cache_dir", "DUALTL_DATA": "data_root"}.get(variable)
    found = module[place]() if place else module["OUTPUT"]
    assert str(found) == expected.format(home=home, project=files.PROJECT)


def test_a_configs_path_may_be_in_the_data_root(home, monkeypatch):
    monkeypatch.setenv("DUALTL_DATA", str(home))
    assert files.expand("$DATA/celeba") == home / "celeba" and files.expand("$DATA") == home
    monkeypatch.setenv("DUALTL_DATA", str(home / "missing"))
    with pytest.raises(FileNotFoundError, match="DUALTL_DATA"):
        files.expand("$DATA/celeba")


def test_the_root_of_synthetic_faces_is_expanded(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    for root in ("~/faces", "faces"):
        assert main(["data", "synthetic-ckplus", "--people", "2", f"--root={root}"]) == 0
        assert capsys.readouterr().out.strip().endswith(f"{home}/faces")
    assert [path.name for path in home.iterdir()] == ["faces"]


def test_without_a_home_folder_there_is_one_clear_error(no_home, monkeypatch, capsys):
    monkeypatch.delenv("DUALTL_CACHE", raising=False)
    assert main(["weights", "list"]) == 0  # it needs no folder to list what there is
    assert main(["weights", "fetch", "torchvision-alexnet"]) == 1
    assert "error: ~/.cache/dualtl: no home folder" in capsys.readouterr().err


def test_an_output_folder_without_a_home_is_one_clear_error():
    environment = {**os.environ, "DUALTL_OUTPUT": "~nobody-here/x"}
    command = [sys.executable, "-m", "dualtl_lib", "weights", "list"]
    done = subprocess.run(command, cwd=files.PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ~nobody-here/x: no home folder"), done.stderr


def test_a_full_disk_names_the_folder(tmp_path):
    command = f"{sys.executable} -m dualtl_lib data synthetic-ckplus --people 2 --root {tmp_path}/faces"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; exec {command}"], cwd=files.PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 1 and f"{tmp_path}/faces" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_file_that_has_these_bytes_already_is_left_as_it_is(tmp_path):
    target, stats = tmp_path / "model", []
    for content in (b"one", b"one", b"two"):
        with files.atomic_write(target) as part:
            part.write_bytes(content)
        stats.append((target.stat().st_ino, target.stat().st_mtime_ns))
    assert stats[0] == stats[1] != stats[2] and target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    target = tmp_path / "deep" / "a.csv"
    with files.atomic_write(target) as part:
        part.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["a.csv"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_names_the_file(tmp_path):
    target = tmp_path / "a.csv"
    with pytest.raises(OSError, match=r"/a.csv'"), files.atomic_write(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"^of its own$"), files.atomic_write(target):
        raise OSError("of its own")
    with pytest.raises(FileNotFoundError, match=r"other\.csv"), files.atomic_write(target):
        (tmp_path / "other.csv").read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/b\.csv"), files.atomic_write(tmp_path / "file" / "b.csv"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_results_are_rewritten_with_their_provenance_only_when_they_change(tmp_path, monkeypatch):
    path, times = tmp_path / "a" / "r.json", iter("123")
    monkeypatch.setattr(files, "provenance", lambda: {"time": next(times)})
    for results, time in (([1], "1"), ([1], "1"), ([2], "2")):
        files.write_results(path, {"results": results})
        assert json.loads(path.read_text()) == {"results": results, "provenance": {"time": time}}


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)


def test_provenance_names_this_projects_commit_and_no_other(tmp_path, monkeypatch):
    inside = tmp_path / "dualtl"
    inside.mkdir()
    monkeypatch.setattr(files, "PROJECT", inside)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another project")
    assert files.provenance()["commit"] == "not a git checkout"
    git(inside, "init", "-q")
    git(inside, "commit", "-q", "--allow-empty", "-m", "this one")
    assert files.provenance()["commit"] not in ("", "not a git checkout")
    monkeypatch.setenv("PATH", "")
    found = files.provenance()
    assert found["commit"] == "not a git checkout" and found["machine kind"].endswith("1 thread")


@pytest.mark.parametrize(("n", "words"), [(0, "0 people"), (1, "1 person"), (2, "2 people")])
def test_numbers_have_their_noun(n, words):
    assert files.count(n, "person", "people") == words
