"""What an examination finds, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "note", "warning", "bad", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: which examination: `certificates`.
        state: `bad` wants somebody now; `warning` wants somebody soon; `unknown` could not be
            looked at from here; `note` wants nobody here, and would in production.
        what: what was seen.
        act: what to do about it; empty where nothing.
        page: the page that says more, below docs/operations.
    """

    check: str
    state: State
    what: str
    act: str = ""
    page: str = ""


def duration(seconds: float) -> str:
    """Return a time for people."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} seconds"
