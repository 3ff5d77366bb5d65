"""The loaders on small folders in the official layouts: labels, crops, people, the cache, and real copies."""

import os
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from dualtl_lib import config, paper
from dualtl_lib.data import ckplus, crop, dataset
from dualtl_lib.data.celeba import CelebA
from dualtl_lib.data.ckplus import CKPlus

ATTRIBUTES = ("Smiling", "Big_Nose")
LABELS = {1: (1, -1), 2: (-1, -1), 3: (1, 1), 4: (-1, 1)}


def picture(path, size=(178, 218), seed=0):
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def celeba(tmp_path):
    root = tmp_path / "celeba"
    for i in LABELS:
        picture(root / "img_align_celeba" / f"{i:06}.jpg", seed=i)
    rows = [f"{i:06}.jpg  {a} {b}" for i, (a, b) in LABELS.items()]
    (root / "list_attr_celeba.txt").write_text("\n".join(["4", " ".join(ATTRIBUTES), *rows]) + "\n")
    return root


@pytest.fixture
def official(tmp_path):
    """Two labelled sequences of six frames, one of them contempt, and one without a label."""
    root = tmp_path / "ck"
    for name, code in (("S005/001", 3), ("S010/002", 2), ("S010/003", None)):
        stem = name.replace("/", "_")
        for frame in range(1, 7):
            picture(root / "cohn-kanade-images" / name / f"{stem}_{frame:08}.png", (64, 49), frame)
        (root / "Emotion" / name).mkdir(parents=True)
        if code is not None:
            (root / "Emotion" / name / f"{stem}_00000006_emotion.txt").write_text(f"   {code}.0000000e+00\n")
    return root


def test_celeba_labels_become_0_and_1_in_the_order_asked_for(celeba):
    faces = CelebA(celeba, "all", attributes=("Big_Nose", "Smiling"))
    assert faces.targets.tolist() == [[int(b > 0), int(a > 0)] for a, b in LABELS.values()]
    assert faces.images.shape == (4, 3, 227, 227) and faces.report == {}
    image, target = faces[2]
    assert image.dtype == torch.uint8 and image.shape == (3, 227, 227) and target.tolist() == [1, 1]
    whole = Image.open(celeba / faces.files[2]).resize((227, 227), Image.Resampling.BILINEAR, box=(0, 20, 178, 198))
    assert np.array_equal(image.numpy().transpose(1, 2, 0), np.asarray(whole))  # READING: the centre 178x178


def test_pictures_in_the_wild_are_cut_to_the_listed_box(celeba):
    (celeba / "img_align_celeba").rename(celeba / "img_celeba")
    boxes = {1: (10, 20, 60, 60), 2: (0, 100, 50, 100), 3: (5, 5, 40, 40)}  # none for the fourth
    rows = [f"{i:06}.jpg {' '.join(map(str, box))}" for i, box in boxes.items()]
    (celeba / "list_bbox_celeba.txt").write_text("\n".join(["3", "image_id x_1 y_1 width height", *rows]) + "\n")
    with pytest.warns(UserWarning, match="no face box, so the face is detected: 1"):
        faces = CelebA(celeba, "all", attributes=ATTRIBUTES)
    assert faces.layout == "detected"
    for i, (x, y, side) in enumerate([(10, 20, 60), (0, 100, 100), (5, 5, 40)]):
        with Image.open(celeba / "img_celeba" / f"{i + 1:06}.jpg") as whole:
            assert np.array_equal(faces.images[i], crop.resize(whole, (x, y, side)))


def test_kaggles_lists_are_the_same(celeba):
    first = CelebA(celeba, "all", ATTRIBUTES)
    (celeba / "list_attr_celeba.txt").unlink()
    rows = [f"{i:06}.jpg,{a},{b}" for i, (a, b) in LABELS.items()]
    (celeba / "list_attr_celeba.csv").write_text("\r\n".join([f"image_id,{','.join(ATTRIBUTES)}", *rows]))
    (celeba / "list_eval_partition.csv").write_text(
        "image_id,partition\n" + "\n".join(f"{i:06}.jpg,{i % 3}" for i in LABELS)
    )
    again = CelebA(celeba, "all", ATTRIBUTES)
    assert torch.equal(first.targets, again.targets) and np.array_equal(first.images, again.images)
    found = {s: [f[-6:-4] for f in CelebA(celeba, s, ATTRIBUTES).files] for s in ("train", "valid", "test")}
    assert found == {"train": ["03"], "valid": ["01", "04"], "test": ["02"]}


