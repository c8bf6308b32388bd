"""How long calls wait for a neighbour that was just lost."""

from collections.abc import Callable

import grpc
import structlog

PATIENCE_S = 5.0
"""For how long calls wait for a neighbour that was just lost: until another is found."""
LONGEST_S = 20.0
"""For how long at most where no name server says which others there are."""
PAUSE_S = 0.05
_OVER_S = 10.0
_IN_BETWEEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)

_log = structlog.get_logger()


class Outage:
    """Tells calls that could not be sent whether to wait: for a neighbour just lost, not for long.

    While one replica leaves, its callers may not have found the next one yet. What was never sent
    can be sent again. When that goes on, everybody is refused at once. It is over when a call
    succeeds: the next replica that leaves is waited for anew, however soon. While name servers are
    silent nobody knows whether there is another, so patience begins when they answer.

    Args:
        connected: whether there is a connection for calls.
        silent: whether the name servers are, now.

    Attributes:
        lasts: whether calls could not be sent, and none succeeded since.
    """

    def __init__(
        self, connected: Callable[[], bool], silent: Callable[[float], bool] = lambda _: False
    ) -> None:
        """Start without one."""
        self._begun = self._since = self._last = self._tell_at = float("-inf")
        self._silent = silent
        self.lasts = False
        self.connected = connected

    def passes(self, now: float) -> bool:
        """Take note that a call could not be sent, and return whether to try again soon."""
        if not self.lasts or now - self._last > _OVER_S:
            self._begun = self._since = now
        elif now - self._begun < LONGEST_S and self._silent(now):
            self._since = now
        self.lasts, self._last = True, now
        return now - self._since < PATIENCE_S

    def succeeded(self, sent: float) -> None:
        """Take note that a call succeeded.

        Args:
            sent: when it was. One from before says nothing: a server that ends lets it go on.
        """
        if sent >= self._begun:
            self.lasts = False

    def tell(self, now: float, error: grpc.aio.AioRpcError) -> None:
        """Log what gRPC says of a call that failed in between, once a second at most.

        Its caller only learns that the neighbour cannot be reached.
        """
        # What the neighbour itself says comes with details, and is told by whoever handles it.
        if error.trailing_metadata() or error.code() not in _IN_BETWEEN or now < self._tell_at:
            return
        self._tell_at = now + 1
        said = (error.details() or "")[:300]
        _log.warning("neighbour_call_failed", code=error.code().name, said=said)
