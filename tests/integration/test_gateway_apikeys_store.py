"""Managed keys in a real Valkey: two gateways, a store that dies, a failover that forgets."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.common.clock import SystemClock
from services.common.errors import Unauthenticated, Unavailable, WeaverError
from services.common.health import Health
from services.common.settings import load
from services.common.valkey import Address, open_connection
from services.gateway.apikeys import text, wiring
from services.gateway.apikeys.administration import Filter
from services.gateway.apikeys.key import ApiKey, digest_of
from services.gateway.apikeys.metrics import KeyReports
from services.gateway.apikeys.order import NewKey
from services.gateway.apikeys.settings import ApiKeySettings
from services.gateway.apikeys.valkey_store import CHANGES, RECORD
from services.gateway.apikeys.wiring import ManagedKeys
from services.gateway.principal import Principal
from tests.fakes.sentinel import MASTER, SENTINEL_PASSWORD, STORE_PASSWORD, Trio
from tests.fakes.valkey import Valkey

ORDER = NewKey("acme", "team search", ("user",))


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with Valkey(tmp_path, *options) as server:
        yield server


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Gateway:
    """What one gateway has of keys."""

    def __init__(self, keys: ManagedKeys, health: Health) -> None:
        self.admin, self.cache, self.health = keys.administration, keys.cache, health

    async def principal(self, key: str) -> Principal:
        digest = digest_of(key)
        return self.cache.known(digest) or await self.cache.find(key, digest)

    async def accepts(self, key: str) -> bool:
        try:
            await self.principal(key)
        except WeaverError:
            return False
        return True

    async def reason(self, key: str) -> str:
        with pytest.raises((Unauthenticated, Unavailable)) as caught:
            await self.principal(key)
        return caught.value.reason

    async def create(self) -> text.Made:
        made = text.make()
        assert (await self.admin.create(made, ORDER, "apikey:root")).safe
        return made

    async def disable(self, id_: str) -> bool:
        return (await self.admin.change(id_, disabled, "apikey:root")).safe


def disabled(key: ApiKey, _: int) -> ApiKey:
    return key.switched(disabled=True)


async def gateway(stack: AsyncExitStack, store: str, **settings: object) -> Gateway:
    loaded = load(ApiKeySettings, api_key_store=store, **settings)
    health = Health()
    reports = KeyReports(CollectorRegistry(), health, lambda _: None)
    return Gateway(await wiring.open_keys(loaded, stack, SystemClock(), reports), health)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> float:
    """Wait for a condition and return how long that took."""
    started = time.monotonic()
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return time.monotonic() - started
        assert time.monotonic() - started < seconds, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_revocation_is_effective_on_every_gateway_within_a_second(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    store = f"unix://{valkey.socket}"
    first, second = await gateway(stack, store), await gateway(stack, store)
    worst = 0.0
    for _ in range(5):
        made = await first.create()
        assert await second.accepts(made.text)
        assert await second.accepts(made.text)
        await first.disable(made.id)
        revoked = time.monotonic()
        assert not await first.accepts(made.text)
        while await second.accepts(made.text):
            await asyncio.sleep(0.005)
        worst = max(worst, time.monotonic() - revoked)
        assert await second.reason(made.text) == "DISABLED_CREDENTIAL"

    assert worst < 1.0


async def test_a_store_that_is_killed_leaves_known_keys_and_refuses_unknown_ones_with_503(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    store = f"unix://{valkey.socket}"
    one = await gateway(stack, store)
    made, unknown = await one.create(), await one.create()
    await one.principal(made.text)
    valkey.kill()
    await until(lambda: not one.health.snapshot()["api_key_store"][0])
    assert await one.accepts(made.text)
    assert await one.reason(text.make().text) == "IDENTITY_UNAVAILABLE"
    with pytest.raises(Unavailable):
        await one.disable(made.id)
    late = await gateway(stack, store)
    assert await late.reason(unknown.text) == "IDENTITY_UNAVAILABLE"
    valkey.start()
    await until(lambda: late.health.snapshot()["api_key_store"][0])
    assert await late.accepts(unknown.text)
    await one.disable(made.id)
    assert not await one.accepts(made.text)


async def test_a_store_that_hangs_costs_an_unknown_key_one_deadline(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    one = await gateway(stack, f"unix://{valkey.socket}")
    made = await one.create()
    await one.principal(made.text)
    valkey.pause()
    started = time.monotonic()
    assert await one.accepts(made.text)
    assert await one.reason(text.make().text) == "IDENTITY_UNAVAILABLE"
    assert time.monotonic() - started < 1.0
    valkey.resume()
    await until(lambda: one.accepts(made.text))


async def test_keys_survive_the_death_of_their_store(stack: AsyncExitStack, valkey: Valkey) -> None:
    store = f"unix://{valkey.socket}"
    first = await gateway(stack, store)
    kept, revoked = await first.create(), await first.create()
    await first.disable(revoked.id)
    valkey.kill()
    valkey.start()
    fresh = await gateway(stack, store)
    assert await fresh.accepts(kept.text)
    assert await fresh.reason(revoked.text) == "DISABLED_CREDENTIAL"


def contents(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]


async def test_the_store_holds_digests_and_no_keys(
    stack: AsyncExitStack, valkey: Valkey, tmp_path: Path
) -> None:
    one = await gateway(stack, f"unix://{valkey.socket}")
    made = await one.create()
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    stack.callback(connection.close, "done")
    (stored,) = await connection.exchange([("GET", RECORD + made.id)])
    secret = made.text.rpartition("_")[2].encode()
    assert isinstance(stored, bytes)
    assert digest_of(made.text).hex().encode() in stored
    assert secret not in stored
    files = contents(tmp_path)
    assert any(made.id.encode() in content for content in files)
    assert not any(secret in content for content in files)


async def test_what_a_newer_gateway_wrote_is_not_guessed_at(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    one = await gateway(stack, f"unix://{valkey.socket}")
    made, broken = await one.create(), await one.create()
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    stack.callback(connection.close, "done")
    (stored,) = await connection.exchange([("GET", RECORD + made.id)])
    assert isinstance(stored, bytes)
    newer = stored.replace(b'{"id"', b'{"format":2,"id"').replace(b"1", b"9", 1)
    await connection.exchange([("SET", RECORD + made.id, newer), ("SET", RECORD + broken.id, "x")])
    assert await one.reason(made.text) == "IDENTITY_UNAVAILABLE"
    assert await one.reason(broken.text) == "IDENTITY_UNAVAILABLE"


async def test_changes_beyond_those_that_are_kept_are_found_by_reading_everything_again(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    store = f"unix://{valkey.socket}"
    first, second = await gateway(stack, store), await gateway(stack, store)
    made, earlier = await first.create(), await first.create()
    await second.principal(made.text)
    await second.principal(earlier.text)
    await first.disable(earlier.id)
    await until(lambda: _refused(second, earlier.text))
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    stack.callback(connection.close, "done")
    await first.disable(made.id)
    await connection.exchange([("DEL", CHANGES)])
    await until(lambda: _refused(second, made.text))


async def _refused(one: Gateway, key: str) -> bool:
    return not await one.accepts(key)


async def test_a_user_with_the_documented_rights_is_enough(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations" / "apikeys.md").read_text()
    commands = page.partition("the commands\n`")[2].partition("`")[0].lower().split()
    rights = ["on", ">of-keys", "~wvk:*", *(f"+{command}" for command in commands)]
    with Valkey(tmp_path, "--appendonly", "yes", "--dir", str(tmp_path)) as valkey:
        connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
        assert await connection.exchange([("ACL", "SETUSER", "weaver", *rights)]) == [b"OK"]
        connection.close("done")
        access = "weaver:of-keys"
        one = await gateway(stack, f"unix://{access}@{valkey.socket}")
        made = await one.create()
        assert await one.accepts(made.text)
        await one.disable(made.id)
        await until(lambda: _refused(one, made.text))
        assert [key.id for key in (await one.admin.page(Filter(), 0, 9))[0]] == [made.id]


async def test_a_store_that_became_a_replica_is_left_for_whoever_is_the_master(
    stack: AsyncExitStack, valkey: Valkey
) -> None:
    one = await gateway(stack, f"unix://{valkey.socket}")
    made = await one.create()
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    stack.callback(connection.close, "done")
    await connection.exchange([("REPLICAOF", "127.0.0.1", 1)])
    with pytest.raises(Unavailable, match="replica"):
        await one.disable(made.id)
    await until(lambda: not one.health.snapshot()["api_key_store"][0])
    assert await one.accepts(made.text)
    await connection.exchange([("REPLICAOF", "NO", "ONE")])
    await until(lambda: one.health.snapshot()["api_key_store"][0])
    await one.disable(made.id)


async def test_pages_go_through_every_key_once(stack: AsyncExitStack, valkey: Valkey) -> None:
    one = await gateway(stack, f"unix://{valkey.socket}")
    made = {(await one.create()).id for _ in range(7)}
    found: list[str] = []
    start: int | None = 0
    while start is not None:
        keys, start = await one.admin.page(Filter(), start, 3)
        found += [key.id for key in keys]
    assert len(found) == 7
    assert set(found) == made


async def test_a_failover_that_forgets_a_revocation_does_not_bring_the_key_back(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    with Trio(tmp_path) as trio:
        places = ",".join(f"127.0.0.1:{port}" for port in trio.sentinels)
        password, sentinel = STORE_PASSWORD.replace(" ", "%20"), SENTINEL_PASSWORD.replace(" ", "+")
        access = f":{password}"
        store = f"sentinel://{access}@{places}/{MASTER}?sentinel_password={sentinel}"
        first, second = await gateway(stack, store), await gateway(stack, store)
        made = await first.create()
        assert await second.accepts(made.text)
        replicas = [port for port in trio.stores if port != trio.master_now()]
        for port in replicas:
            trio.signal(port, signal.SIGSTOP)
        assert not await first.disable(made.id), "no replica can have confirmed it"
        await until(lambda: _refused(second, made.text))
        old = trio.master_now()
        trio.signal(old, signal.SIGKILL)
        for port in replicas:
            trio.signal(port, signal.SIGCONT)
        await until(lambda: trio.master_now() != old, 20)
        assert not await first.accepts(made.text)
        assert not await second.accepts(made.text)
        await until(lambda: first.health.snapshot()["api_key_store"][0], 20)
        await until(lambda: second.health.snapshot()["api_key_store"][0], 20)
        # The new master has the revocation back by now, so a gateway that knows nothing sees it.
        late = await gateway(stack, store)
        await until(lambda: _disabled(late, made.text))
        assert await late.reason(made.text) == "DISABLED_CREDENTIAL"


async def _disabled(one: Gateway, key: str) -> bool:
    try:
        await one.principal(key)
    except Unauthenticated as error:
        return error.reason == "DISABLED_CREDENTIAL"
    except Unavailable:
        return False
    return False
