"""`weaver backup drill`: prove that what was backed up comes back, without touching anything.

The newest backup of each kind is opened as in an emergency: a store loads the snapshot, each
private key signs and its public half verifies, the side store's key opens it, the log is restored
from its archive and verified. Private keys stay in memory.
"""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from services.audit.archives.restoring import RestoreError, restore
from services.audit.archives.targets import TargetError, TargetURLError, open_target
from services.audit.keys.archive import ArchiveError, KeyArchive, parse_archive
from services.audit.keys.files import ED25519_FILE, RSA_FILE, RSA_PUBLIC_FILE
from services.audit.keys.signers import KeyProblem, PrivateKey, Signer, check_pair, load_private
from services.audit.note import Algorithm
from services.audit.sidestore.vault import Vault, VaultError, parse_key
from services.audit.sidestore.wiring import KEY_FILE
from services.cli.audit.options import default_log
from services.cli.backup import age_keys, bundle, scratch, standing
from services.cli.backup.options import (
    FAILED,
    AsJSON,
    From,
    IdentityFile,
    LogOption,
    PassphraseFile,
    identities,
    shelf,
    tell,
    usage,
    utc_now,
)
from services.cli.backup.shelf import Shelf, ShelfError
from services.cli.backup.snapshot import SnapshotError, session
from services.cli.backup.taking import store_address
from services.cli.keys.options import key_sources, passphrase_of, settings_of
from services.common.backups import DRILL
from services.common.settings import SettingsError

app = typer.Typer()

_CHALLENGE = b"weaver recovery drill"
_ALGORITHMS: dict[str, Algorithm] = {RSA_FILE: "RSA", ED25519_FILE: "Ed25519"}
_FAILURES = (
    age_keys.AgeError,
    ShelfError,
    SnapshotError,
    bundle.BundleError,
    TargetError,
    RestoreError,
    KeyProblem,
    VaultError,
    ArchiveError,
    sqlite3.Error,
    OSError,
)


@dataclass
class Step:
    """One thing that was brought back, or not.

    Attributes:
        what: its name.
        of: the time of the backup.
        good: whether it could be brought back.
        found: what was seen; where it failed, why.
    """

    what: str
    of: str = ""
    good: bool = False
    found: str = ""


