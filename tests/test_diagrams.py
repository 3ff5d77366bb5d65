"""The diagrams show the models and can be read; Table 1 is computed and marks what is printed otherwise."""

import re

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

from dualtl_lib import paper
from dualtl_lib.models.caffenet import CAFFENET, TORCHVISION_ALEXNET, AttributeNet, ExpressionNet, Trunk
from dualtl_lib.report import architecture, diagrams, drawing

FROZEN, TRAINED = drawing.MEANING[drawing.FROZEN], drawing.MEANING[drawing.TRAINED]


@pytest.fixture(scope="module")
def models():
    """A trunk, and the three models as the paper freezes them."""
    trunk = Trunk()
    first = AttributeNet(trunk, paper.ATTRIBUTES).freeze("conv1")
    second = ExpressionNet(first.trunk, paper.EXPRESSIONS).freeze("conv1", "conv2")
    trimmed = ExpressionNet(second.trunk, paper.EXPRESSIONS, conv5=False).freeze("conv1", "conv2", "conv3", "conv4")
    return trunk, first, second, trimmed


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def words(fig):
    return [text.get_text() for text in fig.axes[0].texts]


# --- Reading the network


@pytest.mark.parametrize("order, between", [("pool-norm", "pool norm"), ("norm-pool", "norm pool")])
def test_steps_are_in_the_order_of_the_trunk(order, between):
    kinds = " ".join(step.kind for step in architecture.steps(Trunk(order=order)))
    stage = f"conv relu {between}"
    assert kinds == f"input {stage} {stage} conv relu conv relu conv relu pool"


def test_steps_carry_the_shapes_of_section_4_1_1():
    shapes = {step.name: step.shape for step in architecture.steps(Trunk())}
    assert shapes["conv1"] == (96, 55, 55) and shapes["pool1"] == (96, 27, 27)
    assert shapes["conv2"] == (256, 27, 27) and shapes["pool5"] == (256, 6, 6)


# --- Table 1


def test_table1_marks_the_misprints_and_nothing_else(models):
    table = architecture.table1(models[0]).set_index("layer")
    misprinted = table.index[table.difference != ""]
    assert list(misprinted) == ["conv2", "conv3", "conv4", "conv5"]
    assert table.difference["conv2"] == "depth 48 left out (96 in 2 groups); stride printed 0"
    assert table.difference["conv3"] == "depth 256 left out; stride printed 0"


def test_table1_counts_every_parameter(models):
    assert (
        architecture.table1(models[0]).parameters.sum() == sum(p.numel() for p in models[0].parameters()) == 2_334_080
    )


def test_table1_of_another_network_says_where_it_differs():
    table = architecture.table1(Trunk(TORCHVISION_ALEXNET)).set_index("layer")
    assert table.kernel["conv1"] == "11*11*3*64"
    assert table.difference["conv1"] == "kernel printed 11*11*3*96; pad printed 0"
    assert table.difference["pool1"] == "kernel printed 3*3*96"


def test_sizes_of_the_models(models):
    _, first, second, trimmed = models
    table = architecture.sizes({"9": first, "14": second, "18": trimmed}).set_index("model")
    assert table.frozen.tolist() == ["conv1", "conv1, conv2", "conv1, conv2, conv3, conv4"]
    assert table.features.tolist() == [9216, 9216, 13824]
    assert table.heads.tolist() == ["12 × (128 → 2)", "128 → 8", "128 → 8"]
    assert table["parameters trained"]["18"] == 13824 * 128 + 128 + 128 * 8 + 8
    assert table["parameters frozen"]["9"] == 96 * (3 * 11 * 11 + 1)


# --- What the drawings show


@pytest.mark.parametrize("frozen", [(), ("conv1",), ("conv1", "conv2"), ("conv1", "conv3")])
@pytest.mark.parametrize("conv5", [True, False])
def test_colours_follow_what_trains(models, frozen, conv5):
    model = ExpressionNet(Trunk(), paper.EXPRESSIONS, conv5=conv5).freeze(*frozen)
    shown = drawing.meanings(diagrams.expression_model(model))
    for layer in model.trunk.layers:
        assert shown[layer.name] == (FROZEN if layer.name in frozen else TRAINED)
    assert ("conv5" in shown) == conv5
    assert [name for name in shown if name.startswith("fc2")] == [f"fc2:{name}" for name in paper.EXPRESSIONS]


def test_what_is_frozen_can_be_told_without_colours(models):
    patches = diagrams.expression_model(models[2]).axes[0].patches
    hatched = {patch.get_gid() for patch in patches if patch.get_hatch()}
    assert hatched == {"conv1", "conv2"}


@pytest.mark.parametrize("attributes", [paper.ATTRIBUTES, paper.ATTRIBUTES[:5]])
def test_a_head_for_each_attribute(attributes):
    fig = diagrams.attribute_model(AttributeNet(Trunk(), attributes))
    shown = drawing.meanings(fig)
    assert [name[4:] for name in shown if name.startswith("fc1")] == list(attributes)
    assert sum(name.startswith("fc2") for name in shown) == 2 * len(attributes)
    assert words(fig).count("128") == len(attributes) and set(attributes) <= set(words(fig))


