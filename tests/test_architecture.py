"""The shape of the package: sizes, what importing does, the public API, what works without POSIX."""

import ast
import subprocess
import sys
import tomllib

import pytest

import dualtl_lib
from dualtl_lib import files

LIBRARY = sorted((files.PROJECT / "dualtl_lib").rglob("*.py"))
MODULES = [".".join(path.relative_to(files.PROJECT).with_suffix("").parts) for path in LIBRARY]
LIMITS = {ast.ClassDef: 200, ast.FunctionDef: 60, ast.AsyncFunctionDef: 60}


def too_long(source: str, limits=LIMITS) -> list[str]:
    """The classes and functions of a module that have more lines than their limit, decorators included."""
    nodes = [node for node in ast.walk(ast.parse(source)) if type(node) in limits]
    begins = [min([node.lineno, *(d.lineno for d in node.decorator_list)]) for node in nodes]
    return [
        f"{node.name}: {node.end_lineno - begin + 1} lines"
        for node, begin in zip(nodes, begins, strict=True)
        if node.end_lineno - begin + 1 > limits[type(node)]
    ]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(files.PROJECT)))
def test_modules_classes_and_functions_fit_on_a_screen_or_few(path):
    source = path.read_text()
    assert source.count("\n") <= 400 and not too_long(source)


@pytest.mark.parametrize("path", sorted((files.PROJECT / "tests").glob("*.py")), ids=lambda path: path.name)
def test_a_test_file_has_one_topic(path):
    assert path.read_text().count("\n") <= 400


def test_what_is_too_long_is_found():
    assert too_long("@x\ndef f():\n" + "    a\n" * 59) == ["f: 61 lines"] and not too_long(
        "def f():\n" + "    a\n" * 59
    )


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=files.PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_ALL = (
    f"import importlib\nfor name in {[m for m in MODULES if not m.endswith('__main__')]}: importlib.import_module(name)"
)
STATE = """
import os, threading, warnings, matplotlib, numpy, torch, torchvision
def state():
    backends = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    settings = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), threading.active_count()
    return dict(matplotlib.rcParams), dict(os.environ), backends, settings, numpy.geterr(), len(warnings.filters)
before = state()
"""


def test_importing_changes_nothing():
    """Of our own: other libraries are imported before."""
    others = "import cv2, pandas, sklearn.svm, scipy.stats, skimage, ipywidgets, snakemake, matplotlib.pyplot\n"
    print(python(f"{others}{STATE}{IMPORT_ALL}\nfor a, b in zip(before, state()): assert a == b, (a, b)"))


def test_importing_needs_no_posix_modules():
    hidden = "import sys\nfor name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
    others = "import torch, torchvision, cv2, sklearn.svm, scipy.stats, pandas, matplotlib.pyplot\n"
    python(f"{others}import ipywidgets, skimage, pooch, IPython\n{hidden}{IMPORT_ALL}")


def test_the_public_api_is_there_when_it_is_used():
    script = "import sys, dualtl_lib as d; print('torch' in sys.modules); [getattr(d, name) for name in d.__all__]"
    assert python(script).strip() == "False"
    assert set(dualtl_lib.__all__) == set(dualtl_lib._WHERE)
    assert {"load_trunk", "Trunk", "Deconvnet", "ExpressionNet", "fit", "accuracy", "CKPLUS"} <= set(dualtl_lib.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = dualtl_lib.nonsense


def test_the_version_is_that_of_the_package_and_types_are_marked():
    project = tomllib.loads((files.PROJECT / "pyproject.toml").read_text())
    assert dualtl_lib.__version__ == project["project"]["version"]
    assert (files.PROJECT / "dualtl_lib" / "py.typed").exists()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["dualtl_lib"]
