"""What a run is made of: its trunk, its faces, its trained models and their predictions.

A run's config enters here; everything below gets plain values. Synthetic faces are written at the first call, under
runs/data/, and shared by all runs of the same seed.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dualtl_lib import files, paper
from dualtl_lib.config import Run, open_run
from dualtl_lib.data import splits
from dualtl_lib.data.celeba import CelebA
from dualtl_lib.data.ckplus import paper_images
from dualtl_lib.data.dataset import Faces
from dualtl_lib.data.expressions import Expressions
from dualtl_lib.evaluate import baselines, occlusion
from dualtl_lib.experiment import steps
from dualtl_lib.models import caffenet, store, weights
from dualtl_lib.models.precision import accelerator, resolve
from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.train import inference, trainer
from dualtl_lib.train.checkpoint import OtherTraining, read_metadata
from dualtl_lib.train.frozen import FrozenFeatures
from dualtl_lib.train.recipe import BUDGETS, Recipe

CELEBA_IMAGES, CELEBA_PEOPLE, CKPLUS_SUBJECTS = 2400, 480, 123  # of the synthetic sets; CK+ has 123 subjects
FOLDS = 5  # of the subject-independent split; the notebooks train on the first one

Predictions = dict[str, dict[str, Tensor]]  # by protocol, then by model or by covered region: class indices, shape (N,)


def trunk(run: Run) -> caffenet.Trunk:
    """Load the trunk that stands where BVLC's ImageNet weights stand in the paper (section 4.1)."""
    return weights.load_trunk(run.weights)


def untrained(trunk: caffenet.Trunk) -> caffenet.Trunk:
    """Make a trunk of the same structure with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return caffenet.Trunk(trunk.layers, order=trunk.order, transform=trunk.transform, name="random")


def celeba(run: Run, split: str = "train") -> CelebA:
    """Load the run's faces with attributes (section 4.2.1): split "train", "valid" or "test"."""
    if run.celeba != "synthetic":
        return CelebA(files.expand(run.celeba), split=split)
    folder = _synthetic("celeba", run.seed)
    root = synthetic_faces.write_celeba(folder, people=CELEBA_PEOPLE, images=CELEBA_IMAGES, seed=run.seed)
    return CelebA(root, split=split, cache_dir=root.parent / "cache")


def ckplus(run: Run) -> Expressions:
    """Load the run's expressions (section 4.3.1): in CK+'s official layout as many images as the paper has, 1875."""
    if run.ckplus == "synthetic":
        root = synthetic_faces.write_ckplus(_synthetic("ckplus", run.seed), subjects=CKPLUS_SUBJECTS, seed=run.seed)
        return paper_images(root, seed=run.seed, cache_dir=root.parent / "cache")
    settings = {key: getattr(run, key) for key in ("person", "peak_frames", "contempt", "crop")}
    return paper_images(files.expand(run.ckplus), seed=run.seed, **settings)


def _synthetic(kind: str, seed: int) -> Path:
    return files.OUTPUT / "runs" / "data" / f"{kind}-seed{seed}"


def example(data: Expressions, expression: str) -> Tensor:
    """Return the first face of an expression, or of the last class where these faces have none of it.

    Returns:
        uint8, shape (1, 3, 227, 227).

    Raises:
        ValueError: If it is neither one of the paper's expressions nor a class of these faces.
    """
    other = expression in paper.EXPRESSIONS and expression not in data.classes
    return data.batch(data.of_class(data.classes[-1] if other else expression)[:1])


def protocols(data: Faces, seed: int) -> dict[str, splits.Split]:
    """Split faces by each protocol: at random as the paper, and the first fold of the subject-independent split.

    Raises:
        ValueError: If nobody knows who is on the images, or there is one class only.
    """
    check_people(data)
    if len(data.classes) < 2:
        raise ValueError(f"expected two classes or more, found {', '.join(data.classes)}")
    folds = min(FOLDS, len(set(data.people)))
    return {
        "random": splits.random_split(data, seed=seed)[0],
        "subject": splits.subject_independent(data, folds=folds, seed=seed)[0],
    }


def check_people(data: Faces) -> None:
    """Check that pictures name people, without whom a subject-independent split would mean nothing.

    Raises:
        ValueError: If no picture's name names a person.
    """
    if np.array_equal(data.people, data.files):
        raise ValueError(
            f"none of {files.count(len(data), 'picture', 'pictures')} ({data.files[0]}, …) names a person, so there is "
            "no subject-independent split: a line person: '…' in the run's config is the pattern that finds the person "
            "in a picture's name, such as '^[a-z]+'; where each picture is of another person, person: '.+'"
        )


