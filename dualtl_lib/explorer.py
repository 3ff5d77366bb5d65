"""The explorer: sliders for neurons, layers and covering, on ipywidgets alone.

    Explorer(runs.open_run("embedded"))

`explorer_state` computes; here are only widgets. A picture that takes clicks is an image under a grid of see-through
buttons (`Clickable`): one widget, no JavaScript of our own, so it works in every notebook and under Voilà.
Moves are drawn by a thread that always takes the newest state (`Latest`), so what is overtaken is never drawn.
"""

import base64
import html
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import ipywidgets as widgets
import numpy as np

from . import explorer_state as es
from . import occlusion, runs
from .explorer_state import Missing, State, Studio

PICTURE = 270  # CSS pixels, the side of a picture
STYLE = """<style>
.dualtl-clickable > * {margin: 0}
.dualtl-clickable .widget-toggle-buttons > div {display: grid; width: 100%; height: 100%}
.dualtl-clickable .widget-toggle-button {all: unset; box-sizing: border-box; cursor: pointer; font-size: 0}
.dualtl-clickable .widget-toggle-button:hover {outline: 1px solid #fff; outline-offset: -1px}
.dualtl-clickable .widget-toggle-button:focus-visible {outline: 2px solid #4aa8ff; outline-offset: -2px}
.dualtl-clickable .widget-toggle-button.mod-active {outline: 2px solid #ffd500; outline-offset: -2px}
.dualtl-pixels img {image-rendering: pixelated}
.dualtl-hint {opacity: .75; line-height: 1.25}
.dualtl-title {font-weight: 600}
.dualtl-message {border-left: 4px solid #d1603d; padding: 2px 8px}
.dualtl-layer .widget-toggle-button, .dualtl-strong .widget-toggle-button {padding: 0 2px}
.dualtl-code pre {margin: 0; padding: 6px; overflow-x: auto; border: 1px solid #8888; user-select: text}
.dualtl-bars table {border-collapse: collapse; line-height: 1.2}
.dualtl-bars td {padding: 1px 4px; white-space: nowrap}
.dualtl-bars i {display: block; height: 8px; background: #1f6fb4}
.dualtl-bars i.after {background: #d1603d}
</style>"""


_here = threading.local()


@contextmanager
def silently():
    """Widgets set in here, by this thread, change no state; what a person does meanwhile still does."""
    _here.silent = True
    try:
        yield
    finally:
        _here.silent = False


def _listen(widget: widgets.Widget, act: Callable) -> None:
    """Call act(value) when a person changes the widget's value."""
    widget.observe(lambda change: None if getattr(_here, "silent", False) else act(change.new), "value")


