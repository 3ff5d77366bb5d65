"""Broken pictures, labels and folders: a clear error or a counted warning, never a crash or a wrong label."""

import errno
import io
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualtl_lib import paper
from dualtl_lib.data import ckplus, crop
from dualtl_lib.data.celeba import CelebA, read_attributes
from dualtl_lib.data.ckplus import CKPlus
from dualtl_lib.data.dataset import Findings

NAMES = ("Smiling", "Big_Nose", "Young")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(mode="RGB", size=(40, 40), kind="PNG", value=99) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value if len(mode) == 1 or ";" in mode else (value,) * len(mode)).save(stream, kind)
    return stream.getvalue()


def listed(root, rows=("a.png 1 -1 1", "b.png -1 1 1"), names=NAMES, count=None) -> str:
    lines = [str(len(rows) if count is None else count), " ".join(names), *rows]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "faces"
    (folder / "img_align_celeba").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "img_align_celeba" / f"{name}.png").write_bytes(encoded())
    listed(folder)
    return folder


def bomb() -> bytes:
    """A PNG whose header, with its checksum right, claims 32768x32768 pixels."""
    content = bytearray(encoded("L", (1, 1)))
    content[16:24] = struct.pack(">II", 32768, 32768)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))  # of the chunk's name and content
    return bytes(content)


UNUSABLE = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is no picture" * 50, "not a whole picture"),
    "truncated png": (encoded(size=(400, 400))[:300], "not a whole picture"),
    "truncated jpeg": (encoded(size=(400, 400), kind="JPEG")[:900], "not a whole picture"),
    "1x1": (encoded(size=(1, 1)), "1x1 pixels are too few"),
    "float": (encoded("F", kind="TIFF"), "floating point"),
    "directory beyond any disk": (b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**62), "not a whole picture"),  # BigTIFF
    "bomb": (bomb(), "too many pixels"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_picture_is_left_out_and_named(root, case):
    content, reason = UNUSABLE[case]
    (root / "img_align_celeba" / "b.png").write_bytes(content)
    with pytest.warns(UserWarning, match=rf"pictures left out: 1 \(img_align_celeba/b.png: .*{reason}"):
        faces = CelebA(root, "all", NAMES)
    assert faces.files == ["img_align_celeba/a.png"] and faces.report["pictures left out"] == 1
    assert faces.targets.tolist() == [[1, 0, 1]] and (faces.images[0] == 99).all()


USABLE = {
    "grey": encoded("L"),
    "16 bit": encoded("I;16", value=99 * 257),
    "RGBA": encoded("RGBA"),
    "palette": (
        lambda s: (
            Image.new("RGB", (40, 40), (99,) * 3).convert("P", dither=Image.Dither.NONE).save(s, "PNG"),
            s.getvalue(),
        )[1]
    )(io.BytesIO()),
    "CMYK": encoded("CMYK", kind="TIFF", value=0),
    "10000x10000": encoded("L", (10_000, 10_000), "JPEG"),
}


@pytest.mark.parametrize("case", USABLE)
def test_other_kinds_of_pictures_are_read_as_8_bit_rgb(tmp_path, case):
    path = tmp_path / "picture"
    path.write_bytes(USABLE[case])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        pixels = crop.cut(path, "centre").pixels
    assert pixels.shape == (3, 227, 227)
    expected = {"palette": 102, "CMYK": 255}.get(case, 99)  # the web palette's nearest grey; no ink is white
    assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match="the file is missing"):
        crop.cut(tmp_path / "gone.png")


PASSING = [OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.EIO, errno.EACCES)] + [MemoryError()]


@pytest.mark.parametrize("passing", PASSING, ids=repr)
def test_what_is_not_the_pictures_fault_is_raised_and_nothing_is_kept(root, cache, monkeypatch, passing):
    opened = Image.open

    def failing(path, **settings):
        if Path(path).name == "b.png":
            raise passing
        return opened(path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing)
        with pytest.raises((OSError, MemoryError), match=r"b\.png") as told:
            CelebA(root, "all", NAMES)
    assert "run again" in str(told.value) and "DUALTL_CACHE" not in str(told.value)
    assert list(cache.iterdir()) == []
    assert len(CelebA(root, "all", NAMES)) == 2


