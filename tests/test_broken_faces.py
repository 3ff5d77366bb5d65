"""Broken pictures, labels and folders: a clear error or a counted warning, never a crash or a wrong label."""

import errno
import io
import os
import re
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualtl_lib.data import crop
from dualtl_lib.data.celeba import CelebA, read_attributes
from dualtl_lib.data.ckplus import CKPlus
from dualtl_lib.data.folders import FaceFolder
from dualtl_lib.data.notices import Notices

NAMES = ("Smiling", "Big_Nose", "Young")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(mode="RGB", size=(40, 40), kind="PNG", value=99, corner=0) -> bytes:
    """A picture of one value but for its corner, so that it does not count as one colour."""
    stream = io.BytesIO()
    picture = Image.new(mode, size, value if len(mode) == 1 or ";" in mode else (value,) * len(mode))
    if corner:
        picture.paste((corner,) * len(mode) if len(mode) > 1 else corner, (0, 0, 8, 8))
    if mode == "P":
        picture.putpalette([99] * 768)
    picture.save(stream, kind)
    return stream.getvalue()


def opened(root, **settings):
    return CelebA(root, **{"split": "all", "attributes": NAMES} | settings)


def listed(root, rows=("a.png 1 -1 1", "b.png -1 1 1"), names=NAMES, count=None) -> None:
    lines = [str(len(rows) if count is None else count), " ".join(names), *rows]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "faces"
    (folder / "img_align_celeba").mkdir(parents=True)
    for i, name in enumerate(("a", "b")):
        (folder / "img_align_celeba" / f"{name}.png").write_bytes(encoded(corner=200 + i))
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
        faces = opened(root)
    assert faces.files == ["img_align_celeba/a.png"] and faces.report["pictures left out"] == 1
    assert faces.targets.tolist() == [[1, 0, 1]] and (faces.images[0][:, -1] == 99).all()


USABLE = {
    "grey": encoded("L"),
    "16 bit": encoded("I;16", value=99 * 257),
    "RGBA": encoded("RGBA"),
    "palette": encoded("P", value=102),
    "CMYK": encoded("CMYK", kind="TIFF", value=0),
    "10000x10000": encoded("L", (10_000, 10_000), "JPEG"),
}


@pytest.mark.parametrize("case", USABLE)
def test_other_kinds_of_pictures_are_read_as_8_bit_rgb(tmp_path, case):
    path = tmp_path / "picture"
    path.write_bytes(USABLE[case])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        pixels = crop.cut(path, mode="centre").pixels
    assert pixels.shape == (3, 227, 227)
    expected = 255 if case == "CMYK" else 99  # no ink is white
    assert np.abs(pixels.astype(int) - expected).max() <= 3


PASSING = [OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.EIO, errno.EACCES)] + [MemoryError()]


@pytest.mark.parametrize("passing", PASSING, ids=repr)
def test_what_is_not_the_pictures_fault_is_raised_and_nothing_is_kept(root, cache, monkeypatch, passing):
    open_picture = Image.open

    def failing(path, **settings):
        if Path(path).name == "b.png":
            raise passing
        return open_picture(path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing)
        with pytest.raises((crop.ReadFailure, MemoryError), match=r"b\.png" if isinstance(passing, OSError) else ""):
            opened(root)
    assert list(cache.iterdir()) == [] and len(opened(root)) == 2


@pytest.mark.parametrize("left", [0, 9, 150, 300_000, -30, -1])
def test_a_damaged_cache_is_made_anew(root, cache, left):
    expected = opened(root).images[:]
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.unlink()  # a new file: the old one may still be mapped
    path.write_bytes(content[:left])
    assert np.array_equal(opened(root).images, expected)
    assert path.read_bytes() == content


def test_no_usable_picture_at_all_is_an_error(root):
    for path in (root / "img_align_celeba").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 2 .*a.png: .*empty"):
        opened(root)


