"""Each notebook is a product: one documented parameters cell, outputs without errors, checked cells, short code."""

import json
import re
from pathlib import Path

import pytest

from dualtl_lib.files import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LONGEST_CELL = 25  # lines; longer code belongs in the library


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_numbers_are_consecutive():
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS)))


def test_has_one_cell_of_parameters_with_a_comment_on_each(notebook):
    (cell,) = [c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assignments = [line for line in source(cell).splitlines() if re.match(r"\w+ = ", line)]
    assert assignments
    assert all("  # " in line for line in assignments)


def test_opens_with_a_title_and_names_the_section_or_figure(notebook):
    first = json.loads(notebook.read_text())["cells"][0]
    assert first["cell_type"] == "markdown"
    assert source(first).startswith("# ")


def test_is_committed_with_outputs_and_without_errors(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]


def test_has_checked_cells(notebook):
    assert any("NBVAL_CHECK_OUTPUT" in source(cell) for cell in code_cells(notebook))


def test_cells_are_short(notebook):
    assert max(source(cell).count("\n") + 1 for cell in code_cells(notebook)) <= LONGEST_CELL


def test_runs_with_any_python_kernel(notebook):
    assert json.loads(notebook.read_text())["metadata"]["kernelspec"]["name"] == "python3"
