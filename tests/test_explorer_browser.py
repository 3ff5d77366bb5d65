"""The explorer in headless Chromium, in JupyterLab, Notebook 7 and under Voilà.

DUALTL_SCREENSHOTS names a folder for screenshots; `pytest -s` prints how long a slider's move takes.
"""

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import (
    CHROMIUM,
    PATIENCE,
    WIDTHS,
    Site,
    browsing,
    choose_file,
    expect,
    fits,
    new_page,
    playwright,
    press,
    quiet,
    serving,
    shows,
    write_notebook,
)
from explorer_run import portrait, write_run

from dualtl_lib import files
from dualtl_lib.explorer import export, panels, render
from dualtl_lib.explorer.session import MODELS, Session, State

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium browser, and none is installed")
MOVES = 120  # of the map slider, over all layers; at least TIMED of them change the picture
TIMED = 100
REST = 200  # ms between them, in which the last one's other pictures arrive; `_hurry` moves without
WORD = 30  # seconds; Voila hung at kernel start in 3 of 35 runs, and is then started again


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    """Notebook 09 on a few faces with three models, in a folder of its own."""
    root = tmp_path_factory.mktemp("site")
    patch = pytest.MonkeyPatch()
    run = write_run(root, patch)
    faces = root / "faces"
    write_notebook(root / "explorer.ipynb", ckplus=str(faces))
    write_notebook(root / "untrained.ipynb", ckplus=str(faces), seed=7)
    write_notebook(root / "wrong.ipynb", run="nobody")
    settings = root / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # by default JupyterLab takes cells out of sight off the page
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"),
        "DUALTL_OUTPUT": str(root),
        "PYTHONPATH": str(files.PROJECT),
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_CONFIG_PATH": str(files.PROJECT / "config"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
    }
    yield Site(root, Session(run), environment)
    patch.undo()


def choose_layer(page, site: Site, state: State, layer: str) -> State:
    page.locator(".dualtl-layer button", has_text=layer).click()
    state = site.session.fitting(replace(state, layer=layer))
    shows(page, site, state)
    return state


def in_notebook(page, address: str) -> None:
    """Open the notebook in JupyterLab or Notebook 7 and run all cells."""
    page.goto(address)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate(
        """async () => { await jupyterapp.shell.currentWidget.sessionContext.ready;
        await jupyterapp.commands.execute('notebook:run-all-cells') }"""
    )
    page.locator(".dualtl-face").scroll_into_view_if_needed()


def jupyter(site: Site, name: str, app: str):
    """A server of JupyterLab or Notebook 7 without a password, whose pages can run a command."""
    open_to_all = ("--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={site.root}")
    return serving(site, name, *open_to_all, f"--{app}.expose_app_in_browser=True")


def test_in_jupyterlab(site, tmp_path):
    with jupyter(site, "jupyterlab", "LabApp") as (address, log), browsing() as (page, complaints):
        in_notebook(page, f"{address}/lab/tree/explorer.ipynb?reset")
        page.evaluate("jupyterapp.shell.collapseLeft()")
        state = site.session.opening()
        shows(page, site, state)
        state = _move_everything(page, site, state)
        fits(page, "lab", tmp_path)
        state = _upload(page, site, state, tmp_path)
        state = _click_neurons(page, site, state)
        state = _click_and_save(page, site, state)
        state = _sheet_and_heat(page, site, state)
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        fits(page, "lab_dark", tmp_path)
        page.get_by_role("button", name="Contact sheet").click()
        report(measure(page))
        _hurry(page, site, state)
        quiet(page, complaints, log)


def test_in_notebook_7(site, tmp_path):
    with jupyter(site, "notebook", "JupyterNotebookApp") as (address, log), browsing() as (page, complaints):
        in_notebook(page, f"{address}/notebooks/explorer.ipynb")
        state = site.session.opening()
        shows(page, site, state)
        fits(page, "notebook", tmp_path)
        state = choose_layer(page, site, state, "conv1")
        press(page, "map", "Home")
        shows(page, site, replace(state, map=1))
        of_every_page = "Cannot read properties of undefined (reading 'schema')"  # Notebook 7.6, of empty ones too
        quiet(page, [c for c in complaints if c != of_every_page], log)


