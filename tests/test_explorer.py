"""The explorer's state and its widgets, without a browser. test_explorer_browser.py drives the page itself."""

import gc
import io
import json
import re
import threading
import warnings
import weakref
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from dualtl_lib import config, paper
from dualtl_lib.data import crop, regions, splits
from dualtl_lib.evaluate import occlusion
from dualtl_lib.experiment import pipeline
from dualtl_lib.explorer import session
from dualtl_lib.explorer.app import BOX, Explorer, Latest
from dualtl_lib.explorer.session import MODELS, VARIANTS, Missing, Session, State
from dualtl_lib.models import caffenet, store
from dualtl_lib.report import figures
from dualtl_lib.synthetic import anatomy, expressions
from dualtl_lib.synthetic import faces as synthetic_faces
from dualtl_lib.visualize import deconvnet

LAYERS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
REGIONS = tuple(regions.REGIONS)


def write_faces(root: Path, each: int = 12) -> Path:
    """A folder per class of small synthetic faces. One is drawn for each; the rest are this one, lit otherwise."""
    rng = np.random.default_rng(0)
    for name in paper.EXPRESSIONS:
        (root / name).mkdir(parents=True)
        units = expressions.EXPRESSIONS[name].draw(rng)
        pixels, _ = synthetic_faces.face(anatomy.Identity.draw(rng), units, size=(96, 96))
        for k in range(each):
            lit = np.clip(pixels.astype(float) * (0.7 + 0.05 * k), 0, 255).astype(np.uint8)
            Image.fromarray(lit[:, ::-1] if k % 2 else lit).save(root / name / f"S{k:03}_001_{k:08}.png")
    return root


