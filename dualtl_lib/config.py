"""A run: one config file, its settings, its name, and the folders that it writes to.

`config/<name>.yaml` describes a run. `runs/<name>/` (not committed) keeps its models and executed notebooks;
`figures/<name>/` its tables, results and pictures. Two runs never share a file.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dualtl_lib import files

RENAMED = {"skip_dead_tail": "stop_early", "heads_first": "head_warmup", "people": "subject"}  # keys and values
STEPS = ("celeba", "ckplus", "heads")  # a recipe each: Fig. 9's model, Fig. 14's, Fig. 18's


def _number(value: object) -> object:
    """1e-3 is a word to YAML."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def whole(low: int, high: int | None = None) -> BeforeValidator:
    """Make the check of a whole number from `low` to `high`; it refuses 12.5 and True."""
    allowed = f"a whole number from {low} " + ("on" if high is None else f"to {high}")

    def check(value: object) -> object:
        if type(value) is int and low <= value and (high is None or value <= high):
            return value
        raise ValueError(f"expected {allowed}, found {value!r}")

    return BeforeValidator(check)


Number = Annotated[float, BeforeValidator(_number)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Count = Annotated[int, whole(1)]


class Strict(BaseModel):
    """Settings that refuse unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        for key in given.keys() - cls.model_fields.keys() if isinstance(given, dict) else ():
            hint = f"{key} is now called {RENAMED[key]}" if key in RENAMED else f"unknown key {key}"
            raise ValueError(f"{hint}; allowed: {', '.join(cls.model_fields)}")
        return given


class RecipeChanges(Strict):
    """Settings of train.recipe.Recipe that differ from the budget's; what is not set stays.

    `head_warmup` changes the recipe by which the fully connected layers are trained first; null: they are not.
    """

    base_lr: Number = 0
    batch: Count = 1
    gamma: Number = 0
    stepsize: Count = 1
    max_iter: Count = 1
    momentum: Number = 0
    weight_decay: Number = 0
    loss: Literal["hinge", "cross-entropy"] = "hinge"
    head_warmup: "RecipeChanges | None" = None


class Recipes(Strict):
    """Changes of the recipes, by step."""

    celeba: RecipeChanges = RecipeChanges()
    ckplus: RecipeChanges = RecipeChanges()
    heads: RecipeChanges = RecipeChanges()

    def changes(self, step: str) -> dict[str, Any]:
        """Return the settings of a step that are set: {"batch": 20, "head_warmup": {"max_iter": 7}}."""
        return getattr(self, step).model_dump(exclude_unset=True)


class Sweep(Strict):
    """A job for each combination of these (experiment.sweep).

    Attributes:
        protocol: "random", the paper's split, or "subject": nobody is on both sides.
        classes: "all", or "peaks": without neutral.
        start: "random" weights, "single": the run's trunk, "dual": the trunk after the attributes.
        seed: Seeds of split and training.
        folds: Number of folds of the subject-independent split.
    """

    protocol: list[Literal["random", "subject"]]
    classes: list[Literal["all", "peaks"]]
    start: list[Literal["random", "single", "dual"]]
    seed: list[Seed]
    folds: Annotated[int, whole(2)]


class Settings(Strict):
    """What a config file may say.

    Attributes:
        title: What figures call the data.
        weights: A name that models.weights knows, or a file.
        celeba: "synthetic", or a folder in CelebA's layout.
        ckplus: "synthetic", or a folder in CK+'s layout or one per class.
        budget: "quick", or "paper": Tables 3 and 4 as printed.
        seed: Seed of synthetic faces, splits and training.
        person: In a folder per class: the pattern that finds the person in a picture's name.
        peak_frames: How many last frames of a sequence show its expression.
        contempt: Whether contempt is one of the classes.
        crop: How expressions are cropped: "auto", "face" or "centre".
        conv1: "frozen" in the first transfer (section 4.1), or "trained" (section 4.2.1).
        precision: Of training and testing: "float32", "bfloat16", or "auto", the faster on this machine.
        stop_early: Stop the schedule where no weight can move noticeably any more.
        recipe: Changes of the solver's settings, by step.
        sweep: The trainings behind the folds of Tables 5 and 6. Default: none.
        cache_gb: GiB that the run's feature caches may take. Default: the cache's own limit.
    """

    title: str
    weights: str
    celeba: str
    ckplus: str
    budget: Literal["quick", "paper"]
    seed: Seed
    person: str = r"S\d+"
    peak_frames: Count = 5
    contempt: bool = True
    crop: Literal["auto", "face", "centre"] = "auto"
    conv1: Literal["frozen", "trained"] = "frozen"
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    stop_early: bool = False
    recipe: Recipes = Recipes()
    sweep: Sweep | None = None
    cache_gb: Annotated[float, Field(ge=0)] | None = None

    def flat(self) -> dict[str, Any]:
        """Return all settings by the names that overrides have, but of a recipe only what it changes."""
        recipe = _flat(self.recipe.model_dump(exclude_unset=True))
        return self.model_dump(exclude={"recipe"}) | recipe


class Run(Settings):
    """An opened run: its settings, and where it keeps what it makes. Folders appear with their first file.

    Attributes:
        spec: What opens it: the config's name and its overrides, "embedded,seed=3".
        view: Parameters of a notebook that change what it writes, but nothing that is trained.
    """

    spec: str
    view: dict[str, Any] = {}

    @property
    def config(self) -> str:
        """The name of its file in config/."""
        return self.spec.partition(",")[0]

    @property
    def trained_name(self) -> str:
        """The name of the folder of its models: every setting that is not the config's is part of it."""
        return _file_name(self.spec)

    @property
    def name(self) -> str:
        """The name of the folder that a notebook writes to: the parameters that change its pictures are part of it."""
        return _file_name(",".join([self.spec, *(f"{k}={_word(v)}" for k, v in sorted(self.view.items()))]))

    @property
    def path(self) -> Path:
        """runs/<name>/: models, folds, executed notebooks."""
        return files.OUTPUT / "runs" / self.trained_name

    @property
    def figures(self) -> Path:
        """figures/<name>/: tables and results, and pictures where they show no real people."""
        return files.OUTPUT / "figures" / self.name

    @property
    def people(self) -> bool:
        """Whether pictures may show real people, which are then kept out of figures/."""
        return {self.celeba, self.ckplus} != {"synthetic"}

    @property
    def pictures(self) -> Path:
        """Where pictures go: those of real people stay in runs/<name>/figures/, which is not committed."""
        return files.OUTPUT / "runs" / self.name / "figures" if self.people else self.figures

    @property
    def written(self) -> str:
        """Where a notebook's files go, in words."""
        return f"figures/{self.name}" + f", pictures to runs/{self.name}/figures" * self.people

    @property
    def cache_bytes(self) -> int | None:
        """Its cache_gb in bytes."""
        return None if self.cache_gb is None else int(self.cache_gb * 2**30)

    @property
    def celeba_title(self) -> str:
        """What the attributes' faces are called: they may be drawn where those of the expressions are real."""
        return "synthetic faces" if self.celeba == "synthetic" else self.title

    def made_by(self) -> str:
        """Return the command that makes all of this run."""
        return f"`make reproduce RUN={shlex.quote(self.spec)}`"

    def checkpoint(self, model: str) -> Path:
        """Return where the trained model of that name is kept. The file may not exist yet."""
        return self.path / f"{model}.safetensors"


def open_run(name: str, **changes: Any) -> Run:
    """Open the run that config/<name>.yaml describes, with single settings changed.

    Args:
        name: A config's name, with overrides after it where there are some: "embedded,seed=3,ckplus.batch=20".
        **changes: Settings by key; None changes nothing, and nested settings change only what they name.

    Returns:
        The run. A changed run has a name of its own, so that it never shares a file with the first.

    Raises:
        ValueError: If there is no such config, or a key or value is not allowed.
    """
    config, *words = re.split(r",(?=[a-z_][\w.]*=)", name)
    folder = files.PROJECT / "config"
    path = folder / f"{config}.yaml"
    if not re.fullmatch(r"[\w.-]+", config) or not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ValueError(f"no run {config!r}: expected the name of a file in config/, one of {known}")
    written = _read(path)
    given = _laid_over(parse_overrides(words), {k: v for k, v in changes.items() if v is not None})
    try:
        base = Settings(**written).flat()
        changed = Settings(**_laid_over(written, given))
    except (ValidationError, TypeError) as error:
        raise ValueError(explain(error, path.name)) from error
    different = {k: v for k, v in changed.flat().items() if k not in base or base[k] != v}
    spec = ",".join([config, *(f"{k}={_word(v)}" for k, v in sorted(different.items()))])
    return Run(**{key: getattr(changed, key) for key in Settings.model_fields}, spec=spec)


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Return the changes that open_run takes, from words such as seed=3, or ckplus.base_lr=0.001 of a recipe.

    Raises:
        ValueError: If a word is not of this form.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            change = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key:
            raise ValueError(f"expected a setting such as precision=bfloat16 or ckplus.base_lr=0.001, found {word!r}")
        keys = key.split(".")
        if len(keys) > 1 and keys[0] in STEPS:
            keys.insert(0, "recipe")
        for part in reversed(keys):
            change = {part: change}
        found = _laid_over(found, change)
    return found


def explain(error: Exception, source: str) -> str:
    """Write what pydantic finds wrong in one line: the file, the key, what is expected and what was found."""
    if not isinstance(error, ValidationError):
        return f"{source}: {error}"
    lines = []
    for found in error.errors(include_url=False):
        key = ".".join(str(part) for part in found["loc"]) or "settings"
        message = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        if found["type"] == "missing":
            lines.append(f"{key}: expected this key, found nothing")
        elif found["type"] == "value_error":
            lines.append(f"{key}: {message}")
        else:
            now = RENAMED.get(found["input"]) if isinstance(found["input"], str) else None
            lines.append(f"{key}: {message}, found {found['input']!r}" + f", now called {now!r}" * bool(now))
    return f"{source}: {'; '.join(lines)}"


def _laid_over(below: Any, above: Any) -> Any:
    """Settings in dicts of dicts, those of `above` where both have one."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}


def _flat(nested: dict[str, Any], name: str = "") -> dict[str, Any]:
    """{"ckplus": {"batch": 12}} as {"ckplus.batch": 12}."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= _flat(value, f"{name}{key}.") if isinstance(value, dict) else {f"{name}{key}": value}
    return found


def _word(value: object) -> str:
    """A value as YAML reads it back, in one line."""
    if isinstance(value, str):
        try:
            plain = yaml.safe_load(value) == value
        except (yaml.YAMLError, ValueError):
            plain = False
        return value if plain and "," not in value else json.dumps(value).replace(",", r"\u002c")
    return json.dumps(value, separators=(",", ":"))


def _file_name(spec: str) -> str:
    """The name of a folder, which has at most 255 bytes and neither blanks nor slashes; another for each spec."""
    name = re.sub(r"[^\w.,=+-]", "_", spec)
    if name == spec and len(name.encode()) < 200:
        return name
    short = name if len(name.encode()) < 200 else name.partition(",")[0]
    return f"{short},{files.fingerprint(spec.encode())}"


def _read(path: Path) -> dict[str, Any]:
    """What a config file says. Raises ValueError for what is none."""
    expected = f"{path}: expected lines of `key: value`, patterns in single quotes"
    try:
        found = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        mark = getattr(error, "problem_mark", None)
        problem = f"{getattr(error, 'problem', '').removeprefix('found ')} in line {mark.line + 1}" if mark else error
        raise ValueError(f"{expected}, found {problem}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{expected}, found {'nothing' if found is None else f'a {type(found).__name__}'}")
    return found
