"""Which way a command takes to the keys; each loads what it needs and no more."""

import importlib
from contextlib import AbstractContextManager

from services.cli.apikeys.options import Door, misused


def opened(url: str, *, past_gateway: bool) -> AbstractContextManager[Door]:
    """Return the front door, or the store past it."""
    if past_gateway:
        if url:
            misused("--url and --store do not go together.")
        door: AbstractContextManager[Door] = importlib.import_module(
            "services.cli.apikeys.store_door"
        ).open_store_door()
    else:
        door = importlib.import_module("services.cli.apikeys.front_door").open_front_door(url)
    return door
