"""Who is trained on and who is tested: the paper's random split, and subject- or sequence-independent splits.

Every split is stratified by class and the same for the same seed. Attributes, which are many labels at once, are not
stratified. Identical images are always on one side: those whose `digests` are equal.
"""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from dualtl_lib import paper
from dualtl_lib.data.dataset import Faces, joined
from dualtl_lib.files import count


class Split(NamedTuple):
    """Indices into a set of faces, int64, sorted; no image is in two parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def random_split(
    faces: Faces,
    *,
    seed: int = 0,
    test: int | float = paper.CKPLUS_SPLIT["test"],
    validation: int | float = paper.CKPLUS_SPLIT["validation"],
) -> list[Split]:
    """Images at random, the paper's protocol: 200 to test, 275 to validate, the rest to train.

    Each part has each class's share, rounded: a rare class may be missing from a part, with a warning. Of fewer than
    the paper's 1875 images the default sizes become the paper's fractions, with a warning. Identical images stay on
    one side; each group of them is drawn as one image, so that with them the sizes are met about.

    Args:
        faces: The faces to split.
        seed: Draws the images.
        test: Number of images, or a fraction below 1.
        validation: Number of images, or a fraction below 1.

    Returns:
        One split, in a list as from the other protocols.

    Raises:
        ValueError: If there are no images, the sizes do not fit, a class has fewer than three different images, or the
            test takes all but one of a class, which is then too few to train and to validate.

    References:
        Lin et al. (2019), section 4.3.1.
    """
    n = _check_images(faces)
    if n < paper.CKPLUS_IMAGES and (test, validation) == (paper.CKPLUS_SPLIT["test"], paper.CKPLUS_SPLIT["validation"]):
        test, validation = test / paper.CKPLUS_IMAGES, validation / paper.CKPLUS_IMAGES
        warnings.warn(
            f"{n} images are fewer than the paper's {paper.CKPLUS_IMAGES}: its 200 test and 275 validation images "
            f"become the same shares, {round(test * n)} and {round(validation * n)}",
            stacklevel=2,
        )
    sizes = [round(size * n) if size < 1 else int(size) for size in (test, validation)]
    image = joined([str(i) for i in range(n)], faces.digests).astype(int)  # the same for identical images
    drawn = np.unique(image)
    labels = _labels(faces)[drawn]
    _enough(faces, labels, 3, "images", "one each to train, validate and test")
    least = len(np.unique(labels))
    sizes = [round(size * len(drawn) / n) for size in sizes]
    if min(sizes) < least or sum(sizes) + least > len(drawn):
        raise ValueError(
            f"{n} images of {least} classes cannot give {sizes[0]} to test and {sizes[1]} to validate: each part "
            "needs at least one image a class; pass test=… and validation=… as numbers or fractions"
        )
    rest, tested = train_test_split(np.arange(len(drawn)), test_size=sizes[0], stratify=labels, random_state=seed)
    reason = f"one each to train and validate, besides the {sizes[0]} that test=… takes"
    _enough(faces, labels[rest], 2, "images", reason)
    train, validated = train_test_split(rest, test_size=sizes[1], stratify=labels[rest], random_state=seed)
    split = Split(*(np.flatnonzero(np.isin(image, drawn[part])) for part in (train, validated, tested)))
    _warn_of_missing(faces, _labels(faces), split)
    return [split]


def subject_independent(faces: Faces, *, folds: int = 10, seed: int = 0, validation: float = 0.1) -> list[Split]:
    """One split per fold with nobody on two sides; every image is tested once.

    A class of few people may be missing from some parts; where a fold trains or tests without one, a warning says so.
    People who share an identical image stay on one side.

    Args:
        faces: The faces to split.
        folds: How many splits.
        seed: Draws the people.
        validation: The share of the training part kept to validate, about: its people are apart as well, so that a
            few people, or classes of few images, give a larger share.

    Raises:
        ValueError: If there are no images, a class has fewer images than folds, or there are too few people to have
            some in each part.
    """
    return _grouped(faces, faces.people, ("person", "people"), folds, seed, validation)


def sequence_independent(faces: Faces, *, folds: int = 10, seed: int = 0, validation: float = 0.1) -> list[Split]:
    """As `subject_independent`, with all images of a recording on one side; a person may be on both."""
    return _grouped(faces, faces.sequences, ("sequence", "sequences"), folds, seed, validation)


def overlap(faces: Faces, split: Split) -> dict[str, int]:
    """How many people and sequences are tested, and how many of them are on both sides, in training too."""
    counts = {}
    for name, groups in (("people", faces.people), ("sequences", faces.sequences)):
        tested = set(groups[split.test])
        counts[f"{name} tested"] = len(tested)
        counts[f"{name} on both sides"] = len(tested & set(groups[split.train]))
    return counts


def _check_images(faces: Faces) -> int:
    """How many images there are, which must be some."""
    if not len(faces):
        raise ValueError("there is no image to split; select some faces first")
    return len(faces)


def _labels(faces: Faces) -> np.ndarray:
    """What splits are stratified by: the class, or nothing for attributes."""
    return faces.targets.numpy() if faces.targets.ndim == 1 else np.zeros(len(faces), np.int64)


def _name(faces: Faces, label: int) -> str:
    return faces.classes[label] if faces.targets.ndim == 1 else "all images"


def _enough(faces: Faces, labels: np.ndarray, least: int, what: str, why: str) -> None:
    few = {_name(faces, k): int((labels == k).sum()) for k in np.unique(labels) if (labels == k).sum() < least}
    if few:
        names = ", ".join(f"{name} has {n}" for name, n in few.items())
        raise ValueError(f"each class needs at least {least} {what}, {why}; {names}: add images or leave the class out")


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


def _grouped(
    faces: Faces, groups: np.ndarray, nouns: tuple[str, str], folds: int, seed: int, validation: float
) -> list[Split]:
    _check_images(faces)
    labels, groups = _labels(faces), joined(groups, faces.digests)
    if folds < 2 or not 0 < validation <= 0.5:
        raise ValueError(f"folds is 2 or more and validation in (0, 0.5], not {folds} and {validation}")
    _enough(faces, labels, folds, "images", f"one for each of {folds} folds")
    many = count(len(np.unique(groups)), *nouns)
    if len(np.unique(groups)) <= folds - (folds > 2):
        raise ValueError(f"{many} cannot be kept apart in {folds} folds: lower folds")
    inner = max(2, round(1 / validation))
    splits = []
    for learned, tested in _folds(labels, groups, folds, seed):
        left, largest = len(np.unique(groups[learned])), np.bincount(labels[learned]).max()
        if left < 2 or largest < 2:
            raise ValueError(
                f"{many} cannot be kept apart in {folds} folds: one leaves {count(left, *nouns)}, and at most "
                f"{largest} images a class, to train and to validate, which takes 2: add {nouns[1]} or change folds"
            )
        train, validated = _folds(labels[learned], groups[learned], min(inner, left, largest), seed)[0]
        splits.append(Split(learned[train], learned[validated], tested))
    for label in np.unique(labels):
        parts_of = zip(*splits, strict=True)
        train, validate, test = ([label in labels[part] for part in parts].count(False) for parts in parts_of)
        if train or test:
            warnings.warn(
                f"class {_name(faces, label)} has {count(len(np.unique(groups[labels == label])), *nouns)}: of {folds} "
                f"folds {train} train, {validate} validate and {test} test without it: add {nouns[1]}, lower folds or "
                "leave the class out",
                stacklevel=3,
            )
    return splits


def _folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with warnings.catch_warnings():  # there is a warning of our own for a class of few members, by name
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
