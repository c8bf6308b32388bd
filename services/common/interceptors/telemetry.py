"""Ties a call to its trace and request id, and counts and times it."""

import asyncio
import re
import secrets
import time
import uuid
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

import grpc

from services.common import logs
from services.common.interceptors.chain import Behaviour, Method

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


def outcome(context: Any, error: BaseException | None) -> str:  # noqa: ANN401 - gRPC's
    """Return the name of the code that a call ends with."""
    if error is None:
        return "OK"
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    code = context.code()
    return _NAMES.get(code, "UNKNOWN") if isinstance(code, int) else code.name


class CallMetrics:
    """The counters and histograms of a service's calls, shared by its listeners."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them."""
        self.handled = Counter(
            "grpc_server_handled",
            "Calls that are over.",
            ("grpc_method", "grpc_code"),
            registry=registry,
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took.",
            ("grpc_method",),
            registry=registry,
            buckets=_BUCKETS,
        )


class Telemetry:
    """Sets the context variables of `services.common.logs`, counts and times.

    Args:
        metrics: where to count.
        service: the `service` of log lines.
        trusted: whether the peers of this listener may choose request ids.
    """

    def __init__(self, metrics: CallMetrics, service: str, *, trusted: bool) -> None:
        """See the class."""
        self._metrics = metrics
        self._service = service
        self._trusted = trusted

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour, observed."""
        handled, path = self._metrics.handled, method.path
        observe = self._metrics.seconds.labels(path).observe
        counts = {"OK": handled.labels(path, "OK").inc}

        async def observed(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            self._identify(context)
            start = time.perf_counter()
            error: BaseException | None = None
            try:
                return await behaviour(request, context)
            except BaseException as raised:
                error = raised
                raise
            finally:
                observe(time.perf_counter() - start)
                code = outcome(context, error)
                count = counts.get(code)
                if count is None:
                    count = counts[code] = handled.labels(path, code).inc
                count()

        return observed

    def _identify(self, context: Any) -> None:  # noqa: ANN401 - gRPC's
        trace = request = ""
        for key, value in context.invocation_metadata() or ():
            if key == "traceparent":
                found = _TRACEPARENT.fullmatch(value)
                trace = found[1] if found else ""
            elif key == "x-request-id" and self._trusted and _REQUEST_ID.fullmatch(value):
                request = value
        logs.service.set(self._service)
        logs.trace_id.set(trace or secrets.token_hex(16))
        logs.request_id.set(request or uuid.uuid4().hex)
