"""A headless Chromium on pages that Jupyter or Voilà serves, for the explorer's tests."""

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
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from dualtl_lib import files
from dualtl_lib.explorer import export, render
from dualtl_lib.explorer.session import Session, State

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120  # seconds; a wait that never ends is a failure, not a measure of speed
WIDTHS = (1000, 1400, 1900)  # pixels, of the page


@dataclass
class Site:
    """What the page shows, and the same computed here."""

    root: Path
    session: Session
    environment: dict

    @property
    def saved(self) -> list[Path]:
        return sorted((self.session.run.path / "explorer").glob("*.png"))


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
    """Nothing is cut off at any width. Screenshots go to DUALTL_SCREENSHOTS."""
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
    pytest.fail(f"{selector} never showed the expected picture; {page.locator('.dualtl-caption').inner_text()}")


def shows(page, site: Site, state: State) -> None:
    """The page's pictures are those that the library makes of this state."""
    caption = export.title(state)
    page.wait_for_function("text => document.querySelector('.dualtl-caption').innerText.startsWith(text)", arg=caption)
    expect(page, ".dualtl-projection", render.projection(site.session, state))
    expect(page, ".dualtl-face", render.face(site.session, state))
    expect(page, ".dualtl-pixels img", render.feature_map(site.session, state))
    expect(page, ".dualtl-beside", render.projection(site.session, state, state.other))


def press(page, control: str, key: str) -> None:
    page.locator(f".dualtl-{control} .noUi-handle").press(key)


def choose_file(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(".dualtl-upload").click()
    chooser.value.set_files(path)
