"""Finding a new address of a name before somebody needs it."""

import asyncio
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


async def news(monkeypatch: pytest.MonkeyPatch, *answers: Collection[str] | OSError) -> bool:
    monkeypatch.setattr(discovery, "LOOK_S", 0.001)
    try:
        async with asyncio.timeout(0.1):
            await Discovery("limiter", 8001, Script(*answers)).until_new()
    except TimeoutError:
        return False
    return True


async def test_an_address_that_joins_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await news(monkeypatch, {"a"}, {"a"}, {"a", "b"})
    assert await news(monkeypatch, {"a", "b"}, {"b"}, {"b", "c"})


async def test_what_is_known_at_first_or_leaves_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await news(monkeypatch, {"a", "b"})
    assert not await news(monkeypatch, {"a", "b"}, {"a"})
    assert not await news(monkeypatch, OSError(), {"a"})


async def test_a_name_that_is_not_found_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await news(monkeypatch, {"a"}, OSError(), {"a"})
    assert not await news(monkeypatch, {"a"}, (), {"a"})
    assert await news(monkeypatch, {"a"}, OSError(), {"b"})
