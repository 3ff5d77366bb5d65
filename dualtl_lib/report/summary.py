"""The closing table of a run: figure or table, the paper's value, ours, the data, the file."""

import json

import pandas as pd

from dualtl_lib import config, files

COLUMNS = {"item": "figure or table", "paper": "paper", "measured": "measured", "file": "file"}


def table(run: config.Run) -> pd.DataFrame:
    """Everything that the run's notebooks have found so far, in the paper's order.

    Raises FileNotFoundError if none has run.
    """
    found = sorted(run.figures.glob("[0-9][0-9]_*.json"))
    if not found:
        raise FileNotFoundError(f"run {run.name!r} has no results yet: {run.made_by()}")
    rows = [row for path in found for row in json.loads(path.read_text())["results"]]
    return pd.DataFrame(rows, columns=list(COLUMNS)).rename(columns=COLUMNS).fillna("")


def text(run: config.Run) -> str:
    """The table as printed at the end of `make reproduce`."""
    padded = table(run).apply(lambda column: column.str.ljust(max(column.str.len().max(), len(column.name))))
    body = padded.to_string(index=False, justify="left")
    title = f"Run {run.name!r}, measured on {run.title}"
    title += f", attributes on {run.celeba_title}" * (run.celeba_title != run.title)
    missing = [name for name in notebooks() if not (run.figures / f"{name}.json").exists()]
    lacks = f"\nNot run yet: {', '.join(missing)}." * bool(missing)
    return f"{title}. Written to {run.written}.{lacks}\n\n{body}\n"


def notebooks() -> list[str]:
    """Those that add to the table."""
    listed = sorted(path.stem for path in (files.PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [name for name in listed if name not in ("00_start_here", "09_explorer")]
