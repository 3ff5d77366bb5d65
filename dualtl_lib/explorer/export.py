"""A state in words, as code, and as a PNG file that carries its settings."""

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from dualtl_lib import files
from dualtl_lib.config import Run
from dualtl_lib.explorer import render
from dualtl_lib.explorer.session import MODELS, Missing, Session, State
from dualtl_lib.models.caffenet import SIZE


def title(state: State) -> str:
    """Describe a state's layer, neurons and model."""
    which = "every map" if state.map is None else f"map {state.map}"
    if state.neuron:
        neurons = f"the neuron in row {state.neuron[0]}, column {state.neuron[1]} of {which}"
    elif state.top:
        neurons = f"the {state.top} strongest neurons of {which}" if state.top > 1 else f"the strongest of {which}"
    else:
        neurons = f"all neurons of {which}"
    return f"{state.layer}, {neurons}, {state.model}"


def code(session: Session, state: State) -> str:
    """Write the calls that make the same projection, ready to paste."""
    uploaded = state.face >= len(session.rows)
    if uploaded:
        face = f"torch.from_numpy(read_face(open({session.names[state.face]!r}, 'rb').read(), 'mine').pixels)[None]"
    else:
        face = f"torch.as_tensor(pipeline.ckplus(run).images[{session.rows[state.face]}])[None]"
    name = MODELS[state.model]
    trunk = "pipeline.trunk(run)" if name is None else f'pipeline.model(run, "{name}").trunk'
    arguments = "".join(f", {key}={value!r}" for key, value in state.choice.items() if value is not None)
    lines = [
        "import torch",
        "from dualtl_lib.config import open_run",
        "from dualtl_lib.evaluate import occlusion",
        "from dualtl_lib.experiment import pipeline",
        "from dualtl_lib.visualize.deconvnet import Deconvnet",
        *["from dualtl_lib.explorer.session import read_face"] * uploaded,
        "",
        f"run = {_open_call(session.run)}",
        f"face = {face}",
        *(f'face = occlusion.cover(face, "{region}")' for region in state.regions),
    ]
    if state.box:
        x, y, width, height = state.box
        edges = f"{x} / {SIZE}, {y} / {SIZE}, {x + width} / {SIZE}, {y + height} / {SIZE}"
        lines.append(f"face = occlusion.cover_box(face, ({edges}))")
    lines += [
        f"trunk = {trunk}",
        f'net = Deconvnet(trunk, variant="{state.variant}")',
        f'projection = net.reconstruct(face, "{state.layer}"{arguments})  # float32 [1, 3, {SIZE}, {SIZE}]',
    ]
    return "\n".join(lines)


def _open_call(run: Run) -> str:
    """The call that opens this run."""
    return f"open_run({run.spec!r})"


def snapshot(session: Session, state: State) -> bytes:
    """Make a PNG of face, feature map, projection and the projection by the other model, with its settings inside."""
    small = render.enlarged(render.feature_map(session, state))
    panels = [render.face(session, state, 1), small, render.projection(session, state)]
    with contextlib.suppress(Missing):
        panels.append(render.projection(session, state, state.other))
    about = PngImagePlugin.PngInfo()
    about.add_text("Title", title(state))
    about.add_text("Description", f"Run {session.run.name}, made from {session.run.title}")
    about.add_text("Software", "dualtl")
    about.add_itxt("settings", json.dumps(asdict(state)))
    about.add_itxt("code", code(session, state))
    return render.png(np.concatenate(panels, axis=1), about)


def save(session: Session, state: State) -> Path:
    """Write the snapshot to runs/<name>/explorer/, which is not committed."""
    content = snapshot(session, state)
    number = "all" if state.map is None else state.map
    path = session.run.path / "explorer" / f"{state.layer}-{number}-{files.fingerprint(content)[:6]}.png"
    with files.atomic_write(path) as part:
        part.write_bytes(content)
    return path


def settings(path: str | Path) -> State:
    """Read the state that a saved PNG was made from. Raises ValueError for another picture."""
    with Image.open(path) as picture:
        text = picture.info.get("settings", "")
    try:
        values: dict[str, Any] = json.loads(text)
        known = values.keys() == asdict(State()).keys()
    except (ValueError, AttributeError):  # another program's settings
        known = False
    if not known:
        raise ValueError(f"{path}: expected a picture saved by the explorer, found one without settings")
    return replace(State(), **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
