"""Gives calls that come without a deadline one."""

from typing import Any

from services.common.deadlines import deadline_in
from services.common.errors import DeadlineExceeded
from services.common.interceptors.chain import Behaviour, Method


class Deadline:
    """Ends a unary call without a deadline after a while; gRPC itself enforces a caller's own.

    Streams have none: they have time-outs of their own.

    Args:
        default_s: how long such a call may take.
    """

    def __init__(self, default_s: float) -> None:
        """See the class."""
        self._default_s = default_s

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour with a longest time."""
        if method.streaming:
            return behaviour
        default_s = self._default_s

        async def limited(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
            if context.time_remaining() is not None:
                return await behaviour(request, context)
            try:
                with deadline_in(default_s) as scope:
                    return await behaviour(request, context)
            except TimeoutError:
                if not scope.expired:
                    raise
                msg = f"The call took longer than {default_s:g} s."
                raise DeadlineExceeded(msg) from None

        return limited
