"""The limiter against a real Valkey: exact with many clients, right again after every failure."""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.common.valkey import Address, Connection, open_connection
from services.common.valkey_location import Fixed
from services.ratelimit.decision import Standing
from services.ratelimit.policy import Policy, account_of
from services.ratelimit.ports import Caller, Operation, Status, StoreUnavailable, Verb
from services.ratelimit.redis_store import RedisStore
from services.ratelimit.rule import EVER_US, MAX_COST, MICRO, PERIODS_S, Rule, RuleSet, Unit
from tests.fakes.valkey import Valkey

TIMEOUT_S = 0.05


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


class Watch:
    """Follows whether a store is up."""

    def __init__(self) -> None:
        self.up = False
        self.detail = ""
        self.changes: list[bool] = []
        self._changed = asyncio.Event()

    def changed(self, up: bool, detail: str) -> None:
        if up is not self.up or not self.changes:
            self.changes.append(up)
        self.up, self.detail = up, detail
        self._changed.set()

    async def until(self, *, up: bool, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while self.up is not up:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def open_store(
    stack: AsyncExitStack, address: Address, *, timeout_s: float = TIMEOUT_S
) -> tuple[RedisStore, Watch]:
    watch = Watch()
    store = RedisStore(Fixed(address), timeout_s=timeout_s, on_change=watch.changed)
    await store.start()
    stack.push_async_callback(store.close)
    return store, watch


async def admin(stack: AsyncExitStack, valkey: Valkey) -> Connection:
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    stack.callback(connection.close, "closed")
    return connection


def new_caller() -> Caller:
    return Caller("acme", "apikey", secrets.token_hex(8), "gateway")


def reserve(caller: Caller, policy: Policy, *, tokens: int = 0) -> Operation:
    own = RuleSet(policy.rules)
    amounts, id_ = own.amounts(requests=1, tokens=tokens), b"gateway:" + secrets.token_bytes(16)
    return Operation(Verb.RESERVE, account(caller), id_, own, amounts, 60 * MICRO)


def account(caller: Caller) -> bytes:
    return account_of("principal", caller.tenant, caller.issuer, caller.subject)


def assert_promise_6(times_us: Sequence[int], rate: float, burst: int) -> None:
    """Check every window of admissions in linear time: the bucket's own recurrence, exactly."""
    level, last_us = 0.0, times_us[0]
    for now_us in times_us:
        level = max(0.0, level - rate * (now_us - last_us) / MICRO) + 1
        last_us = now_us
        assert level <= burst + 1e-6


async def test_for_every_interval_admitted_is_at_most_burst_plus_rate_times_time(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    policy, caller = Policy.from_limits(rps=100, burst=100), new_caller()
    where = Address(unix_socket=valkey.socket)
    stores = [(await open_store(stack, where, timeout_s=2))[0] for _ in range(4)]
    end = time.monotonic() + 1.5

    async def call(store: RedisStore) -> list[int]:
        times = []
        while time.monotonic() < end:
            (outcome,) = await store.apply([reserve(caller, policy)])
            if outcome.status is Status.DONE:
                times.append(outcome.now_us)
        return times

    gathered = await asyncio.gather(*(call(stores[index % 4]) for index in range(40)))
    times = sorted(itertools.chain(*gathered))
    assert_promise_6(times, 100, 100)
    assert len(times) >= 0.99 * (100 + 100 * (times[-1] - times[0]) / MICRO)


async def test_concurrent_reservations_never_overspend_a_token_budget(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    policy = Policy.from_limits(rps=100_000, burst=100_000, tokens_per_minute=1000)
    caller, where = new_caller(), Address(unix_socket=valkey.socket)
    stores = [(await open_store(stack, where, timeout_s=2))[0] for _ in range(4)]
    operations = [reserve(caller, policy, tokens=70) for _ in range(100)]
    batches = [operations[start::4] for start in range(4)]
    started = time.monotonic()
    results = await asyncio.gather(
        *(store.apply(batch) for store, batch in zip(stores, batches, strict=True))
    )
    assert time.monotonic() - started < 2
    admitted = [outcome for outcome in itertools.chain(*results) if outcome.status is Status.DONE]
    assert len(admitted) == 14
    assert {outcome.refused for outcome in itertools.chain(*results)} == {-1, 1}


async def test_a_lost_script_is_invisible(stack: AsyncExitStack, valkey: Valkey) -> None:
    policy, caller = Policy.from_limits(rps=0.01, burst=10), new_caller()
    store, watch = await open_store(stack, Address(unix_socket=valkey.socket))
    connection = await admin(stack, valkey)
    for _ in range(3):
        await connection.exchange([("SCRIPT", "FLUSH")])
        outcomes = await store.apply([reserve(caller, policy), reserve(caller, policy)])
        assert [outcome.status for outcome in outcomes] == [Status.DONE] * 2
    own = RuleSet(policy.rules)
    peek = Operation(Verb.PEEK, account(caller), b"", own, own.nothing)
    (outcome,) = await store.apply([peek])
    assert round(outcome.used[0] / MICRO) == 6
    assert watch.changes == [True]


async def test_a_killed_store_costs_nothing_and_comes_back_by_itself(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    policy, caller = Policy.from_limits(rps=1, burst=1), new_caller()
    store, watch = await open_store(stack, Address(unix_socket=valkey.socket))
    valkey.kill()
    await watch.until(up=False, within_s=1)
    started = time.monotonic()
    for _ in range(1000):
        with pytest.raises(StoreUnavailable):
            await store.apply([reserve(caller, policy)])
    assert time.monotonic() - started < TIMEOUT_S * 10
    valkey.start()
    await watch.until(up=True, within_s=2)
    (outcome,) = await store.apply([reserve(caller, policy)])
    assert outcome.status is Status.DONE
    assert watch.changes == [True, False, True]


async def test_a_paused_store_costs_one_deadline_and_then_nothing(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    policy, caller = Policy.from_limits(rps=1, burst=1), new_caller()
    store, watch = await open_store(stack, Address(unix_socket=valkey.socket))
    valkey.pause()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="in time"):
        await store.apply([reserve(caller, policy)])
    assert TIMEOUT_S <= time.monotonic() - started < TIMEOUT_S * 2
    await watch.until(up=False, within_s=1)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.apply([reserve(caller, policy)])
    assert time.monotonic() - started < TIMEOUT_S / 2
    valkey.resume()
    await watch.until(up=True, within_s=2)
    (outcome,) = await store.apply([reserve(new_caller(), policy)])
    assert outcome.status is Status.DONE


async def test_a_short_pause_fails_some_calls_and_keeps_the_connection(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    policy = Policy.from_limits(rps=1, burst=1)
    where = Address(unix_socket=valkey.socket)
    store, watch = await open_store(stack, where, timeout_s=0.3)
    valkey.pause()
    with pytest.raises(StoreUnavailable):
        await store.apply([reserve(new_caller(), policy)])
    valkey.resume()
    (outcome,) = await store.apply([reserve(new_caller(), policy)])
    assert outcome.status is Status.DONE
    assert watch.changes == [True]


async def test_a_store_that_is_not_there_at_the_start_is_found_later(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    server = Valkey(tmp_path)
    store, watch = await open_store(stack, Address(unix_socket=server.socket))
    assert (watch.up, watch.changes) == (False, [False])
    policy = Policy.from_limits(rps=1, burst=1)
    with pytest.raises(StoreUnavailable):
        await store.apply([reserve(new_caller(), policy)])
    with server:
        await watch.until(up=True, within_s=2)
        (outcome,) = await store.apply([reserve(new_caller(), policy)])
        assert outcome.status is Status.DONE


async def test_a_store_that_takes_no_writes_is_down(
    stack: AsyncExitStack, valkey: Valkey, tmp_path: Path
) -> None:
    store, watch = await open_store(stack, Address(unix_socket=valkey.socket))
    connection = await admin(stack, valkey)
    await connection.exchange([("REPLICAOF", "127.0.0.1", "1")])
    policy = Policy.from_limits(rps=1, burst=1)
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await store.apply([reserve(new_caller(), policy)])
    await watch.until(up=False, within_s=1)
    await connection.exchange([("REPLICAOF", "NO", "ONE")])
    await watch.until(up=True, within_s=2)


async def test_a_replica_at_the_start_is_down_until_it_takes_writes(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    connection = await admin(stack, valkey)
    await connection.exchange([("REPLICAOF", "127.0.0.1", "1")])
    _, watch = await open_store(stack, Address(unix_socket=valkey.socket))
    assert (watch.up, "READONLY" in watch.detail) == (False, True)
    await connection.exchange([("REPLICAOF", "NO", "ONE")])
    await watch.until(up=True, within_s=2)


async def test_a_store_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    where = Address(unix_socket=tmp_path / "none.sock")
    await RedisStore(Fixed(where), timeout_s=TIMEOUT_S, on_change=Watch().changed).close()


async def test_a_wrong_password_is_down_and_never_shown(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    with Valkey(tmp_path, "--requirepass", "right") as server:
        wrong = Address(unix_socket=server.socket, password="wrong-secret")
        _, watch = await open_store(stack, wrong)
        assert not watch.up
        assert "WRONGPASS" in watch.detail
        assert "secret" not in watch.detail
        right = Address(unix_socket=server.socket, password="right", database=3)
        _, watch = await open_store(stack, right)
        assert watch.up


async def test_accounts_expire_by_themselves(stack: AsyncExitStack, valkey: Valkey) -> None:
    policy, caller = Policy.from_limits(rps=100, burst=5, tokens_per_minute=6000), new_caller()
    store, _ = await open_store(stack, Address(unix_socket=valkey.socket))
    operation = reserve(caller, policy, tokens=5)
    own = operation.rules
    amounts = own.amounts(tokens=5)
    settlement = Operation(Verb.SETTLE, account(caller), operation.identity, own, amounts)
    await store.apply([operation, settlement])
    connection = await admin(stack, valkey)
    (keys,) = await connection.exchange([("KEYS", "wrl:{*")])
    assert isinstance(keys, list)
    lives = await connection.exchange([("PTTL", key) for key in keys])
    assert len(lives) == 2
    full, mark = sorted(int(str(life)) for life in lives)
    assert 0 < full <= 60
    assert 9_000 < mark <= 10_000


async def test_the_largest_debt_at_the_slowest_rate_is_still_a_number(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    slowest = Rule("slow", Unit.COST, 1 / PERIODS_S["month"], 1)
    own, account_name = RuleSet((slowest,)), b"debtor"
    store, watch = await open_store(stack, Address(unix_socket=valkey.socket), timeout_s=1)
    id_ = b"gateway:" + secrets.token_bytes(16)
    reserved = Operation(Verb.RESERVE, account_name, id_, own, [1], 60 * MICRO)
    settled = Operation(Verb.SETTLE, account_name, id_, own, [MAX_COST + 1])
    other = Operation(Verb.RESERVE, account_name, b"gateway:" + bytes(16), own, [1], 60 * MICRO)
    outcomes = await store.apply([reserved, settled, other])
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.DONE, Status.REFUSED]
    assert outcomes[2].retry_us == EVER_US
    standing = Standing(slowest, outcomes[2].used[0], outcomes[2].now_us)
    assert (standing.reset_after_us, watch.changes) == (EVER_US, [True])


async def test_one_broken_account_does_not_end_the_connection(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    policy, broken, other = Policy.from_limits(rps=1, burst=5), new_caller(), new_caller()
    store, watch = await open_store(stack, Address(unix_socket=valkey.socket))
    connection = await admin(stack, valkey)
    await connection.exchange([("SET", b"wrl:{" + account(broken) + b"}", "not a hash")])
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store.apply([reserve(broken, policy)])
    (outcome,) = await store.apply([reserve(other, policy)])
    assert (outcome.status, watch.changes) == (Status.DONE, [True])
