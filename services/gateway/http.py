"""What HTTP clients see beside a body: headers in, headers out, errors as trailers.

Request and response headers are gRPC metadata on this side of Envoy. An error's body travels in the
trailing metadata `weaver-error-body`, where a filter in Envoy makes it the response's body.
"""

import ipaddress
import math
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from services.common import logs
from services.common.errors import InvalidArgument, WeaverError
from services.common.peer import peer_name
from services.common.status import http_status
from services.gateway.calls import Call, LimitExceeded, Surface
from services.gateway.events import RecordReference
from services.gateway.limit_headers import limit_headers
from services.gateway.ports import Admission

ERROR_BODY = "weaver-error-body"
HTTP_STATUS = "weaver-http-status"
ENVOY = "envoy"
TOLD = ("provider", "attempts")
"""What an error's facts tell the client, as `x-weaver-` headers."""
IPV4_PREFIX = 24
IPV6_PREFIX = 48

CREDENTIALS = frozenset(("authorization", "x-api-key"))
Metadata = list[tuple[str, str]]
ANTHROPIC = frozenset(("messages", "messages.count_tokens"))
"""The surfaces whose clients read Anthropic's headers."""
LONGEST_RETRY_S = 60.0
"""No client of a vendor sleeps longer before it tries again by itself."""


class Context(Protocol):
    """What the servicers use of gRPC's context."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return what the caller sent."""
        ...

    def peer(self) -> str:
        """Return where the call comes from."""
        ...

    def set_trailing_metadata(self, metadata: Any) -> None:  # noqa: ANN401 - gRPC's
        """Set what is sent after the response."""
        ...

    async def send_initial_metadata(self, metadata: Any) -> None:  # noqa: ANN401 - gRPC's
        """Send what goes before the response."""
        ...


def request_headers(context: Context) -> Callable[[str], str]:
    """Return a look-up of request headers by name; "" for one that is not there."""
    metadata = tuple(context.invocation_metadata() or ())
    headers = {key: value for key, value in metadata if isinstance(value, str)}
    if len(headers) != len(metadata):
        return _several(metadata)

    def header(name: str) -> str:
        return headers.get(name, "")

    return header


def _several(metadata: Iterable[tuple[str, str | bytes]]) -> Callable[[str], str]:
    """Return the same where names repeat: one list of the values, but never two credentials."""
    headers: dict[str, dict[str, None]] = {}
    for key, value in metadata:
        if isinstance(value, str):
            headers.setdefault(key, {})[value] = None

    def header(name: str) -> str:
        values = headers.get(name, ())
        if len(values) > 1 and name in CREDENTIALS:
            raise InvalidArgument.of_field(name, "comes more than once, with different values.")
        return ",".join(values)

    return header


def read_call(
    context: Context, header: Callable[[str], str], surface: Surface, body: bytes, arrived: float
) -> Call:
    """Return a model call as the pipeline sees it."""
    return Call(
        logs.request_id.get(),
        surface,
        body,
        header,
        source_network(context, header),
        logs.trace_id.get(),
        arrived,
    )


def source_network(context: Context, header: Callable[[str], str]) -> str:
    """Return the network that a client is in, cut to /24 or /48; "" when it is not known.

    What Envoy says of the client's address is believed from Envoy alone.
    """
    if peer_name(context) == ENVOY:
        address = header("x-weaver-client-address")
    else:
        kind, _, rest = unquote(context.peer()).partition(":")
        address = rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else ""
    return network(address)


@lru_cache(maxsize=4096)
def network(address: str) -> str:
    """Return the /24 or /48 that an address is in; "" when it is none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    prefix = IPV4_PREFIX if parsed.version == 4 else IPV6_PREFIX  # noqa: PLR2004 - IPv4
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


def response_headers(
    admission: Admission, record: RecordReference | None, surface: str = ""
) -> Metadata:
    """Return the headers that a response carries beside the provider's.

    Args:
        admission: how the limits stand.
        record: where the outcome stands.
        surface: the way in, for the headers of its vendor.
    """
    headers: Metadata = [("x-request-id", logs.request_id.get())]
    if record is not None:
        headers.append(("x-weaver-record", record_header(record)))
    headers += limit_headers(admission.limits, time.time if surface in ANTHROPIC else None)
    return headers


def record_header(record: RecordReference) -> str:
    """Return where a record stands, as the header says it: `<origin> <index>`."""
    return f"{record.origin} {record.index}"


def error_trailers(error: WeaverError, body: bytes) -> Metadata:
    """Return the trailing metadata from which Envoy makes the error response."""
    trailers: Metadata = [
        (HTTP_STATUS, str(http_status(error))),
        (ERROR_BODY, body.decode("ascii")),
        ("x-request-id", logs.request_id.get()),
    ]
    if error.retry_after_s is not None:
        wait_ms = math.ceil(error.retry_after_s * 1000)
        trailers.append(("retry-after", str(max(1, math.ceil(wait_ms / 1000)))))
        trailers.append(("retry-after-ms", str(max(1, wait_ms))))
    for fact in TOLD:
        if fact in error.metadata:
            trailers.append((f"x-weaver-{fact}", error.metadata[fact]))
    if isinstance(error, LimitExceeded):
        wait_s = error.retry_after_s
        if wait_s is None or wait_s > LONGEST_RETRY_S:
            # The vendors' clients repeat a 429 within seconds unless they are told not to.
            trailers.append(("x-should-retry", "false"))
        anthropic_at = time.time if error.surface in ANTHROPIC else None
        trailers += limit_headers(error.admission.limits, anthropic_at)
    return trailers
