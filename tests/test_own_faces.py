"""Somebody's own faces through the notebooks, by README's config: other classes, people by the pictures' names.

Trainings are shortened, so what is measured is not asked for.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dualtl_lib import config, files
from dualtl_lib.experiment import pipeline

SHORT = """
recipe:
  celeba: {max_iter: 2}
  ckplus: {max_iter: 5, heads_first: {max_iter: 50}}
  heads: {max_iter: 50}
"""
CLASSES = {"joyful": "happy", "blue": "sadness", "cross": "anger"}  # their names, and what we draw for them
NOTEBOOKS = (
    "00_start_here",
    "03_first_transfer",
    "05_second_transfer",
    "06_second_transfer_features",
    "07_expression_recognition",
    "08_occlusion",
)


@pytest.fixture(scope="module")
def own(new_checkout):
    """A checkout with 120 faces beside it and README's config for them, in which these notebooks have run."""
    made = new_checkout()
    faces, drawn = made.folder / "faces", pipeline.ckplus(config.open_run("embedded"))
    for theirs, name in CLASSES.items():
        (faces / theirs).mkdir(parents=True)
        for i in drawn.of_class(name)[:40]:
            picture = Image.fromarray(np.array(drawn.images[i]).transpose(1, 2, 0))
            picture.save(faces / theirs / f"{drawn.people[i].lower()}-{i}.png")
    (text,) = re.findall(r"```yaml\n(.*?)```", (files.PROJECT / "README.md").read_text(), re.DOTALL)
    (made.folder / "config" / "mine.yaml").write_text(text.replace("~/faces ", f"{faces} ") + SHORT)
    for notebook in NOTEBOOKS:
        ran = made.run("papermill", "-p", "run", "mine", f"notebooks/{notebook}.ipynb", f"{notebook}.ipynb")
        assert ran.returncode == 0, ran.stderr[-3000:]
    return made


def test_its_classes_and_people_are_told_first(own):
    cells = json.loads((own.folder / "00_start_here.ipynb").read_text())["cells"]
    said = "".join(text for c in cells for o in c.get("outputs", ()) for text in o.get("text", ()))
    assert "120 images of 21 people" in said
    assert all(f"{name:<10}40 images of" in said for name in CLASSES), said


def test_both_models_are_tested_by_both_protocols(own):
    table = pd.read_csv(own.folder / "figures" / "mine" / "table5.csv", index_col="method")
    for model in ("Our model in Fig. 14", "Our model in Fig. 18"):
        for protocol in ("images at random", "people kept apart"):
            assert "(n=" in table.loc[model, protocol], table
    covered = pd.read_csv(own.folder / "figures" / "mine" / "table6.csv", index_col="covered")
    assert len(covered) == 7 and covered.notna().all(axis=None), covered


def test_pictures_of_people_stay_out_of_what_is_committed(own):
    assert {path.suffix for path in (own.folder / "figures" / "mine").iterdir()} == {".csv", ".json"}
    shown = {path.name for path in (own.folder / "runs" / "mine" / "figures").iterdir()}
    assert {"expressions.png", "fig15.png", "confusion.png", "table6.png"} <= shown


def test_the_closing_table_has_it_all(own):
    said = own.run("dualtl_lib", "summary", "mine").stdout
    assert "measured on my own faces" in said and "Table 5, Our model in Fig. 18, people kept apart" in said
    assert "Not run yet: 01_architecture, 02_bvlc_features, 04_first_transfer_features" in said
