"""A run: one config file, the folder its checkpoints and tables go to, and where everything came from.

`config/<name>.yaml` says what a run is made of. `runs/<name>/` (not committed) keeps checkpoints, executed notebooks
and provenance; `figures/<name>/` its pictures and tables. Two runs never share a file.
"""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from dualtl_lib import files
from dualtl_lib.models.precision import PRECISIONS, resolve

BUDGETS = ("quick", "paper")
KEYS = {
    "title": str,  # what the data is called in every title
    "weights": str,  # a name that weights.load knows, or a file
    "celeba": str,  # "synthetic", or a folder in CelebA's layout
    "ckplus": str,  # "synthetic", or a folder in CK+'s layout or one per class
    "budget": str,  # "quick" or "paper"
    "seed": int,
}
OPTIONAL = {
    "person": r"S\d+",  # in a folder per class: the pattern that finds the person in a picture's name
    "peak_frames": 5,  # of expressions: how many last frames of a sequence show it (faces.CKPlus)
    "contempt": True,  # of expressions: whether it is one of the classes
    "crop": "auto",  # of expressions: "auto", "face" or "centre" (faces.CKPlus)
    "precision": "float32",  # of training and testing: "float32", "bfloat16", or "auto", the faster on this machine
    "skip_dead_tail": False,  # leave out what training.fit shows to change nothing
    "sweep": {},  # sweep.Job's choices, each a list, and the number of folds
    "recipe": {},  # by step (celeba, ckplus, heads), settings of training.Recipe that differ from the budget's
    "cache_gb": None,  # GiB that all of the run's caches of frozen layers may take; None: as prefix.Prefix has it
}


