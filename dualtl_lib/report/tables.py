"""The paper's tables with the measured values beside the printed ones, each as a data frame."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib import paper
from dualtl_lib.evaluate import evaluation

PROTOCOLS = {"random": "images at random", "people": "people kept apart"}
FIG9, FIG14, FIG18 = "Our model in Fig. 9", "Our model in Fig. 14", "Our model in Fig. 18"
SVM = "linear SVM on pixels"
Predictions = Mapping[str, Mapping[str, Tensor]]  # by protocol, then by model or by covered region


def percent(value: float | None) -> str:
    return "not given" if value is None else f"{value:.1%}".replace("%", " %")


def table2(faces, index: int, train) -> pd.DataFrame:
    """Table 2: the attributes of the paper's face and of ours, 1 where present, and their share in training."""
    return pd.DataFrame(
        {
            "attribute": faces.classes,
            "the paper's face": [paper.TABLE2[name] for name in faces.classes],
            "this face": faces.targets[index].tolist(),
            "share in training": train.targets.float().mean(0).tolist(),
        }
    ).round(3)


def recipes(by_name: Mapping[str, object]) -> pd.DataFrame:
    """Tables 3 and 4: solver settings, one column per recipe. The last two rows are not in the paper's tables."""
    order = ["base_lr", "batch", "lr_policy", "gamma", "stepsize", "max_iter", "momentum", "weight_decay", "algorithm"]

    def settings(recipe) -> dict:
        heads = recipe.heads_first
        first = f"{heads.max_iter} of {heads.batch} at {heads.base_lr}" if heads else "no"
        own = {"lr_policy": "step", "algorithm": "SGD", "heads_first": first}  # the two that training knows
        return asdict(recipe) | {"base_lr": float(f"{recipe.base_lr:.4g}")} | own

    table = pd.DataFrame({name: settings(recipe) for name, recipe in by_name.items()})
    return table.loc[[*order, "loss", "heads_first"]].rename_axis("setting").reset_index()


def attributes(predicted: Tensor, test, train) -> pd.DataFrame:
    """Accuracy of each attribute [N, A] with its interval, beside always saying the training majority.

    p: exact McNemar test that the two are equally good on the test images; Holm's p: adjusted for the A tests.
    """
    majority = (train.targets.float().mean(0) >= 0.5).long()
    rows = []
    for a, name in enumerate(test.classes):
        truth, ours = test.targets[:, a], predicted[:, a]
        found = evaluation.accuracy(ours, truth)
        always = majority[a].expand_as(truth)
        rows.append(
            {
                "attribute": name,
                "accuracy": found.value,
                "low": found.low,
                "high": found.high,
                "n": found.n,
                "majority": evaluation.accuracy(always, truth).value,
                "p": evaluation.compare(ours == truth, always == truth).p,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(**{"Holm's p": evaluation.holm(table.p)})


def overlap(by_protocol: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """What stands on both sides of each split (splits.overlap), one line per protocol."""
    return pd.DataFrame([{"protocol": PROTOCOLS[name], **counts} for name, counts in by_protocol.items()])


def _compared(
    names: Mapping[str, float | None], predicted: Predictions, truth: Mapping, people: Mapping
) -> list[tuple]:
    """(name, the paper's value, {protocol: Accuracy}) of each model or region, for figures.accuracies.

    people: who is on the test images, under the protocols whose intervals are taken over people.
    """
    return [
        (
            name,
            quoted,
            {p: evaluation.accuracy(of[name], truth[p], people.get(p)) for p, of in predicted.items() if name in of},
        )
        for name, quoted in names.items()
    ]


def table5_rows(predicted: Predictions, truth: Mapping[str, Tensor], people: Mapping) -> list[tuple]:
    """Table 5 and, last, the linear SVM. people: as for `_compared`."""
    return _compared({**paper.TABLE5, SVM: None}, predicted, truth, people)


def table6_rows(predicted: Predictions, truth: Mapping[str, Tensor], people: Mapping) -> list[tuple]:
    """Table 6. people: as for `_compared`."""
    return _compared(paper.TABLE6, predicted, truth, people)


def frame(rows: list[tuple], first: str) -> pd.DataFrame:
    """Rows of (name, the paper's value, {protocol: Accuracy}) as a table to read."""
    return pd.DataFrame(
        [
            {first: name, "paper": percent(quoted), **{PROTOCOLS[p]: str(of[p]) if p in of else "" for p in PROTOCOLS}}
            for name, quoted, of in rows
        ]
    )


def results(rows: list[tuple], prefix: str, file: str) -> list[dict]:
    """The measured rows as lines of the closing table."""
    return [
        {"item": f"{prefix}, {name}, {PROTOCOLS[p]}", "paper": percent(quoted), "measured": str(found), "file": file}
        for name, quoted, of in rows
        for p, found in of.items()
    ]


def similarity(by_layer: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    """Correlation of each covered face's projection with the uncovered one's, [3, H, W] by region, -1..1."""
    regions = list(next(iter(by_layer.values())))

    def correlation(a: Tensor, b: Tensor) -> float:
        return float(F.cosine_similarity((a - a.mean()).flatten(), (b - b.mean()).flatten(), dim=0))

    return pd.DataFrame(
        [
            {"covered": r, **{layer: correlation(shown[r], shown["none"]) for layer, shown in by_layer.items()}}
            for r in regions
        ]
    ).round(3)


def claims() -> pd.DataFrame:
    """What the paper claims, where, and in which notebook it is checked."""
    return pd.DataFrame(paper.CLAIMS, columns=["the paper's claim", "section", "notebook"])


def order(rows: list[tuple], protocol: str) -> tuple[float, float]:
    """Do covered regions cost as much, one against another, as in the paper? Spearman's correlation of Table 6 (1: the
    same order) under a protocol, without the uncovered face, and its p by all orders that there are (two-sided)."""
    regions = [(value, of[protocol].value) for name, value, of in rows if name != "none"]
    quoted, measured = map(list, zip(*regions, strict=True))
    test = stats.permutation_test(
        [measured], lambda x: stats.spearmanr(quoted, x).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    return float(test.statistic), float(test.pvalue)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table to read: three decimals, and p below a thousandth as "<0.001"."""
    shown = table.round(3)
    for column in table.columns[[str(c).split(", ")[-1] == "p" for c in table]]:
        shown[column] = ["" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in table[column]]
    return shown
