"""What the commands of `weaver apikeys` share: options, how they end, and where they work."""

import getpass
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, NoReturn, Protocol

import typer
from rich.console import Console

from services.cli.chat import Refused
from services.common.errors import WeaverError
from services.common.settings import SettingsError

UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}
REFUSED: Final = 1
MISUSED: Final = 2
UNCONFIRMED: Final = 3

AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]
URL = Annotated[
    str, typer.Option("--url", help="The front door; default: the one of `weaver up` here.")
]
PastGateway = Annotated[
    bool,
    typer.Option(
        "--store",
        help="Work in the store itself, as WEAVER_API_KEY_STORE or REDIS_… name it, past every "
        "gateway: for the first key, and when no gateway runs. Gateways record that it was done.",
    ),
]
Id = Annotated[str, typer.Argument(help="The key's id: `key_` and 12 letters or digits.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model or pattern such as `gpt-*`; may be repeated."),
]
Roles = Annotated[list[str] | None, typer.Option("--role", help="A role; may be repeated.")]
Expires = Annotated[
    str, typer.Option("--expires", help="After what time it ends: 12h, 90d, 1y; or `never`.")
]
Rate = Annotated[float | None, typer.Option("--rps", help="Its own requests per second.")]
Burst = Annotated[int | None, typer.Option("--burst", help="Requests at once.")]
PerMinute = Annotated[int | None, typer.Option("--tokens-per-minute")]
PerDay = Annotated[int | None, typer.Option("--tokens-per-day")]
CostPerDay = Annotated[
    int | None, typer.Option("--cost-micros-per-day", help="Money per day, in millionths.")
]
CostPerMonth = Annotated[int | None, typer.Option("--cost-micros-per-month")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", help="Requests in flight.")]

Document = dict[str, Any]


class Door(Protocol):
    """A way to the keys; what is asked and answered is the JSON of `/v1/admin/api_keys`."""

    def create(self, order: Document) -> Document:
        """Make a key."""
        ...

    def page(self, wanted: dict[str, str], token: str) -> Document:
        """Return a page of keys."""
        ...

    def get(self, id_: str) -> Document:
        """Return one."""
        ...

    def change(self, id_: str, action: str, order: Document) -> Document:
        """Update, disable, enable or rotate one."""
        ...


def limits_of(**limits: float | None) -> Document:
    """Return the limits that were given."""
    return {name: value for name, value in limits.items() if value is not None}


def seconds(text: str) -> int:
    """Return a length of time in seconds; `never` is 0."""
    if text == "never":
        return 0
    found = re.fullmatch(r"(\d{1,9})([smhdwy])", text)
    if found is None or int(found[1]) == 0:
        misused(f"{text!r} is no time such as 90s, 30m, 12h, 90d, 8w or 1y, and not `never`.")
    return int(found[1]) * UNITS[found[2]]


def checked_id(id_: str) -> str:
    """Return an id, or end the command if it is a key in the place of its id."""
    if id_.startswith("wv_"):
        misused(
            "that is a key, and not the id of one. It stands in the history of your shell now: "
            f"rotate it, `weaver apikeys rotate key_{id_[3:15]} --overlap none`."
        )
    return id_


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Say on a terminal what takes a while, and turn errors into sentences and exit codes."""
    try:
        if not sys.stderr.isatty():
            yield lambda _: None
            return
        with Console(stderr=True).status(what) as status:
            yield status.update
    except SettingsError as error:
        misused(str(error))
    except (Refused, WeaverError) as error:
        sys.stderr.write(f"weaver: {error}\n")
        raise typer.Exit(REFUSED) from None


def misused(message: str) -> NoReturn:
    """End the command as called in a wrong way."""
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(MISUSED)


def warn_unconfirmed(changed: Document) -> None:
    """End with a code of its own where the loss of one store could undo the change."""
    durability = changed["durability"]
    if durability["safe"]:
        return
    sys.stderr.write(
        f"weaver: done, but not confirmed: {durability['confirmed_by_replicas']} of "
        f"{durability['replicas']} replicas have it, on disk: {durability['on_disk']}. "
        "Repeat it once the store is well again; gateways that have seen it keep to it.\n"
    )
    raise typer.Exit(UNCONFIRMED)


def who() -> str:
    """Return who works here, for those who ask later."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
