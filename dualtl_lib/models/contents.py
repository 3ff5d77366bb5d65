"""What a file of weights holds, whatever its format, and the error for a file that is something else."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

STARTS = {  # first bytes of files that often lie in a model's place, and what to do
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull` to get the file itself",
    b"\x89HDF": "an HDF5 file, which is not read; Caffe writes .caffemodel with `snapshot_format: BINARYPROTO`",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"PK": "a zip archive; unpack it, or name it .pth if torch.save wrote it",
    b"<": "a web page; fetch the file itself",
    b"name:": "a text description of a network; name the file with its weights",
}


class Geometry(NamedTuple):
    """How a convolution moves over its maps; a tuple has two numbers where rows and columns differ."""

    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0,)
    groups: int = 1
    dilation: tuple[int, ...] = (1,)

    @classmethod
    def of(cls, stride: Iterable[int], padding: Iterable[int], groups: int, dilation: Iterable[int]) -> "Geometry":
        """Make one from a file's lists, which may repeat a number for each direction, or be empty for the default."""
        given = [tuple(sorted(set(numbers))) for numbers in (stride, padding, dilation)]
        return cls(given[0] or (1,), given[1] or (0,), groups or 1, given[2] or (1,))


class Contents(NamedTuple):
    """What a file of weights holds.

    Attributes:
        tensors: Arrays or tensors by name: "conv1.weight" of shape (C, C before / groups, H, W), "conv1.bias" of
            shape (C,), and so on. Names are the file's own.
        order: "pool-norm" or "norm-pool"; None where nothing in the file shows it.
        order_from: Which part of the file shows the order.
        geometry: Of each convolution, where the file has it.
        metadata: What a safetensors file has besides its tensors.
    """

    tensors: Mapping[str, Any]
    order: str | None = None
    order_from: str = ""
    geometry: Mapping[str, Geometry] = {}
    metadata: Mapping[str, Any] = {}


def mismatch(where: object, expected: object, found: object, advice: str) -> ValueError:
    """The error for a file, or a part of it, that is not as it should be."""
    return ValueError(f"{where}: expected {expected}, found {found}; {advice}")


def unreadable(where: object, expected: str, content: bytes, found: str, *, advice: str = "") -> ValueError:
    """The error for bytes that are not of the format that their file's name promises.

    Args:
        where: The file, or the part of it.
        expected: The format.
        content: The bytes, or the first of them.
        found: What the parser reports of other content than in STARTS.
        advice: What to do about it.
    """
    for start, known in STARTS.items():
        if content.lstrip().startswith(start):
            return ValueError(f"{where}: expected {expected}, found {known}")
    return mismatch(where, expected, found, advice or "it is cut off or of another format: fetch it again")
