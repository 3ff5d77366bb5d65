"""The explorer: sliders for neurons, layers and covering, on ipywidgets alone.

    Explorer("embedded")

`explorer_state` computes; here are only widgets. A picture that takes clicks is an image under a grid of see-through
buttons (`Clickable`): one widget, no JavaScript of our own, so it works in every notebook and under Voilà.
Moves are drawn by a thread that always takes the newest state (`Latest`), so what is overtaken is never drawn.
"""

import base64
import html
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import ipywidgets as widgets
import numpy as np

from dualtl_lib import config
from dualtl_lib.data import regions
from dualtl_lib.explorer import session as es
from dualtl_lib.explorer.session import Missing, Session, State

FACE, SHEET = 64, 66  # CSS pixels, the side of a face on the strip and of a map on the contact sheet
BOX = (70, 90, 90, 60)  # where a box of one's own starts
PAUSE = 0.06  # s for the page to show the first picture before the next ones arrive
# Wide pages have all but the controls beside them, narrow ones only the pictures.
STYLE = """<style>
.dualtl-explorer {container-type: inline-size}
.dualtl-page {display: grid; grid-template: auto 1fr / 310px minmax(0, 1fr); column-gap: 16px}
.dualtl-controls {grid-row: 1 / span 2}
.dualtl-pictures {grid-area: 1 / 2; grid-template-columns: repeat(auto-fit, minmax(225px, 1fr)); gap: 4px 12px}
.dualtl-more {grid-area: 2 / 2}
@container (max-width: 1000px) {.dualtl-more {grid-area: 3 / 1 / auto / -1}}
.dualtl-picture {width: 100%; aspect-ratio: 1}
.dualtl-picture, .dualtl-clickable > * {margin: 0; max-width: none}
.dualtl-clickable .widget-toggle-buttons > div {display: grid; width: 100%; height: 100%}
.dualtl-clickable .widget-toggle-button {all: unset; box-sizing: border-box; cursor: pointer; font-size: 0}
.dualtl-clickable .widget-toggle-button:hover {outline: 1px solid #fff; outline-offset: -1px}
.dualtl-clickable .widget-toggle-button:focus-visible {outline: 2px solid #4aa8ff; outline-offset: -2px}
.dualtl-clickable .widget-toggle-button.mod-active {outline: 2px solid #ffd500; outline-offset: -2px}
.dualtl-pixels img {image-rendering: pixelated}
.dualtl-hint {opacity: .75; line-height: 1.25}
.dualtl-title {font-weight: 600}
.dualtl-explorer a {text-decoration: underline}
.dualtl-message {border-left: 4px solid #d1603d; padding: 2px 8px}
.dualtl-layer .widget-toggle-button, .dualtl-strong .widget-toggle-button {padding: 0 2px}
.dualtl-code pre {margin: 0; padding: 6px; border: 1px solid #8888}
.dualtl-code pre {font: 12px/1.35 monospace; overflow-x: auto; user-select: text}
.dualtl-explorer .jupyter-widgets .widget-html-content {line-height: 1.3}
.dualtl-bars table {border-collapse: collapse; width: 100%}
.dualtl-bars td {padding: 1px 4px; white-space: nowrap}
.dualtl-bars td:nth-child(2) {width: 100%}
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

    As wide as what holds it, up to `width`. Cells can be reached with the tab key and pressed with the space bar.
    """

    def __init__(self, rows: int, columns: int, names: list[str], picked: Callable[[int], None], width: str = "100%"):
        part = dict(width="100%", height="100%", grid_area="1 / 1")
        self.picture = widgets.Image(format="png", layout=widgets.Layout(**part))
        labels = [str(i) for i in range(rows * columns)]
        names = [*names, *[""] * (len(labels) - len(names))]
        self.cells = widgets.ToggleButtons(options=labels, value=None, tooltips=names, layout=widgets.Layout(**part))
        shape, grid = f"dualtl-{rows}x{columns}", f"repeat({rows}, 1fr) / repeat({columns}, 1fr)"
        style = widgets.HTML(
            f"<style>.{shape} {{aspect-ratio: {columns} / {rows}}}"
            f".{shape} .widget-toggle-buttons > div {{grid-template: {grid}}}</style>",
            layout=widgets.Layout(width="0", height="0", grid_area="1 / 1", overflow="hidden"),
        )
        layout = widgets.Layout(
            display="grid", grid_template_columns="100%", grid_template_rows="100%", overflow="hidden",
            flex="0 0 auto", width=width, max_width="100%",
        )  # fmt: skip
        super().__init__([style, self.picture, self.cells], layout=layout)
        self.add_class("dualtl-clickable").add_class(shape)
        _listen(self.cells, lambda value: None if value is None else picked(int(value)))

    def mark(self, index: int | None) -> None:
        """Outline a cell, or none, without calling `picked`."""
        with silently():
            self.cells.value = None if index is None or index >= len(self.cells.options) else str(index)


