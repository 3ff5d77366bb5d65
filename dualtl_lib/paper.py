"""What the paper states, once: its structure, settings, panels and published numbers.

J. Lin, Z. Liu, C.-C. Hung, T. T. Liu and Y. J. Chai, dual transfer learning for facial expression
recognition, accepted 21 November 2019. Everything here is quoted; nothing here is measured.
Maps are counted from 1, as the paper counts them.
"""

from typing import NamedTuple

TABLE2 = {  # in its order, in CelebA's spelling, with the values of its sample
    "Arched_Eyebrows": 1,
    "Bags_Under_Eyes": 0,
    "Big_Lips": 0,
    "Big_Nose": 0,
    "Oval_Face": 1,
    "High_Cheekbones": 0,
    "Mouth_Slightly_Open": 0,
    "Narrow_Eyes": 0,
    "Pointy_Nose": 0,
    "Rosy_Cheeks": 0,
    "Smiling": 1,
    "Bushy_Eyebrows": 0,
}
ATTRIBUTES = tuple(TABLE2)

# Section 4.3.1. The index is CK+'s emotion code.
EXPRESSIONS = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")


class Structure(NamedTuple):
    """One column of Table 1, as printed (its strides of 0 included)."""

    layer: str
    kernel: str
    stride: int | None
    pad: int | None


TABLE1 = (
    Structure("input", "227*227*3", None, None),
    Structure("conv", "11*11*3*96", 4, 0),
    Structure("pool", "3*3*96", 2, 0),
    Structure("conv", "5*5*256", 0, 2),
    Structure("pool", "3*3*256", 2, 0),
    Structure("conv", "3*3*384", 0, 1),
    Structure("conv", "3*3*384", 0, 1),
    Structure("conv", "3*3*256", 0, 1),
    Structure("pool", "3*3*256", 2, 0),
)

# Table 3 (CelebA) and Table 4 (CK+): Caffe's solver settings.
TABLE3 = dict(base_lr=1e-4, batch=100, gamma=0.1, stepsize=1000, max_iter=100_000, momentum=0.9, weight_decay=5e-4)
TABLE4 = dict(base_lr=1e-4, batch=100, gamma=0.1, stepsize=1000, max_iter=10_000, momentum=0.9, weight_decay=5e-5)

CELEBA_IMAGES = 202_599  # section 4.2.1
CKPLUS_IMAGES = 1875  # section 4.3.1
CKPLUS_SPLIT = dict(train=1400, test=200, validation=275)

# Keys of models, by the figure that draws them, and of protocols, in files and code; report/labels.py has their names.
MODELS = ("fig9", "fig14", "fig18", "svm")  # svm is ours, not the paper's
PROTOCOLS = ("random", "subject")  # the paper's split; the subject-independent split, which is ours

TABLE5 = {  # accuracy on CK+, 8 classes
    "fig14": 0.990,
    "fig18": 0.980,
    "AUDN": 0.937,
    "Zero-bias CNN+AD": 0.964,
    "CNN+SVM": 0.965,
    "CNN+SOFTMAX": 0.957,
    "CNN+Hypergraph": 0.973,
}

TABLE6 = {  # accuracy of the model in Fig. 14 with parts of the face covered; keys are occlusion regions
    "none": 0.990,
    "cheeks and forehead": 0.965,
    "eyes": 0.940,
    "left half mouth": 0.745,
    "bottom half mouth": 0.730,
    "mouth": 0.590,
    "mouth and eyes": 0.095,
}


class Panel(NamedTuple):
    """One lettered panel of a figure.

    Attributes:
        letter: Its letter.
        maps: Map numbers, or None for every map of the layer.
        top: Only this many most activated neurons of each of these maps, or None for all of them.
        model: "now" is the model that the figure is about, "before" the one it is compared with.
    """

    letter: str
    maps: tuple[int, ...] | None = None
    top: int | None = None
    model: str = "now"


class Figure(NamedTuple):
    """A figure of projections: its layer and its panels after (a), which is the input."""

    number: int
    layer: str
    panels: tuple[Panel, ...]


def _bvlc(number: int, layer: str, maps: tuple[int, ...]) -> Figure:
    """Figs. 5-8 and 15-17: all maps, five maps on their own, the strongest neuron of every map."""
    alone = tuple(Panel(letter, (m,)) for letter, m in zip("cdefg", maps, strict=True))
    return Figure(number, layer, (Panel("b"), *alone, Panel("h", top=1)))


