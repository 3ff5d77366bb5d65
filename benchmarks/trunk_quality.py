"""How good a trunk is for the figures and for expressions: projections, activations, and a linear probe on CK+48.

python benchmarks/trunk_quality.py embedded [distilled.safetensors …] [--no-probe] [--anew] [--out FILE.json]

BVLC's AlexNet is measured beside them where the data folder has it (`weights/bvlc_alexnet_conv.safetensors`). The faces
are the NASA portrait of scikit-image, grey and cut to the face, and 16 synthetic faces. The probe needs `ckplus48` in
the data folder. Writes benchmarks/results/trunk_quality.json; what that file has of BVLC's is not measured again.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import skimage
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from dualtl_lib import files
from dualtl_lib.data import crop
from dualtl_lib.data.ckplus import CKPlus
from dualtl_lib.models import weights
from dualtl_lib.models.caffenet import StageRecord, Trunk
from dualtl_lib.synthetic import faces
from dualtl_lib.visualize import measures
from dualtl_lib.visualize.deconvnet import Deconvnet

BVLC = "$DATA/weights/bvlc_alexnet_conv.safetensors"
RESULTS = Path(__file__).parent / "results" / "trunk_quality.json"
PORTRAIT_BOX = (174, 64, 99)  # x, y, side in pixels of skimage.data.astronaut(): the detector's
N_FACES = 16
GRID = 6  # cells on a side that the probe averages each map over, as many as conv5 has after pooling
# The goals for a stand-in of BVLC's weights.
MAX_BIAS_SHARE, MAX_PROBE_LOSS, MIN_PARTS_RATIO = 0.15, 0.02, 0.9
MAX_EDGE_RISE, MAX_EDGES_LEFT, MAX_ACTIVATION_FACTOR = 0.02, 0.6, 1.5


def portrait() -> Tensor:
    """The NASA portrait in scikit-image, grey and cut to the face: uint8 RGB, shape (1, 3, 227, 227)."""
    picture = Image.open(Path(str(skimage.__file__)).parent / "data" / "astronaut.png").convert("L").convert("RGB")
    return torch.from_numpy(crop.resize(picture, PORTRAIT_BOX).copy()).unsqueeze(0)


def synthetic_faces(n: int = N_FACES, seed: int = 0) -> Tensor:
    """Synthetic faces of n people, spread over the expressions: uint8 RGB, shape (N, 3, 227, 227)."""
    with tempfile.TemporaryDirectory() as folder:
        data = CKPlus(faces.write_ckplus(Path(folder) / "ckplus", subjects=n, seed=seed, workers=1))
        return data.batch(measures.evenly_spaced(data, n)).clone()


def bias_share(trunk: Trunk, images: Tensor, layer: str) -> np.ndarray:
    """How far the projection of all neurons moves without eq. (9)'s bias, relative to its norm; shape (N,)."""
    ours = Deconvnet(trunk).reconstruct(images, layer).flatten(1)
    without = Deconvnet(trunk, bias=False).reconstruct(images, layer).flatten(1)
    return ((without - ours).norm(dim=1) / ours.norm(dim=1)).numpy()


@torch.no_grad()
def activations(trunk: Trunk, images: Tensor) -> dict[str, tuple[float, float]]:
    """Mean and root mean square of the rectified maps of every layer, before pooling and normalization."""
    record: list[StageRecord] = []
    trunk(trunk.transform(images), record=record)
    levels = [(stage.conv.mean().item(), stage.conv.square().mean().sqrt().item()) for stage in record]
    return dict(zip(trunk.names, levels, strict=True))


def measure(trunk: Trunk, images: Tensor) -> pd.DataFrame:
    """The measures of every layer: one row each, averaged over the images."""
    net, rows = Deconvnet(trunk), []
    levels = activations(trunk, images)
    for layer in trunk.layers:
        share = bias_share(trunk, images, layer.name)
        mean, rms = levels[layer.name]
        everything, strongest = net.reconstruct(images, layer.name), net.reconstruct(images, layer.name, top=1)
        row = {"layer": layer.name, "n": len(images), "bias share": share.mean(), "bias share, largest": share.max()}
        row |= {"edges": measures.edge_correlation(everything, images).mean()}
        row |= {"eyes and mouth": measures.region_energy(strongest).mean()}
        rows.append(row | {"mean activation": mean, "RMS activation": rms})
    return pd.DataFrame(rows)


