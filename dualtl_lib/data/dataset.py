"""What every set of faces is: images, labels, people and sequences beside them."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dualtl_lib.data.cache import Images
from dualtl_lib.data.notices import Notices
from dualtl_lib.data.paths import nfc
from dualtl_lib.files import count


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

    def __init__(
        self,
        images: np.ndarray | Images,
        targets: Tensor | Sequence,
        classes: Sequence[str],
        people: Sequence[str],
        sequences: Sequence[str],
        files: Sequence[str],
        *,
        report: dict[str, int] | None = None,
        layout: str = "detected",
        digests: Sequence[str] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.images = images if isinstance(images, Images) else Images(images, np.arange(len(images)))
        self.targets = torch.as_tensor(targets, dtype=torch.int64)
        self.classes = tuple(classes)
        self.people, self.sequences = np.asarray(people, str), np.asarray(sequences, str)
        self.files, self.report, self.layout, self.transform = list(files), dict(report or {}), layout, transform
        self.digests = np.asarray([""] * len(self.files) if digests is None else digests, str)
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
        lines = [f"{type(self).__name__}: {_faces_of_people(self)}"]
        return "\n".join([*lines, *(f"    {reason}: {n}" for reason, n in self.report.items())])

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

    def subset(self, indices) -> "Faces":
        """The faces at these indices, or where this mask is true, in that order, sharing the pixels."""
        rows = self._rows(indices)
        view = copy.copy(self)
        view.images = Images(self.images.pixels, self.images.rows[rows])
        view.targets = self.targets[torch.from_numpy(rows)]
        view.people, view.sequences, view.digests = self.people[rows], self.sequences[rows], self.digests[rows]
        view.files = [self.files[i] for i in rows]
        return view

    def without(self, name: str) -> "Faces":
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


def _faces_of_people(faces: Faces) -> str:
    people = count(len(set(faces.people)), "person", "people")
    return f"{count(len(faces), 'face', 'faces')} of {people}"


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


def notice_identical(files: Sequence[str], labels: Sequence, digests: Sequence[str], notices: Notices) -> None:
    """Count the images that equal an earlier one, apart by whether their labels agree."""
    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        if not digest or (earlier := first.setdefault(digest, i)) == i:
            continue
        agree = "the same label" if np.array_equal(labels[i], labels[earlier]) else "another label"
        notices.add(f"pictures identical to an earlier one of {agree}", f"{files[i]} = {files[earlier]}")
