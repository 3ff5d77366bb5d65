"""The paper's tables with the measured values beside the printed ones, each as a data frame.

Rows and columns are named by machine keys, as the CSV files have them; `readable` gives them their display names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from dualtl_lib import paper
from dualtl_lib.evaluate import metrics, statistics
from dualtl_lib.evaluate.metrics import Accuracy
from dualtl_lib.report import labels

Predictions = Mapping[str, Mapping[str, Tensor]]  # by protocol, then by model or by covered region


class Row(NamedTuple):
    """The accuracies of one model or under one covering.

    Attributes:
        key: The model, the published method or the covered region.
        paper: The paper's accuracy, 0..1, or None where it has none.
        measured: The accuracies by protocol.
    """

    key: str
    paper: float | None
    measured: Mapping[str, Accuracy]


def percent(value: float | None) -> str:
    """Write a share 0..1 as "99.0 %", and None as "not given"."""
    return "not given" if value is None else f"{value:.1%}".replace("%", " %")


def table2(faces, index: int, train) -> pd.DataFrame:
    """Make Table 2: the attributes of the paper's face and of one of ours, and their share in the training set.

    Args:
        faces: A data set with attributes.
        index: The face in it.
        train: The training set.
    """
    return pd.DataFrame(
        {
            "attribute": faces.classes,
            "the paper's face": [paper.TABLE2[name] for name in faces.classes],
            "this face": faces.targets[index].tolist(),
            "share in training": train.targets.float().mean(0).tolist(),
        }
    ).round(3)


def recipes(by_name: Mapping[str, object]) -> pd.DataFrame:
    """Make Tables 3 and 4: solver settings, one column per recipe. The last two rows are not in the paper's tables."""
    order = ["base_lr", "batch", "lr_policy", "gamma", "stepsize", "max_iter", "momentum", "weight_decay", "algorithm"]

    def settings(recipe) -> dict:
        heads = recipe.head_warmup
        warmup = f"{heads.max_iter} of {heads.batch} at {heads.base_lr}" if heads else "no"
        own = {"lr_policy": "step", "algorithm": "SGD", "head_warmup": warmup}  # the two that training knows
        return asdict(recipe) | {"base_lr": float(f"{recipe.base_lr:.4g}")} | own

    table = pd.DataFrame({name: settings(recipe) for name, recipe in by_name.items()})
    return table.loc[[*order, "loss", "head_warmup"]].rename_axis("setting").reset_index()


def attributes(predicted: Tensor, test, train) -> pd.DataFrame:
    """Tabulate the accuracy of each attribute with its interval, and that of the training set's majority class.

    Args:
        predicted: Predictions for the test set, shape (N, A).
        test: The test set.
        train: The training set.

    Returns:
        A row per attribute. p: exact McNemar test of the two accuracies; Holm's p: adjusted for the A tests.
    """
    majority = (train.targets.float().mean(0) >= 0.5).long().expand_as(test.targets)
    rows = []
    for name, ours, always, target in zip(test.classes, predicted.T, majority.T, test.targets.T, strict=True):
        accuracy = metrics.accuracy(ours, target)
        row = {"attribute": name, "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}
        row |= {"n": accuracy.n, "majority": metrics.accuracy(always, target).value}
        rows.append(row | {"p": statistics.mcnemar(ours == target, always == target).p})
    table = pd.DataFrame(rows)
    return table.assign(**{"Holm's p": statistics.holm(table.p)})


def overlap(by_protocol: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Tabulate splits.overlap of each protocol's split: what its training and test sets share."""
    return pd.DataFrame([{"protocol": name, **counts} for name, counts in by_protocol.items()])


def table5_rows(predicted: Predictions, targets: Mapping[str, Tensor], people: Mapping) -> list[Row]:
    """Compare Table 5 with predictions by protocol and model; the last row is the linear SVM.

    Args:
        predicted: Predicted classes of the test images, shape (N,), by protocol and model.
        targets: Their labels, shape (N,), by protocol.
        people: Who is on them, shape (N,), under the protocols whose intervals are subject-level bootstraps.
    """
    return _compared({**paper.TABLE5, "svm": None}, predicted, targets, people)


def table6_rows(predicted: Predictions, targets: Mapping[str, Tensor], people: Mapping) -> list[Row]:
    """Compare Table 6 with predictions by protocol and covered region; arguments as for `table5_rows`."""
    return _compared(paper.TABLE6, predicted, targets, people)


def _compared(quoted: Mapping, predicted: Predictions, targets: Mapping, people: Mapping) -> list[Row]:
    def measured(key: str) -> dict[str, Accuracy]:
        of = {protocol: by_key[key] for protocol, by_key in predicted.items() if key in by_key}
        return {protocol: metrics.accuracy(p, targets[protocol], people.get(protocol)) for protocol, p in of.items()}

    return [Row(key, value, measured(key)) for key, value in quoted.items()]


def frame(rows: Sequence[Row], first: str) -> pd.DataFrame:
    """Write rows as a table: the key under the name `first`, the paper's value, and a column per protocol."""
    protocols = labels.PROTOCOLS
    return pd.DataFrame(
        [
            {first: key, "paper": percent(quoted), **{p: str(of[p]) if p in of else "" for p in protocols}}
            for key, quoted, of in rows
        ]
    )


def results(rows: Sequence[Row], prefix: str, file: str) -> list[dict]:
    """Write the measured rows as lines of the closing table."""
    return [
        {"item": f"{prefix}, {key}, {protocol}", "paper": percent(quoted), "measured": str(accuracy), "file": file}
        for key, quoted, measured in rows
        for protocol, accuracy in measured.items()
    ]


def similarity(by_layer: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    """Correlate the projection of each covered face with that of the uncovered one, -1..1.

    Args:
        by_layer: Projections, shape (3, H, W), by layer and region; the region "none" is the uncovered face.
    """
    table = {
        layer: {
            region: torch.stack([p, shown["none"]]).flatten(1).corrcoef()[0, 1].item() for region, p in shown.items()
        }
        for layer, shown in by_layer.items()
    }
    return pd.DataFrame(table).round(3).rename_axis("covered").reset_index()


def claims() -> pd.DataFrame:
    """List the paper's claims, where they stand, and the notebooks that check them."""
    return pd.DataFrame(paper.CLAIMS, columns=["the paper's claim", "section", "notebook"])


def rank_correlation(rows: Sequence[Row], protocol: str) -> tuple[float, float]:
    """Compare the order of Table 6's regions by accuracy with the paper's, without the uncovered face.

    Returns:
        Spearman's rank correlation (1: the same order), and its exact two-sided p over all permutations.
    """
    pairs = [(row.paper, row.measured[protocol].value) for row in rows if row.key != "none"]
    quoted, measured = (list(values) for values in zip(*pairs, strict=True))
    test = stats.permutation_test(
        [measured], lambda x: stats.spearmanr(quoted, x)[0], permutation_type="pairings", n_resamples=10**6
    )
    return float(test.statistic), float(test.pvalue)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Prepare a table for reading: display names for keys, three decimals, and small p as "<0.001"."""
    shown = table.round(3)
    for column in shown:
        if re.search(r"\bp$", str(column)):
            shown[column] = ["" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in table[column]]
        elif names := labels.COLUMNS.get(str(column)):
            shown[column] = [names.get(value, value) for value in table[column]]
    return shown.rename(columns=lambda column: labels.label(str(column)))
