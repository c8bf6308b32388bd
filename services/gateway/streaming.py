"""An answer on its way to the client, chunk by chunk.

Chunks pass as they arrive. The events that say the answer is complete are held back until the
outcome is durable. After the first byte nothing aborts: an answer that breaks off ends with the
dialect's error event, and no event that says it is complete.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import structlog

from services.common.errors import DeadlineExceeded, Internal, Unavailable, WeaverError
from services.gateway.calls import Headers
from services.gateway.events import RecordReference
from services.gateway.exchange import REDACTED_AT_ONCE, Exchange
from services.gateway.ports import (
    Admission,
    Generation,
    StreamChunk,
    StreamEnd,
    StreamStart,
    StreamStep,
)
from services.gateway.stream_redaction import StreamRedactor

_log = structlog.get_logger()


class Stream:
    """One streamed response; see `services.gateway.calls.StreamedResponse`.

    Args:
        exchange: the admitted request, opened.
        start: the provider's first step.
        steps: the steps that follow.
        idle_timeout_s: how long the provider may say nothing.
        outcome_timeout_s: how long the log may take to make the outcome durable.
        error_event: writes the dialect's error event.
    """

    def __init__(  # noqa: PLR0913 - wiring of one response
        self,
        exchange: Exchange,
        start: StreamStart,
        steps: AsyncGenerator[StreamStep, None],
        *,
        idle_timeout_s: float,
        outcome_timeout_s: float,
        error_event: Callable[[WeaverError, str], bytes],
    ) -> None:
        """See the class."""
        self.content_type = start.content_type
        self.headers: Headers = start.headers
        self.record: RecordReference | None = None
        self.generation = Generation()
        self.error: WeaverError | None = None
        self._known: Generation | None = None
        self._waiting: asyncio.Timeout | None = None
        self._stopped: WeaverError | None = None
        self._events = 0
        self._held: list[bytes] = []
        self._exchange = exchange
        self._steps = steps
        self._idle_timeout_s = idle_timeout_s
        self._outcome_timeout_s = outcome_timeout_s
        self._error_event = error_event
        self._received = exchange.answer_commitments.running("ANSWER_RECEIVED")
        self._sent = exchange.answer_commitments.running("ANSWER_SENT")
        redaction = exchange.call.surface.redaction or StreamRedactor
        self._redactor = None if exchange.redactor is None else redaction(exchange.redactor)

    @property
    def admission(self) -> Admission:
        """The limiter's verdict."""
        return self._exchange.admission

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield all of the answer but its end, piece by piece, whole events each."""
        step: StreamStep | WeaverError = await self._next()
        while isinstance(step, StreamChunk):
            try:
                piece = await self._redacted(step)
            except Exception:  # noqa: BLE001 - the stream must still end as its dialect says
                _log.exception("the stream of an answer could not be redacted")
                step = Internal("Internal error.")
                break
            if step.terminal:
                self._held.append(piece)
            elif piece:
                self._sent.update(piece)
                yield self._exchange.restored(piece)
            step = await self._next()
        if isinstance(step, StreamEnd):
            self.generation = self._known = step.generation
            self.error = _broken_off(step) if step.error else None
        elif isinstance(step, WeaverError):
            self.error = step

    async def last(self) -> bytes:
        """Record the outcome and return the end of the answer, or the error in its place."""
        held = b"".join(self._held)
        if self.error is None:
            self._sent.update(held)
        self._commit()
        if self.error is None:
            outcome = self._exchange.complete(self.generation)
        else:
            known = self._known or self._exchange.spent(self._events)
            outcome = self._exchange.interrupt(known, self.error.reason)
        try:
            self.record = await self._exchange.durable(outcome, self._outcome_timeout_s)
        except WeaverError as failure:
            self.error = self.error or failure
        if self.error is None:
            return self._exchange.restored(held)
        return self._error_event(self.error, self._exchange.call.request_id)

    def stop(self, reason: WeaverError) -> None:
        """End the answer where it is, with an error event; one that is complete already stays."""
        self._stopped = reason
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0.0)

    async def aclose(self) -> None:
        """End the response; before its end this cancels the provider."""
        self._exchange.place.leave()
        if not self._exchange.closed:
            self._commit()
            self._exchange.cancel(self._events)
        await self._steps.aclose()

    async def _next(self) -> StreamStep | WeaverError:
        """Return the next step, or the error that stands in its place."""
        if self._stopped is not None:
            return self._stopped
        try:
            async with asyncio.timeout(self._idle_timeout_s) as self._waiting:
                return await anext(self._steps)
        except TimeoutError:
            return self._stopped or DeadlineExceeded("The provider stopped answering.")
        except StopAsyncIteration:
            return Unavailable("The provider's answer ended too early.", reason="PROVIDER_FAILED")
        except WeaverError as error:
            return error
        except Exception:  # noqa: BLE001 - the stream must still end as its dialect says
            _log.exception("the stream of an answer failed")
            return Internal("Internal error.")
        finally:
            self._waiting = None

    async def _redacted(self, chunk: StreamChunk) -> bytes:
        self._received.update(chunk.body)
        # Providers send about one token an event; it only matters when the client leaves.
        self._events += chunk.body.count(b"\n\n")
        if self._redactor is None:
            return chunk.body
        if len(chunk.body) <= REDACTED_AT_ONCE:
            return self._redactor.events(chunk.body)
        # A provider in a hurry sends hundreds of events at once; others are waiting for the loop.
        return await asyncio.to_thread(self._redactor.events, chunk.body)

    def _commit(self) -> None:
        commitments = self._exchange.answer_commitments
        commitments.end("ANSWER_RECEIVED", self._received)
        commitments.end("ANSWER_SENT", self._sent)


def _broken_off(end: StreamEnd) -> WeaverError:
    kind = DeadlineExceeded if end.error == "DEADLINE_EXCEEDED" else Unavailable
    message = end.error_message or "The provider's answer broke off."
    return kind(message, reason=end.error)
