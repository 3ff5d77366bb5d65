"""The paper's models in one table: what each starts from, which layers stay frozen, its recipe and its notebook.

A model is named by the figure that draws it, "fig9", "fig14" or "fig18". A trained model has a key: "celeba" is
Fig. 9's; "ckplus_fig14" is Fig. 14's trained on the random split, "ckplus_fig14_subject" on the other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from dualtl_lib import paper
from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet, Trunk


class Step(NamedTuple):
    """How a model is made.

    Attributes:
        start: The model whose trained trunk it starts from; None: the run's first network.
        frozen: Layers that stay as they are.
        conv5: Whether its trunk has conv5.
        recipe: Which of the run's recipes trains it.
        notebook: Which notebook trains it.
    """

    start: str | None
    frozen: tuple[str, ...]
    conv5: bool
    recipe: str
    notebook: str


STEPS = {
    "fig9": Step(None, ("conv1",), True, "celeba", "03_first_transfer"),
    "fig14": Step("fig9", ("conv1", "conv2"), True, "ckplus", "05_second_transfer"),
    # "Only the two full connect layers need to be fine tuned" (section 4.3.4).
    "fig18": Step("fig14", ("conv1", "conv2", "conv3", "conv4"), False, "heads", "05_second_transfer"),
}


def key(figure: str, protocol: str = "random") -> str:
    """Return the key of a trained model; Fig. 9's has no protocol."""
    if figure == "fig9":
        return "celeba"
    return f"ckplus_{figure}" + ("" if protocol == "random" else f"_{protocol}")


SECOND = tuple((figure, protocol) for protocol in paper.PROTOCOLS for figure in ("fig14", "fig18"))
MODELS = {"celeba": ("fig9", "random")} | {key(*which): which for which in SECOND}  # figure and protocol by key


def initial_model(
    figure: str, trunk: Trunk, classes: Sequence[str], *, seed: int, frozen: Sequence[str] | None = None
) -> AttributeNet | ExpressionNet:
    """Make a model as its training starts: with this trunk, new heads and frozen layers.

    Args:
        figure: "fig9", "fig14" or "fig18".
        trunk: The trunk that it starts from.
        classes: Attributes of Fig. 9's model, classes of the others.
        seed: Seed of the heads.
        frozen: Layers that stay as they are. Default: the paper's.
    """
    step = STEPS[figure]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = AttributeNet(trunk, classes) if figure == "fig9" else ExpressionNet(trunk, classes, conv5=step.conv5)
    net.freeze(*(step.frozen if frozen is None else frozen))
    return net
