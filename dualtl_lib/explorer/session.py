"""What the explorer shows, without the widgets: a state, and the pictures that the library computes for it.

`State` is what a person has chosen. `Session` holds a run's faces and models and turns a state into pictures (uint8
[H, W, 3]), numbers and the call that makes the same projection in code. What is slow is kept per face and model.
"""

import contextlib
import functools
import io
import json
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor

from dualtl_lib import config, files
from dualtl_lib.data import crop, regions, splits
from dualtl_lib.evaluate import occlusion
from dualtl_lib.experiment import pipeline
from dualtl_lib.models import caffenet
from dualtl_lib.report import figures
from dualtl_lib.visualize.deconvnet import Deconvnet
from dualtl_lib.visualize.geometry import Window

MODELS = {  # what a person picks, and the trained model of the run behind it
    "trunk as loaded": None,
    "after the first transfer": "celeba",
    "after the second transfer": "ckplus_fig14",
}
AS_LOADED, LAST = next(iter(MODELS)), MODELS["after the second transfer"]
VARIANTS = {"the paper's": "paper", "Zeiler and Fergus": "zeiler", "guided": "guided", "gradient": "gradient"}
TOP = 50  # the most neurons of a map that the slider picks
STRIP, UPLOADS = 12, 3  # faces on the strip: of the run, and the newest of a person's own
OUTLINES = 10  # the most receptive fields drawn
KEPT = 16  # projections, 0.6 MB each
NETS = 4  # deconvnets, up to 120 MB each: two models side by side, what a click asks, the contact sheet
THUMB = 80  # pixels, the side of a picture on the strip and on the contact sheet
SHEET_COLUMNS = 12
SIDE = caffenet.SIZE
COVER = 48  # pixels, the side of the black box that is slid over the face
PLACES = np.linspace(0, SIDE - COVER, 10).round().astype(int)  # where it begins, from one edge to the other
PIXELS = 50_000_000  # the largest uploaded picture
YELLOW = (255, 213, 0)


@dataclass(frozen=True)
class State:
    """What a person has chosen.

    face: index on the strip, uploaded faces last. map: counted from 1, None for every map. top: the strongest
    neurons of each map, None for all. neuron: (row, column) of one neuron of the map, counted from 1, in place of
    `top`. regions: of Table 6, covered. box: (x, y, width, height) in pixels, covered too. other: the model beside.
    """

    face: int = 0
    model: str = AS_LOADED
    layer: str = "conv3"
    map: int | None = 1
    top: int | None = None
    neuron: tuple[int, int] | None = None
    variant: str = "paper"
    regions: tuple[str, ...] = ()
    box: tuple[int, int, int, int] | None = None
    other: str = AS_LOADED

    @property
    def covered(self) -> bool:
        return bool(self.regions or self.box)

    @property
    def shown(self) -> tuple:
        """All that decides what the networks are shown."""
        return self.face, self.regions, self.box


