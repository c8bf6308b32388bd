"""Write docs/operations/alerts.md: every alert with its severity and its page, from the rules."""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "prometheus"
PAGE = ROOT / "docs" / "operations" / "alerts.md"
HEAD = """# Alerts

Generated from deploy/prometheus by `make generate`. Each page says, in this order, what is wrong,
how to see it, what to do, and how to see that it is over. `critical` wakes somebody.

| alert | severity | fires when |
|---|---|---|
"""


def text() -> str:
    """Return the page."""
    rows: list[str] = []
    for path in sorted(RULES.glob("*.rules.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            rows.extend(_row(rule) for rule in group["rules"] if "alert" in rule)
    return HEAD + "".join(sorted(rows))


def _row(rule: dict[str, object]) -> str:
    name, labels = str(rule["alert"]), rule.get("labels")
    severity = labels.get("severity", "") if isinstance(labels, dict) else ""
    expression = " ".join(str(rule["expr"]).split()).replace("|", "\\|")
    held = f" for {rule['for']}" if "for" in rule else ""
    return f"| [{name}](alerts/{name}.md) | {severity} | `{expression}`{held} |\n"


def main() -> None:
    """Write the page, or with --check say whether it is as it should be."""
    if "--check" in sys.argv:
        if PAGE.read_text() != text():
            sys.exit("docs/operations/alerts.md is not what the rules say: run make generate")
    else:
        PAGE.write_text(text())


if __name__ == "__main__":
    main()
