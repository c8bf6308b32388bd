"""What a refused caller is told: which rule, whose it is, how much it allows, when to come back."""

import math
from typing import Final

from services.gateway.ports import Admission, LimitState

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_MICRO: Final = 1_000_000
_WINDOWS: Final = {1: "second", _MINUTE_S: "minute", _HOUR_S: "hour", _DAY_S: "day"}
_MONTH_S: Final = range(28 * _DAY_S, 31 * _DAY_S + 1)


def refusing(admission: Admission) -> LimitState | None:
    """Return the state of the rule that refused; None where the limiter did not send it."""
    real = [limit for limit in admission.limits if not limit.shadow]
    said = next((limit for limit in real if limit.refuses), None)
    rule = admission.decision.rule
    return said or next((limit for limit in real if limit.name == rule), None)


def is_budget(limit: LimitState) -> bool:
    """Return whether a rule is a budget of money, which comes back tomorrow or later."""
    return limit.unit == "cost_micros" and limit.window_s >= _DAY_S


def refusal_sentence(rule: str, limit: LimitState | None, wait_s: float | None) -> str:
    """Return why a call is refused, for whoever made it.

    Args:
        rule: the rule that refused.
        limit: how it stands; None where that is not known.
        wait_s: when the same call would be admitted; None for never.
    """
    which = f"The limit `{rule}`" if limit is None else _which(rule, limit)
    if wait_s is None:
        return f"The call asks for more than is ever allowed. {which}. {_smaller(limit)}"
    return f"{which} is used up. Try again in {duration(wait_s)}."


def duration(seconds: float) -> str:
    """Return a time to wait in words, never shorter than it is."""
    if seconds < _MINUTE_S:
        tenths = max(1, math.ceil(round(seconds * 10, 3)))
        return f"{tenths / 10:g} s"
    if seconds < _HOUR_S:
        minutes, rest = divmod(math.ceil(seconds), _MINUTE_S)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = math.ceil(seconds / _MINUTE_S)
    days, minutes = divmod(minutes, _DAY_S // _MINUTE_S)
    hours, minutes = divmod(minutes, _MINUTE_S)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{count} {name}" for count, name in parts if count)


def _which(rule: str, limit: LimitState) -> str:
    whose = {
        "principal": f"Your own limit `{rule}`",
        "tenant": f"The limit `{rule}` of all callers of the tenant `{_key(limit)}`",
        "role": f"The limit `{rule}` of all callers of your tenant with the role `{_key(limit)}`",
        "model": f"The limit `{rule}` of all callers of the model `{_key(limit)}`",
        "global": f"The limit `{rule}` of all callers together",
    }
    return f"{whose.get(limit.scope, f'The limit `{rule}`')} ({_amount(limit)})"


def _amount(limit: LimitState) -> str:
    if limit.unit == "concurrency":
        return f"{limit.limit} calls at a time"
    amount = f"{limit.limit} {limit.unit}"
    if limit.unit == "cost_micros":
        amount = f"{limit.limit / _MICRO:.6f}".rstrip("0").rstrip(".") + " in money"
    window_s = round(limit.window_s)
    if window_s in _MONTH_S:
        return f"{amount} a month"
    if window_s in _WINDOWS:
        return f"{amount} a {_WINDOWS[window_s]}"
    return f"{amount} in {duration(limit.window_s)}" if limit.window_s else amount


def _smaller(limit: LimitState | None) -> str:
    if limit is not None and limit.unit in {"tokens", "cost_micros"}:
        return "Send a shorter prompt, or allow fewer tokens of output."
    return "Make it smaller."


def _key(limit: LimitState) -> str:
    return limit.scope_key[:128]
