"""Keeping trained models, and loading them again."""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file

from dualtl_lib import files
from dualtl_lib.models import readers
from dualtl_lib.models.caffenet import AttributeNet, ExpressionNet, Trunk
from dualtl_lib.models.contents import mismatch
from dualtl_lib.models.readers import read_metadata

__all__ = ["load_model", "read_metadata", "save_model"]

KINDS = {"AttributeNet": AttributeNet, "ExpressionNet": ExpressionNet}


def save_model(
    model: Trunk | AttributeNet | ExpressionNet, path: str | Path, *, dtype: torch.dtype | None = None, **meta: Any
) -> Path:
    """Keep a trained model, or a trunk, as safetensors, with its architecture.

    The file appears whole or not at all. The same model and meta give the same bytes.

    Args:
        model: The model.
        path: The file.
        dtype: Of the numbers on disk, such as torch.float16. Default: as they are.
        **meta: JSON values to keep with it; `read_metadata` returns them.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If `meta` has a name that this function writes itself.
    """
    trunk = model if isinstance(model, Trunk) else model.trunk
    own: dict[str, Any] = {
        "kind": type(model).__name__,
        "layers": [layer._asdict() for layer in trunk.layers],
        "order": trunk.order,
        "transform": trunk.transform._asdict(),
        "name": trunk.name,
    }
    if not isinstance(model, Trunk):
        own |= {"classes": list(model.classes), "dropout": model.dropout.p}
    if isinstance(model, ExpressionNet):
        own["conv5"] = model.conv5
    if clash := own.keys() & meta.keys():
        raise ValueError(f"{', '.join(sorted(clash))}: save_model writes this itself; give it another name")
    state = {k: v.detach().cpu().to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    try:
        with files.atomic_write(Path(path)) as part:
            save_file(state, part, metadata={"dualtl": json.dumps(own | meta, sort_keys=True)})
    except (OSError, safetensors.SafetensorError) as error:
        advice = "make room, or name another folder (a run's is under DUALTL_OUTPUT)"
        raise OSError(f"{path} cannot be written ({error}): {advice}") from error
    return Path(path)


def load_model(path: str | Path) -> AttributeNet | ExpressionNet:
    """Load a trained model that save_model kept, ready to evaluate.

    Args:
        path: The file; a relative one is of the working directory, as for save_model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file.
    """
    path = files.expand(path, Path.cwd())
    readers.check_file(path)
    metadata = read_metadata(path)
    kind = str(metadata.get("kind", "a file without that mark"))
    if kind not in KINDS:
        raise mismatch(path, "a model kept by save_model", kind, "weights.load_trunk reads trunks")
    layers, transform = readers.architecture(metadata, path)
    state = {k: readers.as_float32(v, k, path) for k, v in readers.read_tensors(path).items()}
    try:
        if layers is None:
            raise KeyError("layers")
        with torch.device("meta"):
            trunk = Trunk(layers, order=metadata["order"], transform=transform, name=metadata["name"])
            model = KINDS[kind](trunk, metadata["classes"], dropout=metadata["dropout"])
        if isinstance(model, ExpressionNet):
            model.conv5 = metadata["conv5"]  # where it is left out, it is not among the file's layers
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        found = f"one that does not fit together ({error})"
        raise mismatch(path, f"a whole {kind}", found, "make the file again") from error
    return model.eval()
