"""Data sets on small folders in each layout: labels, crops, people, the image cache, and real copies."""

import pickle
import shutil
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from dualtl_lib import files, paper
from dualtl_lib.data import cache as image_cache
from dualtl_lib.data import crop
from dualtl_lib.data.celeba import CelebA
from dualtl_lib.data.ckplus import CKPlus, paper_images
from dualtl_lib.data.folders import FaceFolder
from dualtl_lib.data.notices import Notices

ATTRIBUTES = ("Smiling", "Big_Nose")
LABELS = {1: (1, -1), 2: (-1, -1), 3: (1, 1), 4: (-1, 1)}


def picture(path, size=(178, 218)):
    """A picture of noise, another one for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(rng.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)).save(path)


def write_list(path, rows, head, comma):
    path.write_text("\n".join([*head, *(comma.join(map(str, row)) for row in rows)]) + "\n")


def opened(root, split="all", **settings):
    return CelebA(root, split=split, attributes=ATTRIBUTES, **settings)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def celeba(tmp_path):
    root = tmp_path / "celeba"
    for i in LABELS:
        picture(root / "img_align_celeba" / f"{i:06}.jpg")
    rows = [(f"{i:06}.jpg", a, b) for i, (a, b) in LABELS.items()]
    write_list(root / "list_attr_celeba.txt", rows, ["4", " ".join(ATTRIBUTES)], "  ")
    return root


@pytest.fixture
def official(tmp_path):
    """Two labelled sequences of six frames, one of them contempt, and one without a label."""
    root = tmp_path / "ck"
    for name, code in (("S005/001", 3), ("S010/002", 2), ("S010/003", None)):
        stem = name.replace("/", "_")
        for frame in range(1, 7):
            picture(root / "cohn-kanade-images" / name / f"{stem}_{frame:08}.png", (64, 49))
        (root / "Emotion" / name).mkdir(parents=True)
        if code is not None:
            (root / "Emotion" / name / f"{stem}_00000006_emotion.txt").write_text(f"   {code}.0000000e+00\n")
    return root


def test_celeba_labels_become_0_and_1_in_the_order_of_the_arguments(celeba):
    faces = CelebA(celeba, split="all", attributes=("Big_Nose", "Smiling"))
    assert faces.targets.tolist() == [[int(b > 0), int(a > 0)] for a, b in LABELS.values()]
    assert faces.images.shape == (4, 3, 227, 227) and faces.report == {} and faces.layout == "celeba"
    image, target = faces[2]
    assert image.dtype == torch.uint8 and image.shape == (3, 227, 227) and target.tolist() == [1, 1]
    whole = Image.open(celeba / faces.files[2]).resize((227, 227), Image.Resampling.BILINEAR, box=(0, 20, 178, 198))
    assert np.array_equal(image.numpy().transpose(1, 2, 0), np.asarray(whole))  # the centre 178x178


def test_pictures_in_the_wild_are_cut_to_the_listed_box(celeba):
    (celeba / "img_align_celeba").rename(celeba / "img_celeba")
    boxes = {1: (10, 20, 60, 60), 2: (0, 100, 50, 100), 3: (5, 5, 40, 40)}  # none for the fourth
    rows = [(f"{i:06}.jpg", *box) for i, box in boxes.items()]
    write_list(celeba / "list_bbox_celeba.txt", rows, ["3", "image_id x_1 y_1 width height"], " ")
    with pytest.warns(UserWarning, match="list_bbox_celeba has no box.* 1 "):
        faces = opened(celeba)
    assert faces.layout == "detected"
    for i, (x, y, side) in enumerate([(10, 20, 60), (0, 100, 100), (5, 5, 40)]):
        with Image.open(celeba / "img_celeba" / f"{i + 1:06}.jpg") as whole:
            assert np.array_equal(faces.images[i], crop.resize(whole, (x, y, side)))


def test_kaggles_lists_are_the_same(celeba):
    first = opened(celeba)
    (celeba / "list_attr_celeba.txt").unlink()
    rows = [(f"{i:06}.jpg", a, b) for i, (a, b) in LABELS.items()]
    write_list(celeba / "list_attr_celeba.csv", rows, [f"image_id,{','.join(ATTRIBUTES)}"], ",")
    parts = [(f"{i:06}.jpg", i % 3) for i in LABELS]
    write_list(celeba / "list_eval_partition.csv", parts, ["image_id,partition"], ",")
    again = opened(celeba)
    assert torch.equal(first.targets, again.targets) and np.array_equal(first.images, again.images)
    names = {split: [f[-6:-4] for f in opened(celeba, split).files] for split in ("train", "valid", "test")}
    assert names == {"train": ["03"], "valid": ["01", "04"], "test": ["02"]}


def test_parts_without_a_partition_list_keep_people_and_identical_files_on_one_side(tmp_path):
    """Forty pictures of people with two each; the last of each ten is a copy of a picture of somebody else."""
    root = tmp_path / "celeba"
    for i in range(40):
        path = root / "img_align_celeba" / f"{i:06}.png"
        picture(path, (20, 20))
        if i % 10 == 9:
            shutil.copy(path.with_name(f"{i - 9:06}.png"), path)
    write_list(root / "identity_CelebA.txt", [(f"{i:06}.png", i // 2) for i in range(40)], [], " ")
    write_list(
        root / "list_attr_celeba.txt", [(f"{i:06}.png", 1, -1) for i in range(40)], ["40", "Smiling Big_Nose"], " "
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # identical pictures
        parts = [opened(root, split, seed=3) for split in ("train", "valid", "test")]
    assert sum(map(len, parts)) == 40 and min(map(len, parts)) > 0
    for column in ("people", "digests"):
        sides = [set(getattr(part, column)) for part in parts]
        assert sum(map(len, sides)) == len(set.union(*sides))


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
    faces = CKPlus(official, neutral=False, contempt=False, crop="centre")
    assert faces.classes == ("disgust",) and len(faces) == 3


@pytest.mark.filterwarnings("ignore:.*no face found")
def test_known_boxes_come_before_the_detector(official):
    name = "cohn-kanade-images/S005/001/S005_001_00000001.png"
    (official / "boxes.csv").write_text(f"file,x,y,side\n{name},4,6,40\nother.png,1,1,x\n")
    with pytest.warns(UserWarning, match="boxes.csv has no box.*: 7"):
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


def test_labels_that_are_all_somewhere_else_are_an_error(official):
    (official / "Emotion" / "deeper").mkdir()
    for person in ("S005", "S010"):
        (official / "Emotion" / person).rename(official / "Emotion" / "deeper" / person)
    with pytest.raises(ValueError, match=r"ck/Emotion: .*S010/003/\*\.txt"):
        CKPlus(official)


def test_a_drawn_number_of_images(official):
    faces, again, other = (paper_images(official, seed=s, images=7, crop="centre") for s in (1, 1, 2))
    assert len(faces) == 7 and faces.files == again.files != other.files
    assert len(paper_images(official, crop="centre")) == 12  # fewer than 1875: all, five frames and a neutral one each


def test_the_last_frames_of_a_folder_per_class_are_the_last_by_number(tmp_path):
    root = tmp_path / "own"
    for name in ("happy", "neutral"):
        for frame in (8, 9, 10):
            picture(root / name / f"S1_1_{frame}.png", (48, 48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as many frames as CK+48 has
        faces = FaceFolder(root, peak_frames=2)
    assert [f for f in faces.files if "happy" in f] == ["happy/S1_1_9.png", "happy/S1_1_10.png"]
    assert faces.report == {"frames before the last 2, left out": 1} and len(faces) == 5
    for frame in (1, 2, 3):
        picture(root / "happy" / f"S1_1_{frame}.png", (48, 48))
    with pytest.warns(UserWarning, match=r"of long sequences.*: 3 \(happy/S1_1_1.png, .*peak_frames"):
        assert len(FaceFolder(root)) == 6
    assert len(FaceFolder(root, peak_frames=6)) == 9


@pytest.mark.parametrize("pattern", [r"(S\d+)|(P\d+)", r"([SP]?\d*)"])
def test_the_person_is_the_first_group_that_took_part(tmp_path, pattern):
    for name in ("S1_a", "P2_b", "P2_c", "none"):
        picture(tmp_path / "own" / "happy" / f"{name}.png", (48, 48))
    with pytest.warns(UserWarning, match=r"no person .*: 1 \(happy/none.png\).*person=…"):
        faces = FaceFolder(tmp_path / "own", person=pattern)
    assert faces.people.tolist() == ["P2", "P2", "S1", "happy/none.png"]


def test_any_folder_per_class_with_a_pattern_for_people(tmp_path):
    root = tmp_path / "own"
    for label, name in (("Bored", "ann-1"), ("Bored", "bob-1"), ("awake", "ann-2"), ("happy", "eve-1")):
        picture(root / label / f"{name}.png", (48, 48))
    faces = FaceFolder(root, person=r"([a-z]+)-")
    assert faces.classes == ("happy", "awake", "bored")  # the paper's first
    assert sorted(faces.people) == ["ann", "ann", "bob", "eve"] and faces.report == {}
    with pytest.warns(UserWarning, match="no person"):
        assert len(set(FaceFolder(root).people)) == 4


def test_grey_is_replicated_and_a_small_square_is_taken_whole(tmp_path):
    pixels = (np.arange(48 * 48).reshape(48, 48) % 256).astype(np.uint8)
    (tmp_path / "own" / "happy").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "own" / "happy" / "S001_001_00000003.png")
    faces = FaceFolder(tmp_path / "own")
    image = faces.images[0]
    assert np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]) and faces.report == {}
    assert faces.sequences[0] == "S001/001"


def test_the_cache_is_used_again_and_made_anew_when_a_file_changes(celeba, cache, monkeypatch):
    first = opened(celeba)
    with monkeypatch.context() as patch:
        patch.setattr(crop, "cut", lambda *_, **__: pytest.fail("decoded again"))
        assert np.array_equal(opened(celeba).images, first.images)
    picture(celeba / "img_align_celeba" / "000002.jpg", (90, 110))
    changed = opened(celeba)
    assert not np.array_equal(changed.images[1], first.images[1])
    assert np.array_equal(changed.images[0], first.images[0])
    assert len(list(cache.iterdir())) == 2  # nothing half-written


def test_the_same_bytes_elsewhere_and_at_another_time_share_the_cache(tmp_path, celeba, monkeypatch):
    first = opened(celeba).images[:]
    shutil.copytree(celeba, tmp_path / "other", copy_function=shutil.copy)
    monkeypatch.setattr(crop, "cut", lambda *_, **__: pytest.fail("decoded again"))
    assert np.array_equal(opened(tmp_path / "other").images, first)


def test_a_relative_cache_folder_is_the_same_for_faces_and_weights(tmp_path, celeba, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(files, "PROJECT", tmp_path)
    monkeypatch.setenv("DUALTL_CACHE", "relative")
    opened(celeba)
    assert len(list(files.cache_dir().glob("faces-*.npy"))) == 1


def test_the_users_home_is_expanded(tmp_path, celeba, official, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(opened("~/celeba", cache_dir="~/own")) == 4 and len(list((tmp_path / "own").iterdir())) == 1
    assert len(paper_images("~/ck", images=7, crop="centre")) == 7


def test_two_may_build_the_cache_at_once(celeba, cache):
    names = [f"img_align_celeba/{i:06}.jpg" for i in LABELS]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(image_cache.load_files, celeba, names, Notices(), mode="centre") for _ in range(2)]
    a, b = (job.result().images[:] for job in jobs)
    assert np.array_equal(a, b) and len(list(cache.iterdir())) == 1


def test_a_selection_keeps_its_order_and_its_kind_and_pickles_as_a_file_name(celeba):
    faces = opened(celeba)
    chosen = faces[[3, 1]][np.array([True, False])]
    assert isinstance(chosen, CelebA) and chosen.files == [faces.files[3]]
    assert np.array_equal(chosen.images[0], faces.images[3]) and torch.equal(chosen.targets, faces.targets[[3]])
    assert faces[1:3].files == faces.files[1:3] == faces.subset(torch.tensor([1, 2])).files
    sent = pickle.dumps(faces)
    assert len(sent) < 20_000 and np.array_equal(pickle.loads(sent).images, faces.images)


def test_a_transform_is_applied_to_single_images_as_in_torchvision(celeba):
    faces = opened(celeba, transform=lambda image: image.float().mean())
    assert faces[0][0] == faces.batch([0]).float().mean() and faces.batch([0]).dtype == torch.uint8


def test_a_box_is_squared_and_moved_into_the_picture():
    assert crop.squared(10, 20, 30, 50, (200, 100)) == (0, 20, 50)
    assert crop.squared(180, 90, 30, 30, (200, 100)) == (170, 70, 30)


def test_the_real_truncated_list_loads_with_counted_warnings(data_root, monkeypatch):
    root = data_root / "celeba"
    if not root.is_dir():
        pytest.skip("needs real faces: no folder celeba in DUALTL_DATA")
    monkeypatch.setattr(crop, "cut", lambda *_, **__: crop.Cut(np.zeros((3, 227, 227), np.uint8)))
    monkeypatch.setattr(files, "reserve", lambda _: None)  # a file of holes: only the labels are looked at
    with pytest.warns(UserWarning) as warned:
        faces = CelebA(root, split="test")
    messages = " ".join(str(w.message) for w in warned)
    assert "'202599' rows, found 20000" in messages and "rows without a picture: 12000" in messages
    assert len(faces) == 800 and faces.targets.shape == (800, 12)


def test_real_ckplus48(data_root):
    root = data_root / "ckplus48"
    if not root.is_dir():
        pytest.skip("needs real faces: no folder ckplus48 in DUALTL_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no identical pictures among them
        faces = FaceFolder(root, neutral=False)
    assert faces.classes == paper.EXPRESSIONS[1:] and len(faces) == 981 and len(set(faces.people)) == 118