@app.command("drill")
def drill_command(  # noqa: PLR0913, PLR0917 - each is an option
    source: From,
    archive: Annotated[
        str,
        typer.Option("--archive", help="The audit log's archive, which is restored as well."),
    ] = "",
    redis_from: Annotated[
        str, typer.Option("--redis-from", help="Where snapshots lie, if not with the others.")
    ] = "",
    identity: IdentityFile = None,
    passphrase_file: PassphraseFile = None,
    log: LogOption = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Prove that redis, keys, side store and archive can be brought back; exits with 1 if not.

    Only a drill of all four counts for the metric of overdue drills.
    """
    ways = identities(identity, passphrase_file)
    backups = shelf("--from", source)
    stores = shelf("--redis-from", redis_from) if redis_from else backups
    steps = [_attempt("redis", lambda step: _redis(step, stores, ways))]
    keys: dict[str, bytes] = {}
    steps.append(_attempt("keys", lambda step: keys.update(_keys(step, backups, ways))))
    steps.append(_attempt("side-store", lambda step: _side_store(step, backups, ways, keys)))
    if archive:
        steps.append(_attempt("archive", lambda step: _archive(step, archive, keys)))
    good = all(step.good for step in steps)
    noted = good and bool(archive) and _remember(backups, log or default_log())
    document = {"good": good, "noted": noted, "steps": [asdict(step) for step in steps]}
    lines = [
        f"{'good' if step.good else 'FAILED':<8}{step.what:<12}{step.of:<18}{step.found}".rstrip()
        for step in steps
    ]
    lines.append("everything can be brought back" if good else "NOT everything can be brought back")
    if good and not noted:
        why = "name --archive too" if not archive else "neither a log nor the store is here"
        lines.append(f"note: this drill is not noted, since {why}")
    tell(document, lines, as_json=as_json)
    raise typer.Exit(0 if good else FAILED)


def _attempt(what: str, doing: Callable[[Step], object]) -> Step:
    step = Step(what)
    with _said(f"drilling {what}"):
        try:
            doing(step)
            step.good = True
        except _FAILURES as error:
            step.found = str(error)
    return step


@contextmanager
def _said(what: str) -> Iterator[None]:
    if sys.stderr.isatty():
        sys.stderr.write(f"{what} ...\n")
    yield


def _redis(step: Step, backups: Shelf, ways: Sequence[age_keys.Identity]) -> None:
    backup = backups.manifest("redis")
    step.of = backup.time
    with scratch.private_directory() as directory:
        scratch.write(backups.open(backup, ways), directory / scratch.SNAPSHOT)
        with scratch.loaded(directory) as held:
            lines = str(held.ask("INFO", "persistence")).split("\r\n")
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    alive = int(fields.get("rdb_last_load_keys_loaded", "0"))
    expired = int(fields.get("rdb_last_load_keys_expired", "0"))
    step.found = f"{alive} keys loaded, {expired} expired since"
    if int(backup.facts.get("keys", 0)) and not alive + expired:
        msg = f"the store had {backup.facts['keys']} keys, and the snapshot has none"
        raise ShelfError(msg)


def _keys(step: Step, backups: Shelf, ways: Sequence[age_keys.Identity]) -> dict[str, bytes]:
    backup = backups.manifest("keys")
    step.of = backup.time
    files = bundle.unpack(backups.open(backup, ways))
    archive = _archive_of(files)
    passphrases = {one.algorithm: passphrase_of(one) for one in key_sources(settings_of(None))}
    found = []
    for name, algorithm in _ALGORITHMS.items():
        if name not in files:
            continue
        key = load_private(files[name], name, passphrases.get(algorithm))
        if not isinstance(key, PrivateKey):
            msg = f"{name} holds no {algorithm} private key"
            raise KeyProblem(msg)
        if name == RSA_FILE and RSA_PUBLIC_FILE in files:
            check_pair(key, files[RSA_PUBLIC_FILE], RSA_PUBLIC_FILE)
        signer = Signer("drill", key)
        if not signer.verifier.verifies(_CHALLENGE, signer.sign(_CHALLENGE)):
            msg = f"{name} signs what its public half does not verify"
            raise KeyProblem(msg)
        known = archive is not None and bool(archive.terms(signer.verifier.fingerprint))
        found.append(f"{algorithm} signs{', known to the log' if known else ''}")
    if not found:
        msg = "the backup holds no signing key"
        raise bundle.BundleError(msg)
    if KEY_FILE in files:
        parse_key(files[KEY_FILE].decode(errors="replace"), KEY_FILE)
    step.found = "; ".join(found)
    return files


def _side_store(
    step: Step, backups: Shelf, ways: Sequence[age_keys.Identity], keys: dict[str, bytes]
) -> None:
    backup = backups.manifest("side-store")
    step.of = backup.time
    archive = _archive_of(keys)
    if KEY_FILE not in keys or archive is None:
        msg = "the backup of the keys, which has what opens it, could not be brought back"
        raise ShelfError(msg)
    key = parse_key(keys[KEY_FILE].decode(errors="replace"), KEY_FILE)
    with scratch.private_directory() as directory:
        names = bundle.put_side_store(backups.open(backup, ways), directory)
        Vault(directory / "keyring", archive.origin, key)
        for name in names:
            if name.endswith(".db"):
                _check_database(directory / name)
        size = (directory / "commitment-keys").stat().st_size
    step.found = f"{', '.join(names)}; its key opens it; {size} bytes of commitment keys"


def _archive(step: Step, url: str, keys: dict[str, bytes]) -> None:
    try:
        target = open_target(url, os.environ)
    except TargetURLError as error:
        usage(f"--archive: {error}")
    with scratch.private_directory() as directory:
        trusted = None
        if bundle.ARCHIVE in keys:
            trusted = directory / bundle.ARCHIVE
            trusted.write_bytes(keys[bundle.ARCHIVE])
        report = restore(
            target, directory / "restored" / "log", trusted, lambda _a, _b: None
        ).report
    if not report.good:
        found = report.findings[0].message if report.findings else "it does not verify"
        msg = f"the archive is damaged: {found}"
        raise RestoreError(msg)
    step.found = f"{report.size} records of {report.origin}, verified"


def _archive_of(files: dict[str, bytes]) -> KeyArchive | None:
    data = files.get(bundle.ARCHIVE)
    return None if data is None else parse_archive(data, bundle.ARCHIVE)


def _check_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        msg = f"{path.name} is damaged: {verdict}"
        raise ShelfError(msg)


def _remember(backups: Shelf, log: Path) -> bool:
    """Write the drill's time down where services read it, and where `schedule` finds it."""
    now = utc_now()
    try:
        backups.note_drill(now)
        noted = True
    except TargetError:
        noted = False
    noted |= standing.remember_beside(log, DRILL, now, 0)
    try:
        with session(store_address(), timeout_s=5.0) as asking:
            return standing.remember_in_store(asking, DRILL, now, 0) or noted
    except (SnapshotError, SettingsError):
        return noted
