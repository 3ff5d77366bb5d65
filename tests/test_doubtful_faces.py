"""Data as people hand it around: what is doubtful is counted and warned of, and nothing is on both sides by mistake."""

import shutil
import unicodedata
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from dualtl_lib.data import crop, splits
from dualtl_lib.data.celeba import CelebA, read_attributes
from dualtl_lib.data.ckplus import CKPlus, paper_images
from dualtl_lib.data.folders import FaceFolder
from dualtl_lib.data.notices import Notices


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))


def noise(name, side=24) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(str(name).encode())).integers(256, size=(side, side), dtype=np.uint8)


def write(root, *names, pixels=None):
    """Pictures of noise, or of these pixels, under root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(name) if pixels is None else pixels).save(root / name)
    return root


def opened(kind, root, **settings):
    """A data set and its warnings as one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faces = kind(root, **settings)
    return faces, "\n".join(str(w.message) for w in caught)


def nfd(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("pattern", ["^[^-]+", "josé|zoë|ann", nfd("josé|zoë|ann")])
def test_a_name_in_two_unicode_forms_is_one_person(tmp_path, pattern):
    forms = {"josé": (str, nfd), "zoë": (nfd, str), "ann": (str, str)}
    names = [f"{label}/{forms[who][i](who)}-{i}.png" for i, label in enumerate(("happy", "sad")) for who in forms]
    faces, messages = opened(FaceFolder, write(tmp_path / "own", *names), person=pattern)
    assert sorted(faces.people) == sorted([*forms, *forms]) and not messages


def test_lists_boxes_and_sequences_are_found_in_either_unicode_form(tmp_path):
    write(tmp_path / "own", nfd("freude/josé-1.png"), nfd("müde/josé-1.png"))
    (tmp_path / "own" / "boxes.csv").write_text("file,x,y,side\nfreude/josé-1.png,0,0,20\nmüde/josé-1.png,0,0,20\n")
    faces, messages = opened(FaceFolder, tmp_path / "own", person="^[^-]+")
    assert faces.classes == ("freude", "müde") and not messages and len(faces.of_class(nfd("müde"))) == 1
    write(tmp_path / "ck" / "cohn-kanade-images", *(nfd(f"é/1/x_{i}.png") for i in (1, 2)))
    (tmp_path / "ck" / "Emotion" / "é" / "1").mkdir(parents=True)
    (tmp_path / "ck" / "Emotion" / "é" / "1" / "x.txt").write_text("5")
    assert opened(CKPlus, tmp_path / "ck", peak_frames=1)[0].sequences.tolist() == ["é/1"] * 2
    write(tmp_path / "celeba" / "img_align_celeba", nfd("é.png"))
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text("1\nSmiling\né.png 1\n")
    assert len(CelebA(tmp_path / "celeba", split="all", attributes=["Smiling"])) == 1


@pytest.mark.parametrize(
    ("pattern", "names", "people"),
    [
        (".+", ("0", "1"), {"a/0", "a/1", "b/0", "b/1"}),  # each picture another person
        ("(.*)", ("0", "1"), {"a/0", "a/1", "b/0", "b/1"}),
        ("^[^-]+", ("ann", "bob"), {"ann", "bob"}),  # one picture of each person a class
        ("^[^-]+", ("ann-1", "ann"), {"ann"}),
        ("^(.+?)(?=[0-9]|$)", ("ann1", "bob2"), {"ann", "bob"}),
    ],
)
def test_a_person_is_who_the_pattern_separates_in_a_name(tmp_path, pattern, names, people):
    write(tmp_path, *(f"{label}/{name}.png" for label in ("a", "b") for name in names))
    faces, _ = opened(FaceFolder, tmp_path, person=pattern)
    assert set(faces.people) == people


def test_sequences_of_two_people_are_two(tmp_path):
    write(tmp_path, *(f"happy/{who}-S1_1_{frame}.png" for who in ("ann", "bob") for frame in (1, 2, 3)))
    faces, messages = opened(FaceFolder, tmp_path, person="^[a-z]+", peak_frames=3)
    assert len(faces) == 6 and len(set(faces.sequences)) == 2 and not messages


def test_identical_pictures_are_counted_and_kept_on_one_side(tmp_path):
    write(tmp_path, *(f"{label}/p{i}-{label}.png" for label in ("happy", "sad") for i in range(6)))
    for i in range(6):
        shutil.copy(tmp_path / f"happy/p{i}-happy.png", tmp_path / f"happy/q{i}.png")
        Image.open(tmp_path / f"happy/p{i}-happy.png").save(tmp_path / f"sad/r{i}.bmp")  # other bytes, the same pixels
    faces, messages = opened(FaceFolder, tmp_path, person="^[pqr][0-9]")
    assert sorted(n for reason, n in faces.report.items() if "identical" in reason) == [6, 6]
    assert "happy/q0.png = happy/p0-happy.png" in messages and "sad/r0.bmp = happy/p0-happy.png" in messages
    found = [*splits.random_split(faces, test=0.25, validation=0.25), *splits.subject_independent(faces, folds=3)]
    for train, validation, test in found:
        sides = [{image.tobytes() for image in faces.images[part]} for part in (train, validation, test)]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 12


def png(values) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


BITS = {
    "8 of 16": (noise("x").astype(np.uint16), 1),
    "12 of 16": (noise("x").astype(np.uint16) * 16, 16 * 255 / 4095),
    "16 of 16": (noise("x").astype(np.uint16) * 257, 1),
    "8 of 16, in colour": (np.dstack([noise("x").astype(np.uint16)] * 3), 1),
    "16 of 16, in colour": (np.dstack([noise("x").astype(np.uint16) * 257] * 3), 1),
}


@pytest.mark.parametrize("case", BITS)
def test_16_bits_are_scaled_by_the_range_that_they_use(tmp_path, case):
    values, factor = BITS[case]
    (tmp_path / "picture.png").write_bytes(png(values))
    picture, _, _, doubts = crop.decode(tmp_path / "picture.png")
    expected = noise("x").astype(float) * factor
    assert np.abs(np.asarray(picture)[..., 0] - expected).max() <= 1
    assert bool(doubts) == ("16 of" not in case)


def test_pictures_that_show_nothing_are_counted_but_do_not_make_people_one(tmp_path):
    write(tmp_path, *(f"{label}/p{i}-1.png" for label in ("happy", "sad") for i in range(6)))
    for i, value in enumerate((0, 255, 0, 0, 0, 0)):
        write(tmp_path, f"happy/p{i}-0.png", pixels=np.full((24, 24), value, np.uint8))
    (tmp_path / "sad" / "p0-2.png").write_bytes(png(noise("x").astype(np.uint16)))
    faces, messages = opened(FaceFolder, tmp_path, person="^p[0-9]")
    assert faces.report["pictures of one colour, which show nothing"] == 6 and "6 (happy/p0-0.png" in messages
    assert faces.report[crop.FEWER_BITS] == 1 and "1 (sad/p0-2.png)" in messages
    assert len(splits.subject_independent(faces, folds=3)) == 3


def test_class_names_that_differ_in_blanks_case_or_unicode_are_one_class(tmp_path):
    folders = ("happy", "Happy", " happy ", "müde", nfd("Müde"), "Contempt ")
    write(tmp_path, *(f"{folder}/p{i}.png" for i, folder in enumerate(folders)))
    faces, messages = opened(FaceFolder, tmp_path, person="^p[0-9]", contempt=False)
    assert faces.classes == ("happy", "müde") and len(faces) == 5
    assert "read as one: 5" in messages and "'happy'" in messages


KDEF = [f"AF0{i}{code}S" for i in range(1, 4) for code in ("AF", "AN", "HA", "NE")]
NOT_CLASSES = {
    "a person each": ([f"{name[:4]}/{name}" for name in KDEF], ".+"),
    "a person each, known": ([f"{who}/{who}-{i}" for who in ("ann", "bob") for i in range(3)], "^[a-z]+"),
    "a step each": ([f"{step}/{who}_happy" for step in ("raw", "aligned") for who in ("ann", "bob")], "^[a-z]+"),
    "one person a class": (["happy/ann-1", "happy/ann-2", "sad/bob-1"], "^[a-z]+"),
}


@pytest.mark.parametrize("case", NOT_CLASSES)
def test_folders_that_are_no_expressions_are_doubted(tmp_path, case):
    names, pattern = NOT_CLASSES[case]
    faces, messages = opened(FaceFolder, write(tmp_path, *(f"{name}.png" for name in names)), person=pattern)
    assert faces.report["class folders that look like people or processing steps"] == len(faces.classes)
    assert "happy/ann-1.png" in messages  # how to lay them out


@pytest.mark.parametrize("names", [("happy/ann-1", "sad/ann-1"), ("awake/ann-1", "awake/bob-1", "bored/ann-1")])
def test_folders_of_expressions_are_not_doubted(tmp_path, names):
    faces, messages = opened(FaceFolder, write(tmp_path, *(f"{name}.png" for name in names)), person="^[a-z]+")
    assert faces.report == {} and not messages


def test_classes_that_lie_a_folder_deeper_are_named(tmp_path):
    write(tmp_path, "train/happy/1.png", "test/happy/2.png")
    with pytest.raises(FileNotFoundError, match=r"name .*test, which has them"):
        FaceFolder(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_in_pixels_of_the_stored_picture_whatever_its_orientation(tmp_path, orientation):
    """A red square at (20, 10) of a blue picture; the picture in memory is upright."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[10:34, 20:44] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    face = crop.cut(tmp_path / "x.png", box=(20, 10, 24, 24))
    inner = face.pixels[:, 10:-10, 10:-10]
    assert face.note == "" and inner[0].min() > 200 and inner[2].max() < 55


@pytest.fixture
def sequences(tmp_path):
    """Three people with two sequences each; S1 and S2 have labels for their first."""
    for person in ("S1", "S2", "S3"):
        for n in ("001", "002"):
            write(tmp_path / "cohn-kanade-images", *(f"{person}/{n}/{person}_{n}_{i}.png" for i in (1, 2)))
    for person in ("S1", "S2"):
        (tmp_path / "Emotion" / person / "001").mkdir(parents=True)
        (tmp_path / "Emotion" / person / "001" / "label.txt").write_text("5")
    return tmp_path


@pytest.mark.parametrize(("empty", "incomplete"), [((), 2), (("S1/002",), 3), (("S1/002", "S2/002", "S3/001"), 1)])
def test_labels_that_were_not_unpacked_are_not_taken_for_none(sequences, empty, incomplete):
    """Where empty folders are kept, each sequence has one; else a person without any folder is suspicious."""
    for name in empty:
        (sequences / "Emotion" / name).mkdir(parents=True)
    faces, messages = opened(CKPlus, sequences, peak_frames=1)
    assert faces.report["sequences without a folder of labels, which others have, left out"] == incomplete
    assert faces.report["sequences without a label, left out"] == 4 - incomplete
    assert "incompletely unpacked" in messages and len(faces) == 4


SPELLINGS = {
    "txt": ("list_attr_celeba.txt", "2\nSmiling Young\na.png {1} {0}\nb.png {0} {1}\n"),
    "csv": ("list_attr_celeba.csv", "image_id,Smiling,Young\na.png,{1},{0}\nb.png,{0},{1}\n"),
    "index": ("list_attr_celeba.csv", ",image_id,Smiling,Young\n0,a.png,{1},{0}\n1,b.png,{0},{1}\n"),
    "folder": ("list_attr_celeba.csv", "image_id,Smiling,Young\nimg_align_celeba/a.png,{1},{0}\nb.png,{0},{1}\n"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("labels", [("-1", "1"), ("0", "1"), ("-1.0", "1.0"), ("0.0", "1.0")])
def test_labels_that_are_clear_in_another_spelling_are_read_and_the_assumption_is_counted(tmp_path, spelling, labels):
    name, text = SPELLINGS[spelling]
    (tmp_path / name).write_text(text.format(*labels))
    notices = Notices()
    table = read_attributes(tmp_path / name, ["Young", "Smiling"], notices=notices)
    assert table.loc["a"].tolist() == [0, 1] and table.loc["b"].tolist() == [1, 0]
    assert len(notices.counts()) == (labels[0][0] == "0") + ("." in labels[0]) + (spelling == "index")


@pytest.mark.parametrize("place", ["lists/list_attr_celeba.csv", "Anno/Anno/list_attr_celeba.csv"])
def test_a_list_one_folder_deeper_is_read_and_counted(tmp_path, place):
    write(tmp_path / "img_align_celeba", "a.png", "b.png")
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("image_id,Smiling\na.png,1\nb.png,-1\n")
    faces, messages = opened(CelebA, tmp_path, split="all", attributes=["Smiling"])
    assert len(faces) == 2 and place in messages
    shutil.copytree(tmp_path / place.split("/")[0], tmp_path / "other")
    if place.startswith("lists"):  # two of them: which is meant is not clear
        with pytest.raises(FileNotFoundError):
            CelebA(tmp_path, split="all", attributes=["Smiling"])


def test_empty_selections_are_empty_data_sets_or_one_clear_error(tmp_path):
    faces = FaceFolder(write(tmp_path / "own", "happy/S1.png", "neutral/S2.png"))
    for empty in ([], np.array([]), np.zeros(2, bool), (), slice(0, 0)):
        assert len(faces[empty]) == 0 and faces[empty].images.shape == (0, 3, 227, 227)
    assert len(faces.batch([])) == len(faces.subset([]).subset([])) == 0 and "0 faces of 0 people" in repr(faces[[]])
    assert len(faces.without("happy").without("neutral")) == 0
    (tmp_path / "list.csv").write_text("image_id,Smiling\na.png,1\n")
    with pytest.raises(ValueError, match="one or more attributes"):
        read_attributes(tmp_path / "list.csv", [])
    with pytest.raises(ValueError, match="no labelled picture"):
        FaceFolder(write(tmp_path / "calm", "neutral/S1.png"), neutral=False)
    for settings in ({"images": 0}, {"peak_frames": 0}, {"crop": "middle"}, {"person": "("}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            paper_images(tmp_path / "own", **settings)
