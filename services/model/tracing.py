"""A span for each try of a provider, by the conventions for generative models.

It says who was asked for which model, how it ended and what was used; nothing of what was asked or
answered. It stands in for `Trial` where telemetry is on.
"""

from typing import Any, Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from services.common import telemetry
from services.model.call import Facts, Generation
from services.model.route import Target
from services.model.trial import Trial

_LONGEST_NAME: Final = 128


class TracedTrial(Trial):
    """The tries of one call, each with its span; see `Trial`."""

    _span: Span | None = None

    def begin(self, target: Target, model: str) -> None:
        """Note that a target is being asked for a model."""
        super().begin(target, model)
        active = telemetry.scope.get()
        if active is None:
            return
        name = model[:_LONGEST_NAME]
        about: dict[str, Any] = {
            "gen_ai.operation.name": self.operation,
            "gen_ai.provider.name": target.provider.name,
            "gen_ai.request.model": name,
            "weaver.attempt": len(self.attempts) + 1,
        }
        self._span = active.start(f"{self.operation} {name}", about, SpanKind.CLIENT).span

    def forget(self) -> None:
        """Note that the target was not called after all; a span that never ends is never sent."""
        super().forget()
        self._span = None

    def end(
        self, error: str = "", http_status: int = 200, detail: str = "", *, goes_on: bool = False
    ) -> float:
        """Note how the try under way ended; one that went well says later what it used."""
        now = super().end(error, http_status, detail, goes_on=goes_on)
        span = self._span
        if span is None:
            return now
        if http_status:
            span.set_attribute("http.response.status_code", http_status)
        if goes_on:
            first_s = self.attempts[-1].duration_s
            span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)
        if error:
            self._fail(error)
        return now

    def end_stream(self, error: str = "", detail: str = "") -> None:
        """Note how a stream ended that had begun well."""
        super().end_stream(error, detail)
        if error:
            self._fail(error)

    def generation(self, facts: Facts, request_body: bytes) -> Generation:
        """Return what is known about the call, and put it onto the span of the last try."""
        known = super().generation(facts, request_body)
        span, self._span = self._span, None
        if span is not None:
            span.set_attributes(
                {
                    "gen_ai.response.model": known.model[:_LONGEST_NAME],
                    "gen_ai.usage.input_tokens": known.usage.input_tokens,
                    "gen_ai.usage.output_tokens": known.usage.output_tokens,
                }
            )
            if known.usage.cached_input_tokens:
                cached = known.usage.cached_input_tokens
                span.set_attribute("gen_ai.usage.cache_read.input_tokens", cached)
            if known.finish_reason:
                span.set_attribute("gen_ai.response.finish_reasons", (known.finish_reason,))
            span.end()
        return known

    def _fail(self, error: str) -> None:
        span, self._span = self._span, None
        if span is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))
            span.end()
