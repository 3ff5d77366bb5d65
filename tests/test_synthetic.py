"""Synthetic faces: layouts, labels, masks, metadata, determinism, and that each attribute is its own."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dualtl_lib import paper
from dualtl_lib.data import crop
from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.synthetic import portrait, reading_sheet, sequences
from dualtl_lib.synthetic.anatomy import LEFT, RIGHT, draw_attributes
from dualtl_lib.synthetic.faces import EXPRESSIONS, Identity, View, ckplus_plan, face
from dualtl_lib.synthetic.geometry import Features

NEUTRAL = dict.fromkeys(paper.ATTRIBUTES, 0.0)
REGIONS = {  # which parts an attribute is drawn in or around
    "Arched_Eyebrows": {"left_brow", "right_brow"},
    "Bags_Under_Eyes": {"left_eye", "right_eye", "left_cheek", "right_cheek"},
    "Big_Lips": {"mouth"},
    "Big_Nose": {"nose"},
    "Oval_Face": {"chin", "left_cheek", "right_cheek"},  # the jaw borders on them
    "High_Cheekbones": {"left_cheek", "right_cheek"},
    "Mouth_Slightly_Open": {"mouth"},
    "Narrow_Eyes": {"left_eye", "right_eye"},
    "Pointy_Nose": {"nose"},
    "Rosy_Cheeks": {"left_cheek", "right_cheek"},
    "Smiling": {"mouth", "left_cheek", "right_cheek"},
    "Bushy_Eyebrows": {"left_brow", "right_brow"},
}


def person(number=0):
    return Identity.draw(np.random.default_rng([11, number]))


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    return synthetic_faces.write_celeba(tmp_path_factory.mktemp("faces") / "celeba", people=10, images=24, workers=1)


@pytest.fixture(scope="module")
def ckplus(tmp_path_factory):
    return synthetic_faces.write_ckplus(tmp_path_factory.mktemp("faces") / "ckplus", subjects=2, workers=1)


@pytest.fixture
def drawn(monkeypatch):
    """Pictures are one grey each in place of faces; drawn(file) is what the picture in that file shows."""
    calls = []

    def paint(person, units, attributes, view, scene, size, grey=False):
        calls.append(SimpleNamespace(person=person, units=units, attributes=attributes, view=view))
        return np.full((*size, 1 if grey else 3), 4 * len(calls), np.uint8), np.zeros(size, np.uint8)

    def shown(file):
        with Image.open(file) as picture:
            return calls[round(np.asarray(picture).mean() / 4) - 1]  # four apart: JPEG and grain blur the grey

    monkeypatch.setattr(portrait, "paint", paint)
    return shown


def test_celeba_layout(celeba):
    lines = (celeba / "list_attr_celeba.txt").read_text().splitlines()
    names = lines[1].split()
    assert lines[0] == "24"
    assert len(names) == 40
    assert names == sorted(names, key=str.lower)  # CelebA's order is the alphabet's
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == [f"{k:06d}.jpg" for k in range(1, 25)]
    assert {value for row in rows for value in row[1:]} == {"1", "-1"}
    assert lines[2].startswith(("000001.jpg -1 ", "000001.jpg  1 "))
    for row in rows:
        with Image.open(celeba / "img_align_celeba" / row[0]) as picture:
            assert (picture.size, picture.mode, picture.format) == ((178, 218), "RGB", "JPEG")
            assert "synthetic faces" in picture.info["comment"].decode()


def test_celeba_partitions_keep_people_apart(celeba):
    def column(name):
        return dict(line.split() for line in (celeba / name).read_text().splitlines())

    people, partition = column("identity_CelebA.txt"), column("list_eval_partition.txt")
    assert people.keys() == partition.keys()
    assert len(set(people.values())) == 10
    assert set(partition.values()) == {"0", "1", "2"}
    assert len({(people[k], partition[k]) for k in people}) == 10


def test_celeba_labels_follow_the_drawing():
    rng = np.random.default_rng(3)
    someone, attributes = person(), draw_attributes(rng)
    labels = dict(
        zip(synthetic_faces.CELEBA_ATTRIBUTES, synthetic_faces.celeba_labels(someone, attributes), strict=True)
    )
    for name in paper.ATTRIBUTES:
        assert labels[name] == (attributes[name] > 0.5)
    assert labels["Male"] == someone.male
    assert labels["Eyeglasses"] == someone.glasses


def test_celeba_pictures_show_what_their_labels_say(drawn, tmp_path):
    root = synthetic_faces.write_celeba(tmp_path / "celeba", people=10, images=24, workers=1)
    lines = (root / "list_attr_celeba.txt").read_text().splitlines()
    owner = dict(line.split() for line in (root / "identity_CelebA.txt").read_text().splitlines())
    people = {}
    for file, *values in map(str.split, lines[2:]):
        labels = dict(zip(lines[1].split(), (value == "1" for value in values), strict=True))
        shows = drawn(root / "img_align_celeba" / file)
        assert {name: labels[name] for name in paper.ATTRIBUTES} == {k: v > 0.5 for k, v in shows.attributes.items()}
        assert (labels["Male"], labels["Eyeglasses"]) == (shows.person.male, shows.person.glasses)
        assert people.setdefault(owner[file], shows.person) == shows.person
    assert len(people) == 10
    assert not any(one == other for one, other in combinations(people.values(), 2))


def test_attributes_are_independent_and_not_rare():
    drawn = np.array([[v > 0.5 for v in draw_attributes(np.random.default_rng([5, k])).values()] for k in range(2000)])
    assert (drawn.mean(0) > 0.12).all()
    assert (drawn.mean(0) < 0.6).all()
    assert np.abs(np.corrcoef(drawn.T) - np.eye(12)).max() < 0.1


def test_ckplus_layout(ckplus):
    labels = sorted(ckplus.glob("Emotion/*/*/*_emotion.txt"))
    assert len(labels) == 7  # two subjects show each emotion once
    for label in labels:
        assert label.read_text() == f"   {int(float(label.read_text()))}.0000000e+00\n"
        subject, sequence = label.parts[-3:-1]
        frames = sorted((ckplus / "cohn-kanade-images" / subject / sequence).iterdir())
        assert 7 <= len(frames) <= 9
        assert [f.name for f in frames] == [f"{subject}_{sequence}_{k:08d}.png" for k in range(1, len(frames) + 1)]
        assert label.name == f"{frames[-1].stem}_emotion.txt"
        with Image.open(frames[-1]) as picture:
            assert (picture.size, picture.mode) == ((640, 490), "L")
            assert "synthetic faces" in picture.text["Title"]
    assert {p.parent.parent.name for p in labels} == {"S005", "S006"}
    codes = {int(float(label.read_text())) for label in labels}
    assert codes == set(range(1, 8))


def test_ckplus_plan_has_the_official_counts():
    plan = ckplus_plan(123, seed=0)
    shown = [emotion for emotions in plan for emotion in emotions]
    assert len(shown) == 327
    assert {e: shown.count(e) for e in set(shown)} == synthetic_faces.CKPLUS_COUNTS
    assert all(1 <= len(emotions) == len(set(emotions)) <= 6 for emotions in plan)


def test_sequences_go_from_neutral_to_peak(ckplus):
    for folder in sorted(ckplus.glob("cohn-kanade-images/S005/*")):
        frames = [np.asarray(Image.open(f), float) for f in sorted(folder.iterdir())]
        away = [np.abs(frame - frames[0]).mean() for frame in frames]
        assert away[1] < away[-1]
        assert np.abs(frames[-1] - frames[-3]).mean() < away[-1]


def test_sequences_show_the_labelled_emotion_from_a_neutral_frame_on(drawn, tmp_path):
    root = synthetic_faces.write_ckplus(tmp_path / "ckplus", subjects=2, workers=1)
    # CK+'s own codes, as its label files have them
    codes = {1: "anger", 2: "contempt", 3: "disgust", 4: "fear", 5: "happy", 6: "sadness", 7: "surprise"}
    subjects = {}
    for label in root.glob("Emotion/*/*/*_emotion.txt"):
        frames = sorted((root / "cohn-kanade-images" / label.parent.relative_to(root / "Emotion")).iterdir())
        shows = [drawn(frame) for frame in frames]
        strengths = [{unit: max(sides) for unit, sides in each.units.items()} for each in shows]
        assert set(strengths[0].values()) == {0}
        for unit in strengths[-1]:
            assert (np.diff([each[unit] for each in strengths]) > 0).all()
        emotion = EXPRESSIONS[codes[int(float(label.read_text()))]]
        moved = strengths[-1].keys() - emotion.sometimes.keys()  # and nothing else: no stray movements
        assert any(moved == {*emotion.always, *some} - emotion.sometimes.keys() for some in emotion.either)
        for each in shows:  # attributes that are movements would show in the neutral frame, too
            assert not {"Smiling", "Mouth_Slightly_Open"} & each.attributes.keys()
            assert subjects.setdefault(label.parts[-3], each.person) == each.person
    assert subjects["S005"] != subjects["S006"]


@pytest.mark.parametrize("layout", ["celeba", "ckplus"])
def test_known_boxes_lie_where_the_detector_puts_them(layout, request):
    root = request.getfixturevalue(layout)
    shifts = []
    for row in (root / "boxes.csv").read_text().splitlines()[1::2]:
        file, (x, y, side) = row.split(",")[0], map(float, row.split(",")[1:])
        with Image.open(root / file) as picture:
            found = crop.face_box(picture)
        if found:  # of some faces it finds nothing, or several boxes
            left, top, length = found
            shifts.append(np.array([left + length / 2 - x - side / 2, top + length / 2 - y - side / 2, length - side]))
            shifts[-1] /= side
    assert len(shifts) >= 8
    assert (np.abs(np.median(shifts, 0)) < 0.08).all()  # two people's faces, in CK+'s layout


def test_the_detector_finds_most_faces_where_they_are():
    """On people enough that their own shapes cancel out: the square is the detector's, and neutral and peak alike."""
    shifts, frames = [], 0
    for who, emotions in enumerate(ckplus_plan(24, 3)):
        sequence = sequences.ckplus_sequence(3, who, 1, emotions[0])
        for frame in (sequence.frames[0], sequence.frames[-1]):
            pixels, _ = sequences.draw_frame(sequence, frame)
            found, frames = crop.face_box(Image.fromarray(pixels)), frames + 1
            if found:
                x, y, side = portrait.face_box(frame.view)
                middle = np.array([found[0] + found[2] / 2 - x - side / 2, found[1] + found[2] / 2 - y - side / 2])
                shifts.append([*middle / side, found[2] / side - 1])
    assert len(shifts) >= 0.75 * frames
    assert (np.abs(np.median(shifts, 0)) < 0.04).all()


