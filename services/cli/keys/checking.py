"""`weaver keys check`: whether the keys can be used, here and now."""

import json
import stat
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import typer
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.audit.keys.archive import DAY_S, ROTATE_DAYS, WARN_DAYS, KeyArchive
from services.audit.keys.files import previous_file
from services.audit.keys.first_use import FILE, FirstUses, check_environment
from services.audit.keys.signers import RECOMMENDED_BITS, KeyProblem
from services.audit.keys.source import KeySource, LoadedKey
from services.audit.settings import AuditSettings
from services.cli.keys.options import (
    AsJSON,
    Directory,
    LogOption,
    archive_of,
    key_sources,
    settings_of,
)

app = typer.Typer()


@dataclass
class CheckedKey:
    """What is found of one key."""

    algorithm: str
    source: str
    fingerprint: str = ""
    bits: int | None = None
    age_days: float | None = None
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@app.command("check")
def check_command(
    directory: Directory = None,
    log: LogOption = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Check the private keys: readable, strong, paired, for their owner alone, not expired.

    Exits with 1 when a key cannot be used or is over 90 days old.
    """
    settings = settings_of(directory)
    archive = archive_of(log)
    found = [check_key(source, settings, archive) for source in key_sources(settings)]
    good = not any(checked.problems for checked in found)
    if as_json:
        document = {"good": good, "keys": [asdict(checked) for checked in found]}
        sys.stdout.write(json.dumps(document) + "\n")
        raise typer.Exit(0 if good else 1)
    for checked in found:
        for warning in checked.warnings:
            sys.stdout.write(f"warning: {warning}\n")
        for problem in checked.problems:
            sys.stdout.write(f"bad: {problem}\n")
        if checked.fingerprint and not checked.problems:
            bits = "" if checked.bits is None else f", {checked.bits} bits"
            age = "" if checked.age_days is None else f", {int(checked.age_days)} days old"
            sys.stdout.write(f"good: {checked.source}: {checked.algorithm}{bits}{age}, ")
            sys.stdout.write(f"{checked.fingerprint}\n")
    sys.stdout.write("the keys are good\n" if good else "the keys are NOT good\n")
    raise typer.Exit(0 if good else 1)


def check_key(source: KeySource, settings: AuditSettings, archive: KeyArchive | None) -> CheckedKey:
    """Return what is found of a key: whether it can be used, here and now."""
    checked = CheckedKey(source.algorithm, source.private.source)
    try:
        key = source.load()
    except KeyProblem as problem:
        checked.problems.append(str(problem))
        return checked
    verifier = key.signer.verifier
    checked.fingerprint = verifier.fingerprint
    if isinstance(verifier.public_key, RSAPublicKey):
        checked.bits = verifier.public_key.key_size
    if key.weak:
        checked.warnings.append(f"{key.source}: {checked.bits} bits; {RECOMMENDED_BITS} are better")
    _check_environment(checked, key, settings, archive)
    _check_age(checked, key, source.private.path, archive)
    _check_places(checked, source.private.path, archive)
    return checked


def _check_environment(
    checked: CheckedKey, key: LoadedKey, settings: AuditSettings, archive: KeyArchive | None
) -> None:
    uses = FirstUses(settings.keys_path / FILE).find(
        checked.fingerprint, archive or KeyArchive(settings.log_origin)
    )
    try:
        check_environment(
            key.source, checked.fingerprint, key.provenance.environment, settings.environment, uses
        )
    except KeyProblem as problem:
        (checked.problems if settings.production else checked.warnings).append(str(problem))


def _check_age(
    checked: CheckedKey, key: LoadedKey, path: Path | None, archive: KeyArchive | None
) -> None:
    """Count from the first use, else from when it was made, else from the file's time."""
    terms = [] if archive is None else archive.terms(checked.fingerprint)
    start: float | None = None
    if terms:
        start = datetime.fromisoformat(terms[0].start_time).timestamp()
        if terms[-1].state(time.time()) == "retired":
            problem = f"{key.source}: the key was retired: {terms[-1].validity}"
            checked.problems.append(problem)
    elif archive is not None and archive.active:
        checked.warnings.append(f"{key.source}: the log does not sign with it yet")
    if not terms and key.provenance.made_time:
        try:
            start = datetime.fromisoformat(key.provenance.made_time).timestamp()
        except ValueError:
            checked.warnings.append(f"{key.source}: it does not say when it was made")
    elif not terms and path is not None:
        start = path.stat().st_mtime
    if start is None:
        return
    age = checked.age_days = max(0.0, time.time() - start) / DAY_S
    if age > ROTATE_DAYS:
        checked.problems.append(f"{key.source}: expired: {_overdue(age)}")
    elif age > WARN_DAYS:
        checked.warnings.append(f"{key.source}: {_overdue(age)}")


def _overdue(age: float) -> str:
    return f"{int(age)} days old; keys are replaced at {ROTATE_DAYS}: `weaver keys rotate`"


def _check_places(checked: CheckedKey, path: Path | None, archive: KeyArchive | None) -> None:
    if path is None:
        return
    mode = path.parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        checked.problems.append(f"{path.parent}: everybody can replace the key; `chmod 700` it")
    previous = previous_file(path)
    terms = [] if archive is None else archive.terms(checked.fingerprint)
    if previous.exists() and terms and terms[-1].endorsement:
        checked.warnings.append(f"{previous}: nothing needs the key before this one; delete it")