def write_models(run: config.Run, trunk: caffenet.Trunk) -> None:
    """What notebooks 03 and 05 leave, untrained: both transfers of a trunk, the second's conv3 changed."""
    torch.manual_seed(1)
    store.save_model(caffenet.AttributeNet(trunk, paper.ATTRIBUTES), run.checkpoint("celeba"))
    second = caffenet.ExpressionNet(trunk, paper.EXPRESSIONS)
    with torch.no_grad():
        second.trunk.conv3.weight.mul_(-1)
        second.fc2.weight.mul_(30)
    store.save_model(second, run.checkpoint("ckplus_fig14"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of this module are written here."""
    return tmp_path_factory.mktemp("explorer")


@pytest.fixture(scope="module")
def studio(folder) -> Session:
    """A studio whose three models exist."""
    patch = pytest.MonkeyPatch()
    patch.setattr(config, "OUTPUT", folder)
    patch.setenv("DUALTL_CACHE", str(folder / "cache"))
    run = config.open_run("embedded", ckplus=str(write_faces(folder / "faces")))
    write_models(run, pipeline.trunk(run))
    yield Session(run)
    patch.undo()


STATES = {
    "opening": State(),
    "all maps": State(layer="conv2", map=None, top=1),
    "top": State(layer="conv4", map=384, top=10, variant="guided"),
    "one neuron": State(layer="conv5", map=256, neuron=(6, 6), variant="gradient"),
    "covered": State(face=3, layer="conv1", map=96, regions=("mouth", "eyes"), box=(10, 20, 30, 40)),
    "second model": State(layer="conv3", map=7, model="after the second transfer", variant="zeiler"),
    "first model": State(layer="conv3", map=7, model="after the first transfer", top=1),
}


def state_of(studio: Session, name: str) -> State:
    """One of STATES, with a map that speaks for its face where it is about some neurons of one map."""
    state = STATES[name]
    return replace(state, map=studio.strongest(state)[0]) if state.top and state.map else state


def by_hand(studio: Session, state: State) -> torch.Tensor:
    """The projection of a state by the library's public call, nothing kept."""
    image = torch.as_tensor(np.asarray(studio.data.images[int(studio.rows[state.face])]))[None].clone()
    for region in state.regions:
        image = occlusion.cover(image, region)
    if state.box:
        x, y, width, height = state.box
        image[0, :, y : y + height, x : x + width] = 0
    name = MODELS[state.model]
    trunk = pipeline.trunk(studio.run) if name is None else pipeline.model(studio.run, name).trunk
    net = deconvnet.Deconvnet(trunk, variant=state.variant)
    if state.neuron:
        row, column = state.neuron
        return net.reconstruct(image, state.layer, neuron=(state.map, row - 1, column - 1))
    return net.reconstruct(image, state.layer, maps=state.map and [state.map], top=state.top)


@pytest.mark.parametrize("name", STATES)
def test_picture_is_what_the_library_computes(studio, name):
    state = state_of(studio, name)
    expected = by_hand(studio, state)[0]
    assert expected.abs().sum() > 0
    assert torch.equal(studio.projection(state), expected)
    shown = studio.projection_picture(state)
    assert shown.shape == (227, 227, 3) and shown.dtype == np.uint8
    assert np.abs(shown / 255 - figures.to_display_range(expected)).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", STATES)
def test_code_makes_the_same_picture(studio, name):
    state, made = state_of(studio, name), {}
    exec(studio.code(state), made)
    assert torch.equal(made["projection"][0], studio.projection(state))


def test_code_of_an_uploaded_face(studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((300, 200, 3), 90, np.uint8)).save("me.png")
    face, note = studio.add_face(Path("me.png").read_bytes(), "me.png")
    state, made = State(face=face, layer="conv1"), {}
    assert note == "no face found"
    exec(studio.code(state), made)
    assert torch.equal(made["projection"][0], studio.projection(state))


def test_strip_holds_unseen_faces_of_every_expression(studio):
    assert set(studio.names[:8]) == set(studio.data.classes)
    with pytest.warns(UserWarning, match="fewer than the paper"):
        (split,) = splits.random_split(studio.data, studio.run.seed)
    assert set(studio.rows) <= set(split.test.tolist())


def test_feature_map_is_what_the_library_computes(studio):
    state = State(layer="conv2", map=5)
    net = deconvnet.Deconvnet(pipeline.trunk(studio.run))
    assert torch.equal(studio.maps(state), net.feature_maps(studio.image(state), "conv2")[0])
    assert studio.map_picture(state).shape == (13, 13, 3)


def test_strongest_maps_and_neurons(studio):
    state = State(layer="conv3")
    first = studio.strongest(state)
    peaks = studio.maps(state).amax((1, 2))
    assert len(set(first)) == 12 and peaks[first[0] - 1] == peaks.max()
    assert (peaks[[m - 1 for m in first]].diff() <= 0).all()
    state = replace(state, map=first[0], top=3)
    chosen = studio.neurons(state)
    values = studio.maps(state)[first[0] - 1]
    assert [values[r - 1, c - 1].item() for r, c in chosen] == values.flatten().sort(descending=True).values[
        :3
    ].tolist()


@pytest.mark.parametrize(
    ("layer", "neuron"), [("conv1", (1, 1)), ("conv2", (7, 5)), ("conv3", (13, 13)), ("conv5", (3, 4))]
)
def test_receptive_field_holds_all_that_a_neuron_sees(studio, layer, neuron):
    """The gradient of a neuron is 0 outside its receptive field, and reaches two opposite corners' neighbourhoods."""
    trunk = studio.trunk(session.AS_LOADED)
    x = torch.full((1, 3, 227, 227), 1.0, requires_grad=True)
    linear = x
    for step in trunk.layers:  # every weight 1 and the mean in place of the maximum: all that is seen counts
        weight = torch.ones(1, linear.shape[1], step.kernel, step.kernel)
        linear = torch.nn.functional.conv2d(linear, weight / weight.sum(), None, step.stride, step.padding)
        if step.pool:
            linear = torch.nn.functional.avg_pool2d(linear, 3, 2)
        if step.name == layer:
            break
    linear[0, 0, neuron[0] - 1, neuron[1] - 1].backward()
    rows, columns = x.grad[0].sum(0).nonzero().T
    found = (columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1)
    assert session.receptive_field(trunk, layer, *neuron) == found


def test_receptive_fields_are_outlined(studio):
    state = State(layer="conv4", map=3, neuron=(5, 5))
    plain = figures.picture(studio.image(state)[0]).repeat(2, 0).repeat(2, 1)
    shown = studio.face_picture(state)
    left, top, right, bottom = (2 * v for v in session.receptive_field(studio.trunk(state.model), "conv4", 5, 5))
    yellow = (shown == session.YELLOW).all(2)
    rows, columns = yellow.nonzero()
    assert shown.shape == plain.shape
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)


def test_probabilities(studio):
    state = State(face=2, regions=("mouth",))
    model = pipeline.model(studio.run, "ckplus_fig14")
    shown = studio.probabilities(state)
    assert tuple(shown) == model.classes
    with torch.no_grad():
        after = model(studio.image(state)).softmax(1)[0]
        before = model(studio.image(State(face=2))).softmax(1)[0]
    assert np.allclose([v for v, _ in shown.values()], before, atol=1e-6)
    assert np.allclose([v for _, v in shown.values()], after, atol=1e-6)
    assert not torch.equal(before, after)


def test_where_covering_matters(studio):
    state, count, side = State(face=1), len(session.PLACES), session.COVER
    *_, (share, drops) = studio.sensitivity(state)
    model = pipeline.model(studio.run, "ckplus_fig14")
    target = model.classes.index(studio.names[1])
    assert share == 1 and drops.shape == (count, count)
    image, (y, x) = studio.image(state), session.PLACES[[5, 3]]
    covered = image.clone()
    covered[:, :, y : y + side, x : x + side] = 0
    with torch.no_grad():
        expected = (model(image).softmax(1) - model(covered).softmax(1))[0, target]
    assert drops[5, 3] == pytest.approx(expected.item(), abs=1e-6)
    assert np.ptp(drops) > 0


class Watching:
    """A model that keeps what it is shown."""

    classes = paper.EXPRESSIONS

    def __init__(self):
        self.shown = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images)
        return torch.zeros(len(images), len(self.classes))


