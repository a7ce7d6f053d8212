"""What stands in ops/."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from tests.servers import ROOT

OPS: Final = ROOT / "ops"
NAME: Final = re.compile(r"\breduxq_\w+")


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OPS / "grafana" / "dashboards" / "reduxq.json").read_text())
    return content


def queries() -> Iterator[tuple[str, str]]:
    """Give each panel's title with each of its queries."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
