"""The tries of one call, as they are made: noted, counted, logged, told to health."""

import logging
from collections.abc import Sequence

import msgspec
import structlog

from services.common.clock import Clock
from services.model.call import CHAT, Attempt, Facts, Generation, Headers
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
        operation: what is done, as `OPERATIONS` names it.
    """

    def __init__(self, clock: Clock, meter: Meter, health: Health, operation: str = CHAT) -> None:
        """See the class."""
        self.operation = operation
        self.attempts: list[Attempt] = []
        self.spent_s = 0.0
        """Time spent waiting for providers, pauses between tries left out."""
        self._clock = clock
        self._meter = meter
        self._health = health
        self._target: Target
        self._model = ""
        self._started: float | None = None

    @property
    def target(self) -> Target:
        """The target of the last try."""
        return self._target

    def begin(self, target: Target, model: str) -> None:
        """Note that a target is being asked for a model, by its own name for it."""
        self._target = target
        self._model = model
        self._started = self._clock.monotonic()

    @property
    def under_way_s(self) -> float:
        """How long the try under way has taken; 0 when there is none."""
        return 0.0 if self._started is None else self._clock.monotonic() - self._started

    def forget(self) -> None:
        """Note that the target was not called after all."""
        self._started = None

    def end(
        self, error: str = "", http_status: int = 200, detail: str = "", *, goes_on: bool = False
    ) -> float:
        """Note how the try under way ended, nothing if none is; return the monotonic time.

        Args:
            error: the reason it failed; empty when it did not.
            http_status: the provider's status; 0 when it gave none.
            detail: a sentence for operators.
            goes_on: whether this is but the beginning of a stream, which is counted at its end.
        """
        now = self._clock.monotonic()
        if self._started is None:
            return now
        duration_s = now - self._started
        self._started = None
        self.spent_s += duration_s
        provider = self._target.provider.name
        self.attempts.append(Attempt(provider, self._model, http_status, error, duration_s))
        if goes_on:
            self._meter.first_byte(provider, self._target.model, duration_s, self.operation)
        else:
            self._count(error, duration_s, detail)
        return now

    def end_stream(self, error: str = "", detail: str = "") -> None:
        """Note how a stream ended that had begun well; the last try bears its failure."""
        last = self.attempts[-1]
        self.attempts[-1] = msgspec.structs.replace(last, error=error)
        self._count(error, self.spent_s, detail)

    def _count(self, error: str, duration_s: float, detail: str) -> None:
        last = self.attempts[-1]
        status = error.lower() or "ok"
        self._meter.attempt(last.provider, self._target.model, status, duration_s, self.operation)
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
        cost_micros = target.prices.cost_micros(usage)
        self._meter.tokens(target.provider.name, target.model, usage, cost_micros, self.operation)
        return Generation(
            target.provider.name,
            facts.model or self._model,
            usage,
            cost_micros,
            target.prices.version,
            tuple(self.attempts),
            facts.finish_reason,
            self.spent_s,
        )


def told(attempts: Sequence[Attempt]) -> Headers:
    """Return the response headers that say what happened: who answered, and after how many tries.

    Args:
        attempts: in order; the last one answered. Without any there is nothing to say.
    """
    if not attempts:
        return ()
    headers = (
        ("x-weaver-provider", attempts[-1].provider),
        ("x-weaver-attempts", str(len(attempts))),
    )
    if len(attempts) == 1:
        return headers
    return (*headers, ("x-weaver-retry-reason", attempts[-2].error.lower()))


def summary(attempts: Sequence[Attempt]) -> dict[str, str]:
    """Return the same for an error: short facts, and each try in a few words."""
    tries = ", ".join(
        f"{one.provider}/{one.model} {one.error.lower() or 'ok'} {one.http_status or '-'}"
        for one in attempts
    )
    facts = {"attempts": str(len(attempts))}
    return facts | {"provider": attempts[-1].provider, "tries": tries[:200]} if attempts else facts
