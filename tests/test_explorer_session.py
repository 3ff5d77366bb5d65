"""The explorer's numbers and pictures for a state, and the files it reads and writes."""

import gc
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explorer_run import portrait, write_run
from PIL import Image, PngImagePlugin

from dualtl_lib import paper
from dualtl_lib.data import crop, splits
from dualtl_lib.evaluate import occlusion
from dualtl_lib.experiment import pipeline
from dualtl_lib.explorer import export, render
from dualtl_lib.explorer.session import (
    AS_LOADED,
    COVER,
    MODELS,
    PLACES,
    RECORDS,
    TOP,
    UPLOADS,
    Missing,
    Session,
    State,
    read_face,
)  # fmt: skip
from dualtl_lib.report import figures
from dualtl_lib.visualize import deconvnet

LAYERS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    """A session whose three models exist."""
    patch = pytest.MonkeyPatch()
    yield Session(write_run(tmp_path_factory.mktemp("explorer"), patch))
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


def state_of(session: Session, name: str) -> State:
    """One of STATES, with a map that is active for its face where it is about some neurons of one map."""
    state = STATES[name]
    return replace(state, map=session.most_activated(state)[0]) if state.top and state.map else state


def by_hand(session: Session, state: State) -> torch.Tensor:
    """The projection of a state by the library's public call, without a session."""
    image = torch.as_tensor(np.asarray(session.data.images[int(session.rows[state.face])]))[None].clone()
    for region in state.regions:
        image = occlusion.cover(image, region)
    if state.box:
        x, y, width, height = state.box
        image[0, :, y : y + height, x : x + width] = 0
    name = MODELS[state.model]
    trunk = pipeline.trunk(session.run) if name is None else pipeline.model(session.run, name).trunk
    net = deconvnet.Deconvnet(trunk, variant=state.variant)
    if state.neuron:
        row, column = state.neuron
        return net.reconstruct(image, state.layer, neuron=(state.map, row - 1, column - 1))
    return net.reconstruct(image, state.layer, maps=state.map and [state.map], top=state.top)


@pytest.mark.parametrize("name", STATES)
def test_picture_is_what_the_library_computes(session, name):
    state = state_of(session, name)
    expected = by_hand(session, state)[0]
    assert expected.abs().sum() > 0
    assert torch.equal(session.projection(state), expected)
    shown = render.projection(session, state)
    assert shown.shape == (227, 227, 3) and shown.dtype == np.uint8
    assert np.abs(shown / 255 - figures.to_display_range(expected)).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", STATES)
def test_code_makes_the_same_picture(session, name):
    state, made = state_of(session, name), {}
    exec(export.code(session, state), made)
    assert torch.equal(made["projection"][0], session.projection(state))


def test_code_of_an_uploaded_face(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((300, 200, 3), 90, np.uint8)).save("me.png")
    face, note = session.add_face(Path("me.png").read_bytes(), "me.png")
    state, made = State(face=face, layer="conv1"), {}
    assert note == "no face found"
    exec(export.code(session, state), made)
    assert torch.equal(made["projection"][0], session.projection(state))


def test_strip_holds_unseen_faces_of_every_expression(session):
    assert set(session.names[:8]) == set(session.data.classes)
    with pytest.warns(UserWarning, match="fewer than the paper"):
        (split,) = splits.random_split(session.data, seed=session.run.seed)
    assert set(session.rows) <= set(split.test.tolist())


def test_feature_map_is_what_the_library_computes(session):
    state = State(layer="conv2", map=5)
    net = deconvnet.Deconvnet(pipeline.trunk(session.run))
    assert torch.equal(session.maps(state), net.feature_maps(session.image(state), "conv2")[0])
    assert render.feature_map(session, state).shape == (13, 13, 3)


def test_strongest_maps_and_neurons(session):
    state = State(layer="conv3")
    first = session.most_activated(state)
    peaks = session.maps(state).amax((1, 2))
    assert len(set(first)) == 12 and peaks[first[0] - 1] == peaks.max()
    assert (peaks[[m - 1 for m in first]].diff() <= 0).all()
    state = replace(state, map=first[0], top=3)
    chosen = session.neurons(state)
    values = session.maps(state)[first[0] - 1]
    largest = values.flatten().sort(descending=True).values[:3]
    assert [values[r - 1, c - 1].item() for r, c in chosen] == largest.tolist()


@pytest.mark.parametrize(
    ("layer", "neuron", "field"),
    [
        ("conv1", (1, 1), (0, 0, 19, 19)),  # a pooling of 3, each 4 pixels apart and 11 wide
        ("conv2", (7, 5), (48, 80, 115, 147)),
        ("conv3", (13, 13), (160, 160, 227, 227)),  # cut off by the edge
        ("conv5", (3, 4), (32, 0, 227, 195)),
    ],
)
def test_receptive_field_is_where_the_gradient_is(session, layer, neuron, field):
    """Read off the gradient of a neuron, with every weight 1 and means in place of maxima."""
    assert render.receptive_field(session.trunk(AS_LOADED), layer, *neuron) == field