def middle(weights: np.ndarray) -> np.ndarray:
    """The centre of gravity of a picture [H, W], (row, column) in pixels."""
    return np.array([np.average(np.arange(len(weights)) + 0.5, weights=weights.sum(axis)) for axis in (1, 0)])


def test_every_drop_is_drawn_where_its_box_was(studio, monkeypatch):
    """All of the face is covered once; a single drop shines within its box only, and at its middle but at an edge."""
    model = Watching()
    monkeypatch.setattr(studio, "trained", lambda name: model)
    monkeypatch.setattr(studio, "image", lambda state: torch.ones(1, 3, 227, 227, dtype=torch.uint8))
    *_, (_, drops) = studio.sensitivity(State())
    boxes = (torch.cat(model.shown[1:])[:, 0] == 0).numpy()
    assert len(boxes) == drops.size and boxes.any(0).all()
    for k, box in enumerate(boxes):
        hot = np.zeros_like(drops)
        hot.flat[k] = 1
        drawn = session.overlay(np.zeros((227, 227, 3), np.uint8), hot).sum(2)
        row, column = middle(box).astype(int)
        assert drawn[row, column] > 0.9 * drawn.max() and not drawn[~box].any()
        if not (box[[0, -1]].any() or box[:, [0, -1]].any()):
            assert np.abs(middle(drawn) - middle(box)).max() < 2


