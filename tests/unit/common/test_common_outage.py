"""How long calls wait for a neighbour that was just lost."""

from services.common.outage import LONGEST_S, PATIENCE_S, Outage


def test_calls_wait_for_a_while_and_then_no_more() -> None:
    outage = Outage(lambda: False)
    assert outage.passes(100)
    assert outage.passes(100 + PATIENCE_S - 0.1)
    assert not outage.passes(100 + PATIENCE_S)
    assert not outage.passes(109), "all are refused at once"


def test_the_next_replica_that_leaves_is_waited_for_anew() -> None:
    """Replicas that are replaced one after the other leave less than ten seconds apart."""
    outage = Outage(lambda: False)
    assert outage.passes(100)
    outage.succeeded(100.1)
    assert not outage.lasts
    assert outage.passes(109)
    assert outage.passes(109 + PATIENCE_S - 0.1)


def test_a_call_from_before_does_not_end_an_outage() -> None:
    outage = Outage(lambda: False)
    assert outage.passes(100)
    outage.succeeded(99)
    assert outage.lasts
    assert not outage.passes(100 + PATIENCE_S)


def test_an_outage_that_nobody_noticed_for_long_is_over() -> None:
    outage = Outage(lambda: False)
    assert outage.passes(100)
    assert outage.passes(120)


def test_patience_begins_when_name_servers_answer() -> None:
    silent = True
    outage = Outage(lambda: False, lambda _: silent)
    assert all(outage.passes(100 + second) for second in range(11))
    silent = False
    assert outage.passes(110 + PATIENCE_S - 0.1)
    assert not outage.passes(110 + PATIENCE_S)


def test_silent_name_servers_are_not_waited_for_for_ever() -> None:
    outage = Outage(lambda: False, lambda _: True)
    last = int(LONGEST_S + PATIENCE_S) - 1
    assert all(outage.passes(100 + second) for second in range(last))
    assert not outage.passes(100 + LONGEST_S + PATIENCE_S)
