"""What a run is made of: its trunk, its faces, its trained models, each from where config/<run>.yaml says.

Synthetic faces are written at the first call, under runs/data/, and shared by all runs of the same seed.
"""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dualtl_lib import config, files, paper
from dualtl_lib.data import splits
from dualtl_lib.data.celeba import CelebA
from dualtl_lib.data.ckplus import CKPlus, paper_images
from dualtl_lib.evaluate import evaluation, occlusion
from dualtl_lib.models import caffenet, store, weights
from dualtl_lib.models.precision import accelerator, resolve
from dualtl_lib.report import tables
from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.train import training
from dualtl_lib.train.checkpoint import metadata
from dualtl_lib.train.frozen import FrozenFeatures

CELEBA_IMAGES, CELEBA_PEOPLE, CKPLUS_SUBJECTS = 2400, 480, 123  # of the synthetic sets; CK+ has 123 subjects
FOLDS = 5  # people kept apart; the notebooks train on the first fold
STEPS = ("celeba", "ckplus", "heads")  # a recipe each
MADE_BY = {  # which notebook trains which model
    "celeba": "03_first_transfer",
    "ckplus_fig14": "05_second_transfer",
    "ckplus_fig18": "05_second_transfer",
    "ckplus_fig14_people": "05_second_transfer",
    "ckplus_fig18_people": "05_second_transfer",
}


def trunk(run: config.Run) -> caffenet.Trunk:
    """The trunk that stands where BVLC's ImageNet weights stand in the paper (section 4.1)."""
    return weights.load_trunk(run.weights)


def celeba(run: config.Run, split: str = "train") -> CelebA:
    """The run's face attributes (section 4.2.1)."""
    if run.celeba == "synthetic":
        root = synthetic_faces.write_celeba(
            _synthetic("celeba", run), people=CELEBA_PEOPLE, images=CELEBA_IMAGES, seed=run.seed
        )
        return CelebA(root, split=split, cache=root.parent / "cache")
    return CelebA(files.expand(run.celeba), split=split)


def ckplus(run: config.Run) -> CKPlus:
    """The run's expressions (section 4.3.1). In CK+'s official layout as many images as the paper has, 1875."""
    if run.ckplus == "synthetic":
        root = synthetic_faces.write_ckplus(_synthetic("ckplus", run), subjects=CKPLUS_SUBJECTS, seed=run.seed)
        return paper_images(root, seed=run.seed, cache=root.parent / "cache")
    settings = {key: getattr(run, key) for key in ("person", "peak_frames", "contempt", "crop")}
    return paper_images(files.expand(run.ckplus), seed=run.seed, **settings)


def example(data: CKPlus, expression: str) -> Tensor:
    """The first face of an expression, uint8 [1, 3, 227, 227]; of the last class where these faces have none of it.

    Raises ValueError for what is neither an expression of the paper's nor a class of these faces.
    """
    other = expression in paper.EXPRESSIONS and expression not in data.classes
    return data.batch(data.of_class(data.classes[-1] if other else expression)[:1])


def _synthetic(kind: str, run: config.Run) -> Path:
    return files.OUTPUT / "runs" / "data" / f"{kind}-seed{run.seed}"


def model(run: config.Run, name: str) -> caffenet.AttributeNet | caffenet.ExpressionNet:
    """A trained model of the run. Raises FileNotFoundError naming the notebook that trains it."""
    path = run.checkpoint(name)
    if not path.exists():
        raise FileNotFoundError(
            f"run {run.name!r} has no trained model {name!r} yet; notebooks/{MADE_BY[name]}.ipynb trains it, "
            f"and so does {run.made_by()}"
        )
    return store.load_model(path)


