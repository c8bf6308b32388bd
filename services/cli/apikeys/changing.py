"""`weaver apikeys update`, `disable` and `enable`."""

import json
import sys
from typing import Annotated

import typer

from services.cli.apikeys import doors, tables
from services.cli.apikeys.options import (
    URL,
    AsJSON,
    Burst,
    Concurrency,
    CostPerDay,
    CostPerMonth,
    Document,
    Id,
    Models,
    PastGateway,
    PerDay,
    PerMinute,
    Rate,
    Roles,
    checked_id,
    limits_of,
    misused,
    seconds,
    warn_unconfirmed,
    working,
)

app = typer.Typer()


@app.command("update")
def update(  # noqa: PLR0913 - each is an option
    id_: Id,
    *,
    owner: Annotated[str | None, typer.Option("--owner", help="Who answers for it.")] = None,
    role: Roles = None,
    model: Models = None,
    all_models: Annotated[
        bool, typer.Option("--all-models", help="Every model that its roles may use.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option("--expires", help="When it ends from now on: 90d, or `never`.")
    ] = None,
    rps: Rate = None,
    burst: Burst = None,
    tokens_per_minute: PerMinute = None,
    tokens_per_day: PerDay = None,
    cost_micros_per_day: CostPerDay = None,
    cost_micros_per_month: CostPerMonth = None,
    concurrency: Concurrency = None,
    no_limits: Annotated[
        bool, typer.Option("--no-limits", help="No limits of its own any more.")
    ] = False,
    as_json: AsJSON = False,
    url: URL = "",
    store: PastGateway = False,
) -> None:
    """Change what a key may do, or who answers for it; its secrets stay as they are.

    Limits that are given take the place of all limits of its own.
    """
    checked_id(id_)
    limits = limits_of(
        requests_per_second=rps,
        burst=burst,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        cost_micros_per_day=cost_micros_per_day,
        cost_micros_per_month=cost_micros_per_month,
        concurrency=concurrency,
    )
    if (limits and no_limits) or (model and all_models):
        misused(
            "one says what the other takes away: limits and --no-limits, models and --all-models."
        )
    order: Document = {}
    if owner is not None:
        order["owner"] = owner
    if role:
        order["roles"] = role
    if model or all_models:
        order["models"] = model or []
    if expires is not None:
        order["time_to_live_seconds"] = seconds(expires)
    if limits or no_limits:
        order["limits"] = limits
    if not order:
        misused("say what is to change; `weaver apikeys update --help` lists it.")
    order["update_mask"] = ",".join(order)
    with working("updating a key"), doors.opened(url, past_gateway=store) as door:
        changed = door.change(id_, "update", order)
    _show(changed, as_json=as_json)


@app.command("disable")
def disable(id_: Id, *, as_json: AsJSON = False, url: URL = "", store: PastGateway = False) -> None:
    """Refuse a key, on every gateway within a second, until it is enabled again."""
    checked_id(id_)
    with working("disabling a key"), doors.opened(url, past_gateway=store) as door:
        changed = door.change(id_, "disable", {})
    _show(changed, as_json=as_json)


@app.command("enable")
def enable(id_: Id, *, as_json: AsJSON = False, url: URL = "", store: PastGateway = False) -> None:
    """Accept a key again that was disabled."""
    checked_id(id_)
    with working("enabling a key"), doors.opened(url, past_gateway=store) as door:
        changed = door.change(id_, "enable", {})
    _show(changed, as_json=as_json)


def _show(changed: Document, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(changed) + "\n")
    else:
        tables.show_one(changed)
    warn_unconfirmed(changed)