def test_only_frames_near_the_peak_carry_the_label():
    for who, emotions in enumerate(ckplus_plan(20, 4)):
        frames = sequences.ckplus_sequence(4, who, 1, emotions[0]).frames
        strengths = [max(max(sides) for sides in frame.units.values()) for frame in frames]
        assert strengths[0] == 0 and strengths[-1] >= sequences.STRENGTH[0]
        assert min(strengths[-5:]) >= 0.8 * strengths[-1]  # those that a run takes


def test_framing_varies_but_keeps_the_face():
    for who, emotions in enumerate(ckplus_plan(20, 4)):
        for frame in sequences.ckplus_sequence(4, who, 1, emotions[0]).frames:
            x, y, side = portrait.face_box(frame.view)
            left, top, length = frame.box
            assert abs(length / side - 1) < 0.08
            assert abs(left + length / 2 - x - side / 2) < 0.06 * side
            assert abs(top + length / 2 - y - side / 2) < 0.06 * side


def test_a_sitting_shows_no_attribute_that_could_be_an_expression():
    sequence = sequences.ckplus_sequence(4, 0, 1, "happy")
    assert not {"Smiling", "Mouth_Slightly_Open", "Narrow_Eyes", "Bags_Under_Eyes"} & sequence.attributes.keys()