def test_a_picture_that_cannot_be_opened_now_is_named(root, cache, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", refused)
        with pytest.raises(crop.ReadFailure, match=r"Permission denied.*run again.*[ab]\.png"):
            CelebA(root, "all", NAMES)
    assert len(CelebA(root, "all", NAMES)) == 2


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("left", [0, 9, 150, -1])
def test_a_damaged_cache_is_made_anew(root, cache, suffix, left):
    expected = CelebA(root, "all", NAMES).images[:]
    (path,) = cache.glob(f"*{suffix}")
    content = path.read_bytes()
    path.unlink()  # a new file: the old one may still be mapped
    path.write_bytes(content[:left])
    assert np.array_equal(CelebA(root, "all", NAMES).images, expected)
    assert path.read_bytes() == content


def test_a_cache_of_other_things_is_made_anew(root, cache):
    expected = CelebA(root, "all", NAMES).images[:]
    (pixels,), (notes,) = cache.glob("*.npy"), cache.glob("*.json")
    for content in ("[]", "{}", '{"unreadable": {"x": ""}, "noted": {}}'):
        notes.write_text(content)
        assert np.array_equal(CelebA(root, "all", NAMES).images, expected)
    pixels.unlink()
    np.save(pixels, np.zeros((2, 3, 8, 8), np.uint8))
    assert np.array_equal(CelebA(root, "all", NAMES).images, expected)


def test_no_usable_picture_at_all_is_an_error(root):
    for path in (root / "img_align_celeba").iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"none of 2 pictures could be read .*empty"):
        CelebA(root, "all", NAMES)


