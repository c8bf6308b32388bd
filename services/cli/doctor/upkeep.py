"""What operators owe: settings that production takes, archives, backups, drills."""

import importlib
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from services.audit.archives.archived import read_archived
from services.cli import development
from services.cli.backup.snapshot import SnapshotError, session
from services.cli.backup.taking import store_address
from services.cli.doctor.finding import Finding, duration
from services.cli.doctor.surroundings import SERVICES, TIMEOUT_S, Surroundings
from services.cli.rundir import RunDirectory
from services.common.backups import BESIDE_THE_LOG, DRILL, IN_THE_STORE, Standing, read, read_fields
from services.common.settings import CommonSettings, SettingsError, load

_HOUR_S, _DAY_S = 3_600.0, 86_400.0
BACKUP_S, ARCHIVE_S, DRILL_S = 26 * _HOUR_S, 8 * _DAY_S, 92 * _DAY_S
"""As the alerts BackupStale, ArchiveStale and RecoveryDrillOverdue have them."""


def settings(*, production: bool) -> Iterator[Finding]:
    """Say which variables a start would refuse: as they are, or as production would."""
    kind = "production" if production else os.environ.get("ENVIRONMENT", "development")
    if kind == "development":
        # What `weaver up` adds to the environment.
        state = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver"))
        added = development.defaults(os.environ, state, RunDirectory(state).sockets)
        os.environ.update(added)
    refused = dict.fromkeys(
        line for service in SERVICES for line in _refused(service, production=production)
    )
    for line in refused:
        act = f"{kind} refuses to start with it"
        yield Finding("settings", "bad", line, act, "configuration.md")
    if not refused:
        yield Finding("settings", "good", f"every service would start with them in {kind}")


def _refused(service: str, *, production: bool) -> list[str]:
    module = importlib.import_module(f"services.{service}.settings")
    kind: type[CommonSettings] = getattr(module, f"{service.capitalize()}Settings")
    try:
        if production:
            load(kind, environment="production")
        else:
            load(kind)
    except SettingsError as error:
        return [line for line in str(error).split("\n") if line]
    return []


def copies(around: Surroundings, *, production: bool) -> Iterator[Finding]:
    """Say how old archive, backups and the last drill are; in development nobody owes them."""
    owed = production or os.environ.get("ENVIRONMENT", "development") != "development"
    for finding in _copies(around):
        if owed or finding.state == "good":
            yield finding
        else:
            what = f"{finding.what}; development needs none"
            yield Finding(finding.check, "note", what, finding.act, finding.page)


def _copies(around: Surroundings) -> Iterator[Finding]:
    yield archive(around)
    known = standings(around)
    for kind in ("redis", "keys", "side-store"):
        page = "alerts/BackupStale.md"
        act = f"weaver backup {kind} --to … --recipient …"
        yield _aged("backups", f"backup of {kind}", known.get(kind), BACKUP_S, act, page)
    yield drill(around)


def drill(around: Surroundings) -> Finding:
    """Say how old the last recovery drill is."""
    act = "weaver backup drill --from … --archive … --identity …"
    page = "alerts/RecoveryDrillOverdue.md"
    known = standings(around).get(DRILL)
    return _aged("backups", "recovery drill", known, DRILL_S, act, page)


def archive(around: Surroundings) -> Finding:
    """Say how old the last good archive is."""
    scrape = around.scrape("audit")
    found = read_archived(around.layout)
    when: float | None = None
    if found is not None:
        when = datetime.fromisoformat(found.time).timestamp()
    elif scrape is not None:
        when = scrape.first("audit_archive_last_success_time_seconds")
    known = None if when is None else Standing(when)
    act, page = "weaver audit archive --to …", "alerts/ArchiveStale.md"
    return _aged("backups", "archive of the log", known, ARCHIVE_S, act, page)


def standings(around: Surroundings) -> dict[str, Standing]:
    """Return when what was last backed up, as services tell it, or as it stands beside the log."""
    found: dict[str, Standing] = {}
    for service in ("audit", "ratelimit"):
        scrape = around.scrape(service)
        if scrape is None:
            continue
        for sample in scrape.samples.get("backup_last_success_time_seconds", []):
            found[sample.labels["kind"]] = Standing(sample.value)
        when = scrape.first("recovery_drill_last_success_time_seconds") or 0.0
        found[DRILL] = max(found.get(DRILL, Standing(0.0)), Standing(when), key=lambda s: s.time)
    try:
        beside = read((around.layout.private / BESIDE_THE_LOG).read_bytes())
    except OSError:
        beside = {}
    for name, standing in (*beside.items(), *_in_the_store().items()):
        if standing.time > found.get(name, Standing(0.0)).time:
            found[name] = standing
    return found


def _in_the_store() -> dict[str, Standing]:
    """Return what stands in the store, which the limiter reads once a minute."""
    try:
        with session(store_address(), timeout_s=TIMEOUT_S) as asking:
            reply = asking.ask_raw("HGETALL", IN_THE_STORE)
    except (SnapshotError, SettingsError):
        return {}
    fields = reply if isinstance(reply, list) else []
    return read_fields(dict(zip(fields[::2], fields[1::2], strict=False)))


def _aged(  # noqa: PLR0913, PLR0917 - what there is to say of an age
    check: str, name: str, known: Standing | None, most_s: float, act: str, page: str
) -> Finding:
    if known is None:
        return Finding(check, "unknown", f"nobody here knows of a {name}", act, page)
    if not known.time:
        return Finding(check, "bad", f"there never was a {name}", act, page)
    age = time.time() - known.time
    what = f"the last {name} is {duration(age)} old"
    if age > most_s:
        return Finding(check, "bad", what, act, page)
    return Finding(check, "good", what)