def test_folders_that_are_missing_or_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    for kind in (CelebA, CKPlus, FaceFolder):
        for name in ("nowhere", "empty"):
            with pytest.raises(FileNotFoundError, match=f"{name}: .*expected"):
                kind(tmp_path / name)


UNUSABLE_LISTS = {
    "": "one",
    "2\nSmiling Big_Nose Young\na.png 1 1\nb.png 1 1\n": "no usable row",
    "2\nSmiling Big_Nose Sneezing\na.png 1 1 1\n": "Young.*Sneezing",
    "Smiling Big_Nose Young\na.png 1 -1 1\nb.png -1 1 1\n": "Smiling",  # without its count
}


@pytest.mark.parametrize("content", UNUSABLE_LISTS)
def test_label_lists_that_cannot_be_used(root, content):
    (root / "list_attr_celeba.txt").write_text(content)
    with pytest.raises(ValueError, match=rf"list_attr_celeba.txt: .*{UNUSABLE_LISTS[content]}"):
        opened(root)
    (root / "list_attr_celeba.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"list_attr_celeba.txt or .csv"):
        opened(root)


def test_a_list_that_is_not_separated_by_commas_says_so(root):
    (root / "list_attr_celeba.csv").write_text("image_id;Smiling;Big_Nose;Young\na.png;1;-1;1\n")
    with pytest.raises(ValueError, match=r"\.csv: .*commas.*'image_id;Smil"):
        read_attributes(root / "list_attr_celeba.csv", NAMES)


def test_pictures_of_one_name_with_two_endings_are_counted_and_left_out(root):
    (root / "img_align_celeba" / "b.bmp").write_bytes(encoded(kind="BMP", value=7))
    with pytest.warns(UserWarning, match=r"differ in their ending only, left out: 2 \(b.bmp, b.png\)"):
        faces = opened(root)
    assert faces.files == ["img_align_celeba/a.png"]


def warned(open_faces) -> tuple:
    """What it gives, and its warnings as one text."""
    with pytest.warns(UserWarning) as warnings_:
        faces = open_faces()
    return faces, "\n".join(str(w.message) for w in warnings_)


def test_pictures_below_and_above_the_classes_folders_are_counted(tmp_path):
    root = tmp_path / "own"
    for place in ("happy/S1.png", "happy/more/S2.png", "happy/odd.png/S3.png", "S4.png", "happy/.git/S5.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(encoded())
    faces, messages = warned(lambda: FaceFolder(root))
    assert faces.files == ["happy/S1.png"]
    assert "2 (happy/more, happy/odd.png)" in messages and "1 (S4.png)" in messages
    (root / "happy" / "S1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"own: expected .*2 \(happy/more"):
        FaceFolder(root)


GOOD = "a.png 1 -1 1"
ROWS = {
    "cut off in mid-row": ((GOOD, "b.png -1 1"), 2, "rows without exactly 3 values, left out: 1"),
    "value other than 1": ((GOOD, "b.png -1 0 1"), 2, "value other than -1 and 1, left out: 1"),
    "wrong count": ((GOOD,), 202_599, "line 1 promises '202599' rows, found 1"),
    "no count": ((GOOD,), "many", "line 1 promises 'many' rows"),
    "too long": ((GOOD,), "1" * 5000, "line 1 promises '111"),
    "not listed": ((GOOD,), 1, "pictures the list does not name: 1 .b"),
    "no picture": ((GOOD, "c.png 1 1 1"), 2, "rows without a picture: 1 .c"),
    "paths": ((GOOD, "../b.png 1 1 1", "/etc/b.png 1 1 1", "other\\\\b.png 1 1 1"), 4, "name is expected, left out: 3"),
    "two rows": ((GOOD, "b.png 1 1 1", "b.png 1 1 -1"), 3, "two different rows, left out: 1 .b"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_cannot_be_used_are_counted(root, case):
    rows, count, reason = ROWS[case]
    listed(root, rows, count=count)
    faces, messages = warned(lambda: opened(root))
    assert reason.replace(" .", " (") in messages
    assert faces.files == ["img_align_celeba/a.png"] and faces.targets.tolist() == [[1, 0, 1]]


def test_links_are_followed_and_what_is_no_file_is_counted(root, tmp_path):
    pictures, elsewhere = root / "img_align_celeba", tmp_path / "elsewhere"
    (pictures / "b.png").rename(tmp_path / "b.png")
    (pictures / "b.png").symlink_to(tmp_path / "b.png")
    (pictures / "c.png").symlink_to("/dev/zero")  # could be read without end
    (pictures / "d.png").symlink_to("d.png")
    os.mkfifo(pictures / "f.png")
    for name in ("img_align_celeba", "list_attr_celeba.txt"):
        (root / name).rename(elsewhere.with_name(name))
        (root / name).symlink_to(elsewhere.with_name(name))
    faces, messages = warned(lambda: opened(root))
    assert [Path(f).name for f in faces.files] == ["a.png", "b.png"]
    assert "3 (img_align_celeba/c.png, " in messages and messages.count("\n") == 0


BOXES = {
    "--5 3 20 20": "list_bbox_celeba has no box",
    "5 nan 20 20": "list_bbox_celeba has no box",
    "400 400 30 30": "the list's face box lies outside the picture: centre square taken",
    "0 0 0 0": "the list's face box is impossible: centre square taken",
}


@pytest.mark.parametrize("box", BOXES)
def test_boxes_that_cannot_be_are_counted_together(root, box):
    (root / "img_align_celeba").rename(root / "img_celeba")
    (root / "list_bbox_celeba.txt").write_text(f"2\nimage x y w h\na.png {box}\nb.png {box}\n")
    with pytest.warns(UserWarning, match=BOXES[box]):
        faces = opened(root)
    assert next(n for reason, n in faces.report.items() if BOXES[box] in reason) == 2 and len(faces) == 2


@pytest.mark.parametrize("content", ["file;x;y;side\nhappy/S1.png;1;2;30", "", "file,x,y,side\n1,2\n3,4,5,6,7,8"])
def test_a_list_of_boxes_that_is_none_is_refused_by_name(tmp_path, content):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "S1.png").write_bytes(encoded())
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(ValueError, match=r"boxes.csv: .*file,x,y,side"):
        FaceFolder(tmp_path)


@pytest.fixture
def sequence(tmp_path):
    """A sequence of ten frames in the official layout, and its label."""
    root, name = tmp_path / "ck", "S005/001"
    for folder in ("cohn-kanade-images", "Emotion"):
        (root / folder / name).mkdir(parents=True)
    for frame in range(1, 11):
        (root / "cohn-kanade-images" / name / f"S005_001_{frame:08}.png").write_bytes(encoded(corner=199 + frame))
    (root / "Emotion" / name / "S005_001_00000010_emotion.txt").write_text("   3.0000000e+00\n")
    return root


def test_a_sequence_without_its_first_frames_has_no_neutral_face(sequence):
    for frame in range(1, 6):
        (sequence / "cohn-kanade-images/S005/001" / f"S005_001_{frame:08}.png").unlink()
    with pytest.warns(UserWarning, match=r"without frame 1, .*: 1 \(S005/001\)"):
        faces = CKPlus(sequence, crop="centre")
    assert faces.classes == ("disgust",) and [f[-5] for f in faces.files] == ["8", "9", "0"]


def test_a_sequence_without_its_last_frames_is_left_out(sequence):
    for frame in (9, 10):
        (sequence / "cohn-kanade-images/S005/001" / f"S005_001_{frame:08}.png").unlink()
    with pytest.raises(ValueError, match=r"S005/001: 8, not 10"):
        CKPlus(sequence, crop="centre")


def test_files_of_another_sequence_are_left_out(sequence):
    frames, labels = sequence / "cohn-kanade-images/S005", sequence / "Emotion/S005"
    (frames / "001" / "S099_009_00000011.png").write_bytes(encoded())
    (frames / "002").mkdir()
    (frames / "002" / "S005_002_00000001.png").write_bytes(encoded())
    (labels / "002").mkdir()
    (labels / "002" / "S010_002_00000001_emotion.txt").write_text("5.0000000e+00")
    faces, messages = warned(lambda: CKPlus(sequence, crop="centre"))
    assert "1 (S005/001/S099_009_00000011.png)" in messages and "1 (S005/002/S010_002" in messages
    assert len(faces) == 4 and faces.classes == ("neutral", "disgust")


def test_an_emotion_file_that_is_no_file_labels_nothing(sequence):
    label = sequence / "Emotion/S005/001/S005_001_00000010_emotion.txt"
    label.rename(sequence / "elsewhere.txt")
    label.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="none for any of 1 sequences"):
        CKPlus(sequence)
    label.unlink()
    label.with_suffix(".TXT").symlink_to(sequence / "elsewhere.txt")
    assert len(CKPlus(sequence, crop="centre")) == 4


@pytest.mark.parametrize("content", ["", "8.0", "-1", "3.5", "nan", "inf", "3 4", "anger", "0x3", "1e99", "\0\0"])
def test_an_emotion_code_outside_0_to_7_is_left_out(sequence, content):
    (sequence / "Emotion/S005/001/S005_001_00000010_emotion.txt").write_text(content)
    with pytest.raises(ValueError, match=r"emotion files .*: 1 \(S005/001/S005_001"):
        CKPlus(sequence)


def test_a_cache_folder_that_cannot_be_written_to(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/cache .*DUALTL_CACHE"):
        opened(root, cache_dir=tmp_path / "file" / "cache")


def test_a_full_disk_is_an_error_before_anything_is_decoded(root, cache, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="cannot keep"):
        opened(root)
    assert list(cache.iterdir()) == []


def test_ctrl_c_while_caching_leaves_nothing_behind(root, cache, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crop, "cut", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(root)
    assert list(cache.iterdir()) == []
    assert len(opened(root)) == 2


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, taken out, put in or cut off."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(data) + 1)), rng.integers(5)
        letter = bytes([int(rng.choice(list(b"-10 \n\r\t,.a\0\xff8")))])
        cuts = (letter, data[at : at + 1] + letter, b"", data[: int(rng.integers(len(data) + 1))][-40:], b"")
        ends = (at + 1, at + 1, at + int(rng.integers(1, 12)), at, len(data))
        data[at : ends[kind]] = cuts[kind]
    return bytes(data)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_fuzzed_label_lists_give_an_error_or_the_labels_that_stand_there(tmp_path, suffix):
    rng = np.random.default_rng(0)
    comma = "," if suffix == ".csv" else " "
    rows = [comma.join([f"{i:06}.jpg", *rng.choice(["-1", "1"], 3)]) for i in range(8)]
    head = [f"image_id,{','.join(NAMES)}"] if suffix == ".csv" else ["8", " ".join(NAMES)]
    sound = "\n".join([*head, *rows]).encode()
    path, read = tmp_path / f"list{suffix}", 0
    for _ in range(400):
        path.write_bytes(content := mutated(sound, rng))
        try:
            labels = read_attributes(path, NAMES[:2], notices=Notices())
        except ValueError as error:
            assert path.name in str(error)
            continue
        read += 1
        lines = content.decode("utf-8-sig", "replace").splitlines()
        lines = [[f.strip() for f in line.split(",")] if suffix == ".csv" else line.split() for line in lines]
        columns = next(line for line in lines if NAMES[0] in line and NAMES[1] in line)
        first = 0 if suffix == ".csv" else 1  # the .txt form names no column for the picture
        for name, values in labels.iterrows():
            found = {tuple(line[1:]) for line in lines if line and Path(line[0]).stem == name}
            found = {row for row in found if all(re.fullmatch(r"[-+]?0*[01](\.0*)?", value) for value in row)}
            found = {row for row in found if len(row) == len(columns) + first - 1}
            assert len(found) == 1, "rows that differ must not give a label"
            (row,) = found
            assert values.tolist() == [float(row[columns.index(a) + first - 1]) == 1 for a in NAMES[:2]]
    assert read > 100
