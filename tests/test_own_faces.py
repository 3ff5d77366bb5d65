"""Somebody's own faces through every notebook, by README's config, with other values of all parameters but the budget.

Trainings are shortened, so what is measured is not checked.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from dualtl_lib import config, files
from dualtl_lib.experiment import notebooks, pipeline
from dualtl_lib.synthetic import faces as synthetic_faces

SHORT = """
recipe:
  celeba: {max_iter: 2, head_warmup: {max_iter: 2}}
  ckplus: {max_iter: 5, head_warmup: {max_iter: 50}}
  heads: {max_iter: 50}
"""
CLASSES = {"joyful": "happy", "blue": "sadness", "cross": "anger"}  # their names, and what we draw for them
RUN = "mine,conv1=trained"
TRAINED = f"{RUN},seed=3"
SHOWN = dict(expression="fear", images=2, top=2, variant="zeiler")
OTHER = {  # than the defaults
    "01_architecture": dict(order="norm-pool"),
    "02_bvlc_features": SHOWN | dict(maps=[1, 2, 3, 4, 5], maps_fig4=[1, 2, 3, 4], searched=9),
    "03_first_transfer": dict(run="mine", conv1="trained"),
    "04_first_transfer_features": SHOWN | dict(maps=[1, 2, 3]),
    "06_second_transfer_features": SHOWN | dict(maps=[1, 2, 3, 4, 5]),
    "08_occlusion": dict(expression="joyful", value=128, variant="guided"),
    "09_explorer": dict(weights="embedded"),
}


@pytest.fixture(scope="module")
def own(new_checkout):
    """A checkout with 120 faces beside it and README's config for them, in which every notebook has run."""
    made = new_checkout()
    faces, drawn = made.folder / "faces", pipeline.ckplus(config.open_run("embedded"))
    for theirs, name in CLASSES.items():
        (faces / theirs).mkdir(parents=True)
        for i in drawn.of_class(name)[:40]:
            picture = Image.fromarray(np.array(drawn.images[i]).transpose(1, 2, 0))
            picture.save(faces / theirs / f"{drawn.people[i].lower()}-{i}.png")
    celeba = synthetic_faces.write_celeba(made.folder / "celeba", people=20, images=60)
    (text,) = re.findall(r"```yaml\n(.*?)```", (files.PROJECT / "README.md").read_text(), re.DOTALL)
    text = text.replace("~/faces ", f"{faces} ").replace("celeba: synthetic ", f"celeba: {celeba} ")
    (made.folder / "config" / "mine.yaml").write_text(text + SHORT)
    for notebook in notebooks.NOTEBOOKS:
        values = dict(run=RUN, seed=3) | OTHER.get(notebook, {})
        values |= {"ckplus": str(faces)} if notebook == "09_explorer" else {}
        assert values.keys() == notebooks.NOTEBOOKS[notebook].model_fields.keys() - {"budget"}
        ran = made.run("papermill", "-y", yaml.safe_dump(values), f"notebooks/{notebook}.ipynb", f"{notebook}.ipynb")
        assert ran.returncode == 0, ran.stderr[-3000:]
    return made


def figures_of(own, notebook) -> str:
    (result,) = own.folder.glob(f"figures/mine*/{notebook}.json")
    assert json.loads(result.read_text())["run"] == result.parent.name
    return result.parent.name


def test_its_classes_and_people_are_named_first(own):
    cells = json.loads((own.folder / "00_start_here.ipynb").read_text())["cells"]
    text = "".join(text for c in cells for o in c.get("outputs", ()) for text in o.get("text", ()))
    assert "120 images of 21 people" in text
    assert all(f"{name:<10}40 images of" in text for name in CLASSES), text


def test_both_models_are_tested_by_both_protocols(own):
    table = pd.read_csv(own.folder / "figures" / TRAINED / "table5.csv", index_col="method")
    for model in ("fig14", "fig18"):
        for protocol in ("random", "subject"):
            assert "(n=" in table.loc[model, protocol], table
    covered = pd.read_csv(own.folder / "figures" / figures_of(own, "08_occlusion") / "table6.csv", index_col="covered")
    assert len(covered) == 7 and covered.notna().all(axis=None), covered


def test_each_notebook_writes_where_its_parameters_say_and_nowhere_else(own):
    for notebook, other in OTHER.items():
        if notebook in ("03_first_transfer", "09_explorer"):
            continue  # its parameters are settings of the run
        name = figures_of(own, notebook)
        assert name.startswith(f"{TRAINED},") and all(f"{key}=" in name for key in other)
    assert figures_of(own, "03_first_transfer") == figures_of(own, "07_expression_recognition") == TRAINED
    written = {path.parent.parent.name for path in (own.folder / "runs").glob("*/training/*")}
    assert written == {TRAINED} and not (own.folder / "figures" / "mine").exists()


def test_pictures_of_people_stay_out_of_what_is_committed(own):
    assert {path.suffix for path in own.folder.glob("figures/mine*/*")} == {".csv", ".json"}
    shown = {path.name for path in own.folder.glob("runs/mine*/figures/*")}
    assert {"expressions.png", "fig15.png", "confusion.png", "table6.png"} <= shown


def test_the_closing_table_has_it_all(own):
    said = own.run("dualtl_lib", "summary", TRAINED).stdout
    assert "measured on my own faces" in said and "Table 5" in said
    assert "Not run yet: 01_architecture, 02_bvlc_features, 04_first_transfer_features" in said