def untrained(trunk: caffenet.Trunk) -> caffenet.Trunk:
    """A trunk of the same structure with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return caffenet.Trunk(trunk.layers, trunk.order, trunk.transform, name="random")


def attribute_net(trunk: caffenet.Trunk, run: config.Run, conv1: str = "frozen") -> caffenet.AttributeNet:
    """The first transfer's model at its start (Fig. 9). conv1: "frozen" (section 4.1) or "trained" (4.2.1)."""
    if conv1 not in ("frozen", "trained"):
        raise ValueError(f"conv1 is 'frozen' or 'trained', not {conv1!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        net = caffenet.AttributeNet(trunk, paper.ATTRIBUTES)
    return net.freeze("conv1") if conv1 == "frozen" else net


def expression_net(trunk: caffenet.Trunk, data: CKPlus, run: config.Run, conv5: bool = True, seed: int | None = None):
    """The second transfer's model at its start: Fig. 14 with conv1 and conv2 frozen, or Fig. 18 (conv5=False) with
    every layer frozen, where "only the two full connect layers need to be fine tuned" (section 4.3.4).

    seed: of the heads, if not the run's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed if seed is None else seed)
        net = caffenet.ExpressionNet(trunk, data.classes, conv5=conv5)
    return net.freeze("conv1", "conv2") if conv5 else net.freeze(*(layer.name for layer in net.trunk.layers))


def recipe(run: config.Run, step: str) -> training.Recipe:
    """The solver's settings of a step in the run's budget: "celeba" (Table 3), "ckplus" or "heads" (Table 4), but for
    what the run's own `recipe` changes. Raises ValueError for one that has other steps or settings, of any step.
    """
    if not all(known in STEPS and isinstance(changes, dict) for known, changes in run.recipe.items()):
        raise ValueError(f"recipe: expected settings by step, {', '.join(STEPS)}, found {run.recipe}")
    first, second = training.CELEBA, training.CKPLUS
    quick = first.quick(), second.quick(), second.quick_heads()
    budgets = zip(STEPS, (first, second, second) if run.budget == "paper" else quick, strict=True)
    return {known: recipe.changed(run.recipe.get(known, {})) for known, recipe in budgets}[step]


def train(run: config.Run, name: str, model, data, validation, recipe: training.Recipe, fabric=None) -> dict[str, list]:
    """Train a model of the run, or go on where it stopped, and write it where `model` finds it.

    fabric: the processes that train it together, as for training.fit.
    """
    state = run.path / "training" / f"{name}.safetensors"
    arguments = dict(
        seed=run.seed,
        validation=validation,
        checkpoint=state,
        cache=run.cache,
        cache_folder=run.path / "cache",
        fabric=fabric,
        validate_every=recipe.max_iter // 2 if run.budget == "quick" else None,  # a look costs many quick steps
        skip_dead_tail=run.skip_dead_tail,
        precision=run.precision,
    )
    with accelerated(model, fabric.device if fabric else None):
        history = fit(model, data, recipe, **arguments)
    if fabric is None or fabric.is_global_zero:
        meta = {"run": run.name, "data": run.title, "precision": metadata(state)["precision"]}
        if "skipped_from" in history:
            (begin,), (bound,) = history["skipped_from"], history["skipped_movement"]
            meta["skipped"] = (
                f"from iteration {begin} on; no weight could move by more than {bound:.1e} of its layer's RMS"
            )
            print(f"{name}: left out {meta['skipped']}")
        store.save_model(model, run.checkpoint(name), **meta)
    return history


def fit(model, data, recipe: training.Recipe, checkpoint: Path, fabric=None, **arguments) -> dict[str, list]:
    """training.fit, which begins anew where the state that was kept is of another training."""
    try:
        return training.fit(model, data, recipe, checkpoint=checkpoint, fabric=fabric, **arguments)
    except training.OtherTraining:  # something above this training has changed since; each process is told so
        if fabric is None or fabric.is_global_zero:  # the others wait for what this one finds there next
            print(f"{checkpoint.stem}: training anew, the state that was kept is of other settings, data or weights")
            checkpoint.unlink(missing_ok=True)
        return training.fit(model, data, recipe, checkpoint=checkpoint, fabric=fabric, **arguments)


@contextlib.contextmanager
def accelerated(model, device: torch.device | None = None):
    """The model on a device, by default the GPU where there is one, and back on the CPU afterwards: `as` the device."""
    device = device or accelerator()
    try:
        model.to(device)
        yield device
    finally:
        model.cpu()


def protocols(run: config.Run, data: CKPlus) -> dict[str, splits.Split]:
    """The paper's protocol, images at random, and the first of five folds with people kept apart (of as many as there
    are people, where these are fewer).

    Raises ValueError where nobody knows who is on the images, or there is one class only.
    """
    check_people(data)
    if len(data.classes) < 2:
        raise ValueError(f"expected two classes or more to tell apart, found {', '.join(data.classes)}")
    folds = min(FOLDS, len(set(data.people)))
    return {
        "random": splits.random_split(data, run.seed)[0],
        "people": splits.subject_independent(data, folds=folds, seed=run.seed)[0],
    }


def check_people(data: CKPlus) -> None:
    """Raises ValueError where no picture's name names a person, so that keeping people apart would mean nothing."""
    if np.array_equal(data.people, data.files):
        raise ValueError(
            f"none of {len(data)} pictures ({data.files[0]}, …) names a person, so people cannot be kept apart: a "
            "line person: '…' in the run's config is the pattern that finds the person in a picture's name, "
            "such as '^[a-z]+'; where each picture is of another person, person: '.+'"
        )


