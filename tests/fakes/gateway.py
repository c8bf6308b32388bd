"""Neighbours of the gateway that do what a test tells them, and a clock that stands still."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from services.common.batching import Company
from services.common.errors import WeaverError
from services.gateway import openai
from services.gateway.admission import Capacity, Door
from services.gateway.authentication import APIKeys, Authenticator
from services.gateway.authorization import Authorizer, Scope
from services.gateway.calls import Call, Surface
from services.gateway.catalogue import Catalogue
from services.gateway.content import Content
from services.gateway.events import CaptureRule, Event, LimitDecision, RecordReference, Usage
from services.gateway.exchange import Unrecorded
from services.gateway.pipeline import Pipeline, PipelineSettings
from services.gateway.ports import (
    Admission,
    Answer,
    Generation,
    ModelCall,
    ModelInfo,
    StreamChunk,
    StreamEnd,
    StreamStart,
    StreamStep,
)
from services.gateway.principal import Principal
from services.gateway.recorder import Recorder
from services.gateway.refusals import Refusals

KEY = "a-key"
CHAT = Surface("chat.completions", Scope.GENERATE, openai.chat, "OPENAI_CHAT")
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
STREAM_BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
GENERATION = Generation("fake", "m-1", Usage(3, 5), 7, "v1", 1, "stop", 0.25)


class StillClock:
    """A clock that a test turns."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class FakeLog:
    """A log that keeps events, can be closed like a gate, and can refuse."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.errors: list[WeaverError | Exception] = []
        self.refuses: Callable[[Event], WeaverError | None] = lambda _: None
        self.attempts: list[list[Event]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def append(self, events: Sequence[Event]) -> Sequence[RecordReference]:
        self.attempts.append(list(events))
        self.asked.set()
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        for refusal in filter(None, map(self.refuses, events)):
            raise refusal
        start = len(self.events)
        self.events += events
        return [RecordReference("log", start + number) for number in range(len(events))]


class FakeLimiter:
    """A limiter that admits, or says what it was told to say."""

    def __init__(self) -> None:
        self.admission = Admission(b"r" * 16, admitted=True, decision=LimitDecision("admitted"))
        self.error: WeaverError | None = None
        self.reserved: list[tuple[Principal, str, int, int]] = []
        self.settled: list[tuple[Usage | None, int]] = []

    async def reserve(
        self, principal: Principal, model: str, *, tokens: int, cost_micros: int
    ) -> Admission:
        if self.error is not None:
            raise self.error
        self.reserved.append((principal, model, tokens, cost_micros))
        return self.admission

    def settle(
        self, principal: Principal, admission: Admission, usage: Usage | None, cost_micros: int
    ) -> None:
        self.settled.append((usage, cost_micros))


class FakeModel:
    """A model service that gives a prepared answer."""

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []
        self.answer = b'{"choices":[]}'
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()
        self.closed = 0
        self.steps: list[StreamStep | Exception] = [
            StreamStart("text/event-stream", ()),
            StreamChunk(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', False),
            StreamChunk(b"data: [DONE]\n\n", True),
            StreamEnd(GENERATION),
        ]

    async def generate(self, call: ModelCall, *, timeout_s: float) -> Answer:
        self.calls.append(call)
        self.asked.set()
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return Answer(self.answer, "application/json", (), GENERATION)

    async def stream(self, call: ModelCall) -> AsyncGenerator[StreamStep, None]:
        self.calls.append(call)
        self.asked.set()
        try:
            for step in self.steps:
                await self.open.wait()
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed += 1

    async def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("m", "fake", 0, 0, 1_000_000, 2_000_000, 0)]


class FakeObserver:
    """Keeps what the recorder says."""

    def __init__(self) -> None:
        self.stalls: list[WeaverError | None] = []
        self.rejections: list[WeaverError] = []
        self.replacements: list[WeaverError] = []
        self.count = 0

    def recorded(self, events: int) -> None:
        self.count += events

    def stalled(self, error: WeaverError | None) -> None:
        self.stalls.append(error)

    def replaced(self, error: WeaverError) -> None:
        self.replacements.append(error)

    def rejected(self, error: WeaverError) -> None:
        self.rejections.append(error)


class Suite:
    """A pipeline with its fakes."""

    def __init__(  # noqa: PLR0913 - what tests vary
        self,
        *,
        redact: bool = True,
        content: Content | None = None,
        roles: tuple[str, ...] = ("user",),
        capture: CaptureRule | None = None,
        unrecorded: Unrecorded | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self.clock = StillClock()
        self.door = Door(capacity or Capacity(), self.clock)
        self.log = FakeLog()
        self.limiter = FakeLimiter()
        self.model = FakeModel()
        self.observer = FakeObserver()
        self.refusals = Refusals(self.clock)
        self.recorder = Recorder(
            self.log, self.observer, instance="gateway-t", clock=self.clock, patience_s=0.0
        )
        self.pipeline = Pipeline(
            authenticator=Authenticator(APIKeys([KEY], tenant="t", roles=roles), None),
            authorizer=Authorizer(),
            door=self.door,
            catalogue=Catalogue(self.model, self.clock),
            limiter=self.limiter,
            model=self.model,
            recorder=self.recorder,
            refusals=self.refusals,
            clock=self.clock,
            settings=PipelineSettings(
                content=content or Content(redact=redact),
                max_output_tokens=100,
                request_timeout_s=1.0,
                stream_idle_timeout_s=1.0,
                capture=capture,
            ),
            http_status=lambda error: 500,
            error_event=openai.error_event,
            company=Company(),
            unrecorded=unrecorded,
        )

    def call(self, body: bytes = BODY, *, key: str = KEY) -> Call:
        headers = {"authorization": f"Bearer {key}"}
        return Call(
            "req-1",
            CHAT,
            body,
            lambda name: headers.get(name, ""),
            "192.0.2.0/24",
            "0" * 32,
            self.clock.monotonic(),
        )

    async def settle(self) -> None:
        """Let everything that is under way in the background end."""
        await self.recorder.close(1.0)

    def refused(self) -> list[Event]:
        return list(self.refusals.take(everything=True))
