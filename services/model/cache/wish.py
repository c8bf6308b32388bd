"""Whether a request may be answered from the cache, and how old such an answer may be.

A request at temperature 0 may, and any other when its caller says so in `cache-control`, as in RFC
9111, section 5.2.1. What leaves something at the provider never may: a second request would not.
"""

from typing import Any, Final

import msgspec

from services.model.call import UNREADABLE, Call, Dialect, Headers

CACHE_CONTROL: Final = "cache-control"
_KEEPING: Final = frozenset(
    {
        Dialect.OPENAI_CHAT,
        Dialect.OPENAI_RESPONSES,
        Dialect.OPENAI_EMBEDDINGS,
        Dialect.ANTHROPIC_MESSAGES,
    }
)
_OF_THE_CLIENT: Final = frozenset({"function", "custom"})


class _Tool(msgspec.Struct):
    type: Any = None


class _Request(msgspec.Struct):
    temperature: Any = None
    store: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    container: Any = None
    mcp_servers: Any = None
    web_search_options: Any = None
    tools: list[_Tool] | None = None


_decode = msgspec.json.Decoder(_Request).decode


def oldest_s(call: Call, time_to_live_s: float) -> float | None:
    """Return how old an answer may be at most, 0 for a new one; None leaves the cache out of it.

    Args:
        call: as its caller made it.
        time_to_live_s: how long answers are kept.
    """
    if call.dialect not in _KEEPING or not all(call.caller):
        return None
    directives = _directives(call.headers)
    asked = directives.get("max-age")
    if "no-store" in directives or (asked is None and b'"temperature"' not in call.body):
        return None
    try:
        request = _decode(call.body)
    except UNREADABLE:
        return None
    deterministic = _is_zero(request.temperature) and _is_closed(request)
    if _leaves_something(request, call.dialect) or (asked is None and not deterministic):
        return None
    if "no-cache" in directives:
        return 0.0
    return time_to_live_s if asked is None else min(asked, time_to_live_s)


def _directives(headers: Headers) -> dict[str, float | None]:
    """Return the directives of `cache-control`; one that makes no sense is as if not there."""
    found: dict[str, float | None] = {}
    for name, value in headers:
        if name != CACHE_CONTROL:
            continue
        for part in value.lower().split(","):
            directive, _, argument = part.strip().partition("=")
            argument = argument.strip('"')
            if argument.isascii() and argument.isdecimal():
                found[directive] = float(argument[:12])
            elif directive != "max-age":
                found[directive] = None
    return found


def _leaves_something(request: _Request, dialect: Dialect) -> bool:
    """Whether the provider keeps something of a request, or knows something that is not in it."""
    if dialect is Dialect.OPENAI_RESPONSES and request.store is not False:
        return True
    return bool(
        request.store
        or request.conversation
        or request.previous_response_id
        or request.container
        or request.mcp_servers
    )


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _is_closed(request: _Request) -> bool:
    """Whether nothing of the world, such as a search, goes into the answer."""
    return not request.web_search_options and all(
        tool.type is None or (isinstance(tool.type, str) and tool.type in _OF_THE_CLIENT)
        for tool in request.tools or ()
    )
