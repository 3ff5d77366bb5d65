"""Splits: sizes, strata, nobody on both sides, the same from the same seed, clear errors."""

import numpy as np
import pytest

from dualtl_lib.data import splits
from dualtl_lib.data.dataset import Faces

CLASSES = ("neutral", "anger", "happy", "surprise")


def made(n: int = 1875, people: int = 100, weights=(0.4, 0.1, 0.2, 0.3), seed: int = 0) -> Faces:
    """Faces without pictures: random classes, people with three sequences each."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(len(weights), n, p=weights)
    who = rng.integers(people, size=n)
    recording = [f"S{p:03}/{r:03}" for p, r in zip(who, rng.integers(3, size=n), strict=True)]
    files = [f"{i}.png" for i in range(n)]
    images = np.broadcast_to(np.uint8(0), (n, 3, 227, 227))
    return Faces(images, targets, CLASSES, [f"S{p:03}" for p in who], recording, files)


def labelled(targets, people) -> Faces:
    n = len(targets)
    images = np.broadcast_to(np.uint8(0), (n, 3, 227, 227))
    return Faces(images, targets, CLASSES, people, people, [f"{i}.png" for i in range(n)])


def shares(faces: Faces, indices: np.ndarray) -> np.ndarray:
    return np.bincount(faces.targets.numpy()[indices], minlength=4) / len(indices)


def whole(faces: Faces, split: splits.Split) -> bool:
    return np.array_equal(np.sort(np.concatenate(split)), np.arange(len(faces)))


def test_images_at_random_have_the_papers_sizes_and_every_class_its_share():
    faces = made()
    (split,) = splits.random_split(faces, seed=3)
    assert [len(part) for part in split] == [1400, 275, 200]  # section 4.3.1
    assert whole(faces, split)
    for part in split:
        assert np.abs(shares(faces, part) - shares(faces, np.arange(1875))).max() < 1 / 200


def test_a_smaller_set_gets_the_papers_shares_and_a_warning():
    with pytest.warns(UserWarning, match="300 images are fewer than the paper's 1875"):
        (split,) = splits.random_split(made(300))
    assert [len(part) for part in split] == [224, 44, 32]


def test_sizes_as_fractions_and_numbers():
    faces = made(400)
    assert [len(p) for p in splits.random_split(faces, test=0.25, validation=0.1)[0]] == [260, 40, 100]
    assert [len(p) for p in splits.random_split(faces, test=50, validation=30)[0]] == [320, 30, 50]


@pytest.mark.parametrize(
    ("protocol", "groups"), [(splits.subject_independent, "people"), (splits.sequence_independent, "sequences")]
)
def test_groups_are_kept_apart_and_every_image_is_tested_once(protocol, groups):
    faces = made(900)
    found = protocol(faces, folds=5, seed=1)
    assert np.array_equal(np.sort(np.concatenate([s.test for s in found])), np.arange(900))
    names = getattr(faces, groups)
    for split in found:
        assert whole(faces, split)
        sides = [set(names[part]) for part in split]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert np.abs(shares(faces, split.test) - shares(faces, np.arange(900))).max() < 0.08
        assert splits.overlap(faces, split)[f"{groups} on both sides"] == 0


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    faces = made(600)
    for protocol in (
        lambda s: splits.random_split(faces, s, 0.1, 0.1),
        lambda s: splits.subject_independent(faces, 4, s),
    ):
        first, again, other = protocol(5), protocol(5), protocol(6)
        assert all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
        assert not np.array_equal(first[0].test, other[0].test)


def test_overlap_counts_people_and_sequences_on_both_sides():
    faces = labelled([0, 1, 0, 1], ["ann", "bob", "ann", "eve"])
    faces.sequences = np.array(["ann/1", "bob/1", "ann/2", "eve/1"])
    split = splits.Split(np.array([0, 1]), np.array([], int), np.array([2, 3]))
    assert splits.overlap(faces, split) == {
        "people tested": 2,
        "people on both sides": 1,
        "sequences tested": 2,
        "sequences on both sides": 0,
    }


def test_attributes_are_split_without_strata():
    n = 120
    images = np.broadcast_to(np.uint8(0), (n, 3, 227, 227))
    targets = np.random.default_rng(0).integers(2, size=(n, 3))
    names = [f"p{i // 4}" for i in range(n)]
    faces = Faces(images, targets, ("a", "b", "c"), names, names, names)
    assert whole(faces, splits.random_split(faces, test=0.2, validation=0.2)[0])
    assert all(
        splits.overlap(faces, s)["people on both sides"] == 0 for s in splits.subject_independent(faces, folds=3)
    )


def test_a_class_with_fewer_images_than_folds_is_named():
    faces = labelled([0] * 30 + [1] * 4, [f"p{i}" for i in range(34)])
    with pytest.raises(ValueError, match=r"at least 10 images.*anger has 4"):
        splits.subject_independent(faces, folds=10)
    with pytest.raises(ValueError, match=r"at least 3 images.*anger has 2"):
        splits.random_split(faces.subset(range(32)), test=4, validation=4)


def test_a_class_missing_from_a_part_is_warned_of():
    faces = labelled([0] * 297 + [1] * 3, [f"p{i}" for i in range(300)])
    message = "class anger has 3 images: 3 to train, 0 to validate, 0 to test"
    with pytest.warns(UserWarning, match=message), pytest.warns(UserWarning, match="fewer than the paper's"):
        splits.random_split(faces)


def test_a_test_that_leaves_too_few_of_a_class_is_an_error_of_our_own():
    faces, failed = labelled([0] * 20 + [1] * 4, [f"p{i}" for i in range(24)]), 0
    for seed in range(20):
        try:
            (split,) = splits.random_split(faces, seed, test=15, validation=5)
        except ValueError as error:
            failed += 1
            assert "at least 2 images, one each to train and validate, besides the 15 that test=… takes" in str(error)
            assert "anger has 1" in str(error)
        else:
            assert all(len(np.unique(faces.targets[part])) == 2 for part in split)
    assert 0 < failed < 20


@pytest.mark.filterwarnings("ignore:class . has 3 people")
def test_few_images_a_class_give_a_larger_validation_part():
    classes, people = np.arange(72) % 8, [f"p{i % 24}" for i in range(72)]
    faces = labelled(classes, people)
    faces.classes = tuple("abcdefgh")
    for split in splits.subject_independent(faces, folds=5):
        assert whole(faces, split) and all(len(part) for part in split)
        assert splits.overlap(faces, split)["people on both sides"] == 0


def test_too_few_people_to_learn_from_is_an_error_of_our_own():
    faces = labelled([0, 1] * 15, [f"p{i % 3}" for i in range(30)])
    with pytest.raises(ValueError, match="3 people cannot be kept apart in 2 folds: one leaves 1 people"):
        splits.subject_independent(faces, folds=2)


@pytest.mark.parametrize("folds", [2, 5])
def test_a_class_of_few_people_is_warned_of_with_what_lacks_it(folds):
    faces = labelled([0] * 30 + [1] * 12, [f"p{i}" for i in range(30)] + ["q1"] * 6 + ["q2"] * 6)
    with pytest.warns(UserWarning, match="anger has 2 people") as said:
        found = splits.subject_independent(faces, folds=folds)
    without = [sum((faces.targets[part] == 0).all().item() for part in parts) for parts in zip(*found, strict=True)]
    train, validate, test = without
    assert f"of {folds} folds {train} train, {validate} validate and {test} test without it" in str(said[0].message)
    assert train and test == folds - 2
    assert all(splits.overlap(faces, s)["people on both sides"] == 0 for s in found)


def test_people_who_show_one_class_only_are_kept_apart_all_the_same():
    faces = labelled(np.repeat([0, 1, 2, 3], 20), np.repeat([f"p{i}" for i in range(40)], 2))
    found = splits.subject_independent(faces, folds=5)
    assert all(len(np.unique(faces.targets[s.test])) == 4 for s in found)
    assert all(splits.overlap(faces, s)["people on both sides"] == 0 for s in found)


@pytest.mark.parametrize("people", [1, 3])
def test_fewer_people_than_folds_is_an_error(people):
    faces = labelled([0, 1] * 15, [f"p{i % people}" for i in range(30)])
    with pytest.raises(ValueError, match=f"{people} people cannot be kept apart in 5 folds"):
        splits.subject_independent(faces, folds=5)


@pytest.mark.parametrize(("test", "validation"), [(300, 200), (2, 50), (0, 10), (0.9, 0.2), (-5, 10)])
def test_impossible_sizes_are_an_error(test, validation):
    with pytest.raises(ValueError, match="cannot give"):
        splits.random_split(made(400), test=test, validation=validation)


@pytest.mark.parametrize("settings", [dict(folds=1), dict(validation=0), dict(validation=0.9)])
def test_impossible_folds_are_an_error(settings):
    with pytest.raises(ValueError, match="folds is 2 or more"):
        splits.subject_independent(made(200), **settings)
