"""The cache's store: a real Valkey that fills up, hangs, dies and comes back."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from services.common.clock import SystemClock
from services.common.local import LocalChannel
from services.common.settings import load
from services.common.valkey import Address, open_connection
from services.model.cache.ports import StoreGoneError
from services.model.cache.valkey_store import ValkeyStore
from services.model.settings import ModelSettings
from services.model.wiring import build
from tests.fakes.answers import CacheFigures
from tests.fakes.valkey import Valkey
from tests.fakes.waiting import eventually
from weaver.common.v1 import identity_pb2
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

MEBIBYTE = 1024 * 1024
Open = Callable[..., object]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="wmc") as directory, Valkey(Path(directory)) as server:
        yield server


class Opened(ValkeyStore):
    """A store, and what it counted and told."""

    figures: CacheFigures
    told: list[tuple[bool, str]]


@pytest.fixture
async def opened(valkey: Valkey) -> AsyncIterator[Callable[..., Opened]]:
    async with AsyncExitStack() as stack:

        def make(**changes: object) -> Opened:
            figures, told = CacheFigures(), list[tuple[bool, str]]()
            address = Address(unix_socket=valkey.socket, password=str(changes.pop("password", "")))
            settings = {"timeout_s": 0.05, "max_bytes": 64 * MEBIBYTE} | changes
            store = Opened(
                address,
                clock=SystemClock(),
                meter=figures,
                on_change=lambda up, detail: told.append((up, detail)),
                **settings,  # type: ignore[arg-type] # a test's
            )
            store.figures, store.told = figures, told
            stack.push_async_callback(store.close)
            return store

        yield make


async def kept(store: Opened, name: bytes, value: bytes, time_to_live_s: float = 60) -> str:
    before = len(store.figures.kept)
    store.put(name, value, time_to_live_s)
    async with asyncio.timeout(5):
        while len(store.figures.kept) == before:
            await asyncio.sleep(0.005)
    return store.figures.kept[-1]


async def found(store: Opened, name: bytes) -> bytes | None:
    try:
        return await store.get(name)
    except StoreGoneError:
        return b"gone"


async def test_what_is_kept_is_found_until_its_time_is_over(
    opened: Callable[..., Opened],
) -> None:
    store = opened()
    await store.start()
    assert await store.get(b"a") is None
    assert await kept(store, b"a", b"\x00\xff" * 1000, 0.3) == "kept"
    assert await store.get(b"a") == b"\x00\xff" * 1000
    await asyncio.sleep(0.35)
    assert await store.get(b"a") is None


async def test_a_store_that_hangs_costs_a_few_callers_one_deadline_and_then_nothing(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    store = opened()
    await store.start()
    await kept(store, b"a", b"x")
    valkey.pause()
    try:
        started = time.monotonic()
        answers = [await found(store, b"a") for _ in range(50)]
        spent_s = time.monotonic() - started
        assert answers == [b"gone"] * 50
        assert spent_s < 0.5  # Fifty deadlines would be 2.5 s.
        store.put(b"b", b"y", 60)
        await eventually(lambda: store.told[-1][0] is False)
    finally:
        valkey.resume()
    await eventually(lambda: store.told[-1][0] is True)
    async with asyncio.timeout(8):
        while await found(store, b"a") != b"x":
            await asyncio.sleep(0.05)


async def test_a_store_that_dies_and_comes_back_is_used_again(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    store = opened()
    await store.start()
    valkey.kill()
    await eventually(lambda: store.told[-1][0] is False)
    assert await found(store, b"a") == b"gone"
    store.put(b"a", b"x", 60)
    assert store.figures.kept == ["unavailable"]
    valkey.start()
    await eventually(lambda: store.told[-1][0] is True)
    assert await kept(store, b"a", b"x") == "kept"
    assert await store.get(b"a") == b"x"


async def test_a_store_that_is_not_there_at_the_start_holds_nobody_up(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    valkey.kill()
    store = opened()
    await store.start()
    assert store.told[0][0] is False
    assert await found(store, b"a") == b"gone"


async def test_nothing_more_is_kept_in_a_store_that_is_as_large_as_it_may(
    opened: Callable[..., Opened],
) -> None:
    store = opened(max_bytes=4 * MEBIBYTE)
    await store.start()
    results = [await kept(store, b"%d" % number, b"x" * 500_000) for number in range(12)]
    assert results[0] == "kept"
    assert results[-1] == "full"
    await asyncio.sleep(1.1)
    assert await kept(store, b"more", b"x" * 900_000) == "full"


async def test_a_store_that_makes_room_itself_is_written_on(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    valkey.kill()
    roomy = Valkey(valkey.socket.parent, "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru")
    with roomy:
        store = opened(max_bytes=4 * MEBIBYTE)
        await store.start()
        results = []
        for number in range(20):
            results.append(await kept(store, b"%d" % number, b"x" * 500_000))
            await asyncio.sleep(0.05)
        assert set(results[-4:]) == {"kept"}


async def test_a_full_store_that_refuses_is_full_and_not_gone(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    valkey.kill()
    with Valkey(valkey.socket.parent, "--maxmemory", "3mb"):
        store = opened()
        await store.start()
        results = [await kept(store, b"%d" % number, b"x" * 500_000) for number in range(8)]
        assert "full" in results
        assert await store.get(b"0") is not None
        assert store.told[-1][0] is True


async def test_too_much_at_once_is_left_undone(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    store = opened()
    await store.start()
    for number in range(5):
        store.put(b"%d" % number, b"x" * 4 * MEBIBYTE, 60)
    assert store.figures.kept == ["busy"]


@pytest.mark.parametrize("theirs", ["wrl:{replicas}", "wvk:{keys}.index"])
async def test_a_store_with_limits_or_api_keys_is_refused(
    opened: Callable[..., Opened], valkey: Valkey, theirs: str
) -> None:
    """The cache has an instance of its own: what makes room for answers must hold nothing else."""
    store = opened()
    await store.start()
    assert store.told[-1][0] is True
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    await connection.exchange([("SET", theirs, "1")])
    connection.close("done")
    await eventually(lambda: store.told[-1][0] is False)
    assert "the cache needs its own" in store.told[-1][1]
    assert await found(store, b"a") == b"gone"


async def test_a_store_that_does_not_let_us_in_is_named_without_its_password(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    valkey.kill()
    with Valkey(valkey.socket.parent, "--requirepass", "another-one"):
        store = opened(password="not-this-one")  # pragma: allowlist secret
        await store.start()
    up, detail = store.told[0]
    assert not up
    assert "not-this-one" not in detail
    assert str(valkey.socket) in detail


async def asked(valkey: Valkey, *command: str) -> None:
    connection = await open_connection(Address(unix_socket=valkey.socket), timeout_s=1)
    (reply,) = await connection.exchange([command])
    connection.close("done")
    assert not isinstance(reply, Exception)


async def test_something_else_under_a_name_is_nothing(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    store = opened()
    await store.start()
    await asked(valkey, "RPUSH", "a", "x")
    assert await store.get(b"a") is None
    assert store.told == [(True, str(valkey.socket))]


async def test_a_store_that_refuses_us_is_left_alone(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    store = opened()
    await store.start()
    await asked(valkey, "ACL", "SETUSER", "default", "-get", "-set")
    assert await found(store, b"a") == b"gone"
    await eventually(lambda: store.told[-1][0])
    assert await kept(store, b"a", b"x") == "unavailable"
    assert any("NOPERM" in detail for up, detail in store.told if not up)


async def test_a_slow_store_is_told_of_and_asked_again(
    opened: Callable[..., Opened], valkey: Valkey
) -> None:
    store = opened(timeout_s=0.2)
    await store.start()
    # Each exchange is answered late, and yet soon enough for the connection to be kept.
    for _ in range(3):
        valkey.pause()
        asyncio.get_running_loop().call_later(0.3, valkey.resume)
        assert await found(store, b"a") == b"gone"
        await asyncio.sleep(0.2)
    assert any("failures in a row" in detail for _, detail in store.told)
    async with asyncio.timeout(8):
        while await found(store, b"a") is not None:
            await asyncio.sleep(0.05)
    assert store.told[-1][0] is True


async def test_the_service_keeps_answers_in_its_store(valkey: Valkey) -> None:
    async with AsyncExitStack() as stack:
        settings = load(
            ModelSettings,
            mtls_enabled=False,
            audit_address="",
            cache_enabled=True,
            cache_address=str(valkey.socket),
        )
        component = await build(settings, stack)
        channel = LocalChannel("gateway")
        component.register(channel)
        stub = model_service_pb2_grpc.ModelServiceStub(cast("Any", channel))
        request = pb.GenerateRequest(
            request_id="r-1",
            dialect=pb.DIALECT_OPENAI_CHAT,
            model="stub-model",
            body=b'{"model":"stub-model","temperature":0,"messages":[{"content":"hi"}]}',
            principal=identity_pb2.Principal(tenant="t", issuer="apikey", subject="ann"),
        )
        first = await stub.Generate(request, timeout=5)
        async with asyncio.timeout(5):
            while (again := await stub.Generate(request, timeout=5)).generation.cache != "hit":
                await asyncio.sleep(0.01)
        assert again.body == first.body
        assert again.generation.cache_of
        assert component.health.snapshot()["cache"] == (True, "")
        valkey.kill()
        await eventually(lambda: not component.health.snapshot()["cache"][0])
        assert (await stub.Generate(request, timeout=5)).generation.cache == "miss"


async def test_what_is_written_at_the_end_is_finished(opened: Callable[..., Opened]) -> None:
    store = opened()
    await store.start()
    store.put(b"a", b"x", 60)
    await store.close()
    assert store.figures.kept == ["kept"]
