"""What the paper judges by eye, as numbers: each against what follows from its definition."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from dualtl_lib import paper
from dualtl_lib.data import regions
from dualtl_lib.models.caffenet import Layer, Preprocessing, Trunk
from dualtl_lib.report import tables
from dualtl_lib.visualize import measures
from dualtl_lib.visualize.deconvnet import Deconvnet

EDGES, ALONE, PARTS = measures.EDGES, measures.ALONE, measures.PARTS


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (6, 3, 227, 227), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_picture_agrees_with_itself_and_with_its_brighter_self(images):
    for other in (images, 3 * images.float() + 7, -images.float()):
        assert measures.edge_agreement(other, images) == pytest.approx(np.ones(len(images)), abs=1e-5)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    assert np.abs(measures.edge_agreement(noise, images)).max() < 0.1


def test_a_flat_projection_agrees_with_nothing(images):
    assert measures.edge_agreement(torch.zeros(images.shape), images).tolist() == [0.0] * len(images)


def test_edges_are_where_brightness_changes():
    half = torch.zeros(1, 40, 40)
    half[:, :, 20:] = 1
    found = measures.edges(half)[0]
    assert found[:, 19:21].eq(4).all() and found[:, :19].eq(0).all() and found[:, 21:].eq(0).all()  # 1 + 2 + 1


@pytest.mark.parametrize("size", [227, 64])
def test_energy_in_a_region_is_told_by_its_share(size):
    inside = regions.region_mask("mouth and eyes", size)
    even, within = torch.ones(1, 3, size, size), inside.float().expand(1, 3, size, size)
    assert measures.concentration(even) == pytest.approx(1, abs=1e-5)
    assert measures.concentration(within) == pytest.approx(1 / inside.float().mean().item(), rel=1e-5)
    assert measures.concentration(1 - within) == 0 and measures.concentration(0 * even) == 0


def test_an_interval_is_students():
    values = np.array([0.1, 0.4, 0.2, 0.5])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert measures.interval(values) == f"0.30 ± {(high - low) / 2:.2f}"
    assert measures.interval(values[:1]) == "0.10"


def test_a_network_is_not_changed_against_itself(shallow, images):
    table = measures.change(Deconvnet(shallow), Deconvnet(shallow), images, ["conv1", "conv2"])
    assert (table[f"{EDGES}, before"] == table[f"{EDGES}, now"]).all() and (table[f"{PARTS}, p"] == 1).all()
    assert measures.change_row(table, "conv2").count("no difference shown (p=1)") == 2


def test_change_and_depth_compare_the_means_of_each_layer(shallow, images):
    net, other = Deconvnet(shallow), Deconvnet(shallow, variant="guided")
    by_layer = measures.by_layer({"a": net, "b": other}, images).set_index(["weights", "layer"])
    one = measures.of_layer(net, images, "conv1"), measures.of_layer(net, images, "conv2")
    assert by_layer.loc[("a", "conv2"), PARTS] == pytest.approx(one[1][PARTS].mean())
    change = measures.change(other, net, images, ["conv1"]).iloc[0]
    assert change[f"{EDGES}, before"] == by_layer.loc[("a", "conv1"), EDGES]
    assert change[f"{EDGES}, now"] == by_layer.loc[("b", "conv1"), EDGES]
    (depth,) = measures.depth(net, images).to_dict("records")
    assert depth["layer"] == "conv2" and depth["n"] == len(images)
    assert depth[f"{ALONE}, before"] == pytest.approx(one[0][ALONE].mean())
    assert depth[f"{ALONE}, now"] == pytest.approx(one[1][ALONE].mean())
    assert depth[f"{EDGES}, p"] == stats.wilcoxon(one[1][EDGES], one[0][EDGES]).pvalue


def test_words_say_which_steps_are_shown():
    table = pd.DataFrame(
        {f"{EDGES}, before": [0.9, 0.7, 0.7], f"{EDGES}, now": [0.7, 0.7, 0.8], f"{EDGES}, p": [0.01, 0.9, 0.04]}
    )
    said = "0.90 → 0.70 → 0.70 → 0.80: falls at 1 of 3 steps, rises at 1 (p < 0.05)"
    assert measures.depth_row(table, EDGES) == said
    row = {"layer": "conv2", **table.iloc[0], f"{PARTS}, before": 1.0, f"{PARTS}, now": 1.2, f"{PARTS}, p": 0.2}
    said = "edges 0.90 → 0.70, less (p=0.01); eyes and mouth 1.00 → 1.20, no difference shown (p=0.2)"
    assert measures.change_row(pd.DataFrame([row]), "conv2") == said


def test_departures_are_relative_differences_of_the_picture(shallow, images):
    found = measures.departures(shallow, images[:2]).set_index("layer")
    ours = Deconvnet(shallow).reconstruct(images[:2], "conv2").flatten(1)
    theirs = Deconvnet(shallow, lrn="gradient").reconstruct(images[:2], "conv2").flatten(1)
    expected = ((theirs - ours).norm(dim=1) / ours.norm(dim=1)).mean()
    assert expected > 0.01
    assert found.loc["conv2", "normalization by its gradient"] == pytest.approx(float(expected))
    assert (found["bias not subtracted (eq. 9)"] == 0).all()  # these biases are 0
    assert (found["shared winners added (eq. 8)"] > 0).all()


def test_the_bias_s_departure_is_what_eq_9_takes_off(images):
    """One kernel that sees one pixel: all active neurons give their value back, less the bias where it is subtracted.

    The map is w x + b, so that ours is w x w and the other (w x + b) w, everywhere where the map is positive.
    """
    trunk, w, b = Trunk((Layer("conv1", 1, 1),), transform=Preprocessing("RGB", mean=(0, 0, 0))), 0.5, 3.0
    with torch.no_grad():
        trunk.conv1.weight.zero_()[0, 0] = w
        trunk.conv1.bias.fill_(b)
    x = images[:2, 0].double()
    ours, theirs = w * x * w, (w * x + b) * w
    expected = ((theirs - ours).flatten(1).norm(dim=1) / ours.flatten(1).norm(dim=1)).mean()
    found = measures.departures(trunk, images[:2]).iloc[0]
    assert found["bias not subtracted (eq. 9)"] == pytest.approx(float(expected), rel=1e-4) and expected > 0.01
    assert found["normalization by its gradient"] == found["shared winners added (eq. 8)"] == 0  # it has neither


def test_the_order_of_regions_leaves_the_uncovered_face_out():
    class Found(float):
        value = property(float)

    regions = [name for name in paper.TABLE6 if name != "none"]
    for worst_first, expected in ((regions[::-1], -1), (regions, 1)):
        ranked = {name: Found(1 - i / 10) for i, name in enumerate(worst_first)} | {"none": Found(0)}
        rows = [(name, quoted, {"random": ranked[name]}) for name, quoted in paper.TABLE6.items()]
        correlation, p = tables.order(rows, "random")
        assert correlation == pytest.approx(expected) and p == pytest.approx(2 / 720)  # of 6! orders


def test_a_table_to_read_says_where_p_is_small():
    table = pd.DataFrame({"share": [0.12345, 1], "p": [1e-9, 0.5], "edges, p": [0.0123, np.nan]})
    shown = tables.readable(table)
    assert shown.share.tolist() == [0.123, 1.0] and shown.p.tolist() == ["<0.001", "0.500"]
    assert shown["edges, p"].tolist() == ["0.012", ""]