def test_receptive_fields_are_outlined(session):
    state = State(layer="conv4", map=3, neuron=(5, 5))
    shown = render.face(session, state)
    left, top, right, bottom = (2 * v for v in render.receptive_field(session.trunk(state.model), "conv4", 5, 5))
    rows, columns = (shown == render.YELLOW).all(2).nonzero()
    assert shown.shape == (454, 454, 3)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)


def test_probabilities(session):
    state = State(face=2, regions=("mouth",))
    model = pipeline.model(session.run, "ckplus_fig14")
    shown = session.probabilities(state)
    assert tuple(shown) == model.classes
    with torch.no_grad():
        both = [model(session.image(s)).softmax(1)[0].numpy() for s in (State(face=2), state)]
    assert np.allclose(list(shown.values()), np.transpose(both), atol=1e-6) and not np.array_equal(*both)


def test_where_covering_matters(session):
    state, count, side = State(face=1), len(PLACES), COVER
    *_, (share, drops) = session.occlusion_map(state)
    model = pipeline.model(session.run, "ckplus_fig14")
    target = model.classes.index(session.names[1])
    assert share == 1 and drops.shape == (count, count)
    image, y = session.image(state), PLACES[5]
    row = image.repeat(count, 1, 1, 1)  # a batch as the session's: another one has other low bits
    for covered, x in zip(row, PLACES, strict=True):
        covered[:, y : y + side, x : x + side] = 0
    with torch.no_grad():
        expected = (model(image).softmax(1) - model(row).softmax(1))[:, target]
    np.testing.assert_allclose(drops[5], expected, rtol=0, atol=1e-6)
    assert np.ptp(drops) > 0


class Watching:
    """A model that keeps its inputs."""

    classes = paper.EXPRESSIONS

    def __init__(self):
        self.images = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.images.append(images)
        return torch.zeros(len(images), len(self.classes))


def middle(weights: np.ndarray) -> np.ndarray:
    """The centre of gravity of a picture, shape (H, W): (row, column) in pixels."""
    return np.array([np.average(np.arange(len(weights)) + 0.5, weights=weights.sum(axis)) for axis in (1, 0)])


def test_every_drop_is_drawn_where_its_box_was(session, monkeypatch):
    """All of the face is covered once; a single drop shines within its box only, and at its middle but at an edge."""
    model = Watching()
    monkeypatch.setattr(session, "trained", lambda name: model)
    monkeypatch.setattr(session, "image", lambda state: torch.ones(1, 3, 227, 227, dtype=torch.uint8))
    *_, (_, drops) = session.occlusion_map(State())
    boxes = (torch.cat(model.images[1:])[:, 0] == 0).numpy()
    assert len(boxes) == drops.size and boxes.any(0).all()
    for k, box in enumerate(boxes):
        hot = np.zeros_like(drops)
        hot.flat[k] = 1
        drawn = render.overlay(np.zeros((227, 227, 3), np.uint8), hot).sum(2)
        row, column = middle(box).astype(int)
        assert drawn[row, column] > 0.9 * drawn.max() and not drawn[~box].any()
        if not (box[[0, -1]].any() or box[:, [0, -1]].any()):
            assert np.abs(middle(drawn) - middle(box)).max() < 2


@pytest.mark.parametrize("layer", ["conv1", "conv5"])
def test_contact_sheet_shows_each_map_in_its_place(session, layer):
    sheet = render.contact_sheet(session, State(layer=layer, variant="gradient"))
    maps, columns, side = LAYERS[layer], render.SHEET_COLUMNS, render.THUMB
    assert sheet.shape == (-(-maps // columns) * side, columns * side, 3)
    peaks = session.maps(State(layer=layer)).amax((1, 2)) > 0
    tiles = sheet.reshape(-1, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)[:maps]
    assert (tiles.reshape(maps, -1).max(1) > 0).tolist() == peaks.tolist()


def test_saved_picture_carries_its_settings(session):
    state = STATES["covered"]
    path = export.save(session, state)
    assert path.parent == session.run.path / "explorer"
    with Image.open(path) as saved:
        assert "synthetic faces" in saved.info["Description"] and saved.info["code"] == export.code(session, state)
        assert json.loads(saved.info["settings"])["layer"] == "conv1"
        pixels = np.asarray(saved)
    assert export.settings(path) == state
    assert np.array_equal(pixels[:, 454:681], render.projection(session, state))


@pytest.mark.parametrize("text", [None, "no JSON", "[1, 2]", "5", "{}", '{"quality": 90}', '{"layer": "conv1"}'])
def test_another_picture_has_no_settings(tmp_path, text):
    about = PngImagePlugin.PngInfo()
    if text is not None:
        about.add_itxt("settings", text)
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png", pnginfo=about)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # of a file left open
        with pytest.raises(ValueError, match=r"other\.png"):
            export.settings(tmp_path / "other.png")
        gc.collect()
    assert not heard


def cut_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()[:4000]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"x" * 50, cut_png()])
def test_upload_that_is_no_picture(content):
    with pytest.raises(Missing, match=r"me\.png is no picture"):
        read_face(content, "me.png")


