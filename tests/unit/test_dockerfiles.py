import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.servers import ROOT

PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: Final = {"api": ("api", "monitor"), "worker": ("worker",)}  #: of each image
DOCKERFILES: Final = {image: (ROOT / image / "Dockerfile").read_text() for image in EXTRAS}


def pinned(lines: Iterable[str]) -> dict[str, str]:
    """Return the versions in requirements that apply here, by name."""
    found = [Requirement(line.rstrip("\\ ")) for line in lines if re.match(r"\w", line)]
    applying = [item for item in found if not item.marker or item.marker.evaluate()]
    return {canonicalize_name(item.name): str(item.specifier) for item in applying}


def lock(name: str) -> dict[str, str]:
    return pinned((ROOT / "locks" / f"{name}.txt").read_text().splitlines())


def needed(requirements: Iterable[str], extras: Iterable[str] = ()) -> set[str]:
    """Return the names of all that these requirements draw in, as installed here; torch and what it needs apart."""
    names: set[str] = set()
    todo = [(Requirement(text), {"", *extras}) for text in requirements]
    seen: set[str] = set()
    while todo:
        item, chosen = todo.pop()
        if str(item) in seen or item.name == "torch":
            continue
        if item.marker and not any(item.marker.evaluate({"extra": extra}) for extra in chosen):
            continue
        seen.add(str(item))
        names.add(canonicalize_name(item.name))
        todo += [(Requirement(text), {"", *item.extras}) for text in requires(item.name) or ()]
    return names


CONSTRAINTS: Final = pinned((ROOT / "constraints.txt").read_text().splitlines())


@pytest.mark.parametrize("name", ["api", "build", "worker"])
def test_every_locked_package_has_hashes_and_the_version_of_the_constraints(name: str) -> None:
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    for entry in re.split(r"\n(?=\w)", text)[1:]:
        assert "--hash=sha256:" in entry
    only_builds = {"hatchling", "tomlkit", "trove-classifiers"}
    assert {item: version for item, version in lock(name).items() if item not in only_builds}.items() <= (
        CONSTRAINTS.items()
    )


@pytest.mark.parametrize("image", EXTRAS)
def test_a_lock_holds_what_its_image_needs_and_nothing_else(image: str) -> None:
    project = PROJECT["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS[image])]
    assert needed(text for texts in lists for text in texts) == set(lock(image)), (
        "after a change of dependencies: make locks"
    )


def test_the_wheel_is_built_by_what_the_project_names() -> None:
    assert PROJECT["build-system"]["requires"] == [f"hatchling{lock('build')['hatchling']}"]


def test_the_worker_has_the_torch_of_the_constraints_and_the_api_none() -> None:
    assert f"ARG TORCH={CONSTRAINTS['torch'].removeprefix('==')}\n" in DOCKERFILES["worker"]
    assert "torch" not in lock("worker")
    assert not {"torch", "diffusers", "transformers"} & lock("api").keys()


def test_both_images_stand_on_the_same_base_pinned_by_digest() -> None:
    bases = {line for text in DOCKERFILES.values() for line in text.splitlines() if line.startswith("ARG PYTHON=")}
    assert len(bases) == 1
    assert re.fullmatch(r"ARG PYTHON=docker\.io/library/python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", bases.pop())


@pytest.mark.parametrize("image", EXTRAS)
def test_an_image_runs_as_nobody_in_particular_and_gets_its_signals(image: str) -> None:
    text = DOCKERFILES[image]
    final = text.rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in final
    assert re.search(rf'^CMD \["python", "-m", "{image}"\]$', final, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*\n    CMD \["', final, re.MULTILINE)
    assert f'org.opencontainers.image.version="{PROJECT["project"]["version"]}"' in final
    assert "latest" not in text


def test_the_worker_asks_no_hub() -> None:
    assert "HF_HUB_OFFLINE=1" in DOCKERFILES["worker"]


def test_what_is_not_named_does_not_reach_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sent == {*packages, "LICENSE", "README.md", "pyproject.toml", "locks"}