@dataclass(frozen=True)
class Run:
    """An opened run: its settings, and where it keeps what it makes. Folders appear with their first file."""

    name: str
    title: str
    weights: str
    celeba: str
    ckplus: str
    budget: str
    seed: int
    person: str
    peak_frames: int
    contempt: bool
    crop: str
    precision: str
    skip_dead_tail: bool
    sweep: dict
    recipe: dict
    cache_gb: int | float | None

    @property
    def path(self) -> Path:
        """runs/<name>/: checkpoints, metrics, executed notebooks, provenance."""
        return files.OUTPUT / "runs" / self.name

    @property
    def figures(self) -> Path:
        """figures/<name>/: tables and results, and pictures where they show no real people."""
        return files.OUTPUT / "figures" / self.name

    @property
    def cache(self) -> int | None:
        """Its cache_gb in bytes: prefix.Prefix's limit."""
        return None if self.cache_gb is None else int(self.cache_gb * 2**30)

    @property
    def people(self) -> bool:
        """Whether pictures may show real people, which are then kept out of figures/."""
        return {self.celeba, self.ckplus} != {"synthetic"}

    @property
    def pictures(self) -> Path:
        """Where pictures go: those of real people stay in runs/<name>/figures/, which is not committed."""
        return self.path / "figures" if self.people else self.figures

    @property
    def written(self) -> str:
        """Where a notebook's files go, in words."""
        return f"figures/{self.name}" + f", pictures to runs/{self.name}/figures" * self.people

    @property
    def celeba_title(self) -> str:
        """What the attributes' faces are called: they may be drawn where those of the expressions are real."""
        return "synthetic faces" if self.celeba == "synthetic" else self.title

    @property
    def config(self) -> str:
        """The name of its file in config/."""
        return self.name.partition(",")[0]

    def changes(self) -> dict:
        """Its settings that are not the config's."""
        base = open_run(self.config)
        return {k: v for k, v in asdict(self).items() if k != "name" and v != getattr(base, k)}

    def made_by(self) -> str:
        """What to type to make all of this run, in words."""
        changes = self.changes()
        if not changes:
            return f"`make reproduce RUN={self.config}`"
        if changes.keys() <= {"seed", "budget"}:  # what every notebook takes
            return (
                f"`snakemake --cores all --config run={self.config} {' '.join(f'{k}={v}' for k, v in changes.items())}`"
            )
        return f"`make reproduce RUN=…` with a config of its own ({', '.join(changes)} changed)"

    def options(self) -> str:
        """What the command line needs after the config's name to open it, a space before each; but for a sweep."""
        said = {k: v for k, v in self.changes().items() if k != "sweep"}
        said |= _flat(said.pop("recipe", {}))
        return "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in said.items())

    def checkpoint(self, model: str) -> Path:
        """Where the trained model of that name is kept. The file may not exist yet."""
        return self.path / f"{model}.safetensors"

    def save_results(self, notebook: str, results: list[dict]) -> Path:
        """Write figures/<name>/<notebook>.json: what a notebook found, for summary.py's closing table."""
        path = self.figures / f"{notebook}.json"
        content = {"run": self.name, "data": self.title, "precision": resolve(self.precision), "results": results}
        content["provenance"] = files.provenance()
        with files.atomic_write(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n")
        return path


def open_run(name: str, **changes) -> Run:
    """The run that config/<name>.yaml describes, with single settings changed.

    A changed run gets a name of its own (`embedded,seed=3`), so that it never shares a file with the first; a value
    of None changes nothing, and a recipe only what it names. Raises ValueError for an unknown run, key or value.
    """
    path = files.PROJECT / "config" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ValueError(f"no run {name!r}: {path.name} is not in config/, which has {known}")
    settings = OPTIONAL | _settings(path)
    if "recipe" in changes:
        changes["recipe"] = _laid_over(settings["recipe"], changes["recipe"])
    changed = {k: v for k, v in changes.items() if v is not None and v != settings.get(k)}
    before = _flat(settings["recipe"])
    settings |= changed
    kinds = KEYS | {key: type(default) for key, default in OPTIONAL.items()} | {"cache_gb": int | float | None}
    for key in kinds.keys() | settings.keys():
        if key not in kinds or not isinstance(settings.get(key), kinds[key]):
            expected = getattr(kinds[key], "__name__", kinds[key]) if key in kinds else f"one of {', '.join(kinds)}"
            raise ValueError(f"{path.name}: {key}: expected {expected}, found {settings.get(key)!r}")
    for key, known in {"budget": BUDGETS, "precision": PRECISIONS}.items():
        if settings[key] not in known:
            raise ValueError(f"{key} is one of {', '.join(known)}, not {settings[key]!r}")
    steps = _flat(changed.pop("recipe", {}))
    said = changed | {k: v for k, v in steps.items() if k not in before or v != before[k]}
    words = ",".join(f"{k}={v}" for k, v in sorted(said.items())).replace("/", "_")
    words = (
        words if len(words.encode()) < 200 else files.fingerprint(words.encode())
    )  # the name of a folder has 255 bytes
    return Run(**settings, name=f"{name},{words}" if words else name)


def parse_overrides(words: list[str]) -> dict:
    """The changes that open_run takes, from words such as seed=3, or ckplus.base_lr=0.001 of a recipe.

    Raises ValueError for what is no such word.
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            change = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise ValueError(f"expected a setting such as precision=bfloat16 or ckplus.base_lr=0.001, found {word!r}")
        for part in reversed(key.split(".")):
            change = {part: change}
        found = _laid_over(found, {"recipe": change} if "." in key else change)
    return found


def _laid_over(below, above):
    """Settings in dicts of dicts, those of `above` where both have one."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}


def _flat(nested, name: str = "") -> dict:
    """A recipe's settings as `parse_overrides` reads them: {"ckplus": {"batch": 12}} is {"ckplus.batch": 12}."""
    if not isinstance(nested, dict):
        return {name: nested}
    parts = (_flat(inner, f"{name}.{key}" if name else key) for key, inner in nested.items())
    return {key: value for part in parts for key, value in part.items()}


def _settings(path: Path) -> dict:
    """What a config file says. Raises ValueError for what is none."""
    expected = f"{path}: expected lines of `key: value`, patterns in single quotes"
    try:
        found = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        mark = getattr(error, "problem_mark", None)
        problem = f"{error.problem.removeprefix('found ')} in line {mark.line + 1}" if mark else error
        raise ValueError(f"{expected}, found {problem}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{expected}, found {'nothing' if found is None else f'a {type(found).__name__}'}")
    return found
