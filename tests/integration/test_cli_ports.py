"""Taken ports are found and named before anything starts; small probes of what runs."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from services.cli import ports, probe
from services.cli.children import needs_valkey
from services.common.settings import SettingsError


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, int]]:
    """A server that answers every request in one way."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n\r\n")
        body = line.split(b" ")[1]
        writer.write(b"HTTP/1.1 418 no\r\ncontent-type: x\r\n\r\n" + body)
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        yield running.sockets[0].getsockname()


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match=r"WEAVER_X_LISTEN: port \d+ is already in use"):
            ports.refuse_taken({"WEAVER_X_LISTEN": address})
    ports.refuse_taken({"WEAVER_X_LISTEN": address})


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(SettingsError, match=r"WEAVER_X_LISTEN: cannot listen on 203\.0\.113\.9"):
        ports.refuse_taken({"WEAVER_X_LISTEN": "203.0.113.9:8443"})


def test_a_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match="WEAVER_X_LISTEN: cannot listen on no such host"):
        ports.refuse_taken({"WEAVER_X_LISTEN": "no such host:8443"})


def test_listeners_that_are_switched_off_take_no_port() -> None:
    chosen = ports.addresses({"WEAVER_AUDIT_METRICS_LISTEN": "", "WEAVER_MODEL_LISTEN": "h:1"})
    assert "WEAVER_AUDIT_METRICS_LISTEN" not in chosen
    assert chosen["WEAVER_MODEL_LISTEN"] == "h:1"
    assert chosen["WEAVER_FRONT_LISTEN"] == "127.0.0.1:8443"


def test_a_redis_on_this_machine_is_used_only_if_it_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as redis:
        settings = {"REDIS_HOST": "localhost", "REDIS_PORT": str(redis.getsockname()[1])}
        assert not needs_valkey(settings)
    assert needs_valkey(settings)


async def test_a_probe_returns_status_and_body(server: tuple[str, int]) -> None:
    assert await probe.request("GET", server, "/here") == (418, "/here")


async def test_a_probe_of_nothing_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        place = gone.getsockname()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await probe.request("GET", place, "/")


async def test_a_probe_of_something_else_is_an_os_error() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        with pytest.raises(ConnectionError):
            await probe.request("GET", running.sockets[0].getsockname(), "/")


def test_what_listens_everywhere_is_reached_on_loopback() -> None:
    assert probe.reachable("0.0.0.0:8443", "X") == ("127.0.0.1", 8443)
    assert probe.reachable("[::]:8443", "X") == ("::1", 8443)
    assert probe.reachable("10.0.0.7:8443", "X") == ("10.0.0.7", 8443)
