"""From a public model name to the targets that can answer for it, in the order of trying them.

A route knows what a model costs, how long its context is and who may use it. It refuses names that
nobody declared.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from services.common.errors import NotFound, Unimplemented
from services.model.breaker import Breaker
from services.model.call import Dialect
from services.model.gate import Gate
from services.model.ports import Provider
from services.model.retry import RetryBudget, RetryPolicy
from services.model.usage import Prices

STAR = "*"


class Target(msgspec.Struct, frozen=True):
    """One provider and the name by which it knows the model.

    Args:
        provider: where it is asked.
        model: the name there; a star stands for what the star of the route's name matched.
        prices: what its tokens cost.
        weight: neighbours with a weight share the calls by it; 0 keeps its place in the order.
        breaker: whether it rests.
        gate: how many calls are there.
    """

    provider: Provider
    model: str
    prices: Prices = Prices()
    weight: int = 0
    breaker: Breaker = msgspec.field(default_factory=Breaker)
    gate: Gate = msgspec.field(default_factory=Gate)


class Route(msgspec.Struct, frozen=True):
    """A public model, or a pattern of names.

    Args:
        name: what clients call it; one star stands for any text.
        targets: in the order in which they are tried; never empty.
        context_tokens: prompt and answer together; 0 when not known.
        max_output_tokens: the longest answer; 0 when not known.
        created: when it was declared, in Unix seconds; 0 when not known.
        roles: of which a caller must have one; empty for everybody.
        capabilities: what it can do, to which requests are held; empty when not known.
        retries: when its targets are tried again; None for the deployment's rule.
        total_s: the longest that a call may take, a stream too; None for the caller's deadline.
        budget: what is left for trying again.
        fingerprint: of who is asked by it, and for what; the same after a reload that changes
            nothing about that.
    """

    name: str
    targets: tuple[Target, ...]
    context_tokens: int = 0
    max_output_tokens: int = 0
    created: int = 0
    roles: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    retries: RetryPolicy | None = None
    total_s: float | None = None
    budget: RetryBudget = msgspec.field(default_factory=RetryBudget)
    fingerprint: bytes = b""

    @property
    def dialects(self) -> frozenset[Dialect]:
        """The dialects that can reach it."""
        return frozenset().union(*(target.provider.dialects for target in self.targets))

    @property
    def dearest(self) -> Prices:
        """The highest prices among its targets, for a bound that holds whichever answers."""
        prices = [target.prices for target in self.targets]
        if all(price == prices[0] for price in prices):
            return prices[0]
        names = sorted({price.name for price in prices if price.name})
        return Prices(
            max(price.input_micros for price in prices),
            max(price.output_micros for price in prices),
            cache_write_micros=max(price.cache_write_micros or 0 for price in prices) or None,
            name="+".join(names)[:100],
        )

    def targets_for(self, dialect: Dialect) -> tuple[Target, ...]:
        """Return the targets that speak a dialect.

        Raises:
            Unimplemented: none does.
        """
        found = tuple(target for target in self.targets if dialect in target.provider.dialects)
        if not found:
            msg = f"The model {self.name!r} cannot be reached through {dialect.value}."
            raise Unimplemented(msg)
        return found

    def order(
        self, dialect: Dialect, now: float, draw: Callable[[], float] = random.random
    ) -> Sequence[Target]:
        """Return the targets that speak a dialect, in the order in which to try them this time.

        Those that rest, are full, or asked for patience come last.

        Args:
            dialect: what the call is written in.
            now: monotonic seconds.
            draw: returns a number from 0 to 1.

        Raises:
            Unimplemented: none speaks it.
        """
        if len(self.targets) == 1 and dialect in self.targets[0].provider.dialects:
            return self.targets
        targets = self.targets_for(dialect)
        ready: list[Target] = []
        others: list[Target] = []
        for target in _shuffled(targets, draw):
            well = target.breaker.ready(now) and not target.gate.full
            (ready if well else others).append(target)
        return [*ready, *others]

    def name_at(self, target: Target, model: str) -> str:
        """Return how a target knows a public name that this route matches."""
        if STAR not in target.model:
            return target.model
        before, star, after = self.name.partition(STAR)
        matched = model[len(before) : len(model) - len(after)] if star else model
        return target.model.replace(STAR, matched)


class Routes:
    """Every public model, sorted by name; then the patterns, the most exact first."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Take the routes; of two with one name the later holds."""
        named = {route.name: route for route in sorted(routes, key=lambda route: route.name)}
        self._routes = {name: route for name, route in named.items() if STAR not in name}
        patterns = [route for name, route in named.items() if STAR in name]
        patterns.sort(key=lambda route: len(route.name), reverse=True)
        self._patterns = [(re.compile(_expression(route.name)), route) for route in patterns]

    def __iter__(self) -> Iterator[Route]:
        """Return them in order."""
        yield from self._routes.values()
        yield from (route for _, route in self._patterns)

    def find(self, model: str) -> Route:
        """Return the route of a public name.

        Raises:
            NotFound: nobody declared it.
        """
        route = self._routes.get(model)
        if route is not None:
            return route
        for expression, pattern in self._patterns:
            if expression.fullmatch(model):
                return pattern
        msg = f"The model {model[:100]!r} does not exist."
        raise NotFound(msg, reason="MODEL_NOT_FOUND")


def _expression(name: str) -> str:
    return ".+".join(re.escape(part) for part in name.split(STAR))


def _shuffled(targets: Sequence[Target], draw: Callable[[], float]) -> Iterator[Target]:
    """Return targets in order, neighbours with weights drawn by them (Efraimidis and Spirakis)."""
    group: list[tuple[float, int, Target]] = []
    for number, target in enumerate(targets):
        if target.weight:
            group.append((draw() ** (1 / target.weight), number, target))
            continue
        yield from (drawn for *_, drawn in sorted(group, key=_by_luck))
        group.clear()
        yield target
    yield from (drawn for *_, drawn in sorted(group, key=_by_luck))


def _by_luck(drawn: tuple[float, int, Target]) -> float:
    return -drawn[0]