def _move_everything(page, site: Site, state: State) -> State:
    """Each control once, the pictures compared after each."""

    def click(selector: str, nth: int = 0):
        return lambda: page.locator(selector).nth(nth).click()

    def key(control: str, name: str):
        return lambda: press(page, control, name)

    def write_number():
        page.locator(".dualtl-number input").fill("3")
        page.locator(".dualtl-number input").press("Enter")

    def choose(control: str, label: str):
        return lambda: page.locator(f".dualtl-{control} select").select_option(label)

    state = choose_layer(page, site, state, "conv5")
    second = site.session.most_activated(state)[1]
    moves = [
        (key("map", "Home"), {"map": 1}),
        (key("map", "ArrowRight"), {"map": 2}),
        (write_number, {"map": 3}),
        (click(".dualtl-all input"), {"top": 10}),
        (key("top", "Home"), {"top": 1}),
        (click(".dualtl-all input"), {"top": None}),
        (click(".dualtl-strong button", 1), {"map": second}),
        *((choose("variant", label), {"variant": value}) for label, value in panels.VARIANTS.items()),
        *((choose("model", name), {"model": name}) for name in MODELS),
        (choose("other", "after the first transfer"), {"other": "after the first transfer"}),
        (key("row", "End"), {"neuron": (6, 1)}),
        (key("column", "End"), {"neuron": (6, 6)}),
        (key("row", "Home"), {"neuron": None}),
        (click(".dualtl-every input"), {"map": None}),
        (click(".dualtl-every input"), {"map": second}),
        (lambda: page.locator(".dualtl-strip button").nth(3).press("Space"), {"face": 3}),
        (click(".dualtl-controls button:text-is('mouth')"), {"regions": ("mouth",)}),
        (click(".dualtl-boxed input"), {"box": (70, 90, 90, 60)}),
        *((key(f"box-{side}", "ArrowRight"), {}) for side in ("left", "top", "width", "height")),
    ]
    for act, changes in moves[:-4]:
        act()
        state = replace(state, **changes)
        shows(page, site, state)
    for act, _ in moves[-4:]:
        act()
    state = replace(state, box=(71, 91, 91, 61))
    shows(page, site, state)
    for name, (before, after) in site.session.probabilities(state).items():
        row = page.locator(".dualtl-bars tr", has_text=name)
        row.filter(has_text=f"{100 * before:.0f} % → {100 * after:.0f} %").wait_for()
    return state


def _upload(page, site: Site, state: State, tmp_path: Path) -> State:
    """A file that is no picture is refused by name; a face in a large file is found, cut out and shown."""
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    choose_file(page, tmp_path / "broken.png")
    page.locator(".dualtl-message", has_text="broken.png is no picture").wait_for()
    portrait().save(tmp_path / "me.jpg")
    with open(tmp_path / "me.jpg", "ab") as file:
        file.write(bytes(12 << 20))  # readers stop at the picture's end; what a server takes by default is less
    choose_file(page, tmp_path / "me.jpg")
    face, note = site.session.add_face((tmp_path / "me.jpg").read_bytes(), "me.jpg")
    assert note == ""  # a face was found
    state = replace(state, face=face)
    shows(page, site, state)
    assert page.locator(".dualtl-message").is_hidden()
    assert page.locator(".dualtl-strip button").count() == len(site.session.faces)
    return state


def _click_neurons(page, site: Site, state: State) -> State:
    """Clicks at corners and centre of each size of grid meet their neuron, at every width of the page."""
    before = page.viewport_size
    for layer, side in (("conv1", 27), ("conv3", 13), ("conv5", 6)):
        state = choose_layer(page, site, state, layer)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": before["height"]})
            for row, column in ((1, 1), (1, side), (side, 1), (side, side), (side // 2 + 1, side // 2 + 1)):
                image = page.locator(".dualtl-pixels img")
                image.scroll_into_view_if_needed()
                box = image.bounding_box()
                x, y = ((at - 0.5) / side for at in (column, row))
                page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
                words = f"the neuron in row {row}, column {column} of map"
                page.locator(".dualtl-caption", has_text=words).wait_for()
    page.set_viewport_size(before)
    return replace(state, neuron=None)


def _click_and_save(page, site: Site, state: State) -> State:
    """A click on the feature map picks that neuron; what is saved is read back."""
    box = page.locator(".dualtl-pixels img").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 2.5 / 6, box["y"] + box["height"] * 4.5 / 6)
    state = replace(state, neuron=(5, 3))
    shows(page, site, state)
    page.locator(".dualtl-save").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="download").click()
    (saved,) = site.saved
    assert export.settings(saved) == export.settings(download.value.path()) == state
    return state


