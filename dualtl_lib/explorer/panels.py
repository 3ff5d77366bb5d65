"""The explorer's widgets, a class for each part of the page, on ipywidgets alone.

A picture that takes clicks is an image under a grid of see-through buttons (`Clickable`): no JavaScript of our own, so
it works in every notebook and under Voilà. A part calls `move(**changes of the state)` when a person changes something.
"""

import html
import threading
from collections.abc import Callable
from contextlib import contextmanager

import ipywidgets as widgets
import numpy as np

from dualtl_lib.data.regions import REGIONS
from dualtl_lib.explorer import render
from dualtl_lib.explorer.session import MODELS, TOP, Missing, Session, State
from dualtl_lib.models.caffenet import SIZE

FACE, SHEET = 64, 66  # CSS pixels, the side of a face on the strip and of a map on the contact sheet
BOX = (70, 90, 90, 60)  # a covered box's first place: x, y, width, height
VARIANTS = {"the paper's": "paper", "Zeiler and Fergus": "zeiler", "guided": "guided", "gradient": "gradient"}
WRAP = widgets.Layout(flex_flow="row wrap")
FIT = widgets.Layout(width="auto", flex="0 0 auto", align_self="flex-start")  # as wide as its words

_thread = threading.local()


@contextmanager
def silently():
    """Set widgets' values in this thread without calling listeners; a person's moves meanwhile still call them."""
    _thread.silent = True
    try:
        yield
    finally:
        _thread.silent = False


def listen(widget: widgets.Widget, act: Callable) -> None:
    """Call act(value) when a person changes the widget's value."""
    widget.observe(lambda change: None if getattr(_thread, "silent", False) else act(change.new), "value")


class Clickable(widgets.Box):
    """A picture of rows x columns cells, which can also be reached with the tab key and pressed with the space bar.

    Args:
        rows: Of cells.
        columns: Of cells.
        names: Tooltips of the first cells, row by row.
        picked: Called with the index of a clicked cell, row by row.
        width: The largest width; the picture is as wide as what holds it.
    """

    def __init__(self, rows: int, columns: int, names: list[str], picked: Callable[[int], None], width: str = "100%"):
        part = {"width": "100%", "height": "100%", "grid_area": "1 / 1"}
        self.picture = widgets.Image(format="png", layout=widgets.Layout(**part))
        options = [str(i) for i in range(rows * columns)]
        names = [*names, *[""] * (len(options) - len(names))]
        self.cells = widgets.ToggleButtons(options=options, value=None, tooltips=names, layout=widgets.Layout(**part))
        shape = f"dualtl-{rows}x{columns}"
        grid = f"repeat({rows}, minmax(0, 1fr)) / repeat({columns}, minmax(0, 1fr))"
        style = widgets.HTML(
            f"<style>.{shape} {{aspect-ratio: {columns} / {rows}}}"
            f".{shape} .widget-toggle-buttons > div {{grid-template: {grid}}}</style>",
            layout=widgets.Layout(width="0", height="0", grid_area="1 / 1", overflow="hidden"),
        )
        layout = {"display": "grid", "grid_template_columns": "100%", "grid_template_rows": "100%"}
        layout |= {"overflow": "hidden", "flex": "0 0 auto", "width": width, "max_width": "100%"}
        super().__init__([style, self.picture, self.cells], layout=widgets.Layout(**layout))
        self.add_class("dualtl-clickable").add_class(shape)
        listen(self.cells, lambda value: None if value is None else picked(int(value)))

    def mark(self, index: int | None) -> None:
        """Outline a cell, or none, without calling `picked`."""
        with silently():
            self.cells.value = None if index is None or index >= len(self.cells.options) else str(index)


