"""The notebooks' parameters, checked in one call, and their results.

A parameter that changes what a notebook writes is part of the name of the folder that it writes to: one that changes a
setting of the run makes another run, `embedded,seed=3`; one that only changes pictures and numbers, such as `variant`,
shares the run's models and writes to `figures/embedded,variant=zeiler`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ValidationError

from dualtl_lib import config, files
from dualtl_lib.experiment import steps
from dualtl_lib.models import store

Variant = Literal["paper", "zeiler", "guided", "gradient"]
SECOND = tuple(key for key in steps.MODELS if key != "celeba")


def _maps(example: Sequence[int], largest: int) -> BeforeValidator:
    """The check of a list of map numbers as long as this example."""
    allowed = f"a list of {len(example)} map numbers from 1 to {largest}"

    def check(value: object) -> object:
        numbers = list(value) if isinstance(value, list | tuple) else []
        if value is None or (
            len(numbers) == len(example) and all(type(m) is int and 1 <= m <= largest for m in numbers)
        ):
            return value if value is None else numbers
        raise ValueError(f"expected {allowed}, in papermill -y 'maps: {list(example)}'; found {value!r}")

    return BeforeValidator(check)


class Parameters(config.Strict):
    """Parameters that every notebook has; None leaves a setting as the run's config has it.

    Class attributes: `models`, the trained models that the notebook reads or makes.
    """

    models: ClassVar[tuple[str, ...]] = ()
    run: str = "embedded"
    seed: config.Seed | None = None
    budget: Literal["quick", "paper"] | None = None


class Architecture(Parameters):
    """Of notebook 01."""

    order: Literal["pool-norm", "norm-pool"] = "pool-norm"


class Features(Parameters):
    """Of the notebooks that project one face and measure many."""

    expression: str = "surprise"
    images: Annotated[int, config.whole(2)] = 16
    top: config.Count = 1
    variant: Variant = "paper"


class FirstFeatures(Features):
    """Of notebook 02: Fig. 4 has four single maps, Figs. 5-8 have five each."""

    maps: Annotated[list[int] | None, _maps((4, 13, 35, 94, 151), 256)] = None
    maps_fig4: Annotated[list[int] | None, _maps((1, 4, 13, 35), 96)] = None
    searched: config.Count = 100


class FirstTransfer(Parameters):
    """Of notebook 03."""

    models: ClassVar = ("celeba",)
    conv1: Literal["frozen", "trained"] | None = None


class FirstTransferFeatures(Features):
    """Of notebook 04: Figs. 10-13 have three single maps each."""

    models: ClassVar = ("celeba",)
    maps: Annotated[list[int] | None, _maps((19, 56, 151), 256)] = None


class SecondTransfer(Parameters):
    """Of notebooks 05 and 07."""

    models: ClassVar = SECOND


class SecondTransferFeatures(Features):
    """Of notebook 06: Figs. 15-17 have five single maps each."""

    models: ClassVar = ("celeba", "ckplus_fig14")
    maps: Annotated[list[int] | None, _maps((210, 193, 242, 235, 248), 256)] = None


class Occlusion(Parameters):
    """Of notebook 08."""

    models: ClassVar = ("ckplus_fig14", "ckplus_fig14_subject")
    expression: str = "happy"
    value: Annotated[int, config.whole(0, 255)] = 0
    variant: Variant = "paper"


class Explorer(Parameters):
    """Of notebook 09: other faces and another first network than the run's."""

    ckplus: str | None = None
    weights: str | None = None


NOTEBOOKS: dict[str, type[Parameters]] = {
    "00_start_here": Parameters,
    "01_architecture": Architecture,
    "02_bvlc_features": FirstFeatures,
    "03_first_transfer": FirstTransfer,
    "04_first_transfer_features": FirstTransferFeatures,
    "05_second_transfer": SecondTransfer,
    "06_second_transfer_features": SecondTransferFeatures,
    "07_expression_recognition": SecondTransfer,
    "08_occlusion": Occlusion,
    "09_explorer": Explorer,
}


def open_notebook(notebook: str, **parameters: Any) -> config.Run:
    """Check all parameters of a notebook and open its run.

    Args:
        notebook: The notebook's name, "02_bvlc_features".
        **parameters: All of its parameters by name.

    Returns:
        The run, with a name of its own for parameters that are not the notebook's defaults.

    Raises:
        ValueError: If a parameter is not allowed; it names the parameter, what is allowed, and how to pass a list.
    """
    try:
        checked = NOTEBOOKS[notebook](**parameters)
    except ValidationError as error:
        raise ValueError(config.explain(error, f"parameters of notebook {notebook}")) from error
    given = {key: value for key, value in checked if key != "run" and value != type(checked).model_fields[key].default}
    view = {key: value for key, value in given.items() if key not in config.Settings.model_fields}
    run = config.open_run(checked.run, **{key: value for key, value in given.items() if key not in view})
    return run.model_copy(update={"view": view})


def save_results(run: config.Run, notebook: str, results: list[dict]) -> Path:
    """Write figures/<name>/<notebook>.json: a notebook's lines of the closing table, where they have changed.

    Its "precision" is what the notebook's models were trained in, as their files say; None where it uses none.
    """
    trained = [path for key in NOTEBOOKS[notebook].models if (path := run.checkpoint(key)).exists()]
    precisions = sorted({store.read_metadata(path)["precision"] for path in trained})
    content = {"run": run.name, "data": run.title, "precision": ", ".join(precisions) or None, "results": results}
    return files.write_results(run.figures / f"{notebook}.json", content)
