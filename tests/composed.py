"""docker-compose.yml as Docker reads it, for the tests that look at it and the one that runs it."""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from shared.settings import PREFIX
from tests.servers import ROOT

COMPOSE: Final = ROOT / "docker-compose.yml"

VARIABLE: Final = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<other>[^}]*))?\})")


def composed(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's content with these values for its variables.

    Raises:
        KeyError: If a variable has no value and needs one.
    """

    def value(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        name, how = found["name"], found["how"] or ""
        given = environment.get(name)
        if given or (given is not None and not how.startswith(":")):
            return given
        if "-" not in how:
            raise KeyError(name)
        return str(found["other"])

    content: dict[str, Any] = _walk(yaml.safe_load(COMPOSE.read_text()), value)
    return content


def _walk(node: Any, value: Any) -> Any:
    if isinstance(node, dict):
        return {key: _walk(inner, value) for key, inner in node.items()}
    if isinstance(node, list):
        return [_walk(inner, value) for inner in node]
    return VARIABLE.sub(value, node) if isinstance(node, str) else node


def settings_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Return a service's settings."""
    environment = service.get("environment", {})
    return {name: text for name, text in environment.items() if name.startswith(PREFIX)}
