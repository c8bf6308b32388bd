"""The script in the store does what the account in Python does, step by step."""

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.valkey import Address, Connection, open_connection
from services.common.valkey_location import Fixed
from services.ratelimit import redis_store
from services.ratelimit.account import Account
from services.ratelimit.calendar_window import window
from services.ratelimit.ports import Operation, Status, Verb
from services.ratelimit.redis_store import RedisStore
from services.ratelimit.rule import Rule, RuleSet, Unit
from tests.fakes.valkey import Valkey

FAST = Rule("requests", Unit.REQUESTS, 300.7, 3)
RULES = [
    FAST,
    Rule("tokens", Unit.TOKENS, 0.83, 50),
    Rule("a_day", Unit.TOKENS, 0, 60, "day"),
    Rule("money", Unit.COST, 0, 90, "month"),
    Rule("rolling_money", Unit.COST, 40.5, 70),
    Rule("at_once", Unit.CONCURRENCY, 0, 3),
    Rule("maybe", Unit.REQUESTS, 20, 1, shadow=True),
    Rule("maybe_tokens", Unit.TOKENS, 100, 20, shadow=True),
    Rule("maybe_at_once", Unit.CONCURRENCY, 0, 1, shadow=True),
]
choices = st.tuples(
    st.sampled_from([*Verb, Verb.RESERVE, Verb.PREPARE, Verb.SETTLE]),
    st.integers(0, 8),
    st.integers(0, 30),
    st.integers(1, 20),
)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def connection(valkey: Valkey) -> AsyncIterator[Connection]:
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=5)
    yield connection
    connection.close("done")


def operation(
    account: bytes, rules: RuleSet, number: int, choice: tuple[Verb, int, int, int]
) -> Operation:
    verb, which, amount, ttl_ms = choice
    asks = verb in {Verb.RESERVE, Verb.PREPARE, Verb.CHARGE}
    requests = 1 + which % 2 if asks else 0
    amounts = rules.amounts(
        requests=requests,
        tokens=amount,
        cost_micros=amount * 2,
        slots=int(asks and verb is not Verb.CHARGE),
    )
    # Few ids, so that operations meet; some new ones, so that there is something to refuse.
    id_ = which if not asks or which < 4 else 100 + number
    identity = b"gateway:" + id_.to_bytes(16)
    return Operation(verb, account, identity, rules, amounts, ttl_ms * 1000, bool(which % 3))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(choices, st.sampled_from([0, 0, 0, 1, 5]), st.sampled_from([0, 0, 0, 1])),
        max_size=30,
    ),
    st.lists(st.sets(st.sampled_from(range(len(RULES)))), min_size=2, max_size=2),
)
def test_the_script_does_what_the_account_does_step_by_step(
    valkey: Valkey,
    steps: list[tuple[tuple[Verb, int, int, int], int, int]],
    policies: list[set[int]],
) -> None:
    sets = [RuleSet(tuple(RULES[index] for index in sorted(policy))) for policy in policies]
    name = secrets.token_hex(8).encode()

    async def play() -> None:
        account = Account()
        where = Address(unix_socket=valkey.socket)
        store = RedisStore(Fixed(where), timeout_s=2, on_change=lambda up, detail: None)
        async with AsyncExitStack() as stack:
            await store.start()
            stack.push_async_callback(store.close)
            for number, (choice, pause_ms, policy) in enumerate(steps):
                asked = operation(name, sets[policy], number, choice)
                (real,) = await store.apply([asked])
                assert real == account.apply(asked, real.now_us)
                await asyncio.sleep(pause_ms / 1000)

    asyncio.run(play())


def test_windows_are_those_of_the_calendar() -> None:
    chance = random.Random(1)  # noqa: S311 - only spreads moments
    moments = [chance.randrange(0, 4_000_000_000_000_000) for _ in range(3000)]
    moments += [1_709_164_799_999_999, 1_709_164_800_000_000, 4_107_542_399_999_999]
    for moment in moments:
        at = datetime.fromtimestamp(moment // 1_000_000, UTC)
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        first = midnight.replace(day=1)
        next_first = (first + timedelta(days=31)).replace(day=1)
        expected = {"day": (midnight, midnight + timedelta(days=1)), "month": (first, next_first)}
        for period, (start, end) in expected.items():
            bounds = (int(start.timestamp()) * 1_000_000, int(end.timestamp()) * 1_000_000)
            assert window(period, moment) == bounds


async def test_the_script_knows_the_same_calendar(connection: Connection) -> None:
    text = (Path(redis_store.__file__).parent / "limiter.lua").read_text()
    functions = text[text.index("local window_end") : text.index("local rules, fields")]
    script = (
        "local DAY, floor = 86400e6, math.floor\n"
        + functions
        + "know_calendar() return window_end(ARGV[1], tonumber(ARGV[2]))"
    )
    chance = random.Random(2)  # noqa: S311 - only spreads moments
    for _ in range(1500):
        moment = chance.randrange(0, 4_000_000_000_000_000)
        moment = chance.choice([moment, moment // 86_400_000_000 * 86_400_000_000])
        moment -= chance.randrange(2)
        for period in ("day", "month"):
            (end,) = await connection.exchange([("EVAL", script, 0, period, max(0, moment))])
            assert end == window(period, max(0, moment))[1]


async def test_what_a_dead_gateway_left_is_freed_in_small_steps(connection: Connection) -> None:
    """No operation looks at more than a few hundred of the reservations that have ended."""
    rules, name = RuleSet((Rule("at_once", Unit.CONCURRENCY, 0, 20_000),)), b"crowd"
    store = redis_store.RedisStore(Fixed(Address()), timeout_s=5, on_change=lambda up, detail: None)
    store._link.connection = connection
    await connection.exchange([("SCRIPT", "LOAD", store._script)])

    def reserve(ttl_us: int) -> Operation:
        identity = b"gateway:" + secrets.token_bytes(16)
        return Operation(Verb.RESERVE, name, identity, rules, [1], ttl_us)

    await store.apply([reserve(60_000_000)])  # keeps the account from being forgotten
    for _ in range(3):
        outcomes = await store.apply([reserve(1_500_000) for _ in range(1000)])
        assert {outcome.status for outcome in outcomes} == {Status.DONE}
    await asyncio.sleep(1.6)
    peek = Operation(Verb.PEEK, name, b"", rules, [0])
    freed = [3001]
    while freed[-1] > 1 and len(freed) < 300:
        (outcome,) = await store.apply([peek])
        freed.append(outcome.used[0])
    assert freed[-1] == 1
    steps = [before - after for before, after in itertools.pairwise(freed)]
    assert max(steps) < 500
