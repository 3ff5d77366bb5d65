"""The explorer's widgets, without a browser. test_explorer_browser.py drives the page itself."""

import io
import re
import threading
from datetime import datetime
from importlib import resources

import ipywidgets as widgets
import numpy as np
import pytest
from explorer_run import write_run
from PIL import Image

from dualtl_lib import files
from dualtl_lib.data.regions import REGIONS
from dualtl_lib.explorer import export, render
from dualtl_lib.explorer.app import Explorer, Latest
from dualtl_lib.explorer.panels import BOX, VARIANTS, Clickable
from dualtl_lib.explorer.session import AS_LOADED, MODELS, Missing, Session, State


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    """A session whose three models exist."""
    patch = pytest.MonkeyPatch()
    yield Session(write_run(tmp_path_factory.mktemp("explorer"), patch))
    patch.undo()


@pytest.fixture(scope="module")
def explorer(session) -> Explorer:
    return Explorer(session.run)


def settled(explorer: Explorer) -> Explorer:
    assert explorer.wait()
    return explorer


def shown(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)))


def same_as_library(explorer: Explorer) -> None:
    """Every picture in the page is the one that the session makes of the state, and there is no complaint."""
    session, state, pictures = settled(explorer).session, explorer.state, explorer.pictures
    assert explorer.message.value == ""
    assert np.array_equal(shown(pictures.projection), render.projection(session, state))
    assert np.array_equal(shown(pictures.face), render.face(session, state))
    assert np.array_equal(shown(pictures.grid.children[0].picture), render.feature_map(session, state))
    assert np.array_equal(shown(pictures.beside), render.projection(session, state, state.other))


def test_it_opens_on_something(explorer):
    same_as_library(explorer)
    assert explorer.state.model == "after the second transfer"
    assert explorer.state.map == explorer.session.most_activated(explorer.state)[0]
    assert shown(explorer.pictures.projection).max() == 255
    assert tuple(slider.value for slider in explorer.controls.box) == BOX
    assert explorer.more.drops.layout.display == "none"


EXTREMES = [
    ("layer", ("conv1", "conv5", "conv3")),
    ("map", (1, 384)),
    ("number", (384, 1)),
    ("all", (True, False)),
    ("top", (1, 50)),
    ("every", (True, False)),
    ("row", (1, 13)),
    ("column", (13, 1)),
    ("row", (0,)),
    ("variant", tuple(VARIANTS.values())),
    ("model", tuple(MODELS)),
    ("other", tuple(MODELS)),
    ("boxed", (True,)),
]


def test_every_control_to_every_extreme(explorer):
    for name, values in EXTREMES:
        for value in values:
            getattr(explorer.pictures if name == "other" else explorer.controls, name).value = value
            same_as_library(explorer)
    for slider in explorer.controls.box:
        for value in (slider.max, slider.min):
            slider.value = value
            same_as_library(explorer)
    for button in explorer.controls.regions.values():
        button.value = True
        same_as_library(explorer)
    assert explorer.state.regions == tuple(REGIONS)
    for button in (*explorer.controls.regions.values(), explorer.controls.boxed):
        button.value = False
    same_as_library(explorer)
    assert not explorer.state.covered


def test_moves_reach_the_state(explorer):
    explorer.show(State(layer="conv3"))
    explorer.controls.map.value = 193
    assert explorer.state.map == explorer.controls.number.value == 193
    explorer.controls.number.value = 200
    assert explorer.state.map == explorer.controls.map.value == 200
    explorer.controls.layer.value = "conv1"
    assert explorer.state.map == explorer.controls.map.max == explorer.controls.number.max == 96
    second = settled(explorer).controls.strong.options[1][1]
    explorer.controls.strong.value = second
    assert explorer.state.map == explorer.session.most_activated(explorer.state)[1]
    explorer.controls.every.value = True
    assert explorer.state.map is None and explorer.controls.map.disabled


