"""Write docs/results.md from the tables in figures/: `python docs/make_results.py`."""

from pathlib import Path

import pandas as pd

from dualtl_lib.report import labels

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "figures"
RUNS = {
    "embedded": "Synthetic faces, quick budget (run `embedded`)",
    "embedded_folds": "Synthetic faces of version 0.1.0 and its trunk, quick budget, five folds (run `embedded_folds`)",
    "ckplus48_paper": "Real faces, Tables 3 and 4 as printed (run `ckplus48_paper`)",
    "ckplus48": "Real faces, quick budget (run `ckplus48`)",
}
TABLES = {  # file in figures/<run>/: its heading
    "attributes.csv": "The twelve attributes after the first transfer",
    "table5.csv": "Table 5: one split of each protocol",
    "table5_folds.csv": "Table 5: every test image once, over all folds",
    "table6.csv": "Table 6: covered faces, one split of each protocol",
    "table6_folds.csv": "Table 6: covered faces, over all folds",
    "fig04-08.csv": "Features of the first network (Figs. 4 to 8)",
    "fig10-13.csv": "Features after the attributes (Figs. 10 to 13)",
    "fig15-17.csv": "Features after the expressions (Figs. 15 to 17)",
    "fig19-20.csv": "Correlation of a covered face's projection with the uncovered one's (Figs. 19, 20)",
    "early_stops.csv": "Iterations that were left out, and the largest update that they could have made",
}
INTRODUCTION = """\
# Results

`python docs/make_results.py` writes this page from the tables in `figures/`.

- Intervals are 95 %: Wilson's on a random split, a subject-level bootstrap on a subject-independent one.
- p-values of accuracies are of McNemar's exact test over images and of Wilcoxon's signed-rank test over subjects.
- p-values of features are of Wilcoxon's test over faces.
- "peaks" are the classes without neutral.
- The paper's numbers are for CK+, ours for the data that each heading names.
"""


def cell(value) -> str:
    """One value as text: p-values and shares with three digits, nothing for what is missing."""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return "< 0.001" if 0 < value < 0.001 else f"{value:.3f}".rstrip("0").rstrip(".")
    return str(value)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, with display names in place of keys."""
    for column in table.columns.intersection(list(labels.COLUMNS)):
        table[column] = table[column].map(lambda key: labels.label(key) if isinstance(key, str) else key)
    rows = [[labels.label(str(c)) for c in table], ["---"] * len(table.columns)]
    rows += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    for run, title in RUNS.items():
        parts.append(f"## {title}\n")
        for name, heading in TABLES.items():
            if (path := FIGURES / run / name).exists():
                parts.append(f"### {heading}\n\n{markdown(pd.read_csv(path))}\n")
    (HERE / "results.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
