"""A small run with faces and untrained models, for the explorer's tests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dualtl_lib import config, files, paper
from dualtl_lib.experiment import pipeline
from dualtl_lib.models import caffenet, store
from dualtl_lib.synthetic import anatomy, expressions
from dualtl_lib.synthetic import faces as synthetic_faces


def draw_face(expression: str, rng: np.random.Generator, side: int) -> np.ndarray:
    """A synthetic face, uint8, shape (side, side, 3)."""
    units = expressions.EXPRESSIONS[expression].draw(rng)
    return synthetic_faces.face(anatomy.Identity.draw(rng), units, size=(side, side))[0]


def portrait() -> Image.Image:
    """A larger picture with one face in it, at 450, 150 to 850, 550."""
    picture = np.full((600, 900, 3), 128, np.uint8)
    picture[150:550, 450:850] = draw_face("happy", np.random.default_rng(4), 400)
    return Image.fromarray(picture)


def write_faces(root: Path, each: int = 12) -> Path:
    """A folder per class of small synthetic faces. One is drawn for each; the rest are this one, lit otherwise."""
    rng = np.random.default_rng(0)
    for name in paper.EXPRESSIONS:
        (root / name).mkdir(parents=True)
        pixels = draw_face(name, rng, 96)
        for k in range(each):
            lit = np.clip(pixels.astype(float) * (0.7 + 0.05 * k), 0, 255).astype(np.uint8)
            Image.fromarray(lit[:, ::-1] if k % 2 else lit).save(root / name / f"S{k:03}_001_{k:08}.png")
    return root


def write_run(folder: Path, patch: pytest.MonkeyPatch) -> config.Run:
    """A run in this folder with the models of notebooks 03 and 05, untrained, the second's conv3 changed."""
    patch.setattr(files, "OUTPUT", folder)
    patch.setenv("DUALTL_CACHE", str(folder / "cache"))
    run = config.open_run("embedded", ckplus=str(write_faces(folder / "faces")))
    torch.manual_seed(1)
    trunk = pipeline.trunk(run)
    store.save_model(caffenet.AttributeNet(trunk, paper.ATTRIBUTES), run.checkpoint("celeba"))
    second = caffenet.ExpressionNet(trunk, paper.EXPRESSIONS)
    with torch.no_grad():
        second.trunk.conv("conv3").weight.mul_(-1)
        second.fc2.weight.mul_(30)
    store.save_model(second, run.checkpoint("ckplus_fig14"))
    return run
