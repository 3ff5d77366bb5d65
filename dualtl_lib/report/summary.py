"""The closing table of a run: figure or table, the paper's value, ours, the data, the file."""

import json

import pandas as pd

from dualtl_lib import files
from dualtl_lib.config import Run
from dualtl_lib.report.labels import label

COLUMNS = {"item": "figure or table", "paper": "paper", "measured": "measured", "file": "file"}


def table(run: Run) -> pd.DataFrame:
    """Collect the results of the run's notebooks so far, in the paper's order.

    Raises:
        FileNotFoundError: If there are none.
    """
    results = sorted(run.figures.glob("[0-9][0-9]_*.json"))
    if not results:
        raise FileNotFoundError(f"run {run.name!r} has no results yet: {run.made_by()}")
    rows = [row for path in results for row in json.loads(path.read_text())["results"]]
    shown = pd.DataFrame(rows, columns=list(COLUMNS)).fillna("")
    return shown.assign(item=shown["item"].map(label)).rename(columns=COLUMNS)


def text(run: Run) -> str:
    """Write the table as `make reproduce` prints it at its end."""
    columns = table(run).items()
    padded = {str(name): column.str.ljust(max(column.str.len().max(), len(str(name)))) for name, column in columns}
    body = pd.DataFrame(padded).to_string(index=False, justify="left")
    title = f"Run {run.name!r}, measured on {run.title}"
    title += f", attributes on {run.celeba_title}" * (run.celeba_title != run.title)
    missing = [name for name in notebooks() if not (run.figures / f"{name}.json").exists()]
    lacks = f"\nNot run yet: {', '.join(missing)}." * bool(missing)
    return f"{title}. Written to {run.written}.{lacks}\n\n{body}\n"


def notebooks() -> list[str]:
    """List the notebooks that add to the table."""
    listed = sorted(path.stem for path in (files.PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [name for name in listed if name not in ("00_start_here", "09_explorer")]
