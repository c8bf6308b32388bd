"""Write docs/operations/configuration.md from the classes of settings.

`--check` fails when the page in the tree is another one.
"""

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services.common.settings import CommonSettings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operations" / "configuration.md"
HEAD = """\
# Configuration

Weaver is configured by environment variables alone. A bad value, or one that production requires
and that is missing, stops the start with the variable's name. Every variable can also be read from
a file: `NAME_FILE` holds the path of what `NAME` would hold; setting both stops the start. A PEM
value may be written with real line ends or with `\\n`.

This page is generated from the classes of settings (`make generate`); `make check` compares it.
"""
WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number"}
WORDS |= {bool: "`true`, `false`", SecretStr: "secret", Path: "path"}
LISTS = (tuple, frozenset)
TITLES = {"common": "Every service", "cli": "The front door, and `weaver up`"}


def classes() -> list[tuple[str, type[CommonSettings]]]:
    """Return each room with its class of settings, the common one first."""
    found: list[tuple[str, type[CommonSettings]]] = [("common", CommonSettings)]
    for room in sorted(path.parent.name for path in (ROOT / "services").glob("*/settings.py")):
        module = importlib.import_module(f"services.{room}.settings")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, CommonSettings) and kind.__module__ == module.__name__:
                found.append((room, kind))
    return found


def values(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """Say in words what a field takes."""
    if annotation in WORDS:
        return WORDS[annotation]
    if get_origin(annotation) in LISTS:
        return "list with commas"
    options = [option for option in get_args(annotation) if option is not type(None)]
    if all(isinstance(option, str) for option in options):
        return ", ".join(f"`{option}`" for option in options)
    return ", ".join(dict.fromkeys(values(option) for option in options))


def default(field: FieldInfo) -> str:
    """Say what applies when a variable is not set."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, SecretStr):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, LISTS):
        value = ",".join(sorted(value))
    return f"`{value}`" if value != "" else "empty"


def page() -> str:
    """Return the page."""
    lines = [HEAD]
    for room, kind in classes():
        lines += [f"## {TITLES.get(room, f'`{room}`')}\n", (kind.__doc__ or "").split("\n")[0], ""]
        lines += ["| variable | values | default | meaning |", "|---|---|---|---|"]
        for name, field in kind.model_fields.items():
            if kind is CommonSettings or name not in CommonSettings.model_fields:
                what = (field.description or "").replace("|", "\\|")
                cells = (f"`{field.validation_alias}`", values(field.annotation), default(field))
                lines.append(f"| {' | '.join(cells)} | {what} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Write the page, or with `--check` compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE.relative_to(ROOT)} is stale; run `make generate`")


if __name__ == "__main__":
    main()
