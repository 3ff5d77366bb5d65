"""The explorer's state, and all numbers that the library computes for it. No widgets, no pictures.

`State` is what a person has chosen. `Session` holds a run's faces and models. It keeps the forward passes and the
projections that it computed last, so that a slider follows the hand.
"""

import functools
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualtl_lib.config import Run
from dualtl_lib.data import crop, splits
from dualtl_lib.data.regions import Box
from dualtl_lib.evaluate import occlusion
from dualtl_lib.experiment import pipeline
from dualtl_lib.models.caffenet import SIZE, AttributeNet, ExpressionNet, Trunk
from dualtl_lib.visualize.deconvnet import Deconvnet, Record

MODELS = {  # names on the page, and the run's trained models
    "trunk as loaded": None,
    "after the first transfer": "celeba",
    "after the second transfer": "ckplus_fig14",
}
AS_LOADED, LAST = next(iter(MODELS)), "ckplus_fig14"
TOP = 50  # the largest `top` on the slider
STRIP, UPLOADS = 12, 3  # faces on the strip: of the run, and the newest uploaded ones
RECORDS = 8  # forward passes kept, 5 MB each
PROJECTIONS = 16  # kept, 0.6 MB each
COVER = 48  # pixels, the side of the black box that slides over the face
PLACES = np.linspace(0, SIZE - COVER, 10).round().astype(int)  # its first row or column, from edge to edge
PIXELS = 50_000_000  # the largest uploaded picture

PixelBox = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class State:
    """A choice of face, model, neurons and covering.

    Attributes:
        face: Index on the strip; uploaded faces come last.
        model: A key of MODELS.
        layer: Name of a convolutional layer.
        map: Number of a feature map, from 1; None for every map.
        top: Only this many most activated neurons of each map; None for all.
        neuron: (row, column) of one neuron of the map, from 1, in place of `top`.
        variant: The deconvnet's.
        regions: Covered regions of Table 6.
        box: A covered box (x, y, width, height) in pixels.
        other: The model that is shown beside `model`.
    """

    face: int = 0
    model: str = AS_LOADED
    layer: str = "conv3"
    map: int | None = 1
    top: int | None = None
    neuron: tuple[int, int] | None = None
    variant: str = "paper"
    regions: tuple[str, ...] = ()
    box: PixelBox | None = None
    other: str = AS_LOADED

    @property
    def covered(self) -> bool:
        """Whether something is covered."""
        return bool(self.regions or self.box)

    @property
    def input(self) -> tuple:
        """All that decides the networks' input."""
        return self.face, self.regions, self.box

    @property
    def choice(self) -> dict:
        """The chosen neurons as arguments of Deconvnet.project, which counts rows and columns from 0."""
        if self.neuron:
            return {"neuron": (self.map, self.neuron[0] - 1, self.neuron[1] - 1)}
        return {"maps": None if self.map is None else [self.map], "top": self.top}


