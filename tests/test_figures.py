"""Figures and tables: their content. Their look is for eyes."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from dualtl_lib import paper
from dualtl_lib.evaluate import statistics
from dualtl_lib.report import figures, labels, tables
from dualtl_lib.visualize.deconvnet import Deconvnet


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (4, 3, 227, 227), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def titles(fig) -> list[str]:
    return [ax.get_title() for ax in fig.axes]


def test_display_range_ends_at_zero_and_at_the_peak():
    projection = torch.tensor([-1.0, 0.0, 1.0, 4.0]).repeat(3, 1, 1)
    assert figures.to_display_range(projection, peak=2.0)[0, :, 0].tolist() == [0, 0, 0.5, 1]
    assert figures.display_peak(torch.zeros(3, 2, 2)) == 1
    assert figures.display_peak(projection) == pytest.approx(4, rel=0.01)


def test_panels_are_the_projections_that_their_titles_name(shallow, images):
    now, before = Deconvnet(shallow), Deconvnet(shallow, variant="guided")
    fig, shown = figures.projections(paper.figure(10), images[:1], now, before)
    assert torch.equal(shown["d"], now.reconstruct(images[:1], "conv2", maps=[19])[0])
    assert torch.equal(shown["h"], before.reconstruct(images[:1], "conv2", top=1)[0])
    assert titles(fig)[:2] == ["(a) input", "(b) all neurons of all 256 maps"]
    assert "(h) top 1 of each of 256 maps,\nbefore this training" in titles(fig)
    with pytest.raises(ValueError, match=r"before: Fig. 10"):
        figures.projections(paper.figure(10), images[:1], now)


def test_an_empty_panel_names_its_reason(shallow, images):
    net = Deconvnet(shallow, variant="zeiler")
    written = {}
    for name, weight in (("silent", -1.0), ("lost", 1.0)):
        with torch.no_grad():
            conv = shallow.conv1
            kept = conv.weight[0].clone(), conv.bias[0].clone()
            conv.weight[0], conv.bias[0] = 0, weight  # only the bias activates the map: its projection is 0
            fig, _ = figures.projections(paper.figure(4), images[:1], net)
            written[name] = [text.get_text() for text in fig.axes[2].texts]
            conv.weight[0], conv.bias[0] = kept
    assert written == {"silent": ["no active neuron"], "lost": ["projection is 0"]}


@pytest.mark.parametrize("letters", [60, 94, 100, 189, 300])
def test_a_title_of_any_length_fits_into_the_page(images, letters):
    title = ("conv3, weights " * 20)[:letters].strip()
    fig = figures.faces(images, "abcd", title)
    fig.canvas.draw()
    (head,) = fig.texts
    box = head.get_window_extent()
    assert head.get_text().replace("\n", " ") == title
    assert fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1
    assert all(ax.get_tightbbox().y1 <= box.y0 for ax in fig.axes)


def test_covered_faces_share_the_scale_of_the_uncovered(shallow, images):
    covered = {"none": images[:1], "cheeks and forehead": images[1:2]}
    fig, shown = figures.occlusion_pairs(covered, Deconvnet(shallow), "conv1", 10, "")
    assert titles(fig) == [
        "(a) nothing covered", "(b) conv1, top 10 of each map",
        "(c) cheeks, forehead covered", "(d) conv1, top 10 of each map",
    ]  # fmt: skip
    peak = figures.display_peak(shown["none"])
    assert np.array_equal(
        fig.axes[3].images[0].get_array(), figures.to_display_range(shown["cheeks and forehead"], peak)
    )


@pytest.mark.parametrize("chosen", [{"conv1": 4}, {"conv1": 4, "conv2": 200}])
def test_a_gallery_has_a_column_for_each_layer(shallow, images, chosen):
    many = images.repeat(3, 1, 1, 1)
    fig = figures.gallery(Deconvnet(shallow), many, chosen, "")
    assert titles(fig)[: len(chosen)] == [f"{layer}, map {number}" for layer, number in chosen.items()]


def test_filters_are_numbered_as_the_paper_counts(shallow):
    fig = figures.filters(shallow, "")
    assert titles(fig) == [str(n) for n in range(1, 97)]
    first = shallow.transform.to_rgb(shallow.conv1.weight.detach())[0].permute(1, 2, 0)
    assert np.allclose(fig.axes[0].images[0].get_array(), 0.5 + 0.5 * first / first.abs().max())


def test_accuracies_are_drawn_at_their_values():
    rows = [
        tables.Row("fig14", 0.9, {"random": statistics.wilson(80, 100), "subject": statistics.wilson(50, 100)}),
        tables.Row("two", None, {}),
    ]
    (ax,) = figures.accuracies(rows, "t", {"two": 0.25}).axes
    points = {line.get_label(): line.get_xdata().tolist() for line in ax.lines if not line.get_label().startswith("_")}
    assert points == {"paper": [0.9], "majority class": [0.25]}
    legend = {text.get_text() for text in ax.get_legend().get_texts()}
    assert legend == {"paper", "majority class", *labels.PROTOCOLS.values()}
    assert [text.get_text() for text in ax.get_yticklabels()] == ["Our model in Fig. 14", "two"]
    assert [c.lines[0].get_xdata().tolist() for c in ax.containers] == [[0.8], [0.5]]


def test_curves_are_means_of_ten_batches_in_the_protocols_colour():
    history = {"loss": list(range(20)), "validated": [10, 20], "validation": [0.5, 0.6]}
    left, right = figures.curves({"fig18, subject": history}, "").axes
    (loss,), (accuracy,) = left.lines, right.lines
    assert loss.get_ydata().tolist() == [np.mean(range(max(0, t - 9), t + 1)) for t in range(20)]
    assert accuracy.get_xydata().tolist() == [[10, 0.5], [20, 0.6]]
    assert accuracy.get_label() == "Fig. 18, subject-independent split"
    assert loss.get_color() == figures.COLOURS["subject"] and loss.get_linestyle() == "--"


def test_a_confusion_has_a_row_per_label():
    fig = figures.confusion({"random": np.array([[3, 1], [0, 2]])}, ["a", "b"], "")
    found = {text.get_position(): text.get_text() for text in fig.axes[0].texts}
    assert found == {(0, 0): "3", (1, 0): "1", (1, 1): "2"}
    assert (fig.axes[0].get_xlabel(), fig.axes[0].get_ylabel()) == ("prediction", "label")


def test_a_figure_looks_the_same_whatever_the_rcparams():
    def drawn() -> bytes:
        file = io.BytesIO()
        rows = [tables.Row("svm", 0.9, {"random": statistics.wilson(80, 100)})]
        figures.accuracies(rows, "t").savefig(file, format="raw", dpi=50)
        return file.getvalue()

    usual = drawn()
    with plt.rc_context({"font.size": 20, "axes.spines.top": True, "figure.dpi": 30}):
        assert drawn() == usual


def test_tables_hold_keys_and_are_shown_with_labels():
    labelled = torch.tensor([0, 1, 1, 0])
    predicted = {p: {"fig14": labelled, "svm": 1 - labelled} for p in paper.PROTOCOLS}
    targets = dict.fromkeys(paper.PROTOCOLS, labelled)
    rows = tables.table5_rows(predicted, targets, {"subject": np.array(list("aabb"))})
    table = tables.frame(rows, "method")
    assert list(table) == ["method", "paper", "random", "subject"]
    assert table.method.iloc[[0, -1]].tolist() == ["fig14", "svm"]
    shown = tables.readable(table)
    assert list(shown) == ["method", "paper", "random split", "subject-independent split"]
    assert shown.method.iloc[[0, -1]].tolist() == ["Our model in Fig. 14", "linear SVM on pixels"]
    assert tables.results(rows, "Table 5", "f")[0]["item"] == "Table 5, fig14, random"
    assert labels.label("Table 5, fig14, random") == "Table 5, Our model in Fig. 14, random split"


def test_order_of_the_regions_is_compared_without_the_uncovered_face():
    values = {"none": 0.1, "a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    rows = [
        tables.Row(key, v, {"random": statistics.wilson(int(100 * v) * (key != "none"), 100)})
        for key, v in values.items()
    ]
    correlation, p = tables.rank_correlation(rows, "random")
    assert correlation == pytest.approx(1) and p == pytest.approx(2 / 24)


def test_small_p_is_shown_as_such():
    shown = tables.readable(
        pd.DataFrame({"p": [1e-9, 0.04567, None], "Holm's p": [0.1, 1, 1], "start": ["random", "", "dual"]})
    )
    assert shown["p"].tolist() == ["<0.001", "0.046", ""] and shown["Holm's p"].tolist()[0] == "0.100"
    assert shown["start"].tolist() == ["random weights", "", "dual transfer"]
