"""The tries of one call, as they are made: noted, counted, logged, told to health."""

import logging

import msgspec
import structlog

from services.common.clock import Clock
from services.model.call import Attempt, Facts, Generation
from services.model.ports import Health, Meter
from services.model.route import Target
from services.model.usage import counted

_log = structlog.get_logger()

_UNHEALTHY = frozenset({"PROVIDER_FAILED", "DEADLINE_EXCEEDED"})


class Trial:
    """The tries of one call, as they are made and noted.

    Args:
        clock: tells how long each took.
        meter: counts them.
        health: learns whether the provider works.
    """

    def __init__(self, clock: Clock, meter: Meter, health: Health) -> None:
        """See the class."""
        self.attempts: list[Attempt] = []
        self.spent_s = 0.0
        """Time spent waiting for providers, pauses between tries left out."""
        self._clock = clock
        self._meter = meter
        self._health = health
        self._target: Target
        self._started: float | None = None

    def begin(self, target: Target) -> None:
        """Note that a target is being tried."""
        self._target = target
        self._started = self._clock.monotonic()

    def end(
        self, error: str = "", http_status: int = 200, detail: str = "", *, goes_on: bool = False
    ) -> None:
        """Note how the try under way ended; nothing if none is.

        Args:
            error: the reason it failed; empty when it did not.
            http_status: the provider's status; 0 when it gave none.
            detail: a sentence for operators.
            goes_on: whether this is but the beginning of a stream, which is counted at its end.
        """
        if self._started is None:
            return
        duration_s = self._clock.monotonic() - self._started
        self._started = None
        self.spent_s += duration_s
        provider, model = self._target.provider.name, self._target.model
        self.attempts.append(Attempt(provider, model, http_status, error, duration_s))
        if goes_on:
            self._meter.first_byte(provider, model, duration_s)
        else:
            self._count(error, duration_s, detail)

    def end_stream(self, error: str = "", detail: str = "") -> None:
        """Note how a stream ended that had begun well; the last try bears its failure."""
        last = self.attempts[-1]
        self.attempts[-1] = msgspec.structs.replace(last, error=error)
        self._count(error, self.spent_s, detail)

    def _count(self, error: str, duration_s: float, detail: str) -> None:
        last = self.attempts[-1]
        self._meter.attempt(last.provider, last.model, error.lower() or "ok", duration_s)
        if error == "CANCELLED":
            return
        failing = error in _UNHEALTHY
        self._health.set(f"provider:{last.provider}", not failing, detail if failing else "")
        if error:
            _log.log(
                logging.WARNING if failing else logging.INFO,
                "provider failed",
                provider=last.provider,
                model=last.model,
                http_status=last.http_status,
                reason=error,
                detail=detail if failing else "",
            )

    def generation(self, facts: Facts, request_body: bytes) -> Generation:
        """Return what is known about the call, and count its tokens.

        Args:
            facts: what the answer said about itself.
            request_body: what was asked, for an estimate where the provider gave no count.
        """
        target = self._target
        usage = counted(facts, request_body)
        self._meter.tokens(target.provider.name, target.model, usage)
        return Generation(
            target.provider.name,
            facts.model or target.model,
            usage,
            target.prices.cost_micros(usage),
            target.prices.version,
            tuple(self.attempts),
            facts.finish_reason,
            self.spent_s,
        )
