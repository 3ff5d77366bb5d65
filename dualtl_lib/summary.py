"""The closing table of a run: figure or table, the paper's value, ours, the data, the file."""

import json

import pandas as pd

from . import runs

COLUMNS = {"item": "figure or table", "paper": "paper", "measured": "measured", "file": "written to figures/"}


def table(run: runs.Run) -> pd.DataFrame:
    """Everything that the run's notebooks have found so far, in the paper's order.

    Raises FileNotFoundError if none has run.
    """
    found = sorted(run.figures.glob("[0-9][0-9]_*.json"))
    if not found:
        raise FileNotFoundError(f"run {run.name!r} has no results yet: `make reproduce RUN={run.name}`")
    rows = [row for path in found for row in json.loads(path.read_text())["results"]]
    return pd.DataFrame(rows, columns=list(COLUMNS)).rename(columns=COLUMNS).fillna("")


def text(run: runs.Run) -> str:
    """The table as printed at the end of `make reproduce`."""
    found = table(run)
    widths = {name: max(found[name].str.len().max(), len(name)) for name in found}
    body = found.rename(columns={name: name.ljust(w) for name, w in widths.items()}).to_string(
        index=False, formatters=[lambda text, w=w: text.ljust(w) for w in widths.values()]
    )
    return f"Run {run.name!r}, measured on {run.title}.\n\n{body}\n"
