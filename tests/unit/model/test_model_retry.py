"""When to try again."""

import pytest

from services.common.errors import ResourceExhausted
from services.model.failure import ProviderError, failed
from services.model.retry import RetryPolicy


def _throttled(retry_after_s: float | None) -> ProviderError:
    return ProviderError(ResourceExhausted("x", retry_after_s=retry_after_s), retryable=True)


def test_waits_grow_up_to_the_cap_with_full_jitter() -> None:
    policy = RetryPolicy(9, base_s=0.1, cap_s=0.5, jitter=lambda: 1.0)

    waits = [policy.wait_s(failed("x"), tries, None) for tries in (1, 2, 3, 4, 5)]

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert RetryPolicy(1, jitter=lambda: 0.0).wait_s(failed("x"), 1, None) == 0


def test_the_budget_ends_the_tries() -> None:
    policy = RetryPolicy(2)

    assert policy.wait_s(failed("x"), 2, None) is not None
    assert policy.wait_s(failed("x"), 3, None) is None


def test_what_cannot_pass_by_itself_is_not_tried_again() -> None:
    assert RetryPolicy(2).wait_s(failed("x", retryable=False), 1, None) is None


def test_no_wait_goes_beyond_the_deadline() -> None:
    policy = RetryPolicy(2, base_s=1, jitter=lambda: 1.0)

    assert policy.wait_s(failed("x"), 1, 0.9) is None
    assert policy.wait_s(failed("x"), 1, 1.1) == 1


def test_retry_after_is_obeyed_or_not_tried_at_all() -> None:
    policy = RetryPolicy(2, cap_s=5, jitter=lambda: 0.0)

    assert policy.wait_s(_throttled(3), 1, None) == 3
    assert policy.wait_s(_throttled(None), 1, None) == 0
    assert policy.wait_s(_throttled(6), 1, None) is None
