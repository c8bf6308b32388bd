"""Writes one line for each call, when it is over."""

import time
from typing import Any

import structlog

from services.common import peer
from services.common.health import SERVICE_NAME as HEALTH
from services.common.interceptors.chain import Behaviour, Method
from services.common.interceptors.telemetry import outcome


class AccessLog:
    """Logs method, code, duration and peer; health checks at debug level; never a body."""

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour with a line after it."""
        log = structlog.get_logger()
        write = log.debug if method.service == HEALTH else log.info
        path = method.path

        async def logged(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            start = time.perf_counter()
            error: BaseException | None = None
            try:
                return await behaviour(request, context)
            except BaseException as raised:
                error = raised
                raise
            finally:
                write(
                    "rpc",
                    method=path,
                    code=outcome(context, error),
                    duration_ms=round((time.perf_counter() - start) * 1000, 3),
                    peer=peer.current.get() or "",
                )

        return logged
