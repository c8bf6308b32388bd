"""When to try again, and how long to wait before it.

Exponential backoff with full jitter. A provider's own `Retry-After` is obeyed, or, when it asks for
more patience than a caller has, not tried at all.
"""

import random
from collections.abc import Callable

from services.model.failure import ProviderError


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

    def wait_s(self, failure: ProviderError, tries: int, left_s: float | None) -> float | None:
        """Return how long to wait before the next try; None when there is to be none.

        Args:
            failure: how the last try failed.
            tries: how many were made.
            left_s: seconds until the caller's deadline; None without one.
        """
        if not failure.retryable or tries > self._retries:
            return None
        wait_s = self._jitter() * min(self._cap_s, self._base_s * 2 ** (tries - 1))
        asked_s = failure.error.retry_after_s
        if asked_s is not None:
            if asked_s > self._cap_s:
                return None
            wait_s += asked_s
        return None if left_s is not None and wait_s >= left_s else wait_s
