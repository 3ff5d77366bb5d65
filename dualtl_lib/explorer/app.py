"""The explorer: sliders for neurons, layers and covering.

    Explorer("embedded")

`session` computes, `render` draws, `panels` has the widgets; here they are put together. Moves are drawn by a thread
that always takes the newest state (`Latest`), so what is overtaken is never drawn.
"""

import base64
import html
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from typing import Any

import ipywidgets as widgets

from dualtl_lib.config import Run, open_run
from dualtl_lib.explorer import export, render
from dualtl_lib.explorer.panels import FIT, SHEET, WRAP, Clickable, Controls, Pictures, Strip, control
from dualtl_lib.explorer.session import AS_LOADED, Missing, Session, State

PAUSE = 0.06  # s for the page to show the projection before the next pictures arrive


class Latest:
    """Calls work(item, overtaken) in a thread, always with the newest item; nothing is ever queued.

    Args:
        work: overtaken() is True once something newer waits; it should then return early.
    """

    def __init__(self, work: Callable[[Any, Callable[[], bool]], None]):
        self._work, self._item, self._waiting, self._busy = work, None, False, False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, item) -> None:
        """Do this next, in place of whatever else was waiting."""
        with self._changed:
            self._item, self._waiting = item, True
            self._changed.notify_all()

    def wait(self, seconds: float = 60) -> bool:
        """Wait until nothing is left to do; False when it takes longer."""
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


