"""The store in memory forgets what it may, and stays within its size."""

from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.policy import Policy
from services.ratelimit.ports import Operation, Status, Verb
from services.ratelimit.rule import RuleSet

POLICY = Policy.from_limits(rps=1, burst=1)


class TurnableClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 50.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


async def reserve(store: MemoryStore, subject: str) -> Status:
    own = RuleSet(POLICY.rules)
    amounts = own.amounts(requests=1)
    operation = Operation(Verb.RESERVE, subject.encode(), bytes(16), own, amounts, 1000)
    (outcome,) = await store.apply([operation])
    return outcome.status


async def test_it_never_holds_more_accounts_than_it_may() -> None:
    store = MemoryStore(TurnableClock(), max_accounts=10)
    for number in range(100):
        assert await reserve(store, f"k{number}") is Status.DONE
    assert len(store) == 10


async def test_it_forgets_accounts_that_are_idle() -> None:
    clock = TurnableClock()
    store = MemoryStore(clock)
    for number in range(10):
        await reserve(store, f"k{number}")
    clock.now += 60
    await reserve(store, "late")
    assert len(store) == 1


async def test_one_replica_enforces_its_share() -> None:
    share = Policy.from_limits(rps=10, burst=20, tokens_per_minute=600).share(4)
    requests, tokens = share.rules
    assert (requests.rate_per_s, requests.burst) == (2.5, 5)
    assert (tokens.rate_per_s, tokens.burst) == (2.5, 150)
    assert Policy.from_limits(rps=1, burst=2).share(5).rules[0].burst == 1
