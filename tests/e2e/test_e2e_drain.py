"""What clients see of a suite that is told to stop."""

import asyncio
import json
import signal
from typing import Any

import pytest

from tests.e2e.clients import chat, http

SLOW_STREAM = {
    "WEAVER_DRAIN_SECONDS": "2",
    "WEAVER_STUB_TOKENS": "10000",
    "WEAVER_STUB_CHUNK_DELAY_MS": "100",
}


@pytest.mark.parametrize("suite_env", [SLOW_STREAM])
async def test_a_long_stream_ends_with_an_error_event_when_the_suite_stops(own_suite: Any) -> None:
    events: list[str] = []
    body = chat(stream=True)
    async with (
        http(own_suite) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                events.append(line.removeprefix("data:"))
                if len(events) == 3:
                    own_suite.signal(signal.SIGTERM)
    assert len(events) > 10
    assert "restarting" in json.loads(events[-1])["error"]["message"]
    assert await asyncio.to_thread(own_suite.wait) == 0, own_suite.tail()
    assert "Traceback" not in own_suite.tail()
