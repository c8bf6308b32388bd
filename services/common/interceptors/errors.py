"""Turns errors into a status: the only place that aborts a call."""

import asyncio
from typing import Any

import grpc
import structlog

from services.common import logs
from services.common.errors import Internal, Unimplemented, WeaverError
from services.common.interceptors.call_metrics import CallMetrics
from services.common.interceptors.chain import Behaviour, Method
from services.common.interceptors.telemetry import outcome
from services.common.status import http_status, to_status

_log = structlog.get_logger()


class Errors:
    """Applies the table of `services.common.status`; anything unexpected is logged and INTERNAL.

    Args:
        metrics: learns the HTTP status of each error; None where nobody asks.
    """

    def __init__(self, metrics: CallMetrics | None = None) -> None:
        """See the class."""
        self._metrics = CallMetrics() if metrics is None else metrics

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour with its errors as statuses."""
        failed = self._metrics.of(method.path).failed

        async def guarded(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            try:
                return await behaviour(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except grpc.aio.InternalError:
                # What gRPC makes of a write to a caller that has left, before it cancels the call.
                raise asyncio.CancelledError from None
            except Exception as raised:  # noqa: BLE001 - the caller must not see it
                error = raised
                # What a generated servicer does for a method that ours lacks.
                if (
                    isinstance(raised, NotImplementedError)
                    and outcome(context, raised) == "UNIMPLEMENTED"
                ):
                    error = Unimplemented("Not served here.")
                if isinstance(error, Internal) or not isinstance(error, WeaverError):
                    _log.exception("unexpected error", method=method.path)
                failed(http_status(error))
                code, message, trailers = to_status(error, logs.request_id.get())
                own = tuple(context.trailing_metadata() or ())
                await context.abort(code, message, own + trailers)

        return guarded
