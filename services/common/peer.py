"""Who calls: the service name in the caller's certificate.

A certificate names its service by the URI `spiffe://weaver/<name>`. The name decides what a caller
may ask for, so nothing else is believed: not an address, not a header, except where mutual TLS is
switched off for development.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

TRUST_DOMAIN = "spiffe://weaver/"
INSECURE_HEADER = "x-weaver-peer"

current: ContextVar[str | None] = ContextVar("peer", default=None)
"""The peer of the RPC under way, set by the peer interceptor."""


def peer_name(context: Any) -> str:  # noqa: ANN401 - a grpc.aio or a local context
    """Return the caller's service name, such as `gateway`; empty for a caller that has none."""
    local: str | None = getattr(context, "peer_name", None)
    if local is not None:
        return local
    known = current.get()
    return known if known is not None else name_from_certificate(context.auth_context())


def name_from_certificate(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Return the service name of a verified certificate; empty without exactly one."""
    names = {
        uri.decode("ascii", "replace").removeprefix(TRUST_DOMAIN)
        for uri in auth_context.get("peer_uri", ())
        if uri.startswith(TRUST_DOMAIN.encode())
    }
    return names.pop() if len(names) == 1 else ""


def name_from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the name that a caller claims; only for development without mutual TLS."""
    for key, value in metadata:
        if key == INSECURE_HEADER and isinstance(value, str):
            return value
    return ""
