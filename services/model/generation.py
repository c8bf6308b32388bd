"""One model call from beginning to end: targets in order, tries, time, what was used.

A target is tried again only before the first byte of its answer, inside the caller's deadline, and
only for what may pass by itself. It refuses to hide anything: every try is in what it returns.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from services.common.clock import Clock
from services.common.deadlines import deadline_in
from services.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    WeaverError,
)
from services.model import capability, splice
from services.model.call import OPERATIONS, Answer, Call, Chunk, Generation, Headers
from services.model.failure import ProviderError, crowded, resting, worse
from services.model.gate import GateFullError
from services.model.ports import Health, Meter, Provider, Stream
from services.model.retry import RetryPolicy
from services.model.route import Route, Routes, Target
from services.model.trial import Trial, summary, told

_Result = TypeVar("_Result")
_Act = Callable[[Provider, Call], Awaitable[_Result]]
_MARGIN_S = 0.05
_THROTTLED_S = 1.0
"""How long other targets are preferred to one that throttles and does not say for how long."""
_LONG_SILENCE_S = 10.0
"""A caller's deadline that passed after so long says something of the target."""


class Generator:
    """Answers calls.

    Args:
        routes: the public models.
        retries: when a target is tried again.
        clock: for durations.
        meter: where figures are kept.
        health: where the state of providers is told.
        trial: notes the tries of one call.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the wiring of calls
        self,
        routes: Routes,
        retries: RetryPolicy,
        clock: Clock,
        meter: Meter,
        health: Health,
        trial: type[Trial] = Trial,
    ) -> None:
        """See the class."""
        self._trial = trial
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
        operation = OPERATIONS[call.dialect]
        trial = self._trial(self._clock, self._meter, self._health, operation)
        answer = await self._answered(call, trial, _generate)
        return answer, trial.generation(answer.facts, call.body)

    async def open(self, call: Call) -> "GenerationStream":
        """Return the answer as a stream, once its first event is here.

        Raises:
            WeaverError: there is none, in the words that the caller is told.
        """
        operation = OPERATIONS[call.dialect]
        trial = self._trial(self._clock, self._meter, self._health, operation)
        started = self._clock.monotonic()
        stream = await self._answered(call, trial, _open)
        total_s = self.routes.find(call.model).total_s
        end_s = None if total_s is None else started + total_s
        return GenerationStream(stream, trial, call.body, self._clock, end_s)

    async def _answered(self, call: Call, trial: Trial, act: _Act[_Result]) -> _Result:
        route = self.routes.find(call.model)
        if route.capabilities:
            capability.check(call.body, call.dialect, route.capabilities)
        route.budget.earn()
        end_s = self._end_s(call.timeout_s, route.total_s)
        try:
            with deadline_in(_left(end_s, self._clock)):
                return await self._through(route, call, trial, act, end_s)
        except TimeoutError:
            sentence = "The provider did not answer before the deadline."
            self._blame_for_silence(trial)
            trial.end("DEADLINE_EXCEEDED", 0, sentence)
            raise DeadlineExceeded(sentence, metadata=summary(trial.attempts)) from None
        except asyncio.CancelledError:
            trial.end("CANCELLED", 0)
            raise
        except ProviderError as failure:
            error = failure.error
            error.metadata = {**error.metadata, **summary(trial.attempts)}
            if failure.retryable and isinstance(error, ResourceExhausted):
                error.retry_after_s = error.retry_after_s or _THROTTLED_S
            raise error from None

    async def _through(
        self, route: Route, call: Call, trial: Trial, act: _Act[_Result], end_s: float | None
    ) -> _Result:
        targets = route.order(call.dialect, self._clock.monotonic())
        told: ProviderError | None = None
        for number, target in enumerate(targets, 1):
            try:
                return await self._persist(
                    route,
                    target,
                    call,
                    trial,
                    act,
                    end_s=end_s,
                    alternative=number < len(targets),
                )
            except ProviderError as failure:
                if failure.final:
                    raise
                told = failure if told is None else worse(told, failure)
        assert told is not None  # noqa: S101 - a route has targets
        raise told

    async def _persist(  # noqa: PLR0913 - what one call at one target consists of
        self,
        route: Route,
        target: Target,
        call: Call,
        trial: Trial,
        act: _Act[_Result],
        *,
        end_s: float | None,
        alternative: bool,
    ) -> _Result:
        asked = _for_target(call, route.name_at(target, call.model))
        retries = route.retries or self._retries
        gate, breaker = target.gate, target.breaker
        tries = 0
        last: ProviderError | None = None
        while True:
            await self._enter(target, last)
            tries += 1
            trial.begin(target, asked.model)
            try:
                result = await act(target.provider, asked)
            except ProviderError as failure:
                gate.leave()
                last = failure
                if failure.elsewhere:
                    trial.forget()
                    breaker.withdrawn()
                    raise
                error = failure.error
                trial.end(error.reason, failure.http_status, error.message)
                self._judge(route, target, failure)
                left_s = _left(end_s, self._clock)
                wait_s = retries.wait_s(failure, tries, left_s, alternative=alternative)
                if wait_s is None or not route.budget.spend(self._clock.monotonic()):
                    raise
                await asyncio.sleep(wait_s)
            except BaseException:
                gate.leave()
                breaker.withdrawn()
                raise
            else:
                breaker.succeeded(trial.end(goes_on=act is _open))
                if act is not _open:
                    gate.leave()
                return result

    async def _enter(self, target: Target, last: ProviderError | None) -> None:
        """Take a place at a target that does not rest.

        Raises:
            ProviderError: there is none; `last` where that is why.
        """
        gate, breaker = target.gate, target.breaker
        if not gate.try_enter():
            try:
                await gate.enter()
            except GateFullError:
                self._meter.skipped(target.provider.name, target.model, "full")
                raise last or crowded() from None
        now = self._clock.monotonic()
        if not breaker.admit(now):
            gate.leave()
            self._meter.skipped(target.provider.name, target.model, "open")
            raise last or resting(breaker.wait_s(now))

    def _judge(self, route: Route, target: Target, failure: ProviderError) -> None:
        """Tell a target's breaker what a failure says of the target."""
        now = self._clock.monotonic()
        error = failure.error
        if isinstance(error, InvalidArgument | ResourceExhausted):
            target.breaker.succeeded(now)
        else:
            target.breaker.failed(now, (other.breaker for other in route.targets))
        if isinstance(error, ResourceExhausted) or error.retry_after_s is not None:
            target.breaker.cool(now, error.retry_after_s or _THROTTLED_S)

    def _blame_for_silence(self, trial: Trial) -> None:
        """Count a deadline that passed against the target, if it had time enough to answer."""
        if trial.under_way_s >= _LONG_SILENCE_S:
            trial.target.breaker.failed(self._clock.monotonic())

    def _end_s(self, timeout_s: float | None, total_s: float | None) -> float | None:
        if timeout_s is not None:
            timeout_s = _shaved(timeout_s)
        if total_s is not None:
            timeout_s = total_s if timeout_s is None else min(timeout_s, total_s)
        return None if timeout_s is None else self._clock.monotonic() + timeout_s


