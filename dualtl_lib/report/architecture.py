"""The structure of the networks as tables, read from the networks themselves: Table 1 and the sizes of the models."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd
import torch

from dualtl_lib import paper
from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet, Trunk

Model = Trunk | AttributeNet | ExpressionNet


class Step(NamedTuple):
    """One operation of a trunk.

    Attributes:
        name: Its kind and the number of its layer, e.g. "relu1".
        kind: "input", "conv", "relu", "pool" or "norm".
        shape: (C, H, W) after it.
        kernel: (rows, columns, depth) of a convolution, (rows, columns) of a pooling.
        settings: Of a convolution or pooling: stride and padding; of a convolution: groups and parameters.
        trained: Whether training changes its parameters.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    settings: Mapping[str, int] = {}
    trained: bool = False


def trunk_of(model: Model) -> Trunk:
    """The trunk of a model; a trunk itself."""
    return model if isinstance(model, Trunk) else model.trunk


def steps(model: Model) -> list[Step]:
    """List the operations of a model's trunk in the order in which they are computed."""
    trunk, record = trunk_of(model), []
    with torch.no_grad():
        trunk(next(trunk.parameters()).new_zeros(1, 3, trunk.image_size, trunk.image_size), record=record)
    found = [Step("input", "input", (3, trunk.image_size, trunk.image_size))]
    for number, (layer, stage) in enumerate(zip(trunk.layers, record, strict=True), 1):
        conv, before, after = trunk.conv(layer.name), tuple(stage.conv.shape[1:]), tuple(stage.pooled.shape[1:])
        kernel = (*conv.kernel_size, conv.weight.shape[1])
        settings = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
        settings["parameters"] = sum(p.numel() for p in conv.parameters())
        trained = any(p.requires_grad for p in conv.parameters())
        found.append(Step(f"conv{number}", "conv", before, kernel, settings, trained))
        found.append(Step(f"relu{number}", "relu", before))
        pool_first = trunk.order == "pool-norm"
        pooling = {"stride": layer.pool_stride, "padding": layer.pool_padding}
        pool = Step(f"pool{number}", "pool", after, (layer.pool_kernel, layer.pool_kernel), pooling)
        norm = Step(f"norm{number}", "norm", after if pool_first else before)
        then = [pool] * layer.pool + [norm] * layer.norm
        found += then if pool_first else then[::-1]
    return found


def table1(trunk: Trunk) -> pd.DataFrame:
    """Make Table 1 from a network, with the paper's values in columns of their own.

    Args:
        trunk: A trunk with as many convolutions and poolings as the paper's.

    Returns:
        A row per convolution and pooling. Kernels are written as in the paper: rows*columns*depth*maps; a pooling has
        no depth. The column `difference` names what the paper prints otherwise or leaves out.
    """
    shown = [step for step in steps(trunk) if step.kind in ("input", "conv", "pool")]
    rows = []
    for step, printed in zip(shown, paper.TABLE1, strict=True):
        c, h, w = step.shape
        row = {
            "layer": step.name,
            "output": f"{h}*{w}*{c}",
            "kernel": "*".join(map(str, (*(step.kernel or (h, w)), c))),
        }
        row |= {"stride": step.settings.get("stride"), "pad": step.settings.get("padding")}
        row |= {"groups": step.settings.get("groups"), "parameters": step.settings.get("parameters", 0)}
        row |= {f"paper's {key}": getattr(printed, key) for key in ("kernel", "stride", "pad")}
        rows.append(row | {"difference": "; ".join(_differences(row))})
    table = pd.DataFrame(rows, dtype=object)
    return table.where(table.notna(), "")  # an input has no stride, a pooling no groups


def _differences(row: Mapping) -> Iterator[str]:
    """The differences between a row of Table 1 as printed and the network."""
    ours, printed = row["kernel"].split("*"), row["paper's kernel"].split("*")
    if len(ours) == 4 and len(printed) == 3:  # the table leaves the depth out
        depth, groups = int(ours.pop(2)), row["groups"]
        yield f"depth {depth} left out" + f" ({depth * groups} in {groups} groups)" * (groups > 1)
    if ours != printed:
        yield f"kernel printed {'*'.join(printed)}"
    for key in ("stride", "pad"):
        if row[key] != (other := row[f"paper's {key}"]):
            yield f"{key} printed {other}"


def sizes(models: Mapping[str, AttributeNet | ExpressionNet]) -> pd.DataFrame:
    """List the frozen layers, the heads and the numbers of parameters of models, by their names."""
    rows = []
    for name, model in models.items():
        row = {"model": name, "frozen": ", ".join(model.frozen()), "features": model.features, "heads": heads(model)}
        for which, trained in (("trained", True), ("frozen", False)):
            row[f"parameters {which}"] = sum(p.numel() for p in model.parameters() if p.requires_grad is trained)
        rows.append(row)
    return pd.DataFrame(rows)


def heads(model: Model) -> str:
    """A model's fully connected layers in words, as "12 × (128 → 2)"."""
    if isinstance(model, Trunk):
        return "classes of ImageNet"
    if isinstance(model, AttributeNet):
        count, outputs, hidden = model.fc2_weight.shape
        return f"{count} × ({hidden} → {outputs})"
    return f"{model.fc1.out_features} → {model.fc2.out_features}"
