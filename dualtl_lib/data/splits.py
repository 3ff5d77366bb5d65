"""Who learns and who is tested: images at random as the paper has it, people or sequences kept apart.

Every split is stratified by class and the same for the same seed. Of attributes, which are many labels at once,
none is stratified by.
"""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from dualtl_lib import paper
from dualtl_lib.data.dataset import Faces


class Split(NamedTuple):
    """Indices into a set of faces, int64, sorted; no image is in two parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def random_split(
    faces: Faces,
    seed: int = 0,
    test: int | float = paper.CKPLUS_SPLIT["test"],
    validation: int | float = paper.CKPLUS_SPLIT["validation"],
) -> list[Split]:
    """Images at random, the paper's protocol (section 4.3.1): 200 to test, 275 to validate, the rest to train.

    test, validation: numbers of images, or fractions below 1. Of fewer than the paper's 1875 images the default
    numbers become the paper's fractions, with a warning. Each part has each class's share, rounded: a rare class may
    be missing from a part, with a warning. One split, in a list as the other protocols give theirs.
    Raises ValueError for sizes that do not fit, for a class of fewer than three images, and when the test takes all
    but one image of a class, which is then too few to train and to validate.
    """
    n, labels = len(faces), _labels(faces)
    if n < paper.CKPLUS_IMAGES and (test, validation) == (paper.CKPLUS_SPLIT["test"], paper.CKPLUS_SPLIT["validation"]):
        test, validation = test / paper.CKPLUS_IMAGES, validation / paper.CKPLUS_IMAGES
        warnings.warn(
            f"{n} images are fewer than the paper's {paper.CKPLUS_IMAGES}: its 200 test and 275 validation images "
            f"become the same shares, {round(test * n)} and {round(validation * n)}",
            stacklevel=2,
        )
    sizes = [round(size * n) if size < 1 else int(size) for size in (test, validation)]
    _enough(faces, labels, 3, "images", "one each to train, validate and test")
    least = len(np.unique(labels))
    if min(sizes) < least or sum(sizes) + least > n:
        raise ValueError(
            f"{n} images of {least} classes cannot give {sizes[0]} to test and {sizes[1]} to validate: each part "
            "needs at least one image a class; pass test=… and validation=… as numbers or fractions"
        )
    rest, tested = train_test_split(np.arange(n), test_size=sizes[0], stratify=labels, random_state=seed)
    why = f"one each to train and validate, besides the {sizes[0]} that test=… takes"
    _enough(faces, labels[rest], 2, "images", why)
    train, validated = train_test_split(rest, test_size=sizes[1], stratify=labels[rest], random_state=seed)
    split = Split(np.sort(train), np.sort(validated), np.sort(tested))
    _warn_of_missing(faces, labels, split)
    return [split]


def subject_independent(faces: Faces, folds: int = 10, seed: int = 0, validation: float = 0.1) -> list[Split]:
    """One split per fold with nobody on two sides; every image is tested once.

    validation: the share of the learning part kept to validate, about: its people are apart as well, so that a few
    people, or classes of few images, give a larger share. A class of few people may be missing from some parts; where
    a fold trains or tests without one, a warning says so.
    Raises ValueError when a class has fewer images than folds, or there are too few people to have some in each part.
    """
    return _grouped(faces, faces.people, "people", folds, seed, validation)


def sequence_independent(faces: Faces, folds: int = 10, seed: int = 0, validation: float = 0.1) -> list[Split]:
    """As `subject_independent`, with all images of a recording on one side; a person may be on both."""
    return _grouped(faces, faces.sequences, "sequences", folds, seed, validation)


def overlap(faces: Faces, split: Split) -> dict[str, int]:
    """How many people and sequences are tested, and how many of them stand on both sides, in training too."""
    counts = {}
    for name, groups in (("people", faces.people), ("sequences", faces.sequences)):
        tested = set(groups[split.test])
        counts[f"{name} tested"] = len(tested)
        counts[f"{name} on both sides"] = len(tested & set(groups[split.train]))
    return counts


def _labels(faces: Faces) -> np.ndarray:
    """What is stratified by: the class, or nothing for attributes."""
    return faces.targets.numpy() if faces.targets.ndim == 1 else np.zeros(len(faces), np.int64)


def _name(faces: Faces, label: int) -> str:
    return faces.classes[label] if faces.targets.ndim == 1 else "all images"


def _enough(faces: Faces, labels: np.ndarray, least: int, what: str, why: str) -> None:
    few = {_name(faces, k): int((labels == k).sum()) for k in np.unique(labels) if (labels == k).sum() < least}
    if few:
        found = ", ".join(f"{name} has {count}" for name, count in few.items())
        raise ValueError(f"each class needs at least {least} {what}, {why}; {found}: add images or leave the class out")


def _warn_of_missing(faces: Faces, labels: np.ndarray, split: Split) -> None:
    """Warn of each class that a part has no image of."""
    for label in np.unique(labels):
        train, validation, test = (int((labels[part] == label).sum()) for part in split)
        if not (train and validation and test):
            warnings.warn(
                f"class {_name(faces, label)} has {train + validation + test} images: {train} to train, "
                f"{validation} to validate, {test} to test: raise test=… or validation=…, add images or "
                "leave the class out",
                stacklevel=3,
            )


def _grouped(faces: Faces, groups: np.ndarray, what: str, folds: int, seed: int, validation: float) -> list[Split]:
    labels = _labels(faces)
    if folds < 2 or not 0 < validation <= 0.5:
        raise ValueError(f"folds is 2 or more and validation in (0, 0.5], not {folds} and {validation}")
    _enough(faces, labels, folds, "images", f"one for each of {folds} folds")
    if len(np.unique(groups)) <= folds - (folds > 2):
        raise ValueError(f"{len(np.unique(groups))} {what} cannot be kept apart in {folds} folds: lower folds")
    inner = max(2, round(1 / validation))
    splits = []
    for learned, tested in _folds(labels, groups, folds, seed):
        left, largest = len(np.unique(groups[learned])), np.bincount(labels[learned]).max()
        if left < 2 or largest < 2:
            raise ValueError(
                f"{len(np.unique(groups))} {what} cannot be kept apart in {folds} folds: one leaves {left} {what}, and "
                f"at most {largest} images a class, to train and to validate, which takes 2: add {what} or change folds"
            )
        train, validated = _folds(labels[learned], groups[learned], min(inner, left, largest), seed)[0]
        splits.append(Split(learned[train], learned[validated], tested))
    for label in np.unique(labels):
        without = [[label in labels[part] for part in parts].count(False) for parts in zip(*splits, strict=True)]
        train, validate, test = without
        if train or test:
            warnings.warn(
                f"class {_name(faces, label)} has {len(np.unique(groups[labels == label]))} {what}: of {folds} folds "
                f"{train} train, {validate} validate and {test} test without it: add {what}, lower folds or leave the "
                "class out",
                stacklevel=3,
            )
    return splits


def _folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with warnings.catch_warnings():  # a class of few members has been told of already, by name
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