class More(widgets.VBox):
    """What takes longer than a move, and what leaves the page: occlusion map, PNG, code, contact sheet."""

    def __init__(self, session: Session, move: Callable[..., None]):
        self._session, self._move, self._measured, self._sheet_of = session, move, None, None
        self.where = widgets.Button(description="Where does covering matter?", layout=FIT)
        self.progress = widgets.FloatProgress(min=0, max=1, layout={"width": "200px"})
        self.drops_word = widgets.HTML().add_class("dualtl-hint")
        self.drops = widgets.Image(format="png", layout={"max_width": "270px", "display": "none"})
        self.drops.add_class("dualtl-picture").add_class("dualtl-drops")
        self.save = widgets.Button(description="Save as PNG", layout=FIT).add_class("dualtl-save")
        self.saved = widgets.HTML()
        self.code = widgets.HTML().add_class("dualtl-code")
        self.sheet_open = widgets.ToggleButton(description="Contact sheet", layout=FIT)
        self.sheet = widgets.VBox(layout={"max_height": "520px", "overflow": "auto"}).add_class("dualtl-sheet")
        where = [widgets.HBox([self.where, self.progress]), self.drops_word, self.drops]
        saved = widgets.HBox([self.save, self.saved], layout=WRAP)
        parts = [
            control(
                "Where covering matters", "A black box slides over the face; bright: the probability drops.", *where
            ),
            control("Save", "The pictures above as one file, with their settings inside.", saved),
            control("The same in code", "Paste it into a notebook cell.", self.code),
            control("All maps at once", "The strongest neuron of each; click a map.", self.sheet_open, self.sheet),
        ]
        super().__init__(parts)
        self.add_class("dualtl-more")

    def draw_words(self, state: State) -> None:
        """Write the code, and whether the occlusion map is of another face."""
        self.code.value = f"<pre>{html.escape(export.code(self._session, state))}</pre>"
        if self._measured not in (None, state.input):
            self.drops_word.value = "This is of the face as it was before; press again for this one."

    def draw_occlusion(self, state: State, overtaken: Callable[[], bool]) -> None:
        """Measure where covering matters, row by row."""
        face = self._session.image(state)[0].permute(1, 2, 0).numpy()
        self._measured, self.drops_word.value, largest = None, "", 0.0
        for share, drops in self._session.occlusion_map(state):
            self.progress.value, largest = share, float(drops.max())
            self.drops.value = render.png(render.overlay(face, drops))
            self.drops.layout.display = None
            if overtaken():
                return
        self._measured = state.input
        self.drops_word.value = f"Largest drop: {max(largest, 0):.2f} of the expression's probability."

    def draw_sheet(self, state: State, overtaken: Callable[[], bool]) -> None:
        """Draw the contact sheet where it is open and its pictures have changed, and mark the chosen map."""
        if not self.sheet_open.value:
            self.sheet.children, self._sheet_of = (), None
            return
        key = (state.input, state.model, state.layer, state.variant)
        if key != self._sheet_of:
            maps, columns = self._session.shape(state)[0], render.SHEET_COLUMNS
            names = [f"map {m}" for m in range(1, maps + 1)]
            picked = lambda i: self._move(map=i + 1, neuron=None) if i < maps else None  # noqa: E731
            sheet = Clickable(-(-maps // columns), columns, names, picked, f"{SHEET * columns}px")
            sheet.picture.value = render.png(render.contact_sheet(self._session, state))
            self.sheet.children, self._sheet_of = (sheet,), key
        self.sheet.children[0].mark(None if state.map is None else state.map - 1)

    def write(self, state: State) -> None:
        """Save the pictures and link to them."""
        path = export.save(self._session, state)
        content = base64.b64encode(path.read_bytes()).decode()
        link = f"<a download='{path.name}' href='data:image/png;base64,{content}'>download</a>"
        self.saved.value = f"runs/{html.escape(path.parts[-3])}/explorer/{path.name} · {link}"


class Explorer(widgets.VBox):
    """The explorer of a run. The page itself names what is missing.

    Args:
        run: An opened run, the name of one, or a function that opens one: the page shows its error.
        state: The first choice. Default: an active map of the last trained model.
        **changes: Settings of the run, where it is a name.

    Attributes:
        state: The present choice; `show(State(...))` chooses something else.
    """

    def __init__(self, run: Run | str | Callable[[], Run], state: State | None = None, **changes):
        super().__init__()
        self.add_class("dualtl-explorer")
        css = resources.files("dualtl_lib.explorer").joinpath("style.css").read_text()
        style = widgets.HTML(f"<style>{css}</style>")
        self.message = widgets.HTML(layout={"display": "none"}).add_class("dualtl-message")
        self.children = [style, self.message]
        try:
            opened = open_run(run, **changes) if isinstance(run, str) else run if isinstance(run, Run) else run()
            self._session = session = Session(opened)
            session.trunk(AS_LOADED)
        except (Missing, OSError, ValueError) as error:
            self._session = None
            self._say(str(error))
            return
        self.caption = widgets.HTML().add_class("dualtl-title").add_class("dualtl-caption")
        self.strip, self.controls = Strip(session, self._move), Controls(session, self._move)
        self.pictures, self.more = Pictures(session, self._move), More(session, self._move)
        self.upload = widgets.FileUpload(accept=".jpg,.jpeg,.png", description="Your picture", tooltip="jpg or png")
        self.upload.add_class("dualtl-upload").observe(self._uploaded, "value")
        self._threads = [
            Latest(self._guarded(work)) for work in (self._draw, self.more.draw_sheet, self.more.draw_occlusion)
        ]
        self._moves, self._sheets, self._occlusions = self._threads
        self.more.where.on_click(lambda button: self._occlusions.ask(self.state))
        self.more.sheet_open.observe(lambda change: self._sheets.ask(self.state), "value")
        self.more.save.on_click(self._save)
        hint = "Click one, or upload a jpg or png (10 MB; 100 MB under <code>make</code>). Nothing of it is kept."
        faces = control("Face", hint, widgets.HBox([self.strip, self.upload], layout=WRAP))
        page = widgets.GridBox([self.controls, self.more, self.pictures]).add_class(
            "dualtl-page"
        )  # the tab key's order
        self.children = [style, faces, self.message, self.caption, page]
        self._set(session.fitting(state or session.opening()))
        self._draw(self.state, lambda: False)

    @property
    def session(self) -> Session:
        """What computes. Raises Missing, with the message on the page, where the run cannot be opened."""
        if self._session is None:
            raise Missing(html.unescape(self.message.value))
        return self._session

    def wait(self, seconds: float = 60) -> bool:
        """Wait until the page shows all that was chosen; False when it takes longer for one of its parts."""
        return all(part.wait(seconds) for part in self._threads)

    def show(self, state: State) -> None:
        """Choose a state, or the nearest that exists. It is drawn soon, by another thread."""
        try:
            state, message = self.session.fitting(state), ""
        except Missing as missing:
            state, message = self.session.fitting(replace(state, model=AS_LOADED)), str(missing)
        self._say(message)
        self._set(state)
        self._moves.ask(state)

    def _move(self, **changes) -> None:
        self.show(replace(self.state, **changes))

    def _set(self, state: State) -> None:
        self.state = state
        self.controls.set(state)
        self.pictures.set(state)

    def _draw(self, state: State, overtaken: Callable[[], bool]) -> None:
        """Draw the projection, which a moving hand watches, and then the rest unless something newer waits."""
        pictures = self.pictures
        pictures.draw_projection(state)
        time.sleep(PAUSE)
        rest = [pictures.draw_face, pictures.draw_map, pictures.draw_beside, self._draw_words, pictures.draw_bars]
        for stage in (*rest, self.controls.draw, self.strip.draw):
            if overtaken():
                return
            stage(state)
        if self.more.sheet_open.value:
            self._sheets.ask(state)
        for _ in self.session.anticipate(state):
            if overtaken():
                return

    def _draw_words(self, state: State) -> None:
        silent = "" if self.session.is_active(state) else "silent for this face · "
        own = "your picture" if state.face >= len(self.session.rows) else self.session.run.title
        words = f"{export.title(state)} · {silent}{own}, {self.session.names[state.face]}"
        self.caption.value = html.escape(words)
        self.more.draw_words(state)

    def _guarded(self, work: Callable) -> Callable:
        """Work whose failure is written on the page; a fault of the program goes to the log, too."""

        def guarded(state: State, overtaken: Callable[[], bool]) -> None:
            try:
                work(state, overtaken)
            except Missing as missing:
                self._say(str(missing))
            except Exception as error:
                self._say(f"This could not be computed: {error}")
                traceback.print_exc()

        return guarded

    def _say(self, text: str) -> None:
        if self.message.value != html.escape(text):
            self.message.value = html.escape(text)
        self.message.layout.display = None if text else "none"

    def _uploaded(self, change) -> None:
        if not change.new:
            return
        name = change.new[0]["name"]
        try:
            face, note = self.session.add_face(bytes(change.new[0]["content"]), name)
        except Missing as missing:
            self._say(str(missing))
        else:
            self._move(face=face, neuron=None)
            if note:
                self._say(f"{name}: {note}, so its middle is taken.")
        self.upload.value = ()

    def _save(self, button) -> None:
        try:
            self.more.write(self.state)
        except (Missing, OSError) as error:
            self._say(f"Not saved: {error}")