def test_numbers_in_the_structure_are_the_networks():
    layers = tuple(layer._replace(maps=100) if layer.name == "conv3" else layer for layer in CAFFENET)
    found = words(diagrams.structure(Trunk(layers)))
    assert "100" in found and "3×3×50" in found  # conv3's maps; conv4 sees half of them
    assert "3×3×192" in found  # conv5 as before


def test_fig_1_reads_what_is_kept_from_the_models(models):
    trunk, first, _, trimmed = models
    fig = diagrams.dual_transfer(*models)
    decisions = [text.split("\n")[1] for text in words(fig) if text.startswith("Feature visualization")]
    assert decisions == ["keep conv1", "keep conv1, conv2", "leave conv5 out"]
    other = ExpressionNet(first.trunk, paper.EXPRESSIONS).freeze("conv1", "conv2", "conv3")
    shown = drawing.meanings(diagrams.dual_transfer(trunk, first, other, trimmed))
    assert shown["Second transfer model: conv3"] == FROZEN
    assert shown["Second transfer model: conv4"] == TRAINED
    assert "The same, trimmed: conv5" not in shown


@pytest.mark.parametrize(
    "order, layer, last, switches",
    [
        ("pool-norm", "conv1", "pool1", 1),
        ("pool-norm", "conv2", "pool2", 2),
        ("norm-pool", "conv2", "pool2", 2),
        ("pool-norm", "conv3", "relu3", 2),
        ("pool-norm", "conv5", "pool5", 3),
    ],
)
def test_flowchart_goes_to_where_a_neuron_lives_and_back(order, layer, last, switches):
    fig = diagrams.visualization(Trunk(order=order), layer)
    shown = list(drawing.meanings(fig))
    there, back = shown[::2], shown[1::2]
    assert there[0] == "input" and there[-1] == last
    assert back == [f"back:{name}" for name in there]
    assert words(fig).count("switches\n(7)") == sum(name.startswith("pool") for name in there) == switches


def test_flowchart_of_no_layer_is_refused():
    with pytest.raises(ValueError, match="no layer 'conv9'"):
        diagrams.visualization(Trunk(), "conv9")


# --- Legibility


@pytest.fixture(scope="module")
def drawings(models):
    """Every drawing at its default, and the structure of two other networks."""
    trunk, first, second, trimmed = models
    figs = [
        diagrams.structure(trunk),
        diagrams.structure(Trunk(order="norm-pool")),
        diagrams.structure(Trunk(TORCHVISION_ALEXNET)),
        diagrams.visualization(trunk),
        diagrams.attribute_model(first),
        diagrams.expression_model(second),
        diagrams.expression_model(trimmed),
        diagrams.dual_transfer(*models),
    ]
    for fig in figs:
        fig.canvas.draw()
    return figs


def test_text_is_large_enough_inside_the_page_and_apart(drawings):
    for fig in drawings:
        assert 7 <= fig.get_figwidth() <= 10
        ax, page = fig.axes[0], fig.bbox
        texts = [t for t in (*ax.texts, *ax.get_legend().get_texts()) if t.get_text()]
        assert all(t.get_fontsize() >= 8 for t in texts)
        boxes = [t.get_window_extent() for t in texts]
        for i, a in enumerate(boxes):
            assert page.x0 <= a.x0 and a.x1 <= page.x1 and page.y0 <= a.y0 and a.y1 <= page.y1, texts[i]
            for j in range(i):
                b = boxes[j]
                apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
                assert apart, (texts[i].get_text(), texts[j].get_text())


def test_text_stays_in_its_box(drawings):
    for fig in drawings:
        ax = fig.axes[0]
        frames = [p.get_window_extent() for p in ax.patches if isinstance(p, Rectangle)]
        for text in ax.texts:
            inside = text.get_window_extent()
            x, y = (inside.x0 + inside.x1) / 2, (inside.y0 + inside.y1) / 2
            around = [f for f in frames if f.contains(x, y)]
            if around:
                box = min(around, key=lambda f: f.width * f.height)
                assert box.x0 <= inside.x0 and inside.x1 <= box.x1, text.get_text()


def test_legend_explains_every_colour_that_is_used_and_no_other(drawings):
    for fig in drawings:
        explained = {text.get_text() for text in fig.axes[0].get_legend().get_texts()}
        used = set(drawing.meanings(fig).values())
        assert used <= explained
        assert explained & set(drawing.MEANING.values()) <= used | {drawing.MEANING[drawing.INPUT]}


def test_every_colour_means_one_thing():
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in drawing.MEANING)
    assert len(set(drawing.MEANING.values())) == len(drawing.MEANING) == 7
