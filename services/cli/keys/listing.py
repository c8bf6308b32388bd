"""`weaver keys list`: every key that ever signed, and those that wait to be used."""

import json
import sys
import time
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from services.audit.keys.archive import ArchivedKey
from services.audit.keys.signers import KeyProblem
from services.cli.keys.options import (
    AsJSON,
    Directory,
    LogOption,
    archive_of,
    key_sources,
    layout_of,
    settings_of,
    usage,
)

app = typer.Typer()

_STATES = {"active": "signs", "grace": "accepted", "retired": "retired"}


@app.command("list")
def list_command(
    log: LogOption = None,
    directory: Directory = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
    *,
    public: Annotated[
        bool, typer.Option("--public", help="Write the public keys in PEM, newest last.")
    ] = False,
) -> None:
    """List every key that ever signed the log: age, validity, fingerprint."""
    archive = archive_of(log)
    terms = [] if archive is None else archive.keys
    waiting = _waiting(directory, {term.fingerprint for term in terms})
    if archive is None and not waiting:
        usage(f"{layout_of(log).keys}: there is no key archive, and no key is made")
    now = time.time()
    if public:
        sys.stdout.write("".join(term.public_key_pem for term in terms))
    elif as_json:
        document = {
            "origin": "" if archive is None else archive.origin,
            "keys": [_document(term, now) for term in terms],
            "waiting": waiting,
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        columns = ("algorithm", "fingerprint", "state", "from", "until", "age", "made by")
        table = Table(*columns, box=None)
        for term in terms:
            table.add_row(*_row(term, now))
        for key in waiting:
            table.add_row(key["algorithm"], key["fingerprint"], "made, never used")
        Console(width=None if sys.stdout.isatty() else 1_000, highlight=False).print(table)


def _row(term: ArchivedKey, now: float) -> tuple[str, ...]:
    state = _STATES[term.state(now)]
    if term.state(now) == "grace":
        state += f" until {(term.accepted_until or '')[:10]}"
    by = "" if term.provenance is None else term.provenance.made_by
    return (
        term.algorithm,
        term.fingerprint,
        state,
        term.start_time,
        term.end_time or "now",
        f"{int(term.age_days(now))} days",
        by,
    )


def _document(term: ArchivedKey, now: float) -> dict[str, Any]:
    fields = msgspec.to_builtins(term)
    every = {name: fields.get(name, getattr(term, name)) for name in term.__struct_fields__}
    return every | {"state": term.state(now), "age_days": round(term.age_days(now), 3)}


def _waiting(directory: Any, known: set[str]) -> list[dict[str, str]]:  # noqa: ANN401 - an option
    """Return the keys that lie where the settings say and have not signed yet."""
    found = []
    for source in key_sources(settings_of(directory)):
        try:
            verifier = source.load().signer.verifier
        except KeyProblem:
            continue  # `weaver keys check` says what is wrong with it.
        if verifier.fingerprint not in known:
            found.append({"algorithm": verifier.algorithm, "fingerprint": verifier.fingerprint})
    return found