def test_without_a_partition_parts_are_drawn_and_people_kept_apart(tmp_path, celeba):
    (celeba / "identity_CelebA.txt").write_text("\n".join(f"{i:06}.jpg {(i + 1) // 2}" for i in LABELS))
    parts = []
    for split in ("train", "valid", "test"):
        try:
            parts.append(CelebA(celeba, split, ATTRIBUTES))
        except ValueError as error:  # four pictures do not fill three parts
            assert "no picture with labels is in split" in str(error)
    assert sum(map(len, parts)) == 4
    people = [set(p.people) for p in parts]
    assert sum(map(len, people)) == len(set.union(*people)) == 2


@pytest.mark.filterwarnings("ignore:.*no face found")
def test_ckplus_takes_the_first_frame_as_neutral_and_the_last_as_the_emotion(official):
    faces = CKPlus(official, peak_frames=2)
    assert faces.classes == ("neutral", "contempt", "disgust")
    assert [(f[-7:-4], faces.classes[t]) for f, t in zip(faces.files, faces.targets, strict=True)] == [
        *(("001", "neutral"), ("005", "disgust"), ("006", "disgust")),
        *(("001", "neutral"), ("005", "contempt"), ("006", "contempt")),
    ]
    assert faces.people.tolist() == ["S005"] * 3 + ["S010"] * 3
    assert set(faces.sequences) == {"S005/001", "S010/002"}
    assert faces.report["sequences without a label, left out"] == 1


def test_ckplus_without_neutral_and_contempt(official):
    with pytest.warns(UserWarning, match="no face found"):
        faces = CKPlus(official, neutral=False, contempt=False)
    assert faces.classes == ("disgust",) and len(faces) == 3


def test_noise_has_no_face_so_the_centre_square_is_taken_and_counted(official):
    with pytest.warns(UserWarning, match="no face found: centre square taken: 8"):
        faces = CKPlus(official)
    assert faces.report["no face found: centre square taken"] == 8
    frame = Image.open(official / faces.files[0]).convert("RGB")
    assert np.array_equal(faces.images[0], crop.resize(frame, (7, 0, 49)))


@pytest.mark.filterwarnings("ignore:.*no face found")
def test_known_boxes_come_before_the_detector(official):
    name = "cohn-kanade-images/S005/001/S005_001_00000001.png"
    (official / "boxes.csv").write_text(f"file,x,y,side\n{name},4,6,40\nother.png,1,1,x\n")
    with pytest.warns(UserWarning, match=r"boxes.csv has no box, so the face is detected: 7"):
        faces = CKPlus(official)
    frame = Image.open(official / name).convert("RGB")
    assert np.array_equal(faces.images[0], crop.resize(frame, (4, 6, 40)))
    assert faces.report["no face found: centre square taken"] == 7


ARCHIVES = [
    ("extended-cohn-kanade-images/cohn-kanade-images", "Emotion_labels/Emotion"),
    ("cohn-kanade-images", "Emotion_labels/Emotion"),
    ("extended-cohn-kanade-images", "Emotion_labels"),
    ("cohn-kanade-images/cohn-kanade-images", "Emotion/Emotion"),
]


@pytest.mark.parametrize(("frames", "labels"), ARCHIVES)
def test_archives_unpacked_each_into_a_folder_of_its_own(tmp_path, official, frames, labels):
    expected = CKPlus(official, crop="centre")
    for old, new in (("cohn-kanade-images", frames), ("Emotion", labels)):
        (tmp_path / "unpacked" / new).parent.mkdir(parents=True, exist_ok=True)
        (official / old).rename(tmp_path / "unpacked" / new)
    faces = CKPlus(tmp_path / "unpacked", crop="centre")
    assert np.array_equal(faces.images, expected.images) and torch.equal(faces.targets, expected.targets)
    assert faces.report == expected.report


def test_labels_that_are_all_somewhere_else_are_an_error_naming_where_was_looked(official):
    (official / "Emotion" / "deeper").mkdir()
    for person in ("S005", "S010"):
        (official / "Emotion" / person).rename(official / "Emotion" / "deeper" / person)
    with pytest.raises(
        ValueError, match=r"files in .*ck/Emotion, found none for any of 3 .*ck/Emotion/S010/003/\*\.txt"
    ):
        CKPlus(official)


