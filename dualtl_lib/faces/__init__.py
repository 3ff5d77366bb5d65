"""Images and labels: CelebA, CK+ and folders like it, synthetic faces in the layouts of both."""

from . import ckplus, crop, splits, synthetic
from .celeba import CelebA
from .ckplus import CKPlus
from .dataset import Faces

__all__ = ["CKPlus", "CelebA", "Faces", "ckplus", "crop", "splits", "synthetic"]
