"""One model call from beginning to end: targets in order, tries, time, what was used.

A target is tried again only before the first byte of its answer, inside the caller's deadline, and
only for what may pass by itself. It refuses to hide anything: every try is in what it returns.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from services.common.clock import Clock
from services.common.errors import DeadlineExceeded, InvalidArgument, WeaverError
from services.model import splice
from services.model.call import Answer, Call, Chunk, Generation, Headers
from services.model.failure import ProviderError
from services.model.ports import Health, Meter, Provider, Stream
from services.model.retry import RetryPolicy
from services.model.route import Routes, Target
from services.model.trial import Trial

_Result = TypeVar("_Result")
_Act = Callable[[Provider, Call], Awaitable[_Result]]
_MARGIN_S = 0.05


class Generator:
    """Answers calls.

    Args:
        routes: the public models.
        retries: when a target is tried again.
        clock: for durations.
        meter: where figures are kept.
        health: where the state of providers is told.
    """

    def __init__(
        self, routes: Routes, retries: RetryPolicy, clock: Clock, meter: Meter, health: Health
    ) -> None:
        """See the class."""
        self.routes = routes
        self._retries = retries
        self._clock = clock
        self._meter = meter
        self._health = health

    async def generate(self, call: Call) -> tuple[Answer, Generation]:
        """Return the whole answer and what is known about it.

        Raises:
            WeaverError: there is none, in the words that the caller is told.
        """
        trial = Trial(self._clock, self._meter, self._health)
        answer = await self._answered(call, trial, _generate)
        return answer, trial.generation(answer.facts, call.body)

    async def open(self, call: Call) -> "GenerationStream":
        """Return the answer as a stream, once its first event is here.

        Raises:
            WeaverError: there is none, in the words that the caller is told.
        """
        trial = Trial(self._clock, self._meter, self._health)
        stream = await self._answered(call, trial, _open)
        return GenerationStream(stream, trial, call.body, self._clock)

    async def _answered(self, call: Call, trial: Trial, act: _Act[_Result]) -> _Result:
        targets = self.routes.find(call.model).targets_for(call.dialect)
        end_s = None
        if call.timeout_s is not None:
            end_s = self._clock.monotonic() + _shaved(call.timeout_s)
        try:
            async with asyncio.timeout(_left(end_s, self._clock)):
                return await self._through(targets, call, trial, act, end_s)
        except TimeoutError:
            sentence = "The provider did not answer before the deadline."
            trial.end("DEADLINE_EXCEEDED", 0, sentence)
            raise DeadlineExceeded(sentence, metadata=_tries(trial)) from None
        except asyncio.CancelledError:
            trial.end("CANCELLED", 0)
            raise
        except ProviderError as failure:
            failure.error.metadata = {**failure.error.metadata, **_tries(trial)}
            raise failure.error from None

    async def _through(
        self,
        targets: tuple[Target, ...],
        call: Call,
        trial: Trial,
        act: _Act[_Result],
        end_s: float | None,
    ) -> _Result:
        for target in targets[:-1]:
            try:
                return await self._persist(target, call, trial, act, end_s)
            except ProviderError as failure:
                if isinstance(failure.error, InvalidArgument):
                    raise
        return await self._persist(targets[-1], call, trial, act, end_s)

    async def _persist(
        self,
        target: Target,
        call: Call,
        trial: Trial,
        act: _Act[_Result],
        end_s: float | None,
    ) -> _Result:
        asked = _for_target(call, target)
        tries = 0
        while True:
            tries += 1
            trial.begin(target)
            try:
                result = await act(target.provider, asked)
            except ProviderError as failure:
                error = failure.error
                trial.end(error.reason, failure.http_status, error.message)
                wait_s = self._retries.wait_s(failure, tries, _left(end_s, self._clock))
                if wait_s is None:
                    raise
                await asyncio.sleep(wait_s)
            else:
                trial.end(goes_on=act is _open)
                return result


class GenerationStream:
    """An answer while it arrives.

    Args:
        stream: the provider's.
        trial: the tries that led to it.
        request_body: what was asked.
        clock: for durations.
    """

    def __init__(self, stream: Stream, trial: Trial, request_body: bytes, clock: Clock) -> None:
        """See the class."""
        self.content_type: str = stream.content_type
        self.headers: Headers = stream.headers
        self.error: WeaverError | None = None
        """Why the answer is not whole; None while it arrives, and when it is."""
        self._stream = stream
        self._trial = trial
        self._request_body = request_body
        self._clock = clock
        self._ended = False

    async def read(self) -> Chunk | None:
        """Return the next events; None at the end, whole or not."""
        started = self._clock.monotonic()
        try:
            chunk = await self._stream.read()
        except ProviderError as failure:
            self.error = failure.error
        else:
            if chunk is not None:
                return chunk
        finally:
            self._trial.spent_s += self._clock.monotonic() - started
        self._ended = True
        if self.error is None:
            self._trial.end_stream()
        else:
            self._trial.end_stream(self.error.reason, self.error.message)
        return None

    def generation(self) -> Generation:
        """Return what is known about the call; to be asked once, after the end."""
        return self._trial.generation(self._stream.facts, self._request_body)

    async def aclose(self) -> None:
        """Let go of the provider, wherever the answer stands."""
        if not self._ended:
            self._ended = True
            self._trial.end_stream("CANCELLED")
        await self._stream.aclose()


async def _generate(provider: Provider, call: Call) -> Answer:
    return await provider.generate(call)


async def _open(provider: Provider, call: Call) -> Stream:
    return await provider.open(call)


def _for_target(call: Call, target: Target) -> Call:
    if target.model == call.model:
        return call
    name = msgspec.json.encode(target.model)
    body = splice.replace_field(call.body, b"model", name)
    return msgspec.structs.replace(call, model=target.model, body=body)


def _tries(trial: Trial) -> dict[str, str]:
    provider = trial.attempts[-1].provider if trial.attempts else ""
    return {"provider": provider, "attempts": str(len(trial.attempts))}


def _shaved(timeout_s: float) -> float:
    """Leave a little of the caller's time for the way back."""
    return timeout_s - min(_MARGIN_S, timeout_s * 0.05)


def _left(end_s: float | None, clock: Clock) -> float | None:
    return None if end_s is None else max(0.0, end_s - clock.monotonic())
