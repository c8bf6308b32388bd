"""What every store of accounts does, held against the one in memory and the one in Valkey."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from services.common.valkey import Address
from services.common.valkey_location import Fixed
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.policy import Policy, account_of
from services.ratelimit.ports import Caller, Operation, Outcome, Status, Store, Verb
from services.ratelimit.redis_store import RedisStore
from services.ratelimit.rule import MICRO, Rule, RuleSet, Unit
from tests.fakes.valkey import Valkey

SLOW = Policy.from_limits(rps=0.01, burst=3)
TOKENS = Policy.from_limits(rps=1000, burst=1000, tokens_per_minute=60)
TIME_TO_LIVE_US = 60_000_000


class TurnableClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Subject(NamedTuple):
    """A store, and the way to let time pass in it."""

    store: Store
    wait: Callable[[float], Awaitable[None]]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def subject(request: pytest.FixtureRequest, valkey: Valkey) -> AsyncIterator[Subject]:
    if request.param == "memory":
        clock = TurnableClock()

        async def turn(seconds: float) -> None:
            clock.now += seconds

        yield Subject(MemoryStore(clock), turn)
        return
    store = open_store(valkey.socket)
    await store.start()
    yield Subject(store, asyncio.sleep)
    await store.close()


def open_store(socket: Path) -> RedisStore:
    return RedisStore(
        Fixed(Address(unix_socket=socket)), timeout_s=1, on_change=lambda up, detail: None
    )


def new_caller(peer: str = "gateway") -> Caller:
    return Caller("acme", "apikey", secrets.token_hex(8), peer)


def account(caller: Caller) -> bytes:
    return account_of("principal", caller.tenant, caller.issuer, caller.subject)


def identity(caller: Caller, id_: bytes) -> bytes:
    return caller.peer.encode() + b":" + id_


def reserve(  # noqa: PLR0913 - the fields of an operation
    caller: Caller,
    policy: Policy,
    *,
    requests: int = 1,
    tokens: int = 0,
    id_: bytes | None = None,
    ttl_us: int = TIME_TO_LIVE_US,
) -> Operation:
    own, id_ = RuleSet(policy.rules), id_ or secrets.token_bytes(16)
    amounts = own.amounts(requests=requests, tokens=tokens)
    return Operation(Verb.RESERVE, account(caller), identity(caller, id_), own, amounts, ttl_us)


def settle(caller: Caller, policy: Policy, id_: bytes, *, tokens: int = 0) -> Operation:
    own = RuleSet(policy.rules)
    amounts = own.amounts(tokens=tokens)
    return Operation(Verb.SETTLE, account(caller), identity(caller, id_), own, amounts)


def renew(caller: Caller, policy: Policy, id_: bytes, ttl_us: int) -> Operation:
    own = RuleSet(policy.rules)
    return Operation(Verb.RENEW, account(caller), identity(caller, id_), own, own.nothing, ttl_us)


async def apply(subject: Subject, operation: Operation) -> Outcome:
    (outcome,) = await subject.store.apply([operation])
    return outcome


async def used(subject: Subject, policy: Policy, caller: Caller) -> list[float]:
    own = RuleSet(policy.rules)
    outcome = await apply(subject, Operation(Verb.PEEK, account(caller), b"", own, own.nothing))
    return [level / MICRO for level in outcome.used]


async def test_admits_the_burst_and_refuses_the_next(subject: Subject) -> None:
    caller = new_caller()
    outcomes = await subject.store.apply([reserve(caller, SLOW) for _ in range(5)])
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * 3 + [Status.REFUSED] * 2
    assert outcomes[-1].refused == 0
    assert outcomes[-1].retry_us == pytest.approx(100 * MICRO, rel=0.01)


async def test_admits_again_when_the_bucket_has_refilled(subject: Subject) -> None:
    policy, caller = Policy.from_limits(rps=20, burst=1), new_caller()
    assert (await apply(subject, reserve(caller, policy))).status is Status.DONE
    refused = await apply(subject, reserve(caller, policy))
    assert refused.status is Status.REFUSED
    await subject.wait(refused.retry_us / MICRO + 0.002)
    assert (await apply(subject, reserve(caller, policy))).status is Status.DONE


async def test_a_call_larger_than_the_burst_is_refused_for_ever(subject: Subject) -> None:
    outcome = await apply(subject, reserve(new_caller(), SLOW, requests=4))
    assert (outcome.status, outcome.retry_us) == (Status.REFUSED, -1)


async def test_callers_do_not_share_an_account(subject: Subject) -> None:
    first, second = new_caller(), new_caller()
    await apply(subject, reserve(first, SLOW, requests=3))
    assert (await apply(subject, reserve(second, SLOW))).status is Status.DONE


async def test_names_that_join_to_the_same_text_are_different_callers(subject: Subject) -> None:
    salt = secrets.token_hex(4)
    await apply(subject, reserve(Caller("a", "bc", salt, "gateway"), SLOW, requests=3))
    other = Caller("ab", "c", salt, "gateway")
    assert (await apply(subject, reserve(other, SLOW))).status is Status.DONE


async def test_repeating_a_reservation_charges_once(subject: Subject) -> None:
    caller = new_caller()
    operation = reserve(caller, SLOW)
    first, second = await subject.store.apply([operation, operation])
    assert (first.status, second.status) == (Status.DONE, Status.REPEATED)
    assert second.expire_us == first.expire_us
    assert (await used(subject, SLOW, caller))[0] == pytest.approx(1, abs=0.01)


async def test_repeating_a_settled_reservation_charges_nothing(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    operation = reserve(caller, SLOW, id_=id_)
    outcomes = await subject.store.apply([operation, settle(caller, SLOW, id_), operation])
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.DONE, Status.REPEATED]
    assert (await used(subject, SLOW, caller))[0] == pytest.approx(1, abs=0.01)


async def test_settling_twice_or_the_unknown_changes_nothing(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    await apply(subject, reserve(caller, TOKENS, tokens=50, id_=id_))
    statuses = [
        (await apply(subject, settle(caller, TOKENS, id_, tokens=40))).status,
        (await apply(subject, settle(caller, TOKENS, id_, tokens=40))).status,
        (await apply(subject, settle(caller, TOKENS, bytes(16), tokens=40))).status,
    ]
    assert statuses == [Status.DONE, Status.UNKNOWN, Status.UNKNOWN]
    assert (await used(subject, TOKENS, caller))[1] == pytest.approx(40, abs=0.5)


async def test_a_held_bound_does_not_drain_and_settles_to_the_real_usage(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    await apply(subject, reserve(caller, TOKENS, tokens=60, id_=id_))
    await subject.wait(0.05)
    assert (await used(subject, TOKENS, caller))[1] == 60
    refused = await apply(subject, reserve(caller, TOKENS, tokens=1))
    assert (refused.status, refused.refused) == (Status.REFUSED, 1)
    outcome = await apply(subject, settle(caller, TOKENS, id_, tokens=10))
    assert outcome.used[1] == 10 * MICRO


async def test_usage_beyond_the_bound_is_charged(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    await apply(subject, reserve(caller, TOKENS, tokens=10, id_=id_))
    outcome = await apply(subject, settle(caller, TOKENS, id_, tokens=100))
    assert outcome.used[1] == 100 * MICRO
    refused = await apply(subject, reserve(caller, TOKENS, tokens=1))
    assert refused.retry_us == pytest.approx(41 * MICRO, rel=0.01)


async def test_an_expired_reservation_is_gone_and_stays_charged(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    operation = reserve(caller, TOKENS, tokens=60, id_=id_, ttl_us=30_000)
    await apply(subject, operation)
    await subject.wait(0.06)
    assert (await apply(subject, settle(caller, TOKENS, id_))).status is Status.UNKNOWN
    level = (await used(subject, TOKENS, caller))[1]
    assert 59 < level < 60


async def test_renewing_keeps_a_reservation_alive(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    await apply(subject, reserve(caller, TOKENS, tokens=60, id_=id_, ttl_us=40_000))
    renewed = await apply(subject, renew(caller, TOKENS, id_, TIME_TO_LIVE_US))
    assert renewed.expire_us == renewed.now_us + TIME_TO_LIVE_US
    await subject.wait(0.06)
    outcome = await apply(subject, settle(caller, TOKENS, id_, tokens=1))
    assert (outcome.status, outcome.used[1]) == (Status.DONE, MICRO)


async def test_renewing_the_unknown_or_settled_says_so(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    operations = [
        reserve(caller, SLOW, id_=id_),
        settle(caller, SLOW, id_),
        renew(caller, SLOW, id_, 1000),
        renew(caller, SLOW, bytes(16), 1000),
    ]
    outcomes = await subject.store.apply(operations)
    assert [outcome.status for outcome in outcomes[2:]] == [Status.UNKNOWN, Status.UNKNOWN]


async def test_a_reservation_belongs_to_its_peer_and_principal(subject: Subject) -> None:
    caller, id_ = new_caller(), secrets.token_bytes(16)
    await apply(subject, reserve(caller, TOKENS, tokens=60, id_=id_))
    other_peer = Caller(caller.tenant, caller.issuer, caller.subject, "model")
    for thief in (other_peer, new_caller()):
        assert (await apply(subject, settle(thief, TOKENS, id_))).status is Status.UNKNOWN
        outcome = await apply(subject, renew(thief, TOKENS, id_, 1000))
        assert outcome.status is Status.UNKNOWN
    assert (await used(subject, TOKENS, caller))[1] == 60


async def test_a_lower_limit_applies_at_once_to_a_caller_in_debt(subject: Subject) -> None:
    generous, caller = Policy.from_limits(rps=0.01, burst=100), new_caller()
    await apply(subject, reserve(caller, generous, requests=50))
    outcome = await apply(subject, reserve(caller, SLOW))
    assert outcome.status is Status.REFUSED
    assert outcome.retry_us == pytest.approx(48 * 100 * MICRO, rel=0.01)


async def test_a_higher_limit_applies_at_once_to_a_caller_in_debt(subject: Subject) -> None:
    generous, caller = Policy.from_limits(rps=1000, burst=3), new_caller()
    await apply(subject, reserve(caller, SLOW, requests=3))
    assert (await apply(subject, reserve(caller, SLOW))).status is Status.REFUSED
    await subject.wait(0.01)
    outcome = await apply(subject, reserve(caller, generous))
    assert outcome.status is Status.DONE


async def test_a_rule_that_comes_and_goes_leaves_nothing_held(subject: Subject) -> None:
    without, caller = Policy.from_limits(rps=1000, burst=1000), new_caller()
    id_, live = secrets.token_bytes(16), secrets.token_bytes(16)
    await apply(subject, reserve(caller, TOKENS, tokens=50, id_=id_))
    await apply(subject, reserve(caller, TOKENS, tokens=5, id_=live))
    await apply(subject, settle(caller, without, id_))
    assert (await used(subject, TOKENS, caller))[1] == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("longest", [0, 1])
async def test_the_rule_that_refuses_longest_is_named(subject: Subject, longest: int) -> None:
    rates = [10.0, 10.0]
    rates[longest] = 1.0
    rules = [Rule(f"rule_{index}", Unit.REQUESTS, rate, 1) for index, rate in enumerate(rates)]
    policy, caller = Policy.of(rules), new_caller()
    await apply(subject, reserve(caller, policy))
    outcome = await apply(subject, reserve(caller, policy))
    assert (outcome.status, outcome.refused) == (Status.REFUSED, longest)


async def test_a_rule_that_is_gone_still_gets_what_expires(subject: Subject) -> None:
    without, caller = Policy.from_limits(rps=1000, burst=1000), new_caller()
    await apply(subject, reserve(caller, TOKENS, tokens=60, ttl_us=20_000))
    await subject.wait(0.03)
    live = reserve(caller, without)
    assert (await apply(subject, live)).status is Status.DONE
    level = (await used(subject, TOKENS, caller))[1]
    assert 59 < level < 60


async def test_a_refusal_charges_no_rule(subject: Subject) -> None:
    caller = new_caller()
    await apply(subject, reserve(caller, TOKENS, tokens=60))
    before = await used(subject, TOKENS, caller)
    await apply(subject, reserve(caller, TOKENS, tokens=30))
    after = await used(subject, TOKENS, caller)
    assert after[0] <= before[0]
    assert after[1] == before[1]
