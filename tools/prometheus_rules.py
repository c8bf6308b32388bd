"""Writes the rules for Prometheus as one manifest of its operator to standard output."""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "prometheus"


def manifest() -> dict[str, Any]:
    """Return a PrometheusRule with every group of every file."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "weaver", "labels": {"app.kubernetes.io/part-of": "weaver-ai"}},
        "spec": {
            "groups": [
                group
                for path in sorted(RULES.glob("*.rules.yaml"))
                for group in yaml.safe_load(path.read_text())["groups"]
            ]
        },
    }


if __name__ == "__main__":
    yaml.safe_dump(manifest(), sys.stdout, sort_keys=False, width=200)
