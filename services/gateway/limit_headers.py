"""Limits as clients read them in headers: the IETF draft's, OpenAI's, Anthropic's.

Rules in shadow mode are an operator's experiment and are not shown.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from services.gateway.ports import LimitState

Headers = list[tuple[str, str]]

MOST_SHOWN: Final = 16
"""All metadata of an answer must fit into 8 KiB; the tightest rules come first."""
LARGEST: Final = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651, section 3.3.1)."""

# The draft's units; "requests" is what a policy without one counts.
_QUOTA_UNITS: Final = {
    "tokens": ';qu="tokens"',
    "cost_micros": ';qu="cost-micros"',
    "concurrency": ';qu="concurrent-requests"',
}
_VENDORS_UNITS: Final = ("requests", "tokens")


def limit_headers(
    limits: Sequence[LimitState], anthropic_at: Callable[[], float] | None = None
) -> Headers:
    """Return how the limits stand.

    `RateLimit-Policy` and `RateLimit` name each rule (draft-ietf-httpapi-ratelimit-headers-10);
    the vendors' headers have room for one rule of each unit, which is the one that stops the
    caller first.

    Args:
        limits: the tightest first.
        anthropic_at: tells the Unix time where Anthropic's headers are wanted too.
    """
    shown: dict[str, LimitState] = {}
    for limit in limits:
        if not limit.shadow and (limit.name not in shown or limit.refuses):
            # Of rules that share a name (one for each role) a list has room for one.
            shown[limit.name] = limit
    if not shown:
        return []
    listed = list(shown.values())[:MOST_SHOWN]
    headers: Headers = [
        ("ratelimit-policy", ", ".join(map(_policy, listed))),
        ("ratelimit", ", ".join(map(_state, listed))),
    ]
    for unit in _VENDORS_UNITS:
        of_unit = [limit for limit in shown.values() if limit.unit == unit]
        if of_unit:
            first = min(of_unit, key=_stops_after)
            headers += _openai(first, unit)
            if anthropic_at is not None:
                headers += _anthropic(first, unit, anthropic_at())
    return headers


def go_duration(seconds: float) -> str:
    """Return a time as OpenAI writes it: `6m0s`, `1.5s`, `20ms`."""
    millis = math.ceil(seconds * 1000)
    if millis < 1000:  # noqa: PLR2004 - a second
        return f"{millis}ms" if millis > 0 else "0s"
    minutes, rest = divmod(millis, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _policy(limit: LimitState) -> str:
    window = f";w={_integer(max(1, limit.window_s))}" if limit.window_s else ""
    unit = _QUOTA_UNITS.get(limit.unit, "")
    return f"{_name(limit.name)};q={_integer(limit.limit)}{unit}{window}"


def _state(limit: LimitState) -> str:
    reset = f";t={_integer(limit.reset_after_s)}" if limit.window_s else ""
    return f"{_name(limit.name)};r={_integer(limit.remaining)}{reset}"


@lru_cache(maxsize=1024)
def _name(rule: str) -> str:
    """Return a rule's name as a String (RFC 9651, section 3.3.3)."""
    clean = "".join(
        ("\\" + character if character in '"\\' else character) if " " <= character <= "~" else "?"
        for character in rule[:64]
    )
    return f'"{clean}"'


def _integer(value: float) -> int:
    return min(max(0, math.ceil(value)), LARGEST)


def _stops_after(limit: LimitState) -> tuple[bool, int, float]:
    """Order rules of one unit by what is left of them."""
    return (not limit.refuses, limit.remaining, -limit.reset_after_s)


def _openai(limit: LimitState, unit: str) -> Headers:
    return [
        (f"x-ratelimit-limit-{unit}", str(limit.limit)),
        (f"x-ratelimit-remaining-{unit}", str(limit.remaining)),
        (f"x-ratelimit-reset-{unit}", go_duration(limit.reset_after_s)),
    ]


def _anthropic(limit: LimitState, unit: str, now: float) -> Headers:
    whole = datetime.fromtimestamp(math.ceil(now + limit.reset_after_s), UTC)
    return [
        (f"anthropic-ratelimit-{unit}-limit", str(limit.limit)),
        (f"anthropic-ratelimit-{unit}-remaining", str(limit.remaining)),
        (f"anthropic-ratelimit-{unit}-reset", whole.strftime("%Y-%m-%dT%H:%M:%SZ")),
    ]
