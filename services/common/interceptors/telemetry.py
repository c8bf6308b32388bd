"""Ties a call to its trace and request id, counts and times it."""

import asyncio
import re
import time
from typing import Any

import grpc

from services.common import logs, telemetry
from services.common.identifiers import hex128
from services.common.interceptors.call_metrics import CallMetrics, waited
from services.common.interceptors.chain import Behaviour, Method
from services.common.telemetry import Tracing

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_trace_of = re.compile(r"[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_is_request_id = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}").fullmatch


def outcome(context: Any, error: BaseException | None) -> str:  # noqa: ANN401 - gRPC's
    """Return the name of the code that a call ends with."""
    if error is None:
        return "OK"
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _NAMES.get(code, "UNKNOWN")


class Telemetry:
    """Sets the context variables of `services.common.logs`, counts and times.

    Args:
        metrics: where to count.
        service: the `service` of log lines.
        trusted: whether the peers of this listener may choose request ids, and are sampled.
        tracing: how the service traces; None with telemetry off.
        begins: whether calls begin traces here; else those that belong to none stay so.
    """

    def __init__(
        self,
        metrics: CallMetrics,
        service: str,
        *,
        trusted: bool,
        tracing: Tracing | None = None,
        begins: bool = True,
    ) -> None:
        """See the class."""
        self._begins = begins
        self._tracing = tracing
        self._metrics = metrics
        self._service = service
        self._trusted = trusted

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour, observed."""
        if self._tracing is not None:
            behaviour = telemetry.traced(
                self._tracing,
                method.path,
                behaviour,
                outcome,
                trusted=self._trusted,
                begins=self._begins,
            )
        observe = self._metrics.of(method.path).observe
        identify, clock, told = self._identify, time.perf_counter, waited.get

        async def observed(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            identify(context)
            start = clock()
            try:
                response = await behaviour(request, context)
            except BaseException as error:
                observe(outcome(context, error), clock() - start)
                raise
            observe("OK", clock() - start, told())
            return response

        return observed

    def _identify(self, context: Any) -> None:  # noqa: ANN401 - gRPC's
        trace = request = ""
        for key, value in context.invocation_metadata():
            if key == "traceparent":
                found = _trace_of(value)
                trace = found[1] if found else ""
            elif key == "x-request-id" and self._trusted and _is_request_id(value):
                request = value
        logs.service.set(self._service)
        logs.trace_id.set(trace or hex128())
        logs.request_id.set(request or hex128())
