"""What paper.py quotes agrees with itself, with the paper's sentences and with the network."""

import pytest

from dualtl_lib import paper
from dualtl_lib.models.caffenet import CAFFENET

MAPS = {layer.name: layer.maps for layer in CAFFENET}


@pytest.mark.parametrize("figure", paper.FIGURES.values(), ids=lambda f: f"fig{f.number}")
def test_every_panel_can_be_drawn(figure):
    assert paper.FIGURES[figure.number] is figure
    assert "".join(panel.letter for panel in figure.panels) == "bcdefgh"  # (a) is the input
    for panel in figure.panels:
        assert panel.model in ("now", "before")
        assert panel.top is None or panel.top >= 1
        assert panel.maps is None or all(1 <= m <= MAPS[figure.layer] for m in panel.maps)


def test_figures_of_projections_are_all_there():
    layers = {number: figure.layer for number, figure in paper.FIGURES.items()}
    assert layers == {
        **{4: "conv1", 5: "conv2", 6: "conv3", 7: "conv4", 8: "conv5"},
        **{10: "conv2", 11: "conv3", 12: "conv4", 13: "conv5"},
        **{15: "conv3", 16: "conv4", 17: "conv5"},
    }


SENTENCES = [  # figure, letter, maps, top, model, from sections 4.1.2, 4.2.2 and 4.3.3
    (4, "b", None, None, "now"),
    (4, "c", (1,), None, "now"),
    (4, "d", (4,), None, "now"),
    (4, "g", None, 1, "now"),
    (4, "h", None, 10, "now"),
    (5, "c", (4,), None, "now"),
    (5, "d", (13,), None, "now"),
    (5, "e", (35,), None, "now"),
    (5, "f", (94,), None, "now"),
    (5, "h", None, 1, "now"),
    (10, "b", None, None, "now"),
    (10, "c", None, None, "before"),
    (10, "d", (19,), None, "now"),
    (10, "e", (56,), None, "now"),
    (10, "f", (151,), None, "now"),
    (10, "g", None, 1, "now"),
    (10, "h", None, 1, "before"),
    (11, "c", None, None, "before"),
    (11, "d", (100,), 1, "now"),
    (11, "e", (193,), 10, "now"),
    (11, "f", (193,), 1, "now"),
    (11, "h", None, 1, "before"),
    (15, "c", (210,), None, "now"),
    (15, "d", (193,), None, "now"),
    (15, "e", (342,), None, "now"),
    (15, "f", (335,), None, "now"),
    (15, "g", (348,), None, "now"),
    (15, "h", None, 1, "now"),
]


@pytest.mark.parametrize("number, letter, maps, top, model", SENTENCES)
def test_panel_is_what_the_text_says(number, letter, maps, top, model):
    assert paper.Panel(letter, maps, top, model) in paper.FIGURES[number].panels


def test_a_figure_with_other_maps_keeps_its_letters():
    changed = paper.figure(15, maps=(1, 2, 3, 4, 5), top=7)
    assert [panel.maps for panel in changed.panels] == [None, (1,), (2,), (3,), (4,), (5,), None]
    assert [panel.top for panel in changed.panels] == [None] * 6 + [7]
    assert [p.letter for p in changed.panels] == [p.letter for p in paper.FIGURES[15].panels]
    assert paper.figure(11) == paper.FIGURES[11]


def test_a_figure_with_too_few_maps_is_refused():
    with pytest.raises(ValueError, match=r"Fig\. 10 has 3 panels of single maps \(d, e, f\), but maps=\[1, 2\]"):
        paper.figure(10, maps=(1, 2))


def test_accuracies_are_those_of_200_test_images():
    ours = [value for name, value in paper.TABLE5.items() if name in paper.MODELS]
    for value in (*ours, *paper.TABLE6.values()):
        correct = value * paper.CKPLUS_SPLIT["test"]
        assert correct == pytest.approx(round(correct))


def test_table_5_gives_the_differences_that_the_text_states():
    ours = paper.TABLE5["fig14"]
    others = ("AUDN", "Zero-bias CNN+AD", "CNN+SVM", "CNN+SOFTMAX", "CNN+Hypergraph")
    assert [round(100 * (ours - paper.TABLE5[name]), 1) for name in others] == [5.3, 2.6, 2.5, 3.3, 1.7]


def test_table_6_starts_from_the_model_of_fig_14_and_falls():
    values = list(paper.TABLE6.values())
    assert values[0] == paper.TABLE5["fig14"]
    assert values == sorted(values, reverse=True)


def test_covered_faces_of_figs_19_and_20_are_rows_of_table_6():
    assert len(set(paper.OCCLUSION_PAIRS)) == 6 and set(paper.OCCLUSION_PAIRS) < set(paper.TABLE6)
    assert {paper.FIG19["layer"], paper.FIG20["layer"]} <= set(MAPS)


def test_ck_plus_is_split_without_a_rest():
    assert sum(paper.CKPLUS_SPLIT.values()) == paper.CKPLUS_IMAGES


def test_table_4_is_table_3_with_another_length_and_decay():
    changed = {key for key in paper.TABLE3 if paper.TABLE3[key] != paper.TABLE4[key]}
    assert paper.TABLE3.keys() == paper.TABLE4.keys() and changed == {"max_iter", "weight_decay"}


def test_expressions_are_in_the_order_of_their_codes():
    assert paper.EXPRESSIONS.index("neutral") == 0 and paper.EXPRESSIONS.index("surprise") == 7
    assert list(paper.EXPRESSIONS[1:]) == sorted(paper.EXPRESSIONS[1:])


def test_attributes_are_spelled_as_celeba_spells_them(data_root):
    assert len(set(paper.ATTRIBUTES)) == 12
    listing = data_root / "celeba" / "list_attr_celeba.txt"
    if not listing.exists():
        pytest.skip("needs CelebA's attribute list")
    with listing.open() as lines:
        next(lines)
        assert set(paper.ATTRIBUTES) <= set(next(lines).split())