class Controls(widgets.VBox):
    """The controls of model, layer, neurons, variant and covering."""

    def __init__(self, session: Session, move: Callable[..., None]):
        self._session, self._state = session, State()
        wide = {"width": "auto"}
        self.model = widgets.Dropdown(options=list(MODELS), layout=wide)
        self.layer = widgets.ToggleButtons(options=list(session.layers()), style={"button_width": "56px"})
        self.map = widgets.IntSlider(min=1, readout=False, layout={"flex": "1 1 auto", "width": "0"})
        self.number = widgets.BoundedIntText(min=1, layout={"width": "70px"})
        self.every = widgets.Checkbox(description="every map together", indent=False)
        self.strong = widgets.ToggleButtons(style={"button_width": "46px"})
        self.top = widgets.IntSlider(10, min=1, max=TOP, layout=wide)
        self.all = widgets.Checkbox(description="all neurons", indent=False)
        self.row, self.column = (_slider(word, 0, 13) for word in ("row", "column"))
        self.variant = widgets.Dropdown(options=VARIANTS, layout=wide)
        self.regions = {name: widgets.ToggleButton(description=name, layout=FIT) for name in REGIONS}
        self.boxed = widgets.Checkbox(description="a box of your own", indent=False)
        edges = {"left": 0, "top": 0, "width": 1, "height": 1}
        self.box = [_slider(word, least, SIZE).add_class(f"dualtl-box-{word}") for word, least in edges.items()]
        for slider, value in zip(self.box, BOX, strict=True):
            slider.value = value
        for name, widget in list(vars(self).items()):
            if isinstance(widget, widgets.DOMWidget):
                widget.add_class(f"dualtl-{name}")
        regions = widgets.HBox(list(self.regions.values()), layout=WRAP)
        parts = [
            control("Model", "Before any face was seen, or after.", self.model),
            control("Layer", "From edges (conv1) to large parts (conv5).", self.layer),
            control("Map", "One feature detector, at every place.", widgets.HBox([self.map, self.number]), self.every),
            control("Most activated maps for this face", "Strongest first; press one.", self.strong),
            control("Neurons", "All active ones, or the strongest of each map.", self.top, self.all),
            control("One neuron", "Or click the feature map. 0: as above.", self.row, self.column),
            control("Deconvnet variant", "How neurons are projected to pixels.", self.variant),
            control("Cover", "The regions of Table 6, and a black box.", regions, self.boxed, *self.box),
        ]
        super().__init__(parts)
        self.add_class("dualtl-controls")
        self._connect(move)

    def _connect(self, move: Callable[..., None]) -> None:
        """A chosen neuron is of its map and layer: another map or layer drops it."""

        def follow(widget: widgets.Widget, change: Callable[..., dict]) -> None:
            listen(widget, lambda value: move(**change(value)))

        follow(self.model, lambda v: {"model": v})
        follow(self.layer, lambda v: {"layer": v, "neuron": None})
        follow(self.map, lambda v: {"map": v, "neuron": None})
        follow(self.number, lambda v: {"map": v, "neuron": None})
        follow(self.every, lambda v: {"map": None if v else self.map.value, "neuron": None})
        follow(self.strong, lambda v: {"map": v or self._state.map, "neuron": None})
        follow(self.all, lambda v: {"top": None if v else self.top.value, "neuron": None})
        follow(self.top, lambda v: {"top": v, "neuron": None})
        follow(self.row, lambda v: {"neuron": self._neuron()})
        follow(self.column, lambda v: {"neuron": self._neuron()})
        follow(self.variant, lambda v: {"variant": v})
        for button in self.regions.values():
            follow(button, lambda v: {"regions": tuple(n for n, b in self.regions.items() if b.value)})
        for slider in (self.boxed, *self.box):
            follow(slider, lambda v: {"box": tuple(s.value for s in self.box) if self.boxed.value else None})

    def _neuron(self) -> tuple[int, int] | None:
        """The neuron that the sliders name. The first of them to leave 0 takes the other with it."""
        row, column = self.row.value, self.column.value
        if row and column:
            return row, column
        return (row or 1, column or 1) if self._state.neuron is None else None

    def set(self, state: State) -> None:
        """Make every control show the state."""
        self._state = state
        most, rows, columns = self._session.shape(state)
        with silently():
            self.model.value, self.layer.value, self.variant.value = state.model, state.layer, state.variant
            for control in (self.map, self.number):
                control.max = most
                control.value = state.map or min(control.value, most)
                control.disabled = state.map is None
            self.every.value, self.all.value = state.map is None, state.top is None
            self.top.value, self.top.disabled = state.top or self.top.value, state.top is None
            self.row.max, self.column.max = rows, columns  # first: a larger value would be cut off
            self.row.value, self.column.value = state.neuron or (0, 0)
            self.row.disabled = self.column.disabled = state.map is None
            for name, button in self.regions.items():
                button.value = name in state.regions
            self.boxed.value = state.box is not None
            for slider, value in zip(self.box, state.box or [s.value for s in self.box], strict=True):
                slider.value, slider.disabled = value, state.box is None

    def draw(self, state: State) -> None:
        """List the most activated maps."""
        found = self._session.most_activated(state)
        with silently():
            if [value for _, value in self.strong.options] != found:
                self.strong.options = [(str(m), m) for m in found]
            self.strong.value = state.map if state.map in found else None


class Strip(widgets.VBox):
    """The faces to choose from."""

    def __init__(self, session: Session, move: Callable[..., None]):
        super().__init__(layout={"max_width": "100%"})
        self.add_class("dualtl-strip")
        self._session, self._move, self._shown = session, move, []

    def draw(self, state: State) -> None:
        """Draw the strip where its faces have changed, and mark the chosen one."""
        shown = self._session.on_strip()
        if shown != self._shown:
            names = [self._session.names[i] for i in shown]
            picked = lambda i: self._move(face=shown[i], neuron=None)  # noqa: E731
            strip = Clickable(1, len(shown), names, picked, f"{FACE * len(shown)}px")
            strip.picture.value = render.png(render.strip(self._session))
            self.children, self._shown = (strip,), shown
        self.children[0].mark(shown.index(state.face) if state.face in shown else None)