class Missing(Exception):
    """Something that a person asked for is not here; the message says what to do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [str(self)]


class Session:
    """A run's faces and models, and what a state looks like."""

    def __init__(self, run: config.Run):
        self.run = run
        self.data = pipeline.ckplus(run)
        self.rows = _chosen(self.data, run.seed)
        self.faces = [torch.as_tensor(np.asarray(self.data.images[int(i)])) for i in self.rows]
        self.names = [self.data.classes[int(self.data.targets[i])] for i in self.rows]
        self._trained, self._judged = {}, {}
        self._projected = functools.lru_cache(KEPT)(self._project)
        net = lambda model, variant, thread: Deconvnet(self.trunk(model), variant=variant)  # noqa: E731
        self._net = functools.lru_cache(NETS)(net)

    # -- what is there to choose from

    def trunk(self, model: str) -> caffenet.Trunk:
        """The trunk of a model. Raises Missing, saying which command makes it."""
        name = MODELS[model]
        if name is not None:
            return self.trained(name).trunk
        if None not in self._trained:
            self._trained[None] = self._load(lambda: pipeline.trunk(self.run).eval())
        return self._trained[None]

    def trained(self, name: str):
        """A trained model of the run. Raises Missing, saying which command makes it."""
        if name not in self._trained:
            self._trained[name] = self._load(lambda: pipeline.model(self.run, name).eval())
        return self._trained[name]

    def _load(self, load):
        try:
            return load()
        except (FileNotFoundError, ValueError) as error:
            raise Missing(str(error)) from error

    def net(self, model: str, variant: str) -> Deconvnet:
        """The deconvnet of a model, one for each thread, since it remembers the way forward of the faces it saw.

        The last few are kept. Raises Missing, saying which command makes the model.
        """
        return self._net(model, variant, threading.get_ident())

    def layers(self) -> dict[str, int]:
        """Layers and their number of maps."""
        return {layer.name: layer.maps for layer in self.trunk(AS_LOADED).layers}

    def opening(self) -> State:
        """Something worth seeing: the loudest map of conv4, which draws a face, with the best model there is."""
        best = AS_LOADED
        for model in MODELS:
            try:
                self.trunk(model)
            except Missing:
                continue
            best = model
        state = State(model=best, layer="conv4")
        return replace(state, map=self.strongest(state)[0])

    def fitting(self, state: State) -> State:
        """The nearest state that exists: a map within its layer, a box within the face. A neuron that its map does not
        have is dropped."""
        shapes = self.net(state.model, state.variant).shapes
        layer = state.layer if state.layer in self.layers() else next(iter(self.layers()))
        maps, rows, columns = shapes[layer]
        number = None if state.map is None else min(max(state.map, 1), maps)
        top = None if state.top is None else min(max(state.top, 1), TOP, rows * columns)
        row, column = state.neuron or (0, 0)
        neuron = state.neuron if number is not None and 1 <= row <= rows and 1 <= column <= columns else None
        face = min(max(state.face, 0), len(self.faces) - 1)
        return replace(state, layer=layer, map=number, top=top, neuron=neuron, face=face, box=_inside(state.box))

    def add_face(self, content: bytes, name: str) -> tuple[int, str]:
        """Take in a picture file of any size, find the face and cut it out; its index, and what has to be said about
        it ("" where nothing). Raises Missing if it is no picture."""
        found = read_face(content, name)
        self.faces.append(torch.from_numpy(found.pixels))
        self.names.append(name)
        return len(self.faces) - 1, found.note

    def on_strip(self) -> list[int]:
        """The faces to choose from: the run's, then the newest uploaded ones."""
        own, everyone = len(self.rows), len(self.faces)
        return [*range(own), *range(max(own, everyone - UPLOADS), everyone)]

    # -- what the library computes

    def image(self, state: State) -> Tensor:
        """The face with what is covered, uint8 [1, 3, 227, 227]."""
        image = self.faces[state.face][None].clone()
        for region in state.regions:
            image = occlusion.cover(image, region)
        return occlusion.cover_box(image, _fractions(state.box)) if state.box else image

    def maps(self, state: State, model: str | None = None) -> Tensor:
        """The layer's feature maps, float32 [C, H, W], in this model or another one."""
        return self.net(model or state.model, state.variant).feature_maps(self.image(state), state.layer)[0]

    def strongest(self, state: State, count: int = 12) -> list[int]:
        """The maps whose strongest neuron speaks loudest for this face, counted from 1."""
        peaks = self.maps(state).amax((1, 2))
        return (peaks.argsort(descending=True, stable=True)[:count] + 1).tolist()

    def neurons(self, state: State) -> list[tuple[int, int]]:
        """The chosen neurons of the map that speak, (row, column) from 1, strongest first."""
        if state.map is None:
            return []
        if state.neuron:
            return [state.neuron]
        values = self.maps(state)[state.map - 1]
        order = values.flatten().argsort(descending=True, stable=True)[: int((values > 0).sum())]
        width = values.shape[1]
        return [(i // width + 1, i % width + 1) for i in order[: state.top].tolist()]

    def speaks(self, state: State, model: str | None = None) -> bool:
        """Whether the chosen map has an active neuron, in this model or another one: else there is nothing to see."""
        return state.map is None or bool(self.maps(state, model)[state.map - 1].any())

    def projection(self, state: State, model: str | None = None) -> Tensor:
        """The chosen neurons projected back, float32 [3, 227, 227], by this model or another one. To be read only."""
        return self._projected(replace(state, model=model or state.model, other=AS_LOADED))

    def _project(self, state: State) -> Tensor:
        net = self.net(state.model, state.variant)
        return net.reconstruct(self.image(state), state.layer, **self.choice(state))[0]

    def expect(self, state: State) -> Iterator[State]:
        """Where a hand on the map slider goes next, as one asks for them: the projections are then known already."""
        for number in (state.map + 1, state.map - 1) if state.map else ():
            if 1 <= number <= self.layers()[state.layer]:
                after = replace(state, map=number)
                self.projection(after)
                yield after

    def choice(self, state: State) -> dict:
        """The chosen neurons as arguments of Deconvnet.reconstruct, which counts rows and columns from 0."""
        if state.neuron:
            return {"neuron": (state.map, state.neuron[0] - 1, state.neuron[1] - 1)}
        return {"maps": None if state.map is None else [state.map], "top": state.top}

    @torch.no_grad()
    def probabilities(self, state: State) -> dict[str, tuple[float, float]]:
        """Softmax of the second transfer's scores by expression, (uncovered, covered). Raises Missing without it."""
        model = self.trained(LAST)
        if (found := self._judged.get(state.shown)) is None:
            images = torch.cat([self.faces[state.face][None], self.image(state)])
            before, after = model(images).softmax(1).tolist()
            found = dict(zip(model.classes, zip(before, after, strict=True), strict=True))
            self._judged = {state.shown: found}  # the last only: a moving map leaves the face alone
        return found

    @torch.no_grad()
    def sensitivity(self, state: State) -> Iterator[tuple[float, np.ndarray]]:
        """Where covering matters: the drop of an expression's probability with a black box at each of PLACES.

        The expression is the face's own, or for an uploaded face the one that the model says. Yields
        (share done 0..1, drops float32 [K, K]) a row at a time; a place not yet tried is 0. Raises Missing.
        """
        model, image = self.trained(LAST), self.image(state)
        whole = model(image).softmax(1)[0]
        name = self.names[state.face]
        target = model.classes.index(name) if name in model.classes else int(whole.argmax())
        drops = np.zeros((len(PLACES), len(PLACES)), np.float32)
        for row, y in enumerate(PLACES):
            images = torch.cat([occlusion.cover_box(image, _fractions((x, y, COVER, COVER))) for x in PLACES])
            drops[row] = (whole[target] - model(images).softmax(1)[:, target]).numpy()
            yield (row + 1) / len(PLACES), drops.copy()

    # -- pictures, uint8 [H, W, 3]

    def face_picture(self, state: State, scale: int = 2) -> np.ndarray:
        """The face, with the receptive fields of the strongest chosen neurons outlined."""
        picture = Image.fromarray(figures.picture(self.image(state)[0])).resize((SIDE * scale, SIDE * scale))
        draw = ImageDraw.Draw(picture)
        for neuron in self.neurons(state)[:OUTLINES]:
            x, y, right, bottom = receptive_field(self.trunk(state.model), state.layer, *neuron)
            draw.rectangle((x * scale, y * scale, right * scale - 1, bottom * scale - 1), outline=YELLOW, width=2)
        return np.asarray(picture)

    def projection_picture(self, state: State, model: str | None = None) -> np.ndarray:
        """The projection as light on black, as in the figures."""
        return eight_bit(figures.to_display_range(self.projection(state, model)))

    def map_picture(self, state: State) -> np.ndarray:
        """The feature map as a heat map, one pixel a neuron; of every map, the strongest at each place."""
        maps = self.maps(state)
        return heat((maps.amax(0) if state.map is None else maps[state.map - 1]).numpy())

    def contact_sheet(self, state: State) -> np.ndarray:
        """All maps of the layer, what the strongest neuron of each draws; THUMB pixels a map, row by row."""
        net = self.net(state.model, state.variant)
        tiles = [tile(patch) for patch in net.reconstruct_each(self.image(state), state.layer).patches]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % SHEET_COLUMNS)
        rows = np.array(tiles).reshape(-1, SHEET_COLUMNS, THUMB, THUMB, 3)
        return rows.transpose(0, 2, 1, 3, 4).reshape(-1, SHEET_COLUMNS * THUMB, 3)

    def strip(self) -> np.ndarray:
        """The faces to choose from side by side."""
        small = [Image.fromarray(figures.picture(self.faces[i])).resize((THUMB, THUMB)) for i in self.on_strip()]
        return np.concatenate([np.asarray(s) for s in small], axis=1)

    # -- words

    def title(self, state: State) -> str:
        """What is shown, in words."""
        which = "every map" if state.map is None else f"map {state.map}"
        if state.neuron:
            what = f"the neuron in row {state.neuron[0]}, column {state.neuron[1]} of {which}"
        elif state.top:
            what = f"the {state.top} strongest neurons of {which}" if state.top > 1 else f"the strongest of {which}"
        else:
            what = f"all neurons of {which}"
        return f"{state.layer}, {what}, {state.model}"

    def code(self, state: State) -> str:
        """The call that makes the same projection, ready to paste."""
        if state.face < len(self.rows):
            face = f"torch.as_tensor(pipeline.ckplus(run).images[{int(self.rows[state.face])}])[None]"
        else:
            face = f"torch.from_numpy(read_face(open({self.names[state.face]!r}, 'rb').read(), 'mine').pixels)[None]"
        name = MODELS[state.model]
        trunk = "pipeline.trunk(run)" if name is None else f'pipeline.model(run, "{name}").trunk'
        arguments = "".join(f", {key}={value!r}" for key, value in self.choice(state).items() if value is not None)
        lines = [
            "import torch",
            "from dualtl_lib.config import open_run",
            "from dualtl_lib.evaluate import occlusion",
            "from dualtl_lib.experiment import pipeline",
            "from dualtl_lib.visualize import deconvnet",
        ]
        if state.face >= len(self.rows):
            lines.append("from dualtl_lib.explorer.session import read_face")
        lines += ["", f"run = {_opened(self.run)}", f"face = {face}"]
        lines += [f'face = occlusion.cover(face, "{region}")' for region in state.regions]
        if state.box:
            x, y, width, height = state.box
            edges = f"{x} / {SIDE}, {y} / {SIDE}, {x + width} / {SIDE}, {y + height} / {SIDE}"
            lines.append(f"face = occlusion.cover_box(face, ({edges}))")
        lines += [
            f"trunk = {trunk}",
            f'net = deconvnet.Deconvnet(trunk, variant="{state.variant}")',
            f'projection = net.reconstruct(face, "{state.layer}"{arguments})  # float32 [1, 3, 227, 227]',
        ]
        return "\n".join(lines)

    def snapshot(self, state: State) -> bytes:
        """A PNG of face, feature map, projection and the same in the other model, its settings in its metadata."""
        panels = [self.face_picture(state, 1), enlarged(self.map_picture(state)), self.projection_picture(state)]
        with contextlib.suppress(Missing):
            panels.append(self.projection_picture(state, state.other))
        about = PngImagePlugin.PngInfo()
        about.add_text("Title", self.title(state))
        about.add_text("Description", f"Run {self.run.name}, made from {self.run.title}")
        about.add_text("Software", "dualtl")
        about.add_itxt("settings", json.dumps(asdict(state)))
        about.add_itxt("code", self.code(state))
        return png(np.concatenate(panels, axis=1), about)

    def save(self, state: State) -> Path:
        """Write the snapshot to runs/<name>/explorer/, which is not committed."""
        content = self.snapshot(state)
        number = "all" if state.map is None else state.map
        path = self.run.path / "explorer" / f"{state.layer}-{number}-{files.fingerprint(content)[:6]}.png"
        with files.atomic_write(path) as part:
            part.write_bytes(content)
        return path


def settings(path: str | Path) -> State:
    """The state that a saved PNG was made from. Raises ValueError for another picture."""
    with Image.open(path) as picture:
        text = picture.info.get("settings", "")
    try:
        values = json.loads(text)
        known = values.keys() == asdict(State()).keys()
    except (ValueError, AttributeError):  # somebody else's words, or somebody else's list
        known = False
    if not known:
        raise ValueError(f"{path}: expected a picture saved by the explorer, found one without settings")
    return State(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_face(content: bytes, name: str) -> crop.Cut:
    """The face in a jpg or png file as uint8 [3, 227, 227], and what has to be said about it. Raises Missing.

    The centre square where no face is found, or several are.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as picture:
                width, height = picture.size
            if width * height > PIXELS:
                raise Missing(f"{name} has {width} x {height} pixels; make it smaller than 50 million")
            found = crop.cut(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            why = f" ({error})" if type(error) is ValueError else ""
            raise Missing(f"{name} is no picture that can be read{why}; choose a whole .jpg or .png file") from error
    return found._replace(pixels=np.array(found.pixels))


def receptive_field(trunk: caffenet.Trunk, layer: str, row: int, column: int) -> tuple[int, int, int, int]:
    """What a neuron (row, column from 1) of a layer sees, (left, top, right, bottom) in pixels, within the picture.

    Where a layer pools, the neuron is one after pooling, and sees what any of its window sees.
    """
    seen = Window(np.array([row - 1]), np.array([column - 1]), 1, 1)
    for step in reversed(trunk.layers[: trunk.layers.index(trunk.layer(layer)) + 1]):
        if step.pool:
            seen = seen.below_pool(step)
        seen = seen.spread(step.kernel, step.stride, step.padding)
    left, top = int(seen.lefts[0]), int(seen.tops[0])
    return max(left, 0), max(top, 0), min(left + seen.width, SIDE), min(top + seen.height, SIDE)


def eight_bit(picture: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return (picture * 255 + 0.5).astype(np.uint8)


def heat(values: np.ndarray) -> np.ndarray:
    """Values [H, W] from 0 (black) over red and yellow to their largest (white), uint8 [H, W, 3]."""
    share = np.clip(values / max(float(values.max()), 1e-12), 0, 1)
    return eight_bit(np.clip(3 * share[..., None] - np.arange(3), 0, 1))


def enlarged(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A small square picture with hard edges, uint8 [side, side, 3]."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))


def overlay(face: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """A dimmed grey face with drops [K, K], one for each of PLACES, laid over it as heat, uint8 [227, 227, 3].

    Each drop is drawn at the centre of its box; what lies between is interpolated.
    """
    grey = face.mean(2, keepdims=True).astype(np.float32) * 0.5
    shares = np.array([np.interp(np.arange(SIDE) + 0.5, PLACES + COVER / 2, one) for one in np.eye(len(PLACES))])
    warm = heat(shares.T @ np.maximum(drops, 0) @ shares)
    return np.clip(grey + 0.8 * warm, 0, 255).astype(np.uint8)


def tile(projection: Tensor) -> np.ndarray:
    """A projection [3, H, W] as a picture of the contact sheet."""
    picture = Image.fromarray(eight_bit(figures.to_display_range(projection)))
    return np.asarray(picture.resize((THUMB, THUMB), Image.Resampling.BILINEAR))


def png(picture: np.ndarray, about: PngImagePlugin.PngInfo | None = None) -> bytes:
    """uint8 [H, W, 3] -> a PNG file. Runs of equal bytes are all that is looked for, since speed matters more here."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=about)
    return file.getvalue()


def _chosen(data, seed: int) -> list[int]:
    """Faces for the strip: one of each class, then more. Of the images that the second transfer did not train on,
    unless there are too few to keep some back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small set is told of by the notebooks that train
        try:
            test = splits.random_split(data, seed)[0].test
        except ValueError:
            test = np.arange(len(data))
    labels = np.asarray(data.targets)[test]
    rounds = [test[labels == label] for label in np.unique(labels)]
    turns = [group[turn] for turn in range(max(map(len, rounds))) for group in rounds if turn < len(group)]
    surprise = [i for i in turns if data.classes[int(data.targets[i])] == "surprise"]  # worth opening on
    return [int(i) for i in dict.fromkeys(surprise[:1] + turns)][:STRIP]


def _opened(run: config.Run) -> str:
    """The call that opens this run."""
    return f'open_run("{run.config}"' + "".join(f", {k}={v!r}" for k, v in run.changes().items()) + ")"


def _inside(box: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
    """A box moved within the face."""
    if box is None:
        return None
    x, y, width, height = (int(v) for v in box)
    width, height = min(max(width, 1), SIDE), min(max(height, 1), SIDE)
    return min(max(x, 0), SIDE - width), min(max(y, 0), SIDE - height), width, height


def _fractions(box: tuple[int, int, int, int]) -> regions.Box:
    """A box (x, y, width, height) in pixels as its edges (left, top, right, bottom) in fractions of the face."""
    x, y, width, height = box
    return x / SIDE, y / SIDE, (x + width) / SIDE, (y + height) / SIDE
