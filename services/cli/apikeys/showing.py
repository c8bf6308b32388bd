"""`weaver apikeys list` and `show`."""

import json
import sys
from typing import Annotated

import typer

from services.cli.apikeys import doors, tables
from services.cli.apikeys.options import (
    URL,
    AsJSON,
    Document,
    Id,
    PastGateway,
    checked_id,
    misused,
    working,
)

STATES = ("active", "disabled", "expired")

app = typer.Typer()


@app.command("list")
def list_(  # noqa: PLR0913 - each is an option
    *,
    tenant: Annotated[str, typer.Option(help="Keys of this tenant.")] = "",
    owner: Annotated[str, typer.Option(help="Keys that this owner answers for.")] = "",
    state: Annotated[str, typer.Option(help="active, disabled or expired.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 1_000,
    as_json: AsJSON = False,
    url: URL = "",
    store: PastGateway = False,
) -> None:
    """List API keys, the oldest first, without the keys themselves."""
    if state not in {"", *STATES}:
        misused(f"--state: one of {', '.join(STATES)}.")
    wanted = {name: value for name, value in _wanted(tenant, owner, state) if value}
    keys: list[Document] = []
    token = ""
    with working("reading keys") as tell, doors.opened(url, past_gateway=store) as door:
        while True:
            page = door.page(wanted, token)
            keys += page["api_keys"]
            token = page["next_page_token"]
            tell(f"reading keys: {len(keys)}")
            if not token or (limit and len(keys) >= limit):
                break
    more = bool(token) or (limit and len(keys) > limit)
    keys = keys[:limit] if limit else keys
    if as_json:
        sys.stdout.write(json.dumps({"api_keys": keys, "more": bool(more)}) + "\n")
        return
    tables.show_many(keys)
    if more:
        sys.stderr.write(f"weaver: these are the first {len(keys)}; --limit 0 lists all.\n")


@app.command("show")
def show(id_: Id, *, as_json: AsJSON = False, url: URL = "", store: PastGateway = False) -> None:
    """Show what there is to know of one key."""
    checked_id(id_)
    with working("reading a key"), doors.opened(url, past_gateway=store) as door:
        key = door.get(id_)
    if as_json:
        sys.stdout.write(json.dumps(key) + "\n")
    else:
        tables.show_one(key)


def _wanted(tenant: str, owner: str, state: str) -> tuple[tuple[str, str], ...]:
    return (("tenant", tenant), ("owner", owner), ("state", state))
