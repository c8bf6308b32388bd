"""Calendar windows in UTC, for budgets that are whole again at midnight or on the first."""

from typing import Final

DAY_US: Final = 86_400_000_000
_LONGEST_MONTH = 31


def window(period: str, at_us: int) -> tuple[int, int]:
    """Return the start and the end, in Unix microseconds, of the day or month that holds a time."""
    day = at_us // DAY_US
    if period == "day":
        return day * DAY_US, (day + 1) * DAY_US
    first = _first_of_month(day)
    return first * DAY_US, _first_of_month(first + _LONGEST_MONTH) * DAY_US


def _first_of_month(day: int) -> int:
    """Return the first day of a day's month, both counted from 1970-01-01.

    Years are taken to begin in March, so that the leap day is their last (Howard Hinnant,
    "chrono-compatible low-level date algorithms", `civil_from_days`); the store's script has only
    numbers, and does the same.
    """
    shifted = day + 719_468
    of_era = shifted % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return day - (of_year - (153 * month + 2) // 5)
