"""Writing sets of synthetic faces: the same bytes for the same seed, whole or not at all, never over foreign files."""

import hashlib
import os

import pytest

from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.synthetic import writing


def digests(root):
    """SHA-256 of every file below root."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    return synthetic_faces.write_celeba(tmp_path_factory.mktemp("faces") / "celeba", people=10, images=24, workers=1)


def test_same_seed_same_bytes_whatever_the_workers(celeba, tmp_path):
    again = synthetic_faces.write_celeba(tmp_path / "celeba", people=10, images=24, workers=2)
    assert digests(again) == digests(celeba)
    other = synthetic_faces.write_celeba(tmp_path / "other", people=10, images=24, seed=1, workers=1)
    assert digests(other)["img_align_celeba/000001.jpg"] != digests(celeba)["img_align_celeba/000001.jpg"]


def test_a_complete_folder_is_left_alone_and_a_foreign_one_refused(celeba, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in celeba.rglob("*")}
    synthetic_faces.write_celeba(celeba, people=10, images=24, workers=1)
    assert {p: p.stat().st_mtime_ns for p in celeba.rglob("*")} == before
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not synthetic faces"):
        synthetic_faces.write_celeba(tmp_path, people=10, images=24)
    assert (tmp_path / "mine.txt").exists()


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(synthetic_faces, "write_boxes", fails)
    with pytest.raises(OSError, match="disk full"):
        synthetic_faces.write_celeba(tmp_path / "celeba", people=3, images=3, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("old", [False, True])
def test_the_set_that_another_process_finished_first_is_kept(old, tmp_path, monkeypatch):
    root, write_boxes, held = tmp_path / "celeba", synthetic_faces.write_boxes, []

    def slowly(folder, boxes):
        monkeypatch.setattr(synthetic_faces, "write_boxes", write_boxes)
        synthetic_faces.write_celeba(root, people=3, images=3, workers=1)  # the other process
        held.append(os.stat(root).st_ino)
        write_boxes(folder, boxes)

    if old:
        synthetic_faces.write_celeba(root, people=3, images=4, workers=1)
    monkeypatch.setattr(synthetic_faces, "write_boxes", slowly)
    synthetic_faces.write_celeba(root, people=3, images=3, workers=1)
    assert held == [os.stat(root).st_ino]
    assert list(tmp_path.iterdir()) == [root]


def test_another_set_is_moved_aside_before_it_is_deleted(tmp_path, monkeypatch):
    root = synthetic_faces.write_celeba(tmp_path / "celeba", people=3, images=4, workers=1)
    before, rename, seen = digests(root), os.rename, []

    def spy(source, target):
        rename(source, target)
        seen.append([digests(stamp.parent) for stamp in tmp_path.rglob(writing.STAMP)])

    monkeypatch.setattr(os, "rename", spy)
    synthetic_faces.write_celeba(root, people=3, images=3, workers=1)
    assert digests(root) != before
    assert all(before in sets and len(sets) == 2 for sets in seen)
    assert digests(root) in seen[-1]
    assert list(tmp_path.iterdir()) == [root]


def test_files_that_came_while_writing_are_not_deleted(tmp_path, monkeypatch):
    root, write_boxes = tmp_path / "celeba", synthetic_faces.write_boxes

    def slowly(folder, boxes):
        root.mkdir()
        (root / "mine.txt").write_text("mine")
        write_boxes(folder, boxes)

    monkeypatch.setattr(synthetic_faces, "write_boxes", slowly)
    with pytest.raises(FileExistsError, match="not synthetic faces"):
        synthetic_faces.write_celeba(root, people=3, images=3, workers=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["celeba", "mine.txt"]


def test_systems_without_processor_affinity_write_too(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS and Windows
    for cores in (1, 2, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        root = synthetic_faces.write_celeba(tmp_path / str(cores), people=3, images=3)
        assert len(list(root.glob("img_align_celeba/*.jpg"))) == 3


def test_it_can_be_said_what_is_wrong_with_the_settings(tmp_path):
    with pytest.raises(ValueError, match="people=5, images=4"):
        synthetic_faces.write_celeba(tmp_path / "celeba", people=5, images=4)
    with pytest.raises(ValueError, match="subjects=1"):
        synthetic_faces.write_ckplus(tmp_path / "ckplus", subjects=1)