def test_a_neutral_face_is_relaxed_whoever_it_is():
    for number in range(60):
        someone = person(number)
        drawn = Features(someone, {}, {name: someone.traits[name] for name in sequences.SITTING})
        corners = [drawn.corner[side][1] - drawn.mouth_centre for side in (LEFT, RIGHT)]
        assert np.abs(corners).max() < 0.02 and drawn.opening == 0
        assert corners[0] == corners[1]
        inner, outer = drawn.brows[LEFT]["line"][[0, 3], 1]
        assert abs(inner - outer) < 0.1


def test_a_smile_curves_and_contempt_is_one_sided():
    rng = np.random.default_rng(0)
    for number in range(30):
        someone = person(number)
        smile = Features(someone, EXPRESSIONS["happy"].draw(rng, *sequences.STRENGTH), NEUTRAL)
        assert all(smile.corner[side][1] < smile.mouth_centre - 0.08 for side in (LEFT, RIGHT))
        sneer = Features(someone, EXPRESSIONS["contempt"].draw(rng, *sequences.STRENGTH), NEUTRAL)
        assert abs(sneer.corner[LEFT][1] - sneer.corner[RIGHT][1]) > 0.12


def test_reading_sheets_are_numbered_faces_of_a_runs_data(tmp_path, ckplus):
    drawn = reading_sheet.draw(0, n_images=6, subjects=2)
    for face_ in drawn:  # the same as the data set's own, cut by its boxes
        subject, sequence, frame = face_.frame.split("/")
        file = f"cohn-kanade-images/{subject}/{sequence}/{subject}_{sequence}_{frame}.png"
        x, y, side = synthetic_faces.box(ckplus, file)
        cut = crop.cut(ckplus / file, box=(x, y, side, side)).pixels[0]
        assert np.array_equal(cut, face_.pixels)
        label = next((ckplus / "Emotion" / subject / sequence).iterdir()).read_text()
        assert face_.expression == ("neutral" if int(frame) == 1 else paper.EXPRESSIONS[int(float(label))])
    reading_sheet.main(["5", "--faces", "3", "--folder", str(tmp_path)])
    with Image.open(tmp_path / "faces_sheet_5.png") as sheet:
        assert sheet.width == 6 * 204 + 4
    key = json.loads((tmp_path / "faces_key_5.json").read_text())
    assert list(key["faces"]) == ["1", "2", "3"]


