"""`weaver backup redis`, `keys` and `side-store`: take one backup, sealed and read back."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer

from services.audit.layout import Layout
from services.cli.audit.options import default_log
from services.cli.backup import age_keys, bundle, standing
from services.cli.backup.options import (
    AsJSON,
    LogOption,
    PassphraseFile,
    Recipients,
    To,
    recipients,
    shelf,
    size_text,
    spoken,
    tell,
    utc_now,
    watched,
)
from services.cli.backup.retention import Retention
from services.cli.backup.settings import BackupSettings
from services.cli.backup.shelf import Backup, Kind, Shelf
from services.cli.backup.snapshot import Session, SnapshotError, session
from services.cli.keys.options import settings_of
from services.cli.rundir import RunDirectory
from services.common.settings import load
from services.common.valkey import Address, StoreUnavailable
from services.common.valkey_settings import location

app = typer.Typer()

_FIND_S = 2.0

Prune = Annotated[
    bool,
    typer.Option("--prune", help="Then remove what 7 daily, 4 weekly and 12 monthly do not keep."),
]


@app.command("redis")
def redis_command(
    to: To,
    recipient: Recipients = None,
    passphrase_file: PassphraseFile = None,
    prune: Prune = False,  # noqa: FBT002 - a flag
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Take a snapshot of Valkey or Redis: limits, managed API keys, caches.

    It is reached as the services reach it, by the REDIS_* variables; sentinels say which is the
    master. Nothing is read from its disk.
    """
    ways = recipients(recipient, passphrase_file)
    backups = shelf("--to", to)
    with spoken(as_json=as_json):
        place = store_address()
        with session(place) as asking:
            facts = _facts(asking)
            with session(place) as sending:
                data = watched(sending.snapshot(), "reading the store", quiet=as_json)
                backup = backups.put(
                    "redis", data, now=utc_now(), source=str(place), recipients=ways, facts=facts
                )
            noted = standing.remember_in_store(asking, "redis", backup.when, backup.stored)
        _finish(backups, backup, noted=noted, prune=prune, as_json=as_json)


@app.command("keys")
def keys_command(  # noqa: PLR0913, PLR0917 - each is an option
    to: To,
    recipient: Recipients = None,
    passphrase_file: PassphraseFile = None,
    log: LogOption = None,
    prune: Prune = False,  # noqa: FBT002 - a flag
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Back up the signing keys, the side store's key and the archive of public keys.

    They are read where the audit service's settings say. Keys under a passphrase stay under it:
    keep that apart.
    """
    ways = recipients(recipient, passphrase_file)
    backups = shelf("--to", to)
    layout = Layout(log or default_log())
    with spoken(as_json=as_json):
        files = bundle.key_files(settings_of(None), layout)
        facts: dict[str, int | str] = {"files": ", ".join(sorted(files))}
        _take(
            backups, "keys", bundle.pack(files), layout, ways, facts, prune=prune, as_json=as_json
        )


@app.command("side-store")
def side_store_command(  # noqa: PLR0913, PLR0917 - each is an option
    to: To,
    recipient: Recipients = None,
    passphrase_file: PassphraseFile = None,
    log: LogOption = None,
    prune: Prune = False,  # noqa: FBT002 - a flag
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Back up the side store: commitment keys, pseudonyms, captured texts. Its service may run.

    Keep these backups apart from the log and from the key of the side store, and for no longer than
    what they hold may be kept: whoever was forgotten since is in them, sealed.
    """
    ways = recipients(recipient, passphrase_file)
    backups = shelf("--to", to)
    layout = Layout(log or default_log())
    with spoken(as_json=as_json):
        data = watched(bundle.side_store(layout.side_store), "reading", quiet=as_json)
        _take(backups, "side-store", data, layout, ways, {}, prune=prune, as_json=as_json)


def store_address() -> Address:
    """Return where the store is now: as REDIS_* say, or the one that `weaver up` runs here.

    Raises:
        SettingsError: a variable is bad.
        SnapshotError: no sentinel knows it.
    """
    settings = load(BackupSettings)
    if not settings.store_is_named:
        own = RunDirectory(settings.state_dir).sockets / "valkey.sock"
        if own.is_socket():
            settings = load(BackupSettings, redis_unix_socket=own)

    async def find() -> Address:
        place = location(settings, client="weaver-backup", timeout_s=_FIND_S)
        try:
            return await place.find()
        finally:
            place.close()

    try:
        return asyncio.run(find())
    except StoreUnavailable as error:
        raise SnapshotError(str(error)) from None


def _facts(asking: Session) -> dict[str, int | str]:
    """Return what is known of the store: how many keys, and of which version it is."""
    text = str(asking.ask("INFO", "server"))
    fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    keys = 0
    for line in str(asking.ask("INFO", "keyspace")).split("\r\n"):
        if line.startswith("db"):
            keys += int(line.partition("keys=")[2].partition(",")[0])
    version = fields.get("valkey_version") or fields.get("redis_version", "")
    return {"keys": keys, "version": version}


def _take(  # noqa: PLR0913, PLR0917 - it is what the commands share
    backups: Shelf,
    kind: Kind,
    data: Iterable[bytes],
    layout: Layout,
    ways: Sequence[age_keys.Recipient],
    facts: dict[str, int | str],
    *,
    prune: bool,
    as_json: bool,
) -> None:
    backup = backups.put(
        kind, data, now=utc_now(), source=str(layout.log), recipients=ways, facts=facts
    )
    noted = standing.remember_beside(layout.log, kind, backup.when, backup.stored)
    _finish(backups, backup, noted=noted, prune=prune, as_json=as_json)


def _finish(backups: Shelf, backup: Backup, *, noted: bool, prune: bool, as_json: bool) -> None:
    going: list[str] = []
    if prune:
        _, going = backups.prune(backup.kind, Retention(), backup.when, dry_run=False)
    document = {
        "good": True,
        "target": backups.target.name,
        **msgspec.to_builtins(backup),
        "noted": noted,
        "pruned": going,
    }
    lines = [
        f"backed up    {backup.kind} of {backup.source}, {size_text(backup.size)}",
        f"to           {backups.target.name}/{backup.kind}/{backup.time}, sealed and read back",
        *[f"{name:<13}{value}" for name, value in backup.facts.items()],
        *([f"pruned       {', '.join(going)}"] if going else []),
    ]
    if not noted:
        lines.append("note         its time could not be written down, so no metric shows it")
    tell(document, lines, as_json=as_json)
