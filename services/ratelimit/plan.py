"""What is asked of which account: from a request's words to operations on accounts."""

from collections.abc import Callable, Sequence

import msgspec

from services.ratelimit.policy import Group, Policy, digest
from services.ratelimit.ports import Caller, Operation, Outcome, Status, Verb


class Reservation(msgspec.Struct, frozen=True):
    """What a caller asks for before a call: requests, and the bound of what it can use."""

    caller: Caller
    id: bytes
    requests: int = 1
    tokens: int = 0
    time_to_live_us: int = 60_000_000
    cost_micros: int = 0
    model: str = ""


class Settlement(msgspec.Struct, frozen=True):
    """What a reserved call really used."""

    caller: Caller
    id: bytes
    tokens: int = 0
    cost_micros: int = 0
    model: str = ""


class Renewal(msgspec.Struct, frozen=True):
    """A reservation that is to live on."""

    caller: Caller
    id: bytes
    time_to_live_us: int
    model: str = ""


class Charge(msgspec.Struct, frozen=True):
    """Requests to take from one account at once, for callers without reservations."""

    group: Group
    requests: int


class Call(msgspec.Struct, frozen=True):
    """The accounts of one call, its own last, and what is asked of each."""

    groups: tuple[Group, ...]
    operations: list[Operation]


Plan = Callable[[Policy], list[Call]]
"""Says what calls ask under a policy."""


def groups_of(policy: Policy, caller: Caller, model: str | None) -> tuple[Group, ...]:
    """Return the accounts of a call."""
    if caller.limits is not None:
        policy = policy.with_own(caller.limits)
    return policy.groups(caller.tenant, caller.issuer, caller.subject, caller.roles, model)


def _operation(
    verb: Verb,
    group: Group,
    identity: bytes,
    amounts: Sequence[int] | None = None,
    time_to_live_us: int = 0,
) -> Operation:
    asked = group.rules.nothing if amounts is None else amounts
    return Operation(verb, group.account, identity, group.rules, asked, time_to_live_us)


def _identities(groups: Sequence[Group], caller: Caller, id_: bytes) -> list[bytes]:
    """Name a reservation in each account; in shared ones the name holds whose it is."""
    own = caller.peer.encode() + b":" + id_
    if len(groups) == 1:
        return [own]
    shared = b":" + digest(groups[-1].account, caller.peer.encode(), id_)
    return [shared] * (len(groups) - 1) + [own]


def reserving(policy: Policy, item: Reservation) -> Call:
    """Return what a reservation asks: several accounts prepare, one alone takes at once."""
    groups = groups_of(policy, item.caller, item.model)
    verb = Verb.RESERVE if len(groups) == 1 else Verb.PREPARE
    own = groups[-1]
    operations = [
        Operation(
            verb,
            group.account,
            identity,
            group.rules,
            group.rules.amounts(item.requests, item.tokens, item.cost_micros, 1),
            item.time_to_live_us,
            group is own,
        )
        for group, identity in zip(groups, _identities(groups, item.caller, item.id), strict=True)
    ]
    return Call(groups, operations)


def settling(policy: Policy, item: Settlement) -> Call:
    """Return what a settlement asks."""
    groups = groups_of(policy, item.caller, item.model)
    own = groups[-1]
    operations = [
        Operation(
            Verb.SETTLE,
            group.account,
            identity,
            group.rules,
            group.rules.amounts(0, item.tokens, item.cost_micros),
            0,
            group is own,
        )
        for group, identity in zip(groups, _identities(groups, item.caller, item.id), strict=True)
    ]
    return Call(groups, operations)


def renewing(policy: Policy, item: Renewal) -> Call:
    """Return what a renewal asks."""
    groups = groups_of(policy, item.caller, item.model)
    operations = [
        _operation(Verb.RENEW, group, identity, None, item.time_to_live_us)
        for group, identity in zip(groups, _identities(groups, item.caller, item.id), strict=True)
    ]
    return Call(groups, operations)


def charging(
    item: Charge,
    replicas: int,
    shared: bool,  # noqa: FBT001 - a state
) -> Call:
    """Return what a charge asks of its account, or of this replica's share of it."""
    group = item.group
    if shared:
        group = Group(group.account, group.rules.share(replicas), group.key)
    amounts = group.rules.amounts(requests=item.requests)
    return Call((group,), [_operation(Verb.CHARGE, group, b"", amounts)])


def peeking(policy: Policy, caller: Caller, model: str | None) -> Call:
    """Return what looking at a caller's accounts asks; no model (None) looks at every model's."""
    groups = groups_of(policy, caller, model)
    return Call(groups, [_operation(Verb.PEEK, group, b"") for group in groups])


def finish(
    operations: Sequence[Operation],
    outcomes: Sequence[Outcome],
    *,
    admitted: bool,
    commits: list[Operation],
    releases: list[Operation],
) -> None:
    """Add what each account of a call is told once all have answered."""
    settled_before = outcomes[-1].status is Status.REPEATED and not outcomes[-1].expire_us
    for operation, outcome in zip(operations, outcomes, strict=True):
        if admitted and not settled_before:
            if operation.rules.prepares:
                commits.append(_follow(Verb.COMMIT, operation))
        elif outcome.status is Status.DONE:
            releases.append(_follow(Verb.RELEASE, operation))


def _follow(verb: Verb, operation: Operation) -> Operation:
    return Operation(
        verb,
        operation.account,
        operation.identity,
        operation.rules,
        operation.rules.nothing,
        marked=operation.marked,
    )