@pytest.mark.parametrize("layer", ["conv1", "conv5"])
def test_contact_sheet_shows_each_map_in_its_place(studio, layer):
    sheet = studio.contact_sheet(State(layer=layer, variant="gradient"))
    maps, columns, side = LAYERS[layer], session.SHEET_COLUMNS, session.THUMB
    assert sheet.shape == (-(-maps // columns) * side, columns * side, 3)
    peaks = studio.maps(State(layer=layer)).amax((1, 2)) > 0
    tiles = sheet.reshape(-1, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)[:maps]
    speaks = torch.from_numpy(tiles.reshape(maps, -1).max(1) > 0)
    assert torch.equal(speaks, peaks)


def test_saved_picture_carries_its_settings(studio):
    state = STATES["covered"]
    path = studio.save(state)
    assert path.parent == studio.run.path / "explorer"
    with Image.open(path) as saved:
        assert "synthetic faces" in saved.info["Description"] and saved.info["code"] == studio.code(state)
        pixels = np.asarray(saved)
    assert session.settings(path) == state
    assert np.array_equal(pixels[:, 454:681], studio.projection_picture(state))


@pytest.mark.parametrize("text", [None, "no JSON", "[1, 2]", "5", "{}", '{"quality": 90}', '{"layer": "conv1"}'])
def test_another_picture_has_no_settings(tmp_path, text):
    about = PngImagePlugin.PngInfo()
    if text is not None:
        about.add_itxt("settings", text)
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png", pnginfo=about)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # of a file left open
        with pytest.raises(ValueError, match=r"other\.png: expected a picture .* found one without settings"):
            session.settings(tmp_path / "other.png")
        gc.collect()
    assert not heard


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no picture"),
        (b"hello", "no picture"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "no picture"),
        ("cut", "no picture"),
    ],
)
def test_upload_that_is_no_picture(content, word):
    if content == "cut":
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3)).astype(np.uint8)).save(file, "PNG")
        content = file.getvalue()[:4000]
    with pytest.raises(Missing, match=word):
        session.read_face(content, "me.png")


def test_upload_of_too_many_pixels():
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    with pytest.raises(Missing, match="10000 x 6000"):
        session.read_face(file.getvalue(), "big.png")


@pytest.mark.parametrize("size", [(16, 20), (50, 400), (640, 490)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_upload_of_any_size(size, kind, mode):
    file = io.BytesIO()
    Image.new(mode, size, 77).save(file, kind)
    face = session.read_face(file.getvalue(), "me")
    assert face.pixels.shape == (3, 227, 227) and face.pixels.dtype == np.uint8
    assert face.note == "no face found"


def test_upload_of_a_face_in_a_larger_picture(studio):
    """It is found and cut out, and offered on the strip; of many the newest."""
    rng = np.random.default_rng(4)
    units = expressions.EXPRESSIONS["happy"].draw(rng)
    portrait, _ = synthetic_faces.face(anatomy.Identity.draw(rng), units, size=(400, 400))
    picture = np.full((600, 900, 3), 128, np.uint8)
    picture[150:550, 450:850] = portrait
    file, own = io.BytesIO(), list(range(len(studio.rows)))
    Image.fromarray(picture).save(file, "PNG")
    for _ in range(session.UPLOADS + 1):
        face, note = studio.add_face(file.getvalue(), "me.png")
        assert note == ""
    x, y, side = crop.face_box(Image.fromarray(picture))
    assert min(x - 450, y - 150, 850 - x - side, 550 - y - side) > 0
    cut = crop.resize(Image.fromarray(picture), (x, y, side))
    assert np.array_equal(studio.faces[face].numpy(), cut)
    assert studio.on_strip() == [*own, *range(face + 1 - session.UPLOADS, face + 1)]
    assert studio.strip().shape[1] == session.THUMB * (len(own) + session.UPLOADS)


def test_a_silent_map_is_said_to_be(studio):
    peaks = studio.maps(State(layer="conv3")).amax((1, 2))
    silent, loud = int(peaks.argmin()) + 1, int(peaks.argmax()) + 1
    assert peaks.min() == 0
    assert [studio.speaks(State(layer="conv3", map=m)) for m in (silent, loud, None)] == [False, True, True]


def test_state_is_moved_to_what_exists(studio):
    fit = studio.fitting
    assert fit(State(layer="conv5", map=384)).map == 256
    assert fit(State(layer="conv9")).layer == "conv1"
    assert fit(State(map=-4, top=1000, face=-1)) == State(map=1, top=session.TOP, face=0)
    assert fit(State(layer="conv5", top=50)).top == 36
    assert fit(State(layer="conv5", neuron=(7, 1))).neuron is None
    assert fit(State(layer="conv5", neuron=(6, 6))).neuron == (6, 6)
    assert fit(State(map=None, neuron=(1, 1))).neuron is None
    assert fit(State(box=(220, -5, 50, 900))).box == (177, 0, 50, 227)


def test_it_opens_with_the_last_model_even_where_the_first_is_missing(studio, monkeypatch):
    trained = studio.trained

    def some(name):
        if name == "celeba":
            raise Missing("not here")
        return trained(name)

    monkeypatch.setattr(studio, "trained", some)
    assert studio.opening().model == "after the second transfer"


def test_a_few_deconvnets_are_kept(studio):
    made = [weakref.ref(studio.net(model, variant)) for variant in VARIANTS.values() for model in MODELS]
    gc.collect()
    assert sum(ref() is not None for ref in made) == session.NETS
    assert studio.net(list(MODELS)[-1], list(VARIANTS.values())[-1]) is made[-1]()


# -- the widgets


@pytest.fixture(scope="module")
def explorer(studio) -> Explorer:
    return Explorer(studio.run)


def settled(explorer: Explorer) -> Explorer:
    assert explorer.wait()
    return explorer


def shown(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)))