@pytest.mark.parametrize("layout", ["celeba", "ckplus"])
def test_boxes_and_masks_of_every_picture(layout, request):
    root = request.getfixturevalue(layout)
    lines = (root / "boxes.csv").read_text().splitlines()[1:]
    pictures = [p for folder in ("img_align_celeba", "cohn-kanade-images") for p in (root / folder).rglob("*.*")]
    assert len(lines) == len(pictures)
    file = lines[-1].split(",")[0]
    with Image.open(root / file) as picture:
        size = picture.size[::-1]
    x, y, side = box = synthetic_faces.box(root, file)
    masks = synthetic_faces.parts(root, file)
    assert set(masks) == set(synthetic_faces.PARTS)
    for mask in masks.values():
        assert mask.shape == size
        assert mask.any()
    rows, columns = np.nonzero(masks["left_eye"] | masks["mouth"])
    assert x < columns.min() and columns.max() < x + side
    assert y < rows.min() and rows.max() < y + side
    cut = synthetic_faces.parts(root, file, box)
    assert cut["nose"].shape == (227, 227)
    assert abs(np.nonzero(cut["nose"])[1].mean() - 113) < 30
    with Image.open((root / "parts" / file).with_suffix(".png")) as index:
        assert "synthetic faces" in index.text["Title"]


def test_masks_of_pictures_without_them_are_asked_for(celeba):
    with pytest.raises(FileNotFoundError, match="no part masks"):
        synthetic_faces.parts(celeba, "img_align_celeba/999999.jpg")


@pytest.mark.parametrize("attribute", paper.ATTRIBUTES)
def test_an_attribute_changes_its_own_region(attribute):
    """Where the change is densest is a part that the attribute is about, on each of three people."""
    for number in range(3):
        someone = person(number)
        without, parts_without = face(someone, {}, NEUTRAL)
        with_it, parts_with = face(someone, {}, NEUTRAL | {attribute: 1.0})
        change = np.abs(with_it.astype(float) - without).mean(2)
        names = [name for name in synthetic_faces.PARTS if name != "face"]
        density = {name: change[parts_without[name] | parts_with[name]].mean() for name in names}
        assert (change > 8).sum() > 60  # pixels of 227x227
        assert max(density, key=density.get) in REGIONS[attribute], density