def probe_faces(root: Path) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The peak frames of CK+48, seven expressions, enlarged to 227 pixels.

    Returns:
        Images, uint8 RGB, shape (N, 3, 227, 227); labels, shape (N,); the people's names, shape (N,).
    """
    images, labels, people = [], [], []
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != "neutral")
    for label, name in enumerate(classes):
        for file in sorted((root / name).glob("*.png")):
            found = re.match(r"S\d+", file.name)
            if found is None:
                raise ValueError(f"{file}: expected a name that begins with the person, such as S005_001_00000011.png")
            grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            if grey is None:
                raise ValueError(f"{file}: expected a picture")
            images.append(cv2.resize(grey, (227, 227), interpolation=cv2.INTER_CUBIC))
            labels.append(label)
            people.append(found[0])
    pixels = torch.from_numpy(np.stack(images)).unsqueeze(1).expand(-1, 3, -1, -1)
    return pixels, np.array(labels), np.array(people)


@torch.no_grad()
def probe_features(trunk: Trunk, images: Tensor, batch: int = 64) -> Iterator[tuple[str, np.ndarray]]:
    """Every layer's output, after pooling and normalization, averaged over GRID x GRID cells; shape (N, C * 36)."""
    pieces: dict[str, list[Tensor]] = {layer.name: [] for layer in trunk.layers}
    for part in images.split(batch):
        x = trunk.transform(part.contiguous()).contiguous(memory_format=torch.channels_last)
        for layer in trunk.layers:
            x = trunk(x, start=layer.name, stop=layer.name)
            pieces[layer.name].append(F.adaptive_avg_pool2d(x, GRID).flatten(1))
    for name, parts in pieces.items():
        yield name, torch.cat(parts).numpy()


def probe(trunk: Trunk, root: Path) -> dict[str, float]:
    """Share of CK+48's faces that a linear SVM on each layer names right: five subject-independent folds."""
    images, labels, people = probe_faces(root)
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(images, labels, people))
    found = {}
    for name, features in probe_features(trunk, images):
        right = 0
        for train, test in folds:
            model = make_pipeline(StandardScaler(), PCA(200, random_state=0), LinearSVC(C=0.01, random_state=0)).fit(
                features[train], labels[train]
            )
            right += int((model.predict(features[test]) == labels[test]).sum())
        found[name] = right / len(labels)
    return found


def verdicts(table: pd.DataFrame, reference: pd.DataFrame | None) -> dict[str, bool]:
    """Whether one trunk's rows, on one set of faces, meet each goal; those against BVLC only where it was measured."""
    edges = table.edges.to_numpy()
    found = {
        "bias share": bool((table["bias share, largest"] <= MAX_BIAS_SHARE).all()),
        "contours fade": bool(np.diff(edges).max() <= MAX_EDGE_RISE and edges[-1] <= MAX_EDGES_LEFT * edges[0]),
    }
    if reference is None:
        return found
    found["eyes and mouth"] = bool((_ratio(table, reference, "eyes and mouth") >= MIN_PARTS_RATIO).all())
    factors = [np.abs(np.log(_ratio(table, reference, f"{kind} activation"))) for kind in ("mean", "RMS")]
    found["activations"] = bool(np.max(factors) <= np.log(MAX_ACTIVATION_FACTOR))
    if "probe" in table and "probe" in reference:
        found["probe"] = bool((table["probe"].to_numpy() >= reference["probe"].to_numpy() - MAX_PROBE_LOSS).all())
    return found


def _ratio(table: pd.DataFrame, reference: pd.DataFrame, column: str) -> np.ndarray:
    return table[column].to_numpy() / reference[column].to_numpy()


def main() -> None:
    """Measure the trunks named on the command line, print their tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("weights", nargs="+", help="names that weights.load_trunk knows, or files")
    parser.add_argument("--no-probe", action="store_true", help="leave the probe out, which takes minutes")
    parser.add_argument("--anew", action="store_true", help="measure BVLC's weights again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    images = {"portrait": portrait(), f"{N_FACES} synthetic faces": synthetic_faces()}
    names, data = list(chosen.weights), None
    try:
        data = files.data_root()
        names = [BVLC, *names] if files.expand(BVLC).is_file() else names
    except FileNotFoundError as error:
        print(f"without BVLC's weights and the probe: {error}")
    has_probe = not chosen.no_probe and data is not None and (data / "ckplus48").is_dir()
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    if not chosen.anew and (kept := earlier(chosen.out, Path(BVLC).name)):
        tables[BVLC] = kept
    for name in names:
        if name in tables:
            continue
        trunk = weights.load_trunk(name)
        probed = probe(trunk, data / "ckplus48") if has_probe and data else None
        tables[name] = {faces_: measure(trunk, pixels) for faces_, pixels in images.items()}
        for faces_, table in tables[name].items():
            if probed:
                table["probe"] = table.layer.map(probed)
            reference = tables[BVLC][faces_] if BVLC in tables and name != BVLC else None
            print(f"\n{name}, {faces_}\n{table.round(3).to_string(index=False)}")
            print({goal: "met" if met else "missed" for goal, met in verdicts(table, reference).items()}, flush=True)
    write(chosen.out, tables)


def earlier(path: Path, name: str) -> dict[str, pd.DataFrame]:
    """What a file that `write` wrote has of these weights: by set of faces, one row for each layer."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())["results"]
    return {entry["faces"]: pd.DataFrame(entry["layers"]) for entry in found if entry["weights"] == name}


def write(path: Path, tables: dict[str, dict[str, pd.DataFrame]]) -> None:
    """Write every trunk's rows and verdicts, with the command's provenance, as JSON."""
    content = []
    for name, found in tables.items():
        for faces_, table in found.items():
            reference = tables[BVLC][faces_] if BVLC in tables and name != BVLC else None
            entry = {"weights": Path(name).name, "faces": faces_, "layers": table.round(4).to_dict("records")}
            content.append(entry | {"goals met": verdicts(table, reference)})
    with files.atomic_write(path) as part:
        part.write_text(json.dumps({"results": content, "provenance": files.provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