class GenerationStream:
    """An answer while it arrives.

    Args:
        stream: the provider's.
        trial: the tries that led to it; the target of the last one keeps a place for it.
        request_body: what was asked.
        clock: for durations.
        end_s: when it must have ended, on the monotonic clock; None for no such time.
    """

    def __init__(
        self,
        stream: Stream,
        trial: Trial,
        request_body: bytes,
        clock: Clock,
        end_s: float | None = None,
    ) -> None:
        """See the class."""
        self.content_type: str = stream.content_type
        self.headers: Headers = (*stream.headers, *told(trial.attempts))
        self.error: WeaverError | None = None
        """Why the answer is not whole; None while it arrives, and when it is."""
        self._stream = stream
        self._trial = trial
        self._request_body = request_body
        self._clock = clock
        self._end_s = end_s
        self._ended = False

    async def read(self) -> Chunk | None:
        """Return the next events; None at the end, whole or not."""
        started = self._clock.monotonic()
        breaker = self._trial.target.breaker
        try:
            if self._end_s is None:
                chunk = await self._stream.read()
            else:
                async with asyncio.timeout(max(0.0, self._end_s - started)):
                    chunk = await self._stream.read()
        except ProviderError as failure:
            self.error = failure.error
            breaker.failed(self._clock.monotonic())
        except TimeoutError:
            self.error = DeadlineExceeded("The answer took longer than the model's time-out.")
        else:
            if chunk is not None:
                return chunk
        finally:
            self._trial.spent_s += self._clock.monotonic() - started
        if self.error is None:
            self._end()
        else:
            self._end(self.error.reason, self.error.message)
        return None

    def generation(self) -> Generation:
        """Return what is known about the call; to be asked once, after the end."""
        return self._trial.generation(self._stream.facts, self._request_body)

    async def aclose(self) -> None:
        """Let go of the provider, wherever the answer stands."""
        if not self._ended:
            self._end("CANCELLED")
        await self._stream.aclose()

    def _end(self, error: str = "", detail: str = "") -> None:
        self._ended = True
        self._trial.end_stream(error, detail)
        self._trial.target.gate.leave()


async def _generate(provider: Provider, call: Call) -> Answer:
    return await provider.generate(call)


async def _open(provider: Provider, call: Call) -> Stream:
    return await provider.open(call)


def _for_target(call: Call, model: str) -> Call:
    if model == call.model:
        return call
    name = msgspec.json.encode(model)
    body = splice.replace_field(call.body, b"model", name)
    return msgspec.structs.replace(call, model=model, body=body)


def _shaved(timeout_s: float) -> float:
    """Leave a little of the caller's time for the way back."""
    return timeout_s - min(_MARGIN_S, timeout_s * 0.05)


def _left(end_s: float | None, clock: Clock) -> float | None:
    return None if end_s is None else max(0.0, end_s - clock.monotonic())
