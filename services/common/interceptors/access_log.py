"""Writes one line for each call, when it is over."""

import time
from typing import Any

from services.common import logs, peer
from services.common.health import SERVICE_NAME as HEALTH
from services.common.interceptors.chain import Behaviour, Method
from services.common.interceptors.telemetry import outcome


class AccessLog:
    """Logs method, code, duration and peer; health checks at debug level; never a body."""

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour with a line after it."""
        level = "debug" if method.service == HEALTH else "info"
        path, clock, line = method.path, time.perf_counter, logs.line

        async def logged(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            start = clock()
            code = "OK"
            try:
                return await behaviour(request, context)
            except BaseException as error:
                code = outcome(context, error)
                raise
            finally:
                line(
                    level,
                    "rpc",
                    method=path,
                    code=code,
                    duration_ms=round((clock() - start) * 1000, 3),
                    peer=peer.current.get() or "",
                )

        return logged if logs.enabled(level) else behaviour
