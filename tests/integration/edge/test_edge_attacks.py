"""Abuse of HTTP/2: whoever does it loses the connection or the stream, and nobody else notices."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.integration.edge.conftest import Edge, ScriptedGateway
from tests.integration.edge.frames import GET, Connection, Header

pytestmark = pytest.mark.asyncio(loop_scope="session")

POST = (*((":method", "POST"), *GET[1:3]), (":path", "/v1/chat/completions"))
MOST_STREAMS = 128
REFUSED_STREAM = 7


@pytest.fixture
def attacker(edge: Edge) -> Iterator[Connection]:
    connection = Connection(edge)
    yield connection
    connection.close()


async def assert_others_are_served(edge: Edge) -> None:
    async with edge.client("h2", timeout=2) as client:
        assert (await client.get("/health")).status_code == 200


async def test_a_whole_request_written_by_hand_is_answered(attacker: Connection) -> None:
    attacker.send(attacker.headers(1))
    assert await asyncio.to_thread(attacker.status) == 200


async def test_streams_that_are_reset_at_once_cost_the_connection(
    edge: Edge, attacker: Connection, gateway: ScriptedGateway
) -> None:
    def attack() -> int | None:
        for stream in range(1, 4000, 2):
            reset = RstStreamFrame(stream, error_code=8).serialize()
            if not attacker.send(attacker.headers(stream) + reset):
                break
        return attacker.status(0)

    assert await asyncio.to_thread(attack) is None
    assert len(gateway.calls) < 500
    await assert_others_are_served(edge)


FLOODS: dict[str, Callable[[], Frame]] = {
    "ping": lambda: PingFrame(0, opaque_data=b"12345678"),
    "settings": lambda: SettingsFrame(0),
    "priority": lambda: PriorityFrame(3, depends_on=0, stream_weight=1),
    "window update": lambda: WindowUpdateFrame(0, window_increment=1),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_control_frames_costs_the_connection(
    edge: Edge, attacker: Connection, name: str
) -> None:
    flood = FLOODS[name]().serialize() * 500
    assert await asyncio.to_thread(attacker.is_closed_while_sending, flood)
    await assert_others_are_served(edge)


async def test_a_flood_of_empty_data_costs_the_connection(edge: Edge, attacker: Connection) -> None:
    attacker.send(attacker.headers(1, POST, ("END_HEADERS",)))
    flood = DataFrame(1, b"").serialize() * 100
    assert await asyncio.to_thread(attacker.is_closed_while_sending, flood)
    await assert_others_are_served(edge)


@pytest.mark.parametrize(
    "piece", [b"", b"\x00\x05x-abc\x7f" + b"\xff" * 20, b"\x40" + b"\x01a" * 2]
)
async def test_headers_that_go_on_for_ever_cost_the_connection(
    edge: Edge, attacker: Connection, piece: bytes
) -> None:
    attacker.send(attacker.headers(1, flags=("END_STREAM",)))
    flood = ContinuationFrame(1, piece).serialize() * 100
    assert await asyncio.to_thread(attacker.is_closed_while_sending, flood)
    await assert_others_are_served(edge)


async def test_a_small_block_that_unpacks_to_large_headers_is_refused(
    attacker: Connection, gateway: ScriptedGateway
) -> None:
    large = (*GET, *(("x-large", "v" * 3000),) * 20)
    block = attacker.headers(1, large)
    assert len(block) < 3200
    attacker.send(block)
    assert await asyncio.to_thread(attacker.status) is None
    assert gateway.calls == []


@pytest.mark.parametrize(("count", "served"), [(90, True), (101, False), (2000, False)])
async def test_a_hundred_headers_are_taken_and_no_more(
    attacker: Connection, gateway: ScriptedGateway, count: int, served: bool
) -> None:
    attacker.send(attacker.headers(1, (*GET, *(("x-a", "b") for _ in range(count - len(GET))))))
    assert await asyncio.to_thread(attacker.status) == (200 if served else None)
    assert bool(gateway.calls) == served


async def test_one_connection_has_128_streams_at_once(
    edge: Edge, attacker: Connection, gateway: ScriptedGateway
) -> None:
    opened = [attacker.headers(1 + 2 * n, POST, ("END_HEADERS",)) for n in range(MOST_STREAMS + 5)]
    attacker.send(b"".join(opened))

    def refused() -> list[int]:
        found: list[int] = []
        for frame in attacker.frames():
            if isinstance(frame, (RstStreamFrame, GoAwayFrame)):
                assert frame.error_code == REFUSED_STREAM
                found.append(frame.stream_id)
            if len(found) == 5:
                break
        return found

    assert await asyncio.to_thread(refused) == [1 + 2 * (MOST_STREAMS + n) for n in range(5)]
    await assert_others_are_served(edge)


AMBIGUOUS: tuple[tuple[Header, ...], ...] = (
    (*GET, (":path", "/v1/admin/usage")),
    (*GET, ("x-a", "b"), (":path", "/v1/admin/usage")),
    (*GET[:3], (":path", "")),
    GET[:3],
    (*GET, ("Authorization", "Bearer k")),
    (*GET, ("connection", "close")),
    (*GET, ("transfer-encoding", "chunked")),
    (*GET, ("te", "gzip")),
    (*GET, ("x-a", "b\r\nx-weaver-subject: root")),
    (*GET, ("x-a\r\nx-weaver-subject", "root")),
    (*GET, ("x-a", "b\x00c")),
    (*GET, ("content-length", "5"), ("content-length", "6")),
    (*GET, ("content-length", "5")),
    (*GET, ("host", "other")),
    ((":method", "GET "), *GET[1:]),
    (*GET[:3], (":path", "/health HTTP/1.1")),
    (*GET[:3], (":path", "/health#/v1/admin/usage")),
    (*GET, (":weaver", "1")),
    ((":method", "CONNECT"), (":authority", "127.0.0.1:9901")),
    ((":method", "CONNECT"), *GET[1:], (":protocol", "websocket")),
)


async def test_headers_that_could_be_read_in_two_ways_reach_nobody_or_are_made_one(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    def attempt(headers: tuple[Header, ...]) -> int | None:
        connection = Connection(edge)
        try:
            connection.send(connection.headers(1, headers))
            return connection.status()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(AMBIGUOUS)) as threads:
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(
            *(loop.run_in_executor(threads, attempt, headers) for headers in AMBIGUOUS)
        )
    assert found.count(200) == len(gateway.calls) <= 2
    assert {status for status in found if status != 200} <= {None, 400, 404}
    for call in gateway.calls:
        assert call.method == "Health"
        assert not {"connection", "transfer-encoding", "te", "x-weaver-subject"} & set(
            call.metadata
        )
        assert call.metadata.get(":authority") in {"x", None}


async def test_many_slow_connections_leave_room_for_others(edge: Edge) -> None:
    slow = []
    try:
        for _ in range(200):
            connection = Connection(edge)
            connection.send(connection.headers(1, POST, ("END_HEADERS",)))
            slow.append(connection)
        async with httpx.AsyncClient(verify=edge.trust, base_url=edge.url, trust_env=False) as one:
            assert (await one.get("/health", timeout=2)).status_code == 200
    finally:
        for connection in slow:
            connection.close()