def test_folders_that_are_missing_or_empty(tmp_path):
    for kind in (CelebA, CKPlus):
        with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected"):
            kind(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: expected a folder img_align_celeba .* found nothing"):
        CelebA(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"empty: expected cohn-kanade-images/ .* found an empty folder"):
        CKPlus(tmp_path / "empty")


def test_label_lists_that_cannot_be_used(root):
    (root / "list_attr_celeba.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"list_attr_celeba.txt: expected .* found an empty list"):
        CelebA(root, "all", NAMES)
    listed(root, rows=("a.png 1 1", "b.png 1 1"))
    with pytest.raises(ValueError, match=r"no usable row among 2"):
        CelebA(root, "all", NAMES)
    listed(root)
    with pytest.raises(ValueError, match=r"found none or several for Sneezing; the list has 3 columns, Smiling"):
        CelebA(root, "all", ("Smiling", "Sneezing"))
    (root / "list_attr_celeba.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected list_attr_celeba.txt or .csv"):
        CelebA(root, "all", NAMES)


def test_a_list_that_is_not_separated_by_commas_says_so(root):
    (root / "list_attr_celeba.txt").unlink()
    (root / "list_attr_celeba.csv").write_text("image_id;Smiling;Big_Nose;Young\na.png;1;-1;1\n")
    with pytest.raises(ValueError, match=r"\.csv: expected names of columns separated by commas.*found 'image_id;Smil"):
        CelebA(root, "all", NAMES)


def test_a_list_without_its_count_says_so(root):
    (root / "list_attr_celeba.txt").write_text("Smiling Big_Nose Young\na.png 1 -1 1\nb.png -1 1 1\n")
    with pytest.raises(
        ValueError, match=r"none or several for Smiling.*expected the number of rows in line 1.*Smiling"
    ):
        CelebA(root, "all", NAMES)


def test_quoted_fields_and_a_quotation_mark_left_open(root):
    (root / "list_attr_celeba.txt").unlink()
    (root / "list_attr_celeba.csv").write_text(
        '"image_id", "Smiling", "Big_Nose", "Young"\n"a.png","1","-1","1"\n"c.png,1,1,1\nd.png,-1,-1,1\n'
    )
    labels = read_attributes(root / "list_attr_celeba.csv", NAMES, found := Findings())
    assert labels == {"a": [1, 0, 1], "d": [0, 0, 1]} and list(found.counts().values()) == [1]
    (root / "list_attr_celeba.csv").write_text("image_id,Smiling\na.png," + "1" * 200_000)
    with pytest.raises(ValueError, match=r"\.csv: expected fields separated by commas, found 'a.png,111"):
        read_attributes(root / "list_attr_celeba.csv", ("Smiling",))


def test_pictures_of_one_name_with_two_endings_are_counted_and_left_out(root):
    (root / "img_align_celeba" / "b.bmp").write_bytes(encoded(kind="BMP", value=7))
    with pytest.warns(UserWarning, match=r"differ in their ending only, left out: 2 \(b.bmp, b.png\)") as told:
        faces = CelebA(root, "all", NAMES)
    assert len(told) == 1 and faces.files == ["img_align_celeba/a.png"]


def test_pictures_below_and_above_the_classes_folders_are_told_of(tmp_path):
    root = tmp_path / "own"
    for place in ("happy/S1.png", "happy/more/S2.png", "happy/odd.png/S3.png", "S4.png", "happy/.git/S5.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(encoded())
    with pytest.warns(UserWarning) as told:
        faces = CKPlus(root, crop="centre")
    assert faces.files == ["happy/S1.png"]
    said = "\n".join(str(w.message) for w in told)
    assert "folders inside a class's folder, not looked into: 2 (happy/more, happy/odd.png)" in said
    assert "pictures outside the classes' folders, left out: 1 (S4.png)" in said
    (root / "happy" / "S1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a folder of pictures .*not looked into: 2 \(happy/more"):
        CKPlus(root)


GOOD = "a.png 1 -1 1"
ROWS = {
    "cut off in mid-row": ((GOOD, "b.png -1 1"), 2, "rows without exactly 3 values, left out: 1"),
    "value other than 1": ((GOOD, "b.png -1 0 1"), 2, "value other than -1 and 1, left out: 1"),
    "wrong count": ((GOOD,), 202_599, "line 1 promises 202599 rows, found 1"),
    "no count": ((GOOD,), "many", "expected the number of rows in line 1"),
    "not listed": ((GOOD,), 1, "pictures the list does not name: 1 .b"),
    "no picture": ((GOOD, "c.png 1 1 1"), 2, "rows without a picture: 1 .c"),
    "two rows": ((GOOD, "b.png 1 1 1", "b.png 1 1 -1"), 3, "two different rows, left out: 1 .b"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_cannot_be_used_are_counted(root, case):
    rows, count, reason = ROWS[case]
    listed(root, rows, count=count)
    with pytest.warns(UserWarning) as told:
        faces = CelebA(root, "all", NAMES)
    assert any(reason.replace(" .", " (") in str(w.message) for w in told), [str(w.message) for w in told]
    assert faces.files == ["img_align_celeba/a.png"] and faces.targets.tolist() == [[1, 0, 1]]


def test_what_leads_out_of_the_folder_is_left_out_and_told_of(root, tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(value=7))
    pictures = root / "img_align_celeba"
    (pictures / "b.png").unlink()
    (pictures / "inside.png").symlink_to("a.png")
    (pictures / "b.png").symlink_to(tmp_path / "secret.png")
    (pictures / "c.png").symlink_to("/dev/zero")  # could be read without end
    (pictures / "d.png").symlink_to("d.png")
    (pictures / "e.png").symlink_to(pictures / "gone.png")
    os.mkfifo(pictures / "f.png")
    listed(root, ["a.png 1 -1 1", "inside.png 1 1 1", *(f"{name}.png -1 1 1" for name in "bcdef")])
    with pytest.warns(UserWarning, match=r"no files, left out: copy the files there: 5 \(img_align_celeba/b.png, "):
        faces = CelebA(root, "all", NAMES)
    assert [Path(f).name for f in faces.files] == ["a.png", "inside.png"]


def test_a_layout_s_folder_and_list_may_be_links_which_is_told(root, tmp_path):
    for name in ("img_align_celeba", "list_attr_celeba.txt"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    with pytest.warns(
        UserWarning, match=r"lie elsewhere.* read all the same: 2 \(img_align_celeba in /.*list_attr_celeba"
    ):
        faces = CelebA(root, "all", NAMES)
    assert len(faces) == 2


def test_a_class_folder_that_leads_out_is_left_out(tmp_path):
    for folder in ("own/happy", "outside"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "S1.png").write_bytes(encoded())
    (tmp_path / "own" / "sad").symlink_to(tmp_path / "outside")
    with pytest.warns(UserWarning, match=r"out of the folder.*1 \(sad/S1.png\)"):
        faces = CKPlus(tmp_path / "own", crop="centre")
    assert faces.files == ["happy/S1.png"]


@pytest.mark.parametrize("name", ["../img_align_celeba/a.png", "/etc/a.png", "other/a.png", "other\\a.png"])
def test_rows_that_name_a_path_label_no_picture(root, name):
    listed(root, [f"{name} -1 -1 -1", "b.png 1 1 1"])
    with pytest.warns(UserWarning, match="a path where a picture's name is expected, left out: 1"):
        faces = CelebA(root, "all", NAMES)
    assert faces.files == ["img_align_celeba/b.png"]


def test_numbers_too_long_to_read_are_told_of_by_the_lists_name(root):
    listed(root, count="1" * 5000)
    with pytest.warns(UserWarning, match=r"list_attr_celeba.txt: expected the number of rows in line 1"):
        CelebA(root, "all", NAMES)


BOXES = {
    "--5 3 20 20": "no face box",
    "1e308 2 9 9": "no face box",
    "400 400 30 30": "the list's face box lies outside the picture: centre square taken",
    "0 0 0 0": "the list's face box is impossible: centre square taken",
}


@pytest.mark.parametrize("box", BOXES)
def test_boxes_that_cannot_be_are_counted_together(root, box):
    (root / "img_align_celeba").rename(root / "img_celeba")
    (root / "list_bbox_celeba.txt").write_text(f"2\nimage x y w h\na.png {box}\nb.png {box}\n")
    with pytest.warns(UserWarning, match=BOXES[box]):
        faces = CelebA(root, "all", NAMES)
    assert next(n for reason, n in faces.report.items() if BOXES[box] in reason) == 2 and len(faces) == 2


@pytest.mark.parametrize("content", ["file;x;y;side\nhappy/S1.png;1;2;30", "", "file,x,y,side\n" + "9" * 200_000])
def test_a_list_of_boxes_that_is_none_is_refused_by_name(tmp_path, content):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "S1.png").write_bytes(encoded())
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(ValueError, match=r"boxes.csv: expected a line 1 of file,x,y,side.*found .*anew"):
        CKPlus(tmp_path)


def test_a_picture_much_longer_than_wide_is_read(tmp_path):
    (tmp_path / "long.png").write_bytes(encoded("L", (12_000, 20)))
    assert crop.cut(tmp_path / "long.png", "face").note == "no face found"


@pytest.fixture
def sequence(tmp_path):
    """A sequence of ten frames in the official layout, and its label."""
    root, name = tmp_path / "ck", "S005/001"
    for folder in ("cohn-kanade-images", "Emotion"):
        (root / folder / name).mkdir(parents=True)
    for frame in range(1, 11):
        (root / "cohn-kanade-images" / name / f"S005_001_{frame:08}.png").write_bytes(encoded())
    (root / "Emotion" / name / "S005_001_00000010_emotion.txt").write_text("   3.0000000e+00\n")
    return root


def test_a_sequence_without_its_first_frames_has_no_neutral_face(sequence):
    for frame in range(1, 6):
        (sequence / "cohn-kanade-images/S005/001" / f"S005_001_{frame:08}.png").unlink()
    with pytest.warns(UserWarning, match=r"without frame 1, so none of theirs is neutral: .* 1 \(S005/001\)"):
        faces = CKPlus(sequence, crop="centre")
    assert faces.classes == ("disgust",) and [f[-5] for f in faces.files] == ["8", "9", "0"]


def test_a_sequence_without_its_last_frames_is_left_out(sequence):
    for frame in (9, 10):
        (sequence / "cohn-kanade-images/S005/001" / f"S005_001_{frame:08}.png").unlink()
    with pytest.raises(ValueError, match=r"do not end with the frame that is labelled.* \(S005/001: 8, not 10\)"):
        CKPlus(sequence, crop="centre")


def test_files_of_another_sequence_are_left_out(sequence):
    frames, labels = sequence / "cohn-kanade-images/S005", sequence / "Emotion/S005"
    (frames / "001" / "S099_009_00000011.png").write_bytes(encoded())
    (frames / "002").mkdir()
    (frames / "002" / "S005_002_00000001.png").write_bytes(encoded())
    (labels / "002").mkdir()
    (labels / "002" / "S010_002_00000001_emotion.txt").write_text("5.0000000e+00")
    with pytest.warns(UserWarning) as told:
        faces = CKPlus(sequence, crop="centre")
    said = "\n".join(str(w.message) for w in told)
    assert "frames of another sequence by their name, left out: 1 (S005/001/S099_009_00000011.png)" in said
    assert "emotion files of another sequence by their name, left out: 1 (S005/002/S010_002" in said
    assert len(faces) == 4 and faces.classes == ("neutral", "disgust")


def test_an_emotion_file_that_leads_out_or_is_a_folder_labels_nothing(sequence):
    (sequence / "Emotion/S005/001/S005_001_00000010_emotion.txt").rename(sequence / "outside.TXT")
    label = sequence / "Emotion/S005/001/S005_001_00000010_emotion.TXT"
    label.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"no labelled picture is left .*out of the folder, or no files"):
        CKPlus(sequence)
    label.unlink()
    label.mkdir()
    with pytest.raises(ValueError, match=r"no labelled picture is left .*out of the folder, or no files"):
        CKPlus(sequence)
    label.rmdir()
    (sequence / "outside.TXT").rename(label)
    assert len(CKPlus(sequence, crop="centre")) == 4


@pytest.mark.parametrize("content", ["", "8.0", "-1", "3.5", "nan", "inf", "3 4", "anger", "0x3", "1e99", "\0\0"])
def test_an_emotion_code_outside_0_to_7_is_left_out(tmp_path, content):
    root = tmp_path / "ck"
    for name, text in (("S001/001", "5.0000000e+00"), ("S002/001", content)):
        (root / "cohn-kanade-images" / name).mkdir(parents=True)
        (root / "Emotion" / name).mkdir(parents=True)
        (root / "Emotion" / name / "emotion.txt").write_text(text)
        for frame in (1, 2):
            (root / "cohn-kanade-images" / name / f"x_{frame:08}.png").write_bytes(encoded())
    with pytest.warns(UserWarning, match=r"without one code from 0 to 7, left out: 1 \(S002/001/emotion.txt"):
        faces = CKPlus(root, peak_frames=1)
    assert faces.classes == ("neutral", "happy") and set(faces.people) == {"S001"}


def test_a_cache_folder_that_cannot_be_written_to(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot keep decoded faces in .*DUALTL_CACHE"):
        CelebA(root, "all", NAMES, cache=tmp_path / "file" / "cache")


def test_a_full_disk_is_told_before_anything_is_decoded(root, cache, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="are needed and"):
        CelebA(root, "all", NAMES)
    assert list(cache.iterdir()) == []


def test_ctrl_c_while_caching_leaves_nothing_behind(root, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crop, "cut", interrupted)
        with pytest.raises(KeyboardInterrupt):
            CelebA(root, "all", NAMES)
    assert list(cache.iterdir()) == []
    assert len(CelebA(root, "all", NAMES)) == 2


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, taken out, put in or cut off."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(data) + 1)), rng.integers(5)
        letter = int(rng.choice(list(b"-10 \n\r\t,.a\0\xff8")))
        if kind == 0:
            data[at : at + 1] = bytes([letter])
        elif kind == 1:
            data[at:at] = bytes([letter])
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 12))]
        elif kind == 3:
            data[at:at] = data[: int(rng.integers(len(data) + 1))][-40:]
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_fuzzed_label_lists_give_an_error_or_the_labels_that_stand_there(tmp_path, suffix):
    rng = np.random.default_rng(0)
    comma = "," if suffix == ".csv" else " "
    rows = [comma.join([f"{i:06}.jpg", *rng.choice(["-1", "1"], 3)]) for i in range(8)]
    head = [f"image_id,{','.join(NAMES)}"] if suffix == ".csv" else ["8", " ".join(NAMES)]
    sound = "\n".join([*head, *rows]).encode()
    path, read = tmp_path / f"list{suffix}", 0
    for _ in range(1000):
        path.write_bytes(content := mutated(sound, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                labels = read_attributes(path, NAMES[:2])
        except ValueError as error:
            assert path.name in str(error)
            continue
        read += 1
        lines = content.decode("utf-8-sig", "replace").splitlines()
        lines = [[f.strip() for f in line.split(",")] if suffix == ".csv" else line.split() for line in lines]
        columns = next(line for line in lines if NAMES[0] in line and NAMES[1] in line)
        first = 0 if suffix == ".csv" else 1  # the .txt form names no column for the picture
        for name, values in labels.items():
            rows = {
                tuple(line[1:])
                for line in lines
                if line and Path(line[0]).stem == name and set(line[1:]) <= {"1", "-1"}
            }
            assert len(rows) == 1, "rows that differ must not give a label"
            (row,) = rows
            assert len(row) == len(columns) + first - 1
            assert values == [int(row[columns.index(a) + first - 1] == "1") for a in NAMES[:2]]
    assert read > 300


def test_fuzzed_emotion_files_give_nothing_or_the_code_that_stands_there(tmp_path):
    rng = np.random.default_rng(1)
    path, read = tmp_path / "emotion.txt", 0
    for _ in range(600):
        path.write_bytes(content := mutated(b"   %d.0000000e+00\n" % rng.integers(8), rng))
        code = ckplus.read_emotion(path)
        if code is not None:
            read += 1
            assert float(content.decode("utf-8-sig")) == code and code in range(len(paper.EXPRESSIONS))
    assert read > 100