def _celeba(number: int, layer: str, panels: tuple[Panel, ...]) -> Figure:
    """Figs. 10-13: all maps now and before, three chosen panels, the strongest of every map now and before."""
    return Figure(
        number,
        layer,
        (
            Panel("b"),
            Panel("c", model="before"),
            *panels,
            Panel("g", top=1),
            Panel("h", top=1, model="before"),
        ),
    )


_CONV3_CHOICE = (Panel("d", (100,), 1), Panel("e", (193,), 10), Panel("f", (193,), 1))

FIGURES = {
    # Of Fig. 4's four single maps the text names the first and the fourth; of Fig. 5's five it names four;
    # of Figs. 6-8, 12, 13, 16 and 17 none. Where the text names no map, we show those that it names for the
    # nearest layer that has them (Figs. 6-8: Fig. 5's, Figs. 12-13: Fig. 11's, Figs. 16-17: Fig. 15's).
    4: Figure(
        4,
        "conv1",
        (
            Panel("b"),
            Panel("c", (1,)),
            Panel("d", (4,)),
            Panel("e", (13,)),
            Panel("f", (35,)),
            Panel("g", top=1),
            Panel("h", top=10),
        ),
    ),
    5: _bvlc(5, "conv2", (4, 13, 35, 94, 151)),
    6: _bvlc(6, "conv3", (4, 13, 35, 94, 151)),
    7: _bvlc(7, "conv4", (4, 13, 35, 94, 151)),
    8: _bvlc(8, "conv5", (4, 13, 35, 94, 151)),
    10: _celeba(10, "conv2", (Panel("d", (19,)), Panel("e", (56,)), Panel("f", (151,)))),
    11: _celeba(11, "conv3", _CONV3_CHOICE),
    12: _celeba(12, "conv4", _CONV3_CHOICE),
    13: _celeba(13, "conv5", _CONV3_CHOICE),
    15: _bvlc(15, "conv3", (210, 193, 342, 335, 348)),
    16: _bvlc(16, "conv4", (210, 193, 342, 335, 348)),
    17: _bvlc(17, "conv5", (210, 193, 242, 235, 248)),  # conv5 has 256 maps: 100 is taken off the last three
}


def figure(number: int, maps: tuple[int, ...] | None = None, top: int = 1) -> Figure:
    """Return a figure of projections with other settings than the paper's.

    Args:
        number: The figure's number.
        maps: Map numbers of the panels that show a single map. Default: the paper's.
        top: Neurons of each map in the panels that show the strongest one of every map.

    Raises:
        ValueError: If the number of maps is not that of the panels.
    """
    paper = FIGURES[number]
    single = [panel.letter for panel in paper.panels if panel.maps]
    if maps is not None and len(maps) != len(single):
        raise ValueError(
            f"Fig. {number} has {len(single)} panels of single maps ({', '.join(single)}), but maps={list(maps)}"
        )
    chosen = dict(zip(single, maps or [panel.maps[0] for panel in paper.panels if panel.maps], strict=True))

    def changed(panel: Panel) -> Panel:
        if panel.maps:
            return panel._replace(maps=(chosen[panel.letter],))
        return panel._replace(top=top) if panel.top == 1 else panel

    return paper._replace(panels=tuple(map(changed, paper.panels)))


CLAIMS = (  # what the paper says, where, and the notebook that looks
    ("conv1 of the ImageNet network draws contours; deeper layers are ever more blurred", "4.1.2, Figs. 4-8", "02"),
    ("trained on attributes, conv2 turns to eyes and mouth and draws clearer contours", "4.2.2, Fig. 10", "04"),
    ("conv3 to conv5 still show insignificant features after the attributes", "4.2.2, Figs. 11-13", "04"),
    ("trained on expressions, conv3 and conv4 show significant features, conv5 few", "4.3.3, Figs. 15-17", "06"),
    ("99.0 % of expressions recognized, 98.0 % without conv5", "4.3.4, Table 5", "07"),
    ("conv5 can be taken away at little cost", "4.3.4, Table 5", "07"),
    ("transferring twice keeps a small data set from overfitting", "1", "07"),
    ("covering cheeks and forehead hardly matters, covering the mouth matters most", "4.4, Table 6", "08"),
    ("where a region is covered, the projection goes black", "4.4, Figs. 19-20", "08"),
)

# Figs. 19 and 20: pairs of covered face and projection, (a,b) to (k,l), in the text's order.
OCCLUSION_PAIRS = ("none", "mouth", "left half mouth", "eyes", "mouth and eyes", "cheeks and forehead")
FIG19 = dict(layer="conv1", top=10)
FIG20 = dict(layer="conv3", top=1)
