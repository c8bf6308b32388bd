"""When to try again, and how long to wait before it.

Exponential backoff with full jitter. A provider's own `Retry-After` is obeyed, or, when it asks for
more patience than a caller has, not tried at all. A budget keeps tries in proportion to calls, so
that a provider that is down is not hit by a multiple of what it could not bear.
"""

import random
from collections.abc import Callable

from services.model.failure import ProviderError

_SHORT_S = 1.0
"""The longest `Retry-After` that is obeyed where another target could answer instead."""


class RetryPolicy:
    """How often and how soon a target is tried again.

    Args:
        retries: further tries after the first, for one call.
        base_s: the first wait lies between 0 and this; each further wait up to twice as long.
        cap_s: the longest wait, and the longest `Retry-After` that is obeyed.
        jitter: returns a number from 0 to 1.
    """

    def __init__(
        self,
        retries: int,
        *,
        base_s: float = 0.1,
        cap_s: float = 5.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """See the class."""
        self._retries = retries
        self._base_s = base_s
        self._cap_s = cap_s
        self._jitter = jitter

    def wait_s(
        self,
        failure: ProviderError,
        tries: int,
        left_s: float | None,
        *,
        alternative: bool = False,
    ) -> float | None:
        """Return how long to wait before the next try; None when there is to be none.

        Args:
            failure: how the last try failed.
            tries: how many were made.
            left_s: seconds until the caller's deadline; None without one.
            alternative: whether another target could answer instead, so that patience is short.
        """
        if not failure.retryable or tries > self._retries:
            return None
        wait_s = self._jitter() * min(self._cap_s, self._base_s * 2 ** (tries - 1))
        asked_s = failure.error.retry_after_s
        if asked_s is not None:
            if asked_s > (min(_SHORT_S, self._cap_s) if alternative else self._cap_s):
                return None
            wait_s += asked_s
        return None if left_s is not None and wait_s >= left_s else wait_s


class RetryBudget:
    """How many further tries the calls of a route have earned.

    Args:
        share: of a further try that each call earns.
        per_s: further tries that each second earns, whatever the load.
        most: that can be saved.
    """

    def __init__(self, share: float = 0.2, per_s: float = 10.0, most: float = 100.0) -> None:
        """Begin with all that can be saved."""
        self._share = share
        self._per_s = per_s
        self._most = most
        self._saved = most
        self._at = 0.0

    def earn(self) -> None:
        """Take note of a call."""
        if self._saved < self._most:
            self._saved += self._share

    def spend(self, now: float) -> bool:
        """Return whether one more try is in the budget, and take it out.

        Args:
            now: monotonic seconds.
        """
        earned = (now - self._at) * self._per_s if self._at else 0.0
        self._at = now
        self._saved = min(self._most, self._saved + earned)
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
