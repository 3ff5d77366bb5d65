from .data.celeba import CelebA as CelebA
from .data.ckplus import CKPlus as CKPlus
from .data.dataset import Faces as Faces
from .data.folders import FaceFolder as FaceFolder
from .data.splits import random_split as random_split
from .data.splits import subject_independent as subject_independent
from .evaluate.metrics import accuracy as accuracy
from .models.caffenet import AttributeNet as AttributeNet
from .models.caffenet import ExpressionNet as ExpressionNet
from .models.caffenet import Trunk as Trunk
from .models.store import load_model as load_model
from .models.store import save_model as save_model
from .models.weights import load_trunk as load_trunk
from .train.recipe import CELEBA as CELEBA
from .train.recipe import CKPLUS as CKPLUS
from .train.recipe import Recipe as Recipe
from .train.trainer import fit as fit
from .visualize.deconvnet import Deconvnet as Deconvnet

__version__: str
