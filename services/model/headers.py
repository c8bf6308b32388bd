"""Which headers pass between client and provider; everything else stops here.

A client's credentials, cookies and addresses never reach a provider. A provider's cookies, account
names and limits never reach a client: the limits are the account's, which all clients share.
docs/api/dialects.md is the table.
"""

import re
from collections.abc import Iterable, Mapping

from services.model.call import Headers

TO_OPENAI = frozenset({"idempotency-key", "openai-beta", "openai-organization", "openai-project"})
TO_ANTHROPIC = frozenset({"anthropic-beta", "anthropic-version", "idempotency-key"})
FROM_PROVIDER: Mapping[str, str] = {
    "openai-processing-ms": "openai-processing-ms",
    "openai-version": "openai-version",
    "request-id": "x-upstream-request-id",
    "x-request-id": "x-upstream-request-id",
}
_PLAIN = re.compile(r"[\x20-\x7e]{1,1024}")


def to_provider(headers: Headers, names: frozenset[str]) -> Headers:
    """Return the request headers that may pass, with values that cannot break out of a line.

    Args:
        headers: the client's.
        names: those that the provider may see.
    """
    return tuple((name, value) for name, value in headers if name in names and is_plain(value))


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
