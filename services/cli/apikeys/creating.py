"""`weaver apikeys create` and `rotate`: what shows a key, once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    Expires,
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

To = Annotated[
    Path | None,
    typer.Option("--to", help="Write the key to a new file that only you can read, and not here."),
]

app = typer.Typer()


@app.command("create")
def create(  # noqa: PLR0913 - each is an option
    owner: Annotated[str, typer.Option("--owner", help="Who answers for it: a person, a team.")],
    *,
    tenant: Annotated[
        str, typer.Option(help="Whose account; default: WEAVER_DEFAULT_TENANT.")
    ] = "",
    role: Roles = None,
    model: Models = None,
    expires: Expires = "never",
    rps: Rate = None,
    burst: Burst = None,
    tokens_per_minute: PerMinute = None,
    tokens_per_day: PerDay = None,
    cost_micros_per_day: CostPerDay = None,
    cost_micros_per_month: CostPerMonth = None,
    concurrency: Concurrency = None,
    to: To = None,
    as_json: AsJSON = False,
    url: URL = "",
    store: PastGateway = False,
) -> None:
    """Make an API key and show it, this once.

    Without --role it has the role `user`; without limits of its own those of everybody apply.
    """
    order: Document = {
        "tenant": tenant,
        "owner": owner,
        "roles": role or [],
        "models": model or [],
        "time_to_live_seconds": seconds(expires),
        "limits": limits_of(
            requests_per_second=rps,
            burst=burst,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
            cost_micros_per_day=cost_micros_per_day,
            cost_micros_per_month=cost_micros_per_month,
            concurrency=concurrency,
        ),
    }
    with _target(to) as write:
        with working("making a key"), doors.opened(url, past_gateway=store) as door:
            made = door.create(order)
        write(made["key"])
    tables.show_new(made, to, as_json=as_json)
    warn_unconfirmed(made)


@app.command("rotate")
def rotate(  # noqa: PLR0913 - each is an option
    id_: Id,
    *,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret still works: 1d, 2h; `none` after a leak.")
    ] = "1d",
    to: To = None,
    as_json: AsJSON = False,
    url: URL = "",
    store: PastGateway = False,
) -> None:
    """Give a key a new secret and show it, this once; its id, limits and records stay its own."""
    checked_id(id_)
    order: Document = {"without_overlap": True}
    if overlap not in {"none", "0"}:
        if overlap == "never":
            misused("--overlap: how long, such as 1d; or `none`.")
        order = {"overlap_seconds": seconds(overlap)}
    with _target(to) as write:
        with working("rotating"), doors.opened(url, past_gateway=store) as door:
            made = door.change(id_, "rotate", order)
        write(made["key"])
    tables.show_new(made, to, as_json=as_json)
    warn_unconfirmed(made)


class _Target:
    """Takes the key where it is to go to a file; the file is there before anything is done."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def __call__(self, key: str) -> None:
        if self._file is not None:
            os.write(self._file, f"{key}\n".encode())
            os.fsync(self._file)


@contextmanager
def _target(path: Path | None) -> Iterator[_Target]:
    if path is None:
        yield _Target(None)
        return
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        misused(f"--to: cannot make {path}: {error.strerror}.")
    try:
        yield _Target(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
