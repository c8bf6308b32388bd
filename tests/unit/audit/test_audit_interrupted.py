"""Intents that get no outcome: known from the start, or after a while."""

from prometheus_client import CollectorRegistry

from services.audit.verification.interrupted import GRACE_S, InterruptedIntents
from tests.fakes.keyring import MovedClock


def test_an_intent_counts_when_its_outcome_is_overdue() -> None:
    clock, registry = MovedClock(), CollectorRegistry()
    intents = InterruptedIntents(clock)
    registry.register(intents)

    def count() -> float | None:
        return registry.get_sample_value("audit_interrupted_intents")

    assert count() is None  # A start looks like no change.
    intents.look([3])
    assert count() == 1
    intents.look([3, 9])
    assert count() == 1  # It may well be under way.
    clock.day(0, GRACE_S)
    intents.look([3, 9, 12])
    assert count() == 2
    intents.look([12])
    assert count() == 0