class Explorer(widgets.VBox):
    """The explorer of a run. What is missing is said in the page.

    run: an opened run or, with `changes`, what `config.open_run` takes.
    state: what is chosen now; `show(State(...))` chooses something else.
    """

    def __init__(self, run: config.Run | str, state: State | None = None, **changes):
        super().__init__()
        self.add_class("dualtl-explorer")
        self.message = widgets.HTML(layout=widgets.Layout(display="none")).add_class("dualtl-message")
        try:
            self._studio = Session(run if isinstance(run, config.Run) else config.open_run(run, **changes))
            self._studio.trunk(es.AS_LOADED)
        except (Missing, OSError, ValueError) as error:
            self._studio = None
            self._say(str(error))
            self.children = [widgets.HTML(STYLE), self.message]
            return
        self.state = self.studio.fitting(state or self.studio.opening())
        self._on_strip, self._sheet_of, self._tried = None, None, None
        self._build()
        self._set_controls()
        self._quick, self._sheets, self._trials = (
            Latest(self._guarded(work)) for work in (self._draw, self._draw_sheet, self._draw_where)
        )
        self._draw(self.state, lambda: False)

    @property
    def studio(self) -> Session:
        """What computes. Raises Missing, with the words that stand in the page, where the run cannot be opened."""
        if self._studio is None:
            raise Missing(html.unescape(self.message.value))
        return self._studio

    def wait(self, seconds: float = 60) -> bool:
        """Until everything asked for is in the page; False when it takes longer than that for one of its parts."""
        return all(part.wait(seconds) for part in (self._quick, self._sheets, self._trials))

    # -- the page

    def _build(self) -> None:
        self._make_controls()
        self._make_shown()
        for name in (
            "strip", "upload", "model", "other", "layer", "map", "number", "every", "strong", "all", "top", "row",
            "column", "variant", "boxed", "face", "projection", "beside", "drops", "caption", "sheet", "save", "code",
        ):  # fmt: skip
            getattr(self, name).add_class(f"dualtl-{name}")
        self._connect()
        parts = [self._controls(), self._more(), self._pictures()]  # in the order of the tab key
        page = widgets.GridBox(parts).add_class("dualtl-page")
        self.children = [widgets.HTML(STYLE), self._faces(), self.message, self.caption, page]

    def _make_controls(self) -> None:
        layers, wide = self.studio.layers(), widgets.Layout(width="auto")
        self.strip = widgets.VBox(layout=widgets.Layout(max_width="100%"))
        self.upload = widgets.FileUpload(accept=".jpg,.jpeg,.png", description="Your picture", tooltip="jpg or png")
        self.model = widgets.Dropdown(options=list(es.MODELS), layout=wide)
        self.other = widgets.Dropdown(options=list(es.MODELS), layout=widgets.Layout(width="auto", margin="4px 0"))
        self.layer = widgets.ToggleButtons(options=list(layers), style={"button_width": "56px"})
        most = max(layers.values())
        self.map = widgets.IntSlider(min=1, max=most, readout=False, layout=widgets.Layout(flex="1 1 auto", width="0"))
        self.number = widgets.BoundedIntText(min=1, max=most, layout=widgets.Layout(width="70px"))
        self.every = widgets.Checkbox(description="every map together", indent=False)
        self.strong = widgets.ToggleButtons(style={"button_width": "46px"})
        self.top = widgets.IntSlider(10, min=1, max=es.TOP, layout=wide)
        self.all = widgets.Checkbox(description="all neurons", indent=False)
        self.row, self.column = (_slider(word, 0, 13) for word in ("row", "column"))
        self.variant = widgets.Dropdown(options=es.VARIANTS, layout=wide)
        self.regions = {name: widgets.ToggleButton(description=name, layout=_fit()) for name in regions.REGIONS}
        self.boxed = widgets.Checkbox(description="a box of your own", indent=False)
        edges = {"left": 0, "top": 0, "width": 1, "height": 1}
        self.box = [_slider(word, least, es.SIDE).add_class(f"dualtl-box-{word}") for word, least in edges.items()]
        for slider, value in zip(self.box, BOX, strict=True):
            slider.value = value
        self.where = widgets.Button(description="Where does covering matter?", layout=_fit())
        self.sheet_open = widgets.ToggleButton(description="Contact sheet", layout=_fit())
        self.save = widgets.Button(description="Save as PNG", layout=_fit())

    def _make_shown(self) -> None:
        self.face, self.projection, self.beside, self.drops = (
            widgets.Image(format="png").add_class("dualtl-picture") for _ in range(4)
        )
        self.drops.layout = widgets.Layout(max_width="270px", display="none")  # until it is asked for
        self.grids, self.grid = {}, widgets.VBox()
        self.caption = widgets.HTML().add_class("dualtl-title")
        self.bars = widgets.HTML().add_class("dualtl-bars")
        self.beside_word = widgets.HTML(layout=widgets.Layout(min_height="22px")).add_class("dualtl-hint")
        self.progress = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="200px"))
        self.drops_word = widgets.HTML().add_class("dualtl-hint")
        self.sheet = widgets.VBox(layout=widgets.Layout(max_height="520px", overflow="auto"))
        self.saved = widgets.HTML()
        self.code = widgets.HTML()

    def _faces(self) -> widgets.Widget:
        hint = "Click one, or upload a jpg or png (10 MB; 100 MB under <code>make</code>). Nothing of it is kept."
        row = widgets.HBox([self.strip, self.upload], layout=widgets.Layout(flex_flow="row wrap"))
        return _control("Face", hint, row)

    def _controls(self) -> widgets.Widget:
        regions = widgets.HBox(list(self.regions.values()), layout=widgets.Layout(flex_flow="row wrap"))
        maps = widgets.HBox([self.map, self.number])
        parts = [
            _control("Model", "Before any face was seen, or after.", self.model),
            _control("Layer", "From edges (conv1) to large parts (conv5).", self.layer),
            _control("Map", "One kind of detector, looking everywhere.", maps, self.every),
            _control("Loudest maps for this face", "Strongest first; press one.", self.strong),
            _control("Neurons", "All that speak, or the strongest of each map.", self.top, self.all),
            _control("One neuron", "Or click the feature map. 0: as above.", self.row, self.column),
            _control("Way back", "How neurons are turned into a picture.", self.variant),
            _control("Cover", "The regions of Table 6, and a black box.", regions, self.boxed, *self.box),
        ]
        return widgets.VBox(parts).add_class("dualtl-controls")

    def _pictures(self) -> widgets.Widget:
        """The feature map, third to the eye, is last for the tab key, which stops at each of its cells."""
        face = _panel(1, "The face", "Yellow: what the strongest see.", self.face)
        drawn = _panel(2, "What they draw", "The neurons, projected back.", self.projection)
        heat = _panel(3, "Feature map", "Bright: it speaks. Click to pick.", self.grid)
        same = _panel(4, "The same elsewhere", "As another model draws it.", self.beside, self.other, self.beside_word)
        bars = _panel(5, "Expression", "Softmax. Blue: as it is; red: covered.", self.bars)
        return widgets.GridBox([face, drawn, same, bars, heat]).add_class("dualtl-pictures")

    def _more(self) -> widgets.Widget:
        hint = "A black box slides over the face; bright: covering there costs probability."
        tried = [widgets.HBox([self.where, self.progress]), self.drops_word, self.drops]
        saved = widgets.HBox([self.save, self.saved], layout=widgets.Layout(flex_flow="row wrap"))
        parts = [
            _control("Where covering matters", hint, *tried),
            _control("Keep it", "The pictures above as one file, with their settings inside.", saved),
            _control("The same in code", "Paste it into a notebook cell.", self.code),
            _control(
                "All maps at once", "The strongest neuron of each. Click one to open it.", self.sheet_open, self.sheet
            ),
        ]
        return widgets.VBox(parts).add_class("dualtl-more")

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
        self.where.on_click(lambda button: self._trials.ask(self.state))
        self.sheet_open.observe(lambda change: self._sheets.ask(self.state), "value")

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
        self._quick.ask(self.state)

    def _set_controls(self) -> None:
        """Make every control say what the state says."""
        state = self.state
        most, rows, columns = self.studio.net(state.model, state.variant).shapes[state.layer]
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
            self.row.max, self.column.max = rows, columns  # first: a larger value would be cut off
            self.row.value, self.column.value = state.neuron or (0, 0)
            self.row.disabled = self.column.disabled = state.map is None
            for name, button in self.regions.items():
                button.value = name in state.regions
            self.boxed.value = state.box is not None
            for slider, value in zip(self.box, state.box or [s.value for s in self.box], strict=True):
                slider.disabled = state.box is None
                slider.value = value

    # -- from the state to pictures

    def _draw(self, state: State, overtaken: Callable[[], bool]) -> None:
        """The picture that a moving hand watches comes first; the rest follows unless something newer waits."""
        self._draw_projection(state)
        time.sleep(PAUSE)
        if overtaken():
            return
        for stage in (
            self._draw_face,
            self._draw_map,
            self._draw_beside,
            self._draw_words,
            self._draw_bars,
            self._draw_strong,
            self._draw_strip,
        ):
            stage(state)
            if overtaken():
                return
        if self.sheet_open.value:
            self._sheets.ask(state)
        for _ in self.studio.expect(state):
            if overtaken():
                return

    def _guarded(self, work: Callable) -> Callable:
        """Work whose failure is said in the page; one that is nobody's wish but a fault goes to the log, too."""

        def guarded(state: State, overtaken: Callable[[], bool]) -> None:
            try:
                work(state, overtaken)
            except Missing as missing:
                self._say(str(missing))
            except Exception as error:
                self._say(f"This could not be computed: {error}")
                traceback.print_exc()

        return guarded

    def _draw_projection(self, state: State) -> None:
        self.projection.value = es.png(self.studio.projection_picture(state))

    def _draw_face(self, state: State) -> None:
        self.face.value = es.png(self.studio.face_picture(state))

    def _draw_map(self, state: State) -> None:
        picture = self.studio.map_picture(state)
        rows, columns = picture.shape[:2]
        if columns not in self.grids:
            names = [f"row {i // columns + 1}, column {i % columns + 1}" for i in range(rows * columns)]
            self.grids[columns] = Clickable(rows, columns, names, self._clicked).add_class("dualtl-pixels")
        grid = self.grids[columns]
        grid.picture.value = es.png(picture)
        grid.mark(None if state.neuron is None else (state.neuron[0] - 1) * columns + state.neuron[1] - 1)
        if self.grid.children != (grid,):
            self.grid.children = (grid,)

    def _clicked(self, index: int) -> None:
        columns = self.studio.maps(self.state).shape[2]
        number = self.state.map or int(self.studio.maps(self.state)[:, index // columns, index % columns].argmax()) + 1
        self._move(neuron=(index // columns + 1, index % columns + 1), map=number)

    def _draw_beside(self, state: State) -> None:
        try:
            same = state.other == state.model
            picture = self.projection.value if same else es.png(self.studio.projection_picture(state, state.other))
            self.beside.value = picture
            self.beside_word.value = "" if self.studio.speaks(state, state.other) else "This map is silent there."
        except Missing as missing:
            self.beside.value = es.png(np.zeros((es.SIDE, es.SIDE, 3), np.uint8))
            self.beside_word.value = html.escape(str(missing))

    def _draw_words(self, state: State) -> None:
        title, silent = self.studio.title(state), "" if self.studio.speaks(state) else "silent for this face · "
        own = "your picture" if state.face >= len(self.studio.rows) else self.studio.run.title
        self.caption.value = html.escape(f"{title} · {silent}{own}, {self.studio.names[state.face]}")
        self.code.value = f"<pre>{html.escape(self.studio.code(state))}</pre>"
        if self._tried not in (None, state.shown):
            self.drops_word.value = "This is of the face as it was before; press again for this one."

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
        shown = self.studio.on_strip()
        if shown != self._on_strip:
            names = [self.studio.names[i] for i in shown]
            width = f"{FACE * len(shown)}px"
            strip = Clickable(1, len(shown), names, lambda i: self._move(face=shown[i]), width)
            strip.picture.value = es.png(self.studio.strip())
            self.strip.children, self._on_strip = (strip,), shown
        self.strip.children[0].mark(shown.index(state.face) if state.face in shown else None)

    # -- what takes longer

    def _draw_where(self, state: State, overtaken: Callable[[], bool]) -> None:
        face = self.studio.image(state)[0].permute(1, 2, 0).numpy()
        self._tried, self.drops_word.value = None, ""
        for share, drops in self.studio.sensitivity(state):
            self.progress.value = share
            self.drops.value = es.png(es.overlay(face, drops))
            self.drops.layout.display = None
            if overtaken():
                return
        self._tried = state.shown
        self.drops_word.value = f"Largest drop: {max(float(drops.max()), 0):.2f} of the expression's probability."

    def _draw_sheet(self, state: State, overtaken: Callable[[], bool]) -> None:
        if not self.sheet_open.value:
            self.sheet.children, self._sheet_of = (), None
            return
        key = (state.shown, state.model, state.layer, state.variant)
        if key != self._sheet_of:
            maps, columns = self.studio.layers()[state.layer], es.SHEET_COLUMNS
            names = [f"map {m}" for m in range(1, maps + 1)]
            sheet = Clickable(-(-maps // columns), columns, names, self._opened, f"{SHEET * columns}px")
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
        name = change.new[0]["name"]
        try:
            face, note = self.studio.add_face(bytes(change.new[0]["content"]), name)
        except Missing as missing:
            self._say(str(missing))
        else:
            self._move(face=face)
            if note:
                self._say(f"{name}: {note}, so its middle is taken.")
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
    return widgets.VBox([_words(title, hint), *parts], layout=widgets.Layout(margin="0 0 8px 0", flex="0 0 auto"))


def _panel(place: int, title: str, hint: str, *parts: widgets.Widget) -> widgets.VBox:
    return widgets.VBox([_words(title, hint), *parts], layout=widgets.Layout(order=str(place)))


def _fit() -> widgets.Layout:
    """As wide as its words."""
    return widgets.Layout(width="auto", flex="0 0 auto", align_self="flex-start")


def _slider(word: str, least: int, most: int) -> widgets.IntSlider:
    layout, style = widgets.Layout(width="auto"), {"description_width": "52px"}
    return widgets.IntSlider(min=least, max=most, description=word, layout=layout, style=style)


def _bar(name: str, before: float, after: float, covered: bool) -> str:
    """One expression's row: its bars and its number."""
    bars = f"<i style='width:{before:.1%}'></i>"
    number = f"{100 * before:.0f} %"
    if covered:
        bars += f"<i class='after' style='width:{after:.1%}'></i>"
        number += f" → {100 * after:.0f} %"
    return f"<tr><td>{html.escape(name)}</td><td>{bars}</td><td>{number}</td></tr>"
