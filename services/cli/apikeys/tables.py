"""Keys on a terminal or in a pipe, in columns."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from services.cli.apikeys.options import Document

WIDE = 1_000


def show_many(keys: Sequence[Document]) -> None:
    """Write a table, a key a line."""
    columns = ("id", "tenant", "owner", "roles", "models", "limits", "state", "expires", "secrets")
    table = Table(*columns, box=None)
    for key in keys:
        active = sum(secret["state"] == "active" for secret in key["secrets"])
        table.add_row(
            key["id"],
            key["tenant"],
            key["owner"],
            " ".join(key["roles"]),
            " ".join(key["models"]) or "*",
            _limits(key["limits"]),
            key["state"],
            key["expire_time"] or "never",
            str(active),
        )
    _print(table)


def show_one(key: Document) -> None:
    """Write what there is to know of a key, a fact a line."""
    table = Table(show_header=False, box=None)
    for name, value in _facts(key):
        table.add_row(name, value)
    for secret in key["secrets"]:
        until = secret["expire_time"] or "with its key"
        table.add_row("secret", f"made {secret['created_time']}, ends {until}, {secret['state']}")
    _print(table)


def show_new(key: Document, target: Path | None, *, as_json: bool) -> None:
    """Write a key that has a new secret, and the secret, this once."""
    secret = key["key"]
    if target is not None:
        key = {name: value for name, value in key.items() if name != "key"}
    if as_json:
        sys.stdout.write(json.dumps(key) + "\n")
        return
    show_one(key)
    if target is None:
        sys.stdout.write(f"\n{secret}\n")
        sys.stdout.flush()
        sys.stderr.write("weaver: keep this key now; nobody can show it again.\n")
    else:
        sys.stderr.write(f"weaver: the key is in {target}, which only you can read.\n")


def _facts(key: Document) -> list[tuple[str, str]]:
    facts: list[tuple[str, Any]] = [
        ("id", key["id"]),
        ("tenant", key["tenant"]),
        ("owner", key["owner"]),
        ("roles", " ".join(key["roles"])),
        ("models", " ".join(key["models"]) or "* (those of its roles)"),
        ("limits", _limits(key["limits"])),
        ("state", key["state"]),
        ("created", key["created_time"]),
        ("expires", key["expire_time"] or "never"),
        ("changed", f"{key['changed_time']} by {key['changed_by']}"),
        ("version", key["version"]),
    ]
    return [(name, str(value)) for name, value in facts]


def _limits(limits: Document) -> str:
    return " ".join(f"{name}={value:g}" for name, value in limits.items()) or "-"


def _print(table: Table) -> None:
    width = None if sys.stdout.isatty() else WIDE
    Console(width=width, highlight=False, markup=False).print(table)
