"""Log lines: one JSON object each, to standard error, never with a secret in it.

Fields: `timestamp` (RFC 3339, UTC), `level`, `event`, `service`, and `request_id` and `trace_id`
where a request is under way. Lines of the standard library's loggers take the same way.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

from services.common.settings import CommonSettings

request_id: ContextVar[str] = ContextVar("request_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
service: ContextVar[str] = ContextVar("service", default="")


def add_context(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add what is known of the request under way."""
    for name, variable in (
        ("service", service),
        ("request_id", request_id),
        ("trace_id", trace_id),
    ):
        value = variable.get()
        if value and name not in event:
            event[name] = value
    return event


def configure(settings: CommonSettings, service_name: str) -> None:
    """Send all logs of this process to standard error.

    Args:
        settings: gives the level, and whether a terminal gets readable lines.
        service_name: the `service` of lines outside of any request.
    """
    service.set(service_name)
    level = logging.getLevelName(settings.log_level)
    pretty = settings.environment == "development" and sys.stderr.isatty()
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_context,
        structlog.processors.format_exc_info,
    ]
    render: Any = structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
