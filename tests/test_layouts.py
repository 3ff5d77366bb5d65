"""KDEF, JAFFE, RAF-DB and FER2013 as they are distributed, on generated files."""

import zlib

import numpy as np
import pytest
from PIL import Image

from dualtl_lib.data import layouts
from dualtl_lib.data.ckplus import open_expressions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))


def noise(name, side=48) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(str(name).encode())).integers(256, size=(side, side), dtype=np.uint8)


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(name)).save(root / name)
    return root


def labelled(faces) -> dict:
    return {
        file: (faces.classes[k], who) for file, k, who in zip(faces.files, faces.targets, faces.people, strict=True)
    }


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("AF01AFS", ("F01", "fear", "AF01", "S")),
        ("BM35SUHR", ("M35", "surprise", "BM35", "HR")),
        ("af01hafl", ("F01", "happy", "AF01", "FL")),
        ("AF01", None),
        ("XF01AFS", None),
        ("AF01AFSX", None),
    ],
)
def test_kdef_names(stem, name):
    assert layouts.kdef_name(stem) == name


def test_jaffe_names():
    assert layouts.jaffe_name("KA.AN1.39")[:2] == ("KA", "anger")
    assert layouts.jaffe_name("KA.XX1.39") is layouts.jaffe_name("happy.1.2") is None


def test_kdef_in_a_folder_for_each_person(tmp_path):
    names = [f"{s}F01/{s}F01{code}.JPG" for s in "AB" for code in ("AFS", "HAS", "HAFL")]
    faces = layouts.kdef(write(tmp_path, *names, "notes/plan.png"))
    assert labelled(faces) == {
        f"{s}F01/{s}F01{code}S.JPG": (label, "F01") for s in "AB" for code, label in (("AF", "fear"), ("HA", "happy"))
    }
    assert set(faces.sequences) == {"AF01", "BF01"} and sorted(faces.report.values()) == [1, 2]
    assert len(layouts.kdef(tmp_path, views=("S", "FL"))) == 6


def test_jaffe_in_one_folder(tmp_path):
    write(tmp_path, "KA.AN1.39.tiff", "KA.NE1.26.tiff", "YM.HA2.53.tiff")
    faces = layouts.jaffe(tmp_path, neutral=False)
    assert labelled(faces) == {"KA.AN1.39.tiff": ("anger", "KA"), "YM.HA2.53.tiff": ("happy", "YM")}


@pytest.fixture
def rafdb(tmp_path):
    pictures = [f"Image/aligned/{part}_0000{i}_aligned.jpg" for part in ("train", "test") for i in (1, 2)]
    write(tmp_path, *pictures, "Image/original/train_00001.jpg")
    rows = ["train_00001.jpg 1", "train_00002.jpg 4", "test_00001.jpg 6", "test_00003.jpg 2"]
    (tmp_path / "EmoLabel").mkdir()
    wrong = ["train_00002.jpg 9", "../secret.jpg 4", "test_00002.jpg"]
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("\n".join([*rows, *wrong, ""]))
    return tmp_path


def test_rafdb_by_its_list(rafdb):
    with pytest.warns(UserWarning, match="rows without a picture: 1") as warned:
        faces = layouts.rafdb(rafdb)
    assert {file: label for file, (label, _) in labelled(faces).items()} == {
        "Image/aligned/train_00001_aligned.jpg": "surprise",
        "Image/aligned/train_00002_aligned.jpg": "happy",
        "Image/aligned/test_00001_aligned.jpg": "anger",
    }
    assert any("left out: 3 ('train_00002.jpg 9'" in str(w.message) for w in warned)
    assert faces.people.tolist() == faces.files  # nobody is known


@pytest.mark.filterwarnings("ignore")
def test_rafdb_split(rafdb):
    assert len(layouts.rafdb(rafdb, split="test")) == 1
    with pytest.raises(ValueError, match="split"):
        layouts.rafdb(rafdb, split="valid")
    (rafdb / "EmoLabel" / "list_patition_label.txt").unlink()
    with pytest.raises(FileNotFoundError, match="list_patition_label"):
        layouts.rafdb(rafdb)


@pytest.fixture
def fer2013(tmp_path):
    text = [" ".join(map(str, noise(i).ravel())) for i in range(4)]
    rows = [(0, text[0], "Training"), (3, text[1], "Training"), (6, text[2], "PublicTest"), (5, text[3], "PrivateTest")]
    rows += [(3, text[1], "PrivateTest"), (9, text[0], "Training"), (1, "1 2 3", "Training"), (1, "x", "Training")]
    rows += [(1, text[2].replace(" ", " 999 ", 1), "Training")]
    lines = [f"{emotion}, {pixels}, {usage}" for emotion, pixels, usage in rows]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion, pixels, Usage", *lines]) + "\n")
    return tmp_path / "fer2013.csv"


def test_fer2013(fer2013):
    with pytest.warns(UserWarning) as warned:
        faces = layouts.fer2013(fer2013)
    messages = "\n".join(str(w.message) for w in warned)
    assert "label from 0 to 6, left out: 1 (5)" in messages and "pictures left out: 3" in messages
    assert "fer2013.csv#4 = fer2013.csv#1" in messages  # the same face in training and test
    assert [faces.classes[k] for k in faces.targets] == ["anger", "happy", "neutral", "surprise", "happy"]
    whole = Image.fromarray(noise(1)).resize((227, 227), Image.Resampling.BILINEAR)
    assert np.array_equal(faces.images[1][0], np.asarray(whole))


@pytest.mark.filterwarnings("ignore")
def test_fer2013_split(fer2013):
    assert [len(layouts.fer2013(fer2013, split=s, neutral=s != "all")) for s in ("train", "valid", "test")] == [2, 1, 2]
    assert len(layouts.fer2013(fer2013, neutral=False)) == 4
    for content in ("", "a,b\n1,2\n", "emotion,pixels\n1,2\n"):
        fer2013.write_text(content)
        with pytest.raises(ValueError, match=r"fer2013.csv: expected"):
            layouts.fer2013(fer2013, split="train")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["kdef", "jaffe", "rafdb", "fer2013", "folders"])
def test_a_config_may_name_any_of_them(tmp_path, layout, request):
    if layout in ("rafdb", "fer2013"):
        root = request.getfixturevalue(layout)
    else:
        names = {"kdef": "AF0{}/AF0{}HAS.JPG", "jaffe": "K{}.HA1.{}.tiff", "folders": "happy/KA.HA{}.{}.png"}[layout]
        root = write(tmp_path, *(names.format(*("AB"[i] if layout == "jaffe" else i, i)) for i in range(2)))
    faces = open_expressions(root, person="^[A-Z]+", peak_frames=5, crop="auto", contempt=True)
    unknown = layout in ("rafdb", "fer2013")
    assert np.array_equal(faces.people, faces.files) == unknown
    assert not unknown or not np.array_equal(open_expressions(root, person=".+").people, faces.files)
    assert type(faces).__name__ == ("FaceFolder" if layout == "folders" else "Expressions") and "happy" in faces.classes
