"""The pins are written down once for pip and once for conda; the paper is cited once for machines."""

import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dualtl_lib import files, paper

PROJECT = tomllib.loads((files.PROJECT / "pyproject.toml").read_text())["project"]
PINS = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]


@pytest.fixture
def environment() -> list:
    return yaml.safe_load((files.PROJECT / "environment.yml").read_text())["dependencies"]


def test_conda_users_get_the_same_pins(environment):
    (pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    assert pip == [*PINS, "--editable ."]


def test_conda_users_get_a_python_that_the_project_allows(environment):
    (python,) = [entry.partition("=")[2] for entry in environment if str(entry).startswith("python=")]
    assert f"{python}.0" in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("pin", PINS)
def test_every_dependency_is_pinned_and_installed_so(pin):
    requirement = Requirement(pin)
    assert [s.operator for s in requirement.specifier] == ["=="]
    assert metadata.version(requirement.name) in requirement.specifier


def test_citation_agrees_with_the_package_and_the_paper():
    citation = yaml.safe_load((files.PROJECT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    cited = citation["preferred-citation"]
    assert (cited["type"], cited["year"]) == ("article", 2019)
    for author in cited["authors"]:
        initials = ["-".join(f"{part[0]}." for part in name.split("-")) for name in author["given-names"].split()]
        assert f"{' '.join(initials)} {author['family-names']}" in paper.__doc__
    assert len(cited["authors"]) == 5 and "accepted 21 November 2019" in cited["notes"]
