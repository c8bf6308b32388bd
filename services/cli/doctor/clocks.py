"""Clocks: this machine's against those of the front door, the services and the store."""

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from services.cli.backup.snapshot import SnapshotError, session
from services.cli.backup.taking import store_address
from services.cli.doctor.finding import Finding, State, duration
from services.cli.doctor.surroundings import TIMEOUT_S, Scrape, Surroundings
from services.common.settings import SettingsError

BAD_S = 5.0
"""As the alert ClockSkew has it."""
_SOON_S = 1.0
_CLOCK = "weaver_clock_time_seconds"


def examine(around: Surroundings) -> Iterator[Finding]:
    """Compare this clock with every other that can be asked."""
    began = time.time()
    try:
        date = around.ask_front("/health").date
    except OSError:
        date = ""  # Another examination says that it does not answer.
    if date:
        # It tells whole seconds.
        there = parsedate_to_datetime(date).timestamp() + 0.5
        yield _compared("the front door", there - (began + time.time()) / 2, 0.5 + TIMEOUT_S / 2)
    for name, found in around.scrapes.items():
        there_now = found.first(_CLOCK) if isinstance(found, Scrape) else None
        if isinstance(found, Scrape) and there_now is not None:
            yield _compared(name, there_now - found.asked, found.doubt_s)
    began = time.time()
    try:
        with session(store_address(), timeout_s=TIMEOUT_S) as asking:
            reply = asking.ask("TIME")
    except (SnapshotError, SettingsError):
        return  # The examination of the store says so.
    if isinstance(reply, list):
        there = int(str(reply[0])) + int(str(reply[1])) / 1e6
        doubt = time.time() - began
        yield _compared("the store", there - began - doubt / 2, doubt)


def _compared(name: str, ahead_s: float, doubt_s: float) -> Finding:
    off = max(0.0, abs(ahead_s) - doubt_s)
    state: State = "bad" if off > BAD_S else "warning" if off > _SOON_S else "good"
    side = "ahead of" if ahead_s > 0 else "behind"
    if state == "good":
        return Finding("clocks", "good", f"{name} has the same time as this machine")
    what = f"{name} is {duration(abs(ahead_s))} {side} this machine"
    act = "compare both with `chronyc tracking`, and mend the one that is off"
    return Finding("clocks", state, what, act, "alerts/ClockSkew.md")