class Missing(Exception):
    """Something that a person chose is not here; the message names what makes it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [str(self)]


class Session:
    """A run's faces and models, and what the library computes for a state.

    Args:
        run: An opened run.
    """

    def __init__(self, run: Run):
        self.run = run
        self.data = pipeline.ckplus(run)
        self.rows = _chosen(self.data, run.seed)
        self.faces = [torch.as_tensor(np.asarray(self.data.images[i])) for i in self.rows]
        self.names = [self.data.classes[int(self.data.targets[i])] for i in self.rows]
        self._model = functools.cache(self._load)
        self._net = functools.cache(lambda model, variant: Deconvnet(self.trunk(model), variant=variant))
        self._record = functools.lru_cache(RECORDS)(self._forward)
        self._projected = functools.lru_cache(PROJECTIONS)(self._project)
        self._softmax = functools.lru_cache(1)(self._predict)  # a moving map leaves the face alone

    # -- models, layers and faces

    def trunk(self, model: str) -> Trunk:
        """Return the trunk of a model. Raises Missing, naming the command that makes it."""
        name = MODELS[model]
        found = self._model(None) if name is None else self.trained(name)
        return found if isinstance(found, Trunk) else found.trunk

    def trained(self, name: str) -> AttributeNet | ExpressionNet:
        """Return a trained model of the run. Raises Missing, naming the command that makes it."""
        found = self._model(name)
        assert not isinstance(found, Trunk)
        return found

    def _load(self, name: str | None) -> Trunk | AttributeNet | ExpressionNet:
        try:
            return (pipeline.trunk(self.run) if name is None else pipeline.model(self.run, name)).eval()
        except (FileNotFoundError, ValueError) as error:
            raise Missing(str(error)) from error

    def shape(self, state: State) -> tuple[int, int, int]:
        """(maps, rows, columns) of the neurons of the state's layer."""
        return self._net(state.model, state.variant).shapes[state.layer]

    def layers(self) -> dict[str, int]:
        """Return the layers and their numbers of maps."""
        return {layer.name: layer.maps for layer in self.trunk(AS_LOADED).layers}

    def add_face(self, content: bytes, name: str) -> tuple[int, str]:
        """Find the face in a picture file of any size and add it to the strip.

        Returns:
            Its index, and why the centre of the picture was taken in place of a face, or "".

        Raises:
            Missing: If it is no picture.
        """
        found = read_face(content, name)
        self.faces.append(torch.from_numpy(found.pixels))
        self.names.append(name)
        return len(self.faces) - 1, found.note

    def on_strip(self) -> list[int]:
        """Return the faces to choose from: the run's, then the newest uploaded ones."""
        own, count = len(self.rows), len(self.faces)
        return [*range(own), *range(max(own, count - UPLOADS), count)]

    # -- states

    def opening(self) -> State:
        """Return the first state: the most activated map of conv4, with the last model of the run that is trained."""
        best = AS_LOADED
        for model in MODELS:
            try:
                self.trunk(model)
            except Missing:
                continue
            best = model
        state = State(model=best, layer="conv4")
        return replace(state, map=self.most_activated(state)[0])

    def fitting(self, state: State) -> State:
        """Return the nearest state that exists. A neuron that its map does not have is dropped."""
        layers = self.layers()
        state = replace(state, layer=state.layer if state.layer in layers else next(iter(layers)))
        maps, rows, columns = self.shape(state)
        number = None if state.map is None else min(max(state.map, 1), maps)
        top = None if state.top is None else min(max(state.top, 1), TOP, rows * columns)
        row, column = state.neuron or (0, 0)
        neuron = state.neuron if number is not None and 1 <= row <= rows and 1 <= column <= columns else None
        face = min(max(state.face, 0), len(self.faces) - 1)
        return replace(state, map=number, top=top, neuron=neuron, face=face, box=_inside(state.box))

    def anticipate(self, state: State) -> Iterator[State]:
        """Project the maps beside the chosen one, where the map slider goes next, one at each step."""
        for number in (state.map + 1, state.map - 1) if state.map else ():
            if 1 <= number <= self.shape(state)[0]:
                after = replace(state, map=number)
                self.projection(after)
                yield after

    # -- what the library computes

    def image(self, state: State) -> Tensor:
        """Return the face with its covering, uint8, shape (1, 3, 227, 227)."""
        return self._covered(*state.input)

    def _covered(self, face: int, regions: tuple[str, ...], box: PixelBox | None) -> Tensor:
        image = self.faces[face][None].clone()
        for region in regions:
            image = occlusion.cover(image, region)
        return occlusion.cover_box(image, _fractions(box)) if box else image

    def net(self, state: State, model: str | None = None) -> Deconvnet:
        """Return the deconvnet of the state's variant for its model or another one."""
        return self._net(model or state.model, state.variant)

    def record(self, state: State, model: str | None = None) -> Record:
        """Return the forward pass up to the state's layer, by its model or another one."""
        stages, model = self._record(state.input, model or state.model).stages[0], model or state.model
        return Record(state.layer, (stages[: self.trunk(model).index(state.layer) + 1],))

    def _forward(self, chosen: tuple, model: str) -> Record:
        return self._net(model, "paper").forward(self._covered(*chosen), self.trunk(model).last_layer)

    def maps(self, state: State, model: str | None = None) -> Tensor:
        """Return the layer's feature maps, shape (C, H, W), in the state's model or another one."""
        return self.record(state, model).activations()[0]

    def most_activated(self, state: State, count: int = 12) -> list[int]:
        """Return the maps with the most activated neurons for this face, from 1."""
        peaks = self.maps(state).amax((1, 2))
        return (peaks.argsort(descending=True, stable=True)[:count] + 1).tolist()

    def neurons(self, state: State) -> list[tuple[int, int]]:
        """Return the chosen active neurons of the chosen map, (row, column) from 1, strongest first."""
        if state.map is None:
            return []
        if state.neuron:
            return [state.neuron]
        values = self.maps(state)[state.map - 1]
        order = values.flatten().argsort(descending=True, stable=True)[: int((values > 0).sum())]
        return [(i // values.shape[1] + 1, i % values.shape[1] + 1) for i in order[: state.top].tolist()]

    def is_active(self, state: State, model: str | None = None) -> bool:
        """Whether the chosen neuron, or one of the chosen map, is active: else the projection is 0."""
        if state.map is None:
            return True
        values = self.maps(state, model)[state.map - 1]
        return bool(values[state.neuron[0] - 1, state.neuron[1] - 1] if state.neuron else values.any())

    def projection(self, state: State, model: str | None = None) -> Tensor:
        """Project the chosen neurons back, by the state's model or another one.

        Returns:
            float32 RGB, shape (3, 227, 227); not to be written to.
        """
        return self._projected(replace(state, model=model or state.model, other=AS_LOADED))

    def _project(self, state: State) -> Tensor:
        return self.net(state).project(self.record(state), **state.choice)[0]

    def probabilities(self, state: State) -> dict[str, tuple[float, float]]:
        """Return the softmax of the second transfer's logits by expression: (uncovered, covered). Raises Missing."""
        return self._softmax(state.input)

    @torch.no_grad()
    def _predict(self, chosen: tuple) -> dict[str, tuple[float, float]]:
        model = self.trained(LAST)
        images = torch.cat([self.faces[chosen[0]][None], self._covered(*chosen)])
        before, after = model(images).softmax(1).tolist()
        return dict(zip(model.classes, zip(before, after, strict=True), strict=True))

    @torch.no_grad()
    def occlusion_map(self, state: State) -> Iterator[tuple[float, np.ndarray]]:
        """Slide a black box over the face and measure by how much an expression's probability drops.

        The expression is the face's label, or for an uploaded face the predicted one.

        Yields:
            The share that is done, 0..1, and the drops, float32, shape (K, K), one for each of PLACES, after each row
            of boxes; 0 where the box has not been yet.

        Raises:
            Missing: If the model is not trained.
        """
        model, image, name = self.trained(LAST), self.image(state), self.names[state.face]
        whole = model(image).softmax(1)[0]
        target = model.classes.index(name) if name in model.classes else int(whole.argmax())
        drops = np.zeros((len(PLACES), len(PLACES)), np.float32)
        for row, y in enumerate(PLACES):
            images = torch.cat([occlusion.cover_box(image, _fractions((x, y, COVER, COVER))) for x in PLACES])
            drops[row] = (whole[target] - model(images).softmax(1)[:, target]).numpy()
            yield (row + 1) / len(PLACES), drops.copy()


def read_face(content: bytes, name: str) -> crop.Cut:
    """Find and cut out the face in a jpg or png file; the centre square where none is found, or several are.

    Args:
        content: The file.
        name: Its name, for messages.

    Raises:
        Missing: If it is no picture, or too large a one.
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


def _chosen(data, seed: int) -> list[int]:
    """Faces for the strip: one of each class, then more.

    Of the images that the second transfer did not train on, unless there are too few to keep some back.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notebooks that train warn of a small set
        try:
            test = splits.random_split(data, seed=seed)[0].test
        except ValueError:
            test = np.arange(len(data))
    labels = np.asarray(data.targets)[test]
    rounds = [test[labels == label] for label in np.unique(labels)]
    turns = [group[turn] for turn in range(max(map(len, rounds))) for group in rounds if turn < len(group)]
    surprise = [i for i in turns if data.classes[int(data.targets[i])] == "surprise"]  # opens the page
    return [int(i) for i in dict.fromkeys(surprise[:1] + turns)][:STRIP]


def _inside(box: PixelBox | None) -> PixelBox | None:
    """A box moved within the face."""
    if box is None:
        return None
    x, y, width, height = (int(v) for v in box)
    width, height = min(max(width, 1), SIZE), min(max(height, 1), SIZE)
    return min(max(x, 0), SIZE - width), min(max(y, 0), SIZE - height), width, height


def _fractions(box: PixelBox) -> Box:
    """A box in pixels as its edges (left, top, right, bottom) in fractions of the face."""
    x, y, width, height = box
    return x / SIZE, y / SIZE, (x + width) / SIZE, (y + height) / SIZE
