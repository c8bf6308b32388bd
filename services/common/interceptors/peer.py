"""Lets in the peers that a listener is for, by the name in their certificate."""

from collections.abc import Collection
from typing import Any

from services.common.errors import PermissionDenied
from services.common.health import SERVICE_NAME as HEALTH
from services.common.interceptors.chain import Behaviour, Method
from services.common.peer import current, name_from_certificate, name_from_metadata


class Peer:
    """Sets the name of the peer, and refuses one that is not on the list.

    Health answers any peer that the listener's TLS let in.

    Args:
        allowed: names that may call; None lets anyone in, with or without a name.
        name: what every peer of this listener is, where the listener itself settles it; empty for
            nobody in particular.
        believe_metadata: take the name from metadata: mutual TLS is off, in development.
    """

    def __init__(
        self,
        allowed: Collection[str] | None,
        *,
        name: str | None = None,
        believe_metadata: bool = False,
    ) -> None:
        """See the class."""
        self._allowed = None if allowed is None else frozenset(allowed)
        self._name = name
        self._believe_metadata = believe_metadata

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour for allowed peers only."""
        allowed = None if method.service == HEALTH else self._allowed
        fixed, believe_metadata = self._name, self._believe_metadata

        async def checked(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            if fixed is not None:
                name = fixed
            elif believe_metadata:
                name = name_from_metadata(context.invocation_metadata())
            else:
                name = name_from_certificate(context.auth_context())
            current.set(name)
            if allowed is not None and name not in allowed:
                msg = "This peer is not on the list of allowed clients."
                raise PermissionDenied(msg, reason="PEER_NOT_ALLOWED")
            return await behaviour(request, context)

        return checked
