"""What every set of faces is: images, labels, people and sequences beside them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dualtl_lib.data.cache import Images
from dualtl_lib.data.notices import Notices
from dualtl_lib.data.paths import nfc
from dualtl_lib.files import count


@dataclass(eq=False, repr=False)
class Faces(torch.utils.data.Dataset):
    """Faces with their labels, in torchvision's manner. CelebA, CKPlus and FaceFolder fill it from folders.

    Args:
        images: uint8 RGB, shape (N, 3, 227, 227), an array or `cache.Images`.
        targets: int64, class indices, shape (N,), or attributes, 0 absent and 1 present, shape (N, A).
        classes: Names of the classes, or of the attributes.
        people: Who each image shows, N names.
        sequences: The recording that each image comes from, N names.
        files: The pictures' paths under the folder they were read from.
        report: How many pictures, rows or sequences were left out or are doubtful, by reason.
        layout: How the faces lie in their squares, a key of `regions.LAYOUTS`.
        digests: Equal for images that are equal, N strings; "" where nothing is compared. Default: all "".
        transform: Applied to an image by `faces[i]`, as torchvision's datasets do; `batch` leaves it out.

    Raises:
        ValueError: If these differ in length.
    """

    images: Images
    targets: Tensor
    classes: tuple[str, ...]
    people: np.ndarray
    sequences: np.ndarray
    files: list[str]
    report: dict[str, int] = field(default_factory=dict)
    layout: str = "detected"
    digests: np.ndarray = field(default_factory=lambda: np.array([], str), kw_only=True)
    transform: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if not isinstance(self.images, Images):
            self.images = Images(self.images, np.arange(len(self.images)))
        self.targets = torch.as_tensor(self.targets, dtype=torch.int64)
        self.classes, self.files = tuple(self.classes), list(self.files)
        self.people, self.sequences = np.asarray(self.people, str), np.asarray(self.sequences, str)
        self.digests = np.asarray(self.digests if len(self.digests) else [""] * len(self.files), str)
        columns = (self.images, self.targets, self.people, self.sequences, self.files, self.digests)
        if len(lengths := {len(column) for column in columns}) != 1:
            raise ValueError(f"images, targets, people, sequences and files differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        """An image (3, 227, 227) and its target for an int; the faces of these for a slice, indices or a mask."""
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        if np.ndim(index):
            return self.subset(index)
        image = torch.from_numpy(self.images[int(index)])
        return self.transform(image) if self.transform else image, self.targets[int(index)]

    def __repr__(self) -> str:
        faces, people = count(len(self), "face", "faces"), count(len(set(self.people)), "person", "people")
        lines = [f"{type(self).__name__}: {faces} of {people}", *(f"    {k}: {n}" for k, n in self.report.items())]
        return "\n".join(lines)

    def batch(self, indices) -> Tensor:
        """The images at these indices, uint8, shape (K, 3, 227, 227)."""
        return torch.from_numpy(self.images[self._rows(indices)])

    def of_class(self, name: str) -> np.ndarray:
        """Indices of the images of a class.

        Raises:
            ValueError: If there is no class of this name.
        """
        if nfc(name) not in self.classes:
            raise ValueError(f"no class {name!r}; these faces have {', '.join(self.classes)}")
        return np.flatnonzero(self.targets.numpy() == self.classes.index(nfc(name)))

    def _rows(self, indices) -> np.ndarray:
        """Indices, or a mask, as int64 indices; none for an empty selection."""
        indices = np.asarray(indices)
        return np.arange(len(self))[indices] if indices.size else np.zeros(0, np.int64)

    def subset(self, indices) -> Self:
        """The faces at these indices, or where this mask is true, in that order, sharing the pixels."""
        rows, view = self._rows(indices), copy.copy(self)
        view.images = Images(self.images.pixels, self.images.rows[rows])
        view.targets = self.targets[torch.from_numpy(rows)]
        view.people, view.sequences, view.digests = self.people[rows], self.sequences[rows], self.digests[rows]
        view.files = [self.files[i] for i in rows]
        return view

    def without(self, name: str) -> Self:
        """The faces of the other classes, which keep their order.

        Raises:
            ValueError: If there is no class of this name.
        """
        self.of_class(name)
        gone = self.classes.index(nfc(name))
        view = self.subset(self.targets.numpy() != gone)
        view.targets = view.targets - (view.targets > gone).long()
        view.classes = self.classes[:gone] + self.classes[gone + 1 :]
        return view


def joined(groups: Sequence[str] | np.ndarray, digests: Sequence[str] | np.ndarray) -> np.ndarray:
    """Groups of images such as people, made one where they share an identical image.

    Args:
        groups: The group of each image, N names.
        digests: Equal for equal images; "" for one that is not compared.

    Returns:
        Names of the groups, shape (N,): of those that are one, the first in order.
    """
    names, group = np.unique(groups, return_inverse=True)
    _, image = np.unique([d or f"image {i}" for i, d in enumerate(digests)], return_inverse=True)
    edges = (np.ones(len(group)), (group, len(names) + image))
    nodes = len(names) + len(group)
    _, component = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    _, first = np.unique(component[: len(names)], return_index=True)
    first_of = dict(zip(component[first].tolist(), names[first], strict=True))
    return np.array([first_of[c] for c in component[group].tolist()], str)


def notice_identical(files: Sequence[str], labels: Sequence, digests: np.ndarray, notices: Notices) -> None:
    """Count the images that equal an earlier one, apart by whether their labels agree."""
    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        if not digest or (earlier := first.setdefault(digest, i)) == i:
            continue
        agree = "the same label" if np.array_equal(labels[i], labels[earlier]) else "another label"
        reason, advice = f"pictures identical to an earlier one of {agree}", "splits keep them on one side"
        notices.add(reason, f"{files[i]} = {files[earlier]}", advice=advice)
