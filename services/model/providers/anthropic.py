"""Anthropic's API, and every server that speaks it.

Bodies go out as they came, and come back as the provider sent them.
"""

from collections.abc import Mapping

from services.common.clock import Clock
from services.model.anthropic_messages import StreamWatch, read_answer, read_count
from services.model.call import Answer, Call, Dialect, Headers
from services.model.event_stream import EventStream
from services.model.headers import TO_ANTHROPIC, to_provider
from services.model.upstream import Endpoint
from services.model.vendor import Vendor, request_id_headers

VERSION = "2023-06-01"
_PATHS: Mapping[Dialect, str] = {
    Dialect.ANTHROPIC_MESSAGES: "/messages",
    Dialect.ANTHROPIC_COUNT_TOKENS: "/messages/count_tokens",
}


class Anthropic:
    """A server with Anthropic's API.

    Args:
        endpoint: its base URL, version included, with the credential among its headers.
        clock: for `Retry-After` dates.
        name: the provider's name in settings, records, metrics and health.
    """

    dialects = frozenset(_PATHS)

    def __init__(self, endpoint: Endpoint, clock: Clock, *, name: str = "anthropic") -> None:
        """See the class."""
        self.name = name
        self._vendor = Vendor(endpoint, clock)

    async def generate(self, call: Call) -> Answer:
        """Return the whole answer."""
        read = read_answer if call.dialect is Dialect.ANTHROPIC_MESSAGES else read_count
        return await self._vendor.whole(
            _PATHS[call.dialect], call.body, _request_headers(call), read
        )

    async def open(self, call: Call) -> EventStream:
        """Return the answer as a stream, once its first event is here."""
        path = _PATHS[call.dialect]
        return await self._vendor.streamed(path, call.body, _request_headers(call), StreamWatch())


def _request_headers(call: Call) -> Headers:
    headers = to_provider(call.headers, TO_ANTHROPIC)
    if not any(name == "anthropic-version" for name, _ in headers):
        headers += (("anthropic-version", VERSION),)
    return headers + request_id_headers(call, "x-request-id")
