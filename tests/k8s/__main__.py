"""Writes the PrometheusRule that holds the rules of ops/alerts.yml."""

from pathlib import Path
from typing import Final

import yaml

from tests.servers import ROOT

ALERTS: Final = ROOT / "ops" / "alerts.yml"
RULES: Final = ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"


def prometheus_rule(alerts: Path) -> str:
    """Return the rules file as Prometheus Operator takes it; kustomize reads no file outside its folder."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "reduxq"},
        "spec": yaml.safe_load(alerts.read_text()),
    }
    return yaml.safe_dump(rule, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    RULES.write_text(prometheus_rule(ALERTS))
