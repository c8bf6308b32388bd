"""Log lines: one JSON object each, to standard error, never with a secret in it.

Fields: `timestamp` (RFC 3339, UTC), `level`, `event`, `service`, and `request_id` and `trace_id`
where a request is under way. Lines of the standard library's loggers take the same way. Whoever
logs still must not hand over bodies or credentials; the redaction here is the net below.
"""

import atexit
import datetime as dt
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from services.common.lines import LineWriter
from services.common.settings import CommonSettings

request_id: ContextVar[str] = ContextVar("request_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
service: ContextVar[str] = ContextVar("service", default="")

REDACTED: Final = "[redacted]"
_SECRET_KEY = re.compile(
    r"authorization|cookie|passw|passphrase|secret|credential|private.?key|signing.?key"
    r"|api.?key|bearer|(?:^|[_-])(?:token|jwt|pem|dsn)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|\bsk-[A-Za-z0-9_-]{8,}"
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)",
    re.IGNORECASE | re.DOTALL,
)
# Looking for these first spares the expression above on nearly every value.
_HINTS = ("-----BEGIN ", "earer", "asic", "EARER", "ASIC", "eyJ", "sk-", "://")
_DEPTH = 6

# The exporter complains with each batch while the collector is down.
_REPETITIVE = "opentelemetry."
_REPEAT_S = 60.0

# gRPC logs a header that is not UTF-8, whatever header it is, with its whole value.
_HEADERS_LOGGED_BY = "grpc."

Event = MutableMapping[str, Any]


def redact(_: object, __: str, event: Event) -> Event:
    """Blank values under keys that look secret, and secrets within values."""
    for key, value in event.items():
        event[key] = _clean(key, value, _DEPTH)
    return event


_key_is_secret: dict[str, bool] = {}
_KEYS_REMEMBERED = 4096


def _clean(key: str, value: Any, depth: int) -> Any:  # noqa: ANN401 - log values are of any type
    secret = _key_is_secret.get(key)
    if secret is None:
        secret = _SECRET_KEY.search(key) is not None
        if len(_key_is_secret) < _KEYS_REMEMBERED:
            _key_is_secret[key] = secret
    if secret:
        return REDACTED
    kind = type(value)
    if kind is str:
        return clean_text(value)
    if kind is int or kind is float or kind is bool or value is None:
        return value
    return _clean_nested(value, depth)


def _clean_nested(value: object, depth: int) -> object:
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {str(name): _clean(str(name), item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item, depth - 1) for item in value]
    return clean_text(str(value) if isinstance(value, str) else repr(value))


def clean_text(text: str) -> str:
    """Blank what looks like a private key, a token or a password in a text."""
    for hint in _HINTS:
        if hint in text:
            return _SECRET_VALUE.sub(REDACTED, text)
    return text


def stamp(_: object, level: str, event: Event) -> Event:
    """Put time, level and event first, then what is known of the request under way."""
    line: Event = {
        "timestamp": _timestamp(time.time()),
        "level": "error" if level == "exception" else level,
        "event": event.pop("event", ""),
        "service": service.get(),
    }
    request = request_id.get()
    if request:
        line["request_id"] = request
        line["trace_id"] = trace_id.get()
    line.update(event)
    return line


def _timestamp(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).isoformat(timespec="microseconds")[:-6] + "Z"


_encode = msgspec.json.Encoder(enc_hook=repr).encode


def render(_: object, __: str, event: Event) -> bytes:
    """Return an event as one line of JSON."""
    return _encode(event)


class _Output:
    """What structlog calls with a finished line; each level is a method."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.msg = writer.later
        self.warning = self.error = self.critical = self.fatal = writer.now
        self.exception = self.warn = self.err = self.failure = writer.now


@dataclass
class _Quick:
    """How `line` writes; nowhere until the logs are configured."""

    writer: LineWriter | None = None
    level: int = logging.INFO


_quick = _Quick()


def enabled(level: str) -> bool:
    """Return whether lines of a level are written."""
    return logging.getLevelNamesMapping()[level.upper()] >= _quick.level


def line(level: str, event: str, **fields: str | float) -> None:
    """Write a line by the shortest way, for what happens on each call.

    The fields must be harmless: they are not looked through for secrets.
    """
    writer = _quick.writer
    if writer is not None:
        line: dict[str, Any] = {
            "timestamp": time.time(),
            "level": level,
            "event": event,
            "service": service.get(),
            "request_id": request_id.get(),
            "trace_id": trace_id.get(),
        }
        line.update(fields)
        writer.later(line)


def configure(settings: CommonSettings, service_name: str) -> None:
    """Send all logs of this process to standard error.

    Args:
        settings: gives the level, and whether a terminal gets readable lines.
        service_name: the `service` of lines outside of any request.
    """
    service.set(service_name)
    level = logging.getLevelName(settings.log_level)
    final: Callable[[Any, Any, Any], bytes] = render
    if settings.environment == "development" and sys.stderr.isatty():
        # The default shows local variables of an exception's frames.
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

        def final(logger: object, name: str, event: Event) -> bytes:
            return str(console(logger, name, event)).encode()

    def finish(event: dict[str, Any]) -> bytes:
        event["timestamp"] = _timestamp(event["timestamp"])
        return final(None, event["level"], event)

    writer = LineWriter(sys.stderr.buffer, finish)
    atexit.register(writer.flush)
    output = _Output(writer)
    _quick.writer, _quick.level = writer, level
    structlog.configure(
        processors=[stamp, structlog.processors.format_exc_info, redact, final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardLibrary()]
    root.setLevel(max(level, logging.INFO))


class _StandardLibrary(logging.Handler):
    """Passes lines of the standard library's loggers on."""

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        self._log = structlog.get_logger()
        self._last: dict[tuple[str, int], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record as an event of its logger."""
        if record.name.startswith(_REPETITIVE) and not self._due(record):
            return
        if record.name.startswith(_HEADERS_LOGGED_BY) and _has_bytes(record):
            return
        try:
            self._log.log(
                record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001 - logging must not break what logs
            self.handleError(record)

    def _due(self, record: logging.LogRecord) -> bool:
        place = record.name, record.lineno
        if record.created - self._last.get(place, 0.0) < _REPEAT_S:
            return False
        self._last[place] = record.created
        return True


def _has_bytes(record: logging.LogRecord) -> bool:
    return isinstance(record.args, tuple) and any(isinstance(arg, bytes) for arg in record.args)