def labels(data: Faces, by_protocol: Mapping[str, splits.Split]) -> dict[str, Tensor]:
    """Return the classes of the test images, shape (N,), by protocol."""
    return {protocol: data.targets[split.test] for protocol, split in by_protocol.items()}


def people(data: Faces, by_protocol: Mapping[str, splits.Split]) -> dict[str, np.ndarray]:
    """Return who is on the test images of the protocol whose interval is a subject-level bootstrap, by protocol."""
    return {"subject": data.people[by_protocol["subject"].test]}


def model(run: Run, key: str) -> caffenet.AttributeNet | caffenet.ExpressionNet:
    """Load a trained model of the run, with the layers frozen that were frozen in its training.

    Raises:
        FileNotFoundError: If it has not been trained; it names the notebook that does.
    """
    step, path = steps.STEPS[steps.MODELS[key][0]], run.checkpoint(key)
    if not path.exists():
        raise FileNotFoundError(
            f"run {run.trained_name!r} has no trained model {key!r} yet; notebooks/{step.notebook}.ipynb trains it, "
            f"and so does {run.made_by()}"
        )
    net = store.load_model(path)
    net.freeze(*_frozen(run, key))
    return net


def _frozen(run: Run, key: str) -> tuple[str, ...]:
    return () if key == "celeba" and run.conv1 == "trained" else steps.STEPS[steps.MODELS[key][0]].frozen


def initial_model(run: Run, key: str, trunk: caffenet.Trunk, classes: Sequence[str] = paper.ATTRIBUTES):
    """Make a model of the run as its training starts from this trunk."""
    return steps.initial_model(steps.MODELS[key][0], trunk, classes, seed=run.seed, frozen=_frozen(run, key))


def recipe(run: Run, step: str) -> Recipe:
    """Return the recipe of "celeba" (Table 3), "ckplus" or "heads" (Table 4) in the run's budget, with its changes."""
    return BUDGETS[run.budget][step].changed(run.recipe.changes(step))


def train_model(run: Run, key: str, fabric: Any = None) -> dict[str, Any]:
    """Train one model of the run from its data and the model that it starts from.

    Args:
        run: The run.
        key: The model's key (steps.MODELS).
        fabric: A launched lightning Fabric whose processes train it together.

    Returns:
        The history.
    """
    figure, protocol = steps.MODELS[key]
    with fabric.rank_zero_first() if fabric else contextlib.nullcontext():  # one process writes what is missing
        if figure == "fig9":
            data, validation = celeba(run, "train"), celeba(run, "valid")
            start, classes = trunk(run), data.classes
        else:
            everything = ckplus(run)
            split = protocols(everything, run.seed)[protocol]
            data, validation = everything.subset(split.train), everything.subset(split.validation)
            start = model(run, steps.key(steps.STEPS[figure].start or "", protocol)).trunk
            classes = everything.classes
    return train(run, key, initial_model(run, key, start, classes), data, validation, fabric)


def train(run: Run, key: str, model, data, validation, fabric: Any = None) -> dict[str, Any]:
    """Train a model of the run, or go on where its training stopped, and write it where `model` finds it."""
    chosen = recipe(run, steps.STEPS[steps.MODELS[key][0]].recipe)
    state = run.path / "training" / f"{key}.safetensors"
    every = chosen.max_iter // 2 if run.budget == "quick" else None  # a validation costs many quick iterations
    config = settings(run, validate_every=every)
    history = fit(model, data, chosen, state, fabric, seed=run.seed, validation=validation, config=config)
    if fabric is None or fabric.is_global_zero:
        precision = (read_metadata(state) or {})["precision"]  # "auto" may mean another to the next process
        stop = early_stop(history)
        if stop:
            bound = f"remaining update bound {stop['remaining_update']:.1e}"
            print(f"{key}: early stop of the schedule at iteration {stop['stopped_at']}; {bound}")
        about = {"run": run.trained_name, "data": run.title, "precision": precision}
        store.save_model(model, run.checkpoint(key), **about, **stop)
    return history