def test_a_click_chooses_a_neuron(explorer):
    explorer.show(State(layer="conv2", map=9))
    settled(explorer).pictures.grid.children[0].cells.value = str(13 * 4 + 6)
    assert explorer.state.neuron == (5, 7)
    same_as_library(explorer)
    assert (explorer.controls.row.value, explorer.controls.column.value) == (5, 7)
    explorer.controls.layer.value = "conv5"
    assert explorer.state.neuron is None
    same_as_library(explorer)


def test_sliders_show_the_neuron_from_the_start(session):
    explorer = Explorer(session.run, state=State(layer="conv1", map=5, neuron=(20, 25)))
    assert (explorer.controls.row.value, explorer.controls.column.value) == explorer.state.neuron == (20, 25)
    explorer.show(State(layer="conv5", map=5, neuron=(6, 6)))
    assert (explorer.controls.row.value, explorer.controls.row.max) == (6, 6)
    explorer.show(State(layer="conv1", map=5, neuron=(27, 14)))
    assert (explorer.controls.row.value, explorer.controls.column.value) == explorer.state.neuron == (27, 14)
    same_as_library(explorer)


@pytest.mark.parametrize(
    ("part", "control", "value"),
    [("controls", "map", 12), ("controls", "number", 12), ("controls", "layer", "conv3"), ("strip", "face", "2")],
)
def test_another_map_layer_or_face_drops_the_neuron(explorer, part, control, value):
    explorer.show(State(layer="conv2", map=9, neuron=(5, 7)))
    strip = settled(explorer).strip.children[0].cells
    (strip if part == "strip" else getattr(explorer.controls, control)).value = value
    assert explorer.state.neuron is None
    same_as_library(explorer)


def test_a_silent_neuron_is_named_as_such(explorer):
    maps = explorer.session.maps(State(layer="conv3"))
    number = int((maps.amin((1, 2)) == 0).int().argmax()) + 1
    row, column = (maps[number - 1] == 0).nonzero()[0].tolist()
    explorer.show(State(layer="conv3", map=number, neuron=(row + 1, column + 1)))
    assert "silent for this face" in settled(explorer).caption.value
    assert "neuron is silent" in explorer.pictures.beside_word.value


@pytest.mark.parametrize("cells", [27, 13, 6])
def test_rows_of_the_click_grid_are_as_high_as_the_pictures(cells):
    """A row of the grid must not grow with its content's line height, or clicks choose the wrong cell."""
    grid = Clickable(cells, cells, [], print)
    assert f"repeat({cells}, minmax(0, 1fr)) / repeat({cells}, minmax(0, 1fr))" in grid.children[0].value
    css = resources.files("dualtl_lib.explorer").joinpath("style.css").read_text()
    rules = dict(re.findall(r"^(\.dualtl-clickable [^{:]*?) \{([^}]*line-height[^}]*)\}", css, re.M))
    assert set(rules) == {".dualtl-clickable .widget-toggle-buttons > div", ".dualtl-clickable .widget-toggle-button"}
    assert all("line-height: 0" in rule and "min-height: 0" in rule for rule in rules.values())


def test_contact_sheet_opens_a_map(explorer):
    explorer.show(State(layer="conv1", map=1))
    settled(explorer).more.sheet_open.value = True
    sheet = settled(explorer).more.sheet.children[0]
    assert np.array_equal(shown(sheet.picture), render.contact_sheet(explorer.session, explorer.state))
    sheet.cells.value = "41"
    assert explorer.state.map == 42
    explorer.more.sheet_open.value = False
    assert settled(explorer).more.sheet.children == ()


def test_where_button(explorer):
    explorer.show(State())
    explorer.more.where.click()
    assert settled(explorer).more.progress.value == 1
    assert explorer.more.drops.layout.display is None and "Largest drop" in explorer.more.drops_word.value
    explorer.controls.map.value = 5
    assert "Largest drop" in settled(explorer).more.drops_word.value
    explorer.controls.regions["eyes"].value = True
    assert "press again" in settled(explorer).more.drops_word.value
    explorer.controls.regions["eyes"].value = False


