"""The notebooks' parameters: one call checks them, and what they change has a name of its own."""

import ast
import json

import pytest

from dualtl_lib import files
from dualtl_lib.experiment import notebooks

FEATURES = "02_bvlc_features"


def cells(notebook: str) -> list[dict]:
    found = json.loads((files.PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if cell["cell_type"] == "code"]


def test_every_notebook_is_listed():
    listed = sorted(path.stem for path in (files.PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert listed == list(notebooks.NOTEBOOKS)


@pytest.mark.parametrize("notebook", notebooks.NOTEBOOKS)
def test_a_notebooks_parameters_are_those_that_its_first_cell_checks(notebook):
    parameters, first, *_ = cells(notebook)
    assert "parameters" in parameters["metadata"]["tags"]
    written = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(parameters["source"]).body
        if isinstance(node, ast.Assign)
    }
    fields = notebooks.NOTEBOOKS[notebook].model_fields
    assert written == {name: field.default for name, field in fields.items()}
    assert all("#" in line for line in parameters["source"].splitlines())
    (call,) = (n for n in ast.walk(ast.parse(first["source"])) if isinstance(n, ast.Call) and is_open(n))
    assert ast.literal_eval(call.args[0]) == notebook
    assert {word.arg: word.value.id for word in call.keywords} == {name: name for name in written}


def is_open(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "open_notebook"


WRONG = [
    (FEATURES, "images", 0, "from 2 on"),
    (FEATURES, "images", -3, "from 2 on"),
    (FEATURES, "images", 2.0, "from 2 on"),
    (FEATURES, "searched", 0, "from 1 on"),
    (FEATURES, "top", True, "from 1 on"),
    (FEATURES, "variant", "zeiller", "'zeiler'"),
    (FEATURES, "seed", -1, "0 to 4294967295"),
    (FEATURES, "seed", 2**33, "0 to 4294967295"),
    (FEATURES, "seed", "3", "0 to 4294967295"),
    (FEATURES, "budget", "huge", "'quick' or 'paper'"),
    (FEATURES, "maps", 4, r"5 map numbers from 1 to 256.*-y 'maps: \[4, 13"),
    (FEATURES, "maps", "[1,2]", "5 map numbers"),
    (FEATURES, "maps", list("[1,2]"), "5 map numbers"),
    (FEATURES, "maps", [1, 2, 3, 4], "5 map numbers"),
    (FEATURES, "maps", [1, 2, 3, 4, 257], "5 map numbers"),
    (FEATURES, "maps", [0, 2, 3, 4, 5], "5 map numbers"),
    (FEATURES, "maps_fig4", [1, 2, 3, 97], "4 map numbers from 1 to 96"),
    ("04_first_transfer_features", "maps", [1, 2], "3 map numbers"),
    ("08_occlusion", "value", 12.5, "0 to 255"),
    ("08_occlusion", "value", 256, "0 to 255"),
    ("03_first_transfer", "conv1", "free", "'trained'"),
    ("01_architecture", "order", "norm", "'norm-pool'"),
    ("01_architecture", "ordre", "norm-pool", "allowed: run, seed, budget, order"),
    ("00_start_here", "run", "emebdded", "one of .*embedded"),
]


@pytest.mark.parametrize(("notebook", "parameter", "value", "allowed"), WRONG)
def test_a_wrong_parameter_is_named_with_what_is_allowed(notebook, parameter, value, allowed):
    with pytest.raises(ValueError, match=f"{parameter}.*{allowed}"):
        notebooks.open_notebook(notebook, **{parameter: value})


def test_what_changes_what_is_written_is_part_of_the_name():
    plain = notebooks.open_notebook(FEATURES, run="embedded", seed=None, images=16, variant="paper", maps=None)
    assert plain.name == "embedded" and plain.figures.name == "embedded"
    changed = dict(expression="fear", images=2, maps=(1, 2, 3, 4, 5), searched=9, top=2, variant="zeiler")
    names = {notebooks.open_notebook(FEATURES, **{key: value}).name for key, value in changed.items()}
    assert len(names) == len(changed) and "embedded" not in names
    together = notebooks.open_notebook(FEATURES, **changed)
    assert together.path == plain.path  # the same models
    assert all(f"{key}=" in together.name for key in changed) and together.figures.name == together.name
    assert notebooks.open_notebook("08_occlusion", value=255).name == "embedded,value=255"


def test_what_changes_a_training_makes_another_run():
    run = notebooks.open_notebook("03_first_transfer", conv1="trained", seed=3)
    assert run.name == run.path.name == "embedded,conv1=trained,seed=3"
    again = notebooks.open_notebook("04_first_transfer_features", run="embedded,conv1=trained", seed=3, top=2)
    assert again.path == run.path and again.name != run.name
    assert again.seed == 3 and again.conv1 == "trained"
    assert notebooks.open_notebook("09_explorer", weights="embedded").name == "embedded"
