"""Providers and streams from a script, and a place that keeps what is counted."""

import asyncio
from collections import deque

from services.model.call import Answer, Call, Chunk, Dialect, Facts, Usage
from services.model.failure import ProviderError

Step = Chunk | ProviderError | None


class FakeStream:
    """A stream from a script."""

    content_type = "text/event-stream"
    headers = (("x", "y"),)

    def __init__(self, facts: Facts, *steps: Step) -> None:
        self.facts = facts
        self.steps = deque(steps)
        self.closed = False

    async def read(self) -> Chunk | None:
        await asyncio.sleep(1)
        step = self.steps.popleft()
        if isinstance(step, ProviderError):
            raise step
        return step

    async def aclose(self) -> None:
        self.closed = True


class FakeProvider:
    """A provider from a script; a float is silence."""

    dialects = frozenset({Dialect.OPENAI_CHAT})

    def __init__(self, *script: Answer | FakeStream | Exception | float, name: str = "one") -> None:
        self.name = name
        self.script = deque(script)
        self.calls: list[Call] = []

    async def generate(self, call: Call) -> Answer:
        step = await self._next(call)
        assert isinstance(step, Answer)
        return step

    async def open(self, call: Call) -> FakeStream:
        step = await self._next(call)
        assert isinstance(step, FakeStream)
        return step

    async def _next(self, call: Call) -> object:
        self.calls.append(call)
        step = self.script.popleft()
        await asyncio.sleep(step if isinstance(step, float) else 1)
        if isinstance(step, Exception):
            raise step
        return step


class Figures:
    """Keeps what is counted, and what is told of health."""

    def __init__(self) -> None:
        self.attempts: list[str] = []
        self.first_bytes: list[float] = []
        self.used: list[Usage] = []
        self.passed_over: list[str] = []
        self.states: list[tuple[str, bool, str]] = []

    def attempt(
        self, provider: str, model: str, status: str, duration_s: float, operation: str
    ) -> None:
        self.attempts.append(f"{provider} {model} {status} {duration_s:.0f}")

    def first_byte(self, provider: str, model: str, duration_s: float, operation: str) -> None:
        self.first_bytes.append(duration_s)

    def tokens(
        self, provider: str, model: str, usage: Usage, cost_micros: int, operation: str
    ) -> None:
        self.used.append(usage)

    def skipped(self, provider: str, model: str, reason: str) -> None:
        self.passed_over.append(f"{provider} {model} {reason}")

    def set(self, name: str, serving: bool, detail: str = "") -> None:
        self.states.append((name, serving, detail))
