"""Faults planted in a copy of the library: the notebooks' checked cells must turn red, and only through the fault.

Each notebook runs under nbval up to the cell that should notice. Without a fault all of these cells are green.
"""

from typing import NamedTuple

import nbformat
import pytest

from dualtl_lib import files


class Fault(NamedTuple):
    """What to replace in which file, and a line of the checked cell that must notice."""

    file: str
    old: str
    new: str
    notebook: str
    cell: str


NOTICES = {
    "02_bvlc_features": "measures.edge_correlation(projection",
    "00_start_here": "people[faces.of_class(name)]",
    "03_first_transfer": "changed_layers(",
    "08_occlusion": "regions.region_mask(region)",
}
FAULTS = {
    "a wrong switch": Fault(
        "visualize/backward.py",
        "for t in (places, y))",
        "for t in (places.flip(-1, -2), y))",
        "02_bvlc_features",
        NOTICES["02_bvlc_features"],
    ),
    "an unflipped kernel": Fault(
        "visualize/backward.py",
        "split.flip(3, 5).permute(",
        "split.permute(",
        "02_bvlc_features",
        NOTICES["02_bvlc_features"],
    ),
    "two labels swapped": Fault(
        "paper.py",
        '"happy", "sadness", "surprise")',
        '"sadness", "happy", "surprise")',
        "00_start_here",
        NOTICES["00_start_here"],
    ),
    "a frozen layer that trains": Fault(
        "models/caffenet.py",
        "requires_grad_(False)",
        "requires_grad_(True)",
        "03_first_transfer",
        NOTICES["03_first_transfer"],
    ),
    "the mouth elsewhere": Fault(
        "data/regions.py", "_MOUTH = (0.25, 0.65,", "_MOUTH = (0.25, 0.45,", "08_occlusion", NOTICES["08_occlusion"]
    ),
}


def run_notebook(checkout, fault: Fault | None, notebook: str, cell: str) -> str:
    """A notebook's check of one cell against a copy of the library: nbval's report."""
    if fault:
        path = checkout.folder / "dualtl_lib" / fault.file
        text = path.read_text()
        assert text.count(fault.old) == 1, f"{fault.file} no longer has {fault.old!r} once"
        path.write_text(text.replace(fault.old, fault.new))
    book = nbformat.read(files.PROJECT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    checked = [i for i, c in enumerate(book.cells) if cell in c.source and "# NBVAL_CHECK_OUTPUT" in c.source]
    assert len(checked) == 1, f"{notebook} has no one checked cell with {cell!r}"
    for c in book.cells[: checked[0]]:
        c.source = c.source.replace("# NBVAL_CHECK_OUTPUT\n", "")
    book.cells = book.cells[: checked[0] + 1]
    nbformat.write(book, checkout.folder / f"{notebook}.ipynb")
    nbval = "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"
    return checkout.run(*nbval, f"{notebook}.ipynb").stdout


@pytest.mark.parametrize("notebook", NOTICES)
def test_without_a_fault_the_cell_is_green(new_checkout, notebook):
    report = run_notebook(new_checkout(), None, notebook, NOTICES[notebook])
    assert "failed" not in report and " passed" in report, report


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_its_cell_red(new_checkout, name):
    fault = FAULTS[name]
    report = run_notebook(new_checkout(), fault, fault.notebook, fault.cell)
    assert "1 failed" in report and "Cell outputs differ" in report, report
    assert fault.cell in report