def test_masks_lie_where_the_features_are_drawn():
    """A mask covers what it names: opening the mouth, closing the eyes or raising the brows changes just that."""
    someone = person(1)
    plain, masks = face(someone, {}, NEUTRAL)
    for units, names in (({7: 1.0}, ("left_eye", "right_eye")), ({23: 1.0}, ("mouth",))):
        moved, after = face(someone, units, NEUTRAL)
        change = np.abs(moved.astype(float) - plain).mean(2) > 12
        covered = np.any([masks[name] | after[name] for name in names], 0)
        around = np.pad(covered, 8)
        near = np.any([np.roll(around, shift, (0, 1)) for shift in ((8, 0), (-8, 0), (0, 8), (0, -8), (0, 0))], 0)
        assert change.sum() > 20
        assert (change & near[8:-8, 8:-8]).sum() > 0.9 * change.sum()
    left = np.nonzero(masks["left_eye"])[1].mean()
    assert left < np.nonzero(masks["nose"])[1].mean() < np.nonzero(masks["right_eye"])[1].mean()


def test_expressions_are_the_action_units_that_ckplus_codes():
    rng = np.random.default_rng(0)
    needs = dict(anger={4}, contempt={14}, fear={1, 2, 4, 5, 20}, happy={6, 12}, sadness={1, 4, 15}, surprise={1, 2, 5})
    assert set(EXPRESSIONS) == set(paper.EXPRESSIONS)
    for emotion, units in needs.items():
        for _ in range(20):
            assert units <= EXPRESSIONS[emotion].draw(rng).keys()
    for _ in range(20):
        assert {9, 10} & EXPRESSIONS["disgust"].draw(rng).keys()
        assert {23, 24} & EXPRESSIONS["anger"].draw(rng).keys()
        assert {26, 27} & EXPRESSIONS["surprise"].draw(rng).keys()
        assert 0.0 in EXPRESSIONS["contempt"].draw(rng)[14]  # one corner only
    assert EXPRESSIONS["neutral"].draw(rng) == {}


def test_action_units_move_features_the_way_facs_says():
    def feature(units):
        return Features(person(2), units, NEUTRAL)

    rest = feature({})
    assert feature({12: 1.0}).corner[LEFT][1] < rest.corner[LEFT][1]  # y points down: corners rise
    assert feature({15: 1.0}).corner[RIGHT][1] > rest.corner[RIGHT][1]
    assert feature({20: 1.0}).corner[RIGHT][0] > rest.corner[RIGHT][0]
    assert feature({27: 1.0}).opening > feature({26: 1.0}).opening > feature({25: 1.0}).opening > rest.opening
    assert feature({27: 1.0}).chin > rest.chin
    assert feature({5: 1.0}).eyes[LEFT]["top"] > rest.eyes[LEFT]["top"] > feature({7: 1.0}).eyes[LEFT]["top"]
    inner, outer = rest.brows[LEFT]["line"][[0, 3], 1]
    assert feature({1: 1.0}).brows[LEFT]["line"][0, 1] < inner
    assert feature({2: 1.0}).brows[LEFT]["line"][3, 1] < outer
    assert feature({4: 1.0}).brows[LEFT]["line"][0, 1] > inner
    one_sided = feature({14: (1.0, 0.0)})
    assert one_sided.corner[LEFT][1] < rest.corner[LEFT][1]
    assert one_sided.corner[RIGHT][1] == rest.corner[RIGHT][1]


def test_unknown_action_units_and_attributes_are_refused():
    with pytest.raises(ValueError, match="99"):
        face(person(), {99: 1.0})
    with pytest.raises(ValueError, match="Smilling"):
        face(person(), {}, {"Smilling": 1})


def test_123_people_are_distinct():
    """No two of them are closer, as small neutral pictures, than one of them under another pose."""
    view, turned = View(30, 26, 16), View(30.5, 26, 16, yaw=3)
    pictures = np.array([face(person(k), {}, NEUTRAL, view, size=(68, 60))[0].ravel() for k in range(123)], float)
    moved = np.array([face(person(k), {}, NEUTRAL, turned, size=(68, 60))[0].ravel() for k in range(0, 123, 12)], float)
    apart = np.sqrt(((pictures[:, None, ::7] - pictures[None, :, ::7]) ** 2).mean(2)) + 1e9 * np.eye(123)
    same = np.sqrt(((moved[:, ::7] - pictures[::12, ::7]) ** 2).mean(1))
    assert apart.min() > np.median(same)
