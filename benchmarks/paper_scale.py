"""How long the paper's training takes at its own size: 202,599 faces, 100 per batch, on the GPU where there is one.

python -m benchmarks.paper_scale [--faces 202599] [--expressions 1400] [--iterations 10000] [--precision auto]

Run it where this repository lies, without installing it, with these packages and PyTorch:

    export PACKAGES="scipy scikit-learn pandas pillow opencv-python-headless safetensors tqdm"
    pip download --only-binary :all: --dest wheels $PACKAGES      # here
    pip install --no-index --find-links wheels $PACKAGES          # there

It needs no data: 2000 pictures of noise, repeated to the number of images, and random labels. Faces would take another
time. An iteration is cheaper where few images of its batch have a gradient, and the gradients decide when the schedule
stops early. Steps two and three run through trainer.fit with the early stop of the schedule, as a run with `stop_early`
does, and for at most --iterations of each.
"""

import argparse
import dataclasses
import os
import time
from functools import partial

import numpy as np
import torch

from dualtl_lib import paper
from dualtl_lib.data.dataset import Faces, Images
from dualtl_lib.models import caffenet
from dualtl_lib.models.precision import accelerator, resolve
from dualtl_lib.train import trainer
from dualtl_lib.train.recipe import CELEBA, CKPLUS

DIFFERENT = 2000  # pictures


def noise(images: int, classes: tuple[str, ...], attributes: bool) -> Faces:
    """A few pictures of noise, repeated, with random labels."""
    shape = (min(images, DIFFERENT), 3, caffenet.SIZE, caffenet.SIZE)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    targets = np.random.default_rng(1).integers(0, 2, (images, len(classes)) if attributes else images)
    names = [str(i) for i in range(images)]
    repeated = Images(pixels, np.arange(images) % len(pixels))
    return Faces(repeated, torch.from_numpy(targets), classes, names, names, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=int, default=paper.CELEBA_IMAGES)
    parser.add_argument("--expressions", type=int, default=paper.CKPLUS_SPLIT["train"])
    parser.add_argument("--iterations", type=int, default=CKPLUS.max_iter, help="at most, of each step")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "auto"), default="auto")
    args = parser.parse_args()
    device = accelerator()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    precision = resolve(args.precision, device)
    print(f"{name}, torch {torch.__version__}, {precision}, batches of {CELEBA.batch}\n")
    print("| step | images | iterations | s | images trained on per second | remaining update at the early stop |")
    print("|---|---:|---:|---:|---:|---|")
    torch.manual_seed(0)
    trunk, whole = caffenet.Trunk(), 0.0
    without_conv5 = partial(caffenet.ExpressionNet, conv5=False)
    for title, kind, classes, frozen, recipe, images in (
        ("two, conv1 frozen", caffenet.AttributeNet, paper.ATTRIBUTES, 1, CELEBA, args.faces),
        ("three, conv1-2 frozen", caffenet.ExpressionNet, paper.EXPRESSIONS, 2, CKPLUS, args.expressions),
        ("three, Fig. 18's heads", without_conv5, paper.EXPRESSIONS, 4, CKPLUS, args.expressions),
    ):
        model = kind(trunk, classes).freeze(*(layer.name for layer in trunk.layers[:frozen])).to(device)
        data = noise(images, classes, kind is caffenet.AttributeNet)
        short = dataclasses.replace(recipe, max_iter=min(args.iterations, recipe.max_iter))
        begin = time.perf_counter()
        history = trainer.fit(model, data, short, config=trainer.TrainerConfig(precision=precision, stop_early=True))
        seconds, done = time.perf_counter() - begin, len(history["loss"])
        whole += seconds
        bound = f"{history['remaining_update']:.0e}" if "remaining_update" in history else "not reached"
        rate = done * recipe.batch / seconds
        print(f"| {title} | {images} | {done} | {seconds:.1f} | {rate:.0f} | {bound} |", flush=True)
    print(f"\nall three: {whole / 60:.1f} minutes, frozen layers included")
    if device.type == "cuda":
        print(f"peak memory of the GPU: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
