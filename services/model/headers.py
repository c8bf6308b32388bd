"""Which headers pass between client and provider; everything else stops here.

A client's credentials, cookies and addresses never reach a provider. A provider's cookies, account
names and limits never reach a client.
"""

import re
from collections.abc import Iterable, Mapping

from services.model.call import Headers

TO_PROVIDER = frozenset({"idempotency-key", "openai-beta", "openai-organization", "openai-project"})
FROM_PROVIDER: Mapping[str, str] = {
    "openai-processing-ms": "openai-processing-ms",
    "openai-version": "openai-version",
    "x-request-id": "x-upstream-request-id",
}
_PLAIN = re.compile(r"[\x20-\x7e]{1,1024}")


def to_provider(headers: Headers) -> Headers:
    """Return the request headers that may pass, with values that cannot break out of a line."""
    return tuple(
        (name, value) for name, value in headers if name in TO_PROVIDER and is_plain(value)
    )


def from_provider(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the response headers that may pass, by the name that the client sees."""
    return tuple(
        (FROM_PROVIDER[name], value)
        for name, value in headers
        if name in FROM_PROVIDER and is_plain(value)
    )


def is_plain(value: str) -> bool:
    """Whether a value is printable ASCII of a sensible length."""
    return _PLAIN.fullmatch(value) is not None