def _sheet_and_heat(page, site: Site, state: State) -> State:
    """The heat map of covering fills; the contact sheet opens a map."""
    page.get_by_role("button", name="Where does covering matter?").click()
    page.get_by_text("Largest drop").wait_for()
    *_, (_, drops) = site.session.occlusion_map(state)
    face = site.session.image(state)[0].permute(1, 2, 0).numpy()
    expect(page, ".dualtl-drops", render.overlay(face, drops))
    page.get_by_role("button", name="Contact sheet").click()
    expect(page, ".dualtl-sheet img", render.contact_sheet(site.session, state))
    page.locator(".dualtl-sheet button").nth(16).click()
    state = replace(state, map=17, neuron=None)
    shows(page, site, state)
    return state


WATCH = """() => {
    const img = document.querySelector('.dualtl-projection');
    window.moved = 0; window.times = [];
    document.addEventListener('keydown', () => { window.moved = performance.now() }, true);
    img.addEventListener('load', () => { if (window.moved) window.times.push(performance.now() - window.moved);
        window.moved = 0 });
}"""


def measure(page) -> np.ndarray:
    """Milliseconds from a key on the map slider to the new projection, MOVES of them over all layers, each from rest.

    A map that draws the same picture as the one before it, as silent maps do, gives no time.
    """
    page.evaluate(WATCH)
    shown = "t => document.querySelector('.dualtl-caption').textContent.includes(t)"
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        page.locator(".dualtl-layer button", has_text=layer).click()
        press(page, "map", "Home")
        page.wait_for_function(shown, arg="map 1")
        for move in range(MOVES // 5):
            page.wait_for_timeout(REST)
            press(page, "map", "ArrowRight")
            page.wait_for_function(shown, arg=f"{layer}, all neurons of map {move + 2},", polling=20)
    return np.array(page.evaluate("window.times"))


def report(times: np.ndarray) -> None:
    assert len(times) >= TIMED  # the others were moves between silent maps
    print(
        f"\nfrom moving a slider to the new picture, {len(times)} moves over all layers: "
        f"median {np.median(times):.0f} ms, 95th percentile {np.percentile(times, 95):.0f} ms"
    )


def _hurry(page, site: Site, state: State) -> None:
    """Many moves at once: what is overtaken is skipped, and the last is shown."""
    page.locator(".dualtl-layer button", has_text="conv3").click()
    press(page, "map", "Home")
    state = replace(state, layer="conv3", map=1)
    shows(page, site, state)
    page.evaluate("window.times = []")
    keys = """slider => { for (let i = 0; i < 60; i++)
        slider.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})) }"""
    page.locator(".dualtl-map .noUi-handle").evaluate(keys)
    shows(page, site, replace(state, map=61))
    assert 0 < page.evaluate("window.times.length") < 30


@contextmanager
def in_voila(site: Site):
    """Notebook 09 under Voila; a server that hangs at its start is started once more."""
    for patience in (WORD, PATIENCE):
        with serving(site, "voila") as (address, log), browsing() as (page, complaints):
            try:
                page.goto(f"{address}/voila/render/explorer.ipynb", timeout=1000 * patience)
                page.locator(".dualtl-projection").wait_for(timeout=1000 * patience)
            except playwright.TimeoutError:
                if patience == PATIENCE:
                    raise
                continue
            yield page, complaints, log, address
            return


def test_under_voila(site, tmp_path):
    """The same page without code; the page names what is missing or wrong."""
    with in_voila(site) as (page, complaints, log, address):
        state = site.session.opening()
        shows(page, site, state)
        fits(page, "voila", tmp_path)
        state = choose_layer(page, site, state, "conv1")
        assert "Explorer(run" not in page.inner_text("body")
        quiet(page, complaints, log)
        # A page of its own for each notebook: Voila's own farewell to a page that is left is answered with an error.
        page = new_page(page.context.browser, complaints)
        page.goto(f"{address}/voila/render/untrained.ipynb?theme=dark")
        page.locator(".dualtl-model select").select_option("after the second transfer")
        page.locator(".dualtl-message", has_text="make reproduce").wait_for()
        fits(page, "voila_dark", tmp_path)
        quiet(page, complaints, log)
        page = new_page(page.context.browser, complaints)
        page.goto(f"{address}/voila/render/wrong.ipynb")
        page.locator(".dualtl-message", has_text="no run 'nobody'").wait_for()
        fits(page, "voila_wrong", tmp_path)
        page.get_by_text("The note above says what is missing").first.wait_for()
        assert "Traceback" not in page.inner_text("body") and "--debug" not in page.inner_text("body")
