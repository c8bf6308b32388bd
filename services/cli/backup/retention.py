"""Which backups stay: the newest of each of the last days, weeks and months that have one.

Counted are periods in which something was backed up, so a job that stood still for a month loses
nothing by it, and no clock can make everything old at once. The newest backup always stays.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec


class Retention(msgspec.Struct, frozen=True):
    """How many periods keep their newest backup.

    Attributes:
        daily: days; the guide's 7.
        weekly: weeks, from Monday on; the guide's 4.
        monthly: calendar months; the guide's 12.
    """

    daily: int = 7
    weekly: int = 4
    monthly: int = 12


_PERIODS: Sequence[tuple[str, Callable[[datetime], tuple[int, ...]]]] = (
    ("daily", lambda time: (time.year, time.month, time.day)),
    ("weekly", lambda time: tuple(time.isocalendar()[:2])),
    ("monthly", lambda time: (time.year, time.month)),
)


def kept(times: Iterable[datetime], rule: Retention, now: datetime) -> dict[datetime, list[str]]:
    """Return the times whose backups stay, each with the reasons.

    Args:
        times: of every backup, in UTC.
        rule: how many periods.
        now: a time after it is a clock's mistake: it stays, and counts as nothing else's.
    """
    newest_first = sorted(times, reverse=True)
    found: dict[datetime, list[str]] = {time: ["future"] for time in newest_first if time > now}
    past = newest_first[len(found) :]
    if past:
        found[past[0]] = ["newest"]
    for reason, period in _PERIODS:
        seen: set[tuple[int, ...]] = set()
        for time in past:
            if len(seen) == getattr(rule, reason):
                break
            if period(time) not in seen:
                seen.add(period(time))
                found.setdefault(time, []).append(reason)
    return found
