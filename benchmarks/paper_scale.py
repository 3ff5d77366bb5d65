"""How long the paper's training takes at its own size: 202,599 faces, 100 a batch, on the GPU where there is one.

python -m benchmarks.paper_scale [--faces 202599] [--expressions 1400] [--iterations 10000] [--precision auto]

Run where this repository lies, not installed, with torch, scipy, scikit-learn, pyyaml, safetensors and tqdm:

    pip download --only-binary :all: --dest wheels scipy scikit-learn pyyaml safetensors tqdm    # here
    pip install --no-index --find-links wheels scipy scikit-learn pyyaml safetensors tqdm        # there

No data: 2000 different pictures of noise, repeated to the number asked for, and random labels. Faces would take another
time: an iteration is cheaper where few images of its batch have a gradient, and the gradients say where the tail ends.
Steps two and three run through training.fit, the schedule's dead tail left out where its bound allows, as a run with
`skip_dead_tail` does, and after at most --iterations of each.
"""

import argparse
import dataclasses
import os
import time
from functools import partial

import numpy as np
import torch

from dualtl_lib import paper
from dualtl_lib.models import caffenet
from dualtl_lib.models.precision import accelerator, resolve
from dualtl_lib.train import training

DIFFERENT = 2000  # pictures


class Repeated:
    """Pictures of noise, uint8 [N, 3, 227, 227], of which only the first few are held."""

    def __init__(self, images: int):
        shape = (min(images, DIFFERENT), 3, caffenet.SIZE, caffenet.SIZE)
        self.pixels, self.images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index) -> np.ndarray:
        rows = np.arange(self.images)[index] if isinstance(index, slice) else np.asarray(index)
        return self.pixels[rows % len(self.pixels)]


class Faces:
    """As much of dualtl_lib.data.dataset.Faces as training asks for; labels are random."""

    def __init__(self, images: int, classes: tuple[str, ...], attributes: bool):
        self.images, self.classes = Repeated(images), classes
        shape = (images, len(classes)) if attributes else (images,)
        self.targets = torch.from_numpy(np.random.default_rng(1).integers(0, 2, shape))

    def __len__(self) -> int:
        return len(self.images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=int, default=paper.CELEBA_IMAGES)
    parser.add_argument("--expressions", type=int, default=paper.CKPLUS_SPLIT["train"])
    parser.add_argument("--iterations", type=int, default=training.CKPLUS.max_iter, help="at most, of each step")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "auto"), default="auto")
    args = parser.parse_args()
    device = accelerator()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    precision = resolve(args.precision, device)
    print(f"{name}, torch {torch.__version__}, {precision}, batches of {training.CELEBA.batch}\n")
    print("| step | images | iterations | s | images trained on a second | tail left out, bound |")
    print("|---|---:|---:|---:|---:|---|")
    torch.manual_seed(0)
    trunk, whole = caffenet.Trunk(), 0.0
    without_conv5 = partial(caffenet.ExpressionNet, conv5=False)
    for title, kind, classes, frozen, recipe, images in (
        ("two, conv1 frozen", caffenet.AttributeNet, paper.ATTRIBUTES, 1, training.CELEBA, args.faces),
        ("three, conv1-2 frozen", caffenet.ExpressionNet, paper.EXPRESSIONS, 2, training.CKPLUS, args.expressions),
        ("three, Fig. 18's heads", without_conv5, paper.EXPRESSIONS, 4, training.CKPLUS, args.expressions),
    ):
        model = kind(trunk, classes).freeze(*(layer.name for layer in trunk.layers[:frozen])).to(device)
        data = Faces(images, classes, kind is caffenet.AttributeNet)
        short = dataclasses.replace(recipe, max_iter=min(args.iterations, recipe.max_iter))
        begin = time.perf_counter()
        history = training.fit(model, data, short, precision=precision, skip_dead_tail=True)
        seconds, done = time.perf_counter() - begin, len(history["loss"])
        whole += seconds
        bound = f"{history['skipped_movement'][0]:.0e}" if "skipped_movement" in history else "not reached"
        rate = done * recipe.batch / seconds
        print(f"| {title} | {images} | {done} | {seconds:.1f} | {rate:.0f} | {bound} |", flush=True)
    print(f"\nall three: {whole / 60:.1f} minutes, frozen layers included")
    if device.type == "cuda":
        print(f"peak memory of the GPU: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
