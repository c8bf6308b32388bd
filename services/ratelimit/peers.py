"""Which peer may ask which of the two services for what."""

from typing import Any

from services.common.errors import PermissionDenied
from services.common.peer import peer_name


def allowed_peer(context: Any, clients: frozenset[str]) -> str:  # noqa: ANN401 - gRPC's
    """Return the name of a peer that may call.

    Raises:
        PermissionDenied: it may not.
    """
    peer = peer_name(context)
    if peer not in clients:
        msg = "This peer is not on the list of allowed clients of this service."
        raise PermissionDenied(msg, reason="PEER_NOT_ALLOWED")
    return peer