class Latest:
    """Calls `work(item, overtaken)` in a thread, always with the newest item asked for.

    overtaken() is True once something newer waits; work stops early then. Nothing is ever queued.
    """

    def __init__(self, work: Callable):
        self._work, self._item, self._waiting, self._busy = work, None, False, False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, item) -> None:
        """Have this done next, in place of whatever else was waiting."""
        with self._changed:
            self._item, self._waiting = item, True
            self._changed.notify_all()

    def wait(self, seconds: float = 60) -> bool:
        """Until nothing is left to do; False when it takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._busy or self._waiting), seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                item, self._waiting, self._busy = self._item, False, True
            try:
                self._work(item, lambda: self._waiting)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


class Clickable(widgets.Box):
    """A picture of rows x columns cells; `picked` is called with the index of a clicked cell, row by row.

    Cells can be reached with the tab key and pressed with the space bar.
    """

    def __init__(self, rows: int, columns: int, width: int, names: list[str], picked: Callable[[int], None]):
        size = dict(width=f"{width}px", height=f"{width * rows // columns}px", grid_area="1 / 1")
        self.picture = widgets.Image(format="png", layout=widgets.Layout(**size))
        labels = [str(i) for i in range(rows * columns)]
        names = [*names, *[""] * (len(labels) - len(names))]
        self.cells = widgets.ToggleButtons(
            options=labels, value=None, tooltips=names, layout=widgets.Layout(**size)
        ).add_class(f"dualtl-{columns}")
        grid = f"<style>.dualtl-{columns} > div {{grid-template-columns: repeat({columns}, 1fr)}}</style>"
        style = widgets.HTML(grid, layout=widgets.Layout(width="0", height="0", grid_area="1 / 1", overflow="hidden"))
        layout = widgets.Layout(display="grid", flex="0 0 auto", overflow="hidden", width=f"{width}px")
        super().__init__([style, self.picture, self.cells], layout=layout)
        self.add_class("dualtl-clickable")
        _listen(self.cells, lambda value: None if value is None else picked(int(value)))

    def mark(self, index: int | None) -> None:
        """Outline a cell, or none, without calling `picked`."""
        with silently():
            self.cells.value = None if index is None or index >= len(self.cells.options) else str(index)


class Explorer(widgets.VBox):
    """The explorer of a run. What is missing is said in the page.

    state: what is chosen now; `show(State(...))` chooses something else.
    """

    def __init__(self, run: runs.Run, state: State | None = None):
        super().__init__()
        self.message = widgets.HTML(layout=widgets.Layout(display="none")).add_class("dualtl-message")
        try:
            self.studio = Studio(run)
            self.studio.trunk(es.AS_LOADED)
        except (Missing, FileNotFoundError, ValueError) as error:
            self._say(str(error))
            self.children = [widgets.HTML(STYLE), self.message]
            return
        self.state = self.studio.fitting(state or self._opening())
        self._sheet_of, self._strip_of = None, None
        self._build()
        self._set_controls()
        self.quick, self.slow = Latest(self._draw), Latest(self._draw_slow)
        self._draw(self.state, lambda: False)

    def _opening(self) -> State:
        """Something worth seeing: the strongest neurons of the loudest map of conv3, with the best model there is."""
        best = es.AS_LOADED
        for model in es.MODELS:
            try:
                self.studio.trunk(model)
                best = model
            except Missing:
                break
        state = State(model=best, top=10)
        return replace(state, map=self.studio.strongest(state)[0])

    # -- the page

    def _build(self) -> None:
        layers = self.studio.layers()
        self.strip = widgets.VBox()
        self.upload = widgets.FileUpload(accept=".jpg,.jpeg,.png", description="Your picture", tooltip="jpg or png")
        self.model = widgets.Dropdown(options=list(es.MODELS))
        self.other = widgets.Dropdown(options=list(es.MODELS), layout=widgets.Layout(width=f"{PICTURE}px"))
        self.layer = widgets.ToggleButtons(options=list(layers), style={"button_width": "58px"})
        self.map = widgets.IntSlider(min=1, max=max(layers.values()), readout=False)
        self.number = widgets.BoundedIntText(min=1, max=max(layers.values()), layout=widgets.Layout(width="70px"))
        self.every = widgets.Checkbox(description="every map together", indent=False)
        self.strong = widgets.ToggleButtons(style={"button_width": "46px"})
        self.all = widgets.Checkbox(description="all neurons", indent=False)
        self.top = widgets.IntSlider(min=1, max=es.TOP)
        self.row = widgets.IntSlider(min=0, max=13, description="row")
        self.column = widgets.IntSlider(min=0, max=13, description="column")
        self.variant = widgets.Dropdown(options=es.VARIANTS)
        self.regions = {
            name: widgets.ToggleButton(description=name, layout=widgets.Layout(width="auto"))
            for name in occlusion.REGIONS
            if name != "none"
        }
        self.boxed = widgets.Checkbox(description="a box of your own", indent=False)
        side = dict(min=0, max=es.SIDE, layout=widgets.Layout(width="230px"))
        self.box = [widgets.IntSlider(description=word, **side) for word in ("left", "top", "width", "height")]
        self.box[2].min = self.box[3].min = 1

        image = widgets.Layout(width=f"{PICTURE}px", height=f"{PICTURE}px")
        self.face, self.projection, self.beside = (widgets.Image(format="png", layout=image) for _ in range(3))
        self.grids = {}
        self.grid = widgets.VBox(layout=widgets.Layout(min_height=f"{PICTURE}px"))
        self.caption = widgets.HTML().add_class("dualtl-title")
        self.bars = widgets.HTML().add_class("dualtl-bars")
        self.beside_word = widgets.HTML().add_class("dualtl-hint")

        self.where = widgets.Button(description="Where does covering matter?", layout=widgets.Layout(width="auto"))
        self.progress = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="200px"))
        hidden = widgets.Layout(width=f"{PICTURE}px", height=f"{PICTURE}px", display="none")
        self.drops = widgets.Image(format="png", layout=hidden)  # until it is asked for
        self.drops_word = widgets.HTML().add_class("dualtl-hint")
        self.sheet = widgets.VBox(layout=widgets.Layout(max_height="520px", overflow="auto"))
        self.sheet_open = widgets.ToggleButton(description="Contact sheet", layout=widgets.Layout(width="auto"))
        self.save = widgets.Button(description="Save as PNG", layout=widgets.Layout(width="auto"))
        self.saved = widgets.HTML()
        self.code = widgets.HTML().add_class("dualtl-code")

        for name in ("strip", "upload", "model", "other", "layer", "map", "every", "strong", "all", "top", "row"):
            getattr(self, name).add_class(f"dualtl-{name}")
        for name in ("column", "variant", "boxed", "face", "projection", "beside", "drops", "caption", "sheet", "save"):
            getattr(self, name).add_class(f"dualtl-{name}")

        self._connect()
        self.children = [widgets.HTML(STYLE), self._strip_block(), self.message, self._columns(), *self._below()]

    def _strip_block(self) -> widgets.Widget:
        hint = "Click a face, or upload one: it is found and cut out, stays on this machine and is not kept."
        return widgets.VBox([_words("Face", hint), widgets.HBox([self.strip, self.upload])])

    def _columns(self) -> widgets.Widget:
        controls = widgets.VBox(
            [
                _control("Model", "Before any face was seen, or after.", self.model),
                _control("Layer", "From edges (conv1) to large parts (conv5).", self.layer),
                _control(
                    "Map",
                    "One kind of detector, looking everywhere.",
                    widgets.HBox([self.map, self.number]),
                    self.every,
                ),
                _control("Loudest maps for this face", "Strongest first; press one.", self.strong),
                _control(
                    "Neurons", "All that speak, or the strongest of each map.", widgets.HBox([self.top]), self.all
                ),
                _control("One neuron", "Or click the feature map. 0: as above.", self.row, self.column),
                _control("Way back", "How neurons are turned into a picture.", self.variant),
            ],
            layout=widgets.Layout(width="330px", flex="0 0 330px"),
        )
        pictures = widgets.HBox(
            [
                _panel("The face", "Yellow: what the chosen neurons see.", self.face),
                _panel("What they draw", "The chosen neurons, projected back.", self.projection),
                _panel("Feature map", "Bright: it speaks. Click one to pick it.", self.grid),
                _panel("The same elsewhere", "", self.beside_word, self.other, self.beside),
                _panel("Expression", "Softmax. Blue: as it is; red: covered.", self.bars),
            ],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        right = widgets.VBox([self.caption, pictures], layout=widgets.Layout(flex="1 1 auto", min_width="0"))
        return widgets.HBox([controls, right])

    def _below(self) -> list[widgets.Widget]:
        wrap = widgets.Layout(flex_flow="row wrap")
        cover = [
            widgets.HBox(list(self.regions.values()), layout=wrap),
            self.boxed,
            widgets.HBox(self.box, layout=wrap),
        ]
        where = [widgets.HBox([self.where, self.progress]), self.drops_word, self.drops]
        return [
            _control("Cover parts of the face", "The regions of Table 6, and a black box by sliders.", *cover),
            _control(
                "Where covering matters", "A box slides over the face; bright: covering costs probability.", *where
            ),
            _control(
                "All maps at once",
                "The strongest neuron of each map. Click one to open it.",
                self.sheet_open,
                self.sheet,
            ),
            _control(
                "Keep it", "The pictures above with their settings inside.", widgets.HBox([self.save, self.saved])
            ),
            _control("The same in code", "Paste it into a notebook cell.", self.code),
        ]

    # -- from widgets to the state

    def _connect(self) -> None:
        def follow(widget, change: Callable):
            _listen(widget, lambda value: self._move(**change(value)))

        follow(self.model, lambda v: {"model": v})
        follow(self.other, lambda v: {"other": v})
        follow(self.layer, lambda v: {"layer": v, "neuron": None})
        follow(self.map, lambda v: {"map": v})
        follow(self.number, lambda v: {"map": v})
        follow(self.every, lambda v: {"map": None if v else self.map.value, "neuron": None})
        follow(self.strong, lambda v: {"map": v or self.state.map})
        follow(self.all, lambda v: {"top": None if v else self.top.value, "neuron": None})
        follow(self.top, lambda v: {"top": v, "neuron": None})
        for slider in (self.row, self.column):
            follow(slider, lambda v: {"neuron": self._slid()})
        follow(self.variant, lambda v: {"variant": v})
        for button in self.regions.values():
            follow(button, lambda v: {"regions": tuple(n for n, b in self.regions.items() if b.value)})
        for slider in (self.boxed, *self.box):
            follow(slider, lambda v: {"box": tuple(s.value for s in self.box) if self.boxed.value else None})
        self.upload.observe(self._uploaded, "value")
        self.save.on_click(self._save)
        self.where.on_click(lambda button: self.slow.ask(("where", self.state)))
        self.sheet_open.observe(lambda change: self.slow.ask(("sheet", self.state)), "value")

    def _slid(self) -> tuple[int, int] | None:
        """The neuron that the sliders name. The first of them to leave 0 takes the other with it."""
        row, column = self.row.value, self.column.value
        if row and column:
            return row, column
        return (row or 1, column or 1) if self.state.neuron is None else None

    def _move(self, **changes) -> None:
        """Change the state, and have it drawn."""
        self.show(replace(self.state, **changes))

    def show(self, state: State) -> None:
        """Choose a state; the nearest that exists is taken. It is drawn soon, by another thread."""
        try:
            self.state = self.studio.fitting(state)
        except Missing as missing:
            self._say(str(missing))
            self.state = self.studio.fitting(replace(state, model=es.AS_LOADED))
        else:
            self._say("")
        self._set_controls()
        self.quick.ask(self.state)

    def _set_controls(self) -> None:
        """Make every control say what the state says."""
        state, most = self.state, self.studio.layers()[self.state.layer]
        with silently():
            self.model.value, self.other.value = state.model, state.other
            self.layer.value, self.variant.value = state.layer, state.variant
            for control in (self.map, self.number):
                control.max = most
                control.value = state.map or min(control.value, most)
                control.disabled = state.map is None
            self.every.value = state.map is None
            self.all.value = state.top is None
            self.top.value = state.top or self.top.value
            self.top.disabled = state.top is None
            self.row.value, self.column.value = state.neuron or (0, 0)
            self.row.disabled = self.column.disabled = state.map is None
            for name, button in self.regions.items():
                button.value = name in state.regions
            self.boxed.value = state.box is not None
            for slider, value in zip(self.box, state.box or (70, 90, 90, 60), strict=True):
                slider.disabled = state.box is None
                if state.box or not slider.disabled:
                    slider.value = value

    # -- from the state to pictures

    def _draw(self, state: State, overtaken: Callable[[], bool]) -> None:
        """The picture that a moving hand watches comes first; the rest follows unless something newer waits."""
        for stage in (
            self._draw_projection,
            self._draw_face,
            self._draw_map,
            self._draw_beside,
            self._draw_words,
            self._draw_bars,
            self._draw_strong,
            self._draw_strip,
        ):
            try:
                stage(state)
            except Missing as missing:
                self._say(str(missing))
            except Exception as error:
                self._say(f"This picture could not be made: {error}")
                traceback.print_exc()
            if overtaken():
                return
        if self.sheet_open.value:
            self.slow.ask(("sheet", state))

    def _draw_projection(self, state: State) -> None:
        self.projection.value = es.png(self.studio.projection_picture(state))

    def _draw_face(self, state: State) -> None:
        self.face.value = es.png(self.studio.face_picture(state))

    def _draw_map(self, state: State) -> None:
        picture = self.studio.map_picture(state)
        rows, columns = picture.shape[:2]
        if columns not in self.grids:
            names = [f"row {i // columns + 1}, column {i % columns + 1}" for i in range(rows * columns)]
            self.grids[columns] = Clickable(rows, columns, PICTURE, names, self._clicked).add_class("dualtl-pixels")
        grid = self.grids[columns]
        grid.picture.value = es.png(picture)
        grid.mark(None if state.neuron is None else (state.neuron[0] - 1) * columns + state.neuron[1] - 1)
        if self.grid.children != (grid,):
            self.grid.children = (grid,)
        with silently():
            self.row.max, self.column.max = rows, columns

    def _clicked(self, index: int) -> None:
        columns = self.studio.maps(self.state).shape[2]
        number = self.state.map or int(self.studio.maps(self.state)[:, index // columns, index % columns].argmax()) + 1
        self._move(neuron=(index // columns + 1, index % columns + 1), map=number)

    def _draw_beside(self, state: State) -> None:
        try:
            self.beside.value = es.png(self.studio.projection_picture(state, state.other))
            self.beside_word.value = "The same neurons, in another model:"
        except Missing as missing:
            self.beside.value = es.png(np.zeros((es.SIDE, es.SIDE, 3), np.uint8))
            self.beside_word.value = html.escape(str(missing))

    def _draw_words(self, state: State) -> None:
        self.caption.value = html.escape(self.studio.title(state)) + f" · {html.escape(self.studio.run.title)}"
        self.code.value = f"<pre>{html.escape(self.studio.code(state))}</pre>"

    def _draw_bars(self, state: State) -> None:
        try:
            rows = self.studio.probabilities(state)
        except Missing as missing:
            self.bars.value = f"<span class='dualtl-hint'>{html.escape(str(missing))}</span>"
            return
        self.bars.value = "<table>" + "".join(_bar(n, *both, state.covered) for n, both in rows.items()) + "</table>"

    def _draw_strong(self, state: State) -> None:
        found = self.studio.strongest(state)
        with silently():
            if [value for _, value in self.strong.options] != found:
                self.strong.options = [(str(m), m) for m in found]
            self.strong.value = state.map if state.map in found else None

    def _draw_strip(self, state: State) -> None:
        if self._strip_of is None:
            shown = self.studio.names[: es.STRIP]
            self._strip_of = Clickable(1, len(shown), es.THUMB * len(shown), shown, lambda i: self._move(face=i))
            self._strip_of.picture.value = es.png(self.studio.strip())
            self.strip.children = (self._strip_of,)
        self._strip_of.mark(state.face)

    # -- what takes longer

    def _draw_slow(self, job: tuple[str, State], overtaken: Callable[[], bool]) -> None:
        what, state = job
        try:
            (self._draw_where if what == "where" else self._draw_sheet)(state, overtaken)
        except Missing as missing:
            self._say(str(missing))
        except Exception as error:
            self._say(f"This could not be computed: {error}")
            traceback.print_exc()

    def _draw_where(self, state: State, overtaken: Callable[[], bool]) -> None:
        face = self.studio.image(state)[0].permute(1, 2, 0).numpy()
        for share, drops in self.studio.sensitivity(state):
            self.progress.value = share
            self.drops.value = es.png(es.overlay(face, drops))
            self.drops.layout.display = ""
            if overtaken():
                return
        self.drops_word.value = f"Largest drop: {max(float(drops.max()), 0):.2f} of the expression's probability."

    def _draw_sheet(self, state: State, overtaken: Callable[[], bool]) -> None:
        if not self.sheet_open.value:
            self.sheet.children = ()
            self._sheet_of = None
            return
        key = (state.face, state.regions, state.box, state.model, state.layer, state.variant)
        if key != self._sheet_of:
            maps, columns = self.studio.layers()[state.layer], es.SHEET_COLUMNS
            names = [f"map {m}" for m in range(1, maps + 1)]
            sheet = Clickable(-(-maps // columns), columns, 66 * columns, names, self._opened)
            sheet.picture.value = es.png(self.studio.contact_sheet(state))
            self.sheet.children, self._sheet_of = (sheet,), key
        self.sheet.children[0].mark(None if state.map is None else state.map - 1)

    def _opened(self, index: int) -> None:
        if index < self.studio.layers()[self.state.layer]:
            self._move(map=index + 1, neuron=None)

    # -- buttons

    def _say(self, text: str) -> None:
        if self.message.value != html.escape(text):
            self.message.value = html.escape(text)
        self.message.layout.display = None if text else "none"

    def _uploaded(self, change) -> None:
        if not change.new:
            return
        try:
            self._move(face=self.studio.add_face(bytes(change.new[0]["content"]), change.new[0]["name"]))
        except Missing as missing:
            self._say(str(missing))
        self.upload.value = ()

    def _save(self, button) -> None:
        try:
            path = self.studio.save(self.state)
        except (Missing, OSError) as error:
            self._say(f"Not saved: {error}")
            return
        content = base64.b64encode(path.read_bytes()).decode()
        link = f"<a download='{path.name}' href='data:image/png;base64,{content}'>download</a>"
        self.saved.value = f"runs/{html.escape(self.studio.run.name)}/explorer/{path.name} · {link}"


def _words(title: str, hint: str) -> widgets.HTML:
    """A title and its one-line hint."""
    return widgets.HTML(f"<div class='dualtl-title'>{title}</div><div class='dualtl-hint'>{hint}</div>")


def _control(title: str, hint: str, *parts: widgets.Widget) -> widgets.VBox:
    return widgets.VBox([_words(title, hint), *parts], layout=widgets.Layout(margin="0 0 8px 0"))


def _panel(title: str, hint: str, *parts: widgets.Widget) -> widgets.VBox:
    layout = widgets.Layout(width=f"{PICTURE + 16}px", margin="0 8px 8px 0")
    return widgets.VBox([_words(title, hint), *parts], layout=layout)


def _bar(name: str, before: float, after: float, covered: bool) -> str:
    """One expression's row: its bars and its number."""
    bars = f"<i style='width:{120 * before:.0f}px'></i>"
    number = f"{100 * before:.0f} %"
    if covered:
        bars += f"<i class='after' style='width:{120 * after:.0f}px'></i>"
        number += f" → {100 * after:.0f} %"
    return f"<tr><td>{html.escape(name)}</td><td style='width:124px'>{bars}</td><td>{number}</td></tr>"