def same_as_library(explorer: Explorer) -> None:
    """Every picture in the page is the one that the studio makes of the state, and there is no complaint."""
    studio, state = settled(explorer).studio, explorer.state
    assert explorer.message.value == ""
    assert np.array_equal(shown(explorer.projection), studio.projection_picture(state))
    assert np.array_equal(shown(explorer.face), studio.face_picture(state))
    assert np.array_equal(shown(explorer.grid.children[0].picture), studio.map_picture(state))
    assert np.array_equal(shown(explorer.beside), studio.projection_picture(state, state.other))


def test_it_opens_on_something(explorer):
    same_as_library(explorer)
    assert explorer.state.model == "after the second transfer"
    assert explorer.state.map == explorer.studio.strongest(explorer.state)[0]
    assert shown(explorer.projection).max() == 255
    assert all(i.layout.display is None for i in (explorer.face, explorer.projection, explorer.beside))
    assert tuple(slider.value for slider in explorer.box) == BOX
    assert explorer.drops.layout.display == "none"


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
            getattr(explorer, name).value = value
            same_as_library(explorer)
    for slider in explorer.box:
        for value in (slider.max, slider.min):
            slider.value = value
            same_as_library(explorer)
    for button in explorer.regions.values():
        button.value = True
        same_as_library(explorer)
    assert explorer.state.regions == REGIONS
    for button in (*explorer.regions.values(), explorer.boxed):
        button.value = False
    same_as_library(explorer)
    assert not explorer.state.covered


def test_moves_reach_the_state(explorer):
    explorer.show(State(layer="conv3"))
    explorer.map.value = 193
    assert explorer.state.map == explorer.number.value == 193
    explorer.number.value = 200
    assert explorer.state.map == explorer.map.value == 200
    explorer.layer.value = "conv1"
    assert explorer.state.map == explorer.map.max == explorer.number.max == 96
    second = settled(explorer).strong.options[1][1]
    explorer.strong.value = second
    assert explorer.state.map == explorer.studio.strongest(explorer.state)[1]
    explorer.every.value = True
    assert explorer.state.map is None and explorer.map.disabled


def test_a_click_picks_a_neuron(explorer):
    explorer.show(State(layer="conv2", map=9))
    settled(explorer).grid.children[0].cells.value = str(13 * 4 + 6)
    assert explorer.state.neuron == (5, 7)
    same_as_library(explorer)
    assert (explorer.row.value, explorer.column.value) == (5, 7)
    explorer.layer.value = "conv5"
    assert explorer.state.neuron is None
    same_as_library(explorer)


def test_sliders_say_which_neuron_from_the_start(studio):
    explorer = Explorer(studio.run, state=State(layer="conv1", map=5, neuron=(20, 25)))
    assert (explorer.row.value, explorer.column.value) == explorer.state.neuron == (20, 25)
    explorer.show(State(layer="conv5", map=5, neuron=(6, 6)))
    assert (explorer.row.value, explorer.row.max) == (6, 6)
    explorer.show(State(layer="conv1", map=5, neuron=(27, 14)))
    assert (explorer.row.value, explorer.column.value) == explorer.state.neuron == (27, 14)
    same_as_library(explorer)