class Pictures(widgets.GridBox):
    """Face, projection, feature map, the projection by another model, and the expressions' probabilities."""

    def __init__(self, session: Session, move: Callable[..., None]):
        self._session, self._move, self._state, self._grids = session, move, State(), {}
        self.face, self.projection, self.beside = (
            widgets.Image(format="png").add_class("dualtl-picture").add_class(f"dualtl-{name}")
            for name in ("face", "projection", "beside")
        )
        self.other = widgets.Dropdown(options=list(MODELS), layout={"width": "auto", "margin": "4px 0"})
        self.other.add_class("dualtl-other")
        self.beside_word = widgets.HTML(layout={"min_height": "22px"}).add_class("dualtl-hint")
        self.grid, self.bars = widgets.VBox(), widgets.HTML().add_class("dualtl-bars")
        same = (self.beside, self.other, self.beside_word)
        panels = [  # in the order of the tab key, which stops at each cell of the feature map, third to the eye
            _panel(1, "The face", "Yellow: receptive fields of the strongest.", self.face),
            _panel(2, "Projection", "The neurons, projected back.", self.projection),
            _panel(4, "In another model", "The same neurons, projected back.", *same),
            _panel(5, "Expression", "Softmax. Blue: uncovered; red: covered.", self.bars),
            _panel(3, "Feature map", "Bright: active. Click to choose a neuron.", self.grid),
        ]
        super().__init__(panels)
        self.add_class("dualtl-pictures")
        listen(self.other, lambda value: move(other=value))

    def set(self, state: State) -> None:
        """Make the choice of the other model show the state."""
        self._state = state
        with silently():
            self.other.value = state.other

    def draw_projection(self, state: State) -> None:
        """Draw the projection."""
        self.projection.value = render.png(render.projection(self._session, state))

    def draw_face(self, state: State) -> None:
        """Draw the face."""
        self.face.value = render.png(render.face(self._session, state))

    def draw_map(self, state: State) -> None:
        """Draw the feature map and mark the chosen neuron."""
        picture = render.feature_map(self._session, state)
        rows, columns = picture.shape[:2]
        if columns not in self._grids:
            names = [f"row {i // columns + 1}, column {i % columns + 1}" for i in range(rows * columns)]
            self._grids[columns] = Clickable(rows, columns, names, self._clicked).add_class("dualtl-pixels")
        grid = self._grids[columns]
        grid.picture.value = render.png(picture)
        grid.mark(None if state.neuron is None else (state.neuron[0] - 1) * columns + state.neuron[1] - 1)
        if self.grid.children != (grid,):
            self.grid.children = (grid,)

    def _clicked(self, index: int) -> None:
        """Choose the neuron at this place; of every map, the most activated one."""
        maps = self._session.maps(self._state)
        row, column = divmod(index, maps.shape[2])
        self._move(neuron=(row + 1, column + 1), map=self._state.map or int(maps[:, row, column].argmax()) + 1)

    def draw_beside(self, state: State) -> None:
        """Draw the projection by the other model."""
        try:
            picture, word = render.projection(self._session, state, state.other), ""
            if not self._session.is_active(state, state.other):
                word = "This neuron is silent there." if state.neuron else "This map is silent there."
        except Missing as missing:
            picture, word = np.zeros((SIZE, SIZE, 3), np.uint8), str(missing)
        self.beside.value, self.beside_word.value = render.png(picture), html.escape(word)

    def draw_bars(self, state: State) -> None:
        """Draw the probabilities."""
        try:
            rows = self._session.probabilities(state)
        except Missing as missing:
            self.bars.value = f"<span class='dualtl-hint'>{html.escape(str(missing))}</span>"
            return
        self.bars.value = "<table>" + "".join(_bar(n, *both, state.covered) for n, both in rows.items()) + "</table>"


def control(title: str, hint: str, *parts: widgets.Widget) -> widgets.VBox:
    """Put widgets under a title and a one-line hint."""
    return widgets.VBox([_words(title, hint), *parts], layout={"margin": "0 0 8px 0", "flex": "0 0 auto"})


def _panel(place: int, title: str, hint: str, *parts: widgets.Widget) -> widgets.VBox:
    return widgets.VBox([_words(title, hint), *parts], layout={"order": str(place)})


def _words(title: str, hint: str) -> widgets.HTML:
    return widgets.HTML(f"<div class='dualtl-title'>{title}</div><div class='dualtl-hint'>{hint}</div>")


def _slider(word: str, least: int, most: int) -> widgets.IntSlider:
    style = {"description_width": "52px"}
    return widgets.IntSlider(min=least, max=most, description=word, layout={"width": "auto"}, style=style)


def _bar(name: str, before: float, after: float, covered: bool) -> str:
    """One expression's row: its bars and its number."""
    bars, number = f"<i style='width:{before:.1%}'></i>", f"{100 * before:.0f} %"
    if covered:
        bars, number = bars + f"<i class='after' style='width:{after:.1%}'></i>", f"{number} → {100 * after:.0f} %"
    return f"<tr><td>{html.escape(name)}</td><td>{bars}</td><td>{number}</td></tr>"
