"""Keeping trained models, and reading them again."""

import json
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from dualtl_lib import files
from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet, Trunk
from dualtl_lib.models.weights import _architecture, _check_file, _float32, _tensors, read_metadata


def save_model(
    model: Trunk | AttributeNet | ExpressionNet, path: Path, dtype: torch.dtype | None = None, **meta
) -> Path:
    """Keep a trained model, or a trunk, as safetensors; its architecture and `meta` (JSON values) go with it.

    dtype: of the numbers on disk, such as torch.float16; None leaves them as they are. The file appears whole or
    not at all. The same model and meta give the same bytes. Raises OSError where it cannot be written.
    """
    trunk = model if isinstance(model, Trunk) else model.trunk
    own = {
        "kind": type(model).__name__,
        "layers": [layer._asdict() for layer in trunk.layers],
        "order": trunk.order,
        "transform": trunk.transform._asdict(),
        "name": trunk.name,
    }
    if model is not trunk:
        own |= {"classes": list(model.classes), "dropout": model.dropout.p}
    if isinstance(model, ExpressionNet):
        own["conv5"] = model.conv5
    if clash := own.keys() & meta.keys():
        raise ValueError(f"{', '.join(sorted(clash))}: save_model writes this itself; give it another name")
    state = {k: v.detach().cpu().to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    try:
        with files.atomic_write(path) as part:
            save_file(state, part, metadata={"dualtl": json.dumps(own | meta, sort_keys=True)})
    except (OSError, safetensors.SafetensorError) as error:
        where = "make room, or name another folder (a run's is under DUALTL_OUTPUT)"
        raise OSError(f"{path} cannot be written ({error}): {where}") from error
    return Path(path)


def load_model(path: str | Path) -> AttributeNet | ExpressionNet:
    """The trained model that save_model kept, ready to evaluate. Raises ValueError for any other file."""
    path = files.expand(path, Path.cwd())  # save_model wrote it there
    _check_file(path)
    said = read_metadata(path)
    kind = said.get("kind")
    if kind not in ("AttributeNet", "ExpressionNet"):
        raise ValueError(
            f"{path}: expected a model kept by save_model, found {kind or 'a file without that mark'}; "
            "weights.load_trunk reads trunks"
        )
    layers, transform = _architecture(said, {}, path)
    state = {k: _float32(v, k, path) for k, v in _tensors(path).items()}
    try:
        with torch.device("meta"):
            trunk = Trunk(layers, said["order"], transform, said["name"])
            model = (
                AttributeNet(trunk, said["classes"], said["dropout"])
                if kind == "AttributeNet"
                else ExpressionNet(trunk, said["classes"], said["conv5"], said["dropout"])
            )
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a whole {kind}, found one that does not fit together: {error}") from error
    return model.eval()