def test_contact_sheet_opens_a_map(explorer):
    explorer.show(State(layer="conv1", map=1))
    settled(explorer).sheet_open.value = True
    sheet = settled(explorer).sheet.children[0]
    assert np.array_equal(shown(sheet.picture), explorer.studio.contact_sheet(explorer.state))
    sheet.cells.value = "41"
    assert explorer.state.map == 42
    explorer.sheet_open.value = False
    assert settled(explorer).sheet.children == ()


def test_where_button(explorer):
    explorer.show(State())
    explorer.where.click()
    assert settled(explorer).progress.value == 1
    assert explorer.drops.layout.display is None and "Largest drop" in explorer.drops_word.value
    explorer.map.value = 5
    assert "Largest drop" in settled(explorer).drops_word.value
    explorer.regions["eyes"].value = True
    assert "press again" in settled(explorer).drops_word.value
    explorer.regions["eyes"].value = False


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
    assert explorer.state.face == len(explorer.studio.faces) - 1
    same_as_library(explorer)
    assert "your picture, me&lt;b&gt;.png" in explorer.caption.value and "synthetic" not in explorer.caption.value


def test_save_in_the_page(explorer):
    explorer.show(State(layer="conv2", map=2))
    settled(explorer).save.click()
    saved = max((explorer.studio.run.path / "explorer").glob("*.png"), key=lambda p: p.stat().st_mtime_ns)
    assert saved.name in explorer.saved.value and "download" in explorer.saved.value
    assert session.settings(saved) == explorer.state


def test_the_maps_beside_the_chosen_one_are_known_ahead(studio):
    state = State(layer="conv2", map=5)
    ahead = list(studio.expect(state))
    assert [s.map for s in ahead] == [6, 4]
    computed = studio._projected.cache_info().misses
    fresh = Session(studio.run)
    for s in ahead:
        assert torch.equal(studio.projection(s), fresh.projection(s))
    assert studio._projected.cache_info().misses == computed
    assert [s.map for s in studio.expect(replace(state, map=1))] == [2]
    assert list(studio.expect(replace(state, map=None))) == []


def test_without_trained_models_it_says_what_makes_them(studio, folder, monkeypatch):
    monkeypatch.setattr(config, "OUTPUT", folder / "nothing trained")
    explorer = Explorer(studio.run)
    same_as_library(explorer)
    assert explorer.state.model == session.AS_LOADED
    assert "05_second_transfer" in explorer.bars.value
    explorer.other.value = "after the first transfer"
    assert "03_first_transfer" in settled(explorer).beside_word.value
    explorer.model.value = "after the second transfer"
    assert "make reproduce" in settled(explorer).message.value
    assert explorer.state.model == explorer.model.value == session.AS_LOADED


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
def test_a_run_that_cannot_be_opened_says_so(studio, run, changes, word):
    explorer = Explorer(run, **({"ckplus": studio.run.ckplus} | changes))
    assert word in explorer.message.value and explorer.message in explorer.children
    with pytest.raises(Missing) as error:
        explorer.studio  # noqa: B018
    assert word in error.value._render_traceback_()[0]


def test_only_standard_widgets_are_used(explorer):
    """VS Code, and pages that trust nobody, run no JavaScript but ipywidgets' own."""
    explorer.sheet_open.value = True
    found, waiting = set(), [settled(explorer)]
    while waiting:
        widget = waiting.pop()
        found.add(type(widget)._model_module.default_value)
        waiting += getattr(widget, "children", ())
        if isinstance(widget, widgets.HTML):
            assert "<script" not in widget.value and not re.search(r"\son\w+\s*=", widget.value)
    explorer.sheet_open.value = False
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


def test_settings_are_plain_json(studio):
    with Image.open(io.BytesIO(studio.snapshot(State()))) as picture:
        assert json.loads(picture.info["settings"])["layer"] == "conv3"