def settings(run: Run, *, cached: bool = True, validate_every: int | None = None) -> trainer.TrainerConfig:
    """Return the run's settings of a training; cached: whether its frozen features are kept on disk for others."""
    return trainer.TrainerConfig(
        cache_bytes=run.cache_bytes,
        cache_dir=run.path / "cache" if cached else None,
        validate_every=validate_every,
        stop_early=run.stop_early,
        precision=run.precision,
    )


def fit(model, data, recipe: Recipe, checkpoint: Path, fabric: Any = None, **options: Any) -> dict[str, Any]:
    """Train a model on the accelerator; where the checkpoint belongs to another training, anew."""
    with accelerated(model, fabric.device if fabric else None):
        try:
            return trainer.fit(model, data, recipe, checkpoint=checkpoint, fabric=fabric, **options)
        except OtherTraining:  # its data, settings or start have changed; every process gets here
            if fabric is None or fabric.is_global_zero:  # the others wait for its checkpoint next
                print(f"{checkpoint.stem}: training anew, the checkpoint is of other settings, data or weights")
                checkpoint.unlink(missing_ok=True)
            return trainer.fit(model, data, recipe, checkpoint=checkpoint, fabric=fabric, **options)


def early_stop(history: dict[str, Any]) -> dict[str, Any]:
    """Return at which iteration the schedule stopped early, and the bound of what any weight could still have moved."""
    return {key: history[key] for key in ("stopped_at", "remaining_update") if key in history}


@contextlib.contextmanager
def accelerated(model, device: torch.device | None = None) -> Iterator[torch.device]:
    """Move a model to a device, by default the GPU where there is one, and back to the CPU afterwards."""
    device = device or accelerator()
    try:
        model.to(device)
        yield device
    finally:
        model.cpu()


def predict(run: Run, model, test, *, transform=None, cached: bool = True) -> Tensor:
    """Predict the classes of test images.

    Args:
        run: The run.
        model: A model of the run.
        test: N images.
        transform: A function of images, as occlusion has it.
        cached: Whether the frozen features are kept on disk.

    Returns:
        int64, shape (N,), or (N, A) for attributes.
    """
    with accelerated(model) as device:
        precision = resolve(run.precision, device)
        if transform is not None or isinstance(model, caffenet.AttributeNet):
            return inference.predict(model, test, precision=precision, transform=transform)
        folder = run.path / "cache" if cached else None
        features = FrozenFeatures(model, test, cache_bytes=run.cache_bytes, cache_dir=folder, precision=precision)
        return inference.predict(model, test, features=features)


def expression_predictions(run: Run, data: Faces, by_protocol: Mapping[str, splits.Split]) -> Predictions:
    """Predict the test images with both models and the linear SVM, by protocol and model (Table 5)."""
    found = {}
    for protocol, split in by_protocol.items():
        test = data.subset(split.test)
        found[protocol] = {
            figure: predict(run, model(run, steps.key(figure, protocol)), test) for figure in ("fig14", "fig18")
        }
        found[protocol]["svm"] = baselines.linear_svm(data.subset(split.train), test)
    return found


def occlusion_predictions(
    run: Run, data: Faces, by_protocol: Mapping[str, splits.Split], value: int = 0
) -> Predictions:
    """Predict the covered test images with the model of Fig. 14, by protocol and region (Table 6)."""
    return {
        protocol: covered_predictions(run, model(run, steps.key("fig14", protocol)), data.subset(split.test), value)
        for protocol, split in by_protocol.items()
    }


def covered_predictions(run: Run, model, test: Faces, value: int = 0) -> dict[str, Tensor]:
    """Predict test images with each region of Table 6 covered by boxes of this value, "none" among them."""

    def covering(region: str):
        return lambda images: occlusion.cover(images, region, value, test.layout)

    return {
        region: predict(run, model, test, transform=None if region == "none" else covering(region))
        for region in paper.TABLE6
    }


def inventory() -> pd.DataFrame:
    """List every run in config/ and whether this machine has what it names."""
    rows = []
    for path in sorted((files.PROJECT / "config").glob("*.yaml")):
        run = open_run(path.stem)
        parts = {what: _whether_here(getattr(run, what)) for what in ("weights", "celeba", "ckplus")}
        rows.append({"run": run.name, "data": run.title, **parts})
    return pd.DataFrame(rows)


def _whether_here(what: str) -> str:
    if what == "synthetic":
        return "made when needed"
    if what in weights.SOURCES:
        return weights.where(what)
    with contextlib.suppress(FileNotFoundError):  # no data root at all
        if files.expand(what).exists():
            return "here"
    return f"not here: {what}"
