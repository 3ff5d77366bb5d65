"""A reproducible companion to Lin et al. (2019), dual transfer learning for facial expression recognition.

`import dualtl_lib as dtl` gives the names in `__all__`; a module is imported when one of its names is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualtl_lib.data.celeba import CelebA
    from dualtl_lib.data.ckplus import CKPlus
    from dualtl_lib.data.dataset import Faces
    from dualtl_lib.data.folders import FaceFolder
    from dualtl_lib.data.splits import random_split, subject_independent
    from dualtl_lib.evaluate.metrics import accuracy
    from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet, Trunk
    from dualtl_lib.models.store import load_model, save_model
    from dualtl_lib.models.weights import load_trunk
    from dualtl_lib.train.recipe import CELEBA, CKPLUS, Recipe
    from dualtl_lib.train.trainer import fit
    from dualtl_lib.visualize.deconvnet import Deconvnet

__version__ = "0.1.0"
_MODULES = {
    "data.celeba": ("CelebA",),
    "data.ckplus": ("CKPlus",),
    "data.dataset": ("Faces",),
    "data.folders": ("FaceFolder",),
    "data.splits": ("random_split", "subject_independent"),
    "evaluate.metrics": ("accuracy",),
    "models.caffenet": ("AttributeNet", "ExpressionNet", "Trunk"),
    "models.store": ("load_model", "save_model"),
    "models.weights": ("load_trunk",),
    "train.recipe": ("CELEBA", "CKPLUS", "Recipe"),
    "train.trainer": ("fit",),
    "visualize.deconvnet": ("Deconvnet",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "CELEBA",
    "CKPLUS",
    "AttributeNet",
    "CKPlus",
    "CelebA",
    "Deconvnet",
    "ExpressionNet",
    "FaceFolder",
    "Faces",
    "Recipe",
    "Trunk",
    "accuracy",
    "fit",
    "load_model",
    "load_trunk",
    "random_split",
    "save_model",
    "subject_independent",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