def test_upload_in_the_page(explorer):
    file = io.BytesIO()
    Image.new("RGB", (60, 60), (1, 200, 3)).save(file, "PNG")

    def upload(content: bytes):
        file = {"name": "me<b>.png", "type": "image/png", "size": len(content), "content": memoryview(content)}
        explorer.upload.value = (file | {"last_modified": datetime.now()},)

    before = explorer.state
    upload(b"broken")
    assert "no picture" in explorer.message.value and "<b>" not in explorer.message.value
    assert explorer.state == before
    upload(file.getvalue())
    assert explorer.state.face == len(explorer.session.faces) - 1
    same_as_library(explorer)
    assert "your picture, me&lt;b&gt;.png" in explorer.caption.value and "synthetic" not in explorer.caption.value


def test_save_in_the_page(explorer):
    explorer.show(State(layer="conv2", map=2))
    settled(explorer).more.save.click()
    saved = max((explorer.session.run.path / "explorer").glob("*.png"), key=lambda p: p.stat().st_mtime_ns)
    assert saved.name in explorer.more.saved.value and "download" in explorer.more.saved.value
    assert export.settings(saved) == explorer.state


def test_without_trained_models_it_names_what_makes_them(session, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "OUTPUT", tmp_path)
    explorer = Explorer(session.run)
    same_as_library(explorer)
    assert explorer.state.model == AS_LOADED
    assert "05_second_transfer" in explorer.pictures.bars.value
    explorer.pictures.other.value = "after the first transfer"
    assert "03_first_transfer" in settled(explorer).pictures.beside_word.value
    explorer.controls.model.value = "after the second transfer"
    assert "make reproduce" in settled(explorer).message.value
    assert explorer.state.model == explorer.controls.model.value == AS_LOADED


@pytest.mark.parametrize(
    ("run", "changes", "word"),
    [
        ("nobody", {}, "embedded"),
        ("embedded", {"ckplus": "no/such/folder"}, "no/such/folder"),
        ("embedded", {"ckplus": __file__}, "test_explorer.py"),
        ("embedded", {"weights": "no_such_weights"}, "no_such_weights"),
        ("embedded", {"weights": 5}, "weights"),
        ("embedded", {"seed": "three"}, "seed"),
    ],
)
def test_a_run_that_cannot_be_opened_is_named(session, run, changes, word):
    explorer = Explorer(run, **({"ckplus": session.run.ckplus} | changes))
    assert word in explorer.message.value and explorer.message in explorer.children
    with pytest.raises(Missing) as error:
        explorer.session  # noqa: B018
    assert word in error.value._render_traceback_()[0]


def test_only_standard_widgets_are_used(explorer):
    """VS Code, and pages that trust nobody, run no JavaScript but ipywidgets' own."""
    explorer.more.sheet_open.value = True
    found, waiting = set(), [settled(explorer)]
    while waiting:
        widget = waiting.pop()
        found.add(type(widget)._model_module.default_value)
        waiting += getattr(widget, "children", ())
        if isinstance(widget, widgets.HTML):
            assert "<script" not in widget.value and not re.search(r"\son\w+\s*=", widget.value)
    explorer.more.sheet_open.value = False
    assert found == {"@jupyter-widgets/controls"}


def test_latest_skips_what_is_overtaken():
    done, gate, stopped = [], threading.Event(), []

    def work(item, overtaken):
        gate.wait(10)
        done.append(item)
        stopped.append(overtaken())

    latest = Latest(work)
    for item in range(100):
        latest.ask(item)
    gate.set()
    assert latest.wait(10)
    assert done[-1] == 99 and len(done) <= 2
    assert stopped[-1] is False and all(stopped[:-1])
