"""The explorer in headless Chromium, in JupyterLab, Notebook 7 and under Voilà. DUALTL_SCREENSHOTS names a folder for
screenshots; `pytest -s` shows how long a slider's move takes to become a picture."""

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from test_explorer import write_faces, write_models

from dualtl_lib import config, files
from dualtl_lib.data import regions
from dualtl_lib.experiment import pipeline
from dualtl_lib.explorer import session
from dualtl_lib.explorer.session import Session, State
from dualtl_lib.synthetic import anatomy, expressions
from dualtl_lib.synthetic import faces as synthetic_faces

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium browser, and none is installed")
PATIENCE = 120  # seconds; a wait that never ends is a failure, not a measure of speed
MOVES = 120  # of the map slider, over all layers; at least TIMED of them change the picture
TIMED = 100
REST = 200  # ms between them, in which the last one's other pictures arrive; `_hurry` moves without
WIDTHS = (1000, 1400, 1900)  # pixels, of the page
WORD = 30  # seconds; Voila hung at kernel start in 3 of 35 runs, and is then started again


@dataclass
class Site:
    """What the page shows, and the same computed here."""

    root: Path
    studio: Session
    environment: dict

    @property
    def saved(self) -> list[Path]:
        return sorted((self.studio.run.path / "explorer").glob("*.png"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    """Notebook 09 on a few faces with three models, in a folder of its own."""
    root = tmp_path_factory.mktemp("site")
    patch = pytest.MonkeyPatch()
    patch.setattr(config, "OUTPUT", root)
    patch.setenv("DUALTL_CACHE", str(root / "cache"))
    faces = write_faces(root / "faces")
    run = config.open_run("embedded", ckplus=str(faces))
    write_models(run, pipeline.trunk(run))
    write_notebook(root / "explorer.ipynb", faces=str(faces))
    write_notebook(root / "untrained.ipynb", faces=str(faces), seed=7)
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


def write_notebook(path: Path, **parameters) -> None:
    """Notebook 09 with other parameters, not yet run."""
    notebook = nbformat.read(files.PROJECT / "notebooks" / "09_explorer.ipynb", 4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


@contextmanager
def serving(site: Site, *command: str):
    """A Jupyter server of the site on a free port; gives its address and the file that its log goes to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = site.root / f"{command[0]}.log"
    arguments = [sys.executable, "-m", *command, "--no-browser", f"--port={port}"]
    with open(log, "w") as out:
        server = subprocess.Popen(arguments, cwd=site.root, env=site.environment, stdout=out, stderr=out)
    try:
        address = f"http://localhost:{port}"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(address, timeout=PATIENCE)
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield address, log
    finally:
        server.terminate()
        server.wait(PATIENCE)


@contextmanager
def browsing():
    """A page of a new browser, and what its pages complain about."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        complaints = []
        yield new_page(browser, complaints), complaints
        browser.close()


def new_page(browser, complaints: list[str]):
    page = browser.new_page(viewport={"width": 1500, "height": 1300})
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(f"{m.text} {m.location['url']}") if _ours(m) else None)
    return page


def _ours(message) -> bool:
    """An error, but not that Voila's fonts cannot be had without internet, or that a server has no icon."""
    url = message.location["url"]
    elsewhere = url.startswith("http") and not url.startswith("http://localhost")
    return message.type == "error" and not elsewhere and not url.endswith("favicon.ico")


def quiet(page, complaints: list[str], log: Path) -> None:
    """Neither the page nor the kernel complained: no error in the console, no traceback in the log or in the page."""
    assert not complaints, complaints
    assert "Traceback" not in log.read_text(), log.read_text()
    trouble = ", ".join(f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("stderr", "error"))
    assert page.locator(trouble).all_inner_texts() == []


# What is wider than its place: a label cut off, or a part of the page that runs over its neighbour.
CUT = """() => [...document.querySelectorAll('.dualtl-explorer *')].filter(e =>
    e.scrollWidth > e.clientWidth + 1 && e.clientWidth && !e.closest('pre, .noUi-target, .dualtl-clickable')
    ).map(e => e.className + ': ' + e.innerText)"""


def fits(page, name: str, tmp_path: Path) -> None:
    """Nothing is cut off at any width. Screenshots, where they were asked for."""
    before = page.viewport_size
    page.evaluate("document.querySelector('.dualtl-explorer').scrollIntoView()")
    folder = Path(os.environ.get("DUALTL_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": before["height"]})
        page.wait_for_timeout(500)  # for the page to lay itself out
        page.screenshot(path=folder / f"{name}_{width}.png")
        assert page.evaluate(CUT) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size(before)


def pixels(page, selector: str) -> np.ndarray:
    """The picture that an <img> shows now."""
    script = """async img => { const b = new Uint8Array(await (await fetch(img.src)).arrayBuffer());
        let s = ''; for (let i = 0; i < b.length; i += 9999) s += String.fromCharCode(...b.slice(i, i + 9999));
        return btoa(s) }"""
    content = base64.b64decode(page.locator(selector).evaluate(script))
    return np.asarray(Image.open(io.BytesIO(content)))


def expect(page, selector: str, picture: np.ndarray) -> None:
    """Wait until an <img> shows this picture; rounding may differ by two levels, threads being what they are."""
    deadline, seen = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
        try:
            seen = pixels(page, selector)
        except playwright.Error:  # replaced while it was read
            continue
        if seen.shape == picture.shape and np.abs(seen.astype(int) - picture).max() <= 2:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{selector} never showed the picture asked for; {page.locator('.dualtl-caption').inner_text()}")


def shows(page, site: Site, state: State) -> None:
    """The page's pictures are those that the library makes of this state."""
    caption = site.studio.title(state)
    page.wait_for_function("text => document.querySelector('.dualtl-caption').innerText.startsWith(text)", arg=caption)
    expect(page, ".dualtl-projection", site.studio.projection_picture(state))
    expect(page, ".dualtl-face", site.studio.face_picture(state))
    expect(page, ".dualtl-pixels img", site.studio.map_picture(state))
    expect(page, ".dualtl-beside", site.studio.projection_picture(state, state.other))


def choose_layer(page, site: Site, state: State, layer: str) -> State:
    page.locator(".dualtl-layer button", has_text=layer).click()
    state = site.studio.fitting(replace(state, layer=layer))
    shows(page, site, state)
    return state


def press(page, control: str, key: str) -> None:
    page.locator(f".dualtl-{control} .noUi-handle").press(key)


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
    """A server of JupyterLab or Notebook 7 without a password, whose pages can be asked to run a command."""
    open_to_all = ("--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={site.root}")
    return serving(site, name, *open_to_all, f"--{app}.expose_app_in_browser=True")


def test_in_jupyterlab(site, tmp_path):
    with jupyter(site, "jupyterlab", "LabApp") as (address, log), browsing() as (page, complaints):
        in_notebook(page, f"{address}/lab/tree/explorer.ipynb?reset")
        page.evaluate("jupyterapp.shell.collapseLeft()")
        state = site.studio.opening()
        shows(page, site, state)
        state = _move_everything(page, site, state)
        fits(page, "lab", tmp_path)
        state = _upload(page, site, state, tmp_path)
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
        state = site.studio.opening()
        shows(page, site, state)
        fits(page, "notebook", tmp_path)
        state = choose_layer(page, site, state, "conv1")
        press(page, "map", "Home")
        shows(page, site, replace(state, map=1))
        of_every_page = "Cannot read properties of undefined (reading 'schema')"  # Notebook 7.6, of empty ones too
        quiet(page, [c for c in complaints if c != of_every_page], log)


def _move_everything(page, site: Site, state: State) -> State:
    """Each control once, the pictures compared after each."""
    state = choose_layer(page, site, state, "conv5")
    press(page, "map", "Home")
    press(page, "map", "ArrowRight")
    state = replace(state, map=2)
    shows(page, site, state)
    page.locator(".dualtl-number input").fill("3")
    page.locator(".dualtl-number input").press("Enter")
    state = replace(state, map=3)
    shows(page, site, state)
    page.locator(".dualtl-all input").click()
    state = replace(state, top=10)
    shows(page, site, state)
    press(page, "top", "Home")
    state = replace(state, top=1)
    shows(page, site, state)
    page.locator(".dualtl-all input").click()
    state = replace(state, top=None)
    shows(page, site, state)
    loudest = site.studio.strongest(state)[1]
    page.locator(".dualtl-strong button").nth(1).click()
    state = replace(state, map=loudest)
    shows(page, site, state)
    for control, field, values in (
        ("variant", "variant", session.VARIANTS),
        ("model", "model", {name: name for name in session.MODELS}),
        ("other", "other", {"after the first transfer": "after the first transfer"}),
    ):
        for label, value in values.items():
            page.locator(f".dualtl-{control} select").select_option(label)
            state = replace(state, **{field: value})
            shows(page, site, state)
    press(page, "row", "End")
    press(page, "column", "End")
    state = replace(state, neuron=(6, 6))
    shows(page, site, state)
    press(page, "row", "Home")
    state = replace(state, neuron=None)
    shows(page, site, state)
    page.locator(".dualtl-every input").click()
    state = replace(state, map=None)
    shows(page, site, state)
    page.locator(".dualtl-every input").click()
    state = replace(state, map=loudest)
    page.locator(".dualtl-strip button").nth(3).press("Space")
    state = replace(state, face=3)
    shows(page, site, state)
    return _cover(page, site, state)


def _cover(page, site: Site, state: State) -> State:
    """Each region, and a box."""
    for name in regions.REGIONS:
        region = page.get_by_role("button", name=name, exact=True)
        region.click()
        shows(page, site, replace(state, regions=(name,)))
        region.click()
    page.get_by_role("button", name="mouth", exact=True).click()
    page.locator(".dualtl-boxed input").click()
    state = replace(state, regions=("mouth",), box=(70, 90, 90, 60))
    shows(page, site, state)
    for side in ("left", "top", "width", "height"):
        press(page, f"box-{side}", "ArrowRight")
    state = replace(state, box=(71, 91, 91, 61))
    shows(page, site, state)
    for name, (before, after) in site.studio.probabilities(state).items():
        row = page.locator(".dualtl-bars tr", has_text=name)
        row.filter(has_text=f"{100 * before:.0f} % → {100 * after:.0f} %").wait_for()
    return state


def _upload(page, site: Site, state: State, tmp_path: Path) -> State:
    """A file that is no picture is said to be none; a face in a large file is found, cut out and shown."""
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    choose_file(page, tmp_path / "broken.png")
    page.locator(".dualtl-message", has_text="broken.png is no picture").wait_for()
    rng = np.random.default_rng(4)
    units = expressions.EXPRESSIONS["happy"].draw(rng)
    portrait, _ = synthetic_faces.face(anatomy.Identity.draw(rng), units, size=(400, 400))
    picture = np.full((600, 900, 3), 128, np.uint8)
    picture[150:550, 450:850] = portrait
    Image.fromarray(picture).save(tmp_path / "me.jpg")
    with open(tmp_path / "me.jpg", "ab") as file:
        file.write(bytes(12 << 20))  # readers stop at the picture's end; what a server takes by default is less
    choose_file(page, tmp_path / "me.jpg")
    face, note = site.studio.add_face((tmp_path / "me.jpg").read_bytes(), "me.jpg")
    assert note == ""  # a face was found
    state = replace(state, face=face)
    shows(page, site, state)
    assert page.locator(".dualtl-message").is_hidden()
    assert page.locator(".dualtl-strip button").count() == len(site.studio.faces)
    return state


def choose_file(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(".dualtl-upload").click()
    chooser.value.set_files(path)


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
    assert session.settings(saved) == session.settings(download.value.path()) == state
    return state


def _sheet_and_heat(page, site: Site, state: State) -> State:
    """The heat map of covering fills; the contact sheet opens a map."""
    page.get_by_role("button", name="Where does covering matter?").click()
    page.get_by_text("Largest drop").wait_for()
    *_, (_, drops) = site.studio.sensitivity(state)
    face = site.studio.image(state)[0].permute(1, 2, 0).numpy()
    expect(page, ".dualtl-drops", session.overlay(face, drops))
    page.get_by_role("button", name="Contact sheet").click()
    expect(page, ".dualtl-sheet img", site.studio.contact_sheet(state))
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
    A map that draws the same picture as the one before it, as silent maps do, gives no time."""
    page.evaluate(WATCH)
    says = "t => document.querySelector('.dualtl-caption').textContent.includes(t)"
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        page.locator(".dualtl-layer button", has_text=layer).click()
        press(page, "map", "Home")
        page.wait_for_function(says, arg="map 1")
        for move in range(MOVES // 5):
            page.wait_for_timeout(REST)
            press(page, "map", "ArrowRight")
            page.wait_for_function(says, arg=f"{layer}, all neurons of map {move + 2},", polling=20)
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
    """The same page without code; what is missing or wrong is said in the page."""
    with in_voila(site) as (page, complaints, log, address):
        state = site.studio.opening()
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
