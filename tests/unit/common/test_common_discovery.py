"""Finding a new address of a name before somebody needs it."""

import asyncio
import socket
from collections.abc import Collection

import pytest

from services.common import discovery
from services.common.discovery import Discovery, named, resolve


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("dns:///limiter:8001", ("limiter", 8001)),
        (
            "dns:///limiter.weaver-ai.svc.cluster.local:8001",
            ("limiter.weaver-ai.svc.cluster.local", 8001),
        ),
        ("dns:///[::1]:8001", ("::1", 8001)),
        ("dns://10.0.0.2/limiter:8001", None),
        ("127.0.0.1:8001", None),
        ("ipv4:127.0.0.1:8001,127.0.0.2:8001", None),
        ("unix:/run/limiter", None),
    ],
)
def test_only_names_of_this_machines_resolver_are_watched(
    address: str, found: tuple[str, int] | None
) -> None:
    assert named(address) == found


async def test_an_address_is_resolved_to_itself() -> None:
    assert await resolve("127.0.0.1", 8001) == {"127.0.0.1"}


class Script:
    """Answers look-ups one after the other; the last answer stays."""

    def __init__(self, *answers: Collection[str] | OSError) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int) -> Collection[str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


async def news(
    monkeypatch: pytest.MonkeyPatch, taken: Collection[str], *answers: Collection[str] | OSError
) -> Collection[str]:
    """Return what a channel to some addresses is told to take instead; nothing for no news."""
    monkeypatch.setattr(discovery, "LOOK_S", 0.001)
    watched = Discovery("limiter", 8001, Script(*answers))
    watched.take(frozenset(taken))
    try:
        async with asyncio.timeout(0.2):
            return await watched.until_other(lambda: False)
    except TimeoutError:
        return ()


async def test_an_address_that_joins_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await news(monkeypatch, (), {"a"}) == {"a"}
    assert await news(monkeypatch, {"a"}, {"a"}, {"a", "b"}) == {"a", "b"}
    assert await news(monkeypatch, {"a", "b"}, {"b"}, {"b", "c"}) == {"b", "c"}


async def test_news_stay_news_until_a_channel_leads_there(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Discovery("limiter", 8001, Script({"a"}))
    for _ in range(2):
        assert await watched.until_other(lambda: False) == {"a"}
    watched.take(frozenset({"a"}))
    assert not await news(monkeypatch, {"a"}, {"a"})


async def test_an_address_has_to_be_missing_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await news(monkeypatch, {"a", "b"}, {"a"}) == {"a"}
    often = [{"a"}] * (discovery.GONE_LOOKS - 1)
    assert not await news(monkeypatch, {"a", "b"}, *often, {"a", "b"})
    assert not await news(monkeypatch, {"a", "b"}, *often, OSError(), *often, {"a", "b"})


async def test_a_name_that_is_not_found_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await news(monkeypatch, {"a"}, OSError())
    assert not await news(monkeypatch, {"a"}, ())
    assert await news(monkeypatch, {"a"}, OSError(), {"b"}) == {"b"}


async def test_a_name_is_looked_up_sooner_without_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "LOOK_S", 60)
    monkeypatch.setattr(discovery, "SOON_S", 0.001)
    watched = Discovery("limiter", 8001, Script({"a"}, {"a"}, {"b"}))
    watched.take(frozenset({"a"}))
    async with asyncio.timeout(5):
        assert await watched.until_other(lambda: True) == {"b"}


async def test_the_place_of_an_address_that_left_is_looked_for_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "LOOK_S", 60)
    monkeypatch.setattr(discovery, "SOON_S", 0.001)
    watched = Discovery("limiter", 8001, Script({"a"}, {"a"}, {"a", "c"}))
    watched.take(frozenset({"a", "b"}))
    async with asyncio.timeout(5):
        assert await watched.until_other(lambda: False) == {"a", "c"}


@pytest.mark.parametrize(
    ("answer", "silent"),
    [
        ({"a"}, False),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), False),
        (socket.gaierror(socket.EAI_AGAIN, "no answer"), True),
    ],
)
async def test_who_says_that_there_is_nobody_is_not_silent(
    monkeypatch: pytest.MonkeyPatch, answer: Collection[str] | OSError, silent: bool
) -> None:
    monkeypatch.setattr(discovery, "LOOK_S", 0.001)
    watched = Discovery("limiter", 8001, Script(answer))
    watched.take(frozenset({"a"}))
    now = asyncio.get_running_loop().time
    assert not watched.silent(now())
    looking = asyncio.create_task(watched.until_other(lambda: False))
    await asyncio.sleep(0.05)
    assert not watched.silent(now()), "it may take a moment"
    assert watched.silent(now() + discovery.SILENT_S) == silent
    looking.cancel()


async def test_a_name_server_that_does_not_answer_is_silent() -> None:
    async def resolve(host: str, port: int) -> Collection[str]:
        await asyncio.sleep(60)
        return ()

    watched = Discovery("limiter", 8001, resolve)
    looking = asyncio.create_task(watched.until_other(lambda: False))
    await asyncio.sleep(0)
    assert watched.silent(asyncio.get_running_loop().time() + discovery.SILENT_S + 0.1)
    looking.cancel()


@pytest.mark.parametrize(
    ("found", "target"),
    [
        ({"10.0.0.2", "10.0.0.1"}, "ipv4:10.0.0.1:8001,10.0.0.2:8001"),
        ({"::1", "fd00::1"}, "ipv6:[::1]:8001,[fd00::1]:8001"),
        ({"::1", "127.0.0.1"}, None),
        ({"fe80::1%eth0"}, None),
    ],
)
def test_addresses_are_written_as_grpc_reads_them(found: set[str], target: str | None) -> None:
    assert Discovery("limiter", 8001).target(frozenset(found)) == target