@pytest.mark.filterwarnings("ignore:.*no face found")
def test_a_drawn_number_of_images(official):
    faces, again = (ckplus.paper_images(official, seed=1, images=7) for _ in range(2))
    assert len(faces) == 7 and faces.files == again.files
    assert faces.files != ckplus.paper_images(official, seed=2, images=7).files
    assert len(ckplus.paper_images(official)) == 12  # fewer than 1875: all, five frames and a neutral one each


def test_a_folder_per_class_is_not_drawn_from(tmp_path):
    for i in range(9):
        picture(tmp_path / "own" / ("happy" if i % 2 else "sad") / f"S{i}.png", (48, 48))
    assert len(ckplus.paper_images(tmp_path / "own", images=7)) == 9


def test_the_last_frames_of_a_folder_per_class_are_the_last_by_number(tmp_path):
    root = tmp_path / "own"
    for frame in (8, 9, 10):
        picture(root / "happy" / f"S1_1_{frame}.png", (48, 48))
        picture(root / "neutral" / f"S1_1_{frame}.png", (48, 48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as many frames as CK+48 has
        faces = CKPlus(root, peak_frames=2)
    assert [f for f in faces.files if "happy" in f] == ["happy/S1_1_9.png", "happy/S1_1_10.png"]
    assert faces.report == {"frames before the last 2, left out": 1} and len(faces) == 5


def test_frames_left_out_of_long_sequences_are_warned_of(tmp_path):
    for i in range(12):
        picture(tmp_path / "own" / "happy" / f"S1_20240101_{i:04}.jpg", (48, 48))
    with pytest.warns(
        UserWarning, match=r"before the last 3 of long sequences, left out: .*raise peak_frames.*: 9 \(happy"
    ):
        assert len(CKPlus(tmp_path / "own")) == 3
    assert len(CKPlus(tmp_path / "own", peak_frames=12)) == 12


def test_the_person_is_the_first_group_that_took_part(tmp_path):
    for name in ("S1_a", "P2_b", "P2_c", "none"):
        picture(tmp_path / "own" / "happy" / f"{name}.png", (48, 48))
    with pytest.warns(UserWarning, match=r"no person .*person=….*person:.*: 1 \(happy/none.png\)"):
        faces = CKPlus(tmp_path / "own", person=r"(S\d+)|(P\d+)")
    assert faces.people.tolist() == ["P2", "P2", "S1", "happy/none.png"]
    with pytest.warns(UserWarning, match=r"no person .*: 1 \(happy/none.png\)"):
        assert CKPlus(tmp_path / "own", person=r"([SP]?\d*)").people.tolist() == ["P2", "P2", "S1", "happy/none.png"]


def test_any_folder_per_class_with_a_pattern_for_people(tmp_path):
    root = tmp_path / "own"
    for label, name in (("Bored", "ann-1"), ("Bored", "bob-1"), ("awake", "ann-2"), ("happy", "eve-1")):
        picture(root / label / f"{name}.png", (48, 48))
    faces = CKPlus(root, person=r"([a-z]+)-")
    assert faces.classes == ("happy", "awake", "bored")  # the paper's first
    assert sorted(faces.people) == ["ann", "ann", "bob", "eve"]
    with pytest.warns(UserWarning, match="no person"):
        assert len(set(CKPlus(root).people)) == 4


def test_grey_is_replicated_and_a_small_square_is_taken_whole(tmp_path):
    pixels = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) % 256
    (tmp_path / "own" / "happy").mkdir(parents=True)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "own" / "happy" / "S001_001_00000003.png")
    faces = CKPlus(tmp_path / "own")
    image = faces.images[0]
    assert np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]) and faces.report == {}
    assert faces.sequences[0] == "S001/001"