def test_upload_of_too_many_pixels():
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    with pytest.raises(Missing, match="10000 x 6000"):
        read_face(file.getvalue(), "big.png")


@pytest.mark.parametrize("size", [(16, 20), (50, 400), (640, 490)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_upload_of_any_size(size, kind, mode):
    file = io.BytesIO()
    Image.new(mode, size, 77).save(file, kind)
    face = read_face(file.getvalue(), "me")
    assert face.pixels.shape == (3, 227, 227) and face.pixels.dtype == np.uint8
    assert face.note == "no face found"


def test_upload_of_a_face_in_a_larger_picture(session):
    """It is found and cut out, and offered on the strip; of many the newest."""
    picture, file, own = portrait(), io.BytesIO(), list(range(len(session.rows)))
    picture.save(file, "PNG")
    for _ in range(UPLOADS + 1):
        face, note = session.add_face(file.getvalue(), "me.png")
        assert note == ""
    x, y, side = crop.face_box(picture)
    assert min(x - 450, y - 150, 850 - x - side, 550 - y - side) > 0
    cut = crop.resize(picture, (x, y, side))
    assert np.array_equal(session.faces[face].numpy(), cut)
    assert session.on_strip() == [*own, *range(face + 1 - UPLOADS, face + 1)]
    assert render.strip(session).shape[1] == render.THUMB * (len(own) + UPLOADS)


def test_silent_maps_and_neurons_are_known(session):
    maps = session.maps(State(layer="conv3"))
    peaks = maps.amax((1, 2))
    silent, active = int(peaks.argmin()) + 1, int(peaks.argmax()) + 1
    assert peaks.min() == 0
    assert [session.is_active(State(layer="conv3", map=m)) for m in (silent, active, None)] == [False, True, True]
    for value in (maps[active - 1].max(), maps[active - 1].min()):
        row, column = ((maps[active - 1] == value).nonzero()[0] + 1).tolist()
        state = State(layer="conv3", map=active, neuron=(row, column))
        assert session.is_active(state) == bool(session.projection(state).any()) == (value > 0)


def test_state_is_moved_to_what_exists(session):
    fit = session.fitting
    assert fit(State(layer="conv5", map=384)).map == 256
    assert fit(State(layer="conv9")).layer == "conv1"
    assert fit(State(map=-4, top=1000, face=-1)) == State(map=1, top=TOP, face=0)
    assert fit(State(layer="conv5", top=50)).top == 36
    assert fit(State(layer="conv5", neuron=(7, 1))).neuron is None
    assert fit(State(layer="conv5", neuron=(6, 6))).neuron == (6, 6)
    assert fit(State(map=None, neuron=(1, 1))).neuron is None
    assert fit(State(box=(220, -5, 50, 900))).box == (177, 0, 50, 227)


def test_it_opens_with_the_last_model_even_where_the_first_is_missing(session, monkeypatch):
    trained = session.trained

    def some(name):
        if name == "celeba":
            raise Missing("not here")
        return trained(name)

    monkeypatch.setattr(session, "trained", some)
    assert session.opening().model == "after the second transfer"


def test_forward_passes_are_kept_for_every_layer_and_variant(session):
    session._record.cache_clear()
    for layer in LAYERS:
        for variant in deconvnet.VARIANTS:
            session.projection(State(face=5, layer=layer, variant=variant))
    assert session._record.cache_info().misses == 1
    for face in range(RECORDS + 2):
        session.maps(State(face=face))
    assert session._record.cache_info().currsize == RECORDS


def test_the_maps_beside_the_chosen_one_are_known_ahead(session):
    state = State(layer="conv2", map=5)
    ahead = list(session.anticipate(state))
    assert [s.map for s in ahead] == [6, 4]
    computed = session._projected.cache_info().misses
    fresh = Session(session.run)
    for s in ahead:
        assert torch.equal(session.projection(s), fresh.projection(s))
    assert session._projected.cache_info().misses == computed
    assert [s.map for s in session.anticipate(replace(state, map=1))] == [2]
    assert list(session.anticipate(replace(state, map=None))) == []
