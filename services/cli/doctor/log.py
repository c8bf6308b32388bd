"""The audit log: verified where it lies here, else as the service verifies itself; its room."""

import shutil
import time

from services.audit.archives.pruning import recorded_pruning
from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.keys.archive import ArchiveError
from services.audit.keys.signatures import load_keys
from services.audit.note import NoteError
from services.audit.verification.inventory import LogDirectory
from services.audit.verification.offline import published_before
from services.audit.verification.verifier import verify
from services.cli.doctor.finding import Finding, State, duration
from services.cli.doctor.surroundings import Surroundings

AT_ONCE = 200_000
"""Records that are verified without being asked for more: about two seconds."""

_STALE_S = 3_600.0
_FILLING, _FULL = 0.15, 0.03
_PAGE = "verify.md"


def verification(around: Surroundings) -> Finding:
    """Return whether the log verifies: by ourselves if it is here and small enough."""
    layout = around.layout
    try:
        signed = parse_signed_checkpoint(layout.checkpoint.read_bytes())
    except (OSError, NoteError) as error:
        if layout.checkpoint.exists():
            return Finding(
                "log", "bad", f"{layout.checkpoint}: {error}", "weaver audit verify", _PAGE
            )
        return _as_it_says(around)
    if signed.checkpoint.size > AT_ONCE:
        return _as_it_says(around)
    try:
        source = LogDirectory(layout.log)
        report = verify(
            source,
            load_keys(layout.keys),
            history=published_before(layout.log),
            pruned=recorded_pruning(source),
        )
    except (ArchiveError, NoteError, OSError) as error:
        return Finding("log", "bad", str(error), "weaver audit verify", _PAGE)
    if report.good:
        what = f"{report.size} records of {report.origin} verify, by the log's own keys"
        return Finding("log", "good", what)
    found = report.findings[0]
    what = f"the log is DAMAGED: {found.kind}: {found.message}"
    act = "touch nothing, copy the disk, and compare with the archive"
    return Finding("log", "bad", what, act, "alerts/AuditLogDamaged.md")


def _as_it_says(around: Surroundings) -> Finding:
    scrape = around.scrape("audit")
    last = None if scrape is None else scrape.first("audit_verification_last_success_time_seconds")
    failures = None if scrape is None else scrape.first("audit_verification_failures_total")
    if last is None or failures is None:
        what = "the log is not on this machine, or is large, and the audit service does not say"
        return Finding("log", "unknown", what, "weaver audit verify https://…", _PAGE)
    age = time.time() - last
    if failures:
        what = f"the service found damage in its log ({failures:.0f} verifications failed)"
        act = "touch nothing, copy the disk, and compare with the archive"
        return Finding("log", "bad", what, act, "alerts/AuditLogDamaged.md")
    if age > _STALE_S:
        what = "the service has not verified its log for " + duration(age)
        return Finding("log", "bad", what, "weaver audit verify", "alerts/AuditLogNotVerified.md")
    return Finding("log", "good", f"the service verified its log {duration(age)} ago")


def room(around: Surroundings) -> Finding:
    """Return how much room is left for the log."""
    directory = around.layout.log
    scrape = around.scrape("audit")
    free = size = None
    if directory.is_dir():
        usage = shutil.disk_usage(directory)
        free, size = float(usage.free), float(usage.total)
    elif scrape is not None:
        free, size = scrape.first("audit_disk_free_bytes"), scrape.first("audit_disk_size_bytes")
    if free is None or not size:
        what = "how full the log's volume is cannot be seen from here"
        return Finding(
            "disk", "unknown", what, f"df -h {directory}", "alerts/AuditVolumeFilling.md"
        )
    share = free / size
    what = f"{share:.0%} of the log's volume are free ({free / 1024**3:.1f} GiB)"
    state: State = "bad" if share < _FULL else "warning" if share < _FILLING else "good"
    name = "AuditVolumeFull" if state == "bad" else "AuditVolumeFilling"
    act = "" if state == "good" else "enlarge it; nothing of the log may be deleted by hand"
    return Finding("disk", state, what, act, "" if state == "good" else f"alerts/{name}.md")