def truth(data: CKPlus, by_protocol: dict[str, splits.Split]) -> dict[str, Tensor]:
    """The classes of the test images [N], by protocol."""
    return {protocol: data.targets[split.test] for protocol, split in by_protocol.items()}


def people(data: CKPlus, by_protocol: dict[str, splits.Split]) -> dict:
    """Who is on the test images [N], where a protocol keeps people apart: an interval is then taken over people."""
    return {"people": data.people[by_protocol["people"].test]}


def expression_model(run: config.Run, protocol: str, figure: int) -> caffenet.ExpressionNet:
    """The trained model of Fig. 14 or 18 whose test images a protocol held back; frozen is what was frozen."""
    net = model(run, f"ckplus_fig{figure}" + ("_people" if protocol == "people" else ""))
    return net.freeze("conv1", "conv2") if figure == 14 else net.freeze(*(layer.name for layer in net.trunk.layers))


def predict(run: config.Run, net: caffenet.ExpressionNet, test: CKPlus) -> Tensor:
    """evaluation.predict, going on from what training has kept of the frozen layers: int64 [N]."""
    with accelerated(net) as device:
        kept = FrozenFeatures(net, test, run.cache, run.path / "cache", resolve(run.precision, device))
        return evaluation.predict(net, test, features=kept)


def expression_predictions(run: config.Run, data: CKPlus, by_protocol: dict) -> dict[str, dict[str, Tensor]]:
    """What both models and the linear SVM say of the test images [N], by protocol and model."""
    found = {}
    for protocol, split in by_protocol.items():
        test = data.subset(split.test)
        found[protocol] = {
            tables.FIG14: predict(run, expression_model(run, protocol, 14), test),
            tables.FIG18: predict(run, expression_model(run, protocol, 18), test),
            tables.SVM: evaluation.linear_svm(data.subset(split.train), test),
        }
    return found


def occlusion_predictions(run: config.Run, data, by_protocol: dict, value: int = 0) -> dict[str, dict[str, Tensor]]:
    """What the model of Fig. 14 says of the covered test images [N], by protocol and region (Table 6)."""
    return {
        protocol: covered_predictions(run, expression_model(run, protocol, 14), data.subset(split.test), value)
        for protocol, split in by_protocol.items()
    }


def covered_predictions(run: config.Run, model, test: CKPlus, value: int = 0) -> dict[str, Tensor]:
    """What a model says of test images [N] under each covering of Table 6, "none" among them."""

    def covering(region: str):
        return lambda images: occlusion.cover(images, region, value, test.layout)

    with accelerated(model):
        covered = {
            region: evaluation.predict(model, test, covering(region), precision=run.precision)
            for region in paper.TABLE6
            if region != "none"
        }
    return {"none": predict(run, model, test), **covered}


def inventory() -> pd.DataFrame:
    """Every run in config/ and whether this machine has what it names."""
    rows = []
    for path in sorted((files.PROJECT / "config").glob("*.yaml")):
        run = config.open_run(path.stem)
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
