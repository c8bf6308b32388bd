"""The policy file: rules in YAML, checked whole before any of them counts.

Its rules come before those of the environment, so a rule of the same name takes the place of the
environment's for the calls that it matches, and for all where it has no `match`.
"""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NoReturn

import msgspec

from services.common import operator_file
from services.common.operator_file import OperatorFileError
from services.ratelimit.descriptor import DescriptorRule, Entry
from services.ratelimit.policy import Policy
from services.ratelimit.rule import (
    MAX_AMOUNT,
    MAX_COST,
    PERIODS_S,
    Match,
    Period,
    Rule,
    Scope,
    Unit,
)

MAX_RULES_PER_SCOPE: Final = 32
MAX_DESCRIPTORS: Final = 200
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")

Per = Literal["second", "minute", "hour", "day", "month"]


class PolicyError(OperatorFileError):
    """The file is not a policy; the message says where and what is allowed."""


class _RuleText(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    unit: Literal["requests", "tokens", "cost", "cost_micros", "concurrency"] = "requests"
    limit: int | float | str | None = None
    per: Per | None = None
    burst: int | None = None
    window: Literal["rolling", "calendar"] | None = None
    scope: Scope = Scope.PRINCIPAL
    match: Match = Match()
    shadow: bool = False
    unlimited: bool = False


class _EntryText(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    value: str | None = None


class _DescriptorText(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    domain: str
    entries: list[_EntryText]
    limit: int | None = None
    per: Per | None = None
    burst: int | None = None
    shadow: bool = False
    unlimited: bool = False
    headers: bool = True


class _FileText(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    rules: list[_RuleText] = []
    envoy: list[_DescriptorText] = []


def parse(
    text: bytes, defaults: Iterable[Rule] = (), descriptors: Iterable[DescriptorRule] = ()
) -> Policy:
    """Return the policy of a file, with the environment's rules after its own.

    Raises:
        PolicyError: it is not a policy.
    """
    try:
        file = operator_file.parse(text, _FileText)
    except OperatorFileError as error:
        raise PolicyError(str(error)) from None
    rules = [_rule(one, f"rules[{index}]") for index, one in enumerate(file.rules)]
    own = [_descriptor(one, f"envoy[{index}]") for index, one in enumerate(file.envoy)]
    return assemble([*rules, *defaults], [*own, *descriptors])


def assemble(rules: Iterable[Rule], descriptors: Iterable[DescriptorRule] = ()) -> Policy:
    """Return the policy of some rules once they fit together.

    Raises:
        PolicyError: they do not.
    """
    chosen, kinds = tuple(rules), dict[str, tuple[Scope, Unit]]()
    for rule in chosen:
        kind = kinds.setdefault(rule.name, (rule.scope, rule.unit))
        if kind != (rule.scope, rule.unit):
            msg = (
                f"all rules named {rule.name!r} must have one scope and one unit: "
                f"{kind[0].value}, {kind[1].value}"
            )
            raise PolicyError(msg)
    for scope in Scope:
        names = {rule.name for rule in chosen if rule.scope is scope}
        if len(names) > MAX_RULES_PER_SCOPE:
            msg = f"at most {MAX_RULES_PER_SCOPE} names in the scope {scope.value}"
            raise PolicyError(msg)
    all_descriptors = tuple(descriptors)
    if len(all_descriptors) > MAX_DESCRIPTORS:
        msg = f"at most {MAX_DESCRIPTORS} rules for Envoy"
        raise PolicyError(msg)
    return Policy.of(chosen, all_descriptors)


def _rule(text: _RuleText, path: str) -> Rule:
    _check_name(text.name, path)
    unit = Unit.COST if text.unit == "cost" else Unit(text.unit)
    if text.unlimited:
        _refuse(path, "unlimited", limit=text.limit, per=text.per, burst=text.burst)
        return Rule(text.name, unit, 1, 1, scope=text.scope, match=text.match, unlimited=True)
    limit = _limit(text, unit, path)
    rate, burst, period = 0.0, limit, ""
    if unit is Unit.CONCURRENCY:
        _refuse(path, "unit: concurrency", per=text.per, burst=text.burst, window=text.window)
    elif text.per is None:
        _fail(f"{path}.per", f"is missing; one of {', '.join(PERIODS_S)}")
    elif _calendar(text, path):
        _refuse(path, "a calendar window", burst=text.burst)
        period = text.per
    else:
        rate = limit / PERIODS_S[text.per]
        burst = _burst(text.burst, limit, unit, path)
    return Rule(
        text.name,
        unit,
        rate,
        burst,
        _period(period),
        text.scope,
        text.match,
        text.shadow,
    )


def _descriptor(text: _DescriptorText, path: str) -> DescriptorRule:
    _check_name(text.name, path)
    if not text.entries:
        _fail(f"{path}.entries", "must not be empty")
    entries = tuple(Entry(entry.key, entry.value) for entry in text.entries)
    if text.unlimited:
        _refuse(path, "unlimited", limit=text.limit, per=text.per, burst=text.burst)
        return DescriptorRule(text.domain, entries, Rule(text.name, Unit.REQUESTS, 1, 1), "", True)  # noqa: FBT003 - a struct takes no names cheaply
    if text.limit is None or text.per is None:
        _fail(path, "needs `limit` and `per`")
    if not 1 <= text.limit <= MAX_AMOUNT:
        _fail(f"{path}.limit", f"must be from 1 to {MAX_AMOUNT}")
    rule = Rule(
        text.name,
        Unit.REQUESTS,
        text.limit / PERIODS_S[text.per],
        _burst(text.burst, text.limit, Unit.REQUESTS, path),
        shadow=text.shadow,
    )
    return DescriptorRule(text.domain, entries, rule, text.per, headers=text.headers)


def _limit(text: _RuleText, unit: Unit, path: str) -> int:
    if text.limit is None:
        _fail(f"{path}.limit", "is missing (or set `unlimited: true`)")
    try:
        value = Decimal(str(text.limit))
    except InvalidOperation:
        _fail(f"{path}.limit", "must be a number")
    if text.unit == "cost":
        value *= 1_000_000
    most = MAX_COST if unit is Unit.COST else MAX_AMOUNT
    if not value.is_finite() or value != int(value) or not 1 <= value <= most:
        kind = "an amount of money with at most 6 decimals" if text.unit == "cost" else "whole"
        _fail(f"{path}.limit", f"must be {kind}, at least 1 and at most {most} {unit.value}")
    return int(value)


def _burst(burst: int | None, limit: int, unit: Unit, path: str) -> int:
    if burst is None:
        return limit
    most = MAX_COST if unit is Unit.COST else MAX_AMOUNT
    if not 1 <= burst <= most:
        _fail(f"{path}.burst", f"must be from 1 to {most}")
    return burst


def _calendar(text: _RuleText, path: str) -> bool:
    """Say whether a rule is whole again at midnight or on the first, not little by little."""
    long = text.per in {"day", "month"}
    if text.window == "calendar" and not long:
        _fail(f"{path}.window", "calendar windows are a day or a month")
    return long and text.window != "rolling"


def _period(text: str) -> Period:
    return "day" if text == "day" else "month" if text == "month" else ""


def _check_name(name: str, path: str) -> None:
    if not _NAME.fullmatch(name):
        _fail(f"{path}.name", "must be 1 to 40 of a-z, 0-9 and _, a letter first")


def _refuse(path: str, reason: str, **fields: object) -> None:
    for name, value in fields.items():
        if value is not None:
            _fail(f"{path}.{name}", f"does not go with {reason}")


def _fail(path: str, problem: str) -> NoReturn:
    msg = f"`{path}` {problem}"
    raise PolicyError(msg)