def test_the_cache_is_used_again_and_made_anew_when_a_file_changes(celeba, cache, monkeypatch):
    first = CelebA(celeba, "all", ATTRIBUTES)
    with monkeypatch.context() as patch:
        patch.setattr(crop, "cut", lambda *_: pytest.fail("decoded again"))
        assert np.array_equal(CelebA(celeba, "all", ATTRIBUTES).images, first.images)
    picture(celeba / "img_align_celeba" / "000002.jpg", (90, 110), seed=9)
    changed = CelebA(celeba, "all", ATTRIBUTES)
    assert not np.array_equal(changed.images[1], first.images[1])
    assert np.array_equal(changed.images[0], first.images[0])
    assert len(list(cache.glob("*"))) == 4  # two caches with their notes, nothing half-written


def test_equal_names_sizes_and_times_do_not_make_equal_pictures(tmp_path):
    def read(folder, seed):
        file = tmp_path / folder / "happy" / "S1.bmp"
        picture(file, (48, 48), seed)
        os.utime(file, ns=(0, 0))
        return CKPlus(tmp_path / folder).images[0]

    one, two = read("one", seed=1), read("two", seed=2)
    assert not np.array_equal(one, two)
    assert np.array_equal(read("one", seed=2), two)  # written over in this process


def test_the_parts_of_a_set_read_each_file_once(celeba, monkeypatch):
    read, digest = [], dataset.hashlib.file_digest
    monkeypatch.setattr(
        dataset.hashlib, "file_digest", lambda file, kind: (read.append(file.name), digest(file, kind))[1]
    )
    for _ in range(3):
        CelebA(celeba, "all", ATTRIBUTES)
    assert len(read) == len(set(read)) == 4


def test_the_same_bytes_elsewhere_and_at_another_time_share_the_cache(tmp_path, celeba, monkeypatch):
    first = CelebA(celeba, "all", ATTRIBUTES).images[:]
    shutil.copytree(celeba, tmp_path / "other", copy_function=shutil.copy)
    monkeypatch.setattr(crop, "cut", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(CelebA(tmp_path / "other", "all", ATTRIBUTES).images, first)


def test_the_users_home_is_expanded(tmp_path, celeba, official, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(CelebA("~/celeba", "all", ATTRIBUTES)) == 4
    assert len(ckplus.paper_images("~/ck", images=7, crop="centre")) == 7


def test_two_may_build_the_cache_at_once(celeba, cache):
    files = [f"img_align_celeba/{i:06}.jpg" for i in LABELS]
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda _: dataset.read(celeba, files, "centre")[0][:], range(2))
    assert np.array_equal(a, b) and len(list(cache.iterdir())) == 2


def test_a_subset_keeps_its_order_and_its_kind_and_pickles_as_a_file_name(celeba):
    faces = CelebA(celeba, "all", ATTRIBUTES)
    chosen = faces.subset([3, 1]).subset(np.array([True, False]))
    assert isinstance(chosen, CelebA) and chosen.files == [faces.files[3]]
    assert np.array_equal(chosen.images[0], faces.images[3]) and torch.equal(chosen.targets, faces.targets[[3]])
    sent = pickle.dumps(faces)
    assert len(sent) < 20_000 and np.array_equal(pickle.loads(sent).images, faces.images)


def test_a_box_is_squared_and_moved_into_the_picture():
    assert crop.squared(10, 20, 30, 50, (200, 100)) == (0, 20, 50)
    assert crop.squared(180, 90, 30, 30, (200, 100)) == (170, 70, 30)


def test_the_real_truncated_list_loads_with_counted_warnings(data_root, monkeypatch):
    root = data_root / "celeba"
    if not root.is_dir():
        pytest.skip("needs real faces: no folder celeba in DUALTL_DATA")
    monkeypatch.setattr(dataset.crop, "cut", lambda *_: crop.Cut(np.zeros((3, 227, 227), np.uint8), ""))
    monkeypatch.setattr(config, "reserve", lambda _: None)  # a file of holes: only the labels are looked at
    with pytest.warns(UserWarning) as told:
        faces = CelebA(root, "test")
    said = " ".join(str(w.message) for w in told)
    assert "line 1 promises 202599 rows, found 20000" in said and "rows without a picture: 12000" in said
    assert len(faces) == 800 and faces.targets.shape == (800, 12)


def test_real_ckplus48(data_root):
    root = data_root / "ckplus48"
    if not root.is_dir():
        pytest.skip("needs real faces: no folder ckplus48 in DUALTL_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faces = CKPlus(root, neutral=False)
    assert faces.classes == paper.EXPRESSIONS[1:] and len(faces) == 981 and len(set(faces.people)) == 118
